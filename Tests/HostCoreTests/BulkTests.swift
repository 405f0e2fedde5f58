// Catch-up has a connection of its own: what goes there, when it ends, and what becomes of what is lost on it.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

private let group = GroupID(1)

@Suite struct BulkTests {
    /// A cluster in which one follower has missed `count` entries, and the others keep few in memory.
    private func lagging(_ count: Int, loops: [Int] = [1, 1, 1], adjust: (inout HostSettings) -> Void = { _ in }) throws
        -> (trio: Trio, leader: Int, laggard: Int)
    {
        let trio = try Trio(loops: loops) {
            $0.logMemoryBytesMax = 2_000
            $0.raft.appendBytesMax = 4_000
            adjust(&$0)
        }
        let leader = try trio.leader()
        let laggard = (leader + 1) % 3
        trio.cut(laggard)
        var token: UInt64 = 0
        while token < UInt64(count) {
            for _ in 0..<min(500, count - Int(token)) {
                token += 1
                trio.hosts[leader].put("key \(token % 100)", "value \(token)", group: group, token: token)
            }
            try trio.settle()
        }
        #expect(trio.bulkPayloads == 0, "entries in memory have no need of it")
        return (trio, leader, laggard)
    }

    private func isCaughtUp(_ trio: Trio, _ laggard: Int, _ leader: Int) -> Bool {
        guard let state = trio.hosts[leader].inspection(of: group),
            let other = trio.hosts[laggard].inspection(of: group)
        else { return false }
        return other.applied == state.applied && other.digest == state.digest
    }

    @Test func catchUpGoesInBulkAndFreshAppendsDoNot() throws {
        let (trio, leader, laggard) = try lagging(300)
        // Only what was read back may go there.
        var inBulk: [ClosedRange<UInt64>] = []
        var fresh: [UInt64] = []
        let target = try #require(trio.hosts[laggard].inspection(of: group)).replica
        trio.look = { _, _, channel, payload in
            guard var reader = try? PeerBatchReader(payload) else { return }
            while let (_, message) = try? reader.next() {
                guard message.to == target, let first = message.entries.first, let last = message.entries.last else {
                    continue
                }
                if channel == .bulk {
                    inBulk.append(first.index.rawValue...last.index.rawValue)
                } else {
                    fresh.append(first.index.rawValue)
                }
            }
        }
        trio.join(laggard)
        try trio.tick(10)
        #expect(isCaughtUp(trio, laggard, leader))
        #expect(inBulk.count > 1)
        #expect(zip(inBulk, inBulk.dropFirst()).allSatisfy { $0.upperBound + 1 == $1.lowerBound }, "nothing twice")
        let before = trio.bulkPayloads
        fresh = []
        trio.hosts[leader].put("fresh", "v", group: group, token: 10_000)
        try trio.tick(3)
        #expect(trio.bulkPayloads == before && fresh.count == 1 && isCaughtUp(trio, laggard, leader))
    }

    /// Writes that go on all the time do not keep a follower on the bulk connection.
    @Test func underSteadyLoadCatchUpEnds() throws {
        let (trio, leader, laggard) = try lagging(300)
        trio.join(laggard)
        // Whenever the leader gets something to send, something that it sent is not acknowledged yet.
        let slow = trio.hosts[laggard]
        slow.holdsJournal = true
        var last = 0
        for number in 0..<100 {
            let before = trio.bulkPayloads
            trio.hosts[leader].put("k", "\(number)", group: group, token: 20_000 + UInt64(number))
            try slow.commit()
            try trio.tick()
            if trio.bulkPayloads > before { last = number }
        }
        #expect(trio.bulkPayloads > 0 && last < 60, "the last one in bulk went at put \(last)")
        slow.holdsJournal = false
        try slow.commit()
        try trio.tick(3)
        #expect(isCaughtUp(trio, laggard, leader))
    }

    /// A group that nobody writes to, a bulk connection that loses everything without a word.
    @Test func whatIsLostInBulkIsSentAgain() throws {
        let (trio, leader, laggard) = try lagging(300)
        trio.isBulkLost = true
        trio.join(laggard)
        try trio.tick(30)
        #expect(trio.bulkPayloads > 0 && !isCaughtUp(trio, laggard, leader))
        #expect(trio.hosts[leader].inspection(of: group)?.isActive == true, "it is owed something")
        trio.isBulkLost = false
        try trio.tick(20)
        #expect(isCaughtUp(trio, laggard, leader))
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
    }

    /// Where the connection is known to be down, as when clients have taken all places: the group may need this
    /// follower for its majority.
    @Test func withoutABulkConnectionCatchUpGoesBesideTheRest() throws {
        let (trio, leader, laggard) = try lagging(300)
        trio.join(laggard)
        for host in trio.hosts where host.id != trio.hosts[laggard].id {
            host.core.peerDown(trio.hosts[laggard].id, over: .bulk)
        }
        try trio.tick(30)
        #expect(trio.bulkPayloads == 0 && isCaughtUp(trio, laggard, leader))
        trio.hosts[leader].put("k", "meanwhile", group: group, token: 30_000)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(30_000))
        for host in trio.hosts where host.id != trio.hosts[laggard].id {
            host.core.peerUp(trio.hosts[laggard].id, over: .bulk, featureLevel: FeatureLevel.current)
        }
        try trio.tick(20)
        #expect(isCaughtUp(trio, laggard, leader))
    }

    @Test func aFollowerAHundredThousandEntriesBehindCatchesUp() throws {
        let (trio, leader, laggard) = try lagging(100_000, loops: [2, 3, 1]) {
            $0.logMemoryBytesMax = 1 << 20
            $0.raft.appendBytesMax = 256 << 10
        }
        trio.join(laggard)
        try trio.tick(40)
        #expect(isCaughtUp(trio, laggard, leader))
        // Each entry went once: the log has 100,000 of some 60 bytes.
        #expect(trio.bulkBytes > 3_000_000 && trio.bulkBytes < 12_000_000, "\(trio.bulkBytes) bytes")
    }
}
