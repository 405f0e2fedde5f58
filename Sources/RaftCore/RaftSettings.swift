// What a group's consensus is told when it begins: its bounds and timing, and what the disk remembers.
// Owns no defaults of the host: intervals in wall time belong to whoever calls `tick`.

public import Primitives

/// Timing and bounds of one replica. All replicas of a group should use the same.
public struct RaftSettings: Hashable, Sendable {
    /// A follower that hears nothing for this many ticks, plus a random number of ticks below it, stands for election
    /// (Raft paper §5.2). A leader that has not heard from a majority within this many ticks steps down.
    public var electionTicks = 10
    /// A leader that is ticked sends heartbeats every so many ticks.
    public var heartbeatTicks = 2
    /// Encoded bytes of entries in one append message; a single larger entry goes alone.
    public var appendBytesMax = 256 * 1024
    /// Append messages under way to one follower. At the bound nothing is sent until one is acknowledged.
    public var inflightMessagesMax = 64
    /// Encoded bytes of entries under way to one follower; the message that reaches the bound is the last.
    public var inflightBytesMax = 4 * 1024 * 1024
    /// Encoded bytes of the leader's entries that are not committed yet. Beyond it proposals are `.overloaded`.
    public var uncommittedBytesMax = 64 * 1024 * 1024
    /// Reads that wait here, this replica's own and those forwarded to it. Beyond it a read fails at once.
    public var readsPendingMax = 65_536
    /// Rounds of read confirmation under way. At the bound further reads wait for a round to end.
    public var readRoundsMax = 8
    /// The commit index rides along with a persist when it has advanced so far since it was last written: it is only a
    /// hint for a faster restart.
    public var commitHintEntries = 1_024
    /// A learner may become a voter when it lacks at most so many entries of the leader's log: else the group could
    /// wait for it as soon as another voter fails (Raft thesis §4.2.1).
    public var promotionLagMax = 1_024
    /// Replicas in a configuration, voters and learners. A change beyond it is refused.
    public var membersMax = 32

    public init() {}
}

/// What a restart, or a first start, knows. It comes from disk: contradictions make the replica impaired, they never
/// trap.
public struct RaftStart: Sendable {
    public var replica: ReplicaID
    public var hardState: HardState
    /// In effect at `applied`; later ones are found among `entries`.
    public var configuration: Configuration
    /// The log on disk begins after this index, whose term is `baseTerm`.
    public var base: LogIndex
    public var baseTerm: Term
    /// The last index that the log on disk holds, as the journal's index tells; `base` when it is empty.
    public var last: LogIndex
    /// Terms of all entries on disk (`base + 1 ... last`), ascending.
    public var termRuns: [TermRun]
    /// All up to here is in the state.
    public var applied: LogIndex
    /// Log time of the entry at `applied`.
    public var appliedLogTime: LogTime
    /// The entries above `applied` up to `last`, contiguous; they stay in memory until applied and evicted.
    public var entries: [LogEntry]
    /// The state is behind the log's base, or a record of the journal is bad: the replica votes and keeps its log, but
    /// neither campaigns nor hands out entries to apply, nor serves reads.
    public var isImpaired: Bool

    public init(
        replica: ReplicaID, hardState: HardState = HardState(), configuration: Configuration,
        base: LogIndex = .zero, baseTerm: Term = .zero, last: LogIndex = .zero, termRuns: [TermRun] = [],
        applied: LogIndex = .zero, appliedLogTime: LogTime = .zero, entries: [LogEntry] = [], isImpaired: Bool = false
    ) {
        self.replica = replica
        self.hardState = hardState
        self.configuration = configuration
        self.base = base
        self.baseTerm = baseTerm
        self.last = max(last, base)
        self.termRuns = termRuns
        self.applied = applied
        self.appliedLogTime = appliedLogTime
        self.entries = entries
        self.isImpaired = isImpaired
    }
}
