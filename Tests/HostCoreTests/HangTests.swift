// A host whose journal's disk hangs without an error: others lead, it leads nothing new, and all is as before when its
// disk answers again.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Testing

@Suite struct HangTests {
    private let group = GroupID(1)

    private func trio(groups: Int = 1, hosts: Int = 3, _ adjust: (inout HostSettings) -> Void = { _ in }) throws -> Trio
    {
        try Trio(groups: groups, hosts: hosts) {
            $0.journalHangTicks = 30
            adjust(&$0)
        }
    }

    private func leader(_ trio: Trio, but place: Int) -> Int? {
        trio.hosts.indices.first { $0 != place && trio.hosts[$0].inspection(of: group)?.isEstablished == true }
    }

    /// Puts at the leader that others see, until one is acknowledged; says in how many ticks.
    private func ticksUntilAPutIsDone(_ trio: Trio, but place: Int, within ticks: Int) throws -> Int? {
        var token: UInt64 = 500
        for tick in 1...ticks {
            if let leader = leader(trio, but: place) {
                token += 1
                trio.hosts[leader].put("key", "value \(token)", group: group, token: token)
            }
            try trio.tick()
            if let leader = leader(trio, but: place), trio.hosts[leader].isDone(token) { return tick }
        }
        return nil
    }

    @Test func aLeaderWhoseDiskHangsHandsOver() throws {
        let trio = try trio()
        let hung = try trio.leader()
        try trio.tick(10)
        trio.hosts[hung].holdsJournal = true
        // At rest nothing waits for the disk, and nothing happens.
        try trio.tick(100)
        #expect(trio.hosts[hung].inspection(of: group)?.isEstablished == true)
        trio.hosts[hung].put("key", "value", group: group, token: 1)
        try trio.tick(29)
        #expect(trio.hosts[hung].isDone(1), "the two others are a majority")
        #expect(!trio.hosts[hung].core.isJournalHung)
        let ticks = try ticksUntilAPutIsDone(trio, but: hung, within: 40)
        #expect(ticks != nil)
        #expect(trio.hosts[hung].core.isJournalHung && trio.hosts[hung].core.hangHandOvers == 1)
        #expect(trio.hosts[hung].core.hangStepDowns == 0)
        #expect(trio.hosts[hung].inspection(of: group)?.role == .follower)
        #expect(trio.hosts[hung].notices.contains { $0.contains("disk has completed nothing for 1500 ms") })
        // It comes back as one that follows, and may lead again.
        trio.hosts[hung].holdsJournal = false
        try trio.tick(20)
        #expect(!trio.hosts[hung].core.isJournalHung)
        #expect(trio.hosts[hung].notices.contains { $0.contains("answers again") })
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
    }

    /// What the successor says is lost: the leader gives up, and its followers elect.
    @Test func aLeaderThatFindsNoSuccessorStepsDown() throws {
        let trio = try trio()
        let hung = try trio.leader()
        trio.hosts[hung].holdsJournal = true
        trio.hosts[hung].put("key", "value", group: group, token: 1)
        try trio.tick(5)
        // None of the others may stand because it was asked to.
        for (place, host) in trio.hosts.enumerated() where place != hung { host.core.spaceChanged(.out) }
        try trio.tick(26)
        #expect(trio.hosts[hung].core.hangHandOvers == 1)
        #expect(trio.hosts[hung].inspection(of: group)?.isEstablished == true)
        try trio.tick(12)
        #expect(trio.hosts[hung].core.hangStepDowns == 1)
        #expect(trio.hosts[hung].inspection(of: group)?.role == .follower)
        for (place, host) in trio.hosts.enumerated() where place != hung { host.core.spaceChanged(.low) }
        try trio.tick(40)
        #expect(leader(trio, but: hung) != nil)
    }

    /// Alone the host that is left can't elect: reads go on where they can.
    @Test func whoCantBeDoneWithoutGoesOnLeading() throws {
        let trio = try trio()
        let hung = try trio.leader()
        trio.cut((hung + 1) % 3)
        trio.hosts[hung].holdsJournal = true
        trio.hosts[hung].put("key", "value", group: group, token: 1)
        try trio.tick(100)
        #expect(trio.hosts[hung].core.isJournalHung)
        #expect(trio.hosts[hung].inspection(of: group)?.isEstablished == true)
        #expect(!trio.hosts[hung].isDone(1))
        trio.join((hung + 1) % 3)
        try trio.tick(60)
        #expect(trio.hosts[hung].inspection(of: group)?.role == .follower)
        #expect(leader(trio, but: hung) != nil)
    }

    /// Where all disks hang, or are about as slow, an election would need what none of them gives.
    @Test func noDiskThatHangsIsBetterThanAnother() throws {
        let trio = try trio()
        let place = try trio.leader()
        for host in trio.hosts { host.holdsJournal = true }
        trio.hosts[place].put("key", "value", group: group, token: 1)
        try trio.tick(200)
        #expect(trio.hosts.allSatisfy { $0.core.isJournalHung })
        #expect(trio.hosts.allSatisfy { $0.core.hangHandOvers == 0 && $0.core.hangStepDowns == 0 })
        #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
        for host in trio.hosts { host.holdsJournal = false }
        try trio.tick(20)
        #expect(trio.hosts[place].isDone(1))
    }

    /// A follower whose disk hangs does not stand for election when its leader is gone.
    @Test func aHostWhoseDiskHangsDoesNotStand() throws {
        let trio = try trio()
        let place = try trio.leader()
        let hung = (place + 1) % 3
        trio.hosts[hung].holdsJournal = true
        trio.hosts[place].put("key", "value", group: group, token: 1)
        try trio.tick(40)
        #expect(trio.hosts[hung].core.isJournalHung)
        // Also not when it is asked to.
        let replica = try #require(trio.map.group(group)?.replica(on: trio.hosts[hung].id))
        trio.hosts[place].core.transfer(group, to: replica, call: CallToken(rawValue: 9))
        try trio.tick(20)
        #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
        trio.cut(place)
        try trio.tick(200)
        // With its vote unwritten nobody wins, and it does not try.
        #expect(trio.hosts[hung].inspection(of: group)?.role == .follower)
        #expect(leader(trio, but: -1).map { $0 == place } ?? true)
        trio.hosts[hung].holdsJournal = false
        try trio.tick(60)
        #expect(leader(trio, but: place) != nil)
    }

    /// Waiting for space is no hang: such hosts go on leading where nobody has any.
    @Test func whoWaitsForSpaceIsNotHung() throws {
        let trio = try trio()
        let place = try trio.leader()
        for host in trio.hosts { host.holdsJournal = true }
        trio.hosts[place].put("key", "value", group: group, token: 1)
        try trio.tick(3)
        for host in trio.hosts { host.core.spaceChanged(.out) }
        try trio.tick(100)
        #expect(!trio.hosts[place].core.isJournalHung)
        #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
    }

    /// A disk that completes one thing after the other, each late, gets on.
    @Test func aSlowDiskIsNotHung() throws {
        let trio = try trio()
        let place = try trio.leader()
        trio.hosts[place].holdsJournal = true
        for round in 0..<10 as Range<UInt64> {
            trio.hosts[place].put("key", "value", group: group, token: 10 + round)
            try trio.tick(20)
            try trio.hosts[place].commit()
        }
        #expect(!trio.hosts[place].core.isJournalHung && trio.hosts[place].core.hangHandOvers == 0)
    }

    @Test func atZeroTicksNothingIsHandedOver() throws {
        let trio = try trio { $0.journalHangTicks = 0 }
        let place = try trio.leader()
        trio.hosts[place].holdsJournal = true
        trio.hosts[place].put("key", "value", group: group, token: 1)
        try trio.tick(200)
        #expect(trio.hosts[place].inspection(of: group)?.isEstablished == true)
    }
}
