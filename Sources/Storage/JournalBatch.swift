// One commit on its way to disk: checked against the index, laid out in values, encoded in one pass, and then told to
// the index. Owns no I/O. Its arrays are reused from batch to batch.

internal import Primitives

struct JournalBatch {
    /// A record, or a part of an append, in one value.
    struct Piece {
        var record: Int
        var log: Int
        var entries: Range<Int>
        var body: JournalDirectoryRecord
    }
    struct Value {
        var pieces: Range<Int>
        var bytes: Int
    }
    var pieces: [Piece] = []
    var values: [Value] = []
    var entries = 0

    // MARK: Checking

    /// Lays the records out. Throws `.misuse` for records that do not fit the log they are for; the index is as before
    /// then.
    mutating func plan(_ records: [JournalRecord], in index: inout JournalIndex) throws(DiskError) {
        pieces.removeAll(keepingCapacity: true)
        values.removeAll(keepingCapacity: true)
        entries = 0
        guard index.lastSequence < .max else {
            throw DiskError(.corrupt, "journal: no sequence is left: a key is damaged")
        }
        let sequence = index.lastSequence + 1
        let known = index.logs.count
        do throws(DiskError) {
            for number in records.indices { try plan(number, records[number], sequence, in: &index) }
        } catch {
            index.removeLogs(from: known)
            throw error
        }
        place()
    }

    private mutating func plan(
        _ number: Int, _ record: JournalRecord, _ sequence: UInt64, in index: inout JournalIndex
    ) throws(DiskError) {
        let replica = record.replica
        guard replica != .none else { throw DiskError(.misuse, "journal: a record without a replica") }
        let position = index.position(of: replica, group: record.group)
        try index.logs[position].plan(record, sequence: sequence)
        func add(_ kind: JournalRecordKind, _ first: UInt64, _ last: UInt64, _ range: Range<Int>, _ length: Int) {
            pieces.append(
                Piece(
                    record: number, log: position, entries: range,
                    body: JournalDirectoryRecord(
                        kind: kind, group: record.group, replica: replica, first: first, last: last,
                        count: UInt32(range.count), offset: 0, length: UInt32(length), checksum: 0)))
        }
        switch record {
        case .append(_, _, let list):
            entries += list.count
            try Self.split(list) { range, length in
                add(
                    .append, list[range.lowerBound].index.rawValue, list[range.upperBound - 1].index.rawValue, range,
                    length)
            }
        case .truncate(_, _, let from): add(.truncate, from.rawValue, 0, 0..<0, 0)
        case .base(_, _, let index, let term): add(.base, index.rawValue, term.rawValue, 0..<0, 0)
        case .hardState: add(.hardState, 0, 0, 0..<0, JournalFormat.hardStateBytes)
        case .tombstone: add(.tombstone, 0, 0, 0..<0, 0)
        }
    }

    /// Cuts entries into ranges that fit a value each, checking that they are consecutive.
    private static func split(_ list: [LogEntry], _ add: (Range<Int>, Int) -> Void) throws(DiskError) {
        let room = JournalFormat.valueBytesMax - JournalFormat.directoryBytes(records: 1)
        var start = 0
        var length = 0
        for position in list.indices {
            let bytes = list[position].encodedBytes
            guard list[position].index == list[0].index + position else {
                throw DiskError(.misuse, "journal: entry \(list[position].index) stands at \(list[0].index + position)")
            }
            guard bytes <= JournalFormat.entryBytesMax else {
                throw DiskError(.misuse, "journal: an entry of \(bytes) bytes is above \(JournalFormat.entryBytesMax)")
            }
            if length + bytes > room && position > start {
                add(start..<position, length)
                start = position
                length = 0
            }
            length += bytes
        }
        if start < list.count { add(start..<list.count, length) }
    }

    /// Fills values with pieces in order, and gives bodies their offsets.
    private mutating func place() {
        var start = 0
        while start < pieces.count {
            var end = start
            var bytes = JournalFormat.directoryBytes(records: 0)
            while end < pieces.count {
                let more = JournalFormat.recordBytes + Int(pieces[end].body.length)
                if end > start && bytes + more > JournalFormat.valueBytesMax { break }
                bytes += more
                end += 1
            }
            var offset = JournalFormat.directoryBytes(records: end - start)
            for position in start..<end {
                pieces[position].body.offset = UInt32(offset)
                offset += Int(pieces[position].body.length)
            }
            values.append(Value(pieces: start..<end, bytes: bytes))
            start = end
        }
    }

    // MARK: Encoding

    /// Writes value `number` into its place: every byte of it.
    mutating func encode(
        _ number: Int, _ records: [JournalRecord], sequence: UInt64, journal: UInt64,
        into place: UnsafeMutableRawBufferPointer
    ) {
        let value = values[number]
        precondition(place.count == value.bytes, "a journal value gets the place it asked for")
        var directory = JournalFormat.headerBytes
        for position in value.pieces {
            let range = pieces[position].entries
            let length = Int(pieces[position].body.length)
            let start = Int(pieces[position].body.offset)
            let body = UnsafeMutableRawBufferPointer(rebasing: place[start..<start + length])
            switch records[pieces[position].record] {
            case .append(_, _, let list):
                var offset = 0
                for entry in range {
                    let bytes = list[entry].encodedBytes
                    list[entry].encode(into: UnsafeMutableRawBufferPointer(rebasing: body[offset..<offset + bytes]))
                    offset += bytes
                }
            case .hardState(_, _, let state): JournalBody.encode(state, into: body)
            case .truncate, .base, .tombstone: break
            }
            pieces[position].body.checksum = crc32c(UnsafeRawBufferPointer(body))
            pieces[position].body.encode(into: place, at: directory)
            directory += JournalFormat.recordBytes
        }
        JournalDirectory.finish(
            place, place: JournalPlace(sequence: sequence, part: UInt32(number)), parts: values.count,
            records: value.pieces.count, journal: journal)
    }

    // MARK: Afterwards

    /// Tells the index what is durable now.
    func apply(_ records: [JournalRecord], sequence: UInt64, to index: inout JournalIndex) {
        for (number, value) in values.enumerated() {
            let place = JournalPlace(sequence: sequence, part: UInt32(number))
            var touched: [Int] = []
            touched.reserveCapacity(value.pieces.count)
            for position in value.pieces {
                let piece = pieces[position]
                if index.logs[piece.log].touch(place) { touched.append(piece.log) }
                switch records[piece.record] {
                case .append(_, _, let list):
                    index.logs[piece.log].append(JournalSegment(piece.body, place: place))
                    // Terms never fall along a log: equal ends, equal all over.
                    let uniform = list[piece.entries.lowerBound].term == list[piece.entries.upperBound - 1].term
                    for entry in uniform ? piece.entries.prefix(1) : piece.entries {
                        index.logs[piece.log].add(
                            term: list[entry].term, first: list[entry].index,
                            last: uniform ? LogIndex(piece.body.last) : list[entry].index)
                    }
                case .truncate(_, _, let from): index.logs[piece.log].truncate(from: from)
                case .base(_, _, let base, let term):
                    index.logs[piece.log].begin(after: base, term: term, sequence: sequence)
                case .hardState(_, _, let state): index.logs[piece.log].set(state, sequence: sequence)
                case .tombstone: index.logs[piece.log].bury()
                }
            }
            index.add(
                JournalValue(
                    place: place, isLastPart: number == values.count - 1, bytes: value.bytes,
                    bodyBytes: value.bytes - JournalFormat.directoryBytes(records: value.pieces.count), logs: touched))
            index.statistics.appendedBytes += value.bytes
        }
        index.statistics.transactions += 1
        index.statistics.appends += 1
        index.statistics.records += records.count
        index.statistics.entries += entries
    }
}

extension JournalSegment {
    init(_ record: JournalDirectoryRecord, place: JournalPlace) {
        self.init(
            first: LogIndex(record.first), last: LogIndex(record.last), bodyFirst: LogIndex(record.first),
            bodyCount: record.count, place: place, offset: record.offset, length: record.length,
            checksum: record.checksum)
    }
}

extension ReplicaLog {
    /// Follows a record of the batch `sequence` without effect on the log itself; throws if it does not fit.
    mutating func plan(_ record: JournalRecord, sequence: UInt64) throws(DiskError) {
        if plannedSequence != sequence || sequence == 0 {
            plannedSequence = sequence
            plannedBase = base
            plannedLast = last
            plannedTombstone = isTombstone
        }
        func refuse(_ what: String) -> DiskError { DiskError(.misuse, "journal: replica \(replica): \(what)") }
        guard record.group == group else { throw refuse("belongs to group \(group), not \(record.group)") }
        // Said again after a crash behind the first time.
        if plannedTombstone, case .tombstone = record { return }
        guard !plannedTombstone else { throw refuse("was removed, and its number is never used again") }
        switch record {
        case .append(_, _, let entries):
            guard let first = entries.first?.index else { return }
            guard first > plannedBase, first <= plannedLast.next else {
                throw refuse("append at \(first) does not fit base \(plannedBase) and last \(plannedLast)")
            }
            plannedLast = first + (entries.count - 1)
        case .truncate(_, _, let from):
            guard from > plannedBase else {
                throw refuse("truncation from \(from) is not above the base \(plannedBase)")
            }
            plannedLast = min(plannedLast, from.previous)
        case .base(_, _, let index, _):
            guard index >= plannedBase else {
                throw refuse("a base of \(index) is below the present one, \(plannedBase)")
            }
            plannedBase = index
            plannedLast = index
        case .hardState: break
        case .tombstone: plannedTombstone = true
        }
    }
}
