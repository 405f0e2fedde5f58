import Primitives
import Ring
import Testing

/// Properties of the first table, over many sizes and weights.
@Suite struct PlannerRingTests {
    private func table(_ weights: [UInt32]) throws -> SlotTable {
        try Planner.initialTable(
            groups: weights.enumerated().map { .init(group: GroupID(UInt32($0.offset + 1)), weight: $0.element) })
    }

    private func share(_ weight: UInt32, of weights: [UInt32]) -> Double {
        Double(Slot.count) * Double(weight) / Double(weights.reduce(0) { $0 + UInt64($1) })
    }

    private func counts(_ table: SlotTable, groups: Int) -> [Int] {
        var counts = Array(repeating: 0, count: groups)
        for entry in table.counts() { counts[Int(entry.group.rawValue) - 1] = entry.slots }
        return counts
    }

    @Test func everySlotHasAnOwnerAndEqualGroupsAreEven() throws {
        for groups in Array(1...40) + [64, 100, 1_000] {
            let table = try table(Array(repeating: 100, count: groups))
            #expect(table.isComplete && table.epoch == Epoch(1))
            let counts = counts(table, groups: groups)
            #expect(counts.max()! - counts.min()! <= 1, "\(groups) groups: \(counts.min()!) to \(counts.max()!)")
        }
    }

    @Test func oneMoreGroupMovesItsShareAndNothingElse() throws {
        for groups in 1...33 {
            let before = try table(Array(repeating: 100, count: groups))
            let after = try table(Array(repeating: 100, count: groups + 1))
            let newcomer = GroupID(UInt32(groups + 1))
            var moved = 0
            for number in 0..<Slot.count {
                let slot = Slot(UInt16(number))
                guard before.owner(of: slot) != after.owner(of: slot) else { continue }
                moved += 1
                #expect(after.owner(of: slot) == newcomer, "slot \(slot) moved between old groups")
            }
            #expect(abs(Double(moved) - Double(Slot.count) / Double(groups + 1)) <= 0.5)
            // The same by planning the step on the table that is there.
            let old = (1...groups).map { Planner.GroupWeight(group: GroupID(UInt32($0))) }
            #expect(
                Planner.slots(for: .init(group: newcomer), joining: before, among: old) == after.slots(of: newcomer))
        }
    }

    @Test func noGroupIsAboveItsWeightsShareByMoreThanOneSlotInAHundred() throws {
        var random = SeededRandom(seed: 11)
        for round in 0..<120 {
            let groups = Int(random.below(60)) + 1
            let widest = [2, 10, 100, 1_000][round % 4] as UInt64
            let weights = (0..<groups).map { _ in UInt32(random.below(widest) + (round % 3 == 0 ? 0 : 1)) }
            guard weights.contains(where: { $0 > 0 }) else { continue }
            let table = try table(weights)
            #expect(table.isComplete)
            for (count, weight) in zip(counts(table, groups: groups), weights) {
                let share = share(weight, of: weights)
                #expect(
                    Double(count) <= share * 1.01 + 1,
                    "round \(round): \(count) slots, share \(share), weights \(weights)")
                if weight == 0 { #expect(count == 0) }
            }
        }
    }

    @Test func weightedNewcomerMovesItsShareAndNothingElse() throws {
        var random = SeededRandom(seed: 12)
        for _ in 0..<40 {
            let weights = (0..<Int(random.below(30)) + 2).map { _ in UInt32(random.below(300) + 1) }
            let before = try table(Array(weights.dropLast()))
            let after = try table(weights)
            let newcomer = GroupID(UInt32(weights.count))
            let moved = (0..<Slot.count).map { Slot(UInt16($0)) }.filter { before.owner(of: $0) != after.owner(of: $0) }
            #expect(moved == after.slots(of: newcomer))
            #expect(abs(Double(moved.count) - share(weights.last!, of: weights)) <= 0.5)
        }
    }

    @Test func orderOfTheInputDoesNotMatterAndThePlanIsForEver() throws {
        let groups = (1...20).map { Planner.GroupWeight(group: GroupID(UInt32($0)), weight: UInt32($0 * 10)) }
        let table = try Planner.initialTable(groups: groups)
        #expect(try Planner.initialTable(groups: groups.reversed()) == table)
        var writer = ByteWriter()
        try self.table(Array(repeating: 100, count: 16)).encode(into: &writer)
        // A change of this number means that new clusters get another table; existing ones keep theirs.
        #expect(writer.checksum() == 2_005_618_509)
    }

    @Test func impossibleInputIsAnError() {
        #expect(throws: PlannerError.self) { try Planner.initialTable(groups: []) }
        #expect(throws: PlannerError.self) { try Planner.initialTable(groups: [.init(group: GroupID(1), weight: 0)]) }
        #expect(throws: PlannerError.self) { try Planner.initialTable(groups: [.init(group: .meta)]) }
        #expect(throws: PlannerError.self) {
            try Planner.initialTable(groups: [.init(group: GroupID(1)), .init(group: GroupID(1))])
        }
    }
}
