// What a stopped host has on disk, as far as a recovery must know it: whose it is, its copy of the map, and of each
// replica how far its log goes and which configurations it has. Owns no reading of disks.

public import Primitives
public import Ring

/// Slots that a group has something to do with for one migration, or had, as the log of one of its replicas says.
public struct SlotTrace: Hashable, Sendable, Codable {
    public enum Standing: String, Hashable, Sendable, Codable {
        /// What the group is at: as the source the first three, as the target the others.
        case exporting, frozen, released, importing, sealed, dropping
        /// They came, and it serves them.
        case came
        /// They are another group's.
        case gone
    }
    public var migration: MigrationID
    public var standing: Standing
    /// The other one.
    public var group: GroupID
    /// Of slots that came or went: the ring's.
    public var epoch: Epoch
    /// Ascending.
    public var slots: [Slot]

    public init(
        migration: MigrationID, standing: Standing, group: GroupID, epoch: Epoch = .zero, slots: [Slot]
    ) {
        self.migration = migration
        self.standing = standing
        self.group = group
        self.epoch = epoch
        self.slots = slots
    }

    var isOfSource: Bool {
        switch standing {
        case .exporting, .frozen, .released, .gone: true
        case .importing, .sealed, .dropping, .came: false
        }
    }
}

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
    /// What its log makes of slots that move, or moved, up to its last entry; nil: nothing ever did, or it can't be told.
    public var slots: [SlotTrace]?
    /// No migration that it ever heard of has a higher number; nil: it heard of none.
    public var lastMigration: MigrationID?

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

/// A version of the map, told from others of the same number by its bytes.
public struct MapVersion: Hashable, Sendable, Codable {
    public var version: UInt64
    /// CRC-32C of the map's encoding.
    public var checksum: UInt32

    public init(_ map: ClusterMap) {
        version = map.version
        var writer = ByteWriter(capacity: 65_536)
        map.encode(into: &writer)
        checksum = writer.take().checksum
    }
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
    /// The map as what that log knows to be committed makes it, and then as each change behind that makes it.
    public var metaVersions: [MapVersion]
    /// Replicas that were here and that nothing is left of but that they are gone, or that nothing can be read of.
    public var gone: [ReplicaID]
    /// The greatest id of a replica that was ever here, removed ones too.
    public var greatestReplica: ReplicaID
    /// Ascending by replica; removed ones are not among them.
    public var replicas: [ReplicaReport]
    /// Names of the stores that were put aside here as damaged, ascending: something may still be got out of them. nil:
    /// there is none, or the report is of an earlier version.
    public var storesAside: [String]?

    public init(
        cluster: ClusterID, host: HostID, incarnation: Incarnation, bootCounter: UInt64, journal: UInt64,
        journalSequence: UInt64, isJournalDamaged: Bool = false, map: ClusterMap, metaMap: ClusterMap? = nil,
        metaVersions: [MapVersion] = [], gone: [ReplicaID] = [], greatestReplica: ReplicaID, replicas: [ReplicaReport]
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
        self.metaVersions = metaVersions
        self.gone = gone
        self.greatestReplica = greatestReplica
        self.replicas = replicas
    }
}

// MARK: - What came from a file

extension ReplicaReport {
    private static var membersMax: Int { 64 }

    fileprivate func problem() -> String? {
        let numbers = [
            replica.rawValue, term.rawValue, lastTerm.rawValue, applied.rawValue, last.rawValue, lastLogTime.rawValue,
        ]
        guard numbers.allSatisfy({ $0 < ClusterMap.counterMax }), group.rawValue < ClusterMap.groupNumberMax else {
            return "replica \(replica) has a number that is not below 2^62, or a group's that is not below 2^24"
        }
        guard base <= commit, applied <= commit, commit <= last else {
            return "the log of replica \(replica) ends before what it knows"
        }
        var before = (base, baseTerm)
        for run in terms {
            guard run.first > before.0, run.first <= last, run.term >= before.1 else {
                return "the terms of replica \(replica) are out of order"
            }
            before = (run.first, run.term)
        }
        guard (last == base) == terms.isEmpty, terms.isEmpty || terms[0].first == base.next else {
            return "the terms of replica \(replica) don't begin with its log"
        }
        guard !configurations.isEmpty,
            configurations.allSatisfy({
                $0.voters.count + $0.outgoing.count + $0.learners.count <= Self.membersMax
            })
        else { return "replica \(replica) has no configuration, or one of more than \(Self.membersMax) members" }
        for trace in slots ?? [] {
            guard trace.migration.rawValue < ClusterMap.counterMax, trace.epoch.rawValue < ClusterMap.counterMax - 1,
                trace.group.rawValue < ClusterMap.groupNumberMax, !trace.slots.isEmpty,
                trace.slots.allSatisfy({ $0.rawValue < UInt16(Slot.count) }),
                zip(trace.slots, trace.slots.dropFirst()).allSatisfy(<)
            else { return "what replica \(replica) says of slots that moved makes no sense" }
        }
        guard lastMigration ?? .none < MigrationID(ClusterMap.counterMax / 2) else {
            return "replica \(replica) names a migration whose number is not below 2^61"
        }
        return nil
    }
}

extension HostReport {
    /// What makes no sense in it, in words; nil if nothing does. To be asked of each that comes from a file: plans are
    /// made of those that pass.
    public func problem() -> String? {
        guard greatestReplica.rawValue < ClusterMap.counterMax else { return "a replica's id is not below 2^62" }
        for (number, replica) in replicas.enumerated() {
            guard number == 0 || replicas[number - 1].replica < replica.replica else {
                return "replicas are out of order"
            }
            if let problem = replica.problem() { return problem }
        }
        return nil
    }
}
