// Whose slots are that were on the move when groups, or the map, lost what they knew.

import Primitives
import Recovery
import Ring
import Testing

@Suite struct SlotSettlementTests {
    private let slots = [Slot(3), Slot(4), Slot(900)]
    private let one = GroupID(1)
    private let two = GroupID(2)
    private let id = MigrationID(5)

    /// Groups 1 and 2, and a third one, each on three hosts; the slots are group 1's, or group 2's once that is decided.
    private func map(_ state: MigrationRecord.State?, isMoved: Bool = false, hosts: Int = 3) -> ClusterMap {
        var map = clusterMap(hosts: hosts, meta: [1, 2, 3], groups: [[1, 2, 3], [1, 2, 3], [1, 2, 3]])
        map.featureLevel = FeatureLevel.migrations
        for place in map.hosts.indices { map.hosts[place].featureLevel = FeatureLevel.migrations }
        let isDecided = state.map { $0 != .copying && $0 != .aborting } ?? isMoved
        if isDecided { map.ring.assign(slots, to: two) }
        if let state { map.replace(MigrationRecord(id: id, slots: slots, source: one, target: two, state: state)) }
        precondition(map.problem() == nil, map.problem() ?? "")
        return map
    }

    private func trace(
        _ standing: SlotTrace.Standing?, _ other: GroupID, id: UInt64 = 5, epoch: UInt64 = 0
    ) -> [SlotTrace]? {
        standing.map {
            [
                SlotTrace(
                    migration: MigrationID(id), standing: $0, group: other,
                    epoch: Epoch($0 == .came || $0 == .gone ? max(epoch, 2) : 0), slots: slots)
            ]
        }
    }

    /// Host 3 alone is left.
    private func plan(
        _ map: ClusterMap, _ source: [SlotTrace]?, _ target: [SlotTrace]?, last: UInt64 = 5
    ) throws -> RecoveryPlan {
        var replicas = map.replicas(on: HostID(3)).map { replica(Int($0.group.id.rawValue), 3, of: map) }
        for place in replicas.indices {
            replicas[place].slots = replicas[place].group == one ? source : replicas[place].group == two ? target : nil
            if replicas[place].slots != nil { replicas[place].lastMigration = MigrationID(last) }
        }
        let report = report(3, map, metaMap: map, replicas)
        #expect(report.problem() == nil)
        return try RecoveryPlanner.plan([report], cluster: newCluster)
    }

    /// Whatever was known: one group has the slots, in the map and by what both are told.
    private func check(
        _ plan: RecoveryPlan, from map: ClusterMap, last: UInt64 = 5, _ what: String
    ) throws -> (owner: GroupID, mayLack: Bool) {
        #expect(plan.map.problem() == nil, "\(what)")
        #expect(plan.settlements?.count == 1 && plan.map.migrations.count == 1, "\(what)")
        let settlement = try #require(plan.settlements?.first)
        let migration = try #require(plan.map.migrations.first)
        #expect(migration.state == .settling && migration.slots == slots && settlement.slots == slots)
        #expect(migration.target == settlement.owner && migration.source == settlement.other)
        #expect(Set([settlement.owner, settlement.other]) == [one, two], "\(what)")
        #expect(slots.allSatisfy { plan.map.owner(of: $0) == settlement.owner }, "\(what)")
        #expect(slots.allSatisfy { plan.map.ring.epoch(of: $0) > map.ring.epoch }, "\(what)")
        #expect(migration.id.rawValue > max(last, map.version) && plan.map.version == migration.id.rawValue, "\(what)")
        #expect(settlement.account.contains("MAY LACK") == settlement.mayLack)
        return (settlement.owner, settlement.mayLack)
    }

    @Test func whatSurvivorsKnowDecides() throws {
        typealias Case = (MigrationRecord.State, SlotTrace.Standing?, SlotTrace.Standing?, owner: UInt32, mayLack: Bool)
        let cases: [Case] = [
            // Nothing is decided: the source goes on.
            (.copying, nil, nil, 1, false), (.copying, .exporting, .importing, 1, false),
            (.copying, .frozen, .sealed, 1, false), (.aborting, .exporting, .dropping, 1, false),
            // The map has forgotten that it was decided.
            (.copying, .released, .sealed, 2, false), (.copying, .exporting, .came, 2, false),
            (.aborting, .released, .sealed, 2, false),
            // It was, but the target does not have all any more, and the source has.
            (.copying, .released, .importing, 1, false), (.committed, .exporting, .importing, 1, false),
            (.released, .released, .importing, 1, false), (.released, .released, nil, 1, false),
            // As it was decided.
            (.committed, .frozen, .sealed, 2, false), (.committed, nil, .sealed, 2, false),
            (.released, .released, .sealed, 2, false), (.released, .frozen, .came, 2, false),
            (.activated, .released, .came, 2, false), (.activated, .exporting, .sealed, 2, false),
            // The source has nothing any more, or begins to delete.
            (.copying, .gone, .importing, 2, true), (.activated, .gone, .importing, 2, true),
            (.activated, .released, .importing, 2, true), (.activated, .gone, .came, 2, false),
        ]
        for (state, source, target, owner, mayLack) in cases {
            let map = map(state)
            let plan = try plan(map, trace(source, two), trace(target, one))
            let what = "\(state), \(String(describing: source)), \(String(describing: target))"
            let found = try check(plan, from: map, what)
            #expect(found.owner == GroupID(owner) && found.mayLack == mayLack, "\(what): \(found)")
        }
    }

    @Test func migrationsThatTheMapHasForgottenAreSettledAsWell() throws {
        // Their numbers are above its version, and are not given again.
        let cases: [(SlotTrace.Standing?, SlotTrace.Standing?, UInt32)] = [
            (.exporting, nil, 1), (.exporting, .importing, 1), (.frozen, .sealed, 1), (.released, .sealed, 2),
            (.gone, .came, 2), (nil, .came, 2), (nil, .importing, 1),
        ]
        for (source, target, owner) in cases {
            let map = map(nil)
            let plan = try plan(map, trace(source, two, id: 99), trace(target, one, id: 99), last: 99)
            let found = try check(plan, from: map, last: 99, "\(String(describing: source))")
            #expect(found.owner == GroupID(owner) && !found.mayLack)
        }
    }

    @Test func aGroupThatIsBehindWhatTheMapKnowsIsToldSo() throws {
        // It is over, and the slots are group 2's.
        let moved = map(nil, isMoved: true)
        for (source, target, mayLack) in [
            (.frozen, .came, false), (.released, .came, false), (.exporting, .importing, true), (.gone, .sealed, false),
        ] as [(SlotTrace.Standing, SlotTrace.Standing, Bool)] {
            let plan = try plan(moved, trace(source, two), trace(target, one))
            let found = try check(plan, from: moved, "\(source), \(target)")
            #expect(found.owner == two && found.mayLack == mayLack, "\(source), \(target)")
        }
        // It came to nothing.
        let stayed = map(nil)
        let plan = try plan(stayed, trace(.frozen, two), trace(.sealed, one))
        #expect(try check(plan, from: stayed, "aborted").owner == one)
    }

    @Test func whatIsSettledAndOverStaysAsItIs() throws {
        let map = map(nil, isMoved: true)
        let plan = try plan(map, trace(.gone, two), trace(.came, one))
        #expect(plan.settlements == nil && plan.map.migrations.isEmpty)
        #expect(plan.map.ring.runs() == map.ring.runs() && plan.map.version == 8)
        // A group that never got so far as to have them, in what is left: the map asks for no more than it has.
        let behind = try self.plan(map, trace(.gone, two), nil)
        #expect(behind.settlements == nil)
        #expect(slots.allSatisfy { behind.map.ring.epoch(of: $0) == SlotTable.firstEpoch })
        #expect(slots.allSatisfy { behind.map.owner(of: $0) == two })
    }

    @Test func migrationsOfGroupsThatLostNothingGoOn() throws {
        // Hosts 1 to 3 survive, and group 3 has lost two of three.
        var map = clusterMap(hosts: 5, meta: [1, 2, 3], groups: [[1, 2, 3], [1, 2, 3], [3, 4, 5]])
        map.featureLevel = FeatureLevel.migrations
        for place in map.hosts.indices { map.hosts[place].featureLevel = FeatureLevel.migrations }
        let other = Slot(7)
        map.ring.assign([other], to: GroupID(3))
        map.replace(MigrationRecord(id: MigrationID(4), slots: [other], source: GroupID(3), target: two))
        map.replace(MigrationRecord(id: id, slots: slots, source: one, target: two))
        let plan = try RecoveryPlanner.plan(reports([1, 2, 3], map), cluster: newCluster)
        #expect(plan.groups.map(\.outcome) == [.recovered, .kept, .kept, .recovered])
        #expect(plan.map.migration(id) == map.migration(id))
        #expect(plan.settlements?.map(\.slots) == [[other]] && plan.settlements?.first?.owner == GroupID(3))
        #expect(plan.map.migrations.map(\.state) == [.copying, .settling] && plan.map.problem() == nil)
        #expect(plan.map.ring.slots(of: one) == map.ring.slots(of: one))
    }

    @Test func reportsWithSlotsThatMakeNoSenseAreRefused() {
        let map = map(.copying)
        for change: (inout SlotTrace) -> Void in [
            { $0.slots = [] }, { $0.slots = [Slot(4), Slot(3)] }, { $0.slots = [.group] },
            { $0.epoch = Epoch(1 << 62) }, { $0.migration = MigrationID(1 << 62) },
        ] {
            var own = replica(1, 3, of: map)
            var trace = SlotTrace(migration: id, standing: .exporting, group: two, slots: slots)
            own.slots = [trace]
            #expect(report(3, map, [own]).problem() == nil)
            change(&trace)
            own.slots = [trace]
            #expect(report(3, map, [own]).problem() != nil)
        }
    }
}
