// What commands about slots do to a group: whose turn it is says `SlotOwnership`; here is what becomes of records, deadlines
// and sessions.

import Messages
package import Primitives
import Ring

extension MasterStateMachine {
    /// Looked at before a client's command is applied, if any slot is not open: why it comes to nothing.
    func refusalByOwnership(of payload: Bytes, _ header: CommandHeader) -> Refusal? {
        Self.slot(of: payload, header).flatMap { ownership.refusal(of: $0) }
    }

    /// Of a client's command on data; nil: it is none, or none that this version knows.
    static func slot(of payload: Bytes, _ header: CommandHeader) -> Slot? {
        if header.machine == .keyValue {
            if let key = payload.withUnsafeBytes({ KeyValueCommandView(payload: $0)?.key }) {
                return Ring.slot(of: payload[key])
            }
            return (try? KeyValueTransaction(payload: payload))?.keys.first.map { Ring.slot(of: $0) }
        }
        if header.machine == .guards { return (try? GuardedCommand(payload: payload))?.slot }
        if header.machine == .sessions {
            guard SessionCommand.takesOver(payload),
                case .takeOver(let slot, _)? = try? SessionCommand(payload: payload)
            else { return nil }
            return slot
        }
        guard header.machine.isRegistered else { return nil }
        return (try? MachineRequest(payload: payload)).map { Ring.slot(of: $0.key) }
    }

    /// The same, header included.
    package static func slot(of payload: Bytes) -> Slot? {
        payload.withUnsafeBytes { CommandHeader(of: $0) }.flatMap { slot(of: payload, $0) }
    }

    mutating func decideSlots(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        let command: SlotCommand
        do throws(DecodingFailure) { command = try SlotCommand(payload: entry.payload) } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        let id = command.migration
        let time = max(logTime, entry.logTime)
        switch command {
        case .beginExport(_, let slots, let target):
            guard ownership.beginExport(id, slots, to: target, at: entry.index) else { return .comesOutOfTurn }
            return .done(untold(ownership.writes(of: id, slots)), body: Bytes())
        case .beginImport(_, let slots, let source, let sourceTime):
            guard
                ownership.beginImport(
                    id, slots, from: source, sourceTime: sourceTime, at: entry.index, time)
            else { return .comesOutOfTurn }
            return .done(untold(ownership.writes(of: id, slots)), body: Bytes())
        case .page(_, let page): return decide(page, of: id, entry, store)
        case .freeze:
            guard let task = ownership.freeze(id, at: entry.index, revision) else { return .comesOutOfTurn }
            return .done(untold(ownership.writes(of: id, task.slots)), body: Bytes())
        case .seal(_, let frozen, let sourceRevision, let seen):
            guard ownership.canSeal(id, frozen: frozen, seen: seen) else { return .comesOutOfTurn }
            ownership.seal(id, sourceRevision, frozen: frozen)
            // What this group does to the slots has higher revisions than whatever was done to them before.
            if !isPlanted("revision-not-raised") { revision = max(revision, sourceRevision) }
            return .done(untold([ownership.write(of: id)]), body: Bytes())
        case .release(_, let epoch):
            guard let task = ownership.release(id, since: epoch, at: revision) else { return .comesOutOfTurn }
            // From now on they are held by the sessions of the same numbers in the other group.
            for hash in sessions.letGo(of: task, at: entry.index, revision) { take(hash, of: .sessions) }
            return .done(untold(ownership.writes(of: id, task.slots)), body: Bytes())
        case .activate(_, let epoch, let sourceRevision):
            let raised = isPlanted("revision-not-raised") ? revision : max(revision, sourceRevision)
            guard let task = ownership.activate(id, raised, since: epoch) else { return .comesOutOfTurn }
            revision = raised
            sessions.begin(task, at: entry.index, revision, time)
            // What was put off is due now, and a leader may have passed it over.
            earliestDeadline = .zero
            return .done(untold(ownership.writes(of: id, task.slots)), body: Bytes())
        case .forget(_, let slots):
            ownership.forget(id, slots)
            earliestDeadline = .zero
            return .done(untold(ownership.writes(of: id, slots)), body: Bytes())
        case .settle(_, let slots, let other, let epoch, let owns):
            return settle(id, slots, with: other, since: epoch, owns: owns, entry)
        case .clear(_, let places): return decideClearing(places, of: id, entry, store)
        case .cleared:
            guard let task = ownership.finish(id) else { return .comesOutOfTurn }
            if task.phase == .dropping {
                for hash in sessions.letGo(of: task, at: entry.index, revision) { take(hash, of: .sessions) }
            }
            return .done(untold(ownership.writes(of: id, task.slots)), body: Bytes())
        }
    }

    private mutating func settle(
        _ id: MigrationID, _ slots: [Slot], with other: GroupID, since epoch: Epoch, owns: Bool, _ entry: LogEntry
    ) -> Decision {
        guard
            let (task, changed) = ownership.settle(
                id, slots, with: other, since: epoch, owns: owns, at: revision)
        else { return .comesOutOfTurn }
        if owns {
            sessions.begin(task, at: entry.index, revision, max(logTime, entry.logTime))
        } else {
            for hash in sessions.letGo(of: task, at: entry.index, revision) { take(hash, of: .sessions) }
        }
        earliestDeadline = .zero
        return .done(untold(changed.map { ownership.write(of: $0) } + ownership.writes(of: id, slots)), body: Bytes())
    }

    /// They are no changes of the group's: nobody is told, and its revision stays.
    private func untold(_ writes: [RecordWrite]) -> [RecordWrite] {
        writes.map {
            var write = $0
            write.revision = revision
            return write
        }
    }

    private mutating func decide(
        _ page: MigrationPage, of id: MigrationID, _ entry: LogEntry, _ store: any RecordStore
    ) -> Decision {
        guard let task = ownership.task(id), task.phase == .importing, task.progress.isContinued(by: page) else {
            return .comesOutOfTurn
        }
        if let problem = task.problem(of: page) { return .unsupported("entry \(entry.index): \(problem)") }
        var writes: [RecordWrite] = []
        var deadlines: UInt16 = 0
        func set(_ time: LogTime, _ purpose: Deadline.Purpose) {
            writes.append(Deadline(DeadlineKey(time: time, index: entry.index, number: deadlines), purpose).write)
            deadlines += 1
        }
        for record in page.records {
            let place = record.place
            let expiry = record.value == nil ? .zero : task.time(record.expiry)
            writes.append(
                RecordWrite(
                    slot: place.slot, machine: place.machine, key: place.key, expiry: expiry, value: record.value,
                    revision: record.revision))
            if expiry > .zero { set(expiry, .record(place)) }
        }
        var missing: [RecordPosition] = []
        for due in page.dues {
            let timer = MovedTimer(of: due.key, in: task.group)
            guard let value = due.value else {
                switch store.find(timer.place) {
                case .elsewhere: missing.append(timer.place)
                // It is of another slot, or was never here.
                case .absent: break
                case .found(let record):
                    guard let key = try? timer.key(record.value) else { break }
                    switch store.find(key.place) {
                    case .elsewhere: missing.append(key.place)
                    case .absent: writes.append(timer.removal)
                    // Of another slot: it came with that before, and the source has only deleted what it had left.
                    case .found(let own)
                    where !task.has((try? Deadline(key: key.key, value: own.value))?.slot ?? .group):
                        break
                    case .found: writes += timer.removals(record.value)
                    }
                }
                continue
            }
            let deadline: Deadline
            do throws(DecodingFailure) { deadline = try Deadline(key: due.key.key, value: value) } catch {
                return .unsupported("entry \(entry.index): \(error)")
            }
            switch deadline.purpose {
            // Theirs are made from them.
            case .record: break
            // Nobody calls it off, and twice does no harm.
            case .sweep: set(task.time(due.key.time), deadline.purpose)
            case .command: writes += timer.writes(deadline, at: task.time(due.key.time))
            }
        }
        guard missing.isEmpty else { return .unready(missing) }
        if !isPlanted("revision-not-raised") { revision = max(revision, page.revision) }
        let time = max(logTime, entry.logTime)
        for holder in page.holders {
            for hash in sessions.adopt(holder, at: entry.index, revision, time) { take(hash, of: .sessions) }
        }
        ownership.advance(id, page)
        for place in writes.indices where writes[place].revision == nil { writes[place].revision = revision }
        return .done(writes + untold([ownership.write(of: id)]), body: Bytes())
    }

    private mutating func decideClearing(
        _ places: [RecordPosition], of id: MigrationID, _ entry: LogEntry, _ store: any RecordStore
    ) -> Decision {
        var known = ownership.task(id)
        if known == nil, isPlanted("cleared-though-back") {
            known = MigrationTask(id, Set(places.map(\.slot)).sorted(), .meta, .released)
        }
        guard let task = known, task.isClearing else { return .comesOutOfTurn }
        var writes: [RecordWrite] = []
        var missing: [RecordPosition] = []
        for place in places {
            guard place.slot == .group else {
                guard task.has(place.slot) else {
                    return .unsupported(
                        "entry \(entry.index) deletes a record of slot \(place.slot), which did not move")
                }
                writes.append(
                    RecordWrite(slot: place.slot, machine: place.machine, key: place.key, expiry: .zero, value: nil))
                continue
            }
            guard place.machine == .deadlines else {
                return .unsupported("entry \(entry.index) deletes a record of machine \(place.machine), which stays")
            }
            switch store.find(place) {
            case .elsewhere: missing.append(place)
            case .absent: break
            case .found(let record):
                guard let deadline = try? Deadline(key: place.key, value: record.value), let slot = deadline.slot,
                    task.has(slot)
                else { continue }
                writes += deadline.removals
            }
        }
        guard missing.isEmpty else { return .unready(missing) }
        return .done(untold(writes), body: Bytes())
    }
}

extension MasterStateMachine.Decision {
    /// A step of a migration that is done, or is not the next one.
    fileprivate static var comesOutOfTurn: Self { .done([], body: Bytes()) }
}

extension MigrationTask {
    /// Why a page can't be one of this migration's; nil: it can.
    public func problem(of page: MigrationPage) -> String? {
        let most = max(page.records.count, page.dues.count, page.holders.count)
        guard most <= MigrationPage.countMax else {
            return "\(most) records, deadlines or sessions, of which there are \(MigrationPage.countMax) at most"
        }
        for record in page.records {
            let place = record.place
            guard has(place.slot), place.machine.hasRecordsInSlots, record.revision <= page.revision else {
                return "a record of machine \(place.machine) in slot \(place.slot), which does not move"
            }
        }
        for due in page.dues {
            guard let value = due.value else { continue }
            do throws(DecodingFailure) {
                guard let slot = try Deadline(key: due.key.key, value: value).slot, has(slot) else {
                    return "a deadline of a slot that does not move"
                }
            } catch {
                return "\(error)"
            }
        }
        for holder in page.holders {
            guard holder.holdings.allSatisfy({ has($0.slot) }) else { return "a session that holds what does not move" }
        }
        return nil
    }
}

extension SubMachineNumber {
    /// Its records lie in the slots of clients' keys, and go where those go.
    package var hasRecordsInSlots: Bool { self == .keyValue || self == .guards || isRegistered }
}

/// Where a command went that was scheduled in another group, and came here with its slot: for who calls it off by the number
/// that it had there.
///
/// In `Slot.group`, machine 5, under `3 u8 | group u32 | index u64 | number u16`, big-endian: when it is due here, `time u64`.
struct MovedTimer: Hashable, Sendable {
    static let kind: UInt8 = 3
    /// Where it was set.
    var group: GroupID
    var index: LogIndex
    var number: UInt16

    init(of scheduled: ScheduledCommand) {
        (group, index, number) = (scheduled.group, scheduled.deadline.index, scheduled.deadline.number)
    }

    /// - Parameter group: whose records the key is among.
    init(of key: DeadlineKey, in group: GroupID) {
        self.group = key.origin == .meta ? group : key.origin
        (index, number) = (key.index, key.number)
    }

    var place: RecordPosition {
        var key = ByteWriter(capacity: 15)
        key.write(Self.kind)
        key.write(group.rawValue.bigEndian)
        key.write(index.rawValue.bigEndian)
        key.write(number.bigEndian)
        return RecordPosition(slot: .group, machine: .slotOwnership, key: key.take())
    }

    /// Of its deadline here.
    ///
    /// - Parameter value: of this record.
    func key(_ value: Bytes) throws(DecodingFailure) -> DeadlineKey {
        var reader = ByteReader(value)
        return DeadlineKey(time: try reader.read(), index: index, number: number, origin: group)
    }

    func writes(_ deadline: Deadline, at time: LogTime) -> [RecordWrite] {
        let key = DeadlineKey(time: time, index: index, number: number, origin: group)
        let moved = Deadline(key, deadline.purpose, originTime: deadline.originTime ?? deadline.key.time)
        var value = ByteWriter(capacity: 8)
        value.write(time)
        return [
            moved.write,
            RecordWrite(slot: .group, machine: .slotOwnership, key: place.key, expiry: .zero, value: value.take()),
        ]
    }

    /// Of both.
    func removals(_ value: Bytes) -> [RecordWrite] { (try? key(value)).map { [$0.removal, removal] } ?? [removal] }

    var removal: RecordWrite {
        RecordWrite(slot: .group, machine: .slotOwnership, key: place.key, expiry: .zero, value: nil)
    }
}

extension SessionTable {
    /// A session of another group holds something in slots that came from there. It has the same number here.
    ///
    /// - Returns: what a digest has to know of it.
    mutating func adopt(
        _ holder: MigrationPage.Holder, at index: LogIndex, _ revision: Revision, _ logTime: LogTime
    ) -> [UInt64] {
        let place = insert(
            holder.session, timeToLive: holder.timeToLive, at: index, revision, logTime, isAdopted: true)
        return holder.holdings.map { holding in
            noteHold(holding, isHeld: true, at: place, index: index, revision)
            return HoldChange(session: holder.session, holding: holding, isHeld: true).hash
        }
    }

    /// Nobody holds anything of these slots here any more.
    mutating func letGo(of task: MigrationTask, at index: LogIndex, _ revision: Revision) -> [UInt64] {
        var hash: UInt64 = 0
        for place in sessions.indices {
            for holding in sessions[place].holdings where task.has(holding.slot) {
                // A sum: sessions stand in no order.
                hash &+= HoldChange(session: sessions[place].id, holding: holding, isHeld: false).hash
                noteHold(holding, isHeld: false, at: place, index: index, revision)
            }
        }
        return [hash]
    }

    /// The slots are served from now on: who holds something there has all of its time from now. So has who stands for him.
    mutating func begin(_ task: MigrationTask, at index: LogIndex, _ revision: Revision, _ logTime: LogTime) {
        guard !isPlanted("arrived-without-time") else { return }
        for place in sessions.indices where sessions[place].holdings.contains(where: { task.has($0.slot) }) {
            touch(place, at: index, revision, logTime)
            if let owner = self.place(of: sessions[place].owner) { touch(owner, at: index, revision, logTime) }
        }
    }

    /// What sessions hold in slots that a migration is about to take away: in order, some behind a place.
    ///
    /// - Parameters:
    ///   - place: as an answer before had it; nil: from the beginning.
    ///   - bytesMax: of all of it, but for one object. Sessions are as many as a page has at most.
    /// - Returns: and the place where it goes on; nil: that is all.
    package func holders(
        in task: MigrationTask, behind place: Bytes?, bytesMax: Int
    ) -> (holders: [MigrationPage.Holder], next: Bytes?) {
        var holders: [MigrationPage.Holder] = []
        var bytes = 0
        var last: Bytes?
        for session in sessions.filter({ $0.holdings.contains { task.has($0.slot) } }).sorted(by: { $0.id < $1.id }) {
            for holding in session.holdings where task.has(holding.slot) {
                // Big-endian, as ids and what is held stand in order.
                var key = ByteWriter(capacity: 16 + holding.name.count)
                key.write(session.id.rawValue.bigEndian)
                key.write(holding.machine.rawValue.bigEndian)
                key.write(holding.slot.rawValue.bigEndian)
                key.write(holding.name)
                let own = key.take()
                if let place, own <= place { continue }
                let isFull = holders.count == MigrationPage.countMax && holders.last?.session != session.id
                if bytes >= bytesMax || isFull, let last { return (holders, last) }
                last = own
                bytes += 26 + holding.name.count
                if holders.last?.session == session.id {
                    holders[holders.count - 1].holdings.append(holding)
                } else {
                    holders.append(
                        MigrationPage.Holder(
                            session: session.id, timeToLive: session.timeToLive, holdings: [holding]))
                }
            }
        }
        return (holders, nil)
    }

    /// Somebody who holds something in these slots and does not know that slots move: a client of an earlier version, or one
    /// that has not heard yet that they do. It would go by the session here that it has, and what it holds would end
    /// elsewhere. The first of them; nil: there is none.
    package func unaware(of task: MigrationTask) -> (session: SessionID, holding: SessionHolding)? {
        var first: (session: SessionID, holding: SessionHolding)?
        for session in sessions where !session.followsSlots && !session.isAdopted {
            guard first.map({ session.id < $0.session }) ?? true,
                let holding = session.holdings.first(where: { task.has($0.slot) })
            else { continue }
            first = (session.id, holding)
        }
        return first
    }

    /// It holds something that is about to go or to come, or one does for which it stands: it can't end meanwhile, as nobody
    /// could give that back.
    func isHeldUp(_ id: SessionID, by ownership: SlotOwnership) -> Bool {
        guard ownership.hasGates, let place = place(of: id), !isPlanted("ended-on-the-move") else { return false }
        return sessions[place].holdings.contains { ownership.isGated($0.slot) }
            || sessions[place].owned.contains { holdings(of: $0).contains { ownership.isGated($0.slot) } }
    }
}
