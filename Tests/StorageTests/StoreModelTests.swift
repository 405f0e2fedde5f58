// One model-based suite for every disk: what passes on the simulated disk and fails on LMDB, or the other way round,
// would make the simulation say nothing about the disk.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct StoreModelTests {
    @Test(arguments: 0..<60 as Range<UInt64>) func onTheSimulatedDisk(seed: UInt64) throws {
        let fixture = SimulatedFixture(seed: seed)
        try StoreModel(seed: seed, fixture) { random in
            // At any transaction of a checkpoint: a failed write, there or not there after the restart, or the end of
            // the process.
            switch random.below(4) {
            case 0: fixture.set(.everyWriteFails)
            case 1: fixture.disk.faults.nextWriteFailsButStays = true
            default:
                fixture.disk.faults.transactionsUntilEnd = Int(random.below(12))
                fixture.disk.faults.endsBehindTransaction = random.below(2) == 0
            }
        }.run(steps: 400)
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func onLMDB(seed: UInt64) throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 30), isInMemory: true)
        try StoreModel(seed: seed, fixture) { _ in try fixture.set(.everyWriteFails) }.run(steps: 300)
    }
}

private struct Stop: Error {}

/// Random work on a store beside a dictionary that does the same.
final class StoreModel<Fixture: DiskFixture> {
    private var random: SeededRandom
    private let fixture: Fixture
    private var disk: Fixture.Storage { fixture.disk }
    /// Nil only while the disk is reopened.
    private var open: Store<Fixture.Storage>?
    private var store: Store<Fixture.Storage> { open! }
    /// Makes something fail that the store does next.
    private let fault: (inout SeededRandom) throws -> Void
    private let settings = StoreSettings(
        cacheBytesMax: 100_000, runsMax: 4, transactionBytesMax: 200_000, deletionsMax: 5)
    private var replicas: [Replica] = []

    private struct Replica {
        var id: ReplicaID
        var memtable = Memtable()
        var index: UInt64 = 0
        var live: [RecordKey: Record] = [:]
        var durable: [RecordKey: Record] = [:]
        var durableIndex: UInt64 = 0
        var horizon = LogIndex.zero
        /// Views taken earlier, and what they must go on to show.
        var views: [(StoreView, [RecordKey: Record])] = []
    }

    init(seed: UInt64, _ fixture: Fixture, fault: @escaping (inout SeededRandom) throws -> Void) throws {
        random = SeededRandom(seed: seed)
        self.fixture = fixture
        self.fault = fault
        open = try Store(disk: fixture.disk, formatting: storeIdentity, settings: settings)
    }

    func run(steps: Int) throws {
        for id in 1...3 as ClosedRange<UInt64> {
            try store.start(storeHeader(0, replica: id))
            replicas.append(Replica(id: ReplicaID(id)))
        }
        for _ in 0..<steps {
            let n = Int(random.below(UInt64(replicas.count)))
            switch random.below(100) {
            case 0..<50: for _ in 0...random.below(60) { put(n) }
            case 50..<65: try checkpoint([n])
            case 65..<69: try checkpoint(Array(replicas.indices))
            case 69..<75: try merge(n)
            case 75..<80:
                if let view = store.view(replicas[n].id) { replicas[n].views.append((view, replicas[n].durable)) }
            case 80..<84:
                if !replicas[n].views.isEmpty {
                    replicas[n].views.remove(at: Int(random.below(UInt64(replicas[n].views.count))))
                }
            case 84..<88: _ = try store.reclaim()
            case 88..<91: try restart()
            case 91..<93: try abortedCheckpoint(n)
            case 93: try checkpointOnAFullDisk(n)
            case 94..<96: try failedCheckpoint(n)
            default: try verify(n)
            }
        }
        for n in replicas.indices { try verify(n) }
        try restart()
        for n in replicas.indices { try verify(n) }
        try expectNoGarbage()
    }

    private func put(_ n: Int, bytes: Int? = nil) {
        replicas[n].index += 1
        let index = replicas[n].index
        let key = storeKey(UInt16(random.below(5)), "key \(random.below(120))")
        let size: Int
        switch random.below(300) {
        case 0: size = 66_000 + Int(random.below(140_000))
        case 1..<20: size = Int(random.below(20_000))
        default: size = Int(random.below(300))
        }
        let value = bytes == nil && random.below(4) == 0 ? nil : storeValue(bytes ?? size, index)
        let record = Record(
            key: key, revision: Revision(index), changed: LogIndex(index), expiry: LogTime(random.below(3)),
            value: value)
        replicas[n].memtable.put(record)
        replicas[n].live[key] = record
    }

    private func checkpoint(_ numbers: [Int]) throws {
        let parts = numbers.map {
            CheckpointPart(
                replicas[$0].memtable.freeze(), storeHeader(replicas[$0].index, replica: replicas[$0].id.rawValue))
        }
        // While it is written, a reader sees the frozen memtable over the old runs.
        let n = numbers[0]
        let view = store.view(replicas[n].id, frozen: parts[0].frozen)!
        try expect(view, replicas[n].live)
        let manifests = try store.checkpoint(parts)
        for (n, manifest) in zip(numbers, manifests) {
            #expect(manifest.index.rawValue == replicas[n].index)
            replicas[n].durable = replicas[n].live
            replicas[n].durableIndex = replicas[n].index
        }
        try expect(view, replicas[n].live)
    }

    /// A checkpoint, and a merge, find no space: everything is as before, and they succeed when there is some.
    private func checkpointOnAFullDisk(_ n: Int) throws {
        for _ in 0..<40 { put(n) }
        let id = replicas[n].id
        let before = store.manifest(of: id)
        let part = CheckpointPart(
            replicas[n].memtable.freeze(), storeHeader(replicas[n].index, replica: id.rawValue))
        try fixture.set(.noSpace)
        #expect(code { _ = try store.checkpoint([part]) } == .full)
        if before!.runs.count > 1 {
            #expect(code { _ = try store.merge(id, range: 0..<before!.runs.count) } == .full)
        }
        #expect(store.manifest(of: id) == before)
        try expect(store.view(id, frozen: part.frozen)!, replicas[n].live)
        try fixture.set(.none)
        try store.checkpoint([part])
        replicas[n].durable = replicas[n].live
        replicas[n].durableIndex = replicas[n].index
        try verify(n)
    }

    /// A checkpoint of several transactions does not come to its end: after a restart it is there as a whole, or
    /// nothing of it.
    private func failedCheckpoint(_ n: Int) throws {
        for _ in 0..<40 { put(n) }
        for _ in 0..<random.below(8) { put(n, bytes: 180_000) }
        let live = replicas[n].live
        let index = replicas[n].index
        let frozen = replicas[n].memtable.freeze()
        try fault(&random)
        do {
            try store.checkpoint(frozen, storeHeader(index, replica: replicas[n].id.rawValue))
            // The fault is still to come, and hits something that is nobody's: the restart ends it.
            replicas[n].durable = live
            replicas[n].durableIndex = index
        } catch {
            #expect((error as? DiskError)?.code == .failed || error is SimulatedProcessEnd)
        }
        try restart { store in
            guard store.manifest(of: self.replicas[n].id)?.index.rawValue == index else { return }
            self.replicas[n].durable = live
            self.replicas[n].durableIndex = index
            self.replicas[n].live = live
            self.replicas[n].index = index
        }
        try expectNoGarbage()
        try verify(n)
    }

    /// The store thread is told to stop in the middle: nothing of it may stay.
    private func abortedCheckpoint(_ n: Int) throws {
        for _ in 0..<40 { put(n) }
        var large = storeKey(9, "large")
        large.slot = Slot(9)
        replicas[n].index += 1
        let record = Record(
            key: large, revision: Revision(replicas[n].index), changed: LogIndex(replicas[n].index),
            value: storeValue(700_000, 1))
        replicas[n].memtable.put(record)
        let before = store.manifest(of: replicas[n].id)
        let frozen = replicas[n].memtable.freeze()
        #expect(throws: Stop.self) {
            try store.checkpoint(frozen, storeHeader(replicas[n].index, replica: replicas[n].id.rawValue)) {
                throw Stop()
            }
        }
        #expect(store.manifest(of: replicas[n].id) == before)
        // As after a crash of the process: the host would replay the journal.
        replicas[n].live = replicas[n].durable
        replicas[n].index = replicas[n].durableIndex
    }

    private func merge(_ n: Int) throws {
        let manifest = store.manifest(of: replicas[n].id)!
        let count = manifest.runs.count
        let range: Range<Int>?
        if count >= 2, random.below(2) == 0 {
            let first = Int(random.below(UInt64(count - 1)))
            range = first..<first + 2 + Int(random.below(UInt64(count - first - 1)))
        } else {
            range = nil
        }
        guard let merged = try store.merge(replicas[n].id, range: range) else { return }
        #expect(merged.horizon >= replicas[n].horizon)
        if let range, range.lowerBound > 0 { #expect(merged.horizon == replicas[n].horizon) }
        replicas[n].horizon = merged.horizon
        // An increment on a base at or above the horizon misses no deletion: each one after it is still there.
        let view = store.view(replicas[n].id)!
        let kept = Set(try allRecords(store, view, tombstones: true).filter(\.isTombstone).map(\.key))
        for record in replicas[n].durable.values where record.isTombstone && record.changed > merged.horizon {
            #expect(kept.contains(record.key))
        }
    }

    /// - Parameter found: what to make of what the store turns out to hold.
    private func restart(_ found: (Store<Fixture.Storage>) -> Void = { _ in }) throws {
        for n in replicas.indices {
            replicas[n].views = []
            replicas[n].memtable = Memtable()
            replicas[n].live = replicas[n].durable
            replicas[n].index = replicas[n].durableIndex
        }
        open = nil
        try fixture.reopen()
        open = try Store(disk: disk, settings: settings)
        found(store)
        #expect(store.damaged().isEmpty)
        #expect(store.manifests().map(\.replica) == replicas.map(\.id))
        for replica in replicas { #expect(store.manifest(of: replica.id)?.horizon == replica.horizon) }
    }

    private func verify(_ n: Int) throws {
        try expect(store.view(replicas[n].id)!, replicas[n].durable)
        for (view, content) in replicas[n].views { try expect(view, content) }
        // Live memtable over the view, as a host answers a page.
        let older = try store.page(in: store.view(replicas[n].id)!, recordsMax: 1_000, bytesMax: 64 << 20)
        let page = RecordPage.overlaid(
            newer: replicas[n].memtable.page(recordsMax: 1_000, bytesMax: 64 << 20), older: older)
        #expect(page.records == replicas[n].live.values.filter { !$0.isTombstone }.sorted { $0.key < $1.key })
    }

    private func expect(_ view: StoreView, _ content: [RecordKey: Record]) throws {
        let expected = content.values.filter { !$0.isTombstone }.sorted { $0.key < $1.key }
        #expect(try allRecords(store, view) == expected)
        if let from = content.keys.randomElement(using: &random) {
            #expect(
                try store.page(in: view, from: from, recordsMax: 5).records
                    == Array(expected.filter { $0.key >= from }.prefix(5)))
        }
        for _ in 0..<10 {
            let key = storeKey(UInt16(random.below(6)), "key \(random.below(130))")
            #expect(try store.get(key, in: view).record == content[key].flatMap { $0.isTombstone ? nil : $0 })
        }
        let keys = Array(content.keys.prefix(5))
        #expect(
            try store.get(keys, in: view).map(\.record)
                == keys.map { key in content[key].flatMap { $0.isTombstone ? nil : $0 } })
    }

    /// Chunks on disk are those that manifests count, and no others.
    private func expectNoGarbage() throws {
        let named = store.manifests().flatMap { $0.runs.map(\.id.rawValue) }
        var found: [UInt64: Int] = [:]
        try disk.read { reader in
            try reader.scan(from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)) { key, value in
                found[key.high, default: 0] += 1
                #expect(value.count <= 65_520)
                return true
            }
        }
        #expect(found.keys.sorted() == named.sorted())
        for run in store.manifests().flatMap(\.runs) { #expect(found[run.id.rawValue] == run.chunks) }
    }
}
