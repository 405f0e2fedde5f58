// A run's index: which block holds a key. A tree of index chunks, its root the last of them:
//
//     entries u32 | offset u32 of each entry | entries: chunk u32, block u16, length u16, separator
//
// A separator is the shortest beginning of a block's first key that is above all keys before it; the first is empty.
// On level 0 an entry names a chunk of records and a block in it, above that an index chunk of the level below.

import Primitives

/// A verified index chunk in memory.
struct RunIndexNode: Sendable {
    let level: Int
    let payload: Bytes
    private let count: Int

    /// nil if the bytes are no index: bounds are checked once, here.
    init?(level: Int, payload: Bytes) {
        let count = payload.withUnsafeBytes { bytes -> Int? in
            guard bytes.count >= 4 else { return nil }
            let count = Int(UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)))
            guard count > 0, count <= (bytes.count - 4) / 12 else { return nil }
            for entry in 0..<count {
                let offset = Self.offset(bytes, entry)
                guard offset >= 4 + 4 * count, offset + 8 <= bytes.count,
                    offset + 8 + Self.keyBytes(bytes, offset) <= bytes.count
                else { return nil }
            }
            return count
        }
        guard let count else { return nil }
        self.level = level
        self.payload = payload
        self.count = count
    }

    /// The last entry whose separator is not above the key; nil if there is none.
    func find(_ sortKey: UnsafeRawBufferPointer) -> (chunk: Int, block: Int)? {
        payload.withUnsafeBytes { bytes in
            var low = 0
            var high = count
            while low < high {
                let middle = (low + high) / 2
                let offset = Self.offset(bytes, middle)
                let separator = UnsafeRawBufferPointer(
                    rebasing: bytes[offset + 8..<offset + 8 + Self.keyBytes(bytes, offset)])
                if compareBytes(separator, sortKey) <= 0 { low = middle + 1 } else { high = middle }
            }
            guard low > 0 else { return nil }
            let offset = Self.offset(bytes, low - 1)
            return (
                Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))),
                Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt16.self)))
            )
        }
    }

    /// Calls `body` for all entries, in order.
    func forEach(_ body: (_ chunk: Int, _ block: Int, _ separator: UnsafeRawBufferPointer) throws -> Void) rethrows {
        try payload.withUnsafeBytes { bytes in
            for entry in 0..<count {
                let offset = Self.offset(bytes, entry)
                try body(
                    Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))),
                    Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt16.self))),
                    UnsafeRawBufferPointer(rebasing: bytes[offset + 8..<offset + 8 + Self.keyBytes(bytes, offset)]))
            }
        }
    }

    @inline(__always)
    private static func offset(_ bytes: UnsafeRawBufferPointer, _ entry: Int) -> Int {
        Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 + 4 * entry, as: UInt32.self)))
    }

    @inline(__always)
    private static func keyBytes(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> Int {
        Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 6, as: UInt16.self)))
    }
}

/// Collects index entries while a run is written. Memory: under one hundredth of the run when records are small.
struct RunIndexBuilder: ~Copyable {
    private struct Node {
        var first: Bytes
        var payload: Bytes
        var entries: Int
    }
    private var nodes: [Node] = []
    private var entries = ByteWriter(capacity: 4_096)
    private var offsets: [UInt32] = []
    private var first = Bytes()

    mutating func append(separator: UnsafeRawBufferPointer, chunk: Int, block: Int) {
        if 4 + 4 * (offsets.count + 1) + entries.count + 8 + separator.count > Chunk.singleBlockBytesMax { seal() }
        if offsets.isEmpty { first = Bytes(copying: separator) }
        offsets.append(UInt32(entries.count))
        entries.write(UInt32(chunk))
        entries.write(UInt16(block))
        entries.write(UInt16(separator.count))
        entries.write(bytes: separator)
    }

    private mutating func seal() {
        let start = 4 + 4 * offsets.count
        var writer = ByteWriter(capacity: start + entries.count)
        writer.write(UInt32(offsets.count))
        for offset in offsets { writer.write(UInt32(start) + offset) }
        entries.withUnsafeBytes { writer.write(bytes: $0) }
        nodes.append(Node(first: first, payload: writer.take(), entries: offsets.count))
        entries.removeAll()
        offsets.removeAll(keepingCapacity: true)
    }

    /// Hands out the chunks' contents, level by level, the root last. `number` is the first one's chunk number.
    mutating func finish(from number: Int, _ body: (_ level: Int, _ payload: Bytes, _ entries: Int) -> Void) -> Int {
        var level = 0
        var next = number
        if !offsets.isEmpty { seal() }
        while !nodes.isEmpty {
            let below = nodes
            nodes = []
            for node in below { body(level, node.payload, node.entries) }
            if below.count > 1 {
                for (offset, node) in below.enumerated() {
                    node.first.withUnsafeBytes { append(separator: $0, chunk: next + offset, block: 0) }
                }
                seal()
            }
            next += below.count
            level += 1
        }
        return next - number
    }
}
