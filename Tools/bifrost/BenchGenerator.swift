// The load of the benchmark: a closed loop of operations per group, on the client's own event loop.

import Bifrost
import ClientCore
import Histogram
import Messages
import NIOCore
import Primitives
import RPC
import Ring
import StateMachines

/// Keeps `window` operations per group in flight over a fixed set of keys. Each key has at most one operation in
/// flight, so
/// that a read knows exactly which value it must find. Belongs to the client's event loop.
final class BenchGenerator: @unchecked Sendable {
    // @unchecked: everything belongs to `loop.eventLoop`; whoever asks from elsewhere goes there first.

    struct Settings: Sendable {
        var keys: Int
        var payload: Int
        var window: Int
        /// Reads among the operations, in percent.
        var reads: Int
        var seed: UInt64
        var type = BenchType.kv
        /// For one operation.
        var deadlineNanoseconds: UInt64
    }

    struct GroupCount: Sendable {
        var group: GroupID
        var operations: Int
    }

    struct Counts: Sendable {
        var operations = 0
        var errors = 0
        var firstError: String?
        /// Zero while nothing succeeded.
        var lastSuccess = Instant.zero
        var perGroup: [GroupCount] = []
    }

    private struct Lane {
        var group: Int
        var key: Int
        var isRead: Bool
        var started: UInt64
    }

    private let loop: ClientLoop
    let settings: Settings
    private let groups: [GroupID]
    /// Keys of each group, by number.
    private var keysOfGroup: [[Int32]]
    /// How often each key was written; 0: never.
    private var versions: [UInt32]
    /// What the last answer said of each key (`BenchType.mark`).
    private var marks: [UInt64]
    private var isBusy: [Bool]
    /// Keys whose last put failed and may have taken effect all the same: they have the next version, or the one that
    /// was acknowledged last.
    private var uncertain: Set<Int> = []
    private var lanes: [Lane] = []
    private var idle: [Int] = []
    private var random: SeededRandom
    private var histogram = Histogram<UInt32>(highestTrackableValue: 60_000_000, numberOfSignificantValueDigits: .three)
    private var counts: Counts
    private var isStopping = false
    private var inFlight = 0
    private var drained: (() -> Void)?
    /// Set while every key is written once, in order.
    private var sweep: Range<Int>?
    private var preloaded: ((OperationFailure?) -> Void)?
    private var isReadingBack = false

    init(loop: ClientLoop, map: ClusterMap, settings: Settings) {
        self.loop = loop
        self.settings = settings
        random = SeededRandom(seed: settings.seed)
        groups = map.dataGroups.map(\.id)
        keysOfGroup = Array(repeating: [], count: groups.count)
        versions = Array(repeating: 0, count: settings.keys)
        marks = Array(repeating: 0, count: settings.keys)
        isBusy = Array(repeating: false, count: settings.keys)
        counts = Counts(perGroup: groups.map { GroupCount(group: $0, operations: 0) })
        for key in 0..<settings.keys {
            let object = settings.type.object(of: key, Self.name(key))
            guard let owner = map.ring.owner(of: slot(of: object)), let place = groups.firstIndex(of: owner)
            else { continue }
            keysOfGroup[place].append(Int32(key))
        }
    }

    // MARK: Keys and values

    /// What all keys of a run begin with: no key that anybody else is likely to have.
    private static let keyPrefix = "~bench/"

    /// The prefix and nine digits.
    static func name(_ key: Int) -> Bytes {
        Bytes(count: 16) { place in
            var rest = UInt64(key)
            for offset in stride(from: 15, through: keyPrefix.utf8.count, by: -1) {
                place[offset] = UInt8(48 + rest % 10)
                rest /= 10
            }
            place.copyBytes(from: keyPrefix.utf8)
        }
    }

    /// Bytes that only this key in this version has.
    private func value(_ key: Int, _ version: UInt32) -> Bytes {
        Bytes(count: settings.payload) { place in
            var word = mix(UInt64(key) << 32 | UInt64(version))
            var offset = 0
            while offset + 8 <= place.count {
                place.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
                word = word &* 0x9e37_79b9_7f4a_7c15 &+ 1
                offset += 8
            }
            while offset < place.count {
                place[offset] = UInt8(truncatingIfNeeded: word)
                word >>= 8
                offset += 1
            }
        }
    }

    // MARK: Phases

    /// Writes every key once. Calls back at the end, or with the first failure at once.
    func preload(_ finished: @escaping (OperationFailure?) -> Void) {
        loop.eventLoop.preconditionInEventLoop()
        sweep = 0..<settings.keys
        let lanesMax = settings.type.lanesOfGroupMax.multipliedReportingOverflow(by: groups.count / 2 + 1)
        makeLanes(count: min(settings.keys, 8_192, lanesMax.overflow ? .max : lanesMax.partialValue))
        preloaded = finished
        drained = { [self] in endPreload(nil) }
        start()
    }

    private func endPreload(_ failure: OperationFailure?) {
        let callback = preloaded
        preloaded = nil
        callback?(failure)
    }

    /// Keeps the windows full until `stop`.
    func run() {
        loop.eventLoop.preconditionInEventLoop()
        sweep = nil
        lanes = []
        idle = []
        for group in groups.indices where !keysOfGroup[group].isEmpty {
            // A key has one operation in flight: a window can't be wider than the group has keys.
            let lanesMax = min(settings.window, settings.type.lanesOfGroupMax)
            for _ in 0..<min(lanesMax, max(1, keysOfGroup[group].count / 2)) {
                idle.append(lanes.count)
                lanes.append(Lane(group: group, key: 0, isRead: false, started: 0))
            }
        }
        resetCounts()
        start()
    }

    private func resetCounts() {
        counts = Counts(perGroup: groups.map { GroupCount(group: $0, operations: 0) })
        histogram.reset()
    }

    /// What was counted since `run`.
    var current: Counts { counts }
    var latencies: Histogram<UInt32> { histogram }

    func stop(_ finished: @escaping () -> Void) {
        isStopping = true
        drained = finished
        if inFlight == 0 { finish() }
    }

    private func makeLanes(count: Int) {
        lanes = Array(repeating: Lane(group: 0, key: 0, isRead: false, started: 0), count: count)
        idle = Array(0..<count)
    }

    private func start() {
        isStopping = false
        let waiting = idle
        idle = []
        for lane in waiting { next(lane) }
    }

    private func finish() {
        let callback = drained
        drained = nil
        callback?()
    }

    // MARK: One operation after the other

    private func next(_ lane: Int) {
        if isStopping { return rest(lane) }
        let key: Int
        if let left = sweep {
            guard let first = left.first else { return rest(lane) }
            sweep = left.dropFirst()
            key = first
        } else {
            key = freeKey(of: lanes[lane].group)
        }
        isBusy[key] = true
        lanes[lane].key = key
        lanes[lane].isRead = sweep == nil && settings.reads > 0 && Int(random.below(100)) < settings.reads
        lanes[lane].started = RPCClock.now().rawValue
        submit(lane)
    }

    /// The lane's operation, with its deadline as from its start.
    private func submit(_ lane: Int) {
        let key = lanes[lane].key
        inFlight += 1
        let deadline = Instant(lanes[lane].started) + settings.deadlineNanoseconds
        let completion: ClientLoop.Completion = { [self] tag, result in completed(Int(tag), result) }
        if lanes[lane].isRead {
            get(key, deadline: deadline, tag: UInt64(lane), completion: completion)
        } else {
            put(key, deadline: deadline, tag: UInt64(lane), completion: completion)
        }
    }

    private func get(_ key: Int, deadline: Instant, tag: UInt64, completion: @escaping ClientLoop.Completion) {
        let name = Self.name(key)
        guard let query = settings.type.query(key, name, mark: marks[key]) else {
            return loop.get(name, deadline: deadline, tag: tag, completion: completion)
        }
        loop.submit(
            kind: .query, target: .slot(slot(of: settings.type.object(of: key, name))), machine: query.machine,
            payload: query.payload, deadline: deadline, tag: tag, completion: completion)
    }

    private func put(_ key: Int, deadline: Instant, tag: UInt64, completion: @escaping ClientLoop.Completion) {
        let (name, version) = (Self.name(key), versions[key] + 1)
        let value = value(key, version)
        guard let command = settings.type.command(key, name, version: version, value: value, mark: marks[key])
        else {
            return loop.put(name, value, deadline: deadline, tag: tag, completion: completion)
        }
        loop.submit(
            kind: .command, target: .slot(slot(of: settings.type.object(of: key, name))), payload: command,
            deadline: deadline, tag: tag, completion: completion)
    }

    private func freeKey(of group: Int) -> Int {
        let keys = keysOfGroup[group]
        while true {
            let key = Int(keys[Int(random.below(UInt64(keys.count)))])
            if !isBusy[key] { return key }
        }
    }

    private func rest(_ lane: Int) {
        idle.append(lane)
        if inFlight == 0 { finish() }
    }

    private func completed(_ lane: Int, _ result: Result<Bytes, OperationFailure>) {
        inFlight -= 1
        let key = lanes[lane].key
        isBusy[key] = false
        var goesOn = false
        switch result {
        case .success(let bytes):
            if lanes[lane].isRead {
                if let wrong = check(key, bytes) { note(wrong) }
            } else {
                versions[key] += 1
                uncertain.remove(key)
                noteMark(of: key, bytes)
                goesOn = settings.type.isHalfDone(version: versions[key])
            }
            counts.operations += 1
            counts.lastSuccess = RPCClock.now()
            counts.perGroup[lanes[lane].group].operations += 1
            _ = histogram.record((counts.lastSuccess.rawValue - lanes[lane].started) / 1_000)
        case .failure(let failure):
            if !lanes[lane].isRead, failure.mayHaveHappened { uncertain.insert(key) }
            if sweep != nil { return preloadFailed(lane, failure) }
            note("\(lanes[lane].isRead ? "get" : "put") of key \(key): \(failure)")
        }
        guard goesOn else { return next(lane) }
        isBusy[key] = true
        lanes[lane].started = RPCClock.now().rawValue
        submit(lane)
    }

    private func noteMark(of key: Int, _ answer: Bytes) {
        switch settings.type {
        case .kv, .value, .number, .map, .set: break
        case .array, .queue, .lock:
            do { marks[key] = try settings.type.mark(of: answer, version: versions[key]) } catch {
                note("put of key \(key): \(error)")
            }
        }
    }

    /// How many items a key's queue may have. Any number while others push and take; one whose push or take failed may be
    /// there or not.
    private func items(ofQueueOf key: Int) -> ClosedRange<Int> {
        let count = BenchType.keysOfObject
        guard isReadingBack else { return 0...count }
        let first = key / count * count
        let keys = first..<min(first + count, versions.count)
        let unknown = keys.reduce(0) { $0 + (uncertain.contains($1) ? 1 : 0) }
        let items = keys.reduce(0) { $0 + Int(versions[$1] % 2) }
        return max(items - unknown, 0)...items + unknown
    }

    /// A host that ends takes the outcome of its puts with it; the same put again does no harm. What has no time left
    /// ends it all: the cluster does not take these keys.
    private func preloadFailed(_ lane: Int, _ failure: OperationFailure) {
        if !isStopping, failure.mayHaveHappened,
            RPCClock.now() < Instant(lanes[lane].started) + settings.deadlineNanoseconds
        {
            isBusy[lanes[lane].key] = true
            return submit(lane)
        }
        isStopping = true
        endPreload(failure)
    }

    private func note(_ error: String) {
        counts.errors += 1
        if counts.firstError == nil { counts.firstError = error }
    }

    /// Nil if the reading is the value that was acknowledged last.
    private func check(_ key: Int, _ bytes: Bytes) -> String? {
        do throws(DecodingFailure) {
            let result = try DataResult(decoding: bytes)
            let (type, version) = (settings.type, versions[key])
            let items = type == .queue ? items(ofQueueOf: key) : 0...0
            if try type.isRight(result, version: version, value: value(key, version), items: items) { return nil }
            guard uncertain.contains(key),
                try type.isRight(result, version: version + 1, value: value(key, version + 1), items: items)
            else { return "key \(key) has not what was acknowledged last" }
            versions[key] += 1
            uncertain.remove(key)
            return nil
        } catch {
            return "the answer to a get of key \(key) can't be read: \(error)"
        }
    }

    // MARK: Reading back

    private static let verifyNanosecondsMin: UInt64 = 10_000_000_000
    /// Values that are read back at a time, in bytes.
    private static let verifyBytesAtATime = 32 << 20

    /// Reads `count` random acknowledged keys, each compared with what was acknowledged last. Calls back with how many
    /// were right, and the first that was not.
    func verify(count: Int, _ finished: @escaping (_ right: Int, _ asked: Int, _ firstWrong: String?) -> Void) {
        loop.eventLoop.preconditionInEventLoop()
        isReadingBack = true
        let written = versions.indices.filter { versions[$0] > 0 }
        guard !written.isEmpty else { return finished(0, 0, nil) }
        let asked = (0..<count).map { _ in written[Int(random.below(UInt64(written.count)))] }
        var right = 0
        var started = 0
        var ended = 0
        var firstWrong: String?
        var isStarting = false
        let atATime = max(16, Self.verifyBytesAtATime / max(settings.payload, 1))
        let patience = max(settings.deadlineNanoseconds, Self.verifyNanosecondsMin)
        func start() {
            // An operation may end at once.
            guard !isStarting else { return }
            isStarting = true
            defer { isStarting = false }
            while started < asked.count, started - ended < atATime {
                let key = asked[started]
                let deadline = RPCClock.now() + patience
                get(key, deadline: deadline, tag: UInt64(started)) { [self] _, result in
                    switch result {
                    case .success(let bytes):
                        if let wrong = check(key, bytes) { firstWrong = firstWrong ?? wrong } else { right += 1 }
                    case .failure(let failure): firstWrong = firstWrong ?? "get of key \(key): \(failure)"
                    }
                    ended += 1
                    if ended == asked.count { finished(right, asked.count, firstWrong) } else { start() }
                }
                started += 1
            }
        }
        start()
    }
}
