// Whole clusters from seeds. `BIFROST_SEEDS=A..B` runs those instead of the usual ones, with `BIFROST_SECONDS` and
// `BIFROST_PROFILE` of each; `BIFROST_TRACE=1` prints each event.

import BifrostSimulator
import Glibc
import Primitives
import Testing

// Written by the one test that simulates at a time, before each run; read by the signal handler in the same thread.
/// The seed under way and its last events, for the report of a trap: a precondition in production code ends the process.
nonisolated(unsafe) private var seedUnderWay: UInt64 = 0
nonisolated(unsafe) private var eventsUnderWay: SimulationLastEvents?

private func reportTraps() {
    for trap in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV] {
        signal(trap) { number in
            var line: [UInt8] = Array("a trap while simulating; last events:\n".utf8)
            _ = write(2, line, line.count)
            eventsUnderWay?.forEachLine { text in
                _ = write(2, text.baseAddress, text.count)
                _ = write(2, "\n", 1)
            }
            line = Array("reproduce with BIFROST_SEEDS=".utf8)
            let digits = Array(String(seedUnderWay).utf8)
            line += digits + Array("..".utf8) + digits + [10]
            _ = write(2, line, line.count)
            signal(number, SIG_DFL)
            raise(number)
        }
    }
}

/// Runs one seed with all checks. Nil: nothing was violated.
func simulate(
    _ seed: UInt64, _ settings: SimulationSettings = SimulationSettings(), into total: inout SimulationReport,
    isTraced: Bool = false
) -> String? {
    let cluster = SimulatedCluster(seed: seed, settings: settings)
    seedUnderWay = seed
    eventsUnderWay = cluster.lastEvents
    defer { eventsUnderWay = nil }
    if isTraced { cluster.listener = { print($0) } }
    let line =
        "reproduce: BIFROST_SEEDS=\(seed)..\(seed) BIFROST_SECONDS=\(settings.seconds) "
        + "BIFROST_PROFILE=\(settings.profile.rawValue) Tools/test --filter SimulationTests.ClusterSimulationTests"
    do throws(SimulationFailure) {
        total.add(try cluster.run())
    } catch {
        return "\(error)\n\(line)"
    }
    if let violation = linearizabilityViolation(of: cluster.operations) { return "seed \(seed): \(violation)\n\(line)" }
    return nil
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
        let settings = SimulationSettings(
            profile: environment("BIFROST_PROFILE").flatMap { SimulationProfile(rawValue: $0) } ?? .safety,
            seconds: environment("BIFROST_SECONDS").flatMap { Int($0) } ?? 12)
        let isTraced = environment("BIFROST_TRACE") != nil
        let failuresMax = environment("BIFROST_FAILURES").flatMap { Int($0) } ?? 1
        var total = SimulationReport()
        var failures = 0
        let start = ContinuousClock.now
        for seed in seeds {
            guard let failure = simulate(seed, settings, into: &total, isTraced: isTraced) else { continue }
            Issue.record("\(failure)")
            print(failure)
            failures += 1
            if failures >= failuresMax { break }
        }
        let time = ContinuousClock.now - start
        let seconds = Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18
        print("\(seeds.count) seeds in \(seconds) s: \(total)")
        print(
            "\(Int(Double(total.busySeconds) / seconds)) busy simulated seconds per second, "
                + "\(Int(Double(total.simulatedNanoseconds) / 1e9 / seconds)) of all")
        for mark in SimulationMark.allCases { print("\(mark): \(total.marks[mark.rawValue])") }
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
