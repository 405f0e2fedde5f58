import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct MetaMachineTests {
    private func firstMap(cluster: UInt64 = 1, groups: Int = 4) throws -> ClusterMap {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                incarnation: Incarnation(UInt64($0) + 100))
        }
        return try Planner.firstMap(
            cluster: ClusterID(high: cluster, low: 2), hosts: hosts, groups: groups, replicas: 3)
    }

    private func registration(_ number: Int, incarnation: UInt64, featureLevel: UInt32 = 1) -> HostRegistration {
        HostRegistration(
            name: "host-\(number)", address: "127.0.0.1:\(7_000 + number)", incarnation: Incarnation(incarnation),
            featureLevel: featureLevel)
    }

    /// A meta group with a log of commands.
    private struct Meta {
        var machine: MasterStateMachine
        var store = ModelStore()
        init() throws { machine = try MasterStateMachine(group: .meta) }

        mutating func apply(_ command: MetaCommand) -> Applied {
            machine.apply(.command(machine.applied.rawValue + 1, command.payload()), into: &store)
        }

        /// The answer to a command that took effect.
        mutating func result(_ command: MetaCommand) throws -> (revision: UInt64, host: UInt64, version: UInt64)? {
            guard case .done(let revision, let body) = apply(command) else { return nil }
            let result = try MetaResult(decoding: body)
            return (revision.rawValue, result.host.rawValue, result.mapVersion)
        }

        var restored: ClusterMap? { get throws { try MetaMachine(restoring: store.metaRecords).map } }
    }

    @Test func firstMapBecomesRecordsAndComesBackFromThem() throws {
        var meta = try Meta()
        #expect(meta.machine.meta.map == nil)
        #expect(try meta.restored == nil)
        let map = try firstMap()
        #expect(try meta.result(.initialise(map))! == (1, 0, 1))
        #expect(meta.machine.meta.map == map)
        #expect(meta.store.records.count == 2 + 3 + 5)
        #expect(try meta.restored == map)
        #expect(try MetaMachine(restoring: meta.store.metaRecords.reversed()).map == map)
        let restarted = try MasterStateMachine(group: .meta, applied: LogIndex(1), metaRecords: meta.store.metaRecords)
        #expect(restarted.meta.map == map)
        // Again: the same cluster is content, another one is refused; neither writes.
        let digest = meta.machine.digest
        #expect(try meta.result(.initialise(map))! == (1, 0, 1))
        #expect(try meta.result(.initialise(try firstMap(groups: 9)))! == (1, 0, 1))
        guard case .refused(.invalid(let text)) = meta.apply(.initialise(try firstMap(cluster: 9))) else {
            Issue.record("not refused"); return
        }
        #expect(text.contains("is here already"))
        #expect(meta.machine.digest == digest && meta.store.writes == 10 && meta.machine.meta.map == map)
    }

    @Test func hostsRegisterOnceAndAreUpdatedByTheirIncarnation() throws {
        var meta = try Meta()
        guard case .refused = meta.apply(.registerHost(registration(4, incarnation: 104))) else {
            Issue.record("no cluster yet"); return
        }
        _ = meta.apply(.initialise(try firstMap()))
        #expect(try meta.result(.registerHost(registration(4, incarnation: 104)))! == (2, 4, 2))
        #expect(
            try meta.result(.registerHost(registration(4, incarnation: 104)))! == (2, 4, 2),
            "nothing changes the second time")
        #expect(
            try meta.result(.registerHost(registration(5, incarnation: 104)))! == (3, 4, 3), "the same host, elsewhere")
        #expect(meta.machine.meta.map?.host(HostID(4))?.address == "127.0.0.1:7005")
        #expect(meta.machine.meta.map?.nextHost == HostID(5))
        #expect(try meta.restored == meta.machine.meta.map)
        #expect(meta.store.writes == 10 + 2 + 2, "a change writes the head and the host, no more")
        // A host that comes back without its disk can't take its old place, and one of an old version can't join.
        let before = meta.machine.meta.map
        guard case .refused(.invalid(let text)) = meta.apply(.registerHost(registration(2, incarnation: 999))) else {
            Issue.record("not refused"); return
        }
        #expect(text.contains("belongs to host 2"))
        guard case .refused = meta.apply(.registerHost(registration(6, incarnation: 106, featureLevel: 0))) else {
            Issue.record("not refused"); return
        }
        var long = registration(7, incarnation: 107)
        long.zone = String(repeating: "z", count: 256)
        guard case .unsupported = meta.apply(.registerHost(long)) else { Issue.record("applied"); return }
        #expect(meta.machine.meta.map == before)
    }

    @Test func aHostThatKnowsLessThanTheClusterUsesIsRefused() throws {
        var meta = try Meta()
        var map = try firstMap()
        for place in map.hosts.indices { map.hosts[place].featureLevel = FeatureLevel.current }
        map.featureLevel = FeatureLevel.ofNewMap(hosts: map.hosts.map(\.featureLevel))
        _ = meta.apply(.initialise(map))
        let level = FeatureLevel.current
        #expect(try meta.result(.registerHost(registration(4, incarnation: 104, featureLevel: level)))?.host == 4)
        for level in [1, level - 1] {
            let older = registration(5, incarnation: 105, featureLevel: level)
            guard case .refused(.invalid(let text)) = meta.apply(.registerHost(older)) else {
                Issue.record("not refused"); return
            }
            #expect(text.contains("feature level \(FeatureLevel.current), the host's version knows \(level)"))
        }
    }

    @Test func aRenewedLevelLeavesAllElseOfARecordAsItIs() throws {
        var meta = try Meta()
        var map = try firstMap()
        map.featureLevel = 2
        for place in map.hosts.indices {
            map.hosts[place].featureLevel = 2
            map.hosts[place].weight = UInt32(50 + place)
            map.hosts[place].zone = "zone \(place)"
        }
        map.hosts[1].state = .draining
        _ = meta.apply(.initialise(map))
        func renewal(_ host: UInt64, _ level: UInt32) -> HostRegistration? {
            meta.machine.meta.renewal(of: HostID(host), featureLevel: level)
        }
        #expect(renewal(2, 2) == nil && renewal(2, 1) == nil && renewal(9, 4) == nil)
        for number in 1...2 as ClosedRange<UInt64> {
            let renewed = try #require(renewal(number, 4))
            #expect(try meta.result(.registerHost(renewed))?.host == number)
            var expected = try #require(map.host(HostID(number)))
            expected.featureLevel = 4
            #expect(meta.machine.meta.map?.host(HostID(number)) == expected)
            #expect(renewal(number, 4) == nil, "once")
            // Said twice it changes nothing.
            let before = meta.machine.meta.map
            #expect(try meta.result(.registerHost(renewed))?.version == before?.version)
            #expect(meta.machine.meta.map == before)
        }
        #expect(meta.machine.meta.map?.version == map.version + 2 && meta.machine.meta.map?.featureLevel == 2)
        // A level below the cluster's is none that a host may be registered with.
        var high = map
        high.featureLevel = 3
        var other = try Meta()
        _ = other.apply(.initialise(high))
        #expect(
            other.machine.meta.renewal(of: HostID(1), featureLevel: 4) != nil
                && other.machine.meta.renewal(of: HostID(1), featureLevel: 2) == nil)
        high.hosts[0].featureLevel = 1
        other = try Meta()
        _ = other.apply(.initialise(high))
        #expect(other.machine.meta.renewal(of: HostID(1), featureLevel: 2) == nil, "it would be refused for ever")
    }

    @Test func aRecoveredMapTakesThePlaceOfTheFormerOneWithItsCluster() throws {
        var meta = try Meta()
        _ = meta.apply(.initialise(try firstMap()))
        var recovered = try firstMap(cluster: 9, groups: 3)
        recovered.version = 8
        recovered.removeHost(HostID(1))
        recovered.groups = recovered.groups.map { group in
            let left = group.replicas.filter { $0.host != HostID(1) }
            return GroupRecord(
                id: group.id, weight: group.weight, replicas: left, preferredLeader: left[0].id,
                founders: [left[0].id])
        }
        recovered.featureLevel = FeatureLevel.recovery
        #expect(recovered.problem() == nil)
        let command = MetaCommand.recover(recovered)
        #expect(try MetaCommand(payload: command.payload()) == command)
        #expect(try meta.result(command)! == (2, 0, 8))
        #expect(meta.machine.meta.map == recovered)
        #expect(try meta.restored == recovered, "hosts and groups that are gone leave no record")
        // An older one, or the same again, does nothing; and it is nobody's to propose.
        guard case .refused(.invalid(let text)) = meta.apply(command) else { Issue.record("not refused"); return }
        #expect(text.contains("version 8"))
        #expect(meta.machine.meta.check(command.payload()) != nil)
        #expect(try meta.restored == recovered)
    }

    @Test func hundredsOfHostsMakeAConsistentMap() throws {
        var meta = try Meta()
        _ = meta.apply(.initialise(try firstMap()))
        for number in 4...300 { _ = meta.apply(.registerHost(registration(number, incarnation: UInt64(number) + 100))) }
        #expect(meta.machine.meta.map?.hosts.count == 300 && meta.machine.revision == Revision(298))
        #expect(try meta.restored == meta.machine.meta.map)
    }

    @Test func commandsSurviveEncodingAndDamageStopsTheReplica() throws {
        for command in [
            MetaCommand.initialise(try firstMap(groups: 1)), .registerHost(registration(4, incarnation: 104)),
            .recover(try firstMap(groups: 1)),
        ] {
            #expect(try MetaCommand(payload: command.payload()) == command)
            mutate(command.payload(), seed: 6, rounds: 500) { payload in
                guard var machine = try? MasterStateMachine(group: .meta) else { return }
                var store = ModelStore()
                if case .unsupported = machine.apply(.command(1, payload), into: &store) {
                    #expect(store.writes == 0 && machine.applied == .zero && machine.meta.map == nil)
                }
            }
        }
    }

    @Test func damagedOrMissingRecordsAreAnErrorNotAMap() throws {
        var meta = try Meta()
        _ = meta.apply(.initialise(try firstMap(groups: 1)))
        let records = meta.store.metaRecords
        for missing in records.indices {
            var some = records
            some.remove(at: missing)
            #expect(throws: DecodingFailure.self) { try MetaMachine(restoring: some) }
        }
        #expect(throws: DecodingFailure.self) {
            try MetaMachine(restoring: records + [MetaRecord(key: "future", value: "x")])
        }
        #expect(throws: DecodingFailure.self) {
            try MetaMachine(restoring: records + [MetaRecord(key: "host/", value: "x")])
        }
        var swapped = records
        swapped.swapAt(0, 1)
        (swapped[0].key, swapped[1].key) = (swapped[1].key, swapped[0].key)
        #expect(throws: DecodingFailure.self) { try MetaMachine(restoring: swapped) }
        for record in records {
            mutate(record.value!, seed: 7, rounds: 200) { value in
                let some = records.map { $0.key == record.key ? MetaRecord(key: $0.key, value: value) : $0 }
                if let map = try? MetaMachine(restoring: some).map { #expect(map.problem() == nil) }
            }
        }
    }
}
