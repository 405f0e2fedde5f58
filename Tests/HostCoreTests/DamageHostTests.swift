// A replica that can't read all of its state: it goes on until another's is whole, follows rather than leads, and keeps what it
// has until then.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct DamageHostTests {
    private let group = GroupID(1)

    /// Hosts 1 and 2 lost what they had below entry 100 of the group's log; the others have all of it.
    private func crippled(
        _ lost: [UInt64], _ adjust: (inout HostSettings) -> Void = { _ in }
    ) throws -> Trio {
        try Trio(adjust: adjust) { [group] host, map, journal in
            guard let replica = map.group(group)?.replica(on: host) else { return }
            if lost.contains(host.rawValue) {
                _ = try journal.append([.base(group, replica, LogIndex(100), Term(1))])
            } else {
                let entries = (1...100 as ClosedRange<UInt64>).map {
                    LogEntry(index: LogIndex($0), term: Term(1), logTime: .zero, kind: .empty, payload: Bytes())
                }
                _ = try journal.append([
                    .append(group, replica, entries),
                    .hardState(group, replica, HardState(term: Term(1), commit: LogIndex(100))),
                ])
            }
        }
    }

    private func isStopped(_ trio: Trio, _ place: Int) -> Bool {
        trio.hosts[place].inspection(of: group)?.isStopped ?? false
    }

    private func put(_ trio: Trio, _ key: String, token: UInt64) throws {
        let host = trio.hosts[try trio.leader()]
        host.put(key, "v", group: group, token: token)
        try trio.tick(20)
        #expect(host.isDone(token), "\(String(describing: host.answer(token)))")
    }

    /// They vote and acknowledge as any other does, and can't lead: without the third nobody would.
    @Test func whoAloneCanLeadGoesOn() throws {
        let trio = try crippled([1, 2]) { $0.snapshotsMax = 0 }
        try put(trio, "a", token: 1)
        #expect(trio.hosts[0].inspection(of: group)?.isImpaired == true)
        #expect(trio.hosts[1].inspection(of: group)?.isImpaired == true)
        let host = trio.hosts[2]
        host.core.stateDamaged(group: group, "a test")
        for _ in 0..<40 {
            try trio.tick(20)
            #expect(!isStopped(trio, 2))
        }
        try put(trio, "b", token: 2)
        #expect(host.inspection(of: group)?.role == .leader)
        #expect(host.core.replicaStatuses().contains { $0.problem.contains("until it has another member's") })
    }

    /// Its log is sound: what is committed by its acknowledgement alone stays so while another's state comes.
    @Test func itVotesAndAcknowledgesWhileItsStateComes() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let (place, other) = ((leader + 1) % 3, (leader + 2) % 3)
        try put(trio, "a", token: 1)
        trio.hosts[leader].holdsSnapshotReads = true
        trio.hosts[place].core.stateDamaged(group: group, "a test")
        for _ in 0..<200 where trio.hosts[leader].heldSnapshotReads.isEmpty { try trio.tick() }
        try #require(!trio.hosts[leader].heldSnapshotReads.isEmpty, "nobody asks the leader")
        trio.cut(other)
        for token in 2...20 as ClosedRange<UInt64> {
            trio.hosts[leader].put("a", "\(token)", group: group, token: token)
            try trio.tick(10)
            #expect(trio.hosts[leader].isDone(token) && !isStopped(trio, place))
        }
        // Nor does it keep the group from a leader: one of the two that are left leads.
        trio.join(other)
        try trio.tick(40)
        trio.cut(leader)
        try put(trio, "b", token: 30)
        trio.join(leader)
        trio.hosts[leader].holdsSnapshotReads = false
        try trio.tick(1_000)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(trio.hosts.allSatisfy { $0.core.replicaStatuses().allSatisfy { $0.problem.isEmpty } })
        #expect(trio.hosts[place].notices.contains { $0.contains("goes on from a snapshot") })
    }

    private func askedForItsState(_ trio: Trio, by place: Int, _ leader: Int) throws {
        trio.hosts[leader].holdsSnapshotReads = true
        trio.hosts[place].core.stateDamaged(group: group, "a test")
        for _ in 0..<200 where trio.hosts[leader].heldSnapshotReads.isEmpty { try trio.tick() }
        try #require(!trio.hosts[leader].heldSnapshotReads.isEmpty, "nobody asks the leader")
    }

    /// It would begin to fetch a state anew when it follows again: one that is preferred, for ever.
    @Test func leadershipIsNotTakenWhileAStateComes() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let place = (leader + 1) % 3
        try put(trio, "a", token: 1)
        try askedForItsState(trio, by: place, leader)
        let replica = try #require(trio.map.group(group)?.replica(on: trio.hosts[place].id))
        trio.hosts[leader].core.transfer(group, to: replica, call: CallToken(rawValue: 7))
        for _ in 0..<40 {
            try trio.tick()
            #expect(trio.hosts[place].inspection(of: group)?.role == .follower)
        }
        #expect(trio.hosts[leader].inspection(of: group)?.isEstablished == true)
        trio.hosts[leader].holdsSnapshotReads = false
        try trio.tick(400)
        #expect(trio.hosts[place].notices.contains { $0.contains("goes on from a snapshot") })
    }

    /// It writes no checkpoint while a state comes: with one member away its full memtable would hold up the group.
    @Test func aCheckpointGoesFirstWhereTheGroupNeedsIt() throws {
        let trio = try Trio {
            $0.memtableBytesTrigger = 2_000
            $0.memtableBytesMax = 4_000
            $0.raft.uncommittedBytesMax = 8_000
        }
        let leader = try trio.leader()
        let place = (leader + 1) % 3
        try put(trio, "a", token: 1)
        try askedForItsState(trio, by: place, leader)
        trio.cut((leader + 2) % 3)
        for token in 2...60 as ClosedRange<UInt64> {
            let host = trio.hosts[leader]
            host.put("key \(token)", String(repeating: "v", count: 500), group: group, token: token)
            for _ in 0..<60 where !host.isDone(token) { try trio.tick() }
            #expect(host.isDone(token), "\(token): \(String(describing: host.answer(token)))")
        }
        trio.hosts[leader].holdsSnapshotReads = false
        try trio.tick(1_000)
        #expect(trio.hosts[place].notices.contains { $0.contains("goes on from a snapshot") })
    }

    /// One that is impaired gets its state from here, and is not asked to lead: the third is.
    @Test func whoIsSuppliedFromHereIsNotAskedToLead() throws {
        let trio = try crippled([1])
        for place in 1...2 { trio.hosts[place].holdsSnapshotReads = true }
        try put(trio, "a", token: 1)
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        for _ in 0..<800 where host.heldSnapshotReads.isEmpty { try trio.tick() }
        try #require(!host.heldSnapshotReads.isEmpty, "nobody asks the leader")
        host.core.stateDamaged(group: group, "a test")
        try trio.tick(40)
        #expect(
            host.inspection(of: group)?.role == .follower && trio.hosts[0].inspection(of: group)?.isImpaired == true)
        for place in 1...2 { trio.hosts[place].holdsSnapshotReads = false }
        try trio.tick(1_000)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
        #expect(host.core.replicaStatuses().allSatisfy { $0.problem.isEmpty })
        #expect(host.notices.contains { $0.contains("goes on from a snapshot") })
        try put(trio, "b", token: 2)
    }

    /// Whatever the moments at which they meet it: neither stops but for the moment in which it begins anew.
    @Test(arguments: [[0, 0], [3, 0], [0, 1]] as [[Int]]) func twoAtOnceAreMended(seconds: [Int]) throws {
        let trio = try Trio()
        let leader = try trio.leader()
        try put(trio, "a", token: 1)
        try trio.tick(60)
        let followers = trio.hosts.indices.filter { $0 != leader }
        var longest = 0
        var both = 0
        for tick in 0..<1_200 {
            for (place, second) in zip(followers, seconds) where tick == 20 * second {
                trio.hosts[place].core.stateDamaged(group: group, "a test")
            }
            if tick % 40 == 0 { trio.hosts[leader].put("a", "\(tick)", group: group, token: UInt64(10 + tick)) }
            try trio.tick()
            both = followers.allSatisfy { isStopped(trio, $0) } ? both + 1 : 0
            longest = max(longest, both)
        }
        #expect(longest < 20, "both stood still for \(longest) ticks")
        try put(trio, "b", token: 2)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(trio.hosts.allSatisfy { $0.core.replicaStatuses().allSatisfy { $0.problem.isEmpty } })
        for place in followers {
            #expect(trio.hosts[place].notices.contains { $0.contains("goes on from a snapshot") })
        }
    }

    /// What a checkpoint had frozen, and could not write, is nowhere else: it is read until another's state is there.
    @Test func whatIsFrozenIsReadUntilTheOtherStateIsThere() throws {
        let trio = try Trio { $0.memtableBytesTrigger = 2_000 }
        let leader = try trio.leader()
        let place = (leader + 1) % 3
        let host = trio.hosts[place]
        host.holdsStore = true
        for key in 1...40 {
            trio.hosts[leader].put("key \(key)", String(repeating: "v", count: 100), group: group, token: UInt64(key))
            try trio.tick(1)
        }
        try trio.tick(20)
        let job = try #require(host.takeJobs().first, "nothing was frozen")
        guard case .checkpoint(let its, _, _) = job, its == group else {
            Issue.record("another job")
            return
        }
        func isAllRead(_ token: UInt64) throws {
            for key in 1...40 {
                host.get("key \(key)", group: group, .local, token: token + UInt64(key))
                try trio.tick(1)
                #expect(host.result(token + UInt64(key))?.body.count ?? 0 > 100, "key \(key)")
            }
        }
        trio.hosts[leader].holdsSnapshotReads = true
        host.core.storeDamaged(job, "a test")
        for _ in 0..<200 where trio.hosts[leader].heldSnapshotReads.isEmpty {
            try trio.tick()
            // It is tried again, in vain.
            for job in host.takeJobs() { host.core.storeDamaged(job, "a test") }
        }
        try #require(!trio.hosts[leader].heldSnapshotReads.isEmpty, "nobody asks the leader")
        try isAllRead(1_000)
        host.holdsStore = false
        trio.hosts[leader].holdsSnapshotReads = false
        try trio.tick(600)
        #expect(host.notices.contains { $0.contains("goes on from a snapshot") })
        try isAllRead(2_000)
        try put(trio, "b", token: 100)
    }

    // MARK: What it has

    private final class Runner: StoreJobRunner {
        let intakes = SnapshotIntakes<SimulatedDisk>()
        let journalStand: (name: UInt64, sequence: UInt64) = (99, 5)
        var outcomes: [StoreOutcome] = []
        func nextCheckpoint() -> StoreQueue.Entry? { nil }
        func foundNoSpace(_ entry: StoreQueue.Entry, _ error: DiskError) {}
        func ended(_ entry: StoreQueue.Entry, _ outcome: StoreOutcome) { outcomes.append(outcome) }
    }

    private func header(_ index: UInt64, _ replica: ReplicaID) -> ManifestHeader {
        ManifestHeader(
            group: group, replica: replica, index: LogIndex(index), term: Term(1), revision: Revision(index),
            logTime: LogTime(index), configuration: Configuration(voters: [ReplicaID(1), ReplicaID(2)]), digest: index,
            journal: 99, journalSequence: 1)
    }

    private func store(_ disk: SimulatedDisk, host: UInt64) throws -> Store<SimulatedDisk> {
        try Store(
            disk: disk,
            formatting: StoreIdentity(cluster: ClusterID(high: 1, low: 2), host: HostID(host), journal: 99))
    }

    private func records(_ count: UInt64, _ text: String) -> FrozenMemtable {
        let memtable = Memtable()
        for number in 1...count {
            memtable.put(
                Record(
                    key: RecordKey(slot: Slot(3), machine: .keyValue, key: Bytes("key \(number)")),
                    revision: Revision(number), changed: LogIndex(number), value: Bytes("\(text) \(number)")))
        }
        return memtable.freeze()
    }

    /// The other one may be gone before its state is whole, and this may be the last that there is.
    @Test(arguments: [false, true]) func aDamagedStateStaysUntilAnotherIsWhole(isManifest: Bool) throws {
        let giver = try store(SimulatedDisk(seed: 1), host: 1)
        try giver.start(header(0, ReplicaID(1)))
        try giver.checkpoint(records(400, "new"), header(400, ReplicaID(1)))
        let view = try #require(giver.view(ReplicaID(1)))
        let reader = try SnapshotReader(giver, view, base: .zero)

        let disk = SimulatedDisk(seed: 2)
        do {
            let first = try store(disk, host: 2)
            try first.start(header(0, ReplicaID(2)))
            // Further than the other's: nobody can tell any more.
            try first.checkpoint(records(500, "old"), header(500, ReplicaID(2)))
        }
        let chunk = try #require(disk.contents().first { $0.key.table == 3 })
        let manifest = DiskKey(table: 2, high: 2)
        if isManifest { disk.flipBit(in: manifest, bit: 333) } else { disk.plant(chunk.key, nil) }
        func old() -> [Bytes] {
            disk.contents().filter { $0.key == manifest || $0.key.high == chunk.key.high }.map(\.value)
        }
        let before = old()

        let receiver = try store(disk, host: 2)
        #expect(receiver.damaged().map(\.replica) == [ReplicaID(2)])
        let runner = Runner()
        func take(_ position: RecordKey?) throws -> RecordKey? {
            let piece = try reader.piece(behind: position, bytesMax: 2_000)
            try runner.carryOut(
                StoreQueue.Entry(
                    .takeSnapshot(
                        SnapshotPieceToTake(
                            group: group, replica: ReplicaID(2), description: position == nil ? reader.describe() : nil,
                            records: piece.bytes)), from: 0), in: receiver)
            return piece.next
        }
        // Begun twice, and given up between.
        _ = try take(nil)
        try runner.carryOut(StoreQueue.Entry(.dropSnapshot(group, ReplicaID(2)), from: 0), in: receiver)
        #expect(old() == before)
        var position = try take(nil)
        while position != nil {
            #expect(old() == before)
            position = try take(position)
        }
        #expect(old() == before && receiver.damaged().map(\.replica) == [ReplicaID(2)])
        #expect(try Store(disk: disk).damaged().map(\.replica) == [ReplicaID(2)], "a start finds it as it was")
        try runner.carryOut(StoreQueue.Entry(.installSnapshot(group, ReplicaID(2)), from: 0), in: receiver)
        guard case .snapshotInstalled? = runner.outcomes.last else {
            Issue.record("\(String(describing: runner.outcomes.last))")
            return
        }
        #expect(receiver.damaged().isEmpty && receiver.manifest(of: ReplicaID(2))?.header.index == LogIndex(400))
        let again = try Store(disk: disk)
        #expect(again.damaged().isEmpty)
        let found = try again.get(
            RecordKey(slot: Slot(3), machine: .keyValue, key: Bytes("key 7")),
            in: try #require(again.view(ReplicaID(2))))
        #expect(found.record?.value == Bytes("new 7"))
        #expect(
            disk.contents().allSatisfy { $0.key.table != 3 || $0.key.high != chunk.key.high }, "the old run is gone")
    }
}
