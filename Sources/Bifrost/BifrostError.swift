// The one error that users of Bifrost see. Owns the words; who decides what happened is `ClientCore`.

import ClientCore
import Messages
public import Primitives
import RPC

/// Why an operation has no result. Equal by code.
public struct BifrostError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What went wrong, for programs. More will come: a `switch` needs a `default`.
    public struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }
        public var description: String { rawValue }

        /// The command was sent and may or may not take effect, now or later. Read before you repeat it.
        public static let outcomeUnknown = Code(rawValue: "outcomeUnknown")
        /// No answer within the time given; nothing was changed.
        public static let deadlineExceeded = Code(rawValue: "deadlineExceeded")
        /// The group has no leader that a majority of its replicas follows; nothing was changed.
        public static let noQuorum = Code(rawValue: "noQuorum")
        /// No host that could answer can be reached; nothing was changed.
        public static let unreachable = Code(rawValue: "unreachable")
        /// The hosts run, but belong to no cluster yet.
        public static let notInitialised = Code(rawValue: "notInitialised")
        /// A bound was reached, here or at the hosts; nothing was changed. `retryAfter` may say when to come back.
        public static let overloaded = Code(rawValue: "overloaded")
        /// The host is stopping or damaged; nothing was changed.
        public static let unavailable = Code(rawValue: "unavailable")
        /// A key or value is longer than `Limits` allow; nothing was changed.
        public static let tooLarge = Code(rawValue: "tooLarge")
        /// A condition did not hold; nothing was changed. The cause is a `ConditionFailure`.
        public static let conditionFailed = Code(rawValue: "conditionFailed")
        /// A user's state machine says that it can't be done; nothing was changed. The cause is a `MachineFailure`.
        public static let machineFailed = Code(rawValue: "machineFailed")
        /// What was had (a lock, a lease, leadership) is lost: its time or its session is over, or it was given back. Of a
        /// guarded command: its fencing token is over, and nothing was changed.
        public static let lockLost = Code(rawValue: "lockLost")
        /// The request is wrong as it stands; nothing was changed.
        public static let invalid = Code(rawValue: "invalid")
        /// Of a watch: changes behind its revision are not kept any more, or were lost; begin with a snapshot. The cause
        /// is a `CompactedFailure`.
        public static let compacted = Code(rawValue: "compacted")
        /// The task was cancelled before the operation was sent, or it was a read; nothing was changed.
        public static let cancelled = Code(rawValue: "cancelled")
        /// `Cluster.close` was called; nothing was changed.
        public static let closed = Code(rawValue: "closed")
        /// A directory can't be opened: another has it open, it is of a host of another cluster, damaged or newer. The cause
        /// says so, too (a `HostError`).
        public static let directory = Code(rawValue: "directory")
        /// A host answered what this version can't read.
        public static let malformedAnswer = Code(rawValue: "malformedAnswer")
    }

    /// Where it went wrong, as far as that is known.
    public struct Place: Hashable, Sendable {
        public var group: GroupID?
        public var host: HostID?
        public init(group: GroupID? = nil, host: HostID? = nil) {
            self.group = group
            self.host = host
        }
    }

    public var code: Code
    /// What was expected, what came, and what to do.
    public var message: String
    public var cause: (any Error)?
    public var place: Place
    /// The command may have taken effect, or may yet. False is a promise that it did not and will not.
    public var mayHaveHappened: Bool
    /// When a retry has a chance; nil if nobody said.
    public var retryAfter: Duration?

    public init(
        _ code: Code, _ message: String, cause: (any Error)? = nil, place: Place = Place(),
        mayHaveHappened: Bool = false,
        retryAfter: Duration? = nil
    ) {
        self.code = code
        self.message = message
        self.cause = cause
        self.place = place
        self.mayHaveHappened = mayHaveHappened
        self.retryAfter = retryAfter
    }

    /// The same operation may be submitted again without the danger of applying it twice, and may succeed then.
    public var isRetrySafe: Bool {
        guard !mayHaveHappened else { return false }
        switch code {
        case .deadlineExceeded, .noQuorum, .unreachable, .notInitialised, .overloaded, .unavailable, .cancelled:
            return true
        default: return false
        }
    }

    public static func == (left: BifrostError, right: BifrostError) -> Bool { left.code == right.code }
    public func hash(into hasher: inout Hasher) { hasher.combine(code) }
    public var description: String { "\(code): \(message)" }
}

/// Why a watch can't go on from where it was.
public struct CompactedFailure: Error, Hashable, Sendable {
    /// The group's leader has the changes behind this revision.
    public var oldest: Revision
}

extension BifrostError {
    init(_ failure: OperationFailure) {
        let code: Code =
            switch failure.code {
            case .outcomeUnknown: .outcomeUnknown
            case .deadlineExceeded: .deadlineExceeded
            case .noQuorum: .noQuorum
            case .unreachable: .unreachable
            case .notInitialised: .notInitialised
            case .overloaded: .overloaded
            case .invalid: .invalid
            case .tooLarge: .tooLarge
            case .unavailable: .unavailable
            case .compacted: .compacted
            case .cancelled: .cancelled
            case .closed: .closed
            case .lockLost: .lockLost
            }
        let milliseconds = failure.retryAfterMilliseconds
        self.init(
            code, failure.message, cause: failure.oldest.map { CompactedFailure(oldest: $0) } ?? failure,
            place: Place(group: failure.group, host: failure.host),
            mayHaveHappened: failure.mayHaveHappened, retryAfter: milliseconds > 0 ? .milliseconds(milliseconds) : nil)
    }

    /// A refusal by the client's own check: the text is the host's, as the check is the same.
    init(_ refusal: Refusal) {
        switch refusal {
        case .tooLarge(let text): self.init(.tooLarge, text)
        case .invalid(let text): self.init(.invalid, text)
        default: self.init(.unavailable, refusal.description, mayHaveHappened: refusal.mayHaveHappened)
        }
    }

    /// Of a question to one host that is not routed.
    init(_ error: RPCError, host: HostID) {
        let code: Code =
            switch error.code {
            case .deadlineExceeded: .deadlineExceeded
            case .notConnected, .connectionLost, .connectFailed, .connectRefused, .handshakeTimeout: .unreachable
            case .overloaded: .overloaded
            case .cancelled: .cancelled
            case .closed: .closed
            case .unknownMethod, .unknownService, .invalid, .tooLarge: .invalid
            default: .unavailable
            }
        self.init(code, error.message, cause: error, place: Place(host: host))
    }

    init(malformed failure: DecodingFailure, place: Place = Place(), mayHaveHappened: Bool = false) {
        self.init(
            mayHaveHappened ? .outcomeUnknown : .malformedAnswer, "the answer could not be read: \(failure)",
            cause: failure,
            place: place, mayHaveHappened: mayHaveHappened)
    }
}
