// Sessions that are kept though nothing is under way. What a client has in a group beside its commands (a lock, a place in
// a membership) is there for as long as the client's session in it: who has something holds the session. Owns who holds;
// words are said in +Sessions.
//
//     hold ──► a command opens the session, and gets what is wanted ──► a word in each third of its life ──► let go
//                                                                            │
//              lost: the group has no such session, or nobody has answered ◄─┘
//              for so long that it may have none

public import Primitives

/// What a client knows of its session in a group.
public struct SessionLife: Hashable, Sendable {
    public var id: SessionID
    /// When the client sent the last word that was answered in it.
    public var aliveAt: Instant
    public var timeToLiveNanoseconds: UInt64

    /// From then on, by the client's clock, what is held in it counts as lost: the group may have ended it.
    ///
    /// The group counts the session's time from when it took the word, which is later, but by its leaders' clocks, which
    /// may run faster than the client's.
    public var endsAt: Instant { aliveAt + (timeToLiveNanoseconds - timeToLiveNanoseconds / Self.driftDivisor) }

    /// A tenth of the time is allowed for clocks: as with leases, none is taken to run more than a twentieth too fast or
    /// too slow, and 0.95 / 1.05 is more than nine tenths.
    static let driftDivisor: UInt64 = 10
}

/// A slot for whose sake the session of its group is kept.
struct SlotHold: Sendable {
    var slot: Slot
    var count: Int
}

extension ClientRouter {
    /// From now on the session in the group that owns the slot is kept alive though nothing is under way in it, until
    /// `letGoOfSession` was called as often as this. Opens none: commands do. Where another group gets the slot, it is
    /// that one's session, and the old one is let go. Cost: O(slots that are held).
    ///
    /// Call `tick` when `nextTick` says so, which may be another time from here on.
    public mutating func holdSession(of slot: Slot, now: Instant) {
        let place = holdPlace(of: slot)
        if place < holds.count, holds[place].slot == slot {
            holds[place].count += 1
            return
        }
        holds.insert(SlotHold(slot: slot, count: 1), at: place)
        let group = routedGroup(of: slot)
        guard group >= 0 else { return }
        // The group may have forgotten it: the command that comes would be sent in vain.
        dropLapsedSession(of: group, now: now)
        groups[group].holds += 1
    }

    /// Takes back one `holdSession` of the slot. The session that nobody holds any more ends after its time, if nothing is
    /// under way.
    public mutating func letGoOfSession(of slot: Slot) {
        let place = holdPlace(of: slot)
        precondition(place < holds.count && holds[place].slot == slot, "only what is held is let go")
        holds[place].count -= 1
        guard holds[place].count == 0 else { return }
        holds.remove(at: place)
        let group = routedGroup(of: slot)
        if group >= 0 { groups[group].holds -= 1 }
    }

    /// The open session in the group that owns the slot, as far as this client knows; nil: there is none, or it is just
    /// being opened. Whether its time is over is for whoever asks to see. Cost: O(1).
    public func sessionLife(of slot: Slot) -> SessionLife? {
        let group = routedGroup(of: slot)
        guard group >= 0, groups[group].session.standing == .open else { return nil }
        return SessionLife(
            id: groups[group].session.id, aliveAt: groups[group].session.aliveAt,
            timeToLiveNanoseconds: sessionNanoseconds)
    }

    /// When the first of the sessions that are held needs a word, if nothing is answered in it before. One that has its
    /// word on the way waits for that.
    var nextWord: Instant? {
        guard !holds.isEmpty, mayUseSessions else { return nil }
        var first: Instant?
        for group in groups where group.holds > 0 && group.session.standing == .open && !group.session.isKeptAlive {
            first = min(first ?? group.session.aliveAt, group.session.aliveAt)
        }
        return first.map { max($0 + silentNanosecondsMax, sessionsCheckDue) }
    }

    /// The routes are new ones, and so are the groups.
    mutating func countHolds() {
        for hold in holds {
            let group = routedGroup(of: hold.slot)
            if group >= 0 { groups[group].holds += 1 }
        }
        sessionChanges += 1
    }

    /// The slot has another owner: indices of groups, or -1.
    mutating func moveHold(of slot: Slot, from old: Int, to new: Int) {
        sessionChanges += 1
        let place = holdPlace(of: slot)
        guard place < holds.count, holds[place].slot == slot else { return }
        if old >= 0 { groups[old].holds -= 1 }
        if new >= 0 { groups[new].holds += 1 }
    }

    /// Where the slot stands in `holds`, or would.
    private func holdPlace(of slot: Slot) -> Int {
        var (low, high) = (0, holds.count)
        while low < high {
            let middle = (low + high) / 2
            if holds[middle].slot < slot { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
