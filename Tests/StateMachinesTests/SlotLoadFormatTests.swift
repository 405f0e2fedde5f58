import Messages
import Primitives
import StateMachines
import TestSupport
import Testing

@Suite struct SlotLoadFormatTests {
    private let load = GroupLoad(
        stateBytes: 1, memtableBytes: 2, otherBytes: 3, seconds: 4,
        slots: [
            SlotLoad(slot: Slot(5), bytes: 6, operationsPer1000Seconds: 7),
            SlotLoad(slot: Slot(16_383), bytes: 8, operationsPer1000Seconds: 1_500),
        ])

    /// As they stand on the wire: hosts and clients of other versions read them.
    @Test func bytesAreFrozen() throws {
        func hex(_ bytes: Bytes) -> String {
            bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        #expect(hex(SlotLoadQuery().encoded()) == "01")
        #expect(
            hex(load.encoded())
                == "0100000000000000" + "0200000000000000" + "0300000000000000" + "04000000" + "02000000"
                + "0500" + "0600000000000000" + "07000000" + "ff3f" + "0800000000000000" + "dc050000")
        #expect(try GroupLoad(decoding: load.encoded()) == load)
        #expect(load.slots[1].operationsPerSecond == 1.5)
    }

    @Test func strangeOnesAreRefused() {
        var turned = load
        turned.slots.reverse()
        #expect(throws: DecodingFailure.self) { _ = try GroupLoad(decoding: turned.encoded()) }
        var beyond = load
        beyond.slots[1].slot = .group
        #expect(throws: DecodingFailure.self) { _ = try GroupLoad(decoding: beyond.encoded()) }
        mutate(load.encoded(), seed: 1) { bytes in
            guard let load = try? GroupLoad(decoding: bytes) else { return }
            #expect(load.slots.count * 14 + 32 == bytes.count)
        }
        mutate(SlotLoadQuery().encoded(), seed: 2) { _ = try? SlotLoadQuery(decoding: $0) }
    }
}
