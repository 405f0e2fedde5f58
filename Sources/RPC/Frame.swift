// The frame: what every message on a connection is wrapped in. Owns the header's bytes and what makes a header bad.
// Pure: knows neither sockets nor what a payload means.

public import Primitives

/// What a frame is. The numbers are on the wire for good.
public enum FrameKind: UInt8, Sendable, CaseIterable {
    case request = 1
    case response = 2
    case oneway = 3
    case cancel = 4
    case error = 5
    case hello = 6
    case helloReply = 7
    case ping = 8
    case pong = 9
    case goaway = 10
}

/// The 32 bytes before each payload, little-endian. In version 2, which both sides speak once they agreed on it:
///
///      0      2     3     4        6       8              16            20        24       28        32
///      +------+-----+-----+--------+-------+--------------+-------------+---------+--------+---------+-----------
///      |magic |vers.|kind |service |method | call         | deadline ms | length  | header | payload | payload …
///      |B1F5  | 2   |     |        |       | 64 bits      | 0 = none    | payload | crc32c | crc32c  |
///      +------+-----+-----+--------+-------+--------------+-------------+---------+--------+---------+-----------
///
/// The header's checksum is the CRC-32C of the first 24 bytes: no length is believed before it was looked at. The
/// payload's goes on from there (its seed is the header's), so that it belongs to this header only.
///
/// Version 1 has one checksum for both, and flags and a reserved field that are 0. The two frames of the handshake are
/// always of version 1, and the reply says which one is spoken from then on:
///
///      0      2     3     4      6        8       10         12             20            24        28      32
///      +------+-----+-----+------+--------+-------+----------+--------------+-------------+---------+-------+----------
///      |magic |vers.|kind |flags |service |method | reserved | call         | deadline ms | length  |crc32c | payload …
///      |B1F5  | 1   |     | 0    |        |       | 0        | 64 bits      | 0 = none    | payload |       |
///      +------+-----+-----+------+--------+-------+----------+--------------+-------------+---------+-------+----------
///
/// Its checksum is the CRC-32C of the first 28 bytes and then the payload. A changed length is believed up to the bound:
/// the frames behind it are swallowed until so many bytes have come. That is why there is a version 2.
public struct FrameHeader: Hashable, Sendable {
    public static let byteCount = 32
    public static let magic: UInt16 = 0xB1F5
    /// What this side can speak, the oldest first.
    public static let versions: ClosedRange<UInt8> = 1...2
    /// That of the hello and of the reply to it, whatever is spoken later.
    public static let handshakeVersion: UInt8 = 1
    /// No payload is longer: a value of 1 MiB, a batch of consensus messages or a page of a reply fits with room to
    /// spare. A longer length closes the connection before memory is taken.
    public static let payloadBytesMax = 4 << 20 + 64 << 10
    /// Until the handshake is done no payload is longer than this.
    public static let helloBytesMax = 1_024

    public var kind: FrameKind
    public var service: UInt16
    public var method: UInt16
    /// Chosen by the caller, not 0, not that of another call in flight; 0 in frames that belong to no call.
    public var call: UInt64
    /// What was left of the caller's time when it sent the request; 0 is no deadline.
    public var deadlineMilliseconds: UInt32
    /// Of the payload, in bytes. What encodes a frame sets it.
    public var length: UInt32

    public init(
        kind: FrameKind, service: UInt16 = 0, method: UInt16 = 0, call: UInt64 = 0,
        deadlineMilliseconds: UInt32 = 0, length: UInt32 = 0
    ) {
        self.kind = kind
        self.service = service
        self.method = method
        self.call = call
        self.deadlineMilliseconds = deadlineMilliseconds
        self.length = length
    }

    /// Writes the 32 bytes at `place`, with the checksums that belong to this header and `payload`.
    @inline(__always)
    func encode(to place: UnsafeMutableRawPointer, payload: UnsafeRawBufferPointer, version: UInt8) {
        let length = UInt32(payload.count)
        let beginning = UInt64(Self.magic) | UInt64(version) << 16 | UInt64(kind.rawValue) << 24
        let end = UInt64(deadlineMilliseconds) | UInt64(length) << 32
        if version == 1 {
            place.storeBytes(of: (beginning | UInt64(service) << 48).littleEndian, as: UInt64.self)
            place.storeBytes(of: UInt32(method).littleEndian, toByteOffset: 8, as: UInt32.self)
            place.storeBytes(of: call.littleEndian, toByteOffset: 12, as: UInt64.self)
            place.storeBytes(of: end.littleEndian, toByteOffset: 20, as: UInt64.self)
            let sum = crc32c(payload, seed: crc32c(UnsafeRawBufferPointer(start: place, count: 28)))
            place.storeBytes(of: sum.littleEndian, toByteOffset: 28, as: UInt32.self)
        } else {
            let first = beginning | UInt64(service) << 32 | UInt64(method) << 48
            place.storeBytes(of: first.littleEndian, as: UInt64.self)
            place.storeBytes(of: call.littleEndian, toByteOffset: 8, as: UInt64.self)
            place.storeBytes(of: end.littleEndian, toByteOffset: 16, as: UInt64.self)
            let headerSum = crc32c(UnsafeRawBufferPointer(start: place, count: 24))
            let sums = UInt64(headerSum) | UInt64(crc32c(payload, seed: headerSum)) << 32
            place.storeBytes(of: sums.littleEndian, toByteOffset: 24, as: UInt64.self)
        }
    }

    /// Looks at the first bytes of a frame, as many as have come (up to 32), and says what is wrong with them, or nil.
    /// So garbage is refused with its second byte and not when a header's worth of it is there.
    static func fault(
        atBeginning bytes: UnsafeRawBufferPointer, versions: ClosedRange<UInt8>, payloadBytesMax: Int
    ) -> ConnectionFault? {
        if bytes.count >= 2 {
            let magic = UInt16(littleEndian: bytes.loadUnaligned(as: UInt16.self))
            guard magic == Self.magic else {
                return ConnectionFault(.wrongMagic, "a frame begins with \(String(magic, radix: 16)), not b1f5")
            }
        }
        if bytes.count >= 3, !versions.contains(bytes[2]) { return wrongVersion(bytes[2], versions) }
        if bytes.count >= 4, FrameKind(rawValue: bytes[3]) == nil {
            return ConnectionFault(.unknownKind, "a frame of kind \(bytes[3])")
        }
        guard bytes.count >= 28 else { return nil }
        if bytes[2] == 1 {
            let flags = bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
            let reserved = bytes.loadUnaligned(fromByteOffset: 10, as: UInt16.self)
            guard flags == 0, reserved == 0 else {
                return ConnectionFault(
                    .reservedBits, "a frame with flags or reserved bits that version 1 does not have")
            }
        } else if headerSum(at: bytes.baseAddress!) != storedHeaderSum(at: bytes.baseAddress!) {
            return ConnectionFault(.badChecksum, "a header whose checksum is not that of its bytes")
        }
        let length = payloadBytes(at: bytes.baseAddress!)
        guard length <= payloadBytesMax else {
            return ConnectionFault(.overLong, "a payload of \(length) bytes, at most \(payloadBytesMax) are accepted")
        }
        return nil
    }

    static func wrongVersion(_ found: UInt8, _ versions: ClosedRange<UInt8>) -> ConnectionFault {
        let expected =
            versions.count == 1 ? "\(versions.lowerBound)" : "\(versions.lowerBound) to \(versions.upperBound)"
        return ConnectionFault(.wrongVersion, "a frame of version \(found), expected \(expected)")
    }

    /// True when `bytes`, at least 32, begin with a header that is right in all but what only the payload can show and
    /// the kind-specific meaning: the quick form of `fault(atBeginning:)` for the hot path.
    @inline(__always)
    static func isPlausible(
        _ bytes: UnsafeRawPointer, versions: ClosedRange<UInt8>, payloadBytesMax: Int
    ) -> Bool {
        let first = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let version = UInt8(truncatingIfNeeded: first >> 16)
        let kind = UInt8(truncatingIfNeeded: first >> 24)
        guard first & 0xffff == UInt64(Self.magic), versions.contains(version), kind >= 1, kind <= 10 else {
            return false
        }
        if version == 1 {
            let reserved = bytes.loadUnaligned(fromByteOffset: 10, as: UInt16.self)
            guard first & 0xffff_0000_0000 == 0, reserved == 0 else { return false }
        } else {
            guard headerSum(at: bytes) == storedHeaderSum(at: bytes) else { return false }
        }
        return payloadBytes(at: bytes) <= payloadBytesMax
    }

    /// The length in a header of which 28 bytes are there and `fault(atBeginning:)` found nothing wrong.
    @inline(__always)
    static func payloadBytes(at bytes: UnsafeRawPointer) -> Int {
        let offset = bytes.load(fromByteOffset: 2, as: UInt8.self) == 1 ? 24 : 20
        return Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
    }

    /// The header in 32 bytes that `fault(atBeginning:)` found nothing wrong with, and whether the checksum that covers
    /// the payload, which stands behind it, is right.
    @inline(__always)
    static func decode(checked bytes: UnsafeRawPointer) -> (header: FrameHeader, isIntact: Bool) {
        let first = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let payload = UnsafeRawBufferPointer(start: bytes + byteCount, count: payloadBytes(at: bytes))
        let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 28, as: UInt32.self))
        let kind = FrameKind(rawValue: UInt8(truncatingIfNeeded: first >> 24))!
        if UInt8(truncatingIfNeeded: first >> 16) == 1 {
            let header = FrameHeader(
                kind: kind, service: UInt16(truncatingIfNeeded: first >> 48),
                method: UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)),
                call: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 12, as: UInt64.self)),
                deadlineMilliseconds: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 20, as: UInt32.self)),
                length: UInt32(payload.count))
            let sum = crc32c(payload, seed: crc32c(UnsafeRawBufferPointer(start: bytes, count: 28)))
            return (header, sum == stored)
        }
        let header = FrameHeader(
            kind: kind, service: UInt16(truncatingIfNeeded: first >> 32),
            method: UInt16(truncatingIfNeeded: first >> 48),
            call: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
            deadlineMilliseconds: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt32.self)),
            length: UInt32(payload.count))
        return (header, crc32c(payload, seed: storedHeaderSum(at: bytes)) == stored)
    }

    @inline(__always)
    private static func headerSum(at bytes: UnsafeRawPointer) -> UInt32 {
        crc32c(UnsafeRawBufferPointer(start: bytes, count: 24))
    }

    @inline(__always)
    private static func storedHeaderSum(at bytes: UnsafeRawPointer) -> UInt32 {
        UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
    }
}

/// A frame as it came: the payload is a slice of the bytes of its read.
public struct Frame: Sendable {
    public var header: FrameHeader
    public var payload: Bytes
    public init(header: FrameHeader, payload: Bytes) {
        self.header = header
        self.payload = payload
    }
}

/// Why a connection was closed by this side: the peer's fault, never a reason to do more than close, log and count.
public struct ConnectionFault: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Reason: Int, Sendable, CaseIterable {
        case wrongMagic, wrongVersion, unknownKind, reservedBits, overLong, badChecksum, truncated
        /// A kind that this side never receives, or not now.
        case unexpectedKind
        case badHello
        /// A call id that is 0 or already in flight.
        case badCall
        case handshakeTimeout
        /// Nothing was heard for too long, not even pings.
        case silent
        /// The peer sends and does not read.
        case doesNotRead
        /// Not a bad frame: the connection came above a bound.
        case tooManyConnections
        /// Not a bad frame: the handshake was refused.
        case refused
    }
    public var reason: Reason
    public var text: String
    public init(_ reason: Reason, _ text: String) {
        self.reason = reason
        self.text = text
    }
    public var description: String { "\(reason): \(text)" }
}
