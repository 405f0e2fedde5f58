// The bytes of a permit object's records: its head, who has permits, who waits for some, and what a session has of it.

import Messages
import Primitives
import StateMachines

/// An object's own record, there as long as somebody has permits or waits, or its limit is kept.
///
/// `version u8 = 1 | limit u32 | limit is kept u8 | permits that are out u32 | last number u64 | last token u64 |
/// waiters: first u64, last u64, count u32`
struct PermitHead: Hashable, Message {
    /// Permits that there are; 0: nobody has said yet.
    var limit: UInt32 = 0
    /// Also while nobody has any.
    var isLimitKept = false
    /// Had by somebody.
    var out: UInt32 = 0
    /// Tickets and tokens are numbers of one counter.
    var last: UInt64 = 0
    /// The last one that was granted.
    var lastToken: UInt64 = 0
    /// Tickets; 0: none.
    var firstWaiter: UInt64 = 0
    var lastWaiter: UInt64 = 0
    var waiters: UInt32 = 0

    private static let formatVersion: UInt8 = 1

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(limit)
        writer.write(isLimitKept)
        writer.write(out)
        for number in [last, lastToken, firstWaiter, lastWaiter] { writer.write(number) }
        writer.write(waiters)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a permit object's head")
        limit = try reader.read()
        isLimitKept = try reader.readBool()
        out = try reader.read()
        (last, lastToken) = (try reader.read(), try reader.read())
        (firstWaiter, lastWaiter, waiters) = (try reader.read(), try reader.read(), try reader.read())
        guard (firstWaiter == 0) == (waiters == 0), (lastWaiter == 0) == (waiters == 0), last <= 1 << 62,
            waiters <= 1 << 30, limit <= PermitLimits.permitsMax, out <= 1 << 30
        else {
            throw DecodingFailure(expected: "a permit object's head", found: "\(waiters) waiters from \(firstWaiter)")
        }
    }
}

/// Somebody who has permits.
///
/// `version u8 = 1 | session u64 | ticket u64 | permits u32 | has timer u8 | timer, 22 bytes, if there is one | value`
struct PermitHolder: Hashable, Message {
    var session: SessionID
    var ticket: UInt64
    var permits: UInt32
    /// What ends it.
    var timer: ScheduledCommand?
    /// What he says of himself.
    var value: Bytes

    private static let formatVersion: UInt8 = 1

    init(session: SessionID, ticket: UInt64, permits: UInt32, timer: ScheduledCommand?, value: Bytes) {
        self.session = session
        self.ticket = ticket
        self.permits = permits
        self.timer = timer
        self.value = value
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(session)
        writer.write(ticket)
        writer.write(permits)
        writer.writeOptional(timer) { $0.encode(into: &$1) }
        writer.write(value)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a permit's holder")
        (session, ticket, permits) = (try reader.read(), try reader.read(), try reader.read())
        timer = try reader.readOptional { reader throws(DecodingFailure) in try ScheduledCommand(from: &reader) }
        value = reader.readRest()
    }
}

/// Somebody who waits; a list in the order in which they came.
///
/// `version u8 = 1 | session u64 | permits u32 | previous u64 | next u64 | time to live u64 | has timer u8 | timer, 22 bytes,
/// if there is one | value`
struct PermitWaiter: Hashable, Message {
    var session: SessionID
    var permits: UInt32
    /// Tickets; 0: none.
    var previous: UInt64
    var next: UInt64 = 0
    /// Of what he will have, in milliseconds; 0: as long as his session.
    var timeToLiveMillis: UInt64
    /// What ends the wait.
    var timer: ScheduledCommand?
    var value: Bytes

    private static let formatVersion: UInt8 = 1

    init(
        session: SessionID, permits: UInt32, previous: UInt64, timeToLiveMillis: UInt64, timer: ScheduledCommand?,
        value: Bytes
    ) {
        self.session = session
        self.permits = permits
        self.previous = previous
        self.timeToLiveMillis = timeToLiveMillis
        self.timer = timer
        self.value = value
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(session)
        writer.write(permits)
        for number in [previous, next, timeToLiveMillis] { writer.write(number) }
        writer.writeOptional(timer) { $0.encode(into: &$1) }
        writer.write(value)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a permit's waiter")
        (session, permits) = (try reader.read(), try reader.read())
        (previous, next, timeToLiveMillis) = (try reader.read(), try reader.read(), try reader.read())
        timer = try reader.readOptional { reader throws(DecodingFailure) in try ScheduledCommand(from: &reader) }
        value = reader.readRest()
    }
}

/// What a session has of one object, and what it waits for.
///
/// `version u8 = 1 | count u16 | each: ticket u64, token u64, wish u64`
struct PermitSession: Hashable, Message {
    struct Claim: Hashable {
        var ticket: UInt64
        /// 0: it waits.
        var token: UInt64
        /// The client's own number for it: by this it is given back also where nobody knows what became of it.
        var wish: UInt64
    }
    var claims: [Claim] = []

    private static let formatVersion: UInt8 = 1

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.writeList(claims) { claim, writer in
            writer.write(claim.ticket)
            writer.write(claim.token)
            writer.write(claim.wish)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "what a session has of a permit object")
        claims = try reader.readList(countMax: PermitLimits.claimsOfSessionMax) { reader throws(DecodingFailure) in
            Claim(ticket: try reader.read(), token: try reader.read(), wish: try reader.read())
        }
    }
}
