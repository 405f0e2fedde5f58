// `bifrost ring show`: who has which part of the keys, and where.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import Ring

struct RingCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ring",
        abstract: "Looks at the ring: which group has which keys, and on which hosts; and proves it.",
        subcommands: [RingShow.self, RingVerify.self])
}

struct RingShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Prints groups, their shares of the ring, leaders and replicas.",
        discussion: """
            Of the hosts of a group, the leader is marked with *, and one that should lead but does not with (*). \
            With --key, prints where one key lives. With --svg the ring is drawn as well: each group's slots in its \
            colour, slot 0 at the top.

            EXAMPLES:
              bifrost ring show
              bifrost ring show --json
              bifrost ring show --key '{user:7}/photo'
              bifrost ring show --svg ring.svg
            """)

    @Option(help: "Only the group of this key.")
    var key: KeyArgument?

    @Option(
        help: ArgumentHelp("Draw the ring into this file; - is standard output.", valueName: "file"),
        completion: .file())
    var svg: String?

    @OptionGroup var options: ClientOptions

    private static let timeout = Duration.seconds(2)

    private struct Report: Encodable {
        struct Group: Encodable {
            var group: UInt32
            var slots: Int
            var share: Double
            /// The host, by the name that it had first; `leaderHost` and `leaderReplica` say what they are.
            var leader: UInt64?
            var leaderHost: UInt64?
            var leaderReplica: UInt64?
            /// A host.
            var preferredLeader: UInt64?
            var term: UInt64
            var commitIndex: UInt64
            var revision: UInt64
            var replicas: [Replica]
        }
        struct Replica: Encodable {
            var replica: UInt64
            var host: UInt64
            var address: String
        }
        var cluster: String
        var epoch: UInt64
        var slot: UInt16?
        var groups: [Group]
    }

    func validate() throws {
        guard svg != "-" || !options.common.json else {
            throw ValidationError("--svg - and --json would share standard output: name a file")
        }
    }

    func run() async throws {
        try key?.check()
        let cluster = try await options.cluster(timeout: Self.timeout)
        let map = try await cluster.map(refresh: true)
        let accounts = try await cluster.accounts(timeout: options.timeout?.duration ?? Self.timeout)
        await cluster.close()
        let health = ClusterHealth(map: map, accounts: accounts)
        if let svg {
            try write(picture: RingPicture(map: map, groups: health.groups).svg(), to: svg)
            if svg == "-" { return }
        }
        let slot = key.map { Ring.slot(of: $0.bytes) }
        let owner = slot.flatMap { map.owner(of: $0) }
        let groups = health.groups.filter { slot == nil || $0.id == owner }
        if options.common.json {
            return try Output.json(report(map, groups, slot))
        }
        try Output.line(text(map, groups, slot))
    }

    private func report(_ map: ClusterMap, _ groups: [ClusterHealth.Group], _ slot: Slot?) -> Report {
        var report = Report(
            cluster: map.cluster.description, epoch: map.ring.epoch.rawValue, slot: slot?.rawValue, groups: [])
        for group in groups {
            let replicas = group.replicas.map {
                Report.Replica(
                    replica: $0.replica.rawValue, host: $0.host.rawValue, address: map.host($0.host)?.address ?? "")
            }
            report.groups.append(
                Report.Group(
                    group: group.id.rawValue, slots: group.slots, share: Double(group.slots) / Double(Slot.count),
                    leader: group.leader?.rawValue, leaderHost: group.leader?.rawValue,
                    leaderReplica: group.leaderReplica?.rawValue, preferredLeader: group.preferredHost?.rawValue,
                    term: group.term.rawValue, commitIndex: group.commitIndex.rawValue,
                    revision: group.revision.rawValue, replicas: replicas))
        }
        return report
    }

    private func text(_ map: ClusterMap, _ groups: [ClusterHealth.Group], _ slot: Slot?) -> String {
        var lines: [String] = []
        if let key, let slot { lines.append("key \(HumanText.quoted(key.bytes)): slot \(slot)") }
        lines.append(
            "cluster \(map.cluster), ring epoch \(map.ring.epoch), \(HumanText.grouped(UInt64(Slot.count))) slots")
        var table = Table([
            ("group", .right), ("slots", .right), ("share", .right), ("leader", .right), ("term", .right),
            ("commit", .right),
            ("revision", .right), ("hosts", .left),
        ])
        for group in groups {
            let hosts = group.replicas.map { replica in
                switch replica.host {
                case group.leader: "\(replica.host)*"
                case group.preferredHost: "\(replica.host)(*)"
                default: "\(replica.host)"
                }
            }
            table.add([
                group.id == .meta ? "meta" : "\(group.id)", "\(group.slots)",
                "\(HumanText.fixed(100 * Double(group.slots) / Double(Slot.count), 2)) %",
                group.leader.map { "host \($0)" } ?? "none", "\(group.term)", "\(group.commitIndex)",
                "\(group.revision)",
                hosts.joined(separator: " "),
            ])
        }
        lines.append(table.text)
        lines.append("hosts: " + map.hosts.map { "\($0.id) = \($0.address)" }.joined(separator: ", "))
        return lines.joined(separator: "\n")
    }
}
