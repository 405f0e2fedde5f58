// The Raft log of all groups on one disk: one durable commit for all that queued up meanwhile. Owns the order of
// commits,
// the index and the rules of recovery; knows nothing of consensus or of LMDB.
//
//   append ──▶ values by commit sequence ──▶ index in memory: replica ──▶ segments (range, value, offset)
//                  │ prefix deletion                                 ▲
//                  ▼                                                 │ one ordered scan at start
//              base table (hard state, base, tombstones, live rest) ─┘

public import Primitives
import Synchronization

/// A journal on a disk of its own.
///
/// `append`, `trim` and `update` belong to one thread, the commit thread; everything else may be called from any.
/// An error with the code `.failed` means that nothing unacknowledged may be believed: stop and open anew.
public final class Journal<Storage: Disk>: Sendable {
    let disk: Storage
    let index: Mutex<JournalIndex>
    /// The commit thread's own.
    private let batch = Mutex(JournalBatch())
    /// Held while live entries move, so that a reader who lost sight of one can look again afterwards.
    let moving = Mutex(())

    /// Opens the journal: makes everything in it durable first, so that a page cache is not taken for a disk, then
    /// verifies
    /// and scans it. An empty environment is formatted when an identity is given; otherwise the identity is ignored.
    ///
    /// Throws `.refused` for a newer format or an environment that was not formatted, `.corrupt` when the superblock is
    /// damaged. Damage further in is not an error: see `isDamaged`.
    public init(disk: Storage, formatting: HostIdentity?) throws {
        try disk.flush()
        if let formatting { try Self.format(disk, formatting) }
        self.disk = disk
        index = Mutex(try Self.recover(disk))
    }

    // MARK: What it holds

    public var identity: HostIdentity { index.withLock { $0.identity } }

    /// Replaces the identity durably. The journal's own name stays.
    public func update(_ identity: HostIdentity) throws {
        guard identity.journal == self.identity.journal else {
            throw DiskError(.misuse, "journal: its name \(hexadecimal(self.identity.journal)) never changes")
        }
        // Also on a full disk: a host that cannot start there cannot tidy up either.
        try disk.write(.upkeep) { writer in try Self.put(identity, writer) }
        index.withLock {
            $0.identity = identity
            $0.statistics.transactions += 1
        }
    }

    /// The directory of a value could not be read or a value is missing: every replica that was on this disk when the
    /// journal was opened is damaged.
    public var isDamaged: Bool { index.withLock { $0.isDamaged } }

    /// Sequence of the last commit; 0 before the first.
    public var lastSequence: UInt64 { index.withLock { $0.lastSequence } }

    /// Every replica that the journal knows, removed ones too, sorted by replica.
    public func recovered() -> [RecoveredLog] {
        index.withLock { index in
            index.logs.map { $0.summary(isDamaged: index.mayLack($0.replica)) }.sorted { $0.replica < $1.replica }
        }
    }

    /// One replica as it stands now; its `base` shows what prefix deletion has left. Nil if it is not known.
    public func log(of replica: ReplicaID) -> RecoveredLog? {
        index.withLock { index in
            index.position(of: replica).map { index.logs[$0].summary(isDamaged: index.mayLack(replica)) }
        }
    }

    /// Whether the journal may have lost records of this replica that nobody can name.
    public func mayLack(_ replica: ReplicaID) -> Bool { index.withLock { $0.mayLack(replica) } }

    /// Whether something was lost that no mark covers: of every replica on this disk, as far as anybody knows.
    public var isLossUnmarked: Bool {
        index.withLock { $0.isDamaged && $0.damagedThrough > ($0.mark?.sequence ?? 0) }
    }

    /// Whether a mark can cover what was lost: the damage has a place.
    public var canBeMarked: Bool { index.withLock { $0.damagedThrough < .max } }

    /// From the store, where it is durable: replicas above the mark's began behind its sequence, and are not concerned
    /// by what was lost before.
    public func heed(_ mark: JournalLoss?) { index.withLock { $0.mark = mark } }

    public var statistics: JournalStatistics {
        index.withLock { index in
            var statistics = index.statistics
            statistics.baseBytes = index.baseBytes
            return statistics
        }
    }

    // MARK: Writing

    /// Writes all records in one durable commit and returns its sequence. No records, no commit.
    ///
    /// Throws `.misuse` before anything is written when a record does not fit its replica's log (a gap, an entry at or
    /// below the base, a removed replica). Cost: one pass over the entries, directly into the disk's memory.
    /// - Parameter identity: takes the place of the journal's in the same commit, as in `update`.
    public func append(_ records: [JournalRecord], renaming identity: HostIdentity? = nil) throws -> UInt64 {
        if let identity {
            guard identity.journal == self.identity.journal else {
                throw DiskError(.misuse, "journal: its name \(hexadecimal(self.identity.journal)) never changes")
            }
            guard !records.isEmpty else {
                try update(identity)
                return lastSequence
            }
        }
        guard !records.isEmpty else { return lastSequence }
        return try batch.withLock { batch in
            let (sequence, journal, known) = try index.withLock { index in
                let known = index.logs.count
                try batch.plan(records, in: &index)
                return (index.lastSequence + 1, index.identity.journal, known)
            }
            guard !batch.values.isEmpty else {
                guard identity == nil else {
                    throw DiskError(.misuse, "journal: records of nothing beside an identity")
                }
                return sequence - 1
            }
            do {
                try disk.write { writer in
                    for number in batch.values.indices {
                        let key = DiskKey(table: JournalFormat.valueTable, high: sequence, low: UInt32(number))
                        try writer.put(key, count: batch.values[number].bytes, append: true) { place in
                            batch.encode(number, records, sequence: sequence, journal: journal, into: place)
                        }
                    }
                    if let identity { try Self.put(identity, writer) }
                }
            } catch let error as DiskError where error.code == .failed && isPlanted("retry-after-eio") {
                try disk.flush()
            } catch let error as DiskError where error.code == .full && isPlanted("full-disk-ignored") {
                // Nothing of it is on the disk.
            } catch {
                index.withLock { index in
                    index.removeLogs(from: known)
                    for position in index.logs.indices { index.logs[position].plannedSequence = 0 }
                }
                throw error
            }
            index.withLock {
                batch.apply(records, sequence: sequence, to: &$0)
                if let identity { $0.identity = identity }
            }
            return sequence
        }
    }

    // MARK: Reading

    /// Entries from `from` on, through `through` at most, of at most `bytesMax` bytes as encoded but at least one.
    /// Empty when
    /// the log does not have `from` (any more). Throws `.corrupt` when a checksum is wrong; the replica is damaged from
    /// then on.
    public func entries(
        of replica: ReplicaID, from: LogIndex, through: LogIndex, bytesMax: Int
    ) throws -> [LogEntry] {
        do {
            return try readEntries(of: replica, from: from, through: through, bytesMax: bytesMax)
        } catch let error as DiskError where error.code == .corrupt {
            // Perhaps the entries moved between a look at the index and a look at the disk; then they are found now.
        }
        return try moving.withLock { _ in
            do {
                return try readEntries(of: replica, from: from, through: through, bytesMax: bytesMax)
            } catch let error as DiskError where error.code == .corrupt {
                index.withLock { index in
                    if let position = index.position(of: replica) { index.logs[position].isDamaged = true }
                }
                throw error
            }
        }
    }

    private func readEntries(
        of replica: ReplicaID, from: LogIndex, through: LogIndex, bytesMax: Int
    ) throws -> [LogEntry] {
        let segments: [JournalSegment] = index.withLock { index in
            guard let position = index.position(of: replica) else { return [] }
            let log = index.logs[position]
            guard from > log.base, from <= through, from <= log.last else { return [] }
            var chosen: [JournalSegment] = []
            var bytes = 0
            for segment in log.segments[log.position(of: from)...] {
                guard segment.first <= through, bytes < bytesMax || chosen.isEmpty else { break }
                // The first counts not at all: how much of it lies above `from` shows when it is read.
                if !chosen.isEmpty { bytes += segment.liveBytes }
                chosen.append(segment)
            }
            return chosen
        }
        guard let first = segments.first else { return [] }
        guard first.first <= from else {
            throw DiskError(.corrupt, "journal: entry \(from) of replica \(replica) is missing")
        }
        return try disk.read { reader in
            var entries: [LogEntry] = []
            var room = bytesMax
            for segment in segments {
                let isComplete = try reader.withValue(for: segment.place.key(of: replica)) { value in
                    guard let value, let body = segment.checkedBody(in: value) else {
                        throw DiskError(
                            .corrupt,
                            "journal: entries \(segment.first) to \(segment.last) of replica \(replica) cannot be read")
                    }
                    return try segment.decode(
                        body, from: max(from, segment.first), through: min(through, segment.last), room: &room,
                        into: &entries)
                }
                if !isComplete { break }
            }
            return entries
        }
    }

    static func put(_ identity: HostIdentity, _ writer: borrowing Storage.Writer) throws {
        var superblock = ByteWriter()
        identity.encode(into: &superblock)
        try writer.put(JournalFormat.superblockKey, superblock.take())
    }
}

extension DiskWriter {
    func put(_ key: DiskKey, _ value: Bytes) throws {
        try put(key, count: value.count, append: false) { place in value.withUnsafeBytes { place.copyMemory(from: $0) }
        }
    }
}

extension JournalSegment {
    func checkedBody(in value: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        JournalBody.checked(in: value, offset: offset, length: length, checksum: checksum)
    }

    /// Offsets of the encoded entries `from` to `through` in a body; fewer when they take more than `bytesMax`, but one
    /// at least.
    func range(
        in body: UnsafeRawBufferPointer, from: LogIndex, through: LogIndex, bytesMax: Int
    ) throws(DiskError) -> (bytes: Range<Int>, count: Int) {
        var start = 0
        var end = 0
        var count = 0
        let isSound = JournalBody.walk(body, count: Int(bodyCount)) { number, offset, bytes, _ in
            let index = bodyFirst + number
            if index < from { return true }
            if index > through { return false }
            if count == 0 { start = offset } else if offset + bytes - start > bytesMax { return false }
            end = offset + bytes
            count += 1
            return true
        }
        guard isSound, count > 0 else {
            throw DiskError(.corrupt, "journal: a body is not made of \(bodyCount) entries")
        }
        return (start..<end, count)
    }

    /// Appends entries to `entries`, copied out of the body at once; says whether all of them fitted in.
    func decode(
        _ body: UnsafeRawBufferPointer, from: LogIndex, through: LogIndex, room: inout Int,
        into entries: inout [LogEntry]
    ) throws -> Bool {
        let (bytes, count) = try range(in: body, from: from, through: through, bytesMax: max(room, 0))
        if bytes.count > room && !entries.isEmpty { return false }
        var reader = ByteReader(Bytes(copying: UnsafeRawBufferPointer(rebasing: body[bytes])))
        for number in 0..<count {
            do throws(DecodingFailure) {
                entries.append(try LogEntry(index: from + number, from: &reader))
            } catch {
                throw DiskError(.corrupt, "journal: \(error)")
            }
        }
        room -= bytes.count
        return from + (count - 1) == through && room > 0
    }
}
