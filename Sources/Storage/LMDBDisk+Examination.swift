// What a journal's or a store's file has to be, beyond a sound tree: for a start that does not believe it.

public import LMDB
public import Primitives

/// What a look through a store's file shows.
public struct StoreExamination: Sendable {
    /// nil: all of it can be read, and leads where it should.
    public var damage: DiskError?
    /// The journal that it was written beside, and the last commit of it that a manifest has seen: as far as that can
    /// still be read. nil and 0: nothing of it can.
    public var journal: UInt64?
    public var journalSequence: UInt64 = 0
    /// Who the members of each replica's group were as of its manifest, and which entry that ends at: of those that can
    /// still be read.
    public var configurations: [ReplicaID: (index: LogIndex, configuration: Configuration)] = [:]
}

extension ClosedEnvironment {
    /// All of the file can be read, and leads where it should. What values say is not looked at: that is each replica's.
    ///
    /// - Throws: `.corrupt` if it is damaged; anything else says nothing about it.
    public borrowing func examineJournal() throws(DiskError) {
        try examined { (_, _) throws(LMDBError) in }
    }

    /// The same, and that it has a superblock and keys of a store, or nothing.
    ///
    /// - Throws: what says nothing about the file.
    public borrowing func examineStore() throws(DiskError) -> StoreExamination {
        var examination = StoreExamination()
        let superblockKey = StoreSuperblock.key.withEncoded { Array($0) }
        var superblock: Bytes?
        var stranger: UInt8?
        var isEmpty = true
        do throws(DiskError) {
            try examined { (key, value) throws(LMDBError) in
                isEmpty = false
                switch key.first {
                case StoreTable.superblock where key.elementsEqual(superblockKey):
                    superblock = value.map { Bytes(Array($0)) }
                    examination.journal = superblock.flatMap { try? StoreSuperblock($0).identity.journal }
                case StoreTable.superblock, StoreTable.chunks: break
                case StoreTable.manifests:
                    guard let value, let key = key.withUnsafeBytes({ try? DiskKey(encoded: $0) }),
                        let manifest = try? Manifest(Bytes(Array(value)), replica: ReplicaID(key.high))
                    else { break }
                    examination.journalSequence = max(examination.journalSequence, manifest.header.journalSequence)
                    examination.configurations[ReplicaID(key.high)] = (
                        manifest.header.index, manifest.header.configuration
                    )
                default: stranger = stranger ?? key.first
                }
            }
            if let stranger {
                throw DiskError(.corrupt, "\(path): it has a key of table \(stranger), which no store has")
            }
            if let superblock {
                _ = try StoreSuperblock(superblock)
            } else if !isEmpty {
                throw DiskError(.corrupt, "\(path): it has data and no superblock")
            }
        } catch {
            guard error.code == .corrupt else { throw error }
            examination.damage = error
        }
        return examination
    }

    private borrowing func examined(
        _ visit: (ArraySlice<UInt8>, ArraySlice<UInt8>?) throws(LMDBError) -> Void
    ) throws(DiskError) {
        do throws(LMDBError) { try examine(keyBytes: DiskKey.byteCount, visit) } catch { throw DiskError(error) }
    }
}

extension LMDBDisk {
    /// What is stored does not go together as a whole: the next start looks through the file before it believes it.
    public func markDamaged(_ error: DiskError) { environment.markDamaged(error.message) }
}
