// The store's jobs: in which order they are done, what they leave behind, and what becomes of those that find damage or
// no space. The order of the store's writer, without its thread and its clock.

internal import DequeModule
import Messages
package import Primitives
package import Storage

/// Jobs that are not begun, in their order. Bounded by the cores' bounds on jobs under way.
package struct StoreQueue: Sendable {
    package struct Entry: Sendable {
        package let job: StoreJob
        /// The event loop that asked for it.
        package let loop: Int
        /// It is a checkpoint that found no space when it was last tried.
        fileprivate var waitsForSpace = false

        package init(_ job: StoreJob, from loop: Int) {
            self.job = job
            self.loop = loop
        }
    }

    private var entries: Deque<Entry> = []
    private var waitingForSpace = 0

    package init() {}

    /// Checkpoints wait for space, whatever was measured: there may be a quota, or a limit of the file's own.
    package var isFull: Bool { waitingForSpace > 0 }

    package mutating func append(_ entry: Entry) { entries.append(entry) }

    package mutating func popFirst() -> Entry? { entries.popFirst() }

    package mutating func popFirstCheckpoint() -> Entry? {
        let place = entries.firstIndex { entry in
            if case .checkpoint = entry.job { true } else { false }
        }
        return place.map { entries.remove(at: $0) }
    }

    /// A checkpoint found no space.
    ///
    /// - Returns: what is to be appended some time later.
    package mutating func foundNoSpace(_ entry: Entry) -> Entry {
        var again = entry
        again.waitsForSpace = true
        if !entry.waitsForSpace { waitingForSpace += 1 }
        return again
    }

    /// An entry came to its end, whatever that was.
    package mutating func ended(_ entry: Entry) {
        if entry.waitsForSpace { waitingForSpace -= 1 }
    }
}

/// Snapshots that are on their way into the store, by replica.
package final class SnapshotIntakes<Storage: Disk>: @unchecked Sendable {
    // @unchecked: belongs to the store's thread.
    private var intakes: [ReplicaID: SnapshotInstaller<Storage>] = [:]

    package init() {}

    /// Puts a piece beside the replica's state. One that can't be read stays until the new one is whole and takes its place:
    /// there may be no other in the end. What it had is deleted by the next start of the host that finds nothing damaged.
    ///
    /// - Returns: where the next one begins, and whether this was the last.
    fileprivate func take(
        _ piece: SnapshotPieceToTake, in store: Store<Storage>, besideJournal journal: UInt64
    ) throws -> (after: Bytes, isLast: Bool) {
        if let description = piece.description {
            drop(piece.replica)
            if store.manifest(of: piece.replica) == nil, !store.isDamaged(piece.replica) {
                // Its members come with the state.
                try store.start(
                    .first(piece.group, piece.replica, Configuration(voters: []), journal: journal))
            }
            intakes[piece.replica] = try SnapshotInstaller(store, description, replica: piece.replica)
        }
        guard let installer = intakes[piece.replica] else {
            throw DecodingFailure(expected: "the beginning of a snapshot", found: "a later piece")
        }
        let progress = try installer.accept(piece.records)
        guard let position = progress.position else { return (Bytes(), progress.isComplete) }
        let after = RecordPosition(slot: position.slot, machine: position.machine, key: position.key).encoded()
        return (after, progress.isComplete)
    }

    fileprivate func install(_ replica: ReplicaID, _ stand: (name: UInt64, sequence: UInt64)) throws -> (
        Manifest, machines: [SubMachineNumber]
    ) {
        guard let installer = intakes.removeValue(forKey: replica) else {
            throw DecodingFailure(expected: "a whole snapshot", found: "none")
        }
        let manifest = try installer.finish(journal: stand.name, journalSequence: stand.sequence)
        return (manifest, installer.machines.sorted())
    }

    fileprivate func index(_ replica: ReplicaID) -> LogIndex? { intakes[replica]?.snapshot.index }

    fileprivate func drop(_ replica: ReplicaID) { intakes.removeValue(forKey: replica)?.abort() }
}

/// What became of a job of the store.
package enum StoreOutcome: Sendable {
    case snapshotTaken(GroupID, after: Bytes, isLast: Bool)
    /// The machines that the snapshot had records of, ascending.
    case snapshotInstalled(GroupID, machines: [SubMachineNumber])
    /// Nothing of it is left.
    case snapshotFailed(GroupID, String)
    case removed(GroupID)
    case checkpointed(GroupID, StoreView)
    case merged(GroupID, StoreView)
    /// There is too little space for a merge, and why.
    case mergeFoundNoSpace(GroupID, String)
    /// What the replica has on disk can't be read: its job came to nothing, those of others go on.
    case damaged(StoreJob, String)
}

/// Who carries out the store's jobs, one at a time: the store's thread, or a simulated one.
package protocol StoreJobRunner {
    associatedtype Storage: Disk

    /// The first checkpoint that waits, no longer in the queue.
    func nextCheckpoint() -> StoreQueue.Entry?
    func ended(_ entry: StoreQueue.Entry, _ outcome: StoreOutcome)
    /// Snapshots on their way into this store.
    var intakes: SnapshotIntakes<Storage> { get }
    /// The journal's name, and its last durable commit.
    var journalStand: (name: UInt64, sequence: UInt64) { get }
    /// Nothing of a checkpoint is on disk. It is to be done some time later, behind those that came meanwhile.
    func foundNoSpace(_ entry: StoreQueue.Entry, _ error: DiskError)

    // For a simulator; a real one leaves them as they are.

    /// Between two pieces of a merge.
    func passTime() throws
    /// Which runs of so many to merge; nil: all, if there are too many.
    func runsToMerge(of count: Int) -> Range<Int>?
    /// A manifest is to be published, or one was. Called as it happens.
    func publishing(_ header: ManifestHeader)
    func published(_ manifest: Manifest)
    /// A manifest comes from another host, or did.
    func installing(_ replica: ReplicaID, at index: LogIndex)
    func installed(_ manifest: Manifest)
}

extension StoreJobRunner {
    package func passTime() {}
    package func runsToMerge(of count: Int) -> Range<Int>? { nil }
    package func publishing(_ header: ManifestHeader) {}
    package func published(_ manifest: Manifest) {}
    package func installing(_ replica: ReplicaID, at index: LogIndex) {}
    package func installed(_ manifest: Manifest) {}

    /// Does a job, and deletes some of what it left behind.
    ///
    /// - Throws: what must not happen to a disk; nothing of it may be believed any more.
    package func carryOut(_ entry: StoreQueue.Entry, in store: Store<Storage>) throws {
        try attemptOrTell(entry, in: store)
        // As fast as merges replace runs, or the file would grow without end.
        for _ in 0..<reclaimsPerJob where try reclaimPiece(of: store) == 0 { break }
    }

    private func attemptOrTell(_ entry: StoreQueue.Entry, in store: Store<Storage>) throws {
        do { try attempt(entry, in: store) } catch let error as DiskError where error.code == .corrupt {
            ended(entry, .damaged(entry.job, "\(error)"))
        } catch let error as DiskError where error.code == .full {
            // Neither the manifest is there nor, in the end, the chunks that no manifest names.
            switch entry.job {
            case .checkpoint: foundNoSpace(entry, error)
            case .merge(let group, _, _): ended(entry, .mergeFoundNoSpace(group, "\(error)"))
            case .takeSnapshot, .installSnapshot, .dropSnapshot, .removeReplica: throw error
            }
        }
    }

    private func attempt(_ entry: StoreQueue.Entry, in store: Store<Storage>) throws {
        switch entry.job {
        case .checkpoint(let group, let frozen, let header):
            publishing(header)
            published(try store.checkpoint(frozen, header))
            ended(entry, .checkpointed(group, try view(of: header.replica, in: store)))
        case .merge(let group, let replica, let tombstonesThrough):
            let range = runsToMerge(of: store.manifest(of: replica)?.runs.count ?? 0)
            // A merge is long; checkpoints of all groups go on between its pieces, and make room for apply.
            let manifest = try store.merge(replica, range: range, tombstonesThrough: tombstonesThrough) {
                try passTime()
                while let checkpoint = nextCheckpoint() { try attemptOrTell(checkpoint, in: store) }
                _ = try reclaimPiece(of: store)
            }
            if let manifest { published(manifest) }
            ended(entry, .merged(group, try view(of: replica, in: store)))
        case .takeSnapshot(let piece):
            try orTell(entry, piece.group, piece.replica) {
                let (after, isLast) = try intakes.take(piece, in: store, besideJournal: journalStand.name)
                ended(entry, .snapshotTaken(piece.group, after: after, isLast: isLast))
            }
        case .installSnapshot(let group, let replica):
            try orTell(entry, group, replica) {
                if let index = intakes.index(replica) { installing(replica, at: index) }
                let (manifest, machines) = try intakes.install(replica, journalStand)
                installed(manifest)
                ended(entry, .snapshotInstalled(group, machines: machines))
            }
        case .dropSnapshot(_, let replica): intakes.drop(replica)
        case .removeReplica(let group, let replica):
            intakes.drop(replica)
            try store.remove(replica)
            ended(entry, .removed(group))
        }
    }

    /// A snapshot that does not fit, or for which there is no room, comes to nothing; the replica stays what it was.
    private func orTell(
        _ entry: StoreQueue.Entry, _ group: GroupID, _ replica: ReplicaID, _ body: () throws -> Void
    ) throws {
        do { try body() } catch {
            switch error {
            case is SnapshotError, is ManifestConflict, is DecodingFailure: break
            case let error as DiskError where error.code == .full || error.code == .corrupt: break
            default: throw error
            }
            intakes.drop(replica)
            ended(entry, .snapshotFailed(group, "\(error)"))
        }
    }

    /// Deletes a piece of what no manifest names.
    ///
    /// - Returns: how much is left, as `Store.reclaim`; 0 without space.
    package func reclaimPiece(of store: Store<Storage>) throws -> Int {
        do { return try store.reclaim() } catch let error as DiskError where error.code == .full { return 0 }
    }

    private func view(of replica: ReplicaID, in store: Store<Storage>) throws -> StoreView {
        guard let view = store.view(replica) else {
            throw DiskError(.misuse, "the store has no manifest of replica \(replica) that it has just written")
        }
        return view
    }
}

/// Pieces of dead chunks deleted after each job, each some 16 MiB: above what a checkpoint writes.
private var reclaimsPerJob: Int { 8 }
