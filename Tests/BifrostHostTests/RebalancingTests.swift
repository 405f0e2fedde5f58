// A plan that a cluster of real hosts carries out, under load, with a host that is stopped and started in the middle.

import Bifrost
import Foundation
import HostCore
import Messages
import Primitives
import RPC
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

/// Who asks for rebalancing, at hosts of these addresses.
private struct RebalancingOperator: Sendable {
    let addresses: [String]

    func map() async throws -> ClusterMap {
        var newest: ClusterMap?
        for address in addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            let reply: MapReply = try await probe.ask(ClusterMethod.map, MapRequest())
            if case .map(let map) = reply, map.version > newest?.version ?? 0 { newest = map }
        }
        guard let newest else { throw Timeout(description: "no host gives its map") }
        return newest
    }

    func command(_ command: MetaCommand) async throws {
        var refusal = ""
        try await wait(for: "a command for the meta group: \(refusal)") {
            for address in addresses {
                let probe = Probe(try NetworkAddress(address))
                defer { probe.close() }
                let reply: AdministerReply = try await probe.ask(
                    ClusterMethod.administer, AdministerRequest(payload: command.payload()))
                switch reply {
                case .done: return true
                case .refused(let text): refusal = text
                case .notLeader, .outcomeUnknown: break
                }
            }
            return false
        }
    }

    /// nil: nobody leads at the moment, or there is none.
    func standing() async throws -> RebalancingStanding? {
        for address in addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            let reply: RebalancingReply = try await probe.ask(ClusterMethod.rebalancing, RebalancingRequest())
            if case .there(let standing) = reply { return standing }
        }
        return nil
    }

    func waitUntilOver() async throws -> RebalancingStanding {
        var last: RebalancingStanding?
        try await wait(for: "the end of the rebalancing: \(last.map { "\($0)" } ?? "nobody says")") {
            last = try await standing() ?? last
            return last?.rebalancing.isOver == true
        }
        return last!
    }

    /// What every replica says, and what speaks against each slot's being in one place.
    func violations() async throws -> [RingProof.Violation] {
        let map = try await map()
        var statements: [RingProof.Statement] = []
        for group in map.dataGroups {
            for replica in group.replicas {
                let address = try #require(map.host(replica.host)?.address)
                let probe = Probe(try NetworkAddress(address))
                defer { probe.close() }
                var statement = RingProof.Statement(group: group.id, host: replica.host)
                var next = Bytes()
                repeat {
                    let request = QueryRequest(
                        group: group.id, epoch: .zero, slot: .group, machine: .slotOwnership, consistency: .local,
                        query: SlotContentsQuery(from: next).encoded())
                    let bytes = try await probe.connection.request(
                        service: ServiceNumber.data, method: DataMethod.query, payload: request.encoded(),
                        deadline: RPCClock.now() + 180_000_000_000)
                    guard case .done(let result) = try Response<DataResult>(decoding: bytes) else {
                        throw Timeout(description: "group \(group.id) on host \(replica.host) does not say")
                    }
                    let contents = try SlotContents(decoding: result.body)
                    if next.isEmpty { (statement.gates, statement.tasks) = (contents.gates, contents.tasks) }
                    statement.filled += contents.filled
                    next = contents.next
                } while !next.isEmpty
                statements.append(statement)
            }
        }
        return RingProof.violations(map, statements)
    }
}

/// What the tasks of a test share.
private final class WritersStanding: Sendable {
    let isOver = Mutex(false)
    let writes = Mutex(0)
}

@Suite(.ownExecutor) struct RebalancingTests {
    private static func brisk(_ settings: inout HostSettings) {
        settings.tickNanoseconds = 25_000_000
        settings.featureLevel = FeatureLevel.migrations
    }

    /// Four hosts with three groups; half of group 1's slots go to each of the others, a replica of group 2 to the host that
    /// has none of it, and a lead of group 3.
    private func plan(_ map: ClusterMap, limits: Rebalancing.Limits) throws -> RebalancingPlan {
        let slots = map.ring.slots(of: GroupID(1))
        let half = slots.count / 2
        var steps: [Rebalancing.Step] = []
        for (start, target) in [(0, GroupID(2)), (half, GroupID(3))] {
            var place = start
            while place < start + half {
                let end = min(place + Rebalancing.slotsOfStepMax, start + half)
                steps.append(
                    Rebalancing.Step(
                        .slots(Array(slots[place..<end]), from: GroupID(1), to: target), .groupLeaves, bytes: 1 << 20))
                place = end
            }
        }
        let moved = try #require(map.group(GroupID(2)))
        let spare = try #require(map.hosts.first { moved.replica(on: $0.id) == nil })
        let leader = try #require(moved.record(of: moved.preferredLeader))
        // The leader's own: it hands over before it leaves.
        steps.append(
            Rebalancing.Step(
                .replica(moved.id, leader.id, from: leader.host, to: spare.id), .hostIsEmpty, bytes: 1 << 20))
        let led = try #require(map.group(GroupID(3)))
        let heir = try #require(led.replicas.first { $0.id != led.preferredLeader })
        steps.append(
            Rebalancing.Step(
                .leader(led.id, from: try #require(led.host(of: led.preferredLeader)), to: heir.host), .leads, bytes: 0)
        )
        return RebalancingPlan(token: 4, steps: steps, for: map, limits: limits)
    }

    @Test(arguments: [false, true]) func aPlanIsCarriedOutWhileClientsWrite(restarts: Bool) async throws {
        try await withHosts(
            loops: [1, 2, 1, 1], groups: 3, featureLevel: FeatureLevel.migrations, Self.brisk
        ) { hosts in
            let cluster = try await hosts.client()
            let keys = (0..<120).map { Bytes("{tag \($0)}") }
            let owner = RebalancingOperator(addresses: hosts.addresses)
            let standing = WritersStanding()
            let first = try await owner.map()
            let planned = try plan(first, limits: Rebalancing.Limits(concurrentMax: 3, pauseMillisMax: 2_000))
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for lane in 0..<4 {
                    tasks.addTask {
                        let own = keys.enumerated().filter { $0.offset % 4 == lane }.map(\.element)
                        // What may be there: one value, or two where nobody knows whether a put was done.
                        var known: [Bytes: [Bytes?]] = [:]
                        var number = 0
                        while !standing.isOver.withLock({ $0 }) || number < own.count {
                            let key = own[number % own.count]
                            // What was written before is there, wherever it is.
                            let before = try await cluster.kv.get(key)?.value
                            #expect(known[key, default: [nil]].contains(before))
                            let value = Bytes("\(number)")
                            do {
                                try await cluster.kv.put(key, value)
                                known[key] = [value]
                            } catch let error as BifrostError where error.mayHaveHappened && restarts {
                                known[key] = [before, value]
                            }
                            number += 1
                            standing.writes.withLock { $0 += 1 }
                        }
                    }
                }
                do {
                    // Whatever comes of it, the writers end.
                    defer { standing.isOver.withLock { $0 = true } }
                    try await wait(for: "the first writes") { standing.writes.withLock { $0 } > 200 }
                    try await owner.command(.beginRebalancing(planned))
                    if restarts {
                        // Whoever leads the meta group may be among them.
                        for number in 0..<2 {
                            await hosts.stop(number)
                            try await hosts.start(number, loops: 1)
                        }
                    }
                    let steps = try await owner.waitUntilOver().rebalancing.steps
                    #expect(steps.allSatisfy { $0.state == .done }, "\(steps)")
                }
                try await tasks.waitForAll()
            }
            await cluster.close()
            let map = try await owner.map()
            #expect(map.migrations.isEmpty)
            for step in planned.steps {
                switch step.move {
                case .slots(let slots, _, let to): #expect(slots.allSatisfy { map.owner(of: $0) == to })
                case .replica(let id, let old, _, let to):
                    let group = try #require(map.group(id))
                    #expect(group.record(of: old) == nil && group.replica(on: to) != nil && group.replicas.count == 3)
                case .leader(let id, _, let to):
                    #expect(map.group(id).flatMap { $0.host(of: $0.preferredLeader) } == to)
                }
            }
            // A replica that is behind by some entries says something else for a moment.
            var found: [RingProof.Violation] = []
            try await wait(for: "each slot in one place: \(found)") {
                found = try await owner.violations()
                return found.isEmpty
            }
        }
    }

    /// A group comes, and nobody asks for a plan: some seconds later it has its share, while clients write.
    @Test func theClusterKeepsTheBalanceByItself() async throws {
        try await withHosts(
            loops: [1, 2, 1, 1], groups: 3, featureLevel: FeatureLevel.migrations,
            {
                Self.brisk(&$0)
                $0.balanceLookNanoseconds = 500_000_000
                $0.balanceRestNanoseconds = 1_000_000_000
            }
        ) { hosts in
            let cluster = try await hosts.client()
            let owner = RebalancingOperator(addresses: hosts.addresses)
            let keys = (0..<60).map { Bytes("{tag \($0)}") }
            for key in keys { try await cluster.kv.put(key, Bytes("before")) }
            let limits = Rebalancing.Limits(concurrentMax: 3, pauseMillisMax: 2_000)
            try await owner.command(.setAuto(AutoRebalancing(limits: limits)))
            let first = try await owner.map()
            try await owner.command(
                .change(
                    .createGroup(weight: 100, hosts: first.hosts.prefix(3).map(\.id), preferred: 0),
                    expecting: first.version))
            let isOver = WritersStanding()
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask {
                    var round = 0
                    while !isOver.isOver.withLock({ $0 }) || round == 0 {
                        for key in keys { try await cluster.kv.put(key, Bytes("\(round)")) }
                        round += 1
                    }
                    for key in keys { #expect(try await cluster.kv.get(key)?.value == Bytes("\(round - 1)")) }
                }
                do {
                    // Whatever comes of it, the writer ends.
                    defer { isOver.isOver.withLock { $0 = true } }
                    var last = "nothing"
                    try await wait(for: "the group's share: \(last)") {
                        let standing = try await owner.standing()
                        last = "\(standing.map { "\($0)" } ?? "nobody says")"
                        guard let standing, standing.rebalancing.isOver else { return false }
                        return try await owner.map().ring.slots(of: GroupID(4)).count >= Slot.count / 4
                    }
                }
                try await tasks.waitForAll()
            }
            await cluster.close()
            let standing = try #require(try await owner.standing())
            #expect(standing.rebalancing.isAutomatic && standing.rebalancing.limits == limits)
            #expect(standing.rebalancing.count(.failed) == 0)
            #expect(standing.auto?.auto == AutoRebalancing(limits: limits))
            let map = try await owner.map()
            let counts = map.ring.counts().map(\.slots)
            #expect(map.migrations.isEmpty && counts.count == 4 && counts.max()! - counts.min()! <= 2, "\(counts)")
            var found: [RingProof.Violation] = []
            try await wait(for: "each slot in one place: \(found)") {
                found = try await owner.violations()
                return found.isEmpty
            }
        }
    }

    @Test func aPlanIsStaleWhereTheClusterChanged() async throws {
        try await withHosts(loops: [1, 1, 1, 1], groups: 3, featureLevel: FeatureLevel.migrations, Self.brisk) {
            hosts in
            let owner = RebalancingOperator(addresses: hosts.addresses)
            let map = try await owner.map()
            let planned = try plan(map, limits: Rebalancing.Limits())
            let slot = map.ring.slots(of: GroupID(1))[0]
            try await owner.command(.change(.migrate([slot], from: GroupID(1), to: GroupID(3))))
            var refusal = ""
            try await wait(for: "a refusal") {
                for address in hosts.addresses {
                    let probe = Probe(try NetworkAddress(address))
                    defer { probe.close() }
                    let reply: AdministerReply = try await probe.ask(
                        ClusterMethod.administer,
                        AdministerRequest(payload: MetaCommand.beginRebalancing(planned).payload()))
                    if case .refused(let text) = reply { refusal = text }
                }
                return !refusal.isEmpty
            }
            #expect(refusal.hasPrefix(Rebalancing.staleWord), "\(refusal)")
            #expect(try await owner.standing() == nil)
        }
    }
}
