// Commands of real clients to real processes that are killed: each is done once.

import Bifrost
import BifrostTool
import Primitives
import StateMachines
import Synchronization
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct ExactlyOnceTests {
        /// Each increment is made on the condition that the one before it is there: one that was done twice, or was done
        /// and not answered, would fail its condition.
        @Test func incrementsGiveTheExactSumThoughEachHostIsKilled() async throws {
            try await withCluster { cluster in
                let client = try await Cluster.connect(to: cluster.hosts.map(\.address))
                let counters = Counters(workers: 16, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await counters.run() }
                for host in cluster.hosts {
                    try await counters.progress(by: 300)
                    cluster.local.kill(host)
                    try await counters.progress(by: 300)
                    try cluster.start(host)
                    _ = try await cluster.waitForStatus(0)
                }
                try await counters.progress(by: 300)
                counters.stop()
                await running.value
                #expect(counters.problems == [])
                for (worker, sum) in counters.sums.enumerated() {
                    let found = try await client.kv.get(Counters.name(worker))
                    #expect(found?.value == Bytes("\(sum)"), "counter \(worker)")
                }
                await client.close()
            }
        }
    }
}

/// Workers that count, each with a key of its own, one increment after the other.
private final class Counters: Sendable {
    private struct State {
        var sums: [Int]
        var isStopping = false
        var problems: [String] = []
    }

    private let state: Mutex<State>
    private let client: Cluster

    init(workers: Int, client: Cluster) {
        self.client = client
        state = Mutex(State(sums: Array(repeating: 0, count: workers)))
    }

    static func name(_ worker: Int) -> Bytes { Bytes("counter-\(worker)") }

    var sums: [Int] { state.withLock { $0.sums } }
    var problems: [String] { state.withLock { $0.problems } }
    func stop() { state.withLock { $0.isStopping = true } }

    func run() async {
        await withTaskGroup(of: Void.self) { group in
            for worker in sums.indices { group.addTask { await self.count(worker) } }
        }
    }

    private func count(_ worker: Int) async {
        var sum = 0
        while !state.withLock({ $0.isStopping || !$0.problems.isEmpty }) {
            do throws(BifrostError) {
                _ = try await client.kv.put(
                    Self.name(worker), Bytes("\(sum + 1)"), if: sum == 0 ? .absent : .value(Bytes("\(sum)")),
                    timeout: .seconds(60))
                sum += 1
                state.withLock { $0.sums[worker] = sum }
            } catch {
                state.withLock { $0.problems.append("counter \(worker) at \(sum): \(error)") }
            }
        }
    }

    /// Waits until so many more increments are done.
    func progress(by count: Int) async throws {
        let goal = sums.reduce(0, +) + count
        let end = ContinuousClock.now + .seconds(60)
        while sums.reduce(0, +) < goal, problems.isEmpty {
            guard ContinuousClock.now < end else {
                Issue.record("no progress within a minute")
                return
            }
            await OwnExecutor.pause(milliseconds: 10)
        }
    }
}
