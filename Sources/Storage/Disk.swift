// The small transaction interface that journal and store stand on. LMDB implements it (LMDBDisk), and so does the
// simulator's disk; whatever is decided about bytes is decided above it.

/// A key of an environment: tables of small integers, ordered by table, then high, then low.
public struct DiskKey: Hashable, Comparable, Sendable {
    public var table: UInt8
    public var high: UInt64
    public var low: UInt32

    public init(table: UInt8, high: UInt64 = 0, low: UInt32 = 0) {
        self.table = table
        self.high = high
        self.low = low
    }

    /// Encoded: table, high and low, big-endian, so that bytes sort like keys.
    public static let byteCount = 13

    public static func < (left: DiskKey, right: DiskKey) -> Bool {
        if left.table != right.table { return left.table < right.table }
        if left.high != right.high { return left.high < right.high }
        return left.low < right.low
    }
}

/// What can go wrong below, and what the caller has to do about it: full, failed and corrupt are not alike.
public struct DiskError: Error, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The file system or the environment's limit is full. Nothing of the transaction happened; deletes may still
        /// work.
        case full
        /// A write or sync failed, or the environment's own structure was found damaged: nothing not acknowledged before
        /// may be believed. Stop the process, open anew.
        case failed
        /// What is stored is damaged: at open the environment as a whole, later a replica's values, by their checksums.
        case corrupt
        /// The environment belongs to another process, format or cluster; the message says which.
        case refused
        /// A programmer's error below.
        case misuse
    }
    public var code: Code
    public var message: String
    public init(_ code: Code, _ message: String) { self.code = code; self.message = message }
    public var description: String { message }
}

/// What a write transaction is for: it matters when space runs out.
public enum DiskPurpose: Hashable, Sendable {
    /// Brings data in. Refused with `.full` when nothing but the disk's reserve is left.
    case growth
    /// Gives space back in the end, and takes some before. May use the reserve but for a quarter, which is upkeep's:
    /// what it wrote in vain must be deleted again.
    case merge
    /// Gives space back: deletes, and moves of what still lives. May use the whole reserve.
    case upkeep
}

/// A consistent view. Values are valid during the closure only.
public protocol DiskReader: ~Copyable {
    /// Calls `body` with the key's value, or with nil when there is none.
    func withValue<Result>(for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result) throws -> Result
    /// Calls `body` for each key in the range, ascending, until it returns false.
    func scan(from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool)
        throws
    /// How many keys there are in all, as the disk counts them: a scan that meets fewer has missed some.
    func count() throws -> Int
    /// The greatest key at or below `last` that is at or above `first`.
    func lastKey(from first: DiskKey, through last: DiskKey) throws -> DiskKey?
    /// Whether the disk gives the bytes of a value; where it does not, to read them may end the process. For who looks
    /// for damage, and not for who needs the value: it reads all of it.
    func isReadable(_ value: UnsafeRawBufferPointer) -> Bool
}

extension DiskReader where Self: ~Copyable {
    public func isReadable(_ value: UnsafeRawBufferPointer) -> Bool { true }
}

/// The one write transaction of an environment.
public protocol DiskWriter: DiskReader, ~Copyable {
    /// Replaces the key's value by `count` bytes, all of which `fill` writes. `append` promises that the key is above
    /// all others.
    func put(_ key: DiskKey, count: Int, append: Bool, _ fill: (UnsafeMutableRawBufferPointer) throws -> Void) throws
    /// Whether there was something to delete.
    @discardableResult func delete(_ key: DiskKey) throws -> Bool
    /// So many small values come next, of a table with `total` of them that have about `bytes` each: they share pages, and
    /// take less space than as many values anywhere.
    func expectSmall(_ count: Int, of total: Int, bytes: Int) throws
}

extension DiskWriter where Self: ~Copyable {
    public func expectSmall(_ count: Int, of total: Int, bytes: Int) {}
}

/// An environment: one file of keys and values with atomic, durable transactions.
public protocol Disk: AnyObject, Sendable {
    /// Valid inside of `read`'s closure only, and so is the writer; keep no copy.
    associatedtype Reader: DiskReader
    associatedtype Writer: DiskWriter
    /// Any thread, also beside a writer. Keep it short: it pins pages.
    func read<Result>(_ body: (borrowing Reader) throws -> Result) throws -> Result
    /// One at a time; a second one inside of `body` is refused with `.misuse`. When it returns, all of it is durable;
    /// when it throws, what is durable is unknown if the code is `.failed`, and nothing happened otherwise. An error
    /// thrown by `body` aborts. A put that was refused as `.full` makes the whole transaction so, even if `body`
    /// catches it. `body` may run more than once (from its start, when the environment had to be enlarged): it must not
    /// change what it reads outside of the transaction.
    func write<Result>(_ purpose: DiskPurpose, _ body: (borrowing Writer) throws -> Result) throws -> Result
    /// How many bytes may be brought in for this purpose, over many transactions; an estimate, which others may take
    /// meanwhile. `.max`: nobody knows. Cost: a walk over the list of free pages.
    func roomBytes(for purpose: DiskPurpose) throws -> Int
    /// Makes what can be read durable: called at open, before anything read counts.
    func flush() throws
}

extension Disk {
    /// A write that brings data in.
    public func write<Result>(_ body: (borrowing Writer) throws -> Result) throws -> Result {
        try write(.growth, body)
    }
}
