// What hosts answer, and what that means for the operation and for its group's leader.

import Messages
public import Primitives
import Ring

extension ClientRouter {
    /// The same from the bytes of a `Response`.
    public mutating func answered(
        _ call: CallID, _ response: Bytes, now: Instant, into effects: inout ClientEffects
    ) {
        guard let place = table.place(of: call) ?? table.place(ofEarlier: call) else {
            statistics.lateAnswers += 1
            return
        }
        answered(call, CallAnswer(response: response, to: table[place].kind), now: now, into: &effects)
    }

    /// A host's service answered a call. Answers to calls that are over are counted and dropped.
    public mutating func answered(
        _ call: CallID, _ answer: CallAnswer, now: Instant, into effects: inout ClientEffects
    ) {
        heardAt = now
        defer { takeOverHolds(now: now, into: &effects) }
        guard let place = table.place(of: call) else {
            answeredLate(call, answer, now: now, into: &effects)
            return
        }
        if isAskedOfCandidate(place) { groups[Int(table[place].groupIndex)].heard = now }
        switch answer {
        case .done(let body): succeeded(place, body, now: now, into: &effects)
        case .refused(let refusal): refused(place, refusal, now: now, into: &effects)
        case .malformed(let text):
            unknown(
                place, "host \(table[place].host) gave an answer that can't be read (\(text))", now: now, into: &effects
            )
        }
    }

    /// An attempt that was given up is answered. What was done under a number was done, whichever attempt was the first.
    private mutating func answeredLate(
        _ call: CallID, _ answer: CallAnswer, now: Instant, into effects: inout ClientEffects
    ) {
        guard case .done(let body) = answer, let place = table.place(ofEarlier: call) else {
            statistics.lateAnswers += 1
            return
        }
        if table[place].state == .inFlight {
            effects.cancels.append(CallID(place: place, generation: table[place].callGeneration))
        }
        // Which attempt it was is not known: the first one, at worst.
        table[place].sentAt = table[place].purpose == .caller ? .zero : ownBegan(place)
        noteSeen(place, body)
        let waiting = table[place].state == .queued ? Int(table[place].groupIndex) : -1
        let group = leave(place)
        complete(place, .success(body), into: &effects)
        if let group = group ?? (waiting >= 0 ? waiting : nil) { pump(group, now: now, into: &effects) }
    }

    private mutating func refused(_ place: Int, _ refusal: Refusal, now: Instant, into effects: inout ClientEffects) {
        switch refusal {
        case .notLeader(let leader, let term):
            let group = Int(table[place].groupIndex)
            var hint: HostID? = leader.rawValue == 0 ? nil : leader
            if group >= 0 {
                if term < groups[group].term { hint = nil } else { groups[group].term = term }
            }
            again(place, .notLeader, hint: hint, now: now, into: &effects)
        case .noQuorum: again(place, .noQuorum, hint: nil, now: now, into: &effects)
        case .unavailable(let text): unavailable(place, text, now: now, into: &effects)
        case .sessionExpired: sessionExpired(place, now: now, into: &effects)
        case .compacted(let oldest):
            end(place, .compacted, "\(refusal)", oldest: oldest, now: now, into: &effects)
        // Without a session it may have been done when it was sent before.
        case .guardFailed where table[place].isUncertain && table[place].sequence == 0:
            let group = leave(place)
            failUnknown(place, "\(refusal)", into: &effects)
            if let group { pump(group, now: now, into: &effects) }
        case .guardFailed: end(place, .lockLost, "\(refusal)", now: now, into: &effects)
        case .answerNotKept(let index, _):
            noteSeen(place, index)
            let group = leave(place)
            failUnknown(place, "\(refusal)", into: &effects)
            if let group { pump(group, now: now, into: &effects) }
        case .unknownGroup:
            wantMap()
            again(place, .unknownGroup, hint: nil, now: now, into: &effects)
            fetchMapIfWanted(now: now, into: &effects)
        case .moved(let group, let newer): moved(place, to: group, epoch: newer, now: now, into: &effects)
        // Those that wait for no session go on.
        case .overloaded where table[place].purpose == .openSession:
            end(place, .overloaded, "\(refusal)", now: now, into: &effects)
        case .overloaded(let milliseconds): overloaded(place, milliseconds, now: now, into: &effects)
        case .outcomeUnknown:
            unknown(
                place, "host \(table[place].host) lost the leadership while the command was under way", now: now,
                into: &effects)
        // What was sent before to a host that found nothing wrong with it may have been done.
        case .invalid(let text) where table[place].isUncertain:
            let group = leave(place)
            failUnknown(place, "host \(table[place].host) turned down what was sent before (\(text))", into: &effects)
            if let group { pump(group, now: now, into: &effects) }
        // Not done this time, and the number is not used up: there will be room when others acknowledge.
        case .quotaExceeded where table[place].sequence > 0:
            let group = leave(place)
            backOff(place, .overloaded, atLeast: Self.quotaNanoseconds, now: now)
            if let group { pump(group, now: now, into: &effects) }
        case .quotaExceeded(let text):
            let group = Int(table[place].groupIndex)
            if group >= 0 {
                groups[group].obstacle = text
                groups[group].reason = .overloaded
            }
            end(place, .overloaded, text, now: now, into: &effects)
        case .invalid(let text): end(place, .invalid, text, now: now, into: &effects)
        case .tooLarge(let text): end(place, .tooLarge, text, now: now, into: &effects)
        }
    }

    /// A call ended without an answer from its service.
    public mutating func callFailed(
        _ call: CallID, _ failure: CallFailure, now: Instant, into effects: inout ClientEffects
    ) {
        guard let place = table.place(of: call) else {
            statistics.lateAnswers += 1
            return
        }
        switch failure {
        case .notSent: again(place, .unreachable, hint: nil, now: now, into: &effects)
        case .refused: again(place, .unavailable, hint: nil, now: now, into: &effects)
        case .congested: congested(place, now: now, into: &effects)
        case .rejected(let text): refused(place, .invalid(text), now: now, into: &effects)
        case .perhapsSent:
            unknown(
                place, "the connection to host \(table[place].host) was lost while the command was under way", now: now,
                into: &effects)
        }
    }

    /// What the caller is told now is what reads in this client's session have to know from here on. All answers begin
    /// with the index.
    private mutating func noteSeen(_ place: Int, _ body: Bytes) {
        guard let told = DataResult.index(of: body) else { return }
        noteSeen(place, told)
    }

    private mutating func noteSeen(_ place: Int, _ told: LogIndex) {
        let group = Int(table[place].groupIndex)
        guard group >= 0 else { return }
        groups[group].seen = max(groups[group].seen, told)
    }

    private mutating func succeeded(_ place: Int, _ body: Bytes, now: Instant, into effects: inout ClientEffects) {
        // A slow leader's answer shows that it leads, even if it was given up in the meantime and asked again.
        let isCurrent = isCurrentCandidate(place) || isAnswerOfLeader(place)
        noteSeen(place, body)
        let group = leave(place)
        complete(place, .success(body), into: &effects)
        guard let group else { return }
        if isCurrent {
            groups[group].isSettled = true
            groups[group].failures = 0
            groups[group].refusedSince = nil
            if !groups[group].obstacle.isEmpty { groups[group].obstacle = "" }
            groups[group].reason = .none
            groups[group].retryAfterMilliseconds = 0
            groups[group].probe = -1
            if groups[group].window < settings.groupWindowMax { groups[group].window += 1 }
        }
        if groups[group].waiting.count > 0 { pump(group, now: now, into: &effects) }
    }

    private mutating func end(
        _ place: Int, _ code: FailureCode, _ text: String, oldest: Revision? = nil, now: Instant,
        into effects: inout ClientEffects
    ) {
        let group = leave(place)
        fail(place, code, text, oldest: oldest, into: &effects)
        if let group { pump(group, now: now, into: &effects) }
    }

    /// Perhaps proposed: another attempt for a read, and for a command of a session; the end for any other.
    private mutating func unknown(_ place: Int, _ what: String, now: Instant, into effects: inout ClientEffects) {
        let isPlanted = isPlanted("unknown-command-sent-again") && table[place].purpose == .caller
        if isPlanted { table[place].sequence = 0 }
        if table[place].sequence > 0 { table[place].isUncertain = true }
        guard table[place].kind == .command, table[place].sequence == 0, !isPlanted else {
            again(place, .connectionLost, hint: nil, now: now, into: &effects)
            return
        }
        let isCurrent = isCurrentCandidate(place)
        let group = leave(place)
        failUnknown(place, what, into: &effects)
        guard let group else { return }
        if isCurrent { advance(group, hint: nil, reason: .connectionLost, now: now) }
        pump(group, now: now, into: &effects)
    }

    /// Another group has the slot. What is known better stands: a slot's epoch is never lowered.
    private mutating func moved(
        _ place: Int, to owner: GroupID, epoch newer: Epoch, now: Instant, into effects: inout ClientEffects
    ) {
        let group = leave(place)
        let slot = table[place].slot
        // Not applied by this attempt; an earlier one may have been, where the slot was before.
        if table[place].isUncertain, !isAskedWhereItWas(place) {
            failUnknown(place, "the slot moved while the command was under way", into: &effects)
            if let group { pump(group, now: now, into: &effects) }
            return
        }
        let isNews = learn(slot, owner: owner, epoch: newer)
        if newer > ring.epoch {
            wantMap(epoch: newer)
            fetchMapIfWanted(now: now, into: &effects)
        }
        // The group that has let go of the slot since, and does not know the call, has not done it and never will. One that
        // has let go of it before, as far as its host knows, has not come to that yet.
        if table[place].isUncertain, newer <= table[place].epoch {
            backOff(place, .moved, now: now)
            if let group { pump(group, now: now, into: &effects) }
            return
        }
        table[place].isUncertain = false
        giveBackNumber(place)
        // At once to another group; but two groups that send it to and fro must not make it spin.
        if isNews && usesMigrations || resolve(place) != group, table[place].retries < Self.movesAtOnceMax {
            table[place].reason = .moved
            table[place].retries += 1
            route(place, now: now, into: &effects)
        } else {
            backOff(place, .moved, now: now)
        }
        if let group { pump(group, now: now, into: &effects) }
    }

    /// A leader that leads may be unable to take this command, for want of space, and able to take others: the operation
    /// waits by itself then. If it takes nothing at all, others are asked.
    private mutating func unavailable(
        _ place: Int, _ text: String, now: Instant, into effects: inout ClientEffects
    ) {
        let group = Int(table[place].groupIndex)
        guard group >= 0 else { return again(place, .unavailable, hint: nil, now: now, into: &effects) }
        groups[group].obstacle = "host \(table[place].host): \(text.prefix(Self.obstacleCharactersMax))"
        if table[place].purpose == .openSession {
            groups[group].session.obstacle = SessionObstacle(code: .unavailable, text: groups[group].obstacle)
        }
        let since = groups[group].refusedSince ?? now
        guard table[place].kind == .command, isCurrentCandidate(place), groups[group].isSettled,
            now.since(since) < Self.refusedNanosecondsMax
        else {
            groups[group].refusedSince = nil
            // What goes before others leaves it to them to find the leader: it may be refused by that one too.
            guard lane(of: place, in: group) == .numbered, groups[group].waiting.count > 0 else {
                return again(place, .unavailable, hint: nil, now: now, into: &effects)
            }
            let isCurrent = isCurrentCandidate(place)
            _ = leave(place)
            if !table[place].isUncertain { giveBackNumber(place) }
            if isCurrent { advance(group, hint: nil, reason: .unavailable, now: now) }
            backOff(place, .unavailable, now: now)
            pump(group, now: now, into: &effects)
            return
        }
        groups[group].refusedSince = since
        _ = leave(place)
        // While it waits its number would hold up all that comes behind it.
        if !table[place].isUncertain { giveBackNumber(place) }
        backOff(place, .unavailable, now: now)
        pump(group, now: now, into: &effects)
    }

    private static let quotaNanoseconds: UInt64 = 100_000_000
    /// A leader that refuses for so long and serves nothing meanwhile may lead no more.
    private static let refusedNanosecondsMax: UInt64 = 500_000_000
    private static let obstacleCharactersMax = 400

    /// Redirections of one operation without a pause.
    static let movesAtOnceMax: UInt8 = 4

    /// The host has as much as it can take: the whole group pauses and comes back with half as many in flight.
    private mutating func overloaded(
        _ place: Int, _ milliseconds: UInt32, now: Instant, into effects: inout ClientEffects
    ) {
        let asked = min(max(UInt64(milliseconds), 1) * 1_000_000, settings.retryAfterMaxNanoseconds)
        let pause = asked + random.below(asked / 2 + 1)
        let isPinned = table[place].pinned.rawValue != 0 || table[place].kind == .watch
        guard let group = leave(place), !isPinned else {
            backOff(place, .overloaded, atLeast: pause, now: now)
            return
        }
        if groups[group].notBefore <= now { groups[group].window = max(1, groups[group].asked / 2) }
        groups[group].notBefore = max(groups[group].notBefore, now + pause)
        groups[group].reason = .overloaded
        groups[group].retryAfterMilliseconds = milliseconds
        route(place, now: now, into: &effects)
    }

    /// The connection takes no more for the moment: the group waits a little.
    private mutating func congested(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        let isPinned = table[place].pinned.rawValue != 0 || table[place].kind == .watch
        guard let group = leave(place), !isPinned else {
            backOff(place, .congested, now: now)
            return
        }
        groups[group].notBefore = max(groups[group].notBefore, now + jitteredPause(doublings: 0))
        groups[group].reason = .congested
        route(place, now: now, into: &effects)
    }
}
