// What the two groups of a migration do for it, as commands of their own logs. Owns their encoding; what they do is in
// SlotOwnership. Their leaders propose them, as the map says; every one may come again, and late.

public import Messages
public import Primitives
import Ring

/// Sub state machine 5's commands, leaders' alone: `number u8 | version u8 = 1 | migration u64 | fields` behind a header. They
/// need feature level `FeatureLevel.migrations`.
public enum SlotCommand: Hashable, Sendable {
    /// 1, `target u32 | slots`. The source: what becomes of its records of these slots is of interest from now on.
    case beginExport(MigrationID, [Slot], target: GroupID)
    /// 2, `source u32 | source time u64 | slots`. The target: takes in pages from now on. `sourceTime` is a log time of the
    /// source: deadlines are as far behind the target's own one as they were behind that, and `MigrationClock.slackMillis`
    /// more.
    case beginImport(MigrationID, [Slot], source: GroupID, sourceTime: LogTime)
    /// 3. The target takes the next page, and does nothing at others.
    case page(MigrationID, MigrationPage)
    /// 4. The source takes no commands for these slots from now on.
    case freeze(MigrationID)
    /// 5, `frozen index u64 | revision u64 | source time u64 | own time u64`. The target has all, as of the source's entry
    /// that froze it, and its revision then: its own goes on above that. `seen` are a log time of the source when it was
    /// frozen or later, and one of the target's own of the same moment or later: where something ends, and would end early
    /// by these, it is not the migration's next step.
    case seal(MigrationID, frozen: LogIndex, Revision, seen: MigrationClock)
    /// 6, `epoch u64`. The source does not own the slots any more, since that epoch of the ring.
    case release(MigrationID, Epoch)
    /// 7, `epoch u64 | revision u64`. The target serves the slots, since that epoch of the ring. Nobody was told of a higher
    /// revision for them where they were: what is changed here has higher ones.
    case activate(MigrationID, Epoch, Revision)
    /// 8, `slots`. It is aborted: the source serves the slots as before, the target begins to delete what it has of them.
    case forget(MigrationID, [Slot])
    /// 9, `count u16 | places`. Records of slots that are to be deleted, as the leader found them.
    case clear(MigrationID, [RecordPosition])
    /// 10. The leader found none any more.
    case cleared(MigrationID)
    /// 11, `other u32 | owns u8 | epoch u64 | slots`. A recovery has settled whose the slots are, since that epoch of the ring:
    /// this group's, as it has them, or another's, and this one deletes what it has. Whatever it did for them before is over.
    case settle(MigrationID, [Slot], other: GroupID, Epoch, owns: Bool)

    static let formatVersion: UInt8 = 1
    /// Places in one command.
    public static let clearedMax = 1_024

    public var migration: MigrationID {
        switch self {
        case .beginExport(let id, _, _), .beginImport(let id, _, _, _), .page(let id, _), .freeze(let id),
            .seal(let id, _, _, _), .release(let id, _), .activate(let id, _, _), .forget(let id, _), .clear(let id, _),
            .cleared(let id), .settle(let id, _, _, _, _):
            id
        }
    }

    private var number: UInt8 {
        switch self {
        case .beginExport: 1
        case .beginImport: 2
        case .page: 3
        case .freeze: 4
        case .seal: 5
        case .release: 6
        case .activate: 7
        case .forget: 8
        case .clear: 9
        case .cleared: 10
        case .settle: 11
        }
    }

    /// A whole payload.
    public func payload() -> Bytes {
        var writer = ByteWriter(capacity: 128)
        CommandHeader(machine: .slotOwnership).encode(into: &writer)
        writer.write(number)
        writer.write(Self.formatVersion)
        writer.write(migration)
        switch self {
        case .beginExport(_, let slots, let target):
            writer.write(target)
            writer.write(slots: slots)
        case .beginImport(_, let slots, let source, let time):
            writer.write(source)
            writer.write(time)
            writer.write(slots: slots)
        case .page(_, let page): page.encode(into: &writer)
        case .seal(_, let index, let revision, let seen):
            writer.write(index)
            writer.write(revision)
            writer.write(seen.sourceTime)
            writer.write(seen.ownTime)
        case .release(_, let epoch): writer.write(epoch)
        case .activate(_, let epoch, let revision):
            writer.write(epoch)
            writer.write(revision)
        case .forget(_, let slots): writer.write(slots: slots)
        case .clear(_, let places):
            writer.write(UInt16(places.count))
            for place in places { writer.write(place.encoded()) }
        case .settle(_, let slots, let other, let epoch, let owns):
            writer.write(other)
            writer.write(owns)
            writer.write(epoch)
            writer.write(slots: slots)
        case .freeze, .cleared: break
        }
        return writer.take()
    }

    /// Reads a whole payload, header included.
    public init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let (number, version) = (try reader.read(UInt8.self), try reader.read(UInt8.self))
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a command about slots of version 1", found: "version \(version)")
        }
        let id = try reader.read(MigrationID.self)
        guard id != .none else { throw DecodingFailure(expected: "a migration's number", found: "0") }
        switch number {
        case 1:
            let target = try reader.read(GroupID.self)
            self = .beginExport(id, try reader.readSlots(), target: target)
        case 2:
            let (source, time) = (try reader.read(GroupID.self), try reader.read(LogTime.self))
            self = .beginImport(id, try reader.readSlots(), source: source, sourceTime: time)
        case 3: self = .page(id, try MigrationPage(from: &reader))
        case 4: self = .freeze(id)
        case 5:
            let index = try reader.read(LogIndex.self)
            let revision = try reader.readRevision()
            let sourceTime = try reader.read(LogTime.self)
            self = .seal(
                id, frozen: index, revision,
                seen: MigrationClock(sourceTime: sourceTime, ownTime: try reader.read()))
        case 6: self = .release(id, try reader.read())
        case 7:
            let epoch = try reader.read(Epoch.self)
            self = .activate(id, epoch, try reader.readRevision())
        case 8: self = .forget(id, try reader.readSlots())
        case 9:
            let count = Int(try reader.read(UInt16.self))
            guard count <= Self.clearedMax else {
                throw DecodingFailure(expected: "at most \(Self.clearedMax) records", found: "\(count)")
            }
            var places: [RecordPosition] = []
            for _ in 0..<count { places.append(try RecordPosition(from: &reader)) }
            self = .clear(id, places)
        case 10: self = .cleared(id)
        case 11:
            let (other, owns) = (try reader.read(GroupID.self), try reader.readBool())
            let epoch = try reader.read(Epoch.self)
            self = .settle(id, try reader.readSlots(), other: other, epoch, owns: owns)
        default: throw DecodingFailure(expected: "a command about slots, 1 to 11", found: "\(number)")
        }
        try reader.expectEnd()
    }
}

/// Some of what a source has of the slots that move: records, deletions, what is due, and who holds something.
///
/// `number u64 | base u64 | start u64 | from: length u32, bytes | next likewise | revision u64 | records: count u32, each: slot u16,
/// machine u16, revision u64, expiry u64, has value u8, key: length u32, bytes, value likewise if there is one | deadlines:
/// count u32, each: key: length u32, bytes, has value u8, value likewise if there is one | holders: count u32, each: session
/// u64, time to live u64, count u16, each a SessionHolding`
public struct MigrationPage: Hashable, Sendable {
    public struct Record: Hashable, Sendable {
        public var place: RecordPosition
        public var revision: Revision
        /// By the source's log time; 0: never.
        public var expiry: LogTime
        /// nil: it is deleted.
        public var value: Bytes?

        public init(place: RecordPosition, revision: Revision, expiry: LogTime, value: Bytes?) {
            self.place = place
            self.revision = revision
            self.expiry = expiry
            self.value = value
        }
    }

    /// A record of the source's deadlines: a command that is due then, or a sweep; nil: it is not due any more.
    public struct Due: Hashable, Sendable {
        public var key: DeadlineKey
        public var value: Bytes?

        public init(key: DeadlineKey, value: Bytes?) { (self.key, self.value) = (key, value) }
    }

    /// A session of the source, and what it holds in these slots.
    public struct Holder: Hashable, Sendable {
        public var session: SessionID
        /// Milliseconds.
        public var timeToLive: UInt64
        public var holdings: [SessionHolding]

        public init(session: SessionID, timeToLive: UInt64, holdings: [SessionHolding]) {
            self.session = session
            self.timeToLive = timeToLive
            self.holdings = holdings
        }
    }

    /// From 1 on.
    public var number: UInt64
    /// What changed behind it in the source's log is there; 0: whatever there is.
    public var base: LogIndex
    /// The source had applied so much when the first page of the round was read.
    public var start: LogIndex
    /// The first place that this page looked at, as a `RecordPosition`; empty: the beginning.
    public var from: Bytes
    /// The first one that the round has not passed with it; empty: it is complete.
    public var next: Bytes
    /// None of the records has a higher one.
    public var revision: Revision
    public var records: [Record]
    public var dues: [Due]
    public var holders: [Holder]

    /// Something in it ends, or comes, at a time: a record, or a command. Sweeps do not count. Reads each deadline.
    public var hasEnds: Bool {
        records.contains { $0.value != nil && $0.expiry > .zero }
            || dues.contains { due in
                guard let value = due.value, let deadline = try? Deadline(key: due.key.key, value: value),
                    case .command = deadline.purpose
                else { return false }
                return true
            }
    }

    /// Of records, of what is due, and of holders, each.
    public static let countMax = 4_096
    package static let positionBytesMax = 8 + Limits.keyBytesMax + 1

    public init(
        number: UInt64, base: LogIndex, start: LogIndex, from: Bytes, next: Bytes, revision: Revision,
        records: [Record] = [],
        dues: [Due] = [], holders: [Holder] = []
    ) {
        self.number = number
        self.base = base
        self.start = start
        self.from = from
        self.next = next
        self.revision = revision
        self.records = records
        self.dues = dues
        self.holders = holders
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(number)
        writer.write(base)
        writer.write(start)
        writer.writeWithLength(from)
        writer.writeWithLength(next)
        writer.write(revision)
        writer.write(UInt32(records.count))
        for record in records {
            writer.write(record.place.slot)
            writer.write(record.place.machine)
            writer.write(record.revision)
            writer.write(record.expiry)
            writer.write(record.value != nil)
            writer.writeWithLength(record.place.key)
            if let value = record.value { writer.writeWithLength(value) }
        }
        writer.write(UInt32(dues.count))
        for due in dues {
            writer.writeWithLength(due.key.key)
            writer.write(due.value != nil)
            if let value = due.value { writer.writeWithLength(value) }
        }
        writer.write(UInt32(holders.count))
        for holder in holders {
            writer.write(holder.session)
            writer.write(holder.timeToLive)
            writer.write(UInt16(truncatingIfNeeded: holder.holdings.count))
            for holding in holder.holdings { holding.encode(into: &writer) }
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (number, base, start) = (try reader.read(), try reader.read(), try reader.read())
        // As everywhere, numbers from 2^62 on are left alone: what is added to one does not overflow.
        guard number < 1 << 62, base.rawValue < 1 << 62, start.rawValue < 1 << 62 else {
            throw DecodingFailure(expected: "numbers below 2^62", found: "\(number), \(base), \(start)")
        }
        from = try reader.readBytesWithLength(limit: Self.positionBytesMax)
        next = try reader.readBytesWithLength(limit: Self.positionBytesMax)
        for place in [from, next] where !place.isEmpty { _ = try RecordPosition(decoding: place) }
        revision = try reader.readRevision()
        records = []
        for _ in 0..<(try reader.readCount(ofSize: 25)) {
            let (slot, machine) = (try reader.read(Slot.self), try reader.read(SubMachineNumber.self))
            let (revision, expiry) = (try reader.readRevision(), try reader.read(LogTime.self))
            let hasValue = try reader.readBool()
            let key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
            records.append(
                Record(
                    place: RecordPosition(slot: slot, machine: machine, key: key), revision: revision, expiry: expiry,
                    value: hasValue ? try reader.readBytesWithLength(limit: Self.valueBytesMax) : nil))
        }
        dues = []
        for _ in 0..<(try reader.readCount(ofSize: 5)) {
            let key = try DeadlineKey(key: reader.readBytesWithLength(limit: 64))
            dues.append(
                Due(
                    key: key,
                    value: try reader.readBool() ? try reader.readBytesWithLength(limit: Self.valueBytesMax) : nil))
        }
        holders = []
        for _ in 0..<(try reader.readCount(ofSize: 18)) {
            let (session, timeToLive) = (try reader.read(SessionID.self), try reader.read(UInt64.self))
            guard (1...SessionTable.Limits.timeToLiveMax).contains(timeToLive), session != .none else {
                throw DecodingFailure(
                    expected: "a session that lives for up to \(SessionTable.Limits.timeToLiveMax) ms",
                    found: "\(session), \(timeToLive) ms")
            }
            let count = Int(try reader.read(UInt16.self))
            try reader.check(count: count, ofSize: SessionHolding.encodedBytesMin)
            var holdings: [SessionHolding] = []
            for _ in 0..<count { holdings.append(try SessionHolding(from: &reader)) }
            holders.append(Holder(session: session, timeToLive: timeToLive, holdings: holdings))
        }
    }

    /// What machines make of a value that a client sends may be some larger than that.
    private static let valueBytesMax = 2 * Limits.valueBytesMax
}

extension ByteReader {
    /// One that may become a group's: what is added to it does not overflow.
    package mutating func readRevision() throws(DecodingFailure) -> Revision {
        let revision = try read(Revision.self)
        guard revision.rawValue < 1 << 62 else {
            throw DecodingFailure(expected: "a revision below 2^62", found: "\(revision)")
        }
        return revision
    }

    fileprivate mutating func readCount(ofSize size: Int) throws(DecodingFailure) -> Int {
        let count = Int(try read(UInt32.self))
        guard count <= MigrationPage.countMax else {
            throw DecodingFailure(expected: "at most \(MigrationPage.countMax) in one page", found: "\(count)")
        }
        try check(count: count, ofSize: size)
        return count
    }
}
