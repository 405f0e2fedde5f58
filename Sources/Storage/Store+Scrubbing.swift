// The store's part in looking for damage that nobody met: reads what a replica has on disk, a stretch at a time, and
// compares checksums. What is looked at next, and how fast, is the scrubber's affair.

public import Primitives
import Synchronization

/// Where in a replica's state a look at it goes on.
public struct StorePosition: Hashable, Sendable {
    public var run: RunID
    var chunk: Int
}

extension Store {
    /// Every run that there is has a number below it.
    public var runsEnd: RunID { RunID(state.withLock { $0.nextRun }) }

    /// Reads the next stretch of a replica's manifest and runs in one read transaction, and verifies every byte of it.
    /// Memory's copies of index and filter are neither used nor made. Any thread. Cost: `bytesMax` and a chunk more.
    ///
    /// - Parameters:
    ///   - position: nil: the beginning, with the manifest.
    ///   - end: runs from this number on are left out: a replica that writes faster than it is looked at would never end.
    /// - Returns: the bytes read, and where to go on; nil: that was all, or the store has no such replica (any more).
    /// - Throws: `ScrubbedDamage` with the run for what is damaged or missing; `DiskError` for what is not one replica's.
    public func verify(
        _ replica: ReplicaID, from position: StorePosition?, runsBelow end: RunID, bytesMax: Int
    ) throws -> (bytes: Int, next: StorePosition?) {
        guard let view = view(replica) else { return (0, nil) }
        // Numbers ascend, whatever place in the manifest a merge has given its run.
        let first = position?.run ?? RunID(0)
        let runs = view.runs.filter { $0.descriptor.id >= first && $0.descriptor.id < end }
            .sorted { $0.descriptor.id < $1.descriptor.id }
        return try withExtendedLifetime(view) {
            try disk.read { reader in
                var bytes = 0
                if position == nil {
                    bytes += try Self.orPlaced(view.manifest.header, nil) {
                        try reader.withValue(for: Manifest.key(replica)) { value in
                            guard let value else {
                                throw DiskError(.corrupt, "the manifest of replica \(replica) is missing")
                            }
                            _ = try Manifest(Bytes(copying: value), replica: replica)
                            return value.count
                        }
                    }
                }
                for run in runs {
                    let id = run.descriptor.id
                    for chunk in (id == first ? position?.chunk ?? 0 : 0)..<max(run.descriptor.chunks, 0) {
                        if bytes >= bytesMax { return (bytes, StorePosition(run: id, chunk: chunk)) }
                        bytes += try Self.orPlaced(view.manifest.header, id) {
                            try reader.withValue(for: Chunk.key(id, chunk)) { value in
                                guard value.map({ reader.isReadable($0) }) ?? true else {
                                    throw run.corrupt(chunk, "the disk can't read it")
                                }
                            }
                            return try run.withChunk(chunk, reader) { head in
                                guard head.allBlocks() != nil else {
                                    throw run.corrupt(chunk, "a block's checksum does not match")
                                }
                                return head.bytes.count
                            }
                        }
                    }
                }
                return (bytes, nil)
            }
        }
    }

    private static func orPlaced(_ header: ManifestHeader, _ run: RunID?, _ body: () throws -> Int) throws -> Int {
        do { return try body() } catch let error as DiskError where error.code == .corrupt {
            throw ScrubbedDamage(group: header.group, replica: header.replica, run: run, message: error.message)
        }
    }
}

/// What one replica has on disk is damaged.
public struct ScrubbedDamage: Error, Hashable, Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    /// Of its state: where; nil: its manifest, or its journal.
    public var run: RunID?
    public var message: String

    public init(group: GroupID, replica: ReplicaID, run: RunID?, message: String) {
        self.group = group
        self.replica = replica
        self.run = run
        self.message = message
    }
}
