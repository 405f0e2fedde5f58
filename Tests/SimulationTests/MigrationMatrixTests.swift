// The crash matrix of migrations: whoever may be lost between two steps, lost there, in every way. `BIFROST_CELLS=A..B` runs
// those of its cells by number, one after the other, and `BIFROST_TRACE=1` prints each event of them.

import BifrostSimulator
import Glibc
import TestSupport
import Testing

private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// Of the cells to run, by number; nil: all.
private let chosenCells: ClosedRange<Int>? = {
    guard let text = environment("BIFROST_CELLS") else { return nil }
    let ends = text.split(separator: ".").compactMap { Int($0) }
    return ends.count == 2 && ends[0] <= ends[1] ? ends[0]...ends[1] : nil
}()

// On a thread of its own, as simulations of seeds.
@Suite(.serialized, .ownExecutor) struct MigrationMatrixTests {
    /// Each moment, with all that may happen then: no rule is broken, and the moment comes.
    @Test(arguments: MigrationPoint.allCases)
    func nothingIsLostAt(_ point: MigrationPoint) {
        var report = MigrationMatrixReport()
        for (number, cell) in MigrationMatrix.cells.enumerated()
        where cell.point == point && chosenCells?.contains(number) ?? true {
            if chosenCells != nil { print("cell \(number): \(cell)") }
            let came = run(cell)
            report.add(came)
            guard let failure = came.failure else { continue }
            Issue.record(
                """
                cell \(number), \(cell): \(failure)
                reproduce: BIFROST_CELLS=\(number)..\(number) Tools/test --filter SimulationTests.MigrationMatrixTests
                """)
            return
        }
        guard chosenCells == nil else { return }
        #expect(report.wronglyMissed.isEmpty, "the moment never came in \(report.wronglyMissed)")
        #expect(report.cells > 0 && report.acknowledged > 50 * report.cells, "too little happened to show anything")
        // Before the decision some are called off, and lost pages end others; behind it none is.
        #expect(report.done > 0 || !MigrationPoint.allCases.prefix(19).contains(point))
        // Only a source that is not frozen yet, or whose freeze the target has not heard of, can lose time.
        #expect(report.lostTime == 0 || point.rawValue < MigrationPoint.sealed.rawValue)
        // What the simulator itself holds up is rare, and excuses nothing else.
        #expect(report.heldUp <= 1)
        print(
            "\(point.name): \(report.cells) cells, \(report.done) moved, \(report.aborted) called off, "
                + "\(report.lostTime) of them as the source stood still, "
                + "\(report.ledBehindSnapshot) led by who got a state, \(report.nanoseconds / 1_000_000_000) s")
    }

    private func run(_ cell: MigrationCell) -> MigrationCellReport {
        guard environment("BIFROST_TRACE") != nil else { return MigrationMatrix.run(cell) }
        return MigrationMatrix.run(cell) { print($0) }
    }

    /// All of it: each moment, each one who may be lost, and each way; each trouble at each moment.
    @Test func theMatrixIsWhole() {
        let cells = MigrationMatrix.cells
        #expect(Set(cells).count == cells.count)
        for point in MigrationPoint.allCases {
            for actor in MigrationActor.allCases where actor != .nobody {
                #expect(cells.contains { $0.point == point && $0.actor == actor }, "\(point.name), \(actor.name)")
            }
        }
        let moments = MigrationPoint.allCases.prefix { $0 != .aborting }
        for point in moments {
            for loss in MigrationLoss.allCases {
                let actors = cells.filter { $0.point == point && $0.loss == loss && $0.trouble == .none }.map(\.actor)
                #expect(Set(actors).count == MigrationActor.allCases.count - 1, "\(point.name), \(loss.name)")
            }
            for trouble in MigrationTrouble.allCases
            where ![.none, .lostRecord, .standstill].contains(trouble) {
                #expect(cells.contains { $0.point == point && $0.trouble == trouble }, "\(point.name), \(trouble.name)")
            }
        }
    }

    /// A source whose log time stands still for seconds between the beginning and the freeze: what ends in time does not go
    /// with its slots then, and the rest does.
    @Test func whatEndsDoesNotFollowASourceThatStoodStill() {
        let points: [MigrationPoint] = [.importing, .firstPage, .middlePage, .lastPage]
        var (lost, done) = (0, 0)
        for point in points {
            let cells = MigrationMatrix.cells.filter { $0.trouble == .standstill && $0.point == point }
            #expect(Set(cells.map(\.hasEnds)) == [true, false], "\(point.name)")
            for cell in cells {
                let report = MigrationMatrix.run(cell)
                #expect(report.failure == nil, "\(cell): \(report.failure.map { "\($0)" } ?? "")")
                #expect(report.isDone != report.hasLostTime, "\(cell)")
                if !cell.hasEnds { #expect(report.isDone, "\(cell)") }
                lost += report.hasLostTime ? 1 : 0
                done += report.isDone ? 1 : 0
            }
        }
        #expect(lost > 0 && done >= 2 * points.count, "\(lost) called off, \(done) moved")
    }

    /// Where nothing else goes wrong than that the source's leader is lost before the freeze is known, there are cells that may
    /// be called off for it, and such as may not.
    @Test func someCellsHaveNothingThatEnds() {
        let cells = MigrationMatrix.cells.filter { $0.trouble == .none && $0.actor.hasSource && $0.abortedAt == nil }
        for point in MigrationPoint.allCases.prefix(while: { $0 != .sealed }) {
            #expect(Set(cells.filter { $0.point == point }.map(\.hasEnds)) == [true, false], "\(point.name)")
        }
        for cell in cells where cell.point.rawValue >= MigrationPoint.sealed.rawValue { #expect(cell.hasEnds) }
    }

    @Test func sameCellSameTrace() {
        for number in stride(from: 3, to: MigrationMatrix.cells.count, by: 211) {
            let cell = MigrationMatrix.cells[number]
            #expect(MigrationMatrix.run(cell).traceHash == MigrationMatrix.run(cell).traceHash, "\(cell)")
        }
    }
}
