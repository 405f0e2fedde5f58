// The map of a cluster that is made of a save: other hosts, replicas with other ids, another cluster's id, the same
// groups and the same ring. Its version and the ring's epochs go on where the saved ones stood: what groups remember of
// slots that moved names both. Pure: randomness is given.

public import Primitives
public import Ring
public import Storage

public enum RestorationPlan {
    /// The new cluster's map. Groups keep their numbers, since the ring names them, and their weights. Replicas get ids
    /// that the saved cluster never gave. Users and roles are those of the save; one that does not have them, as the meta group
    /// is not in it, makes a cluster that lets everybody in.
    ///
    /// - Parameters:
    ///   - hosts: with their ids.
    ///   - replicas: of each group.
    ///   - chosen: the data groups that are in the new cluster; nil: all. Slots of others have no owner there.
    ///   - level: what the hosts' program knows.
    /// - Throws: `PlannerError`: there are too few hosts, two have one address, or slots of these groups were moving.
    public static func map(
        of saved: ClusterMap, cluster: ClusterID, hosts: [HostRecord], replicas: Int,
        groups chosen: Set<GroupID>? = nil,
        level: UInt32 = FeatureLevel.current
    ) throws(PlannerError) -> ClusterMap {
        precondition(cluster != saved.cluster, "a restored cluster is another one")
        guard saved.featureLevel <= level else {
            throw PlannerError(
                "the cluster was at feature level \(saved.featureLevel), this program knows \(level): use a newer one")
        }
        if let migration = saved.migrations.first(where: {
            chosen?.contains($0.source) ?? true || chosen?.contains($0.target) ?? true
        }) {
            throw PlannerError(
                "migration \(migration.id) from group \(migration.source) to \(migration.target) was under way when this was "
                    + "saved: no cluster can be made of it")
        }
        let hosts = hosts.sorted { $0.id < $1.id }
        let taken = saved.groups.filter { $0.id == .meta || chosen?.contains($0.id) ?? true }
        var groups = try Planner.placement(
            hosts: hosts, groups: taken.map(\.id), replicas: replicas, firstReplica: saved.nextReplica)
        for place in groups.indices { groups[place].weight = taken[place].weight }
        var ring = saved.ring
        let lost = saved.dataGroups.filter { !(chosen?.contains($0.id) ?? true) }
        if !lost.isEmpty { ring.assign(lost.flatMap { ring.slots(of: $0.id) }, to: .meta) }
        let map = ClusterMap(
            cluster: cluster, version: saved.version + 1,
            featureLevel: max(saved.featureLevel, FeatureLevel.ofNewMap(hosts: hosts.map(\.featureLevel))),
            hosts: hosts,
            groups: groups, ring: ring, access: saved.access,
            nextHost: HostID((hosts.last?.id.rawValue ?? 0) + 1), nextGroup: saved.nextGroup,
            nextReplica: ReplicaID(saved.nextReplica.rawValue + UInt64(groups.count * replicas)))
        if let problem = map.problem() { throw PlannerError(problem) }
        return map
    }

    /// What the state of a saved group is to its new replicas: the same, but that they are its founders.
    public static func description(_ saved: SnapshotDescription, of group: GroupRecord) -> SnapshotDescription {
        var description = saved
        description.configuration = group.firstConfiguration(of: group.founders[0])
        return description
    }
}
