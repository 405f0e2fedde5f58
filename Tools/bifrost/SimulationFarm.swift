// Many seeds in several processes: who runs what, what they say, and when all stop. Refuses to know what a run is.

import BifrostSimulator
import Foundation
import Primitives
import RPC
import Synchronization

/// Seeds that one process runs.
struct SimulationBatch: Sendable {
    var seeds: ClosedRange<UInt64>
    var settings: SimulationSettings

    /// Few enough that a process's start does not show, many enough that all processes end at about the same time.
    fileprivate static let seedsMax: UInt64 = 16
}

/// What is to be run: some batches, and then the seeds of a range, however long it is.
struct SimulationPlan: Sendable {
    private var first: ArraySlice<SimulationBatch>
    private var rest: ClosedRange<UInt64>?
    private let settings: SimulationSettings
    private let size: UInt64
    /// All seeds in it; fewer than there are if these are more than a number holds.
    let seedCount: UInt64

    init(first: [SimulationBatch], _ seeds: ClosedRange<UInt64>, _ settings: SimulationSettings, jobs: Int) {
        self.first = first[...]
        rest = seeds
        self.settings = settings
        let more = seeds.upperBound - seeds.lowerBound
        size = max(1, min(SimulationBatch.seedsMax, (more / UInt64(jobs * 4)) &+ 1))
        let early = first.reduce(0) { $0 + ($1.seeds.upperBound - $1.seeds.lowerBound) + 1 } as UInt64
        let (sum, overflows) = more.addingReportingOverflow(early + 1)
        seedCount = overflows ? .max : sum
    }

    /// - Parameter isTimeOver: no more of the range.
    mutating func next(isTimeOver: Bool) -> SimulationBatch? {
        if let batch = first.popFirst() { return batch }
        guard !isTimeOver, let range = rest else { return nil }
        let last = range.lowerBound + min(size - 1, range.upperBound - range.lowerBound)
        rest = last < range.upperBound ? last + 1...range.upperBound : nil
        return SimulationBatch(seeds: range.lowerBound...last, settings: settings)
    }
}

/// Runs batches until all are done or a rule is broken.
final class SimulationFarm: Sendable {
    struct Failure: Sendable {
        var failure: SimulationFailure
        var settings: SimulationSettings

        /// The line that runs it again.
        var reproduce: String {
            var line = "bifrost simulate --seed \(failure.seed)"
            if settings.profile != .safety { line += " --profile \(settings.profile.rawValue)" }
            if settings.seconds != SimulationSettings.secondsStandard { line += " --seconds \(settings.seconds)" }
            return line + " --trace"
        }

        var text: String { "violation of \(failure)\nreproduce: \(reproduce)" }
    }

    struct Result: Sendable {
        var report = SimulationReport()
        var failure: Failure?
        var elapsedSeconds = 0.0
        var processorSeconds = 0.0
        var seedsPlanned: UInt64 = 0
    }

    private struct State {
        var plan: SimulationPlan
        var children: [ChildProcess] = []
        var result = Result()
        var isStopped = false
        var shownWidth = 0
    }

    private let jobs: Int
    /// Behind which no seeds of the range begin.
    private let budgetSeconds: Double
    private let isProgressShown: Bool
    private let isTerminal = Output.isErrorTerminal
    private let state: Mutex<State>
    private let began = RPCClock.now()

    /// - Parameter budget: behind which no seeds of the plan's range begin; nil: there is none.
    init(_ plan: SimulationPlan, jobs: Int, budget: Duration? = nil, isProgressShown: Bool) {
        state = Mutex(State(plan: plan))
        self.jobs = jobs
        budgetSeconds = budget.map { $0 / .seconds(1) } ?? .infinity
        self.isProgressShown = isProgressShown
    }

    private var elapsedSeconds: Double { Double(RPCClock.now().since(began)) / 1e9 }

    /// What is known so far, for one who can't wait for the end.
    var resultSoFar: Result {
        state.withLock { state in
            var result = state.result
            result.elapsedSeconds = elapsedSeconds
            result.seedsPlanned = state.plan.seedCount
            return result
        }
    }

    func run() async throws -> Result {
        let ticker = Task { [self] in
            guard isProgressShown else { return }
            while !Task.isCancelled {
                try await Task.sleep(for: .milliseconds(isTerminal ? 200 : 10_000))
                showProgress(isLast: false)
            }
        }
        defer { ticker.cancel() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<jobs {
                group.addTask { [self] in
                    while let batch = state.withLock({
                        $0.isStopped ? nil : $0.plan.next(isTimeOver: elapsedSeconds >= budgetSeconds)
                    }) {
                        try await run(batch)
                    }
                }
            }
            try await group.waitForAll()
        }
        if isProgressShown { showProgress(isLast: true) }
        return resultSoFar
    }

    /// What one process has said so far.
    private final class Listener: Sendable {
        struct State {
            var rest: [UInt8] = []
            var seed: UInt64?
            var lastEvents: [String] = []
            var failure: SimulationFailure?
            var problem: String?
        }
        let state = Mutex(State())
    }

    private func run(_ batch: SimulationBatch) async throws {
        let listener = Listener()
        let child: ChildProcess
        do throws(ChildProcess.Failure) {
            child = try ChildProcess(
                Self.executable,
                [
                    "simulate", "--worker", "--seeds", "\(batch.seeds.lowerBound)..\(batch.seeds.upperBound)",
                    "--profile", batch.settings.profile.rawValue, "--seconds", "\(batch.settings.seconds)",
                ],
                environment: Self.environment, input: .lifeline,
                output: .streamed { [self] bytes in hear(bytes, listener) })
        } catch {
            throw ToolError(.fault, error.description)
        }
        let isStopped = state.withLock { state in
            state.children.append(child)
            return state.isStopped
        }
        if isStopped { child.send(SIGKILL) }
        let end = await child.end()
        let (failure, seed, lastEvents, problem) = listener.state.withLock {
            ($0.failure, $0.seed, $0.lastEvents, $0.problem)
        }
        try state.withLock { state in
            state.children.removeAll { $0 === child }
            state.result.processorSeconds += end.processorSeconds
            guard !state.isStopped else { return }
            if let problem { throw ToolError(.fault, problem) }
            if let failure {
                state.result.failure = Failure(failure: failure, settings: batch.settings)
            } else if end.ending != .exit(0) {
                guard let seed else {
                    throw ToolError(.fault, "a simulating process ended with \(end.ending): \(end.errorText)")
                }
                if case .signal(let number) = end.ending, !SimulationWorker.traps.contains(number) {
                    // Somebody ended it: that says nothing of the run.
                    throw ToolError(
                        .fault,
                        "a simulating process was ended by signal \(number) while it ran seed \(seed), which is not "
                            + "judged; if nobody did that, the machine may have run out of memory")
                }
                let words = end.errorText.split(separator: "\n").first { $0.contains("rror:") }
                state.result.failure = Failure(
                    failure: SimulationFailure(
                        seed: seed, invariant: "no trap", detail: "\(end.ending): \(words ?? "no message")",
                        lastEvents: lastEvents),
                    settings: batch.settings)
            } else {
                return
            }
            state.isStopped = true
            for child in state.children { child.send(SIGKILL) }
        }
    }

    private static let executable = "/proc/self/exe"
    /// Without the backtrace that Swift's runtime prints at a trap, which takes longer than a run.
    /// Nor with settings of the command line that these processes are no part of.
    private static let environment = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("BIFROST_") }
        .merging(["SWIFT_BACKTRACE": "enable=no"], uniquingKeysWith: { $1 })

    private func hear(_ bytes: [UInt8], _ listener: Listener) {
        let reports = listener.state.withLock { heard -> [SimulationReport] in
            heard.rest += bytes
            var reports: [SimulationReport] = []
            while let end = heard.rest.firstIndex(of: 10) {
                let line = String(decoding: heard.rest[..<end], as: UTF8.self)
                heard.rest.removeSubrange(...end)
                let word = line.prefix { $0 != " " }
                let rest = String(line.dropFirst(word.count + 1))
                do {
                    switch String(word) {
                    case SimulationWorkerLine.begin: heard.seed = UInt64(rest)
                    case SimulationWorkerLine.done:
                        reports.append(try JSONDecoder().decode(SimulationReport.self, from: Data(rest.utf8)))
                    case SimulationWorkerLine.violation:
                        heard.failure = try JSONDecoder().decode(SimulationFailure.self, from: Data(rest.utf8))
                    case SimulationWorkerLine.event: heard.lastEvents.append(rest)
                    default: heard.problem = "a simulating process said '\(line)'"
                    }
                } catch {
                    heard.problem = "a simulating process said '\(line)': \(error)"
                }
            }
            return reports
        }
        state.withLock { state in for report in reports { state.result.report.add(report) } }
    }

    private func showProgress(isLast: Bool) {
        let elapsed = elapsedSeconds
        let text = state.withLock { state -> String in
            let report = state.result.report
            let done = UInt64(report.seeds)
            var line = "simulate  \(HumanText.grouped(done)) of \(HumanText.grouped(state.plan.seedCount)) seeds"
            line += "  \(HumanText.grouped(UInt64(report.busySeconds))) simulated s"
            line += "  \(HumanText.fixed(Double(report.busySeconds) / max(elapsed, 0.001), 0))/s"
            line += "  \(HumanText.grouped(UInt64(report.operations))) operations"
            if isLast || done == 0 {
                line += "  in \(HumanText.clock(seconds: UInt64(elapsed)))"
            } else {
                let all = elapsed * Double(state.plan.seedCount - min(done, state.plan.seedCount)) / Double(done)
                let left = min(all, max(0, budgetSeconds - elapsed))
                line += "  ETA \(HumanText.clock(seconds: UInt64(left.rounded(.up))))"
            }
            guard isTerminal else { return line + "\n" }
            let blanks = String(repeating: " ", count: max(0, state.shownWidth - line.count))
            state.shownWidth = line.count
            return "\r\(line)\(blanks)\(isLast ? "\n" : "")"
        }
        Output.error(text)
    }
}
