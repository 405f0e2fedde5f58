// Changes of who belongs to the group (Raft thesis §4): what a leader accepts, how it gets from one configuration to
// the next, and how a replica learns that it is out. Owns no choice of members and no ids: those are the placement's.
//
//   C(old)  ──change──►  C(old, new)  ──committed by both majorities──►  C(new)  ──committed──►  the removed are told,
//            append                      append, by whoever leads                             a removed leader leaves
//
// Every configuration counts from its append on. Why joint, always: Documentation/Membership.md.

public import Primitives

/// Why a leader does not begin a change. Nothing was appended.
public enum ChangeRefusal: Hashable, Sendable {
    case notLeader
    /// No entry of this term is committed yet, so that it is not known whether a predecessor's change is. Soon.
    case notEstablished
    /// Leadership is being handed over.
    case transferring
    /// Too much is uncommitted already. Later.
    case overloaded
    /// The configuration at `index` is not committed, or joint and about to be left. Later.
    case inFlight(index: LogIndex)
    /// The one in effect is at `current`, not where the caller expected it: somebody else's change came first.
    case indexDiffers(current: LogIndex)
    /// It is what is wished already.
    case unchanged
    /// A group without voters decides nothing.
    case noVoters
    /// A replica stands twice in the wish, is none, or the wish is joint itself.
    case malformed
    /// More members than `RaftSettings.membersMax`.
    case tooMany
    /// Was removed before: who comes back needs a new id.
    case removedBefore(ReplicaID)
    /// Can't become a voter before it is a learner.
    case notLearner(ReplicaID)
    /// Was not heard from lately.
    case notHeard(ReplicaID)
    /// Lacks more than `RaftSettings.promotionLagMax` entries; `match` is the last that it has.
    case notCaughtUp(ReplicaID, match: LogIndex)
    /// Of the wished voters no majority was heard from lately: the group could not get on.
    case noQuorum
}

public enum ChangeResult: Hashable, Sendable {
    /// The first entry of the change is in the leader's log and in effect. The change is done when a configuration with
    /// the wished members, not joint, is committed (`RaftCore.committedConfiguration`). Should this leader fail before
    /// the first entry is committed, its successor may lose it, and the old configuration is in effect again.
    case accepted(index: LogIndex, term: Term)
    case refused(ChangeRefusal)
}

extension Configuration {
    /// Whether every majority of this one has a replica in common with every majority of `next`, by rule: only learners
    /// differ, or `next` is joint and hands over from this one, or leaves this joint one.
    package func maySafelyBecome(_ next: Configuration) -> Bool {
        if next.voters.isEmpty { return false }
        if isJoint { return !next.isJoint && next.voters == voters }
        return next.isJoint ? next.outgoing == voters : next.voters == voters
    }
}

// MARK: - A leader

extension RaftCore {
    /// Begins the change to the voters and learners of `wish`, whose index does not matter, from the configuration at
    /// index `expecting`. If only learners differ, one entry does it. Else the group goes through the joint
    /// configuration, which this leader or any later one leaves by itself. A replica becomes a voter only after it was
    /// a learner and has caught up; the leader may leave itself out, and hands over when that is committed.
    public mutating func change(
        to wish: Configuration, expecting: LogIndex, logTime: LogTime = .zero
    ) -> ChangeResult {
        let wish = Configuration(voters: wish.voters, outgoing: wish.outgoing, learners: wish.learners)
        if let refusal = refusal(of: wish, expecting: expecting) { return .refused(refusal) }
        let current = configuration
        let next = Configuration(
            index: log.last.next, voters: wish.voters, outgoing: wish.voters == current.voters ? [] : current.voters,
            learners: wish.learners)
        appendConfiguration(next, logTime: max(logTime, log.lastTime))
        return .accepted(index: log.last, term: term)
    }

    private func refusal(of wish: Configuration, expecting: LogIndex) -> ChangeRefusal? {
        guard role == .leader else { return .notLeader }
        guard transferTarget == .none else { return .transferring }
        guard commit >= firstOfTerm else { return .notEstablished }
        let current = configuration
        guard current.index <= commit, !current.isJoint else { return .inFlight(index: current.index) }
        guard current.index == expecting else { return .indexDiffers(current: current.index) }
        let members = wish.members
        guard !wish.isJoint, members.count == wish.voters.count + wish.learners.count, members.first != ReplicaID.none
        else { return .malformed }
        guard !wish.voters.isEmpty else { return .noVoters }
        guard members.count <= settings.membersMax else { return .tooMany }
        guard wish.voters != current.voters || wish.learners != current.learners else { return .unchanged }
        for member in members where departed.contains(member) { return .removedBefore(member) }
        for voter in wish.voters where !current.voters.contains(voter) {
            guard current.learners.contains(voter), let position = position(of: voter) else {
                return .notLearner(voter)
            }
            guard isHeard(position) else { return .notHeard(voter) }
            guard log.last - progress[position].match <= settings.promotionLagMax else {
                return .notCaughtUp(voter, match: progress[position].match)
            }
        }
        if wish.voters != current.voters {
            let isLive = Quorum.holds(
                progress.count, seat: { Seat(isVoter: wish.voters.contains(progress[$0].replica), isOutgoing: false) },
                { isHeard($0) })
            guard isLive else { return .noQuorum }
        }
        guard
            uncommittedBytes == 0
                || uncommittedBytes + LogEntry.headerBytes + 8 * (members.count + current.voters.count + 3)
                    <= settings.uncommittedBytesMax
        else { return .overloaded }
        return nil
    }

    /// Heard from since the check of the quorum before the last, in this leadership.
    func isHeard(_ position: Int) -> Bool {
        progress[position].replica == replica || progress[position].isRecentlyActive
            || progress[position].wasRecentlyActive
    }

    private mutating func appendConfiguration(_ configuration: Configuration, logTime: LogTime) {
        precondition(
            self.configuration.maySafelyBecome(configuration), "a configuration follows from the one in effect")
        var writer = ByteWriter()
        configuration.encode(into: &writer)
        appendOwn(kind: .configuration, payload: writer.take(), logTime: logTime)
    }

    /// Leaves the joint configuration once it is committed, whoever began it.
    mutating func finishChange() {
        let current = configuration
        guard current.isJoint, current.index <= commit || isPlanted("joint-left-uncommitted") else { return }
        appendConfiguration(
            Configuration(index: log.last.next, voters: current.voters, learners: current.learners),
            logTime: log.lastTime)
    }

    /// A leader that is no voter of the configuration it has committed steps down (Raft thesis §4.2.2), and asks the
    /// voter that has most to go on at once.
    mutating func leaveIfRemoved() {
        let current = configuration
        guard !current.isJoint, current.index <= commit, !current.voters.contains(replica) else { return }
        var best: Int?
        for position in progress.indices where progress[position].seat.isVoter {
            if let other = best, progress[other].match >= progress[position].match { continue }
            best = position
        }
        if let best { sendTimeoutNow(to: progress[best].replica) }
        become(.follower, term: term, leader: .none)
    }
}

// MARK: - All replicas

extension RaftCore {
    /// May stand for election: a voter in some configuration that is not known to be superseded. Not only in the one in
    /// effect: who has the longest log may be the one that it removes, and until that is committed nobody else may be
    /// able to win (Raft thesis §4.2.2). It does not count itself where it has no seat.
    var isPromotable: Bool {
        guard !isImpaired, removedAt == nil else { return false }
        var position = configurations.count - 1
        while position >= 0 {
            let known = configurations[position]
            if known.voters.contains(replica) || known.outgoing.contains(replica) { return true }
            if known.index <= commit { return false }
            position -= 1
        }
        return false
    }

    /// The newest committed configuration was `before`; `commit` has moved since.
    mutating func noteCommittedConfigurations(after before: Configuration) {
        let newest = committedConfiguration
        guard newest.index > before.index else { return }
        isConfigurationReported = false
        var earlier = before.members
        for known in configurations where known.index > before.index && known.index < newest.index {
            earlier += known.members.filter { !earlier.contains($0) }
        }
        let members = newest.members
        if earlier.contains(replica) || members.contains(replica) { wasMember = true }
        if wasMember, !members.contains(replica), removedAt == nil { removedAt = newest.index }
        for member in earlier where !members.contains(member) && !departed.contains(member) {
            departed.append(member)
            // It will hear no more of the group: this is its last word.
            if role == .leader, member != replica { sendRemoved(to: member, hint: newest.index.previous) }
        }
        if departed.count > Self.departedMax { departed.removeFirst(departed.count - Self.departedMax) }
    }

    // MARK: Who is out

    /// Neither the configuration in effect nor the newest committed one has it. It was removed, or it is on its way in
    /// and this log does not know yet.
    func isRemoved(_ member: ReplicaID) -> Bool {
        let known = committedConfiguration
        return known.index > .zero && position(of: member) == nil && !known.members.contains(member)
    }

    /// Tells the sender that it is out, if it is.
    mutating func tellRemoved(_ message: RaftMessage) {
        guard isRemoved(message.from) else { return }
        var hint = committedConfiguration.index.previous
        if message.kind == .preVote || message.kind == .vote {
            hint = log.lastIndex(atOrBelow: min(message.index, hint), termAtMost: message.logTerm)
        }
        sendRemoved(to: message.from, hint: hint)
    }

    private mutating func sendRemoved(to member: ReplicaID, hint: LogIndex) {
        queue(
            RaftMessage(
                kind: .removed, from: replica, to: member, term: term, index: committedConfiguration.index,
                reject: departed.contains(member), hintIndex: hint, hintTerm: log.term(at: hint) ?? .zero))
    }

    /// Believes it only if a committed configuration is known to have had this replica before the one named. A replica
    /// on its way in hears the same words from those that lag behind. Ids are never used again, so that who was in and
    /// is out stays out.
    mutating func considerRemoval(_ message: RaftMessage) {
        guard removedAt == nil else { return }
        let isCommon = message.hintIndex < message.index && log.term(at: message.hintIndex) == message.hintTerm
        let bound = min(isCommon ? max(commit, message.hintIndex) : commit, message.index.previous)
        guard
            message.reject
                || configurations.contains(where: { $0.index <= bound && $0.members.contains(replica) })
        else {
            statistics.unprovenRemovals += 1
            return
        }
        removedAt = message.index
        isConfigurationReported = false
        become(.follower, term: term, leader: .none)
    }
}
