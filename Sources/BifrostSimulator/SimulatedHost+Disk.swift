// A simulated host's disks: group commit, checkpoints and merges, cold reads, births. Each takes virtual time and
// happens whole at one moment of it; a crash before that moment finds nothing of it on the disk. Merges alone take time
// between their pieces, in which everything else goes on.

import HostCore
import Messages
import Primitives
import RaftCore
import StateMachines
import Storage

extension SimulatedHost {
    private func duration(_ nanosecondsMax: UInt64) -> UInt64 {
        let usual = nanosecondsMax / 8 + world.random.below(nanosecondsMax)
        var stall = world.random.below(400) == 0 ? world.random.below(300_000_000) : 0
        if stalledDiskUntil > world.now { stall += stalledDiskUntil - world.now }
        return (slowDiskUntil > world.now ? usual * 20 : usual) + stall
    }

    /// A disk failed: nothing may be believed any more, the process ends, and is started anew.
    func diskFailed(_ error: any Error, isStarting: Bool = false) {
        if error is SimulatedProcessEnd {
            // It ended in the middle of what it was doing, between two transactions.
            world.note("host %h ends within a job of its disks", UInt64(place))
            world.mark(.endedWithinJob)
            cluster.crash(place)
        } else if let error = error as? DiskError, error.code == .failed {
            world.report.diskFailures += 1
            world.mark(.diskFailed)
            if isStarting { world.mark(.diskFailedAtStart) }
            cluster.crash(place)
        } else if let error = error as? DiskError, error.code == .full, fullUntil > world.now {
            world.note("host %h ends: a disk is full", UInt64(place))
            world.mark(.diskFull)
            // Mostly somebody makes room first.
            let isEarly = world.random.below(4) == 0
            cluster.crash(
                place, restartAfter: isEarly ? nil : fullUntil - world.now + world.random.below(200_000_000))
        } else if isRotten, error is DiskError {
            endOfDamage(isStarting: isStarting)
        } else {
            world.fail("storage", "host \(id): \(error)")
        }
    }

    /// Sometimes the process will end at one of the next transactions, before it or just behind it.
    private func endPerhaps(_ disk: SimulatedDisk, within transactions: UInt64) {
        guard world.areFaultsOn, world.random.below(world.plan.jobsPerEnd) == 0 else { return }
        disk.faults.transactionsUntilEnd = Int(world.random.below(transactions))
        disk.faults.endsBehindTransaction = world.random.below(2) == 0
        disk.faults.endsUnsynced = world.random.below(2) == 0
    }

    // MARK: Journal

    /// As the real writer: while one commit is under way batches queue up, the next takes them all.
    func submit(
        _ batch: JournalBatch?, superfluous news: [(replica: ReplicaID, through: LogIndex)], of loop: SimulatedHostLoop
    ) {
        if let batch { queuedBatches.append((loop.number, batch)) }
        if !news.isEmpty {
            // Each list is complete for its loop, as in the real writer the newest of each counts. What is in none,
            // because its loop has told nothing yet, is kept.
            superfluous[loop.number] = news
            isTrimDue = true
        }
        if !isCommitting { startCommit() }
    }

    private func startCommit() {
        guard !queuedBatches.isEmpty || isTrimDue else { return }
        isCommitting = true
        committing = queuedBatches
        queuedBatches = []
        schedule(
            after: duration(world.plan.commitNanosecondsMax), "host %h: a commit ends, ticket %b",
            committing.last?.batch.ticket ?? 0
        ) {
            [unowned self] in
            do {
                endPerhaps(journalDisk, within: 3)
                try finishCommit()
                journalDisk.faults.transactionsUntilEnd = nil
            } catch {
                diskFailed(error)
            }
        }
    }

    private func finishCommit() throws {
        guard journal != nil else { return }
        let batches = committing
        if !batches.isEmpty {
            guard let sequence = try writeIfThereIsSpace(batches) else { return }
            committing = []
            for loop in loops {
                guard let last = batches.last(where: { $0.loop == loop.number })?.batch.ticket else { continue }
                loop.execute(after: world.random.below(30_000), "host %h: ticket %b is durable", last) {
                    [unowned loop] in
                    loop.core.journalDone(ticket: last, sequence: sequence)
                    loop.runTurn()
                }
            }
        }
        if isTrimDue { try trim() }
        isCommitting = false
        startCommit()
    }

    private func trim() throws {
        guard let journal else { return }
        do {
            isTrimDue = false
            let all = superfluous.count == 1 ? superfluous[0] : Array(superfluous.joined())
            cluster.invariants.willTrim(self, all)
            let (values, _) = try journal.trim(superfluousThrough: all)
            world.report.trimmedValues += values
            if values > 0 { world.mark(.journalTrimmed) }
            cluster.invariants.trimmed(self, journal)
            isTrimDue = values > 0
        } catch let error as DiskError where error.code == .full && fullUntil > world.now {
            // With the next list again.
            world.mark(.diskFull)
        }
    }

    /// Nil: nothing was written, and the batches are first in the queue again, as in the real writer. It tries again
    /// and again.
    private func writeIfThereIsSpace(_ batches: [(loop: Int, batch: JournalBatch)]) throws -> UInt64? {
        do {
            let sequence = try write(batches.map(\.batch))
            if isJournalFull {
                isJournalFull = false
                tellSpace()
            }
            return sequence
        } catch let error as DiskError where error.code == .full && fullUntil > world.now {
            world.mark(.diskFull)
            queuedBatches.insert(contentsOf: committing, at: 0)
            committing = []
            if !isJournalFull {
                isJournalFull = true
                tellSpace()
            }
            if isTrimDue { try trim() }
            schedule(after: 200_000_000, "host %h: the journal tries again to find space") { [unowned self] in
                isCommitting = false
                startCommit()
            }
            return nil
        }
    }

    /// One commit, durable but for the last of a process that is killed.
    @discardableResult func write(_ batches: [JournalBatch], isUnsynced: Bool = false) throws -> UInt64 {
        guard let journal else { return 0 }
        var records: [JournalRecord] = []
        for batch in batches { records += batch.records }
        let before = journal.lastSequence
        do {
            let sequence = try journal.append(records)
            if isUnsynced {
                cluster.invariants.perhapsCommitted(self, batches, after: before)
            } else {
                cluster.invariants.committed(self, batches)
            }
            world.report.commits += 1
            return sequence
        } catch let error as DiskError {
            // What was reported as failed may be there all the same.
            if error.code == .failed { cluster.invariants.perhapsCommitted(self, batches, after: before) }
            throw error
        } catch let error as SimulatedProcessEnd {
            cluster.invariants.perhapsCommitted(self, batches, after: before)
            throw error
        }
    }

    // MARK: Store

    func submit(_ jobs: [StoreJob]) {
        storeJobs += jobs
        if !isStoreBusy { startStoreJob() }
    }

    private func startStoreJob() {
        guard !storeJobs.isEmpty else { return }
        isStoreBusy = true
        let job = storeJobs.removeFirst()
        storeJobUnderWay = job
        schedule(after: duration(world.plan.storeJobNanosecondsMax), "host %h: a job of the store ends") {
            [unowned self] in
            storeJobUnderWay = nil
            let life = life
            do {
                endPerhaps(storeDisk, within: 12)
                try carryOut(job)
                // So many pieces, as the real writer.
                for _ in 0..<8 where try reclaim() == 0 { break }
                storeDisk.faults.transactionsUntilEnd = nil
            } catch {
                // Its process may have ended while it took its time.
                if self.life == life { diskFailed(error) }
                return
            }
            isStoreBusy = false
            startStoreJob()
        }
    }

    /// The store's thread takes its time; everything else goes on. Throws if the process ends meanwhile.
    private func takeTime() throws {
        let life = life
        repeat {
            let time = max(duration(world.plan.storeJobNanosecondsMax), pausedUntil - min(pausedUntil, world.now))
            cluster.pass(within: time) { self.life == life }
            guard self.life == life, world.failure == nil else {
                world.mark(.endedWithinMerge)
                throw SimulatedProcessEnd()
            }
        } while pausedUntil > world.now && cluster.passEnd > world.now
    }

    private func reclaim() throws -> Int {
        do { return try store?.reclaim() ?? 0 } catch let error as DiskError
            where error.code == .full && fullUntil > world.now
        { return 0 }
    }

    private func carryOut(_ job: StoreJob) throws {
        do { try attempt(job) } catch let error as DiskError where error.code == .full && fullUntil > world.now {
            // As in the real writer: behind those that come meanwhile.
            world.mark(.diskFull)
            schedule(after: 500_000_000, "host %h: a job of the store tries again to find space") { [unowned self] in
                submit([job])
            }
        } catch let error as DiskError where error.code == .corrupt && isRotten {
            // Only this replica, as in the real writer.
            world.mark(.damageNoticedByRead)
            let group: GroupID =
                switch job {
                case .checkpoint(let group, _, _), .merge(let group, _): group
                }
            let loop = loop(of: group)
            loop.execute(
                after: world.random.below(200_000), "host %h: a job of group %b finds damage", UInt64(group.rawValue)
            ) {
                [unowned loop] in
                loop.core.storeDamaged(job, "\(error)")
                loop.scheduleTurn()
            }
        }
    }

    private func attempt(_ job: StoreJob) throws {
        guard let store else { return }
        switch job {
        case .checkpoint(let group, let frozen, let header):
            let manifest: Manifest
            do { manifest = try store.checkpoint(frozen, header) } catch {
                cluster.invariants.perhapsPublished(self, header)
                throw error
            }
            cluster.invariants.published(self, manifest)
            world.report.checkpoints += 1
            guard let view = store.view(header.replica) else {
                throw DiskError(.corrupt, "no view of \(header.replica)")
            }
            let loop = loop(of: group)
            loop.execute(
                after: world.random.below(200_000), "host %h: a checkpoint of group %b is there",
                UInt64(group.rawValue)
            ) { [unowned loop] in
                loop.core.checkpointDone(group: group, view: view)
                loop.scheduleTurn()
            }
        case .merge(let group, let replica):
            // As the real writer: checkpoints go on between a merge's pieces.
            let pace = { [unowned self] in
                try takeTime()
                while let next = storeJobs.firstIndex(where: { if case .checkpoint = $0 { true } else { false } }) {
                    try carryOut(storeJobs.remove(at: next))
                }
                _ = try reclaim()
            }
            // Some of the runs are as good as all: sometimes the unusual.
            let runs = store.manifest(of: replica)?.runs.count ?? 0
            var range: Range<Int>?
            if runs > 2, world.random.below(2) == 0 {
                let first = Int(world.random.below(UInt64(runs - 1)))
                range = first..<(first + 2 + Int(world.random.below(UInt64(runs - first - 1))))
            }
            if let manifest = try store.merge(replica, range: range, pace: pace) {
                cluster.invariants.published(self, manifest)
                world.report.merges += 1
                world.mark(.merged)
            }
            guard let view = store.view(replica) else { throw DiskError(.corrupt, "no view of \(replica)") }
            let loop = loop(of: group)
            loop.execute(
                after: world.random.below(200_000), "host %h: a merge of group %b is there", UInt64(group.rawValue)
            ) { [unowned loop] in
                loop.core.mergeDone(group: group, view: view)
                loop.scheduleTurn()
            }
        }
    }

    // MARK: Readers

    /// As the shell answers when a disk can't be read.
    private func refusal(unread error: any Error, _ what: String) -> Refusal {
        if isRotten, error is DiskError {
            world.mark(.damageNoticedByRead)
        } else {
            world.fail("storage", "host \(id) can't read \(what): \(error)")
        }
        return .unavailable("\(error)")
    }

    func startColdRead(_ read: ColdRead) {
        world.report.coldReads += 1
        world.mark(.coldRead)
        schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a read from disk ends") { [unowned self] in
            guard let store else { return }
            do {
                let found = try store.get(read.key, in: read.view)
                let result = HostCore.result(found, index: read.index, revision: read.revision)
                answer(read.call, .done(result)) { $0.index }
            } catch {
                let refusal = refusal(unread: error, "a record")
                answer(read.call, Response<DataResult>.refused(refusal)) { $0.index }
            }
        }
    }

    func startColdPage(_ page: ColdPage, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a page comes from disk") {
            [unowned self, unowned loop] in
            loop.core.pageDone()
            guard let store else { return }
            do {
                let result = try page.result(from: store, recordsMax: world.plan.settings.pageRecordsMax)
                answer(page.call, .done(result)) { $0.index }
            } catch {
                let refusal = refusal(unread: error, "a page")
                answer(page.call, Response<PageResult>.refused(refusal)) { $0.index }
            }
        }
    }

    func startLogRead(_ read: JournalRead, of loop: SimulatedHostLoop) {
        world.report.logReads += 1
        world.mark(.entriesReadBack)
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: entries come back from the journal") {
            [unowned self, unowned loop] in
            guard let journal else { return }
            var entries: [LogEntry] = []
            do {
                entries = try journal.entries(
                    of: read.replica, from: read.from, through: read.through, bytesMax: read.bytesMax)
            } catch {
                _ = refusal(unread: error, "its log")
                if let error = error as? DiskError, error.code == .corrupt {
                    loop.core.journalDamaged(group: read.group, "\(error)")
                }
            }
            loop.core.supply(entries, group: read.group, follower: read.follower)
            loop.scheduleTurn()
        }
    }

    // MARK: Births

    func startBirths(_ births: [ReplicaBirth], of loop: SimulatedHostLoop) {
        let logs = journal?.recovered() ?? []
        loop.schedule(after: duration(5_000_000), "host %h: %b replicas begin", UInt64(births.count)) {
            [unowned self, unowned loop] in
            guard let journal, let store else { return }
            do {
                if let damaged = store.damaged().first { throw damaged.error }
                let restored = try births.map { try RestoredReplica($0, logs: logs, journal: journal, store: store) }
                let records = restored.flatMap(\.plan.records)
                if !records.isEmpty { _ = try journal.append(records) }
                for replica in restored {
                    cluster.invariants.restored(self, replica)
                    loop.core.install(
                        group: replica.group, plan: replica.plan, machine: replica.machine,
                        memtable: Memtable(pool: memtables),
                        view: replica.view)
                }
                loop.scheduleTurn()
            } catch {
                diskFailed(error, isStarting: true)
            }
        }
    }
}
