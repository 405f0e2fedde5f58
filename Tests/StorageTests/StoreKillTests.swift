// A process that checkpoints, merges and reclaims is killed with SIGKILL at random moments; every replica then stands
// at
// a whole checkpoint, at or above the last one that was acknowledged, and no garbage is left.

import Foundation
import Primitives
import Storage
import Testing

@Suite(.serialized) struct StoreKillTests {
    @Test func aKilledProcessLeavesWholeCheckpointsOnly() throws {
        var random = SeededRandom(seed: 3)
        var checkpoints = 0
        for life in 0..<10 as Range<UInt64> {
            let directory = StoreDirectory()
            var acknowledged: [UInt64: UInt64] = [:]
            var models: [UInt64: StoreKillModel] = [1: StoreKillModel(replica: 1), 2: StoreKillModel(replica: 2)]
            for round in 0..<10 as Range<UInt64> {
                let lines = try runAndKill(
                    mode: "store", directory: directory.path, seed: life * 100 + round,
                    afterMicroseconds: 5_000 + random.below(100_000))
                for line in lines {
                    let words = line.split(separator: " ").compactMap { UInt64($0) }
                    acknowledged[words[0]] = words[1]
                    checkpoints += 1
                }
                let disk = try LMDBDisk(directory: directory.path, settings: .init(mapBytes: 1 << 20))
                let store: Store<LMDBDisk>
                do {
                    store = try Store(disk: disk)
                } catch let error as DiskError where error.code == .refused {
                    // Killed before the superblock was written.
                    try #require(acknowledged.isEmpty)
                    continue
                }
                try #require(store.damaged().isEmpty)
                for replica in 1...2 as ClosedRange<UInt64> {
                    guard let view = store.view(ReplicaID(replica)) else {
                        try #require(acknowledged[replica] == nil)
                        continue
                    }
                    try #require(view.manifest.index.rawValue >= acknowledged[replica] ?? 0)
                    models[replica]!.advance(to: view.manifest.index.rawValue)
                    let expected = models[replica]!.records.values.filter { !$0.isTombstone }.sorted { $0.key < $1.key }
                    let found = try allRecords(store, view, recordsMax: 1_000)
                    try #require(found == expected)
                }
                try expectNoGarbage(disk, store)
            }
        }
        #expect(checkpoints > 200)
    }

    private func expectNoGarbage(_ disk: LMDBDisk, _ store: Store<LMDBDisk>) throws {
        var chunks = 0
        try disk.read { reader in
            try reader.scan(from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)) { _, _ in
                chunks += 1
                return true
            }
        }
        try #require(chunks == store.manifests().reduce(0) { $0 + $1.chunks })
    }
}

/// What the helper's replica holds as of an index.
struct StoreKillModel {
    var replica: UInt64
    var index: UInt64 = 0
    var records: [RecordKey: Record] = [:]

    init(replica: UInt64) { self.replica = replica }

    mutating func advance(to end: UInt64) {
        while index < end {
            index += 1
            var random = SeededRandom(seed: replica << 48 ^ index)
            let key = RecordKey(
                slot: Slot(UInt16(random.below(50))), machine: SubMachineNumber(1),
                key: Bytes("key \(random.below(40))"))
            let isDeleted = random.below(4) == 0
            let count = random.below(200) == 0 ? 100_000 : Int(random.below(900))
            let fill = UInt8(truncatingIfNeeded: random.next())
            records[key] = Record(
                key: key, revision: Revision(index), changed: LogIndex(index),
                value: isDeleted ? nil : Bytes(Array(repeating: fill, count: count)))
        }
    }
}
