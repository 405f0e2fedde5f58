// A host's metrics: which there are, and how they get from what a host counts into a backend of swift-metrics. What they
// mean to operators is in Documentation/Metrics.md, which has each of them.

public import CoreMetrics
import Foundation
import HostCore
import NIOCore
import Primitives
import Storage
import Synchronization

/// One metric that a host records.
public struct HostMetric: Sendable {
    public enum Kind: String, Sendable {
        case counter, gauge, histogram
    }
    public var name: String
    public var kind: Kind
    public var help: String
    /// Upper bounds of a histogram's buckets, in seconds, ascending.
    public var bucketSeconds: [Double]

    /// All of them, in the order in which the documentation has them.
    public static let all: [HostMetric] =
        HostMetrics.counters.map { HostMetric(name: $0.name, kind: .counter, help: $0.help, bucketSeconds: []) }
        + HostMetrics.times.map {
            HostMetric(
                name: $0.name, kind: .histogram, help: $0.help,
                bucketSeconds: DurationHistogram.boundsNanoseconds.map { Double($0) / 1e9 })
        }
        + (HostMetrics.gauges.map { ($0.name, $0.help) } + HostMetrics.groupGauges.map { ($0.name, $0.help) }
        + HostMetrics.otherGauges).map { HostMetric(name: $0.0, kind: .gauge, help: $0.1, bucketSeconds: []) }
        + [
            HostMetric(
                name: HostMetrics.cpu.name, kind: .counter, help: HostMetrics.cpu.help, bucketSeconds: [])
        ]
}

/// A timer of a backend that takes many equal durations at once. Others are given them one by one.
public protocol RepeatingTimerHandler: TimerHandler {
    func record(nanoseconds: Int64, times: Int)
}

/// Records a host's metrics, now and then or when it is asked. Any thread; one recording at a time.
final class HostMetrics: Sendable {
    struct Figure<Source, Value>: Sendable {
        var name: String
        var help: String
        var value: @Sendable (Source) -> Value

        init(_ name: String, _ help: String, _ value: @escaping @Sendable (Source) -> Value) {
            self.name = name
            self.help = help
            self.value = value
        }
    }

    /// A series, and what was recorded in it so far.
    private struct State {
        var counters: [(counter: Counter, recorded: UInt64)]
        var timers: [(timer: CoreMetrics.Timer, handler: any TimerHandler, recorded: DurationHistogram)]
        var gauges: [Gauge]
        var groups: [GroupID: [Gauge]] = [:]
        var groupsWithoutSeries: Gauge
        var recorded: Gauge
        var cpu: FloatingPointCounter
        var cpuRecorded = 0.0
        /// They never change, but have to be kept.
        var constants: [Gauge]
    }

    private unowned let shell: HostShell
    private let factory: any MetricsFactory
    private let groupsMax: Int
    private let state: Mutex<State>
    private let isRecording = Atomic<Bool>(false)
    private let ticker = Mutex<RepeatedTask?>(nil)
    private let isStopped = Atomic<Bool>(false)

    /// - Returns: nil if there is no backend.
    init?(of shell: HostShell) {
        let configuration = shell.configuration
        let factory = configuration.metrics ?? MetricsSystem.factory
        guard !(factory is NOOPMetricsHandler) else { return nil }
        self.shell = shell
        self.factory = factory
        groupsMax = max(0, configuration.metricsGroupsMax)
        func gauge(_ name: String, _ dimensions: [(String, String)] = []) -> Gauge {
            Gauge(label: name, dimensions: dimensions, factory: factory)
        }
        let build = gauge(
            Self.otherGauges[0].name,
            [
                ("version", configuration.version), ("feature_level", "\(shell.journal.identity.featureLevel)"),
                ("loops", "\(shell.loops.count)"),
            ])
        build.record(1)
        let started = gauge(Self.otherGauges[1].name)
        if let seconds = ProcessFigures.startSeconds { started.record(seconds) }
        state = Mutex(
            State(
                counters: Self.counters.map { (Counter(label: $0.name, factory: factory), 0) },
                timers: Self.times.map {
                    let handler = factory.makeTimer(label: $0.name, dimensions: [])
                    return (
                        CoreMetrics.Timer(label: $0.name, dimensions: [], handler: handler, factory: factory), handler,
                        DurationHistogram()
                    )
                },
                gauges: Self.gauges.map { gauge($0.name) },
                groupsWithoutSeries: gauge(Self.otherGauges[2].name), recorded: gauge(Self.otherGauges[3].name),
                cpu: FloatingPointCounter(label: Self.cpu.name, factory: factory), constants: [build, started]))
        let period = configuration.metricsPeriodMilliseconds
        guard period > 0 else { return }
        let task = shell.main.eventLoop.scheduleRepeatedAsyncTask(
            initialDelay: .zero, delay: .milliseconds(period)
        ) { [self, eventLoop = shell.main.eventLoop] _ in
            eventLoop.makeFutureWithTask { [self] in await record() }
        }
        ticker.withLock { $0 = task }
    }

    /// No recording begins any more, and the last one has ended.
    func stop() async {
        ticker.withLock { $0 }?.cancel()
        isStopped.store(true, ordering: .sequentiallyConsistent)
        // It asks each event loop once, and these run until this has returned.
        while isRecording.load(ordering: .sequentiallyConsistent) { try? await Task.sleep(for: .milliseconds(1)) }
        state.withLock { destroy(&$0) }
    }

    func record() async {
        guard !isRecording.exchange(true, ordering: .sequentiallyConsistent) else { return }
        defer { isRecording.store(false, ordering: .sequentiallyConsistent) }
        guard !isStopped.load(ordering: .sequentiallyConsistent),
            let reading = try? await shell.reading(groupsMax: groupsMax)
        else { return }
        state.withLock { record(reading, in: &$0) }
    }

    private func record(_ reading: HostReading, in state: inout State) {
        for place in Self.counters.indices {
            let value = Self.counters[place].value(reading)
            // One that fell would have begun anew.
            let recorded = state.counters[place].recorded
            if value > recorded { state.counters[place].counter.increment(by: Int64(clamping: value - recorded)) }
            state.counters[place].recorded = value
        }
        for place in Self.times.indices {
            let times = Self.times[place].value(reading)
            for (count, nanoseconds) in times.news(since: state.timers[place].recorded) where count > 0 {
                let each = nanoseconds / count
                Self.record(Int64(clamping: each), times: Int(count) - 1, in: state.timers[place].handler)
                let rest = nanoseconds - each * (count - 1)
                // All in the bucket that they came from, and their sum as it is.
                Self.record(Int64(clamping: rest), times: 1, in: state.timers[place].handler)
            }
            state.timers[place].recorded = times
        }
        for place in Self.gauges.indices { state.gauges[place].record(Self.gauges[place].value(reading)) }
        record(reading.figures.groups, in: &state)
        state.groupsWithoutSeries.record(reading.figures.replicas - reading.figures.groups.count)
        if reading.process.cpuSeconds > state.cpuRecorded {
            state.cpu.increment(by: reading.process.cpuSeconds - state.cpuRecorded)
            state.cpuRecorded = reading.process.cpuSeconds
        }
        state.recorded.record(Date().timeIntervalSince1970)
    }

    private static func record(_ nanoseconds: Int64, times: Int, in handler: any TimerHandler) {
        guard times > 0 else { return }
        if let handler = handler as? any RepeatingTimerHandler {
            return handler.record(nanoseconds: nanoseconds, times: times)
        }
        for _ in 0..<times { handler.recordNanoseconds(nanoseconds) }
    }

    private func record(_ groups: [GroupFigures], in state: inout State) {
        var gone = state.groups
        for group in groups {
            let series =
                gone.removeValue(forKey: group.group)
                ?? Self.groupGauges.map {
                    Gauge(label: $0.name, dimensions: [("group", "\(group.group)")], factory: factory)
                }
            for (gauge, figure) in zip(series, Self.groupGauges) { gauge.record(figure.value(group)) }
            state.groups[group.group] = series
        }
        for (group, series) in gone {
            for gauge in series { gauge.destroy() }
            state.groups[group] = nil
        }
    }

    /// What was taken from the backend is given back.
    private func destroy(_ state: inout State) {
        for (counter, _) in state.counters { counter.destroy() }
        for (timer, _, _) in state.timers { timer.destroy() }
        let gauges = state.gauges + state.groups.values.flatMap(\.self) + state.constants
        for gauge in gauges + [state.groupsWithoutSeries, state.recorded] { gauge.destroy() }
        state.cpu.destroy()
        state.groups = [:]
    }
}
