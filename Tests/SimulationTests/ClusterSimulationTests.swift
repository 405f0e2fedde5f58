// Whole clusters from seeds. `BIFROST_SEEDS=A..B` runs those instead of the usual ones, `BIFROST_TRACE=1` prints each
// event.

import BifrostSimulator
import Glibc
import Primitives
import Testing

/// The seed under way, for the report of a trap: a precondition in production code ends the process.
nonisolated(unsafe) private var seedUnderWay: UInt64 = 0

private func reportTraps() {
    for trap in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV] {
        signal(trap) { number in
            var line: [UInt8] = Array("a trap while simulating; reproduce with BIFROST_SEEDS=".utf8)
            let digits = Array(String(seedUnderWay).utf8)
            line += digits + Array("..".utf8) + digits + [10]
            _ = write(2, line, line.count)
            signal(number, SIG_DFL)
            raise(number)
        }
    }
}

/// Runs one seed with all checks. Nil: nothing was violated.
func simulate(_ seed: UInt64, into total: inout SimulationReport, isTraced: Bool = false) -> String? {
    seedUnderWay = seed
    let cluster = SimulatedCluster(seed: seed)
    if isTraced { cluster.listen { print($0) } }
    do throws(SimulationFailure) {
        total.add(try cluster.run())
    } catch {
        return "\(error)\nreproduce: BIFROST_SEEDS=\(seed)..\(seed) swift test --filter ClusterSimulationTests"
    }
    if let violation = linearizabilityViolation(of: cluster.operations) {
        return
            "seed \(seed): \(violation)\nreproduce: BIFROST_SEEDS=\(seed)..\(seed) swift test --filter ClusterSimulationTests"
    }
    return nil
}

extension SimulationReport {
    mutating func add(_ other: SimulationReport) {
        events += other.events
        simulatedNanoseconds += other.simulatedNanoseconds
        operations += other.operations
        acknowledged += other.acknowledged
        unknownOutcomes += other.unknownOutcomes
        faults += other.faults
        crashes += other.crashes
        diskFailures += other.diskFailures
        elections += other.elections
        commits += other.commits
        checkpoints += other.checkpoints
        merges += other.merges
        trimmedValues += other.trimmedValues
        coldReads += other.coldReads
        logReads += other.logReads
        bulkPayloads += other.bulkPayloads
        journalBytesAtRest = max(journalBytesAtRest, other.journalBytesAtRest)
        leadersNanoseconds = max(leadersNanoseconds, other.leadersNanoseconds)
    }
}

private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// `A..B`, both included.
private func chosenSeeds() -> ClosedRange<UInt64>? {
    guard let text = environment("BIFROST_SEEDS") else { return nil }
    let ends = text.split(separator: ".").compactMap { UInt64($0) }
    return ends.count == 2 && ends[0] <= ends[1] ? ends[0]...ends[1] : nil
}

@Suite(.serialized) struct ClusterSimulationTests {
    @Test func seedsWithoutViolation() {
        reportTraps()
        let seeds = chosenSeeds() ?? 1...300
        let isTraced = environment("BIFROST_TRACE") != nil
        let failuresMax = environment("BIFROST_FAILURES").flatMap { Int($0) } ?? 1
        var total = SimulationReport()
        var failures = 0
        let start = ContinuousClock.now
        for seed in seeds {
            guard let failure = simulate(seed, into: &total, isTraced: isTraced) else { continue }
            Issue.record("\(failure)")
            print(failure)
            failures += 1
            if failures >= failuresMax { break }
        }
        let time = ContinuousClock.now - start
        let seconds = Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18
        print("\(seeds.count) seeds in \(seconds) s: \(total)")
        print("\(Int(Double(total.simulatedNanoseconds) / 1e9 / seconds)) simulated seconds per second")
        if chosenSeeds() == nil, failures == 0 {
            // Otherwise the run has proved little.
            #expect(total.acknowledged > 300 * 500)
            #expect(total.crashes > 1_000 && total.elections > 3_000 && total.diskFailures > 10)
            #expect(total.checkpoints > 5_000 && total.merges > 300 && total.trimmedValues > 5_000)
            #expect(total.coldReads > 1_000 && total.logReads > 100 && total.bulkPayloads > 100)
        }
    }

    @Test(arguments: [1, 2, 77, 1_234] as [UInt64])
    func sameSeedSameTrace(seed: UInt64) throws {
        let first = try SimulatedCluster(seed: seed).run()
        let second = try SimulatedCluster(seed: seed).run()
        #expect(first == second)
        let other = try SimulatedCluster(seed: seed + 1).run()
        #expect(other.traceHash != first.traceHash)
    }
}
