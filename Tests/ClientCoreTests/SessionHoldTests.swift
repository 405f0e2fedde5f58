// Sessions that are held: kept though nothing is under way, and known to be lost when they are.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct SessionHoldTests {
    private typealias Client = ClientSessionTests.Client

    private let slot = Slot(0)

    /// One with a time to live of three seconds, and session 77 open in the group of slot 0.
    private func holder(holds: Int = 1, adjust: (inout ClientSettings) -> Void = { _ in }) throws -> Client {
        var client = Client {
            $0.sessionTimeToLiveMilliseconds = 3_000
            adjust(&$0)
        }
        // Nobody asks for a map any more, which would take ticks.
        client.router.mapAnswered(1, .unchanged, now: client.now, into: &client.effects)
        client.areMapsAnswered = true
        for _ in 0..<holds { client.router.holdSession(of: slot, now: client.now) }
        #expect(client.sends.isEmpty && client.router.operationCount == 0, "a hold opens nothing")
        client.put(1)
        try client.open(77)
        client.done(try client.next())
        #expect(client.isDone(1) && client.router.operationCount == 0)
        return client
    }

    private func isWord(_ send: ClientSend, of id: UInt64 = 77) -> Bool {
        guard case .keepAlive(let words)? = try? SessionCommand(payload: send.payload) else { return false }
        return words.map(\.id) == [SessionID(id)]
    }

    /// The answer to a word of a session that the group does not have.
    private func missing(_ id: UInt64) -> Bytes {
        var body = ByteWriter()
        body.write(id)
        return body.take()
    }

    /// Lets time pass until something is sent: the next word.
    private func word(_ client: inout Client, of id: UInt64 = 77) throws -> ClientSend {
        for _ in 0..<2_000 where client.sends.isEmpty { client.pass(5) }
        let send = try client.next()
        #expect(isWord(send, of: id), "\(send)")
        return send
    }

    private func sessionOfTheNextPut(_ client: Client) throws -> SessionID? {
        var client = client
        client.put(9, within: 20_000)
        let send = try client.next()
        return send.tag == 9 ? send.session : nil
    }

    @Test func aHeldSessionLivesOnThoughNothingIsUnderWay() throws {
        var client = try holder()
        var words: [UInt64] = [client.milliseconds]
        client.pass(30_000) { client, send in
            #expect(isWord(send))
            words.append(client.milliseconds)
            client.done(send)
        }
        let pauses = zip(words.dropFirst(), words).map { $0 - $1 }
        #expect(pauses.count >= 23 && pauses.allSatisfy { (1_000...1_260).contains($0) }, "\(pauses)")
        let life = try #require(client.router.sessionLife(of: slot))
        #expect(life.id == SessionID(77) && life.aliveAt == Instant(words.last! * 1_000_000))
        #expect(life.endsAt.since(life.aliveAt) == 2_700_000_000 && life.endsAt > client.now)
        #expect(try sessionOfTheNextPut(client) == SessionID(77))
    }

    @Test func whoHoldsNothingSaysNothingAndDoesNotTick() throws {
        var client = try holder(holds: 0)
        #expect(!client.router.needsTicks && client.router.nextTick(now: client.now) == nil)
        client.pass(30_000)
        #expect(client.sends.isEmpty && !client.router.needsTicks)
        #expect(try sessionOfTheNextPut(client) == nil, "another one is opened")
    }

    /// A shell that is told when to come need not come each five milliseconds, for hours.
    @Test func whoHoldsTicksWhenAWordIsDue() throws {
        var client = try holder()
        var (ticks, words) = (0, 0)
        while client.milliseconds < 31_000 {
            let next = try #require(client.router.nextTick(now: client.now))
            #expect(next > client.now && client.router.needsTicks)
            client.milliseconds = next.rawValue / 1_000_000
            client.router.tick(now: client.now, into: &client.effects)
            client.drain()
            ticks += 1
            while !client.sends.isEmpty {
                words += 1
                client.done(try client.next())
            }
            let life = try #require(client.router.sessionLife(of: slot))
            #expect(life.endsAt > client.now)
        }
        #expect(words >= 23 && ticks <= words * 2, "\(ticks) ticks, \(words) words")
        // While something is under way time goes in small steps.
        client.put(2, within: 20_000)
        #expect(client.router.nextTick(now: client.now) == client.now + client.router.settings.tickNanoseconds)
    }

    /// It keeps its slot from moving until it says that it knows that slots move.
    @Test func whoHoldsLooksOnceInASessionsLifeWhetherSlotsMove() throws {
        var client = try holder()
        let fetches = client.mapFetches
        client.pass(9_000) { client, send in client.done(send) }
        #expect((2...4).contains(client.mapFetches - fetches), "\(client.mapFetches - fetches) times in three lives")
        var map = exampleMap(version: 2)
        map.featureLevel = FeatureLevel.migrations
        client.router.mapReceived(map, now: client.now, into: &client.effects)
        client.drain()
        for _ in 0..<300 where client.sends.isEmpty { client.pass(5) }
        let word = try client.next()
        guard case .hold(let life, let slots)? = try? SessionCommand(payload: word.payload) else {
            Issue.record("\(word) names no slots")
            return
        }
        #expect(life.id == SessionID(77) && slots.map(\.slot) == [slot])
        client.done(word, HeldSlotsAnswer(isThere: true).encoded())
        let known = client.mapFetches
        client.pass(9_000) { client, send in client.done(send, HeldSlotsAnswer(isThere: true).encoded()) }
        #expect(client.mapFetches == known, "it knows")
    }

    @Test func aHoldForEachCallAndTheSessionIsLetGoWithTheLastOne() throws {
        var client = try holder(holds: 2)
        client.router.letGoOfSession(of: slot)
        client.done(try word(&client))
        // Another slot of the same group holds the same session.
        client.router.holdSession(of: Slot(2), now: client.now)
        client.router.letGoOfSession(of: slot)
        client.done(try word(&client))
        client.router.letGoOfSession(of: Slot(2))
        #expect(!client.router.needsTicks && client.router.nextTick(now: client.now) == nil)
        client.pass(4_000)
        #expect(client.sends.isEmpty)
        #expect(try sessionOfTheNextPut(client) == nil, "another one is opened")
    }

    @Test func aSessionThatTheGroupDoesNotHaveIsLostAtOnce() throws {
        var client = try holder()
        let word = try word(&client)
        let changes = client.router.sessionChanges
        #expect(client.router.sessionLife(of: slot)?.id == SessionID(77))
        client.done(word, missing(77))
        #expect(client.router.sessionLife(of: slot) == nil && client.router.sessionChanges > changes)
        #expect(!client.router.needsTicks, "there is nothing to keep")
        client.put(2)
        try client.open(78)
        client.done(try client.next())
        #expect(client.router.sessionLife(of: slot)?.id == SessionID(78) && client.isDone(2))
        client.done(try self.word(&client, of: 78))
    }

    /// A command was told first, and opened another one: the word of the old one is still on its way.
    @Test(arguments: [false, true]) func whatIsSaidOfAnEarlierSessionIsNothingToTheNext(_ isMissing: Bool) throws {
        var client = try holder()
        let word = try word(&client)
        client.put(2)
        client.refuse(try client.next(), .sessionExpired)
        #expect(client.router.sessionLife(of: slot) == nil)
        try client.open(78)
        client.done(try client.next())
        let life = client.router.sessionLife(of: slot)
        client.pass(100)
        client.done(word, isMissing ? missing(77) : Bytes())
        #expect(life?.id == SessionID(78) && client.router.sessionLife(of: slot) == life)
    }

    @Test(arguments: [false, true]) func whereAnotherGroupGetsTheSlotItIsThatOnesSession(_ isByMap: Bool) throws {
        var client = try holder()
        if isByMap {
            var map = exampleMap(version: 2, epoch: 2, evenOwner: 2)
            map.featureLevel = FeatureLevel.sessions
            let changes = client.router.sessionChanges
            client.router.mapReceived(map, now: client.now, into: &client.effects)
            client.drain()
            #expect(client.router.sessionLife(of: slot) == nil && client.router.sessionChanges > changes)
            client.pass(4_000)
            #expect(client.sends.isEmpty && !client.router.needsTicks, "there is no session to keep in the new group")
            client.put(2)
        } else {
            client.put(2)
            client.refuse(try client.next(), .moved(group: GroupID(2), epoch: Epoch(2)))
            #expect(client.router.sessionLife(of: slot) == nil)
        }
        let opening = try #require(client.sends.last)
        #expect(opening.group == GroupID(2))
        client.sends = []
        try client.open(5, by: opening)
        client.done(try client.next())
        #expect(client.isDone(2) && client.router.sessionLife(of: slot)?.id == SessionID(5))
        var words = 0
        client.pass(4_000) { client, send in
            #expect(send.group == GroupID(2) && isWord(send, of: 5), "\(send)")
            words += 1
            client.done(send)
        }
        #expect(words >= 3)
        client.router.letGoOfSession(of: slot)
        client.pass(4_000)
        #expect(client.sends.isEmpty, "the hold went with the slot")
    }

    @Test func whatWasHeldBeforeTheMapWasKnownIsHeldAfterwards() throws {
        var settings = ClientSettings()
        settings.sessionTimeToLiveMilliseconds = 3_000
        var router = ClientRouter(settings: settings, seedCount: 0, seed: 1)
        router.holdSession(of: slot, now: Instant(1))
        #expect(router.sessionLife(of: slot) == nil && !router.needsTicks)
        var client = Client()
        client.router = router
        var map = exampleMap()
        map.featureLevel = FeatureLevel.sessions
        client.router.mapReceived(map, now: client.now, into: &client.effects)
        for host in 1...3 as ClosedRange<UInt64> {
            client.router.connectionUp(.host(HostID(host)), now: client.now, into: &client.effects)
        }
        client.drain()
        client.put(1)
        try client.open(77)
        client.done(try client.next())
        client.done(try word(&client))
    }

    /// Its time is counted from when the word went, not from when it was answered.
    @Test func aWordCountsFromWhenItWasSent() throws {
        var client = try holder()
        client.put(2)
        let send = try client.next()
        let sent = client.now
        client.pass(300)
        client.done(send)
        #expect(client.router.sessionLife(of: slot)?.aliveAt == sent)
    }

    enum Trouble: CaseIterable { case silence, brokenConnection, noLeaderHere, overload, unknown }

    /// What is held is not lost because one host is.
    @Test(arguments: Trouble.allCases) func aWordGoesOnThroughTrouble(_ trouble: Trouble) throws {
        var client = try holder()
        let first = try word(&client)
        let began = client.milliseconds
        switch trouble {
        case .silence: break
        case .brokenConnection:
            client.router.connectionDown(.host(first.host), now: client.now, into: &client.effects)
            client.lose(first)
        case .noLeaderHere: client.refuse(first, .notLeader(leader: HostID(3), term: Term(2)))
        case .overload: client.refuse(first, .overloaded(retryAfterMillis: 100))
        case .unknown: client.refuse(first, .outcomeUnknown)
        }
        let again = try word(&client)
        #expect(client.milliseconds - began <= 510, "\(client.milliseconds - began)")
        if trouble != .overload { #expect(again.host != first.host) }
        if trouble == .noLeaderHere { #expect(again.host == HostID(3)) }
        let life = try #require(client.router.sessionLife(of: slot))
        #expect(life.endsAt.since(client.now) > 500_000_000, "in time")
        client.done(again)
        #expect(client.router.sessionLife(of: slot)?.aliveAt ?? .zero > life.aliveAt)
    }

    /// Nobody answers for longer than the session's time: that it is over is the group's to say, and it may not be.
    @Test(arguments: [false, true]) func aHeldSessionIsNeverTakenToHaveLapsed(_ isThere: Bool) throws {
        var client = try holder()
        for host in 1...3 as ClosedRange<UInt64> {
            client.router.connectionDown(.host(HostID(host)), now: client.now, into: &client.effects)
        }
        client.pass(20_000)
        #expect(client.sends.isEmpty)
        let life = try #require(client.router.sessionLife(of: slot))
        #expect(life.id == SessionID(77) && life.endsAt < client.now)
        for host in 1...3 as ClosedRange<UInt64> {
            client.router.connectionUp(.host(HostID(host)), now: client.now, into: &client.effects)
        }
        client.drain()
        client.done(try word(&client), isThere ? Bytes() : missing(77))
        let now = client.router.sessionLife(of: slot)
        if isThere { #expect(now?.endsAt ?? .zero > client.now) } else { #expect(now == nil) }
    }

    /// As when the process was stopped: the first thing that happens is a command. What it meets is told to whoever holds.
    @Test func aHeldSessionIsNotForgottenByAClientThatStoodStill() throws {
        var client = try holder()
        client.milliseconds += 20_000
        let life = try #require(client.router.sessionLife(of: slot))
        #expect(life.endsAt < client.now)
        client.put(2)
        let send = try client.next()
        #expect(send.tag == 2 && send.session == SessionID(77))
        client.refuse(send, .sessionExpired)
        #expect(client.router.sessionLife(of: slot) == nil)
        try client.open(78)
        client.done(try client.next())
        #expect(client.isDone(2))
    }

    /// The command that comes would be sent in vain.
    @Test func aHoldOnASessionThatLapsedBeforeIsAHoldOnTheNext() throws {
        var client = try holder(holds: 0)
        client.pass(2_900)
        var other = client
        other.router.holdSession(of: slot, now: other.now)
        #expect(other.router.sessionLife(of: slot)?.id == SessionID(77))
        other.done(try word(&other))
        client.pass(200)
        client.router.holdSession(of: slot, now: client.now)
        #expect(client.router.sessionLife(of: slot) == nil)
    }

    @Test func theEndOfAllSessionsEndsWhatIsHeld() throws {
        var client = try holder()
        let changes = client.router.sessionChanges
        client.router.close(into: &client.effects)
        let calls = client.router.closeSessions(deadline: client.now + 1_000_000_000, into: &client.effects)
        #expect(calls.count == 1 && client.router.sessionLife(of: slot) == nil)
        #expect(client.router.sessionChanges > changes && !client.router.needsTicks)
    }
}
