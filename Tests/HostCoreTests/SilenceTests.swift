// Replicas that say nothing, and hosts that are gone: they keep nobody awake, count for nothing, and are told all when
// they are there again.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Testing

@Suite struct SilenceTests {
    private let group = GroupID(1)

    /// At rest. The cluster is of the first feature level, in which nobody replaces a replica with a damaged journal.
    private func trio(loops: [Int] = [1, 1, 1], levels: [UInt32]? = nil, groups: Int = 8) throws -> Trio {
        let trio = try Trio(groups: groups, loops: loops, featureLevels: levels, mapLevel: FeatureLevel.first)
        _ = try trio.leader()
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        return trio
    }

    private func place(ofLeaderOf group: GroupID, _ trio: Trio) throws -> Int {
        try #require(trio.hosts.firstIndex { $0.inspection(of: group)?.isEstablished == true })
    }

    private func damageJournal(of group: GroupID, at host: TestHost) {
        host.core(of: group).journalDamaged(group: group, "a test")
        #expect(host.inspection(of: group)?.isStopped == true)
    }

    private func key(_ trio: Trio, of group: GroupID) -> String {
        for number in 0..<1_000 where trio.map.owner(of: slot(of: Bytes("key\(number)"))) == group {
            return "key\(number)"
        }
        return ""
    }

    /// A write to the group, whoever leads it.
    private func write(_ trio: Trio, _ group: GroupID, token: UInt64) throws {
        let leader = trio.hosts[try place(ofLeaderOf: group, trio)]
        leader.put(key(trio, of: group), "\(token)", group: group, token: token)
        try trio.tick(4)
        #expect(leader.isDone(token), "\(String(describing: leader.answer(token)))")
    }

    @Test(arguments: [[1, 1, 1], [2, 3, 1]])
    func oneThatStandsStillKeepsNobodyAwake(loops: [Int]) throws {
        let trio = try trio(loops: loops)
        let leader = try place(ofLeaderOf: group, trio)
        let follower = (leader + 1) % 3
        damageJournal(of: group, at: trio.hosts[follower])
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        // Its group goes on with the others, and rests again.
        try write(trio, group, token: 1)
        #expect(try place(ofLeaderOf: group, trio) == leader)
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        let terms = trio.hosts.map { host in trio.map.groups.map { host.inspection(of: $0.id)?.term } }
        try trio.tick(200)
        #expect(trio.hosts.map { host in trio.map.groups.map { host.inspection(of: $0.id)?.term } } == terms)
    }

    /// What it was like: the sums never agree, and everything that the two hosts share stays awake.
    @Test func hostsOfAnEarlierVersionAreNotToldAndStayAwake() throws {
        let trio = try trio(levels: [2, 2, 2])
        let leader = try place(ofLeaderOf: group, trio)
        damageJournal(of: group, at: trio.hosts[(leader + 1) % 3])
        var versions: Set<UInt8> = []
        trio.look = { _, _, _, payload in versions.insert(payload[0]) }
        try trio.tick(40)
        #expect(trio.hosts[leader].activeCount > 1 && versions == [2])
        try write(trio, group, token: 1)
    }

    /// A host that names its silent replicas says nothing for them: with the third host gone nobody has a majority.
    @Test func oneThatStandsStillCountsForNothing() throws {
        let trio = try trio()
        let leader = try place(ofLeaderOf: group, trio)
        let host = trio.hosts[leader]
        damageJournal(of: group, at: trio.hosts[(leader + 1) % 3])
        try trio.tick(40)
        #expect(host.core.leaseExpiry(of: group) > host.now.rawValue, "by the third host's promise")
        trio.cut((leader + 2) % 3)
        try trio.tick(30)
        #expect(host.core.leaseExpiry(of: group) <= host.now.rawValue)
        #expect(host.inspection(of: group)?.role != .leader)
        trio.join((leader + 2) % 3)
        try trio.tick(80)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        try write(trio, group, token: 1)
    }

    /// All of a host's, as after damage to its journal: the other two rest.
    @Test func aHostFullOfThemKeepsNobodyAwake() throws {
        let trio = try trio(groups: 12)
        for record in trio.map.dataGroups { damageJournal(of: record.id, at: trio.hosts[2]) }
        try trio.tick(80)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        for (number, record) in trio.map.dataGroups.enumerated() {
            try write(trio, record.id, token: UInt64(number + 1))
        }
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
    }

    @Test func oneThatIsMendedIsToldAllAndCountsAgain() throws {
        let trio = try trio()
        let leader = try place(ofLeaderOf: group, trio)
        let follower = (leader + 1) % 3
        let host = trio.hosts[follower]
        host.holdsStore = true
        host.core.stateDamaged(group: group, "a test")
        // All of the other's state is in its store, and what is left is to begin anew on it.
        for _ in 0..<400 where host.inspection(of: group)?.isStopped != true {
            try trio.tick()
            try host.doJobs { if case .takeSnapshot = $0 { true } else { false } }
        }
        #expect(host.inspection(of: group)?.isStopped == true)
        try trio.tick(20)
        try write(trio, group, token: 1)
        host.holdsStore = false
        try trio.tick(200)
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(
            all.allSatisfy { $0?.isStopped == false && $0?.digest == all[0]?.digest && $0?.applied == all[0]?.applied })
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        // It makes a majority again.
        trio.cut((leader + 2) % 3)
        try trio.tick(30)
        try write(trio, group, token: 2)
    }

    /// An event loop that is far behind takes nothing of what other hosts say. It does not know who is silent then, though
    /// it was told, and has to be told again.
    @Test func aLoopThatHadNoRoomIsToldAgain() throws {
        let trio = try trio(loops: [2, 2, 2])
        let led = trio.map.dataGroups.map(\.id).filter { trio.hosts[0].inspection(of: $0)?.isEstablished == true }
        let group = try #require(led.first { $0.rawValue % 2 == 1 })
        let other = try #require(led.first { $0.rawValue % 2 == 0 })
        trio.hosts[0].fullLoops = [1]
        damageJournal(of: group, at: trio.hosts[1])
        damageJournal(of: other, at: trio.hosts[1])
        try trio.tick(4)
        trio.hosts[0].fullLoops = []
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        try write(trio, group, token: 1)
        try write(trio, other, token: 2)
    }

    /// A list is of the process that named it.
    @Test func aConnectionThatIsMadeAnewBeginsWithoutNames() throws {
        let trio = try trio()
        let leader = try place(ofLeaderOf: group, trio)
        let follower = (leader + 1) % 3
        damageJournal(of: group, at: trio.hosts[follower])
        try trio.tick(40)
        trio.cut(follower)
        try trio.tick(2)
        var silences: [UInt64] = []
        trio.look = { from, to, _, payload in
            guard from == leader, to == follower, let silence = try? PeerBatchReader(payload).heartbeat?.silence else {
                return
            }
            silences.append(silence)
        }
        trio.join(follower)
        try trio.tick(40)
        #expect(silences.contains(0) && silences.last != 0, "\(silences)")
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
    }

    // MARK: Versions side by side

    /// Hosts speak to each other as the older of the two can, whatever the map's level; nobody is kept awake by it.
    @Test(arguments: [[2, 4, 4], [4, 3, 4], [2, 3, 4], [2, 2, 4]] as [[UInt32]])
    func hostsOfSeveralVersionsServeSideBySide(levels: [UInt32]) throws {
        let trio = try Trio(groups: 8, featureLevels: levels)
        #expect(trio.map.featureLevel == levels.min())
        var versions: [[Set<UInt8>]] = Array(repeating: Array(repeating: [], count: 3), count: 3)
        trio.look = { from, to, _, payload in
            versions[from][to].insert(payload[0])
            #expect(throws: Never.self) {
                var reader = try PeerBatchReader(payload)
                while try reader.next() != nil {}
                #expect(payload[0] == 3 || reader.silent == nil && (reader.heartbeat?.silence ?? 0) == 0)
            }
        }
        _ = try trio.leader()
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        // One is away for long, and comes back: it is spoken to as before.
        for away in 0..<3 {
            trio.cut(away)
            try trio.tick(60)
            for record in trio.map.dataGroups {
                try write(trio, record.id, token: UInt64(100 * away) + UInt64(record.id.rawValue))
            }
            trio.join(away)
            try trio.tick(100)
            #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        }
        for from in 0..<3 {
            for to in 0..<3 where to != from {
                #expect(versions[from][to] == [min(levels[from], levels[to]) == 4 ? 3 : 2], "\(from) to \(to)")
            }
        }
        for record in trio.map.groups {
            let all = trio.hosts.map { $0.inspection(of: record.id)?.digest }
            #expect(all.allSatisfy { $0 == all[0] }, "\(record.id)")
        }
    }

    /// The two that can say it rest together; a silent replica keeps awake what a host of an earlier version leads with it.
    @Test func aSilentReplicaIsNamedToWhoKnowsTheWord() throws {
        let trio = try trio(levels: [4, 4, 2])
        let led = trio.map.dataGroups.map(\.id).filter { trio.hosts[0].inspection(of: $0)?.isEstablished == true }
        damageJournal(of: try #require(led.first), at: trio.hosts[1])
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        let old = trio.map.dataGroups.map(\.id).filter { trio.hosts[2].inspection(of: $0)?.isEstablished == true }
        damageJournal(of: try #require(old.first), at: trio.hosts[1])
        try trio.tick(40)
        #expect(trio.hosts[2].activeCount > 0)
        try write(trio, led[0], token: 1)
        try write(trio, old[0], token: 2)
    }

    // MARK: Hosts that are gone

    @Test(arguments: [[1, 1, 1], [2, 3, 1]])
    func aHostThatIsGoneKeepsNobodyAwakeAndIsToldAllWhenItComes(loops: [Int]) throws {
        let trio = try trio(loops: loops)
        trio.cut(2)
        try trio.tick(80)
        #expect(trio.hosts[0].activeCount == 0 && trio.hosts[1].activeCount == 0)
        for (number, record) in trio.map.dataGroups.enumerated() {
            try write(trio, record.id, token: UInt64(number + 1))
        }
        try trio.tick(20)
        #expect(trio.hosts[0].activeCount == 0 && trio.hosts[1].activeCount == 0)
        trio.join(2)
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        for record in trio.map.groups {
            let all = trio.hosts.map { $0.inspection(of: record.id) }
            #expect(all.allSatisfy { $0?.digest == all[0]?.digest && $0?.applied == all[0]?.applied }, "\(record.id)")
        }
    }

    /// Too short for an election: its replicas followed all the time, and the sums agree at once when it is back.
    @Test func whatWasWrittenWhileAConnectionWasLostArrives() throws {
        let trio = try trio()
        let leader = try place(ofLeaderOf: group, trio)
        let follower = (leader + 1) % 3
        trio.cut(follower)
        try trio.tick(2)
        try write(trio, group, token: 1)
        trio.join(follower)
        try trio.tick(40)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        let all = trio.hosts.map { $0.inspection(of: group)?.digest }
        #expect(all.allSatisfy { $0 == all[0] })
    }

    @Test func manyWakeAFewAtATime() throws {
        let trio = try Trio(groups: 30) { $0.wakesPerTick = 3 }
        _ = try trio.leader()
        try trio.tick(60)
        trio.cut(2)
        try trio.tick(80)
        let led = trio.hosts[0].core.leaderCount
        #expect(led > 12 && trio.hosts[0].activeCount == 0)
        trio.join(2)
        // What elections wake is another matter: hers ask for votes.
        var active = 0
        for _ in 0..<3 {
            trio.hosts[0].tick()
            active = max(active, trio.hosts[0].activeCount)
        }
        #expect(active > 0 && active <= 9, "\(active) of \(led)")
        try trio.tick(120)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
    }

    /// What is to be woken is remembered by its number: places move when a group goes.
    @Test func noGroupStaysAsleepBecauseAnotherIsDeletedMeanwhile() throws {
        let trio = try Trio(groups: 9) { $0.wakesPerTick = 1 }
        _ = try trio.leader()
        try trio.tick(20)
        let host = trio.hosts[0]
        for record in trio.map.groups {
            let leader = try place(ofLeaderOf: record.id, trio)
            let target = try #require(record.replica(on: host.id))
            if leader != 0 {
                trio.hosts[leader].core.transfer(record.id, to: target, call: CallToken(rawValue: 9_000))
            }
            try trio.tick(4)
            #expect(try place(ofLeaderOf: record.id, trio) == 0)
        }
        // A group stands still everywhere, and is not yet gone from the host that led it.
        let gone = GroupID(2)
        let groups = trio.map.dataGroups.map(\.id).filter { $0 != gone }
        host.holdsStore = true
        var map = try #require(host.core.map)
        map.version += 1_000
        map.removeGroup(gone)
        map.ring = SlotTable(
            epoch: map.ring.epoch,
            owners: (0..<Slot.count).map { number in
                let owner = map.ring.owner(of: Slot(UInt16(number))) ?? .meta
                return owner == gone ? groups[0] : owner
            })
        for other in trio.hosts { other.core.adopt(map) }
        try trio.tick(80)
        #expect(host.inspection(of: gone)?.isRemoving == true && trio.hosts[2].inspection(of: gone) == nil)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])

        // Too short for an election, which would wake all of them.
        trio.cut(2)
        for (number, group) in groups.enumerated() {
            host.put(key(trio, of: group), "\(number)", group: group, token: UInt64(number + 1))
        }
        try trio.tick(4)
        #expect(host.activeCount == 0 && groups.indices.allSatisfy { host.isDone(UInt64($0 + 1)) })
        trio.join(2)
        // Some are woken, and others wait for their turn: then one goes that stood before those.
        for _ in 0..<40 where host.inspection(of: groups[2])?.isActive != true { try trio.tick() }
        #expect(host.inspection(of: groups[2])?.isActive == true && host.inspection(of: groups[3])?.isActive == false)
        host.holdsStore = false
        try host.doJobs()
        #expect(host.inspection(of: gone) == nil)
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        for group in groups {
            let all = trio.hosts.map { $0.inspection(of: group)?.digest }
            #expect(all.allSatisfy { $0 == all[0] }, "\(group)")
        }
    }

    /// One that lost both others must find out that it leads nobody.
    @Test func withoutAMajorityNobodyRests() throws {
        let trio = try trio()
        let leader = try place(ofLeaderOf: group, trio)
        trio.cut((leader + 1) % 3)
        try trio.tick(60)
        #expect(trio.hosts[leader].inspection(of: group)?.isActive == false)
        trio.cut((leader + 2) % 3)
        try trio.tick(30)
        #expect(trio.hosts[leader].inspection(of: group)?.role != .leader)
        #expect(trio.hosts[leader].activeCount > 0)
    }

    // MARK: On the wire

    @Test func silentReplicasTravelFromVersionThreeOn() throws {
        let named = [
            SilentReplica(group: GroupID(2), id: ReplicaID(9)), SilentReplica(group: GroupID(5), id: ReplicaID(1)),
        ]
        for version: UInt8 in 1...3 {
            var writer = PeerBatchWriter()
            writer.version = version
            writer.heartbeat = HostHeartbeat(sequence: 1, groups: 2, digest: 3, mapVersion: 4, silence: 5)
            writer.reply = HostHeartbeatReply(sequence: 6, agrees: true, promisedMicroseconds: 7)
            writer.silent = named
            writer.floors = [LogFloor(group: group, index: LogIndex(3))]
            let payload = writer.take()
            #expect(writer.isEmpty && payload[0] == version)
            let reader = try PeerBatchReader(payload)
            #expect(reader.silent == (version == 3 ? named : nil))
            #expect(reader.heartbeat?.silence == (version == 3 ? 5 : 0) && reader.heartbeat?.digest == 3)
            #expect(reader.floors.count == 1 && reader.reply?.sequence == 6)
            for count in 0..<payload.count {
                #expect(throws: DecodingFailure.self) {
                    var reader = try PeerBatchReader(payload[0..<count])
                    while try reader.next() != nil {}
                }
            }
        }
    }

    @Test func listsThatDoNotAscendAndCountsWithoutBytesAreRefused() throws {
        func payload(_ count: UInt32, _ replicas: [(UInt32, UInt64)]) -> Bytes {
            var writer = ByteWriter()
            writer.write(3 as UInt8)
            writer.write(4 as UInt8)
            writer.write(0 as UInt16)
            writer.write(count)
            for (group, id) in replicas {
                writer.write(group)
                writer.write(id)
            }
            for _ in 0..<4 { writer.write(0 as UInt32) }
            return writer.take()
        }
        #expect(try PeerBatchReader(payload(2, [(1, 5), (2, 4)])).silent?.count == 2)
        for wrong in [payload(2, [(2, 5), (1, 4)]), payload(2, [(2, 5), (2, 6)]), payload(.max, [(1, 5)])] {
            #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(wrong) }
        }
        // The part is none of version 2.
        var writer = ByteWriter()
        writer.write(2 as UInt8)
        writer.write(4 as UInt8)
        for _ in 0..<6 { writer.write(0 as UInt32) }
        let old = writer.take()
        #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(old) }
    }

    @Test func eachLoopGetsItsGroupsOfThem() throws {
        var writer = PeerBatchWriter()
        writer.silent = [1, 2, 4, 6].map { SilentReplica(group: GroupID($0), id: ReplicaID(UInt64($0))) }
        let parts = try PeerBatchPart.split(writer.take(), loops: 3)
        #expect(parts.map { $0?.silent?.map(\.group.rawValue) } == [[6], [1, 4], [2]])
        writer.silent = []
        let none = try PeerBatchPart.split(writer.take(), loops: 3)
        #expect(none.map { $0?.silent } == [[], [], []], "who was silent is heard again")
    }
}
