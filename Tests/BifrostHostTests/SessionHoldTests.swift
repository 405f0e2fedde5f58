// Sessions that are held, over real hosts: kept for longer than their time, and lost when nobody answers.

import Bifrost
import BifrostHost
import ClientCore
import Messages
import Primitives
import RPC
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct SessionHoldTests {
    @Test func whatIsHeldOutlivesItsTimeAndIsLostWithTheHosts() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            var options = ClusterOptions()
            options.timeout = .seconds(60)
            // Words go after a third of it, and are owed after nine tenths: machines that test are slow.
            options.sessionTimeToLive = .seconds(18)
            let addresses = hosts.addresses
            let holder = try await Cluster.connect(to: addresses, options: options)
            let other = try await Cluster.connect(to: addresses, options: options)
            let group = try #require(hosts.map.ring.owner(of: slot(of: "k")))
            let (hold, shortHold) = (holder.hold(slot(of: "k")), other.hold(slot(of: "k")))
            try await holder.kv.put("k", "1")
            try await other.kv.put("k", "2")
            let life = try #require(await hold.life())
            let short = try #require(await shortHold.life())
            #expect(life.id != short.id)
            shortHold.release()

            func sessions() async throws -> Set<SessionID> {
                Set(try await holder.sessions(of: group).sessions.map(\.id))
            }
            #expect(try await sessions() == [life.id, short.id])
            try await wait(for: "the end of the session that nobody holds") {
                try await !sessions().contains(short.id)
            }
            try await wait(for: "twice the time of the one that is held") {
                RPCClock.now().since(life.aliveAt) > 2 * life.timeToLiveNanoseconds
            }
            #expect(try await sessions() == [life.id])
            try await holder.kv.put("k", "3")
            let last = try #require(await hold.life())
            #expect(last.id == life.id && last.aliveAt > life.aliveAt)

            try await other.kv.put("k", "4")
            let second = try #require(await shortHold.life())
            #expect(second.id != short.id)

            await hosts.stopAll()
            try await waitForLoss(last, hold)
            // Nothing is held there, so that the client waits for nothing but this.
            try await waitForLoss(second, shortHold)
            await other.close()
            await holder.close()
        }
    }

    private func waitForLoss(_ life: SessionLife, _ hold: SessionHold) async throws {
        let lostAt = Mutex<Instant?>(nil)
        let task = Task(executorPreference: OwnExecutor.current) {
            try await hold.lost(life.id)
            lostAt.withLock { $0 = RPCClock.now() }
        }
        try await wait(for: "the loss of session \(life.id)") { lostAt.withLock { $0 } != nil }
        try await task.value
        #expect(lostAt.withLock { $0 } ?? .zero >= life.endsAt)
        #expect(await hold.life() == nil)
    }
}
