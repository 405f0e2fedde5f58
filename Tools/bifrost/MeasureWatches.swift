// `bifrost measure watches`: how soon many watchers are told of a put, and what they cost while they wait and when they are
// told. Owns the command and its report; the watchers and the puts are WatchLoad's.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC

struct MeasureWatches: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watches", abstract: "Measures watches: how soon each is told of a put, memory, processor.",
        discussion: """
            In this process --watchers watch --keys keys, in turn, over one connection to each host. In each round the \
            hosts are started anew; for --seconds there are --rate puts per second with nobody watching, then all watch \
            and nothing happens for --quiet seconds, then there are the same puts again. Times are from the moment at \
            which a put is sent, and at which its acknowledgement is here, to the one at which a watcher has the change. \
            Each watcher has to be told each put of its key, once and in order: otherwise the run does not count.

            Watchers that are --slow read nothing for --pause seconds after each change. They go on where they were, or \
            are told that what is behind that is not kept any more (compacted), and begin with what is there.

            With --groups 1 all watches wait at one host. Hosts and watchers have the same cores.

            EXAMPLES:
              bifrost measure watches --groups 1
              bifrost measure watches --groups 1 --keys 1 --rate 2 --rounds 5
              bifrost measure watches --groups 1 --prefixes --json
              bifrost measure watches --groups 1 --watchers 2000 --payload 4096 --slow 10%
            """)

    @Option(help: ArgumentHelp("Watchers, 1 to \(WatchLoad.watchersMax).", valueName: "count"))
    var watchers = 10_000
    @Option(
        help: ArgumentHelp(
            "Keys that they are spread over; 1: all watch the same. (default: as many as watchers)", valueName: "count"
        ))
    var keys: Int?
    @Flag(help: "Each watches a prefix, of which its key is the only one, and not the key.")
    var prefixes = false
    @Flag(help: "All keys have one tag, and so are in one slot.")
    var oneTag = false
    @Option(help: ArgumentHelp("Puts per second, all keys in turn, above 0 to 100000.", valueName: "count"))
    var rate = 500.0
    @Option(help: ArgumentHelp("How long there are puts: without watchers, and with them.", valueName: "seconds"))
    var seconds = 10.0
    @Option(help: ArgumentHelp("How long all wait and nothing happens.", valueName: "seconds"))
    var quiet = 6.0
    @Option(help: ArgumentHelp("Bytes of a value, \(WatchLoad.Mark.size) to 1048576.", valueName: "bytes"))
    var payload = 128
    @Option(
        help: ArgumentHelp("Part of the watchers that are slow: 10%.", valueName: "percent"),
        transform: MeasureWatches.percent(parsing:))
    var slow = 0
    @Option(help: ArgumentHelp("How long a slow one reads nothing after a change.", valueName: "seconds"))
    var pause = 3.0
    @Option(help: ArgumentHelp("How often all of it is done, 1 to 100.", valueName: "count"))
    var rounds = 1
    @OptionGroup var options: MeasureOptions

    private static func percent(parsing text: String) throws -> Int {
        guard let value = Int(text.hasSuffix("%") ? text.dropLast() : text[...]), (0...100).contains(value) else {
            throw ValidationError("--slow takes 0% to 100%, not '\(text)'")
        }
        return value
    }

    /// Of puts in one phase.
    private static let putsMax = 10_000_000.0

    func validate() throws {
        guard (1...WatchLoad.watchersMax).contains(watchers) else {
            throw ValidationError("--watchers takes 1 to \(WatchLoad.watchersMax), not \(watchers)")
        }
        if let keys, !(1...watchers).contains(keys) {
            throw ValidationError("--keys takes 1 to as many as watchers, \(watchers), not \(keys)")
        }
        guard rate > 0, rate <= 100_000 else {
            throw ValidationError("--rate takes above 0 to 100000, not \(rate)")
        }
        for (name, value) in [("seconds", seconds), ("pause", pause)] where !(value > 0 && value <= 3_600) {
            throw ValidationError("--\(name) takes above 0 to 3600, not \(value)")
        }
        guard quiet >= 0, quiet <= 3_600 else { throw ValidationError("--quiet takes 0 to 3600, not \(quiet)") }
        guard (1...Self.putsMax).contains(rate * seconds) else {
            throw ValidationError("--rate times --seconds is 1 to \(Int(Self.putsMax)) puts, not \(rate * seconds)")
        }
        guard (WatchLoad.Mark.size...1 << 20).contains(payload) else {
            throw ValidationError("--payload takes \(WatchLoad.Mark.size) to 1048576, not \(payload)")
        }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
    }

    fileprivate struct Run: Encodable {
        /// Until all watches stood.
        var readyMillis: Double
        /// Of all hosts together, before there was a watch, with all waiting, and behind the last put.
        var hostBytesBefore: UInt64
        var hostBytesWaiting: UInt64
        var hostBytesAtEnd: UInt64
        var hostBytesPerWatcher: Double
        /// Of this process, which watches; in later rounds it has the memory of earlier ones.
        var clientBytesPerWatcher: Double
        var clientThreads: Int
        var clientDescriptors: Int
        /// While all wait and nothing happens, in cores.
        var hostCoresWaiting: Double
        var clientCoresWaiting: Double
        /// With nobody watching.
        var putsAlone: WatchLoad.Puts
        var puts: WatchLoad.Puts
        /// To watchers that are not slow, until all of them had all.
        var told: UInt64
        var fromSent: WatchLoad.Latency
        var fromAcknowledged: WatchLoad.Latency
        /// Told before the acknowledgement was here: 0 in `fromAcknowledged`.
        var toldBeforeAcknowledged: UInt64
        /// For each change that a watcher was told, beyond what the puts took with nobody watching, and waiting.
        var hostMicrosPerTold: Double
        var clientMicrosPerTold: Double
        var slow: WatchLoad.Slow?
    }

    private struct Report: MeasureReport {
        var hosts: Int
        var groups: Int
        var watchers: Int
        var keys: Int
        var prefixes: Bool
        var oneTag: Bool
        var rate: Double
        var seconds: Double
        var payload: Int
        var slowWatchers: Int
        var pauseSeconds: Double
        var runs: [Run]
        var machine: Machine

        var problems: [String] { [] }

        private func cell(_ value: (Run) -> Double, _ digits: Int = 0) -> String {
            let sorted = runs.map(value).sorted()
            func shown(_ value: Double) -> String {
                let size = abs(value)
                let text =
                    digits == 0 ? HumanText.grouped(UInt64(size.rounded())) : HumanText.fixed(size, digits)
                return value < 0 ? "-\(text)" : text
            }
            guard let least = sorted.first, let most = sorted.last else { return "-" }
            let middle = shown(sorted[sorted.count / 2])
            return sorted.count > 1 ? "\(middle) (\(shown(least)) – \(shown(most)))" : middle
        }

        /// In later rounds it has the memory of earlier ones.
        private var bytesOfClient: String { HumanText.grouped(UInt64(max(runs.first?.clientBytesPerWatcher ?? 0, 0))) }

        private func cells(_ latency: (Run) -> WatchLoad.Latency?) -> [String] {
            let values: [KeyPath<WatchLoad.Latency, Double>] = [\.p50Millis, \.p90Millis, \.p99Millis, \.maxMillis]
            return values.map { value in cell({ latency($0)?[keyPath: value] ?? 0 }, 2) }
        }

        var text: String {
            var times = Table([
                ("ms", .left), ("p50", .right), ("p90", .right), ("p99", .right), ("max", .right),
            ])
            times.add(["put acknowledged, nobody watches"] + cells { $0.putsAlone.acknowledged })
            times.add(["put acknowledged"] + cells { $0.puts.acknowledged })
            times.add(["told, since it was sent"] + cells { $0.fromSent })
            times.add(["told, since the acknowledgement"] + cells { $0.fromAcknowledged })
            var lines = [times.text, ""]
            let mebibyte = Double(1 << 20)
            lines += [
                "watches       \(HumanText.grouped(UInt64(watchers))) of \(HumanText.grouped(UInt64(keys))) "
                    + "\(prefixes ? "prefixes" : "keys")\(oneTag ? " of one tag" : ""), ready after \(cell({ $0.readyMillis })) ms",
                "puts          \(cell({ $0.puts.perSecond }, 1))/s for \(HumanText.fixed(seconds, 1)) s, "
                    + "\(HumanText.grouped(UInt64(payload))) bytes each",
                "told          \(cell({ Double($0.told) })) changes, each once; "
                    + "\(cell({ Double($0.toldBeforeAcknowledged) })) before the acknowledgement was here",
                "memory        hosts \(cell({ Double($0.hostBytesBefore) / mebibyte }, 1)) MiB before, "
                    + "\(cell({ Double($0.hostBytesWaiting) / mebibyte }, 1)) MiB with all waiting, "
                    + "\(cell({ Double($0.hostBytesAtEnd) / mebibyte }, 1)) MiB at the end",
                "per watcher   \(cell({ $0.hostBytesPerWatcher })) bytes of the hosts, "
                    + "\(bytesOfClient) of this process in the first round, which has "
                    + "\(cell({ Double($0.clientThreads) })) threads and \(cell({ Double($0.clientDescriptors) })) "
                    + "descriptors",
                "waiting       \(cell({ $0.hostCoresWaiting }, 3)) cores of the hosts, "
                    + "\(cell({ $0.clientCoresWaiting }, 3)) of this process",
                "CPU           per change told, beyond puts and waiting: \(cell({ $0.hostMicrosPerTold }, 1)) µs of the hosts, "
                    + "\(cell({ $0.clientMicrosPerTold }, 1)) µs of this process; per put with nobody watching: "
                    + "\(cell({ $0.putsAlone.hostMicros }, 1)) and \(cell({ $0.putsAlone.clientMicros }, 1)) µs",
            ]
            if slowWatchers > 0 {
                lines.append(
                    "slow          \(HumanText.grouped(UInt64(slowWatchers))) that read nothing for "
                        + "\(HumanText.fixed(pauseSeconds, 1)) s after a change: "
                        + "\(cell({ Double($0.slow?.told ?? 0) })) changes told, "
                        + "\(cell({ Double($0.slow?.compacted ?? 0) })) times compacted, with "
                        + "\(cell({ Double($0.slow?.passedOver ?? 0) })) changes that the snapshots were behind")
            }
            lines += [
                "each figure   \(runs.count > 1 ? "median (least – greatest) of \(runs.count)" : "of one run"), "
                    + "\(HumanText.count(groups, "group")) on \(HumanText.count(hosts, "host"))",
                machine.line,
            ]
            return lines.joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("watches") { cluster in
            let load = WatchLoad(
                watchers: watchers, keys: keys ?? watchers, prefixes: prefixes, isOneTag: oneTag, payload: payload,
                slowPercent: slow,
                pause: .nanoseconds(Int64(pause * 1e9)), patience: options.patience)
            _ = try await cluster.begin()
            var runs: [Run] = []
            for round in 1...rounds {
                if round > 1 { try await restart(cluster) }
                let run = try await measure(load, cluster)
                runs.append(run)
                cluster.say(
                    "round \(round) of \(rounds): told within \(HumanText.fixed(run.fromSent.p50Millis, 1)) ms (p50), "
                        + "\(HumanText.fixed(run.fromSent.p99Millis, 1)) ms (p99); "
                        + "\(HumanText.grouped(UInt64(max(run.hostBytesPerWatcher, 0)))) bytes per watcher at the hosts"
                )
            }
            cluster.noteEnds()
            return Report(
                hosts: options.hosts, groups: options.groups, watchers: watchers, keys: keys ?? watchers,
                prefixes: prefixes, oneTag: oneTag, rate: rate, seconds: seconds, payload: payload,
                slowWatchers: (0..<watchers).count { load.isSlow($0) }, pauseSeconds: pause, runs: runs,
                machine: cluster.machine)
        }
    }

    private func restart(_ cluster: MeasuredCluster) async throws {
        await cluster.disconnect()
        cluster.local.stopAll()
        for host in cluster.local.hosts { try cluster.start(host) }
        for host in cluster.local.hosts { try await cluster.waitUntilThere(host) }
        try await cluster.waitUntilSettled("with hosts anew")
    }

    private func measure(_ load: WatchLoad, _ cluster: MeasuredCluster) async throws -> Run {
        let client = try await cluster.connect()
        let watchers = Double(self.watchers)
        try await load.begin(client)
        let alone = try await puts(load, client, cluster)
        return try await withThrowingTaskGroup(of: Void.self) { group in
            // Also where something fails: they are waited for in any case.
            defer { group.cancelAll() }
            let before = try Stand(cluster)
            for number in 0..<self.watchers { group.addTask { await load.watch(client, number) } }
            try await load.wait("for all watches to stand") { $0.ready == self.watchers }
            let ready = RPCClock.now()
            cluster.say(
                "\(HumanText.grouped(UInt64(self.watchers))) watches stand; \(HumanText.fixed(quiet, 1)) s in which "
                    + "nothing happens, then \(HumanText.fixed(seconds, 1)) s of puts")
            let quietly = try Stand(cluster)
            try await Task.sleep(for: .nanoseconds(Int64(quiet * 1e9)))
            let waiting = try Stand(cluster)
            let told = try await puts(load, client, cluster)
            let end = try Stand(cluster)
            let elapsed = Double(end.at.since(waiting.at))
            let counted = load.counted
            try await load.finish(client)
            try await group.waitForAll()
            try load.check()
            let quietNanoseconds = Double(max(waiting.at.since(quietly.at), 1))
            let toldCount = Double(max(counted.told + counted.slow.told, 1))
            /// Beyond the same puts alone, and as much waiting, in microseconds.
            func each(_ nanoseconds: (Stand) -> UInt64, alone: Double) -> Double {
                let idle = quiet > 0 ? Double(nanoseconds(waiting) - nanoseconds(quietly)) / quietNanoseconds : 0
                let all = Double(nanoseconds(end) - nanoseconds(waiting)) - idle * elapsed
                return (all / 1e3 - alone * Double(told.count)) / toldCount
            }
            return Run(
                readyMillis: Double(ready.since(before.at)) / 1e6,
                hostBytesBefore: before.hostBytes, hostBytesWaiting: waiting.hostBytes, hostBytesAtEnd: end.hostBytes,
                hostBytesPerWatcher: (Double(waiting.hostBytes) - Double(before.hostBytes)) / watchers,
                clientBytesPerWatcher: (Double(waiting.own.residentBytes) - Double(before.own.residentBytes))
                    / watchers,
                clientThreads: end.own.threads, clientDescriptors: end.own.descriptors,
                hostCoresWaiting: Double(waiting.hostNanoseconds - quietly.hostNanoseconds) / quietNanoseconds,
                clientCoresWaiting: Double(waiting.own.cpuNanoseconds - quietly.own.cpuNanoseconds) / quietNanoseconds,
                putsAlone: alone, puts: told, told: counted.told,
                fromSent: WatchLoad.Latency(counted.fromSent), fromAcknowledged: WatchLoad.Latency(counted.fromAcked),
                toldBeforeAcknowledged: counted.toldBeforeAcked,
                hostMicrosPerTold: each({ $0.hostNanoseconds }, alone: alone.hostMicros),
                clientMicrosPerTold: each({ $0.own.cpuNanoseconds }, alone: alone.clientMicros),
                slow: slow > 0 ? load.counted.slow : nil)
        }
    }

    /// All of a phase's puts, until all that are not slow were told all of them.
    private func puts(
        _ load: WatchLoad, _ client: Cluster, _ cluster: MeasuredCluster
    ) async throws -> WatchLoad.Puts {
        let before = try Stand(cluster)
        let count = Int(rate * seconds)
        try await load.put(client, count: count, rate: rate)
        let written = RPCClock.now()
        try await load.wait("for all changes to be told") { $0.told >= $0.expected }
        let after = try Stand(cluster)
        return WatchLoad.Puts(
            count: count, perSecond: Double(count) * 1e9 / Double(max(written.since(before.at), 1)),
            acknowledged: WatchLoad.Latency(load.counted.acknowledged),
            hostMicros: Double(after.hostNanoseconds - before.hostNanoseconds) / 1e3 / Double(count),
            clientMicros: Double(after.own.cpuNanoseconds - before.own.cpuNanoseconds) / 1e3 / Double(count))
    }

    /// What all processes had used up to a moment.
    private struct Stand {
        var at: Instant
        var hostNanoseconds: UInt64
        var hostBytes: UInt64
        var own: ProcessFigures

        init(_ cluster: MeasuredCluster) throws {
            let hosts = try cluster.figures()
            hostNanoseconds = hosts.reduce(0) { $0 + $1.cpuNanoseconds }
            hostBytes = hosts.reduce(0) { $0 + $1.residentBytes }
            guard let own = ProcessFigures(of: getpid()) else {
                throw ToolError(.unavailable, "the system says nothing of this process")
            }
            self.own = own
            at = RPCClock.now()
        }
    }
}
