// `bifrost status`: one word, then why.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import RPC
import Ring

struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says whether the cluster is well: healthy, degraded or unavailable.",
        discussion: """
            The first line is that one word. healthy (exit code 0): all hosts answer, every group has a leader and \
            all its replicas, none is far behind. degraded (3): all data can be read and written, but a host or a \
            replica is missing or behind, or a leader can't be reached from here while its followers still hear \
            from it. unavailable (4): some group has no leader, or no host answers.

            With --watch it asks again each second, or as often as --interval says, and ends with Ctrl-C; with --json \
            one object per line.

            EXAMPLES:
              bifrost status
              bifrost status --json
              bifrost status --watch
              until bifrost status --timeout 1s > /dev/null 2>&1; do sleep 1; done
            """)

    @Option(
        help: ArgumentHelp(
            "Entries that a replica may be behind its leader without being called lagging.", valueName: "count"))
    var lag = 10_000

    @Flag(help: "Ask again and again.")
    var watch = false

    @Option(
        help: ArgumentHelp(
            "With --watch: how long to wait in between, as in 500ms, 5s. (default: 1s)", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var interval: TimeSpan?

    @OptionGroup var options: ClientOptions

    /// For the hosts that don't answer; those that do take milliseconds.
    private static let timeout = Duration.seconds(2)

    private struct Report: Encodable {
        struct Host: Encodable {
            var host: UInt64
            var name: String
            var address: String
            var zone: String
            var answers: Bool
            var problem: String?
            var version: String?
            var uptimeMillis: UInt64?
            var replicas: Int?
            var leads: Int?
            var peersConnected: UInt32?
            var records: UInt64?
            var memoryBytes: UInt64?
            var journalBytes: UInt64?
            var storeBytes: UInt64?
            var syncP50Micros: UInt64?
            var syncP99Micros: UInt64?
            /// What the scrubber did since the process started.
            var scrubbedBytes: UInt64?
            var scrubRounds: UInt64?
            /// Since the last of these ended.
            var scrubRoundAgeMillis: UInt64?
            /// Replicas found damaged since the process started, by whatever read them.
            var damages: UInt64?
        }
        struct Laggard: Encodable {
            var group: UInt32
            var host: UInt64
            var entries: Int
        }
        var status: ClusterHealth.Verdict
        var problems: [String]
        var cluster: String?
        var mapVersion: UInt64?
        var ringEpoch: UInt64?
        var groups: Int?
        var hosts: [Host] = []
        var groupsWithoutLeader: [UInt32] = []
        /// Whose leader does not answer here, and leads as other replicas say.
        var groupsWithUnreachedLeader: [UInt32] = []
        var laggingReplicas: [Laggard] = []
    }

    func validate() throws {
        guard lag >= 0 else { throw ValidationError("--lag is 0 or more, not \(lag)") }
        guard watch || interval == nil else { throw ValidationError("--interval goes with --watch") }
    }

    func run() async throws {
        guard watch else { return try await look() }
        while true {
            let next = ContinuousClock.now + (interval?.duration ?? .seconds(1))
            // A terminal shows the newest alone: cursor to the corner, the rest cleared.
            if Output.isTerminal, !options.common.json { try Output.write(Bytes("\u{1b}[H\u{1b}[2J")) }
            do { try await look() } catch is Outcome {
                // What it found is what people watch for.
            }
            if !Output.isTerminal, !options.common.json { try Output.line("") }
            try await Task.sleep(until: next, clock: .continuous)
        }
    }

    private func look() async throws {
        let map: ClusterMap
        let accounts: [HostAccount]
        let deadline = ContinuousClock.now + (options.timeout?.duration ?? Self.timeout)
        do {
            let cluster = try await options.cluster(timeout: Self.timeout, isPatient: false)
            // As a host gave it just now.
            map = try await cluster.map()
            accounts = try await cluster.accounts(timeout: max(ContinuousClock.now.duration(to: deadline), .zero))
            await cluster.close()
        } catch let error as BifrostError where ToolError(error).status == .unavailable {
            return try sayUnavailable(error)
        }
        let health = ClusterHealth(map: map, accounts: accounts, lagEntriesMax: lag)
        if options.common.json {
            try say(report(map, accounts, health))
        } else {
            try Output.line(text(map, accounts, health))
        }
        switch health.verdict {
        case .healthy: return
        case .degraded: throw Outcome(.degraded)
        case .unavailable: throw Outcome(.unavailable)
        }
    }

    /// As the result, or as one of many.
    private func say(_ report: Report) throws(ToolError) {
        if watch { try Output.jsonLine(report) } else { try Output.json(report) }
    }

    private func sayUnavailable(_ error: BifrostError) throws {
        if options.common.json {
            try say(Report(status: .unavailable, problems: [error.message]))
        } else {
            try Output.line("unavailable\n\(error.message)")
        }
        throw Outcome(.unavailable)
    }

    private func report(_ map: ClusterMap, _ accounts: [HostAccount], _ health: ClusterHealth) -> Report {
        var report = Report(
            status: health.verdict, problems: health.problems, cluster: map.cluster.description,
            mapVersion: map.version,
            ringEpoch: map.ring.epoch.rawValue, groups: map.dataGroups.count)
        report.hosts = accounts.map { account in
            var host = Report.Host(
                host: account.host.id.rawValue, name: account.host.name, address: account.host.address,
                zone: account.host.zone,
                answers: account.status != nil, problem: account.problem.isEmpty ? nil : account.problem)
            if let status = account.status {
                host.problem = status.problem.isEmpty ? nil : status.problem
                host.version = status.version
                host.uptimeMillis = status.uptimeMillis
                host.replicas = status.replicas.count
                host.leads = status.leads
                host.peersConnected = status.peersConnected
                host.records = status.records
                host.memoryBytes = status.memoryBytes
                host.journalBytes = status.journalBytes
                host.storeBytes = status.storeBytes
                host.syncP50Micros = status.syncP50Micros
                host.syncP99Micros = status.syncP99Micros
            }
            if let upkeep = account.upkeep {
                host.scrubbedBytes = upkeep.scrubbedBytes
                host.scrubRounds = upkeep.scrubRounds
                host.scrubRoundAgeMillis = upkeep.sinceRoundMillis == .max ? nil : upkeep.sinceRoundMillis
                host.damages = upkeep.damages
            }
            return host
        }
        report.groupsWithoutLeader = health.leaderless.map(\.rawValue)
        report.groupsWithUnreachedLeader = health.unreached.map(\.group.rawValue)
        report.laggingReplicas = health.laggards.map {
            Report.Laggard(group: $0.group.rawValue, host: $0.host.rawValue, entries: $0.entries)
        }
        return report
    }

    private func text(_ map: ClusterMap, _ accounts: [HostAccount], _ health: ClusterHealth) -> String {
        var lines = [health.verdict.rawValue] + health.problems.map { "  \($0)" }
        lines.append(
            "cluster \(map.cluster): \(HumanText.count(map.hosts.count, "host")), "
                + "\(HumanText.count(map.dataGroups.count, "group")) and the meta group; map "
                + "\(map.version), ring epoch \(map.ring.epoch)"
        )
        var table = Table([
            ("host", .right), ("name", .left), ("address", .left), ("zone", .left), ("up for", .right),
            ("replicas", .right),
            ("leads", .right), ("peers", .right), ("memory", .right), ("journal", .right), ("store", .right),
            ("commit p50/p99", .right),
        ])
        for account in accounts {
            let start = [
                "\(account.host.id)", account.host.name, account.host.address,
                account.host.zone.isEmpty ? "-" : account.host.zone,
            ]
            guard let status = account.status else {
                table.add(start + ["no answer"] + Array(repeating: "-", count: 7))
                continue
            }
            table.add(
                start + [
                    HumanText.duration(milliseconds: status.uptimeMillis), "\(status.replicas.count)",
                    "\(status.leads)",
                    "\(status.peersConnected)", HumanText.bytes(status.memoryBytes),
                    HumanText.bytes(status.journalBytes),
                    HumanText.bytes(status.storeBytes),
                    "\(Self.millis(status.syncP50Micros))/\(Self.millis(status.syncP99Micros)) ms",
                ])
        }
        lines.append(table.text)
        lines.append("groups without a leader: \(Self.list(health.leaderless.map { "\($0)" }))")
        lines.append("lagging replicas: \(Self.list(health.laggards.map { "group \($0.group) on host \($0.host)" }))")
        return lines.joined(separator: "\n")
    }

    private static func list(_ names: [String]) -> String { names.isEmpty ? "none" : names.joined(separator: ", ") }
    private static func millis(_ micros: UInt64) -> String { HumanText.fixed(Double(micros) / 1_000, 1) }
}

extension HostStatus {
    /// Groups that this host leads, with a majority behind it.
    var leads: Int { replicas.count { $0.role == .leader && $0.isQuorumActive } }
    var records: UInt64 { replicas.reduce(0) { $0 + $1.records } }
}

extension Cluster {
    /// Why a host is missing, beside its address.
    private static func words(for error: BifrostError) -> String {
        (error.cause as? RPCError)?.code == .connectRefused ? "connection refused" : error.message
    }

    /// What every host says of itself.
    func accounts(timeout: Duration?) async throws(BifrostError) -> [HostAccount] {
        try await status(timeout: timeout).map { report -> HostAccount in
            switch report.status {
            case .success(let status):
                var account = HostAccount(host: report.host, status: status)
                account.upkeep = report.upkeep
                return account
            case .failure(let error):
                return HostAccount(host: report.host, status: nil, problem: Self.words(for: error))
            }
        }
    }
}
