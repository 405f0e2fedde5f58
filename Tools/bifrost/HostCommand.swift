// `bifrost host`: hosts come, get empty, and go.

import ArgumentParser
import Messages
import Primitives
import RPC
import Ring

struct HostCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "host", abstract: "Looks at the cluster's hosts, adds, empties and removes them.",
        discussion: """
            A host is named by its id, its name or its address. Documentation/Members.md walks through adding one, \
            emptying one and removing it.
            """,
        subcommands: [HostList.self, HostAdd.self, HostWeight.self, HostDrain.self, HostRemove.self])
}

extension HostState {
    package var word: String {
        switch self {
        case .active: "active"
        case .draining: "draining"
        }
    }
}

struct HostList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Prints all hosts, and how many replicas and leaders they have.",
        discussion: """
            EXAMPLES:
              bifrost host list
              bifrost host list --json
            """)

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Host: Encodable {
            var host: UInt64
            var name: String
            var address: String
            var zone: String
            var weight: UInt32
            var state: String
            /// Of those in the map, also those that are still to come or to leave.
            var replicas: Int
            var leads: Int
            var reachable: Bool
            var problem: String?
        }
        var cluster: String
        var mapVersion: UInt64
        var hosts: [Host]
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(2))
        defer { administrator.close() }
        let map = try await administrator.map()
        let accounts = try await administrator.accounts(map)
        let health = ClusterHealth(map: map, accounts: accounts)
        var report = Report(cluster: map.cluster.description, mapVersion: map.version, hosts: [])
        for account in accounts {
            let host = account.host
            let isItself = account.status.map { $0.cluster == map.cluster && $0.host == host.id } ?? false
            let problem = isItself ? account.status?.problem ?? "" : account.problem
            report.hosts.append(
                Report.Host(
                    host: host.id.rawValue, name: host.name, address: host.address, zone: host.zone,
                    weight: host.weight, state: host.state.word, replicas: map.replicas(on: host.id).count,
                    leads: health.groups.count { $0.leader == host.id }, reachable: isItself,
                    problem: account.status != nil && !isItself
                        ? "another host answers there" : problem.isEmpty ? nil : problem))
        }
        if options.common.json { return try Output.json(report) }
        var table = Table([
            ("host", .right), ("name", .left), ("address", .left), ("zone", .left), ("weight", .right),
            ("state", .left), ("replicas", .right), ("leads", .right), ("reachable", .left),
        ])
        for host in report.hosts {
            table.add([
                "\(host.host)", host.name, host.address, host.zone.isEmpty ? "-" : host.zone, "\(host.weight)",
                host.state, "\(host.replicas)", "\(host.leads)",
                (host.reachable ? "yes" : "no") + (host.problem.map { ": \($0)" } ?? ""),
            ])
        }
        try Output.line("cluster \(map.cluster), map \(map.version)\n\(table.text)")
    }
}

struct HostAdd: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Makes a host that runs and belongs to no cluster a member.",
        discussion: """
            Start it with 'bifrost serve' and an empty directory first ('serve --join' needs none of this). It gets an id and the cluster's map, and no \
            replicas: those come when others drain or when groups are given replicas there. If it stops half-way, run \
            it again: it goes on where it stopped, and does nothing if all is done.

            EXAMPLES:
              bifrost host add 10.0.0.4:7001
              bifrost host add 10.0.0.4:7001 --weight 200 --json
            """)

    @Argument(
        help: ArgumentHelp("Where the new host listens.", valueName: "host:port"),
        transform: AddressList.init(parsing:))
    var address: AddressList

    @Option(
        help: ArgumentHelp(
            "Its share of replicas and leaders, in proportion to other hosts'. (default: 100)",
            valueName: "number"))
    var weight: UInt32?

    @OptionGroup var options: ClientOptions

    func validate() throws {
        guard address.addresses.count == 1 else { throw ValidationError("expected one address, found '\(address)'") }
    }

    private static let timeout = Duration.seconds(30)

    func run() async throws {
        let administrator = Administrator(options, timeout: Self.timeout)
        defer { administrator.close() }
        let deadline =
            RPCClock.now() + UInt64(max(0, (options.timeout?.duration ?? Self.timeout) / .nanoseconds(1)))
        let newcomer = try HostProbe(address.addresses[0])
        defer { newcomer.close() }
        let joined = try await HostJoin(administrator: administrator, newcomer: newcomer, deadline: deadline).run(
            weight: weight ?? SelfJoin.weight)
        guard joined.isChanged else { return try reportMember(joined.ping, joined.map) }
        try report(joined.ping, joined.map, changed: true)
    }

    /// It belongs to this cluster, by what it says.
    private func reportMember(_ ping: PingReply, _ map: ClusterMap) throws {
        guard let host = map.host(ping.host) else {
            throw ToolError(
                .negative,
                "\(ping.address) was host \(ping.host) of this cluster and was removed from it: nothing was changed; a host "
                    + "comes back only with a new, empty --directory, under a new id")
        }
        guard weight == nil || weight == host.weight else {
            throw ToolError(
                .negative,
                "\(ping.address) is host \(ping.host) already, with weight \(host.weight): change it with "
                    + "'bifrost host weight'; nothing was changed")
        }
        try report(ping, map, changed: false)
    }

    private func report(_ ping: PingReply, _ map: ClusterMap, changed: Bool) throws {
        if options.common.json {
            return try Output.json(
                ChangeReport(host: ping.host.rawValue, mapVersion: map.version, changed: changed, done: true))
        }
        try Output.line(
            changed
                ? "\(ping.address) is host \(ping.host) of cluster \(map.cluster); it has no replicas yet"
                : "\(ping.address) is host \(ping.host) of cluster \(map.cluster) already; nothing to do")
    }
}

struct HostDrain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Moves all replicas of a host elsewhere.",
        discussion: """
            The host gets no new replicas, and each that it has gets a successor on another host and leaves when that \
            one has caught up. It waits until none is left and shows what is waited for; it goes on by itself if this \
            command is interrupted. With --cancel the host is as the others again: moves under way go to their end, \
            and no other begins.

            EXAMPLES:
              bifrost host drain 2
              bifrost host drain 10.0.0.2:7001 --timeout 1h --progress
              bifrost host drain 2 --no-wait
              bifrost host drain 2 --cancel
            """)

    @Argument(help: ArgumentHelp("Its id, name or address.", valueName: "host"))
    var host: String

    @Flag(help: "Let it have replicas again.")
    var cancel = false

    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var host: UInt64
        var state: String
        /// That are still on it.
        var replicas: Int
        var mapVersion: UInt64
        var changed: Bool
        var done: Bool
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(600))
        defer { administrator.close() }
        let first = try await administrator.map()
        let host = try MapNames.host(host, in: first)
        let state = cancel ? HostState.active : .draining
        let change = try await administrator.bring(about: .setHostState(host.id, state), from: first)
        if !cancel, !wait.noWait {
            let name = "host \(host.id)"
            try await administrator.wait(
                for: [.empty(host.id)], since: change.mapVersion, what: name, hint: "bifrost host list",
                meter: wait.meter("draining \(name)"))
        }
        let map = try await administrator.map()
        let replicas = map.replicas(on: host.id).count
        if options.common.json {
            return try Output.json(
                Report(
                    host: host.id.rawValue, state: state.word, replicas: replicas, mapVersion: change.mapVersion,
                    changed: change.isChanged, done: cancel || replicas == 0))
        }
        let before = change.isChanged ? "" : "; that was asked for before"
        if cancel { return try Output.line("host \(host.id) is active, with \(count(replicas))\(before)") }
        try Output.line(
            replicas == 0
                ? "host \(host.id) has no replicas: it can be removed with 'bifrost host remove \(host.id)'"
                : "host \(host.id) is draining, with \(count(replicas)) to go\(before)")
    }

    private func count(_ replicas: Int) -> String { HumanText.count(replicas, "replica") }
}

struct HostRemove: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Takes a host without replicas out of the cluster.",
        discussion: """
            Refused while replicas are on it: let it drain first. Its id is never given again. Its process may be \
            stopped before or afterwards; its directory is of no use any more.

            EXAMPLES:
              bifrost host remove 2
            """)

    @Argument(help: ArgumentHelp("Its id, name or address.", valueName: "host"))
    var host: String

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let host = try MapNames.host(host, in: map)
        let change = try await administrator.bring(about: .removeHost(host.id), from: map)
        if options.common.json {
            return try Output.json(
                ChangeReport(
                    host: host.id.rawValue, mapVersion: change.mapVersion, changed: change.isChanged, done: true))
        }
        try Output.line(
            "host \(host.id) at \(host.address) is removed" + (change.isChanged ? "" : "; somebody else was faster"))
    }
}

struct HostWeight: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "weight", abstract: "Changes a host's share of replicas and leaders.",
        discussion: """
            In proportion to other hosts'; 100 is the ordinary one. With 0 it gets no new replicas and is preferred \
            nowhere. What is there stays: replicas that drain from elsewhere, new groups and 'bifrost group \
            spread-leaders' go by it.

            EXAMPLES:
              bifrost host weight 4 200
            """)

    @Argument(help: ArgumentHelp("Its id, name or address.", valueName: "host"))
    var host: String

    @Argument(help: ArgumentHelp("A whole number up to 4,294,967,295.", valueName: "number"))
    var weight: UInt32

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let host = try MapNames.host(host, in: map)
        let change = try await administrator.bring(about: .setHostWeight(host.id, weight), from: map)
        if options.common.json {
            return try Output.json(
                ChangeReport(
                    host: host.id.rawValue, mapVersion: change.mapVersion, changed: change.isChanged, done: true))
        }
        try Output.line(
            "host \(host.id) has weight \(weight)" + (change.isChanged ? ", and had \(host.weight)" : " already"))
    }
}
