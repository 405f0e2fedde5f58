// The meta group's machine: the cluster's map as replicated state. Owns the map and its records; plans nothing.

public import Messages
public import Primitives
public import Ring

/// What a host says of itself when it registers.
public struct HostRegistration: Hashable, Sendable {
    public var name: String
    public var address: String
    public var zone: String
    public var weight: UInt32
    public var incarnation: Incarnation
    public var featureLevel: UInt32

    public init(
        name: String, address: String, zone: String = "", weight: UInt32 = 100, incarnation: Incarnation,
        featureLevel: UInt32
    ) {
        self.name = name
        self.address = address
        self.zone = zone
        self.weight = weight
        self.incarnation = incarnation
        self.featureLevel = featureLevel
    }
}

/// Sub state machine 2, in the meta group only. The command stands behind a command header:
/// `number u8 | version u8 = 1 | fields`.
public enum MetaCommand: Hashable, Sendable {
    /// 1, `map`: the cluster's first map. Again with the same cluster: nothing happens.
    case initialise(ClusterMap)
    /// 2, a host record with id 0: a host that is new or has changed. The incarnation tells which it is: a known one is
    /// updated, an unknown one gets the next host id. An address that another host has is refused, so a host that comes
    /// back without its disk can't take the place of the replicas that it lost.
    case registerHost(HostRegistration)
    /// From 3 on: one change of the map; `expecting` is the version of the map that it was made for, 0 for any. Refused
    /// if the map has another, and below the feature level that has these commands.
    case change(MapChange, expecting: UInt64 = 0)
    /// 13, `map`: this map takes the place of the one that is there, if it is of a later version; the cluster's id may be
    /// another. Stands in a log only where a recovery wrote it, and is never proposed.
    case recover(ClusterMap)
    /// 23, `token u64 | map version u64 | ground u64 | limits | is automatic u8 | steps u32 | each step`: a plan is carried out
    /// from now on. Refused while another one is, and as stale if what its steps rest on (`Rebalancing.ground`) is not in the
    /// map what it was in that version. This and the next ones: from feature level 11 on.
    case beginRebalancing(RebalancingPlan)
    /// 24, `rebalancing u64 | wish`: what somebody wants of the one that is under way.
    case setRebalancing(RebalancingID, Rebalancing.Wish)
    /// 25, `rebalancing u64 | step u32 | report`: what became of a step. Of the meta group's leader alone, which is at the end
    /// of its log then. That a step is begun is one with its change of the map.
    case reportStep(RebalancingID, UInt32, Rebalancing.Report)
    /// 26, `is on u8 | if it is: an order`: the meta group keeps the balance by itself from now on, or not any more.
    case setAuto(AutoRebalancing?)

    static let formatVersion: UInt8 = 1
    private static let recoverNumber: UInt8 = 13
    private static let rebalancingNumbers: (begin: UInt8, set: UInt8, step: UInt8, auto: UInt8) = (23, 24, 25, 26)

    /// A whole payload: header and command.
    public func payload() -> Bytes {
        var writer = ByteWriter()
        CommandHeader(machine: .meta).encode(into: &writer)
        switch self {
        case .initialise(let map):
            writer.write(1 as UInt8)
            writer.write(Self.formatVersion)
            map.encode(into: &writer)
        case .registerHost(let host):
            writer.write(2 as UInt8)
            writer.write(Self.formatVersion)
            HostRecord(
                id: HostID(0), name: host.name, address: host.address, zone: host.zone, weight: host.weight,
                incarnation: host.incarnation, featureLevel: host.featureLevel
            ).encode(into: &writer)
        case .change(let change, let version):
            writer.write(change.number)
            writer.write(Self.formatVersion)
            writer.write(version)
            change.encode(into: &writer)
        case .recover(let map):
            writer.write(Self.recoverNumber)
            writer.write(Self.formatVersion)
            map.encode(into: &writer)
        case .beginRebalancing(let plan):
            writer.write(Self.rebalancingNumbers.begin)
            writer.write(Self.formatVersion)
            plan.encode(into: &writer)
        case .setRebalancing(let id, let wish):
            writer.write(Self.rebalancingNumbers.set)
            writer.write(Self.formatVersion)
            writer.write(id)
            wish.encode(into: &writer)
        case .reportStep(let id, let step, let report):
            writer.write(Self.rebalancingNumbers.step)
            writer.write(Self.formatVersion)
            writer.write(id)
            writer.write(step)
            report.encode(into: &writer)
        case .setAuto(let auto):
            writer.write(Self.rebalancingNumbers.auto)
            writer.write(Self.formatVersion)
            writer.write(auto != nil)
            auto?.encode(into: &writer)
        }
        return writer.take()
    }

    /// Reads a whole payload, header included.
    public init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let number = try reader.read(UInt8.self)
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a meta command of version 1", found: "version \(version)")
        }
        switch number {
        case 1: self = .initialise(try ClusterMap(from: &reader))
        case 2:
            let host = try HostRecord(from: &reader)
            self = .registerHost(
                HostRegistration(
                    name: host.name, address: host.address, zone: host.zone, weight: host.weight,
                    incarnation: host.incarnation,
                    featureLevel: host.featureLevel))
        case let number where MapChange.isOne(number):
            let expecting = try reader.read(UInt64.self)
            self = .change(try MapChange(number: number, from: &reader), expecting: expecting)
        case Self.recoverNumber: self = .recover(try ClusterMap(from: &reader))
        case Self.rebalancingNumbers.begin: self = .beginRebalancing(try RebalancingPlan(from: &reader))
        case Self.rebalancingNumbers.set:
            let id = try reader.read(RebalancingID.self)
            self = .setRebalancing(id, try Rebalancing.Wish(from: &reader))
        case Self.rebalancingNumbers.step:
            let (id, step) = (try reader.read(RebalancingID.self), try reader.read(UInt32.self))
            self = .reportStep(id, step, try Rebalancing.Report(from: &reader))
        case Self.rebalancingNumbers.auto:
            self = .setAuto(try reader.readBool() ? try AutoRebalancing(from: &reader) : nil)
        default: throw DecodingFailure(expected: "a meta command of kind 1 to 31", found: "kind \(number)")
        }
        try reader.expectEnd()
    }
}

/// The answer to the first two meta commands. `host u64 | map version u64`
public struct MetaResult: Message {
    /// The host that the command was about; 0 if it was about none.
    public var host: HostID
    /// The map's version from which on the command shows.
    public var mapVersion: UInt64

    public init(host: HostID, mapVersion: UInt64) {
        self.host = host
        self.mapVersion = mapVersion
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(host)
        writer.write(mapVersion)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        host = try reader.read()
        mapVersion = try reader.read()
    }
}

/// The answer to a change of the map. `version u16 = 1 | map version u64 | host u64 | group u32 | replica u64`
public struct MetaOutcome: Message {
    /// The map's version from which on the change shows.
    public var mapVersion: UInt64
    /// The host that the change was about; 0 if it was about none.
    public var host: HostID
    /// The group that came about or that the change was about; 0 if it was about the meta group or none.
    public var group: GroupID
    /// The replica that came about, of several the first, or that the change was about; 0 if it was about none.
    public var replica: ReplicaID

    public init(
        mapVersion: UInt64, host: HostID = HostID(0), group: GroupID = .meta, replica: ReplicaID = .none
    ) {
        self.mapVersion = mapVersion
        self.host = host
        self.group = group
        self.replica = replica
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(mapVersion)
        writer.write(host)
        writer.write(group)
        writer.write(replica)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == 1 else {
            throw DecodingFailure(expected: "a meta command's outcome of version 1", found: "version \(version)")
        }
        mapVersion = try reader.read()
        host = try reader.read()
        group = try reader.read()
        replica = try reader.read()
    }
}

/// A record of the meta group's state: in `Slot.group`, machine 2.
public struct MetaRecord: Hashable, Sendable {
    public var key: Bytes
    /// Nil: the record is deleted.
    public var value: Bytes?
    public init(key: Bytes, value: Bytes?) {
        self.key = key
        self.value = value
    }
}

/// The map, live. Its records: "head" with the map's own numbers and counts, "ring", "host/" and the id (u64,
/// big-endian, so that records sort like ids) for each host, "group/" and the id (u32, big-endian) for each group,
/// "migration/" and the id (u64, big-endian) for each migration; values as the parts of the map encode themselves.
///
/// From feature level `FeatureLevel.access` on also "access", with users and roles.
///
/// Beside the map the last rebalancing, in as many records as change together: "rebalancing" with its head, and
/// "rebalancing/" and the place (u32, big-endian) for each step. And "rebalancing-auto", as long as the meta group keeps the
/// balance by itself.
public struct MetaMachine: Sendable {
    /// Nil before the cluster's first map.
    public internal(set) var map: ClusterMap?
    /// The one that is under way, or the last one there was; nil: none was ever begun, or since the cluster was recovered.
    public internal(set) var rebalancing: Rebalancing?
    /// The order to keep the balance by itself; nil: it does not.
    public internal(set) var auto: AutoRebalancing?

    public init() {}

    /// What a command does: records to write, none if nothing changes, and its answer; or why it does nothing.
    enum Effect {
        case done([MetaRecord], Bytes)
        case refused(Refusal)
    }

    /// Whether a change of the map that somebody asked for may be proposed: nil, or why not. Whatever else speaks
    /// against it is found when it is applied; but a replica of a version that does not know a command stops at it, so
    /// these must not get into the log.
    public func check(_ payload: Bytes) -> Refusal? {
        guard let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }), header.machine == .meta,
            header.session == .none
        else { return .invalid("this is no command of version \(CommandHeader.formatVersion) for the cluster's map") }
        let command: MetaCommand
        do throws(DecodingFailure) { command = try MetaCommand(payload: payload) } catch {
            return .invalid("\(error)")
        }
        guard let map else { return .invalid("there is no cluster yet") }
        switch command {
        case .change(let change, _): return change.levelRefusal(map) ?? rebalancingRefusal(of: change)
        case .beginRebalancing(let plan):
            guard !plan.isAutomatic else {
                return .invalid("the meta group's leader alone begins a rebalancing by itself")
            }
            return Self.rebalancingRefusal(map)
        case .setRebalancing, .setAuto: return Self.rebalancingRefusal(map)
        case .reportStep: return .invalid("the meta group's leader reports steps itself")
        case .initialise, .registerHost, .recover:
            return .invalid("hosts found clusters and register themselves: this command is not for clients")
        }
    }

    /// Whether a change would leave the map as it is, or be refused.
    public func isChanged(by change: MapChange) -> Bool {
        guard let map, let edit = try? change.edit(map, expecting: 0) else { return false }
        if case .nothing = edit.part { return false }
        return true
    }

    /// What raises a host's record to a feature level that its version is known to have, and leaves all else of it as it
    /// is; nil if the record has it already, or there is none, or the host may not be registered with it.
    public func renewal(of host: HostID, featureLevel: UInt32) -> HostRegistration? {
        guard let map, let record = map.host(host), featureLevel > record.featureLevel,
            featureLevel >= map.featureLevel, map.version + 1 < ClusterMap.counterMax
        else { return nil }
        return HostRegistration(
            name: record.name, address: record.address, zone: record.zone, weight: record.weight,
            incarnation: record.incarnation, featureLevel: featureLevel)
    }

    mutating func apply(_ command: MetaCommand) -> Effect {
        switch command {
        case .initialise(let first):
            guard let map else {
                self.map = first
                return .done(
                    Self.records(of: first, changedFrom: nil),
                    MetaResult(host: HostID(0), mapVersion: first.version).encoded())
            }
            guard map.cluster == first.cluster else {
                return .refused(.invalid("the cluster \(map.cluster) is here already"))
            }
            return .done([], MetaResult(host: HostID(0), mapVersion: map.version).encoded())
        case .registerHost(let registration): return register(registration)
        case .change(let change, let version):
            guard let map else { return .refused(.invalid("there is no cluster yet")) }
            do throws(Refusal) {
                return carryOut(try change.edit(map, expecting: version))
            } catch {
                return .refused(error)
            }
        case .beginRebalancing(let plan): return begin(plan)
        case .setRebalancing(let id, let wish): return set(id, wish)
        case .reportStep(let id, let step, let report): return take(report, of: step, id)
        case .setAuto(let auto): return set(auto)
        case .recover(let recovered):
            guard recovered.version > map?.version ?? 0 else {
                return .refused(.invalid("the map has version \(map?.version ?? 0), a recovery brought an older one"))
            }
            // What was to move was planned for hosts that may be lost, and nobody has looked yet at what is left.
            let records =
                Self.records(of: recovered, changedFrom: map) + Self.deletions(from: map, in: recovered)
                + Self.records(of: nil, changedFrom: rebalancing) + Self.records(of: nil, changedFrom: auto)
            map = recovered
            rebalancing = nil
            auto = nil
            return .done(records, MetaResult(host: HostID(0), mapVersion: recovered.version).encoded())
        }
    }

    private static func deletions(from old: ClusterMap?, in map: ClusterMap) -> [MetaRecord] {
        guard let old else { return [] }
        return old.hosts.filter { map.host($0.id) == nil }.map { MetaRecord(key: key(of: $0.id), value: nil) }
            + old.groups.filter { map.group($0.id) == nil }.map { MetaRecord(key: key(of: $0.id), value: nil) }
            + old.migrations.filter { map.migration($0.id) == nil }.map { MetaRecord(key: key(of: $0.id), value: nil) }
            + (old.access != nil && map.access == nil ? [MetaRecord(key: accessKey, value: nil)] : [])
    }

    private mutating func register(_ registration: HostRegistration) -> Effect {
        guard let map else { return .refused(.invalid("there is no cluster yet")) }
        guard registration.featureLevel >= map.featureLevel else {
            return .refused(
                .invalid(
                    "the cluster uses feature level \(map.featureLevel), the host's version knows \(registration.featureLevel)"
                ))
        }
        if let other = map.hosts.first(where: {
            $0.address == registration.address && $0.incarnation != registration.incarnation
        }) {
            return .refused(
                .invalid(
                    "the address \(registration.address) belongs to host \(other.id); if its disk is lost, remove that host first"
                ))
        }
        var changed = map
        let position = map.hosts.firstIndex { $0.incarnation == registration.incarnation }
        let record = HostRecord(
            id: position.map { map.hosts[$0].id } ?? map.nextHost, name: registration.name,
            address: registration.address,
            zone: registration.zone, weight: registration.weight, incarnation: registration.incarnation,
            featureLevel: registration.featureLevel, state: position.map { map.hosts[$0].state } ?? .active)
        if let position {
            guard map.hosts[position] != record else {
                return .done([], MetaResult(host: record.id, mapVersion: map.version).encoded())
            }
            changed.hosts[position] = record
        } else {
            changed.hosts.append(record)
            changed.nextHost = HostID(map.nextHost.rawValue + 1)
        }
        changed.version += 1
        if let problem = changed.problem() { return .refused(.invalid(problem)) }
        self.map = changed
        return .done(
            Self.records(of: changed, changedFrom: map),
            MetaResult(host: record.id, mapVersion: changed.version).encoded())
    }

    /// The edit was checked against the present map. Writes the head and one record, whatever the map's size.
    private mutating func carryOut(_ edit: MapEdit) -> Effect {
        let (records, outcome) = changed(by: edit)
        return .done(records + noteLostTime(edit), outcome.encoded())
    }

    mutating func changed(by edit: MapEdit) -> (records: [MetaRecord], outcome: MetaOutcome) {
        var outcome = MetaOutcome(mapVersion: 0, host: edit.host, group: edit.group, replica: edit.replica)
        var records: [MetaRecord] = []
        switch edit.part {
        case .nothing:
            outcome.mapVersion = map!.version
            return ([], outcome)
        case .host(let host): records = [Self.record(Self.key(of: host.id)) { host.encode(into: &$0) }]
        case .hostRemoved(let id): records = [MetaRecord(key: Self.key(of: id), value: nil)]
        case .group(let group): records = [Self.record(Self.key(of: group.id)) { group.encode(into: &$0) }]
        case .groupRemoved(let id): records = [MetaRecord(key: Self.key(of: id), value: nil)]
        case .migration(let migration):
            records = [Self.record(Self.key(of: migration.id)) { migration.encode(into: &$0) }]
        case .migrationCommitted(let migration):
            records = [Self.record(Self.key(of: migration.id)) { migration.encode(into: &$0) }]
        case .migrationRemoved(let id): records = [MetaRecord(key: Self.key(of: id), value: nil)]
        case .featureLevel: break
        case .access(let policy): records = [Self.record(Self.accessKey) { policy.encode(into: &$0) }]
        }
        let hadAccess = map!.access != nil
        edit.apply(to: &map!)
        if !hadAccess, let policy = map!.access {
            records.append(Self.record(Self.accessKey) { policy.encode(into: &$0) })
        }
        if case .migrationCommitted = edit.part {
            records.append(Self.record(Self.ringKey) { map!.ring.encode(into: &$0) })
        }
        outcome.mapVersion = map!.version
        let head = map!.head
        return ([Self.record(Self.headKey) { head.encode(into: &$0) }] + records, outcome)
    }

    // MARK: - Records

    static func record(_ key: Bytes, _ encode: (inout ByteWriter) -> Void) -> MetaRecord {
        var writer = ByteWriter()
        encode(&writer)
        return MetaRecord(key: key, value: writer.take())
    }

    /// The records in which a map differs from the one before, in a fixed order; no host and no group is gone.
    private static func records(of map: ClusterMap, changedFrom old: ClusterMap?) -> [MetaRecord] {
        var records: [MetaRecord] = []
        func add(_ key: Bytes, _ encode: (inout ByteWriter) -> Void) { records.append(record(key, encode)) }
        if map.head != old?.head { add(headKey) { map.head.encode(into: &$0) } }
        if map.ring != old?.ring { add(ringKey) { map.ring.encode(into: &$0) } }
        for host in map.hosts where host != old?.host(host.id) { add(key(of: host.id)) { host.encode(into: &$0) } }
        for group in map.groups where group != old?.group(group.id) {
            add(key(of: group.id)) { group.encode(into: &$0) }
        }
        for migration in map.migrations where migration != old?.migration(migration.id) {
            add(key(of: migration.id)) { migration.encode(into: &$0) }
        }
        if let access = map.access, access != old?.access { add(accessKey) { access.encode(into: &$0) } }
        return records
    }

    /// Rebuilds the map from all its records, in any order; from none, there is no map. Deleted ones may be among them.
    public init(restoring records: some Sequence<MetaRecord>) throws(DecodingFailure) {
        var head: ClusterMapHead?
        var ring: SlotTable?
        var hosts: [HostRecord] = []
        var groups: [GroupRecord] = []
        var migrations: [MigrationRecord] = []
        var access: AccessPolicy?
        var rebalancing = RestoredRebalancing()
        for record in records {
            guard let value = record.value else { continue }
            var reader = ByteReader(value)
            if try rebalancing.take(record.key, &reader) {
                try reader.expectEnd()
                continue
            }
            if record.key == Self.autoKey {
                auto = try AutoRebalancing(from: &reader)
            } else if record.key == Self.headKey {
                head = try ClusterMapHead(from: &reader)
            } else if record.key == Self.ringKey {
                ring = try SlotTable(from: &reader)
            } else if record.key == Self.accessKey {
                access = try AccessPolicy(from: &reader)
            } else if record.key.count > 5, record.key[0..<5] == Self.hostPrefix {
                hosts.append(try HostRecord(from: &reader))
                try Self.expect(record.key, Self.key(of: hosts[hosts.count - 1].id))
            } else if record.key.count > 6, record.key[0..<6] == Self.groupPrefix {
                groups.append(try GroupRecord(from: &reader))
                try Self.expect(record.key, Self.key(of: groups[groups.count - 1].id))
            } else if record.key.count > 10, record.key[0..<10] == Self.migrationPrefix {
                migrations.append(try MigrationRecord(from: &reader))
                try Self.expect(record.key, Self.key(of: migrations[migrations.count - 1].id))
            } else {
                throw DecodingFailure(
                    expected: "a record of the cluster's map", found: "one with the key \(record.key)")
            }
            try reader.expectEnd()
        }
        self.rebalancing = try rebalancing.finish()
        if head == nil, ring == nil, hosts.isEmpty, groups.isEmpty, migrations.isEmpty, access == nil { return }
        guard let head, let ring else {
            throw DecodingFailure(expected: "a map's head and ring", found: "records without them")
        }
        hosts.sort { $0.id < $1.id }
        groups.sort { $0.id < $1.id }
        migrations.sort { $0.id < $1.id }
        map = try ClusterMap(
            head: head, hosts: hosts, groups: groups, ring: ring, migrations: migrations, access: access)
    }

    private static func expect(_ found: Bytes, _ expected: Bytes) throws(DecodingFailure) {
        guard found == expected else {
            throw DecodingFailure(expected: "a record of the cluster's map under its own key", found: "\(found)")
        }
    }

    private static var headKey: Bytes { "head" }
    private static var ringKey: Bytes { "ring" }
    private static var accessKey: Bytes { "access" }
    private static var hostPrefix: Bytes { "host/" }
    private static var groupPrefix: Bytes { "group/" }
    private static var migrationPrefix: Bytes { "migration/" }

    private static func key(of host: HostID) -> Bytes { key(hostPrefix, host.rawValue.bigEndian) }
    private static func key(of group: GroupID) -> Bytes { key(groupPrefix, group.rawValue.bigEndian) }
    private static func key(of migration: MigrationID) -> Bytes { key(migrationPrefix, migration.rawValue.bigEndian) }

    static func key(_ prefix: Bytes, _ bigEndian: some FixedWidthInteger) -> Bytes {
        var bytes = prefix.array
        withUnsafeBytes(of: bigEndian) { bytes += $0 }
        return Bytes(bytes)
    }
}
