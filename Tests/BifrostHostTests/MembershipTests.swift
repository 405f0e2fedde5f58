// Memberships, barriers and latches on real hosts, as a program uses them.

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

private final class Comers: Sendable { let count = Mutex(0) }

@Suite(.ownExecutor) struct MembershipTests {
    private func failure(_ body: () async throws -> Void) async -> BifrostError? {
        do {
            try await body()
            return nil
        } catch { return error as? BifrostError }
    }

    private func pause() async { await OwnExecutor.pause(milliseconds: 20) }

    @Test(.timeLimit(.minutes(15)))
    func membersComeAndGoAndOneLeads() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let workers = ada.membership("{w}orkers")
            #expect(await failure { _ = try await workers.join("a", creating: false) }?.code == .conditionFailed)
            #expect(try await workers.create())
            #expect(try await workers.create() == false)
            #expect(try await workers.leader() == nil)
            var events = workers.watch(patience: .seconds(120)).makeAsyncIterator()
            func next() async throws -> String {
                while let event = try await events.next(isolation: nil) {
                    if event.kind != .progress { return "\(event.kind) \(event.member?.id ?? "-")" }
                }
                return "nothing"
            }
            #expect(try await next() == "ready -")

            let first = try await workers.join("a", metadata: "one")
            let second = try await bob.membership("{w}orkers").join("b", metadata: "two", stays: .zero)
            for told in ["joined a", "online a", "leaderChanged a", "joined b", "online b"] {
                #expect(try await next() == told)
            }
            #expect(try await workers.leader()?.metadata == "one")
            #expect(try await workers.online().entries.map(\.id) == ["a", "b"])
            try await first.announce("one, still")
            #expect(try await next() == "updated a")
            // The token of a place, and that of leadership, guard what lies beside.
            let epoch = try await workers.leadership(of: first)
            for token in [first.token, second.token, epoch] {
                try await ada.value("{w}v", of: Int.self).guarded(by: token).set(1)
            }
            let elsewhere = await failure { try await ada.value("v", of: Int.self).guarded(by: epoch).set(1) }
            #expect(elsewhere?.code == .invalid)

            // Offline, and still a member; the next one leads.
            let leading = Task { try await bob.membership("{w}orkers").leadership(of: second) }
            #expect(try await first.release())
            let later = try await leading.value
            #expect(later.number > epoch.number)
            for told in ["offline a", "leaderChanged b"] { #expect(try await next() == told) }
            #expect(try await workers.member("a")?.isOnline == false)
            for token in [first.token, epoch] {
                let late = await failure { try await ada.value("{w}v", of: Int.self).guarded(by: token).set(2) }
                #expect(late?.code == .lockLost)
            }
            // It comes back behind the other one, and takes over where it is online elsewhere.
            let again = try await workers.join("a")
            #expect(again.token.number > later.number)
            let taken = bob.membership("{w}orkers")
            #expect(await failure { _ = try await taken.join("a", takingOver: false) }?.code == .conditionFailed)
            let third = try await taken.join("a", metadata: "three")
            try await again.lost()
            #expect(try await again.release() == false)
            #expect(try await workers.member("a")?.token == third.token.number)
            for told in ["online a", "offline a", "online a"] { #expect(try await next() == told) }
            // One that does not stay leaves when it goes offline.
            #expect(try await second.release())
            for told in ["offline b", "left b", "leaderChanged a"] { #expect(try await next() == told) }
            #expect(try await workers.members().entries.map(\.id) == ["a"])
            #expect(await failure { _ = try await workers.delete() }?.code == .conditionFailed)
            #expect(try await workers.delete(force: true))
            try await third.lost()
            for told in ["leaderChanged -", "offline a", "left a", "deleted -"] { #expect(try await next() == told) }
            #expect(try await workers.members().state == .absent)
            #expect(try await workers.delete() == false)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func placesThatAreForgottenOrCancelledAreGivenUp() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let workers = cluster.membership("workers")
            _ = try await workers.join("a")
            await cluster.settle()
            #expect(try await workers.member("a")?.isOnline == false)
            let result = try await workers.withMembership(as: "a", metadata: "in") { held in
                try await workers.leader()?.token == held.token.number
            }
            #expect(result)
            #expect(try await workers.member("a")?.isOnline == false)
            #expect(try await workers.leave("a"))
            #expect(try await workers.leave("a") == false)
            // A snapshot of more than a page.
            for number in 0..<300 {
                let place = try await workers.join(Bytes("m\(number)"))
                try await place.release()
            }
            var seen: Set<Bytes> = []
            for try await event in workers.watch(patience: .seconds(120)) {
                if event.kind == .ready { break }
                if event.kind == .present, let member = event.member { seen.insert(member.id) }
            }
            #expect(seen.count == 300)
            var (count, from) = (0, Bytes() as Bytes?)
            while let first = from {
                let page = try await workers.members(from: first)
                count += page.entries.count
                from = page.next
            }
            #expect(count == 300)
            #expect(try await workers.delete())
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func aClientThatIsGoneIsOfflineAndOthersGoOn() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let bob = try await hosts.client()
            let thread = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            var options = ClusterOptions()
            options.sessionTimeToLive = .seconds(5)
            options.timeout = .seconds(60)
            options.eventLoopGroup = thread
            let gone = try await Cluster.connect(to: hosts.addresses, options: options)
            let place = try await gone.membership("{w}").join("gone", stays: .milliseconds(200))
            let epoch = try await gone.membership("{w}").leadership(of: place)
            let arriving = Task { try await gone.barrier("start", parties: 2).arrive() }
            while try await bob.barrier("start").state().arrived == 0 {
                if try await bob.membership("{w}").member("gone") == nil { break }
                await pause()
            }
            let mine = try await bob.membership("{w}").join("bob")
            // As one that is stopped: no word of it comes any more.
            gone.loop.eventLoop.execute { Thread.sleep(forTimeInterval: 30) }
            let next = try await bob.membership("{w}").leadership(of: mine)
            #expect(next.number > epoch.number)
            while try await bob.membership("{w}").member("gone") != nil { await pause() }
            while try await bob.barrier("start").state().arrived > 0 { await pause() }
            // It wakes up, and is told before anything else of it is done.
            try await place.lost()
            for token in [place.token, epoch] {
                let late = await failure { try await gone.value("{w}v", of: Int.self).guarded(by: token).set(1) }
                #expect(late?.code == .lockLost)
            }
            #expect(await failure { _ = try await arriving.value }?.code == .outcomeUnknown)
            await gone.close()
            try await thread.shutdownGracefully()
            try await mine.release()
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func allWaitForTheLastOneAndThenGoOn() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let clients = [try await hosts.client(), try await hosts.client(), try await hosts.client()]
            var rounds: [UInt64] = []
            for _ in 0..<5 {
                let come = Comers()
                let found = try await withThrowingTaskGroup(of: UInt64.self) { group in
                    for (number, client) in clients.enumerated() {
                        group.addTask {
                            if number == 2 {
                                while try await client.barrier("b").state().arrived < 2 {
                                    await OwnExecutor.pause(milliseconds: 5)
                                }
                            }
                            come.count.withLock { $0 += 1 }
                            let round = try await client.barrier("b", parties: 3).arrive()
                            #expect(come.count.withLock { $0 } == 3)
                            return round
                        }
                    }
                    var found: [UInt64] = []
                    for try await round in group { found.append(round) }
                    return found
                }
                #expect(Set(found).count == 1)
                rounds += found.prefix(1)
            }
            #expect(rounds == rounds.sorted() && Set(rounds).count == 5)

            // Who gives up has not arrived: neither by time nor by cancellation.
            let barrier = clients[0].barrier("b", parties: 2)
            #expect(await failure { _ = try await barrier.arrive(wait: .milliseconds(50)) }?.code == .deadlineExceeded)
            let waiting = Task { try await barrier.arrive() }
            while try await barrier.state().arrived == 0 { await pause() }
            #expect(
                await failure { _ = try await clients[1].barrier("b", parties: 3).arrive() }?.code == .conditionFailed)
            waiting.cancel()
            #expect(await failure { _ = try await waiting.value }?.code == .cancelled)
            await clients[0].settle()
            #expect(try await barrier.state().arrived == 0)
            #expect(await failure { _ = try await clients[1].barrier("b").arrive() }?.code == .conditionFailed)
            #expect(await failure { _ = try await clients[1].barrier("b", parties: 0).arrive() }?.code == .invalid)
        }
    }

    /// Watches can't tell anything here: whoever waits has to ask the object itself.
    @Test(.timeLimit(.minutes(15)))
    func whoWaitsLearnsOfItAlsoWhereNoChangeIsKept() async throws {
        try await withHosts(
            loops: [1], groups: 1, featureLevel: FeatureLevel.current, { $0.historyBytesOfGroupMax = 0 }
        ) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let lock = ada.lock("door")
            let held = try await lock.acquire()
            let waiting = Task { try await bob.lock("door").acquire() }
            while try await lock.waiters().waiters == 0 { await pause() }
            #expect(try await held.release())
            let next = try await waiting.value
            #expect(next.token.number > held.token.number)
            let losing = Task { try await next.lost() }
            for _ in 0..<3 { await pause() }
            #expect(try await lock.revoke(token: next.token.number))
            try await losing.value

            let workers = ada.membership("workers")
            let (first, second) = (try await workers.join("a"), try await workers.join("b"))
            let leading = Task { try await workers.leadership(of: second) }
            let leaving = Task { try await first.lost() }
            for _ in 0..<3 { await pause() }
            #expect(try await bob.membership("workers").putOffline("a"))
            try await leaving.value
            let leader = try await leading.value
            #expect(try await workers.members().epoch == leader.number)

            let arriving = Task { try await ada.barrier("start", parties: 2).arrive() }
            while try await bob.barrier("start").state().arrived == 0 { await pause() }
            let round = try await bob.barrier("start").arrive()
            #expect(try await arriving.value == round)

            let latch = ada.latch("done")
            let set = try await latch.set(1)
            let reaching = Task { try await bob.latch("done").wait() }
            for _ in 0..<3 { await pause() }
            try await latch.countDown()
            #expect(try await reaching.value == set.round)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func aLatchCountsDownInRounds() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let (ada, bob) = (try await hosts.client(), try await hosts.client())
            let latch = ada.latch("{l}atch")
            #expect(await failure { _ = try await latch.countDown() }?.code == .conditionFailed)
            #expect(await failure { _ = try await latch.wait() }?.code == .conditionFailed)
            let first = try await latch.set(2)
            #expect(try await latch.set(7, ifAbsent: true) == first)
            let waiting = Task { try await bob.latch("{l}atch").wait() }
            #expect(await failure { _ = try await latch.wait(for: .milliseconds(50)) }?.code == .deadlineExceeded)
            #expect(try await bob.latch("{l}atch").countDown().count == 1)
            #expect(await failure { _ = try await latch.countDown(round: first.round + 1) }?.code == .conditionFailed)
            #expect(try await latch.countDown(by: 5, round: first.round).isOpen)
            #expect(try await waiting.value == first.round)
            #expect(try await latch.wait() == first.round)
            // The next round: who knew of the one before is told that it was over.
            let second = try await latch.set(1)
            #expect(second.round > first.round)
            #expect(try await latch.wait(round: first.round) == first.round)
            let late = Task { try await bob.latch("{l}atch").wait(round: second.round) }
            await pause()
            let third = try await latch.set(1)
            #expect(await failure { _ = try await late.value }?.code == .conditionFailed)
            let held = try await ada.lock("{l}ock").acquire()
            try await held.release()
            #expect(await failure { _ = try await latch.guarded(by: held.token).countDown() }?.code == .lockLost)
            #expect(try await latch.state()?.count == 1)
            var seen: [UInt64] = []
            for try await change in latch.watch(patience: .seconds(120)) {
                if change.kind == .ready { try await latch.countDown(round: third.round) }
                if let state = change.value { seen.append(state.count) }
                if change.kind == .put { break }
            }
            #expect(seen == [1, 0])
            #expect(try await latch.delete())
            #expect(try await latch.state() == nil)
        }
    }
}
