// An environment's directory while nobody has it open: for looking through its file without believing it, and for moving
// it away. Reads with pread only: no page, however damaged, can end the process.

internal import CLMDB
import Glibc

/// Holds the directory, like an open environment, as long as it lives.
public struct ClosedEnvironment: ~Copyable {
    public let path: String
    /// What ended an earlier process, in a line: the file is damaged, or may be. nil: nothing did.
    public let note: String?
    private let lock: DirectoryLock

    /// - Throws: `.inUse`.
    public init(path: String) throws(LMDBError) {
        let lock = try DirectoryLock(path: path)
        let note = try DamageNote.text(in: path)
        self.path = path
        self.note = note
        self.lock = lock
    }

    /// Whether there is a note, without holding the directory.
    public static func hasNote(path: String) -> Bool { access(path + "/" + DamageNote.fileName, F_OK) == 0 }

    /// Reads all that is in use of the file, and compares every page with what leads to it. What values say is looked at
    /// by `visit` or not at all. Cost: the file is read once, and a bit of memory for each of its pages.
    ///
    /// - Parameters:
    ///   - keyBytes: how many each key has.
    ///   - visit: is given each key, in their order, and its value if that is small enough to stand beside the key: as far
    ///     as the file was found sound.
    /// - Throws: `.corrupted` with the page: the file is not what LMDB wrote, or can't be read there, tried again after a
    ///   pause. Other errors say nothing about the file: `.versionMismatch` if another version of LMDB wrote it.
    public func examine(
        keyBytes: Int, _ visit: (ArraySlice<UInt8>, ArraySlice<UInt8>?) throws(LMDBError) -> Void
    ) throws(LMDBError) {
        let descriptor = open(path + "/" + EnvironmentFile.name, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw systemError("open \(EnvironmentFile.name)", path: path) }
        defer { close(descriptor) }
        try DirectoryLock.holdData(descriptor, path: path)
        guard let meta = try EnvironmentFile.newestMeta(descriptor, directory: path) else {
            if let version = EnvironmentFile.otherVersion(descriptor) {
                throw LMDBError(
                    .versionMismatch, number: MDB_VERSION_MISMATCH, operation: "look through", path: path,
                    detail:
                        "\(EnvironmentFile.name) has format \(version) of LMDB, this one reads 1: start with the version that "
                        + "wrote it")
            }
            throw LMDBError(
                .corrupted, number: MDB_CORRUPTED, operation: "look through", path: path,
                detail: "its first pages can't be read, or are none of LMDB's")
        }
        // What memory made of a page, perhaps with the bit that ended a process, is not what the disk has. Only advice.
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        var walk = try TreeWalk(descriptor: descriptor, directory: path, meta: meta, readsAll: true)
        // First what has something to tell.
        try walk.visit(meta.main, TreeWalk.Kind(keyBytes: keyBytes), visit)
        try walk.visit(meta.free, TreeWalk.freeList) { (_, _) throws(LMDBError) in }
    }

    /// It was looked into. Durable when this returns.
    public borrowing func removeNote() throws(LMDBError) { try DamageNote.remove(in: path) }

    /// Gives the directory another name. The caller syncs those that the names are in. The last that is done with it.
    public borrowing func rename(to other: String) throws(LMDBError) {
        guard Glibc.rename(path, other) == 0 else { throw systemError("rename it to \(other)", path: path) }
    }
}
