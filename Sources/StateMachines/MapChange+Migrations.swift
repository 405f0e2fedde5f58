// What changes of migrations do to a map, or why they do nothing. Reports may come late, twice, and from leaders of long ago:
// one that says what is known changes nothing, and one of a step that is not the next one is refused.

import Messages
package import Primitives
import Ring

/// One of a migration's two groups. Numbers are part of the format.
public enum MigrationSide: UInt8, Hashable, Sendable, CaseIterable {
    case source = 1
    case target = 2
}

extension MapChange {
    /// Which migration a host speaks of when it says this, and whose leaders may; nil: of none.
    package var migrationReported: (MigrationID, [MigrationSide])? {
        switch self {
        case .commitMigration(let id, _, _), .migrationActivated(let id): (id, [.target])
        case .abortMigration(let id, _): (id, [.source, .target])
        case .migrationReleased(let id, _, _): (id, [.source])
        case .migrationDone(let id, let side): (id, [side])
        default: nil
        }
    }

    func migrating(
        _ slots: [Slot], _ source: GroupID, _ target: GroupID, _ limits: MigrationLimits, _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        if let problem = limits.problem { throw .invalid(problem) }
        guard source != target else {
            throw .invalid("slots move from one group to another, not from \(source) to itself")
        }
        for group in [source, target] {
            guard group != .meta else { throw .invalid("the meta group has no slots") }
            guard map.group(group) != nil else { throw .invalid("there is no group \(group)") }
        }
        guard map.migrations.count < ClusterMap.migrationsMax else {
            throw .invalid(
                "\(map.migrations.count) migrations are under way, which is the most: wait until one is over")
        }
        guard !slots.isEmpty, slots.count <= MigrationRecord.slotsMax else {
            throw .invalid("a migration has 1 to \(MigrationRecord.slotsMax) slots, not \(slots.count)")
        }
        for (place, slot) in slots.enumerated() {
            guard place == 0 || slots[place - 1] < slot else { throw .invalid("slot \(slot) is out of order") }
            guard map.owner(of: slot) == source else {
                throw .invalid(
                    "slot \(slot) is \(map.owner(of: slot).map { "group \($0)'s" } ?? "nobody's"), not group \(source)'s"
                )
            }
        }
        // One pass over all that move, whatever the number of slots.
        var isTaken = Array(repeating: MigrationID.none, count: Slot.count)
        for migration in map.migrations { for slot in migration.slots { isTaken[Int(slot.rawValue)] = migration.id } }
        for slot in slots where isTaken[Int(slot.rawValue)] != .none {
            throw .invalid("slot \(slot) is part of migration \(isTaken[Int(slot.rawValue)]): wait until it is over")
        }
        let record = MigrationRecord(
            id: MigrationID(map.version + 1), slots: slots, source: source, target: target, limits: limits)
        return map.edit(.migration(record), record)
    }

    func committing(
        _ id: MigrationID, _ index: LogIndex, _ digest: UInt64, _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        var migration = try map.known(id)
        // It was decided by an earlier report of the same: or by one of the same freeze from another leader.
        if !migration.canAbort, migration.state != .aborting, migration.state != .settling {
            return map.edit(.nothing, migration)
        }
        guard migration.state == .copying else { throw .invalid("migration \(id) is \(migration.state)") }
        guard index > .zero, index.rawValue < ClusterMap.counterMax else {
            throw .invalid("migration \(id) can't have been frozen at index \(index)")
        }
        guard map.ring.epoch.rawValue + 1 < ClusterMap.counterMax else {
            throw .invalid("the ring's epochs are used up")
        }
        migration.state = .committed
        migration.sourceIndex = index
        migration.digest = digest
        return map.edit(.migrationCommitted(migration), migration)
    }

    /// To the state behind the present one.
    func stepping(
        _ id: MigrationID, to state: MigrationRecord.State, _ map: ClusterMap,
        _ change: (inout MigrationRecord) throws(Refusal) -> Void
    ) throws(Refusal) -> MapEdit {
        // One that is gone has taken every step.
        guard var migration = map.migration(id) else { return MapEdit(.nothing, of: map) }
        guard migration.state != .aborting, migration.state != .settling,
            migration.state.rawValue + 1 >= state.rawValue
        else {
            throw .invalid("migration \(id) is \(migration.state), which is not followed by \(state)")
        }
        guard migration.state.rawValue < state.rawValue else { return map.edit(.nothing, migration) }
        try change(&migration)
        migration.state = state
        return map.edit(.migration(migration), migration)
    }

    func aborting(_ id: MigrationID, _ lost: LostTime, _ map: ClusterMap) throws(Refusal) -> MapEdit {
        var migration = try map.known(id)
        if migration.state == .aborting { return map.edit(.nothing, migration) }
        guard migration.canAbort || isPlanted("aborted-though-decided") else {
            throw .invalid("migration \(id) is decided: move its slots back when it is over")
        }
        migration.state = .aborting
        migration.lostTime = lost
        return map.edit(.migration(migration), migration)
    }

    func limiting(_ id: MigrationID, _ limits: MigrationLimits, _ map: ClusterMap) throws(Refusal) -> MapEdit {
        if let problem = limits.problem { throw .invalid(problem) }
        var migration = try map.known(id)
        guard migration.canAbort else { throw .invalid("migration \(id) is decided: nothing is fetched any more") }
        guard migration.limits != limits else { return map.edit(.nothing, migration) }
        migration.limits = limits
        return map.edit(.migration(migration), migration)
    }

    func finishing(_ id: MigrationID, _ side: MigrationSide, _ map: ClusterMap) throws(Refusal) -> MapEdit {
        guard var migration = map.migration(id) else { return MapEdit(.nothing, of: map) }
        switch (migration.state, side) {
        case (.activated, .source): return map.edit(.migrationRemoved(id), migration)
        case (.aborting, _), (.settling, _):
            let before = migration
            if side == .source { migration.isSourceDone = true } else { migration.isTargetDone = true }
            if migration.isSourceDone, migration.isTargetDone { return map.edit(.migrationRemoved(id), migration) }
            return map.edit(migration == before ? .nothing : .migration(migration), migration)
        default:
            throw .invalid("migration \(id) is \(migration.state), and its \(side) has nothing to clean up yet")
        }
    }
}

extension ClusterMap {
    fileprivate func known(_ id: MigrationID) throws(Refusal) -> MigrationRecord {
        guard let migration = migration(id) else {
            throw .invalid("there is no migration \(id): it is over, or never was")
        }
        return migration
    }

    fileprivate func edit(_ part: MapEdit.Part, _ migration: MigrationRecord) -> MapEdit {
        var edit = MapEdit(part, of: self)
        edit.group = migration.target
        return edit
    }
}
