// The ring's table by consistent hashing with bounded loads.

public import Primitives

extension Planner {
    /// The first table, at epoch 1: the groups enter one after the other, by ascending id, and each takes its share
    /// as in `slots(for:joining:among:)`. So the table of N + 1 groups is the table of N groups but for the slots that
    /// the last one took, and no group has more than its weight's share, rounded, and one slot.
    public static func initialTable(groups: [GroupWeight]) throws(PlannerError) -> SlotTable {
        let groups = groups.sorted { $0.group < $1.group }
        for (position, group) in groups.enumerated() {
            guard group.group != .meta else { throw PlannerError("the meta group owns no slots") }
            guard position == 0 || groups[position - 1].group != group.group else {
                throw PlannerError("group \(group.group) is named twice")
            }
        }
        guard let first = groups.firstIndex(where: { $0.weight > 0 }) else {
            throw PlannerError("no group has a weight above 0, so nobody can own the slots")
        }
        var shares = Shares(groups: [groups[first]], owner: { _ in groups[first].group })
        for newcomer in groups.dropFirst(first + 1) { _ = shares.add(newcomer) }
        return SlotTable(epoch: SlotTable.firstEpoch, owners: shares.owners())
    }

    /// The slots that a new group takes from the present owners: about its weight's share, and nothing else moves.
    ///
    /// The load bound of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018) says how
    /// many each owner gives: always the one with the most slots for its weight gives the next one, so that the loads
    /// stay level. Which ones it gives is decided by rendezvous hashing (Thaler, Ravishankar, 1998): those that prefer
    /// the newcomer most. Ascending.
    public static func slots(for newcomer: GroupWeight, joining table: SlotTable, among groups: [GroupWeight]) -> [Slot]
    {
        var shares = Shares(groups: groups.filter { $0.group != newcomer.group }.sorted { $0.group < $1.group }) {
            table.owner(of: $0)
        }
        return shares.add(newcomer)
    }
}

/// Who has which slots while groups enter.
private struct Shares {
    struct Share {
        var group: GroupID
        var weight: UInt64
        var slots: [Slot] = []
    }
    /// Ascending by group, up to the newcomers, which come in their own order.
    var shares: [Share]

    /// Slots of groups that are not named are nobody's, and stay where they are.
    init(groups: [Planner.GroupWeight], owner: (Slot) -> GroupID?) {
        shares = groups.map { Share(group: $0.group, weight: UInt64($0.weight)) }
        for number in 0..<UInt16(Slot.count) {
            guard let owner = owner(Slot(number)), let place = position(of: owner) else { continue }
            shares[place].slots.append(Slot(number))
        }
    }

    mutating func add(_ newcomer: Planner.GroupWeight) -> [Slot] {
        let weights = shares.reduce(UInt64(newcomer.weight)) { $0 + $1.weight }
        var taken: [Slot] = []
        if weights > 0 {
            let goal = (2 * UInt64(Slot.count) * UInt64(newcomer.weight) + weights) / (2 * weights)
            for (place, count) in gifts(Int(goal)).enumerated() where count > 0 {
                var preferring = shares[place].slots.map { preference(of: $0, for: newcomer.group) }
                preferring.sort(by: >)
                let slots = preferring.map { Slot(UInt16($0 & UInt64(Slot.count - 1))) }
                taken += slots[..<count]
                shares[place].slots = Array(slots[count...])
            }
        }
        taken.sort()
        shares.append(Share(group: newcomer.group, weight: UInt64(newcomer.weight), slots: taken))
        return taken
    }

    /// How many slots each group gives so that a newcomer gets `goal`, or all there are.
    private func gifts(_ goal: Int) -> [Int] {
        var counts = shares.map { UInt64($0.slots.count) }
        for _ in 0..<goal {
            // The fullest: largest (count - 1/2) / weight (the divisors of Webster's method, which favours neither
            // large nor small groups); weight 0 is the fullest of all as long as it has a slot. Ties: the first.
            var fullest: Int?
            for place in counts.indices where counts[place] > 0 {
                guard let other = fullest else { fullest = place; continue }
                if (2 * counts[place] - 1) * shares[other].weight > (2 * counts[other] - 1) * shares[place].weight {
                    fullest = place
                }
            }
            guard let fullest else { break }
            counts[fullest] -= 1
        }
        return zip(shares, counts).map { $0.slots.count - Int($1) }
    }

    /// Every slot's owner; only when all slots have one.
    func owners() -> [GroupID] {
        var owners = Array(repeating: GroupID.meta, count: Slot.count)
        for share in shares { for slot in share.slots { owners[Int(slot.rawValue)] = share.group } }
        return owners
    }

    private func position(of group: GroupID) -> Int? {
        var low = 0
        var high = shares.count
        while low < high {
            let middle = (low + high) / 2
            if shares[middle].group < group { low = middle + 1 } else { high = middle }
        }
        return low < shares.count && shares[low].group == group ? low : nil
    }
}

/// How much a slot wants to belong to a group: rendezvous hashing. The slot itself is in the lowest 14 bits, so that no
/// two are equal.
func preference(of slot: Slot, for group: GroupID) -> UInt64 {
    let low = UInt64(Slot.count - 1)
    return mix(mix(UInt64(group.rawValue)) ^ UInt64(slot.rawValue)) & ~low | UInt64(slot.rawValue)
}
