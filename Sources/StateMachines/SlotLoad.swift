// What a group's leader says of the load of its slots to whoever asks: a query of sub state machine 5, and its answer.

public import Messages
public import Primitives
public import Ring

/// Asks for the bytes and operations of a group's slots.
///
/// `1 u8`
public struct SlotLoadQuery: Message, Hashable {
    static let number: UInt8 = 1

    public init() {}

    public func encode(into writer: inout ByteWriter) { writer.write(Self.number) }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard number == Self.number else {
            throw DecodingFailure(expected: "a query about slots of kind \(Self.number)", found: "kind \(number)")
        }
    }
}

/// What was measured of a slot.
public struct SlotLoad: Hashable, Sendable {
    public var slot: Slot
    /// That its records take in one replica's state, on disk and in memory; see `GroupLoad`.
    public var bytes: UInt64
    /// Commands and reads that the leader answered in a thousand seconds, at the rate of the last ones: so that less than
    /// one per second shows.
    public var operationsPer1000Seconds: UInt32

    static let encodedBytes = 14

    public init(slot: Slot, bytes: UInt64, operationsPer1000Seconds: UInt32) {
        self.slot = slot
        self.bytes = bytes
        self.operationsPer1000Seconds = operationsPer1000Seconds
    }

    public var operationsPerSecond: Double { Double(operationsPer1000Seconds) / 1_000 }
}

/// A group's load, as its leader measured it.
///
/// A slot's bytes are an estimate. On disk it is off by 128 KiB at most for each run, of which a replica has some eight; in
/// memory it is exact. Versions of a record that are not merged yet count each, so that the sum is at most what the state
/// takes, but for indexes and filters, some hundredth of it. Followers have the same records, merged at other times.
///
/// Its operations are commands applied and reads served by this leader in the last ten to twenty seconds, or since it
/// began to lead; who asks other replicas is not counted.
///
/// `state u64 | memtables u64 | other u64 | seconds u32 | slots u32 | each: slot u16, bytes u64, operations u32`
public struct GroupLoad: Message, Hashable {
    /// Of the leader's state on disk: all runs.
    public var stateBytes: UInt64
    /// Of records that are not on disk yet but for the log.
    public var memtableBytes: UInt64
    /// Of both, what is none of its slots': of sessions, and of slots that it has no more or not yet.
    public var otherBytes: UInt64
    /// That the operations were counted for; 0: not for one yet.
    public var seconds: UInt32
    /// Of those that the group owns, those that have records or were asked for; ascending.
    public var slots: [SlotLoad]

    public init(
        stateBytes: UInt64, memtableBytes: UInt64, otherBytes: UInt64, seconds: UInt32, slots: [SlotLoad]
    ) {
        self.stateBytes = stateBytes
        self.memtableBytes = memtableBytes
        self.otherBytes = otherBytes
        self.seconds = seconds
        self.slots = slots
    }

    /// For the planner: all slots that a map gives the group, those that have nothing too. Operations in thousandths per
    /// second, so that many slots with less than one count.
    public func slotLoads(of group: GroupID, in map: ClusterMap) -> [RebalanceInput.SlotLoad] {
        var next = slots[...]
        return map.ring.slots(of: group).map { slot in
            while let first = next.first, first.slot < slot { next.removeFirst() }
            guard let found = next.first, found.slot == slot else {
                return RebalanceInput.SlotLoad(slot: slot, bytes: 0, operations: 0)
            }
            return RebalanceInput.SlotLoad(
                slot: slot, bytes: found.bytes, operations: UInt64(found.operationsPer1000Seconds))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        for number in [stateBytes, memtableBytes, otherBytes] { writer.write(number) }
        writer.write(seconds)
        writer.write(UInt32(slots.count))
        for load in slots {
            writer.write(load.slot)
            writer.write(load.bytes)
            writer.write(load.operationsPer1000Seconds)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        stateBytes = try reader.read()
        memtableBytes = try reader.read()
        otherBytes = try reader.read()
        seconds = try reader.read()
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: SlotLoad.encodedBytes)
        slots = []
        slots.reserveCapacity(count)
        for _ in 0..<count {
            let load = SlotLoad(
                slot: try reader.read(), bytes: try reader.read(), operationsPer1000Seconds: try reader.read())
            guard load.slot < Slot.group, slots.last.map({ $0.slot < load.slot }) ?? true else {
                throw DecodingFailure(expected: "slots of the ring in ascending order", found: "\(load.slot)")
            }
            slots.append(load)
        }
    }
}
