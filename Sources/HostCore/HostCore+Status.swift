// What the host says of its replicas to operators.

public import Messages
import Primitives
import RaftCore
import StateMachines
import Storage

extension HostCore {
    /// One status for each replica, ascending by group. Reads every replica: for people, not for the hot path.
    public func replicaStatuses() -> [ReplicaStatus] { replicas.map(status(of:)) }

    /// Replicas that lead, follow a leader, or have neither.
    public var leaderCount: Int { replicas.reduce(0) { $0 + ($1.role == .leader ? 1 : 0) } }

    /// Groups here that know of no leader.
    public var leaderlessCount: Int { replicas.reduce(0) { $0 + ($1.core.leader == .none ? 1 : 0) } }

    /// Replicas that are ticked: the others cost nothing.
    public var activeCount: Int { active.count }

    private func status(of replica: Replica) -> ReplicaStatus {
        var status = ReplicaStatus(group: replica.group, replica: replica.id)
        status.role =
            if replica.stopped != nil {
                .stopped
            } else {
                switch replica.role {
                case .leader: .leader
                case .candidate: .candidate
                case .preCandidate: .preCandidate
                case .follower: replica.core.configuration.learners.contains(replica.id) ? .learner : .follower
                }
            }
        status.isImpaired = replica.impairment != nil
        status.isQuorumActive =
            replica.role == .leader
            ? (replica.core.quorumActive || !replica.isActive) : replica.core.leader != .none
        status.term = replica.core.term
        status.leader = replica.core.leader
        status.firstIndex = replica.core.base.next
        status.lastIndex = replica.core.lastIndex
        status.commitIndex = replica.core.commit
        status.appliedIndex = replica.core.appliedIndex
        status.digest = replica.machine.digest
        status.digestIndex = replica.machine.applied
        status.revision = replica.machine.revision
        status.logTime = replica.machine.logTime
        let manifest = replica.view.manifest
        status.records =
            manifest.records + UInt64(replica.memtable.count) + UInt64(replica.checkpoint?.frozen.count ?? 0)
        status.manifestIndex = replica.manifestIndex
        status.runs = UInt32(manifest.runs.count)
        status.checkpoints = replica.checkpoints
        status.merges = replica.merges
        status.memtableBytes = UInt64(replica.memtable.arenaBytes)
        status.logBytes = UInt64(replica.core.memoryBytes)
        status.commands = replica.appliedCommands
        status.problem =
            replica.stopped ?? replica.impairment ?? replica.digests.doubt?.text
            ?? replica.damage.map {
                "its state on disk is damaged, and it goes on until it has another member's: \($0)"
            } ?? ""
        if let intake = replica.snapshots.intake, intake.number != 0 {
            let text =
                "takes a snapshot at index \(intake.index) from replica \(intake.from), "
                + "\(intake.bytes >> 20) MiB so far"
                + (intake.base > .zero ? ", of what changed after \(intake.base)" : "")
            status.problem += status.problem.isEmpty ? text : "; \(text)"
        }
        if let text = words(onSlowedWritersOf: replica) {
            status.problem += status.problem.isEmpty ? text : "; \(text)"
        }
        return status
    }
}
