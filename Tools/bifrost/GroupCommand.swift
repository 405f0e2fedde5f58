// `bifrost group list` and `group members`: who belongs to which group, what is wanted, and what it waits for.

import ArgumentParser
import Messages
import Primitives
import Ring

struct GroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group", abstract: "Looks at groups and their replicas, and changes them.",
        discussion: """
            What is asked for is written into the cluster's map at once and brought about by the hosts, whether anybody \
            waits for it or not: a new replica learns, catches up and then votes; one that is to leave does so when the \
            others can do without it. Documentation/Members.md walks through it.
            """,
        subcommands: [
            GroupList.self, GroupMembers.self, GroupAddReplica.self, GroupRemoveReplica.self, GroupPromote.self,
            GroupDemote.self, GroupReplaceReplica.self, GroupTransferLeader.self, GroupSpreadLeaders.self,
            GroupCreate.self, GroupSplit.self, GroupDelete.self, GroupStop.self, GroupStart.self,
        ])
}

/// A group on the command line: its number, or "meta".
struct GroupArgument: ExpressibleByArgument {
    var id: GroupID

    init?(argument: String) {
        if argument == "meta" {
            id = .meta
        } else if let number = UInt32(argument) {
            id = GroupID(number)
        } else {
            return nil
        }
    }
}

/// A replica as it is wanted, as it was reported, and as its host says.
struct ReplicaReport: Encodable {
    var replica: UInt64
    var host: UInt64
    var address: String
    /// "voter", "learner", "leaving" or "replaced".
    var wanted: String
    /// "absent", "voter" or "learner".
    var reported: String
    var successorOf: UInt64?
    var leads: Bool
    var preferred: Bool
    /// As its host says; null if that does not answer, or has no such replica.
    var state: String?
    var appliedIndex: UInt64?
    /// Entries that the leader has committed and it has not applied.
    var entriesBehind: Int?
    var waitsFor: String?
    var problem: String?

    init(_ record: ReplicaRecord, of group: GroupRecord, _ found: GroupReplicas, _ map: ClusterMap) {
        let status = found.statuses[record.id]
        replica = record.id.rawValue
        host = record.host.rawValue
        address = map.host(record.host)?.address ?? ""
        wanted = record.role.word
        reported = record.membership.word
        successorOf = record.successorOf == .none ? nil : record.successorOf.rawValue
        leads = found.leader?.replica == record.id
        preferred = group.preferredLeader == record.id
        state = status?.role.description
        appliedIndex = status?.appliedIndex.rawValue
        entriesBehind = found.entriesBehind(record.id)
        waitsFor = record.openWork
        problem = status.flatMap { $0.problem.isEmpty ? nil : $0.problem }
        if !found.answering.contains(record.host) { problem = "its host does not answer" }
    }
}

extension ReplicaRecord.Role {
    package var word: String {
        switch self {
        case .voter: "voter"
        case .learner: "learner"
        case .leaving: "leaving"
        case .replaced: "replaced"
        }
    }
}

extension ReplicaRecord.Membership {
    package var word: String {
        switch self {
        case .absent: "absent"
        case .voter: "voter"
        case .learner: "learner"
        }
    }
}

private struct GroupReport: Encodable {
    /// Of a group alone; in a list they stand above all groups.
    var cluster: String?
    var mapVersion: UInt64?
    var group: UInt32
    var weight: UInt32
    var slots: Int
    var configurationIndex: UInt64
    var settled: Bool
    /// People stopped it.
    var stopped: Bool
    /// The replica, by the name that it had first; `leaderReplica` and `leaderHost` say what they are.
    var leader: UInt64?
    var leaderReplica: UInt64?
    var leaderHost: UInt64?
    var term: UInt64?
    var commitIndex: UInt64?
    var replicas: [ReplicaReport]

    init(_ group: GroupRecord, _ map: ClusterMap, _ accounts: [HostAccount], slots: Int) {
        let found = GroupReplicas(group, accounts)
        self.group = group.id.rawValue
        weight = group.weight
        self.slots = slots
        configurationIndex = group.configurationIndex.rawValue
        settled = group.isSettled
        stopped = group.state == .stopped
        leader = found.leader?.replica.rawValue
        leaderReplica = leader
        leaderHost = found.leader.flatMap { group.host(of: $0.replica)?.rawValue }
        term = found.leader?.term.rawValue
        commitIndex = found.leader?.commitIndex.rawValue
        replicas = group.replicas.map { ReplicaReport($0, of: group, found, map) }
    }
}

struct GroupList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Prints all groups, their replicas and what they wait for.",
        discussion: """
            Of a group's replicas, the leader is marked with *, and what is not as it is wanted stands in parentheses: \
            first what the replica is, then what it is to be.

            EXAMPLES:
              bifrost group list
              bifrost group list --json
            """)

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var cluster: String
        var mapVersion: UInt64
        var groups: [GroupReport]
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(2))
        defer { administrator.close() }
        let map = try await administrator.map()
        let accounts = try await administrator.accounts(map)
        let counts = Dictionary(uniqueKeysWithValues: map.ring.counts().map { ($0.group, $0.slots) })
        let groups = map.groups.map { GroupReport($0, map, accounts, slots: counts[$0.id] ?? 0) }
        if options.common.json {
            return try Output.json(
                Report(cluster: map.cluster.description, mapVersion: map.version, groups: groups))
        }
        var table = Table([
            ("group", .right), ("slots", .right), ("leader", .left), ("replicas", .left), ("waits for", .left),
        ])
        for group in groups {
            let replicas = group.replicas.map { replica in
                let name = "\(replica.replica) on \(replica.host)\(replica.leads ? "*" : "")"
                return replica.wanted == "voter" && replica.reported == "voter"
                    ? name
                    : replica.wanted == replica.reported
                        ? "\(name) (\(replica.wanted))" : "\(name) (\(replica.reported), \(replica.wanted))"
            }
            table.add([
                GroupID(group.group).name, "\(group.slots)", group.leaderHost.map { "host \($0)" } ?? "none",
                replicas.joined(separator: ", "),
                group.stopped
                    ? "group start: it is stopped"
                    : group.replicas.lazy.compactMap { $0.waitsFor ?? $0.problem }.first ?? "-",
            ])
        }
        try Output.line(
            """
            cluster \(map.cluster), map \(map.version): \(HumanText.count(map.dataGroups.count, "group")) and the meta \
            group on \(HumanText.count(map.hosts.count, "host"))
            \(table.text)
            """)
    }
}

struct GroupMembers: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "members", abstract: "Prints one group's replicas: what is wanted, and what is so.",
        discussion: """
            wanted is what the map says that a replica is to be, reported what the group's leader said of it last, \
            state what its host says now.

            EXAMPLES:
              bifrost group members 3
              bifrost group members meta --json
            """)

    @Argument(help: ArgumentHelp("The group's number, or meta.", valueName: "group"))
    var group: GroupArgument

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(2))
        defer { administrator.close() }
        let map = try await administrator.map()
        let record = try MapNames.group(group.id, in: map)
        let accounts = try await administrator.accounts(map)
        var report = GroupReport(record, map, accounts, slots: map.ring.slots(of: record.id).count)
        (report.cluster, report.mapVersion) = (map.cluster.description, map.version)
        if options.common.json { return try Output.json(report) }
        var table = Table([
            ("replica", .right), ("host", .right), ("address", .left), ("wanted", .left), ("reported", .left),
            ("state", .left), ("applied", .right), ("behind", .right), ("waits for", .left),
        ])
        for replica in report.replicas {
            table.add([
                "\(replica.replica)", "\(replica.host)", replica.address,
                replica.wanted + (replica.successorOf.map { ", after \($0)" } ?? ""), replica.reported,
                replica.state ?? "-", replica.appliedIndex.map { "\($0)" } ?? "-",
                replica.entriesBehind.map { "\($0)" } ?? "-", replica.waitsFor ?? replica.problem ?? "-",
            ])
        }
        let leader =
            if let leader = report.leader, let host = report.leaderHost {
                "replica \(leader) on host \(host) leads in term \(report.term ?? 0), commit \(report.commitIndex ?? 0)"
            } else {
                "no leader"
            }
        try Output.line(
            """
            \(record.id.words)\(report.stopped ? ", stopped" : ""): \(leader); preferred: replica \(record.preferredLeader)
            \(HumanText.count(report.slots, "slot")), weight \(record.weight), configuration of index \
            \(record.configurationIndex), map \(map.version)
            \(table.text)
            """)
    }
}
