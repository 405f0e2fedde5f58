// Value: one value with a name. Sub state machine 16.

public import Messages
public import Primitives
public import StateMachines

/// Commands and queries about single values. Records of one: its entry, part 1. Watches see it under that key.
public enum ValueMachine: StateMachine {
    public static let number = SubMachineNumber(16)
    public static let commands: [any MachineCommand<ValueMachine>.Type] = [
        ValueSet.self, ValueDelete.self, ValueExpire.self,
    ]
    public static let queries: [any MachineQuery<ValueMachine>.Type] = [ValueGet.self]

    static let entry: UInt8 = 1

    /// Where watches see it.
    package static func watchKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(entry) }
}

/// Gives it a value; answers with what was there before.
///
/// `name | time to live u64 | answers previous u8 | has condition u8 | condition | value: rest`
public struct ValueSet: MachineCommand {
    public typealias Machine = ValueMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    public var value: Bytes
    /// Nothing changes if it does not hold.
    public var condition: EntryCondition?
    /// Milliseconds of log time; 0: for ever.
    public var timeToLiveMillis: UInt64
    /// Whether the answer has the value before, or its revision only.
    public var answersPrevious: Bool

    public init(
        _ name: Bytes, _ value: Bytes, if condition: EntryCondition? = nil, timeToLiveMillis: UInt64 = 0,
        answersPrevious: Bool = false
    ) {
        self.name = name
        self.value = value
        self.condition = condition
        self.timeToLiveMillis = timeToLiveMillis
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(ValueMachine.entry)] }

    public func apply(in context: inout MachineContext) throws -> PreviousEntry {
        let place = ObjectKey(name).record(ValueMachine.entry)
        let before = try context.record(place)
        if let condition, !condition.holds(of: before?.entry) { throw FoundEntry.failure(before?.entry) }
        if let timer = before?.timer { try context.cancel(timer) }
        let timer =
            timeToLiveMillis == 0
            ? nil : try context.schedule(ValueExpire(name: name), after: .milliseconds(timeToLiveMillis))
        try context.put(place, EntryRecord(timer: timer, value: value).encoded())
        context.tell(.put, place, value)
        return PreviousEntry(before?.entry, hasValue: answersPrevious)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(timeToLiveMillis)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
        writer.write(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        timeToLiveMillis = try reader.readTimeToLive()
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
        value = try reader.readRestAsValue()
    }
}

/// Takes its value away.
///
/// `name | answers previous u8 | has condition u8 | condition`
public struct ValueDelete: MachineCommand {
    public typealias Machine = ValueMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    public var name: Bytes
    public var condition: EntryCondition?
    public var answersPrevious: Bool

    public init(_ name: Bytes, if condition: EntryCondition? = nil, answersPrevious: Bool = false) {
        self.name = name
        self.condition = condition
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(ValueMachine.entry)] }

    public func apply(in context: inout MachineContext) throws -> PreviousEntry {
        let place = ObjectKey(name).record(ValueMachine.entry)
        let before = try context.record(place)
        if let condition, !condition.holds(of: before?.entry) { throw FoundEntry.failure(before?.entry) }
        guard let before else { return PreviousEntry(nil) }
        if let timer = before.timer { try context.cancel(timer) }
        try context.delete(place)
        context.tell(.deleted, place)
        return PreviousEntry(before.entry, hasValue: answersPrevious)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
    }
}

/// Its time to live is over. Scheduled by what set it; from anybody else it does nothing.
///
/// `name`
public struct ValueExpire: MachineCommand {
    public typealias Machine = ValueMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes

    package init(name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(ValueMachine.entry)] }

    public func apply(in context: inout MachineContext) throws -> Done {
        let place = ObjectKey(name).record(ValueMachine.entry)
        guard let timer = try context.record(place)?.timer, context.isDoing(timer) else { return Done() }
        try context.delete(place)
        context.tell(.expired, place)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// What is there.
///
/// `name`
public struct ValueGet: MachineQuery {
    public typealias Machine = ValueMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(ValueMachine.entry)] }

    public func answer(in view: inout MachineView) throws -> PossibleEntry {
        PossibleEntry(try view.entry(ObjectKey(name).record(ValueMachine.entry)))
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// `is there u8 | entry, if there is one`
public struct PossibleEntry: Hashable, Sendable, Message {
    public var entry: ObjectEntry?

    package init(_ entry: ObjectEntry?) { self.entry = entry }

    public func encode(into writer: inout ByteWriter) { writer.writeOptional(entry) { $0.encode(into: &$1) } }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        entry = try reader.readOptional { reader throws(DecodingFailure) in try ObjectEntry(from: &reader) }
    }
}

/// What a command found before it changed it.
///
/// `is there u8 | revision u64 | has value u8 | value: length u32, bytes, if there is one`
public struct PreviousEntry: Hashable, Sendable, Message {
    /// nil: nothing was there.
    public var revision: Revision?
    /// Where it was asked for.
    public var value: Bytes?

    package init(_ entry: ObjectEntry?, hasValue: Bool = false) {
        revision = entry?.revision
        value = hasValue ? entry?.value : nil
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
        value = try reader.readOptional { reader throws(DecodingFailure) in try reader.readValue() }
    }
}

extension ByteReader {
    mutating func readRestAsValue() throws(DecodingFailure) -> Bytes {
        let value = readRest()
        guard value.count <= ObjectLimits.valueBytesMax else {
            throw DecodingFailure(
                expected: "a value of at most \(ObjectLimits.valueBytesMax) bytes", found: "\(value.count)")
        }
        return value
    }
}
