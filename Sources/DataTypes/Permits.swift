// Permits of which an object has so many: who has some, and who waits for them, first come, first served. A lock is an
// object with one permit; semaphores, elections and leases are made of the same. Owns what becomes of permits and the
// numbers that fence them off.
//
//     acquire ──► granted (token) ──► released, expired, or its session ended
//        │           ▲
//        └─► waits (ticket) ──► given up, timed out, or its session ended

import Messages
import Primitives
import StateMachines

/// Bounds of permit objects. They decide, so they are part of the format.
public enum PermitLimits {
    /// Of an object.
    public static let permitsMax: UInt32 = 1 << 20
    /// Of what a holder or waiter says of himself, in bytes.
    public static let valueBytesMax = 1_024
    /// What one session has of one object and waits for, together: its end is one command.
    public static let claimsOfSessionMax = 64
    /// In one command; others follow with the next one, at the latest within seconds.
    package static let grantsMax = 64
    /// Of a listing.
    public static let pageMax = 256
}

/// One object while a command changes it.
///
/// Its records: the head, and in `part u8 | number u64` 1 `PermitHolder` by token, 2 `PermitWaiter` by ticket, 3
/// `PermitSession` by session. Watches see holders and tickets under the keys of parts 1 and 2.
struct Permits<Machine: PermitMachine> {
    private let key: ObjectKey
    private(set) var head: PermitHead
    private let before: PermitHead?
    private var holders: RecordTable<PermitHolder>
    private var waiters: RecordTable<PermitWaiter>
    private var sessions: RecordTable<PermitSession>

    init(_ name: Bytes, in context: inout MachineContext) throws {
        key = ObjectKey(name)
        before = try context.get(key.record(), as: PermitHead.self)
        head = before ?? PermitHead()
        holders = RecordTable(RecordPrefix(key.record(PermitPart.holders)))
        waiters = RecordTable(RecordPrefix(key.record(PermitPart.waiters)))
        sessions = RecordTable(RecordPrefix(key.record(PermitPart.sessions)))
    }

    // MARK: Asking

    mutating func acquire(_ wish: PermitWish, in context: inout MachineContext) throws -> PermitAnswer {
        if Machine.isExclusive, wish.limit > 1 { throw MachineFailure.otherLimit(1) }
        if head.limit == 0 || !head.isLimitKept && head.out == 0 && head.waiters == 0 {
            guard wish.limit > 0 else { throw MachineFailure.noLimit }
            head.limit = wish.limit
        }
        guard wish.limit == 0 || wish.limit == head.limit else { throw MachineFailure.otherLimit(head.limit) }
        guard wish.permits >= 1, wish.permits <= head.limit else { throw MachineFailure.tooManyPermits(head.limit) }
        let session = context.session
        let had = try claims(of: session, in: &context).count
        guard had < PermitLimits.claimsOfSessionMax else { throw MachineFailure.tooManyClaims }
        try serve(in: &context)
        let isFree = head.waiters == 0 && UInt64(head.out) + UInt64(wish.permits) <= UInt64(head.limit)
        guard isFree || wish.waitMillis > 0 else {
            // Nothing is changed but what was served.
            return try busy(in: &context)
        }
        try context.hold(key.name)
        let ticket = number(in: context)
        try note(PermitSession.Claim(ticket: ticket, token: 0, wish: wish.number), of: session, in: &context)
        let waiter = PermitWaiter(
            session: session, permits: wish.permits, previous: head.lastWaiter,
            timeToLiveMillis: wish.timeToLiveMillis, timer: nil, value: wish.value)
        if isFree {
            let token = try grant(ticket, waiter, token: ticket, in: &context)
            return PermitAnswer(state: .granted, session, ticket: ticket, token: token)
        }
        return try wait(ticket, waiter, wish.waitMillis, in: &context)
    }

    private mutating func wait(
        _ ticket: UInt64, _ waiter: PermitWaiter, _ waitMillis: UInt64, in context: inout MachineContext
    ) throws -> PermitAnswer {
        var waiter = waiter
        let ahead = head.waiters
        if waitMillis <= MachineContext.Limits.delayMillisMax {
            waiter.timer = try context.schedule(
                PermitTimeOut<Machine>(name: key.name, ticket: ticket), after: .milliseconds(waitMillis))
        }
        try link(waiter.previous, in: &context) { $0.next = ticket }
        waiters.add(ticket, waiter)
        if head.firstWaiter == 0 { head.firstWaiter = ticket }
        head.lastWaiter = ticket
        head.waiters += 1
        context.tell(
            .put, key.record(PermitPart.waiters, ticket), PermitTold(token: 0, waiter.session, waiter).encoded())
        var answer = try busy(in: &context)
        (answer.state, answer.ticket, answer.ahead) = (.queued, ticket, ahead)
        return answer
    }

    /// With who has it, where that is one.
    private mutating func busy(in context: inout MachineContext) throws -> PermitAnswer {
        var answer = PermitAnswer(state: .busy, context.session)
        guard head.limit == 1, head.out == 1, let holder = try holders.value(of: head.lastToken, in: &context) else {
            return answer
        }
        answer.holder = PermitEntry(number: head.lastToken, holder)
        return answer
    }

    // MARK: Giving back

    /// - Returns: false: nobody has this token.
    mutating func release(
        token: UInt64, _ kind: Change.Kind = .deleted, in context: inout MachineContext
    ) throws -> Bool {
        guard let holder = try holders.value(of: token, in: &context) else { return false }
        if kind != .expired, let timer = holder.timer { try context.cancel(timer) }
        holders.remove(token)
        head.out -= min(holder.permits, head.out)
        context.tell(kind, key.record(PermitPart.holders, token))
        try forget(ticket: holder.ticket, of: holder.session, in: &context)
        return true
    }

    /// - Returns: false: nobody waits with this ticket.
    mutating func leave(
        ticket: UInt64, _ kind: Change.Kind = .deleted, in context: inout MachineContext
    ) throws -> Bool {
        guard let waiter = try waiters.value(of: ticket, in: &context) else { return false }
        if kind != .expired, let timer = waiter.timer { try context.cancel(timer) }
        try unlink(ticket, waiter, in: &context)
        context.tell(kind, key.record(PermitPart.waiters, ticket))
        try forget(ticket: ticket, of: waiter.session, in: &context)
        return true
    }

    /// The session gives back what it got by this wish, or waits no longer.
    mutating func cancel(wish: UInt64, in context: inout MachineContext) throws -> Bool {
        guard let claim = try claims(of: context.session, in: &context).first(where: { $0.wish == wish }) else {
            return false
        }
        return claim.token > 0
            ? try release(token: claim.token, in: &context) : try leave(ticket: claim.ticket, in: &context)
    }

    /// The session has ended.
    mutating func end(_ session: SessionID, in context: inout MachineContext) throws {
        let claims = try claims(of: session, in: &context)
        try holders.load(claims.map(\.token).filter { $0 > 0 }, in: &context)
        try waiters.load(claims.filter { $0.token == 0 }.map(\.ticket), in: &context)
        for claim in isPlanted("session-end-forgets-a-lock") ? claims.filter({ $0.token == 0 }) : claims {
            if claim.token > 0 {
                _ = try release(token: claim.token, in: &context)
            } else {
                _ = try leave(ticket: claim.ticket, in: &context)
            }
        }
        sessions.remove(session.rawValue)
    }

    /// The same where those who wait are not as they should be: what it has is free at least.
    mutating func endDamaged(_ session: SessionID, in context: inout MachineContext) throws {
        for claim in try claims(of: session, in: &context) where claim.token > 0 {
            _ = try release(token: claim.token, in: &context)
        }
    }

    // MARK: Granting

    /// Gives to those who wait, in their order, what is free: `grantsMax` at most.
    mutating func serve(in context: inout MachineContext) throws {
        var grants = 0
        while let waiter = try firstWaiter(in: &context) {
            let ticket = head.firstWaiter
            guard waiter.permits <= head.limit else {
                // There are not so many any more.
                _ = try leave(ticket: ticket, in: &context)
                grants += 1
                continue
            }
            guard UInt64(head.out) + UInt64(waiter.permits) <= UInt64(head.limit) else { return }
            guard grants < PermitLimits.grantsMax else {
                try context.schedule(PermitServe<Machine>(name: key.name), after: .milliseconds(1))
                return
            }
            if let timer = waiter.timer { try context.cancel(timer) }
            try unlink(ticket, waiter, in: &context)
            let token = try grant(ticket, waiter, token: number(in: context), in: &context)
            context.tell(
                .put, key.record(PermitPart.waiters, ticket),
                PermitTold(token: token, waiter.session, waiter).encoded())
            grants += 1
        }
    }

    private mutating func firstWaiter(in context: inout MachineContext) throws -> PermitWaiter? {
        guard head.firstWaiter > 0 else { return nil }
        guard let waiter = try waiters.value(of: head.firstWaiter, in: &context) else {
            throw RecordDamage(head.firstWaiter, "the first waiter is not there")
        }
        return waiter
    }

    /// A token is above all that this object has granted before, also where its records were gone in between, and when it
    /// has moved: revisions of a group only grow.
    private mutating func number(in context: MachineContext) -> UInt64 {
        head.last = max(head.last + 1, context.revision.rawValue)
        return head.last
    }

    private mutating func grant(
        _ ticket: UInt64, _ waiter: PermitWaiter, token: UInt64, in context: inout MachineContext
    ) throws -> UInt64 {
        let token = isPlanted("token-again") && head.lastToken > 0 ? head.lastToken : token
        var holder = PermitHolder(
            session: waiter.session, ticket: ticket, permits: waiter.permits, timer: nil, value: waiter.value)
        if waiter.timeToLiveMillis > 0 {
            holder.timer = try context.schedule(
                PermitExpire<Machine>(name: key.name, token: token), after: .milliseconds(waiter.timeToLiveMillis))
        }
        holders.set(token, to: holder)
        (head.lastToken, head.out) = (token, head.out + waiter.permits)
        try note(granted: token, ticket, of: waiter.session, in: &context)
        context.tell(
            .put, key.record(PermitPart.holders, token), PermitTold(token: token, waiter.session, waiter).encoded())
        return token
    }

    // MARK: What holders say

    mutating func holder(_ token: UInt64, in context: inout MachineContext) throws -> PermitHolder? {
        try holders.value(of: token, in: &context)
    }

    mutating func change(
        _ token: UInt64, in context: inout MachineContext, _ body: (inout PermitHolder) -> Void
    ) throws -> Bool {
        guard var holder = try holders.value(of: token, in: &context) else { return false }
        body(&holder)
        holders.set(token, to: holder)
        context.tell(.put, key.record(PermitPart.holders, token), PermitTold(token: token, holder).encoded())
        return true
    }

    mutating func waiter(_ ticket: UInt64, in context: inout MachineContext) throws -> PermitWaiter? {
        try waiters.value(of: ticket, in: &context)
    }

    /// 0: none is kept any more.
    mutating func setLimit(_ limit: UInt32) throws {
        if Machine.isExclusive { throw MachineFailure.otherLimit(1) }
        head.isLimitKept = limit > 0
        if limit > 0 { head.limit = limit }
    }

    // MARK: Inside

    private mutating func claims(
        of session: SessionID, in context: inout MachineContext
    ) throws -> [PermitSession.Claim] {
        guard session != .none else { return [] }
        return try sessions.value(of: session.rawValue, in: &context)?.claims ?? []
    }

    private mutating func note(
        _ claim: PermitSession.Claim, of session: SessionID, in context: inout MachineContext
    ) throws {
        var own = try sessions.value(of: session.rawValue, in: &context) ?? PermitSession()
        own.claims.append(claim)
        sessions.set(session.rawValue, to: own)
    }

    private mutating func note(
        granted token: UInt64, _ ticket: UInt64, of session: SessionID, in context: inout MachineContext
    ) throws {
        guard var own = try sessions.value(of: session.rawValue, in: &context),
            let place = own.claims.firstIndex(where: { $0.ticket == ticket })
        else { throw RecordDamage(ticket, "its session does not know it") }
        own.claims[place].token = token
        sessions.set(session.rawValue, to: own)
    }

    private mutating func forget(
        ticket: UInt64, of session: SessionID, in context: inout MachineContext
    ) throws {
        guard var own = try sessions.value(of: session.rawValue, in: &context) else { return }
        own.claims.removeAll { $0.ticket == ticket }
        guard own.claims.isEmpty else { return sessions.set(session.rawValue, to: own) }
        sessions.remove(session.rawValue)
        context.letGo(key.name, of: session)
    }

    private mutating func unlink(
        _ ticket: UInt64, _ waiter: PermitWaiter, in context: inout MachineContext
    ) throws {
        try link(waiter.previous, in: &context) { $0.next = waiter.next }
        try link(waiter.next, in: &context) { $0.previous = waiter.previous }
        if head.firstWaiter == ticket { head.firstWaiter = waiter.next }
        if head.lastWaiter == ticket { head.lastWaiter = waiter.previous }
        head.waiters -= min(1, head.waiters)
        waiters.remove(ticket)
    }

    private mutating func link(
        _ ticket: UInt64, in context: inout MachineContext, _ body: (inout PermitWaiter) -> Void
    ) throws {
        guard ticket > 0 else { return }
        guard try waiters.value(of: ticket, in: &context) != nil, waiters.change(ticket, body) else {
            throw RecordDamage(ticket, "a waiter that others stand beside is not there")
        }
    }

    /// Writes all that has changed.
    mutating func close(in context: inout MachineContext) throws {
        try holders.flush(into: &context)
        try waiters.flush(into: &context)
        try sessions.flush(into: &context)
        let isIdle = head.out == 0 && head.waiters == 0 && !head.isLimitKept
        // Numbers begin at a revision: behind this command all are above those that were given.
        if isIdle, head.last < context.revision.rawValue {
            if before != nil { try context.delete(key.record()) }
        } else if head != before {
            try context.put(key.record(), head)
        }
    }
}

/// Parts of an object's records.
package enum PermitPart {
    package static let holders: UInt8 = 1
    package static let waiters: UInt8 = 2
    package static let sessions: UInt8 = 3
}

extension MachineFailure {
    fileprivate static var noLimit: MachineFailure {
        MachineFailure(ObjectFailure.noLimit, "nobody has said how many permits there are")
    }

    fileprivate static func otherLimit(_ limit: UInt32) -> MachineFailure {
        MachineFailure(ObjectFailure.otherLimit, "there are \(limit) permits, and not as many as was said")
    }

    fileprivate static func tooManyPermits(_ limit: UInt32) -> MachineFailure {
        MachineFailure(ObjectFailure.tooManyPermits, "of \(limit) permits one can get 1 to \(limit)")
    }

    fileprivate static var tooManyClaims: MachineFailure {
        MachineFailure(
            ObjectFailure.tooManyClaims,
            "a session has at most \(PermitLimits.claimsOfSessionMax) places at one object, waiting or not")
    }
}
