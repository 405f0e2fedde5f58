// How a journal comes back: base table rows, then one ordered scan of all values. A commit is atomic, so a bad checksum
// is
// damage and never a torn tail: nothing is cut; whoever is concerned is marked.

internal import Primitives

extension Journal {
    static func format(_ disk: Storage, _ identity: HostIdentity) throws {
        let isEmpty = try disk.read { reader in
            try reader.lastKey(from: DiskKey(table: 0), through: DiskKey(table: .max, high: .max, low: .max)) == nil
        }
        if isEmpty { try disk.write { writer in try Self.put(identity, writer) } }
    }

    static func recover(_ disk: Storage) throws -> JournalIndex {
        try disk.read { reader in
            let identity = try reader.withValue(for: JournalFormat.superblockKey) { value in
                guard let value else {
                    let holdsSomething =
                        try reader.lastKey(
                            from: DiskKey(table: 0), through: DiskKey(table: .max, high: .max, low: .max)) != nil
                    throw holdsSomething
                        ? DiskError(.corrupt, "journal: the superblock is missing: the disk's journal counts as lost")
                        : DiskError(.refused, "journal: the environment is empty and was never formatted")
                }
                return try HostIdentity(superblock: value)
            }
            var recovery = JournalRecovery(identity: identity)
            try reader.withValue(for: JournalFormat.trimKey) { recovery.readTrim($0) }
            try reader.scan(from: JournalBaseTable.firstRowKey, through: JournalBaseTable.lastRowKey) { key, value in
                recovery.readRow(key, value)
                return true
            }
            recovery.finishRows()
            try reader.scan(from: JournalFormat.firstValueKey, through: JournalFormat.lastValueKey) { key, value in
                recovery.readValue(key, value)
                return true
            }
            return recovery.finish(keysOnDisk: try reader.count())
        }
    }
}

/// The scan's state. Takes any bytes.
struct JournalRecovery {
    private var index: JournalIndex
    private var replicasExpected = 0
    /// Where the next value must stand.
    private var expected = JournalPlace(sequence: 1, part: 0)

    /// Keys that were met, the superblock's among them.
    private var keysMet = 1

    init(identity: HostIdentity) { index = JournalIndex(identity: identity) }

    mutating func readTrim(_ value: UnsafeRawBufferPointer?) {
        guard let value else { return }
        keysMet += 1
        guard let trim = JournalBaseTable.decodeTrim(value, journal: index.identity.journal), trim.deletedThrough < .max
        else {
            index.lose(through: .max)
            return
        }
        replicasExpected = trim.replicas
        index.deletedThrough = trim.deletedThrough
        index.lastSequence = trim.deletedThrough
        expected.sequence = trim.deletedThrough + 1
    }

    mutating func readRow(_ key: DiskKey, _ value: UnsafeRawBufferPointer) {
        keysMet += 1
        let replica = ReplicaID(key.high)
        if key.low == 0 {
            guard let log = JournalBaseTable.decodeRow(value, replica: replica) else {
                index.lose(through: .max)
                return
            }
            index.add(log)
            return
        }
        // Chunks follow their row, ascending.
        guard let position = index.position(of: replica), index.logs[position].chunkRows.contains(key.low),
            let segment = index.logs[position].segments.first(where: { $0.place.part == key.low })
        else {
            if let position = index.position(of: replica) {
                index.logs[position].isDamaged = true
            } else {
                index.lose(through: .max)
            }
            return
        }
        guard let body = segment.checkedBody(in: value), index.logs[position].readTerms(of: segment, in: body) else {
            index.logs[position].isDamaged = true
            return
        }
    }

    /// Every row and every chunk that was promised has been seen: a missing chunk leaves its terms missing.
    mutating func finishRows() {
        if index.logs.count != replicasExpected { index.lose(through: .max) }
        for position in index.logs.indices {
            let log = index.logs[position]
            if log.chunksRead != log.segments.count || !log.isContiguous { index.logs[position].isDamaged = true }
        }
    }

    mutating func readValue(_ key: DiskKey, _ value: UnsafeRawBufferPointer) {
        keysMet += 1
        let directory: JournalDirectory
        do throws(DecodingFailure) {
            directory = try JournalDirectory(value, key: key, journal: index.identity.journal)
        } catch {
            index.lose(through: key.high)
            index.add(
                JournalValue(
                    place: JournalPlace(sequence: key.high, part: key.low), isLastPart: true, bytes: value.count,
                    bodyBytes: 0, logs: []))
            expected = JournalPlace(sequence: key.high &+ 1, part: 0)
            return
        }
        if directory.place != expected { index.lose(through: directory.place.sequence) }
        let isLastPart = directory.place.part == directory.parts - 1
        expected =
            isLastPart
            ? JournalPlace(sequence: directory.place.sequence &+ 1, part: 0)
            : JournalPlace(sequence: directory.place.sequence, part: directory.place.part + 1)
        var touched: [Int] = []
        for record in directory.records {
            let position = index.position(of: record.replica, group: record.group)
            if index.logs[position].touch(directory.place) { touched.append(position) }
            index.logs[position].read(record, at: directory.place, in: value)
        }
        let bodies = directory.records.reduce(0) { $0 + Int($1.length) }
        index.add(
            JournalValue(
                place: directory.place, isLastPart: isLastPart, bytes: value.count, bodyBytes: bodies, logs: touched))
    }

    consuming func finish(keysOnDisk: Int) -> JournalIndex {
        // A damaged page of the tree may hide values from a scan, the newest too, which no gap shows.
        if keysMet != keysOnDisk { index.lose(through: .max) }
        // A commit of several values lacks its last ones, or the value that prefix deletion always keeps is not there.
        if expected.part != 0 || (index.deletedThrough > 0 && index.liveValues.isEmpty) { index.lose(through: .max) }
        for position in index.logs.indices where !index.logs[position].isContiguous {
            index.logs[position].isDamaged = true
        }
        return index
    }
}

extension ReplicaLog {
    /// What a record found on disk does. A body that is not what was written marks the replica, and keeps its place in
    /// the log.
    mutating func read(_ record: JournalDirectoryRecord, at place: JournalPlace, in value: UnsafeRawBufferPointer) {
        // A removed replica's older entries may still be there.
        guard !isTombstone else { return }
        guard record.group == group else {
            isDamaged = true
            return
        }
        guard let body = record.checkedBody(in: value) else {
            isDamaged = true
            if record.kind == .append { append(JournalSegment(record, place: place)) }
            return
        }
        switch record.kind {
        case .append:
            let segment = JournalSegment(record, place: place)
            append(segment)
            if !readTerms(of: segment, in: body) { isDamaged = true }
        case .truncate: truncate(from: LogIndex(record.first))
        case .base:
            guard record.first < JournalFormat.indexMax else {
                isDamaged = true
                return
            }
            begin(after: LogIndex(record.first), term: Term(record.last), sequence: place.sequence)
        case .hardState:
            if let state = JournalBody.hardState(body) {
                set(state, sequence: place.sequence)
            } else {
                isDamaged = true
            }
        case .tombstone: bury()
        }
    }

    /// Learns the terms of a segment's live entries. False if the body is not made of entries.
    mutating func readTerms(of segment: JournalSegment, in body: UnsafeRawBufferPointer) -> Bool {
        chunksRead += 1
        var latest: Term?
        return JournalBody.walk(body, count: Int(segment.bodyCount)) { number, _, _, term in
            let index = segment.bodyFirst + number
            guard index >= segment.first, index <= segment.last, index > base, term != latest else { return true }
            latest = term
            add(term: term, first: index, last: index)
            return true
        }
    }
}
