// The sending side of a snapshot: reads from a pinned view what changed after a base, piece by piece.

public import Primitives

/// How far a look through a state has come that counts its records. Goes on with the same view only.
public struct SnapshotCount: Hashable, Sendable {
    public internal(set) var records: UInt64 = 0
    public internal(set) var tombstones: UInt64 = 0
    public internal(set) var isComplete = false
    /// The sort key up to which all were counted; empty: none was.
    var position = Bytes()

    public init() {}
}

/// Reads the snapshot of a replica's durable state, as what changed after a base. Its view pins the runs as long as a copy
/// of it is alive; nothing else is kept, so pieces can be asked for in any order, again, and on any thread. Two replicas
/// whose manifests end at the same index send the same records: a receiver may go on with another sender's pieces.
///
/// A frozen memtable of the view is left out: a snapshot is of what is durable.
public struct SnapshotReader<Storage: Disk>: Sendable {
    public let base: LogIndex
    private let store: Store<Storage>
    private let view: StoreView
    /// Those that reach past the base, newest first.
    private let runs: [Run]

    /// - Parameter base: where the receiver's durable manifest ends; zero: everything, and no tombstones.
    /// - Throws: `.baseBelowHorizon`: then send a full one; `.nothingNewer`.
    public init(_ store: Store<Storage>, _ view: StoreView, base: LogIndex) throws(SnapshotError) {
        let manifest = view.manifest
        guard base < manifest.index else {
            throw SnapshotError(
                .nothingNewer, "replica \(manifest.replica) ends at \(manifest.index): nothing to send after \(base)")
        }
        guard base == .zero || base >= manifest.horizon || isPlanted("increment-below-horizon") else {
            throw SnapshotError(
                .baseBelowHorizon,
                "replica \(manifest.replica) has dropped tombstones through \(manifest.horizon): "
                    + "an increment after \(base) would miss deletions; send a full snapshot")
        }
        self.store = store
        self.view = view
        self.base = base
        runs = view.runs.reversed().filter { $0.descriptor.to > base }
    }

    /// What the pieces will amount to. Cost: when one run alone has all of it, nothing; else those that reach past the
    /// base are read once, to count the records (the receiver's check that none is missing).
    ///
    /// - Parameter pace: called between short read transactions; what it throws aborts.
    /// - Throws: `.corrupt`: this replica can't send a snapshot.
    public func describe(pace: () throws -> Void = {}) throws -> SnapshotDescription {
        var count = SnapshotCount()
        while try !goOn(&count, passedBytesMax: 1 << 20) { try pace() }
        return description(count)
    }

    /// Counts on where a count stands, and says whether it is complete. Cost: one read transaction over some
    /// `passedBytesMax`; nothing when one run alone has all of it.
    ///
    /// - Throws: `.corrupt`: this replica can't send a snapshot.
    @_specialize(where Storage == LMDBDisk)
    public func goOn(_ count: inout SnapshotCount, passedBytesMax: Int) throws -> Bool {
        if count.isComplete { return true }
        if runs.count == 1, runs[0].descriptor.from >= base {
            count.tombstones = base == .zero ? 0 : runs[0].descriptor.tombstones
            count.records = runs[0].descriptor.records - (base == .zero ? runs[0].descriptor.tombstones : 0)
            count.isComplete = true
            return true
        }
        // Apart, so that a transaction that fails leaves the count as it was.
        var (records, tombstones) = (count.records, count.tombstones)
        let through = try walk(behind: count.position, passedBytesMax: passedBytesMax) { record, _, _ in
            records += 1
            if record.isTombstone { tombstones += 1 }
            return true
        }
        (count.records, count.tombstones) = (records, tombstones)
        if let through { count.position = through } else { count.isComplete = true }
        return count.isComplete
    }

    /// What the pieces amount to, as was counted.
    public func description(_ count: SnapshotCount) -> SnapshotDescription {
        precondition(count.isComplete, "a state is described when all of it was counted")
        return SnapshotDescription(view.manifest, base: base, records: count.records, tombstones: count.tombstones)
    }

    /// The piece that begins behind a key; nil: the first. Cost: one read transaction over some `bytesMax`, in which at
    /// most eight times as much is passed over that did not change: a piece may be small, or empty, and yet not the last.
    ///
    /// - Parameter bytesMax: of the piece; a single larger record is a piece by itself.
    /// - Throws: `.misuse` for a key that no record can have; `.corrupt`: this replica can't go on with it.
    public func piece(behind key: RecordKey?, bytesMax: Int = 256 << 10) throws -> SnapshotPiece {
        var none: StateDigest?
        return try piece(behind: key, bytesMax: bytesMax, digest: &none)
    }

    /// The same, with what the records add to a digest of all of the state, if one is given: as they were read, and not
    /// as they are encoded.
    @_specialize(where Storage == LMDBDisk)
    public func piece(behind key: RecordKey?, bytesMax: Int, digest: inout StateDigest?) throws -> SnapshotPiece {
        if let key, key.key.count > RecordLimits.keyBytesMax {
            throw DiskError(
                .misuse,
                "a piece of a snapshot behind a key of \(key.key.count) bytes, of \(RecordLimits.keyBytesMax) at most")
        }
        let after = key?.sortKey ?? Bytes()
        var builder = SnapshotPieceBuilder(of: view.manifest, base: base, after: after, bytesMax: bytesMax)
        let through = try walk(behind: after, passedBytesMax: 8 * bytesMax) { record, cursor, reader in
            guard
                builder.fits(
                    RecordEncoding.encodedBytes(
                        sortKeyBytes: record.sortKey.count, valueBytes: record.overflow?.bytes ?? record.value.count))
            else { return false }
            if let value = try cursor.overflowValue(reader) {
                value.withUnsafeBytes {
                    var whole = record
                    whole.value = $0
                    builder.add(whole)
                    digest?.add(whole)
                }
            } else {
                builder.add(record)
                digest?.add(record)
            }
            return true
        }
        return SnapshotPiece(bytes: builder.finish(through: through), next: through.map { RecordKey(sortKey: $0) })
    }

    /// Calls `body` with the newest record of each key behind a sort key that changed after the base, in order, until it
    /// returns false, or so much was passed. Returns the last key passed; nil: that was the end.
    @inline(__always)
    private func walk(
        behind position: Bytes, passedBytesMax: Int,
        _ body: (RecordView, RunCursor, Storage.Reader) throws -> Bool
    ) throws -> Bytes? {
        try withExtendedLifetime(view) {
            try store.disk.read { reader in
                let cursors = runs.map { RunCursor($0, loadsChunks: false) }
                if !position.isEmpty {
                    for cursor in cursors { try cursor.seek(behind: position, reader) }
                }
                var merge = RunMerge(newestFirst: cursors)
                try merge.load(reader)
                merge.choose()
                var last = ByteWriter(capacity: RecordLimits.sortKeyBytesMax)
                position.withUnsafeBytes { last.write(bytes: $0) }
                var passedBytes = 0
                while let winner = merge.winner, let record = winner.current {
                    if passedBytes >= passedBytesMax { return last.take() }
                    if record.changed > base, base > .zero || !record.isTombstone {
                        guard try body(record, winner, reader) else { return last.take() }
                    }
                    passedBytes += RecordEncoding.encodedBytes(
                        sortKeyBytes: record.sortKey.count, valueBytes: record.value.count)
                    last.removeAll()
                    last.write(bytes: record.sortKey)
                    try merge.pass()
                    if merge.needsLoad { try merge.load(reader) }
                    merge.choose()
                }
                return nil
            }
        }
    }
}
