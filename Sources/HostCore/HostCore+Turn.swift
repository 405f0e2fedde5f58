// One turn: step every group that has something to do once, one payload for each peer, one batch for the journal.

import DequeModule
import Messages
public import Primitives
import RaftCore
import StateMachines
import Storage

extension HostCore {
    /// Whether another turn has something to do at once.
    public var hasWork: Bool {
        !ready.isEmpty || !effects.replies.isEmpty || !effects.loopMessages.isEmpty || !loopQuestions.isEmpty
            || !comparing.isEmpty || !effects.machineReads.isEmpty || !effects.deadlineReads.isEmpty
            || !effects.migrationReads.isEmpty || !migrationWords.isEmpty || areMigrationsDue
            || !effects.balanceLooks.isEmpty
    }

    /// Does what all inputs since the last turn ask for. `out` must be empty; it comes back filled.
    public func turn(now: Instant, into out: inout HostEffects) {
        if now > self.now { self.now = now }
        hearOwnMigrations()
        if areMigrationsDue { driveMigrations() }
        // Groups that still have something to do afterwards (a bounded piece was done) go into the next turn.
        stepped.clear()
        swap(&stepped, &ready)
        readyFirst = 0
        for replica in stepped {
            replica.isReady = false
            step(replica)
        }
        if areMigrationsDue { driveStepped() }
        if !loopQuestions.isEmpty { answerLoopQuestions() }
        if !comparing.isEmpty { compareHeartbeats() }

        if !records.isEmpty {
            if doneTicket + 1 == nextTicket { journalTick = tickCount }
            effects.journal = JournalBatch(ticket: nextTicket, records: records)
            nextTicket += 1
            records = []
            records.reserveCapacity(32)
        }
        if isTrimDue {
            // All replicas, not only the news: a value goes when those of all groups in it are not needed any more.
            isTrimDue = false
            for replica in replicas where replica.discarded > .zero {
                effects.superfluous.append((replica.id, replica.discarded))
            }
        }
        takePayloads()
        swap(&effects, &out)
        repliedBytes = 0
    }

    /// Notes that the replica has something to do in this turn.
    func markReady(_ replica: Replica) {
        guard !replica.isReady, !replica.isMute else { return }
        replica.isReady = true
        ready.append(replica)
    }

    /// The same, ahead of those that are noted already.
    func markReadyFirst(_ replica: Replica) {
        guard !replica.isReady, !replica.isMute else { return }
        replica.isReady = true
        ready.insert(replica, at: min(readyFirst, ready.count))
        readyFirst += 1
    }

    /// Migrations are looked at behind what was applied, too: at the beginning of a turn a busy group has committed what it
    /// has not applied, turn after turn, and nothing is decided there. What comes of it is written with this turn's batch.
    private func driveStepped() {
        driveMigrations()
        var all: [Replica] = []
        swap(&all, &ready)
        readyFirst = 0
        for replica in all {
            guard replica.drives > 0 || replica.group == .meta else {
                ready.append(replica)
                continue
            }
            replica.isReady = false
            step(replica)
            if !stepped.contains(where: { $0 === replica }) { stepped.append(replica) }
        }
    }

    private func step(_ replica: Replica) {
        // One that does not understand its log is as good as down: the others elect another leader.
        guard replica.stopped == nil else { return }
        dateProposals(of: replica)
        if !replica.gatheredBounded.isEmpty { startBoundedReads(replica) }
        if !replica.gatheredByLease.isEmpty { startLeaseReads(replica) }
        if !replica.gathered.isEmpty { startReads(replica) }
        var rounds = 0
        // Applying frees windows and confirms reads; two rounds settle nearly everything, the rest waits a turn.
        repeat {
            rounds += 1
            replica.core.ready(into: &raftEffects)
            carryOut(replica)
            apply(replica)
        } while replica.core.hasReady && rounds < 3
        serveReads(replica)
        serveWatches(replica)
        considerCheckpoint(replica)
        if replica.core.hasReady || replica.canApply(settings) { markReady(replica) }
        if replica.core.role == .leader, !isPlanted("floor-untold") { stir(replica) }
        activate(replica)
    }

    private func carryOut(_ replica: Replica) {
        for message in raftEffects.messages { send(message, of: replica) }
        for message in raftEffects.bulkMessages { sendInBulk(message, of: replica) }
        if let sequence = raftEffects.persistSequence {
            if let hardState = raftEffects.hardState {
                records.append(.hardState(replica.group, replica.id, hardState))
            }
            var bytes = 0
            if !raftEffects.entries.isEmpty {
                for entry in raftEffects.entries { bytes += entry.encodedBytes }
                undurableBytes += bytes
                records.append(.append(replica.group, replica.id, raftEffects.entries))
            }
            replica.lastTicket = nextTicket
            hold(replica, until: nextTicket, sequence: sequence, bytes: bytes)
        } else if !raftEffects.durableMessages.isEmpty {
            if replica.lastTicket <= doneTicket {
                for message in raftEffects.durableMessages { send(message, of: replica) }
            } else if replica.heldMessages < Self.heldMessagesMax {
                replica.heldMessages += raftEffects.durableMessages.count
                // `held` stays in the order of tickets: waiting for a later one than needed is safe.
                hold(replica, until: max(held.last?.ticket ?? 0, replica.lastTicket))
            }
        }
        for read in raftEffects.readsReady { confirmReads(replica, context: read.context, index: read.index) }
        for context in raftEffects.readsFailed { failReads(replica, context: context) }
        for read in raftEffects.logReads {
            effects.logReads.append(
                JournalRead(
                    group: replica.group, replica: replica.id, follower: read.replica,
                    from: read.from, through: read.through, bytesMax: read.bytesMax))
        }
        for follower in raftEffects.snapshotsNeeded {
            offerSnapshot(replica, to: follower)
        }
        if raftEffects.roleChanged || raftEffects.configurationChanged { updateLiveness(replica) }
        if raftEffects.roleChanged, replica.core.role != .leader { endWatches(of: replica, notLeader(replica)) }
        if raftEffects.roleChanged || raftEffects.hardState != nil { countElections(of: replica) }
    }

    /// Of one replica, beyond those that go with what it writes. While a write waits for space peers ask again and
    /// again; what is not said then is as good as lost on the way, and asked for again.
    private static var heldMessagesMax: Int { 64 }

    /// Entries that wait for the journal, for tests.
    package var heldCount: Int { held.count }

    /// Messages that wait for a ticket are taken out of the effects, which would have to be copied to be emptied.
    private func hold(_ replica: Replica, until ticket: UInt64, sequence: UInt64 = 0, bytes: Int = 0) {
        var messages: [RaftMessage] = []
        swap(&messages, &raftEffects.durableMessages)
        held.append(Held(ticket: ticket, replica: replica, sequence: sequence, messages: messages, bytes: bytes))
    }

    private func send(_ message: RaftMessage, of replica: Replica) {
        guard let host = replica.host(of: message.to), let peer = peer(host), peer.isConnected else { return }
        write(to: peer, over: .consensus, bytes: message.encodedBytes) { $0.append(message, group: replica.group) }
    }

    /// Catch-up has a connection of its own, so that heartbeats and fresh appends never wait behind it.
    private func sendInBulk(_ message: RaftMessage, of replica: Replica) {
        guard let host = replica.host(of: message.to), let peer = peer(host) else { return }
        // Where there is no second connection, slow beats never: the group may need this follower for its majority.
        guard peer.isBulkConnected else { return send(message, of: replica) }
        write(to: peer, over: .bulk, bytes: message.encodedBytes) { $0.append(message, group: replica.group) }
    }

    /// Everything up to this ticket is durable in the journal, whose last commit has `sequence`.
    public func journalDone(ticket: UInt64, sequence: UInt64) {
        precondition(ticket >= doneTicket && ticket < nextTicket, "the journal completed what was never asked")
        doneTicket = ticket
        journalTick = tickCount
        journalSequence = sequence
        while let first = held.first, first.ticket <= ticket {
            held.removeFirst()
            undurableBytes -= first.bytes
            if first.sequence > 0 {
                first.replica.core.persisted(sequence: first.sequence)
            } else {
                first.replica.heldMessages -= first.messages.count
            }
            for message in first.messages { send(message, of: first.replica) }
            markReady(first.replica)
        }
    }

    /// Entries read back from the journal for a follower; empty when they could not be read.
    public func supply(_ entries: [LogEntry], group: GroupID, follower: ReplicaID) {
        guard let replica = replica(of: group) else { return }
        replica.core.supply(entries: entries, for: follower)
        markReady(replica)
    }

    /// A record of the replica's log turned out to be damaged: its log lacks what it promised, so it says nothing any
    /// more, and another member leads. The next start finds the same and makes it mute.
    public func journalDamaged(group: GroupID, _ what: String) {
        guard let replica = replica(of: group) else { return }
        if !replica.isLogDamaged { effects.damages += 1 }
        replica.isLogDamaged = true
        // One that stands still already has to be replaced as well.
        lookAtPlacement(replica)
        if replica.stopped == nil { stop(replica, because: "\(Self.logDamaged): \(what)") }
    }

    static var logDamaged: String { "a record of its journal is damaged" }

    // MARK: Apply

    private func apply(_ replica: Replica) {
        let from = replica.core.appliedIndex
        guard from < replica.core.commit, replica.stopped == nil, replica.impairment == nil,
            !replica.fetch.isAwaited
        else { return }
        var records = self.records(of: replica)
        let historyBefore = replica.history.bytes
        defer { historyBytes += replica.history.bytes - historyBefore }
        var budget = settings.applyBytesPerTurn
        var applied = from
        var awaited: (places: [RecordPosition], entries: ArraySlice<LogEntry>)?
        var written = replica.machine.bytesBesideEntries
        let intervalMask = settings.digestInterval &- 1
        while budget > 0, applied < replica.core.commit {
            if replica.isFull(settings) { break }
            let entries = replica.withCore { $0.committedEntries(after: applied, bytesMax: min(budget, 256 << 10)) }
            guard !entries.isEmpty else { break }
            for place in entries.indices {
                let entry = entries[place]
                let outcome = replica.machine.apply(entry, into: &records)
                if case .unready(let places) = outcome {
                    awaited = (places, entries[place...])
                    break
                }
                if case .unsupported(let what) = outcome {
                    stop(replica, because: "entry \(entry.index) is not understood by this version: \(what)")
                    break
                }
                let bytes = entry.encodedBytes
                budget -= bytes
                replica.appliedBytesSinceCheckpoint += bytes
                applied = entry.index
                if applied.rawValue & intervalMask == 0 { reachDigestPoint(replica) }
                if case .done = outcome {
                    replica.appliedCommands += 1
                    counts.commands += 1
                }
                onApplied?(replica.group, entry, outcome)
                complete(replica, entry, outcome)
                // A small entry may do much.
                if replica.machine.bytesBesideEntries != written {
                    budget -= replica.machine.bytesBesideEntries &- written
                    written = replica.machine.bytesBesideEntries
                    if budget <= 0 || replica.isFull(settings) { break }
                }
            }
            if replica.stopped != nil || awaited != nil { break }
        }
        defer {
            if let awaited { fetch(awaited.places, before: awaited.entries, replica) } else { replica.fetch.forget() }
        }
        guard applied > from else { return }
        replica.core.applied(through: applied)
        noteSessions(of: replica)
        noteDeadlines(of: replica)
        if replica.drives > 0 { areMigrationsDue = true }
        wakeWatches(of: replica)
        noteUnsaved(replica)
        let pinnedBytesMax = max(settings.logPinnedBytesMax / replicas.count, 4 * settings.logMemoryBytesMax)
        let isLarge = replica.withCore {
            $0.memoryBytes > settings.logMemoryBytesMax || $0.pinnedBytes > pinnedBytesMax
        }
        replica.core.evict(through: isLarge ? applied : min(replica.everywhereStable, applied))
        if replica.group == .meta { adoptMetaMap(replica) }
        if !replica.digests.fresh.isEmpty { compareFreshDigests(replica) }
    }

    /// Answers the calls whose entries have been applied, or replaced by another leader's.
    private func complete(_ replica: Replica, _ entry: LogEntry, _ outcome: Applied) {
        // Terms never fall along a log: once an entry of a later term is committed, what was proposed in an earlier one
        // and is not below it can never be. (A later leadership's own entries come first of all, and clear the way.)
        while let first = replica.proposals.first, first.index <= entry.index || first.term < entry.term {
            replica.proposals.removeFirst()
            if first.index == entry.index, first.term == entry.term {
                counts.commitTimes.note(nanoseconds: now.rawValue - first.begun)
                slotWork.note(first.slot)
                effects.replies.append(HostReply(call: first.call, response: respond(outcome, entry)))
            } else {
                effects.replies.append(HostReply(call: first.call, response: .refused(notLeader(replica))))
            }
        }
    }

    func stop(_ replica: Replica, because reason: String) {
        replica.stopped = reason
        replica.fetch.forget()
        for proposal in replica.proposals {
            effects.replies.append(HostReply(call: proposal.call, response: .refused(.outcomeUnknown)))
        }
        replica.proposals.removeAll()
        let reads =
            replica.readBatches.flatMap { $0.reads[$0.served...] } + replica.gathered + replica.gatheredByLease
            + replica.gatheredBounded.map(\.read)
        for read in reads {
            close(read)
            effects.replies.append(HostReply(call: read.call, response: .refused(.unavailable(reason))))
        }
        endWatches(of: replica, .unavailable(reason))
        replica.readBatches.removeAll()
        replica.gathered.removeAll()
        replica.gatheredByLease.removeAll()
        replica.gatheredBounded.removeAll()
        replica.waitingReads = 0
        effects.notices.append("group \(replica.group): replica \(replica.id) stopped: \(reason)")
        updateLiveness(replica)
    }
}

extension Replica {
    /// Apply pauses: the live memtable is full while an older one is on its way to the disk, or has to wait because
    /// merges do not keep up with the runs. What is applied while no checkpoint may be written is read again from the
    /// journal, all at once, when another's state has come.
    func isFull(_ settings: HostSettings) -> Bool {
        if isStateDamaged, snapshots.intake != nil, appliedBytesSinceCheckpoint >= 4 * settings.memtableBytesMax {
            return true
        }
        guard checkpoint == nil else {
            return max(memtable.distinctBytes, memtable.arenaBytes) >= settings.memtableBytesMax
        }
        // An arena begins with more than it needs, and a checkpoint for its sake is worth it only when it is large.
        return memtable.distinctBytes >= settings.memtableBytesMax
            || memtable.arenaBytes >= 2 * settings.memtableBytesMax + (4 << 20)
    }

    func canApply(_ settings: HostSettings) -> Bool {
        stopped == nil && impairment == nil && core.appliedIndex < core.commit && !fetch.isAwaited
            && !isFull(settings)
    }

    /// The index through which every member has the log on disk, as a leader knows it.
    var everywhereStable: LogIndex { max(withCore { $0.everywhereStableIndex } ?? floor, floor) }
}
