// The key-value machine's commands and queries: their bytes and their limits.

public import Messages
public import Primitives
import Ring

/// Sub state machine 1. The command stands behind a command header.
public enum KeyValueCommand: Hashable, Sendable {
    /// `1 u8 | version u8 = 1 | key length u16 | time to live u64 | key | value`. Milliseconds of log time; 0: for
    /// ever. Anything else needs feature level `FeatureLevel.deadlines`.
    case put(key: Bytes, value: Bytes, timeToLiveMillis: UInt64 = 0)
    /// `2 u8 | version u8 = 1 | key length u16 | key`. Takes effect, as a tombstone, whether or not the key is there.
    case delete(key: Bytes)

    public static let formatVersion: UInt8 = 1
    @usableFromInline static let putNumber: UInt8 = 1
    @usableFromInline static let deleteNumber: UInt8 = 2
    @usableFromInline static let putHeaderBytes = 12
    @usableFromInline static let deleteHeaderBytes = 4

    public var key: Bytes {
        switch self {
        case .put(let key, _, _), .delete(let key): key
        }
    }

    /// A whole payload: header and command. The key is at most `Limits.keyBytesMax` long (see `problem`).
    @inlinable public func encode(
        header: CommandHeader = CommandHeader(machine: .keyValue), into writer: inout ByteWriter
    ) {
        header.encode(into: &writer)
        switch self {
        case .put(let key, let value, let timeToLiveMillis):
            let place = writer.extend(by: Self.putHeaderBytes + key.count)
            place.storeBytes(of: Self.putNumber, toByteOffset: 0, as: UInt8.self)
            place.storeBytes(of: Self.formatVersion, toByteOffset: 1, as: UInt8.self)
            place.storeBytes(of: UInt16(key.count).littleEndian, toByteOffset: 2, as: UInt16.self)
            place.storeBytes(of: timeToLiveMillis.littleEndian, toByteOffset: 4, as: UInt64.self)
            key.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: place[Self.putHeaderBytes...]).copyMemory(from: $0)
            }
            writer.write(value)
        case .delete(let key):
            let place = writer.extend(by: Self.deleteHeaderBytes)
            place.storeBytes(of: Self.deleteNumber, toByteOffset: 0, as: UInt8.self)
            place.storeBytes(of: Self.formatVersion, toByteOffset: 1, as: UInt8.self)
            place.storeBytes(of: UInt16(key.count).littleEndian, toByteOffset: 2, as: UInt16.self)
            writer.write(key)
        }
    }

    /// A whole payload in memory of its own: one allocation.
    public func payload(header: CommandHeader = CommandHeader(machine: .keyValue)) -> Bytes {
        var size = CommandHeader.encodedBytes + Self.putHeaderBytes + key.count
        if case .put(_, let value, _) = self { size += value.count }
        var writer = ByteWriter(capacity: size)
        encode(header: header, into: &writer)
        return writer.take()
    }

    /// Why a client's or a host's check turns the command down; nil if it may be proposed.
    public func problem() -> Refusal? {
        if let problem = KeyValue.problem(ofKeyOf: key.count) { return problem }
        guard case .put(_, let value, let timeToLiveMillis) = self else { return nil }
        return KeyValue.problem(ofValueOf: value.count, timeToLiveMillis: timeToLiveMillis)
    }
}

/// Sub state machine 1's queries.
public enum KeyValueQuery: Hashable, Sendable {
    /// `1 u8 | key`. Answered by a `KeyValueReading`.
    case get(key: Bytes)
    /// `2 u8`, and as `KeyValueScan` says. Answered by a `KeyValueScanPage`.
    case scan(KeyValueScan)

    public func problem() -> Refusal? {
        switch self {
        case .get(let key): KeyValue.problem(ofKeyOf: key.count)
        case .scan(let scan): scan.problem()
        }
    }
}

extension KeyValueQuery: Message {
    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .get(let key):
            writer.write(1 as UInt8)
            writer.write(key)
        case .scan(let scan):
            writer.write(KeyValueScan.number)
            scan.encode(into: &writer)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        switch number {
        case 1: self = .get(key: reader.readRest())
        case KeyValueScan.number: self = .scan(try KeyValueScan(from: &reader))
        default: throw DecodingFailure(expected: "a key-value query of kind 1 or 2", found: "kind \(number)")
        }
    }
}

/// What a get finds. `found u8 | revision u64 | expiry u64 | value`
public enum KeyValueReading: Message {
    case absent
    /// `expiry` in log time; 0: never.
    case found(value: Bytes, revision: Revision, expiry: LogTime)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .absent:
            writer.write(false)
            writer.write(Revision.zero)
            writer.write(LogTime.zero)
        case .found(let value, let revision, let expiry):
            writer.write(true)
            writer.write(revision)
            writer.write(expiry)
            writer.write(value)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let isFound = try reader.readBool()
        let revision = try reader.read(Revision.self)
        let expiry = try reader.read(LogTime.self)
        self = isFound ? .found(value: reader.readRest(), revision: revision, expiry: expiry) : .absent
    }
}

/// Rules of the key-value machine that both ends check.
public enum KeyValue {
    /// Some 35 years.
    public static let timeToLiveMillisMax: UInt64 = 1 << 40

    public static func problem(ofKeyOf count: Int) -> Refusal? {
        if count == 0 { return .invalid("the key is empty") }
        guard count > Limits.keyBytesMax else { return nil }
        return .tooLarge("a key has at most \(Limits.keyBytesMax) bytes, not \(count)")
    }

    public static func problem(ofValueOf count: Int, timeToLiveMillis: UInt64) -> Refusal? {
        if count > Limits.valueBytesMax {
            return .tooLarge("a value has at most \(Limits.valueBytesMax) bytes, not \(count)")
        }
        guard timeToLiveMillis > timeToLiveMillisMax else { return nil }
        return .invalid("a time to live has at most \(timeToLiveMillisMax) ms, not \(timeToLiveMillis)")
    }

    /// Reads and checks a query that came for a slot.
    public static func check(query: Bytes, slot: Slot) throws(Refusal) -> KeyValueQuery {
        let known: KeyValueQuery
        do throws(DecodingFailure) {
            known = try KeyValueQuery(decoding: query)
        } catch {
            throw .invalid(error.description)
        }
        if let problem = known.problem() { throw problem }
        guard case .get(let key) = known else { return known }
        let found = Ring.slot(of: key)
        guard found == slot else { throw .invalid("the key's slot is \(found), not \(slot)") }
        return known
    }
}

/// A key-value command in place: where its parts stand in the payload. Nothing is copied or retained.
@usableFromInline struct KeyValueCommandView {
    @usableFromInline var isPut: Bool
    @usableFromInline var key: Range<Int>
    /// Empty for a delete.
    @usableFromInline var value: Range<Int>
    @usableFromInline var timeToLiveMillis: UInt64

    /// Nil if the payload is not wholly understood. `payload` begins with the command header.
    @inlinable init?(payload: UnsafeRawBufferPointer) {
        let start = CommandHeader.encodedBytes
        guard payload.count >= start + KeyValueCommand.deleteHeaderBytes,
            payload[start + 1] == KeyValueCommand.formatVersion
        else { return nil }
        let keyCount = Int(payload.integer(at: start + 2, UInt16.self))
        switch payload[start] {
        case KeyValueCommand.putNumber:
            let keyStart = start + KeyValueCommand.putHeaderBytes
            guard payload.count >= keyStart + keyCount else { return nil }
            isPut = true
            key = keyStart..<keyStart + keyCount
            value = keyStart + keyCount..<payload.count
            timeToLiveMillis = payload.integer(at: start + 4, UInt64.self)
        case KeyValueCommand.deleteNumber:
            let keyStart = start + KeyValueCommand.deleteHeaderBytes
            guard payload.count == keyStart + keyCount else { return nil }
            isPut = false
            key = keyStart..<payload.count
            value = payload.count..<payload.count
            timeToLiveMillis = 0
        default: return nil
        }
    }

    /// Within what this version's checks let through, but for its time to live.
    @inlinable var isWithinLimits: Bool {
        !key.isEmpty && key.count <= Limits.keyBytesMax && value.count <= Limits.valueBytesMax
    }
}
