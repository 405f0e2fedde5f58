// A store that the first version of the format wrote, and that every later version reads.
//
// `Samples/store-v1/data.mdb` was made by `BIFROST_WRITE_SAMPLES=<this directory's Samples> Tools/test --filter
// StoreSampleTests`, which writes a sample that is missing and never replaces one.

import Foundation
import Primitives
import Storage
import Testing

@Suite struct StoreSampleTests {
    private static let settings = LMDBDisk.Settings(mapBytes: 1 << 20)

    /// Two runs: small records, a value in blocks of its own, one in overflow chunks, tombstones, every field in use.
    private static let first: [Record] = (1...200 as ClosedRange<UInt64>).map { number in
        Record(
            key: storeKey(UInt16(number % 11), "sample \(number)", machine: UInt16(1 + number % 2)),
            revision: Revision(number),
            changed: LogIndex(number * 2), expiry: LogTime(number % 5 == 0 ? number * 1_000 : 0),
            value: number % 20 == 0 ? nil : storeValue(number == 50 ? 70_000 : number == 60 ? 6_000 : 25, number))
    }
    private static let second = [
        Record(key: first[0].key, revision: Revision(201), changed: LogIndex(401), value: "changed"),
        Record(key: first[1].key, revision: Revision(202), changed: LogIndex(402), value: nil),
        Record(
            key: RecordKey(slot: .group, machine: SubMachineNumber(2), key: Bytes()), revision: Revision(203),
            changed: LogIndex(403), value: Bytes()),
    ]

    private static func header(_ index: UInt64) -> ManifestHeader {
        ManifestHeader(
            group: GroupID(3), replica: ReplicaID(7), index: LogIndex(index), term: Term(4),
            revision: Revision(index / 2),
            logTime: LogTime(index * 10),
            configuration: Configuration(
                index: LogIndex(9), voters: [ReplicaID(7), ReplicaID(8)], outgoing: [ReplicaID(5)],
                learners: [ReplicaID(6)]),
            digest: 0x1122_3344_5566_7788, journal: 99, journalSequence: index + 1)
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"] != nil))
    func writeTheSample() throws {
        let samples = try #require(ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"])
        let path = samples + "/store-v1"
        guard !FileManager.default.fileExists(atPath: path + "/data.mdb") else { return }
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        do {
            let store = try Store(
                disk: try LMDBDisk(directory: path, settings: Self.settings), formatting: storeIdentity)
            try store.start(Self.header(0))
            try store.checkpoint(frozen(Self.first), Self.header(400))
            try store.merge(ReplicaID(7), range: 0..<1, tombstonesThrough: LogIndex(80))
            while try store.reclaim() > 0 {}
            try store.checkpoint(frozen(Self.second), Self.header(403))
        }
        for file in ["lock.mdb", "LOCK"] { try FileManager.default.removeItem(atPath: path + "/" + file) }
    }

    @Test func theFirstVersionsStoreIsReadAsItWasWritten() throws {
        let source = try #require(Bundle.module.url(forResource: "Samples/store-v1/data", withExtension: "mdb"))
        let directory = StoreDirectory()
        try FileManager.default.copyItem(at: source, to: URL(fileURLWithPath: directory.path + "/data.mdb"))
        let store = try Store(disk: try LMDBDisk(directory: directory.path, settings: Self.settings))
        #expect(store.identity == storeIdentity)
        #expect(store.damaged().isEmpty)
        let manifest = try #require(store.manifest(of: ReplicaID(7)))
        #expect(manifest.header == Self.header(403))
        #expect(manifest.horizon == LogIndex(80))
        #expect(manifest.edits == 3)
        #expect(manifest.runs.map(\.id.rawValue) == [2, 3])
        #expect(manifest.runs.map(\.records) == [198, 3])
        #expect(manifest.runs.map(\.tombstones) == [8, 1])
        var model: [RecordKey: Record] = [:]
        for record in Self.first where !(record.isTombstone && record.changed <= LogIndex(80)) {
            model[record.key] = record
        }
        for record in Self.second { model[record.key] = record }
        let view = try #require(store.view(ReplicaID(7)))
        let all = try allRecords(store, view, tombstones: true)
        #expect(all == model.values.sorted { $0.key < $1.key })
        for record in model.values {
            let lookup = try store.get(record.key, in: view)
            #expect(lookup == (record.isTombstone ? .tombstone(record) : .found(record)))
        }
        // It does not know which replicas were ever here: what it is told stays, and only grows.
        #expect(store.removedThrough == nil)
        try store.remove(ReplicaID(12))
        #expect(store.removedThrough == nil)
        try store.learnRemoved(through: ReplicaID(9))
        try store.learnRemoved(through: ReplicaID(8))
        let again = try Store(disk: store.disk)
        #expect(again.removedThrough == ReplicaID(9) && again.identity == storeIdentity)
        #expect(again.manifest(of: ReplicaID(7)) == manifest)
    }
}
