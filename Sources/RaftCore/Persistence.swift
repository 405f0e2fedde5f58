// Which parts of log and hard state are durable here, while several writes are under way. Issues numbers; writes
// nothing.

internal import DequeModule
internal import Primitives

/// Writes are numbered and finish in order. When the log is truncated while a write is under way, that write's end no
/// longer says anything about the indexes it covered: their entries are others by now. So truncation lowers what the
/// writes under way will make stable. Without it, a replica that held entries of leader A, then of C, then of A again,
/// takes the late completion of its first write for the third (the ABA schedule of asynchronous log writes).
struct Persistence: Sendable {
    private struct Write: Sendable {
        var sequence: UInt64
        /// The last index that this write makes stable.
        var last: LogIndex
        var term: Term
        var vote: ReplicaID
    }

    private var writes: Deque<Write> = []
    private(set) var issued: UInt64 = 0
    /// Everything up to here was handed out for writing.
    private(set) var written: LogIndex
    /// Everything up to here is durable.
    private(set) var stable: LogIndex
    /// Term and vote that are durable.
    private(set) var durableTerm: Term
    private(set) var durableVote: ReplicaID
    /// What was handed out last.
    private(set) var hardState: HardState

    init(last: LogIndex, hardState: HardState) {
        written = last
        stable = last
        self.hardState = hardState
        durableTerm = hardState.term
        durableVote = hardState.vote
    }

    /// The number that messages of this moment have to wait for; nil if all that was handed out is durable.
    var pending: UInt64? { writes.last?.sequence }

    mutating func issue(through last: LogIndex, hardState state: HardState?) -> UInt64 {
        issued += 1
        written = last
        if let state { hardState = state }
        writes.append(Write(sequence: issued, last: last, term: hardState.term, vote: hardState.vote))
        return issued
    }

    mutating func truncated(from index: LogIndex) {
        let kept = index.previous
        if written > kept { written = kept }
        if stable > kept { stable = kept }
        if isPlanted("async-append-aba") { return }
        for position in writes.indices where writes[position].last > kept { writes[position].last = kept }
    }

    mutating func finished(sequence: UInt64) {
        precondition(sequence <= issued, "a write finished that was never issued")
        while let write = writes.first, write.sequence <= sequence {
            if write.last > stable { stable = write.last }
            durableTerm = write.term
            durableVote = write.vote
            writes.removeFirst()
        }
    }
}
