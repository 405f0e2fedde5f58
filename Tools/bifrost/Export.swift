// `bifrost export`: all records of the cluster into a file or a pipe.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import Ring
import StateMachines

struct Export: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes all records to a file or to standard output, one per line.",
        discussion: """
            The formats are those of import: tsv (\\t, \\n, \\r, \\0 and \\\\ within keys and values), ucd, and jsonl. \
            Records come group by group; with --sorted in the order of their lines' bytes, as LC_ALL=C sort would \
            have them, which holds all of them in memory. Each page is read linearizably: what was acknowledged \
            before the export began is in it, what is written meanwhile may or may not be. A file is put in its place \
            when it is complete, not before.

            With --host, the replicas on that host answer, each after it has asked its leader how far it must be; \
            without, the leaders do. Groups without a replica there are read from their leaders.

            A result (records, bytes, digest) goes to standard output, or to standard error if the records go there \
            and --json or --progress asks for it.

            EXAMPLES:
              bifrost export all.tsv
              bifrost export --sorted - | sha256sum
              bifrost export --sorted --host 127.0.0.1:7002 - | cmp - expected.tsv
            """)

    @Argument(help: ArgumentHelp("The file; - is standard output.", valueName: "file"), completion: .file())
    var file: String

    @Option(help: "How records stand on lines.")
    var format = RecordFormat.tsv

    @Option(help: ArgumentHelp("Read the replicas on this host of the cluster.", valueName: "host:port"))
    var host: String?

    @Flag(help: "Sort the lines by their bytes.")
    var sorted = false

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var options: ClientOptions

    private static let pageTimeout = Duration.seconds(30)
    /// Lines collected before they are written.
    private static let bufferBytes = 256 << 10

    private struct Report: Encodable {
        var records: UInt64
        var bytes: UInt64
        var seconds: Double
        var recordsPerSecond: Double
        var digest: String
        var host: String?
        var groups: Int
        var groupsReadAtHost: Int
    }

    func run() async throws {
        let cluster = try await options.cluster(timeout: Self.pageTimeout)
        let map = try await cluster.map(refresh: true)
        let reader = try host.map { try record(of: $0, in: map) }
        let output = try OutputFile(creating: file)
        let meter = ProgressMeter(verb: "export", total: UInt64(map.dataGroups.count), isShown: progress.isShown)
        let outcome: Result<LinesDigest, any Error>
        do {
            outcome = .success(try await copy(cluster, map, reader, to: output, meter))
        } catch {
            output.abandon()
            outcome = .failure(error)
        }
        meter.finish()
        await cluster.close()
        let digest = try outcome.get()
        try output.finish()
        try report(map, reader, digest, meter, output)
    }

    private func record(of address: String, in map: ClusterMap) throws(ToolError) -> HostRecord {
        if let record = map.hosts.first(where: { $0.address == address || "\($0.id)" == address }) { return record }
        let known = map.hosts.map(\.address).joined(separator: ", ")
        throw ToolError(.usage, "no host of the cluster is \(address); expected one of \(known)")
    }

    private func copy(
        _ cluster: Cluster, _ map: ClusterMap, _ reader: HostRecord?, to output: OutputFile, _ meter: ProgressMeter
    ) async throws -> LinesDigest {
        var digest = LinesDigest()
        var lines = SortedLines()
        var buffer: [UInt8] = []
        for (done, group) in map.dataGroups.enumerated() {
            let consistency: ReadConsistency =
                if let reader, group.replica(on: reader.id) != nil { .linearizableAt(reader.id) } else { .linearizable }
            for try await page in cluster.pages(of: group.id, consistency) {
                var bytes = 0
                var records = 0
                for record in page.records where record.position.machine == .keyValue {
                    let key = record.position.key
                    do {
                        try format.encode(key: key, value: record.value, into: &buffer)
                    } catch {
                        throw ToolError(.badData, "\(error)")
                    }
                    digest.add(key: key, value: record.value)
                    records += 1
                    bytes += key.count + record.value.count
                    if sorted {
                        lines.add(buffer)
                        buffer.removeAll(keepingCapacity: true)
                    } else {
                        buffer.append(UInt8(ascii: "\n"))
                    }
                    if buffer.count >= Self.bufferBytes { try Self.flush(&buffer, to: output) }
                }
                meter.add(records: records, bytes: bytes)
            }
            meter.set(done: UInt64(done + 1))
        }
        if sorted { try lines.write(to: output, bufferBytes: Self.bufferBytes) }
        try Self.flush(&buffer, to: output)
        return digest
    }

    private static func flush(_ buffer: inout [UInt8], to output: OutputFile) throws(ToolError) {
        try output.write(buffer)
        buffer.removeAll(keepingCapacity: true)
    }

    private func report(
        _ map: ClusterMap, _ reader: HostRecord?, _ digest: LinesDigest, _ meter: ProgressMeter, _ output: OutputFile
    ) throws(ToolError) {
        let seconds = meter.elapsedSeconds
        let rate = Double(meter.records) / max(seconds, 1e-6)
        let groups = map.dataGroups
        let there = reader.map { reader in groups.count { $0.replica(on: reader.id) != nil } } ?? 0
        let text: String
        if options.common.json {
            text = try Output.jsonText(
                Report(
                    records: meter.records, bytes: meter.bytes, seconds: seconds, recordsPerSecond: rate.rounded(),
                    digest: digest.description, host: reader?.address, groups: groups.count, groupsReadAtHost: there))
        } else {
            let place =
                reader.map { " at host \($0.id) (\($0.address)), \(there) of \(groups.count) groups there" } ?? ""
            text =
                "exported \(HumanText.count(Int(meter.records), "record")) (\(HumanText.bytes(meter.bytes))) in "
                + "\(HumanText.fixed(seconds, 2)) s\(place), digest \(digest)"
        }
        guard output.isStandard else { return try Output.line(text) }
        if options.common.json || progress.progress == true { Output.error(text + "\n") }
    }
}

/// Lines kept in one piece of memory until they are written in order.
struct SortedLines {
    private var bytes: [UInt8] = []
    private var places: [Range<Int>] = []

    mutating func add(_ line: [UInt8]) {
        places.append(bytes.count..<bytes.count + line.count)
        bytes += line
    }

    mutating func write(to output: OutputFile, bufferBytes: Int) throws(ToolError) {
        var places = places
        try bytes.withUnsafeBufferPointer { (bytes) throws(ToolError) in
            let bytes = UnsafeRawBufferPointer(bytes)
            places.sort { left, right in
                compareBytes(
                    UnsafeRawBufferPointer(rebasing: bytes[left]), UnsafeRawBufferPointer(rebasing: bytes[right])) < 0
            }
            var buffer: [UInt8] = []
            for (position, place) in places.enumerated() {
                buffer.append(contentsOf: bytes[place])
                buffer.append(UInt8(ascii: "\n"))
                guard buffer.count >= bufferBytes || position == places.count - 1 else { continue }
                try output.write(buffer)
                buffer.removeAll(keepingCapacity: true)
            }
        }
    }
}
