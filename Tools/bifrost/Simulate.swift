// `bifrost simulate`: whole clusters in virtual time, from seeds. Owns the command line and the words; the simulator is
// BifrostSimulator, and who runs many seeds at once is SimulationFarm.

import ArgumentParser
import BifrostSimulator
import Foundation
import Primitives

struct Simulate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs whole clusters under faults in virtual time, and looks for broken promises.",
        discussion: """
            Hosts, groups, clients, network, disks and clocks of a cluster run in one thread and in virtual time; the seed \
            decides all that happens: the same seed of the same version is the same run, event by event. What is \
            simulated is the network, the disks and the clocks; the logic is that of the real hosts and clients. Each \
            step is checked, and each history of operations is checked to be linearizable.

            PROFILES: safety has many short faults at once; liveness has few, long ones with calm between them, in which \
            everything must work again; rot damages one host's disks; in membership \
            replicas, groups and hosts come, move and go, and hosts are upgraded; in moves slots go from group to group \
            too, and in rebalance mostly as plans of rebalancing say.

            Before the seeds of the command line, all that ever failed are run again (--no-corpus leaves them out). At \
            the first violation it stops with exit code 1, and says the seed, the rule, the last 50 events, and the line \
            that runs it again. A simulated second counts only if at least 100 operations were acknowledged in it.

            --migration-matrix takes no seeds: it moves slots once in each of some 1,480 small clusters, and at one moment \
            between two steps, another one in each, somebody is lost. It prints how many cells there are for each moment \
            and each one who was lost, and what came of them.

            EXAMPLES:
              bifrost simulate --seeds 1..2000 --jobs 2
              bifrost simulate --seeds 1..2000 --jobs 2 --budget 8m
              bifrost simulate --migration-matrix --jobs 2
              bifrost simulate --seeds 1..100 --profile liveness --seconds 300
              bifrost simulate --seed 17 --trace | less
              bifrost simulate --seeds 1..100 --json 2> /dev/null
            """)

    @Option(
        help: ArgumentHelp("Seeds to run, both included. (default: 1..100)", valueName: "A..B"),
        transform: SeedRange.init(parsing:))
    var seeds: SeedRange?

    @Option(help: ArgumentHelp("One seed to run.", valueName: "N"))
    var seed: UInt64?

    @Option(help: ArgumentHelp("Virtual seconds with load and faults, of each seed.", valueName: "count"))
    var seconds = SimulationSettings.secondsStandard

    @Option(
        help: ArgumentHelp(
            "safety, liveness, rot, membership, moves or rebalance. (default: safety)", valueName: "name"),
        completion: .list(SimulationProfile.allCases.map(\.rawValue)), transform: Self.profile)
    var profile = SimulationProfile.safety

    @Option(
        help: ArgumentHelp(
            "Processes that run seeds at the same time, or threads that run cells of the matrix.", valueName: "count"))
    var jobs = 1

    @Option(
        help: ArgumentHelp(
            "Begin no more seeds behind this time, as 8m: how many were run is said, and is no failure.",
            valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var budget: TimeSpan?

    @Flag(help: "Run the crash matrix of migrations instead of seeds.")
    var migrationMatrix = false

    @Option(
        help: ArgumentHelp("Of the matrix, the one cell of this number; with --trace, event by event.", valueName: "N"))
    var cell: Int?

    @Flag(help: "Print every event of the one seed as a line, with its time in virtual seconds.")
    var trace = false

    @Flag(inversion: .prefixedNo, help: "Run the seeds that ever failed first, when several seeds are run.")
    var corpus = true

    @Flag(
        inversion: .prefixedNo,
        help: "Show seeds, rate and time left on standard error. (default: if that is a terminal)")
    var progress: Bool?

    /// What one process of many does: see SimulationWorker.
    @Flag(help: .private)
    var worker = false

    @OptionGroup var common: CommonOptions

    private static let jobsMax = 256

    func validate() throws {
        guard seeds == nil || seed == nil else { throw ValidationError("--seed and --seeds exclude each other") }
        guard !migrationMatrix || seeds == nil && seed == nil && !worker else {
            throw ValidationError("--migration-matrix takes no seeds")
        }
        guard budget == nil || seed == nil && !migrationMatrix else {
            throw ValidationError("--budget is for many seeds")
        }
        guard cell == nil || migrationMatrix else { throw ValidationError("--cell is one of --migration-matrix") }
        guard cell.map({ (0..<MigrationMatrix.cells.count).contains($0) }) ?? true else {
            throw ValidationError("--cell is 0 to \(MigrationMatrix.cells.count - 1), not \(cell ?? 0)")
        }
        guard !trace || seed != nil || cell != nil else {
            throw ValidationError("--trace shows one seed: name it with --seed")
        }
        guard !(trace && common.json) else { throw ValidationError("--trace and --json exclude each other") }
        guard (1...SimulationSettings.secondsMax).contains(seconds) else {
            throw ValidationError("--seconds is 1 to \(SimulationSettings.secondsMax), not \(seconds)")
        }
        guard (1...Self.jobsMax).contains(jobs) else {
            throw ValidationError("--jobs is 1 to \(Self.jobsMax), not \(jobs)")
        }
    }

    func run() async throws {
        if migrationMatrix { return try await SimulatedMatrix(jobs: jobs, cell: cell, trace: trace).run(common) }
        let settings = SimulationSettings(profile: profile, seconds: seconds)
        if worker {
            guard let seeds else { throw ToolError(.usage, "a worker needs --seeds") }
            return try SimulationWorker.run(seeds.range, settings)
        }
        if trace, let seed { return try traced(seed, settings) }
        var runs: [SimulationBatch] = []
        let range = seed.map { $0...$0 } ?? seeds?.range ?? 1...100
        if corpus, seed == nil {
            runs += SimulationCorpus.entries.map {
                SimulationBatch(seeds: $0.seed...$0.seed, settings: $0.settings)
            }
        }
        let farm = SimulationFarm(
            SimulationPlan(first: runs, range, settings, jobs: jobs), jobs: jobs, budget: budget?.duration,
            isProgressShown: progress ?? Output.isErrorTerminal)
        let isJSON = common.json
        let interruption = Interruption { number in
            let summary = SimulationSummary(farm.resultSoFar, settings)
            if isJSON { try? Output.json(summary) } else { try? Output.line(summary.text) }
            Output.error("bifrost: interrupted; this is what was done so far\n")
            _exit(128 + number)
        }
        let result = try await farm.run()
        interruption.end()
        if let failure = result.failure { Output.error(failure.text + "\n") }
        let summary = SimulationSummary(result, settings)
        if common.json { try Output.json(summary) } else { try Output.line(summary.text) }
        if result.failure != nil { throw Outcome(.negative) }
    }

    /// One run in this process, as a transcript on standard output.
    private func traced(_ seed: UInt64, _ settings: SimulationSettings) throws {
        let cluster = SimulatedCluster(seed: seed, settings: settings)
        SimulationWorker.reportTraps(of: cluster)
        var trouble: (any Error)?
        cluster.listener = { line in
            guard trouble == nil else { return }
            do { try Output.line(line) } catch { trouble = error }
        }
        let outcome = Result { () throws(SimulationFailure) in try cluster.runAndCheck() }
        if let trouble { throw trouble }
        switch outcome {
        case .success(let report): try Output.line("no violation; trace hash \(report.traceHash)")
        case .failure(let failure):
            try Output.line("violation: \(failure.invariant): \(failure.detail)")
            throw Outcome(.negative)
        }
    }

    private static func profile(_ text: String) throws -> SimulationProfile {
        guard let profile = SimulationProfile(rawValue: text) else {
            throw ValidationError("expected safety, liveness, rot, membership, moves or rebalance, found '\(text)'")
        }
        return profile
    }
}

/// `A..B`, both included.
struct SeedRange: CustomStringConvertible {
    var range: ClosedRange<UInt64>

    init(parsing text: String) throws {
        let ends = text.split(separator: ".", omittingEmptySubsequences: true).map { UInt64($0) }
        guard text.contains(".."), !text.contains("..."), ends.count == 2, let first = ends[0], let last = ends[1],
            first <= last
        else { throw ValidationError("expected two seeds as in 1..100, the first not above the last, found '\(text)'") }
        range = first...last
    }

    var description: String { "\(range.lowerBound)..\(range.upperBound)" }
}

/// What all runs together came to.
struct SimulationSummary: Encodable {
    struct Failure: Encodable {
        var seed: UInt64
        var profile: String
        var seconds: Int
        var invariant: String
        var detail: String
        var lastEvents: [String]
        var reproduce: String
    }

    var profile: String
    var seconds: Int
    var seeds: Int
    /// More than `seeds` where a rule was broken, or the time given was over.
    var seedsPlanned: UInt64
    var violations: Int
    var operations: Int
    var acknowledged: Int
    var faults: Int
    var elections: Int
    var crashes: Int
    var events: UInt64
    /// That count.
    var simulatedSeconds: Int
    /// All.
    var virtualSeconds: Double
    var elapsedSeconds: Double
    var simulatedSecondsPerSecond: Double
    /// Of the processes that simulate: what a core does when nobody else needs it.
    var simulatedSecondsPerProcessorSecond: Double
    var marks: [String: Int]
    var failure: Failure?

    init(_ result: SimulationFarm.Result, _ settings: SimulationSettings) {
        let report = result.report
        profile = settings.profile.rawValue
        seconds = settings.seconds
        seeds = report.seeds + (result.failure == nil ? 0 : 1)
        seedsPlanned = result.seedsPlanned
        violations = result.failure == nil ? 0 : 1
        operations = report.operations
        acknowledged = report.acknowledged
        faults = report.faults
        elections = report.elections
        crashes = report.crashes
        events = report.events
        simulatedSeconds = report.busySeconds
        virtualSeconds = Double(report.simulatedNanoseconds) / 1e9
        elapsedSeconds = result.elapsedSeconds
        simulatedSecondsPerSecond = Double(simulatedSeconds) / max(elapsedSeconds, 0.001)
        simulatedSecondsPerProcessorSecond = Double(simulatedSeconds) / max(result.processorSeconds, 0.001)
        marks = Dictionary(
            uniqueKeysWithValues: SimulationMark.allCases.map { ("\($0)", report.marks[$0.rawValue]) })
        failure = result.failure.map {
            Failure(
                seed: $0.failure.seed, profile: $0.settings.profile.rawValue, seconds: $0.settings.seconds,
                invariant: $0.failure.invariant, detail: $0.failure.detail, lastEvents: $0.failure.lastEvents,
                reproduce: $0.reproduce)
        }
    }

    private var isCutShort: Bool { violations == 0 && UInt64(seeds) < seedsPlanned }

    var text: String {
        func grouped(_ number: Int) -> String { HumanText.grouped(UInt64(max(0, number))) }
        return """
            \(isCutShort ? "\(grouped(seeds)) of " : "")\
            \(isCutShort ? HumanText.count(Int(clamping: seedsPlanned), "seed") : HumanText.count(seeds, "seed")), \
            \(violations == 0 ? "no violation" : "1 VIOLATION")
            \(grouped(operations)) operations, \(grouped(acknowledged)) acknowledged, \(grouped(faults)) faults, \
            \(grouped(crashes)) crashes, \(grouped(elections)) elections
            \(grouped(simulatedSeconds)) simulated seconds with at least \
            \(SimulationReport.operationsPerSecondMin) acknowledged operations (of \
            \(grouped(Int(virtualSeconds)))), \(HumanText.fixed(simulatedSecondsPerSecond, 0)) per second, \
            \(HumanText.fixed(simulatedSecondsPerProcessorSecond, 0)) per second of a core
            """
    }
}
