// One process of a simulation: runs seeds one after the other and says on standard output what came of each. A trap in
// production code ends it, and its last words are the last events.

import BifrostSimulator
import Foundation
import Glibc

/// What a worker says, a line each: a word, a space, the rest.
enum SimulationWorkerLine {
    static let begin = "begin"
    static let done = "done"
    static let violation = "violation"
    /// One of the last events, from a signal handler.
    static let event = "event"
}

enum SimulationWorker {
    // Written before a run begins, by the one thread that simulates; read by its signal handler.
    /// Of the run under way.
    nonisolated(unsafe) private static var lastEvents: SimulationLastEvents?

    static func run(_ seeds: ClosedRange<UInt64>, _ settings: SimulationSettings) throws {
        endWithParent()
        for seed in seeds {
            let cluster = SimulatedCluster(seed: seed, settings: settings)
            reportTraps(of: cluster)
            try Output.line("\(SimulationWorkerLine.begin) \(seed)")
            switch Result(catching: { () throws(SimulationFailure) in try cluster.runAndCheck() }) {
            case .success(let report):
                try Output.line("\(SimulationWorkerLine.done) \(try Output.jsonText(report))")
            case .failure(let failure):
                try Output.line("\(SimulationWorkerLine.violation) \(try Output.jsonText(failure))")
                return
            }
        }
    }

    /// Who started this process holds the other end of its standard input, and lets go of it when it ends, however that
    /// happens.
    private static func endWithParent() {
        Thread.detachNewThread {
            var byte: UInt8 = 0
            while true {
                let count = read(STDIN_FILENO, &byte, 1)
                if count < 0, errno == EINTR { continue }
                if count <= 0 { _exit(0) }
            }
        }
    }

    /// Signals that end a process for what it did itself.
    static let traps = [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGBUS, SIGFPE]

    /// From now on a trap says the last events of this cluster before it ends the process.
    static func reportTraps(of cluster: SimulatedCluster) {
        lastEvents = cluster.lastEvents
        for trap in traps {
            signal(trap) { number in
                SimulationWorker.lastEvents?.forEachLine { line in
                    SimulationWorker.write("event ")
                    _ = Glibc.write(STDOUT_FILENO, line.baseAddress, line.count)
                    SimulationWorker.write("\n")
                }
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    /// Allocates nothing.
    private static func write(_ text: StaticString) {
        _ = Glibc.write(STDOUT_FILENO, text.utf8Start, text.utf8CodeUnitCount)
    }
}
