// What a client holds in slots that move: named in its words, taken over where the slot is, lost when it is. And commands
// whose answers are lost while their slots move.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct SlotHoldTests {
    private typealias Client = ClientSessionTests.Client

    private let slot = Slot(0)

    /// One with a time to live of three seconds, and session 77 open in group 1, where slot 0 is since epoch 1.
    private func client(holds: Bool = true) throws -> Client {
        var client = Client(level: FeatureLevel.migrations) { $0.sessionTimeToLiveMilliseconds = 3_000 }
        // Nobody asks for a map any more, which would take ticks.
        client.router.mapAnswered(1, .unchanged, now: client.now, into: &client.effects)
        if holds { client.router.holdSession(of: slot, now: client.now) }
        client.put(1)
        try client.open(77)
        client.done(try client.next())
        #expect(client.isDone(1) && client.router.operationCount == 0)
        return client
    }

    private func command(_ send: ClientSend) -> SessionCommand? { try? SessionCommand(payload: send.payload) }

    /// Lets time pass until something is sent: a word for the sake of slot 0.
    private func word(_ client: inout Client, of id: UInt64 = 77, since epoch: UInt64 = 1) throws -> ClientSend {
        for _ in 0..<2_000 where client.sends.isEmpty { client.pass(5) }
        let send = try client.next()
        let life = SessionCommand.Life(id: SessionID(id), firstUnacknowledged: 2)
        guard case .hold(let said, let slots)? = command(send) else {
            Issue.record("\(send)")
            return send
        }
        #expect(said.id == life.id && slots == [HeldSlot(slot: slot, epoch: Epoch(epoch))], "\(said), \(slots)")
        return send
    }

    private func answer(_ client: inout Client, _ send: ClientSend, _ answer: HeldSlotsAnswer) {
        client.done(send, answer.encoded())
    }

    private func isAlive(_ client: Client, _ id: UInt64) -> Bool {
        (client.router.sessionLife(of: slot, as: SessionID(id))?.endsAt ?? .zero) > client.now
    }

    private func body(_ ids: [UInt64]) -> Bytes {
        var writer = ByteWriter()
        for id in ids { writer.write(id) }
        return writer.take()
    }

    private func mapOfGroup2(version: UInt64 = 2) -> ClusterMap {
        var map = exampleMap(version: version, epoch: 2, evenOwner: 2)
        map.featureLevel = FeatureLevel.migrations
        return map
    }

    /// What is next is to take over session 77 in group 2, by session 88.
    private func takeOver(_ client: inout Client, isOpened: Bool = false) throws -> ClientSend {
        if !isOpened {
            let opening = try client.next()
            #expect(opening.group == GroupID(2))
            try client.open(88, by: opening)
        }
        let send = try client.next()
        #expect(command(send) == .takeOver(slot, [SessionID(77)]), "\(send)")
        #expect(send.group == GroupID(2) && send.session == SessionID(88) && send.slot == slot)
        #expect(send.sequence > 0 && send.epoch == Epoch(2))
        return send
    }

    @Test func wordsNameTheSlotsForWhoseSakeTheyAreSaid() throws {
        var client = try client()
        let first = try word(&client)
        let sent = client.now
        client.pass(100)
        answer(&client, first, HeldSlotsAnswer(isThere: true))
        #expect(client.router.sessionLife(of: slot, as: SessionID(77))?.aliveAt == sent)
        // Commands on other slots say nothing of this one.
        for round in 0..<40 as Range<UInt64> {
            client.router.submit(
                ClientRequest(
                    tag: 100 + round, kind: .command, target: .slot(Slot(2)),
                    payload: KeyValueCommand.put(key: "other", value: "1").payload(),
                    deadline: client.now + 1_000_000_000), now: client.now, into: &client.effects)
            client.drain()
            client.done(try client.next())
            client.pass(20)
            if !client.sends.isEmpty { break }
        }
        #expect(client.router.sessionLife(of: slot, as: SessionID(77))?.aliveAt == sent)
        answer(&client, try word(&client), HeldSlotsAnswer(isThere: true))
        // Those on this slot do, from when they were sent first.
        client.pass(300)
        client.put(2)
        let put = try client.next()
        let putSent = client.now
        client.lose(put)
        client.pass(50)
        client.done(try client.next())
        #expect(client.isDone(2) && client.router.sessionLife(of: slot, as: SessionID(77))?.aliveAt == putSent)
        #expect(client.router.sessionLife(of: slot, as: SessionID(78)) == nil)
    }

    @Test(arguments: [false, true]) func whatWentIsTakenOverBeforeAnyCommandGoes(_ isByMap: Bool) throws {
        var client = try client()
        if isByMap {
            client.router.mapReceived(mapOfGroup2(), now: client.now, into: &client.effects)
            client.drain()
        } else {
            let moved = HeldSlotsAnswer.Moved(slot: slot, group: GroupID(2), epoch: Epoch(2))
            answer(&client, try word(&client), HeldSlotsAnswer(isThere: true, moved: [moved]))
        }
        client.put(2)
        #expect(isAlive(client, 77))
        let send = try takeOver(&client)
        let sent = client.now
        #expect(client.sends.isEmpty, "the command waits")
        client.pass(20)
        client.done(send, body([77]))
        #expect(client.router.sessionLife(of: slot, as: SessionID(77))?.aliveAt == sent)
        #expect(isAlive(client, 77) && isAlive(client, 88))
        let put = try client.next()
        #expect(put.tag == 2 && put.group == GroupID(2) && put.session == SessionID(88) && put.epoch == Epoch(2))
        client.done(put)
        #expect(client.isDone(2))
        // From now on words are that group's affair, and nobody's else.
        for _ in 0..<4 {
            let send = try word(&client, of: 88, since: 2)
            #expect(send.group == GroupID(2))
            answer(&client, send, HeldSlotsAnswer(isThere: true))
        }
        #expect(isAlive(client, 77))
        // It is lost with the session that stands for it.
        let changes = client.router.sessionChanges
        answer(&client, try word(&client, of: 88, since: 2), HeldSlotsAnswer(isThere: false))
        #expect(!isAlive(client, 77) && !isAlive(client, 88) && client.router.sessionChanges > changes)
    }

    /// It went and came back, and nobody was told in between.
    @Test func whatCameBackIsAskedForAgain() throws {
        var client = try client()
        let moved = HeldSlotsAnswer.Moved(slot: slot, group: GroupID(1), epoch: Epoch(3))
        answer(&client, try word(&client), HeldSlotsAnswer(isThere: true, moved: [moved]))
        let send = try client.next()
        #expect(command(send) == .takeOver(slot, [SessionID(77)]))
        #expect(send.group == GroupID(1) && send.session == SessionID(77) && send.epoch == Epoch(3))
        client.done(send, body([77]))
        #expect(isAlive(client, 77))
        answer(&client, try word(&client, since: 3), HeldSlotsAnswer(isThere: true))
    }

    /// The slot goes on before it is taken over: what was got in the first group is looked for in the last.
    @Test func whatGoesOnIsFollowed() throws {
        var client = try client()
        client.router.mapReceived(mapOfGroup2(), now: client.now, into: &client.effects)
        client.drain()
        client.put(2)
        let send = try takeOver(&client)
        client.refuse(send, .moved(group: GroupID(1), epoch: Epoch(3)))
        let next = try client.next()
        #expect(command(next) == .takeOver(slot, [SessionID(77), SessionID(88)]), "\(next)")
        #expect(next.group == GroupID(1) && next.session == SessionID(77) && next.epoch == Epoch(3))
        client.done(next, body([77]))
        #expect(isAlive(client, 77))
        let put = try client.next()
        #expect(put.tag == 2 && put.group == GroupID(1) && put.session == SessionID(77))
    }

    /// Nobody answers for longer than it lives: then it is there still, or it is lost. One that is not there, and can't have
    /// ended yet, had nothing in the slot: it was given back before, and that is not told as a loss. Nor is it kept.
    @Test(arguments: [(false, false), (false, true), (true, false), (true, true)])
    func whatIsNotThereAnyMoreIsLostIfItsTimeIsOver(_ isLate: Bool, _ isThere: Bool) throws {
        var client = try client()
        client.router.mapReceived(mapOfGroup2(), now: client.now, into: &client.effects)
        client.drain()
        var send = try takeOver(&client)
        let (number, session) = (send.sequence, send.session)
        client.pass(isLate ? 3_000 : 500)
        for again in client.sends where again.slot == slot {
            #expect(again.sequence == number && again.session == session && command(again) == command(send))
            send = again
        }
        client.sends = []
        #expect(isAlive(client, 77) == !isLate)
        let aliveAt = client.router.sessionLife(of: slot, as: SessionID(77))?.aliveAt
        #expect(aliveAt != nil, "the clock says that it is lost, and not yet the group")
        client.done(send, body(isThere ? [77] : []))
        let last = client.router.sessionLife(of: slot, as: SessionID(77))
        #expect((last != nil) == (isThere || !isLate))
        guard !isThere else { return }
        #expect(last?.aliveAt == (isLate ? nil : aliveAt))
        // It counts from when the call was sent first; the next word tells.
        #expect(isAlive(client, 88) == !isLate)
    }

    @Test func theEndOfAllSessionsEndsWhatIsNotTakenOverYet() throws {
        var client = try client()
        client.router.mapReceived(mapOfGroup2(), now: client.now, into: &client.effects)
        client.drain()
        _ = try takeOver(&client)
        client.router.close(into: &client.effects)
        client.drain()
        client.sends = []
        _ = client.router.closeSessions(deadline: client.now + 1_000_000_000, into: &client.effects)
        client.drain()
        let ends = client.sends.compactMap { send -> String? in
            guard case .close(let id)? = command(send) else { return nil }
            return "\(send.group) \(id)"
        }
        let expected: [(GroupID, SessionID)] = [
            (GroupID(1), SessionID(77)), (GroupID(2), SessionID(77)), (GroupID(2), SessionID(88)),
        ]
        #expect(ends.sorted() == expected.map { "\($0.0) \($0.1)" }.sorted())
        #expect(!isAlive(client, 77) && client.router.operationCount == 0 && !client.router.needsTicks)
    }

    enum Outcome: CaseIterable { case done, moved, movedBefore, ended }

    /// Its answer was lost, and its slot has gone: the group where it was sent knows, and is asked with what was known then.
    @Test(arguments: Outcome.allCases) func whatIsInDoubtIsAskedForWhereItWasSent(_ outcome: Outcome) throws {
        var client = try client(holds: false)
        client.put(2, within: 20_000)
        let first = try client.next()
        client.lose(first)
        var send = try client.next()
        client.router.mapReceived(mapOfGroup2(), now: client.now, into: &client.effects)
        client.drain()
        client.put(3, within: 20_000)
        let opening = try client.next()
        #expect(opening.group == GroupID(2))
        for _ in 0..<2 {
            client.lose(send)
            for _ in 0..<100 where client.sends.isEmpty { client.pass(5) }
            send = try client.next()
            #expect(send.tag == 2 && send.group == GroupID(1) && send.sequence == first.sequence, "\(send)")
            #expect(send.session == SessionID(77) && send.epoch == Epoch(1))
        }
        switch outcome {
        case .done:
            client.done(send)
            #expect(client.isDone(2))
        case .ended:
            client.refuse(send, .sessionExpired)
            #expect(client.code(2) == .outcomeUnknown)
        case .moved, .movedBefore:
            if outcome == .movedBefore {
                // A host that is behind: it says nothing of now.
                client.refuse(send, .moved(group: GroupID(2), epoch: Epoch(1)))
                for _ in 0..<100 where client.sends.isEmpty { client.pass(5) }
                send = try client.next()
                #expect(send.tag == 2 && send.group == GroupID(1) && send.sequence == first.sequence)
            }
            client.refuse(send, .moved(group: GroupID(2), epoch: Epoch(2)))
            #expect(client.results[2] == nil)
            try client.open(88, by: opening)
            var tags: Set<UInt64> = []
            for _ in 0..<2 {
                let send = try client.next()
                #expect(send.group == GroupID(2) && send.session == SessionID(88) && send.epoch == Epoch(2))
                tags.insert(send.tag)
                client.done(send)
            }
            #expect(tags == [2, 3] && client.isDone(2) && client.isDone(3))
        }
    }
}
