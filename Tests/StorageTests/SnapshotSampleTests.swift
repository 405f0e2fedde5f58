// A save as the first version of its formats wrote it, which every later version reads: a group's state, and the list.
//
// `Samples/save-v1` was made by `BIFROST_WRITE_SAMPLES=<this directory's Samples> Tools/test --filter
// SnapshotSampleTests`, which writes a sample that is missing and never replaces one.

import BifrostSimulator
import Foundation
import Primitives
import Ring
import SnapshotFiles
import Storage
import Testing

@Suite struct SnapshotSampleTests {
    private static let cluster = ClusterID(high: 0x1122_3344_5566_7788, low: 0x99aa_bbcc_ddee_ff01)

    /// Small records, one in overflow chunks, expiries, a tombstone that a full state leaves out, machines and slots.
    private static let records: [Record] = (1...60 as ClosedRange<UInt64>).map { number in
        Record(
            key: number == 60
                ? RecordKey(slot: .group, machine: SubMachineNumber(2), key: Bytes())
                : storeKey(UInt16(number % 7 * 2_000), "sample \(number)", machine: UInt16(1 + number % 2)),
            revision: Revision(number), changed: LogIndex(number * 2),
            expiry: LogTime(number % 5 == 0 ? number * 1_000 : 0),
            value: number == 20 ? nil : storeValue(number == 50 ? 6_000 : 25, number))
    }

    private static func file() throws -> (bytes: Bytes, saved: SavedGroup) {
        let store = try Store(disk: SimulatedDisk(seed: 1), formatting: storeIdentity)
        var header = storeHeader(120, digest: 0x8877_6655_4433_2211)
        header.term = Term(4)
        header.configuration = Configuration(
            index: LogIndex(9), voters: [ReplicaID(7), ReplicaID(8)], outgoing: [ReplicaID(5)],
            learners: [ReplicaID(6)])
        try store.start(storeHeader(0))
        try store.checkpoint(frozen(records), header)
        let reader = try SnapshotReader(store, #require(store.view(ReplicaID(7))), base: .zero)
        let description = try reader.describe()
        let head = SnapshotFileHead(
            cluster: cluster, host: HostID(3), snapshot: 0x0102_0304_0506_0708, savedMilliseconds: 1_700_000_000_123,
            description: description)
        var writer = ByteWriter()
        writer.write(head.encoded())
        var digest: StateDigest? = StateDigest()
        var position: RecordKey?
        var pieces: UInt64 = 0
        repeat {
            let piece = try reader.piece(behind: position, bytesMax: 1_000, digest: &digest)
            writer.write(SnapshotFileFrame.encoded(piece.bytes))
            pieces += 1
            position = piece.next
        } while position != nil
        let all = try #require(digest)
        writer.write(SnapshotFileEnd(pieces: pieces, records: all.records, digest: all.value).encoded())
        let bytes = writer.take()
        return (
            bytes,
            SavedGroup(
                host: HostID(3), savedMilliseconds: 1_700_000_000_123, bytes: UInt64(bytes.count), digest: all.value,
                description: description)
        )
    }

    /// The list of a save of one group of three.
    private static func list() throws -> SavedCluster {
        let hosts = (1...3 as ClosedRange<UInt64>).map { number in
            HostRecord(
                id: HostID(number), name: number == 1 ? "Höðr" : "host-\(number)", address: "10.0.0.\(number):7001",
                zone: number < 3 ? "east" : "", weight: UInt32(number * 50),
                incarnation: Incarnation(0x0102_0304_0506_0700 + number), featureLevel: 1)
        }
        let groups = [0, 3, 7].map { (number: UInt32) -> GroupRecord in
            let replicas = (1...3 as ClosedRange<UInt64>).map {
                ReplicaRecord(id: ReplicaID(UInt64(number) * 3 + $0), host: HostID($0))
            }
            return GroupRecord(
                id: GroupID(number), weight: number * 100, replicas: replicas, preferredLeader: replicas[1].id)
        }
        let map = ClusterMap(
            cluster: cluster, version: 12, featureLevel: 1, hosts: hosts, groups: groups,
            ring: SlotTable(epoch: Epoch(3), owners: (0..<Slot.count).map { GroupID($0 < 6_000 ? 3 : 7) }),
            nextHost: HostID(6), nextGroup: GroupID(9), nextReplica: ReplicaID(30))
        return SavedCluster(
            isWhole: false, beganMilliseconds: 1_700_000_000_000, endedMilliseconds: 1_700_000_009_999, map: map,
            groups: [try file().saved])
    }

    private static let names = ["group-3.state", "save"]

    private static func bytes(_ name: String) throws -> Bytes {
        name == names[0] ? try file().bytes : try list().encoded()
    }

    private static func sample(_ name: String) throws -> Bytes {
        let source = try #require(Bundle.module.url(forResource: "Samples/save-v1/" + name, withExtension: nil))
        return try Data(contentsOf: source).withUnsafeBytes { Bytes(copying: $0) }
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"] != nil))
    func writeTheSamplesOfASave() throws {
        let folder = try #require(ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"]) + "/save-v1"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        for name in Self.names where !FileManager.default.fileExists(atPath: folder + "/" + name) {
            try Self.bytes(name).withUnsafeBytes { Data($0) }.write(to: URL(fileURLWithPath: folder + "/" + name))
        }
    }

    @Test func theFirstVersionsStateIsReadAsItWasWritten() throws {
        let bytes = try Self.sample(Self.names[0])
        var offset = 0
        var reader = try SnapshotFileReader(file: "sample") { max in
            let count = min(max, bytes.count - offset)
            defer { offset += count }
            return bytes[offset..<offset + count]
        }
        #expect(reader.head.cluster == Self.cluster && reader.head.host == HostID(3))
        #expect(reader.head.snapshot == 0x0102_0304_0506_0708 && reader.head.savedMilliseconds == 1_700_000_000_123)
        let description = reader.head.description
        #expect(description.group == GroupID(3) && description.index == LogIndex(120) && description.term == Term(4))
        #expect(description.digest == 0x8877_6655_4433_2211 && description.configuration.learners == [ReplicaID(6)])
        var records: [Record] = []
        while let piece = try reader.next() { records += piece.records }
        #expect(records == Self.records.filter { !$0.isTombstone }.sorted { $0.key < $1.key })
        let end = try reader.finish()
        // The digest is part of the format, too: what computes it may not change.
        #expect(end.records == 59 && end.pieces > 3)
        let list = try SavedCluster(try Self.sample(Self.names[1]), file: "save")
        #expect(try list == Self.list())
        try list.check(reader.head, of: list.groups[0], file: "sample")
        try list.check(end, of: list.groups[0], bytes: UInt64(bytes.count), file: "sample")
    }

    @Test(arguments: names) func theSameBytesAreWrittenToday(name: String) throws {
        #expect(try Self.bytes(name) == Self.sample(name))
    }
}
