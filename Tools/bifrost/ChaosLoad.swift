// Clients that read and write while things break, and note what they saw. Owns the history; refuses to judge it.

import Bifrost
import Foundation
import Linearizability
import Messages
import Primitives
import RPC
import Synchronization

/// Workers on a few keys, each one operation after the other. Every round has keys of its own.
final class ChaosLoad: Sendable {
    private struct State {
        var history: [HistoryRecord] = []
        var acknowledged = 0
        var round = 0
        var rounds = 0
        var isStopping = false
        /// Errors that say neither that something may have happened nor that it may be tried again.
        var unexpected: [String] = []
    }

    static let workersPerClient = 8
    private static let keysPerRound = 24
    private static let timeout = Duration.seconds(3)
    private static let unexpectedMax = 5
    private static let staleMillisecondsMax = 800
    /// Between a worker's operations.
    private static let pauseMillisecondsMax = 20

    private let clients: [Cluster]
    private let hosts: [HostID]
    private let areReadsPinned: Bool
    private let valueBytes: Int
    private let state = Mutex(State())

    /// - Parameters:
    ///   - areReadsPinned: each of these hosts has a replica of each group, and is asked.
    ///   - valueBytes: of a value, at least.
    init(clients: [Cluster], hosts: [HostID], areReadsPinned: Bool, valueBytes: Int) {
        self.clients = clients
        self.hosts = hosts
        self.areReadsPinned = areReadsPinned
        self.valueBytes = valueBytes
    }

    var acknowledged: Int { state.withLock { $0.acknowledged } }
    var history: [HistoryRecord] { state.withLock { $0.history } }
    var unexpected: [String] { state.withLock { $0.unexpected } }

    func begin(round: Int) {
        state.withLock {
            $0.round = round
            $0.rounds = max($0.rounds, round)
        }
    }

    func stop() { state.withLock { $0.isStopping = true } }

    /// Until `stop`.
    func run() async {
        await withTaskGroup(of: Void.self) { group in
            for (number, client) in clients.enumerated() {
                for worker in 0..<Self.workersPerClient {
                    group.addTask { await self.work(number * Self.workersPerClient + worker, client) }
                }
            }
        }
    }

    /// Waits until so many more operations were acknowledged; false when the time is over before.
    func progress(by count: Int, within limit: Duration) async throws -> Bool {
        let goal = acknowledged + count
        let end = ContinuousClock.now + limit
        while acknowledged < goal {
            guard ContinuousClock.now < end else { return false }
            try await Task.sleep(for: .milliseconds(20))
        }
        return true
    }

    /// Reads every key that was ever written, at every host: what was acknowledged is there.
    /// - Returns: reads that got no answer.
    func readAll() async -> [String] {
        let rounds = state.withLock { $0.rounds }
        let client = clients[0]
        var problems: [String] = []
        for round in 0...rounds {
            for number in 0..<Self.keysPerRound {
                let key = Self.key(round, number)
                let ways = areReadsPinned ? hosts.map { ReadConsistency.linearizableAt($0) } : [.linearizable]
                for (place, way) in ways.enumerated() {
                    let worker = clients.count * Self.workersPerClient + place
                    if let problem = await get(key, worker, client, way) {
                        problems.append("the last read of \(key), \(way): \(problem)")
                    }
                }
            }
        }
        return problems
    }

    // MARK: Workers

    private static func key(_ round: Int, _ number: Int) -> Bytes { Bytes("round-\(round)-key-\(number)") }

    private func work(_ worker: Int, _ client: Cluster) async {
        var random = SystemRandomNumberGenerator()
        var count = 0
        while true {
            let (round, isStopping) = state.withLock { ($0.round, $0.isStopping) }
            if isStopping { return }
            count += 1
            let key = Self.key(round, Int.random(in: 0..<Self.keysPerRound, using: &random))
            switch Int.random(in: 0..<20, using: &random) {
            case 0..<8:
                var text = "\(worker).\(count)"
                if text.utf8.count < valueBytes { text += String(repeating: "-", count: valueBytes - text.utf8.count) }
                let value = Bytes(text)
                _ = await note(worker, key, .put(value)) { () async throws(BifrostError) in
                    .changed(revision: try await client.kv.put(key, value, timeout: Self.timeout).rawValue)
                }
            case 8..<10:
                _ = await note(worker, key, .delete) { () async throws(BifrostError) in
                    .changed(revision: try await client.kv.delete(key, timeout: Self.timeout).rawValue)
                }
            case 10..<14:
                let host = hosts[Int.random(in: hosts.indices, using: &random)]
                _ = await get(key, worker, client, areReadsPinned ? .linearizableAt(host) : .linearizable)
            case 14..<16: _ = await get(key, worker, client, .lease)
            case 16..<18:
                let bound = Int.random(in: 1...Self.staleMillisecondsMax, using: &random)
                _ = await get(
                    key, worker, client, .stale(max: .milliseconds(bound)), staleNanoseconds: UInt64(bound) * 1_000_000)
            default: _ = await get(key, worker, client, .linearizable)
            }
            let pause = Int.random(in: 0...Self.pauseMillisecondsMax, using: &random)
            try? await Task.sleep(for: .milliseconds(pause))
        }
    }

    /// - Parameter staleNanoseconds: the answer may be as old when the read begins: it is judged as one that was called
    ///   that much earlier.
    private func get(
        _ key: Bytes, _ worker: Int, _ client: Cluster, _ consistency: ReadConsistency, staleNanoseconds: UInt64 = 0
    ) async -> String? {
        await note(worker, key, .get, staleNanoseconds: staleNanoseconds) { () async throws(BifrostError) in
            let found = try await client.kv.get(key, consistency, timeout: Self.timeout)
            return .found(found?.value, revision: found?.revision.rawValue)
        }
    }

    /// Runs an operation and notes it. Nil, or why it has no result.
    private func note(
        _ worker: Int, _ key: Bytes, _ input: RegisterInput<Bytes>, staleNanoseconds: UInt64 = 0,
        _ operation: () async throws(BifrostError) -> RegisterOutput<Bytes>
    ) async -> String? {
        let call = RPCClock.now().rawValue - staleNanoseconds
        let outcome: HistoryRecord.Outcome
        var problem: String?
        do throws(BifrostError) {
            outcome = .ok(try await operation())
        } catch {
            problem = error.description
            // A read without an answer explains nothing.
            outcome = error.mayHaveHappened && input != .get ? .unknown : .failed
            if !error.mayHaveHappened, !error.isRetrySafe {
                state.withLock {
                    if $0.unexpected.count < Self.unexpectedMax { $0.unexpected.append(error.description) }
                }
            }
        }
        let record = HistoryRecord(
            client: UInt64(worker), key: key, input: input, outcome: outcome, call: call, end: RPCClock.now().rawValue)
        state.withLock {
            $0.history.append(record)
            if problem == nil { $0.acknowledged += 1 }
        }
        return problem
    }
}
