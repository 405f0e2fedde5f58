// What a reader thread looks up for a migration: records of some slots, a page at a time. Owns no decision.

import Messages
public import Primitives
package import StateMachines
public import Storage

/// Some records of slots that move, for a reader thread; answered by `HostCore.migrationRead`.
public struct MigrationRead: Sendable {
    public var group: GroupID
    package var replica: ReplicaID
    package var migration: MigrationID
    /// Which of the migration's reads it is.
    package var number: UInt64
    package var purpose: Purpose
    package var pieces: [Piece]
    /// Where the next read goes on if this one comes to the end of its pieces; nil: that is the end.
    package var rest: RecordKey?
    /// Only what changed behind it; 0: whatever is there.
    package var base: LogIndex
    package var recordsMax: Int
    package var bytesMax: Int
    package var view: StoreView

    package enum Purpose: Sendable {
        /// For the target.
        case page(MigrationPageAsked)
        /// What is to be deleted.
        case clearing
        /// It goes into a digest; of a source, times are as the target has them.
        case digest(MigrationClock?)
    }

    /// A range of keys, and what of it is in memory.
    package struct Piece: Sendable {
        var from: RecordKey
        var end: RecordKey
        var live: RecordPage
    }

    /// Reads them. Any thread.
    public func result<D: Disk>(from store: Store<D>) throws -> MigrationReadResult {
        var result = MigrationReadResult(read: self, records: [], next: nil)
        var (bytes, count) = (0, 0)
        for piece in pieces {
            guard count < recordsMax, bytes < bytesMax else {
                result.next = piece.from
                return result
            }
            let cold = try store.page(
                in: view, from: piece.from, end: piece.end, recordsMax: recordsMax - count,
                bytesMax: bytesMax - bytes, tombstones: true, changedAfter: base)
            let page = RecordPage.overlaid(newer: piece.live, older: cold, tombstones: true)
            let leavesOut = base == .zero || isPlanted("deletions-not-given")
            for record in page.records
            where (base == .zero || record.changed > base) && !(leavesOut && record.isTombstone) {
                bytes += record.key.key.count + (record.value?.count ?? 0)
                count += 1
                if case .digest(let clock) = purpose {
                    result.digest.add(record, time: clock?.time(record.expiry) ?? record.expiry)
                } else {
                    result.records.append(record)
                }
            }
            if let next = page.next {
                result.next = next
                return result
            }
        }
        result.next = rest
        return result
    }

    /// Ranges in one read: each is looked up in memory by the event loop.
    package static var piecesMax: Int { 64 }
}

/// What a target wants of a page.
package struct MigrationPageAsked: Sendable {
    var host: HostID
    var number: UInt64
    var base: LogIndex
    var start: LogIndex
    /// As it was asked for.
    var from: Bytes
    var revision: Revision
    /// The slots were frozen when it was read: with it goes who holds what.
    var isFrozen: Bool
}

/// What a `MigrationRead` found.
public struct MigrationReadResult: Sendable {
    package var read: MigrationRead
    package var records: [Record]
    /// The first place that was not looked at; nil: that was the end.
    package var next: RecordKey?
    package var digest = MigrationDigest()
}

/// Slots and a group's deadlines, as the ranges of keys that a migration goes through, in order.
struct MigrationRanges {
    let slots: [Slot]
    /// Whether the group's deadlines follow.
    let hasDeadlines: Bool

    private static var firstDeadline: RecordKey { RecordKey(slot: .group, machine: .deadlines, key: Bytes()) }

    /// From a place on, as many as one read may have; and where those begin that are left.
    func ranges(from: RecordKey?) -> (ranges: [(from: RecordKey, end: RecordKey)], rest: RecordKey?) {
        var ranges: [(from: RecordKey, end: RecordKey)] = []
        var place = 0
        while place < slots.count {
            let first = slots[place]
            var last = first
            while place + 1 < slots.count, slots[place + 1].rawValue == last.rawValue + 1 {
                place += 1
                last = slots[place]
            }
            place += 1
            // Behind the last slot is nobody's.
            let end = RecordKey.first(of: Slot(last.rawValue + 1))
            if let from, from >= end { continue }
            let begin = max(from ?? .first(of: first), .first(of: first))
            guard ranges.count < MigrationRead.piecesMax else { return (ranges, begin) }
            ranges.append((begin, end))
        }
        guard hasDeadlines else { return (ranges, nil) }
        let end = RecordKey(
            slot: .group, machine: SubMachineNumber(SubMachineNumber.deadlines.rawValue + 1), key: Bytes())
        if let from, from >= end { return (ranges, nil) }
        let begin = max(from ?? Self.firstDeadline, Self.firstDeadline)
        guard ranges.count < MigrationRead.piecesMax else { return (ranges, begin) }
        ranges.append((begin, end))
        return (ranges, nil)
    }
}

/// Over records of slots that move: the same at both ends, in whatever order they were read.
package struct MigrationDigest: Hashable, Sendable {
    private var sum: UInt64 = 0
    private var count: UInt64 = 0

    /// - Parameter time: when it ends, as the target has it.
    mutating func add(_ record: Record, time: LogTime) {
        guard let value = record.value else { return }
        let place = UInt64(record.key.slot.rawValue) | UInt64(record.key.machine.rawValue) << 16
        let seed = mix(place ^ mix(record.revision.rawValue)) &+ time.rawValue &* 0x9e37_79b9_7f4a_7c15
        let hash = record.key.key.withUnsafeBytes { hash64($0, seed: seed) }
        sum &+= mix(value.withUnsafeBytes { hash64($0, seed: hash) })
        count += 1
    }

    mutating func add(_ other: MigrationDigest) {
        sum &+= other.sum
        count += other.count
    }

    var value: UInt64 { mix(sum ^ mix(count)) }
}
