// Data types as the rules know them: plain Swift values, to which each committed command is done once, in the order of its
// group's log. What it comes to there is what it has to come to on every replica, and what reads find at each index.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines

/// A lock, semaphore, election or lease.
struct PermitName: Hashable, Comparable {
    var machine: SubMachineNumber
    var name: Bytes

    static func < (left: Self, right: Self) -> Bool {
        (left.machine.rawValue, left.name) < (right.machine.rawValue, right.name)
    }
}

/// Where a fencing token guards something elsewhere.
struct GuardName: Hashable {
    var lock: PermitName
    var slot: Slot

    init(_ token: FencingToken, _ guarded: GuardedCommand) {
        lock = PermitName(machine: token.machine, name: token.name)
        slot = guarded.slot
    }
}

/// All objects of one group.
final class DataTypeModel {
    struct Entry: Equatable {
        var value: Bytes
        var revision: Revision
        /// What gave it a time to live, and when that is over.
        var timer: ObjectTimer?
        var due = LogTime.zero

        var found: ObjectEntry { ObjectEntry(value: value, revision: revision) }
    }

    /// What something was, entry by entry of the log.
    struct Past<State> {
        private(set) var states: [(index: LogIndex, state: State)] = []
        let empty: State

        init(_ empty: State) { self.empty = empty }

        var now: State { states.last?.state ?? empty }

        mutating func become(_ state: State, at index: LogIndex) { states.append((index, state)) }

        func state(at index: LogIndex) -> State {
            var (low, high) = (0, states.count)
            while low < high {
                let middle = (low + high) / 2
                if states[middle].index <= index { low = middle + 1 } else { high = middle }
            }
            return low == 0 ? empty : states[low - 1].state
        }
    }

    private let group: GroupID
    /// Where objects go that move to other groups, and come from.
    private let motion: ObjectsInMotion
    private var slots = SlotModel()
    private(set) var last = LogIndex.zero
    private var logTime = LogTime.zero
    /// Of the entry that is applied.
    private var revision = Revision.zero
    /// What watches are told of it all.
    private(set) var events = ObjectEvents()
    /// By index: a hash of what the command there came to.
    private var outcomes: [LogIndex: UInt64] = [:]
    private var values: [Bytes: Past<Entry?>] = [:]
    private var numbers: [Bytes: Past<NumberState?>] = [:]
    private var maps: [Bytes: Past<[Bytes: Entry]>] = [:]
    private var sets: [Bytes: Past<Set<Bytes>>] = [:]
    private var permits: [PermitName: Past<PermitModel>] = [:]
    private var memberships: [Bytes: Past<MembershipModel>] = [:]
    private var barriers: [Bytes: Past<BarrierModel>] = [:]
    private var latches: [Bytes: Past<LatchModel>] = [:]
    private var sessions = SessionModel()
    /// By index, from 1 on: what sessions made of the entry.
    private var effects: [SessionModel.Effect] = []
    /// Sessions of other groups that hold something in slots which are on their way here, as pages told.
    private var arriving: [MigrationID: [SessionID: Set<Slot>]] = [:]
    private lazy var held = HeldSlots(
        of: { [unowned self] id in heldSlots(of: id) }, isGated: { [unowned self] slot in slots.isGated(slot) })
    /// By lock and slot: the highest fencing token that was seen.
    private var highest: [GuardName: UInt64] = [:]
    /// Commands that a token held back, and that a session had something in which ended.
    private(set) var guarded = 0
    private(set) var heldToTheEnd = 0
    /// Sessions that came with slots in which they hold something.
    private(set) var heldOnTheMove = 0
    private(set) var arrays = ArrayModel()
    private var queues: [Bytes: Past<QueueModel>] = [:]
    /// Of the queue whose items sessions have.
    private var ledger = Past(QueueLedger())
    static let heldQueue: Bytes = "{q}held"
    /// Times to live that were over, and collections that were emptied.
    private(set) var expired = 0
    private var collectionsCleared = 0

    init(_ group: GroupID, _ motion: ObjectsInMotion) { (self.group, self.motion) = (group, motion) }

    var cleared: Int { collectionsCleared + arrays.cleared }

    func value(_ name: Bytes, at index: LogIndex) -> Entry? { values[name]?.state(at: index) ?? nil }
    func number(_ name: Bytes, at index: LogIndex) -> NumberState? { numbers[name]?.state(at: index) ?? nil }
    func map(_ name: Bytes, at index: LogIndex) -> [Bytes: Entry] { maps[name]?.state(at: index) ?? [:] }
    func set(_ name: Bytes, at index: LogIndex) -> Set<Bytes> { sets[name]?.state(at: index) ?? [] }
    func queue(_ name: Bytes, at index: LogIndex) -> QueueModel { queues[name]?.state(at: index) ?? QueueModel() }
    func queue(_ name: Bytes) -> QueueModel { queues[name]?.now ?? QueueModel() }
    func ledger(at index: LogIndex) -> QueueLedger { ledger.state(at: index) }
    var heldItems: [UInt64: UInt64] { ledger.now.open }
    var timedOut: Int { queues.values.reduce(0) { $0 + $1.now.timedOut } }

    /// What an entry does, as far as sessions decide that; nil: no replica has applied it yet.
    func effect(at index: LogIndex) -> SessionModel.Effect? {
        index > .zero && index <= last ? effects[Int(index.rawValue) - 1] : nil
    }

    func permits(_ name: PermitName, at index: LogIndex) -> PermitModel {
        permits[name]?.state(at: index) ?? PermitModel()
    }

    func membership(_ name: Bytes, at index: LogIndex) -> MembershipModel {
        memberships[name]?.state(at: index) ?? MembershipModel()
    }
    func membership(_ name: Bytes) -> MembershipModel { memberships[name]?.now ?? MembershipModel() }
    func barrier(_ name: Bytes, at index: LogIndex) -> BarrierModel {
        barriers[name]?.state(at: index) ?? BarrierModel()
    }
    func latch(_ name: Bytes, at index: LogIndex) -> LatchModel { latches[name]?.state(at: index) ?? LatchModel() }
    func latch(_ name: Bytes) -> LatchModel { latches[name]?.now ?? LatchModel() }
    /// Members put offline by the end of their sessions, those that left in time, and rounds of barriers that are over.
    var putOffline: Int { memberships.values.reduce(0) { $0 + $1.now.ended } }
    var forgotten: Int { memberships.values.reduce(0) { $0 + $1.now.forgotten } }
    var opened: Int { barriers.values.reduce(0) { $0 + $1.now.opened } }

    /// Somebody waits, or has something, for a time.
    func hasTimer(_ name: PermitName) -> Bool { permits[name]?.now.hasTimer ?? false }

    /// Something has a time to live that is not over.
    func hasTimer(_ name: Bytes) -> Bool {
        if let value = values[name]?.now, value.timer != nil { return true }
        if let queue = queues[name]?.now, !queue.timers.isEmpty { return true }
        if memberships[name]?.now.hasTimer == true { return true }
        return maps[name]?.now.values.contains { $0.timer != nil } ?? false
    }

    // MARK: Entries

    /// An entry was applied by some replica. Returns what is wrong with what it came to.
    func apply(_ entry: LogEntry, _ outcome: Applied) -> String? { apply(entry, outcome, isNew: entry.index > last) }

    /// - Parameter isNew: sessions have not seen it yet.
    private func apply(_ entry: LogEntry, _ outcome: Applied, isNew: Bool) -> String? {
        if isNew {
            precondition(entry.index == last.next, "somebody applies each entry first")
            logTime = max(logTime, entry.logTime)
            let mark = EntryMark(entry, after: nil, configuration: nil)
            let isGated = mark.slot.map { slots.isGated($0) } ?? false
            effects.append(sessions.commit(mark, at: entry.index, isGated: isGated, held))
        }
        if case .refused(.guardFailed) = outcome { return judgeRefusal(of: entry) }
        guard case .done(let revision, let body) = outcome,
            let machine = entry.payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine })
        else {
            last = max(last, entry.index)
            return nil
        }
        if machine == .guards { return apply(guarded: entry, outcome) }
        let isKnown = machine >= .firstOfDataTypes && machine < .firstOfUsers
        guard entry.index > last else {
            guard isKnown, outcomes[entry.index] != hash(body) else { return nil }
            return "entry \(entry.index) came to something else on another replica, or before"
        }
        last = entry.index
        self.revision = revision
        // Without a word of its machine nothing was done: it had been called off when its entry was on its way.
        if machine == .slotOwnership { return move(entry) }
        if machine == .deadlines { return body.isEmpty ? nil : expire(entry, revision) }
        if machine == .sessions { return endSessions(entry, revision) }
        guard isKnown else { return nil }
        outcomes[entry.index] = hash(body)
        do {
            let request = try MachineRequest(payload: entry.payload)
            let found = try MachineOutcome(decoding: body)
            if machine == QueueMachine.number, request.key == Self.heldQueue {
                guard case .answer(let answer) = found else { return nil }
                var now = ledger.now
                let problem = try now.apply(request, answer)
                ledger.become(now, at: entry.index)
                if let problem { return "entry \(entry.index) of \(request.key): \(problem)" }
            }
            let caller = entry.payload.withUnsafeBytes { CommandHeader(of: $0)?.session ?? .none }
            let session = holder(of: request.key, machine, for: caller)
            let moment = PermitModel.Moment(index: entry.index, revision: revision, logTime: logTime)
            let expected =
                try apply(permits: request, of: machine, session, moment)
                ?? apply(request, of: machine, session, at: entry.index, revision)
            switch (expected, found) {
            case (.success(let answer), .answer(let body)) where answer == body: return nil
            case (.failure(let failure), .failure(let found)) where failure.code == found.code: return nil
            default:
                return
                    "entry \(entry.index), command \(request.number) of machine \(machine) about \(request.key), came to "
                    + "\(found) and should have come to \(expected)"
            }
        } catch {
            return "entry \(entry.index) can't be read: \(error)"
        }
    }

    private func become(_ queue: QueueModel, _ name: Bytes, at index: LogIndex) {
        // It grows, and nobody asks for what it was.
        if name == Self.heldQueue { queues[name] = nil }
        queues[name, default: Past(QueueModel())].become(queue, at: index)
    }

    /// What a client was answered for an entry. Returns what is wrong with it.
    func judge(answer body: Bytes, at index: LogIndex) -> String? {
        guard let known = outcomes[index] else { return "an answer for entry \(index), which is no such command" }
        return known == hash(body) ? nil : "another answer than what entry \(index) came to"
    }

    private func hash(_ body: Bytes) -> UInt64 { body.withUnsafeBytes { hash64($0, seed: 7) } }

    private func expire(_ entry: LogEntry, _ revision: Revision) -> String? {
        guard case .fire(let deadline)? = try? DeadlineCommand(payload: entry.payload) else { return nil }
        for name in values.keys.sorted() {
            guard let value = values[name]?.now, value.timer == ObjectTimer(deadline), value.due <= logTime else {
                continue
            }
            expired += 1
            values[name]?.become(nil, at: entry.index)
            tell(.expired, ValueMachine.number, name)
        }
        for name in maps.keys.sorted() {
            guard var map = maps[name]?.now else { continue }
            let over = map.keys.sorted().filter {
                map[$0]?.timer == ObjectTimer(deadline) && map[$0]?.due ?? .zero <= logTime
            }
            guard !over.isEmpty else { continue }
            expired += over.count
            for key in over {
                map[key] = nil
                tell(.expired, MapMachine.number, name, key)
            }
            maps[name]?.become(map, at: entry.index)
        }
        for name in queues.keys.sorted() {
            guard var queue = queues[name]?.now,
                queue.fire(deadline, QueueModel.Moment(index: entry.index, logTime: logTime))
            else { continue }
            tell(queue.takeEvents(), QueueMachine.number, name)
            become(queue, name, at: entry.index)
        }
        let moment = PermitModel.Moment(index: entry.index, revision: revision, logTime: logTime)
        change(allMemberships: moment) { $0.fire(deadline, moment) }
        return change(allPermits: moment) { $0.fire(deadline, moment) }
    }

    // MARK: Moves

    /// A step of a migration: objects go with their slots, as they were when these were frozen, and with who has something of
    /// them.
    private func move(_ entry: LogEntry) -> String? {
        guard let command = try? SlotCommand(payload: entry.payload) else {
            return "entry \(entry.index) can't be read"
        }
        guard let step = MigrationStep(command) else { return nil }
        let id = command.migration
        if case .page(_, let page) = command, slots.take(page, of: id) {
            for holder in page.holders {
                sessions.adopt(holder.session, timeToLive: holder.timeToLive, at: entry.index)
                arriving[id, default: [:]][holder.session, default: []].formUnion(holder.holdings.map(\.slot))
            }
        }
        switch slots.commit(step, at: logTime) {
        case .nothing:
            // It was called off, and what came is deleted.
            if case .cleared = step, !slots.hasPart(in: id) { arriving[id] = nil }
            return nil
        case .begun:
            guard case .beginImport(_, _, let source, let sourceTime) = command else { return nil }
            motion.routes[id] = ObjectsInMotion.Route(
                source: source, clock: MigrationClock(sourceTime: sourceTime, beginningAt: logTime))
            return nil
        case .released(let slots):
            motion.objects[id] = takeObjects(of: Set(slots), at: entry.index)
            return nil
        case .activated(let slots):
            guard let route = motion.routes[id], let objects = motion.objects.removeValue(forKey: id) else {
                return "entry \(entry.index) activates slots that no group has released"
            }
            sessions.begin(slots, at: entry.index, held)
            let told = arriving.removeValue(forKey: id) ?? [:]
            heldOnTheMove += told.count
            insert(objects, by: route, at: entry.index)
            return told == objects.holders
                ? nil
                : "entry \(entry.index) activates slots in which pages told that \(told) hold something, and not "
                    + "\(objects.holders)"
        }
    }

    /// They are here no longer.
    private func takeObjects(of slots: Set<Slot>, at index: LogIndex) -> MovedObjects {
        func isMoved(_ name: Bytes) -> Bool { slots.contains(Ring.slot(of: name)) }
        var moved = MovedObjects()
        forEachHeld { _, name, holders in
            // What one that is over left to be given back piece by piece is nobody's any more.
            for id in holders where isMoved(name) && sessions.has(id) {
                moved.holders[id, default: []].insert(Ring.slot(of: name))
            }
        }
        for (name, past) in values where isMoved(name) {
            moved.values[name] = past.now
            values[name]?.become(nil, at: index)
        }
        for (name, past) in numbers where isMoved(name) {
            moved.numbers[name] = past.now
            numbers[name]?.become(nil, at: index)
        }
        for (name, past) in maps where isMoved(name) {
            moved.maps[name] = past.now
            maps[name]?.become([:], at: index)
        }
        for (name, past) in sets where isMoved(name) {
            moved.sets[name] = past.now
            sets[name]?.become([], at: index)
        }
        for (name, past) in latches where isMoved(name) {
            moved.latches[name] = past.now
            latches[name]?.become(LatchModel(), at: index)
        }
        for (name, past) in queues where isMoved(name) {
            moved.queues[name] = past.now
            become(QueueModel(), name, at: index)
        }
        moved.arrays = arrays.takeArrays(at: index, where: isMoved)
        for (name, past) in permits where isMoved(name.name) {
            moved.permits[name] = past.now
            permits[name]?.become(PermitModel(), at: index)
        }
        for (name, past) in memberships where isMoved(name) {
            moved.memberships[name] = past.now
            memberships[name]?.become(MembershipModel(), at: index)
        }
        for (name, past) in barriers where isMoved(name) {
            moved.barriers[name] = past.now
            barriers[name]?.become(BarrierModel(), at: index)
        }
        for (name, token) in highest where slots.contains(name.slot) {
            moved.highest[name] = token
            highest[name] = nil
        }
        if isMoved(Self.heldQueue) {
            moved.ledger = ledger.now
            ledger.become(QueueLedger(), at: index)
        }
        return moved
    }

    private func insert(_ moved: MovedObjects, by route: ObjectsInMotion.Route, at index: LogIndex) {
        func arrived(_ entry: Entry) -> Entry {
            var entry = entry
            entry.timer = entry.timer?.arrived(from: route.source)
            entry.due = route.clock.time(entry.due)
            return entry
        }
        for (name, value) in moved.values { values[name, default: Past(nil)].become(arrived(value), at: index) }
        for (name, number) in moved.numbers { numbers[name, default: Past(nil)].become(number, at: index) }
        for (name, map) in moved.maps { maps[name, default: Past([:])].become(map.mapValues(arrived), at: index) }
        for (name, set) in moved.sets { sets[name, default: Past([])].become(set, at: index) }
        for (name, latch) in moved.latches { latches[name, default: Past(LatchModel())].become(latch, at: index) }
        for (name, queue) in moved.queues {
            var queue = queue
            queue.arrive(from: route.source, route.clock)
            become(queue, name, at: index)
        }
        arrays.insert(moved.arrays, at: index)
        for (name, permit) in moved.permits {
            var permit = permit
            permit.arrive(from: route.source, route.clock)
            permits[name, default: Past(PermitModel())].become(permit, at: index)
        }
        for (name, membership) in moved.memberships {
            var membership = membership
            membership.arrive(from: route.source, route.clock)
            memberships[name, default: Past(MembershipModel())].become(membership, at: index)
        }
        for (name, barrier) in moved.barriers {
            barriers[name, default: Past(BarrierModel())].become(barrier, at: index)
        }
        for (name, token) in moved.highest { highest[name] = token }
        if let moved = moved.ledger { ledger.become(moved, at: index) }
    }

    // MARK: What sessions hold

    /// Objects of which sessions have something, and who that is.
    private func forEachHeld(_ body: (SubMachineNumber, Bytes, Set<SessionID>) -> Void) {
        for (name, past) in permits { body(name.machine, name.name, past.now.sessions) }
        for (name, past) in memberships { body(MembershipMachine.number, name, past.now.sessions) }
        for (name, past) in barriers { body(BarrierMachine.number, name, past.now.sessions) }
        for (name, past) in queues { body(QueueMachine.number, name, past.now.sessions) }
    }

    /// In which slots a session has something, of those on their way as well.
    private func heldSlots(of id: SessionID) -> Set<Slot> {
        var held: Set<Slot> = []
        forEachHeld { _, name, holders in
            if holders.contains(id) { held.insert(Ring.slot(of: name)) }
        }
        for holders in arriving.values { held.formUnion(holders[id] ?? []) }
        return held
    }

    /// By which session a caller has the object: its own, or the first of those for which that one stands that has some.
    private func holder(of name: Bytes, _ machine: SubMachineNumber, for id: SessionID) -> SessionID {
        let owned = sessions.owned(by: id)
        guard !owned.isEmpty else { return id }
        var holders: Set<SessionID> = []
        forEachHeld { if $0 == machine, $1 == name { holders = $2 } }
        return holders.contains(id) ? id : owned.first { holders.contains($0) } ?? id
    }

    // MARK: Permits

    /// The sessions that ended have nothing any more, in the order in which the entry names them.
    private func endSessions(_ entry: LogEntry, _ revision: Revision) -> String? {
        let moment = PermitModel.Moment(index: entry.index, revision: revision, logTime: logTime)
        for id in sessions.ended {
            for slot in heldSlots(of: id).sorted() where motion.isTakenForHeld(id, slot) {
                return "entry \(entry.index) ends session \(id), and its client takes what it has in \(slot) for held"
            }
            change(allMemberships: moment) { $0.end(id, moment) }
            for name in barriers.keys.sorted() {
                guard var now = barriers[name]?.now, now.end(id) else { continue }
                tell(now.takeEvents(), BarrierMachine.number, name)
                barriers[name]?.become(now, at: entry.index)
            }
            for name in queues.keys.sorted() {
                guard var now = queues[name]?.now,
                    now.end(id, QueueModel.Moment(index: entry.index, logTime: logTime))
                else { continue }
                tell(now.takeEvents(), QueueMachine.number, name)
                become(now, name, at: entry.index)
            }
            if let problem = change(
                allPermits: moment,
                { permits in
                    let hadSome = permits.end(id, moment)
                    if hadSome { heldToTheEnd += 1 }
                    return hadSome
                })
            {
                return problem
            }
        }
        return nil
    }

    private func change(allMemberships moment: PermitModel.Moment, _ body: (inout MembershipModel) -> Bool) {
        for name in memberships.keys.sorted() {
            guard var now = memberships[name]?.now, body(&now) else { continue }
            tell(now.takeEvents(), MembershipMachine.number, name)
            memberships[name]?.become(now, at: moment.index)
        }
    }

    private func change(
        allPermits moment: PermitModel.Moment, _ body: (inout PermitModel) -> Bool
    ) -> String? {
        for name in permits.keys.sorted() {
            guard var now = permits[name]?.now, body(&now) else { continue }
            tell(now.takeEvents(), name.machine, name.name)
            permits[name]?.become(now, at: moment.index)
            if let problem = now.problem { return "\(name.name) at \(moment.index): \(problem)" }
        }
        return nil
    }

    /// nil: it is no such command.
    private func apply(
        permits request: MachineRequest, of machine: SubMachineNumber, _ session: SessionID,
        _ moment: PermitModel.Moment
    ) throws -> Expected? {
        switch machine {
        case LockMachine.number: try apply(request, of: LockMachine.self, session, moment)
        case SemaphoreMachine.number: try apply(request, of: SemaphoreMachine.self, session, moment)
        case ElectionMachine.number: try apply(request, of: ElectionMachine.self, session, moment)
        case LeaseMachine.number: try apply(request, of: LeaseMachine.self, session, moment)
        case MembershipMachine.number: try apply(membership: request, session, moment)
        case BarrierMachine.number: try apply(barrier: request, session, moment)
        case LatchMachine.number: try apply(latch: request, moment)
        default: nil
        }
    }

    private func apply<Machine: PermitMachine>(
        _ request: MachineRequest, of _: Machine.Type, _ session: SessionID, _ moment: PermitModel.Moment
    ) throws -> Expected {
        let place = PermitName(machine: Machine.number, name: request.key)
        var permits = permits[place]?.now ?? PermitModel()
        let answer: Expected
        switch request.number {
        case PermitAcquire<Machine>.number:
            let wish = try PermitAcquire<Machine>(decoding: request.body).wish
            answer = permits.acquire(wish, of: session, moment).map { $0.encoded() }
        case PermitRelease<Machine>.number:
            let token = try PermitRelease<Machine>(decoding: request.body).token
            answer = .success(permits.release(token: token, moment).encoded())
        case PermitCancel<Machine>.number:
            let wish = try PermitCancel<Machine>(decoding: request.body).wish
            answer = .success(permits.cancel(wish: wish, of: session, moment).encoded())
        case PermitRenew<Machine>.number:
            let command = try PermitRenew<Machine>(decoding: request.body)
            answer = .success(permits.renew(token: command.token, command.timeToLiveMillis, moment).encoded())
        case PermitAnnounce<Machine>.number:
            let command = try PermitAnnounce<Machine>(decoding: request.body)
            answer = .success(permits.announce(token: command.token, command.value).encoded())
        case PermitLimit<Machine>.number:
            let limit = try PermitLimit<Machine>(decoding: request.body).limit
            answer = .success(ObjectCount(UInt64(permits.setLimit(limit, moment))).encoded())
        default:
            return .failure(MachineFailure(0, "command \(request.number) is not modelled"))
        }
        if case .success = answer {
            tell(permits.takeEvents(), Machine.number, request.key)
            self.permits[place, default: Past(PermitModel())].become(permits, at: moment.index)
        }
        return answer
    }

    // MARK: Memberships, barriers and latches

    private func apply(
        membership request: MachineRequest, _ session: SessionID, _ moment: PermitModel.Moment
    ) throws -> Expected {
        var now = membership(request.key)
        let answer: Expected
        switch request.number {
        case MembershipCreate.number: answer = .success(now.create(moment).encoded())
        case MembershipDelete.number:
            answer = now.delete(try MembershipDelete(decoding: request.body), moment).map { $0.encoded() }
        case MembershipJoin.number:
            let wish = try MembershipJoin(decoding: request.body)
            answer = now.join(wish, of: session, moment).map { $0.encoded() }
        case MembershipLeave.number:
            let command = try MembershipLeave(decoding: request.body)
            answer = .success(now.leave(command, of: session, moment).encoded())
        case MembershipUpdate.number:
            let command = try MembershipUpdate(decoding: request.body)
            answer = .success(now.update(command, of: session, moment).encoded())
        default: return .failure(MachineFailure(0, "command \(request.number) is not modelled"))
        }
        if case .success = answer {
            tell(now.takeEvents(), MembershipMachine.number, request.key)
            memberships[request.key, default: Past(MembershipModel())].become(now, at: moment.index)
        }
        return answer
    }

    private func apply(
        barrier request: MachineRequest, _ session: SessionID, _ moment: PermitModel.Moment
    ) throws -> Expected {
        var now = barrier(request.key, at: moment.index)
        let answer: Expected
        switch request.number {
        case BarrierArrive.number:
            answer = now.arrive(try BarrierArrive(decoding: request.body), of: session, moment).map { $0.encoded() }
        case BarrierWithdraw.number:
            let wish = try BarrierWithdraw(decoding: request.body).wish
            answer = .success(now.withdraw(wish: wish, of: session).encoded())
        case BarrierCheck.number:
            let wish = try BarrierCheck(decoding: request.body).wish
            answer = .success(now.check(wish: wish, of: session).encoded())
        default: return .failure(MachineFailure(0, "command \(request.number) is not modelled"))
        }
        if case .success = answer {
            tell(now.takeEvents(), BarrierMachine.number, request.key)
            barriers[request.key, default: Past(BarrierModel())].become(now, at: moment.index)
        }
        return answer
    }

    private func apply(latch request: MachineRequest, _ moment: PermitModel.Moment) throws -> Expected {
        var now = latch(request.key)
        let answer: Expected
        switch request.number {
        case LatchSet.number: answer = .success(now.set(try LatchSet(decoding: request.body), moment).encoded())
        case LatchCountDown.number:
            answer = now.countDown(try LatchCountDown(decoding: request.body)).map { $0.encoded() }
        case LatchDelete.number: answer = .success(now.delete().encoded())
        default: return .failure(MachineFailure(0, "command \(request.number) is not modelled"))
        }
        if case .success = answer {
            tell(now.takeEvents(), LatchMachine.number, request.key)
            latches[request.key, default: Past(LatchModel())].become(now, at: moment.index)
        }
        return answer
    }

    // MARK: Guards

    /// Whether the token stands, before the command is done.
    private func stands(_ guarded: GuardedCommand, before index: LogIndex) -> Bool {
        let token = guarded.token
        guard !guarded.isBesideLock else {
            if token.machine == MembershipMachine.number {
                return membership(token.name, at: LogIndex(index.rawValue - 1)).stands(token.number)
            }
            let name = PermitName(machine: token.machine, name: token.name)
            return permits(name, at: LogIndex(index.rawValue - 1)).holders.contains { $0.token == token.number }
        }
        return token.number >= highest[GuardName(token, guarded)] ?? 0
    }

    private func judgeRefusal(of entry: LogEntry) -> String? {
        guard entry.index > last else { return nil }
        last = entry.index
        guarded += 1
        guard let command = try? GuardedCommand(payload: entry.payload) else {
            return "entry \(entry.index) was held back by a guard, and has none"
        }
        return stands(command, before: entry.index)
            ? "entry \(entry.index) was held back, though token \(command.token.number) stands" : nil
    }

    private func apply(guarded entry: LogEntry, _ outcome: Applied) -> String? {
        guard let command = try? GuardedCommand(payload: entry.payload) else {
            return "entry \(entry.index): a guarded command that can't be read"
        }
        if entry.index > last {
            guard stands(command, before: entry.index) else {
                return "entry \(entry.index) was done, though token \(command.token.number) is over"
            }
            if !command.isBesideLock {
                highest[GuardName(command.token, command)] = command.token.number
            }
        }
        return apply(
            LogEntry(
                index: entry.index, term: entry.term, logTime: entry.logTime, kind: entry.kind,
                payload: command.payload), outcome, isNew: false)
    }

    /// A command's answer, or why it fails.
    private typealias Expected = Result<Bytes, MachineFailure>

    private func apply(
        _ request: MachineRequest, of machine: SubMachineNumber, _ session: SessionID, at index: LogIndex,
        _ revision: Revision
    ) throws -> Expected {
        switch (machine, request.number) {
        case (ValueMachine.number, ValueSet.number):
            return set(try ValueSet(decoding: request.body), at: index, revision)
        case (ValueMachine.number, ValueDelete.number):
            return delete(try ValueDelete(decoding: request.body), at: index)
        case (NumberMachine.number, NumberChange.number):
            return change(try NumberChange(decoding: request.body), at: index)
        case (NumberMachine.number, NumberBound.number):
            return bound(try NumberBound(decoding: request.body), at: index)
        case (NumberMachine.number, NumberDelete.number):
            let name = try NumberDelete(decoding: request.body).name
            let before = numbers[name]?.now
            if before ?? nil != nil {
                numbers[name]?.become(nil, at: index)
                tell(.deleted, NumberMachine.number, name)
            }
            return .success(NumberFound(before ?? nil).encoded())
        case (MapMachine.number, MapPut.number):
            return put(try MapPut(decoding: request.body), at: index, revision)
        case (MapMachine.number, MapRemove.number): return remove(try MapRemove(decoding: request.body), at: index)
        case (MapMachine.number, MapTransaction.number):
            return transact(try MapTransaction(decoding: request.body), at: index, revision)
        case (MapMachine.number, MapClear.number):
            let name = try MapClear(decoding: request.body).name
            let before = maps[name]?.now ?? [:]
            if !before.isEmpty {
                maps[name]?.become([:], at: index)
                tell(.cleared, MapMachine.number, name)
                collectionsCleared += 1
            }
            return .success(ObjectCount(UInt64(before.count)).encoded())
        case (SetMachine.number, SetAdd.number): return add(try SetAdd(decoding: request.body).named, at: index)
        case (SetMachine.number, SetRemove.number):
            return remove(try SetRemove(decoding: request.body).named, at: index)
        case (SetMachine.number, SetMove.number): return move(try SetMove(decoding: request.body), at: index)
        case (SetMachine.number, SetClear.number):
            let name = try SetClear(decoding: request.body).name
            let before = sets[name]?.now ?? []
            if !before.isEmpty {
                sets[name]?.become([], at: index)
                tell(.cleared, SetMachine.number, name)
                collectionsCleared += 1
            }
            return .success(ObjectCount(UInt64(before.count)).encoded())
        case (ArrayMachine.number, _):
            do {
                let answer = try arrays.apply(request, at: index, revision)
                tell(arrays.takeEvents(), ArrayMachine.number, request.key)
                return .success(answer)
            } catch let failure as MachineFailure {
                return .failure(failure)
            }
        case (QueueMachine.number, _):
            var queue = queues[request.key]?.now ?? QueueModel()
            let moment = QueueModel.Moment(index: index, logTime: logTime)
            guard let answer = try queue.apply(request, of: session, at: moment) else {
                return .failure(MachineFailure(0, "command \(request.number) of queues is not modelled"))
            }
            tell(queue.takeEvents(), QueueMachine.number, request.key)
            become(queue, request.key, at: index)
            return .success(answer)
        default:
            return .failure(MachineFailure(0, "command \(request.number) of machine \(machine) is not modelled"))
        }
    }

    private func due(after millis: UInt64) -> LogTime { LogTime(logTime.rawValue + millis) }

    private func conditionFailed() -> Expected { .failure(MachineFailure(ObjectFailure.conditionFailed, "")) }

    /// Watches are told of an entry of a collection, of an object that is one record, or of all of it.
    private func tell(
        _ kind: Change.Kind, _ machine: SubMachineNumber, _ name: Bytes, _ element: Bytes = Bytes(),
        value: Bytes = Bytes()
    ) {
        tell([ObjectEvent(kind, part: 1, element, value: value)], machine, name)
    }

    private func tell(_ new: [ObjectEvent], _ machine: SubMachineNumber, _ name: Bytes) {
        events.tell(new, of: name, machine, at: revision)
    }

    // MARK: Values

    private func set(_ command: ValueSet, at index: LogIndex, _ revision: Revision) -> Expected {
        let before = values[command.name]?.now ?? nil
        guard command.condition?.isTrue(of: before) ?? true else { return conditionFailed() }
        var entry = Entry(value: command.value, revision: revision)
        if command.timeToLiveMillis > 0 {
            entry.timer = ObjectTimer(index)
            entry.due = due(after: command.timeToLiveMillis)
        }
        values[command.name, default: Past(nil)].become(entry, at: index)
        tell(.put, ValueMachine.number, command.name, value: command.value)
        return .success(PreviousEntry(before?.found, hasValue: command.answersPrevious).encoded())
    }

    private func delete(_ command: ValueDelete, at index: LogIndex) -> Expected {
        let before = values[command.name]?.now ?? nil
        guard command.condition?.isTrue(of: before) ?? true else { return conditionFailed() }
        if before != nil {
            values[command.name]?.become(nil, at: index)
            tell(.deleted, ValueMachine.number, command.name)
        }
        return .success(PreviousEntry(before?.found, hasValue: command.answersPrevious).encoded())
    }

    // MARK: Numbers

    private func change(_ command: NumberChange, at index: LogIndex) -> Expected {
        let before = numbers[command.name]?.now ?? nil
        if let expected = command.expected {
            var now = before?.value
            if now == nil { if case .integer = command.operand { now = .integer(0) } else { now = .double(0) } }
            guard expected == now else { return conditionFailed() }
        }
        let after: Numeral
        switch (before?.value, command.operand) {
        case (.double?, .integer), (.integer?, .double):
            return .failure(MachineFailure(ObjectFailure.otherKind, ""))
        case (let value, .integer(let operand)):
            var old: Int64 = 0
            if case .integer(let known)? = value { old = known }
            // In 128 bits nothing overflows.
            let (left, right) = (Int128(old), Int128(operand))
            let result: Int128
            switch command.operation {
            case .set: result = right
            case .add: result = left + right
            case .subtract: result = left - right
            case .multiply: result = left * right
            case .divide:
                guard right != 0 else { return .failure(MachineFailure(ObjectFailure.divisionByZero, "")) }
                result = left / right
            }
            guard let small = Int64(exactly: result) else {
                return .failure(MachineFailure(ObjectFailure.overflow, ""))
            }
            after = .integer(small)
        case (let value, .double(let operand)):
            var old = 0.0
            if case .double(let known)? = value { old = known }
            if command.operation == .divide, operand == 0 {
                return .failure(MachineFailure(ObjectFailure.divisionByZero, ""))
            }
            let result =
                switch command.operation {
                case .set: operand
                case .add: old + operand
                case .subtract: old - operand
                case .multiply: old * operand
                case .divide: old / operand
                }
            guard result.isFinite else { return .failure(MachineFailure(ObjectFailure.overflow, "")) }
            after = .double(result)
        }
        var state = before ?? NumberState(value: after)
        state.value = after
        guard state.isWithinBounds else { return .failure(MachineFailure(ObjectFailure.outOfBounds, "")) }
        become(state, command.name, at: index)
        return .success(NumberChanged(value: after, previous: before?.value).encoded())
    }

    /// Of one that stays as it is nobody is told. By its bytes: -0 is another number than 0.
    private func become(_ state: NumberState, _ name: Bytes, at index: LogIndex) {
        let before = numbers[name]?.now ?? nil
        numbers[name, default: Past(nil)].become(state, at: index)
        guard state.encoded() != before?.encoded() else { return }
        tell(.put, NumberMachine.number, name, value: state.encoded())
    }

    private func bound(_ command: NumberBound, at index: LogIndex) -> Expected {
        let before = numbers[command.name]?.now ?? nil
        guard before != nil || command.lower != nil || command.upper != nil else {
            return .success(NumberFound(nil).encoded())
        }
        var state: NumberState
        if let before {
            state = before
        } else if case .double? = command.lower ?? command.upper {
            state = NumberState(value: .double(0))
        } else {
            state = NumberState(value: .integer(0))
        }
        state.lower = command.lower
        state.upper = command.upper
        for bound in [command.lower, command.upper] {
            switch (bound, state.value) {
            case (.integer?, .double), (.double?, .integer):
                return .failure(MachineFailure(ObjectFailure.otherKind, ""))
            default: break
            }
        }
        guard state.isWithinBounds else { return .failure(MachineFailure(ObjectFailure.outOfBounds, "")) }
        become(state, command.name, at: index)
        return .success(NumberFound(state).encoded())
    }

    // MARK: Maps

    private func put(_ command: MapPut, at index: LogIndex, _ revision: Revision) -> Expected {
        var map = maps[command.name]?.now ?? [:]
        let before = map[command.element]
        guard command.condition?.isTrue(of: before) ?? true else { return conditionFailed() }
        map[command.element] = entry(command.value, command.timeToLiveMillis, at: index, revision)
        maps[command.name, default: Past([:])].become(map, at: index)
        tell(.put, MapMachine.number, command.name, command.element, value: command.value)
        return .success(PreviousEntry(before?.found, hasValue: command.answersPrevious).encoded())
    }

    private func entry(_ value: Bytes, _ millis: UInt64, at index: LogIndex, _ revision: Revision) -> Entry {
        var entry = Entry(value: value, revision: revision)
        if millis > 0 {
            entry.timer = ObjectTimer(index)
            entry.due = due(after: millis)
        }
        return entry
    }

    private func remove(_ command: MapRemove, at index: LogIndex) -> Expected {
        var map = maps[command.name]?.now ?? [:]
        let before = map[command.element]
        guard command.condition?.isTrue(of: before) ?? true else { return conditionFailed() }
        if before != nil {
            map[command.element] = nil
            maps[command.name]?.become(map, at: index)
            tell(.deleted, MapMachine.number, command.name, command.element)
        }
        return .success(PreviousEntry(before?.found, hasValue: command.answersPrevious).encoded())
    }

    private func transact(_ command: MapTransaction, at index: LogIndex, _ revision: Revision) -> Expected {
        var map = maps[command.name]?.now ?? [:]
        let before = map
        let succeeded = command.conditions.allSatisfy { $0.test.isTrue(of: map[$0.element]) }
        var results: [ObjectEntry?] = []
        for operation in succeeded ? command.then : command.otherwise {
            let old = map[operation.element]
            let bare = old.map { ObjectEntry(value: Bytes(), revision: $0.revision) }
            switch operation {
            case .put(let element, let value, let millis):
                map[element] = entry(value, millis, at: index, revision)
                tell(.put, MapMachine.number, command.name, element, value: value)
                results.append(bare)
            case .remove(let element):
                map[element] = nil
                if old != nil { tell(.deleted, MapMachine.number, command.name, element) }
                results.append(bare)
            case .get: results.append(old?.found)
            }
        }
        if map != before { maps[command.name, default: Past([:])].become(map, at: index) }
        return .success(MapTransaction.Outcome(succeeded: succeeded, results: results).encoded())
    }

    // MARK: Sets

    private func add(_ named: NamedElements, at index: LogIndex) -> Expected {
        var set = sets[named.name]?.now ?? []
        let isNew = named.elements.map { set.insert($0).inserted }
        for (element, isNew) in zip(named.elements, isNew) where isNew {
            tell(.put, SetMachine.number, named.name, element)
        }
        sets[named.name, default: Past([])].become(set, at: index)
        return .success(SetAnswer(isNew).encoded())
    }

    private func remove(_ named: NamedElements, at index: LogIndex) -> Expected {
        var set = sets[named.name]?.now ?? []
        let wasThere = named.elements.map { set.remove($0) != nil }
        for (element, wasThere) in zip(named.elements, wasThere) where wasThere {
            tell(.deleted, SetMachine.number, named.name, element)
        }
        sets[named.name, default: Past([])].become(set, at: index)
        return .success(SetAnswer(wasThere).encoded())
    }

    private func move(_ command: SetMove, at index: LogIndex) -> Expected {
        var source = sets[command.name]?.now ?? []
        guard source.remove(command.element) != nil else { return .success(SetAnswer([false]).encoded()) }
        guard command.name != command.target else { return .success(SetAnswer([true]).encoded()) }
        var target = sets[command.target]?.now ?? []
        tell(.deleted, SetMachine.number, command.name, command.element)
        if target.insert(command.element).inserted {
            tell(.put, SetMachine.number, command.target, command.element)
        }
        sets[command.name, default: Past([])].become(source, at: index)
        sets[command.target, default: Past([])].become(target, at: index)
        return .success(SetAnswer([true]).encoded())
    }
}

extension NumberState {
    fileprivate var isWithinBounds: Bool {
        switch value {
        case .integer(let value):
            if case .integer(let lower)? = lower, value < lower { return false }
            if case .integer(let upper)? = upper, value > upper { return false }
        case .double(let value):
            if case .double(let lower)? = lower, value < lower { return false }
            if case .double(let upper)? = upper, value > upper { return false }
        }
        return true
    }
}

extension EntryCondition {
    func isTrue(of entry: DataTypeModel.Entry?) -> Bool {
        guard let entry else { return self == .absent }
        switch self {
        case .absent: return false
        case .present: return true
        case .revision(let revision): return entry.revision == revision
        case .olderThan(let revision): return entry.revision < revision
        case .newerThan(let revision): return entry.revision > revision
        case .value(let value): return entry.value == value
        case .otherThan(let value): return entry.value != value
        }
    }
}
