// Members that come and go: the map says what is wanted, leaders carry it out, and what is out leaves nothing behind.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct MembershipHostTests {
    private let group = GroupID(1)

    /// Four hosts of which the groups have three; every host is asked until the meta group's leader takes the command.
    private func change(_ trio: Trio, _ change: MapChange, token: UInt64) throws {
        for _ in 0..<100 {
            for host in trio.hosts {
                host.core.administer(MetaCommand.change(change).payload(), call: CallToken(rawValue: token))
            }
            try trio.tick()
            if trio.hosts.contains(where: { $0.isDone(token) }) { return }
            if let refusal = trio.hosts.lazy.compactMap({ host -> Refusal? in
                if case .invalid? = host.refusal(token) { host.refusal(token) } else { nil }
            }).first {
                throw DiskError(.misuse, "\(refusal)")
            }
        }
        throw DiskError(.misuse, "nobody took the command")
    }

    private func record(_ trio: Trio, at place: Int = 0) throws -> GroupRecord {
        try #require(trio.hosts[place].core.map?.group(group))
    }

    private func wait(_ trio: Trio, seconds: Int = 30, _ what: String, until isSo: () throws -> Bool) throws {
        for _ in 0..<(20 * seconds) {
            if try isSo() { return }
            try trio.tick()
        }
        Issue.record("waited \(seconds) s for: \(what)")
    }

    private func write(_ trio: Trio, _ keys: ClosedRange<Int>) throws {
        for key in keys {
            let leader = try trio.leader(of: group)
            trio.hosts[leader].put("key \(key)", "value \(key)", group: group, token: UInt64(10_000 + key))
            try trio.tick(2)
            #expect(trio.hosts[leader].isDone(UInt64(10_000 + key)), "key \(key)")
        }
    }

    private func replica(_ trio: Trio, on host: Int) throws -> ReplicaID {
        try #require(try record(trio).replica(on: trio.hosts[host].id))
    }

    @Test func aReplicaMovesToAnotherHostAndTheOldOneLeavesNothing() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...20)
        let old = try replica(trio, on: 2)
        try change(
            trio, .addReplica(group, host: HostID(4), role: .voter, successorOf: old), token: 1)
        try wait(trio, "the move") {
            let record = try record(trio)
            return record.replica(on: HostID(3)) == nil && record.isSettled
                && trio.hosts[2].inspection(of: group) == nil
        }
        #expect(try record(trio).replicas.map(\.host) == [HostID(1), HostID(2), HostID(4)])
        #expect(trio.hosts[2].store.manifest(of: old) == nil)
        #expect(trio.hosts[2].journal.log(of: old)?.isTombstone == true)
        try write(trio, 21...30)
        try trio.tick(40)
        let digests = [0, 1, 3].map { trio.hosts[$0].inspection(of: group)?.digest }
        #expect(Set(digests).count == 1 && digests[0] != nil, "\(digests)")
        // All hosts have the same map by now.
        #expect(Set(trio.hosts.map { $0.core.map?.version }).count == 1)
    }

    @Test func aGroupGoesOnWithNewMembersWhenTheOldOnesAreGone() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...10)
        try change(trio, .addReplica(group, host: HostID(4), role: .voter, successorOf: .none), token: 1)
        try wait(trio, "four voters") { try record(trio).isSettled && record(trio).replicas.count == 4 }
        // Three of four decide without one of the founders.
        let leader = try trio.leader(of: group)
        let away = leader == 0 ? 1 : 0
        trio.cut(away)
        try write(trio, 11...20)
        let leaving = try replica(trio, on: away)
        try change(trio, .setRole(group, leaving, .leaving), token: 2)
        try wait(trio, "the removal") { try record(trio, at: 3).record(of: leaving) == nil }
        // It comes back, is told, and goes.
        trio.join(away)
        try wait(trio, "the end of what was removed") { trio.hosts[away].inspection(of: group) == nil }
        #expect(trio.hosts[away].store.manifest(of: leaving) == nil)
        try write(trio, 21...25)
    }

    @Test func aDrainedHostGetsEmptyAndLeadsNothing() throws {
        let trio = try Trio(groups: 3, hosts: 4)
        for number in 1...3 { _ = try trio.leader(of: GroupID(UInt32(number))) }
        try write(trio, 1...5)
        try change(trio, .setHostState(HostID(1), .draining), token: 1)
        try wait(trio, seconds: 120, "an empty host") {
            trio.hosts[0].core.replicaStatuses().isEmpty
                && trio.hosts[1].core.map?.replicas(on: HostID(1)).isEmpty == true
        }
        try write(trio, 6...10)
        try change(trio, .removeHost(HostID(1)), token: 2)
    }

    @Test func groupsComeAndGo() throws {
        let trio = try Trio(hosts: 4)
        try change(trio, .createGroup(weight: 100, hosts: [HostID(1), HostID(3), HostID(4)], preferred: 2), token: 1)
        let new = GroupID(2)
        try wait(trio, "a leader") { trio.hosts[3].inspection(of: new)?.isEstablished == true }
        #expect(trio.hosts[1].inspection(of: new) == nil)
        try change(trio, .deleteGroup(new), token: 2)
        try wait(trio, "its end") { trio.hosts.allSatisfy { $0.inspection(of: new) == nil } }
        #expect(trio.hosts.allSatisfy { $0.store.manifests().count <= 2 })
    }

    @Test func aReplicaWithADamagedLogIsReplacedOnItsHost() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...10)
        let leader = try trio.leader(of: group)
        let place = (leader + 1) % 3
        let old = try replica(trio, on: place)
        trio.hosts[place].core.journalDamaged(group: group, "a test says so")
        try wait(trio, "another replica on this host") {
            let record = try record(trio, at: 3)
            let new = record.replica(on: trio.hosts[place].id)
            return new != old && new != nil && record.isSettled
        }
        try trio.tick(40)
        let digests = (0..<3).map { trio.hosts[$0].inspection(of: group)?.digest }
        #expect(Set(digests).count == 1 && digests[0] != nil, "\(digests)")
        #expect(trio.hosts[place].journal.log(of: old)?.isTombstone == true)
        try write(trio, 11...15)
    }

    @Test func leadershipIsHandedOverOnRequest() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...3)
        let leader = try trio.leader(of: group)
        let other = try replica(trio, on: (leader + 1) % 3)
        trio.hosts[leader].core.transfer(group, to: other, call: CallToken(rawValue: 5))
        try trio.tick(10)
        #expect(trio.hosts[leader].isDone(5))
        #expect(trio.hosts[(leader + 1) % 3].inspection(of: group)?.isEstablished == true)
        trio.hosts[leader].core.transfer(group, to: other, call: CallToken(rawValue: 6))
        try trio.tick(1)
        guard case .notLeader? = trio.hosts[leader].refusal(6) else {
            Issue.record("\(String(describing: trio.hosts[leader].answer(6)))")
            return
        }
    }
}
