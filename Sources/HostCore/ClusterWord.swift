// What hosts say to each other about the cluster as a whole: newer maps, and what has come about in a group that the meta
// group should know. In peer batches of version 2; loop 0 hears it.

package import Primitives
package import Ring

/// `kind u8 | length u32 | bytes`. Kinds that a version does not know are passed over.
package enum ClusterWord: Hashable, Sendable {
    /// 1: a map, newer than the one that the receiver has as far as the sender knows.
    case map(ClusterMap)
    /// 2: a command for the meta group, as its payload will be, that hosts ask for by themselves: what configuration a
    /// group has (`settled`), or that a replica lost its identity (`replaceReplica`).
    case report(Bytes)
    case unknown(UInt8)

    private static var mapBytesMax: Int { 15 << 20 }
    static let reportBytesMax = 4 << 10

    func encode(into writer: inout ByteWriter) {
        switch self {
        case .map(let map):
            var bytes = ByteWriter(capacity: 4_096)
            map.encode(into: &bytes)
            writer.write(1 as UInt8)
            writer.writeWithLength(bytes.take())
        case .report(let payload):
            writer.write(2 as UInt8)
            writer.writeWithLength(payload)
        case .unknown(let kind):
            writer.write(kind)
            writer.writeWithLength(Bytes())
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 1:
            var bytes = ByteReader(try reader.readBytesWithLength(limit: Self.mapBytesMax))
            self = .map(try ClusterMap(from: &bytes))
            try bytes.expectEnd()
        case 2: self = .report(try reader.readBytesWithLength(limit: Self.reportBytesMax))
        default:
            _ = try reader.readBytesWithLength(limit: Self.mapBytesMax)
            self = .unknown(kind)
        }
    }

    static let encodedBytesMin = 5
}
