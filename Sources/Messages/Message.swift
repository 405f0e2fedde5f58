// What all messages between clients and hosts have in common: services, methods, limits, encoding. Frames, calls and
// deadlines belong to RPC; consensus between replicas has messages of its own in RaftCore.

public import Primitives
public import Ring

/// Services on a connection, by their numbers in frames.
public enum ServiceNumber {
    public static let consensus: UInt16 = 1
    public static let data: UInt16 = 2
    public static let cluster: UInt16 = 3
}

/// Methods of the data service.
public enum DataMethod {
    /// `ExecuteRequest` → `Response<DataResult>`
    public static let execute: UInt16 = 1
    /// `QueryRequest` → `Response<DataResult>`
    public static let query: UInt16 = 2
    /// `PageRequest` → `Response<PageResult>`
    public static let page: UInt16 = 3
    /// `SnapshotRequest` → `Response<DataResult>`, with a `SnapshotAnswer` in it
    public static let snapshot: UInt16 = 4
    /// `WatchRequest` → `Response<DataResult>`, with a `WatchAnswer` in it
    public static let watch: UInt16 = 5
}

/// Methods of the cluster service.
public enum ClusterMethod {
    /// `MapRequest` → `MapReply`
    public static let map: UInt16 = 1
    /// `StatusRequest` → `HostStatus`
    public static let status: UInt16 = 2
    /// `InitialiseRequest` → `InitialiseReply`
    public static let initialise: UInt16 = 3
    /// `PingRequest` → `PingReply`
    public static let ping: UInt16 = 4
    /// `JoinRequest` → `JoinReply`
    public static let join: UInt16 = 5
    /// `AdministerRequest` → `AdministerReply`
    public static let administer: UInt16 = 6
    /// `TransferRequest` → `AdministerReply`
    public static let transfer: UInt16 = 7
    /// `UpkeepRequest` → `HostUpkeep`
    public static let upkeep: UInt16 = 8
    /// `RebalancingRequest` → `RebalancingReply`
    public static let rebalancing: UInt16 = 9
}

/// Sizes that client and server both check. Part of the protocol: they grow only with the feature level.
public enum Limits {
    /// Of a key, in bytes. A key has at least one byte.
    public static let keyBytesMax = 4_096
    /// Of a value, in bytes.
    public static let valueBytesMax = 1_048_576
    /// Of a page's records as encoded; a page always has room for one record, whatever its size.
    public static let pageBytesMax = 2_097_152
    /// Of a text in an answer; longer ones are cut.
    public static let textBytesMax = 1_024
    /// Replicas in a host's status, so that it fits into a frame.
    public static let replicasPerHostMax = 16_384
}

/// Something that is sent as the body of a frame, or as a part of one. All integers are little-endian.
public protocol Message: Hashable, Sendable {
    func encode(into writer: inout ByteWriter)
    /// So much memory is taken for it before it is encoded; more is taken as it is needed.
    var encodedBytesExpected: Int { get }
    init(from reader: inout ByteReader) throws(DecodingFailure)
}

extension Message {
    /// Reads a whole body; bytes behind the message are refused.
    @inlinable public init(decoding bytes: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(bytes)
        try self.init(from: &reader)
        try reader.expectEnd()
    }

    public var encodedBytesExpected: Int { 256 }

    public func encoded() -> Bytes {
        var writer = ByteWriter(capacity: encodedBytesExpected)
        encode(into: &writer)
        return writer.take()
    }
}

extension ClusterMap: Message {}

extension ByteReader {
    mutating func expect(version: UInt16, of what: String) throws(DecodingFailure) {
        let found = try read(UInt16.self)
        guard found == version else {
            throw DecodingFailure(expected: "\(what) of version \(version)", found: "version \(found)")
        }
    }

    mutating func readText() throws(DecodingFailure) -> String { try readStringWithLength(limit: Limits.textBytesMax) }
}

extension ByteWriter {
    /// A string of at most `textBytesMax` bytes; a longer one is cut between characters.
    mutating func write(text: String) {
        guard text.utf8.count > Limits.textBytesMax else { return writeWithLength(text) }
        var cut = ""
        var bytes = 0
        for character in text {
            bytes += character.utf8.count
            if bytes > Limits.textBytesMax { break }
            cut.append(character)
        }
        writeWithLength(cut)
    }
}
