// A group whose slots move to others, as two replicas of which one restarts now and then; what its leader and the drivers of
// migrations propose, made from its records; and a machine whose commands come later.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// Strikes that come later, each with a number: how often it came is in a record.
enum Chimes: StateMachine {
    static let number = SubMachineNumber(3_001)
    static let commands: [any MachineCommand<Chimes>.Type] = [Wind.self, Strike.self, Stop.self]

    struct Wind: MachineCommand {
        typealias Machine = Chimes
        typealias Answer = ScheduledCommand
        static let number: UInt16 = 1
        var key: Bytes
        var chime: UInt64
        var millis: UInt64

        init(_ key: Bytes, _ chime: UInt64, after millis: UInt64) {
            (self.key, self.chime, self.millis) = (key, chime, millis)
        }

        func apply(in context: inout MachineContext) throws -> ScheduledCommand {
            try context.schedule(Strike(key, chime), after: .milliseconds(millis))
        }

        func encode(into writer: inout ByteWriter) {
            writer.writeWithLength(key)
            writer.write(chime)
            writer.write(millis)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            key = try reader.readBytesWithLength()
            (chime, millis) = (try reader.read(), try reader.read())
        }
    }

    /// Answers its number. Number 0 fails.
    struct Strike: MachineCommand {
        typealias Machine = Chimes
        typealias Answer = Count
        static let number: UInt16 = 2
        var key: Bytes
        var chime: UInt64

        init(_ key: Bytes, _ chime: UInt64) { (self.key, self.chime) = (key, chime) }

        func apply(in context: inout MachineContext) throws -> Count {
            guard chime > 0 else { throw MachineFailure(6, "broken") }
            let record = Chimes.record(key, chime)
            try context.put(record, Count((try context.get(record, as: Count.self)?.value ?? 0) + 1))
            return Count(chime)
        }

        func encode(into writer: inout ByteWriter) {
            writer.writeWithLength(key)
            writer.write(chime)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            key = try reader.readBytesWithLength()
            chime = try reader.read()
        }
    }

    /// Answers whether it was still to come.
    struct Stop: MachineCommand {
        typealias Machine = Chimes
        typealias Answer = Count
        static let number: UInt16 = 3
        var key: Bytes
        var handle: ScheduledCommand

        init(_ key: Bytes, _ handle: ScheduledCommand) { (self.key, self.handle) = (key, handle) }

        func apply(in context: inout MachineContext) throws -> Count { Count(try context.cancel(handle) ? 1 : 0) }

        func encode(into writer: inout ByteWriter) {
            writer.writeWithLength(key)
            handle.encode(into: &writer)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            key = try reader.readBytesWithLength()
            handle = try ScheduledCommand(from: &reader)
        }
    }

    /// How often a strike came.
    static func record(_ key: Bytes, _ chime: UInt64) -> Bytes { Bytes(key.array + Array("/\(chime)".utf8)) }
}

struct MovingGroup {
    let id: GroupID
    private(set) var machine: MasterStateMachine
    var store = ModelStore()
    /// It never restarts.
    private(set) var other: MasterStateMachine
    private(set) var otherStore = ModelStore()
    var logTime: UInt64
    /// All that was applied.
    private(set) var log: [LogEntry] = []

    init(_ id: UInt32, logTime: UInt64 = 1_000) throws {
        self.id = GroupID(id)
        self.logTime = logTime
        machine = try MasterStateMachine(group: GroupID(id))
        machine.machines = try StateMachineRegistry([Chimes.self, Shelf.self]).withDataTypes
        other = machine
    }

    var ownership: SlotOwnership { machine.ownership }

    /// Both replicas come to the same.
    @discardableResult mutating func apply(_ payload: Bytes) -> Applied {
        let entry = LogEntry.command(machine.applied.rawValue + 1, payload, logTime: logTime)
        let outcome = machine.apply(entry, into: &store)
        if case .unready = outcome { return outcome }
        log.append(entry)
        let otherOutcome = other.apply(entry, into: &otherStore)
        #expect(outcome == otherOutcome)
        #expect(machine.digest == other.digest && machine.revision == other.revision)
        #expect(machine.ownership == other.ownership)
        return outcome
    }

    @discardableResult mutating func apply(_ command: SlotCommand) -> Applied { apply(command.payload()) }

    mutating func put(_ key: Bytes, _ value: Bytes, timeToLive: UInt64 = 0) -> Applied {
        apply(KeyValueCommand.put(key: key, value: value, timeToLiveMillis: timeToLive).payload())
    }

    mutating func put(_ key: Bytes, _ value: Bytes, _ session: SessionID, _ call: UInt64) -> Applied {
        let header = CommandHeader(machine: .keyValue, session: session, sequence: call, firstUnacknowledged: 1)
        return apply(KeyValueCommand.put(key: key, value: value).payload(header: header))
    }

    mutating func open(timeToLive: UInt64 = 10_000, followsSlots: Bool = true) throws -> SessionID {
        let command = SessionCommand.open(
            timeToLive: timeToLive, nonce: UInt64(id.rawValue), followsSlots: followsSlots)
        let payload = command.payload()
        guard case .done(_, let body) = apply(payload) else { throw Refusal.noQuorum }
        var reader = ByteReader(body)
        return try reader.read()
    }

    /// - Throws: `Refusal` or `MachineFailure`.
    @discardableResult mutating func send<Command: MachineCommand>(
        _ command: Command, of session: SessionID = .none, call: UInt64 = 0
    ) throws -> Command.Answer {
        let header = CommandHeader(
            machine: Command.Machine.number, session: session, sequence: call, firstUnacknowledged: call)
        switch apply(MachineRequest(command).payload(header: header)) {
        case .done(_, let body):
            switch try MachineOutcome(decoding: body) {
            case .answer(let bytes): return try Command.Answer(decoding: bytes)
            case .failure(let failure): throw failure
            }
        case .refused(let refusal): throw refusal
        case let other: throw DecodingFailure(expected: "an answer", found: "\(other)")
        }
    }

    func record(_ key: Bytes, of machine: SubMachineNumber = .keyValue) -> StoredRecord? {
        guard case .found(let record) = store.find(RecordPosition(slot: slot(of: key), machine: machine, key: key))
        else { return nil }
        return record
    }

    func value(_ key: Bytes) -> Bytes? { record(key)?.value }

    /// Those that are there.
    func records(in slots: [Slot]) -> [ModelStore.Key: ModelStore.Record] {
        store.records.filter { slots.contains($0.key.slot) && $0.value.value != nil }
    }

    func records(of machine: SubMachineNumber) -> [ModelStore.Key: ModelStore.Record] {
        store.records.filter { $0.key.slot == .group && $0.key.machine == machine && $0.value.value != nil }
    }

    var slotRecords: [SlotRecord] {
        store.records.filter { $0.key.slot == .group && $0.key.machine == .slotOwnership }.map {
            SlotRecord(key: $0.key.key, value: $0.value.value)
        }
    }

    /// One replica goes on from what is among its records.
    mutating func restart() throws {
        machine.writeSessions(into: &store)
        let sessions = store.records.filter { $0.key.machine == .sessions }.map {
            SessionRecord(
                key: $0.key.key, changed: $0.value.changed, revision: $0.value.revision, value: $0.value.value)
        }
        let before = machine
        machine = try MasterStateMachine(
            group: id, applied: before.applied, revision: before.revision, logTime: before.logTime,
            digest: before.digest, sessionRecords: sessions, slotRecords: slotRecords)
        machine.machines = before.machines
        #expect(machine.ownership == before.ownership)
        for slot in 0..<UInt16(Slot.count)
        where machine.ownership.gate(of: Slot(slot)) != other.ownership.gate(of: Slot(slot)) {
            Issue.record("slot \(slot) is \(machine.ownership.gate(of: Slot(slot))) behind a restart")
        }
    }

    /// But for sessions, which go to records when they are saved.
    var areReplicasEqual: Bool {
        func records(_ store: ModelStore) -> [ModelStore.Key: ModelStore.Record] {
            store.records.filter { $0.key.machine != .sessions }
        }
        return records(store) == records(otherStore)
    }
}

// MARK: What leaders propose

extension MovingGroup {
    /// All that is to come.
    var deadlines: [Deadline] {
        records(of: .deadlines).sorted { $0.key < $1.key }.compactMap {
            try? Deadline(key: $0.key.key, value: $0.value.value ?? Bytes())
        }
    }

    /// For each deadline whose time has come, what carries it out. A sweep goes two records at a time.
    var due: [DeadlineCommand] {
        deadlines.filter { $0.key.time.rawValue <= logTime }.map { deadline in
            switch deadline.purpose {
            case .record(let place): return .end([.init(deadline.key, place)])
            case .command: return .fire(deadline.key)
            case .sweep(let sweep):
                let found = records(in: [sweep.slot]).sorted { $0.key < $1.key }.filter {
                    $0.key.machine == sweep.machine && $0.key.key.starts(with: sweep.prefix)
                        && !($0.key.key < sweep.from)
                }
                let records = found.prefix(2).map { record in
                    SweepStep.Record(
                        key: record.key.key,
                        timer: machine.machines.timer(
                            in: record.value.value ?? Bytes(), of: sweep.machine, in: id,
                            hasMoved: ownership.hasHistory))
                }
                return .sweep([SweepStep(deadline.key, records: records, next: found.dropFirst(2).first?.key.key)])
            }
        }
    }

    /// Time goes on, and all that is due is done.
    mutating func pass(_ millis: UInt64 = 0) {
        logTime += millis
        // What it has seen it does not look at again unless it is told to.
        _ = machine.takeEarliestDeadline()
        for _ in 0..<100 {
            let before = deadlines
            for command in due { apply(command.payload()) }
            if deadlines == before { return }
        }
    }

    /// Some of what a migration's leader deletes; none: it finds nothing any more.
    func places(toClear id: MigrationID, countMax: Int) -> [RecordPosition] {
        guard let task = ownership.task(id), task.isClearing else { return [] }
        let all = records(in: task.slots).keys.sorted().map {
            RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key)
        }
        let timers = deadlines.filter { $0.slot.map { task.has($0) } ?? false }.map {
            RecordPosition(slot: .group, machine: .deadlines, key: $0.key.key)
        }
        return Array((all + timers).prefix(countMax))
    }

    /// Until nothing is left.
    mutating func clear(_ id: MigrationID) {
        while case let places = self.places(toClear: id, countMax: 5), !places.isEmpty { apply(.clear(id, places)) }
        apply(.cleared(id))
    }

    /// The next page for this target, as its progress asks for it: of all places in order, what changed behind `base`.
    func nextPage(of id: MigrationID, from source: MovingGroup, countMax: Int) -> MigrationPage? {
        guard let task = ownership.task(id), task.phase == .importing else { return nil }
        let progress = task.progress
        let isNew = progress.next.isEmpty
        var page = MigrationPage(
            number: progress.page + 1, base: isNew ? progress.start : progress.base,
            start: isNew ? source.machine.applied : progress.start, from: progress.next, next: Bytes(),
            revision: source.machine.revision)
        let passed = (try? RecordPosition(decoding: progress.next)).map {
            ModelStore.Key(slot: $0.slot, machine: $0.machine, key: $0.key)
        }
        var last: ModelStore.Key?
        for (key, record) in source.store.records.sorted(by: { $0.key < $1.key }) where record.changed > page.base {
            // Nobody has heard of what was deleted before the first round.
            guard passed.map({ $0 < key }) ?? true, record.value != nil || page.base > .zero else { continue }
            let isDue = key.slot == .group && key.machine == .deadlines
            guard isDue || task.has(key.slot) && key.machine.hasRecordsInSlots else { continue }
            if let last, page.records.count + page.dues.count >= countMax {
                page.next = RecordPosition(slot: last.slot, machine: last.machine, key: last.key).encoded()
                return page
            }
            last = key
            guard isDue else {
                page.records.append(
                    .init(
                        place: RecordPosition(slot: key.slot, machine: key.machine, key: key.key),
                        revision: record.revision, expiry: record.expiry, value: record.value))
                continue
            }
            guard let due = try? DeadlineKey(key: key.key) else { continue }
            let slot = record.value.flatMap { try? Deadline(key: key.key, value: $0) }?.slot
            guard record.value == nil || slot.map({ task.has($0) }) ?? false else { continue }
            page.dues.append(.init(key: due, value: record.value))
        }
        // Who holds what is settled when the source is frozen.
        if let given = source.ownership.task(id), given.phase == .frozen {
            page.holders = source.machine.sessions.holders(in: given, behind: nil, bytesMax: .max).holders
        }
        return page
    }

    /// One whole round, or the rest of one.
    mutating func takeRound(of id: MigrationID, from source: MovingGroup, countMax: Int = 3) throws {
        for _ in 0..<1_000 {
            let page = try #require(nextPage(of: id, from: source, countMax: countMax))
            apply(.page(id, page))
            let task = try #require(ownership.task(id))
            try #require(task.progress.page == page.number)
            if task.progress.next.isEmpty { return }
        }
        throw Refusal.invalid("a round without end")
    }

    // MARK: Migrations, step by step

    mutating func begin(_ id: MigrationID, _ slots: [Slot], from source: inout MovingGroup) throws {
        source.apply(.beginExport(id, slots, target: self.id))
        try #require(source.ownership.task(id)?.phase == .exporting)
        apply(.beginImport(id, slots, source: source.id, sourceTime: LogTime(source.logTime)))
        try #require(ownership.task(id)?.phase == .importing)
        try takeRound(of: id, from: source)
    }

    /// Of a source whose time has lost nothing, whatever a test made of either's.
    mutating func seal(_ id: MigrationID, _ frozen: MigrationTask) {
        guard let task = ownership.task(id) else { return }
        apply(.seal(id, frozen: frozen.frozenIndex, frozen.revision, seen: task.clock))
    }

    /// What both logs' times are.
    func seen(of source: MovingGroup) -> MigrationClock {
        MigrationClock(sourceTime: LogTime(source.logTime), ownTime: LogTime(logTime))
    }

    mutating func freezeAndSeal(_ id: MigrationID, from source: inout MovingGroup) throws {
        source.apply(.freeze(id))
        let frozen = try #require(source.ownership.task(id))
        try #require(frozen.phase == .frozen)
        try takeRound(of: id, from: source)
        seal(id, frozen)
        try #require(ownership.task(id)?.phase == .sealed)
    }

    mutating func releaseAndActivate(_ id: MigrationID, from source: inout MovingGroup, _ epoch: Epoch) throws {
        source.apply(.release(id, epoch))
        try #require(source.ownership.task(id)?.phase == .released)
        apply(.activate(id, Epoch(2), .zero))
        try #require(ownership.task(id) == nil)
    }

    /// All of it.
    mutating func take(_ id: UInt64, _ slots: [Slot], from source: inout MovingGroup) throws {
        let number = MigrationID(id)
        try begin(number, slots, from: &source)
        try freezeAndSeal(number, from: &source)
        try releaseAndActivate(number, from: &source, Epoch(id))
        source.clear(number)
        try #require(source.ownership.task(number) == nil)
    }
}
