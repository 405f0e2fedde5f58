// Commands in sessions: numbered, sent again until their outcome is known, and done once. One session for each group that
// this client writes to, opened when the first command wants to go.
//
//     first command ──► open ──► calls 1, 2, 3 … ──► the group forgot it, or the client had nothing to do for so long
//        waits                      │
//                                   ├ an answer is lost: the same number again, to whoever leads
//                                   └ nothing is answered for a third of its life: it is kept alive, while something is
//                                     under way in it or it is held (+Holds)
//
// A number is never sent in another session than its own: what may have been done in one that ended has an unknown
// outcome for ever. Nor is one sent after its caller was told that nobody knows: he goes on to something else, and what he
// sends then acknowledges the number, so that what may still be on its way is turned down behind it.

import Messages
public import Primitives
import StateMachines

extension ClientRouter {
    static var sessionEnded: String { "the session in which it was sent ended before its outcome was known" }

    var sessionNanoseconds: UInt64 { settings.sessionTimeToLiveMilliseconds * 1_000_000 }

    private func isOfSession(_ place: Int) -> Bool {
        mayUseSessions && table[place].kind == .command && table[place].purpose.isNumbered
    }

    /// A command that goes in no other way than under a number.
    func needsSession(_ place: Int, of group: Int) -> Bool { isOfSession(place) && groups[group].id != .meta }

    /// The group's session is the one in which the command was sent.
    func isInSession(_ place: Int, of group: Int) -> Bool {
        table[place].sessionGroup == groups[group].id && table[place].session == groups[group].session.id
            && groups[group].session.standing == .open
    }

    /// A command goes under the number that it has, or, if that can't be sent any more, ends because of it.
    func keepsNumber(_ place: Int, of group: Int) -> Bool {
        isInSession(place, of: group) || table[place].isUncertain
    }

    /// Whether a command may be given a number; else something else has to happen first, which this sets in motion.
    mutating func isSessionReady(of group: Int, now: Instant) -> Bool {
        dropLapsedSession(of: group, now: now)
        switch groups[group].session.standing {
        case .none:
            openSession(of: group, now: now)
            return false
        case .opening: return false
        case .open: return groups[group].session.hasRoom
        }
    }

    mutating func dropLapsedSession(of group: Int, now: Instant) {
        guard groups[group].holds == 0, groups[group].session.hasLapsed(now: now, after: sessionNanoseconds) else {
            return
        }
        dropSession(of: group)
    }

    private mutating func dropSession(of group: Int) {
        groups[group].session = ClientSession()
        sessionChanges += 1
        loseHolds(of: group)
    }

    /// Gives a command its number, just before it goes. False: it may have been done in a session that ended.
    mutating func number(_ place: Int, of group: Int, now: Instant) -> Bool {
        table[place].sentAt = now
        if table[place].sequence > 0 { return isInSession(place, of: group) }
        guard needsSession(place, of: group) else { return true }
        table[place].session = groups[group].session.id
        table[place].sessionGroup = groups[group].id
        table[place].sequence = groups[group].session.begin()
        table[place].firstGeneration = table[place].callGeneration &+ 1
        table[place].firstSentAt = now
        let slot = Int(table[place].slot.rawValue)
        table[place].epoch = slot < routes.count ? routes[slot].epoch : .zero
        return true
    }

    /// It may have been done where it was sent, and that group alone can tell, whoever has the slot by now: its session there
    /// keeps what it came to. What it says of the slot is for good as well (`Operation.epoch`).
    func isAskedWhereItWas(_ place: Int) -> Bool {
        usesMigrations && table[place].isUncertain && table[place].sequence > 0
    }

    /// The command goes elsewhere: certainly nothing was done under its number.
    mutating func giveBackNumber(_ place: Int) {
        endNumber(place)
        table[place].sequence = 0
    }

    private mutating func endNumber(_ place: Int) {
        guard table[place].sequence > 0, let group = groupIndex(table[place].sessionGroup),
            groups[group].session.id == table[place].session
        else { return }
        groups[group].session.end(table[place].sequence)
    }

    // MARK: The router's own operations

    private mutating func openSession(of group: Int, now: Instant) {
        guard groups[group].session.notBefore <= now else { return }
        let command = SessionCommand.open(
            timeToLive: settings.sessionTimeToLiveMilliseconds, nonce: random.next(), followsSlots: usesMigrations)
        submitOwn(.openSession, command, to: group, now: now)
        groups[group].session.standing = .opening
    }

    /// Ahead of all others of its group.
    private mutating func submitOwn(
        _ purpose: OperationPurpose, _ command: SessionCommand, to group: Int, now: Instant
    ) {
        guard let place = table.take(isOwn: true) else { preconditionFailure("there is always room for the router") }
        table[place].reset()
        table[place].payload = command.payload()
        table[place].purpose = purpose
        table[place].kind = .command
        table[place].slot = .group
        table[place].group = groups[group].id
        table[place].groupIndex = Int32(truncatingIfNeeded: group)
        table[place].deadline = now + Self.ownNanosecondsMax
        table[place].firstGeneration = table[place].callGeneration &+ 1
        enqueue(place, of: group, now: now)
    }

    static var ownNanosecondsMax: UInt64 { 10_000_000_000 }
    private static var openPauseNanosecondsMax: UInt64 { 5_000_000_000 }

    /// When the router began one of its own operations.
    func ownBegan(_ place: Int) -> Instant {
        Instant(table[place].deadline.rawValue - min(Self.ownNanosecondsMax, table[place].deadline.rawValue))
    }

    /// Others wait for it, so it is sent again soon; done twice it leaves a session that ends by itself. What is held must
    /// not be lost because one host says nothing: there is time for two more attempts.
    func ownAttemptNanoseconds(_ place: Int) -> UInt64 {
        let group = Int(table[place].groupIndex)
        let isOfHeld = table[place].purpose != .openSession && group >= 0 && groups[group].holds > 0
        let silence = settings.silenceNanoseconds
        return doubled(isOfHeld ? min(silence, sessionNanoseconds / 6) : silence, place)
    }

    /// Done twice it costs an entry, which a slow group has no room for.
    func commandAttemptNanoseconds(_ place: Int) -> UInt64 { doubled(settings.commandAttemptNanoseconds, place) }

    /// Each time is twice as long as the one before.
    private func doubled(_ nanoseconds: UInt64, _ place: Int) -> UInt64 {
        let (doubled, isBeyond) = nanoseconds.multipliedReportingOverflow(by: 1 << UInt64(min(table[place].retries, 2)))
        return isBeyond ? nanoseconds : doubled
    }

    /// Sessions that are held or in which something is under way, and in which nothing was answered for a third of their
    /// lives, are kept alive; where nothing is under way, and the group keeps many answers, they are acknowledged. Looks
    /// at all groups, some times in that time.
    mutating func keepSessionsAlive(now: Instant, into effects: inout ClientEffects) {
        guard mayUseSessions, sessionsCheckDue <= now else { return }
        sessionsChecked = now
        lookForMigrations(now: now, into: &effects)
        let heldSince = oldestHolds()
        for group in groups.indices {
            let isHeld = groups[group].holds > 0
            var isNeeded = groups[group].session.needsKeepAlive(
                now: now, after: silentNanosecondsMax, life: sessionNanoseconds, isHeld: isHeld)
            if let since = heldSince[group], now.since(since) >= silentNanosecondsMax {
                isNeeded = isNeeded || groups[group].session.standing == .open && !groups[group].session.isKeptAlive
            }
            guard isNeeded else { continue }
            let session = groups[group].session
            let word = SessionCommand.Life(id: session.id, firstUnacknowledged: session.firstUnacknowledged)
            submitOwn(
                .keepAlive, usesMigrations && isHeld ? .hold(word, heldSlots(of: group)) : .keepAlive([word]),
                to: group,
                now: now)
            groups[group].session.saying = session.firstUnacknowledged
            groups[group].session.isKeptAlive = true
            pump(group, now: now, into: &effects)
        }
    }

    /// What is held by a client that does not know that slots move keeps its slots from moving: once in a session's life it is
    /// asked whether they do.
    private mutating func lookForMigrations(now: Instant, into effects: inout ClientEffects) {
        guard !usesMigrations, !holds.isEmpty, now.since(migrationsLookedFor) >= sessionNanoseconds else { return }
        migrationsLookedFor = now
        wantMap()
        fetchMapIfWanted(now: now, into: &effects)
    }

    /// A session in which nothing was answered for so long is kept alive.
    var silentNanosecondsMax: UInt64 { sessionNanoseconds / 3 }

    var sessionsCheckDue: Instant { sessionsChecked + sessionNanoseconds / 12 }

    // MARK: Ends

    /// Asks the groups to forget this client's sessions now and not when their time is over. For after `close`: more
    /// commands would open others. Cost: O(groups).
    ///
    /// - Parameter deadline: of the calls.
    /// - Returns: the calls. Their answers mean nothing to the router, and nobody has to wait for them.
    public mutating func closeSessions(deadline: Instant, into effects: inout ClientEffects) -> [CallID] {
        var calls: [CallID] = []
        // What came with a slot and was not taken over yet has a session of its own there.
        var ends = giveUpMovedHolds()
        for group in groups.indices where groups[group].session.standing == .open {
            ends.append((groups[group].session.id, group))
            dropSession(of: group)
        }
        for (id, group) in ends {
            guard groups[group].isSettled, !groups[group].replicas.isEmpty, hosts[candidateHost(group)].isUp,
                let place = table.take(isOwn: true)
            else { continue }
            // Free again before there is an answer, which is to find nobody.
            table[place].reset()
            table[place].state = .inFlight
            table[place].callGeneration &+= 1
            let call = CallID(place: place, generation: table[place].callGeneration)
            table.release(place)
            calls.append(call)
            statistics.sends += 1
            effects.sends.append(
                ClientSend(
                    call: call, tag: 0, host: hosts[candidateHost(group)].id, kind: .command,
                    machine: SubMachineNumber(0), consistency: .linearizable, bound: 0, group: groups[group].id,
                    slot: .group, epoch: .zero, session: .none, sequence: 0, firstUnacknowledged: 0,
                    payload: SessionCommand.close(id).payload(), deadline: deadline))
        }
        return calls
    }

    /// What an operation's end means for its group's session.
    mutating func settle(_ place: Int, _ result: Result<Bytes, OperationFailure>) {
        guard table[place].purpose.isNumbered else { return settleOwn(place, result) }
        endNumber(place)
        let group = Int(table[place].groupIndex)
        if table[place].sequence > 0, group >= 0, isInSession(place, of: group) {
            switch result {
            case .success:
                groups[group].session.aliveAt = max(groups[group].session.aliveAt, table[place].sentAt)
                confirmHold(place)
            case .failure(let failure): if failure.mayHaveHappened { groups[group].session.hasUnknown = true }
            }
        }
        if table[place].purpose == .takeOver { settleTakeOver(place, result) }
    }

    private mutating func settleOwn(_ place: Int, _ result: Result<Bytes, OperationFailure>) {
        let group = Int(table[place].groupIndex)
        guard group >= 0 else { return }
        var body: Bytes?
        if case .success(let bytes) = result { body = try? DataResult(decoding: bytes).body }
        switch table[place].purpose {
        case .openSession:
            guard groups[group].session.standing != .open else { return }
            let (obstacle, failures) = (groups[group].session.obstacle, groups[group].session.failures)
            groups[group].session = ClientSession()
            guard var reader = body.map({ ByteReader($0) }), let id = try? reader.read(SessionID.self) else {
                // Many that wait for room must not fill the log with questions for it.
                groups[group].session.failures = min(failures + 1, 16)
                let asked = max(table[place].sentAt, groups[group].heard)
                let pause = min(settings.backOffNanoseconds << UInt64(2 + failures), Self.openPauseNanosecondsMax)
                groups[group].session.notBefore = asked + pause / 2 + random.below(pause / 2 + 1)
                groups[group].session.obstacle = obstacle
                if case .failure(let failure) = result, failure.code == .overloaded {
                    groups[group].session.obstacle = SessionObstacle(code: .overloaded, text: failure.message)
                }
                return
            }
            groups[group].session.standing = .open
            groups[group].session.id = id
            groups[group].session.aliveAt = table[place].sentAt
            sessionChanges += 1
        case .keepAlive:
            settleWord(place, of: group, body)
        case .caller, .takeOver: preconditionFailure("what has a number is no word")
        }
    }

    private mutating func settleWord(_ place: Int, of group: Int, _ body: Bytes?) {
        var held: [HeldSlot] = []
        var answer: HeldSlotsAnswer?
        // What was said of one that is over says nothing of the one that came after it.
        switch try? SessionCommand(payload: table[place].payload) {
        case .keepAlive(let words)? where words.first?.id == groups[group].session.id:
            groups[group].session.isKeptAlive = false
            // Those that are not there are named, and only this one was asked for.
            answer = body.map { HeldSlotsAnswer(isThere: $0.isEmpty) }
        case .hold(let word, let slots)? where word.id == groups[group].session.id:
            groups[group].session.isKeptAlive = false
            held = slots
            answer = body.flatMap { try? HeldSlotsAnswer(decoding: $0) }
        default: return
        }
        guard let answer else { return }
        guard answer.isThere else { return dropSession(of: group) }
        groups[group].session.acknowledged = max(groups[group].session.acknowledged, groups[group].session.saying)
        let sentAt = table[place].sentAt
        groups[group].session.aliveAt = max(groups[group].session.aliveAt, sentAt)
        for slot in held where !answer.moved.contains(where: { $0.slot == slot.slot }) {
            confirmHold(slot, of: group, at: sentAt)
        }
        for moved in answer.moved { learn(moved.slot, owner: moved.group, epoch: moved.epoch) }
    }

    /// The group has no such session any more. What was certainly not done in it goes in another.
    mutating func sessionExpired(_ place: Int, now: Instant, into effects: inout ClientEffects) {
        let group = leave(place)
        if let group, isInSession(place, of: group) { dropSession(of: group) }
        if table[place].isUncertain {
            failUnknown(place, Self.sessionEnded, into: &effects)
        } else {
            giveBackNumber(place)
            route(place, now: now, into: &effects)
        }
        if let group { pump(group, now: now, into: &effects) }
    }
}

extension Operation {
    /// As in a new place, but for what outlives an operation.
    mutating func reset() {
        tag = 0
        pinned = HostID(0)
        boundMilliseconds = 0
        isSpread = false
        group = GroupID(0)
        host = HostID(0)
        machine = SubMachineNumber(0)
        consistency = .linearizable
        reason = .none
        retries = 0
        session = .none
        sequence = 0
        sessionGroup = GroupID(0)
        firstSentAt = .zero
        epoch = .zero
        isUncertain = false
        isParked = false
        purpose = .caller
        sentAt = .zero
        lane = .free
        arrival = 0
    }
}
