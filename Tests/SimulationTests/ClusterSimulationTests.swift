// Whole clusters from seeds. `BIFROST_SEEDS=A..B` runs those instead of the usual ones, with `BIFROST_SECONDS` and
// `BIFROST_PROFILE` of each; `BIFROST_TRACE=1` prints each event.

import BifrostSimulator
import Glibc
import Primitives
import TestSupport
import Testing

// Written by the one test that simulates at a time, before each run; read by the signal handler in the same thread.
/// The seed under way and its last events, for the report of a trap: a precondition in production code ends the
/// process.
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
        total.add(try cluster.runAndCheck())
        return nil
    } catch {
        return "\(error)\n\(line)"
    }
}

private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// `A..B`, both included.
private func chosenSeeds() -> ClosedRange<UInt64>? {
    guard let text = environment("BIFROST_SEEDS") else { return nil }
    let ends = text.split(separator: ".").compactMap { UInt64($0) }
    return ends.count == 2 && ends[0] <= ends[1] ? ends[0]...ends[1] : nil
}

// On a thread of its own: for minutes others would have one of the shared ones less, or none.
@Suite(.serialized, .ownExecutor) struct ClusterSimulationTests {
    /// Every seed that ever failed.
    @Test func corpusWithoutViolation() {
        reportTraps()
        var total = SimulationReport()
        for entry in SimulationCorpus.entries {
            if let failure = simulate(entry.seed, entry.settings, into: &total) {
                Issue.record("\(entry.reason), again: \(failure)")
            }
        }
    }

    @Test func seedsWithoutViolation() {
        reportTraps()
        let seeds = chosenSeeds() ?? 101...150
        let settings = SimulationSettings(
            profile: environment("BIFROST_PROFILE").flatMap { SimulationProfile(rawValue: $0) } ?? .safety,
            seconds: environment("BIFROST_SECONDS").flatMap { Int($0) } ?? 30)
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
            #expect(total.busySeconds > seeds.count * 15)
            // Some come up in few seeds of a hundred, or in two of many hundred; those have tests of their own.
            let rare: [SimulationMark] = [.snapshotFailed, .membersSettledWithoutLoad, .steppedDownForHang]
            for mark in SimulationMark.allCases
            where !mark.isOfDamage && !mark.isOfMembership && !mark.isOfMoves && !rare.contains(mark) {
                #expect(total.marks[mark.rawValue] > 0, "\(mark) never happened")
            }
        }
    }

    @Test func allIsWellAgainAfterLongFaults() {
        expect([.pausedBeyondElection, .handedOverForHang], within: 1...20, SimulationSettings(profile: .liveness))
    }

    @Test func membersComeAndGoUnderFaults() {
        let total = expect(
            SimulationMark.allCases.filter(\.isOfMembership), within: 1...130,
            SimulationSettings(profile: .membership, seconds: 30))
        #expect(total.marks[SimulationMark.membersSettledWithoutLoad.rawValue] <= 2, "an exception, not the rule")
    }

    @Test func slotsMoveUnderFaults() {
        expect(
            // Among these are some whose migrations do not converge.
            SimulationMark.allCases.filter { $0.isOfMoves && $0 != .balancedByItself }, within: 41...80,
            SimulationSettings(profile: .moves, seconds: 30))
    }

    @Test func plansOfRebalancingAreCarriedOutUnderFaults() {
        expect(
            [.slotsReleased, .slotsActivated, .balancedByItself], within: 1...40,
            SimulationSettings(profile: .rebalance, seconds: 30))
    }

    @Test func damageIsNoticedAndNothingWrongServed() {
        expect(
            SimulationMark.allCases.filter(\.isOfDamage), within: 1...60, SimulationSettings(profile: .rot, seconds: 20)
        )
    }

    /// Runs the seeds, some and then as many more as it takes: no rule may be broken, and each of the rare paths must have been
    /// taken. Other seeds, more of them, run in continuous integration.
    @discardableResult
    private func expect(
        _ marks: [SimulationMark], within seeds: ClosedRange<UInt64>, _ settings: SimulationSettings
    ) -> SimulationReport {
        reportTraps()
        var total = SimulationReport()
        for seed in seeds {
            if let failure = simulate(seed, settings, into: &total) {
                Issue.record("\(failure)")
                return total
            }
            if seed >= seeds.lowerBound + 19, marks.allSatisfy({ total.marks[$0.rawValue] > 0 }) { break }
        }
        for mark in marks { #expect(total.marks[mark.rawValue] > 0, "\(mark) never happened") }
        return total
    }

    /// A bug on purpose: a violation names its rule and has the events that led to it, the same each time.
    @Test func aJournalWithoutSyncIsFound() throws {
        var found: [String] = []
        for _ in 0..<2 {
            for seed in 1...50 as ClosedRange<UInt64> {
                let cluster = SimulatedCluster(seed: seed, settings: SimulationSettings(seconds: 10)) {
                    $0.forgetsToSync = true
                }
                do throws(SimulationFailure) {
                    _ = try cluster.runAndCheck()
                } catch {
                    #expect(error.seed == seed)
                    #expect(error.lastEvents.count == SimulationLastEvents.kept)
                    // Of several hosts that start at the end of a run each is looked at, and only the last events are kept.
                    guard "\(error)".contains("may start again") else { continue }
                    found.append("\(error)")
                    break
                }
            }
        }
        try #require(found.count == 2)
        #expect(found[0] == found[1])
        #expect(found[0].contains("durable means durable"))
    }

    @Test func sameSeedSameTrace() throws {
        let settings = SimulationSettings(seconds: 5)
        var hashes: Set<UInt64> = []
        for seed in 1...20 as ClosedRange<UInt64> {
            let first = try SimulatedCluster(seed: seed, settings: settings).run()
            #expect(try SimulatedCluster(seed: seed, settings: settings).run() == first)
            hashes.insert(first.traceHash)
        }
        #expect(hashes.count == 20)
    }

    /// Dictionaries and sets have another order in each process, unless that is forbidden; no decision may show it.
    @Test func otherHashesSameTrace() async throws {
        var traces: [[UInt8]] = []
        for value in ["0", "1", "0"] {
            setenv("SWIFT_DETERMINISTIC_HASHING", value, 1)
            if value == "0" { unsetenv("SWIFT_DETERMINISTIC_HASHING") }
            let child = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
                for seed in [1, 2, 77, 1_234] as [UInt64] {
                    let settings = SimulationSettings(seconds: 5)
                    let line = "trace \(try SimulatedCluster(seed: seed, settings: settings).run().traceHash)\n"
                    _ = line.withCString { write(2, $0, strlen($0)) }
                }
            }
            traces.append(try #require(child).standardErrorContent)
        }
        unsetenv("SWIFT_DETERMINISTIC_HASHING")
        #expect(String(decoding: traces[0], as: UTF8.self).split(separator: "\n").count == 4)
        #expect(traces[0] == traces[1] && traces[0] == traces[2])
    }

    /// The example of Documentation/Simulator.md.
    @Test func noReadIsOlderThanOneBefore() throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            let cluster = SimulatedCluster(seed: seed, settings: SimulationSettings(seconds: 10))
            let report = try cluster.runAndCheck()
            #expect(report.acknowledged > 100)
            for operations in Dictionary(grouping: cluster.operations, by: \.key).values {
                var seen: [(ended: UInt64, revision: UInt64)] = []
                for operation in operations {
                    guard case .found(_, let revision?) = operation.outcome else { continue }
                    #expect(!seen.contains { $0.ended < operation.called && $0.revision > revision })
                    seen.append((operation.ended, revision))
                }
            }
        }
    }

    /// What a person reads: times, names, what happened.
    @Test func theTranscriptIsReadable() throws {
        let cluster = SimulatedCluster(seed: 1, settings: SimulationSettings(seconds: 2))
        var lines: [String] = []
        cluster.listener = { lines.append($0) }
        _ = try cluster.run()
        #expect(lines.contains { $0.hasSuffix("host 1 starts") })
        #expect(lines.contains { $0.contains(" leads group ") && $0.contains(" in term ") })
        #expect(lines.contains { $0.contains("client 1 puts value ") })
        #expect(lines.contains { $0.hasSuffix("all is mended") })
        #expect(!lines.contains { $0.contains("%") })
        #expect(lines == lines.sorted { time(of: $0) < time(of: $1) })
    }

    private func time(of line: String) -> Double { Double(line.prefix { $0 != " " }) ?? .infinity }
}

extension SimulationMark {
    fileprivate var isOfMembership: Bool {
        [.membersChange, .replicaRemoved, .groupDeleted, .hostJoined, .hostRemoved, .levelRaised].contains(self)
    }

    fileprivate var isOfMoves: Bool {
        [.slotsReleased, .slotsActivated, .heldOnTheMove, .sessionTakenOver, .writersSlowed, .balancedByItself]
            .contains(self)
    }

    fileprivate var isOfDamage: Bool {
        [
            .damageNoticedByRead, .damageMadeMute, .damageEndedHost, .damageFoundAtStart, .scrubberFoundState,
            .scrubberFoundJournal, .scrubberFoundSuperfluous,
        ].contains(self)
    }
}
