// All that a host or a client must know to find a record: hosts, groups with their replicas, the ring; and for hosts alone, who may
// do what. The meta group owns it; everybody else has a copy with a version. Refuses to own: health, load.

public import Primitives

/// What is wanted of a host. Numbers are part of the format.
public enum HostState: UInt8, Hashable, Sendable, CaseIterable {
    case active = 1
    /// It gets no new replicas and no preferred leaders, and the replicas that it has go elsewhere.
    case draining = 2
}

/// One host of the cluster.
public struct HostRecord: Hashable, Sendable {
    public var id: HostID
    /// What people call it; for messages only.
    public var name: String
    /// "address:port" under which peers and clients reach it.
    public var address: String
    /// Where it stands; replicas of one group go to different zones where there are enough. Empty is a zone like
    /// others.
    public var zone: String
    /// Its share of replicas and leaders in proportion to the other hosts'; 100 is the ordinary one, 0 takes none.
    public var weight: UInt32
    public var incarnation: Incarnation
    /// The newest formats and commands that its version can read.
    public var featureLevel: UInt32
    public var state: HostState

    public init(
        id: HostID, name: String, address: String, zone: String = "", weight: UInt32 = 100,
        incarnation: Incarnation, featureLevel: UInt32 = FeatureLevel.first, state: HostState = .active
    ) {
        self.id = id
        self.name = name
        self.address = address
        self.zone = zone
        self.weight = weight
        self.incarnation = incarnation
        self.featureLevel = featureLevel
        self.state = state
    }
}

/// Hosts, groups, placement and ring, at one version.
///
/// Invariants, checked by `problem` and so after every decoding: hosts and groups ascend by id; addresses and
/// incarnations are unique; replicas ascend by id, each of another host that exists, and belong to one group only; each
/// group has one that is to vote, and the preferred leader is such a one; founders ascend, and there is one; every owner
/// in the ring is a group of the map; migrations ascend, between groups of the map, and no slot is in two; all ids are below the next ones; the cluster has an id, and no counter is near the
/// end of its type; a policy is sound, and there is none below feature level `FeatureLevel.access`.
public struct ClusterMap: Hashable, Sendable {
    public static let hostsMax = 4_096
    public static let groupsMax = 65_536
    /// Groups' numbers are below: hosts find groups by number in tables.
    public static let groupNumberMax: UInt32 = 1 << 24
    /// Versions, epochs and ids to come are below, so that adding to one never overflows.
    public static let counterMax: UInt64 = 1 << 62
    public static let replicasPerGroupMax = 15
    /// Names, addresses and zones, in bytes.
    public static let textBytesMax = 255

    public var cluster: ClusterID
    /// Raised by one with each change of anything in the map; the first has 1.
    public var version: UInt64
    /// Commands and formats above this level are not used: some host could not read them.
    public var featureLevel: UInt32
    public var hosts: [HostRecord]
    public var groups: [GroupRecord]
    public var ring: SlotTable
    /// Moves of slots that are under way.
    public var migrations: [MigrationRecord] = []
    /// Who may do what, from feature level `FeatureLevel.access` on. Hosts' maps have it, clients' never do: nil there means that it
    /// was not told, not that there is none.
    public var access: AccessPolicy?
    /// The ids to give next. They are never given twice, so they only grow.
    public var nextHost: HostID
    public var nextGroup: GroupID
    public var nextReplica: ReplicaID

    /// - Parameter access: nil: an empty policy, where the level has policies.
    public init(
        cluster: ClusterID, version: UInt64 = 1, featureLevel: UInt32 = FeatureLevel.first, hosts: [HostRecord],
        groups: [GroupRecord], ring: SlotTable, migrations: [MigrationRecord] = [], access: AccessPolicy? = nil,
        nextHost: HostID, nextGroup: GroupID, nextReplica: ReplicaID
    ) {
        self.cluster = cluster
        self.version = version
        self.featureLevel = featureLevel
        self.hosts = hosts
        self.groups = groups
        self.ring = ring
        self.migrations = migrations
        self.access = access ?? (featureLevel >= FeatureLevel.access ? AccessPolicy() : nil)
        self.nextHost = nextHost
        self.nextGroup = nextGroup
        self.nextReplica = nextReplica
    }

    /// As clients get it: without the policy, and so in the same form at every feature level.
    public var withoutAccess: ClusterMap {
        var map = self
        map.access = nil
        return map
    }

    /// A host may go by it: a policy that there has to be is there.
    public var isWhole: Bool { featureLevel < FeatureLevel.access || access != nil }

    /// By binary search.
    public func host(_ id: HostID) -> HostRecord? {
        let place = hosts.place { $0.id < id }
        return place < hosts.count && hosts[place].id == id ? hosts[place] : nil
    }

    /// By binary search.
    public func group(_ id: GroupID) -> GroupRecord? {
        let place = groups.place { $0.id < id }
        return place < groups.count && groups[place].id == id ? groups[place] : nil
    }

    /// Replaces the record of this id, or adds it.
    public mutating func replace(_ host: HostRecord) {
        let place = hosts.place { $0.id < host.id }
        hosts.replaceSubrange(
            place..<(place < hosts.count && hosts[place].id == host.id ? place + 1 : place), with: [host])
    }

    /// Replaces the record of this id, or adds it.
    public mutating func replace(_ group: GroupRecord) {
        let place = groups.place { $0.id < group.id }
        groups.replaceSubrange(
            place..<(place < groups.count && groups[place].id == group.id ? place + 1 : place), with: [group])
    }

    public mutating func removeHost(_ id: HostID) { hosts.removeAll { $0.id == id } }
    public mutating func removeGroup(_ id: GroupID) { groups.removeAll { $0.id == id } }

    /// The group that owns a slot; the meta group for `Slot.group` has to be named by the caller.
    public func owner(of slot: Slot) -> GroupID? { ring.owner(of: slot) }

    /// The replicas that belong on a host, ascending by group. Reads all groups.
    public func replicas(on host: HostID) -> [(group: GroupRecord, replica: ReplicaID)] {
        groups.compactMap { group in group.replica(on: host).map { (group, $0) } }
    }

    /// Groups that may own slots: all but the meta group.
    public var dataGroups: [GroupRecord] { groups.filter { $0.id != .meta } }

    /// What is wrong with the map, in words; nil if its invariants hold.
    public func problem() -> String? {
        guard cluster != .none else { return "no cluster id" }
        guard version < Self.counterMax, nextHost.rawValue < Self.counterMax, nextReplica.rawValue < Self.counterMax,
            ring.epoch.rawValue < Self.counterMax
        else { return "a version, epoch or id to come is not below 2^62" }
        guard nextGroup.rawValue <= Self.groupNumberMax else {
            return "the next group's number is above \(Self.groupNumberMax)"
        }
        guard hosts.count <= Self.hostsMax else { return "more than \(Self.hostsMax) hosts" }
        guard groups.count <= Self.groupsMax else { return "more than \(Self.groupsMax) groups" }
        var addresses: [String] = []
        var incarnations: [Incarnation] = []
        for (position, host) in hosts.enumerated() {
            guard host.id.rawValue > 0 else { return "a host with id 0" }
            guard position == 0 || hosts[position - 1].id < host.id else { return "host \(host.id) is out of order" }
            guard host.id < nextHost else { return "host \(host.id) is not below the next id \(nextHost)" }
            for text in [host.name, host.address, host.zone] where text.utf8.count > Self.textBytesMax {
                return "a text of host \(host.id) has more than \(Self.textBytesMax) bytes"
            }
            addresses.append(host.address)
            incarnations.append(host.incarnation)
        }
        addresses.sort()
        incarnations.sort()
        for position in addresses.indices.dropFirst() {
            guard addresses[position - 1] != addresses[position] else {
                return "two hosts have the address \(addresses[position])"
            }
            guard incarnations[position - 1] != incarnations[position] else { return "two hosts have one incarnation" }
        }
        var replicas: [ReplicaID] = []
        for (position, group) in groups.enumerated() {
            guard position == 0 || groups[position - 1].id < group.id else {
                return "group \(group.id) is out of order"
            }
            guard group.id < nextGroup else { return "group \(group.id) is not below the next id \(nextGroup)" }
            if let problem = problem(of: group) { return problem }
            replicas += group.replicas.map(\.id)
        }
        replicas.sort()
        for position in replicas.indices.dropFirst() where replicas[position - 1] == replicas[position] {
            return "replica \(replicas[position]) belongs to two groups"
        }
        if let owner = ring.owner(outside: groups.map(\.id)) {
            return "the ring names group \(owner), which does not exist"
        }
        if let access {
            guard featureLevel >= FeatureLevel.access else {
                return "users and roles at feature level \(featureLevel), which has none"
            }
            if let problem = access.problem { return problem }
        }
        return problemOfMigrations()
    }
}

extension Array {
    /// The first position whose element is not before; the array ascends.
    func place(isBefore: (Element) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isBefore(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
