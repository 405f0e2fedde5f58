import Primitives
import Ring
import TestSupport
import Testing

/// Migrations as the map has them, byte by byte: the samples of whole maps are ClusterMapSampleTests'.
@Suite struct MigrationRecordTests {
    private func hex(_ encode: (inout ByteWriter) -> Void) -> String {
        var writer = ByteWriter()
        encode(&writer)
        return writer.take().array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func bytes(_ hex: String) -> Bytes {
        let digits = Array(hex.utf8)
        return Bytes(
            stride(from: 0, to: digits.count, by: 2).map {
                UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)!
            })
    }

    private func migration(_ hex: String) throws -> MigrationRecord {
        var reader = ByteReader(bytes(hex))
        let record = try MigrationRecord(from: &reader)
        try reader.expectEnd()
        return record
    }

    private func join(_ parts: String...) -> String { parts.joined() }
    /// In little-endian, as all integers.
    private func long(_ byte: String) -> String { byte + "00000000000000" }

    private let runs = "02000000" + "01000200" + "05000100"
    private var slots: [Slot] { [Slot(1), Slot(2), Slot(5)] }

    private var samples: [(record: MigrationRecord, bytes: String)] {
        let start = join("0100", long("07"), "01000000", "02000000")
        var aborted = MigrationRecord(
            id: MigrationID(7), slots: slots, source: GroupID(1), target: GroupID(2), state: .aborting,
            isSourceDone: true)
        aborted.lostTime = LostTime(millis: 0x0102)
        return [
            (
                MigrationRecord(
                    id: MigrationID(7), slots: slots, source: GroupID(1), target: GroupID(2),
                    limits: MigrationLimits(bytesPerSecondMax: 3, pauseMillisMax: 50)),
                join(start, long("03"), "32000000", "01", long("00"), long("00"), long("00"), "00", "00000000", runs)
            ),
            (
                MigrationRecord(
                    id: MigrationID(7), slots: slots, source: GroupID(1), target: GroupID(2), state: .released,
                    sourceIndex: LogIndex(8), sourceRevision: Revision(9), digest: 10),
                join(start, long("00"), "00000000", "03", long("08"), long("09"), long("0a"), "00", "00000000", runs)
            ),
            (
                aborted,
                join(start, long("00"), "00000000", "05", long("00"), long("00"), long("00"), "01", "02010000", runs)
            ),
            (
                MigrationRecord(
                    id: MigrationID(7), slots: slots, source: GroupID(1), target: GroupID(2), state: .settling,
                    isSourceDone: true, isTargetDone: true),
                join(start, long("00"), "00000000", "06", long("00"), long("00"), long("00"), "03", "00000000", runs)
            ),
        ]
    }

    @Test func bytesAreFrozen() throws {
        for (record, bytes) in samples {
            #expect(hex { record.encode(into: &$0) } == bytes)
            #expect(try migration(bytes) == record)
        }
        let states: [MigrationRecord.State] = [.copying, .committed, .released, .activated, .aborting, .settling]
        #expect(states.map(\.rawValue) == [1, 2, 3, 4, 5, 6] && states.count == MigrationRecord.State.allCases.count)
    }

    @Test func strangeOnesAreRefused() throws {
        let good = bytes(samples[0].bytes)
        // Version, state, who is done, and of the slots: runs, the first one's length, the second one's beginning.
        for (place, byte) in [
            (0, 0), (0, 2), (30, 0), (30, 7), (55, 4), (60, 0), (60, 3), (66, 0), (68, 2), (68, 3),
        ] as [(Int, UInt8)] {
            var array = good.array
            array[place] = byte
            #expect(throws: DecodingFailure.self, "\(place)") {
                var reader = ByteReader(Bytes(array))
                _ = try MigrationRecord(from: &reader)
            }
        }
        mutate(good, seed: 7) { bytes in
            var reader = ByteReader(bytes)
            guard let record = try? MigrationRecord(from: &reader) else { return }
            #expect(!record.slots.isEmpty && record.slots.count <= MigrationRecord.slotsMax)
        }
    }

    /// Version 1 stays what hosts of before write and read, as long as nothing moves.
    @Test func aMapHasAnotherVersionWhileSlotsMove() throws {
        let host = HostRecord(
            id: HostID(1), name: "n", address: "a", incarnation: Incarnation(3), featureLevel: FeatureLevel.migrations)
        let groups = (0...2 as ClosedRange<UInt32>).map { id in
            GroupRecord(
                id: GroupID(id), weight: id == 0 ? 0 : 100,
                replicas: [ReplicaRecord(id: ReplicaID(UInt64(id) + 1), host: HostID(1))],
                preferredLeader: ReplicaID(UInt64(id) + 1))
        }
        var map = ClusterMap(
            cluster: ClusterID(high: 1, low: 2), version: 9, featureLevel: FeatureLevel.migrations, hosts: [host],
            groups: groups, ring: SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count)),
            nextHost: HostID(2), nextGroup: GroupID(3), nextReplica: ReplicaID(4))
        let numbers = join(
            long("01"), long("02"), long("09"), "0b000000", long("02"), "03000000", long("04"), "01000000", "03000000")
        let hosts = hex { host.encode(into: &$0) }
        let rest = groups.map { group in hex { group.encode(into: &$0) } }.joined() + hex { map.ring.encode(into: &$0) }
        #expect(hex { map.head.encode(into: &$0) } == "0100" + numbers)
        #expect(hex { map.encode(into: &$0) } == join("0100", "0100", numbers, hosts, rest))
        map.migrations = [samples[0].record]
        #expect(hex { map.head.encode(into: &$0) } == join("0200", numbers, "01000000"))
        let moving = join("0200", "0200", numbers, "01000000", hosts, rest, "01000000", samples[0].bytes)
        #expect(hex { map.encode(into: &$0) } == moving)
        var reader = ByteReader(bytes(moving))
        #expect(try ClusterMap(from: &reader) == map && reader.isAtEnd)
    }
}
