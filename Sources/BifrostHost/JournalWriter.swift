// The journal's thread: carries out what the queue of all event loops' batches says.

package import HostCore
package import NIOCore
package import Primitives
package import Storage
package import Synchronization

/// Feeds the journal from the event loops and reports to each what of its own is durable.
package final class JournalWriter<Storage: Disk>: Sendable {
    private let journal: Journal<Storage>
    private let worker = SerialWorker()
    private let queue: Mutex<JournalQueue>
    private let loops: [any EventLoop]
    private let durable: @Sendable (_ loop: Int, _ ticket: UInt64, _ sequence: UInt64) -> Void
    private let full: @Sendable (String?) -> Void
    private let failed: @Sendable (any Error) -> Void
    package let statistics = Mutex(CommitStatistics())

    /// - Parameters:
    ///   - durable: called on a loop when all its batches up to a ticket are on disk.
    ///   - full: called on the worker's thread with the reason when a commit finds no space, and with nil when one went
    ///     through again. What is queued waits meanwhile, in its order, and is tried again and again: nothing of it was
    ///     written.
    ///   - failed: called once, on the worker's thread, when a commit failed: nothing may be believed from then on,
    ///     and nothing is written any more.
    package init(
        journal: Journal<Storage>, loops: [any EventLoop],
        durable: @escaping @Sendable (_ loop: Int, _ ticket: UInt64, _ sequence: UInt64) -> Void,
        full: @escaping @Sendable (String?) -> Void, failed: @escaping @Sendable (any Error) -> Void
    ) {
        self.journal = journal
        self.loops = loops
        self.durable = durable
        self.full = full
        self.failed = failed
        queue = Mutex(JournalQueue(loops: loops.count))
    }

    /// Queues a loop's batch for the next commit. Tickets of one loop come in ascending order.
    ///
    /// - Parameter superfluous: if not empty, all that this loop knows to be superfluous: it takes the place of the
    ///   loop's earlier list.
    package func submit(
        _ batch: JournalBatch?, superfluous: [(replica: ReplicaID, through: LogIndex)], from loop: Int
    ) {
        let mustStart = queue.withLock { $0.add(batch, superfluous: superfluous, from: loop) }
        if mustStart { worker.submit { self.drain() } }
    }

    /// One step; what came meanwhile has its turn behind what `perform` brought.
    private func drain() {
        guard let step = queue.withLock({ $0.next() }) else { return }
        let verdict: JournalQueue.Verdict
        do {
            let outcome = try step.perform(
                commit: { records in
                    let start = NIODeadline.now()
                    let sequence = try journal.append(records)
                    statistics.withLock { $0.note(NIODeadline.now() - start) }
                    tell(step, sequence)
                    return sequence
                }, trim: { try journal.trim(superfluousThrough: $0).values })
            verdict = queue.withLock { $0.ended(step, outcome) }
        } catch {
            return fail(error)
        }
        switch verdict.news {
        case .full(let error)?: full("\(error)")
        case .roomAgain?: full(nil)
        case nil: break
        }
        guard verdict.pauses else { return worker.submit { self.drain() } }
        loops[0].scheduleTask(in: Self.retryPause) { self.worker.submit { self.drain() } }
    }

    private static var retryPause: TimeAmount { .milliseconds(200) }

    private func tell(_ step: JournalQueue.Step, _ sequence: UInt64) {
        for loop in loops.indices {
            guard let ticket = step.ticket(ofLoop: loop) else { continue }
            loops[loop].execute { self.durable(loop, ticket, sequence) }
        }
    }

    /// Something rare that needs the journal to itself, in turn with the commits. Not done any more after a failure.
    package func perform(_ work: @escaping @Sendable (Journal<Storage>) throws -> Void) {
        worker.submit { [self] in
            guard !queue.withLock({ $0.hasFailed }) else { return }
            do { try work(journal) } catch { fail(error) }
        }
    }

    private func fail(_ error: any Error) {
        if queue.withLock({ $0.fail() }) { failed(error) }
    }

    package func shutDown() async throws { try await worker.shutDown() }
}

/// How long commits take: their number and a small reservoir of the latest, for the median.
package struct CommitStatistics: Sendable {
    package private(set) var commits: UInt64 = 0
    package private(set) var times = DurationHistogram()
    private var latest: [Int64] = []
    private static let keep = 256

    mutating func note(_ time: TimeAmount) {
        times.note(nanoseconds: UInt64(max(0, time.nanoseconds)))
        if latest.count < Self.keep {
            latest.append(time.nanoseconds)
        } else {
            latest[Int(commits % UInt64(Self.keep))] = time.nanoseconds
        }
        commits += 1
    }

    /// The time below which this share of the latest commits was; 0 before the first.
    func micros(at share: Double) -> UInt64 {
        guard !latest.isEmpty else { return 0 }
        return UInt64(latest.sorted()[min(Int(Double(latest.count) * share), latest.count - 1)] / 1000)
    }
}
