// The bytes of journal values: a checked directory, then the bodies of its records. Owns encoding and decoding only;
// nothing here knows what a record does.
//
//   value    magic u32 | version u16 | 0 u16 | sequence u64 | journal u64 | part u32 | parts u32 | records u32 | bytes
//   u32
//            record × records
//            CRC-32C u32 of all before
//            bodies
//   record   kind u32 | group u32 | replica u64 | first u64 | last u64 | count u32 | offset u32 | length u32 | CRC u32
//   of the body
//
// `first` and `last` are a truncation's index and 0, a base's index and term. The body of an append is its entries,
// that
// of a hard state `term u64 | vote u64 | commit u64`; the others have none. All integers are little-endian.

internal import Primitives

enum JournalFormat {
    static let superblockKey = DiskKey(table: 1)
    /// Base table: high is the replica; low 0 its row, others its chunks. (0, 0) is the trim row.
    static let baseTable: UInt8 = 2
    static let trimKey = DiskKey(table: baseTable)
    /// Values: high is the commit's sequence, low the part.
    static let valueTable: UInt8 = 9
    static let firstValueKey = DiskKey(table: valueTable)
    static let lastValueKey = DiskKey(table: valueTable, high: .max, low: .max)

    static let magic: UInt32 = 0x764a_6642  // "BfJv"
    static let version: UInt16 = 1
    static let headerBytes = 40
    static let recordBytes = 48
    static let hardStateBytes = 24
    /// A value has at most as many, unless a single entry does not fit.
    static let valueBytesMax = 1 << 20
    /// An entry larger than this is refused before anything is written.
    static let entryBytesMax = 16 << 20

    /// Indexes read from disk are below, so that arithmetic with them cannot overflow.
    static let indexMax: UInt64 = 1 << 62

    static func directoryBytes(records: Int) -> Int { headerBytes + records * recordBytes + 4 }
}

/// Which value, and which part of it. Sequence 0 is the base table; `part` is the row then.
struct JournalPlace: Hashable, Comparable {
    var sequence: UInt64
    var part: UInt32

    static func < (left: JournalPlace, right: JournalPlace) -> Bool {
        left.sequence != right.sequence ? left.sequence < right.sequence : left.part < right.part
    }

    func key(of replica: ReplicaID) -> DiskKey {
        sequence == 0
            ? DiskKey(table: JournalFormat.baseTable, high: replica.rawValue, low: part)
            : DiskKey(table: JournalFormat.valueTable, high: sequence, low: part)
    }
}

enum JournalRecordKind: UInt32 {
    case append = 1, truncate, base, hardState, tombstone
}

/// One record as the directory of its value describes it.
struct JournalDirectoryRecord {
    var kind: JournalRecordKind
    var group: GroupID
    var replica: ReplicaID
    var first: UInt64
    var last: UInt64
    var count: UInt32
    var offset: UInt32
    var length: UInt32
    var checksum: UInt32

    func encode(into place: UnsafeMutableRawBufferPointer, at offset: Int) {
        var offset = offset
        func put<Integer: FixedWidthInteger>(_ value: Integer) {
            place.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Integer.self)
            offset += MemoryLayout<Integer>.size
        }
        put(kind.rawValue)
        put(group.rawValue)
        put(replica.rawValue)
        put(first)
        put(last)
        put(count)
        put(self.offset)
        put(length)
        put(checksum)
    }

    /// The body of this record, or nil if it is not what was written.
    func checkedBody(in value: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        JournalBody.checked(in: value, offset: offset, length: length, checksum: checksum)
    }
}

/// The directory of a value.
struct JournalDirectory {
    var place: JournalPlace
    var parts: UInt32
    var records: [JournalDirectoryRecord]

    /// Writes header and checksum around records that `JournalDirectoryRecord.encode` has put in their places.
    static func finish(
        _ value: UnsafeMutableRawBufferPointer, place: JournalPlace, parts: Int, records: Int, journal: UInt64
    ) {
        value.storeBytes(of: JournalFormat.magic.littleEndian, toByteOffset: 0, as: UInt32.self)
        value.storeBytes(of: JournalFormat.version.littleEndian, toByteOffset: 4, as: UInt16.self)
        value.storeBytes(of: 0, toByteOffset: 6, as: UInt16.self)
        value.storeBytes(of: place.sequence.littleEndian, toByteOffset: 8, as: UInt64.self)
        value.storeBytes(of: journal.littleEndian, toByteOffset: 16, as: UInt64.self)
        value.storeBytes(of: place.part.littleEndian, toByteOffset: 24, as: UInt32.self)
        value.storeBytes(of: UInt32(parts).littleEndian, toByteOffset: 28, as: UInt32.self)
        value.storeBytes(of: UInt32(records).littleEndian, toByteOffset: 32, as: UInt32.self)
        value.storeBytes(of: UInt32(value.count).littleEndian, toByteOffset: 36, as: UInt32.self)
        let end = JournalFormat.directoryBytes(records: records) - 4
        let checksum = crc32c(UnsafeRawBufferPointer(rebasing: value[..<end]))
        value.storeBytes(of: checksum.littleEndian, toByteOffset: end, as: UInt32.self)
    }

    /// Reads and checks a directory against its key, its journal and itself; bodies are not looked at.
    init(_ value: UnsafeRawBufferPointer, key: DiskKey, journal: UInt64) throws(DecodingFailure) {
        func load<Integer: FixedWidthInteger>(_ offset: Int, _ type: Integer.Type) -> Integer {
            Integer(littleEndian: value.loadUnaligned(fromByteOffset: offset, as: type))
        }
        func expect(_ condition: Bool, _ expected: StaticString) throws(DecodingFailure) {
            if !condition { throw DecodingFailure(expected: "\(expected)", found: "something else in a journal value") }
        }
        try expect(value.count >= JournalFormat.headerBytes + 4, "a journal value's header")
        try expect(load(0, UInt32.self) == JournalFormat.magic, "a journal value's magic number")
        try expect(load(4, UInt16.self) == JournalFormat.version, "a journal value of version 1")
        let count = Int(load(32, UInt32.self))
        try expect(count <= value.count / JournalFormat.recordBytes, "as many records as fit")
        let end = JournalFormat.directoryBytes(records: count)
        try expect(end <= value.count && Int(load(36, UInt32.self)) == value.count, "all bytes of a journal value")
        let sum = crc32c(UnsafeRawBufferPointer(rebasing: value[..<(end - 4)]))
        try expect(sum == load(end - 4, UInt32.self), "a directory's checksum")
        place = JournalPlace(sequence: load(8, UInt64.self), part: load(24, UInt32.self))
        parts = load(28, UInt32.self)
        try expect(
            key == DiskKey(table: JournalFormat.valueTable, high: place.sequence, low: place.part),
            "the value's own key")
        try expect(place.sequence > 0 && place.part < parts, "a part below the number of parts")
        try expect(load(16, UInt64.self) == journal, "this journal's own value")
        records = []
        records.reserveCapacity(count)
        for number in 0..<count {
            let offset = JournalFormat.headerBytes + number * JournalFormat.recordBytes
            guard let kind = JournalRecordKind(rawValue: load(offset, UInt32.self)) else {
                throw DecodingFailure(expected: "a record's kind", found: "\(load(offset, UInt32.self))")
            }
            let record = JournalDirectoryRecord(
                kind: kind, group: GroupID(load(offset + 4, UInt32.self)),
                replica: ReplicaID(load(offset + 8, UInt64.self)),
                first: load(offset + 16, UInt64.self), last: load(offset + 24, UInt64.self),
                count: load(offset + 32, UInt32.self), offset: load(offset + 36, UInt32.self),
                length: load(offset + 40, UInt32.self), checksum: load(offset + 44, UInt32.self))
            try expect(record.replica != .none, "a replica")
            try expect(
                Int(record.offset) >= end && Int(record.offset) + Int(record.length) <= value.count, "a body inside")
            if kind == .append {
                try expect(
                    record.first > 0 && record.last >= record.first && record.last < JournalFormat.indexMax, "a range")
                try expect(record.last - record.first + 1 == UInt64(record.count), "as many entries as indexes")
                try expect(Int(record.length) / LogEntry.headerBytes >= Int(record.count), "room for its entries")
            }
            records.append(record)
        }
    }
}

/// Bodies of records.
enum JournalBody {
    static func checked(
        in value: UnsafeRawBufferPointer, offset: UInt32, length: UInt32, checksum: UInt32
    ) -> UnsafeRawBufferPointer? {
        guard Int(offset) + Int(length) <= value.count else { return nil }
        let body = UnsafeRawBufferPointer(rebasing: value[Int(offset)..<Int(offset) + Int(length)])
        return crc32c(body) == checksum ? body : nil
    }

    static func encode(_ state: HardState, into place: UnsafeMutableRawBufferPointer) {
        place.storeBytes(of: state.term.rawValue.littleEndian, toByteOffset: 0, as: UInt64.self)
        place.storeBytes(of: state.vote.rawValue.littleEndian, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: state.commit.rawValue.littleEndian, toByteOffset: 16, as: UInt64.self)
    }

    static func hardState(_ body: UnsafeRawBufferPointer) -> HardState? {
        guard body.count == JournalFormat.hardStateBytes else { return nil }
        func load(_ offset: Int) -> UInt64 {
            UInt64(littleEndian: body.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        return HardState(term: Term(load(0)), vote: ReplicaID(load(8)), commit: LogIndex(load(16)))
    }

    /// Calls `visit` with each entry's number, offset, encoded bytes and term until it returns false. Nil if the body
    /// is not made of
    /// exactly `count` entries (checked as far as it was visited).
    @inline(__always)
    static func walk(
        _ body: UnsafeRawBufferPointer, count: Int,
        _ visit: (_ number: Int, _ offset: Int, _ bytes: Int, _ term: Term) -> Bool
    ) -> Bool {
        var offset = 0
        for number in 0..<count {
            guard body.count - offset >= LogEntry.headerBytes else { return false }
            let term = UInt64(littleEndian: body.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
            let payload = UInt32(littleEndian: body.loadUnaligned(fromByteOffset: offset + 20, as: UInt32.self))
            let bytes = LogEntry.headerBytes + Int(payload)
            guard body.count - offset >= bytes else { return false }
            guard visit(number, offset, bytes, Term(term)) else { return true }
            offset += bytes
        }
        return offset == body.count
    }
}
