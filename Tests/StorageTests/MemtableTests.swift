import Primitives
import Storage
import Testing

@Suite struct MemtableTests {
    @Test func aPutIsFoundAndTheLastOneWins() {
        let memtable = Memtable()
        let key = storeKey(5, "a")
        #expect(memtable.get(key) == .absent)
        memtable.put(record(key, 1, "one"))
        memtable.put(
            record(key, 2, "a longer value that does not fit into the place of the first, whatever its rounding"))
        memtable.put(record(key, 3, "three"))
        #expect(memtable.get(key) == .found(record(key, 3, "three")))
        memtable.put(record(key, 4, nil))
        #expect(memtable.get(key) == .tombstone(record(key, 4, nil)))
        #expect(memtable.count == 1)
        memtable.put(record(key, 5, ""))
        #expect(memtable.get(key) == .found(record(key, 5, "")))
    }

    @Test func keysOfOtherSlotsAndMachinesAreOthers() {
        let memtable = Memtable()
        memtable.put(record(storeKey(1, "k"), 1, "slot 1"))
        #expect(memtable.get(storeKey(2, "k")) == .absent)
        #expect(memtable.get(storeKey(1, "k", machine: 2)) == .absent)
        #expect(memtable.get(storeKey(1, "k\0")) == .absent)
        #expect(memtable.get(storeKey(1, "")) == .absent)
    }

    @Test func aFrozenMemtableKeepsWhatItHadAndTheLiveOneBeginsEmpty() {
        let memtable = Memtable()
        memtable.put(record(storeKey(1, "k"), 1, "old"))
        let frozen = memtable.freeze()
        #expect(memtable.isEmpty && memtable.distinctBytes == 0)
        memtable.put(record(storeKey(1, "k"), 2, "new"))
        #expect(frozen.get(storeKey(1, "k")) == .found(record(storeKey(1, "k"), 1, "old")))
        #expect(memtable.get(storeKey(1, "k")) == .found(record(storeKey(1, "k"), 2, "new")))
    }

    @Test func memoryGoesBackToThePoolAndComesOutClean() {
        let pool = MemtablePool()
        let memtable = Memtable(pool: pool)
        for round in 0..<3 as Range<UInt64> {
            for number in 0..<20_000 as Range<UInt64> {
                memtable.put(record(storeKey(1, "\(number)-\(round)"), number, "value"))
            }
            let before = pool.bytes
            do {
                let frozen = memtable.freeze()
                #expect(frozen.count == 20_000)
            }
            #expect(pool.bytes > before)
            #expect(memtable.get(storeKey(1, "5-\(round)")) == .absent)
        }
        #expect(pool.bytes < 16 << 20)
    }

    @Test func againstADictionaryInRandomOrderWithValuesOfEverySize() {
        for seed in 0..<20 as Range<UInt64> {
            var random = SeededRandom(seed: seed)
            let memtable = Memtable()
            var model: [RecordKey: Record] = [:]
            for step in 1...3_000 as ClosedRange<UInt64> {
                let key = RecordKey(
                    slot: Slot(UInt16(random.below(4)) * 5_000), machine: SubMachineNumber(UInt16(random.below(2))),
                    key: storeValue(Int(random.below(40)), random.below(60)))
                let size: Int
                switch random.below(200) {
                case 0: size = 60_000 + Int(random.below(200_000))
                case 1: size = 1_048_576
                case 2..<10: size = Int(random.below(9_000))
                default: size = Int(random.below(200))
                }
                let value = random.below(6) == 0 ? nil : storeValue(size, step)
                let record = Record(
                    key: key, revision: Revision(step), changed: LogIndex(step + 1), expiry: LogTime(step + 2),
                    value: value)
                memtable.put(record)
                model[key] = record
                if random.below(500) == 0 {
                    let from = random.below(2) == 0 ? nil : model.keys.randomElement(using: &random)
                    var seen: [Record] = []
                    memtable.forEach(from: from) {
                        seen.append($0.copy()); return true
                    }
                    #expect(seen == model.values.filter { $0.key >= from ?? $0.key }.sorted { $0.key < $1.key })
                }
            }
            for (key, record) in model {
                #expect(memtable.get(key) == (record.isTombstone ? .tombstone(record) : .found(record)))
            }
            #expect(memtable.count == model.count)
            #expect(
                memtable.distinctBytes == model.values.reduce(0) { $0 + 36 + $1.key.key.count + ($1.value?.count ?? 0) }
            )
            let frozen = memtable.freeze()
            #expect(frozen.tombstones == model.values.count { $0.isTombstone })
            var seen: [Record] = []
            frozen.forEach {
                seen.append($0.copy()); return true
            }
            #expect(seen == model.values.sorted { $0.key < $1.key })
        }
    }

    /// Few new ones are put where they belong, and the pieces that they are put into grow and are cut.
    @Test func pagesBetweenSinglePutsHaveWhatWasPut() {
        var random = SeededRandom(seed: 7)
        let memtable = Memtable()
        // Sorted; keys of one form, so that a number's place is known.
        var model: [UInt64] = []
        func put(_ number: UInt64) {
            memtable.put(record(storeKey(1, digits(number)), number, "value"))
            let place = model.place(of: number)
            if place == model.count || model[place] != number { model.insert(number, at: place) }
        }
        func key(_ number: UInt64) -> RecordKey { storeKey(1, digits(number)) }
        for _ in 0..<4_000 { put(random.below(1_000_000)) }
        for round in 0..<4_000 {
            // Many of them at one place, at the front and at the end.
            let span: Range<UInt64> =
                switch round % 4 {
                case 0: 500_000..<510_000
                case 1: 0..<100
                case 2: 999_900..<1_000_000
                default: 0..<1_000_000
                }
            for _ in 0...random.below(3) { put(span.lowerBound + random.below(UInt64(span.count))) }
            let from = random.below(1_000_100)
            let end = from + random.below(100_000)
            let page = memtable.page(from: key(from), end: key(end), recordsMax: 20, bytesMax: 1 << 20)
            let first = model.place(of: from)
            let rest = model[first...].prefix { $0 < end }
            #expect(page.records.map(\.key) == rest.prefix(20).map(key))
            #expect(page.next == rest.dropFirst(20).first.map(key))
        }
        #expect(memtable.count == model.count)
        var seen: [RecordKey] = []
        let frozen = memtable.freeze()
        frozen.forEach {
            seen.append($0.key)
            return true
        }
        #expect(seen == model.map(key))
    }

    @Test func pagesJoinWithoutGapOrRepetition() {
        let memtable = Memtable()
        for number in 0..<100 as Range<UInt64> {
            memtable.put(record(storeKey(UInt16(number % 3), "\(number)"), number, "value"))
        }
        var keys: [RecordKey] = []
        var next: RecordKey?
        repeat {
            let page = memtable.page(from: next, recordsMax: 9, bytesMax: 300)
            keys += page.records.map(\.key)
            next = page.next
        } while next != nil
        #expect(keys.count == 100)
        #expect(keys == keys.sorted())
    }

    @Test func aNewerPageLiesOverAnOlderOneUpToWhereBothReach() {
        let older = RecordPage(
            records: [
                record(storeKey(1, "a"), 1, "a1"), record(storeKey(1, "b"), 2, "b2"), record(storeKey(1, "d"), 3, "d3"),
            ],
            next: storeKey(1, "e"))
        let newer = RecordPage(
            records: [record(storeKey(1, "b"), 9, nil), record(storeKey(1, "c"), 8, "c8")], next: storeKey(1, "d"))
        let page = RecordPage.overlaid(newer: newer, older: older)
        #expect(page.records.map(\.key.key.string) == ["a", "c"])
        #expect(page.next == storeKey(1, "d"))
        #expect(
            RecordPage.overlaid(newer: RecordPage(records: newer.records, next: nil), older: older, tombstones: true)
                .records.map(\.changed.rawValue) == [1, 9, 8, 3])
    }
}

/// As many digits for each number.
private func digits(_ number: UInt64) -> String { String(String(10_000_000 + number).dropFirst()) }

extension [UInt64] {
    /// Of an ascending array: the first place whose number is not below.
    fileprivate func place(of number: UInt64) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if self[middle] < number { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
