// A host's metrics in a backend that somebody else brought: every number once, series bounded, and nothing left behind.

import Bifrost
import BifrostHost
import CoreMetrics
import Foundation
import HostCore
import Logging
import Messages
import MetricsTestKit
import Primitives
import RPC
import StateMachines
import Synchronization
import TestSupport
import Testing

private enum Gate: StateMachine {
    static let number = SubMachineNumber(5_200)
    static let commands: [any MachineCommand<Gate>.Type] = []
    static let queries: [any MachineQuery<Gate>.Type] = [Pass.self]
    static let isOpen = Atomic(false)
}

/// Answered when the gate is open.
private struct Pass: MachineQuery, JSONMessage {
    typealias Machine = Gate
    static let number: UInt16 = 1
    var name: String
    var key: Bytes { Bytes(name) }

    struct Answer: JSONMessage {}

    func answer(in view: inout MachineView) throws -> Answer {
        while !Gate.isOpen.load(ordering: .sequentiallyConsistent) { usleep(1_000) }
        return Answer()
    }
}

@Suite(.ownExecutor) struct HostMetricsTests {
    /// One host of a cluster of its own.
    private func withHost(
        groups: Int, loops: Int, _ adapt: (inout HostConfiguration) -> Void,
        _ body: (Host, Cluster) async throws -> Void
    ) async throws {
        let directory = try TestDirectory()
        var configuration = HostConfiguration(
            directory: directory.path + "/h", listen: NetworkAddress(host: "127.0.0.1", port: 0), name: "test")
        configuration.eventLoops = loops
        configuration.journalPreallocateBytes = 0
        configuration.reserveBytes = 0
        adapt(&configuration)
        var logger = Logger(label: "host")
        logger.logLevel = .critical
        let host = try await Host.start(configuration, logger: logger) { Issue.record("the disk failed: \($0)") }
        do {
            let probe = Probe(host.address)
            defer { probe.close() }
            let ping = try await probe.ping()
            _ = try await probe.initialise(HostID(1), ping.incarnation, try firstMap([ping], groups: groups))
            let client = try await Cluster.connect(to: ["\(host.address)"])
            try await body(host, client)
            await client.close()
        } catch {
            await host.stop(graceMilliseconds: 100)
            throw error
        }
        await host.stop(graceMilliseconds: 100)
    }

    @Test func whatAHostCountsComesToTheBackendOnce() async throws {
        let metrics = TestMetrics()
        try await withHost(groups: 5, loops: 2) {
            $0.metrics = metrics
            $0.metricsPeriodMilliseconds = 0
            $0.metricsGroupsMax = 4
        } _: { host, client in
            for number in 0..<30 { try await client.kv.put(Bytes("k\(number)"), "v") }
            await host.recordMetrics()
            func total(_ name: String) throws -> Int64 { try metrics.expectCounter(name).totalValue }
            func gauge(_ name: String, _ group: String? = nil) throws -> Double? {
                try metrics.expectGauge(name, group.map { [("group", $0)] } ?? []).lastValue
            }
            let commands = try total("bifrost_commands_applied_total")
            #expect(commands >= 30)
            // Each of them on its own: this backend knows no others.
            let times = try metrics.expectTimer("bifrost_commit_latency_seconds").values
            #expect(times.count >= 30 && times.allSatisfy { $0 > 0 && $0 < 10_000_000_000 })
            #expect(
                try total("bifrost_journal_commits_total")
                    == metrics.expectTimer("bifrost_journal_commit_seconds").values.count)
            #expect(try gauge("bifrost_replicas") == 6 && gauge("bifrost_groups_led") == 6)
            // The meta group and three more have series, of both loops.
            #expect(try gauge("bifrost_groups_without_series") == 2)
            #expect(metrics.recorders(label: "bifrost_group_leader").count == 4)
            for group in 0..<4 { #expect(try gauge("bifrost_group_leader", "\(group)") == 1) }
            for number in 0..<10 { try await client.kv.put(Bytes("k\(number)"), "w") }
            await host.recordMetrics()
            // The meta group may have applied a command of its own meanwhile.
            let news = try total("bifrost_commands_applied_total") - commands
            #expect((10...12).contains(news), "\(news)")
            #expect(try metrics.expectTimer("bifrost_commit_latency_seconds").values.count == times.count + 10)
            #expect(
                try metrics.expectGauge(
                    "bifrost_build_info",
                    [
                        ("version", ""), ("feature_level", "\(FeatureLevel.current)"), ("loops", "2"),
                    ]
                ).lastValue == 1)

            // All that the list has, and nothing else.
            let recorded = Set(
                metrics.counters.map(\.label) + metrics.recorders.map(\.label) + metrics.timers.map(\.label)
                    + metrics.meters.map(\.label))
            let listed = HostMetric.all.map(\.name)
            #expect(recorded == Set(listed) && Set(listed).count == listed.count)
        }
        // What was taken is given back.
        #expect(metrics.counters.isEmpty && metrics.recorders.isEmpty && metrics.timers.isEmpty)
    }

    @Test func metricsAreRecordedWithoutBeingAskedFor() async throws {
        let metrics = TestMetrics()
        try await withHost(groups: 1, loops: 1) {
            $0.metrics = metrics
            $0.metricsPeriodMilliseconds = 20
        } _: { _, client in
            try await client.kv.put("k", "v")
            // The threads for tasks may be busy with other tests for long.
            try await wait(seconds: 600, for: "the command to be counted") {
                try metrics.expectTimer("bifrost_commit_latency_seconds").values.isEmpty == false
            }
        }
    }

    @Test(.timeLimit(.minutes(15))) func watchesAndQueriesMoveTheirMetrics() async throws {
        let metrics = TestMetrics()
        let machines = try StateMachineRegistry([Gate.self])
        try await withHost(groups: 2, loops: 2) {
            $0.metrics = metrics
            $0.metricsPeriodMilliseconds = 0
            $0.machines = machines
        } _: { host, client in
            func gauge(_ name: String) throws -> Double? { try metrics.expectGauge(name).lastValue }
            func total(_ name: String) throws -> Int64 { try metrics.expectCounter(name).totalValue }
            func wait(_ what: String, until isSo: @escaping () throws -> Bool) async throws {
                try await BifrostHostTests.wait(seconds: 180, for: what) {
                    await host.recordMetrics()
                    return try isSo()
                }
            }
            await host.recordMetrics()
            #expect(try gauge("bifrost_watches_waiting") == 0 && gauge("bifrost_machine_queries_open") == 0)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<3 {
                    group.addTask {
                        for try await change in client.kv.watch("k", from: .now) where change.kind == .put { return }
                    }
                }
                for number in 0..<2 {
                    group.addTask {
                        _ = try await client.machine(Gate.self).query(
                            Pass(name: "{\(number)}"), timeout: .seconds(300))
                    }
                }
                defer { Gate.isOpen.store(true, ordering: .sequentiallyConsistent) }
                try await wait("three watches and two queries") {
                    // A query that is not answered is asked again.
                    try gauge("bifrost_watches_waiting") == 3 && gauge("bifrost_machine_queries_open") ?? 0 >= 2
                }
                #expect(try total("bifrost_changes_told_total") == 0)
                try await client.kv.put("k", "v")
                Gate.isOpen.store(true, ordering: .sequentiallyConsistent)
                try await group.waitForAll()
            }
            try await wait("all to be answered") {
                try gauge("bifrost_watches_waiting") == 0 && gauge("bifrost_machine_queries_open") == 0
            }
            #expect(try total("bifrost_changes_told_total") == 3)
            #expect(
                try total("bifrost_watches_compacted_total") == 0 && total("bifrost_watches_turned_down_total") == 0)
            // More than a group keeps.
            let large = Bytes(Array(repeating: 65, count: 900_000))
            for _ in 0..<3 { try await client.kv.put("k", large) }
            await #expect(throws: BifrostError(.compacted, "")) {
                for try await _ in client.kv.watch("k", from: .after(Revision(0))) {}
            }
            try await wait("the end to be counted") { try total("bifrost_watches_compacted_total") == 1 }
        }
    }

    @Test func theDocumentationHasEachMetricAndNoOther() throws {
        let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Documentation/Metrics.md")
        let text = try String(contentsOf: page, encoding: .utf8)
        // The first column of its tables.
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("| `") }
        let documented = rows.compactMap { $0.split(separator: "`").dropFirst().first.map { $0.prefix { $0 != "{" } } }
        let expected = HostMetric.all.map(\.name) + ["metrics_series_refused_total"]
        #expect(Set(documented.map(String.init)) == Set(expected))
        #expect(documented.count == expected.count)
        for metric in HostMetric.all {
            let row = rows.first { $0.hasPrefix("| `\(metric.name)`") || $0.hasPrefix("| `\(metric.name){") }
            #expect(row?.contains("| \(metric.kind.rawValue) |") == true, "\(metric.name)")
            // Prometheus' conventions.
            #expect((metric.kind == .counter) == metric.name.hasSuffix("_total"), "\(metric.name)")
            #expect((metric.kind == .histogram) == !metric.bucketSeconds.isEmpty, "\(metric.name)")
            #expect(metric.help.hasSuffix("."), "\(metric.name)")
        }
    }
}
