// What one turn of a replica asks the host to do. The host owns the buffer and uses it again for every replica.

public import Primitives

/// A linearizable read that may be served once everything up to `index` is applied.
public struct ReadyRead: Hashable, Sendable {
    public var context: UInt64
    public var index: LogIndex
    public init(context: UInt64, index: LogIndex) { self.context = context; self.index = index }
}

/// Entries that a follower needs and that are no longer in memory: read them from the journal, answer with `supply`.
public struct LogRead: Hashable, Sendable {
    public var replica: ReplicaID
    public var from: LogIndex
    public var through: LogIndex
    /// The answer is a prefix of the range with about this many encoded bytes, and at least one entry.
    public var bytesMax: Int
    public init(replica: ReplicaID, from: LogIndex, through: LogIndex, bytesMax: Int) {
        self.replica = replica
        self.from = from
        self.through = through
        self.bytesMax = bytesMax
    }
}

/// Carry these out in any order, but persists in the order of their numbers, and `durableMessages` as said there.
public struct RaftEffects: Sendable {
    /// May go at once, also before anything of this turn is durable here (Raft thesis §10.2.1).
    public var messages: [RaftMessage] = []
    /// May go at once too: entries that were read back from the journal for a follower that is behind. Until it has
    /// them nothing else is appended to it, so that they may take another, slower way than `messages`.
    public var bulkMessages: [RaftMessage] = []
    /// Promises: granted votes, a candidacy's requests (its own vote must be durable), acknowledged appends, and
    /// whatever tells of a term that is not durable yet. They go only when persist `durableAfter` is durable.
    public var durableMessages: [RaftMessage] = []
    public var durableAfter: UInt64 = 0
    /// Something to persist, `entries` or `hardState` or both, as one unit. Answer with `persisted(sequence:)`.
    public var persistSequence: UInt64?
    /// To append to the journal. An entry at or below the last one written truncates what it overlaps and all after it.
    public var entries: [LogEntry] = []
    public var hardState: HardState?
    /// There are new entries for `committedEntries(after:bytesMax:)`.
    public var commitAdvanced = false
    public var readsReady: [ReadyRead] = []
    /// Reads that ended without an answer: no leader, another leader, no room, or an election timeout passed. Nothing
    /// was promised: the caller may read again.
    public var readsFailed: [UInt64] = []
    public var logReads: [LogRead] = []
    /// Followers that need what lies below the log's base. Each is named once when it gets into that state.
    public var snapshotsNeeded: [ReplicaID] = []
    /// The role, the term or the known leader is another than after the last turn.
    public var roleChanged = false
    /// The configuration in effect, or the newest one that is known to be committed, is another than after the last
    /// turn, or this replica learnt that it is removed (`RaftCore.removedAt`).
    public var configurationChanged = false

    public init() {}

    /// Empties the buffer and keeps its memory.
    public mutating func removeAll() {
        messages.clear()
        bulkMessages.clear()
        durableMessages.clear()
        durableAfter = 0
        persistSequence = nil
        // Entries are shared with messages and the log: let go of the array instead of emptying a copy of it.
        entries = []
        hardState = nil
        commitAdvanced = false
        readsReady.clear()
        readsFailed.clear()
        logReads.clear()
        snapshotsNeeded.clear()
        roleChanged = false
        configurationChanged = false
    }
}
