// In which order things move, what each step costs, and what was and will be.

import Primitives

/// Puts moves in an order in which each is allowed when its turn comes. Leads leave what is to move first. A group that
/// gets slots moves its replicas before, one that gives them afterwards: that is fewer bytes.
struct RebalanceSchedule {
    private enum Work {
        case slots([Int], from: Int, to: Int)
        case replica(ReplicaBalance.Move)
        case leader(Int, to: Int)
    }

    private let state: RebalanceState
    private let overhead: Int
    private var owner: [Int]
    private var hosts: [[Int]]
    private var leader: [Int?]
    private var groupBytes: [Int]
    private var groupOperations: [Int]
    private var groupSlots: [Int]
    private let hadSlots: [Bool]
    /// Bytes of each host with the overhead of its replicas.
    private var load: [Int]
    private var steps: [RebalancePlan.Step] = []
    private var stepBytes: UInt64 = 0

    init(_ state: RebalanceState) {
        self.state = state
        overhead = Int(min(state.rules.replicaOverheadBytes, 1 << 40))
        owner = state.owner
        var hosts: [[Int]] = []
        var leader: [Int?] = []
        for (members, position) in zip(state.members, state.leader) {
            hosts.append(members.map(\.host))
            leader.append(position.map { members[$0].host })
        }
        self.hosts = hosts
        self.leader = leader
        var bytes = Array(repeating: 0, count: hosts.count)
        var operations = bytes
        var slots = bytes
        for (slot, group) in state.owner.enumerated() where group >= 0 {
            bytes[group] += state.slotBytes[slot]
            operations[group] += state.slotOperations[slot]
            slots[group] += 1
        }
        groupBytes = bytes
        groupOperations = operations
        groupSlots = slots
        hadSlots = slots.map { $0 > 0 }
        var load = Array(repeating: 0, count: state.hosts.count)
        for (group, places) in hosts.enumerated() {
            for place in places { load[place] += bytes[group] + overhead }
        }
        self.load = load
    }

    mutating func run(
        slots: SlotBalance, replicas: ReplicaBalance, moves: [ReplicaBalance.Move], leads: LeadBalance
    ) -> RebalancePlan {
        let (hostsBefore, groupsBefore) = (hostFigures(), groupFigures())
        var pending = work(slots: slots, moves: moves, leads: leads)
        var isCut = false
        while !pending.isEmpty, !isCut {
            var left: [Work] = []
            for (place, work) in pending.enumerated() {
                guard hasRoom(for: work) else { left.append(work); continue }
                let (step, reason) = described(work)
                let bytes = bytes(of: work)
                guard steps.count < state.rules.stepsMax, stepBytes + bytes <= state.rules.bytesMax else {
                    isCut = true
                    left += pending[place...]
                    break
                }
                carryOut(work)
                steps.append(RebalancePlan.Step(move: step, reason: reason, bytes: bytes))
                stepBytes += bytes
            }
            guard left.count < pending.count else { break }
            pending = left
        }
        let (hostsAfter, groupsAfter) = (hostFigures(), groupFigures())
        let unreached =
            isCut
            ? [cut(pending.count)]
            : self.unreached(
                slots: slots, replicas: replicas, leads: leads, hosts: hostsAfter, waiting: pending.count)
        let order = state.hosts.indices.sorted { state.hosts[$0].id < state.hosts[$1].id }
        return RebalancePlan(
            steps: steps,
            hosts: order.map {
                RebalancePlan.HostChange(host: state.hosts[$0].id, before: hostsBefore[$0], after: hostsAfter[$0])
            },
            groups: state.groups.indices.map {
                RebalancePlan.GroupChange(group: state.groups[$0].id, before: groupsBefore[$0], after: groupsAfter[$0])
            },
            unreached: unreached)
    }

    // MARK: - Order

    private func work(slots: SlotBalance, moves: [ReplicaBalance.Move], leads: LeadBalance) -> [Work] {
        var finalHosts = hosts
        for move in moves { finalHosts[move.group][move.member] = move.to }
        var early: [Work] = []
        var late: [Work] = []
        for group in state.groups.indices {
            guard let target = leads.leader[group], let position = state.leader[group],
                target != finalHosts[group][position]
            else { continue }
            let isThere = hosts[group].indices.contains {
                hosts[group][$0] == target && finalHosts[group][$0] == target
            }
            let leaves = finalHosts[group][position] != hosts[group][position]
            if leaves, isThere {
                early.append(.leader(group, to: target))
            } else {
                late.append(.leader(group, to: target))
            }
        }

        var transfers: [(from: Int, to: Int, slot: Int)] = []
        for (slot, target) in slots.owner.enumerated() where target != state.owner[slot] {
            transfers.append((state.owner[slot], target, slot))
        }
        transfers.sort { $0 < $1 }
        var migrations: [Work] = []
        var start = 0
        while start < transfers.count {
            let (from, to, _) = transfers[start]
            var end = start
            while end < transfers.count, transfers[end].from == from, transfers[end].to == to { end += 1 }
            migrations.append(.slots(transfers[start..<end].map(\.slot), from: from, to: to))
            start = end
        }

        let finalBytes = slots.bytes
        let first = moves.filter { finalBytes[$0.group] >= groupBytes[$0.group] }
        let second = moves.filter { finalBytes[$0.group] < groupBytes[$0.group] }
        return early + first.map { .replica($0) } + migrations + second.map { .replica($0) } + late
    }

    private func hasRoom(for work: Work) -> Bool {
        switch work {
        case .replica(let move): return load[move.to] + groupBytes[move.group] + overhead <= state.capacity[move.to]
        case .leader(let group, let target):
            return state.members[group].indices.contains {
                hosts[group][$0] == target && state.members[group][$0].votes
            }
        case .slots(let slots, _, let target):
            let bytes = slots.reduce(0) { $0 + state.slotBytes[$1] }
            return hosts[target].allSatisfy { place in
                state.kind[place] == .taking && load[place] + bytes <= state.capacity[place]
            }
        }
    }

    private func bytes(of work: Work) -> UInt64 {
        switch work {
        case .replica(let move): return UInt64(groupBytes[move.group])
        case .leader: return 0
        case .slots(let slots, _, let target):
            return UInt64(slots.reduce(0) { $0 + state.slotBytes[$1] }) * UInt64(hosts[target].count)
        }
    }

    private mutating func carryOut(_ work: Work) {
        switch work {
        case .replica(let move):
            let size = groupBytes[move.group] + overhead
            load[move.from] -= size
            load[move.to] += size
            hosts[move.group][move.member] = move.to
            // The preference goes with the replica that has it.
            if leader[move.group] == move.from { leader[move.group] = move.to }
        case .leader(let group, let target):
            leader[group] = target
        case .slots(let slots, let source, let target):
            for slot in slots {
                owner[slot] = target
                for (group, sign) in [(source, -1), (target, 1)] {
                    groupBytes[group] += sign * state.slotBytes[slot]
                    groupOperations[group] += sign * state.slotOperations[slot]
                    groupSlots[group] += sign
                    for place in hosts[group] { load[place] += sign * state.slotBytes[slot] }
                }
            }
        }
    }

    private func described(_ work: Work) -> (RebalancePlan.Move, RebalancePlan.Reason) {
        switch work {
        case .replica(let move):
            let replica = state.members[move.group][move.member].replica
            return (
                .replica(
                    state.groups[move.group].id, replica, from: state.hosts[move.from].id, to: state.hosts[move.to].id),
                move.reason
            )
        case .leader(let group, let target):
            let source = leader[group] ?? target
            let place = state.leader[group].map { state.members[group][$0].host } ?? source
            let reason: RebalancePlan.Reason =
                state.hosts[place].state == .draining
                ? .hostDrains : state.kind[place] == .leaving ? .hostHasNoWeight : .leads
            return (
                .leader(state.groups[group].id, from: state.hosts[source].id, to: state.hosts[target].id), reason
            )
        case .slots(let slots, let source, let target):
            let reason: RebalancePlan.Reason =
                state.groups[source].weight == 0
                ? .groupLeaves : hadSlots[target] ? .groupIsUneven : .groupIsNew
            return (
                .slots(
                    slots.map { Slot(UInt16($0)) }, from: state.groups[source].id, to: state.groups[target].id), reason
            )
        }
    }

    // MARK: - Figures

    private func hostFigures() -> [RebalancePlan.Figures] {
        var figures = Array(repeating: RebalancePlan.Figures(), count: state.hosts.count)
        for group in state.groups.indices {
            for place in hosts[group] {
                figures[place].bytes += UInt64(groupBytes[group])
                figures[place].replicas += 1
            }
            guard let place = leader[group], state.groups[group].id != .meta else { continue }
            figures[place].leaders += 1
            figures[place].operations += UInt64(groupOperations[group])
            figures[place].slots += groupSlots[group]
        }
        return figures
    }

    private func groupFigures() -> [RebalancePlan.Figures] {
        state.groups.indices.map { group in
            var figures = RebalancePlan.Figures()
            figures.bytes = UInt64(groupBytes[group])
            figures.operations = UInt64(groupOperations[group])
            figures.replicas = hosts[group].count
            figures.leaders = leader[group] == nil ? 0 : 1
            figures.slots = groupSlots[group]
            return figures
        }
    }

    // MARK: - What is not reached

    private func cut(_ count: Int) -> RebalancePlan.Unreached {
        RebalancePlan.Unreached(
            subject: .plan,
            why:
                "\(count) more steps: \(state.rules.stepsMax) steps and \(state.rules.bytesMax) bytes are allowed"
        )
    }

    private func unreached(
        slots: SlotBalance, replicas: ReplicaBalance, leads: LeadBalance, hosts: [RebalancePlan.Figures], waiting: Int
    ) -> [RebalancePlan.Unreached] {
        var result: [RebalancePlan.Unreached] = []
        if waiting > 0 {
            result.append(
                RebalancePlan.Unreached(
                    subject: .plan,
                    why: "\(waiting) steps wait for room, or for a group's replica to leave a host that is to be empty")
            )
        }
        let uneven = state.groups.indices.count { replicas.isUneven($0) }
        if uneven > 0 {
            result.append(
                RebalancePlan.Unreached(
                    subject: .plan, why: "the zones of \(uneven) groups are uneven: no host there has room"))
        }
        for zone in replicas.zones where abs(zone.given - zone.share) * 100 > zone.share * percent {
            let part = Int((zone.given / zone.share * 100).rounded())
            result.append(
                RebalancePlan.Unreached(
                    subject: .zone(zone.name),
                    why: "its hosts have \(part) % of their weights' share: zones and capacities allow no other"))
        }
        for place in state.hosts.indices.sorted(by: { state.hosts[$0].id < state.hosts[$1].id }) {
            for why in lacks(of: place, replicas: replicas, leads: leads, has: hosts[place]) {
                result.append(RebalancePlan.Unreached(subject: .host(state.hosts[place].id), why: why))
            }
        }
        for group in state.groups.indices {
            if let why = lack(of: group, slots: slots) {
                result.append(RebalancePlan.Unreached(subject: .group(state.groups[group].id), why: why))
            }
        }
        return result
    }

    private var percent: Double { Double(state.rules.bytesPercent) }

    private func lacks(
        of place: Int, replicas: ReplicaBalance, leads: LeadBalance, has figures: RebalancePlan.Figures
    ) -> [String] {
        switch state.kind[place] {
        case .leaving:
            guard figures.replicas > 0 else { return [] }
            let moving = hosts.indices.count { state.isMoving[$0] && hosts[$0].contains(place) }
            let stay = figures.replicas == 1 ? "1 replica stays" : "\(figures.replicas) replicas stay"
            let members = moving == 1 ? "members of a group are" : "members of \(moving) groups are"
            let why: String
            if moving == 0 {
                why = "no other host may take \(figures.replicas == 1 ? "it" : "them")"
            } else if moving == figures.replicas {
                why = "\(members) changing"
            } else {
                why = "\(members) changing, and no other host may take the rest"
            }
            return ["\(stay): \(why)"]
        case .resting:
            guard figures.replicas > 0 else { return [] }
            let replicas = figures.replicas == 1 ? "replica" : "\(figures.replicas) replicas"
            return ["it is down, and keeps its \(replicas); drain it if it does not come back"]
        case .taking:
            var lacks: [String] = []
            let limits = replicas.limits[place]
            if !limits.contains(load[place]) {
                let part = Int((Double(load[place]) / max(1, replicas.target[place]) * 100).rounded())
                lacks.append(
                    "\(part) % of the bytes that it should have: no replica can move that makes it better")
            }
            if let limits = leads.leads[place], !limits.contains(figures.leaders) {
                lacks.append(
                    "\(figures.leaders) leads instead of \(limits.lowerBound) to \(limits.upperBound): "
                        + "its replicas allow no other")
            }
            if let limits = leads.operations[place], !limits.contains(Int(figures.operations)) {
                lacks.append(
                    "\(figures.operations) operations instead of \(limits.lowerBound) to \(limits.upperBound): "
                        + "no lead can move that makes it better")
            }
            return lacks
        }
    }

    private func lack(of group: Int, slots: SlotBalance) -> String? {
        let record = state.groups[group]
        guard record.id != .meta else { return nil }
        if record.weight == 0 {
            guard groupSlots[group] > 0 else { return nil }
            let why =
                record.state == .stopped
                ? "it is stopped"
                : state.isHindered[group]
                    ? "it has a replica on a host that is down or is to be empty"
                    : "no other group can take them"
            return groupSlots[group] == 1 ? "1 slot stays: \(why)" : "\(groupSlots[group]) slots stay: \(why)"
        }
        guard slots.strain(group) > 0 else { return nil }
        return slots.heaviestPart(group) > 0.5
            ? "out of bounds: one of its slots has more than half of what it may have"
            : "out of bounds: no slot can move that makes it better"
    }
}
