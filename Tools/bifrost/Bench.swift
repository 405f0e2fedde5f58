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
            wrong value makes the run a failure (exit code 1).

            EXAMPLES
              bifrost bench --local 3 --groups 16 --payload 128 --window 512
              bifrost bench --local 3 --groups 64 --reads 90 --json
              bifrost bench --connect 10.0.0.1:7001 --keys 1000000 --seconds 60

            The keys are ~bench/000000000, ~bench/000000001 and so on. On a running cluster they stay there afterwards, and \
            take the place of what had these names.

            With --local the hosts are processes of their own in a new directory below --directory, which has to be on a real \
            disk; they and the directory are removed at the end.
            """)

    @Option(help: "Start this many hosts on loopback; without it, drive the cluster at --connect.")
    var local: Int?
    @Option(help: "Where --local keeps the hosts' data. Default: $TMPDIR or /var/tmp.")
    var directory: String?
    @Option(help: "Event loops of each --local host. Default: as 'serve' takes.")
    var loops: Int?
    @Option(help: "Groups of a --local cluster.")
    var groups = 16
    @Option(help: "Bytes of each value.")
    var payload = 128
    @Option(help: "Operations in flight per group.")
    var window = 512
    @Option(help: "Seconds to measure, at least.")
    var seconds = 10.0
    @Option(help: "Percent of the operations that read.")
    var reads = 0
    @Option(help: "Number of keys.")
    var keys = 100_000
    @Option(help: "Seconds after which the run ends although not every replica has checkpointed three times.")
    var secondsMax = 300.0
    @Option(help: "Seed of keys and their order.")
    var seed: UInt64 = 1
    @Flag(help: "Keep the hosts' data and logs, and say where they are.")
    var keep = false
    @OptionGroup var client: ClientOptions

    func validate() throws {
        if let local, !(1...15).contains(local) { throw ValidationError("--local takes 1 to 15 hosts, not \(local)") }
        if loops != nil, local == nil { throw ValidationError("--loops is for the hosts that --local starts") }
        try Serve.check(loops: loops)
        guard (1...65_535).contains(groups) else { throw ValidationError("--groups takes 1 to 65,535, not \(groups)") }
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
        guard let local else {
            return try finish(try await measure(addresses: client.connect.addresses, hosts: nil, directory: nil))
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
        let machine = Machine(directory: home)
        try cluster.startAll(arguments: loops.map { ["--loops", "\($0)"] } ?? [])
        say("\(local) hosts on loopback in \(home); making \(groups) groups")
        try await cluster.run([
            "init", "--hosts", cluster.addresses, "--groups", "\(groups)", "--replicas", "\(min(local, 3))",
        ])
        try finish(
            try await measure(addresses: cluster.hosts.map(\.address), hosts: local, directory: home, machine: machine))
    }

    private func finish(_ report: BenchReport) throws {
        if client.common.json { try Output.json(report) } else { try Output.line(report.table) }
        guard report.problems.isEmpty else {
            throw ToolError(.negative, "the run does not count: \(report.problems.joined(separator: "; "))")
        }
    }

    private func say(_ text: String) {
        Output.error("bench: \(text)\n")
    }

    // MARK: The run

    private func measure(
        addresses: [String], hosts: Int?, directory: String?, machine: Machine = Machine(directory: nil)
    ) async throws -> BenchReport {
        var options = ClusterOptions()
        options.operationsMax = max(65_536, groups * window * 2)
        options.name = "bench"
        // One thread for the generator, so that it can be told from the hosts.
        let loopGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        options.eventLoopGroup = loopGroup
        let cluster = try await Cluster.connect(to: addresses, options: options)
        let map = try await cluster.map()
        let loop = cluster.loop
        let settings = BenchGenerator.Settings(
            keys: keys, payload: payload, window: window, reads: reads, seed: seed,
            deadlineNanoseconds: UInt64((client.timeout?.duration ?? .seconds(30)) / .nanoseconds(1)))
        let generator = try await loop.eventLoop.submit { BenchGenerator(loop: loop, map: map, settings: settings) }
            .get()

        say("writing each of \(HumanText.grouped(UInt64(keys))) keys once")
        await onLoop(loop) { resume in generator.preload { resume() } }
        if let error = try await loop.eventLoop.submit({ generator.current.firstError }).get() {
            throw BenchFailure(description: "writing the keys failed: \(error)")
        }

        let before = try await statuses(cluster)
        let cpuBefore = OwnUsage.cpuMicros
        let start = DispatchTime.now().uptimeNanoseconds
        try await loop.eventLoop.submit { generator.run() }.get()
        var checkpoints: UInt64 = 0
        var elapsed = 0.0
        while true {
            try await Task.sleep(
                for: .milliseconds(
                    elapsed + 1 > seconds && elapsed < seconds ? Int((seconds - elapsed) * 1_000) + 1 : 1_000))
            elapsed = Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9
            let counts = try await loop.eventLoop.submit { generator.current }.get()
            if elapsed >= seconds { checkpoints = Self.checkpoints(from: before, to: try await statuses(cluster)) }
            say(
                "\(Int(elapsed)) s: \(HumanText.grouped(UInt64(counts.operations))) operations, \(HumanText.grouped(UInt64(Double(counts.operations) / elapsed)))/s, \(counts.errors) errors"
            )
            if elapsed >= seconds && (checkpoints >= 3 || reads == 100) || elapsed >= secondsMax
                || counts.errors > 1_000
            {
                break
            }
        }
        // What is in flight counts as well: its errors above all.
        await onLoop(loop) { resume in generator.stop { resume() } }
        let (counts, latencies) = try await loop.eventLoop.submit { (generator.current, generator.latencies) }.get()
        elapsed = Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9
        let cpuAfter = OwnUsage.cpuMicros
        let after = try await statuses(cluster)
        checkpoints = Self.checkpoints(from: before, to: after)

        say("reading back 10,000 keys")
        let (right, asked, firstWrong) = await withCheckedContinuation { continuation in
            loop.eventLoop.execute {
                generator.verify(count: 10_000) { continuation.resume(returning: ($0, $1, $2)) }
            }
        }

        var cpu = cpuAfter - cpuBefore
        // A host that was started anew in between counts from zero again: what it used before is not known.
        for (old, new) in zip(before, after) {
            cpu +=
                new.bootCounter == old.bootCounter ? new.cpuMicros - min(old.cpuMicros, new.cpuMicros) : new.cpuMicros
        }
        var leaders: [GroupID: HostID] = [:]
        for host in after {
            for replica in host.replicas where replica.role == .leader { leaders[replica.group] = host.host }
        }
        let report = BenchReport(
            operationsPerSecond: Double(counts.operations) / elapsed, p50Micros: latencies.valueAtPercentile(50),
            p99Micros: latencies.valueAtPercentile(99), p999Micros: latencies.valueAtPercentile(99.9),
            cpuMicrosPerOperation: counts.operations > 0 ? Double(cpu) / Double(counts.operations) : 0,
            errors: counts.errors,
            firstError: counts.firstError ?? firstWrong, verified: right, verifiedOf: asked,
            checkpointsPerReplica: checkpoints, secondsMax: secondsMax,
            seconds: elapsed, operations: counts.operations, hosts: map.hosts.count, payload: payload, window: window,
            keys: keys,
            reads: reads,
            groups: counts.perGroup.map {
                BenchReport.Group(
                    group: $0.group.rawValue, leader: leaders[$0.group]?.rawValue ?? 0,
                    operationsPerSecond: Double($0.operations) / elapsed)
            }, machine: machine)
        await cluster.close()
        try await loopGroup.shutdownGracefully()
        return report
    }

    private func onLoop(
        _ loop: ClientLoop, _ work: @escaping @Sendable (_ resume: @escaping @Sendable () -> Void) -> Void
    ) async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            loop.eventLoop.execute { work { continuation.resume() } }
        }
    }

    private func statuses(_ cluster: Cluster) async throws -> [HostStatus] {
        try await cluster.status(timeout: .seconds(20)).map { try $0.status.get() }
    }

    /// The least number of checkpoints that any replica made in between. The meta group is not written to and not
    /// counted.
    private static func checkpoints(from before: [HostStatus], to after: [HostStatus]) -> UInt64 {
        var least = UInt64.max
        for (old, new) in zip(before, after) {
            for (first, last) in zip(old.replicas, new.replicas) where last.group != .meta {
                least = min(least, last.checkpoints - min(first.checkpoints, last.checkpoints))
            }
        }
        return least == .max ? 0 : least
    }
}

struct BenchFailure: Error, CustomStringConvertible {
    var description: String
}

enum OwnUsage {
    static var cpuMicros: UInt64 {
        var usage = rusage()
        guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return 0 }
        func micros(_ time: timeval) -> UInt64 { UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_usec) }
        return micros(usage.ru_utime) + micros(usage.ru_stime)
    }
}
