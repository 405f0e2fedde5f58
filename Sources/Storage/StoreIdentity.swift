// The store's superblock: whose it is, which format, and which run ids are taken.
//
//     magic "BfSt" | version u16 = 2 | 0 u16 | cluster 2 × u64 | host u64 | journal u64 | runs reserved u64
//     | removed through u64 | loss: sequence u64, replica u64 | CRC u32 of all before, seeded with the key (1, 0, 0)
//
// Version 1 has no `removed through`, and is written as long as that is not known.

public import Primitives

/// Whose store it is.
public struct StoreIdentity: Hashable, Sendable {
    public var cluster: ClusterID
    public var host: HostID
    /// Random id of the journal that the manifests refer to.
    public var journal: UInt64

    public init(cluster: ClusterID, host: HostID, journal: UInt64) {
        self.cluster = cluster
        self.host = host
        self.journal = journal
    }
}

/// What a journal lost without anybody knowing whose it was, and who is not concerned.
public struct JournalLoss: Hashable, Sendable {
    /// The journal's last, when this was noted.
    public var sequence: UInt64
    /// Replicas with greater ids came later: all that the journal has of them is behind `sequence`.
    public var replica: ReplicaID

    public init(sequence: UInt64, replica: ReplicaID) {
        self.sequence = sequence
        self.replica = replica
    }
}

struct StoreSuperblock: Hashable, Sendable {
    var identity: StoreIdentity
    /// Run ids below are taken or given up: reserved ahead, so that none is ever used twice, whatever a crash forgets.
    var runsReserved: UInt64
    /// No replica with a greater id was ever deleted from here; nil: nobody knows.
    var removedThrough: ReplicaID?
    /// Noted before the first replica of that kind began; nil: there is none.
    var loss: JournalLoss?

    static let magic: UInt32 = 0x7453_6642
    static let version: UInt16 = 2
    static let key = DiskKey(table: StoreTable.superblock)
    /// Run ids reserved at a time.
    static let runsPerReservation: UInt64 = 1_024

    func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 64)
        writer.write(Self.magic)
        writer.write(removedThrough == nil ? 1 : Self.version)
        writer.write(0 as UInt16)
        writer.write(identity.cluster)
        writer.write(identity.host)
        writer.write(identity.journal)
        writer.write(runsReserved)
        if let removedThrough {
            writer.write(removedThrough)
            writer.write(loss?.sequence ?? 0)
            writer.write(loss?.replica ?? .none)
        }
        let checksum = writer.withUnsafeBytes { crc32c($0, seed: Self.key.checksumSeed) }
        writer.write(checksum)
        return writer.take()
    }

    init(identity: StoreIdentity, runsReserved: UInt64, removedThrough: ReplicaID?) {
        self.identity = identity
        self.runsReserved = runsReserved
        self.removedThrough = removedThrough
    }

    init(_ bytes: Bytes) throws(DiskError) {
        var reader = ByteReader(bytes)
        do throws(DecodingFailure) {
            guard try reader.read(UInt32.self) == Self.magic else {
                throw DecodingFailure(expected: "a store's superblock", found: "other bytes")
            }
            let version = try reader.read(UInt16.self)
            guard version == 1 || version == Self.version else {
                throw DecodingFailure(expected: "format version 1 or \(Self.version)", found: "version \(version)")
            }
            guard try reader.read(UInt16.self) == 0 else {
                throw DecodingFailure(expected: "0 in a reserved field", found: "more")
            }
            identity = StoreIdentity(
                cluster: try reader.readClusterID(), host: try reader.read(), journal: try reader.read())
            runsReserved = try reader.read()
            if version > 1 {
                removedThrough = try reader.read(ReplicaID.self)
                let (sequence, replica) = (try reader.read(UInt64.self), try reader.read(ReplicaID.self))
                loss = sequence == 0 ? nil : JournalLoss(sequence: sequence, replica: replica)
            }
            let computed = bytes.withUnsafeBytes {
                crc32c(UnsafeRawBufferPointer(rebasing: $0[0..<reader.offset]), seed: Self.key.checksumSeed)
            }
            guard try reader.read(UInt32.self) == computed else {
                throw DecodingFailure(expected: "a matching checksum", found: "another")
            }
            try reader.expectEnd()
        } catch {
            // A newer format may put anything behind its version: that is told first.
            throw error.found.hasPrefix("version")
                ? DiskError(
                    .refused, "store: \(error.description); use the version of bifrost that wrote it, or a newer one")
                : DiskError(.corrupt, "the store's superblock: \(error.description)")
        }
    }
}
