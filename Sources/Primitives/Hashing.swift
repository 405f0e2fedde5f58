// Checksums, hashes and seeded randomness: all the arithmetic that must come out the same on every host.

private import CChecksum

/// CRC-32C, continuing from `seed`.
public func crc32c(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
    bifrost_crc32c(seed, bytes.baseAddress, bytes.count)
}

extension Bytes {
    public var checksum: UInt32 { withUnsafeBytes { crc32c($0) } }
}

/// Spreads every bit of `value` over the result (the finalizer of SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
@inlinable public func mix(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9e37_79b9_7f4a_7c15
    z = (z ^ (z &>> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z &>> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z &>> 31)
}

@inlinable func fold(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let product = a.multipliedFullWidth(by: b)
    return product.high ^ product.low
}

/// A 64-bit hash of bytes, the same on every host and version: digests of state stand on it.
/// Not against an adversary who chooses the bytes.
@inlinable public func hash64(_ bytes: UnsafeRawBufferPointer, seed: UInt64 = 0) -> UInt64 {
    var state = seed ^ 0x2d35_8dcc_aa6c_78a5
    var offset = 0
    let count = bytes.count
    while offset &+ 16 <= count {
        let a = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        let b = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self))
        state = fold(a ^ 0x8bb8_4b93_962e_acc9, b ^ state)
        offset &+= 16
    }
    var a: UInt64 = 0
    var b: UInt64 = 0
    var shift: UInt64 = 0
    if offset &+ 8 <= count {
        a = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        offset &+= 8
    }
    while offset < count {
        b |= UInt64(bytes[offset]) &<< shift
        shift &+= 8
        offset &+= 1
    }
    state = fold(a ^ 0x4b33_a62e_d433_d4a3, b ^ state)
    return fold(state ^ UInt64(truncatingIfNeeded: count), 0x9e37_79b9_7f4a_7c15)
}

/// Random numbers from a seed (SplitMix64): the same seed gives the same numbers, everywhere.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64
    public init(seed: UInt64) { state = seed }
    public mutating func next() -> UInt64 {
        let value = mix(state)
        state &+= 0x9e37_79b9_7f4a_7c15
        return value
    }
    /// Uniform in 0..<bound, up to a bias below bound / 2^64.
    public mutating func below(_ bound: UInt64) -> UInt64 { next().multipliedFullWidth(by: bound).high }
}
