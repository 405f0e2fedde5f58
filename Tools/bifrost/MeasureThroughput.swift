// `bifrost measure throughput`: what groups serve by themselves, and while slots move between them, for clusters of several
// sizes.

import ArgumentParser
import Bifrost
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring

struct MeasureThroughput: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "throughput",
        abstract: "Measures puts per second of each group, without and with slots that move all the time.",
        discussion: """
            The load is that of 'bifrost bench': puts over --keys keys, --window of them in flight for each group. First \
            --seconds without, then as long while slots go from group to group and back: --moves at a time, each with \
            --slots slots between two groups of its own. With one group nothing moves. At the end 10,000 keys are read \
            back. With --sweep all of it for each of several numbers of groups, in a new cluster each.

            A put counts for the group that had its key at the beginning.

            EXAMPLES:
              bifrost measure throughput --sweep 1,4,16,64
              bifrost measure throughput --groups 16 --seconds 10 --json
            """)

    @Option(
        help: ArgumentHelp(
            "Numbers of groups, one cluster after the other, as in 1,4,16,64. (default: that of --groups)",
            valueName: "counts"),
        transform: GroupCounts.init(parsing:))
    var sweep: GroupCounts?
    @Option(help: ArgumentHelp("Seconds of each measure, 1 to 600.", valueName: "seconds"))
    var seconds = 5
    @Option(help: ArgumentHelp("Moves at a time, 1 to 64; at most one for two groups.", valueName: "count"))
    var moves = 4
    @Option(
        help: ArgumentHelp(
            "Slots of each move, 1 to \(MigrationRecord.slotsMax). (default: as in a plan for one more group)",
            valueName: "count"))
    var slots: Int?
    @Option(help: ArgumentHelp("Number of keys, 1 to 10000000.", valueName: "count"))
    var keys = 100_000
    @Option(help: ArgumentHelp("Bytes of each value.", valueName: "bytes"))
    var payload = 128
    @Option(help: ArgumentHelp("Puts in flight per group, 1 to 65536.", valueName: "count"))
    var window = 512
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard (1...600).contains(seconds) else { throw ValidationError("--seconds takes 1 to 600, not \(seconds)") }
        guard (1...64).contains(moves) else { throw ValidationError("--moves takes 1 to 64, not \(moves)") }
        if let slots, !(1...MigrationRecord.slotsMax).contains(slots) {
            throw ValidationError("--slots takes 1 to \(MigrationRecord.slotsMax), not \(slots)")
        }
        guard (1...10_000_000).contains(keys) else { throw ValidationError("--keys takes 1 to 10000000, not \(keys)") }
        guard (0...Limits.valueBytesMax).contains(payload) else {
            throw ValidationError("--payload takes 0 to \(Limits.valueBytesMax) bytes, not \(payload)")
        }
        guard (1...65_536).contains(window) else { throw ValidationError("--window takes 1 to 65536, not \(window)") }
    }

    /// Numbers of groups as people write them.
    struct GroupCounts: Sendable {
        var counts: [Int]

        private static let countsMax = 16

        init(parsing text: String) throws {
            let words = text.split(separator: ",", omittingEmptySubsequences: false)
            counts = words.compactMap { Int($0) }.filter { (1...Slot.count).contains($0) }
            guard !words.isEmpty, counts.count == words.count, words.count <= Self.countsMax else {
                throw ValidationError(
                    "expected 1 to \(Self.countsMax) numbers of groups from 1 to \(Slot.count), as in 1,4,16,64, found '\(text)'"
                )
            }
        }
    }

    private struct Report: MeasureReport {
        struct Rate: Encodable {
            var putsPerSecond: Double
            /// Of all groups; and of those with least and most.
            var perGroup: Double
            var leastOfGroup: Double
            var mostOfGroup: Double

            init(_ before: BenchGenerator.Counts, _ after: BenchGenerator.Counts, nanoseconds: UInt64) {
                let seconds = Double(max(nanoseconds, 1)) / 1e9
                let groups = zip(before.perGroup, after.perGroup).map {
                    Double($1.operations - $0.operations) / seconds
                }
                putsPerSecond = groups.reduce(0, +)
                perGroup = putsPerSecond / Double(max(groups.count, 1))
                (leastOfGroup, mostOfGroup) = (groups.min() ?? 0, groups.max() ?? 0)
            }
        }
        struct Row: Encodable {
            var groups: Int
            var alone: Rate
            /// nil: with one group nothing moves.
            var moving: Rate?
            /// At a time, and how many were done; slots of each.
            var movesAtATime: Int
            var movesDone: Int
            var slotsPerMove: Int
            var millisPerMove: Double?
        }
        var hosts: Int
        var keys: Int
        var payload: Int
        var window: Int
        var seconds: Int
        var rows: [Row]
        var errors: [String]
        var machine: Machine
        var problems: [String] { errors }

        var text: String {
            var table = Table([
                ("groups", .right), ("puts/s", .right), ("per group", .right), ("moving puts/s", .right),
                ("per group", .right), ("least", .right), ("ratio", .right), ("moves", .right), ("slots each", .right),
                ("ms each", .right),
            ])
            func rate(_ value: Double?) -> String { value.map { HumanText.grouped(UInt64($0)) } ?? "-" }
            for row in rows {
                let ratio = row.moving.map { $0.putsPerSecond / max(row.alone.putsPerSecond, 1) }
                table.add([
                    "\(row.groups)", rate(row.alone.putsPerSecond), rate(row.alone.perGroup),
                    rate(row.moving?.putsPerSecond), rate(row.moving?.perGroup), rate(row.moving?.leastOfGroup),
                    ratio.map { HumanText.fixed($0, 2) } ?? "-", "\(row.movesDone)", "\(row.slotsPerMove)",
                    row.millisPerMove.map { HumanText.fixed($0, 0) } ?? "-",
                ])
            }
            return [
                table.text, "",
                "\(hosts) hosts, \(HumanText.grouped(UInt64(keys))) keys with values of \(payload) bytes, \(window) puts in "
                    + "flight per group, \(seconds) s each",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        var rows: [Report.Row] = []
        var errors: [String] = []
        var machine: Machine?
        for groups in sweep?.counts ?? [options.groups] {
            var options = options
            options.groups = groups
            let (row, problems) = try await options.hosted("throughput") { cluster in
                machine = cluster.machine
                let result = try await measure(cluster, groups)
                cluster.noteEnds()
                return (result.row, result.problems + cluster.ends)
            }
            rows.append(row)
            errors += problems.map { "with \(HumanText.count(groups, "group")): \($0)" }
        }
        try options.finish(
            Report(
                hosts: options.hosts, keys: keys, payload: payload, window: window, seconds: seconds, rows: rows,
                errors: errors, machine: machine ?? Machine(directory: nil)), [])
    }

    private func measure(_ hosts: MeasuredCluster, _ groups: Int) async throws -> (row: Report.Row, problems: [String])
    {
        _ = try await hosts.begin()
        try await hosts.waitUntilSettled("before anything is measured")
        await hosts.disconnect()
        var options = ClusterOptions()
        options.timeout = self.options.patience
        options.connectTimeout = self.options.patience
        options.operationsMax = max(65_536, keys)
        options.name = "measure"
        let loopGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        options.eventLoopGroup = loopGroup
        let cluster = try await Cluster.connect(to: hosts.local.hosts.map(\.address), options: options)
        let result: Result<(row: Report.Row, problems: [String]), any Error>
        do { result = .success(try await drive(cluster, hosts, groups)) } catch { result = .failure(error) }
        await cluster.close()
        try await loopGroup.shutdownGracefully()
        return try result.get()
    }

    private func drive(
        _ cluster: Cluster, _ hosts: MeasuredCluster, _ groups: Int
    ) async throws -> (row: Report.Row, problems: [String]) {
        let map = try await cluster.map()
        let loop = cluster.loop
        let settings = BenchGenerator.Settings(
            keys: keys, payload: payload, window: window, reads: 0, seed: 1,
            deadlineNanoseconds: UInt64(self.options.patience / .nanoseconds(1)))
        let generator = try await loop.eventLoop.submit { BenchGenerator(loop: loop, map: map, settings: settings) }
            .get()
        hosts.say("writing each of \(HumanText.grouped(UInt64(keys))) keys once")
        let failure = await withCheckedContinuation { continuation in
            loop.eventLoop.execute { generator.preload { continuation.resume(returning: $0) } }
        }
        if let failure { throw ToolError(.unavailable, "writing the keys: \(failure)") }
        func counts() async throws -> BenchGenerator.Counts {
            try await loop.eventLoop.submit { generator.current }.get()
        }
        try await loop.eventLoop.submit { generator.run() }.get()
        // What is new is not counted: windows fill, memory is taken.
        try await Task.sleep(for: Self.warmUp)
        let (first, begin) = (try await counts(), RPCClock.now())
        try await Task.sleep(for: .seconds(seconds))
        let (second, middle) = (try await counts(), RPCClock.now())
        let atATime = min(moves, groups / 2)
        let slots = self.slots ?? SlotMover.slotsOfPlan(groups: groups)
        var row = Report.Row(
            groups: groups, alone: Report.Rate(first, second, nanoseconds: middle.since(begin)), moving: nil,
            movesAtATime: atATime, movesDone: 0, slotsPerMove: atATime > 0 ? slots : 0, millisPerMove: nil)
        if atATime > 0 {
            let times = try await move(slots, map, atATime, hosts.local.hosts.map(\.address))
            let (third, end) = (try await counts(), RPCClock.now())
            row.moving = Report.Rate(second, third, nanoseconds: end.since(middle))
            row.movesDone = times.count
            row.millisPerMove = Double(times.reduce(0, +)) / 1e6 / Double(max(times.count, 1))
        }
        await withCheckedContinuation { continuation in
            loop.eventLoop.execute { generator.stop { continuation.resume() } }
        }
        let last = try await counts()
        var problems =
            last.errors > 0 ? ["\(HumanText.count(last.errors, "error")), first: \(last.firstError ?? "-")"] : []
        let (right, asked, wrong) = await withCheckedContinuation { continuation in
            loop.eventLoop.execute {
                generator.verify(count: Self.verified) { continuation.resume(returning: ($0, $1, $2)) }
            }
        }
        if right != asked || asked == 0 {
            problems.append("\(asked - right) of \(asked) keys were not read back right: \(wrong ?? "-")")
        }
        hosts.say(
            "\(HumanText.count(groups, "group")): \(HumanText.grouped(UInt64(row.alone.putsPerSecond))) puts/s, "
                + "\(row.moving.map { HumanText.grouped(UInt64($0.putsPerSecond)) } ?? "-") while slots move")
        return (row, problems)
    }

    private static let warmUp = Duration.seconds(1)
    private static let verified = 10_000

    /// Each between two groups of its own, there and back, until the time is over.
    /// - Returns: nanoseconds of each move.
    private func move(_ count: Int, _ map: ClusterMap, _ atATime: Int, _ addresses: [String]) async throws -> [UInt64] {
        let groups = map.dataGroups.map(\.id)
        let end = RPCClock.now() + UInt64(seconds) * 1_000_000_000
        let patience = options.patience
        return try await withThrowingTaskGroup(of: [UInt64].self) { tasks in
            for number in 0..<atATime {
                let (home, other) = (groups[2 * number], groups[2 * number + 1])
                let slots = SlotMover.some(count, of: map.ring.slots(of: home))
                tasks.addTask {
                    let mover = SlotMover(addresses, patience: patience)
                    defer { mover.close() }
                    var times: [UInt64] = []
                    while RPCClock.now() < end {
                        for (source, target) in [(home, other), (other, home)] {
                            times.append(try await mover.move(slots, from: source, to: target))
                            try await mover.rest(slots)
                        }
                    }
                    return times
                }
            }
            return try await tasks.reduce(into: []) { $0 += $1 }
        }
    }
}
