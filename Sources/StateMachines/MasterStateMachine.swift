// A group's state machine: routes each committed entry to a sub state machine by its number, and keeps what all of them
// share: revision, log time, digest. Owns no records (they go to the store that the caller brings), reads no clock, and
// applies no configurations: those are consensus's business and only pass by.

public import Messages
public import Primitives
import Ring

/// One group's replicated state but for its records. The same entries give the same records, results and digest on
/// every replica, because nothing but the entry and this state goes in.
///
/// An entry is applied as a whole or, if any part of it is unknown to this version, not at all (`.unsupported`): the
/// checks before a proposal (`check`) keep such entries out of the log, so they come from a newer version only.
public struct MasterStateMachine: Sendable {
    public let group: GroupID
    /// The last entry applied.
    public private(set) var applied: LogIndex
    /// The group's counter of changes: raised by one with each command that changes records.
    public internal(set) var revision: Revision
    /// Elapsed time as the entries carry it; never falls.
    public private(set) var logTime: LogTime
    /// Over all records written since the group began, in their order: replicas agree at equal index.
    public internal(set) var digest: UInt64
    /// What the sub machines did since digests were last compared.
    var interval: MachineDigests
    /// Who may ask for what he asked before.
    public internal(set) var sessions = SessionTable()
    /// Which slots it does not serve now, and what it does for those that move.
    public internal(set) var ownership = SlotOwnership()
    /// Sessions that nothing changed behind this entry are among the records already.
    private var sessionsWritten: LogIndex
    /// The cluster's map; in the meta group only.
    public private(set) var meta = MetaMachine()
    /// Bytes that commands have read and written which may be small themselves and do much: what a host counts beside
    /// their entries.
    public private(set) var bytesBesideEntries = 0
    /// No deadline among the records is earlier, as far as the entries tell that were applied here; 0: nothing is known.
    /// What a leader has seen to it takes (`takeEarliestDeadline`).
    public internal(set) var earliestDeadline = LogTime.zero
    /// Users' machines that this host has. Entries for others can't be applied; their records are kept as they are.
    public var machines = StateMachineRegistry()

    /// A new group, or one that goes on after a manifest with these numbers; `metaRecords` are the meta group's records
    /// in `Slot.group`, none in other groups.
    public init(
        group: GroupID, applied: LogIndex = .zero, revision: Revision = .zero, logTime: LogTime = .zero,
        digest: UInt64 = 0,
        metaRecords: some Sequence<MetaRecord> = [], sessionRecords: some Sequence<SessionRecord> = [],
        slotRecords: some Sequence<SlotRecord> = []
    ) throws(DecodingFailure) {
        self.group = group
        self.applied = applied
        self.revision = revision
        self.logTime = logTime
        self.digest = digest
        interval = MachineDigests(after: applied, digest: digest, revision: revision)
        meta = try MetaMachine(restoring: metaRecords)
        sessions = try SessionTable(restoring: sessionRecords)
        ownership = try SlotOwnership(restoring: slotRecords)
        sessionsWritten = applied
    }

    /// Applies the next entry. Its index is the one after `applied`: anything else is a programmer's error.
    /// A key-value command allocates nothing; its cost beside the store's is the slot function and two hashes.
    @inlinable public mutating func apply(_ entry: LogEntry, into store: inout some RecordStore) -> Applied {
        if let write = decideKeyValue(entry) {
            entry.payload.withUnsafeBytes { payload in
                store.put(
                    slot: write.slot, machine: .keyValue, key: payload.slice(write.key), revision: revision,
                    changed: entry.index,
                    expiry: .zero, value: write.isPut ? entry.payload[write.value] : nil)
            }
            return .done(revision: revision, body: Bytes())
        }
        switch decideOther(entry, store) {
        case .nothing: return .nothing
        case .done(let writes, let body, let events):
            for told in events {
                store.emit(told.event, slot: told.slot, machine: told.machine, revision: revision)
            }
            for write in writes {
                write.key.withUnsafeBytes {
                    guard let own = write.revision else {
                        return store.put(
                            slot: write.slot, machine: write.machine, key: $0, revision: revision,
                            changed: entry.index, expiry: write.expiry, value: write.value)
                    }
                    store.putUntold(
                        slot: write.slot, machine: write.machine, key: $0, revision: own, changed: entry.index,
                        expiry: write.expiry, value: write.value)
                }
            }
            return .done(revision: revision, body: body)
        case .repeated(let answer): return .repeated(answer)
        case .refused(let refusal): return .refused(refusal)
        case .unsupported(let what): return .unsupported(what)
        case .unready(let places): return .unready(places)
        }
    }

    /// `earliestDeadline`, from which nothing is known of any deadline that was set before.
    public mutating func takeEarliestDeadline() -> LogTime {
        defer { earliestDeadline = LogTime(.max) }
        return earliestDeadline
    }

    /// Those whose time is over at `logTime`, and the index of their last sign of life: what a leader proposes to end. See
    /// `SessionTable.due`.
    public mutating func sessionsDue(
        at logTime: LogTime, countMax: Int, holdingsMax: Int = .max
    ) -> [SessionCommand.Expiry] {
        sessions.due(at: logTime, countMax: countMax, holdingsMax: holdingsMax, ownership)
    }

    /// Writes what is live in memory and is not among the records yet: before they are frozen.
    public mutating func writeSessions(into store: inout some RecordStore) {
        guard sessionsWritten < applied else { return }
        for record in sessions.records(changedAfter: sessionsWritten) {
            record.key.withUnsafeBytes {
                store.put(
                    slot: .group, machine: .sessions, key: $0, revision: record.revision, changed: record.changed,
                    expiry: .zero, value: record.value)
            }
        }
        sessionsWritten = applied
    }

    /// What has to be in memory before the entry can be applied, as far as that can be told from the entry alone: what
    /// is best fetched for many entries in one go.
    ///
    /// - Parameter store: what is in memory already, for entries that name commands which stand there.
    public func reads(of entry: LogEntry, _ store: any RecordStore) -> [RecordPosition] {
        lacking(of: entry, store).places
    }

    /// The same, and what commands of the same object behind it may read.
    func lacking(of entry: LogEntry, _ store: any RecordStore) -> Unready {
        guard entry.kind == .command, group != .meta,
            let machine = entry.payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine })
        else { return Unready([]) }
        if machine.isRegistered { return lacking(of: entry, machine, store) }
        if machine == .deadlines { return Unready(reads(ofDeadlines: entry, store)) }
        if machine == .guards { return lacking(ofGuarded: entry, store) }
        guard machine == .keyValue, entry.payload.withUnsafeBytes({ KeyValueTransaction.isOne($0) }),
            let transaction = try? KeyValueTransaction(payload: entry.payload)
        else { return Unready([]) }
        return Unready(
            transaction.readKeys.map { RecordPosition(slot: Ring.slot(of: $0), machine: .keyValue, key: $0) })
    }

    private func lacking(ofGuarded entry: LogEntry, _ store: any RecordStore) -> Unready {
        guard let guarded = try? GuardedCommand(payload: entry.payload) else { return Unready([]) }
        var lacking = lacking(of: entry.with(guarded.payload), store)
        if let place = machines.fencing(of: guarded.token.machine)?.place(of: guarded) {
            lacking.places.insert(place, at: 0)
        }
        return lacking
    }

    private func reads(ofDeadlines entry: LogEntry, _ store: any RecordStore) -> [RecordPosition] {
        switch try? DeadlineCommand(payload: entry.payload) {
        case nil: return []
        case .end(let endings)?: return endings.map(\.place)
        case .sweep(let steps)?:
            return steps.map(\.deadline.place) + steps.flatMap { $0.records.compactMap(\.movedTimer?.place) }
        case .fire(let key)?:
            guard case .found(let record) = store.find(key.place),
                case .command(let machine, let request)? = (try? Deadline(key: key.key, value: record.value))?.purpose,
                let keys = try? machines.command(request.number, of: machine)?.readKeys(request)
            else { return [key.place] }
            return RecordPosition.named(keys, machine: machine, slot: Ring.slot(of: request.key))
        }
    }

    private func lacking(
        of entry: LogEntry, _ machine: SubMachineNumber, _ store: any RecordStore
    ) -> Unready {
        guard let request = try? MachineRequest(payload: entry.payload),
            let command = machines.command(request.number, of: machine)
        else { return Unready([]) }
        let slot = Ring.slot(of: request.key)
        guard machine.isDataType else {
            return Unready(RecordPosition.named((try? command.readKeys(request)) ?? [], machine: machine, slot: slot))
        }
        if let foresee = command.foresee, let keys = try? foresee(request, ForeseenRecords(slot, machine, store)) {
            return Unready(RecordPosition.named(keys, machine: machine, slot: slot))
        }
        // What it reads depends on what it finds: as it stands now is a good guess, and nothing of it is kept.
        let caller = entry.payload.withUnsafeBytes { CommandHeader(of: $0)?.session }
        let session = caller.map { sessions.holder(of: request.key, machine, slot, for: $0) }
        var context = MachineContext(
            ApplyContext(
                group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next, slot: slot,
                machine: machine, store: store), session: session ?? .none)
        _ = try? command.apply(request, &context)
        return context.trouble.unready ?? Unready([])
    }

    /// What a key-value command writes: ranges of the entry's payload. Apart from `apply`, as the next, so that only the
    /// writing is compiled anew for each kind of store; and apart from the next because this is the path of most
    /// entries.
    @usableFromInline struct KeyValueWrite {
        @usableFromInline var slot: Slot
        @usableFromInline var isPut: Bool
        @usableFromInline var key: Range<Int>
        @usableFromInline var value: Range<Int>
    }

    /// Takes a key-value command into revision, digest and log time; nil, and no change, if the entry is anything else.
    @usableFromInline mutating func decideKeyValue(_ entry: LogEntry) -> KeyValueWrite? {
        precondition(entry.index == applied.next, "entries are applied one after the other")
        guard entry.kind == .command, group != .meta else { return nil }
        return entry.payload.withUnsafeBytes { payload -> KeyValueWrite? in
            guard let header = CommandHeader(of: payload), header.machine == .keyValue,
                let command = KeyValueCommandView(payload: payload), command.isWithinLimits,
                command.timeToLiveMillis == 0
            else { return nil }
            var session: Int?
            if header.session != .none {
                guard case .new(let place) = sessions.standing(of: header) else { return nil }
                session = place
            }
            let key = payload.slice(command.key)
            let slot = Ring.slot(of: key)
            guard !ownership.isGated(slot) || isPlanted("gate-not-looked-at") else { return nil }
            revision = revision.next
            fold(
                slot: slot, machine: .keyValue, key: key, value: command.isPut ? payload.slice(command.value) : nil,
                changed: entry.index)
            applied = entry.index
            logTime = max(logTime, entry.logTime)
            if let session {
                keep(.done(Bytes()), of: entry, header, slot, at: session)
            }
            return KeyValueWrite(slot: slot, isPut: command.isPut, key: command.key, value: command.value)
        }
    }

    /// What any other entry does.
    @usableFromInline enum Decision {
        case nothing
        case done([RecordWrite], body: Bytes, events: [ToldEvent] = [])
        case repeated(SessionAnswer)
        case refused(Refusal)
        case unsupported(String)
        case unready([RecordPosition])
    }

    /// Takes the entry into revision, digest, log time and map. Changes nothing if it is unsupported or unready.
    @usableFromInline mutating func decideOther(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        var decision: Decision
        /// Where the answer is kept.
        var session: Call?
        switch entry.kind {
        case .command: decision = decideCommand(entry, store, &session)
        case .empty, .configuration: decision = .nothing
        default: decision = .unsupported("entry \(entry.index) has the unknown kind \(entry.kind.rawValue)")
        }
        switch decision {
        case .unsupported, .unready: return decision
        case .nothing, .refused, .repeated: break
        case .done(let writes, _, let events):
            // What clients say of their sessions changes no data, nor does a deadline that is met in vain.
            // What comes with slots has revisions of its own; where a timer went that came with one is part of its deadline.
            let machine = writes.first {
                $0.revision == nil && $0.machine != .sessions && $0.machine != .deadlines
                    && $0.machine != .slotOwnership
            }?.machine
            if let machine = machine ?? events.first?.machine {
                revision = revision.next
                interval.addChange(of: machine)
            }
            for write in writes {
                if write.machine == .deadlines, write.value != nil {
                    earliestDeadline = min(earliestDeadline, Deadline.time(ofKey: write.key))
                }
                bytesBesideEntries &+= write.key.count &+ (write.value?.count ?? 0)
                write.key.withUnsafeBytes { key in
                    guard let value = write.value else { return fold(write, key, nil, changed: entry.index) }
                    value.withUnsafeBytes { fold(write, key, $0, changed: entry.index) }
                }
            }
        }
        applied = entry.index
        logTime = max(logTime, entry.logTime)
        if let session {
            var outcome: SessionAnswer.Outcome?
            switch decision {
            case .done(_, let body, _): outcome = .done(body)
            case .refused(let refusal): outcome = .refused(refusal)
            case .nothing, .repeated, .unsupported, .unready: break
            }
            // Whoever asks again gets the same refusal.
            if let outcome,
                case .refused(let kept) = keep(outcome, of: entry, session.header, session.slot, at: session.place)
            {
                decision = .refused(kept)
            }
        }
        return decision
    }

    /// Keeps what a command came to for whoever asks again, and takes that it did into the digest.
    @discardableResult private mutating func keep(
        _ outcome: SessionAnswer.Outcome, of entry: LogEntry, _ header: CommandHeader, _ slot: Slot, at place: Int
    ) -> SessionAnswer.Outcome {
        let kept = sessions.keep(
            SessionAnswer(index: entry.index, slot: slot, revision: revision, outcome: outcome), header, at: place,
            logTime: logTime)
        fold(header, kept.mark, of: header.machine)
        return kept.outcome
    }

    /// Takes into the digest what a call came to: replicas that decide by different windows must not agree in it.
    private mutating func fold(_ header: CommandHeader, _ mark: UInt64, of machine: SubMachineNumber) {
        let call = header.session.rawValue &+ header.sequence &* 0x9e37_79b9_7f4a_7c15
        take(mix(call ^ header.firstUnacknowledged << 20 ^ mark), of: machine)
    }

    private mutating func fold(_ header: CommandHeader, _ refusal: Refusal) {
        fold(header, refusal.encoded().withUnsafeBytes { hash64($0, seed: 1) }, of: .sessions)
    }

    /// A call whose answer is to be kept.
    private struct Call {
        var header: CommandHeader
        var place: Int
        var slot = Slot.group
    }

    private mutating func decideCommand(
        _ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?
    ) -> Decision {
        guard let header = entry.payload.withUnsafeBytes({ CommandHeader(of: $0) }) else {
            return .unsupported("entry \(entry.index) has no command header of version \(CommandHeader.formatVersion)")
        }
        if header.session != .none {
            guard group != .meta,
                header.machine == .keyValue || header.machine == .guards || header.machine.isRegistered
                    || SessionCommand.takesOver(entry.payload)
            else {
                return .unsupported(
                    "entry \(entry.index) of session \(header.session) is for sub state machine \(header.machine), which "
                        + "has no sessions")
            }
            switch sessions.standing(of: header) {
            case .new(let place): session = Call(header: header, place: place)
            case .refused(let refusal):
                fold(header, refusal)
                return .refused(refusal)
            case .full(let place, let refusal):
                fold(header, refusal)
                sessions.noteRefused(header, at: place, index: entry.index, revision, max(logTime, entry.logTime))
                return .refused(refusal)
            case .answered(let answer):
                fold(header, answer.mark << 2 | 3, of: header.machine)
                sessions.noteRepeated(header, at: entry.index, revision, max(logTime, entry.logTime))
                return .repeated(answer)
            }
        }
        if ownership.hasGates, let refusal = refusalByOwnership(of: entry.payload, header),
            !isPlanted("gate-not-looked-at")
        {
            // Nothing of it is kept: who is told to wait asks again, and who is sent away is done here.
            if let call = session {
                fold(call.header, refusal)
                sessions.noteRefused(
                    call.header, at: call.place, index: entry.index, revision, max(logTime, entry.logTime))
                session = nil
            }
            return .refused(refusal)
        }
        switch header.machine {
        case .sessions where group != .meta: return decideSession(entry, store, &session)
        case .meta where group == .meta: return decideMeta(entry)
        case .deadlines where group != .meta: return decideDeadlines(entry, store)
        case .slotOwnership where group != .meta: return decideSlots(entry, store)
        case .keyValue where group != .meta:
            if let decision = decidePut(entry, store, &session) { return decision }
            return decideTransaction(entry, store, &session)
        case .guards where group != .meta: return decideGuarded(entry, store, &session)
        case .firstOfDataTypes... where group != .meta: return decideMachine(header.machine, entry, store, &session)
        default:
            return .unsupported(
                "entry \(entry.index) is for sub state machine \(header.machine), which group \(group) does not have")
        }
    }

    private mutating func decideSession(
        _ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?
    ) -> Decision {
        let command: SessionCommand
        do throws(DecodingFailure) {
            command = try SessionCommand(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        let time = max(logTime, entry.logTime)
        switch command {
        case .open(let timeToLive, let nonce, let followsSlots):
            if let problem = command.problem() { return .unsupported("entry \(entry.index): \(problem)") }
            let id = SessionTable.id(term: entry.term, index: entry.index, nonce: nonce)
            if let refusal = sessions.open(
                id, timeToLive: timeToLive, followsSlots: followsSlots, at: entry.index, revision, time)
            {
                return .refused(refusal)
            }
            take(mix(id.rawValue), of: .sessions)
            return .done([], body: Session.body(of: [id]))
        case .keepAlive(let words):
            if let problem = command.problem() { return .unsupported("entry \(entry.index): \(problem)") }
            let missing = sessions.keepAlive(words, at: entry.index, revision, time)
            take(
                entry.payload.withUnsafeBytes { hash64($0, seed: UInt64(truncatingIfNeeded: missing.count)) },
                of: .sessions)
            return .done([], body: Session.body(of: missing))
        case .close(let id):
            guard !sessions.isHeldUp(id, by: ownership) else {
                return .refused(.unavailable("session \(id) holds something in a slot that is about to move"))
            }
            return end(sessions.place(of: id) == nil ? [] : [id], entry, store)
        case .expire(let expiries):
            let over = sessions.over(expiries, logTime: time).filter { !sessions.isHeldUp($0, by: ownership) }
            return end(over, entry, store)
        case .takeOver(let slot, let ids):
            if let problem = command.problem() { return .unsupported("entry \(entry.index): \(problem)") }
            guard let call = session else {
                return .unsupported("entry \(entry.index) takes sessions over for none")
            }
            session?.slot = slot
            let found = sessions.takeOver(ids, at: call.place, index: entry.index, revision, time)
            let body = Session.body(of: found)
            take(body.withUnsafeBytes { hash64($0, seed: mix(call.header.session.rawValue)) }, of: .sessions)
            return .done([], body: body)
        case .hold(let word, let slots):
            if let problem = command.problem() { return .unsupported("entry \(entry.index): \(problem)") }
            var answer = HeldSlotsAnswer(isThere: sessions.keepAlive([word], at: entry.index, revision, time).isEmpty)
            sessions.noteFollowing(word.id)
            for held in slots where answer.isThere {
                guard let now = ownership.whereabouts(of: held.slot, since: held.epoch, in: group) else { continue }
                answer.moved.append(.init(slot: held.slot, group: now.group, epoch: now.epoch))
            }
            let body = answer.encoded()
            take(body.withUnsafeBytes { hash64($0, seed: mix(word.id.rawValue)) }, of: .sessions)
            return .done([], body: body)
        }
    }

    /// Ends sessions that are there, each named once, and those for which they stand: what they hold is given back, object
    /// by object, as if each were a command behind the one before.
    private mutating func end(_ named: [SessionID], _ entry: LogEntry, _ store: any RecordStore) -> Decision {
        let ids = sessions.withOwned(named)
        var writes = ids.map {
            RecordWrite(slot: .group, machine: .sessions, key: Session.key(of: $0), expiry: .zero, value: nil)
        }
        var events: [ToldEvent] = []
        var holds: [HoldChange] = []
        var missing: [RecordPosition] = []
        var deadlines = 0
        var overlaid = OverlaidStore(store)
        for id in ids {
            for holding in sessions.holdings(of: id) {
                guard let release = machines.release(of: holding.machine) else {
                    return .unsupported(
                        "entry \(entry.index) ends a session that holds something of state machine \(holding.machine), "
                            + "which this host does not have: start it with a program that has it")
                }
                var context = MachineContext(
                    ApplyContext(
                        group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next,
                        slot: holding.slot, machine: holding.machine, store: overlaid, deadlinesBefore: deadlines),
                    session: id)
                let isDone = (try? release(holding.name, id, &context)) != nil
                bytesBesideEntries &+= context.trouble.bytesOfReads
                if let unready = context.trouble.unready { missing += unready.places }
                // The next ones may be waiting for records too: they are fetched in one go.
                guard missing.isEmpty, isDone, context.trouble.broken == nil else { continue }
                writes += context.context.writes
                deadlines += context.context.deadlinesSet
                events += context.events
                holds += context.holds
                overlaid.add(context.context.writes, revision: revision.next)
            }
        }
        guard missing.isEmpty else { return .unready(missing) }
        for id in ids { _ = sessions.close(id) }
        note(holds, entry)
        for told in events { foldEvent(told) }
        return .done(writes, body: Bytes(), events: events)
    }

    /// Takes what sessions hold from now on, and what they don't, into state and digest.
    private mutating func note(_ holds: [HoldChange], _ entry: LogEntry) {
        guard !holds.isEmpty else { return }
        sessions.note(holds, at: entry.index, revision)
        for hold in holds { take(hold.hash, of: .sessions) }
    }

    /// Whoever watches sees it: replicas agree in it. What is told of records is in them.
    private mutating func foldEvent(_ told: ToldEvent) {
        guard told.event.kind == .event else { return }
        let hash = told.event.key.withUnsafeBytes { hash64($0, seed: UInt64(told.event.number) &+ 1) }
        take(told.event.body.withUnsafeBytes { hash64($0, seed: hash) }, of: told.machine)
    }

    private mutating func decideDeadlines(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        let command: DeadlineCommand
        do throws(DecodingFailure) { command = try DeadlineCommand(payload: entry.payload) } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        do throws(Unready) {
            switch command {
            case .end(let endings):
                let time = max(logTime, entry.logTime)
                guard ownership.hasGates else { return .done(try endings.writes(at: time, store), body: Bytes()) }
                let writes = try endings.filter { ownership.gate(of: $0.place.slot) == .open }.writes(at: time, store)
                // What went is another group's to end.
                let superfluous = endings.filter { ownership.isGone($0.place.slot) && $0.deadline.time <= time }
                return .done(writes + superfluous.map(\.deadline.removal), body: Bytes())
            case .fire(let deadline): return try decideTimer(deadline, entry, store)
            case .sweep(let steps): return try decideSweeps(steps, entry, store)
            }
        } catch {
            return .unready(error.places)
        }
    }

    private func decideSweeps(
        _ steps: [SweepStep], _ entry: LogEntry, _ store: any RecordStore
    ) throws(Unready) -> Decision {
        var missing: [RecordPosition] = []
        var writes: [RecordWrite] = []
        for (number, step) in steps.enumerated() {
            let record: StoredRecord
            switch store.find(step.deadline.place) {
            case .elsewhere:
                missing.append(step.deadline.place)
                continue
            // An entry before has done it.
            case .absent: continue
            case .found(let found): record = found
            }
            let swept: Sweep
            do throws(DecodingFailure) {
                guard case .sweep(let sweep) = try Deadline(key: step.deadline.key, value: record.value).purpose else {
                    return .unsupported("entry \(entry.index) sweeps by a deadline that is no sweep")
                }
                guard !ownership.isGated(sweep.slot) else { continue }
                swept = sweep
            } catch {
                return .unsupported("entry \(entry.index): \(error)")
            }
            do throws(Unready) {
                writes += try swept.writes(
                    step, at: max(logTime, entry.logTime), entry.index, number: UInt16(truncatingIfNeeded: number),
                    in: group, store)
            } catch {
                missing += error.places
            }
        }
        guard missing.isEmpty else { throw Unready(missing) }
        return .done(writes, body: Bytes())
    }

    /// A command that another one scheduled.
    private mutating func decideTimer(
        _ key: DeadlineKey, _ entry: LogEntry, _ store: any RecordStore
    ) throws(Unready) -> Decision {
        guard key.time <= max(logTime, entry.logTime) || isPlanted("timer-too-soon") else {
            return .done([], body: Bytes())
        }
        let record: StoredRecord
        switch store.find(key.place) {
        case .elsewhere: throw Unready([key.place])
        // It was called off, or an entry before has done it.
        case .absent: return .done([], body: Bytes())
        case .found(let found): record = found
        }
        let deadline: Deadline
        do throws(DecodingFailure) { deadline = try Deadline(key: key.key, value: record.value) } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        guard case .command(let machine, let request) = deadline.purpose else {
            return .unsupported("entry \(entry.index) is to apply a deadline that is no command's")
        }
        let slot = Ring.slot(of: request.key)
        // Put off until the slot is served; or until what is left of it here is deleted.
        guard !ownership.isGated(slot) else { return .done([], body: Bytes()) }
        return decide(request, of: machine, in: slot, entry, store, timer: deadline)
    }

    /// A put with a time to live; nil: it is another command.
    private func decidePut(_ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?) -> Decision? {
        guard let command = entry.payload.withUnsafeBytes({ KeyValueCommandView(payload: $0) }),
            command.isPut, command.isWithinLimits, command.timeToLiveMillis > 0,
            command.timeToLiveMillis <= KeyValue.timeToLiveMillisMax
        else { return nil }
        let key = entry.payload[command.key]
        let slot = Ring.slot(of: key)
        session?.slot = slot
        var context = ApplyContext(
            group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next, slot: slot,
            machine: .keyValue, store: store)
        context.put(
            key, entry.payload[command.value], expiry: context.expiry(afterMillis: command.timeToLiveMillis))
        return .done(context.writes, body: Bytes())
    }

    private func decideTransaction(
        _ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?
    ) -> Decision {
        guard entry.payload.withUnsafeBytes({ KeyValueTransaction.isOne($0) }) else {
            return .unsupported("entry \(entry.index) holds a key-value command that this version does not know")
        }
        let transaction: KeyValueTransaction
        do throws(DecodingFailure) {
            transaction = try KeyValueTransaction(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        guard transaction.problem() == nil, let key = transaction.keys.first else {
            return .unsupported("entry \(entry.index) holds a transaction beyond the limits of this version")
        }
        let slot = Ring.slot(of: key)
        session?.slot = slot
        var context = ApplyContext(
            group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next,
            slot: slot, machine: .keyValue, store: store)
        do throws(Unready) {
            switch try transaction.apply(in: &context) {
            case .success(let outcome): return .done(context.writes, body: outcome.encoded())
            case .failure(let refusal): return .refused(refusal)
            }
        } catch {
            return .unready(error.places)
        }
    }

    /// A command behind a guard: done as without one, if the token stands.
    private mutating func decideGuarded(
        _ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?
    ) -> Decision {
        let guarded: GuardedCommand
        do throws(DecodingFailure) { guarded = try GuardedCommand(payload: entry.payload) } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        let token = guarded.token
        guard let fencing = machines.fencing(of: token.machine) else {
            return .unsupported(
                "entry \(entry.index) is guarded by a token of state machine \(token.machine), which this host does not have: "
                    + "start it with a program that has it")
        }
        session?.slot = guarded.slot
        if let refusal = fencing.problem(of: guarded) { return .refused(refusal) }
        let place = fencing.place(of: guarded)
        var highest: UInt64 = 0
        switch store.find(place) {
        case .elsewhere: return .unready([place])
        case .absent where guarded.isBesideLock && !isPlanted("guard-not-looked-at"):
            return .refused(.guardFailed(highest: 0))
        case .absent: break
        case .found(let record) where !guarded.isBesideLock:
            do throws(DecodingFailure) { highest = try GuardRecord(decoding: record.value).highest } catch {
                return .unsupported("entry \(entry.index): \(error)")
            }
        case .found: break
        }
        guard token.number >= highest || isPlanted("guard-not-looked-at") else {
            return .refused(.guardFailed(highest: highest))
        }
        let inner = entry.with(guarded.payload)
        let decision: Decision
        if guarded.machine == .keyValue {
            decision =
                decidePlain(inner, store) ?? decidePut(inner, store, &session)
                ?? decideTransaction(inner, store, &session)
        } else {
            decision = decideMachine(guarded.machine, inner, store, &session)
        }
        // What it wrote itself stands first: the change is that machine's.
        guard case .done(let writes, let body, let events) = decision, !guarded.isBesideLock, token.number > highest
        else { return decision }
        let record = RecordWrite(
            slot: place.slot, machine: .guards, key: place.key, expiry: .zero,
            value: GuardRecord(highest: token.number).encoded())
        return .done(writes + [record], body: body, events: events)
    }

    /// A put or delete as most are; nil: it is another command.
    private func decidePlain(_ entry: LogEntry, _ store: any RecordStore) -> Decision? {
        guard let command = entry.payload.withUnsafeBytes({ KeyValueCommandView(payload: $0) }),
            command.isWithinLimits, command.timeToLiveMillis == 0
        else { return nil }
        let key = entry.payload[command.key]
        var context = ApplyContext(
            group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next,
            slot: Ring.slot(of: key),
            machine: .keyValue, store: store)
        if command.isPut { context.put(key, entry.payload[command.value]) } else { context.delete(key) }
        return .done(context.writes, body: Bytes())
    }

    private mutating func decideMachine(
        _ machine: SubMachineNumber, _ entry: LogEntry, _ store: any RecordStore, _ session: inout Call?
    ) -> Decision {
        let request: MachineRequest
        do throws(DecodingFailure) {
            request = try MachineRequest(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        let slot = Ring.slot(of: request.key)
        session?.slot = slot
        return decide(request, of: machine, in: slot, entry, store, session: session?.header.session ?? .none)
    }

    /// - Parameter timer: the command was scheduled, and this goes with it, whatever it comes to.
    private mutating func decide(
        _ request: MachineRequest, of machine: SubMachineNumber, in slot: Slot, _ entry: LogEntry,
        _ store: any RecordStore, session: SessionID = .none, timer: Deadline? = nil
    ) -> Decision {
        guard request.problem() == nil, let command = machines.command(request.number, of: machine) else {
            return .unsupported(
                "entry \(entry.index) holds command \(request.number) of state machine \(machine), which this host does "
                    + "not have: start it with a program that has it")
        }
        // Who has the object by a session of another group goes on with it as that one.
        let session = sessions.holder(of: request.key, machine, slot, for: session)
        var context = MachineContext(
            ApplyContext(
                group: group, entry, logTime: max(logTime, entry.logTime), revision: revision.next, slot: slot,
                machine: machine, store: store), session: session, holdings: sessions.holdings(of: session))
        if let timer, !isPlanted("timer-again") { context.begin(timer) }
        var outcome: StateMachineRegistry.EncodedOutcome
        do throws(DecodingFailure) { outcome = try command.apply(request, &context) } catch {
            return .unsupported("entry \(entry.index), command \(request.number) of state machine \(machine): \(error)")
        }
        bytesBesideEntries &+= context.trouble.bytesOfReads
        // Whatever it made of the error.
        if let unready = context.trouble.unready {
            guard timer != nil else { return .unready(unready.places) }
            return .unready(unready.places + Self.hints(command, request, machine, slot, store, beside: unready.places))
        }
        if let broken = context.trouble.broken { outcome = StateMachineRegistry.EncodedOutcome(broken) }
        let body = outcome.body
        // Replicas whose machines answer otherwise must not agree in it.
        take(body.withUnsafeBytes { hash64($0, seed: UInt64(machine.rawValue)) }, of: machine)
        if outcome.isFailure, !isPlanted("machine-half-done") {
            return .done(timer?.removals ?? [], body: body)
        }
        for told in context.events { foldEvent(told) }
        context.forgetHoldings()
        note(context.holds, entry)
        return .done(context.context.writes, body: body, events: context.events)
    }

    /// What a scheduled command names to be read and is not in memory, some of it: its entry could not tell before.
    private static func hints(
        _ command: StateMachineRegistry.Command, _ request: MachineRequest, _ machine: SubMachineNumber, _ slot: Slot,
        _ store: any RecordStore, beside places: [RecordPosition]
    ) -> [RecordPosition] {
        RecordPosition.named((try? command.readKeys(request)) ?? [], machine: machine, slot: slot)
            .prefix(hintsMax).filter { !places.contains($0) && store.find($0) == .elsewhere }
    }

    private static var hintsMax: Int { 16 }

    private mutating func decideMeta(_ entry: LogEntry) -> Decision {
        let command: MetaCommand
        do throws(DecodingFailure) {
            command = try MetaCommand(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        switch meta.apply(command) {
        case .refused(let refusal): return .refused(refusal)
        case .done(let records, let body):
            let writes = records.map {
                RecordWrite(slot: .group, machine: .meta, key: $0.key, expiry: .zero, value: $0.value)
            }
            return .done(writes, body: body)
        }
    }

    private mutating func fold(
        _ write: RecordWrite, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?, changed: LogIndex
    ) {
        fold(
            slot: write.slot, machine: write.machine, key: key, value: value, changed: changed, expiry: write.expiry)
    }

    /// Takes one record write into the digest: place, revision, index, expiry, value or its absence.
    private mutating func fold(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?,
        changed: LogIndex, expiry: LogTime = .zero
    ) {
        let place = UInt64(slot.rawValue) | UInt64(machine.rawValue) << 16 | (value == nil ? 0 : 1 << 32)
        let seed = (place ^ mix(revision.rawValue) ^ mix(~changed.rawValue)) &+ expiry.rawValue &* 0x9e37_79b9_7f4a_7c15
        var hash = hash64(key, seed: seed)
        if let value { hash = hash64(value, seed: hash) }
        take(hash, of: machine)
    }
}

extension MasterStateMachine {
    /// Whether a client's command may be proposed in this group: nil, or why not. The slot's owner has been checked by
    /// the caller; that the command belongs to the slot is checked here. Allocates nothing for puts and deletes that
    /// pass.
    ///
    /// - Parameters:
    ///   - level: the cluster's feature level: what older hosts can't apply is turned down.
    ///   - machines: users' machines that this host has.
    public static func check(
        _ payload: Bytes, slot: Slot, level: UInt32, machines: StateMachineRegistry = StateMachineRegistry()
    ) -> Refusal? {
        payload.withUnsafeBytes { bytes in
            guard let header = CommandHeader(of: bytes) else {
                return .invalid("the command has no header of version \(CommandHeader.formatVersion)")
            }
            if header.session != .none || header.machine == .sessions {
                if let problem = check(sessionOf: header, payload, slot: slot, level: level) { return problem }
                if header.machine == .sessions { return nil }
            }
            if header.machine == .guards { return check(guarded: payload, slot: slot, level: level, machines) }
            if header.machine.isRegistered {
                return check(machine: header.machine, payload, slot: slot, level: level, machines)
            }
            guard header.machine == .keyValue else {
                return .invalid("sub state machine \(header.machine) takes no commands from clients in this version")
            }
            if KeyValueTransaction.isOne(bytes) { return check(transaction: payload, slot: slot, level: level) }
            guard let command = KeyValueCommandView(payload: bytes) else {
                return .invalid("this is no key-value command of version \(KeyValueCommand.formatVersion)")
            }
            if let problem = KeyValue.problem(ofKeyOf: command.key.count) { return problem }
            if let problem = KeyValue.problem(
                ofValueOf: command.value.count, timeToLiveMillis: command.timeToLiveMillis)
            {
                return problem
            }
            if command.timeToLiveMillis > 0, let refusal = check(deadlinesAt: level) { return refusal }
            let found = Ring.slot(of: bytes.slice(command.key))
            return found == slot ? nil : .invalid("the key's slot is \(found), not \(slot)")
        }
    }

    private static func check(
        sessionOf header: CommandHeader, _ payload: Bytes, slot: Slot, level: UInt32
    ) -> Refusal? {
        guard level >= FeatureLevel.sessions else {
            // A client may have heard of the new level before this host.
            return .unavailable(
                "sessions need feature level \(FeatureLevel.sessions), and this host knows the cluster to be at \(level)"
            )
        }
        guard header.machine == .sessions else { return problem(ofNumbers: header) }
        let takesOver = SessionCommand.takesOver(payload)
        guard takesOver || header.session == .none && slot == .group else {
            return .invalid("commands about sessions belong to the group as a whole, and to no session")
        }
        let command: SessionCommand
        do throws(DecodingFailure) { command = try SessionCommand(payload: payload) } catch {
            return .invalid("\(error)")
        }
        guard level >= command.featureLevel else {
            return .unavailable(
                "what is held in slots that move needs feature level \(command.featureLevel), and this host knows the "
                    + "cluster to be at \(level)")
        }
        if takesOver {
            guard header.session != .none, Self.slot(of: payload, header) == slot else {
                return .invalid("sessions are taken over in a slot, by a call of another one")
            }
            if let problem = problem(ofNumbers: header) { return problem }
        }
        return command.problem()
    }

    private static func problem(ofNumbers header: CommandHeader) -> Refusal? {
        guard header.firstUnacknowledged <= header.sequence, header.sequence >= 1,
            header.sequence <= SessionTable.Limits.sequenceMax
        else {
            return .invalid(
                "a call's number is 1 to 2^62, and not below the first that is unacknowledged: \(header.sequence), "
                    + "\(header.firstUnacknowledged)")
        }
        return nil
    }

    private static func check(
        machine: SubMachineNumber, _ payload: Bytes, slot: Slot, level: UInt32, _ machines: StateMachineRegistry
    ) -> Refusal? {
        let needed = machine.featureLevel
        guard level >= needed else {
            return .unavailable(
                "\(machine.isDataType ? "data types like \(machine)" : "users' state machines") need feature level "
                    + "\(needed), and this host knows the cluster to be at \(level): upgrade its hosts, then run 'bifrost cluster upgrade'"
            )
        }
        let request: MachineRequest
        do throws(DecodingFailure) { request = try MachineRequest(payload: payload) } catch {
            return .invalid("\(error)")
        }
        if let problem = request.problem() { return problem }
        let found = Ring.slot(of: request.key)
        guard found == slot else { return .invalid("the key's slot is \(found), not \(slot)") }
        return machines.problem(ofCommand: request, of: machine)
    }

    private static func check(
        guarded payload: Bytes, slot: Slot, level: UInt32, _ machines: StateMachineRegistry
    ) -> Refusal? {
        guard level >= FeatureLevel.dataTypes else {
            return .unavailable(
                "fencing tokens need feature level \(FeatureLevel.dataTypes), and this host knows the cluster to be at "
                    + "\(level): upgrade its hosts, then run 'bifrost cluster upgrade'")
        }
        let guarded: GuardedCommand
        do throws(DecodingFailure) { guarded = try GuardedCommand(payload: payload) } catch {
            return .invalid("\(error)")
        }
        guard let fencing = machines.fencing(of: guarded.token.machine) else {
            return .unavailable("the host has no state machine \(guarded.token.machine) that gives out fencing tokens")
        }
        guard level >= guarded.token.machine.featureLevel else {
            return .unavailable(
                "tokens of data type \(guarded.token.machine) need feature level "
                    + "\(guarded.token.machine.featureLevel), and this host knows the cluster to be at \(level): upgrade "
                    + "its hosts, then run 'bifrost cluster upgrade'")
        }
        return fencing.problem(of: guarded) ?? check(guarded.payload, slot: slot, level: level, machines: machines)
    }

    private static func check(deadlinesAt level: UInt32) -> Refusal? {
        guard level < FeatureLevel.deadlines else { return nil }
        return .unavailable(
            "times to live need feature level \(FeatureLevel.deadlines), and this host knows the cluster to be at "
                + "\(level): upgrade its hosts, then run 'bifrost cluster upgrade'")
    }

    private static func check(transaction payload: Bytes, slot: Slot, level: UInt32) -> Refusal? {
        guard level >= FeatureLevel.transactions else {
            return .invalid(
                "transactions need feature level \(FeatureLevel.transactions), and the cluster is at \(level): "
                    + "upgrade its hosts, then run 'bifrost cluster upgrade'")
        }
        let transaction: KeyValueTransaction
        do throws(DecodingFailure) {
            transaction = try KeyValueTransaction(payload: payload)
        } catch {
            return .invalid("\(error)")
        }
        if let problem = transaction.problem() { return problem }
        if transaction.setsDeadlines, let refusal = check(deadlinesAt: level) { return refusal }
        let found = transaction.keys.first.map { Ring.slot(of: $0) }
        return found == slot ? nil : .invalid("the keys' slot is \(found ?? slot), not \(slot)")
    }

    /// Whether a command that `check` let pass makes the state grow: all do but deletes, which are taken as long as
    /// there is any space.
    public static func bringsDataIn(
        _ payload: Bytes, machines: StateMachineRegistry = StateMachineRegistry()
    ) -> Bool {
        let machine = payload.withUnsafeBytes { CommandHeader(of: $0)?.machine }
        if machine == .sessions { return false }
        if machine == .guards {
            return CommandGuard.command(in: payload).map { bringsDataIn($0, machines: machines) } ?? true
        }
        if let machine, machine.isRegistered {
            guard let request = try? MachineRequest(payload: payload) else { return true }
            return machines.command(request.number, of: machine)?.bringsDataIn ?? true
        }
        if let isPut = payload.withUnsafeBytes({ KeyValueCommandView(payload: $0)?.isPut }) { return isPut }
        return (try? KeyValueTransaction(payload: payload))?.bringsDataIn ?? true
    }
}
