package import Primitives

/// Calls `decode` with thousands of damaged copies of `original` and with random bytes. What is proved is that nothing
/// traps: every call returns or throws. `decode` itself checks that what it got is bounded by what it read.
package func mutate(_ original: Bytes, seed: UInt64, rounds: Int = 2_000, decode: (Bytes) -> Void) {
    var random = SeededRandom(seed: seed)
    for length in 0..<min(original.count, 300) { decode(original[0..<length]) }
    for round in 0..<rounds {
        var bytes = original.array
        switch round % 4 {
        case 0:
            let place = Int(random.below(UInt64(bytes.count)))
            bytes[place] ^= 1 << UInt8(random.below(8))
        case 1:
            for _ in 0..<4 { bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(random.below(256)) }
        case 2:
            // A length or a count near the beginning becomes huge.
            let place = Int(random.below(UInt64(min(bytes.count, 128))))
            for offset in place..<min(place + 4, bytes.count) { bytes[offset] = 0xff }
        default:
            bytes = (0..<Int(random.below(200))).map { _ in
                UInt8(random.below(4) == 0 ? random.below(256) : random.below(4))
            }
        }
        decode(Bytes(bytes))
    }
}
