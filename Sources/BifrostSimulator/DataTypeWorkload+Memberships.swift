// What clients do with memberships, barriers and latches, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    func changeMembership(random: inout SeededRandom) -> SimulatedRequest {
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

    func list(
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

    func changeBarrier(random: inout SeededRandom) -> SimulatedRequest {
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

    func show(latch: Bytes) -> SimulatedRequest {
        query(LatchShow(latch), .linearizable, 0) { found, model, index in
            let expected = model.latch(latch, at: index).state
            return found.state == expected
                ? nil : "\(String(describing: found.state)), not \(String(describing: expected))"
        }
    }
}
