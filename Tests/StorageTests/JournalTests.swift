import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct JournalTests {
    private func reopened(_ disk: SimulatedDisk) throws -> Journal<SimulatedDisk> {
        disk.crash()
        return try Journal(disk: disk, formatting: nil)
    }
    private func fresh() throws -> (SimulatedDisk, Journal<SimulatedDisk>) {
        let disk = SimulatedDisk(seed: 1)
        return (disk, try Journal(disk: disk, formatting: sampleIdentity))
    }
    private func valueKey(_ sequence: UInt64, part: UInt32 = 0) -> DiskKey {
        DiskKey(table: 9, high: sequence, low: part)
    }

    // MARK: Superblock

    @Test func theIdentityIsDurableAndItsJournalNeverChanges() throws {
        let (disk, journal) = try fresh()
        var identity = sampleIdentity
        identity.bootCounter += 1
        try journal.update(identity)
        #expect(try reopened(disk).identity == identity)
        identity.journal += 1
        #expect(throws: DiskError.self) { try journal.update(identity) }
        let other = HostIdentity(incarnation: Incarnation(9), journal: 9)
        #expect(try Journal(disk: disk, formatting: other).identity.journal == sampleIdentity.journal)
    }

    @Test func recordsAndAnotherIdentityAreDurableTogetherOrNotAtAll() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...3)])
        var identity = sampleIdentity
        identity.cluster = ClusterID(high: 7, low: 8)
        #expect(failure { try journal.append([append(1, 9...9)], renaming: identity) } == .misuse)
        #expect(try reopened(disk).identity == sampleIdentity)
        let again = try reopened(disk)
        #expect(try again.append([append(1, 4...4), tombstone(2)], renaming: identity) == 2)
        #expect(again.identity == identity)
        let after = try reopened(disk)
        #expect(after.identity == identity && after.lastSequence == 2)
        #expect(try after.all(1).map(\.index.rawValue) == [1, 2, 3, 4])
        // Without records: the identity alone. Another journal's name: nothing.
        #expect(try after.append([], renaming: sampleIdentity) == 2)
        #expect(try reopened(disk).identity == sampleIdentity)
        identity.journal += 1
        #expect(failure { try journal.append([append(1, 5...5)], renaming: identity) } == .misuse)
    }

    @Test func anEmptyEnvironmentIsNotAJournal() {
        let error = #expect(throws: DiskError.self) { try Journal(disk: SimulatedDisk(seed: 1), formatting: nil) }
        #expect(error?.code == .refused)
    }

    @Test func aNewerFormatIsRefusedWithBothVersions() throws {
        let (disk, _) = try fresh()
        var bytes = disk.contents()[0].value.array
        bytes[4] = 9
        let body = Bytes(Array(bytes.dropLast(4)))
        var writer = ByteWriter()
        writer.write(body)
        writer.write(body.checksum)
        disk.plant(DiskKey(table: 1), writer.take())
        let error = #expect(throws: DiskError.self) { try reopened(disk) }
        #expect(error?.code == .refused)
        #expect(error?.message.contains("version 9") == true && error?.message.contains("up to 1") == true)
    }

    @Test func aDamagedOrMissingSuperblockIsALostJournal() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...3)])
        disk.flipBit(in: DiskKey(table: 1), bit: 77)
        #expect(failure { try reopened(disk) } == .corrupt)
        disk.plant(DiskKey(table: 1), nil)
        #expect(failure { try reopened(disk) } == .corrupt)
        #expect(failure { try Journal(disk: disk, formatting: sampleIdentity) } == .corrupt)
    }

    // MARK: Appending and reading

    @Test func oneCommitHoldsWhatAllGroupsAppend() throws {
        let (disk, journal) = try fresh()
        let before = disk.commits
        #expect(
            try journal.append([
                append(1, 1...3), state(1, term: 1), append(2, 1...2, term: 4), append(1, 4...4, term: 2),
            ]) == 1)
        #expect(disk.commits == before + 1)
        #expect(journal.statistics.values == 1)
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(1) == entries(1...3) + entries(4...4, term: 2))
            #expect(try journal.all(2) == entries(1...2, term: 4))
            #expect(
                journal.log(of: ReplicaID(1))?.termRuns
                    == [TermRun(first: LogIndex(1), term: Term(1)), TermRun(first: LogIndex(4), term: Term(2))])
            #expect(journal.lastSequence == 1)
        }
    }

    @Test func whatPassesOneMebibyteTakesSeveralValuesOfOneCommit() throws {
        let (disk, journal) = try fresh()
        let before = disk.commits
        _ = try journal.append([append(1, 1...40, bytes: 100_000), append(2, 1...1, bytes: 3 << 20), append(3, 1...5)])
        #expect(disk.commits == before + 1)
        let values = disk.contents().filter { $0.key.table == 9 }
        #expect(values.count == 6)
        #expect(values.allSatisfy { $0.value.count <= 1 << 20 || $0.value.count > 3 << 20 })
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(1) == entries(1...40, bytes: 100_000))
            #expect(try journal.all(2) == entries(1...1, bytes: 3 << 20))
            #expect(try journal.all(3) == entries(1...5))
        }
    }

    @Test func readsStopAtTheirBoundsAndGiveOneEntryAtLeast() throws {
        let (_, journal) = try fresh()
        for first in stride(from: 1 as UInt64, to: 30, by: 5) {
            _ = try journal.append([append(1, first...first + 4, bytes: 76)])
        }
        func read(_ from: UInt64, _ through: UInt64, _ bytes: Int) throws -> [UInt64] {
            try journal.entries(of: ReplicaID(1), from: LogIndex(from), through: LogIndex(through), bytesMax: bytes)
                .map(\.index.rawValue)
        }
        #expect(try read(3, 12, 10_000) == Array(3...12))
        #expect(try read(3, 99, 10_000) == Array(3...30))
        #expect(try read(4, 30, 300) == [4, 5, 6])
        #expect(try read(4, 30, 399) == [4, 5, 6])
        #expect(try read(4, 30, 0) == [4])
        #expect(try read(31, 40, 100) == [])
        #expect(try read(0, 3, 100) == [])
        #expect(try journal.entries(of: ReplicaID(9), from: LogIndex(1), through: LogIndex(2), bytesMax: 9).isEmpty)
    }

    @Test func recordsThatDoNotFitAreRefusedBeforeAnythingIsWritten() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...5), base(2, 10, term: 3), tombstone(3)])
        let wrong: [[JournalRecord]] = [
            [append(1, 7...7)], [append(2, 10...11)], [append(3, 1...1)], [state(3, term: 1)], [append(4, 2...2)],
            [truncate(2, from: 10)], [base(2, 9, term: 3)], [append(1, 6...8), truncate(1, from: 6), append(1, 7...7)],
            [.append(GroupID(7), ReplicaID(1), entries(6...6))], [append(5, 1...2), append(1, 9...9)],
            [.append(GroupID(1), ReplicaID(1), [entry(6), entry(8)])], [.tombstone(GroupID(1), .none)],
        ]
        let before = disk.contents().map(\.key)
        let logs = journal.recovered()
        for records in wrong {
            let error = #expect(throws: DiskError.self) { try journal.append(records) }
            #expect(error?.code == .misuse)
        }
        #expect(disk.contents().map(\.key) == before)
        #expect(journal.recovered() == logs)
        #expect(try journal.append([append(1, 6...6), append(1, 3...4, term: 2)]) == 2)
        #expect(try journal.all(1) == entries(1...2) + entries(3...4, term: 2))
    }

    // MARK: Schedules that lose data elsewhere

    @Test func anOverwrittenSuffixStaysOverwritten() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10)])
        _ = try journal.append([append(1, 5...6, term: 2)])
        #expect(try reopened(disk).all(1) == entries(1...4) + entries(5...6, term: 2))
    }

    @Test func anABAAppendEndsWithTheLastVersion() throws {
        // Leader A's entries, leader C's in their place, then A's again (another term), shorter.
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...3, term: 1), append(1, 4...9, term: 2)])
        _ = try journal.append([append(1, 4...5, term: 3)])
        _ = try journal.append([append(1, 4...4, term: 4)])
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(1) == entries(1...3, term: 1) + entries(4...4, term: 4))
            #expect(journal.log(of: ReplicaID(1))?.last == LogIndex(4))
        }
    }

    @Test func aBaseVoidsEverythingEarlierOfItsReplicaOnly() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10), append(2, 1...10), state(1, term: 9)])
        _ = try journal.append([base(1, 7, term: 5), append(1, 8...9, term: 5)])
        let again = try reopened(disk)
        #expect(try again.all(1) == entries(8...9, term: 5))
        #expect(try again.all(2) == entries(1...10))
        let log = try #require(again.log(of: ReplicaID(1)))
        #expect(log.base == LogIndex(7) && log.baseTerm == Term(5) && log.hardState.term == Term(9))
    }

    @Test func aTombstoneOutlivesPrefixDeletionAndTheNumberIsNeverUsedAgain() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10)])
        _ = try journal.append([tombstone(1)])
        _ = try journal.append([append(2, 1...1)])
        #expect(try journal.trim().values == 2)
        let again = try reopened(disk)
        #expect(again.log(of: ReplicaID(1))?.isTombstone == true)
        #expect(throws: DiskError.self) { try again.append([append(1, 1...1)]) }
    }

    @Test func aPageCacheIsNotTakenForADisk() throws {
        // Killed between a write and its sync: what the next process reads must be durable before it counts.
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...2)])
        disk.faults.commitsWithoutSync = true
        _ = try journal.append([append(1, 3...4)])
        disk.kill()
        let again = try Journal(disk: disk, formatting: nil)
        #expect(try again.all(1) == entries(1...4))
        disk.crash()
        #expect(try Journal(disk: disk, formatting: nil).all(1) == entries(1...4))
        disk.faults.nextFlushFails = true
        #expect(failure { try Journal(disk: disk, formatting: nil) } == .failed)
    }

    @Test func afterAFailedCommitEveryFurtherOneIsRefused() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...2)])
        disk.faults.nextWriteFails = true
        for _ in 0..<2 {
            #expect(failure { try journal.append([append(1, 3...3), append(8, 1...1)]) } == .failed)
        }
        #expect(journal.log(of: ReplicaID(8)) == nil)
        #expect(try reopened(disk).all(1) == entries(1...2))
    }

    @Test func aFullDiskRefusesACommitAndTakesTheNextAfterPrefixDeletion() throws {
        let (disk, journal) = try fresh()
        for index in 1...4 as ClosedRange<UInt64> { _ = try journal.append([append(1, index...index, bytes: 1_000)]) }
        disk.faults.bytesMax = 5_500
        #expect(failure { try journal.append([append(1, 5...5, bytes: 1_000)]) } == .full)
        #expect(journal.log(of: ReplicaID(1))?.last == LogIndex(4))
        #expect(try journal.trim((1, 3)).values == 3)
        #expect(try journal.append([append(1, 5...5, bytes: 1_000)]) == 5)
        #expect(try reopened(disk).all(1) == entries(4...5, bytes: 1_000))
    }

    // MARK: Damage

    @Test func aDamagedRecordMarksItsReplicaAloneAndNothingIsCut() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...3, bytes: 500), append(2, 1...3)])
        _ = try journal.append([append(1, 4...6), append(2, 4...6)])
        disk.flipBit(in: valueKey(1), bit: 8 * (40 + 96 + 4 + 700))
        let error = #expect(throws: DiskError.self) { try journal.all(1) }
        #expect(error?.code == .corrupt)
        #expect(journal.log(of: ReplicaID(1))?.isDamaged == true)
        let again = try reopened(disk)
        #expect(again.recovered().map(\.isDamaged) == [true, false])
        #expect(!again.isDamaged)
        #expect(again.log(of: ReplicaID(1))?.last == LogIndex(6))
        #expect(throws: DiskError.self) { try again.all(1) }
        #expect(try again.all(2) == entries(1...6))
        #expect(try again.trim((1, 6), (2, 6)).values == 0, "the evidence stays")
        #expect(try again.append([append(2, 7...7)]) == 3)
    }

    @Test func aDamagedDirectoryMarksEveryReplica() throws {
        let (disk, journal) = try fresh()
        for index in 1...3 as ClosedRange<UInt64> {
            _ = try journal.append([append(1, index...index), append(2, index...index)])
        }
        disk.flipBit(in: valueKey(2), bit: 8 * 50)
        let again = try reopened(disk)
        #expect(again.isDamaged)
        #expect(again.recovered().map(\.isDamaged) == [true, true])
        #expect(again.lastSequence == 3)
        #expect(try again.trim((1, 3), (2, 3)).values == 0)
    }

    @Test(arguments: [1, 2, 3] as [UInt64]) func aMissingValueIsDamage(missing: UInt64) throws {
        let (disk, journal) = try fresh()
        for index in 1...4 as ClosedRange<UInt64> { _ = try journal.append([append(index, 1...1)]) }
        disk.plant(valueKey(missing), nil)
        let again = try reopened(disk)
        #expect(again.isDamaged)
        #expect(again.recovered().allSatisfy { $0.isDamaged })
    }

    @Test func aMissingPartOfACommitIsDamage() throws {
        for part in 0...2 as ClosedRange<UInt32> {
            let (disk, journal) = try fresh()
            _ = try journal.append([append(1, 1...25, bytes: 100_000)])
            disk.plant(valueKey(1, part: part), nil)
            #expect(try reopened(disk).isDamaged)
        }
    }

    @Test func aValueOfAnotherPlaceOrJournalIsDamage() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...1)])
        _ = try journal.append([append(1, 2...2)])
        let first = try #require(disk.contents().first { $0.key == valueKey(1) })
        disk.plant(valueKey(2), first.value)
        #expect(try reopened(disk).isDamaged)
    }

    @Test func noBitFlipAnywhereTrapsOrGoesUnnoticed() throws {
        // Every bit of a small journal with all kinds of rows and records.
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...3), append(2, 1...2), state(1, term: 3)])
        _ = try journal.append([append(1, 4...6), tombstone(3)])
        _ = try journal.append([append(2, 3...3, bytes: 900)])
        _ = try journal.append([append(2, 4...4), truncate(1, from: 6), base(4, 9, term: 2)])
        #expect(try journal.trim((1, 4), (2, 4)).values == 3)
        let expected = journal.recovered()
        let logs = try expected.map { try journal.all($0.replica.rawValue) }
        var noticed = 0
        for (key, value) in disk.contents() {
            for bit in 0..<value.count * 8 {
                disk.flipBit(in: key, bit: bit)
                defer { disk.flipBit(in: key, bit: bit) }
                guard let again = try? Journal(disk: disk, formatting: nil) else {
                    #expect(key == DiskKey(table: 1))
                    noticed += 1
                    continue
                }
                if again.recovered().contains(where: \.isDamaged) {
                    noticed += 1
                    continue
                }
                // A chunk's own header repeats what its row says, and is all that may differ.
                try #require(key.table == 2 && key.low > 0 && bit < 24 * 8)
                try #require(again.recovered() == expected)
                try #require(try expected.map { try again.all($0.replica.rawValue) } == logs)
            }
        }
        #expect(noticed > 1_000)
    }

    @Test func bytesOfAnyKindAreTakenWithoutATrap() throws {
        var random = SeededRandom(seed: 7)
        for _ in 0..<2_000 {
            let (disk, _) = try fresh()
            for _ in 0..<4 {
                let table = random.below(2) == 0 ? 2 : 9 as UInt8
                let key = DiskKey(
                    table: table, high: random.below(3) &* (random.below(4) == 0 ? .max : 1),
                    low: UInt32(random.below(3)))
                disk.plant(key, Bytes((0..<random.below(200)).map { _ in UInt8(truncatingIfNeeded: random.next()) }))
            }
            let journal = try reopened(disk)
            #expect(journal.isDamaged)
            _ = try journal.trim((1, 5))
            _ = try? journal.append([append(5, 1...1)])
        }
    }
}
