// The file data.mdb before LMDB maps it: made so that a power failure leaves all of it or nothing, and measured so that
// one that was cut off is an error instead of a SIGBUS. Owns no descriptor beyond a call, and never changes a file that
// is there.
//
//   page 0, 1   header 16 bytes | magic u32 | version u32 | address u64 | map size u64 | free tree | main tree
//               | last page u64 | transaction u64       the one with the greater transaction counts
//   tree        page size u32 (of the free tree) | flags u16 | depth u16 | 4 counts u64 | root u64
//   page        number u64 | 0 u16 | flags u16 | lower u16 | upper u16 | offsets of nodes, u16 each | … | nodes
//   node        low u16 | high u16 | flags u16 | key size u16 | key | data, or the number of the first page with it

internal import CLMDB
import Glibc

enum EnvironmentFile {
    static let name = "data.mdb"
    /// What a creation that was cut short leaves.
    private static let newName = "new.mdb"

    /// Makes the file if it is missing. It is durable then; its name is when the directory was synced. LMDB itself
    /// would write it in place, and after a power failure meanwhile refuse the torn first page for ever.
    static func makeIfMissing(directory: String, mapBytes: Int) throws(LMDBError) {
        guard access(directory + "/" + name, F_OK) != 0 else { return }
        guard errno == ENOENT else { throw systemError("look for \(name)", path: directory) }
        let path = directory + "/" + newName
        for leftover in [path, path + "-lock"] {
            guard unlink(leftover) == 0 || errno == ENOENT else {
                throw systemError("remove \(leftover)", path: directory)
            }
        }
        try makeEmpty(path, directory: directory, mapBytes: mapBytes)
        _ = unlink(path + "-lock")
        guard rename(path, directory + "/" + name) == 0 else { throw systemError("rename \(newName)", path: directory) }
    }

    /// Gives LMDB's lock file, which it makes sparse and writes through a map, all of its blocks: a reader in a slot
    /// that none had before would else end the process with SIGBUS when the file system is full. Content and size stay.
    /// To be called before LMDB opens it: closing a descriptor would release LMDB's locks.
    static func allocateLockFile(directory: String) throws(LMDBError) {
        let descriptor = open(directory + "/lock.mdb", O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return }
            throw systemError("open lock.mdb", path: directory)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw systemError("measure lock.mdb", path: directory) }
        guard status.st_size > 0 else { return }
        let result = posix_fallocate(descriptor, 0, status.st_size)
        // Other failures: the file system does not know of this, and nothing is worse than without it.
        if result == ENOSPC { throw systemError("allocate lock.mdb", path: directory, number: result) }
    }

    private static func makeEmpty(_ path: String, directory: String, mapBytes: Int) throws(LMDBError) {
        var made: OpaquePointer?
        try LMDB.check(mdb_env_create(&made), "create", directory)
        guard let handle = made else { throw LMDBError(.noMemory, operation: "create", path: directory) }
        defer { mdb_env_close(handle) }
        try LMDB.check(mdb_env_set_mapsize(handle, mapBytes), "set the map's size", directory)
        try LMDB.check(
            mdb_env_open(handle, path, UInt32(MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD), 0o600), "create", directory)
        try LMDB.check(mdb_env_sync(handle, 1), "sync a new environment", directory)
    }

    static func syncDirectory(_ path: String) throws(LMDBError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw systemError("open the directory", path: path) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw systemError("sync the directory", path: path) }
    }

    /// Throws `.corrupted` if the file ends before the tree does, or if its two meta pages are not of neighbouring
    /// transactions: LMDB believes the higher number, and one flipped bit would have it open the tree of one commit
    /// earlier without a word. (The bit that makes another pair of neighbours of them is not noticed.) So it does when
    /// their last pages and sizes of the map don't go together. What else may be wrong with the file is for LMDB to find.
    ///
    /// Cost: two small reads. Only if the file ends before the last page that was ever used is the tree walked, one
    /// read
    /// for each of its pages: LMDB does not write pages that were taken and given back in one transaction, so such a
    /// file may be whole.
    static func check(directory: String) throws(LMDBError) {
        let descriptor = open(directory + "/" + name, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw systemError("open \(name)", path: directory) }
        defer { close(descriptor) }
        guard let meta = try newestMeta(descriptor, directory: directory) else { return }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw systemError("measure \(name)", path: directory) }
        guard meta.lastPage >= UInt64(Int(status.st_size) / meta.pageBytes) else { return }
        var walk = try TreeWalk(descriptor: descriptor, directory: directory, meta: meta, readsAll: false)
        try walk.visit(meta.free, TreeWalk.freeList) { (_, _) throws(LMDBError) in }
        try walk.visit(meta.main, TreeWalk.Kind(keyBytes: nil)) { (_, _) throws(LMDBError) in }
    }

    /// The one of the two meta pages that counts, if they are what they can be. nil: they are none that this LMDB writes,
    /// or can't be read.
    ///
    /// - Throws: as `check`.
    static func newestMeta(_ descriptor: Int32, directory: String) throws(LMDBError) -> Meta? {
        try settle(descriptor, directory)
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw systemError("measure \(name)", path: directory) }
        let bytes = Int(status.st_size)
        // Files are made whole (see above), so none is this short for any other reason.
        guard bytes >= 2 * smallestPageBytes else {
            throw cutOff(directory, bytes, "an empty environment has \(2 * smallestPageBytes) at least")
        }
        guard let first = meta(descriptor, at: 0) else { return nil }
        guard first.pageBytes >= 512, first.pageBytes <= largestPageBytes, first.pageBytes.nonzeroBitCount == 1 else {
            return nil
        }
        guard let second = meta(descriptor, at: first.pageBytes) else {
            if bytes < 2 * first.pageBytes { throw cutOff(directory, bytes, "its second page is not there") }
            return nil
        }
        // Each commit writes the meta page that its number's lowest bit names; a new file has two zeros.
        let (even, odd) = (first.transaction, second.transaction)
        guard even == 0 && odd == 0 || even % 2 == 0 && odd % 2 == 1 && (odd == even &+ 1 || even == odd &+ 1) else {
            throw LMDBError(
                .corrupted, number: MDB_CORRUPTED, operation: "open", path: directory,
                detail: "\(name)'s meta pages are of transactions \(even) and \(odd), which never follow each other")
        }
        let isSecondNewer = second.transaction > first.transaction
        let (older, newest) = isSecondNewer ? (first, second) : (second, first)
        // LMDB keeps the map's size, takes no page that is not in it, and never gives one back to the file system. It
        // would enlarge the map, where all that asks how far the file goes finds it full, or take what is in use.
        // (The older page may name a larger map: LMDB leaves that there when it failed to write it.)
        guard older.lastPage <= newest.lastPage, newest.lastPage < newest.mapBytes / UInt64(first.pageBytes),
            newest.mapBytes < Self.largestMapBytes
        else {
            throw LMDBError(
                .corrupted, number: MDB_CORRUPTED, operation: "open", path: directory,
                detail:
                    "\(name)'s meta pages name pages \(older.lastPage) and then \(newest.lastPage) as the last ones, in a "
                    + "map of \(newest.mapBytes) bytes, which can't be")
        }
        return newest
    }

    /// Has the meta pages read from the disk, not from what an earlier process left in the page cache: after a sync that
    /// failed the kernel takes its pages for clean, later syncs succeed without writing them, and they are gone when the
    /// power fails. What is dirty is written first. The meta pages are enough: LMDB writes one only when all that it
    /// names has been synced.
    private static func settle(_ descriptor: Int32, _ directory: String) throws(LMDBError) {
        guard fdatasync(descriptor) == 0 else { throw systemError("sync \(name)", path: directory) }
        // Only advice: there are file systems without a cache of their own.
        _ = posix_fadvise(descriptor, 0, off_t(2 * largestPageBytes), POSIX_FADV_DONTNEED)
    }

    private static let largestPageBytes = 65_536
    /// More than a process can address.
    private static let largestMapBytes: UInt64 = 1 << 47
    /// LMDB takes the system's page size, which is never smaller.
    private static let smallestPageBytes = 4_096

    struct Tree {
        /// `.max`: there is nothing in it.
        var root: UInt64
        var depth: UInt16
        var entries: UInt64
    }

    struct Meta {
        var pageBytes: Int
        var mapBytes: UInt64
        var free: Tree
        var main: Tree
        var lastPage: UInt64
        var transaction: UInt64
    }

    /// nil if it is not one that this LMDB writes.
    private static func meta(_ descriptor: Int32, at offset: Int) -> Meta? {
        withUnsafeTemporaryAllocation(byteCount: 152, alignment: 8) { place in
            guard PatientRead.fill(place, from: descriptor, at: off_t(offset)).count == place.count else { return nil }
            guard place.load(fromByteOffset: header, as: UInt32.self) == magic,
                place.load(fromByteOffset: header + 4, as: UInt32.self) == version
            else { return nil }
            func word(_ offset: Int) -> UInt64 { place.load(fromByteOffset: header + offset, as: UInt64.self) }
            func tree(_ offset: Int) -> Tree {
                Tree(
                    root: word(offset + 40), depth: place.load(fromByteOffset: header + offset + 6, as: UInt16.self),
                    entries: word(offset + 32))
            }
            return Meta(
                pageBytes: Int(place.load(fromByteOffset: header + 24, as: UInt32.self)), mapBytes: word(16),
                free: tree(24), main: tree(72), lastPage: word(120), transaction: word(128))
        }
    }

    private static let header = 16
    private static let magic: UInt32 = 0xbeef_c0de
    private static let version: UInt32 = 1

    /// The version of a file that another LMDB wrote, whose pages this one does not know. nil: it is none, or has at least
    /// one meta page of this version.
    static func otherVersion(_ descriptor: Int32) -> UInt32? {
        let found: UInt32? = withUnsafeTemporaryAllocation(byteCount: 24, alignment: 8) { place in
            guard PatientRead.fill(place, from: descriptor, at: 0).count == place.count,
                place.load(fromByteOffset: header, as: UInt32.self) == magic
            else { return nil }
            return place.load(fromByteOffset: header + 4, as: UInt32.self)
        }
        guard let found, found != version else { return nil }
        var pageBytes = smallestPageBytes
        while pageBytes <= largestPageBytes {
            if let second = meta(descriptor, at: pageBytes), second.pageBytes == pageBytes { return nil }
            pageBytes *= 2
        }
        return found
    }

    static func cutOff(_ directory: String, _ bytes: Int, _ what: String) -> LMDBError {
        LMDBError(
            .corrupted, number: MDB_CORRUPTED, operation: "open", path: directory,
            detail: "\(name) was cut off: it has \(bytes) bytes, but \(what)")
    }
}
