// Values with revisions, as Value and Map have them: what is read, what is stored, and why a command did not change it.

public import Messages
public import Primitives
package import StateMachines

/// A value, and when it got there.
///
/// `revision u64 | value: length u32, bytes`
public struct ObjectEntry: Hashable, Sendable, Message {
    public var value: Bytes
    /// Of the group, at which it got this value.
    public var revision: Revision

    public init(value: Bytes, revision: Revision) {
        self.value = value
        self.revision = revision
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(revision)
        writer.writeWithLength(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        revision = try reader.read()
        value = try reader.readValue()
    }
}

/// Why a data type's command changed nothing: `MachineFailure.code`.
public enum ObjectFailure {
    /// Details: an encoded `FoundEntry`.
    public static let conditionFailed: UInt32 = 1
    /// The result is no Int64, or no finite Double.
    public static let overflow: UInt32 = 2
    public static let divisionByZero: UInt32 = 3
    /// The result lies outside of the number's bounds; or bounds would leave its value outside.
    public static let outOfBounds: UInt32 = 4
    /// An integer was expected and a Double is there, or the other way round.
    public static let otherKind: UInt32 = 5
    /// Two objects that have to lie in one slot do not.
    public static let otherSlot: UInt32 = 6
    /// Of a semaphore: nobody has said how many permits there are.
    public static let noLimit: UInt32 = 48
    /// There is another number of permits than the caller said.
    public static let otherLimit: UInt32 = 49
    /// More permits are wanted than there are.
    public static let tooManyPermits: UInt32 = 50
    /// The session has, or waits for, too much of one object.
    public static let tooManyClaims: UInt32 = 51
    /// Records of an object are not what others of it say, or can't be read.
    public static let damaged: UInt32 = 7
}

/// What a command found that it did not expect.
///
/// `is there u8 | revision u64 | has value u8 | value: length u32, bytes, if there is one`
public struct FoundEntry: Hashable, Sendable, Message {
    /// nil: nothing is there.
    public var revision: Revision?
    /// Not of long ones: `valueBytesMax`.
    public var value: Bytes?

    static let valueBytesMax = 512

    package init(_ entry: ObjectEntry?) {
        revision = entry?.revision
        value = entry.flatMap { $0.value.count <= Self.valueBytesMax ? $0.value : nil }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(revision != nil)
        writer.write(revision ?? .zero)
        writer.writeOptional(value) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let isThere = try reader.readBool()
        let at = try reader.read(Revision.self)
        revision = isThere ? at : nil
        value = try reader.readOptional { reader throws(DecodingFailure) in
            try reader.readBytesWithLength(limit: Self.valueBytesMax)
        }
    }

    static func failure(_ entry: ObjectEntry?) -> MachineFailure {
        let text = entry.map { "the condition does not hold: the value is of revision \($0.revision)" }
        return MachineFailure(
            ObjectFailure.conditionFailed, text ?? "the condition does not hold: there is no value",
            details: FoundEntry(entry).encoded())
    }
}

/// A value as it is stored.
///
/// `version u8 = 1 | has timer u8 | timer, 22 bytes, if there is one | value`
package struct EntryRecord {
    /// What ends it.
    package var timer: ScheduledCommand?
    package var value: Bytes

    static let formatVersion: UInt8 = 1

    package func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 2 + (timer == nil ? 0 : 22) + value.count)
        writer.write(Self.formatVersion)
        writer.write(timer != nil)
        timer?.encode(into: &writer)
        writer.write(value)
        return writer.take()
    }

    package init(timer: ScheduledCommand?, value: Bytes) {
        self.timer = timer
        self.value = value
    }

    package init(decoding bytes: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(bytes)
        try reader.expect(version: Self.formatVersion, of: "a value's record")
        timer = try reader.readOptional { reader throws(DecodingFailure) in try ScheduledCommand(from: &reader) }
        value = reader.readRest()
    }
}

/// The same as it was found.
struct FoundRecord {
    var entry: ObjectEntry
    var timer: ScheduledCommand?

    init(_ record: MachineRecord) throws(DecodingFailure) {
        let stored = try EntryRecord(decoding: record.value)
        entry = ObjectEntry(value: stored.value, revision: record.revision)
        timer = stored.timer
    }
}

extension ByteReader {
    mutating func expect(version: UInt8, of what: String) throws(DecodingFailure) {
        let found = try read(UInt8.self)
        guard found == version else {
            throw DecodingFailure(expected: "\(what) of version \(version)", found: "version \(found)")
        }
    }
}

extension MachineContext {
    mutating func record(_ place: Bytes) throws -> FoundRecord? { try get(place).map { try FoundRecord($0) } }
}

extension MachineView {
    mutating func entry(_ place: Bytes) throws -> ObjectEntry? { try get(place).map { try FoundRecord($0).entry } }
}
