// Who a data directory belongs to: the superblock of a journal's environment.

public import Primitives

/// Which host of which cluster wrote this journal, and how often it started.
public struct HostIdentity: Hashable, Sendable {
    /// `.none` until the host belongs to a cluster.
    public var cluster: ClusterID
    /// 0 until the host has a number.
    public var host: HostID
    /// Drawn when the directory was made.
    public var incarnation: Incarnation
    /// Raised at each start.
    public var bootCounter: UInt64
    /// The cluster's feature level as last seen.
    public var featureLevel: UInt32
    /// Random name of this journal, in each of its values and in every manifest that relies on it. Never changes.
    public var journal: UInt64

    public init(
        cluster: ClusterID = .none, host: HostID = HostID(0), incarnation: Incarnation, bootCounter: UInt64 = 0,
        featureLevel: UInt32 = 0, journal: UInt64
    ) {
        self.cluster = cluster
        self.host = host
        self.incarnation = incarnation
        self.bootCounter = bootCounter
        self.featureLevel = featureLevel
        self.journal = journal
    }
}

extension HostIdentity {
    static let magic: UInt32 = 0x734a_6642  // "BfJs"
    static let version: UInt16 = 1

    /// `magic u32 | version u16 | 0 u16 | cluster u64 u64 | host u64 | incarnation u64 | boot counter u64 |
    /// feature level u32 | journal u64 | CRC-32C u32 of all before`. The checksum is last in every version.
    func encode(into writer: inout ByteWriter) {
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(0 as UInt16)
        writer.write(cluster)
        writer.write(host)
        writer.write(incarnation)
        writer.write(bootCounter)
        writer.write(featureLevel)
        writer.write(journal)
        writer.write(writer.checksum())
    }

    /// Throws `.refused` for a newer format and `.corrupt` for anything else that is not a superblock.
    init(superblock bytes: UnsafeRawBufferPointer) throws(DiskError) {
        func corrupt(_ found: String) -> DiskError {
            DiskError(.corrupt, "journal: expected a superblock, found \(found): the disk's journal counts as lost")
        }
        guard bytes.count >= 12, bytes.count <= 65_536 else { throw corrupt("\(bytes.count) bytes") }
        let body = UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count - 4)])
        let checksum = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: bytes.count - 4, as: UInt32.self))
        guard crc32c(body) == checksum else { throw corrupt("a wrong checksum") }
        var reader = ByteReader(Bytes(copying: body))
        do throws(DecodingFailure) {
            let magic = try reader.read(UInt32.self)
            guard magic == Self.magic else { throw DecodingFailure(expected: "its magic number", found: "\(magic)") }
            let version = try reader.read(UInt16.self)
            guard version <= Self.version else { throw DecodingFailure(expected: "version", found: "\(version)") }
            _ = try reader.read(UInt16.self)
            cluster = try reader.readClusterID()
            host = try reader.read()
            incarnation = try reader.read()
            bootCounter = try reader.read()
            featureLevel = try reader.read()
            journal = try reader.read()
            try reader.expectEnd()
        } catch {
            if error.expected == "version" {
                throw DiskError(
                    .refused,
                    "journal: its format is version \(error.found), this program reads up to \(Self.version): use a newer one"
                )
            }
            throw corrupt(error.description)
        }
    }
}
