// Replicas that have another state than a majority: they stop and say in what they differ, nobody else does, and words that
// prove nothing stop nobody.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

/// Has a bank's commands, and does another thing.
private enum OddBank: StateMachine {
    static let number = Bank.number
    static let commands: [any MachineCommand<OddBank>.Type] = [OddOpening.self, OddTransfer.self]
    static let queries: [any MachineQuery<OddBank>.Type] = []
}

private struct OddOpening: MachineCommand {
    typealias Machine = OddBank
    static let number = OpenBank.number
    var bank: UInt64
    var key: Bytes { Bank.book(of: bank) }
    func apply(in context: inout MachineContext) throws -> Done { throw MachineFailure(Bank.alreadyOpen, "not here") }
    func encode(into writer: inout ByteWriter) { writer.write(bank) }
    init(from reader: inout ByteReader) throws(DecodingFailure) { bank = try reader.read() }
}

private struct OddTransfer: MachineCommand {
    typealias Machine = OddBank
    static let number = Transfer.number
    var key: Bytes { "" }
    func apply(in context: inout MachineContext) throws -> Done { Done() }
    func encode(into writer: inout ByteWriter) {}
    init(from reader: inout ByteReader) throws(DecodingFailure) { _ = reader.readRest() }
}

@Suite struct DigestHostTests {
    private let group = GroupID(1)
    private static let interval: UInt64 = 16

    private func trio(
        hosts: Int = 3, loops: [Int]? = nil, featureLevels: [UInt32]? = nil,
        machines: StateMachineRegistry = StateMachineRegistry(), odd: StateMachineRegistry? = nil
    ) throws -> Trio {
        try Trio(hosts: hosts, loops: loops, featureLevels: featureLevels, machines: machines, odd: odd) {
            $0.digestInterval = Self.interval
        }
    }

    /// Of what the leader says, these hosts understand another value.
    private func misread(_ trio: Trio, at places: Set<Int>) {
        let sound = Array("sound".utf8)
        trio.tamper = { _, to, payload in
            guard places.contains(to) else { return payload }
            var bytes = payload.withUnsafeBytes { Array($0) }
            var place = 0
            while place + sound.count <= bytes.count {
                if Array(bytes[place..<place + sound.count]) == sound {
                    bytes.replaceSubrange(place..<place + sound.count, with: Array("wrong".utf8))
                }
                place += 1
            }
            return Bytes(bytes)
        }
    }

    private func put(_ trio: Trio, _ key: Int, _ value: String = "value", at place: Int) throws {
        trio.hosts[place].put("key \(key)", value, group: group, token: UInt64(10_000 + key))
        try trio.tick(2)
        #expect(trio.hosts[place].isDone(UInt64(10_000 + key)), "key \(key)")
    }

    private func isStopped(_ trio: Trio, _ place: Int) -> Bool? { trio.hosts[place].inspection(of: group)?.isStopped }
    private func stopped(_ trio: Trio) -> [Int] { trio.hosts.indices.filter { isStopped(trio, $0) != false } }
    private func index(_ trio: Trio, _ place: Int) -> UInt64 {
        trio.hosts[place].inspection(of: group)?.applied.rawValue ?? 0
    }
    private func problem(_ trio: Trio, _ place: Int) -> String? {
        trio.hosts[place].core(of: group).replicaStatuses().first { $0.group == group }?.problem
    }

    private func followers(_ trio: Trio, _ leader: Int) -> [Int] { trio.hosts.indices.filter { $0 != leader } }

    private func digest(_ trio: Trio, _ place: Int) -> UInt64? { trio.hosts[place].inspection(of: group)?.digest }

    @Test(arguments: [1, 3]) func aFollowerWithAnotherValueStopsAndNamesTheMachine(loops: Int) throws {
        let trio = try trio(loops: [loops, 1, loops])
        let leader = try trio.leader(of: group)
        let odd = followers(trio, leader)[0]
        for key in 0..<20 { try put(trio, key, at: leader) }
        #expect(stopped(trio).isEmpty)
        misread(trio, at: [odd])
        let first = index(trio, leader) / Self.interval * Self.interval
        try put(trio, 100, "sound", at: leader)
        // Nobody knows before all have come to the next point.
        if index(trio, leader) < first + Self.interval { #expect(stopped(trio).isEmpty) }
        for key in 200..<220 { try put(trio, key, at: leader) }
        #expect(stopped(trio) == [odd])
        let said = trio.hosts[odd].notices.filter { $0.contains("stopped") }
        let text =
            "group 1: replica \(trio.map.group(group)?.replica(on: trio.hosts[odd].id)?.rawValue ?? 0) stopped: "
            + "its state is not the one that a majority of the group's voters has at index \(first + 16): it differs "
            + "since an entry of \(first + 1) to \(first + 16), in what is key-value (sub machine 1)'s; replace it before this host is started again: "
            + "bifrost group replace-replica 1 --host \(odd + 1)"
        #expect(said == [text])
        #expect(problem(trio, odd).map { text.hasSuffix($0) && !$0.isEmpty } == true)
        #expect(trio.hosts[leader].core(of: group).figures(groupsMax: 0).counts.digestsAgreed > 1)
        // No state of another heals it in silence, whatever becomes of the log.
        for host in trio.hosts { for core in host.cores { core.checkpointAll() } }
        for key in 300..<340 { try put(trio, key, at: leader) }
        try trio.tick(200)
        #expect(stopped(trio) == [odd])
    }

    @Test func aLeaderWithAnotherValueStopsAndTheOthersElect() throws {
        let trio = try trio()
        let odd = try trio.leader(of: group)
        let others = followers(trio, odd)
        misread(trio, at: Set(others))
        try put(trio, 0, "sound", at: odd)
        for key in 1..<40 where isStopped(trio, odd) == false { try put(trio, key, at: odd) }
        #expect(stopped(trio) == [odd])
        trio.hosts[odd].get("key 1", group: group, token: 1)
        try trio.tick()
        guard case .unavailable(let why) = trio.hosts[odd].refusal(1) else {
            Issue.record("it answers: \(String(describing: trio.hosts[odd].answer(1)))")
            return
        }
        #expect(why.contains("key-value (sub machine 1)"))
        let leader = try trio.leader(of: group)
        #expect(others.contains(leader))
        for key in 100..<140 { try put(trio, key, at: leader) }
        #expect(stopped(trio) == [odd])
        #expect(digest(trio, others[0]) == digest(trio, others[1]))
    }

    /// It does not change anything where the others do, so that all later revisions are other ones: those of all machines.
    @Test func aMachineThatDoesAnotherThingIsNamedAndNoOther() throws {
        let trio = try trio(
            machines: try StateMachineRegistry([Bank.self]), odd: try StateMachineRegistry([OddBank.self]))
        var leader = try trio.leader(of: group)
        if leader == 2 {
            trio.cut(2)
            leader = try trio.leader(of: group)
            trio.join(2)
        }
        try trio.tick(4)
        let request = MachineRequest(OpenBank(bank: 1))
        let owner = try #require(trio.map.owner(of: slot(of: request.key)))
        #expect(owner == group)
        trio.hosts[leader].core(of: group).execute(
            ExecuteRequest(
                group: group, epoch: Epoch(1), slot: slot(of: request.key),
                payload: request.payload(machine: Bank.number)), call: CallToken(rawValue: 1))
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(1))
        for key in 0..<40 { try put(trio, key, at: leader) }
        #expect(stopped(trio) == [2])
        #expect(
            problem(trio, 2)?.contains("in what is OddBank (sub machine 1024)'s;") == true, "\(problem(trio, 2) ?? "")")
    }

    @Test func ofTwoVotersNobodyStopsAndBothSaySo() throws {
        let trio = try trio(hosts: 2)
        let leader = try trio.leader(of: group)
        misread(trio, at: [1 - leader])
        try put(trio, 0, "sound", at: leader)
        for key in 1..<60 { try put(trio, key, at: leader) }
        #expect(stopped(trio).isEmpty)
        for (place, host) in trio.hosts.enumerated() {
            let said = host.notices.filter { $0.contains("no majority of the voters agrees") }
            #expect(said.count == 1 && said[0].contains("in what is key-value (sub machine 1)'s"), "\(said)")
            #expect(problem(trio, place)?.contains("no majority") == true)
            #expect(host.core.figures(groupsMax: 0).doubted == 1)
        }
    }

    /// What it missed it is told when it comes there; until then the two others wait, and then say that they differ.
    @Test func theThirdVoterDecidesWhenItComesBack() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let (odd, away) = (followers(trio, leader)[0], followers(trio, leader)[1])
        misread(trio, at: [odd])
        trio.cut(away)
        try put(trio, 0, "sound", at: leader)
        for key in 1..<16 { try put(trio, key, at: leader) }
        #expect(problem(trio, odd) == "" && problem(trio, leader) == "")
        try trio.tick(250)
        #expect(stopped(trio).isEmpty)
        for place in [leader, odd] { #expect(problem(trio, place)?.contains("no majority") == true) }
        // Far enough for the point to be an old one.
        for key in 16..<100 { try put(trio, key, at: leader) }
        trio.join(away)
        try trio.tick(60)
        #expect(stopped(trio) == [odd])
        #expect(problem(trio, leader) == "" && problem(trio, away) == "")
        #expect(
            trio.hosts[leader].notices.contains { $0.contains("a majority of the voters has the state of replica") })
    }

    /// What the third said was lost on the way.
    @Test func whoIsInDoubtAsksAgain() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let (odd, third) = (followers(trio, leader)[0], followers(trio, leader)[1])
        misread(trio, at: [odd])
        let misread = trio.tamper
        var isLost = true
        trio.tamper = { from, to, payload in
            let words = (try? PeerBatchReader(payload).words) ?? []
            if isLost, from == third, words.contains(where: { if case .digest = $0 { true } else { false } }) {
                var nothing = PeerBatchWriter()
                return nothing.take()
            }
            return misread?(from, to, payload) ?? payload
        }
        try put(trio, 0, "sound", at: leader)
        for key in 1..<20 { try put(trio, key, at: leader) }
        try trio.tick(60)
        #expect(stopped(trio).isEmpty)
        isLost = false
        try trio.tick(40)
        #expect(stopped(trio) == [odd])
        #expect(problem(trio, leader) == "")
    }

    @Test func theNewestPointsAreKnownAndSomeOlderOnes() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let other = followers(trio, leader)[0]
        for key in 0..<700 { try put(trio, key, at: leader) }
        let id = try #require(trio.map.group(group)?.replica(on: trio.hosts[other].id))
        var answered: [UInt64] = []
        trio.look = { from, to, _, payload in
            guard from == leader, to == other else { return }
            for case .digest(let word) in (try? PeerBatchReader(payload).words) ?? [] {
                answered.append(word.point.index.rawValue)
            }
        }
        let newest = index(trio, leader) / Self.interval * Self.interval
        for index in [256, 272, 512, newest - 96, newest - 80, newest] {
            try say(trio, word(of: id, at: index, 5), from: other, to: leader)
        }
        try trio.tick()
        #expect(answered == [256, 512, newest - 80, newest])
    }

    /// Nothing is written any more when it comes back, and what the others said was said without it.
    @Test func whoWasAwayIsToldWhatItMissed() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let odd = followers(trio, leader)[0]
        misread(trio, at: [odd])
        try put(trio, 0, "sound", at: leader)
        trio.cut(odd)
        for key in 1..<300 { try put(trio, key, at: leader) }
        #expect(stopped(trio).isEmpty)
        trio.join(odd)
        try trio.tick(60)
        #expect(stopped(trio) == [odd])
    }

    /// What came meanwhile would stand on a state that is wrong, and hide it.
    @Test func whoIsStoppedTakesNoSnapshotThatIsUnderWay() throws {
        let trio = try Trio {
            $0.digestInterval = Self.interval
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 2_000
            $0.snapshotPieceBytes = 700
            $0.raft.appendBytesMax = 500
        }
        let leader = try trio.leader(of: group)
        let others = followers(trio, leader)
        let away = trio.hosts[others[0]]
        for key in 0..<20 { try put(trio, key, at: leader) }
        trio.cut(others[0])
        for key in 100..<160 {
            trio.hosts[leader].core.journalBytes = 2
            try put(trio, key, String(repeating: "new", count: 40), at: leader)
        }
        try trio.tick(100)
        away.holdsStore = true
        trio.join(others[0])
        try trio.tick(100)
        #expect(away.jobs.contains { if case .takeSnapshot = $0 { true } else { false } })
        for place in [leader, others[1]] {
            let id = try #require(trio.map.group(group)?.replica(on: trio.hosts[place].id))
            try say(trio, word(of: id, at: 16, 5), from: place, to: others[0])
        }
        #expect(stopped(trio) == [others[0]])
        away.holdsStore = false
        try trio.tick(400)
        #expect(stopped(trio) == [others[0]])
        #expect(!away.notices.contains { $0.contains("goes on from a snapshot") })
    }

    /// As after a restart: how the state became wrong is not known any more, and it is found all the same.
    @Test func aStateThatWasWrongBeforeTheReplicaBeganIsFound() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let odd = followers(trio, leader)[0]
        for key in 0..<10 { try put(trio, key, at: leader) }
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(2)
        let host = trio.hosts[odd]
        let id = try #require(trio.map.group(group)?.replica(on: host.id))
        let birth = ReplicaBirth(group: group, replica: id, configuration: Configuration(voters: []))
        let restored = try RestoredReplica.restored(
            [birth], logs: host.journal.recovered(), journal: host.journal, store: host.store)[0]
        let wrong = try MasterStateMachine(
            group: group, applied: restored.machine.applied, revision: restored.machine.revision,
            logTime: restored.machine.logTime, digest: restored.machine.digest ^ 1)
        host.core.install(group: group, plan: restored.plan, machine: wrong, memtable: Memtable(), view: restored.view)
        for key in 10..<40 { try put(trio, key, at: leader) }
        #expect(stopped(trio) == [odd])
        #expect(problem(trio, odd)?.contains("as this one was not there for all of the last 16 entries") == true)
    }

    @Test func aReplicaThatStoppedIsReplacedBySoundOne() throws {
        let trio = try trio()
        let leader = try trio.leader(of: group)
        let odd = followers(trio, leader)[0]
        let old = try #require(trio.map.group(group)?.replica(on: trio.hosts[odd].id))
        misread(trio, at: [odd])
        try put(trio, 0, "sound", at: leader)
        for key in 1..<20 { try put(trio, key, at: leader) }
        #expect(stopped(trio) == [odd])
        trio.tamper = nil
        for _ in 0..<60 {
            for host in trio.hosts {
                host.core.administer(
                    MetaCommand.change(.replaceReplica(group, old)).payload(), call: CallToken(rawValue: 1))
            }
            try trio.tick(20)
            let now = trio.hosts[odd].inspection(of: group)
            if let now, now.replica != old, now.applied == trio.hosts[leader].inspection(of: group)?.applied { break }
        }
        #expect(trio.hosts[odd].journal.log(of: old)?.isTombstone == true)
        for key in 100..<140 { try put(trio, key, at: leader) }
        #expect(stopped(trio).isEmpty && Set(trio.hosts.indices.map { digest(trio, $0) }).count == 1)
    }

    /// A host is told nothing that its version does not know.
    @Test func olderHostsAreToldNothing() throws {
        let trio = try trio(featureLevels: [FeatureLevel.current, FeatureLevel.current, FeatureLevel.machines])
        var told: Set<[Int]> = []
        trio.look = { from, to, _, payload in
            let words = (try? PeerBatchReader(payload).words) ?? []
            if words.contains(where: { if case .digest = $0 { true } else { false } }) { told.insert([from, to]) }
        }
        let leader = try trio.leader(of: group)
        for key in 0..<20 { try put(trio, key, at: leader) }
        #expect(told == [[0, 1], [1, 0]])
    }

    // MARK: Words

    private func say(_ trio: Trio, _ word: DigestWord, from: Int, to: Int) throws {
        var writer = PeerBatchWriter()
        writer.append(.digest(word))
        try trio.hosts[to].receive(writer.take(), from: trio.hosts[from].id)
    }

    private func word(
        of replica: ReplicaID, at index: UInt64, _ digest: UInt64, before: UInt64 = 1, in group: GroupID = GroupID(1)
    ) -> DigestWord {
        DigestWord(
            group: group, replica: replica, asks: true,
            point: DigestPoint(
                index: LogIndex(index), digest: digest, interval: IntervalDigests(before: before, machines: [])))
    }

    @Test(arguments: [1, 2]) func wordsThatAreNoMajoritysStopNobody(loops: Int) throws {
        let trio = try trio(loops: [loops, loops, loops])
        let leader = try trio.leader(of: group)
        for key in 0..<20 { try put(trio, key, at: leader) }
        let others = followers(trio, leader)
        let ids = try trio.hosts.map { try #require(trio.map.group(group)?.replica(on: $0.id)) }
        // One host in all names, one that is no member, points that are none, groups that are not here.
        for id in ids + [ReplicaID(99), .none, ReplicaID(.max)] {
            for index in [0, 1, 15, 16, 17, 32, 1 << 61, .max] as [UInt64] {
                for other in [group, GroupID(0), GroupID(77), GroupID(.max)] {
                    try say(trio, word(of: id, at: index, 5, in: other), from: others[0], to: leader)
                }
            }
        }
        try trio.tick(30)
        #expect(stopped(trio).isEmpty)
        // Two on different points, and two that differ from each other.
        try say(trio, word(of: ids[others[0]], at: 16, 5), from: others[0], to: leader)
        try say(trio, word(of: ids[others[1]], at: 32, 5), from: others[1], to: leader)
        try say(trio, word(of: ids[others[1]], at: 16, 6), from: others[1], to: leader)
        try trio.tick(30)
        #expect(stopped(trio).isEmpty)
        #expect(problem(trio, leader)?.contains("no majority") == true)
        // Those of a majority do: then this one's is the wrong one.
        try say(trio, word(of: ids[others[1]], at: 16, 5), from: others[1], to: leader)
        try trio.tick(2)
        #expect(stopped(trio) == [leader])
        #expect(problem(trio, leader)?.contains("it differs since before entry 1;") == true)
    }

    @Test func theWordIsReadBackAndBounded() throws {
        let most = (0..<UInt16(IntervalDigests.machinesMax)).map {
            MachineDigest(machine: SubMachineNumber($0 + 1), changes: UInt64($0), sum: .max)
        }
        var words: [ClusterWord] = []
        for interval in [nil, IntervalDigests(before: 3, machines: []), IntervalDigests(before: 4, machines: most)] {
            let point = DigestPoint(index: LogIndex(4_096), digest: 7, interval: interval)
            words.append(.digest(DigestWord(group: group, replica: ReplicaID(9), asks: interval != nil, point: point)))
        }
        var writer = PeerBatchWriter()
        for word in words { writer.append(word) }
        let payload = writer.take()
        #expect(try PeerBatchReader(payload).words == words)
        // Cut anywhere it is an error, and nothing worse.
        for count in 0..<payload.count {
            #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(payload[0..<count]) }
        }
        let oneMore = MachineDigest(machine: SubMachineNumber(9_999), changes: 0, sum: 0)
        for machines in [most + [oneMore], most + [most[0]], [most[0], most[0]], [most[1], most[0]]] {
            let point = DigestPoint(
                index: LogIndex(4_096), digest: 7, interval: IntervalDigests(before: 0, machines: machines))
            writer.append(.digest(DigestWord(group: group, replica: ReplicaID(9), asks: false, point: point)))
            let bad = writer.take()
            #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(bad) }
        }
    }
}
