// The replicas' states on one disk: opening, identity, views. Writing is in Store+Writing, reading in Store+Reading.
// Owns which runs exist; refuses to know groups, logs and time. When a run may be published is the host's affair: only
// when the journal is durable up to it.

public import Primitives
import Synchronization

public struct StoreSettings: Hashable, Sendable {
    /// Memory for index and filter chunks of all replicas.
    public var cacheBytesMax: Int
    /// Above this many runs of a replica a merge is due.
    public var runsMax: Int
    /// Of chunks in one write transaction: the journal's flushes do not wait long behind one.
    public var transactionBytesMax: Int
    /// Chunks deleted in one write transaction.
    public var deletionsMax: Int

    public init(
        cacheBytesMax: Int = 256 << 20, runsMax: Int = 8, transactionBytesMax: Int = 4 << 20, deletionsMax: Int = 256
    ) {
        self.cacheBytesMax = cacheBytesMax
        self.runsMax = runsMax
        self.transactionBytesMax = transactionBytesMax
        self.deletionsMax = deletionsMax
    }
}

/// A replica whose manifest, or a chunk that it counts, is damaged or missing: to be removed and built anew from peers.
public struct DamagedReplica: Error, Sendable {
    public var replica: ReplicaID
    public var error: DiskError
}

/// The store of one disk. Methods that write (start, checkpoint, merge, remove, reclaim, update) are for the store
/// thread alone, one at a time; views and reads are for any thread.
///
/// After a `DiskError` of code `.failed` the process ends; after `.full` everything is as before; `.corrupt` names the
/// replica, run and chunk, and never becomes an answer.
public final class Store<Storage: Disk>: Sendable {
    public let disk: Storage
    public let settings: StoreSettings
    let state: Mutex<State>
    let cache: RunCache
    let graveyard = RunGraveyard()

    struct State {
        var superblock: StoreSuperblock
        var nextRun: UInt64
        /// Greatest chunk key ever written: those above it may be appended.
        var highestChunk: DiskKey?
        var replicas: [ReplicaID: (manifest: Manifest, runs: [Run])] = [:]
        var damaged: [ReplicaID: DiskError] = [:]
    }

    /// Opens the store: flushes, verifies superblock and manifests, counts every manifest's chunks, and deletes the
    /// chunks that no manifest names. Cost: a walk over all chunk keys, not their contents.
    ///
    /// Throws `.refused` for another format, or when there is no store and none was to be made.
    /// - Parameter identity: formats the environment with it if it is empty; is not compared with one that is there.
    public init(disk: Storage, formatting identity: StoreIdentity? = nil, settings: StoreSettings = StoreSettings())
        throws
    {
        // What a killed process wrote and did not sync can be read and yet be lost: flush before anything counts.
        if !isPlanted("page-cache-taken-for-disk") { try disk.flush() }
        self.disk = disk
        self.settings = settings
        cache = RunCache(bytesMax: settings.cacheBytesMax)
        let found = try disk.read { reader in
            try reader.withValue(for: StoreSuperblock.key) { $0.map { Bytes(copying: $0) } }
        }
        let superblock: StoreSuperblock
        if let found {
            superblock = try StoreSuperblock(found)
        } else {
            let hasData = try disk.read { reader in
                try reader.lastKey(
                    from: DiskKey(table: StoreTable.superblock),
                    through: DiskKey(table: StoreTable.chunks, high: .max, low: .max)) != nil
            }
            guard !hasData else { throw DiskError(.corrupt, "the store has data and no superblock") }
            guard let identity else { throw DiskError(.refused, "expected a store, found an empty environment") }
            let first = StoreSuperblock(identity: identity, runsReserved: 1, removedThrough: nil)
            let bytes = first.encoded()
            try disk.write { writer in
                try writer.put(StoreSuperblock.key, count: bytes.count, append: false) { place in
                    bytes.withUnsafeBytes { place.copyMemory(from: $0) }
                }
            }
            superblock = first
        }
        state = Mutex(State(superblock: superblock, nextRun: superblock.runsReserved))
        try recover()
    }

    public var identity: StoreIdentity { state.withLock { $0.superblock.identity } }

    /// Replaces the identity, durably. Store thread.
    public func update(_ identity: StoreIdentity) throws {
        var superblock = state.withLock { $0.superblock }
        superblock.identity = identity
        try write(superblock)
    }

    /// No replica with a greater id was ever deleted from this disk; nil: nobody knows, as in a store that is new, or was
    /// made by an earlier version, until `learnRemoved`.
    public var removedThrough: ReplicaID? { state.withLock { $0.superblock.removedThrough } }

    /// Notes durably that replicas with ids up to this one may have been deleted, and none above. Store thread.
    public func learnRemoved(through replica: ReplicaID) throws {
        var superblock = state.withLock { $0.superblock }
        if let known = superblock.removedThrough, known >= replica { return }
        superblock.removedThrough = replica
        try write(superblock)
    }

    /// What its journal lost, as noted.
    public var loss: JournalLoss? { state.withLock { $0.superblock.loss } }

    /// Notes durably what the journal lost. Store thread; only with `removedThrough` known.
    public func note(_ loss: JournalLoss) throws {
        var superblock = state.withLock { $0.superblock }
        guard superblock.removedThrough != nil, loss.sequence > 0 else {
            throw DiskError(.misuse, "the store does not know which replicas were on this disk")
        }
        superblock.loss = loss
        try write(superblock)
    }

    func write(_ superblock: StoreSuperblock) throws {
        let bytes = superblock.encoded()
        // A merge on a full disk needs a run id too.
        try disk.write(.upkeep) { writer in
            try writer.put(StoreSuperblock.key, count: bytes.count, append: false) { place in
                bytes.withUnsafeBytes { place.copyMemory(from: $0) }
            }
        }
        state.withLock { $0.superblock = superblock }
    }

    /// All replicas' manifests as they stand, by replica.
    public func manifests() -> [Manifest] {
        state.withLock { state in state.replicas.values.map(\.manifest) }.sorted { $0.replica < $1.replica }
    }

    public func manifest(of replica: ReplicaID) -> Manifest? { state.withLock { $0.replicas[replica]?.manifest } }

    /// Replicas that were found damaged when the store was opened, by replica. While there are any, chunks that no
    /// manifest names are kept: they may be theirs.
    public func damaged() -> [DamagedReplica] {
        state.withLock { state in state.damaged.map { DamagedReplica(replica: $0.key, error: $0.value) } }
            .sorted { $0.replica < $1.replica }
    }

    /// A view of a replica's durable state; nil if the store does not have the replica, or has it damaged.
    public func view(_ replica: ReplicaID, frozen: FrozenMemtable? = nil) -> StoreView? {
        state.withLock { state in
            state.replicas[replica].map { StoreView(manifest: $0.manifest, frozen: frozen, runs: $0.runs) }
        }
    }

    /// The view of a replica that has nothing, beside what the store may have of it and can't read.
    public func emptyView(_ header: ManifestHeader) -> StoreView {
        StoreView(manifest: Manifest(header: header), frozen: nil, runs: [])
    }

    /// Memory that index and filter chunks take now.
    public var cacheBytes: Int { cache.bytes }

    // MARK: - Opening

    private struct ChunkCount {
        var run: RunID
        var chunks = 0
        var isContiguous = true
    }

    private func recover() throws {
        var manifests: [Manifest] = []
        var damaged: [ReplicaID: DiskError] = [:]
        try disk.read { reader in
            try reader.scan(
                from: DiskKey(table: StoreTable.manifests),
                through: DiskKey(table: StoreTable.manifests, high: .max, low: .max)
            ) { key, value in
                let replica = ReplicaID(key.high)
                do throws(DiskError) {
                    guard key.low == 0 else {
                        throw DiskError(.corrupt, "manifest of replica \(replica) under key \(key)")
                    }
                    manifests.append(try Manifest(Bytes(copying: value), replica: replica))
                } catch {
                    if error.code == .refused { throw error }
                    damaged[replica] = error
                }
                return true
            }
        }
        let (counts, highest) = try countChunks()
        let met = 1 + manifests.count + damaged.count + counts.reduce(0) { $0 + $1.chunks }
        let there = try disk.read { reader in try reader.count() }
        guard met == there else {
            throw DiskError(
                .corrupt,
                "the store has \(there) keys, and a scan found \(met): its environment is damaged, or not a store's alone"
            )
        }
        var owners: [(run: RunID, replica: ReplicaID)] = []
        let nextRun = state.withLock { $0.nextRun }
        for manifest in manifests {
            for run in manifest.runs {
                owners.append((run.id, manifest.replica))
                let count = Self.find(run.id, counts)
                if count?.chunks != run.chunks || count?.isContiguous != true || run.id.rawValue >= nextRun {
                    damaged[manifest.replica] = DiskError(
                        .corrupt,
                        "replica \(manifest.replica), run \(run.id): expected \(run.chunks) chunks, found \(count?.chunks ?? 0)"
                    )
                }
            }
        }
        owners.sort { ($0.run, $0.replica) < ($1.run, $1.replica) }
        for (first, second) in zip(owners, owners.dropFirst()) where first.run == second.run {
            for replica in [first.replica, second.replica] {
                damaged[replica] = DiskError(.corrupt, "run \(first.run) is named twice")
            }
        }
        state.withLock { state in
            state.highestChunk = highest
            state.damaged = damaged
            for manifest in manifests where damaged[manifest.replica] == nil {
                state.replicas[manifest.replica] = (manifest, manifest.runs.map { handle($0, manifest.replica) })
            }
        }
        guard damaged.isEmpty else { return }
        // Nobody writes yet: what no manifest names now was never published, or was to be deleted.
        if isPlanted("live-run-collected") { _ = owners.popLast() }
        for count in counts where Self.find(count.run, owners) == nil {
            while try deleteChunks(of: count.run) > 0 {}
        }
    }

    /// How many chunks each run has on disk, by run.
    private func countChunks() throws -> (counts: [ChunkCount], highest: DiskKey?) {
        var counts: [ChunkCount] = []
        var highest: DiskKey?
        try disk.read { reader in
            try reader.scan(
                from: DiskKey(table: StoreTable.chunks),
                through: DiskKey(table: StoreTable.chunks, high: .max, low: .max)
            ) { key, _ in
                if counts.last?.run.rawValue != key.high { counts.append(ChunkCount(run: RunID(key.high))) }
                let last = counts.count - 1
                if Int(key.low) != counts[last].chunks { counts[last].isContiguous = false }
                counts[last].chunks += 1
                highest = key
                return true
            }
        }
        return (counts, highest)
    }

    private static func find(_ run: RunID, _ counts: [ChunkCount]) -> ChunkCount? {
        let position = lowerBound(counts.count) { counts[$0].run < run }
        return position < counts.count && counts[position].run == run ? counts[position] : nil
    }

    private static func find(_ run: RunID, _ owners: [(run: RunID, replica: ReplicaID)]) -> ReplicaID? {
        let position = lowerBound(owners.count) { owners[$0].run < run }
        return position < owners.count && owners[position].run == run ? owners[position].replica : nil
    }

    private static func lowerBound(_ count: Int, isBelow: (Int) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isBelow(middle) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func handle(_ run: RunDescriptor, _ replica: ReplicaID) -> Run {
        Run(run, replica: replica, cache: cache, graveyard: graveyard)
    }

    /// Deletes a bounded number of a run's chunks and says how many.
    func deleteChunks(of run: RunID) throws -> Int {
        let deletionsMax = settings.deletionsMax
        return try disk.write(.upkeep) { writer in
            // The body may run more than once: the list begins anew.
            var keys: [DiskKey] = []
            try writer.scan(from: Chunk.key(run, 0), through: Chunk.key(run, Int(UInt32.max))) { key, _ in
                keys.append(key)
                return keys.count < deletionsMax
            }
            for key in keys { try writer.delete(key) }
            return keys.count
        }
    }
}
