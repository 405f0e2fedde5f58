// A host's event loops: which groups each owns, and what they say to each other. Each loop has a `HostCore` of its own;
// loop 0 speaks for the host where there is only one to speak: connections, heartbeats, the cluster map.
//
//            loop 0                                  the other loops
//     a map was adopted ───── map ──────────────────► adopt it, ask for their births
//     a connection came up ── link ─────────────────► send over it, or not
//     heartbeats are due ──── leadingAsked ─────────►
//     send them          ◄─── leadingTold ─────────── what they lead, by host
//     a heartbeat came ────── followingAsked ───────►
//     compare, reply     ◄─── followingTold ───────── what they follow there
//     it came to this ─────── verdict ──────────────► suspect, rest or wake
//
// The number of loops shows neither on disk nor on the wire, and may be another at each start.

public import Primitives
import Ring
import StateMachines

/// Which of a host's event loops a core belongs to, and with it which groups.
public struct LoopPlace: Hashable, Sendable {
    public let number: Int
    public let count: Int

    /// The only loop of a host.
    public static let only = LoopPlace(number: 0, count: 1)
    public static let countMax = 64

    /// - Precondition: `number` is one of `count`, and that at most `countMax`.
    public init(number: Int, count: Int) {
        precondition((1...Self.countMax).contains(count) && (0..<count).contains(number), "a loop's number is wrong")
        self.number = number
        self.count = count
    }

    public func owns(_ group: GroupID) -> Bool { Self.owner(of: group, loops: count) == number }

    /// The number of the loop that owns a group; the meta group's is 0.
    public static func owner(of group: GroupID, loops: Int) -> Int { loops == 1 ? 0 : Int(group.rawValue) % loops }

    /// The loop that owns connections, heartbeats and map.
    var isFirst: Bool { number == 0 }
}

/// Which of the two connections of a pair of hosts something goes over.
public enum PeerChannel: UInt8, CaseIterable, Sendable {
    /// Heartbeats, elections, fresh entries: nothing on it waits behind something large.
    case consensus
    /// Entries that were read back from the journal for a follower that is behind.
    case bulk
}

/// Sum and number of the groups that a host leads with a member on another, or follows there.
struct LivenessSum: Hashable, Sendable {
    var groups: UInt32 = 0
    var digest: UInt64 = 0
    mutating func add(_ value: UInt64) { groups &+= 1; digest &+= value }
    mutating func remove(_ value: UInt64) { groups &-= 1; digest &-= value }
    mutating func add(_ other: LivenessSum) { groups &+= other.groups; digest &+= other.digest }
}

/// What one loop of a host says to another. Opaque to the shell, which hands all of them over in order.
public struct LoopMessage: Sendable {
    enum Kind: Sendable {
        case map(ClusterMap)
        case link(HostID, PeerChannel, isUp: Bool, featureLevel: UInt32)
        case machines([MachineCommandNumber], of: HostID)
        case leadingAsked(poll: UInt64)
        /// Each with the sum over the silent replicas there that this loop knows of, and leaves out.
        case leadingTold(poll: UInt64, [(host: HostID, sum: LivenessSum, silence: UInt64)])
        case followingAsked(HostID, poll: UInt64, mayPromise: Bool)
        case followingTold(HostID, poll: UInt64, LivenessSum, silent: [SilentReplica])
        case verdict(HostID, HeartbeatVerdict)
        case migration(MigrationWord, from: HostID)
        case load(LoadWord, from: HostID)
        /// A command that the meta group's leader should propose, if that is this host.
        case report(Bytes)
    }

    var kind: Kind
}

/// What came of a heartbeat.
enum HeartbeatVerdict: Sendable {
    /// We agreed with theirs: they lead where we follow, and are promised to go on.
    case followed
    /// We did not: nothing is promised.
    case notFollowed
    /// They agreed with ours: they follow where we lead, and promise what makes leases.
    case agreed(HostLease?)
    /// They did not: our groups there have to speak for themselves.
    case disagreed
}

/// A question to all other loops: which one it is, and how many have not answered yet.
struct LoopPoll {
    var number: UInt64
    var missing: Int
}

extension HostCore {
    /// What another loop of this host says.
    public func receive(_ message: LoopMessage) {
        switch message.kind {
        case .map(let map): adopt(map)
        case .report(let payload): receiveReport(payload, from: host)
        case .migration(let word, let host): receive(word, from: host)
        case .load(let word, let host): receive(word, from: host)
        case .link(let host, let channel, let isUp, let level):
            linkChanged(host, channel, isUp: isUp, featureLevel: level)
        case .machines(let commands, let host): machinesTold(commands, by: host)
        case .leadingAsked, .followingAsked: loopQuestions.append(message.kind)
        case .leadingTold(let poll, let sums): leadingTold(poll, sums)
        case .followingTold(let host, let poll, let sum, let silent): followingTold(host, poll, sum, silent)
        case .verdict(let host, let verdict): if let peer = peer(host) { accept(verdict, of: peer) }
        }
    }

    /// Behind the turn: what came ahead of a question has taken effect on the sums that answer it.
    func answerLoopQuestions() {
        for question in loopQuestions {
            switch question {
            case .leadingAsked(let poll):
                leadingRound = poll
                let sums = peers.map { (host: $0.host, sum: $0.leading, silence: $0.silence) }
                effects.loopMessages.append((0, LoopMessage(kind: .leadingTold(poll: poll, sums))))
            case .followingAsked(let host, let poll, let mayPromise):
                let peer = peer(host)
                // In force before loop 0 can say so to the other host.
                if let peer { peer.promise.asked = mayPromise ? promiseEnd(to: peer) : 0 }
                let sum = peer?.following ?? LivenessSum()
                effects.loopMessages.append(
                    (0, LoopMessage(kind: .followingTold(host, poll: poll, sum, silent: silent))))
            default: break
            }
        }
        loopQuestions.removeAll(keepingCapacity: true)
    }

    /// From loop 0 to all others.
    func tell(_ kind: LoopMessage.Kind) {
        guard loop.count > 1 else { return }
        precondition(loop.isFirst, "only loop 0 speaks for the host")
        for other in 1..<loop.count { effects.loopMessages.append((other, LoopMessage(kind: kind))) }
    }

    // MARK: Heartbeats

    /// Asks all loops what they lead, unless the last such question is still open: a loop that is stuck keeps the
    /// host's heartbeats back, and its peers notice.
    func beginHeartbeats() {
        guard leadingPoll == nil else { return }
        polls += 1
        guard loop.count > 1 else { return sendHeartbeats(round: polls) }
        leadingPoll = LoopPoll(number: polls, missing: loop.count - 1)
        for peer in peers {
            peer.leadingElsewhere = LivenessSum()
            peer.silenceElsewhere = 0
        }
        tell(.leadingAsked(poll: polls))
    }

    private func leadingTold(_ poll: UInt64, _ sums: [(host: HostID, sum: LivenessSum, silence: UInt64)]) {
        guard leadingPoll?.number == poll else { return }
        for (host, sum, silence) in sums {
            peer(host)?.leadingElsewhere.add(sum)
            peer(host)?.silenceElsewhere &+= silence
        }
        leadingPoll?.missing -= 1
        guard leadingPoll?.missing == 0 else { return }
        leadingPoll = nil
        sendHeartbeats(round: poll)
    }

    private func sendHeartbeats(round: UInt64) {
        leadingRound = round
        for peer in peers where peer.isConnected {
            peer.heartbeatSequence += 1
            noteAsked(peer, round: round)
            var sum = peer.leading
            sum.add(peer.leadingElsewhere)
            let heartbeat = HostHeartbeat(
                sequence: peer.heartbeatSequence, groups: sum.groups, digest: sum.digest,
                mapVersion: map?.version ?? 0, silence: peer.silence &+ peer.silenceElsewhere)
            write(to: peer, over: .consensus) { $0.heartbeat = heartbeat }
        }
    }

    /// Notes a heartbeat. It is compared with what all loops follow there behind the turn: when what came ahead of it has
    /// taken effect, and with a reading of the clock from after it came, from which on promises are made. While one is
    /// being compared, the newest of those that came since waits: loops that are slower than the heartbeats must not keep
    /// all of them from an answer.
    func note(_ heartbeat: HostHeartbeat, of peer: Peer) {
        // What a connection brought before it was lost vouches for nobody.
        guard peer.isConnected else { return }
        peer.nextHeartbeat = heartbeat
        peer.mapVersion = heartbeat.mapVersion
        goOnComparing(peer)
    }

    private func goOnComparing(_ peer: Peer) {
        guard !peer.isComparing else { return }
        peer.isComparing = true
        comparing.append(peer)
    }

    /// Behind the turn.
    func compareHeartbeats() {
        for peer in comparing {
            peer.isComparing = false
            if let poll = peer.followingPoll {
                guard poll.missing == 0, let heartbeat = peer.comparedHeartbeat else { continue }
                peer.followingPoll = nil
                var sum = peer.following
                sum.add(peer.followingElsewhere)
                conclude(heartbeat, following: sum, of: peer, mayPromise: peer.wasFollowed)
            }
            if let heartbeat = peer.nextHeartbeat {
                peer.nextHeartbeat = nil
                compare(heartbeat, of: peer)
            }
        }
        comparing.removeAll(keepingCapacity: true)
    }

    private func compare(_ heartbeat: HostHeartbeat, of peer: Peer) {
        guard loop.count > 1 else {
            return conclude(heartbeat, following: peer.following, of: peer, mayPromise: true)
        }
        polls += 1
        peer.followingPoll = LoopPoll(number: polls, missing: loop.count - 1)
        peer.comparedHeartbeat = heartbeat
        peer.followingElsewhere = LivenessSum()
        peer.silentElsewhere = []
        // What is asked of the loops ahead of a comparison binds until that is done. While one after the other fails, on
        // account of one group perhaps, nothing is promised ahead: else who follows nobody any more would be bound again
        // and again by a promise that is never made.
        tell(.followingAsked(peer.host, poll: polls, mayPromise: peer.wasFollowed))
    }

    private func followingTold(
        _ host: HostID, _ poll: UInt64, _ sum: LivenessSum, _ silent: [SilentReplica]
    ) {
        guard let peer = peer(host), peer.followingPoll?.number == poll else { return }
        peer.followingElsewhere.add(sum)
        peer.silentElsewhere += silent
        peer.followingPoll?.missing -= 1
        if peer.followingPoll?.missing == 0 { goOnComparing(peer) }
    }

    private func conclude(
        _ heartbeat: HostHeartbeat, following: LivenessSum, of peer: Peer, mayPromise: Bool
    ) {
        // Roles that change from here on count from the next heartbeat on.
        let agrees = heartbeat.digest == following.digest && heartbeat.groups == following.groups
        // This loop's own part of the promise; the others made theirs when they were asked.
        if agrees, mayPromise { peer.promise.asked = promiseEnd(to: peer) }
        let promised = agrees && mayPromise && peer.promise.asked > 0 ? settings.leaseNanoseconds / 1_000 : 0
        let reply = HostHeartbeatReply(
            sequence: heartbeat.sequence, agrees: agrees, promisedMicroseconds: UInt32(clamping: promised))
        write(to: peer, over: .consensus) { $0.reply = reply }
        peer.wasFollowed = agrees
        tellSilence(to: peer, knowing: heartbeat.silence, elsewhere: peer.silentElsewhere)
        decide(agrees ? .followed : .notFollowed, of: peer)
    }

    /// Loop 0's word on a heartbeat, to all loops.
    func decide(_ verdict: HeartbeatVerdict, of peer: Peer) {
        accept(verdict, of: peer)
        tell(.verdict(peer.host, verdict))
    }

    private func accept(_ verdict: HeartbeatVerdict, of peer: Peer) {
        peer.lastHeardTick = tickCount
        switch verdict {
        case .followed:
            peer.lastFollowedTick = tickCount
            peer.isFollowingSuspected = false
            peer.promise.confirm()
        case .notFollowed: peer.promise.asked = 0
        case .agreed(let lease):
            peer.lastAgreedTick = tickCount
            peer.isLeadingSuspected = false
            if let lease { peer.lease = lease }
        case .disagreed: if peer.wakeFrom == nil { peer.wakeFrom = .meta }
        }
    }
}
