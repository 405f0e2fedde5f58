// Which group should own which slot. Knows groups and slots by number.

import Primitives

/// Slots over groups: groups that are to have none get empty, new ones get their share, and who is out of bounds gives
/// or gets.
struct SlotBalance {
    /// What a group's slots come to.
    struct Load {
        /// Bytes with the overhead of each slot.
        var size = 0
        var operations = 0
        /// Both, in parts of all there is.
        var mixed = 0
    }

    struct Limits {
        var size: ClosedRange<Int>
        var operations: ClosedRange<Int>
    }

    private let state: RebalanceState
    /// By group; 0: it takes nothing.
    private let weight: [Double]
    /// Groups whose slots may be moved.
    private let isOpen: [Bool]
    /// Groups that had no slots at the beginning.
    private let isNew: [Bool]
    private let slotLoad: [Load]
    private(set) var total: Load
    /// Of each slot the group; -1: nobody.
    private(set) var owner: [Int]
    /// Of each group, ascending.
    private(set) var slots: [[Int]]
    private(set) var load: [Load]
    /// By group; nil: it takes nothing.
    private(set) var limits: [Limits?]
    /// What each group should have of all there is, in `mixed`.
    private let share: [Double]
    /// Loads of the groups that take slots in proportion to their weights, and the same with the other sign.
    private var emptiest: Tournament
    private var fullest: Tournament
    /// Moves that may still be made: a bound on time.
    private var movesLeft = 8 * Slot.count

    /// How many partners are looked at for one that is out of bounds.
    private static let partnersMax = 8
    /// How many groups a new one asks in vain.
    private static let refusalsMax = 64
    private static let roundsMax = 8

    init(_ state: RebalanceState) {
        self.state = state
        owner = state.owner
        let isOpen = zip(state.groups, state.isHindered).map { group, isHindered in
            group.id != .meta && group.state == .running && !isHindered
        }
        self.isOpen = isOpen
        let weight = zip(state.groups, isOpen).map { $1 ? Double($0.weight) : 0 }
        self.weight = weight
        var slots: [[Int]] = Array(repeating: [], count: state.groups.count)
        for (slot, group) in state.owner.enumerated() where group >= 0 { slots[group].append(slot) }
        self.slots = slots
        isNew = slots.map(\.isEmpty)

        let overhead = Int(min(state.rules.slotOverheadBytes, 1 << 40))
        var slotLoad = (0..<Slot.count).map { slot in
            Load(size: max(1, state.slotBytes[slot] + overhead), operations: state.slotOperations[slot])
        }
        var total = Load()
        for (slot, group) in state.owner.enumerated() where group >= 0 && isOpen[group] {
            total.size += slotLoad[slot].size
            total.operations += slotLoad[slot].operations
        }
        // Slots that are alike stay alike: the same division of the same numbers. Those that may not be moved can be any
        // multiple of what may: of no use to anything, and more than the type holds.
        let parts = Double(1 << 44)
        for slot in slotLoad.indices {
            let bySize = min(1, Double(slotLoad[slot].size) / Double(max(1, total.size)))
            let byOperations = min(1, Double(slotLoad[slot].operations) / Double(max(1, total.operations)))
            slotLoad[slot].mixed = max(1, Int((bySize + byOperations) * parts))
        }
        for (slot, group) in state.owner.enumerated() where group >= 0 && isOpen[group] {
            total.mixed += slotLoad[slot].mixed
        }
        self.slotLoad = slotLoad
        load = slots.map { slots in
            var load = Load()
            for slot in slots { load.add(slotLoad[slot]) }
            return load
        }
        self.total = total

        let weights = weight.reduce(0, +)
        let movable = slots.indices.reduce(0) { $0 + (isOpen[$1] ? slots[$1].count : 0) }
        share = weight.map { Double(total.mixed) * $0 / max(1, weights) }
        let rules = state.rules
        limits = weight.map { weight in
            guard weight > 0 else { return nil }
            func range(_ total: Int, _ percent: Int) -> ClosedRange<Int> {
                bounds(
                    around: Double(total) * weight / weights, percent: percent,
                    unit: Double(total) / Double(max(1, movable)))
            }
            return Limits(
                size: range(total.size, rules.bytesPercent),
                operations: range(total.operations, rules.operationsPercent))
        }
        emptiest = Tournament(Array(repeating: .infinity, count: slots.count))
        fullest = emptiest
        for group in slots.indices { refresh(group) }
    }

    /// Of each group, in one replica.
    var bytes: [Int] { slots.map { $0.reduce(0) { $0 + state.slotBytes[$1] } } }

    private func takes(_ group: Int) -> Bool { weight[group] > 0 }

    private mutating func refresh(_ group: Int) {
        guard takes(group) else { return }
        let key = Double(load[group].mixed) / weight[group]
        emptiest.set(group, key)
        fullest.set(group, -key)
    }

    private mutating func move(_ slot: Int, to target: Int) {
        let source = owner[slot]
        slots[source].remove(at: slots[source].place { $0 < slot })
        slots[target].insert(slot, at: slots[target].place { $0 < slot })
        owner[slot] = target
        load[source].subtract(slotLoad[slot])
        load[target].add(slotLoad[slot])
        refresh(source)
        refresh(target)
    }

    /// Each part depends on the present owners alone, and all are repeated until none finds anything: so the plan from
    /// the result is empty. Slots that went through several groups went from the first to the last.
    mutating func settle() {
        guard weight.contains(where: { $0 > 0 }) else { return }
        evacuate()
        for _ in 0..<Self.roundsMax {
            let hasFilled = fillNewcomers()
            let hasRepaired = repair()
            guard hasFilled || hasRepaired, slots.indices.contains(where: isNewcomer) else { return }
        }
    }

    /// Takes slots, and had none at the beginning or has none now.
    private func isNewcomer(_ group: Int) -> Bool { takes(group) && (isNew[group] || slots[group].isEmpty) }

    /// Slots of groups with weight 0, the heaviest first, go each to the group that has least for its weight.
    private mutating func evacuate() {
        var leaving: [Int] = []
        for group in slots.indices where isOpen[group] && !takes(group) { leaving += slots[group] }
        leaving.sort { (slotLoad[$1].mixed, $0) < (slotLoad[$0].mixed, $1) }
        for slot in leaving {
            if let group = emptiest.least() { move(slot, to: group) }
        }
    }

    /// A group that is new takes from the fullest, one slot after the other, until it has its share, what brings both
    /// closer to theirs (the divisors of Webster's method, as in `Shares`): that slot that prefers it most and fits.
    /// Of slots that are alike each group has its share, rounded down or up, if those before differed by one at most.
    /// Whether anything moved.
    private mutating func fillNewcomers() -> Bool {
        var hasMoved = false
        for newcomer in slots.indices where isNewcomer(newcomer) {
            /// By donor: its slots, those that prefer the newcomer most at the end. Looked up only.
            var offers: [Int: [Int]] = [:]
            var spent: [Int] = []
            fullest.set(newcomer, .infinity)
            while movesLeft > 0, spent.count < Self.refusalsMax, Double(load[newcomer].mixed) < share[newcomer],
                let donor = fullest.least()
            {
                guard -fullest.key(donor) > emptiest.key(newcomer) else { break }
                var offer = offers.removeValue(forKey: donor) ?? offered(by: donor, to: newcomer)
                // What does not fit now never will: the donor's load only falls, and the newcomer's rises.
                while let slot = offer.last, !fits(slot, from: donor, to: newcomer) { offer.removeLast() }
                if let slot = offer.popLast() {
                    movesLeft -= 1
                    hasMoved = true
                    move(slot, to: newcomer)
                    fullest.set(newcomer, .infinity)
                } else {
                    spent.append(donor)
                    fullest.set(donor, .infinity)
                }
                offers[donor] = offer
            }
            for group in spent + [newcomer] { refresh(group) }
        }
        return hasMoved
    }

    private func offered(by donor: Int, to newcomer: Int) -> [Int] {
        let id = state.groups[newcomer].id
        return slots[donor].map { preference(of: Slot(UInt16($0)), for: id) }.sorted().map {
            Int($0 & UInt64(Slot.count - 1))
        }
    }

    /// The sum of squares of loads, each divided by its weight, falls by the move.
    private func fits(_ slot: Int, from donor: Int, to newcomer: Int) -> Bool {
        let part = slotLoad[slot].mixed
        return Double(2 * load[donor].mixed - part) / weight[donor]
            > Double(2 * load[newcomer].mixed + part) / weight[newcomer]
    }

    // MARK: - Bounds

    /// By how much a group with such a load is out of bounds, in parts of all there is.
    private func strain(_ group: Int, _ load: Load) -> Double {
        guard let limits = limits[group] else { return 0 }
        var strain = Double(limits.size.distance(to: load.size)) / Double(max(1, total.size))
        if total.operations > 0 {
            strain += Double(limits.operations.distance(to: load.operations)) / Double(total.operations)
        }
        return strain
    }

    func strain(_ group: Int) -> Double { strain(group, load[group]) }

    /// Groups that are out of bounds give or get slots as long as that lowers the sum of strains. Whether anything
    /// moved.
    private mutating func repair() -> Bool {
        var hasMoved = false
        var goesOn = true
        while goesOn {
            goesOn = false
            for group in slots.indices where takes(group) {
                while movesLeft > 0, strain(group) > 0, relieve(group) {
                    movesLeft -= 1
                    goesOn = true
                    hasMoved = true
                }
            }
        }
        return hasMoved
    }

    private mutating func relieve(_ group: Int) -> Bool {
        guard let limits = limits[group] else { return false }
        let own = load[group]
        if own.size > limits.size.upperBound || own.operations > limits.operations.upperBound {
            for partner in Self.partners(of: group, in: &emptiest) {
                if let slot = best(from: group, to: partner) { move(slot, to: partner); return true }
            }
        }
        if own.size < limits.size.lowerBound || own.operations < limits.operations.lowerBound {
            for partner in Self.partners(of: group, in: &fullest) {
                if let slot = best(from: partner, to: group) { move(slot, to: group); return true }
            }
        }
        return false
    }

    /// The first of the tournament, but for the group itself.
    private static func partners(of group: Int, in tournament: inout Tournament) -> [Int] {
        var partners: [Int] = []
        var keys = [(group, tournament.key(group))]
        tournament.set(group, .infinity)
        while partners.count < partnersMax, let next = tournament.least() {
            partners.append(next)
            keys.append((next, tournament.key(next)))
            tournament.set(next, .infinity)
        }
        for (group, key) in keys { tournament.set(group, key) }
        return partners
    }

    /// The slot that lowers the strain most for its bytes; of equals the one that lowers it most, then the first.
    private func best(from source: Int, to target: Int) -> Int? {
        let before = strain(source) + strain(target)
        var best: (slot: Int, gain: Double, perByte: Double)?
        for slot in slots[source] {
            var (left, right) = (load[source], load[target])
            left.subtract(slotLoad[slot])
            right.add(slotLoad[slot])
            let gain = before - strain(source, left) - strain(target, right)
            // Less is nothing but rounding.
            guard gain > 1e-12 else { continue }
            let perByte = gain / Double(slotLoad[slot].size)
            if let other = best {
                let isAlike = abs(perByte - other.perByte) <= 1e-9 * other.perByte
                guard isAlike ? gain > other.gain : perByte > other.perByte else { continue }
            }
            best = (slot, gain, perByte)
        }
        return best?.slot
    }

    /// The group's heaviest slot, in parts of what the group may have at most; of bytes or operations, whichever is
    /// more.
    func heaviestPart(_ group: Int) -> Double {
        guard let limits = limits[group] else { return 0 }
        return slots[group].reduce(0) { most, slot in
            max(
                most, Double(slotLoad[slot].size) / Double(max(1, limits.size.upperBound)),
                Double(slotLoad[slot].operations) / Double(max(1, limits.operations.upperBound)))
        }
    }
}

extension SlotBalance.Load {
    mutating func add(_ other: Self) {
        size += other.size
        operations += other.operations
        mixed += other.mixed
    }

    mutating func subtract(_ other: Self) {
        size -= other.size
        operations -= other.operations
        mixed -= other.mixed
    }
}
