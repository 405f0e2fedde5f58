// Leaders and back-off: which operation goes where, and when. What waits: +Waiting.

import Messages
import Primitives
import Ring

extension ClientRouter {
    /// Puts an operation that is in no list into the one where it belongs, and sends what can go.
    mutating func route(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        guard table[place].purpose != .takeOver || isStillWanted(place) else {
            giveBackNumber(place)
            return fail(place, .unavailable, "the slot has gone on", into: &effects)
        }
        let group = resolve(place)
        table[place].groupIndex = Int32(truncatingIfNeeded: group)
        if isAskedWhereItWas(place), group < 0 {
            return failUnknown(place, "the group in which it was sent is there no more", into: &effects)
        }
        if waitsForTakeOver(place) { return park(place, now: now) }
        if table[place].pinned.rawValue != 0 {
            sendPinned(place, now: now, into: &effects)
            return
        }
        guard group >= 0 else {
            table[place].state = .queued
            if table[place].reason == .none { table[place].reason = map == nil ? .noMap : .unknownGroup }
            table.append(place, to: &unrouted)
            table.arm(place, at: table[place].deadline, now: now)
            wantMap()
            fetchMapIfWanted(now: now, into: &effects)
            return
        }
        guard table[place].kind != .watch else { return sendWatch(place, now: now, into: &effects) }
        // The session ended in which it had its number, and nothing was done under that.
        if table[place].sequence > 0, !keepsNumber(place, of: group) { giveBackNumber(place) }
        let lane = self.lane(of: place, in: group)
        if !isBehindOthers(lane, of: group), lane != .unnumbered || isSessionReady(of: group, now: now),
            let host = hostForNext(group, now: now)
        {
            guard number(place, of: group, now: now) else {
                return failUnknown(place, Self.sessionEnded, into: &effects)
            }
            send(place, to: host, of: group, now: now, into: &effects)
            return
        }
        enqueue(place, of: group, now: now)
        pump(group, now: now, into: &effects)
    }

    /// Index of the group that the operation is for, or -1.
    func resolve(_ place: Int) -> Int {
        if isAskedWhereItWas(place) { return groupIndex(table[place].sessionGroup) ?? -1 }
        return table[place].slot != .group ? routedGroup(of: table[place].slot) : groupIndex(table[place].group) ?? -1
    }

    /// Index of the group that owns the slot, or -1.
    func routedGroup(of slot: Slot) -> Int {
        let slot = Int(slot.rawValue)
        return slot < routes.count ? Int(routes[slot].group) : -1
    }

    /// Where the next operation of the group may go now: position in `hosts`.
    mutating func hostForNext(_ group: Int, now: Instant) -> Int? {
        guard groups[group].notBefore <= now, !groups[group].replicas.isEmpty else { return nil }
        if groups[group].isSettled {
            let host = candidateHost(group)
            guard hosts[host].isUp else {
                groups[group].isSettled = false
                groups[group].probe = -1
                return hostForNext(group, now: now)
            }
            return groups[group].asked < groups[group].window ? host : nil
        }
        guard groups[group].probe < 0 else { return nil }
        for step in 0..<groups[group].replicas.count {
            let candidate = (groups[group].candidate + step) % groups[group].replicas.count
            let host = groups[group].replicas[candidate]
            if hosts[host].isUp {
                if step > 0 { setCandidate(candidate, of: group) }
                return host
            }
        }
        groups[group].reason = .unreachable
        return nil
    }

    mutating func send(
        _ place: Int, to host: Int, of group: Int, now: Instant, into effects: inout ClientEffects
    ) {
        if groups[group].asked == 0 { groups[group].heard = now }
        groups[group].asked += 1
        groups[group].inFlight += 1
        table[place].candidacy = groups[group].candidacy
        if !groups[group].isSettled { groups[group].probe = place }
        append(place, to: hosts[host].id, group: groups[group].id, now: now, into: &effects)
    }

    private mutating func sendPinned(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        let group = Int(table[place].groupIndex)
        if table[place].isSpread, group >= 0, !groups[group].replicas.isEmpty { takeTurn(place, of: group) }
        guard group >= 0, let host = hostIndex(table[place].pinned) else {
            wantMap()
            fetchMapIfWanted(now: now, into: &effects)
            backOff(place, map == nil ? .noMap : .unknownGroup, now: now)
            return
        }
        guard hosts[host].isUp else {
            backOff(place, .unreachable, now: now)
            return
        }
        groups[group].inFlight += 1
        append(place, to: hosts[host].id, group: groups[group].id, now: now, into: &effects)
    }

    /// To whoever leads, as far as that is known. What waits there says nothing of the leader, and holds up nobody: it is
    /// not counted among what was asked.
    private mutating func sendWatch(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        let group = Int(table[place].groupIndex)
        guard !groups[group].replicas.isEmpty, hosts[candidateHost(group)].isUp else {
            if !groups[group].replicas.isEmpty, !groups[group].isSettled, groups[group].probe < 0 {
                setCandidate((groups[group].candidate + 1) % groups[group].replicas.count, of: group)
            }
            return backOff(place, .unreachable, now: now)
        }
        groups[group].inFlight += 1
        table[place].candidacy = groups[group].candidacy &- 1
        append(place, to: hosts[candidateHost(group)].id, group: groups[group].id, now: now, into: &effects)
    }

    /// A watch's host does not lead: unless somebody is just finding out, the next one is asked.
    private mutating func followWatch(_ place: Int, _ reason: WaitReason, hint: HostID?, now: Instant) {
        let group = Int(table[place].groupIndex)
        guard group >= 0, !groups[group].replicas.isEmpty, groups[group].probe < 0,
            hosts[candidateHost(group)].id == table[place].host
        else { return }
        advance(group, hint: hint, reason: reason, now: now)
    }

    /// Another replica each time; of those that can be reached, if there are any.
    private mutating func takeTurn(_ place: Int, of group: Int) {
        let count = groups[group].replicas.count
        for _ in 0..<count {
            groups[group].turn = (groups[group].turn + 1) % count
            if hosts[groups[group].replicas[groups[group].turn]].isUp { break }
        }
        table[place].pinned = hosts[groups[group].replicas[groups[group].turn]].id
    }

    private mutating func append(
        _ place: Int, to host: HostID, group id: GroupID, now: Instant, into effects: inout ClientEffects
    ) {
        statistics.sends += 1
        if table[place].host.rawValue != 0 { statistics.resends += 1 }
        table[place].callGeneration &+= 1
        table[place].state = .inFlight
        table[place].host = host
        let deadline = table[place].deadline
        let isCommand = table[place].kind == .command
        let isOwn = table[place].purpose != .caller
        let attempt =
            isOwn
            ? ownAttemptNanoseconds(place)
            : isCommand
                ? commandAttemptNanoseconds(place)
                : table[place].kind == .watch ? settings.watchAttemptNanoseconds : settings.queryAttemptNanoseconds
        let isRepeated = !isCommand || isOwn || table[place].sequence > 0
        table.arm(place, at: isRepeated ? min(deadline, now + attempt) : deadline, now: now)
        let group = Int(table[place].groupIndex)
        var first: UInt64 = 0
        if table[place].sequence > 0, group >= 0 {
            first = groups[group].session.firstUnacknowledged
            groups[group].session.acknowledged = first
        }
        let slot = Int(table[place].slot.rawValue)
        let epoch = table[place].sequence > 0 ? table[place].epoch : slot < routes.count ? routes[slot].epoch : .zero
        var (consistency, bound) = (table[place].consistency, UInt64(table[place].boundMilliseconds))
        if consistency == .session {
            // Hosts of an earlier version don't know it: any of them answers as new.
            consistency = mayReadInSession ? .session : .linearizableAnywhere
            bound = group >= 0 ? groups[group].seen.rawValue : .max
        }
        effects.sends.append(
            ClientSend(
                call: CallID(place: place, generation: table[place].callGeneration), tag: table[place].tag, host: host,
                kind: table[place].kind,
                machine: table[place].machine, consistency: consistency, bound: bound, group: id,
                slot: table[place].slot, epoch: epoch, session: table[place].session, sequence: table[place].sequence,
                firstUnacknowledged: first,
                payload: table[place].payload,
                deadline: deadline))
    }

    // MARK: waiting

    /// Takes an operation out of whatever it is in. Returns its group if that may now send another.
    mutating func leave(_ place: Int) -> Int? {
        let group = Int(table[place].groupIndex)
        switch table[place].state {
        case .queued:
            if table[place].isParked {
                table[place].isParked = false
                table.remove(place, from: &parked)
            } else if group >= 0 {
                dequeue(place, of: group)
            } else {
                table.remove(place, from: &unrouted)
            }
            return nil
        case .inFlight:
            guard group >= 0 else { return nil }
            groups[group].inFlight -= 1
            if isAskedOfCandidate(place) { groups[group].asked -= 1 }
            if groups[group].probe == place { groups[group].probe = -1 }
            return group
        case .backingOff, .free: return nil
        }
    }

    /// Waits alone, then is routed again.
    mutating func backOff(_ place: Int, _ reason: WaitReason, atLeast: UInt64 = 0, now: Instant) {
        let retries = table[place].retries
        if retries < UInt8.max { table[place].retries = retries + 1 }
        table[place].state = .backingOff
        table[place].reason = reason
        let pause = max(atLeast, jitteredPause(doublings: Int(retries)))
        table.arm(place, at: min(table[place].deadline, now + pause), now: now)
    }

    /// Between half of the pause and the whole of it, so that many clients do not come back as one.
    func pauseLimit(doublings: Int) -> UInt64 {
        min(settings.backOffNanoseconds << UInt64(min(doublings, 20)), settings.backOffMaxNanoseconds)
    }

    mutating func jitteredPause(doublings: Int) -> UInt64 {
        let whole = pauseLimit(doublings: doublings)
        return whole / 2 + random.below(whole / 2 + 1)
    }

    /// The candidate is no leader, or can't be asked: the next one, after every full round with a pause.
    mutating func advance(_ group: Int, hint: HostID?, reason: WaitReason, now: Instant) {
        if groups[group].isSettled { statistics.leaderChanges += 1 }
        groups[group].isSettled = false
        groups[group].probe = -1
        groups[group].window = settings.groupWindowMax
        groups[group].reason = reason
        groups[group].failures += 1
        let count = groups[group].replicas.count
        let current = candidateHost(group)
        var next = (groups[group].candidate + 1) % count
        if let hint, hint.rawValue != 0 {
            if let position = groups[group].replicas.firstIndex(where: { hosts[$0].id == hint }) {
                if groups[group].replicas[position] != current { next = position }
            } else {
                wantMap()
            }
        }
        setCandidate(next, of: group)
        if groups[group].failures % count == 0 {
            let rounds = groups[group].failures / count
            groups[group].notBefore = now + jitteredPause(doublings: rounds - 1)
            if rounds % 4 == 0 { wantMap() }
        }
    }

    /// A timer rang: the deadline, an attempt's end, or the end of a back-off.
    mutating func rang(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        let wake = table[place].wake
        guard wake <= now else {
            table.arm(place, at: wake, now: now)
            return
        }
        guard table[place].deadline > now else {
            expire(place, now: now, into: &effects)
            return
        }
        switch table[place].state {
        case .backingOff: route(place, now: now, into: &effects)
        case .inFlight:
            guard table[place].kind == .command else {
                effects.cancels.append(CallID(place: place, generation: table[place].callGeneration))
                return again(place, .noAnswer, hint: nil, now: now, into: &effects)
            }
            let isCaller = table[place].purpose == .caller
            guard !isCaller || table[place].sequence > 0 else {
                return table.arm(place, at: table[place].deadline, now: now)
            }
            if table[place].retries < UInt8.max { table[place].retries += 1 }
            if table[place].sequence > 0 { table[place].isUncertain = true }
            // Not cancelled: an answer that comes late is one. Nor is a slow leader none: a silent one is noticed apart.
            let group = Int(table[place].groupIndex)
            let isSlow = isCaller && group >= 0 && groups[group].heard > table[place].sentAt
            again(place, .noAnswer, isSlow: isSlow, hint: nil, now: now, into: &effects)
        case .queued: table.arm(place, at: table[place].deadline, now: now)
        case .free: preconditionFailure("a free place has no timer")
        }
    }

    /// The deadline has passed.
    private mutating func expire(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        guard table[place].state == .inFlight else {
            _ = leave(place)
            expireWaiting(place, now: now, into: &effects)
            return
        }
        effects.cancels.append(CallID(place: place, generation: table[place].callGeneration))
        let isCurrent = isCurrentCandidate(place) && table[place].kind != .watch
        let group = leave(place)
        let host = table[place].host
        if table[place].kind == .command {
            failUnknown(place, "host \(host) did not answer within the deadline", into: &effects)
        } else {
            fail(place, .deadlineExceeded, "host \(host) did not answer within the deadline", into: &effects)
        }
        guard let group else { return }
        // A leader that lets a deadline pass may be gone without its connection showing it.
        if isCurrent { advance(group, hint: nil, reason: .noAnswer, now: now) }
        pump(group, now: now, into: &effects)
    }

    /// The deadline of an operation that is in no list and not in flight.
    mutating func expireWaiting(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        guard !table[place].isUncertain else {
            return failUnknown(place, "no host answered within the deadline", into: &effects)
        }
        let group = Int(table[place].groupIndex)
        var reason = table[place].reason
        if table[place].pinned.rawValue == 0 {
            if group >= 0 {
                if groups[group].reason != .none { reason = groups[group].reason }
            } else if fetch.sawNotInitialised {
                reason = .notInitialised
            }
        }
        let (code, text) =
            noSession(for: place, group: group, reason) ?? explain(reason, place: place, group: group)
        fail(
            place, code, "\(text) within the deadline; nothing was done",
            retryAfterMilliseconds: code == .overloaded && group >= 0 ? groups[group].retryAfterMilliseconds : 0,
            into: &effects)
    }

    /// Of a command that waited for a session, while the group did all else.
    private func noSession(for place: Int, group: Int, _ reason: WaitReason) -> (FailureCode, String)? {
        guard group >= 0, let obstacle = groups[group].session.obstacle, table[place].sequence == 0,
            needsSession(place, of: group), groups[group].session.standing != .open,
            reason == .none || reason == .overloaded || reason == .unavailable
        else { return nil }
        return (obstacle.code, "group \(groups[group].id) opened no session for this client (\(obstacle.text))")
    }

    /// What a host said since the group last served.
    private func obstacle(of group: Int) -> String {
        group >= 0 && !groups[group].obstacle.isEmpty ? " (\(groups[group].obstacle))" : ""
    }

    private func explain(_ reason: WaitReason, place: Int, group: Int) -> (FailureCode, String) {
        let name = group >= 0 ? "group \(groups[group].id)" : "the group"
        switch reason {
        case .none: return (.deadlineExceeded, "the operation waited behind others and was not sent")
        case .noMap: return (.unreachable, "no host of the cluster could be reached for its map")
        case .notInitialised:
            return (
                .notInitialised,
                "the hosts answer, but belong to no cluster yet (`bifrost init` makes one), and none came"
            )
        case .unreachable:
            if table[place].pinned.rawValue != 0 {
                return (.unreachable, "host \(table[place].pinned) could not be reached")
            }
            let list = group >= 0 ? groups[group].replicas.map { "\(hosts[$0].id)" }.joined(separator: ", ") : ""
            return (.unreachable, "none of the hosts of \(name) (\(list)) could be reached")
        case .notLeader:
            return (.noQuorum, "\(name) had no leader that those of its hosts know that answer\(obstacle(of: group))")
        case .noQuorum: return (.noQuorum, "\(name) had no quorum: its leader can't reach a majority of its replicas")
        case .overloaded: return (.overloaded, "\(name) stayed overloaded")
        case .moved: return (.unavailable, "the slot was moving and its new owner was not found")
        case .unknownGroup: return (.unavailable, "no host knows which group is in charge")
        case .unavailable:
            if table[place].pinned.rawValue != 0 {
                return (
                    .unavailable, "host \(table[place].pinned) was not able to serve \(name)\(obstacle(of: group))"
                )
            }
            return (.unavailable, "no host of \(name) was able to serve\(obstacle(of: group))")
        case .connectionLost, .noAnswer: return (.noQuorum, "\(name) did not answer: connections were lost or silent")
        case .congested: return (.overloaded, "connections to \(name) stayed full")
        }
    }

    /// The call in flight went to the present candidate, as one that only a leader answers.
    func isAskedOfCandidate(_ place: Int) -> Bool {
        let group = Int(table[place].groupIndex)
        return group >= 0 && table[place].pinned.rawValue == 0 && table[place].candidacy == groups[group].candidacy
    }

    /// What only a leader does was done by the host that is the candidate now.
    func isAnswerOfLeader(_ place: Int) -> Bool {
        let group = Int(table[place].groupIndex)
        return group >= 0 && table[place].pinned.rawValue == 0 && !groups[group].replicas.isEmpty
            && (table[place].kind == .command || table[place].consistency == .linearizable
                || table[place].consistency == .lease)
            && hosts[candidateHost(group)].id == table[place].host
    }

    private mutating func setCandidate(_ candidate: Int, of group: Int) {
        groups[group].candidate = candidate
        groups[group].candidacy &+= 1
        groups[group].asked = 0
    }

    /// The operation's host is the one that its group would ask now, and this operation is a witness of that.
    func isCurrentCandidate(_ place: Int) -> Bool {
        let group = Int(table[place].groupIndex)
        guard group >= 0, table[place].pinned.rawValue == 0, !groups[group].replicas.isEmpty,
            hosts[candidateHost(group)].id == table[place].host
        else { return false }
        return groups[group].isSettled || groups[group].probe == place
    }

    /// An operation in flight that certainly did nothing, or is a read, goes again.
    mutating func again(
        _ place: Int, _ reason: WaitReason, isSlow: Bool = false, hint: HostID?, atLeast: UInt64 = 0, now: Instant,
        into effects: inout ClientEffects
    ) {
        let isWatch = table[place].kind == .watch
        if isWatch { followWatch(place, reason, hint: hint, now: now) }
        let isCurrent = !isSlow && !isWatch && isCurrentCandidate(place)
        let group = leave(place)
        table[place].reason = reason
        if isCurrent, let group { advance(group, hint: hint, reason: reason, now: now) }
        if table[place].pinned.rawValue != 0 || isWatch {
            backOff(place, reason, atLeast: atLeast, now: now)
        } else {
            route(place, now: now, into: &effects)
        }
        if let group { pump(group, now: now, into: &effects) }
    }
}
