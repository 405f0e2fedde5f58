// Saved states in files: what is written is read, and nothing that is not sound is believed.

import BifrostSimulator
import Primitives
import Ring
import SnapshotFiles
import Storage
import TestSupport
import Testing

@Suite struct SnapshotFileTests {
    private let group = GroupID(3)

    /// A store with a state of several pieces.
    private func reader(records: Int = 40, valueBytes: Int = 20) throws -> SnapshotReader<SimulatedDisk> {
        let store = try Store(disk: SimulatedDisk(seed: 1), formatting: storeIdentity)
        try store.start(storeHeader(0))
        let records = (1...UInt64(records)).map { number in
            Record(
                key: storeKey(UInt16(number % 7), "key \(number)"), revision: Revision(number),
                changed: LogIndex(number),
                value: number % 9 == 0 ? nil : storeValue(valueBytes, number))
        }
        try store.checkpoint(frozen(records), storeHeader(UInt64(records.count), digest: 0x77))
        return try SnapshotReader(store, #require(store.view(ReplicaID(7))), base: .zero)
    }

    /// A whole file, and where each piece ends.
    private func file(_ reader: SnapshotReader<SimulatedDisk>, bytesMax: Int = 400) throws -> (
        bytes: Bytes, ends: [Int], digest: UInt64
    ) {
        let head = SnapshotFileHead(
            cluster: ClusterID(high: 1, low: 2), host: HostID(3), snapshot: 99, savedMilliseconds: 1_700_000_000_000,
            description: try reader.describe())
        var writer = ByteWriter()
        writer.write(head.encoded())
        var ends: [Int] = []
        var digest: StateDigest? = StateDigest()
        var position: RecordKey?
        repeat {
            let piece = try reader.piece(behind: position, bytesMax: bytesMax, digest: &digest)
            writer.write(SnapshotFileFrame.encoded(piece.bytes))
            ends.append(writer.count)
            position = piece.next
        } while position != nil
        let all = try #require(digest)
        writer.write(SnapshotFileEnd(pieces: UInt64(ends.count), records: all.records, digest: all.value).encoded())
        return (writer.take(), ends, all.value)
    }

    /// The file's bytes in portions of whatever size.
    private func open(_ bytes: Bytes, portion: Int = 100) throws -> SnapshotFileReader {
        var offset = 0
        return try SnapshotFileReader(file: "f") { max in
            let count = min(max, portion, bytes.count - offset)
            defer { offset += count }
            return bytes[offset..<offset + count]
        }
    }

    private func damage(_ body: () throws -> Void) -> SnapshotFileDamage? {
        do {
            try body()
            return nil
        } catch let error as SnapshotFileDamage {
            return error
        } catch {
            Issue.record("expected a SnapshotFileDamage, found \(error)")
            return nil
        }
    }

    @Test func whatIsWrittenIsReadWithTheDigestThatTheHostFound() throws {
        let source = try reader()
        let (bytes, ends, digest) = try file(source)
        #expect(ends.count > 3)
        for portion in [1, 7, 100, 100_000] {
            var file = try open(bytes, portion: portion)
            #expect(try file.head.description == source.describe() && file.head.snapshot == 99)
            var records: [Record] = []
            while let piece = try file.next() { records += piece.records }
            #expect(records.count == 36 && records == records.sorted { $0.key < $1.key })
            let end = try file.finish()
            #expect(end == SnapshotFileEnd(pieces: UInt64(ends.count), records: 36, digest: digest))
            #expect(file.hasAllPieces)
        }
    }

    @Test func theDigestDependsOnEachPartOfARecord() throws {
        let record = Record(
            key: storeKey(3, "key"), revision: Revision(4), changed: LogIndex(5), expiry: LogTime(6), value: "value")
        func digest(_ change: (inout Record) -> Void) throws -> UInt64 {
            var record = record
            change(&record)
            let store = try Store(disk: SimulatedDisk(seed: 1), formatting: storeIdentity)
            try store.start(storeHeader(0))
            try store.checkpoint(frozen([record]), storeHeader(9))
            let reader = try SnapshotReader(store, #require(store.view(ReplicaID(7))), base: .zero)
            var digest: StateDigest? = StateDigest()
            _ = try reader.piece(behind: nil, bytesMax: 1_000, digest: &digest)
            return try #require(digest).value
        }
        let all = try [
            digest { _ in }, digest { $0.key.slot = Slot(4) }, digest { $0.key.machine = SubMachineNumber(2) },
            digest { $0.key.key = "kez" }, digest { $0.revision = Revision(5) }, digest { $0.changed = LogIndex(6) },
            digest { $0.expiry = LogTime(7) }, digest { $0.value = "valuf" }, digest { $0.value = Bytes() },
        ]
        #expect(Set(all).count == all.count)
    }

    /// A save that was killed at any byte: what is sound of it is known, and no more.
    @Test func everyTruncationIsFoundAndKeepsTheSoundPieces() throws {
        let (bytes, ends, _) = try file(reader())
        for count in 0..<bytes.count {
            let cut = bytes[0..<count]
            var sound = 0
            var pieces = 0
            let found = damage {
                var file = try open(cut)
                sound = Int(file.soundBytes)
                while try file.next() != nil {
                    sound = Int(file.soundBytes)
                    pieces += 1
                }
            }
            #expect(found != nil, "cut to \(count) bytes")
            #expect(found?.file == "f" && found?.offset ?? .max <= UInt64(count))
            #expect(pieces == ends.count { $0 <= count }, "cut to \(count) bytes")
            if pieces > 0 { #expect(sound == ends[pieces - 1]) }
        }
    }

    @Test func everyFlippedBitIsFound() throws {
        let (bytes, _, _) = try file(reader(records: 12))
        for bit in 0..<bytes.count * 8 {
            var changed = bytes.array
            changed[bit / 8] ^= 1 << (bit % 8)
            let found = damage {
                var file = try open(Bytes(changed), portion: 10_000)
                _ = try file.finish()
            }
            #expect(found != nil, "bit \(bit)")
        }
    }

    @Test func piecesThatAreMissingDoubledOrOfAnotherStateAreFound() throws {
        let (bytes, ends, _) = try file(reader())
        let other = try file(reader(records: 41))
        func joined(_ parts: [Bytes]) -> Bytes {
            var writer = ByteWriter()
            for part in parts { writer.write(part) }
            return writer.take()
        }
        let wrong = [
            joined([bytes[0..<ends[0]], bytes[ends[1]..<bytes.count]]),
            joined([bytes[0..<ends[1]], bytes[ends[0]..<bytes.count]]),
            joined([bytes[0..<ends[0]], other.bytes[other.ends[0]..<other.bytes.count]]),
            joined([bytes, Bytes("x")]),
            // The end of another file with as many pieces behind these.
            joined([bytes[0..<ends[ends.count - 1]], other.bytes[other.ends[other.ends.count - 1]..<other.bytes.count]]
            ),
        ]
        for (number, bytes) in wrong.enumerated() {
            let found = damage {
                var file = try open(bytes)
                _ = try file.finish()
            }
            #expect(found != nil, "case \(number)")
        }
    }

    // MARK: The list

    private func map() throws -> ClusterMap {
        try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2),
            hosts: (1...3).map {
                HostRecord(
                    id: HostID($0), name: "h\($0)", address: "10.0.0.\($0):7001", zone: "z\($0)",
                    incarnation: Incarnation($0))
            }, groups: 3, replicas: 3, featureLevel: FeatureLevel.current)
    }

    private func list() throws -> SavedCluster {
        var map = try map()
        // A small one, so that each bit of it can be looked at.
        map.ring = SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count))
        let groups = try map.groups.map { record in
            var description = try reader().describe()
            description.group = record.id
            return SavedGroup(
                host: HostID(2), savedMilliseconds: 5, bytes: 1_000, digest: 42, description: description)
        }
        return SavedCluster(isWhole: true, beganMilliseconds: 1, endedMilliseconds: 2, map: map, groups: groups)
    }

    @Test func theListIsReadAsItWasWrittenAndEveryChangeOfItIsFound() throws {
        let list = try list()
        let bytes = list.encoded()
        #expect(try SavedCluster(bytes, file: "save") == list)
        for count in 0..<bytes.count {
            #expect(throws: SnapshotFileDamage.self, "\(count) bytes") {
                _ = try SavedCluster(bytes[0..<count], file: "save")
            }
        }
        for bit in 0..<bytes.count * 8 {
            var changed = bytes.array
            changed[bit / 8] ^= 1 << (bit % 8)
            #expect(throws: SnapshotFileDamage.self, "bit \(bit)") {
                _ = try SavedCluster(Bytes(changed), file: "save")
            }
        }
        mutate(bytes, seed: 1) { damaged in
            guard let read = try? SavedCluster(damaged, file: "save") else { return }
            #expect(read.encoded() == damaged)
        }
        var half = list
        half.groups.removeLast()
        #expect(throws: SnapshotFileDamage.self, "a whole one lacks a group") {
            _ = try SavedCluster(half.encoded(), file: "save")
        }
        half.isWhole = false
        #expect(try SavedCluster(half.encoded(), file: "save") == half)
    }

    @Test func aFileThatIsNotTheListsIsRefused() throws {
        let list = try list()
        let saved = list.groups[1]
        var head = SnapshotFileHead(
            cluster: list.map.cluster, host: HostID(2), snapshot: 1, savedMilliseconds: 5,
            description: saved.description)
        try list.check(head, of: saved, file: "f")
        head.cluster = ClusterID(high: 9, low: 9)
        #expect(throws: SnapshotFileDamage.self) { try list.check(head, of: saved, file: "f") }
        head.cluster = list.map.cluster
        head.description.index = head.description.index.next
        #expect(throws: SnapshotFileDamage.self) { try list.check(head, of: saved, file: "f") }
        let end = SnapshotFileEnd(pieces: 1, records: 1, digest: 42)
        try list.check(end, of: saved, bytes: 1_000, file: "f")
        #expect(throws: SnapshotFileDamage.self, "a wrong digest") {
            try list.check(SnapshotFileEnd(pieces: 1, records: 1, digest: 43), of: saved, bytes: 1_000, file: "f")
        }
        #expect(throws: SnapshotFileDamage.self) { try list.check(end, of: saved, bytes: 1_001, file: "f") }
    }

    // MARK: The new map

    @Test func theNewMapHasTheSameGroupsAndRingAndNothingElseInCommon() throws {
        var saved = try map()
        saved.version = 17
        saved.groups[2].weight = 250
        let cluster = ClusterID(high: 7, low: 7)
        for count in 1...5 {
            let hosts = (1...UInt64(count)).map {
                HostRecord(
                    id: HostID($0), name: "", address: "10.0.1.\($0):7001", incarnation: Incarnation(100 + $0),
                    featureLevel: FeatureLevel.current)
            }
            let map = try RestorationPlan.map(of: saved, cluster: cluster, hosts: hosts, replicas: min(3, count))
            #expect(map.problem() == nil && map.cluster == cluster && map.ring == saved.ring)
            #expect(map.featureLevel == FeatureLevel.current && map.version == 18)
            #expect(
                map.groups.map(\.id) == saved.groups.map(\.id) && map.groups.map(\.weight) == saved.groups.map(\.weight)
            )
            let old = Set(saved.groups.flatMap { $0.replicas.map(\.id) })
            let new = map.groups.flatMap { $0.replicas.map(\.id) }
            #expect(old.isDisjoint(with: new) && Set(new).count == new.count)
            #expect(
                map.groups.allSatisfy { $0.replicas.count == min(3, count) && $0.founders == $0.replicas.map(\.id) })
            var bytes = ByteWriter()
            map.encode(into: &bytes)
            var reader = ByteReader(bytes.take())
            #expect(try ClusterMap(from: &reader) == map)
        }
        #expect(throws: PlannerError.self) {
            _ = try RestorationPlan.map(of: saved, cluster: cluster, hosts: [saved.hosts[0]], replicas: 2)
        }
        // Some of the groups: slots of the others are nobody's.
        let some = try RestorationPlan.map(
            of: saved, cluster: cluster, hosts: [saved.hosts[0]], replicas: 1, groups: [GroupID(2)])
        #expect(some.problem() == nil && some.groups.map(\.id) == [.meta, GroupID(2)])
        #expect(some.groups[1].weight == 250 && some.ring.slots(of: GroupID(2)) == saved.ring.slots(of: GroupID(2)))
        #expect(some.ring.counts().map(\.group) == [GroupID(2)] && some.ring.epoch > saved.ring.epoch)
        // Nobody knows whose the slots of a migration are: of the groups that have none it can be made all the same.
        var moving = saved
        moving.replace(
            MigrationRecord(
                id: MigrationID(9), slots: [saved.ring.slots(of: GroupID(1))[0]], source: GroupID(1), target: GroupID(3)
            ))
        for groups: Set<GroupID>? in [nil, [GroupID(1)], [GroupID(3)]] {
            #expect(throws: PlannerError.self, "slots of \(groups ?? []) are moving") {
                _ = try RestorationPlan.map(
                    of: moving, cluster: cluster, hosts: [saved.hosts[0]], replicas: 1, groups: groups)
            }
        }
        let still = try RestorationPlan.map(
            of: moving, cluster: cluster, hosts: [saved.hosts[0]], replicas: 1, groups: [GroupID(2)])
        #expect(still.migrations.isEmpty && still.version == 18)
        saved.featureLevel = FeatureLevel.current + 1
        #expect(throws: PlannerError.self, "of a newer program") {
            _ = try RestorationPlan.map(of: saved, cluster: cluster, hosts: saved.hosts, replicas: 1)
        }
    }
}
