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

@Suite(.ownExecutor) struct MigrationTests {
    private static func brisk(_ settings: inout HostSettings) {
        settings.tickNanoseconds = 25_000_000
        settings.featureLevel = FeatureLevel.migrations
    }

    private func map(of hosts: TestHosts) async throws -> ClusterMap {
        for address in hosts.addresses {
            let probe = Probe(try NetworkAddress(address))
            defer { probe.close() }
            let reply: MapReply = try await probe.ask(ClusterMethod.map, MapRequest())
            if case .map(let map) = reply { return map }
        }
        throw Timeout(description: "no host gives its map")
    }

    /// As an operator asks for it.
    private func change(_ change: MapChange, _ hosts: TestHosts) async throws {
        var refusal = ""
        try await wait(for: "a change of the map: \(refusal)") {
            for address in hosts.addresses {
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

    private func waitUntilMoved(_ hosts: TestHosts) async throws {
        try await wait(for: "migrations that are over") { try await map(of: hosts).migrations.isEmpty }
    }

    @Test func slotsMoveToAndFroWhileClientsWrite() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let cluster = try await hosts.client()
            let keys = (0..<64).map { Bytes("{tag \($0)}") }
            let isOver = Mutex(false)
            let longest = Mutex(Duration.zero)
            // Each adds one to its own keys, by what it read, and knows what has to be there.
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for lane in 0..<8 {
                    tasks.addTask {
                        let own = keys.enumerated().filter { $0.offset % 8 == lane }.map(\.element)
                        var count = 0
                        var revision = Revision.zero
                        while !isOver.withLock({ $0 }) {
                            let key = own[count % own.count]
                            let begun = ContinuousClock.now
                            let put = try await cluster.kv.put(key, Bytes("\(count)"))
                            let time = ContinuousClock.now - begun
                            longest.withLock { $0 = max($0, time) }
                            let found = try await cluster.kv.get(key)
                            #expect(found?.value == Bytes("\(count)") && found?.revision == put)
                            if own.count == 1 { #expect(put > revision) }
                            revision = put
                            count += 1
                        }
                    }
                }
                tasks.addTask {
                    for round in 0..<6 {
                        let before = try await self.map(of: hosts)
                        let source = GroupID(UInt32(1 + round % 2))
                        let target = GroupID(UInt32(2 - round % 2))
                        let slots = Set(keys.map { Ring.slot(of: $0) }).filter { before.owner(of: $0) == source }
                        try await self.change(.migrate(slots.sorted(), from: source, to: target), hosts)
                        try await self.waitUntilMoved(hosts)
                        let after = try await self.map(of: hosts)
                        #expect(slots.allSatisfy { after.owner(of: $0) == target })
                    }
                    isOver.withLock { $0 = true }
                }
                try await tasks.waitForAll()
            }
            print("slots moved six times under load; the longest put took \(longest.withLock { $0 })")
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
            let before = try await map(of: hosts)
            let slots = Set(keys.map { Ring.slot(of: $0) }).filter { before.owner(of: $0) == GroupID(1) }.sorted()
            try await change(.migrate(slots, from: GroupID(1), to: GroupID(2)), hosts)
            if let migration = try await map(of: hosts).migrations.first {
                // It may be decided by now.
                try? await change(.abortMigration(migration.id), hosts)
            }
            try await waitUntilMoved(hosts)
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
            for round in 0..<3 {
                let before = try await map(of: hosts)
                let source = GroupID(UInt32(1 + round % 2))
                let target = GroupID(UInt32(2 - round % 2))
                let slots = Set(keys.map { Ring.slot(of: $0) }).filter { before.owner(of: $0) == source }.sorted()
                try await change(.migrate(slots, from: source, to: target), hosts)
                await hosts.stop(round)
                try await hosts.start(round, loops: 1)
                try await waitUntilMoved(hosts)
                for (number, key) in keys.enumerated() {
                    #expect(try await cluster.kv.get(key)?.value == Bytes("\(number)"))
                }
            }
            await cluster.close()
        }
    }
}
