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
            Writes --megabytes over all keys, and then lets writers go on at a steady rate: first alone, for --seconds, and \
            then for as long while --slots of one group move to the next and back, again and again. --rounds times, each \
            with the slots of another group. The rate is of the moved slots' values, from when a move is asked for until the \
            target serves; the times are of single writes, from when each was due. Beside them --probes of the moved slots \
            get a write every few milliseconds, one behind the other: the longest in a move is that slot's pause.

            Without --rate the most that the cluster takes is measured first, and writers have --load of that.

            EXAMPLES:
              bifrost measure moves --groups 16 --megabytes 256
              bifrost measure moves --groups 16 --megabytes 256 --slots 60 --rate 2000 --json
              bifrost measure moves --groups 4 --megabytes 64 --slots 4096 --rounds 2
            """)

    @Option(help: ArgumentHelp("Bytes of values, in MiB, 1 to 65536.", valueName: "MiB"))
    var megabytes = 256
    @Option(help: ArgumentHelp("Bytes of each value.", valueName: "bytes"))
    var payload = 1_024
    @Option(
        help: ArgumentHelp(
            "Slots that move at a time, 1 to \(MigrationRecord.slotsMax); at most all that a group has. (default: as in a plan for one "
                + "more group: 60 of 16 groups)", valueName: "count"))
    var slots: Int?
    @Option(help: ArgumentHelp("Writes per second meanwhile, 1 to 100000.", valueName: "count"))
    var rate: Int?
    @Option(
        help: ArgumentHelp(
            "Without --rate: which part of the most that the cluster takes, 0.01 to 1.", valueName: "part"))
    var load = 0.5
    @Option(help: ArgumentHelp("Moved slots whose pause is measured, 1 to 256.", valueName: "count"))
    var probes = 8
    @Option(help: ArgumentHelp("Seconds of writes alone, and of moves, in each round, 1 to 600.", valueName: "seconds"))
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
        if let slots, !(1...MigrationRecord.slotsMax).contains(slots) {
            throw ValidationError("--slots takes 1 to \(MigrationRecord.slotsMax), not \(slots)")
        }
        if let rate, !(1...100_000).contains(rate) {
            throw ValidationError("--rate takes 1 to 100000, not \(rate)")
        }
        guard (0.01...1).contains(load) else { throw ValidationError("--load takes 0.01 to 1, not \(load)") }
        guard (1...256).contains(probes) else { throw ValidationError("--probes takes 1 to 256, not \(probes)") }
        guard (1...600).contains(seconds) else { throw ValidationError("--seconds takes 1 to 600, not \(seconds)") }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
        guard options.groups >= 2 else {
            throw ValidationError("--groups is 2 at least: slots move from one to another")
        }
    }

    private struct Report: MeasureReport {
        struct Move: Encodable {
            var source: UInt32
            var target: UInt32
            var seconds: Double
            var megabytesPerSecond: Double
            /// The longest write of each probed slot.
            var pauses: MeasureSpread?
        }
        struct Round: Encodable {
            var slots: Int
            /// Of the slots' values: each move takes as much.
            var bytes: UInt64
            var moves: [Move]
            /// Of all moves: their bytes, by the time until the targets served.
            var megabytesPerSecond: Double
            /// CPU of all hosts for each move, without what the writers cost in that time, as far as that was measured before.
            var hostCpuMillisPerMove: Double
            var alone: WriteTimes?
            var beside: WriteTimes?
            /// Over all moves and probed slots; and the longest write of each slot in the time alone.
            var pauses: MeasureSpread?
            var longestAlone: MeasureSpread?
        }
        var groups: Int
        var hosts: Int
        var megabytes: Int
        var payload: Int
        var rate: Int
        /// Writes per second that the cluster took when as many as possible were asked for; nil: not measured.
        var mostPerSecond: Double?
        var probes: Int
        var rounds: [Round]
        /// Over all rounds.
        var megabytesPerSecond: Double
        var alone: WriteTimes?
        var beside: WriteTimes?
        var pauses: MeasureSpread?
        var failedWrites: Int
        var machine: Machine
        var problems: [String] {
            failedWrites > 0 ? ["\(HumanText.count(failedWrites, "write")) failed meanwhile"] : []
        }

        var text: String {
            var table = Table([
                ("round", .right), ("moves", .right), ("slots", .right), ("bytes", .right), ("MB/s", .right),
                ("p99 alone ms", .right), ("beside ms", .right), ("pause p50 ms", .right), ("worst ms", .right),
                ("CPU ms", .right),
            ])
            func millis(_ value: Double?) -> String { value.map { HumanText.fixed($0, 1) } ?? "-" }
            for (number, round) in rounds.enumerated() {
                table.add([
                    "\(number + 1)", "\(round.moves.count)", "\(round.slots)", HumanText.bytes(round.bytes),
                    HumanText.fixed(round.megabytesPerSecond, 1), WriteTimes.p99Text(round.alone),
                    WriteTimes.p99Text(round.beside), millis(round.pauses?.medianMillis),
                    millis(round.pauses?.worstMillis), HumanText.fixed(round.hostCpuMillisPerMove, 0),
                ])
            }
            let moves = rounds.reduce(0) { $0 + $1.moves.count }
            return [
                table.text, "",
                "all           \(HumanText.count(moves, "move")), \(HumanText.fixed(megabytesPerSecond, 1)) MB/s; writes' p99 "
                    + "\(WriteTimes.p99Text(alone)) ms alone, \(WriteTimes.p99Text(beside)) ms beside",
                "pauses        \(pauses?.text ?? "-")",
                "load          \(HumanText.grouped(UInt64(rate))) writes per second"
                    + (mostPerSecond.map { " of \(HumanText.grouped(UInt64($0))) at most" } ?? "")
                    + ", and \(HumanText.count(probes, "probe")) while slots move",
                "cluster       \(groups) groups on \(hosts) hosts, values of \(payload) bytes",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    /// What a round was, and all of its times.
    private struct Measured {
        var round: Report.Round
        var alone: [UInt64]
        var beside: [UInt64]
        var pauses: [UInt64] = []
        var moveNanoseconds: UInt64 = 0
        var failed: Int
    }

    func run() async throws {
        try await options.run("moves") { cluster in
            _ = try await cluster.begin()
            let client = try await cluster.connect()
            let value = MeasuredCluster.value(bytes: payload, seed: 1)
            let keys = try await cluster.fill(megabytes: megabytes, with: value)
            var most: Double?
            if rate == nil {
                try await cluster.waitUntilSettled("before the most is measured")
                most = try await SteadyWriters.most(client, keys: keys, value: value, for: .seconds(seconds))
                cluster.say("the cluster takes \(HumanText.grouped(UInt64(most ?? 0))) writes per second")
            }
            let rate = rate ?? max(1, Int((most ?? 0) * load))
            let mover = SlotMover(cluster.local.hosts.map(\.address), patience: options.patience)
            defer { mover.close() }
            let map = try await client.map()
            let groups = map.dataGroups.map(\.id)
            let count = slots ?? SlotMover.slotsOfPlan(groups: groups.count)
            var measured: [Measured] = []
            for number in 0..<rounds {
                try await cluster.waitUntilSettled("before round \(number + 1)")
                let home = groups[number % groups.count]
                let next = try await round(
                    SlotMover.some(count, of: map.ring.slots(of: home)), of: home,
                    beside: groups[(number + 1) % groups.count], cluster, mover, keys, value, rate)
                measured.append(next)
                cluster.say(
                    "round \(number + 1) of \(rounds): \(HumanText.fixed(next.round.megabytesPerSecond, 1)) MB/s, longest pause "
                        + "\(HumanText.fixed(next.round.pauses?.worstMillis ?? 0, 1)) ms")
            }
            cluster.noteEnds()
            let bytes = measured.reduce(0) { $0 + $1.round.bytes * UInt64($1.round.moves.count) }
            return Report(
                groups: options.groups, hosts: options.hosts, megabytes: megabytes, payload: payload, rate: rate,
                mostPerSecond: most, probes: probes, rounds: measured.map(\.round),
                megabytesPerSecond: Self.megabytesPerSecond(bytes, measured.reduce(0) { $0 + $1.moveNanoseconds }),
                alone: WriteTimes(measured.flatMap(\.alone)), beside: WriteTimes(measured.flatMap(\.beside)),
                pauses: MeasureSpread(measured.flatMap(\.pauses)),
                failedWrites: measured.reduce(0) { $0 + $1.failed }, machine: cluster.machine)
        }
    }

    private static func megabytesPerSecond(_ bytes: UInt64, _ nanoseconds: UInt64) -> Double {
        Double(bytes) / 1e6 / (Double(max(nanoseconds, 1)) / 1e9)
    }

    /// Writers alone, and then the slots there and back until as much time is over.
    private func round(
        _ slots: [Slot], of home: GroupID, beside other: GroupID, _ cluster: MeasuredCluster, _ mover: SlotMover,
        _ keys: [Bytes], _ value: Bytes, _ rate: Int
    ) async throws -> Measured {
        let client = try await cluster.connect()
        let moving = Set(slots)
        let inside = keys.filter { moving.contains(slot(of: $0)) }
        // Some slots, spread over all of them, with a key of each.
        var keyOfSlot: [Slot: Bytes] = [:]
        for key in inside { keyOfSlot[slot(of: key)] = key }
        let places = SlotMover.some(probes, of: slots.filter { keyOfSlot[$0] != nil }).compactMap { keyOfSlot[$0] }
        func writers() -> SteadyWriters {
            SteadyWriters(client, keys: keys, value: value, rate: rate, seed: UInt64(home.rawValue))
        }
        let before = try cluster.cpuNanoseconds()
        let (resting, alone) = try await writers().beside {
            try await SlotProbes(client, keys: places, value: value).beside {
                try await Task.sleep(for: .seconds(seconds))
            }.1
        }
        let begin = try cluster.cpuNanoseconds()
        let perSecond = Double(begin - before) / Double(seconds)
        let start = RPCClock.now()
        let bytes = UInt64(inside.count) * UInt64(payload)
        var moves: [Report.Move] = []
        var (moveNanoseconds, pauses, failed) = (UInt64(0), [UInt64](), 0)
        let (_, beside) = try await writers().beside {
            while RPCClock.now().since(start) < UInt64(seconds) * 1_000_000_000 {
                for (source, target) in [(home, other), (other, home)] {
                    let (nanoseconds, probed) = try await SlotProbes(client, keys: places, value: value).beside {
                        try await mover.move(slots, from: source, to: target)
                    }
                    moves.append(
                        Report.Move(
                            source: source.rawValue, target: target.rawValue, seconds: Double(nanoseconds) / 1e9,
                            megabytesPerSecond: Self.megabytesPerSecond(bytes, nanoseconds),
                            pauses: MeasureSpread(probed.longest)))
                    moveNanoseconds += nanoseconds
                    pauses += probed.longest
                    failed += probed.failed
                    try await mover.rest(slots)
                }
            }
        }
        let spent = Double(try cluster.cpuNanoseconds() - begin) - perSecond * Double(RPCClock.now().since(start)) / 1e9
        let round = Report.Round(
            slots: slots.count, bytes: bytes, moves: moves,
            megabytesPerSecond: Self.megabytesPerSecond(bytes * UInt64(moves.count), moveNanoseconds),
            hostCpuMillisPerMove: spent / 1e6 / Double(max(moves.count, 1)), alone: WriteTimes(alone.nanoseconds),
            beside: WriteTimes(beside.nanoseconds), pauses: MeasureSpread(pauses),
            longestAlone: MeasureSpread(resting.longest))
        return Measured(
            round: round, alone: alone.nanoseconds, beside: beside.nanoseconds, pauses: pauses,
            moveNanoseconds: moveNanoseconds, failed: failed + resting.failed + alone.failed + beside.failed)
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

    private func stop() { isStopping.withLock { $0 = true } }

    /// They write while the body runs.
    func beside<Result>(_ body: () async throws -> Result) async throws -> (Result, Outcome) {
        let task = Task { await run() }
        do {
            let result = try await body()
            stop()
            return (result, await task.value)
        } catch {
            stop()
            _ = await task.value
            throw error
        }
    }

    private func run() async -> Outcome {
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
