// The order of what waits for the journal and for the store, without disks.

import HostCore
import Primitives
import Storage
import Testing

@Suite struct QueueTests {
    private func batch(_ ticket: UInt64, bytes: Int = 100) -> JournalBatch {
        let entry = LogEntry(
            index: LogIndex(ticket), term: Term(1), logTime: .zero, kind: .command,
            payload: Bytes(Array(repeating: 7, count: max(bytes - LogEntry.headerBytes, 0))))
        return JournalBatch(ticket: ticket, records: [.append(GroupID(1), ReplicaID(1), [entry])])
    }

    private func add(_ tickets: ClosedRange<UInt64>, loop: Int = 0, bytes: Int = 100, to queue: inout JournalQueue) {
        for ticket in tickets { _ = queue.add(batch(ticket, bytes: bytes), superfluous: [], from: loop) }
    }

    private func next(_ queue: inout JournalQueue) throws -> JournalQueue.Step {
        let step = queue.next()
        return try #require(step)
    }

    private func isNews(_ verdict: JournalQueue.Verdict) -> Bool {
        if case nil = verdict.news { false } else { true }
    }

    private func tickets(_ step: JournalQueue.Step) -> [UInt64] { step.batches.map(\.batch.ticket) }

    @Test func aCommitTakesAllThatWaitsUpToItsBound() throws {
        var queue = JournalQueue(loops: 2, commitBytesMax: 1_120)
        let begins = [
            queue.add(batch(1), superfluous: [], from: 0), queue.add(batch(1), superfluous: [], from: 1),
        ]
        #expect(begins == [true, false])
        add(2...9, bytes: 300, to: &queue)
        var seen: [[UInt64]] = []
        while let step = queue.next() {
            seen.append(tickets(step))
            _ = queue.ended(step, try step.perform(commit: { _ in 1 }, trim: { _ in 0 }))
        }
        #expect(seen == [[1, 1, 2, 3], [4, 5, 6], [7, 8, 9]])
        let beginsAgain = queue.add(batch(10), superfluous: [], from: 0)
        #expect(beginsAgain, "it rested")
    }

    @Test func aBatchAboveTheBoundGoesAlone() throws {
        var queue = JournalQueue(loops: 1, commitBytesMax: 1_000)
        add(1...1, bytes: 5_000, to: &queue)
        add(2...2, to: &queue)
        let first = try next(&queue)
        let second = try next(&queue)
        #expect(tickets(first) == [1])
        #expect(tickets(second) == [2])
    }

    /// And half as much, until something fits; told once, and once more when there is space again.
    @Test func aCommitWithoutSpaceIsTriedAgainBeforeWhatCameMeanwhile() throws {
        var queue = JournalQueue(loops: 2)
        add(1...4, to: &queue)
        var tried: [[UInt64]] = []
        var news: [Bool] = []
        var ticket: UInt64 = 5
        for isFull in [true, true, true, false, false, false] {
            let step = try next(&queue)
            tried.append(tickets(step))
            add(ticket...ticket, to: &queue)
            ticket += 1
            let outcome = try step.perform(
                commit: { _ in
                    if isFull { throw DiskError(.full, "none left") }
                    return 8
                }, trim: { _ in 0 })
            #expect((outcome.sequence == nil) == isFull)
            let verdict = queue.ended(step, outcome)
            #expect(verdict.pauses == isFull && queue.isFull == isFull)
            switch verdict.news {
            case .full?: news.append(true)
            case .roomAgain?: news.append(false)
            case nil: break
            }
        }
        #expect(tried == [[1, 2, 3, 4], [1, 2], [1], [1], [2, 3, 4, 5, 6, 7, 8], [9]])
        #expect(news == [true, false])
    }

    /// The newest list of each loop counts, and trimming goes on until a piece of the newest lists deletes nothing.
    @Test func trimmingGoesOnUntilNothingIsLeftOfTheNewestLists() throws {
        var queue = JournalQueue(loops: 2)
        let begins = queue.add(nil, superfluous: [(ReplicaID(1), LogIndex(5))], from: 0)
        #expect(begins)
        _ = queue.add(nil, superfluous: [(ReplicaID(1), LogIndex(6))], from: 0)
        _ = queue.add(nil, superfluous: [(ReplicaID(2), LogIndex(3))], from: 1)
        var left = [2, 1, 0, 4, 0]
        var lists: [[UInt64]] = []
        var pieces = 0
        while let step = queue.next() {
            pieces += 1
            let outcome = try step.perform(commit: { _ in throw Unexpected() }) {
                lists.append($0.map(\.through.rawValue))
                return left.removeFirst()
            }
            // A list that comes while the last piece of the older ones is under way is not forgotten.
            if pieces == 3 { _ = queue.add(nil, superfluous: [(ReplicaID(2), LogIndex(4))], from: 1) }
            _ = queue.ended(step, outcome)
        }
        #expect(lists == [[6, 3], [6, 3], [6, 3], [6, 4], [6, 4]])
    }

    @Test func aTrimWithoutSpacePausesAndIsNoNews() throws {
        var queue = JournalQueue(loops: 1)
        _ = queue.add(batch(1), superfluous: [(ReplicaID(1), LogIndex(5))], from: 0)
        let step = try next(&queue)
        let verdict = queue.ended(
            step, try step.perform(commit: { _ in 1 }, trim: { _ in throw DiskError(.full, "none left") }))
        #expect(verdict.pauses && !isNews(verdict))
        let rest = queue.next()
        #expect(rest != nil, "trimming is still due")
    }

    @Test func afterAFailureNothingIsWrittenAnyMore() throws {
        var queue = JournalQueue(loops: 1)
        add(1...1, to: &queue)
        let step = try next(&queue)
        #expect(throws: DiskError.self) {
            try step.perform(commit: { _ in throw DiskError(.failed, "an I/O error") }, trim: { _ in 0 })
        }
        let isFirst = queue.fail()
        let isFirstAgain = queue.fail()
        #expect(isFirst && !isFirstAgain)
        let mustStart = queue.add(batch(2), superfluous: [], from: 0)
        let next = queue.next()
        #expect(!mustStart && next == nil)
    }

    @Test func theStoreIsFullForAsLongAsCheckpointsWait() throws {
        func checkpoint(_ group: UInt32) -> StoreQueue.Entry {
            let header = ManifestHeader(
                group: GroupID(group), replica: ReplicaID(UInt64(group)), index: LogIndex(1), term: Term(1),
                revision: Revision(1), logTime: .zero, configuration: Configuration(voters: [ReplicaID(1)]), digest: 0,
                journal: 1, journalSequence: 1)
            return StoreQueue.Entry(.checkpoint(GroupID(group), Memtable().freeze(), header), from: 0)
        }
        var queue = StoreQueue()
        let first = queue.foundNoSpace(checkpoint(1))
        let second = queue.foundNoSpace(checkpoint(2))
        let firstAgain = queue.foundNoSpace(first)
        #expect(queue.isFull)
        queue.ended(second)
        #expect(queue.isFull, "one still waits")
        queue.ended(checkpoint(3))
        #expect(queue.isFull, "one that never waited says nothing of those that do")
        queue.ended(firstAgain)
        #expect(!queue.isFull)
    }

    private struct Unexpected: Error {}
}
