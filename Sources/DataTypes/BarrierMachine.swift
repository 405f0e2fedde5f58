// Barriers: all wait until so many have come. Sub state machine 27.

public import Messages
public import Primitives
public import StateMachines

/// Barriers: who arrives waits; with the last one of so many parties the round is over, all go on, and the next round
/// begins. Whose session ends has not arrived.
///
/// An object has one record, as long as somebody waits. From feature level 10 on.
public enum BarrierMachine: SessionHolder {
    public static let number = SubMachineNumber(27)
    public static let commands: [any MachineCommand<BarrierMachine>.Type] = [
        BarrierArrive.self, BarrierWithdraw.self, BarrierCheck.self,
    ]
    public static let queries: [any MachineQuery<BarrierMachine>.Type] = [BarrierShow.self]

    public static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws {
        var barrier = try Barrier(name, in: &context)
        guard isPlanted("session-end-forgets-an-arrival") || barrier.withdraw(session, in: &context) else { return }
        try barrier.close(in: &context)
    }

    /// Where watches see how many have come.
    package static func stateKey(_ name: Bytes) -> Bytes { ObjectKey(name).record() }
    /// Where those who wait see that a round is over.
    package static func openKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(1) }
}

/// Bounds of barriers. They decide, so they are part of the format.
public enum BarrierLimits {
    /// Of one barrier.
    public static let partiesMax: UInt32 = 1_024
    /// That one session has waiting at one barrier.
    public static let arrivalsOfSessionMax = 64
}

/// A barrier as long as somebody waits.
///
/// `version u8 = 1 | round u64 | parties u32 | arrivals u16, each: session u64, wish u64`
struct BarrierRecord: Hashable, Message {
    struct Arrival: Hashable {
        var session: SessionID
        /// The client's own number for it.
        var wish: UInt64
    }
    /// The revision of its first arrival.
    var round: UInt64
    var parties: UInt32
    var arrivals: [Arrival] = []

    private static let formatVersion: UInt8 = 1

    init(round: UInt64, parties: UInt32) { (self.round, self.parties) = (round, parties) }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(round)
        writer.write(parties)
        writer.writeList(arrivals) { arrival, writer in
            writer.write(arrival.session)
            writer.write(arrival.wish)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a barrier")
        (round, parties) = (try reader.read(), try reader.read())
        arrivals = try reader.readList(countMax: Int(BarrierLimits.partiesMax)) { reader throws(DecodingFailure) in
            Arrival(session: try reader.read(), wish: try reader.read())
        }
        guard !arrivals.isEmpty, arrivals.count < parties, parties <= BarrierLimits.partiesMax else {
            throw DecodingFailure(expected: "a barrier's arrivals", found: "\(arrivals.count) of \(parties)")
        }
    }
}

/// A barrier while a command changes it.
private struct Barrier {
    let key: ObjectKey
    var record: BarrierRecord?
    private let before: BarrierRecord?

    init(_ name: Bytes, in context: inout MachineContext) throws {
        key = ObjectKey(name)
        before = try context.get(key.record(), as: BarrierRecord.self)
        record = before
    }

    mutating func arrive(
        _ parties: UInt32, wish: UInt64, in context: inout MachineContext
    ) throws -> BarrierArrival {
        guard parties > 0 || record != nil else {
            throw MachineFailure(ObjectFailure.noLimit, "nobody has said how many parties there are")
        }
        var now = record ?? BarrierRecord(round: context.revision.rawValue, parties: parties)
        guard parties == 0 || parties == now.parties else {
            throw MachineFailure(
                ObjectFailure.otherLimit, "there are \(now.parties) parties, and not as many as was said")
        }
        let session = context.session
        guard now.arrivals.count(where: { $0.session == session }) < BarrierLimits.arrivalsOfSessionMax else {
            throw MachineFailure(
                ObjectFailure.tooManyClaims,
                "a session has at most \(BarrierLimits.arrivalsOfSessionMax) places at one barrier")
        }
        try context.hold(key.name)
        now.arrivals.append(BarrierRecord.Arrival(session: session, wish: wish))
        let isOpen = now.arrivals.count >= Int(now.parties)
        let answer = BarrierArrival(
            session: session,
            state: BarrierState(
                round: now.round, parties: now.parties, arrived: UInt32(now.arrivals.count), isOpen: isOpen))
        context.tell(.put, key.record(), answer.state.encoded())
        if isOpen {
            context.tell(.put, key.record(1), answer.state.encoded())
            for arrived in Set(now.arrivals.map(\.session)).sorted(by: { $0.rawValue < $1.rawValue }) {
                context.letGo(key.name, of: arrived)
            }
            record = nil
        } else {
            record = now
        }
        return answer
    }

    func waits(_ session: SessionID, _ wish: UInt64) -> Bool {
        session != .none && (record?.arrivals.contains { $0.session == session && $0.wish == wish } ?? false)
    }

    /// - Parameter wish: nil: all of the session's.
    /// - Returns: false: it has not arrived, or the round is over.
    mutating func withdraw(
        _ session: SessionID, wish: UInt64? = nil, in context: inout MachineContext
    ) -> Bool {
        guard var now = record, session != .none else { return false }
        let before = now.arrivals.count
        if let wish {
            guard let place = now.arrivals.firstIndex(where: { $0.session == session && $0.wish == wish }) else {
                return false
            }
            now.arrivals.remove(at: place)
        } else {
            now.arrivals.removeAll { $0.session == session }
        }
        guard now.arrivals.count < before else { return false }
        if !now.arrivals.contains(where: { $0.session == session }) { context.letGo(key.name, of: session) }
        let state = BarrierState(
            round: now.round, parties: now.parties, arrived: UInt32(now.arrivals.count), isOpen: false)
        context.tell(.put, key.record(), state.encoded())
        record = now.arrivals.isEmpty ? nil : now
        return true
    }

    func close(in context: inout MachineContext) throws {
        if let record {
            try context.put(key.record(), record)
        } else if before != nil {
            // A later round has a later revision for its number.
            try context.delete(key.record())
        }
    }
}

/// A round, and how many have come: `round u64 | parties u32 | arrived u32 | open u8`
public struct BarrierState: Hashable, Sendable, Message {
    /// Grows with each round of a barrier. 0: nobody waits.
    public var round: UInt64
    public var parties: UInt32
    public var arrived: UInt32
    /// All have come: the round is over.
    public var isOpen: Bool

    package init(round: UInt64, parties: UInt32, arrived: UInt32, isOpen: Bool) {
        (self.round, self.parties, self.arrived, self.isOpen) = (round, parties, arrived, isOpen)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(round)
        writer.write(parties)
        writer.write(arrived)
        writer.write(isOpen)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (round, parties, arrived) = (try reader.read(), try reader.read(), try reader.read())
        isOpen = try reader.readBool()
    }
}

/// `session u64 | state`
public struct BarrierArrival: Hashable, Sendable, Message {
    /// The caller's: its place is there as long as that lives.
    public var session: SessionID
    public var state: BarrierState

    package init(session: SessionID, state: BarrierState) { (self.session, self.state) = (session, state) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(session)
        state.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        session = try reader.read()
        state = try BarrierState(from: &reader)
    }
}

/// Arrives at a barrier. It needs a session: at its end the place is given back, unless the round is over by then.
///
/// `name | parties u32 | wish u64`
public struct BarrierArrive: MachineCommand {
    public typealias Machine = BarrierMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    /// So many there are; it is refused if those who wait have said otherwise. 0: as they said.
    public var parties: UInt32
    /// The caller's own number for it: by this it is withdrawn.
    public var wish: UInt64

    public init(_ name: Bytes, parties: UInt32, wish: UInt64) {
        self.name = name
        self.parties = parties
        self.wish = wish
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> BarrierArrival {
        var barrier = try Barrier(name, in: &context)
        let answer = try barrier.arrive(parties, wish: wish, in: &context)
        try barrier.close(in: &context)
        return answer
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(parties)
        writer.write(wish)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        (parties, wish) = (try reader.read(), try reader.read())
        guard parties <= BarrierLimits.partiesMax else {
            throw DecodingFailure(expected: "at most \(BarrierLimits.partiesMax) parties", found: "\(parties)")
        }
    }
}

/// Whether the caller's session waits. It changes nothing, and is a command all the same: in the log it comes before or
/// behind the session's end, and only in the session in which it arrived it tells what became of that.
///
/// `name | wish u64`
public struct BarrierCheck: MachineCommand {
    public typealias Machine = BarrierMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes
    public var wish: UInt64

    public init(_ name: Bytes, wish: UInt64) {
        self.name = name
        self.wish = wish
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> BarrierStanding {
        let barrier = try Barrier(name, in: &context)
        return BarrierStanding(session: context.session, waits: barrier.waits(context.session, wish))
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(wish)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        wish = try reader.read()
    }
}

/// The caller's session waits no longer. Answers whether it did.
///
/// `name | wish u64`
public struct BarrierWithdraw: MachineCommand {
    public typealias Machine = BarrierMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    public var name: Bytes
    public var wish: UInt64

    public init(_ name: Bytes, wish: UInt64) {
        self.name = name
        self.wish = wish
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> BarrierStanding {
        var barrier = try Barrier(name, in: &context)
        let waited = barrier.withdraw(context.session, wish: wish, in: &context)
        if waited { try barrier.close(in: &context) }
        return BarrierStanding(session: context.session, waits: waited)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(wish)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        wish = try reader.read()
    }
}

/// `session u64 | waits u8`
public struct BarrierStanding: Hashable, Sendable, Message {
    /// The caller's.
    public var session: SessionID
    /// It did when it was asked. false, and the session is that in which it arrived: the round is over.
    public var waits: Bool

    package init(session: SessionID, waits: Bool) { (self.session, self.waits) = (session, waits) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(session)
        writer.write(waits)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (session, waits) = (try reader.read(), try reader.readBool())
    }
}

/// How many have come.
///
/// `name`
public struct BarrierShow: MachineQuery {
    public typealias Machine = BarrierMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> BarrierState {
        let record = try view.get(ObjectKey(name).record(), as: BarrierRecord.self)
        return BarrierState(
            round: record?.round ?? 0, parties: record?.parties ?? 0,
            arrived: UInt32(record?.arrivals.count ?? 0), isOpen: false)
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}
