// The end of a turn: everything that came up becomes effects.

internal import Primitives

extension RaftCore {
    /// Moves out all that came up since the last call. Once per turn, after all of the turn's inputs, so that one
    /// message and one write serve them all.
    public mutating func ready(into effects: inout RaftEffects) {
        effects.removeAll()
        hasWork = false
        var cache = SliceCache()
        if role == .leader {
            leaderTurn(&cache, into: &effects)
        } else {
            followerTurn()
        }
        persist(&cache, into: &effects)
        messages.move(to: &effects.messages)
        if let pending = persistence.pending, !isPlanted("acknowledged-before-sync") {
            durableMessages.move(to: &effects.durableMessages)
            effects.durableAfter = pending
        } else {
            // All that they could promise is durable already.
            durableMessages.move(to: &effects.messages)
        }
        readsReady.move(to: &effects.readsReady)
        readsFailed.move(to: &effects.readsFailed)
        if commitReported < commit {
            commitReported = commit
            effects.commitAdvanced = !isImpaired
        }
        effects.roleChanged = !isRoleReported
        isRoleReported = true
        effects.configurationChanged = !isConfigurationReported
        isConfigurationReported = true
        hasWork = false
    }

    private mutating func leaderTurn(_ cache: inout SliceCache, into effects: inout RaftEffects) {
        finishChange()
        let isRoundOpened = openReadRound()
        if isHeartbeatDue || isRoundOpened {
            isHeartbeatDue = false
            for position in progress.indices where progress[position].replica != replica {
                effects.messages.append(
                    RaftMessage(
                        kind: .heartbeat, from: replica, to: progress[position].replica, term: term,
                        commit: isPlanted("heartbeat-commit-unbounded")
                            ? commit : min(progress[position].match, commit),
                        context: reads.newest))
            }
        }
        for position in progress.indices where progress[position].replica != replica {
            replicate(to: position, &cache, into: &effects)
        }
        if transferTarget != .none { pursueTransfer() }
        leaveIfRemoved()
    }

    private mutating func followerTurn() {
        if forwards.hasUnsent, leader != .none {
            let batch = forwards.openBatch(tick: ticks)
            queue(RaftMessage(kind: .readIndex, from: replica, to: leader, term: term, context: batch))
        }
        if var answer = acknowledgement {
            answer.commit = commit
            acknowledgement = nil
            // It waits for what it promises, and not for what came later.
            let isDurable = answer.index <= persistence.stable && persistence.durableTerm == term
            queue(answer, isPromise: !isDurable)
        }
        if let answer = rejection {
            rejection = nil
            queue(answer)
        }
        if var answer = heartbeatAnswer {
            answer.commit = commit
            heartbeatAnswer = nil
            queue(answer)
        }
    }

    private mutating func persist(_ cache: inout SliceCache, into effects: inout RaftEffects) {
        let known = persistence.hardState
        let isVoteNew = known.term != term || known.vote != vote
        let hasEntries = persistence.written < log.last
        guard isVoteNew || hasEntries else { return }
        if hasEntries {
            let first = persistence.written.next
            if let start = arrived.first, start.index == first, arrived.count == log.last - first + 1 {
                effects.entries = arrived
            } else {
                effects.entries = slice(from: first, bytesMax: .max, &cache)
            }
        }
        arrived = []
        if isVoteNew || commit - known.commit >= settings.commitHintEntries {
            effects.hardState = HardState(term: term, vote: vote, commit: max(commit, known.commit))
        }
        effects.persistSequence = persistence.issue(through: log.last, hardState: effects.hardState)
        if isPlanted("vote-not-persisted") { effects.hardState?.vote = .none }
    }
}
