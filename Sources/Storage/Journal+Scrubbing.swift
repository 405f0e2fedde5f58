// The journal's part in looking for damage that nobody met: reads values and chunks of the base table in order, a stretch
// at a time. It tells what the next start would find, but for what no replica needs any more: that goes with its value.
// No log is marked: who goes on in spite of it would keep its values here by that.

internal import Primitives
import Synchronization

/// Where in the journal a look at it goes on: first what prefix deletion kept, by log, then the values.
public struct JournalPosition: Hashable, Sendable {
    fileprivate var log = 0
    fileprivate var row: UInt32 = 0
    fileprivate var place = JournalPlace(sequence: 0, part: 0)

    public static let start = JournalPosition()
}

/// A stretch of the journal, verified.
public struct VerifiedJournal: Sendable {
    public var bytes = 0
    /// nil: that was all.
    public var next: JournalPosition?
    /// Replicas of which records are damaged, each with the first thing that is wrong.
    public var damaged: [ScrubbedDamage] = []
    /// Values that are damaged where nothing is needed any more.
    public var superfluousDamage: [String] = []

    public init() {}
}

extension Journal {
    /// Of one look at the index, which commits wait for.
    private static var logsPerStretch: Int { 1_024 }
    private static var valuesPerStretch: Int { 512 }

    /// Verifies the next stretch in one read transaction. Any thread.
    /// Cost: `bytesMax` and one value more; where something is wrong a second look, for which prefix deletion waits.
    ///
    /// - Parameter end: commits behind it are left out.
    public func verify(from position: JournalPosition, through end: UInt64, bytesMax: Int) throws -> VerifiedJournal {
        var stretch = VerifiedJournal()
        let logs = index.withLock { $0.logs.count }
        if position.log < logs {
            try verifyChunks(from: position, bytesMax, &stretch)
        } else {
            try verifyValues(from: position, through: end, bytesMax, &stretch)
        }
        return stretch
    }

    // MARK: The base table

    private func verifyChunks(from position: JournalPosition, _ bytesMax: Int, _ stretch: inout VerifiedJournal) throws
    {
        var next = position
        let chunks: [(log: Int, replica: ReplicaID, segment: JournalSegment)] = index.withLock { index in
            var chunks: [(log: Int, replica: ReplicaID, segment: JournalSegment)] = []
            var bytes = 0
            let end = min(position.log + Self.logsPerStretch, index.logs.count)
            while next.log < end {
                let log = index.logs[next.log]
                for segment in log.segments {
                    guard segment.place.sequence == 0 else { break }
                    guard segment.place.part >= next.row else { continue }
                    guard bytes < bytesMax else {
                        next.row = segment.place.part
                        return chunks
                    }
                    if !log.isDamaged { chunks.append((next.log, log.replica, segment)) }
                    bytes += Int(segment.length)
                }
                next.log += 1
                next.row = 0
            }
            return chunks
        }
        stretch.next = next
        let suspects = try disk.read { reader in
            try chunks.filter { chunk in
                try reader.withValue(for: chunk.segment.place.key(of: chunk.replica)) { value in
                    stretch.bytes += value?.count ?? 0
                    return value.flatMap { chunk.segment.checkedBody(in: $0) } == nil
                }
            }
        }
        for chunk in suspects {
            // Perhaps it was joined with others meanwhile. None is while this lock is held, and a row's number never
            // comes again.
            try moving.withLock { _ in
                let isBad = try disk.read { reader in
                    try reader.withValue(for: chunk.segment.place.key(of: chunk.replica)) { value in
                        value.flatMap { chunk.segment.checkedBody(in: $0) } == nil
                    }
                }
                guard isBad else { return }
                index.withLock { index in
                    guard index.logs[chunk.log].segments.contains(where: { $0.place == chunk.segment.place }) else {
                        return
                    }
                    index.damage(
                        chunk.log,
                        "journal: entries \(chunk.segment.first) to \(chunk.segment.last) of replica \(chunk.replica), "
                            + "which prefix deletion kept, cannot be read", &stretch)
                }
            }
        }
    }

    // MARK: Values

    private func verifyValues(
        from position: JournalPosition, through end: UInt64, _ bytesMax: Int, _ stretch: inout VerifiedJournal
    ) throws {
        let (places, journal) = index.withLock { index in
            let values = index.liveValues
            var places: [JournalPlace] = []
            var bytes = 0
            for value in values[index.firstValue(from: position.place)...] {
                guard value.place.sequence <= end, bytes < bytesMax, places.count < Self.valuesPerStretch else { break }
                places.append(value.place)
                bytes += value.bytes
            }
            return (places, index.identity.journal)
        }
        guard let last = places.last else { return }
        var next = position
        next.place =
            last.part < .max
            ? JournalPlace(sequence: last.sequence, part: last.part + 1)
            : JournalPlace(sequence: last.sequence &+ 1, part: 0)
        stretch.next = next
        let suspects = try disk.read { reader in
            try places.filter { place in
                try reader.withValue(for: place.key(of: .none)) { value in
                    stretch.bytes += value?.count ?? 0
                    if let value, !reader.isReadable(value) { return true }
                    if case .sound = Self.look(at: value, place, journal) { return false }
                    return true
                }
            }
        }
        for place in suspects {
            // Perhaps it was deleted meanwhile. None is while this lock is held.
            try moving.withLock { _ in
                let finding = try disk.read { reader in
                    try reader.withValue(for: place.key(of: .none)) { value -> ValueFinding in
                        if let value, !reader.isReadable(value) { return .lost }
                        return Self.look(at: value, place, journal)
                    }
                }
                index.withLock { $0.heed(finding, at: place, &stretch) }
            }
        }
    }

    private static func look(at value: UnsafeRawBufferPointer?, _ place: JournalPlace, _ journal: UInt64)
        -> ValueFinding
    {
        guard let value, let directory = try? JournalDirectory(value, key: place.key(of: .none), journal: journal)
        else {
            return .lost
        }
        let damaged = directory.records.filter { $0.checkedBody(in: value) == nil }
        return damaged.isEmpty ? .sound : .records(damaged)
    }
}

/// What a look at a value shows.
private enum ValueFinding {
    case sound
    /// It is missing, or nothing in it can be believed.
    case lost
    /// The bodies of these are not what was written.
    case records([JournalDirectoryRecord])
}

extension JournalIndex {
    /// Where in `liveValues` the first one at or behind a place is.
    fileprivate func firstValue(from place: JournalPlace) -> Int {
        var low = liveValues.startIndex
        var high = liveValues.endIndex
        while low < high {
            let middle = (low + high) / 2
            if liveValues[middle].place < place { low = middle + 1 } else { high = middle }
        }
        return low
    }

    fileprivate func heed(_ finding: ValueFinding, at place: JournalPlace, _ stretch: inout VerifiedJournal) {
        let number = firstValue(from: place)
        guard number < liveValues.endIndex, liveValues[number].place == place else { return }
        var isConcerned = false
        let damagedRecords: [JournalDirectoryRecord]
        switch finding {
        case .sound: return
        case .lost:
            damagedRecords = []
            for log in liveValues[number].logs where isNeeded(place, by: logs[log]) {
                isConcerned = true
                damage(log, "journal: value \(place.sequence).\(place.part) cannot be read", &stretch)
            }
        case .records(let records): damagedRecords = records
        }
        for record in damagedRecords {
            guard let log = position(of: record.replica) else { continue }
            let isLive =
                record.kind == .append
                ? logs[log].segments.contains { $0.place == place && $0.offset == record.offset }
                : isNeeded(place, by: logs[log])
            guard isLive else { continue }
            isConcerned = true
            damage(
                log,
                "journal: a record of replica \(record.replica) in value \(place.sequence).\(place.part) cannot be "
                    + "read", &stretch)
        }
        // What was found at the start, when nobody knew any more whose it was, is known.
        if !isConcerned, !liveValues[number].logs.isEmpty {
            stretch.superfluousDamage.append("journal: value \(place.sequence).\(place.part)")
        }
    }

    /// Whether a start would learn something of the replica from this value: an entry, or whatever the base table's row
    /// does not count in.
    private func isNeeded(_ place: JournalPlace, by log: ReplicaLog) -> Bool {
        guard !log.isTombstone else { return false }
        return place.sequence > log.coveredThrough || log.segments.contains { $0.place == place }
    }

    /// The log is not marked: the mark would pin its values here, and it is for the replica to stop, if it may.
    fileprivate func damage(_ log: Int, _ what: String, _ stretch: inout VerifiedJournal) {
        guard !logs[log].isDamaged, !logs[log].isTombstone,
            !stretch.damaged.contains(where: { $0.replica == logs[log].replica })
        else { return }
        stretch.damaged.append(
            ScrubbedDamage(group: logs[log].group, replica: logs[log].replica, run: nil, message: what))
    }
}
