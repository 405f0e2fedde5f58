// What a recovery does, host by host and group by group, and what it may lose. Owns the words for that; how it comes
// about is RecoveryPlanner's.

public import Primitives
public import Ring

/// A replica and where it is.
public struct PlacedReplica: Hashable, Sendable, Codable {
    public var replica: ReplicaID
    public var host: HostID
    public init(replica: ReplicaID, host: HostID) { self.replica = replica; self.host = host }
}

/// What becomes of one group.
public struct GroupRecovery: Hashable, Sendable, Codable {
    public enum Outcome: String, Hashable, Sendable, Codable {
        /// Its survivors have a quorum: nothing is done to it.
        case kept
        /// Goes on from the log of one survivor.
        case recovered
        /// Begins anew with nothing, as nobody has anything of it.
        case emptied
    }
    public var group: GroupID
    public var outcome: Outcome
    /// Whose log the group goes on from; nil unless it is recovered.
    public var base: PlacedReplica?
    /// Known to be committed, by a survivor that counts: up to here everything stays as it was.
    public var certain: LogIndex
    /// The end of the base's log. What stands between takes effect, acknowledged or not.
    public var last: LogIndex
    public var lastTerm: Term
    /// Nothing can have been acknowledged without one of the survivors that count.
    public var isComplete: Bool
    /// A survivor that can't be the base, being impaired, had entries up to this index that the base does not have.
    public var impairedLast: LogIndex?
    /// Replicas that stay, or begin. The base alone votes at first; the others learn from it, and vote when they have
    /// caught up.
    public var members: [PlacedReplica]
    /// Replicas of survivors that are given up: what they have is deleted. New ones take their places.
    public var buried: [PlacedReplica]
    /// Replicas on hosts that are lost. Of a group that is kept they stay in the map until their hosts are drained.
    public var lost: [PlacedReplica]
    /// There was quorum, and the group is written to all the same: the meta group, whose state names the cluster.
    public var hadQuorum: Bool
}

/// What a host has to write for one of its replicas.
public struct ReplicaOrder: Hashable, Sendable, Codable {
    /// Behind the entry at `last`, which has `lastTerm`: an entry of `term` with this configuration; in the meta group
    /// another one with the map.
    public struct Lead: Hashable, Sendable, Codable {
        public var last: LogIndex
        public var lastTerm: Term
        public var term: Term
        public var logTime: LogTime
        public var configuration: Configuration
    }
    public var group: GroupID
    public var replica: ReplicaID
    /// Nil: the replica is gone for good.
    public var lead: Lead?

    public init(group: GroupID, replica: ReplicaID, lead: Lead? = nil) {
        self.group = group
        self.replica = replica
        self.lead = lead
    }
}

/// A host that goes on, as its report knew it.
public struct SurvivingHost: Hashable, Sendable, Codable {
    public var host: HostID
    public var address: String
    public var incarnation: Incarnation
    public var bootCounter: UInt64
    public var journal: UInt64
    public var journalSequence: UInt64
    public var orders: [ReplicaOrder]
}

/// A host of the map without a report that counts.
public struct LostHost: Hashable, Sendable, Codable {
    public var host: HostID
    public var address: String
    /// No group that is kept has a replica there: it is in the new map no more.
    public var isRemoved: Bool
    /// It has a report, with a damaged journal.
    public var isDamaged: Bool
}

/// What lies on a survivor's disk and is in no map: it stays there, and takes no part.
public struct StrayReplica: Hashable, Sendable, Codable {
    public var group: GroupID
    public var replica: ReplicaID
    public var host: HostID
    public var last: LogIndex
    public var lastTerm: Term
}

/// A whole recovery.
public struct RecoveryPlan: Hashable, Sendable, Codable {
    /// The cluster as the survivors know it.
    public var formerCluster: ClusterID
    /// The version of the map that the new one was made from.
    public var formerMapVersion: UInt64
    /// What the survivors are from then on, under a new cluster id: so hosts of the former cluster are strangers to them.
    public var map: ClusterMap
    public var hosts: [SurvivingHost]
    public var lostHosts: [LostHost]
    /// Ascending, all of the map's.
    public var groups: [GroupRecovery]
    public var strays: [StrayReplica]
    /// Slots that were on the move; nil: none were, or the plan is of an earlier version.
    public var settlements: [SlotSettlement]?

    /// What makes no sense in it, in words; nil if nothing does. To be asked of each that comes from a file.
    public func problem() -> String? {
        guard cluster != formerCluster else { return "the cluster keeps its id" }
        for lead in hosts.flatMap(\.orders).compactMap(\.lead) {
            let numbers = [lead.last.rawValue, lead.term.rawValue, lead.logTime.rawValue]
            guard numbers.allSatisfy({ $0 < ClusterMap.counterMax - 2 }),
                lead.term > lead.lastTerm, lead.configuration.voters.count == 1,
                lead.configuration.learners.count < ClusterMap.replicasPerGroupMax
            else { return "an order to lead a group has a number or a configuration that no plan has" }
        }
        return nil
    }

    public var cluster: ClusterID { map.cluster }
}

/// No plan is possible with what was given: what was expected, what came, what to do.
public struct RecoveryError: Error, Hashable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The reports don't belong together.
        case reports
        /// It would give something up that nobody agreed to, or there is nothing to do.
        case refused
    }
    public var code: Code
    public var description: String
    public init(_ code: Code, _ description: String) { self.code = code; self.description = description }
}

// MARK: - Words

extension GroupRecovery {
    public var name: String { group == .meta ? "the meta group" : "group \(group)" }

    /// What becomes of it and what may be lost, for people: sentences.
    public var account: [String] {
        switch outcome {
        case .kept: return ["\(name) has a quorum among the survivors: it is left alone, and nothing of it is lost."]
        case .emptied:
            return ["\(name) begins anew, EMPTY: all that it had is lost." + buriedWords]
        case .recovered: break
        }
        var lines: [String] = []
        let source = base.map { "replica \($0.replica) on host \($0.host)" } ?? "nobody"
        lines.append(
            "\(name) goes on from \(source), whose log ends at entry \(last)."
                + (hadQuorum ? " It has a quorum; its state has to name the new cluster." : ""))
        lines.append("Entries up to \(certain) are known to be committed: they all stay.")
        if last > certain {
            lines.append(
                "\(last - certain) entries behind them (\(certain.next) to \(last)) take effect, whether they were "
                    + "acknowledged or not.")
        }
        lines.append(lossWords)
        if !buriedWords.isEmpty { lines.append(String(buriedWords.dropFirst())) }
        return lines
    }

    private var lossWords: String {
        if isComplete { return "Nothing that was acknowledged is lost: no majority was without a survivor." }
        let places = lost.map { "\($0.replica) on host \($0.host)" }.joined(separator: ", ")
        var text =
            "MAY BE LOST: writes behind entry \(certain) that were acknowledged without \(base.map { "replica \($0.replica)" } ?? "it")"
        text += places.isEmpty ? "" : ", by the lost replicas (\(places))"
        text += ". How many there were can't be told from what is left."
        if let impairedLast {
            text += " An impaired survivor had entries up to \(impairedLast): what it had beyond is lost."
        }
        return text
    }

    private var buriedWords: String {
        guard !buried.isEmpty else { return "" }
        let places = buried.map { "replica \($0.replica) on host \($0.host)" }.joined(separator: ", ")
        return " What \(places) \(buried.count == 1 ? "has" : "have") is DELETED; a new replica takes the place."
    }

    /// Something that was acknowledged may be gone afterwards.
    public var mayLose: Bool { outcome == .emptied || outcome == .recovered && !isComplete }
}
