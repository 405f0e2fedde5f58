// The data service: commands, queries and pages of records for one group. The commands and queries themselves are the
// state machines' business and pass through here as bytes.

public import Primitives

/// A command for the group that owns a slot. `payload` is a command header and a command; it becomes the log entry's
/// payload as it stands, without a copy.
///
/// `group u32 | epoch u64 | slot u16 | 0 u16 | payload`
public struct ExecuteRequest: Message {
    public var group: GroupID
    /// The slot's epoch as the client knows it.
    public var epoch: Epoch
    public var slot: Slot
    public var payload: Bytes

    public static let headerBytes = 16

    @inlinable public init(group: GroupID, epoch: Epoch, slot: Slot, payload: Bytes) {
        self.group = group
        self.epoch = epoch
        self.slot = slot
        self.payload = payload
    }

    @inlinable public func encode(into writer: inout ByteWriter) {
        Self.encodeHeader(group: group, epoch: epoch, slot: slot, into: &writer)
        writer.write(payload)
    }

    /// The part before the payload, which the caller then writes himself.
    @inlinable public static func encodeHeader(group: GroupID, epoch: Epoch, slot: Slot, into writer: inout ByteWriter)
    {
        let place = writer.extend(by: headerBytes)
        place.storeBytes(of: group.rawValue.littleEndian, toByteOffset: 0, as: UInt32.self)
        place.storeBytes(of: epoch.rawValue.littleEndian, toByteOffset: 4, as: UInt64.self)
        place.storeBytes(of: slot.rawValue.littleEndian, toByteOffset: 12, as: UInt16.self)
        place.storeBytes(of: 0, toByteOffset: 14, as: UInt16.self)
    }

    @inlinable public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try self.init(decoding: reader.readRest())
    }

    /// No allocation: the payload is a slice.
    @inlinable public init(decoding bytes: Bytes) throws(DecodingFailure) {
        guard bytes.count >= Self.headerBytes else {
            throw DecodingFailure(expected: "an execute request of at least 16 bytes", found: "\(bytes.count)")
        }
        let (group, epoch, slot, reserved) = bytes.withUnsafeBytes { header in
            (
                UInt32(littleEndian: header.loadUnaligned(fromByteOffset: 0, as: UInt32.self)),
                UInt64(littleEndian: header.loadUnaligned(fromByteOffset: 4, as: UInt64.self)),
                UInt16(littleEndian: header.loadUnaligned(fromByteOffset: 12, as: UInt16.self)),
                header.loadUnaligned(fromByteOffset: 14, as: UInt16.self)
            )
        }
        guard reserved == 0 else {
            throw DecodingFailure(expected: "0 in an execute request's reserved field", found: "\(reserved)")
        }
        self.init(
            group: GroupID(group), epoch: Epoch(epoch), slot: Slot(slot), payload: bytes[Self.headerBytes..<bytes.count]
        )
    }
}

/// What a read may miss.
///
/// Numbers on the wire: 0 linearizable, 1 linearizableAnywhere, 2 local, 3 lease, 4 session (bound: a log index), 5 stale
/// (bound: milliseconds). Hosts below feature level 8 don't know 4.
public enum Consistency: UInt8, Hashable, Sendable, CaseIterable {
    /// Answered by the leader, which asks a majority first.
    case linearizable = 0
    /// As new, answered by any replica, which asks its leader for the index to wait for.
    case linearizableAnywhere = 1
    /// What this replica has applied, however old.
    case local = 2
    /// As linearizable, answered by the leader at once while it has a lease: as long as no host's clock runs faster or
    /// slower than hosts are told to expect.
    case lease = 3
    /// Not before the entry `bound` of the group's log was applied: the client was told of that state. Answered by any
    /// replica; by one that is that far without a word to others. Of what has no bound: as linearizableAnywhere.
    case session = 4
    /// Misses nothing that was acknowledged `bound` milliseconds before it, or earlier. Answered by any replica; by one
    /// that made sure of its state within that time without a word to others.
    case stale = 5

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = Consistency(rawValue: number) else {
            throw DecodingFailure(expected: "a consistency of 0 to 5", found: "\(number)")
        }
        self = known
    }
}

/// A question to one sub state machine about one slot.
///
/// `group u32 | epoch u64 | slot u16 | machine u16 | consistency u8 | 0 u8 × 3 | bound u64 | query`
public struct QueryRequest: Message {
    public var group: GroupID
    /// The slot's epoch as the client knows it.
    public var epoch: Epoch
    public var slot: Slot
    public var machine: SubMachineNumber
    public var consistency: Consistency
    /// Of `session`: a log index. Of `stale`: milliseconds. Others don't look at it.
    public var bound: UInt64
    public var query: Bytes

    public static let headerBytes = 28

    public init(
        group: GroupID, epoch: Epoch, slot: Slot, machine: SubMachineNumber,
        consistency: Consistency = .linearizable, bound: UInt64 = 0, query: Bytes
    ) {
        self.group = group
        self.epoch = epoch
        self.slot = slot
        self.machine = machine
        self.consistency = consistency
        self.bound = bound
        self.query = query
    }

    public func encode(into writer: inout ByteWriter) {
        let place = writer.extend(by: Self.headerBytes)
        place.storeBytes(of: group.rawValue.littleEndian, toByteOffset: 0, as: UInt32.self)
        place.storeBytes(of: epoch.rawValue.littleEndian, toByteOffset: 4, as: UInt64.self)
        place.storeBytes(of: slot.rawValue.littleEndian, toByteOffset: 12, as: UInt16.self)
        place.storeBytes(of: machine.rawValue.littleEndian, toByteOffset: 14, as: UInt16.self)
        place.storeBytes(of: UInt32(consistency.rawValue).littleEndian, toByteOffset: 16, as: UInt32.self)
        place.storeBytes(of: bound.littleEndian, toByteOffset: 20, as: UInt64.self)
        writer.write(query)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        epoch = try reader.read()
        slot = try reader.read()
        machine = try reader.read()
        consistency = try Consistency(from: &reader)
        for _ in 0..<3 {
            let reserved = try reader.read(UInt8.self)
            guard reserved == 0 else {
                throw DecodingFailure(expected: "0 in a query's reserved field", found: "\(reserved)")
            }
        }
        bound = try reader.read()
        query = reader.readRest()
    }
}

/// The result of a command or a query: where it stands in the group's history, and what the sub state machine said.
///
/// `index u64 | revision u64 | body`
public struct DataResult: Message {
    /// Of the command's entry; of the last applied entry that a query saw.
    public var index: LogIndex
    /// At which the command took effect; the group's at the moment of a query.
    public var revision: Revision
    public var body: Bytes

    @inlinable public init(index: LogIndex, revision: Revision, body: Bytes = Bytes()) {
        self.index = index
        self.revision = revision
        self.body = body
    }

    @inlinable public func encode(into writer: inout ByteWriter) {
        writer.write(index.rawValue)
        writer.write(revision.rawValue)
        writer.write(body)
    }

    /// A whole `Response.done` but for the body, which the caller writes behind it: outcome, index, revision.
    @inlinable public static func encodeDone(index: LogIndex, revision: Revision, into writer: inout ByteWriter) {
        let place = writer.extend(by: 17)
        place.storeBytes(of: 0, toByteOffset: 0, as: UInt8.self)
        place.storeBytes(of: index.rawValue.littleEndian, toByteOffset: 1, as: UInt64.self)
        place.storeBytes(of: revision.rawValue.littleEndian, toByteOffset: 9, as: UInt64.self)
    }

    /// Of an encoded one, without the rest; nil if it is none.
    public static func index(of encoded: Bytes) -> LogIndex? {
        encoded.withUnsafeBytes {
            $0.count < 16 ? nil : LogIndex(UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)))
        }
    }

    @inlinable public init(from reader: inout ByteReader) throws(DecodingFailure) {
        self.init(index: LogIndex(try reader.read()), revision: Revision(try reader.read()), body: reader.readRest())
    }
}

/// Where a record stands: the order of a page is slot, machine, key.
public struct RecordPosition: Hashable, Sendable {
    public var slot: Slot
    public var machine: SubMachineNumber
    public var key: Bytes

    public init(slot: Slot, machine: SubMachineNumber, key: Bytes) {
        self.slot = slot
        self.machine = machine
        self.key = key
    }

    /// `slot u16 | machine u16 | key: length u32, bytes`
    func encode(into writer: inout ByteWriter) {
        writer.write(slot)
        writer.write(machine)
        writer.writeWithLength(key)
    }

    /// The position alone, in bytes of its own.
    package func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 8 + key.count)
        encode(into: &writer)
        return writer.take()
    }

    package init(decoding bytes: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(bytes)
        try self.init(from: &reader)
        try reader.expectEnd()
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        slot = try reader.read()
        machine = try reader.read()
        // One more than a key may have: a page may begin right behind the longest key.
        key = try reader.readBytesWithLength(limit: Limits.keyBytesMax + 1)
    }
}

/// The next live records of a group, in order. Each page is a read of its own: together they are not a snapshot.
///
/// `group u32 | consistency u8 | has position u8 | position | bytes u32`
public struct PageRequest: Message {
    public var group: GroupID
    public var consistency: Consistency
    /// Where the page begins, this position included: `next` of the page before; nil for the first page.
    public var from: RecordPosition?
    /// Of the page's records as encoded (`PageRecord.encodedBytes`), but one record always fits. The server takes
    /// `Limits.pageBytesMax` for anything above it.
    public var bytesMax: UInt32

    public init(group: GroupID, consistency: Consistency = .linearizable, from: RecordPosition?, bytesMax: UInt32) {
        self.group = group
        self.consistency = consistency
        self.from = from
        self.bytesMax = bytesMax
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(consistency.rawValue)
        writer.write(from != nil)
        from?.encode(into: &writer)
        writer.write(bytesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        consistency = try Consistency(from: &reader)
        from = try reader.readBool() ? RecordPosition(from: &reader) : nil
        bytesMax = try reader.read()
    }
}

/// A live record in a page.
public struct PageRecord: Hashable, Sendable {
    public var position: RecordPosition
    public var revision: Revision
    /// 0: never.
    public var expiry: LogTime
    public var value: Bytes

    public init(position: RecordPosition, revision: Revision, expiry: LogTime = .zero, value: Bytes) {
        self.position = position
        self.revision = revision
        self.expiry = expiry
        self.value = value
    }

    static let encodedBytesMin = 28
    /// What the record takes in a page.
    public var encodedBytes: Int { Self.encodedBytesMin + position.key.count + value.count }
}

/// `index u64 | revision u64 | has next u8 | next position | records u32 | each: position, revision u64, expiry u64,
/// value: length u32, bytes`
public struct PageResult: Message {
    /// The last entry applied, and the group's revision, when the page was read.
    public var index: LogIndex
    public var revision: Revision
    public var records: [PageRecord]
    /// Where the next page begins; nil: there is none. A page over many deleted records may be empty and have a next
    /// one.
    public var next: RecordPosition?

    public init(index: LogIndex, revision: Revision, records: [PageRecord], next: RecordPosition?) {
        self.index = index
        self.revision = revision
        self.records = records
        self.next = next
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(index)
        writer.write(revision)
        writer.write(next != nil)
        next?.encode(into: &writer)
        writer.write(UInt32(records.count))
        for record in records {
            record.position.encode(into: &writer)
            writer.write(record.revision)
            writer.write(record.expiry)
            writer.writeWithLength(record.value)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        index = try reader.read()
        revision = try reader.read()
        next = try reader.readBool() ? RecordPosition(from: &reader) : nil
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: PageRecord.encodedBytesMin)
        records = []
        records.reserveCapacity(count)
        for _ in 0..<count {
            records.append(
                PageRecord(
                    position: try RecordPosition(from: &reader), revision: try reader.read(), expiry: try reader.read(),
                    value: try reader.readBytesWithLength(limit: Limits.valueBytesMax)))
        }
    }
}
