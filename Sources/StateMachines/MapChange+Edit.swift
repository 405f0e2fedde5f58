// What a change does to a map, or why it does nothing. Pure, and the same on every replica: nothing but the change and
// the map goes in. Writes nothing: the meta machine carries out the edit.

public import Messages
import Primitives
public import Ring

/// The one record in which the next map differs from the present one, the ids to give next, and the ids that came about
/// or that the change was about.
struct MapEdit {
    enum Part {
        /// Everything is as it is wanted.
        case nothing
        case host(HostRecord)
        case hostRemoved(HostID)
        case group(GroupRecord)
        case groupRemoved(GroupID)
        case migration(MigrationRecord)
        /// The ring changes with it.
        case migrationCommitted(MigrationRecord)
        case migrationRemoved(MigrationID)
        case featureLevel(UInt32)
        case access(AccessPolicy)
    }
    var part: Part
    var nextGroup: GroupID
    var nextReplica: ReplicaID
    var host = HostID(0)
    var group = GroupID.meta
    var replica = ReplicaID.none

    init(_ part: Part, of map: ClusterMap) {
        self.part = part
        nextGroup = map.nextGroup
        nextReplica = map.nextReplica
    }

    /// Makes the next version of the map that it was made for; nothing is the same version.
    func apply(to map: inout ClusterMap) {
        switch part {
        case .nothing: return
        case .host(let host): map.replace(host)
        case .hostRemoved(let id): map.removeHost(id)
        case .group(let group): map.replace(group)
        case .groupRemoved(let id): map.removeGroup(id)
        case .migration(let migration): map.replace(migration)
        case .migrationCommitted(let migration):
            map.replace(migration)
            map.ring.assign(migration.slots, to: migration.target)
        case .migrationRemoved(let id): map.removeMigration(id)
        case .featureLevel(let level):
            map.featureLevel = level
            // From this level on each map of a host has one; this one lets everybody in, as before.
            if level >= FeatureLevel.access, map.access == nil { map.access = AccessPolicy() }
        case .access(let policy): map.access = policy
        }
        map.nextGroup = nextGroup
        map.nextReplica = nextReplica
        map.version += 1
    }
}

extension MapChange {
    /// Whether hosts that know the cluster's level know this change at all. All but `raiseFeatureLevel` need the level;
    /// that one needs hosts that know it.
    func levelRefusal(_ map: ClusterMap) -> Refusal? {
        if case .raiseFeatureLevel(let wanted) = self {
            let level = max(wanted, FeatureLevel.membership)
            guard let old = map.hosts.first(where: { $0.featureLevel < level }) else { return nil }
            return .invalid(
                "feature level \(level) needs hosts that all know it, and host \(old.id) knows \(old.featureLevel): "
                    + "upgrade it first")
        }
        let least: UInt32 =
            switch self {
            case .setGroupState, .setHostWeight: FeatureLevel.transactions
            case .migrate, .commitMigration, .migrationReleased, .migrationActivated, .abortMigration, .migrationDone,
                .limitMigration:
                FeatureLevel.migrations
            case .putRole, .deleteRole, .putUser, .deleteUser, .setAccessRequired: FeatureLevel.access
            default: FeatureLevel.membership
            }
        guard map.featureLevel < least else { return nil }
        return .invalid(
            "the cluster uses feature level \(map.featureLevel), and this change needs \(least): "
                + "upgrade all hosts, then raise the level")
    }

    /// Why the change would do nothing to this map; nil if it would be carried out, or everything is as it wants it. In
    /// the words of the meta group's answer: who asks for a change of a version of the map that he knows can tell by it
    /// whether the answer was given about that version or about another.
    public func refusal(by map: ClusterMap) -> Refusal? {
        do throws(Refusal) {
            _ = try edit(map, expecting: map.version)
            return nil
        } catch {
            return error
        }
    }

    /// The map that the change makes of this one; nil if it would be refused.
    public func applied(to map: ClusterMap) -> ClusterMap? {
        guard let edit = try? edit(map, expecting: map.version) else { return nil }
        var next = map
        edit.apply(to: &next)
        return next
    }

    /// - Parameter version: of the map that the change was made for; 0: any.
    func edit(_ map: ClusterMap, expecting version: UInt64) throws(Refusal) -> MapEdit {
        if let refusal = levelRefusal(map) { throw refusal }
        guard version == 0 || version == map.version else {
            throw .invalid(
                "the change was made for version \(version) of the map, which has version \(map.version) by now: "
                    + "look at it and decide again")
        }
        guard map.version + 1 < ClusterMap.counterMax else { throw .invalid("the map's versions are used up") }
        switch self {
        case .addReplica(let group, let host, let role, let predecessor):
            return try adding(to: map.known(group), host, role, predecessor, map)
        case .setRole(let group, let replica, let role):
            guard role != .replaced else {
                throw .invalid("a replica gets the role \(role) by the command to replace it, not by setting it")
            }
            return try setting(role, of: replica, in: map.known(group), map)
        case .replaceReplica(let group, let replica):
            return try setting(.replaced, of: replica, in: map.known(group), map)
        case .settled(let group, let index, let voters, let learners):
            return try settling(map.known(group), index, voters, learners, map)
        case .createGroup(let weight, let hosts, let preferred):
            return try creating(weight: weight, hosts, preferred: Int(preferred), map)
        case .deleteGroup(let group): return try deleting(map.known(group), map)
        case .setHostState(let host, let state):
            var record = try map.known(host)
            let isSame = record.state == state
            record.state = state
            var edit = MapEdit(isSame ? .nothing : .host(record), of: map)
            edit.host = host
            return edit
        case .removeHost(let host):
            _ = try map.known(host)
            let replicas = map.replicas(on: host).count
            guard replicas == 0 else {
                throw .invalid(
                    "host \(host) has \(replicas) replicas: let it drain, and remove it when it has none")
            }
            var edit = MapEdit(.hostRemoved(host), of: map)
            edit.host = host
            return edit
        case .raiseFeatureLevel(let level):
            guard level >= map.featureLevel else {
                throw .invalid(
                    "the cluster uses feature level \(map.featureLevel) and may not go back to \(level)")
            }
            return MapEdit(level == map.featureLevel ? .nothing : .featureLevel(level), of: map)
        case .setGroupState(let group, let state):
            guard group != .meta else { throw .invalid("the meta group can't be stopped: the cluster's map is in it") }
            let old = try map.known(group)
            var record = old
            record.state = state
            return try edit(of: old, to: record, .none, map)
        case .setHostWeight(let host, let weight):
            var record = try map.known(host)
            let isSame = record.weight == weight
            record.weight = weight
            var edit = MapEdit(isSame ? .nothing : .host(record), of: map)
            edit.host = host
            return edit
        case .preferLeader(let group, let replica):
            let old = try map.known(group)
            guard try old.known(replica).role == .voter else {
                throw .invalid("replica \(replica) is not to vote in group \(group): prefer a voter as leader")
            }
            var record = old
            record.preferredLeader = replica
            return try edit(of: old, to: record, replica, map)
        case .migrate(let slots, let source, let target, let limits):
            return try migrating(slots, source, target, limits, map)
        case .commitMigration(let id, let index, let digest): return try committing(id, index, digest, map)
        case .migrationReleased(let id, let index, let revision):
            return try stepping(id, to: .released, map) { (migration) throws(Refusal) in
                guard index > migration.sourceIndex else {
                    throw .invalid(
                        "migration \(id) was frozen at index \(migration.sourceIndex), and can't be released at \(index)"
                    )
                }
                guard revision.rawValue < ClusterMap.counterMax else {
                    throw .invalid("revision \(revision) of migration \(id) is not below 2^62")
                }
                migration.sourceIndex = index
                migration.sourceRevision = revision
            }
        case .migrationActivated(let id): return try stepping(id, to: .activated, map) { _ in }
        case .abortMigration(let id, let lost): return try aborting(id, lost, map)
        case .migrationDone(let id, let side): return try finishing(id, side, map)
        case .limitMigration(let id, let limits): return try limiting(id, limits, map)
        case .putRole, .deleteRole, .putUser, .deleteUser, .setAccessRequired: return try changingAccess(map)
        }
    }

    // MARK: - Members

    private func adding(
        to group: GroupRecord, _ host: HostID, _ role: ReplicaRecord.Role, _ predecessor: ReplicaID, _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        guard role == .voter || role == .learner else {
            throw .invalid("a new replica is to be a voter or a learner, not \(role)")
        }
        try map.expectActive(host)
        if let there = group.replicas.first(where: { $0.host == host }) {
            throw .invalid(
                there.isWanted
                    ? "host \(host) has replica \(there.id) of group \(group.id) already: choose another host"
                    : "replica \(there.id) of group \(group.id) has not left host \(host) yet: wait, or choose another host"
            )
        }
        guard group.replicas.count < ClusterMap.replicasPerGroupMax else {
            throw .invalid("group \(group.id) has \(group.replicas.count) replicas, which is the most that it can have")
        }
        if predecessor != .none {
            let old = try group.known(predecessor)
            guard old.isWanted else {
                throw .invalid(
                    "replica \(predecessor) of group \(group.id) is \(old.role) already and gets no successor")
            }
            if let successor = group.replicas.first(where: { $0.successorOf == predecessor }) {
                throw .invalid("replica \(predecessor) of group \(group.id) has a successor already, \(successor.id)")
            }
            guard role == .voter || old.role == .learner else {
                throw .invalid("replica \(predecessor) votes: its successor is to be a voter, not a learner")
            }
        }
        var record = group
        record.replicas.append(
            ReplicaRecord(
                id: map.nextReplica, host: host, role: role, membership: .absent, successorOf: predecessor))
        return try edit(
            of: group, to: record, map.nextReplica, map, nextReplica: ReplicaID(map.nextReplica.rawValue + 1))
    }

    private func setting(
        _ role: ReplicaRecord.Role, of replica: ReplicaID, in group: GroupRecord, _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        let old = try group.known(replica)
        guard old.role != role else { return try edit(of: group, to: group, replica, map) }
        guard old.isWanted || old.role == .replaced && role == .leaving else {
            throw .invalid(
                "replica \(replica) of group \(group.id) is \(old.role), which is final: add another replica")
        }
        guard role != .replaced || old.role == .voter else {
            throw .invalid(
                "only voters are replaced, and replica \(replica) of group \(group.id) is a learner: "
                    + "let it leave, and add another one")
        }
        if role == .replaced, let successor = group.replicas.first(where: { $0.successorOf == replica }) {
            throw .invalid("replica \(replica) of group \(group.id) has a successor, \(successor.id): let it leave")
        }
        var record = group
        for place in record.replicas.indices where record.replicas[place].id == replica {
            record.replicas[place].role = role
            // Who leaves follows nobody: the other may get another successor.
            if role == .leaving { record.replicas[place].successorOf = .none }
        }
        if old.role == .voter {
            guard let heir = record.heir(of: replica) else {
                throw .invalid(
                    "replica \(replica) is the only one of group \(group.id) that is to vote: add another voter first")
            }
            if record.preferredLeader == replica { record.preferredLeader = heir }
        }
        return try edit(of: group, to: record, replica, map)
    }

    private func settling(
        _ group: GroupRecord, _ index: LogIndex, _ voters: [ReplicaID], _ learners: [ReplicaID], _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        guard !voters.isEmpty, !voters.contains(where: learners.contains) else {
            throw .invalid(
                "a configuration of group \(group.id) has voters, each of them no learner; this one has "
                    + "\(voters.count) and \(learners.count)")
        }
        // The same one again is looked at: it may say that a replica was never in that meanwhile is to go.
        guard index >= group.configurationIndex else { return MapEdit(.nothing, of: map) }
        var record = group
        record.configurationIndex = index
        var next = map.nextReplica
        var added = ReplicaID.none
        record.replicas = []
        var newcomers: [ReplicaRecord] = []
        for var replica in group.replicas {
            replica.membership =
                voters.contains(replica.id) ? .voter : learners.contains(replica.id) ? .learner : .absent
            guard !replica.isWanted, replica.membership == .absent else {
                record.replicas.append(replica)
                continue
            }
            guard replica.role == .replaced else { continue }
            newcomers.append(
                ReplicaRecord(
                    id: next, host: replica.host, role: .voter, membership: .absent, successorOf: replica.successorOf))
            if added == .none { added = next }
            next = ReplicaID(next.rawValue + 1)
        }
        record.replicas += newcomers
        for place in record.replicas.indices where record.record(of: record.replicas[place].successorOf) == nil {
            record.replicas[place].successorOf = .none
        }
        return try edit(of: group, to: record, added, map, nextReplica: next)
    }

    /// A group's record as it is to be, checked.
    private func edit(
        of old: GroupRecord, to record: GroupRecord, _ replica: ReplicaID, _ map: ClusterMap,
        nextReplica: ReplicaID? = nil
    ) throws(Refusal) -> MapEdit {
        var edit = MapEdit(record == old ? .nothing : .group(record), of: map)
        edit.nextReplica = nextReplica ?? map.nextReplica
        edit.group = record.id
        edit.replica = replica
        var next = map
        next.nextReplica = edit.nextReplica
        guard edit.nextReplica.rawValue < ClusterMap.counterMax else { throw .invalid("the replicas' ids are used up") }
        if let problem = next.problem(of: record) { throw .invalid(problem) }
        return edit
    }

    // MARK: - Groups

    private func creating(
        weight: UInt32, _ hosts: [HostID], preferred: Int, _ map: ClusterMap
    ) throws(Refusal) -> MapEdit {
        guard map.groups.count < ClusterMap.groupsMax, map.nextGroup.rawValue < ClusterMap.groupNumberMax else {
            throw .invalid(
                "there are \(map.groups.count) groups, of at most \(ClusterMap.groupsMax), and the next number is "
                    + "\(map.nextGroup), of at most \(ClusterMap.groupNumberMax): no group can come")
        }
        guard !hosts.isEmpty, hosts.count <= ClusterMap.replicasPerGroupMax, preferred < hosts.count else {
            throw .invalid(
                "a group has 1 to \(ClusterMap.replicasPerGroupMax) replicas, one of which is preferred as leader, "
                    + "not \(hosts.count) and the one at position \(preferred)")
        }
        var replicas: [ReplicaRecord] = []
        var next = map.nextReplica
        for host in hosts {
            try map.expectActive(host)
            replicas.append(ReplicaRecord(id: next, host: host))
            next = ReplicaID(next.rawValue + 1)
        }
        let record = GroupRecord(
            id: map.nextGroup, weight: weight, replicas: replicas, preferredLeader: replicas[preferred].id)
        var edit = MapEdit(.group(record), of: map)
        edit.nextGroup = GroupID(map.nextGroup.rawValue + 1)
        edit.nextReplica = next
        edit.group = record.id
        edit.replica = replicas[0].id
        guard next.rawValue < ClusterMap.counterMax else { throw .invalid("the replicas' ids are used up") }
        var changed = map
        changed.nextReplica = next
        if let problem = changed.problem(of: record) { throw .invalid(problem) }
        return edit
    }

    private func deleting(_ group: GroupRecord, _ map: ClusterMap) throws(Refusal) -> MapEdit {
        guard group.id != .meta else { throw .invalid("the meta group has the cluster's map and can't be deleted") }
        let slots = map.ring.slots(of: group.id).count
        guard slots == 0 else {
            throw .invalid("group \(group.id) has \(slots) slots: move them to other groups first")
        }
        if let migration = map.migrations.first(where: { $0.source == group.id || $0.target == group.id }) {
            throw .invalid("group \(group.id) is part of migration \(migration.id): wait until it is over, or abort it")
        }
        var edit = MapEdit(.groupRemoved(group.id), of: map)
        edit.group = group.id
        return edit
    }
}

extension ClusterMap {
    fileprivate func known(_ id: GroupID) throws(Refusal) -> GroupRecord {
        guard let group = group(id) else { throw .invalid("there is no group \(id)") }
        return group
    }

    fileprivate func known(_ id: HostID) throws(Refusal) -> HostRecord {
        guard let host = host(id) else { throw .invalid("there is no host \(id)") }
        return host
    }

    fileprivate func expectActive(_ id: HostID) throws(Refusal) {
        guard try known(id).state == .active else {
            throw .invalid("host \(id) is draining and gets no replicas: choose another, or make it active again")
        }
    }
}

extension GroupRecord {
    fileprivate func known(_ id: ReplicaID) throws(Refusal) -> ReplicaRecord {
        guard let replica = record(of: id) else { throw .invalid("group \(self.id) has no replica \(id)") }
        return replica
    }

    /// Who is preferred as leader after a replica that is not to vote any more; nil if nobody is to vote. Its successor
    /// if that votes, so that a move takes the preference along; else the first that votes already, else the first.
    fileprivate func heir(of replica: ReplicaID) -> ReplicaID? {
        let voters = replicas.filter { $0.role == .voter && $0.id != replica }
        let voting = voters.filter { $0.membership == .voter }
        return (voting.first { $0.successorOf == replica } ?? voting.first ?? voters.first)?.id
    }
}
