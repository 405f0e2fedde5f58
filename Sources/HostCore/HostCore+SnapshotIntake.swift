// Getting another member's state: when one is needed, whom to ask, and how a replica begins anew on it.

package import Primitives
import RaftCore
import StateMachines
import Storage

/// A state that a replica gets from another.
struct SnapshotIntake {
    let from: ReplicaID
    let base: LogIndex
    /// 0: the other side has not named it yet.
    var number: UInt64 = 0
    /// Where it will lead.
    var index = LogIndex.zero
    /// The end of the last piece that is in the store.
    var after = Bytes()
    /// Of pieces so far.
    var bytes = 0
    /// The store has a piece of it, or installs it.
    var isWriting = false
    /// All of it is in the store; the replica stands still until the journal has what it wrote, and then the state is
    /// exchanged.
    var isWhole = false
    /// The tick of the last question, and the questions since the last piece.
    var askedTick: UInt64
    var questions = 1
}

extension HostCore {
    /// An unanswered question is asked again, and so often; then another member is asked.
    private var questionTicks: UInt64 { 2 * secondTicks }
    private static var questionsMax: Int { 5 }
    /// Why a replica stands still while its state is exchanged.
    static var installing: String { "a snapshot is being installed" }

    /// The replica can't go on without another's state.
    func wantSnapshot(_ replica: Replica) { note(replica) { $0.isWanted = true } }

    /// The lowest index that is of use. Not what is below its log: what the log has above that may have been promised.
    private func leastIndex(_ replica: Replica) -> LogIndex {
        let state = replica.isStateDamaged ? replica.manifestIndex : replica.core.appliedIndex.next
        return max(state, replica.core.base)
    }

    func tickIntake(of replica: Replica) {
        if let intake = replica.snapshots.intake {
            if intake.isWhole { return install(replica) }
            guard !intake.isWriting, tickCount - intake.askedTick >= questionTicks else { return }
            guard intake.questions < Self.questionsMax, mayGoOn(replica) else {
                return giveUp(replica, for: secondTicks)
            }
            replica.snapshots.intake?.questions += 1
            ask(replica)
        } else if replica.snapshots.isWanted, tickCount >= replica.snapshots.notBefore {
            begin(replica)
        }
    }

    private func begin(_ replica: Replica) {
        // What is frozen and can't be written for damage stays for reads until the other state is there.
        let isInVain = replica.isStateDamaged && replica.checkpointTick != nil
        guard replica.checkpoint == nil || isInVain && replica.checkpoint?.isUnderWay == false, isStateOfUse(replica),
            intakesOpen < settings.snapshotsMax, space < .out,
            let source = source(replica)
        else { return }
        intakesOpen += 1
        let own = isPlanted("increment-on-other-base") ? replica.core.appliedIndex : replica.manifestIndex
        let base = replica.isStateDamaged ? .zero : own
        replica.snapshots.lastSource = source
        if source != replica.core.leader { replica.snapshots.lastOtherSource = source }
        replica.snapshots.intake = SnapshotIntake(from: source, base: base, askedTick: tickCount)
        ask(replica)
    }

    /// The leader first; after it was asked in vain another member, each in turn, and it again: one that stands still may
    /// take for the leader who has been none for long.
    private func source(_ replica: Replica) -> ReplicaID? {
        let (leader, members) = replica.withCore { ($0.leader, $0.configuration.members) }
        func isReachable(_ member: ReplicaID) -> Bool {
            guard member != replica.id, let host = replica.host(of: member), let peer = peer(host) else { return false }
            return peer.isBulkConnected && peer.knowsSnapshots
        }
        if leader != replica.snapshots.lastSource, isReachable(leader) { return leader }
        let others = members.filter { $0 != leader }
        let later = others.filter { $0 > replica.snapshots.lastOtherSource }
        // A replica that comes later than the founders knows no members yet.
        return (later + others).first { isReachable($0) } ?? (isReachable(leader) ? leader : nil)
    }

    private func ask(_ replica: Replica) {
        guard let intake = replica.snapshots.intake else { return }
        replica.snapshots.intake?.askedTick = tickCount
        say(
            .fetch(
                SnapshotMessage.Fetch(
                    snapshot: intake.number, base: intake.base, least: leastIndex(replica), after: intake.after)),
            replica, to: intake.from)
    }

    /// One that met damage asks for a whole state, some seconds later and when it follows. What it has is no base any more.
    private func isStateOfUse(_ replica: Replica) -> Bool {
        if replica.digests.isOutvoted { return false }
        return replica.isStateDamaged ? replica.role != .leader : replica.damage == nil
    }

    /// What was found to be damaged meanwhile is no base, who leads has all, and an index that was applied is no news.
    private func mayGoOn(_ replica: Replica) -> Bool {
        guard let intake = replica.snapshots.intake, isStateOfUse(replica) else { return false }
        if replica.isStateDamaged { return intake.base == .zero }
        return replica.role != .leader && (intake.number == 0 || intake.index >= leastIndex(replica))
    }

    func take(_ replica: Replica, from other: ReplicaID, _ piece: SnapshotMessage.Piece) {
        guard let intake = replica.snapshots.intake, intake.from == other else {
            // It was asked for before this replica gave up, or before its process began: others may wait for the place.
            return say(.done(snapshot: piece.snapshot), replica, to: other)
        }
        guard !intake.isWriting, !intake.isWhole,
            intake.after == piece.after, intake.number == piece.snapshot || intake.number == 0
        else { return }
        var description: SnapshotDescription?
        if intake.number == 0 {
            do throws(DecodingFailure) {
                var reader = ByteReader(piece.description)
                let found = try SnapshotDescription(from: &reader)
                try reader.expectEnd()
                guard found.group == replica.group, found.base == .zero || found.base == intake.base,
                    found.index >= leastIndex(replica)
                else {
                    throw DecodingFailure(
                        expected: "a state of group \(replica.group) at or above \(leastIndex(replica))",
                        found: "one of group \(found.group) at \(found.index)")
                }
                description = found
            } catch {
                return snapshotFailed(group: replica.group, "\(error)")
            }
        }
        note(replica) {
            if let description {
                $0.intake?.number = piece.snapshot
                $0.intake?.index = description.index
            }
            $0.intake?.isWriting = true
            $0.intake?.questions = 0
            $0.intake?.bytes += piece.records.count
        }
        counts.snapshotBytesTaken += UInt64(piece.records.count)
        effects.storeJobs.append(
            .takeSnapshot(
                SnapshotPieceToTake(
                    group: replica.group, replica: replica.id, description: description, records: piece.records)))
    }

    func refused(_ replica: Replica, by other: ReplicaID, _ snapshot: UInt64, _ reason: SnapshotRefusal) {
        guard let intake = replica.snapshots.intake, intake.from == other, intake.number == snapshot, !intake.isWriting,
            !intake.isWhole
        else { return }
        giveUp(replica, for: reason == .gone ? 1 : secondTicks)
        if reason == .notNewer, replica.impairment == nil, !replica.isStateDamaged {
            // The offer was an old one, or it will be made again.
            replica.snapshots.isWanted = false
        }
    }

    /// What is in the store of it is deleted there.
    func giveUp(_ replica: Replica, for ticks: UInt64) {
        guard let intake = replica.snapshots.intake else { return }
        if intake.number != 0 {
            effects.storeJobs.append(.dropSnapshot(replica.group, replica.id))
            say(.done(snapshot: intake.number), replica, to: intake.from)
        }
        end(replica)
        replica.snapshots.notBefore = tickCount + ticks
        if replica.impairment == nil, !replica.isStateDamaged, replica.core.appliedIndex >= intake.index {
            // Another offer will come if there is need.
            replica.snapshots.isWanted = false
        }
        // What has waited for it: a checkpoint.
        markReady(replica)
    }

    /// The replica is to be deleted.
    func endSnapshots(of replica: Replica) {
        if replica.snapshots.intake?.isWriting == false { giveUp(replica, for: 1) }
        closeSupplies(of: replica)
        replica.snapshots.isWanted = false
    }

    private func end(_ replica: Replica) {
        guard replica.snapshots.intake != nil else { return }
        replica.snapshots.intake = nil
        intakesOpen -= 1
    }

    /// A piece is in the store, up to `after`.
    package func snapshotTaken(group: GroupID, after: Bytes, isLast: Bool) {
        guard let replica = replica(of: group), replica.snapshots.intake != nil else { return }
        replica.snapshots.intake?.isWriting = false
        guard mayGoOn(replica) else { return giveUp(replica, for: 1) }
        guard isLast else {
            replica.snapshots.intake?.after = after
            return ask(replica)
        }
        replica.snapshots.intake?.isWhole = true
        // From here on it promises nothing that a restart from the disk would not know of.
        if replica.stopped == nil { stop(replica, because: Self.installing) }
        install(replica)
    }

    private func install(_ replica: Replica) {
        guard replica.snapshots.intake?.isWriting == false, replica.lastTicket <= doneTicket else { return }
        replica.snapshots.intake?.isWriting = true
        effects.storeJobs.append(.installSnapshot(replica.group, replica.id))
    }

    /// The replica's manifest is the snapshot's: it is restored from the disk as at a start, and comes back through
    /// `install`.
    ///
    /// - Parameter machines: of which it has records. Those that this host does not have are said once.
    package func snapshotInstalled(group: GroupID, machines: [SubMachineNumber]) {
        guard let replica = replica(of: group) else { return }
        for machine in machines where machine.isRegistered && !settings.machines.has(machine) {
            guard replica.machinesMissed.insert(machine).inserted else { continue }
            effects.notices.append(
                "group \(group): the state has records of state machine \(machine), which this host does not have: they "
                    + "are kept")
        }
        // Its configuration is in the manifest that it has now.
        effects.births.append(
            ReplicaBirth(group: group, replica: replica.id, configuration: Configuration(voters: [])))
    }

    /// The snapshot came to nothing, and nothing of it is left in the store.
    package func snapshotFailed(group: GroupID, _ why: String) {
        guard let replica = replica(of: group), let intake = replica.snapshots.intake else { return }
        effects.notices.append("group \(group): a snapshot for replica \(replica.id) came to nothing: \(why)")
        if replica.stopped == Self.installing {
            // Its log may have turned out to be damaged meanwhile.
            replica.stopped = replica.isLogDamaged ? Self.logDamaged : nil
            updateLiveness(replica)
        }
        if intake.number != 0 { say(.done(snapshot: intake.number), replica, to: intake.from) }
        end(replica)
        replica.snapshots.notBefore = tickCount + secondTicks
        markReady(replica)
    }

    /// Consensus, state machine and memory of a replica begin again from what the disk has now, as after a restart.
    func begin(_ replica: Replica, again plan: ReplicaStartPlan, on view: StoreView) {
        precondition(replica.lastTicket <= doneTicket, "a replica begins again with all that it wrote")
        if let intake = replica.snapshots.intake { say(.done(snapshot: intake.number), replica, to: intake.from) }
        end(replica)
        // What is given away of the old state would come upon its damage again.
        if replica.damage != nil { closeSupplies(of: replica) }
        replica.stopped = nil
        replica.isStateDamaged = plan.isStateDamaged
        replica.damage = nil
        replica.checkpoint = nil
        replica.freshAt = nil
        replica.digests.beginAgain()
        replica.impairment = Self.impairment(plan, replica.core) ?? (replica.isLogDamaged ? Self.logDamaged : nil)
        replica.isMute = plan.isMute || replica.isLogDamaged
        replica.view = view
        noteSessions(of: replica)
        replica.floor = .zero
        replica.announcedFloor = .zero
        // The journal may still delete what it was told before is superfluous.
        replica.discarded = max(plan.start.base, min(replica.discarded, replica.manifestIndex))
        if replica.discarded > replica.core.base {
            replica.core.discard(through: min(replica.discarded, replica.core.stableIndex))
        }
        replica.appliedBytesSinceCheckpoint = 0
        replica.unsavedSinceTick = nil
        countMemtable(of: replica)
        replica.snapshotsInstalled += 1
        counts.snapshotsInstalled += 1
        replica.snapshots.isWanted = replica.impairment != nil && !replica.isMute
        effects.notices.append(
            "group \(replica.group): replica \(replica.id) goes on from a snapshot at \(view.manifest.header.index)")
        updateLiveness(replica)
        markReady(replica)
    }
}
