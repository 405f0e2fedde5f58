// Reads with a bound on their age: any replica answers, and how long ago it made sure of its state is its own affair.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct StaleReadTests {
    private let group = GroupID(1)

    private func trio() throws -> (trio: Trio, leader: Int, follower: Int) {
        let trio = try Trio()
        let leader = try trio.leader()
        trio.hosts[leader].put("k", "1", group: group, token: 1)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(1))
        return (trio, leader, (leader + 1) % 3)
    }

    private func alone(_ host: TestHost, _ milliseconds: UInt64, token: UInt64) throws {
        host.get("k", group: group, .stale, bound: milliseconds, token: token)
        try host.turn()
    }

    private func value(_ host: TestHost, _ token: UInt64) throws -> Bytes? {
        let result = try #require(host.result(token))
        guard case .found(let value, _, _) = try KeyValueReading(decoding: result.body) else { return nil }
        return value
    }

    @Test func aFollowerAnswersByItselfWithinTheBoundAndAsksBeyondIt() throws {
        let (trio, leader, follower) = try trio()
        let host = trio.hosts[follower]
        // Nothing is known yet: it asks, whatever the bound.
        try alone(host, 60_000, token: 10)
        #expect(host.answer(10) == nil)
        let asked = host.now.rawValue
        try trio.tick(2)
        #expect(host.isDone(10) && host.core.staleReads == 0)
        // Its age counts from the question, not from the answer.
        let age = (host.now.rawValue - asked) / 1_000_000
        #expect(age >= 100)
        try alone(host, age, token: 11)
        #expect(host.isDone(11) && host.core.staleReads == 1)
        try alone(host, age - 1, token: 12)
        #expect(host.answer(12) == nil && host.core.staleReads == 1)
        try trio.tick(2)
        #expect(host.isDone(12))

        // Cut off, it answers as long as it may, and then no more.
        trio.cut(follower)
        trio.hosts[leader].put("k", "2", group: group, token: 2)
        try trio.tick(4)
        #expect(trio.hosts[leader].isDone(2))
        try alone(host, 1_000, token: 13)
        #expect(try value(host, 13) == "1", "what was acknowledged within the second may be missing")
        try alone(host, 100, token: 14)
        #expect(!host.isDone(14), "what was acknowledged before may not")
        host.now = host.now + 2_000_000_000
        try alone(host, 1_000, token: 15)
        #expect(!host.isDone(15))
        try alone(host, .max, token: 16)
        #expect(try value(host, 16) == "1")

        trio.join(follower)
        try trio.tick(60)
        try alone(host, 0, token: 17)
        try trio.tick(2)
        #expect(try value(host, 17) == "2")
    }

    /// One round serves all that come within the bound, and the leader's reads by lease date its state too.
    @Test func theLeaderAnswersWithoutARoundAfterAReadByLease() throws {
        let (trio, leader, _) = try trio()
        let host = trio.hosts[leader]
        try trio.tick(30)
        host.get("k", group: group, .lease, token: 20)
        try host.turn()
        #expect(host.isDone(20))
        for token in 21...40 as ClosedRange<UInt64> { host.get("k", group: group, .stale, bound: 10, token: token) }
        try host.turn()
        #expect((21...40).allSatisfy { host.isDone($0) } && host.core.staleReads == 20)
    }

    @Test func aReplicaWithoutALeaderThatKnowsNothingRefuses() throws {
        let (trio, _, follower) = try trio()
        trio.cut(follower)
        try trio.tick(100)
        let host = trio.hosts[follower]
        try alone(host, 60_000, token: 30)
        guard case .notLeader? = host.refusal(30) else {
            Issue.record("it answers: \(String(describing: host.answer(30)))")
            return
        }
    }

    // MARK: Reads in a client's session

    @Test func aReplicaAnswersWhoHasSeenNoMoreThanIsHereAndAsksForOthers() throws {
        let (trio, leader, follower) = try trio()
        let host = trio.hosts[follower]
        let first = try #require(trio.hosts[leader].result(1)).index.rawValue
        func get(_ index: UInt64, token: UInt64) throws {
            host.get("k", group: group, .session, bound: index, token: token)
            try host.turn()
        }
        try get(first, token: 10)
        #expect(try value(host, 10) == "1" && host.core.sessionReads == 1)
        trio.cut(follower)
        trio.hosts[leader].put("k", "2", group: group, token: 2)
        try trio.tick(4)
        #expect(trio.hosts[leader].isDone(2))
        try get(first, token: 11)
        #expect(try value(host, 11) == "1", "what this client has not seen may be missing")
        let second = try #require(trio.hosts[leader].result(2)).index.rawValue
        try get(second, token: 12)
        #expect(!host.isDone(12) && host.core.sessionReads == 2)
        trio.join(follower)
        try trio.tick(60)
        if host.isDone(12) { #expect(try value(host, 12) == "2") }
        try get(second, token: 13)
        #expect(try value(host, 13) == "2")
        // More than anybody has: as new.
        try get(999, token: 14)
        #expect(host.answer(14) == nil)
        try trio.tick(3)
        #expect(try value(host, 14) == "2")
        // A page of a group has no bound.
        host.page(group, .session, token: 15)
        try host.turn()
        #expect(host.answer(15) == nil && host.coldPages.isEmpty)
        try trio.tick(3)
        #expect(host.coldPages.count == 1)
    }
}
