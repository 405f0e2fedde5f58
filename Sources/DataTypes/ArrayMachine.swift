// Array: values in an order, each with an id that stays, under one name. Sub state machine 20.

public import Messages
public import Primitives
public import StateMachines

/// Commands and queries about arrays. Records of one: its head, part 0, from its first element on and for ever, so that no
/// id comes twice; and those of `ObjectArray`, part 1. Watches see an `ArrayChange` for each element, under
/// `watchKey(_:_:)`.
public enum ArrayMachine: StateMachine {
    public static let number = SubMachineNumber(20)
    public static let commands: [any MachineCommand<ArrayMachine>.Type] = [
        ArrayInsert.self, ArraySet.self, ArrayRemove.self, ArrayRemoveRange.self, ArrayTrim.self, ArrayClear.self,
        ArraySweep.self,
    ]
    public static let queries: [any MachineQuery<ArrayMachine>.Type] = [
        ArrayGet.self, ArrayIndex.self, ArrayPage.self, ArrayCount.self,
    ]

    /// Put in or taken out by one command, or in a page.
    public static let elementsMax = ObjectArray.elementsMax
    /// Of what trims cut off before, that one more trim deletes.
    static let sweptByTrim = 128
    /// Each deletes `elementsMax` elements that were cut off; a second later come the next ones.
    static let sweepsAtOnce: UInt64 = 8

    static let elements: UInt8 = 1

    /// Under which all changes are told.
    package static func watchKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(elements) }
    package static func watchKey(_ name: Bytes, _ id: ArrayElementID) -> Bytes {
        ObjectKey(name).record(elements, id.rawValue)
    }
}

/// An element of an array, wherever it stands: never given to another one of the same array, not even when that was
/// cleared.
public struct ArrayElementID: Hashable, Sendable, Comparable, RawRepresentable, CustomStringConvertible {
    public var rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    public var description: String { "\(rawValue)" }
    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// An element that is there: which one.
///
/// `kind u8 | u64`: 1 index, 2 id
public enum ArrayPlace: Hashable, Sendable {
    case index(UInt64)
    case element(ArrayElementID)

    func encode(into writer: inout ByteWriter) {
        switch self {
        case .index(let index):
            writer.write(1 as UInt8)
            writer.write(index)
        case .element(let id):
            writer.write(2 as UInt8)
            writer.write(id.rawValue)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 1: self = .index(try reader.read())
        case 2: self = .element(ArrayElementID(try reader.read()))
        case let kind: throw DecodingFailure(expected: "an element's place of kind 1 or 2", found: "\(kind)")
        }
    }
}

/// Between two elements, before the first one, or behind the last.
///
/// `kind u8 | u64`: 1 before an index, which may be the count, 2 before an element, 3 behind an element (each with its
/// id); `4 u8`: the end
public enum ArrayPoint: Hashable, Sendable {
    case index(UInt64)
    case before(ArrayElementID)
    case behind(ArrayElementID)
    case end

    func encode(into writer: inout ByteWriter) {
        switch self {
        case .index(let index):
            writer.write(1 as UInt8)
            writer.write(index)
        case .before(let id):
            writer.write(2 as UInt8)
            writer.write(id.rawValue)
        case .behind(let id):
            writer.write(3 as UInt8)
            writer.write(id.rawValue)
        case .end: writer.write(4 as UInt8)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 1: self = .index(try reader.read())
        case 2: self = .before(ArrayElementID(try reader.read()))
        case 3: self = .behind(ArrayElementID(try reader.read()))
        case 4: self = .end
        case let kind: throw DecodingFailure(expected: "a point in an array of kind 1 to 4", found: "\(kind)")
        }
    }
}

/// What watches are told of an array: with all of it, in order, a copy of the array stays one. Each index is that of the
/// moment at which the change comes: several of one revision come one behind the other.
///
/// `kind u8 | …`: 1 inserted and 2 set, each `index u64 | value: rest`; 3 removed, `index u64`; 4 trimmed, `lower u64 |
/// upper u64`. The first two are told as *put*, the others as *deleted*, all under the element's key but for *trimmed*. That
/// one stands for all elements that a trim took away, however many, and is told under what the keys of all elements begin
/// with; so are *cleared*, without a value.
public enum ArrayChange: Hashable, Sendable, Message {
    case inserted(at: UInt64, Bytes)
    case set(at: UInt64, Bytes)
    case removed(at: UInt64)
    /// Only these are left.
    case trimmed(to: Range<UInt64>)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .inserted(let index, let value):
            writer.write(1 as UInt8)
            writer.write(index)
            writer.write(value)
        case .set(let index, let value):
            writer.write(2 as UInt8)
            writer.write(index)
            writer.write(value)
        case .removed(let index):
            writer.write(3 as UInt8)
            writer.write(index)
        case .trimmed(let range):
            writer.write(4 as UInt8)
            writer.write(range)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 1: self = .inserted(at: try reader.read(), try reader.readRestAsValue())
        case 2: self = .set(at: try reader.read(), try reader.readRestAsValue())
        case 3: self = .removed(at: try reader.read())
        case 4: self = .trimmed(to: try reader.readIndexRange())
        case let kind: throw DecodingFailure(expected: "an array's change of kind 1 to 4", found: "\(kind)")
        }
    }
}

extension ByteReader {
    /// `lower u64 | upper u64`
    mutating func readIndexRange() throws(DecodingFailure) -> Range<UInt64> {
        let (lower, upper): (UInt64, UInt64) = (try read(), try read())
        guard lower <= upper else { throw DecodingFailure(expected: "a range", found: "\(lower) to \(upper)") }
        return lower..<upper
    }
}

extension ByteWriter {
    mutating func write(_ range: Range<UInt64>) {
        write(range.lowerBound)
        write(range.upperBound)
    }
}

extension ObjectFailure {
    /// An array has no such index. Details: how many elements it has, u64.
    public static let noIndex: UInt32 = 20
    /// An array has no element with this id, or not any more.
    public static let noElement: UInt32 = 21
    /// There is no room for so much in one array.
    public static let arrayFull: UInt32 = 22
}

extension MachineFailure {
    fileprivate init(_ failure: ObjectArray.Failure) {
        switch failure {
        case .noIndex(let count):
            self.init(
                ObjectFailure.noIndex, "there is no such index: the array has \(count) elements",
                details: ObjectCount(count).encoded())
        case .noElement: self.init(ObjectFailure.noElement, "the array has no such element")
        // What a command has is within the other bounds.
        default: self.init(ObjectFailure.arrayFull, "the array can't take so much: \(failure)")
        }
    }
}

// MARK: - While a command changes it

/// An array's own record.
///
/// `version u8 = 1 | ObjectArray.Head, 58 bytes | cut off u64 | is sweeping u8`
struct ArrayHead: Message {
    var elements = ObjectArray.Head()
    /// Elements that trims took away whose records are not deleted yet.
    var cutOff: UInt64 = 0
    /// An `ArraySweep` is scheduled that sees to it that others follow.
    var isSweeping = false

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        elements.encode(into: &writer)
        writer.write(cutOff)
        writer.write(isSweeping)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "an array's record")
        elements = try ObjectArray.Head(from: &reader)
        cutOff = try reader.read()
        isSweeping = try reader.readBool()
    }
}

struct ArrayEditor {
    let name: Bytes
    var array: ObjectArray
    fileprivate var head: ArrayHead
    private let before: Bytes
    private var key: ObjectKey { ObjectKey(name) }

    fileprivate init(_ name: Bytes, in context: inout MachineContext) throws {
        self.name = name
        head = try context.get(ObjectKey(name).record(), as: ArrayHead.self) ?? ArrayHead()
        before = head.encoded()
        array = ObjectArray(ObjectKey(name), head.elements)
    }

    fileprivate mutating func close(in context: inout MachineContext) throws {
        head.elements = try array.flush(into: &context)
        let after = head.encoded()
        if after != before { try context.put(key.record(), after) }
    }

    /// - Throws: `ObjectArray.Failure`, as all that follows.
    mutating func find(
        _ place: ArrayPlace, in context: inout MachineContext
    ) throws -> (index: UInt64, element: ObjectArray.Element) {
        switch place {
        case .index(let index): (index, try array.element(at: index, in: &context))
        case .element(let id):
            (try array.index(of: id.rawValue, in: &context), try array.element(id.rawValue, in: &context))
        }
    }

    func tell(_ change: ArrayChange, of id: UInt64, in context: inout MachineContext) {
        let isPut =
            switch change {
            case .inserted, .set: true
            case .removed, .trimmed: false
            }
        context.tell(isPut ? .put : .deleted, ArrayMachine.watchKey(name, ArrayElementID(id)), change.encoded())
    }

    /// Returns how many it took out.
    mutating func clear(in context: inout MachineContext) throws -> UInt64 {
        let count = array.count
        guard count > 0 || array.head.needsSweep else { return 0 }
        let garbage = try array.clear()
        head.cutOff = 0
        try context.sweep(garbage)
        if count > 0 { context.tell(.cleared, ArrayMachine.watchKey(name)) }
        return count
    }

    /// - Parameter range: not empty, and not all.
    mutating func trim(to range: Range<UInt64>, in context: inout MachineContext) throws -> UInt64 {
        // An array that is trimmed all the time has no more to be deleted from one second to the next.
        try sweep(ArrayMachine.sweptByTrim, in: &context)
        let dropped = array.count - UInt64(range.count)
        try array.trim(to: range, in: &context)
        head.cutOff += dropped
        try scheduleSweeps(in: &context)
        context.tell(.deleted, ArrayMachine.watchKey(name), ArrayChange.trimmed(to: range).encoded())
        return dropped
    }

    private mutating func sweep(_ limit: Int, in context: inout MachineContext) throws {
        guard array.head.needsSweep else { return }
        let before = array.sweptElements
        _ = try array.sweep(limit: limit, in: &context)
        head.cutOff -= min(array.sweptElements - before, head.cutOff)
    }

    private mutating func scheduleSweeps(in context: inout MachineContext) throws {
        guard array.head.needsSweep, !head.isSweeping else { return }
        let all = min(head.cutOff / UInt64(ArrayMachine.elementsMax) + 1, UInt64(ArrayMachine.sweepsAtOnce))
        // They come in this order, and the last one goes on.
        for number in 1...all {
            try context.schedule(ArraySweep(name: name, isLast: number == all), after: .milliseconds(1))
        }
        head.isSweeping = true
    }

    fileprivate mutating func sweep(isLast: Bool, in context: inout MachineContext) throws {
        try sweep(ArrayMachine.elementsMax, in: &context)
        guard isLast else { return }
        head.isSweeping = false
        try scheduleSweeps(in: &context)
    }
}

extension MachineContext {
    mutating func changeArray<Result>(
        _ name: Bytes, _ change: (inout ArrayEditor, inout MachineContext) throws -> Result
    ) throws -> Result {
        var editor = try ArrayEditor(name, in: &self)
        do {
            let result = try change(&editor, &self)
            try editor.close(in: &self)
            return result
        } catch let failure as ObjectArray.Failure {
            throw MachineFailure(failure)
        }
    }
}

extension MachineView {
    mutating func readArray<Result>(
        _ name: Bytes, _ read: (inout ObjectArray, inout MachineView) throws -> Result
    ) throws -> Result {
        let head = try get(ObjectKey(name).record(), as: ArrayHead.self) ?? ArrayHead()
        var array = ObjectArray(ObjectKey(name), head.elements)
        do { return try read(&array, &self) } catch let failure as ObjectArray.Failure {
            throw MachineFailure(failure)
        }
    }
}

extension ObjectArray {
    mutating func index(of point: ArrayPoint, in space: inout some RecordReading) throws -> UInt64 {
        switch point {
        case .index(let index): index
        case .before(let id): try index(of: id.rawValue, in: &space)
        case .behind(let id): try index(of: id.rawValue, in: &space) + 1
        case .end: count
        }
    }
}

/// Deletes some of what trims have cut off. Scheduled by these; from anybody else it does no more than what will be done
/// anyway.
///
/// `name | is last u8`
public struct ArraySweep: MachineCommand {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 7
    public static let bringsDataIn = false
    public var name: Bytes

    /// Of those that are scheduled together; from a client it says nothing.
    public var isLast: Bool

    package init(name: Bytes, isLast: Bool = false) { (self.name, self.isLast) = (name, isLast) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        let goesOn = isLast && context.isScheduled
        try context.changeArray(name) { editor, context in try editor.sweep(isLast: goesOn, in: &context) }
        return Done()
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(isLast)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, isLast) = (try reader.readName(), try reader.readBool())
    }
}
