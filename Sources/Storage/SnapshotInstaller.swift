// The receiving side of a snapshot: pieces become one run, and one edit of the manifest makes it the replica's

public import Primitives

/// How far an installation has come. Volatile: after a restart it begins anew.
public struct SnapshotProgress: Hashable, Sendable {
    /// The piece behind this key is awaited; nil: the first.
    public var position: RecordKey?
    /// All pieces have come: `finish`.
    public var isComplete: Bool
    /// Records so far.
    public var records: UInt64
}

/// Installs a snapshot into a replica that the store has (a new one: `Store.start` it with an empty manifest first). What
/// the store has of a damaged one stays until a whole snapshot takes its place. For the store thread; at most one at a time
/// for a replica.
///
/// What becomes durable, in this order:
///
/// 1. chunks of the new run, while pieces come. No manifest names them: after a crash they are garbage, and collected
///    when the store is opened.
/// 2. In `finish`, the manifest: from now on the replica's state ends at the snapshot's index.
/// 3. The caller's `base` record in the journal, `.base(group, replica, index, term)`, ahead of any later append; but only
///    if the log lacks the entry (index, term). If it has that entry, what follows it was acknowledged and stays.
///
/// A restart between 2 and 3 finds a manifest that the log does not lead to, and makes up for 3 by the same rule
/// (`ReplicaStartPlan` in HostCore). For that to be safe, the caller refuses a snapshot below the log's base or at or
/// below the applied index (of a damaged state: below its manifest), and gives `finish` a commit of the journal that is durable.
///
/// While it goes on, the replica's reads and merges do too. A checkpoint of the replica makes an increment fail: the
/// caller holds it back. After `finish` the replica's memtables are void: what they have is in the snapshot.
/// Unchecked: its state belongs to the store thread, as the doc says.
public final class SnapshotInstaller<Storage: Disk>: @unchecked Sendable {
    public let snapshot: SnapshotDescription
    public let replica: ReplicaID
    private let store: Store<Storage>
    private let run: RunID
    /// What the store has of the replica can't be read.
    private let isAnew: Bool
    private var writer: RunWriter
    private var pending = Store<Storage>.PendingChunks()
    /// The sort key behind which the next piece begins; empty: the first.
    private var position = Bytes()
    private var isComplete = false
    private var hasEnded = false
    /// Sub state machines of which it has had records that are not deleted.
    public private(set) var machines: Set<SubMachineNumber> = []
    private var lastMachine: SubMachineNumber?

    /// Begins. Memory: 10 bits for each record, some hundredth of the records for the index, and one transaction.
    ///
    /// - Throws: `ManifestConflict` if the snapshot does not fit the replica's manifest: it is not newer, or an increment
    ///   on another base. `DiskError` if the replica is damaged, has too many runs, or the store has no space.
    public init(_ store: Store<Storage>, _ snapshot: SnapshotDescription, replica: ReplicaID) throws {
        isAnew = snapshot.base == .zero && store.isDamaged(replica)
        if !isAnew {
            let manifest = try store.current(replica)
            let edit = ManifestEdit.install(
                nil, base: snapshot.base, snapshot.header(replica: replica, journal: 0, journalSequence: 0),
                horizon: snapshot.horizon)
            _ = try edit.applied(to: manifest, replica: replica)
            guard snapshot.base == .zero || manifest.runs.count < Manifest.runsMax else {
                throw DiskError(.misuse, "replica \(replica) has \(manifest.runs.count) runs: merge first")
            }
        }
        self.snapshot = snapshot
        self.replica = replica
        self.store = store
        run = try store.takeRun()
        writer = RunWriter(run: run, replica: replica, recordsMax: Int(snapshot.records))
    }

    deinit { abort() }

    public var progress: SnapshotProgress {
        SnapshotProgress(
            position: position.isEmpty ? nil : RecordKey(sortKey: position), isComplete: isComplete,
            records: writer.records)
    }

    /// Takes the next piece. One that came before, as a whole or in part, is taken as far as it is new. Writes at most a
    /// transaction or two.
    ///
    /// - Throws: `SnapshotError`: nothing has changed, but for `.wrongCount`. `DiskError`: the installation has ended, as
    ///   after `abort`.
    @discardableResult @_specialize(where Storage == LMDBDisk)
    public func accept(_ bytes: Bytes) throws -> SnapshotProgress {
        try checkOpen()
        let piece = try ReceivedPiece(bytes, of: snapshot)
        guard piece.after <= position else {
            throw SnapshotError(
                .gap, "expected the piece behind the position reached, found a later one: ask for that one")
        }
        if isComplete || !piece.isLast && piece.through <= position { return progress }
        do {
            try piece.forEach(behind: position) { record in
                try writer.add(record)
                if record.machine != lastMachine, !record.isTombstone {
                    machines.insert(record.machine)
                    lastMachine = record.machine
                }
                if pending.bytes + writer.completeBytes
                    >= store.settings.transactionBytesMax - Chunk.bytesMax
                {
                    try store.drain(&writer, &pending, .growth) {}
                }
            }
            // More would be too many for the filter, too.
            if writer.records > snapshot.records { throw wrongCount }
        } catch {
            abort()
            throw error
        }
        isComplete = piece.isLast
        if !piece.isLast { position = piece.through.compacted() }
        return progress
    }

    /// Makes the snapshot the replica's state: for a full one all its runs are replaced. The installation has ended
    /// afterwards, whatever comes of it; when it throws, the manifest is as before (unless the code is `.failed`: then
    /// nobody knows before a restart).
    ///
    /// - Parameters:
    ///   - journal: this host's journal, and a commit of it that is durable.
    ///   - pace: as in `Store.checkpoint`; must leave this installation alone.
    /// - Throws: `.incomplete` (then it goes on), `.wrongCount`; `ManifestConflict` if the replica's manifest no longer
    ///   ends at the base, has passed the snapshot, or is gone; `DiskError`.
    @discardableResult
    public func finish(journal: UInt64, journalSequence: UInt64, pace: () throws -> Void = {}) throws -> Manifest {
        try checkOpen()
        guard isComplete else {
            throw SnapshotError(.incomplete, "expected all pieces of the snapshot, found no last one")
        }
        do {
            guard writer.records == snapshot.records, writer.tombstones == snapshot.tombstones else {
                throw wrongCount
            }
            let descriptor = writer.finish(from: snapshot.base, to: snapshot.index)
            try store.drain(&writer, &pending, .growth, pace)
            let header = snapshot.header(replica: replica, journal: journal, journalSequence: journalSequence)
            // It may have been deleted meanwhile.
            guard !isAnew || store.isDamaged(replica) else {
                throw ManifestConflict(replica: replica, expected: "what can't be read of it", found: "none")
            }
            let edit: ManifestEdit =
                isAnew
                ? .installAnew(descriptor, header, horizon: snapshot.horizon)
                : .install(descriptor, base: snapshot.base, header, horizon: snapshot.horizon)
            let manifest = try store.commit(pending.chunks, [(replica, edit)])[0]!
            hasEnded = true
            return manifest
        } catch {
            abort()
            throw error
        }
    }

    /// Ends the installation; its chunks go by and by, with `Store.reclaim`: there may be very many. Nothing happens if it
    /// has ended.
    public func abort() {
        guard !hasEnded else { return }
        hasEnded = true
        _ = writer.takeComplete()
        pending = Store<Storage>.PendingChunks()
        store.graveyard.bury(run)
    }

    private func checkOpen() throws(SnapshotError) {
        if hasEnded {
            throw SnapshotError(.ended, "the installation of this snapshot has ended: begin a new one")
        }
    }

    private var wrongCount: SnapshotError {
        SnapshotError(
            .wrongCount,
            "expected \(snapshot.records) records, \(snapshot.tombstones) of them tombstones, found "
                + "\(writer.records) and \(writer.tombstones)")
    }
}
