// How the data service answers: with a result, or with a refusal that says whether the operation may have happened.

public import Primitives

/// Why there is no result.
///
/// Numbers on the wire: 1 notLeader, 2 moved, 3 overloaded, 4 noQuorum, 5 outcomeUnknown, 6 invalid, 7 tooLarge,
/// 8 unknownGroup, 9 unavailable, 11 sessionExpired, 13 compacted, 14 quotaExceeded, 16 answerNotKept, 17 guardFailed. Kept for later:
/// 10 notYet, 12 conditionFailed, 15 unauthorized. A number that this version does not know fails to decode; the caller then takes
/// a command's outcome for unknown.
public enum Refusal: Error, Hashable, Sendable {
    /// Not proposed. `leader` is where to go, 0 if this host does not know; `term` tells older hints from newer ones.
    case notLeader(leader: HostID, term: Term)
    /// Not proposed: since `epoch` the slot belongs to `group`.
    case moved(group: GroupID, epoch: Epoch)
    /// Not proposed: queues are full.
    case overloaded(retryAfterMillis: UInt32)
    /// Certainly not applied: the group has no leader, or the leader could not reach a majority and never proposed it.
    case noQuorum
    /// Proposed, and this host can't say what became of it.
    case outcomeUnknown
    /// Not proposed; it never will be, as it stands.
    case invalid(String)
    /// Not proposed: over a limit, which the text names.
    case tooLarge(String)
    /// Not proposed: the host has no replica of this group.
    case unknownGroup
    /// Not proposed: the replica or the host is stopping, stopped or damaged, as the text says.
    case unavailable(String)
    /// Not applied: there is no such session (any more).
    case sessionExpired
    /// Of a watch: changes behind its revision are not kept any more here, or never were; those behind `oldest` are.
    case compacted(oldest: Revision)
    /// Not applied: it would make more of something than there may be, as the text says.
    case quotaExceeded(String)
    /// Applied when it came first, in this entry and at this revision; its answer was too large to be kept.
    case answerNotKept(index: LogIndex, revision: Revision)
    /// Not applied: nobody has the fencing token (any more), or what it was to guard has seen the token `highest`. 0: that is
    /// not known.
    case guardFailed(highest: UInt64)

    /// The command may have been applied, now or later.
    public var mayHaveHappened: Bool {
        switch self {
        case .outcomeUnknown, .answerNotKept: true
        default: false
        }
    }

    /// Another attempt, perhaps elsewhere or later, may succeed and can't apply the command twice.
    public var isRetrySafe: Bool {
        switch self {
        case .notLeader, .moved, .overloaded, .noQuorum, .unknownGroup, .unavailable: true
        case .outcomeUnknown, .invalid, .tooLarge, .sessionExpired, .compacted, .quotaExceeded, .answerNotKept,
            .guardFailed:
            false
        }
    }
}

extension Refusal: CustomStringConvertible {
    public var description: String {
        switch self {
        case .notLeader(let leader, let term):
            leader.rawValue == 0
                ? "not the leader in term \(term), and it is unknown"
                : "not the leader in term \(term): host \(leader) is"
        case .moved(let group, let epoch): "the slot moved to group \(group) at epoch \(epoch)"
        case .overloaded(let millis): "overloaded; try again after \(millis) ms"
        case .noQuorum: "no majority of the group's replicas answers; nothing was written"
        case .outcomeUnknown: "the outcome is unknown: the command may or may not have been applied"
        case .sessionExpired: "the session is not there (any more)"
        case .compacted(let oldest): "changes behind that revision are not kept any more: those behind \(oldest) are"
        case .quotaExceeded(let text): "over a quota: \(text)"
        case .answerNotKept(let index, let revision):
            "applied before, in entry \(index) at revision \(revision); its answer was too large to be kept"
        case .guardFailed(0): "the fencing token is held no more: the lock was lost"
        case .guardFailed(let highest): "the fencing token is over: the lock was granted again, with token \(highest)"
        case .invalid(let text): "invalid: \(text)"
        case .tooLarge(let text): "too large: \(text)"
        case .unknownGroup: "the host has no replica of this group"
        case .unavailable(let text): "unavailable: \(text)"
        }
    }
}

/// A result, or why there is none: `outcome u8`, 0 and the result's encoding, or the refusal's number and fields.
public enum Response<Result: Message>: Message {
    case done(Result)
    case refused(Refusal)

    @inlinable public func encode(into writer: inout ByteWriter) {
        switch self {
        case .done(let result):
            writer.write(0 as UInt8)
            result.encode(into: &writer)
        case .refused(let refusal): refusal.encode(into: &writer)
        }
    }

    @inlinable public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let outcome = try reader.read(UInt8.self)
        if outcome == 0 {
            self = .done(try Result(from: &reader))
        } else {
            self = .refused(try Refusal(outcome: outcome, from: &reader))
        }
    }
}

extension Refusal: Message {
    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .notLeader(let leader, let term):
            writer.write(1 as UInt8)
            writer.write(leader)
            writer.write(term)
        case .moved(let group, let epoch):
            writer.write(2 as UInt8)
            writer.write(group)
            writer.write(epoch)
        case .overloaded(let millis):
            writer.write(3 as UInt8)
            writer.write(millis)
        case .noQuorum: writer.write(4 as UInt8)
        case .outcomeUnknown: writer.write(5 as UInt8)
        case .invalid(let text):
            writer.write(6 as UInt8)
            writer.write(text: text)
        case .tooLarge(let text):
            writer.write(7 as UInt8)
            writer.write(text: text)
        case .unknownGroup: writer.write(8 as UInt8)
        case .unavailable(let text):
            writer.write(9 as UInt8)
            writer.write(text: text)
        case .sessionExpired: writer.write(11 as UInt8)
        case .compacted(let oldest):
            writer.write(13 as UInt8)
            writer.write(oldest)
        case .quotaExceeded(let text):
            writer.write(14 as UInt8)
            writer.write(text: text)
        case .answerNotKept(let index, let revision):
            writer.write(16 as UInt8)
            writer.write(index)
            writer.write(revision)
        case .guardFailed(let highest):
            writer.write(17 as UInt8)
            writer.write(highest)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try self.init(outcome: reader.read(UInt8.self), from: &reader)
    }

    @usableFromInline init(outcome: UInt8, from reader: inout ByteReader) throws(DecodingFailure) {
        switch outcome {
        case 1: self = .notLeader(leader: try reader.read(), term: try reader.read())
        case 2: self = .moved(group: try reader.read(), epoch: try reader.read())
        case 3: self = .overloaded(retryAfterMillis: try reader.read())
        case 4: self = .noQuorum
        case 5: self = .outcomeUnknown
        case 6: self = .invalid(try reader.readText())
        case 7: self = .tooLarge(try reader.readText())
        case 8: self = .unknownGroup
        case 9: self = .unavailable(try reader.readText())
        case 11: self = .sessionExpired
        case 13: self = .compacted(oldest: try reader.read())
        case 14: self = .quotaExceeded(try reader.readText())
        case 16: self = .answerNotKept(index: try reader.read(), revision: try reader.read())
        case 17: self = .guardFailed(highest: try reader.read())
        default: throw DecodingFailure(expected: "an outcome", found: "\(outcome)")
        }
    }
}
