// Many times that were taken of one thing, as a report has them. Pure.

package struct MeasureSpread: Codable, Equatable, Sendable {
    package var count: Int
    package var leastMillis: Double
    package var medianMillis: Double
    package var p90Millis: Double
    package var worstMillis: Double

    /// - Parameter nanoseconds: in any order; nil if there are none.
    package init?(_ nanoseconds: [UInt64]) {
        let sorted = nanoseconds.sorted()
        guard let first = sorted.first, let last = sorted.last else { return nil }
        func millis(_ value: UInt64) -> Double { (Double(value) / 1e3).rounded() / 1e3 }
        count = sorted.count
        leastMillis = millis(first)
        medianMillis = millis(sorted[sorted.count / 2])
        p90Millis = millis(sorted[min(sorted.count * 9 / 10, sorted.count - 1)])
        worstMillis = millis(last)
    }

    /// The nearest-rank percentile, in milliseconds.
    /// - Parameter nanoseconds: in any order; nil if there are none.
    package static func percentile(_ nanoseconds: [UInt64], _ percent: Int) -> Double? {
        guard !nanoseconds.isEmpty else { return nil }
        let sorted = nanoseconds.sorted()
        let rank = (sorted.count * percent + 99) / 100
        return (Double(sorted[min(max(rank, 1), sorted.count) - 1]) / 1e3).rounded() / 1e3
    }

    package var text: String {
        "median \(HumanText.fixed(medianMillis, 1)) ms, 90 % \(HumanText.fixed(p90Millis, 1)) ms, worst "
            + "\(HumanText.fixed(worstMillis, 1)) ms of \(HumanText.grouped(UInt64(count)))"
    }
}
