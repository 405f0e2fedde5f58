// Group commit: while one commit is in its fsync, batches of all groups queue up; the next commit takes them all.

import NIOCore
import HostCore
import Primitives
import Storage
import Synchronization

/// Feeds the journal from its event loop and reports what is durable back to it.
final class JournalWriter<Storage: Disk>: Sendable {
    private struct Queue {
        var batches: [JournalBatch] = []
        var superfluous: [(replica: ReplicaID, through: LogIndex)] = []
        /// Lists of what is superfluous that came so far.
        var lists: UInt64 = 0
        var isRunning = false
    }

    private let journal: Journal<Storage>
    private let worker = SerialWorker()
    private let queue = Mutex(Queue())
    private let loop: any EventLoop
    private let durable: @Sendable (_ ticket: UInt64, _ sequence: UInt64) -> Void
    private let failed: @Sendable (any Error) -> Void
    let statistics = Mutex(CommitStatistics())

    /// - Parameters:
    ///   - durable: called on `loop` when all batches up to a ticket are on disk.
    ///   - failed: called once, on the worker's thread, when a commit failed: nothing may be believed from then on.
    init(
        journal: Journal<Storage>, loop: any EventLoop,
        durable: @escaping @Sendable (_ ticket: UInt64, _ sequence: UInt64) -> Void,
        failed: @escaping @Sendable (any Error) -> Void
    ) {
        self.journal = journal
        self.loop = loop
        self.durable = durable
        self.failed = failed
    }

    /// - Parameter superfluous: if not empty, all that the host knows to be superfluous: it takes the place of an
    ///   earlier
    ///   list.
    func submit(_ batch: JournalBatch?, superfluous: [(replica: ReplicaID, through: LogIndex)]) {
        let mustStart = queue.withLock { queue in
            if let batch { queue.batches.append(batch) }
            if !superfluous.isEmpty {
                queue.superfluous = superfluous
                queue.lists += 1
            }
            guard !queue.isRunning, !queue.batches.isEmpty || !queue.superfluous.isEmpty else { return false }
            queue.isRunning = true
            return true
        }
        if mustStart { worker.submit { self.drain() } }
    }

    private func drain() {
        while true {
            let (batches, superfluous, list) = queue.withLock { queue in
                let taken = (queue.batches, queue.superfluous, queue.lists)
                queue.batches = []
                if taken.0.isEmpty, taken.1.isEmpty { queue.isRunning = false }
                return taken
            }
            if batches.isEmpty, superfluous.isEmpty { return }
            do {
                if let last = batches.last {
                    var records = batches[0].records
                    for batch in batches.dropFirst() { records += batch.records }
                    let start = NIODeadline.now()
                    let sequence = try journal.append(records)
                    statistics.withLock { $0.note(NIODeadline.now() - start) }
                    loop.execute { self.durable(last.ticket, sequence) }
                }
                // One bounded piece after each commit, so that nobody's commit waits long for the cleaning, until
                // nothing
                // is left of the newest list.
                if !superfluous.isEmpty, try journal.trim(superfluousThrough: superfluous).values == 0 {
                    queue.withLock { if $0.lists == list { $0.superfluous = [] } }
                }
            } catch {
                failed(error)
                return  // isRunning stays true: nothing is ever written again
            }
        }
    }

    /// Something rare that needs the journal to itself, in turn with the commits.
    func perform(_ work: @escaping @Sendable (Journal<Storage>) throws -> Void) {
        worker.submit { [self] in
            do { try work(journal) } catch { failed(error) }
        }
    }

    func shutDown() async throws { try await worker.shutDown() }
}

/// How long commits take: their number and a small reservoir of the latest, for the median.
struct CommitStatistics {
    private(set) var commits: UInt64 = 0
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
