// Latches that count down, in rounds. Sub state machine 28.

public import Messages
public import Primitives
public import StateMachines

/// Latches: set to a count, counted down by whoever has done his part; who waits goes on at zero. Set again, the next round
/// begins.
///
/// An object has one record. From feature level 10 on.
public enum LatchMachine: StateMachine {
    public static let number = SubMachineNumber(28)
    public static let commands: [any MachineCommand<LatchMachine>.Type] = [
        LatchSet.self, LatchCountDown.self, LatchDelete.self,
    ]
    public static let queries: [any MachineQuery<LatchMachine>.Type] = [LatchShow.self]

    /// Where watches see it.
    package static func stateKey(_ name: Bytes) -> Bytes { ObjectKey(name).record() }
}

extension ObjectFailure {
    /// There is no such latch: nobody has set it.
    public static let noLatch: UInt32 = 56
    /// The latch is in another round than was expected. Details: an encoded `LatchState`.
    public static let otherRound: UInt32 = 57
}

/// `round u64 | count u64 | initial u64 | opened u64`
public struct LatchState: Hashable, Sendable, Message {
    /// Grows with each round of a latch, also if it was deleted in between. Never 0.
    public var round: UInt64
    /// What is still to be counted down; 0: who waits goes on.
    public var count: UInt64
    /// What the round began with.
    public var initial: UInt64
    /// The last round that came to zero; 0: none did.
    public var opened: UInt64

    public var isOpen: Bool { count == 0 }

    package init(round: UInt64, count: UInt64, initial: UInt64, opened: UInt64) {
        (self.round, self.count, self.initial, self.opened) = (round, count, initial, opened)
    }

    public func encode(into writer: inout ByteWriter) {
        for number in [round, count, initial, opened] { writer.write(number) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (round, count) = (try reader.read(), try reader.read())
        (initial, opened) = (try reader.read(), try reader.read())
        guard round <= 1 << 62 else { throw DecodingFailure(expected: "a latch's round", found: "\(round)") }
    }

    fileprivate mutating func countDown(by amount: UInt64) {
        count -= min(count, amount)
        if count == 0 { opened = round }
    }
}

/// What is stored: `version u8 = 1 | state`
private struct LatchRecord: Message {
    var state: LatchState
    private static let formatVersion: UInt8 = 1

    init(_ state: LatchState) { self.state = state }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        state.encode(into: &writer)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a latch")
        state = try LatchState(from: &reader)
    }
}

/// Begins a round. Answers the latch as it is now.
///
/// `name | count u64 | if absent u8`
public struct LatchSet: MachineCommand {
    public typealias Machine = LatchMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    public var count: UInt64
    /// Only if there is no such latch: one that is there stays as it is.
    public var ifAbsent: Bool

    /// - Parameter count: 0: the round is over at once.
    public init(_ name: Bytes, _ count: UInt64, ifAbsent: Bool = false) {
        self.name = name
        self.count = count
        self.ifAbsent = ifAbsent
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> LatchState {
        let place = ObjectKey(name).record()
        let before = try context.get(place, as: LatchRecord.self)?.state
        if ifAbsent, let before { return before }
        // Revisions of a group only grow, and a latch may move to another one.
        var state = LatchState(
            round: max((before?.round ?? 0) + 1, context.revision.rawValue), count: count, initial: count,
            opened: before?.opened ?? 0)
        state.countDown(by: 0)
        try context.put(place, LatchRecord(state))
        context.tell(.put, place, state.encoded())
        return state
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(count)
        writer.write(ifAbsent)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        count = try reader.read()
        ifAbsent = try reader.readBool()
    }
}

/// Counts down, to zero at most. Answers the latch as it is now.
///
/// `name | amount u64 | round u64`
public struct LatchCountDown: MachineCommand {
    public typealias Machine = LatchMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    public var amount: UInt64
    /// It is refused in another one. 0: whichever it is.
    public var round: UInt64

    public init(_ name: Bytes, by amount: UInt64 = 1, round: UInt64 = 0) {
        self.name = name
        self.amount = amount
        self.round = round
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> LatchState {
        let place = ObjectKey(name).record()
        guard var state = try context.get(place, as: LatchRecord.self)?.state else {
            throw MachineFailure(ObjectFailure.noLatch, "there is no such latch: set it first")
        }
        guard round == 0 || round == state.round else {
            throw MachineFailure(
                ObjectFailure.otherRound, "the latch is in round \(state.round), not \(round)",
                details: state.encoded())
        }
        let before = state
        state.countDown(by: amount)
        guard state != before else { return state }
        try context.put(place, LatchRecord(state))
        context.tell(.put, place, state.encoded())
        return state
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(amount)
        writer.write(round)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        (amount, round) = (try reader.read(), try reader.read())
    }
}

/// Answers whether there was one.
///
/// `name`
public struct LatchDelete: MachineCommand {
    public typealias Machine = LatchMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        let place = ObjectKey(name).record()
        guard try context.get(place) != nil else { return false }
        try context.delete(place)
        context.tell(.deleted, place)
        return true
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// A latch as it stands.
///
/// `name`
public struct LatchShow: MachineQuery {
    public typealias Machine = LatchMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> LatchFound {
        LatchFound(try view.get(ObjectKey(name).record(), as: LatchRecord.self)?.state)
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// `is there u8 | state, if it is`
public struct LatchFound: Hashable, Sendable, Message {
    /// nil: nobody has set it.
    public var state: LatchState?

    package init(_ state: LatchState?) { self.state = state }

    public func encode(into writer: inout ByteWriter) { writer.writeOptional(state) { $0.encode(into: &$1) } }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        state = try reader.readOptional { reader throws(DecodingFailure) in try LatchState(from: &reader) }
    }
}
