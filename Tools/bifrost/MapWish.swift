// What somebody wants of the map, decided anew on each map that is read: the change to ask for, or that there is
// nothing left to change. Pure. Names are ids here already: between two readings a name may come to mean another.

package import Primitives
package import Ring
package import StateMachines

/// A change of the map that somebody asked for.
package enum MapWish: Sendable, Equatable {
    case addReplica(GroupID, host: HostID, role: ReplicaRecord.Role, successorOf: ReplicaID)
    case setRole(GroupID, ReplicaID, ReplicaRecord.Role)
    case replaceReplica(GroupID, ReplicaID)
    /// The replica leads whenever it can.
    case preferLeader(GroupID, ReplicaID)
    /// On these hosts; the first one's replica is preferred as leader.
    case createGroup(weight: UInt32, hosts: [HostID])
    case deleteGroup(GroupID)
    case setHostState(HostID, HostState)
    case setHostWeight(HostID, UInt32)
    case setGroupState(GroupID, GroupRecord.State)
    case removeHost(HostID)
    /// As `preferLeader`, of a plan that was made a moment ago: nothing where the replica may not lead any more.
    case spreadLeader(GroupID, ReplicaID)
    /// At least so high.
    case raiseFeatureLevel(UInt32)
    /// All of them that the first group has, to the second.
    case moveSlots([Slot], from: GroupID, to: GroupID)
    /// It comes to nothing, unless it is decided already.
    case abortMigration(MigrationID)

    /// What the wish is about, as far as it is known.
    package struct Subject: Sendable, Equatable {
        package var group = GroupID.meta
        package var replica = ReplicaID.none
        package init(group: GroupID = .meta, replica: ReplicaID = .none) {
            self.group = group
            self.replica = replica
        }
    }

    package enum Decision: Sendable, Equatable {
        /// Ask for this, and only for this version of the map.
        case ask(MapChange)
        /// The map says already what is wished.
        case there(Subject)
    }

    /// What was asked for before this map was read.
    package enum Past: Sendable, Equatable {
        /// Nothing: it is the first look.
        case nothing
        /// It was refused, since the map had changed.
        case refused
        /// Perhaps it took effect: the answer was lost. Whether it did shows in the map that follows the one that it
        /// was asked for.
        case unknown(asked: ClusterMap)
    }

    /// What to ask for on this map. An error is final: the wish makes no sense here.
    ///
    /// A wish that finds its end already reached, by whomever, asks for nothing: two people with the same wish get one
    /// replica, and so does one whose answer was lost. A replica that is gone is reached only on a later look; on the
    /// first one it is a mistake.
    package func decide(_ map: ClusterMap, past: Past = .nothing) throws(ToolError) -> Decision {
        switch self {
        case .addReplica(let group, let host, let role, let predecessor):
            return try adding(to: MapNames.group(group, in: map), in: map, host, role, predecessor)
        case .setRole(let group, let replica, let role):
            let there = Subject(group: group, replica: replica)
            guard let record = try known(replica, in: group, map, past) else {
                if role == .leaving { return .there(there) }
                throw gone(replica, group)
            }
            return record.role == role ? .there(there) : .ask(.setRole(group, replica, role))
        case .replaceReplica(let group, let replica):
            let there = Subject(group: group, replica: replica)
            guard let record = try known(replica, in: group, map, past) else { return .there(there) }
            return record.role == .replaced ? .there(there) : .ask(.replaceReplica(group, replica))
        case .preferLeader(let id, let replica):
            guard try known(replica, in: id, map, past) != nil else { throw gone(replica, id) }
            return try MapNames.group(id, in: map).preferredLeader == replica
                ? .there(Subject(group: id, replica: replica)) : .ask(.preferLeader(id, replica))
        case .createGroup(let weight, let hosts):
            // A number is given once: had it taken effect, the group would have the one that was next.
            if case .unknown(let asked) = past, let group = map.group(asked.nextGroup), group.weight == weight,
                Set(group.replicas.map(\.host)) == Set(hosts)
            {
                return .there(Subject(group: group.id))
            }
            return .ask(.createGroup(weight: weight, hosts: hosts, preferred: 0))
        case .deleteGroup(let group):
            // A number is given once: one that was given and is not there was deleted, by whomever.
            let wasGiven = group != .meta && group < map.nextGroup
            if map.group(group) == nil, wasGiven || past != .nothing { return .there(Subject(group: group)) }
            _ = try MapNames.group(group, in: map)
            return .ask(.deleteGroup(group))
        case .setHostState(let host, let state):
            guard let record = map.host(host) else { throw gone(host) }
            return record.state == state ? .there(Subject()) : .ask(.setHostState(host, state))
        case .setHostWeight(let host, let weight):
            guard let record = map.host(host) else { throw gone(host) }
            return record.weight == weight ? .there(Subject()) : .ask(.setHostWeight(host, weight))
        case .setGroupState(let id, let state):
            let group = try MapNames.group(id, in: map)
            return group.state == state ? .there(Subject(group: id)) : .ask(.setGroupState(id, state))
        case .removeHost(let host):
            guard map.host(host) != nil else { return .there(Subject()) }
            let groups = map.replicas(on: host).map(\.group.id)
            guard groups.isEmpty else {
                let names = groups.prefix(8).map(\.name).joined(separator: ", ") + (groups.count > 8 ? ", …" : "")
                throw ToolError(
                    .negative,
                    "host \(host) has replicas of \(HumanText.count(groups.count, "group")) (\(names)): let it drain with "
                        + "'bifrost host drain \(host)', and remove it when it has none; nothing was changed")
            }
            return .ask(.removeHost(host))
        case .spreadLeader(let id, let replica):
            guard let group = map.group(id), group.preferredLeader != replica, let record = group.record(of: replica),
                map.mayPrefer(record, of: group)
            else { return .there(Subject(group: id, replica: replica)) }
            return .ask(.preferLeader(id, replica))
        case .raiseFeatureLevel(let level):
            return map.featureLevel >= level ? .there(Subject()) : .ask(.raiseFeatureLevel(level))
        case .moveSlots(let slots, let source, let target):
            _ = (try MapNames.group(source, in: map), try MapNames.group(target, in: map))
            // Those under way are no longer to be asked for.
            let left = slots.filter { slot in
                map.owner(of: slot) == source && !map.migrations.contains { $0.slots.contains(slot) }
            }
            return left.isEmpty
                ? .there(Subject(group: target)) : .ask(.migrate(left.sorted(), from: source, to: target))
        case .abortMigration(let id):
            return map.migration(id)?.canAbort ?? false ? .ask(.abortMigration(id)) : .there(Subject())
        }
    }

    private func adding(
        to group: GroupRecord, in map: ClusterMap, _ host: HostID, _ role: ReplicaRecord.Role, _ predecessor: ReplicaID
    ) throws(ToolError) -> Decision {
        let change = MapChange.addReplica(group.id, host: host, role: role, successorOf: predecessor)
        guard let there = group.replicas.first(where: { $0.host == host }), there.isWanted else { return .ask(change) }
        guard there.role == role else {
            let (present, command) = there.role == .learner ? ("a learner", "promote") : ("a voter", "demote")
            throw ToolError(
                .negative,
                "host \(host) has replica \(there.id) of \(group.id.words) already, which is to be \(present): see "
                    + "'bifrost group \(command) \(group.id) \(there.id)'; nothing was changed")
        }
        // One that is gone was there before its successor, and ids ascend. One that is another group's never was here.
        if predecessor != .none, group.record(of: predecessor) == nil,
            predecessor > there.id || map.groups.contains(where: { $0.record(of: predecessor) != nil })
        {
            _ = try MapNames.replica(predecessor, of: group)
        }
        // A successor whose predecessor is gone does not name it any more.
        guard there.successorOf == predecessor || group.record(of: predecessor) == nil else {
            throw ToolError(
                .negative,
                "host \(host) has replica \(there.id) of \(group.id.words) already, which is not the successor of "
                    + "replica \(predecessor): choose another host; nothing was changed")
        }
        return .there(Subject(group: group.id, replica: there.id))
    }

    /// Nil: it is gone since the first look.
    private func known(
        _ replica: ReplicaID, in id: GroupID, _ map: ClusterMap, _ past: Past
    ) throws(ToolError) -> ReplicaRecord? {
        let group = try MapNames.group(id, in: map)
        if group.record(of: replica) == nil, past != .nothing { return nil }
        return try MapNames.replica(replica, of: group)
    }

    private func gone(_ replica: ReplicaID, _ group: GroupID) -> ToolError {
        ToolError(
            .negative, "replica \(replica) of \(group.words) was removed meanwhile: somebody else changes the group")
    }

    private func gone(_ host: HostID) -> ToolError {
        ToolError(.negative, "host \(host) was removed meanwhile: somebody else changes the cluster")
    }
}
