// Commands of real clients to real processes that are killed, and whose answers are lost: each is done once. The same in
// virtual time, 100,000 of them in each run: `ExactlyOnceHostTests`.

import Bifrost
import BifrostTool
import Foundation
import Messages
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
                let client = try await cluster.client()
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

        /// What counts is the groups' revisions: each put that is applied adds one, and has no condition that would keep a
        /// second one from taking effect. Proxies before the hosts lose answers, hosts are killed, leaders change.
        ///
        /// BIFROST_INCREMENTS=100000 makes a long run of it.
        @Test(.timeLimit(.minutes(15))) func blindIncrementsGiveTheExactSumThoughAnswersAreLostAndHostsAreKilled()
            async throws
        {
            let goal = ProcessInfo.processInfo.environment["BIFROST_INCREMENTS"].flatMap { Int($0) } ?? 20_000
            let rounds = max(goal / 5_000, 3)
            try await withHosts(3) { cluster in
                let ports = try LocalCluster.freePorts(3)
                let proxies = ports.map { LossyProxy(port: $0) }
                for (proxy, host) in zip(proxies, cluster.hosts) {
                    try await proxy.start(target: try #require(Int(host.address.split(separator: ":")[1])))
                }
                func start(_ host: LocalCluster.HostProcess) throws {
                    try cluster.local.start(host, arguments: ["--advertise", "127.0.0.1:\(ports[host.number - 1])"])
                }
                for host in cluster.hosts { try start(host) }
                let addresses = ports.map { "127.0.0.1:\($0)" }
                try await cluster.local.run(["init", "--hosts", addresses.joined(separator: ","), "--groups", "4"])
                let client = try await Cluster.connect(to: addresses)
                for proxy in proxies { proxy.lossesPerMillion = 4_000 }
                let increments = Increments(goal: goal, callers: 64, client: client)
                let begin = ContinuousClock.now
                let running = Task(executorPreference: OwnExecutor.current) { await increments.run() }
                var kills = 0
                for round in 0..<rounds {
                    try await increments.wait(for: goal * (2 * round + 1) / (2 * rounds + 1))
                    let host = cluster.hosts[round % 3]
                    cluster.local.kill(host)
                    kills += 1
                    try await increments.wait(for: goal * (2 * round + 2) / (2 * rounds + 1))
                    try start(host)
                    // Both others are to be there before the next one goes.
                    try await wait("a host that was killed is there again") {
                        let replicas = try await client.replicas(timeout: .seconds(2))
                        let behind = replicas.filter {
                            $0.host == HostID(UInt64(host.number)) && $0.status.leader != .none
                        }
                        return behind.count == 5
                    }
                }
                await running.value
                let seconds = (ContinuousClock.now - begin) / .seconds(1)
                for proxy in proxies { proxy.lossesPerMillion = 0 }
                #expect(increments.problems == [])
                #expect(try await KillTests.disagreement(client) == nil)
                var leaders: [ReplicaView] = []
                try await wait("leaders") {
                    leaders = try await client.replicas(timeout: .seconds(2)).filter {
                        $0.status.role == .leader && $0.status.group != .meta
                    }
                    return leaders.count == 4
                }
                let sum = leaders.reduce(0) { $0 + Int($1.status.revision.rawValue) }
                #expect(sum == goal, "increments that were done, of \(goal) that were asked for")
                for (caller, last) in increments.last.enumerated() {
                    let found = try await client.kv.get(Increments.name(caller))
                    #expect(found?.value == Bytes("\(last)"), "key \(caller)")
                }
                let commands = leaders.reduce(0) { $0 + Int($1.status.commands) }
                let losses = proxies.reduce(0) { $0 + $1.losses }
                #expect(losses >= rounds && kills >= 3)
                print(
                    "\(sum) increments of \(goal) in \(seconds) s: \(losses) connections lost with answers, \(kills) "
                        + "hosts killed; leaders applied \(commands) commands since they were started last")
                await client.close()
                for proxy in proxies { await proxy.stop() }
            }
        }
    }
}

/// Callers that put, each to a key of its own, until all together have done so often enough.
private final class Increments: Sendable {
    private struct State {
        var begun = 0
        var done = 0
        var last: [Int]
        var problems: [String] = []
    }

    private let goal: Int
    private let client: Cluster
    private let state: Mutex<State>

    init(goal: Int, callers: Int, client: Cluster) {
        self.goal = goal
        self.client = client
        state = Mutex(State(last: Array(repeating: 0, count: callers)))
    }

    static func name(_ caller: Int) -> Bytes { Bytes("increments-\(caller)") }

    /// By caller: what its key has to have.
    var last: [Int] { state.withLock { $0.last } }
    var problems: [String] { state.withLock { $0.problems } }

    func run() async {
        await withTaskGroup(of: Void.self) { group in
            for caller in last.indices { group.addTask { await self.call(caller) } }
        }
    }

    private func call(_ caller: Int) async {
        while let number = take() {
            do throws(BifrostError) {
                _ = try await client.kv.put(Self.name(caller), Bytes("\(number)"), timeout: .seconds(180))
                state.withLock {
                    $0.done += 1
                    $0.last[caller] = number
                }
            } catch {
                state.withLock { $0.problems.append("increment \(number): \(error)") }
            }
        }
    }

    private func take() -> Int? {
        state.withLock { state in
            guard state.begun < goal, state.problems.isEmpty else { return nil }
            state.begun += 1
            return state.begun
        }
    }

    func wait(for count: Int) async throws {
        let end = ContinuousClock.now + .seconds(180)
        while state.withLock({ $0.done < count && $0.problems.isEmpty }) {
            guard ContinuousClock.now < end else {
                Issue.record("\(count) increments are not done within 180 s")
                return
            }
            await OwnExecutor.pause(milliseconds: 5)
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
                    timeout: .seconds(180))
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
        let end = ContinuousClock.now + .seconds(180)
        while sums.reduce(0, +) < goal, problems.isEmpty {
            guard ContinuousClock.now < end else {
                Issue.record("no progress within 180 s")
                return
            }
            await OwnExecutor.pause(milliseconds: 10)
        }
    }
}
