// Where the first replicas of the groups go, and who should lead them.

public import Primitives

extension Planner {
    /// Places the replicas of each group on distinct hosts and chooses each group's preferred leader.
    ///
    /// A group's replicas stand in different zones as far as there are zones; within that, hosts get replicas in
    /// proportion to their weights (counts of equal hosts differ by one at most unless zones force more). Leaders of
    /// data groups are as even as the placement allows. The meta group, if named, comes last: it is small, and should
    /// not take a place or a lead from a data group. Replica ids ascend from `firstReplica`, group by group.
    /// At 1,000 hosts and 30,000 groups some hundred million steps.
    public static func placement(
        hosts: [HostRecord], groups: [GroupID], replicas: Int, firstReplica: ReplicaID
    ) throws(PlannerError) -> [GroupRecord] {
        let hosts = hosts.filter { $0.weight > 0 && $0.state == .active }.sorted { $0.id < $1.id }
        guard replicas >= 1, replicas <= ClusterMap.replicasPerGroupMax else {
            throw PlannerError(
                "1 to \(ClusterMap.replicasPerGroupMax) replicas of a group are possible, not \(replicas)")
        }
        guard hosts.count >= replicas else {
            throw PlannerError(
                "\(replicas) replicas of a group need as many hosts with a weight above 0 that are not draining; there are \(hosts.count)"
            )
        }
        let groups = groups.sorted()
        for position in groups.indices.dropFirst() where groups[position - 1] == groups[position] {
            throw PlannerError("group \(groups[position]) is named twice")
        }
        var spread = Spread(hosts: hosts)
        let order = groups.filter { $0 != .meta } + groups.filter { $0 == .meta }
        let chosen = order.map { spread.choose(replicas, for: $0) }
        let dataCount = order.last == .meta ? order.count - 1 : order.count
        var leaders = LeaderBalance(weights: hosts.map { UInt64($0.weight) }, members: Array(chosen[..<dataCount]))
        leaders.level()
        if dataCount < order.count { leaders.add(chosen[dataCount]) }

        // Ids and records in the order of the groups, not in the order of planning.
        var placed: [GroupRecord] = []
        var next = firstReplica
        let positions = order.indices.sorted { order[$0] < order[$1] }
        for position in positions {
            var records: [ReplicaRecord] = []
            var preferred = next
            for host in chosen[position] {
                if host == leaders.leader[position] { preferred = next }
                records.append(ReplicaRecord(id: next, host: hosts[host].id))
                next = ReplicaID(next.rawValue + 1)
            }
            placed.append(
                GroupRecord(
                    id: order[position], weight: order[position] == .meta ? 0 : 100,
                    replicas: records, preferredLeader: preferred))
        }
        return placed
    }
}

/// Replicas over hosts, greedily.
private struct Spread {
    /// Position of the host's zone in the sorted list of zones.
    let zone: [Int]
    let zones: Int
    let id: [UInt64]
    let weight: [UInt64]
    var count: [UInt64]

    init(hosts: [HostRecord]) {
        var names: [String] = []
        for name in hosts.map(\.zone).sorted() where names.last != name { names.append(name) }
        zone = hosts.map { names.firstIndex(of: $0.zone)! }
        zones = names.count
        id = hosts.map { mix($0.id.rawValue) }
        weight = hosts.map { UInt64($0.weight) }
        count = Array(repeating: 0, count: hosts.count)
    }

    /// Positions of the hosts of one group, ascending. Each goes to a zone that this group uses least, there to the
    /// host
    /// with the lowest load for its weight; a hash decides between equals, so that groups share hosts in many mixes.
    mutating func choose(_ replicas: Int, for group: GroupID) -> [Int] {
        var used = Array(repeating: 0, count: zones)
        var chosen: [Int] = []
        let seed = mix(UInt64(group.rawValue))
        for _ in 0..<replicas {
            var best: Int?
            for host in count.indices where !chosen.contains(host) {
                guard let other = best else { best = host; continue }
                if used[zone[host]] != used[zone[other]] {
                    if used[zone[host]] < used[zone[other]] { best = host }
                    continue
                }
                let load = (count[host] + 1) * weight[other]
                let otherLoad = (count[other] + 1) * weight[host]
                if load < otherLoad || (load == otherLoad && mix(seed ^ id[host]) < mix(seed ^ id[other])) {
                    best = host
                }
            }
            guard let best else { preconditionFailure("more replicas than hosts") }
            chosen.append(best)
            used[zone[best]] += 1
            count[best] += 1
        }
        return chosen.sorted()
    }
}
