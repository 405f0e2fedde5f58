// A leader's replication: proposals, who has what, when an entry is committed, and how to find where two logs agree.

public import Primitives

extension RaftCore {
    /// Appends to the leader's log; nothing is sent before `ready`. `logTime` is raised to the log's last time if it is
    /// below it. A `.configuration` takes effect at once (Raft thesis §4.1), and only one may be uncommitted at a time;
    /// `change` is the way that also looks after the members.
    public mutating func propose(kind: EntryKind, payload: Bytes, logTime: LogTime) -> ProposeResult {
        guard role == .leader else { return .notLeader }
        guard transferTarget == .none else { return .overloaded }
        // One proposal is always let in, so that the bound never shuts out an entry larger than itself.
        guard
            uncommittedBytes == 0
                || uncommittedBytes + payload.count + LogEntry.headerBytes <= settings.uncommittedBytesMax
        else { return .overloaded }
        if kind == .configuration {
            let trial = LogEntry(index: log.last.next, term: term, logTime: logTime, kind: kind, payload: payload)
            guard commit >= firstOfTerm, configuration.index <= commit, let next = Self.configuration(of: trial),
                configuration.maySafelyBecome(next)
            else { return .refused }
        }
        appendOwn(kind: kind, payload: payload, logTime: max(logTime, log.lastTime))
        return .accepted(index: log.last, term: term)
    }

    mutating func appendOwn(kind: EntryKind, payload: Bytes, logTime: LogTime) {
        let entry = LogEntry(index: log.last.next, term: term, logTime: logTime, kind: kind, payload: payload)
        uncommittedBytes += entry.encodedBytes
        append(entry)
        hasWork = true
    }

    mutating func ownEntriesBecameStable() {
        guard let position = position(of: replica) else { return }
        if progress[position].acknowledged(persistence.stable) { countAcknowledgements(of: persistence.stable) }
    }

    /// Commits what a majority holds durably, if it is of this term (Raft paper §5.4.2): an older entry on a majority
    /// may still be replaced by a leader that lacks it.
    private mutating func countAcknowledgements(of index: LogIndex) {
        guard index > commit, index >= firstOfTerm || isPlanted("older-term-committed") else { return }
        let reached = LogIndex(
            Quorum.reached(
                progress.count,
                seat: {
                    isPlanted("joint-commit-by-new-half")
                        ? Seat(isVoter: progress[$0].seat.isVoter, isOutgoing: false) : progress[$0].seat
                },
                value: { progress[$0].match.rawValue }))
        guard reached > commit, log.term(at: reached) == term || isPlanted("older-term-committed") else { return }
        advanceCommit(to: reached)
    }

    mutating func receiveAppendReply(_ message: RaftMessage) {
        guard let position = position(of: message.from) else { return }
        progress[position].isRecentlyActive = true
        if message.commit > progress[position].commitKnown { progress[position].commitKnown = message.commit }
        guard message.index <= log.last else {
            statistics.surprises += 1
            return
        }
        hasWork = true
        if message.reject { backOff(position, message) } else { acknowledge(position, message.index) }
    }

    private mutating func acknowledge(_ position: Int, _ index: LogIndex) {
        let isNews = progress[position].acknowledged(index)
        switch progress[position].state {
        // One that takes no entries answers empty probes all the same: a whole window would go to it in vain each time.
        case .probe:
            if isNews || index == log.last {
                progress[position].become(.replicate)
            } else {
                progress[position].bulkLast = .zero
            }
        case .snapshot: if progress[position].match >= log.base { progress[position].become(.probe) }
        case .replicate: break
        }
        if isNews { countAcknowledgements(of: index) }
    }

    /// The follower's log does not have the entry at `message.index`: goes back to where the logs may agree, by whole
    /// terms (Raft paper §5.3), with the follower's hint and the own log's terms.
    private mutating func backOff(_ position: Int, _ message: RaftMessage) {
        let rejected = message.index
        switch progress[position].state {
        case .snapshot: return
        case .replicate:
            // A refusal of what was acknowledged since is an old one.
            guard rejected > progress[position].match else { return }
            progress[position].become(.probe)
        case .probe:
            // The answer to the probe under way, or an old one.
            guard progress[position].next.previous == rejected else { return }
            progress[position].isProbeSent = false
            progress[position].bulkLast = .zero
        }
        let hint = log.lastIndex(atOrBelow: min(message.hintIndex, rejected.previous), termAtMost: message.hintTerm)
        let next = max(min(rejected, hint.next), progress[position].match.next)
        progress[position].next = next
        progress[position].supplied = []
    }

    // MARK: Heartbeats

    /// The clock's heartbeat.
    mutating func beat() {
        hasWork = true
        isHeartbeatDue = true
        isTimeoutNowSent = false
        for position in progress.indices {
            progress[position].isHeartbeatOpen = true
            progress[position].matchAtHeartbeat = progress[position].match
        }
    }

    mutating func receiveHeartbeatReply(_ message: RaftMessage) {
        guard let position = position(of: message.from) else { return }
        progress[position].isRecentlyActive = true
        if message.commit > progress[position].commitKnown { progress[position].commitKnown = message.commit }
        if progress[position].state == .snapshot, message.commit >= log.base {
            // What it has committed is in this log too: it goes on from there.
            progress[position].become(.probe)
            progress[position].next = min(message.commit, log.last).next
        }
        if progress[position].isHeartbeatOpen {
            progress[position].isHeartbeatOpen = false
            // What went in bulk may be under way for long: a nudge behind it asks what became of it.
            if !progress[position].isBulkOpen { progress[position].isProbeSent = false }
            progress[position].isReadFailed = false
            // It is there but did not get on since the heartbeat: something may be lost.
            if progress[position].match < log.last, progress[position].match == progress[position].matchAtHeartbeat {
                progress[position].isNudged = true
            }
            hasWork = true
        }
        if message.context > progress[position].roundAnswered {
            progress[position].roundAnswered = min(message.context, reads.newest)
            confirmReads()
        }
    }

    // MARK: Sending

    /// Entries cut out of the log for one follower often serve the next, and the journal, as they are.
    struct SliceCache {
        var entries: [LogEntry] = []
        var bytesMax = 0
    }

    /// Cuts `entries` from `next` on, or takes those of the last call when they are the same.
    func slice(from next: LogIndex, bytesMax: Int, _ cache: inout SliceCache) -> [LogEntry] {
        if let first = cache.entries.first, first.index == next,
            cache.bytesMax == bytesMax || cache.entries.count == log.last - next + 1
        {
            return cache.entries
        }
        cache.entries = log.slice(from: next, through: log.last, bytesMax: bytesMax)
        cache.bytesMax = bytesMax
        return cache.entries
    }

    /// Sends what the window lets through: entries, or the news of a commit, or a probe.
    mutating func replicate(to position: Int, _ cache: inout SliceCache, into effects: inout RaftEffects) {
        while true {
            let state = progress[position].state
            let next = progress[position].next
            let isBulkOpen = progress[position].isBulkOpen
            let isNudged = progress[position].isNudged
            if state == .snapshot || state == .probe && progress[position].isProbeSent && !(isBulkOpen && isNudged) {
                return
            }
            let isFull = state == .replicate && progress[position].isFull(settings)
            guard let logTerm = log.term(at: next.previous) else {
                progress[position].become(.snapshot)
                effects.snapshotsNeeded.append(progress[position].replica)
                return
            }
            var entries: [LogEntry] = []
            var isInBulk = isBulkOpen
            // A probe that stayed without answer goes again without entries: a follower that can take none answers it,
            // and how far it is has to be known even so.
            if next <= log.last, !isFull, !(state == .probe && (progress[position].isProbeSent || isNudged)) {
                if !log.isInMemory(next) {
                    entries = takeSupplied(for: position, from: next, into: &effects)
                    isInBulk = isBulkOpen || !entries.isEmpty
                } else if !isBulkOpen {
                    entries = slice(from: next, bytesMax: settings.appendBytesMax, &cache)
                }
            }
            let isNews = progress[position].commitSent < commit && !isFull && next > log.last && !isBulkOpen
            guard !entries.isEmpty || isNews || isNudged || state == .probe && next > log.last else { return }
            var bytes = 0
            for offset in entries.indices { bytes += entries[offset].encodedBytes }
            progress[position].isNudged = false
            progress[position].commitSent = commit
            if entries.isEmpty {
                if state == .probe { progress[position].isProbeSent = true }
            } else {
                progress[position].sent(through: next + (entries.count - 1), bytes: bytes)
                if isInBulk { progress[position].bulkLast = next + (entries.count - 1) }
            }
            let isLast = entries.isEmpty || next + entries.count > log.last
            let message = RaftMessage(
                kind: .append, from: replica, to: progress[position].replica, term: term, index: next.previous,
                logTerm: logTerm, commit: commit, entries: entries)
            if isInBulk { effects.bulkMessages.append(message) } else { effects.messages.append(message) }
            if isLast { return }
        }
    }

    /// The entries that were read from the journal for this follower; asks for them first.
    private mutating func takeSupplied(for position: Int, from next: LogIndex, into effects: inout RaftEffects)
        -> [LogEntry]
    {
        if let first = progress[position].supplied.first {
            let entries = progress[position].supplied
            progress[position].supplied = []
            if first.index == next { return entries }
        }
        if !progress[position].isReadingLog, !progress[position].isReadFailed {
            progress[position].isReadingLog = true
            effects.logReads.append(
                LogRead(
                    replica: progress[position].replica, from: next,
                    through: log.firstInMemory.previous, bytesMax: settings.appendBytesMax))
        }
        return []
    }

    /// The answer to a `LogRead`; each gets exactly one: its first entries, in order. Empty if they could not be read;
    /// then it is asked again after the follower's next sign of life.
    public mutating func supply(entries: [LogEntry], for replica: ReplicaID) {
        guard role == .leader, let position = position(of: replica), progress[position].isReadingLog else {
            statistics.uselessSupplies += 1
            return
        }
        progress[position].isReadingLog = false
        hasWork = true
        if entries.isEmpty {
            progress[position].isReadFailed = true
        } else if entries[0].index == progress[position].next, areOwn(entries) {
            progress[position].supplied = entries
        } else {
            // The follower's place changed meanwhile; `ready` asks for what it needs now.
            statistics.uselessSupplies += 1
        }
    }

    /// What came from disk is what this log has there.
    private func areOwn(_ entries: [LogEntry]) -> Bool {
        var index = entries[0].index
        for entry in entries {
            guard entry.index == index, entry.index <= log.last, log.term(at: index) == entry.term else { return false }
            index = index.next
        }
        return true
    }
}
