// What an event loop has done on the threads that may wait for a disk: cold reads, log reads, births.

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

extension HostLoop {
    // MARK: Readers

    /// What one task of a reader brings back at most, but for one value: the rest goes when that was answered, so that
    /// thousands of reads of large values do not take memory for all of them at once.
    private static var coldReadBytes: Int { 4 << 20 }

    /// All cold reads of one turn go to one reader thread and come back in one task, unless they are long.
    func startColdReads(_ reads: ArraySlice<ColdRead>) {
        guard let store else { return }
        shell.readers.submit { [self] _ in
            var answers: [(CallToken, Response<DataResult>)] = []
            answers.reserveCapacity(reads.count)
            var bytes = 0
            for read in reads {
                do {
                    let result = HostCore.result(
                        try store.get(read.key, in: read.view), index: read.index, revision: read.revision)
                    bytes += result.body.count
                    answers.append((read.call, .done(result)))
                } catch {
                    answers.append((read.call, .refused(.unavailable(unreadable(error, in: read.group)))))
                    tellDamage(error, in: read.group)
                }
                if bytes >= Self.coldReadBytes { break }
            }
            let rest = reads.dropFirst(answers.count)
            eventLoop.execute { [self, answers] in
                for (call, response) in answers { answer(call, response) { $0.body.count } }
                if !rest.isEmpty { startColdReads(rest) }
            }
        }
    }

    func startColdPage(_ page: ColdPage) {
        guard let store else { return }
        if page.isScan {
            read(page) { try page.scanned(from: store) }
        } else {
            read(page) { try page.result(from: store) }
        }
    }

    private func read<Result: Message>(_ page: ColdPage, _ body: @escaping @Sendable () throws -> Result) {
        shell.readers.submit { [self] _ in
            let response: Response<Result>
            do {
                response = .done(try body())
            } catch {
                response = .refused(.unavailable(unreadable(error, in: page.group)))
                tellDamage(error, in: page.group)
            }
            eventLoop.execute { [self, response] in
                core?.pageDone()
                answer(page.call, response) { _ in page.bytesMax }
            }
        }
    }

    /// Who reads a record does not wait behind it.
    func startLoadRead(_ read: LoadRead) {
        guard let store else { return }
        shell.copies.submit { [self] in
            let response: Response<DataResult>
            do {
                response = .done(try read.result(from: store))
            } catch {
                response = .refused(.unavailable(unreadable(error, in: read.group)))
                tellDamage(error, in: read.group)
            }
            eventLoop.execute { [self, response] in
                guard !read.isForHost else {
                    guard let core, !isStopping else { return }
                    if case .done(let result) = response {
                        core.loadRead(read, result)
                    } else {
                        core.loadRead(read, nil)
                    }
                    return scheduleTurn()
                }
                core?.pageDone()
                answer(read.call, response) { $0.body.count }
            }
        }
    }

    /// Nobody waits for it.
    func startBalanceLook(_ look: BalanceLook) {
        shell.copies.submit { [self] in
            let found = look.result()
            eventLoop.execute { [self, found] in
                guard let core, !isStopping else { return }
                core.balanceLooked(found)
                scheduleTurn()
            }
        }
    }

    func startStateRead(_ read: StateRead) {
        guard let store else { return }
        shell.readers.submit { [self] _ in
            var found: StateReadResult?
            var damage: String?
            do {
                found = try read.result(from: store)
            } catch {
                _ = unreadable(error, in: read.group)
                if let error = error as? DiskError, error.code == .corrupt { damage = "\(error)" }
            }
            eventLoop.execute { [self, found, damage] in
                guard let core, !isStopping else { return }
                if let found { core.stateFetched(found) } else { core.stateFetchFailed(read, damage: damage) }
                scheduleTurn()
            }
        }
    }

    func startDeadlineRead(_ read: DeadlineRead) {
        guard let store else { return }
        shell.readers.submit { [self] _ in
            var found: DeadlineReadResult?
            do {
                found = try read.result(from: store)
            } catch {
                _ = unreadable(error, in: read.group)
                tellDamage(error, in: read.group)
            }
            eventLoop.execute { [self, found] in
                guard let core, !isStopping else { return }
                if let found { core.deadlinesRead(found) } else { core.deadlinesUnread(read) }
                scheduleTurn()
            }
        }
    }

    func startMigrationRead(_ read: MigrationRead) {
        guard let store else { return }
        shell.readers.submit { [self] _ in
            var found: MigrationReadResult?
            do {
                found = try read.result(from: store)
            } catch {
                _ = unreadable(error, in: read.group)
                tellDamage(error, in: read.group)
            }
            eventLoop.execute { [self, found] in
                guard let core, !isStopping else { return }
                if let found { core.migrationRead(found) } else { core.migrationUnread(read) }
                scheduleTurn()
            }
        }
    }

    /// Queries of users' machines, spread over their threads: one that takes long keeps the others of its share waiting, and
    /// nobody else.
    func startMachineReads(_ reads: [MachineRead]) {
        guard !reads.isEmpty else { return }
        let shares = min(reads.count, shell.queries.numberOfThreads)
        for share in 0..<shares {
            let first = reads.count * share / shares
            startMachineReads(reads[first..<reads.count * (share + 1) / shares])
        }
    }

    private func startMachineReads(_ reads: ArraySlice<MachineRead>) {
        guard let store else { return }
        shell.queries.submit { [self] _ in
            var done: [(MachineRead, MachineReading.Result)] = []
            done.reserveCapacity(reads.count)
            var bytes = 0
            for read in reads {
                do {
                    let result = try read.result(from: store)
                    if case .done(let body) = result { bytes += body.count }
                    done.append((read, result))
                } catch {
                    done.append((read, .refused(.unavailable(unreadable(error, in: read.group)))))
                    tellDamage(error, in: read.group)
                }
                if bytes >= Self.coldReadBytes { break }
            }
            let rest = reads.dropFirst(done.count)
            eventLoop.execute { [self, done] in
                for (read, result) in done {
                    if let response = read.response(to: result) {
                        core?.queryDone()
                        answer(read.call, response) { $0.body.count }
                    } else if case .more(let reading) = result, let core, !isStopping {
                        core.queryAgain(read, reading)
                    }
                }
                scheduleTurn()
                if !rest.isEmpty { startMachineReads(rest) }
            }
        }
    }

    func startLogRead(_ read: JournalRead) {
        shell.readers.submit { [self] _ in
            let entries: [LogEntry]
            var damage: String?
            do {
                entries = try shell.journal.entries(
                    of: read.replica, from: read.from, through: read.through, bytesMax: read.bytesMax)
            } catch {
                failIfEnvironmentIsLost(error)
                shell.logger.error(
                    "a follower's entries can't be read", metadata: ["group": "\(read.group)", "error": "\(error)"])
                entries = []
                if let error = error as? DiskError, error.code == .corrupt { damage = "\(error)" }
            }
            eventLoop.execute { [self, entries, damage] in
                if let damage { core?.journalDamaged(group: read.group, damage) }
                core?.supply(entries, group: read.group, follower: read.follower)
                scheduleTurn()
            }
        }
    }

    func startSnapshotRead(_ read: SnapshotRead) {
        guard let store else { return }
        let work: @Sendable () -> Void = { [self] in
            var result: SnapshotReadResult?
            do { result = try read.result(from: store) } catch {
                failIfEnvironmentIsLost(error)
                shell.logger.error(
                    "a snapshot can't be read", metadata: ["group": "\(read.group)", "error": "\(error)"])
                tellDamage(error, in: read.group)
            }
            eventLoop.execute { [self, result] in
                core?.snapshotRead(read, result)
                scheduleTurn()
            }
        }
        if read.isForClient { shell.copies.submit(work) } else { shell.readers.submit { _ in work() } }
    }

    private func unreadable(_ error: any Error, in group: GroupID) -> String {
        failIfEnvironmentIsLost(error)
        shell.logger.error("a record can't be read", metadata: ["group": "\(group)", "error": "\(error)"])
        return "the store can't be read: \(error)"
    }

    /// Any thread.
    private func tellDamage(_ error: any Error, in group: GroupID) {
        guard let error = error as? DiskError, error.code == .corrupt else { return }
        eventLoop.execute { [self] in
            core?.stateDamaged(group: group, "\(error)")
            scheduleTurn()
        }
    }

    /// What only one replica's checksums show is that replica's; the rest is the host's.
    private func failIfEnvironmentIsLost(_ error: any Error) {
        if let error = error as? DiskError, error.code == .failed { shell.fail(error, "reading from disk") }
    }

    // MARK: Births

    /// Births that share transactions, and after which other work of loop and disk comes in between.
    private static var birthsMax: Int { 256 }

    /// Restores the replicas that the disk knows, makes the first manifest of those that it doesn't, and adds all to
    /// the core.
    func startBirths(_ births: [ReplicaBirth]) {
        for first in stride(from: 0, to: births.count, by: Self.birthsMax) {
            startBirths(births[first..<min(first + Self.birthsMax, births.count)])
        }
    }

    private func startBirths(_ births: ArraySlice<ReplicaBirth>) {
        guard let store else { return }
        let shell = shell
        let births = Array(births)
        let logs = births.compactMap { shell.journal.log(of: $0.replica) }.sorted { $0.replica < $1.replica }
        shell.storeWriter.perform("reading the replicas from disk") { [self] in
            let restored = try RestoredReplica.restored(births, logs: logs, journal: shell.journal, store: store)
            for (birth, replica) in zip(births, restored) {
                guard let damage = replica.damage else { continue }
                shell.logger.error(
                    replica.plan.impairment == nil
                        ? "the state that a replica has on disk is damaged, and is made anew from its log"
                        : "the state that a replica has on disk is damaged; it stays until another member gives one",
                    metadata: ["group": "\(replica.group)", "replica": "\(birth.replica)", "error": "\(damage)"])
            }
            let records = restored.flatMap(\.plan.records)
            shell.journalWriter.perform { [self] journal in
                if !records.isEmpty { _ = try journal.append(records) }
                eventLoop.execute { [self] in
                    for replica in restored {
                        core?.install(
                            group: replica.group, plan: replica.plan, machine: replica.machine,
                            memtable: Memtable(pool: shell.memtables), view: replica.view)
                    }
                    scheduleTurn()
                }
            }
        }
    }
}
