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
    private static let seedsMax: UInt64 = 16

    static func batches(of seeds: ClosedRange<UInt64>, _ settings: SimulationSettings, jobs: Int) -> [SimulationBatch] {
        let total = seeds.upperBound - seeds.lowerBound + 1
        let size = max(1, min(seedsMax, total / UInt64(jobs * 4)))
        return stride(from: seeds.lowerBound, through: seeds.upperBound, by: Int(size)).map {
            SimulationBatch(seeds: $0...min(seeds.upperBound, $0 + size - 1), settings: settings)
        }
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
    }

    private struct State {
        var open: ArraySlice<SimulationBatch> = []
        var children: [ChildProcess] = []
        var result = Result()
        var isStopped = false
        var seedCount: UInt64 = 0
        var shownWidth = 0
    }

    private let jobs: Int
    private let isProgressShown: Bool
    private let isTerminal = Output.isErrorTerminal
    private let state = Mutex(State())
    private let began = RPCClock.now()

    init(jobs: Int, isProgressShown: Bool) {
        self.jobs = jobs
        self.isProgressShown = isProgressShown
    }

    private var elapsedSeconds: Double { Double(RPCClock.now().since(began)) / 1e9 }

    func run(_ batches: [SimulationBatch]) async throws -> Result {
        state.withLock { state in
            state.open = batches[...]
            for batch in batches { state.seedCount += batch.seeds.upperBound - batch.seeds.lowerBound + 1 }
        }
        let ticker = Task { [self] in
            guard isProgressShown else { return }
            while !Task.isCancelled {
                try await Task.sleep(for: .milliseconds(isTerminal ? 200 : 1_000))
                showProgress(isLast: false)
            }
        }
        defer { ticker.cancel() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<jobs {
                group.addTask { [self] in
                    while let batch = state.withLock({ $0.isStopped ? nil : $0.open.popFirst() }) {
                        try await run(batch)
                    }
                }
            }
            try await group.waitForAll()
        }
        if isProgressShown { showProgress(isLast: true) }
        return state.withLock { state in
            var result = state.result
            result.elapsedSeconds = elapsedSeconds
            return result
        }
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
    private static let environment = ProcessInfo.processInfo.environment.merging(
        ["SWIFT_BACKTRACE": "enable=no"], uniquingKeysWith: { $1 })

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
            var line = "simulate  \(HumanText.grouped(done)) of \(HumanText.grouped(state.seedCount)) seeds"
            line += "  \(HumanText.grouped(UInt64(report.busySeconds))) simulated s"
            line += "  \(HumanText.fixed(Double(report.busySeconds) / max(elapsed, 0.001), 0))/s"
            line += "  \(HumanText.grouped(UInt64(report.operations))) operations"
            if isLast || done == 0 {
                line += "  in \(HumanText.clock(seconds: UInt64(elapsed)))"
            } else {
                let left = elapsed * Double(state.seedCount - min(done, state.seedCount)) / Double(done)
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
