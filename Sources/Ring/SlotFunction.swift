// Which slot a key lives in. The function is the one that the Redis Cluster specification publishes, so that client
// libraries in every language already compute it. It never changes: every record on disk stands where it put it.

public import Primitives

/// CRC-16/XMODEM: polynomial 0x1021, start 0, nothing reflected, nothing inverted. "123456789" gives 0x31C3.
/// Without a table: some four cycles per byte, and no cache lines.
public func crc16(_ bytes: UnsafeRawBufferPointer) -> UInt16 {
    var crc: UInt16 = 0
    var offset = 0
    while offset &+ 2 <= bytes.count {
        crc = step(crc ^ UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
        offset &+= 2
    }
    return offset < bytes.count ? step(crc, byte: bytes[offset]) : crc
}

/// Two bytes further. Multiplying by the inverse 0x11130 of the polynomial gives the quotient (Barrett's reduction,
/// here
/// as shifts because both have so few bits), and the quotient times the polynomial the remainder.
@inline(__always) private func step(_ crc: UInt16) -> UInt16 {
    let quotient = crc ^ (crc &>> 4) ^ (crc &>> 8) ^ (crc &>> 11) ^ (crc &>> 12)
    return quotient ^ (quotient &<< 5) ^ (quotient &<< 12)
}

/// One byte further, likewise.
@inline(__always) private func step(_ crc: UInt16, byte: UInt8) -> UInt16 {
    var quotient = (crc &>> 8) ^ UInt16(byte)
    quotient ^= quotient &>> 4
    return (crc &<< 8) ^ quotient ^ (quotient &<< 5) ^ (quotient &<< 12)
}

/// The slot of a key: CRC-16/XMODEM of its tag, modulo 16,384. The tag is what stands between the first `{` and the
/// first `}` after it, if that is not empty; otherwise it is the whole key. Keys with one tag stay together.
/// No allocation.
public func slot(of key: UnsafeRawBufferPointer) -> Slot {
    // One pass for keys without a brace, which most are.
    var crc: UInt16 = 0
    var offset = 0
    while offset &+ 2 <= key.count {
        let pair = UInt16(bigEndian: key.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        if pair &>> 8 == 0x7b || pair & 0xff == 0x7b { return slotOfTag(key) }
        crc = step(crc ^ pair)
        offset &+= 2
    }
    // A brace at the very end opens nothing.
    if offset < key.count { crc = step(crc, byte: key[offset]) }
    return Slot(crc & UInt16(Slot.count - 1))
}

private func slotOfTag(_ key: UnsafeRawBufferPointer) -> Slot {
    Slot(crc16(UnsafeRawBufferPointer(rebasing: key[tagRange(of: key)])) & UInt16(Slot.count - 1))
}

public func slot(of key: Bytes) -> Slot {
    key.withUnsafeBytes { slot(of: $0) }
}

/// Where the tag stands in the key. Only the first `{` counts: "{}{tag}" has no tag, "{{a}}" has the tag "{a".
public func tagRange(of key: UnsafeRawBufferPointer) -> Range<Int> {
    let whole = 0..<key.count
    guard let open = key.firstIndex(of: UInt8(ascii: "{")) else { return whole }
    let start = open + 1
    guard let close = key[start...].firstIndex(of: UInt8(ascii: "}")), close > start else { return whole }
    return start..<close
}
