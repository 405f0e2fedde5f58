// Who owned which slot at which epoch, over all maps that any host ever went by. Owns the facts; refuses to know which
// map is whose.

import Primitives
import Ring

struct SlotOwners {
    private struct Place: Hashable {
        var slot: Slot
        var epoch: Epoch
    }

    /// The newest tables differ little from each other and come again and again: what is known is told at once.
    private var known: [SlotTable] = []
    /// By slot, the first that was heard of; owners at other epochs stand in `others`.
    private var first: [(epoch: Epoch, owner: GroupID?)] = []
    private var others: [Place: GroupID?] = [:]
    private static let knownMax = 4

    /// Takes a table in. Nil, or where it contradicts one before: the slot, its epoch, its owner here, and there.
    mutating func insert(_ table: SlotTable) -> (Slot, Epoch, GroupID, GroupID)? {
        if known.contains(table) { return nil }
        for number in 0..<Slot.count {
            let slot = Slot(UInt16(number))
            let epoch = table.epoch(of: slot)
            let owner = table.owner(of: slot)
            if number == first.count { first.append((epoch, owner)) }
            var there = first[number].owner
            if first[number].epoch != epoch {
                let place = Place(slot: slot, epoch: epoch)
                there = others[place] ?? owner
                others[place] = .some(there)
            }
            if there != owner { return (slot, epoch, owner ?? .meta, there ?? .meta) }
        }
        if known.count == Self.knownMax { known.removeFirst() }
        known.append(table)
        return nil
    }
}
