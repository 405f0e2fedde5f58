// The ring: which group owns which slot, and since which epoch. Owns the table and its encoding. Who should own what is
// the planner's business; who decides a change is the meta group's.

public import Primitives

/// Slot → group, with an epoch that each change of ownership raises by one. Every slot also remembers the epoch of its
/// own last change: that is the slot's epoch, which requests carry and `moved` answers, and what deltas are made of.
///
/// Owner 0 (the meta group, which never owns a slot) means that nobody owns the slot.
/// Takes 192 KiB; a copy is shared until it is changed.
public struct SlotTable: Hashable, Sendable {
    /// Of the last change known here; 0 before the first.
    public private(set) var epoch: Epoch
    private var owners: [GroupID]
    private var changes: [Epoch]

    /// Of a new cluster's table: no slot has moved.
    public static let firstEpoch = Epoch(1)

    /// Nobody owns anything, epoch 0.
    public init() {
        epoch = .zero
        owners = Array(repeating: .meta, count: Slot.count)
        changes = Array(repeating: .zero, count: Slot.count)
    }

    /// A whole table, every slot changed at `epoch`. `owners` has one group for each of the 16,384 slots.
    public init(epoch: Epoch, owners: [GroupID]) {
        precondition(owners.count == Slot.count, "a table has one owner for each slot")
        self.epoch = epoch
        self.owners = owners
        changes = Array(repeating: epoch, count: Slot.count)
    }

    /// The group that owns the slot; nil if nobody does or if the number is no slot of the ring.
    public func owner(of slot: Slot) -> GroupID? {
        guard slot.rawValue < UInt16(Slot.count) else { return nil }
        let owner = owners[Int(slot.rawValue)]
        return owner == .meta ? nil : owner
    }

    /// The epoch at which the slot got its owner; 0 if it never had one or if the number is no slot of the ring.
    public func epoch(of slot: Slot) -> Epoch {
        guard slot.rawValue < UInt16(Slot.count) else { return .zero }
        return changes[Int(slot.rawValue)]
    }

    /// The group's slots, ascending. Reads the whole table.
    public func slots(of group: GroupID) -> [Slot] {
        owners.indices.filter { owners[$0] == group && group != .meta }.map { Slot(UInt16($0)) }
    }

    /// How many slots each owner has, by group, ascending. Slots without an owner are not counted.
    public func counts() -> [(group: GroupID, slots: Int)] {
        var counts: [(group: GroupID, slots: Int)] = []
        for owner in owners.sorted() where owner != .meta {
            if counts.last?.group == owner { counts[counts.count - 1].slots += 1 } else { counts.append((owner, 1)) }
        }
        return counts
    }

    /// An owner that is not among `groups`, which ascend; nil if all are. Takes a byte for each number up to the last
    /// group's.
    func owner(outside groups: [GroupID]) -> GroupID? {
        var isKnown = Array(repeating: false, count: Int(groups.last?.rawValue ?? 0) + 1)
        isKnown[Int(GroupID.meta.rawValue)] = true
        for group in groups { isKnown[Int(group.rawValue)] = true }
        return owners.first { $0.rawValue >= UInt32(isKnown.count) || !isKnown[Int($0.rawValue)] }
    }

    /// Every slot has an owner.
    public var isComplete: Bool { !owners.contains(.meta) }

    /// Gives the slots to the group in one change: the epoch goes up by one. Slots that it already owns are left alone;
    /// the epoch goes up in any case. Numbers outside the ring are a programmer's error.
    public mutating func assign(_ slots: [Slot], to group: GroupID) {
        epoch = epoch.next
        for slot in slots where owners[Int(slot.rawValue)] != group {
            owners[Int(slot.rawValue)] = group
            changes[Int(slot.rawValue)] = epoch
        }
    }

    /// Gives the slots to the group in one change, those that it owns already too: whatever was sent before is of an epoch of
    /// the past. For recoveries. Numbers outside the ring are a programmer's error.
    public mutating func renew(_ slots: [Slot], for group: GroupID) {
        epoch = epoch.next
        for slot in slots {
            owners[Int(slot.rawValue)] = group
            changes[Int(slot.rawValue)] = epoch
        }
    }

    /// As if their last change had been at this epoch, of a table that others know nothing of. For recoveries.
    public mutating func restore(_ slots: [Slot], since epoch: Epoch) {
        precondition(epoch <= self.epoch, "a slot's last change is not behind the table's")
        for slot in slots { changes[Int(slot.rawValue)] = epoch }
    }

    /// No change is of an epoch up to this one any more.
    public mutating func raise(beyond other: Epoch) { epoch = max(epoch, other) }

    // MARK: - What a client learns bit by bit

    /// Takes the answer `moved(group, epoch)` for one slot, unless something as new is known. The table's own epoch
    /// stays: the rest of that epoch's changes is not known yet. Returns whether it was news.
    @discardableResult
    public mutating func learn(_ slot: Slot, owner: GroupID, epoch: Epoch) -> Bool {
        guard slot.rawValue < UInt16(Slot.count), epoch > changes[Int(slot.rawValue)] else { return false }
        owners[Int(slot.rawValue)] = owner
        changes[Int(slot.rawValue)] = epoch
        return true
    }

    /// Takes what is newer in another table, slot by slot: no slot's epoch is ever lowered.
    public mutating func merge(_ other: SlotTable) {
        for slot in 0..<Slot.count where other.changes[slot] > changes[slot] {
            owners[slot] = other.owners[slot]
            changes[slot] = other.changes[slot]
        }
        epoch = max(epoch, other.epoch)
    }

    // MARK: - Deltas

    /// All that changed after `since`.
    public func delta(since: Epoch) -> SlotTableDelta {
        SlotTableDelta(from: since, to: epoch, runs: runs { changes[$0] > since })
    }

    /// Applies a delta that begins at or below this table's epoch. Returns false, and changes nothing, if changes
    /// between this table and the delta's beginning are missing: then the whole table is needed.
    public mutating func apply(_ delta: SlotTableDelta) -> Bool {
        guard delta.from <= epoch else { return false }
        for run in delta.runs {
            for slot in run.slots where run.changed > changes[slot] {
                owners[slot] = run.group
                changes[slot] = run.changed
            }
        }
        epoch = max(epoch, delta.to)
        return true
    }

    /// The table as runs of neighbours with one owner and one epoch, ascending.
    public func runs() -> [SlotRun] { runs { _ in true } }

    private func runs(where isWanted: (Int) -> Bool) -> [SlotRun] {
        var runs: [SlotRun] = []
        for slot in 0..<Slot.count where isWanted(slot) {
            if let last = runs.last, last.slots.upperBound == slot, last.group == owners[slot],
                last.changed == changes[slot]
            {
                runs[runs.count - 1].count += 1
            } else {
                runs.append(SlotRun(first: Slot(UInt16(slot)), count: 1, group: owners[slot], changed: changes[slot]))
            }
        }
        return runs
    }
}

extension SlotTable: CustomStringConvertible {
    public var description: String { "slot table at epoch \(epoch) with \(runs().count) runs" }
}

/// Neighbouring slots with one owner since one epoch.
public struct SlotRun: Hashable, Sendable {
    public var first: Slot
    public var count: UInt16
    /// 0: nobody.
    public var group: GroupID
    public var changed: Epoch

    public init(first: Slot, count: UInt16, group: GroupID, changed: Epoch) {
        self.first = first
        self.count = count
        self.group = group
        self.changed = changed
    }

    public var slots: Range<Int> { Int(first.rawValue)..<Int(first.rawValue) + Int(count) }
}

/// What changed in the ring after epoch `from`, up to epoch `to`.
public struct SlotTableDelta: Hashable, Sendable {
    public var from: Epoch
    public var to: Epoch
    /// Ascending, not overlapping, inside the ring.
    public fileprivate(set) var runs: [SlotRun]
}

extension SlotTable {
    public static let formatVersion: UInt16 = 1

    /// `version u16 = 1 | epoch u64 | runs u32 | each: slots u16, group u32, changed u64`. The runs follow each other
    /// without a gap and cover the ring. At most 230 KB, when no two neighbours are alike.
    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(epoch)
        let runs = runs()
        writer.write(UInt32(runs.count))
        for run in runs {
            writer.write(run.count)
            writer.write(run.group)
            writer.write(run.changed)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a slot table of version 1", found: "version \(version)")
        }
        self.init()
        epoch = try reader.read()
        var slot = 0
        for run in try SlotRun.readList(&reader, areContiguous: true, through: epoch) {
            guard run.slots.lowerBound == slot else {
                throw DecodingFailure(expected: "a run from slot \(slot)", found: "one from \(run.first)")
            }
            for slot in run.slots {
                owners[slot] = run.group
                changes[slot] = run.changed
            }
            slot = run.slots.upperBound
        }
        guard slot == Slot.count else {
            throw DecodingFailure(expected: "runs of \(Slot.count) slots", found: "runs of \(slot)")
        }
    }
}

extension SlotTableDelta {
    public static let formatVersion: UInt16 = 1

    /// `version u16 = 1 | from u64 | to u64 | runs u32 | each: first u16, slots u16, group u32, changed u64`
    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(from)
        writer.write(to)
        writer.write(UInt32(runs.count))
        for run in runs {
            writer.write(run.first)
            writer.write(run.count)
            writer.write(run.group)
            writer.write(run.changed)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a slot table's delta of version 1", found: "version \(version)")
        }
        from = try reader.read()
        to = try reader.read()
        runs = try SlotRun.readList(&reader, areContiguous: false, through: to)
    }
}

extension SlotRun {
    /// Reads runs, ascending, not empty, not overlapping, inside the ring, changed at or before `through`. Contiguous
    /// runs are written without their first slot.
    fileprivate static func readList(
        _ reader: inout ByteReader, areContiguous: Bool, through: Epoch
    ) throws(DecodingFailure) -> [SlotRun] {
        let count = Int(try reader.read(UInt32.self))
        guard count <= Slot.count else {
            throw DecodingFailure(expected: "at most \(Slot.count) runs of slots", found: "\(count)")
        }
        let size = areContiguous ? 14 : 16
        try reader.check(count: count, ofSize: size)
        // All at once: a ring of many groups has nearly as many runs as slots.
        let bytes = try reader.readBytes(count: count * size)
        return try bytes.withUnsafeBytes { (bytes) throws(DecodingFailure) in
            try readList(bytes, size: size, areContiguous: areContiguous, through: through)
        }
    }

    private static func readList(
        _ bytes: UnsafeRawBufferPointer, size: Int, areContiguous: Bool, through: Epoch
    ) throws(DecodingFailure) -> [SlotRun] {
        func read<Integer: FixedWidthInteger>(at offset: Int) -> Integer {
            Integer(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Integer.self))
        }
        var runs: [SlotRun] = []
        runs.reserveCapacity(bytes.count / size)
        var end = 0
        for start in stride(from: 0, to: bytes.count, by: size) {
            let place = start + size - 14
            let run = SlotRun(
                first: Slot(areContiguous ? UInt16(end) : read(at: start)), count: read(at: place),
                group: GroupID(read(at: place + 2)), changed: Epoch(read(at: place + 6)))
            guard run.count > 0, run.slots.lowerBound >= end, run.slots.upperBound <= Slot.count else {
                throw DecodingFailure(
                    expected: "a run of slots after \(end) and inside the ring",
                    found: "\(run.count) from \(run.first)")
            }
            guard run.changed <= through else {
                throw DecodingFailure(expected: "a change up to epoch \(through)", found: "one of epoch \(run.changed)")
            }
            end = run.slots.upperBound
            runs.append(run)
        }
        return runs
    }
}
