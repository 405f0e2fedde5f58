// What one replica says of slots: how they stand by its group's own log, and of which it has records. For whoever proves that
// each slot is in one place. A query of sub state machine 5, and its answer.

public import Messages
public import Primitives
public import Ring

/// Asks a replica, of whatever role: its answer is of what it has applied.
///
/// `3 u8 | from: length u32, bytes`
public struct SlotContentsQuery: Message, Hashable {
    package static let number: UInt8 = 3
    /// Where the answer begins, as a `RecordPosition`: `next` of the one before; empty: the beginning.
    public var from: Bytes

    public init(from next: Bytes = Bytes()) { from = next }

    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.number)
        writer.writeWithLength(from)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard number == Self.number else {
            throw DecodingFailure(expected: "a query about slots of kind \(Self.number)", found: "kind \(number)")
        }
        from = try reader.readBytesWithLength(limit: MigrationPage.positionBytesMax)
        if !from.isEmpty { _ = try RecordPosition(decoding: from) }
    }
}

/// A part of the answer; gates and tasks come with the first.
///
/// `version u8 = 1 | map version u64 | gates u32 | each: slot u16, standing u8, migration u64, group u32, epoch u64 | tasks
/// u32 | each: migration u64, is source u8, group u32, slots | filled: runs u32, each first u16, count u16 | next: length u32, bytes,
/// empty at the end`
public struct SlotContents: Message, Hashable {
    public var mapVersion: UInt64
    /// Of which the group's log says something; ascending.
    public var gates: [RingProof.Gate]
    public var tasks: [RingProof.Task]
    /// With records, from where it was asked for to `next`; ascending.
    public var filled: [Slot]
    /// The first place that was not looked at, as a `RecordPosition`; empty: that is all.
    public var next: Bytes

    public init(
        mapVersion: UInt64, gates: [RingProof.Gate] = [], tasks: [RingProof.Task] = [], filled: [Slot] = [],
        next: Bytes = Bytes()
    ) {
        self.mapVersion = mapVersion
        self.gates = gates
        self.tasks = tasks
        self.filled = filled
        self.next = next
    }

    private static let formatVersion: UInt8 = 1

    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(mapVersion)
        writer.write(UInt32(gates.count))
        for gate in gates {
            writer.write(gate.slot)
            writer.write(gate.standing.rawValue)
            writer.write(gate.migration)
            writer.write(gate.group)
            writer.write(gate.epoch)
        }
        writer.write(UInt32(tasks.count))
        for task in tasks {
            writer.write(task.migration)
            writer.write(task.isSource)
            writer.write(task.group)
            writer.write(slots: task.slots)
        }
        writer.write(slots: filled)
        writer.writeWithLength(next)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "contents of slots of version 1", found: "version \(version)")
        }
        mapVersion = try reader.read()
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: 23)
        gates = []
        gates.reserveCapacity(count)
        for _ in 0..<count {
            let slot = try reader.read(Slot.self)
            guard slot < Slot.group, gates.last.map({ $0.slot < slot }) ?? true else {
                throw DecodingFailure(expected: "slots of the ring in ascending order", found: "\(slot)")
            }
            let standing = try reader.read(UInt8.self)
            guard let standing = RingProof.Standing(rawValue: standing) else {
                throw DecodingFailure(expected: "how a slot stands, 1 to 4", found: "\(standing)")
            }
            gates.append(
                RingProof.Gate(
                    slot: slot, standing: standing, migration: try reader.read(), group: try reader.read(),
                    epoch: try reader.read()))
        }
        let taskCount = Int(try reader.read(UInt32.self))
        try reader.check(count: taskCount, ofSize: 17)
        tasks = []
        for _ in 0..<taskCount {
            let (id, isSource) = (try reader.read(MigrationID.self), try reader.readBool())
            let group = try reader.read(GroupID.self)
            tasks.append(
                RingProof.Task(migration: id, isSource: isSource, group: group, slots: try reader.readSlots()))
        }
        let runs = Int(try reader.read(UInt32.self))
        try reader.check(count: runs, ofSize: 4)
        filled = []
        for _ in 0..<runs {
            let (first, count) = (Int(try reader.read(UInt16.self)), Int(try reader.read(UInt16.self)))
            guard count > 0, first + count <= Slot.count, filled.last.map({ Int($0.rawValue) < first }) ?? true else {
                throw DecodingFailure(expected: "runs of slots in ascending order", found: "\(count) from \(first)")
            }
            for slot in first..<first + count { filled.append(Slot(UInt16(slot))) }
        }
        next = try reader.readBytesWithLength(limit: MigrationPage.positionBytesMax)
        if !next.isEmpty { _ = try RecordPosition(decoding: next) }
    }
}

extension SlotOwnership {
    /// What the group's log says of slots, ascending; and of what it does for migrations.
    package var statement: (gates: [RingProof.Gate], tasks: [RingProof.Task]) {
        let gates = marks.map { slot, mark in
            RingProof.Gate(
                slot: slot, standing: RingProof.Standing(rawValue: mark.standing.rawValue)!, migration: mark.migration,
                group: mark.group, epoch: mark.epoch)
        }
        return (
            gates.sorted { $0.slot < $1.slot },
            tasks.map {
                RingProof.Task(migration: $0.id, isSource: $0.isSource, group: $0.group, slots: $0.slots)
            }
        )
    }
}
