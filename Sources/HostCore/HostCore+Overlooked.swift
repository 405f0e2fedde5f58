// What runs in each tick and second looks only at the replicas in which something changed. Whoever forgets to put one on
// its list leaves that one behind for ever, without an error: so here is, for each list, what one that is not on it must
// look like. The simulator asks at every few ticks; nothing stands on it.

import DequeModule
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

extension HostCore {
    /// A replica that needs to be looked at and is on no list, or a sum that is not what it is the sum of, in words; nil if
    /// there is none. To be asked between a turn and the next input. O(replicas × members).
    package func overlooked() -> String? {
        let unsettled = Set(unsettled.map { ObjectIdentifier($0) })
        var unsaved: Set<SavingPlace> = []
        for (replica, tick) in self.unsaved {
            unsaved.insert(SavingPlace(replica: ObjectIdentifier(replica), tick: tick))
        }
        for replica in replicas {
            // What waits for its turn has not been counted yet.
            guard !replica.isReady, replica.stopped != nil || !replica.core.hasReady else { continue }
            if let what = overlooked(replica) { return "group \(replica.group): \(what)" }
            guard replica.isUnsettled == unsettled.contains(ObjectIdentifier(replica)) else {
                return "group \(replica.group): it is \(replica.isUnsettled ? "not " : "")on the list of places"
            }
            guard let tick = replica.unsavedSinceTick else { continue }
            guard unsaved.contains(SavingPlace(replica: ObjectIdentifier(replica), tick: tick)) else {
                return "group \(replica.group): nobody will save what it has since tick \(tick)"
            }
        }
        return peers.lazy.compactMap { self.overlooked($0) }.first
    }

    private struct SavingPlace: Hashable {
        var replica: ObjectIdentifier
        var tick: UInt64
    }

    private func overlooked(_ replica: Replica) -> String? {
        if !replica.isUnsettled, let map, map.featureLevel >= FeatureLevel.membership, !isPlaced(replica, map) {
            return "its place in the map is not looked at"
        }
        if replica.role == .leader, !replica.isStirred, replica.everywhereStable > replica.announcedFloor {
            return "floor \(replica.everywhereStable) is not announced, only \(replica.announcedFloor)"
        }
        if replica.isSilent != (replica.stopped != nil || replica.isMute)
            || replica.isSilent != silent.names(replica.id, of: replica.group)
        {
            return "it is silent, or not, and others are told the other"
        }
        if !replica.snapshots.isIdle, !replica.isSnapshotting { return "its snapshots are not looked after" }
        let (leading, following) = livenessPlaces(of: replica)
        guard leading == replica.leadingOn, following == replica.followingHost else {
            return "it counts as leading on \(replica.leadingOn), following \(replica.followingHost as Any), "
                + "and should on \(leading) and \(following as Any)"
        }
        if replica.machine.sessions.count > 0, !replica.isWatchedForSessions {
            return "nobody looks after its sessions"
        }
        guard replica.stopped == nil, !replica.isMute else { return nil }
        if replica.canApply(settings) { return "it has entries to apply, and no turn" }
        // At the end of what the store does for it now it is looked at again.
        let isInStore = replica.waitsForStore || replica.isMerging || replica.checkpoint?.isUnderWay == true
        if !isInStore, isStoreWorkDue(replica) { return "its checkpoint or merge is due, and not begun" }
        if !replica.isActive, replica.core.role == .leader,
            let absent = absentMembers(of: replica)?.first(where: { isCountedAsHeard($0, by: replica) })
        {
            return "it rests, and counts replica \(absent) as heard, which is absent"
        }
        if !replica.isActive, !isAtRest(replica), !isToBeWoken(replica) {
            return "it owes something, or leans on who is not there, and is not ticked"
        }
        let saved = replica.checkpoint?.header.index ?? replica.manifestIndex
        if replica.impairment == nil, replica.core.appliedIndex > saved, replica.unsavedSinceTick == nil {
            return "\(replica.core.appliedIndex) is applied, \(saved) saved, and it does not wait for a checkpoint"
        }
        return nil
    }

    /// What `settle` finds nothing to do for.
    private func isPlaced(_ replica: Replica, _ map: ClusterMap) -> Bool {
        guard !replica.isMute, !replica.isLogDamaged, replica.removal == nil, let record = map.group(replica.group),
            record.record(of: replica.id) != nil
        else { return false }
        guard replica.role == .leader else { return true }
        let (current, commit, isEstablished) = replica.withCore { ($0.configuration, $0.commit, $0.isEstablished) }
        let wish = record.configuration(after: current, nextReplica: map.nextReplica) { _ in true }
        return isEstablished && !current.isJoint && current.index <= commit && !record.isNews(current)
            && wish.voters == current.voters && wish.learners == current.learners && record.isSettled
            && record.preferredLeader == replica.id && map.host(host)?.state == .active
    }

    private func isCountedAsHeard(_ member: ReplicaID, by replica: Replica) -> Bool {
        replica.core.progress(of: member)?.isRecentlyActive == true
    }

    private func isToBeWoken(_ replica: Replica) -> Bool {
        peers.contains { peer in
            guard let first = peer.wakeFrom else { return false }
            return replica.group >= first && replica.leadingOn.contains(peer.host)
        }
    }

    private func overlooked(_ peer: Peer) -> String? {
        var leading = LivenessSum()
        var following = LivenessSum()
        for replica in replicas {
            for host in replica.leadingOn where host == peer.host { leading.add(replica.contributedDigest) }
            if replica.followingHost == peer.host { following.add(replica.contributedDigest) }
        }
        return leading == peer.leading && following == peer.following && peer.silence == peer.silent.silence
            ? nil : "the sums of what is led and followed on host \(peer.host)"
    }
}
