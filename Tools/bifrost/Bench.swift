// `bifrost bench`: throughput, latency and CPU per operation of real hosts with real syncs.

import ArgumentParser
import Bifrost
import Foundation
import Histogram
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring

struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure puts and gets: rate, latency, CPU per operation, each group and all.",
        discussion: """
            Writes uniformly over --keys keys, each of which is written once before, goes on for --seconds and until each \
            replica has checkpointed three times, and then reads back 10,000 random acknowledged keys. Every error, miss or \
            wrong value makes the run a failure (exit code 1). A host that ends meanwhile does not end the run: what it \
            used counts as long as it answered, and its checkpoints are not waited for.

            The keys are ~bench/000000000, ~bench/000000001 and so on. On a running cluster they take the place of what had \
            these names, and stay there afterwards.

            An operation is one command or one query, and counts as one. Of each --type the commands are:
              kv      a put of the plain store         value   a set of a value
              number  an addition of 1                 map     a put of an entry
              set     an add or a remove, in turn      array   an append of one value
              queue   a push or a takeAndAck of one item, in turn: an item is two operations
              lock    an acquire (without a wait) or a release, in turn: a lock is two operations
            The read of an array is one of the element that was appended last for a key, that of a queue its count, that of \
            a lock who has it. Of locks at most 128 are in flight per group: a session holds no more than 256.

            With --local the hosts are processes of their own in a new directory below --directory, which has to be on a real \
            disk; they and the directory are removed at the end. With --embedded the one host is in this process, and calls \
            reach it without a socket; the CPU is that of this process.

            EXAMPLES
              bifrost bench --local 3 --groups 16 --payload 128 --window 512
              bifrost bench --local 3 --groups 64 --reads 90 --json
              bifrost bench --connect 10.0.0.1:7001 --keys 1000000 --seconds 60
            """)

    @Option(help: "Start this many hosts on loopback; without it, drive the cluster at --connect.")
    var local: Int?
    @Flag(help: "Open a cluster of one host in this process, without sockets, and drive that.")
    var embedded = false
    @Flag(help: ArgumentHelp("With --embedded: reach the host through a socket all the same.", visibility: .hidden))
    var sockets = false
    @Option(
        help: "With --local or --embedded: where the hosts' data is. (default: $TMPDIR or /var/tmp)",
        completion: .directory)
    var directory: String?
    @Option(help: "With --local or --embedded: event loops of each host. (default: as 'serve' takes)")
    var loops: Int?
    @Option(help: "With --local or --embedded: groups of the cluster. (default: 16)")
    var groups: Int?
    @Option(help: "Bytes of each value.")
    var payload = 128
    @Option(help: "Operations in flight per group.")
    var window = 512
    @Option(help: "Seconds to measure, at least.")
    var seconds = 10.0
    @Option(help: "Percent of the operations that read.")
    var reads = 0
    @Option(
        help:
            "What is written and read: keys of the plain store (kv), values, numbers that are added to, maps or sets of 1,000 elements, arrays and queues that 1,000 keys have to do with, locks."
    )
    var type = BenchType.kv
    @Option(help: "Number of keys.")
    var keys = 100_000
    @Option(help: "Seconds after which the run ends although not every replica has checkpointed three times.")
    var secondsMax = 300.0
    @Option(help: "Seed of keys and their order.")
    var seed: UInt64 = 1
    @Flag(help: "With --local: keep the hosts' data and logs, and say where they are.")
    var keep = false
    @OptionGroup var client: ClientOptions

    /// Flags that mean something only for hosts that this program starts.
    private static let localFlags = ["directory", "loops", "groups", "keep"]

    /// Settings from outside of the command line may be meant for other commands, or for the other kind of run: those
    /// that do not go with the kind that is asked for are none.
    static func settle(_ settings: inout Settings) {
        if settings.isOnCommandLine("connect") { settings.dropGiven(["local"]) }
        let isLocal = ["local", "embedded"].contains { settings.isOnCommandLine($0) || settings.isGiven($0) }
        settings.dropGiven(isLocal ? ["connect"] : localFlags)
    }

    func validate() throws {
        if let local, !(1...15).contains(local) { throw ValidationError("--local takes 1 to 15 hosts, not \(local)") }
        guard local == nil || !embedded else {
            throw ValidationError(
                "--local starts hosts in processes of their own, --embedded has one here: leave one out")
        }
        guard embedded || !sockets else { throw ValidationError("--sockets is for --embedded") }
        if local == nil, !embedded {
            let used = zip(Self.localFlags, [directory != nil, loops != nil, groups != nil, keep]).first { $0.1 }?.0
            if let used {
                throw ValidationError(
                    "--\(used) is for the hosts that --local starts: the cluster at --connect has its own. Say --local "
                        + "too, or leave it out")
            }
        } else if client.connect != nil {
            throw ValidationError(
                "--local and --embedded measure hosts that they start themselves, --connect a cluster that runs: leave one of them out"
            )
        }
        try Serve.check(loops: loops)
        if let groups, !(1...65_535).contains(groups) {
            throw ValidationError("--groups takes 1 to 65,535, not \(groups)")
        }
        guard (0...Limits.valueBytesMax).contains(payload) else {
            throw ValidationError("--payload takes 0 to \(Limits.valueBytesMax) bytes, not \(payload)")
        }
        guard (1...65_536).contains(window) else { throw ValidationError("--window takes 1 to 65,536, not \(window)") }
        guard (0...100).contains(reads) else { throw ValidationError("--reads takes 0 to 100 percent, not \(reads)") }
        guard (1...100_000_000).contains(keys) else {
            throw ValidationError("--keys takes 1 to 100,000,000, not \(keys)")
        }
        guard seconds > 0, secondsMax >= seconds else {
            throw ValidationError("--seconds must be above 0 and at most --seconds-max")
        }
    }

    func run() async throws {
        if embedded { return try await runEmbedded() }
        guard let local else {
            return try finish(try await measure(addresses: client.addresses, machine: Machine(directory: nil)))
        }
        let cluster = try LocalCluster(
            below: try LocalCluster.parentDirectory(directory), name: "bifrost-bench", count: local)
        cluster.disposeOnSignals(keepDirectory: keep)
        let home = cluster.directory
        defer {
            cluster.stopAll()
            cluster.dispose(keepDirectory: keep)
            if keep { say("data and logs: \(home)") }
        }
        do {
            let report = try await measure(cluster, count: local)
            let ends = cluster.hosts.compactMap { host in
                host.process?.ending.map { "host \(host.number) ended during the run, with \($0)" }
            }
            try finish(report, ends)
        } catch {
            say("what the hosts said last:")
            for line in cluster.hosts.flatMap(\.lastWords) { say("  \(line)") }
            throw error
        }
    }

    private func measure(_ cluster: LocalCluster, count: Int) async throws -> BenchReport {
        let machine = Machine(directory: cluster.directory)
        let groups = groups ?? 16
        try await phase("starting the hosts") {
            try cluster.startAll(arguments: loops.map { ["--loops", "\($0)"] } ?? [])
        }
        say("\(count) hosts on loopback in \(cluster.directory); making \(groups) groups")
        try await phase("making the cluster") {
            _ = try await cluster.run([
                "init", "--hosts", cluster.addresses, "--groups", "\(groups)", "--replicas", "\(min(count, 3))",
            ])
        }
        return try await measure(addresses: cluster.hosts.map(\.address), machine: machine)
    }

    func finish(_ report: BenchReport, _ ends: [String] = []) throws {
        if client.common.json { try Output.json(report) } else { try Output.line(report.table) }
        let problems = report.problems + ends
        guard problems.isEmpty else {
            throw ToolError(.negative, "the run does not count: \(problems.joined(separator: "; "))")
        }
    }

    /// What fails says in which phase.
    func phase<Result>(_ name: String, _ body: () async throws -> Result) async throws -> Result {
        do {
            return try await body()
        } catch {
            let error = ToolError(error)
            throw ToolError(error.status, "\(name): \(error.message)")
        }
    }

    private func say(_ text: String) {
        Output.error("bench: \(text)\n")
    }

    // MARK: The run

    private static let operationTimeout = Duration.seconds(30)
    /// For one round of questions. The load goes on meanwhile, and a host that does not answer keeps nothing up for
    /// longer.
    private static let accountTimeout = Duration.seconds(2)

    private func measure(addresses: [String], machine: Machine) async throws -> BenchReport {
        try await measure(machine: machine) { options in
            try await Cluster.connect(to: addresses, options: options)
        }
    }

    func measure(
        machine: Machine, _ connect: (ClusterOptions) async throws -> Cluster
    ) async throws -> BenchReport {
        let timeout = client.timeout?.duration ?? Self.operationTimeout
        var options = client.options(timeout: timeout)
        // A key has one operation under way, and 10,000 are read back at once.
        options.operationsMax = max(65_536, keys)
        options.name = "bench"
        // One thread for the generator, so that it can be told from the hosts.
        let loopGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        options.eventLoopGroup = loopGroup
        let cluster = try await phase("finding the cluster") {
            try await connect(options)
        }
        let result: Result<BenchReport, any Error>
        do {
            result = .success(try await drive(cluster, timeout: timeout, machine: machine))
        } catch {
            result = .failure(error)
        }
        await cluster.close()
        try await loopGroup.shutdownGracefully()
        return try result.get()
    }

    private func drive(_ cluster: Cluster, timeout: Duration, machine: Machine) async throws -> BenchReport {
        let map = try await cluster.map()
        let loop = cluster.loop
        let settings = BenchGenerator.Settings(
            keys: keys, payload: payload, window: window, reads: reads, seed: seed, type: type,
            deadlineNanoseconds: UInt64(timeout / .nanoseconds(1)))
        let generator = try await loop.eventLoop.submit { BenchGenerator(loop: loop, map: map, settings: settings) }
            .get()

        say("writing each of \(HumanText.grouped(UInt64(keys))) keys once")
        let failure = await withCheckedContinuation { continuation in
            loop.eventLoop.execute { generator.preload { continuation.resume(returning: $0) } }
        }
        if let failure {
            throw ToolError(
                .unavailable,
                "writing the keys: \(failure); nothing was measured: see 'bifrost status', or give it a longer --timeout"
            )
        }

        var hosts = BenchHosts(try await cluster.accounts(timeout: Self.accountTimeout))
        for gap in hosts.gaps { say("host \(gap.host) at \(gap.address) \(gap.problem)") }
        let cpuBefore = OwnUsage.cpuMicros
        let start = RPCClock.now()
        func elapsed() -> Double { Double(RPCClock.now().since(start)) / 1e9 }
        try await loop.eventLoop.submit { generator.run() }.get()
        var isOver = false
        while !isOver {
            let left = seconds - elapsed()
            try await Task.sleep(for: left > 0 && left < 1 ? .seconds(left) + .milliseconds(1) : .seconds(1))
            let counts = try await loop.eventLoop.submit { generator.current }.get()
            let now = elapsed()
            say(
                "\(Int(now)) s: \(HumanText.grouped(UInt64(counts.operations))) operations, "
                    + "\(HumanText.grouped(UInt64(Double(counts.operations) / now)))/s, \(counts.errors) errors")
            for line in hosts.take(try await cluster.accounts(timeout: Self.accountTimeout), at: now) { say(line) }
            // A run with an error is lost already: nothing is worth waiting for.
            let isEnough = hosts.checkpointsMin >= 3 || reads == 100 || counts.errors > 0
            let isDead = RPCClock.now().since(max(start, counts.lastSuccess)) > settings.deadlineNanoseconds
            isOver = now >= seconds && isEnough || now >= secondsMax || isDead
        }
        // What is in flight counts as well: its errors above all.
        await withCheckedContinuation { continuation in
            loop.eventLoop.execute { generator.stop { continuation.resume() } }
        }
        let (counts, latencies) = try await loop.eventLoop.submit { (generator.current, generator.latencies) }.get()
        let time = elapsed()
        // What an embedded host says of its process is of this one.
        let cpu = embedded ? 0 : OwnUsage.cpuMicros - cpuBefore
        for line in hosts.take(try await cluster.accounts(timeout: Self.accountTimeout), at: time) { say(line) }

        say("reading back 10,000 keys")
        let (right, asked, firstWrong) = await withCheckedContinuation { continuation in
            loop.eventLoop.execute {
                generator.verify(count: 10_000) { continuation.resume(returning: ($0, $1, $2)) }
            }
        }
        let leaders = hosts.leaders
        return BenchReport(
            operationsPerSecond: Double(counts.operations) / time, p50Micros: latencies.valueAtPercentile(50),
            p99Micros: latencies.valueAtPercentile(99), p999Micros: latencies.valueAtPercentile(99.9),
            cpuMicrosPerOperation: counts.operations > 0
                ? Double(cpu + hosts.cpuMicros) / Double(counts.operations) : 0,
            errors: counts.errors, firstError: counts.firstError ?? firstWrong, verified: right, verifiedOf: asked,
            checkpointsPerReplica: hosts.checkpointsMin, secondsMax: secondsMax, seconds: time,
            operations: counts.operations, hosts: map.hosts.count, hostsWithGaps: hosts.gaps, type: type.rawValue,
            operation: type.operation, payload: payload,
            window: window, keys: keys, reads: reads,
            groups: counts.perGroup.map {
                BenchReport.Group(
                    group: $0.group.rawValue, leader: leaders[$0.group]?.rawValue ?? 0,
                    operationsPerSecond: Double($0.operations) / time)
            }, machine: machine)
    }
}

enum OwnUsage {
    static var cpuMicros: UInt64 {
        var usage = rusage()
        guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return 0 }
        func micros(_ time: timeval) -> UInt64 { UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_usec) }
        return micros(usage.ru_utime) + micros(usage.ru_stime)
    }
}
