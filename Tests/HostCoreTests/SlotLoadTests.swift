// What a leader says of the load of its group's slots.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct SlotLoadTests {
    private let group = GroupID(1)

    /// Keys of the group's, no two of one slot.
    private func keys(_ count: Int, of group: GroupID, _ trio: Trio) -> [String] {
        var keys: [String] = []
        var slots: Set<Slot> = []
        var number = 0
        while keys.count < count {
            let key = "key \(number)"
            number += 1
            let slot = slot(of: Bytes(key))
            if trio.map.ring.owner(of: slot) == group, slots.insert(slot).inserted { keys.append(key) }
        }
        return keys
    }

    private func load(_ host: TestHost, _ trio: Trio, token: UInt64) throws -> GroupLoad {
        host.load(group, token: token)
        try trio.tick(2)
        return try GroupLoad(decoding: try #require(host.result(token)).body)
    }

    @Test func theLeaderCountsWhatItsSlotsAreAskedFor() throws {
        let trio = try Trio(groups: 2)
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        let mine = keys(3, of: group, trio)
        let other = keys(1, of: GroupID(2), trio)[0]
        let second = try trio.leader(of: GroupID(2))
        var token: UInt64 = 100
        for _ in 0..<30 {
            host.put(mine[0], "1", group: group, token: token)
            host.get(mine[0], group: group, .lease, token: token + 1)
            host.get(mine[1], group: group, token: token + 2)
            // Not its work: others' reads, and those that another one serves.
            trio.hosts[second].get(other, group: GroupID(2), token: token + 3)
            trio.hosts[(leader + 1) % 3].get(mine[2], group: group, .local, token: token + 4)
            token += 10
            try trio.tick(4)
        }
        let found = try load(host, trio, token: 1)
        #expect(found.seconds >= 6 && found.seconds < 20)
        let slots = mine.map { slot(of: Bytes($0)) }
        #expect(found.slots.map(\.slot) == slots[..<2].sorted())
        func rate(_ key: String, _ load: GroupLoad) -> UInt32? {
            load.slots.first { $0.slot == slot(of: Bytes(key)) }?.operationsPer1000Seconds
        }
        #expect(rate(mine[0], found) == 60_000 / found.seconds && rate(mine[1], found) == 30_000 / found.seconds)

        // The last ten seconds and more, and nothing before.
        try trio.tick(20 * 12)
        let later = try load(host, trio, token: 2)
        #expect(later.seconds >= 10 && later.seconds < 20)
        try trio.tick(20 * 12)
        let idle = try load(host, trio, token: 3)
        #expect(idle.slots.map(\.slot) == [slots[0]] && rate(mine[0], idle) == 0)
        #expect(idle.seconds >= 10)
    }

    @Test func bytesAreThoseOnDiskAndInMemory() throws {
        let trio = try Trio(groups: 2) {
            $0.memtableBytesTrigger = 64 << 10
            $0.journalBytesTrigger = 64 << 10
        }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        let mine = keys(3, of: group, trio)
        host.put(mine[0], "12345", group: group, token: 100)
        try trio.tick(2)
        let first = try load(host, trio, token: 1)
        let small = UInt64(36 + mine[0].utf8.count + 5)
        #expect(first.stateBytes == 0 && first.memtableBytes == small && first.otherBytes == 0)
        #expect(first.slots.map(\.bytes) == [small])

        host.holdsStore = true
        let large = String(repeating: "x", count: 100_000)
        host.put(mine[1], large, group: group, token: 101)
        try trio.tick(2)
        host.put(mine[2], "1", group: group, token: 102)
        try trio.tick(2)
        // One is frozen and not written yet, one came since.
        let held = try load(host, trio, token: 2)
        #expect(held.stateBytes == 0 && held.memtableBytes > 100_000 && held.slots.count == 3)
        host.holdsStore = false
        try host.doJobs()
        try trio.tick(4)
        let written = try load(host, trio, token: 3)
        #expect(written.stateBytes > 100_000 && written.memtableBytes < 1_000 && written.slots.count == 3)
        let sizes = written.slots.first { $0.slot == slot(of: Bytes(mine[1])) }.map(\.bytes)
        #expect(try (100_000...102_000).contains(#require(sizes)))
        #expect(host.core.figures(groupsMax: 0).pagesOpen == 0)
    }

    @Test func whoDoesNotLeadOrIsAskedWronglyRefuses() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let follower = trio.hosts[(leader + 1) % 3]
        follower.load(group, token: 1)
        let host = trio.hosts[leader]
        host.load(.meta, token: 2)
        host.load(group, in: Slot(3), token: 3)
        host.load(group, query: "\u{9}", token: 4)
        host.load(group, .local, token: 5)
        host.load(group, .linearizableAnywhere, token: 6)
        try trio.tick(2)
        guard case .notLeader? = follower.refusal(1) else {
            Issue.record("\(String(describing: follower.answer(1)))")
            return
        }
        for (token, text) in [
            (2 as UInt64, "group 0 has no slots"), (3, "all slots"), (4, "kind 9"), (5, "leader"), (6, "leader"),
        ] {
            guard case .invalid(let found)? = host.refusal(token), found.contains(text) else {
                Issue.record("\(text): \(String(describing: host.answer(token)))")
                continue
            }
        }
    }

    @Test func noMoreAreMeasuredAtATimeThanPagesAreRead() throws {
        let trio = try Trio { $0.pagesMax = 2 }
        let host = trio.hosts[try trio.leader()]
        for token in 1...3 as ClosedRange<UInt64> { host.load(group, token: token) }
        try trio.tick(2)
        #expect(host.isDone(1) && host.isDone(2))
        guard case .overloaded? = host.refusal(3) else {
            Issue.record("\(String(describing: host.answer(3)))")
            return
        }
        host.load(group, token: 4)
        try trio.tick(2)
        #expect(host.isDone(4))
    }
}

extension TestHost {
    fileprivate func load(
        _ group: GroupID, _ consistency: Consistency = .linearizable, in slot: Slot = .group,
        query: Bytes = SlotLoadQuery().encoded(), token: UInt64
    ) {
        core(of: group).query(
            QueryRequest(
                group: group, epoch: slot == .group ? .zero : Epoch(1), slot: slot, machine: .slotOwnership,
                consistency: consistency, query: query),
            call: CallToken(rawValue: token))
    }
}
