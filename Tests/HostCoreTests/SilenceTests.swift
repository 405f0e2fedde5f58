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

    /// At rest; the replicas of groups with a damaged journal stay where they are.
    private func trio(loops: [Int] = [1, 1, 1], levels: [UInt32]? = nil, groups: Int = 8) throws -> Trio {
        let trio = try Trio(groups: groups, loops: loops, featureLevels: levels)
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
        trio.look = { _, _, payload in versions.insert(payload[0]) }
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
        try trio.tick(20)
        #expect(host.inspection(of: group)?.isStopped == true)
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
