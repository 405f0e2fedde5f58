// Load on a few keys whose whole history is recorded and judged, for tests in which real hosts end, come and go.

import Bifrost
import Linearizability
import Primitives
import RPC
import Synchronization
import TestSupport
import Testing

/// Clients of a cluster write, change on conditions and read while `body` does what it does to the hosts. When that is done
/// each key is read, and what all of them saw is judged: it is an issue if it is not linearizable, or if a call was refused
/// for a reason that trying again does not mend.
///
/// - Returns: what they saw.
@discardableResult
func withRecordedLoad(
    _ cluster: TestCluster, sourceLocation: SourceLocation = #_sourceLocation,
    _ body: (RecordedLoad) async throws -> Void
) async throws -> [HistoryRecord] {
    var clients: [Cluster] = []
    for _ in 0..<2 { clients.append(try await cluster.client()) }
    let load = RecordedLoad(clients: clients, workers: 12)
    let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
    let outcome: Result<Void, any Error>
    do { outcome = .success(try await body(load)) } catch { outcome = .failure(error) }
    // Whatever became of it: nobody asks hosts that are gone.
    load.stop()
    await running.value
    if case .success = outcome { try await load.readAll() }
    for client in clients { await client.close() }
    try outcome.get()

    let history = load.history
    let report = HistoryReport(checking: history)
    #expect(
        report.isLinearizable, "\((report.violation ?? report.suspicious.first)?.explanation ?? [])",
        sourceLocation: sourceLocation)
    #expect(load.unexpected == [], sourceLocation: sourceLocation)
    #expect(history.count > 3_000 && report.keyCount >= 32, sourceLocation: sourceLocation)
    print("\(history.count) operations, \(report.unknownOutcomeCount) of unknown outcome: linearizable")
    return history
}

/// Workers on a few keys, each one operation after the other, and what they saw.
final class RecordedLoad: Sendable {
    private struct State {
        var history: [HistoryRecord] = []
        var acknowledged = 0
        var round = 0
        var isStopping = false
        var unexpected: [String] = []
        /// By key: what was seen last, for conditions.
        var seen: [Bytes: Bytes] = [:]
    }

    private static let keysPerRound = 8
    private let state = Mutex(State())
    private let clients: [Cluster]
    private let workers: Int

    init(clients: [Cluster], workers: Int) {
        self.clients = clients
        self.workers = workers
    }

    var history: [HistoryRecord] { state.withLock { $0.history } }
    var unexpected: [String] { state.withLock { $0.unexpected } }
    func begin(_ round: Int) { state.withLock { $0.round = round } }
    func stop() { state.withLock { $0.isStopping = true } }

    func progress(by count: Int) async throws {
        let goal = state.withLock { $0.acknowledged } + count
        try await wait("\(count) more operations") { state.withLock { $0.acknowledged } >= goal }
    }

    func run() async {
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<workers { group.addTask { await self.work(worker) } }
        }
    }

    private static func key(_ round: Int, _ number: Int) -> Bytes { Bytes("round \(round) key \(number)") }

    /// Each key at each host: copies that lag or lack something show here.
    func readAll() async throws {
        for round in 0...3 {
            for number in 0..<Self.keysPerRound {
                for host in 1...3 as ClosedRange<UInt64> {
                    let key = Self.key(round, number)
                    var isDone = false
                    for _ in 0..<40 where !isDone {
                        isDone = await get(workers + Int(host), key, .linearizableAt(HostID(host)))
                    }
                    #expect(isDone, "\(key) at host \(host)")
                }
            }
        }
    }

    private func work(_ worker: Int) async {
        let client = clients[worker % clients.count]
        var count = 0
        while true {
            let (round, isStopping) = state.withLock { ($0.round, $0.isStopping) }
            if isStopping { return }
            count += 1
            let key = Self.key(round, Int.random(in: 0..<Self.keysPerRound))
            let value = Bytes("\(worker).\(count)")
            switch Int.random(in: 0..<10) {
            case 0..<3:
                await note(worker, key, .put(value)) { () async throws(BifrostError) in
                    .changed(revision: try await client.kv.put(key, value, timeout: .seconds(4)).rawValue)
                }
            case 3:
                let seen = state.withLock { $0.seen[key] }
                await note(worker, key, .compareAndSet(.value(seen), to: value)) { () async throws(BifrostError) in
                    do throws(BifrostError) {
                        let revision = try await client.kv.put(
                            key, value, if: seen.map { .value($0) } ?? .absent, timeout: .seconds(4))
                        return .changed(revision: revision.rawValue)
                    } catch {
                        guard error.code == .conditionFailed else { throw error }
                        return .conditionFailed
                    }
                }
            case 4:
                await note(worker, key, .delete) { () async throws(BifrostError) in
                    .changed(revision: try await client.kv.delete(key, timeout: .seconds(4)).rawValue)
                }
            case 5: _ = await get(worker, key, .lease)
            case 6: _ = await get(worker, key, .linearizableAt(HostID(UInt64.random(in: 1...3))))
            default: _ = await get(worker, key, .linearizable)
            }
            await OwnExecutor.pause(milliseconds: Int.random(in: 0...10))
        }
    }

    private func get(_ worker: Int, _ key: Bytes, _ consistency: ReadConsistency) async -> Bool {
        let client = clients[worker % clients.count]
        return await note(worker, key, .get) { () async throws(BifrostError) in
            let found = try await client.kv.get(key, consistency, timeout: .seconds(4))
            self.state.withLock { $0.seen[key] = found?.value }
            return .found(found?.value, revision: found?.revision.rawValue)
        }
    }

    @discardableResult
    private func note(
        _ worker: Int, _ key: Bytes, _ input: RegisterInput<Bytes>,
        _ operation: () async throws(BifrostError) -> RegisterOutput<Bytes>
    ) async -> Bool {
        let call = RPCClock.now().rawValue
        var outcome = HistoryRecord.Outcome.failed
        var isDone = false
        do throws(BifrostError) {
            outcome = .ok(try await operation())
            isDone = true
        } catch {
            // A read without an answer explains nothing.
            if error.mayHaveHappened && input != .get { outcome = .unknown }
            if !error.mayHaveHappened, !error.isRetrySafe { state.withLock { $0.unexpected.append(error.description) } }
        }
        let record = HistoryRecord(
            client: UInt64(worker), key: key, input: input, outcome: outcome, call: call, end: RPCClock.now().rawValue)
        state.withLock {
            $0.history.append(record)
            if isDone { $0.acknowledged += 1 }
        }
        return isDone
    }
}
