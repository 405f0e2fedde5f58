// One group's consensus as one replica sees it: a value that takes inputs and gives effects. Owns terms, votes, the
// log's newest part, who has acknowledged what, and reads on their way. Owns no disk, socket, clock, thread or source
// of randomness, and no state machine: the host carries out the effects and reports what came of them.
//
//    step, tick, propose, change, transfer, read, persisted, applied, supply
//                               |
//                               v
//   RaftCore+Election   RaftCore+Leader   RaftCore+Follower   RaftCore+Reads
//           RaftCore+Membership   RaftCore+Transfer   RaftCore+Lease
//                               |
//                               v
//                        ready(into: effects)                    (RaftCore+Ready)

public import Primitives

public enum RaftRole: UInt8, Sendable {
    case follower, preCandidate, candidate, leader
}

public enum ProposeResult: Hashable, Sendable {
    /// In the leader's log, not committed yet: it is committed if the entry at `index` has `term` when it is.
    case accepted(index: LogIndex, term: Term)
    /// Certainly not in the log.
    case notLeader
    /// Certainly not in the log: too much is uncommitted already, or leadership is being handed over. Try again soon.
    case overloaded
    /// Certainly not in the log: a configuration that can't be read, that does not safely follow the one in effect, or
    /// while another change is not committed. Nothing but configurations is refused.
    case refused
}

/// Counts of what should be rare. None of them is an error of this replica but `surprises`, which stay zero as long as
/// every replica keeps Raft's promises.
public struct RaftStatistics: Hashable, Sendable {
    /// Not for this replica, or from nobody.
    public var misaddressed = 0
    /// Of a kind that this version does not know.
    public var unknownKinds = 0
    /// Answers and read requests from who is no member.
    public var unknownSenders = 0
    /// Told to be removed, without a proof that this replica was a member before: it may still be on its way in. If
    /// nobody speaks to it either, its host should ask the placement.
    public var unprovenRemovals = 0
    /// Of an older term.
    public var stale = 0
    /// Candidates that were not listened to because the leader is there (Raft thesis §4.2.3).
    public var refusedForLeader = 0
    /// Appends whose entries do not fit together, or whose configuration can't be read.
    public var malformed = 0
    /// Two leaders in one term, a commit beyond the log, acknowledgements of what was never sent, a leader that has not
    /// what is committed here.
    public var surprises = 0
    /// Answers to log reads that came too late or did not fit.
    public var uselessSupplies = 0
    /// Elections that this replica stood for, and those it won.
    public var campaigns = 0
    public var elections = 0
    public init() {}
}

/// One replica of one group. After any input, when `hasReady`, call `ready(into:)` once per turn and carry out the
/// effects.
///
/// Cost: an input is O(members); nothing is allocated per entry but what holds the entry itself.
public struct RaftCore: Sendable {
    public let replica: ReplicaID
    public let settings: RaftSettings
    /// The replica's state is behind its log or its journal is damaged: it votes and keeps its log, nothing else.
    public let isImpaired: Bool

    public internal(set) var role = RaftRole.follower
    public internal(set) var term: Term
    /// The leader of `term`; `.none` while unknown.
    public internal(set) var leader = ReplicaID.none
    /// Everything up to here is committed, as far as this replica knows.
    public internal(set) var commit: LogIndex
    /// Everything up to here was applied by the host.
    public internal(set) var appliedIndex: LogIndex
    /// Index of a committed configuration that no longer has this replica, once it knows for certain: nobody will speak
    /// to it again, and it stands for no election. Known again after a restart only if somebody tells it again.
    public internal(set) var removedAt: LogIndex?
    public internal(set) var statistics = RaftStatistics()

    var vote: ReplicaID
    var log: RaftLog
    var persistence: Persistence
    /// In ascending order of index: the newest at or below `commit`, and all above it. The last is in effect.
    var configurations: [Configuration]
    /// A committed configuration named this replica.
    var wasMember = false
    /// Who was in a committed configuration and is not in the newest, the latest last. At most `departedMax`: older
    /// ones are forgotten, and then told less surely.
    var departed: [ReplicaID] = []
    static let departedMax = 64
    /// The members, sorted; this replica always among them.
    var progress: [Progress] = []
    var random: SeededRandom

    /// The newest reading of the host's clock, and until when this replica's vote is promised away. See RaftCore+Lease.
    var clock: UInt64 = 0
    public internal(set) var promisedUntil: UInt64 = 0

    // Time, in ticks.
    var ticks: UInt64 = 0
    /// Since the leader was last heard (follower), since the quorum was last checked (leader).
    var electionElapsed = 0
    var electionTimeout = 0
    var heartbeatElapsed = 0

    // A leader's.
    var uncommittedBytes = 0
    /// The first entry of the own term: reads wait for its commit.
    var firstOfTerm: LogIndex = .zero
    var isHeartbeatDue = false
    var reads = LeaderReads()
    /// Who is to lead next; `.none` outside of a transfer.
    var transferTarget = ReplicaID.none
    /// Ticks since the transfer began.
    var transferElapsed = 0
    /// The target was asked to stand for election since the last heartbeat.
    var isTimeoutNowSent = false
    /// The newest term in which a transfer was begun here.
    var transferTerm = Term.zero

    // A follower's.
    var forwards: ForwardedReads
    /// A candidate was refused because the leader seems to be there, and the leader itself has not spoken since.
    var isDoubtful = false
    /// The last term whose leader was found to have another history than what is committed here. Nothing of that leader
    /// is taken or acknowledged; not its empty messages either, which may not show it.
    var estrangedTerm: Term?

    // Collected during a turn, for `ready`.
    var messages: [RaftMessage] = []
    var durableMessages: [RaftMessage] = []
    var readsReady: [ReadyRead] = []
    var readsFailed: [UInt64] = []
    var acknowledgement: RaftMessage?
    var rejection: RaftMessage?
    var heartbeatAnswer: RaftMessage?
    /// The entries appended last, as they came, if nothing else happened to the log: they are handed on without a copy.
    var arrived: [LogEntry] = []
    var hasWork = true
    var commitReported: LogIndex
    var isRoleReported = false
    var isConfigurationReported = true

    /// - Parameters:
    ///   - seed: of all randomness here; must be another at each start of a replica.
    public init(start: RaftStart, settings: RaftSettings, seed: UInt64) {
        let entries = Self.usableEntries(of: start)
        var isImpaired = start.isImpaired || entries == nil || start.applied < start.base || start.applied > start.last
        var configurations = [start.configuration]
        for entry in entries ?? [] where entry.kind == .configuration {
            guard let configuration = Self.configuration(of: entry) else { isImpaired = true; continue }
            if isPlanted("configuration-forgotten-at-restart") { continue }
            configurations.append(configuration)
        }
        replica = start.replica
        self.settings = settings
        self.isImpaired = isImpaired
        self.configurations = configurations
        term = max(start.hardState.term, start.termRuns.last?.term ?? start.baseTerm)
        vote = term == start.hardState.term ? start.hardState.vote : .none
        log = RaftLog(
            base: start.base, baseTerm: start.baseTerm, last: start.last, runs: start.termRuns,
            entries: entries ?? [], timeBefore: start.appliedLogTime)
        persistence = Persistence(last: start.last, hardState: start.hardState)
        appliedIndex = start.applied
        commit = max(start.base, min(max(start.applied, start.hardState.commit), start.last))
        commitReported = isImpaired ? commit : start.applied
        random = SeededRandom(seed: seed)
        forwards = ForwardedReads(seed: mix(seed ^ start.replica.rawValue))
        seatMembers()
        wasMember = start.configuration.members.contains(replica)
        noteCommittedConfigurations(after: start.configuration)
        resetElectionTimer()
    }

    /// The start's entries if they are what it says: above what is applied, without gaps, up to the last.
    private static func usableEntries(of start: RaftStart) -> [LogEntry]? {
        var next = max(start.applied, start.base).next
        for entry in start.entries {
            guard entry.index == next else { return nil }
            next = next.next
        }
        guard next == max(start.last, start.applied).next else { return nil }
        var previous = start.base
        var previousTerm = start.baseTerm
        for run in start.termRuns {
            guard run.first > previous, run.first <= start.last, run.term >= previousTerm else { return nil }
            previous = run.first
            previousTerm = run.term
        }
        guard start.last == start.base ? start.termRuns.isEmpty : start.termRuns.first?.first == start.base.next else {
            return nil
        }
        return start.entries
    }

    static func configuration(of entry: LogEntry) -> Configuration? {
        var reader = ByteReader(entry.payload)
        guard var configuration = try? Configuration(from: &reader), reader.isAtEnd else { return nil }
        configuration.index = entry.index
        return configuration
    }
}

// MARK: - Observers

extension RaftCore {
    public var lastIndex: LogIndex { log.last }
    public var lastTerm: Term { log.lastTerm }
    /// Log time of the last entry, committed or not: a leader goes on from there.
    public var lastLogTime: LogTime { log.lastTime }
    /// Everything up to here is durable on this replica.
    public var stableIndex: LogIndex { persistence.stable }
    /// The log begins after this index.
    public var base: LogIndex { log.base }
    /// How far the log goes, all at once: each look from another module costs a copy of this value.
    public var extent: (base: LogIndex, stable: LogIndex, last: LogIndex) { (log.base, persistence.stable, log.last) }
    /// The first index that is still in memory.
    public var firstIndexInMemory: LogIndex { log.firstInMemory }
    /// Encoded bytes of the entries in memory.
    public var memoryBytes: Int { log.memoryBytes }
    /// Bytes of memory that they keep alive: payloads are slices of the frames that they came in.
    public var pinnedBytes: Int { log.pinnedBytes }
    /// In effect: the newest in the log, committed or not.
    public var configuration: Configuration { configurations[configurations.count - 1] }
    /// The newest that is known to be committed here.
    public var committedConfiguration: Configuration { configuration(at: commit) }
    /// In effect at an index that is applied or above: the newest in the log up to there.
    public func configuration(at index: LogIndex) -> Configuration {
        configurations.last { $0.index <= index } ?? configurations[0]
    }

    /// Something came up since the last `ready`.
    public var hasReady: Bool { hasWork }
    /// Reads that wait here.
    public var readsPending: Int { reads.count + forwards.count }
    /// Whether a leader has committed an entry of its own term, so that reads and commit counting have their ground.
    public var isEstablished: Bool { role == .leader && commit >= firstOfTerm }

    /// It leads, and has applied all that earlier leaders left in its log.
    public var hasAppliedEarlierTerms: Bool { role == .leader && appliedIndex >= firstOfTerm }
    /// Where terms begin, of all entries above `base`.
    public var termRuns: [TermRun] { log.runs }

    /// The term of an entry between `base` and `lastIndex`; nil outside.
    public func term(at index: LogIndex) -> Term? { log.term(at: index) }

    /// A leader's view of a member; nil if this is no leader, or that no member.
    public func progress(of member: ReplicaID) -> RaftProgress? {
        guard role == .leader, let position = position(of: member) else { return nil }
        let known = progress[position]
        return RaftProgress(
            replica: member, match: known.match, next: known.next, state: known.state,
            isRecentlyActive: isHeard(position))
    }

    /// The index through which every member has the log on disk, as a leader knows it; nil if this is no leader.
    public var everywhereStableIndex: LogIndex? {
        guard role == .leader else { return nil }
        var least = persistence.stable
        for member in progress where member.replica != replica { least = min(least, member.match) }
        return least
    }

    /// Whether a leader has heard from a majority since the last check.
    public var quorumActive: Bool {
        // What the closures look at; not all of this value.
        let (progress, replica) = (progress, replica)
        return role == .leader
            && Quorum.holds(progress.count, seat: { progress[$0].seat }) {
                progress[$0].isRecentlyActive || progress[$0].replica == replica
            }
    }

    /// Nothing is under way, so that the host may stop ticking this replica until a message comes: everything is
    /// committed and durable, a leader's followers have it all and know it, no read waits, no leadership is being
    /// handed over, and no candidate was turned away since the leader last spoke. Followers named in `silent` (their
    /// host is known to be down) are not waited for; a leader that stops being ticked without them has to be told that
    /// they are `unheard`.
    public func isSettled(ignoring silent: [ReplicaID] = []) -> Bool {
        guard !hasWork, commit == log.last, persistence.pending == nil, reads.isEmpty, forwards.isEmpty else {
            return false
        }
        switch role {
        case .leader:
            guard transferTarget == .none else { return false }
            for member in progress where member.replica != replica && !silent.contains(member.replica) {
                guard member.match == log.last, member.commitKnown == commit else { return false }
            }
            return true
        case .follower: return removedAt != nil || leader != .none && !isDoubtful
        case .preCandidate, .candidate: return false
        }
    }

    /// Committed entries after `index`, at most about `bytesMax` encoded bytes, at least one if there is one. They are
    /// in memory for certain when `index >= appliedIndex`. O(entries returned); payloads are shared.
    public func committedEntries(after index: LogIndex, bytesMax: Int) -> [LogEntry] {
        guard !isImpaired, index < commit else { return [] }
        return log.slice(from: index.next, through: commit, bytesMax: bytesMax)
    }
}

// MARK: - Reports of the host

extension RaftCore {
    /// Persist `sequence` and all before it are durable.
    public mutating func persisted(sequence: UInt64) {
        let stable = persistence.stable
        persistence.finished(sequence: sequence)
        if role == .candidate { countVotes() }
        if role == .leader, persistence.stable > stable { ownEntriesBecameStable() }
    }

    /// The host has applied everything up to `index`, which is committed.
    public mutating func applied(through index: LogIndex) {
        precondition(index <= commit && index >= appliedIndex, "only what is committed is applied, in order")
        appliedIndex = index
    }

    /// Entries up to `index` may leave memory, as far as they are applied and durable here. Their terms stay.
    public mutating func evict(through index: LogIndex) {
        let bound = isImpaired ? min(commit, persistence.stable) : min(appliedIndex, persistence.stable)
        log.evict(through: min(index, bound))
    }

    /// The journal dropped the entries up to `index`: the log begins after it. Only what is applied and durable may go.
    public mutating func discard(through index: LogIndex) {
        precondition(index <= log.base || index <= min(appliedIndex, persistence.stable), "what is not applied is kept")
        log.discard(through: index)
    }

    /// The host's liveness layer vouches for contact with this peer in the current term.
    public mutating func heard(from peer: ReplicaID) {
        if role == .leader {
            if let position = position(of: peer) { progress[position].isRecentlyActive = true }
        } else if peer == leader, peer != .none {
            electionElapsed = 0
            // The leader is there and of this term: as good as a word of its own.
            isDoubtful = false
        }
    }

    /// The host's liveness layer says that nobody hears this member now. A leader that is not ticked any more checks no
    /// quorum, and would take it for alive for as long as it rests: until it is heard again it counts for nothing, in no
    /// change of members either.
    public mutating func unheard(_ member: ReplicaID) {
        guard role == .leader, member != replica, let position = position(of: member) else { return }
        progress[position].isRecentlyActive = false
        progress[position].wasRecentlyActive = false
    }
}

// MARK: - Members and the outbox

extension RaftCore {
    func position(of member: ReplicaID) -> Int? {
        for position in progress.indices where progress[position].replica == member { return position }
        return nil
    }

    /// Makes `progress` the members of the configuration in effect; who stays keeps what is known of it.
    mutating func seatMembers() {
        let configuration = configuration
        var members = configuration.members
        if !members.contains(replica) { members.append(replica) }
        members.sort()
        let known = progress
        isConfigurationReported = false
        progress = members.map { member in
            let seat = Seat(
                isVoter: configuration.voters.contains(member)
                    || isPlanted("learner-votes") && configuration.learners.contains(member),
                isOutgoing: configuration.outgoing.contains(member))
            if var old = known.first(where: { $0.replica == member }) {
                old.seat = seat
                return old
            }
            var new = Progress(replica: member, seat: seat)
            new.begin(next: log.last.next)
            return new
        }
        if transferTarget != .none, !configuration.voters.contains(transferTarget) { endTransfer() }
    }

    /// Collects a message for this turn. A promise waits for durability; so does any word of a term that is not
    /// durable: after a crash this replica would not remember the term that it spoke of.
    mutating func queue(_ message: RaftMessage, isPromise: Bool = false) {
        hasWork = true
        if isPromise || term != persistence.durableTerm {
            durableMessages.append(message)
        } else {
            messages.append(message)
        }
    }

    /// The same entry point for all that grows the log.
    mutating func append(_ entry: LogEntry) {
        log.append(entry)
        if entry.kind == .configuration, let configuration = Self.configuration(of: entry) {
            configurations.append(configuration)
            seatMembers()
        }
    }

    mutating func truncate(from index: LogIndex) {
        precondition(index > commit, "a committed entry is never replaced")
        log.truncate(from: index)
        persistence.truncated(from: index)
        arrived = []
        var changed = false
        while configurations.count > 1, configurations[configurations.count - 1].index >= index,
            !isPlanted("configuration-kept-when-cut")
        {
            configurations.removeLast()
            changed = true
        }
        if changed { seatMembers() }
    }

    mutating func advanceCommit(to index: LogIndex) {
        guard index > commit else { return }
        precondition(index <= log.last, "commit stays within the log")
        if role == .leader {
            var position = commit
            while position < index {
                position = position.next
                uncommittedBytes -= log[position].encodedBytes
            }
        }
        let configurationBefore = configurations.count > 1 ? committedConfiguration : nil
        commit = index
        hasWork = true
        if let configurationBefore { noteCommittedConfigurations(after: configurationBefore) }
        while configurations.count > 1, configurations[1].index <= appliedIndex { configurations.removeFirst() }
    }
}
