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
    let added = Mutex(0)
    let losses = Mutex<[String]>([])
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

    // MARK: What is held

    @Test(.timeLimit(.minutes(15)))
    func whatIsHeldGoesWithItsSlot() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            var options = ClusterOptions()
            options.timeout = .seconds(120)
            options.connectTimeout = .seconds(120)
            // Words go after a third of it, and are owed after nine tenths: machines that test are slow.
            options.sessionTimeToLive = .seconds(15)
            let ada = try await Cluster.connect(to: hosts.addresses, options: options)
            let bob = try await Cluster.connect(to: hosts.addresses, options: options)
            let moves = MovesOperator(addresses: hosts.addresses)
            let home = Ring.slot(of: "{h}door")

            func move() async throws {
                let source = try #require(try await moves.map().owner(of: home))
                try await moves.move([home], from: source, to: GroupID(3 - source.rawValue))
            }

            let lock = try await ada.lock("{h}door").acquire("ada")
            let room = try await ada.semaphore("{h}rooms", permits: 2).acquire(1)
            let lead = try await ada.election("{h}lead").campaign("ada")
            let place = try await ada.membership("{h}crew").join("ada")
            let standing = Standing()
            let named = [("lock", lock), ("room", room), ("lead", lead), ("place", place)]
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for (name, one) in named {
                    tasks.addTask {
                        guard (try? await one.lost()) != nil else { return }
                        standing.losses.withLock { $0.append(name) }
                    }
                }
                defer { tasks.cancelAll() }
                let waiting = Task(executorPreference: OwnExecutor.current) {
                    try await bob.lock("{h}door").acquire("bob")
                }
                try await wait(for: "who waits") { try await ada.lock("{h}door").waiters().waiters == 1 }

                var balance = 0
                func check() async throws {
                    balance += 1
                    let value = ada.value("{h}balance", of: Int.self)
                    for token in [lock.token, lead.token, place.token, room.token] {
                        try await value.guarded(by: token).set(balance)
                    }
                    #expect(try await bob.value("{h}balance", of: Int.self).get()?.value == balance)
                    let holder = try await bob.lock("{h}door").holder()
                    #expect(holder?.value == "ada" && holder?.number == lock.token.number)
                    #expect(try await bob.semaphore("{h}rooms").holders().entries.count == 1)
                    #expect(try await bob.election("{h}lead").leader()?.number == lead.token.number)
                    #expect(try await bob.membership("{h}crew").online().entries.count == 1)
                    #expect(try await bob.lock("{h}door").waiters().waiters == 1)
                    #expect(standing.losses.withLock { $0 } == [])
                }
                func passMoreThanASession() async throws {
                    let since = ContinuousClock.now
                    try await wait(for: "more than a session's time") { ContinuousClock.now - since > .seconds(20) }
                }

                try await check()
                try await move()
                try await check()
                // Whoever nobody speaks for has ended by then.
                try await passMoreThanASession()
                try await check()
                try await move()
                try await move()
                try await passMoreThanASession()
                try await check()

                // It is given back where it is, and the next one in the queue gets it there.
                #expect(try await lock.release())
                let next = try await waiting.value
                #expect(next.token.number > lock.token.number)
                #expect(try await ada.lock("{h}door").holder()?.number == next.token.number)
                let late = try? await ada.value("{h}balance", of: Int.self).guarded(by: lock.token).set(0)
                #expect(late == nil, "a late holder is shut out")
                try await bob.value("{h}balance", of: Int.self).guarded(by: next.token).set(7)
                try await move()
                try await bob.value("{h}balance", of: Int.self).guarded(by: next.token).set(8)
                try await wait(for: "who is told that the lock is given back") {
                    standing.losses.withLock { !$0.isEmpty }
                }
                #expect(standing.losses.withLock { $0 } == ["lock"])

                // Who goes gives all back, where it is now.
                await ada.close()
                try await wait(for: "the end of all that was held") {
                    let rooms = try await bob.semaphore("{h}rooms").holders().entries.count
                    let leader = try await bob.election("{h}lead").leader()
                    let online = try await bob.membership("{h}crew").online().entries.count
                    return rooms == 0 && leader == nil && online == 0
                }
                #expect(try await next.release())
                let last = try #require(try await bob.lock("{h}door").tryAcquire("bob"))
                #expect(last.token.number > next.token.number)
                #expect(try await last.release())
            }
            await bob.close()
            try await hosts.waitForEqualStates()
        }
    }

    /// No condition, so that twice would show; and hosts that end, so that answers are lost.
    @Test(.timeLimit(.minutes(15)))
    func sumsAreExactThroughMovesAndLostAnswers() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let cluster = try await hosts.client()
            let names = (0..<16).map { Bytes("{sum \($0)}") }
            let moves = MovesOperator(addresses: hosts.addresses)
            let standing = Standing()
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for writer in 0..<8 {
                    tasks.addTask {
                        var count = writer
                        while !standing.isOver.withLock({ $0 }) {
                            // Whose outcome is unknown ends the test.
                            _ = try await cluster.number(names[count % names.count], of: Int.self).add(1)
                            standing.added.withLock { $0 += 1 }
                            count += 1
                        }
                    }
                }
                let slots = names.map { Ring.slot(of: $0) }
                for round in 0..<6 as Range<UInt32> {
                    let (source, target) = (GroupID(1 + round % 2), GroupID(2 - round % 2))
                    let (_, version) = try await moves.begin(slots, from: source, to: target)
                    if round % 2 == 1 {
                        let host = Int(round / 2)
                        await hosts.stop(host)
                        try await hosts.start(host, loops: 1)
                    }
                    _ = try await moves.waitUntilOver(since: version)
                }
                standing.isOver.withLock { $0 = true }
                try await tasks.waitForAll()
            }
            var sum = 0
            for name in names { sum += try await cluster.number(name, of: Int.self).get() ?? 0 }
            #expect(sum == standing.added.withLock { $0 } && sum > 0)
            await cluster.close()
            try await hosts.waitForEqualStates()
        }
    }
}
