// What changes a running cluster: commands for the meta group, and handing over leadership. What a command means is the
// meta machine's business; here it is bytes.

public import Primitives

/// A command for the meta group, from people, tools, or hosts that report what has come about. Goes to the host that
/// leads the meta group.
///
/// `version u16 = 1 | payload: length u32, bytes`
public struct AdministerRequest: Message {
    /// Command header and command, as the log entry's payload will be. At most `payloadBytesMax` bytes.
    public var payload: Bytes
    public static let payloadBytesMax = 65_536

    /// - Precondition: the payload is within its bound.
    public init(payload: Bytes) {
        precondition(payload.count <= Self.payloadBytesMax, "a command of at most 64 KiB")
        self.payload = payload
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.writeWithLength(payload)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "an administer request")
        payload = try reader.readBytesWithLength(limit: Self.payloadBytesMax)
    }
}

/// Asks the leader of a group to hand over. Goes to the host that leads the group.
///
/// `version u16 = 1 | group u32 | to u64`
public struct TransferRequest: Message {
    public var group: GroupID
    /// Who is to lead; `.none`: the leader chooses.
    public var to: ReplicaID

    public init(group: GroupID, to: ReplicaID = .none) {
        self.group = group
        self.to = to
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(group)
        writer.write(to)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a transfer request")
        group = try reader.read()
        to = try reader.read()
    }
}

/// The answer to both. `version u16 = 1 | kind u8`, then by kind: 0 done: `result: length u32, bytes`; 1 refused:
/// `text`; 2 notLeader: `address text`; 3 outcomeUnknown.
public enum AdministerReply: Message {
    /// It took effect, or everything was as it was wanted. The command's result (`MetaOutcome`); of a transfer: none,
    /// and it has begun; it is over when another leads, or after an election timeout without one.
    case done(Bytes)
    /// Nothing happened, and as it stands nothing will.
    case refused(String)
    /// Nothing happened: ask at this address; an empty one means that the leader is unknown at the moment, or has no
    /// room: try again.
    case notLeader(address: String)
    /// It may or may not have happened, or may happen yet: read the map before you repeat it.
    case outcomeUnknown

    public static let resultBytesMax = 65_536

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        switch self {
        case .done(let result):
            writer.write(0 as UInt8)
            writer.writeWithLength(result)
        case .refused(let text):
            writer.write(1 as UInt8)
            writer.write(text: text)
        case .notLeader(let address):
            writer.write(2 as UInt8)
            writer.write(text: address)
        case .outcomeUnknown: writer.write(3 as UInt8)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "an administer reply")
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 0: self = .done(try reader.readBytesWithLength(limit: Self.resultBytesMax))
        case 1: self = .refused(try reader.readText())
        case 2: self = .notLeader(address: try reader.readText())
        case 3: self = .outcomeUnknown
        default: throw DecodingFailure(expected: "an administer reply of kind 0 to 3", found: "kind \(kind)")
        }
    }
}
