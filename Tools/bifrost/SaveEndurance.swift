// Whether the copy of a group's state gets on, or only begins over and over. Pure.

/// What one group's copy has reached at the best, over all of its attempts.
package struct SaveEndurance: Sendable {
    /// So often a copy may begin anew without coming further than one before it.
    package static let restartsMax = 8

    /// Records counted by a host, before it gives the first.
    private var counted: UInt64 = 0
    private var records: UInt64 = 0
    private var pieces: UInt64 = 0
    private var restarts = 0

    package init() {}

    /// The most records that were there at a time.
    package var recordsMost: UInt64 { records }

    /// A host has counted so many. True: it was never so far.
    package mutating func counted(_ records: UInt64) -> Bool {
        guard records > counted else { return false }
        counted = records
        return true
    }

    /// So much is there of a state. True: it never was so much.
    package mutating func reached(records: UInt64, pieces: UInt64) -> Bool {
        guard records > self.records || records == self.records && pieces > self.pieces else { return false }
        self.records = records
        self.pieces = pieces
        restarts = 0
        return true
    }

    /// What is there is lost, and the next attempt begins with nothing. False: that was once too often.
    package mutating func beginsAnew() -> Bool {
        restarts += 1
        return restarts < Self.restartsMax
    }
}
