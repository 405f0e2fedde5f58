import Foundation
import Primitives
import Ring
import Testing

/// Draining hosts on a model of what the meta group and the groups' leaders do with the steps.
@Suite struct MovesTests {
    private func map(
        hosts: Int, groups: Int, replicas: Int = 3, zones: Int = 1, weight: (Int) -> UInt32 = { _ in 100 }
    ) throws -> ClusterMap {
        let hosts = (1...hosts).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "10.0.0.1:\($0)", zone: "zone-\($0 % zones)",
                weight: weight($0), incarnation: Incarnation(UInt64($0) * 7))
        }
        return try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: replicas)
    }

    private func carryOut(_ step: Planner.Step, _ map: inout ClusterMap) {
        switch step {
        case .add(let id, let host, let role, let old):
            var group = map.group(id)!
            group.replicas.append(
                ReplicaRecord(id: map.nextReplica, host: host, role: role, membership: .absent, successorOf: old))
            map.nextReplica = ReplicaID(map.nextReplica.rawValue + 1)
            map.replace(group)
        case .leave(let id, let replica):
            var group = map.group(id)!
            for place in group.replicas.indices where group.replicas[place].id == replica {
                group.replicas[place].role = .leaving
            }
            if group.preferredLeader == replica {
                group.preferredLeader = group.replicas.first { $0.successorOf == replica }!.id
            }
            map.replace(group)
        case .prefer(let id, let replica):
            var group = map.group(id)!
            #expect(group.preferredLeader != replica)
            group.preferredLeader = replica
            map.replace(group)
        }
    }

    /// A group's leader goes on by one configuration, and reports it.
    private func advance(_ group: GroupRecord, _ map: inout ClusterMap) {
        var group = group
        group.configurationIndex = group.configurationIndex.next
        group.replicas.removeAll { $0.role == .leaving }
        for place in group.replicas.indices {
            switch (group.replicas[place].role, group.replicas[place].membership) {
            case (.voter, .absent), (.learner, _): group.replicas[place].membership = .learner
            default: group.replicas[place].membership = .voter
            }
            if group.record(of: group.replicas[place].successorOf) == nil { group.replicas[place].successorOf = .none }
        }
        map.replace(group)
    }

    private func drain(_ map: inout ClusterMap, movesMax: Int, seed: UInt64) throws -> (adds: Int, rounds: Int) {
        var random = SeededRandom(seed: seed)
        var adds = 0
        for round in 0..<100_000 {
            let plan = Planner.moves(map, movesMax: movesMax)
            if plan.isDone { return (adds, round) }
            for step in plan.steps {
                // A crash of the one that plans: some steps are lost, and come again.
                guard random.below(4) > 0 else { continue }
                if case .add = step { adds += 1 }
                carryOut(step, &map)
            }
            let moving = map.groups.filter { group in
                group.replicas.contains { !$0.isSettled || $0.successorOf != .none }
            }
            #expect(moving.count <= movesMax)
            for group in moving where random.below(3) > 0 { advance(group, &map) }
            if let problem = map.problem() {
                Issue.record("\(problem)")
                break
            }
        }
        Issue.record("never done")
        return (adds, 0)
    }

    @Test func whoDoesNotAnswerGetsNothingAndIsNotWaitedForForEver() throws {
        var map = try map(hosts: 5, groups: 20)
        var host = map.hosts[0]
        host.state = .draining
        map.replace(host)
        let away = [HostID(4)]
        var plan = Planner.moves(map, movesMax: 100, away: away)
        #expect(plan.steps.count == map.replicas(on: HostID(1)).count)
        for case .add(_, let target, _, _) in plan.steps {
            #expect(target == HostID(2) || target == HostID(3) || target == HostID(5))
        }

        // Begun while it still answered: it holds up nobody, and when it is lost it goes elsewhere.
        for step in Planner.moves(map, movesMax: 100).steps { carryOut(step, &map) }
        let stuck = map.groups.count { $0.replicas.contains { $0.host == HostID(4) && !$0.isSettled } }
        try #require(stuck > 0)
        for _ in 0..<10 {
            for group in map.groups where group.replicas.allSatisfy({ $0.isSettled || $0.host != HostID(4) }) {
                advance(group, &map)
            }
            for step in Planner.moves(map, movesMax: 0, away: away).steps { carryOut(step, &map) }
        }
        var second = map.hosts[1]
        second.state = .draining
        map.replace(second)
        plan = Planner.moves(map, movesMax: 2, away: away)
        #expect(
            plan.steps.contains { if case .add = $0 { true } else { false } }, "what waits for host 4 takes no place")
        #expect(!plan.steps.contains { if case .add(_, HostID(4), _, _) = $0 { true } else { false } })

        plan = Planner.moves(map, movesMax: 2, away: away, lost: away)
        let givenUp = plan.steps.filter { step in
            guard case .leave(let group, let replica) = step else { return false }
            return map.group(group)?.host(of: replica) == HostID(4)
        }
        #expect(givenUp.count == stuck)
        for step in givenUp { carryOut(step, &map) }
        for _ in 0..<1_000 {
            let plan = Planner.moves(map, movesMax: 3, away: away, lost: away)
            if plan.isDone { break }
            for step in plan.steps { carryOut(step, &map) }
            for group in map.groups
            where !group.isSettled || group.replicas.contains(where: { $0.successorOf != .none }) {
                advance(group, &map)
            }
        }
        #expect(map.problem() == nil)
        #expect(map.replicas(on: HostID(1)).isEmpty, "\(Planner.moves(map, movesMax: 3, away: away, lost: away))")

        // Where nobody else is left, it is said whom it waits for.
        let waiting = Planner.moves(map, movesMax: 3, away: [HostID(3), HostID(4), HostID(5)]).waiting
        #expect(
            waiting.allSatisfy { $0.why.contains("does not answer") || $0.why.contains("have a replica") }, "\(waiting)"
        )
    }

    @Test(arguments: 1...12) func drainedHostsGetEmptyWithOneMoveForEachReplica(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let zones = 1 + Int(random.below(4))
        let hosts = 6 + Int(random.below(10))
        let replicas = 1 + Int(random.below(3))
        let groups = 1 + Int(random.below(40))
        var map = try map(hosts: hosts, groups: groups, replicas: replicas, zones: zones)
        let before = map
        let drained = [HostID(1 + random.below(3)), HostID(4 + random.below(2))]
        for id in drained {
            var host = map.host(id)!
            host.state = .draining
            map.replace(host)
        }
        let expected = drained.reduce(0) { $0 + map.replicas(on: $1).count }
        let movesMax = 1 + Int(random.below(5))
        let (adds, _) = try drain(&map, movesMax: movesMax, seed: UInt64(seed))
        #expect(adds == expected)
        let zonesLeft = Set(map.hosts.filter { $0.state == .active }.map(\.zone)).count
        for group in map.groups {
            #expect(group.isSettled && group.replicas.count == replicas)
            #expect(!group.replicas.contains { drained.contains($0.host) || $0.successorOf != .none })
            let kept = before.group(group.id)!.replicas.filter { !drained.contains($0.host) }
            #expect(kept.allSatisfy { group.replicas.contains($0) }, "what need not move stays")
            let used = Set(group.replicas.map { map.host($0.host)!.zone }).count
            let usedBefore = Set(kept.map { map.host($0.host)!.zone }).count
            #expect(used >= min(zonesLeft, replicas, usedBefore + replicas - kept.count))
        }
    }

    @Test func whatMovesGoesWhereThereIsLeast() throws {
        var map = try map(hosts: 9, groups: 90) { $0 == 9 ? 0 : $0 == 8 ? 50 : 100 }
        var host = map.host(HostID(1))!
        host.state = .draining
        map.replace(host)
        _ = try drain(&map, movesMax: 7, seed: 1)
        let counts = (2...9).map { map.replicas(on: HostID(UInt64($0))).count }
        // 273 replicas over weights of 650.
        #expect(counts[..<6].allSatisfy { (41...43).contains($0) } && (20...22).contains(counts[6]), "\(counts)")
        #expect(counts[7] == 0)
    }

    @Test(
        arguments: [
            (4, [100, 100, 100, 100]), (5, [100, 100, 100, 100, 100]), (5, [50, 100, 100, 200, 100]),
        ] as [(Int, [UInt32])])
    func leadsOfADrainedHostGoToThoseThatLeadLeast(hosts: Int, weights: [UInt32]) throws {
        var map = try map(hosts: hosts, groups: 60) { weights[$0 - 1] }
        #expect(Planner.leaders(map).isEmpty)
        let before = map
        var host = map.host(HostID(2))!
        host.state = .draining
        map.replace(host)
        _ = try drain(&map, movesMax: 4, seed: 7)
        func leads(_ map: ClusterMap) -> [Int] {
            map.hosts.map { host in map.dataGroups.count { $0.host(of: $0.preferredLeader) == host.id } }
        }
        // What did not lead on the drained host leads where it did.
        for group in before.dataGroups where group.host(of: group.preferredLeader) != HostID(2) {
            #expect(map.group(group.id)?.preferredLeader == group.preferredLeader)
        }
        let sum = map.hosts.reduce(0) { $0 + ($1.state == .active ? Double($1.weight) : 0) }
        for (host, count) in zip(map.hosts, leads(map)) {
            let share = host.state == .active ? 60 * Double(host.weight) / sum : 0
            // Of more hosts not all have a replica of each group.
            #expect(
                abs(Double(count) - share) <= (hosts == 4 ? 1 : 2),
                "host \(host.id): \(leads(map)), before \(leads(before))")
        }
    }

    @Test func aMoveWhoseOldReplicaAloneVotesSaysSo() throws {
        var map = try map(hosts: 2, groups: 1, replicas: 1)
        let old = map.groups[1].replicas[0]
        var host = map.host(old.host)!
        host.state = .draining
        map.replace(host)
        let free = map.hosts.first { $0.id != old.host }!.id
        carryOut(.add(GroupID(1), host: free, role: .voter, successorOf: old.id), &map)
        for _ in 0..<2 { advance(map.groups[1], &map) }
        #expect(Planner.moves(map, movesMax: 9).steps.contains(.leave(GroupID(1), old.id)))
        // Somebody demotes the successor: nobody else votes.
        var group = map.groups[1]
        for place in group.replicas.indices where group.replicas[place].host == free {
            group.replicas[place].role = .learner
            group.replicas[place].membership = .learner
        }
        map.replace(group)
        let plan = Planner.moves(map, movesMax: 9)
        #expect(!plan.steps.contains(.leave(GroupID(1), old.id)) && !plan.isDone)
        #expect(
            plan.waiting.first { $0.group == GroupID(1) }?.why
                == "another replica that is to vote: replica \(old.id) on host \(old.host) is the only one, and can't leave"
        )
    }

    @Test func aMoveUnderWayGoesOnAndSaysWhatItWaitsFor() throws {
        var map = try map(hosts: 4, groups: 2)
        let group = map.groups[1]
        let old = group.replicas[0]
        var host = map.host(old.host)!
        host.state = .draining
        map.replace(host)
        let free = map.hosts.first { group.replica(on: $0.id) == nil }!.id
        func plan(_ movesMax: Int = 1) -> Planner.MovePlan { Planner.moves(map, movesMax: movesMax) }
        func why() -> String { plan().waiting.first { $0.group == group.id }?.why ?? "" }
        #expect(plan(0).steps.isEmpty && plan(0).waiting.allSatisfy { $0.why.contains("its turn: 0 groups") })
        let add = Planner.Step.add(group.id, host: free, role: .voter, successorOf: old.id)
        #expect(plan(9).steps.contains(add))
        carryOut(add, &map)
        #expect(plan().steps.isEmpty, "one group is on its way, and the others wait")
        #expect(why().contains("has not added it as a learner yet"))
        advance(map.group(group.id)!, &map)
        #expect(why().contains("catches up"))
        advance(map.group(group.id)!, &map)
        // The new host is preferred by the other group already, and another one by none.
        let heir = group.replicas[1].id
        #expect(plan().steps == [.prefer(group.id, heir)])
        carryOut(.prefer(group.id, heir), &map)
        #expect(plan().steps == [.leave(group.id, old.id)])
        carryOut(.leave(group.id, old.id), &map)
        #expect(plan().steps.isEmpty && why().contains("\(old.id) on host \(old.host), which is to leave"))
        advance(map.group(group.id)!, &map)
        #expect(!plan().waiting.contains { $0.group == group.id })
        #expect(map.group(group.id)!.isSettled && map.group(group.id)!.replica(on: old.host) == nil)
    }

    @Test func withoutAHostThatCanTakeItAGroupSaysWhy() throws {
        var map = try map(hosts: 4, groups: 2) { $0 == 4 ? 0 : 100 }
        var host = map.host(HostID(1))!
        host.state = .draining
        map.replace(host)
        let plan = Planner.moves(map, movesMax: 9)
        #expect(plan.steps.isEmpty && plan.waiting.map(\.group) == map.groups.map(\.id))
        #expect(
            plan.waiting[0].why.contains(
                "of 4 hosts 1 are draining, 1 have weight 0, and 2 have a replica of the group"), "\(plan.waiting)")
    }

    @Test func aThousandHostsAndTenThousandGroups() throws {
        var map = try map(hosts: 1_000, groups: 10_000, zones: 10)
        for number in 1...100 as ClosedRange<UInt64> {
            var host = map.host(HostID(number * 10))!
            host.state = .draining
            map.replace(host)
        }
        // Of this thread alone: others may have the processor meanwhile.
        func seconds(_ body: () -> Void) -> Double {
            func now() -> Double {
                var time = timespec()
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
                return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
            }
            let begin = now()
            body()
            return now() - begin
        }
        var plan: Planner.MovePlan?
        let duration = seconds { plan = Planner.moves(map, movesMax: 1_000) }
        #expect(plan?.steps.count == 1_000)
        #expect(duration < 5)
        var choices: [Planner.LeaderChoice] = []
        let second = seconds { choices = Planner.leaders(map) }
        #expect(second < 20)
        let drained = map.groups.filter { map.host($0.host(of: $0.preferredLeader)!)!.state == .draining }
        #expect(choices.count >= drained.count)
    }
}

@Suite struct LeaderChoiceTests {
    private func map(hosts: Int, groups: Int, weight: (Int) -> UInt32 = { _ in 100 }) throws -> ClusterMap {
        let hosts = (1...hosts).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "10.0.0.1:\($0)", weight: weight($0),
                incarnation: Incarnation(UInt64($0) * 7))
        }
        return try Planner.firstMap(cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3)
    }

    private func carryOut(_ choices: [Planner.LeaderChoice], _ map: inout ClusterMap) {
        for choice in choices {
            var group = map.group(choice.group)!
            group.preferredLeader = choice.replica
            map.replace(group)
        }
        #expect(map.problem() == nil)
    }

    private func counts(_ map: ClusterMap) -> [Int] {
        map.hosts.map { host in map.dataGroups.count { $0.host(of: $0.preferredLeader) == host.id } }
    }

    @Test func aFirstMapNeedsNone() throws {
        for hosts in 3...8 { #expect(Planner.leaders(try map(hosts: hosts, groups: 40)).isEmpty) }
    }

    @Test func leadsOfAHostThatDrainsGoToTheOthersEvenlyAndNoOthersMove() throws {
        var map = try map(hosts: 6, groups: 100)
        var host = map.host(HostID(2))!
        host.state = .draining
        map.replace(host)
        let drained = map.groups.filter { $0.host(of: $0.preferredLeader) == HostID(2) }
        let choices = Planner.leaders(map)
        #expect(choices.count >= drained.count && choices.count <= 2 * drained.count)
        carryOut(choices, &map)
        let counts = counts(map)
        #expect(counts[1] == 0 && counts.max()! == 20, "\(counts)")
        #expect(Planner.leaders(map).isEmpty)
        // Back again: leads come back, as many as there must.
        host.state = .active
        map.replace(host)
        carryOut(Planner.leaders(map), &map)
        #expect((16...17).contains(self.counts(map)[1]), "\(self.counts(map))")
    }

    @Test func weightsCount() throws {
        var map = try map(hosts: 4, groups: 90)
        for id in 1...4 as ClosedRange<UInt64> {
            var host = map.host(HostID(id))!
            host.weight = id == 1 ? 0 : id == 2 ? 50 : 100
            map.replace(host)
        }
        carryOut(Planner.leaders(map), &map)
        #expect(counts(map) == [0, 18, 36, 36])
    }

    /// A host comes and gets replicas that lead nothing: as many leads change as it is to have, and no more.
    @Test(arguments: [(weight: 100, share: 10), (50, 6), (200, 16), (0, 0)] as [(weight: UInt32, share: Int)])
    func aNewHostGetsItsShareWithTheFewestChanges(weight: UInt32, share: Int) throws {
        var map = try map(hosts: 4, groups: 40) { $0 == 4 ? 0 : 100 }
        #expect(counts(map)[3] == 0)
        var host = map.host(HostID(4))!
        host.weight = weight
        map.replace(host)
        // In each group the host takes the place of one that does not lead.
        for var group in map.dataGroups {
            let place = group.replicas.firstIndex { $0.id != group.preferredLeader }!
            group.replicas[place] = ReplicaRecord(id: map.nextReplica, host: HostID(4))
            map.nextReplica = ReplicaID(map.nextReplica.rawValue + 1)
            group.replicas.sort { $0.id < $1.id }
            map.replace(group)
        }
        let choices = Planner.leaders(map)
        #expect(choices == Planner.leaders(map) && choices.map(\.group) == choices.map(\.group).sorted())
        #expect((share - 1...share + 1).contains(choices.count), "\(choices.count) change")
        #expect(choices.allSatisfy { map.group($0.group)?.host(of: $0.replica) == HostID(4) })
        carryOut(choices, &map)
        #expect(Planner.leaders(map).isEmpty)
        let sum = 300 + Double(weight)
        for (host, count) in zip(map.hosts, counts(map)) {
            #expect(abs(Double(count) - 40 * Double(host.weight) / sum) <= 1, "\(counts(map))")
        }
    }

    @Test func whoDoesNotVoteOrIsToGoIsNotPreferred() throws {
        let first = try map(hosts: 3, groups: 1)
        let present = first.groups[1].preferredLeader
        func choice(_ change: (inout GroupRecord, Int) -> Void) -> [Planner.LeaderChoice] {
            var map = first
            let place = map.groups[1].replicas.firstIndex { $0.id == present }!
            change(&map.groups[1], place)
            return Planner.leaders(map)
        }
        #expect(choice { _, _ in }.isEmpty)
        let others = first.groups[1].replicas.map(\.id).filter { $0 != present }
        for choices in [
            choice { $0.replicas[$1].membership = .learner },
            choice { group, place in
                group.replicas[place == 0 ? 1 : 0].successorOf = present
            },
        ] {
            #expect(choices.map(\.group) == [GroupID(1)] && choices.allSatisfy { others.contains($0.replica) })
        }
        // Nobody may: it stays as it is.
        #expect(
            choice { group, _ in for place in group.replicas.indices { group.replicas[place].membership = .learner } }
                .isEmpty)
    }
}
