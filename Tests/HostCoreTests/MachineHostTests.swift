// Users' state machines on hosts: what members can't apply is not proposed, queries see one moment wherever records are,
// and records of machines that a host does not have stay.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct MachineHostTests {
    private let group = GroupID(1)

    private func trio(groups: Int = 1, loops: [Int]? = nil, unaware: Set<Int> = []) throws -> Trio {
        let machines = try StateMachineRegistry([Bank.self])
        return try Trio(groups: groups, loops: loops, machines: machines, unaware: unaware)
    }

    private func submit(_ command: some MachineCommand, at host: TestHost, in group: GroupID, token: UInt64) {
        let request = MachineRequest(command)
        host.core(of: group).execute(
            ExecuteRequest(
                group: group, epoch: Epoch(1), slot: slot(of: request.key),
                payload: request.payload(machine: Bank.number)), call: CallToken(rawValue: token))
    }

    private func query(
        _ bank: UInt64, at host: TestHost, in group: GroupID, _ consistency: Consistency = .linearizable, token: UInt64
    ) {
        let request = MachineRequest(Holdings(bank: bank))
        host.core(of: group).query(
            QueryRequest(
                group: group, epoch: Epoch(1), slot: slot(of: request.key), machine: Bank.number,
                consistency: consistency, query: request.encoded()), call: CallToken(rawValue: token))
    }

    private func outcome(_ host: TestHost, _ token: UInt64) throws -> MachineOutcome {
        try MachineOutcome(decoding: try #require(host.result(token)).body)
    }

    private func holdings(_ host: TestHost, _ token: UInt64) throws -> Holdings.Answer {
        guard case .answer(let bytes) = try outcome(host, token) else { throw Refusal.invalid("a failure") }
        return try Holdings.Answer(decoding: bytes)
    }

    private func owner(_ bank: UInt64, _ trio: Trio) -> GroupID {
        trio.map.owner(of: slot(of: Bank.book(of: bank))) ?? group
    }

    @Test func commandsAreDoneAndQueriesSeeThemInMemoryAndOnDiskAtEveryHost() throws {
        let trio = try trio()
        let leader = trio.hosts[try trio.leader()]
        try trio.tick(2)
        submit(OpenBank(bank: 1), at: leader, in: group, token: 1)
        try trio.tick(2)
        guard case .answer = try outcome(leader, 1) else {
            Issue.record("not opened: \(String(describing: leader.answer(1)))")
            return
        }
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(2)
        #expect(trio.hosts.allSatisfy { $0.inspection(of: group)?.manifestIndex ?? .zero > .zero })
        // All on disk, some of it in memory again, some of it again on disk.
        for number in 0..<6 as Range<UInt64> {
            submit(
                Transfer(bank: 1, from: number, to: 5 - number, amount: 30), at: leader, in: group, token: 10 + number)
            try trio.tick(4)
            guard case .answer = try outcome(leader, 10 + number) else {
                Issue.record("not done")
                return
            }
            if number == 3 {
                for host in trio.hosts { host.core.checkpointAll() }
                try trio.tick(2)
            }
            for (place, host) in trio.hosts.enumerated() {
                let token = 100 + number * 10 + UInt64(place)
                query(1, at: host, in: group, .linearizableAnywhere, token: token)
                try trio.tick(2)
                let found = try holdings(host, token)
                #expect(found.total == 600 && found.book?.transfers == number + 1)
            }
        }
        submit(Transfer(bank: 1, from: 0, to: 1, amount: 601), at: leader, in: group, token: 20)
        try trio.tick(4)
        guard case .failure(let failure) = try outcome(leader, 20) else {
            Issue.record("it was done")
            return
        }
        #expect(failure.code == Bank.tooLittle)
        let states = trio.hosts.map { $0.inspection(of: group) }
        #expect(Set(states.map { $0?.digest }).count == 1 && Set(states.map { $0?.applied }).count == 1)
    }

    @Test(arguments: [1, 3]) func whatAMemberCanNotApplyIsNotProposedWhileItCanBeReached(loops: Int) throws {
        let trio = try trio(groups: 2, loops: [loops, loops, loops], unaware: [2])
        let group = owner(1, trio)
        var place = try trio.leader(of: group)
        if place == 2 {
            // It has to be one that knows the machine.
            trio.cut(2)
            place = try trio.leader(of: group)
            trio.join(2)
        }
        let leader = trio.hosts[place]
        try trio.tick(3)
        submit(OpenBank(bank: 1), at: leader, in: group, token: 1)
        try trio.tick(3)
        guard case .unavailable(let why) = leader.refusal(1) else {
            Issue.record("\(String(describing: leader.answer(1)))")
            return
        }
        #expect(why.contains("host 3 does not have command 1 of state machine 1024"))
        // Nobody stopped, and all else goes on.
        leader.put("{bank 1}", "1", group: group, token: 2)
        try trio.tick(2)
        #expect(leader.isDone(2))
        #expect(trio.hosts.allSatisfy { $0.inspection(of: group)?.isStopped == false })
        // One that is away keeps nobody from his work. It stops before what it does not know when it is back.
        trio.cut(2)
        try trio.tick()
        submit(OpenBank(bank: 1), at: leader, in: group, token: 3)
        try trio.tick(3)
        #expect(leader.isDone(3))
        trio.join(2)
        try trio.tick(60)
        #expect(trio.hosts[2].inspection(of: group)?.isStopped == true)
        #expect(trio.hosts[2].notices.contains { $0.contains("state machine 1024") })
        // It asks of nobody what he has not got either.
        query(1, at: trio.hosts[2], in: group, .local, token: 4)
        try trio.hosts[2].turn()
        #expect(trio.hosts[2].refusal(4) != nil)
    }

    /// Its state goes through the host without the machine to one that has it.
    @Test func whoGetsAStateOfAMachineThatItDoesNotHaveSaysSoOnceAndKeepsIt() throws {
        let machines = try StateMachineRegistry([Bank.self])
        let trio = try Trio(machines: machines, unaware: [2]) {
            // Journals wait for nobody.
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 4_000
            $0.raft.appendBytesMax = 500
        }
        func write(_ count: Int, at place: Int) throws {
            for number in 0..<count {
                trio.hosts[place].core.journalBytes = 2
                trio.hosts[place].put(
                    "key \(number)", String(repeating: "state ", count: 20), group: group, token: UInt64(1_000 + number)
                )
                try trio.tick()
            }
            try trio.tick(100)
        }
        let unaware = trio.hosts[2]
        let words = "group 1: the state has records of state machine 1024, which this host does not have: they are kept"
        trio.cut(2)
        let place = try trio.leader()
        try trio.tick(3)
        submit(OpenBank(bank: 1), at: trio.hosts[place], in: group, token: 1)
        try trio.tick(3)
        guard case .answer = try outcome(trio.hosts[place], 1) else {
            Issue.record("not opened: \(String(describing: trio.hosts[place].answer(1)))")
            return
        }
        try write(200, at: place)
        #expect(trio.hosts[place].inspection(of: group)?.base ?? .zero > unaware.inspection(of: group)?.last ?? .zero)
        #expect(!unaware.notices.contains(words))
        trio.join(2)
        try trio.tick(400)
        #expect(unaware.inspection(of: group)?.isStopped == false)
        #expect(unaware.notices.count { $0 == words } == 1)
        // Once more, of all that there is.
        unaware.core.stateDamaged(group: group, "a test")
        try trio.tick(400)
        #expect(unaware.notices.count { $0.contains("goes on from a snapshot") } == 2)
        #expect(unaware.notices.count { $0 == words } == 1)

        // It leads, and one whose state is damaged gets what it has.
        var leader = place
        for _ in 0..<20 where leader != 2 {
            trio.cut(leader)
            let next = try trio.leader()
            trio.join(leader)
            try trio.tick(5)
            leader = next
        }
        try #require(leader == 2)
        let aware = trio.hosts[0]
        aware.core.stateDamaged(group: group, "a test")
        try trio.tick(400)
        #expect(aware.notices.contains { $0.contains("goes on from a snapshot") })
        #expect(!aware.notices.contains { $0.contains("does not have: they are kept") })
        query(1, at: aware, in: group, .local, token: 2)
        try trio.tick(2)
        let found = try holdings(aware, 2)
        #expect(found.total == Bank.opening * Int64(Bank.accounts))
        let states = trio.hosts.map { $0.inspection(of: group) }
        #expect(Set(states.map { $0?.digest }).count == 1 && Set(states.map { $0?.applied }).count == 1)
    }

    @Test func aWordThatIsLostIsAskedForAgain() throws {
        let trio = try trio()
        let leader = trio.hosts[try trio.leader()]
        try trio.tick(3)
        let other = trio.hosts[leader.id == HostID(1) ? 1 : 0]
        // As if the connection had come up behind what was said on it.
        leader.core.peerDown(other.id, over: .consensus)
        leader.core.peerUp(other.id, over: .consensus, featureLevel: FeatureLevel.current)
        submit(OpenBank(bank: 1), at: leader, in: group, token: 1)
        try leader.turn()
        guard case .unavailable(let why) = leader.refusal(1) else {
            Issue.record("\(String(describing: leader.answer(1)))")
            return
        }
        #expect(why.contains("has not said yet"))
        try trio.tick(40)
        submit(OpenBank(bank: 1), at: leader, in: group, token: 2)
        try trio.tick(3)
        #expect(leader.isDone(2))
    }

    @Test func theWordOfMachinesIsReadBackAndBounded() throws {
        var writer = PeerBatchWriter()
        let commands = (0..<StateMachineRegistry.commandsMax).map {
            MachineCommandNumber(machine: SubMachineNumber(UInt16(1_024 + $0 / 64)), command: UInt16($0 % 64))
        }
        writer.append(.machines(commands, asks: true))
        #expect(try PeerBatchReader(writer.take()).words == [.machines(commands, asks: true)])
        let many = Array(repeating: MachineCommandNumber(machine: .firstOfUsers, command: 9), count: 65_536)
        writer.append(.machines(many, asks: false))
        let tooLong = writer.take()
        #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(tooLong) }
    }
}
