import Primitives
import Ring
import TestSupport
import Testing

@Suite struct PlacementTests {
    private func hosts(_ count: Int, zones: Int = 1, weight: (Int) -> UInt32 = { _ in 100 }) -> [HostRecord] {
        (1...count).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "10.0.0.1:\($0)", zone: "zone-\($0 % zones)",
                weight: weight($0), incarnation: Incarnation(UInt64($0) * 7))
        }
    }

    private func groups(_ count: Int) -> [GroupID] { (0...count).map { GroupID(UInt32($0)) } }

    private func counts(_ placed: [GroupRecord], hosts: Int, _ count: (GroupRecord) -> [HostID]) -> [Int] {
        var counts = Array(repeating: 0, count: hosts)
        for group in placed where group.id != .meta { for host in count(group) { counts[Int(host.rawValue) - 1] += 1 } }
        return counts
    }

    private func leaders(_ placed: [GroupRecord], hosts: Int) -> [Int] {
        counts(placed, hosts: hosts) { [$0.host(of: $0.preferredLeader)!] }
    }

    @Test func replicasAreOnDistinctHostsAndEvenAndSoAreLeaders() throws {
        for hostCount in 1...12 {
            for replicas in 1...min(5, hostCount) {
                for groupCount in [1, 2, 3, 7, 16, 33, 100] {
                    let placed = try Planner.placement(
                        hosts: hosts(hostCount), groups: groups(groupCount), replicas: replicas,
                        firstReplica: ReplicaID(10))
                    #expect(placed.map(\.id) == groups(groupCount))
                    var next: UInt64 = 10
                    for group in placed {
                        #expect(group.replicas.count == replicas)
                        #expect(Set(group.replicas.map(\.host)).count == replicas)
                        for replica in group.replicas {
                            #expect(replica.id == ReplicaID(next))
                            next += 1
                        }
                    }
                    let replicaCounts = counts(placed, hosts: hostCount) { $0.replicas.map(\.host) }
                    #expect(
                        replicaCounts.max()! - replicaCounts.min()! <= 1,
                        "\(hostCount) hosts, \(replicas) replicas: \(replicaCounts)")
                    let leaderCounts = leaders(placed, hosts: hostCount)
                    #expect(
                        leaderCounts.max()! - leaderCounts.min()! <= 1,
                        "\(hostCount) hosts, \(groupCount) groups: \(leaderCounts)")
                }
            }
        }
    }

    @Test func threeHostsAndSixteenGroupsLeadFiveFiveSixAndTheMetaGroupGoesToOneOfTheFives() throws {
        let placed = try Planner.placement(hosts: hosts(3), groups: groups(16), replicas: 3, firstReplica: ReplicaID(1))
        #expect(leaders(placed, hosts: 3).sorted() == [5, 5, 6])
        let meta = placed[0]
        #expect(meta.id == .meta && meta.weight == 0)
        #expect(leaders(placed, hosts: 3)[Int(meta.host(of: meta.preferredLeader)!.rawValue) - 1] == 5)
    }

    @Test func zonesAreRespected() throws {
        for zones in 2...5 {
            for replicas in 1...5 {
                let hosts = hosts(15, zones: zones)
                let placed = try Planner.placement(
                    hosts: hosts, groups: groups(60), replicas: replicas, firstReplica: ReplicaID(1))
                for group in placed {
                    var perZone: [String: Int] = [:]
                    for replica in group.replicas {
                        perZone[hosts[Int(replica.host.rawValue) - 1].zone, default: 0] += 1
                    }
                    #expect(perZone.count == min(zones, replicas))
                    #expect(perZone.values.max()! <= (replicas + zones - 1) / zones)
                }
            }
        }
    }

    @Test func weightsShiftReplicasAndLeaders() throws {
        let hosts = hosts(6) { $0 == 1 ? 50 : $0 == 2 ? 0 : 100 }
        let placed = try Planner.placement(hosts: hosts, groups: groups(900), replicas: 3, firstReplica: ReplicaID(1))
        let replicas = counts(placed, hosts: 6) { $0.replicas.map(\.host) }
        #expect(
            (298...302).contains(replicas[0]) && replicas[1] == 0
                && replicas[2...].allSatisfy { (598...602).contains($0) }, "\(replicas)")
        let leaders = leaders(placed, hosts: 6)
        #expect(
            (98...102).contains(leaders[0]) && leaders[1] == 0 && leaders[2...].allSatisfy { (198...202).contains($0) },
            "\(leaders)")
    }

    @Test func aHundredHostsInFourZonesStayEven() throws {
        let placed = try Planner.placement(
            hosts: hosts(100, zones: 4), groups: groups(3_000), replicas: 3, firstReplica: ReplicaID(1))
        let replicas = counts(placed, hosts: 100) { $0.replicas.map(\.host) }
        #expect(replicas.max()! - replicas.min()! <= 2)
        let leaders = leaders(placed, hosts: 100)
        #expect(leaders.max()! - leaders.min()! <= 1)
    }

    @Test func impossibleInputIsAnError() {
        #expect(throws: PlannerError.self) {
            try Planner.placement(hosts: hosts(2), groups: groups(1), replicas: 3, firstReplica: ReplicaID(1))
        }
        #expect(throws: PlannerError.self) {
            try Planner.placement(hosts: hosts(2), groups: groups(1), replicas: 0, firstReplica: ReplicaID(1))
        }
        #expect(throws: PlannerError.self) {
            try Planner.placement(
                hosts: hosts(2), groups: [GroupID(1), GroupID(1)], replicas: 1, firstReplica: ReplicaID(1))
        }
    }

    @Test func firstMapIsConsistentAndSurvivesEncoding() throws {
        let cluster = ClusterID(high: 1, low: 2)
        let map = try Planner.firstMap(cluster: cluster, hosts: hosts(3), groups: 16, replicas: 3)
        #expect(map.problem() == nil)
        #expect(map.groups.count == 17 && map.dataGroups.count == 16 && map.ring.isComplete)
        #expect(map.nextHost == HostID(4) && map.nextGroup == GroupID(17) && map.nextReplica == ReplicaID(52))
        #expect(map.replicas(on: HostID(2)).count == 17)
        #expect(map.group(GroupID(16))?.id == GroupID(16) && map.group(GroupID(17)) == nil)
        #expect(map.host(HostID(3))?.name == "host-3" && map.host(HostID(4)) == nil)
        #expect(map.owner(of: slot(of: "somekey")) != nil)
        var writer = ByteWriter()
        map.encode(into: &writer)
        let bytes = writer.take()
        var reader = ByteReader(bytes)
        #expect(try ClusterMap(from: &reader) == map)
        #expect(reader.isAtEnd)
        #expect(throws: PlannerError.self) {
            try Planner.firstMap(cluster: cluster, hosts: hosts(3), groups: 0, replicas: 3)
        }
        #expect(throws: PlannerError.self) {
            try Planner.firstMap(cluster: cluster, hosts: hosts(3) + hosts(1), groups: 1, replicas: 3)
        }
    }

    @Test func damagedMapsThrowOrAreConsistent() throws {
        let map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts(4, zones: 2), groups: 3, replicas: 3)
        var writer = ByteWriter()
        map.encode(into: &writer)
        mutate(writer.take(), seed: 3, rounds: 800) { bytes in
            var reader = ByteReader(bytes)
            guard let map = try? ClusterMap(from: &reader) else { return }
            #expect(map.problem() == nil)
        }
    }

    @Test func everyBrokenInvariantIsNamed() throws {
        let good = try Planner.firstMap(cluster: ClusterID(high: 1, low: 2), hosts: hosts(4), groups: 3, replicas: 3)
        func problem(_ change: (inout ClusterMap) -> Void) -> String {
            var map = good
            change(&map)
            return map.problem() ?? "none"
        }
        #expect(problem { $0.hosts.swapAt(0, 1) }.contains("out of order"))
        #expect(problem { $0.hosts[1].address = $0.hosts[0].address }.contains("address"))
        #expect(problem { $0.hosts[1].incarnation = $0.hosts[0].incarnation }.contains("incarnation"))
        #expect(problem { $0.hosts[0].id = HostID(0) }.contains("id 0"))
        #expect(problem { $0.hosts[1].zone = String(repeating: "z", count: 256) }.contains("255"))
        #expect(problem { $0.nextHost = HostID(4) }.contains("next id"))
        #expect(problem { $0.nextGroup = GroupID(3) }.contains("next id"))
        #expect(problem { $0.nextReplica = ReplicaID(12) }.contains("next id"))
        #expect(problem { $0.groups[1].preferredLeader = ReplicaID(1) }.contains("prefers"))
        #expect(problem { $0.groups[1].replicas[0].host = HostID(9) }.contains("does not exist"))
        #expect(problem { $0.groups[1].replicas[0].host = $0.groups[1].replicas[1].host }.contains("two replicas"))
        #expect(
            problem {
                $0.groups[1].replicas = $0.groups[2].replicas;
                $0.groups[1].preferredLeader = $0.groups[2].preferredLeader
            }.contains("two groups"))
        #expect(problem { $0.groups.removeLast() }.contains("ring names"))
        #expect(problem { $0.cluster = .none }.contains("no cluster id"))
        #expect(problem { $0.nextGroup = GroupID(ClusterMap.groupNumberMax + 1) }.contains("next group's number"))
        #expect(problem { $0.version = .max }.contains("2^62"))
        #expect(problem { $0.nextHost = HostID(.max) }.contains("2^62"))
        #expect(problem { $0.nextReplica = ReplicaID(.max) }.contains("2^62"))
        #expect(problem { _ in } == "none")
    }
}
