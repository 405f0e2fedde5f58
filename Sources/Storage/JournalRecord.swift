// What goes into a journal and what comes out of it at start.

public import Primitives

/// One thing that a replica must not forget.
public enum JournalRecord: Sendable {
    /// Contiguous entries; whatever the log has at or above the first of them is replaced.
    case append(GroupID, ReplicaID, [LogEntry])
    /// The log ends before `from`.
    case truncate(GroupID, ReplicaID, from: LogIndex)
    /// The log begins after this index, whose entry has this term; voids everything earlier of this replica but its
    /// hard state.
    case base(GroupID, ReplicaID, LogIndex, Term)
    case hardState(GroupID, ReplicaID, HardState)
    /// The replica is gone for good; its number is never used again.
    case tombstone(GroupID, ReplicaID)

    public var replica: ReplicaID {
        switch self {
        case .append(_, let replica, _), .truncate(_, let replica, _), .base(_, let replica, _, _),
            .hardState(_, let replica, _), .tombstone(_, let replica):
            replica
        }
    }

    public var group: GroupID {
        switch self {
        case .append(let group, _, _), .truncate(let group, _, _), .base(let group, _, _, _),
            .hardState(let group, _, _), .tombstone(let group, _):
            group
        }
    }
}

/// What a journal knows of a replica.
public struct RecoveredLog: Hashable, Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    public var hardState: HardState
    /// The log begins after `base`, whose entry has `baseTerm`.
    public var base: LogIndex
    public var baseTerm: Term
    /// The last entry's index; `base` when there is none.
    public var last: LogIndex
    /// Terms of the entries in base + 1 ... last.
    public var termRuns: [TermRun]
    /// Something of this replica cannot be read or is missing: it may neither vote nor lead.
    public var isDamaged: Bool
    public var isTombstone: Bool

    public init(
        group: GroupID, replica: ReplicaID, hardState: HardState = HardState(), base: LogIndex = .zero,
        baseTerm: Term = .zero, last: LogIndex = .zero, termRuns: [TermRun] = [], isDamaged: Bool = false,
        isTombstone: Bool = false
    ) {
        self.group = group
        self.replica = replica
        self.hardState = hardState
        self.base = base
        self.baseTerm = baseTerm
        self.last = last
        self.termRuns = termRuns
        self.isDamaged = isDamaged
        self.isTombstone = isTombstone
    }
}

/// Metrics of a journal: the first three now, the others since it was opened.
public struct JournalStatistics: Hashable, Sendable {
    public var values = 0
    /// Bytes of all values.
    public var bytes = 0
    /// Bytes of live entries that prefix deletion moved to the base table and that are still there.
    public var baseBytes = 0
    /// Durable transactions: appends, trims, superblocks. Each is two flushes on LMDB.
    public var transactions = 0
    public var appends = 0
    public var records = 0
    public var entries = 0
    public var appendedBytes = 0
    public var trimmedValues = 0
    public var trimmedBytes = 0
    public var movedBytes = 0
    public init() {}
}
