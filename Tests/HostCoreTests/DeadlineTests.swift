// Keys with times to live, on three hosts: no key ends too soon, all end, whoever leads, and none that was written again.

import BifrostSimulator
import DataTypes
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct DeadlineTests {
    private let group = GroupID(1)
    private static let ticksPerSecond = 20

    private func value(_ key: String, _ trio: Trio, token: UInt64) throws -> Bytes? {
        let leader = try trio.leader()
        trio.hosts[leader].get(key, group: group, token: token)
        try trio.tick(2)
        guard
            case .found(let value, _, _) = try KeyValueReading(
                decoding: try #require(trio.hosts[leader].result(token)).body)
        else { return nil }
        return value
    }

    private func expectEqualStates(_ trio: Trio) {
        #expect(Set(trio.hosts.map { $0.inspection(of: group)?.digest }).count == 1)
    }

    @Test func aKeyEndsAfterItsTimeAndNoSooner() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        trio.hosts[leader].put("k", "v", timeToLiveMillis: 3_000, group: group, token: 1)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(1))
        try trio.tick(3 * Self.ticksPerSecond - 8)
        #expect(try value("k", trio, token: 2) == "v")
        // The leader looks once per second.
        try trio.tick(2 * Self.ticksPerSecond)
        #expect(try value("k", trio, token: 3) == nil)
        expectEqualStates(trio)
    }

    @Test func theLastWriteSaysHowLongAKeyLives() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        for key in ["stays", "longer", "shorter", "deleted"] {
            trio.hosts[leader].put(key, "1", timeToLiveMillis: 4_000, group: group, token: 1)
        }
        try trio.tick(2)
        trio.hosts[leader].put("stays", "2", group: group, token: 2)
        trio.hosts[leader].put("longer", "2", timeToLiveMillis: 9_000, group: group, token: 3)
        trio.hosts[leader].put("shorter", "2", timeToLiveMillis: 1_000, group: group, token: 4)
        trio.hosts[leader].delete("deleted", group: group, token: 5)
        try trio.tick(2)
        trio.hosts[leader].put("deleted", "3", group: group, token: 6)
        try trio.tick(Int(2.5 * Double(Self.ticksPerSecond)))
        #expect(try value("shorter", trio, token: 7) == nil)
        try trio.tick(3 * Self.ticksPerSecond)
        #expect(try value("stays", trio, token: 8) == "2")
        #expect(try value("longer", trio, token: 9) == "2")
        #expect(try value("deleted", trio, token: 10) == "3")
        try trio.tick(5 * Self.ticksPerSecond)
        #expect(try value("longer", trio, token: 11) == nil)
        #expect(try value("stays", trio, token: 12) == "2")
        expectEqualStates(trio)
    }

    @Test func thousandsThatAreOnDiskAloneEndUnderAnotherLeaderAndLeaveNothing() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let count = 3 * DeadlineCommand.countMax + 1
        for number in 0..<count {
            trio.hosts[leader].put("k\(number)", "v", timeToLiveMillis: 6_000, group: group, token: UInt64(number))
            if number % 100 == 99 { try trio.tick(1) }
        }
        try trio.tick(2)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(10)
        trio.cut(leader)
        // Longer than an election takes, and the time to live.
        try trio.tick(30 * Self.ticksPerSecond)
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        trio.hosts[next].core.page(
            PageRequest(group: group, from: nil, bytesMax: 1 << 20), call: CallToken(rawValue: 99_000))
        try trio.tick(4)
        let page = try #require(trio.hosts[next].coldPages.last)
        let records = try page.result(from: trio.hosts[next].store).records
        #expect(records.isEmpty, "\(records.count) are left, among them \(records.prefix(3))")
        trio.join(leader)
        try trio.tick(100)
        expectEqualStates(trio)
    }

    // MARK: Scheduled commands

    private func banks(mapLevel: UInt32? = nil) throws -> Trio {
        try Trio(mapLevel: mapLevel, machines: try StateMachineRegistry([Bank.self]))
    }

    private func submit(_ command: some MachineCommand, _ trio: Trio, at place: Int, token: UInt64) {
        let request = MachineRequest(command)
        trio.hosts[place].core.execute(
            ExecuteRequest(
                group: group, epoch: Epoch(1), slot: slot(of: request.key),
                payload: request.payload(machine: Bank.number)), call: CallToken(rawValue: token))
    }

    private func book(_ trio: Trio, at place: Int, token: UInt64) throws -> Book {
        let request = MachineRequest(Holdings(bank: 1))
        trio.hosts[place].core.query(
            QueryRequest(
                group: group, epoch: Epoch(1), slot: slot(of: request.key), machine: Bank.number,
                consistency: .linearizable, query: request.encoded()), call: CallToken(rawValue: token))
        try trio.tick(3)
        guard
            case .answer(let bytes) = try MachineOutcome(
                decoding: try #require(trio.hosts[place].result(token)).body)
        else { throw Refusal.invalid("a failure") }
        let found = try Holdings.Answer(decoding: bytes)
        #expect(found.total == Int64(Bank.accounts) * Bank.opening)
        return try #require(found.book)
    }

    private func open(_ trio: Trio) throws -> Int {
        let leader = try trio.leader()
        try trio.tick(3)
        submit(OpenBank(bank: 1), trio, at: leader, token: 1_000)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(1_000))
        return leader
    }

    @Test func scheduledCommandsComeOnceUnderWhoeverLeads() throws {
        let trio = try banks()
        let leader = try open(trio)
        for number in 0..<200 as Range<UInt64> {
            submit(
                PostDate(bank: 1, number: number, from: number % 6, to: 0, amount: 1, milliseconds: 3_000), trio,
                at: leader, token: number)
        }
        submit(CallOff(bank: 1, number: 7), trio, at: leader, token: 500)
        try trio.tick(2)
        #expect(trio.hosts[leader].isDone(500))
        #expect(try book(trio, at: leader, token: 501).posts == 199)
        // On disk alone.
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(3 * Self.ticksPerSecond - 20)
        #expect(try book(trio, at: leader, token: 502).settled == 0)
        trio.cut(leader)
        try trio.tick(30 * Self.ticksPerSecond)
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        let after = try book(trio, at: next, token: 503)
        #expect(after.posts == 0 && after.settled == 199 && after.wrong == 0)
        trio.join(leader)
        try trio.tick(100)
        expectEqualStates(trio)
    }

    /// Members with an older program don't know what carries it out.
    @Test func belowTheirFeatureLevelScheduledCommandsWait() throws {
        let trio = try banks(mapLevel: FeatureLevel.machines)
        let leader = try open(trio)
        for (number, seconds) in [(1, 1), (2, 1_000)] as [(UInt64, UInt64)] {
            submit(
                PostDate(bank: 1, number: number, from: 1, to: 2, amount: 1, milliseconds: seconds * 1_000), trio,
                at: leader, token: number)
        }
        try trio.tick(5)
        let last = trio.hosts[leader].inspection(of: group)?.last
        // Longer than an idle leader goes without noting how late it is.
        try trio.tick(150 * Self.ticksPerSecond)
        #expect(trio.hosts[leader].inspection(of: group)?.last == last)

        var map = trio.map
        map.featureLevel = FeatureLevel.deadlines
        map.version += 1
        for host in trio.hosts { host.core.adopt(map) }
        try trio.tick(5 * Self.ticksPerSecond)
        let after = try book(trio, at: leader, token: 3)
        #expect(after.posts == 1 && after.settled == 1 && after.wrong == 0)
    }

    /// As if a member had been started with an older program, and then again with the newer one.
    @Test func whatAMemberDoesNotHaveWaitsAndHoldsUpNothingElse() throws {
        let trio = try banks()
        let leader = try open(trio)
        let other = trio.hosts[(leader + 1) % 3].id
        let all = try StateMachineRegistry([Bank.self]).commandNumbers
        func tell(_ commands: [MachineCommandNumber]) throws {
            var writer = PeerBatchWriter()
            writer.append(.machines(commands, asks: false))
            try trio.hosts[leader].receive(writer.take(), from: other)
        }
        for number in 0..<300 as Range<UInt64> {
            submit(
                PostDate(bank: 1, number: number, from: number % 6, to: 0, amount: 1, milliseconds: 1_000 + number),
                trio, at: leader, token: number)
        }
        trio.hosts[leader].put("{bank 1}k", "v", timeToLiveMillis: 3_000, group: group, token: 400)
        try trio.tick(2)
        try tell(all.filter { $0.command != Settle.number })
        try trio.tick(8 * Self.ticksPerSecond)
        #expect(try value("{bank 1}k", trio, token: 401) == nil)
        let before = try book(trio, at: leader, token: 402)
        #expect(before.posts == 300 && before.settled == 0)
        let told = trio.hosts[leader].notices.filter { $0.contains("something that is due waits") }
        #expect(told.count == 1 && told.first?.contains("command 4 of state machine 1024") == true, "\(told)")

        try tell(all)
        try trio.tick(12 * Self.ticksPerSecond)
        let after = try book(trio, at: leader, token: 403)
        #expect(after.posts == 0 && after.settled == 300 && after.wrong == 0)
        // It goes on with those that come later.
        submit(
            PostDate(bank: 1, number: 999, from: 1, to: 0, amount: 1, milliseconds: 1_000), trio, at: leader,
            token: 404)
        try trio.tick(4 * Self.ticksPerSecond)
        #expect(try book(trio, at: leader, token: 405).settled == 301)
    }

    // MARK: Sweeps

    private func execute<Command: MachineCommand>(_ command: Command, _ trio: Trio, at place: Int, token: UInt64) {
        trio.hosts[place].execute(
            MachineRequest(command).payload(machine: Command.Machine.number), slot(of: command.key), group,
            token: token)
    }

    private func records(_ trio: Trio, at place: Int, token: UInt64) throws -> [PageRecord] {
        trio.hosts[place].core.page(
            PageRequest(group: group, from: nil, bytesMax: 1 << 20), call: CallToken(rawValue: token))
        try trio.tick(4)
        let page = try #require(trio.hosts[place].coldPages.last)
        return try page.result(from: trio.hosts[place].store).records
    }

    /// Of each sweep one record at least would be read at once, and records may be large.
    @Test(arguments: [false, true]) func whatSweepsReadAtOnceHasABound(isOnDisk: Bool) throws {
        let trio = try Trio()
        let leader = try trio.leader()
        try trio.tick(3)
        let count: UInt64 = 8
        let value = Bytes([UInt8](repeating: 7, count: 700_000))
        for number in 0..<count {
            execute(MapPut(Bytes("{m}\(number)"), "k", value), trio, at: leader, token: number)
            try trio.tick(2)
            #expect(trio.hosts[leader].isDone(number))
        }
        if isOnDisk {
            for host in trio.hosts { host.core.checkpointAll() }
            try trio.tick(4)
        }
        for number in 0..<count { execute(MapClear(Bytes("{m}\(number)")), trio, at: leader, token: 100 + number) }
        try trio.tick(6 * Self.ticksPerSecond)
        let most = trio.hosts[leader].sweptBytesMax
        #expect(most.all > value.count && most.all < (1 << 20) + value.count + 1_000, "\(most)")
        #expect(most.live <= most.all, "\(most)")
        #expect(try records(trio, at: leader, token: 200).isEmpty)
        expectEqualStates(trio)
    }

    /// Whether all members can do them was asked when they were found; it may be otherwise when the disk has answered.
    @Test func whatIsDueWithASweepDoesNotWaitForWhatItReads() throws {
        let trio = try banks()
        let leader = try open(trio)
        execute(MapPut("{m}", "k", "v"), trio, at: leader, token: 1)
        // By odd numbers: others come back some times.
        for number in 50..<70 as Range<UInt64> {
            submit(
                PostDate(bank: 1, number: 2 * number + 1, from: number % 6, to: 0, amount: 1, milliseconds: 700), trio,
                at: leader, token: 100 + number)
        }
        try trio.tick(12)
        // All are found together, by the look that comes once per second.
        execute(MapClear("{m}"), trio, at: leader, token: 3)
        try trio.tick(1)
        trio.hosts[leader].put("{bank 1}l", "v", timeToLiveMillis: 1, group: group, token: 4)
        trio.hosts[leader].holdsSweeps = true
        try trio.tick(3 * Self.ticksPerSecond)
        #expect(trio.hosts[leader].isDone(4) && trio.hosts[leader].heldSweeps.count == 1)
        #expect(try value("{bank 1}l", trio, token: 6) == nil)
        let found = try book(trio, at: leader, token: 5)
        #expect(found.posts == 0 && found.settled == 20 && found.wrong == 0, "\(found)")
        trio.hosts[leader].holdsSweeps = false
        try trio.tick(3 * Self.ticksPerSecond)
        // The accounts and the book are left.
        #expect(try records(trio, at: leader, token: 7).allSatisfy { $0.position.machine == Bank.number })
        expectEqualStates(trio)
    }
}
