// The note that an environment's file is damaged, or may be: whatever ends the process because of it leaves one in the
// directory, and no environment with a note is opened. Owns the file DAMAGED; who looks into the matter, and takes the
// note away, is a `ClosedEnvironment`.

internal import CFaultNote
internal import CLMDB
import Glibc

enum DamageNote {
    static let fileName = "DAMAGED"

    /// LMDB found its own structure broken. It aborts the process when this returns.
    static let assertionFailed: @convention(c) (OpaquePointer?, UnsafePointer<CChar>?) -> Void = { handle, message in
        var path: UnsafePointer<CChar>?
        guard let handle, mdb_env_get_path(handle, &path) == MDB_SUCCESS, let path, let message else { return }
        // The disk may be the one that fails.
        bifrost_fault_limit_time()
        write(String(cString: message), in: String(cString: path))
        bifrost_fault_lift_limit()
    }

    /// The note that is there stays.
    static func write(_ text: String, in path: String) {
        let descriptor = open(path + "/" + fileName, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { return }
        _ = text.withCString { Glibc.write(descriptor, $0, strlen($0)) }
        _ = fsync(descriptor)
        _ = close(descriptor)
        let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        _ = fsync(directory)
        _ = close(directory)
    }

    static func check(path: String) throws(LMDBError) {
        guard access(path + "/" + fileName, F_OK) == 0 else { return }
        throw LMDBError(
            .corrupted, number: MDB_CORRUPTED, operation: "open", path: path,
            detail:
                "an earlier process ended at damage in it (see the file \(fileName)); 'bifrost serve' looks through it")
    }

    private static let textBytesMax = 4_096

    /// What it says; nil: there is none.
    static func text(in path: String) throws(LMDBError) -> String? {
        let descriptor = open(path + "/" + fileName, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw systemError("open \(fileName)", path: path)
        }
        defer { close(descriptor) }
        let bytes = [UInt8](unsafeUninitializedCapacity: textBytesMax) { buffer, count in
            count = max(0, pread(descriptor, buffer.baseAddress, buffer.count, 0))
        }
        return String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    /// Durably.
    static func remove(in path: String) throws(LMDBError) {
        guard unlink(path + "/" + fileName) == 0 || errno == ENOENT else {
            throw systemError("remove \(fileName)", path: path)
        }
        try EnvironmentFile.syncDirectory(path)
    }
}

extension Environment {
    /// From now on, when an access to an open environment's file ends this process (SIGBUS at a page that can't be read,
    /// SIGSEGV behind a damaged one), that is said on standard error, the environment is named, and it gets a note. The
    /// process then ends as it would have. Changes what the process does at these two signals, once and for good: for a
    /// program, not for a library.
    public static func noteFaults() { bifrost_fault_install() }
}

/// An environment that is open, as the handler of faults knows it.
struct FaultWatch: ~Copyable {
    private let number: Int32

    /// Above 32 at a time, and beyond the longest path, nothing is noted.
    init(directory: String) {
        guard let real = realpath(directory, nil) else {
            number = -1
            return
        }
        defer { free(real) }
        let path = String(cString: real)
        number = bifrost_fault_watch(path, path + "/" + EnvironmentFile.name, path + "/" + DamageNote.fileName)
    }

    deinit { bifrost_fault_forget(number) }
}
