// The store's thread: carries out the jobs of all event loops' groups.

package import HostCore
package import Storage
import Synchronization

/// Carries out the store jobs of all event loops on one thread.
package final class StoreWriter<Storage: Disk>: Sendable {
    private let worker = SerialWorker()
    private let waiting = Mutex(StoreQueue())
    private let intakes = SnapshotIntakes<Storage>()
    private let journalStand: @Sendable () -> (name: UInt64, sequence: UInt64)
    private let done: @Sendable (_ loop: Int, StoreOutcome) -> Void
    private let retry: @Sendable (_ again: @escaping @Sendable () -> Void) -> Void
    private let full: @Sendable (String?) -> Void
    private let failed: @Sendable (any Error, _ what: String) -> Void

    /// - Parameters:
    ///   - done: called on the store's thread after each job, with the loop that asked for it.
    ///   - retry: called on the store's thread when a checkpoint found no space; calls `again` some time later, on any
    ///     thread. It is done then, behind those that came meanwhile.
    ///   - full: called on the store's thread with the reason when a checkpoint found no space, each time that it is tried,
    ///     and with nil when none waits for space any more.
    ///   - failed: called on the store's thread, with what failed.
    ///   - journalStand: the journal's name and its last durable commit, for manifests that come from other hosts.
    package init(
        done: @escaping @Sendable (_ loop: Int, StoreOutcome) -> Void,
        retry: @escaping @Sendable (_ again: @escaping @Sendable () -> Void) -> Void,
        full: @escaping @Sendable (String?) -> Void,
        failed: @escaping @Sendable (any Error, _ what: String) -> Void,
        journalStand: @escaping @Sendable () -> (name: UInt64, sequence: UInt64)
    ) {
        self.done = done
        self.retry = retry
        self.full = full
        self.failed = failed
        self.journalStand = journalStand
    }

    package func submit(_ job: StoreJob, in store: Store<Storage>, from loop: Int) {
        submit(StoreQueue.Entry(job, from: loop), in: store)
    }

    private func submit(_ entry: StoreQueue.Entry, in store: Store<Storage>) {
        waiting.withLock { $0.append(entry) }
        perform("the store") { [self] in
            guard let next = waiting.withLock({ $0.popFirst() }) else { return }
            try Runner(writer: self, store: store).carryOut(next, in: store)
        }
    }

    private struct Runner: StoreJobRunner {
        let writer: StoreWriter
        let store: Store<Storage>

        var intakes: SnapshotIntakes<Storage> { writer.intakes }
        var journalStand: (name: UInt64, sequence: UInt64) { writer.journalStand() }

        func nextCheckpoint() -> StoreQueue.Entry? { writer.waiting.withLock { $0.popFirstCheckpoint() } }

        func ended(_ entry: StoreQueue.Entry, _ outcome: StoreOutcome) {
            let hasRoomAgain = writer.waiting.withLock { queue in
                let wasFull = queue.isFull
                queue.ended(entry)
                return wasFull && !queue.isFull
            }
            if hasRoomAgain { writer.full(nil) }
            writer.done(entry.loop, outcome)
        }

        func foundNoSpace(_ entry: StoreQueue.Entry, _ error: DiskError) {
            let again = writer.waiting.withLock { $0.foundNoSpace(entry) }
            writer.full("\(error)")
            writer.retry { [writer, store] in writer.submit(again, in: store) }
        }
    }

    /// Deletes dead chunks piece by piece, behind whatever else the thread has to do, until there are none.
    package func reclaim(_ store: Store<Storage>) {
        perform("the store") { [self] in
            if try Runner(writer: self, store: store).reclaimPiece(of: store) > 0 { reclaim(store) }
        }
    }

    /// Other work of this thread, in turn with the jobs.
    package func perform(_ what: String, _ work: @escaping @Sendable () throws -> Void) {
        worker.submit { [self] in
            do { try work() } catch { failed(error, what) }
        }
    }

    package func shutDown() async throws { try await worker.shutDown() }
}
