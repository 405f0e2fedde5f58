// What hosts say of one group's replicas, beside what the map says. Pure.

package import Messages
package import Primitives
package import Ring

package struct GroupReplicas: Sendable {
    /// By replica; of those whose hosts answer and that know of them.
    package private(set) var statuses: [ReplicaID: ReplicaStatus] = [:]
    /// With a majority behind it, as it says itself.
    package private(set) var leader: ReplicaStatus?
    /// Hosts that answer, and are those that the map means.
    package private(set) var answering: Set<HostID> = []

    package init(_ group: GroupRecord, _ accounts: [HostAccount]) {
        for account in accounts {
            guard let status = account.status, status.host == account.host.id else { continue }
            answering.insert(account.host.id)
            guard let replica = status.replica(of: group.id) else { continue }
            statuses[replica.replica] = replica
            guard replica.role == .leader, replica.isQuorumActive, replica.term > leader?.term ?? .zero else {
                continue
            }
            leader = replica
        }
    }

    /// Entries that the leader has committed and the replica has not applied; nil if one of the two is silent.
    package func entriesBehind(_ replica: ReplicaID) -> Int? {
        guard let leader, let status = statuses[replica] else { return nil }
        return max(0, leader.commitIndex - status.appliedIndex)
    }
}

extension HostStatus {
    /// By binary search: a host may have thousands.
    fileprivate func replica(of group: GroupID) -> ReplicaStatus? {
        var low = 0
        var high = replicas.count
        while low < high {
            let middle = (low + high) / 2
            if replicas[middle].group < group { low = middle + 1 } else { high = middle }
        }
        return low < replicas.count && replicas[low].group == group ? replicas[low] : nil
    }
}
