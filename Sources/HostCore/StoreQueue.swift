// The store's jobs: in which order they are done, what they leave behind, and what becomes of those that find damage or
// no space. The order of the store's writer, without its thread and its clock.

internal import DequeModule
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

/// What became of a job of the store.
package enum StoreOutcome: Sendable {
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
}

extension StoreJobRunner {
    package func passTime() {}
    package func runsToMerge(of count: Int) -> Range<Int>? { nil }
    package func publishing(_ header: ManifestHeader) {}
    package func published(_ manifest: Manifest) {}

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
            case .merge(let group, _): ended(entry, .mergeFoundNoSpace(group, "\(error)"))
            }
        }
    }

    private func attempt(_ entry: StoreQueue.Entry, in store: Store<Storage>) throws {
        switch entry.job {
        case .checkpoint(let group, let frozen, let header):
            publishing(header)
            published(try store.checkpoint(frozen, header))
            ended(entry, .checkpointed(group, try view(of: header.replica, in: store)))
        case .merge(let group, let replica):
            let range = runsToMerge(of: store.manifest(of: replica)?.runs.count ?? 0)
            // A merge is long; checkpoints of all groups go on between its pieces, and make room for apply.
            let manifest = try store.merge(replica, range: range) {
                try passTime()
                while let checkpoint = nextCheckpoint() { try attemptOrTell(checkpoint, in: store) }
                _ = try reclaimPiece(of: store)
            }
            if let manifest { published(manifest) }
            ended(entry, .merged(group, try view(of: replica, in: store)))
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
