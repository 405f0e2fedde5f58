// Reads that have to know what their client was told: which revision they ask for, and of whom.

import ClientCore
import Messages
import Primitives
import StateMachines
import Testing

@Suite struct SessionReadTests {
    private typealias Client = ClientSessionTests.Client

    private func read(_ client: inout Client, _ tag: UInt64) throws -> ClientSend {
        _ = client.router.submit(
            ClientRequest(
                tag: tag, kind: .query, target: .slot(Slot(0)), machine: .keyValue, consistency: .session,
                payload: KeyValueQuery.get(key: "k").encoded(), deadline: client.now + 1_000_000_000),
            now: client.now, into: &client.effects)
        client.drain()
        return try client.next()
    }

    private func answer(_ client: inout Client, _ send: ClientSend, index: UInt64) {
        // The revision says less: not all that a state has raises it.
        let result = DataResult(index: LogIndex(index), revision: Revision(3))
        client.router.answered(send.call, .done(result.encoded()), now: client.now, into: &client.effects)
        client.drain()
    }

    @Test func theyKnowWhatWasWrittenAndReadBeforeWhoeverAnswers() throws {
        var client = Client(level: FeatureLevel.deadlines)
        let first = try read(&client, 1)
        #expect(first.consistency == .session && first.bound == 0)
        answer(&client, first, index: 7)
        client.put(2)
        try client.open(77)
        let put = try client.next()
        let during = try read(&client, 3)
        #expect(during.bound == 7, "what is under way nobody was told of")
        answer(&client, put, index: 9)
        let second = try read(&client, 4)
        #expect(second.bound == 9)
        // An older answer takes nothing back.
        answer(&client, during, index: 8)
        let third = try read(&client, 5)
        #expect(third.bound == 9)
        #expect(Set([during.host, second.host, third.host]).count == 3, "each replica in turn")
        // What is sent again asks for what is known by then.
        answer(&client, second, index: 12)
        client.refuse(third, .unavailable("behind"))
        client.pass(200)
        let again = try client.next()
        #expect(again.tag == 5 && again.bound == 12)
    }

    @Test func hostsThatDoNotKnowThemAnswerAsNew() throws {
        var client = Client(level: FeatureLevel.machines)
        let send = try read(&client, 1)
        #expect(send.consistency == .linearizableAnywhere)
    }
}
