// Who should lead which group, so that hosts lead in proportion to their weights. Knows hosts and groups by position.

/// Leaders over hosts: greedily, then levelled by passing leads along chains of groups.
struct LeaderBalance {
    let weights: [UInt64]
    /// Hosts of each group.
    private(set) var members: [[Int]] = []
    /// Host that leads each group.
    private(set) var leader: [Int] = []
    private(set) var count: [UInt64]
    /// Groups that each host leads, ascending.
    private(set) var led: [[Int]]

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
    ///
    /// - Parameter limits: how many groups each host may lead, if that may be uneven: then leads are passed only as
    ///   long as somebody is out of them, and each pass lowers the sum of the distances from them.
    mutating func level(within limits: [ClosedRange<Int>] = []) {
        var rounds = 4 * count.count + members.count
        var settled = Array(repeating: false, count: count.count)
        while rounds > 0 {
            guard limits.isEmpty || count.indices.contains(where: { !limits[$0].contains(Int(count[$0])) }) else {
                return
            }
            var fullest: Int?
            for host in count.indices where !settled[host] {
                guard let other = fullest else { fullest = host; continue }
                if count[host] * weights[other] > count[other] * weights[host] { fullest = host }
            }
            guard let fullest else { return }
            rounds -= 1
            if pass(from: fullest, within: limits) {
                settled = Array(repeating: false, count: count.count)
            } else {
                settled[fullest] = true
            }
        }
    }

    private mutating func pass(from source: Int, within limits: [ClosedRange<Int>]) -> Bool {
        func helps(_ member: Int) -> Bool {
            if !limits.isEmpty { return distance(from: source, to: member, within: limits) < 0 }
            return count[source] * weights[member] > (count[member] + 1) * weights[source]
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
                        var place = member
                        while place != source {
                            let group = via[place]
                            let giver = leader[group]
                            hand(group, to: place)
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

    /// What a lead more at one and less at the other changes in their distances from the limits.
    func distance(from source: Int, to member: Int, within limits: [ClosedRange<Int>]) -> Int {
        let (own, other) = (Int(count[source]), Int(count[member]))
        return limits[source].distance(to: own - 1) + limits[member].distance(to: other + 1)
            - limits[source].distance(to: own) - limits[member].distance(to: other)
    }

    /// The host, a member of the group, leads it from now on.
    mutating func hand(_ group: Int, to host: Int) {
        let giver = leader[group]
        leader[group] = host
        led[giver].remove(at: led[giver].place { $0 < group })
        led[host].insert(group, at: led[host].place { $0 < group })
        count[giver] -= 1
        count[host] += 1
    }
}
