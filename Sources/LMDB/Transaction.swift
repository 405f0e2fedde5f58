// Transactions as values that cannot be copied: what is not committed is aborted when it goes out of scope.

internal import CLMDB

/// The environment's unnamed database.
public struct Database: Sendable {
    let number: MDB_dbi

    init(opening environment: OpaquePointer, path: String) throws(LMDBError) {
        var transaction: OpaquePointer?
        try check(mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &transaction), "begin a read transaction", path)
        defer { mdb_txn_abort(transaction) }
        var number: MDB_dbi = 0
        try check(mdb_dbi_open(transaction, nil, 0, &number), "open the database", path)
        self.number = number
    }
}

/// What can be read in either kind of transaction. Memory handed out dies with the transaction, or, in a write
/// transaction, with the next change.
public protocol Transaction: ~Copyable {
    var environment: Environment { get }
    /// LMDB's own handle; for this module.
    var raw: RawTransaction { get }
}

/// LMDB's handle of a transaction, opaque outside of this module.
public struct RawTransaction {
    let handle: OpaquePointer
}

extension Transaction where Self: ~Copyable {
    /// The key's value, or nil when there is none.
    public func get(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> UnsafeRawBufferPointer? {
        var keyValue = MDB_val(key)
        var value = MDB_val()
        let result = mdb_get(raw.handle, environment.database.number, &keyValue, &value)
        if result == MDB_NOTFOUND { return nil }
        try check(result, "get", environment.path)
        return UnsafeRawBufferPointer(value)
    }

    public func openCursor() throws(LMDBError) -> Cursor {
        var handle: OpaquePointer?
        try check(mdb_cursor_open(raw.handle, environment.database.number, &handle), "open a cursor", environment.path)
        return Cursor(handle: handle!, path: environment.path)
    }

    /// How many pages the list of free pages has for the write transaction after the one that this one sees; or for
    /// those after another commit.
    func reusablePages(afterAnotherCommit: Bool) throws(LMDBError) -> Int {
        let list: MDB_dbi = 0
        var handle: OpaquePointer?
        try check(mdb_cursor_open(raw.handle, list, &handle), "open the list of free pages", environment.path)
        let cursor = Cursor(handle: handle!, path: environment.path)
        // What the last transaction gave back is not free before another one.
        let newest = mdb_txn_id(raw.handle)
        let pagesMax = environment.mapBytesMax / environment.pageBytes
        var pages = 0
        while let item = try cursor.next() {
            guard item.key.count >= MemoryLayout<Int>.size, item.value.count >= MemoryLayout<Int>.size,
                afterAnotherCommit || item.key.loadUnaligned(as: Int.self) < newest
            else { break }
            // More than there are: a damaged list, whatever else it says.
            let count = item.value.loadUnaligned(as: Int.self)
            guard (0...pagesMax).contains(count), pages <= pagesMax else { break }
            pages += count
        }
        return pages
    }

    /// How many keys there are.
    public func count() throws(LMDBError) -> Int {
        var statistics = MDB_stat()
        try check(mdb_stat(raw.handle, environment.database.number, &statistics), "stat", environment.path)
        return statistics.ms_entries
    }
}

/// A consistent view; comes from and goes back to the environment's pool.
public struct ReadTransaction: Transaction, ~Copyable {
    public let environment: Environment
    public let raw: RawTransaction

    init(environment: Environment, handle: OpaquePointer) {
        self.environment = environment
        raw = RawTransaction(handle: handle)
    }

    deinit {
        mdb_txn_reset(raw.handle)
        environment.endedRead(raw.handle)
    }
}

/// The environment's one write transaction. Ends on the thread that began it: by `commit`, or aborted by its deinit.
public struct WriteTransaction: WritableTransaction, ~Copyable {
    public let environment: Environment
    public let raw: RawTransaction
    private var isOpen = true

    init(environment: Environment, handle: OpaquePointer) {
        self.environment = environment
        raw = RawTransaction(handle: handle)
    }

    deinit {
        if isOpen { mdb_txn_abort(raw.handle) }
        environment.endedWrite()
    }

    /// Durable when it returns. When it throws, nothing happened unless the code is `.inputOutput` or `.panic`; then it
    /// is unknown. LMDB frees the transaction either way.
    public consuming func commit() throws(LMDBError) {
        isOpen = false
        try check(mdb_txn_commit(raw.handle), "commit", environment.path)
    }
}

/// What can be changed in a write transaction.
public protocol WritableTransaction: Transaction, ~Copyable {}

extension WritableTransaction where Self: ~Copyable {
    /// Replaces the key's value by `count` bytes and gives their place, to be filled before the next call. `append`
    /// promises that the key is above all others (`.keyExists` if not).
    public func reserve(
        _ key: UnsafeRawBufferPointer, count: Int, append: Bool = false
    ) throws(LMDBError) -> UnsafeMutableRawBufferPointer {
        var keyValue = MDB_val(key)
        var value = MDB_val(mv_size: count, mv_data: nil)
        let flags = UInt32(MDB_RESERVE | (append ? MDB_APPEND : 0))
        try check(mdb_put(raw.handle, environment.database.number, &keyValue, &value, flags), "put", environment.path)
        return UnsafeMutableRawBufferPointer(start: value.mv_data, count: count)
    }

    public func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(LMDBError) {
        try reserve(key, count: value.count).copyMemory(from: value)
    }

    /// Where in the file the pages end that `reserve` took for a value, of which these are the bytes; nil if it shares a
    /// page with others. Only before the next change.
    ///
    /// - Throws: `.corrupted` if that is not in the map: LMDB took the pages from a damaged list of free ones.
    public func fileEnd(of place: UnsafeMutableRawBufferPointer) throws(LMDBError) -> Int? {
        // Above a page it never shares; what precedes it then is the header of its first page (see EnvironmentFile):
        // number u64 | 0 u16 | flags u16 | number of pages u32.
        guard place.count > environment.pageBytes, let start = place.baseAddress else { return nil }
        let header = start - 16
        let isOverflowPage = header.load(fromByteOffset: 10, as: UInt16.self) & 0x04 != 0
        precondition(isOverflowPage, "LMDB puts a large value behind the header of pages of its own")
        let pages = UInt64(header.load(fromByteOffset: 12, as: UInt32.self))
        let first = header.load(as: UInt64.self)
        let pagesMax = UInt64(environment.mapBytesMax / environment.pageBytes)
        guard first <= pagesMax, pages <= pagesMax - first else {
            throw LMDBError(
                .corrupted, number: MDB_CORRUPTED, operation: "put", path: environment.path,
                detail: "the list of free pages names page \(first), and the map ends at \(pagesMax)")
        }
        return Int(first + pages) * environment.pageBytes
    }

    /// Whether there was something to delete.
    @discardableResult
    public func delete(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> Bool {
        var keyValue = MDB_val(key)
        let result = mdb_del(raw.handle, environment.database.number, &keyValue, nil)
        if result == MDB_NOTFOUND { return false }
        try check(result, "delete", environment.path)
        return true
    }
}

/// A place in the order of keys. Must go out of scope before its transaction ends.
public struct Cursor: ~Copyable {
    private let handle: OpaquePointer
    private let path: String

    public struct Item {
        public var key: UnsafeRawBufferPointer
        public var value: UnsafeRawBufferPointer
    }

    init(handle: OpaquePointer, path: String) {
        self.handle = handle
        self.path = path
    }

    deinit { mdb_cursor_close(handle) }

    public borrowing func first() throws(LMDBError) -> Item? { try move(MDB_FIRST) }
    public borrowing func last() throws(LMDBError) -> Item? { try move(MDB_LAST) }
    public borrowing func next() throws(LMDBError) -> Item? { try move(MDB_NEXT) }
    public borrowing func previous() throws(LMDBError) -> Item? { try move(MDB_PREV) }

    /// The first key at or above `key`.
    public borrowing func seek(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> Item? {
        try move(MDB_SET_RANGE, key)
    }

    private borrowing func move(
        _ operation: MDB_cursor_op, _ target: UnsafeRawBufferPointer? = nil
    ) throws(LMDBError) -> Item? {
        var key = target.map { MDB_val($0) } ?? MDB_val()
        var value = MDB_val()
        let result = mdb_cursor_get(handle, &key, &value, operation)
        if result == MDB_NOTFOUND { return nil }
        try check(result, "move a cursor", path)
        return Item(key: UnsafeRawBufferPointer(key), value: UnsafeRawBufferPointer(value))
    }
}

extension MDB_val {
    init(_ bytes: UnsafeRawBufferPointer) {
        self.init(mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
    }
}

extension UnsafeRawBufferPointer {
    init(_ value: MDB_val) { self.init(start: value.mv_data, count: value.mv_size) }
}
