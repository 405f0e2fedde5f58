// What a group's saved state says of slots, held against a map: whether a cluster can be made of it. Owns no files, and
// mends nothing.

public import Primitives
public import Ring

/// Takes in the records of one group's state, and tells whether that has all of the slots which a map gives the group, and
/// nothing of others. A state for which this is so can be restored as it is under a ring with the same epochs: what it
/// remembers of slots that came and went stays true.
public struct SavedOwnership: Sendable {
    private var records: [SlotRecord] = []
    /// By slot: something lies in it.
    private var isFilled = Array(repeating: false, count: Slot.count)

    public init() {}

    /// One of the state's records that are there; in any order, each once.
    ///
    /// - Parameter record: copies it out: only what says something of slots is.
    public mutating func note(_ slot: Slot, _ machine: SubMachineNumber, _ record: () -> (key: Bytes, value: Bytes?)) {
        guard slot == .group else {
            if slot < .group { isFilled[Int(slot.rawValue)] = true }
            return
        }
        guard machine == .slotOwnership else { return }
        let (key, value) = record()
        // Where timers went says nothing of slots, and there may be many of them.
        guard key.withUnsafeBytes({ $0.first }) != MovedTimer.kind else { return }
        records.append(SlotRecord(key: key, value: value))
    }

    /// What the state and the map do not agree about, in words; nil: nothing. Looks at each slot of the ring.
    ///
    /// - Parameter map: one without migrations of this group, and not newer than the state: what it says has come about there.
    public func problem(of group: GroupID, in map: ClusterMap) -> String? {
        let ownership: SlotOwnership
        do throws(DecodingFailure) { ownership = try SlotOwnership(restoring: records) } catch {
            return "its records about slots can't be read: \(error)"
        }
        if let task = ownership.tasks.first {
            return "migration \(task.id), with group \(task.group), is under way in it"
        }
        for number in 0..<UInt16(Slot.count) {
            let slot = Slot(number)
            let (since, held) = (map.ring.epoch(of: slot), ownership.epoch(of: slot))
            guard map.ring.owner(of: slot) == group else {
                if held > .zero { return "it serves slot \(slot), which the map gives to another group" }
                if isFilled[Int(number)] { return "it has records in slot \(slot), which is not its own" }
                continue
            }
            switch ownership.gate(of: slot) {
            case .open: break
            case .moved(let other, _): return "slot \(slot) has moved to group \(other)"
            case .frozen, .arriving: return "slot \(slot) is moving"
            }
            guard held == since || held == .zero && since <= SlotTable.firstEpoch else {
                return "it has slot \(slot) since epoch \(held), and the map since epoch \(since)"
            }
        }
        return nil
    }
}
