import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct MergeRangeTests {
    @Test func asManyNeighboursAsFitAreMergedAndElseTwoThatMay() {
        func range(_ sizes: [Int], _ roomBytes: Int) -> Range<Int>? { mergeRange(of: sizes, roomBytes: roomBytes) }
        #expect(range([80, 80, 80], .max) == 0..<3)
        #expect(range([80, 80, 80], 270) == 0..<3 && range([80, 80, 80], 269) == 0..<2)
        #expect(range([800, 80, 8, 8, 80], 200) == 1..<5)
        #expect(range([80, 800, 8, 8, 8], 200) == 2..<5)
        #expect(range([800, 80, 80], 100) == 1..<3, "they may have much in common")
        #expect(range([88, 80, 84], 100) == 1..<3, "the smaller")
        #expect(range([800, 80, 800], 100) == nil && range([80, 80], 0) == nil)
    }
}

@Suite struct StoreTests {
    let disk = SimulatedDisk(seed: 1)

    func open() throws -> Store<SimulatedDisk> { try Store(disk: disk, formatting: storeIdentity) }

    /// A store with one replica, 7.
    func begin() throws -> Store<SimulatedDisk> {
        let store = try open()
        try store.start(storeHeader(0))
        return store
    }

    @Test func anEmptyEnvironmentIsNoStoreUntilItIsFormatted() throws {
        #expect(code { _ = try Store(disk: disk) } == .refused)
        #expect(try open().identity == storeIdentity)
        #expect(try Store(disk: disk).identity == storeIdentity)
        var other = storeIdentity
        other.cluster = ClusterID(high: 9, low: 9)
        try open().update(other)
        #expect(try open().identity == other)
    }

    @Test func aNewerFormatIsRefusedWithBothVersions() throws {
        _ = try open()
        var bytes = disk.contents()[0].value.array
        bytes[4] = 3
        disk.plant(DiskKey(table: 1), Bytes(bytes))
        do {
            _ = try open()
            Issue.record("it opened")
        } catch let error as DiskError {
            #expect(error.code == .refused)
            #expect(error.message.contains("1 or 2") && error.message.contains("version 3"))
        }
    }

    @Test func dataWithoutASuperblockIsDamageAndNotAnEmptyStore() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "x")]), storeHeader(1))
        disk.plant(DiskKey(table: 1), nil)
        #expect(code { _ = try open() } == .corrupt)
    }

    @Test func whatWasPublishedIsThereAfterACrashAndWhatWasNotIsNot() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "one")]), storeHeader(1, digest: 5))
        disk.faults.nextWriteFails = true
        #expect(code { try store.checkpoint(frozen([record(storeKey(1, "a"), 2, "two")]), storeHeader(2)) } == .failed)
        #expect(code { _ = try store.get(storeKey(1, "a"), in: store.view(ReplicaID(7))!) } == .failed)
        disk.crash()
        let again = try open()
        #expect(again.manifest(of: ReplicaID(7))?.digest == 5)
        #expect(
            try again.get(storeKey(1, "a"), in: again.view(ReplicaID(7))!) == .found(record(storeKey(1, "a"), 1, "one"))
        )
    }

    @Test func aCommitReportedAsFailedThatStayedIsAWholeOne() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "one")]), storeHeader(1))
        disk.faults.nextWriteFailsButStays = true
        #expect(code { try store.checkpoint(frozen([record(storeKey(1, "a"), 2, "two")]), storeHeader(2)) } == .failed)
        disk.crash()
        let again = try open()
        #expect(again.manifest(of: ReplicaID(7))?.index == LogIndex(2))
        #expect(try again.get(storeKey(1, "a"), in: again.view(ReplicaID(7))!).record?.value == "two")
    }

    @Test func aFullDiskChangesNothingAndLaterThereIsRoom() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "one")]), storeHeader(1))
        let before = disk.contents().map(\.key)
        disk.faults.bytesMax = 100_000
        let big = (0..<12).map {
            Record(
                key: storeKey(2, "big \($0)"), revision: Revision(2), changed: LogIndex(2),
                value: storeValue(1_000_000, $0))
        }
        #expect(code { try store.checkpoint(frozen(big), storeHeader(2)) } == .full)
        #expect(store.manifest(of: ReplicaID(7))?.index == LogIndex(1))
        disk.faults.bytesMax = .max
        while try store.reclaim() > 0 {}
        #expect(disk.contents().map(\.key) == before)
        try store.checkpoint(frozen(big), storeHeader(2))
        #expect(try store.get(big[3].key, in: store.view(ReplicaID(7))!) == .found(big[3]))
    }

    @Test func aMergeForWhichThereIsNoSpaceIsNotBegun() throws {
        let store = try begin()
        for index in 1...9 as ClosedRange<UInt64> {
            try store.checkpoint(frozen([record(storeKey(1, "a"), index, "value")]), storeHeader(index))
        }
        disk.faults.bytesMax = disk.bytes + 20
        let before = disk.commits
        let error = #expect(throws: DiskError.self) { try store.merge(ReplicaID(7)) }
        #expect(error?.code == .full && error?.message.contains("merging any two of the 9 runs") == true)
        #expect(disk.commits == before)
        disk.faults.bytesMax = .max
        #expect(try store.merge(ReplicaID(7))?.runs.count == 1)
    }

    @Test func aCheckpointOnAnotherBaseThanTheDurableManifestIsRefused() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 5, "five")]), storeHeader(5))
        // Lower index, term, revision or log time than the manifest's.
        #expect(throws: ManifestConflict.self) { try store.checkpoint(frozen([]), storeHeader(4)) }
        // The manifest moves on while chunks are written: what was based on the older one may not be published.
        let big = (0..<9).map {
            Record(
                key: storeKey(2, "\($0)"), revision: Revision(6), changed: LogIndex(6), value: storeValue(1_000_000, $0)
            )
        }
        var hasMoved = false
        #expect(throws: ManifestConflict.self) {
            try store.checkpoint(frozen(big), storeHeader(6)) {
                if !hasMoved { try store.checkpoint(frozen([record(storeKey(1, "b"), 6, "x")]), storeHeader(6)) }
                hasMoved = true
            }
        }
        #expect(store.manifest(of: ReplicaID(7))?.runs.count == 2)
        #expect(disk.contents().filter { $0.key.table == 3 }.count == store.manifest(of: ReplicaID(7))?.chunks)
    }

    @Test func aMergeThatIsOvertakenByACheckpointKeepsItsRun() throws {
        let store = try begin()
        for index in 1...3 as ClosedRange<UInt64> {
            let big = (0..<3).map {
                Record(
                    key: storeKey(2, "\(index) \($0)"), revision: Revision(index), changed: LogIndex(index),
                    value: storeValue(900_000, $0))
            }
            try store.checkpoint(frozen(big), storeHeader(index))
        }
        var paces: UInt64 = 0
        let merged = try store.merge(ReplicaID(7), range: 0..<3) {
            paces += 1
            try store.checkpoint(frozen([record(storeKey(1, "new"), 3 + paces, "\(paces)")]), storeHeader(3 + paces))
        }
        #expect(paces > 0)
        #expect(merged?.runs.count == 1 + Int(paces))
        #expect(try store.get(storeKey(1, "new"), in: store.view(ReplicaID(7))!).record?.value == Bytes("\(paces)"))
        #expect(try allRecords(store, store.view(ReplicaID(7))!).count == 10)
    }

    @Test func aMergeThatWouldWriteBackAnOldManifestIsRefused() throws {
        let store = try begin()
        for index in 1...3 as ClosedRange<UInt64> {
            let big = (0..<5).map {
                Record(
                    key: storeKey(2, "\(index) \($0)"), revision: Revision(index), changed: LogIndex(index),
                    value: storeValue(900_000, $0))
            }
            try store.checkpoint(frozen(big), storeHeader(index))
        }
        var isInner = false
        #expect(throws: ManifestConflict.self) {
            try store.merge(ReplicaID(7), range: 0..<3) {
                if !isInner {
                    isInner = true
                    try store.merge(ReplicaID(7), range: 1..<3)
                }
            }
        }
        #expect(store.manifest(of: ReplicaID(7))?.runs.count == 2)
        #expect(try allRecords(store, store.view(ReplicaID(7))!).count == 15)
    }

    @Test func tombstonesGoOnlyWithTheOldestRunAndRaiseTheHorizon() throws {
        let store = try begin()
        try store.checkpoint(
            frozen([record(storeKey(1, "a"), 1, "a"), record(storeKey(1, "b"), 2, "b")]), storeHeader(2))
        try store.checkpoint(frozen([record(storeKey(1, "a"), 3, nil)]), storeHeader(3))
        try store.checkpoint(frozen([record(storeKey(1, "c"), 4, nil)]), storeHeader(4))
        let upper = try store.merge(ReplicaID(7), range: 1..<3)
        #expect(upper?.runs.map(\.tombstones) == [0, 2])
        #expect(upper?.horizon == .zero)
        #expect(
            try store.get(storeKey(1, "a"), in: store.view(ReplicaID(7))!)
                == .tombstone(record(storeKey(1, "a"), 3, nil)))
        let held = try store.merge(ReplicaID(7), range: 0..<2, tombstonesThrough: LogIndex(3))
        #expect(held?.horizon == LogIndex(3))
        #expect(held?.runs.map(\.tombstones) == [1])
        let all = try store.merge(ReplicaID(7), range: 0..<1)
        #expect(all?.horizon == LogIndex(4))
        #expect(all?.runs.map(\.records) == [1])
        #expect(try store.get(storeKey(1, "a"), in: store.view(ReplicaID(7))!) == .absent)
        #expect(try open().manifest(of: ReplicaID(7))?.horizon == LogIndex(4))
    }

    @Test func aMergeThatLeavesNothingLeavesNoRun() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "a")]), storeHeader(1))
        try store.checkpoint(frozen([record(storeKey(1, "a"), 2, nil)]), storeHeader(2))
        #expect(try store.merge(ReplicaID(7), range: 0..<2)?.runs == [])
        try store.checkpoint(frozen([record(storeKey(1, "b"), 3, "b")]), storeHeader(3))
        #expect(try open().manifest(of: ReplicaID(7))?.runs.count == 1)
    }

    @Test func aboveEightRunsAllAreMergedAndOneIsLeft() throws {
        let store = try begin()
        for index in 1...8 as ClosedRange<UInt64> {
            try store.checkpoint(frozen([record(storeKey(1, "\(index)"), index, "x")]), storeHeader(index))
            #expect(try store.merge(ReplicaID(7)) == nil)
        }
        try store.checkpoint(frozen([record(storeKey(1, "9"), 9, "x")]), storeHeader(9))
        #expect(store.isMergeDue(ReplicaID(7)))
        #expect(try store.merge(ReplicaID(7))?.runs.count == 1)
        #expect(try allRecords(store, store.view(ReplicaID(7))!).count == 9)
    }

    @Test func aViewKeepsItsRunsUntilTheLastCopyIsGone() throws {
        let store = try begin()
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "old")]), storeHeader(1))
        try store.checkpoint(frozen([record(storeKey(1, "a"), 2, "new")]), storeHeader(2))
        var view = store.view(ReplicaID(7))
        var copy = view
        let chunks = disk.contents().filter { $0.key.table == 3 }.count
        try store.merge(ReplicaID(7), range: 0..<2)
        #expect(try store.reclaim() == 0)
        view = nil
        #expect(try store.reclaim() == 0)
        #expect(try store.get(storeKey(1, "a"), in: copy!).record?.value == "new")
        #expect(copy != nil)
        copy = nil
        var deleted = 0
        while case let count = try store.reclaim(), count > 0 { deleted += count }
        #expect(deleted == chunks)
        #expect(disk.contents().filter { $0.key.table == 3 }.count == store.manifest(of: ReplicaID(7))?.chunks)
        _ = view
    }

    @Test func atTheStartWhatNoManifestNamesGoesAndWhatOneNamesStays() throws {
        let store = try begin()
        let manifest = try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "a")]), storeHeader(1))
        for run in [0, 50, 5_000] as [UInt64] {
            for chunk in 0..<300 as Range<UInt32> {
                disk.plant(DiskKey(table: 3, high: run, low: chunk * 2), "leftover")
            }
        }
        let again = try open()
        #expect(disk.contents().filter { $0.key.table == 3 }.count == manifest.chunks)
        #expect(try again.get(storeKey(1, "a"), in: again.view(ReplicaID(7))!).record?.value == "a")
    }

    @Test func runIdsAreNeverUsedTwice() throws {
        var used: Set<RunID> = []
        var index: UInt64 = 0
        _ = try begin()
        for round in 0..<5 {
            let store = try open()
            for _ in 0..<round + 1 {
                index += 1
                let manifest = try store.checkpoint(frozen([record(storeKey(1, "a"), index, "a")]), storeHeader(index))
                #expect(used.insert(manifest.runs.last!.id).inserted)
            }
            #expect(used.insert(try store.merge(ReplicaID(7), range: 0..<1)!.runs[0].id).inserted)
            disk.crash()
        }
    }

    @Test func aRemovedReplicaIsGoneWithItsChunks() throws {
        let store = try begin()
        try store.start(storeHeader(0, replica: 8))
        try store.checkpoint(frozen([record(storeKey(1, "a"), 1, "a")]), storeHeader(1))
        try store.remove(ReplicaID(7))
        while try store.reclaim() > 0 {}
        #expect(store.view(ReplicaID(7)) == nil)
        #expect(disk.contents().filter { $0.key.table == 3 }.isEmpty)
        #expect(try open().manifests().map(\.replica) == [ReplicaID(8)])
        #expect(code { try store.checkpoint(frozen([]), storeHeader(2)) } == .misuse)
        #expect(throws: ManifestConflict.self) { try store.start(storeHeader(0, replica: 8)) }
    }

    @Test func manySmallCheckpointsShareOneTransaction() throws {
        let store = try open()
        for replica in 1...20 as ClosedRange<UInt64> { try store.start(storeHeader(0, replica: replica)) }
        try store.checkpoint(frozen([]), storeHeader(0, replica: 1))
        let commits = disk.commits
        try store.checkpoint(
            (1...20 as ClosedRange<UInt64>).map {
                CheckpointPart(frozen([record(storeKey(1, "a"), 1, "\($0)")]), storeHeader(1, replica: $0))
            })
        // One more reserves run ids, the first time.
        #expect(disk.commits <= commits + 2)
        for replica in 1...20 as ClosedRange<UInt64> {
            #expect(
                try store.get(storeKey(1, "a"), in: store.view(ReplicaID(replica))!).record?.value
                    == Bytes("\(replica)"))
        }
    }

    @Test func theCacheStaysWithinItsBudget() throws {
        let store = try Store(disk: disk, formatting: storeIdentity, settings: StoreSettings(cacheBytesMax: 20_000))
        try store.start(storeHeader(0))
        for run in 0..<6 as Range<UInt64> {
            let records = (0..<5_000 as Range<UInt64>).map {
                record(storeKey(UInt16($0 % 7), "run \(run) \($0)"), run + 1, "v")
            }
            try store.checkpoint(frozen(records), storeHeader(run + 1))
        }
        let view = store.view(ReplicaID(7))!
        for number in 0..<1_000 as Range<UInt64> {
            #expect(try store.get(storeKey(UInt16(number % 7), "run \(number % 6) \(number)"), in: view).record != nil)
            #expect(store.cacheBytes <= 20_000 + 65_520)
        }
    }
}
