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

    /// The newest that a host has: any one of them may be behind.
    func map() async throws -> ClusterMap {
        var newest: ClusterMap?
        for address in addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            // One of them may be away.
            guard let reply: MapReply = try? await probe.ask(ClusterMethod.map, MapRequest()) else { continue }
            if case .map(let map) = reply, map.version > newest?.version ?? 0 { newest = map }
        }
        guard let newest else { throw Timeout(description: "no host gives its map") }
        return newest
    }

    /// - Returns: the map's version then; nil: it is refused, or nobody knows.
    private func submit(_ change: MapChange) async throws -> UInt64? {
        for address in addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            guard
                let reply: AdministerReply = try? await probe.ask(
                    ClusterMethod.administer, AdministerRequest(payload: MetaCommand.change(change).payload()))
            else { continue }
            if case .done(let body) = reply { return try MetaOutcome(decoding: body).mapVersion }
        }
        return nil
    }

    /// Asks once: what is under way may be decided, or over.
    func abort(_ id: MigrationID) async throws { _ = try await submit(.abortMigration(id)) }

    /// Asks for the slots that the source has, until a host takes it.
    ///
    /// - Returns: which they are, and the map's version then.
    func begin(
        _ slots: [Slot], from source: GroupID, to target: GroupID
    ) async throws -> (moving: [Slot], version: UInt64) {
        var begun: (moving: [Slot], version: UInt64)?
        try await wait(for: "a migration of group \(source) that begins") {
            let before = try await map()
            // An answer that was lost may be of one that was taken.
            if let known = before.migrations.first(where: { $0.source == source && $0.target == target }) {
                begun = (known.slots, before.version)
                return true
            }
            let moving = Set(slots).filter { before.owner(of: $0) == source }.sorted()
            guard !moving.isEmpty else {
                begun = ([], before.version)
                return true
            }
            begun = try await submit(.migrate(moving, from: source, to: target)).map { (moving, $0) }
            return begun != nil
        }
        return try #require(begun)
    }

    func waitUntilOver(since version: UInt64) async throws -> ClusterMap {
        var last: ClusterMap?
        try await wait(for: "migrations that are over") {
            let map = try await map()
            last = map
            return map.version >= version && map.migrations.isEmpty
        }
        return try #require(last)
    }

    /// All of these slots that the group has, to another; returns when they are there. What is given up, as a source's
    /// deletions may be gone when its leader changes, is asked for again.
    func move(_ slots: [Slot], from source: GroupID, to target: GroupID) async throws {
        try await wait(for: "slots of group \(source) that are all group \(target)'s") {
            let (moving, version) = try await begin(slots, from: source, to: target)
            let after = try await waitUntilOver(since: version)
            return moving.allSatisfy { after.owner(of: $0) == target }
                && !slots.contains { after.owner(of: $0) == source }
        }
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
                        while !standing.isOver.withLock({ $0 }), !Task.isCancelled {
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
            let (moving, version) = try await moves.begin(
                keys.map { Ring.slot(of: $0) }, from: GroupID(1), to: GroupID(2))
            #expect(!moving.isEmpty)
            // It may be decided by now.
            for migration in try await moves.map().migrations { try await moves.abort(migration.id) }
            _ = try await moves.waitUntilOver(since: version)
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
                let (source, target) = (GroupID(UInt32(1 + round % 2)), GroupID(UInt32(2 - round % 2)))
                let (_, version) = try await moves.begin(keys.map { Ring.slot(of: $0) }, from: source, to: target)
                await hosts.stop(round)
                try await hosts.start(round, loops: 1)
                _ = try await moves.waitUntilOver(since: version)
                for (number, key) in keys.enumerated() {
                    #expect(try await cluster.kv.get(key)?.value == Bytes("\(number)"))
                }
            }
            await cluster.close()
        }
    }
}
