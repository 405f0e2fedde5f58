// The crash matrix of migrations: every moment between two steps, whoever may be lost there, how, and what else is
// wrong at that time. Owns which cells there are and what came of them; a cell's run is SimulatedMigration's.

import Primitives

/// A moment of a migration: something has just come about, and the next step has not.
package enum MigrationPoint: Int, CaseIterable, Codable, Sendable {
    /// The map has it.
    case created
    /// The source has begun to export, and the target to import.
    case exporting, importing
    /// The source has read a page that the target does not have.
    case pageRead
    /// The target has the first page; some of a round; all of its first round.
    case firstPage, middlePage, lastPage
    /// The source takes no commands.
    case frozen
    /// The target has all as of then.
    case lastRound
    case sealed
    /// The source has added up what it has, and the target has not heard of it.
    case compared
    /// The map has decided.
    case committed
    /// The source has released the slots, and the map knows.
    case released, releaseKnown
    /// The target serves them, and the map knows.
    case activated, activationKnown
    /// Some of what the source had is deleted; all of it.
    case clearing, cleared
    /// The map does not have it any more.
    case gone
    /// The map has decided against it.
    case aborting
    case sourceForgot, targetForgot
    /// Some of what the target had is deleted; all of it.
    case targetClearing, targetCleared

    package var name: String {
        switch self {
        case .created: "created"
        case .exporting: "beginExport"
        case .importing: "beginImport"
        case .pageRead: "page read"
        case .firstPage: "first page"
        case .middlePage: "between pages"
        case .lastPage: "round complete"
        case .frozen: "freeze"
        case .lastRound: "last round"
        case .sealed: "seal"
        case .compared: "digest"
        case .committed: "committed"
        case .released: "release"
        case .releaseKnown: "released"
        case .activated: "activate"
        case .activationKnown: "activated"
        case .clearing: "clear"
        case .cleared: "cleared"
        case .gone: "gone"
        case .aborting: "aborting"
        case .sourceForgot: "source forgets"
        case .targetForgot: "target forgets"
        case .targetClearing: "target clears"
        case .targetCleared: "target cleared"
        }
    }

    /// Of a migration that is not aborted, in order.
    static let ofMove = allCases.filter { $0.rawValue <= gone.rawValue }
    static let ofAbort: [MigrationPoint] = [
        .aborting, .sourceForgot, .targetForgot, .targetClearing, .targetCleared, .gone,
    ]
}

/// Who is lost.
package enum MigrationActor: Int, CaseIterable, Codable, Sendable {
    case nobody
    /// Who leads the meta group: who decides.
    case driver
    case source, target
    case driverAndSource, driverAndTarget, sourceAndTarget, all

    package var name: String {
        switch self {
        case .nobody: "nobody"
        case .driver: "driver"
        case .source: "source"
        case .target: "target"
        case .driverAndSource: "driver, source"
        case .driverAndTarget: "driver, target"
        case .sourceAndTarget: "source, target"
        case .all: "all three"
        }
    }

    var hasDriver: Bool { [.driver, .driverAndSource, .driverAndTarget, .all].contains(self) }
    package var hasSource: Bool { [.source, .driverAndSource, .sourceAndTarget, .all].contains(self) }
    var hasTarget: Bool { [.target, .driverAndTarget, .sourceAndTarget, .all].contains(self) }
}

/// How he is lost.
package enum MigrationLoss: Int, CaseIterable, Codable, Sendable {
    /// The process ends; what it wrote stays in the page cache.
    case killed
    /// The machine ends: what is not on its disks is gone.
    case powerLost
    /// The process stands still until others lead, and goes on as if nothing had been: there are two of him for a moment.
    case stopped
    /// He reaches no other host for a while, and hears none.
    case cutOff
    /// He hands over what he leads.
    case handedOver

    package var name: String {
        switch self {
        case .killed: "killed"
        case .powerLost: "power lost"
        case .stopped: "stopped"
        case .cutOff: "cut off"
        case .handedOver: "handed over"
        }
    }
}

/// What else is wrong.
package enum MigrationTrouble: Int, CaseIterable, Codable, Sendable {
    case none
    /// A client goes by the ring as it was.
    case oldRing
    /// Commands, pages and words of the migration come again, and clients' calls late.
    case late
    /// A member of the source, or the target, that was away for long comes back, gets a whole state, and is to lead.
    case sourceSnapshot, targetSnapshot
    /// The target's disk is full.
    case fullDisk
    /// It is called off, whether or not that comes in time.
    case abort
    /// The slots have moved before, and are on their way back.
    case back
    /// Somebody copies the states of both groups.
    case copied
    /// A page lacks a record: the digests tell.
    case lostRecord
    /// The source's members do not hear each other for some seconds, while the target's hear one of its own at least: nobody
    /// leads the source, and its log time stands still.
    case standstill

    package var name: String {
        switch self {
        case .none: "plain"
        case .oldRing: "old ring"
        case .late: "late and twice"
        case .sourceSnapshot: "source gets a state"
        case .targetSnapshot: "target gets a state"
        case .fullDisk: "target's disk full"
        case .abort: "called off"
        case .back: "moves back"
        case .copied: "states copied"
        case .lostRecord: "record lost"
        case .standstill: "source stands still"
        }
    }
}

/// One run of the matrix.
package struct MigrationCell: Hashable, Codable, Sendable, CustomStringConvertible {
    package var point: MigrationPoint
    package var actor: MigrationActor
    package var loss: MigrationLoss
    package var trouble = MigrationTrouble.none
    /// It is called off there, so that `point` is one of an abort's.
    package var abortedAt: MigrationPoint?

    package init(
        _ point: MigrationPoint, _ actor: MigrationActor, _ loss: MigrationLoss, _ trouble: MigrationTrouble = .none,
        abortedAt: MigrationPoint? = nil
    ) {
        (self.point, self.actor, self.loss) = (point, actor, loss)
        (self.trouble, self.abortedAt) = (trouble, abortedAt)
    }

    package var description: String {
        var text = "\(point.name): \(actor.name)"
        if actor != .nobody { text += " \(loss.name)" }
        if trouble != .none { text += ", \(trouble.name)" }
        if let abortedAt { text += ", called off at \(abortedAt.name)" }
        return text
    }

    /// All other chance in its run.
    package var seed: UInt64 {
        let numbers = [
            UInt64(point.rawValue), UInt64(actor.rawValue), UInt64(loss.rawValue), UInt64(trouble.rawValue),
            abortedAt.map { UInt64($0.rawValue) + 1 } ?? 0,
        ]
        return numbers.reduce(0x6d6f_7665) { mix($0 ^ mix($1 &+ 1)) }
    }

    /// Something that moves ends, or comes, at a time. Where the source's time may stand still until it is frozen, half of the
    /// cells have nothing of the kind: they go all the way, and the others may be called off.
    package var hasEnds: Bool {
        guard point.rawValue < MigrationPoint.sealed.rawValue else { return true }
        // Of those whose source stands still for certain each moment has both.
        if trouble == .standstill { return actor == .nobody || actor == .target }
        return !actor.hasSource || seed & 1 == 0
    }

    /// Whether what is asked for at one moment may come too late for the other: a race that either may win.
    var mayMiss: Bool { abortedAt == .sealed }
}

package enum MigrationMatrix {
    /// Every cell, in the order of points: all losses of all actors with nothing else wrong; each trouble with the loss of
    /// each one alone and of nobody; each step of an abort.
    package static let cells: [MigrationCell] = {
        var cells: [MigrationCell] = []
        var turn = 0
        /// Each cell that has one loss of several has the next one.
        func next() -> MigrationLoss {
            turn += 1
            return MigrationLoss.allCases[turn % MigrationLoss.allCases.count]
        }
        let single: [MigrationActor] = [.nobody, .driver, .source, .target]
        for point in MigrationPoint.ofMove {
            for actor in MigrationActor.allCases where actor != .nobody {
                for loss in MigrationLoss.allCases { cells.append(MigrationCell(point, actor, loss)) }
            }
            for trouble in MigrationTrouble.allCases where trouble != .none && trouble != .standstill {
                // Then there is no decision.
                if trouble == .lostRecord, point.rawValue > MigrationPoint.compared.rawValue { continue }
                for actor in single { cells.append(MigrationCell(point, actor, next(), trouble)) }
            }
            // Behind the seal the source's time does not matter.
            guard point.rawValue < MigrationPoint.sealed.rawValue else { continue }
            for actor in single { cells.append(MigrationCell(point, actor, .killed, .standstill)) }
        }
        for aborted in [MigrationPoint.middlePage, .frozen, .sealed] {
            for point in MigrationPoint.ofAbort {
                for actor in MigrationActor.allCases where actor != .nobody {
                    cells.append(MigrationCell(point, actor, next(), abortedAt: aborted))
                }
            }
        }
        return cells
    }()

    /// One cell, judged.
    ///
    /// - Parameter listener: is told each event as a line.
    package static func run(_ cell: MigrationCell, listener: ((String) -> Void)? = nil) -> MigrationCellReport {
        let cluster = SimulatedCluster(cell)
        cluster.listener = listener
        defer { cluster.end() }
        do throws(SimulationFailure) {
            return try cluster.runCell()
        } catch {
            return MigrationCellReport(cell: cell, failure: error)
        }
    }
}

/// What came of one cell.
package struct MigrationCellReport: Codable, Sendable {
    package var cell: MigrationCell
    package var failure: SimulationFailure?
    /// The moment came.
    package var isStruck = false
    /// The slots moved; else the migration was aborted, or there never was one.
    package var isDone = false
    /// It was called off because the source's log time stood still.
    package var hasLostTime = false
    /// And that because the simulator held up the store of who led the source.
    package var isHeldUp = false
    /// Who came back and got a whole state led his group at some time before the end.
    package var ledBehindSnapshot = false
    package var acknowledged = 0
    package var nanoseconds: UInt64 = 0
    package var traceHash: UInt64 = 0
}

/// What came of many.
package struct MigrationMatrixReport: Codable, Sendable {
    /// Of one point and one actor.
    package struct Place: Codable, Sendable {
        package var cells = 0
        package var done = 0
        package var aborted = 0
        package var missed = 0
        package var failures = 0
    }
    package private(set) var cells = 0
    package private(set) var done = 0
    package private(set) var aborted = 0
    /// Of those that were called off: because a source's log time stood still.
    package private(set) var lostTime = 0
    /// Of those: because the simulator held up a store.
    package private(set) var heldUp = 0
    /// Cells whose moment never came.
    package private(set) var missed: [MigrationCell] = []
    package private(set) var failures: [MigrationCellReport] = []
    package private(set) var acknowledged = 0
    package private(set) var ledBehindSnapshot = 0
    package private(set) var nanoseconds: UInt64 = 0
    /// By point, then by actor, as their numbers say.
    package private(set) var places = Array(
        repeating: Array(repeating: Place(), count: MigrationActor.allCases.count),
        count: MigrationPoint.allCases.count)

    package init() {}

    package mutating func add(_ report: MigrationCellReport) {
        let (point, actor) = (report.cell.point.rawValue, report.cell.actor.rawValue)
        cells += 1
        places[point][actor].cells += 1
        acknowledged += report.acknowledged
        nanoseconds += report.nanoseconds
        if report.ledBehindSnapshot { ledBehindSnapshot += 1 }
        guard report.failure == nil else {
            failures.append(report)
            places[point][actor].failures += 1
            return
        }
        if report.isDone {
            done += 1
            places[point][actor].done += 1
        } else {
            aborted += 1
            places[point][actor].aborted += 1
            if report.hasLostTime { lostTime += 1 }
            if report.isHeldUp { heldUp += 1 }
        }
        if !report.isStruck {
            missed.append(report.cell)
            places[point][actor].missed += 1
        }
    }

    /// The sum of both.
    package mutating func add(_ other: MigrationMatrixReport) {
        cells += other.cells
        done += other.done
        aborted += other.aborted
        lostTime += other.lostTime
        heldUp += other.heldUp
        missed += other.missed
        failures += other.failures
        acknowledged += other.acknowledged
        ledBehindSnapshot += other.ledBehindSnapshot
        nanoseconds += other.nanoseconds
        for point in places.indices {
            for actor in places[point].indices {
                places[point][actor].cells += other.places[point][actor].cells
                places[point][actor].done += other.places[point][actor].done
                places[point][actor].aborted += other.places[point][actor].aborted
                places[point][actor].missed += other.places[point][actor].missed
                places[point][actor].failures += other.places[point][actor].failures
            }
        }
    }

    /// Those whose moment had to come, and did not.
    package var wronglyMissed: [MigrationCell] { missed.filter { !$0.mayMiss } }
}
