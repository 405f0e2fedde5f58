// The text that Prometheus reads: a golden page, and what may not stand in one as it came.

import CoreMetrics
import MetricsEndpoint
import Testing

@Suite struct PrometheusTextTests {
    @Test func aPageHasEachFamilyOnceWithItsSamples() {
        let registry = PrometheusRegistry(descriptions: [
            .init(name: "calls_total", help: "Calls \\ of\ntwo lines."),
            .init(name: "wait_seconds", help: "Waits.", buckets: [0.1, 1]),
        ])
        let west = registry.makeCounter(label: "calls_total", dimensions: [("zone", "we\"st\\\n"), ("a", "1")])
        let east = registry.makeCounter(label: "calls_total", dimensions: [("a", "2"), ("zone", "east")])
        // The same labels in another order.
        let again = registry.makeCounter(label: "calls_total", dimensions: [("zone", "east"), ("a", "2")])
        west.increment(by: 2)
        east.increment(by: 3)
        again.increment(by: 4)
        again.increment(by: -9)
        let timer = registry.makeTimer(label: "wait_seconds", dimensions: [("a", "x")])
        for milliseconds in [50, 100, 101, 2_000] as [Int64] { timer.recordNanoseconds(milliseconds * 1_000_000) }
        registry.makeRecorder(label: "disk.free-bytes", dimensions: [], aggregate: false).record(1.5)
        let cpu = registry.makeFloatingPointCounter(label: "cpu_total", dimensions: [])
        cpu.increment(by: 0.25)
        cpu.increment(by: 0.5)
        #expect(
            registry.text() == #"""
                # HELP calls_total Calls \\ of\ntwo lines.
                # TYPE calls_total counter
                calls_total{a="1",zone="we\"st\\\n"} 2
                calls_total{a="2",zone="east"} 7
                # TYPE cpu_total counter
                cpu_total 0.75
                # TYPE disk_free_bytes gauge
                disk_free_bytes 1.5
                # HELP wait_seconds Waits.
                # TYPE wait_seconds histogram
                wait_seconds_bucket{a="x",le="0.1"} 2
                wait_seconds_bucket{a="x",le="1"} 3
                wait_seconds_bucket{a="x",le="+Inf"} 4
                wait_seconds_sum{a="x"} 2.251
                wait_seconds_count{a="x"} 4
                # HELP metrics_series_refused_total Series that are not shown: too many, or not fitting their name.
                # TYPE metrics_series_refused_total counter
                metrics_series_refused_total 0

                """#)
    }

    @Test func numbersAreAsTheFormatHasThem() {
        let expected: [(Double, String)] = [
            (0, "0"), (-3, "-3"), (1e15, "1000000000000000"), (0.1, "0.1"), (1e-5, "1e-05"), (1e300, "1e+300"),
            (.infinity, "+Inf"), (-.infinity, "-Inf"), (.nan, "NaN"),
        ]
        for (value, text) in expected { #expect(PrometheusText.number(value) == text) }
    }

    @Test func namesBecomeValid() {
        #expect(PrometheusText.metricName("9 a.b:ü") == "_9_a_b:_")
        #expect(PrometheusText.metricName("") == "_")
        #expect(PrometheusText.labelName("a:b") == "a_b")
        // A histogram's own label, and what is Prometheus' alone.
        #expect(PrometheusText.labelName("le") == "label_le")
        #expect(PrometheusText.labelName("__name__") == "label___name__")
        #expect(PrometheusText.labels([("b", "1"), ("a", "2"), ("b", "3")]) == #"a="2",b="3""#)
    }
}
