// Which replicas go from host to host, step by step, and who should lead. Looks at the map alone: what was begun stands
// there, so that the plan after a crash is the rest of the plan before it.
//
//   settled ──add a successor──► it learns, catches up, votes ──the old one leaves──► it is removed ──► settled

public import Primitives

extension Planner {
    /// What is to be changed in the map next.
    public enum Step: Hashable, Sendable {
        /// A new replica on `host`, to be what `successorOf` is, which is to go when the new one is that.
        case add(GroupID, host: HostID, role: ReplicaRecord.Role, successorOf: ReplicaID)
        /// The replica's successor is what it is to be.
        case leave(GroupID, ReplicaID)
        /// The replica is preferred as leader from now on, instead of one that is to leave a draining host next.
        case prefer(GroupID, ReplicaID)
    }

    /// A group that has a replica on a draining host, and nothing can be done for it at the moment.
    public struct Waiting: Hashable, Sendable {
        public var group: GroupID
        /// What it waits for, in words.
        public var why: String
    }

    /// The next steps, and what does not go on by a step; both ascending by group.
    public struct MovePlan: Hashable, Sendable {
        public var steps: [Step] = []
        public var waiting: [Waiting] = []
        /// No draining host has a replica, and no move is under way.
        public var isDone: Bool { steps.isEmpty && waiting.isEmpty }
    }

    /// How draining hosts get empty, and moves under way to their end: a replica gets a successor on another host, and
    /// leaves when that is what it is to be. A group moves one replica at a time.
    ///
    /// Who is preferred as leader on a draining host is followed, when its replica is about to leave, by that one of the
    /// others whose host is preferred by the fewest groups for its weight; otherwise a preference goes to the successor.
    ///
    /// The successor goes to an active host with a weight above 0 that has no replica of the group: to a zone that the
    /// group's others use least, there to the host with the fewest replicas for its weight. It is asked for again after
    /// each change of the map: what is no step yet may be one then. O(groups × replicas + steps × hosts).
    ///
    /// - Parameters:
    ///   - movesMax: no move is begun while so many groups are on their way, for whatever reason: each costs the transfer
    ///     of a state. What waits for a host that is away costs nothing, and does not count.
    ///   - away: hosts that do not answer, ascending: they get no replicas.
    ///   - lost: those of them that have not answered for so long that what is on its way there, from a host that drains,
    ///     is given up, and begun anew elsewhere.
    public static func moves(
        _ map: ClusterMap, movesMax: Int, away: [HostID] = [], lost: [HostID] = []
    ) -> MovePlan {
        var plan = MovePlan()
        var hosts = MoveTargets(map, away: away)
        var leads: LeadCounts?
        var moving = map.groups.reduce(0) { $0 + ($1.isMoving && !$1.waits(for: away) ? 1 : 0) }
        for group in map.groups {
            if let successor = group.replicas.first(where: { new in
                new.isWanted && !new.isSettled && lost.contains(new.host)
                    && group.replicas.contains { $0.id == new.successorOf && hosts.isDraining($0.host) }
            }) {
                plan.steps.append(.leave(group.id, successor.id))
                continue
            }
            let leaving = group.replicas.filter { old in
                old.isWanted && group.replicas.contains { $0.successorOf == old.id && $0.isSettled }
            }
            let goes = leaving.filter { group.canSpare($0) }
            for old in goes {
                var heir: ReplicaID?
                if old.id == group.preferredLeader, hosts.isDraining(old.host) {
                    if leads == nil { leads = LeadCounts(map) }
                    heir = leads?.heir(of: old, in: group, map)
                }
                plan.steps.append(heir.map { .prefer(group.id, $0) } ?? .leave(group.id, old.id))
            }
            guard goes.isEmpty, group.replicas.contains(where: { hosts.isDraining($0.host) }) else { continue }
            guard let old = group.replicas.first(where: { hosts.isDraining($0.host) && $0.isWanted }), !group.isMoving
            else {
                let stuck = leaving.first.map {
                    "another replica that is to vote: replica \($0.id) on host \($0.host) is the only one, and can't leave"
                }
                let why = group.replicas.lazy.compactMap(\.openWork).first ?? stuck ?? "a move under way"
                plan.waiting.append(Waiting(group: group.id, why: why))
                continue
            }
            guard moving < movesMax else {
                plan.waiting.append(
                    Waiting(
                        group: group.id,
                        why: "its turn: \(moving) groups are on their way, of at most \(movesMax) at a time"))
                continue
            }
            guard let host = hosts.choose(for: group, replacing: old) else {
                plan.waiting.append(
                    Waiting(group: group.id, why: "a host that can take replica \(old.id): \(hosts.lack(for: group))"))
                continue
            }
            plan.steps.append(.add(group.id, host: host, role: old.role, successorOf: old.id))
            moving += 1
        }
        return plan
    }

    /// A group's preferred leader as it should be.
    public struct LeaderChoice: Hashable, Sendable {
        public var group: GroupID
        public var replica: ReplicaID
    }

    /// Preferred leaders that should be others, so that hosts are preferred in proportion to their weights, as far as
    /// the placement allows; ascending by group. Only replicas that vote, stay, and are on an active host with a weight
    /// above 0 are preferred; a group without one is left alone. As few as possible change: with these choices carried
    /// out, there are none. The meta group's changes only if its leader can't stay.
    public static func leaders(_ map: ClusterMap) -> [LeaderChoice] {
        let hosts = map.hosts.filter { $0.state == .active && $0.weight > 0 }
        /// By group: who may lead, as positions in `hosts`, and the one who does.
        var groups: [(group: GroupRecord, members: [Int], present: Int?)] = []
        for group in map.dataGroups + map.groups.filter({ $0.id == .meta }) {
            var members: [Int] = []
            var present: Int?
            for replica in group.replicas where map.mayPrefer(replica, of: group) {
                let place = hosts.place { $0.id < replica.host }
                if replica.id == group.preferredLeader { present = place }
                members.append(place)
            }
            if !members.isEmpty { groups.append((group, members, present)) }
        }
        let dataCount = groups.last?.group.id == .meta ? groups.count - 1 : groups.count
        var balance = LeaderBalance(
            weights: hosts.map { UInt64($0.weight) }, members: groups[..<dataCount].map(\.members),
            leaders: groups[..<dataCount].map(\.present))
        balance.level()
        if dataCount < groups.count { balance.add(groups[dataCount].members, present: groups[dataCount].present) }
        var choices: [LeaderChoice] = []
        for (place, entry) in groups.enumerated() where balance.leader[place] != entry.present {
            let host = hosts[balance.leader[place]].id
            choices.append(LeaderChoice(group: entry.group.id, replica: entry.group.replica(on: host)!))
        }
        return choices.sorted { $0.group < $1.group }
    }
}

extension ClusterMap {
    /// Whether leaders that are spread may be this replica: it votes, stays, and is on an active host with a weight above 0.
    public func mayPrefer(_ replica: ReplicaRecord, of group: GroupRecord) -> Bool {
        guard replica.role == .voter, replica.membership == .voter,
            !group.replicas.contains(where: { $0.successorOf == replica.id }), let host = host(replica.host)
        else { return false }
        return host.state == .active && host.weight > 0
    }
}

extension ReplicaRecord {
    /// What is still to come about, in words; nil if nothing is.
    public var openWork: String? {
        let name = "replica \(id) on host \(host)"
        switch (role, membership) {
        case (.voter, .voter), (.learner, .learner): return nil
        case (.voter, .absent): return "\(name), which is to vote: the group's leader has not added it as a learner yet"
        case (.voter, .learner): return "\(name), which is to vote: it catches up"
        case (.learner, .absent): return "\(name), which is to learn: the group's leader has not added it yet"
        case (.learner, .voter): return "\(name), which is to be a learner: the group's leader has not demoted it yet"
        case (.leaving, _): return "\(name), which is to leave: the group's leader has not removed it yet"
        case (.replaced, _): return "\(name), which is replaced: the group's leader has not removed it yet"
        }
    }
}

extension GroupRecord {
    /// Somebody is left who is to vote.
    fileprivate func canSpare(_ old: ReplicaRecord) -> Bool {
        old.role != .voter || replicas.contains { $0.role == .voter && $0.id != old.id }
    }

    /// Somebody is on his way to a host that is away.
    fileprivate func waits(for away: [HostID]) -> Bool {
        !away.isEmpty && replicas.contains { !$0.isSettled && away.contains($0.host) }
    }
}

/// How many data groups prefer each host.
private struct LeadCounts {
    private let hosts: [HostRecord]
    private var count: [UInt64]

    init(_ map: ClusterMap) {
        hosts = map.hosts
        count = Array(repeating: 0, count: hosts.count)
        for group in map.dataGroups {
            if let host = group.host(of: group.preferredLeader) { count[place(host)] += 1 }
        }
    }

    private func place(_ id: HostID) -> Int { hosts.place { $0.id < id } }

    /// Who is to be preferred after a replica that leaves: nil if that is its successor, which is so by itself.
    mutating func heir(of old: ReplicaRecord, in group: GroupRecord, _ map: ClusterMap) -> ReplicaID? {
        let candidates = group.replicas.filter { map.mayPrefer($0, of: group) }
        // The successor first: where all are alike, it is.
        var best: ReplicaRecord?
        for replica in candidates.filter({ $0.successorOf == old.id }) + candidates {
            guard let other = best else { best = replica; continue }
            let (host, otherHost) = (place(replica.host), place(other.host))
            if (count[host] + 1) * UInt64(hosts[otherHost].weight) < (count[otherHost] + 1) * UInt64(hosts[host].weight)
            {
                best = replica
            }
        }
        guard let best else { return nil }
        if group.id != .meta {
            count[place(old.host)] -= 1
            count[place(best.host)] += 1
        }
        return best.successorOf == old.id ? nil : best.id
    }
}

/// Hosts to which replicas may go.
private struct MoveTargets {
    let hosts: [HostRecord]
    /// Position of the host's zone in the sorted list of zones.
    let zone: [Int]
    let zones: Int
    /// Replicas that stay.
    var count: [UInt64]
    let isAway: [Bool]

    init(_ map: ClusterMap, away: [HostID]) {
        hosts = map.hosts
        isAway = hosts.map { away.contains($0.id) }
        var names: [String] = []
        for name in hosts.map(\.zone).sorted() where names.last != name { names.append(name) }
        zone = hosts.map { host in names.place { $0 < host.zone } }
        zones = names.count
        count = Array(repeating: 0, count: hosts.count)
        for group in map.groups {
            for replica in group.replicas where replica.isWanted {
                guard !group.replicas.contains(where: { $0.successorOf == replica.id }) else { continue }
                count[place(replica.host)] += 1
            }
        }
    }

    func place(_ id: HostID) -> Int { hosts.place { $0.id < id } }
    func isDraining(_ id: HostID) -> Bool { hosts[place(id)].state == .draining }
    private func takesReplicas(_ place: Int) -> Bool { hosts[place].state == .active && hosts[place].weight > 0 }
    private func mayTake(_ place: Int, _ group: GroupRecord) -> Bool {
        takesReplicas(place) && group.replica(on: hosts[place].id) == nil
    }

    mutating func choose(for group: GroupRecord, replacing old: ReplicaRecord) -> HostID? {
        var used = Array(repeating: 0, count: zones)
        for replica in group.replicas where replica.id != old.id && !isDraining(replica.host) {
            used[zone[place(replica.host)]] += 1
        }
        let seed = mix(UInt64(group.id.rawValue))
        var best: Int?
        for host in hosts.indices where mayTake(host, group) && !isAway[host] {
            guard let other = best else { best = host; continue }
            if used[zone[host]] != used[zone[other]] {
                if used[zone[host]] < used[zone[other]] { best = host }
                continue
            }
            let load = (count[host] + 1) * UInt64(hosts[other].weight)
            let otherLoad = (count[other] + 1) * UInt64(hosts[host].weight)
            if load < otherLoad
                || load == otherLoad
                    && mix(seed ^ mix(hosts[host].id.rawValue)) < mix(seed ^ mix(hosts[other].id.rawValue))
            {
                best = host
            }
        }
        guard let best else { return nil }
        count[best] += 1
        return hosts[best].id
    }

    func lack(for group: GroupRecord) -> String {
        let draining = hosts.count { $0.state == .draining }
        let without = hosts.count { $0.state == .active && $0.weight == 0 }
        let taken = hosts.indices.count { takesReplicas($0) && group.replica(on: hosts[$0].id) != nil }
        let absent = hosts.indices.filter { isAway[$0] && mayTake($0, group) }.map { "host \(hosts[$0].id)" }
        return
            "of \(hosts.count) hosts \(draining) are draining, \(without) have weight 0, and \(taken) have a replica of the group"
            + (absent.isEmpty ? "" : "; \(absent.joined(separator: ", ")) would, and does not answer")
    }
}
