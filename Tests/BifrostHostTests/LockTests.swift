// Locks, semaphores, elections and leases on real hosts, as a program uses them; and what fencing tokens hold back.

import Bifrost
import BifrostHost
import DataTypes
import Foundation
import HostCore
import Messages
import NIOCore
import NIOPosix
import Primitives
import StateMachines
import Synchronization
import TestSupport
import Testing

private final class Turns: Sendable { let turns = Mutex<[Int]>([]) }

@Suite(.ownExecutor) struct LockTests {
    private func failure(_ body: () async throws -> Void) async -> BifrostError? {
        do {
            try await body()
            return nil
        } catch { return error as? BifrostError }
    }

    private func pause() async { await OwnExecutor.pause(milliseconds: 20) }

    private func options(session: Duration) -> ClusterOptions {
        var options = ClusterOptions()
        options.sessionTimeToLive = session
        options.timeout = .seconds(60)
        return options
    }

    @Test(.timeLimit(.minutes(15)))
    func oneHasTheLockAndTheOthersGetItInTurn() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let first = try #require(try await ada.lock("{l}door").tryAcquire("ada"))
            #expect(try await bob.lock("{l}door").tryAcquire("bob") == nil)
            #expect(try await bob.lock("{l}door").holder()?.value == "ada")
            let late = await failure { _ = try await bob.lock("{l}door").acquire(wait: .milliseconds(50)) }
            #expect(late?.code == .deadlineExceeded && late?.mayHaveHappened == false)
            #expect(try await ada.lock("{l}door").waiters().waiters == 0)

            let order = Turns()
            try await withThrowingTaskGroup(of: UInt64.self) { group in
                for turn in 1...3 {
                    group.addTask {
                        try await bob.lock("{l}door").withLock(Bytes("\(turn)")) { held in
                            order.turns.withLock { $0.append(turn) }
                            return held.token.number
                        }
                    }
                    while try await ada.lock("{l}door").waiters().waiters < turn { await pause() }
                }
                #expect(try await ada.lock("{l}door").waiters().entries.map(\.value) == ["1", "2", "3"])
                #expect(try await first.release())
                var tokens: [UInt64] = []
                for try await token in group { tokens.append(token) }
                #expect(tokens.sorted().first ?? 0 > first.token.number && Set(tokens).count == 3)
            }
            #expect(order.turns.withLock { $0 } == [1, 2, 3])
            #expect(try await first.release() == false)
            #expect(try await ada.lock("{l}door").holder() == nil)

            // Who has it already goes on with it, by choice.
            let depth = try await ada.lock("{l}door").withLock { outer in
                try await ada.lock("{l}door").withLock(reentrant: true) { inner in
                    outer.token == inner.token ? 2 : 1
                }
            }
            #expect(depth == 2)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func whatIsAbandonedIsGivenBack() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let lock = cluster.lock("door")
            let held = try await lock.acquire()
            // A wait that is cancelled leaves no place behind, and a body that is cancelled no lock.
            let waiting = Task { _ = try await lock.acquire() }
            while try await lock.waiters().waiters == 0 { await pause() }
            waiting.cancel()
            #expect(await failure { try await waiting.value }?.code == .cancelled)
            await cluster.settle()
            #expect(try await lock.waiters().waiters == 0)
            try await held.release()
            let begun = Turns()
            let working = Task {
                try await lock.withLock { _ in
                    begun.turns.withLock { $0.append(1) }
                    try await Task.sleep(for: .seconds(600))
                }
            }
            while begun.turns.withLock({ $0.isEmpty }) { await pause() }
            working.cancel()
            _ = await working.result
            #expect(try await lock.holder() == nil)
            // Forgotten: given back as well.
            _ = try await lock.acquire()
            await cluster.settle()
            #expect(try await lock.holder() == nil)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func aTokenThatIsOverChangesNothing() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let held = try await ada.lock("{l}door").acquire("ada")
            // Beside the lock, and elsewhere; of each kind of command.
            let names: [Bytes] = ["{l}balance", "balance"]
            for name in names {
                try await ada.value(name, of: Int.self).guarded(by: held.token).set(1)
                try await ada.kv.guarded(by: held.token).put(name, "1")
                _ = try await ada.number(name, of: Int.self).guarded(by: held.token).add(1)
                _ = try await ada.kv.guarded(by: held.token).transaction(
                    if: [], then: [.put(key: name, value: "2")])
            }
            let losing = Task { try await held.lost() }
            #expect(try await bob.lock("{l}door").revoke(token: held.token.number))
            try await losing.value
            let next = try await bob.lock("{l}door").acquire("bob")
            #expect(next.token.number > held.token.number)
            let missed = await failure {
                try await ada.value("{l}balance", of: Int.self).guarded(by: held.token).set(2)
            }
            #expect(missed?.code == .lockLost && missed?.mayHaveHappened == false)
            for name in names {
                try await bob.value(name, of: Int.self).guarded(by: next.token).set(3)
                try await bob.kv.guarded(by: next.token).put(name, "3")
                _ = try await bob.number(name, of: Int.self).guarded(by: next.token).add(1)
                for late in [
                    await failure { try await ada.value(name, of: Int.self).guarded(by: held.token).set(4) },
                    await failure { try await ada.kv.guarded(by: held.token).put(name, "4") },
                    await failure { try await ada.kv.guarded(by: held.token).delete(name) },
                    await failure { _ = try await ada.number(name, of: Int.self).guarded(by: held.token).add(1) },
                    await failure {
                        _ = try await ada.kv.guarded(by: held.token).transaction(
                            if: [], then: [.put(key: name, value: "5")])
                    },
                ] { #expect(late?.code == .lockLost) }
                #expect(try await ada.value(name, of: Int.self).get()?.value == 3)
                #expect(try await ada.kv.get(name)?.value == "3")
                #expect(try await ada.number(name, of: Int.self).get() == 2)
            }
            // Several have tokens of a semaphore at once: elsewhere none of them is over.
            let permits = try await ada.semaphore("{l}s", permits: 2).acquire()
            try await ada.value("{l}v", of: Int.self).guarded(by: permits.token).set(1)
            let far = await failure { try await ada.value("v", of: Int.self).guarded(by: permits.token).set(1) }
            #expect(far?.code == .invalid)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func aClientThatIsGoneLosesWhatItHeld() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let bob = try await hosts.client()
            let thread = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            var options = options(session: .seconds(5))
            options.eventLoopGroup = thread
            let gone = try await Cluster.connect(to: hosts.addresses, options: options)
            let held = try await gone.lock("door").acquire("gone")
            let lead = try await gone.election("primary").campaign("gone")
            let waiting = Task { try await bob.lock("door").acquire("bob") }
            let standing = Task { try await bob.election("primary").campaign("bob") }
            // On a machine that has no time for it the session may be over before.
            while try await bob.lock("door").waiters().waiters == 0,
                try await bob.lock("door").holder()?.value == "gone"
            {
                await pause()
            }
            let election = bob.election("primary")
            while try await election.candidates().waiters == 0, try await election.leader()?.value == "gone" {
                await pause()
            }
            // As one that is stopped: no word of it comes any more.
            gone.loop.eventLoop.execute { Thread.sleep(forTimeInterval: 30) }
            let next = try await waiting.value
            #expect(next.token.number > held.token.number)
            let leader = try await standing.value
            #expect(leader.token.number > lead.token.number)
            #expect(try await bob.election("primary").leader()?.value == "bob")
            // It wakes up, and is told before anything else of it is done.
            try await held.lost()
            let late = await failure { try await gone.value("{door}v", of: Int.self).guarded(by: held.token).set(1) }
            #expect(late?.code == .lockLost)
            await gone.close()
            try await thread.shutdownGracefully()
            try await next.release()
            try await leader.release()
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func leasesEndUnlessTheyAreRenewed() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let long = try #require(try await ada.lease("disk").grant(for: .seconds(600)))
            #expect(try await bob.lease("disk").grant(for: .seconds(1)) == nil)
            try await long.renew()
            try await long.announce("renewed")
            #expect(try await bob.lease("disk").holder()?.value == "renewed")
            #expect(try await long.release())
            let held = try #require(try await ada.lease("disk").grant(for: .milliseconds(300)))
            let next = try #require(try await bob.lease("disk").grant(for: .seconds(600), wait: nil))
            #expect(next.token.number > held.token.number)
            try await held.lost()
            #expect(await failure { try await held.renew() }?.code == .lockLost)
            #expect(try await next.release())
            // Renewed while the body runs: longer than it lives. It ends all the same where the threads for tasks are
            // busy with other tests for as long: a longer one then.
            var isHeld = false
            for seconds in [12, 60, 180] where !isHeld {
                do {
                    isHeld = try await ada.lease("disk").withLease(for: .seconds(seconds)) { held in
                        try await Task.sleep(for: .seconds(seconds * 4 / 3))
                        return try await bob.lease("disk").holder()?.number == held.token.number
                    }
                } catch let error as BifrostError where error.code == .lockLost {}
            }
            #expect(isHeld)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func permitsAreCountedAndElectionsSeen() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let builders = cluster.semaphore("builders", permits: 4)
            let (two, one) = (try await builders.acquire(2), try await builders.acquire())
            #expect(try await builders.tryAcquire(2) == nil)
            #expect(await failure { _ = try await builders.acquire(5) }?.code == .invalid)
            #expect(
                await failure { _ = try await cluster.semaphore("builders", permits: 3).acquire() }?.code
                    == .conditionFailed)
            #expect(try await builders.setLimit(5) == 3)
            let more = try #require(try await cluster.semaphore("builders").tryAcquire(2))
            #expect(try await builders.holders().out == 5)
            for held in [two, one, more] { try await held.release() }
            #expect(try await builders.holders().out == 0)

            let election = cluster.election("primary")
            var seen: [String] = []
            let first = try await election.campaign("one")
            let second = Task { try await election.campaign("two") }
            while try await election.candidates().waiters == 0 { await pause() }
            for try await change in election.observe(patience: .seconds(120)) where change.kind != .progress {
                seen.append("\(change.kind.rawValue) \(change.holder?.value ?? "")")
                if change.kind == .ready { try await first.announce("one, still") }
                if change.holder?.value == "one, still" { try await first.release() }
                if change.holder?.value == "two" { break }
            }
            #expect(seen == ["present one", "ready ", "put one, still", "deleted ", "put two"])
            try await second.value.release()
        }
    }
}
