import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// Changes of the map through the meta group's log.
@Suite struct MapChangeTests {
    /// Six hosts, of which three have all replicas: host 1 to 3.
    private static func firstMap(featureLevel: UInt32 = FeatureLevel.membership, hosts: Int = 6, groups: Int = 3) throws
        -> ClusterMap
    {
        let hosts = (1...hosts).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                weight: $0 > 3 ? 0 : 100, incarnation: Incarnation(UInt64($0) + 100), featureLevel: featureLevel)
        }
        var map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3, featureLevel: featureLevel)
        for place in map.hosts.indices { map.hosts[place].weight = 100 }
        return map
    }

    private struct Meta {
        var machine: MasterStateMachine
        var store = ModelStore()
        init(_ map: ClusterMap) throws {
            machine = try MasterStateMachine(group: .meta)
            _ = machine.apply(.command(1, MetaCommand.initialise(map).payload()), into: &store)
        }
        var map: ClusterMap { machine.meta.map! }

        /// Applies the change and checks what holds after each: the map's invariants, and that a restart finds it.
        mutating func apply(_ change: MapChange, expecting: UInt64 = 0) -> Applied {
            let before = (map, machine.digest, store)
            let command = MetaCommand.change(change, expecting: expecting)
            let applied = machine.apply(.command(machine.applied.rawValue + 1, command.payload()), into: &store)
            #expect(map.problem() == nil)
            #expect((try? MetaMachine(restoring: store.metaRecords).map) == map)
            if map == before.0 {
                #expect(machine.digest == before.1 && store == before.2)
            } else {
                #expect(map.version == before.0.version + 1 && machine.digest != before.1)
                #expect(store.writes <= before.2.writes + 2, "the head and one record")
            }
            return applied
        }

        mutating func done(_ change: MapChange, expecting: UInt64 = 0) throws -> MetaOutcome {
            #expect(change.refusal(by: map) == nil)
            guard case .done(_, let body) = apply(change, expecting: expecting) else {
                Issue.record("refused: \(change)")
                return MetaOutcome(mapVersion: 0)
            }
            let outcome = try MetaOutcome(decoding: body)
            #expect(outcome.mapVersion == map.version)
            return outcome
        }

        mutating func refusal(_ change: MapChange, expecting: UInt64 = 0) -> String {
            let before = map
            guard case .refused(.invalid(let text)) = apply(change, expecting: expecting) else {
                Issue.record("not refused: \(change)")
                return ""
            }
            #expect(map == before)
            // Who asked can tell whether it was for the map that he knows.
            if expecting == 0 || expecting == before.version { #expect(change.refusal(by: before) == .invalid(text)) }
            return text
        }
    }

    private let one = GroupID(1)
    private func meta() throws -> Meta { try Meta(Self.firstMap()) }
    private func ids(_ numbers: [UInt64]) -> [ReplicaID] { numbers.map { ReplicaID($0) } }

    @Test func everyChangeSurvivesEncodingAndItsBytesStay() throws {
        func hex(_ change: MapChange) -> String {
            MetaCommand.change(change, expecting: 7).payload().array.dropFirst(28)
                .map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        let one32 = "01000000"
        let two64 = "0200000000000000"
        let expecting = "01" + "0700000000000000"
        let samples: [(MapChange, String)] = [
            (
                .addReplica(one, host: HostID(2), role: .learner, successorOf: ReplicaID(2)),
                "03" + expecting + one32 + two64 + "02" + two64
            ),
            (.setRole(one, ReplicaID(2), .leaving), "04" + expecting + one32 + two64 + "03"),
            (
                .settled(one, index: LogIndex(2), voters: [ReplicaID(2), ReplicaID(2)], learners: [ReplicaID(2)]),
                "05" + expecting + one32 + two64 + "02" + two64 + two64 + "01" + two64
            ),
            (
                .createGroup(weight: 1, hosts: [HostID(2), HostID(2)], preferred: 1),
                "06" + expecting + one32 + "01" + "02" + two64 + two64
            ),
            (.deleteGroup(one), "07" + expecting + one32),
            (.setHostState(HostID(2), .draining), "08" + expecting + two64 + "02"),
            (.removeHost(HostID(2)), "09" + expecting + two64),
            (.replaceReplica(one, ReplicaID(2)), "0a" + expecting + one32 + two64),
            (.raiseFeatureLevel(1), "0b" + expecting + one32),
            (.preferLeader(one, ReplicaID(2)), "0c" + expecting + one32 + two64),
            (.setGroupState(one, .stopped), "0e" + expecting + one32 + "02"),
            (.setHostWeight(HostID(2), 1), "0f" + expecting + two64 + one32),
        ]
        func join(_ parts: String...) -> String { parts.joined() }
        let runs = "02000000" + "01000200" + "05000100"
        let limits = MigrationLimits(bytesPerSecondMax: 2, pauseMillisMax: 1)
        let id = MigrationID(2)
        let moves: [(MapChange, String)] = [
            (
                .migrate([Slot(1), Slot(2), Slot(5)], from: one, to: GroupID(3), limits: limits),
                join("10", expecting, one32, "03000000", two64, one32, runs)
            ),
            (
                .commitMigration(id, frozen: LogIndex(3), digest: 4),
                join("11", expecting, two64, "0300000000000000", "0400000000000000")
            ),
            (
                .migrationReleased(id, LogIndex(3), Revision(4)),
                join("12", expecting, two64, "0300000000000000", "0400000000000000")
            ),
            (.migrationActivated(id), join("13", expecting, two64)),
            (.abortMigration(id), join("14", expecting, two64, "00000000")),
            (.abortMigration(id, LostTime(millis: 1)), join("14", expecting, two64, one32)),
            (.migrationDone(id, .source), join("15", expecting, two64, "01")),
            (.migrationDone(id, .target), join("15", expecting, two64, "02")),
            (.limitMigration(id, limits), join("16", expecting, two64, two64, one32)),
        ]
        for (change, bytes) in samples + moves {
            #expect(hex(change) == bytes)
            let command = MetaCommand.change(change, expecting: 7)
            #expect(try MetaCommand(payload: command.payload()) == command)
            for length in 0..<command.payload().count {
                #expect(throws: DecodingFailure.self) { try MetaCommand(payload: command.payload()[0..<length]) }
            }
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(command.payload().array + [0])) }
            mutate(command.payload(), seed: 6, rounds: 500) { payload in
                guard let read = try? MetaCommand(payload: payload) else { return }
                #expect((try? MetaCommand(payload: read.payload())) == read)
            }
        }
        for (place, byte) in [(28, 13), (28, 0), (29, 2), (29, 0)] as [(Int, UInt8)] {
            var bytes = MetaCommand.change(.deleteGroup(one)).payload().array
            bytes[place] = byte
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(bytes)) }
        }
        for role in [0, 5] as [UInt8] {
            var bytes = MetaCommand.change(.setRole(one, ReplicaID(2), .voter)).payload().array
            bytes[bytes.count - 1] = role
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(bytes)) }
        }
        for side in [0, 3] as [UInt8] {
            var bytes = MetaCommand.change(.migrationDone(id, .source)).payload().array
            bytes[bytes.count - 1] = side
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(bytes)) }
        }
        let outcome = MetaOutcome(mapVersion: 1, host: HostID(2), group: GroupID(3), replica: ReplicaID(4))
        #expect(try MetaOutcome(decoding: outcome.encoded()) == outcome)
        #expect(
            outcome.encoded().array == [1, 0] + [1, 0, 0, 0, 0, 0, 0, 0] + [2, 0, 0, 0, 0, 0, 0, 0] + [3, 0, 0, 0]
                + [4, 0, 0, 0, 0, 0, 0, 0])
        #expect(throws: DecodingFailure.self) {
            try MetaOutcome(decoding: Bytes([2, 0] + outcome.encoded().array[2...]))
        }
    }

    @Test func aReplicaIsAddedLearnsVotesAndAnotherOneLeaves() throws {
        var meta = try meta()
        let first = meta.map.group(one)!
        let next = meta.map.nextReplica
        #expect(
            try meta.done(.addReplica(one, host: HostID(4), role: .voter, successorOf: .none))
                == MetaOutcome(mapVersion: 2, group: one, replica: next))
        var record = meta.map.group(one)!.record(of: next)!
        #expect(record == ReplicaRecord(id: next, host: HostID(4), role: .voter, membership: .absent))
        #expect(meta.map.group(one)!.founders == first.founders)
        #expect(meta.map.group(one)!.firstConfiguration(of: next).voters.isEmpty)
        // A leader adds it as a learner, and reports.
        _ = try meta.done(.settled(one, index: LogIndex(5), voters: first.founders, learners: [next]))
        record = meta.map.group(one)!.record(of: next)!
        #expect(
            record.membership == .learner && !record.isSettled && meta.map.group(one)!.configurationIndex.rawValue == 5)
        _ = try meta.done(.settled(one, index: LogIndex(7), voters: first.founders + [next], learners: []))
        #expect(meta.map.group(one)!.isSettled)
        // An older report changes nothing, nor does the same one again.
        let version = meta.map.version
        #expect(
            try meta.done(.settled(one, index: LogIndex(5), voters: first.founders, learners: [next])).mapVersion
                == version)
        #expect(
            try meta.done(.settled(one, index: LogIndex(7), voters: first.founders + [next], learners: [])).mapVersion
                == version)
        // The preferred leader leaves: another voter is preferred, and its record goes when it is out.
        let old = first.preferredLeader
        _ = try meta.done(.setRole(one, old, .leaving))
        #expect(meta.map.group(one)!.preferredLeader != old && meta.map.group(one)!.record(of: old)?.role == .leaving)
        _ = try meta.done(.settled(one, index: LogIndex(7), voters: first.founders + [next], learners: []))
        #expect(meta.map.group(one)!.record(of: old) != nil)
        let rest = first.founders.filter { $0 != old } + [next]
        _ = try meta.done(.settled(one, index: LogIndex(9), voters: rest, learners: []))
        #expect(meta.map.group(one)!.replicas.map(\.id) == rest.sorted() && meta.map.group(one)!.isSettled)
        #expect(meta.map.nextReplica == ReplicaID(next.rawValue + 1))
    }

    @Test func aReplicaThatLeavesBeforeItWasEverInGoesWithTheConfigurationAsItIs() throws {
        var meta = try meta()
        let founders = meta.map.group(one)!.founders
        let next = try meta.done(.addReplica(one, host: HostID(4), role: .learner, successorOf: .none)).replica
        _ = try meta.done(.setRole(one, next, .leaving))
        _ = try meta.done(.settled(one, index: .zero, voters: founders, learners: []))
        #expect(meta.map.group(one)!.replicas.map(\.id) == founders)
    }

    @Test func whatAReportDoesNotNameStaysIfItIsWantedAndStrangersAreNotAdded() throws {
        var meta = try meta()
        let founders = meta.map.group(one)!.founders
        _ = try meta.done(
            .settled(one, index: LogIndex(3), voters: [founders[0], ReplicaID(99)], learners: [ReplicaID(98)]))
        #expect(meta.map.group(one)!.replicas.map(\.id) == founders)
        #expect(meta.map.group(one)!.replicas.map(\.membership) == [.voter, .absent, .absent])
        #expect(meta.refusal(.settled(one, index: LogIndex(4), voters: [], learners: founders)).contains("has voters"))
        #expect(
            meta.refusal(.settled(one, index: LogIndex(4), voters: founders, learners: [founders[0]]))
                .contains("no learner"))
        #expect(meta.refusal(.settled(one, index: LogIndex(1 << 62), voters: founders, learners: [])).contains("2^62"))
        #expect(
            meta.refusal(.settled(GroupID(9), index: LogIndex(4), voters: founders, learners: [])).contains(
                "no group 9"))
    }

    @Test func aReplicaThatLostItsIdentityIsReplacedOnItsHost() throws {
        var meta = try meta()
        let group = meta.map.group(one)!
        let old = group.preferredLeader
        let host = group.host(of: old)!
        _ = try meta.done(.replaceReplica(one, old))
        #expect(meta.map.group(one)!.record(of: old)?.role == .replaced && meta.map.group(one)!.preferredLeader != old)
        #expect(
            meta.refusal(.addReplica(one, host: host, role: .voter, successorOf: .none)).contains("has not left host"))
        let next = meta.map.nextReplica
        let rest = group.founders.filter { $0 != old }
        #expect(
            try meta.done(.settled(one, index: LogIndex(4), voters: rest, learners: []))
                == MetaOutcome(mapVersion: 3, group: one, replica: next))
        #expect(meta.map.group(one)!.record(of: old) == nil)
        #expect(
            meta.map.group(one)!.record(of: next)
                == ReplicaRecord(id: next, host: host, role: .voter, membership: .absent))
        #expect(meta.map.group(one)!.firstConfiguration(of: next).voters.isEmpty)
        // Once more, before it came to be: its successor takes its place, also in a move.
        let moved = try meta.done(.addReplica(one, host: HostID(5), role: .voter, successorOf: rest[0])).replica
        _ = try meta.done(.replaceReplica(one, moved))
        let again = try meta.done(.settled(one, index: LogIndex(5), voters: rest, learners: [next])).replica
        #expect(meta.map.group(one)!.record(of: again)?.successorOf == rest[0])
        #expect(meta.refusal(.replaceReplica(one, rest[0])).contains("has a successor, \(again)"))
        // It is not wanted any more: it leaves for good.
        _ = try meta.done(.replaceReplica(one, again))
        _ = try meta.done(.setRole(one, again, .leaving))
        _ = try meta.done(.settled(one, index: LogIndex(6), voters: rest, learners: [next]))
        #expect(meta.map.group(one)!.replicas.map(\.id) == rest + [next])
    }

    @Test func aMoveIsRememberedAndTakesThePreferenceAlong() throws {
        var meta = try meta()
        let group = meta.map.group(one)!
        let old = group.preferredLeader
        let new = try meta.done(.addReplica(one, host: HostID(6), role: .voter, successorOf: old)).replica
        #expect(meta.map.group(one)!.record(of: new)?.successorOf == old)
        #expect(
            meta.refusal(.addReplica(one, host: HostID(5), role: .voter, successorOf: old))
                .contains("has a successor already, \(new)"))
        // It is given up, and another is sought.
        _ = try meta.done(.setRole(one, new, .leaving))
        let other = try meta.done(.addReplica(one, host: HostID(5), role: .voter, successorOf: old)).replica
        _ = try meta.done(.settled(one, index: LogIndex(4), voters: group.founders + [other], learners: []))
        _ = try meta.done(.setRole(one, old, .leaving))
        #expect(meta.map.group(one)!.preferredLeader == other)
        _ = try meta.done(
            .settled(one, index: LogIndex(5), voters: group.founders.filter { $0 != old } + [other], learners: []))
        #expect(meta.map.group(one)!.record(of: other)?.successorOf == ReplicaID.none && meta.map.group(one)!.isSettled)
    }

    @Test func addingIsRefusedWithItsReason() throws {
        var meta = try meta()
        let founders = meta.map.group(one)!.founders
        func add(
            _ host: UInt64, _ role: ReplicaRecord.Role = .voter, of predecessor: ReplicaID = .none, to group: UInt32 = 1
        ) -> MapChange { .addReplica(GroupID(group), host: HostID(host), role: role, successorOf: predecessor) }
        #expect(meta.refusal(add(4, to: 9)).contains("no group 9"))
        #expect(meta.refusal(add(9)).contains("no host 9"))
        #expect(meta.refusal(add(1)).contains("has replica"))
        #expect(meta.refusal(add(4, .leaving)).contains("a voter or a learner"))
        #expect(meta.refusal(add(4, of: ReplicaID(99))).contains("no replica 99"))
        #expect(meta.refusal(add(4, .learner, of: founders[0])).contains("is to be a voter"))
        _ = try meta.done(.setRole(one, founders[2], .leaving))
        #expect(meta.refusal(add(4, of: founders[2])).contains("gets no successor"))
        _ = try meta.done(.setHostState(HostID(4), .draining))
        #expect(meta.refusal(add(4)).contains("host 4 is draining"))
        var full = try Meta(Self.firstMap(hosts: 20))
        for host in 4...15 as ClosedRange<UInt64> { _ = try full.done(add(host, .learner)) }
        #expect(full.refusal(add(16)).contains("15 replicas"))
        var last = try Self.firstMap()
        last.nextReplica = ReplicaID(ClusterMap.counterMax - 1)
        var end = try Meta(last)
        #expect(end.refusal(add(4)).contains("used up"))
    }

    @Test func rolesChangeAsFarAsAVoterIsLeftAndLeavingIsFinal() throws {
        var meta = try meta()
        let voters = meta.map.group(one)!.founders
        #expect(meta.refusal(.setRole(one, ReplicaID(99), .leaving)).contains("no replica 99"))
        #expect(meta.refusal(.setRole(one, voters[0], .replaced)).contains("command to replace"))
        #expect(try meta.done(.setRole(one, voters[0], .voter)).mapVersion == 1, "nothing changes")
        _ = try meta.done(.setRole(one, voters[0], .learner))
        #expect(meta.refusal(.replaceReplica(one, voters[0])).contains("only voters"))
        #expect(meta.refusal(.preferLeader(one, voters[0])).contains("not to vote"))
        _ = try meta.done(.setRole(one, voters[1], .leaving))
        for role in [.voter, .learner] as [ReplicaRecord.Role] {
            #expect(meta.refusal(.setRole(one, voters[1], role)).contains("final"))
        }
        #expect(meta.refusal(.replaceReplica(one, voters[1])).contains("final"))
        #expect(try meta.done(.setRole(one, voters[1], .leaving)).replica == voters[1])
        #expect(meta.map.group(one)!.preferredLeader == voters[2])
        for change in [
            MapChange.setRole(one, voters[2], .leaving), .setRole(one, voters[2], .learner),
            .replaceReplica(one, voters[2]),
        ] {
            #expect(meta.refusal(change).contains("the only one of group 1 that is to vote"))
        }
        _ = try meta.done(.setRole(one, voters[0], .voter))
        _ = try meta.done(.preferLeader(one, voters[0]))
        #expect(meta.map.group(one)!.preferredLeader == voters[0])
        #expect(try meta.done(.preferLeader(one, voters[0])).mapVersion == meta.map.version)
        _ = try meta.done(.setRole(one, voters[2], .leaving))
        #expect(meta.map.group(one)!.preferredLeader == voters[0])
    }

    @Test func groupsComeAndGoAndTheirIdsNeverComeAgain() throws {
        var meta = try meta()
        let replica = meta.map.nextReplica
        let hosts = [HostID(6), HostID(4), HostID(5)]
        #expect(
            try meta.done(.createGroup(weight: 50, hosts: hosts, preferred: 1))
                == MetaOutcome(mapVersion: 2, group: GroupID(4), replica: replica))
        let group = meta.map.group(GroupID(4))!
        #expect(group.replicas.map(\.host) == hosts && group.weight == 50 && group.founders == group.replicas.map(\.id))
        #expect(group.preferredLeader == group.replicas[1].id && meta.map.ring.slots(of: GroupID(4)).isEmpty)
        #expect(group.firstConfiguration(of: replica).voters == group.founders)
        #expect(try meta.done(.deleteGroup(GroupID(4))).group == GroupID(4))
        #expect(meta.map.group(GroupID(4)) == nil && meta.store.records.values.count { $0.value == nil } == 1)
        #expect(meta.refusal(.deleteGroup(GroupID(4))).contains("no group 4"))
        #expect(meta.refusal(.deleteGroup(.meta)).contains("meta group"))
        let slots = meta.map.ring.slots(of: one).count
        #expect(meta.refusal(.deleteGroup(one)).contains("has \(slots) slots"))
        let again = try meta.done(.createGroup(weight: 0, hosts: [HostID(1)], preferred: 0))
        #expect(again.group == GroupID(5) && again.replica == ReplicaID(replica.rawValue + 3))
        func create(_ hosts: [UInt64], _ preferred: UInt8 = 0) -> MapChange {
            .createGroup(weight: 1, hosts: hosts.map { HostID($0) }, preferred: preferred)
        }
        #expect(meta.refusal(create([])).contains("not 0"))
        #expect(meta.refusal(create([1, 2], 2)).contains("at position 2"))
        #expect(meta.refusal(create(Array(repeating: 1, count: 16))).contains("not 16"))
        #expect(meta.refusal(create([1, 1])).contains("two replicas on host 1"))
        #expect(meta.refusal(create([1, 9])).contains("no host 9"))
        _ = try meta.done(.setHostState(HostID(2), .draining))
        #expect(meta.refusal(create([1, 2])).contains("host 2 is draining"))
        var last = try Self.firstMap()
        last.nextGroup = GroupID(ClusterMap.groupNumberMax)
        var end = try Meta(last)
        #expect(end.refusal(create([1])).contains("no group can come"))
    }

    /// Digests stand in manifests and are compared between versions: this one, of deleted records too, is for ever.
    @Test func theDigestOfDeletedRecordsStays() throws {
        var meta = try meta()
        _ = try meta.done(.createGroup(weight: 50, hosts: [HostID(6), HostID(4)], preferred: 1))
        _ = try meta.done(.deleteGroup(GroupID(4)))
        _ = try meta.done(.removeHost(HostID(6)))
        #expect(meta.machine.digest == 167_490_296_993_215_575)
    }

    @Test func hostsDrainAndAreRemovedWhenTheyAreEmptyAndStayDrainingWhenTheyRegisterAgain() throws {
        var meta = try meta()
        #expect(try meta.done(.setHostState(HostID(1), .draining)).host == HostID(1))
        #expect(try meta.done(.setHostState(HostID(1), .draining)).mapVersion == 2)
        #expect(meta.map.host(HostID(1))?.state == .draining)
        _ = meta.machine.apply(
            .command(
                meta.machine.applied.rawValue + 1,
                MetaCommand.registerHost(
                    HostRegistration(
                        name: "new name", address: "127.0.0.1:7001", incarnation: Incarnation(101), featureLevel: 2)
                ).payload()), into: &meta.store)
        #expect(meta.map.host(HostID(1))?.state == .draining && meta.map.host(HostID(1))?.name == "new name")
        #expect(meta.refusal(.removeHost(HostID(1))).contains("host 1 has 4 replicas"))
        #expect(meta.refusal(.removeHost(HostID(9))).contains("no host 9"))
        #expect(meta.refusal(.setHostState(HostID(9), .active)).contains("no host 9"))
        #expect(try meta.done(.removeHost(HostID(6))).host == HostID(6))
        #expect(meta.map.host(HostID(6)) == nil && meta.map.nextHost == HostID(7))
        _ = try meta.done(.setHostState(HostID(1), .active))
        #expect(meta.map.host(HostID(1))?.state == .active)
    }

    @Test func aChangeForAnotherVersionOfTheMapIsRefused() throws {
        var meta = try meta()
        _ = try meta.done(.setHostState(HostID(6), .draining), expecting: 1)
        let text = meta.refusal(.removeHost(HostID(6)), expecting: 1)
        #expect(text.contains("version 1 of the map") && text.contains("version 2 by now"))
        _ = try meta.done(.removeHost(HostID(6)), expecting: 2)
    }

    @Test func belowTheirFeatureLevelChangesAreRefusedAndNotProposed() throws {
        var map = try Self.firstMap(featureLevel: 1)
        var meta = try Meta(map)
        let drain = MapChange.setHostState(HostID(1), .draining)
        func check(_ change: MapChange) -> String {
            guard case .invalid(let text) = meta.machine.meta.check(MetaCommand.change(change).payload()) else {
                return ""
            }
            return text
        }
        for text in [check(drain), meta.refusal(drain)] {
            #expect(text.contains("feature level 1") && text.contains("needs 2") && text.contains("upgrade all hosts"))
        }
        // A host of the old version would stop at the command.
        for text in [check(.raiseFeatureLevel(2)), meta.refusal(.raiseFeatureLevel(2)), check(.raiseFeatureLevel(1))] {
            #expect(text.contains("host 1 knows 1"))
        }
        for place in map.hosts.indices { map.hosts[place].featureLevel = 2 }
        meta = try Meta(map)
        #expect(check(drain).contains("needs 2") && check(.raiseFeatureLevel(2)).isEmpty)
        #expect(meta.refusal(.raiseFeatureLevel(3)).contains("knows 2"))
        _ = try meta.done(.raiseFeatureLevel(2))
        #expect(meta.map.featureLevel == 2 && check(drain).isEmpty)
        #expect(try meta.done(.raiseFeatureLevel(2)).mapVersion == meta.map.version)
        #expect(meta.refusal(.raiseFeatureLevel(1)).contains("may not go back"))
        _ = try meta.done(drain)
    }

    @Test func onlyChangesOfTheMapAreForClients() throws {
        let map = try Self.firstMap()
        let machine = try Meta(map).machine.meta
        #expect(machine.check(MetaCommand.change(.deleteGroup(one)).payload()) == nil)
        for payload in [
            MetaCommand.initialise(map).payload(), KeyValueCommand.put(key: "k", value: "v").payload(), Bytes(),
            Bytes(MetaCommand.change(.deleteGroup(one)).payload().array + [0]),
        ] {
            guard case .invalid = machine.check(payload) else {
                Issue.record("\(payload) may be proposed")
                continue
            }
        }
        guard case .invalid(let text) = MetaMachine().check(MetaCommand.change(.deleteGroup(one)).payload()) else {
            Issue.record("there is no cluster")
            return
        }
        #expect(text.contains("no cluster yet"))
    }

    /// Random changes, sensible and not: whatever comes, the map stays whole, a restart finds it, and ids are new.
    @Test(arguments: 1...20) func whateverComesTheMapStaysWhole(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var meta = try meta()
        var seen = Set(meta.map.groups.flatMap { $0.replicas.map(\.id) })
        var done = 0
        for _ in 0..<400 {
            let before = meta.map
            let group = GroupID(UInt32(random.below(7)))
            let replicas = before.group(group)?.replicas ?? []
            let replica =
                replicas.isEmpty || random.below(9) == 0
                ? ReplicaID(random.below(40)) : replicas[Int(random.below(UInt64(replicas.count)))].id
            let host = HostID(1 + random.below(7))
            let roles = ReplicaRecord.Role.allCases
            let role = roles[Int(random.below(UInt64(roles.count)))]
            let change: MapChange
            switch random.below(14) {
            case 0, 1:
                change = .addReplica(
                    group, host: host, role: random.below(4) == 0 ? role : .voter,
                    successorOf: random.below(2) == 0 ? replica : .none)
            case 2: change = .setRole(group, replica, role)
            case 3...6:
                let voters = replicas.filter { $0.role == .voter && random.below(3) > 0 }.map(\.id)
                let learners = replicas.filter { !voters.contains($0.id) && random.below(4) == 0 }.map(\.id)
                let known = before.group(group)?.configurationIndex.rawValue ?? 0
                change = .settled(
                    group, index: LogIndex(known &+ random.below(3)), voters: voters, learners: learners)
            case 7: change = .createGroup(weight: 1, hosts: [host, HostID(1 + random.below(6))], preferred: 1)
            case 8: change = .deleteGroup(group)
            case 9: change = .setHostState(host, random.below(3) == 0 ? .draining : .active)
            case 10: change = random.below(9) == 0 ? .removeHost(host) : .replaceReplica(group, replica)
            case 11: change = .setGroupState(group, random.below(2) == 0 ? .stopped : .running)
            case 12: change = .setHostWeight(host, UInt32(random.below(3)) * 100)
            default: change = .preferLeader(group, replica)
            }
            if case .unsupported(let what) = meta.apply(change) { Issue.record("\(change): \(what)") }
            if meta.map != before { done += 1 }
            for id in meta.map.groups.flatMap({ $0.replicas.map(\.id) }) where !seen.contains(id) {
                #expect(id >= before.nextReplica && id < meta.map.nextReplica)
                seen.insert(id)
            }
            for record in meta.map.groups {
                #expect(record.configurationIndex >= before.group(record.id)?.configurationIndex ?? .zero)
            }
        }
        #expect(done > 50)
    }

    /// The planner's steps as commands, with leaders that report: a host gets empty and can be removed.
    @Test func aDrainedHostIsRemoved() throws {
        var meta = try Meta(Self.firstMap(groups: 12))
        _ = try meta.done(.setHostState(HostID(2), .draining))
        for _ in 0..<200 {
            let plan = Planner.moves(meta.map, movesMax: 3)
            if plan.isDone { break }
            for step in plan.steps {
                switch step {
                case .add(let group, let host, let role, let old):
                    _ = try meta.done(.addReplica(group, host: host, role: role, successorOf: old))
                case .leave(let group, let replica): _ = try meta.done(.setRole(group, replica, .leaving))
                case .prefer(let group, let replica): _ = try meta.done(.preferLeader(group, replica))
                }
            }
            for group in meta.map.groups where !group.isSettled {
                let voters = group.replicas.filter { $0.role == .voter && $0.membership != .absent }
                let learners = group.replicas.filter { $0.isWanted && $0.membership == .absent }
                _ = try meta.done(
                    .settled(
                        group.id, index: group.configurationIndex.next, voters: voters.map(\.id),
                        learners: learners.map(\.id)))
            }
        }
        #expect(meta.map.replicas(on: HostID(2)).isEmpty)
        #expect(meta.map.groups.allSatisfy { $0.isSettled && $0.replicas.count == 3 })
        _ = try meta.done(.removeHost(HostID(2)))
        for choice in Planner.leaders(meta.map) { _ = try meta.done(.preferLeader(choice.group, choice.replica)) }
        #expect(Planner.leaders(meta.map).isEmpty)
    }
}
