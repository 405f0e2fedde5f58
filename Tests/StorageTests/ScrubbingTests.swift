// What the scrubber stands on: stores and journals that are verified piece by piece, while they are in use.

import BifrostSimulator
import Glibc
import Primitives
import Storage
import Testing

@Suite struct ScrubbingTests {
    private let replica = ReplicaID(7)

    // MARK: Stores

    private func store<D: Disk>(_ disk: D) throws -> Store<D> {
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        for index in 1...4 as ClosedRange<UInt64> {
            let records = (0..<60 as Range<UInt64>).map { number in
                Record(
                    key: storeKey(3, "key \(number)"), revision: Revision(index), changed: LogIndex(index),
                    // One is larger than a chunk.
                    value: storeValue(number == 17 ? 150_000 : 2_000, number))
            }
            _ = try store.checkpoint(frozen(records), storeHeader(index))
        }
        return store
    }

    /// All of the replica, in stretches.
    @discardableResult
    private func verifyAll<D: Disk>(_ store: Store<D>, bytesMax: Int, between: () throws -> Void = {}) throws
        -> (bytes: Int, stretches: Int)
    {
        var position: StorePosition?
        var sum = (bytes: 0, stretches: 0)
        let end = store.runsEnd
        repeat {
            let (bytes, next) = try store.verify(replica, from: position, runsBelow: end, bytesMax: bytesMax)
            #expect(bytes <= bytesMax + 65_520)
            sum = (sum.bytes + bytes, sum.stretches + 1)
            position = next
            try between()
        } while position != nil
        return sum
    }

    @Test func everyByteOfASoundReplicaIsVerifiedInStretches() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try store(disk)
        let bytes = disk.contents().filter { $0.key.table > 1 }.reduce(0) { $0 + $1.value.count }
        #expect(try verifyAll(store, bytesMax: 1 << 40) == (bytes, 1))
        let (inPieces, stretches) = try verifyAll(store, bytesMax: 100_000)
        #expect(inPieces == bytes)
        #expect(stretches >= bytes / 170_000)
    }

    @Test func oneFlippedBitAnywhereIsFoundAndNamed() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try store(disk)
        var random = SeededRandom(seed: 5)
        for (key, value) in disk.contents() where key.table > 1 {
            for _ in 0..<8 {
                let bit = Int(random.below(UInt64(8 * value.count)))
                disk.flipBit(in: key, bit: bit)
                defer { disk.flipBit(in: key, bit: bit) }
                do {
                    try verifyAll(store, bytesMax: 100_000)
                    Issue.record("bit \(bit) of \(key) was not found")
                } catch let damage as ScrubbedDamage {
                    #expect(damage.replica == replica && damage.group == GroupID(3))
                    #expect(damage.run?.rawValue == (key.table == 3 ? key.high : nil), "\(damage)")
                } catch let error as DiskError {
                    // The number of the format: a newer one can't be told from a broken one.
                    #expect(error.code == .refused)
                }
            }
        }
    }

    /// A page at which an access ends the process with SIGBUS, as at a sector that can't be read: this process, if it is
    /// not asked for first.
    @Test func aPageThatTheDiskDoesNotGiveIsDamage() throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 16 << 20))
        let store = try store(fixture.disk)
        try verifyAll(store, bytesMax: 100_000)
        let nothing = Glibc.open(fixture.path + "/nothing", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        defer { close(nothing) }
        let run = try fixture.disk.read { reader in
            let last = try #require(
                try reader.lastKey(from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)))
            try reader.withValue(for: DiskKey(table: 3, high: last.high, low: 0)) { value in
                let start = try #require(value?.baseAddress)
                let page = UInt(bitPattern: start + 9_000) & ~4_095
                // Behind the end of a file, in the place of that page.
                let mapped = mmap(
                    UnsafeMutableRawPointer(bitPattern: page), 4_096, PROT_READ, MAP_SHARED | MAP_FIXED, nothing, 0)
                #expect(UInt(bitPattern: mapped) == page)
            }
            return last.high
        }
        let damage = #expect(throws: ScrubbedDamage.self) { try verifyAll(store, bytesMax: 100_000) }
        #expect(damage?.run?.rawValue == run && damage?.message.contains("can't read") == true)
    }

    @Test func whatIsMissingIsFound() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try store(disk)
        for (key, value) in disk.contents() where key.table > 1 {
            try disk.write { writer in _ = try writer.delete(key) }
            #expect(throws: ScrubbedDamage.self) { try verifyAll(store, bytesMax: 100_000) }
            disk.plant(key, value)
        }
        try verifyAll(store, bytesMax: 100_000)
    }

    /// Checkpoints and merges go on between two stretches: nothing is mistaken for damage, and it comes to an end.
    @Test func aReplicaThatChangesMeanwhileIsNoDamage() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try store(disk)
        var index: UInt64 = 4
        try verifyAll(store, bytesMax: 70_000) {
            index += 1
            _ = try store.checkpoint(
                frozen([record(storeKey(3, "more"), index, String(repeating: "x", count: 60_000))]), storeHeader(index))
            if index % 3 == 0 { _ = try store.merge(replica, range: 0..<2) }
            while try store.reclaim() > 0 {}
        }
        #expect(index < 40)
        try store.remove(replica)
        #expect(try verifyAll(store, bytesMax: 100) == (0, 1))
    }

    // MARK: Journals

    private func journal(_ disk: SimulatedDisk) throws -> Journal<SimulatedDisk> {
        let journal = try Journal(disk: disk, formatting: sampleIdentity)
        for step in 1...12 as ClosedRange<UInt64> {
            var records = (1...3 as ClosedRange<UInt64>).map { append($0, 2 * step - 1...2 * step, bytes: 300) }
            if step % 4 == 1 { records.append(state(1, term: step, vote: 1)) }
            if step == 9 { records.append(tombstone(3)) } else if step > 9 { records.remove(at: 2) }
            _ = try journal.append(records)
            if step == 8 { _ = try journal.trim((1, 9), (2, 1), (3, 9)) }
        }
        try #require(disk.contents().contains { $0.key.table == 2 && $0.key.low > 0 }, "the base table has chunks")
        return journal
    }

    private func verifyAll(_ journal: Journal<SimulatedDisk>, bytesMax: Int = 500, between: () throws -> Void = {})
        throws -> VerifiedJournal
    {
        var sum = VerifiedJournal()
        var position: JournalPosition? = .start
        let end = journal.lastSequence
        while let next = position {
            let stretch = try journal.verify(from: next, through: end, bytesMax: bytesMax)
            sum.bytes += stretch.bytes
            sum.damaged += stretch.damaged
            sum.superfluousDamage += stretch.superfluousDamage
            position = stretch.next
            try between()
        }
        return sum
    }

    @Test func everyValueOfASoundJournalIsVerified() throws {
        let disk = SimulatedDisk(seed: 2)
        let journal = try journal(disk)
        let found = try verifyAll(journal)
        #expect(found.damaged.isEmpty && found.superfluousDamage.isEmpty)
        let bytes = disk.contents().filter { $0.key.table == 9 || $0.key.table == 2 && $0.key.low > 0 }
            .reduce(0) { $0 + $1.value.count }
        #expect(found.bytes == bytes)
        #expect(journal.recovered().allSatisfy { !$0.isDamaged })
    }

    /// A flipped bit tells whose record it hit, at once and not at the next start; others stay sound and readable. No log
    /// is marked: its values could never be deleted then.
    @Test func oneFlippedBitTellsWhoseRecordItHit() throws {
        let whole = SimulatedDisk(seed: 2)
        _ = try journal(whole)
        var random = SeededRandom(seed: 7)
        var marked = 0
        var superfluous = 0
        for (key, value) in whole.contents() where key.table == 9 || key.table == 2 && key.low > 0 {
            for _ in 0..<10 {
                let disk = SimulatedDisk(seed: 2)
                let journal = try journal(disk)
                let bit = Int(random.below(UInt64(8 * value.count)))
                disk.flipBit(in: key, bit: bit)
                let found = try verifyAll(journal)
                let damaged = Set(found.damaged.map(\.replica))
                #expect(journal.recovered().allSatisfy { !$0.isDamaged })
                #expect(!damaged.contains(ReplicaID(3)), "it was removed")
                if damaged.isEmpty { superfluous += 1 } else { marked += 1 }
                // The header of a chunk that was kept has no use.
                #expect(
                    found.superfluousDamage.count == (damaged.isEmpty && key.table == 9 ? 1 : 0),
                    "bit \(bit) of \(key)")
                for log in journal.recovered() where !damaged.contains(log.replica) && !log.isTombstone {
                    #expect(try journal.all(log.replica.rawValue).count == log.last - log.base)
                }
                // A start finds that as well.
                let after = try Journal(disk: disk, formatting: nil).recovered().filter(\.isDamaged).map(\.replica)
                #expect(damaged.allSatisfy(after.contains), "bit \(bit) of \(key)")
            }
        }
        #expect(marked > 50)
        #expect(superfluous > 5)
    }

    /// What is damaged in entries that a replica needs no more goes with its value.
    @Test func damageThatNobodyNeedsIsTrimmedAway() throws {
        let disk = SimulatedDisk(seed: 3)
        let journal = try Journal(disk: disk, formatting: sampleIdentity)
        for step in 1...6 as ClosedRange<UInt64> { _ = try journal.append([append(1, step...step, bytes: 900)]) }
        _ = try journal.append([truncate(1, from: 2)])
        disk.flipBit(in: DiskKey(table: 9, high: 4), bit: 8 * 500)
        let found = try verifyAll(journal)
        #expect(found.damaged.isEmpty && found.superfluousDamage.count == 1)
        _ = try journal.append([append(1, 2...2)])
        while try journal.trim((1, 1)).values > 0 {}
        #expect(!disk.contents().contains { $0.key == DiskKey(table: 9, high: 4) })
        #expect(try verifyAll(journal).superfluousDamage.isEmpty)
        #expect(try Journal(disk: disk, formatting: nil).recovered().allSatisfy { !$0.isDamaged })
    }

    /// Values come and go between two stretches.
    @Test func aJournalThatIsWrittenAndTrimmedMeanwhileIsNoDamage() throws {
        let disk = SimulatedDisk(seed: 2)
        let journal = try journal(disk)
        var step: UInt64 = 12
        let found = try verifyAll(journal) {
            step += 1
            _ = try journal.append([append(1, 2 * step - 1...2 * step, bytes: 300)])
            _ = try journal.trim((1, 2 * step - 4), (2, step))
        }
        #expect(found.damaged.isEmpty && found.superfluousDamage.isEmpty)
        #expect(step < 60)
    }
}
