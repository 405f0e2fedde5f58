// Writers that don't wait for what they wrote before, as many users of a cluster are.

import Bifrost
import Primitives
import RPC
import Synchronization

/// What single writes took, as a report has it.
struct WriteTimes: Encodable, Sendable {
    var count: Int
    var medianMillis: Double
    var p99Millis: Double
    var worstMillis: Double

    /// - Parameter nanoseconds: in any order; nil if there are none.
    init?(_ nanoseconds: [UInt64]) {
        guard let spread = MeasureSpread(nanoseconds), let p99 = MeasureSpread.percentile(nanoseconds, 99)
        else { return nil }
        (count, medianMillis, worstMillis) = (spread.count, spread.medianMillis, spread.worstMillis)
        p99Millis = p99
    }

    static func p99Text(_ times: WriteTimes?) -> String { times.map { HumanText.fixed($0.p99Millis, 1) } ?? "-" }
}

/// Writes that are due one after the other at a steady rate, whatever became of those before: what waits counts.
final class SteadyWriters: Sendable {
    struct Outcome: Sendable {
        var nanoseconds: [UInt64] = []
        var failed = 0
    }

    private let client: Cluster
    private let keys: [Bytes]
    private let value: Bytes
    private let periodNanoseconds: UInt64
    private let seed: UInt64
    private let isStopping = Mutex(false)

    init(_ client: Cluster, keys: [Bytes], value: Bytes, rate: Int, seed: UInt64) {
        self.client = client
        self.keys = keys
        self.value = value
        periodNanoseconds = 1_000_000_000 / UInt64(rate)
        self.seed = seed
    }

    func stop() { isStopping.withLock { $0 = true } }

    /// They write while the body runs.
    func beside<Result>(_ body: () async throws -> Result) async throws -> (Result, Outcome) {
        let task = Task { await run() }
        do {
            let result = try await body()
            stop()
            return (result, await task.value)
        } catch {
            stop()
            _ = await task.value
            throw error
        }
    }

    /// Of writes that are under way together where as many as possible are asked for.
    private static let closedMax = 512

    /// Writes per second of a client that begins one whenever another has ended.
    static func most(_ client: Cluster, keys: [Bytes], value: Bytes, for time: Duration) async throws -> Double {
        let begin = RPCClock.now()
        let end = begin + UInt64(time / .nanoseconds(1))
        return try await withThrowingTaskGroup(of: Int.self) { group in
            for writer in 0..<closedMax {
                group.addTask {
                    var random = SeededRandom(seed: UInt64(writer))
                    var count = 0
                    while RPCClock.now() < end {
                        try await client.kv.put(keys[Int(random.next() % UInt64(keys.count))], value)
                        count += 1
                    }
                    return count
                }
            }
            var count = 0
            for try await part in group { count += part }
            return Double(count) * 1e9 / Double(RPCClock.now().since(begin))
        }
    }

    func run() async -> Outcome {
        await withTaskGroup(of: UInt64?.self) { group in
            var outcome = Outcome()
            var random = SeededRandom(seed: seed)
            var due = RPCClock.now()
            var open = 0
            func take(_ time: UInt64?) {
                open -= 1
                if let time { outcome.nanoseconds.append(time) } else { outcome.failed += 1 }
            }
            while !isStopping.withLock({ $0 }) {
                let now = RPCClock.now()
                if now < due { try? await Task.sleep(for: .nanoseconds(Int64(due.since(now)))) }
                let key = keys[Int(random.next() % UInt64(keys.count))]
                let begin = due
                group.addTask { [client, value] in
                    do { try await client.kv.put(key, value) } catch { return nil }
                    return RPCClock.now().since(begin)
                }
                open += 1
                due = due + periodNanoseconds
                // Bounded; beyond that the rate is not kept, which the times show.
                while open >= 1_024, let time = await group.next() { take(time) }
            }
            while let time = await group.next() { take(time) }
            return outcome
        }
    }
}
