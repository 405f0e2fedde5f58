// `bifrost measure`: what a cluster of many groups costs, how fast it is there again, and how fast it is saved; how
// queries of state machines scale; how soon watches are told; how large collections behave; how slots move, and what is
// served meanwhile. Owns what its subcommands share; each of them has a file of its own.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring

struct Measure: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "measure",
        abstract:
            "Measures failover, idle groups, restarts, saves, queries, watches, sessions, collections, moves, throughput.",
        discussion: """
            Each starts host processes on loopback in a new directory below --directory, which has to be on a real disk, \
            makes a cluster of --groups groups and writes a record to each of them before anything is measured. The hosts \
            and their directory are removed at the end. For throughput and latency of one cluster see 'bifrost bench'.
            """,
        subcommands: [
            MeasureFailover.self, MeasureIdle.self, MeasureRestart.self, MeasureSnapshots.self, MeasureQueries.self,
            MeasureWatches.self, MeasureSessions.self, MeasureCollections.self, MeasureMoves.self,
            MeasureThroughput.self,
        ])
}

struct MeasureOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Groups of the cluster, 1 to 16384: each has slots.", valueName: "count"))
    var groups = 64

    @Option(help: ArgumentHelp("Hosts, 1 to 15.", valueName: "count"))
    var hosts = 3

    @Option(
        help: ArgumentHelp(
            "Make the hosts' directory below this one. (default: $TMPDIR or /var/tmp)", valueName: "path"),
        completion: .directory)
    var directory: String?

    @Option(help: ArgumentHelp("Event loops of each host. (default: as 'serve' takes)", valueName: "count"))
    var loops: Int?

    @Option(
        help: ArgumentHelp(
            "How long the cluster may take for each step: to be made, to serve, to be quiet. (default: 2m)",
            valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var timeout: TimeSpan?

    @Flag(help: "Keep the hosts' data and logs, and say where they are.")
    var keep = false

    @OptionGroup var common: CommonOptions

    var patience: Duration { timeout?.duration ?? .seconds(120) }

    func validate() throws {
        guard (1...Slot.count).contains(groups) else {
            throw ValidationError("--groups takes 1 to \(Slot.count), as each group needs a slot; not \(groups)")
        }
        guard (1...15).contains(hosts) else { throw ValidationError("--hosts takes 1 to 15, not \(hosts)") }
        try Serve.check(loops: loops)
    }

    /// Starts hosts, makes the cluster, runs the body and prints its result, and leaves nothing behind.
    func run<Report: MeasureReport>(
        _ name: String, _ body: (MeasuredCluster) async throws -> Report
    ) async throws {
        try await hosted(name) { cluster in try finish(try await body(cluster), cluster.ends) }
    }

    func finish(_ report: some MeasureReport, _ ends: [String]) throws {
        if common.json { try Output.json(report) } else { try Output.line(report.text) }
        let problems = report.problems + ends
        guard problems.isEmpty else {
            throw ToolError(.negative, "the run does not count: \(problems.joined(separator: "; "))")
        }
    }

    /// The same with whatever the body does with the cluster.
    func hosted<Result>(_ name: String, _ body: (MeasuredCluster) async throws -> Result) async throws -> Result {
        let local = try LocalCluster(
            below: try LocalCluster.parentDirectory(directory), name: "bifrost-measure", count: hosts)
        local.disposeOnSignals(keepDirectory: keep)
        defer {
            local.stopAll()
            local.dispose(keepDirectory: keep)
            if keep { Output.error("\(name): data and logs: \(local.directory)\n") }
        }
        do {
            let cluster = MeasuredCluster(local: local, options: self, name: name)
            return try await body(cluster)
        } catch {
            Output.error("\(name): what the hosts said last:\n")
            for line in local.hosts.flatMap(\.lastWords) { Output.error("\(name):   \(line)\n") }
            throw error
        }
    }
}

protocol MeasureReport: Encodable {
    /// For people.
    var text: String { get }
    /// Why the figures don't count; empty if they do.
    var problems: [String] { get }
}

/// The hosts under measurement, as a client and as their parent see them.
final class MeasuredCluster {
    let local: LocalCluster
    let options: MeasureOptions
    private let name: String
    private(set) var machine: Machine
    private var client: Cluster?
    /// One for each group that has slots, ascending by group.
    private(set) var keys: [(group: GroupID, key: Bytes)] = []
    /// Hosts that were to run and ended.
    private(set) var ends: [String] = []
    /// Of each host before it belonged to a cluster.
    private(set) var empty: [ProcessFigures] = []
    /// Of `serve`, beside those of the options.
    var hostArguments: [String] = []

    init(local: LocalCluster, options: MeasureOptions, name: String) {
        self.local = local
        self.options = options
        self.name = name
        machine = Machine(directory: local.directory)
    }

    func say(_ text: String) { Output.error("\(name): \(text)\n") }

    // MARK: Beginning

    /// Starts the hosts, makes the cluster and writes a record to each group.
    /// - Returns: nanoseconds until all groups had a leader, and until all had a record from then on.
    func begin() async throws -> (made: UInt64, written: UInt64) {
        for host in local.hosts { try start(host) }
        for host in local.hosts { try await waitUntilThere(host) }
        empty = try figures()
        say(
            "\(HumanText.count(options.hosts, "host")) on loopback in \(local.directory); making "
                + HumanText.count(options.groups, "group"))
        let start = RPCClock.now()
        let seconds = options.patience.components.seconds + 1
        let result = try await local.command(
            [
                "init", "--hosts", local.addresses, "--groups", "\(options.groups)", "--replicas",
                "\(min(options.hosts, 3))", "--timeout", "\(seconds)s",
            ], limit: options.patience + .seconds(10))
        guard result.ending == .exit(0) else {
            throw ToolError(
                .unavailable,
                "making the cluster: init ended with \(result.ending): "
                    + result.errorText.trimmingCharacters(in: .whitespacesAndNewlines))
        }
        let made = RPCClock.now().since(start)
        let client = try await connect()
        keys = Self.keys(try await client.map())
        guard keys.count == options.groups else {
            throw ToolError(
                .usage,
                "only \(keys.count) of \(options.groups) groups have slots: measure fewer --groups, so that each has one"
            )
        }
        let begin = RPCClock.now()
        _ = try await write("first records", keys)
        return (made, RPCClock.now().since(begin))
    }

    func start(_ host: LocalCluster.HostProcess) throws {
        try local.start(host, arguments: (options.loops.map { ["--loops", "\($0)"] } ?? []) + hostArguments)
    }

    /// The present client, or one that begins to look for the cluster.
    func connect() async throws -> Cluster {
        if let client { return client }
        var options = ClusterOptions()
        options.timeout = self.options.patience
        options.connectTimeout = self.options.patience
        options.name = "measure"
        let client = try await Cluster.connect(to: local.hosts.map(\.address), options: options)
        self.client = client
        return client
    }

    func disconnect() async {
        await client?.close()
        client = nil
    }

    /// The first of "~measure/0", "~measure/1", … that belongs to each group.
    private static func keys(_ map: ClusterMap) -> [(group: GroupID, key: Bytes)] {
        var found: [GroupID: Bytes] = [:]
        let wanted = map.ring.counts().count { $0.slots > 0 && $0.group != .meta }
        // Of 16,384 slots one is still not met after so many with a chance of 1 to 10^9.
        for number in 0..<1_000_000 where found.count < wanted {
            let key = Bytes("~measure/\(number)")
            if let owner = map.ring.owner(of: slot(of: key)), found[owner] == nil { found[owner] = key }
        }
        return found.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    // MARK: Writing

    /// Of writes that are under way together.
    private static let writesMax = 2_048

    /// Writes each key once, many together, and shows how far it is.
    /// - Returns: nanoseconds that each took, in their order.
    func write(
        _ what: String, _ keys: [(group: GroupID, key: Bytes)], value: Bytes = Bytes("1")
    ) async throws -> [UInt64] {
        let client = try await connect()
        let meter = ProgressMeter(verb: "\(name): \(what)", total: UInt64(keys.count), isShown: keys.count > 1_000)
        defer { meter.finish() }
        return try await withThrowingTaskGroup(of: (Int, UInt64).self) { group in
            var times = [UInt64](repeating: 0, count: keys.count)
            var next = 0
            var done = 0
            func add() {
                guard next < keys.count else { return }
                let (place, key) = (next, keys[next].key)
                next += 1
                group.addTask {
                    let begin = RPCClock.now()
                    try await client.kv.put(key, value)
                    return (place, RPCClock.now().since(begin))
                }
            }
            for _ in 0..<Self.writesMax { add() }
            for try await (place, time) in group {
                times[place] = time
                done += 1
                meter.add(records: 1, bytes: value.count)
                meter.set(done: UInt64(done))
                add()
            }
            return times
        }
    }

    /// Writes "~measure/value/0", "~measure/value/1", … until their values have so many MiB.
    /// - Returns: the keys.
    func fill(megabytes: Int, with value: Bytes) async throws -> [Bytes] {
        let count = max(1, (megabytes << 20) / max(value.count, 1))
        let keys = (0..<count).map { Bytes("~measure/value/\($0)") }
        var from = 0
        while from < count {
            let end = min(count, from + 65_536)
            let part = keys[from..<end].map { (group: GroupID.meta, key: $0) }
            _ = try await write("filling, \(HumanText.count(count - from, "value")) to go", part, value: value)
            from = end
        }
        return keys
    }

    /// Bytes that look like no others; of one seed the same.
    static func value(bytes count: Int, seed: UInt64) -> Bytes {
        var random = SeededRandom(seed: seed)
        return Bytes(count: count) { bytes in
            for place in bytes.indices { bytes[place] = UInt8(truncatingIfNeeded: random.next()) }
        }
    }

    /// Writes to the group's key again and again until it is acknowledged, whatever comes in between.
    /// - Returns: nanoseconds since `start`; nil if that took longer than the patience.
    static func firstWrite(_ key: Bytes, by client: Cluster, since start: Instant, within patience: Duration) async
        -> UInt64?
    {
        let end = start + UInt64(patience / .nanoseconds(1))
        while true {
            let now = RPCClock.now()
            guard now < end else { return nil }
            do {
                try await client.kv.put(key, Bytes("2"), timeout: .nanoseconds(Int64(end.since(now))))
                return RPCClock.now().since(start)
            } catch {
                // An outcome that is unknown: it went to the host that was killed.
                try? await Task.sleep(for: .milliseconds(1))
            }
        }
    }

    // MARK: Looking

    func figures() throws -> [ProcessFigures] {
        try local.hosts.map { host in
            guard let figures = ProcessFigures(of: host.pid) else {
                throw ToolError(.unavailable, "host \(host.number) has ended, and was to run")
            }
            return figures
        }
    }

    /// Of all hosts together.
    func cpuNanoseconds() throws -> UInt64 { try figures().reduce(0) { $0 + $1.cpuNanoseconds } }

    /// Until the host answers.
    func waitUntilThere(_ host: LocalCluster.HostProcess) async throws {
        let deadline = RPCClock.now() + UInt64(options.patience / .nanoseconds(1))
        let probe = try HostProbe(host.address)
        defer { probe.close() }
        do {
            _ = try await probe.ping(deadline: deadline)
        } catch {
            throw ToolError(.unavailable, "host \(host.number) does not answer: \(error.message)")
        }
    }

    /// Until every group has a leader, which has told all its members all that it has committed. Asks the hosts for all of
    /// their replicas: seldom, where there are many.
    /// - Returns: the number of the host that leads each group.
    @discardableResult
    func waitUntilSettled(_ what: String) async throws -> [GroupID: HostID] {
        let deadline = RPCClock.now() + UInt64(options.patience / .nanoseconds(1))
        let client = try await connect()
        var problem = ""
        while true {
            let map = try await client.map()
            let accounts = try await client.accounts(timeout: .seconds(10))
            var leaders: [GroupID: HostID] = [:]
            var commits: [GroupID: LogIndex] = [:]
            for account in accounts {
                for replica in account.status?.replicas ?? [] where replica.role == .leader && replica.isQuorumActive {
                    leaders[replica.group] = account.host.id
                    commits[replica.group] = replica.commitIndex
                }
            }
            var behind = 0
            var replicas = 0
            for account in accounts {
                for replica in account.status?.replicas ?? [] {
                    replicas += 1
                    if replica.appliedIndex != commits[replica.group] { behind += 1 }
                }
            }
            let expected = map.groups.reduce(0) { $0 + $1.replicas.count }
            if leaders.count == map.groups.count, behind == 0, replicas == expected { return leaders }
            problem =
                "\(leaders.count) of \(map.groups.count) groups have a leader, \(replicas) of \(expected) replicas "
                + "are there, \(behind) of them behind"
            guard RPCClock.now() < deadline else {
                throw ToolError(.unavailable, "\(what): \(problem) after \(options.patience)")
            }
            try await Task.sleep(for: .milliseconds(100 + options.groups / 10))
        }
    }

    /// Notes hosts that ended by themselves.
    func noteEnds() {
        for host in local.hosts where !host.isRunning {
            ends.append("host \(host.number) ended with \(host.process?.ending.map { "\($0)" } ?? "nothing")")
        }
    }
}

extension Machine {
    /// For the end of a report.
    var line: String {
        "machine       \(cores) cores, Linux \(kernel), \(filesystem)"
            + (fdatasyncP50Micros.map { ", fdatasync p50 \($0) µs" } ?? "") + ", commit \(commit)"
    }
}
