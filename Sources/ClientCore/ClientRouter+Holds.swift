// Sessions that are kept though nothing is under way. What a client has in a group beside its commands (a lock, a place in
// a membership) is there for as long as the client's session in it: who has something holds the session. Owns who holds;
// words are said in +Sessions.
//
//     hold ──► a command opens the session, and gets what is wanted ──► a word in each third of its life ──► let go
//                                                                            │
//              lost: the group has no such session, or nobody has answered ◄─┘
//              for so long that it may have none
//
// Where slots move (feature level 11), what is held in them goes on in the new group, by a session of the same number. The
// client's own session there takes that over before any command on the slot goes (`SessionCommand.takeOver`), and its words
// name the slots for whose sake they are said: so who has nothing else to say to a group learns of a slot that went.
//
//     word ──► "slot 5 went to group 2" ──► commands on slot 5 wait ──► a call of the session in group 2:
//                                               stand for session 7 ──► group 2's session keeps it ──► commands go on

import Messages
public import Primitives
import Ring
import StateMachines

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
    let slot: Slot
    var count: Int
    /// Where it is, as far as this client knows.
    var group: GroupID?
    var epoch: Epoch
    /// Sessions of this client in groups where the slot was before: what was got by them is held by them.
    var sessions: [HeldSession] = []
    /// What they hold has to be taken over where the slot is now.
    var isMoved = false
    /// That is under way.
    var takeOver: OperationHandle?
    /// Not again before.
    var notBefore = Instant.zero
    /// When the last word was sent that showed what is held here to be there still: from then on it is let live, by whichever
    /// group has the slot.
    var confirmedAt = Instant.zero
    /// It was held, or taken over.
    var since: Instant

    /// When the last word was needed.
    var wordAt: Instant { max(confirmedAt, since) }

    /// Of groups that have had the slot; who got more of one object than he could tell has only the last ones.
    static let sessionsMax = 16

    /// Those of which there may be something where the slot is.
    var standing: [SessionID] { sessions.filter { $0.aliveAt == nil }.map(\.id) }
}

struct HeldSession: Sendable {
    let id: SessionID
    /// The group has none of this number, and so nothing that it held: most likely it had nothing when the slot came. What may
    /// be thought to be held by it is lost by the clock, counted from then. nil: it lives as long as the hold.
    var aliveAt: Instant?
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
        let group = routedGroup(of: slot)
        holds.insert(
            SlotHold(
                slot: slot, count: 1, group: group >= 0 ? groups[group].id : nil, epoch: ring.epoch(of: slot),
                since: now),
            at: place)
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
        setMoved(place, false)
        holds.remove(at: place)
        let group = routedGroup(of: slot)
        if group >= 0 { groups[group].holds -= 1 }
    }

    /// The open session in the group that owns the slot, as far as this client knows; nil: there is none, or it is just
    /// being opened. Whether its time is over is for whoever asks to see. Cost: O(1).
    public func sessionLife(of slot: Slot) -> SessionLife? {
        let group = routedGroup(of: slot)
        guard group >= 0, groups[group].session.standing == .open else { return nil }
        var aliveAt = groups[group].session.aliveAt
        if usesMigrations, let hold = hold(of: slot) {
            guard !hold.isMoved else { return nil }
            aliveAt = hold.confirmedAt
        }
        return SessionLife(
            id: groups[group].session.id, aliveAt: aliveAt, timeToLiveNanoseconds: sessionNanoseconds)
    }

    /// The same of the session in which something of the slot was got, in whichever group that was; nil: it is lost.
    public func sessionLife(of slot: Slot, as id: SessionID) -> SessionLife? {
        guard usesMigrations, let hold = hold(of: slot) else {
            return sessionLife(of: slot).flatMap { $0.id == id ? $0 : nil }
        }
        let isOwn = !hold.isMoved && ownSession(of: hold) == id
        guard let session = isOwn ? HeldSession(id: id) : hold.sessions.first(where: { $0.id == id }) else {
            return nil
        }
        return life(id, since: session.aliveAt ?? hold.confirmedAt)
    }

    private func life(_ id: SessionID, since: Instant) -> SessionLife {
        SessionLife(id: id, aliveAt: since, timeToLiveNanoseconds: sessionNanoseconds)
    }

    /// When the first of the sessions that are held needs a word, if nothing is answered in it before. One that has its
    /// word on the way waits for that.
    var nextWord: Instant? {
        guard !holds.isEmpty, mayUseSessions else { return nil }
        var first: Instant?
        for group in groups where group.holds > 0 && group.session.standing == .open && !group.session.isKeptAlive {
            first = min(first ?? group.session.aliveAt, group.session.aliveAt)
        }
        guard usesMigrations else { return first.map { max($0 + silentNanosecondsMax, sessionsCheckDue) } }
        for (group, since) in oldestHolds().enumerated() {
            guard let since, groups[group].session.standing == .open, !groups[group].session.isKeptAlive else {
                continue
            }
            first = min(first ?? since, since)
        }
        let word = first.map { max($0 + silentNanosecondsMax, sessionsCheckDue) }
        guard movedHolds > 0 else { return word }
        return holds.lazy.filter { $0.isMoved && $0.takeOver == nil }.map(\.notBefore).reduce(word) {
            min($0 ?? $1, $1)
        }
    }

    /// By group: since when what is held there was not asked for. nil: nothing is.
    func oldestHolds() -> [Instant?] {
        var oldest = [Instant?](repeating: nil, count: groups.count)
        guard usesMigrations else { return oldest }
        for hold in holds where !hold.isMoved {
            let group = routedGroup(of: hold.slot)
            if group >= 0 { oldest[group] = min(oldest[group] ?? hold.wordAt, hold.wordAt) }
        }
        return oldest
    }

    /// What one word to the group asks for: what was not asked for the longest time.
    func heldSlots(of group: Int) -> [HeldSlot] {
        let own = holds.filter { !$0.isMoved && $0.group == groups[group].id }.map { ($0.wordAt, $0.slot, $0.epoch) }
        return own.sorted { ($0.0, $0.1) < ($1.0, $1.1) }.prefix(SessionCommand.countMax).map {
            HeldSlot(slot: $0.1, epoch: $0.2)
        }
    }

    // MARK: Slots that move

    /// The owner of a slot, from what a group says. What is known better stands: a slot's epoch is never lowered.
    ///
    /// - Returns: false: it is nothing new.
    @discardableResult mutating func learn(_ slot: Slot, owner: GroupID, epoch: Epoch) -> Bool {
        guard slot < Slot.group, ring.learn(slot, owner: owner, epoch: epoch) else { return false }
        let old = Int(routes[Int(slot.rawValue)].group)
        let new = groupIndex(owner) ?? -1
        routes[Int(slot.rawValue)] = SlotRoute(epoch: epoch, group: Int32(truncatingIfNeeded: new))
        if epoch > ring.epoch { wantMap(epoch: epoch) }
        sessionChanges += 1
        let place = holdPlace(of: slot)
        guard place < holds.count, holds[place].slot == slot else { return true }
        if old >= 0 { groups[old].holds -= 1 }
        if new >= 0 { groups[new].holds += 1 }
        followHold(place, ownSession(of: holds[place]))
        return true
    }

    /// The routes are new ones, and so are the groups.
    ///
    /// - Parameter sessions: of this client, in the groups of all holds as they were before.
    mutating func countHolds(of sessions: [SessionID?]) {
        for place in holds.indices {
            let group = routedGroup(of: holds[place].slot)
            if group >= 0 { groups[group].holds += 1 }
            followHold(place, sessions[place])
        }
        sessionChanges += 1
    }

    /// This client's open session where it knows the slot to be, by the groups as they are now.
    func ownSession(of hold: SlotHold) -> SessionID? {
        guard let group = hold.group.flatMap({ groupIndex($0) }), groups[group].session.standing == .open else {
            return nil
        }
        return groups[group].session.id
    }

    /// - Parameter own: this client's session where the slot was.
    private mutating func followHold(_ place: Int, _ own: SessionID?) {
        let slot = holds[place].slot
        let group = routedGroup(of: slot)
        let owner = group >= 0 ? groups[group].id : nil
        let epoch = ring.epoch(of: slot)
        guard holds[place].group != owner || holds[place].epoch != epoch else { return }
        (holds[place].group, holds[place].epoch) = (owner, epoch)
        guard usesMigrations else { return }
        if let own {
            holds[place].sessions.removeAll { $0.id == own }
            holds[place].sessions.append(HeldSession(id: own))
        }
        holds[place].sessions.removeFirst(max(0, holds[place].sessions.count - SlotHold.sessionsMax))
        holds[place].takeOver = nil
        holds[place].notBefore = .zero
        setMoved(place, !holds[place].standing.isEmpty)
    }

    private mutating func setMoved(_ place: Int, _ isMoved: Bool) {
        guard holds[place].isMoved != isMoved else { return }
        holds[place].isMoved = isMoved
        movedHolds += isMoved ? 1 : -1
    }

    /// The map says now that slots may move. None has until then in which this client holds something, as groups give none away
    /// before its sessions have said that they follow slots: what its session was told is true of each. They say it with their
    /// next words.
    mutating func beginMigrations() {
        usesMigrations = true
        for place in holds.indices {
            guard let group = holds[place].group.flatMap({ groupIndex($0) }) else { continue }
            holds[place].confirmedAt = groups[group].session.aliveAt
        }
        sessionChanges += 1
    }

    /// The group has no session of this client any more, nor those that it stood for. What is still to be taken over there
    /// it may have all the same.
    mutating func loseHolds(of group: Int) {
        guard usesMigrations, groups[group].holds > 0 else { return }
        for place in holds.indices where holds[place].group == groups[group].id && !holds[place].isMoved {
            holds[place].sessions = []
            holds[place].confirmedAt = .zero
        }
    }

    /// A command on the slot was done, and was sent then or later: the slot was where it went, and the session there. Whatever
    /// this client has in the slot it had then, or got later; it goes by that also where the slot has gone on since.
    mutating func confirmHold(_ place: Int) {
        guard usesMigrations, table[place].purpose == .caller else { return }
        let at = holdPlace(of: table[place].slot)
        guard at < holds.count, holds[at].slot == table[place].slot,
            holds[at].standing.contains(table[place].session)
                || !holds[at].isMoved && holds[at].group == table[place].sessionGroup
                    && holds[at].epoch == table[place].epoch
        else { return }
        holds[at].confirmedAt = max(holds[at].confirmedAt, table[place].firstSentAt)
    }

    /// What is held in the slot was there, as the group had it and since when, behind something that was sent then.
    mutating func confirmHold(_ held: HeldSlot, of group: Int, at time: Instant) {
        guard usesMigrations else { return }
        let place = holdPlace(of: held.slot)
        guard place < holds.count, holds[place].slot == held.slot, !holds[place].isMoved,
            holds[place].group == groups[group].id, holds[place].epoch == held.epoch
        else { return }
        holds[place].confirmedAt = max(holds[place].confirmedAt, time)
    }

    /// Sets in motion what is to be taken over, and lets commands go on that waited for that.
    mutating func takeOverHolds(now: Instant, into effects: inout ClientEffects) {
        if movedHolds > 0 {
            for place in holds.indices
            where holds[place].isMoved && holds[place].takeOver == nil && holds[place].notBefore <= now {
                takeOver(place, now: now, into: &effects)
            }
            fetchMapIfWanted(now: now, into: &effects)
        }
        guard parked.count > 0 else { return }
        var places: [Int] = []
        var next = parked.head
        while next >= 0 {
            let place = Int(next)
            next = table[place].next
            guard !waitsForTakeOver(place) else { continue }
            _ = leave(place)
            places.append(place)
        }
        for place in places { route(place, now: now, into: &effects) }
    }

    /// A call of the session where the slot is now. It is a command on the slot, and meets what those meet: it waits until the
    /// slot is there, and is sent away where it has gone on.
    private mutating func takeOver(_ hold: Int, now: Instant, into effects: inout ClientEffects) {
        guard let place = table.take(isOwn: true) else { preconditionFailure("there is always room for the router") }
        table[place].reset()
        table[place].payload = SessionCommand.takeOver(holds[hold].slot, holds[hold].standing).payload()
        table[place].purpose = .takeOver
        table[place].kind = .command
        table[place].slot = holds[hold].slot
        table[place].firstGeneration = table[place].callGeneration &+ 1
        table[place].deadline = now + Self.ownNanosecondsMax
        holds[hold].takeOver = OperationHandle(place: place, serial: table[place].serial)
        holds[hold].notBefore = now + sessionNanoseconds / 12
        route(place, now: now, into: &effects)
    }

    /// The slot has not gone on since.
    func isStillWanted(_ place: Int) -> Bool {
        guard !table[place].isUncertain else { return true }
        return hold(of: table[place].slot)?.takeOver == OperationHandle(place: place, serial: table[place].serial)
    }

    mutating func settleTakeOver(_ place: Int, _ result: Result<Bytes, OperationFailure>) {
        let at = holdPlace(of: table[place].slot)
        guard at < holds.count, holds[at].slot == table[place].slot,
            holds[at].takeOver == OperationHandle(place: place, serial: table[place].serial)
        else { return }
        // If it came to nothing it goes again, some time later.
        holds[at].takeOver = nil
        let group = Int(table[place].groupIndex)
        guard case .success(let bytes) = result, let body = try? DataResult(decoding: bytes).body,
            group >= 0, groups[group].id == holds[at].group, table[place].epoch == holds[at].epoch,
            isInSession(place, of: group)
        else { return }
        var found: [SessionID] = []
        var reader = ByteReader(body)
        while let id = try? reader.read(SessionID.self) { found.append(id) }
        var sessions = holds[at].sessions
        for place in sessions.indices where !found.contains(sessions[place].id) {
            sessions[place].aliveAt = sessions[place].aliveAt ?? holds[at].confirmedAt
        }
        holds[at].sessions = sessions.filter { session in
            session.aliveAt.map { life(session.id, since: $0).endsAt > heardAt } ?? true
        }
        holds[at].confirmedAt = max(holds[at].confirmedAt, table[place].firstSentAt)
        holds[at].since = heardAt
        setMoved(at, false)
        sessionChanges += 1
    }

    /// What is not taken over yet never will be.
    ///
    /// - Returns: the sessions by which it is held, and the groups which have them.
    mutating func giveUpMovedHolds() -> [(SessionID, Int)] {
        var all: [(SessionID, Int)] = []
        for place in holds.indices where holds[place].isMoved {
            let group = routedGroup(of: holds[place].slot)
            for id in holds[place].standing where group >= 0 && !all.contains(where: { $0 == (id, group) }) {
                all.append((id, group))
            }
            (holds[place].sessions, holds[place].takeOver) = ([], nil)
            setMoved(place, false)
            sessionChanges += 1
        }
        return all
    }

    // MARK: Commands that wait

    /// A command on a slot that is held: by which session, the group has to know first.
    func waitsForTakeOver(_ place: Int) -> Bool {
        guard movedHolds > 0, table[place].kind == .command, table[place].purpose == .caller,
            !table[place].isUncertain
        else { return false }
        return hold(of: table[place].slot)?.isMoved ?? false
    }

    mutating func park(_ place: Int, now: Instant) {
        giveBackNumber(place)
        table[place].state = .queued
        table[place].reason = .moved
        table[place].isParked = true
        table.append(place, to: &parked)
        table.arm(place, at: table[place].deadline, now: now)
    }

    mutating func takeParked() -> Int? {
        guard parked.head >= 0 else { return nil }
        let place = Int(parked.head)
        _ = leave(place)
        return place
    }

    private func hold(of slot: Slot) -> SlotHold? {
        let place = holdPlace(of: slot)
        return place < holds.count && holds[place].slot == slot ? holds[place] : nil
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
