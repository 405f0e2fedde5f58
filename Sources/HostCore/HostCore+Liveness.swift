// Heartbeats are per pair of hosts, not per group. A host that agrees with another on who leads what keeps all those
// groups' timers at rest; only groups that disagree, or whose hosts went silent, are ticked.

public import Primitives
import RaftCore

extension HostCore {
    /// Once per `settings.tickNanoseconds`.
    public func tick(now: Instant) {
        // Turns move `now` on between two ticks: what elapsed is counted from tick to tick, and what is left of a
        // millisecond counts in the next.
        let progress = now.since(elapsedCountedTo) / 1_000_000
        elapsedMilliseconds += min(progress, LogTimeClock.millisecondsPerTickMax)
        elapsedCountedTo = elapsedCountedTo + progress * 1_000_000
        if now > self.now { self.now = now }
        tickCount += 1
        for peer in peers { suspectIfSilent(peer) }
        if loop.isFirst, tickCount % UInt64(settings.heartbeatTicks) == 0 { beginHeartbeats() }
        continueWaking()
        campaignWherePreferred()
        proposeFirstMap()
        tickActive()
        relieveJournal()
        resumeStoreWork()
        reconsiderDamages()
        reconsiderDoubts()
        retryFetches()
        expireSessions()
        carryOutDeadlines()
        tickMigrations()
        tickSlowed()
        endIdleWatches()
        boundJournal()
        handOverForSpace()
        watchJournal()
        tickSnapshots()
        if tickCount % 20 == 0 { announceFloors() }
        if tickCount % secondTicks == 0 { slotWork.pass(second: tickCount / secondTicks) }
        if tickCount % secondTicks == 0 { checkpointForAgeAndMemory() }
        tickMembership()
        tickMeta()
    }

    // MARK: Hosts

    /// One of the connections to a host is up. Loop 0 is told, and tells the other loops.
    ///
    /// - Parameter featureLevel: as the host named it in the handshake.
    public func peerUp(_ host: HostID, over channel: PeerChannel, featureLevel: UInt32) {
        linkChanged(host, channel, isUp: true, featureLevel: featureLevel)
        if channel == .consensus, let peer = peer(host) {
            tellMachines(to: peer, asks: false)
        }
        tell(.link(host, channel, isUp: true, featureLevel: featureLevel))
    }

    /// One of the connections to a host is lost, with what was under way on it. Loop 0 is told.
    public func peerDown(_ host: HostID, over channel: PeerChannel) {
        linkChanged(host, channel, isUp: false, featureLevel: 0)
        tell(.link(host, channel, isUp: false, featureLevel: 0))
    }

    func linkChanged(_ host: HostID, _ channel: PeerChannel, isUp: Bool, featureLevel: UInt32) {
        guard let peer = peer(host) else { return }
        if isUp {
            peer.namedLevel = featureLevel
            peer.featureLevel = min(featureLevel, settings.featureLevel)
        }
        switch (channel, isUp) {
        case (.consensus, true):
            peer.isConnected = true
            peer.machines = nil
            peer.awaySinceTick = nil
            // Floors that were told while it was away are lost, and a quiet group would never tell them again.
            for replica in replicas where replica.leadingOn.contains(host) {
                replica.announcedFloor = .zero
                stir(replica)
            }
            // It may be another process than the one that named them, and of another version.
            silenceTold([], by: peer)
            // Groups that rested without it may have something to tell it.
            if !isPlanted("nobody-woken") { peer.wakeFrom = .meta }
        case (.consensus, false):
            peer.isConnected = false
            peer.machines = nil
            peer.awaySinceTick = peer.awaySinceTick ?? tickCount
            drop(.consensus, of: peer)
            peer.lastAgreedTick = nil
            peer.mapVersion = nil
            peer.lastFollowedTick = nil
            peer.followingPoll = nil
            peer.wasFollowed = false
            peer.lastHeardTick = nil
            peer.nextHeartbeat = nil
            forgetAsked(peer)
            suspectIfSilent(peer)
        case (.bulk, true):
            peer.isBulkConnected = true
            peer.bulkConnections += 1
        case (.bulk, false):
            peer.isBulkConnected = false
            drop(.bulk, of: peer)
        }
    }

    func isFresh(_ tick: UInt64?) -> Bool {
        guard let tick else { return false }
        return tickCount - tick <= UInt64(settings.suspicionTicks)
    }

    /// The moment a host falls silent, every group that leaned on it is ticked again. The two directions are apart: a
    /// host may disagree with what we say for long, and be agreed with all the time.
    private func suspectIfSilent(_ peer: Peer) {
        if !peer.isLeadingSuspected, !isFresh(peer.lastAgreedTick) {
            peer.isLeadingSuspected = true
            for replica in replicas where replica.leadingOn.contains(peer.host) { activate(replica) }
        }
        if !peer.isFollowingSuspected, !isFresh(peer.lastFollowedTick) {
            peer.isFollowingSuspected = true
            for replica in replicas where replica.followingHost == peer.host { activate(replica) }
        }
    }

    /// What another host said in one turn, when this is the only loop. Throws when the payload is malformed: the shell
    /// closes that connection.
    public func receive(_ payload: Bytes, from host: HostID) throws(DecodingFailure) {
        precondition(loop.count == 1, "several loops share what a peer says: see PeerBatchPart")
        guard let peer = peer(host) else { return }
        var batch = try PeerBatchReader(payload)
        // Messages first: they may bring the very agreement that the digest is then compared for.
        while let (group, message) = try batch.next() { receive(message, of: group, from: host) }
        for floor in batch.floors { receive(floor, from: host) }
        for snapshot in batch.snapshots { receive(snapshot, from: host) }
        for word in batch.words { receive(word, from: host) }
        if let silent = batch.silent { silenceTold(silent, by: peer) }
        receive(batch.heartbeat, batch.reply, of: peer)
    }

    /// This loop's part of what another host said. Loop 0 gets its own after all others got theirs.
    public func receive(_ part: PeerBatchPart, from host: HostID) {
        guard let peer = peer(host) else { return }
        for (group, message) in part.messages { receive(message, of: group, from: host) }
        for floor in part.floors { receive(floor, from: host) }
        for snapshot in part.snapshots { receive(snapshot, from: host) }
        for word in part.words { receive(word, from: host) }
        if let silent = part.silent { silenceTold(silent, by: peer) }
        receive(part.heartbeat, part.reply, of: peer)
    }

    private func receive(_ message: RaftMessage, of group: GroupID, from host: HostID) {
        guard let replica = replica(of: group), message.to == replica.id, !replica.isMute,
            replica.believes(message.from, isOn: host)
        else {
            strayMessages += 1
            return
        }
        guard replica.stopped == nil else { return }
        // What can't be applied or written soon is not taken: the leader sends it again, and waits at its window. Of the
        // meta group there is little, and what makes room in the end may be among it.
        if !message.entries.isEmpty,
            isOverfull(replica) || space == .out || isJournalOverfull && replica.group != .meta
        {
            overloads += 1
            return
        }
        // It would stand when there is space again, or when its disk answers, whoever leads then. And who gets another's
        // state would begin to fetch it anew.
        if message.kind == .timeoutNow,
            space == .out || isJournalHung || replica.isStateDamaged && replica.snapshots.intake != nil
        {
            return
        }
        // A member that no map here has yet: it counts among those that are led from now on, as it counts itself.
        if replica.hasMetStranger {
            replica.hasMetStranger = false
            if livenessPlaces(of: replica) != (replica.leadingOn, replica.followingHost) { updateLiveness(replica) }
        }
        if mayChangeMind(replica, message) { bind(replica) }
        replica.core.step(message)
        markReady(replica)
    }

    private func receive(_ floor: LogFloor, from host: HostID) {
        guard let replica = replica(of: floor.group), replica.core.leader != replica.id,
            replica.host(of: replica.core.leader) == host, floor.index > replica.floor
        else { return }
        replica.floor = min(floor.index, replica.core.lastIndex)
        announceSuperfluous(replica)
    }

    private func receive(_ heartbeat: HostHeartbeat?, _ reply: HostHeartbeatReply?, of peer: Peer) {
        if let heartbeat { note(heartbeat, of: peer) }
        if let reply { answered(reply, by: peer) }
    }

    /// After a disagreement our groups with members there speak for themselves, a bounded number per tick.
    private func continueWaking() {
        for peer in peers {
            guard let first = peer.wakeFrom else { continue }
            var place = position(of: first)
            var woken = 0
            while place < replicas.count, woken < settings.wakesPerTick {
                let replica = replicas[place]
                place += 1
                guard replica.leadingOn.contains(peer.host) else { continue }
                replica.activeUntilTick = tickCount + UInt64(2 * settings.raft.heartbeatTicks + 2)
                activate(replica)
                woken += 1
            }
            peer.wakeFrom = place < replicas.count ? replicas[place].group : nil
        }
    }

    // MARK: Groups

    func activate(_ replica: Replica) {
        guard !replica.isActive, replica.stopped == nil, !replica.isMute else { return }
        replica.isActive = true
        active.append(replica)
    }

    private func tickActive() {
        var kept = 0
        for place in 0..<active.count {
            let replica = active[place]
            guard replica.stopped == nil else {
                replica.isActive = false
                continue
            }
            vouch(for: replica)
            passLogTime(replica)
            if isAtRest(replica) {
                forgetAbsentMembers(of: replica)
                replica.isActive = false
                continue
            }
            let isPatient =
                tickCount < replica.patientUntilTick && replica.core.role == .follower && replica.core.leader == .none
            if !isPatient {
                if replica.core.role != .leader { bind(replica) }
                replica.core.tick(mayStand: !isJournalHung)
                markReady(replica)
            }
            active[kept] = replica
            kept += 1
        }
        active.removeLast(active.count - kept)
    }

    /// Host-level contact stands in for the heartbeats that quiet groups do not send.
    private func vouch(for replica: Replica) {
        if replica.core.role == .leader {
            for member in replica.withCore({ $0.configuration.members }) where member != replica.id {
                // What is silent is not among those that its host agrees for.
                if let host = replica.host(of: member), let peer = peer(host), isFresh(peer.lastAgreedTick),
                    !peer.silent.names(member, of: replica.group)
                {
                    replica.core.heard(from: member)
                }
            }
        } else if let host = replica.followingHost, let peer = peer(host), isFresh(peer.lastFollowedTick) {
            replica.core.heard(from: replica.core.leader)
        }
    }

    /// Nothing is owed to this group and everything it leans on is alive. A leader that has a majority does not stay awake
    /// for members that nobody hears: all that it led with one on a host that died would, until that comes back.
    func isAtRest(_ replica: Replica) -> Bool {
        guard tickCount >= replica.activeUntilTick, replica.waitingCalls == 0,
            replica.core.appliedIndex == replica.core.commit || replica.impairment != nil
        else { return false }
        if replica.core.role == .leader {
            guard let absent = absentMembers(of: replica) else { return false }
            return replica.withCore { $0.isSettled(ignoring: absent) }
        }
        guard replica.withCore({ $0.isSettled() }), let host = replica.followingHost, let peer = peer(host) else {
            return false
        }
        return isFresh(peer.lastFollowedTick)
    }

    /// Takes the replica's old part out of the digests and puts its present one in.
    func updateLiveness(_ replica: Replica) {
        bind(replica)
        lookAtPlacement(replica)
        noteSilence(of: replica)
        replica.leadsSinceRound = leadingRound + 1
        for host in replica.leadingOn { peer(host)?.leading.remove(replica.contributedDigest) }
        if let host = replica.followingHost { peer(host)?.following.remove(replica.contributedDigest) }
        replica.contributedDigest = livenessDigest(group: replica.group, term: replica.core.term)
        replica.hasProposedMap = false
        if replica.stopped != nil || replica.core.role != .leader { replica.leadsSinceTick = nil }
        if replica.stopped == nil, replica.core.role == .leader {
            if replica.leadsSinceTick == nil {
                replica.leadsSinceTick = tickCount
                // What elapsed before is in the log's last entry, as far as it counts. Of an earlier leadership nothing is
                // left: what came since has the time of who led meanwhile, and would be old at once.
                replica.elapsedSeen = elapsedMilliseconds
                replica.logTime.begin(at: replica.withCore { $0.lastLogTime })
            }
            replica.announcedFloor = .zero
            stir(replica)
        }
        (replica.leadingOn, replica.followingHost) = livenessPlaces(of: replica)
        for host in replica.leadingOn { peer(host)?.leading.add(replica.contributedDigest) }
        if let host = replica.followingHost {
            replica.lastTurns[replica.core.leader] = tickCount
            peer(host)?.following.add(replica.contributedDigest)
        }
        activate(replica)
    }

    /// The hosts on which it leads, and the one on which its leader is, as its part in the sums towards these has it.
    func livenessPlaces(of replica: Replica) -> (leading: [HostID], following: HostID?) {
        guard replica.stopped == nil else { return ([], nil) }
        switch replica.core.role {
        case .leader:
            var leading: [HostID] = []
            for member in replica.withCore({ $0.configuration.members }) where member != replica.id {
                guard let host = replica.host(of: member), let peer = peer(host),
                    !peer.silent.names(member, of: replica.group)
                else { continue }
                leading.append(host)
            }
            return (leading, nil)
        case .follower:
            let host = replica.host(of: replica.core.leader)
            return ([], host.flatMap { peer($0) == nil ? nil : $0 })
        case .preCandidate, .candidate: return ([], nil)
        }
    }

    private static var floorRepeatTicks: UInt64 { 1_200 }

    /// A leader's members may have more on disk than before.
    func stir(_ replica: Replica) {
        guard !replica.isStirred else { return }
        replica.isStirred = true
        stirred.append(replica)
    }

    /// Leaders tell what every member has on disk, so that all may let go of their journals.
    private func announceFloors() {
        // Once a minute all are told again: a payload that was dropped for want of room may have had one.
        let isRepeated = tickCount % Self.floorRepeatTicks == 0
        let leaders = isRepeated ? replicas : stirred
        for replica in stirred { replica.isStirred = false }
        stirred.clear()
        for replica in leaders where replica.core.role == .leader && replica.stopped == nil {
            let stable = replica.everywhereStable
            guard stable > replica.announcedFloor || isRepeated else { continue }
            replica.core.evict(through: stable)
            replica.announcedFloor = stable
            replica.floor = max(replica.floor, stable)
            for host in replica.leadingOn {
                guard let peer = peer(host) else { continue }
                write(to: peer, over: .consensus) { $0.floors.append(LogFloor(group: replica.group, index: stable)) }
            }
            announceSuperfluous(replica)
        }
    }

    // MARK: Log time

    /// While clients can't say that they live, no time passes that their sessions could end by.
    func passLogTime(_ replica: Replica) {
        guard turnsSessionsDown(replica) else { return advanceLogTime(replica) }
        replica.elapsedSeen = elapsedMilliseconds
    }

    func advanceLogTime(_ replica: Replica) {
        let progress = elapsedMilliseconds - replica.elapsedSeen
        replica.elapsedSeen = elapsedMilliseconds
        guard replica.core.role == .leader else { return }
        let (last, quorumActive) = replica.withCore { ($0.lastLogTime, $0.quorumActive) }
        replica.logTime.follow(last)
        replica.logTime.advance(by: progress, quorumAnswers: !replica.isActive || quorumActive)
    }
}
