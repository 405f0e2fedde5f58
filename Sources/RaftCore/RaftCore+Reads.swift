// Linearizable reads without the log: ReadIndex, in batches (Raft thesis §6.4).

internal import Primitives

extension RaftCore {
    /// Asks for a linearizable read. It ends as ready, with the index that must be applied first, or as failed: after a
    /// change of leader, or when an election timeout passes without an answer. `context` is the caller's own.
    public mutating func read(context: UInt64) {
        hasWork = true
        if role == .leader, reads.count < settings.readsPendingMax {
            reads.add(LeaderReads.Read(origin: replica, context: context, tick: ticks))
        } else if role == .follower, leader != .none, !isImpaired, forwards.count < settings.readsPendingMax {
            forwards.add(context)
        } else {
            readsFailed.append(context)
        }
    }

    mutating func receiveReadIndex(_ message: RaftMessage) {
        guard role == .leader, reads.count < settings.readsPendingMax else {
            answerRead(message.context, to: message.from, index: .zero, reject: true)
            return
        }
        reads.add(LeaderReads.Read(origin: message.from, context: message.context, tick: ticks))
        hasWork = true
    }

    mutating func receiveReadIndexReply(_ message: RaftMessage) {
        guard role == .follower, message.from == leader, forwards.isOpen(message.context) else { return }
        hasWork = true
        while let context = forwards.take(through: message.context) {
            if message.reject {
                readsFailed.append(context)
            } else {
                readsReady.append(ReadyRead(context: context, index: message.index))
            }
        }
    }

    /// Opens a round for the reads that wait, if there may be one. True if heartbeats must carry its number.
    mutating func openReadRound() -> Bool {
        // Before an entry of this term is committed the leader does not know how far its predecessors got.
        guard reads.waiting > 0, commit >= firstOfTerm, reads.rounds.count < settings.readRoundsMax else {
            return false
        }
        reads.openRound(index: commit)
        confirmReads()
        return !reads.rounds.isEmpty
    }

    /// A round is confirmed when a majority has answered it or a newer one in this term: so no newer leader had been
    /// elected when the round was opened.
    mutating func confirmReads() {
        guard !reads.rounds.isEmpty else { return }
        let newest = reads.newest
        let confirmed = Quorum.reached(progress.count, seat: { progress[$0].seat }) {
            progress[$0].replica == replica || isPlanted("read-index-without-quorum")
                ? newest : progress[$0].roundAnswered
        }
        while let (read, index) = reads.takeConfirmed(through: confirmed) {
            hasWork = true
            if read.origin == replica {
                readsReady.append(ReadyRead(context: read.context, index: index))
            } else {
                answerRead(read.context, to: read.origin, index: index, reject: false)
            }
        }
    }

    private mutating func answerRead(_ context: UInt64, to origin: ReplicaID, index: LogIndex, reject: Bool) {
        queue(
            RaftMessage(
                kind: .readIndexReply, from: replica, to: origin, term: term, index: index, context: context,
                reject: reject))
    }

    /// A lost message must not leave a read waiting for ever.
    mutating func expireReads() {
        guard !reads.isEmpty || !forwards.isEmpty, ticks > UInt64(settings.electionTicks) else { return }
        let limit = ticks - UInt64(settings.electionTicks)
        while let read = reads.takeExpired(before: limit) { fail(read) }
        while let context = forwards.takeExpired(before: limit) {
            readsFailed.append(context)
            hasWork = true
        }
    }

    mutating func failReads() {
        while let read = reads.takeAny() { fail(read) }
        while let context = forwards.takeAny() { readsFailed.append(context) }
    }

    private mutating func fail(_ read: LeaderReads.Read) {
        hasWork = true
        if read.origin == replica {
            readsFailed.append(read.context)
        } else {
            answerRead(read.context, to: read.origin, index: .zero, reject: true)
        }
    }
}
