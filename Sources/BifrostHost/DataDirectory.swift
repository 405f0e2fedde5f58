// What lies where in a host's data directory, and the copy of the cluster map that a restart begins with.

import Foundation
import Primitives
import Ring

/// Something that keeps a host from starting, with what to do about it.
public struct HostError: Error, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The directory is held by another process, of another cluster or format, or not writable.
        case directory
        /// The address can't be listened on.
        case address
        /// The disk failed; nothing may be believed until the process is started anew.
        case disk
        /// There is no space or no file descriptor left now; nothing was changed.
        case exhausted
        /// What was asked for makes no sense here.
        case invalid
    }
    public var code: Code
    public var message: String
    public init(_ code: Code, _ message: String) { self.code = code; self.message = message }
    public var description: String { message }
}

/// Paths below a host's directory:
///
///     journal/      LMDB environment: identity, logs of all groups; held (flock) by the process that serves
///     store/        LMDB environment: manifests and runs of all replicas; held likewise
///     cluster-map   the last cluster map seen: ClusterMapFile
///     RESTORING     while a restoration fills the directory; no host starts there
struct DataDirectory: Sendable {
    let path: String

    var journal: String { path + "/journal" }
    var store: String { path + "/store" }
    private var mapFile: String { path + "/cluster-map" }
    private static let restorationMark = "RESTORING"
    private static let ownNames = ["journal", "store", "cluster-map", "cluster-map.new", restorationMark]

    /// Makes what is missing, unless the directory is somebody else's.
    init(path: String) throws {
        self.path = path
        var isDirectory: ObjCBool = false
        if FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory), !isDirectory.boolValue {
            throw HostError(.directory, "\(path) is a file; expected a directory, or nothing, there")
        }
        let foreign = Self.foreignFiles(in: path)
        guard foreign.isEmpty else {
            let names = foreign.prefix(3).joined(separator: ", ") + (foreign.count > 3 ? ", …" : "")
            throw HostError(
                .directory,
                "\(path) has files of others (\(names)) and none of a host: name a directory that is empty or missing, "
                    + "as \(path)/bifrost, and it will be made")
        }
        do {
            for directory in [path, path + "/journal", path + "/store"] {
                try FileManager.default.createDirectory(
                    atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            }
        } catch {
            throw HostError(.directory, "can't make the data directory \(path): \(error.localizedDescription)")
        }
    }

    /// What is in the directory, if none of it is a host's.
    private static func foreignFiles(in path: String) -> [String] {
        // A disk's own directory has `lost+found` from the beginning.
        let files = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { $0 != "lost+found" }
        return files.contains(where: ["journal", "store", "cluster-map", restorationMark].contains)
            ? [] : files.sorted()
    }

    // MARK: Restoration

    /// A restoration began here and did not come to its end.
    var isBeingRestored: Bool { FileManager.default.fileExists(atPath: path + "/" + Self.restorationMark) }

    /// Makes an empty directory that says so: of nothing, of an empty one, or of what an interrupted restoration left.
    /// Returns the descriptor of its mark, which holds it for this restoration until it is closed.
    static func prepareForRestoration(_ path: String) throws -> Int32 {
        let files = FileManager.default
        func names() -> [String] {
            ((try? files.contentsOfDirectory(atPath: path)) ?? []).filter { $0 != "lost+found" }.sorted()
        }
        do {
            try files.createDirectory(
                atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            let found = names()
            let isMarked = found.contains(restorationMark)
            let foreign = isMarked ? found.filter { !ownNames.contains($0) } : found
            guard foreign.isEmpty else { throw HostError(.directory, notEmpty(path, foreign)) }
            let descriptor = try holdMark(path + "/" + restorationMark, isThere: isMarked)
            do {
                // The mark is there as long as anything is.
                for name in found where name != restorationMark { try files.removeItem(atPath: path + "/" + name) }
                try sync(path)
                let parent = (path as NSString).deletingLastPathComponent
                try sync(parent.isEmpty ? "." : parent)
            } catch {
                close(descriptor)
                throw error
            }
            return descriptor
        } catch let error as HostError {
            throw error
        } catch {
            throw HostError(.directory, "can't make the data directory \(path): \(error.localizedDescription)")
        }
    }

    /// One restoration at a time. A mark that goes in this moment is that of a directory that is whole.
    private static func holdMark(_ mark: String, isThere: Bool) throws -> Int32 {
        let descriptor = open(mark, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (isThere ? 0 : O_CREAT | O_EXCL), 0o600)
        guard descriptor >= 0 else {
            throw HostError(.directory, "can't open \(mark): \(String(cString: strerror(errno)))")
        }
        var status = stat()
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0, fstat(descriptor, &status) == 0, status.st_nlink > 0 else {
            close(descriptor)
            throw HostError(.directory, "\(mark): another restoration fills this directory; wait for it")
        }
        return descriptor
    }

    private static func notEmpty(_ path: String, _ names: [String]) -> String {
        "\(path) is not empty (\(names.prefix(3).joined(separator: ", "))\(names.count > 3 ? ", …" : "")): states are "
            + "restored into directories that are missing or empty"
    }

    /// What was restored is whole and durable.
    func endRestoration() throws {
        for entry in [journal, store, path] { try Self.sync(entry) }
        let mark = path + "/" + Self.restorationMark
        guard unlink(mark) == 0 else {
            throw HostError(.disk, "can't remove \(mark): \(String(cString: strerror(errno)))")
        }
        try Self.sync(path)
    }

    private static func sync(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw HostError(.disk, "can't sync the directory \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else {
            throw HostError(.disk, "can't sync the directory \(path): \(String(cString: strerror(errno)))")
        }
    }

    /// No host has begun in the directory at this path, which may be missing.
    static func isNew(_ path: String) -> Bool { !FileManager.default.fileExists(atPath: path + "/journal/data.mdb") }

    /// What of a former host is there although its journal is missing or empty; nil if all is well. Looked at before
    /// anything is opened.
    var remainsWithoutJournal: String? {
        func size(_ file: String) -> Int {
            let attributes = try? FileManager.default.attributesOfItem(atPath: file)
            return (attributes?[.size] as? NSNumber)?.intValue ?? 0
        }
        guard size(journal + "/data.mdb") == 0 else { return nil }
        if size(store + "/data.mdb") > 0 { return "a store" }
        return size(mapFile) > 0 ? "a cluster map" : nil
    }

    /// Nil when there is none. A damaged copy is an error that names the file: every host of the cluster has the same.
    func loadMap() throws -> ClusterMap? {
        guard FileManager.default.fileExists(atPath: mapFile) else { return nil }
        let data = try Data(contentsOf: URL(fileURLWithPath: mapFile))
        return try ClusterMapFile.decoded(data.withUnsafeBytes { Bytes(copying: $0) }, name: mapFile)
    }

    /// Replaces the copy atomically and durably.
    ///
    /// - Throws: `.exhausted`: the earlier copy is still there.
    func save(_ map: ClusterMap) throws {
        let file = ClusterMapFile.encoded(map)
        let temporary = mapFile + ".new"
        func failure(_ what: String) -> HostError {
            let isExhausted = [EMFILE, ENFILE, ENOSPC, EDQUOT].contains(errno)
            return HostError(isExhausted ? .exhausted : .disk, "\(what): \(String(cString: strerror(errno)))")
        }
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else {
            throw failure("can't write \(temporary)")
        }
        defer { close(descriptor) }
        try file.withUnsafeBytes { buffer in
            var offset = 0
            while offset < buffer.count {
                let written = write(descriptor, buffer.baseAddress! + offset, buffer.count - offset)
                guard written > 0 else { throw failure("can't write \(temporary)") }
                offset += written
            }
        }
        guard fsync(descriptor) == 0, rename(temporary, mapFile) == 0 else {
            throw failure("can't replace \(mapFile)")
        }
        let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if directory >= 0 {
            fsync(directory)
            close(directory)
        }
    }
}
