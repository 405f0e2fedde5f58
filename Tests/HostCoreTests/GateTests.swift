// Commands on slots that change hands: they wait for the step that is on its way, and not for a pause of their own behind it.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage
import Testing

@Suite struct GateTests {
    private static let source = GroupID(1)
    private static let target = GroupID(2)

    /// A cluster whose source gets a put on the slot that moves in each turn.
    private final class Bench {
        let trio: Trio
        let leader: TestHost
        let targetLeader: TestHost
        let key: String
        private var token: UInt64 = 1_000
        private var turns = 0
        /// In the order in which they came, with the turn in which each was answered.
        private(set) var puts: [(token: UInt64, turn: Int, answered: Int?)] = []

        /// Of each host in a tick: a gate is waited for over two of these.
        private static let turnsPerTick = 20

        init() throws {
            let level = FeatureLevel.migrations
            trio = try Trio(groups: 2, featureLevels: [level, level, level], mapLevel: level)
            try trio.tick(60)
            let map = trio.map
            key = try #require((0..<1_000).map { "\($0)" }.first { map.owner(of: slot(of: Bytes($0))) == source })
            _ = try trio.leader(of: .meta)
            targetLeader = trio.hosts[try trio.leader(of: target)]
            leader = trio.hosts[try trio.leader(of: source)]
        }

        var place: Slot { slot(of: Bytes(key)) }
        var isOver: Bool { leader.core.map.map { $0.migrations.isEmpty && $0.owner(of: place) == target } ?? false }

        func begin() {
            let change = MetaCommand.change(.migrate([place], from: source, to: target)).payload()
            for host in trio.hosts { host.core.administer(change, call: CallToken(rawValue: 1)) }
        }

        func put() -> UInt64 {
            token += 1
            leader.put(key, "v", group: source, token: token)
            puts.append((token, turns, nil))
            return token
        }

        func turn() throws {
            if turns % Self.turnsPerTick == 0 { for host in trio.hosts { host.tick() } }
            _ = try trio.deliver()
            for place in puts.indices where puts[place].answered == nil {
                if leader.answer(puts[place].token) != nil { puts[place].answered = turns }
            }
            turns += 1
        }

        func isSentAway(_ token: UInt64) -> Bool {
            if case .unavailable = leader.refusal(token) { true } else { false }
        }
        func hasMoved(_ token: UInt64) -> Bool { if case .moved = leader.refusal(token) { true } else { false } }
    }

    @Test func commandsOnAFrozenSlotAreAnsweredWhenItIsReleased() throws {
        let bench = try Bench()
        bench.begin()
        for _ in 0..<4_000 where !bench.isOver {
            _ = bench.put()
            try bench.turn()
        }
        #expect(bench.isOver)
        for _ in 0..<60 { try bench.turn() }
        #expect(bench.puts.allSatisfy { $0.answered != nil })
        // What came between the freeze and the map's decision. Whoever came behind that is told at once.
        let waited = bench.puts.filter { bench.hasMoved($0.token) && ($0.answered ?? 0) >= $0.turn + 2 }
        #expect(waited.count >= 3)
        #expect(Set(waited.map(\.answered)).count == 1, "all of them by one step")
        // What stood in the log behind the freeze, and nothing else.
        let sentAway = bench.puts.filter { bench.isSentAway($0.token) }
        #expect(sentAway.count < waited.count, "\(sentAway.count) were sent away, \(waited.count) waited")
    }

    @Test func commandsOnASlotThatIsNotThereYetAreDoneWhenItIs() throws {
        let bench = try Bench()
        let leader = bench.targetLeader
        bench.begin()
        var tokens: [UInt64] = []
        for _ in 0..<4_000 where !bench.isOver {
            if let map = leader.core.map, map.owner(of: bench.place) == Self.target {
                tokens.append(100_000 + UInt64(tokens.count))
                leader.core.execute(
                    ExecuteRequest(
                        group: Self.target, epoch: map.ring.epoch(of: bench.place), slot: bench.place,
                        payload: KeyValueCommand.put(key: Bytes(bench.key), value: "v").payload()),
                    call: CallToken(rawValue: tokens[tokens.count - 1]))
            }
            try bench.turn()
        }
        #expect(bench.isOver)
        for _ in 0..<60 { try bench.turn() }
        #expect(tokens.count >= 3 && tokens.allSatisfy { leader.isDone($0) })
    }

    @Test func aCommandWaitsForAMomentOnly() throws {
        let bench = try Bench()
        bench.begin()
        // The first that is sent away stood in the log behind the freeze.
        for _ in 0..<4_000 where !bench.puts.contains(where: { bench.isSentAway($0.token) }) {
            _ = bench.put()
            try bench.turn()
        }
        // From here on nobody hears of anything.
        let token = bench.put()
        try bench.leader.turn()
        #expect(bench.leader.answer(token) == nil)
        for _ in 0..<3 {
            bench.leader.tick()
            try bench.leader.turn()
        }
        #expect(bench.isSentAway(token))
    }
}
