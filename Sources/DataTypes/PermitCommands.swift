// What can be asked of permit objects: commands and queries, the same for locks, semaphores, elections and leases.

public import Messages
public import Primitives
public import StateMachines

/// A machine whose objects have permits. Its objects' records: see `Permits`.
public protocol PermitMachine: SessionHolder, FencingMachine {}

extension PermitMachine {
    public static var commands: [any MachineCommand<Self>.Type] {
        [
            PermitAcquire<Self>.self, PermitRelease<Self>.self, PermitCancel<Self>.self, PermitRenew<Self>.self,
            PermitAnnounce<Self>.self, PermitLimit<Self>.self, PermitTimeOut<Self>.self, PermitExpire<Self>.self,
            PermitServe<Self>.self,
        ]
    }

    public static var queries: [any MachineQuery<Self>.Type] { [PermitList<Self>.self, PermitTicket<Self>.self] }

    public static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws {
        do {
            var permits = try Permits<Self>(name, in: &context)
            try permits.end(session, in: &context)
            try permits.serve(in: &context)
            try permits.close(in: &context)
        } catch is RecordDamage {
            var permits = try Permits<Self>(name, in: &context)
            try permits.endDamaged(session, in: &context)
            try permits.close(in: &context)
        }
    }

    public static func tokenRecord(_ name: Bytes, _ token: UInt64) -> Bytes {
        ObjectKey(name).record(PermitPart.holders, token)
    }

    /// Where watches see who has permits: this, and the token behind it, big-endian.
    package static func holdersKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(PermitPart.holders) }
    /// The same of one who waits, by his ticket. He is told of his grant there.
    package static func ticketKey(_ name: Bytes, _ ticket: UInt64) -> Bytes {
        ObjectKey(name).record(PermitPart.waiters, ticket)
    }
}

/// What somebody wants.
package struct PermitWish: Hashable, Sendable {
    package var permits: UInt32
    /// So many there are, he says; 0: as many as was said before.
    package var limit: UInt32
    package var waitMillis: UInt64
    package var timeToLiveMillis: UInt64
    /// The client's own number for it in its session.
    package var number: UInt64
    package var value: Bytes
}

/// Gets permits, or a place among those who wait. It needs a session: at its end they are given back.
///
/// `name | permits u32 | limit u32 | wait u64 | time to live u64 | wish u64 | value: rest`
public struct PermitAcquire<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 1 }
    public var name: Bytes
    package var wish: PermitWish

    /// - Parameters:
    ///   - permits: 1 or more, all of them or none.
    ///   - limit: permits that the object has; it is refused if it has another number. 0: whatever was said before.
    ///   - waitMillis: of log time; 0: it does not wait; above `MachineContext.Limits.delayMillisMax`: as long as it takes.
    ///   - timeToLiveMillis: from the grant on, unless it is renewed; 0: as long as the session.
    ///   - wish: the caller's own number for it: by that `PermitCancel` gives back what it got, whatever became of it.
    ///   - value: what others see of the caller.
    public init(
        _ name: Bytes, permits: UInt32 = 1, limit: UInt32 = 1, waitMillis: UInt64 = 0, timeToLiveMillis: UInt64 = 0,
        wish number: UInt64 = 0, value: Bytes = Bytes()
    ) {
        self.name = name
        wish = PermitWish(
            permits: permits, limit: limit, waitMillis: waitMillis, timeToLiveMillis: timeToLiveMillis, number: number,
            value: value)
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> PermitAnswer {
        var permits = try Permits<Machine>(name, in: &context)
        let answer = try permits.acquire(wish, in: &context)
        try permits.close(in: &context)
        return answer
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(wish.permits)
        writer.write(wish.limit)
        writer.write(wish.waitMillis)
        writer.write(wish.timeToLiveMillis)
        writer.write(wish.number)
        writer.write(wish.value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        wish = PermitWish(
            permits: try reader.read(), limit: try reader.readPermitLimit(), waitMillis: try reader.read(),
            timeToLiveMillis: try reader.readTimeToLive(), number: try reader.read(),
            value: try reader.readPermitValue())
    }
}

/// `state u8 | session u64 | ticket u64 | token u64 | ahead u32 | has holder u8 | holder, if there is one`
public struct PermitAnswer: Hashable, Sendable, Message {
    public enum State: UInt8, Hashable, Sendable {
        /// Others have what was wanted, and it does not wait.
        case busy = 0
        /// It has it, with the token.
        case granted
        /// It waits, with the ticket: the grant is told to who watches that.
        case queued
    }
    public var state: State
    /// The caller's: what it got belongs to it.
    public var session: SessionID
    public var ticket: UInt64
    public var token: UInt64
    /// So many wait that came before.
    public var ahead: UInt32
    /// Who has it, where one alone can.
    public var holder: PermitEntry?

    package init(state: State, _ session: SessionID, ticket: UInt64 = 0, token: UInt64 = 0) {
        self.state = state
        self.session = session
        self.ticket = ticket
        self.token = token
        ahead = 0
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(state.rawValue)
        writer.write(session)
        writer.write(ticket)
        writer.write(token)
        writer.write(ahead)
        writer.writeOptional(holder) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = State(rawValue: number) else {
            throw DecodingFailure(expected: "what became of a wish for permits, 0 to 2", found: "\(number)")
        }
        state = known
        session = try reader.read()
        (ticket, token, ahead) = (try reader.read(), try reader.read(), try reader.read())
        holder = try reader.readOptional { reader throws(DecodingFailure) in try PermitEntry(from: &reader) }
    }
}

/// Gives back what has this token, whoever asks. Answers whether anybody had it.
///
/// `name | token u64`
public struct PermitRelease<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 2 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes
    public var token: UInt64

    public init(_ name: Bytes, token: UInt64) {
        self.name = name
        self.token = token
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), Machine.tokenRecord(name, token)] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        var permits = try Permits<Machine>(name, in: &context)
        guard try permits.release(token: token, in: &context) else { return false }
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return true
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(token)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        token = try reader.read()
    }
}

/// The caller's session waits no longer by this wish; if it got what it waited for, that is given back. Answers whether
/// there was anything.
///
/// `name | wish u64`
public struct PermitCancel<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 3 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes
    public var wish: UInt64

    public init(_ name: Bytes, wish: UInt64) {
        self.name = name
        self.wish = wish
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        var permits = try Permits<Machine>(name, in: &context)
        guard try permits.cancel(wish: wish, in: &context) else { return false }
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return true
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

/// What has this token lives for so long from now on. Answers whether anybody has it.
///
/// `name | token u64 | time to live u64`
public struct PermitRenew<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 4 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes
    public var token: UInt64
    /// 0: as long as the session.
    public var timeToLiveMillis: UInt64

    public init(_ name: Bytes, token: UInt64, timeToLiveMillis: UInt64) {
        self.name = name
        self.token = token
        self.timeToLiveMillis = timeToLiveMillis
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), Machine.tokenRecord(name, token)] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        var permits = try Permits<Machine>(name, in: &context)
        guard let holder = try permits.holder(token, in: &context) else { return false }
        if let timer = holder.timer { try context.cancel(timer) }
        let timer =
            timeToLiveMillis == 0
            ? nil
            : try context.schedule(
                PermitExpire<Machine>(name: name, token: token), after: .milliseconds(timeToLiveMillis))
        let isThere = try permits.change(token, in: &context) { $0.timer = timer }
        try permits.close(in: &context)
        return isThere
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(token)
        writer.write(timeToLiveMillis)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        token = try reader.read()
        timeToLiveMillis = try reader.readTimeToLive()
    }
}

/// Changes what its holder says of himself. Answers whether anybody has the token.
///
/// `name | token u64 | value: rest`
public struct PermitAnnounce<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 5 }
    public var name: Bytes
    public var token: UInt64
    public var value: Bytes

    public init(_ name: Bytes, token: UInt64, value: Bytes) {
        self.name = name
        self.token = token
        self.value = value
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), Machine.tokenRecord(name, token)] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        var permits = try Permits<Machine>(name, in: &context)
        let isThere = try permits.change(token, in: &context) { $0.value = value }
        try permits.close(in: &context)
        return isThere
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(token)
        writer.write(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        token = try reader.read()
        value = try reader.readPermitValue()
    }
}

/// Sets how many permits there are, whoever has how many: those who have some keep them. Answers how many are out.
///
/// `name | limit u32`
public struct PermitLimit<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 6 }
    public var name: Bytes
    /// 0: the number is forgotten once nobody has any.
    public var limit: UInt32

    public init(_ name: Bytes, _ limit: UInt32) {
        self.name = name
        self.limit = limit
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        var permits = try Permits<Machine>(name, in: &context)
        try permits.setLimit(limit)
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return ObjectCount(UInt64(permits.head.out))
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(limit)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        limit = try reader.readPermitLimit()
    }
}

// MARK: What time brings

/// A wait is over. Scheduled by what began it; from anybody else it does nothing.
///
/// `name | ticket u64`
public struct PermitTimeOut<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 7 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes
    public var ticket: UInt64

    init(name: Bytes, ticket: UInt64) {
        self.name = name
        self.ticket = ticket
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), Machine.ticketKey(name, ticket)] }

    public func apply(in context: inout MachineContext) throws -> Done {
        var permits = try Permits<Machine>(name, in: &context)
        guard let timer = try permits.waiter(ticket, in: &context)?.timer, context.isDoing(timer) else {
            return Done()
        }
        _ = try permits.leave(ticket: ticket, .expired, in: &context)
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(ticket)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        ticket = try reader.read()
    }
}

/// A time to live is over. Scheduled by what set it; from anybody else it does nothing.
///
/// `name | token u64`
public struct PermitExpire<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 8 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes
    public var token: UInt64

    init(name: Bytes, token: UInt64) {
        self.name = name
        self.token = token
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), Machine.tokenRecord(name, token)] }

    public func apply(in context: inout MachineContext) throws -> Done {
        var permits = try Permits<Machine>(name, in: &context)
        guard let timer = try permits.holder(token, in: &context)?.timer, context.isDoing(timer) else { return Done() }
        _ = try permits.release(token: token, .expired, in: &context)
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(token)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        token = try reader.read()
    }
}

/// More could be granted than one command grants. Does nothing where nobody waits.
///
/// `name`
public struct PermitServe<Machine: PermitMachine>: MachineCommand {
    public static var number: UInt16 { 9 }
    public static var bringsDataIn: Bool { false }
    public var name: Bytes

    init(name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        var permits = try Permits<Machine>(name, in: &context)
        try permits.serve(in: &context)
        try permits.close(in: &context)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

extension ByteReader {
    fileprivate mutating func readPermitLimit() throws(DecodingFailure) -> UInt32 {
        let limit = try read(UInt32.self)
        guard limit <= PermitLimits.permitsMax else {
            throw DecodingFailure(expected: "at most \(PermitLimits.permitsMax) permits", found: "\(limit)")
        }
        return limit
    }

    fileprivate mutating func readPermitValue() throws(DecodingFailure) -> Bytes {
        let value = readRest()
        guard value.count <= PermitLimits.valueBytesMax else {
            throw DecodingFailure(
                expected: "at most \(PermitLimits.valueBytesMax) bytes about who wants permits", found: "\(value.count)"
            )
        }
        return value
    }
}

// MARK: Looking

/// Somebody who has permits, or waits for some.
///
/// `number u64 | session u64 | permits u32 | value: length u32, bytes`
public struct PermitEntry: Hashable, Sendable, Message {
    /// The token of who has them, the ticket of who waits.
    public var number: UInt64
    public var session: SessionID
    public var permits: UInt32
    public var value: Bytes

    package init(number: UInt64, session: SessionID, permits: UInt32, value: Bytes) {
        self.number = number
        (self.session, self.permits, self.value) = (session, permits, value)
    }

    init(number: UInt64, _ holder: PermitHolder) {
        self.number = number
        (session, permits, value) = (holder.session, holder.permits, holder.value)
    }

    init(number: UInt64, _ waiter: PermitWaiter) {
        self.number = number
        (session, permits, value) = (waiter.session, waiter.permits, waiter.value)
    }

    package init(number: UInt64, _ told: PermitTold) {
        self.number = number
        (session, permits, value) = (told.session, told.permits, told.value)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(number)
        writer.write(session)
        writer.write(permits)
        writer.writeWithLength(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (number, session, permits) = (try reader.read(), try reader.read(), try reader.read())
        value = try reader.readBytesWithLength(limit: PermitLimits.valueBytesMax)
    }
}

/// What watches are told of a holder or a ticket: `token u64 (0: waits) | session u64 | permits u32 | value: rest`
package struct PermitTold: Hashable, Sendable, Message {
    package var token: UInt64
    package var session: SessionID
    package var permits: UInt32
    package var value: Bytes

    init(token: UInt64, _ session: SessionID, _ waiter: PermitWaiter) {
        (self.token, self.session, permits, value) = (token, session, waiter.permits, waiter.value)
    }

    init(token: UInt64, _ holder: PermitHolder) {
        (self.token, session, permits, value) = (token, holder.session, holder.permits, holder.value)
    }

    /// As a listing has it.
    package init(holder: PermitEntry) {
        (token, session, permits, value) = (holder.number, holder.session, holder.permits, holder.value)
    }

    package func encode(into writer: inout ByteWriter) {
        writer.write(token)
        writer.write(session)
        writer.write(permits)
        writer.write(value)
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (token, session, permits) = (try reader.read(), try reader.read(), try reader.read())
        value = reader.readRest()
    }
}

/// An object as it stands, and some of those who have permits or wait.
///
/// `limit u32 | out u32 | waiters u32 | entries u16 | each | has next u8 | next u64, if there is one`
public struct PermitListing: Hashable, Sendable, Message {
    /// Permits that there are; 0: nobody has said.
    public var limit: UInt32
    /// Of these, had by somebody.
    public var out: UInt32
    /// How many wait.
    public var waiters: UInt32
    /// Holders by their tokens, or those who wait in their order.
    public var entries: [PermitEntry]
    /// Where the next page begins; nil: there is none.
    public var next: UInt64?

    public func encode(into writer: inout ByteWriter) {
        writer.write(limit)
        writer.write(out)
        writer.write(waiters)
        writer.writeList(entries) { $0.encode(into: &$1) }
        writer.writeOptional(next) { $1.write($0) }
    }

    init(_ head: PermitHead) {
        (limit, out, waiters) = (head.limit, head.out, head.waiters)
        entries = []
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (limit, out, waiters) = (try reader.read(), try reader.read(), try reader.read())
        entries = try reader.readList(countMax: PermitLimits.pageMax) { reader throws(DecodingFailure) in
            try PermitEntry(from: &reader)
        }
        next = try reader.readOptional { reader throws(DecodingFailure) in try reader.read() }
    }
}

/// Who has permits, or who waits.
///
/// `name | waiters u8 | from u64 | entries u32`
public struct PermitList<Machine: PermitMachine>: MachineQuery {
    public static var number: UInt16 { 1 }
    public var name: Bytes
    /// Those who wait, and not those who have some.
    public var areWaiters: Bool
    /// The first token or ticket.
    public var from: UInt64
    /// Up to `PermitLimits.pageMax`.
    public var entriesMax: UInt32

    public init(_ name: Bytes, waiters: Bool = false, from: UInt64 = 0, entriesMax: UInt32 = .max) {
        self.name = name
        areWaiters = waiters
        self.from = from
        self.entriesMax = entriesMax
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> PermitListing {
        let key = ObjectKey(name)
        let part = areWaiters ? PermitPart.waiters : PermitPart.holders
        var listing = PermitListing(try view.get(key.record(), as: PermitHead.self) ?? PermitHead())
        guard listing.out > 0 || listing.waiters > 0 else { return listing }
        let page = try view.page(
            from: key.record(part, from), before: key.record(part + 1),
            recordsMax: min(Int(entriesMax), PermitLimits.pageMax))
        func number(_ key: Bytes) throws(DecodingFailure) -> UInt64 {
            var reader = ByteReader(key[max(0, key.count - 8)..<key.count])
            return UInt64(bigEndian: try reader.read())
        }
        for (key, record) in page.records {
            listing.entries.append(
                areWaiters
                    ? PermitEntry(number: try number(key), try PermitWaiter(decoding: record.value))
                    : PermitEntry(number: try number(key), try PermitHolder(decoding: record.value)))
        }
        listing.next = try page.next.map { try number($0) }
        return listing
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(areWaiters)
        writer.write(from)
        writer.write(entriesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        areWaiters = try reader.readBool()
        (from, entriesMax) = (try reader.read(), try reader.read())
    }
}

/// What became of a ticket: for who may have missed what was told of it.
///
/// `name | session u64 | ticket u64`
public struct PermitTicket<Machine: PermitMachine>: MachineQuery {
    public static var number: UInt16 { 2 }
    public var name: Bytes
    public var session: SessionID
    public var ticket: UInt64

    public init(_ name: Bytes, of session: SessionID, ticket: UInt64) {
        self.name = name
        self.session = session
        self.ticket = ticket
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(PermitPart.sessions, session.rawValue)] }

    public func answer(in view: inout MachineView) throws -> PermitStanding {
        let place = ObjectKey(name).record(PermitPart.sessions, session.rawValue)
        let claims = try view.get(place, as: PermitSession.self)?.claims ?? []
        guard let claim = claims.first(where: { $0.ticket == ticket }) else { return PermitStanding(state: .over) }
        return claim.token > 0
            ? PermitStanding(state: .granted, token: claim.token) : PermitStanding(state: .waiting)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(session)
        writer.write(ticket)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        (session, ticket) = (try reader.read(), try reader.read())
    }
}

/// `state u8 | token u64`
public struct PermitStanding: Hashable, Sendable, Message {
    public enum State: UInt8, Hashable, Sendable {
        /// It timed out, was given up or given back, or its session ended.
        case over = 0
        case waiting
        case granted
    }
    public var state: State
    public var token: UInt64

    init(state: State, token: UInt64 = 0) {
        self.state = state
        self.token = token
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(state.rawValue)
        writer.write(token)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = State(rawValue: number) else {
            throw DecodingFailure(expected: "the state of a ticket, 0 to 2", found: "\(number)")
        }
        state = known
        token = try reader.read()
    }
}
