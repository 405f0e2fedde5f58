import Primitives
import Ring
import Testing

/// That each slot is in one place: what proves it, and each way in which it may not be so.
@Suite struct RingProofTests {
    private let one = GroupID(1)
    private let two = GroupID(2)

    private func map() throws -> ClusterMap {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "10.0.0.1:\($0)",
                incarnation: Incarnation(UInt64($0) * 7), featureLevel: FeatureLevel.migrations)
        }
        return try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: 3, replicas: 3,
            featureLevel: FeatureLevel.migrations)
    }

    /// What replicas of a sound cluster say: each has records of some of its slots.
    private func statements(_ map: ClusterMap) -> [RingProof.Statement] {
        map.dataGroups.flatMap { group in
            group.replicas.map {
                RingProof.Statement(
                    group: group.id, host: $0.host, filled: Array(map.ring.slots(of: group.id).prefix(20)))
            }
        }
    }

    private func gate(
        _ slot: Slot, _ standing: RingProof.Standing, _ group: GroupID = .meta, epoch: UInt64 = 0
    ) -> RingProof.Gate {
        RingProof.Gate(
            slot: slot, standing: standing, migration: MigrationID(1), group: group, epoch: Epoch(epoch))
    }

    /// The same for all replicas of a group.
    private func say(
        _ group: GroupID, _ statements: inout [RingProof.Statement], _ body: (inout RingProof.Statement) -> Void
    ) {
        for place in statements.indices where statements[place].group == group { body(&statements[place]) }
    }

    @Test func aSoundClusterIsProven() throws {
        var map = try map()
        #expect(RingProof.violations(map, statements(map)).isEmpty)
        // And one in which slots moved: the source knows to whom, the target since when.
        let moved = Array(map.ring.slots(of: one).prefix(3))
        map.ring.assign(moved, to: two)
        let epoch = map.ring.epoch.rawValue
        var said = statements(map)
        say(one, &said) { $0.gates = moved.map { gate($0, .moved, two, epoch: epoch) } }
        say(two, &said) {
            $0.gates = moved.map { gate($0, .open, one, epoch: epoch) }
            $0.filled = (moved + $0.filled).sorted()
        }
        // One that was to go to group 3 and was aborted before that began.
        say(GroupID(3), &said) { $0.gates = [gate(moved[0], .open)] }
        #expect(RingProof.violations(map, said).isEmpty)
    }

    @Test func aSlotWithoutOwnerIsNamed() throws {
        var map = try map()
        let slots = map.ring.slots(of: GroupID(3))
        map.removeGroup(GroupID(3))
        #expect(RingProof.violations(map, []) == [.noOwner(slots)])
    }

    @Test func anOwnerThatDoesNotServeIsNamed() throws {
        let map = try map()
        let slots = map.ring.slots(of: one)
        var said = statements(map)
        say(one, &said) {
            $0.gates = [
                gate(slots[0], .moved, two), gate(slots[1], .arriving, two), gate(slots[2], .frozen),
                gate(slots[3], .open),
            ]
        }
        let found = RingProof.violations(map, said)
        #expect(found.count == 9)
        #expect(found.contains(.ownerDoesNotServe(one, HostID(2), .moved, [slots[0]])))
        #expect(found.contains(.ownerDoesNotServe(one, HostID(2), .arriving, [slots[1]])))
        #expect(found.contains(.ownerDoesNotServe(one, HostID(2), .frozen, [slots[2]])))
    }

    @Test func aSecondOwnerIsNamed() throws {
        let map = try map()
        let slots = map.ring.slots(of: one)
        for (standing, epoch) in [(RingProof.Standing.open, 7), (.frozen, 0), (.arriving, 0)]
            as [(RingProof.Standing, UInt64)]
        {
            var said = statements(map)
            say(two, &said) { $0.gates = [gate(slots[5], standing, one, epoch: epoch)] }
            let found = RingProof.violations(map, said)
            #expect(found == [1, 2, 3].map { .twoOwners(two, HostID($0), [slots[5]]) })
        }
    }

    @Test func recordsOutsideOfTheirOwnersSlotsAreNamed() throws {
        let map = try map()
        let slots = map.ring.slots(of: one)
        var said = statements(map)
        let place = try #require(said.firstIndex { $0.group == two && $0.host == HostID(3) })
        said[place].filled = (said[place].filled + slots[7...8]).sorted()
        #expect(RingProof.violations(map, said) == [.strayRecords(two, HostID(3), Array(slots[7...8]))])
    }

    @Test func migrationsThatTheMapDoesNotKnowAreNamed() throws {
        var map = try map()
        let slots = Array(map.ring.slots(of: one).prefix(2))
        map.version = 9
        map.migrations = [MigrationRecord(id: MigrationID(4), slots: slots, source: one, target: two)]
        var said = statements(map)
        say(one, &said) {
            $0.tasks = [RingProof.Task(migration: MigrationID(4), isSource: true, group: two, slots: slots)]
        }
        #expect(RingProof.violations(map, said).isEmpty)
        for bad in [
            RingProof.Task(migration: MigrationID(3), isSource: true, group: two, slots: slots),
            RingProof.Task(migration: MigrationID(4), isSource: false, group: two, slots: slots),
            RingProof.Task(migration: MigrationID(4), isSource: true, group: GroupID(3), slots: slots),
            RingProof.Task(migration: MigrationID(4), isSource: true, group: two, slots: [slots[0]]),
        ] {
            var said = statements(map)
            let place = try #require(said.firstIndex { $0.group == one && $0.host == HostID(1) })
            said[place].tasks = [bad]
            #expect(RingProof.violations(map, said) == [.strayMigration(one, HostID(1), bad.migration)])
        }
    }

    @Test func replicasThatSayDifferentThingsAreNamed() throws {
        var map = try map()
        let slots = map.ring.slots(of: one)
        map.ring.assign([slots[0]], to: two)
        var said = statements(map)
        let place = try #require(said.firstIndex { $0.group == one && $0.host == HostID(2) })
        said[place].gates = [gate(slots[0], .moved, two)]
        let found = RingProof.violations(map, said)
        #expect(
            found == [
                .replicasDiffer(one, HostID(1), HostID(2), [slots[0]]),
                .replicasDiffer(one, HostID(2), HostID(3), [slots[0]]),
            ])
    }

    @Test func slotsOfMigrationsMayBeWhereTheirStepsHaveThem() throws {
        let before = try map()
        let slots = Array(before.ring.slots(of: one).prefix(2))
        var after = before
        after.ring.assign(slots, to: two)
        typealias Case = (MigrationRecord.State, ClusterMap, source: RingProof.Standing, target: RingProof.Standing)
        let sound: [Case] = [
            (.copying, before, .open, .arriving), (.copying, before, .frozen, .arriving),
            (.aborting, before, .open, .moved), (.aborting, before, .frozen, .arriving),
            (.committed, after, .frozen, .arriving), (.committed, after, .moved, .arriving),
            (.released, after, .moved, .arriving), (.released, after, .moved, .open),
            (.activated, after, .moved, .open),
        ]
        let unsound: [Case] = [
            (.copying, before, .moved, .arriving), (.copying, before, .open, .open),
            (.committed, after, .open, .arriving), (.committed, after, .frozen, .open),
            (.released, after, .frozen, .open), (.activated, after, .moved, .arriving),
            (.aborting, before, .moved, .moved),
        ]
        for (cases, isSound) in [(sound, true), (unsound, false)] {
            for (state, map, source, target) in cases {
                var map = map
                map.version = 9
                map.migrations = [
                    MigrationRecord(id: MigrationID(4), slots: slots, source: one, target: two, state: state)
                ]
                var said = statements(map)
                say(one, &said) {
                    $0.gates = slots.map { gate($0, source, two, epoch: 2) }
                    $0.filled = (Set($0.filled).union(slots)).sorted()
                }
                say(two, &said) {
                    $0.gates = slots.map { gate($0, target, one, epoch: 2) }
                    $0.filled = (Set($0.filled).union(slots)).sorted()
                }
                #expect(
                    RingProof.violations(map, said).isEmpty == isSound, "\(state), \(source) and \(target)")
                // Whoever has nothing to do with it has no records of them.
                say(GroupID(3), &said) { $0.filled = ($0.filled + slots).sorted() }
                #expect(
                    RingProof.violations(map, said).contains {
                        if case .strayRecords(GroupID(3), _, slots) = $0 { true } else { false }
                    })
            }
        }
    }

    @Test func violationsAreSaidInWords() throws {
        let slots = [1, 2, 3, 9].map { Slot(UInt16($0)) }
        #expect(RingProof.words(slots) == "slots 1–3, 9")
        #expect(RingProof.words([Slot(4)]) == "slot 4")
        #expect(RingProof.Violation.strayRecords(two, HostID(1), slots).description.contains("slots 1–3, 9"))
        #expect(RingProof.Violation.strayMigration(one, HostID(1), MigrationID(3)).slots.isEmpty)
    }
}
