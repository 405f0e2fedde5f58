// The program that uses Bifrost's data types in simulations: what it does, and how it holds their model against what came
// of it.

import ClientCore
import DataTypes
import Messages
import Primitives
import Ring
import StateMachines

/// Uses some objects of each type.
final class DataTypeWorkload: SimulatedWorkload {
    let machines = DataTypeMachines.registry
    private var models: [GroupID: DataTypeModel] = [:]
    /// Entries up to here were acknowledged: who asks behind that sees them.
    private var acknowledged: [GroupID: LogIndex] = [:]
    private let motion = ObjectsInMotion()
    let groupOf: (Bytes) -> GroupID
    let slotsMove: Bool
    /// A revision that some answer named: for conditions that may hold.
    private var seen: [Bytes: Revision] = [:]
    private var lastValue: UInt64 = 0

    static let values: [Bytes] = ["value 1", "value 2"]
    static let numbers: [Bytes] = ["number 1", "number 2", "{n}3"]
    static let maps: [Bytes] = ["map 1", "{m}2", "{m}3"]
    static let sets: [Bytes] = ["{s}1", "{s}2", "{s}3"]
    static let locks = [
        PermitName(machine: LockMachine.number, name: "{l}ock"),
        PermitName(machine: LockMachine.number, name: "lock 2"),
    ]
    static let election = PermitName(machine: ElectionMachine.number, name: "{l}eader")
    /// What the first lock and the election guard: beside them, and elsewhere.
    static let guarded: [Bytes] = ["{l}value", "guarded value"]
    static let semaphore: Bytes = "{l}semaphore"
    /// One alone: by its entry the model knows which time is over.
    static let lease: Bytes = "lease 1"
    /// The last tokens that somebody heard of.
    var tokens: [PermitName: UInt64] = [:]
    static let memberships: [Bytes] = ["{g}roup", "group 2"]
    /// What tokens of the first membership guard.
    static let besideMembership: Bytes = "{g}value"
    static let barriers: [Bytes] = ["barrier 1", "{b}2"]
    static let latches: [Bytes] = ["latch 1"]
    var memberTokens: [UInt64] = [1]
    static let arrays: [Bytes] = ["array 1", "array 2"]
    static let queues: [Bytes] = ["queue 1", "{q}2"]

    /// - Parameters:
    ///   - slotsMove: objects go from group to group.
    ///   - groupOf: who owns an object.
    init(slotsMove: Bool, groupOf: @escaping (Bytes) -> GroupID) {
        self.slotsMove = slotsMove
        self.groupOf = groupOf
    }

    /// Of all objects.
    static var names: [Bytes] {
        let plain = values + numbers + maps + sets + guarded + [semaphore, lease, besideMembership] + memberships
        return plain + barriers + latches + arrays + queues + [DataTypeModel.heldQueue, election.name]
            + locks.map(\.name)
    }

    /// Of what sessions hold.
    static var heldSlots: [Slot] {
        let names = locks.map(\.name) + [election.name, semaphore, lease] + memberships + barriers
        return Set((names + [DataTypeModel.heldQueue]).map { Ring.slot(of: $0) }).sorted()
    }

    /// Whether a client goes by it that it has what it got in a slot by a session.
    var isTakenForHeld: (SessionID, Slot) -> Bool {
        get { motion.isTakenForHeld }
        set { motion.isTakenForHeld = newValue }
    }

    /// Some replica applied an entry. Returns what is wrong with what it came to.
    func applied(_ entry: LogEntry, _ outcome: Applied, in group: GroupID) -> String? {
        guard group != .meta else { return nil }
        return model(group).apply(entry, outcome)
    }

    var expired: Int { models.values.reduce(0) { $0 + $1.expired } }
    var cleared: Int { models.values.reduce(0) { $0 + $1.cleared } }
    var guarded: Int { models.values.reduce(0) { $0 + $1.guarded } }
    var heldToTheEnd: Int { models.values.reduce(0) { $0 + $1.heldToTheEnd } }
    var heldOnTheMove: Int { models.values.reduce(0) { $0 + $1.heldOnTheMove } }
    var trimmed: Int { models.values.reduce(0) { $0 + $1.arrays.trimmed } }
    var putOffline: Int { models.values.reduce(0) { $0 + $1.putOffline } }
    var forgotten: Int { models.values.reduce(0) { $0 + $1.forgotten } }
    var opened: Int { models.values.reduce(0) { $0 + $1.opened } }
    var timedOut: Int { models.values.reduce(0) { $0 + $1.timedOut } }

    func model(_ group: GroupID) -> DataTypeModel {
        if let known = models[group] { return known }
        let model = DataTypeModel(group, motion)
        models[group] = model
        return model
    }

    /// What is wrong with what a watch was told behind one revision, up to another; nil: nothing. Revisions of an object go on
    /// growing where it goes, so that its events are in order over all groups that it was in.
    func problem(
        of told: [Change], _ object: WatchedObject, after: Revision, through: Revision, in group: GroupID
    ) -> String? {
        guard slotsMove || group == groupOf(object.name) else { return "group \(group) has told of \(object.name)" }
        let events = models.keys.sorted().compactMap { models[$0]?.events }
        return ObjectEvents.problem(
            of: told, events, object.machine, from: object.from, end: object.end, after: after, through: through)
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

    func pick(_ names: [Bytes], _ random: inout SeededRandom) -> Bytes {
        names[Int(random.below(UInt64(names.count)))]
    }

    func someValue(_ random: inout SeededRandom) -> Bytes {
        lastValue += 1
        guard random.below(20) == 0 else { return Bytes("\(random.below(3) == 0 ? random.below(4) : lastValue)") }
        return Bytes([UInt8](repeating: UInt8(truncatingIfNeeded: lastValue), count: Int(random.below(300))))
    }

    func someKey(_ random: inout SeededRandom) -> Bytes { Bytes("k\(random.below(12))") }

    func someTime(_ random: inout SeededRandom) -> UInt64 {
        random.below(6) == 0 ? 1 + random.below(random.below(2) == 0 ? 1_000 : 12_000) : 0
    }

    func someCondition(on name: Bytes, _ random: inout SeededRandom) -> EntryCondition? {
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

    func command<Command: MachineCommand>(
        _ command: Command, _ heard: @escaping (Command.Answer) -> Void = { _ in }
    ) -> SimulatedRequest {
        let (name, machine) = (command.key, Command.Machine.number)
        return SimulatedRequest(
            machine: machine, isCommand: true, request: MachineRequest(command), consistency: .linearizable, bound: 0
        ) { [unowned self] result, group in
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
    func query<Query: MachineQuery>(
        _ query: Query, _ consistency: Consistency, _ bound: UInt32,
        _ judge: @escaping (Query.Answer, DataTypeModel, LogIndex) -> String?
    ) -> SimulatedRequest {
        let acknowledged = acknowledged
        let isNew = consistency != .stale && consistency != .session
        let name = query.key
        return SimulatedRequest(
            machine: Query.Machine.number, isCommand: false, request: MachineRequest(query), consistency: consistency,
            bound: bound
        ) { [unowned self] result, group in
            guard case .success(let bytes) = result else { return nil }
            let before = acknowledged[group] ?? .zero
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

    // MARK: The end

    func unsettledRequests() -> [SimulatedRequest] {
        Self.values.filter { model(groupOf($0)).hasTimer($0) }.map { get(value: $0, .linearizable, 0) }
            + Self.maps.filter { model(groupOf($0)).hasTimer($0) }.map { count(map: $0, .linearizable, 0) }
            + unsettledPermits(LockMachine.self, Self.locks.map(\.name))
            + unsettledPermits(ElectionMachine.self, [Self.election.name])
            + unsettledPermits(SemaphoreMachine.self, [Self.semaphore])
            + unsettledPermits(LeaseMachine.self, [Self.lease])
            + Self.queues.filter { model(groupOf($0)).hasTimer($0) }.map { count(queue: $0, .linearizable, 0) }
            + Self.memberships.filter { model(groupOf($0)).hasTimer($0) }.map { list(members: $0, online: false) }
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
        requests.append(list(ElectionMachine.self, Self.election.name, waiters: false))
        requests.append(list(ElectionMachine.self, Self.election.name, waiters: true))
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
