// How often each slot is asked for. One count for all groups of a loop: a slot is one group's at a time, so that thousands
// of groups take no more memory than one, and those that are idle no time.

import Primitives

/// Calls that were answered for each slot, in windows of ten seconds: the one that is under way, and the one before.
struct SlotWork {
    static let windowSeconds: UInt64 = 10

    /// By slot, the group's own among them; empty until something is counted.
    private var current: [UInt32] = []
    private var before: [UInt32] = []
    /// The second in which the window began.
    private var windowStart: UInt64 = 0
    private var second: UInt64 = 0
    /// There was a window before this one.
    private var hasBefore = false

    @inline(__always)
    mutating func note(_ slot: Slot) {
        if current.isEmpty { begin() }
        current[Int(slot.rawValue)] &+= 1
    }

    @inline(never)
    private mutating func begin() {
        current = Array(repeating: 0, count: Slot.count + 1)
        before = current
    }

    /// At the beginning of each second, by its number.
    mutating func pass(second: UInt64) {
        self.second = second
        guard second - windowStart >= Self.windowSeconds else { return }
        windowStart = second
        hasBefore = true
        swap(&before, &current)
        for place in current.indices { current[place] = 0 }
    }

    /// That the counts are of.
    var seconds: UInt64 { second - windowStart + (hasBefore ? Self.windowSeconds : 0) }

    func count(of slot: Slot) -> UInt64 {
        current.isEmpty ? 0 : UInt64(current[Int(slot.rawValue)]) + UInt64(before[Int(slot.rawValue)])
    }
}
