// The map's bytes, on the wire and in the meta group's records. One version for the map as a whole and one in each
// record, because each stands alone in the meta group's state.

public import Primitives

extension ClusterMap {
    /// The newest that is read. Version 1 is written while no slots move, so that hosts of the version before read it. Version 3 has
    /// the policy behind all else, and is the only one that has it: hosts write it from feature level `FeatureLevel.access` on, and
    /// to clients versions 1 and 2 at every level.
    public static let formatVersion: UInt16 = 3

    /// Whose map it is, and so whether the policy has to be in it.
    public enum Form: Hashable, Sendable {
        /// With its policy, where the level has policies. What is without is not believed: it would be taken for one that lets
        /// everybody in.
        case hosts
        /// Never with its policy.
        case clients
        /// One or the other: of a save.
        case either
    }

    /// `version u16 | head | as many host records as the head says | as many group records | slot table`, and in versions 2 and 3
    /// `migrations u32 | as many migration records`, and in version 3 the policy (`AccessPolicy`). With the policy if the map has one:
    /// what goes to clients is `withoutAccess`.
    public func encode(into writer: inout ByteWriter) {
        writer.write(access != nil ? 3 : migrations.isEmpty ? 1 : 2 as UInt16)
        head.encode(into: &writer)
        for host in hosts { host.encode(into: &writer) }
        for group in groups { group.encode(into: &writer) }
        ring.encode(into: &writer)
        guard !migrations.isEmpty || access != nil else { return }
        writer.write(UInt32(migrations.count))
        for migration in migrations { migration.encode(into: &writer) }
        access?.encode(into: &writer)
    }

    /// Reads what `encode` wrote for hosts, and checks the map's invariants.
    public init(from reader: inout ByteReader) throws(DecodingFailure) { try self.init(from: &reader, form: .hosts) }

    /// Reads what `encode` wrote, and checks the map's invariants.
    public init(from reader: inout ByteReader, form: Form) throws(DecodingFailure) {
        let version = try reader.expect(versionUpTo: Self.formatVersion, of: "a cluster map")
        let head = try ClusterMapHead(from: &reader)
        let hostCount = Int(head.hosts)
        guard hostCount <= Self.hostsMax else {
            throw DecodingFailure(expected: "at most \(Self.hostsMax) hosts", found: "\(hostCount)")
        }
        try reader.check(count: hostCount, ofSize: HostRecord.encodedBytesMin)
        var hosts: [HostRecord] = []
        for _ in 0..<hostCount { hosts.append(try HostRecord(from: &reader)) }
        let groupCount = Int(head.groups)
        guard groupCount <= Self.groupsMax else {
            throw DecodingFailure(expected: "at most \(Self.groupsMax) groups", found: "\(groupCount)")
        }
        try reader.check(count: groupCount, ofSize: GroupRecord.encodedBytesMin)
        var groups: [GroupRecord] = []
        for _ in 0..<groupCount { groups.append(try GroupRecord(from: &reader)) }
        let ring = try SlotTable(from: &reader)
        var migrations: [MigrationRecord] = []
        if version > 1 {
            let count = Int(try reader.read(UInt32.self))
            guard count <= Self.migrationsMax else {
                throw DecodingFailure(expected: "at most \(Self.migrationsMax) migrations", found: "\(count)")
            }
            try reader.check(count: count, ofSize: MigrationRecord.encodedBytesMin)
            for _ in 0..<count { migrations.append(try MigrationRecord(from: &reader)) }
        }
        let access = version > 2 ? try AccessPolicy(from: &reader) : nil
        try self.init(
            head: head, hosts: hosts, groups: groups, ring: ring, migrations: migrations, access: access, form: form)
    }

    /// Puts a map together from its parts and checks that none is missing, and its invariants.
    public init(
        head: ClusterMapHead, hosts: [HostRecord], groups: [GroupRecord], ring: SlotTable,
        migrations: [MigrationRecord] = [], access: AccessPolicy? = nil, form: Form = .hosts
    ) throws(DecodingFailure) {
        guard hosts.count == Int(head.hosts), groups.count == Int(head.groups),
            migrations.count == Int(head.migrations)
        else {
            throw DecodingFailure(
                expected: "\(head.hosts) hosts, \(head.groups) groups and \(head.migrations) migrations",
                found: "\(hosts.count), \(groups.count) and \(migrations.count)")
        }
        self.init(
            cluster: head.cluster, version: head.version, featureLevel: head.featureLevel, hosts: hosts, groups: groups,
            ring: ring, migrations: migrations, access: access, nextHost: head.nextHost, nextGroup: head.nextGroup,
            nextReplica: head.nextReplica)
        self.access = access
        switch form {
        case .hosts:
            guard isWhole else {
                throw DecodingFailure(
                    expected: "users and roles in a host's map of feature level \(featureLevel)", found: "none")
            }
        case .clients:
            guard access == nil else {
                throw DecodingFailure(expected: "a client's map, without users and roles", found: "a host's")
            }
        case .either: break
        }
        if let problem = problem() { throw DecodingFailure(expected: "a consistent cluster map", found: problem) }
    }

    /// All but hosts, groups, ring, migrations and the policy.
    public var head: ClusterMapHead {
        ClusterMapHead(
            cluster: cluster, version: version, featureLevel: featureLevel, nextHost: nextHost,
            nextGroup: nextGroup, nextReplica: nextReplica, hosts: UInt32(hosts.count), groups: UInt32(groups.count),
            migrations: UInt32(migrations.count))
    }
}

/// The map's own numbers: the record that changes with every version.
public struct ClusterMapHead: Hashable, Sendable {
    public var cluster: ClusterID
    public var version: UInt64
    public var featureLevel: UInt32
    public var nextHost: HostID
    public var nextGroup: GroupID
    public var nextReplica: ReplicaID
    /// How many there are, so that a missing record shows.
    public var hosts: UInt32
    public var groups: UInt32
    public var migrations: UInt32

    /// The newest that is read. Version 1 is written while no slots move.
    public static let formatVersion: UInt16 = 2

    init(
        cluster: ClusterID, version: UInt64, featureLevel: UInt32, nextHost: HostID, nextGroup: GroupID,
        nextReplica: ReplicaID, hosts: UInt32, groups: UInt32, migrations: UInt32
    ) {
        self.cluster = cluster
        self.version = version
        self.featureLevel = featureLevel
        self.nextHost = nextHost
        self.nextGroup = nextGroup
        self.nextReplica = nextReplica
        self.hosts = hosts
        self.groups = groups
        self.migrations = migrations
    }

    /// `version u16 | cluster u64 × 2 | map version u64 | feature level u32 | next host u64 | next group u32 |
    /// next replica u64 | hosts u32 | groups u32`, and in version 2 `migrations u32`
    public func encode(into writer: inout ByteWriter) {
        writer.write(migrations == 0 ? 1 : 2 as UInt16)
        writer.write(cluster)
        writer.write(version)
        writer.write(featureLevel)
        writer.write(nextHost)
        writer.write(nextGroup)
        writer.write(nextReplica)
        writer.write(hosts)
        writer.write(groups)
        if migrations > 0 { writer.write(migrations) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let format = try reader.expect(versionUpTo: Self.formatVersion, of: "a cluster map's head")
        cluster = try reader.readClusterID()
        version = try reader.read()
        featureLevel = try reader.read()
        nextHost = try reader.read()
        nextGroup = try reader.read()
        nextReplica = try reader.read()
        hosts = try reader.read()
        groups = try reader.read()
        migrations = format > 1 ? try reader.read() : 0
    }
}

extension HostRecord {
    /// The newest that is read. Version 1 is written where it can say all, so that hosts of the version before read it.
    public static let formatVersion: UInt16 = 2
    static let encodedBytesMin = 38

    /// `version u16 | id u64 | incarnation u64 | weight u32 | feature level u32 | state u8, from version 2 on | name,
    /// address, zone: length u32, UTF-8`
    public func encode(into writer: inout ByteWriter) {
        writer.write(state == .active ? 1 : 2 as UInt16)
        writer.write(id)
        writer.write(incarnation)
        writer.write(weight)
        writer.write(featureLevel)
        if state != .active { writer.write(state.rawValue) }
        for text in [name, address, zone] { writer.writeWithLength(text) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.expect(versionUpTo: Self.formatVersion, of: "a host record")
        id = try reader.read()
        incarnation = try reader.read()
        weight = try reader.read()
        featureLevel = try reader.read()
        state = version == 1 ? .active : try reader.read(of: "a host's state, 1 or 2")
        name = try reader.readStringWithLength(limit: ClusterMap.textBytesMax)
        address = try reader.readStringWithLength(limit: ClusterMap.textBytesMax)
        zone = try reader.readStringWithLength(limit: ClusterMap.textBytesMax)
    }
}

extension GroupRecord {
    /// As a host record's.
    public static let formatVersion: UInt16 = 3
    static let encodedBytesMin = 19

    /// `version u16 | id u32 | weight u32 | preferred leader u64`, then in version 1 `replicas u8 | each: id u64, host
    /// u64`, and in version 2 `configuration index u64 | founders u8 | each: id u64 | replicas u8 | each: id u64, host
    /// u64, role u8, membership u8, successor of u64`; in version 3 `state u8` ahead of the configuration's index.
    public func encode(into writer: inout ByteWriter) {
        let isFirst = isAsFounded
        writer.write(isFirst ? 1 : state == .running ? 2 : 3 as UInt16)
        writer.write(id)
        writer.write(weight)
        writer.write(preferredLeader)
        if !isFirst {
            if state != .running { writer.write(state.rawValue) }
            writer.write(configurationIndex)
            writer.write(UInt8(founders.count))
            for founder in founders { writer.write(founder) }
        }
        writer.write(UInt8(replicas.count))
        for replica in replicas {
            writer.write(replica.id)
            writer.write(replica.host)
            if isFirst { continue }
            writer.write(replica.role.rawValue)
            writer.write(replica.membership.rawValue)
            writer.write(replica.successorOf)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.expect(versionUpTo: Self.formatVersion, of: "a group record")
        id = try reader.read()
        weight = try reader.read()
        preferredLeader = try reader.read()
        state = version > 2 ? try reader.read(of: "a group's state, 1 or 2") : .running
        configurationIndex = .zero
        founders = []
        if version > 1 {
            configurationIndex = try reader.read()
            for _ in 0..<(try reader.readReplicaCount("founders")) { founders.append(try reader.read()) }
        }
        replicas = []
        for _ in 0..<(try reader.readReplicaCount("replicas")) {
            var replica = ReplicaRecord(id: try reader.read(), host: try reader.read())
            if version > 1 {
                replica.role = try reader.read(of: "a replica's role, 1 to 4")
                replica.membership = try reader.read(of: "a replica's membership, 0 to 2")
                replica.successorOf = try reader.read()
            }
            replicas.append(replica)
        }
        if version == 1 { founders = replicas.map(\.id) }
    }
}

extension ByteReader {
    fileprivate mutating func expect(versionUpTo newest: UInt16, of what: String) throws(DecodingFailure) -> UInt16 {
        let found = try read(UInt16.self)
        guard found >= 1, found <= newest else {
            throw DecodingFailure(expected: "\(what) of version 1 to \(newest)", found: "version \(found)")
        }
        return found
    }

    fileprivate mutating func readReplicaCount(_ what: String) throws(DecodingFailure) -> Int {
        let count = Int(try read(UInt8.self))
        guard count <= ClusterMap.replicasPerGroupMax else {
            throw DecodingFailure(expected: "at most \(ClusterMap.replicasPerGroupMax) \(what)", found: "\(count)")
        }
        return count
    }

    fileprivate mutating func read<Choice: RawRepresentable>(
        of what: String
    ) throws(DecodingFailure) -> Choice where Choice.RawValue == UInt8 {
        let number = try read(UInt8.self)
        guard let choice = Choice(rawValue: number) else {
            throw DecodingFailure(expected: what, found: "\(number)")
        }
        return choice
    }
}
