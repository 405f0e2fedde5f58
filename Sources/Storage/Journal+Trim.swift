// Prefix deletion. Values go only from the front; what still lives in them goes to the base table in the same
// transaction. A prefix goes when at least half of it is garbage. Where none is, because what lives stands in front of
// the garbage, it goes all the same when at least half of the whole journal is: all that is ever moved so is at most as
// much as the garbage that it frees, and no replica that lags keeps what others wrote behind it.

public import Primitives
import Synchronization

/// Bounds of one call, so that a transaction stays small (what it frees costs little, what it writes counts). They stop
/// it at the end of a commit; one commit always goes whole, however large.
enum JournalTrim {
    static let valuesMax = 512
    static let bytesMax = 32 << 20
    static let movedBytesMax = 1 << 20
    /// At least 1 / garbageShare of the bodies must be garbage, else moving costs more than it gains. Counted from one
    /// possible end of the prefix to the next, so that garbage in front is no reason to move what lives behind it.
    static let garbageShare = 2
}

extension Journal {
    /// Deletes the longest prefix of values of which at least half is not needed any more, within bounds: call it again
    /// until it says 0 values. If there is none, and at least half of the whole journal is not needed, deletes from the
    /// front what can be moved in one call. The pairs name the last entry that a replica needs no more (its durable
    /// manifest's index, or less for the sake of laggards); replicas that are not named keep all. The last commit is
    /// always kept, and so is everything from the first damaged value on. Replicas' bases rise to what was deleted,
    /// never beyond the index named.
    ///
    /// Commit thread only. Durable when it returns; when it throws `.failed` it may or may not have happened.
    public func trim(superfluousThrough: [(ReplicaID, LogIndex)]) throws -> (values: Int, bytes: Int) {
        let plan = index.withLock { JournalTrimPlan($0, superfluousThrough: superfluousThrough) }
        guard plan.values > 0 else { return (0, 0) }
        return try moving.withLock { _ in
            let (logs, movedBytes) = try write(plan)
            index.withLock { index in
                for (position, var log) in logs {
                    // A reader may have found damage meanwhile.
                    log.isDamaged = log.isDamaged || index.logs[position].isDamaged
                    index.logs[position] = log
                }
                index.removeValues(plan.values)
                index.statistics.transactions += 1
                index.statistics.trimmedValues += plan.values
                index.statistics.trimmedBytes += plan.bytes
                index.statistics.movedBytes += movedBytes
            }
            return (plan.values, plan.bytes)
        }
    }

    /// One transaction; gives the logs as they are on disk afterwards.
    private func write(_ plan: JournalTrimPlan) throws -> (logs: [(Int, ReplicaLog)], movedBytes: Int) {
        try disk.write(.upkeep) { writer in
            var changed: [(Int, ReplicaLog)] = []
            var movedBytes = 0
            var rows: [(DiskKey, Bytes)] = []
            var rowBytes = 0
            for (position, planned) in plan.logs {
                var log = planned
                do {
                    movedBytes += try JournalMove(through: plan.cut).move(&log, writer)
                } catch let error as DiskError where error.code == .corrupt {
                    index.withLock { $0.logs[position].isDamaged = true }
                    throw error
                }
                log.hasRow = true
                log.coveredThrough = plan.lastSequence
                let row = JournalBaseTable.encodeRow(log, coveredThrough: plan.lastSequence)
                rows.append((JournalBaseTable.rowKey(log.replica), row))
                rowBytes += row.count
                changed.append((position, log))
            }
            // All at once, behind what was moved: they share pages. One that is much longer than most counts by itself.
            try writer.expectSmall(
                rows.count, of: plan.replicasWithRow, bytes: 2 * rowBytes / max(rows.count, 1))
            for (key, row) in rows { try writer.put(key, row) }
            for place in plan.places {
                try writer.delete(DiskKey(table: JournalFormat.valueTable, high: place.sequence, low: place.part))
            }
            try writer.put(
                JournalFormat.trimKey,
                JournalBaseTable.encodeTrim(
                    journal: plan.journal, deletedThrough: plan.cut.sequence, replicas: plan.replicasWithRow))
            return (changed, movedBytes)
        }
    }
}

/// Which prefix goes, and what the logs concerned are then (their entries not moved yet).
struct JournalTrimPlan {
    var values = 0
    var bytes = 0
    var cut = JournalPlace(sequence: 0, part: 0)
    var places: [JournalPlace] = []
    /// With their positions in the index, in order of replica.
    var logs: [(Int, ReplicaLog)] = []
    var lastSequence: UInt64
    var journal: UInt64
    var replicasWithRow = 0

    init(_ index: JournalIndex, superfluousThrough: [(ReplicaID, LogIndex)]) {
        lastSequence = index.lastSequence
        journal = index.identity.journal
        guard !index.isDamaged else { return }
        var superfluous: [ReplicaID: LogIndex] = [:]
        for (replica, through) in superfluousThrough {
            superfluous[replica] = max(superfluous[replica] ?? .zero, through)
        }

        choose(index, superfluous, unconditionally: false)
        if values == 0, Self.isMostlyGarbage(index, superfluous) { choose(index, superfluous, unconditionally: true) }
        guard values > 0 else { return }
        var touched: Set<Int> = []
        for value in index.liveValues.prefix(values) {
            places.append(value.place)
            touched.formUnion(value.logs)
        }
        for position in touched {
            var log = index.logs[position]
            if let through = superfluous[log.replica], let last = log.segments.last(where: { $0.place <= cut })?.last {
                log.discard(through: min(through, last))
            }
            logs.append((position, log))
        }
        logs.sort { $0.1.replica < $1.1.replica }
        replicasWithRow = index.logs.count { $0.hasRow } + logs.count { !$0.1.hasRow }
    }

    /// Walks the values and sets the cut behind the last one that may go; `unconditionally`, whatever lives in them.
    private mutating func choose(
        _ index: JournalIndex, _ superfluous: [ReplicaID: LogIndex], unconditionally: Bool
    ) {
        // Each replica's segments are met in the same order as the values: places ascend along a log.
        var next = Array(repeating: 0, count: index.logs.count)
        let superfluousThrough = index.logs.map { superfluous[$0.replica] ?? .zero }
        var deleted = 0
        var moved = 0
        var live = 0
        var bodies = 0
        var count = 0
        var commits = 0
        for value in index.liveValues {
            if value.place.sequence == index.lastSequence || value.logs.contains(where: { index.logs[$0].isDamaged }) {
                break
            }
            deleted += value.bytes
            bodies += value.bodyBytes
            count += 1
            for position in value.logs {
                let segments = index.logs[position].segments
                let through = superfluousThrough[position]
                var number = next[position]
                while number < segments.count, segments[number].place <= value.place {
                    if segments[number].place.sequence != 0, segments[number].last > through {
                        live += segments[number].liveBytes(above: through)
                    }
                    number += 1
                }
                next[position] = number
            }
            guard value.isLastPart else { continue }
            commits += 1
            if moved + live > JournalTrim.movedBytesMax, commits > 1 { break }
            if unconditionally || live * JournalTrim.garbageShare <= bodies {
                moved += live
                live = 0
                bodies = 0
                values = count
                bytes = deleted
                cut = value.place
            }
            if count >= JournalTrim.valuesMax || deleted >= JournalTrim.bytesMax { break }
        }
    }

    /// At least 1 / garbageShare of all bodies is not needed. Cost: the segments that live, half of them at most.
    private static func isMostlyGarbage(_ index: JournalIndex, _ superfluous: [ReplicaID: LogIndex]) -> Bool {
        let bound = index.bodyBytes / JournalTrim.garbageShare
        guard bound > 0 else { return false }
        var live = 0
        for log in index.logs {
            let through = superfluous[log.replica] ?? .zero
            for segment in log.segments.reversed() {
                guard segment.last > through, segment.place.sequence != 0 else { break }
                live += segment.liveBytes(above: through)
                if live > bound { return false }
            }
        }
        return true
    }
}

extension JournalSegment {
    /// Bytes of the live entries above an index, in proportion.
    func liveBytes(above index: LogIndex) -> Int {
        guard index >= first else { return liveBytes }
        return Int(length) * (last - index) / max(Int(bodyCount), 1)
    }
}

/// Moves a log's entries out of values that are about to go.
struct JournalMove {
    /// The last value that goes.
    var through: JournalPlace

    /// Rewrites the log's segments at or before `through` as chunks; chunks that are large enough already stay. Returns
    /// the bytes of entries written.
    func move(_ log: inout ReplicaLog, _ writer: some DiskWriter) throws -> Int {
        let count = log.segments.prefix { $0.place <= through }.count
        var kept = log.segments.prefix(count).prefix { $0.place.sequence == 0 }.count
        if kept < count, kept > 0, log.segments[kept - 1].liveBytes < JournalBaseTable.chunkBytesMin { kept -= 1 }
        var segments = Array(log.segments[..<kept])
        var movedBytes = 0
        if kept < count {
            var chunk = Chunk(first: log.segments[kept].first)
            for segment in log.segments[kept..<count] {
                try append(segment, of: log.replica, to: &chunk, writer) { full in
                    segments.append(try put(&full, &log, writer))
                    movedBytes += Int(segments[segments.count - 1].length)
                }
            }
            if chunk.count > 0 {
                segments.append(try put(&chunk, &log, writer))
                movedBytes += Int(segments[segments.count - 1].length)
            }
        }
        let rows = segments.map(\.place.part)
        let staying = Set(rows)
        for row in log.chunkRows where !staying.contains(row) {
            try writer.delete(JournalPlace(sequence: 0, part: row).key(of: log.replica))
        }
        log.chunkRows = rows
        log.segments.replaceSubrange(..<count, with: segments)
        return movedBytes
    }

    private struct Chunk {
        var first: LogIndex
        var count = 0
        var bytes: [UInt8] = []
    }

    private func append(
        _ segment: JournalSegment, of replica: ReplicaID, to chunk: inout Chunk, _ writer: some DiskWriter,
        whenFull: (inout Chunk) throws -> Void
    ) throws {
        var from = segment.first
        while from <= segment.last {
            let added = try writer.withValue(for: segment.place.key(of: replica)) { value in
                guard let value, let body = segment.checkedBody(in: value) else {
                    throw DiskError(
                        .corrupt,
                        "journal: entries \(segment.first) to \(segment.last) of replica \(replica) cannot be read")
                }
                let room = JournalBaseTable.chunkBytesMax - chunk.bytes.count
                let (range, count) = try segment.range(
                    in: body, from: from, through: segment.last, bytesMax: max(room, 0))
                // One entry always comes; a chunk takes a larger one only when it is empty.
                guard range.count <= room || chunk.count == 0 else { return 0 }
                chunk.bytes.append(contentsOf: body[range])
                return count
            }
            chunk.count += added
            from = from + added
            if from <= segment.last { try whenFull(&chunk) }
        }
    }

    /// Writes the chunk as a new row and begins the next.
    private func put(_ chunk: inout Chunk, _ log: inout ReplicaLog, _ writer: some DiskWriter) throws -> JournalSegment
    {
        let place = JournalPlace(sequence: 0, part: log.nextRow)
        let header = JournalBaseTable.chunkHeaderBytes
        let checksum = chunk.bytes.withUnsafeBytes { crc32c($0) }
        try writer.put(place.key(of: log.replica), count: header + chunk.bytes.count, append: false) { bytes in
            JournalBaseTable.encodeChunkHeader(
                replica: log.replica, bodyFirst: chunk.first,
                into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<header]))
            UnsafeMutableRawBufferPointer(rebasing: bytes[header...]).copyBytes(from: chunk.bytes)
        }
        log.nextRow += 1
        let last = chunk.first + (chunk.count - 1)
        let segment = JournalSegment(
            first: chunk.first, last: last, bodyFirst: chunk.first, bodyCount: UInt32(chunk.count), place: place,
            offset: UInt32(header), length: UInt32(chunk.bytes.count), checksum: checksum)
        chunk = Chunk(first: last.next)
        return segment
    }
}
