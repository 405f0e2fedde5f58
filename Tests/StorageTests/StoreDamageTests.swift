// Damage never becomes an answer, and never a trap: whatever bytes the disk has, a read is right or throws.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct StoreDamageTests {
    static let records: [Record] = (0..<3_000 as Range<UInt64>).map { number in
        let size = number == 1_000 ? 200_000 : number % 100 == 0 ? 9_000 : 40
        return Record(
            key: storeKey(UInt16(number % 9), "record \(number)"), revision: Revision(number + 1),
            changed: LogIndex(number + 1),
            value: number % 50 == 3 ? nil : storeValue(size, number))
    }

    /// Three runs; the first two thirds of the records are in the first.
    func make(_ disk: SimulatedDisk) throws {
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        try store.checkpoint(frozen(Array(Self.records[0..<2_000])), storeHeader(2_000))
        try store.checkpoint(frozen(Array(Self.records[2_000..<2_500])), storeHeader(2_500))
        try store.checkpoint(frozen(Array(Self.records[2_500...])), storeHeader(3_000))
    }

    @Test(arguments: 0..<40 as Range<UInt64>) func everyFlippedBitShowsOrDoesNotMatter(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let disk = SimulatedDisk(seed: seed)
        try make(disk)
        let contents = disk.contents()
        let chunks = contents.filter { $0.key.table == 3 }
        let live = Self.records.filter { !$0.isTombstone }.sorted { $0.key < $1.key }
        let (key, original) = chunks[Int(random.below(UInt64(chunks.count)))]
        for _ in 0..<6 {
            for _ in 0...random.below(3) { disk.flipBit(in: key, bit: Int(random.below(UInt64(original.count * 8)))) }
            try readAll(disk, live, &random)
            restore(disk, contents)
        }
        // Other bytes altogether, and another chunk in this one's place.
        for bytes in [
            storeValue(original.count, seed), original[0..<original.count / 2],
            chunks[Int(random.below(UInt64(chunks.count)))].value, Bytes(),
        ] {
            disk.plant(key, bytes)
            try readAll(disk, live, &random)
            restore(disk, contents)
        }
        disk.plant(key, nil)
        let store = try Store(disk: disk)
        #expect(store.damaged().map(\.replica) == [ReplicaID(7)])
        #expect(store.view(ReplicaID(7)) == nil)
        #expect(
            disk.contents().count(where: { $0.key.table == 3 }) == chunks.count - 1,
            "nothing is collected beside damage")
        try store.remove(ReplicaID(7))
        #expect(try Store(disk: disk).damaged().isEmpty)
        #expect(disk.contents().allSatisfy { $0.key.table == 1 })
    }

    /// The disk as it was before damage and merge.
    private func restore(_ disk: SimulatedDisk, _ contents: [(key: DiskKey, value: Bytes)]) {
        for item in disk.contents() { disk.plant(item.key, nil) }
        for item in contents { disk.plant(item.key, item.value) }
    }

    private func readAll(_ disk: SimulatedDisk, _ live: [Record], _ random: inout SeededRandom) throws {
        let store = try Store(disk: disk)
        guard let view = store.view(ReplicaID(7)) else { return }
        expectRightOrCorrupt {
            let all = try allRecords(store, view, recordsMax: 500)
            #expect(all == live)
        }
        for _ in 0..<60 {
            let record = Self.records[Int(random.below(UInt64(Self.records.count)))]
            expectRightOrCorrupt {
                let lookup = try store.get(record.key, in: view)
                #expect(lookup == (record.isTombstone ? .tombstone(record) : .found(record)))
            }
            expectRightOrCorrupt {
                let lookup = try store.get(storeKey(UInt16(random.below(9)), "none \(random.below(99))"), in: view)
                #expect(lookup == .absent)
            }
        }
        expectRightOrCorrupt {
            guard try store.merge(ReplicaID(7), range: 1..<3) != nil else { return }
            let all = try allRecords(store, store.view(ReplicaID(7))!, recordsMax: 500)
            #expect(all == live)
        }
    }

    private func expectRightOrCorrupt(_ body: () throws -> Void) {
        do {
            try body()
        } catch let error as DiskError {
            #expect(error.code == .corrupt || error.code == .refused)
            #expect(error.message.contains("replica 7, run "))
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test func everyFlippedBitOfAManifestShows() throws {
        let disk = SimulatedDisk(seed: 1)
        try make(disk)
        let contents = disk.contents()
        let (key, manifest) = contents.first { $0.key.table == 2 }!
        for bit in 0..<manifest.count * 8 {
            disk.flipBit(in: key, bit: bit)
            let store = try Store(disk: disk)
            #expect(store.damaged().map(\.replica) == [ReplicaID(7)])
            #expect(store.manifests().isEmpty)
            #expect(code { try store.start(storeHeader(0)) } == .corrupt)
            disk.plant(key, manifest)
        }
        #expect(disk.contents().map(\.key) == contents.map(\.key), "a bad manifest's runs stay")
        #expect(try Store(disk: disk).damaged().isEmpty)
        // In another replica's place.
        disk.plant(DiskKey(table: 2, high: 12), manifest)
        #expect(try Store(disk: disk).damaged().map(\.replica) == [ReplicaID(12)])
    }

    @Test func aChunkCutShortShows() throws {
        let disk = SimulatedDisk(seed: 1)
        try make(disk)
        let first = disk.contents().first { $0.key.table == 3 }!
        for length in 0..<80 {
            disk.plant(first.key, first.value[0..<length])
            let store = try Store(disk: disk)
            #expect(code { _ = try allRecords(store, store.view(ReplicaID(7))!) } == .corrupt)
        }
    }
}
