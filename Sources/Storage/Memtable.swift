// A replica's applied but not yet checkpointed records. Owns nothing on disk; knows no time and no session.

public import Primitives

/// The live memtable of one replica: a hash table over an arena, ordered when asked. One owner (the replica's event
/// loop) and no other reader: so a put overwrites in place whatever it finds; views see frozen memtables only.
///
/// Cost: a put copies key and value once and allocates nothing per record; a get copies what it hands out.
public final class Memtable {
    public let pool: MemtablePool
    private var contents: MemtableContents

    /// - Parameter pool: where memory comes from and goes back to; usually one for all replicas of a host.
    public init(pool: MemtablePool = MemtablePool()) {
        self.pool = pool
        contents = MemtableContents(pool: pool, expected: 0)
    }

    /// Number of keys, tombstones among them.
    public var count: Int { contents.arena.count }
    public var isEmpty: Bool { contents.arena.count == 0 }
    /// Bytes of the distinct records as a run will take them. A key written twice counts once.
    public var distinctBytes: Int { contents.arena.distinctBytes }
    /// Memory taken for records, with what overwritten ones left behind.
    public var arenaBytes: Int { contents.arena.arenaBytes }

    /// Puts a record, or with a nil value a tombstone. Keys over 4 KiB and values over 1 MiB are a programmer's error.
    @inline(__always)
    public func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime = .zero, value: UnsafeRawBufferPointer?
    ) {
        contents.put(sortPrefix(slot, machine), key, revision, changed, expiry, value)
    }

    /// The same, from shared bytes. They are copied, not kept.
    public func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime = .zero, value: Bytes?
    ) {
        if let value {
            value.withUnsafeBytes { contents.put(sortPrefix(slot, machine), key, revision, changed, expiry, $0) }
        } else {
            contents.put(sortPrefix(slot, machine), key, revision, changed, expiry, nil)
        }
    }

    public func put(_ record: Record) {
        record.key.key.withUnsafeBytes {
            put(
                slot: record.key.slot, machine: record.key.machine, key: $0, revision: record.revision,
                changed: record.changed, expiry: record.expiry, value: record.value)
        }
    }

    public func get(_ key: RecordKey) -> Lookup { contents.get(key) }

    /// What is there, for who knows its key; nil: nothing.
    public func value(slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer) -> RecordValue? {
        contents.value(sortPrefix(slot, machine), key)
    }

    /// Whether anything is there, a tombstone too. Copies nothing.
    public func has(slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer) -> Bool {
        contents.has(sortPrefix(slot, machine), key)
    }

    /// Calls `body` with the record in place, or with nil. The view is valid during the call; nothing is copied.
    @inline(__always)
    public func withRecord<Result>(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer,
        _ body: (RecordView?) throws -> Result
    ) rethrows -> Result {
        try body(contents.find(sortPrefix(slot, machine), key))
    }

    /// Calls `body` for the records from a key on, tombstones too, in order, until it returns false. `body` puts
    /// nothing.
    /// Cost: sorts what came since the last time; a pass over all where that is a sixteenth of all and more.
    public func forEach(from first: RecordKey? = nil, _ body: (RecordView) throws -> Bool) rethrows {
        contents.updateOrder()
        try contents.forEachOrdered(from: first, body)
    }

    /// The records from a key on, tombstones too, in order. At least one record if there is any.
    public func page(from first: RecordKey? = nil, end: RecordKey? = nil, recordsMax: Int, bytesMax: Int) -> RecordPage
    {
        contents.updateOrder()
        return contents.page(from: first, end: end, recordsMax: recordsMax, bytesMax: bytesMax)
    }

    /// Adds what each slot's records will take in a run, by the slot's number, of 16,385. Looks at all records, in place:
    /// about a millisecond for 100,000.
    public func add(toBytesOfSlots bytes: inout [UInt64]) { contents.add(toBytesOfSlots: &bytes) }

    /// Gives the contents away; the memtable is empty afterwards. Costs nothing here: who reads in order sorts.
    public func freeze() -> FrozenMemtable {
        let frozen = FrozenMemtable(contents)
        contents = MemtableContents(pool: pool, expected: contents.arena.count / 2)
        return frozen
    }
}

/// Arena and order, in one object that goes from the live memtable to the frozen one.
/// @unchecked: written by the memtable's one owner only, until it is frozen; then only `order` changes, under the
/// frozen
/// memtable's mutex.
final class MemtableContents: @unchecked Sendable {
    var arena: MemtableArena
    private var order = MemtableOrder()

    init(pool: MemtablePool, expected: Int) { arena = MemtableArena(pool: pool, expected: expected) }

    @inline(__always)
    func put(
        _ prefix: UInt32, _ key: UnsafeRawBufferPointer, _ revision: Revision, _ changed: LogIndex, _ expiry: LogTime,
        _ value: UnsafeRawBufferPointer?
    ) {
        arena.put(
            prefix: prefix, key: key, revision: revision, changed: changed, expiry: expiry, isTombstone: value == nil,
            value: value ?? UnsafeRawBufferPointer(start: nil, count: 0))
    }

    @inline(__always)
    func find(_ prefix: UInt32, _ key: UnsafeRawBufferPointer) -> RecordView? {
        arena.find(prefix: prefix, key: key, tag: MemtableArena.hash(prefix, key)).map(MemtableArena.view)
    }

    func value(_ prefix: UInt32, _ key: UnsafeRawBufferPointer) -> RecordValue? {
        find(prefix, key).map { RecordValue($0) }
    }

    func has(_ prefix: UInt32, _ key: UnsafeRawBufferPointer) -> Bool { find(prefix, key) != nil }

    func get(_ key: RecordKey) -> Lookup {
        key.key.withUnsafeBytes { bytes in
            find(key.sortPrefix, bytes).map { Lookup($0.record(key: key)) } ?? .absent
        }
    }

    func updateOrder(isLast: Bool = false) { order.update(&arena, isLast: isLast) }

    var orderedCount: Int { order.count }

    @inline(__always)
    func record(at position: Int) -> RecordView { MemtableArena.view(arena.latest(order.record(at: position))) }

    func add(toBytesOfSlots bytes: inout [UInt64]) {
        arena.forEachStanding { record in
            let view = MemtableArena.view(record)
            guard view.slot <= Slot.group else { return }
            bytes[Int(view.slot.rawValue)] += UInt64(
                RecordEncoding.encodedBytes(sortKeyBytes: view.sortKey.count, valueBytes: view.value.count))
        }
    }

    func position(of key: RecordKey?) -> Int {
        guard let key else { return 0 }
        return key.sortKey.withUnsafeBytes { order.position(of: $0) }
    }

    func forEachOrdered(from first: RecordKey?, _ body: (RecordView) throws -> Bool) rethrows {
        try order.forEach(from: position(of: first)) { try body(MemtableArena.view(arena.latest($0))) }
    }

    func page(from first: RecordKey?, end: RecordKey?, recordsMax: Int, bytesMax: Int) -> RecordPage {
        var page = RecordPage(records: [], next: nil)
        var bytes = 0
        let begin = position(of: first)
        var rest = (end.map { position(of: $0) } ?? order.count) - begin
        guard rest > 0 else { return page }
        order.forEach(from: begin) {
            let record = MemtableArena.view(arena.latest($0))
            let size = RecordEncoding.encodedBytes(sortKeyBytes: record.sortKey.count, valueBytes: record.value.count)
            if !page.records.isEmpty, page.records.count >= recordsMax || bytes + size > bytesMax {
                page.next = record.key
                return false
            }
            page.records.append(record.copy())
            bytes += size
            rest -= 1
            return rest > 0
        }
        return page
    }
}
