// The consensus core's part of leader leases: which votes a promise forbids, when enough promises make a lease, and
// which reads a lease serves. Owns no clock: instants come from the host, as readings of one clock of this machine that
// never goes back and runs on while the machine sleeps. What clocks of different machines may differ in their speed is
// the host's to subtract (`Documentation/Membership.md`).

public import Primitives

extension RaftCore {
    /// The host's clock. Readings that go back are ignored.
    public mutating func observe(now: UInt64) { if now > clock { clock = now } }

    // MARK: Who promises

    /// Promises that no other than `leader` gets this replica's vote before the clock shows `until`, unless the leader
    /// itself sends it. False, and nothing is promised, if this replica does not follow that leader in that term.
    public mutating func promise(to leader: ReplicaID, term: Term, until: UInt64) -> Bool {
        guard role == .follower, self.leader == leader, leader != .none, self.term == term, !isImpaired else {
            return false
        }
        if until > promisedUntil { promisedUntil = until }
        return true
    }

    /// After a restart: what may have been promised before it is kept.
    public mutating func keepPromise(until: UInt64) { if until > promisedUntil { promisedUntil = until } }

    /// Neither votes for another nor stands for election.
    var isBoundByPromise: Bool { clock < promisedUntil }

    // MARK: Who leads by promises

    /// `member` has promised, in this leader's `term`, to vote for nobody else before this machine's clock shows
    /// `until`.
    public mutating func promised(by member: ReplicaID, term: Term, until: UInt64) {
        guard role == .leader, self.term == term, let position = position(of: member) else { return }
        if until > progress[position].promisedUntil { progress[position].promisedUntil = until }
    }

    /// Until when no other leader can be elected, as far as this one knows; 0 without a lease. It needs the promise of
    /// a majority of each half of the configuration in effect: every later election needs one of them.
    public var leaseExpiry: UInt64 {
        guard mayUseLease else { return 0 }
        return Quorum.reached(progress.count, seat: { progress[$0].seat }) {
            progress[$0].replica == replica ? .max : progress[$0].promisedUntil
        }
    }

    /// The index that must be applied before a linearizable read may be served at once, by lease; nil if there is none,
    /// and `read(context:)` must ask the others.
    public func leaseReadIndex(now: UInt64) -> LogIndex? { now < leaseExpiry && now >= clock ? commit : nil }
}
