// A piece of a snapshot: some of its records in order, and what range of keys they are all of. Owns its encoding, which
// is the same on every connection; it is never on disk.
//
//     magic "BfSp" | version u16 = 1 | flags u16 (1: the last) | group u32 | records u32 | base u64 | index u64
//     | term u64 | bytes of records u32 | after length u16 | through length u16
//     | after: sort key | records, as in a block, values never in overflow chunks | through: sort key
//     | CRC u32 of all before
//
// It speaks of the keys above `after` (empty: from the first) up to and with `through` (empty in the last: to the end).

public import Primitives

/// What a `SnapshotReader` read.
public struct SnapshotPiece: Sendable {
    /// To be sent as it is.
    public var bytes: Bytes
    /// The next piece begins behind this key; nil: this is the last.
    public var next: RecordKey?
}

/// What a piece says of itself, in front of everything else.
private struct SnapshotPieceHead {
    var isLast: Bool
    var group: GroupID
    var records: UInt32
    var base: LogIndex
    var index: LogIndex
    var term: Term
    var recordBytes: UInt32
    var afterBytes: UInt16
    var throughBytes: UInt16

    static let magic: UInt32 = 0x7053_6642
    static let version: UInt16 = 1
    static let byteCount = 48
    static let lastFlag: UInt16 = 1

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(isLast ? Self.lastFlag : 0)
        writer.write(group)
        writer.write(records)
        writer.write(base)
        writer.write(index)
        writer.write(term)
        writer.write(recordBytes)
        writer.write(afterBytes)
        writer.write(throughBytes)
    }
}

extension SnapshotPieceHead {
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        guard try reader.read(UInt32.self) == Self.magic else {
            throw DecodingFailure(expected: "a piece of a snapshot", found: "other bytes")
        }
        let version = try reader.read(UInt16.self)
        guard version == Self.version else {
            throw DecodingFailure(expected: "version \(Self.version)", found: "version \(version)")
        }
        let flags = try reader.read(UInt16.self)
        guard flags & ~Self.lastFlag == 0 else { throw DecodingFailure(expected: "known flags", found: "\(flags)") }
        isLast = flags & Self.lastFlag != 0
        group = try reader.read()
        records = try reader.read()
        base = try reader.read()
        index = try reader.read()
        term = try reader.read()
        recordBytes = try reader.read()
        afterBytes = try reader.read()
        throughBytes = try reader.read()
        let sortKeys = UInt16(RecordLimits.sortPrefixBytes)...UInt16(RecordLimits.sortKeyBytesMax)
        guard afterBytes == 0 || sortKeys.contains(afterBytes),
            isLast ? throughBytes == 0 : sortKeys.contains(throughBytes)
        else {
            throw DecodingFailure(expected: "the keys of a piece", found: "\(afterBytes) and \(throughBytes) bytes")
        }
    }
}

/// Collects the records of one piece.
struct SnapshotPieceBuilder: ~Copyable {
    private var head: SnapshotPieceHead
    private let after: Bytes
    private let bytesMax: Int
    private var writer: ByteWriter

    /// - Parameter after: a sort key; empty: from the first.
    init(of manifest: Manifest, base: LogIndex, after: Bytes, bytesMax: Int) {
        head = SnapshotPieceHead(
            isLast: false, group: manifest.group, records: 0, base: base, index: manifest.index, term: manifest.term,
            recordBytes: 0, afterBytes: UInt16(after.count), throughBytes: 0)
        self.after = after
        self.bytesMax = bytesMax
        writer = ByteWriter(capacity: bytesMax)
        // In the place of the head, which is known last.
        _ = writer.extend(by: SnapshotPieceHead.byteCount)
        writer.write(after)
    }

    /// Whether a record of so many bytes still fits. The first always does.
    @inline(__always)
    func fits(_ size: Int) -> Bool {
        head.records == 0 || writer.count + size + RecordLimits.sortKeyBytesMax + 4 <= bytesMax
    }

    /// Adds a record with its value, wherever that lay.
    @inline(__always)
    mutating func add(_ record: RecordView) {
        let size = RecordEncoding.encodedBytes(sortKeyBytes: record.sortKey.count, valueBytes: record.value.count)
        RecordEncoding.encode(record, overflow: nil, into: writer.extend(by: size))
        head.records += 1
    }

    /// - Parameter through: the sort key up to which there are no others; nil: to the end.
    mutating func finish(through: Bytes?) -> Bytes {
        head.isLast = through == nil
        head.recordBytes = UInt32(writer.count - SnapshotPieceHead.byteCount - after.count)
        head.throughBytes = UInt16(through?.count ?? 0)
        var piece = ByteWriter(capacity: writer.count + RecordLimits.sortKeyBytesMax + 4)
        head.encode(into: &piece)
        writer.withUnsafeBytes {
            piece.write(bytes: UnsafeRawBufferPointer(rebasing: $0[SnapshotPieceHead.byteCount...]))
        }
        if let through { piece.write(through) }
        piece.write(piece.checksum())
        return piece.take()
    }
}

/// A piece that came, checked as a whole: its records are of this snapshot, in order, and within the piece's keys.
public struct ReceivedPiece: Sendable {
    /// Sort keys; empty: from the first, to the end.
    package let after: Bytes
    package let through: Bytes
    public let isLast: Bool
    private let content: Bytes

    public init(_ bytes: Bytes, of snapshot: SnapshotDescription) throws(SnapshotError) {
        let head: SnapshotPieceHead
        do throws(DecodingFailure) {
            guard bytes.count >= SnapshotPieceHead.byteCount + 4 else {
                throw DecodingFailure(expected: "a piece of a snapshot", found: "\(bytes.count) bytes")
            }
            let computed = bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0.dropLast(4))) }
            var checksum = ByteReader(bytes[bytes.count - 4..<bytes.count])
            guard try checksum.read(UInt32.self) == computed else {
                throw DecodingFailure(expected: "a matching checksum", found: "another")
            }
            var reader = ByteReader(bytes[0..<bytes.count - 4])
            head = try SnapshotPieceHead(from: &reader)
            after = try reader.readBytes(count: Int(head.afterBytes))
            content = try reader.readBytes(count: Int(head.recordBytes))
            through = try reader.readBytes(count: Int(head.throughBytes))
            try reader.expectEnd()
        } catch {
            throw SnapshotError(.badPiece, "piece of a snapshot: \(error)")
        }
        isLast = head.isLast
        guard head.group == snapshot.group, head.base == snapshot.base, head.index == snapshot.index,
            head.term == snapshot.term
        else {
            throw SnapshotError(
                .otherSnapshot,
                "expected a piece of group \(snapshot.group)'s snapshot (\(snapshot.base), \(snapshot.index)] of term "
                    + "\(snapshot.term), found one of group \(head.group)'s (\(head.base), \(head.index)] of \(head.term)"
            )
        }
        try check(records: Int(head.records), of: snapshot)
    }

    private func check(records: Int, of snapshot: SnapshotDescription) throws(SnapshotError) {
        func bad(_ what: String) -> SnapshotError { SnapshotError(.badPiece, "piece of a snapshot: \(what)") }
        guard isLast || after < through else { throw bad("it ends before it begins") }
        var found = 0
        let fault = content.withUnsafeBytes { content -> String? in
            after.withUnsafeBytes { after -> String? in
                through.withUnsafeBytes { through -> String? in
                    var last = after
                    var offset = 0
                    while offset < content.count {
                        guard let (record, end) = RecordEncoding.decode(content, at: offset), record.overflow == nil
                        else { return "no record at offset \(offset)" }
                        // The empty key is below all others.
                        guard compareBytes(last, record.sortKey) < 0 else { return "its records are not in order" }
                        guard record.changed > snapshot.base, record.changed <= snapshot.index else {
                            return "a record that changed at \(record.changed)"
                        }
                        guard snapshot.base > .zero || !record.isTombstone else {
                            return "a tombstone in a full snapshot"
                        }
                        last = record.sortKey
                        offset = end
                        found += 1
                    }
                    return isLast || compareBytes(last, through) <= 0 ? nil : "a record behind its end"
                }
            }
        }
        if let fault { throw bad(fault) }
        guard found == records else { throw bad("expected \(records) records, found \(found)") }
    }

    /// The next piece begins behind this key; nil: there is none.
    public var next: RecordKey? { isLast ? nil : RecordKey(sortKey: through) }

    /// Whether it is the piece behind this key; nil: the first.
    public func begins(behind key: RecordKey?) -> Bool { after == key?.sortKey ?? Bytes() }

    /// Takes all its records into a digest.
    public func add(to digest: inout StateDigest) { forEach(behind: Bytes()) { digest.add($0) } }

    /// Adds how many records each sub state machine has in it. Those of one mostly stand together.
    public func count(into counts: inout [SubMachineNumber: UInt64]) {
        var machine: SubMachineNumber?
        var records: UInt64 = 0
        forEach(behind: Bytes()) { record in
            if record.machine != machine {
                if let machine { counts[machine, default: 0] += records }
                (machine, records) = (record.machine, 0)
            }
            records += 1
        }
        if let machine { counts[machine, default: 0] += records }
    }

    /// All its records, copied out.
    public var records: [Record] {
        var records: [Record] = []
        forEach(behind: Bytes()) { records.append($0.copy()) }
        return records
    }

    /// Where its records that are there lie, in order, each with what copies it out.
    public func forEachPlace(_ body: (Slot, SubMachineNumber, () -> Record) -> Void) {
        forEach(behind: Bytes()) { record in
            if !record.isTombstone { body(record.slot, record.machine, record.copy) }
        }
    }

    /// Calls `body` with the records behind a sort key, in order.
    @inline(__always)
    func forEach(behind position: Bytes, _ body: (RecordView) throws -> Void) rethrows {
        try content.withUnsafeBytes { content in
            try position.withUnsafeBytes { position in
                var offset = 0
                while let (record, end) = RecordEncoding.decode(content, at: offset) {
                    offset = end
                    if compareBytes(position, record.sortKey) < 0 { try body(record) }
                }
            }
        }
    }
}
