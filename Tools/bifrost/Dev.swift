// `bifrost dev`: a cluster to program against, on this machine, whose data stays.

import ArgumentParser
import Foundation
import Messages
import RPC
import Ring

struct Dev: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs a cluster of three hosts on this machine, until Ctrl-C; its data stays.",
        discussion: """
            The hosts listen on 127.0.0.1, ports 7001 to 7003, where all commands look without flags. The first run makes \
            the cluster; later ones go on with what is there. Hosts are processes of their own, with their logs beside \
            their data, and end with this command. One that ends before is named on standard error, with how it ended, \
            and the others go on; when none is left the command ends, with 4. With --json that is a line, too: \
            {"event":"ended",…}

            When the cluster serves it prints one line on standard output:

              serving 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 directory .bifrost

            EXAMPLES:
              bifrost dev
              bifrost dev --directory /var/tmp/mine --groups 4 --port 7101
            """)

    @Option(
        help: ArgumentHelp(
            "Where the data and the logs of the hosts live; made if it is missing.", valueName: "path"),
        completion: .directory)
    var directory = ".bifrost"

    @Option(help: ArgumentHelp("Hosts, 1 to 9. The same at each run.", valueName: "count"))
    var hosts = 3

    @Option(help: ArgumentHelp("Groups of a new cluster. (default: 16)", valueName: "count"))
    var groups: Int?

    @Option(help: ArgumentHelp("The first host's port; the others follow it.", valueName: "port"))
    var port = 7_001

    @OptionGroup var common: CommonOptions

    private struct Announcement: Encodable {
        var event = "serving"
        var addresses: [String]
        var directory: String
        var pids: [Int32]
    }

    /// A host that ended before this command.
    private struct End: Encodable {
        var event = "ended"
        var host: Int
        var address: String
        /// The exit code, or the signal.
        var code: Int32?
        var signal: Int32?
        var log: String
        /// Hosts that are left.
        var running: Int
    }

    /// How often it is looked whether all hosts still run.
    private static let lookPause = Duration.milliseconds(200)

    func validate() throws {
        guard !directory.isEmpty else { throw ValidationError("--directory is empty: name one for the data") }
        guard (1...9).contains(hosts) else { throw ValidationError("--hosts is 1 to 9, not \(hosts)") }
        guard (1..<ClusterMap.groupsMax).contains(groups ?? 1) else {
            throw ValidationError("--groups is 1 to \(ClusterMap.groupsMax - 1), not \(groups ?? 0)")
        }
        guard port >= 1, port + hosts - 1 <= 65_535 else {
            throw ValidationError("--port is 1 to \(65_536 - hosts) for \(HumanText.count(hosts, "host")), not \(port)")
        }
    }

    func run() async throws {
        let addresses = (port..<port + hosts).map { "127.0.0.1:\($0)" }
        let cluster = try LocalCluster(keptIn: directory, addresses: addresses)
        cluster.disposeOnSignals(keepDirectory: true, isExpected: true)
        defer { cluster.dispose(keepDirectory: true) }
        do {
            try cluster.startAll()
            // One that is there may have another number of groups.
            try await cluster.run(
                ["init", "--hosts", cluster.addresses, "--replicas", "\(min(hosts, 3))"]
                    + (groups.map { ["--groups", "\($0)"] } ?? []))
        } catch {
            let words = cluster.hosts.flatMap(\.lastWords)
            cluster.dispose(keepDirectory: true)
            for line in words { Output.note(line) }
            throw error
        }
        if common.json {
            try Output.jsonLine(
                Announcement(addresses: addresses, directory: cluster.directory, pids: cluster.hosts.map(\.pid)))
        } else {
            try Output.line("serving \(cluster.addresses) directory \(cluster.directory)")
        }
        var running = cluster.hosts
        while true {
            try await Task.sleep(for: Self.lookPause)
            let ended = running.filter { !$0.isRunning }
            // One that a signal has stopped ends as it should, and this process behind it.
            guard !ended.isEmpty, !cluster.isEnding else { continue }
            for host in ended {
                running.removeAll { $0 === host }
                try say(host, left: running.count)
            }
            guard !running.isEmpty else {
                throw ToolError(.unavailable, "all hosts have ended; their logs and data are in \(cluster.directory)")
            }
        }
    }

    private func say(_ host: LocalCluster.HostProcess, left: Int) throws {
        // The last of them is how it ended.
        for line in host.lastWords.dropLast() { Output.note(line) }
        let ending = host.process?.ending.map { " with \($0)" } ?? ""
        let others = left > 0 ? "; \(HumanText.count(left, "host")) go\(left == 1 ? "es" : "") on" : ""
        Output.note("host \(host.number) at \(host.address) ended\(ending); its log is \(host.log)\(others)")
        guard common.json else { return }
        var end = End(host: host.number, address: host.address, log: host.log, running: left)
        switch host.process?.ending {
        case .exit(let code)?: end.code = code
        case .signal(let signal)?: end.signal = signal
        case nil: break
        }
        try Output.jsonLine(end)
    }
}
