// Watches on three hosts: what changed behind a revision is told, all of it and once, whoever leads; what is not kept any
// more is said to be gone.

import BifrostSimulator
import DataTypes
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct WatchTests {
    private let group = GroupID(1)

    private func watch(
        _ host: TestHost, _ range: WatchRange, of key: Bytes? = nil, machine: SubMachineNumber = .keyValue,
        token: UInt64
    ) {
        host.core(of: group).watch(
            WatchRequest(
                group: group, epoch: Epoch(1), slot: slot(of: key ?? range.from), machine: machine, range: range),
            call: CallToken(rawValue: token))
    }

    private func told(_ host: TestHost, _ token: UInt64) throws -> (changes: [Change], through: Revision) {
        let result = try #require(host.result(token), "\(String(describing: host.answer(token)))")
        return (try WatchAnswer(decoding: result.body).changes, result.revision)
    }

    @Test func aWatchIsToldWhatChangesAndGoesOnWhereItWas() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        watch(host, WatchRange(after: .zero, waitMillis: 10_000, key: "k"), token: 1)
        host.put("other", "x", group: group, token: 2)
        try trio.tick(4)
        #expect(host.answer(1) == nil)
        host.put("k", "v", group: group, token: 3)
        try trio.tick(2)
        let first = try told(host, 1)
        #expect(first.changes == [Change(.put, revision: Revision(2), key: "k", value: "v")])
        host.delete("k", group: group, token: 4)
        host.put("k", "w", timeToLiveMillis: 500, group: group, token: 5)
        try trio.tick(40)
        watch(host, WatchRange(after: first.through, waitMillis: 10_000, key: "k"), token: 6)
        try trio.tick(1)
        let second = try told(host, 6)
        #expect(second.changes.map(\.kind) == [.deleted, .put, .expired])
        #expect(second.changes.map { $0.expiry > .zero } == [false, true, false])
        #expect(second.changes.map(\.revision) == [Revision(3), Revision(4), Revision(5)])
        #expect(second.through == Revision(5))
    }

    /// A watch that stayed where it was would be behind what a host keeps that begins with a later state.
    @Test func aWatchMovesPastCommandsThatTellNothing() throws {
        let trio = try Trio(machines: try StateMachineRegistry([Bank.self]))
        let host = trio.hosts[try trio.leader()]
        try trio.tick(3)
        watch(host, WatchRange(after: .zero, waitMillis: 1_000, key: "k"), token: 1)
        for bank in 1...3 as ClosedRange<UInt64> {
            let request = MachineRequest(OpenBank(bank: bank))
            host.execute(request.payload(machine: Bank.number), slot(of: request.key), group, token: 10 + bank)
        }
        try trio.tick(60)
        let found = try told(host, 1)
        #expect(found.changes == [] && found.through == Revision(3))
        // One of a machine that the host does not have would wait for ever.
        watch(host, WatchRange(after: .zero, waitMillis: 1_000, key: "k"), machine: SubMachineNumber(4_711), token: 40)
        try trio.tick(1)
        guard case .invalid(let why)? = host.refusal(40) else { throw Refusal.invalid("it waits") }
        #expect(why.contains("no state machine 4711"))
        // The next one begins there, and misses nothing.
        watch(host, WatchRange(after: found.through, waitMillis: 10_000, key: "k"), token: 2)
        host.put("k", "v", group: group, token: 3)
        try trio.tick(2)
        #expect(try told(host, 2).changes == [Change(.put, revision: Revision(4), key: "k", value: "v")])
        // One answer for many, and what came behind it.
        for token in 20...21 as ClosedRange<UInt64> {
            watch(host, WatchRange(after: .zero, waitMillis: 0, key: "k"), token: token)
        }
        let request = MachineRequest(OpenBank(bank: 4))
        host.execute(request.payload(machine: Bank.number), slot(of: request.key), group, token: 30)
        try trio.tick(2)
        watch(host, WatchRange(after: .zero, waitMillis: 0, key: "k"), token: 22)
        try trio.tick(1)
        #expect(try told(host, 22).through == Revision(5) && told(host, 22).changes == told(host, 20).changes)
    }

    @Test func theChangesOfOneTransactionComeTogether() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        for (number, value) in ["1", "2"].enumerated() {
            let operations = ["{t}a", "{t}b", "{t}c"].map {
                KeyValueTransaction.Operation.put(key: Bytes($0), value: Bytes(value))
            }
            host.execute(
                KeyValueTransaction(then: operations).payload(), slot(of: "{t}a" as Bytes), group,
                token: UInt64(10 + number))
        }
        try trio.tick(2)
        var after = Revision.zero
        for value in ["1", "2"] as [Bytes] {
            watch(host, WatchRange(after: after, waitMillis: 0, bytesMax: 1, from: "{t}", end: "{t}c"), token: 1)
            try trio.tick(1)
            let answer = try told(host, 1)
            #expect(answer.changes.map(\.key) == ["{t}a", "{t}b"])
            #expect(answer.changes.allSatisfy { $0.value == value && $0.revision == answer.through })
            after = answer.through
        }
    }

    @Test func anotherLeaderGoesOnWithNothingLeftOutAndNothingTwice() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        for number in 1...5 as ClosedRange<UInt64> {
            trio.hosts[leader].put("k", "\(number)", group: group, token: number)
        }
        try trio.tick(2)
        watch(trio.hosts[leader], WatchRange(after: .zero, waitMillis: 60_000, key: "k"), token: 20)
        try trio.tick(1)
        let first = try told(trio.hosts[leader], 20)
        #expect(first.changes.map(\.value) == ["1", "2", "3", "4", "5"])
        watch(trio.hosts[leader], WatchRange(after: first.through, waitMillis: 60_000, key: "k"), token: 21)
        trio.cut(leader)
        try trio.tick(200)
        // Who leads no more says so, and keeps nobody waiting.
        guard case .notLeader? = trio.hosts[leader].refusal(21) else {
            Issue.record("\(String(describing: trio.hosts[leader].answer(21)))")
            return
        }
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        trio.hosts[next].put("k", "6", group: group, token: 6)
        try trio.tick(2)
        watch(trio.hosts[next], WatchRange(after: Revision(3), waitMillis: 60_000, key: "k"), token: 22)
        try trio.tick(1)
        #expect(try told(trio.hosts[next], 22).changes.map(\.value) == ["4", "5", "6"])
    }

    @Test func aWatchWithNothingToTellMovesOnAllTheSame() throws {
        let trio = try Trio(adjust: {
            $0.historyBytesMax = 40_000
            $0.historyBytesOfGroupMax = 6_000
        })
        let host = trio.hosts[try trio.leader()]
        watch(host, WatchRange(after: .zero, waitMillis: 3_000, key: "quiet"), token: 1)
        // Much more than is kept.
        for number in 0..<200 as Range<UInt64> {
            host.put("busy", String(repeating: "x", count: 100), group: group, token: 100 + number)
            try trio.tick(number % 5 == 0 ? 1 : 0)
        }
        try trio.tick(80)
        let answer = try told(host, 1)
        #expect(answer.changes.isEmpty && answer.through == Revision(200))
        watch(host, WatchRange(after: answer.through, waitMillis: 0, key: "quiet"), token: 2)
        watch(host, WatchRange(after: Revision(3), waitMillis: 0, key: "quiet"), token: 3)
        // Nobody can have seen that.
        watch(host, WatchRange(after: Revision(9_999), waitMillis: 3_000, key: "quiet"), token: 4)
        try trio.tick(100)
        #expect(try told(host, 2).changes.isEmpty)
        guard case .compacted(let oldest)? = host.refusal(3), case .compacted? = host.refusal(4) else {
            Issue.record("\(String(describing: host.answer(3))), \(String(describing: host.answer(4)))")
            return
        }
        #expect(oldest > Revision(100) && oldest < Revision(200))
        watch(host, WatchRange(after: oldest, waitMillis: 0, from: "a", end: nil), of: "busy", token: 5)
        try trio.tick(1)
        #expect(try told(host, 5).changes.count == 200 - Int(oldest.rawValue))
    }

    /// A leader that is new may not have applied what they know of; one answer does for both, and sends neither back.
    @Test func twoThatAskTheSameBehindWhatTheLeaderHasStayWhereTheyAre() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        host.put("k", "v", group: group, token: 1)
        try trio.tick(2)
        for token in 2...3 as ClosedRange<UInt64> {
            watch(host, WatchRange(after: Revision(9), waitMillis: 0, key: "k"), token: token)
        }
        try trio.tick(1)
        for token in 2...3 as ClosedRange<UInt64> {
            let answer = try told(host, token)
            #expect(answer.changes.isEmpty && answer.through == Revision(9))
        }
        #expect(host.core.watchCount == 0)
    }

    @Test func aNumberThatStaysWhatItIsTellsNothing() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        try trio.tick(3)
        let commands: [any MachineCommand<NumberMachine>] = [
            NumberChange("n", .add, .double(0)), NumberChange("n", .add, .double(0)),
            NumberBound("n", lower: .double(0), upper: nil), NumberBound("n", lower: .double(0), upper: nil),
            NumberChange("n", .multiply, .double(1)), NumberChange("n", .set, .double(2)),
            NumberChange("n", .set, .double(2)), NumberDelete("n"), NumberDelete("n"),
            NumberChange("n", .set, .double(0)), NumberChange("n", .set, .double(-0.0)),
        ]
        for (number, command) in commands.enumerated() {
            host.execute(
                MachineRequest(command).payload(machine: NumberMachine.number), slot(of: "n" as Bytes), group,
                token: UInt64(number))
            try trio.tick(2)
            #expect(host.isDone(UInt64(number)))
        }
        watch(
            host, WatchRange(after: .zero, waitMillis: 0, key: NumberMachine.watchKey("n")), of: "n",
            machine: NumberMachine.number, token: 100)
        try trio.tick(1)
        let changes = try told(host, 100).changes
        #expect(changes.map(\.revision.rawValue) == [1, 2, 3, 4, 5, 6])
        #expect(changes.map(\.kind) == [.put, .put, .put, .deleted, .put, .put])
    }

    @Test func watchesHaveABoundAndThousandsAreTold() throws {
        let trio = try Trio(adjust: { $0.watchesMax = 3_000 })
        let host = trio.hosts[try trio.leader()]
        for token in 1...3_001 as ClosedRange<UInt64> {
            watch(host, WatchRange(after: .zero, waitMillis: 60_000, key: "k"), token: 10_000 + token)
        }
        try trio.tick(1)
        guard case .overloaded? = host.refusal(13_001) else {
            Issue.record("\(String(describing: host.answer(13_001)))")
            return
        }
        host.put("k", "v", group: group, token: 1)
        try trio.tick(4)
        for token in 1...3_000 as ClosedRange<UInt64> { #expect(try told(host, 10_000 + token).changes.count == 1) }
        #expect(host.core.watchCount == 0)
    }

    @Test func manyWithNothingToTellAreAnsweredOverASecondAndNotAtOnce() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        let count: UInt64 = 2_000
        for token in 1...count {
            let key = Bytes("{\(token % 500)}")
            let range =
                token % 2 == 0
                ? WatchRange(after: .zero, waitMillis: 2_000, key: key)
                : WatchRange(after: .zero, waitMillis: 2_000, from: key, end: nil)
            watch(host, range, of: key, token: token)
        }
        var answered = 0
        var most = 0
        for _ in 0..<80 {
            try trio.tick(1)
            let now = (1...count).count { host.answer($0) != nil }
            most = max(most, now - answered)
            answered = now
        }
        #expect(answered == Int(count) && host.core.watchCount == 0)
        #expect(most <= Int(count) / 10, "\(most) in one tick")
    }

    @Test func aChangeWakesThoseOfItsSlotWhoseRangeHasItAndNobodyElse() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        // Three tags, of each a prefix and a longer one, and what has no end.
        for (place, tag) in ["{a}", "{b}", "{c}"].enumerated() {
            for (number, range) in [(from: "", end: "~"), (from: "x", end: "y"), (from: "", end: nil)].enumerated() {
                let from = Bytes(tag + range.from)
                watch(
                    host,
                    WatchRange(after: .zero, waitMillis: 60_000, from: from, end: range.end.map { Bytes(tag + $0) }),
                    of: Bytes(tag), token: UInt64(10 * place + number + 1))
            }
        }
        try trio.tick(1)
        func told() -> [UInt64] {
            [1, 2, 3, 11, 12, 13, 21, 22, 23].filter { host.answer($0) != nil }
        }
        host.put("{b}k", "1", group: group, token: 100)
        try trio.tick(2)
        #expect(told() == [11, 13])
        host.put("{b}xk", "2", group: group, token: 101)
        host.put("{a}xk", "3", group: group, token: 102)
        try trio.tick(2)
        #expect(told() == [1, 2, 3, 11, 12, 13] && host.core.watchCount == 3)
        try #expect(self.told(host, 12).changes.map(\.value) == ["2"])
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func aHistoryHasWhatChangedLast(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let floor = Revision(random.below(100))
        let history = ChangeHistory(floor: floor)
        var all: [Change] = []
        var revision = floor
        let bytesMax = 1_000 + Int(random.below(20_000))
        for _ in 0..<2_000 {
            revision = revision.next
            for _ in 0..<(random.below(20) == 0 ? 1 + random.below(40) : 1) {
                let key = Bytes("k\(random.below(20))")
                let value = Bytes(String(repeating: "v", count: Int(random.below(random.below(30) == 0 ? 3_000 : 40))))
                all.append(Change(.put, revision: revision, key: key, value: value))
                key.withUnsafeBytes {
                    history.append(
                        .put, slot: Slot(1), machine: .keyValue, revision: revision, key: $0, value: value,
                        bytesMax: bytesMax)
                }
            }
            #expect(history.last == revision && history.floor >= floor && history.bytes < 2 * bytesMax + 300_000)
            guard random.below(10) == 0 else { continue }
            let after = Revision(floor.rawValue + random.below(revision.rawValue - floor.rawValue + 3))
            let isOneKey = random.below(2) == 0
            let range =
                isOneKey
                ? WatchRange(after: after, waitMillis: 0, key: "k7")
                : WatchRange(after: after, waitMillis: 0, from: "k1", end: "k3")
            let limit = random.below(2) == 0 ? Int.max : Int(random.below(500))
            let found = history.changes(
                after: after, slot: Slot(1), machine: .keyValue, in: range, bytesMax: limit)
            #expect((found == nil) == (after < history.floor))
            guard let found else { continue }
            #expect(found.through >= after || after > history.last)
            #expect(
                found.changes
                    == all.filter {
                        $0.revision > after && $0.revision <= found.through && range.contains($0.key)
                    })
            if limit == .max { #expect(found.through == history.last) }
        }
        #expect(history.floor > floor)
    }
}
