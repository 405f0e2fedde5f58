// Watches: what changed behind a revision. A watch is asked for again and again, each time from where the last answer
// ended; the host keeps nothing of it in between.

public import Primitives

/// What became of a key, or was said by a machine, at one revision of its group.
///
/// `kind u8 | number u16 | revision u64 | expiry u64 | key: length u32, bytes | value: length u32, bytes`
public struct Change: Hashable, Sendable {
    public enum Kind: UInt8, Hashable, Sendable {
        /// The key got this value.
        case put = 1
        /// The key was deleted. No value.
        case deleted = 2
        /// The key's time to live was over. No value.
        case expired = 3
        /// A user's machine emitted an event; `number` says which, the value is its bytes.
        case event = 4
        /// All keys that begin with this one are gone. No value. Whoever watches any of them is told. From feature level 9
        /// on.
        case cleared = 5
    }
    public var kind: Kind
    /// Of an event, among its machine's; 0 otherwise.
    public var number: UInt16
    public var revision: Revision
    /// Of `put`: when the key ends, in log time; 0: never.
    public var expiry: LogTime
    public var key: Bytes
    public var value: Bytes

    public init(
        _ kind: Kind, number: UInt16 = 0, revision: Revision, expiry: LogTime = .zero, key: Bytes,
        value: Bytes = Bytes()
    ) {
        self.kind = kind
        self.number = number
        self.revision = revision
        self.expiry = expiry
        self.key = key
        self.value = value
    }

    package static let encodedBytesMin = 27
    package var encodedBytes: Int { Self.encodedBytesMin + key.count + value.count }

    package func encode(into writer: inout ByteWriter) {
        writer.write(kind.rawValue)
        writer.write(number)
        writer.write(revision)
        writer.write(expiry)
        writer.writeWithLength(key)
        writer.writeWithLength(value)
    }

    /// Nil: one of a kind that this version does not know, which is passed over.
    init?(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = Kind(rawValue: try reader.read())
        number = try reader.read()
        revision = try reader.read()
        expiry = try reader.read()
        key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
        value = try reader.readBytesWithLength(limit: Limits.valueBytesMax)
        guard let kind else { return nil }
        self.kind = kind
    }
}

/// Asks a group's leader for the changes behind a revision, of one sub state machine's keys in one slot. Answered as soon as
/// there are some, or with none when the time is over.
///
/// `group u32 | epoch u64 | slot u16 | machine u16 | after's group u32 | after u64 | wait u32 | bytes u32 | has end u8 |
/// from: length u32, bytes | end: length u32, bytes, if there is one`
public struct WatchRequest: Message {
    public var group: GroupID
    /// The slot's epoch as the client knows it.
    public var epoch: Epoch
    public var slot: Slot
    public var machine: SubMachineNumber
    public var range: WatchRange

    public init(group: GroupID, epoch: Epoch, slot: Slot, machine: SubMachineNumber, range: WatchRange) {
        self.group = group
        self.epoch = epoch
        self.slot = slot
        self.machine = machine
        self.range = range
    }

    public func encode(into writer: inout ByteWriter) {
        Self.encodeHeader(group: group, epoch: epoch, slot: slot, machine: machine, into: &writer)
        range.encode(into: &writer)
    }

    /// The part before the range, which the caller then writes himself.
    public static func encodeHeader(
        group: GroupID, epoch: Epoch, slot: Slot, machine: SubMachineNumber, into writer: inout ByteWriter
    ) {
        writer.write(group)
        writer.write(epoch)
        writer.write(slot)
        writer.write(machine)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        epoch = try reader.read()
        slot = try reader.read()
        machine = try reader.read()
        range = try WatchRange(from: &reader)
    }
}

/// What a watch is about: which keys, and behind which revision.
public struct WatchRange: Message, Hashable {
    /// Whose revision `after` is, as an answer said; `.meta`, which nobody watches: not known.
    public var group: GroupID
    /// Changes at higher revisions are asked for.
    public var after: Revision
    /// How long to wait for some; the host has its own bound.
    public var waitMillis: UInt32
    /// Of the answer's changes as encoded, but all of one revision come together. The host has its own bound.
    public var bytesMax: UInt32
    public var from: Bytes
    /// The first key that is not watched; nil: all behind `from` are.
    public var end: Bytes?

    /// The host's own bounds on them.
    public static let waitMillisMax: UInt32 = 30_000
    public static let bytesMaxMax = 1 << 20

    public init(
        after: Revision, of group: GroupID = .meta, waitMillis: UInt32, bytesMax: UInt32 = .max, from: Bytes,
        end: Bytes?
    ) {
        self.group = group
        self.after = after
        self.waitMillis = waitMillis
        self.bytesMax = bytesMax
        self.from = from
        self.end = end
    }

    /// One key alone.
    public init(after: Revision, waitMillis: UInt32, bytesMax: UInt32 = .max, key: Bytes) {
        self.init(after: after, waitMillis: waitMillis, bytesMax: bytesMax, from: key, end: Self.behind(key))
    }

    static func behind(_ key: Bytes) -> Bytes { Bytes(key.array + [0]) }

    /// It is about one key alone.
    public var isOneKey: Bool {
        guard let end, end.count == from.count + 1, end[from.count] == 0 else { return false }
        return end[0..<from.count] == from
    }

    public func contains(_ key: Bytes) -> Bool { key >= from && end.map { key < $0 } ?? true }

    /// Some of what begins with this key may be in it.
    package func touches(keysWith prefix: Bytes) -> Bool { contains(prefix) || from.starts(with: prefix) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(after)
        writer.write(waitMillis)
        writer.write(bytesMax)
        writer.write(end != nil)
        writer.writeWithLength(from)
        if let end { writer.writeWithLength(end) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        after = try reader.read()
        waitMillis = try reader.read()
        bytesMax = try reader.read()
        let hasEnd = try reader.readBool()
        from = try reader.readBytesWithLength(limit: Limits.keyBytesMax + 1)
        end = hasEnd ? try reader.readBytesWithLength(limit: Limits.keyBytesMax + 1) : nil
    }
}

/// The answer to a watch, in a `DataResult`: its revision is the one up to which all changes that were asked for are in
/// here, in the order of revisions, and in that of the command within one.
///
/// `group u32 | changes u32 | each`
public struct WatchAnswer: Message {
    /// Whose revisions these are.
    public var group: GroupID
    public var changes: [Change]

    public init(_ changes: [Change] = [], group: GroupID) {
        self.group = group
        self.changes = changes
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(UInt32(changes.count))
        for change in changes { change.encode(into: &writer) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: Change.encodedBytesMin)
        changes = []
        changes.reserveCapacity(count)
        for _ in 0..<count {
            if let change = try Change(from: &reader) { changes.append(change) }
        }
    }
}
