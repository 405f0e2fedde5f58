// What a stopped host has on disk, as far as a recovery must know it: whose it is, its copy of the map, and of each
// replica how far its log goes and which configurations it has. Owns no reading of disks.

public import Primitives
public import Ring

/// One replica as its disk would start it.
public struct ReplicaReport: Hashable, Sendable, Codable {
    public var group: GroupID
    public var replica: ReplicaID
    public var term: Term
    public var vote: ReplicaID
    /// Of the durable state; 0 before the first entry.
    public var applied: LogIndex
    /// Up to here it knew the log to be committed. At or above `applied`, at or below `last`.
    public var commit: LogIndex
    /// The log begins after it.
    public var base: LogIndex
    public var baseTerm: Term
    /// Of all entries behind the base, ascending.
    public var terms: [TermRun]
    public var last: LogIndex
    public var lastLogTime: LogTime
    /// Ascending by index: the state's, and those of the entries that the log has; the last is in effect. Not empty.
    public var configurations: [Configuration]
    /// Why it may not be what a group begins with again; nil if it may.
    public var impairment: String?
    /// It may have forgotten votes and acknowledgements: it says nothing until it is replaced.
    public var isMute: Bool

    public init(
        group: GroupID, replica: ReplicaID, term: Term, vote: ReplicaID = .none, applied: LogIndex, commit: LogIndex,
        base: LogIndex = .zero, baseTerm: Term = .zero, terms: [TermRun], last: LogIndex, lastLogTime: LogTime = .zero,
        configurations: [Configuration], impairment: String? = nil, isMute: Bool = false
    ) {
        self.group = group
        self.replica = replica
        self.term = term
        self.vote = vote
        self.applied = applied
        self.commit = commit
        self.base = base
        self.baseTerm = baseTerm
        self.terms = terms
        self.last = last
        self.lastLogTime = lastLogTime
        self.configurations = configurations
        self.impairment = impairment
        self.isMute = isMute
    }

    public var lastTerm: Term { terms.last?.term ?? baseTerm }

    /// Of an entry behind the base or of the base; nil where the log has none.
    func term(at index: LogIndex) -> Term? {
        if index == base { return baseTerm }
        guard index > base, index <= last else { return nil }
        return terms.last { $0.first <= index }?.term
    }

    /// The group can begin with it again.
    var isSound: Bool { !isMute && impairment == nil && last > .zero }
}

/// One host that survived, at rest. Boot counter and journal sequence tell whether anything was written since.
public struct HostReport: Hashable, Sendable, Codable {
    public var cluster: ClusterID
    public var host: HostID
    public var incarnation: Incarnation
    public var bootCounter: UInt64
    public var journal: UInt64
    /// Of the journal's last commit.
    public var journalSequence: UInt64
    /// Something of the journal as a whole can't be read: nothing of this host counts.
    public var isJournalDamaged: Bool
    /// The copy of the map that the host would start with.
    public var map: ClusterMap
    /// The map as the log of its replica of the meta group makes it, up to the last entry; nil if it has none that is
    /// sound.
    public var metaMap: ClusterMap?
    /// The greatest id of a replica that was ever here, removed ones too.
    public var greatestReplica: ReplicaID
    /// Ascending by replica; removed ones are not among them.
    public var replicas: [ReplicaReport]

    public init(
        cluster: ClusterID, host: HostID, incarnation: Incarnation, bootCounter: UInt64, journal: UInt64,
        journalSequence: UInt64, isJournalDamaged: Bool = false, map: ClusterMap, metaMap: ClusterMap? = nil,
        greatestReplica: ReplicaID, replicas: [ReplicaReport]
    ) {
        self.cluster = cluster
        self.host = host
        self.incarnation = incarnation
        self.bootCounter = bootCounter
        self.journal = journal
        self.journalSequence = journalSequence
        self.isJournalDamaged = isJournalDamaged
        self.map = map
        self.metaMap = metaMap
        self.greatestReplica = greatestReplica
        self.replicas = replicas
    }
}
