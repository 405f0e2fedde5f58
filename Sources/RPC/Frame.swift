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

/// The 32 bytes before each payload, little-endian:
///
///      0      2     3     4      6        8       10        12             20          24       28      32
///      +------+-----+-----+------+--------+-------+---------+--------------+-----------+--------+-------+----------
///      |magic |vers.|kind |flags |service |method |reserved |call          |deadline ms|length  |crc32c | payload …
///      |B1F5  | 1   |     | 0    |        |       | 0       |64 bits       |0 = none   |payload |       |
///      +------+-----+-----+------+--------+-------+---------+--------------+-----------+--------+-------+----------
///
/// The checksum is the CRC-32C of the first 28 bytes and then the payload. Flags and the reserved field are 0 in
/// version 1
/// and anything else is refused: what comes later is agreed on in the handshake first.
public struct FrameHeader: Hashable, Sendable {
    public static let byteCount = 32
    public static let magic: UInt16 = 0xB1F5
    public static let version: UInt8 = 1
    /// No payload is longer: a value of 1 MiB, a batch of consensus messages or a page of a reply fits with room to
    /// spare.
    /// A longer length closes the connection before memory is taken.
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
    public var length: UInt32
    public var checksum: UInt32

    public init(
        kind: FrameKind, service: UInt16 = 0, method: UInt16 = 0, call: UInt64 = 0,
        deadlineMilliseconds: UInt32 = 0, length: UInt32 = 0, checksum: UInt32 = 0
    ) {
        self.kind = kind
        self.service = service
        self.method = method
        self.call = call
        self.deadlineMilliseconds = deadlineMilliseconds
        self.length = length
        self.checksum = checksum
    }

    /// Writes the 32 bytes at `place`, with the checksum that belongs to this header and `payload`.
    @inline(__always)
    func encode(to place: UnsafeMutableRawPointer, payload: UnsafeRawBufferPointer) {
        let first =
            UInt64(Self.magic) | UInt64(Self.version) << 16 | UInt64(kind.rawValue) << 24 | UInt64(service) << 48
        let second = UInt64(method) | (call & 0xffff_ffff) << 32
        let third = call >> 32 | UInt64(deadlineMilliseconds) << 32
        place.storeBytes(of: first.littleEndian, as: UInt64.self)
        place.storeBytes(of: second.littleEndian, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: third.littleEndian, toByteOffset: 16, as: UInt64.self)
        place.storeBytes(of: UInt32(payload.count).littleEndian, toByteOffset: 24, as: UInt32.self)
        let sum = crc32c(payload, seed: crc32c(UnsafeRawBufferPointer(start: place, count: 28)))
        place.storeBytes(of: sum.littleEndian, toByteOffset: 28, as: UInt32.self)
    }

    /// Looks at the first bytes of a frame, as many as have come (up to 32), and says what is wrong with them, or nil.
    /// So garbage is refused with its second byte and not when a header's worth of it is there.
    static func fault(atBeginning bytes: UnsafeRawBufferPointer, payloadBytesMax: Int) -> ConnectionFault? {
        if bytes.count >= 2 {
            let magic = UInt16(littleEndian: bytes.loadUnaligned(as: UInt16.self))
            guard magic == Self.magic else {
                return ConnectionFault(.wrongMagic, "a frame begins with \(String(magic, radix: 16)), not b1f5")
            }
        }
        if bytes.count >= 3, bytes[2] != version {
            return ConnectionFault(.wrongVersion, "a frame of version \(bytes[2]), expected \(version)")
        }
        if bytes.count >= 4, FrameKind(rawValue: bytes[3]) == nil {
            return ConnectionFault(.unknownKind, "a frame of kind \(bytes[3])")
        }
        if bytes.count >= 28 {
            let length = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
            guard length <= payloadBytesMax else {
                return ConnectionFault(
                    .overLong, "a payload of \(length) bytes, at most \(payloadBytesMax) are accepted")
            }
            let flags = bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
            let reserved = bytes.loadUnaligned(fromByteOffset: 10, as: UInt16.self)
            guard flags == 0, reserved == 0 else {
                return ConnectionFault(
                    .reservedBits, "a frame with flags or reserved bits that version 1 does not have")
            }
        }
        return nil
    }

    /// The header in 32 bytes that `fault(atBeginning:)` found nothing wrong with.
    @inline(__always)
    init(checked bytes: UnsafeRawPointer) {
        let first = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let second = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let third = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        let fourth = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        self.init(
            kind: FrameKind(rawValue: UInt8(truncatingIfNeeded: first >> 24))!,
            service: UInt16(truncatingIfNeeded: first >> 48),
            method: UInt16(truncatingIfNeeded: second),
            call: second >> 32 | third << 32,
            deadlineMilliseconds: UInt32(truncatingIfNeeded: third >> 32),
            length: UInt32(truncatingIfNeeded: fourth),
            checksum: UInt32(truncatingIfNeeded: fourth >> 32))
    }

    /// True when `bytes`, at least 32, begin with a header that is right in all but checksum and kind-specific meaning:
    /// the quick form of `fault(atBeginning:)` for the hot path.
    @inline(__always)
    static func isPlausible(_ bytes: UnsafeRawPointer, payloadBytesMax: Int) -> Bool {
        let first = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let second = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let length = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
        let kind = UInt8(truncatingIfNeeded: first >> 24)
        // Magic, version and flags are fixed in version 1; so are the reserved bits.
        return first & 0x0000_ffff_00ff_ffff == UInt64(Self.magic) | UInt64(Self.version) << 16
            && kind >= 1 && kind <= 10 && second & 0xffff_0000 == 0 && length <= payloadBytesMax
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
