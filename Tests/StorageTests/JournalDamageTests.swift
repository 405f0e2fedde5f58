// A bit of a stored value flips, before the journal is opened or under it: what is then read is right, or it says so.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct JournalDamageTests {
    /// Four replicas with overwrites, a base table with rows and chunks, a tombstone.
    private func make(_ disk: SimulatedDisk) throws {
        let journal = try Journal(disk: disk, formatting: sampleIdentity)
        for step in 0..<30 as Range<UInt64> {
            var records: [JournalRecord] = []
            for replica in 1...3 as ClosedRange<UInt64> where (step + replica) % 3 > 0 {
                let last = journal.log(of: ReplicaID(replica))?.last.rawValue ?? 0
                let first = step % 7 == 6 ? last - 1 : last + 1
                records.append(append(replica, first...first + 3, term: 1 + step / 7, bytes: 300))
                records.append(state(replica, term: 1 + step / 7, vote: replica, commit: last))
            }
            if step == 3 { records.append(append(4, 1...5)) }
            if step == 5 { records.append(tombstone(4)) }
            _ = try journal.append(records)
            if step == 15 { _ = try journal.trim((1, 20), (2, 18), (3, 5)) }
        }
        try #require(disk.contents().contains { $0.key.table == 2 && $0.key.low > 0 }, "the base table has chunks")
    }

    private func content(_ disk: SimulatedDisk) throws -> [(log: RecoveredLog, entries: [LogEntry])] {
        let journal = try Journal(disk: disk, formatting: nil)
        return try journal.recovered().map { ($0, try journal.all($0.replica.rawValue)) }
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func aFlippedBitShowsOrDoesNotMatter(seed: UInt64) throws {
        let disk = SimulatedDisk(seed: seed)
        try make(disk)
        let whole = disk.contents()
        let expected = try content(disk)
        var shown = 0
        for _ in 0..<60 {
            let key = try #require(disk.flipAnyBit())
            defer { for item in whole where item.key == key { disk.plant(key, item.value) } }
            do {
                let journal = try Journal(disk: disk, formatting: nil)
                let found = journal.recovered()
                if journal.isDamaged || found.contains(where: \.isDamaged) { shown += 1 }
                if journal.isDamaged { continue }
                #expect(found.map(\.replica) == expected.map(\.log.replica))
                for (log, right) in zip(found, expected) where !log.isDamaged {
                    #expect(log == right.log)
                    #expect(try journal.all(log.replica.rawValue) == right.entries)
                }
            } catch let error as DiskError {
                #expect(error.code == .corrupt || error.code == .refused, "\(error)")
                #expect(key.table == 1, "only the superblock keeps a journal closed")
                shown += 1
            }
        }
        // All of it has checksums; what a removed replica left does not matter any more.
        #expect(shown >= 50)
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func aBitThatFlipsUnderAnOpenJournalIsNeverRead(seed: UInt64) throws {
        let disk = SimulatedDisk(seed: seed)
        try make(disk)
        let whole = disk.contents()
        let expected = try content(disk)
        var shown = 0
        for _ in 0..<30 {
            let journal = try Journal(disk: disk, formatting: nil)
            let key = try #require(disk.flipAnyBit(inTables: 2...9))
            defer { for item in whole where item.key == key { disk.plant(key, item.value) } }
            for right in expected {
                do {
                    #expect(try journal.all(right.log.replica.rawValue) == right.entries)
                } catch let error as DiskError {
                    #expect(error.code == .corrupt)
                    #expect(journal.log(of: right.log.replica)?.isDamaged == true)
                    shown += 1
                }
            }
        }
        #expect(shown > 5)
    }
}
