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
    _ cluster: TestCluster, _ places: RecordedLoad.Places = RecordedLoad.Places(),
    sourceLocation: SourceLocation = #_sourceLocation, _ body: (RecordedLoad) async throws -> Void
) async throws -> [HistoryRecord] {
    var clients: [Cluster] = []
    // A session that ends while the machine stands still would not know any more what became of its increments.
    for _ in 0..<2 { clients.append(try await cluster.client(sessionTimeToLive: .seconds(180))) }
    let load = RecordedLoad(places, clients: clients, workers: 12)
    let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
    let outcome: Result<Void, any Error>
    do { outcome = .success(try await body(load)) } catch { outcome = .failure(error) }
    // Whatever became of it: nobody asks hosts that are gone.
    load.stop()
    await running.value
    if case .success = outcome { await load.readAll() }
    for client in clients { await client.close() }
    try outcome.get()

    let history = load.history
    let report = HistoryReport(checking: history)
    #expect(
        report.isLinearizable, "\((report.violation ?? report.suspicious.first)?.explanation ?? [])",
        sourceLocation: sourceLocation)
    #expect(load.unexpected == [], sourceLocation: sourceLocation)
    #expect(
        history.count > 3_000 && report.keyCount == places.count, "\(history.count) of \(report.keyCount) keys",
        sourceLocation: sourceLocation)
    print("\(history.count) operations, \(report.unknownOutcomeCount) of unknown outcome: linearizable")
    return history
}

/// Workers on a few keys, each one operation after the other, and what they saw.
final class RecordedLoad: Sendable {
    /// What is written and read.
    struct Places: Sendable {
        /// Of each round. The first round's are those of the beginning.
        var keys = (0..<4).map { round in (0..<8).map { Bytes("round \(round) key \($0)") } }
        /// Numbers that grow by one, in all rounds: each increment is done once, however often it has to be sent, so that
        /// the outcome of each is known. As many operations are about them as
        /// about keys, if there are any.
        var numbers: [Bytes] = []
        /// Those whose copies are read by name; they have some of all groups.
        var hosts = (1...3).map { HostID($0) }

        var count: Int { keys.reduce(0) { $0 + $1.count } + numbers.count }
    }

    private struct State {
        var history: [HistoryRecord] = []
        var acknowledged = 0
        var round = 0
        var isStopping = false
        var unexpected: [String] = []
        /// By key: what was seen last, for conditions.
        var seen: [Bytes: Bytes] = [:]
    }

    private let state = Mutex(State())
    private let places: Places
    private let clients: [Cluster]
    private let workers: Int

    init(_ places: Places, clients: [Cluster], workers: Int) {
        self.places = places
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

    /// Each key, at each host whose copies are read: those that lag or lack something show here.
    func readAll() async {
        let ways: [ReadConsistency] = places.hosts.isEmpty ? [.linearizable] : places.hosts.map { .linearizableAt($0) }
        for key in places.keys.joined() {
            for (place, way) in ways.enumerated() {
                await readLast(key, way) { await self.get(self.workers + place, key, way) }
            }
        }
        for name in places.numbers {
            await readLast(name, .linearizable) { await self.look(self.workers, name) }
        }
    }

    private func readLast(_ key: Bytes, _ way: ReadConsistency, _ read: () async -> Bool) async {
        var isDone = false
        for _ in 0..<40 where !isDone { isDone = await read() }
        #expect(isDone, "\(key), \(way)")
    }

    private func work(_ worker: Int) async {
        let client = clients[worker % clients.count]
        var count = 0
        while true {
            let (round, isStopping) = state.withLock { ($0.round, $0.isStopping) }
            if isStopping { return }
            count += 1
            if let name = places.numbers.randomElement(), Bool.random() {
                if Int.random(in: 0..<4) == 0 { _ = await look(worker, name) } else { await grow(worker, name) }
                await OwnExecutor.pause(milliseconds: Int.random(in: 0...10))
                continue
            }
            let key = places.keys[round].randomElement()!
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
            case 6:
                _ = await get(
                    worker, key, places.hosts.randomElement().map { .linearizableAt($0) } ?? .linearizable)
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

    private func number(_ worker: Int, _ name: Bytes) -> ReliableNumber<Int> {
        clients[worker % clients.count].number(name, of: Int.self)
    }

    private func look(_ worker: Int, _ name: Bytes) async -> Bool {
        await note(worker, name, .get) { () async throws(BifrostError) in
            .found(try await self.number(worker, name).get(timeout: .seconds(4)).map { Bytes("\($0)") }, revision: nil)
        }
    }

    /// What comes back says which number was there before. It takes as long as its client lets it: whatever happens to
    /// hosts, the session's next attempt learns what became of the one before.
    private func grow(_ worker: Int, _ name: Bytes) async {
        let call = RPCClock.now().rawValue
        do throws(BifrostError) {
            let sum = try await number(worker, name).add(1)
            let before = sum == 1 ? nil : Bytes("\(sum - 1)")
            let record = HistoryRecord(
                client: UInt64(worker), key: name, input: .compareAndSet(.value(before), to: Bytes("\(sum)")),
                outcome: .ok(.changed(revision: nil)), call: call, end: RPCClock.now().rawValue)
            state.withLock {
                $0.history.append(record)
                $0.acknowledged += 1
            }
        } catch {
            state.withLock { $0.unexpected.append("an increment of \(name): \(error.description)") }
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
