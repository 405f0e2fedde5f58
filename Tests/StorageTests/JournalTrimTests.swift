import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct JournalTrimTests {
    private func reopened(_ disk: SimulatedDisk) throws -> Journal<SimulatedDisk> {
        disk.crash()
        return try Journal(disk: disk, formatting: nil)
    }
    private func fresh() throws -> (SimulatedDisk, Journal<SimulatedDisk>) {
        let disk = SimulatedDisk(seed: 1)
        return (disk, try Journal(disk: disk, formatting: sampleIdentity))
    }
    private func values(_ disk: SimulatedDisk) -> [UInt64] {
        disk.contents().map(\.key).filter { $0.table == 9 }.map(\.high)
    }

    @Test func onlyAPrefixGoesAndTheLastValueStays() throws {
        let (disk, journal) = try fresh()
        for index in 1...6 as ClosedRange<UInt64> { _ = try journal.append([append(1, index...index)]) }
        #expect(try journal.trim().values == 0, "nothing is superfluous unless it is named")
        #expect(try journal.trim((1, 3)).values == 3)
        #expect(values(disk) == [4, 5, 6])
        #expect(try journal.trim((1, 6)).values == 2)
        #expect(values(disk) == [6])
        #expect(try journal.trim((1, 6)).values == 0)
        let again = try reopened(disk)
        #expect(again.lastSequence == 6)
        #expect(again.log(of: ReplicaID(1))?.base == LogIndex(5))
        #expect(try again.append([append(1, 7...7)]) == 7)
        #expect(try again.all(1) == entries(6...7))
    }

    @Test func hardStateAndLiveEntriesOfOthersMoveWithThePrefix() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([
            append(1, 1...20, bytes: 1_000), append(2, 1...3, term: 2), state(2, term: 5, vote: 2, commit: 1),
        ])
        _ = try journal.append([append(1, 21...21)])
        #expect(try journal.trim((1, 20)).values == 1)
        #expect(journal.statistics.movedBytes > 0)
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(2) == entries(1...3, term: 2))
            let log = try #require(journal.log(of: ReplicaID(2)))
            #expect(log.hardState == HardState(term: Term(5), vote: ReplicaID(2), commit: LogIndex(1)))
            #expect(log.termRuns == [TermRun(first: LogIndex(1), term: Term(2))])
            #expect(log.base == .zero)
        }
    }

    @Test func aDeletedPrefixRevivesNoOverwrittenSuffix() throws {
        // The suffix 50...100 sits in the base table; the append that overwrote it goes with the next prefix.
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...100), append(2, 1...30, bytes: 2_000)])
        _ = try journal.append([append(2, 31...31, bytes: 2_000)])
        #expect(try journal.trim((2, 31)).values == 1)
        _ = try journal.append([append(1, 50...60, term: 2), append(2, 32...62, bytes: 2_000)])
        _ = try journal.append([append(2, 63...63)])
        #expect(try journal.trim((2, 62)).values == 2)
        #expect(values(disk) == [4])
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(1) == entries(1...49) + entries(50...60, term: 2))
            #expect(journal.log(of: ReplicaID(1))?.last == LogIndex(60))
        }
    }

    @Test func aTruncationOutlivesThePrefixThatHeldIt() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10), append(2, 1...30, bytes: 2_000)])
        _ = try journal.append([append(2, 31...31)])
        #expect(try journal.trim((2, 31)).values == 1)
        _ = try journal.append([truncate(1, from: 4), append(2, 32...40, bytes: 2_000)])
        _ = try journal.append([append(2, 41...41)])
        #expect(try journal.trim((2, 41)).values == 2)
        #expect(try reopened(disk).all(1) == entries(1...3))
    }

    @Test func deadEntriesBehindAGapWaitForTheRecordThatOverwritesThem() throws {
        // 11...20 outlive the deletion of 1...10 although 5...8 has replaced them; the scan meets them first.
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10), append(2, 1...30, bytes: 2_000)])
        _ = try journal.append([append(1, 11...20), append(2, 31...40, bytes: 2_000)])
        _ = try journal.append([append(1, 5...8, term: 3)])
        _ = try journal.append([append(1, 9...12, term: 3)])
        #expect(try journal.trim((2, 30)).values == 1)
        let again = try reopened(disk)
        #expect(again.recovered().allSatisfy { !$0.isDamaged })
        #expect(try again.all(1) == entries(1...4) + entries(5...12, term: 3))
        #expect(again.log(of: ReplicaID(1)) == journal.log(of: ReplicaID(1)))
    }

    @Test func aBaseInAKeptValueDoesNotLowerTheOneOfTheTable() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...10)])
        _ = try journal.append([base(1, 50, term: 2), append(1, 51...100, term: 2)])
        _ = try journal.append([append(1, 101...101, term: 2), state(1, term: 3)])
        #expect(try journal.trim((1, 60)).values == 1)
        #expect(try reopened(disk).recovered() == journal.recovered())
        _ = try journal.append([append(1, 102...102, term: 2)])
        #expect(try journal.trim((1, 101)).values == 2)
        let again = try reopened(disk)
        #expect(again.recovered() == journal.recovered())
        #expect(again.log(of: ReplicaID(1))?.base == LogIndex(101))
        #expect(again.log(of: ReplicaID(1))?.baseTerm == Term(2))
        #expect(try again.all(1) == entries(102...102, term: 2))
    }

    @Test(arguments: [false, true]) func aPrefixDeletionThatFailsHappenedWhollyOrNotAtAll(stays: Bool) throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...30, bytes: 1_000), append(2, 1...3), state(2, term: 4)])
        _ = try journal.append([append(1, 31...31, bytes: 1_000), append(3, 1...2)])
        _ = try journal.append([append(1, 32...32)])
        disk.faults.nextWriteFails = !stays
        disk.faults.nextWriteFailsButStays = stays
        #expect(throws: DiskError.self) { try journal.trim((1, 31)) }
        let again = try reopened(disk)
        #expect(values(disk) == (stays ? [3] : [1, 2, 3]))
        #expect(try again.all(1) == (stays ? entries(32...32) : entries(1...31, bytes: 1_000) + entries(32...32)))
        #expect(try again.all(2) == entries(1...3))
        #expect(try again.all(3) == entries(1...2))
        #expect(again.log(of: ReplicaID(2))?.hardState.term == Term(4))
        #expect(again.recovered().allSatisfy { !$0.isDamaged })
    }

    @Test func aReplicaThatLagsGathersChunksAndLosesNone() throws {
        // Replica 2 never checkpoints while replica 1 does: its entries move, small chunks are joined, large ones stay.
        let (disk, journal) = try fresh()
        var last: UInt64 = 0
        for round in 1...60 as ClosedRange<UInt64> {
            _ = try journal.append([
                append(1, round...round, bytes: 60_000), append(2, last + 1...last + 3, bytes: 5_000),
            ])
            last += 3
            _ = try journal.trim((1, round))
        }
        let rows = disk.contents().filter { $0.key.table == 2 && $0.key.low > 0 }
        #expect(rows.count > 5 && rows.count < 25)
        #expect(journal.statistics.baseBytes > 800_000)
        #expect(journal.statistics.values == 1)
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(2, bytesMax: 20_000) == entries(1...last, bytes: 5_000))
        }
        // It catches up: its rows go.
        _ = try journal.append([append(1, 61...61)])
        #expect(try journal.trim((1, 61), (2, last)).values == 1)
        #expect(disk.contents().allSatisfy { $0.key.table != 2 || $0.key.low == 0 })
        #expect(try reopened(disk).log(of: ReplicaID(2))?.base == LogIndex(last))
    }

    @Test func aMissingChunkMarksItsReplicaAndAMissingRowAll() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...30, bytes: 1_000), append(2, 1...3)])
        _ = try journal.append([append(1, 31...31)])
        #expect(try journal.trim((1, 31)).values == 1)
        let chunk = try #require(disk.contents().first { $0.key.table == 2 && $0.key.low > 0 })
        disk.plant(chunk.key, nil)
        #expect(try reopened(disk).recovered().map(\.isDamaged) == [false, true])
        disk.plant(chunk.key, chunk.value)
        #expect(try reopened(disk).recovered().map(\.isDamaged) == [false, false])
        disk.plant(DiskKey(table: 2, high: 1), nil)
        #expect(try reopened(disk).isDamaged)
    }

    @Test func whatLivesInFrontOfMoreGarbageMovesAndKeepsNothingBack() throws {
        // 4 MB of a replica that lags, and only its own, stand in front of what replica 1 does not need any more.
        let (disk, journal) = try fresh()
        for round in 1...20 as ClosedRange<UInt64> {
            _ = try journal.append([append(2, round...round, bytes: 200_000)])
        }
        for round in 1...19 as ClosedRange<UInt64> {
            _ = try journal.append([append(1, round...round, bytes: 200_000)])
        }
        _ = try journal.append([append(1, 20...20)])
        #expect(try journal.trim((1, 19)).values == 0, "less than half is garbage")
        for round in 21...24 as ClosedRange<UInt64> {
            _ = try journal.append([append(1, round...round, bytes: 200_000)])
        }
        var calls = 0
        while try journal.trim((1, 23)).values > 0 {
            calls += 1
            #expect(journal.statistics.movedBytes <= calls * (1 << 20))
        }
        #expect(calls == 4)
        #expect(values(disk) == [44])
        #expect(journal.statistics.movedBytes < 4_100_000)
        for journal in [journal, try reopened(disk)] {
            #expect(try journal.all(2) == entries(1...20, bytes: 200_000))
            #expect(try journal.all(1) == entries(24...24, bytes: 200_000))
        }
    }

    @Test func anEntryAboveTheBoundOnMovedBytesKeepsNothingBack() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(2, 1...1, bytes: 3_000_000)])
        for round in 1...40 as ClosedRange<UInt64> {
            _ = try journal.append([append(1, round...round, bytes: 100_000)])
        }
        while try journal.trim((1, 40)).values > 0 {}
        #expect(values(disk) == [41])
        #expect(try reopened(disk).all(2) == entries(1...1, bytes: 3_000_000))
    }

    @Test func aCommitAboveTheBoundOnDeletedBytesGoes() throws {
        let (disk, journal) = try fresh()
        _ = try journal.append([append(1, 1...40, bytes: 1_000_000)])
        _ = try journal.append([append(1, 41...41)])
        #expect(try journal.trim((1, 40)).values > 30)
        #expect(values(disk) == [2])
        #expect(try reopened(disk).all(1) == entries(41...41))
    }

    @Test func callsAreBoundedAndTheCallerRepeatsThem() throws {
        let (disk, journal) = try fresh()
        for index in 1...1_300 as ClosedRange<UInt64> { _ = try journal.append([append(1, index...index)]) }
        var calls = 0
        while try journal.trim((1, 1_300)).values > 0 { calls += 1 }
        #expect(calls == 3)
        #expect(values(disk) == [1_300])
    }
}
