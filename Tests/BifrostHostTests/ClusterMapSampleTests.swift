// A copy of the cluster map that the first version of the format wrote, and that every later version reads.
//
// `Samples/cluster-map-v1` was made by `BIFROST_WRITE_SAMPLES=<this directory's Samples> Tools/test --filter
// ClusterMapSampleTests`, which writes a sample that is missing and never replaces one.

import BifrostHost
import Foundation
import Primitives
import Ring
import Testing

@Suite struct ClusterMapSampleTests {
    /// Every field in use: zones, weights, names of more than ASCII, a group with replicas on some hosts only, slots of
    /// two epochs.
    private static func map() -> ClusterMap {
        let hosts = (1...4 as ClosedRange<UInt64>).map { number in
            HostRecord(
                id: HostID(number), name: number == 1 ? "Höðr" : "host-\(number)", address: "10.0.0.\(number):7001",
                zone: number < 3 ? "east" : "", weight: UInt32(number * 50),
                incarnation: Incarnation(0x0102_0304_0506_0700 + number), featureLevel: 1)
        }
        func replicas(_ first: UInt64, on hosts: [UInt64]) -> [ReplicaRecord] {
            hosts.enumerated().map { ReplicaRecord(id: ReplicaID(first + UInt64($0.offset)), host: HostID($0.element)) }
        }
        let groups = [
            GroupRecord(
                id: .meta, weight: 0, replicas: replicas(1, on: [1, 2, 3, 4]), preferredLeader: ReplicaID(2)),
            GroupRecord(id: GroupID(1), replicas: replicas(5, on: [1, 2, 3]), preferredLeader: ReplicaID(5)),
            GroupRecord(
                id: GroupID(7), weight: 300, replicas: replicas(8, on: [4, 2, 3]), preferredLeader: ReplicaID(9)),
        ]
        var ring = SlotTable(epoch: Epoch(3), owners: (0..<Slot.count).map { GroupID($0 < 6_000 ? 1 : 7) })
        ring.assign([Slot(5), Slot(16_383)], to: GroupID(1))
        return ClusterMap(
            cluster: ClusterID(high: 0x1122_3344_5566_7788, low: 0x99aa_bbcc_ddee_ff01), version: 12, featureLevel: 1,
            hosts: hosts, groups: groups, ring: ring, nextHost: HostID(6), nextGroup: GroupID(9),
            nextReplica: ReplicaID(14))
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"] != nil))
    func writeTheSample() throws {
        let path = try #require(ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"]) + "/cluster-map-v1"
        guard !FileManager.default.fileExists(atPath: path) else { return }
        #expect(Self.map().problem() == nil)
        try Self.data(ClusterMapFile.encoded(Self.map())).write(to: URL(fileURLWithPath: path))
    }

    private static func data(_ bytes: Bytes) -> Data { bytes.withUnsafeBytes { Data($0) } }

    private static func sample() throws -> Data {
        let source = try #require(Bundle.module.url(forResource: "Samples/cluster-map-v1", withExtension: nil))
        return try Data(contentsOf: source)
    }

    @Test func theFirstVersionsMapIsReadAsItWasWritten() throws {
        let bytes = try Self.sample().withUnsafeBytes { Bytes(copying: $0) }
        #expect(try ClusterMapFile.decoded(bytes, name: "sample") == Self.map())
    }

    /// Other hosts of the cluster may run the version before: as long as the version is 1, its bytes stay.
    @Test func theSameBytesAreWrittenToday() throws {
        #expect(try Self.data(ClusterMapFile.encoded(Self.map())) == Self.sample())
    }

    @Test func eachFlippedBitAndEachCutIsAnErrorThatSaysWhatToDo() throws {
        let sample = try Self.sample()
        func refuse(_ data: Data, _ what: String) {
            let bytes = data.withUnsafeBytes { Bytes(copying: $0) }
            let error = #expect(throws: HostError.self, "\(what)") {
                try ClusterMapFile.decoded(bytes, name: "cluster-map")
            }
            let message = error?.message ?? ""
            #expect(message.hasPrefix("cluster-map "), "\(what): \(message)")
            #expect(
                message.contains("copy the same file") || message.contains("Use a newer one"), "\(what): \(message)")
        }
        for bit in 0..<sample.count * 8 {
            var damaged = sample
            damaged[bit / 8] ^= 1 << (bit % 8)
            refuse(damaged, "bit \(bit)")
        }
        for length in 0..<sample.count { refuse(sample.prefix(length), "\(length) bytes") }
    }
}
