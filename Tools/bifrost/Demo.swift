// `bifrost demo`: real hosts, real data, real kills, and the proof that nothing was lost. Owns the story; import, proof
// and report have files of their own.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import NIOCore
import Primitives
import RPC
import Ring

struct Demo: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Shows it: imports data into three hosts, kills and restarts them, and proves that every record is there.",
        discussion: """
            Starts three host processes on loopback in a new directory on a disk and makes a cluster of them. Imports the \
            Unicode Character Database (Debian's unicode-data) or the file at --input. In the middle one host is killed with \
            SIGKILL; the import goes on with the other two, the host is started again, catches up, and the import is \
            finished. Then all are stopped, one by SIGKILL, and started again.

            The proof: a fresh process exports everything through each host in turn, linearizably, and the sorted lines must \
            be those of the input, byte for byte; of each group, all replicas must have the same digest of their state at the \
            same index. Exit code 1: a record or a digest differs. The SHA-256 printed is that of the sorted lines:
              LC_ALL=C sort /usr/share/unicode/UnicodeData.txt | sha256sum

            All hosts end and their directory is removed at the end, also after Ctrl-C.

            EXAMPLES:
              bifrost demo
              bifrost demo --input users.tsv --groups 64
              bifrost demo --json 2> /dev/null
              bifrost demo --keep --directory /var/tmp
            """)

    @Option(
        help: ArgumentHelp(
            "What to import: KEY, a tab, VALUE on each line, or CODE;PROPERTIES, or JSON; - is standard input.",
            valueName: "file"), completion: .file())
    var input: String?

    @Option(help: "How records stand on lines. (default: by the first line)")
    var format: RecordFormat?

    @Option(help: ArgumentHelp("Groups that share the data, 1 to 65535.", valueName: "count"))
    var groups = 16

    @Option(
        help: ArgumentHelp(
            "Make the hosts' directory below this one. (default: $TMPDIR or /var/tmp)", valueName: "path"),
        completion: .directory)
    var directory: String?

    @Flag(help: "Keep the hosts' data and logs, and say where they are.")
    var keep = false

    @OptionGroup var common: CommonOptions

    static let hostCount = 3
    /// For elections, catching up, and replicas that agree: far more than is needed.
    private static let settleTimeout = Duration.seconds(60)

    func validate() throws {
        guard (1..<ClusterMap.groupsMax).contains(groups) else {
            throw ValidationError("--groups is 1 to \(ClusterMap.groupsMax - 1), not \(groups)")
        }
    }

    func run() async throws {
        let story = DemoStory()
        let parent = try LocalCluster.parentDirectory(directory)
        let input = try DemoInput(reading: input, format: format)
        story.say(
            "\(input.name): \(HumanText.count(input.records.count, "record")), \(HumanText.bytes(UInt64(input.bytes))); SHA-256 of "
                + "the sorted lines \(input.digest)")
        let hosts = try LocalCluster(below: parent, name: "bifrost-demo", count: Self.hostCount)
        hosts.disposeOnSignals(keepDirectory: keep)
        defer {
            hosts.dispose(keepDirectory: keep)
            if keep { story.say("data and logs are in \(hosts.directory)") }
        }
        let report: DemoReport
        do {
            report = try await play(input, hosts, story)
        } catch {
            let words = hosts.hosts.flatMap(\.lastWords).map { "  \($0)" }
            // After Ctrl-C this does not return: nothing more is said.
            hosts.dispose(keepDirectory: keep)
            story.say("the demo ends early" + (words.isEmpty ? "" : "; what the hosts said last:"))
            for line in words { story.say(line) }
            throw error
        }
        if common.json { try Output.json(report) } else { try Output.line(report.text) }
        if !report.proved { throw Outcome(.negative) }
    }

    // MARK: The story

    private func play(_ input: DemoInput, _ hosts: LocalCluster, _ story: DemoStory) async throws -> DemoReport {
        try hosts.startAll()
        story.say(
            "started three hosts in \(hosts.directory) (\(LocalCluster.fileSystem(of: hosts.directory))): "
                + hosts.hosts.map { "\($0.number) at \($0.address), pid \($0.pid)" }.joined(separator: "; "))
        try await hosts.run([
            "init", "--hosts", hosts.addresses, "--groups", "\(groups)", "--replicas", "\(Self.hostCount)",
        ])
        var options = ClusterOptions()
        options.operationsMax = DemoImport.windowMax * 2
        options.name = "bifrost demo"
        let cluster = try await Cluster.connect(to: hosts.hosts.map(\.address), options: options)
        let proof = DemoProof(hosts: hosts, cluster: cluster, map: try await cluster.map(), input: input)
        let leads = try await proof.settled(within: Self.settleTimeout).leads
        story.say(
            "made a cluster of \(HumanText.count(groups, "group")) and the meta group; "
                + leads.map { "host \($0.host) leads \($0.groups)" }.joined(separator: ", "))

        let imported = try await load(input, hosts, cluster, proof, story)

        let restart = try await restartAll(hosts, proof, story)

        var exports: [DemoReport.Export] = []
        for host in hosts.hosts {
            let export = try await proof.export(through: host)
            exports.append(export)
            story.say(
                "exported through host \(host.number): \(HumanText.count(export.records, "record")), SHA-256 \(export.sha256), "
                    + (export.equal ? "equal to the input" : "NOT THE INPUT: \(export.difference ?? "")"))
        }
        let replicas = try await proof.settled(within: Self.settleTimeout)
        let agreeing = replicas.groups.count { $0.agrees }
        story.say(
            "of \(replicas.groups.count) groups, \(agreeing) have the same state digest on all replicas, at the same index"
        )
        await cluster.close()
        return DemoReport(
            input: input, hosts: hosts, map: proof.map, imported: imported, restart: restart, exports: exports,
            replicas: replicas,
            seconds: story.seconds, directory: keep ? hosts.directory : nil)
    }

    /// The import with a kill and a restart in it.
    private func load(
        _ input: DemoInput, _ hosts: LocalCluster, _ cluster: Cluster, _ proof: DemoProof, _ story: DemoStory
    ) async throws -> DemoReport.Import {
        let total = input.records.count
        let meter = ProgressMeter(verb: "import", total: UInt64(total), isShown: true)
        story.isMeterShown = true
        defer {
            meter.finish()
            story.isMeterShown = false
        }
        let importing = try DemoImport(loop: cluster.loop, map: proof.map, input: input, meter: meter)
        // The one that leads most groups hurts most.
        let victim = hosts.hosts[Int(proof.strongest.rawValue) - 1]
        let led = proof.leads(HostID(UInt64(victim.number)))
        let pid = victim.pid
        let start = RPCClock.now()

        // What comes after the second third waits until the host is back, so that the last third is written on three
        // hosts again. Nothing waits at the kill.
        let atKill = try await importing.mark(at: total / 3, limit: total * 2 / 3) { victim.process?.send(SIGKILL) }
        hosts.kill(victim)
        story.say(
            "KILLED host \(victim.number) (SIGKILL, pid \(pid)) after \(HumanText.count(atKill.acknowledged, "record")), with "
                + "\(HumanText.count(atKill.underWay, "put")) under way; it led \(led) of \(groups) groups. Going on with two hosts"
        )
        try await importing.acknowledged(total * 2 / 3)
        let recovery = try await importing.secondsToRecovery()
        let withTwo = try await importing.current()

        let restarted = RPCClock.now()
        try hosts.start(victim)
        story.say(
            "\(HumanText.count(withTwo.acknowledged, "record")) are acknowledged, \(HumanText.grouped(UInt64(withTwo.acknowledged - atKill.acknowledged))) "
                + "of them by two hosts; started host \(victim.number) again (pid \(victim.pid))")
        _ = try await proof.settled(within: Self.settleTimeout)
        let caughtUp = RPCClock.now()
        let catchUp = Double(caughtUp.since(restarted)) / 1e9
        story.say(
            "host \(victim.number) has caught up in all groups, \(HumanText.fixed(catchUp, 2)) s after its start; importing the rest"
        )

        try await importing.raise(limit: total)
        try await importing.acknowledged(total)
        let end = RPCClock.now()
        let counts = try await importing.current()
        return DemoReport.Import(
            records: counts.acknowledged, seconds: Double(end.since(start) - caughtUp.since(restarted)) / 1e9,
            window: DemoImport.windowMax,
            repeated: counts.repeated, refused: counts.refused, killedHost: UInt64(victim.number),
            killedAfterRecords: atKill.acknowledged, underWayAtKill: atKill.underWay, groupsLedByKilled: led,
            recordsWithoutKilled: withTwo.acknowledged - atKill.acknowledged, recoverySeconds: recovery,
            catchUpSeconds: catchUp,
            perGroup: zip(importing.groups, counts.perGroup).map { (group: $0, records: $1) })
    }

    /// Everything ends and begins again; one host without warning.
    private func restartAll(_ hosts: LocalCluster, _ proof: DemoProof, _ story: DemoStory) async throws
        -> DemoReport.Restart
    {
        let victim = hosts.hosts[0]
        hosts.kill(victim)
        let rest = Array(hosts.hosts.dropFirst())
        hosts.stop(rest)
        for host in rest where host.process?.ending != .exit(0) {
            throw ToolError(.fault, "host \(host.number) did not end with exit code 0 on SIGTERM")
        }
        story.say("stopped everything: host \(victim.number) by SIGKILL, the others by SIGTERM; starting all again")
        let start = RPCClock.now()
        try hosts.startAll()
        let settled = try await proof.settled(within: Self.settleTimeout)
        let seconds = Double(RPCClock.now().since(start)) / 1e9
        story.say(
            "all hosts serve again after \(HumanText.fixed(seconds, 2)) s; "
                + settled.leads.map { "host \($0.host) leads \($0.groups)" }.joined(separator: ", "))
        return DemoReport.Restart(killedHost: UInt64(victim.number), seconds: seconds)
    }
}

/// What the demo says while it runs, on standard error, with the seconds since it began.
final class DemoStory {
    private let began = RPCClock.now()
    /// A line that is overwritten stands on the terminal.
    var isMeterShown = false

    var seconds: Double { Double(RPCClock.now().since(began)) / 1e9 }

    func say(_ text: String) {
        let time = HumanText.fixed(seconds, 2)
        let line = "[\(String(repeating: " ", count: max(0, 6 - time.count)))\(time) s] \(text)"
        guard isMeterShown, Output.isErrorTerminal else { return Output.error(line + "\n") }
        Output.error("\r\(line)\(String(repeating: " ", count: max(0, 110 - line.count)))\n")
    }
}
