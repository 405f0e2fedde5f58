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

    func submit(
        _ batch: JournalBatch?, superfluous news: [(replica: ReplicaID, through: LogIndex)], of loop: SimulatedHostLoop
    ) {
        if journalQueue.add(batch, superfluous: news, from: loop.number) { startCommit() }
    }

    private func startCommit() {
        committing = journalQueue.next()
        guard let step = committing else { return }
        schedule(
            after: duration(world.plan.commitNanosecondsMax), "host %h: a commit ends, ticket %b",
            step.batches.last?.batch.ticket ?? 0
        ) {
            [unowned self] in
            do {
                endPerhaps(journalDisk, within: 3)
                try finish(step)
                journalDisk.faults.transactionsUntilEnd = nil
            } catch {
                diskFailed(error)
            }
        }
    }

    private func finish(_ step: JournalQueue.Step) throws {
        let outcome = try step.perform(
            commit: { _ in
                let sequence: UInt64
                do { sequence = try write(step) } catch let error as DiskError where error.code == .full {
                    committing = nil
                    throw error
                }
                committing = nil
                tell(step, sequence)
                return sequence
            }, trim: trim)
        let verdict = journalQueue.ended(step, outcome)
        if verdict.news != nil { tellSpace() }
        guard verdict.pauses else { return startCommit() }
        expectFull()
        schedule(after: 200_000_000, "host %h: the journal tries again to find space") { [unowned self] in
            startCommit()
        }
    }

    private func tell(_ step: JournalQueue.Step, _ sequence: UInt64) {
        for loop in loops {
            guard let ticket = step.ticket(ofLoop: loop.number) else { continue }
            loop.execute(after: world.random.below(30_000), "host %h: ticket %b is durable", ticket) {
                [unowned loop] in
                loop.core.journalDone(ticket: ticket, sequence: sequence)
                loop.runTurn()
            }
        }
    }

    /// A disk said that it is full.
    private func expectFull() {
        if fullUntil > world.now {
            world.mark(.diskFull)
        } else {
            world.fail("storage", "host \(id): a disk with space says that it is full")
        }
    }

    private func trim(_ superfluous: JournalQueue.Superfluous) throws -> Int {
        guard let journal else { return 0 }
        invariants.willTrim(self, superfluous)
        let (values, _) = try journal.trim(superfluousThrough: superfluous)
        world.report.trimmedValues += values
        if values > 0 { world.mark(.journalTrimmed) }
        invariants.trimmed(self, journal)
        return values
    }

    /// One commit, durable but for the last of a process that is killed.
    @discardableResult func write(_ step: JournalQueue.Step, isUnsynced: Bool = false) throws -> UInt64 {
        guard let journal else { return 0 }
        let batches = step.batches.map(\.batch)
        let before = journal.lastSequence
        do {
            let sequence = try journal.append(step.records)
            if isUnsynced {
                invariants.perhapsCommitted(self, batches, after: before)
            } else {
                invariants.committed(self, batches)
            }
            world.report.commits += 1
            return sequence
        } catch let error as DiskError {
            // What was reported as failed may be there all the same.
            if error.code == .failed { invariants.perhapsCommitted(self, batches, after: before) }
            throw error
        } catch let error as SimulatedProcessEnd {
            invariants.perhapsCommitted(self, batches, after: before)
            throw error
        }
    }

    // MARK: Store

    func submit(_ jobs: [StoreJob], of loop: SimulatedHostLoop) {
        for job in jobs { storeQueue.append(StoreQueue.Entry(job, from: loop.number)) }
        if !isStoreBusy { startStoreJob() }
    }

    private func startStoreJob() {
        guard let entry = storeQueue.popFirst() else { return }
        isStoreBusy = true
        storeJobUnderWay = entry.job
        schedule(after: duration(world.plan.storeJobNanosecondsMax), "host %h: a job of the store ends") {
            [unowned self] in
            storeJobUnderWay = nil
            let life = life
            do {
                guard let store else { return }
                endPerhaps(storeDisk, within: 12)
                try carryOut(entry, in: store)
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

    private func tellDamage(_ error: any Error, in group: GroupID, to loop: SimulatedHostLoop) {
        guard let error = error as? DiskError, error.code == .corrupt else { return }
        loop.core.stateDamaged(group: group, "\(error)")
        loop.scheduleTurn()
    }

    func startColdRead(_ read: ColdRead, of loop: SimulatedHostLoop) {
        world.report.coldReads += 1
        world.mark(.coldRead)
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a read from disk ends") {
            [unowned self, unowned loop] in
            guard let store else { return }
            do {
                let found = try store.get(read.key, in: read.view)
                let result = HostCore.result(found, index: read.index, revision: read.revision)
                answer(read.call, .done(result)) { $0.index }
            } catch {
                let refusal = refusal(unread: error, "a record")
                answer(read.call, Response<DataResult>.refused(refusal)) { $0.index }
                tellDamage(error, in: read.group, to: loop)
            }
        }
    }

    func startColdPage(_ page: ColdPage, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a page comes from disk") {
            [unowned self, unowned loop] in
            loop.core.pageDone()
            guard let store else { return }
            do {
                if page.isScan {
                    answer(page.call, .done(try page.scanned(from: store))) { $0.index }
                } else {
                    answer(page.call, .done(try page.result(from: store))) { $0.index }
                }
            } catch {
                let refusal = refusal(unread: error, "a page")
                answer(page.call, Response<PageResult>.refused(refusal)) { $0.index }
                tellDamage(error, in: page.group, to: loop)
            }
        }
    }

    func startLoadRead(_ read: LoadRead, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: what slots have comes from disk") {
            [unowned self, unowned loop] in
            guard !read.isForHost else { return endLoadRead(read, of: loop) }
            loop.core.pageDone()
            guard let store else { return }
            do {
                answer(read.call, .done(try read.result(from: store))) { $0.index }
            } catch {
                let refusal = refusal(unread: error, "what slots have")
                answer(read.call, Response<DataResult>.refused(refusal)) { $0.index }
                tellDamage(error, in: read.group, to: loop)
            }
        }
    }

    private func endLoadRead(_ read: LoadRead, of loop: SimulatedHostLoop) {
        var result: DataResult?
        if let store {
            do { result = try read.result(from: store) } catch {
                _ = refusal(unread: error, "what slots have")
                tellDamage(error, in: read.group, to: loop)
            }
        }
        loop.core.loadRead(read, result)
        loop.scheduleTurn()
    }

    func startBalanceLook(_ look: BalanceLook, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a plan of rebalancing is made") {
            [unowned loop] in
            loop.core.balanceLooked(look.result())
            loop.scheduleTurn()
        }
    }

    func startStateRead(_ read: StateRead, of loop: SimulatedHostLoop) {
        world.report.stateReads += 1
        world.mark(.stateRead)
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: records for commands come from disk") {
            [unowned self, unowned loop] in
            guard let store else { return }
            do {
                loop.core.stateFetched(try read.result(from: store))
            } catch {
                _ = refusal(unread: error, "records for commands")
                let damage = (error as? DiskError).flatMap { $0.code == .corrupt ? "\($0)" : nil }
                loop.core.stateFetchFailed(read, damage: damage)
            }
            loop.scheduleTurn()
        }
    }

    func startDeadlineRead(_ read: DeadlineRead, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: deadlines come from disk") {
            [unowned self, unowned loop] in
            guard let store else { return }
            do {
                loop.core.deadlinesRead(try read.result(from: store))
            } catch {
                _ = refusal(unread: error, "deadlines")
                loop.core.deadlinesUnread(read)
                tellDamage(error, in: read.group, to: loop)
            }
            loop.scheduleTurn()
        }
    }

    func startMigrationRead(_ read: MigrationRead, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: records that move come from disk") {
            [unowned self, unowned loop] in
            guard let store else { return }
            do {
                var result = try read.result(from: store)
                cluster.migration?.hasRead(&result)
                loop.core.migrationRead(result)
            } catch {
                _ = refusal(unread: error, "records that move")
                loop.core.migrationUnread(read)
                tellDamage(error, in: read.group, to: loop)
            }
            loop.scheduleTurn()
        }
    }

    func startMachineRead(_ read: MachineRead, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a machine answers a query") {
            [unowned self, unowned loop] in
            guard let store else { return }
            do {
                let result = try read.result(from: store)
                if let response = read.response(to: result) {
                    loop.core.queryDone()
                    answer(read.call, response) { $0.index }
                } else if case .more(let reading) = result {
                    world.mark(.machineReadOn)
                    loop.core.queryAgain(read, reading)
                    loop.scheduleTurn()
                }
            } catch {
                loop.core.queryDone()
                answer(read.call, Response<DataResult>.refused(refusal(unread: error, "a query's records"))) {
                    $0.index
                }
                tellDamage(error, in: read.group, to: loop)
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

    func startSnapshotRead(_ read: SnapshotRead, of loop: SimulatedHostLoop) {
        loop.schedule(after: duration(world.plan.readNanosecondsMax), "host %h: a piece of a snapshot is read") {
            [unowned self, unowned loop] in
            guard let store else { return }
            var result: SnapshotReadResult?
            do { result = try read.result(from: store) } catch {
                _ = refusal(unread: error, "a snapshot")
                tellDamage(error, in: read.group, to: loop)
            }
            loop.core.snapshotRead(read, result)
            loop.scheduleTurn()
        }
    }

    // MARK: Scrubbing

    /// Draws nothing from the seed: what else happens is the same with it and without.
    func scrub(_ scrubber: Scrubber<SimulatedDisk>, after pause: UInt64) {
        schedule(after: pause, "host %h: a piece of what is on its disks is verified") { [unowned self] in
            do {
                let step = try scrubber.step()
                if step.endsRound { world.mark(.scrubbedRound) }
                for finding in step.findings { take(finding) }
                if world.failure == nil { scrub(scrubber, after: step.pauseNanoseconds) }
            } catch {
                diskFailed(error)
            }
        }
    }

    private func take(_ finding: ScrubFinding) {
        guard isRotten else { return world.fail("storage", "host \(id): the scrubber found \(finding)") }
        switch finding {
        case .state: world.mark(.scrubberFoundState)
        case .journal: world.mark(.scrubberFoundJournal)
        case .other: world.mark(.scrubberFoundSuperfluous)
        }
        let loop = loops[finding.group.map { LoopPlace.owner(of: $0, loops: loops.count) } ?? 0]
        loop.execute(after: 0, "host %h: loop %b hears of damage", UInt64(loop.number)) { [unowned loop] in
            loop.core.scrubbed(finding)
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
                let restored = try RestoredReplica.restored(births, logs: logs, journal: journal, store: store)
                for replica in restored {
                    guard let damage = replica.damage else { continue }
                    guard isRotten else { throw damage }
                    world.mark(.damageFoundAtStart)
                }
                let records = restored.flatMap(\.plan.records)
                if !records.isEmpty {
                    do { _ = try journal.append(records) } catch {
                        // Nothing reaches that disk any more, though what was reported as failed may be there.
                        committing = nil
                        throw error
                    }
                }
                for replica in restored {
                    invariants.restored(self, replica)
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

// MARK: - The store's thread

extension SimulatedHost: StoreJobRunner {
    typealias Storage = SimulatedDisk

    func nextCheckpoint() -> StoreQueue.Entry? { storeQueue.popFirstCheckpoint() }

    /// The store's thread takes its time; everything else goes on. Throws if the process ends meanwhile.
    ///
    /// A job of another host that begins meanwhile has to end first, as this waits within one event: if that host is stopped
    /// then, this one's store stands still for as long, which no real one does.
    func passTime() throws {
        let life = life
        repeat {
            let time = max(duration(world.plan.storeJobNanosecondsMax), pausedUntil - min(pausedUntil, world.now))
            let end = world.now + time
            cluster.pass(within: time) { self.life == life }
            if world.now > end { noteStoreHeldUp(end..<world.now) }
            guard self.life == life, world.failure == nil else {
                world.mark(.endedWithinMerge)
                throw SimulatedProcessEnd()
            }
        } while pausedUntil > world.now && cluster.passEnd > world.now
    }

    /// Some of the runs are as good as all: sometimes the unusual.
    func runsToMerge(of count: Int) -> Range<Int>? {
        guard count > 2, world.random.below(2) == 0 else { return nil }
        let first = Int(world.random.below(UInt64(count - 1)))
        return first..<(first + 2 + Int(world.random.below(UInt64(count - first - 1))))
    }

    var journalStand: (name: UInt64, sequence: UInt64) {
        journal.map { ($0.identity.journal, $0.lastSequence) } ?? (0, 0)
    }

    func installing(_ replica: ReplicaID, at index: LogIndex) { invariants.perhapsInstalled(replica, index) }

    func installed(_ manifest: Manifest) {
        invariants.installed(self, manifest)
        world.mark(.snapshotInstalled)
    }

    func publishing(_ header: ManifestHeader) { invariants.perhapsPublished(self, header) }

    func published(_ manifest: Manifest) { invariants.published(self, manifest) }

    func ended(_ entry: StoreQueue.Entry, _ outcome: StoreOutcome) {
        let wasFull = storeQueue.isFull
        storeQueue.ended(entry)
        if wasFull, !storeQueue.isFull { tellSpace() }
        let loop = loops[entry.loop]
        let delay = world.random.below(200_000)
        switch outcome {
        case .checkpointed(let group, let view):
            world.report.checkpoints += 1
            loop.execute(after: delay, "host %h: a checkpoint of group %b is there", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.checkpointDone(group: group, view: view)
                loop.scheduleTurn()
            }
        case .merged(let group, let view):
            world.report.merges += 1
            world.mark(.merged)
            loop.execute(after: delay, "host %h: a merge of group %b is there", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.mergeDone(group: group, view: view)
                loop.scheduleTurn()
            }
        case .mergeFoundNoSpace(let group, _):
            expectFull()
            loop.execute(after: delay, "host %h: a merge of group %b finds no space", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.mergeFoundNoSpace(group: group)
                loop.scheduleTurn()
            }
        case .removed(let group):
            loop.execute(after: delay, "host %h: a replica of group %b is deleted", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.replicaRemoved(group: group)
                loop.scheduleTurn()
            }
        case .snapshotTaken(let group, let after, let isLast):
            loop.execute(after: delay, "host %h: a piece of a snapshot of group %b is taken", UInt64(group.rawValue)) {
                [unowned self, unowned loop] in
                cluster.snapshotPiecesTaken += 1
                loop.core.snapshotTaken(group: group, after: after, isLast: isLast)
                loop.scheduleTurn()
            }
        case .snapshotInstalled(let group, let machines):
            loop.execute(after: delay, "host %h: a snapshot of group %b is installed", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.snapshotInstalled(group: group, machines: machines)
                loop.scheduleTurn()
            }
        case .snapshotFailed(let group, let why):
            world.mark(.snapshotFailed)
            loop.execute(after: delay, "host %h: a snapshot of group %b came to nothing", UInt64(group.rawValue)) {
                [unowned loop] in
                loop.core.snapshotFailed(group: group, why)
                loop.scheduleTurn()
            }
        case .damaged(let job, let what):
            guard isRotten else { return world.fail("storage", "host \(id): \(what)") }
            world.mark(.damageNoticedByRead)
            loop.execute(after: delay, "host %h: a job of the store finds damage") { [unowned loop] in
                loop.core.storeDamaged(job, what)
                loop.scheduleTurn()
            }
        }
    }

    func foundNoSpace(_ entry: StoreQueue.Entry, _ error: DiskError) {
        expectFull()
        let wasFull = storeQueue.isFull
        let again = storeQueue.foundNoSpace(entry)
        if !wasFull { tellSpace() }
        schedule(after: 500_000_000, "host %h: a checkpoint tries again to find space") { [unowned self] in
            storeQueue.append(again)
            if !isStoreBusy { startStoreJob() }
        }
    }
}
