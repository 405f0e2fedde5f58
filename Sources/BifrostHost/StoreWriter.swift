// The store's thread: checkpoints and merges of all event loops' groups in their order, and what they leave behind.

import DequeModule
package import HostCore
package import Primitives
package import Storage
import Synchronization

/// Carries out the store jobs of all event loops on one thread.
package final class StoreWriter<Storage: Disk>: Sendable {
    /// What became of a job.
    package enum Outcome: Sendable {
        case checkpointed(GroupID, StoreView)
        case merged(GroupID, StoreView)
        /// What the replica has on disk can't be read: its job came to nothing, those of others go on.
        case damaged(StoreJob, String)
    }

    private struct Waiting {
        var job: StoreJob
        var loop: Int
    }

    private let worker = SerialWorker()
    /// Jobs that the thread has not begun, in their order. Bounded by the cores' bounds on jobs under way.
    private let waiting = Mutex<Deque<Waiting>>([])
    private let done: @Sendable (_ loop: Int, Outcome) -> Void
    private let retry: @Sendable (_ reason: String, _ again: @escaping @Sendable () -> Void) -> Void
    private let failed: @Sendable (any Error, _ what: String) -> Void

    /// Pieces of dead chunks deleted after each job, each some 16 MiB: above what a checkpoint writes.
    private static var reclaimsPerJob: Int { 8 }

    /// - Parameters:
    ///   - done: called on the store's thread after each job, with the loop that asked for it.
    ///   - retry: called on the store's thread when a job found no space, with the words for it; calls `again` some
    ///     time later, on any thread. The job is done then, behind those that came meanwhile.
    ///   - failed: called on the store's thread, with what failed.
    package init(
        done: @escaping @Sendable (_ loop: Int, Outcome) -> Void,
        retry: @escaping @Sendable (_ reason: String, _ again: @escaping @Sendable () -> Void) -> Void,
        failed: @escaping @Sendable (any Error, _ what: String) -> Void
    ) {
        self.done = done
        self.retry = retry
        self.failed = failed
    }

    package func submit(_ job: StoreJob, in store: Store<Storage>, from loop: Int) {
        submit(Waiting(job: job, loop: loop), in: store)
    }

    private func submit(_ job: Waiting, in store: Store<Storage>) {
        waiting.withLock { $0.append(job) }
        worker.submit { [self] in
            do {
                guard let next = waiting.withLock({ $0.popFirst() }) else { return }
                try carryOut(next, in: store)
                // As fast as merges replace runs, or the file would grow without end.
                for _ in 0..<Self.reclaimsPerJob where try reclaimPiece(of: store) == 0 { break }
            } catch { failed(error, "the store") }
        }
    }

    private func carryOut(_ next: Waiting, in store: Store<Storage>) throws {
        do { try attempt(next, in: store) } catch let error as DiskError where error.code == .corrupt {
            done(next.loop, .damaged(next.job, "\(error)"))
        } catch let error as DiskError where error.code == .full {
            // Nothing of it is there: neither manifest nor, in the end, the chunks that no manifest names.
            retry("\(error)") { [self] in submit(next, in: store) }
        }
    }

    private func reclaimPiece(of store: Store<Storage>) throws -> Int {
        do { return try store.reclaim() } catch let error as DiskError where error.code == .full { return 0 }
    }

    private func attempt(_ next: Waiting, in store: Store<Storage>) throws {
        switch next.job {
        case .checkpoint(let group, let frozen, let header):
            _ = try store.checkpoint(frozen, header)
            done(next.loop, .checkpointed(group, try view(of: header.replica, in: store)))
        case .merge(let group, let replica):
            // A merge is long; checkpoints of all groups go on between its pieces, and make room for apply.
            _ = try store.merge(replica) { [self] in
                while let checkpoint = nextCheckpoint() { try carryOut(checkpoint, in: store) }
                _ = try reclaimPiece(of: store)
            }
            done(next.loop, .merged(group, try view(of: replica, in: store)))
        }
    }

    private func nextCheckpoint() -> Waiting? {
        waiting.withLock { waiting in
            let place = waiting.firstIndex { next in
                if case .checkpoint = next.job { true } else { false }
            }
            return place.map { waiting.remove(at: $0) }
        }
    }

    private func view(of replica: ReplicaID, in store: Store<Storage>) throws -> StoreView {
        guard let view = store.view(replica) else {
            throw HostError(.disk, "the store has no sound manifest of replica \(replica)")
        }
        return view
    }

    /// Deletes dead chunks piece by piece, behind whatever else the thread has to do, until there are none.
    package func reclaim(_ store: Store<Storage>) {
        perform("the store") { [self] in
            if try reclaimPiece(of: store) > 0 { reclaim(store) }
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
