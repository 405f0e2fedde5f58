// How long things took, counted by size: for operators. Plain integers, so that it costs next to nothing to count.

/// Durations in buckets whose upper bounds are fixed. `note` is a few comparisons and two additions; nothing is allocated.
package struct DurationHistogram: Sendable {
    /// The last bucket has what is above the last bound.
    package static var bucketCount: Int { 17 }
    package static let boundsNanoseconds: [UInt64] = (0..<bucketCount - 1).map { bounds[$0] }
    private static let bounds: InlineArray<16, UInt64> = [
        100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
        250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
    ]

    private var counts = InlineArray<17, UInt64>(repeating: 0)
    private var sums = InlineArray<17, UInt64>(repeating: 0)

    package init() {}

    package mutating func note(nanoseconds: UInt64) {
        var place = 0
        while place < Self.bounds.count, nanoseconds > Self.bounds[place] { place += 1 }
        counts[place] &+= 1
        sums[place] &+= nanoseconds
    }

    package mutating func add(_ other: DurationHistogram) {
        for place in counts.indices {
            counts[place] &+= other.counts[place]
            sums[place] &+= other.sums[place]
        }
    }

    /// What came since an earlier state of the same histogram: of each bucket how many, and their sum in nanoseconds.
    package func news(since earlier: DurationHistogram) -> [(count: UInt64, nanoseconds: UInt64)] {
        counts.indices.map { (counts[$0] &- earlier.counts[$0], sums[$0] &- earlier.sums[$0]) }
    }

    package var count: UInt64 { counts.indices.reduce(0) { $0 &+ counts[$1] } }
    package var nanoseconds: UInt64 { sums.indices.reduce(0) { $0 &+ sums[$1] } }
}
