// What a save consists of: the map, and the state of each group with its digest. A directory has one such list, written
// when all files are there; without it the save is not whole.
//
//     magic "BfSv" u32 | version u16 = 1 | flags u16 (1: all groups of the map) | cluster | began u64 | ended u64
//     | map: length u32, bytes | groups u32 | each: host u64 | saved u64 | bytes of the file u64 | digest u64
//       | description: length u32, bytes | CRC u32 of all before

public import Primitives
public import Ring
public import Storage

/// One group's state in a save.
public struct SavedGroup: Hashable, Sendable {
    /// Whose replica gave it.
    public var host: HostID
    /// When it was begun: milliseconds since 1970, by the clock of who saved it.
    public var savedMilliseconds: UInt64
    /// Of the file.
    public var bytes: UInt64
    /// A `StateDigest` over all records, as the host and who saved it found it.
    public var digest: UInt64
    public var description: SnapshotDescription

    public init(
        host: HostID, savedMilliseconds: UInt64, bytes: UInt64, digest: UInt64, description: SnapshotDescription
    ) {
        self.host = host
        self.savedMilliseconds = savedMilliseconds
        self.bytes = bytes
        self.digest = digest
        self.description = description
    }

    public var group: GroupID { description.group }
    public var fileName: String { SavedCluster.fileName(of: group) }
}

/// The list of a save's groups.
public struct SavedCluster: Hashable, Sendable {
    /// All groups of the map are there: a cluster can be made of it.
    public var isWhole: Bool
    public var beganMilliseconds: UInt64
    public var endedMilliseconds: UInt64
    /// Of a whole save: as the meta group's saved state has it.
    public var map: ClusterMap
    /// Ascending by group.
    public var groups: [SavedGroup]

    public init(
        isWhole: Bool, beganMilliseconds: UInt64, endedMilliseconds: UInt64, map: ClusterMap, groups: [SavedGroup]
    ) {
        self.isWhole = isWhole
        self.beganMilliseconds = beganMilliseconds
        self.endedMilliseconds = endedMilliseconds
        self.map = map
        self.groups = groups.sorted { $0.group < $1.group }
    }

    public static let fileName = "save"
    public static func fileName(of group: GroupID) -> String { "group-\(group.rawValue).state" }
    /// While it is written.
    public static let partialSuffix = ".partial"
    /// A longer file is none of ours: no memory is taken for it.
    public static let fileBytesMax = 512 << 20

    static let magic: UInt32 = 0x7653_6642
    static let version: UInt16 = 1
    static let wholeFlag: UInt16 = 1

    public func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 65_536)
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(isWhole ? Self.wholeFlag : 0)
        writer.write(map.cluster)
        writer.write(beganMilliseconds)
        writer.write(endedMilliseconds)
        var inner = ByteWriter(capacity: 65_536)
        map.encode(into: &inner)
        writer.writeWithLength(inner.take())
        writer.write(UInt32(groups.count))
        for group in groups {
            writer.write(group.host)
            writer.write(group.savedMilliseconds)
            writer.write(group.bytes)
            writer.write(group.digest)
            var inner = ByteWriter()
            group.description.encode(into: &inner)
            writer.writeWithLength(inner.take())
        }
        writer.write(writer.checksum())
        return writer.take()
    }

    /// Reads what `encoded` wrote.
    public init(_ bytes: Bytes, file: String) throws(SnapshotFileDamage) {
        var reader = ByteReader(bytes)
        do throws(DecodingFailure) {
            self = try SavedCluster(from: &reader)
        } catch {
            throw SnapshotFileDamage(
                file: file, offset: UInt64(reader.offset), expected: error.expected, found: error.found)
        }
    }

    private init(from reader: inout ByteReader) throws(DecodingFailure) {
        guard try reader.read(UInt32.self) == Self.magic else {
            throw DecodingFailure(expected: "the list of a save", found: "another file")
        }
        let version = try reader.read(UInt16.self)
        guard version == Self.version else {
            throw DecodingFailure(expected: "version \(Self.version), or a newer program", found: "version \(version)")
        }
        let all = reader.bytes
        guard all.count >= 12 else { throw DecodingFailure(expected: "the list of a save", found: "its beginning") }
        var checksum = ByteReader(all[all.count - 4..<all.count])
        guard try checksum.read(UInt32.self) == all[0..<all.count - 4].checksum else {
            throw DecodingFailure(expected: "a matching checksum of the list", found: "another")
        }
        let flags = try reader.read(UInt16.self)
        guard flags & ~Self.wholeFlag == 0 else { throw DecodingFailure(expected: "known flags", found: "\(flags)") }
        isWhole = flags & Self.wholeFlag != 0
        let cluster = try reader.readClusterID()
        beganMilliseconds = try reader.read()
        endedMilliseconds = try reader.read()
        var inner = ByteReader(try reader.readBytesWithLength())
        // Whole if it is that of the meta group's saved state; else as a client has it.
        map = try ClusterMap(from: &inner, form: .either)
        try inner.expectEnd()
        guard map.cluster == cluster else { throw DecodingFailure(expected: "a map of \(cluster)", found: "another") }
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: 36)
        groups = []
        for _ in 0..<count {
            let host = try reader.read(HostID.self)
            let saved = try reader.read(UInt64.self)
            let bytes = try reader.read(UInt64.self)
            let digest = try reader.read(UInt64.self)
            var inner = ByteReader(try reader.readBytesWithLength(limit: SnapshotFileHead.descriptionBytesMax))
            let description = try SnapshotDescription(from: &inner)
            try inner.expectEnd()
            guard groups.last.map({ $0.group < description.group }) ?? true, map.group(description.group) != nil else {
                throw DecodingFailure(
                    expected: "groups of the map, ascending", found: "group \(description.group)")
            }
            groups.append(
                SavedGroup(
                    host: host, savedMilliseconds: saved, bytes: bytes, digest: digest, description: description))
        }
        // The checksum.
        _ = try reader.read(UInt32.self)
        try reader.expectEnd()
        guard !isWhole || groups.map(\.group) == map.groups.map(\.id) else {
            throw DecodingFailure(
                expected: "the state of each of \(map.groups.count) groups", found: "\(groups.count)")
        }
    }

    /// Whether a file is the one that the list names.
    ///
    /// - Throws: what is different.
    public func check(_ head: SnapshotFileHead, of group: SavedGroup, file: String) throws(SnapshotFileDamage) {
        guard head.cluster == map.cluster, head.description == group.description else {
            throw SnapshotFileDamage(
                file: file, offset: 0,
                expected: "the state of group \(group.group) of cluster \(map.cluster) at index "
                    + "\(group.description.index)",
                found: "that of group \(head.description.group) of cluster \(head.cluster) at index "
                    + "\(head.description.index), or with another description")
        }
    }

    /// The same of its end.
    public func check(
        _ end: SnapshotFileEnd, of group: SavedGroup, bytes: UInt64, file: String
    ) throws(SnapshotFileDamage) {
        guard end.digest == group.digest, bytes == group.bytes else {
            throw SnapshotFileDamage(
                file: file, offset: 0,
                expected: "\(group.bytes) bytes of a state with the digest \(hexadecimal(group.digest))",
                found: "\(bytes) bytes, digest \(hexadecimal(end.digest))")
        }
    }
}
