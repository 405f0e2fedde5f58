// Many watchers in one process, and the puts that they are told of. Owns what each of them must be told: every put of its
// key, once, in order.

import Bifrost
import Foundation
import Histogram
import Primitives
import RPC
import StateMachines
import Synchronization

final class WatchLoad: Sendable {
    /// As many as may wait at one event loop of a host, less some for puts.
    static let watchersMax = 60_000
    /// Puts under way together: each key belongs to one lane, whose puts follow each other.
    private static let lanesMax = 256

    /// What a value begins with.
    struct Mark {
        /// Among the phase's puts; nil: the last one, which ends the key's watches.
        var put: Int?
        /// Among the key's, from 1 on.
        var number: UInt64

        static let size = 16

        init(put: Int?, number: UInt64) {
            self.put = put
            self.number = number
        }

        init?(_ value: Bytes) {
            guard value.count >= Self.size else { return nil }
            let (put, number) = value.withUnsafeBytes {
                (
                    UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)),
                    UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
                )
            }
            self.put = put == .max ? nil : Int(clamping: put)
            self.number = number
        }

        func value(bytes: Int) -> Bytes {
            Bytes(count: bytes) { place in
                place.storeBytes(of: (put.map { UInt64($0) } ?? .max).littleEndian, as: UInt64.self)
                place.storeBytes(of: number.littleEndian, toByteOffset: 8, as: UInt64.self)
                for offset in Self.size..<max(place.count, Self.size) {
                    place[offset] = UInt8(truncatingIfNeeded: offset)
                }
            }
        }
    }

    typealias Times = Histogram<UInt32>

    struct Latency: Encodable {
        var p50Millis: Double
        var p90Millis: Double
        var p99Millis: Double
        var maxMillis: Double

        init(_ times: Times) {
            func millis(_ micros: UInt64) -> Double { Double(micros) / 1e3 }
            let isEmpty = times.totalCount == 0
            p50Millis = isEmpty ? 0 : millis(times.valueAtPercentile(50))
            p90Millis = isEmpty ? 0 : millis(times.valueAtPercentile(90))
            p99Millis = isEmpty ? 0 : millis(times.valueAtPercentile(99))
            maxMillis = isEmpty ? 0 : millis(times.max)
        }
    }

    struct Puts: Encodable {
        var count: Int
        var perSecond: Double
        var acknowledged: Latency
        /// Of processor, for each put and all that are told of it.
        var hostMicros: Double
        var clientMicros: Double
    }

    struct Slow: Encodable {
        var told: UInt64 = 0
        var compacted: UInt64 = 0
        /// Changes that were written over before a snapshot told of a later one.
        var passedOver: UInt64 = 0
    }

    struct Counted {
        var ready = 0
        /// To those that are not slow.
        var told: UInt64 = 0
        var expected: UInt64 = 0
        var fromSent = WatchLoad.times()
        var fromAcked = WatchLoad.times()
        var toldBeforeAcked: UInt64 = 0
        var acknowledged = WatchLoad.times()
        var slow = Slow()
        /// What all were told, with what snapshots passed over, and what they had to be told.
        var all: UInt64 = 0
        var allExpected: UInt64 = 0
        var problem: String?
    }

    private struct Put {
        var sent = Instant.zero
        var acked = Instant.zero
    }

    private struct State {
        var counted = Counted()
        /// Of the phase.
        var puts: [Put] = []
        /// Of each key, in all.
        var numbers: [UInt64]
        var watchesFast: [UInt64]
        var watchesAll: [UInt64]
        var isWatched = false
    }

    /// Up to ten minutes, in microseconds.
    private static func times() -> Times {
        Times(highestTrackableValue: 600_000_000, numberOfSignificantValueDigits: .three)
    }

    private let keys: [Bytes]
    private let prefixes: [Bytes]
    private let isByPrefix: Bool
    private let payload: Int
    private let slowPercent: Int
    private let pause: Duration
    private let patience: Duration
    private let isOver = Atomic(false)
    private let state: Mutex<State>

    init(
        watchers: Int, keys: Int, prefixes: Bool, isOneTag: Bool, payload: Int, slowPercent: Int, pause: Duration,
        patience: Duration
    ) {
        self.prefixes = (0..<keys).map { Bytes(isOneTag ? "{~watch}/\($0)/" : "{~watch/\($0)}/") }
        self.keys = self.prefixes.map { Bytes($0.array + Array("key".utf8)) }
        isByPrefix = prefixes
        self.payload = payload
        self.slowPercent = slowPercent
        self.pause = pause
        self.patience = patience
        state = Mutex(
            State(
                numbers: Array(repeating: 0, count: keys), watchesFast: Array(repeating: 0, count: keys),
                watchesAll: Array(repeating: 0, count: keys)))
        state.withLock { state in
            for number in 0..<watchers {
                state.watchesAll[number % keys] += 1
                if !isSlow(number) { state.watchesFast[number % keys] += 1 }
            }
        }
    }

    /// Spread evenly over all of them.
    func isSlow(_ watcher: Int) -> Bool { (watcher + 1) * slowPercent / 100 > watcher * slowPercent / 100 }

    var counted: Counted { state.withLock { $0.counted } }

    /// A round begins: nobody watches, and each key has a value.
    func begin(_ client: Cluster) async throws {
        isOver.store(false, ordering: .relaxed)
        state.withLock {
            $0.counted = Counted()
            $0.isWatched = false
        }
        try await put(client, count: keys.count, rate: .infinity)
    }

    func wait(_ what: String, until isDone: (Counted) -> Bool) async throws {
        let deadline = RPCClock.now() + UInt64(patience / .nanoseconds(1))
        while true {
            let counted = counted
            if let problem = counted.problem { throw ToolError(.negative, "the run does not count: \(problem)") }
            if isDone(counted) { return }
            guard RPCClock.now() < deadline else {
                throw ToolError(
                    .unavailable,
                    "waited \(patience) \(what): \(counted.ready) watches stand, \(counted.told) changes of "
                        + "\(counted.expected) are told")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    private func note(_ problem: String) {
        state.withLock { $0.counted.problem = $0.counted.problem ?? problem }
        isOver.store(true, ordering: .relaxed)
    }

    // MARK: Puts

    /// So many puts, at an even pace, the keys in turn. Where one takes longer than its lane's pace, the next is sent when
    /// it is acknowledged.
    func put(_ client: Cluster, count: Int, rate: Double) async throws {
        state.withLock {
            $0.puts = Array(repeating: Put(), count: count)
            $0.counted.acknowledged = Self.times()
        }
        let lanes = min(keys.count, Self.lanesMax)
        let begin = RPCClock.now()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for lane in 0..<lanes {
                group.addTask { [self] in
                    let own = stride(from: lane, to: keys.count, by: lanes).map(\.self)
                    for (round, place) in stride(from: lane, to: count, by: lanes).enumerated() {
                        let due = begin + UInt64(Double(place) * 1e9 / rate)
                        let now = RPCClock.now()
                        if due > now { try await Task.sleep(for: .nanoseconds(Int64(due.since(now)))) }
                        guard !isOver.load(ordering: .relaxed) else { return }
                        try await put(client, place: place, key: own[round % own.count])
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    private func put(_ client: Cluster, place: Int?, key: Int) async throws {
        let number = state.withLock { state in
            state.numbers[key] += 1
            if let place { state.puts[place].sent = RPCClock.now() }
            if state.isWatched {
                if place != nil { state.counted.expected += state.watchesFast[key] }
                state.counted.allExpected += state.watchesAll[key]
            }
            return state.numbers[key]
        }
        // Last puts come all at once, and large ones would be more than a group keeps for those that wait.
        let value = Mark(put: place, number: number).value(bytes: place == nil ? Mark.size : payload)
        try await client.kv.put(keys[key], value, timeout: patience)
        guard let place else { return }
        let now = RPCClock.now()
        state.withLock { state in
            state.puts[place].acked = now
            _ = state.counted.acknowledged.record(now.since(state.puts[place].sent) / 1_000)
        }
    }

    /// Puts that end all watches, each when it has been told all before.
    func finish(_ client: Cluster) async throws {
        isOver.store(true, ordering: .relaxed)
        let lanes = min(keys.count, Self.lanesMax)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for lane in 0..<lanes {
                group.addTask { [self] in
                    for key in stride(from: lane, to: keys.count, by: lanes) {
                        try await put(client, place: nil, key: key)
                    }
                }
            }
            try await group.waitForAll()
        }
        try await wait("for all watches to end") { $0.ready == 0 }
    }

    /// After all watches have ended.
    func check() throws {
        let counted = counted
        guard counted.problem == nil, counted.all == counted.allExpected, counted.told == counted.expected else {
            throw ToolError(
                .negative,
                "the run does not count: \(counted.problem ?? "\(counted.all) of \(counted.allExpected) changes were told")"
            )
        }
    }

    // MARK: Watches

    /// Until the last put of its key.
    func watch(_ client: Cluster, _ watcher: Int) async {
        let key = watcher % keys.count
        let isSlow = isSlow(watcher)
        // Nobody writes until all watch.
        var last = state.withLock {
            $0.isWatched = true
            return $0.numbers[key]
        }
        var start = WatchStart.now
        var isReady = false
        while true {
            let changes =
                isByPrefix
                ? client.kv.watch(prefix: prefixes[key], from: start, patience: patience)
                : client.kv.watch(keys[key], from: start, patience: patience)
            do throws(BifrostError) {
                for try await change in changes {
                    switch change.kind {
                    case .ready:
                        if !isReady { state.withLock { $0.counted.ready += 1 } }
                        isReady = true
                        continue
                    case .progress: continue
                    case .put, .present: break
                    case .deleted, .expired: return note("watch \(watcher) was told that its key is gone")
                    }
                    guard let mark = Mark(change.value), change.key == keys[key] else {
                        return note("watch \(watcher) was told of what is not its own: '\(change.key)'")
                    }
                    // What a snapshot has may be known.
                    if change.kind == .present, mark.number == last { continue }
                    guard mark.number == last + 1 || change.kind == .present && mark.number > last else {
                        return note(
                            "watch \(watcher) was told put \(mark.number) of its key behind put \(last), at revision "
                                + "\(change.revision)")
                    }
                    told(mark, isSlow: isSlow, passedOver: mark.number - last - 1)
                    last = mark.number
                    guard mark.put != nil else { return }
                    if isSlow, !isOver.load(ordering: .relaxed) { try? await Task.sleep(for: pause) }
                }
            } catch {
                guard isSlow, error.code == .compacted else {
                    // Where the run has failed they are all ended.
                    return Task.isCancelled ? () : note("watch \(watcher): \(error)")
                }
                state.withLock { $0.counted.slow.compacted += 1 }
                start = .snapshot
            }
        }
    }

    private func told(_ mark: Mark, isSlow: Bool, passedOver: UInt64) {
        let now = RPCClock.now()
        state.withLock { state in
            state.counted.all += 1 + passedOver
            guard let place = mark.put else {
                state.counted.ready -= 1
                return state.counted.slow.passedOver += passedOver
            }
            guard !isSlow else {
                state.counted.slow.told += 1
                return state.counted.slow.passedOver += passedOver
            }
            state.counted.told += 1
            let put = state.puts[place]
            _ = state.counted.fromSent.record(now.since(put.sent) / 1_000)
            if put.acked == .zero { state.counted.toldBeforeAcked += 1 }
            _ = state.counted.fromAcked.record(put.acked == .zero ? 0 : now.since(put.acked) / 1_000)
        }
    }
}
