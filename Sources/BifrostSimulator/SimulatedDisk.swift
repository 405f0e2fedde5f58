// A disk in memory that loses what a real one may lose. Deterministic: its only randomness is a seed's. Owns the fault
// model of one environment; who crashes when is decided above.
//
// Two trees: `visible`, what reads see, and `durable`, what a crash leaves. A commit makes both equal, unless a fault
// comes between. Trees are arrays with copy-on-write, so a reader keeps its view; a writer keeps its changes apart until
// they are committed, so that nothing is copied where nobody reads meanwhile.

public import Primitives
public import Storage
import Synchronization

/// What may go wrong, each once or for as long as it is set.
public struct SimulatedDiskFaults: Hashable, Sendable {
    /// The next write fails before anything reaches the disk; the environment is unusable from then on, as after EIO.
    public var nextWriteFails = false
    /// The next write is reported as failed and is there after a restart (LMDB does this when only the last sync
    /// fails).
    public var nextWriteFailsButStays = false
    /// The sync of the next write fails, and the transaction did not happen (LMDB puts the root that was valid before
    /// back). As on Linux, the pages are clean from then on: no later sync writes them.
    public var nextSyncFails = false
    /// The next flush fails. As on Linux, what it was to write is clean from then on.
    public var nextFlushFails = false
    /// Commits are visible but not durable before `flush`: a page cache taken for a disk.
    public var commitsWithoutSync = false
    /// Puts are refused with `.full` when the keys' values together would pass this many bytes, until more is given.
    /// A delete takes some as well, before it gives back what it deletes.
    public var bytesMax = Int.max
    /// Of `bytesMax`, as many are for merges and upkeep only, a quarter of them for upkeep only.
    public var reserveBytes = 0
    /// The process ends at a later write transaction: 0, the next one, 1, the one after it. That call and all that
    /// follow throw `SimulatedProcessEnd`, until `crash` or `kill` says how the world goes on.
    public var transactionsUntilEnd: Int?
    /// The transaction at which the process ends is durable all the same: the end comes behind it, else before it.
    public var endsBehindTransaction = false
    /// With `endsBehindTransaction`: written, and not synced. `kill` leaves it to be seen, `crash` does not.
    public var endsUnsynced = false
    public init() {}

    func bytesMax(for purpose: DiskPurpose) -> Int {
        switch purpose {
        case .growth: bytesMax - reserveBytes
        case .merge: bytesMax - reserveBytes / 4
        case .upkeep: bytesMax
        }
    }
}

/// The process of a simulated disk has ended in the middle of its work. Not a `DiskError`: nothing may handle it but
/// who carries the process, by ending it.
public struct SimulatedProcessEnd: Error {}

/// A `Disk` for the simulator and for model tests. One write at a time: a second one that begins before the first has
/// ended is refused with `.misuse`, as on one thread of the real disk (which lets other threads wait).
public final class SimulatedDisk: Disk {
    private struct State {
        var visible = SimulatedTree()
        /// Nil while it is the same as `visible`.
        var unlikeVisible: SimulatedTree?
        /// A sync has failed: where `visible` differs its pages are clean, and reach the disk only when they are written
        /// again.
        var hasCleanPages = false
        var durable: SimulatedTree { unlikeVisible ?? visible }
        var faults = SimulatedDiskFaults()
        var hasFailed = false
        var hasEnded = false
        var isWriting = false
        var random: SeededRandom
        var commits = 0
        var flushes = 0

        mutating func becomeDurable() {
            unlikeVisible = nil
            hasCleanPages = false
        }

        /// All dirty pages reach the disk: of `changes` for sure.
        mutating func sync(_ changes: SimulatedChanges) {
            if hasCleanPages { unlikeVisible?.apply(changes) } else { unlikeVisible = nil }
        }
    }

    private let state: Mutex<State>
    private let isLatching: Bool

    /// - Parameter isLatching: after a failure nothing is answered before a restart, as `LMDBDisk` does it.
    public init(seed: UInt64, isLatching: Bool = true) {
        state = Mutex(State(random: SeededRandom(seed: seed)))
        self.isLatching = isLatching
    }

    public var faults: SimulatedDiskFaults {
        get { state.withLock { $0.faults } }
        set { state.withLock { $0.faults = newValue } }
    }

    /// Commits and flushes since the beginning.
    public var commits: Int { state.withLock { $0.commits } }
    public var flushes: Int { state.withLock { $0.flushes } }

    /// Of all values that reads see.
    public var bytes: Int { state.withLock { $0.visible.bytes } }

    // MARK: What the world does to it

    /// The machine loses power: what was not synced is gone, and the disk works again. A full one stays full.
    public func crash() {
        state.withLock { state in
            state.visible = state.durable
            state.becomeDurable()
            state.hasFailed = false
            state.hasEnded = false
            var faults = SimulatedDiskFaults()
            faults.bytesMax = state.faults.bytesMax
            faults.reserveBytes = state.faults.reserveBytes
            state.faults = faults
        }
    }

    /// The process is killed; the operating system lives, and so does its page cache.
    public func kill() {
        state.withLock { state in
            state.hasFailed = false
            state.hasEnded = false
            state.faults.nextWriteFails = false
            state.faults.nextWriteFailsButStays = false
            state.faults.nextSyncFails = false
            state.faults.nextFlushFails = false
            state.faults.transactionsUntilEnd = nil
            state.faults.endsBehindTransaction = false
            state.faults.endsUnsynced = false
        }
    }

    /// The process that had it open is gone: whatever of it still runs is told `SimulatedProcessEnd`, until `begin`.
    func end() { state.withLock { $0.hasEnded = true } }
    func begin() { state.withLock { $0.hasEnded = false } }

    /// The environment is gone.
    public func wipe() {
        state.withLock { state in
            state.visible = SimulatedTree()
            state.becomeDurable()
            state.hasFailed = false
        }
    }

    /// Flips one bit of a stored value, in cache and on disk. Says whether the key was there with a value that is not
    /// empty.
    @discardableResult public func flipBit(in key: DiskKey, bit: Int? = nil) -> Bool {
        state.withLock { state in
            guard let value = state.visible[key], !value.isEmpty else { return false }
            let bits = UInt64(value.count * 8)
            let chosen = bit.map { $0 % Int(bits) } ?? Int(state.random.below(bits))
            var bytes = value.array
            bytes[chosen / 8] ^= 1 << UInt8(chosen % 8)
            let damaged = Bytes(bytes)
            state.visible[key] = damaged
            if state.unlikeVisible?[key] != nil { state.unlikeVisible?[key] = damaged }
            return true
        }
    }

    /// Flips one bit somewhere in the tables named, each value as likely as any other, and says where. Nil if they are
    /// empty.
    public func flipAnyBit(inTables tables: ClosedRange<UInt8> = 0 ... .max) -> DiskKey? {
        let chosen: DiskKey? = state.withLock { state in
            let items = state.visible.items
            let from = state.visible.position(DiskKey(table: tables.lowerBound))
            let through =
                tables.upperBound == .max
                ? items.count : state.visible.position(DiskKey(table: tables.upperBound + 1))
            guard from < through else { return nil }
            return items[from + Int(state.random.below(UInt64(through - from)))].key
        }
        guard let chosen, flipBit(in: chosen) else { return nil }
        return chosen
    }

    /// Removes a value behind everybody's back, or puts one there. For damage and for what earlier versions wrote.
    public func plant(_ key: DiskKey, _ value: Bytes?) {
        state.withLock { state in
            state.visible[key] = value
            state.unlikeVisible?[key] = value
        }
    }

    /// Everything that reads see, in order.
    public func contents() -> [(key: DiskKey, value: Bytes)] {
        let tree = state.withLock { $0.visible }
        return tree.items.map { ($0.key, $0.value) }
    }

    // MARK: Disk

    public func read<Result>(_ body: (borrowing SimulatedReader) throws -> Result) throws -> Result {
        let tree = try state.withLock { state in
            try check(state)
            return state.visible
        }
        return try body(SimulatedReader(view: SimulatedView(tree: tree)))
    }

    public func write<Result>(
        _ purpose: DiskPurpose, _ body: (borrowing SimulatedWriter) throws -> Result
    ) throws -> Result {
        // Nothing here holds the tree but the writer.
        let writer = try state.withLock { state in
            try check(state)
            guard !state.isWriting else {
                throw DiskError(.misuse, "simulated disk: a write transaction is open already")
            }
            state.isWriting = true
            return SimulatedWriter(tree: state.visible, bytesMax: state.faults.bytesMax(for: purpose))
        }
        defer { state.withLock { $0.isWriting = false } }
        let result: Result
        do {
            result = try body(writer)
        } catch {
            // Whatever the body made of it, as with the real disk.
            if writer.contents.isFull { throw SimulatedWriter.full }
            throw error
        }
        if writer.contents.isFull { throw SimulatedWriter.full }
        let changes = writer.contents.takeChanges()
        try state.withLock { state in
            let ends = state.faults.transactionsUntilEnd == 0
            if let left = state.faults.transactionsUntilEnd, left > 0 { state.faults.transactionsUntilEnd = left - 1 }
            if ends, !state.faults.endsBehindTransaction {
                state.hasEnded = true
                throw SimulatedProcessEnd()
            }
            if state.faults.nextWriteFails {
                state.hasFailed = true
                throw DiskError(.failed, "simulated disk: EIO on write")
            }
            if state.faults.nextWriteFailsButStays {
                state.hasFailed = true
                state.visible.apply(changes)
                state.becomeDurable()
                throw DiskError(.failed, "simulated disk: EIO on the last sync")
            }
            if state.faults.nextSyncFails {
                state.faults.nextSyncFails = false
                state.hasFailed = true
                if !isLatching {
                    state.unlikeVisible = state.durable
                    state.visible.apply(changes)
                    state.hasCleanPages = true
                }
                throw DiskError(.failed, "simulated disk: EIO on sync")
            }
            state.commits += 1
            let isSynced = !state.faults.commitsWithoutSync && !(ends && state.faults.endsUnsynced)
            if !isSynced { state.unlikeVisible = state.durable }
            state.visible.apply(changes)
            if isSynced { state.sync(changes) }
            if ends {
                state.hasEnded = true
                throw SimulatedProcessEnd()
            }
        }
        return result
    }

    public func roomBytes(for purpose: DiskPurpose) throws -> Int {
        try state.withLock { state in
            try check(state)
            guard state.faults.bytesMax < .max else { return .max }
            return max(0, state.faults.bytesMax(for: purpose) - state.visible.bytes)
        }
    }

    public func flush() throws {
        try state.withLock { state in
            try check(state)
            if state.faults.nextFlushFails {
                state.faults.nextFlushFails = false
                state.hasFailed = true
                state.hasCleanPages = state.unlikeVisible != nil
                throw DiskError(.failed, "simulated disk: EIO on sync")
            }
            state.flushes += 1
            guard isLatching else { return state.sync(SimulatedChanges()) }
            // As `LMDBDisk` is opened: what the kernel has given up is read from the disk again.
            if state.hasCleanPages { state.visible = state.durable }
            state.becomeDurable()
        }
    }

    private func check(_ state: borrowing State) throws {
        if state.hasEnded { throw SimulatedProcessEnd() }
        if state.hasFailed, isLatching { throw DiskError(.failed, "simulated disk: an earlier write failed") }
    }
}

extension Array {
    /// The position of the first element whose key is at or above `key`, in an array that is sorted by it. Often it is
    /// behind the last.
    @inline(__always)
    fileprivate func position(of key: DiskKey, _ keyOf: (Element) -> DiskKey) -> Int {
        var low = 0
        var high = count
        if let last, keyOf(last) < key { return high }
        while low < high {
            let middle = (low + high) / 2
            if keyOf(self[middle]) < key { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

/// Sorted keys and values.
struct SimulatedTree {
    struct Item {
        var key: DiskKey
        var value: Bytes
    }
    private(set) var items: [Item] = []
    private(set) var bytes = 0

    /// The position of the first key at or above `key`.
    @inline(__always)
    func position(_ key: DiskKey) -> Int { items.position(of: key, { $0.key }) }

    subscript(key: DiskKey) -> Bytes? {
        get {
            let position = position(key)
            return position < items.count && items[position].key == key ? items[position].value : nil
        }
        set {
            let position = position(key)
            let isThere = position < items.count && items[position].key == key
            bytes += (newValue?.count ?? 0) - (isThere ? items[position].value.count : 0)
            switch (isThere, newValue) {
            case (true, let value?): items[position].value = value
            case (true, nil): items.remove(at: position)
            case (false, let value?): items.insert(Item(key: key, value: value), at: position)
            case (false, nil): break
            }
        }
    }

    mutating func apply(_ changes: SimulatedChanges) {
        for change in changes.all { self[change.key] = change.value }
    }
}

/// What a transaction changes, by key; nil: it is not there any more.
struct SimulatedChanges {
    private(set) var all: [(key: DiskKey, value: Bytes?)] = []

    /// The position of the first key at or above `key`.
    @inline(__always)
    func position(_ key: DiskKey) -> Int { all.position(of: key, { $0.key }) }

    func isChanged(_ key: DiskKey) -> Bool {
        let position = position(key)
        return position < all.count && all[position].key == key
    }

    mutating func set(_ key: DiskKey, _ value: Bytes?) {
        let position = position(key)
        if position < all.count, all[position].key == key {
            all[position].value = value
        } else {
            all.insert((key, value), at: position)
        }
    }
}

/// A tree with changes above it.
struct SimulatedView {
    var tree: SimulatedTree
    var changes = SimulatedChanges()
    private(set) var count: Int
    private(set) var bytes: Int

    init(tree: SimulatedTree) {
        self.tree = tree
        count = tree.items.count
        bytes = tree.bytes
    }

    subscript(key: DiskKey) -> Bytes? {
        get {
            let position = changes.position(key)
            if position < changes.all.count, changes.all[position].key == key { return changes.all[position].value }
            return tree[key]
        }
        set {
            let old = self[key]
            count += (newValue == nil ? 0 : 1) - (old == nil ? 0 : 1)
            bytes += (newValue?.count ?? 0) - (old?.count ?? 0)
            changes.set(key, newValue)
        }
    }

    func withValue<Result>(for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result) throws -> Result {
        guard let value = self[key] else { return try body(nil) }
        return try value.withUnsafeBytes { try body($0) }
    }

    func scan(
        from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        var below = tree.position(first)
        var above = changes.position(first)
        while true {
            let item = below < tree.items.count && tree.items[below].key <= last ? tree.items[below] : nil
            let change = above < changes.all.count && changes.all[above].key <= last ? changes.all[above] : nil
            let key: DiskKey
            var value: Bytes?
            if let change, item.map({ change.key <= $0.key }) ?? true {
                (key, value) = change
                above += 1
                if item?.key == key { below += 1 }
            } else if let item {
                (key, value) = (item.key, item.value)
                below += 1
            } else {
                return
            }
            guard let value else { continue }
            guard try value.withUnsafeBytes({ try body(key, $0) }) else { return }
        }
    }

    func lastKey(from first: DiskKey, through last: DiskKey) -> DiskKey? {
        var above = changes.position(last)
        if above == changes.all.count || changes.all[above].key != last { above -= 1 }
        while above >= 0, changes.all[above].value == nil { above -= 1 }
        var below = tree.position(last)
        if below == tree.items.count || tree.items[below].key != last { below -= 1 }
        while below >= 0, changes.isChanged(tree.items[below].key) { below -= 1 }
        var found: DiskKey?
        if above >= 0 { found = changes.all[above].key }
        if below >= 0 { found = max(found ?? tree.items[below].key, tree.items[below].key) }
        return found.flatMap { $0 >= first ? $0 : nil }
    }
}

public struct SimulatedReader: DiskReader {
    let view: SimulatedView

    public func withValue<Result>(
        for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result
    ) throws -> Result {
        try view.withValue(for: key, body)
    }

    public func scan(
        from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try view.scan(from: first, through: last, body)
    }

    public func lastKey(from first: DiskKey, through last: DiskKey) throws -> DiskKey? {
        view.lastKey(from: first, through: last)
    }

    public func count() throws -> Int { view.count }
}

public struct SimulatedWriter: DiskWriter {
    /// A class: the writer is borrowed by its body, and so changes what it refers to.
    final class Contents {
        var view: SimulatedView
        /// A put was refused: the transaction comes to nothing, whatever follows.
        var isFull = false
        /// Pages that lead to what was deleted are written anew before what it took is free.
        var deletionBytes = 0
        init(tree: SimulatedTree) { view = SimulatedView(tree: tree) }

        /// The end of it: lets go of the tree, so that whoever applies the changes may do so in place.
        func takeChanges() -> SimulatedChanges {
            view.tree = SimulatedTree()
            return view.changes
        }
    }

    private static let highestKey = DiskKey(table: .max, high: .max, low: .max)
    static let full = DiskError(.full, "simulated disk: full")
    /// As LMDB's.
    static let valueBytesMax = Int(UInt32.max)

    /// What a delete takes.
    private static let deletionBytes = 16

    let contents: Contents
    let bytesMax: Int

    init(tree: SimulatedTree, bytesMax: Int) {
        contents = Contents(tree: tree)
        self.bytesMax = bytesMax
    }

    public func withValue<Result>(
        for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result
    ) throws -> Result {
        try contents.view.withValue(for: key, body)
    }

    public func scan(
        from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try contents.view.scan(from: first, through: last, body)
    }

    public func lastKey(from first: DiskKey, through last: DiskKey) throws -> DiskKey? {
        contents.view.lastKey(from: first, through: last)
    }

    public func count() throws -> Int { contents.view.count }

    public func put(
        _ key: DiskKey, count: Int, append: Bool, _ fill: (UnsafeMutableRawBufferPointer) throws -> Void
    ) throws {
        guard count <= Self.valueBytesMax else {
            throw DiskError(.misuse, "simulated disk: a value has less than 4 GiB")
        }
        if append, let last = contents.view.lastKey(from: DiskKey(table: 0), through: Self.highestKey), last >= key {
            throw DiskError(.misuse, "simulated disk: an append is not above all keys")
        }
        try take(count - (contents.view[key]?.count ?? 0))
        // Filled with what nobody expects, so that a place left unwritten shows.
        contents.view[key] = try Bytes(count: count) { place in
            place.initializeMemory(as: UInt8.self, repeating: 0xa5)
            try fill(place)
        }
    }

    @discardableResult public func delete(_ key: DiskKey) throws -> Bool {
        guard let value = contents.view[key] else { return false }
        contents.view[key] = nil
        contents.deletionBytes += Self.deletionBytes + value.count
        try take(0)
        return true
    }

    private func take(_ bytes: Int) throws {
        guard !contents.isFull, bytes <= bytesMax - contents.view.bytes - contents.deletionBytes else {
            contents.isFull = true
            throw Self.full
        }
    }
}
