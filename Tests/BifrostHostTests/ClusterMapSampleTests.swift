// Copies of the cluster map as versions of the format wrote them, which every later version reads: one of before groups
// changed their members, one with such changes under way, and one with slots on their way.
//
// `Samples/cluster-map-v1`, `-v2` and `-v3` are what `BIFROST_WRITE_SAMPLES=<this directory's Samples> Tools/test
// --filter ClusterMapSampleTests` makes, which writes a sample that is missing and never replaces one.

import BifrostHost
import Foundation
import Primitives
import Ring
import Testing

@Suite struct ClusterMapSampleTests {
    private static let names = ["cluster-map-v1", "cluster-map-v2", "cluster-map-v3"]

    private static func map(_ name: String) -> ClusterMap {
        name == names[0] ? map() : name == names[1] ? changedMap() : movingMap()
    }

    /// The other one's with a migration that copies, one that is decided, and one that is called off.
    private static func movingMap() -> ClusterMap {
        var map = changedMap()
        map.version = 50
        map.featureLevel = 11
        for place in map.hosts.indices { map.hosts[place].featureLevel = 11 }
        var aborted = MigrationRecord(
            id: MigrationID(50), slots: [Slot(7_000), Slot(7_001), Slot(7_002)], source: GroupID(7), target: GroupID(1),
            state: .aborting, isTargetDone: true)
        aborted.lostTime = LostTime(millis: 2_340)
        map.migrations = [
            MigrationRecord(
                id: MigrationID(41), slots: [Slot(0), Slot(1), Slot(2), Slot(9)], source: GroupID(1),
                target: GroupID(7), limits: MigrationLimits(bytesPerSecondMax: 1 << 20, pauseMillisMax: 50)),
            MigrationRecord(
                id: MigrationID(44), slots: [Slot(16_383)], source: GroupID(7), target: GroupID(1), state: .released,
                sourceIndex: LogIndex(0x0102_0304), sourceRevision: Revision(0x0506_0708),
                digest: 0x1122_3344_5566_7788), aborted,
        ]
        return map
    }

    /// The other one's with a host that drains, a move from it, a replacement, a learner, and founders that are gone.
    private static func changedMap() -> ClusterMap {
        var map = map()
        map.version = 40
        map.featureLevel = 2
        for place in map.hosts.indices { map.hosts[place].featureLevel = 2 }
        map.hosts[2].state = .draining
        map.groups[1].configurationIndex = LogIndex(0x0102_0304)
        map.groups[1].replicas[1].role = .replaced
        map.groups[1].replicas.append(
            ReplicaRecord(
                id: ReplicaID(14), host: HostID(4), membership: .learner, successorOf: map.groups[1].replicas[2].id))
        map.groups[2].configurationIndex = LogIndex(77)
        map.groups[2].founders = [ReplicaID(8), ReplicaID(9), ReplicaID(11)]
        map.groups[2].replicas[2].role = .leaving
        map.groups[2].replicas.append(
            ReplicaRecord(id: ReplicaID(15), host: HostID(1), role: .learner, membership: .absent))
        map.nextReplica = ReplicaID(16)
        return map
    }

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
    func writeTheSamples() throws {
        let folder = try #require(ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"])
        for name in Self.names where !FileManager.default.fileExists(atPath: folder + "/" + name) {
            #expect(Self.map(name).problem() == nil)
            try Self.data(ClusterMapFile.encoded(Self.map(name))).write(to: URL(fileURLWithPath: folder + "/" + name))
        }
    }

    private static func data(_ bytes: Bytes) -> Data { bytes.withUnsafeBytes { Data($0) } }

    private static func sample(_ name: String) throws -> Data {
        let source = try #require(Bundle.module.url(forResource: "Samples/" + name, withExtension: nil))
        return try Data(contentsOf: source)
    }

    @Test(arguments: names) func aMapIsReadAsItWasWritten(name: String) throws {
        let bytes = try Self.sample(name).withUnsafeBytes { Bytes(copying: $0) }
        #expect(try ClusterMapFile.decoded(bytes, name: "sample") == Self.map(name))
    }

    /// Other hosts of the cluster may run the version before: what it can read is written as it would.
    @Test(arguments: names) func theSameBytesAreWrittenToday(name: String) throws {
        #expect(try Self.data(ClusterMapFile.encoded(Self.map(name))) == Self.sample(name))
    }

    @Test(arguments: names) func eachFlippedBitAndEachCutIsAnErrorThatSaysWhatToDo(name: String) throws {
        let sample = try Self.sample(name)
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
