// Who should lead which group, so that hosts lead in proportion to their weights. Knows hosts and groups by position.

/// Leaders over hosts: greedily, then levelled by passing leads along chains of groups.
struct LeaderBalance {
    let weights: [UInt64]
    /// Hosts of each group.
    private var members: [[Int]] = []
    /// Host that leads each group.
    private(set) var leader: [Int] = []
    private var count: [UInt64]
    /// Groups that each host leads, ascending.
    private var led: [[Int]]

    /// - Parameter leaders: who leads already; where it is nil, or if it is left out, the emptiest host gets the lead.
    init(weights: [UInt64], members: [[Int]], leaders: [Int?] = []) {
        self.weights = weights
        count = Array(repeating: 0, count: weights.count)
        led = Array(repeating: [], count: weights.count)
        // Those that lead already first: they are the loads that the others see.
        for host in leaders { if let host { count[host] += 1 } }
        for (group, hosts) in members.enumerated() {
            let present = group < leaders.count ? leaders[group] : nil
            if let present { count[present] -= 1 }
            add(hosts, present: present)
        }
    }

    /// The lead stays where it is, or goes to the host that has the fewest for its weight.
    mutating func add(_ hosts: [Int], present: Int? = nil) {
        var best = hosts[0]
        for host in hosts where (count[host] + 1) * weights[best] < (count[best] + 1) * weights[host] { best = host }
        let host = present ?? best
        led[host].append(members.count)
        members.append(hosts)
        leader.append(host)
        count[host] += 1
    }

    /// Passes leads from the fullest host to a much emptier one, along a chain of groups that reach from one to the
    /// other, until no chain helps. Each pass lowers the sum of squares of the loads, so it ends; the bound is for
    /// time.
    mutating func level() {
        var rounds = 4 * count.count + members.count
        var settled = Array(repeating: false, count: count.count)
        while rounds > 0 {
            var fullest: Int?
            for host in count.indices where !settled[host] {
                guard let other = fullest else { fullest = host; continue }
                if count[host] * weights[other] > count[other] * weights[host] { fullest = host }
            }
            guard let fullest else { return }
            rounds -= 1
            if pass(from: fullest) {
                settled = Array(repeating: false, count: count.count)
            } else {
                settled[fullest] = true
            }
        }
    }

    private mutating func pass(from source: Int) -> Bool {
        func helps(_ member: Int) -> Bool {
            count[source] * weights[member] > (count[member] + 1) * weights[source]
        }
        // Mostly nobody is that much emptier, and no chain need be looked for.
        guard count.indices.contains(where: helps) else { return false }
        /// Group through which the search came to a host.
        var via = Array(repeating: -1, count: count.count)
        var queue = [source]
        var next = 0
        while next < queue.count {
            let host = queue[next]
            next += 1
            for group in led[host] {
                for member in members[group] where member != source && via[member] < 0 {
                    via[member] = group
                    if helps(member) {
                        count[source] -= 1
                        count[member] += 1
                        var place = member
                        while place != source {
                            let group = via[place]
                            let giver = leader[group]
                            leader[group] = place
                            led[giver].remove(at: led[giver].place { $0 < group })
                            led[place].insert(group, at: led[place].place { $0 < group })
                            place = giver
                        }
                        return true
                    }
                    queue.append(member)
                }
            }
        }
        return false
    }
}
