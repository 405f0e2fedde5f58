// What saved states say of slots, held against a map, at each step of a migration.

import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct SavedOwnershipTests {
    private let slots = [slot(of: "{a}"), slot(of: "{b}")].sorted()
    private let staying = slot(of: "{c}")
    private let first = GroupID(1)
    private let second = GroupID(2)

    private func map(_ ring: SlotTable) -> ClusterMap {
        ClusterMap(
            cluster: ClusterID(high: 1, low: 2), version: 9, hosts: [], groups: [], ring: ring, nextHost: HostID(1),
            nextGroup: GroupID(3), nextReplica: ReplicaID(1))
    }

    private var before: SlotTable {
        SlotTable(epoch: SlotTable.firstEpoch, owners: Array(repeating: first, count: Slot.count))
    }

    /// At epoch 2, as `MovingGroup` activates it.
    private var behind: SlotTable {
        var ring = before
        ring.assign(slots, to: second)
        return ring
    }

    private func problem(_ group: MovingGroup, _ ring: SlotTable) -> String? {
        var saved = SavedOwnership()
        for (key, record) in group.store.records where record.value != nil {
            saved.note(key.slot, key.machine) { (key.key, record.value) }
        }
        return saved.problem(of: group.id, in: map(ring))
    }

    private func groups() throws -> (MovingGroup, MovingGroup) {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        for key in ["{a}1", "{b}1", "{c}1"] as [Bytes] { _ = source.put(key, "value", timeToLive: 90_000) }
        try source.send(Chimes.Wind("{a}bell", 1, after: 60_000))
        target.logTime = 77
        return (source, target)
    }

    @Test func statesFitTheMapBeforeAMigrationAndBehindItAndAtNoStepBetween() throws {
        var (source, target) = try groups()
        let id = MigrationID(2)
        #expect(problem(source, before) == nil && problem(target, before) == nil)
        #expect(problem(source, behind)?.contains("has records in slot") == true)
        #expect(problem(target, behind)?.contains("since epoch 0") == true)

        func expectNeither(_ step: String) {
            for ring in [before, behind] {
                #expect(problem(source, ring) != nil && problem(target, ring) != nil, "\(step)")
            }
        }
        try target.begin(id, slots, from: &source)
        expectNeither("copying")
        try target.freezeAndSeal(id, from: &source)
        expectNeither("sealed")
        source.apply(.release(id, Epoch(2)))
        expectNeither("released")
        target.apply(.activate(id, Epoch(2), .zero))
        #expect(problem(source, behind) != nil && problem(target, behind) == nil)
        #expect(problem(target, before)?.contains("serves slot") == true)
        source.apply(.clear(id, source.places(toClear: id, countMax: 1)))
        #expect(problem(source, behind) != nil)
        source.clear(id)
        #expect(problem(source, behind) == nil && problem(target, behind) == nil)
        #expect(problem(source, before)?.contains("has moved to group 2") == true)
        #expect(problem(target, before) != nil)

        // What was restored goes on: a timer is called off by its old number, and the slots go back.
        try source.restart()
        try target.restart()
        try source.take(5, slots, from: &target)
        var again = behind
        again.assign(slots, to: first)
        #expect(problem(source, behind) != nil && problem(target, behind) != nil)
        // It was activated with epoch 2.
        #expect(problem(source, again)?.contains("since epoch 2, and the map since epoch 3") == true)
        #expect(problem(target, again) == nil)
    }

    @Test func whatWasAbortedFitsTheMapThatNeverChanged() throws {
        var (source, target) = try groups()
        let id = MigrationID(2)
        try target.begin(id, slots, from: &source)
        for step in 0..<2 {
            source.apply(.forget(id, slots))
            target.apply(.forget(id, slots))
            if step == 0 { #expect(problem(source, before) == nil && problem(target, before) != nil) }
            target.clear(id)
            #expect(problem(source, before) == nil && problem(target, before) == nil)
        }
    }

    @Test func aRecordThatCantBeReadIsNamed() {
        var saved = SavedOwnership()
        saved.note(.group, .slotOwnership) { (Bytes([1, 0, 7]), Bytes([9])) }
        #expect(saved.problem(of: first, in: map(before))?.contains("can't be read") == true)
    }
}
