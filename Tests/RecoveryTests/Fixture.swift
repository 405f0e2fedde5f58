// Clusters to plan for: hosts 1...n, of which each has a replica of each group named.

import Primitives
import Recovery
import Ring

let formerCluster = ClusterID(high: 1, low: 2)
let newCluster = ClusterID(high: 3, low: 4)

/// Hosts 1...`hosts`; the meta group on `meta`, and group 1, 2, … on the hosts given. The replica of group g on host h has
/// the id 100 × (g + 1) + h.
func clusterMap(hosts: Int, meta: [Int], groups: [[Int]], version: UInt64 = 7) -> ClusterMap {
    let all = [meta] + groups
    let records = all.enumerated().map { number, places in
        GroupRecord(
            id: GroupID(UInt32(number)), weight: number == 0 ? 0 : 100,
            replicas: places.map { ReplicaRecord(id: id(number, $0), host: HostID(UInt64($0))) },
            preferredLeader: id(number, places[0]))
    }
    return ClusterMap(
        cluster: formerCluster, version: version, featureLevel: FeatureLevel.membership,
        hosts: (1...hosts).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                incarnation: Incarnation(UInt64(1_000 + $0)), featureLevel: FeatureLevel.membership)
        }, groups: records,
        ring: SlotTable(
            epoch: Epoch(1), owners: Array(repeating: groups.isEmpty ? .meta : GroupID(1), count: Slot.count)),
        nextHost: HostID(UInt64(hosts + 1)), nextGroup: GroupID(UInt32(all.count)),
        nextReplica: ReplicaID(UInt64(100 * (all.count + 2))))
}

func id(_ group: Int, _ host: Int) -> ReplicaID { ReplicaID(UInt64(100 * (group + 1) + host)) }

/// A replica as `clusterMap` places it, whose log ends at `last` in `lastTerm`.
func replica(
    _ group: Int, _ host: Int, of map: ClusterMap, last: UInt64 = 10, lastTerm: UInt64 = 2, commit: UInt64 = 8,
    term: UInt64? = nil, configurations: [Configuration]? = nil, impairment: String? = nil, isMute: Bool = false
) -> ReplicaReport {
    let founders = map.group(GroupID(UInt32(group)))!.founders
    return ReplicaReport(
        group: GroupID(UInt32(group)), replica: id(group, host), term: Term(term ?? lastTerm),
        applied: LogIndex(min(commit, 5)), commit: LogIndex(commit),
        terms: last == 0
            ? []
            : [TermRun(first: LogIndex(1), term: Term(2))]
                + (lastTerm == 2 ? [] : [TermRun(first: LogIndex(commit + 1), term: Term(lastTerm))]),
        last: LogIndex(last),
        lastLogTime: LogTime(77), configurations: configurations ?? [Configuration(voters: founders)],
        impairment: impairment, isMute: isMute)
}

func report(
    _ host: Int, _ map: ClusterMap, metaMap: ClusterMap? = nil, isJournalDamaged: Bool = false,
    _ replicas: [ReplicaReport]
) -> HostReport {
    HostReport(
        cluster: map.cluster, host: HostID(UInt64(host)), incarnation: Incarnation(UInt64(1_000 + host)),
        bootCounter: 3, journal: UInt64(50 + host), journalSequence: 9, isJournalDamaged: isJournalDamaged, map: map,
        metaMap: metaMap, metaVersions: metaMap.map { [MapVersion($0)] } ?? [],
        greatestReplica: replicas.map(\.replica).max() ?? .none, replicas: replicas)
}

/// Reports of these hosts, with all that the map places there at its common place.
func reports(_ hosts: [Int], _ map: ClusterMap) -> [HostReport] {
    hosts.map { host in
        let here = map.replicas(on: HostID(UInt64(host))).map { replica(Int($0.group.id.rawValue), host, of: map) }
        return report(host, map, metaMap: here.contains { $0.group == .meta } ? map : nil, here)
    }
}
