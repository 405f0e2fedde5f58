// What the store thread does: checkpoints, merges, removal, and the deletion of what nobody reads any more.

public import Primitives
import Synchronization

/// What a batch of checkpoints publishes for one replica.
public struct CheckpointPart: Sendable {
    public var frozen: FrozenMemtable
    public var header: ManifestHeader
    public init(_ frozen: FrozenMemtable, _ header: ManifestHeader) {
        self.frozen = frozen
        self.header = header
    }
}

extension Store {
    /// A new replica's first, empty manifest, durably. `ManifestConflict` if there is one.
    @discardableResult
    public func start(_ header: ManifestHeader) throws -> Manifest {
        if let error = state.withLock({ $0.damaged[header.replica] }) { throw error }
        return try commit([], [(header.replica, .create(header))])[0]!
    }

    /// The same for several, in one transaction.
    public func start(_ headers: [ManifestHeader]) throws {
        for header in headers {
            if let error = state.withLock({ $0.damaged[header.replica] }) { throw error }
        }
        try commit([], headers.map { ($0.replica, .create($0)) })
    }

    /// Makes frozen memtables durable as runs, each replica at its header's index: chunks first, in transactions of at
    /// most `transactionBytesMax`, then all manifests in one. Small ones share that one with their chunks. When it
    /// throws, none of the manifests has changed (unless the code is `.failed`: then nobody knows before a restart).
    ///
    /// - Parameter pace: called between transactions; may do other work of the store thread, or wait. What it throws
    ///   aborts.
    /// - Returns: the new manifests, in the order of `parts`.
    @discardableResult @_specialize(where Storage == LMDBDisk)
    public func checkpoint(_ parts: [CheckpointPart], pace: () throws -> Void = {}) throws -> [Manifest] {
        var edits: [(ReplicaID, ManifestEdit)] = []
        var pending = PendingChunks()
        var written: [RunID] = []
        do {
            for part in parts {
                let base = try current(part.header.replica)
                guard base.runs.count < Manifest.runsMax else {
                    throw DiskError(.misuse, "replica \(base.replica) has \(base.runs.count) runs: merge first")
                }
                var descriptor: RunDescriptor?
                if !part.frozen.isEmpty {
                    let run = try takeRun()
                    written.append(run)
                    part.frozen.sort()
                    var writer = RunWriter(run: run, replica: base.replica, recordsMax: part.frozen.count)
                    for position in 0..<part.frozen.count {
                        try writer.add(part.frozen.record(at: position))
                        if pending.bytes + writer.completeBytes >= settings.transactionBytesMax - Chunk.bytesMax {
                            try drain(&writer, &pending, .growth, pace)
                        }
                    }
                    descriptor = writer.finish(from: base.index, to: part.header.index)
                    try drain(&writer, &pending, .growth, pace)
                }
                edits.append((base.replica, .add(descriptor, base: base.index, part.header)))
            }
            return try commit(pending.chunks, edits).map { $0! }
        } catch {
            abandon(written)
            throw error
        }
    }

    @discardableResult
    public func checkpoint(_ frozen: FrozenMemtable, _ header: ManifestHeader, pace: () throws -> Void = {}) throws
        -> Manifest
    {
        try checkpoint([CheckpointPart(frozen, header)], pace: pace)[0]
    }

    /// Whether the replica has more runs than settings want.
    public func isMergeDue(_ replica: ReplicaID) -> Bool {
        state.withLock { ($0.replicas[replica]?.manifest.runs.count ?? 0) > settings.runsMax }
    }

    /// Merges adjacent runs into one: the newest record of each key stays. Tombstones go only when the oldest run is
    /// among them, and then `horizon` rises to the last one that went. Expiry is not looked at: merges never judge
    /// time.
    ///
    /// - Parameters:
    ///   - range: of the manifest's runs; nil: if more than `runsMax` are there all, or as many as there is space for.
    ///   - tombstonesThrough: those that changed later stay: exports and known laggards hold the horizon back so.
    ///   - pace: as in `checkpoint`. Checkpoints of the same replica may come in between.
    /// - Returns: the new manifest; nil if nothing was to be done.
    /// - Throws: `.full` before anything is written if there is no space for any two runs.
    @discardableResult @_specialize(where Storage == LMDBDisk)
    public func merge(
        _ replica: ReplicaID, range: Range<Int>? = nil, tombstonesThrough: LogIndex = LogIndex(.max),
        pace: () throws -> Void = {}
    ) throws -> Manifest? {
        guard let view = view(replica) else { throw DiskError(.misuse, "the store has no replica \(replica) to merge") }
        guard let range = try range ?? (view.runs.count > settings.runsMax ? fitting(view.manifest) : nil),
            !range.isEmpty
        else { return nil }
        guard range.lowerBound >= 0, range.upperBound <= view.runs.count else {
            throw DiskError(.misuse, "replica \(replica) has \(view.runs.count) runs, not \(range)")
        }
        let runs = Array(view.runs[range])
        let hasOldest = range.lowerBound == 0
        let id = try takeRun()
        var pending = PendingChunks()
        var horizon: LogIndex?
        do {
            var writer = RunWriter(
                run: id, replica: replica, recordsMax: runs.reduce(0) { $0 + Int($1.descriptor.records) })
            var merge = RunMerge(newestFirst: runs.reversed().map { RunCursor($0, loadsChunks: true) })
            while true {
                if merge.needsLoad { try disk.read { reader in try merge.load(reader) } }
                merge.choose()
                guard let winner = merge.winner, let record = winner.current else { break }
                if hasOldest || isPlanted("tombstone-dropped-high"), record.isTombstone,
                    record.changed <= tombstonesThrough
                {
                    horizon = max(horizon ?? .zero, record.changed)
                } else if record.overflow != nil {
                    let value = try disk.read { reader in try winner.overflowValue(reader) } ?? Bytes()
                    try value.withUnsafeBytes { try writer.add(record, value: $0) }
                } else {
                    try writer.add(record)
                }
                if writer.completeBytes >= settings.transactionBytesMax - Chunk.bytesMax {
                    try drain(&writer, &pending, .merge, pace)
                }
                try merge.pass()
            }
            // The manifest may change once more before the merge becomes part of it.
            try pace()
            #if BIFROST_PLANTED
                if isPlanted("merge-writes-back-manifest") { try writeBack(view.manifest, view.runs) }
            #endif
            let descriptor = writer.finish(from: runs.first!.descriptor.from, to: runs.last!.descriptor.to)
            try drain(&writer, &pending, .merge, pace)
            return try commit(
                pending.chunks,
                [(replica, .replace(runs.map(\.descriptor.id), by: descriptor, horizon: hasOldest ? horizon : nil))],
                .merge)[0]
        } catch {
            abandon([id])
            throw error
        }
    }

    private func fitting(_ manifest: Manifest) throws -> Range<Int> {
        let sizes = manifest.runs.map { Int($0.bytes) }
        let roomBytes = try disk.roomBytes(for: .merge)
        if let range = mergeRange(of: sizes, roomBytes: roomBytes) { return range }
        throw DiskError(
            .full,
            "merging any two of the \(sizes.count) runs of replica \(manifest.replica), of \(sizes.reduce(0, +)) bytes "
                + "together, takes more than the \(roomBytes) bytes that there are; free space")
    }

    /// Deletes a replica's manifest, durably; its runs go by and by. Also for a damaged one (its runs go at the next
    /// start). Nothing is deleted if there is none.
    public func remove(_ replica: ReplicaID) throws {
        // First: whoever finds nothing of the replica has to find this.
        if removedThrough != nil { try learnRemoved(through: replica) }
        let (isKnown, isDamaged) = state.withLock { ($0.replicas[replica] != nil, $0.damaged[replica] != nil) }
        if isKnown {
            try commit([], [(replica, .delete)], .upkeep)
        } else if isDamaged {
            try disk.write(.upkeep) { writer in _ = try writer.delete(Manifest.key(replica)) }
            state.withLock { $0.damaged[replica] = nil }
        }
    }

    /// Deletes some chunks that nobody reads any more, in one bounded transaction; 0: there is nothing to do.
    public func reclaim() throws -> Int {
        while let run = graveyard.first {
            let deleted = try deleteChunks(of: run)
            if deleted < settings.deletionsMax { graveyard.remove(run) }
            if deleted > 0 { return deleted }
        }
        return 0
    }

    #if BIFROST_PLANTED
        private func writeBack(_ manifest: Manifest, _ runs: [Run]) throws {
            let bytes = manifest.encoded()
            try disk.write(.upkeep) { writer in
                try writer.put(Manifest.key(manifest.replica), count: bytes.count, append: false) { place in
                    bytes.withUnsafeBytes { place.copyMemory(from: $0) }
                }
            }
            state.withLock { $0.replicas[manifest.replica] = (manifest, runs) }
        }
    #endif

    // MARK: - Transactions

    /// Chunks of one or several runs that wait for their transaction.
    struct PendingChunks {
        var chunks: [(key: DiskKey, bytes: Bytes)] = []
        var bytes = 0
    }

    /// Takes the writer's complete chunks, and writes in full transactions what has come together.
    func drain(
        _ writer: inout RunWriter, _ pending: inout PendingChunks, _ purpose: DiskPurpose,
        _ pace: () throws -> Void
    ) throws {
        for chunk in writer.takeComplete() {
            if pending.bytes + chunk.bytes.count > settings.transactionBytesMax {
                try commit(pending.chunks, [], purpose)
                pending = PendingChunks()
                try pace()
            }
            pending.chunks.append(chunk)
            pending.bytes += chunk.bytes.count
        }
    }

    /// It was found damaged when the store was opened, and nothing has taken its place since.
    package func isDamaged(_ replica: ReplicaID) -> Bool { state.withLock { $0.damaged[replica] != nil } }

    func current(_ replica: ReplicaID) throws -> Manifest {
        if let manifest = manifest(of: replica) { return manifest }
        if let error = state.withLock({ $0.damaged[replica] }) { throw error }
        throw DiskError(.misuse, "the store has no replica \(replica): start it first")
    }

    /// A run id that was never used. Durable before it is used: a reservation of many at a time.
    func takeRun() throws -> RunID {
        var superblock = state.withLock { $0.superblock }
        if state.withLock({ $0.nextRun }) >= superblock.runsReserved {
            superblock.runsReserved += StoreSuperblock.runsPerReservation
            try write(superblock)
        }
        return state.withLock { state in
            defer { state.nextRun += 1 }
            return RunID(state.nextRun)
        }
    }

    /// What was written of runs that will not be published goes, now if the disk lets it, else later.
    private func abandon(_ runs: [RunID]) {
        for run in runs { graveyard.bury(run) }
        // An error here would hide the one that led here; what stays is in the graveyard, and garbage at the next
        // start.
        while let deleted = try? reclaim(), deleted > 0 {}
    }

    /// One write transaction: chunks, then edits, each applied to the manifest as it stands on disk. Memory follows
    /// only when it is durable.
    @discardableResult
    func commit(
        _ chunks: [(key: DiskKey, bytes: Bytes)], _ edits: [(ReplicaID, ManifestEdit)],
        _ purpose: DiskPurpose = .growth
    ) throws -> [Manifest?] {
        if chunks.isEmpty, edits.isEmpty { return [] }
        let (highest, known) = state.withLock { state in
            (state.highestChunk, edits.map { state.replicas[$0.0]?.manifest })
        }
        let results = try disk.write(purpose) { writer in
            var top = highest
            for chunk in chunks {
                let isAbove = top.map { chunk.key > $0 } ?? true
                if isAbove { top = chunk.key }
                try writer.put(chunk.key, count: chunk.bytes.count, append: isAbove) { place in
                    chunk.bytes.withUnsafeBytes { place.copyMemory(from: $0) }
                }
            }
            // The body may run more than once: results begin anew.
            var results: [Manifest?] = []
            for (place, (replica, edit)) in edits.enumerated() {
                let key = Manifest.key(replica)
                let stored =
                    edit.needsNothing ? nil : try writer.withValue(for: key) { $0.map { Bytes(copying: $0) } }
                let manifest: Manifest?
                do {
                    manifest = try stored.map { bytes throws(DiskError) in try Manifest(bytes, replica: replica) }
                } catch let error as DiskError where error.code == .corrupt && edit.replacesAll {
                    // What goes as a whole need not be sound: it is as it was read or written last.
                    guard let last = known[place] else { throw error }
                    manifest = last
                }
                let edited = try edit.applied(to: manifest, replica: replica)
                if let edited {
                    let bytes = edited.encoded()
                    try writer.put(key, count: bytes.count, append: false) { place in
                        bytes.withUnsafeBytes { place.copyMemory(from: $0) }
                    }
                } else {
                    try writer.delete(key)
                }
                results.append(edited)
            }
            return results
        }
        // Runs that nobody else holds end up in the graveyard when `released` goes, outside of the mutex.
        var released: [Run] = []
        state.withLock { state in
            if let last = chunks.last?.key {
                state.highestChunk = max(state.highestChunk ?? last, chunks.map(\.key).max() ?? last)
            }
            for ((replica, _), manifest) in zip(edits, results) {
                let old = state.replicas[replica]?.runs ?? []
                guard let manifest else {
                    for run in old { run.markReplaced() }
                    released += old
                    state.replicas[replica] = nil
                    continue
                }
                let runs = manifest.runs.map { run in old.first { $0.descriptor.id == run.id } ?? handle(run, replica) }
                for run in old where !manifest.runs.contains(where: { $0.id == run.descriptor.id }) {
                    run.markReplaced()
                    released.append(run)
                }
                state.replicas[replica] = (manifest, runs)
                state.damaged[replica] = nil
            }
        }
        released.removeAll()
        return results
    }
}

/// Which adjacent runs of these sizes to merge, when so much may be written before they are deleted: all, or else the
/// most that fit whatever they have in common; or else the two smallest neighbours that may fit if they have much. nil:
/// none. One that begins and does not fit is not only in vain: it takes what the file system has left for this file.
package func mergeRange(of sizes: [Int], roomBytes: Int) -> Range<Int>? {
    // Values lie in whole pages.
    func fits(_ bytes: Int) -> Bool { bytes + bytes / 8 <= roomBytes }
    if sizes.count < 2 || fits(sizes.reduce(0, +)) { return sizes.indices }
    var longest: Range<Int>?
    var sum = 0
    var first = 0
    for (place, size) in sizes.enumerated() {
        sum += size
        while !fits(sum), first <= place {
            sum -= sizes[first]
            first += 1
        }
        if place + 1 - first > max(1, longest?.count ?? 0) { longest = first..<place + 1 }
    }
    if let longest { return longest }
    let pairs = sizes.indices.dropLast().filter { fits(max(sizes[$0], sizes[$0 + 1])) }
    return pairs.min { sizes[$0] + sizes[$0 + 1] < sizes[$1] + sizes[$1 + 1] }.map { $0..<$0 + 2 }
}
