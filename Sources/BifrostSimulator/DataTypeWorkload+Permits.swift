// What clients do with locks, elections, semaphores and leases, with what tokens guard, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    func changePermits(random: inout SeededRandom) -> SimulatedRequest {
        switch random.below(9) {
        case 7, 8: return changePermits(of: ElectionMachine.self, Self.election.name, limit: 1, random: &random)
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

    func list<Machine: PermitMachine>(
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

    func changeGuarded(random: inout SeededRandom) -> SimulatedRequest {
        let lock = random.below(3) == 0 ? Self.election : Self.locks[0]
        let known = tokens[lock] ?? 1
        let token = random.below(3) == 0 ? UInt64(random.below(known + 1)) : known
        var request = command(ValueSet(pick(Self.guarded, &random), someValue(&random)))
        request.guardToken = FencingToken(token, of: lock.name, machine: lock.machine)
        return request
    }

    func unsettledPermits<Machine: PermitMachine>(
        _: Machine.Type, _ names: [Bytes]
    ) -> [SimulatedRequest] {
        names.filter { model(groupOf($0)).hasTimer(PermitName(machine: Machine.number, name: $0)) }.map {
            list(Machine.self, $0, waiters: true)
        }
    }
}
