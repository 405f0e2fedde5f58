// How fast a migration's target fetches, and how long its last round would take. Pure: the clock's readings come in.

package import Primitives
package import Ring

/// One leadership's measure of one migration.
package struct MigrationPace: Sendable {
    /// That may be fetched now; below 0 after a page that was larger.
    private var allowance = 0
    private var counted: Instant?
    /// When it began to wait for the page that comes next: the source's answer, and its own log.
    private var waitsSince: Instant?
    private var bytes: UInt64 = 0
    private var nanoseconds: UInt64 = 0

    package init() {}

    /// Whether another page is within the limit. What is saved up is a second's worth at most.
    package mutating func mayFetch(at now: Instant, _ limits: MigrationLimits) -> Bool {
        guard limits.bytesPerSecondMax > 0 else { return true }
        let limit = Int(min(limits.bytesPerSecondMax, 1 << 40))
        if let counted {
            let elapsed = min(now.since(counted), 1_000_000_000)
            let more = (UInt64(limit).multipliedFullWidth(by: elapsed))
            let gained = Int(UInt64(1_000_000_000).dividingFullWidth(more).quotient)
            // Less than a byte since the last look is not lost.
            guard gained > 0 else { return allowed }
            allowance = min(allowance + gained, limit)
        } else {
            allowance = limit
        }
        counted = now
        return allowed
    }

    /// While it is held back nobody waits for anything else.
    private var allowed: Bool {
        mutating get {
            if allowance <= 0 { waitsSince = nil }
            return allowance > 0
        }
    }

    /// A page was asked for, or is still.
    package mutating func asked(at now: Instant) { waitsSince = waitsSince ?? now }

    package mutating func took(_ bytes: Int, at now: Instant) {
        allowance -= bytes
        self.bytes &+= UInt64(max(bytes, 0))
        if let waitsSince { nanoseconds &+= now.since(waitsSince) }
        waitsSince = now
    }

    /// While it fetched; 0: not known.
    package var bytesPerSecond: UInt64 {
        guard nanoseconds > 0 else { return 0 }
        return UInt64(min(Double(bytes) * 1e9 / Double(nanoseconds), 1e18))
    }

    /// Whether a round of so many bytes is expected to be over within the longest pause. What nobody has measured is.
    package func isShort(bytes: Int, of limits: MigrationLimits) -> Bool {
        guard limits.pauseMillisMax > 0, nanoseconds > 0, self.bytes > 0 else { return true }
        return Double(bytes) * Double(nanoseconds) / Double(self.bytes) <= Double(limits.pauseMillisMax) * 1e6
    }
}
