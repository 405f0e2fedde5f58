import Primitives
import Ring
import Testing

/// Clusters for the planner of rebalancing, and what carrying out its steps does to them.
struct RebalanceModel {
    var map: ClusterMap
    let bytes: [UInt64]
    let operations: [UInt64]

    init(_ input: RebalanceInput) {
        map = input.map
        func filled(_ value: (RebalanceInput.SlotLoad) -> UInt64) -> [UInt64] {
            let mean =
                input.loads.isEmpty ? 0 : input.loads.reduce(0) { $0 + value($1) } / UInt64(input.loads.count)
            var values = Array(repeating: mean, count: Slot.count)
            for load in input.loads { values[Int(load.slot.rawValue)] = value(load) }
            return values
        }
        bytes = filled { $0.bytes }
        operations = filled { $0.operations }
    }

    /// A host's replica is another one on the next host, under a new id; the preference goes with it.
    mutating func carryOut(_ step: RebalancePlan.Step) {
        switch step.move {
        case .slots(let slots, let from, let to):
            #expect(!slots.isEmpty && from != to && slots.allSatisfy { map.ring.owner(of: $0) == from })
            #expect(zip(slots, slots.dropFirst()).allSatisfy { $0 < $1 })
            map.ring.assign(slots, to: to)
        case .replica(let id, let replica, let from, let to):
            guard var group = map.group(id), let place = group.replicas.firstIndex(where: { $0.id == replica }) else {
                Issue.record("group \(id) has no replica \(replica)")
                return
            }
            let old = group.replicas.remove(at: place)
            #expect(old.host == from && group.replica(on: to) == nil && from != to)
            let new = ReplicaRecord(id: map.nextReplica, host: to, role: old.role, membership: old.membership)
            map.nextReplica = ReplicaID(map.nextReplica.rawValue + 1)
            group.replicas.append(new)
            if group.preferredLeader == replica { group.preferredLeader = new.id }
            map.replace(group)
        case .leader(let id, let from, let to):
            guard var group = map.group(id), let replica = group.replica(on: to) else {
                Issue.record("group \(id) has no replica on host \(to)")
                return
            }
            #expect(group.host(of: group.preferredLeader) == from && from != to)
            #expect(group.record(of: replica)?.role == .voter)
            group.preferredLeader = replica
            map.replace(group)
        }
    }

    mutating func carryOut(_ steps: [RebalancePlan.Step]) {
        for step in steps { carryOut(step) }
    }

    /// By the group's number.
    func groupBytes() -> [UInt64] {
        var sums: [UInt64] = Array(repeating: 0, count: Int(map.nextGroup.rawValue))
        for slot in 0..<Slot.count {
            if let group = map.ring.owner(of: Slot(UInt16(slot))) { sums[Int(group.rawValue)] += bytes[slot] }
        }
        return sums
    }

    /// By the host's number.
    func hostBytes(_ groupBytes: [UInt64]) -> [UInt64] {
        var sums: [UInt64] = Array(repeating: 0, count: Int(map.nextHost.rawValue))
        for group in map.groups {
            for replica in group.replicas { sums[Int(replica.host.rawValue)] += groupBytes[Int(group.id.rawValue)] }
        }
        return sums
    }

    func zones(of group: GroupRecord) -> Int {
        Set(group.replicas.map { map.host($0.host)!.zone }).count
    }

    /// What the plan should say of all groups and hosts, counted anew.
    func figures() -> (hosts: [HostID: RebalancePlan.Figures], groups: [GroupID: RebalancePlan.Figures]) {
        var hosts: [HostID: RebalancePlan.Figures] = [:]
        for host in map.hosts { hosts[host.id] = RebalancePlan.Figures() }
        var groups: [GroupID: RebalancePlan.Figures] = [:]
        for group in map.groups {
            var figures = RebalancePlan.Figures()
            for slot in map.ring.slots(of: group.id) {
                figures.bytes += bytes[Int(slot.rawValue)]
                figures.operations += operations[Int(slot.rawValue)]
                figures.slots += 1
            }
            figures.replicas = group.replicas.count
            figures.leaders = 1
            groups[group.id] = figures
            for replica in group.replicas {
                hosts[replica.host]!.bytes += figures.bytes
                hosts[replica.host]!.replicas += 1
            }
            guard group.id != .meta, let leader = group.host(of: group.preferredLeader) else { continue }
            hosts[leader]!.operations += figures.operations
            hosts[leader]!.slots += figures.slots
            hosts[leader]!.leaders += 1
        }
        return (hosts, groups)
    }

    // MARK: - Clusters

    static func host(_ number: Int, zone: Int = 0, weight: UInt32 = 100) -> HostRecord {
        HostRecord(
            id: HostID(UInt64(number)), name: "host-\(number)", address: "10.0.0.1:\(number)", zone: "zone-\(zone)",
            weight: weight, incarnation: Incarnation(UInt64(number) * 7))
    }

    /// The meta group on the first host, and data groups 1, 2, … on the hosts named; the first of each leads. The ring
    /// is split evenly unless it is given.
    static func map(hosts: [HostRecord], groups: [[Int]], ring: SlotTable? = nil) throws -> ClusterMap {
        var next: UInt64 = 1
        var records: [GroupRecord] = []
        for (number, places) in ([[Int(hosts[0].id.rawValue)]] + groups).enumerated() {
            let replicas = places.map { place in
                defer { next += 1 }
                return ReplicaRecord(id: ReplicaID(next), host: HostID(UInt64(place)))
            }
            records.append(
                GroupRecord(
                    id: GroupID(UInt32(number)), weight: number == 0 ? 0 : 100, replicas: replicas,
                    preferredLeader: replicas[0].id))
        }
        let table =
            try ring
            ?? Planner.initialTable(groups: records.dropFirst().map { Planner.GroupWeight(group: $0.id) })
        return ClusterMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: records, ring: table,
            nextHost: HostID(hosts.last!.id.rawValue + 1), nextGroup: GroupID(UInt32(records.count)),
            nextReplica: ReplicaID(next))
    }

    /// Loads by Zipf's law: the slot of rank r has 1 / r^(`halves` / 2) of the greatest. Ranks are dealt by the seed.
    static func loads(halves: Int, greatest: Double, random: inout SeededRandom) -> [RebalanceInput.SlotLoad] {
        let order = (0..<Slot.count).shuffled(using: &random)
        return order.enumerated().map { rank, slot in
            let divisor: Double =
                halves == 0 ? 1 : halves == 1 ? Double(rank + 1).squareRoot() : Double(rank + 1)
            return RebalanceInput.SlotLoad(
                slot: Slot(UInt16(slot)), bytes: UInt64(greatest / divisor),
                operations: UInt64(greatest / divisor / 1_000))
        }
    }
}
