// What of a group waits, and what of that goes next. Owns the order; to whom it goes is decided in +Sending, and
// whether there is a number for a command in +Sessions.
//
//     numbered    the router's own; commands that were sent, by number ──┐ first
//     unnumbered  commands that wait for a session, or for room in it ───┴──┐
//     free        reads, and all else that needs no session ────────────────┴─► the one that came first, of what can go
//
// What has a number is never behind what has none: it is what makes room for others. Reads never wait for a session.

import Primitives

extension ClientRouter {
    /// Puts an operation that is in no list into the one of its group's where it belongs.
    mutating func enqueue(_ place: Int, of group: Int, now: Instant) {
        let lane = self.lane(of: place, in: group)
        table[place].state = .queued
        table[place].lane = lane
        arrivals += 1
        // The router's own is first, but not each time again: where it is refused others have their turn.
        let isNewAndOwn = !table[place].purpose.isNumbered && table[place].host.rawValue == 0
        table[place].arrival = isNewAndOwn ? 0 : arrivals
        if lane == .numbered {
            table.insertByNumber(place, into: &groups[group].waiting.numbered)
        } else {
            table.append(place, to: &groups[group].waiting[lane])
        }
        table.arm(place, at: table[place].deadline, now: now)
    }

    mutating func dequeue(_ place: Int, of group: Int) {
        let lane = table[place].lane
        table.remove(place, from: &groups[group].waiting[lane])
    }

    func lane(of place: Int, in group: Int) -> WaitingLane {
        if !table[place].purpose.isNumbered || table[place].sequence > 0 { return .numbered }
        return needsSession(place, of: group) ? .unnumbered : .free
    }

    /// Something waits that would go before one that comes now, if it could.
    func isBehindOthers(_ lane: WaitingLane, of group: Int) -> Bool {
        groups[group].waiting.numbered.count > 0 || groups[group].waiting.free.count > 0
            || lane == .unnumbered && groups[group].waiting.unnumbered.count > 0
    }

    /// What goes next if there is somebody to send it to; it stays in its list. Nil: nothing can go. Cost: O(1), but
    /// for those of a session that ended, which are moved once.
    mutating func next(of group: Int, now: Instant) -> Int? {
        let command = nextCommand(of: group, now: now)
        let free = groups[group].waiting.free.head
        guard free >= 0 else { return command }
        guard let command, table[command].arrival < table[Int(free)].arrival else { return Int(free) }
        return command
    }

    private mutating func nextCommand(of group: Int, now: Instant) -> Int? {
        while groups[group].waiting.numbered.head >= 0 {
            let place = Int(groups[group].waiting.numbered.head)
            if !table[place].purpose.isNumbered || keepsNumber(place, of: group) { return place }
            dequeue(place, of: group)
            giveBackNumber(place)
            enqueue(place, of: group, now: now)
        }
        guard groups[group].waiting.unnumbered.head >= 0 else { return nil }
        if isSessionReady(of: group, now: now) { return Int(groups[group].waiting.unnumbered.head) }
        // What opens it waits by now.
        let own = groups[group].waiting.numbered.head
        return own >= 0 ? Int(own) : nil
    }

    /// Sends what waits in a group as long as there is somebody to send to.
    mutating func pump(_ group: Int, now: Instant, into effects: inout ClientEffects) {
        while groups[group].waiting.count > 0 {
            guard let place = next(of: group, now: now), let host = hostForNext(group, now: now) else {
                if !groups[group].isWaiting {
                    groups[group].isWaiting = true
                    waiting.append(group)
                }
                return
            }
            dequeue(place, of: group)
            if table[place].deadline <= now {
                expireWaiting(place, now: now, into: &effects)
            } else if usesMigrations, resolve(place) != group || waitsForTakeOver(place) {
                // Its slot has gone on while it waited.
                route(place, now: now, into: &effects)
            } else if !number(place, of: group, now: now) {
                failUnknown(place, Self.sessionEnded, into: &effects)
            } else {
                send(place, to: host, of: group, now: now, into: &effects)
            }
        }
    }

    mutating func pumpWaiting(now: Instant, into effects: inout ClientEffects) {
        guard !waiting.isEmpty else { return }
        let list = waiting
        waiting.removeAll(keepingCapacity: true)
        for group in list {
            groups[group].isWaiting = false
            pump(group, now: now, into: &effects)
        }
    }
}
