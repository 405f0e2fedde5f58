// Which slots a group serves, as the rules know it: from committed entries alone.

import Primitives
import StateMachines

/// What an entry does for a migration, but for what it carries.
enum MigrationStep: Equatable {
    case beginExport(MigrationID, [Slot])
    case beginImport(MigrationID, [Slot], sourceTime: LogTime)
    case freeze(MigrationID)
    /// With the entry that froze the source, and what both logs' times were seen to be.
    case seal(MigrationID, frozen: LogIndex, MigrationClock)
    case release(MigrationID)
    case activate(MigrationID)
    case forget(MigrationID, [Slot])
    case cleared(MigrationID)
    /// `start` and `hasEnds` as in `MigrationPage`; whether its round is complete with it.
    case page(MigrationID, number: UInt64, start: LogIndex, isLast: Bool, hasEnds: Bool)
    case clear(MigrationID)

    var migration: MigrationID {
        switch self {
        case .beginExport(let id, _), .beginImport(let id, _, _), .freeze(let id), .seal(let id, _, _),
            .release(let id),
            .activate(let id), .forget(let id, _), .cleared(let id), .page(let id, _, _, _, _), .clear(let id):
            id
        }
    }

    /// nil: it is a recovery's, and none is simulated.
    init?(_ command: SlotCommand) {
        switch command {
        case .beginExport(let id, let slots, _): self = .beginExport(id, slots)
        case .beginImport(let id, let slots, _, let time): self = .beginImport(id, slots, sourceTime: time)
        case .freeze(let id): self = .freeze(id)
        case .seal(let id, let frozen, _, let seen): self = .seal(id, frozen: frozen, seen)
        case .release(let id, _): self = .release(id)
        case .activate(let id, _, _): self = .activate(id)
        case .forget(let id, let slots): self = .forget(id, slots)
        case .cleared(let id): self = .cleared(id)
        case .page(let id, let page):
            self = .page(
                id, number: page.number, start: page.start, isLast: page.next.isEmpty, hasEnds: page.hasEnds)
        case .clear(let id, _): self = .clear(id)
        case .settle: return nil
        }
    }
}

/// A group's part in migrations.
struct SlotModel {
    enum Standing { case open, frozen, gone, coming }
    private enum Phase { case exporting, frozen, released, importing, sealed, dropping }
    private struct Part {
        var slots: [Slot]
        var phase: Phase
        /// Of a target: its own log's time less the source's, as it counts; pages that it took; and whether something in
        /// them ends.
        var lead: Int64 = 0
        var pages: UInt64 = 0
        var hasEnds = false
        /// Of a target: the start of the round that it has whole; none while it is in the middle of one.
        var completeStart = LogIndex.zero
        /// Of a target: where its pages go on.
        var progress = Progress()
    }
    private struct Progress {
        var page: UInt64 = 0
        var base = LogIndex.zero
        var start = LogIndex.zero
        var next = Bytes()
    }

    private var standings: [Slot: Standing] = [:]
    private var highest: [Slot: MigrationID] = [:]
    private var tasks: [MigrationID: Part] = [:]

    func isGated(_ slot: Slot) -> Bool { standings[slot, default: .open] != .open }

    /// The group is not done with the migration yet.
    func hasPart(in id: MigrationID) -> Bool { tasks[id] != nil }

    /// Whether a page is the next one of its migration; then it is taken. Others come to nothing.
    mutating func take(_ page: MigrationPage, of id: MigrationID) -> Bool {
        guard let part = tasks[id], part.phase == .importing, page.number == part.progress.page + 1,
            page.from == part.progress.next, page.start >= page.base, page.start > .zero
        else { return false }
        // Where a round is complete the next one begins, behind what that one had.
        let isNext =
            part.progress.next.isEmpty
            ? page.base == part.progress.start
            : page.base == part.progress.base && page.start == part.progress.start
        guard isNext else { return false }
        tasks[id]?.progress = Progress(page: page.number, base: page.base, start: page.start, next: page.next)
        return true
    }

    /// What became of ownership with an entry.
    enum Change {
        case nothing
        /// The slots will come, if nothing is called off.
        case begun([Slot])
        case released([Slot])
        case activated([Slot])
    }

    /// Takes the next committed step. One that is not its migration's next comes to nothing.
    ///
    /// - Parameter logTime: its entry's.
    mutating func commit(_ step: MigrationStep, at logTime: LogTime) -> Change {
        switch step {
        case .beginExport(let id, let slots):
            guard slots.allSatisfy({ !isGated($0) }) else { break }
            _ = begin(id, slots, .exporting)
        case .beginImport(let id, let slots, let sourceTime):
            guard begin(id, slots, .importing) else { break }
            tasks[id]?.lead = Self.lead(of: logTime, before: sourceTime) + Self.slackMillis
            for slot in slots { standings[slot] = .coming }
            return .begun(slots)
        case .freeze(let id):
            if let slots = advance(id, from: .exporting, to: .frozen) {
                for slot in slots { standings[slot] = .frozen }
            }
        case .seal(let id, let frozen, let seen):
            // Behind a round that has all up to there, and by which nothing that came ends early.
            guard let task = tasks[id], task.completeStart >= frozen, frozen > .zero,
                !task.hasEnds || task.lead >= Self.lead(of: seen.ownTime, before: seen.sourceTime)
            else { break }
            _ = advance(id, from: .importing, to: .sealed)
        case .release(let id):
            guard let slots = advance(id, from: .frozen, to: .released) else { break }
            for slot in slots { standings[slot] = .gone }
            return .released(slots)
        case .activate(let id):
            guard let slots = advance(id, from: .sealed, to: .sealed) else { break }
            tasks[id] = nil
            for slot in slots { standings[slot] = .open }
            return .activated(slots)
        case .forget(let id, let slots):
            guard let task = tasks[id] else {
                for slot in slots { highest[slot] = max(highest[slot, default: .none], id) }
                break
            }
            switch task.phase {
            case .exporting, .frozen:
                for slot in task.slots { standings[slot] = .open }
                tasks[id] = nil
            case .importing, .sealed: tasks[id]?.phase = .dropping
            case .released, .dropping: break
            }
        case .cleared(let id):
            guard let task = tasks[id], task.phase == .released || task.phase == .dropping else { break }
            for slot in task.slots { standings[slot] = .gone }
            tasks[id] = nil
        case .page(let id, let number, let start, let isLast, let hasEnds):
            // Of two drivers' pages the first one.
            guard let task = tasks[id], task.phase == .importing, number == task.pages + 1 else { break }
            tasks[id]?.pages = number
            tasks[id]?.completeStart = isLast ? start : .zero
            if hasEnds { tasks[id]?.hasEnds = true }
        case .clear: break
        }
        return .nothing
    }

    /// What nothing ends early by, even where the source's time lost as much.
    private static let slackMillis: Int64 = 1_000

    private static func lead(of own: LogTime, before other: LogTime) -> Int64 {
        Int64(own.rawValue) - Int64(other.rawValue)
    }

    private mutating func begin(_ id: MigrationID, _ slots: [Slot], _ phase: Phase) -> Bool {
        guard slots.allSatisfy({ highest[$0, default: .none] < id }),
            !tasks.values.contains(where: { !Set($0.slots).isDisjoint(with: slots) })
        else { return false }
        for slot in slots { highest[slot] = id }
        tasks[id] = Part(slots: slots, phase: phase)
        return true
    }

    private mutating func advance(_ id: MigrationID, from phase: Phase, to next: Phase) -> [Slot]? {
        guard let task = tasks[id], task.phase == phase else { return nil }
        tasks[id]?.phase = next
        return task.slots
    }
}
