// The store's thread, on a simulated disk: what goes before what, and that nothing dead piles up.

import BifrostHost
import BifrostSimulator
import Dispatch
import HostCore
import Primitives
import Storage
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct StoreWriterTests {
    private final class Outcomes: Sendable {
        let list = Mutex<[String]>([])
        let full = Mutex<[String?]>([])
    }

    private let disk = SimulatedDisk(seed: 1)
    private let outcomes = Outcomes()

    private func store() throws -> Store<SimulatedDisk> {
        let store = try Store(
            disk: disk,
            formatting: StoreIdentity(cluster: ClusterID(high: 1, low: 2), host: HostID(3), journal: 99),
            settings: StoreSettings(runsMax: 2, transactionBytesMax: 256 << 10, deletionsMax: 16))
        for replica in [7, 8] as [UInt64] { _ = try store.start(header(0, replica)) }
        return store
    }

    private func writer() -> StoreWriter<SimulatedDisk> {
        StoreWriter(
            done: { [outcomes] loop, outcome in
                let text =
                    switch outcome {
                    case .checkpointed(let group, let view): "\(loop): \(group) at \(view.manifest.header.index)"
                    case .merged(let group, let view): "\(loop): \(group) has \(view.manifest.runs.count) run"
                    case .mergeFoundNoSpace(let group, _): "\(loop): no space to merge \(group)"
                    case .damaged(_, let what): "\(loop): damaged, \(what)"
                    case .snapshotTaken, .snapshotInstalled, .snapshotFailed, .removed: "\(loop): a snapshot"
                    }
                outcomes.list.withLock { $0.append(text) }
            },
            retry: { again in DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(50)) { again() } },
            full: { [outcomes] reason in outcomes.full.withLock { $0.append(reason) } },
            failed: { error, what in Issue.record("\(what): \(error)") }, journalStand: { (99, 0) })
    }

    private func header(_ index: UInt64, _ replica: UInt64) -> ManifestHeader {
        ManifestHeader(
            group: GroupID(UInt32(replica)), replica: ReplicaID(replica), index: LogIndex(index), term: Term(1),
            revision: Revision(index), logTime: LogTime(index),
            configuration: Configuration(voters: [ReplicaID(replica)]), digest: 0, journal: 99, journalSequence: index)
    }

    /// Some megabyte of records that were all changed at this index.
    private func frozen(_ index: UInt64, records: Int = 16) -> FrozenMemtable {
        let memtable = Memtable()
        for number in 0..<records {
            memtable.put(
                Record(
                    key: RecordKey(slot: Slot(1), machine: .init(1), key: Bytes("key \(number)")),
                    revision: Revision(index), changed: LogIndex(index),
                    value: Bytes(Array(repeating: UInt8(truncatingIfNeeded: index), count: 60_000))))
        }
        return memtable.freeze()
    }

    private func chunks() -> Int { disk.contents().count { $0.key.table == 3 } }

    @Test func checkpointsOfOtherGroupsGoOnBetweenThePiecesOfAMerge() async throws {
        let store = try store()
        let writer = writer()
        for index in 1...3 as ClosedRange<UInt64> { _ = try store.checkpoint(frozen(index), header(index, 7)) }
        let busy = DispatchSemaphore(value: 0)
        writer.perform("waiting") { busy.wait() }
        writer.submit(.merge(GroupID(7), ReplicaID(7), tombstonesThrough: LogIndex(.max)), in: store, from: 1)
        writer.submit(.checkpoint(GroupID(8), frozen(1, records: 1), header(1, 8)), in: store, from: 0)
        busy.signal()
        try await wait(for: "both jobs") { outcomes.list.withLock { $0.count } == 2 }
        try await writer.shutDown()
        #expect(outcomes.list.withLock { $0 } == ["0: 8 at 1", "1: 7 has 1 run"])
    }

    /// A bit of one replica's runs flips: its merge comes to nothing, and says so; the other replica's checkpoint is
    /// done.
    @Test func aMergeThatMeetsDamageEndsItsJobAndNotTheThread() async throws {
        let store = try store()
        let writer = writer()
        for index in 1...3 as ClosedRange<UInt64> { _ = try store.checkpoint(frozen(index), header(index, 7)) }
        let chunk = try #require(disk.contents().first { $0.key.table == 3 })
        disk.flipBit(in: chunk.key, bit: 8 * (chunk.value.count - 1))
        writer.submit(.merge(GroupID(7), ReplicaID(7), tombstonesThrough: LogIndex(.max)), in: store, from: 1)
        writer.submit(.checkpoint(GroupID(8), frozen(1, records: 1), header(1, 8)), in: store, from: 0)
        try await wait(for: "both jobs") { outcomes.list.withLock { $0.count } == 2 }
        try await writer.shutDown()
        let list = outcomes.list.withLock { $0.sorted() }
        #expect(list[0] == "0: 8 at 1")
        #expect(list[1].hasPrefix("1: damaged, ") && list[1].contains("checksum"), "\(list)")
        #expect(store.manifest(of: ReplicaID(7))?.runs.count == 3)
    }

    /// A checkpoint that finds no space waits; a merge may use the reserve, and gives back what the checkpoint needs.
    @Test func withoutSpaceCheckpointsWaitForWhatMergesGiveBack() async throws {
        let store = try store()
        let writer = writer()
        for index in 1...3 as ClosedRange<UInt64> { _ = try store.checkpoint(frozen(index), header(index, 7)) }
        let used = disk.contents().reduce(0) { $0 + $1.value.count }
        disk.faults.bytesMax = used + 1_500_000
        disk.faults.reserveBytes = 1_400_000
        writer.submit(.checkpoint(GroupID(8), frozen(1), header(1, 8)), in: store, from: 0)
        try await wait(for: "the checkpoint to be tried again") { outcomes.full.withLock { $0.count > 1 } }
        #expect(outcomes.list.withLock { $0 } == [])
        #expect(outcomes.full.withLock { $0.allSatisfy { $0?.contains("full") == true } })
        writer.submit(.merge(GroupID(7), ReplicaID(7), tombstonesThrough: LogIndex(.max)), in: store, from: 1)
        try await wait(for: "both jobs") { outcomes.list.withLock { $0.count } == 2 }
        try await writer.shutDown()
        #expect(outcomes.list.withLock { $0 } == ["1: 7 has 2 run", "0: 8 at 1"])
        #expect(store.manifest(of: ReplicaID(8))?.index == LogIndex(1))
        #expect(outcomes.full.withLock { $0.filter { $0 == nil }.count == 1 && $0.last == .some(nil) })
    }

    @Test func deadChunksGoAsFastAsMergesMakeThem() async throws {
        let store = try store()
        let writer = writer()
        var jobs = 0
        for index in 1...12 as ClosedRange<UInt64> {
            writer.submit(.checkpoint(GroupID(7), frozen(index), header(index, 7)), in: store, from: 0)
            jobs += 1
            if index % 3 == 0 {
                writer.submit(.merge(GroupID(7), ReplicaID(7), tombstonesThrough: LogIndex(.max)), in: store, from: 0)
                jobs += 1
                try await wait(for: "\(jobs) jobs") { outcomes.list.withLock { $0.count } == jobs }
            }
        }
        // What is left to do after the last job is done behind it, by the same thread.
        let isDone = DispatchSemaphore(value: 0)
        writer.perform("waiting") { isDone.signal() }
        await withCheckedContinuation { (done: CheckedContinuation<Void, Never>) in
            DispatchQueue.global().async {
                isDone.wait()
                done.resume()
            }
        }
        try await writer.shutDown()
        let live = try #require(store.manifest(of: ReplicaID(7))?.chunks)
        // A merge here replaces fewer chunks than are deleted after a job.
        #expect(chunks() == live)
    }
}
