// Writers that don't wait for what they wrote before, as many users of a cluster are.

import Bifrost
import Primitives
import RPC
import Synchronization

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
