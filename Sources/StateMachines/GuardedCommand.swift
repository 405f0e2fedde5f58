// Commands with a fencing token: they are done only as long as the token stands for something. Owns the form of these
// commands and of what an object remembers of tokens; who grants them is a data type's affair.

public import Messages
public import Primitives
import Ring

/// A machine whose objects give out fencing tokens.
public protocol FencingMachine: StateMachine {
    /// The machine's record that is there as long as somebody has this token.
    static func tokenRecord(_ name: Bytes, _ token: UInt64) -> Bytes
    /// Whoever has a token is the only one who has any: then a higher one says that the lower ones are over.
    static var isExclusive: Bool { get }
}

extension FencingMachine {
    public static var isExclusive: Bool { true }
}

/// What a host needs to know of such a machine.
struct Fencing: Sendable {
    private let isExclusive: Bool
    private let record: @Sendable (Bytes, UInt64) -> Bytes

    init(_ machine: any FencingMachine.Type) {
        isExclusive = machine.isExclusive
        record = { machine.tokenRecord($0, $1) }
    }

    /// The record that says whether the token stands.
    func place(of guarded: GuardedCommand) -> RecordPosition {
        guard guarded.isBesideLock else { return guarded.place }
        return RecordPosition(
            slot: guarded.slot, machine: guarded.token.machine, key: record(guarded.token.name, guarded.token.number))
    }

    func problem(of guarded: GuardedCommand) -> Refusal? {
        guard !isExclusive, !guarded.isBesideLock else { return nil }
        return .invalid(
            "tokens that several have at once guard only what lies beside them: give both names the same part in braces"
        )
    }
}

/// What a command may be guarded by: the token of a lock or of something like it.
///
/// `machine u16 | token u64 | name: length u32, bytes`
public struct FencingToken: Hashable, Sendable, Message {
    /// Which gave it.
    public var machine: SubMachineNumber
    /// Of the lock.
    public var name: Bytes
    /// Grows with each grant of this lock.
    public var number: UInt64

    public init(_ number: UInt64, of name: Bytes, machine: SubMachineNumber) {
        self.number = number
        self.name = name
        self.machine = machine
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(machine)
        writer.write(number)
        writer.writeWithLength(name)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        machine = try reader.read()
        number = try reader.read()
        name = try reader.readBytesWithLength(limit: Self.nameBytesMax)
        guard !name.isEmpty else { throw DecodingFailure(expected: "the name of a lock", found: "none") }
        guard machine.isDataType, number <= Self.numberMax else {
            throw DecodingFailure(
                expected: "a token of a data type, at most \(Self.numberMax)", found: "\(number) of machine \(machine)")
        }
    }

    /// Of the lock's name.
    public static let nameBytesMax = 1_024
    public static let numberMax: UInt64 = 1 << 62
}

/// A command behind a guard. Where the lock lies in the slot that the command is about, the token has to be held at that
/// moment. Elsewhere nobody can tell; there it must not be below the highest that the slot has seen of this lock: whatever
/// one command writes lies in one slot.
///
/// Behind a header of `.guards`: `version u8 = 1 | token | machine u16 | the guarded command, as it stands behind its header`
package struct GuardedCommand {
    package let token: FencingToken
    package let machine: SubMachineNumber
    /// With a header of its own, of the same call.
    package let payload: Bytes
    /// What it is about.
    package let key: Bytes

    private static let formatVersion: UInt8 = 1

    /// Reads a whole payload, header included.
    package init(payload: Bytes) throws(DecodingFailure) {
        guard var header = payload.withUnsafeBytes({ CommandHeader(of: $0) }) else {
            throw DecodingFailure(expected: "a command header", found: "\(payload.count) bytes")
        }
        var reader = ByteReader(payload[CommandHeader.encodedBytes..<payload.count])
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(
                expected: "a guarded command of version \(Self.formatVersion)", found: "version \(version)")
        }
        token = try FencingToken(from: &reader)
        machine = try reader.read()
        guard machine == .keyValue || machine.isRegistered else {
            throw DecodingFailure(expected: "a machine whose commands can be guarded", found: "\(machine)")
        }
        header.machine = machine
        var writer = ByteWriter(capacity: payload.count)
        header.encode(into: &writer)
        writer.write(reader.readRest())
        self.payload = writer.take()
        key = try Self.key(of: self.payload, machine)
    }

    private static func key(of payload: Bytes, _ machine: SubMachineNumber) throws(DecodingFailure) -> Bytes {
        if machine.isRegistered { return try MachineRequest(payload: payload).key }
        if payload.withUnsafeBytes({ KeyValueTransaction.isOne($0) }) {
            let keys = try KeyValueTransaction(payload: payload).keys
            guard let first = keys.first else { throw DecodingFailure(expected: "a transaction's keys", found: "none") }
            return first
        }
        guard let key = payload.withUnsafeBytes({ KeyValueCommandView(payload: $0)?.key }) else {
            throw DecodingFailure(expected: "a key-value command", found: "\(payload.count) bytes")
        }
        return payload[key]
    }

    /// What is to be sent.
    static func payload(_ payload: Bytes, guardedBy token: FencingToken) -> Bytes? {
        guard let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }) else { return nil }
        var writer = ByteWriter(capacity: payload.count + 32 + token.name.count)
        var own = header
        own.machine = .guards
        own.encode(into: &writer)
        writer.write(Self.formatVersion)
        token.encode(into: &writer)
        writer.write(header.machine)
        writer.write(payload[CommandHeader.encodedBytes..<payload.count])
        return writer.take()
    }

    package var slot: Slot { Ring.slot(of: key) }

    /// Whether the lock's own records tell.
    package var isBesideLock: Bool { Ring.slot(of: token.name) == slot }

    /// Of the highest token that the slot has seen, where the lock is elsewhere.
    ///
    /// `lock's machine u16, big-endian | lock's name`; the record is `version u8 = 1 | token u64`.
    var place: RecordPosition {
        var writer = ByteWriter(capacity: 2 + token.name.count)
        writer.write(token.machine.rawValue.bigEndian)
        writer.write(token.name)
        return RecordPosition(slot: slot, machine: .guards, key: writer.take())
    }
}

extension LogEntry {
    func with(_ payload: Bytes) -> LogEntry {
        LogEntry(index: index, term: term, logTime: logTime, kind: kind, payload: payload)
    }
}

/// `version u8 = 1 | token u64`
struct GuardRecord: Message {
    var highest: UInt64

    private static let formatVersion: UInt8 = 1

    init(highest: UInt64) { self.highest = highest }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(highest)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a guard's record of version 1", found: "version \(version)")
        }
        highest = try reader.read()
    }
}

/// A client's command behind a guard.
public enum CommandGuard {
    /// The payload of a command, behind a guard.
    ///
    /// - Throws: it has no header.
    public static func payload(_ payload: Bytes, guardedBy token: FencingToken) throws(DecodingFailure) -> Bytes {
        guard let guarded = GuardedCommand.payload(payload, guardedBy: token) else {
            throw DecodingFailure(expected: "a command header", found: "\(payload.count) bytes")
        }
        return guarded
    }

    /// The command inside, as a payload of its own; nil: there is no guard, or it can't be read.
    public static func command(in payload: Bytes) -> Bytes? { read(payload)?.command }

    /// The same, and whose token guards it.
    public static func read(_ payload: Bytes) -> (command: Bytes, lock: SubMachineNumber)? {
        guard payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine }) == .guards,
            let guarded = try? GuardedCommand(payload: payload)
        else { return nil }
        return (guarded.payload, guarded.token.machine)
    }
}
