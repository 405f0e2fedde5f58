// Why an operation has no result, and whether it may have happened all the same.

public import Primitives

/// What went wrong, as a program asks for it.
public enum FailureCode: UInt8, Hashable, Sendable {
    /// The command was sent, and nobody knows whether it took effect.
    case outcomeUnknown
    /// No answer in time. Nothing happened.
    case deadlineExceeded
    /// The group has no leader that a majority follows. Nothing happened.
    case noQuorum
    /// No host that could answer has a connection. Nothing happened.
    case unreachable
    /// The hosts run, but belong to no cluster yet. Nothing happened.
    case notInitialised
    /// A bound was reached, here or at the host. Nothing happened.
    case overloaded
    /// The request itself is wrong. Nothing happened, and nothing will.
    case invalid
    /// Key or value above its limit. Nothing happened, and nothing will.
    case tooLarge
    /// The host can't serve this now (it stops, or its disk is damaged). Nothing happened.
    case unavailable
    /// Of a watch: changes behind its revision are not kept any more.
    case compacted
    /// Of a guarded command: its fencing token is over. Nothing happened.
    case lockLost
    /// The caller no longer wants it. Nothing happened.
    case cancelled
    /// The client was closed. Nothing happened.
    case closed
}

/// An operation's failure.
public struct OperationFailure: Error, Hashable, Sendable, CustomStringConvertible {
    public var code: FailureCode
    /// The command may have taken effect, or may yet. False is a promise that it did not and will not.
    public var mayHaveHappened: Bool
    /// What was expected, what came, what to do.
    public var message: String
    /// The group that it was for, once that was known.
    public var group: GroupID?
    /// The host that spoke last.
    public var host: HostID?
    /// After how many milliseconds a retry has a chance; 0 if nobody said.
    public var retryAfterMilliseconds: UInt32
    /// Of `compacted`: changes behind this revision are kept.
    public var oldest: Revision?

    public init(
        code: FailureCode, mayHaveHappened: Bool, message: String, group: GroupID? = nil, host: HostID? = nil,
        retryAfterMilliseconds: UInt32 = 0, oldest: Revision? = nil
    ) {
        self.code = code
        self.mayHaveHappened = mayHaveHappened
        self.message = message
        self.group = group
        self.host = host
        self.retryAfterMilliseconds = retryAfterMilliseconds
        self.oldest = oldest
    }

    public var description: String { message }
}

/// What an operation that is not in flight waits for, or waited for when its time was over.
enum WaitReason: UInt8 {
    case none, noMap, notInitialised, unreachable, notLeader, noQuorum, overloaded, moved, unknownGroup, unavailable
    case connectionLost, noAnswer, congested
}
