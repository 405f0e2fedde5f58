// How commands end: exit codes, and the one line that says why.

import Bifrost
import BifrostHost
import Messages
import RPC
import Recovery
import Ring
import SnapshotFiles
import Storage

/// The exit codes that the root's help promises. Scripts rely on them: a number never changes its meaning.
package enum ExitStatus: Int32 {
    case done = 0
    case negative = 1
    case outcomeUnknown = 2
    case degraded = 3
    case unavailable = 4
    case diskFailed = 5
    case inProgress = 6
    case stale = 7
    case blocked = 8
    case usage = 64
    case badData = 65
    case cannotListen = 69
    case fault = 70
    case badDirectory = 73
    case fileTrouble = 74
    case lockLost = 75
    case interrupted = 130
    case outputClosed = 141
    case terminated = 143
}

/// An end that needs no words on standard error, because the result has them, or they were said in another form.
struct Outcome: Error {
    var status: ExitStatus
    /// What was said; empty: the result says it.
    var words: String

    init(_ status: ExitStatus, said words: String = "") {
        self.status = status
        self.words = words
    }
}

/// An end with a line on standard error: what was expected, what came, what to do. An empty message prints nothing.
package struct ToolError: Error {
    package var status: ExitStatus
    package var message: String

    package init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    /// The same when something was done before that can't be undone. A reader who went away is told nothing.
    func after(_ deed: String) -> ToolError {
        message.isEmpty ? self : ToolError(status, "\(deed), but this could not be reported: \(message)")
    }

    init(_ error: any Error) {
        switch error {
        case let error as ToolError: self = error
        case let error as BifrostError: self.init(error)
        case let error as HostError: self.init(error)
        case let error as RPCError: self.init(.unavailable, error.message)
        case let error as LocalCluster.Failure: self.init(error.status, error.description)
        case let error as DiskError: self.init(error)
        case let error as SnapshotError: self.init(.badData, "\(error)")
        case let error as SnapshotFileDamage: self.init(.badData, "\(error)")
        case let error as PlannerError: self.init(.usage, "\(error)")
        case let error as RecoveryError:
            self.init(error.code == .refused ? .negative : .badData, error.description)
        case is CancellationError: self.init(.unavailable, "interrupted before it was done")
        default: self.init(.fault, "an error that was not expected: \(error); please report it")
        }
    }

    init(_ error: BifrostError) {
        let status: ExitStatus =
            switch error.code {
            case .outcomeUnknown: .outcomeUnknown
            case .conditionFailed, .machineFailed, .overflow, .divisionByZero, .outOfBounds, .noIndex,
                .noElement:
                .negative
            case .tooLarge: .badData
            case .invalid: .usage
            case .malformedAnswer: .fault
            case .lockLost: .lockLost
            default: error.mayHaveHappened ? .outcomeUnknown : .unavailable
            }
        let hint = error.code == .unreachable ? "; is a host running there, and is --connect right?" : ""
        self.init(status, error.message + hint)
    }

    /// Of a store that a command itself writes or reads.
    init(_ error: DiskError) {
        let status: ExitStatus =
            switch error.code {
            case .full, .failed: .fileTrouble
            case .refused: .badDirectory
            case .corrupt: .badData
            case .misuse: .fault
            }
        self.init(status, "\(error)")
    }

    init(_ error: HostError) {
        let status: ExitStatus =
            switch error.code {
            case .directory: .badDirectory
            case .address: .cannotListen
            case .disk: .diskFailed
            case .exhausted: .fileTrouble
            case .invalid: .usage
            }
        self.init(status, error.message)
    }
}
