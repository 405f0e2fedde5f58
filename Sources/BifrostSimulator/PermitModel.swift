// Locks, semaphores, elections and leases as the rules know them: lists of who has permits and who waits.

import DataTypes
import Messages
import Primitives
import StateMachines

/// One object. What each command comes to is what it has to come to on every replica.
struct PermitModel: WatchedModel {
    struct Holder {
        var token: UInt64
        var session: SessionID
        var ticket: UInt64
        var wish: UInt64
        var permits: UInt32
        var value: Bytes
        /// What gave it a time to live, and when that is over.
        var timer: ObjectTimer?
        var due = LogTime.zero

        var entry: PermitEntry { PermitEntry(number: token, session: session, permits: permits, value: value) }
    }

    struct Waiter {
        var ticket: UInt64
        var session: SessionID
        var wish: UInt64
        var permits: UInt32
        var value: Bytes
        var timeToLive: UInt64
        var timer: ObjectTimer?
        var due = LogTime.zero

        var entry: PermitEntry { PermitEntry(number: ticket, session: session, permits: permits, value: value) }
    }

    /// When and where a command is applied.
    struct Moment {
        var index: LogIndex
        var revision: Revision
        var logTime: LogTime

        func due(after millis: UInt64) -> LogTime { LogTime(logTime.rawValue + millis) }
    }

    private(set) var limit: UInt32 = 0
    private var isLimitKept = false
    private(set) var holders: [Holder] = []
    private(set) var waiters: [Waiter] = []
    private var last: UInt64 = 0
    private var lastToken: UInt64 = 0
    private(set) var granted = 0
    private(set) var ended = 0
    var events: [ObjectEvent] = []

    var out: UInt32 { holders.reduce(0) { $0 + $1.permits } }
    var hasTimer: Bool { holders.contains { $0.timer != nil } || waiters.contains { $0.timer != nil } }

    /// Who has some, or waits.
    var sessions: Set<SessionID> { Set(holders.map(\.session) + waiters.map(\.session)) }

    /// It came with its slot.
    mutating func arrive(from group: GroupID, _ clock: MigrationClock) {
        for place in holders.indices {
            holders[place].timer = holders[place].timer?.arrived(from: group)
            holders[place].due = clock.time(holders[place].due)
        }
        for place in waiters.indices {
            waiters[place].timer = waiters[place].timer?.arrived(from: group)
            waiters[place].due = clock.time(waiters[place].due)
        }
    }

    private mutating func number(_ now: Moment) -> UInt64 {
        last = max(last + 1, now.revision.rawValue)
        return last
    }

    mutating func acquire(
        _ wish: PermitWish, of session: SessionID, _ now: Moment
    ) -> Result<PermitAnswer, MachineFailure> {
        var limit = limit
        if limit == 0 || !isLimitKept && holders.isEmpty && waiters.isEmpty { limit = wish.limit }
        func failure(_ code: UInt32) -> Result<PermitAnswer, MachineFailure> { .failure(MachineFailure(code, "")) }
        guard limit > 0 else { return failure(ObjectFailure.noLimit) }
        guard wish.limit == 0 || wish.limit == limit else { return failure(ObjectFailure.otherLimit) }
        guard wish.permits >= 1, wish.permits <= limit else { return failure(ObjectFailure.tooManyPermits) }
        let own = holders.count { $0.session == session } + waiters.count { $0.session == session }
        guard own < PermitLimits.claimsOfSessionMax else { return failure(ObjectFailure.tooManyClaims) }
        var answer = PermitAnswer(state: .busy, session)
        let isFree = waiters.isEmpty && out + wish.permits <= limit
        if !isFree, limit == 1, out == 1 { answer.holder = holders.first { $0.token == lastToken }?.entry }
        guard isFree || wish.waitMillis > 0 else { return .success(answer) }
        guard session != .none else { return failure(MachineFailure.Rule.needsSession.rawValue) }
        self.limit = limit
        answer.ticket = number(now)
        answer.ahead = UInt32(waiters.count)
        var waiter = Waiter(
            ticket: answer.ticket, session: session, wish: wish.number, permits: wish.permits, value: wish.value,
            timeToLive: wish.timeToLiveMillis)
        if isFree {
            answer.state = .granted
            answer.token = grant(waiter, token: answer.ticket, now)
        } else {
            answer.state = .queued
            if wish.waitMillis <= MachineContext.Limits.delayMillisMax {
                waiter.timer = ObjectTimer(now.index)
                waiter.due = now.due(after: wish.waitMillis)
            }
            waiters.append(waiter)
            tell(waiter, token: 0)
        }
        return .success(answer)
    }

    private mutating func grant(_ waiter: Waiter, token: UInt64, _ now: Moment) -> UInt64 {
        lastToken = token
        var holder = Holder(
            token: token, session: waiter.session, ticket: waiter.ticket, wish: waiter.wish,
            permits: waiter.permits, value: waiter.value)
        if waiter.timeToLive > 0 {
            holder.timer = ObjectTimer(now.index)
            holder.due = now.due(after: waiter.timeToLive)
        }
        holders.append(holder)
        tell(holder)
        granted += 1
        return token
    }

    private mutating func serve(_ now: Moment) {
        while let first = waiters.first {
            guard first.permits <= limit else {
                waiters.removeFirst()
                tellGone(first)
                continue
            }
            guard UInt64(out) + UInt64(first.permits) <= UInt64(limit) else { return }
            waiters.removeFirst()
            tell(first, token: grant(first, token: number(now), now))
        }
    }

    mutating func release(token: UInt64, _ now: Moment) -> Bool {
        guard let place = holders.firstIndex(where: { $0.token == token }) else { return false }
        tellGone(holders.remove(at: place))
        serve(now)
        return true
    }

    mutating func cancel(wish: UInt64, of session: SessionID, _ now: Moment) -> Bool {
        let tickets =
            holders.filter { $0.session == session && $0.wish == wish }.map(\.ticket)
            + waiters.filter { $0.session == session && $0.wish == wish }.map(\.ticket)
        // The one that came first.
        guard let ticket = tickets.min() else { return false }
        remove { $0 == ticket }
        serve(now)
        return true
    }

    mutating func renew(token: UInt64, _ millis: UInt64, _ now: Moment) -> Bool {
        guard let place = holders.firstIndex(where: { $0.token == token }) else { return false }
        holders[place].timer = millis > 0 ? ObjectTimer(now.index) : nil
        holders[place].due = now.due(after: millis)
        tell(holders[place])
        return true
    }

    mutating func announce(token: UInt64, _ value: Bytes) -> Bool {
        guard let place = holders.firstIndex(where: { $0.token == token }) else { return false }
        holders[place].value = value
        tell(holders[place])
        return true
    }

    mutating func setLimit(_ limit: UInt32, _ now: Moment) -> UInt32 {
        isLimitKept = limit > 0
        if limit > 0 { self.limit = limit }
        serve(now)
        return out
    }

    /// What an entry scheduled for this time is over.
    mutating func fire(_ deadline: DeadlineKey, _ now: Moment) -> Bool {
        let over =
            holders.filter { $0.timer == ObjectTimer(deadline) && $0.due == deadline.time }.map(\.ticket)
            + waiters.filter { $0.timer == ObjectTimer(deadline) && $0.due == deadline.time }.map(\.ticket)
        guard !over.isEmpty else { return false }
        remove(.expired) { over.contains($0) }
        serve(now)
        return true
    }

    /// - Returns: false: it had nothing here.
    mutating func end(_ session: SessionID, _ now: Moment) -> Bool {
        let own =
            holders.filter { $0.session == session }.map(\.ticket)
            + waiters.filter { $0.session == session }.map(\.ticket)
        guard !own.isEmpty else { return false }
        remove { own.contains($0) }
        ended += 1
        serve(now)
        return true
    }

    /// Those with these tickets have nothing any more, and wait no longer: in the order in which they came.
    private mutating func remove(_ kind: Change.Kind = .deleted, _ isMeant: (UInt64) -> Bool) {
        for ticket in (holders.map(\.ticket) + waiters.map(\.ticket)).filter(isMeant).sorted() {
            if let place = holders.firstIndex(where: { $0.ticket == ticket }) {
                tellGone(holders.remove(at: place), kind)
            }
            if let place = waiters.firstIndex(where: { $0.ticket == ticket }) {
                tellGone(waiters.remove(at: place), kind)
            }
        }
    }

    // MARK: What watches are told

    private mutating func tell(_ holder: Holder) {
        events.append(
            ObjectEvent(
                .put, part: PermitPart.holders, number: holder.token,
                value: PermitTold(holder: holder.entry).encoded()))
    }

    /// - Parameter token: what he got; 0: he waits.
    private mutating func tell(_ waiter: Waiter, token: UInt64) {
        var told = PermitTold(holder: waiter.entry)
        told.token = token
        events.append(
            ObjectEvent(.put, part: PermitPart.waiters, number: waiter.ticket, value: told.encoded()))
    }

    private mutating func tellGone(_ holder: Holder, _ kind: Change.Kind = .deleted) {
        events.append(ObjectEvent(kind, part: PermitPart.holders, number: holder.token))
    }

    private mutating func tellGone(_ waiter: Waiter, _ kind: Change.Kind = .deleted) {
        events.append(ObjectEvent(kind, part: PermitPart.waiters, number: waiter.ticket))
    }

    /// What is wrong with it whatever happened.
    var problem: String? {
        let tokens = holders.map(\.token)
        guard tokens == tokens.sorted(), Set(tokens).count == tokens.count else { return "tokens \(tokens)" }
        return nil
    }
}
