// What is done to arrays, and what that answers.

public import Messages
public import Primitives
public import StateMachines

/// Puts values in at some point, in their order, behind one another.
///
/// `name | point | values u16 | each: length u32, bytes`
public struct ArrayInsert: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    public var point: ArrayPoint
    public var values: [Bytes]

    public init(_ name: Bytes, _ values: [Bytes], at point: ArrayPoint = .end) {
        self.name = name
        self.point = point
        self.values = values
    }

    /// `index u64 | first id u64 | number u16 | count u64`
    public struct Answer: Hashable, Sendable, Message {
        /// Of the first one.
        public var index: UInt64
        /// Of the first one; the others' follow.
        public var first: ArrayElementID
        public var number: UInt16
        /// How many elements the array has now.
        public var count: UInt64

        package init(index: UInt64, ids: Range<UInt64>, count: UInt64) {
            self.index = index
            first = ArrayElementID(ids.lowerBound)
            number = UInt16(truncatingIfNeeded: ids.count)
            self.count = count
        }

        public var ids: [ArrayElementID] {
            (0..<UInt64(number)).map { ArrayElementID(first.rawValue &+ $0) }
        }

        public func encode(into writer: inout ByteWriter) {
            writer.write(index)
            writer.write(first.rawValue)
            writer.write(number)
            writer.write(count)
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            index = try reader.read()
            first = ArrayElementID(try reader.read())
            (number, count) = (try reader.read(), try reader.read())
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Answer {
        try context.changeArray(name) { editor, context in
            let index = try editor.array.index(of: point, in: &context)
            let revision = context.revision
            let ids = try editor.array.insert(values, at: index, revision: revision, in: &context)
            for (number, value) in values.enumerated() {
                let number = UInt64(number)
                editor.tell(.inserted(at: index + number, value), of: ids.lowerBound + number, in: &context)
            }
            return Answer(index: index, ids: ids, count: editor.array.count)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        point.encode(into: &writer)
        writer.writeList(values) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        point = try ArrayPoint(from: &reader)
        values = try reader.readList(countMax: ArrayMachine.elementsMax) { reader throws(DecodingFailure) in
            try reader.readValue()
        }
    }
}

/// An element that was set or removed: where it stood, and what it was before.
///
/// `index u64 | id u64 | PreviousEntry`
public struct ArrayFound: Hashable, Sendable, Message {
    public var index: UInt64
    public var id: ArrayElementID
    public var previous: PreviousEntry

    package init(index: UInt64, id: UInt64, previous: PreviousEntry) {
        self.index = index
        self.id = ArrayElementID(id)
        self.previous = previous
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(index)
        writer.write(id.rawValue)
        previous.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        index = try reader.read()
        id = ArrayElementID(try reader.read())
        previous = try PreviousEntry(from: &reader)
    }
}

extension ObjectArray.Element {
    var entry: ObjectEntry { ObjectEntry(value: value, revision: revision) }
}

extension ArrayEditor {
    /// - Throws: it is not there, or the condition does not hold.
    fileprivate mutating func find(
        _ place: ArrayPlace, if condition: EntryCondition?, in context: inout MachineContext
    ) throws -> (index: UInt64, element: ObjectArray.Element) {
        let found = try find(place, in: &context)
        if let condition, !condition.holds(of: found.element.entry) { throw FoundEntry.failure(found.element.entry) }
        return found
    }
}

/// Gives an element another value. An element that is not there is no question of a condition: `noIndex`, `noElement`.
///
/// `name | place | answers previous u8 | has condition u8 | condition | value: rest`
public struct ArraySet: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    public var place: ArrayPlace
    public var value: Bytes
    public var condition: EntryCondition?
    public var answersPrevious: Bool

    public init(
        _ name: Bytes, _ place: ArrayPlace, _ value: Bytes, if condition: EntryCondition? = nil,
        answersPrevious: Bool = false
    ) {
        self.name = name
        self.place = place
        self.value = value
        self.condition = condition
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ArrayFound {
        try context.changeArray(name) { editor, context in
            let (index, old) = try editor.find(place, if: condition, in: &context)
            let revision = context.revision
            try editor.array.set(old.id, to: value, revision: revision, in: &context)
            editor.tell(.set(at: index, value), of: old.id, in: &context)
            return ArrayFound(
                index: index, id: old.id, previous: PreviousEntry(old.entry, hasValue: answersPrevious))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        place.encode(into: &writer)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
        writer.write(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        place = try ArrayPlace(from: &reader)
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
        value = try reader.readRestAsValue()
    }
}

/// Takes an element out.
///
/// `name | place | answers previous u8 | has condition u8 | condition`
public struct ArrayRemove: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes
    public var place: ArrayPlace
    public var condition: EntryCondition?
    public var answersPrevious: Bool

    public init(
        _ name: Bytes, _ place: ArrayPlace, if condition: EntryCondition? = nil, answersPrevious: Bool = false
    ) {
        self.name = name
        self.place = place
        self.condition = condition
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ArrayFound {
        try context.changeArray(name) { editor, context in
            let (index, old) = try editor.find(place, if: condition, in: &context)
            _ = try editor.array.remove(old.id, in: &context)
            editor.tell(.removed(at: index), of: old.id, in: &context)
            return ArrayFound(
                index: index, id: old.id, previous: PreviousEntry(old.entry, hasValue: answersPrevious))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        place.encode(into: &writer)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        place = try ArrayPlace(from: &reader)
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
    }
}

/// Takes the elements of a range out, up to `ArrayMachine.elementsMax`. Answers how many.
///
/// `name | lower u64 | upper u64`
public struct ArrayRemoveRange: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 4
    public static let bringsDataIn = false
    public var name: Bytes
    public var range: Range<UInt64>

    public init(_ name: Bytes, _ range: Range<UInt64>) {
        self.name = name
        self.range = range
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        try context.changeArray(name) { editor, context in
            let ids = try editor.array.remove(range, in: &context)
            for id in ids { editor.tell(.removed(at: range.lowerBound), of: id, in: &context) }
            return ObjectCount(UInt64(ids.count))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(range)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        range = try reader.readIndexRange()
        guard range.upperBound - range.lowerBound <= ArrayMachine.elementsMax else {
            throw DecodingFailure(expected: "a range of at most \(ArrayMachine.elementsMax)", found: "\(range)")
        }
    }
}

/// Takes all elements out but some that stand together, however many. Costs as much as some insertions; their records are
/// deleted later. Answers how many it took out.
///
/// `name | kind u8 | …`: 1 a range, `lower u64 | upper u64`; 2 so many of the first, 3 of the last, `u64`
public struct ArrayTrim: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 5
    public static let bringsDataIn = false

    public enum Kept: Hashable, Sendable {
        case range(Range<UInt64>)
        /// All, if there are fewer; so for `last`.
        case first(UInt64)
        case last(UInt64)
    }

    public var name: Bytes
    public var kept: Kept

    public init(_ name: Bytes, keeping kept: Kept) {
        self.name = name
        self.kept = kept
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        try context.changeArray(name) { editor, context in
            let count = editor.array.count
            let range =
                switch kept {
                case .range(let range): range
                case .first(let number): 0..<min(number, count)
                case .last(let number): count - min(number, count)..<count
                }
            guard range.upperBound <= count else { throw ObjectArray.Failure.noIndex(count: count) }
            guard range != 0..<count else { return ObjectCount(0) }
            guard !range.isEmpty else { return ObjectCount(try editor.clear(in: &context)) }
            return ObjectCount(try editor.trim(to: range, in: &context))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        switch kept {
        case .range(let range):
            writer.write(1 as UInt8)
            writer.write(range)
        case .first(let count):
            writer.write(2 as UInt8)
            writer.write(count)
        case .last(let count):
            writer.write(3 as UInt8)
            writer.write(count)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        switch try reader.read(UInt8.self) {
        case 1: kept = .range(try reader.readIndexRange())
        case 2: kept = .first(try reader.read())
        case 3: kept = .last(try reader.read())
        case let kind: throw DecodingFailure(expected: "what is kept of an array, 1 to 3", found: "\(kind)")
        }
    }
}

/// Takes all elements out, however many. Costs no more than to remove one. Answers how many there were.
///
/// `name`
public struct ArrayClear: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 6
    public static let bringsDataIn = false
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        try context.changeArray(name) { editor, context in ObjectCount(try editor.clear(in: &context)) }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}
