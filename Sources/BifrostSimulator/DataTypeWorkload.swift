// The program that uses Bifrost's data types in simulations: what it does, and how it holds their model against what came
// of it.

import ClientCore
import DataTypes
import Messages
import Primitives
import StateMachines

/// Uses some objects of each type.
final class DataTypeWorkload: SimulatedWorkload {
    let machines = DataTypeMachines.registry
    private var models: [GroupID: DataTypeModel] = [:]
    /// Entries up to here were acknowledged: who asks behind that sees them.
    private var acknowledged: [GroupID: LogIndex] = [:]
    private let groupOf: (Bytes) -> GroupID
    /// A revision that some answer named: for conditions that may hold.
    private var seen: [Bytes: Revision] = [:]
    private var lastValue: UInt64 = 0

    private static let values: [Bytes] = ["value 1", "value 2"]
    private static let numbers: [Bytes] = ["number 1", "number 2", "{n}3"]
    private static let maps: [Bytes] = ["map 1", "{m}2", "{m}3"]
    private static let sets: [Bytes] = ["{s}1", "{s}2", "{s}3"]
    private static let locks = [
        PermitName(machine: LockMachine.number, name: "{l}ock"),
        PermitName(machine: LockMachine.number, name: "lock 2"),
    ]
    /// What the first lock guards: beside it, and elsewhere.
    private static let guarded: [Bytes] = ["{l}value", "guarded value"]
    private static let semaphore: Bytes = "{l}semaphore"
    /// One alone: by its entry the model knows which time is over.
    private static let lease: Bytes = "lease 1"
    /// The last tokens that somebody heard of.
    private var tokens: [PermitName: UInt64] = [:]
    private static let memberships: [Bytes] = ["{g}roup", "group 2"]
    /// What tokens of the first membership guard.
    private static let besideMembership: Bytes = "{g}value"
    private static let barriers: [Bytes] = ["barrier 1", "{b}2"]
    private static let latches: [Bytes] = ["latch 1"]
    private var memberTokens: [UInt64] = [1]
    private static let arrays: [Bytes] = ["array 1", "array 2"]
    private static let queues: [Bytes] = ["queue 1", "{q}2"]

    /// - Parameter groupOf: who owns an object.
    init(groupOf: @escaping (Bytes) -> GroupID) { self.groupOf = groupOf }

    /// Some replica applied an entry. Returns what is wrong with what it came to.
    func applied(_ entry: LogEntry, _ outcome: Applied, in group: GroupID) -> String? {
        guard group != .meta else { return nil }
        return model(group).apply(entry, outcome)
    }

    var expired: Int { models.values.reduce(0) { $0 + $1.expired } }
    var cleared: Int { models.values.reduce(0) { $0 + $1.cleared } }
    var guarded: Int { models.values.reduce(0) { $0 + $1.guarded } }
    var heldToTheEnd: Int { models.values.reduce(0) { $0 + $1.heldToTheEnd } }
    var trimmed: Int { models.values.reduce(0) { $0 + $1.arrays.trimmed } }
    var putOffline: Int { models.values.reduce(0) { $0 + $1.putOffline } }
    var forgotten: Int { models.values.reduce(0) { $0 + $1.forgotten } }
    var opened: Int { models.values.reduce(0) { $0 + $1.opened } }
    var timedOut: Int { models.values.reduce(0) { $0 + $1.timedOut } }

    private func model(_ group: GroupID) -> DataTypeModel {
        if let known = models[group] { return known }
        let model = DataTypeModel()
        models[group] = model
        return model
    }

    // MARK: What clients do

    func next(random: inout SeededRandom) -> SimulatedRequest {
        let dice = random.below(100)
        if dice < 30 { return read(random: &random) }
        switch random.below(19) {
        case 16, 17: return changeMembership(random: &random)
        case 18: return changeBarrier(random: &random)
        case 13, 14: return changeQueue(random: &random)
        case 15: return changeHeldQueue(random: &random)
        case 8, 9: return changePermits(random: &random)
        case 10: return changeGuarded(random: &random)
        case 0: return changeValue(random: &random)
        case 1, 2: return changeNumber(random: &random)
        case 3, 4, 5: return changeMap(random: &random)
        case 6, 7: return changeArray(random: &random)
        default: return changeSet(random: &random)
        }
    }

    private func pick(_ names: [Bytes], _ random: inout SeededRandom) -> Bytes {
        names[Int(random.below(UInt64(names.count)))]
    }

    private func someValue(_ random: inout SeededRandom) -> Bytes {
        lastValue += 1
        guard random.below(20) == 0 else { return Bytes("\(random.below(3) == 0 ? random.below(4) : lastValue)") }
        return Bytes([UInt8](repeating: UInt8(truncatingIfNeeded: lastValue), count: Int(random.below(300))))
    }

    private func someKey(_ random: inout SeededRandom) -> Bytes { Bytes("k\(random.below(12))") }

    private func someTime(_ random: inout SeededRandom) -> UInt64 {
        random.below(6) == 0 ? 1 + random.below(random.below(2) == 0 ? 1_000 : 12_000) : 0
    }

    private func someCondition(on name: Bytes, _ random: inout SeededRandom) -> EntryCondition? {
        let known = seen[name] ?? Revision(1)
        return switch random.below(16) {
        case 0: .absent
        case 1: .present
        case 2: .revision(known)
        case 3: .olderThan(known)
        case 4: .newerThan(known)
        case 5: .value(Bytes("\(random.below(4))"))
        case 6: .otherThan(Bytes("\(random.below(4))"))
        default: nil
        }
    }

    private func changeValue(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.values, &random)
        let condition = someCondition(on: name, &random)
        if random.below(4) == 0 {
            return command(ValueDelete(name, if: condition, answersPrevious: random.below(2) == 0))
        }
        return command(
            ValueSet(
                name, someValue(&random), if: condition, timeToLiveMillis: someTime(&random),
                answersPrevious: random.below(2) == 0))
    }

    private func changeNumber(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.numbers, &random)
        func numeral() -> Numeral {
            if random.below(8) == 0 { return .double(Double(random.below(100)) / 8) }
            if random.below(10) == 0 { return .integer(random.below(2) == 0 ? .max : .min) }
            return .integer(Int64(random.below(20)) - 5)
        }
        switch random.below(20) {
        case 0: return command(NumberDelete(name))
        case 1:
            return command(
                NumberBound(
                    name, lower: random.below(2) == 0 ? .integer(-Int64(random.below(200))) : nil,
                    upper: random.below(2) == 0 ? .integer(Int64(random.below(300))) : nil))
        default:
            let operations = NumberChange.Operation.allCases
            let operation: NumberChange.Operation =
                random.below(2) == 0 ? .add : operations[Int(random.below(UInt64(operations.count)))]
            return command(
                NumberChange(name, operation, numeral(), ifEqual: random.below(6) == 0 ? numeral() : nil))
        }
    }

    private func changeMap(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.maps, &random)
        let key = someKey(&random)
        switch random.below(20) {
        case 0: return command(MapClear(name))
        case 1:
            // Many at once, so that more than one step sweeps. Not in all of them, for the sake of snapshots.
            let first = random.below(40)
            return command(
                MapTransaction(
                    Self.maps[0],
                    then: (0..<(1 + random.below(20))).map { .put(Bytes("many \(first + $0)"), Bytes("\($0)")) }))
        case 2...5:
            var conditions: [MapTransaction.Condition] = []
            for _ in 0..<random.below(3) {
                guard let condition = someCondition(on: name, &random) else { continue }
                conditions.append(MapTransaction.Condition(someKey(&random), condition))
            }
            // One time to live in each: by its entry the model knows which one is over.
            var then: [MapTransaction.Operation] = [
                .put(key, someValue(&random), timeToLiveMillis: someTime(&random)), .get(someKey(&random)),
                .remove(someKey(&random)),
            ]
            if random.below(2) == 0 { then.append(.get(key)) }
            return command(
                MapTransaction(name, if: conditions, then: then, otherwise: [.get(key), .remove(someKey(&random))]))
        case 6...9:
            return command(
                MapRemove(name, key, if: someCondition(on: name, &random), answersPrevious: random.below(2) == 0))
        default:
            return command(
                MapPut(
                    name, key, someValue(&random), if: someCondition(on: name, &random),
                    timeToLiveMillis: someTime(&random), answersPrevious: random.below(2) == 0))
        }
    }

    private func changeSet(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.sets, &random)
        var elements: [Bytes] = []
        for _ in 0...random.below(3) { elements.append(someKey(&random)) }
        switch random.below(12) {
        case 0: return command(SetClear(name))
        case 1:
            let first = random.below(40)
            return command(SetAdd(Self.sets[0], (0..<(1 + random.below(20))).map { Bytes("many \(first + $0)") }))
        case 2, 3: return command(SetMove(elements[0], from: name, to: pick(Self.sets, &random)))
        case 4...6: return command(SetRemove(name, elements))
        default: return command(SetAdd(name, elements))
        }
    }

    private func changeQueue(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.queues, &random)
        let queue = model(groupOf(name)).queue(name)
        func receipts() -> [ObjectQueue.Receipt] {
            let known = queue.items.filter { $0.value.delivery > 0 }.keys.sorted()
            return (0..<(1 + random.below(2))).map { _ in
                guard !known.isEmpty else { return ObjectQueue.Receipt(item: 1, delivery: 1) }
                let item = known[Int(random.below(UInt64(known.count)))]
                // Some of a delivery before.
                let last = queue.items[item]?.delivery ?? 1
                return ObjectQueue.Receipt(item: item, delivery: last - (random.below(4) == 0 ? 1 : 0))
            }
        }
        func time() -> UInt64 { 1 + random.below(random.below(2) == 0 ? 1_000 : 8_000) }
        let dead = queue.page(true).map(\.id)
        switch random.below(24) {
        case 0..<8:
            let pushes = (0..<(1 + random.below(3))).map { _ in
                ObjectQueue.Push(
                    someValue(&random), priority: random.below(3) == 0 ? 200 : 128,
                    delayMillis: random.below(4) == 0 ? time() : 0,
                    id: random.below(3) == 0 ? Bytes("id \(random.below(9))") : nil, windowMillis: time())
            }
            return command(QueuePush(name, pushes))
        case 8..<13:
            return command(
                QueueTake(
                    name, UInt16(1 + random.below(3)), visibilityMillis: time(),
                    waitMillis: random.below(3) == 0 ? time() : 0, isOfSession: false))
        case 13..<17: return command(QueueAck(name, receipts()))
        case 17, 18:
            return command(QueueNack(name, receipts(), delayMillis: random.below(2) == 0 ? time() : 0))
        case 19: return command(QueueExtend(name, receipts(), visibilityMillis: time()))
        case 20: return command(QueueTakeAndAck(name, UInt16(1 + random.below(3))))
        case 21:
            let tickets = queue.waiters.map(\.ticket) + queue.items.values.map(\.ticket).sorted()
            return command(
                QueueCancelWait(name, tickets.isEmpty ? 1 : tickets[Int(random.below(UInt64(tickets.count)))]))
        case 22 where !dead.isEmpty:
            return random.below(4) == 0
                ? command(QueuePurgeDead(name, itemsMax: 3)) : command(QueueRequeue(name, Array(dead.prefix(2))))
        case 23 where random.below(4) == 0: return command(QueueClear(name))
        default: return command(QueueSettings(name, deliveriesMax: UInt32(random.below(4))))
        }
    }

    /// The one whose items sessions have.
    private func changeHeldQueue(random: inout SeededRandom) -> SimulatedRequest {
        let name = DataTypeModel.heldQueue
        let known = model(groupOf(name)).heldItems.filter { $0.value > 0 }.sorted { $0.key < $1.key }
        switch random.below(8) {
        case 0..<3: return command(QueuePush(name, [.init(someValue(&random)), .init(someValue(&random))]))
        case 3..<6:
            return command(
                QueueTake(
                    name, UInt16(1 + random.below(3)), visibilityMillis: 1 + random.below(6_000),
                    waitMillis: random.below(2) * 2_000, isOfSession: true))
        default:
            guard !known.isEmpty else { return command(QueuePush(name, [.init(someValue(&random))])) }
            let (item, last) = known[Int(random.below(UInt64(known.count)))]
            let receipt = ObjectQueue.Receipt(item: item, delivery: last)
            return random.below(3) == 0 ? command(QueueNack(name, [receipt])) : command(QueueAck(name, [receipt]))
        }
    }

    /// Some are there, some were, and some will be.
    private func someID(of name: Bytes, _ random: inout SeededRandom) -> ArrayElementID {
        let last = model(groupOf(name)).arrays.lastID(name) + 2
        return ArrayElementID(last - random.below(min(last, random.below(2) == 0 ? 12 : 80)))
    }

    private func somePlace(in name: Bytes, _ random: inout SeededRandom) -> ArrayPlace {
        random.below(2) == 0 ? .index(random.below(30)) : .element(someID(of: name, &random))
    }

    private func somePoint(in name: Bytes, _ random: inout SeededRandom) -> ArrayPoint {
        switch random.below(6) {
        case 0: .index(random.below(30))
        case 1: .before(someID(of: name, &random))
        case 2: .behind(someID(of: name, &random))
        case 3: .index(0)
        default: .end
        }
    }

    private func changeArray(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.arrays, &random)
        switch random.below(24) {
        case 0: return command(ArrayClear(name))
        case 1: return command(ArraySweep(name: name))
        case 2...4:
            switch random.below(3) {
            case 0: return command(ArrayTrim(name, keeping: .first(random.below(40))))
            case 1: return command(ArrayTrim(name, keeping: .last(random.below(40))))
            default:
                let first = random.below(10)
                return command(ArrayTrim(name, keeping: .range(first..<first + random.below(30))))
            }
        case 5:
            let first = random.below(20)
            return command(ArrayRemoveRange(name, first..<first + random.below(12)))
        case 6...9:
            return command(
                ArrayRemove(
                    name, somePlace(in: name, &random), if: someCondition(on: name, &random),
                    answersPrevious: random.below(2) == 0))
        case 10...14:
            return command(
                ArraySet(
                    name, somePlace(in: name, &random), someValue(&random), if: someCondition(on: name, &random),
                    answersPrevious: random.below(2) == 0))
        case 15:
            // More than fit into one node of its tree, in some.
            return command(
                ArrayInsert(
                    name, (0..<(1 + random.below(40))).map { Bytes("\($0)") }, at: somePoint(in: name, &random)))
        case 16 where random.below(3) == 0:
            let large = Bytes([UInt8](repeating: UInt8(random.below(256)), count: 4_100))
            return command(ArrayInsert(name, [large], at: somePoint(in: name, &random)))
        default:
            var values: [Bytes] = []
            for _ in 0...random.below(3) { values.append(someValue(&random)) }
            return command(ArrayInsert(name, values, at: somePoint(in: name, &random)))
        }
    }

    // MARK: Permits

    private func changePermits(random: inout SeededRandom) -> SimulatedRequest {
        switch random.below(7) {
        case 0...3:
            let lock = Self.locks[random.below(3) == 0 ? 1 : 0].name
            return changePermits(of: LockMachine.self, lock, limit: 1, random: &random)
        case 4, 5: return changePermits(of: SemaphoreMachine.self, Self.semaphore, limit: 3, random: &random)
        default: return changePermits(of: LeaseMachine.self, Self.lease, limit: 1, random: &random)
        }
    }

    private func changePermits<Machine: PermitMachine>(
        of _: Machine.Type, _ name: Bytes, limit: UInt32, random: inout SeededRandom
    ) -> SimulatedRequest {
        let place = PermitName(machine: Machine.number, name: name)
        let token = tokens[place] ?? 1
        switch random.below(20) {
        case 0...7:
            let wait: UInt64 = random.below(3) == 0 ? 0 : random.below(4) == 0 ? .max : 1 + random.below(4_000)
            let isLease = Machine.number == LeaseMachine.number
            let said: UInt32 = limit == 1 || random.below(8) > 0 ? limit : UInt32(random.below(5))
            return command(
                PermitAcquire<Machine>(
                    name, permits: 1 + UInt32(random.below(UInt64(limit))), limit: said, waitMillis: wait,
                    timeToLiveMillis: isLease ? 1 + random.below(6_000) : 0,
                    wish: random.below(6), value: Bytes("\(random.below(100))"))
            ) { [unowned self] in
                if $0.token > 0 { tokens[place] = $0.token }
            }
        case 8...10:
            return query(PermitList<Machine>(name), .linearizable, 0) { [unowned self] listing, model, index in
                if let first = listing.entries.first { tokens[place] = first.number }
                return Self.problem(listing, model.permits(place, at: index), isOfWaiters: false)
            }
        case 11...13: return command(PermitRelease<Machine>(name, token: token))
        case 14: return command(PermitCancel<Machine>(name, wish: random.below(6)))
        case 15 where Machine.number == LeaseMachine.number:
            return command(PermitRenew<Machine>(name, token: token, timeToLiveMillis: random.below(5_000)))
        case 15, 16: return command(PermitAnnounce<Machine>(name, token: token, value: Bytes("\(random.below(100))")))
        case 17 where limit > 1: return command(PermitLimit<Machine>(name, UInt32(random.below(5))))
        case 17, 18: return command(PermitRelease<Machine>(name, token: token))
        default: return list(Machine.self, name, waiters: random.below(2) == 0)
        }
    }

    private func list<Machine: PermitMachine>(
        _: Machine.Type, _ name: Bytes, waiters: Bool
    ) -> SimulatedRequest {
        let place = PermitName(machine: Machine.number, name: name)
        return query(PermitList<Machine>(name, waiters: waiters), .linearizable, 0) { listing, model, index in
            Self.problem(listing, model.permits(place, at: index), isOfWaiters: waiters)
        }
    }

    private static func problem(
        _ listing: PermitListing, _ permits: PermitModel, isOfWaiters: Bool
    ) -> String? {
        let expected = isOfWaiters ? permits.waiters.map(\.entry) : permits.holders.map(\.entry)
        guard listing.entries == expected || listing.next != nil else {
            return "\(listing.entries), not \(expected)"
        }
        guard listing.out == permits.out, listing.waiters == UInt32(permits.waiters.count) else {
            return "\(listing.out) permits out and \(listing.waiters) waiters, not \(permits.out) and "
                + "\(permits.waiters.count)"
        }
        return nil
    }

    // MARK: Memberships, barriers and latches

    private func changeMembership(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.memberships, &random)
        let number = random.below(5)
        let id = Bytes("member \(number)")
        func heard(_ token: UInt64) {
            guard name == Self.memberships[0], token > 0 else { return }
            memberTokens.append(token)
            if memberTokens.count > 4 { memberTokens.removeFirst() }
        }
        func someToken() -> UInt64 { memberTokens[Int(random.below(UInt64(memberTokens.count)))] }
        func whose() -> MembershipStint {
            switch random.below(4) {
            case 0: .any
            case 1: .own(wish: random.below(4))
            default: .token(someToken(), wish: random.below(3))
            }
        }
        switch random.below(24) {
        case 0..<10:
            // Times that differ from member to member of all memberships: by their ends the model tells them apart.
            let stays: UInt64 =
                switch random.below(4) {
                case 0: 0
                case 1: .max
                default: 500 + number * 31 + random.below(100) * 37 + (name == Self.memberships[0] ? 0 : 7)
                }
            return command(
                MembershipJoin(
                    name, as: id, creates: random.below(4) > 0, takesOver: random.below(3) > 0, staysMillis: stays,
                    wish: 1 + random.below(3), metadata: Bytes("\(random.below(100))"))
            ) {
                heard($0.token)
                heard($0.epoch)
            }
        case 10..<14:
            return command(MembershipLeave(name, id, leaves: random.below(2) == 0, whose()))
        case 14, 15: return command(MembershipUpdate(name, id, whose(), metadata: Bytes("\(random.below(100))")))
        case 16: return command(MembershipCreate(name))
        case 17:
            return command(
                MembershipDelete(
                    name, force: random.below(2) == 0, generation: random.below(4) == 0 ? random.below(99) : 0))
        case 18..<21:
            var request = command(ValueSet(Self.besideMembership, someValue(&random)))
            request.guardToken = FencingToken(
                someToken(), of: Self.memberships[0], machine: MembershipMachine.number)
            return request
        default: return list(members: name, online: random.below(2) == 0, 1 + random.below(6))
        }
    }

    private func list(
        members name: Bytes, online: Bool, _ entriesMax: UInt64 = .max
    ) -> SimulatedRequest {
        let query = MembershipList(name, online: online, entriesMax: UInt32(clamping: entriesMax))
        return self.query(query, .linearizable, 0) { listing, model, index in
            let known = model.membership(name, at: index)
            let ids = online ? known.online : known.members.keys.sorted()
            let expected = ids.prefix(Int(clamping: entriesMax)).compactMap { known.entry($0) }
            // A page may be shorter than was asked for.
            let isBeginning = listing.next != nil && expected.starts(with: listing.entries)
            guard listing.entries == expected || isBeginning, (listing.state == .absent) == !known.isThere else {
                return "\(listing.entries), not \(expected)"
            }
            guard listing.next != nil || ids.count == expected.count else {
                return "\(expected.count) of \(ids.count), and nobody behind them"
            }
            guard listing.version == (known.isThere ? known.last : 0), listing.epoch == known.epoch,
                listing.leader == known.leader, Int(listing.members) == known.members.count,
                Int(listing.online) == known.online.count
            else { return "\(listing), not version \(known.last) with epoch \(known.epoch)" }
            return nil
        }
    }

    private func changeBarrier(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.barriers, &random)
        let latch = Self.latches[0]
        switch random.below(12) {
        case 0..<5:
            return command(
                BarrierArrive(
                    name, parties: random.below(8) == 0 ? UInt32(random.below(4)) : 3, wish: random.below(9)))
        case 5:
            return random.below(2) == 0
                ? command(BarrierWithdraw(name, wish: random.below(9)))
                : command(BarrierCheck(name, wish: random.below(9)))
        case 6:
            return query(BarrierShow(name), .linearizable, 0) { state, model, index in
                let expected = model.barrier(name, at: index).state
                return state == expected ? nil : "\(state), not \(expected)"
            }
        case 7: return command(LatchSet(latch, random.below(6), ifAbsent: random.below(2) == 0))
        case 8, 9:
            let round = model(groupOf(latch)).latch(latch).state?.round ?? 1
            return command(
                LatchCountDown(
                    latch, by: 1 + random.below(2), round: random.below(2) == 0 ? 0 : round - random.below(2)))
        case 10 where random.below(3) == 0: return command(LatchDelete(latch))
        default: return show(latch: latch)
        }
    }

    private func show(latch: Bytes) -> SimulatedRequest {
        query(LatchShow(latch), .linearizable, 0) { found, model, index in
            let expected = model.latch(latch, at: index).state
            return found.state == expected
                ? nil : "\(String(describing: found.state)), not \(String(describing: expected))"
        }
    }

    private func changeGuarded(random: inout SeededRandom) -> SimulatedRequest {
        let lock = Self.locks[0]
        let known = tokens[lock] ?? 1
        let token = random.below(3) == 0 ? UInt64(random.below(known + 1)) : known
        var request = command(ValueSet(pick(Self.guarded, &random), someValue(&random)))
        request.guardToken = FencingToken(token, of: lock.name, machine: lock.machine)
        return request
    }

    private func command<Command: MachineCommand>(
        _ command: Command, _ heard: @escaping (Command.Answer) -> Void = { _ in }
    ) -> SimulatedRequest {
        let group = groupOf(command.key)
        let (name, machine) = (command.key, Command.Machine.number)
        return SimulatedRequest(
            machine: machine, isCommand: true, request: MachineRequest(command), consistency: .linearizable, bound: 0
        ) { [unowned self] result in
            guard case .success(let bytes) = result else { return nil }
            do throws(DecodingFailure) {
                let data = try DataResult(decoding: bytes)
                acknowledged[group] = max(acknowledged[group] ?? .zero, data.index)
                seen[name] = data.revision
                if case .answer(let body) = try MachineOutcome(decoding: data.body) {
                    heard(try Command.Answer(decoding: body))
                }
                return model(group).judge(answer: data.body, at: data.index)
            } catch {
                return "an answer that can't be read: \(error)"
            }
        }
    }

    // MARK: What clients see

    private func read(random: inout SeededRandom) -> SimulatedRequest {
        let consistency: Consistency
        switch random.below(5) {
        case 0: consistency = .linearizableAnywhere
        case 1: consistency = .lease
        case 2: consistency = .session
        case 3: consistency = .stale
        default: consistency = .linearizable
        }
        let bound = consistency == .stale ? UInt32(random.below(2_000)) : 0
        switch random.below(13) {
        case 11, 12: return read(array: pick(Self.arrays, &random), consistency, bound, &random)
        case 8: return count(queue: pick(Self.queues, &random), consistency, bound)
        case 9:
            return page(queue: pick(Self.queues, &random), isOfDead: random.below(3) == 0, consistency, bound)
        case 10: return ticket(of: pick(Self.queues, &random), 1 + random.below(12), consistency, bound)
        case 0: return get(value: pick(Self.values, &random), consistency, bound)
        case 1: return get(number: pick(Self.numbers, &random), consistency, bound)
        case 2: return count(map: pick(Self.maps, &random), consistency, bound)
        case 3:
            return get(
                map: pick(Self.maps, &random), (0...random.below(4)).map { Bytes("k\($0 * 3)") }, consistency, bound)
        case 4:
            return page(
                map: pick(Self.maps, &random), from: Bytes(random.below(2) == 0 ? "k3" : ""),
                end: random.below(2) == 0 ? Bytes("many 5") : nil, entriesMax: UInt32(1 + random.below(100)),
                consistency, bound)
        case 5:
            return contains(
                set: pick(Self.sets, &random), (0...random.below(4)).map { Bytes("k\($0 * 3)") }, consistency, bound)
        case 6:
            return page(
                set: pick(Self.sets, &random), from: Bytes(random.below(2) == 0 ? "k3" : ""),
                elementsMax: UInt32(1 + random.below(100)), consistency, bound)
        default:
            let all = SetCombine.Combination.allCases
            var names: [Bytes] = []
            for _ in 0...random.below(3) { names.append(pick(Self.sets, &random)) }
            return combine(
                all[Int(random.below(UInt64(all.count)))], names, from: Bytes(random.below(2) == 0 ? "k3" : ""),
                elementsMax: UInt32(1 + random.below(100)), consistency, bound)
        }
    }

    /// - Parameter judge: what is wrong with an answer at this index.
    private func query<Query: MachineQuery>(
        _ query: Query, _ consistency: Consistency, _ bound: UInt32,
        _ judge: @escaping (Query.Answer, DataTypeModel, LogIndex) -> String?
    ) -> SimulatedRequest {
        let group = groupOf(query.key)
        let before = acknowledged[group] ?? .zero
        let isNew = consistency != .stale && consistency != .session
        let name = query.key
        return SimulatedRequest(
            machine: Query.Machine.number, isCommand: false, request: MachineRequest(query), consistency: consistency,
            bound: bound
        ) { [unowned self] result in
            guard case .success(let bytes) = result else { return nil }
            do throws(DecodingFailure) {
                let data = try DataResult(decoding: bytes)
                guard !isNew || data.index >= before else {
                    return "a read at \(data.index), though entry \(before) was acknowledged before it was asked for"
                }
                seen[name] = data.revision
                switch try MachineOutcome(decoding: data.body) {
                case .failure(let failure): return "\(failure)"
                case .answer(let body):
                    return judge(try Query.Answer(decoding: body), model(group), data.index).map {
                        "\(name) at \(data.index): \($0)"
                    }
                }
            } catch {
                return "an answer that can't be read: \(error)"
            }
        }
    }

    private func get(value name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(ValueGet(name), consistency, bound) { answer, model, index in
            let expected = model.value(name, at: index)?.found
            return answer.entry == expected
                ? nil : "\(String(describing: answer.entry)), not \(String(describing: expected))"
        }
    }

    private func get(number name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(NumberGet(name), consistency, bound) { answer, model, index in
            let expected = model.number(name, at: index)
            return answer.state == expected
                ? nil : "\(String(describing: answer.state)), not \(String(describing: expected))"
        }
    }

    private func count(map name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(MapCount(name), consistency, bound) { answer, model, index in
            let expected = model.map(name, at: index).count
            return answer.count == UInt64(expected) ? nil : "\(answer.count) entries, not \(expected)"
        }
    }

    private func get(
        map name: Bytes, _ keys: [Bytes], _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(MapGet(name, keys), consistency, bound) { answer, model, index in
            let map = model.map(name, at: index)
            return answer.entries == keys.map { map[$0]?.found } ? nil : "other entries than \(map.count) of the model"
        }
    }

    private func page(
        map name: Bytes, from: Bytes, end: Bytes?, entriesMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(MapPage(name, from: from, end: end, entriesMax: entriesMax), consistency, bound) { answer, model, index in
            let map = model.map(name, at: index)
            guard answer.entries.count <= entriesMax else { return "\(answer.entries.count) of at most \(entriesMax)" }
            let keys = Self.range(map.keys.sorted(), from: from, end: answer.next ?? end)
            guard answer.entries.map(\.key) == keys, answer.entries.map(\.entry) == keys.map({ map[$0]?.found }) else {
                return "a page of \(answer.entries.count) entries up to \(answer.next ?? "the end"), not \(keys)"
            }
            return Self.problem(next: answer.next, behind: keys.last ?? from)
        }
    }

    private static func range(_ sorted: [Bytes], from: Bytes, end: Bytes?) -> [Bytes] {
        sorted.filter { key in key >= from && end.map { key < $0 } ?? true }
    }

    private static func problem(next: Bytes?, behind last: Bytes) -> String? {
        guard let next, next <= last else { return nil }
        return "the next page begins at \(next), behind \(last)"
    }

    private func contains(
        set name: Bytes, _ elements: [Bytes], _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetContains(name, elements), consistency, bound) { answer, model, index in
            let set = model.set(name, at: index)
            return answer.isTrue == elements.map { set.contains($0) } ? nil : "\(answer.isTrue) of \(elements)"
        }
    }

    private func page(
        set name: Bytes, from: Bytes, elementsMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetPage(name, from: from, end: nil, elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            guard answer.elements.count <= elementsMax else {
                return "\(answer.elements.count) of at most \(elementsMax)"
            }
            let elements = Self.range(model.set(name, at: index).sorted(), from: from, end: answer.next)
            guard answer.elements == elements else { return "\(answer.elements), not \(elements)" }
            return Self.problem(next: answer.next, behind: elements.last ?? from)
        }
    }

    private func combine(
        _ combination: SetCombine.Combination, _ names: [Bytes], from: Bytes, elementsMax: UInt32,
        _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetCombine(combination, of: names, from: from, elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            let sets = names.map { model.set($0, at: index) }
            let others = sets.dropFirst()
            let combined =
                switch combination {
                case .union: others.reduce(sets[0]) { $0.union($1) }
                case .intersection: others.reduce(sets[0]) { $0.intersection($1) }
                case .difference: others.reduce(sets[0]) { $0.subtracting($1) }
                }
            let elements = Self.range(combined.sorted(), from: from, end: answer.next)
            guard answer.elements == elements else {
                return "the \(combination) of \(names): \(answer.elements), not \(elements)"
            }
            return Self.problem(next: answer.next, behind: elements.last ?? from)
        }
    }

    private func read(
        array name: Bytes, _ consistency: Consistency, _ bound: UInt32, _ random: inout SeededRandom
    ) -> SimulatedRequest {
        switch random.below(6) {
        case 0:
            return query(ArrayCount(name), consistency, bound) { answer, model, index in
                let expected = model.arrays.items(name, at: index).count
                return answer.count == UInt64(expected) ? nil : "\(answer.count) elements, not \(expected)"
            }
        case 1:
            let id = someID(of: name, &random)
            return query(ArrayIndex(name, of: id), consistency, bound) { answer, model, index in
                let expected = model.arrays.items(name, at: index).firstIndex { $0.id == id.rawValue }
                return answer.index == expected.map { UInt64($0) }
                    ? nil : "\(id) at \(String(describing: answer.index)), not \(String(describing: expected))"
            }
        case 2, 3: return get(array: name, somePlace(in: name, &random), consistency, bound)
        default:
            return page(
                array: name, from: random.below(20), elementsMax: UInt32(1 + random.below(60)), consistency, bound)
        }
    }

    private func get(
        array name: Bytes, _ place: ArrayPlace, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(ArrayGet(name, place), consistency, bound) { answer, model, index in
            let items = model.arrays.items(name, at: index)
            let expected =
                switch place {
                case .index(let index): index < items.count ? items[Int(index)] : nil
                case .element(let id): items.first { $0.id == id.rawValue }
                }
            return answer.element.map { Self.item($0) } == expected
                ? nil : "\(place): \(String(describing: answer.element)), not \(String(describing: expected))"
        }
    }

    private static func item(_ element: ArrayElement) -> ArrayModel.Item {
        ArrayModel.Item(
            id: element.id.rawValue,
            entry: DataTypeModel.Entry(value: element.value, revision: element.revision))
    }

    private func page(
        array name: Bytes, from first: UInt64, elementsMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(ArrayPage(name, from: .index(first), elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            let items = model.arrays.items(name, at: index)
            let expected = Array(items.dropFirst(Int(first)).prefix(Int(min(elementsMax, 256))))
            guard answer.index == first, answer.count == UInt64(items.count),
                answer.elements.map({ Self.item($0) }) == expected
            else { return "a page of \(answer.elements.count) from \(first) of \(answer.count), not \(expected.count)" }
            return nil
        }
    }

    private func count(queue name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(QueueCount(name), consistency, bound) { answer, model, index in
            model.queue(name, at: index).counts(are: answer) ? nil : "other counts than the model's: \(answer)"
        }
    }

    private func countOfHeldQueue() -> SimulatedRequest {
        query(QueueCount(DataTypeModel.heldQueue), .linearizable, 0) { answer, model, index in
            let open = model.ledger(at: index).open.count
            return model.ledger(at: index).counts(are: answer) ? nil : "\(answer), and \(open) items are not done"
        }
    }

    private func page(
        queue name: Bytes, isOfDead: Bool, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(QueuePage(name, isOfDead: isOfDead, itemsMax: 256), consistency, bound) { answer, model, index in
            let expected = model.queue(name, at: index).page(isOfDead)
            return answer.page.items == Array(expected.prefix(256))
                ? nil : "items \(answer.page.items.map(\.id)), not \(expected.map(\.id))"
        }
    }

    private func ticket(
        of name: Bytes, _ ticket: UInt64, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(QueueTicket(name, ticket), consistency, bound) { answer, model, index in
            let queue = model.queue(name, at: index)
            let expected: QueueTicketState.Kind
            let has = queue.has(ofTicket: ticket)
            if queue.waiters.contains(where: { $0.ticket == ticket }) {
                expected = .waiting
            } else {
                expected = has.isEmpty ? .over : .delivered
            }
            return answer.kind == expected && answer.deliveries.map(\.receipt.item).sorted() == has
                ? nil : "ticket \(ticket) stands as \(answer.kind), not \(expected) with \(has)"
        }
    }

    // MARK: The end

    func unsettledRequests() -> [SimulatedRequest] {
        Self.values.filter { model(groupOf($0)).hasTimer($0) }.map { get(value: $0, .linearizable, 0) }
            + Self.maps.filter { model(groupOf($0)).hasTimer($0) }.map { count(map: $0, .linearizable, 0) }
            + unsettledPermits(LockMachine.self, Self.locks.map(\.name))
            + unsettledPermits(SemaphoreMachine.self, [Self.semaphore])
            + unsettledPermits(LeaseMachine.self, [Self.lease])
            + Self.queues.filter { model(groupOf($0)).hasTimer($0) }.map { count(queue: $0, .linearizable, 0) }
            + Self.memberships.filter { model(groupOf($0)).hasTimer($0) }.map { list(members: $0, online: false) }
    }

    private func unsettledPermits<Machine: PermitMachine>(
        _: Machine.Type, _ names: [Bytes]
    ) -> [SimulatedRequest] {
        names.filter { model(groupOf($0)).hasTimer(PermitName(machine: Machine.number, name: $0)) }.map {
            list(Machine.self, $0, waiters: true)
        }
    }

    func finalRequests() -> [SimulatedRequest] {
        var requests = Self.values.map { get(value: $0, .linearizable, 0) }
        requests += Self.numbers.map { get(number: $0, .linearizable, 0) }
        for name in Self.maps {
            requests.append(count(map: name, .linearizable, 0))
            requests.append(page(map: name, from: Bytes(), end: nil, entriesMax: .max, .linearizable, 0))
        }
        requests += Self.guarded.map { get(value: $0, .linearizable, 0) }
        for lock in Self.locks {
            requests.append(list(LockMachine.self, lock.name, waiters: false))
            requests.append(list(LockMachine.self, lock.name, waiters: true))
        }
        requests.append(list(SemaphoreMachine.self, Self.semaphore, waiters: false))
        requests.append(list(LeaseMachine.self, Self.lease, waiters: false))
        requests += Self.sets.map { page(set: $0, from: Bytes(), elementsMax: .max, .linearizable, 0) }
        requests += Self.arrays.map { page(array: $0, from: 0, elementsMax: .max, .linearizable, 0) }
        for name in Self.queues {
            requests.append(count(queue: name, .linearizable, 0))
            requests.append(page(queue: name, isOfDead: false, .linearizable, 0))
            requests.append(page(queue: name, isOfDead: true, .linearizable, 0))
        }
        requests.append(countOfHeldQueue())
        for name in Self.memberships {
            requests.append(list(members: name, online: false))
            requests.append(list(members: name, online: true))
        }
        requests += Self.latches.map { show(latch: $0) }
        requests.append(get(value: Self.besideMembership, .linearizable, 0))
        return requests
    }
}
