// The demo's import: all records over the client's pipelined interface, with marks at which the demo does something to
// the hosts. Belongs to the client's event loop.

import Bifrost
import ClientCore
import NIOCore
import Primitives
import RPC
import Ring

/// Puts records with a bounded number under way, up to a limit that the demo raises.
///
/// An answer may be lost with the host that gave it. The put is repeated then, since putting the same value under the
/// same key twice is the same as once, and since no key stands twice in the input.
final class DemoImport: @unchecked Sendable {
    // @unchecked: everything belongs to `loop.eventLoop`; the async functions go there first.

    /// Puts under way. Beyond: the next ones wait.
    static let windowMax = 2_000
    /// One attempt. Enough for an election, so that most puts of a dead leader's groups need no second one.
    private static let attemptNanoseconds: UInt64 = 5_000_000_000
    /// One record with all attempts. Beyond: the import fails.
    private static let recordNanoseconds: UInt64 = 60_000_000_000
    private static let pauseMilliseconds: Int64 = 20

    struct Counts: Sendable {
        var acknowledged = 0
        var underWay = 0
        /// Puts whose outcome was unknown.
        var repeated = 0
        /// Puts that certainly did not happen and were submitted again.
        var refused = 0
        /// Records of each group, in the order of `groups`.
        var perGroup: [Int]
    }

    private let loop: ClientLoop
    private let records: [(key: Bytes, value: Bytes)]
    private let groupOfRecord: [Int]
    private let meter: ProgressMeter
    let groups: [GroupID]

    private var counts: Counts
    private var next = 0
    private var limit = 0
    private var began: [Instant]
    private var failure: ToolError?
    /// Ascending by count.
    private var waiters: [(count: Int, resume: (ToolError?) -> Void)] = []
    /// Set at `mark`: for each group, when a put was acknowledged that was submitted later.
    private var marked: Instant?
    private var recovered: [Instant?] = []
    private var attempted: [Instant]
    private lazy var completion: ClientLoop.Completion = { [weak self] tag, result in self?.completed(Int(tag), result)
    }

    init(loop: ClientLoop, map: ClusterMap, input: DemoInput, meter: ProgressMeter) throws(ToolError) {
        self.loop = loop
        self.meter = meter
        records = input.records
        groups = map.dataGroups.map(\.id)
        var places: [Int] = []
        for record in input.records {
            guard let owner = map.owner(of: slot(of: record.key)), let place = groups.firstIndex(of: owner) else {
                throw ToolError(.fault, "the ring has no group for the key \(HumanText.quoted(record.key))")
            }
            places.append(place)
        }
        groupOfRecord = places
        counts = Counts(perGroup: Array(repeating: 0, count: groups.count))
        began = Array(repeating: .zero, count: records.count)
        attempted = began
    }

    // MARK: from the demo's task

    /// Lets it go on to the record before this one.
    func raise(limit: Int) async throws {
        try await loop.eventLoop.submit { [self] in
            self.limit = min(max(limit, self.limit), records.count)
            fill()
        }.get()
    }

    /// Waits until so many records are acknowledged.
    func acknowledged(_ count: Int) async throws(ToolError) {
        let failure = await withCheckedContinuation { (continuation: CheckedContinuation<ToolError?, Never>) in
            loop.eventLoop.execute { [self] in wait(count) { continuation.resume(returning: $0) } }
        }
        if let failure { throw failure }
    }

    /// Lets it go on to a limit, does something at the moment at which so many records are acknowledged, with others
    /// under way, and remembers that moment; see `secondsToRecovery`. Gives the counts of that moment.
    func mark(at count: Int, limit: Int, _ action: @escaping @Sendable () -> Void) async throws(ToolError) -> Counts {
        let result = await withCheckedContinuation {
            (continuation: CheckedContinuation<Result<Counts, ToolError>, Never>) in
            loop.eventLoop.execute { [self] in
                wait(count) { [self] failure in
                    if let failure { return continuation.resume(returning: .failure(failure)) }
                    action()
                    marked = RPCClock.now()
                    recovered = Array(repeating: nil, count: groups.count)
                    continuation.resume(returning: .success(counts))
                }
                self.limit = min(max(limit, self.limit), records.count)
                fill()
            }
        }
        return try result.get()
    }

    /// How long after the mark the last group acknowledged a put that was submitted after it. Groups that had none
    /// since are not counted.
    func secondsToRecovery() async throws -> Double? {
        try await loop.eventLoop.submit { [self] in
            guard let marked, let last = recovered.compactMap(\.self).max() else { return nil }
            return Double(last.since(marked)) / 1e9
        }.get()
    }

    func current() async throws -> Counts { try await loop.eventLoop.submit { [self] in counts }.get() }

    // MARK: on the loop

    private func fill() {
        while failure == nil, counts.underWay < Self.windowMax, next < limit {
            counts.underWay += 1
            began[next] = RPCClock.now()
            submit(next)
            next += 1
        }
    }

    private func submit(_ place: Int) {
        let now = RPCClock.now()
        attempted[place] = now
        let end = began[place] + Self.recordNanoseconds
        loop.put(
            records[place].key, records[place].value, deadline: min(now + Self.attemptNanoseconds, end),
            tag: UInt64(place),
            completion: completion)
    }

    private func completed(_ place: Int, _ result: Result<Bytes, OperationFailure>) {
        guard failure == nil else { return }
        switch result {
        case .success:
            counts.underWay -= 1
            counts.acknowledged += 1
            let group = groupOfRecord[place]
            counts.perGroup[group] += 1
            if let marked, recovered[group] == nil, attempted[place] > marked { recovered[group] = RPCClock.now() }
            meter.add(records: 1, bytes: records[place].key.count + records[place].value.count)
            meter.set(done: UInt64(counts.acknowledged))
            wake()
            fill()
        case .failure(let problem):
            guard Self.isWorthRepeating(problem), RPCClock.now() < began[place] + Self.recordNanoseconds else {
                return fail(
                    ToolError(
                        .unavailable, "the put of \(HumanText.quoted(records[place].key)) failed: \(problem.message)"))
            }
            if problem.mayHaveHappened { counts.repeated += 1 } else { counts.refused += 1 }
            let pause = max(Self.pauseMilliseconds, Int64(problem.retryAfterMilliseconds))
            loop.eventLoop.scheduleTask(in: .milliseconds(pause)) { [self] in submit(place) }
        }
    }

    private func wait(_ count: Int, _ resume: @escaping (ToolError?) -> Void) {
        if failure != nil || counts.acknowledged >= count { return resume(failure) }
        precondition(waiters.allSatisfy { $0.count <= count }, "marks come in order")
        waiters.append((count, resume))
    }

    private func fail(_ error: ToolError) {
        failure = error
        let all = waiters
        waiters = []
        for waiter in all { waiter.resume(error) }
    }

    private func wake() {
        guard let first = waiters.first, counts.acknowledged >= first.count else { return }
        waiters.removeFirst()
        first.resume(nil)
    }

    private static func isWorthRepeating(_ failure: OperationFailure) -> Bool {
        switch failure.code {
        case .outcomeUnknown, .deadlineExceeded, .noQuorum, .unreachable, .overloaded, .unavailable: true
        case .notInitialised, .invalid, .tooLarge, .compacted, .lockLost, .cancelled, .closed: false
        }
    }
}
