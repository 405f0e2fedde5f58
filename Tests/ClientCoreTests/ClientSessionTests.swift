// A client's commands in sessions, step by step.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct ClientSessionTests {
    /// A router whose map says that hosts know sessions; host 1 leads the group of the slots used here.
    struct Client {
        var router: ClientRouter
        var effects = ClientEffects()
        var milliseconds: UInt64 = 1_000
        /// Sends that were not looked at yet.
        var sends: [ClientSend] = []
        var results: [UInt64: Result<Bytes, OperationFailure>] = [:]
        var handles: [UInt64: OperationHandle] = [:]
        /// Whoever is asked for a map has no other, and says so at once.
        var areMapsAnswered = false
        var mapFetches = 0

        init(level: UInt32 = FeatureLevel.sessions, adjust: (inout ClientSettings) -> Void = { _ in }) {
            var settings = ClientSettings()
            adjust(&settings)
            router = ClientRouter(settings: settings, seedCount: 0, seed: 1)
            var map = exampleMap()
            map.featureLevel = level
            router.mapReceived(map, now: now, into: &effects)
            for host in 1...3 as ClosedRange<UInt64> {
                router.connectionUp(.host(HostID(host)), now: now, into: &effects)
            }
            effects.removeAll()
        }

        var now: Instant { Instant(milliseconds * 1_000_000) }

        mutating func put(_ tag: UInt64, within: UInt64 = 1_000) {
            handles[tag] = router.submit(
                ClientRequest(
                    tag: tag, kind: .command, target: .slot(Slot(0)),
                    payload: KeyValueCommand.put(key: "k", value: Bytes("\(tag)")).payload(),
                    deadline: now + within * 1_000_000),
                now: now, into: &effects)
            drain()
        }

        mutating func get(_ tag: UInt64, within: UInt64 = 1_000) {
            handles[tag] = router.submit(
                ClientRequest(
                    tag: tag, kind: .query, target: .slot(Slot(0)), machine: .keyValue,
                    payload: KeyValueQuery.get(key: "k").encoded(), deadline: now + within * 1_000_000),
                now: now, into: &effects)
            drain()
        }

        /// Time passes, and hosts answer at once what comes in it, as `serve` says.
        mutating func pass(_ duration: UInt64, serving serve: (inout Client, ClientSend) throws -> Void) rethrows {
            for _ in 0..<duration / 5 {
                pass(5)
                while !sends.isEmpty {
                    let all = sends
                    sends = []
                    for send in all { try serve(&self, send) }
                }
            }
        }

        mutating func pass(_ duration: UInt64) {
            for _ in 0..<duration / 5 {
                milliseconds += 5
                router.tick(now: now, into: &effects)
                drain()
            }
        }

        mutating func drain() {
            sends += effects.sends
            for completion in effects.completions {
                precondition(results.updateValue(completion.result, forKey: completion.tag) == nil, "once")
            }
            let fetch = effects.mapFetch
            effects.removeAll()
            guard let fetch else { return }
            mapFetches += 1
            if areMapsAnswered { router.mapAnswered(fetch.number, .unchanged, now: now, into: &effects) }
        }

        mutating func next() throws -> ClientSend {
            let send = try #require(sends.first, "nothing was sent")
            sends.removeFirst()
            return send
        }

        mutating func done(_ send: ClientSend, _ body: Bytes = Bytes()) {
            let result = DataResult(index: LogIndex(1), revision: Revision(1), body: body)
            router.answered(send.call, .done(result.encoded()), now: now, into: &effects)
            drain()
        }

        mutating func refuse(_ send: ClientSend, _ refusal: Refusal) {
            router.answered(send.call, .refused(refusal), now: now, into: &effects)
            drain()
        }

        mutating func lose(_ send: ClientSend) {
            router.callFailed(send.call, .perhapsSent, now: now, into: &effects)
            drain()
        }

        /// Answers the next send, which opens a session.
        mutating func open(_ id: UInt64) throws { try open(id, by: try next()) }

        mutating func open(_ id: UInt64, by send: ClientSend) throws {
            guard case .open = try SessionCommand(payload: send.payload) else {
                Issue.record("\(send)")
                return
            }
            var body = ByteWriter()
            body.write(id)
            done(send, body.take())
        }

        func code(_ tag: UInt64) -> FailureCode? {
            if case .failure(let failure)? = results[tag] { failure.code } else { nil }
        }

        func isDone(_ tag: UInt64) -> Bool { if case .success? = results[tag] { true } else { false } }
    }

    private func header(_ send: ClientSend) -> CommandHeader? {
        var writer = ByteWriter()
        send.encodeCommand(into: &writer)
        return writer.take().withUnsafeBytes { CommandHeader(of: $0) }
    }

    @Test func aSessionIsOpenedForTheFirstCommandAndTheOthersGetTheirNumbersInIt() throws {
        var client = Client()
        client.put(1)
        client.put(2)
        #expect(client.sends.count == 1)
        try client.open(77)
        let (first, second) = (try client.next(), try client.next())
        #expect(
            header(first)
                == CommandHeader(machine: .keyValue, session: SessionID(77), sequence: 1, firstUnacknowledged: 1))
        #expect(header(second)?.sequence == 2 && first.tag == 1 && second.tag == 2)
        // All but the header is as the caller gave it.
        var writer = ByteWriter()
        first.encodeCommand(into: &writer)
        let payload = writer.take()
        #expect(payload[28..<payload.count] == first.payload[28..<first.payload.count])
        client.done(second)
        client.put(3)
        let third = try client.next()
        #expect(header(third)?.firstUnacknowledged == 1)
        client.done(first)
        client.put(4)
        let fourth = try client.next()
        #expect(header(fourth)?.firstUnacknowledged == 3)
        #expect(client.isDone(1) && client.isDone(2))
    }

    @Test func hostsThatKnowNoSessionsGetNone() throws {
        for level in [FeatureLevel.first, FeatureLevel.transactions] {
            var client = Client(level: level)
            client.put(1)
            let send = try client.next()
            #expect(header(send) == CommandHeader(machine: .keyValue) && send.session == .none)
            client.lose(send)
            #expect(client.code(1) == .outcomeUnknown && client.sends.isEmpty)
        }
        var client = Client { $0.sessionTimeToLiveMilliseconds = 0 }
        client.put(1)
        let sent = try client.next()
        #expect(sent.sequence == 0)
    }

    @Test func aCommandWhoseAnswerIsLostGoesAgainUnderItsNumber() throws {
        var client = Client()
        client.put(1)
        try client.open(77)
        let first = try client.next()
        client.lose(first)
        client.pass(50)
        let second = try client.next()
        #expect(second.call != first.call && header(second) == header(first) && second.host != first.host)
        client.refuse(second, .outcomeUnknown)
        client.pass(50)
        let third = try client.next()
        #expect(header(third) == header(first))
        client.done(third)
        #expect(client.isDone(1) && client.router.statistics.outcomesUnknown == 0)
    }

    @Test func aSilentHostIsAskedAgainAndTheCallersDeadlineHolds() throws {
        var client = Client { $0.commandAttemptNanoseconds = 200_000_000 }
        client.put(1, within: 1_000)
        try client.open(77)
        let first = try client.next()
        client.pass(300)
        let sent = try client.next()
        #expect(header(sent) == header(first))
        client.pass(800)
        #expect(client.code(1) == .outcomeUnknown)
        // Its caller goes on to something else: what of it is still on its way must not come behind that.
        #expect(client.router.operationCount == 0)
        client.sends.removeAll()
        client.put(2)
        for _ in 0..<200 where client.sends.isEmpty { client.pass(5) }
        let next = try client.next()
        #expect(next.tag == 2 && header(next)?.sequence == 2 && header(next)?.firstUnacknowledged == 2)
    }

    @Test func whatMayHaveBeenDoneInASessionThatEndedIsNotSentInAnother() throws {
        var client = Client()
        client.put(1)
        client.put(2)
        try client.open(77)
        let (first, second) = (try client.next(), try client.next())
        client.lose(first)
        client.pass(50)
        let again = try client.next()
        client.refuse(again, .sessionExpired)
        #expect(client.code(1) == .outcomeUnknown)
        // The other was certainly not done.
        client.refuse(second, .sessionExpired)
        try client.open(78)
        let moved = try client.next()
        #expect(header(moved)?.session == SessionID(78) && header(moved)?.sequence == 1 && moved.tag == 2)
        client.done(moved)
        #expect(client.isDone(2))
    }

    @Test func aCancelledCommandThatMayHaveBeenDoneGoesOn() throws {
        var client = Client()
        client.put(1)
        try client.open(77)
        client.lose(try client.next())
        let handle = try #require(client.handles[1])
        let isWithdrawn = client.router.withdraw(handle, now: client.now, into: &client.effects)
        #expect(!isWithdrawn)
        client.router.close(into: &client.effects)
        client.drain()
        #expect(client.code(1) == .outcomeUnknown)
    }

    @Test func aSessionIsKeptAliveWhileSomethingIsUnderWayAndLetGoOtherwise() throws {
        var client = Client {
            $0.sessionTimeToLiveMilliseconds = 3_000
            $0.commandAttemptNanoseconds = 60_000_000_000
            $0.silenceNanoseconds = 60_000_000_000
        }
        client.put(1, within: 60_000)
        try client.open(77)
        let first = try client.next()
        client.pass(1_500)
        let word = try client.next()
        #expect(
            try SessionCommand(payload: word.payload) == .keepAlive([.init(id: SessionID(77), firstUnacknowledged: 1)]))
        client.done(word)
        client.pass(400)
        #expect(client.sends.isEmpty)
        client.pass(800)
        client.done(try client.next())
        client.done(first)
        #expect(client.router.operationCount == 0)
        // Nothing is under way: nothing is said, and after its time another is opened without asking for this one.
        client.pass(4_000)
        #expect(client.sends.isEmpty)
        client.put(2, within: 60_000)
        try client.open(78)
        let sent = try client.next()
        #expect(header(sent)?.session == SessionID(78))
    }

    @Test func aGroupThatOpensNoSessionIsNotAskedWithoutPause() throws {
        var client = Client()
        client.put(1, within: 500)
        var opens = 0
        for _ in 0..<100 {
            while !client.sends.isEmpty {
                let send = try client.next()
                opens += 1
                client.refuse(send, .quotaExceeded("a group has at most 16384 sessions"))
            }
            client.pass(5)
        }
        #expect(opens > 2 && opens < 40, "\(opens)")
        guard case .failure(let failure)? = client.results[1] else {
            Issue.record("no end")
            return
        }
        #expect(failure.code == .overloaded && !failure.mayHaveHappened, "\(failure)")
    }

    @Test func aSessionThatOpensLateIsOpen() throws {
        var client = Client()
        client.put(1, within: 20_000)
        let slow = try client.next()
        client.pass(2_000)
        let sooner = try client.next()
        #expect(client.sends.isEmpty)
        try client.open(77, by: slow)
        let first = try client.next()
        #expect(header(first)?.session == SessionID(77))
        // The other one ends by itself.
        try client.open(78, by: sooner)
        #expect(client.router.statistics.lateAnswers == 1)
        client.done(first)
        #expect(client.isDone(1))
    }

    /// A slow group must not do all twice and then be told that nobody knows.
    @Test func anAnswerThatComesLateIsOne() throws {
        var client = Client()
        client.put(1, within: 20_000)
        try client.open(77)
        client.done(try client.next())
        client.put(2, within: 20_000)
        let first = try client.next()
        var again: [ClientSend] = []
        for tag in 100..<112 as Range<UInt64> {
            client.get(tag)
            client.pass(500) { client, send in
                if send.tag == tag { client.done(send) } else { again.append(send) }
            }
        }
        #expect(again.count == 1 && again.first?.host == first.host, "a slow leader is none that is gone")
        client.done(first, "first")
        #expect(client.isDone(2) && client.router.operationCount == 0)
        client.done(try #require(again.first), "again")
        #expect(client.router.statistics.lateAnswers == 1)
        // What comes in the same place later is another command.
        client.put(3, within: 20_000)
        let second = try client.next()
        #expect(header(second)?.sequence == 3)
        client.done(first, "first")
        #expect(!client.isDone(3))
        client.done(second)
        #expect(client.isDone(3))
    }

    /// A put for which there is no space must not hold up the deletes that make room.
    @Test func whatIsTurnedDownKeepsNoPlaceInTheWindow() throws {
        var client = Client()
        client.put(1, within: 20_000)
        try client.open(77)
        client.refuse(try client.next(), .unavailable("no space"))
        for tag in 2...5_000 as ClosedRange<UInt64> {
            client.put(tag, within: 20_000)
            while !client.sends.isEmpty {
                let send = try client.next()
                if send.tag == 1 { client.refuse(send, .unavailable("no space")) } else { client.done(send) }
            }
            #expect(client.isDone(tag), "\(tag)")
        }
        #expect(!client.isDone(1))
    }

    /// Nothing is under way, and the group would keep the answers until the session's time is over.
    @Test func manyAnswersAreAcknowledgedByAWord() throws {
        var client = Client()
        client.put(1, within: 20_000)
        try client.open(77)
        client.done(try client.next())
        for tag in 2...500 as ClosedRange<UInt64> { client.put(tag, within: 20_000) }
        while !client.sends.isEmpty { client.done(try client.next()) }
        for _ in 0..<1_000 where client.sends.isEmpty { client.pass(5) }
        let word = try client.next()
        #expect(
            try SessionCommand(payload: word.payload)
                == .keepAlive([.init(id: SessionID(77), firstUnacknowledged: 501)]))
        client.done(word)
        client.pass(8_000)
        #expect(client.sends.isEmpty)
    }

    /// The group still keeps what it was not told.
    @Test(arguments: [false, true]) func aWordThatWasNotAnsweredIsSaidAgain(_ isRefused: Bool) throws {
        var client = Client()
        client.put(1, within: 20_000)
        try client.open(77)
        client.done(try client.next())
        for tag in 2...500 as ClosedRange<UInt64> { client.put(tag, within: 20_000) }
        while !client.sends.isEmpty { client.done(try client.next()) }
        for _ in 0..<1_000 where client.sends.isEmpty { client.pass(5) }
        if isRefused {
            client.refuse(try client.next(), .invalid("not now"))
        } else {
            // It goes again for ten seconds, and is given up.
            client.pass(11_000)
            #expect(client.sends.count > 1)
            client.sends = []
        }
        for _ in 0..<1_000 where client.sends.isEmpty { client.pass(5) }
        let second = try client.next()
        #expect(
            try SessionCommand(payload: second.payload)
                == .keepAlive([.init(id: SessionID(77), firstUnacknowledged: 501)]))
        client.done(second)
        client.pass(8_000)
        #expect(client.sends.isEmpty)
    }

    /// Nobody leads the group, for good. What the group kept is over by its time, and nothing is owed to it: a client that has
    /// nothing under way comes to rest.
    @Test(arguments: [false, true]) func noWordIsSaidForTheSakeOfAnswersThatAreOver(_ isUnknown: Bool) throws {
        var client = Client {
            $0.sessionTimeToLiveMilliseconds = 3_000
            $0.commandAttemptNanoseconds = 60_000_000_000
            $0.silenceNanoseconds = 60_000_000_000
        }
        client.put(1, within: 20_000)
        try client.open(77)
        client.done(try client.next())
        // The first one's outcome is not known for long, and the others' answers can't be acknowledged before it is.
        client.put(2, within: isUnknown ? 2_000 : 1_000)
        let first = try client.next()
        for tag in 3...500 as ClosedRange<UInt64> { client.put(tag, within: 20_000) }
        while !client.sends.isEmpty { client.done(try client.next()) }
        #expect(client.router.operationCount == 1)
        if !isUnknown { client.done(first) }
        // A word is said while the session may live, and given up after ten seconds; none comes after it.
        client.pass(2_500)
        let words = client.sends.filter { send in
            guard case .keepAlive(let words)? = try? SessionCommand(payload: send.payload) else { return false }
            return words.first?.id == SessionID(77)
        }
        #expect(words.count == client.sends.count && !words.isEmpty, "\(client.sends)")
        client.pass(13_000)
        #expect(client.results.count == 500 && client.router.operationCount == 0)
        client.sends = []
        client.pass(30_000)
        #expect(client.sends.isEmpty && client.router.operationCount == 0)
        // What may still be on its way is asked for first; else there is a new session without a question.
        client.put(600, within: 20_000)
        for _ in 0..<200 where client.sends.isEmpty { client.pass(5) }
        let next = try client.next()
        guard !isUnknown else {
            #expect(header(next)?.session == SessionID(77) && header(next)?.firstUnacknowledged == 501)
            return
        }
        guard case .open = try SessionCommand(payload: next.payload) else {
            Issue.record("\(next)")
            return
        }
    }

    enum LateAnswer: CaseIterable { case ofACommand, ofTheWordThatOpens, ofAWord }

    /// Of a late answer nobody knows which attempt was the one that the group took for a word of the client: it may have
    /// been the first. A session that is taken to live too long is asked in vain; one that ended costs a round trip.
    @Test(arguments: LateAnswer.allCases) func aLateAnswerShowsLifeFromTheFirstAttemptOn(_ late: LateAnswer) throws {
        var client = Client { $0.commandAttemptNanoseconds = late == .ofAWord ? 60_000_000_000 : 5_000_000_000 }
        client.put(1, within: 60_000)
        let opening = try client.next()
        if late == .ofTheWordThatOpens { client.pass(2_000) }
        try client.open(77, by: opening)
        // The session is known to live from this moment on, or from the word that follows.
        var began: UInt64 = 1_000
        let command = try #require(client.sends.last)
        client.sends = []
        switch late {
        case .ofACommand:
            client.pass(7_000)
            #expect(client.sends.map(\.sequence) == [1], "it went again, and both are one")
            client.done(command)
        case .ofTheWordThatOpens:
            // It is no word of its own: what is refused was not proposed.
            client.refuse(command, .tooLarge("no"))
        case .ofAWord:
            while client.sends.isEmpty { client.pass(5) }
            began = client.milliseconds
            let word = try client.next()
            client.pass(4_000)
            #expect(!client.sends.isEmpty, "it went again")
            client.done(word)
            client.refuse(command, .tooLarge("no"))
        }
        client.sends = []
        #expect(client.results.count == 1 && client.router.operationCount == 0)
        client.pass(began + 29_900 - client.milliseconds)
        var other = client
        other.put(2, within: 20_000)
        let inTime = try #require(other.sends.last)
        #expect(header(inTime)?.session == SessionID(77))
        client.pass(200)
        client.put(2, within: 20_000)
        let next = try client.next()
        guard case .open = try? SessionCommand(payload: next.payload) else {
            Issue.record("the session is taken to live: \(next)")
            return
        }
    }

    @Test func aFullWindowOfOthersIsWaitedFor() throws {
        var client = Client()
        client.put(1, within: 20_000)
        try client.open(77)
        client.refuse(try client.next(), .quotaExceeded("a group keeps the answers of 1048576 calls"))
        client.pass(400)
        let send = try client.next()
        #expect(header(send)?.sequence == 1)
        client.done(send)
        #expect(client.isDone(1))
    }

    /// The place of an operation that is over is another one's: what comes for the first is no answer to what was not even
    /// sent.
    @Test func anAnswerToWhatWasThereBeforeIsNone() throws {
        var client = Client()
        // Of the two places one is the command's that waits, and one its session's.
        client.put(1, within: 20_000)
        try client.open(76)
        client.done(try client.next())
        for tag in 11...12 as ClosedRange<UInt64> { client.get(tag, within: 400) }
        let old = client.sends
        client.sends = []
        client.pass(500)
        client.sends = []
        #expect(old.count == 2 && client.results.count == 3 && client.router.operationCount == 0)
        client.pass(40_000)
        // Nobody can be asked for the moment: what opens a session waits in that place.
        for host in 1...3 as ClosedRange<UInt64> {
            client.router.connectionDown(.host(HostID(host)), now: client.now, into: &client.effects)
        }
        client.drain()
        client.put(2, within: 20_000)
        client.sends = []
        #expect(client.router.operationCount == 2)
        for send in old { client.done(send, "12345678") }
        #expect(client.router.statistics.lateAnswers == 2)
        for host in 1...3 as ClosedRange<UInt64> {
            client.router.connectionUp(.host(HostID(host)), now: client.now, into: &client.effects)
        }
        client.drain()
        client.pass(200)
        try client.open(77)
        #expect(header(try client.next())?.session == SessionID(77))
    }

    /// A table of sessions that is full is nothing to reads.
    @Test func whereNoSessionOpensReadsGoOn() throws {
        var client = Client()
        client.put(1, within: 20_000)
        var opens = 0
        var reads: UInt64 = 0
        for tag in 100..<300 as Range<UInt64> {
            client.get(tag)
            client.pass(50) { client, send in
                if send.kind == .query {
                    reads += 1
                    client.done(send)
                } else {
                    opens += 1
                    client.refuse(send, .overloaded(retryAfterMillis: 1_000))
                }
            }
            #expect(client.isDone(tag), "\(tag)")
        }
        #expect(reads == 200 && opens > 4 && opens < 20, "\(opens)")
    }

    /// Its last words may still be on their way: whether that session is over is the group's to say.
    @Test func aSessionWithAnUnknownCallIsNotLeftUnasked() throws {
        var client = Client { $0.sessionTimeToLiveMilliseconds = 3_000 }
        client.put(1, within: 400)
        try client.open(77)
        _ = try client.next()
        client.pass(600)
        #expect(client.code(1) == .outcomeUnknown)
        client.pass(10_000)
        client.sends = []
        client.put(2, within: 20_000)
        let sent = try client.next()
        #expect(header(sent)?.session == SessionID(77) && header(sent)?.firstUnacknowledged == 2)
        client.refuse(sent, .sessionExpired)
        try client.open(78)
        #expect(header(try client.next())?.session == SessionID(78))
    }
}
