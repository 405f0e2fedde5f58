// What becomes of a replica that can't read all of its state on disk: it goes on with what it can read, and with its part in
// consensus, while another member's whole state comes; then it begins anew on that.
//
//     damage met ──► leads: hands over ──► follows: fetches a whole state, ──► begins anew on it, as behind any snapshot
//                                          writes no checkpoint meanwhile
//
// It never stands still for its damage: its log is sound, and its vote and its acknowledgements may be what its group has a
// majority by.

public import Primitives
import RaftCore
import Storage

extension HostCore {
    /// What the replica has on disk can't be read: a whole state of another is to take its place. A leader hands over first,
    /// if there is somebody.
    public func stateDamaged(group: GroupID, _ what: String) {
        guard let replica = replica(of: group), replica.stopped == nil, replica.impairment == nil else { return }
        guard replica.damage == nil else { return }
        effects.damages += 1
        replica.damage = what
        replica.followingSeconds = 0
        replica.handOverSeconds = 0
        replica.handOverPauseSeconds = Self.handOverPauseSecondsMin
        damagesMet += 1
        effects.notices.append(
            "group \(group): what replica \(replica.id) has on disk of its state is damaged; it gets another member's: \(what)"
        )
    }

    /// For so long another has to lead before its state is asked for.
    private static var followingSecondsMin: Int { 3 }
    private static var putOffSeconds: UInt64 { 10 }
    private static var handOverPauseSecondsMin: Int { 4 }
    private static var handOverPauseSecondsMax: Int { 64 }

    /// Replicas that met damage. Each second, also where nothing happens.
    func reconsiderDamages() {
        guard damagesMet > 0, tickCount % secondTicks == 0 else { return }
        for replica in replicas where replica.damage != nil && replica.stopped == nil {
            replica.handOverSeconds = max(replica.handOverSeconds - 1, 0)
            if replica.role == .leader {
                // Its own intake would end its leadership at a moment that nobody chose.
                replica.followingSeconds = 0
                if replica.snapshots.intake?.isWriting == false { giveUp(replica, for: secondTicks) }
                if replica.isStateDamaged, replica.snapshots.intake == nil {
                    replica.isStateDamaged = false
                    replica.snapshots.isWanted = false
                }
                handOverForDamage(replica)
                continue
            }
            let leader = replica.withCore { $0.leader }
            replica.followingSeconds =
                leader != .none && isHeardNow(leader, of: replica) ? replica.followingSeconds + 1 : 0
            if replica.isStateDamaged {
                putOffPerhaps(replica)
            } else if replica.followingSeconds >= Self.followingSecondsMin {
                replica.isStateDamaged = true
                wantSnapshot(replica)
            }
        }
        damagesMet = replicas.count { $0.damage != nil }
    }

    /// No checkpoint is written while another's state comes, and what comes in meanwhile is bounded. Where the group commits
    /// nothing without this replica, a checkpoint goes first, if one can be written.
    private func putOffPerhaps(_ replica: Replica) {
        guard let intake = replica.snapshots.intake, !intake.isWriting, !intake.isWhole, replica.checkpoint == nil,
            replica.isFull(settings), !canDoWithout(replica)
        else { return }
        giveUp(replica, for: Self.putOffSeconds * secondTicks)
    }

    /// A leader does not know whether another voter could lead: one that is impaired acknowledges as any other does. So it
    /// asks one after the other to, less and less often if none does.
    private func handOverForDamage(_ replica: Replica) {
        guard replica.handOverSeconds == 0, replica.withCore({ $0.transferee }) == nil,
            let heir = successor(
                of: replica,
                where: { host in
                    !replica.snapshots.supplies.contains { $0.to != .none && replica.host(of: $0.to) == host }
                }),
            replica.core.transfer(to: heir) == .accepted
        else { return }
        replica.handOverSeconds = replica.handOverPauseSeconds
        replica.handOverPauseSeconds = min(2 * replica.handOverPauseSeconds, Self.handOverPauseSecondsMax)
        replica.lastTurns[heir] = tickCount
        activate(replica)
        markReady(replica)
    }
}
