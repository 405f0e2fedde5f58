// Whose slots are that were on the move when a group or the map lost what it knew. Pure: what survivors know decides, and
// where they do not agree, one of two groups gets the slots, and the other deletes what it has.
//
//   what is known                                                     they go to
//   the map, or a group, knows that the move was decided, and the
//     target has all that it was to have                              the target
//   the source has nothing of them any more                           the target
//   else                                                              the source

public import Primitives
internal import Ring

/// Some slots whose owner a recovery has settled.
public struct SlotSettlement: Hashable, Sendable, Codable {
    public var owner: GroupID
    /// It deletes what it has of them.
    public var other: GroupID
    /// Ascending.
    public var slots: [Slot]
    /// The owner may never have got some of what was in them, beside what its own log lost.
    public var mayLack: Bool

    /// For people.
    public var account: String {
        "\(slots.count) slot\(slots.count == 1 ? "" : "s") that were on their way between the groups \(owner) and \(other) "
            + "\(slots.count == 1 ? "is" : "are") group \(owner)'s from now on, as that has them"
            + (mayLack ? ": it MAY LACK SOME OF THEIR RECORDS." : ".")
            + " What group \(other) has of them is deleted."
    }
}

/// What is left of a group's knowledge.
struct SlotKnowledge {
    /// As its log says that it goes on from.
    var traces: [SlotTrace]
    /// Some of its log may be lost.
    var isTouched: Bool
    var isEmptied = false
}

struct SlotSettling {
    private let map: ClusterMap
    private let isMapTouched: Bool
    private let groups: [(group: GroupID, knowledge: SlotKnowledge)]
    private var claims: [Slot: Claim] = [:]
    /// Of each group, what it says of each slot.
    private var standings: [GroupID: [Slot: SlotTrace]] = [:]

    private struct Claim {
        var migration: MigrationID
        var source: GroupID
        var target: GroupID
        /// As the map has it; nil: it has none of this number.
        var state: MigrationRecord.State?
        /// Who says so; nil: the map.
        var holder: GroupID?
    }

    /// - Parameters:
    ///   - map: the newest that is known.
    ///   - groups: the map's data groups, ascending.
    init(_ map: ClusterMap, isMapTouched: Bool, _ groups: [(group: GroupID, knowledge: SlotKnowledge)]) {
        (self.map, self.isMapTouched, self.groups) = (map, isMapTouched, groups)
        for (group, knowledge) in groups {
            // Where it says two things of one slot, the later migration is the one that counts.
            for trace in knowledge.traces {
                for slot in trace.slots
                where standings[group]?[slot].map({ $0.migration < trace.migration }) ?? true {
                    standings[group, default: [:]][slot] = trace
                }
            }
        }
        findClaims()
    }

    /// A migration of the map that does not simply go on.
    func isTouched(_ migration: MigrationRecord) -> Bool {
        isMapTouched
            || groups.contains {
                $0.knowledge.isTouched && ($0.group == migration.source || $0.group == migration.target)
            }
    }

    private mutating func findClaims() {
        for migration in map.migrations where isTouched(migration) {
            for slot in migration.slots {
                claims[slot] = Claim(
                    migration: migration.id, source: migration.source, target: migration.target, state: migration.state)
            }
        }
        for (group, knowledge) in groups {
            for trace in knowledge.traces {
                let known = map.migration(trace.migration)
                if let known, !isTouched(known) { continue }
                for slot in trace.slots {
                    switch trace.standing {
                    case .exporting, .frozen, .released, .importing, .sealed, .dropping: break
                    case .came: if map.owner(of: slot) == group { continue }
                    case .gone: if map.owner(of: slot) != group { continue }
                    }
                    if let present = claims[slot], present.migration >= trace.migration { continue }
                    let (source, target) = trace.isOfSource ? (group, trace.group) : (trace.group, group)
                    claims[slot] = Claim(
                        migration: trace.migration, source: source, target: target, state: known?.state, holder: group)
                }
            }
        }
    }

    private func isEmptied(_ group: GroupID) -> Bool {
        groups.first { $0.group == group }?.knowledge.isEmptied ?? true
    }

    private func isThere(_ group: GroupID?) -> Bool { group.map { $0 != .meta && map.group($0) != nil } ?? false }

    /// Who gets the slot, who gives it up, and whether the first may lack something.
    private func decide(_ slot: Slot, _ claim: Claim) -> (owner: GroupID, other: GroupID, mayLack: Bool)? {
        // The map knows what became of it, and the group that says so is behind.
        if claim.state == nil, claim.migration.rawValue <= map.version, let owner = map.owner(of: slot) {
            let holder = claim.holder ?? claim.source
            let second = holder == owner ? (claim.source == owner ? claim.target : claim.source) : holder
            let has = standings[owner]?[slot].map {
                $0.standing == .came || $0.standing == .exporting || $0.standing == .frozen || $0.standing == .sealed
            }
            let isLacking = !(has ?? (map.ring.epoch(of: slot) <= SlotTable.firstEpoch))
            return paired(owner, second, mayLack: isLacking || isEmptied(owner))
        }
        let source = standings[claim.source]?[slot]
        let target = standings[claim.target]?[slot]
        let hasTargetAll =
            target.map {
                ($0.standing == .sealed || $0.standing == .came) && $0.migration == claim.migration
            } ?? false
        let hasSourceLetGo =
            source.map {
                ($0.standing == .released || $0.standing == .gone) && $0.migration >= claim.migration
            } ?? false
        let isDecided: Bool =
            switch claim.state {
            case .committed, .released, .activated, .settling: true
            case .copying, .aborting, nil: hasSourceLetGo || target?.standing == .came && hasTargetAll
            }
        // Once the target serves them the source begins to delete.
        let hasSourceNothing =
            source?.standing == .gone && hasSourceLetGo || claim.state == .activated || isEmptied(claim.source)
            || claim.state == .settling
        if hasSourceNothing || isDecided && hasTargetAll {
            let isSettled = claim.state == .settling && target != nil
            return paired(claim.target, claim.source, mayLack: !hasTargetAll && !isSettled)
        }
        return paired(claim.source, claim.target, mayLack: false)
    }

    private func paired(
        _ owner: GroupID, _ other: GroupID, mayLack: Bool
    ) -> (owner: GroupID, other: GroupID, mayLack: Bool)? {
        guard isThere(owner) else { return isThere(other) ? paired(other, owner, mayLack: true) : nil }
        if isThere(other), other != owner { return (owner, other, mayLack) }
        // It was deleted since; whoever has nothing of them deletes nothing.
        return groups.first { $0.group != owner }.map { (owner, $0.group, mayLack) }
    }

    /// In the order of the first slot of each.
    func settlements() -> [SlotSettlement] {
        var settlements: [SlotSettlement] = []
        for slot in claims.keys.sorted() {
            guard let claim = claims[slot], let (owner, other, mayLack) = decide(slot, claim) else { continue }
            if let place = settlements.lastIndex(where: {
                $0.owner == owner && $0.other == other && $0.mayLack == mayLack
            }), settlements[place].slots.count < MigrationRecord.slotsMax {
                settlements[place].slots.append(slot)
            } else {
                settlements.append(SlotSettlement(owner: owner, other: other, slots: [slot], mayLack: mayLack))
            }
        }
        return settlements
    }

    /// Slots that nothing has to be settled of, and that their owner has since another epoch than the map says: what it lost
    /// with its log. By that epoch, ascending; 1 for those that it was always to have.
    func epochsToLower() -> [(epoch: Epoch, slots: [Slot])] {
        var slots: [Epoch: [Slot]] = [:]
        for (group, knowledge) in groups where knowledge.isTouched || isMapTouched {
            for slot in map.ring.slots(of: group) where claims[slot] == nil {
                let trace = standings[group]?[slot]
                let held = trace.map { $0.standing == .came ? $0.epoch : .zero } ?? .zero
                let since = max(held, SlotTable.firstEpoch)
                if since != map.ring.epoch(of: slot) { slots[since, default: []].append(slot) }
            }
        }
        return slots.sorted { $0.key < $1.key }.map { ($0.key, $0.value.sorted()) }
    }
}
