// A group's state in a file: a head that says what it is, the pieces as a host gave them, and an end that says that all
// are there. Owns the bytes; whoever opens, syncs and renames files is elsewhere.
//
//     head    magic "BfSf" u32 | version u16 = 1 | 0 u16 | cluster | host u64 | snapshot u64 | saved u64
//             | description: length u32, bytes | CRC u32 of all before
//     pieces  each: length u32, not 0 | piece
//     end     0 u32 | magic "BfSe" u32 | pieces u64 | records u64 | digest u64 | CRC u32 of all before, from the 0 on
//
// Each piece begins where the one before ended, and has a checksum of its own; the digest is over all records.

public import Primitives
public import Storage

/// Bytes of a saved state are not what they should be, or are of a version that this program does not read.
public struct SnapshotFileDamage: Error, Hashable, CustomStringConvertible {
    /// The file's name, and where in it.
    public var file: String
    public var offset: UInt64
    public var expected: String
    public var found: String

    public init(file: String, offset: UInt64, expected: String, found: String) {
        self.file = file
        self.offset = offset
        self.expected = expected
        self.found = found
    }

    public var description: String { "\(file), at byte \(offset): expected \(expected), found \(found)" }
}

/// What a file says of itself in front of everything else.
public struct SnapshotFileHead: Hashable, Sendable {
    public var cluster: ClusterID
    /// Whose replica gave it, and the number under which it keeps it for who goes on later.
    public var host: HostID
    public var snapshot: UInt64
    /// When it was begun, in milliseconds of the clock of who saved it, since 1970.
    public var savedMilliseconds: UInt64
    public var description: SnapshotDescription

    public init(
        cluster: ClusterID, host: HostID, snapshot: UInt64, savedMilliseconds: UInt64, description: SnapshotDescription
    ) {
        self.cluster = cluster
        self.host = host
        self.snapshot = snapshot
        self.savedMilliseconds = savedMilliseconds
        self.description = description
    }

    static let magic: UInt32 = 0x6653_6642
    static let version: UInt16 = 1
    /// Up to the description's length, with it.
    static let fixedBytes = 52
    static let descriptionBytesMax = 64 << 10

    public func encoded() -> Bytes {
        var inner = ByteWriter()
        description.encode(into: &inner)
        var writer = ByteWriter()
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(0 as UInt16)
        writer.write(cluster)
        writer.write(host)
        writer.write(snapshot)
        writer.write(savedMilliseconds)
        writer.writeWithLength(inner.take())
        writer.write(writer.checksum())
        return writer.take()
    }
}

/// The last bytes of a file that is whole.
public struct SnapshotFileEnd: Hashable, Sendable {
    public var pieces: UInt64
    public var records: UInt64
    /// A `StateDigest` over all records.
    public var digest: UInt64

    public init(pieces: UInt64, records: UInt64, digest: UInt64) {
        self.pieces = pieces
        self.records = records
        self.digest = digest
    }

    static let magic: UInt32 = 0x6553_6642
    public static let encodedBytes = 36

    public func encoded() -> Bytes {
        var writer = ByteWriter(capacity: Self.encodedBytes)
        writer.write(0 as UInt32)
        writer.write(Self.magic)
        writer.write(pieces)
        writer.write(records)
        writer.write(digest)
        writer.write(writer.checksum())
        return writer.take()
    }
}

/// A piece as it stands in a file.
public enum SnapshotFileFrame {
    /// As hosts send them: one record may be larger than pieces are.
    static let pieceBytesMax = 4 << 20

    public static func encoded(_ piece: Bytes) -> Bytes {
        precondition(!piece.isEmpty && piece.count <= pieceBytesMax, "a piece of a snapshot has 1 byte to 4 MiB")
        var writer = ByteWriter(capacity: piece.count + 4)
        writer.writeWithLength(piece)
        return writer.take()
    }
}
