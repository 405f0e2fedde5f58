// What the hosts' accounts say about the cluster as a whole. Pure: map and accounts in, a judgement out.

package import Messages
package import Primitives
package import Ring

/// One host's account, or why there is none.
package struct HostAccount: Sendable {
    package var host: HostRecord
    package var status: HostStatus?
    package var problem: String
    package var upkeep: HostUpkeep?
    package init(host: HostRecord, status: HostStatus?, problem: String = "") {
        self.host = host
        self.status = status
        self.problem = problem
    }
}

package struct ClusterHealth: Sendable {
    package enum Verdict: String, Sendable, Encodable {
        /// All hosts answer, every group has a leader and all its replicas, and none is far behind.
        case healthy
        /// All data can be read and written, but something is missing that protects it.
        case degraded
        /// Some group has no leader: its part of the data can be neither read nor written.
        case unavailable
    }

    package struct Group: Sendable {
        package var id: GroupID
        package var replicas: [(replica: ReplicaID, host: HostID)]
        /// With a majority behind it, as it says itself.
        package var leader: HostID?
        /// Its replica that leads.
        package var leaderReplica: ReplicaID?
        package var preferredHost: HostID?
        package var term = Term.zero
        package var commitIndex = LogIndex.zero
        package var revision = Revision.zero
        package var slots = 0
        /// Replicas whose hosts answer and that take part.
        package var working = 0
    }

    package struct Laggard: Sendable {
        package var group: GroupID
        package var host: HostID
        /// Entries that the leader has committed and this replica has not applied.
        package var entries: Int
    }

    package private(set) var verdict = Verdict.healthy
    /// Whatever keeps the cluster from being healthy, worst first, one line each.
    package private(set) var problems: [String] = []
    /// Ascending by id.
    package private(set) var groups: [Group] = []
    package private(set) var leaderless: [GroupID] = []
    /// Groups with a leader that does not answer here, as those of its followers say that do.
    package private(set) var unreached: [(group: GroupID, host: HostID)] = []
    package private(set) var laggards: [Laggard] = []

    /// - Parameter lagEntriesMax: a replica that many entries behind is still not lagging: accounts are taken one after
    ///   the other while the groups go on.
    package init(map: ClusterMap, accounts: [HostAccount], lagEntriesMax: Int = 10_000) {
        let accounts = accounts.map { Self.checked($0, map) }
        let slots = Dictionary(uniqueKeysWithValues: map.ring.counts().map { ($0.group, $0.slots) })
        for record in map.groups {
            groups.append(
                Group(
                    id: record.id, replicas: record.replicas.map { ($0.id, $0.host) },
                    preferredHost: record.host(of: record.preferredLeader),
                    slots: slots[record.id] ?? 0))
        }
        judgeGroups(accounts, lagEntriesMax)
        judgeHosts(accounts)
        if !unreached.isEmpty {
            problems.insert(
                "\(HumanText.count(unreached.count, "group")) with a leader that can't be reached from here, though its "
                    + "followers hear from it: \(Self.list(unreached.map { "\($0.group) on host \($0.host)" }))", at: 0)
        }
        if !leaderless.isEmpty {
            verdict = .unavailable
            problems.insert(
                "\(HumanText.count(leaderless.count, "group")) without a leader: "
                    + "\(Self.list(leaderless.map { "\($0)" }))",
                at: 0)
        } else if !problems.isEmpty {
            verdict = .degraded
        }
    }

    /// A process that answers at a host's address but is not that host has nothing to say here.
    private static func checked(_ account: HostAccount, _ map: ClusterMap) -> HostAccount {
        guard let status = account.status else { return account }
        var stranger = account
        stranger.status = nil
        if status.cluster == map.cluster, status.host == account.host.id { return account }
        if status.cluster == map.cluster {
            stranger.problem = "the process there is host \(status.host)"
        } else if status.cluster != .none {
            stranger.problem = "the process there belongs to cluster \(status.cluster), expected \(map.cluster)"
        } else if status.incarnation == account.host.incarnation {
            stranger.problem = "it was not initialised: run 'bifrost init' again with the same hosts"
        } else {
            stranger.problem = "the process there has another data directory: start it with its former --directory"
        }
        return stranger
    }

    private mutating func judgeGroups(_ accounts: [HostAccount], _ lagEntriesMax: Int) {
        // Both sides ascend by group.
        var replicas: [(host: HostID, status: ReplicaStatus)] = []
        for account in accounts { replicas += (account.status?.replicas ?? []).map { (account.host.id, $0) } }
        replicas.sort { ($0.status.group, $0.host) < ($1.status.group, $1.host) }
        var next = 0
        for index in groups.indices {
            let id = groups[index].id
            while next < replicas.count, replicas[next].status.group < id { next += 1 }
            let first = next
            while next < replicas.count, replicas[next].status.group == id { next += 1 }
            judge(index, Array(replicas[first..<next]), accounts, lagEntriesMax)
        }
    }

    private mutating func judge(
        _ index: Int, _ replicas: [(host: HostID, status: ReplicaStatus)], _ accounts: [HostAccount],
        _ lagEntriesMax: Int
    ) {
        let id = groups[index].id
        let name = id == .meta ? "the meta group" : "group \(id)"
        let leader = replicas.filter { $0.status.role == .leader && $0.status.isQuorumActive }.max {
            $0.status.term < $1.status.term
        }
        groups[index].leader = leader?.host
        groups[index].leaderReplica = leader?.status.replica
        groups[index].term = replicas.map(\.status.term).max() ?? .zero
        groups[index].commitIndex = replicas.map(\.status.commitIndex).max() ?? .zero
        groups[index].revision = replicas.map(\.status.revision).max() ?? .zero
        if leader == nil {
            if let host = hostThatLeads(groups[index], by: replicas, accounts) {
                unreached.append((id, host))
            } else {
                leaderless.append(id)
            }
        }
        for expected in groups[index].replicas {
            guard let account = accounts.first(where: { $0.host.id == expected.host }), account.status != nil else {
                continue
            }
            guard let found = replicas.first(where: { $0.status.replica == expected.replica })?.status else {
                problems.append("host \(expected.host) lacks its replica of \(name)")
                continue
            }
            if found.role == .stopped || !found.problem.isEmpty {
                let why = found.problem.isEmpty ? "it is stopped" : found.problem
                problems.append("the replica of \(name) on host \(expected.host) does not take part: \(why)")
                continue
            }
            if found.isImpaired {
                problems.append(
                    "the replica of \(name) on host \(expected.host) is damaged or incomplete: it votes, "
                        + "but does not serve"
                )
                continue
            }
            groups[index].working += 1
            guard let leader else { continue }
            let behind = leader.status.commitIndex - found.appliedIndex
            if behind > lagEntriesMax {
                laggards.append(Laggard(group: id, host: expected.host, entries: behind))
                problems.append(
                    "the replica of \(name) on host \(expected.host) is "
                        + "\(HumanText.count(behind, "entry").entries) behind"
                )
            }
        }
    }

    /// The host of the leader that followers of the latest term hear from, if it has not been heard itself. One that
    /// answers knows better than its followers whether it leads.
    private func hostThatLeads(
        _ group: Group, by replicas: [(host: HostID, status: ReplicaStatus)], _ accounts: [HostAccount]
    ) -> HostID? {
        let followers = replicas.filter {
            $0.status.term == group.term && $0.status.isQuorumActive && [.follower, .learner].contains($0.status.role)
        }
        guard let leader = followers.first?.status.leader, followers.allSatisfy({ $0.status.leader == leader }),
            let host = group.replicas.first(where: { $0.replica == leader })?.host,
            accounts.first(where: { $0.host.id == host })?.status == nil
        else { return nil }
        return host
    }

    private mutating func judgeHosts(_ accounts: [HostAccount]) {
        for account in accounts.reversed() {
            guard let status = account.status else {
                problems.insert(
                    "host \(account.host.id) at \(account.host.address) is missing: \(account.problem)", at: 0)
                continue
            }
            let others = accounts.count { $0.status != nil } - 1
            if status.peersConnected < others {
                problems.insert(
                    "host \(account.host.id) is connected to \(status.peersConnected) of the \(others) other hosts that "
                        + "answer: its log and theirs say why", at: 0)
            }
            if !status.problem.isEmpty { problems.insert("host \(account.host.id): \(status.problem)", at: 0) }
        }
    }

    /// The first eight.
    private static func list(_ names: [String]) -> String {
        names.prefix(8).joined(separator: ", ") + (names.count > 8 ? ", …" : "")
    }
}

extension String {
    /// "3 entrys" is no English.
    fileprivate var entries: String { replacing("entrys", with: "entries") }
}
