// The scrubber over simulated disks: its rate, its rounds, and what becomes of what it finds.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Storage
import Testing

@Suite struct ScrubberTests {
    private let group = GroupID(1)

    private func trio(_ hosts: Int = 3) throws -> Trio {
        try Trio(hosts: hosts) {
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 2_000
            $0.snapshotPieceBytes = 700
            $0.raft.appendBytesMax = 500
        }
    }

    private func write(_ trio: Trio, _ keys: ClosedRange<Int>, at place: Int) throws {
        for key in keys {
            trio.hosts[place].core.journalBytes = 2
            trio.hosts[place].put("key \(key)", String(repeating: "v", count: 100), group: group, token: UInt64(key))
            try trio.tick(1)
            #expect(trio.hosts[place].isDone(UInt64(key)), "key \(key)")
        }
        try trio.tick(100)
    }

    private func makeScrubber(_ host: TestHost, _ adjust: (inout HostSettings) -> Void = { _ in })
        -> Scrubber<SimulatedDisk>?
    {
        var settings = HostSettings()
        settings.scrubBytesPerSecond = 100_000
        settings.scrubPieceBytes = 2_000
        settings.scrubRoundNanoseconds = 0
        adjust(&settings)
        return Scrubber(store: host.store, journal: host.journal, settings: settings, seed: 3)
    }

    /// Steps until the end of a round; says how many there were.
    private func round(_ scrubber: Scrubber<SimulatedDisk>, _ body: (ScrubStep) throws -> Void = { _ in }) throws -> Int
    {
        for number in 1...10_000 {
            let step = try scrubber.step()
            try body(step)
            if step.endsRound { return number }
        }
        Issue.record("no round ends")
        return 0
    }

    @Test func aRoundReadsAllOnceAtItsRateAndTheNextWaits() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...60, at: leader)
        let host = trio.hosts[leader]
        let scrubber = try #require(makeScrubber(host) { $0.scrubRoundNanoseconds = 3_600_000_000_000 })
        for number in 1...2 as ClosedRange<UInt64> {
            var bytes = 0
            var pauses: UInt64 = 0
            let steps = try round(scrubber) { step in
                #expect(step.bytes < 2_000 + 70_000)
                #expect(step.pauseNanoseconds >= UInt64(step.bytes) * 10_000)
                #expect(step.findings.isEmpty)
                bytes += step.bytes
                pauses += step.pauseNanoseconds
                #expect(step.statistics.rounds == (step.endsRound ? number : number - 1))
            }
            let values = host.storeDisk.contents().filter { $0.key.table > 1 }.reduce(0) { $0 + $1.value.count }
            #expect(bytes > values, "the store and something of the journal")
            #expect(steps > 2)
            #expect(pauses == 3_600_000_000_000)
        }
    }

    @Test func atARateOfZeroNothingIsScrubbed() throws {
        let trio = try trio()
        #expect(makeScrubber(trio.hosts[0]) { $0.scrubBytesPerSecond = 0 } == nil)
    }

    @Test func theSlowestRateStillEndsItsRounds() throws {
        let trio = try trio()
        try write(trio, 1...10, at: try trio.leader())
        let scrubber = try #require(makeScrubber(trio.hosts[0]) { $0.scrubBytesPerSecond = 1 })
        _ = try round(scrubber)
    }

    @Test(arguments: [true, false]) func damageThatNobodyReadsIsFoundAndMended(isLeader: Bool) throws {
        let trio = try trio()
        let leader = try trio.leader()
        let place = isLeader ? leader : (leader + 1) % 3
        try write(trio, 1...60, at: leader)
        let host = trio.hosts[place]
        for (key, value) in host.storeDisk.contents() where value.count > 500 {
            host.storeDisk.flipBit(in: key, bit: 8 * value.count / 2)
        }
        let scrubber = try #require(makeScrubber(host))
        _ = try round(scrubber) { step in
            for finding in step.findings { host.core.scrubbed(finding) }
            try trio.tick()
        }
        try trio.tick(600)
        #expect(host.notices.contains { $0.contains("has on disk of its state is damaged") })
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
        for key in 1...60 {
            host.get("key \(key)", group: group, .local, token: UInt64(2_000 + key))
            try trio.tick()
            #expect(host.isDone(UInt64(2_000 + key)), "key \(key)")
        }
        _ = try round(scrubber) { #expect($0.findings.isEmpty, "all is sound again") }
    }

    /// Its group can't do without it, so it goes on; another leads, and gives it a state.
    @Test func whoMeetsDamageIsMendedThoughTheOthersAreNoMajority() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let gone = (leader + 2) % 3
        try write(trio, 1...60, at: leader)
        trio.cut(gone)
        try trio.tick(30)
        let host = trio.hosts[leader]
        #expect(host.inspection(of: group)?.isEstablished == true)
        trio.hosts[(leader + 1) % 3].holdsSnapshotReads = true
        for (key, value) in host.storeDisk.contents() where value.count > 500 {
            host.storeDisk.flipBit(in: key, bit: 8 * value.count / 2)
        }
        var refused = 0
        for key in 1...60 {
            host.get("key \(key)", group: group, token: UInt64(2_000 + key))
            try trio.tick()
            if case .unavailable? = host.refusal(UInt64(2_000 + key)) { refused += 1 }
        }
        #expect(refused > 0, "no read met the damage")
        #expect(host.notices.count { $0.contains("it gets another member's") } == 1, "said once")
        #expect(
            host.core.replicaStatuses().contains { $0.problem.contains("it goes on until it has another member's") })
        for token in 61...70 as ClosedRange<UInt64> {
            try trio.tick(20)
            let other = trio.hosts[try trio.leader()]
            other.put("key \(token)", "after", group: group, token: token)
            try trio.tick(10)
            #expect(other.isDone(token), "the group gets on")
            #expect(host.inspection(of: group)?.isStopped == false)
        }
        #expect(host.inspection(of: group)?.role == .follower)
        trio.hosts[(leader + 1) % 3].holdsSnapshotReads = false
        try trio.tick(200)
        #expect(host.notices.contains { $0.contains("goes on from a snapshot") }, "the third is still away")
        trio.join(gone)
        try trio.tick(600)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
        #expect(host.core.replicaStatuses().allSatisfy { $0.problem.isEmpty })
        for key in 1...60 {
            host.get("key \(key)", group: group, .local, token: UInt64(3_000 + key))
            try trio.tick()
            #expect(host.isDone(UInt64(3_000 + key)), "key \(key)")
        }
    }

    /// The manifest is read before each edit, and can't be: what was frozen is nowhere else.
    @Test(arguments: [1, 3]) func whatACheckpointCouldNotWriteStaysReadable(members: Int) throws {
        let trio = try trio(members)
        let leader = try trio.leader()
        try write(trio, 1...10, at: leader)
        if members == 3 { trio.cut((leader + 2) % 3) }
        try trio.tick(30)
        let host = trio.hosts[leader]
        let replica = try #require(host.store.manifests().first { $0.header.group == group }).replica
        for (key, _) in host.storeDisk.contents() where key.table == 2 && key.high == replica.rawValue {
            host.storeDisk.flipBit(in: key, bit: 100)
        }
        let checkpoints = host.core.replicaStatuses().first { $0.group == group }?.checkpoints
        // The other one of two that are left leads soon, and does not give its state.
        if members == 3 { trio.hosts[(leader + 1) % 3].holdsSnapshotReads = true }
        for key in 11...40 {
            host.core.journalBytes = 2
            let leading = trio.hosts.first { $0.inspection(of: group)?.isEstablished == true } ?? host
            leading.put("key \(key)", String(repeating: "w", count: 100), group: group, token: UInt64(key))
            try trio.tick(10)
            #expect(leading.isDone(UInt64(key)), "key \(key)")
        }
        try trio.tick(100)
        #expect(
            host.notices.contains { $0.contains("it gets another member's") },
            "\(host.notices)")
        #expect(host.core.replicaStatuses().first { $0.group == group }?.checkpoints == checkpoints)
        for key in 1...40 {
            host.get("key \(key)", group: group, .local, token: UInt64(2_000 + key))
            try trio.tick()
            let body = try #require(host.result(UInt64(2_000 + key)), "key \(key)").body
            #expect(body.count > 100, "key \(key) was written, and is not found")
        }
        guard members == 3 else { return }
        trio.hosts[(leader + 1) % 3].holdsSnapshotReads = false
        trio.join((leader + 2) % 3)
        try trio.tick(600)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
    }

    /// A finding that comes late is of a run or a replica that is not there any more.
    @Test func whatIsGoneMeanwhileStopsNobody() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...30, at: leader)
        let host = trio.hosts[leader]
        let replica = try #require(host.store.manifests().first { $0.header.group == group }).replica
        host.core.scrubbed(
            .state(ScrubbedDamage(group: group, replica: replica, run: RunID(9_999), message: "an older run")))
        host.core.scrubbed(
            .state(ScrubbedDamage(group: group, replica: ReplicaID(9_999), run: nil, message: "another replica")))
        host.core.scrubbed(
            .journal(ScrubbedDamage(group: group, replica: ReplicaID(9_999), run: nil, message: "another replica")))
        host.core.scrubbed(
            .journal(ScrubbedDamage(group: GroupID(77), replica: replica, run: nil, message: "another group")))
        try trio.tick(20)
        #expect(host.inspection(of: group)?.isStopped == false)
        #expect(host.inspection(of: group)?.isLogDamaged == false)
    }

    @Test func aDamagedRecordOfTheJournalStopsItsReplica() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let host = trio.hosts[(leader + 1) % 3]
        trio.hosts[leader].put("key", String(repeating: "v", count: 900), group: group, token: 1)
        try trio.tick(20)
        let disk = host.journalDisk
        let (key, value) = try #require(disk.contents().last { $0.key.table == 9 && $0.value.count > 900 })
        disk.flipBit(in: key, bit: 8 * (value.count - 300))
        let scrubber = try #require(makeScrubber(host))
        _ = try round(scrubber) { step in for finding in step.findings { host.core.scrubbed(finding) } }
        try trio.tick(5)
        #expect(host.inspection(of: group)?.isLogDamaged == true)
        #expect(host.inspection(of: group)?.isStopped == true)
        #expect(trio.hosts[leader].inspection(of: group)?.isStopped == false)
    }
}
