// What a measurement makes of many times, and what it sees of a process.

import BifrostTool
import Foundation
import Primitives
import Testing

@Suite struct MeasureTests {
    @Test func aSpreadNamesMiddleAndEnds() throws {
        let spread = try #require(MeasureSpread([5_000_000, 1_000_000, 9_000_000, 2_500_000, 100_000_000]))
        #expect(spread.count == 5)
        #expect(spread.leastMillis == 1 && spread.medianMillis == 5 && spread.worstMillis == 100)
        #expect(spread.p90Millis == 100)
        #expect(MeasureSpread([]) == nil)
        let one = try #require(MeasureSpread([1_234_567]))
        #expect(one.leastMillis == 1.235 && one.worstMillis == 1.235 && one.p90Millis == 1.235)
        #expect(one.text == "median 1.2 ms, 90 % 1.2 ms, worst 1.2 ms of 1")
    }

    @Test func aPercentileIsOneOfTheTimes() {
        let times = (1...200).map { UInt64($0) * 1_000_000 }.shuffled()
        #expect(MeasureSpread.percentile(times, 99) == 198)
        #expect(MeasureSpread.percentile(times, 100) == 200)
        #expect(MeasureSpread.percentile([7_000_000], 99) == 7)
        #expect(MeasureSpread.percentile([], 99) == nil)
    }

    @Test func soManySlotsMoveAsInAPlanForOneMoreGroup() {
        #expect([1, 4, 16, 64, 1_000, 16_384].map { SlotMover.slotsOfPlan(groups: $0) } == [512, 512, 60, 3, 1, 1])
    }

    @Test func someSlotsAreSpreadOverAll() {
        let slots = (0..<9).map { Slot(UInt16($0)) }
        #expect(SlotMover.some(3, of: slots).map(\.rawValue) == [0, 3, 6])
        #expect(SlotMover.some(2, of: slots).map(\.rawValue) == [0, 4])
        #expect(SlotMover.some(9, of: slots) == slots && SlotMover.some(100, of: slots) == slots)
        #expect(SlotMover.some(1, of: []).isEmpty)
    }

    @Test func anOrderOfElementsIsTheOneInWhichTheyCame() {
        var order = ElementOrder()
        var plain: [Int] = []
        var random = SystemRandomNumberGenerator()
        var next = 0
        for _ in 0..<300 {
            if Bool.random(using: &random) {
                // Now and then those before it come later.
                let gap = Int.random(in: 0..<3, using: &random)
                let numbers = next + gap..<next + gap + Int.random(in: 0..<9, using: &random)
                next = numbers.upperBound
                order.append(numbers)
                plain += numbers
            } else if !plain.isEmpty {
                order.removeFirst()
                plain.removeFirst()
            }
            #expect(order.count == plain.count)
            #expect(plain.indices.map { order.number(at: $0) } == plain)
        }
    }

    @Test func whatTheSystemSaysOfAProcessIsItsOwn() throws {
        let before = try #require(ProcessFigures(of: getpid()))
        #expect(before.residentBytes > 1 << 20 && before.threads >= 1 && before.mappings > 10)
        let files = (0..<5).map { _ in open("/dev/null", O_RDONLY) }
        defer { for file in files { close(file) } }
        var sum: UInt64 = 0
        for number in 0..<20_000_000 as Range<UInt64> { sum = sum &* 31 &+ number }
        let after = try #require(ProcessFigures(of: getpid()))
        #expect(sum != 1 && after.cpuNanoseconds > before.cpuNanoseconds)
        #expect(after.descriptors > 0)
        #expect(ProcessFigures(of: 0) == nil)
    }
}
