// Keys with times to live, on three hosts: no key ends too soon, all end, whoever leads, and none that was written again.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct DeadlineTests {
    private let group = GroupID(1)
    private static let ticksPerSecond = 20

    private func value(_ key: String, _ trio: Trio, token: UInt64) throws -> Bytes? {
        let leader = try trio.leader()
        trio.hosts[leader].get(key, group: group, token: token)
        try trio.tick(2)
        guard
            case .found(let value, _, _) = try KeyValueReading(
                decoding: try #require(trio.hosts[leader].result(token)).body)
        else { return nil }
        return value
    }

    private func expectEqualStates(_ trio: Trio) {
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
    }

    @Test func aKeyEndsAfterItsTimeAndNoSooner() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        trio.hosts[leader].put("k", "v", timeToLiveMillis: 3_000, group: group, token: 1)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(1))
        try trio.tick(3 * Self.ticksPerSecond - 8)
        #expect(try value("k", trio, token: 2) == "v")
        // The leader looks once per second.
        try trio.tick(2 * Self.ticksPerSecond)
        #expect(try value("k", trio, token: 3) == nil)
        expectEqualStates(trio)
    }

    @Test func theLastWriteSaysHowLongAKeyLives() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        for key in ["stays", "longer", "shorter", "deleted"] {
            trio.hosts[leader].put(key, "1", timeToLiveMillis: 4_000, group: group, token: 1)
        }
        try trio.tick(2)
        trio.hosts[leader].put("stays", "2", group: group, token: 2)
        trio.hosts[leader].put("longer", "2", timeToLiveMillis: 9_000, group: group, token: 3)
        trio.hosts[leader].put("shorter", "2", timeToLiveMillis: 1_000, group: group, token: 4)
        trio.hosts[leader].delete("deleted", group: group, token: 5)
        try trio.tick(2)
        trio.hosts[leader].put("deleted", "3", group: group, token: 6)
        try trio.tick(Int(2.5 * Double(Self.ticksPerSecond)))
        #expect(try value("shorter", trio, token: 7) == nil)
        try trio.tick(3 * Self.ticksPerSecond)
        #expect(try value("stays", trio, token: 8) == "2")
        #expect(try value("longer", trio, token: 9) == "2")
        #expect(try value("deleted", trio, token: 10) == "3")
        try trio.tick(5 * Self.ticksPerSecond)
        #expect(try value("longer", trio, token: 11) == nil)
        #expect(try value("stays", trio, token: 12) == "2")
        expectEqualStates(trio)
    }

    @Test func thousandsThatAreOnDiskAloneEndUnderAnotherLeaderAndLeaveNothing() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let count = 3 * DeadlineCommand.countMax + 1
        for number in 0..<count {
            trio.hosts[leader].put("k\(number)", "v", timeToLiveMillis: 6_000, group: group, token: UInt64(number))
            if number % 100 == 99 { try trio.tick(1) }
        }
        try trio.tick(2)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(10)
        trio.cut(leader)
        // Longer than an election takes, and the time to live.
        try trio.tick(30 * Self.ticksPerSecond)
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        trio.hosts[next].core.page(
            PageRequest(group: group, from: nil, bytesMax: 1 << 20), call: CallToken(rawValue: 99_000))
        try trio.tick(4)
        let page = try #require(trio.hosts[next].coldPages.last)
        let records = try page.result(from: trio.hosts[next].store).records
        #expect(records.isEmpty, "\(records.count) are left, among them \(records.prefix(3))")
        trio.join(leader)
        try trio.tick(100)
        expectEqualStates(trio)
    }
}
