// Who should own what. Pure: the same input gives the same plan on every host. Moves nothing itself.

public import Primitives

/// Plans the ring and the placement of replicas.
public enum Planner {
    /// A group and its share of the slots in proportion to the others'.
    public struct GroupWeight: Hashable, Sendable {
        public var group: GroupID
        public var weight: UInt32
        public init(group: GroupID, weight: UInt32 = 100) {
            self.group = group
            self.weight = weight
        }
    }

    /// The first map of a cluster: the meta group and data groups 1...`groups`, each with `replicas` replicas on the
    /// hosts given (with their ids), and the ring's first table at epoch 1.
    public static func firstMap(
        cluster: ClusterID, hosts: [HostRecord], groups: Int, replicas: Int, featureLevel: UInt32 = FeatureLevel.first
    ) throws(PlannerError) -> ClusterMap {
        guard groups >= 1, groups < ClusterMap.groupsMax else {
            throw PlannerError("1 to \(ClusterMap.groupsMax - 1) groups are possible, not \(groups)")
        }
        let hosts = hosts.sorted { $0.id < $1.id }
        let ids = (0...groups).map { GroupID(UInt32($0)) }
        let placed = try placement(hosts: hosts, groups: ids, replicas: replicas, firstReplica: ReplicaID(1))
        let ring = try initialTable(groups: ids.dropFirst().map { GroupWeight(group: $0) })
        let map = ClusterMap(
            cluster: cluster, featureLevel: featureLevel, hosts: hosts, groups: placed, ring: ring,
            nextHost: HostID((hosts.last?.id.rawValue ?? 0) + 1), nextGroup: GroupID(UInt32(groups + 1)),
            nextReplica: ReplicaID(UInt64(1 + placed.count * replicas)))
        if let problem = map.problem() { throw PlannerError(problem) }
        return map
    }
}

/// No plan is possible with what was given; the text says why.
public struct PlannerError: Error, Hashable, CustomStringConvertible {
    public var description: String
    package init(_ description: String) { self.description = description }
}
