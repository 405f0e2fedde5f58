// Which slots a group serves, and how far it is with those that move: the group's own word, from its log, whatever map its
// hosts have. Owns the order of steps within a group; the order between groups is the map's (`MigrationRecord`).

public import Messages
public import Primitives
import Ring

/// What a group knows of slots that moved, or are moving. It names exceptions: a slot of which it says nothing is open, and
/// the map alone says whose it is.
public struct SlotOwnership: Equatable, Sendable {
    /// What commands on a slot meet.
    public enum Gate: Hashable, Sendable {
        case open
        /// It is about to go: reads are answered, commands have to wait.
        case frozen
        /// It is another group's, for good as far as this one knows.
        case moved(GroupID, Epoch)
        /// It is about to come, and still another group's.
        case arriving
    }

    private(set) var marks: [Slot: SlotMark] = [:]
    /// Whether it knows anything of any slot. A stored word, so that each command can ask without a copy of the rest.
    public private(set) var hasMarks = false
    /// Ascending by migration.
    public private(set) var tasks: [MigrationTask] = []
    /// By slot; empty: all are open.
    private var gates: [SlotMark.Standing] = []
    private var gateCount = 0

    init() {}

    /// Whether some slot is not open. As cheap to ask as `hasMarks`.
    public private(set) var hasGates = false

    @inline(__always) func isGated(_ slot: Slot) -> Bool {
        hasGates && slot < Slot.group && gates[Int(slot.rawValue)] != .open
    }

    /// Some slot has moved, was to move, or is moving.
    public var hasHistory: Bool { !marks.isEmpty }

    /// It went to another group.
    func isGone(_ slot: Slot) -> Bool { isGated(slot) && gates[Int(slot.rawValue)] == .moved }

    /// Since when the slot is here, if it came from elsewhere; 0: it was always here, or is not. What was sent before that is
    /// not to be done: it may have been sent elsewhere since.
    public func epoch(of slot: Slot) -> Epoch {
        guard !marks.isEmpty, let mark = marks[slot], mark.standing == .open || mark.standing == .frozen else {
            return .zero
        }
        return mark.epoch
    }

    public func gate(of slot: Slot) -> Gate {
        guard isGated(slot), let mark = marks[slot] else { return .open }
        switch mark.standing {
        case .open: return .open
        case .frozen: return .frozen
        case .moved: return .moved(mark.group, mark.epoch)
        case .arriving: return .arriving
        }
    }

    /// Why a command on the slot comes to nothing now; nil: it does not.
    public func refusal(of slot: Slot) -> Refusal? {
        switch gate(of: slot) {
        case .open: nil
        case .frozen: .unavailable("slot \(slot) is about to move: its commands wait")
        case .moved(let group, let epoch): .moved(group: group, epoch: epoch)
        case .arriving: .unavailable("slot \(slot) is not here yet")
        }
    }

    /// Deletions that changed later have to be kept: a target may not have heard of them.
    public var tombstonesThrough: LogIndex {
        tasks.reduce(LogIndex(.max)) {
            $1.phase == .exporting || $1.phase == .frozen ? min($0, $1.begun) : $0
        }
    }

    /// Why a read of the slot is not answered; nil: it is.
    public func refusalToRead(_ slot: Slot) -> Refusal? { gate(of: slot) == .frozen ? nil : refusal(of: slot) }

    /// Of a slot that somebody knows to be here, since an epoch: who has it now, and since when. nil: it has been here all
    /// that time, as far as this group knows.
    ///
    /// - Parameter group: this one.
    func whereabouts(of slot: Slot, since epoch: Epoch, in group: GroupID) -> (group: GroupID, epoch: Epoch)? {
        switch gate(of: slot) {
        case .moved(let owner, let moved): return (owner, moved)
        // It was elsewhere since, and is about to come back.
        case .arriving: return marks[slot].map { ($0.group, $0.epoch) }
        case .open, .frozen:
            let arrived = self.epoch(of: slot)
            return arrived > epoch ? (group, arrived) : nil
        }
    }

    /// Of a slot that moved, or is about to come back: nobody is told of a later one for it. nil: it is here, or never was.
    public func lastRevision(of slot: Slot) -> Revision? {
        guard isGated(slot), let mark = marks[slot], mark.standing == .moved || mark.standing == .arriving,
            mark.revision > .zero
        else { return nil }
        return mark.revision
    }

    /// Nothing that this or an earlier migration asks for is begun here any more.
    public func hasSeen(_ id: MigrationID, _ slots: [Slot]) -> Bool {
        slots.allSatisfy { (marks[$0]?.migration ?? .none) >= id }
    }

    public func task(_ id: MigrationID) -> MigrationTask? {
        let place = self.place(of: id)
        return place < tasks.count && tasks[place].id == id ? tasks[place] : nil
    }

    /// Behind which of its own revisions the slot's changes are known here, and where they were before: a watch that has seen
    /// all up to `sourceRevision` there has missed nothing. nil: it was always here.
    public func origin(
        of slot: Slot
    ) -> (source: GroupID, sourceRevision: Revision, revision: Revision)? {
        guard let mark = marks[slot], mark.standing == .open || mark.standing == .frozen, mark.revision > .zero else {
            return nil
        }
        return (mark.group, mark.sourceRevision, mark.revision)
    }

    private func place(of id: MigrationID) -> Int { tasks.firstIndex { $0.id >= id } ?? tasks.count }
}

/// What a group remembers of a slot.
///
/// In `Slot.group`, machine 5, under `1 u8 | slot u16`, big-endian: `version u8 = 1 | migration u64 | standing u8 | group
/// u32 | epoch u64 | source revision u64 | revision u64`.
struct SlotMark: Hashable, Sendable {
    /// Numbers are part of the format.
    enum Standing: UInt8, Hashable, Sendable {
        case open = 1
        case frozen = 2
        case moved = 3
        case arriving = 4
    }

    /// The highest one that this group took part in, for this slot: what an earlier one asks for comes too late.
    var migration: MigrationID
    var standing: Standing
    /// To whom it went, or from whom it came last.
    var group = GroupID.meta
    /// Of the ring that gave it away, or brought it.
    var epoch = Epoch.zero
    /// It came from there: the source's revision then, and this group's when it began to serve it; or, of one that went, this
    /// group's when it went, until it serves it again.
    var sourceRevision = Revision.zero
    var revision = Revision.zero
}

/// What a group does for a migration.
///
/// In `Slot.group`, machine 5, under `2 u8 | migration u64`, big-endian: `version u8 = 1 | phase u8 | group u32 | begun u64 | source time
/// u64 | own time u64 | has ends u8 | frozen index u64 | revision u64 | page u64 | base u64 | start u64 | next: length u32,
/// bytes | slots`.
public struct MigrationTask: Hashable, Sendable {
    /// Numbers are part of the format.
    public enum Phase: UInt8, Hashable, Sendable {
        /// The source serves the slots, and gives what it has.
        case exporting = 1
        /// The source takes no commands for them.
        case frozen = 2
        /// The source has given them away, and deletes what it has.
        case released = 3
        /// The target takes pages.
        case importing = 4
        /// The target has all.
        case sealed = 5
        /// The target deletes what it has: nothing came of it.
        case dropping = 6
    }
    public let id: MigrationID
    /// Ascending.
    public fileprivate(set) var slots: [Slot]
    /// The other one.
    public let group: GroupID
    public internal(set) var phase: Phase
    /// Of a target: log times of the source and of its own that deadlines are counted from. The latter has
    /// `MigrationClock.slackMillis` on top.
    public internal(set) var sourceTime = LogTime.zero
    public internal(set) var ownTime = LogTime.zero
    /// Of a target: something came that ends, or that comes, at a time. What was deleted since counts, too. Sweeps do not:
    /// nobody needs what they delete, whenever it goes.
    public internal(set) var hasEnds = false
    /// The entry that began it: of a source's deletions behind it, none is forgotten before it is over.
    public internal(set) var begun = LogIndex.zero
    /// Of a source that is frozen, or was: the entry that did it, and the group's revision then.
    public internal(set) var frozenIndex = LogIndex.zero
    public internal(set) var revision = Revision.zero
    /// Of a target.
    public internal(set) var progress = MigrationProgress()

    init(_ id: MigrationID, _ slots: [Slot], _ group: GroupID, _ phase: Phase) {
        (self.id, self.slots, self.group, self.phase) = (id, slots, group, phase)
    }

    public var isSource: Bool { phase == .exporting || phase == .frozen || phase == .released }
    /// It deletes records.
    public var isClearing: Bool { phase == .released || phase == .dropping }

    public func has(_ slot: Slot) -> Bool {
        var (low, high) = (0, slots.count)
        while low < high {
            let middle = low + (high - low) / 2
            if slots[middle] < slot { low = middle + 1 } else { high = middle }
        }
        return low < slots.count && slots[low] == slot
    }

    /// Of a target.
    public var clock: MigrationClock { MigrationClock(sourceTime: sourceTime, ownTime: ownTime) }

    /// A time of the source's log, as the target has it.
    func time(_ other: LogTime) -> LogTime { clock.time(other) }

    /// Whether nothing of what came to a target ends early there.
    ///
    /// - Parameter seen: times of both logs behind the freeze: see `MigrationClock.isEarly`.
    public func keepsEnds(_ seen: MigrationClock) -> Bool {
        !hasEnds || !clock.isEarly(seen) || isPlanted("moved-end-too-soon")
    }
}

/// How times of a source's log are those of a target's.
///
/// Each log's time goes on at most as fast as real time, and stands still while nobody leads the group. So what was put into
/// the source at a time s, to end some time later, has been there for as long as the source's time went on since s, or
/// longer; and what is left of it passes at the target no sooner than it has to, if the clock is not early (`isEarly`) at a
/// moment behind the last put: where the slots are frozen.
public struct MigrationClock: Hashable, Sendable {
    public var sourceTime: LogTime
    public var ownTime: LogTime

    /// By which a target's clock is ahead of what both logs say when it begins: so much may the source's time lose until the
    /// freeze, by clocks' rates, by reading them once per tick and by short times without a leader, before nothing comes
    /// of the migration. All that moves ends so much later, once for each move.
    public static let slackMillis: UInt64 = 1_000

    public init(sourceTime: LogTime, ownTime: LogTime) {
        self.sourceTime = sourceTime
        self.ownTime = ownTime
    }

    /// A target's, when it begins: with the slack.
    package init(sourceTime: LogTime, beginningAt ownTime: LogTime) {
        let (sum, isBeyond) = ownTime.rawValue.addingReportingOverflow(Self.slackMillis)
        self.init(sourceTime: sourceTime, ownTime: LogTime(isBeyond ? .max - 1 : sum))
    }

    /// What is counted by this one ends before its time, as far as can be told from times of both logs at a later moment: by
    /// its own measure the source is not as far as the target is.
    ///
    /// - Parameter seen: a time that the source's log had come to for certain, at a moment behind the last put; and one of
    ///   the target's own at that moment or later, as it would stamp an entry.
    public func isEarly(_ seen: MigrationClock) -> Bool { moved(seen.sourceTime) < seen.ownTime }

    /// Milliseconds by which the source's time went on less than the target's since this one began, as far as that is so:
    /// for words, of one that `isEarly`.
    public func lostMillis(_ seen: MigrationClock) -> UInt64 {
        let expected = moved(seen.sourceTime).rawValue
        guard seen.ownTime.rawValue > expected else { return 0 }
        let (sum, isBeyond) = (seen.ownTime.rawValue - expected).addingReportingOverflow(Self.slackMillis)
        return isBeyond ? .max : sum
    }

    /// A time of the source's log, as the target has it.
    public func time(_ other: LogTime) -> LogTime {
        guard other > .zero else { return .zero }
        return isPlanted("moved-timer-too-soon") ? LogTime(1) : moved(other)
    }

    /// At least 1: something that ends does.
    private func moved(_ other: LogTime) -> LogTime {
        let ahead = other.rawValue > sourceTime.rawValue
        let difference = ahead ? other.rawValue - sourceTime.rawValue : sourceTime.rawValue - other.rawValue
        guard ahead else { return LogTime(ownTime.rawValue > difference ? ownTime.rawValue - difference : 1) }
        let (sum, isBeyond) = ownTime.rawValue.addingReportingOverflow(difference)
        return LogTime(isBeyond ? .max - 1 : sum)
    }
}

/// How much of a source's records a target has. They come in rounds: each goes through all places in order, and brings what
/// changed behind `base`. Each of its pages was read when the source had applied `start` at least: so what is behind `start`
/// is all that the next round has to bring.
public struct MigrationProgress: Hashable, Sendable {
    /// Pages so far.
    public var page: UInt64 = 0
    public var base = LogIndex.zero
    public var start = LogIndex.zero
    /// The first place that the round has not passed, as a `RecordPosition`; empty: it is complete, or none has begun.
    public var next = Bytes()

    /// Whether a page goes on here.
    public func isContinued(by page: MigrationPage) -> Bool {
        guard page.number == self.page + 1, page.from == next, page.start >= page.base, page.start > .zero else {
            return false
        }
        return next.isEmpty ? page.base == start : page.base == base && page.start == start
    }
}

// MARK: - Steps

extension SlotOwnership {
    /// The source: their records are of interest from now on. False: it comes too late, or too soon.
    mutating func beginExport(_ id: MigrationID, _ slots: [Slot], to target: GroupID, at index: LogIndex) -> Bool {
        guard isNews(id, slots), slots.allSatisfy({ gate(of: $0) == .open }) else { return false }
        for slot in slots { mark(slot) { $0.migration = id } }
        var task = MigrationTask(id, slots, target, .exporting)
        task.begun = index
        add(task)
        return true
    }

    mutating func beginImport(
        _ id: MigrationID, _ slots: [Slot], from source: GroupID, sourceTime: LogTime, at index: LogIndex,
        _ logTime: LogTime
    ) -> Bool {
        guard isNews(id, slots) else { return false }
        for slot in slots {
            mark(slot) {
                // Watches of before it went are still told how far that was.
                let last = $0.standing == .moved ? $0.revision : .zero
                $0 = SlotMark(migration: id, standing: .arriving, group: source, epoch: $0.epoch, revision: last)
            }
        }
        var task = MigrationTask(id, slots, source, .importing)
        let clock = MigrationClock(sourceTime: sourceTime, beginningAt: logTime)
        (task.sourceTime, task.ownTime, task.begun) = (clock.sourceTime, clock.ownTime, index)
        add(task)
        return true
    }

    /// - Returns: the task as it is then; nil: it is not its turn.
    mutating func freeze(_ id: MigrationID, at index: LogIndex, _ revision: Revision) -> MigrationTask? {
        change(id, from: .exporting, to: .frozen) {
            $0.frozenIndex = index
            $0.revision = revision
        } marking: {
            if !isPlanted("freeze-leaves-open") { $0.standing = .frozen }
        }
    }

    mutating func advance(_ id: MigrationID, _ page: MigrationPage) {
        _ = change(id, from: .importing, to: .importing) {
            $0.hasEnds = $0.hasEnds || page.hasEnds
            $0.progress = MigrationProgress(
                page: page.number, base: page.base, start: page.start, next: page.next)
        }
    }

    /// All of the source is here as of the entry that froze it, and nothing of it ends early.
    ///
    /// - Parameter seen: as in `SlotCommand.seal`.
    func canSeal(_ id: MigrationID, frozen index: LogIndex, seen: MigrationClock) -> Bool {
        guard let task = task(id), task.phase == .importing, task.keepsEnds(seen) else { return false }
        return task.progress.next.isEmpty && task.progress.start >= index && index > .zero
    }

    mutating func seal(_ id: MigrationID, _ revision: Revision, frozen index: LogIndex) {
        _ = change(id, from: .importing, to: .sealed) {
            $0.revision = revision
            $0.frozenIndex = index
        }
    }

    /// - Parameter revision: the group's.
    mutating func release(_ id: MigrationID, since epoch: Epoch, at revision: Revision) -> MigrationTask? {
        guard let group = task(id)?.group else { return nil }
        return change(id, from: .frozen, to: .released) { _ in
        } marking: {
            $0.standing = .moved
            $0.group = group
            $0.epoch = epoch
            $0.sourceRevision = .zero
            $0.revision = revision
        }
    }

    /// - Parameter revision: the group's own, which is above all that it took.
    mutating func activate(_ id: MigrationID, _ revision: Revision, since epoch: Epoch) -> MigrationTask? {
        guard let task = task(id), task.phase == .sealed else { return nil }
        for slot in task.slots {
            mark(slot) {
                $0.standing = .open
                $0.epoch = epoch
                $0.sourceRevision = task.revision
                $0.revision = revision
            }
        }
        remove(id)
        return task
    }

    /// It is aborted. Whoever has not begun never will.
    mutating func forget(_ id: MigrationID, _ slots: [Slot]) {
        guard let task = task(id) else {
            for slot in slots where (marks[slot]?.migration ?? .none) < id { mark(slot) { $0.migration = id } }
            return
        }
        switch task.phase {
        case .exporting, .frozen:
            for slot in task.slots { mark(slot) { $0.standing = .open } }
            remove(id)
        case .importing, .sealed: _ = change(id, from: task.phase, to: .dropping) { _ in }
        // The map has decided otherwise: a word of an abort can't be.
        case .released, .dropping: break
        }
    }

    /// A recovery has settled whose the slots are: nothing that this group did for them before counts any more. Either it
    /// serves them as it has them, or deletes what it has. nil: it was done before.
    ///
    /// - Returns: who holds something in them, and the migrations that have fewer slots now, or none.
    mutating func settle(
        _ id: MigrationID, _ slots: [Slot], with other: GroupID, since epoch: Epoch, owns: Bool, at revision: Revision
    ) -> (task: MigrationTask, changed: [MigrationID])? {
        guard id > .none, task(id) == nil, !hasSeen(id, slots) else { return nil }
        var settled = MigrationTask(id, slots, other, .released)
        settled.revision = revision
        var changed: [MigrationID] = []
        tasks = tasks.compactMap { task in
            var task = task
            task.slots.removeAll { settled.has($0) }
            if task.slots.count < self.task(task.id)?.slots.count ?? 0 { changed.append(task.id) }
            return task.slots.isEmpty ? nil : task
        }
        for slot in slots {
            mark(slot) {
                $0 = SlotMark(
                    migration: max($0.migration, id), standing: owns ? .open : .moved, group: other, epoch: epoch,
                    revision: revision)
            }
        }
        if !owns { add(settled) }
        return (settled, changed)
    }

    /// Nothing is left of what it had.
    mutating func finish(_ id: MigrationID) -> MigrationTask? {
        guard let task = task(id), task.isClearing else { return nil }
        // Whoever has an old map, of when the slots were this group's, must not take anything for them.
        if task.phase == .dropping {
            for slot in task.slots {
                mark(slot) {
                    $0.standing = .moved
                    $0.group = task.group
                }
            }
        }
        remove(id)
        return task
    }

    private func isNews(_ id: MigrationID, _ slots: [Slot]) -> Bool {
        // No slot comes while what it had here is still being deleted.
        id > .none && slots.allSatisfy { (marks[$0]?.migration ?? .none) < id || isPlanted("late-step-taken") }
            && !tasks.contains { task in slots.contains { task.has($0) } }
    }

    private mutating func change(
        _ id: MigrationID, from phase: MigrationTask.Phase, to next: MigrationTask.Phase,
        _ body: (inout MigrationTask) -> Void = { _ in }, marking: ((inout SlotMark) -> Void)? = nil
    ) -> MigrationTask? {
        let place = self.place(of: id)
        guard place < tasks.count, tasks[place].id == id, tasks[place].phase == phase else { return nil }
        body(&tasks[place])
        tasks[place].phase = next
        if let marking { for slot in tasks[place].slots { mark(slot, marking) } }
        return tasks[place]
    }

    private mutating func add(_ task: MigrationTask) { tasks.insert(task, at: place(of: task.id)) }

    private mutating func remove(_ id: MigrationID) { tasks.removeAll { $0.id == id } }

    private mutating func mark(_ slot: Slot, _ body: (inout SlotMark) -> Void) {
        var mark = marks[slot] ?? SlotMark(migration: .none, standing: .open)
        body(&mark)
        set(mark, of: slot)
    }

    private mutating func set(_ mark: SlotMark, of slot: Slot) {
        let old = marks.updateValue(mark, forKey: slot)?.standing ?? .open
        hasMarks = true
        guard old != mark.standing else { return }
        if gates.isEmpty { gates = Array(repeating: .open, count: Slot.count) }
        gateCount += (mark.standing == .open ? 0 : 1) - (old == .open ? 0 : 1)
        gates[Int(slot.rawValue)] = mark.standing
        hasGates = gateCount > 0
        if !hasGates { gates = [] }
    }
}

// MARK: - Records

/// One of a group's records about its slots.
public struct SlotRecord: Hashable, Sendable {
    public var key: Bytes
    /// nil: it is gone.
    public var value: Bytes?

    public init(key: Bytes, value: Bytes?) { (self.key, self.value) = (key, value) }
}

extension SlotOwnership {
    private enum Kind {
        static let slot: UInt8 = 1
        static let task: UInt8 = 2
    }
    private static let formatVersion: UInt8 = 1

    /// As they stood in a manifest's records.
    init(restoring records: some Sequence<SlotRecord>) throws(DecodingFailure) {
        for record in records {
            guard let value = record.value else { continue }
            var (key, reader) = (ByteReader(record.key), ByteReader(value))
            let kind = try key.read(UInt8.self)
            guard kind != MovedTimer.kind else { continue }
            let version = try reader.read(UInt8.self)
            guard version == Self.formatVersion else {
                throw DecodingFailure(expected: "a record about slots of version 1", found: "version \(version)")
            }
            switch kind {
            case Kind.slot:
                let slot = Slot(UInt16(bigEndian: try key.read()))
                guard slot < Slot.group else {
                    throw DecodingFailure(expected: "a slot below \(Slot.count)", found: "\(slot)")
                }
                var mark = try SlotMark(from: &reader)
                if isPlanted("gates-forgotten-at-restart") { mark.standing = .open }
                set(mark, of: slot)
            case Kind.task:
                let id = MigrationID(UInt64(bigEndian: try key.read()))
                guard id != .none, task(id) == nil else {
                    throw DecodingFailure(expected: "each migration once", found: "migration \(id) twice")
                }
                add(try MigrationTask(id, from: &reader))
            default: throw DecodingFailure(expected: "a record about slots, 1 to 3", found: "\(kind)")
            }
            try key.expectEnd()
            try reader.expectEnd()
        }
    }

    /// What a migration's task and its slots are, as records to be written.
    func writes(of id: MigrationID, _ slots: [Slot]) -> [RecordWrite] {
        [write(of: id)]
            + slots.map { slot in
                var key = ByteWriter(capacity: 3)
                var value = ByteWriter(capacity: 48)
                key.write(Kind.slot)
                key.write(slot.rawValue.bigEndian)
                if let mark = marks[slot] {
                    value.write(Self.formatVersion)
                    mark.encode(into: &value)
                }
                return RecordWrite(
                    slot: .group, machine: .slotOwnership, key: key.take(), expiry: .zero,
                    value: marks[slot] == nil ? nil : value.take())
            }
    }

    /// Of the task alone.
    func write(of id: MigrationID) -> RecordWrite {
        var key = ByteWriter(capacity: 9)
        key.write(Kind.task)
        key.write(id.rawValue.bigEndian)
        let value = task(id).map { task in
            var value = ByteWriter(capacity: 128)
            value.write(Self.formatVersion)
            task.encode(into: &value)
            return value.take()
        }
        return RecordWrite(slot: .group, machine: .slotOwnership, key: key.take(), expiry: .zero, value: value)
    }
}

extension SlotMark {
    func encode(into writer: inout ByteWriter) {
        writer.write(migration)
        writer.write(standing.rawValue)
        writer.write(group)
        writer.write(epoch)
        writer.write(sourceRevision)
        writer.write(revision)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        migration = try reader.read()
        let standing = try reader.read(UInt8.self)
        guard let standing = Standing(rawValue: standing) else {
            throw DecodingFailure(expected: "how a slot stands, 1 to 4", found: "\(standing)")
        }
        self.standing = standing
        (group, epoch) = (try reader.read(), try reader.read())
        (sourceRevision, revision) = (try reader.read(), try reader.read())
    }
}

extension MigrationTask {
    func encode(into writer: inout ByteWriter) {
        writer.write(phase.rawValue)
        writer.write(group)
        writer.write(begun)
        writer.write(sourceTime)
        writer.write(ownTime)
        writer.write(hasEnds)
        writer.write(frozenIndex)
        writer.write(revision)
        writer.write(progress.page)
        writer.write(progress.base)
        writer.write(progress.start)
        writer.writeWithLength(progress.next)
        writer.write(slots: slots)
    }

    init(_ id: MigrationID, from reader: inout ByteReader) throws(DecodingFailure) {
        self.id = id
        let phase = try reader.read(UInt8.self)
        guard let phase = Phase(rawValue: phase) else {
            throw DecodingFailure(expected: "a migration's phase, 1 to 6", found: "\(phase)")
        }
        self.phase = phase
        (group, begun) = (try reader.read(), try reader.read())
        (sourceTime, ownTime) = (try reader.read(), try reader.read())
        hasEnds = try reader.readBool()
        (frozenIndex, revision) = (try reader.read(), try reader.read())
        progress = MigrationProgress(
            page: try reader.read(), base: try reader.read(), start: try reader.read(),
            next: try reader.readBytesWithLength(limit: MigrationPage.positionBytesMax))
        guard progress.page < 1 << 62 else {
            throw DecodingFailure(expected: "a page's number below 2^62", found: "\(progress.page)")
        }
        slots = try reader.readSlots()
    }
}
