// What is due at some log time: how deadlines stand among a group's records, in the order of their times, and the command
// that carries them out. Owns the bytes of both; when to look is the leader's affair, whether it is time is decided when
// the command is applied.

public import Messages
public import Primitives

/// Something that is to be done when the group's log time has come to `time`: sub state machine 6's records, in
/// `Slot.group`, so that all of a group stand in the order of their times.
///
/// Key: `time u64 | index u64 | number u16`, big-endian, 18 bytes. Value: `kind u8 = 1 | slot u16 | machine u16 | key:
/// length u32, bytes`: the record ends that has exactly this expiry. One that was written again meanwhile has another, and
/// is left: so nobody has to read a record in order to write it.
public struct Deadline: Hashable, Sendable {
    /// In log time.
    public var time: LogTime
    /// Of the entry that set it, and which of that entry's: no two deadlines of a group have all three in common.
    public var index: LogIndex
    public var number: UInt16
    /// The record that ends.
    public var place: RecordPosition

    public init(time: LogTime, index: LogIndex, number: UInt16, place: RecordPosition) {
        self.time = time
        self.index = index
        self.number = number
        self.place = place
    }

    static let keyBytes = 18
    private static let recordKind: UInt8 = 1

    /// Of its record.
    public var key: Bytes {
        var writer = ByteWriter(capacity: Self.keyBytes)
        writer.write(time.rawValue.bigEndian)
        writer.write(index.rawValue.bigEndian)
        writer.write(number.bigEndian)
        return writer.take()
    }

    /// The first key that a deadline of this time may have.
    public static func firstKey(at time: LogTime) -> Bytes {
        Deadline(
            time: time, index: .zero, number: 0, place: RecordPosition(slot: .group, machine: .deadlines, key: Bytes())
        ).key
    }

    /// Of its record.
    var value: Bytes {
        var writer = ByteWriter(capacity: 16 + place.key.count)
        writer.write(Self.recordKind)
        writer.write(place.encoded())
        return writer.take()
    }

    /// From its record.
    public init(key: Bytes, value: Bytes) throws(DecodingFailure) {
        guard key.count == Self.keyBytes else {
            throw DecodingFailure(expected: "a deadline's key of \(Self.keyBytes) bytes", found: "\(key.count)")
        }
        var reader = ByteReader(key)
        time = LogTime(UInt64(bigEndian: try reader.read()))
        index = LogIndex(UInt64(bigEndian: try reader.read()))
        number = UInt16(bigEndian: try reader.read())
        guard value.count > 0, value[0] == Self.recordKind else {
            throw DecodingFailure(expected: "a deadline of kind 1", found: value.count > 0 ? "\(value[0])" : "nothing")
        }
        place = try RecordPosition(decoding: value[1..<value.count])
    }

    /// The time in a deadline record's key.
    public static func time(ofKey key: Bytes) -> LogTime {
        key.withUnsafeBytes { $0.count < 8 ? .zero : LogTime(UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self))) }
    }
}

/// Sub state machine 6's command, a leader's alone. Needs feature level `FeatureLevel.deadlines`.
///
/// `1 u8 | version u8 = 1 | count u16 | each: time u64 | index u64 | number u16 | slot u16 | machine u16 | key: length u32,
/// bytes`
///
/// Of each whose time has come by the entry's log time, the record ends if its expiry is that time, and the deadline goes.
/// The others stay.
public struct DeadlineCommand: Hashable, Sendable {
    public var due: [Deadline]

    public init(_ due: [Deadline]) { self.due = due }

    private static let number: UInt8 = 1
    private static let formatVersion: UInt8 = 1
    /// Deadlines in one command.
    public static let countMax = 256
    /// Of their keys together, but for the first one, as a leader puts them into one command.
    public static let keyBytesMax = 64 << 10

    /// A whole payload.
    public func payload() -> Bytes {
        var writer = ByteWriter(capacity: 64 * due.count + 64)
        CommandHeader(machine: .deadlines).encode(into: &writer)
        writer.write(Self.number)
        writer.write(Self.formatVersion)
        writer.write(UInt16(due.count))
        for deadline in due {
            writer.write(deadline.time)
            writer.write(deadline.index)
            writer.write(deadline.number)
            writer.write(deadline.place.encoded())
        }
        return writer.take()
    }

    /// Reads a whole payload, header included.
    init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let (number, version) = (try reader.read(UInt8.self), try reader.read(UInt8.self))
        guard number == Self.number, version == Self.formatVersion else {
            throw DecodingFailure(
                expected: "a command about deadlines, 1 of version 1", found: "\(number) of version \(version)")
        }
        let count = Int(try reader.read(UInt16.self))
        guard count <= Self.countMax else {
            throw DecodingFailure(expected: "at most \(Self.countMax) deadlines", found: "\(count)")
        }
        due = []
        due.reserveCapacity(count)
        for _ in 0..<count {
            due.append(
                Deadline(
                    time: try reader.read(), index: try reader.read(), number: try reader.read(),
                    place: try RecordPosition(from: &reader)))
        }
        try reader.expectEnd()
    }

    /// What it does to records.
    ///
    /// - Throws: some are not in memory.
    func writes(at logTime: LogTime, _ store: any RecordStore) throws(Unready) -> [RecordWrite] {
        var writes: [RecordWrite] = []
        var missing: [RecordPosition] = []
        // Of two deadlines of one record with one time, the first ends it.
        var ended: Set<RecordPosition> = []
        for deadline in due where deadline.time <= logTime || isPlanted("expired-too-soon") {
            let place = deadline.place
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
            writes.append(
                RecordWrite(slot: .group, machine: .deadlines, key: deadline.key, expiry: .zero, value: nil))
        }
        guard missing.isEmpty else { throw Unready(missing) }
        return writes
    }
}
