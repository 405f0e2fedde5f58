// Leader leases: what a host promises another when it agrees with its heartbeat, what the replicas' votes make of it, and
// which reads a leader serves by what it was promised. Per pair of hosts, whatever the number of groups; a group's part is
// looked up when it votes or reads. Why it is sound: `Documentation/Membership.md`. Which votes a promise forbids and how
// many make a lease is consensus' part (`RaftCore+Lease`).
//
//     leader's host                                  follower's host
//       heartbeat n: sum of what it leads ────────►    behind a turn, with the clock of that turn: each loop promises,
//       sent at S by its clock                         then gives its sum; they agree
//                                                      until F = clock + span: no vote, no campaign in those groups
//       lease until S + span, less the   ◄────────   answer n: agrees, span
//       most that two clocks part in it

import Primitives
import RaftCore

/// What a loop's replicas that follow on another host promised it together: until when, by this host's clock, none of them
/// votes for anybody else.
struct HostPromise {
    /// Told to the other host, or about to be.
    var until: UInt64 = 0
    /// Made ahead of a comparison whose outcome loop 0 has not told yet; 0: none. It binds meanwhile.
    var asked: UInt64 = 0

    var end: UInt64 { max(until, asked) }

    mutating func confirm() {
        until = end
        asked = 0
    }
}

/// A heartbeat that has no answer yet.
struct HeartbeatAsked {
    var sequence: UInt64
    /// By this host's clock, or earlier.
    var sentAt: UInt64
    /// Of the question to all loops that its sum was made of.
    var round: UInt64
}

/// What another host promised: for all groups that were in the sum of a round and that are led here as they were then.
struct HostLease: Sendable {
    var round: UInt64 = 0
    var until: UInt64 = 0
}

extension HostCore {
    // MARK: Promising

    /// When a promise made now ends; 0: none is made. To be asked in a turn only: its clock is read after all came that
    /// the turn takes in, the other host's question among it.
    func promiseEnd(to peer: Peer) -> UInt64 {
        settings.leaseNanoseconds > 0 && peer.knowsPromises ? now.rawValue + settings.leaseNanoseconds : 0
    }

    /// To be called before anything that may end the replica's following, and before it votes or stands for election: what
    /// its host promised for it becomes its own, and stays so whatever it follows next. It may not have been among those
    /// that the promise was made for: then it waits for nothing, once, and for no longer than others do.
    func bind(_ replica: Replica) {
        if let host = replica.followingHost, let peer = peer(host), peer.promise.end > now.rawValue {
            replica.core.keepPromise(until: peer.promise.end)
        }
        replica.core.observe(now: now.rawValue)
    }

    /// Entries and heartbeats of the leader that the replica follows change nothing, and come more often than all else.
    func mayChangeMind(_ replica: Replica, _ message: RaftMessage) -> Bool {
        switch message.kind {
        case .append, .heartbeat, .appendReply, .heartbeatReply, .readIndex, .readIndexReply:
            message.term > replica.core.term
        default: true
        }
    }

    /// What the process before this one may have promised has ended by then: it ended before this one began.
    func keepEarlierPromises(_ core: inout RaftCore) {
        guard settings.leaseNanoseconds > 0, !isPlanted("promise-forgotten-at-restart") else { return }
        core.observe(now: now.rawValue)
        core.keepPromise(until: now.rawValue + settings.leaseNanoseconds)
    }

    // MARK: Being promised

    private static var heartbeatsAskedMax: Int { 16 }

    func noteAsked(_ peer: Peer, round: UInt64) {
        if peer.heartbeatsAsked.count == Self.heartbeatsAskedMax { peer.heartbeatsAsked.removeFirst() }
        peer.heartbeatsAsked.append(
            HeartbeatAsked(sequence: peer.heartbeatSequence, sentAt: now.rawValue, round: round))
    }

    /// No answer counts any more for what was asked over a connection that is lost.
    func forgetAsked(_ peer: Peer) {
        peer.heartbeatsAsked.removeAll(keepingCapacity: true)
        peer.answeredSequence = peer.heartbeatSequence
    }

    func answered(_ reply: HostHeartbeatReply, by peer: Peer) {
        guard reply.sequence > peer.answeredSequence, reply.sequence <= peer.heartbeatSequence else {
            strayMessages += 1
            return
        }
        peer.answeredSequence = reply.sequence
        let asked = peer.heartbeatsAsked.first { $0.sequence == reply.sequence }
        peer.heartbeatsAsked.removeAll { $0.sequence <= reply.sequence }
        guard reply.agrees else { return decide(.disagreed, of: peer) }
        var lease: HostLease?
        if let asked, reply.promisedMicroseconds > 0 {
            let begin = isPlanted("lease-from-reply-time") ? now.rawValue : asked.sentAt
            lease = HostLease(
                round: asked.round, until: begin + leaseSpan(of: UInt64(reply.promisedMicroseconds) * 1_000))
        }
        decide(.agreed(lease), of: peer)
    }

    /// How long by this host's clock a promise may be relied on that another keeps so long by its own: the other's may be
    /// fast, and this one slow.
    func leaseSpan(of promised: UInt64) -> UInt64 {
        if isPlanted("lease-without-drift") { return promised }
        let drift = min(settings.clockDriftPerMille, 999)
        return promised * (1_000 - drift) / (1_000 + drift)
    }

    /// Until when no other replica can lead the group, by what hosts promised; 0 if this one has no lease. O(members).
    func leaseExpiry(of replica: Replica) -> UInt64 {
        // What others agreed with is the leadership that this replica added to the sums.
        guard settings.leaseNanoseconds > 0, replica.role == .leader,
            replica.contributedDigest == livenessDigest(group: replica.group, term: replica.core.term)
        else { return 0 }
        let (term, members) = replica.withCore { ($0.term, $0.configuration.members) }
        for member in members where member != replica.id {
            guard let host = replica.host(of: member), replica.leadingOn.contains(host), let peer = peer(host),
                peer.lease.round >= replica.leadsSinceRound
            else { continue }
            replica.core.promised(by: member, term: term, until: peer.lease.until)
        }
        return replica.core.leaseExpiry
    }

    // MARK: Reads

    /// Reads that came since the last turn, whose clock was read after they came: while there is a lease by that reading,
    /// no other leader has answered anybody before them. Else they ask the others like all reads.
    func startLeaseReads(_ replica: Replica) {
        let reads = replica.gatheredByLease
        replica.gatheredByLease = []
        guard now.rawValue < leaseExpiry(of: replica) else {
            replica.gathered += reads
            return
        }
        leaseReads += UInt64(reads.count)
        let context = replica.nextContext
        replica.nextContext += 1
        replica.readBatches.append(
            Replica.ReadBatch(
                context: context, index: replica.core.commit, tick: tickCount, begun: now.rawValue, reads: reads))
    }
}
