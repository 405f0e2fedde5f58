// Sessions on three hosts: what was applied is not applied again, whoever leads; and a session ends when its client is
// silent for long enough, as the group counts time.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct SessionHostTests {
    private let group = GroupID(1)

    private func open(_ trio: Trio, _ leader: Int, timeToLive: UInt64, token: UInt64) throws -> SessionID {
        trio.hosts[leader].execute(
            SessionCommand.open(timeToLive: timeToLive, nonce: token).payload(), .group, group, token: token)
        try trio.tick(4)
        var reader = ByteReader(try #require(trio.hosts[leader].result(token)).body)
        return try reader.read()
    }

    private func put(_ key: Bytes, _ value: Bytes, _ session: SessionID, _ sequence: UInt64) -> Bytes {
        KeyValueCommand.put(key: key, value: value).payload(
            header: CommandHeader(machine: .keyValue, session: session, sequence: sequence, firstUnacknowledged: 1))
    }

    private func count(_ host: TestHost) -> Int { host.core.sessionCount(of: group) ?? 0 }

    @Test func anotherLeaderRepeatsTheAnswerAlsoAfterASnapshot() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let session = try open(trio, leader, timeToLive: 60_000, token: 1)
        let home = slot(of: "k" as Bytes)
        trio.hosts[leader].execute(put("k", "1", session, 1), home, group, token: 2)
        try trio.tick(2)
        let first = try #require(trio.hosts[leader].result(2))
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(4)
        trio.hosts[leader].put("k", "2", group: group, token: 3)
        try trio.tick(2)
        trio.cut(leader)
        try trio.tick(200)
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        trio.hosts[next].execute(put("k", "1", session, 1), home, group, token: 4)
        try trio.tick(2)
        #expect(trio.hosts[next].result(4) == first)
        trio.hosts[next].get("k", group: group, token: 5)
        try trio.tick(2)
        guard case .found("2", _, _) = try KeyValueReading(decoding: try #require(trio.hosts[next].result(5)).body)
        else {
            Issue.record("applied again")
            return
        }
        trio.join(leader)
        try trio.tick(100)
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
        #expect(trio.hosts.map { count($0) } == [1, 1, 1])
    }

    /// Each increment is a change on the condition that it comes next, so that one that is done twice fails the second
    /// time: all have to say that they were done, though their answers are lost and leaders come and go.
    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func incrementsGiveTheExactSumThoughAnswersAreLostAndLeadersChange(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let trio = try Trio()
        let session = try open(trio, try trio.leader(), timeToLive: 600_000, token: 1)
        let home = slot(of: "sum" as Bytes)
        var token: UInt64 = 1
        var attempts = 0
        let sum: UInt64 = 40
        for number in 1...sum {
            let next = KeyValueTransaction.Operation.put(key: "sum", value: Bytes("\(number)"))
            let before: KeyValueTransaction.Condition.Test = number == 1 ? .absent : .value(Bytes("\(number - 1)"))
            let payload = KeyValueTransaction(if: [.init("sum", before)], then: [next]).payload(
                header: CommandHeader(
                    machine: .keyValue, session: session, sequence: number, firstUnacknowledged: number))
            var outcome: KeyValueOutcome?
            while outcome == nil {
                attempts += 1
                try #require(attempts < 2_000)
                let leader = try trio.leader()
                token += 1
                trio.hosts[leader].execute(payload, home, group, token: token)
                try trio.tick(Int(random.below(3)))
                switch random.below(8) {
                case 0:
                    // It may have reached the others, or not; they go on without this one.
                    trio.cut(leader)
                    try trio.tick(100)
                    trio.join(leader)
                    try trio.tick(20)
                case 1: for host in trio.hosts { host.core.checkpointAll() }
                case 2, 3: continue
                default: break
                }
                try trio.tick(2)
                // An answer may be lost though it was given.
                if random.below(3) > 0, let result = trio.hosts[leader].result(token) {
                    outcome = try KeyValueOutcome(decoding: result.body)
                }
            }
            #expect(outcome?.holds == true, "increment \(number) was done before, and nobody knew")
        }
        #expect(attempts > Int(sum) * 5 / 4)
        try trio.tick(40)
        token += 1
        trio.hosts[try trio.leader()].get("sum", group: group, token: token)
        try trio.tick(4)
        let result = try #require(trio.hosts.lazy.compactMap { $0.result(token) }.first)
        guard case .found(Bytes("\(sum)"), Revision(sum), _) = try KeyValueReading(decoding: result.body) else {
            Issue.record("another sum: \(try KeyValueReading(decoding: result.body))")
            return
        }
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
    }

    @Test func aClientWhoSendsSessionsToTheMetaGroupStopsNobody() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        trio.hosts[leader].execute(SessionCommand.open(timeToLive: 5_000, nonce: 1).payload(), .group, .meta, token: 9)
        try trio.tick(4)
        guard case .invalid? = trio.hosts[leader].refusal(9) else {
            Issue.record("\(trio.hosts[leader].refusal(9) as Any)")
            return
        }
    }

    /// A leader that led before has counted time that nobody else knows of: what came meanwhile is not old for that.
    @Test func whoLeadsAgainEndsNobodyEarly() throws {
        let trio = try Trio()
        let first = try trio.leader()
        // It counts two minutes, and none of that is in its log.
        try trio.tick(2_400)
        trio.cut(first)
        try trio.tick(200)
        let next = try #require(
            trio.hosts.indices.first { $0 != first && trio.hosts[$0].inspection(of: group)?.role == .leader })
        _ = try open(trio, next, timeToLive: 20_000, token: 1)
        trio.join(first)
        try trio.tick(20)
        let replica = try #require(trio.hosts[first].inspection(of: group)?.replica)
        trio.hosts[next].core.transfer(group, to: replica, call: CallToken(rawValue: 5))
        try trio.tick(100)
        #expect(trio.hosts.map { count($0) } == [1, 1, 1], "five seconds after it was opened")
        try trio.tick(400)
        #expect(trio.hosts.map { count($0) } == [0, 0, 0])
    }

    @Test func whoIsSilentForLongEnoughIsEndedAlsoWhereAllIsQuiet() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let session = try open(trio, leader, timeToLive: 20_000, token: 1)
        // 50 ms a tick.
        try trio.tick(300)
        trio.hosts[leader].execute(
            SessionCommand.keepAlive([.init(id: session, firstUnacknowledged: 1)]).payload(), .group, group, token: 2)
        try trio.tick(4)
        #expect(trio.hosts[leader].result(2)?.body == Bytes())
        try trio.tick(380)
        #expect(trio.hosts.map { count($0) } == [1, 1, 1], "19 seconds after its last word")
        try trio.tick(60)
        #expect(trio.hosts.map { count($0) } == [0, 0, 0])
        trio.hosts[leader].execute(put("k", "1", session, 1), slot(of: "k" as Bytes), group, token: 3)
        try trio.tick(2)
        #expect(trio.hosts[leader].refusal(3) == .sessionExpired)
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
    }

    /// Its clients say that they live, and are not listened to.
    @Test func whileClientsAreTurnedDownNobodyEnds() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        _ = try open(trio, leader, timeToLive: 5_000, token: 1)
        for _ in 0..<400 {
            trio.hosts[leader].core.journalBytes = 9 << 30
            try trio.tick()
        }
        trio.hosts[leader].core.journalBytes = 1
        try trio.tick(40)
        #expect(trio.hosts.map { count($0) } == [1, 1, 1], "time stood still for twenty seconds")
        try trio.tick(160)
        #expect(trio.hosts.map { count($0) } == [0, 0, 0])
    }

    /// Questions for room that there is not do not fill the log.
    @Test func aFullTableRefusesBeforeItIsProposed() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        let most = UInt64(SessionTable.Limits.sessionsMax)
        for token in 1...most {
            host.execute(SessionCommand.open(timeToLive: 60_000, nonce: token).payload(), .group, group, token: token)
            if token % 512 == 0 { try trio.tick(2) }
        }
        try trio.tick(4)
        #expect(count(host) == Int(most))
        let last = host.inspection(of: group)?.last
        host.execute(SessionCommand.open(timeToLive: 60_000, nonce: 1).payload(), .group, group, token: most + 1)
        try trio.tick(2)
        guard case .overloaded? = host.refusal(most + 1) else {
            Issue.record("\(String(describing: host.answer(most + 1)))")
            return
        }
        #expect(host.inspection(of: group)?.last == last)
    }

    /// The time that is left is the leader's to say: the group is at rest, and its log does not go on.
    @Test func whoAsksIsShownTheSessionsByTheLeaderAndByEachReplica() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let session = try open(trio, leader, timeToLive: 60_000, token: 1)
        trio.hosts[leader].execute(put("k", "1", session, 1), slot(of: "k" as Bytes), group, token: 2)
        try trio.tick(2)
        let word = try #require(trio.hosts[leader].result(2)).index
        // Ten seconds.
        try trio.tick(200)
        for (place, host) in trio.hosts.enumerated() {
            host.sessions(group, .local, token: 3)
            host.sessions(group, .linearizable, token: 4)
            try trio.tick(2)
            let page = try SessionPage(decoding: try #require(host.result(3)).body)
            let shown = try #require(page.sessions.first)
            #expect(page.count == 1 && page.next == nil && shown.id == session && shown.timeToLive == 60_000)
            #expect(shown.calls == 1 && shown.answers == 1 && shown.activeIndex == word)
            let left = shown.left(at: page.logTime)
            if place == leader {
                #expect(left > 48_000 && left < 51_000, "\(left) ms")
                #expect(try #require(host.result(4)).index >= word)
            } else {
                #expect(left > 58_000, "\(left) ms")
                guard case .notLeader? = host.refusal(4) else {
                    Issue.record("\(String(describing: host.answer(4)))")
                    continue
                }
            }
        }
        let host = trio.hosts[leader]
        host.sessions(.meta, .local, token: 5)
        host.sessions(group, .local, in: slot(of: "k" as Bytes), token: 6)
        host.sessions(group, .local, query: "\u{2}", token: 7)
        try trio.tick(2)
        for (token, text) in [(5 as UInt64, "group 0 has no sessions"), (6, "as a whole"), (7, "of kind 1")] {
            guard case .invalid(let found)? = host.refusal(token), found.contains(text) else {
                Issue.record("\(text): \(String(describing: host.answer(token)))")
                continue
            }
        }
    }

    @Test func withoutAQuorumNobodyEnds() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        _ = try open(trio, leader, timeToLive: 5_000, token: 1)
        for place in trio.hosts.indices where place != leader { trio.cut(place) }
        try trio.tick(400)
        for place in trio.hosts.indices where place != leader { trio.join(place) }
        try trio.tick(40)
        #expect(trio.hosts.map { count($0) } == [1, 1, 1], "time stood still for twenty seconds")
    }
}

extension TestHost {
    fileprivate func sessions(
        _ group: GroupID, _ consistency: Consistency, in slot: Slot = .group,
        query: Bytes = SessionQuery().encoded(), token: UInt64
    ) {
        core(of: group).query(
            QueryRequest(
                group: group, epoch: slot == .group ? .zero : Epoch(1), slot: slot, machine: .sessions,
                consistency: consistency, query: query),
            call: CallToken(rawValue: token))
    }

    func execute(_ payload: Bytes, _ slot: Slot, _ group: GroupID, token: UInt64) {
        core(of: group).execute(
            ExecuteRequest(group: group, epoch: slot == .group ? .zero : Epoch(1), slot: slot, payload: payload),
            call: CallToken(rawValue: token))
    }
}
