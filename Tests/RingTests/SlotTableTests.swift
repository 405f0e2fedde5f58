import Primitives
import Ring
import TestSupport
import Testing

@Suite struct SlotTableTests {
    private func encoded(_ table: SlotTable) -> Bytes {
        var writer = ByteWriter()
        table.encode(into: &writer)
        return writer.take()
    }

    private func decoded(_ bytes: Bytes) throws(DecodingFailure) -> SlotTable {
        var reader = ByteReader(bytes)
        let table = try SlotTable(from: &reader)
        try reader.expectEnd()
        return table
    }

    /// Groups in random order over the ring, then some changes.
    private func randomTable(seed: UInt64) -> SlotTable {
        var random = SeededRandom(seed: seed)
        var owners: [GroupID] = []
        while owners.count < Slot.count {
            let run = min(Int(random.below(400)) + 1, Slot.count - owners.count)
            owners += Array(repeating: GroupID(UInt32(random.below(6))), count: run)
        }
        var table = SlotTable(epoch: Epoch(3), owners: owners)
        for _ in 0..<4 {
            table.assign((0..<10).map { _ in Slot(UInt16(random.below(UInt64(Slot.count)))) }, to: GroupID(7))
        }
        return table
    }

    @Test func tableSurvivesEncoding() throws {
        for seed in 0..<20 as Range<UInt64> {
            let table = randomTable(seed: seed)
            #expect(try decoded(encoded(table)) == table)
        }
        #expect(try decoded(encoded(SlotTable())) == SlotTable())
        #expect(encoded(SlotTable()).count == 28, "an empty table is one run")
    }

    @Test func worstTableStaysBelowItsStatedSize() throws {
        let owners = (0..<Slot.count).map { GroupID(UInt32($0 % 2 + 1)) }
        let bytes = encoded(SlotTable(epoch: Epoch(1), owners: owners))
        #expect(bytes.count == 14 + 14 * Slot.count)
        #expect(try decoded(bytes).counts().map(\.slots) == [8_192, 8_192])
    }

    @Test func lookingUpWhatIsNoSlotFindsNobody() {
        let table = SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count))
        #expect(table.owner(of: Slot(16_383)) == GroupID(1))
        #expect(table.owner(of: .group) == nil)
        #expect(table.owner(of: Slot(65_535)) == nil)
        #expect(table.epoch(of: .group) == .zero)
        #expect(SlotTable().owner(of: Slot(0)) == nil)
        #expect(!SlotTable().isComplete && table.isComplete)
    }

    @Test func assigningRaisesTheEpochOnceAndOnlyForWhatChanged() {
        var table = SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count))
        table.assign([Slot(5), Slot(6)], to: GroupID(2))
        table.assign([Slot(6), Slot(7)], to: GroupID(2))
        #expect(table.epoch == Epoch(3))
        #expect([5, 6, 7, 8].map { table.epoch(of: Slot($0)).rawValue } == [2, 2, 3, 1])
        #expect(table.slots(of: GroupID(2)) == [Slot(5), Slot(6), Slot(7)])
        #expect(table.runs().count == 4)
    }

    @Test func deltaBringsAnOlderTableUpToDate() throws {
        var table = randomTable(seed: 9)
        let old = table
        table.assign([Slot(1), Slot(2), Slot(900)], to: GroupID(3))
        table.assign([Slot(2)], to: GroupID(4))
        var writer = ByteWriter()
        table.delta(since: old.epoch).encode(into: &writer)
        let bytes = writer.take()
        var reader = ByteReader(bytes)
        let delta = try SlotTableDelta(from: &reader)
        try reader.expectEnd()
        #expect(delta.runs.count == 3)
        var copy = old
        let isApplied = copy.apply(delta)
        #expect(isApplied && copy == table)
        // One that misses what lies between refuses.
        var behind = SlotTable()
        let isAppliedBehind = behind.apply(delta)
        #expect(!isAppliedBehind && behind == SlotTable())
        // An older delta changes nothing.
        let again = copy.apply(old.delta(since: .zero))
        #expect(again && copy == table)
    }

    @Test func slotEpochIsNeverLowered() {
        var table = SlotTable(epoch: Epoch(4), owners: Array(repeating: GroupID(1), count: Slot.count))
        let old = table
        let isNews = table.learn(Slot(3), owner: GroupID(2), epoch: Epoch(6))
        let isOld = table.learn(Slot(3), owner: GroupID(9), epoch: Epoch(5))
        let isOutside = table.learn(.group, owner: GroupID(9), epoch: Epoch(9))
        #expect(isNews && !isOld && !isOutside)
        table.merge(old)
        #expect(table.owner(of: Slot(3)) == GroupID(2))
        var newer = old
        newer.assign([Slot(4)], to: GroupID(5))
        table.merge(newer)
        #expect(
            table.owner(of: Slot(3)) == GroupID(2) && table.owner(of: Slot(4)) == GroupID(5) && table.epoch == Epoch(5))
    }

    @Test func damagedTablesAndDeltasThrowOrDecode() {
        let table = randomTable(seed: 4)
        mutate(encoded(table), seed: 1) { bytes in
            guard let table = try? decoded(bytes) else { return }
            #expect(table.runs().count <= Slot.count)
        }
        var writer = ByteWriter()
        table.delta(since: Epoch(3)).encode(into: &writer)
        mutate(writer.take(), seed: 2) { bytes in
            var reader = ByteReader(bytes)
            guard let delta = try? SlotTableDelta(from: &reader) else { return }
            #expect(delta.runs.count * 16 <= bytes.count)
            var copy = table
            _ = copy.apply(delta)
        }
    }
}
