// Which host should have which replica. Knows hosts by position, zone by zone, and replicas by number, group by group.

import Primitives

/// Replicas over hosts. Every change is one move of one replica that is allowed where things stand, and lowers the
/// first of these that it changes: replicas on hosts that are to be empty; unevenness of zones; distance of hosts from
/// their bounds. So it ends, and a plan from its result is empty.
struct ReplicaBalance {
    struct Move {
        var group: Int
        /// Position in the group's members.
        var member: Int
        var from: Int
        var to: Int
        var reason: RebalancePlan.Reason
    }

    private let state: RebalanceState
    /// Bytes of each group with the overhead of a replica.
    let size: [Int]
    /// First replica of each group; and the number of all.
    private let start: [Int]
    private let group: [Int]
    private var host: [Int]
    /// Replicas of each host, in no order that anything depends on.
    private var replicas: [[Int]]
    /// Where each replica stands in its host's list.
    private var index: [Int]
    private var wasMovedForZones: [Bool]

    /// What each host should have: its weight's share, as far as zones, capacities and the number of groups allow it.
    let target: [Double]
    /// What zones should have by weight, and what they are given instead.
    let zones: [(name: String, share: Double, given: Double)]
    private(set) var load: [Int]
    let limits: [ClosedRange<Int>]
    private let before: [Int]

    /// By load for the target; hosts that take nothing have no key.
    private var emptiest: Tournament
    /// The same with the other sign.
    private var fullest: Tournament
    /// By bytes below the upper bound.
    private var roomiest: Tournament

    /// How many hosts without room are passed over before all are looked at.
    private static let misfitsMax = 16
    private static let roundsMax = 64

    init(_ state: RebalanceState, groupBytes: [Int]) {
        self.state = state
        let overhead = Int(min(state.rules.replicaOverheadBytes, 1 << 40))
        let size = groupBytes.map { max(1, $0 + overhead) }
        self.size = size
        var start: [Int] = []
        var group: [Int] = []
        var host: [Int] = []
        var replicas: [[Int]] = Array(repeating: [], count: state.hosts.count)
        var index: [Int] = []
        var load = Array(repeating: 0, count: state.hosts.count)
        for (place, members) in state.members.enumerated() {
            start.append(host.count)
            for member in members {
                index.append(replicas[member.host].count)
                replicas[member.host].append(host.count)
                load[member.host] += size[place]
                group.append(place)
                host.append(member.host)
            }
        }
        start.append(host.count)
        self.start = start
        self.group = group
        self.host = host
        self.replicas = replicas
        self.index = index
        wasMovedForZones = Array(repeating: false, count: size.count)
        self.load = load
        before = load
        let targets = HostTargets(state, size: size)
        let target = targets.target
        self.target = target
        zones = targets.zones
        let mean = Double(load.reduce(0, +)) / Double(max(1, host.count))
        limits = target.indices.map { place in
            let range = bounds(around: target[place], percent: state.rules.bytesPercent, unit: mean)
            let high = min(range.upperBound, state.capacity[place])
            return min(range.lowerBound, high)...high
        }
        emptiest = Tournament(Array(repeating: .infinity, count: load.count))
        fullest = emptiest
        roomiest = emptiest
        for place in load.indices { refresh(place) }
    }

    private mutating func refresh(_ place: Int) {
        guard state.kind[place] == .taking else { return }
        let key = Double(load[place]) / max(1, target[place])
        let hasRoom = load[place] < state.capacity[place]
        emptiest.set(place, hasRoom ? key : .infinity)
        roomiest.set(place, hasRoom ? Double(load[place] - limits[place].upperBound) : .infinity)
        fullest.set(place, -key)
    }

    private mutating func move(_ replica: Int, to target: Int) {
        let source = host[replica]
        let last = replicas[source].removeLast()
        if last != replica {
            replicas[source][index[replica]] = last
            index[last] = index[replica]
        }
        index[replica] = replicas[target].count
        replicas[target].append(replica)
        host[replica] = target
        load[source] -= size[group[replica]]
        load[target] += size[group[replica]]
        refresh(source)
        refresh(target)
    }

    mutating func settle() {
        for _ in 0..<Self.roundsMax {
            let hasEvacuated = evacuate()
            let hasSpread = spread()
            let hasPushed = push()
            let hasPulled = pull()
            guard hasEvacuated || hasSpread || hasPushed || hasPulled else { return }
        }
    }

    // MARK: - What may go where

    private func members(_ group: Int) -> Range<Int> { start[group]..<start[group + 1] }

    private func isMovable(_ replica: Int) -> Bool {
        !state.isMoving[group[replica]] && state.kind[host[replica]] != .resting
    }

    /// How many others of the replica's group stand in a zone.
    private func others(than replica: Int, in zone: Int) -> Int {
        members(group[replica]).reduce(0) { $0 + ($1 != replica && state.zone[host[$1]] == zone ? 1 : 0) }
    }

    private func isFitting(_ replica: Int, _ place: Int) -> Bool {
        load[place] + size[group[replica]] <= state.capacity[place]
    }

    /// No other of the group is there, no zone gets more of it than the replica's had, and there is room.
    private func isAllowed(_ replica: Int, to place: Int) -> Bool {
        isFitting(replica, place) && members(group[replica]).allSatisfy { host[$0] != place }
            && (state.zone[place] == state.zone[host[replica]]
                || others(than: replica, in: state.zone[place]) <= others(than: replica, in: state.zone[host[replica]]))
    }

    /// The first host of the tournament that has room for the replica, none of its group, and stands in a zone with
    /// `crowd` of the others at most. O(r² + r log H) for r replicas of the group, as long as hosts have room.
    private func first(of tournament: Tournament, for replica: Int, crowd: Int) -> Int? {
        var closed: [Range<Int>] = []
        for member in members(group[replica]) {
            let place = host[member]
            let zone = state.zone[place]
            closed.append(others(than: replica, in: zone) > crowd ? state.zones[zone] : place..<place + 1)
        }
        for _ in 0..<Self.misfitsMax {
            guard let place = Self.first(of: tournament, outside: closed) else { return nil }
            if isFitting(replica, place) { return place }
            closed.append(place..<place + 1)
        }
        var best: Int?
        for place in load.indices
        where tournament.key(place) < .infinity && isFitting(replica, place)
            && !closed.contains(where: { $0.contains(place) })
        {
            if let other = best, tournament.key(other) <= tournament.key(place) { continue }
            best = place
        }
        return best
    }

    private static func first(of tournament: Tournament, outside closed: [Range<Int>]) -> Int? {
        var best: Int?
        var next = 0
        func look(_ range: Range<Int>) {
            guard !range.isEmpty, let found = tournament.least(in: range) else { return }
            if let other = best, tournament.key(other) <= tournament.key(found) { return }
            best = found
        }
        for range in closed.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if next < range.lowerBound { look(next..<range.lowerBound) }
            next = max(next, range.upperBound)
        }
        if next < tournament.count { look(next..<tournament.count) }
        return best
    }

    // MARK: - Hosts that are to be empty, and zones

    /// From hosts that are to be empty, the largest first, to the zone that has the fewest of the group.
    private mutating func evacuate() -> Bool {
        var leaving: [Int] = []
        for place in replicas.indices where state.kind[place] == .leaving {
            leaving += replicas[place].filter(isMovable)
        }
        leaving.sort { (size[group[$1]], $0) < (size[group[$0]], $1) }
        var hasMoved = false
        for replica in leaving {
            for crowd in 0..<members(group[replica]).count {
                guard let place = first(of: emptiest, for: replica, crowd: crowd) else { continue }
                move(replica, to: place)
                hasMoved = true
                break
            }
        }
        return hasMoved
    }

    /// Groups give from the zone that has most of them to one that has two fewer, as long as there is a host.
    private mutating func spread() -> Bool {
        var hasMoved = false
        for place in size.indices where !state.isMoving[place] {
            while let (replica, target) = excess(of: place) {
                move(replica, to: target)
                wasMovedForZones[place] = true
                hasMoved = true
            }
        }
        return hasMoved
    }

    /// Of the zone that has most of a group: the replica on the fullest host, and where it should be.
    private func excess(of group: Int) -> (replica: Int, target: Int)? {
        var most: (replica: Int, crowd: Int, fullness: Double)?
        for replica in members(group) where state.kind[host[replica]] == .taking {
            let crowd = others(than: replica, in: state.zone[host[replica]])
            let fullness = Double(load[host[replica]]) / max(1, target[host[replica]])
            if let other = most, (other.crowd, other.fullness) >= (crowd, fullness) { continue }
            most = (replica, crowd, fullness)
        }
        guard let most, most.crowd > 0 else { return nil }
        for crowd in 0..<most.crowd {
            if let place = first(of: emptiest, for: most.replica, crowd: crowd) { return (most.replica, place) }
        }
        return nil
    }

    // MARK: - Bounds

    /// What a move changes in the distances of both hosts from their bounds.
    private func change(_ replica: Int, to place: Int) -> Int {
        let (source, size) = (host[replica], size[group[replica]])
        return limits[source].distance(to: load[source] - size) + limits[place].distance(to: load[place] + size)
            - limits[source].distance(to: load[source]) - limits[place].distance(to: load[place])
    }

    /// Hosts that have too much give: first what is not more than they must, the largest first; then the smallest.
    private mutating func push() -> Bool {
        let full = limits.indices.filter { state.kind[$0] == .taking && load[$0] > limits[$0].upperBound }
            .sorted {
                (load[$1] - limits[$1].upperBound, $0) < (load[$0] - limits[$0].upperBound, $1)
            }
        var hasMoved = false
        for place in full {
            let offered = replicas[place].filter(isMovable)
                .sorted { (size[group[$1]], $0) < (size[group[$0]], $1) }
            for replica in offered {
                let excess = load[place] - limits[place].upperBound
                guard excess > 0 else { break }
                if size[group[replica]] <= excess, relieve(of: replica) { hasMoved = true }
            }
            for replica in offered.reversed() where host[replica] == place {
                guard load[place] > limits[place].upperBound else { break }
                if relieve(of: replica) { hasMoved = true }
            }
        }
        return hasMoved
    }

    private mutating func relieve(of replica: Int) -> Bool {
        let crowd = others(than: replica, in: state.zone[host[replica]])
        var place = first(of: emptiest, for: replica, crowd: crowd)
        if let found = place, change(replica, to: found) >= 0 {
            place = first(of: roomiest, for: replica, crowd: crowd)
        }
        guard let place, change(replica, to: place) < 0 else { return false }
        move(replica, to: place)
        return true
    }

    /// Hosts that have too little get from the fullest.
    private mutating func pull() -> Bool {
        let empty = limits.indices.filter { state.kind[$0] == .taking && load[$0] < limits[$0].lowerBound }
            .sorted {
                (limits[$1].lowerBound - load[$1], $0) < (limits[$0].lowerBound - load[$0], $1)
            }
        var hasMoved = false
        for place in empty {
            var spent = [place]
            fullest.set(place, .infinity)
            while load[place] < limits[place].lowerBound, let source = fullest.least() {
                if let replica = gift(from: source, to: place) {
                    move(replica, to: place)
                    fullest.set(place, .infinity)
                    hasMoved = true
                } else {
                    // What does not help now will not when there is more here.
                    spent.append(source)
                    fullest.set(source, .infinity)
                }
            }
            for place in spent { refresh(place) }
        }
        return hasMoved
    }

    /// The largest replica that is not more than what lacks, or else the smallest.
    private func gift(from source: Int, to place: Int) -> Int? {
        guard load[source] > limits[source].lowerBound else { return nil }
        let lack = limits[place].lowerBound - load[place]
        var best: (replica: Int, rank: Int)?
        for replica in replicas[source] {
            let size = size[group[replica]]
            let rank = size <= lack ? lack - size : size
            if let other = best, (other.rank, other.replica) < (rank, replica) { continue }
            guard isMovable(replica), change(replica, to: place) < 0, isAllowed(replica, to: place) else { continue }
            best = (replica, rank)
        }
        return best?.replica
    }

    // MARK: - Result

    /// What of the replicas' ways remains: from the hosts that a group leaves to those that it did not have. Groups
    /// that leave hosts that are to be empty come first, then those for zones; within that by group.
    func moves() -> [Move] {
        var moves: [Move] = []
        for place in size.indices {
            let old = state.members[place].map(\.host)
            let new = members(place).map { host[$0] }
            var left = old.filter { !new.contains($0) }.sorted()
            var found = new.filter { !old.contains($0) }.sorted()
            var present = old
            while !left.isEmpty {
                let (from, to) = pair(left, found, present)
                let member = old.firstIndex(of: left[from])!
                moves.append(
                    Move(
                        group: place, member: member, from: left[from], to: found[to],
                        reason: reason(place, from: left[from])))
                present[member] = found[to]
                left.remove(at: from)
                found.remove(at: to)
            }
        }
        return moves.enumerated().sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }
            .map(\.element)
    }

    /// Within a zone if that is possible; else from where there are most of the group to where there are fewest, so
    /// that no zone is lost on the way.
    private func pair(_ left: [Int], _ found: [Int], _ present: [Int]) -> (from: Int, to: Int) {
        func count(_ place: Int) -> Int { present.count { state.zone[$0] == state.zone[place] } }
        for from in left.indices {
            if let to = found.firstIndex(where: { state.zone[$0] == state.zone[left[from]] }) { return (from, to) }
        }
        var best = (from: 0, to: 0)
        for from in left.indices where count(left[from]) > count(left[best.from]) { best.from = from }
        for to in found.indices where count(found[to]) < count(found[best.to]) { best.to = to }
        return best
    }

    private func reason(_ group: Int, from: Int) -> RebalancePlan.Reason {
        if state.hosts[from].state == .draining { return .hostDrains }
        if state.kind[from] == .leaving { return .hostHasNoWeight }
        if wasMovedForZones[group] { return .zones }
        return before[from] > limits[from].upperBound ? .hostIsFull : .hostIsEmpty
    }

    /// Whether the zones of a group differ by more than one, though not for want of a move under way.
    func isUneven(_ group: Int) -> Bool {
        guard !state.isMoving[group] else { return false }
        let crowd = members(group).reduce(0) { most, replica in
            max(most, others(than: replica, in: state.zone[host[replica]]) + 1)
        }
        guard crowd > 1 else { return false }
        return state.zones.contains { zone in
            let present = members(group).map { host[$0] }.filter { zone.contains($0) }
            return present.count + 2 <= crowd
                && zone.contains { state.kind[$0] == .taking && !present.contains($0) }
        }
    }
}

extension ReplicaBalance.Move {
    fileprivate var rank: Int {
        switch reason {
        case .hostDrains, .hostHasNoWeight: 0
        case .zones: 1
        default: 2
        }
    }
}

/// What each host should have. Its weight's share, unless zones or capacities forbid it: each zone has a number of
/// replicas of each group that is given up to one, and a host has one of each at most. What cannot be there is spread
/// over the others in proportion to their weights, which is the level that water finds in connected vessels.
struct HostTargets {
    private(set) var target: [Double]
    /// The weight's share of each zone, without regard to anything else, and what it is given.
    private(set) var zones: [(name: String, share: Double, given: Double)] = []

    init(_ state: RebalanceState, size: [Int]) {
        target = Array(repeating: 0, count: state.hosts.count)
        let taking = state.kind.indices.filter { state.kind[$0] == .taking }
        guard !taking.isEmpty else { return }
        let counts = state.zones.map { zone in zone.count { state.kind[$0] == .taking } }

        /// By the number of replicas that are to be placed: the bytes of the groups that have so many, one replica
        /// each.
        var bytes: [Double] = Array(repeating: 0, count: ClusterMap.replicasPerGroupMax + 1)
        for (group, members) in state.members.enumerated() {
            let placed = members.count { member in
                state.kind[member.host] == .taking
                    || state.kind[member.host] == .leaving && !state.isMoving[group]
            }
            bytes[min(placed, taking.count, ClusterMap.replicasPerGroupMax)] += Double(size[group])
        }
        var total = 0.0
        var least = Array(repeating: 0.0, count: counts.count)
        var most = least
        for (replicas, bytes) in bytes.enumerated() where bytes > 0 && replicas > 0 {
            total += bytes * Double(replicas)
            var level = 1
            while counts.reduce(0, { $0 + min(level, $1) }) < replicas { level += 1 }
            for zone in counts.indices {
                least[zone] += bytes * Double(min(level - 1, counts[zone]))
                most[zone] += bytes * Double(min(level, counts[zone]))
            }
        }
        let each = bytes.dropFirst().reduce(0, +)
        let room = state.capacity.map { min(Double($0), each) }
        for zone in counts.indices {
            let all = state.zones[zone].reduce(0) { $0 + (state.kind[$1] == .taking ? room[$1] : 0) }
            most[zone] = min(most[zone], all)
            least[zone] = min(least[zone], all)
        }

        func weight(_ place: Int) -> Double { state.kind[place] == .taking ? Double(state.hosts[place].weight) : 0 }
        let weights = state.zones.map { $0.reduce(0) { $0 + weight($1) } }
        let all = weights.reduce(0, +)
        let level = waterLevel(of: total) { level in
            weights.indices.reduce(0) { $0 + max(least[$1], min(most[$1], level * weights[$1])) }
        }
        for zone in weights.indices where weights[zone] > 0 {
            let given = max(least[zone], min(most[zone], level * weights[zone]))
            let places = state.zones[zone].filter { state.kind[$0] == .taking }
            let level = waterLevel(of: given) { level in
                places.reduce(0) { $0 + min(room[$1], level * weight($1)) }
            }
            for place in places { target[place] = min(room[place], level * weight(place)) }
            let name = state.hosts[state.zones[zone].lowerBound].zone
            zones.append((name, total * weights[zone] / all, given))
        }
    }
}

/// The level at which `amount` is there; if there is none, one that is high enough for all that can be. By bisection:
/// `filled` never falls.
private func waterLevel(of amount: Double, filled: (Double) -> Double) -> Double {
    var high = 1.0
    for _ in 0..<200 where filled(high) < amount { high *= 2 }
    var low = 0.0
    for _ in 0..<80 {
        let middle = (low + high) / 2
        if filled(middle) < amount { low = middle } else { high = middle }
    }
    return high
}
