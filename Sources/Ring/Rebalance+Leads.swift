// Who should lead which group, with all replicas where they will be.

import Primitives

/// The outcome, by group and by host.
struct LeadBalance {
    /// Host that each group is to prefer; nil: it is left as it is.
    var leader: [Int?]
    /// By host; nil: it takes no leads.
    var leads: [ClosedRange<Int>?]
    var operations: [ClosedRange<Int>?]
}

extension RebalanceState {
    /// Leads that are out of bounds are passed on, in numbers first, then by operations; nothing else changes. Leads on
    /// hosts that are down stay, and so do those of groups whose members are changing. The meta group's is not counted.
    func leads(after moves: [ReplicaBalance.Move], operations: [Int]) -> LeadBalance {
        var hosts = members.map { $0.map(\.host) }
        for move in moves { hosts[move.group][move.member] = move.to }
        let taking = kind.indices.filter { kind[$0] == .taking }
        var number = Array(repeating: -1, count: kind.count)
        for (rank, place) in taking.enumerated() { number[place] = rank }

        var result = LeadBalance(
            leader: Array(repeating: nil, count: groups.count), leads: Array(repeating: nil, count: kind.count),
            operations: Array(repeating: nil, count: kind.count))
        guard !taking.isEmpty else { return result }
        /// Groups with those who may lead them, as numbers of taking hosts.
        var entries: [(group: Int, members: [Int], present: Int?)] = []
        for group in groups.indices {
            guard let leader = leader[group] else { continue }
            let place = hosts[group][leader]
            guard kind[place] != .resting else { continue }
            let present = kind[place] == .taking && members[group][leader].votes ? number[place] : nil
            if isMoving[group] {
                if let present { entries.append((group, [present], present)) }
                continue
            }
            let eligible = members[group].indices.filter {
                members[group][$0].votes && kind[hosts[group][$0]] == .taking
            }
            if !eligible.isEmpty { entries.append((group, eligible.map { number[hosts[group][$0]] }, present)) }
        }
        let data = entries.filter { groups[$0.group].id != .meta }
        let weights = taking.map { UInt64(self.hosts[$0].weight) }
        var balance = LeaderBalance(weights: weights, members: data.map(\.members), leaders: data.map(\.present))
        var work = LeadWork(
            operations: data.map { operations[$0.group] }, weights: weights, percent: rules.operationsPercent)
        let sum = Double(weights.reduce(0, +))
        let limits = weights.map {
            bounds(around: Double(data.count) * Double($0) / sum, percent: rules.leadersPercent, unit: 0)
        }
        // Each part lowers what it looks at, and the second raises nothing of the first; the number is for time.
        for _ in 0..<64 {
            balance.level(within: limits)
            guard work.relieve(&balance, within: limits) else { break }
        }
        for (rank, entry) in data.enumerated() { result.leader[entry.group] = taking[balance.leader[rank]] }
        if let meta = entries.first(where: { groups[$0.group].id == .meta }) {
            balance.add(meta.members, present: meta.present)
            result.leader[meta.group] = taking[balance.leader[data.count]]
        }
        for (rank, place) in taking.enumerated() {
            result.leads[place] = limits[rank]
            result.operations[place] = work.limits[rank]
        }
        return result
    }
}

/// Operations of the groups that hosts lead.
private struct LeadWork {
    let operations: [Int]
    let weights: [UInt64]
    let limits: [ClosedRange<Int>]
    private var load: [Int] = []

    init(operations: [Int], weights: [UInt64], percent: Int) {
        self.operations = operations
        self.weights = weights
        let total = Double(operations.reduce(0, +))
        let sum = Double(weights.reduce(0, +))
        limits = weights.map {
            bounds(
                around: total * Double($0) / sum, percent: percent, unit: total / Double(max(1, operations.count)))
        }
    }

    /// Hands on leads of hosts that do too much, and gives to those that do too little, as long as the sum of distances
    /// from the bounds falls, and that of the numbers of leads does not rise. Whether anything changed.
    mutating func relieve(_ balance: inout LeaderBalance, within leads: [ClosedRange<Int>]) -> Bool {
        load = balance.led.map { $0.reduce(0) { $0 + operations[$1] } }
        var hasChanged = false
        for host in order(by: { load[$0] - limits[$0].upperBound }) {
            let led = balance.led[host].sorted { (operations[$1], $0) < (operations[$0], $1) }
            for group in led {
                let excess = load[host] - limits[host].upperBound
                guard excess > 0 else { break }
                if operations[group] <= excess, hand(group, in: &balance, within: leads) { hasChanged = true }
            }
            for group in led.reversed() where balance.leader[group] == host {
                guard load[host] > limits[host].upperBound else { break }
                if hand(group, in: &balance, within: leads) { hasChanged = true }
            }
        }
        let idle = order(by: { limits[$0].lowerBound - load[$0] })
        guard !idle.isEmpty else { return hasChanged }
        var memberships: [[Int]] = Array(repeating: [], count: limits.count)
        for (group, members) in balance.members.enumerated() {
            for host in members { memberships[host].append(group) }
        }
        for host in idle {
            while load[host] < limits[host].lowerBound,
                supply(host, of: memberships[host], in: &balance, within: leads)
            {
                hasChanged = true
            }
        }
        return hasChanged
    }

    /// Hosts for which the number is above 0, the greatest first.
    private func order(by number: (Int) -> Int) -> [Int] {
        limits.indices.filter { number($0) > 0 }.sorted { (number($1), $0) < (number($0), $1) }
    }

    /// What so many operations more at one and less at the other change in their distances from the bounds.
    private func change(from source: Int, to host: Int, by part: Int) -> Int {
        limits[source].distance(to: load[source] - part) + limits[host].distance(to: load[host] + part)
            - limits[source].distance(to: load[source]) - limits[host].distance(to: load[host])
    }

    private func helps(_ group: Int, to host: Int, _ balance: LeaderBalance, within leads: [ClosedRange<Int>]) -> Bool {
        let source = balance.leader[group]
        return source != host && change(from: source, to: host, by: operations[group]) < 0
            && balance.distance(from: source, to: host, within: leads) <= 0
    }

    /// What the host gives for a group's lead so that both lead as many as before: that which helps most.
    private func exchange(_ group: Int, to host: Int, _ balance: LeaderBalance) -> (group: Int, change: Int)? {
        let source = balance.leader[group]
        guard source != host else { return nil }
        var best: (group: Int, change: Int)?
        for other in balance.led[host] {
            let change = change(from: source, to: host, by: operations[group] - operations[other])
            guard change < best?.change ?? 0, balance.members[other].contains(source) else { continue }
            best = (other, change)
        }
        return best
    }

    private mutating func carryOut(_ group: Int, to host: Int, in balance: inout LeaderBalance) {
        load[balance.leader[group]] -= operations[group]
        load[host] += operations[group]
        balance.hand(group, to: host)
    }

    /// To that member which does least for its weight; or for another lead, if the numbers of leads allow no more.
    private mutating func hand(
        _ group: Int, in balance: inout LeaderBalance, within leads: [ClosedRange<Int>]
    ) -> Bool {
        var best: (host: Int, fullness: Double)?
        for host in balance.members[group] where helps(group, to: host, balance, within: leads) {
            let fullness = Double(load[host]) / Double(weights[host])
            if let other = best, other.fullness <= fullness { continue }
            best = (host, fullness)
        }
        if let best {
            carryOut(group, to: best.host, in: &balance)
            return true
        }
        var swap: (host: Int, other: Int, change: Int)?
        for host in balance.members[group] {
            guard let found = exchange(group, to: host, balance), found.change < swap?.change ?? 0 else { continue }
            swap = (host, found.group, found.change)
        }
        guard let swap else { return false }
        let source = balance.leader[group]
        carryOut(group, to: swap.host, in: &balance)
        carryOut(swap.other, to: source, in: &balance)
        return true
    }

    /// The host gets a lead from elsewhere; or one for one of its own.
    private mutating func supply(
        _ host: Int, of groups: [Int], in balance: inout LeaderBalance, within leads: [ClosedRange<Int>]
    ) -> Bool {
        if let group = gift(to: host, of: groups, balance, within: leads) {
            carryOut(group, to: host, in: &balance)
            return true
        }
        var swap: (group: Int, other: Int, change: Int)?
        for group in groups {
            guard let found = exchange(group, to: host, balance), found.change < swap?.change ?? 0 else { continue }
            swap = (group, found.group, found.change)
        }
        guard let swap else { return false }
        let source = balance.leader[swap.group]
        carryOut(swap.group, to: host, in: &balance)
        carryOut(swap.other, to: source, in: &balance)
        return true
    }

    /// The group with most operations that has not more than lack, or else with the fewest.
    private func gift(
        to host: Int, of groups: [Int], _ balance: LeaderBalance, within leads: [ClosedRange<Int>]
    ) -> Int? {
        let lack = limits[host].lowerBound - load[host]
        var best: (group: Int, rank: Int)?
        for group in groups {
            let rank = operations[group] <= lack ? lack - operations[group] : operations[group]
            if let other = best, other.rank <= rank { continue }
            if helps(group, to: host, balance, within: leads) { best = (group, rank) }
        }
        return best?.group
    }
}
