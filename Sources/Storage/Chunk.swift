// Chunks: what runs consist of on disk. Owns their head, their checks and their bounds; what lies in the blocks is
// RecordView's, RunIndex's and RunFilter's affair. One chunk is one value of the disk, under (3, run, chunk number).
//
//     magic "BfCk" | version u16 = 1 | kind u8 | level u8 | run u64 | replica u64 | chunk u32 | length u32
//     | records u32 | blocks u32 | per block: end u32, CRC u32 | CRC u32 of all before | block | block | …
//
// Every checksum is seeded with the chunk's key, so that a chunk in the wrong place shows. The head alone tells where
// its blocks are: a get verifies the head and one block.

import Primitives

enum ChunkKind: UInt8 {
    case records = 1
    /// A piece of a value that is larger than a chunk.
    case overflow = 2
    case index = 3
    case filter = 4
}

enum Chunk {
    static let magic: UInt32 = 0x6b43_6642
    static let version: UInt16 = 1
    /// 16 pages of LMDB with their header.
    static let bytesMax = 65_520
    /// A block closes before it passes this; a single record larger than that is a block by itself.
    static let blockBytesMax = 4_096
    static let fixedBytes = 40
    static let perBlockBytes = 8
    /// What fits into a chunk of one block.
    static let singleBlockBytesMax = bytesMax - headBytes(blocks: 1)

    static func headBytes(blocks: Int) -> Int { fixedBytes + perBlockBytes * blocks + 4 }

    static func key(_ run: RunID, _ chunk: Int) -> DiskKey {
        DiskKey(table: StoreTable.chunks, high: run.rawValue, low: UInt32(truncatingIfNeeded: chunk))
    }
}

enum StoreTable {
    static let superblock: UInt8 = 1
    static let manifests: UInt8 = 2
    static let chunks: UInt8 = 3
}

extension DiskKey {
    /// Seed of the checksums of what lies under this key.
    var checksumSeed: UInt32 {
        var bytes: (UInt64, UInt64) = (high.bigEndian, UInt64(low) << 8 | UInt64(table))
        return withUnsafeBytes(of: &bytes) { crc32c(UnsafeRawBufferPointer(rebasing: $0[0..<Self.byteCount])) }
    }
}

/// A verified head: the bytes that it lies in are those of one `withValue` call.
struct ChunkHead {
    let bytes: UnsafeRawBufferPointer
    let kind: ChunkKind
    let level: UInt8
    let records: Int
    let blocks: Int
    private let seed: UInt32

    /// Verifies the head of a chunk of a run. Throws `.corrupt` with the place and what is wrong.
    init(_ value: UnsafeRawBufferPointer?, of run: RunID, replica: ReplicaID, chunk: Int) throws(DiskError) {
        func corrupt(_ what: String) -> DiskError { Chunk.corrupt(replica, run, chunk, what) }
        guard let value else { throw corrupt("expected a chunk, found none") }
        guard value.count >= Chunk.headBytes(blocks: 0), value.count <= Chunk.bytesMax else {
            throw corrupt("expected a chunk of at most \(Chunk.bytesMax) bytes, found \(value.count)")
        }
        let base = value.baseAddress!
        func word(_ offset: Int) -> UInt32 {
            UInt32(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        func long(_ offset: Int) -> UInt64 {
            UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        guard word(0) == Chunk.magic else { throw corrupt("expected a chunk's first bytes, found others") }
        let blocks = Int(word(36))
        guard blocks <= Chunk.bytesMax / Chunk.perBlockBytes, Chunk.headBytes(blocks: blocks) <= value.count else {
            throw corrupt("expected a table of blocks, found \(blocks) in \(value.count) bytes")
        }
        let seed = Chunk.key(run, chunk).checksumSeed
        let checkedBytes = Chunk.headBytes(blocks: blocks) - 4
        guard crc32c(UnsafeRawBufferPointer(rebasing: value[0..<checkedBytes]), seed: seed) == word(checkedBytes) else {
            throw corrupt("the head's checksum does not match")
        }
        let version = word(4) & 0xffff
        guard version == UInt32(Chunk.version) else {
            throw DiskError(
                .refused,
                "\(Chunk.place(replica, run, chunk)): expected format version \(Chunk.version), found \(version)")
        }
        guard let kind = ChunkKind(rawValue: UInt8(truncatingIfNeeded: word(4) >> 16)), long(8) == run.rawValue,
            long(16) == replica.rawValue, word(24) == UInt32(truncatingIfNeeded: chunk), word(28) == UInt32(value.count)
        else { throw corrupt("the head names another chunk") }
        var end = UInt32(Chunk.headBytes(blocks: blocks))
        for block in 0..<blocks {
            let next = word(Chunk.fixedBytes + Chunk.perBlockBytes * block)
            guard next >= end, next <= UInt32(value.count) else {
                throw corrupt("block \(block) ends outside of the chunk")
            }
            end = next
        }
        guard end == UInt32(value.count) else { throw corrupt("bytes behind the last block") }
        bytes = value
        self.kind = kind
        level = UInt8(truncatingIfNeeded: word(4) >> 24)
        records = Int(word(32))
        self.blocks = blocks
        self.seed = seed
    }

    private func end(of block: Int) -> Int {
        if block < 0 { return Chunk.headBytes(blocks: blocks) }
        return Int(
            UInt32(
                littleEndian: bytes.loadUnaligned(
                    fromByteOffset: Chunk.fixedBytes + Chunk.perBlockBytes * block, as: UInt32.self)))
    }

    /// A block's bytes if its checksum matches; nil if not, or if there is no such block.
    func block(_ number: Int) -> UnsafeRawBufferPointer? {
        guard number >= 0, number < blocks else { return nil }
        let block = UnsafeRawBufferPointer(rebasing: bytes[end(of: number - 1)..<end(of: number)])
        let stored = bytes.loadUnaligned(
            fromByteOffset: Chunk.fixedBytes + Chunk.perBlockBytes * number + 4, as: UInt32.self)
        return crc32c(block, seed: seed) == UInt32(littleEndian: stored) || isPlanted("block-unchecked") ? block : nil
    }

    /// All blocks as one stretch of bytes, each verified; nil if one is damaged.
    func allBlocks() -> UnsafeRawBufferPointer? {
        for number in 0..<blocks where block(number) == nil { return nil }
        return UnsafeRawBufferPointer(rebasing: bytes[end(of: -1)...])
    }
}

extension Chunk {
    static func place(_ replica: ReplicaID, _ run: RunID, _ chunk: Int) -> String {
        "replica \(replica), run \(run), chunk \(chunk)"
    }

    static func corrupt(_ replica: ReplicaID, _ run: RunID, _ chunk: Int, _ what: String) -> DiskError {
        DiskError(.corrupt, "\(place(replica, run, chunk)): \(what)")
    }
}

/// Collects the blocks of one chunk.
struct ChunkBuilder: ~Copyable {
    private var body = ByteWriter(capacity: Chunk.bytesMax)
    private var table: [(end: Int, checksum: UInt32)] = []
    private var blockStart = 0
    private var seed: UInt32 = 0
    private(set) var records = 0

    var isEmpty: Bool { body.count == 0 }
    var blockBytes: Int { body.count - blockStart }
    var blocks: Int { table.count }

    /// Begins the chunk with this number.
    mutating func begin(_ run: RunID, _ chunk: Int) {
        precondition(isEmpty, "a chunk was not finished")
        seed = Chunk.key(run, chunk).checksumSeed
    }

    /// Whether that many bytes more fit into the block that is open, or into a new one if `opensBlock`.
    @inline(__always)
    func fits(_ size: Int, opensBlock: Bool) -> Bool {
        Chunk.headBytes(blocks: table.count + (opensBlock && blockBytes > 0 ? 2 : 1)) + body.count + size
            <= Chunk.bytesMax
    }

    /// Room for a record's bytes in the block that is open.
    @inline(__always)
    mutating func extend(by size: Int, records: Int = 1) -> UnsafeMutableRawBufferPointer {
        self.records += records
        return body.extend(by: size)
    }

    @inline(__always)
    mutating func closeBlock() {
        guard blockBytes > 0 else { return }
        let start = blockStart
        let seed = seed
        let checksum = body.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[start...]), seed: seed) }
        table.append((body.count, checksum))
        blockStart = body.count
    }

    /// The chunk's bytes; the builder is empty afterwards.
    mutating func finish(_ kind: ChunkKind, level: Int = 0, run: RunID, replica: ReplicaID, chunk: Int) -> Bytes {
        closeBlock()
        let headBytes = Chunk.headBytes(blocks: table.count)
        let length = headBytes + body.count
        precondition(length <= Chunk.bytesMax, "a chunk grew beyond its bound")
        let bytes = Bytes(count: length) { place in
            func store(_ value: UInt32, _ offset: Int) {
                place.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
            }
            store(Chunk.magic, 0)
            store(UInt32(Chunk.version) | UInt32(kind.rawValue) << 16 | UInt32(level) << 24, 4)
            place.storeBytes(of: run.rawValue.littleEndian, toByteOffset: 8, as: UInt64.self)
            place.storeBytes(of: replica.rawValue.littleEndian, toByteOffset: 16, as: UInt64.self)
            store(UInt32(truncatingIfNeeded: chunk), 24)
            store(UInt32(length), 28)
            store(UInt32(records), 32)
            store(UInt32(table.count), 36)
            for (block, entry) in table.enumerated() {
                store(UInt32(headBytes + entry.end), Chunk.fixedBytes + Chunk.perBlockBytes * block)
                store(entry.checksum, Chunk.fixedBytes + Chunk.perBlockBytes * block + 4)
            }
            store(crc32c(UnsafeRawBufferPointer(rebasing: place[0..<headBytes - 4]), seed: seed), headBytes - 4)
            body.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: place[headBytes...]).copyMemory(from: $0) }
        }
        body.removeAll()
        table.removeAll(keepingCapacity: true)
        blockStart = 0
        records = 0
        return bytes
    }
}
