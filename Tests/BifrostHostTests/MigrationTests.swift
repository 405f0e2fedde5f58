// Slots that move from group to group, on real hosts and real disks, under load.

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

/// Who asks for moves, at hosts of these addresses.
struct MovesOperator: Sendable {
    let addresses: [String]

    func map() async throws -> ClusterMap {
        for address in addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            let reply: MapReply = try await probe.ask(ClusterMethod.map, MapRequest())
            if case .map(let map) = reply { return map }
        }
        throw Timeout(description: "no host gives its map")
    }

    func change(_ change: MapChange) async throws {
        var refusal = ""
        try await wait(for: "a change of the map: \(refusal)") {
            for address in addresses {
                let probe = Probe(try NetworkAddress(address))
                defer { probe.close() }
                let reply: AdministerReply = try await probe.ask(
                    ClusterMethod.administer, AdministerRequest(payload: MetaCommand.change(change).payload()))
                switch reply {
                case .done: return true
                case .refused(let text): refusal = text
                case .notLeader, .outcomeUnknown: break
                }
            }
            return false
        }
    }

    func waitUntilMoved() async throws {
        try await wait(for: "migrations that are over") { try await map().migrations.isEmpty }
    }

    /// All of these slots that the group has, to another; returns when they are there.
    func move(_ slots: [Slot], from source: GroupID, to target: GroupID) async throws {
        let before = try await map()
        let moving = Set(slots).filter { before.owner(of: $0) == source }.sorted()
        try await change(.migrate(moving, from: source, to: target))
        try await waitUntilMoved()
        let after = try await map()
        #expect(moving.allSatisfy { after.owner(of: $0) == target })
    }
}

/// What the tasks of a test share.
private final class Standing: Sendable {
    let isOver = Mutex(false)
    let longest = Mutex(Duration.zero)
}

@Suite(.ownExecutor) struct MigrationTests {
    private static func brisk(_ settings: inout HostSettings) {
        settings.tickNanoseconds = 25_000_000
        settings.featureLevel = FeatureLevel.migrations
    }

    @Test func slotsMoveToAndFroWhileClientsWrite() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let cluster = try await hosts.client()
            let keys = (0..<64).map { Bytes("{tag \($0)}") }
            let moves = MovesOperator(addresses: hosts.addresses)
            let standing = Standing()
            // Each writes its own keys, and knows what has to be there.
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for lane in 0..<8 {
                    tasks.addTask {
                        let own = keys.enumerated().filter { $0.offset % 8 == lane }.map(\.element)
                        var revisions: [Bytes: Revision] = [:]
                        var count = 0
                        while !standing.isOver.withLock({ $0 }) {
                            let key = own[count % own.count]
                            let begun = ContinuousClock.now
                            let put = try await cluster.kv.put(key, Bytes("\(count)"))
                            let time = ContinuousClock.now - begun
                            standing.longest.withLock { $0 = max($0, time) }
                            let found = try await cluster.kv.get(key)
                            #expect(found?.value == Bytes("\(count)") && found?.revision == put)
                            #expect(put > revisions[key] ?? .zero)
                            revisions[key] = put
                            count += 1
                        }
                    }
                }
                tasks.addTask {
                    let slots = keys.map { Ring.slot(of: $0) }
                    for round in 0..<6 as Range<UInt32> {
                        try await moves.move(slots, from: GroupID(1 + round % 2), to: GroupID(2 - round % 2))
                    }
                    standing.isOver.withLock { $0 = true }
                }
                try await tasks.waitForAll()
            }
            print("slots moved six times under load; the longest put took \(standing.longest.withLock { $0 })")
            await cluster.close()
            // Nothing was left where it was.
            try await hosts.waitForEqualStates()
        }
    }

    @Test func whatIsAbortedStaysWhereItIs() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let cluster = try await hosts.client()
            let keys = (0..<40).map { Bytes("{tag \($0)}") }
            for key in keys { try await cluster.kv.put(key, "before") }
            let moves = MovesOperator(addresses: hosts.addresses)
            let before = try await moves.map()
            let slots = Set(keys.map { Ring.slot(of: $0) }).filter { before.owner(of: $0) == GroupID(1) }.sorted()
            try await moves.change(.migrate(slots, from: GroupID(1), to: GroupID(2)))
            let payload = try await moves.map().migrations.first.map {
                MetaCommand.change(.abortMigration($0.id)).payload()
            }
            // It may be decided by now.
            for address in hosts.addresses {
                guard let payload else { continue }
                let probe = Probe(try NetworkAddress(address))
                let _: AdministerReply = try await probe.ask(
                    ClusterMethod.administer, AdministerRequest(payload: payload))
                probe.close()
            }
            try await moves.waitUntilMoved()
            for key in keys {
                #expect(try await cluster.kv.get(key)?.value == "before")
                try await cluster.kv.put(key, "after")
                #expect(try await cluster.kv.get(key)?.value == "after")
            }
            await cluster.close()
        }
    }

    @Test func hostsThatAreStartedAgainGoOnWithWhatMoves() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let cluster = try await hosts.client()
            let keys = (0..<40).map { Bytes("{tag \($0)}") }
            for (number, key) in keys.enumerated() { try await cluster.kv.put(key, Bytes("\(number)")) }
            let moves = MovesOperator(addresses: hosts.addresses)
            for round in 0..<3 {
                let before = try await moves.map()
                let (source, target) = (GroupID(UInt32(1 + round % 2)), GroupID(UInt32(2 - round % 2)))
                let slots = Set(keys.map { Ring.slot(of: $0) }).filter { before.owner(of: $0) == source }.sorted()
                try await moves.change(.migrate(slots, from: source, to: target))
                await hosts.stop(round)
                try await hosts.start(round, loops: 1)
                try await moves.waitUntilMoved()
                for (number, key) in keys.enumerated() {
                    #expect(try await cluster.kv.get(key)?.value == Bytes("\(number)"))
                }
            }
            await cluster.close()
        }
    }
}
