// What clients watch of data types.

import DataTypes
import Messages
import Primitives
import StateMachines

/// Something of an object, by the keys under which hosts tell it.
struct WatchedObject {
    let name: Bytes
    let machine: SubMachineNumber
    let from: Bytes
    let end: Bytes?
    /// A query whose answer says at which revision its group is.
    let moment: MachineRequest

    /// - Parameter prefix: how the keys begin.
    init<Query: MachineQuery>(_ moment: Query, prefix: Bytes) {
        self.init(moment, from: prefix, end: prefix.endOfPrefix)
    }

    /// One key alone.
    init<Query: MachineQuery>(_ moment: Query, key: Bytes) { self.init(moment, from: key, end: Bytes(key.array + [0])) }

    init<Query: MachineQuery>(_ moment: Query, from: Bytes, end: Bytes?) {
        name = moment.key
        machine = Query.Machine.number
        self.from = from
        self.end = end
        self.moment = MachineRequest(moment)
    }
}

extension DataTypeWorkload {
    /// What a client watches from now on.
    func nextWatch(random: inout SeededRandom) -> WatchedObject {
        switch random.below(16) {
        case 0:
            let name = pick(Self.values + Self.guarded + [Self.besideMembership], &random)
            return WatchedObject(ValueGet(name), key: ValueMachine.watchKey(name))
        case 1:
            let name = pick(Self.numbers, &random)
            return WatchedObject(NumberGet(name), key: NumberMachine.watchKey(name))
        case 2...5:
            let name = pick(Self.maps, &random)
            return elements(MapCount(name), of: name, &random)
        case 6, 7:
            let name = pick(Self.sets, &random)
            return elements(SetCount(name), of: name, &random)
        case 8, 9:
            let name = pick(Self.arrays, &random)
            return WatchedObject(ArrayCount(name), prefix: ArrayMachine.watchKey(name))
        case 10:
            let name = pick(Self.queues, &random)
            // One who waits, or all who do.
            return random.below(3) == 0
                ? WatchedObject(QueueCount(name), key: QueueMachine.watchKey(name, 1 + random.below(12)))
                : WatchedObject(
                    QueueCount(name), from: QueueMachine.watchKey(name, 0), end: QueueMachine.watchKey(name, .max))
        case 11, 12:
            switch random.below(6) {
            case 4, 5: return permits(ElectionMachine.self, Self.election.name, &random)
            case 0: return permits(SemaphoreMachine.self, Self.semaphore, &random)
            case 1: return permits(LeaseMachine.self, Self.lease, &random)
            default: return permits(LockMachine.self, pick(Self.locks.map(\.name), &random), &random)
            }
        case 13, 14:
            let name = pick(Self.memberships, &random)
            let moment = MembershipList(name, entriesMax: 1)
            return random.below(3) == 0
                ? WatchedObject(moment, key: MembershipMachine.leaderKey(name))
                : WatchedObject(
                    moment, from: MembershipMachine.leaderKey(name), end: MembershipMachine.endOfWatch(name))
        default:
            if random.below(2) == 0 {
                let name = pick(Self.latches, &random)
                return WatchedObject(LatchShow(name), key: LatchMachine.stateKey(name))
            }
            let name = pick(Self.barriers, &random)
            return WatchedObject(
                BarrierShow(name),
                key: random.below(3) == 0 ? BarrierMachine.openKey(name) : BarrierMachine.stateKey(name))
        }
    }

    /// Of a map or set: all of it, what begins alike, or one alone.
    private func elements(
        _ moment: some MachineQuery, of name: Bytes, _ random: inout SeededRandom
    ) -> WatchedObject {
        let key = ObjectKey(name)
        switch random.below(5) {
        case 0, 1: return WatchedObject(moment, prefix: key.watchKey(Bytes()))
        case 2: return WatchedObject(moment, prefix: key.watchKey(random.below(2) == 0 ? "k1" : "many"))
        default: return WatchedObject(moment, key: key.watchKey(someKey(&random)))
        }
    }

    /// Who has some, or also who waits.
    private func permits<Machine: PermitMachine>(
        _: Machine.Type, _ name: Bytes, _ random: inout SeededRandom
    ) -> WatchedObject {
        let moment = PermitList<Machine>(name, entriesMax: 1)
        let holders = Machine.holdersKey(name)
        return random.below(2) == 0
            ? WatchedObject(moment, prefix: holders)
            : WatchedObject(moment, from: holders, end: ObjectKey(name).record(PermitPart.sessions))
    }
}
