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
                if case .invalid(let why)? = host.refusal(token), !why.contains("no cluster yet") {
                    host.refusal(token)
                } else {
                    nil
                }
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
        for key in keys where trio.map.owner(of: slot(of: Bytes("key \(key)"))) == group {
            let leader = try trio.leader(of: group)
            trio.hosts[leader].put("key \(key)", "value \(key)", group: group, token: UInt64(10_000 + key))
            try trio.tick(2)
            #expect(trio.hosts[leader].isDone(UInt64(10_000 + key)), "key \(key)")
        }
    }

    private func replica(_ trio: Trio, on host: Int) throws -> ReplicaID {
        try #require(try record(trio).replica(on: trio.hosts[host].id))
    }

    /// Places of the hosts that have a replica of the group, and of the one that has none.
    private func places(_ trio: Trio) throws -> (members: [Int], spare: Int) {
        let hosts = try record(trio).replicas.map { Int($0.host.rawValue) - 1 }
        return (hosts, try #require((0..<4).first { !hosts.contains($0) }))
    }

    private func expectEqual(_ trio: Trio) throws {
        try trio.tick(40)
        let digests = try places(trio).members.map { trio.hosts[$0].inspection(of: group)?.digest }
        #expect(Set(digests).count == 1 && digests[0] != nil, "\(digests)")
    }

    @Test func aReplicaMovesToAnotherHostAndTheOldOneLeavesNothing() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...20)
        let (members, spare) = try places(trio)
        let from = members[2]
        let old = try replica(trio, on: from)
        try change(
            trio, .addReplica(group, host: trio.hosts[spare].id, role: .voter, successorOf: old), token: 1)
        try wait(trio, "the move") {
            let record = try record(trio)
            return record.record(of: old) == nil && record.isSettled && trio.hosts[from].inspection(of: group) == nil
        }
        #expect(Set(try places(trio).members) == Set([members[0], members[1], spare]))
        #expect(trio.hosts[from].store.manifest(of: old) == nil)
        #expect(trio.hosts[from].journal.log(of: old)?.isTombstone == true)
        try write(trio, 21...30)
        try expectEqual(trio)
        // All hosts have the same map by now.
        #expect(Set(trio.hosts.map { $0.core.map?.version }).count == 1)
    }

    @Test func aGroupGoesOnWithNewMembersWhenTheOldOnesAreGone() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...10)
        let (members, spare) = try places(trio)
        try change(trio, .addReplica(group, host: trio.hosts[spare].id, role: .voter, successorOf: .none), token: 1)
        try wait(trio, "four voters") { try record(trio).isSettled && record(trio).replicas.count == 4 }
        // Three of four decide without one of the founders.
        let leader = try trio.leader(of: group)
        let away = try #require(members.first { $0 != leader })
        trio.cut(away)
        try write(trio, 11...20)
        let leaving = try replica(trio, on: away)
        try change(trio, .setRole(group, leaving, .leaving), token: 2)
        try wait(trio, "the removal") { try record(trio, at: spare).record(of: leaving) == nil }
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

    @Test func aMoveToAHostThatDiesGoesElsewhere() throws {
        let trio = try Trio(groups: 6, hosts: 5) { $0.moveNanoseconds = 5_000_000_000 }
        for number in 1...6 { _ = try trio.leader(of: GroupID(UInt32(number))) }
        try write(trio, 1...5)
        try change(trio, .setHostState(HostID(1), .draining), token: 1)
        // As soon as something is to come there, host 5 is gone for good.
        try wait(trio, seconds: 30, "a replica on its way to host 5") {
            trio.hosts[1].core.map?.groups.contains {
                $0.replicas.contains { $0.host == HostID(5) && $0.successorOf != .none && !$0.isSettled }
            } == true
        }
        trio.cut(4)
        try wait(trio, seconds: 120, "an empty host") {
            trio.hosts[0].core.replicaStatuses().isEmpty
                && trio.hosts[1].core.map?.replicas(on: HostID(1)).isEmpty == true
        }
        try write(trio, 6...10)
    }

    @Test func manyGroupsAreHandedOverAFewAtATime() throws {
        let trio = try Trio(groups: 24) { $0.handOversPerSecond = 2 }
        _ = try trio.leader()
        try trio.tick(60)
        let led = trio.hosts[0].core.leaderCount
        #expect(led >= 8)
        try change(trio, .setHostState(HostID(1), .draining), token: 1)
        var counts = [trio.hosts[0].core.leaderCount]
        try wait(trio, seconds: 40, "host 1 to lead nothing") {
            try trio.tick(19)
            counts.append(trio.hosts[0].core.leaderCount)
            return counts.last == 0
        }
        #expect(zip(counts, counts.dropFirst()).allSatisfy { $0 - $1 <= 2 }, "\(counts)")
        #expect(counts.count >= led / 2)
    }

    @Test func groupsComeAndGo() throws {
        let trio = try Trio(hosts: 4)
        try change(trio, .createGroup(weight: 100, hosts: [HostID(1), HostID(3), HostID(4)], preferred: 2), token: 1)
        let new = GroupID(2)
        try wait(trio, "a leader") { trio.hosts[3].inspection(of: new)?.isEstablished == true }
        #expect(trio.hosts[1].inspection(of: new) == nil)
        try change(trio, .deleteGroup(new), token: 2)
        try wait(trio, "its end") { trio.hosts.allSatisfy { $0.inspection(of: new) == nil } }
        #expect(trio.hosts.allSatisfy { $0.store.manifests().allSatisfy { $0.group != new } })
    }

    @Test func aReplicaWithADamagedLogIsReplacedOnItsHost() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...10)
        let leader = try trio.leader(of: group)
        let (members, spare) = try places(trio)
        let place = try #require(members.first { $0 != leader })
        let old = try replica(trio, on: place)
        trio.hosts[place].core.journalDamaged(group: group, "a test says so")
        try wait(trio, "another replica on this host") {
            let record = try record(trio, at: spare)
            let new = record.replica(on: trio.hosts[place].id)
            return new != old && new != nil && record.isSettled
        }
        try expectEqual(trio)
        #expect(trio.hosts[place].journal.log(of: old)?.isTombstone == true)
        try write(trio, 11...15)
    }

    /// A leader that rests checks no quorum. Who died meanwhile must not count for alive in the next change: with it and
    /// the leader as the only voters the group would stand still until it came back.
    @Test func whoDiedWhileItsLeaderRestedCountsForNothing() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...5)
        let leader = try trio.leader(of: group)
        let others = try places(trio).members.filter { $0 != leader }
        let leaving = try replica(trio, on: others[0])
        try trio.tick(60)
        trio.cut(others[1])
        try trio.tick(60)
        #expect(trio.hosts[leader].inspection(of: group)?.isActive == false)
        try change(trio, .setRole(group, leaving, .leaving), token: 1)
        try wait(trio, "the leader's map") { try !record(trio, at: leader).isSettled }
        try trio.tick(60)
        try write(trio, 6...40)
        #expect(try record(trio, at: leader).record(of: leaving) != nil, "nobody could take its place")
        // It comes about when the third is there again.
        trio.join(others[1])
        try wait(trio, "the removal") { trio.hosts[others[0]].inspection(of: group) == nil }
        try write(trio, 41...50)
    }

    /// One that stands still for another reason is off the list of those whose place is looked at.
    @Test func aDamagedLogOfAReplicaThatStandsStillIsReported() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...10)
        let leader = try trio.leader(of: group)
        let place = try #require(try places(trio).members.first { $0 != leader })
        let old = try replica(trio, on: place)
        trio.hosts[place].holdsStore = true
        trio.hosts[place].core.stateDamaged(group: group, "a test says so")
        try trio.tick(60)
        trio.hosts[place].core.journalDamaged(group: group, "a test says so")
        try wait(trio, "another replica in the map") {
            let new = try record(trio, at: place).replica(on: trio.hosts[place].id)
            return new != old && new != nil
        }
        trio.hosts[place].holdsStore = false
        try wait(trio, "another replica on this host") { try record(trio, at: leader).isSettled }
        try expectEqual(trio)
    }

    /// All of a host's, as after damage to its journal as a whole.
    @Test func aHostFullOfDamagedLogsIsFilledAnewAndAllRest() throws {
        let trio = try Trio(groups: 12)
        _ = try trio.leader()
        try trio.tick(60)
        let old = trio.map.dataGroups.map { ($0.id, $0.replica(on: trio.hosts[2].id)) }
        for (group, _) in old { trio.hosts[2].core.journalDamaged(group: group, "a test says so") }
        try wait(trio, seconds: 120, "other replicas on this host") {
            guard let map = trio.hosts[0].core.map else { return false }
            return old.allSatisfy { group, replica in
                let record = map.group(group)
                return record?.isSettled == true && record?.replica(on: trio.hosts[2].id) != replica
            }
        }
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        for (group, replica) in old {
            let all = trio.hosts.map { $0.inspection(of: group) }
            #expect(all.allSatisfy { $0?.isStopped == false && $0?.digest == all[0]?.digest }, "\(group)")
            #expect(all[2]?.replica != replica)
        }
    }

    /// A member that came with a map which its leader does not have yet counts among those that it leads: else the two
    /// hosts would agree on nothing until the map is there.
    @Test func aLeaderWithAnOlderMapAgreesWithTheHostOfANewMember() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...5)
        let (members, spare) = try places(trio)
        let meta = try #require(trio.map.group(.meta)).replicas.map { Int($0.host.rawValue) - 1 }
        // Maps come to this one from the others over the bulk connection.
        let late = try #require(members.first { !meta.contains($0) })
        func lead(at place: Int) throws {
            let leader = try trio.leader(of: group)
            let target = try replica(trio, on: place)
            trio.hosts[leader].core.transfer(group, to: target, call: CallToken(rawValue: 9))
            try trio.tick(10)
            #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
        }
        try lead(at: try #require(members.first { $0 != late }))
        for (other, host) in trio.hosts.enumerated() where other != late {
            host.core.peerDown(trio.hosts[late].id, over: .bulk)
            trio.hosts[late].core.peerDown(host.id, over: .bulk)
        }
        try change(trio, .addReplica(group, host: trio.hosts[spare].id, role: .voter, successorOf: .none), token: 1)
        try wait(trio, "the new voter") { try record(trio, at: spare).isSettled }
        try lead(at: late)
        let version = try #require(trio.hosts[spare].core.map).version
        #expect(try #require(trio.hosts[late].core.map).version < version)
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0, 0])
        for (other, host) in trio.hosts.enumerated() where other != late {
            host.core.peerUp(trio.hosts[late].id, over: .bulk, featureLevel: FeatureLevel.current)
        }
        try wait(trio, "the map") { trio.hosts[late].core.map?.version == version }
    }

    /// What its host named silent is nobody to hand a group to, even if it answered a moment ago.
    @Test func leadershipGoesToNobodyWhoStandsStill() throws {
        let trio = try Trio()
        try write(trio, 1...3)
        let leader = try trio.leader(of: group)
        let (sound, silent) = ((leader + 1) % 3, (leader + 2) % 3)
        func handOver(from place: Int, to target: ReplicaID, token: UInt64) throws {
            trio.hosts[place].core.transfer(group, to: target, call: CallToken(rawValue: token))
            try trio.tick(6)
            #expect(trio.hosts[place].isDone(token))
        }
        // The other's turn is longer ago.
        try handOver(from: leader, to: replica(trio, on: sound), token: 1)
        try handOver(from: sound, to: replica(trio, on: leader), token: 2)
        #expect(trio.hosts[leader].inspection(of: group)?.isEstablished == true)
        trio.hosts[silent].core.journalDamaged(group: group, "a test says so")
        try trio.tick(6)
        #expect(trio.hosts[silent].inspection(of: group)?.isStopped == true)
        try handOver(from: leader, to: .none, token: 3)
        #expect(trio.hosts[sound].inspection(of: group)?.isEstablished == true)
    }

    @Test func leadershipIsHandedOverOnRequest() throws {
        let trio = try Trio(hosts: 4)
        try write(trio, 1...3)
        let leader = try trio.leader(of: group)
        let place = try #require(try places(trio).members.first { $0 != leader })
        let other = try replica(trio, on: place)
        trio.hosts[leader].core.transfer(group, to: other, call: CallToken(rawValue: 5))
        try trio.tick(10)
        #expect(trio.hosts[leader].isDone(5))
        #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
        trio.hosts[leader].core.transfer(group, to: other, call: CallToken(rawValue: 6))
        try trio.tick(1)
        guard case .notLeader? = trio.hosts[leader].refusal(6) else {
            Issue.record("\(String(describing: trio.hosts[leader].answer(6)))")
            return
        }
    }
}
