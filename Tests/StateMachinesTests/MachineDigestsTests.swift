// In what replicas say that they differ.

import Messages
import Primitives
import StateMachines
import Testing

@Suite struct MachineDigestsTests {
    private enum Step {
        case put(String, String)
        case add(UInt64)
        case open(UInt64)
    }

    /// What one replica makes of it, from an interval of its own on.
    private func interval(_ steps: [Step], digest: UInt64 = 0, entries: UInt64? = nil) throws -> IntervalDigests? {
        var machine = try MasterStateMachine(group: GroupID(1), digest: digest)
        machine.machines = try StateMachineRegistry([Shelf.self])
        var store = ModelStore()
        for (place, step) in steps.enumerated() {
            let payload =
                switch step {
                case .put(let key, let value): KeyValueCommand.put(key: Bytes(key), value: Bytes(value)).payload()
                case .add(let amount): MachineRequest(Add("{m}a", amount)).payload(machine: Shelf.number)
                case .open(let nonce): SessionCommand.open(timeToLive: 60_000, nonce: nonce).payload()
                }
            _ = machine.apply(.command(UInt64(place + 1), payload), into: &store)
        }
        return machine.endInterval(entries: entries ?? UInt64(steps.count))
    }

    private func difference(_ steps: [Step], _ others: [Step]) throws -> IntervalDigests.Difference {
        try #require(try interval(steps)).difference(from: try #require(try interval(others)))
    }

    @Test func theMachineThatDidAnotherThingIsNamedAndNoOther() throws {
        let steps: [Step] = [.put("a", "1"), .add(1), .open(7), .put("b", "2"), .add(2), .put("c", "3")]
        func with(_ place: Int, _ step: Step) throws -> IntervalDigests.Difference {
            var others = steps
            others[place] = step
            return try difference(steps, others)
        }
        #expect(try difference(steps, steps) == .within([]))
        #expect(try with(0, .put("a", "9")) == .within([.keyValue]))
        #expect(try with(1, .add(3)) == .within([Shelf.number]))
        #expect(try with(2, .open(8)) == .within([.sessions]))
        // It fails, and leaves all later revisions as they would not be.
        #expect(try with(1, .add(11)) == .within([Shelf.number]))
        #expect(try with(1, .put("x", "")) == .within([.keyValue, Shelf.number]))
        // What comes first is no other's.
        #expect(try #require(try interval(steps)).machines.map(\.machine) == [.keyValue, .sessions, Shelf.number])
    }

    @Test func whatWasThereBeforeIsTheIntervalBefores() throws {
        let here = try #require(try interval([.put("a", "1")]))
        let there = try #require(try interval([.put("a", "1")], digest: 5))
        #expect(here.difference(from: there) == .before)
    }

    @Test func whoDidNotApplyAllOfAnIntervalSaysNothing() throws {
        #expect(try interval([.put("a", "1"), .put("b", "2")], entries: 4) == nil)
        var machine = try MasterStateMachine(group: GroupID(1), applied: LogIndex(10), digest: 9)
        var store = ModelStore()
        for index in 11...16 as ClosedRange<UInt64> {
            _ = machine.apply(
                .command(index, KeyValueCommand.put(key: "a", value: "1").payload()), into: &store)
        }
        #expect(machine.endInterval(entries: 16) == nil)
        let digest = machine.digest
        for index in 17...32 as ClosedRange<UInt64> {
            _ = machine.apply(
                .command(index, KeyValueCommand.put(key: "a", value: "1").payload()), into: &store)
        }
        let ended = machine.endInterval(entries: 16)
        let interval = try #require(ended)
        #expect(interval.before == digest && interval.machines.map(\.changes) == [16])
    }
}
