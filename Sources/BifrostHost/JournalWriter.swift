// Group commit: while one commit is in its fsync, batches of all groups on all event loops queue up; the next commit
// takes them all.

package import HostCore
package import NIOCore
package import Primitives
package import Storage
package import Synchronization

/// Feeds the journal from the event loops and reports to each what of its own is durable.
package final class JournalWriter<Storage: Disk>: Sendable {
    /// Bounded by the cores' bounds on undurable bytes: each counts what it handed in until it is told of it.
    private struct Queue {
        var batches: [(loop: Int, batch: JournalBatch)] = []
        /// The newest list of what is superfluous that each loop gave. A loop that gave none yet pins all of its
        /// groups: what is in no list is not trimmed.
        var superfluous: [[(replica: ReplicaID, through: LogIndex)]]
        /// Lists that came so far.
        var lists: UInt64 = 0
        /// There is more to trim, as far as is known.
        var isTrimDue = false
        var isRunning = false
        var hasFailed = false

        /// The last commit found no space.
        var isFull = false

        /// What goes into the next commit: the oldest, at least one.
        mutating func takeBatches() -> [(loop: Int, batch: JournalBatch)] {
            var bytes = 0
            let end = batches.firstIndex { next in
                defer { bytes += next.batch.bytes }
                return bytes + next.batch.bytes > commitBytesMax && bytes > 0
            }
            guard let end else {
                defer { batches = [] }
                return batches
            }
            defer { batches.removeFirst(end) }
            return Array(batches[..<end])
        }
    }

    /// Of entries in one commit, but for a batch that has more: a queue that grew behind a slow disk must not make one
    /// commit that all who come later wait for, nor a value that can only be trimmed as a whole.
    private static var commitBytesMax: Int { 16 << 20 }

    private let journal: Journal<Storage>
    private let worker = SerialWorker()
    private let queue: Mutex<Queue>
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
        queue = Mutex(Queue(superfluous: Array(repeating: [], count: loops.count)))
    }

    /// Queues a loop's batch for the next commit. Tickets of one loop come in ascending order.
    ///
    /// - Parameter superfluous: if not empty, all that this loop knows to be superfluous: it takes the place of the
    ///   loop's earlier list.
    package func submit(
        _ batch: JournalBatch?, superfluous: [(replica: ReplicaID, through: LogIndex)], from loop: Int
    ) {
        let mustStart = queue.withLock { queue in
            guard !queue.hasFailed else { return false }
            if let batch { queue.batches.append((loop, batch)) }
            if !superfluous.isEmpty {
                queue.superfluous[loop] = superfluous
                queue.lists += 1
                queue.isTrimDue = true
            }
            guard !queue.isRunning, !queue.batches.isEmpty || queue.isTrimDue else { return false }
            queue.isRunning = true
            return true
        }
        if mustStart { worker.submit { self.drain() } }
    }

    /// One commit and one piece of trimming; what came meanwhile has its turn behind what `perform` brought.
    private func drain() {
        let (batches, superfluous, list) = queue.withLock { queue in
            let batches = queue.hasFailed ? [] : queue.takeBatches()
            let isTrimDue = queue.isTrimDue && !queue.hasFailed
            if batches.isEmpty, !isTrimDue, !queue.hasFailed { queue.isRunning = false }
            return (batches, isTrimDue ? queue.superfluous : [], queue.lists)
        }
        if batches.isEmpty, superfluous.isEmpty { return }
        var isFull = false
        do {
            if !batches.isEmpty { isFull = try !commitIfThereIsSpace(batches) }
            // One bounded piece after each commit, so that nobody's commit waits long for the cleaning, until nothing
            // is left of the newest lists.
            if !superfluous.isEmpty {
                do {
                    if try journal.trim(superfluousThrough: superfluous.flatMap(\.self)).values == 0 {
                        queue.withLock { if $0.lists == list { $0.isTrimDue = false } }
                    }
                } catch let error as DiskError where error.code == .full { isFull = true }
            }
        } catch {
            return fail(error)  // isRunning stays true: nothing is ever written again
        }
        guard isFull else { return worker.submit { self.drain() } }
        loops[0].scheduleTask(in: Self.retryPause) { self.worker.submit { self.drain() } }
    }

    private static var retryPause: TimeAmount { .milliseconds(200) }

    /// False: nothing was written, and the batches are first in the queue again.
    private func commitIfThereIsSpace(_ batches: [(loop: Int, batch: JournalBatch)]) throws -> Bool {
        do {
            try commit(batches)
        } catch let error as DiskError where error.code == .full {
            let isNews = queue.withLock { queue in
                queue.batches.insert(contentsOf: batches, at: 0)
                defer { queue.isFull = true }
                return !queue.isFull
            }
            if isNews { full("\(error)") }
            return false
        }
        let isNews = queue.withLock { queue in
            defer { queue.isFull = false }
            return queue.isFull
        }
        if isNews { full(nil) }
        return true
    }

    private func commit(_ batches: [(loop: Int, batch: JournalBatch)]) throws {
        var records = batches[0].batch.records
        for (_, batch) in batches.dropFirst() { records += batch.records }
        let start = NIODeadline.now()
        let sequence = try journal.append(records)
        statistics.withLock { $0.note(NIODeadline.now() - start) }
        var tickets = [UInt64?](repeating: nil, count: loops.count)
        for (loop, batch) in batches { tickets[loop] = batch.ticket }
        for (loop, ticket) in tickets.enumerated() {
            guard let ticket else { continue }
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
        let isFirst = queue.withLock { queue in
            defer {
                queue.hasFailed = true
                queue.isRunning = true
            }
            return !queue.hasFailed
        }
        if isFirst { failed(error) }
    }

    package func shutDown() async throws { try await worker.shutDown() }
}

/// How long commits take: their number and a small reservoir of the latest, for the median.
package struct CommitStatistics: Sendable {
    package private(set) var commits: UInt64 = 0
    private var latest: [Int64] = []
    private static let keep = 256

    mutating func note(_ time: TimeAmount) {
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
