// What a follower does with its leader's messages.

internal import Primitives

extension RaftCore {
    /// The sender leads this term. False if that can't be.
    mutating func follow(_ message: RaftMessage) -> Bool {
        if role == .leader || leader != .none && leader != message.from {
            // Two leaders in one term: somebody broke a promise. Nothing of it is believed.
            statistics.surprises += 1
            return false
        }
        if role != .follower || leader == .none { become(.follower, term: term, leader: message.from) }
        electionElapsed = 0
        isDoubtful = false
        hasWork = true
        return true
    }

    mutating func receiveAppend(_ message: RaftMessage) {
        let (isWellFormed, hasConfiguration) = check(message)
        guard isWellFormed else {
            statistics.malformed += 1
            return
        }
        if contradictsCommitted(message) { estrangedTerm = term }
        guard estrangedTerm != term else {
            // What is committed here and what the leader has are two histories: a promise was broken, or one of them
            // was begun anew from less. It must not count on this log, and nothing of its own is believed.
            statistics.surprises += 1
            return
        }
        if message.index < commit {
            // An old message, or a probe. All that is committed here is the leader's too, if nobody broke a promise: so
            // no more is acknowledged than the message shows to be.
            let end = message.index + message.entries.count
            acknowledge(min(end, commit), to: message.from)
            return
        }
        guard
            log.term(at: message.index) == message.logTerm
                || isPlanted("append-without-term-check") && message.index <= log.last
        else {
            reject(message)
            return
        }
        let end = message.index + message.entries.count
        store(message, hasConfiguration: hasConfiguration)
        advanceCommit(to: min(message.commit, isPlanted("commit-past-match") ? log.last : end))
        acknowledge(end, to: message.from)
    }

    /// The leader's log has another entry than this one where this one's is committed. Two logs with the same entry
    /// somewhere are the same before it (Raft §5.3), so this looks at what the message names, as far as its term is
    /// known here: below the base it is not above the base's. O(1), but for what reaches below `commit`.
    private func contradictsCommitted(_ message: RaftMessage) -> Bool {
        guard message.index <= commit, !isPlanted("append-without-term-check") else { return false }
        if contradicts(message.index, message.logTerm) { return true }
        for position in message.entries.indices {
            let index = message.entries[position].index
            guard index <= commit else { return false }
            if contradicts(index, message.entries[position].term) { return true }
        }
        return false
    }

    private func contradicts(_ index: LogIndex, _ term: Term) -> Bool {
        log.term(at: index).map { $0 != term } ?? (index < log.base && term > log.baseTerm)
    }

    /// Indexes without a gap, terms that never fall and are not above the leader's, configurations that can be read.
    private func check(_ message: RaftMessage) -> (isWellFormed: Bool, hasConfiguration: Bool) {
        let configurationKind = EntryKind.configuration
        var index = message.index
        var previous = message.logTerm
        var hasConfiguration = false
        for position in message.entries.indices {
            let term = message.entries[position].term
            index = index.next
            guard message.entries[position].index == index, term >= previous, term <= message.term else {
                return (false, false)
            }
            if message.entries[position].kind == configurationKind {
                guard Self.configuration(of: message.entries[position]) != nil else { return (false, false) }
                hasConfiguration = true
            }
            previous = term
        }
        return (true, hasConfiguration)
    }

    /// Skips what is here already, replaces from the first entry that differs (Raft paper, figure 2: only on a
    /// conflict, since an old message may hold less than what is here).
    private mutating func store(_ message: RaftMessage, hasConfiguration: Bool) {
        var offset = 0
        let end = message.index + message.entries.count
        if isPlanted("late-append-truncates"), end < log.last, end >= commit { truncate(from: end.next) }
        if message.index != log.last {
            while offset < message.entries.count, let term = log.term(at: message.entries[offset].index),
                term == message.entries[offset].term || isPlanted("conflict-kept")
            {
                offset += 1
            }
            guard offset < message.entries.count else { return }
            if message.entries[offset].index <= log.last { truncate(from: message.entries[offset].index) }
        }
        guard offset < message.entries.count else { return }
        // Only if all that is to be written is this message's can it be handed on as it came.
        let isAlone = offset == 0 && persistence.written == log.last
        if hasConfiguration {
            for entry in message.entries[offset...] { append(entry) }
        } else {
            log.append(message.entries[offset...])
        }
        arrived = isAlone ? message.entries : []
    }

    /// One answer per turn: the newest says it all. It waits until what it acknowledges is durable.
    private mutating func acknowledge(_ index: LogIndex, to leader: ReplicaID) {
        let index = max(index, acknowledgement?.index ?? .zero)
        acknowledgement = RaftMessage(kind: .appendReply, from: replica, to: leader, term: term, index: index)
    }

    private mutating func reject(_ message: RaftMessage) {
        // Of several that follow a lost one the first tells the leader all.
        guard rejection == nil else { return }
        let hint = log.lastIndex(atOrBelow: message.index.previous, termAtMost: message.logTerm)
        rejection = RaftMessage(
            kind: .appendReply, from: replica, to: message.from, term: term, index: message.index,
            commit: commit, reject: true, hintIndex: hint, hintTerm: log.term(at: hint) ?? .zero)
    }

    mutating func receiveHeartbeat(_ message: RaftMessage) {
        if message.commit > log.last {
            // The leader bounds it by what was durable here: this log has lost something.
            statistics.surprises += 1
        } else {
            advanceCommit(to: message.commit)
        }
        let context = max(message.context, heartbeatAnswer?.context ?? 0)
        heartbeatAnswer = RaftMessage(
            kind: .heartbeatReply, from: replica, to: message.from, term: term, context: context)
    }
}
