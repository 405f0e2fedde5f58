import Primitives
import Ring
import Testing

/// The published vectors of CRC-16/XMODEM and of the Redis Cluster specification.
@Suite struct SlotFunctionTests {
    private func tag(_ key: String) -> String {
        let bytes = Bytes(key)
        return bytes[bytes.withUnsafeBytes { tagRange(of: $0) }].string
    }

    @Test func checksumHasThePublishedValues() {
        #expect(Bytes("123456789").withUnsafeBytes { crc16($0) } == 0x31C3)
        #expect(Bytes().withUnsafeBytes { crc16($0) } == 0)
        #expect(Bytes("A").withUnsafeBytes { crc16($0) } == 0x58E5)
    }

    @Test func checksumAgreesWithTheDefinitionBitByBit() {
        var random = SeededRandom(seed: 1)
        for count in 0..<200 {
            let bytes = Bytes((0..<count).map { _ in UInt8(random.below(256)) })
            var crc: UInt16 = 0
            for byte in bytes.array {
                crc ^= UInt16(byte) << 8
                for _ in 0..<8 { crc = crc & 0x8000 != 0 ? (crc << 1) ^ 0x1021 : crc << 1 }
            }
            #expect(bytes.withUnsafeBytes { crc16($0) } == crc)
        }
    }

    @Test(
        arguments: [
            ("somekey", 11_058), ("foo{hash_tag}", 2_515), ("bar{hash_tag}", 2_515), ("foo", 12_182), ("bar", 5_061),
            ("hello", 866),
            ("123456789", 12_739), ("", 0),
        ] as [(String, UInt16)])
    func slotsAreThoseOfRedisCluster(key: String, expected: UInt16) {
        #expect(slot(of: Bytes(key)) == Slot(expected))
    }

    @Test(arguments: [
        ("{user1000}.following", "user1000"), ("{user1000}.followers", "user1000"),
        // The first pair of braces is empty: the whole key counts, whatever follows.
        ("foo{}{bar}", "foo{}{bar}"), ("{}bar", "{}bar"), ("{}", "{}"),
        // From the first opening brace to the first closing one after it.
        ("foo{{bar}}zap", "{bar"), ("foo{bar}{zap}", "bar"), ("}{a}", "a"), ("a}b{c}d}", "c"),
        // No pair.
        ("foo{bar", "foo{bar"), ("foo}bar", "foo}bar"), ("}{", "}{"), ("{", "{"), ("", ""), ("{a", "{a"),
    ])
    func tagsFollowTheSpecification(key: String, expected: String) {
        #expect(tag(key) == expected)
        #expect(slot(of: Bytes(key)) == Slot(Bytes(expected).withUnsafeBytes { crc16($0) } & 0x3fff))
    }

    @Test func slotsOfManyKeysAreEven() {
        var counts = Array(repeating: 0, count: 16)
        for number in 0..<160_000 { counts[Int(slot(of: Bytes("key-\(number)")).rawValue) / 1_024] += 1 }
        for count in counts { #expect((9_000...11_000).contains(count)) }
    }
}
