// Whether what was asked for has come about, and if not, what it waits for. Pure: map and hosts' accounts in, words out.

import Messages
package import Primitives
package import Ring

/// What a command waits for.
package enum MapGoal: Sendable, Equatable {
    /// The replica is what it is to be, and who it follows is gone.
    case settled(GroupID, ReplicaID)
    case gone(GroupID, ReplicaID)
    /// The replica is gone, and another one on the same host is what it is to be.
    case replaced(GroupID, ReplicaID, on: HostID)
    /// The groups have leaders.
    case led([GroupID])
    /// The replica leads its group; `.none`: another one than on the host `from` does.
    case leads(GroupID, ReplicaID, from: HostID?)
    /// The host has no replicas.
    case empty(HostID)
    /// Each group is led by the replica that the map prefers, where that may be so.
    case preferredLead

    package enum Standing: Sendable, Equatable {
        case done
        /// One line for each thing that is waited for, at least one.
        case open([String])
        /// It never will: somebody wanted something else meanwhile.
        case failed(String)
    }

    package func standing(_ map: ClusterMap, _ accounts: [HostAccount]) -> Standing {
        switch self {
        case .settled(let group, let replica):
            guard let record = map.group(group)?.record(of: replica), record.isWanted else {
                return .failed(
                    "replica \(replica) of \(group.words) is to go, or gone: somebody else wanted that meanwhile")
            }
            let names = [replica, record.successorOf].filter { $0 != .none }
            return open(group, names.filter { map.group(group)?.record(of: $0) != nil }, map, accounts)
        case .gone(let group, let replica):
            guard map.group(group)?.record(of: replica) != nil else { return .done }
            return open(group, [replica], map, accounts)
        case .replaced(let id, let replica, let host):
            guard let group = map.group(id) else { return .failed("\(id.words) was deleted meanwhile") }
            if group.record(of: replica) != nil { return open(id, [replica], map, accounts) }
            guard let heir = group.replica(on: host) else {
                return .failed(
                    "\(id.words) has no replica on host \(host) any more: somebody else wanted that meanwhile")
            }
            return open(id, [heir], map, accounts)
        case .led(let groups):
            let health = ClusterHealth(map: map, accounts: accounts)
            let open = groups.filter { id in health.groups.first { $0.id == id }?.leader == nil }
            return open.isEmpty ? .done : .open(open.map { "\($0.words): it has no leader yet" })
        case .leads(let id, let replica, let former):
            guard let group = map.group(id) else { return .failed("\(id.words) was deleted meanwhile") }
            let leader = ClusterHealth(map: map, accounts: accounts).groups.first { $0.id == id }?.leader
            guard let leader else { return .open(["\(id.words): it has no leader at the moment"]) }
            if replica != .none {
                guard let host = group.host(of: replica) else {
                    return .failed("replica \(replica) of \(id.words) was removed meanwhile")
                }
                return leader == host ? .done : .open(["\(id.words): host \(leader) leads it still"])
            }
            return leader != former ? .done : .open(["\(id.words): host \(leader) leads it still"])
        case .empty(let host): return emptying(host, map, accounts)
        case .preferredLead: return leading(map, accounts)
        }
    }

    private func leading(_ map: ClusterMap, _ accounts: [HostAccount]) -> Standing {
        var lines: [String] = []
        for group in map.groups {
            guard let preferred = group.record(of: group.preferredLeader), map.mayPrefer(preferred, of: group) else {
                continue
            }
            let leader = GroupReplicas(group, accounts).leader?.replica
            guard leader != preferred.id else { continue }
            let now = leader.flatMap { group.host(of: $0) }.map { "host \($0) leads it still" } ?? "it has no leader"
            lines.append(
                "\(group.id.words): \(now), and host \(preferred.host) is to\(Self.detail(preferred, of: group, accounts))"
            )
        }
        return lines.isEmpty ? .done : .open(lines)
    }

    /// Of the replicas, those that are not yet what they are to be. One that leads in a pair waits for the other.
    private func open(
        _ id: GroupID, _ replicas: [ReplicaID], _ map: ClusterMap, _ accounts: [HostAccount]
    ) -> Standing {
        guard let group = map.group(id) else { return .done }
        var lines: [String] = []
        for replica in replicas {
            guard let record = group.record(of: replica) else { continue }
            if let work = record.openWork {
                lines.append("\(id.words): \(work)\(Self.detail(record, of: group, accounts))")
            } else if group.replicas.contains(where: { $0.successorOf == replica }) {
                lines.append("\(id.words): replica \(replica) on host \(record.host), which is to leave next")
            }
        }
        return lines.isEmpty ? .done : .open(lines)
    }

    private func emptying(_ host: HostID, _ map: ClusterMap, _ accounts: [HostAccount]) -> Standing {
        let replicas = map.replicas(on: host)
        guard !replicas.isEmpty else { return .done }
        guard map.host(host)?.state == .draining else {
            return .failed("host \(host) is active again: somebody else wanted that meanwhile")
        }
        // How many at a time is the hosts' business: here it only says what each group is at.
        let away = accounts.filter { $0.status == nil }.map(\.host.id)
        let plan = Planner.moves(map, movesMax: map.groups.count + 1, away: away)
        return .open(
            replicas.map { group, replica in
                let name = group.id.words
                for step in plan.steps {
                    switch step {
                    case .add(group.id, let target, _, successorOf: replica):
                        return "\(name): a successor of replica \(replica) is to come, as on host \(target)"
                    case .prefer(group.id, let heir):
                        return "\(name): replica \(heir), which is to be preferred as leader next"
                    case .leave(group.id, let old):
                        return "\(name): replica \(old), which is to leave next"
                    default: continue
                    }
                }
                let open = group.replicas.first { $0.openWork != nil }
                let why = plan.waiting.first { $0.group == group.id }?.why ?? "its turn"
                return "\(name): \(why)\(open.map { Self.detail($0, of: group, accounts) } ?? "")"
            })
    }

    /// What the hosts' accounts add: how far behind a replica is, or that its host or the leader is silent.
    private static func detail(_ replica: ReplicaRecord, of group: GroupRecord, _ accounts: [HostAccount]) -> String {
        let replicas = GroupReplicas(group, accounts)
        guard let leader = replicas.leader else { return "; the group has no leader at the moment" }
        guard accounts.first(where: { $0.host.id == replica.host })?.status != nil else {
            return "; host \(replica.host) does not answer"
        }
        guard replica.isWanted, let status = replicas.statuses[replica.id] else { return "" }
        if !status.problem.isEmpty { return "; \(status.problem)" }
        let behind = leader.commitIndex - status.appliedIndex
        guard behind > 0 else { return "" }
        return "; \(HumanText.grouped(UInt64(behind))) \(behind == 1 ? "entry" : "entries") behind"
    }
}
