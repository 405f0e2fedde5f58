// Linearizable reads that wait for their answer: at a leader for the confirmation that it still leads, at a follower
// for the leader's read index (Raft thesis §6.4). Decides nothing about terms or roles.

internal import DequeModule
internal import Primitives

/// A leader's reads in the order they came. Those of one round share one exchange of heartbeats and one read index.
/// ```
///   reads:   a b c | d e | f g h i
///            round 7 | 8   | waiting for a round
/// ```
struct LeaderReads: Sendable {
    struct Read: Sendable {
        /// Who asked; the leader itself for its own.
        var origin: ReplicaID
        var context: UInt64
        /// The tick at which it came.
        var tick: UInt64
    }

    struct Round: Sendable {
        var number: UInt64
        var index: LogIndex
        /// Reads of this round still in the queue.
        var count: Int
    }

    private(set) var reads: Deque<Read> = []
    private(set) var rounds: Deque<Round> = []
    /// Reads in front that belong to a round.
    private var inRounds = 0
    /// The number of the newest round; numbers are of one leadership.
    private(set) var newest: UInt64 = 0

    var count: Int { reads.count }
    var isEmpty: Bool { reads.isEmpty }
    var waiting: Int { reads.count - inRounds }

    mutating func add(_ read: Read) { reads.append(read) }

    mutating func openRound(index: LogIndex) {
        newest += 1
        rounds.append(Round(number: newest, index: index, count: waiting))
        inRounds = reads.count
    }

    /// The oldest read of a confirmed round, taken out, with its read index.
    mutating func takeConfirmed(through round: UInt64) -> (Read, LogIndex)? {
        while let first = rounds.first, first.number <= round {
            guard first.count > 0, let read = reads.popFirst() else {
                rounds.removeFirst()
                continue
            }
            rounds[0].count -= 1
            inRounds -= 1
            return (read, first.index)
        }
        return nil
    }

    /// The oldest read if it came before `tick`, taken out.
    mutating func takeExpired(before tick: UInt64) -> Read? {
        guard let first = reads.first, first.tick < tick else { return nil }
        return takeAny()
    }

    mutating func takeAny() -> Read? {
        guard let read = reads.popFirst() else { return nil }
        if inRounds > 0 {
            inRounds -= 1
            while let first = rounds.first, first.count == 0 { rounds.removeFirst() }
            rounds[0].count -= 1
        }
        if reads.isEmpty { rounds.removeAll(keepingCapacity: true) }
        return read
    }
}

/// A follower's reads that were forwarded to the leader, in batches: one message per turn. The answer to a batch
/// answers all older ones too, since its read index was taken after theirs were asked for.
struct ForwardedReads: Sendable {
    private struct Batch: Sendable {
        var number: UInt64
        var count: Int
        var tick: UInt64
    }

    private var contexts: Deque<UInt64> = []
    private var batches: Deque<Batch> = []
    private var inBatches = 0
    /// Numbers begin anywhere, so that an answer to a batch from before a restart hardly ever meets one with its
    /// number.
    private var newest: UInt64

    init(seed: UInt64) { newest = seed >> 1 }

    var count: Int { contexts.count }
    var isEmpty: Bool { contexts.isEmpty }
    var hasUnsent: Bool { contexts.count > inBatches }

    mutating func add(_ context: UInt64) { contexts.append(context) }

    mutating func openBatch(tick: UInt64) -> UInt64 {
        newest += 1
        batches.append(Batch(number: newest, count: contexts.count - inBatches, tick: tick))
        inBatches = contexts.count
        return newest
    }

    func isOpen(_ number: UInt64) -> Bool {
        guard let first = batches.first else { return false }
        return number >= first.number && number <= newest
    }

    /// The oldest read of a batch up to `number`, taken out.
    mutating func take(through number: UInt64) -> UInt64? {
        guard let first = batches.first, first.number <= number, let context = contexts.popFirst() else { return nil }
        inBatches -= 1
        batches[0].count -= 1
        if batches[0].count == 0 { batches.removeFirst() }
        return context
    }

    /// The oldest read if its batch was sent before `tick`, taken out.
    mutating func takeExpired(before tick: UInt64) -> UInt64? {
        guard let first = batches.first, first.tick < tick else { return nil }
        return take(through: first.number)
    }

    mutating func takeAny() -> UInt64? {
        if let first = batches.first { return take(through: first.number) }
        return contexts.popFirst()
    }
}
