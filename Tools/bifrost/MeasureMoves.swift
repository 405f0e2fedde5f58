// `bifrost measure moves`: how fast slots move from group to group, and what that does to those who write.

import ArgumentParser
import Bifrost
import Primitives
import RPC
import Ring
import Synchronization

struct MeasureMoves: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "moves",
        abstract: "Moves slots between groups under load, and measures rate, pauses and what writers notice.",
        discussion: """
            Writes --megabytes over all keys, and then lets writers go on at a steady rate: first alone, then while all \
            slots of one group move to the next, and back. --rounds times. The rate is of the moved slots' values, from \
            when the move is asked for until the target serves; the times are of single writes, from when each was due. \
            Beside them --probes of the moved slots get a write every few milliseconds, one behind the other: the longest \
            is that slot's pause.

            EXAMPLES:
              bifrost measure moves --groups 16 --megabytes 1024
              bifrost measure moves --groups 4 --megabytes 128 --rate 2000 --json
            """)

    @Option(help: ArgumentHelp("Bytes of values, in MiB, 1 to 65536.", valueName: "MiB"))
    var megabytes = 256
    @Option(help: ArgumentHelp("Bytes of each value.", valueName: "bytes"))
    var payload = 1_024
    @Option(help: ArgumentHelp("Writes per second meanwhile, 1 to 100000.", valueName: "count"))
    var rate = 2_000
    @Option(help: ArgumentHelp("Moved slots whose pause is measured, 1 to 256.", valueName: "count"))
    var probes = 16
    @Option(help: ArgumentHelp("Seconds of writes alone before each round, 1 to 600.", valueName: "seconds"))
    var seconds = 5
    @Option(help: ArgumentHelp("How often slots go and come back, 1 to 100.", valueName: "count"))
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
        guard (1...256).contains(probes) else { throw ValidationError("--probes takes 1 to 256, not \(probes)") }
        guard (1...600).contains(seconds) else { throw ValidationError("--seconds takes 1 to 600, not \(seconds)") }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
        guard options.groups >= 2 else {
            throw ValidationError("--groups is 2 at least: slots move from one to another")
        }
    }

    private struct Report: MeasureReport {
        struct Writes: Encodable {
            var count: Int
            var medianMillis: Double
            var p99Millis: Double
            var worstMillis: Double

            init?(_ nanoseconds: [UInt64]) {
                guard let spread = MeasureSpread(nanoseconds), let p99 = MeasureSpread.percentile(nanoseconds, 99)
                else { return nil }
                (count, medianMillis, worstMillis) = (spread.count, spread.medianMillis, spread.worstMillis)
                p99Millis = p99
            }
        }
        struct Move: Encodable {
            var source: UInt32
            var target: UInt32
            var slots: Int
            var bytes: UInt64
            var seconds: Double
            var megabytesPerSecond: Double
            /// CPU of all hosts meanwhile, without what the writers cost in that time, as far as that was measured before.
            var hostCpuMillis: Double
            var alone: Writes?
            var beside: Writes?
            /// The longest write of each probed slot, beside the move and alone.
            var pauses: MeasureSpread?
            var longestAlone: MeasureSpread?
        }
        var groups: Int
        var hosts: Int
        var megabytes: Int
        var payload: Int
        var rate: Int
        var probes: Int
        var moves: [Move]
        /// Over all moves and probed slots.
        var pauses: MeasureSpread?
        var failedWrites: Int
        var machine: Machine
        var problems: [String] {
            failedWrites > 0 ? ["\(HumanText.count(failedWrites, "write")) failed meanwhile"] : []
        }

        var text: String {
            var table = Table([
                ("move", .right), ("slots", .right), ("bytes", .right), ("seconds", .right), ("MB/s", .right),
                ("p99 alone ms", .right), ("beside ms", .right), ("pause p50 ms", .right), ("worst ms", .right),
                ("CPU ms", .right),
            ])
            func millis(_ value: Double?) -> String { value.map { HumanText.fixed($0, 1) } ?? "-" }
            for move in moves {
                table.add([
                    "\(move.source) → \(move.target)", "\(move.slots)", HumanText.bytes(move.bytes),
                    HumanText.fixed(move.seconds, 2), HumanText.fixed(move.megabytesPerSecond, 1),
                    millis(move.alone?.p99Millis), millis(move.beside?.p99Millis), millis(move.pauses?.medianMillis),
                    millis(move.pauses?.worstMillis), HumanText.fixed(move.hostCpuMillis, 0),
                ])
            }
            return [
                table.text, "", "pauses of slots  \(pauses?.text ?? "-")",
                "\(groups) groups on \(hosts) hosts, values of \(payload) bytes, \(rate) writes per second and "
                    + "\(HumanText.count(probes, "probe")) meanwhile",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("moves") { cluster in
            // Slots move at a level that is in the making.
            cluster.hostArguments = ["--feature-level", "\(FeatureLevel.migrations)"]
            _ = try await cluster.begin()
            let upgrade = try await cluster.local.command(
                ["cluster", "upgrade", "--to", "\(FeatureLevel.migrations)", "--connect", cluster.local.addresses],
                limit: options.patience)
            guard upgrade.ending == .exit(0) else {
                throw ToolError(.unavailable, "cluster upgrade ended with \(upgrade.ending): \(upgrade.errorText)")
            }
            let client = try await cluster.connect()
            let keys = try await fill(cluster)
            let operators = Administrator(
                seeds: cluster.local.hosts.map(\.address), timeout: options.patience * (4 * rounds))
            defer { operators.close() }
            let groups = try await client.map().dataGroups.map(\.id)
            var moves: [Report.Move] = []
            let slots = try await client.map().ring.slots(of: groups[0])
            var pauses: [UInt64] = []
            var failed = 0
            for number in 0..<2 * rounds {
                try await cluster.waitUntilSettled("before move \(number + 1)")
                let (source, target) = number % 2 == 0 ? (groups[0], groups[1]) : (groups[1], groups[0])
                let (move, longest, errors) = try await self.move(
                    slots, from: source, to: target, cluster, operators, keys)
                moves.append(move)
                pauses += longest
                failed += errors
                cluster.say(
                    "move \(number + 1) of \(2 * rounds): \(HumanText.fixed(move.megabytesPerSecond, 1)) MB/s, longest pause "
                        + "\(HumanText.fixed(move.pauses?.worstMillis ?? 0, 1)) ms")
            }
            cluster.noteEnds()
            return Report(
                groups: options.groups, hosts: options.hosts, megabytes: megabytes, payload: payload, rate: rate,
                probes: probes, moves: moves, pauses: MeasureSpread(pauses), failedWrites: failed,
                machine: cluster.machine)
        }
    }

    private var value: Bytes {
        var random = SeededRandom(seed: 1)
        return Bytes(count: payload) { bytes in
            for place in bytes.indices { bytes[place] = UInt8(truncatingIfNeeded: random.next()) }
        }
    }

    private func fill(_ cluster: MeasuredCluster) async throws -> [Bytes] {
        let count = max(1, (megabytes << 20) / payload)
        let keys = (0..<count).map { Bytes("~measure/value/\($0)") }
        var from = 0
        while from < count {
            let end = min(count, from + 65_536)
            let part = keys[from..<end].map { (group: GroupID.meta, key: $0) }
            _ = try await cluster.write(
                "filling, \(HumanText.count(count - from, "value")) to go", part, value: value)
            from = end
        }
        return keys
    }

    private func move(
        _ slots: [Slot], from source: GroupID, to target: GroupID, _ cluster: MeasuredCluster,
        _ operators: Administrator, _ keys: [Bytes]
    ) async throws -> (Report.Move, [UInt64], Int) {
        let client = try await cluster.connect()
        let moving = Set(slots)
        let inside = keys.filter { moving.contains(slot(of: $0)) }
        // Some slots, spread over all of them, with a key of each.
        var probed: [Slot: Bytes] = [:]
        for key in inside { probed[slot(of: key)] = key }
        let step = max(1, slots.count / probes)
        let places = stride(from: 0, to: slots.count, by: step).compactMap { probed[slots[$0]] }.prefix(probes)
        func writing<T>(_ body: () async throws -> T) async throws -> (T, SteadyWriters.Outcome, SlotProbes.Outcome) {
            let writers = SteadyWriters(client, keys: keys, value: value, rate: rate, seed: UInt64(source.rawValue))
            let probes = SlotProbes(client, keys: Array(places), value: value)
            async let written = writers.run()
            async let longest = probes.run()
            do {
                let result = try await body()
                writers.stop()
                probes.stop()
                return (result, await written, await longest)
            } catch {
                writers.stop()
                probes.stop()
                _ = (await written, await longest)
                throw error
            }
        }
        func cpu() throws -> UInt64 { try cluster.figures().reduce(0) { $0 + $1.cpuNanoseconds } }
        let before = try cpu()
        let (_, alone, restingProbes) = try await writing { try await Task.sleep(for: .seconds(seconds)) }
        let begin = try cpu()
        let perSecond = Double(begin - before) / Double(seconds)
        let (nanoseconds, beside, movingProbes) = try await writing {
            let start = RPCClock.now()
            let change = try await operators.bring(
                about: .moveSlots(slots, from: source, to: target), from: try await operators.map())
            try await served(slots, by: target, since: change.mapVersion, operators)
            return RPCClock.now().since(start)
        }
        let spent = Double(try cpu() - begin) - perSecond * Double(nanoseconds) / 1e9
        let bytes = UInt64(inside.count) * UInt64(payload)
        return (
            Report.Move(
                source: source.rawValue, target: target.rawValue, slots: slots.count, bytes: bytes,
                seconds: Double(nanoseconds) / 1e9,
                megabytesPerSecond: Double(bytes) / 1e6 / (Double(max(nanoseconds, 1)) / 1e9),
                hostCpuMillis: spent / 1e6, alone: Report.Writes(alone.nanoseconds),
                beside: Report.Writes(beside.nanoseconds), pauses: MeasureSpread(movingProbes.longest),
                longestAlone: MeasureSpread(restingProbes.longest)),
            movingProbes.longest,
            alone.failed + beside.failed + restingProbes.failed + movingProbes.failed
        )
    }

    /// Until the target serves all of them, as the map tells.
    private func served(
        _ slots: [Slot], by target: GroupID, since version: UInt64, _ operators: Administrator
    ) async throws {
        while true {
            let map = try await operators.map()
            let migration = map.migrations.first { $0.target == target }
            if map.version >= version, migration.map({ $0.state == .activated }) ?? true {
                guard slots.allSatisfy({ map.ring.owner(of: $0) == target }) else {
                    throw ToolError(.negative, "the move to group \(target) was given up by the cluster")
                }
                return
            }
            guard !operators.isOver else { throw ToolError(.unavailable, "the move to group \(target) takes too long") }
            try await Task.sleep(for: .milliseconds(5))
        }
    }
}

/// A write after the other to each of some keys, some milliseconds apart: what each key's longest took.
private final class SlotProbes: Sendable {
    struct Outcome: Sendable {
        /// In nanoseconds, one for each key.
        var longest: [UInt64] = []
        var failed = 0
    }
    private static let pause = Duration.milliseconds(2)

    private let client: Cluster
    private let keys: [Bytes]
    private let value: Bytes
    private let isStopping = Mutex(false)

    init(_ client: Cluster, keys: [Bytes], value: Bytes) {
        (self.client, self.keys, self.value) = (client, keys, value)
    }

    func stop() { isStopping.withLock { $0 = true } }

    func run() async -> Outcome {
        await withTaskGroup(of: (longest: UInt64, failed: Int).self) { group in
            for key in keys {
                group.addTask { [self] in
                    var (longest, failed): (UInt64, Int) = (0, 0)
                    while !isStopping.withLock({ $0 }) {
                        let begin = RPCClock.now()
                        do { try await client.kv.put(key, value) } catch { failed += 1 }
                        longest = max(longest, RPCClock.now().since(begin))
                        try? await Task.sleep(for: Self.pause)
                    }
                    return (longest, failed)
                }
            }
            var outcome = Outcome()
            for await (longest, failed) in group {
                outcome.longest.append(longest)
                outcome.failed += failed
            }
            return outcome
        }
    }
}
