// The key-value machine's transaction: conditions on keys of one slot, and what is done if they all hold or if one does
// not. Owns its bytes and its limits, and how it is applied.

public import Messages
public import Primitives
import Ring

/// Sub state machine 1's third command: if all conditions hold, `then` is done, else `otherwise`; all of it or nothing,
/// at one revision. All keys lie in one slot. Needs feature level `FeatureLevel.transactions`.
///
/// `3 u8 | version u8 = 1 | conditions u16 | then u16 | otherwise u16 | each condition | each operation`
public struct KeyValueTransaction: Hashable, Sendable {
    /// What must be true of a key.
    ///
    /// `kind u8 | key: length u16, bytes | operand`: 1 absent, 2 present, 3 revision, 4 olderThan, 5 newerThan (each with
    /// a u64), 6 value, 7 otherThan (each with length u32, bytes).
    public struct Condition: Hashable, Sendable {
        public enum Test: Hashable, Sendable {
            case absent
            case present
            /// It got its value at this revision. An absent key has none, and fulfils neither of these three.
            case revision(Revision)
            case olderThan(Revision)
            case newerThan(Revision)
            case value(Bytes)
            /// It is there and has another value than this.
            case otherThan(Bytes)
        }
        public var key: Bytes
        public var test: Test

        public init(_ key: Bytes, _ test: Test) {
            self.key = key
            self.test = test
        }
    }

    /// `kind u8 | key: length u16, bytes | operand`: 1 put (time to live u64, value: length u32, bytes), 2 delete, 3 get.
    public enum Operation: Hashable, Sendable {
        /// Milliseconds of log time; 0: for ever. Anything else needs feature level `FeatureLevel.deadlines`.
        case put(key: Bytes, value: Bytes, timeToLiveMillis: UInt64 = 0)
        case delete(key: Bytes)
        /// Sees what the operations before it did.
        case get(key: Bytes)

        public var key: Bytes {
            switch self {
            case .put(let key, _, _), .delete(let key), .get(let key): key
            }
        }
    }

    public var conditions: [Condition]
    public var then: [Operation]
    public var otherwise: [Operation]

    public init(if conditions: [Condition] = [], then: [Operation] = [], otherwise: [Operation] = []) {
        self.conditions = conditions
        self.then = then
        self.otherwise = otherwise
    }

    static let number: UInt8 = 3
    static let formatVersion: UInt8 = 1
    /// Conditions and operations together.
    public static let partsMax = 256
    /// Of all keys and values together, in bytes; and of what its gets find.
    public static let bytesMax = Limits.valueBytesMax + Limits.keyBytesMax

    /// Of all values that it reads, for its conditions too: so much may have to be in memory at once.
    static let readBytesMax = 8 << 20

    /// Every key that it names, with repetitions.
    public var keys: [Bytes] { conditions.map(\.key) + then.map(\.key) + otherwise.map(\.key) }

    /// It has a put with a time to live.
    var setsDeadlines: Bool {
        (then + otherwise).contains { if case .put(_, _, 1...) = $0 { true } else { false } }
    }

    /// Whether it can make the state grow.
    var bringsDataIn: Bool {
        (then + otherwise).contains { if case .put = $0 { true } else { false } }
    }

    /// Why a client's or a host's check turns it down; nil if it may be proposed.
    public func problem() -> Refusal? {
        let parts = conditions.count + then.count + otherwise.count
        guard parts <= Self.partsMax else {
            return .tooLarge("a transaction has at most \(Self.partsMax) conditions and operations, not \(parts)")
        }
        let keys = keys
        guard let first = keys.first else { return .invalid("the transaction names no key") }
        let slot = Ring.slot(of: first)
        var bytes = 0
        for key in keys {
            if let problem = KeyValue.problem(ofKeyOf: key.count) { return problem }
            guard Ring.slot(of: key) == slot else {
                return .invalid(
                    "all keys of a transaction lie in one slot, and these are in slots \(slot) and "
                        + "\(Ring.slot(of: key)): give keys that belong together the same part in braces")
            }
            bytes += key.count
        }
        for condition in conditions {
            switch condition.test {
            case .value(let value), .otherThan(let value):
                if let problem = KeyValue.problem(ofValueOf: value.count, timeToLiveMillis: 0) { return problem }
                bytes += value.count
            default: break
            }
        }
        for case .put(_, let value, let timeToLive) in then + otherwise {
            if let problem = KeyValue.problem(ofValueOf: value.count, timeToLiveMillis: timeToLive) { return problem }
            bytes += value.count
        }
        guard bytes <= Self.bytesMax else {
            return .tooLarge("keys and values of a transaction have at most \(Self.bytesMax) bytes, not \(bytes)")
        }
        return nil
    }

    // MARK: Bytes

    /// A whole payload: header and command.
    public func payload(header: CommandHeader = CommandHeader(machine: .keyValue)) -> Bytes {
        var writer = ByteWriter(capacity: 512)
        header.encode(into: &writer)
        writer.write(Self.number)
        writer.write(Self.formatVersion)
        writer.write(UInt16(conditions.count))
        writer.write(UInt16(then.count))
        writer.write(UInt16(otherwise.count))
        for condition in conditions {
            switch condition.test {
            case .absent: write(1, condition.key, into: &writer)
            case .present: write(2, condition.key, into: &writer)
            case .revision(let revision): write(3, condition.key, revision, into: &writer)
            case .olderThan(let revision): write(4, condition.key, revision, into: &writer)
            case .newerThan(let revision): write(5, condition.key, revision, into: &writer)
            case .value(let value): write(6, condition.key, value, into: &writer)
            case .otherThan(let value): write(7, condition.key, value, into: &writer)
            }
        }
        for operation in then + otherwise {
            switch operation {
            case .put(let key, let value, let timeToLive):
                write(1, key, into: &writer)
                writer.write(timeToLive)
                writer.writeWithLength(value)
            case .delete(let key): write(2, key, into: &writer)
            case .get(let key): write(3, key, into: &writer)
            }
        }
        return writer.take()
    }

    private func write(_ kind: UInt8, _ key: Bytes, into writer: inout ByteWriter) {
        writer.write(kind)
        writer.write(UInt16(key.count))
        writer.write(key)
    }

    private func write(_ kind: UInt8, _ key: Bytes, _ revision: Revision, into writer: inout ByteWriter) {
        write(kind, key, into: &writer)
        writer.write(revision)
    }

    private func write(_ kind: UInt8, _ key: Bytes, _ value: Bytes, into writer: inout ByteWriter) {
        write(kind, key, into: &writer)
        writer.writeWithLength(value)
    }

    /// Whether the payload, which begins with a command header, is one by its number.
    static func isOne(_ payload: UnsafeRawBufferPointer) -> Bool {
        payload.count > CommandHeader.encodedBytes && payload[CommandHeader.encodedBytes] == number
    }

    /// Reads a whole payload, header included.
    public init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let (number, version) = (try reader.read(UInt8.self), try reader.read(UInt8.self))
        guard number == Self.number, version == Self.formatVersion else {
            throw DecodingFailure(
                expected: "a transaction of version \(Self.formatVersion)", found: "\(number), version \(version)")
        }
        let counts = (try reader.read(UInt16.self), try reader.read(UInt16.self), try reader.read(UInt16.self))
        let parts = Int(counts.0) + Int(counts.1) + Int(counts.2)
        guard parts <= Self.partsMax else {
            throw DecodingFailure(expected: "at most \(Self.partsMax) conditions and operations", found: "\(parts)")
        }
        conditions = []
        for _ in 0..<counts.0 { conditions.append(try Self.condition(from: &reader)) }
        then = []
        for _ in 0..<counts.1 { then.append(try Self.operation(from: &reader)) }
        otherwise = []
        for _ in 0..<counts.2 { otherwise.append(try Self.operation(from: &reader)) }
        try reader.expectEnd()
    }

    private static func key(from reader: inout ByteReader) throws(DecodingFailure) -> Bytes {
        try reader.readBytes(count: Int(try reader.read(UInt16.self)))
    }

    private static func condition(from reader: inout ByteReader) throws(DecodingFailure) -> Condition {
        let kind = try reader.read(UInt8.self)
        let key = try key(from: &reader)
        switch kind {
        case 1: return Condition(key, .absent)
        case 2: return Condition(key, .present)
        case 3: return Condition(key, .revision(try reader.read()))
        case 4: return Condition(key, .olderThan(try reader.read()))
        case 5: return Condition(key, .newerThan(try reader.read()))
        case 6: return Condition(key, .value(try reader.readBytesWithLength(limit: Limits.valueBytesMax)))
        case 7: return Condition(key, .otherThan(try reader.readBytesWithLength(limit: Limits.valueBytesMax)))
        default: throw DecodingFailure(expected: "a condition of kind 1 to 7", found: "kind \(kind)")
        }
    }

    private static func operation(from reader: inout ByteReader) throws(DecodingFailure) -> Operation {
        let kind = try reader.read(UInt8.self)
        let key = try key(from: &reader)
        switch kind {
        case 1:
            let timeToLive = try reader.read(UInt64.self)
            return .put(
                key: key, value: try reader.readBytesWithLength(limit: Limits.valueBytesMax),
                timeToLiveMillis: timeToLive)
        case 2: return .delete(key: key)
        case 3: return .get(key: key)
        default: throw DecodingFailure(expected: "an operation of kind 1 to 3", found: "kind \(kind)")
        }
    }

    // MARK: Apply

    /// What is read: all that has a condition or a get.
    var readKeys: [Bytes] {
        var keys = conditions.map(\.key)
        for case .get(let key) in then + otherwise { keys.append(key) }
        return keys
    }

    func apply(in context: inout ApplyContext) throws(Unready) -> Result<KeyValueOutcome, Refusal> {
        guard try context.prepare(readKeys, bytesMax: Self.readBytesMax) else {
            return .failure(.tooLarge("the transaction reads more than \(Self.readBytesMax) bytes"))
        }
        var holds = true
        for condition in conditions {
            holds = try condition.holds(context.get(condition.key)) || isPlanted("condition-unseen")
            if !holds { break }
        }
        var outcome = KeyValueOutcome(holds: holds, readings: [])
        var bytes = 0
        for operation in holds ? then : otherwise {
            switch operation {
            case .put(let key, let value, let timeToLive):
                context.put(key, value, expiry: context.expiry(afterMillis: timeToLive))
            case .delete(let key): context.delete(key)
            case .get(let key):
                let found = try context.get(key)
                bytes += found?.value.count ?? 0
                guard bytes <= Self.bytesMax else {
                    return .failure(.tooLarge("the transaction's gets find more than \(Self.bytesMax) bytes"))
                }
                outcome.readings.append(
                    found.map { .found(value: $0.value, revision: $0.revision, expiry: $0.expiry) } ?? .absent)
            }
        }
        return .success(outcome)
    }
}

extension KeyValueTransaction.Condition {
    func holds(_ found: StoredRecord?) -> Bool {
        switch test {
        case .absent: found == nil
        case .present: found != nil
        case .revision(let revision): found?.revision == revision
        case .olderThan(let revision): found.map { $0.revision < revision } ?? false
        case .newerThan(let revision): found.map { $0.revision > revision } ?? false
        case .value(let value): found?.value == value
        case .otherThan(let value): found.map { $0.value != value } ?? false
        }
    }
}

/// What a transaction came to. `holds u8 | readings u16 | each: length u32, a KeyValueReading`
public struct KeyValueOutcome: Message {
    /// All conditions held, and `then` was done; else `otherwise`.
    public var holds: Bool
    /// Of the gets in what was done, in their order.
    public var readings: [KeyValueReading]

    public init(holds: Bool, readings: [KeyValueReading]) {
        self.holds = holds
        self.readings = readings
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(holds)
        writer.write(UInt16(readings.count))
        for reading in readings { writer.writeWithLength(reading.encoded()) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        holds = try reader.readBool()
        let count = Int(try reader.read(UInt16.self))
        guard count <= KeyValueTransaction.partsMax else {
            throw DecodingFailure(expected: "at most \(KeyValueTransaction.partsMax) readings", found: "\(count)")
        }
        readings = []
        for _ in 0..<count {
            readings.append(
                try KeyValueReading(decoding: try reader.readBytesWithLength(limit: Limits.valueBytesMax + 17)))
        }
    }
}
