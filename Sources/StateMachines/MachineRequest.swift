// The bytes of users' commands and queries, and of what they come to.

public import Messages
public import Primitives

/// A command or a query of a user's machine as it is sent: `number u16 | version u8 = 1 | key length u16, key | body`. A
/// command stands behind a command header, which names the machine; of a query the `QueryRequest` does. The body is the
/// machine's own. The key stands in front so that every host can tell the slot, and whether the request came to the right
/// one.
public struct MachineRequest: Hashable, Sendable {
    /// Of the command, among the machine's commands; of the query, among its queries.
    public var number: UInt16
    public var key: Bytes
    public var body: Bytes

    public static let formatVersion: UInt8 = 1
    /// Of a body, in bytes.
    public static let bodyBytesMax = Limits.valueBytesMax

    public init<Command: MachineCommand>(_ command: Command) {
        self.init(number: Command.number, key: command.key, body: command.encoded())
    }

    public init<Query: MachineQuery>(_ query: Query) {
        self.init(number: Query.number, key: query.key, body: query.encoded())
    }

    public init(number: UInt16, key: Bytes, body: Bytes) {
        self.number = number
        self.key = key
        self.body = body
    }

    /// Why it is turned down; nil if its form is right.
    public func problem() -> Refusal? {
        if let problem = KeyValue.problem(ofKeyOf: key.count) { return problem }
        guard body.count > Self.bodyBytesMax else { return nil }
        return .tooLarge("a request has at most \(Self.bodyBytesMax) bytes, not \(body.count)")
    }

    /// A command's whole payload.
    public func payload(machine: SubMachineNumber) -> Bytes { payload(header: CommandHeader(machine: machine)) }

    /// The same for a certain call.
    public func payload(header: CommandHeader) -> Bytes {
        var writer = ByteWriter(capacity: CommandHeader.encodedBytes + 5 + key.count + body.count)
        header.encode(into: &writer)
        encode(into: &writer)
        return writer.take()
    }

    /// Reads a command's whole payload, header included.
    public init(payload: Bytes) throws(DecodingFailure) {
        guard payload.count >= CommandHeader.encodedBytes else {
            throw DecodingFailure(expected: "a command header", found: "\(payload.count) bytes")
        }
        try self.init(decoding: payload[CommandHeader.encodedBytes..<payload.count])
    }
}

extension MachineRequest: Message {
    public func encode(into writer: inout ByteWriter) {
        writer.write(number)
        writer.write(Self.formatVersion)
        writer.write(UInt16(truncatingIfNeeded: key.count))
        writer.write(key)
        writer.write(body)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        number = try reader.read()
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(
                expected: "a request to a machine of version \(Self.formatVersion)", found: "version \(version)")
        }
        key = try reader.readBytes(count: Int(try reader.read(UInt16.self)))
        body = reader.readRest()
    }
}

/// What a user's command or query came to: `0 u8 | answer`, or `1 u8 | a MachineFailure`. Failures are answers: whoever
/// asks again in the same session gets the same one.
public enum MachineOutcome: Message {
    static let answerKind: UInt8 = 0

    /// The machine's own bytes.
    case answer(Bytes)
    case failure(MachineFailure)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .answer(let body):
            writer.write(Self.answerKind)
            writer.write(body)
        case .failure(let failure):
            writer.write(1 as UInt8)
            failure.encode(into: &writer)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case Self.answerKind: self = .answer(reader.readRest())
        case 1: self = .failure(try MachineFailure(from: &reader))
        case let kind: throw DecodingFailure(expected: "an outcome of kind 0 or 1", found: "kind \(kind)")
        }
    }
}
