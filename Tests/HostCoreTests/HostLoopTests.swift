// Hosts with several event loops: what loops share, what heartbeats say of all of them, and how payloads are dealt out.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct HostLoopTests {
    @Test(arguments: [1, 2, 3, 64]) func everyGroupHasOneLoopAndTheMetaGroupTheFirst(count: Int) {
        let places = (0..<count).map { LoopPlace(number: $0, count: count) }
        for number in UInt32(0)..<200 {
            let group = GroupID(number)
            let owners = places.filter { $0.owns(group) }.map(\.number)
            #expect(owners == [LoopPlace.owner(of: group, loops: count)])
        }
        #expect(LoopPlace.owner(of: .meta, loops: count) == 0)
    }

    // MARK: Map and placement

    @Test func theMapReachesAllLoopsAndEachAsksForItsReplicas() throws {
        let trio = try Trio(groups: 7, loops: [1, 2, 3])
        try trio.settle()
        for host in trio.hosts {
            for core in host.cores {
                #expect(core.map?.version == trio.map.version)
                let groups = core.replicaStatuses().map(\.group)
                #expect(groups == (0...7).map { GroupID($0) }.filter { core.loop.owns($0) })
            }
        }
    }

    // MARK: Heartbeats

    /// Sums of two loops on one side, of three on the other: they agree all the same.
    @Test func hostsWithDifferentNumbersOfLoopsAgreeAndRest() throws {
        let trio = try Trio(groups: 9, loops: [1, 2, 3])
        try trio.tick(60)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        func roles() -> [[ReplicaStatus]] { trio.hosts.map { $0.cores.flatMap { $0.replicaStatuses() } } }
        let terms = roles().map { $0.map(\.term) }
        #expect(roles().joined().filter { $0.role == .leader }.count == 10)
        try trio.tick(100)
        #expect(roles().map { $0.map(\.term) } == terms, "rest is no reason for elections")
        // Writes and reads go through each host's own loops.
        for group in trio.map.dataGroups {
            let leader = trio.hosts[try trio.leader(of: group.id)]
            let key = try #require(
                (0..<500).map { "k\($0)" }.first { trio.map.owner(of: slot(of: Bytes($0))) == group.id })
            leader.put(key, "v", group: group.id, token: UInt64(group.id.rawValue))
            leader.get(key, group: group.id, token: 100 + UInt64(group.id.rawValue))
            try trio.tick(3)
            #expect(leader.isDone(UInt64(group.id.rawValue)) && leader.isDone(100 + UInt64(group.id.rawValue)))
        }
    }

    /// The place of a host's heartbeats in what it sends while `count` ticks pass.
    private func heartbeats(of place: Int, in trio: Trio, ticks count: Int) throws -> Int {
        var seen = 0
        trio.look = { from, _, _, payload in
            if from == place, let reader = try? PeerBatchReader(payload), reader.heartbeat != nil { seen += 1 }
        }
        try trio.tick(count)
        trio.look = nil
        return seen
    }

    @Test func aStuckLoopKeepsHeartbeatsBackAndItsGroupsFindOtherLeaders() throws {
        let trio = try Trio(groups: 6, loops: [3, 1, 1])
        try trio.tick(60)
        let host = trio.hosts[0]
        let stuck = try #require(
            host.cores.first { core in
                core.loop.number > 0 && core.replicaStatuses().contains { $0.role == .leader }
            })
        let led = stuck.replicaStatuses().filter { $0.role == .leader }.map(\.group)
        let healthy = host.cores.filter { $0 !== stuck }.flatMap { $0.replicaStatuses() }.filter { $0.role == .leader }
        #expect(!healthy.isEmpty)
        #expect(try heartbeats(of: 0, in: trio, ticks: 10) > 0)
        host.stuckLoops = [stuck.loop.number]
        // One round of sums may be complete already.
        try trio.tick(2)
        #expect(try heartbeats(of: 0, in: trio, ticks: 60) == 0)
        for group in led {
            let leaders = trio.hosts[1...].filter { $0.inspection(of: group)?.isEstablished == true }
            #expect(leaders.count == 1, "group \(group) waits for a loop that does not move")
        }
        // What the loops that move lead speaks for itself, and stays.
        for status in healthy { #expect(host.inspection(of: status.group)?.term == status.term) }
        host.stuckLoops = []
        try trio.tick(80)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        #expect(try heartbeats(of: 0, in: trio, ticks: 10) > 0)
    }

    /// A side loop that is stuck where a heartbeat arrives: no answer, and the sender notices.
    @Test func aStuckLoopGivesNoAgreement() throws {
        let trio = try Trio(groups: 4, loops: [1, 2, 1])
        try trio.tick(60)
        let sender = trio.hosts[0].core
        #expect(sender.activeCount == 0)
        trio.hosts[1].stuckLoops = [1]
        try trio.tick(20)
        let led = sender.replicaStatuses().filter { $0.role == .leader }.count
        #expect(led > 0 && sender.activeCount >= led, "what it leads there is ticked")
        trio.hosts[1].stuckLoops = []
        try trio.tick(80)
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
    }

    @Test func aDisagreementWakesTheGroupsOfAllLoops() throws {
        let trio = try Trio(groups: 8, loops: [2, 1, 3])
        try trio.tick(60)
        let host = trio.hosts[0]
        let led = host.cores.map { $0.replicaStatuses().filter { $0.role == .leader }.count }
        #expect(led.filter { $0 > 0 }.count > 1, "leaders on several loops: \(led)")
        try trio.disagree(0, with: 1)
        try host.turn()
        try host.turn()
        host.tick()
        #expect(host.cores.map(\.activeCount) == led)
        try trio.tick(60)
        #expect(host.activeCount == 0)
    }

    /// While loops are slower than heartbeats come, the newest waits, and the one that is being compared is answered.
    @Test func slowLoopsStillAnswerHeartbeats() throws {
        let trio = try Trio(groups: 2, loops: [2, 1, 1])
        try trio.tick(60)
        let host = trio.hosts[0]
        let from = trio.hosts[1].id
        func heartbeat(_ sequence: UInt64) throws {
            var writer = PeerBatchWriter()
            writer.heartbeat = HostHeartbeat(sequence: sequence, groups: 0, digest: 77)
            try host.receive(writer.take(), from: from)
        }
        func answers() throws -> [UInt64] {
            try host.takeOutbox().filter { $0.host == from }.compactMap {
                try PeerBatchReader($0.payload).reply?.sequence
            }
        }
        host.stuckLoops = [1]
        for sequence in UInt64(1_001)...1_003 {
            try heartbeat(sequence)
            try host.turn()
        }
        #expect(try answers() == [])
        host.stuckLoops = []
        for _ in 0..<6 { try host.turn() }
        #expect(try answers() == [1_001, 1_003])
    }

    // MARK: Payloads

    @Test func aPayloadIsDealtOutInOrder() throws {
        var writer = PeerBatchWriter()
        for number in UInt64(0)..<60 {
            writer.append(
                RaftMessage(kind: .heartbeat, from: ReplicaID(1), to: ReplicaID(2), term: Term(number + 1)),
                group: GroupID(UInt32(number * 7 % 11)))
        }
        for number in UInt32(0)..<11 { writer.floors.append(LogFloor(group: GroupID(number), index: LogIndex(5))) }
        writer.heartbeat = HostHeartbeat(sequence: 3, groups: 1, digest: 9)
        writer.reply = HostHeartbeatReply(sequence: 2, agrees: true)
        let payload = writer.take()
        for loops in [1, 2, 3, 8] {
            let parts = try PeerBatchPart.split(payload, loops: loops)
            #expect(parts.count == loops)
            for (number, part) in parts.enumerated() {
                let part = try #require(part)
                let place = LoopPlace(number: number, count: loops)
                let expected = (UInt64(0)..<60).filter { place.owns(GroupID(UInt32($0 * 7 % 11))) }.map { Term($0 + 1) }
                #expect(part.messages.map(\.message.term) == expected)
                #expect(part.messages.allSatisfy { place.owns($0.group) })
                #expect(part.floors.map(\.group) == (0..<11).map { GroupID($0) }.filter { place.owns($0) })
                #expect((part.heartbeat?.digest == 9) == (number == 0) && (part.reply?.agrees == true) == (number == 0))
            }
        }
        // Nothing for a loop is nothing, not an empty part.
        var one = PeerBatchWriter()
        one.floors = [LogFloor(group: GroupID(4), index: LogIndex(1))]
        let parts = try PeerBatchPart.split(one.take(), loops: 3)
        #expect(parts[0] == nil && parts[1] != nil && parts[2] == nil)
    }

    @Test func aMalformedPayloadReachesNoLoop() throws {
        var writer = PeerBatchWriter()
        for number in UInt32(1)...9 {
            writer.append(
                RaftMessage(kind: .heartbeat, from: ReplicaID(1), to: ReplicaID(2), term: Term(9)),
                group: GroupID(number))
        }
        let whole = writer.take()
        for count in 0..<whole.count {
            #expect(throws: DecodingFailure.self) { try PeerBatchPart.split(whole[0..<count], loops: 3) }
        }
        var longer = ByteWriter(capacity: whole.count + 1)
        longer.write(whole)
        longer.write(0 as UInt8)
        let trailing = longer.take()
        #expect(throws: DecodingFailure.self) { try PeerBatchPart.split(trailing, loops: 3) }
    }

    // MARK: Bounds

    @Test func loopsShareTheHostsBounds() throws {
        func settings(_ loop: LoopPlace) -> HostSettings {
            HostCore(
                host: HostID(1), journal: 1, settings: HostSettings(), seed: 1, now: Instant(1), journalSequence: 0,
                loop: loop
            ).settings
        }
        let whole = settings(.only)
        let half = settings(LoopPlace(number: 1, count: 2))
        #expect(whole.undurableBytesMax == HostSettings().undurableBytesMax && whole.checkpointsMax == 4)
        #expect(
            half.undurableBytesMax == whole.undurableBytesMax / 2 && half.checkpointsMax == 2 && half.mergesMax == 1)
        let least = settings(LoopPlace(number: 63, count: 64))
        #expect(least.checkpointsMax == 1 && least.undurableBytesMax >= 1 << 20)
    }
}
