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
            their data, and end with this command, which ends when one of them does.

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
            try Output.json(
                Announcement(addresses: addresses, directory: cluster.directory, pids: cluster.hosts.map(\.pid)))
        } else {
            try Output.line("serving \(cluster.addresses) directory \(cluster.directory)")
        }
        while true {
            try await Task.sleep(for: Self.lookPause)
            // One that a signal has stopped ends as it should, and this process behind it.
            guard let ended = cluster.hosts.first(where: { !$0.isRunning }), !cluster.isEnding else { continue }
            for line in ended.lastWords { Output.note(line) }
            throw ToolError(.unavailable, "host \(ended.number) ended; its log is \(ended.log)")
        }
    }
}
