// A run's filter: whether a key may be in it (Bloom, CACM 1970; in lines of 64 bytes as Putze, Sanders, Singler,
// JEA 2009), so that most runs are passed over without a look at their blocks. A filter chunk's block is such lines and
// nothing else; a key's hash chooses the chunk, the line in it, and seven bits of the line.

import Primitives

enum RunFilter {
    static let bitsPerKey = 10
    static let lineBytes = 64
    /// Lines in a full chunk.
    static let linesMax = Chunk.singleBlockBytesMax / lineBytes

    @inline(__always) static func hash(_ sortKey: UnsafeRawBufferPointer) -> UInt64 { hash64(sortKey, seed: 0) }

    @inline(__always) static func part(_ hash: UInt64, of parts: Int) -> Int {
        Int(((hash >> 32) &* UInt64(truncatingIfNeeded: parts)) >> 32)
    }

    @inline(__always) private static func line(_ hash: UInt64, of lines: Int) -> Int {
        Int(((hash & 0xffff_ffff) &* UInt64(truncatingIfNeeded: lines)) >> 32)
    }

    @inline(__always) static func set(_ hash: UInt64, in lines: UnsafeMutableRawBufferPointer) {
        let base = lines.baseAddress! + line(hash, of: lines.count / lineBytes) &* lineBytes
        var bits = mix(hash)
        for _ in 0..<7 {
            let bit = Int(bits & 511)
            let byte = base.load(fromByteOffset: bit &>> 3, as: UInt8.self)
            base.storeBytes(of: byte | 1 &<< UInt8(bit & 7), toByteOffset: bit &>> 3, as: UInt8.self)
            bits &>>= 9
        }
    }

    @inline(__always) static func mayHold(_ hash: UInt64, _ lines: UnsafeRawBufferPointer) -> Bool {
        guard lines.count >= lineBytes else { return true }
        let base = lines.baseAddress! + line(hash, of: lines.count / lineBytes) &* lineBytes
        var bits = mix(hash)
        for _ in 0..<7 {
            let bit = Int(bits & 511)
            if base.load(fromByteOffset: bit &>> 3, as: UInt8.self) & 1 &<< UInt8(bit & 7) == 0 { return false }
            bits &>>= 9
        }
        return true
    }
}

/// Collects a filter while a run is written. The number of keys is known beforehand, or a bound of it.
struct RunFilterBuilder: ~Copyable {
    private let parts: Int
    private let partBytes: Int
    private let bits: UnsafeMutableRawBufferPointer

    init(keysMax: Int) {
        let lines = max(1, (keysMax * RunFilter.bitsPerKey + RunFilter.lineBytes * 8 - 1) / (RunFilter.lineBytes * 8))
        parts = (lines + RunFilter.linesMax - 1) / RunFilter.linesMax
        partBytes = (lines + parts - 1) / parts * RunFilter.lineBytes
        bits = .allocate(byteCount: parts * partBytes, alignment: 64)
        bits.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { bits.deallocate() }

    @inline(__always)
    func insert(_ hash: UInt64) {
        let start = RunFilter.part(hash, of: parts) * partBytes
        RunFilter.set(hash, in: UnsafeMutableRawBufferPointer(rebasing: bits[start..<start + partBytes]))
    }

    /// Hands out each chunk's contents and says how many there were.
    func finish(_ body: (UnsafeRawBufferPointer) -> Void) -> Int {
        for part in 0..<parts {
            body(UnsafeRawBufferPointer(rebasing: bits[part * partBytes..<(part + 1) * partBytes]))
        }
        return parts
    }
}
