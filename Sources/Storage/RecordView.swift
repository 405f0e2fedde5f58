// A record as it lies in memory that somebody else owns, and its encoding in a block of a run:
//
//     flags u8 | 0 u8 | sort key length u16 | value length u32 | revision u64 | changed u64 | expiry u64
//     sort key: slot u16 big-endian | sub machine u16 big-endian | key
//     value, or for a large one the u32 number of the first overflow chunk that holds it

public import Primitives

/// A record in place: pointers into a memtable's arena or a cursor's buffer. Valid until its owner changes.
public struct RecordView {
    /// `slot u16 | sub machine u16` big-endian, then the key.
    public var sortKey: UnsafeRawBufferPointer
    public var revision: Revision
    public var changed: LogIndex
    public var expiry: LogTime
    public var isTombstone: Bool
    /// Empty when it is deleted, or when the value lies in overflow chunks.
    public var value: UnsafeRawBufferPointer
    /// Length and first chunk of a value that lies in overflow chunks.
    var overflow: (bytes: Int, chunk: UInt32)?

    public var slot: Slot { Slot(UInt16(bigEndian: sortKey.loadUnaligned(as: UInt16.self))) }
    public var machine: SubMachineNumber {
        SubMachineNumber(UInt16(bigEndian: sortKey.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
    }
    public var keyBytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: sortKey[RecordLimits.sortPrefixBytes...])
    }
    /// The key, copied out.
    public var key: RecordKey { RecordKey(slot: slot, machine: machine, key: Bytes(copying: keyBytes)) }

    /// The record, copied out.
    public func copy() -> Record { record(key: key) }

    /// The record, copied out but for its key, which the caller has.
    func record(key: RecordKey) -> Record {
        Record(
            key: key, revision: revision, changed: changed, expiry: expiry,
            value: isTombstone ? nil : Bytes(copying: value))
    }
}

enum RecordEncoding {
    static let headBytes = 32
    static let tombstoneFlag: UInt8 = 1
    static let overflowFlag: UInt8 = 2
    /// What stands in place of a value that lies in overflow chunks.
    static let overflowBytes = 4

    static func encodedBytes(sortKeyBytes: Int, valueBytes: Int) -> Int { headBytes + sortKeyBytes + valueBytes }

    /// Writes a record into memory of exactly its encoded size.
    @inline(__always)
    static func encode(
        _ record: RecordView, overflow: (bytes: Int, chunk: UInt32)?, into place: UnsafeMutableRawBufferPointer
    ) {
        var flags: UInt8 = record.isTombstone ? tombstoneFlag : 0
        if overflow != nil { flags |= overflowFlag }
        let base = place.baseAddress!
        let head =
            UInt64(flags) | UInt64(record.sortKey.count) << 16 | UInt64(overflow?.bytes ?? record.value.count) << 32
        base.storeBytes(of: head.littleEndian, as: UInt64.self)
        base.storeBytes(of: record.revision.rawValue.littleEndian, toByteOffset: 8, as: UInt64.self)
        base.storeBytes(of: record.changed.rawValue.littleEndian, toByteOffset: 16, as: UInt64.self)
        base.storeBytes(of: record.expiry.rawValue.littleEndian, toByteOffset: 24, as: UInt64.self)
        (base + headBytes).copyMemory(from: record.sortKey.baseAddress!, byteCount: record.sortKey.count)
        let end = base + headBytes + record.sortKey.count
        if let overflow {
            end.storeBytes(of: overflow.chunk.littleEndian, as: UInt32.self)
        } else if !record.value.isEmpty {
            end.copyMemory(from: record.value.baseAddress!, byteCount: record.value.count)
        }
    }

    /// The record at `offset` and the offset behind it; nil if the bytes are none.
    @inline(__always)
    static func decode(_ block: UnsafeRawBufferPointer, at offset: Int) -> (record: RecordView, end: Int)? {
        guard block.count - offset >= headBytes else { return nil }
        let base = block.baseAddress! + offset
        let head = UInt64(littleEndian: base.loadUnaligned(as: UInt64.self))
        let flags = UInt8(truncatingIfNeeded: head)
        let sortKeyBytes = Int(head >> 16 & 0xffff)
        let valueBytes = Int(head >> 32)
        let stored = flags & overflowFlag != 0 ? overflowBytes : valueBytes
        guard head & 0xff00 == 0, flags <= 2, sortKeyBytes >= RecordLimits.sortPrefixBytes,
            sortKeyBytes <= RecordLimits.sortKeyBytesMax, valueBytes <= RecordLimits.valueBytesMax,
            flags & tombstoneFlag == 0 || valueBytes == 0,
            block.count - offset - headBytes >= sortKeyBytes + stored
        else { return nil }
        let valueBase = base + headBytes + sortKeyBytes
        var record = RecordView(
            sortKey: UnsafeRawBufferPointer(start: base + headBytes, count: sortKeyBytes),
            revision: Revision(UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 8, as: UInt64.self))),
            changed: LogIndex(UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 16, as: UInt64.self))),
            expiry: LogTime(UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 24, as: UInt64.self))),
            isTombstone: flags & tombstoneFlag != 0,
            value: UnsafeRawBufferPointer(start: valueBase, count: 0))
        if flags & overflowFlag != 0 {
            record.overflow = (valueBytes, UInt32(littleEndian: valueBase.loadUnaligned(as: UInt32.self)))
        } else {
            record.value = UnsafeRawBufferPointer(start: valueBase, count: valueBytes)
        }
        return (record, offset + headBytes + sortKeyBytes + stored)
    }
}
