// Group commit over several event loops, on a simulated disk.

import BifrostHost
import BifrostSimulator
import Dispatch
import HostCore
import NIOCore
import NIOPosix
import Primitives
import Storage
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct JournalWriterTests {
    private struct Told: Hashable {
        var loop: Int
        var ticket: UInt64
        var sequence: UInt64
        var isOnItsLoop: Bool
    }

    private final class Record: Sendable {
        let told = Mutex<[Told]>([])
        let failures = Mutex(0)
        let full = Mutex<[Bool]>([])
        let work = Mutex(0)
        /// Called on a loop when it is told of a ticket.
        let next = Mutex<(@Sendable (_ loop: Int, _ ticket: UInt64) -> Void)?>(nil)
    }

    /// A writer with two event loops, and what it told.
    private final class Fixture: Sendable {
        let disk = SimulatedDisk(seed: 1)
        let journal: Journal<SimulatedDisk>
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let record = Record()
        let writer: JournalWriter<SimulatedDisk>

        init() throws {
            journal = try Journal(
                disk: disk, formatting: HostIdentity(incarnation: Incarnation(1), featureLevel: 1, journal: 7))
            let loops = Array(group.makeIterator()) as [any EventLoop]
            writer = JournalWriter(
                journal: journal, loops: loops,
                durable: { [record] loop, ticket, sequence in
                    let told = Told(
                        loop: loop, ticket: ticket, sequence: sequence, isOnItsLoop: loops[loop].inEventLoop)
                    record.told.withLock { $0.append(told) }
                    record.next.withLock { $0 }?(loop, ticket)
                }, full: { [record] reason in record.full.withLock { $0.append(reason != nil) } },
                failed: { [record] _ in record.failures.withLock { $0 += 1 } })
        }

        /// Keeps the commit thread busy until the semaphore is signalled.
        func block() -> DispatchSemaphore {
            let semaphore = DispatchSemaphore(value: 0)
            writer.perform { _ in semaphore.wait() }
            return semaphore
        }

        /// A batch of its own commit.
        func commit(_ loop: Int, ticket: UInt64, _ records: [JournalRecord]) async throws {
            writer.submit(JournalBatch(ticket: ticket, records: records), superfluous: [], from: loop)
            try await wait(for: "ticket \(ticket) of loop \(loop)") {
                record.told.withLock { $0.contains { $0.loop == loop && $0.ticket == ticket } }
            }
        }

        func end() async throws {
            try await writer.shutDown()
            try await group.shutdownGracefully()
        }
    }

    /// Replica r of group r.
    private func entries(_ replica: UInt64, _ range: ClosedRange<UInt64>, bytes: Int = 100) -> JournalRecord {
        .append(
            GroupID(UInt32(replica)), ReplicaID(replica),
            range.map {
                LogEntry(
                    index: LogIndex($0), term: Term(1), logTime: .zero, kind: .command,
                    payload: Bytes(Array(repeating: 1, count: bytes)))
            })
    }

    @Test func ticketsOfSeveralLoopsComeOfOneCommitEachOnItsOwnLoop() async throws {
        let fixture = try Fixture()
        let busy = fixture.block()
        fixture.writer.submit(JournalBatch(ticket: 1, records: [entries(2, 1...3)]), superfluous: [], from: 0)
        fixture.writer.submit(JournalBatch(ticket: 1, records: [entries(1, 1...2)]), superfluous: [], from: 1)
        fixture.writer.submit(JournalBatch(ticket: 2, records: [entries(2, 4...4)]), superfluous: [], from: 0)
        busy.signal()
        try await wait(for: "both loops") { fixture.record.told.withLock { $0.count } == 2 }
        try await fixture.end()
        #expect(
            fixture.record.told.withLock { Set($0) } == [
                Told(loop: 0, ticket: 2, sequence: 1, isOnItsLoop: true),
                Told(loop: 1, ticket: 1, sequence: 1, isOnItsLoop: true),
            ])
        #expect(fixture.writer.statistics.withLock { $0.commits } == 1)
        #expect(fixture.journal.log(of: ReplicaID(2))?.last == LogIndex(4))
        #expect(fixture.journal.log(of: ReplicaID(1))?.last == LogIndex(2))
    }

    /// A queue that grew behind a slow disk goes in pieces: nobody waits for all of it.
    @Test func aLongQueueIsSeveralCommits() async throws {
        let fixture = try Fixture()
        let busy = fixture.block()
        for ticket in UInt64(1)...9 {
            let record = entries(2, (ticket * 5 - 4)...(ticket * 5), bytes: 1 << 20)
            fixture.writer.submit(JournalBatch(ticket: ticket, records: [record]), superfluous: [], from: 0)
        }
        // More than a commit has room for, in one batch.
        let large = entries(1, 1...20, bytes: 1 << 20)
        fixture.writer.submit(JournalBatch(ticket: 1, records: [large]), superfluous: [], from: 1)
        busy.signal()
        try await wait(for: "the last") { fixture.record.told.withLock { $0.contains { $0.loop == 1 } } }
        try await fixture.end()
        #expect(
            fixture.record.told.withLock { Set($0) } == [
                Told(loop: 0, ticket: 3, sequence: 1, isOnItsLoop: true),
                Told(loop: 0, ticket: 6, sequence: 2, isOnItsLoop: true),
                Told(loop: 0, ticket: 9, sequence: 3, isOnItsLoop: true),
                Told(loop: 1, ticket: 1, sequence: 4, isOnItsLoop: true),
            ])
        #expect(fixture.journal.log(of: ReplicaID(2))?.last == LogIndex(45))
        #expect(fixture.journal.log(of: ReplicaID(1))?.last == LogIndex(20))
    }

    /// Nothing was written and nothing is lost: all of it goes, in its order, when there is space again.
    @Test func withoutSpaceTheQueueWaitsAndThenGoesOn() async throws {
        let fixture = try Fixture()
        try await fixture.commit(0, ticket: 1, [entries(2, 1...10, bytes: 1_000)])
        fixture.disk.faults.bytesMax = 12_000
        fixture.writer.submit(
            JournalBatch(ticket: 2, records: [entries(2, 11...20, bytes: 1_000)]), superfluous: [], from: 0)
        try await wait(for: "the word that it is full") { fixture.record.full.withLock { $0 == [true] } }
        fixture.writer.submit(
            JournalBatch(ticket: 1, records: [entries(1, 1...10, bytes: 1_000)]), superfluous: [], from: 1)
        fixture.writer.submit(JournalBatch(ticket: 3, records: [entries(2, 21...25)]), superfluous: [], from: 0)
        await OwnExecutor.pause(milliseconds: 600)
        #expect(fixture.record.told.withLock { $0.count } == 1)
        #expect(fixture.record.full.withLock { $0 } == [true], "it is said once")
        fixture.disk.faults.bytesMax = .max
        // In two commits: as long as there was no space the first became smaller and smaller.
        try await wait(for: "what waited") { fixture.record.told.withLock { $0.count } == 4 }
        try await fixture.end()
        #expect(
            fixture.record.told.withLock { Set($0) } == [
                Told(loop: 0, ticket: 1, sequence: 1, isOnItsLoop: true),
                Told(loop: 0, ticket: 2, sequence: 2, isOnItsLoop: true),
                Told(loop: 0, ticket: 3, sequence: 3, isOnItsLoop: true),
                Told(loop: 1, ticket: 1, sequence: 3, isOnItsLoop: true),
            ])
        #expect(fixture.record.full.withLock { $0 } == [true, false])
        #expect(fixture.record.failures.withLock { $0 } == 0)
        #expect(fixture.journal.log(of: ReplicaID(2))?.last == LogIndex(25))
        #expect(fixture.journal.log(of: ReplicaID(1))?.last == LogIndex(10))
    }

    /// What is not needed goes from the reserve, and makes the space that the queue waits for.
    @Test func withoutSpaceTheJournalIsStillTrimmed() async throws {
        let fixture = try Fixture()
        for ticket in UInt64(1)...4 {
            try await fixture.commit(0, ticket: ticket, [entries(2, (ticket * 10 - 9)...(ticket * 10), bytes: 1_000)])
        }
        fixture.disk.faults.reserveBytes = 2_000
        fixture.disk.faults.bytesMax = 48_000
        fixture.writer.submit(
            JournalBatch(ticket: 5, records: [entries(2, 41...50, bytes: 1_000)]), superfluous: [], from: 0)
        try await wait(for: "the word that it is full") { fixture.record.full.withLock { $0 == [true] } }
        fixture.writer.submit(nil, superfluous: [(ReplicaID(2), LogIndex(40))], from: 0)
        try await wait(for: "the batch") { fixture.record.told.withLock { $0.last?.ticket == 5 } }
        try await fixture.end()
        #expect(fixture.record.full.withLock { $0 } == [true, false])
    }

    @Test func aTrimListThatCameWhileTheQueueWasBusyIsCarriedOut() async throws {
        let fixture = try Fixture()
        for ticket in UInt64(1)...4 {
            try await fixture.commit(0, ticket: ticket, [entries(2, (ticket * 10 - 9)...(ticket * 10))])
        }
        let busy = fixture.block()
        fixture.writer.submit(JournalBatch(ticket: 5, records: [entries(2, 41...41)]), superfluous: [], from: 0)
        // Nothing else ever comes that would take the list along.
        fixture.writer.submit(nil, superfluous: [(ReplicaID(2), LogIndex(40))], from: 0)
        busy.signal()
        try await wait(for: "the trim") { fixture.journal.statistics.trimmedValues == 4 }
        try await fixture.end()
        #expect(fixture.journal.log(of: ReplicaID(2))?.base == LogIndex(40))
    }

    @Test func theNewestListsOfAllLoopsTrimTogether() async throws {
        let fixture = try Fixture()
        // Most of each value is loop 1's: its silence pins all of them.
        for ticket in UInt64(1)...4 {
            let range = (ticket * 10 - 9)...(ticket * 10)
            try await fixture.commit(0, ticket: ticket, [entries(2, range), entries(1, range, bytes: 1_000)])
        }
        fixture.writer.submit(nil, superfluous: [(ReplicaID(2), LogIndex(40))], from: 0)
        try await fixture.commit(0, ticket: 5, [entries(2, 41...41)])
        try await fixture.commit(0, ticket: 6, [entries(2, 42...42)])
        #expect(fixture.journal.statistics.trimmedValues == 0)
        fixture.writer.submit(nil, superfluous: [(ReplicaID(1), LogIndex(40))], from: 1)
        try await wait(for: "the trim") { fixture.journal.statistics.trimmedValues >= 4 }
        try await fixture.end()
        #expect(fixture.journal.log(of: ReplicaID(2))?.base == LogIndex(40))
        #expect(fixture.journal.log(of: ReplicaID(1))?.base == LogIndex(40))
    }

    @Test func whatNeedsTheJournalToItselfHasItsTurnUnderLoadThatNeverPauses() async throws {
        let fixture = try Fixture()
        // Two loops, each with a batch under way at all times: the queue is never found empty.
        fixture.record.next.withLock {
            $0 = { [writer = fixture.writer, record = fixture.record] loop, ticket in
                guard record.work.withLock({ $0 }) == 0, ticket < 5_000 else { return }
                let hardState = JournalRecord.hardState(
                    GroupID(UInt32(loop + 1)), ReplicaID(UInt64(loop + 1)), HardState(term: Term(ticket)))
                writer.submit(JournalBatch(ticket: ticket + 1, records: [hardState]), superfluous: [], from: loop)
            }
        }
        let busy = fixture.block()
        for loop in 0..<2 {
            for ticket in UInt64(1)...2 {
                let hardState = JournalRecord.hardState(
                    GroupID(UInt32(loop + 1)), ReplicaID(UInt64(loop + 1)), HardState(term: Term(ticket)))
                fixture.writer.submit(JournalBatch(ticket: ticket, records: [hardState]), superfluous: [], from: loop)
            }
        }
        fixture.writer.perform { [record = fixture.record] _ in record.work.withLock { $0 += 1 } }
        busy.signal()
        try await wait(for: "the work") { fixture.record.work.withLock { $0 } == 1 }
        let tickets = fixture.record.told.withLock { $0.map(\.ticket).max() ?? 0 }
        try await fixture.end()
        #expect(tickets < 100, "it waited for \(tickets) tickets")
    }

    @Test func aFailedCommitIsReportedOnceAndNothingIsAcknowledgedFromThenOn() async throws {
        let fixture = try Fixture()
        fixture.disk.faults.nextWriteFails = true
        fixture.writer.submit(JournalBatch(ticket: 1, records: [entries(2, 1...3)]), superfluous: [], from: 0)
        fixture.writer.submit(JournalBatch(ticket: 1, records: [entries(1, 1...3)]), superfluous: [], from: 1)
        try await wait(for: "the failure") { fixture.record.failures.withLock { $0 } > 0 }
        fixture.writer.submit(JournalBatch(ticket: 2, records: [entries(2, 4...5)]), superfluous: [], from: 0)
        fixture.writer.perform { [record = fixture.record] _ in record.work.withLock { $0 += 1 } }
        try await fixture.end()
        #expect(fixture.record.failures.withLock { $0 } == 1)
        #expect(fixture.record.told.withLock { $0.isEmpty })
        #expect(fixture.record.work.withLock { $0 } == 0)
    }
}
