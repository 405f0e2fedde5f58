import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// Migrations in the cluster's map, through the meta group's log.
@Suite struct MigrationMapTests {
    private struct Meta {
        var machine: MasterStateMachine
        var store = ModelStore()

        init(groups: Int = 3, featureLevel: UInt32 = FeatureLevel.migrations) throws {
            let hosts = (1...3).map {
                HostRecord(
                    id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                    incarnation: Incarnation(UInt64($0) + 100), featureLevel: featureLevel)
            }
            let map = try Planner.firstMap(
                cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3,
                featureLevel: featureLevel)
            machine = try MasterStateMachine(group: .meta)
            _ = machine.apply(.command(1, MetaCommand.initialise(map).payload()), into: &store)
        }

        var map: ClusterMap { machine.meta.map! }

        /// nil: it was carried out; else why not. After each: the map is sound, is found again at a restart, and is the same
        /// behind its encoding.
        mutating func apply(_ change: MapChange) -> String? {
            let before = map
            let predicted = change.refusal(by: before)
            let applied = machine.apply(
                .command(machine.applied.rawValue + 1, MetaCommand.change(change, expecting: 0).payload()), into: &store
            )
            #expect(map.problem() == nil)
            #expect((try? MetaMachine(restoring: store.metaRecords).map) == map)
            var writer = ByteWriter()
            map.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect((try? ClusterMap(from: &reader)) == map && reader.isAtEnd)
            if case .refused(.invalid(let text)) = applied {
                #expect(map == before && predicted == .invalid(text))
                return text
            }
            #expect(predicted == nil)
            #expect(map == before || map.version == before.version + 1)
            return nil
        }

        func slots(of group: UInt32, _ count: Int) -> [Slot] { Array(map.ring.slots(of: GroupID(group)).prefix(count)) }
    }

    private let one = GroupID(1)
    private let two = GroupID(2)

    @Test func slotsMoveStepByStep() throws {
        var meta = try Meta()
        let slots = meta.slots(of: 1, 3)
        #expect(meta.apply(.migrate(slots, from: one, to: two)) == nil)
        let id = MigrationID(meta.map.version)
        let epoch = meta.map.ring.epoch
        #expect(meta.map.migration(id)?.state == .copying && meta.map.migration(of: slots[1])?.id == id)
        #expect(slots.allSatisfy { meta.map.owner(of: $0) == one })
        // Out of turn.
        #expect(meta.apply(.migrationReleased(id, LogIndex(9), Revision(5))) != nil)
        #expect(meta.apply(.migrationActivated(id)) != nil)
        #expect(meta.apply(.migrationDone(id, .source)) != nil)
        #expect(meta.apply(.deleteGroup(two)) != nil)

        #expect(meta.apply(.commitMigration(id, frozen: LogIndex(7), digest: 99)) == nil)
        #expect(slots.allSatisfy { meta.map.owner(of: $0) == two && meta.map.ring.epoch(of: $0) == epoch.next })
        #expect(meta.map.ring.epoch == epoch.next)
        #expect(meta.apply(.abortMigration(id)) != nil)
        #expect(meta.apply(.migrationReleased(id, LogIndex(7), Revision(5))) != nil)
        #expect(meta.apply(.migrationReleased(id, LogIndex(8), Revision(5))) == nil)
        #expect(meta.apply(.migrationActivated(id)) == nil)
        #expect(meta.map.migration(id)?.state == .activated && meta.map.migration(id)?.sourceIndex == LogIndex(8))
        // No slot of it moves again before it is over.
        #expect(meta.apply(.migrate([slots[0]], from: two, to: one)) != nil)
        // Late and repeated words change nothing.
        let version = meta.map.version
        #expect(meta.apply(.commitMigration(id, frozen: LogIndex(7), digest: 99)) == nil)
        #expect(meta.apply(.migrationReleased(id, LogIndex(8), Revision(5))) == nil)
        #expect(meta.apply(.migrationActivated(id)) == nil)
        #expect(meta.map.version == version)
        #expect(meta.apply(.migrationDone(id, .target)) != nil)
        #expect(meta.apply(.migrationDone(id, .source)) == nil)
        #expect(meta.map.migrations.isEmpty && meta.map.version == version + 1)
        for late in [
            MapChange.migrationReleased(id, LogIndex(8), Revision(5)), .migrationActivated(id),
            .migrationDone(id, .source),
        ] { #expect(meta.apply(late) == nil) }
        #expect(meta.apply(.commitMigration(id, frozen: LogIndex(7), digest: 99)) != nil)
        #expect(meta.map.version == version + 1)
        // And back.
        #expect(meta.apply(.migrate(slots, from: two, to: one)) == nil)
    }

    @Test func whatIsAbortedIsForgottenByBoth() throws {
        var meta = try Meta()
        let slots = meta.slots(of: 1, 2)
        #expect(meta.apply(.migrate(slots, from: one, to: two)) == nil)
        let id = MigrationID(meta.map.version)
        #expect(meta.apply(.abortMigration(id)) == nil)
        #expect(meta.apply(.abortMigration(id)) == nil)
        // A target that had all meanwhile comes too late.
        #expect(meta.apply(.commitMigration(id, frozen: LogIndex(7), digest: 1)) != nil)
        #expect(slots.allSatisfy { meta.map.owner(of: $0) == one })
        #expect(meta.apply(.migrationDone(id, .target)) == nil)
        #expect(meta.apply(.migrationDone(id, .target)) == nil)
        #expect(meta.apply(.migrate(slots, from: one, to: two)) != nil)
        #expect(meta.apply(.migrationDone(id, .source)) == nil)
        #expect(meta.map.migrations.isEmpty)
        #expect(meta.apply(.migrate(slots, from: one, to: two)) == nil)
        #expect(MigrationID(meta.map.version) > id)
    }

    /// Why one was called off stands in the map as long as it does.
    @Test func timeThatWasLostIsKnownUntilBothHaveForgotten() throws {
        var meta = try Meta()
        let slots = meta.slots(of: 1, 2)
        #expect(meta.apply(.migrate(slots, from: one, to: two)) == nil)
        let id = MigrationID(meta.map.version)
        #expect(meta.map.migration(id)?.lostTime == LostTime.none)
        let lost = LostTime(millis: 2_340)
        #expect(meta.apply(.abortMigration(id, lost)) == nil)
        // The first word counts.
        #expect(meta.apply(.abortMigration(id)) == nil && meta.apply(.abortMigration(id, LostTime(millis: 9))) == nil)
        #expect(meta.map.migration(id)?.lostTime == lost)
        #expect(lost.words(of: one) == "group 1 was led by nobody for 2.3 s meanwhile")
        #expect(LostTime(millis: .max).millis == .max)
        var map = meta.map
        var migration = try #require(map.migration(id))
        migration.state = .copying
        map.replace(migration)
        #expect(map.problem() != nil)
        #expect(meta.apply(.migrationDone(id, .target)) == nil)
        #expect(meta.map.migration(id)?.lostTime == lost)
        #expect(meta.apply(.migrationDone(id, .source)) == nil)
        // Behind the decision nothing is lost any more.
        #expect(meta.apply(.migrate(slots, from: one, to: two)) == nil)
        let next = MigrationID(meta.map.version)
        #expect(meta.apply(.commitMigration(next, frozen: LogIndex(7), digest: 1)) == nil)
        #expect(meta.apply(.abortMigration(next, lost)) != nil)
        #expect(meta.map.migration(next)?.lostTime == LostTime.none)
    }

    @Test func whatCanNotMoveIsRefused() throws {
        var meta = try Meta()
        let (own, others) = (meta.slots(of: 1, 5_000), meta.slots(of: 2, 2))
        // These have no bytes: they are refused before they are sent.
        for slots in [[], [own[1], own[0]], [own[0], own[0]], own, [Slot(UInt16(Slot.count))]] {
            let change = MapChange.migrate(slots, from: one, to: two)
            #expect(change.refusal(by: meta.map) != nil)
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: MetaCommand.change(change).payload()) }
        }
        #expect(meta.apply(.migrate([own[0]], from: one, to: one)) != nil)
        #expect(meta.apply(.migrate([own[0]], from: one, to: .meta)) != nil)
        #expect(meta.apply(.migrate([own[0]], from: one, to: GroupID(9))) != nil)
        #expect(meta.apply(.migrate([others[0]], from: one, to: two)) != nil)
        #expect(meta.apply(.migrate([own[0]], from: one, to: two)) == nil)
        #expect(meta.apply(.migrate([own[0], own[1]], from: one, to: GroupID(3))) != nil)
        #expect(meta.apply(.migrate([own[1]], from: one, to: GroupID(3))) == nil)

        var early = try Meta(featureLevel: FeatureLevel.gatherings)
        let slots = early.slots(of: 1, 1)
        #expect(early.apply(.migrate(slots, from: one, to: two))?.contains("feature level") == true)
    }

    /// Any order of any words: the map stays sound, each slot has one owner, and a step follows the one before.
    @Test(arguments: 0..<20 as Range<UInt64>) func inAnyOrder(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var meta = try Meta(groups: 4)
        var ids: [MigrationID] = [MigrationID(5)]
        var committed = 0
        for step in 1...400 as ClosedRange<UInt64> {
            let id = ids[Int(random.below(UInt64(ids.count)))]
            let before = meta.map
            let change: MapChange
            switch random.below(8) {
            case 0, 1:
                let source = GroupID(UInt32(1 + random.below(4)))
                let all = before.ring.slots(of: source)
                guard !all.isEmpty else { continue }
                let first = Int(random.below(UInt64(all.count)))
                let slots = stride(from: first, to: min(all.count, first + 40), by: 1 + Int(random.below(3))).map {
                    all[$0]
                }
                change = .migrate(slots, from: source, to: GroupID(UInt32(1 + random.below(4))))
            case 2, 3: change = .commitMigration(id, frozen: LogIndex(step), digest: step)
            case 4: change = .migrationReleased(id, LogIndex(1_000 + step), Revision(5))
            case 5: change = .migrationActivated(id)
            case 6: change = random.below(4) == 0 ? .abortMigration(id) : .migrationDone(id, .source)
            default: change = .migrationDone(id, random.below(2) == 0 ? .source : .target)
            }
            let refusal = meta.apply(change)
            if refusal == nil, case .migrate = change { ids.append(MigrationID(meta.map.version)) }
            for migration in meta.map.migrations {
                guard let old = before.migration(migration.id), old.state != migration.state else { continue }
                let isNext = old.state != .aborting && migration.state.rawValue == old.state.rawValue + 1
                #expect(
                    isNext && migration.state != .aborting || old.state == .copying && migration.state == .aborting)
                if migration.state == .committed { committed += 1 }
            }
            let moved = (0..<UInt16(Slot.count)).filter { before.owner(of: Slot($0)) != meta.map.owner(of: Slot($0)) }
            if case .commitMigration(let id, _, _) = change, refusal == nil, !moved.isEmpty {
                #expect(meta.map.migration(id)?.slots == moved.map { Slot($0) })
            } else {
                #expect(moved.isEmpty)
            }
        }
        #expect(committed > 0)
    }
}
