// `bifrost simulate --migration-matrix`: the crash matrix of migrations as a table. Owns the words; the cells and what they do
// are BifrostSimulator's.

import ArgumentParser
import BifrostSimulator
import Foundation
import Primitives
import RPC
import Synchronization

struct SimulatedMatrix {
    let jobs: Int
    /// By its number; nil: all.
    let cell: Int?
    let trace: Bool

    /// What is still to be run, and what came of the rest.
    private final class Board: Sendable {
        let state: Mutex<(next: Int, end: Int, report: MigrationMatrixReport, numbers: [Int])>
        init(_ range: Range<Int>) { state = Mutex((range.lowerBound, range.upperBound, MigrationMatrixReport(), [])) }

        /// nil: there is none, or a rule is broken.
        func next() -> Int? {
            state.withLock { state in
                guard state.next < state.end, state.report.failures.isEmpty else { return nil }
                state.next += 1
                return state.next - 1
            }
        }

        func took(_ report: MigrationCellReport, of number: Int) {
            state.withLock { state in
                state.report.add(report)
                if report.failure != nil { state.numbers.append(number) }
            }
        }
    }

    func run(_ common: CommonOptions) async throws {
        let cells = MigrationMatrix.cells
        if trace, let cell { return try traced(cells[cell]) }
        let began = RPCClock.now()
        let board = Board(cell.map { $0..<$0 + 1 } ?? 0..<cells.count)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<jobs {
                group.addTask {
                    while let number = board.next() { board.took(MigrationMatrix.run(cells[number]), of: number) }
                }
            }
        }
        let seconds = Double(RPCClock.now().since(began)) / 1e9
        let summary = board.state.withLock { MatrixSummary($0.report, failed: $0.numbers, elapsedSeconds: seconds) }
        for failure in summary.failures {
            Output.error(
                """
                violation in cell \(failure.number), \(failure.cell): \(failure.invariant): \(failure.detail)
                last events:
                  \(failure.lastEvents.joined(separator: "\n  "))
                reproduce: \(failure.reproduce)

                """)
        }
        if common.json { try Output.json(summary) } else { try Output.line(summary.text) }
        if summary.violations > 0 { throw Outcome(.negative) }
    }

    /// One cell in this process, as a transcript on standard output.
    private func traced(_ cell: MigrationCell) throws {
        var trouble: (any Error)?
        let report = MigrationMatrix.run(cell) { line in
            guard trouble == nil else { return }
            do { try Output.line(line) } catch { trouble = error }
        }
        if let trouble { throw trouble }
        guard let failure = report.failure else {
            return try Output.line("no violation; trace hash \(report.traceHash)")
        }
        try Output.line("violation: \(failure.invariant): \(failure.detail)")
        throw Outcome(.negative)
    }
}

/// What all cells came to.
struct MatrixSummary: Encodable {
    struct Failure: Encodable {
        var number: Int
        var cell: String
        var invariant: String
        var detail: String
        var lastEvents: [String]
        var reproduce: String
    }
    /// Of one moment.
    struct Row: Encodable {
        var step: String
        /// By who is lost.
        var actors: [String: MigrationMatrixReport.Place]
    }

    var cells: Int
    var violations: Int
    /// Migrations that came about, and that were called off.
    var moved: Int
    var calledOff: Int
    /// Of those: because a source's log time stood still, so that what ends in time would have ended early.
    var lostTime: Int
    /// Of those: because the simulator itself held up a store, which no real cluster does.
    var heldUp: Int
    /// Cells whose moment never came.
    var missed: Int
    var ledBehindSnapshot: Int
    var acknowledged: Int
    var virtualSeconds: Double
    var elapsedSeconds: Double
    var steps: [Row]
    var failures: [Failure]

    init(_ report: MigrationMatrixReport, failed: [Int], elapsedSeconds: Double) {
        cells = report.cells
        violations = report.failures.count
        moved = report.done
        calledOff = report.aborted
        lostTime = report.lostTime
        heldUp = report.heldUp
        missed = report.missed.count
        ledBehindSnapshot = report.ledBehindSnapshot
        acknowledged = report.acknowledged
        virtualSeconds = Double(report.nanoseconds) / 1e9
        self.elapsedSeconds = elapsedSeconds
        steps = MigrationPoint.allCases.map { point in
            Row(
                step: point.name,
                actors: Dictionary(
                    uniqueKeysWithValues: MigrationActor.allCases.map {
                        ($0.name, report.places[point.rawValue][$0.rawValue])
                    }))
        }
        failures = zip(report.failures, failed).compactMap { came, number in
            came.failure.map {
                Failure(
                    number: number, cell: "\(came.cell)", invariant: $0.invariant, detail: $0.detail,
                    lastEvents: $0.lastEvents,
                    reproduce: "bifrost simulate --migration-matrix --cell \(number) --trace")
            }
        }
    }

    var text: String {
        var table = Table([("step", .left)] + MigrationActor.allCases.map { ($0.name, .right) })
        for row in steps {
            table.add(
                [row.step]
                    + MigrationActor.allCases.map { actor in
                        guard let place = row.actors[actor.name], place.cells > 0 else { return "" }
                        return place.failures > 0 ? "\(place.cells) FAILED" : "\(place.cells)"
                    })
        }
        func grouped(_ number: Int) -> String { HumanText.grouped(UInt64(max(0, number))) }
        return """
            \(table.text)

            \(HumanText.count(cells, "cell")), \(violations == 0 ? "no violation" : "\(violations) VIOLATED")
            \(grouped(moved)) migrations came about, \(grouped(calledOff)) were called off, \
            \(grouped(lostTime)) of them because a source's log time stood still, \
            \(grouped(heldUp)) of these as the simulator held up its store; in \
            \(HumanText.count(missed, "cell")) the moment never came
            \(grouped(acknowledged)) operations acknowledged in \(grouped(Int(virtualSeconds))) virtual seconds, \
            \(HumanText.fixed(elapsedSeconds, 0)) s
            """
    }
}
