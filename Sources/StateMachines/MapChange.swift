// Changes of the cluster's map one by one: members of groups, groups, hosts, feature level, users and roles. Owns their encoding.
// What they do is in MapChange+Edit; who asks for them, and why, is the planner's, the leaders' and people's business.

public import Primitives
public import Ring

/// One change of the map. Behind a command header: `number u8 | version u8 = 1 | expecting u64 | fields`.
///
/// The map says what is *wanted*; each group's leader brings its configuration to it, step by step, and `settled` says
/// what has come about. So a crash at any point leaves a map that says what is still to do.
public enum MapChange: Hashable, Sendable {
    /// 3, `group u32 | host u64 | role u8 | successor of u64`: a new replica, under the next id, on a host that has none
    /// of the group, to be a voter or a learner. Given another replica, it is that one's successor: the first half of a
    /// move, of which the second is to let the other leave when this one is what it is to be.
    case addReplica(GroupID, host: HostID, role: ReplicaRecord.Role, successorOf: ReplicaID)
    /// 4, `group u32 | replica u64 | role u8`: promotes a learner, demotes a voter, or lets a replica leave, which is
    /// final. A group keeps at least one replica that is to vote. If it was preferred as leader and does not stay a
    /// voter, another voter is.
    case setRole(GroupID, ReplicaID, ReplicaRecord.Role)
    /// 5, `group u32 | configuration index u64 | voters: count u8, id u64 … | learners likewise`: what a group's leader
    /// reports of a committed configuration that is not joint. An older one than the last is ignored. Records of
    /// replicas that were to go and are not in it go; in the place of one that was `replaced` comes a new replica.
    case settled(GroupID, index: LogIndex, voters: [ReplicaID], learners: [ReplicaID])
    /// 6, `weight u32 | preferred u8 | hosts: count u8, id u64 …`: a new group without slots, with a replica on each
    /// host, all founders. `preferred` is the position of the host whose replica is preferred as leader.
    case createGroup(weight: UInt32, hosts: [HostID], preferred: UInt8)
    /// 7, `group u32`: only when the ring gives it no slots. Its id never comes again.
    case deleteGroup(GroupID)
    /// 8, `host u64 | state u8`
    case setHostState(HostID, HostState)
    /// 9, `host u64`: only when no replica is on it. Its id never comes again.
    case removeHost(HostID)
    /// 10, `group u32 | replica u64`: for a voter that lost its identity. It is removed, and when that is done a new
    /// one takes its place on the same host.
    case replaceReplica(GroupID, ReplicaID)
    /// 11, `level u32`: allows the formats and commands up to this level; every host must know them. Never lowered.
    case raiseFeatureLevel(UInt32)
    /// 12, `group u32 | replica u64`: who is to lead when all are well. One that is to vote.
    case preferLeader(GroupID, ReplicaID)
    /// 14, `group u32 | state u8`: from feature level 5 on. Not of the meta group.
    case setGroupState(GroupID, GroupRecord.State)
    /// 15, `host u64 | weight u32`: from feature level 5 on.
    case setHostWeight(HostID, UInt32)
    /// 16, `source u32 | target u32 | limits (`MigrationLimits`) | slots (`ByteWriter.write(slots:)`)`: a migration of slots
    /// that the source owns and no migration has. This and the next ones: from feature level 11 on.
    case migrate([Slot], from: GroupID, to: GroupID, limits: MigrationLimits = MigrationLimits())
    /// 17, `migration u64 | index u64 | digest u64`: the target's leader says that its group has all of the slots as they
    /// were frozen at this index of the source's log, and the digest that both have of it. That is the decision: the ring
    /// names the target. An aborted one is not decided any more.
    case commitMigration(MigrationID, frozen: LogIndex, digest: UInt64)
    /// 18, `migration u64 | index u64 | revision u64`: the source's leader says that its group has released the slots by this
    /// index, and that nobody was told of a higher revision for them.
    case migrationReleased(MigrationID, LogIndex, Revision)
    /// 19, `migration u64`: the target's leader says that its group serves the slots.
    case migrationActivated(MigrationID)
    /// 20, `migration u64 | lost time (`LostTime`)`: nothing moves; only before it is decided. The lost time is why, if it is
    /// that; whoever else asks for it has none.
    case abortMigration(MigrationID, LostTime = .none)
    /// 21, `migration u64 | side u8`: the group on this side has forgotten one that is aborted, or, of the source, has
    /// cleaned up behind one that is activated.
    case migrationDone(MigrationID, MigrationSide)
    /// 22, `migration u64 | limits`: other limits for one that is not decided yet.
    case limitMigration(MigrationID, MigrationLimits)
    /// 27, `role` (`AccessRole`): a new role, or another form of one that there is, as a whole. This and the next ones: from feature
    /// level 12 on.
    case putRole(AccessRole)
    /// 28, `name: length u32, UTF-8`: only when no user has it.
    case deleteRole(String)
    /// 29, `user` (`AccessUser`): a new user, or another form of one that there is, as a whole, tokens too.
    case putUser(AccessUser)
    /// 30, `name: length u32, UTF-8`: while authentication is required, not the last one who may administer everything.
    case deleteUser(String)
    /// 31, `is required u8`: whether who is no user may do nothing. It is required only when somebody may administer everything.
    case setAccessRequired(Bool)

    /// A planned step, as a change.
    public init(_ step: Planner.Step) {
        switch step {
        case .add(let group, let host, let role, let predecessor):
            self = .addReplica(group, host: host, role: role, successorOf: predecessor)
        case .leave(let group, let replica): self = .setRole(group, replica, .leaving)
        case .prefer(let group, let replica): self = .preferLeader(group, replica)
        }
    }

    /// 13 is a recovery's; 23 to 26 are a rebalancing's.
    static func isOne(_ number: UInt8) -> Bool {
        number >= 3 && number <= 31 && number != 13 && !(23...26).contains(number)
    }

    var number: UInt8 {
        switch self {
        case .addReplica: 3
        case .setRole: 4
        case .settled: 5
        case .createGroup: 6
        case .deleteGroup: 7
        case .setHostState: 8
        case .removeHost: 9
        case .replaceReplica: 10
        case .raiseFeatureLevel: 11
        case .preferLeader: 12
        case .setGroupState: 14
        case .setHostWeight: 15
        case .migrate: 16
        case .commitMigration: 17
        case .migrationReleased: 18
        case .migrationActivated: 19
        case .abortMigration: 20
        case .migrationDone: 21
        case .limitMigration: 22
        case .putRole: 27
        case .deleteRole: 28
        case .putUser: 29
        case .deleteUser: 30
        case .setAccessRequired: 31
        }
    }

    func encode(into writer: inout ByteWriter) {
        switch self {
        case .addReplica(let group, let host, let role, let predecessor):
            writer.write(group)
            writer.write(host)
            writer.write(role.rawValue)
            writer.write(predecessor)
        case .setRole(let group, let replica, let role):
            writer.write(group)
            writer.write(replica)
            writer.write(role.rawValue)
        case .settled(let group, let index, let voters, let learners):
            writer.write(group)
            writer.write(index)
            writer.writeShortList(voters)
            writer.writeShortList(learners)
        case .createGroup(let weight, let hosts, let preferred):
            writer.write(weight)
            writer.write(preferred)
            writer.writeShortList(hosts)
        case .deleteGroup(let group): writer.write(group)
        case .setHostState(let host, let state):
            writer.write(host)
            writer.write(state.rawValue)
        case .removeHost(let host): writer.write(host)
        case .replaceReplica(let group, let replica), .preferLeader(let group, let replica):
            writer.write(group)
            writer.write(replica)
        case .raiseFeatureLevel(let level): writer.write(level)
        case .setGroupState(let group, let state):
            writer.write(group)
            writer.write(state.rawValue)
        case .setHostWeight(let host, let weight):
            writer.write(host)
            writer.write(weight)
        case .migrate(let slots, let source, let target, let limits):
            writer.write(source)
            writer.write(target)
            limits.encode(into: &writer)
            writer.write(slots: slots)
        case .commitMigration(let migration, let index, let digest):
            writer.write(migration)
            writer.write(index)
            writer.write(digest)
        case .migrationReleased(let migration, let index, let revision):
            writer.write(migration)
            writer.write(index)
            writer.write(revision)
        case .migrationActivated(let migration): writer.write(migration)
        case .abortMigration(let migration, let lost):
            writer.write(migration)
            lost.encode(into: &writer)
        case .migrationDone(let migration, let side):
            writer.write(migration)
            writer.write(side.rawValue)
        case .limitMigration(let migration, let limits):
            writer.write(migration)
            limits.encode(into: &writer)
        case .putRole(let role): role.encode(into: &writer)
        case .putUser(let user): user.encode(into: &writer)
        case .deleteRole(let name), .deleteUser(let name): writer.writeWithLength(name)
        case .setAccessRequired(let isRequired): writer.write(isRequired)
        }
    }

    init(number: UInt8, from reader: inout ByteReader) throws(DecodingFailure) {
        switch number {
        case 3:
            self = .addReplica(
                try reader.read(), host: try reader.read(), role: try reader.readRole(), successorOf: try reader.read())
        case 4: self = .setRole(try reader.read(), try reader.read(), try reader.readRole())
        case 5:
            self = .settled(
                try reader.read(), index: try reader.read(), voters: try reader.readShortList(),
                learners: try reader.readShortList())
        case 6:
            let weight = try reader.read(UInt32.self)
            let preferred = try reader.read(UInt8.self)
            self = .createGroup(weight: weight, hosts: try reader.readShortList(), preferred: preferred)
        case 7: self = .deleteGroup(try reader.read())
        case 8:
            let host = try reader.read(HostID.self)
            let number = try reader.read(UInt8.self)
            guard let state = HostState(rawValue: number) else {
                throw DecodingFailure(expected: "a host's state, 1 or 2", found: "\(number)")
            }
            self = .setHostState(host, state)
        case 9: self = .removeHost(try reader.read())
        case 10: self = .replaceReplica(try reader.read(), try reader.read())
        case 11: self = .raiseFeatureLevel(try reader.read())
        case 12: self = .preferLeader(try reader.read(), try reader.read())
        case 14:
            let group = try reader.read(GroupID.self)
            let number = try reader.read(UInt8.self)
            guard let state = GroupRecord.State(rawValue: number) else {
                throw DecodingFailure(expected: "a group's state, 1 or 2", found: "\(number)")
            }
            self = .setGroupState(group, state)
        case 15: self = .setHostWeight(try reader.read(), try reader.read())
        case 16:
            let (source, target) = (try reader.read(GroupID.self), try reader.read(GroupID.self))
            let limits = try MigrationLimits(from: &reader)
            self = .migrate(try reader.readSlots(), from: source, to: target, limits: limits)
        case 17: self = .commitMigration(try reader.read(), frozen: try reader.read(), digest: try reader.read())
        case 18: self = .migrationReleased(try reader.read(), try reader.read(), try reader.read())
        case 19: self = .migrationActivated(try reader.read())
        case 20: self = .abortMigration(try reader.read(), try LostTime(from: &reader))
        case 21:
            let migration = try reader.read(MigrationID.self)
            let number = try reader.read(UInt8.self)
            guard let side = MigrationSide(rawValue: number) else {
                throw DecodingFailure(expected: "a side of a migration, 1 or 2", found: "\(number)")
            }
            self = .migrationDone(migration, side)
        case 22: self = .limitMigration(try reader.read(), try MigrationLimits(from: &reader))
        case 27: self = .putRole(try AccessRole(from: &reader))
        case 28: self = .deleteRole(try reader.readStringWithLength(limit: AccessPolicy.nameBytesMax))
        case 29: self = .putUser(try AccessUser(from: &reader))
        case 30: self = .deleteUser(try reader.readStringWithLength(limit: AccessPolicy.nameBytesMax))
        case 31: self = .setAccessRequired(try reader.readBool())
        default: throw DecodingFailure(expected: "a change of the map, 3 to 31", found: "kind \(number)")
        }
    }
}

extension ByteWriter {
    /// At most 255.
    fileprivate mutating func writeShortList<ID: Identifier>(_ list: [ID]) {
        precondition(list.count <= UInt8.max, "a list of at most 255 ids")
        write(UInt8(list.count))
        for id in list { write(id) }
    }
}

extension ByteReader {
    fileprivate mutating func readShortList<ID: Identifier>() throws(DecodingFailure) -> [ID] {
        var list: [ID] = []
        for _ in 0..<(try read(UInt8.self)) { list.append(try read()) }
        return list
    }

    fileprivate mutating func readRole() throws(DecodingFailure) -> ReplicaRecord.Role {
        let number = try read(UInt8.self)
        guard let role = ReplicaRecord.Role(rawValue: number) else {
            throw DecodingFailure(expected: "a replica's role, 1 to 4", found: "\(number)")
        }
        return role
    }
}
