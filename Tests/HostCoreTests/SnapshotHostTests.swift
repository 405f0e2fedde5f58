// A follower that needs what is in nobody's log any more gets a snapshot of its leader's state; so does a replica whose
// state on disk is damaged.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Storage
import Testing

@Suite struct SnapshotHostTests {
    private let group = GroupID(1)

    /// What hosts said about snapshots, in order.
    private final class Words {
        var list: [SnapshotMessage] = []

        init(_ trio: Trio) {
            trio.look = { [unowned self] _, _, _, payload in
                guard let reader = try? PeerBatchReader(payload) else { return }
                list += reader.snapshots
            }
        }

        var fetches: [SnapshotMessage.Fetch] {
            list.compactMap { if case .fetch(let fetch) = $0.kind { fetch } else { nil } }
        }
        var pieces: [SnapshotMessage.Piece] {
            list.compactMap { if case .piece(let piece) = $0.kind { piece } else { nil } }
        }
    }

    /// Journals that wait for nobody, and small pieces.
    private func trio(_ adjust: (inout HostSettings) -> Void = { _ in }) throws -> Trio {
        try Trio {
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 2_000
            $0.snapshotPieceBytes = 700
            $0.raft.appendBytesMax = 500
            adjust(&$0)
        }
    }

    private func write(_ trio: Trio, _ keys: ClosedRange<Int>, value: String, at place: Int, ticks: Int = 100) throws {
        for key in keys {
            trio.hosts[place].core.journalBytes = 2
            trio.hosts[place].put("key \(key)", value, group: group, token: UInt64(key))
            try trio.tick(1)
            #expect(trio.hosts[place].isDone(UInt64(key)), "key \(key)")
        }
        try trio.tick(ticks)
    }

    private func expectEqual(_ trio: Trio) throws {
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
    }

    private func installed(_ trio: Trio, at place: Int) -> Int {
        trio.hosts[place].notices.count { $0.contains("goes on from a snapshot") }
    }

    /// One host is away while the others write so much that their logs no longer go back to what it has.
    private func leaveBehind(_ trio: Trio, _ away: Int, by leader: Int) throws {
        trio.cut(away)
        try write(trio, 1...60, value: String(repeating: "new", count: 40), at: leader)
        let base = trio.hosts[leader].inspection(of: group)?.base ?? .zero
        #expect(base > trio.hosts[away].inspection(of: group)?.last ?? .zero, "the log goes back to \(base)")
    }

    @Test func aFollowerThatWasAwayGetsASnapshotAndGoesOn() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try write(trio, 1...5, value: "old", at: leader)
        try leaveBehind(trio, away, by: leader)
        trio.join(away)
        try trio.tick(400)
        try expectEqual(trio)
        #expect(installed(trio, at: away) == 1)
        trio.hosts[leader].put("later", "v", group: group, token: 1_000)
        try trio.tick(10)
        #expect(trio.hosts[leader].isDone(1_000))
        try expectEqual(trio)
        trio.hosts[away].get("key 60", group: group, .linearizableAnywhere, token: 2_000)
        try trio.tick(5)
        #expect(trio.hosts[away].isDone(2_000))
    }

    @Test func onlyWhatChangedIsSentWhereTheHorizonLetsIt() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try write(trio, 1...60, value: String(repeating: "old", count: 40), at: leader)
        let base = try #require(trio.hosts[away].inspection(of: group)).manifestIndex
        #expect(base > .zero)
        let words = Words(trio)
        trio.cut(away)
        try write(trio, 61...100, value: String(repeating: "new", count: 40), at: leader)
        trio.join(away)
        try trio.tick(400)
        try expectEqual(trio)
        var reader = ByteReader(try #require(words.pieces.first).description)
        let description = try SnapshotDescription(from: &reader)
        #expect(description.base == base)
        #expect(description.records <= 60, "of a hundred")
        #expect(words.pieces.last?.isLast == true)
    }

    @Test func aLostConnectionCostsNoPieceThatIsThere() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try leaveBehind(trio, away, by: leader)
        let words = Words(trio)
        trio.join(away)
        for _ in 0..<100 where words.pieces.count < 3 {
            for host in trio.hosts { host.tick() }
            for _ in 0..<3 { _ = try trio.deliver() }
        }
        #expect(words.pieces.count >= 3)
        trio.isBulkLost = true
        try trio.tick(30)
        trio.isBulkLost = false
        try trio.tick(400)
        try expectEqual(trio)
        #expect(words.fetches.count { $0.snapshot == 0 } == 1, "one snapshot from its beginning")
        #expect(words.pieces.count { $0.after.isEmpty } == 1, "its first piece once")
    }

    /// While it waits for another's state a damaged record of its journal is found, and that state comes to nothing: it
    /// must not go on with a log that lacks what it promised.
    @Test func aReplicaWhoseLogIsDamagedMeanwhileStandsStillWhenItsSnapshotFails() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try leaveBehind(trio, away, by: leader)
        let host = trio.hosts[away]
        host.holdsStore = true
        trio.join(away)
        for _ in 0..<400 where host.inspection(of: group)?.isInstalling != true {
            try trio.tick()
            try host.doJobs { if case .takeSnapshot = $0 { true } else { false } }
        }
        #expect(host.inspection(of: group)?.isInstalling == true)
        host.core.journalDamaged(group: group, "a test")
        _ = host.takeJobs()
        host.core.snapshotFailed(group: group, "a test")
        try trio.tick()
        let now = host.inspection(of: group)
        #expect(now?.isStopped == true && now?.isInstalling == false && now?.isLogDamaged == true)
    }

    /// What comes then leaves out what it should have had: a whole state has to take its place.
    @Test func anIncrementMendsNoDamage() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        let host = trio.hosts[away]
        try write(trio, 1...30, value: String(repeating: "old", count: 40), at: leader)
        try leaveBehind(trio, away, by: leader)
        let words = Words(trio)
        trio.join(away)
        for _ in 0..<100 where words.pieces.isEmpty { try trio.tick() }
        #expect(try #require(words.fetches.first).base > .zero)
        host.core.stateDamaged(group: group, "a test")
        for _ in 0..<400 where installed(trio, at: away) == 0 { try trio.tick() }
        #expect(installed(trio, at: away) == 1 && words.fetches.last?.base == .zero)
        try trio.tick(100)
        try expectEqual(trio)
        #expect(host.core.replicaStatuses().allSatisfy { $0.problem.isEmpty })
    }

    /// A state that takes long to look through is looked through once, however often it is asked for meanwhile.
    @Test func aFirstPieceThatTakesLongIsNotBegunAnew() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try leaveBehind(trio, away, by: leader)
        let words = Words(trio)
        trio.hosts[leader].holdsSnapshotReads = true
        trio.join(away)
        try trio.tick(160)
        #expect(words.fetches.count { $0.snapshot == 0 } > 3)
        #expect(trio.hosts[leader].heldSnapshotReads.count == 1, "one look through the state")
        trio.hosts[leader].holdsSnapshotReads = false
        try trio.tick(400)
        try expectEqual(trio)
    }

    @Test func aReceiverThatDiesPinsNothingForLong() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        try leaveBehind(trio, away, by: leader)
        let words = Words(trio)
        trio.join(away)
        for _ in 0..<100 where words.pieces.isEmpty {
            for host in trio.hosts { host.tick() }
            for _ in 0..<3 { _ = try trio.deliver() }
        }
        trio.cut(away)
        try write(trio, 61...120, value: String(repeating: "then", count: 40), at: leader, ticks: 0)
        let held = try #require(trio.hosts[leader].inspection(of: group)).base
        try trio.tick(45 * 20)
        for key in 121...160 {
            trio.hosts[leader].core.journalBytes = 2
            trio.hosts[leader].put(
                "key \(key)", String(repeating: "later", count: 40), group: group, token: UInt64(key))
            try trio.tick()
        }
        try trio.tick(50)
        let free = try #require(trio.hosts[leader].inspection(of: group)).base
        #expect(free > held, "the log goes back to \(held), then to \(free)")
        trio.join(away)
        try trio.tick(600)
        try expectEqual(trio)
    }

    /// Nor does it keep the only place from one that is there.
    @Test func aReceiverThatDiesLeavesItsPlaceToWhoAsks() throws {
        let trio = try trio { $0.snapshotsMax = 1 }
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        let other = (leader + 2) % 3
        try leaveBehind(trio, away, by: leader)
        let words = Words(trio)
        trio.join(away)
        for _ in 0..<100 where words.pieces.isEmpty {
            for host in trio.hosts { host.tick() }
            for _ in 0..<3 { _ = try trio.deliver() }
        }
        // It takes its time, and has the only place meanwhile.
        trio.hosts[away].holdsStore = true
        let disk = trio.hosts[other].storeDisk
        for (key, value) in disk.contents() where value.count > 500 { disk.flipBit(in: key, bit: 8 * value.count / 2) }
        for key in 1...60 {
            trio.hosts[other].get("key \(key)", group: group, .local, token: UInt64(1_000 + key))
            try trio.hosts[other].turn()
        }
        try trio.tick(160)
        #expect(trio.hosts[other].notices.contains { $0.contains("has on disk of its state is damaged") })
        #expect(installed(trio, at: other) == 0 && installed(trio, at: away) == 0)
        trio.cut(away)
        try trio.tick(12 * 20)
        #expect(installed(trio, at: other) == 1)
        trio.hosts[away].holdsStore = false
        trio.join(away)
        try trio.tick(600)
        try expectEqual(trio)
        #expect(installed(trio, at: away) == 1)
    }

    @Test(arguments: [true, false]) func aReplicaWithADamagedBlockIsRebuiltFromAnother(isLeader: Bool) throws {
        let trio = try trio()
        let leader = try trio.leader()
        let place = isLeader ? leader : (leader + 1) % 3
        try write(trio, 1...60, value: String(repeating: "v", count: 100), at: leader)
        let disk = trio.hosts[place].storeDisk
        // Every chunk, but for the manifests and the superblock.
        for (key, value) in disk.contents() where value.count > 500 { disk.flipBit(in: key, bit: 8 * value.count / 2) }
        for key in 1...60 {
            trio.hosts[place].get("key \(key)", group: group, .local, token: UInt64(1_000 + key))
            try trio.tick()
        }
        try trio.tick(600)
        #expect(trio.hosts[place].notices.contains { $0.contains("has on disk of its state is damaged") })
        try expectEqual(trio)
        #expect(installed(trio, at: place) >= 1)
        for key in 1...60 {
            trio.hosts[place].get("key \(key)", group: group, .local, token: UInt64(2_000 + key))
            try trio.tick()
            #expect(trio.hosts[place].isDone(UInt64(2_000 + key)), "key \(key)")
        }
    }

    /// Its log once went on from entry 100, which it may have acknowledged; what came before was lost with its state. A
    /// state below that is none to begin anew on, however much newer than its own.
    @Test func noStateBelowTheLogIsTaken() throws {
        let lost = HostID(1)
        let trio = try Trio {
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 2_000
        } prepare: { host, map, journal in
            guard host == lost, let replica = map.group(group)?.replica(on: host) else { return }
            _ = try journal.append([.base(group, replica, LogIndex(100), Term(1))])
        }
        let words = Words(trio)
        #expect(trio.hosts[0].inspection(of: group)?.isImpaired == true)
        let leader = try trio.leader()
        try write(trio, 1...40, value: String(repeating: "v", count: 100), at: leader, ticks: 300)
        #expect(words.fetches.count > 3 && words.fetches.allSatisfy { $0.least == LogIndex(100) })
        #expect(words.pieces.isEmpty && trio.hosts[0].inspection(of: group)?.isImpaired == true)
        try write(trio, 41...120, value: String(repeating: "w", count: 100), at: leader, ticks: 600)
        #expect(installed(trio, at: 0) == 1)
        try expectEqual(trio)
    }

    /// What a peer may say: all kinds, read as they were written, and refused with every byte cut off.
    @Test func wordsAreReadAsTheyWereWrittenAndNothingElse() throws {
        let kinds: [SnapshotMessage.Kind] = [
            .offer, .fetch(.init(snapshot: 7, base: LogIndex(5), least: LogIndex(9), after: "abc")),
            .piece(.init(snapshot: 7, after: "", isLast: true, description: "what", records: "records")),
            .refused(snapshot: 7, .busy), .done(snapshot: 7),
        ]
        let words = kinds.map { SnapshotMessage(group: group, from: ReplicaID(1), to: ReplicaID(2), $0) }
        var writer = PeerBatchWriter()
        for word in words { writer.append(word) }
        writer.floors.append(LogFloor(group: group, index: LogIndex(3)))
        let payload = writer.take()
        #expect(payload[0] == 3, "the version")
        #expect(try PeerBatchReader(payload).snapshots == words)
        for count in 0..<payload.count - 4 {
            #expect(throws: DecodingFailure.self, "\(count) bytes") { _ = try PeerBatchReader(payload[0..<count]) }
        }
        for bit in 0..<payload.count * 8 {
            var bytes = payload.array
            bytes[bit / 8] ^= 1 << (bit % 8)
            // Anything but a trap.
            _ = try? PeerBatchReader(Bytes(bytes))
        }
        // For a host that knows no other it is what it reads.
        writer.version = 1
        writer.floors.append(LogFloor(group: group, index: LogIndex(3)))
        #expect(writer.take()[0] == 1)
    }
}
