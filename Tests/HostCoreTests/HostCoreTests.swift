import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

private let group = GroupID(1)

@Suite struct HostCoreTests {
    // MARK: Requests

    @Test func commandsAreRefusedForTheWrongGroupSlotAndEpoch() throws {
        let trio = try Trio(groups: 2)
        let key = "some key"
        let owner = try #require(trio.map.owner(of: slot(of: Bytes(key))))
        let other = owner == GroupID(1) ? GroupID(2) : GroupID(1)
        let host = trio.hosts[try trio.leader(of: owner)]
        func execute(_ group: GroupID, _ slot: Slot, _ epoch: UInt64, _ token: UInt64) throws {
            let payload = KeyValueCommand.put(key: Bytes(key), value: "v").payload()
            host.core.execute(
                ExecuteRequest(group: group, epoch: Epoch(epoch), slot: slot, payload: payload),
                call: CallToken(rawValue: token))
            try trio.settle()
        }
        let right = slot(of: Bytes(key))
        try execute(owner, right, 1, 1)
        #expect(host.isDone(1))
        try execute(other, right, 1, 2)
        #expect(host.refusal(2) == .moved(group: owner, epoch: Epoch(1)))
        try execute(owner, right, 2, 3)
        if case .unavailable = host.refusal(3) {
        } else {
            Issue.record("a newer epoch than the host's: \(host.refusal(3)!)")
        }
        try execute(GroupID(77), right, 1, 4)
        #expect(host.refusal(4) == .unknownGroup)
        // The command's key does not belong to the slot that is named.
        let wrong = Slot((right.rawValue + 1) % UInt16(Slot.count))
        try execute(trio.map.owner(of: wrong)!, wrong, 1, 5)
        switch host.refusal(5) {
        case .invalid, .notLeader: break
        default: Issue.record("\(host.answer(5)!)")
        }
        try execute(owner, Slot(20_000), 1, 6)
        if case .invalid = host.refusal(6) {} else { Issue.record("\(host.answer(6)!)") }
    }

    @Test func followersRefuseCommandsAndNameTheLeader() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let follower = trio.hosts[(leader + 1) % 3]
        follower.put("k", "v", group: group, token: 1)
        try trio.settle()
        guard case .notLeader(let hint, _) = follower.refusal(1) else {
            throw DiskError(.misuse, "\(follower.answer(1)!)")
        }
        #expect(hint == trio.hosts[leader].id)
        follower.get("k", group: group, token: 2)
        try trio.settle()
        #expect(follower.refusal(2) != nil)
        follower.get("k", group: group, .linearizableAnywhere, token: 3)
        try trio.settle()
        #expect(follower.isDone(3))
    }

    @Test func proposalsOfAnEarlierLeadershipAreRefusedAndLaterOnesAnswered() throws {
        let trio = try Trio()
        let old = try trio.leader()
        trio.hosts[old].put("a", "0", group: group, token: 1)
        try trio.settle()
        // The leader goes on alone, with many proposals that reach nobody.
        trio.cut(old)
        for token in 10..<20 { trio.hosts[old].put("a", "\(token)", group: group, token: UInt64(token)) }
        try trio.settle()
        let new = try trio.leader()
        #expect(new != old)
        trio.join(old)
        trio.cut(new)
        try trio.tick(30)
        // The first one leads again, with a shorter log than it once had.
        var leader = try trio.leader()
        if leader != old {
            let third = leader
            trio.join(new)
            try trio.tick(20)
            trio.cut(third)
            leader = try trio.leader()
        }
        guard leader == old else { return }
        trio.hosts[old].put("a", "again", group: group, token: 30)
        try trio.tick(20)
        #expect(trio.hosts[old].isDone(30), "\(String(describing: trio.hosts[old].answer(30)))")
        for token in UInt64(10)..<20 {
            let refusal = trio.hosts[old].refusal(token)
            #expect(refusal != nil, "\(String(describing: trio.hosts[old].answer(token)))")
        }
    }

    // MARK: A replica that stops

    @Test func aStoppedReplicaServesNothingAndKeepsItsLog() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let host = trio.hosts[(leader + 1) % 3]
        let state = try #require(host.core.inspection(of: group))
        let leaderState = try #require(trio.hosts[leader].core.inspection(of: group))
        // The leader is of a newer version and has committed what this one does not know.
        let entry = LogEntry(
            index: state.last.next, term: state.term, logTime: .zero, kind: EntryKind(rawValue: 99), payload: Bytes())
        var writer = PeerBatchWriter()
        writer.append(
            RaftMessage(
                kind: .append, from: leaderState.replica, to: state.replica, term: state.term, index: state.last,
                logTerm: state.term, commit: entry.index, entries: [entry]),
            group: group)
        try host.core.receive(writer.take(), from: trio.hosts[leader].id)
        try host.turn()
        try host.turn()
        let stopped = try #require(host.core.inspection(of: group))
        #expect(stopped.isStopped && stopped.applied == state.applied && stopped.last == entry.index)
        #expect(host.notices.contains { $0.contains("stopped") })
        host.get("k", group: group, .local, token: 1)
        try host.turn()
        if case .unavailable = host.refusal(1) {} else { Issue.record("\(host.answer(1)!)") }
        #expect(host.journal.log(of: state.replica)?.last == entry.index)
    }

    // MARK: Liveness

    @Test func agreementPutsGroupsAtRestAndDisagreementWakesThem() throws {
        let trio = try Trio(groups: 6)
        _ = try trio.leader()
        try trio.tick(40)
        #expect(trio.hosts.map(\.core.activeCount) == [0, 0, 0])
        let terms = trio.hosts.map { $0.core.replicaStatuses().map(\.term) }
        try trio.tick(100)
        #expect(trio.hosts.map { $0.core.replicaStatuses().map(\.term) } == terms, "rest is no reason for elections")
        // A host says that it does not follow what we lead.
        let host = trio.hosts[0]
        let led = host.core.replicaStatuses().filter { $0.role == .leader }.count
        try trio.disagree(0, with: 1)
        host.core.tick(now: host.now)
        #expect(led > 0 && host.core.activeCount == led)
        try trio.tick(40)
        #expect(trio.hosts.map(\.core.activeCount) == [0, 0, 0])
    }

    @Test func groupsAtRestWakeWhenTheirLeadersHostFallsSilent() throws {
        let trio = try Trio(groups: 3)
        let leader = try trio.leader()
        try trio.tick(40)
        trio.cut(leader)
        let next = try trio.leader()
        #expect(next != leader)
    }

    /// A host that never agrees with us is suspected where we lead; that must not hide that it falls silent where it
    /// leads.
    @Test func aHostThatDisagreesIsStillNoticedWhenItFallsSilent() throws {
        let trio = try Trio(groups: 3)
        _ = try trio.leader()
        try trio.tick(40)
        let host = trio.hosts[0]
        let follower = host.core.replicaStatuses().filter { $0.role == .follower && $0.group != .meta }
        let from = try #require(follower.first)
        let leaderPlace = Int(try #require(trio.map.group(from.group)?.host(of: from.leader)).rawValue) - 1
        let other = trio.hosts[leaderPlace]
        // Its heartbeats are agreed with, ours are not: for longer than the suspicion.
        for _ in 0..<30 {
            for each in trio.hosts {
                each.now = each.now + 50_000_000
                each.core.tick(now: each.now)
                try each.turn()
            }
            for each in trio.hosts {
                for (target, _, payload) in each.takeOutbox() {
                    var reader = try PeerBatchReader(payload)
                    if each.id == other.id, target == host.id, let reply = reader.reply {
                        var changed = PeerBatchWriter()
                        changed.heartbeat = reader.heartbeat
                        changed.reply = HostHeartbeatReply(sequence: reply.sequence, agrees: false)
                        while let (group, message) = try reader.next() { changed.append(message, group: group) }
                        try host.core.receive(changed.take(), from: each.id)
                    } else {
                        try trio.hosts[Int(target.rawValue) - 1].core.receive(payload, from: each.id)
                    }
                }
            }
        }
        #expect(host.core.inspection(of: from.group)?.isActive == false)
        trio.cut(leaderPlace)
        #expect(host.core.inspection(of: from.group)?.isActive == true)
    }

    // MARK: Checkpoints and the journal

    @Test func aCheckpointIsPublishedOnlyWhenTheJournalIsDurable() throws {
        let trio = try Trio { $0.memtableBytesTrigger = 200 }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        host.holdsJournal = true
        host.holdsStore = true
        for number in 0..<10 {
            host.put("key \(number)", String(repeating: "x", count: 50), group: group, token: UInt64(number))
        }
        try trio.settle()
        let state = try #require(host.core.inspection(of: group))
        #expect(state.applied == state.last && state.stable < state.last, "the followers alone are a majority")
        #expect(host.jobs.isEmpty)
        try host.commit()
        try trio.settle()
        #expect(host.jobs.count == 1)
        try host.doJobs()
        try trio.settle()
        #expect(host.core.inspection(of: group)!.manifestIndex == state.applied)
    }

    @Test func storeJobsThatWaitedForAPlaceAreStartedLater() throws {
        let trio = try Trio(groups: 4) {
            $0.memtableBytesTrigger = 1
            $0.checkpointsMax = 1
        }
        _ = try trio.leader()
        try trio.tick(20)
        let host = trio.hosts[0]
        host.holdsStore = true
        var keys: [GroupID: String] = [:]
        for number in 0..<100 { keys[trio.map.owner(of: slot(of: Bytes("k\(number)")))!] = "k\(number)" }
        for (number, group) in keys.keys.sorted().enumerated() {
            let leader = trio.hosts[try trio.leader(of: group)]
            leader.put(keys[group]!, "v", group: group, token: UInt64(1_000 + number))
            try trio.settle()
        }
        #expect(host.jobs.count == 1)
        for _ in 0..<10 {
            try host.doJobs()
            try host.turn()
        }
        for group in keys.keys.sorted() {
            let state = try #require(host.core.inspection(of: group))
            #expect(state.manifestIndex == state.applied, "group \(group)")
        }
    }

    @Test func theJournalIsTrimmedOnlyBelowWhatAllMembersHave() throws {
        let trio = try Trio {
            $0.memtableBytesTrigger = 300
            $0.logMemoryBytesMax = 500
        }
        let leader = try trio.leader()
        let laggard = (leader + 1) % 3
        trio.cut(laggard)
        let had = try #require(trio.hosts[laggard].core.inspection(of: group)).stable
        for number in 0..<60 {
            trio.hosts[leader].put(
                "key \(number % 7)", String(repeating: "x", count: 60), group: group, token: UInt64(number))
            try trio.tick()
        }
        try trio.tick(60)
        let state = try #require(trio.hosts[leader].core.inspection(of: group))
        #expect(state.manifestIndex > had && state.base <= had)
        for (replica, through) in trio.hosts[leader].superfluous where replica == state.replica {
            #expect(through <= had)
        }
        // Back again, it gets what left memory from the journal; then all let go.
        trio.join(laggard)
        try trio.tick(80)
        #expect(trio.hosts[laggard].core.inspection(of: group)!.applied == state.applied)
        for host in trio.hosts {
            let now = try #require(host.core.inspection(of: group))
            #expect(now.base == min(now.floor, now.manifestIndex) && now.base > had, "host \(host.id)")
            #expect(host.superfluous.contains { $0.replica == now.replica && $0.through == now.base })
        }
    }

    // MARK: Log time

    @Test func logTimeGoesOnWithTheClockButBoundedPerTick() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        var token: UInt64 = 1_000
        func logTime() throws -> UInt64 {
            token += 1
            host.put("k", "v", group: group, token: token)
            try trio.settle()
            return try #require(host.core.inspection(of: group)).logTime.rawValue
        }
        let start = try logTime()
        host.now = host.now + 3_600_000_000_000
        host.core.tick(now: host.now)
        let jumped = try logTime()
        #expect(jumped > start && jumped <= start + 100, "an hour within one tick")
        // Turns between two ticks take nothing away from what elapsed.
        for _ in 0..<20 {
            for _ in 0..<50 {
                host.now = host.now + 1_000_000
                try host.turn()
            }
            host.core.tick(now: host.now)
            try trio.settle()
        }
        let later = try logTime()
        #expect(later - jumped >= 950 && later - jumped <= 1_000, "\(later - jumped) ms of 1,000")
    }
}
