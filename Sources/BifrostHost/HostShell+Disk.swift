// What touches the disk, on the threads that may wait for it: cold reads, log reads, checkpoints, merges, births.

import DequeModule
import HostCore
import Logging
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import RaftCore
import StateMachines
import Storage
import Synchronization

extension HostShell {
    // MARK: Readers

    /// All cold reads of one turn go to one reader thread and come back in one task.
    func startColdReads(_ reads: [ColdRead]) {
        guard let store else { return }
        readers.submit { [self] _ in
            var answers: [(CallToken, Response<DataResult>)] = []
            answers.reserveCapacity(reads.count)
            for read in reads {
                do {
                    let found = try store.get(read.key, in: read.view)
                    answers.append(
                        (read.call, .done(HostCore.result(found, index: read.index, revision: read.revision))))
                } catch {
                    answers.append((read.call, .refused(.unavailable(unreadable(error, in: read.group)))))
                }
            }
            loop.execute { [self, answers] in
                for (call, response) in answers { calls.take(call)?.respond { response.encode(into: &$0) } }
            }
        }
    }

    func startColdPage(_ page: ColdPage) {
        guard let store else { return }
        readers.submit { [self] _ in
            var response: Response<PageResult>
            do {
                response = .done(try page.result(from: store, recordsMax: configuration.settings.pageRecordsMax))
            } catch {
                response = .refused(.unavailable(unreadable(error, in: page.group)))
            }
            loop.execute { [self, response] in
                calls.take(page.call)?.respond { response.encode(into: &$0) }
            }
        }
    }

    func startLogRead(_ read: JournalRead) {
        readers.submit { [self] _ in
            let entries: [LogEntry]
            do {
                entries = try journal.entries(
                    of: read.replica, from: read.from, through: read.through, bytesMax: read.bytesMax)
            } catch {
                logger.error(
                    "a follower's entries can't be read", metadata: ["group": "\(read.group)", "error": "\(error)"])
                entries = []
            }
            loop.execute { [self, entries] in
                core?.supply(entries, group: read.group, follower: read.follower)
                scheduleTurn()
            }
        }
    }

    private func unreadable(_ error: any Error, in group: GroupID) -> String {
        logger.error("a record can't be read", metadata: ["group": "\(group)", "error": "\(error)"])
        return "the store can't be read: \(error)"
    }

    // MARK: The store's thread

    func startStoreJob(_ job: StoreJob) {
        guard let store else { return }
        storeJobs.withLock { $0.append(job) }
        storeWorker.submit { [self] in
            do {
                guard let next = storeJobs.withLock({ $0.popFirst() }) else { return }
                try carryOut(next, in: store)
                // As fast as merges replace runs, or the file would grow without end.
                for _ in 0..<Self.reclaimsPerJob where try store.reclaim() == 0 { break }
            } catch { fail(error, "the store") }
        }
    }

    /// Pieces of dead chunks deleted after each job, each some 16 MiB: above what a checkpoint writes.
    private static var reclaimsPerJob: Int { 8 }

    private func carryOut(_ job: StoreJob, in store: Store<LMDBDisk>) throws {
        switch job {
        case .checkpoint(let group, let frozen, let header):
            _ = try store.checkpoint(frozen, header)
            let view = try self.view(of: header.replica, in: store)
            loop.execute { [self] in
                core?.checkpointDone(group: group, view: view)
                scheduleTurn()
            }
        case .merge(let group, let replica):
            // A merge is long; checkpoints of all groups go on between its pieces, and make room for apply.
            _ = try store.merge(replica) { [self] in
                while let checkpoint = nextCheckpoint() { try carryOut(checkpoint, in: store) }
                _ = try store.reclaim()
            }
            let view = try self.view(of: replica, in: store)
            loop.execute { [self] in
                core?.mergeDone(group: group, view: view)
                scheduleTurn()
            }
        }
    }

    private func nextCheckpoint() -> StoreJob? {
        storeJobs.withLock { jobs in
            let place = jobs.firstIndex { job in
                if case .checkpoint = job { true } else { false }
            }
            return place.map { jobs.remove(at: $0) }
        }
    }

    private func view(of replica: ReplicaID, in store: Store<LMDBDisk>) throws -> StoreView {
        guard let view = store.view(replica) else {
            throw HostError(.disk, "the store has no sound manifest of replica \(replica)")
        }
        return view
    }

    // MARK: Births

    /// Restores the replicas that the disk knows, makes the first manifest of those that it doesn't, and adds all to
    /// the core.
    func startBirths(_ births: [ReplicaBirth]) {
        guard let store else { return }
        let logs = journal.recovered()
        storeWorker.submit { [self] in
            do {
                if let damaged = store.damaged().first {
                    throw HostError(.disk, "replica \(damaged.replica) is damaged on disk: \(damaged.error)")
                }
                let restored = try births.map {
                    try RestoredReplica($0, logs: logs, journal: journal, store: store)
                }
                let records = restored.flatMap(\.plan.records)
                journalWriter.perform { [self] journal in
                    if !records.isEmpty { _ = try journal.append(records) }
                    loop.execute { [self] in
                        for replica in restored {
                            core?.install(
                                group: replica.group, plan: replica.plan, machine: replica.machine,
                                memtable: Memtable(pool: memtables), view: replica.view)
                        }
                        scheduleTurn()
                    }
                }
            } catch { fail(error, "reading the replicas from disk") }
        }
    }
}
