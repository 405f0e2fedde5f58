// What is due at some log time: how deadlines stand among a group's records, in the order of their times, and the commands
// that carry them out. Owns the bytes of both; when to look is the leader's affair, whether it is time is decided when
// the command is applied.

public import Messages
public import Primitives
import Ring

/// When something is to be done, and which of all that a group has to do: the key of its record, in the order of times.
///
/// `time u64 | index u64 | number u16`, big-endian, 18 bytes; behind it `group u32` if it came with its slot from there.
public struct DeadlineKey: Hashable, Sendable {
    /// In log time.
    public var time: LogTime
    /// Of the entry that set it, and which of that entry's: no two deadlines of a group have all three in common.
    public var index: LogIndex
    public var number: UInt16
    /// The group that set it, if it came from there; `.meta`: it was set here.
    public var origin: GroupID

    public init(time: LogTime, index: LogIndex, number: UInt16, origin: GroupID = .meta) {
        self.time = time
        self.index = index
        self.number = number
        self.origin = origin
    }

    static let bytes = 18
    private static let bytesWithOrigin = 22

    /// Of its record.
    public var key: Bytes {
        var writer = ByteWriter(capacity: Self.bytesWithOrigin)
        writer.write(time.rawValue.bigEndian)
        writer.write(index.rawValue.bigEndian)
        writer.write(number.bigEndian)
        if origin != .meta { writer.write(origin.rawValue.bigEndian) }
        return writer.take()
    }

    /// Where its record is.
    var place: RecordPosition { RecordPosition(slot: .group, machine: .deadlines, key: key) }

    public init(key: Bytes) throws(DecodingFailure) {
        guard key.count == Self.bytes || key.count == Self.bytesWithOrigin else {
            throw DecodingFailure(
                expected: "a deadline's key of \(Self.bytes) or \(Self.bytesWithOrigin) bytes", found: "\(key.count)")
        }
        var reader = ByteReader(key)
        time = LogTime(UInt64(bigEndian: try reader.read()))
        index = LogIndex(UInt64(bigEndian: try reader.read()))
        number = UInt16(bigEndian: try reader.read())
        origin = .meta
        if !reader.isAtEnd {
            origin = GroupID(UInt32(bigEndian: try reader.read()))
            guard origin != .meta else { throw DecodingFailure(expected: "a group with slots", found: "\(origin)") }
        }
    }

    /// In commands: `time u64 | index u64 | number u16`, little-endian as all integers there; where it was set is not said.
    func encode(into writer: inout ByteWriter) {
        writer.write(time)
        writer.write(index)
        writer.write(number)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        (time, index, number) = (try reader.read(), try reader.read(), try reader.read())
        origin = .meta
    }

    /// It is done, or called off.
    var removal: RecordWrite {
        RecordWrite(slot: .group, machine: .deadlines, key: key, expiry: .zero, value: nil)
    }
}

/// Something that is to be done when the group's log time has come to a time: sub state machine 6's records, in
/// `Slot.group`, so that all of a group stand in the order of their times.
///
/// Key: a `DeadlineKey`. Value, `kind u8` first:
///
/// * `1 | slot u16 | machine u16 | key: length u32, bytes`: the record ends that has exactly this expiry. One that was
///   written again meanwhile has another, and is left: so nobody has to read a record in order to write it.
/// * `2 | machine u16 | a MachineRequest`: the command of the machine is applied.
/// * `3 | a Sweep`: the records go that nobody needs any more, some at a time. From feature level 9 on.
/// * `4 | time u64 | machine u16 | a MachineRequest`: as 2, set in another group: when it was due there. From feature level 11
///   on.
public struct Deadline: Hashable, Sendable {
    public enum Purpose: Hashable, Sendable {
        case record(RecordPosition)
        case command(SubMachineNumber, MachineRequest)
        case sweep(Sweep)
    }

    public var key: DeadlineKey
    public var purpose: Purpose
    /// When it was due by the log that it was set in; nil: that is this one.
    public var originTime: LogTime?

    public init(_ key: DeadlineKey, _ purpose: Purpose, originTime: LogTime? = nil) {
        self.key = key
        self.purpose = purpose
        self.originTime = originTime
    }

    /// Of what it changes.
    public var slot: Slot? {
        switch purpose {
        case .record(let place): place.slot
        case .command(_, let request): Ring.slot(of: request.key)
        case .sweep(let sweep): sweep.slot
        }
    }

    /// The number of a scheduled command for whoever scheduled it, wherever that was.
    func handle(in group: GroupID) -> ScheduledCommand {
        ScheduledCommand(
            key.origin == .meta ? group : key.origin,
            DeadlineKey(time: originTime ?? key.time, index: key.index, number: key.number))
    }

    /// It is done, or called off.
    var removals: [RecordWrite] {
        key.origin == .meta ? [key.removal] : [key.removal, MovedTimer(of: key, in: key.origin).removal]
    }

    public var endsARecord: Bool { if case .record = purpose { true } else { false } }
    public var isCommand: Bool { if case .command = purpose { true } else { false } }

    private enum Kind {
        static let record: UInt8 = 1
        static let command: UInt8 = 2
        static let sweep: UInt8 = 3
        static let movedCommand: UInt8 = 4
    }

    /// The first key that a deadline of this time may have.
    public static func firstKey(at time: LogTime) -> Bytes { DeadlineKey(time: time, index: .zero, number: 0).key }

    /// What sets it.
    var write: RecordWrite {
        var writer = ByteWriter(capacity: 64)
        switch purpose {
        case .record(let place):
            writer.write(Kind.record)
            writer.write(place.encoded())
        case .command(let machine, let request):
            writer.write(originTime == nil ? Kind.command : Kind.movedCommand)
            if let originTime { writer.write(originTime) }
            writer.write(machine)
            request.encode(into: &writer)
        case .sweep(let sweep):
            writer.write(Kind.sweep)
            sweep.encode(into: &writer)
        }
        return RecordWrite(slot: .group, machine: .deadlines, key: key.key, expiry: .zero, value: writer.take())
    }

    /// From its record.
    public init(key: Bytes, value: Bytes) throws(DecodingFailure) {
        self.key = try DeadlineKey(key: key)
        var reader = ByteReader(value)
        switch try reader.read(UInt8.self) {
        case Kind.record: purpose = .record(try RecordPosition(decoding: reader.readRest()))
        case Kind.command:
            let machine = try reader.read(SubMachineNumber.self)
            purpose = .command(machine, try MachineRequest(decoding: reader.readRest()))
        case Kind.sweep:
            purpose = .sweep(try Sweep(from: &reader))
            try reader.expectEnd()
        case Kind.movedCommand:
            originTime = try reader.read()
            let machine = try reader.read(SubMachineNumber.self)
            purpose = .command(machine, try MachineRequest(decoding: reader.readRest()))
        case let kind: throw DecodingFailure(expected: "a deadline of kind 1 to 4", found: "\(kind)")
        }
    }

    /// The time in a deadline record's key.
    public static func time(ofKey key: Bytes) -> LogTime {
        key.withUnsafeBytes { $0.count < 8 ? .zero : LogTime(UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self))) }
    }
}

/// Sub state machine 6's commands, a leader's alone. They need feature level `FeatureLevel.deadlines`. Of what they name,
/// that is done whose time has come by the entry's log time, and its deadline goes; the rest stays.
///
/// * `1 u8 | version u8 = 1 | count u16 | each: deadline (time u64, index u64, number u16), slot u16, machine u16, key:
///   length u32, bytes`: each record ends if its expiry is that time.
/// * `2 u8 | version u8 = 1 | deadline`: the command that stands there is applied, if the deadline is still there. Behind it
///   `group u32` if it came with its slot from there.
/// * `3 u8 | version u8 = 1 | count u16 | each a SweepStep`: steps of sweeps that are still there; from feature level 9 on.
public enum DeadlineCommand: Hashable, Sendable {
    public struct Ending: Hashable, Sendable {
        public var deadline: DeadlineKey
        /// The record that ends.
        public var place: RecordPosition

        public init(_ deadline: DeadlineKey, _ place: RecordPosition) {
            self.deadline = deadline
            self.place = place
        }
    }

    /// None: it notes how far log time is.
    case end([Ending])
    case fire(DeadlineKey)
    case sweep([SweepStep])

    private enum Number {
        static let end: UInt8 = 1
        static let fire: UInt8 = 2
        static let sweep: UInt8 = 3
    }
    private static let formatVersion: UInt8 = 1
    /// Deadlines in one command.
    public static let countMax = 256
    /// Records that one step of a sweep deletes.
    public static let sweptMax = 1_024
    /// Of their keys together, but for the first one, as a leader puts them into one command.
    public static let keyBytesMax = 64 << 10

    /// A whole payload.
    public func payload() -> Bytes {
        var writer = ByteWriter(capacity: 128)
        CommandHeader(machine: .deadlines).encode(into: &writer)
        switch self {
        case .end(let endings):
            writer.write(Number.end)
            writer.write(Self.formatVersion)
            writer.write(UInt16(endings.count))
            for ending in endings {
                ending.deadline.encode(into: &writer)
                writer.write(ending.place.encoded())
            }
        case .fire(let deadline):
            writer.write(Number.fire)
            writer.write(Self.formatVersion)
            deadline.encode(into: &writer)
            if deadline.origin != .meta { writer.write(deadline.origin) }
        case .sweep(let steps):
            writer.write(Number.sweep)
            writer.write(Self.formatVersion)
            writer.write(UInt16(steps.count))
            for step in steps { step.encode(into: &writer) }
        }
        return writer.take()
    }

    /// Reads a whole payload, header included.
    package init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let (number, version) = (try reader.read(UInt8.self), try reader.read(UInt8.self))
        switch (number, version) {
        case (Number.end, Self.formatVersion):
            let count = Int(try reader.read(UInt16.self))
            guard count <= Self.countMax else {
                throw DecodingFailure(expected: "at most \(Self.countMax) deadlines", found: "\(count)")
            }
            var endings: [Ending] = []
            endings.reserveCapacity(count)
            for _ in 0..<count {
                endings.append(Ending(try DeadlineKey(from: &reader), try RecordPosition(from: &reader)))
            }
            self = .end(endings)
        case (Number.fire, Self.formatVersion):
            var deadline = try DeadlineKey(from: &reader)
            if !reader.isAtEnd { deadline.origin = try reader.read() }
            self = .fire(deadline)
        case (Number.sweep, Self.formatVersion):
            let count = Int(try reader.read(UInt16.self))
            guard count <= Self.countMax else {
                throw DecodingFailure(expected: "at most \(Self.countMax) sweeps", found: "\(count)")
            }
            var steps: [SweepStep] = []
            for _ in 0..<count { steps.append(try SweepStep(from: &reader)) }
            self = .sweep(steps)
        default:
            throw DecodingFailure(
                expected: "a command about deadlines, 1 to 3 of version 1", found: "\(number) of version \(version)")
        }
        try reader.expectEnd()
    }
}

extension [DeadlineCommand.Ending] {
    /// What they do to records.
    ///
    /// - Throws: some are not in memory.
    func writes(at logTime: LogTime, _ store: any RecordStore) throws(Unready) -> [RecordWrite] {
        var writes: [RecordWrite] = []
        var missing: [RecordPosition] = []
        // Of two deadlines of one record with one time, the first ends it.
        var ended: Set<RecordPosition> = []
        for ending in self where ending.deadline.time <= logTime || isPlanted("expired-too-soon") {
            let (deadline, place) = (ending.deadline, ending.place)
            switch store.find(place) {
            case .elsewhere: missing.append(place)
            case .absent: break
            case .found(let record):
                guard record.expiry == deadline.time || isPlanted("expired-though-written-again"),
                    ended.insert(place).inserted
                else { break }
                // A deletion with an expiry is one because of it.
                writes.append(
                    RecordWrite(
                        slot: place.slot, machine: place.machine, key: place.key, expiry: deadline.time, value: nil))
            }
            writes.append(deadline.removal)
        }
        guard missing.isEmpty else { throw Unready(missing) }
        return writes
    }
}
