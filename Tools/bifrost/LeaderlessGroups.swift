// Which of the groups that a rebalancing's steps wait for have no leader, and for how long somebody has seen that. The meta
// group's leader knows of hosts alone; what groups say of themselves is asked here. Pure: accounts and times come in.

package import Messages
package import Primitives
package import Ring

/// A group without a leader.
package struct LeaderlessGroup: Encodable, Sendable, Equatable {
    package var group: UInt32
    /// With replicas of it, that do not answer; ascending.
    package var silentHosts: [UInt64]
    /// Since somebody looks.
    package var seconds: UInt64

    package init(group: GroupID, silentHosts: [HostID], seconds: UInt64) {
        self.group = group.rawValue
        self.silentHosts = silentHosts.map(\.rawValue)
        self.seconds = seconds
    }

    /// As what stands behind "waits for".
    package var text: String {
        let hosts = silentHosts.map { "\($0)" }
        let why: String
        if let last = hosts.last, hosts.count > 1 {
            why = ": hosts \(hosts.dropLast().joined(separator: ", ")) and \(last) do not answer"
        } else {
            why = hosts.first.map { ": host \($0) does not answer" } ?? ": see 'bifrost status'"
        }
        return "\(GroupID(group).words), which has no leader\(why)"
    }

    /// A change of leaders takes less.
    package static let patienceSeconds: UInt64 = 10
    /// Whatever waits for it waits in vain until somebody does something.
    package var isHeld: Bool { seconds >= Self.patienceSeconds }
}

package struct LeaderlessGroups: Sendable {
    /// Ascending by group.
    private var known: [(group: GroupID, silentHosts: [HostID], since: Double)] = []

    package init() {}

    package var isEmpty: Bool { known.isEmpty }

    /// Takes in what hosts say at a moment.
    ///
    /// - Parameters:
    ///   - groups: that are waited for; of others nothing is kept.
    ///   - seconds: since whenever.
    package mutating func look(
        at groups: some Sequence<GroupID>, _ map: ClusterMap, _ accounts: [HostAccount], seconds: Double
    ) {
        let leaderless = ClusterHealth(map: map, accounts: accounts).leaderless
        known = Array(Set(groups)).sorted().filter { leaderless.contains($0) }.map { id in
            let since = known.first { $0.group == id }?.since ?? seconds
            guard let record = map.group(id) else { return (id, [], since) }
            let answering = GroupReplicas(record, accounts).answering
            return (id, record.replicas.map(\.host).filter { !answering.contains($0) }.sorted(), since)
        }
    }

    package func groups(at seconds: Double) -> [LeaderlessGroup] {
        known.map { group in
            LeaderlessGroup(
                group: group.group, silentHosts: group.silentHosts,
                seconds: UInt64(max(0, min(seconds - group.since, 1e9))))
        }
    }
}

extension RebalancingStanding {
    /// Groups whose leaders have to do something before a step goes on; none if it waits for something else.
    package func groups(of place: Int, in map: ClusterMap) -> [GroupID] {
        guard rebalancing.steps.indices.contains(place), waits.indices.contains(place), let wait = waits[place] else {
            return []
        }
        switch wait {
        case .copy(let id, _), .migration(let id):
            guard let migration = map.migration(id) else { return [] }
            switch migration.state {
            case .copying: return [migration.source, migration.target]
            case .committed, .activated: return [migration.source]
            case .released: return [migration.target]
            case .aborting, .settling:
                return (migration.isSourceDone ? [] : [migration.source])
                    + (migration.isTargetDone ? [] : [migration.target])
            }
        case .members(let group): return [group]
        case .replica, .leaving:
            switch rebalancing.steps[place].move {
            case .replica(let group, _, _, _), .leader(let group, _, _): return [group]
            case .slots: return []
            }
        case .resumption, .turn, .step, .host, .group, .room: return []
        }
    }
}
