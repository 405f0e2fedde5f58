// The bytes of the base table: what outlives the values that prefix deletion removed. Owns encoding and decoding only.
//
//   trim row  magic u32 | version u16 | 0 u16 | journal u64 | deleted through sequence u64 | replicas u32 | CRC u32
//   row       magic u32 | version u16 | flags u16 (1 tombstone) | replica u64 | group u32 | chunks u32 | covered
//   through u64 |
//             term u64 | vote u64 | commit u64 | base u64 | base term u64 | next row u32 | chunk × chunks | CRC u32
//   chunk     row u32 | body count u32 | body first u64 | first u64 | last u64 | length u32 | CRC u32 of the body
//   chunk row magic u32 | version u16 | 0 u16 | replica u64 | body first u64 | body (entries)
//
// `first` to `last` are the entries of a chunk that live; others in its body are below the base or were overwritten.

internal import Primitives

enum JournalBaseTable {
    static let trimMagic: UInt32 = 0x744a_6642  // "BfJt"
    static let rowMagic: UInt32 = 0x624a_6642  // "BfJb"
    static let chunkMagic: UInt32 = 0x634a_6642  // "BfJc"
    static let version: UInt16 = 1
    static let chunkHeaderBytes = 24
    /// A chunk is not begun anew before it has as many bytes; smaller ones are joined with what comes.
    static let chunkBytesMin = 64 << 10
    static let chunkBytesMax = 1 << 20

    static func rowKey(_ replica: ReplicaID) -> DiskKey {
        DiskKey(table: JournalFormat.baseTable, high: replica.rawValue)
    }
    static let firstRowKey = DiskKey(table: JournalFormat.baseTable, high: 1)
    static let lastRowKey = DiskKey(table: JournalFormat.baseTable, high: .max, low: .max)

    // MARK: Trim row

    static func encodeTrim(journal: UInt64, deletedThrough: UInt64, replicas: Int) -> Bytes {
        var writer = ByteWriter(capacity: 64)
        writer.write(trimMagic)
        writer.write(version)
        writer.write(0 as UInt16)
        writer.write(journal)
        writer.write(deletedThrough)
        writer.write(UInt32(replicas))
        writer.write(writer.checksum())
        return writer.take()
    }

    static func decodeTrim(_ bytes: UnsafeRawBufferPointer, journal: UInt64) -> (deletedThrough: UInt64, replicas: Int)?
    {
        guard var reader = checkedReader(bytes, magic: trimMagic) else { return nil }
        guard let _ = try? reader.read(UInt16.self), let owner = try? reader.read(UInt64.self), owner == journal,
            let through = try? reader.read(UInt64.self), let replicas = try? reader.read(UInt32.self), reader.isAtEnd
        else { return nil }
        return (through, Int(replicas))
    }

    // MARK: Rows

    /// The row of a log whose segments in the base table are its first ones.
    static func encodeRow(_ log: ReplicaLog, coveredThrough: UInt64) -> Bytes {
        var writer = ByteWriter(capacity: 256)
        let chunks = log.segments.prefix { $0.place.sequence == 0 }
        writer.write(rowMagic)
        writer.write(version)
        writer.write((log.isTombstone ? 1 : 0) as UInt16)
        writer.write(log.replica)
        writer.write(log.group)
        writer.write(UInt32(chunks.count))
        writer.write(coveredThrough)
        writer.write(log.hardState.term)
        writer.write(isPlanted("vote-lost-in-trim") ? .none : log.hardState.vote)
        writer.write(log.hardState.commit)
        writer.write(log.base)
        writer.write(log.baseTerm)
        writer.write(log.nextRow)
        for chunk in chunks {
            writer.write(chunk.place.part)
            writer.write(chunk.bodyCount)
            writer.write(chunk.bodyFirst)
            writer.write(chunk.first)
            writer.write(chunk.last)
            writer.write(chunk.length)
            writer.write(chunk.checksum)
        }
        writer.write(writer.checksum())
        return writer.take()
    }

    /// The log as its row tells it, with the base table's segments and without terms. Nil if it is not a row of this
    /// replica.
    static func decodeRow(_ bytes: UnsafeRawBufferPointer, replica: ReplicaID) -> ReplicaLog? {
        guard let reader = checkedReader(bytes, magic: rowMagic) else { return nil }
        return try? decodeRow(reader, replica: replica)
    }

    private static func decodeRow(_ start: ByteReader, replica: ReplicaID) throws(DecodingFailure) -> ReplicaLog {
        var reader = start
        let flags = try reader.read(UInt16.self)
        let owner = try reader.read(ReplicaID.self)
        guard owner == replica else { throw DecodingFailure(expected: "replica \(replica)", found: "\(owner)") }
        var log = ReplicaLog(group: try reader.read(), replica: owner)
        log.isTombstone = flags & 1 == 1
        log.hasRow = true
        let count = Int(try reader.read(UInt32.self))
        log.coveredThrough = try reader.read()
        log.hardState = HardState(term: try reader.read(), vote: try reader.read(), commit: try reader.read())
        log.base = try reader.read()
        log.baseTerm = try reader.read()
        log.nextRow = try reader.read()
        guard log.base.rawValue < JournalFormat.indexMax else {
            throw DecodingFailure(expected: "a base", found: "\(log.base)")
        }
        try reader.check(count: count, ofSize: 40)
        for _ in 0..<count {
            let row = try reader.read(UInt32.self)
            let bodyCount = try reader.read(UInt32.self)
            let bodyFirst = try reader.read(LogIndex.self)
            let first = try reader.read(LogIndex.self)
            let last = try reader.read(LogIndex.self)
            let length = try reader.read(UInt32.self)
            let checksum = try reader.read(UInt32.self)
            guard row > 0, row < log.nextRow, row > log.chunkRows.last ?? 0, first > log.last, bodyFirst <= first,
                bodyFirst.rawValue > 0, first <= last, last.rawValue < JournalFormat.indexMax,
                last - bodyFirst < Int(bodyCount),
                Int(length) / LogEntry.headerBytes >= Int(bodyCount)
            else { throw DecodingFailure(expected: "an ascending chunk", found: "row \(row), \(first) to \(last)") }
            log.chunkRows.append(row)
            log.segments.append(
                JournalSegment(
                    first: first, last: last, bodyFirst: bodyFirst, bodyCount: bodyCount,
                    place: JournalPlace(sequence: 0, part: row), offset: UInt32(chunkHeaderBytes), length: length,
                    checksum: checksum))
        }
        try reader.expectEnd()
        return log
    }

    // MARK: Chunks

    static func encodeChunkHeader(replica: ReplicaID, bodyFirst: LogIndex, into place: UnsafeMutableRawBufferPointer) {
        place.storeBytes(of: chunkMagic.littleEndian, toByteOffset: 0, as: UInt32.self)
        place.storeBytes(of: version.littleEndian, toByteOffset: 4, as: UInt16.self)
        place.storeBytes(of: 0, toByteOffset: 6, as: UInt16.self)
        place.storeBytes(of: replica.rawValue.littleEndian, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: bodyFirst.rawValue.littleEndian, toByteOffset: 16, as: UInt64.self)
    }

    /// A reader behind magic number and version (flags come next), or nil if magic, version or the checksum at the end
    /// are wrong.
    private static func checkedReader(_ bytes: UnsafeRawBufferPointer, magic: UInt32) -> ByteReader? {
        guard bytes.count >= 12 else { return nil }
        let body = UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count - 4)])
        let checksum = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: bytes.count - 4, as: UInt32.self))
        guard crc32c(body) == checksum else { return nil }
        var reader = ByteReader(Bytes(copying: body))
        guard (try? reader.read(UInt32.self)) == magic, (try? reader.read(UInt16.self)) == version else { return nil }
        return reader
    }
}
