// What slots take, as the index tells it, against what they were given.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct SlotBytesTests {
    private let disk = SimulatedDisk(seed: 3)

    private static let chunkBytesMax = 65_520

    private static func encodedBytes(_ record: Record) -> UInt64 {
        UInt64(36 + record.key.key.count + (record.value?.count ?? 0))
    }

    private static func sums(_ records: some Sequence<Record>) -> [UInt64] {
        records.reduce(into: [UInt64](repeating: 0, count: Slot.count + 1)) {
            $0[Int($1.key.slot.rawValue)] += encodedBytes($1)
        }
    }

    /// Some records of some slots: many small ones, and some that take chunks of their own.
    private static func records(_ slots: [Slot], _ index: UInt64, _ random: inout SeededRandom) -> [RecordKey: Record] {
        var records: [RecordKey: Record] = [:]
        for slot in slots + [.group] where random.below(4) > 0 {
            let isFat = random.below(64) == 0
            for number in 0..<(isFat ? 400 : random.below(6)) {
                let sizes: [UInt64] = [0, 40, 400, 3_000, 3_000, 30_000, 60_000, 300_000]
                let most = sizes[Int(random.below(isFat ? 4 : random.below(8) == 0 ? 8 : 5))]
                let key = RecordKey(
                    slot: slot, machine: SubMachineNumber(UInt16(random.below(3))),
                    key: storeValue(Int(random.below(40)), index << 32 | UInt64(slot.rawValue) << 16 | UInt64(number)))
                records[key] = Record(
                    key: key, revision: Revision(index), changed: LogIndex(index),
                    value: random.below(20) == 0 ? nil : storeValue(Int(random.below(most + 1)), index))
            }
        }
        return records
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func eachSlotIsTwoChunksOffInEachRunAtMost(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        // From every slot of a few to one of a hundred.
        let pace = 1 + Int(random.below(97))
        let slots = stride(from: Int(random.below(300)), to: min(Slot.count, pace * 600), by: pace).map {
            Slot(UInt16($0))
        }
        var truth = [UInt64](repeating: 0, count: Slot.count + 1)
        let runs = 1 + random.below(3)
        for index in 1...runs {
            let records = Self.records(slots, index, &random)
            for (slot, size) in Self.sums(records.values).enumerated() { truth[slot] += size }
            try store.checkpoint(frozen(Array(records.values)), storeHeader(index))
        }
        let view = try #require(store.view(ReplicaID(7)))
        #expect(UInt64(view.manifest.runs.count) == runs)
        let found = try store.slotBytes(in: view, among: slots)
        #expect(found.count == Slot.count + 1)
        var largest: UInt64 = 0
        for slot in 0...Slot.count {
            // Heads of blocks and chunks are a hundredth.
            let most = truth[slot] + truth[slot] / 50
            let error = found[slot] > most ? found[slot] - most : truth[slot] - min(truth[slot], found[slot])
            #expect(
                error <= 2 * runs * UInt64(Self.chunkBytesMax),
                "slot \(slot): \(found[slot]) instead of \(truth[slot])")
            largest = max(largest, error)
            if truth[slot] == 0, !slots.contains(Slot(UInt16(slot))) { #expect(found[slot] == 0) }
        }
        #expect(largest > 0, "the bound was not tried")
        let (sum, all) = (found.reduce(0, +), truth.reduce(0, +))
        #expect(sum >= all && sum <= view.manifest.bytes && sum <= all + all / 50 + runs * 100_000)
    }

    /// A large value before the first slot of the next 256, whose number the separator does not tell.
    @Test func largeValuesAreTheirSlotsOnly() throws {
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        var records: [Record] = []
        for slot in [3, 250, 770, 771, 1_400] as [UInt16] {
            for number in 0..<3 {
                records.append(
                    Record(
                        key: storeKey(slot, "key \(number)"), revision: Revision(1), changed: LogIndex(1),
                        value: storeValue(number == 0 && slot != 771 ? 500_000 : 100, 1)))
            }
        }
        try store.checkpoint(frozen(records), storeHeader(1))
        let view = try #require(store.view(ReplicaID(7)))
        let slots = (0..<2_000).map { Slot(UInt16($0)) }
        let found = try store.slotBytes(in: view, among: slots)
        for slot in [3, 250, 770, 1_400] { #expect(found[slot] > 500_000 && found[slot] < 502_000, "\(slot)") }
        #expect(found.reduce(0, +) < 2_010_000)
    }

    @Test func memtablesAreCountedExactly() throws {
        var random = SeededRandom(seed: 5)
        let memtable = Memtable()
        var records: [RecordKey: Record] = [:]
        for index in 1...2_000 as ClosedRange<UInt64> {
            let key = storeKey(UInt16(random.below(40)) * 400, "key \(random.below(200))")
            let record = Record(
                key: key, revision: Revision(index), changed: LogIndex(index),
                value: random.below(10) == 0 ? nil : storeValue(Int(random.below(index * 10)), index))
            records[key] = record
            memtable.put(record)
        }
        let truth = Self.sums(records.values)
        var live = [UInt64](repeating: 1, count: Slot.count + 1)
        memtable.add(toBytesOfSlots: &live)
        #expect(live == truth.map { $0 + 1 })
        #expect(truth.reduce(0, +) == UInt64(memtable.distinctBytes))
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        let view = try #require(store.view(ReplicaID(7), frozen: memtable.freeze()))
        #expect(try store.slotBytes(in: view, among: []) == truth)
    }

    @Test func whatIsMissingIsDamageAndNoAnswer() throws {
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        let records = (0..<40).map { number in
            Record(
                key: storeKey(UInt16(number), "key"), revision: Revision(1), changed: LogIndex(1),
                value: storeValue(30_000, 1))
        }
        try store.checkpoint(frozen(records), storeHeader(1))
        let view = try #require(store.view(ReplicaID(7)))
        let run = try #require(view.manifest.runs.first)
        for chunk in [3, run.dataChunks - 1, run.dataChunks] {
            let key = DiskKey(table: 3, high: run.id.rawValue, low: chunk)
            let bytes = try #require(disk.contents().first { $0.key == key }).value
            disk.plant(key, nil)
            #expect(code { _ = try store.slotBytes(in: view, among: []) } == .corrupt, "chunk \(chunk)")
            disk.plant(key, bytes)
        }
        #expect(try store.slotBytes(in: view, among: []).reduce(0, +) > 1_200_000)
    }
}
