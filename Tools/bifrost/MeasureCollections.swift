// `bifrost measure collections`: what operations on one collection cost while it grows, and how it is kept, moved and
// cleared when it is large. Owns the command, its steps and its report; the operations are LoadedCollection's.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring
import Synchronization

struct MeasureCollections: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collections",
        abstract: "Fills one map, set, array or queue, and measures its operations while it grows.",
        discussion: """
            Puts --elements elements into one object, --window commands at a time, each with --batch of them. At 1,000, at \
            10,000 and so on it stops, and calls each operation --calls times, one after the other, with random elements. \
            What one call changes is changed back before the next one, so that the size stays.

            At the end all elements are listed; one of the group's replicas that do not lead is replaced by an empty one, \
            which gets all of it from the others, and is read from; the object is cleared, and the run waits until all \
            its records are deleted.

            Each answer, each count and each listed element is checked. A wrong one makes the run a failure (exit code \
            1), and so does an operation whose median grows by more than the square root of the size where that grows \
            a hundredfold.

            EXAMPLES:
              bifrost measure collections --groups 1
              bifrost measure collections --groups 1 --type queue --elements 1000000 --json
              bifrost measure collections --groups 1 --type array --payload 1000 --calls 2000
            """)

    @Option(help: "What is filled: map, set, array or queue.")
    var type = CollectionType.map
    @Option(help: ArgumentHelp("Elements, up to 1000000000.", valueName: "count"))
    var elements = 1_000_000
    @Option(help: ArgumentHelp("Bytes of each value, or of each element of a set.", valueName: "bytes"))
    var payload = 16
    @Option(
        help: ArgumentHelp(
            "Elements that a command brings. (default: as many as it may, up to 256 KiB of them)", valueName: "count"))
    var batch: Int?
    @Option(help: ArgumentHelp("Commands under way together while it is filled, 1 to 1024.", valueName: "count"))
    var window = 16
    @Option(help: ArgumentHelp("How often each operation is called at each size, 1 to 100000.", valueName: "count"))
    var calls = 500
    @Option(help: ArgumentHelp("Seed of the random elements.", valueName: "number"))
    var seed: UInt64 = 1
    @OptionGroup var options: MeasureOptions

    private static let batchBytes = 256 << 10
    /// For what takes the longer the more elements there are.
    private static let longTime = Duration.seconds(7_200)

    private var batchSize: Int { batch ?? max(1, min(type.batchMax, Self.batchBytes / payload)) }

    func validate() throws {
        guard (1...1_000_000_000).contains(elements) else {
            throw ValidationError("--elements takes 1 to 1000000000, not \(elements)")
        }
        guard (MarkedElement.bytesMin...type.payloadMax).contains(payload) else {
            throw ValidationError(
                "--payload takes \(MarkedElement.bytesMin) to \(type.payloadMax) bytes for a \(type.rawValue), not "
                    + "\(payload)")
        }
        guard (1...type.batchMax).contains(batchSize), batchSize == 1 || batchSize * payload <= 1_000_000 else {
            throw ValidationError(
                "--batch takes 1 to \(type.batchMax) for a \(type.rawValue), and up to 1000000 bytes of values, not "
                    + "\(batchSize)")
        }
        guard (1...1_024).contains(window) else { throw ValidationError("--window takes 1 to 1024, not \(window)") }
        guard (1...100_000).contains(calls) else { throw ValidationError("--calls takes 1 to 100000, not \(calls)") }
    }

    // MARK: The report

    private struct Report: MeasureReport {
        struct Operation: Encodable {
            var operation: String
            var calls: Int
            var p50Micros: Double
            var p99Micros: Double
            var worstMicros: Double

            init?(_ row: CollectionTrial.Row) {
                func micros(_ percent: Int) -> Double? {
                    MeasureSpread.percentile(row.nanoseconds, percent).map { ($0 * 1e3).rounded() }
                }
                guard let p50 = micros(50), let p99 = micros(99), let worst = micros(100) else { return nil }
                (operation, calls) = (row.operation, row.nanoseconds.count)
                (p50Micros, p99Micros, worstMicros) = (p50, p99, worst)
            }
        }
        struct Size: Encodable {
            var elements: Int
            var operations: [Operation]
        }
        struct Load: Encodable {
            /// While it was filled, without the stops.
            var seconds: Double
            var elementsPerSecond: Double
            /// Of all hosts and this process.
            var cpuMicrosPerElement: Double
        }
        struct Replica: Encodable {
            var host: UInt64
            var isLeader: Bool
            var checkpoints: UInt64
            var merges: UInt64
            var runs: UInt32
            /// Of the host, all groups together: in use in the store's file, in the journal, and resident.
            var storeBytes: UInt64
            var journalBytes: UInt64
            var memoryBytes: UInt64
        }
        struct Listing: Encodable {
            var seconds: Double
            var elementsPerSecond: Double
        }
        struct Transfer: Encodable {
            /// Until the new replica had caught up and voted.
            var seconds: Double
            var bytes: UInt64
            /// 0: it got all of it out of the log.
            var snapshots: UInt64
            var readsAfterwards: Operation?
        }
        struct Clear: Encodable {
            var micros: Double
            /// Until there were no more commands of the group about it.
            var sweptSeconds: Double
            var sweptEntries: Int
            /// Records of the object that are still there; an array and a queue keep their heads.
            var recordsLeft: Int
        }
        var type: String
        var elements: Int
        var payload: Int
        var batch: Int
        var window: Int
        var groups: Int
        var hosts: Int
        var sizes: [Size] = []
        var load: Load?
        var replicas: [Replica] = []
        var listing: Listing?
        var transfer: Transfer?
        var clear: Clear?
        var checked = 0
        var wrong = 0
        var firstWrong: String?
        var machine: Machine

        /// Of the medians of each operation, from the first size to the last one.
        private var growths: [(operation: String, factor: Double)] {
            guard let first = sizes.first, let last = sizes.last else { return [] }
            return last.operations.compactMap { operation in
                guard let before = first.operations.first(where: { $0.operation == operation.operation }) else {
                    return nil
                }
                return (operation.operation, operation.p50Micros / max(before.p50Micros, 1))
            }
        }

        var problems: [String] {
            var problems: [String] = []
            if wrong > 0 {
                problems.append(
                    "\(wrong) of \(checked) answers were wrong" + (firstWrong.map { ", first: \($0)" } ?? ""))
            }
            if let clear, clear.recordsLeft > 1 {
                problems.append("\(HumanText.count(clear.recordsLeft, "record")) were left when it had been cleared")
            }
            guard let first = sizes.first?.elements, let last = sizes.last?.elements, last >= first * 100 else {
                return problems
            }
            let limit = (Double(last) / Double(first)).squareRoot()
            for (operation, factor) in growths where factor > limit {
                problems.append(
                    "'\(operation)' takes \(HumanText.fixed(factor, 1)) times as long at \(last) elements as "
                        + "at \(first)")
            }
            return problems
        }

        var text: String {
            var columns: [(title: String, alignment: Table.Alignment)] = [("operation", .left)]
            for size in sizes {
                columns.append(("\(HumanText.grouped(UInt64(size.elements))): p50", .right))
                columns.append(("p99", .right))
            }
            columns.append(("growth", .right))
            var table = Table(columns)
            let growths = growths
            for operation in sizes.last?.operations ?? [] {
                let name = operation.operation
                let cells = sizes.flatMap { size -> [String] in
                    let found = size.operations.first { $0.operation == name }
                    return [found?.p50Micros, found?.p99Micros].map { $0.map { HumanText.fixed($0, 0) } ?? "-" }
                }
                let growth = growths.first { $0.operation == name }.map { HumanText.fixed($0.factor, 2) } ?? "-"
                table.add([name] + cells + [growth])
            }
            var lines = [
                table.text, "",
                "times         in µs, growth of the medians",
                "\(type.padding(toLength: 14, withPad: " ", startingAt: 0))"
                    + "\(HumanText.grouped(UInt64(elements))) elements of \(payload) bytes, \(batch) to a command, "
                    + "\(window) commands at a time; \(HumanText.count(groups, "group")) on "
                    + HumanText.count(hosts, "host"),
            ]
            if let load {
                lines.append(
                    "filled        \(HumanText.grouped(UInt64(load.elementsPerSecond))) elements/s over "
                        + "\(HumanText.fixed(load.seconds, 1)) s, \(HumanText.fixed(load.cpuMicrosPerElement, 2)) µs CPU "
                        + "for each: all hosts and this process")
            }
            for replica in replicas {
                lines.append(
                    "host \(replica.host)        \(HumanText.count(Int(replica.checkpoints), "checkpoint")), "
                        + "\(HumanText.count(Int(replica.merges), "merge")), \(HumanText.count(Int(replica.runs), "run")); "
                        + "store \(HumanText.bytes(replica.storeBytes)), journal \(HumanText.bytes(replica.journalBytes)), "
                        + "memory \(HumanText.bytes(replica.memoryBytes))" + (replica.isLeader ? "; leads" : ""))
            }
            if let listing {
                lines.append(
                    "listed        all in \(HumanText.fixed(listing.seconds, 2)) s, "
                        + "\(HumanText.grouped(UInt64(listing.elementsPerSecond))) elements/s")
            }
            if let transfer {
                let bytes =
                    transfer.snapshots > 0 ? "a snapshot of \(HumanText.bytes(transfer.bytes))" : "out of the log"
                let reads = transfer.readsAfterwards.map {
                    ", then reads of p50 \(HumanText.fixed($0.p50Micros, 0)) µs"
                }
                lines.append(
                    "replaced      a replica in \(HumanText.fixed(transfer.seconds, 2)) s, \(bytes)\(reads ?? "")")
            }
            if let clear {
                lines.append(
                    "cleared       in \(HumanText.fixed(clear.micros, 0)) µs; all deleted after "
                        + "\(HumanText.fixed(clear.sweptSeconds, 1)) s, by "
                        + "\(HumanText.grouped(UInt64(max(clear.sweptEntries, 0)))) entries, "
                        + "\(HumanText.count(clear.recordsLeft, "record")) left")
            }
            lines += ["checked       \(HumanText.grouped(UInt64(checked))) answers, \(wrong) wrong", machine.line]
            return lines.joined(separator: "\n")
        }
    }

    // MARK: The run

    func run() async throws {
        try await options.run("collections") { cluster in
            cluster.hostArguments = ["--metrics", "127.0.0.1:0"]
            _ = try await cluster.begin()
            let client = try await cluster.connect()
            let name = Bytes("~measure/\(type.rawValue)")
            guard let group = try await client.map().ring.owner(of: slot(of: name)) else {
                throw ToolError(.fault, "no group has the slot of \(name)")
            }
            var random = SeededRandom(seed: seed)
            var trial = CollectionTrial()
            var collection = type.collection(name, of: client, payload: payload)
            var report = Report(
                type: type.rawValue, elements: elements, payload: payload, batch: batchSize, window: window,
                groups: options.groups, hosts: options.hosts, machine: cluster.machine)

            var cost = (nanoseconds: 0 as UInt64, cpuMicros: 0 as UInt64)
            for size in sizes {
                let before = (RPCClock.now(), try cpuMicros(cluster))
                try await fill(&collection, to: size, cluster)
                cost.nanoseconds += RPCClock.now().since(before.0)
                cost.cpuMicros += try cpuMicros(cluster) - before.1
                cluster.say("calling each operation at \(HumanText.count(size, "element"))")
                try await count(collection, &trial)
                for _ in 0..<calls { try await collection.use(&random, &trial) }
                let rows = trial.take().compactMap { Report.Operation($0) }
                report.sizes.append(Report.Size(elements: size, operations: rows))
            }
            let seconds = Double(cost.nanoseconds) / 1e9
            report.load = Report.Load(
                seconds: seconds, elementsPerSecond: Double(elements) / max(seconds, 1e-9),
                cpuMicrosPerElement: Double(cost.cpuMicros) / Double(elements))
            try await cluster.waitUntilSettled("waiting until all is applied")
            report.replicas = try await replicas(of: group, cluster)

            cluster.say("listing all")
            let begin = RPCClock.now()
            try await collection.list(&trial)
            let listed = Double(RPCClock.now().since(begin)) / 1e9
            report.listing = Report.Listing(
                seconds: listed, elementsPerSecond: Double(elements) / max(listed, 1e-9))
            if options.hosts >= 3 {
                report.transfer = try await transfer(group, collection, cluster, &random, &trial)
                try await count(collection, &trial)
            }
            report.clear = try await clear(collection, name, group, cluster, &trial)
            (report.checked, report.wrong, report.firstWrong) = (trial.checked, trial.wrong, trial.firstWrong)
            cluster.noteEnds()
            return report
        }
    }

    /// Powers of ten from 1,000 on, and the last one.
    private var sizes: [Int] {
        var sizes: [Int] = []
        var size = 1_000
        while size < elements {
            sizes.append(size)
            size *= 10
        }
        return sizes + [elements]
    }

    private func cpuMicros(_ cluster: MeasuredCluster) throws -> UInt64 {
        try cluster.figures().reduce(OwnUsage.cpuMicros) { $0 + $1.cpuNanoseconds / 1_000 }
    }

    private func count(_ collection: any LoadedCollection, _ trial: inout CollectionTrial) async throws {
        let count = try await collection.count()
        trial.check(count == collection.elements, "\(count) elements are counted, not \(collection.elements)")
    }

    private func fill(
        _ collection: inout any LoadedCollection, to size: Int, _ cluster: MeasuredCluster
    ) async throws {
        let (add, batch) = (collection.add, batchSize)
        let first = collection.next
        let end = first + size - collection.elements
        let meter = ProgressMeter(
            verb: "collections: filling to \(HumanText.grouped(UInt64(size)))", total: UInt64(max(end - first, 0)),
            isShown: end - first > 50_000)
        defer { meter.finish() }
        let batches = try await withThrowingTaskGroup(of: (mark: UInt64, numbers: Range<Int>).self) { tasks in
            var batches: [(mark: UInt64, numbers: Range<Int>)] = []
            var next = first
            func start() {
                guard next < end else { return }
                let numbers = next..<min(next + batch, end)
                next = numbers.upperBound
                tasks.addTask { (try await add(numbers), numbers) }
            }
            for _ in 0..<window { start() }
            for try await added in tasks {
                batches.append(added)
                meter.add(records: added.numbers.count, bytes: added.numbers.count * payload)
                meter.set(done: meter.records)
                start()
            }
            return batches
        }
        collection.added(batches)
    }

    private func replicas(of group: GroupID, _ cluster: MeasuredCluster) async throws -> [Report.Replica] {
        try await cluster.connect().accounts(timeout: .seconds(10)).compactMap { account in
            guard let status = account.status, let replica = status.replicas.first(where: { $0.group == group }) else {
                return nil
            }
            return Report.Replica(
                host: account.host.id.rawValue, isLeader: replica.role == .leader, checkpoints: replica.checkpoints,
                merges: replica.merges, runs: replica.runs, storeBytes: status.storeBytes,
                journalBytes: status.journalBytes, memoryBytes: status.memoryBytes)
        }
    }

    // MARK: What is done with all of it

    /// Of the replicas that do not lead, the one on the host with the highest number.
    private func transfer(
        _ group: GroupID, _ collection: any LoadedCollection, _ cluster: MeasuredCluster,
        _ random: inout SeededRandom, _ trial: inout CollectionTrial
    ) async throws -> Report.Transfer {
        let leader = try await cluster.waitUntilSettled("before a replica is replaced")[group]
        let places = try await cluster.connect().map().group(group)?.replicas.map(\.host) ?? []
        guard let place = places.filter({ $0 != leader }).max(),
            let host = cluster.local.hosts.first(where: { UInt64($0.number) == place.rawValue })
        else { throw ToolError(.fault, "group \(group) has no replica that does not lead") }
        cluster.say("replacing the replica on host \(place)")
        let before = try await SnapshotCounts(of: host)
        let begin = RPCClock.now()
        let time = Self.longTime
        let result = try await cluster.local.command(
            [
                "group", "replace-replica", "\(group.rawValue)", "--host", "\(place)", "--connect",
                cluster.local.addresses, "--timeout", "\(time.components.seconds)s",
            ], limit: time + .seconds(10))
        guard result.ending == .exit(0) else {
            throw ToolError(.unavailable, "replacing a replica ended with \(result.ending): \(result.errorText)")
        }
        try await cluster.waitUntilSettled("after a replica was replaced")
        let seconds = Double(RPCClock.now().since(begin)) / 1e9
        let after = try await SnapshotCounts(of: host)
        _ = trial.take()
        for _ in 0..<calls { try await collection.read(.linearizableAt(place), &random, &trial) }
        return Report.Transfer(
            seconds: seconds, bytes: after.bytes - before.bytes, snapshots: after.installed - before.installed,
            readsAfterwards: trial.take().first.flatMap { Report.Operation($0) })
    }

    /// Nothing happened for so long: all is deleted.
    private static let quietSeconds = 4.0

    private func clear(
        _ collection: any LoadedCollection, _ name: Bytes, _ group: GroupID, _ cluster: MeasuredCluster,
        _ trial: inout CollectionTrial
    ) async throws -> Report.Clear {
        cluster.say("clearing, and waiting until all is deleted")
        let client = try await cluster.connect()
        func lastIndex() async throws -> LogIndex {
            let accounts = try await client.accounts(timeout: .seconds(10))
            return accounts.reduce(.zero) { last, account in
                max(last, account.status?.replicas.first { $0.group == group }?.lastIndex ?? .zero)
            }
        }
        let begin = RPCClock.now()
        let cleared = try await collection.clear()
        let time = RPCClock.now().since(begin)
        trial.check(
            cleared == collection.elements, "\(cleared) elements were cleared, not \(collection.elements)")
        let left = try await collection.count()
        trial.check(left == 0, "\(left) elements are counted when all were cleared")

        func elapsed() -> Double { Double(RPCClock.now().since(begin)) / 1e9 }
        let first = try await lastIndex()
        var (last, movedAt) = (first, elapsed())
        var changedAt = movedAt
        while elapsed() - changedAt < Self.quietSeconds {
            guard elapsed() < Double(Self.longTime.components.seconds) else {
                throw ToolError(.unavailable, "what was cleared is not deleted after \(Self.longTime)")
            }
            try await Task.sleep(for: .milliseconds(100))
            let now = try await lastIndex()
            guard now != last else { continue }
            changedAt = elapsed()
            // Single ones may be of sessions that are kept.
            if now - last > 1 { movedAt = changedAt }
            last = now
        }
        let key = Bytes([UInt8(name.count >> 8), UInt8(name.count & 255)] + name.array)
        var records = 0
        for try await page in client.pages(of: group) {
            records += page.records.count { $0.position.key.starts(with: key) }
        }
        return Report.Clear(
            micros: Double(time) / 1e3, sweptSeconds: movedAt, sweptEntries: last - first, recordsLeft: records)
    }
}

/// What a host says that it took in of snapshots, in its metrics.
private struct SnapshotCounts {
    var bytes: UInt64
    var installed: UInt64

    init(of host: LocalCluster.HostProcess) async throws {
        let text = try await Self.metrics(of: host)
        func number(_ name: String) throws -> UInt64 {
            for line in text.split(whereSeparator: \.isNewline) where line.hasPrefix(name + " ") {
                if let number = Double(line.dropFirst(name.count + 1)) { return UInt64(number) }
            }
            throw ToolError(.badData, "host \(host.number) has no \(name) in its metrics")
        }
        bytes = try number("bifrost_snapshot_taken_bytes_total")
        installed = try number("bifrost_snapshots_installed_total")
    }

    /// It says where when it begins to listen: "listening …, metrics 127.0.0.1:9464".
    private static func metrics(of host: LocalCluster.HostProcess) async throws -> String {
        let log = (try? String(contentsOfFile: host.log, encoding: .utf8)) ?? ""
        let line = log.split(separator: "\n").last { $0.hasPrefix("listening ") && $0.contains(" metrics ") }
        guard let line, let range = line.firstRange(of: " metrics ") else {
            throw ToolError(.badData, "host \(host.number) does not say where its metrics are")
        }
        let address = try NetworkAddress(String(line[range.upperBound...]))
        let answer = WholeAnswer()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(answer) }
            }
            .connect(host: address.host, port: address.port).get()
        let request = "GET /metrics HTTP/1.1\r\nHost: \(address)\r\n\r\n"
        try await channel.writeAndFlush(channel.allocator.buffer(string: request)).get()
        try await channel.closeFuture.get()
        return answer.text.withLock { $0 }
    }
}

/// All that comes until the other side closes.
private final class WholeAnswer: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    let text = Mutex("")

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let read = String(buffer: unwrapInboundIn(data))
        text.withLock { $0 += read }
    }
}
