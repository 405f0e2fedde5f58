// Promises between hosts, and the reads that leaders answer by them.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Testing

private let group = GroupID(1)

@Suite struct LeaseHostTests {
    /// A trio whose groups are at rest, and where the first one's leader is.
    private func idleTrio(
        loops: [Int] = [1, 1, 1], featureLevels: [UInt32] = Array(repeating: FeatureLevel.current, count: 3),
        adjust: (inout HostSettings) -> Void = { _ in }
    ) throws -> (trio: Trio, leader: Int) {
        let trio = try Trio(groups: 6, loops: loops, featureLevels: featureLevels, adjust: adjust)
        let leader = try trio.leader()
        trio.hosts[leader].put(key(trio), "1", group: group, token: 1)
        try trio.tick(60)
        #expect(trio.hosts[leader].isDone(1) && trio.hosts.map(\.activeCount) == [0, 0, 0])
        return (trio, leader)
    }

    /// One of the group's.
    private func key(_ trio: Trio) -> String {
        for number in 0..<1_000 where trio.map.owner(of: slot(of: Bytes("key\(number)"))) == group {
            return "key\(number)"
        }
        return ""
    }

    private func leaseReads(_ host: TestHost) -> UInt64 { host.cores.reduce(0) { $0 + $1.leaseReads } }

    @Test func theLeaderOfAnIdleGroupAnswersByLeaseWithoutAsking() throws {
        let (trio, leader) = try idleTrio()
        let host = trio.hosts[leader]
        host.get(key(trio), group: group, .lease, token: 2)
        host.get(key(trio), group: group, token: 3)
        try host.turn()
        #expect(host.isDone(2), "in one turn, and nobody was asked")
        #expect(host.answer(3) == nil, "a read that relies on no clock has to ask")
        #expect(leaseReads(host) == 1)
        trio.hosts[(leader + 1) % 3].get(key(trio), group: group, .lease, token: 4)
        try trio.settle()
        #expect(host.isDone(3))
        guard case .notLeader? = trio.hosts[(leader + 1) % 3].refusal(4) else {
            Issue.record("a follower answers by lease")
            return
        }
    }

    @Test func groupsOfAllLoopsHaveLeases() throws {
        let (trio, _) = try idleTrio(loops: [2, 1, 3])
        for (place, host) in trio.hosts.enumerated() {
            let led = trio.map.groups.map(\.id).filter { host.inspection(of: $0)?.isEstablished == true }
            for id in led {
                #expect(host.core(of: id).leaseExpiry(of: id) > host.now.rawValue, "group \(id) at \(place)")
            }
        }
    }

    /// The promise is for 450 ms by a clock that may be 5 % fast, the lease for 407 ms by one that may be as slow, from
    /// when the heartbeat was sent.
    @Test func aLeaseEndsBeforeItsPromises() throws {
        let (trio, leader) = try idleTrio()
        let host = trio.hosts[leader]
        var sentAt: UInt64 = 0
        trio.look = { from, _, _, payload in
            if from == leader, let reader = try? PeerBatchReader(payload), reader.heartbeat != nil {
                sentAt = host.now.rawValue
            }
        }
        try trio.tick(4)
        let end = host.core.leaseExpiry(of: group)
        #expect(end == sentAt + 450_000_000 * 950 / 1_050)
        trio.cut(leader)
        host.now = Instant(end - 1)
        host.get(key(trio), group: group, .lease, token: 2)
        try host.turn()
        #expect(host.isDone(2) && leaseReads(host) == 1)
        host.now = Instant(end)
        host.get(key(trio), group: group, .lease, token: 3)
        try host.turn()
        #expect(host.answer(3) == nil && leaseReads(host) == 1, "it asks the others, and none answers")
    }

    /// The other side agreed before it stopped: what it says is of the heartbeat that it answers, however late it comes.
    @Test func aLateAnswerMakesNoLongerLease() throws {
        let (trio, leader) = try idleTrio()
        let host = trio.hosts[leader]
        // One answer of each follower is held back, and then comes after half a second in which nothing else did.
        var sentAt: UInt64 = 0
        var held: [(from: HostID, payload: Bytes)] = []
        for _ in 0..<2 { host.tick() }
        try host.turn()
        sentAt = host.now.rawValue
        for (target, _, payload) in host.takeOutbox() {
            let other = trio.hosts[Int(target.rawValue) - 1]
            try other.receive(payload, from: host.id)
            try other.turn()
            held += other.takeOutbox().filter { $0.host == host.id }.map { (other.id, $0.payload) }
        }
        #expect(held.count >= 2)
        host.now = host.now + 300_000_000
        for (from, payload) in held { try host.receive(payload, from: from) }
        try host.turn()
        #expect(host.core.leaseExpiry(of: group) <= sentAt + 450_000_000 * 950 / 1_050)
    }

    @Test func anAnswerToNothingThatWasAskedIsDropped() throws {
        let (trio, leader) = try idleTrio()
        let host = trio.hosts[leader]
        let (end, strays) = (host.core.leaseExpiry(of: group), host.core.strayMessages)
        for sequence in [0, 1, UInt64.max] {
            var writer = PeerBatchWriter()
            writer.reply = HostHeartbeatReply(sequence: sequence, agrees: true, promisedMicroseconds: 60_000_000)
            try host.receive(writer.take(), from: trio.hosts[(leader + 1) % 3].id)
        }
        try host.turn()
        #expect(host.core.strayMessages == strays + 3 && host.core.leaseExpiry(of: group) == end)
    }

    // MARK: Votes

    /// The two words that make a follower vote for another at once: a newer term, learned otherwise, and a request for its
    /// vote in that term.
    private func askForVote(_ trio: Trio, of follower: Int, for candidate: Int, term: Term? = nil) throws -> Bool? {
        let host = trio.hosts[follower]
        let placement = try #require(trio.map.group(group))
        let from = try #require(placement.replica(on: trio.hosts[candidate].id))
        let to = try #require(placement.replica(on: host.id))
        let state = try #require(host.inspection(of: group))
        let next = term ?? state.term.next
        var writer = PeerBatchWriter()
        writer.append(
            RaftMessage(kind: .preVoteReply, from: from, to: to, term: next, reject: true), group: group)
        writer.append(
            RaftMessage(kind: .vote, from: from, to: to, term: next, index: LogIndex(1_000), logTerm: next),
            group: group)
        try host.receive(writer.take(), from: trio.hosts[candidate].id)
        for _ in 0..<4 { try host.turn() }
        for (target, _, payload) in host.takeOutbox() where target == trio.hosts[candidate].id {
            var reader = try PeerBatchReader(payload)
            while let (_, message) = try reader.next() {
                if message.kind == .voteReply { return !message.reject }
            }
        }
        return nil
    }

    /// In one and the same turn the follower gives its leader up and is asked for its vote: its host's promise was for the
    /// group as it was when they agreed, and holds whatever it follows now.
    @Test(arguments: [[1, 1, 1], [2, 3, 2]])
    func aPromiseOutlivesTheLeaderThatItWasMadeTo(loops: [Int]) throws {
        let (trio, leader) = try idleTrio(loops: loops)
        let (follower, candidate) = ((leader + 1) % 3, (leader + 2) % 3)
        let end = trio.hosts[leader].core(of: group).leaseExpiry(of: group)
        let given = try askForVote(trio, of: follower, for: candidate)
        #expect(given == false)
        let host = trio.hosts[follower]
        let term = try #require(host.inspection(of: group)?.term)
        host.now = Instant(max(end, host.now.rawValue) + 60_000_000)
        for core in host.cores { core.tick(now: host.now) }
        let later = try askForVote(trio, of: follower, for: candidate, term: term)
        #expect(later == true)
    }

    /// What loops promise ahead of a comparison binds until that fails, and is not made again while one after the other
    /// does: who hears nothing of its leader stands for election, though that one's host goes on.
    @Test func comparisonsThatFailBindNobodyForGood() throws {
        let (trio, leader) = try idleTrio(loops: [2, 2, 2])
        let host = trio.hosts[(leader + 1) % 3]
        let follower = host.core(of: group)
        let other = host.cores[1 - follower.loop.number]
        for sequence in UInt64(1_001)...1_060 {
            var writer = PeerBatchWriter()
            writer.heartbeat = HostHeartbeat(sequence: sequence, groups: 1, digest: 77)
            try host.receive(writer.take(), from: trio.hosts[leader].id)
            // All loops have been asked, and loop 0 has not told them yet.
            try host.turn()
            host.now = Instant(host.now.rawValue + 50_000_000)
            follower.tick(now: host.now)
            other.tick(now: host.now)
            for _ in 0..<4 { try host.turn() }
        }
        #expect(host.inspection(of: group)?.leader == ReplicaID.none)
    }

    @Test func hostsThatPromiseNothingVoteAtOnceAndAreCountedInNoLease() throws {
        for (levels, lease) in [([2, 2, 2], UInt64(0)), ([1, 1, 1], UInt64(450_000_000))] as [([UInt32], UInt64)] {
            let (trio, leader) = try idleTrio(featureLevels: levels) { $0.leaseNanoseconds = lease }
            let host = trio.hosts[leader]
            host.get(key(trio), group: group, .lease, token: 2)
            try host.turn()
            #expect(host.answer(2) == nil && leaseReads(host) == 0)
            try trio.settle()
            #expect(host.isDone(2), "it is answered as a linearizable read")
            let given = try askForVote(trio, of: (leader + 1) % 3, for: (leader + 2) % 3)
            #expect(given == true)
        }
    }

    /// One host of an older version takes nothing from the lease that the others make.
    @Test func aMajorityThatPromisesIsEnough() throws {
        for old in 0..<3 {
            var levels = Array(repeating: FeatureLevel.current, count: 3)
            levels[old] = 1
            let (trio, _) = try idleTrio(featureLevels: levels)
            for (place, host) in trio.hosts.enumerated() where place != old {
                for id in trio.map.groups.map(\.id) where host.inspection(of: id)?.isEstablished == true {
                    #expect(host.core.leaseExpiry(of: id) > host.now.rawValue)
                }
            }
        }
    }

    @Test func versionOneOfABatchHasNoPromise() throws {
        for version: UInt8 in [1, 2] {
            var writer = PeerBatchWriter()
            writer.version = version
            writer.reply = HostHeartbeatReply(sequence: 7, agrees: true, promisedMicroseconds: 450_000)
            writer.floors = [LogFloor(group: group, index: LogIndex(3))]
            let payload = writer.take()
            #expect(payload[0] == version)
            let reader = try PeerBatchReader(payload)
            #expect(reader.reply?.promisedMicroseconds == (version == 2 ? 450_000 : 0))
            #expect(reader.reply?.sequence == 7 && reader.floors == [LogFloor(group: group, index: LogIndex(3))])
        }
    }
}
