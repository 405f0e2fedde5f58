// When a memtable becomes a run, when runs are merged, and what of the journal may go.

import DequeModule
public import Primitives
import RaftCore
import StateMachines
public import Storage

extension HostCore {
    func considerCheckpoint(_ replica: Replica) {
        guard replica.stopped == nil, replica.impairment == nil else { return }
        if mayFreeze(replica),
            replica.memtable.distinctBytes >= settings.memtableBytesTrigger || replica.isFull(settings)
                || replica.appliedBytesSinceCheckpoint >= settings.journalBytesTrigger
        {
            freeze(replica)
        }
        startStoreWork(replica)
    }

    /// Times `runsMax`: with so many runs a replica's next checkpoint waits for merges, and apply with it.
    private static var runsPerRunsMax: Int { 16 }

    /// However a checkpoint is asked for: a store that is asked for one run too many refuses, and the host ends.
    private func hasRoomForARun(_ replica: Replica) -> Bool {
        replica.view.manifest.runs.count < min(Manifest.runsMax - 1, Self.runsPerRunsMax * settings.runsMax)
    }

    /// Freezes the memtable of the replica that pins most of a journal that has grown too long, if that is enough to
    /// matter: where no replica has a fair share of half of it, others keep it that long, and more runs would not help.
    func relieveJournal() {
        guard journalBytes > settings.journalBytesSoft else { return }
        let fairShare = settings.journalBytesSoft / (2 * loop.count * max(replicas.count, 1))
        var worst: Replica?
        for replica in replicas where mayFreeze(replica) {
            // What a laggard pins, no checkpoint here sets free.
            let stable = replica.everywhereStable
            guard stable > replica.manifestIndex else { continue }
            if replica.appliedBytesSinceCheckpoint > (worst?.appliedBytesSinceCheckpoint ?? 0) { worst = replica }
        }
        if let worst, worst.appliedBytesSinceCheckpoint >= fairShare {
            freeze(worst)
            startStoreWork(worst)
        }
    }

    /// Something was applied.
    func noteUnsaved(_ replica: Replica) {
        countMemtable(of: replica)
        guard replica.unsavedSinceTick == nil else { return }
        replica.unsavedSinceTick = tickCount
        if unsaved.count > 2 * replicas.count + Self.unsavedSpare {
            unsaved.removeAll { $0.replica.unsavedSinceTick != $0.tick }
        }
        if !isPlanted("unsaved-forgotten") { unsaved.append((replica, tickCount)) }
    }

    /// Entries of `unsaved` that stand for nothing any more, beside one for each replica, before they are thrown out.
    private static var unsavedSpare: Int { 1_000 }

    /// Keeps the sum over all live memtables.
    func countMemtable(of replica: Replica) {
        let bytes = replica.memtable.arenaBytes
        memtableBytes += bytes - replica.memtableBytes
        replica.memtableBytes = bytes
    }

    /// What changes little is written out some day too, so that a restart has little to do; and when the memtables of all
    /// replicas take too much memory, the largest are. As many in a second as may be under way at once. Looks at those
    /// whose time has come, not at thousands of others.
    func checkpointForAgeAndMemory() {
        var places = settings.checkpointsMax - checkpointsUnderWay
        let ageTicks = settings.checkpointNanoseconds / settings.tickNanoseconds
        var waiting: [(replica: Replica, tick: UInt64)] = []
        while let (replica, tick) = unsaved.first {
            if replica.unsavedSinceTick == tick {
                guard places > 0, tickCount - tick >= ageTicks else { break }
                if mayFreeze(replica) {
                    checkpoint(replica)
                    places -= 1
                } else {
                    waiting.append((replica, tick))
                }
            }
            unsaved.removeFirst()
        }
        for entry in waiting.reversed() { unsaved.prepend(entry) }
        guard memtableBytes > settings.memtableBytesTotal, places > 0 else { return }
        var largest = replicas.filter { $0.memtable.distinctBytes > 0 && mayFreeze($0) }
        largest.sort { $0.memtableBytes > $1.memtableBytes }
        for replica in largest.prefix(places) { checkpoint(replica) }
    }

    /// A journal that goes on growing although this host's own leaders refuse writes: nothing of other leaders is taken
    /// either before it is back below its bound, or the disk would be full one day, and the host end.
    func boundJournal() {
        let bound = isJournalOverfull ? settings.journalBytesMax : settings.journalBytesMax / 4 * 5
        guard isJournalOverfull != (journalBytes > bound)
        else {
            return
        }
        isJournalOverfull.toggle()
        guard loop.isFirst else { return }
        let size = "the journal holds \(journalBytes >> 20) MiB, its bound is \(settings.journalBytesMax >> 20) MiB"
        effects.notices.append(
            isJournalOverfull
                ? "\(size): entries of other hosts are not taken until hosts that are behind have caught up, and what "
                    + "is damaged was rebuilt"
                : "\(size): entries are taken again")
    }

    /// Writes the state of all replicas out now, whatever its size: on an operator's word.
    public func checkpointAll() { for replica in replicas { checkpoint(replica) } }

    /// Writes the replica's state out now, if it may.
    func checkpoint(_ replica: Replica) {
        guard mayFreeze(replica) else { return }
        freeze(replica)
        startStoreWork(replica)
    }

    private func mayFreeze(_ replica: Replica) -> Bool {
        replica.checkpoint == nil && replica.impairment == nil && replica.stopped == nil
            && replica.snapshots.intake == nil && replica.core.appliedIndex > replica.manifestIndex
            && hasRoomForARun(replica)
    }

    private func freeze(_ replica: Replica) {
        let index = isPlanted("manifest-past-applied") ? replica.core.commit : replica.core.appliedIndex
        guard let term = replica.core.term(at: index) else {
            preconditionFailure("the term of an applied entry is known until a manifest covers it")
        }
        var records = self.records(of: replica)
        replica.machine.writeSessions(into: &records)
        let header = ManifestHeader(
            group: replica.group, replica: replica.id, index: index, term: term, revision: replica.machine.revision,
            logTime: replica.machine.logTime, configuration: replica.core.configuration(at: index),
            digest: replica.machine.digest,
            journal: journal, journalSequence: journalSequence)
        replica.checkpoint = Replica.Checkpoint(frozen: replica.memtable.freeze(), header: header)
        replica.appliedBytesSinceCheckpoint = 0
        replica.unsavedSinceTick = nil
        countMemtable(of: replica)
    }

    /// Begins what the replica needs of the store, or puts it behind those that came first: groups that always have
    /// something to write must not keep the others from it.
    private func startStoreWork(_ replica: Replica) {
        guard !replica.waitsForStore, let work = storeWorkDue(replica) else { return }
        switch work {
        case .checkpoint where checkpointsUnderWay < settings.checkpointsMax && checkpointWaiters.isEmpty,
            .merge where mergesUnderWay < settings.mergesMax && mergeWaiters.isEmpty:
            begin(work, replica)
        case .checkpoint:
            replica.waitsForStore = true
            checkpointWaiters.append(replica)
        case .merge:
            replica.waitsForStore = true
            mergeWaiters.append(replica)
        }
    }

    private enum StoreWork { case checkpoint, merge }

    func isStoreWorkDue(_ replica: Replica) -> Bool { storeWorkDue(replica) != nil }

    private func storeWorkDue(_ replica: Replica) -> StoreWork? {
        guard replica.stopped == nil, replica.impairment == nil else { return nil }
        // The state that comes is not to be older than what is on disk when it is there.
        guard !replica.isStateDamaged || replica.snapshots.intake == nil else { return nil }
        // Merging comes first where runs have piled up: a store that can't keep up must not end with more than a
        // manifest may name. A checkpoint that met damage keeps its frozen memtable until it is tried again.
        let mayMerge = !replica.isMerging && replica.mergeTick == nil
        let mustMerge = replica.view.manifest.runs.count >= 2 * settings.runsMax && mayMerge
        // A checkpoint may wait for space that a merge gives back.
        let mayBeStuck = space > .ample && replica.checkpoint?.isUnderWay == true
        if let checkpoint = replica.checkpoint, replica.checkpointTick == nil, !mustMerge || checkpoint.isUnderWay,
            !mayBeStuck
        {
            // A run is published only when the journal is durable here up to its index.
            guard !checkpoint.isUnderWay,
                replica.core.stableIndex >= checkpoint.header.index || isPlanted("checkpoint-before-journal")
            else { return nil }
            return .checkpoint
        }
        return replica.view.manifest.runs.count > settings.runsMax && mayMerge ? .merge : nil
    }

    private func begin(_ work: StoreWork, _ replica: Replica) {
        switch work {
        case .checkpoint:
            guard let checkpoint = replica.checkpoint else { preconditionFailure("nothing is frozen") }
            replica.checkpoint?.isUnderWay = true
            checkpointsUnderWay += 1
            var header = checkpoint.header
            header.journalSequence = journalSequence
            effects.storeJobs.append(.checkpoint(replica.group, checkpoint.frozen, header))
        case .merge:
            replica.isMerging = true
            mergesUnderWay += 1
            // Runs that come before it begins may have deletions that are to be kept.
            let kept =
                isPlanted("deletions-not-kept")
                ? LogIndex(.max) : min(replica.machine.ownership.tombstonesThrough, replica.core.appliedIndex)
            effects.storeJobs.append(.merge(replica.group, replica.id, tombstonesThrough: kept))
        }
    }

    /// A place for a store job is free: who has waited longest gets it, also if its group is quiet. Who needs something
    /// else by now gets in line for that.
    private func storeJobEnded() {
        while checkpointsUnderWay < settings.checkpointsMax, let replica = checkpointWaiters.popFirst() {
            begin(replica, as: .checkpoint)
        }
        while mergesUnderWay < settings.mergesMax, let replica = mergeWaiters.popFirst() {
            begin(replica, as: .merge)
        }
    }

    private func begin(_ replica: Replica, as awaited: StoreWork) {
        replica.waitsForStore = false
        if let work = storeWorkDue(replica), work == awaited { begin(work, replica) } else { startStoreWork(replica) }
    }

    /// The checkpoint is durable; `view` pins the manifest that has it.
    public func checkpointDone(group: GroupID, view: StoreView) {
        defer { storeJobEnded() }
        checkpointsUnderWay -= 1
        guard let replica = replica(of: group), let checkpoint = replica.checkpoint else { return }
        precondition(view.manifest.header.index == checkpoint.header.index, "the store published another checkpoint")
        replica.view = view
        replica.checkpoint = nil
        // What was fetched is true of what was below the memtable that is a run now.
        replica.fetch.forget()
        replica.checkpointPauseTicks = 0
        replica.checkpoints += 1
        counts.checkpoints += 1
        markReady(replica)  // apply may have paused for it
        announceSuperfluous(replica)
    }

    public func mergeDone(group: GroupID, view: StoreView) {
        defer { storeJobEnded() }
        mergesUnderWay -= 1
        guard let replica = replica(of: group) else { return }
        replica.view = view
        replica.isMerging = false
        replica.mergePauseTicks = 0
        replica.merges += 1
        counts.merges += 1
        markReady(replica)
    }

    /// The merge came to nothing. Others have its place, until it is tried again: it may have written much in vain, so
    /// less and less often.
    public func mergeFoundNoSpace(group: GroupID) {
        defer { storeJobEnded() }
        mergesUnderWay -= 1
        guard let replica = replica(of: group) else { return }
        putOffMerge(replica)
        // Its checkpoint may have waited for it.
        markReady(replica)
    }

    private func putOffMerge(_ replica: Replica) {
        replica.isMerging = false
        replica.mergePauseTicks = longer(replica.mergePauseTicks)
        replica.mergeTick = tickCount + replica.mergePauseTicks
        jobsPutOff += 1
    }

    private func longer(_ pauseTicks: UInt64) -> UInt64 { min(max(secondTicks, 2 * pauseTicks), 32 * secondTicks) }

    /// Merges and checkpoints that were put off, also of groups in which nothing happens.
    func resumeStoreWork() {
        guard jobsPutOff > 0 else { return }
        var left = 0
        for replica in replicas {
            if replica.mergeTick == tickCount {
                replica.mergeTick = nil
                markReady(replica)
            }
            if replica.checkpointTick == tickCount {
                replica.checkpointTick = nil
                markReady(replica)
            }
            left += (replica.mergeTick == nil ? 0 : 1) + (replica.checkpointTick == nil ? 0 : 1)
        }
        jobsPutOff = left
    }

    /// A job found that what the replica has on disk is damaged. If the replica goes on, the job is tried again, less
    /// and less often; what was frozen for a checkpoint stays below the live memtable, as it may be nowhere else.
    public func storeDamaged(_ job: StoreJob, _ what: String) {
        defer { storeJobEnded() }
        let group: GroupID
        switch job {
        case .checkpoint(let its, _, _):
            checkpointsUnderWay -= 1
            group = its
            guard let replica = replica(of: its) else { return }
            if replica.stopped != nil || replica.impairment != nil {
                replica.checkpoint = nil
            } else if replica.checkpoint != nil {
                replica.checkpoint?.isUnderWay = false
                replica.checkpointPauseTicks = longer(replica.checkpointPauseTicks)
                replica.checkpointTick = tickCount + replica.checkpointPauseTicks
                jobsPutOff += 1
            }
        case .merge(let its, _, _):
            mergesUnderWay -= 1
            group = its
            if let replica = replica(of: its) { putOffMerge(replica) }
        case .takeSnapshot, .installSnapshot, .dropSnapshot, .removeReplica:
            preconditionFailure("a snapshot that can't be taken has failed, and damages nothing")
        }
        stateDamaged(group: group, what)
        // Something else may be due meanwhile.
        if let replica = replica(of: group) { markReady(replica) }
    }

    /// What is in a durable manifest here and on disk with every member is nobody's any more. A journal that has grown
    /// long waits for no member: a laggard gets a snapshot.
    func announceSuperfluous(_ replica: Replica) {
        replica.floor = max(replica.floor, replica.everywhereStable)
        // Nobody asks for them again, and each may hold a whole frame in memory.
        replica.core.evict(through: replica.floor)
        var through = min(
            journalBytes > settings.journalBytesForLaggards ? replica.manifestIndex : replica.floor,
            replica.manifestIndex, heldForSnapshots(replica))
        if isPlanted("journal-cut-past-manifest") { through = min(replica.floor, replica.core.appliedIndex) }
        if isPlanted("journal-cut-past-laggard") { through = replica.manifestIndex }
        guard through > replica.core.base, through > replica.discarded else { return }
        replica.discarded = through
        replica.core.discard(through: min(through, replica.core.stableIndex))
        isTrimDue = true
    }
}
