// `bifrost cluster`: what concerns the cluster as a whole, which is the feature level of its formats and commands.

import ArgumentParser
import Messages
import Primitives
import RPC
import Ring

struct ClusterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster", abstract: "Shows the cluster's feature level, and raises it after an upgrade.",
        discussion: """
            A cluster uses formats and commands up to its feature level only, so that hosts of several versions serve \
            side by side. When all hosts run a newer version, the level can be raised. Documentation/Members.md walks \
            through an upgrade.
            """,
        subcommands: [ClusterShow.self, ClusterUpgrade.self])
}

struct ClusterShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Prints the feature level in force, each host's, and which one is possible.",
        discussion: """
            Registered is what the map has of a host, knows what the process says that runs there now. A host that was \
            started with a newer version is registered anew within seconds, by itself.

            EXAMPLES:
              bifrost cluster show
              bifrost cluster show --json
            """)

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Host: Encodable {
            var host: UInt64
            var name: String
            var address: String
            var registered: UInt32
            /// Null if it does not answer.
            var knows: UInt32?
        }
        var cluster: String
        var mapVersion: UInt64
        var featureLevel: UInt32
        /// To which it can be raised now; the same if it can't.
        var possible: UInt32
        /// What this program knows.
        var programKnows: UInt32
        var hosts: [Host]
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(2))
        defer { administrator.close() }
        let map = try await administrator.map()
        let levels = ClusterLevels(map, try await administrator.accounts(map))
        if options.common.json {
            return try Output.json(
                Report(
                    cluster: map.cluster.description, mapVersion: map.version, featureLevel: levels.level,
                    possible: levels.possible, programKnows: FeatureLevel.current,
                    hosts: zip(map.hosts, levels.hosts).map { host, level in
                        Report.Host(
                            host: host.id.rawValue, name: host.name, address: host.address,
                            registered: level.registered, knows: level.named)
                    }))
        }
        var table = Table([
            ("host", .right), ("name", .left), ("address", .left), ("registered", .right), ("knows", .right),
        ])
        for (host, level) in zip(map.hosts, levels.hosts) {
            table.add([
                "\(host.id)", host.name, host.address, "\(level.registered)",
                level.named.map { "\($0)" } ?? "no answer",
            ])
        }
        try Output.line(
            """
            cluster \(map.cluster), map \(map.version): feature level \(levels.level), \
            \(ClusterLevels.words(levels.level))
            \(verdict(levels))
            \(table.text)
            """)
    }

    private func verdict(_ levels: ClusterLevels) -> String {
        if levels.possible > levels.level {
            return "it can be raised to \(levels.possible), \(ClusterLevels.words(levels.possible)), with "
                + "'bifrost cluster upgrade'"
        }
        guard levels.level < FeatureLevel.current else { return "that is the highest that this program knows" }
        let old = levels.holding(below: levels.level + 1)
        return old.isEmpty
            ? "it can be raised as soon as the hosts' records are renewed" : "it can't be raised: \(old)"
    }
}

struct ClusterUpgrade: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade", abstract: "Raises the cluster's feature level; it never goes back.",
        discussion: """
            Every host of the map must know the level: it is refused otherwise, and names those that do not. Hosts that \
            were just started with a newer version, or don't answer, are waited for. Afterwards no host of an \
            older version can be started or join. Where the level is there already, nothing is done.

            EXAMPLES:
              bifrost cluster upgrade --dry-run
              bifrost cluster upgrade
              bifrost cluster upgrade --to 3 --json
            """)

    @Option(
        help: ArgumentHelp("Which level. (default: the highest that all hosts know)", valueName: "level"))
    var to: UInt32?

    @Flag(help: "Only say what would be done.")
    var dryRun = false

    @Flag(
        inversion: .prefixedNo,
        help: "Show what it waits for on standard error. (default: if that is a terminal)")
    var progress: Bool?

    @OptionGroup var options: ClientOptions

    private static let timeout = Duration.seconds(30)
    private static let pause = Duration.milliseconds(200)

    private struct Report: Encodable {
        /// In force before, and now; with --dry-run: would be.
        var from: UInt32
        var to: UInt32
        var mapVersion: UInt64
        var changed: Bool
        var dryRun: Bool
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: Self.timeout)
        defer { administrator.close() }
        let meter = StandingMeter(
            "raising the feature level", counting: "host", isShown: progress ?? Output.isErrorTerminal)
        defer { meter.finish() }
        while true {
            let isLast = administrator.isOver
            let map = try await administrator.map()
            let levels = ClusterLevels(map, try await administrator.accounts(map))
            switch try levels.decide(to) {
            case .there: return try report(from: levels.level, to: levels.level, map.version, changed: false)
            case .raise(let level):
                guard !dryRun else { return try report(from: levels.level, to: level, map.version, changed: false) }
                let change = try await administrator.bring(about: .raiseFeatureLevel(level), from: map)
                return try report(from: levels.level, to: level, change.mapVersion, changed: change.isChanged)
            case .wait(let lines):
                meter.show(lines)
                guard !isLast else {
                    throw ToolError(
                        .unavailable,
                        "not within the time: \(lines[0])\(lines.count > 1 ? ", and \(lines.count - 1) more" : ""). Start a "
                            + "newer version there, and let a host of that version lead the meta group, which can reach "
                            + "it; nothing was changed")
                }
                try await Task.sleep(for: Self.pause)
            }
        }
    }

    private func report(from: UInt32, to: UInt32, _ version: UInt64, changed: Bool) throws {
        if options.common.json {
            return try Output.json(Report(from: from, to: to, mapVersion: version, changed: changed, dryRun: dryRun))
        }
        let words = ClusterLevels.words(to)
        if from == to {
            return try Output.line("the cluster is at feature level \(to) already, \(words); nothing to do")
        }
        if dryRun { return try Output.line("the cluster would go from feature level \(from) to \(to), \(words)") }
        try Output.line(
            "the cluster is at feature level \(to), \(words)" + (changed ? "" : "; somebody else was faster"))
    }
}
