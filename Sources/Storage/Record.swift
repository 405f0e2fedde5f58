// Records: what a group's state consists of, as memtables, runs and pages share it. Owns the order of records and
// their limits; how a record lies in a chunk is in RecordView.swift.

public import Primitives

/// What names a record. Ordered by slot, then sub machine, then key bytes, so that a slot is one range.
public struct RecordKey: Hashable, Comparable, Sendable {
    public var slot: Slot
    public var machine: SubMachineNumber
    public var key: Bytes

    @inlinable public init(slot: Slot, machine: SubMachineNumber, key: Bytes) {
        self.slot = slot
        self.machine = machine
        self.key = key
    }

    public static func < (left: RecordKey, right: RecordKey) -> Bool {
        if left.slot != right.slot { return left.slot < right.slot }
        if left.machine != right.machine { return left.machine < right.machine }
        return left.key < right.key
    }

    /// The least key above this one: a scan from here on leaves this one out.
    public var successor: RecordKey {
        RecordKey(
            slot: slot, machine: machine,
            key: Bytes(count: key.count + 1) { place in
                key.withUnsafeBytes { place.copyMemory(from: $0) }
                place[key.count] = 0
            })
    }

    /// The least key of a slot.
    public static func first(of slot: Slot) -> RecordKey {
        RecordKey(slot: slot, machine: SubMachineNumber(0), key: Bytes())
    }

    /// `slot u16 | sub machine u16`, big-endian, then the key: bytes that sort like keys.
    var sortKey: Bytes {
        Bytes(count: RecordLimits.sortPrefixBytes + key.count) { place in
            place.storeBytes(of: sortPrefix, as: UInt32.self)
            key.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: place[RecordLimits.sortPrefixBytes...]).copyMemory(from: $0)
            }
        }
    }

    /// The key of this sort key, which has at least the prefix.
    package init(sortKey: Bytes) {
        let prefix = sortKey.withUnsafeBytes { UInt32(bigEndian: $0.loadUnaligned(as: UInt32.self)) }
        self.init(
            slot: Slot(UInt16(prefix >> 16)), machine: SubMachineNumber(UInt16(truncatingIfNeeded: prefix)),
            key: sortKey[RecordLimits.sortPrefixBytes..<sortKey.count])
    }

    /// The first four bytes of the sort key as they lie in memory.
    @inline(__always) var sortPrefix: UInt32 { Storage.sortPrefix(slot, machine) }
}

@inline(__always) func sortPrefix(_ slot: Slot, _ machine: SubMachineNumber) -> UInt32 {
    (UInt32(slot.rawValue) << 16 | UInt32(machine.rawValue)).bigEndian
}

/// Bounds of a record. Whoever puts records into a memtable has checked them before (a larger one is a programmer's
/// error there); whoever reads them from disk checks them again.
public enum RecordLimits {
    public static let keyBytesMax = 4_096
    public static let valueBytesMax = 1_048_576
    static let sortPrefixBytes = 4
    static let sortKeyBytesMax = sortPrefixBytes + keyBytesMax
}

/// One record of a group's state.
public struct Record: Hashable, Sendable {
    public var key: RecordKey
    /// The group's revision that this change made.
    public var revision: Revision
    /// Index of the entry that changed it last.
    public var changed: LogIndex
    /// When it ends, in the group's log time; zero: never. Nothing here judges it: expiry is a command.
    public var expiry: LogTime
    /// nil: deleted.
    public var value: Bytes?

    @inlinable public init(
        key: RecordKey, revision: Revision, changed: LogIndex, expiry: LogTime = .zero, value: Bytes?
    ) {
        self.key = key
        self.revision = revision
        self.changed = changed
        self.expiry = expiry
        self.value = value
    }

    @inlinable public var isTombstone: Bool { value == nil }
}

/// What one layer, or a view of several, says about a key.
public enum Lookup: Hashable, Sendable {
    /// Nothing: an older layer may know.
    case absent
    /// It was deleted, whatever older layers say.
    case tombstone(Record)
    case found(Record)

    @inlinable init(_ record: Record) { self = record.isTombstone ? .tombstone(record) : .found(record) }

    /// The live record, if that is what was found.
    @inlinable public var record: Record? {
        if case .found(let record) = self { return record }
        return nil
    }
}

/// What a memtable has under a key that whoever asks knows.
public struct RecordValue: Sendable {
    /// nil: it was deleted, whatever older layers say.
    public var value: Bytes?
    public var revision: Revision
    public var expiry: LogTime

    init(_ view: RecordView) {
        value = view.isTombstone ? nil : Bytes(copying: view.value)
        revision = view.revision
        expiry = view.expiry
    }
}

/// Some records in order, and where to go on.
public struct RecordPage: Hashable, Sendable {
    public var records: [Record]
    /// The next page begins here; nil: there is no more.
    public var next: RecordKey?

    public init(records: [Record], next: RecordKey?) {
        self.records = records
        self.next = next
    }

    /// Lays a page of newer changes (it has the tombstones) over an older page that began at the same key. Where one of
    /// them was cut off, the result is cut off too.
    public static func overlaid(newer: RecordPage, older: RecordPage, tombstones keepsTombstones: Bool = false)
        -> RecordPage
    {
        let end: RecordKey? =
            switch (newer.next, older.next) {
            case (let a?, let b?): min(a, b)
            case (let a, let b): a ?? b
            }
        var merged: [Record] = []
        merged.reserveCapacity(newer.records.count + older.records.count)
        var a = 0
        var b = 0
        while a < newer.records.count || b < older.records.count {
            let record: Record
            if b == older.records.count {
                record = newer.records[a]
                a += 1
            } else if a == newer.records.count || older.records[b].key < newer.records[a].key {
                record = older.records[b]
                b += 1
            } else {
                record = newer.records[a]
                if older.records[b].key == record.key { b += 1 }
                a += 1
            }
            if let end, record.key >= end { break }
            if keepsTombstones || !record.isTombstone { merged.append(record) }
        }
        return RecordPage(records: merged, next: end)
    }
}
