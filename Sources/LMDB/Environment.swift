// An LMDB environment: its file, map and readers. Owns opening, growth of the map, the pool of read transactions and
// preallocation. What is in the file, and how errors are survived, is decided above.

internal import CLMDB
import Glibc

/// One open environment (directory with `data.mdb`). Full durability: a commit that returned is on disk.
///
/// Any thread may read beside the one writer. A write transaction begins and ends on one thread.
public final class Environment: @unchecked Sendable {
    // @unchecked: `handle` is thread-safe in itself; `map…`, `readers…`, `idle…`, `isGrowing` are guarded by `gate`;
    // `zeroedThrough` belongs to whoever holds the writer's lock.

    /// Read transactions open at once, over all processes; one more is refused with `.readersFull`.
    public static let readersMax = 1_024
    /// Read transactions kept for reuse; more are ended when they come back.
    static let idleReadersMax = 64
    /// How long growth of the map waits for readers to end before it gives up.
    static let growthWaitSeconds = 10

    /// The environment's directory as it was given.
    public let path: String
    /// The map is never made larger than this; beyond it writes fail with `.mapFull`.
    public let mapBytesMax: Int
    public let pageBytes: Int
    /// The unnamed database, the only one.
    public let database: Database

    let handle: OpaquePointer
    private let lock: DirectoryLock
    private let faultWatch: FaultWatch
    private let gate = Gate()
    private let writerLock = WriterLock()
    private var mapBytesNow: Int
    private var readers = 0
    private var idleReaders: [OpaquePointer] = []
    private var isGrowing = false
    private var zeroedThrough = 0

    /// This process has the environment in this directory open.
    package static func isOpen(path: String) -> Bool { DirectoryLock.isHeld(path: path) }

    /// Opens, or makes, the environment in the directory `path`, which must exist. A new one is durable, its directory
    /// entry too, when this returns. The map has at least `mapBytes`, or as many as the file already needs.
    public init(path: String, mapBytes: Int = 256 << 20, mapBytesMax: Int = 1 << 40) throws(LMDBError) {
        precondition(mapBytes >= 1 << 16 && mapBytes <= mapBytesMax, "a map has 64 KiB to mapBytesMax bytes")
        let lock = try DirectoryLock(path: path)
        try DamageNote.check(path: path)
        try EnvironmentFile.makeIfMissing(directory: path, mapBytes: mapBytes)
        // Always: a process that made the file may have been killed before it did this.
        try EnvironmentFile.syncDirectory(path)
        try EnvironmentFile.check(directory: path)
        if access(path + "/lock.mdb", F_OK) != 0 {
            // LMDB makes it, with the size that it wants.
            try mdb_env_close(Self.open(path, mapBytes: mapBytes))
        }
        try EnvironmentFile.allocateLockFile(directory: path)
        let faultWatch = FaultWatch(directory: path)
        let handle = try Self.open(path, mapBytes: mapBytes)
        let database: Database
        do throws(LMDBError) {
            let descriptor = try Self.descriptor(handle, path)
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
                throw systemError("set close-on-exec", path: path)
            }
            try DirectoryLock.holdData(descriptor, path: path)
            database = try Database(opening: handle, path: path)
            var dead: Int32 = 0
            try check(mdb_reader_check(handle, &dead), "check the readers", path)
        } catch {
            mdb_env_close(handle)
            throw error
        }
        var information = MDB_envinfo()
        mdb_env_info(handle, &information)
        var statistics = MDB_stat()
        mdb_env_stat(handle, &statistics)
        self.path = path
        self.mapBytesMax = max(mapBytesMax, information.me_mapsize)
        self.handle = handle
        self.lock = lock
        self.faultWatch = faultWatch
        self.database = database
        pageBytes = Int(statistics.ms_psize)
        mapBytesNow = information.me_mapsize
    }

    private static func open(_ path: String, mapBytes: Int) throws(LMDBError) -> OpaquePointer {
        var made: OpaquePointer?
        try check(mdb_env_create(&made), "create", path)
        guard let handle = made else { throw LMDBError(.noMemory, operation: "create", path: path) }
        do throws(LMDBError) {
            _ = mdb_env_set_assert(handle, DamageNote.assertionFailed)
            try check(mdb_env_set_maxreaders(handle, UInt32(Self.readersMax)), "set the readers", path)
            try check(mdb_env_set_mapsize(handle, mapBytes), "set the map's size", path)
            try check(mdb_env_open(handle, path, UInt32(MDB_NOTLS | MDB_NORDAHEAD), 0o600), "open", path)
        } catch {
            mdb_env_close(handle)
            throw error
        }
        return handle
    }

    deinit {
        // Transactions hold the environment, so none is open; those in the pool are reset.
        for reader in idleReaders { mdb_txn_abort(reader) }
        var descriptor: Int32 = -1
        // By name: a child between its fork and its exec still holds the descriptor.
        if mdb_env_get_fd(handle, &descriptor) == MDB_SUCCESS { _ = flock(descriptor, LOCK_UN) }
        mdb_env_close(handle)
    }

    // MARK: Transactions

    /// A consistent view. Keep it short (below 100 ms): the pages it sees are not reused before it ends. Do not open a
    /// second one on the same thread while one is open: growth of the map waits for the first and holds back the
    /// second.
    public func beginRead() throws(LMDBError) -> ReadTransaction {
        let pooled: OpaquePointer? = gate.withLock {
            gate.wait { !isGrowing }
            readers += 1
            return idleReaders.popLast()
        }
        do throws(LMDBError) {
            if let pooled {
                let result = mdb_txn_renew(pooled)
                if result == MDB_SUCCESS { return ReadTransaction(environment: self, handle: pooled) }
                mdb_txn_abort(pooled)
                try check(result, "renew a read transaction", path)
            }
            var made: OpaquePointer?
            try check(mdb_txn_begin(handle, nil, UInt32(MDB_RDONLY), &made), "begin a read transaction", path)
            return ReadTransaction(environment: self, handle: made!)
        } catch {
            endedRead(nil)
            throw error
        }
    }

    /// Takes a read transaction back, reset, or nil if it is gone.
    func endedRead(_ reset: OpaquePointer?) {
        let surplus: OpaquePointer? = gate.withLock {
            readers -= 1
            if isGrowing && readers == 0 { gate.wakeAll() }
            guard let reset else { return nil }
            guard idleReaders.count < Self.idleReadersMax else { return reset }
            idleReaders.append(reset)
            return nil
        }
        if let surplus { mdb_txn_abort(surplus) }
    }

    /// The one write transaction; waits for another thread's to end. A second one on the same thread is refused.
    public func beginWrite() throws(LMDBError) -> WriteTransaction {
        guard writerLock.lock() else {
            throw LMDBError(
                .badTransaction, operation: "begin a write transaction", path: path,
                detail: "this thread has one open already")
        }
        var made: OpaquePointer?
        let result = mdb_txn_begin(handle, nil, 0, &made)
        guard result == MDB_SUCCESS, let made else {
            writerLock.unlock()
            throw LMDBError(number: result, operation: "begin a write transaction", path: path)
        }
        return WriteTransaction(environment: self, handle: made)
    }

    func endedWrite() { writerLock.unlock() }

    // MARK: The file

    /// Makes everything that was written durable (fdatasync), whoever wrote it.
    public func sync() throws(LMDBError) { try check(mdb_env_sync(handle, 1), "sync", path) }

    /// Leaves a note in the directory that its file is damaged; it is not opened again before somebody has taken the note
    /// away. Best effort: the process ends next, whatever becomes of the note.
    public func markDamaged(_ text: String) { DamageNote.write(text, in: path) }

    /// The map's size in bytes.
    public var mapBytes: Int { gate.withLock { mapBytesNow } }

    /// Bytes of the file that the tree and its free pages take up.
    public var usedBytes: Int {
        var information = MDB_envinfo()
        mdb_env_info(handle, &information)
        return (information.me_last_pgno + 1) * pageBytes
    }

    /// Doubles the map. No write transaction may be open; readers are waited for, and new ones wait meanwhile.
    public func growMap() throws(LMDBError) {
        guard writerLock.lock() else {
            throw LMDBError(
                .badTransaction, operation: "enlarge the map", path: path, detail: "a write transaction is open")
        }
        defer { writerLock.unlock() }
        var failure: LMDBError?
        gate.withLock {
            guard mapBytesNow <= mapBytesMax / 2 else {
                failure = LMDBError(
                    .mapFull, number: MDB_MAP_FULL, operation: "enlarge the map", path: path,
                    detail: "the limit of \(mapBytesMax) bytes is reached")
                return
            }
            isGrowing = true
            if gate.wait(seconds: Self.growthWaitSeconds, until: { readers == 0 }) {
                let result = mdb_env_set_mapsize(handle, mapBytesNow * 2)
                if result == MDB_SUCCESS {
                    mapBytesNow *= 2
                } else {
                    failure = LMDBError(number: result, operation: "enlarge the map", path: path)
                }
            } else {
                failure = LMDBError(
                    .mapFull, number: MDB_MAP_FULL, operation: "enlarge the map", path: path,
                    detail: "\(readers) read transactions stayed open for \(Self.growthWaitSeconds) s")
            }
            isGrowing = false
            gate.wakeAll()
        }
        if let failure { throw failure }
    }

    /// Frees the slots of readers whose process died. Says how many there were. At open it happens by itself.
    @discardableResult public func checkReaders() throws(LMDBError) -> Int {
        var dead: Int32 = 0
        try check(mdb_reader_check(handle, &dead), "check the readers", path)
        return Int(dead)
    }

    /// Allocates space behind the last page that LMDB ever used, if fewer than `aheadBytes` are there, `stepBytes` at a
    /// time. With zeros, a commit into it syncs in half the time of one that extends the file; without, it costs
    /// nothing and only has to be there when the file system is full.
    ///
    /// Safe because no transaction, old or new, refers to a page above the last one of the last commit, that number
    /// never falls, and the writer's lock keeps new pages from being taken meanwhile. LMDB does not look at the file's
    /// length when it opens. Failure is no error: the file is then extended by commits, as without it.
    ///
    /// - Returns: bytes that are allocated behind the last page now.
    @discardableResult
    public func preallocate(aheadBytes: Int, stepBytes: Int, writesZeros: Bool = true) -> Int {
        guard aheadBytes > 0, stepBytes > 0, writerLock.lock() else { return 0 }
        defer { writerLock.unlock() }
        var descriptor: Int32 = -1
        guard mdb_env_get_fd(handle, &descriptor) == MDB_SUCCESS else { return 0 }
        let used = usedBytes
        if zeroedThrough == 0 {
            // What lies behind the last page at open was preallocated before, or is left of a commit that did not
            // come about; either way its blocks exist.
            var status = stat()
            guard fstat(descriptor, &status) == 0 else { return 0 }
            zeroedThrough = Int(status.st_size)
        }
        guard zeroedThrough < used + aheadBytes else { return spareBytes }
        let begin = max(zeroedThrough, used)
        let end = min(begin + stepBytes, mapBytesMax)
        guard begin < end else { return spareBytes }
        let written =
            writesZeros
            ? Self.writeZeros(descriptor, from: begin, through: end)
            : Self.allocate(descriptor, from: begin, through: end)
        zeroedThrough = max(zeroedThrough, begin + written)
        return spareBytes
    }

    /// Bytes that are allocated behind the last page, as far as `preallocate` knows. For whoever holds the write
    /// transaction.
    public var spareBytes: Int { max(0, zeroedThrough - usedBytes) }

    /// Bytes that the file system has for this process's user, quotas apart.
    public var freeBytes: Int { fileSystem.free }

    /// Bytes that the file system has in all.
    public var capacityBytes: Int { fileSystem.capacity }

    private var fileSystem: (free: Int, capacity: Int) {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { return (0, 0) }
        func bytes(_ blocks: fsblkcnt_t) -> Int { Int(clamping: UInt64(blocks) * UInt64(status.f_frsize)) }
        return (bytes(status.f_bavail), bytes(status.f_blocks))
    }

    /// Bytes of the pages inside of the file that the next write transaction may use again, by its list of free pages;
    /// readers that hold some back are not asked. What the last transaction gave back is not among them before there
    /// was another one. Cost: a walk over that list.
    public func reusableBytes(afterAnotherCommit: Bool = false) throws(LMDBError) -> Int {
        let transaction = try beginRead()
        return try transaction.reusablePages(afterAnotherCommit: afterAnotherCommit) * pageBytes
    }

    /// In pieces, so that what there is room for is there.
    private static func allocate(_ descriptor: Int32, from begin: Int, through end: Int) -> Int {
        let pieceBytes = 256 << 10
        var offset = begin
        while offset < end {
            let count = min(pieceBytes, end - offset)
            let result = posix_fallocate(descriptor, off_t(offset), off_t(count))
            if result == EINTR { continue }
            guard result == 0 else { break }
            offset += count
        }
        return offset - begin
    }

    private static func writeZeros(_ descriptor: Int32, from begin: Int, through end: Int) -> Int {
        withUnsafeTemporaryAllocation(byteCount: min(end - begin, 256 << 10), alignment: 4_096) { zeros in
            zeros.initializeMemory(as: UInt8.self, repeating: 0)
            var offset = begin
            while offset < end {
                let count = pwrite(descriptor, zeros.baseAddress, min(zeros.count, end - offset), off_t(offset))
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { break }
                offset += count
            }
            return offset - begin
        }
    }

    private static func descriptor(_ handle: OpaquePointer, _ path: String) throws(LMDBError) -> Int32 {
        var descriptor: Int32 = -1
        try check(mdb_env_get_fd(handle, &descriptor), "get the descriptor", path)
        return descriptor
    }
}

/// Throws unless LMDB said success.
@inline(__always)
func check(_ result: Int32, _ operation: StaticString, _ path: String) throws(LMDBError) {
    if result != MDB_SUCCESS { throw LMDBError(number: result, operation: "\(operation)", path: path) }
}
