// SHA-256 (FIPS 180-4), so that what the demo prints can be checked with `sha256sum`. Not for passwords or signatures.

package enum SHA256 {
    /// 64 hexadecimal digits.
    package static func hexadecimalDigest(of bytes: UnsafeRawBufferPointer) -> String {
        var state = fractions(of: 8) { root(of: $0, power: 2) }
        var words = [UInt32](repeating: 0, count: 64)
        var offset = 0
        while offset + 64 <= bytes.count {
            compress(UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + 64)]), &state, &words)
            offset += 64
        }
        // §5.1.1: a one bit, zeros, the length in bits.
        var tail = [UInt8](bytes[offset...]) + [0x80]
        while tail.count % 64 != 56 { tail.append(0) }
        let bits = UInt64(bytes.count) * 8
        for shift in stride(from: 56, through: 0, by: -8) {
            tail.append(UInt8(truncatingIfNeeded: bits >> UInt64(shift)))
        }
        tail.withUnsafeBytes { tail in
            for start in stride(from: 0, to: tail.count, by: 64) {
                compress(UnsafeRawBufferPointer(rebasing: tail[start..<(start + 64)]), &state, &words)
            }
        }
        return state.map { word in
            let digits = String(word, radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }.joined()
    }

    package static func hexadecimalDigest(of bytes: [UInt8]) -> String {
        bytes.withUnsafeBytes { hexadecimalDigest(of: $0) }
    }

    /// §4.2.2
    private static let constants = fractions(of: 64) { root(of: $0, power: 3) }

    /// §6.2.2
    private static func compress(_ block: UnsafeRawBufferPointer, _ state: inout [UInt32], _ words: inout [UInt32]) {
        for place in 0..<16 {
            words[place] = UInt32(bigEndian: block.loadUnaligned(fromByteOffset: place * 4, as: UInt32.self))
        }
        for place in 16..<64 {
            let (x, y) = (words[place - 15], words[place - 2])
            let first = rotate(x, 7) ^ rotate(x, 18) ^ (x >> 3)
            let second = rotate(y, 17) ^ rotate(y, 19) ^ (y >> 10)
            words[place] = words[place - 16] &+ first &+ words[place - 7] &+ second
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for round in 0..<64 {
            let choice = (e & f) ^ (~e & g)
            let first =
                h &+ (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) &+ choice &+ constants[round] &+ words[round]
            let majority = (a & b) ^ (a & c) ^ (b & c)
            let second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) &+ majority
            (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
        }
        for (place, value) in [a, b, c, d, e, f, g, h].enumerated() { state[place] &+= value }
    }

    private static func rotate(_ word: UInt32, _ bits: UInt32) -> UInt32 { word >> bits | word << (32 - bits) }

    /// The standard's constants: of the first primes' roots, the first 32 bits behind the point.
    private static func fractions(of count: Int, _ root: (UInt128) -> UInt128) -> [UInt32] {
        var primes: [UInt128] = []
        var candidate: UInt128 = 2
        while primes.count < count {
            if !primes.contains(where: { candidate % $0 == 0 }) { primes.append(candidate) }
            candidate += 1
        }
        return primes.map { UInt32(truncatingIfNeeded: root($0)) }
    }

    /// The root times 2^32, rounded down, of a number below 512.
    private static func root(of number: UInt128, power: Int) -> UInt128 {
        let target = number << (32 * UInt128(power))
        var result: UInt128 = 0
        for bit in stride(from: 36, through: 0, by: -1) {
            let attempt = result | (1 << UInt128(bit))
            var product = attempt
            for _ in 1..<power { product *= attempt }
            if product <= target { result = attempt }
        }
        return result
    }
}
