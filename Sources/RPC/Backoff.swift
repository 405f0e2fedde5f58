// How long to wait before connecting again. Pure; randomness comes in.

public import Primitives

/// Doubling with jitter: half of the step is fixed, half is drawn, so that many callers of one host do not come back at
/// once.
public struct Backoff: Sendable {
    public let firstMilliseconds: UInt64
    public let maxMilliseconds: UInt64
    private var step: UInt64

    public init(firstMilliseconds: UInt64 = 25, maxMilliseconds: UInt64 = 2_000) {
        precondition(firstMilliseconds > 0 && maxMilliseconds >= firstMilliseconds, "a back-off grows from above zero")
        self.firstMilliseconds = firstMilliseconds
        self.maxMilliseconds = maxMilliseconds
        step = firstMilliseconds
    }

    /// The next wait in nanoseconds: from half of the step to all of it.
    public mutating func next(_ random: inout SeededRandom) -> UInt64 {
        let nanoseconds = step * 1_000_000
        step = min(step * 2, maxMilliseconds)
        return nanoseconds / 2 + random.below(nanoseconds / 2 + 1)
    }

    /// The longest wait from now on: the peer refused us, and that will not change soon.
    public mutating func lengthen() { step = maxMilliseconds }

    public mutating func reset() { step = firstMilliseconds }
}
