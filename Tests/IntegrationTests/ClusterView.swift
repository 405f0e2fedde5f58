// What the suites of the checklist share: what replicas say of themselves, many writes at once, and runs of the simulator
// whose transcript and whose last reads are looked at from outside.

import Bifrost
import BifrostSimulator
import BifrostTool
import Messages
import Primitives
import Ring
import Synchronization
import TestSupport
import Testing

/// A replica's own account, and where it is.
struct ReplicaView {
    var host: HostID
    var status: ReplicaStatus
}

extension Cluster {
    /// Of all hosts that answer within the time.
    func replicas(timeout: Duration = .seconds(10)) async throws -> [ReplicaView] {
        try await status(timeout: timeout).flatMap { report -> [ReplicaView] in
            guard case .success(let status) = report.status else { return [] }
            return status.replicas.map { ReplicaView(host: report.host.id, status: $0) }
        }
    }

    /// Writes these keys, so many at a time. Each is written once, whatever happens.
    func write(
        _ keys: Range<Int>, atATime count: Int = 64, _ value: @escaping @Sendable (Int) -> Bytes
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<count {
                group.addTask {
                    for key in stride(from: keys.lowerBound + worker, to: keys.upperBound, by: count) {
                        _ = try await self.kv.put(Bytes("key \(key)"), value(key), timeout: .seconds(180))
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    /// The first of these keys that has not this value.
    func missing(
        _ keys: Range<Int>, _ value: @escaping @Sendable (Int) -> Bytes
    ) async throws -> Int? {
        try await withThrowingTaskGroup(of: Int?.self) { group in
            for worker in 0..<64 {
                group.addTask {
                    for key in stride(from: keys.lowerBound + worker, to: keys.upperBound, by: 64)
                    where try await self.kv.get(Bytes("key \(key)"))?.value != value(key) {
                        return key
                    }
                    return nil
                }
            }
            for try await key in group where key != nil { return key }
            return nil
        }
    }
}

/// Waits until `isTrue`; a test's issue if that takes longer.
func wait(
    _ what: String, seconds: Double = 180, sourceLocation: SourceLocation = #_sourceLocation,
    until isTrue: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    while try await !isTrue() {
        guard ContinuousClock.now < end else {
            Issue.record("\(what): not within \(seconds) s", sourceLocation: sourceLocation)
            return
        }
        await OwnExecutor.pause(milliseconds: 20)
    }
}

/// Does it again, a few times at most, until it takes less than so long: what a machine that stood still added is not
/// what is asked for here.
func expectQuick(
    _ limit: Duration, sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
) async throws {
    var shortest: Duration?
    for _ in 0..<5 where shortest ?? limit >= limit {
        let begin = ContinuousClock.now
        try await body()
        shortest = min(ContinuousClock.now - begin, shortest ?? .seconds(86_400))
    }
    #expect(shortest ?? limit < limit, sourceLocation: sourceLocation)
}

/// Who leads what, as somebody saw it: more than one in a term of a group must never be.
struct Leaders {
    private var seen: [[UInt64]: Set<UInt64>] = [:]
    var count: Int { seen.count }

    mutating func note(group: UInt64, term: UInt64, replica: UInt64) {
        seen[[group, term], default: []].insert(replica)
    }

    /// The first term of a group with two leaders.
    var conflict: String? {
        seen.filter { $0.value.count > 1 }.keys.sorted { $0.lexicographicallyPrecedes($1) }.first.map {
            "group \($0[0]), term \($0[1]): replicas \(seen[$0, default: []].sorted())"
        }
    }
}

/// One run of the simulator, which has kept all its rules, and what was seen of it from outside.
struct SimulatedRun {
    var report: SimulationReport
    var operations: [SimulatedOperation]
    /// A line of each event that was asked for.
    var transcript: [(seconds: Double, words: String)] = []

    /// - Parameter isKept: of the transcript; it has a line for each message otherwise.
    init(
        seed: UInt64, _ settings: SimulationSettings, only faults: [SimulatedFault]? = nil,
        adjust: (inout SimulatedPlan) -> Void = { _ in }, keeping isKept: ((String) -> Bool)? = nil
    ) throws {
        let cluster = SimulatedCluster(seed: seed, settings: settings) { plan in
            if let faults {
                plan.weights = SimulatedFault.allCases.map { faults.contains($0) ? 1 : 0 }
                plan.jobsPerEnd = .max
            }
            adjust(&plan)
        }
        var lines: [(seconds: Double, words: String)] = []
        if let isKept {
            cluster.listener = { line in
                guard isKept(line), let gap = line.firstIndex(of: " ") else { return }
                lines.append((Double(line[..<gap]) ?? .infinity, String(line[gap...].drop { $0 == " " })))
            }
        }
        report = try cluster.runAndCheck()
        transcript = lines
        operations = cluster.operations
    }

    /// At its end, when nobody writes any more, a run reads each key at each host that has it. The first key of which two
    /// of them show different things, or of which only one was asked.
    var differentCopy: String? {
        let lastCommand = operations.lastIndex { $0.kind != .get } ?? 0
        let quiet = operations[...lastCommand].map { $0.ended == .max ? 0 : $0.ended }.max() ?? 0
        let reads = operations[lastCommand...].filter { $0.kind == .get && $0.called > quiet }
        if reads.isEmpty { return "nothing was read at the end" }
        for (key, reads) in Dictionary(grouping: reads, by: \.key) {
            let found = Set(reads.map(\.outcome))
            if found.count != 1 || reads.count < 2 { return "\(key): \(reads.count) reads, \(found)" }
        }
        return nil
    }
}
