// What a simulator and tests look at to check a host's promises. Reads only; decides nothing, and nothing stands on it.

package import Primitives
package import RaftCore
import StateMachines
import Storage

/// One replica as it stands between two turns.
package struct ReplicaInspection: Sendable {
    package var group: GroupID
    package var replica: ReplicaID
    package var role: RaftRole
    package var term: Term
    package var leader: ReplicaID
    package var commit: LogIndex
    package var applied: LogIndex
    package var stable: LogIndex
    package var base: LogIndex
    package var last: LogIndex
    /// Of the configuration in effect.
    package var configurationIndex: LogIndex
    package var digest: UInt64
    package var digestIndex: LogIndex
    package var manifestIndex: LogIndex
    package var floor: LogIndex
    package var logTime: LogTime
    /// A leader with a committed entry of its own term.
    package var isEstablished: Bool
    package var isActive: Bool
    package var isImpaired: Bool
    package var isStopped: Bool
    /// It stands still, and begins anew on another member's state.
    package var isInstalling: Bool
    /// It stands still, and is deleted from its host.
    package var isRemoving: Bool
    /// Its log lacks what it promised: no state of another mends that.
    package var isLogDamaged: Bool
    /// That the group is at, by its own log.
    package var migrations: Int
    package var waitingCalls: Int
    package var statistics: RaftStatistics
}

extension HostCore {
    /// Visits the replicas that the last turn stepped, ascending by group.
    package func inspectStepped(_ body: (ReplicaInspection) -> Void) {
        if stepped.count > 1 { stepped.sort { $0.group < $1.group } }
        for replica in stepped { body(inspection(of: replica)) }
    }

    /// Until when, by this host's clock, its replica would serve reads of the group by lease.
    package func leaseExpiry(of group: GroupID) -> UInt64 { replica(of: group).map { leaseExpiry(of: $0) } ?? 0 }

    package func inspection(of group: GroupID) -> ReplicaInspection? { replica(of: group).map { inspection(of: $0) } }

    /// Of all replicas of this loop, ascending by group.
    package func inspections() -> [ReplicaInspection] {
        replicas.sorted { $0.group < $1.group }.map { inspection(of: $0) }
    }

    private func inspection(of replica: Replica) -> ReplicaInspection {
        replica.withCore { Self.inspection(of: replica, &$0, replica.machine.digest, replica.machine.applied) }
    }

    private static func inspection(
        of replica: Replica, _ core: inout RaftCore, _ digest: UInt64, _ digestIndex: LogIndex
    ) -> ReplicaInspection {
        let isStopped = replica.stopped != nil
        let extent = core.extent
        return ReplicaInspection(
            group: replica.group, replica: replica.id, role: isStopped ? .follower : core.role, term: core.term,
            leader: core.leader, commit: core.commit, applied: core.appliedIndex, stable: extent.stable,
            base: extent.base, last: extent.last, configurationIndex: core.configuration.index,
            digest: digest, digestIndex: digestIndex,
            manifestIndex: replica.manifestIndex, floor: replica.floor, logTime: replica.logTime.current,
            isEstablished: !isStopped && core.isEstablished, isActive: replica.isActive,
            isImpaired: replica.impairment != nil, isStopped: isStopped,
            isInstalling: replica.stopped == HostCore.installing, isRemoving: replica.removal != nil,
            isLogDamaged: replica.isMute || replica.isLogDamaged,
            migrations: replica.machine.ownership.tasks.count, waitingCalls: replica.waitingCalls,
            statistics: core.statistics)
    }
}
