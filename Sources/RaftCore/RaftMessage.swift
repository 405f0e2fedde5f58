// What replicas of one group say to each other, and its bytes. Routing by group, framing and checksums are the host's.

public import Primitives

/// What a message is for. Numbers are stable; a kind that this version does not know is dropped and counted.
public struct RaftMessageKind: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Would you vote for me? (Raft thesis §9.6) `term` is the term that the sender would take; it has not taken it.
    public static let preVote = RaftMessageKind(rawValue: 1)
    public static let preVoteReply = RaftMessageKind(rawValue: 2)
    /// RequestVote (Raft paper, figure 2): `index` and `logTerm` are of the candidate's last entry. `context` is 1 when
    /// the leader itself asked for this election (see `timeoutNow`), else 0.
    public static let vote = RaftMessageKind(rawValue: 3)
    public static let voteReply = RaftMessageKind(rawValue: 4)
    /// AppendEntries: `entries` follow the entry at `index`, which has `logTerm`; `commit` is the leader's.
    public static let append = RaftMessageKind(rawValue: 5)
    /// `index` is the last that is durable here and known to match; with `reject` it is the `index` that did not match
    /// and (`hintIndex`, `hintTerm`) the last entry here that may. `commit` is the follower's.
    public static let appendReply = RaftMessageKind(rawValue: 6)
    /// `commit` is bounded by what is known to match; `context` is the newest round of read confirmation.
    public static let heartbeat = RaftMessageKind(rawValue: 7)
    /// Echoes `context`; `commit` is the follower's.
    public static let heartbeatReply = RaftMessageKind(rawValue: 8)
    /// A follower asks for a read index; `context` names its batch of reads.
    public static let readIndex = RaftMessageKind(rawValue: 9)
    /// Echoes `context`; `index` is the read index; `reject` when the receiver is no leader or has no room.
    public static let readIndexReply = RaftMessageKind(rawValue: 10)
    /// The leader hands over: stand for election at once (Raft thesis §3.10). `index` is the leader's last entry.
    public static let timeoutNow = RaftMessageKind(rawValue: 11)
    /// The configuration at `index`, which is committed, does not name the receiver. With `reject` the sender knows
    /// that an earlier committed one did. (`hintIndex`, `hintTerm`) is an entry before `index` that is committed: a
    /// receiver that has it knows that its own log is committed up to there.
    public static let removed = RaftMessageKind(rawValue: 12)

    public var description: String {
        switch self {
        case .preVote: "preVote"
        case .preVoteReply: "preVoteReply"
        case .vote: "vote"
        case .voteReply: "voteReply"
        case .append: "append"
        case .appendReply: "appendReply"
        case .heartbeat: "heartbeat"
        case .heartbeatReply: "heartbeatReply"
        case .readIndex: "readIndex"
        case .readIndexReply: "readIndexReply"
        case .timeoutNow: "timeoutNow"
        case .removed: "removed"
        default: "kind\(rawValue)"
        }
    }
}

/// One message from one replica to another of the same group. Fields that a kind does not use are zero.
public struct RaftMessage: Hashable, Sendable {
    public var kind: RaftMessageKind
    public var reject: Bool
    public var from: ReplicaID
    public var to: ReplicaID
    public var term: Term
    public var index: LogIndex
    public var logTerm: Term
    public var commit: LogIndex
    public var context: UInt64
    public var hintIndex: LogIndex
    public var hintTerm: Term
    /// Indexes are `index + 1`, `index + 2`, …
    public var entries: [LogEntry]

    public init(
        kind: RaftMessageKind, from: ReplicaID, to: ReplicaID, term: Term, index: LogIndex = .zero,
        logTerm: Term = .zero,
        commit: LogIndex = .zero, context: UInt64 = 0, reject: Bool = false, hintIndex: LogIndex = .zero,
        hintTerm: Term = .zero, entries: [LogEntry] = []
    ) {
        self.kind = kind
        self.reject = reject
        self.from = from
        self.to = to
        self.term = term
        self.index = index
        self.logTerm = logTerm
        self.commit = commit
        self.context = context
        self.hintIndex = hintIndex
        self.hintTerm = hintTerm
        self.entries = entries
    }

    /// A vote request whose candidate was sent by its leader: there is no leader to be loyal to.
    public var isByTransfer: Bool { kind == .vote && context == Self.transferContext }
    static let transferContext: UInt64 = 1
}

extension RaftMessage {
    /// Terms and indexes read from outside stay below this, so that no arithmetic on them can overflow.
    public static let numberMax: UInt64 = 1 << 62
    /// Bytes of a message before its entries, at most.
    public static let headerBytesMax = 80

    private static let rejectFlag: UInt8 = 1
    // One bit per field that is present; a field that is zero is left out.
    private static let termBit: UInt16 = 1
    private static let indexBit: UInt16 = 2
    private static let logTermBit: UInt16 = 4
    private static let commitBit: UInt16 = 8
    private static let contextBit: UInt16 = 16
    private static let hintIndexBit: UInt16 = 32
    private static let hintTermBit: UInt16 = 64
    private static let entriesBit: UInt16 = 128

    /// Bytes that `encode` writes.
    public var encodedBytes: Int {
        var count = 20
        if term.rawValue != 0 { count += 8 }
        if index.rawValue != 0 { count += 8 }
        if logTerm.rawValue != 0 { count += 8 }
        if commit.rawValue != 0 { count += 8 }
        if context != 0 { count += 8 }
        if hintIndex.rawValue != 0 { count += 8 }
        if hintTerm.rawValue != 0 { count += 8 }
        if !entries.isEmpty {
            count += 4
            for entry in entries { count += entry.encodedBytes }
        }
        return count
    }

    /// `kind u8 | flags u8 (1 = reject) | present u16 | from u64 | to u64 |` then, each if its bit in `present` is set:
    /// `term u64 (1) | index u64 (2) | log term u64 (4) | commit u64 (8) | context u64 (16) | hint index u64 (32) |
    /// hint term u64 (64) | count u32 and entries as LogEntry encodes them (128)`. The other bits of `flags` and
    /// `present` are zero; a reader refuses what it does not know.
    public func encode(into writer: inout ByteWriter) {
        var present: UInt16 = 0
        if term.rawValue != 0 { present |= Self.termBit }
        if index.rawValue != 0 { present |= Self.indexBit }
        if logTerm.rawValue != 0 { present |= Self.logTermBit }
        if commit.rawValue != 0 { present |= Self.commitBit }
        if context != 0 { present |= Self.contextBit }
        if hintIndex.rawValue != 0 { present |= Self.hintIndexBit }
        if hintTerm.rawValue != 0 { present |= Self.hintTermBit }
        if !entries.isEmpty { present |= Self.entriesBit }
        writer.write(kind.rawValue)
        writer.write(reject ? Self.rejectFlag : 0)
        writer.write(present)
        writer.write(from)
        writer.write(to)
        if term.rawValue != 0 { writer.write(term) }
        if index.rawValue != 0 { writer.write(index) }
        if logTerm.rawValue != 0 { writer.write(logTerm) }
        if commit.rawValue != 0 { writer.write(commit) }
        if context != 0 { writer.write(context) }
        if hintIndex.rawValue != 0 { writer.write(hintIndex) }
        if hintTerm.rawValue != 0 { writer.write(hintTerm) }
        if !entries.isEmpty {
            writer.write(UInt32(entries.count))
            for entry in entries { entry.encode(into: &writer) }
        }
    }

    /// Reads one message; payloads share the reader's storage. What follows in the reader is left there.
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = RaftMessageKind(rawValue: try reader.read())
        let flags = try reader.read(UInt8.self)
        guard flags & ~Self.rejectFlag == 0 else {
            throw DecodingFailure(expected: "a message's flags", found: "\(flags)")
        }
        let present = try reader.read(UInt16.self)
        guard present < 256 else {
            throw DecodingFailure(expected: "a message's known fields", found: "bits \(present)")
        }
        self.init(kind: kind, from: try reader.read(), to: try reader.read(), term: .zero)
        reject = flags & Self.rejectFlag != 0
        if present & Self.termBit != 0 { term = Term(try Self.number(&reader)) }
        if present & Self.indexBit != 0 { index = LogIndex(try Self.number(&reader)) }
        if present & Self.logTermBit != 0 { logTerm = Term(try Self.number(&reader)) }
        if present & Self.commitBit != 0 { commit = LogIndex(try Self.number(&reader)) }
        if present & Self.contextBit != 0 { context = try reader.read() }
        if present & Self.hintIndexBit != 0 { hintIndex = LogIndex(try Self.number(&reader)) }
        if present & Self.hintTermBit != 0 { hintTerm = Term(try Self.number(&reader)) }
        if present & Self.entriesBit != 0 {
            let count = Int(try reader.read(UInt32.self))
            try reader.check(count: count, ofSize: LogEntry.headerBytes)
            entries.reserveCapacity(count)
            for offset in 0..<count {
                let entry = try LogEntry(index: index + (1 + offset), from: &reader)
                guard entry.logTime.rawValue < Self.numberMax else {
                    throw DecodingFailure(expected: "a log time below 2^62", found: "\(entry.logTime)")
                }
                entries.append(entry)
            }
        }
    }

    private static func number(_ reader: inout ByteReader) throws(DecodingFailure) -> UInt64 {
        let value = try reader.read(UInt64.self)
        guard value < numberMax else {
            throw DecodingFailure(expected: "a term or index below 2^62", found: "\(value)")
        }
        return value
    }
}
