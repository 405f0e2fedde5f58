// Number: an integer or a floating-point number with a name. Sub state machine 17.

public import Messages
public import Primitives
public import StateMachines

/// `kind u8: 1 integer, 2 double | 8 bytes`
public enum Numeral: Hashable, Sendable, Message {
    case integer(Int64)
    /// Finite.
    case double(Double)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .integer(let value):
            writer.write(1 as UInt8)
            writer.write(value)
        case .double(let value):
            writer.write(2 as UInt8)
            writer.write(value.bitPattern)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 1: self = .integer(try reader.read())
        case 2:
            let value = Double(bitPattern: try reader.read())
            guard value.isFinite else { throw DecodingFailure(expected: "a finite number", found: "\(value)") }
            self = .double(value)
        case let kind: throw DecodingFailure(expected: "a number of kind 1 or 2", found: "\(kind)")
        }
    }

    /// Of the same kind.
    var zero: Numeral {
        switch self {
        case .integer: .integer(0)
        case .double: .double(0)
        }
    }

    var isInteger: Bool { if case .integer = self { true } else { false } }

    /// nil: of two kinds.
    func isLess(than other: Numeral) -> Bool? {
        switch (self, other) {
        case (.integer(let left), .integer(let right)): left < right
        case (.double(let left), .double(let right)): left < right
        default: nil
        }
    }
}

/// Commands and queries about numbers. Records of one: part 1. Watches see it under that key, the value an encoded
/// `NumberState`.
public enum NumberMachine: StateMachine {
    public static let number = SubMachineNumber(17)
    public static let commands: [any MachineCommand<NumberMachine>.Type] = [
        NumberChange.self, NumberBound.self, NumberDelete.self,
    ]
    public static let queries: [any MachineQuery<NumberMachine>.Type] = [NumberGet.self]

    static let record: UInt8 = 1

    package static func watchKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(record) }
}

/// A number, and between what it stays.
///
/// `version u8 = 1 | numeral | has lower u8 | lower | has upper u8 | upper`
public struct NumberState: Hashable, Sendable, Message {
    public var value: Numeral
    /// Of the same kind; it is never below.
    public var lower: Numeral?
    public var upper: Numeral?

    private static let formatVersion: UInt8 = 1

    package init(value: Numeral, lower: Numeral? = nil, upper: Numeral? = nil) {
        self.value = value
        self.lower = lower
        self.upper = upper
    }

    /// - Parameter before: what stays if it is not within its bounds.
    func check(over before: NumberState?) throws(MachineFailure) {
        guard lower.map({ value.isLess(than: $0) == false }) ?? true,
            upper.map({ $0.isLess(than: value) == false }) ?? true
        else {
            throw NumberFound.failure(ObjectFailure.outOfBounds, "the result is out of the number's bounds", before)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        value.encode(into: &writer)
        writer.writeOptional(lower) { $0.encode(into: &$1) }
        writer.writeOptional(upper) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a number's record")
        value = try Numeral(from: &reader)
        lower = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
        upper = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
    }
}

/// What a number is, for the details of failures and the answers of queries.
///
/// `is there u8 | state, if there is one`
public struct NumberFound: Hashable, Sendable, Message {
    public var state: NumberState?

    package init(_ state: NumberState?) { self.state = state }

    public func encode(into writer: inout ByteWriter) { writer.writeOptional(state) { $0.encode(into: &$1) } }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        state = try reader.readOptional { reader throws(DecodingFailure) in try NumberState(from: &reader) }
    }

    static func failure(_ code: UInt32, _ text: String, _ state: NumberState?) -> MachineFailure {
        MachineFailure(code, text, details: NumberFound(state).encoded())
    }
}

/// What a command made of a number.
///
/// `value | was there u8 | previous, if it was there`
public struct NumberChanged: Hashable, Sendable, Message {
    public var value: Numeral
    /// nil: there was none, which counts as 0.
    public var previous: Numeral?

    package init(value: Numeral, previous: Numeral?) {
        self.value = value
        self.previous = previous
    }

    public func encode(into writer: inout ByteWriter) {
        value.encode(into: &writer)
        writer.writeOptional(previous) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        value = try Numeral(from: &reader)
        previous = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
    }
}

/// Sets it or computes with it. A number that is not there counts as 0.
///
/// `name | operation u8 | operand | has expected u8 | expected`
public struct NumberChange: MachineCommand {
    public typealias Machine = NumberMachine
    public static let number: UInt16 = 1

    public enum Operation: UInt8, Hashable, Sendable, CaseIterable {
        case set = 1
        case add = 2
        case subtract = 3
        case multiply = 4
        /// Integers: towards 0.
        case divide = 5
    }

    public var name: Bytes
    public var operation: Operation
    public var operand: Numeral
    /// Nothing changes if it is another one; what is not there counts as 0 here too.
    public var expected: Numeral?

    public init(_ name: Bytes, _ operation: Operation, _ operand: Numeral, ifEqual expected: Numeral? = nil) {
        self.name = name
        self.operation = operation
        self.operand = operand
        self.expected = expected
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(NumberMachine.record)] }

    public func apply(in context: inout MachineContext) throws -> NumberChanged {
        let place = ObjectKey(name).record(NumberMachine.record)
        let before = try context.get(place, as: NumberState.self)
        if let expected, expected != before?.value ?? operand.zero {
            throw NumberFound.failure(
                ObjectFailure.conditionFailed, "the number is not the expected one", before)
        }
        var state = before ?? NumberState(value: operand.zero)
        guard state.value.isInteger == operand.isInteger else {
            throw NumberFound.failure(
                ObjectFailure.otherKind, "the number and the operand are not both integers, or both not", before)
        }
        state.value = try result(state.value, before)
        try state.check(over: before)
        let record = state.encoded()
        // By its bytes: -0 is another number than 0.
        if record != before?.encoded() {
            try context.put(place, record)
            context.tell(.put, place, record)
        }
        return NumberChanged(value: state.value, previous: before?.value)
    }

    private func result(_ value: Numeral, _ before: NumberState?) throws(MachineFailure) -> Numeral {
        switch (value, operand) {
        case (.integer(let value), .integer(let operand)):
            if operation == .divide, operand == 0 {
                throw NumberFound.failure(ObjectFailure.divisionByZero, "division by zero", before)
            }
            let (result, isBeyond) =
                switch operation {
                case .set: (operand, false)
                case .add: value.addingReportingOverflow(operand)
                case .subtract: value.subtractingReportingOverflow(operand)
                case .multiply: value.multipliedReportingOverflow(by: operand)
                case .divide: value.dividedReportingOverflow(by: operand)
                }
            guard !isBeyond else {
                throw NumberFound.failure(ObjectFailure.overflow, "the result is no 64-bit integer", before)
            }
            return .integer(result)
        case (.double(let value), .double(let operand)):
            if operation == .divide, operand == 0 {
                throw NumberFound.failure(ObjectFailure.divisionByZero, "division by zero", before)
            }
            let result =
                switch operation {
                case .set: operand
                case .add: value + operand
                case .subtract: value - operand
                case .multiply: value * operand
                case .divide: value / operand
                }
            guard result.isFinite else {
                throw NumberFound.failure(ObjectFailure.overflow, "the result is too large", before)
            }
            return .double(result)
        default: throw NumberFound.failure(ObjectFailure.otherKind, "two kinds of numbers", before)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(operation.rawValue)
        operand.encode(into: &writer)
        writer.writeOptional(expected) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        let number = try reader.read(UInt8.self)
        guard let known = Operation(rawValue: number) else {
            throw DecodingFailure(expected: "an operation of 1 to 5", found: "\(number)")
        }
        operation = known
        operand = try Numeral(from: &reader)
        expected = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
    }
}

/// Says between what it stays; what is nil has no bound. A number that is not there becomes the bounds' 0, and has to lie
/// between them as any other.
///
/// `name | has lower u8 | lower | has upper u8 | upper`
public struct NumberBound: MachineCommand {
    public typealias Machine = NumberMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    public var lower: Numeral?
    public var upper: Numeral?

    public init(_ name: Bytes, lower: Numeral?, upper: Numeral?) {
        self.name = name
        self.lower = lower
        self.upper = upper
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(NumberMachine.record)] }

    public func apply(in context: inout MachineContext) throws -> NumberFound {
        let place = ObjectKey(name).record(NumberMachine.record)
        let before = try context.get(place, as: NumberState.self)
        guard let kind = before?.value ?? lower?.zero ?? upper?.zero else { return NumberFound(nil) }
        let state = NumberState(value: before?.value ?? kind, lower: lower, upper: upper)
        guard lower.map({ $0.isInteger == kind.isInteger }) ?? true,
            upper.map({ $0.isInteger == kind.isInteger }) ?? true
        else {
            throw NumberFound.failure(
                ObjectFailure.otherKind, "the number and its bounds are not all integers, or all not", before)
        }
        try state.check(over: before)
        let record = state.encoded()
        guard record != before?.encoded() else { return NumberFound(state) }
        try context.put(place, record)
        context.tell(.put, place, record)
        return NumberFound(state)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeOptional(lower) { $0.encode(into: &$1) }
        writer.writeOptional(upper) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        lower = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
        upper = try reader.readOptional { reader throws(DecodingFailure) in try Numeral(from: &reader) }
        if let lower, let upper, upper.isLess(than: lower) == true {
            throw DecodingFailure(
                expected: "a lower bound that is not above the upper one", found: "\(lower), \(upper)")
        }
    }
}

/// Number and bounds go.
///
/// `name`
public struct NumberDelete: MachineCommand {
    public typealias Machine = NumberMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(NumberMachine.record)] }

    public func apply(in context: inout MachineContext) throws -> NumberFound {
        let place = ObjectKey(name).record(NumberMachine.record)
        guard let before = try context.get(place, as: NumberState.self) else { return NumberFound(nil) }
        try context.delete(place)
        context.tell(.deleted, place)
        return NumberFound(before)
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// What it is.
///
/// `name`
public struct NumberGet: MachineQuery {
    public typealias Machine = NumberMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(NumberMachine.record)] }

    public func answer(in view: inout MachineView) throws -> NumberFound {
        NumberFound(try view.get(ObjectKey(name).record(NumberMachine.record), as: NumberState.self))
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}
