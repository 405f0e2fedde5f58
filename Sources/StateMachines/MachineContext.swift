// What users' commands and queries see of their group. Owns the rules that keep a command within its slot and its
// bounds; what is written is kept by an `ApplyContext`.

public import Messages
public import Primitives
import Ring

/// A record as users' machines see it.
public struct MachineRecord: Hashable, Sendable {
    public var value: Bytes
    /// At which it got its value.
    public var revision: Revision

    public init(value: Bytes, revision: Revision) {
        self.value = value
        self.revision = revision
    }
}

/// What a request could not do: it ends like this whatever the machine makes of the error, also in a copy of its context.
/// Belongs to one request, on one thread.
final class MachineTrouble {
    // Unchecked: each is read or set by itself, and nothing of the caller's runs meanwhile.

    /// Records have to be fetched first.
    @exclusivity(unchecked) private(set) var unready: Unready?
    @exclusivity(unchecked) private(set) var broken: MachineFailure?
    /// Ranges that have to be looked up first.
    @exclusivity(unchecked) private(set) var rangesUnready: [MachineRange] = []
    /// The disk's own word.
    @exclusivity(unchecked) var failed: (any Error)?
    @exclusivity(unchecked) private var reads = 0
    @exclusivity(unchecked) private var readBytes = 0
    @exclusivity(unchecked) private var writes = 0
    @exclusivity(unchecked) private var writtenBytes = 0
    @exclusivity(unchecked) private var events = 0
    @exclusivity(unchecked) private var eventBytes = 0

    /// Read, and as many more as the look-ups cost, about.
    var bytesOfReads: Int { readBytes + 256 * reads }

    func note(_ rule: MachineFailure.Rule) -> MachineFailure {
        let failure = MachineFailure(rule)
        broken = broken ?? failure
        return failure
    }

    func note(_ error: Unready) -> Unready {
        unready = unready ?? error
        return error
    }

    /// It has to wait for records: these may be fetched along.
    func wait(along places: [RecordPosition]) { unready?.along += places }

    func note(_ range: MachineRange) -> Unready {
        rangesUnready.append(range)
        return note(Unready([]))
    }

    /// A machine's records are those with keys in one slot.
    func check(_ key: Bytes, in slot: Slot, of machine: SubMachineNumber) throws(MachineFailure) {
        guard !key.isEmpty, key.count <= Limits.keyBytesMax else { throw note(.badKey) }
        guard machine.isDataType || Ring.slot(of: key) == slot else { throw note(.keyElsewhere) }
    }

    func willRead() throws(MachineFailure) {
        reads += 1
        guard reads <= MachineContext.Limits.readsMax else { throw note(.readsTooMuch) }
    }

    func hasRead(_ bytes: Int) throws(MachineFailure) {
        readBytes += bytes
        guard readBytes <= MachineContext.Limits.readBytesMax else { throw note(.readsTooMuch) }
    }

    func willEmit(_ bytes: Int) throws(MachineFailure) {
        events += 1
        eventBytes += bytes
        guard events <= MachineContext.Limits.eventsMax, eventBytes <= MachineContext.Limits.eventBytesMax else {
            throw note(.emitsTooMuch)
        }
    }

    func willWrite(_ bytes: Int) throws(MachineFailure) {
        writes += 1
        writtenBytes += bytes
        guard writes <= MachineContext.Limits.writesMax, writtenBytes <= MachineContext.Limits.writtenBytesMax else {
            throw note(.writesTooMuch)
        }
    }
}

/// What a command of a user's machine sees while it is applied: the machine's records in the slot of the command's key.
///
/// What it gives is the same on every replica. Reads see what the command has written so far.
public struct MachineContext {
    /// The entry's place in the group's log.
    public var index: LogIndex { context.index }
    /// The group's elapsed time, in milliseconds since it began; never falls, and stands still while nobody can commit.
    public var logTime: LogTime { context.logTime }
    /// What this command's writes get as their revision.
    public var revision: Revision { context.revision }
    /// Of the caller; `.none` if he has none.
    public let session: SessionID
    /// Numbers that look as drawn by chance, the same on every replica.
    public var random: SeededRandom {
        get { context.random }
        set { context.random = newValue }
    }

    /// Bounds on one command. They decide, so they are part of the format: all replicas agree on them.
    public enum Limits {
        /// Records that it writes.
        public static let writesMax = 1_024
        /// Of all keys and values that it writes, in bytes.
        public static let writtenBytesMax = 4 << 20
        /// Calls of `get`.
        public static let readsMax = 4_096
        /// Of all values that it reads, in bytes.
        public static let readBytesMax = 16 << 20
        /// Of the body of a command that it schedules, in bytes.
        public static let scheduledBytesMax = 64 << 10
        /// From now until a command that it schedules, in milliseconds: some 34 years.
        public static let delayMillisMax: UInt64 = 1 << 40
        /// Events that it emits.
        public static let eventsMax = 256
        /// Of their keys and bodies together, in bytes.
        public static let eventBytesMax = 256 << 10
        /// Of its answer, in bytes.
        public static let answerBytesMax = 1 << 20
    }

    private(set) var context: ApplyContext
    private(set) var events: [ToldEvent] = []
    private(set) var holds: [HoldChange] = []
    /// Why it is applied; nil: a client sent it.
    private var timer: ScheduledCommand?
    /// Of the caller's session.
    private var holdings: [SessionHolding]
    let trouble = MachineTrouble()

    init(_ context: ApplyContext, session: SessionID, holdings: [SessionHolding] = []) {
        self.context = context
        self.session = session
        self.holdings = holdings
    }

    /// The record with this key, as the command has made it or found it; nil if there is none.
    ///
    /// - Throws: if the record has to be fetched first, and if the key breaks a rule. Either ends the command, whether or
    ///   not it lets the error through.
    public mutating func get(_ key: Bytes) throws -> MachineRecord? {
        try trouble.check(key, in: context.slot, of: context.machine)
        try trouble.willRead()
        let found: StoredRecord?
        do throws(Unready) { found = try context.get(key) } catch { throw trouble.note(error) }
        try trouble.hasRead(found?.value.count ?? 0)
        return found.map { MachineRecord(value: $0.value, revision: $0.revision) }
    }

    /// The value with this key; nil if there is none.
    ///
    /// - Throws: as `get(_:)`; and if the value is none of `Value`, which ends the command with a failure.
    public mutating func get<Value: Message>(_ key: Bytes, as _: Value.Type) throws -> Value? {
        try get(key).map { try Value(decoding: $0.value) }
    }

    /// Sets the record with this key.
    ///
    /// - Throws: if it breaks a rule or a bound; that ends the command.
    public mutating func put(_ key: Bytes, _ value: Bytes) throws {
        try trouble.check(key, in: context.slot, of: context.machine)
        guard value.count <= valueBytesMax else { throw trouble.note(.valueTooLarge) }
        try trouble.willWrite(key.count + value.count)
        context.put(key, value)
    }

    /// Sets the record with this key.
    ///
    /// - Throws: as `put(_:_:)`.
    public mutating func put(_ key: Bytes, _ value: some Message) throws { try put(key, value.encoded()) }

    /// Deletes the record with this key, whether or not there is one.
    ///
    /// - Throws: as `put(_:_:)`.
    public mutating func delete(_ key: Bytes) throws {
        try trouble.check(key, in: context.slot, of: context.machine)
        try trouble.willWrite(key.count)
        context.delete(key)
    }
}

extension MachineContext {
    /// Tells whoever watches the machine's events, once the command has taken effect. A command that fails emits nothing.
    /// Events are not part of the state: each host keeps the last ones of each group for those that come late, in memory.
    ///
    /// - Throws: if its key breaks a rule, or a bound is reached; that ends the command.
    public mutating func emit(_ event: some MachineEvent) throws {
        let (key, body) = (event.key, event.encoded())
        try trouble.check(key, in: context.slot, of: context.machine)
        try trouble.willEmit(key.count + body.count)
        tell(EmittedEvent(number: type(of: event).number, key: key, body: body))
    }
}

// What Bifrost's data types do beside.
extension MachineContext {
    package var slot: Slot { context.slot }
    package var group: GroupID { context.group }

    /// Sees to it that reads of these records find them in memory: all that are missing are fetched in one go.
    ///
    /// - Throws: some are not, or they are more than a command may read; that ends the command.
    package mutating func prepare(_ keys: [Bytes]) throws {
        // The read of one says so itself.
        guard keys.count > 1 else { return }
        let isLittle: Bool
        do throws(Unready) { isLittle = try context.prepare(keys, bytesMax: Limits.readBytesMax) } catch {
            throw trouble.note(error)
        }
        if !isLittle { throw trouble.note(.readsTooMuch) }
    }

    /// The command has to wait for records. Those of these that are not in memory are fetched along with them if there are
    /// commands of the same object behind it: one for each.
    package mutating func wait(along keys: [Bytes]) {
        guard trouble.unready?.places.isEmpty == false else { return }
        trouble.wait(along: context.elsewhere(keys))
    }

    /// Tells whoever watches what became of a key, which is the machine's own way to name it.
    package mutating func tell(_ kind: Change.Kind, _ key: Bytes, _ value: Bytes = Bytes()) {
        tell(EmittedEvent(kind: kind, number: 0, key: key, body: value))
    }

    private mutating func tell(_ event: EmittedEvent) {
        events.append(ToldEvent(slot: context.slot, machine: context.machine, event: event))
    }

    /// The caller's session holds this object from now on: when it ends, the machine is told.
    ///
    /// - Throws: it has no session, or holds too much; that ends the command.
    package mutating func hold(_ name: Bytes) throws {
        guard session != .none else { throw trouble.note(.needsSession) }
        let holding = SessionHolding(machine: context.machine, slot: context.slot, name: name)
        var (isHeld, count) = (holdings.has(holding), holdings.count)
        if holds.contains(where: { $0.session == session }) {
            var held = Set(holdings)
            for change in holds where change.session == session {
                if change.isHeld { held.insert(change.holding) } else { held.remove(change.holding) }
            }
            (isHeld, count) = (held.contains(holding), held.count)
        }
        guard !isHeld else { return }
        guard count < SessionTable.Limits.holdingsMax, name.count <= SessionTable.Limits.holdingBytesMax else {
            throw trouble.note(.holdsTooMuch)
        }
        holds.append(HoldChange(session: session, holding: holding, isHeld: true))
    }

    /// The command is done: what its session holds is not looked at any more, and may be changed where it is.
    mutating func forgetHoldings() { holdings = [] }

    /// A session has nothing of this object any more.
    package mutating func letGo(_ name: Bytes, of session: SessionID) {
        let holding = SessionHolding(machine: context.machine, slot: context.slot, name: name)
        holds.append(HoldChange(session: session, holding: holding, isHeld: false))
    }

    /// Has all records deleted some time whose keys begin like this. No command may put one there any more.
    ///
    /// - Throws: a bound is reached; that ends the command.
    package mutating func sweep(_ prefix: Bytes) throws {
        try trouble.willWrite(prefix.count)
        let sweep = Sweep(slot: context.slot, machine: context.machine, prefix: prefix, from: prefix)
        _ = context.set(context.logTime, .sweep(sweep))
    }
}

/// A command that is to be applied later: what `MachineContext.schedule` gives, for who may want to call it off. A machine
/// keeps it in a record of its own.
///
/// `group u32 | time u64 | index u64 | number u16`, 22 bytes: the group that it was scheduled in, and its deadline there.
public struct ScheduledCommand: Message, Hashable {
    let group: GroupID
    let deadline: DeadlineKey

    init(_ group: GroupID, _ deadline: DeadlineKey) { (self.group, self.deadline) = (group, deadline) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(group)
        deadline.encode(into: &writer)
    }
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (group, deadline) = (try reader.read(), try DeadlineKey(from: &reader))
    }
}

/// For records in JSON: an object of four numbers.
extension ScheduledCommand: Codable {
    private enum CodingKeys: CodingKey { case group, time, index, number }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(group.rawValue, forKey: .group)
        try container.encode(deadline.time.rawValue, forKey: .time)
        try container.encode(deadline.index.rawValue, forKey: .index)
        try container.encode(deadline.number, forKey: .number)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        group = GroupID(try container.decode(UInt32.self, forKey: .group))
        deadline = DeadlineKey(
            time: LogTime(try container.decode(UInt64.self, forKey: .time)),
            index: LogIndex(try container.decode(UInt64.self, forKey: .index)),
            number: try container.decode(UInt16.self, forKey: .number))
    }
}

extension MachineContext {
    /// Has a command of this machine applied later: once, on all replicas, whoever leads by then, however often hosts
    /// end; a command that fails schedules nothing. It is in the state and in snapshots like a record, and counts as one
    /// of this command's writes.
    ///
    /// It comes when the group's log time has gone on by `delay`, or as much later as the group takes to notice: a second
    /// and more, and longer while it can't commit or a member's program does not have the command. Log time stands still
    /// while nobody can commit. In between other commands come: so it looks whether there is still something to do. It
    /// has no session, and nobody gets its answer; if it fails, that is the end of it. It may schedule itself again.
    ///
    /// - Parameters:
    ///   - command: one of this machine's `commands` (nobody looks: one that is none waits for ever), its key with the same part in `{…}`, `Limits.scheduledBytesMax` bytes at most.
    ///   - delay: above 0, in whole milliseconds, rounded up; up to `Limits.delayMillisMax`.
    /// - Throws: if it breaks a rule or a bound; that ends the command.
    @discardableResult
    public mutating func schedule(
        _ command: some MachineCommand, after delay: Duration
    ) throws -> ScheduledCommand {
        let request = MachineRequest(command)
        try trouble.check(request.key, in: context.slot, of: context.machine)
        guard type(of: command).machineNumber == context.machine else { throw trouble.note(.commandElsewhere) }
        guard request.body.count <= Limits.scheduledBytesMax else { throw trouble.note(.scheduledTooLarge) }
        guard let millis = delay.millisRoundedUp, (1...Limits.delayMillisMax).contains(millis) else {
            throw trouble.note(.badDelay)
        }
        try trouble.willWrite(request.key.count + request.body.count)
        return ScheduledCommand(
            context.group, context.set(LogTime(context.logTime.rawValue + millis), .command(context.machine, request)))
    }

    /// Calls a command off.
    ///
    /// - Returns: false: it was applied, or called off, before; or is another machine's or slot's.
    /// - Throws: if that has to be fetched first, or a bound is reached. Either ends the command.
    @discardableResult
    public mutating func cancel(_ scheduled: ScheduledCommand) throws -> Bool {
        try trouble.willRead()
        try trouble.willWrite(0)
        let found: (deadline: Deadline, request: MachineRequest)?
        do throws(Unready) { found = try context.scheduled(scheduled) } catch { throw trouble.note(error) }
        guard let found else { return false }
        try trouble.hasRead(found.request.body.count)
        context.remove(found.deadline)
        return true
    }

    /// The command that is applied has been taken off the list: its own number is not there for it any more.
    mutating func begin(_ deadline: Deadline) {
        context.remove(deadline)
        timer = deadline.handle(in: context.group)
    }

    /// Sees to it that `cancel` finds these in memory: all that are missing are fetched in one go.
    ///
    /// - Throws: some are not; that ends the command.
    package mutating func prepare(cancelling scheduled: [ScheduledCommand]) throws {
        let group = context.group
        let deadlines = scheduled.filter { $0.group == group }.map(\.deadline)
        do throws(Unready) { try context.prepare(scheduled: deadlines) } catch { throw trouble.note(error) }
    }

    /// Whether a command of this machine scheduled this one; false for one that a client sends.
    package var isScheduled: Bool { timer != nil }

    /// Whether this is that command, at its time; false for one that a client sends.
    package func isDoing(_ scheduled: ScheduledCommand) -> Bool { timer == scheduled }
}

extension MachineCommand {
    fileprivate static var machineNumber: SubMachineNumber { Machine.number }
}

extension Duration {
    /// nil: below 0, or too long to say.
    fileprivate var millisRoundedUp: UInt64? {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0, seconds < Int64.max / 1_000 - 1 else { return nil }
        let perMilli: Int64 = 1_000_000_000_000_000
        return UInt64(seconds) * 1_000 + UInt64(attoseconds / perMilli) + (attoseconds % perMilli == 0 ? 0 : 1)
    }
}

/// `MachineContext.Limits` hides that of all requests.
private var valueBytesMax: Int { Limits.valueBytesMax }

/// What a query of a user's machine sees: the machine's records in the slot of the query's key, all as they stood at one
/// moment.
public struct MachineView {
    /// The last entry that had been applied.
    public let index: LogIndex
    public let revision: Revision
    /// The group's elapsed time then, in milliseconds.
    public let logTime: LogTime

    /// So often a query begins anew for records that it had not named in `readKeys`.
    public static let roundsMax = 64
    package let slot: Slot
    private let machine: SubMachineNumber
    private let lookUp: (RecordPosition) throws -> Finding
    private let pageOf: (MachineRange) throws -> MachinePage?
    let trouble = MachineTrouble()

    /// - Parameters:
    ///   - lookUp: what is there; `elsewhere` if that can't be told in this round.
    ///   - pageOf: the same of a range; nil.
    init(
        index: LogIndex, revision: Revision, logTime: LogTime, slot: Slot, machine: SubMachineNumber,
        lookUp: @escaping (RecordPosition) throws -> Finding,
        pageOf: @escaping (MachineRange) throws -> MachinePage? = { _ in nil }
    ) {
        self.index = index
        self.revision = revision
        self.logTime = logTime
        self.slot = slot
        self.machine = machine
        self.lookUp = lookUp
        self.pageOf = pageOf
    }

    /// The record with this key; nil if there is none.
    ///
    /// - Throws: if the record has to be looked up first, if it can't be read, and if the key breaks a rule. Each ends the
    ///   query, whether or not it lets the error through.
    public mutating func get(_ key: Bytes) throws -> MachineRecord? {
        try trouble.check(key, in: slot, of: machine)
        try trouble.willRead()
        let place = RecordPosition(slot: slot, machine: machine, key: key)
        let found: Finding
        do { found = try lookUp(place) } catch {
            trouble.failed = trouble.failed ?? error
            throw error
        }
        switch found {
        case .absent: return nil
        case .found(let record):
            try trouble.hasRead(record.value.count)
            return MachineRecord(value: record.value, revision: record.revision)
        case .elsewhere: throw trouble.note(Unready([place]))
        }
    }

    /// The value with this key; nil if there is none.
    ///
    /// - Throws: as `get(_:)`; and if the value is none of `Value`.
    public mutating func get<Value: Message>(_ key: Bytes, as _: Value.Type) throws -> Value? {
        try get(key).map { try Value(decoding: $0.value) }
    }
}

// MARK: Ranges

/// Records of one machine in one slot, in the order of their keys.
public struct MachineRange: Hashable, Sendable {
    /// The first one has this key, or the next there is.
    public var from: Bytes
    /// It ends before this key.
    public var end: Bytes
    /// Of a page.
    public var recordsMax: Int
    /// Of a page's keys and values together, but one record always fits.
    public var bytesMax: Int

    /// Of a page, whatever is asked for.
    public static let recordsMaxMax = 1_024
    public static let bytesMaxMax = 512 << 10

    init(from: Bytes, end: Bytes, recordsMax: Int, bytesMax: Int) {
        self.from = from
        self.end = end
        self.recordsMax = min(max(recordsMax, 1), Self.recordsMaxMax)
        self.bytesMax = min(max(bytesMax, 1), Self.bytesMaxMax)
    }
}

/// Some of a range's records, as they stood at one moment.
public struct MachinePage: Sendable {
    /// Ascending by the bytes of their keys.
    public var records: [(key: Bytes, record: MachineRecord)]
    /// Where the next page begins; nil: there is none. A page may be empty and have a next one, where many records were
    /// deleted.
    public var next: Bytes?

    public init(records: [(key: Bytes, record: MachineRecord)], next: Bytes?) {
        self.records = records
        self.next = next
    }

    /// One record stays, however large.
    mutating func cut(to range: MachineRange) {
        var bytes = 0
        for place in records.indices {
            bytes += records[place].key.count + records[place].record.value.count
            guard place >= range.recordsMax || place > 0 && bytes > range.bytesMax else { continue }
            next = records[place].key
            records.removeSubrange(place...)
            return
        }
    }
}

extension MachineView {
    /// The machine's records whose keys begin with `prefix`, ascending, from `first` on.
    ///
    /// - Parameters:
    ///   - prefix: with a whole tag in it, that of the query's key: only then all such records lie together.
    ///   - recordsMax: up to `MachineRange.recordsMaxMax`.
    ///   - bytesMax: of keys and values together, up to `MachineRange.bytesMaxMax`; one record always fits.
    /// - Throws: as `get(_:)`.
    public mutating func page(
        prefix: Bytes, from first: Bytes? = nil, recordsMax: Int = MachineRange.recordsMaxMax,
        bytesMax: Int = MachineRange.bytesMaxMax
    ) throws -> MachinePage {
        let hasTag = machine.isDataType || prefix.withUnsafeBytes { tagRange(of: $0).count < $0.count }
        guard hasTag else { throw trouble.note(.keyElsewhere) }
        try trouble.check(prefix, in: slot, of: machine)
        guard let end = prefix.endOfPrefix else { throw trouble.note(.badKey) }
        let from = first.map { max($0, prefix) } ?? prefix
        guard from < end else { return MachinePage(records: [], next: nil) }
        return try page(MachineRange(from: from, end: end, recordsMax: recordsMax, bytesMax: bytesMax))
    }

    /// The same of keys from `first` on and before `end`, whoever's they are.
    package mutating func page(
        from first: Bytes, before end: Bytes, recordsMax: Int = MachineRange.recordsMaxMax,
        bytesMax: Int = MachineRange.bytesMaxMax
    ) throws -> MachinePage {
        guard first < end else { return MachinePage(records: [], next: nil) }
        return try page(MachineRange(from: first, end: end, recordsMax: recordsMax, bytesMax: bytesMax))
    }

    /// Has these records looked up in one go.
    package mutating func prepare(_ keys: [Bytes]) throws {
        var missing: [RecordPosition] = []
        var bytes = 0
        for key in keys {
            let place = RecordPosition(slot: slot, machine: machine, key: key)
            let found: Finding
            do { found = try lookUp(place) } catch {
                trouble.failed = trouble.failed ?? error
                throw error
            }
            switch found {
            case .absent: break
            case .found(let record): bytes += record.value.count
            case .elsewhere: missing.append(place)
            }
            guard bytes <= MachineContext.Limits.readBytesMax else { throw trouble.note(.readsTooMuch) }
        }
        guard missing.isEmpty else { throw trouble.note(Unready(missing)) }
    }

    private mutating func page(_ range: MachineRange) throws -> MachinePage {
        try trouble.willRead()
        var found: MachinePage?
        do { found = try pageOf(range) } catch {
            trouble.failed = trouble.failed ?? error
            throw error
        }
        // Layers bring so much each.
        found?.cut(to: range)
        guard let found else { throw trouble.note(range) }
        try trouble.hasRead(found.records.reduce(0) { $0 + $1.key.count + $1.record.value.count })
        return found
    }
}
