// Sums of numbers that others sent, where the greatest number is as good as any beyond it.

extension UInt64 {
    /// The sum, or the greatest number there is.
    package func addingClamped(_ other: UInt64) -> UInt64 {
        let (sum, isBeyond) = addingReportingOverflow(other)
        return isBeyond ? .max : sum
    }
}
