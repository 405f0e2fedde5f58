// What a registry keeps, what it gives back, and what it refuses: its bounds.

import CoreMetrics
import MetricsEndpoint
import Testing

@Suite struct PrometheusRegistryTests {
    /// Lines of the page with samples, but for the count of refused series.
    private func samples(_ registry: PrometheusRegistry) -> [String] {
        registry.text().split(separator: "\n").filter { !$0.hasPrefix("#") && !$0.hasPrefix("metrics_series_refused") }
            .map(String.init)
    }
    private func refused(_ registry: PrometheusRegistry) -> String? {
        registry.text().split(separator: "\n").last.map(String.init)
    }

    @Test func aSeriesIsGoneWhenItWasDestroyedAsOftenAsItWasMade() {
        let registry = PrometheusRegistry()
        let first = Gauge(label: "g", dimensions: [("group", "1")], factory: registry)
        let second = Gauge(label: "g", dimensions: [("group", "1")], factory: registry)
        Gauge(label: "g", dimensions: [("group", "2")], factory: registry).record(5)
        first.record(3)
        #expect(samples(registry) == [#"g{group="1"} 3"#, #"g{group="2"} 5"#])
        first.destroy()
        second.record(4)
        #expect(samples(registry) == [#"g{group="1"} 4"#, #"g{group="2"} 5"#])
        second.destroy()
        second.destroy()
        #expect(samples(registry) == [#"g{group="2"} 5"#])
        // It begins anew.
        _ = Gauge(label: "g", dimensions: [("group", "1")], factory: registry)
        #expect(samples(registry) == [#"g{group="1"} 0"#, #"g{group="2"} 5"#])
    }

    @Test func seriesBeyondTheBoundAreTakenAndNotShown() {
        var limits = PrometheusRegistry.Limits()
        limits.seriesMax = 10
        let registry = PrometheusRegistry(
            descriptions: [.init(name: "h", help: "", buckets: [1, 2])], limits: limits)
        let counters = (0..<7).map { Counter(label: "c", dimensions: [("n", "\($0)")], factory: registry) }
        // Five lines: too many by two.
        let histogram = Recorder(label: "h", factory: registry)
        histogram.record(1)
        #expect(samples(registry).count == 7)
        #expect(refused(registry) == "metrics_series_refused_total 1")
        counters[0].destroy()
        counters[1].destroy()
        Recorder(label: "h", factory: registry).record(1)
        #expect(samples(registry).count == 10)
        Counter(label: "d", factory: registry).increment()
        #expect(refused(registry) == "metrics_series_refused_total 2")
        // What was never shown gives no room back.
        histogram.destroy()
        Counter(label: "d", factory: registry).increment()
        #expect(refused(registry) == "metrics_series_refused_total 3")
    }

    @Test func labelsHaveBounds() {
        var limits = PrometheusRegistry.Limits()
        limits.labelsMax = 2
        limits.textBytesMax = 8
        let registry = PrometheusRegistry(limits: limits)
        for labels in [
            [("a", "1"), ("b", "2"), ("c", "3")], [("a", "123456789")], [("abcdefghi", "1")],
        ] {
            Counter(label: "c", dimensions: labels, factory: registry).increment()
        }
        Counter(label: "abcdefghi", factory: registry).increment()
        #expect(samples(registry) == [])
        #expect(refused(registry) == "metrics_series_refused_total 4")
        Counter(label: "c", dimensions: [("a", "12345678")], factory: registry).increment()
        #expect(samples(registry) == [#"c{a="12345678"} 1"#])
    }

    @Test func aNameHasOneKind() {
        let registry = PrometheusRegistry()
        Counter(label: "x", factory: registry).increment()
        Gauge(label: "x", dimensions: [("a", "1")], factory: registry).record(1)
        FloatingPointCounter(label: "x", factory: registry).increment(by: 2)
        CoreMetrics.Timer(label: "t", factory: registry).recordNanoseconds(1)
        // It would look like a sample of t.
        Counter(label: "t_count", factory: registry).increment()
        Gauge(label: "u_sum", factory: registry).record(1)
        CoreMetrics.Timer(label: "u", factory: registry).recordNanoseconds(1)
        #expect(refused(registry) == "metrics_series_refused_total 4")
        let text = registry.text()
        for name in ["x", "t", "u_sum"] {
            #expect(text.split(separator: "\n").count { $0.hasPrefix("# TYPE \(name) ") } == 1)
        }
        #expect(!text.contains("\nt_count 1\nt") && !text.contains("# TYPE u "))
    }

    @Test func manyEqualDurationsAreAsGoodAsOneByOne() throws {
        let registry = PrometheusRegistry()
        let timer = try #require(registry.makeTimer(label: "t", dimensions: []) as? HistogramSeries)
        timer.record(nanoseconds: 3_000_000, times: 1_000)
        timer.record(nanoseconds: 3_000_000, times: 0)
        let lines = samples(registry)
        #expect(lines.contains(#"t_bucket{le="0.0025"} 0"#) && lines.contains(#"t_bucket{le="0.005"} 1000"#))
        #expect(lines.suffix(2) == ["t_sum 3", "t_count 1000"])
    }
}
