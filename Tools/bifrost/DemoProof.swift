// What the demo finds out about its hosts: who leads, whether replicas agree, whether an export is the input. Asks over
// the network and through fresh processes; refuses to believe anything that this process remembers of the import.

import Bifrost
import Foundation
import Messages
import Primitives
import Ring

final class DemoProof {
    let map: ClusterMap
    private let hosts: LocalCluster
    private let cluster: Cluster
    private let input: DemoInput
    /// Leaders of data groups when they were last looked at.
    private var last: Replicas?

    init(hosts: LocalCluster, cluster: Cluster, map: ClusterMap, input: DemoInput) {
        self.hosts = hosts
        self.cluster = cluster
        self.map = map
        self.input = input
    }

    // MARK: Replicas

    /// All replicas at one moment at which each group's are at the same index.
    struct Replicas {
        struct Group {
            var group: GroupID
            var leader: HostID
            var hosts: [HostID]
            var slots: Int
            var term: Term
            var index: LogIndex
            /// Of each replica, in the order of `hosts`.
            var digests: [UInt64]

            var agrees: Bool { digests.allSatisfy { $0 == digests[0] } }
        }
        /// With the meta group.
        var groups: [Group]
        /// How many data groups each host leads.
        var leads: [(host: HostID, groups: Int)]
    }

    /// Waits until all hosts serve, every group has a leader, and all replicas have applied all that is committed.
    func settled(within limit: Duration) async throws -> Replicas {
        let clock = ContinuousClock()
        let end = clock.now + limit
        var problem = ""
        while clock.now < end {
            let accounts = try await cluster.accounts(timeout: .seconds(1))
            let health = ClusterHealth(map: map, accounts: accounts, lagEntriesMax: 0)
            if health.verdict == .healthy, let replicas = compare(health, accounts) {
                last = replicas
                return replicas
            }
            problem = health.problems.first ?? "replicas of a group are at different indices"
            for host in hosts.hosts where !host.isRunning {
                throw ToolError(.fault, "host \(host.number) ended by itself")
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw ToolError(.unavailable, "after \(limit.components.seconds) s the hosts have not settled: \(problem)")
    }

    private func compare(_ health: ClusterHealth, _ accounts: [HostAccount]) -> Replicas? {
        var groups: [Replicas.Group] = []
        for group in health.groups {
            guard let leader = group.leader else { return nil }
            var found: [ReplicaStatus] = []
            for place in group.replicas {
                let status = accounts.first { $0.host.id == place.host }?.status
                guard let replica = status?.replicas.first(where: { $0.replica == place.replica }) else { return nil }
                found.append(replica)
            }
            guard let first = found.first,
                found.allSatisfy({ $0.appliedIndex == first.appliedIndex && $0.digestIndex == $0.appliedIndex })
            else { return nil }
            groups.append(
                Replicas.Group(
                    group: group.id, leader: leader, hosts: group.replicas.map(\.host), slots: group.slots,
                    term: group.term,
                    index: first.appliedIndex, digests: found.map(\.digest)))
        }
        let leads = map.hosts.map { host in
            (host: host.id, groups: groups.count { $0.group != .meta && $0.leader == host.id })
        }
        return Replicas(groups: groups, leads: leads)
    }

    /// The host that leads most groups.
    var strongest: HostID { last?.leads.max { $0.groups < $1.groups }?.host ?? map.hosts[0].id }
    func leads(_ host: HostID) -> Int { last?.leads.first { $0.host == host }?.groups ?? 0 }

    // MARK: Exports

    private struct ExportAccount: Decodable {
        var records: Int
        var groups: Int
        var groupsReadAtHost: Int
    }

    /// A fresh process reads everything at this host, and every byte is compared.
    func export(through host: LocalCluster.HostProcess) async throws -> DemoReport.Export {
        let result = try await hosts.command([
            "export", "--connect", host.address, "--host", host.address, "--format", input.format.rawValue, "--sorted",
            "--json",
            "-",
        ])
        guard result.ending == .exit(0) else {
            throw ToolError(
                .unavailable,
                "the export through host \(host.number) ended with \(result.ending): "
                    + result.errorText.trimmingCharacters(in: .whitespacesAndNewlines))
        }
        guard let account = try? JSONDecoder().decode(ExportAccount.self, from: Data(result.errors)) else {
            throw ToolError(
                .fault, "the export through host \(host.number) gave an account that can't be read: \(result.errorText)"
            )
        }
        guard account.groupsReadAtHost == account.groups else {
            throw ToolError(
                .fault,
                "the export through host \(host.number) read \(account.groupsReadAtHost) of \(account.groups) groups there"
            )
        }
        let difference = DemoInput.firstDifference(expected: input.sorted, found: result.output, input.format)
        return DemoReport.Export(
            host: UInt64(host.number), address: host.address, records: account.records,
            sha256: SHA256.hexadecimalDigest(of: result.output), equal: difference == nil, difference: difference)
    }
}
