// Clients' calls: commands become proposals, reads wait for their confirmation, both are bounded.

import DequeModule
public import Messages
public import Primitives
import RaftCore
import Ring
import StateMachines
public import Storage

extension HostCore {
    // MARK: Commands

    /// A command. Its answer comes as a reply of a later turn, or of this one if it is refused.
    public func execute(_ request: ExecuteRequest, call: CallToken) {
        execute(request, call: call, hasWaited: false)
    }

    /// - Parameter hasWaited: it was delayed, and is not again.
    func execute(_ request: ExecuteRequest, call: CallToken, hasWaited: Bool) {
        guard let replica = replica(of: request.group) else { return refuse(call, .unknownGroup) }
        if let refusal = refusal(of: replica, slot: request.slot, epoch: request.epoch) {
            guard case .moved = refusal else { return refuse(call, refusal) }
            guard !turnsAway(request, replica, refusal, call, hasWaited: hasWaited) else { return }
        } else if replica.machine.ownership.hasMarks, !isPlanted("gate-not-looked-at"),
            let refusal = refusalBySlot(of: request, replica)
        {
            guard !turnsAway(request, replica, refusal, call, hasWaited: hasWaited) else { return }
        }
        if let refusal = MasterStateMachine.check(
            request.payload, slot: request.slot, level: map?.featureLevel ?? FeatureLevel.first,
            machines: settings.machines)
        {
            return refuse(call, refusal)
        }
        // It has no records of clients, and no sessions.
        guard request.group != .meta else {
            return refuse(call, .invalid("group \(GroupID.meta) takes no commands of data"))
        }
        guard replica.core.role == .leader else { return refuse(call, notLeader(replica)) }
        // Slots that moved may stand in its log, and it does not know yet.
        guard replica.core.hasAppliedEarlierTerms else {
            return refuse(call, .overloaded(retryAfterMillis: 5))
        }
        guard !isBusy(replica) else { return refuse(call, overloaded) }
        if !hasWaited, replica.machine.ownership.hasMarks, case let ticks = ticksToSlow(request.slot, replica),
            ticks > 0
        {
            return slow(request, call, ticks: ticks)
        }
        if let refusal = refusalByMembers(of: request.payload, replica) {
            return refuse(call, refusal)
        }
        // They would fill the log and be turned down when they are applied.
        if replica.machine.sessions.isFull, SessionCommand.opens(request.payload) {
            return refuse(call, .overloaded(retryAfterMillis: 1_000))
        }
        if journalBytes > settings.journalBytesMax {
            return refuse(call, .unavailable(journalIsFull(replica)))
        }
        if space > .ample,
            space == .out || MasterStateMachine.bringsDataIn(request.payload, machines: settings.machines)
        {
            return refuse(call, .unavailable(spaceRefusal))
        }
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        switch replica.core.propose(kind: .command, payload: request.payload, logTime: replica.logTime.current) {
        case .accepted(let index, let term):
            if isPlanted("answered-before-committed") {
                effects.replies.append(
                    HostReply(call: call, response: .done(DataResult(index: index, revision: .zero))))
                return markReady(replica)
            }
            replica.proposals.append(Replica.Proposal(index: index, term: term, call: call, slot: request.slot))
            markReady(replica)
        case .notLeader: refuse(call, notLeader(replica))
        case .overloaded: refuse(call, overloaded)
        case .refused: preconditionFailure("only configurations are refused")
        }
    }

    /// By the group's own log: it does not serve the slot now, or did not when the command was sent.
    private func refusalBySlot(of request: ExecuteRequest, _ replica: Replica) -> Refusal? {
        let ownership = replica.machine.ownership
        if let refusal = ownership.refusal(of: request.slot) { return refusal }
        let epoch = ownership.epoch(of: request.slot)
        return request.epoch < epoch ? .moved(group: request.group, epoch: epoch) : nil
    }

    /// A command on a slot that this group does not serve now, or did not when it was sent. One that was done here before is
    /// to be proposed all the same (false): its entry answers it, and is the sign of life that its client takes it for. Of one
    /// that was not it may be said that it never will be only if the group has let go of the slot since the epoch that the
    /// client names, and so since whatever it sent before. At a gate that is about to open, here or elsewhere, it waits for a
    /// moment.
    private func turnsAway(
        _ request: ExecuteRequest, _ replica: Replica, _ refusal: Refusal, _ call: CallToken, hasWaited: Bool
    ) -> Bool {
        let gate = replica.machine.ownership.gate(of: request.slot)
        let mayWait = !hasWaited && replica.core.role == .leader && (gate == .frozen || gate == .arriving)
        guard let header = request.payload.withUnsafeBytes({ CommandHeader(of: $0) }), header.session != .none else {
            if case .unavailable = refusal, mayWait, waitAtGate(request, call) { return true }
            refuse(call, refusal)
            return true
        }
        guard replica.core.role == .leader else {
            refuse(call, notLeader(replica))
            return true
        }
        switch replica.machine.sessions.answer(to: header) {
        case .answered?: return false
        case .unknown(let other)?:
            refuse(call, other)
            return true
        case nil: break
        }
        let ownership = replica.machine.ownership
        if mayWait, waitAtGate(request, call) { return true }
        let since: Epoch
        switch gate {
        case .moved(_, let epoch): since = epoch
        case .open: since = ownership.epoch(of: request.slot)
        case .frozen, .arriving: since = .zero
        }
        if case .moved = refusal, request.epoch < since {
            refuse(call, refusal)
        } else {
            refuse(call, .unavailable("slot \(request.slot) is on the move: its commands wait"))
        }
        return true
    }

    private func isBusy(_ replica: Replica) -> Bool {
        replica.proposals.count >= settings.waitingCallsMax || replica.isFull(settings) || isOverfull(replica)
    }

    /// Nothing that clients say of their sessions is taken here.
    func turnsSessionsDown(_ replica: Replica) -> Bool {
        replica.isHalted || isBusy(replica) || journalBytes > settings.journalBytesMax || space == .out
    }

    /// No more entries fit: apply is paused with much still to apply, or the journal is far behind.
    func isOverfull(_ replica: Replica) -> Bool {
        undurableBytes >= settings.undurableBytesMax
            || (replica.isFull(settings) || replica.fetch.isAwaited)
                && replica.core.memoryBytes >= settings.raft.uncommittedBytesMax
    }

    var overloaded: Refusal {
        overloads += 1
        return .overloaded(retryAfterMillis: 20)
    }

    /// The call's client is gone: nobody waits for the answer. A proposal takes its course.
    func refuse(_ call: CallToken, _ refusal: Refusal) {
        effects.replies.append(HostReply(call: call, response: .refused(refusal)))
    }

    func notLeader(_ replica: Replica) -> Refusal {
        .notLeader(leader: replica.host(of: replica.core.leader) ?? HostID(0), term: replica.core.term)
    }

    func respond(_ outcome: Applied, _ entry: LogEntry) -> Response<DataResult> {
        switch outcome {
        case .nothing: .done(DataResult(index: entry.index, revision: .zero))
        case .done(let revision, let body): .done(DataResult(index: entry.index, revision: revision, body: body))
        case .repeated(let answer): respond(answer)
        case .refused(let refusal): .refused(refusal)
        case .unsupported(let what): .refused(.unavailable("the replica does not understand its log: \(what)"))
        case .unready: preconditionFailure("an entry is answered when it was applied")
        }
    }

    private func respond(_ answer: SessionAnswer) -> Response<DataResult> {
        switch answer.outcome {
        case .done(let body): .done(DataResult(index: answer.index, revision: answer.revision, body: body))
        case .doneWithoutBody: .refused(.answerNotKept(index: answer.index, revision: answer.revision))
        case .refused(let refusal): .refused(refusal)
        }
    }

    /// Why this replica can't take a call for the slot at all.
    ///
    /// - Parameter isCopy: a copy of the state is asked for, which a group that people stopped gives.
    func refusal(of replica: Replica, slot: Slot, epoch: Epoch, isCopy: Bool = false) -> Refusal? {
        if let stopped = replica.stopped { return .unavailable(stopped) }
        if replica.isHalted, !isCopy {
            return .unavailable(
                "group \(replica.group) is stopped: start it with 'bifrost group start \(replica.group)'")
        }
        if let impairment = replica.impairment { return .unavailable(impairment) }
        guard let ring = map?.ring else { return .unavailable("the host has no cluster map yet") }
        guard slot < Slot.group else {
            return slot == .group ? nil : .invalid("slot \(slot): there are 16,384 slots, from 0 on")
        }
        guard let owner = ring.owner(of: slot) else { return .unavailable("slot \(slot) has no owner yet") }
        guard owner == replica.group else { return .moved(group: owner, epoch: ring.epoch(of: slot)) }
        guard epoch <= ring.epoch(of: slot) else {
            return .unavailable(
                "the client's ring is newer: this host has slot \(slot) at epoch \(ring.epoch(of: slot))")
        }
        return nil
    }

    private func journalIsFull(_ replica: Replica) -> String {
        let behind = replica.core.configuration.members.min { left, right in
            (replica.core.progress(of: left)?.match ?? .zero) < (replica.core.progress(of: right)?.match ?? .zero)
        }
        let host = behind.flatMap { replica.host(of: $0) }.map { "host \($0)" } ?? "a host"
        return "the journal holds \(journalBytes >> 20) MiB, its bound is \(settings.journalBytesMax >> 20) MiB, "
            + "because \(host) is behind: bring that host back"
    }

    // MARK: Reads

    /// A query of a sub state machine.
    public func query(_ request: QueryRequest, call: CallToken) {
        guard let replica = replica(of: request.group) else { return refuse(call, .unknownGroup) }
        if let refusal = refusal(of: replica, slot: request.slot, epoch: request.epoch) { return refuse(call, refusal) }
        if request.machine.isRegistered { return queryMachine(request, replica, call) }
        if request.machine == .sessions { return querySessions(request, replica, call) }
        if request.machine == .slotOwnership { return querySlots(request, replica, call) }
        guard request.machine == .keyValue else {
            return refuse(call, .invalid("sub state machine \(request.machine) answers no queries in this version"))
        }
        do throws(Refusal) {
            let query = try KeyValue.check(query: request.query, slot: request.slot)
            let kind: WaitingRead.Kind =
                switch query {
                case .get(let key): .key(RecordKey(slot: request.slot, machine: request.machine, key: key))
                case .scan(let scan): .page(range(of: scan, request))
                }
            wait(
                WaitingRead(call: call, kind: kind), in: replica, consistency: request.consistency,
                bound: request.bound)
        } catch {
            refuse(call, error)
        }
    }

    private func queryMachine(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        do throws(Refusal) {
            let reading = try MachineReading(
                request.query, machine: request.machine, slot: request.slot, machines: settings.machines)
            wait(
                WaitingRead(call: call, kind: .machine(reading)), in: replica, consistency: request.consistency,
                bound: request.bound)
        } catch {
            refuse(call, error)
        }
    }

    private func range(of scan: KeyValueScan, _ request: QueryRequest) -> WaitingRead.PageRange {
        let end =
            scan.end.map { RecordKey(slot: request.slot, machine: request.machine, key: $0) }
            ?? RecordKey(
                slot: request.slot, machine: SubMachineNumber(request.machine.rawValue + 1), key: Bytes())
        return WaitingRead.PageRange(
            from: RecordKey(slot: request.slot, machine: request.machine, key: scan.from), end: end,
            recordsMax: min(max(Int(scan.recordsMax), 1), settings.pageRecordsMax),
            bytesMax: min(max(Int(scan.bytesMax), 1), settings.pageBytesMax), isScan: true)
    }

    /// A page of a group's records.
    public func page(_ request: PageRequest, call: CallToken) {
        guard let replica = replica(of: request.group) else { return refuse(call, .unknownGroup) }
        if let refusal = refusal(of: replica, slot: .group, epoch: .zero) { return refuse(call, refusal) }
        let from = request.from.map { RecordKey(slot: $0.slot, machine: $0.machine, key: $0.key) }
        let bytesMax = min(max(Int(request.bytesMax), 1), settings.pageBytesMax)
        wait(
            WaitingRead(
                call: call,
                kind: .page(
                    WaitingRead.PageRange(
                        from: from, end: nil, recordsMax: settings.pageRecordsMax, bytesMax: bytesMax, isScan: false))),
            in: replica, consistency: request.consistency)
    }

    /// - Parameter bound: as the query has it; nil: it has none.
    func wait(
        _ read: WaitingRead, in replica: Replica, consistency: Consistency, bound: UInt64? = nil
    ) {
        if read.kind.isPage {
            guard pagesOpen < settings.pagesMax else { return refuse(read.call, overloaded) }
        }
        if case .machine = read.kind {
            guard queriesOpen < settings.queriesMax else { return refuse(read.call, overloaded) }
        }
        switch consistency {
        case .local:
            guard repliedBytes < settings.replyBytesPerTurn else { return refuse(read.call, overloaded) }
            open(read)
            serve(read, from: replica)
            return
        case .linearizable, .lease:
            guard replica.core.role == .leader else { return refuse(read.call, notLeader(replica)) }
        case .linearizableAnywhere:
            guard replica.core.leader != .none else { return refuse(read.call, notLeader(replica)) }
        case .stale, .session: break
        }
        guard replica.waitingReads < settings.waitingCallsMax else { return refuse(read.call, overloaded) }
        open(read)
        replica.waitingReads += 1
        switch consistency {
        case .lease: replica.gatheredByLease.append(read)
        case .stale:
            let (nanoseconds, isBeyond) = (bound ?? 0).multipliedReportingOverflow(by: 1_000_000)
            replica.gatheredBounded.append((read, .age(nanoseconds: isBeyond ? .max : nanoseconds)))
        case .session:
            replica.gatheredBounded.append((read, .index(bound.map { LogIndex($0) } ?? LogIndex(.max))))
        default: replica.gathered.append(read)
        }
        markReady(replica)
    }

    private func open(_ read: WaitingRead) {
        switch read.kind {
        case .page, .load: pagesOpen += 1
        case .machine: queriesOpen += 1
        case .key, .sessions, .snapshot: break
        }
    }

    /// A read ends without having been served.
    func close(_ read: WaitingRead) {
        switch read.kind {
        case .page, .load: pagesOpen -= 1
        case .machine: queriesOpen -= 1
        case .key, .sessions, .snapshot: break
        }
    }

    /// A `ColdPage` or a `LoadRead` was answered.
    public func pageDone() { pagesOpen -= 1 }

    /// All reads that came since the last turn share one confirmation.
    func startReads(_ replica: Replica) {
        let context = replica.nextContext
        replica.nextContext += 1
        replica.readBatches.append(
            Replica.ReadBatch(
                context: context, index: nil, tick: tickCount, begun: now.rawValue, reads: replica.gathered))
        replica.gathered = []
        replica.core.read(context: context)
    }

    /// Reads that may miss what is newer than their bounds came since the last turn, whose clock was read after they came.
    /// The replica answers by itself as long as its last round of confirmation began within the bound, or it has come to
    /// the index; else it begins another round, as for a linearizable read, which has all that anybody has seen. The
    /// clock is its own alone: none of another host's is relied on.
    func startBoundedReads(_ replica: Replica) {
        let reads = replica.gatheredBounded
        replica.gatheredBounded = []
        var fresh: [WaitingRead] = []
        var staleCount: UInt64 = 0
        for (read, bound) in reads {
            if isFresh(replica, for: bound) {
                fresh.append(read)
                if case .age = bound { staleCount += 1 }
            } else if replica.core.leader != .none {
                replica.gathered.append(read)
            } else {
                replica.waitingReads -= 1
                close(read)
                refuse(read.call, notLeader(replica))
            }
        }
        guard !fresh.isEmpty else { return }
        staleReads += staleCount
        sessionReads += UInt64(fresh.count) - staleCount
        let context = replica.nextContext
        replica.nextContext += 1
        replica.readBatches.append(
            Replica.ReadBatch(
                context: context, index: replica.core.appliedIndex, tick: tickCount, begun: nil, reads: fresh))
    }

    private func isFresh(_ replica: Replica, for bound: ReadBound) -> Bool {
        switch bound {
        case .age(let nanoseconds):
            guard let since = replica.freshAt else { return false }
            return now.rawValue - since <= nanoseconds || isPlanted("stale-without-bound")
        case .index(let index):
            return replica.core.appliedIndex >= index || isPlanted("session-read-without-bound")
        }
    }

    func confirmReads(_ replica: Replica, context: UInt64, index: LogIndex) {
        for place in replica.readBatches.indices where replica.readBatches[place].context == context {
            replica.readBatches[place].index = index
            return
        }
    }

    func failReads(_ replica: Replica, context: UInt64) {
        guard let place = replica.readBatches.firstIndex(where: { $0.context == context }) else { return }
        let batch = replica.readBatches.remove(at: place)
        replica.waitingReads -= batch.reads.count - batch.served
        for read in batch.reads[batch.served...] {
            close(read)
            refuse(read.call, notLeader(replica))
        }
    }

    private var readTicksMax: UInt64 { UInt64(4 * settings.raft.electionTicks) }

    /// Serves what is confirmed and applied.
    func serveReads(_ replica: Replica) {
        var place = 0
        while place < replica.readBatches.count {
            guard let index = replica.readBatches[place].index,
                index <= replica.core.appliedIndex || isPlanted("read-before-applied")
            else {
                // Confirmed, and this replica does not get there: their clients have given up or ask elsewhere.
                if replica.readBatches[place].index != nil, tickCount - replica.readBatches[place].tick > readTicksMax {
                    let batch = replica.readBatches.remove(at: place)
                    replica.waitingReads -= batch.reads.count - batch.served
                    for read in batch.reads[batch.served...] {
                        close(read)
                        refuse(read.call, .unavailable("the replica on host \(host) is behind: ask another"))
                    }
                } else {
                    place += 1
                }
                continue
            }
            var batch = replica.readBatches.remove(at: place)
            if let begun = batch.begun {
                let time = isPlanted("stale-dated-by-answer") ? now.rawValue : begun
                replica.freshAt = max(replica.freshAt ?? 0, time)
            }
            let first = batch.served
            while batch.served < batch.reads.count, repliedBytes < settings.replyBytesPerTurn {
                serve(batch.reads[batch.served], from: replica)
                batch.served += 1
            }
            replica.waitingReads -= batch.served - first
            guard batch.served == batch.reads.count else {
                replica.readBatches.insert(batch, at: place)
                // Who got nothing in this turn comes first in the next.
                return batch.served == first ? markReadyFirst(replica) : markReady(replica)
            }
        }
    }

    /// The event loop answers from memory; what may touch cold pages goes to the readers with the view of this moment.
    private func serve(_ read: WaitingRead, from replica: Replica) {
        // Whatever map this host has: the group's own log says whose the slot is.
        if let slot = read.kind.slot, let refusal = refusalToRead(slot, replica), !isPlanted("read-though-moved") {
            close(read)
            return refuse(read.call, refusal)
        }
        if let slot = read.kind.slot, replica.role == .leader { slotWork.note(slot) }
        switch read.kind {
        case .key(let key):
            var found = replica.memtable.get(key)
            if case .absent = found, let frozen = replica.checkpoint?.frozen { found = frozen.get(key) }
            if case .absent = found, !replica.view.manifest.runs.isEmpty {
                effects.coldReads.append(
                    ColdRead(
                        call: read.call, group: replica.group, index: replica.core.appliedIndex,
                        revision: replica.machine.revision, key: key, view: replica.coldView))
                return
            }
            let result = Self.result(found, index: replica.core.appliedIndex, revision: replica.machine.revision)
            repliedBytes += result.body.count
            effects.replies.append(HostReply(call: read.call, response: .done(result), isRead: true))
        case .page(let range):
            let live =
                isPlanted("scan-without-memtable") && range.isScan
                ? RecordPage(records: [], next: nil)
                : replica.memtable.page(
                    from: range.from, end: range.end, recordsMax: range.recordsMax, bytesMax: range.bytesMax)
            effects.coldPages.append(
                ColdPage(
                    call: read.call, group: replica.group, index: replica.core.appliedIndex,
                    revision: replica.machine.revision, from: range.from, end: range.end, recordsMax: range.recordsMax,
                    bytesMax: range.bytesMax, live: live, isScan: range.isScan, view: replica.coldView))
        case .machine(let reading): serve(reading, call: read.call, from: replica)
        case .sessions(let query): serve(query, call: read.call, from: replica)
        case .load: serveLoad(call: read.call, from: replica)
        case .snapshot(let number): pin(replica, number, call: read.call)
        }
    }

    /// Whatever a read may miss, it misses nothing that was there before its slot came: a replica that is behind may not
    /// have got to that.
    func refusalToRead(_ slot: Slot, _ replica: Replica) -> Refusal? {
        if replica.machine.ownership.hasMarks, let refusal = replica.machine.ownership.refusalToRead(slot) {
            return refusal
        }
        guard haveSlotsMoved, let epoch = map?.ring.epoch(of: slot), epoch > SlotTable.firstEpoch,
            epoch > replica.machine.ownership.epoch(of: slot)
        else { return nil }
        return .unavailable("slot \(slot) has moved, and the replica on host \(host) has not got to that")
    }

    /// The answer to a query of one key, from wherever it was found.
    public static func result(_ found: Lookup, index: LogIndex, revision: Revision) -> DataResult {
        let reading: KeyValueReading =
            switch found {
            case .absent, .tombstone: .absent
            case .found(let record):
                .found(value: record.value ?? Bytes(), revision: record.revision, expiry: record.expiry)
            }
        return DataResult(index: index, revision: revision, body: reading.encoded())
    }
}
