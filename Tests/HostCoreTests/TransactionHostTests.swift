// Commands that read: what is not in memory is fetched, and only their group waits for it.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct TransactionHostTests {
    private let group = GroupID(1)

    /// "k" has the value "1", on disk alone, with every host.
    private func trio(groups: Int = 1, value: String = "1") throws -> (trio: Trio, leader: TestHost) {
        let trio = try Trio(groups: groups)
        let leader = trio.hosts[try trio.leader()]
        leader.put("{t}k", value, group: owner(in: trio), token: 1)
        try trio.tick(2)
        try #require(leader.isDone(1) || groups > 1)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(2)
        return (trio, leader)
    }

    private func owner(in trio: Trio) -> GroupID { trio.map.owner(of: slot(of: "t" as Bytes)) ?? group }

    private func outcome(_ host: TestHost, _ token: UInt64) throws -> KeyValueOutcome {
        try KeyValueOutcome(decoding: try #require(host.result(token)).body)
    }

    @Test func whatIsOnDiskAloneIsFetchedOnceOnEachHost() throws {
        let (trio, leader) = try trio()
        #expect(trio.hosts.allSatisfy { $0.inspection(of: group)?.manifestIndex ?? .zero > .zero })
        leader.execute(
            KeyValueTransaction(if: [.init("{t}k", .value("1"))], then: [.put(key: "{t}k", value: "2")]), group,
            token: 2)
        try trio.tick(4)
        #expect(try outcome(leader, 2).holds)
        #expect(trio.hosts.map(\.fetches) == [1, 1, 1])
        // It is in memory now.
        leader.execute(
            KeyValueTransaction(if: [.init("{t}k", .value("1"))], otherwise: [.get(key: "{t}k")]), group, token: 3)
        try trio.tick(4)
        let second = try outcome(leader, 3)
        #expect(!second.holds && trio.hosts.map(\.fetches) == [1, 1, 1])
        guard case .found("2", _, _) = second.readings.first else {
            Issue.record("\(second)")
            return
        }
        let states = trio.hosts.map { $0.inspection(of: group) }
        #expect(Set(states.map { $0?.digest }).count == 1 && Set(states.map { $0?.applied }).count == 1)
    }

    @Test func onlyItsGroupWaitsAndWhatComesBehindIsAppliedInOrder() throws {
        let trio = try Trio(groups: 2)
        let home = owner(in: trio)
        let other = GroupID(home == GroupID(1) ? 2 : 1)
        let otherKey = try #require(
            (0..<1_000).map(String.init).first { trio.map.owner(of: slot(of: Bytes($0))) == other })
        let leader = trio.hosts[try trio.leader(of: home)]
        leader.put("{t}k", "1", group: home, token: 1)
        try trio.tick(2)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(2)
        leader.holdsStateReads = true
        leader.execute(
            KeyValueTransaction(if: [.init("{t}k", .value("1"))], then: [.put(key: "{t}k", value: "2")]), home, token: 2
        )
        leader.put("{t}k", "3", group: home, token: 3)
        leader.execute(
            KeyValueTransaction(
                if: [.init("{t}l", .absent), .init("{t}k", .value("3"))], then: [.delete(key: "{t}k")]),
            home, token: 4)
        let otherLeader = trio.hosts[try trio.leader(of: other)]
        otherLeader.put(otherKey, "v", group: other, token: 5)
        try trio.tick(4)
        #expect(otherLeader.isDone(5))
        #expect(leader.answer(2) == nil && leader.answer(3) == nil && leader.answer(4) == nil)
        // The others have gone on; what this one has not applied it does not show.
        #expect(trio.hosts.filter { $0 !== leader }.allSatisfy { $0.fetches == 1 })
        leader.get("{t}k", group: home, token: 6)
        try trio.tick(2)
        #expect(leader.answer(6) == nil)
        leader.holdsStateReads = false
        try trio.tick(2)
        #expect(try outcome(leader, 2).holds && leader.isDone(3) && outcome(leader, 4).holds)
        // What the third needed was fetched with the first.
        #expect(leader.fetches == 1)
        #expect(try KeyValueReading(decoding: try #require(leader.result(6)).body) == .absent)
        #expect(Set(trio.hosts.map { $0.inspection(of: home)?.digest }).count == 1)
    }

    @Test func aCheckpointMeanwhileIsNoHarm() throws {
        let (trio, leader) = try trio()
        leader.put("{t}k", "2", group: group, token: 2)
        try trio.tick(2)
        // "2" is frozen and on its way, "1" on disk.
        leader.holdsStore = true
        leader.core.checkpointAll()
        try leader.turn()
        leader.holdsStateReads = true
        leader.execute(
            KeyValueTransaction(
                if: [.init("{t}k", .value("2")), .init("{t}l", .absent)], then: [.put(key: "{t}k", value: "3")]),
            group, token: 3)
        try trio.tick(2)
        #expect(leader.answer(3) == nil && leader.fetches == 1)
        leader.holdsStore = false
        try leader.doJobs()
        try trio.tick(1)
        // What is on disk is another run now: it is read anew.
        #expect(leader.fetches == 2)
        leader.holdsStateReads = false
        try trio.tick(2)
        #expect(try outcome(leader, 3).holds)
    }

    @Test func valuesThatAreLargeTogetherComeInPieces() throws {
        let trio = try Trio()
        let leader = trio.hosts[try trio.leader()]
        let value = String(repeating: "v", count: 1_000_000)
        for number in 0..<7 { leader.put("{t}\(number)", value, group: group, token: UInt64(number + 1)) }
        try trio.tick(4)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(4)
        leader.execute(
            KeyValueTransaction(if: (0..<7).map { .init(Bytes("{t}\($0)"), .present) }, then: [.get(key: "{t}6")]),
            group,
            token: 10)
        try trio.tick(4)
        #expect(try outcome(leader, 10).holds && leader.fetches == 2)
    }

    @Test func whoFindsDamageAndCantBeDoneWithoutVotesForOneWhoCanApply() throws {
        let (trio, leader) = try trio(value: String(repeating: "v", count: 2_000))
        let place = try #require(trio.hosts.firstIndex { $0 === leader })
        let (heir, away) = ((place + 1) % 3, (place + 2) % 3)
        trio.cut(away)
        try trio.tick(20)
        let disk = leader.storeDisk
        for (key, value) in disk.contents() where value.count > 500 { disk.flipBit(in: key, bit: 8 * value.count / 2) }
        let change = KeyValueTransaction(if: [.init("{t}k", .present)], then: [.put(key: "{t}k", value: "2")])
        leader.execute(change, group, token: 2)
        try trio.tick(60)
        #expect(trio.hosts[heir].inspection(of: group)?.role == .leader)
        #expect(
            !leader.isDone(2) && leader.notices.contains { $0.contains("it gets another member's") })
        trio.hosts[heir].put("{t}l", "3", group: group, token: 3)
        try trio.tick(20)
        #expect(trio.hosts[heir].isDone(3), "it votes and acknowledges")
        trio.join(away)
        try trio.tick(400)
        #expect(
            Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1,
            "and is rebuilt when others are a majority")
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.applied }).count == 1)
    }

    @Test func whoFindsDamageIsRebuiltAndTheOthersGoOn() throws {
        let (trio, leader) = try trio(value: String(repeating: "v", count: 2_000))
        let host = try #require(trio.hosts.first { $0 !== leader })
        let disk = host.storeDisk
        for (key, value) in disk.contents() where value.count > 500 { disk.flipBit(in: key, bit: 8 * value.count / 2) }
        leader.execute(
            KeyValueTransaction(if: [.init("{t}k", .present)], then: [.put(key: "{t}k", value: "2")]), group, token: 2)
        try trio.tick(4)
        #expect(try outcome(leader, 2).holds)
        #expect(host.notices.contains { $0.contains("on disk of its state is damaged") }, "\(host.notices)")
        try trio.tick(300)
        #expect(host.notices.contains { $0.contains("goes on from a snapshot") }, "\(host.notices)")
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.applied }).count == 1)
    }
}

extension TestHost {
    fileprivate func execute(_ transaction: KeyValueTransaction, _ group: GroupID, token: UInt64) {
        guard let key = transaction.keys.first else { return }
        core(of: group).execute(
            ExecuteRequest(group: group, epoch: Epoch(1), slot: slot(of: key), payload: transaction.payload()),
            call: CallToken(rawValue: token))
    }
}
