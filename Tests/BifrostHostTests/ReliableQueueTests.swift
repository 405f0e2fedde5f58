// Queues on real hosts, as a program uses them.

import Bifrost
import BifrostHost
import DataTypes
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct ReliableQueueTests {
    private func failure(_ body: () async throws(BifrostError) -> Void) async -> BifrostError? {
        do throws(BifrostError) {
            try await body()
            return nil
        } catch { return error }
    }

    @Test(.timeLimit(.minutes(15)))
    func itemsAreTakenByPriorityAndComeBack() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let jobs = cluster.queue("jobs", of: String.self)
            #expect(try await jobs.take(visibility: .seconds(60)).isEmpty)
            let first = try await jobs.push("a", id: "once")
            #expect(first.isNew)
            let again = try await jobs.push("a again", id: "once")
            #expect(again.item == first.item && !again.isNew)
            try await jobs.push([.init("b"), .init("urgent", priority: 200), .init("later", delay: .milliseconds(50))])
            #expect(try await jobs.peek().items.map(\.value).prefix(3) == ["urgent", "a", "b"])
            let taken = try await jobs.take(max: 2, visibility: .seconds(600))
            #expect(taken.map(\.value) == ["urgent", "a"] && taken.map(\.deliveries) == [1, 1])
            #expect(QueueReceipt("\(taken[0].receipt)") == taken[0].receipt)
            #expect(try await taken[0].ack())
            #expect(try await taken[0].ack() == false)
            #expect(try await taken[1].extend(by: .seconds(700)))
            #expect(try await taken[1].nack())
            #expect(try await taken[1].ack() == false)
            try await wait(for: "the delayed item") { try await jobs.counts().ready == 3 }
            #expect(try await jobs.takeAndAck(max: 9) == ["a", "b", "later"])
            #expect(try await jobs.counts().inFlight == 0)

            // What is not acknowledged in time comes back, and is dead in the end.
            try await jobs.setDeliveriesMax(2)
            try await jobs.push("poison")
            for delivery in 1...2 {
                let taken = try await jobs.take(visibility: .milliseconds(50), wait: .seconds(120))
                #expect(taken.map(\.deliveries) == [delivery])
            }
            try await wait(for: "its death") { try await jobs.counts().dead == 1 }
            let dead = try await jobs.deadItems().items
            #expect(dead.map(\.value) == ["poison"] && dead.map(\.reason) == [.timedOut])
            #expect(try await jobs.requeue([dead[0].item, 99]) == [true, false])
            #expect(try await jobs.removeDead([dead[0].item]) == [false])
            #expect(try await jobs.clear() == 1)
            #expect(try await jobs.purgeDead() == 0)
            #expect(try await jobs.counts().ready == 0)

            // Nobody's items outlive who took them.
            try await jobs.push(["x", "y"].map { .init($0) })
            let other = try await hosts.client("other")
            let nobodys = try await other.queue("jobs", of: String.self).take(
                visibility: .seconds(3_600), outlivesSession: true)
            #expect(nobodys.map(\.value) == ["x"])
            await other.close()
            #expect(try await jobs.ack([nobodys[0].receipt]) == [true])
            let bad = await failure { () async throws(BifrostError) in
                _ = try await jobs.take(visibility: .milliseconds(0))
            }
            #expect(bad?.code == .invalid)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func whoWaitsGetsWhatComesAndWhoGivesUpGetsNothing() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let other = try await hosts.client("other")
            let jobs = cluster.queue("jobs", of: Bytes.self)
            let producer = other.queue("jobs", of: Bytes.self)
            func waiters(_ count: UInt32) async throws {
                try await wait(for: "\(count) who wait") { try await producer.counts().waiters == count }
            }
            #expect(try await jobs.take(visibility: .seconds(60), wait: .milliseconds(20)).isEmpty)
            try await waiters(0)

            let first = Task(executorPreference: OwnExecutor.current) {
                try await jobs.take(max: 2, visibility: .seconds(600), wait: .seconds(600))
            }
            try await waiters(1)
            let given = Task(executorPreference: OwnExecutor.current) {
                try await jobs.take(visibility: .seconds(600), wait: .seconds(600))
            }
            try await waiters(2)
            given.cancel()
            await #expect(throws: BifrostError(.cancelled, "")) { try await given.value }
            await cluster.settle()
            #expect(try await producer.counts().waiters == 1)
            // Larger than what is told with the event.
            let large = Bytes([UInt8](repeating: 5, count: 200_000))
            try await producer.push([.init(large), .init("small"), .init("more")])
            let taken = try await first.value
            #expect(taken.map(\.value) == [large, "small"])
            #expect(try await jobs.ack(taken.map(\.receipt)) == [true, true])
            #expect(try await jobs.counts().ready == 1)

            // A consumer that stops with items in hand gives them back at once.
            for number in 0..<4 { try await producer.push(Bytes("\(number)")) }
            for try await delivery in jobs.deliveries(visibility: .seconds(3_600), batch: 4) {
                #expect(delivery.value == "more")
                #expect(try await delivery.ack())
                break
            }
            try await wait(for: "what was not looked at") { try await producer.counts().ready == 4 }
            #expect(try await producer.take(max: 4, visibility: .seconds(60)).map(\.value) == ["0", "1", "2", "3"])
        }
    }

    /// Beside the lock, and elsewhere.
    @Test(.timeLimit(.minutes(15)), arguments: ["{l}jobs", "jobs"])
    func aTokenThatIsOverChangesNoQueue(_ name: String) async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let lock = cluster.lock("{l}door")
            let held = try await lock.acquire()
            let plain = cluster.queue(Bytes(name), of: String.self)
            let jobs = plain.guarded(by: held.token)
            try await jobs.setDeliveriesMax(1)
            try await jobs.push("a")
            try await jobs.push(["b", "c", "d", "e"].map { .init($0) })
            let taken = try await jobs.take(max: 3, visibility: .seconds(3_600))
            #expect(taken.map(\.value) == ["a", "b", "c"])
            #expect(try await taken[0].ack())
            #expect(try await taken[1].extend(by: .seconds(7_200)))
            #expect(try await jobs.nack([taken[1].receipt]) == [true])
            #expect(try await jobs.requeue([2]) == [true])
            #expect(try await jobs.takeAndAck() == ["b"])
            let dead = try await jobs.take(visibility: .seconds(3_600))
            #expect(try await dead[0].nack())
            let counts = try await plain.counts()
            #expect((counts.ready, counts.inFlight, counts.dead) == (1, 1, 1))
            let waiting = Task(executorPreference: OwnExecutor.current) {
                try await cluster.queue("{l}none", of: String.self).guarded(by: held.token).take(
                    visibility: .seconds(600), wait: .seconds(3_600))
            }
            try await wait(for: "one who waits") {
                try await cluster.queue("{l}none", of: String.self).counts().waiters == 1
            }

            #expect(try await lock.revoke(token: held.token.number))
            let next = try await lock.acquire()
            try await plain.guarded(by: next.token).setDeliveriesMax(2)
            let old = taken[2]
            let commands: [() async throws -> Void] = [
                { _ = try await jobs.push("late") },
                { _ = try await jobs.take(visibility: .seconds(3_600)) },
                {
                    _ = try await jobs.take(max: 9, visibility: .seconds(3_600), wait: .seconds(3_600))
                },
                { _ = try await jobs.takeAndAck() },
                { _ = try await old.ack() },
                { _ = try await old.nack() },
                { _ = try await old.extend(by: .seconds(60)) },
                { _ = try await jobs.requeue([4]) },
                { _ = try await jobs.removeDead([4]) },
                { _ = try await jobs.purgeDead() },
                { _ = try await jobs.setDeliveriesMax(7) },
                { _ = try await jobs.clear() },
            ]
            for (number, command) in commands.enumerated() {
                let error = await #expect(throws: BifrostError.self) { try await command() }
                #expect(error?.code == .lockLost && error?.mayHaveHappened == false, "\(number): \(error as Any)")
            }
            let found = try await plain.counts()
            #expect((found.ready, found.inFlight, found.dead) == (1, 1, 1) && found.deliveriesMax == 2)
            #expect(try await plain.peek().items.map(\.value) == ["e"])
            #expect(try await plain.deadItems().items.map(\.value) == ["d"])
            // What was got before is given back all the same.
            waiting.cancel()
            await #expect(throws: BifrostError(.cancelled, "")) { try await waiting.value }
            await cluster.settle()
            #expect(try await cluster.queue("{l}none", of: String.self).counts().waiters == 0)
            #expect(try await plain.guarded(by: next.token).ack([old.receipt]) == [true])
            try await next.release()
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func whatAClientHadComesBackWhenItEnds() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, featureLevel: FeatureLevel.current) { hosts in
            var options = ClusterOptions()
            options.timeout = .seconds(60)
            options.sessionTimeToLive = .seconds(18)
            let holder = try await Cluster.connect(to: hosts.addresses, options: options)
            let cluster = try await hosts.client()
            let jobs = cluster.queue("jobs", of: Int.self)
            for batch in 0..<3 { try await jobs.push((0..<50).map { .init(batch * 50 + $0) }) }
            let taken = try await holder.queue("jobs", of: Int.self).take(max: 140, visibility: .seconds(100_000))
            #expect(taken.map(\.value) == Array(0..<140))
            // As long as they are held, the session stays: for more than its time.
            let began = ContinuousClock.now
            try await wait(for: "more than a session's time") { ContinuousClock.now - began > .seconds(24) }
            #expect(try await jobs.counts().inFlight == 140)
            #expect(try await taken[0].ack())
            await holder.close()
            withExtendedLifetime(taken) {}
            try await wait(for: "all that it had") { try await jobs.counts().ready == 149 }
            #expect(try await jobs.take(max: 3, visibility: .seconds(60)).map(\.value) == [1, 2, 3])
        }
    }

    /// Producers and consumers, while hosts end: nothing is lost, nothing acknowledged twice, and each consumer sees first
    /// deliveries in the order in which they were pushed.
    @Test(.timeLimit(.minutes(15)))
    func nothingIsLostOrDoneTwiceThoughHostsEnd() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let (producers, each, consumers) = (2, 120, 3)
            var options = ClusterOptions()
            options.timeout = .seconds(120)
            var clusters: [Cluster] = []
            for _ in 0...consumers { clusters.append(try await Cluster.connect(to: hosts.addresses, options: options)) }
            let done = Done()
            let queue = clusters[consumers].queue("jobs", of: Int.self)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for producer in 0..<producers {
                    group.addTask(executorPreference: OwnExecutor.current) {
                        for number in 0..<each {
                            let value = producer * each + number
                            // Where it is not known what became of it, the id says.
                            while true {
                                do {
                                    try await queue.push(value, id: Bytes("\(value)"), window: .seconds(3_600))
                                    break
                                } catch let error as BifrostError where error.code == .outcomeUnknown {}
                            }
                        }
                    }
                }
                for consumer in 0..<consumers {
                    let jobs = clusters[consumer].queue("jobs", of: Int.self)
                    group.addTask(executorPreference: OwnExecutor.current) {
                        try await Self.consume(jobs, batch: 1 + consumer, done)
                    }
                }
                for round in 0..<3 {
                    try await wait(for: "round \(round)") { done.counts.withLock { $0.count } > (round + 1) * 40 }
                    await hosts.stop(round)
                    try await hosts.start(round, loops: 1)
                }
                try await wait(for: "all to be done") {
                    guard done.counts.withLock({ $0.count }) >= producers * each else { return false }
                    let counts = try await queue.counts()
                    return counts.ready + counts.inFlight + counts.delayed + counts.dead == 0
                }
                for consumer in 0..<consumers { try await queue.push(-1 - consumer) }
                try await group.waitForAll()
            }
            let all = done.counts.withLock { $0 }
            #expect(Set(all.keys.filter { $0 >= 0 }) == Set(0..<producers * each))
            #expect(all.values.allSatisfy { $0 <= 1 })
            for cluster in clusters { await cluster.close() }
        }
    }

    /// How often each value was acknowledged; 0: its outcome is unknown.
    private final class Done: Sendable {
        let counts = Mutex<[Int: Int]>([:])
    }

    /// Until a value below 0 comes.
    private static func consume(_ jobs: ReliableQueue<Int>, batch: Int, _ done: Done) async throws {
        var last: UInt64 = 0
        for try await delivery in jobs.deliveries(visibility: .seconds(20), batch: batch) {
            if delivery.receipt.delivery == 1 {
                #expect(delivery.receipt.item > last)
                last = delivery.receipt.item
            }
            let value = delivery.value
            do throws(BifrostError) {
                if try await delivery.ack() { done.counts.withLock { $0[value, default: 0] += 1 } }
            } catch {
                guard error.code == .outcomeUnknown else { throw error }
                // Done, or it comes back.
                done.counts.withLock { $0[value] = $0[value] ?? 0 }
            }
            if value < 0 { return }
        }
    }
}
