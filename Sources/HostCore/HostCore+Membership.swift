// A group's configuration follows the map: its leader begins the next change, reports what has come about, and hands
// leadership to whom it belongs; a replica that is out is deleted from its host. How one configuration becomes another is
// consensus's affair (Documentation/Membership.md).

package import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

/// How far the deletion of a replica has come. What is on disk goes in this order, so that its identity never comes back.
enum ReplicaRemoval {
    /// It stands still, and waits for what the disk still does for it.
    case stopping
    /// Its tombstone is on its way into the journal.
    case burying
    /// The store deletes its state.
    case deleting
}

extension HostCore {
    /// Its role, its configuration, its place in the map or its hosts are others than before: looked at each second until
    /// all is as it is wanted. Replicas in which nothing changes cost nothing.
    func lookAtPlacement(_ replica: Replica) {
        guard !replica.isUnsettled else { return }
        replica.isUnsettled = true
        unsettled.append(replica)
    }

    /// Once a second.
    func tickMembership() {
        guard tickCount % secondTicks == 0, let map, !unsettled.isEmpty else { return }
        if unsettled.count > 1 { unsettled.sort { $0.group < $1.group } }
        if map.featureLevel >= FeatureLevel.membership {
            handOversLeft = settings.handOversPerSecond
            for replica in unsettled { replica.isUnsettled = !settle(replica, map) }
        }
        // What is deleted at once leaves the list meanwhile.
        for replica in unsettled where replica.removal != nil { goOnRemoving(replica) }
        unsettled.removeAll { !$0.isUnsettled }
    }

    /// True: nothing is left to do for it before something changes.
    private func settle(_ replica: Replica, _ map: ClusterMap) -> Bool {
        var isSettled = !replica.isMute && !replica.isLogDamaged
        if let record = map.group(replica.group) {
            if replica.role == .leader { isSettled = lead(replica, record, map) && isSettled }
            if replica.isMute || replica.isLogDamaged,
                record.record(of: replica.id)?.role == .voter,
                record.replicas.count > 1
            {
                report(.replaceReplica(replica.group, replica.id))
            }
            if record.record(of: replica.id) == nil { isSettled = false }
        } else {
            isSettled = false
        }
        considerRemoval(replica, map)
        return isSettled && replica.removal == nil
    }

    // MARK: Leading

    /// True: the group is as the map wants it, and leads where it should.
    private func lead(_ replica: Replica, _ record: GroupRecord, _ map: ClusterMap) -> Bool {
        let (current, commit, isEstablished) = replica.withCore { ($0.configuration, $0.commit, $0.isEstablished) }
        guard isEstablished, !current.isJoint, current.index <= commit else { return false }
        let isNews = record.isNews(current)
        if isNews {
            report(
                .settled(
                    replica.group, index: current.index, voters: current.voters, learners: current.learners))
        }
        if handsOverBeforeLeaving(replica, record, map) { return false }
        let wish = record.configuration(after: current, nextReplica: map.nextReplica) { learner in
            guard let progress = replica.core.progress(of: learner) else { return false }
            return progress.isRecentlyActive
                && replica.core.lastIndex - progress.match <= settings.raft.promotionLagMax
        }
        if wish.voters != current.voters || wish.learners != current.learners {
            advanceLogTime(replica)
            replica.logTime.follow(replica.withCore { $0.lastLogTime })
            let result = replica.core.change(
                to: wish, expecting: current.index, logTime: replica.logTime.current)
            if case .accepted = result {
                effects.notices.append(
                    "group \(replica.group): from voters \(current.voters), learners \(current.learners) "
                        + "to voters \(wish.voters), learners \(wish.learners)")
                markReady(replica)
            }
            return false
        }
        placeLeadership(replica, record, map)
        // A learner that is to vote has to catch up first: nobody says when it has.
        return !isNews && record.isSettled && record.preferredLeader == replica.id
            && map.host(host)?.state == .active
    }

    private var leadingTicksBeforeReturn: UInt64 { 10 * secondTicks }
    private var turnTicks: UInt64 { 300 * secondTicks }

    /// A host that is drained leads nothing; otherwise leadership goes to the replica that the map prefers, once it is
    /// there again. Not soon after it gave it away: it may have had a reason, such as a full disk.
    private func placeLeadership(_ replica: Replica, _ record: GroupRecord, _ map: ClusterMap) {
        func isActive(_ host: HostID) -> Bool { map.host(host)?.state == .active }
        guard handOversLeft > 0, replica.core.transferee == nil, space == .ample || !isActive(host) else { return }
        if !isActive(host) {
            guard tickCount >= replica.handOverTick, let next = successor(of: replica, where: isActive) else { return }
            replica.handOverTick = tickCount + leadingTicksBeforeReturn
            replica.lastTurns[next] = tickCount
            return handOver(replica, to: next)
        }
        let preferred = record.preferredLeader
        guard preferred != replica.id, let since = replica.leadsSinceTick,
            tickCount - since >= leadingTicksBeforeReturn,
            replica.lastTurns[preferred].map({ tickCount - $0 >= turnTicks }) ?? true,
            replica.core.configuration.voters.contains(preferred), let host = replica.host(of: preferred),
            isActive(host), isHeard(preferred, of: replica), let progress = replica.core.progress(of: preferred),
            progress.isRecentlyActive, replica.core.lastIndex - progress.match <= settings.raft.promotionLagMax
        else { return }
        // Asked once each so often, whatever comes of it.
        replica.lastTurns[preferred] = tickCount
        handOver(replica, to: preferred)
    }

    /// A leader that is to leave its group hands over first, so that nobody waits for an election. Asked once: if nothing
    /// comes of it, it goes as it is.
    private func handsOverBeforeLeaving(_ replica: Replica, _ record: GroupRecord, _ map: ClusterMap) -> Bool {
        guard map.featureLevel >= FeatureLevel.migrations, record.record(of: replica.id)?.role == .leaving
        else { return false }
        if replica.core.transferee != nil { return true }
        guard tickCount >= replica.handOverTick else { return false }
        // Its turn comes in another second.
        guard handOversLeft > 0 else { return true }
        let preferred = record.preferredLeader
        let isReady =
            replica.core.configuration.voters.contains(preferred) && isHeard(preferred, of: replica)
            && replica.core.progress(of: preferred)?.isRecentlyActive == true
        let stays = { (host: HostID) in map.host(host)?.state == .active }
        guard let next = isReady ? preferred : successor(of: replica, where: stays) else { return false }
        replica.handOverTick = tickCount + leadingTicksBeforeReturn
        handOver(replica, to: next)
        return true
    }

    private func handOver(_ replica: Replica, to successor: ReplicaID) {
        handOversLeft -= 1
        if case .accepted = replica.core.transfer(to: successor) { markReady(replica) }
    }

    // MARK: Leaving

    /// The map no longer names the replica. That alone proves nothing: a leader that was deposed may have reported a
    /// configuration without it. It goes if consensus told it that it is out, or if there is nothing that it could have
    /// promised to anybody.
    private func considerRemoval(_ replica: Replica, _ map: ClusterMap) {
        guard replica.removal == nil, map.group(replica.group)?.record(of: replica.id) == nil else { return }
        let group = map.group(replica.group)
        let isUnused = replica.core.lastIndex == .zero && replica.core.term == .zero
        guard
            group == nil || group?.replica(on: host) != nil || replica.core.removedAt != nil || replica.isMute
                || replica.isLogDamaged || replica.digests.isOutvoted || isUnused
                || replica.core.statistics.unprovenRemovals > 0
        else { return }
        replica.removal = .stopping
        if replica.stopped != Self.installing { stopForGood(replica) }
    }

    private func stopForGood(_ replica: Replica) {
        if let stopped = replica.stopped, stopped == Self.removed { return }
        stop(replica, because: Self.removed)
    }

    private static var removed: String { "the replica was removed from here" }

    private func goOnRemoving(_ replica: Replica) {
        switch replica.removal {
        case nil, .deleting: return
        case .stopping:
            guard replica.stopped != Self.installing else { return }
            stopForGood(replica)
            endSnapshots(of: replica)
            // What it still has to say stands on what it wrote: nothing is said behind a tombstone.
            guard replica.lastTicket <= doneTicket, replica.heldMessages == 0,
                replica.checkpoint?.isUnderWay != true, !replica.isMerging, replica.snapshots.intake == nil
            else { return }
            replica.checkpoint = nil
            if !isPlanted("tombstone-left-out") { records.append(.tombstone(replica.group, replica.id)) }
            replica.lastTicket = nextTicket
            replica.removal = .burying
        case .burying:
            guard replica.lastTicket <= doneTicket else { return }
            replica.removal = .deleting
            effects.storeJobs.append(.removeReplica(replica.group, replica.id))
        }
    }

    /// Nothing is left of the replica on disk but its tombstone. The map may place another one here.
    package func replicaRemoved(group: GroupID) {
        guard let replica = replica(of: group), replica.removal != nil else { return }
        effects.notices.append("group \(group): replica \(replica.id) is deleted from here")
        remove(replica)
        askForBirths()
    }
}
