// `bifrost measure idle`: what groups cost in which nothing happens.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC
import Ring

struct MeasureIdle: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "idle", abstract: "Measures what idle groups cost: processor, memory, descriptors, threads.",
        discussion: """
            Makes the cluster, writes a record to each group, waits until all is quiet, and measures for --seconds. The \
            processor time of each host is in percent of one core. Memory is the difference to the same process before it \
            belonged to a cluster, per group: each host has a replica of each group if there are three hosts. Afterwards \
            some groups at random are written to, all at once.

            EXAMPLES:
              bifrost measure idle --groups 1000
              bifrost measure idle --groups 10000 --seconds 30 --timeout 5m --json
            """)

    @Option(help: ArgumentHelp("How long to measure.", valueName: "seconds"))
    var seconds = 10.0
    @Option(help: ArgumentHelp("How long to wait before, behind the last write.", valueName: "seconds"))
    var settle = 5.0
    @Option(help: ArgumentHelp("Groups that are written to at the end.", valueName: "count"))
    var writes = 100
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard seconds > 0, seconds <= 3_600, settle >= 0, settle <= 3_600 else {
            throw ValidationError(
                "--seconds takes above 0 to 3600 and --settle 0 to 3600, not \(seconds) and \(settle)")
        }
        guard writes >= 1, writes <= Slot.count else {
            throw ValidationError("--writes takes 1 to \(Slot.count), not \(writes)")
        }
    }

    private struct Report: MeasureReport {
        struct Host: Encodable {
            var host: Int
            var cpuPercent: Double
            var residentBytes: UInt64
            /// Of the same process before it belonged to a cluster.
            var emptyBytes: UInt64
            var bytesPerGroup: Double
            var descriptors: Int
            var emptyDescriptors: Int
            var threads: Int
            var emptyThreads: Int
            var mappings: Int
            var emptyMappings: Int
        }
        var groups: Int
        var seconds: Double
        /// Until all groups had a leader, and from then on until all had a record.
        var madeMillis: Double
        var writtenMillis: Double
        /// Of all hosts together.
        var cpuPercent: Double
        var hosts: [Host]
        var writesAfterwards: MeasureSpread?
        var machine: Machine
        var problems: [String] { [] }

        var text: String {
            var table = Table([
                ("host", .right), ("CPU %", .right), ("memory", .right), ("empty", .right), ("per group", .right),
                ("files", .right), ("threads", .right), ("mappings", .right),
            ])
            for host in hosts {
                table.add([
                    "\(host.host)", HumanText.fixed(host.cpuPercent, 2), HumanText.bytes(host.residentBytes),
                    HumanText.bytes(host.emptyBytes), HumanText.bytes(UInt64(host.bytesPerGroup)),
                    "\(host.emptyDescriptors) → \(host.descriptors)", "\(host.emptyThreads) → \(host.threads)",
                    "\(host.emptyMappings) → \(host.mappings)",
                ])
            }
            return [
                table.text, "",
                "made          \(groups) groups in \(HumanText.fixed(madeMillis / 1_000, 2)) s, a record in each after "
                    + "\(HumanText.fixed(writtenMillis / 1_000, 2)) s more",
                "idle          \(HumanText.fixed(cpuPercent, 2)) % of a core, all hosts together, over "
                    + "\(HumanText.fixed(seconds, 1)) s",
                "afterwards    \(writesAfterwards?.text ?? "none") writes",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("idle") { cluster in
            let times = try await cluster.begin()
            cluster.say("waiting until all is quiet")
            try await cluster.waitUntilSettled("waiting until all is quiet")
            // Without the client: its pings are no part of what groups cost.
            await cluster.disconnect()
            try await Task.sleep(for: .milliseconds(Int64(settle * 1_000)))
            cluster.say("measuring for \(HumanText.fixed(seconds, 1)) s")
            let before = try cluster.figures()
            let start = RPCClock.now()
            try await Task.sleep(for: .milliseconds(Int64(seconds * 1_000)))
            let after = try cluster.figures()
            let time = Double(RPCClock.now().since(start))
            let hosts = zip(cluster.local.hosts, zip(cluster.empty, zip(before, after))).map { host, figures in
                let (empty, (before, after)) = figures
                return Report.Host(
                    host: host.number,
                    cpuPercent: Double(after.cpuNanoseconds - before.cpuNanoseconds) / time * 100,
                    residentBytes: after.residentBytes, emptyBytes: empty.residentBytes,
                    bytesPerGroup: Double(after.residentBytes - min(empty.residentBytes, after.residentBytes))
                        / Double(options.groups),
                    descriptors: after.descriptors, emptyDescriptors: empty.descriptors, threads: after.threads,
                    emptyThreads: empty.threads, mappings: after.mappings, emptyMappings: empty.mappings)
            }
            _ = try await cluster.connect()
            let afterwards = try await cluster.write("afterwards", Array(cluster.keys.shuffled().prefix(writes)))
            cluster.noteEnds()
            return Report(
                groups: options.groups, seconds: time / 1e9, madeMillis: Double(times.made) / 1e6,
                writtenMillis: Double(times.written) / 1e6, cpuPercent: hosts.reduce(0) { $0 + $1.cpuPercent },
                hosts: hosts, writesAfterwards: MeasureSpread(afterwards), machine: cluster.machine)
        }
    }
}
