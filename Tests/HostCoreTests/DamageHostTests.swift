// A replica that can't read all of its state: it stands still only where the others can do without it, and keeps what it has
// until another's is whole.

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
        #expect(host.core.replicaStatuses().contains { $0.problem.contains("until the others can do without it") })
    }

    /// A connection to a host that is gone stands for up to 40 s: who is not heard on it does not count, from the beginning
    /// or from the middle of a trial on.
    @Test(arguments: [0, 30, 70]) func whoIsConnectedAndSaysNothingDoesNotCount(ticks: Int) throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let (place, other) = ((leader + 1) % 3, (leader + 2) % 3)
        try put(trio, "a", token: 1)
        trio.hosts[place].core.stateDamaged(group: group, "a test")
        try trio.tick(ticks)
        // Without a word to the others.
        trio.isCut.insert(other)
        var still = 0
        for _ in 0..<800 {
            try trio.tick()
            still = isStopped(trio, place) ? still + 1 : 0
            #expect(still < 80)
        }
        #expect(!isStopped(trio, place))
        try put(trio, "b", token: 2)
    }

    /// One that is impaired gets its state from here first; then another can lead, and this one is mended.
    @Test func whoIsSuppliedFromHereDoesNotCount() throws {
        let trio = try crippled([1])
        for place in 1...2 { trio.hosts[place].holdsSnapshotReads = true }
        try put(trio, "a", token: 1)
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        for _ in 0..<800 where host.heldSnapshotReads.isEmpty { try trio.tick() }
        try #require(!host.heldSnapshotReads.isEmpty, "nobody asks the leader")
        host.core.stateDamaged(group: group, "a test")
        for _ in 0..<15 {
            try trio.tick(20)
            #expect(host.inspection(of: group)?.role == .leader)
        }
        for place in 1...2 { trio.hosts[place].holdsSnapshotReads = false }
        try trio.tick(1_000)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
        #expect(host.core.replicaStatuses().allSatisfy { $0.problem.isEmpty })
        #expect(host.notices.contains { $0.contains("goes on from a snapshot") })
        try put(trio, "b", token: 2)
    }

    /// Each hears the other until it says that it stands still: both go on then, and one of them comes first the next time.
    @Test(arguments: [[0, 0], [3, 0], [0, 3], [4, 0], [0, 4], [2, 0], [0, 2], [1, 0], [0, 1]] as [[Int]])
    func twoDoNotStandStillAtOnce(seconds: [Int]) throws {
        let trio = try Trio()
        let leader = try trio.leader()
        try put(trio, "a", token: 1)
        try trio.tick(60)
        let followers = trio.hosts.indices.filter { $0 != leader }
        for place in followers { trio.hosts[place].holdsStore = true }
        var both = 0
        var longest = 0
        for tick in 0..<1_200 {
            for (place, second) in zip(followers, seconds) where tick == 20 * second {
                trio.hosts[place].core.stateDamaged(group: group, "a test")
            }
            try trio.tick()
            both = followers.allSatisfy { isStopped(trio, $0) } ? both + 1 : 0
            longest = max(longest, both)
        }
        #expect(longest < 100, "both stood still for \(longest) ticks")
        #expect(followers.count { isStopped(trio, $0) } == 1)
        try put(trio, "b", token: 2)
        // When the one is mended the other's turn comes.
        for place in followers { trio.hosts[place].holdsStore = false }
        try trio.tick(800)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(trio.hosts.allSatisfy { $0.core.replicaStatuses().allSatisfy { $0.problem.isEmpty } })
    }

    /// What a checkpoint had frozen, and could not write, is nowhere else: a trial that comes to nothing leaves it.
    @Test func aTrialThatComesToNothingLosesNothing() throws {
        let trio = try Trio { $0.memtableBytesTrigger = 2_000 }
        let leader = try trio.leader()
        let (place, other) = ((leader + 1) % 3, (leader + 2) % 3)
        let host = trio.hosts[place]
        host.holdsStore = true
        for key in 1...40 {
            trio.hosts[leader].put("key \(key)", String(repeating: "v", count: 100), group: group, token: UInt64(key))
            try trio.tick(1)
        }
        try trio.tick(20)
        guard case .checkpoint(let its, _, _)? = host.takeJobs().first else {
            Issue.record("nothing was frozen")
            return
        }
        #expect(its == group)
        host.core.stateDamaged(group: group, "a test")
        for _ in 0..<200 where !isStopped(trio, place) { try trio.tick() }
        #expect(isStopped(trio, place))
        trio.cut(other)
        try trio.tick(60)
        #expect(!isStopped(trio, place))
        #expect(host.notices.contains { $0.contains("the others are no majority without it") })
        for key in 1...40 {
            host.get("key \(key)", group: group, .local, token: UInt64(1_000 + key))
            try trio.tick(1)
            #expect(host.result(UInt64(1_000 + key))?.body.count ?? 0 > 100, "key \(key)")
        }
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
