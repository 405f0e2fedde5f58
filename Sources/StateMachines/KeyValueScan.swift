// Ordered scans of the key-value machine: what is asked for, and the pages that answer it. A scan stays within one slot, so
// within one group: each page shows all of its range at one moment.

public import Messages
public import Primitives

/// The next records of one slot, ascending by the bytes of their keys.
///
/// `2 u8 | has end u8 | records u32 | bytes u32 | from: length u32, bytes | end: length u32, bytes, if there is one`
public struct KeyValueScan: Hashable, Sendable {
    /// The page begins here, this key included if there is one; empty: at the slot's first key.
    public var from: Bytes
    /// The scan ends before this key; nil: behind the slot's last one.
    public var end: Bytes?
    /// Of a page. One record always fits. A server takes its own bounds where they are lower.
    public var recordsMax: UInt32
    /// Of a page's records as encoded (`KeyValueScanPage.Record.encodedBytes`).
    public var bytesMax: UInt32

    public init(from: Bytes, end: Bytes?, recordsMax: UInt32 = .max, bytesMax: UInt32 = .max) {
        self.from = from
        self.end = end
        self.recordsMax = recordsMax
        self.bytesMax = bytesMax
    }

    static let number: UInt8 = 2
    /// One more than a key may have: a page may begin, and a scan end, right behind the longest key.
    static var boundBytesMax: Int { Limits.keyBytesMax + 1 }

    func problem() -> Refusal? {
        let count = max(from.count, end?.count ?? 0)
        guard count > Self.boundBytesMax else { return nil }
        return .tooLarge("where a scan begins and ends has at most \(Self.boundBytesMax) bytes, not \(count)")
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(end != nil)
        writer.write(recordsMax)
        writer.write(bytesMax)
        writer.writeWithLength(from)
        if let end { writer.writeWithLength(end) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let hasEnd = try reader.readBool()
        recordsMax = try reader.read()
        bytesMax = try reader.read()
        from = try reader.readBytesWithLength(limit: Self.boundBytesMax)
        end = hasEnd ? try reader.readBytesWithLength(limit: Self.boundBytesMax) : nil
    }
}

/// A page of a scan, as it stood when its group had applied the entry that the answer names.
///
/// `has next u8 | records u32 | each: revision u64, expiry u64, key: length u32, bytes, value: length u32, bytes |
/// next: length u32, bytes, if there is one`
public struct KeyValueScanPage: Message {
    public struct Record: Hashable, Sendable {
        public var key: Bytes
        public var value: Bytes
        public var revision: Revision
        /// In log time; 0: never.
        public var expiry: LogTime

        public init(key: Bytes, value: Bytes, revision: Revision, expiry: LogTime = .zero) {
            self.key = key
            self.value = value
            self.revision = revision
            self.expiry = expiry
        }

        static let encodedBytesMin = 24
        public var encodedBytes: Int { Self.encodedBytesMin + key.count + value.count }
    }

    /// Ascending by key.
    public var records: [Record]
    /// Where the next page begins; nil: there is none. A page over many deleted records may be empty and have a next one.
    public var next: Bytes?

    public init(records: [Record], next: Bytes?) {
        self.records = records
        self.next = next
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(next != nil)
        writer.write(UInt32(records.count))
        for record in records {
            writer.write(record.revision)
            writer.write(record.expiry)
            writer.writeWithLength(record.key)
            writer.writeWithLength(record.value)
        }
        if let next { writer.writeWithLength(next) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let hasNext = try reader.readBool()
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: Record.encodedBytesMin)
        records = []
        records.reserveCapacity(count)
        for _ in 0..<count {
            let revision = try reader.read(Revision.self)
            let expiry = try reader.read(LogTime.self)
            records.append(
                Record(
                    key: try reader.readBytesWithLength(limit: Limits.keyBytesMax),
                    value: try reader.readBytesWithLength(limit: Limits.valueBytesMax), revision: revision,
                    expiry: expiry))
        }
        next = hasNext ? try reader.readBytesWithLength(limit: KeyValueScan.boundBytesMax) : nil
    }
}
