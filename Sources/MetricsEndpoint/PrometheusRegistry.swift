// A backend of swift-metrics that keeps the newest value of each series in memory, for a Prometheus server that comes and
// asks. Owns the series; opens no socket.

public import CoreMetrics
import Synchronization

/// Keeps counters, gauges and histograms, and writes them as Prometheus' text. Any thread.
///
/// Recorders that do not aggregate, and meters, are gauges; recorders that do, and timers (in seconds), are histograms.
/// The same label with the same dimensions is one series, however often it is made; it is gone when it was destroyed as
/// often.
///
/// Everything has a bound (`Limits`): a series beyond it, or one that does not fit the family of its name, is made all the
/// same, is shown nowhere, and counts in `metrics_series_refused_total`.
public final class PrometheusRegistry: MetricsFactory {
    /// What is known of a family before its first series is made.
    public struct Description: Sendable {
        public var name: String
        public var help: String
        /// Upper bounds of a histogram's buckets, ascending; empty: `bucketsDefault`.
        public var buckets: [Double]

        public init(name: String, help: String, buckets: [Double] = []) {
            self.name = name
            self.help = help
            self.buckets = buckets
        }
    }

    public struct Limits: Sendable {
        /// Series in all; a histogram counts as many as it has lines.
        public var seriesMax = 8_192
        /// Labels of one series, and bytes of each name and value.
        public var labelsMax = 8
        public var textBytesMax = 256
        public init() {}
    }

    /// In seconds, of histograms that no description has.
    public static let bucketsDefault: [Double] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
    ]

    private struct Entry {
        var series: any PrometheusSeries
        var references = 1
    }

    private struct Family {
        var kind: PrometheusKind
        /// By their labels, as text.
        var entries: [String: Entry] = [:]
    }

    private struct State {
        var families: [String: Family] = [:]
        var series = 0
        var refused: UInt64 = 0

        /// One kind and one class of series for each set of labels, and no sample of a histogram with another's name.
        func fits(_ name: String, _ kind: PrometheusKind, _ labels: String) -> Bool {
            if let family = families[name] { return family.kind == kind && family.entries[labels] == nil }
            let suffixes = ["_bucket", "_sum", "_count"]
            if kind == .histogram { return !suffixes.contains { families[name + $0] != nil } }
            return !suffixes.contains {
                name.hasSuffix($0) && families[String(name.dropLast($0.utf8.count))]?.kind == .histogram
            }
        }
    }

    private let descriptions: [String: Description]
    private let limits: Limits
    private let state = Mutex(State())

    /// - Parameter descriptions: of families, by which they get help and buckets. Others are taken as well.
    public init(descriptions: [Description] = [], limits: Limits = Limits()) {
        self.descriptions = Dictionary(descriptions.map { ($0.name, $0) }) { $1 }
        self.limits = limits
    }

    // MARK: MetricsFactory

    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        make(label, dimensions, .counter) { _ in CounterSeries() }
    }
    public func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        make(label, dimensions, .counter) { _ in FloatingPointCounterSeries() }
    }
    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        make(label, dimensions, .gauge) { _ in GaugeSeries() }
    }
    public func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        aggregate
            ? make(label, dimensions, .histogram, HistogramSeries.init(bounds:))
            : make(label, dimensions, .gauge) { _ in GaugeSeries() }
    }
    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        make(label, dimensions, .histogram, HistogramSeries.init(bounds:))
    }

    public func destroyCounter(_ handler: any CounterHandler) { destroy(handler) }
    public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { destroy(handler) }
    public func destroyMeter(_ handler: any MeterHandler) { destroy(handler) }
    public func destroyRecorder(_ handler: any RecorderHandler) { destroy(handler) }
    public func destroyTimer(_ handler: any TimerHandler) { destroy(handler) }

    // MARK: Series

    private func make<Series: PrometheusSeries>(
        _ label: String, _ dimensions: [(String, String)], _ kind: PrometheusKind, _ new: ([Double]) -> Series
    ) -> Series {
        let name = PrometheusText.metricName(label)
        let known = descriptions[name]?.buckets ?? []
        let bounds = known.isEmpty ? Self.bucketsDefault : known
        let isBounded =
            name.utf8.count <= limits.textBytesMax && dimensions.count <= limits.labelsMax
            && dimensions.allSatisfy {
                $0.0.utf8.count <= limits.textBytesMax && $0.1.utf8.count <= limits.textBytesMax
            }
        let labels = isBounded ? PrometheusText.labels(dimensions) : ""
        let lines = kind == .histogram ? bounds.count + 3 : 1
        return state.withLock { state in
            if isBounded, let known = state.families[name]?.entries[labels]?.series as? Series,
                state.families[name]?.kind == kind
            {
                state.families[name]?.entries[labels]?.references += 1
                return known
            }
            let series = new(bounds)
            guard isBounded, state.series + lines <= limits.seriesMax, state.fits(name, kind, labels) else {
                state.refused += 1
                return series
            }
            series.place.set(name: name, labels: labels)
            state.families[name, default: Family(kind: kind)].entries[labels] = Entry(series: series)
            state.series += lines
            return series
        }
    }

    private func destroy(_ handler: AnyObject) {
        guard let series = handler as? any PrometheusSeries, let (name, labels) = series.place.value else { return }
        state.withLock { state in
            guard let entry = state.families[name]?.entries[labels], entry.series === series else { return }
            guard entry.references == 1 else {
                state.families[name]?.entries[labels]?.references -= 1
                return
            }
            state.families[name]?.entries[labels] = nil
            state.series -= series.lines
            if state.families[name]?.entries.isEmpty == true { state.families[name] = nil }
        }
    }

    /// Everything as it is now, families by name. O(series).
    public func text() -> String {
        var (families, refused) = state.withLock { ($0.families, $0.refused) }
        families[Self.refusedName] = nil
        var text = PrometheusText()
        for (name, family) in families.sorted(by: { $0.key < $1.key }) {
            text.begin(name, family.kind, help: descriptions[name]?.help ?? "")
            for (labels, entry) in family.entries.sorted(by: { $0.key < $1.key }) {
                entry.series.write(name, labels: labels, into: &text)
            }
        }
        text.begin(Self.refusedName, .counter, help: "Series that are not shown: too many, or not fitting their name.")
        text.sample(Self.refusedName, "\(refused)")
        return text.text
    }

    private static let refusedName = "metrics_series_refused_total"
}

/// Where a series stands in its registry: set once, before anybody else has it.
final class SeriesPlace: Sendable {
    private let state = Mutex<(String, String)?>(nil)
    func set(name: String, labels: String) { state.withLock { $0 = (name, labels) } }
    var value: (name: String, labels: String)? { state.withLock { $0 } }
}

/// One series as the registry sees it.
protocol PrometheusSeries: AnyObject, Sendable {
    var place: SeriesPlace { get }
    /// Of text.
    var lines: Int { get }
    func write(_ name: String, labels: String, into text: inout PrometheusText)
}

/// Counters never fall: what would make them fall is left out. `reset` begins at zero again, as after a restart.
final class CounterSeries: PrometheusSeries, CounterHandler {
    let place = SeriesPlace()
    var lines: Int { 1 }
    private let value = Atomic<Int64>(0)

    func increment(by amount: Int64) { if amount > 0 { value.wrappingAdd(amount, ordering: .relaxed) } }
    func reset() { value.store(0, ordering: .relaxed) }
    func write(_ name: String, labels: String, into text: inout PrometheusText) {
        text.sample(name, labels: labels, "\(value.load(ordering: .relaxed))")
    }
}

final class FloatingPointCounterSeries: PrometheusSeries, FloatingPointCounterHandler {
    let place = SeriesPlace()
    var lines: Int { 1 }
    private let value = Mutex(0.0)

    func increment(by amount: Double) { if amount > 0 { value.withLock { $0 += amount } } }
    func reset() { value.withLock { $0 = 0 } }
    func write(_ name: String, labels: String, into text: inout PrometheusText) {
        text.sample(name, labels: labels, PrometheusText.number(value.withLock { $0 }))
    }
}

final class GaugeSeries: PrometheusSeries, RecorderHandler, MeterHandler {
    let place = SeriesPlace()
    var lines: Int { 1 }
    private let value = Mutex(0.0)

    func record(_ value: Int64) { record(Double(value)) }
    func record(_ value: Double) { self.value.withLock { $0 = value } }
    func set(_ value: Int64) { record(Double(value)) }
    func set(_ value: Double) { record(value) }
    func increment(by amount: Double) { value.withLock { $0 += amount } }
    func decrement(by amount: Double) { value.withLock { $0 -= amount } }
    func write(_ name: String, labels: String, into text: inout PrometheusText) {
        text.sample(name, labels: labels, PrometheusText.number(value.withLock { $0 }))
    }
}

/// A histogram of the registry. Public for who has counted many equal values before: `record(nanoseconds:times:)`.
public final class HistogramSeries: PrometheusSeries, RecorderHandler, TimerHandler {
    private struct Counts {
        var buckets: [UInt64]
        var sum = 0.0
    }

    let place = SeriesPlace()
    var lines: Int { bounds.count + 3 }
    private let bounds: [Double]
    private let counts: Mutex<Counts>

    init(bounds: [Double]) {
        self.bounds = bounds
        counts = Mutex(Counts(buckets: Array(repeating: 0, count: bounds.count + 1)))
    }

    public func record(_ value: Int64) { record(Double(value)) }
    public func record(_ value: Double) { record(value, times: 1) }
    public func recordNanoseconds(_ duration: Int64) { record(nanoseconds: duration, times: 1) }

    /// The same as recording it so often. O(buckets).
    public func record(nanoseconds: Int64, times: Int) { record(Double(nanoseconds) / 1e9, times: times) }

    private func record(_ value: Double, times: Int) {
        guard times > 0, !value.isNaN else { return }
        let place = bounds.firstIndex { value <= $0 } ?? bounds.count
        counts.withLock {
            $0.buckets[place] += UInt64(times)
            $0.sum += value * Double(times)
        }
    }

    func write(_ name: String, labels: String, into text: inout PrometheusText) {
        let counts = counts.withLock { $0 }
        text.histogram(name, labels: labels, bounds: bounds, counts: counts.buckets, sum: counts.sum)
    }
}
