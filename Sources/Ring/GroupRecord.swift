// One group's part of the map: which replicas it is to have and where, and what its leader said last of those that it
// has. Owns the placement's side of a change of members; how a configuration follows from another is consensus's.
//
//   the record: what is wanted ──► the group's leader, step by step ──► committed configuration
//         ▲                                                                     │
//         └──────────────── what has come about: settled ◄──────────────────────┘

public import Primitives

/// One replica's place, and what is wanted of it.
public struct ReplicaRecord: Hashable, Sendable {
    /// What the replica is to be. Numbers are part of the format.
    public enum Role: UInt8, Hashable, Sendable, CaseIterable {
        /// Is to vote. If it does not yet: first learns, and votes as soon as it has caught up.
        case voter = 1
        /// Is to have the log and the state without a vote.
        case learner = 2
        /// Is to be removed. Its record goes when a configuration without it is committed. Final.
        case leaving = 3
        /// Is to be removed because it lost its identity (its journal is damaged or gone). When its record goes, a new
        /// replica, to be a voter, takes its place on the same host: a host has one replica of a group at a time.
        case replaced = 4
    }

    /// What the configuration at the group's `configurationIndex` has it as. Numbers are part of the format.
    public enum Membership: UInt8, Hashable, Sendable, CaseIterable {
        case absent = 0
        case voter = 1
        case learner = 2
    }

    public var id: ReplicaID
    public var host: HostID
    public var role: Role
    public var membership: Membership
    /// The replica of the same group that is to leave as soon as this one is what it is to be; `.none` if there is
    /// none. It is how a move from host to host is remembered.
    public var successorOf: ReplicaID

    public init(
        id: ReplicaID, host: HostID, role: Role = .voter, membership: Membership = .voter,
        successorOf: ReplicaID = .none
    ) {
        self.id = id
        self.host = host
        self.role = role
        self.membership = membership
        self.successorOf = successorOf
    }

    /// Is to stay in the group.
    public var isWanted: Bool { role == .voter || role == .learner }

    /// What was reported is what is wanted. False for one that is to go: its record is there as long as it is.
    public var isSettled: Bool {
        switch role {
        case .voter: membership == .voter
        case .learner: membership == .learner
        case .leaving, .replaced: false
        }
    }
}

/// One group and where its replicas are.
public struct GroupRecord: Hashable, Sendable {
    /// Numbers are part of the format.
    public enum State: UInt8, Hashable, Sendable, CaseIterable {
        case running = 1
        /// It takes no commands and answers no reads. Its replicas stay, with what they have, and can be moved.
        case stopped = 2
    }

    public var id: GroupID
    /// Its share of the slots in proportion to the other groups'; 100 is the ordinary one. The meta group has 0.
    public var weight: UInt32
    /// Ascending by id, on distinct hosts.
    public var replicas: [ReplicaRecord]
    /// The replica that should lead when all are well: it campaigns first at the start. One of `replicas` that is to
    /// vote; while it does not yet, nobody is preferred.
    public var preferredLeader: ReplicaID
    /// The voters of the group's first configuration, ascending. They stay the same when these replicas are gone.
    public var founders: [ReplicaID]
    /// Of the committed configuration that the group's leader reported last; 0 for the first one. Only grows.
    public var configurationIndex: LogIndex
    /// As people want it.
    public var state: State

    /// - Parameter founders: nil: all replicas, as in a new group.
    public init(
        id: GroupID, weight: UInt32 = 100, replicas: [ReplicaRecord], preferredLeader: ReplicaID,
        founders: [ReplicaID]? = nil, configurationIndex: LogIndex = .zero, state: State = .running
    ) {
        self.id = id
        self.weight = weight
        self.replicas = replicas.sorted { $0.id < $1.id }
        self.preferredLeader = preferredLeader
        self.founders = founders ?? self.replicas.map(\.id)
        self.configurationIndex = configurationIndex
        self.state = state
    }

    /// Of the replica there, also of one that is to leave.
    public func replica(on host: HostID) -> ReplicaID? { replicas.first { $0.host == host }?.id }
    public func host(of replica: ReplicaID) -> HostID? { record(of: replica)?.host }
    public func record(of replica: ReplicaID) -> ReplicaRecord? { replicas.first { $0.id == replica } }

    /// With what a replica begins that has neither log nor state: a founder with the group's first configuration, in
    /// which all founders vote; one that came later with an empty one, in which it neither votes nor campaigns until
    /// the group's log or a snapshot brings it the group's.
    public func firstConfiguration(of replica: ReplicaID) -> Configuration {
        Configuration(voters: founders.contains(replica) ? founders : [])
    }

    /// Nothing is under way: each replica is what it is to be, and none is to go.
    public var isSettled: Bool { replicas.allSatisfy(\.isSettled) }

    /// A change of members is under way, or only the first half of a move is done.
    var isMoving: Bool { replicas.contains { !$0.isSettled || $0.successorOf != .none } }

    /// Whether a committed configuration that is not joint says what the record does not know yet.
    public func isNews(_ current: Configuration) -> Bool {
        guard current.index == configurationIndex else { return current.index > configurationIndex }
        return replicas.contains { replica in
            let membership: ReplicaRecord.Membership =
                current.voters.contains(replica.id)
                ? .voter : current.learners.contains(replica.id) ? .learner : .absent
            return replica.membership != membership || !replica.isWanted && membership == .absent
        }
    }

    /// The next configuration on the way to what is wanted, as it may follow from `current` in one change; as `current`
    /// is, if there is nothing to do. Nobody votes who was no learner before.
    ///
    /// - Parameters:
    ///   - nextReplica: the map's. Members from there on came later than this map, and stay; others that it does not
    ///     name go.
    ///   - isCaughtUp: whether a learner may vote now.
    public func configuration(
        after current: Configuration, nextReplica: ReplicaID, isCaughtUp: (ReplicaID) -> Bool
    ) -> Configuration {
        var voters: [ReplicaID] = []
        var learners: [ReplicaID] = []
        for replica in replicas where replica.isWanted {
            let isVoter = current.voters.contains(replica.id)
            if replica.role == .voter,
                isVoter || current.learners.contains(replica.id) && isCaughtUp(replica.id)
            {
                voters.append(replica.id)
            } else {
                learners.append(replica.id)
            }
        }
        voters += current.voters.filter { $0 >= nextReplica }
        learners += current.learners.filter { $0 >= nextReplica }
        // Voters go when others are there to vote; until then those learn.
        if voters.isEmpty {
            voters = current.voters
            learners.removeAll(where: voters.contains)
        }
        return Configuration(index: current.index, voters: voters, learners: learners)
    }

    /// Nothing of the group was ever changed, so that the first version of the format can say all.
    var isAsFounded: Bool {
        state == .running && configurationIndex == .zero && founders.count == replicas.count
            && zip(founders, replicas).allSatisfy { founder, replica in
                founder == replica.id && replica.role == .voter && replica.membership == .voter
                    && replica.successorOf == .none
            }
    }
}

extension ClusterMap {
    /// What is wrong with a group of this map, in words; nil if nothing is. That no replica belongs to another group
    /// too is not looked at here.
    public func problem(of group: GroupRecord) -> String? {
        guard group.replicas.count <= Self.replicasPerGroupMax else {
            return "group \(group.id) has more than \(Self.replicasPerGroupMax) replicas"
        }
        guard group.id != .meta || group.state == .running else { return "the meta group is stopped, and can't be" }
        guard group.configurationIndex.rawValue < Self.counterMax else {
            return "the configuration's index of group \(group.id) is not below 2^62"
        }
        guard let preferred = group.record(of: group.preferredLeader) else {
            return "group \(group.id) prefers a leader that is none of its replicas"
        }
        guard preferred.role == .voter else {
            return "group \(group.id) prefers replica \(preferred.id) as leader, which is not to vote"
        }
        guard !group.founders.isEmpty, group.founders.count <= Self.replicasPerGroupMax else {
            return "group \(group.id) has \(group.founders.count) founders, not 1 to \(Self.replicasPerGroupMax)"
        }
        for (position, founder) in group.founders.enumerated() {
            guard founder != .none, founder < nextReplica else {
                return "founder \(founder) is not between 1 and the next id \(nextReplica)"
            }
            guard position == 0 || group.founders[position - 1] < founder else {
                return "founder \(founder) of group \(group.id) is out of order"
            }
        }
        for (position, replica) in group.replicas.enumerated() {
            if let problem = problem(of: replica, at: position, in: group) { return problem }
        }
        return nil
    }

    private func problem(of replica: ReplicaRecord, at position: Int, in group: GroupRecord) -> String? {
        guard replica.id != .none, replica.id < nextReplica else {
            return "replica \(replica.id) is not between 1 and the next id \(nextReplica)"
        }
        guard position == 0 || group.replicas[position - 1].id < replica.id else {
            return "replica \(replica.id) of group \(group.id) is out of order"
        }
        guard host(replica.host) != nil else {
            return "replica \(replica.id) is on host \(replica.host), which does not exist"
        }
        guard !group.replicas[..<position].contains(where: { $0.host == replica.host }) else {
            return "group \(group.id) has two replicas on host \(replica.host)"
        }
        if replica.successorOf != .none {
            guard replica.role != .leaving, replica.successorOf != replica.id,
                group.record(of: replica.successorOf) != nil
            else { return "replica \(replica.id) is to follow replica \(replica.successorOf), which can't be" }
            let others = group.replicas[..<position]
            guard !others.contains(where: { $0.successorOf == replica.successorOf }) else {
                return "two replicas of group \(group.id) are to follow replica \(replica.successorOf)"
            }
        }
        return nil
    }
}
