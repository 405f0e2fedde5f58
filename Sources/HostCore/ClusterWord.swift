// What hosts say to each other about the cluster as a whole: newer maps, and what has come about in a group that the meta
// group should know. In peer batches of version 2; loop 0 hears it, but for what is of one group.

package import Primitives
package import Ring
package import StateMachines

/// `kind u8 | length u32 | bytes`. Kinds that a version does not know are passed over.
package enum ClusterWord: Hashable, Sendable {
    /// 1: a map, newer than the one that the receiver has as far as the sender knows.
    case map(ClusterMap)
    /// 2: a command for the meta group, as its payload will be, that hosts ask for by themselves: what configuration a
    /// group has (`settled`), or that a replica lost its identity (`replaceReplica`).
    case report(Bytes)
    /// 3: the commands of users' state machines that the sender can apply, and whether it wants to know the receiver's:
    /// `asks u8 | count u32 | machine u16, command u16 each`, ascending.
    case machines([MachineCommandNumber], asks: Bool)
    /// 4: what a replica had at a point of comparison.
    case digest(DigestWord)
    /// 5: what a migration's groups say to each other. From feature level 11 on.
    case migration(MigrationWord)
    /// 6: what slots have, asked by the meta group's leader and answered by groups' leaders. From feature level 11 on.
    case load(LoadWord)
    case unknown(UInt8)

    private static var mapBytesMax: Int { 15 << 20 }
    static let reportBytesMax = 4 << 10
    /// More than this version sends.
    private static var machinesBytesMax: Int { 256 << 10 }

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
        case .machines(let commands, let asks):
            var bytes = ByteWriter(capacity: 5 + commands.count * 4)
            bytes.write(asks)
            bytes.write(UInt32(commands.count))
            for number in commands {
                bytes.write(number.machine)
                bytes.write(number.command)
            }
            writer.write(3 as UInt8)
            writer.writeWithLength(bytes.take())
        case .digest(let word):
            var bytes = ByteWriter(capacity: word.encodedBytes)
            word.encode(into: &bytes)
            writer.write(4 as UInt8)
            writer.writeWithLength(bytes.take())
        case .migration(let word):
            var bytes = ByteWriter(capacity: 64)
            word.encode(into: &bytes)
            writer.write(5 as UInt8)
            writer.writeWithLength(bytes.take())
        case .load(let word):
            var bytes = ByteWriter(capacity: 64)
            word.encode(into: &bytes)
            writer.write(6 as UInt8)
            writer.writeWithLength(bytes.take())
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
        case 3:
            var bytes = ByteReader(try reader.readBytesWithLength(limit: Self.machinesBytesMax))
            let asks = try bytes.readBool()
            let count = Int(try bytes.read(UInt32.self))
            try bytes.check(count: count, ofSize: 4)
            var commands: [MachineCommandNumber] = []
            commands.reserveCapacity(count)
            for _ in 0..<count {
                commands.append(MachineCommandNumber(machine: try bytes.read(), command: try bytes.read()))
            }
            // What may stand behind it is a later version's.
            self = .machines(commands, asks: asks)
        case 4:
            var bytes = ByteReader(try reader.readBytesWithLength(limit: DigestWord.encodedBytesMax))
            // The same.
            self = .digest(try DigestWord(from: &bytes))
        case 5:
            var bytes = ByteReader(try reader.readBytesWithLength(limit: Self.mapBytesMax))
            self = .migration(try MigrationWord(from: &bytes))
        case 6:
            var bytes = ByteReader(try reader.readBytesWithLength(limit: LoadWord.encodedBytesMax))
            self = .load(try LoadWord(from: &bytes))
        default:
            _ = try reader.readBytesWithLength(limit: Self.mapBytesMax)
            self = .unknown(kind)
        }
    }

    static let encodedBytesMin = 5
}
