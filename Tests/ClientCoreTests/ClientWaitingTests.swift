// What of a group waits for what, and what goes first, where clients have sessions.

import ClientCore
import Messages
import Primitives
import StateMachines
import Testing

@Suite struct ClientWaitingTests {
    private typealias Client = ClientSessionTests.Client

    /// 0: no command of a caller.
    private func numbers(_ sends: [ClientSend]) -> [UInt64] { sends.map(\.sequence) }

    /// With more commands under way than have room in a session: the first 2,048 of them were sent.
    private func busyClient(count: UInt64, within milliseconds: UInt64) throws -> Client {
        var client = Client()
        for tag in 1...count { client.put(tag, within: milliseconds) }
        try client.open(77)
        #expect(numbers(client.sends) == Array(1...2_048))
        return client
    }

    enum Trouble: CaseIterable { case connectionLost, oneAnswerLost, overloaded, congested }

    /// Those that have their numbers come back to be sent again, and the others wait for them.
    @Test(arguments: Trouble.allCases) func moreCommandsThanASessionHasRoomForAreAllDoneInTheEnd(
        _ trouble: Trouble
    ) throws {
        var client = try busyClient(count: 5_000, within: 20_000)
        let sends = client.sends
        client.sends = []
        var leader: UInt64 = 1
        switch trouble {
        case .connectionLost:
            leader = 2
            client.router.connectionDown(.host(HostID(1)), now: client.now, into: &client.effects)
            for send in sends { client.lose(send) }
        case .oneAnswerLost:
            for send in sends.dropFirst() { client.done(send) }
            client.lose(sends[0])
        case .overloaded: for send in sends { client.refuse(send, .overloaded(retryAfterMillis: 40)) }
        case .congested:
            for send in sends {
                client.router.callFailed(send.call, .congested, now: client.now, into: &client.effects)
                client.drain()
            }
        }
        let calm = client.milliseconds + 500
        client.pass(5_000) { client, send in
            if trouble == .overloaded, client.milliseconds < calm {
                client.refuse(send, .overloaded(retryAfterMillis: 40))
            } else if send.host != HostID(leader) {
                client.refuse(send, .notLeader(leader: HostID(leader), term: Term(9)))
            } else {
                client.done(send)
            }
        }
        let done = (1...5_000 as ClosedRange<UInt64>).count { client.isDone($0) }
        #expect(done == 5_000, "the others: \(client.router.operationCount) under way")
        #expect(client.router.statistics.outcomesUnknown == 0)
    }

    /// In whatever order they come back.
    @Test func whatHasANumberGoesBeforeWhatHasNoneAndInTheOrderOfTheNumbers() throws {
        var client = try busyClient(count: 3_000, within: 20_000)
        let sends = client.sends
        client.sends = []
        // The last one first, then the others from both ends.
        var order = [sends[2_047]]
        for number in 0..<1_023 { order += [sends[2_046 - number], sends[number]] }
        order.append(sends[1_023])
        for send in order { client.lose(send) }
        var resent: [ClientSend] = []
        client.pass(400) { client, send in
            guard send.sequence == 2_048 else { return resent.append(send) }
            client.done(send)
        }
        #expect(numbers(resent) == Array(1...2_047))
    }

    /// For want of space, for example: that is not by any fault of the leader's.
    @Test func readsDoNotWaitForASessionThatIsRefused() throws {
        var client = Client()
        client.put(1, within: 3_000)
        var tag: UInt64 = 1
        for _ in 0..<100 {
            tag += 1
            client.get(tag, within: 500)
            client.pass(30) { client, send in
                if send.host != HostID(1) {
                    client.refuse(send, .notLeader(leader: HostID(1), term: Term(2)))
                } else if send.kind == .query {
                    client.done(send)
                } else {
                    client.refuse(send, .unavailable("the disk of host 1 is nearly full"))
                }
            }
        }
        client.pass(500)
        let done = (2...tag).count { client.isDone($0) }
        #expect(done == Int(tag) - 1, "of \(tag - 1) reads")
        guard case .failure(let failure)? = client.results[1] else {
            Issue.record("no end")
            return
        }
        #expect(failure.code == .unavailable && !failure.mayHaveHappened, "\(failure)")
        #expect(failure.message.contains("the disk of host 1 is nearly full"), "\(failure)")
    }

    /// Nor is it the command's turn each time that the host's pause is over.
    @Test func readsGoWhereCommandsAreTurnedDown() throws {
        var client = Client()
        client.put(1, within: 2_500)
        try client.open(77)
        let first = try client.next()
        client.refuse(first, .overloaded(retryAfterMillis: 20))
        for tag in 2...31 as ClosedRange<UInt64> {
            if tag < 22 { client.get(tag) }
            client.pass(100) { client, send in
                if send.kind == .query {
                    client.done(send)
                } else {
                    client.refuse(send, .overloaded(retryAfterMillis: 20))
                }
            }
            #expect(tag > 21 || client.isDone(tag))
        }
        #expect(client.code(1) == .overloaded)
    }

    /// It keeps what opens the session, and its connection stands.
    @Test(arguments: [false, true]) func aFrozenLeaderKeepsNeitherReadsNorSessionsFromTheNextOne(
        _ hasServed: Bool
    ) throws {
        var client = Client()
        if hasServed {
            client.get(9)
            client.done(try client.next())
        }
        client.put(1, within: 20_000)
        client.get(2, within: 20_000)
        try client.pass(3_000) { client, send in
            guard send.host == HostID(2) else {
                if send.host == HostID(3) { client.refuse(send, .notLeader(leader: HostID(2), term: Term(9))) }
                return
            }
            if send.tag == 0 { return try client.open(77, by: send) }
            client.done(send)
        }
        #expect(client.isDone(1) && client.isDone(2), "\(client.results)")
    }

    enum Leader: CaseIterable { case silent, silentWhileAnotherAnswers, slow }

    /// That its commands take long is no fault of a leader that answers something; of one that says nothing at all since a
    /// command went, another may know more. What another replica says is not the leader's word.
    @Test(arguments: Leader.allCases) func aLeaderIsLeftAtAnAttemptsEndIfItSaidNothingSince(_ leader: Leader) throws {
        // Silence is noticed apart from attempts, and earlier; not here.
        var client = Client { $0.silenceNanoseconds = 60_000_000_000 }
        client.put(1, within: 20_000)
        try client.open(77)
        client.done(try client.next())
        client.put(2, within: 20_000)
        let first = try client.next()
        #expect(first.host == HostID(1))
        client.pass(2_000)
        switch leader {
        case .silent: break
        case .silentWhileAnotherAnswers:
            _ = client.router.submit(
                ClientRequest(
                    tag: 3, kind: .query, target: .slot(Slot(0)), pinned: HostID(2), machine: .keyValue,
                    consistency: .stale, bound: 1_000, payload: KeyValueQuery.get(key: "k").encoded(),
                    deadline: client.now + 1_000_000_000),
                now: client.now, into: &client.effects)
            client.drain()
            client.done(try client.next())
            #expect(client.isDone(3))
        case .slow:
            client.get(3)
            client.done(try client.next())
        }
        client.pass(3_500)
        let again = try client.next()
        #expect(again.sequence == first.sequence && again.call != first.call)
        #expect((again.host == first.host) == (leader == .slow), "it went to \(again.host)")
        client.done(again)
        #expect(client.isDone(2))
    }

    @Test func aWordThatKeepsASessionAliveIsSaidAgain() throws {
        var client = Client { $0.commandAttemptNanoseconds = 60_000_000_000 }
        client.put(1, within: 60_000)
        try client.open(77)
        let first = try client.next()
        client.pass(13_000)
        let words = client.sends
        #expect(words.count >= 1)
        client.pass(4_000)
        #expect(client.sends.count > words.count)
        for word in client.sends {
            #expect(
                try SessionCommand(payload: word.payload)
                    == .keepAlive([.init(id: SessionID(77), firstUnacknowledged: 1)]))
        }
        client.done(first)
        #expect(client.isDone(1))
    }

    @Test func aClosedClientEndsItsSessionsAndWaitsForNobody() throws {
        var client = Client()
        client.put(1)
        try client.open(77)
        client.done(try client.next())
        client.put(2)
        let second = try client.next()
        client.router.close(into: &client.effects)
        let calls = client.router.closeSessions(deadline: client.now + 100_000_000, into: &client.effects)
        client.drain()
        let word = try client.next()
        #expect(calls == [word.call] && client.sends.isEmpty)
        #expect(try SessionCommand(payload: word.payload) == .close(SessionID(77)))
        #expect(word.host == HostID(1) && word.slot == .group && word.group == GroupID(1) && word.sequence == 0)
        #expect(client.router.operationCount == 0 && client.isDone(1) && client.code(2) == .outcomeUnknown)
        client.done(word)
        client.done(second)
        client.pass(50_000)
        #expect(client.sends.isEmpty && client.router.operationCount == 0)
        let none = client.router.closeSessions(deadline: client.now + 100_000_000, into: &client.effects)
        #expect(none.isEmpty)
    }
}
