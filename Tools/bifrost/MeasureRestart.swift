// `bifrost measure restart`: how long a host takes to be there again, and a whole cluster.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import RPC
import Ring

struct MeasureRestart: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restart", abstract: "Kills all hosts, starts them again, and measures until all groups serve.",
        discussion: """
            Writes until the journals have --megabytes, kills all hosts with SIGKILL, and starts them again, --rounds \
            times. Takes the time until each host answers, when it has read its journal, and until each group has \
            acknowledged a write. A journal keeps at most some 8 MiB of a group's entries before they are checkpointed and \
            go: for a long one take more groups.

            EXAMPLES:
              bifrost measure restart --groups 64 --megabytes 256
              bifrost measure restart --groups 1000 --megabytes 0 --json
            """)

    @Option(help: ArgumentHelp("Bytes to write to each journal before, in MiB, 0 to 65536.", valueName: "MiB"))
    var megabytes = 64
    @Option(help: ArgumentHelp("Bytes of each value.", valueName: "bytes"))
    var payload = 1_024
    @Option(help: ArgumentHelp("How often all hosts are killed and started, 1 to 100.", valueName: "count"))
    var rounds = 3
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard (0...65_536).contains(megabytes) else {
            throw ValidationError("--megabytes takes 0 to 65536, not \(megabytes)")
        }
        guard (1...Limits.valueBytesMax).contains(payload) else {
            throw ValidationError("--payload takes 1 to \(Limits.valueBytesMax) bytes, not \(payload)")
        }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
    }

    private struct Report: MeasureReport {
        struct Round: Encodable {
            /// Of the longest journal, before the kill.
            var journalBytes: UInt64
            /// Until the last host answered.
            var answeredMillis: Double
            var answeredSecondsPerGB: Double?
            /// Until the last group had acknowledged a write.
            var servedMillis: Double
            var firstWrite: MeasureSpread?
            /// Of all hosts, until then.
            var cpuMillis: Double
        }
        var groups: Int
        var hosts: Int
        var rounds: [Round]
        var unanswered: Int
        var machine: Machine
        var problems: [String] {
            unanswered > 0 ? ["\(HumanText.count(unanswered, "group")) took no write within the time"] : []
        }

        var text: String {
            var table = Table([
                ("round", .right), ("journal", .right), ("answers ms", .right), ("s per GB", .right),
                ("median ms", .right), ("all serve ms", .right), ("CPU ms", .right),
            ])
            for (number, round) in rounds.enumerated() {
                table.add([
                    "\(number + 1)", HumanText.bytes(round.journalBytes), HumanText.fixed(round.answeredMillis, 0),
                    round.answeredSecondsPerGB.map { HumanText.fixed($0, 2) } ?? "-",
                    round.firstWrite.map { HumanText.fixed($0.medianMillis, 0) } ?? "-",
                    HumanText.fixed(round.servedMillis, 0), HumanText.fixed(round.cpuMillis, 0),
                ])
            }
            return [table.text, "", "\(groups) groups on \(hosts) hosts, all killed and started", machine.line]
                .joined(separator: "\n")
        }
    }

    /// A journal that is shorter says nothing of the time that a long one takes.
    private static let gigabyteMin: UInt64 = 16 << 20

    func run() async throws {
        try await options.run("restart") { cluster in
            _ = try await cluster.begin()
            try await fill(cluster)
            var rounds: [Report.Round] = []
            var unanswered = 0
            for number in 1...self.rounds {
                try await cluster.waitUntilSettled("before restart \(number)")
                let (round, missing) = try await restart(cluster)
                cluster.say(
                    "restart \(number) of \(self.rounds): hosts answered after "
                        + "\(HumanText.fixed(round.answeredMillis, 0)) ms, all groups after "
                        + "\(HumanText.fixed(round.servedMillis, 0)) ms")
                rounds.append(round)
                unanswered += missing
            }
            cluster.noteEnds()
            return Report(
                groups: options.groups, hosts: options.hosts, rounds: rounds, unanswered: unanswered,
                machine: cluster.machine)
        }
    }

    private func fill(_ cluster: MeasuredCluster) async throws {
        let value = Bytes(count: payload) { $0.copyBytes(from: (0..<$0.count).map { UInt8(truncatingIfNeeded: $0) }) }
        var left = megabytes << 20
        while left > 0 {
            // Some rounds over all groups at a time, so that progress is seen.
            let count = min(max(left / payload, 1), max(32_768, cluster.keys.count))
            let keys = (0..<count).map { cluster.keys[$0 % cluster.keys.count] }
            _ = try await cluster.write("filling journals, \(left >> 20) MiB to go", keys, value: value)
            left -= count * payload
        }
    }

    private func restart(_ cluster: MeasuredCluster) async throws -> (Report.Round, missing: Int) {
        let accounts = try await cluster.connect().accounts(timeout: .seconds(10))
        let journal = accounts.compactMap(\.status?.journalBytes).max() ?? 0
        await cluster.disconnect()
        for host in cluster.local.hosts { cluster.local.kill(host) }
        let start = RPCClock.now()
        for host in cluster.local.hosts { try cluster.start(host) }
        for host in cluster.local.hosts { try await cluster.waitUntilThere(host) }
        let answered = RPCClock.now().since(start)
        let client = try await cluster.connect()
        let (keys, patience) = (cluster.keys, options.patience)
        let times = await withTaskGroup(of: UInt64?.self) { group in
            for (_, key) in keys {
                group.addTask { await MeasuredCluster.firstWrite(key, by: client, since: start, within: patience) }
            }
            var times: [UInt64] = []
            for await time in group { if let time { times.append(time) } }
            return times
        }
        let cpu = try cluster.figures().reduce(0) { $0 + $1.cpuNanoseconds }
        let gigabytes = Double(journal) / 1e9
        let round = Report.Round(
            journalBytes: journal, answeredMillis: Double(answered) / 1e6,
            answeredSecondsPerGB: journal < Self.gigabyteMin ? nil : Double(answered) / 1e9 / gigabytes,
            servedMillis: Double(times.max() ?? 0) / 1e6, firstWrite: MeasureSpread(times),
            cpuMillis: Double(cpu) / 1e6)
        return (round, keys.count - times.count)
    }
}
