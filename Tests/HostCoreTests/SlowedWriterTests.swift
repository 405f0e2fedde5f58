// Migrations whose slots are written as fast as they are copied.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage
import Testing

@Suite struct SlowedWriterTests {
    private static let source = GroupID(1)
    private static let target = GroupID(2)
    private static let writers = 8

    /// A cluster in which all that is said takes its time, and writers of slots who go on at once when they are answered.
    private final class Bench {
        let trio: Trio
        let leader: TestHost
        /// Two tags of the source: of one slot that moves, and of one that stays.
        let moving: String
        let staying: String
        var token: UInt64 = 1_000
        /// By writer: its last put, and the tick in which it began.
        var puts: [(token: UInt64, tick: Int)?] = Array(repeating: nil, count: writers)
        var ticks = 0
        var longest = 0
        /// Of the slot that stays: the put of the tick before.
        var lastOther: UInt64?
        var othersThatWaited = 0
        var hasWords = false

        /// Turns of each host in a tick.
        private static let turnsPerTick = 8

        init() throws {
            let level = FeatureLevel.migrations
            trio = try Trio(groups: 2, featureLevels: [level, level, level], mapLevel: level) {
                $0.migrationPageBytes = 16 << 10
                $0.migrationLittleBytes = 8 << 10
            }
            try trio.tick(60)
            for group in [GroupID.meta, target] { _ = try trio.leader(of: group) }
            let map = trio.map
            let tags = (0..<1_000).map { "{\($0)}" }.filter { map.owner(of: slot(of: Bytes($0))) == source }
            (moving, staying) = (tags[0], try #require(tags.first { slot(of: Bytes($0)) != slot(of: Bytes(tags[0])) }))
            leader = trio.hosts[try trio.leader(of: source)]
        }

        var movingSlot: Slot { slot(of: Bytes(moving)) }
        var map: ClusterMap { leader.core.map ?? trio.map }
        var slowed: UInt64 { leader.core.figures(groupsMax: 0).counts.writesSlowed }

        func change(_ change: MapChange) throws {
            token += 1
            for _ in 0..<100 {
                for host in trio.hosts {
                    host.core.administer(MetaCommand.change(change).payload(), call: CallToken(rawValue: token))
                }
                _ = try trio.deliver()
                for _ in 0..<20 where try trio.deliver() {}
                if trio.hosts.contains(where: { $0.isDone(token) }) { return }
                for host in trio.hosts { host.tick() }
            }
            throw DiskError(.misuse, "nobody took the change")
        }

        /// All writers together write twice as much as is little, at least.
        private func put(_ writer: Int, bytes: Int) {
            token += 1
            leader.put(
                "\(moving)\(writer)", String(repeating: "\(writer)", count: bytes), group: source, token: token)
            puts[writer] = (token, ticks)
        }

        /// - Parameter isPatient: writers wait for their answers.
        func tick(isPatient: Bool) throws {
            for host in trio.hosts { host.tick() }
            if let lastOther, leader.answer(lastOther) == nil { othersThatWaited += 1 }
            token += 1
            lastOther = token
            leader.put("\(staying)k", "v", group: source, token: token)
            for turn in 0..<Self.turnsPerTick {
                for writer in 0..<writers {
                    if isPatient, let (token, tick) = puts[writer] {
                        guard leader.answer(token) != nil else { continue }
                        longest = max(longest, ticks - tick)
                        put(writer, bytes: 2 << 10)
                    } else if isPatient {
                        put(writer, bytes: 2 << 10)
                    } else if turn == 0 {
                        // So much that a round takes longer than a delay that gets longer lets nobody write.
                        put(writer, bytes: 64 << 10)
                    }
                }
                _ = try trio.deliver()
            }
            ticks += 1
            let problems = leader.core.replicaStatuses().filter { $0.group == source }.map(\.problem)
            if problems.contains(where: { $0.contains("delays writes to 1 slots") }) { hasWords = true }
        }
    }

    @Test func writersAreDelayedUntilTheRoundsGetSmallAndNoOthersAre() throws {
        let bench = try Bench()
        try bench.change(.migrate([bench.movingSlot], from: Self.source, to: Self.target))
        while !bench.map.migrations.isEmpty, bench.ticks < 1_000 { try bench.tick(isPatient: true) }
        #expect(bench.map.migrations.isEmpty && bench.map.owner(of: bench.movingSlot) == Self.target)
        #expect(bench.slowed > 0 && bench.hasWords)
        #expect(
            bench.leader.notices.contains { $0.contains("does not converge: writes to its 1 slots are delayed by") })
        #expect(bench.longest <= 10, "400 ms are eight ticks: \(bench.longest)")
        #expect(bench.othersThatWaited == 0, "\(bench.othersThatWaited) puts of another slot waited")
    }

    @Test func whatDoesNotGetSmallAllTheSameIsAborted() throws {
        let bench = try Bench()
        try bench.change(.migrate([bench.movingSlot], from: Self.source, to: Self.target))
        while !bench.map.migrations.isEmpty, bench.ticks < 1_000 { try bench.tick(isPatient: false) }
        #expect(bench.map.migrations.isEmpty && bench.map.owner(of: bench.movingSlot) == Self.source)
        #expect(bench.slowed > 0)
        #expect(bench.trio.hosts.contains { $0.notices.contains { $0.contains("bytes changed in its last round") } })
        // Nobody is slowed any more, and what was held back is done.
        try bench.trio.tick(10)
        let (slowed, token) = (bench.slowed, bench.token + 1)
        bench.leader.put("\(bench.moving)0", "v", group: Self.source, token: token)
        try bench.trio.tick()
        #expect(bench.leader.isDone(token) && bench.slowed == slowed)
        #expect(bench.puts.allSatisfy { $0.map { bench.leader.answer($0.token) != nil } ?? false })
    }

    @Test func aMigrationOfQuietSlotsDelaysNobody() throws {
        let bench = try Bench()
        for _ in 0..<3 { try bench.tick(isPatient: true) }
        try bench.change(.migrate([bench.movingSlot], from: Self.source, to: Self.target))
        for _ in 0..<400 where !bench.map.migrations.isEmpty { try bench.trio.tick() }
        #expect(bench.map.migrations.isEmpty && bench.map.owner(of: bench.movingSlot) == Self.target)
        #expect(bench.slowed == 0 && !bench.hasWords)
    }
}
