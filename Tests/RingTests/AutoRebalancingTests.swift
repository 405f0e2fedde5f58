import Primitives
import Ring
import Testing

/// When the meta group begins a rebalancing by itself, and when not.
@Suite struct AutoRebalancingTests {
    private let everywhere = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]

    private func loads(
        _ map: ClusterMap, bytes: (GroupID) -> UInt64, operations: (GroupID) -> UInt64 = { _ in 0 }
    ) -> [RebalanceInput.SlotLoad] {
        map.groups.flatMap { group in
            map.ring.slots(of: group.id).map {
                RebalanceInput.SlotLoad(slot: $0, bytes: bytes(group.id), operations: operations(group.id))
            }
        }
    }

    /// Three hosts with three groups, of which the first has more than the others by some per cent.
    private func uneven(by percent: UInt64) throws -> RebalanceInput {
        let map = try RebalanceModel.map(hosts: (1...3).map { RebalanceModel.host($0) }, groups: everywhere)
        return RebalanceInput(
            map: map, loads: loads(map) { (100 + ($0 == GroupID(1) ? percent : 0)) * 10_000 })
    }

    private func after(_ input: RebalanceInput, _ plan: RebalancePlan) -> RebalanceInput {
        var model = RebalanceModel(input)
        model.carryOut(plan.steps)
        return RebalanceInput(map: model.map, hosts: input.hosts, loads: input.loads, rules: input.rules)
    }

    @Test func whatIsInsideTheWideBoundsIsLeftAlone() throws {
        // 11 % above its share: a person's plan moves slots, the cluster itself does not.
        let little = try uneven(by: 17)
        #expect(!Planner.rebalance(little).steps.isEmpty)
        #expect(AutoRebalancing.plan(little, bytesMin: 0) == nil)
        // 29 % above: all of it down to the usual bounds.
        let much = try uneven(by: 50)
        let plan = try #require(AutoRebalancing.plan(much, bytesMin: 0))
        #expect(plan.steps == Planner.rebalance(much).steps)
        #expect(AutoRebalancing.plan(after(much, plan), bytesMin: 0) == nil)
        #expect(Planner.rebalance(after(much, plan)).steps.isEmpty)
    }

    @Test func fewBytesAreNotWorthIt() throws {
        let input = try uneven(by: 50)
        let plan = try #require(AutoRebalancing.plan(input, bytesMin: 1))
        #expect(AutoRebalancing.plan(input, bytesMin: 10 * plan.bytes) == nil)
    }

    @Test func operationsBeginNothing() throws {
        let map = try RebalanceModel.map(hosts: (1...3).map { RebalanceModel.host($0) }, groups: everywhere)
        let input = RebalanceInput(
            map: map,
            loads: loads(map, bytes: { _ in 1_000_000 }, operations: { $0 == GroupID(1) ? 1_000 : 1 }))
        #expect(!Planner.rebalance(input).steps.isEmpty)
        #expect(AutoRebalancing.plan(input, bytesMin: 0) == nil)
    }

    @Test func aNewGroupIsWorthItHoweverLittleThereIs() throws {
        let before = try RebalanceModel.map(hosts: (1...3).map { RebalanceModel.host($0) }, groups: everywhere)
        let map = try RebalanceModel.map(
            hosts: (1...3).map { RebalanceModel.host($0) }, groups: everywhere + [[1, 2, 3]], ring: before.ring)
        let input = RebalanceInput(map: map, loads: loads(map) { _ in 1 })
        let plan = try #require(AutoRebalancing.plan(input, bytesMin: .max))
        let end = after(input, plan)
        #expect(end.map.ring.slots(of: GroupID(4)).count == Slot.count / 4)
        #expect(AutoRebalancing.plan(end, bytesMin: .max) == nil)
    }

    @Test func aHostWithoutReplicasIsWorthItAndOneThatIsToBeEmpty() throws {
        let groups = (0..<12).map { everywhere[$0 % 3] }
        var map = try RebalanceModel.map(hosts: (1...4).map { RebalanceModel.host($0) }, groups: groups)
        let input = RebalanceInput(map: map, loads: loads(map) { _ in 1 })
        let plan = try #require(AutoRebalancing.plan(input, bytesMin: .max))
        #expect(
            plan.steps.contains { if case .replica(_, _, _, HostID(4)) = $0.move { true } else { false } })
        let end = after(input, plan)
        #expect(AutoRebalancing.plan(end, bytesMin: .max) == nil)
        map = end.map
        map.replace(RebalanceModel.host(2, weight: 0))
        #expect(
            AutoRebalancing.plan(RebalanceInput(map: map, loads: input.loads), bytesMin: .max) != nil)
    }

    /// Where there are few groups the others are too full with what the newcomer lacks.
    @Test func aHostThatJoinsASmallClusterIsWorthIt() throws {
        var map = try RebalanceModel.map(
            hosts: (1...4).map { RebalanceModel.host($0) }, groups: everywhere + [[1, 2, 3]])
        var meta = try #require(map.group(.meta))
        for host in [2, 3] as [UInt64] {
            meta.replicas.append(ReplicaRecord(id: map.nextReplica, host: HostID(host)))
            map.nextReplica = ReplicaID(map.nextReplica.rawValue + 1)
        }
        map.replace(meta)
        let input = RebalanceInput(map: map, loads: loads(map) { _ in 1 })
        let plan = try #require(AutoRebalancing.plan(input, bytesMin: .max))
        let end = after(input, plan)
        #expect(plan.steps.allSatisfy { $0.reason == .hostIsFull } && !end.map.replicas(on: HostID(4)).isEmpty)
        #expect(AutoRebalancing.plan(end, bytesMin: .max) == nil)
    }

    @Test func whileSomethingIsOnItsWayOrSomebodyIsAwayNothingIsLookedAt() throws {
        var map = try RebalanceModel.map(hosts: (1...3).map { RebalanceModel.host($0) }, groups: everywhere)
        #expect(AutoRebalancing.hindrance(map, nil, away: []) == nil)
        var record = Rebalancing(
            id: RebalancingID(9), token: 1, plannedVersion: 1,
            steps: [Rebalancing.Step(.leader(GroupID(1), from: HostID(1), to: HostID(2)), .leads, bytes: 0)])
        // One that is paused is under way, too.
        record.isPaused = true
        #expect(AutoRebalancing.hindrance(map, record, away: [HostID(3)]) == .rebalancing(RebalancingID(9)))
        record.steps[0].state = .failed
        #expect(AutoRebalancing.hindrance(map, record, away: []) == nil)
        #expect(AutoRebalancing.hindrance(map, record, away: [HostID(3)]) == .host(HostID(3)))
        // One that was removed is nobody's concern.
        #expect(AutoRebalancing.hindrance(map, record, away: [HostID(7)]) == nil)
        var group = try #require(map.group(GroupID(2)))
        group.replicas[0].role = .leaving
        map.replace(group)
        #expect(AutoRebalancing.hindrance(map, record, away: []) == .members(GroupID(2)))
    }

    @Test func theOrderAndWhatItWaitsForComeBackFromTheirBytes() throws {
        let auto = AutoRebalancing(
            limits: Rebalancing.Limits(concurrentMax: 2, bytesPerSecondMax: 1 << 20, pauseMillisMax: 50))
        var writer = ByteWriter()
        auto.encode(into: &writer)
        let bytes = writer.take()
        var reader = ByteReader(bytes)
        #expect(try AutoRebalancing(from: &reader) == auto)
        try reader.expectEnd()
        for count in 0..<bytes.count {
            #expect(throws: DecodingFailure.self) {
                var reader = ByteReader(bytes[0..<count])
                _ = try AutoRebalancing(from: &reader)
            }
        }
        #expect(throws: DecodingFailure.self) {
            var reader = ByteReader(Bytes(Array(repeating: 2, count: bytes.count)))
            _ = try AutoRebalancing(from: &reader)
        }
        let waits: [AutoWait] = [
            .rebalancing(RebalancingID(1 << 40)), .migration(MigrationID(7)), .members(GroupID(3)), .host(HostID(4)),
            .load(GroupID(5)), .pause(seconds: 6), .imbalance(seconds: 7), .confirmation(seconds: 8),
        ]
        for wait in waits {
            var writer = ByteWriter()
            wait.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect(try AutoWait(from: &reader) == wait)
        }
        #expect(Set(waits.map(\.description)).count == waits.count)
        #expect(throws: DecodingFailure.self) {
            var reader = ByteReader(Bytes(Array(repeating: 9, count: 9)))
            _ = try AutoWait(from: &reader)
        }
    }

    /// As they stand in the meta group's log and records, and in answers: they never change.
    @Test func bytesAreFrozen() {
        func hex(_ encode: (inout ByteWriter) -> Void) -> String {
            var writer = ByteWriter()
            encode(&writer)
            return writer.take().array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        let auto = AutoRebalancing(
            limits: Rebalancing.Limits(concurrentMax: 2, bytesPerSecondMax: 3, pauseMillisMax: 50))
        #expect(hex { auto.encode(into: &$0) } == "01" + "02000000" + "0300000000000000" + "32000000")
        let waits: [AutoWait] = [
            .rebalancing(RebalancingID(7)), .migration(MigrationID(7)), .members(GroupID(7)), .host(HostID(7)),
            .load(GroupID(7)), .pause(seconds: 7), .imbalance(seconds: 7), .confirmation(seconds: 7),
        ]
        for (place, wait) in waits.enumerated() {
            #expect(hex { wait.encode(into: &$0) } == "0\(place + 1)" + "0700000000000000")
        }
    }
}
