// What a leader knows of one follower, and the window of what is under way to it.

internal import DequeModule
public import Primitives

/// How a leader sends to a follower.
public enum ReplicationState: UInt8, Sendable {
    /// Where the logs agree is not known: one message at a time.
    case probe
    /// It is known: messages follow each other without waiting, within the window.
    case replicate
    /// The follower needs what lies below the leader's log.
    case snapshot
}

/// A leader's view of one member, for status and for decisions of the host.
public struct RaftProgress: Hashable, Sendable {
    public var replica: ReplicaID
    /// Durable on the follower and equal to the leader's log up to here.
    public var match: LogIndex
    /// The next entry to send.
    public var next: LogIndex
    public var state: ReplicationState
    /// Heard from since the check of the quorum before the last: a member that answers is so at every moment, also right
    /// behind a check.
    public var isRecentlyActive: Bool
}

struct Progress: Sendable {
    private struct Inflight: Sendable {
        var last: LogIndex
        var bytes: Int
    }

    let replica: ReplicaID
    var seat: Seat
    /// Its vote in the election under way.
    var vote: Bool?

    // From here on for a leader only.
    var match: LogIndex = .zero
    var next: LogIndex = LogIndex(1)
    var state = ReplicationState.probe
    var isRecentlyActive = false
    /// The same for the time between the last check of the quorum and the one before.
    var wasRecentlyActive = false
    /// A probe is under way: wait for its answer or for the answer to a heartbeat.
    var isProbeSent = false
    /// Send once, even if there is nothing new and even if the window is full: an answer shows whether something was
    /// lost.
    var isNudged = false
    /// The commit index last sent along with an append, and the one that the follower last told.
    var commitSent: LogIndex = .zero
    var commitKnown: LogIndex = .zero
    /// The newest round of read confirmation that it answered.
    var roundAnswered: UInt64 = 0
    /// It votes for nobody else before this reading of the leader's clock.
    var promisedUntil: UInt64 = 0
    /// A heartbeat of the clock is unanswered; `match` at that time shows whether appends got through since.
    var isHeartbeatOpen = false
    var matchAtHeartbeat: LogIndex = .zero
    /// A read of evicted entries is under way; it brought nothing, and is not tried again before a sign of life; its
    /// answer, until it is sent.
    var isReadingLog = false
    var isReadFailed = false
    var supplied: [LogEntry] = []
    /// The last entry that was sent in bulk since logs were last known to part.
    var bulkLast: LogIndex = .zero
    private var inflight: Deque<Inflight> = []
    private var inflightBytes = 0

    init(replica: ReplicaID, seat: Seat) {
        self.replica = replica
        self.seat = seat
    }

    /// At the beginning of a leadership: nothing is known but where the own log ends.
    mutating func begin(next: LogIndex) {
        self = Progress(replica: replica, seat: seat)
        self.next = next
    }

    /// Something sent in bulk is not acknowledged: what is in memory waits for it, or it would overtake it, be refused,
    /// and be sent twice. So catch-up in bulk ends with a pause of one round trip, also under steady load.
    var isBulkOpen: Bool { match < bulkLast }

    func isFull(_ settings: RaftSettings) -> Bool {
        inflight.count >= settings.inflightMessagesMax || inflightBytes >= settings.inflightBytesMax
    }

    mutating func sent(through last: LogIndex, bytes: Int) {
        switch state {
        case .replicate:
            inflight.append(Inflight(last: last, bytes: bytes))
            inflightBytes += bytes
            next = last.next
        case .probe: isProbeSent = true
        case .snapshot: break
        }
    }

    mutating func become(_ state: ReplicationState) {
        self.state = state
        isProbeSent = false
        isNudged = false
        inflight.removeAll(keepingCapacity: true)
        inflightBytes = 0
        supplied = []
        bulkLast = .zero
        if state != .snapshot { next = match.next }
    }

    /// The follower has everything up to `index`, durably. False if that was known.
    mutating func acknowledged(_ index: LogIndex) -> Bool {
        let isNews = index > match
        if isNews { match = index }
        if next <= match { next = match.next }
        isProbeSent = false
        while let first = inflight.first, first.last <= match {
            inflightBytes -= first.bytes
            inflight.removeFirst()
        }
        return isNews
    }
}
