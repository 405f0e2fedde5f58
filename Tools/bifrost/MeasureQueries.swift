// `bifrost measure queries`: how queries of users' state machines scale with the threads that answer them, alone and
// beside commands.

import ArgumentParser
import Bifrost
import BifrostHost
import Foundation
import Primitives
import RPC
import Ring
import Synchronization

struct MeasureQueries: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queries", abstract: "Measures queries of state machines: rate, processor, beside commands.",
        discussion: """
            A query reads --blocks records of 1 KiB, which are in memory, and computes over them --passes times. For each \
            number of query threads the hosts are started anew, and three loads are put on them for --seconds each: \
            queries, commands, which write a record of 1 KiB, and both together. Each answer is checked. Processor \
            time is that of the hosts alone; this process has the same cores for asking. With --hosts 1 all queries \
            are answered by one host.

            EXAMPLES:
              bifrost measure queries --hosts 1 --groups 4
              bifrost measure queries --hosts 1 --groups 4 --threads 1,2,4,8 --passes 8 --json
            """)

    @Option(help: ArgumentHelp("Numbers of query threads of each host, 1 to 256, with commas.", valueName: "counts"))
    var threads = "1,2,4"
    @Option(help: ArgumentHelp("Records that a query reads, 1 to \(QueryLoad.blocksMax - 1).", valueName: "count"))
    var blocks: UInt32 = 16
    @Option(
        help: ArgumentHelp("How often it goes through them, 1 to \(QueryLoad.passesMax).", valueName: "count"))
    var passes: UInt32 = 2
    @Option(help: ArgumentHelp("Queries in flight, 1 to 4096.", valueName: "count"))
    var window = 64
    @Option(help: ArgumentHelp("Commands in flight, 1 to 4096.", valueName: "count"))
    var commands = 64
    @Option(help: ArgumentHelp("How long each load is measured.", valueName: "seconds"))
    var seconds = 5.0
    @Option(help: ArgumentHelp("How often all of it is done, 1 to 100.", valueName: "count"))
    var rounds = 3
    @OptionGroup var options: MeasureOptions

    private var threadCounts: [Int] { threads.split(separator: ",").compactMap { Int($0) } }

    func validate() throws {
        let counts = threadCounts
        guard !counts.isEmpty, counts.count == threads.split(separator: ",", omittingEmptySubsequences: false).count,
            counts.allSatisfy({ (1...HostConfiguration.queryThreadsMax).contains($0) })
        else {
            throw ValidationError(
                "--threads takes numbers of 1 to \(HostConfiguration.queryThreadsMax) with commas, not '\(threads)'")
        }
        guard (1..<QueryLoad.blocksMax).contains(blocks) else {
            throw ValidationError("--blocks takes 1 to \(QueryLoad.blocksMax - 1), not \(blocks)")
        }
        guard (1...QueryLoad.passesMax).contains(passes) else {
            throw ValidationError("--passes takes 1 to \(QueryLoad.passesMax), not \(passes)")
        }
        for (name, count) in [("window", window), ("commands", commands)] where !(1...4_096).contains(count) {
            throw ValidationError("--\(name) takes 1 to 4096, not \(count)")
        }
        guard seconds > 0, seconds <= 3_600 else {
            throw ValidationError("--seconds takes above 0 to 3600, not \(seconds)")
        }
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100, not \(rounds)") }
    }

    /// What one load came to.
    fileprivate struct Load: Encodable {
        var queriesPerSecond: Double
        var commandsPerSecond: Double
        /// Of all hosts, in cores: 1.5 is one and a half.
        var hostCores: Double
        /// Of this process, which asks.
        var clientCores: Double

        /// Of the hosts, if there was nothing but queries.
        var cpuMicrosPerQuery: Double { queriesPerSecond > 0 ? hostCores * 1e6 / queriesPerSecond : 0 }
    }

    private struct Run: Encodable {
        var queries: Load
        var cpuMicrosPerQuery: Double
        var commands: Load
        var both: Load
    }

    private struct Row: Encodable {
        var queryThreads: Int
        var runs: [Run] = []
    }

    private struct Report: MeasureReport {
        var hosts: Int
        var groups: Int
        var blocks: UInt32
        var passes: UInt32
        /// That a query computes over its records, in one thread of this process, nothing else running.
        var computingMicros: Double
        var window: Int
        var commandsWindow: Int
        var seconds: Double
        var rows: [Row]
        var wrong: Int
        var firstError: String?
        var machine: Machine

        var problems: [String] {
            (firstError.map { [$0] } ?? []) + (wrong > 0 ? ["\(wrong) answers were wrong"] : [])
        }

        var text: String {
            var table = Table([
                ("threads", .right), ("queries/s", .right), ("CPU each", .right), ("cores", .right),
                ("asking", .right), ("commands/s", .right), ("both: queries/s", .right), ("commands/s", .right),
                ("cores", .right),
            ])
            for row in rows {
                func cell(_ value: (Run) -> Double, _ digits: Int) -> String {
                    let sorted = row.runs.map(value).sorted()
                    func shown(_ value: Double) -> String {
                        digits == 0 ? HumanText.grouped(UInt64(value.rounded())) : HumanText.fixed(value, digits)
                    }
                    guard let least = sorted.first, let most = sorted.last else { return "-" }
                    let middle = shown(sorted[sorted.count / 2])
                    return sorted.count > 1 ? "\(middle) (\(shown(least)) – \(shown(most)))" : middle
                }
                table.add([
                    "\(row.queryThreads)", cell({ $0.queries.queriesPerSecond }, 0), cell({ $0.cpuMicrosPerQuery }, 1),
                    cell({ $0.queries.hostCores }, 2), cell({ $0.queries.clientCores }, 2),
                    cell({ $0.commands.commandsPerSecond }, 0),
                    cell({ $0.both.queriesPerSecond }, 0), cell({ $0.both.commandsPerSecond }, 0),
                    cell({ $0.both.hostCores }, 2),
                ])
            }
            return [
                table.text, "",
                "columns       query threads of each host; queries alone, the hosts' CPU µs for each, their cores and those of "
                    + "this process, which asks; commands alone; both together",
                "a query       reads \(blocks) KiB and computes for \(HumanText.fixed(computingMicros, 1)) µs; \(window) in "
                    + "flight, \(commandsWindow) commands",
                "each figure   median (least – greatest) of \(rows.first?.runs.count ?? 0), "
                    + "\(HumanText.fixed(seconds, 1)) s each, \(HumanText.count(groups, "group")) on "
                    + "\(HumanText.count(hosts, "host"))",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("queries") { cluster in
            let computing = Self.computingMicros(blocks: blocks, passes: passes)
            var rows = threadCounts.map { Row(queryThreads: $0) }
            cluster.hostArguments = Self.arguments(rows[0].queryThreads)
            _ = try await cluster.begin()
            let driver = QueryDriver(tags: cluster.keys.map(\.key), blocks: blocks, passes: passes)
            try await driver.fill(try await cluster.connect())
            for round in 1...rounds {
                for place in rows.indices {
                    let count = rows[place].queryThreads
                    try await restart(cluster, queryThreads: count)
                    let client = try await cluster.connect()
                    // The first of each kind finds connections, leaders and sessions.
                    _ = try await load(client, cluster, driver, queries: 1, commands: 1, seconds: 0.2)
                    let queries = try await load(client, cluster, driver, queries: window, commands: 0)
                    let commands = try await load(client, cluster, driver, queries: 0, commands: self.commands)
                    let both = try await load(client, cluster, driver, queries: window, commands: self.commands)
                    let run = Run(
                        queries: queries, cpuMicrosPerQuery: queries.cpuMicrosPerQuery, commands: commands, both: both)
                    rows[place].runs.append(run)
                    cluster.say(
                        "round \(round) of \(rounds), \(HumanText.count(count, "query thread")): "
                            + "\(HumanText.grouped(UInt64(queries.queriesPerSecond))) queries/s, "
                            + "\(HumanText.fixed(run.cpuMicrosPerQuery, 1)) CPU µs each")
                }
            }
            cluster.noteEnds()
            return Report(
                hosts: options.hosts, groups: options.groups, blocks: blocks, passes: passes,
                computingMicros: computing, window: window, commandsWindow: self.commands, seconds: seconds,
                rows: rows, wrong: driver.wrong.load(ordering: .relaxed), firstError: driver.firstError,
                machine: cluster.machine)
        }
    }

    private static func arguments(_ queryThreads: Int) -> [String] {
        ["--measured-machine", "--query-threads", "\(queryThreads)"]
    }

    /// Of one query's sum, in the fastest of some.
    private static func computingMicros(blocks: UInt32, passes: UInt32) -> Double {
        let values = (0..<blocks).map { QueryLoad.block(seed: UInt64($0)) }
        var least = UInt64.max
        var sum: UInt64 = 0
        for _ in 0..<200 {
            let start = RPCClock.now()
            sum ^= SumBlocks.sum(of: values, passes: passes)
            least = min(least, RPCClock.now().since(start))
        }
        // The sum is looked at, or nothing would have to be computed.
        return sum == 1 ? 0 : Double(least) / 1e3
    }

    private func restart(_ cluster: MeasuredCluster, queryThreads: Int) async throws {
        cluster.local.stopAll()
        cluster.hostArguments = Self.arguments(queryThreads)
        for host in cluster.local.hosts { try cluster.start(host) }
        for host in cluster.local.hosts { try await cluster.waitUntilThere(host) }
        try await cluster.waitUntilSettled("with \(HumanText.count(queryThreads, "query thread"))")
    }

    /// Until it runs as it will go on.
    private static let warmUp = Duration.milliseconds(500)

    private func load(
        _ client: Cluster, _ cluster: MeasuredCluster, _ driver: QueryDriver, queries: Int, commands: Int,
        seconds: Double? = nil
    ) async throws -> Load {
        let time = seconds ?? self.seconds
        return try await withThrowingTaskGroup(of: Void.self) { group in
            driver.isOver.store(false, ordering: .relaxed)
            for number in 0..<queries { group.addTask { await driver.ask(client, number) } }
            for number in 0..<commands { group.addTask { await driver.command(client, number) } }
            // Also where looking at a host fails: the tasks are waited for in any case.
            defer { driver.isOver.store(true, ordering: .relaxed) }
            try await Task.sleep(for: Self.warmUp)
            let before = try Stand(cluster, driver)
            try await Task.sleep(for: .nanoseconds(Int64(time * 1e9)))
            let after = try Stand(cluster, driver)
            driver.isOver.store(true, ordering: .relaxed)
            try await group.waitForAll()
            let elapsed = Double(after.at.since(before.at))
            return Load(
                queriesPerSecond: Double(after.queries - before.queries) / elapsed * 1e9,
                commandsPerSecond: Double(after.commands - before.commands) / elapsed * 1e9,
                hostCores: Double(after.hostNanoseconds - before.hostNanoseconds) / elapsed,
                clientCores: Double(after.ownMicros - before.ownMicros) * 1e3 / elapsed)
        }
    }

    /// What was counted up to a moment.
    private struct Stand {
        var at: Instant
        var queries: Int
        var commands: Int
        var hostNanoseconds: UInt64
        var ownMicros: UInt64

        init(_ cluster: MeasuredCluster, _ driver: QueryDriver) throws {
            hostNanoseconds = try cluster.figures().reduce(0) { $0 + $1.cpuNanoseconds }
            at = RPCClock.now()
            queries = driver.queries.load(ordering: .relaxed)
            commands = driver.commands.load(ordering: .relaxed)
            ownMicros = OwnUsage.cpuMicros
        }
    }
}

/// Tasks that ask one question after the other, and what they count.
private final class QueryDriver: Sendable {
    /// One in each group.
    private let tags: [Bytes]
    private let blocks: UInt32
    private let passes: UInt32
    private let expected: [Bytes]
    let isOver = Atomic(false)
    let queries = Atomic(0)
    let commands = Atomic(0)
    let wrong = Atomic(0)
    private let error = Mutex<String?>(nil)

    init(tags: [Bytes], blocks: UInt32, passes: UInt32) {
        (self.tags, self.blocks, self.passes) = (tags, blocks, passes)
        expected = tags.indices.map { tag in
            let values = (0..<blocks).map { QueryLoad.block(seed: Self.seed(tag, $0)) }
            return SumBlocks.Answer(sum: SumBlocks.sum(of: values, passes: passes)).text
        }
    }

    private static func seed(_ tag: Int, _ place: UInt32) -> UInt64 { UInt64(tag) << 8 | UInt64(place) }

    var firstError: String? { error.withLock { $0 } }

    private func note(_ error: BifrostError) {
        self.error.withLock { $0 = $0 ?? error.description }
        // One of them is too many: what is counted behind it would be of another load.
        isOver.store(true, ordering: .relaxed)
    }

    func fill(_ client: Cluster) async throws(BifrostError) {
        for (number, tag) in tags.enumerated() {
            for place in 0..<blocks {
                try await client.machine(QueryLoad.self).submit(
                    PutBlock(tag: tag, place: place, seed: Self.seed(number, place)))
            }
        }
    }

    func ask(_ client: Cluster, _ first: Int) async {
        let machine = client.machine(QueryLoad.self)
        var number = first
        while !isOver.load(ordering: .relaxed) {
            let place = number % tags.count
            number += 1
            do throws(BifrostError) {
                let answer = try await machine.query(SumBlocks(tag: tags[place], blocks: blocks, passes: passes))
                if answer.text != expected[place] { wrong.add(1, ordering: .relaxed) }
                queries.add(1, ordering: .relaxed)
            } catch {
                return note(error)
            }
        }
    }

    /// Writes where no query reads, so that sums stay what they are.
    func command(_ client: Cluster, _ first: Int) async {
        let machine = client.machine(QueryLoad.self)
        var number = first
        while !isOver.load(ordering: .relaxed) {
            let tag = tags[number % tags.count]
            number += 1
            do throws(BifrostError) {
                try await machine.submit(PutBlock(tag: tag, place: QueryLoad.blocksMax - 1, seed: UInt64(number)))
                commands.add(1, ordering: .relaxed)
            } catch {
                return note(error)
            }
        }
    }
}
