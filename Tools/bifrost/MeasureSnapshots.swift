// `bifrost measure snapshots`: how fast a save is beside a plain copy of its files, and what it does to those who write.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import RPC
import Ring

struct MeasureSnapshots: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshots",
        abstract: "Saves a cluster, and measures its rate beside cp, and what writers notice.",
        discussion: """
            Writes --megabytes, and then lets writers go on at a steady rate, over all keys: first alone, then while \
            'bifrost snapshot save' copies the whole cluster into files, then while cp copies those files on the same \
            disk, and syncs them. --rounds times. The rates are of the save's bytes; the times are of single writes, \
            from when each was due.

            EXAMPLES:
              bifrost measure snapshots --groups 16 --megabytes 1024
              bifrost measure snapshots --groups 64 --megabytes 128 --rate 2000 --json
            """)

    @Option(help: ArgumentHelp("Bytes of values, in MiB, 1 to 65536.", valueName: "MiB"))
    var megabytes = 128
    @Option(help: ArgumentHelp("Bytes of each value.", valueName: "bytes"))
    var payload = 1_024
    @Option(help: ArgumentHelp("Writes per second meanwhile, 1 to 100000.", valueName: "count"))
    var rate = 500
    @Option(help: ArgumentHelp("Seconds of writes alone before each save, 1 to 600.", valueName: "seconds"))
    var seconds = 5
    @Option(help: ArgumentHelp("How often all of it is done, 1 to 100.", valueName: "count"))
    var rounds = 3
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard (1...65_536).contains(megabytes) else {
            throw ValidationError("--megabytes takes 1 to 65536, not \(megabytes)")
        }
        guard (1...Limits.valueBytesMax).contains(payload) else {
            throw ValidationError("--payload takes 1 to \(Limits.valueBytesMax) bytes, not \(payload)")
        }
        guard (1...100_000).contains(rate) else { throw ValidationError("--rate takes 1 to 100000, not \(rate)") }
        guard (1...600).contains(seconds) else { throw ValidationError("--seconds takes 1 to 600, not \(seconds)") }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
    }

    private struct Report: MeasureReport {
        struct Round: Encodable {
            var bytes: UInt64
            var saveMegabytesPerSecond: Double
            var copyMegabytesPerSecond: Double
            /// CPU of all hosts while they were saved, without what the writers cost in that time, as far as that was
            /// measured before.
            var saveHostCpuMillis: Double
            var alone: WriteTimes?
            var besideSave: WriteTimes?
            var besideCopy: WriteTimes?
        }
        var groups: Int
        var hosts: Int
        var megabytes: Int
        var payload: Int
        var rate: Int
        var rounds: [Round]
        var failedWrites: Int
        var machine: Machine
        var problems: [String] {
            failedWrites > 0 ? ["\(HumanText.count(failedWrites, "write")) failed meanwhile"] : []
        }

        var text: String {
            var table = Table([
                ("round", .right), ("bytes", .right), ("save MB/s", .right), ("cp MB/s", .right), ("ratio", .right),
                ("p99 alone ms", .right), ("beside save ms", .right), ("beside cp ms", .right),
                ("save CPU ms", .right),
            ])
            for (number, round) in rounds.enumerated() {
                table.add([
                    "\(number + 1)", HumanText.bytes(round.bytes), HumanText.fixed(round.saveMegabytesPerSecond, 0),
                    HumanText.fixed(round.copyMegabytesPerSecond, 0),
                    HumanText.fixed(round.saveMegabytesPerSecond / max(round.copyMegabytesPerSecond, 0.001), 2),
                    WriteTimes.p99Text(round.alone), WriteTimes.p99Text(round.besideSave),
                    WriteTimes.p99Text(round.besideCopy),
                    HumanText.fixed(round.saveHostCpuMillis, 0),
                ])
            }
            return [
                table.text, "",
                "\(groups) groups on \(hosts) hosts, values of \(payload) bytes, \(rate) writes per second meanwhile",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("snapshots") { cluster in
            _ = try await cluster.begin()
            let keys = try await cluster.fill(
                megabytes: megabytes, with: MeasuredCluster.value(bytes: payload, seed: 1))
            let map = try await cluster.connect().map()
            let own = keys.map { (group: map.ring.owner(of: slot(of: $0)) ?? .meta, key: $0) }
            var rounds: [Report.Round] = []
            var failed = 0
            for number in 1...self.rounds {
                try await cluster.waitUntilSettled("before round \(number)")
                let (round, errors) = try await self.round(number, cluster, own.map(\.key))
                rounds.append(round)
                failed += errors
                cluster.say(
                    "round \(number) of \(self.rounds): \(HumanText.fixed(round.saveMegabytesPerSecond, 0)) MB/s, cp "
                        + "\(HumanText.fixed(round.copyMegabytesPerSecond, 0)) MB/s")
            }
            cluster.noteEnds()
            return Report(
                groups: options.groups, hosts: options.hosts, megabytes: megabytes, payload: payload, rate: rate,
                rounds: rounds, failedWrites: failed, machine: cluster.machine)
        }
    }

    private func round(_ number: Int, _ cluster: MeasuredCluster, _ keys: [Bytes]) async throws -> (Report.Round, Int) {
        let client = try await cluster.connect()
        let save = cluster.local.directory + "/save-\(number)"
        let copy = cluster.local.directory + "/copy-\(number)"
        let content = MeasuredCluster.value(bytes: payload, seed: UInt64(number + 1))
        func writing<T>(_ body: () async throws -> T) async throws -> (T, SteadyWriters.Outcome) {
            try await SteadyWriters(client, keys: keys, value: content, rate: rate, seed: UInt64(number)).beside(body)
        }
        let before = try cluster.cpuNanoseconds()
        let (_, alone) = try await writing { try await Task.sleep(for: .seconds(seconds)) }
        let begin = try cluster.cpuNanoseconds()
        let perSecond = Double(begin - before) / Double(seconds)
        let (saved, besideSave) = try await writing {
            try await self.time {
                let result = try await cluster.local.command(
                    ["snapshot", "save", save, "--connect", cluster.local.addresses], limit: .seconds(3_600))
                guard result.ending == .exit(0) else {
                    throw ToolError(.unavailable, "the save ended with \(result.ending): \(result.errorText)")
                }
            }
        }
        let saveCpu = Double(try cluster.cpuNanoseconds() - begin) - perSecond * Double(saved) / 1e9
        let bytes = try Self.bytes(in: save)
        let (copied, besideCopy) = try await writing {
            try await self.time {
                // Each file and the directory are synced, as a save does.
                let child = try ChildProcess(
                    "/bin/sh", ["-c", "cp -r \"$0\" \"$1\" && sync \"$1\"/* \"$1\"", save, copy])
                let result = await child.end()
                guard result.ending == .exit(0) else {
                    throw ToolError(.fileTrouble, "cp ended with \(result.ending): \(result.errorText)")
                }
            }
        }
        try FileManager.default.removeItem(atPath: save)
        try FileManager.default.removeItem(atPath: copy)
        func megabytesPerSecond(_ nanoseconds: UInt64) -> Double {
            Double(bytes) / 1e6 / (Double(max(nanoseconds, 1)) / 1e9)
        }
        return (
            Report.Round(
                bytes: bytes, saveMegabytesPerSecond: megabytesPerSecond(saved),
                copyMegabytesPerSecond: megabytesPerSecond(copied),
                saveHostCpuMillis: saveCpu / 1e6,
                alone: WriteTimes(alone.nanoseconds), besideSave: WriteTimes(besideSave.nanoseconds),
                besideCopy: WriteTimes(besideCopy.nanoseconds)),
            alone.failed + besideSave.failed + besideCopy.failed
        )
    }

    private func time(_ body: () async throws -> Void) async throws -> UInt64 {
        let start = RPCClock.now()
        try await body()
        return RPCClock.now().since(start)
    }

    private static func bytes(in directory: String) throws -> UInt64 {
        try FileManager.default.contentsOfDirectory(atPath: directory).reduce(0) { sum, name in
            let attributes = try FileManager.default.attributesOfItem(atPath: directory + "/" + name)
            return sum + (attributes[.size] as? NSNumber ?? 0).uint64Value
        }
    }
}
