// What becomes of a replica that can't read all of its state on disk: it goes on with what it can read until the others of
// its group can do without it, and then stands still, gets another member's state, and begins anew.
//
//     damage met ──► goes on ──► the others serve, for three seconds ──► on trial: says nothing, and keeps all
//                       ▲          (a leader hands over first)                      │
//                       │                                                          │ three seconds later they still are
//                       └──────────── they do not ◄────────────────────────────────┤ a majority without it
//                                                                                  ▼
//                                                            stands still, and wants another's state
//
// On trial a replica is named silent to the others: of two that would stand still in the same moment each sees the other,
// both go on, and the next time one of them comes first.

public import Primitives
import RaftCore
import Storage

extension HostCore {
    /// What the replica has on disk can't be read. Where the others can do without it, it stands still in some seconds, and
    /// a whole state of another takes its place. Else nobody would lead then, and nobody get as far as this one is: it goes
    /// on with what can be read until they can.
    public func stateDamaged(group: GroupID, _ what: String) {
        guard let replica = replica(of: group), replica.stopped == nil, replica.impairment == nil else { return }
        // One that goes on is looked at each second. So is this one: right after a connection was made nobody knows who
        // stands still there.
        guard replica.damage == nil else { return }
        effects.damages += 1
        replica.damage = what
        replica.dispensableSeconds = 0
        replica.handOverSeconds = 0
        replica.handOverPauseSeconds = Self.handOverPauseSecondsMin
        damagesMet += 1
        effects.notices.append(
            "group \(group): what replica \(replica.id) has on disk of its state is damaged; it stands still as soon as the "
                + "others can do without it: \(what)")
    }

    /// For so long the others have to be able to do without it, and then to have done so.
    private static var dispensableSecondsMin: Int { 3 }
    private static var handOverPauseSecondsMin: Int { 4 }
    private static var handOverPauseSecondsMax: Int { 64 }

    /// Replicas that met damage. Each second, also where nothing happens.
    func reconsiderDamages() {
        guard damagesMet > 0, tickCount % secondTicks == 0 else { return }
        for replica in replicas {
            guard let what = replica.damage else { continue }
            if replica.stillSeconds != nil {
                goOnStandingStill(replica, what)
                continue
            }
            guard replica.stopped == nil else { continue }
            replica.handOverSeconds = max(replica.handOverSeconds - 1, 0)
            // Below zero after a trial that came to nothing.
            replica.dispensableSeconds =
                canStandStill(replica) ? replica.dispensableSeconds + 1 : min(replica.dispensableSeconds + 1, 0)
            guard replica.dispensableSeconds >= Self.dispensableSecondsMin else { continue }
            if replica.role == .leader {
                handOverForDamage(replica)
            } else {
                replica.stillSeconds = 0
                stop(replica, because: Self.damagedState(what))
            }
        }
        damagesMet = replicas.count { $0.damage != nil }
    }

    private static func damagedState(_ what: String) -> String { "its state on disk is damaged: \(what)" }

    /// It is being given a state from here, or was a moment ago: it can't lead, and may not get one elsewhere.
    private func isSupplied(_ member: ReplicaID, by replica: Replica) -> Bool {
        replica.snapshots.supplies.contains { $0.to == member }
    }

    /// The others can serve without this replica: those that are heard, and don't get their state from here, are enough, and
    /// one of them leads, or has what a leader needs.
    private func canStandStill(_ replica: Replica) -> Bool {
        guard canDoWithout(replica, counting: { !isSupplied($0, by: replica) }) else { return false }
        guard replica.role == .leader else {
            // Who leads has all that is committed, and a state that it can read, as far as it knows.
            let leader = replica.withCore { $0.leader }
            return leader != .none && isHeard(leader, of: replica) && !isSupplied(leader, by: replica)
        }
        let (commit, voters) = replica.withCore { ($0.commit, $0.configuration.voters) }
        return voters.contains { voter in
            voter != replica.id && isHeard(voter, of: replica) && !isSupplied(voter, by: replica)
                && replica.core.progress(of: voter).map { $0.match >= commit } ?? false
        }
    }

    /// A leader does not know whether another voter could lead: one that is impaired acknowledges as any other does. So it
    /// asks one after the other to, less and less often if none does, and stands still only when it follows one.
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

    /// On trial.
    private func goOnStandingStill(_ replica: Replica, _ what: String) {
        let seconds = (replica.stillSeconds ?? 0) + 1
        // Something else stops it now, or it has begun anew on another's state that was under way.
        guard replica.stopped == Self.damagedState(what) else {
            replica.stillSeconds = nil
            replica.damage = nil
            return
        }
        replica.stillSeconds = seconds
        if canDoWithout(replica) {
            guard seconds >= Self.dispensableSecondsMin else { return }
            replica.stillSeconds = nil
            replica.damage = nil
            standStill(replica)
            return
        }
        // It begins anew on another's state that was under way, and promises nothing before it has.
        guard replica.snapshots.intake?.isWhole != true else { return }
        replica.stillSeconds = nil
        let (configuration, id) = (replica.withCore { $0.configuration }, replica.id)
        // Two that met in this do not meet in it again.
        let place = (configuration.voters + configuration.outgoing).sorted().firstIndex(of: id) ?? 0
        replica.dispensableSeconds = -2 * place
        effects.notices.append(
            "group \(replica.group): replica \(id) goes on, as the others are no majority without it")
        replica.stopped = replica.isLogDamaged ? Self.logDamaged : nil
        updateLiveness(replica)
        markReady(replica)
    }

    private func standStill(_ replica: Replica) {
        replica.isStateDamaged = true
        // What is in memory goes, but for what the store's thread has: that it answers.
        if replica.checkpoint?.isUnderWay == false { replica.checkpoint = nil }
        wantSnapshot(replica)
    }
}
