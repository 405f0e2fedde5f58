// Time and elections: the election timer, pre-vote, candidacies, votes, and becoming or ceasing to be leader.

internal import Primitives

extension RaftCore {
    /// The logical clock advances by one. By itself this makes the core a complete Raft; a host that watches its peers
    /// otherwise need not tick groups that are settled.
    ///
    /// - Parameter mayStand: false: it stands for no election, and when its time is over it follows nobody.
    public mutating func tick(mayStand: Bool = true) {
        ticks += 1
        expireReads()
        electionElapsed += 1
        if role == .leader {
            heartbeatElapsed += 1
            if heartbeatElapsed >= settings.heartbeatTicks {
                heartbeatElapsed = 0
                beat()
            }
            ageTransfer()
            if electionElapsed >= settings.electionTicks { checkQuorum() }
        } else if electionElapsed >= electionTimeout {
            if mayStand, isPromotable {
                campaign()
            } else if leader != .none {
                become(.follower, term: term, leader: .none)
            }
        }
    }

    /// Stands for election now: first asks whether it could win (Raft thesis §9.6), without taking a new term.
    public mutating func campaign() {
        guard role != .leader, isPromotable, !isBoundByPromise else { return }
        statistics.campaigns += 1
        become(.preCandidate, term: term, leader: .none)
        ask(.preVote, term: term.next)
        countVotes()
    }

    /// Leads no more, and names nobody: whoever times out first stands for election. What it proposed may still be
    /// committed by its successor.
    public mutating func stepDown() {
        guard role == .leader else { return }
        become(.follower, term: term, leader: .none)
    }

    /// Steps down unless a majority was heard from since the last check (Raft thesis §6.2).
    private mutating func checkQuorum() {
        electionElapsed = 0
        let isActive = quorumActive
        for position in progress.indices {
            progress[position].wasRecentlyActive = progress[position].isRecentlyActive
            progress[position].isRecentlyActive = false
        }
        if !isActive { become(.follower, term: term, leader: .none) }
    }

    mutating func resetElectionTimer() {
        electionElapsed = 0
        electionTimeout = settings.electionTicks + Int(random.below(UInt64(max(settings.electionTicks, 1))))
    }

    /// The one way to change role, term or leader. Everything that belonged to the old ones ends here.
    mutating func become(_ newRole: RaftRole, term newTerm: Term, leader newLeader: ReplicaID) {
        precondition(newTerm >= term, "terms only grow")
        hasWork = true
        isRoleReported = false
        // Reads were asked of a leader that may be none any more.
        if newTerm > term || newLeader != leader || role == .leader { failReads() }
        if newTerm > term {
            term = newTerm
            vote = .none
            // Answers to the old term's leader: it asks again if it still leads.
            acknowledgement = nil
            rejection = nil
            heartbeatAnswer = nil
        }
        role = newRole
        leader = newLeader
        isDoubtful = false
        endTransfer()
        for position in progress.indices { progress[position].vote = nil }
        resetElectionTimer()
    }

    /// Asks all other voters; the own voice is counted in `countVotes`.
    private mutating func ask(_ kind: RaftMessageKind, term: Term, context: UInt64 = 0) {
        for position in progress.indices where progress[position].replica != replica {
            guard progress[position].seat.isVoter || progress[position].seat.isOutgoing else { continue }
            // A vote request tells that this replica voted for itself: that must be durable first.
            queue(
                RaftMessage(
                    kind: kind, from: replica, to: progress[position].replica, term: term, index: log.last,
                    logTerm: log.lastTerm, context: context), isPromise: kind == .vote)
        }
    }

    /// Counts the voices so far. The own one counts in a real election only when it is durable.
    mutating func countVotes() {
        guard role == .preCandidate || role == .candidate else { return }
        let ownVoice =
            role == .preCandidate
            || persistence.durableTerm == term && persistence.durableVote == replica
        if let position = position(of: replica) { progress[position].vote = ownVoice ? true : nil }
        let outcome = Quorum.outcome(
            progress.count,
            seat: { progress[$0].seat },
            vote: { progress[$0].vote })
        switch (outcome, role) {
        case (.pending, _): break
        case (.lost, _): become(.follower, term: term, leader: .none)
        case (.won, .preCandidate): becomeCandidate()
        case (.won, _): if ownVoice { becomeLeader() }
        }
    }

    /// With `byTransfer` the leader has asked for it: no pre-vote, and the voters need not be loyal to it.
    mutating func becomeCandidate(byTransfer: Bool = false) {
        become(.candidate, term: term.next, leader: .none)
        vote = replica
        ask(.vote, term: term, context: byTransfer ? RaftMessage.transferContext : 0)
        countVotes()
    }

    private mutating func becomeLeader() {
        become(.leader, term: term, leader: replica)
        if isPlanted("leader-cuts-its-log"), log.last > commit { truncate(from: commit.next) }
        statistics.elections += 1
        heartbeatElapsed = 0
        isHeartbeatDue = false
        reads = LeaderReads()
        for position in progress.indices { progress[position].begin(next: log.last.next) }
        if let position = position(of: replica) { _ = progress[position].acknowledged(persistence.stable) }
        uncommittedBytes = 0
        var index = commit
        while index < log.last {
            index = index.next
            uncommittedBytes += log[index].encodedBytes
        }
        // Entries of older terms are committed by this one, and reads are answered after it (Raft thesis §3.6.2, §6.4).
        firstOfTerm = log.last.next
        if isPlanted("no-entry-at-term-start") {
            firstOfTerm = .zero
            return
        }
        appendOwn(kind: .empty, payload: Bytes(), logTime: log.lastTime)
    }

    /// A leader is there as far as this replica can tell: whoever wants an election now was cut off or removed.
    private var isLeaderPresent: Bool { leader != .none && electionElapsed < settings.electionTicks }

    /// A message from a peer. Whatever comes, the worst is that it is dropped and counted.
    public mutating func step(_ message: RaftMessage) {
        guard message.to == replica, message.from != replica, message.from != .none else {
            statistics.misaddressed += 1
            return
        }
        guard message.kind.rawValue >= RaftMessageKind.preVote.rawValue,
            message.kind.rawValue <= RaftMessageKind.removed.rawValue
        else {
            statistics.unknownKinds += 1
            return
        }
        guard message.term > .zero else {
            statistics.malformed += 1
            return
        }
        switch message.kind {
        case .append, .heartbeat, .timeoutNow: break
        case .preVote, .vote: if position(of: message.from) == nil { tellRemoved(message) }
        case .removed:
            // Says nothing about terms: the one who tells may be far ahead or behind.
            considerRemoval(message)
            return
        default:
            // Candidates and leaders may be in a configuration that has not reached this log yet, and a leader may have
            // left the one that has. Who else answers, or asks a leader, is a member.
            guard position(of: message.from) != nil || message.from == leader else {
                statistics.unknownSenders += 1
                tellRemoved(message)
                return
            }
        }
        if message.term < term {
            answerOldTerm(message)
        } else if message.term == term || adopt(message) {
            dispatch(message)
        }
    }

    private mutating func dispatch(_ message: RaftMessage) {
        switch message.kind {
        case .preVote, .vote: considerVote(message)
        case .preVoteReply: if role == .preCandidate { count(message) }
        case .voteReply: if role == .candidate { count(message) }
        case .append: if follow(message) { receiveAppend(message) }
        case .heartbeat: if follow(message) { receiveHeartbeat(message) }
        case .appendReply: if role == .leader { receiveAppendReply(message) }
        case .heartbeatReply: if role == .leader { receiveHeartbeatReply(message) }
        case .readIndex: receiveReadIndex(message)
        case .readIndexReply: receiveReadIndexReply(message)
        case .timeoutNow: receiveTimeoutNow(message)
        default: break
        }
    }

    /// A message of a newer term. False if it is not to be handled further.
    private mutating func adopt(_ message: RaftMessage) -> Bool {
        switch message.kind {
        case .preVote, .vote:
            if isLeaderPresent || isBoundByPromise, !message.isByTransfer {
                // Leader stickiness (Raft thesis §4.2.3). But a replica that is not ticked may believe for ever in a
                // leader that is gone: from now on it wants to be ticked until the leader speaks again.
                statistics.refusedForLeader += 1
                // But for one that is removed: it was told, and disturbs nobody. (Its log is behind every log that has
                // its removal committed, while a new member's that this log does not know yet is not.)
                if isRemoved(message.from), !isUpToDate(message) { return false }
                isDoubtful = true
                if role == .leader {
                    // It does not know who leads (it was restarted, or was cut off): tell it.
                    isHeartbeatDue = true
                    hasWork = true
                }
                return false
            }
            // A pre-vote's term is not taken by anybody yet.
            guard message.kind == .vote else { return true }
            if position(of: message.from) == nil, !isUpToDate(message) {
                // A removed replica that does not know it: refused as usual, but it does not raise anybody's term.
                statistics.unknownSenders += 1
                queue(RaftMessage(kind: .voteReply, from: replica, to: message.from, term: term, reject: true))
                return false
            }
            become(.follower, term: message.term, leader: .none)
        case .preVoteReply where !message.reject:
            // A granted pre-vote carries the term that this replica asked about.
            break
        case .append, .heartbeat, .timeoutNow: become(.follower, term: message.term, leader: message.from)
        default: become(.follower, term: message.term, leader: .none)
        }
        return true
    }

    /// A message of an older term: whoever is behind is told the term, or it would wait for ever. A leader that was
    /// deposed learns it, as does a pre-candidate with a longer log in a lower term.
    private mutating func answerOldTerm(_ message: RaftMessage) {
        statistics.stale += 1
        let kind: RaftMessageKind
        switch message.kind {
        case .append, .heartbeat: kind = .appendReply
        case .preVote: kind = .preVoteReply
        case .vote: kind = .voteReply
        default: return
        }
        queue(RaftMessage(kind: kind, from: replica, to: message.from, term: term, reject: true))
    }

    /// The candidate's log holds all that this one may know to be committed (Raft paper §5.4.1).
    private func isUpToDate(_ message: RaftMessage) -> Bool {
        isPlanted("vote-for-shorter-log") || message.logTerm > log.lastTerm
            || message.logTerm == log.lastTerm && message.index >= log.last
    }

    private mutating func considerVote(_ message: RaftMessage) {
        let isPreVote = message.kind == .preVote
        // A promise binds in every term: the own one may have been raised since without an election.
        if isBoundByPromise, !message.isByTransfer {
            let reply: RaftMessageKind = isPreVote ? .preVoteReply : .voteReply
            queue(RaftMessage(kind: reply, from: replica, to: message.from, term: term, reject: true))
            return
        }
        let mayVote =
            isPlanted("vote-given-twice") || vote == message.from || vote == .none && leader == .none
            || isPreVote && message.term > term
        let reply: RaftMessageKind = isPreVote ? .preVoteReply : .voteReply
        guard mayVote, isUpToDate(message) else {
            queue(RaftMessage(kind: reply, from: replica, to: message.from, term: term, reject: true))
            return
        }
        if isPreVote {
            queue(RaftMessage(kind: reply, from: replica, to: message.from, term: message.term))
        } else {
            vote = message.from
            electionElapsed = 0
            queue(RaftMessage(kind: reply, from: replica, to: message.from, term: term), isPromise: true)
        }
    }

    private mutating func count(_ message: RaftMessage) {
        // A grant is for the term that was asked about.
        guard role == .candidate || message.reject || message.term == term.next,
            let position = position(of: message.from)
        else { return }
        // The first answer counts: a late copy of an earlier round's refusal does not take back a grant.
        if progress[position].vote != true { progress[position].vote = !message.reject }
        countVotes()
    }
}
