// What a log makes of a group's slots, without its records: for who looks at a replica that does not run, and has to know
// how far it was with what moved.

import Messages
package import Primitives
import Ring

extension SlotOwnership {
    /// Takes the next entry in, as far as it says something of slots: what the group's machine makes of it, but for revisions
    /// and for what depends on records.
    package mutating func follow(_ entry: LogEntry) {
        guard entry.kind == .command,
            entry.payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine }) == .slotOwnership,
            let command = try? SlotCommand(payload: entry.payload)
        else { return }
        let id = command.migration
        switch command {
        case .beginExport(_, let slots, let target): _ = beginExport(id, slots, to: target, at: entry.index)
        case .beginImport(_, let slots, let source, let time):
            _ = beginImport(id, slots, from: source, sourceTime: time, at: entry.index, entry.logTime)
        case .page(_, let page):
            guard let task = task(id), task.phase == .importing, task.progress.isContinued(by: page) else { return }
            advance(id, page)
        case .freeze: _ = freeze(id, at: entry.index, .zero)
        case .seal(_, let frozen, let revision, let seen):
            guard canSeal(id, frozen: frozen, seen: seen) else { return }
            seal(id, revision, frozen: frozen)
        case .release(_, let epoch): _ = release(id, since: epoch, at: .zero)
        case .activate(_, let epoch, _): _ = activate(id, .zero, since: epoch)
        case .forget(_, let slots): forget(id, slots)
        case .clear: break
        case .cleared: _ = finish(id)
        case .settle(_, let slots, let other, let epoch, let owns):
            _ = settle(id, slots, with: other, since: epoch, owns: owns, at: .zero)
        }
    }

    /// Slots that a group has something to do with for one migration, or had.
    package struct Trace: Hashable, Sendable {
        package enum Standing: Hashable, Sendable {
            case under(MigrationTask.Phase)
            /// It came, and is served.
            case came
            /// It is another group's.
            case gone
        }
        package var migration: MigrationID
        package var standing: Standing
        /// The other one.
        package var group: GroupID
        /// Of slots that came or went: the ring's.
        package var epoch: Epoch
        /// Ascending.
        package var slots: [Slot]
    }

    /// All of it: tasks first, ascending, then slots that no task has, in the order of the first of each.
    package var traces: [Trace] {
        var traces: [Trace] = []
        var isTaken: Set<Slot> = []
        for task in tasks {
            traces.append(
                Trace(
                    migration: task.id, standing: .under(task.phase), group: task.group, epoch: .zero, slots: task.slots
                ))
            isTaken.formUnion(task.slots)
        }
        var places: [Trace: Int] = [:]
        for slot in marks.keys.sorted() where !isTaken.contains(slot) {
            guard let mark = marks[slot] else { continue }
            let standing: Trace.Standing
            switch mark.standing {
            case .open where mark.epoch > .zero: standing = .came
            case .moved: standing = .gone
            case .open, .frozen, .arriving: continue
            }
            let trace = Trace(
                migration: mark.migration, standing: standing, group: mark.group, epoch: mark.epoch, slots: [])
            if let place = places[trace] {
                traces[place].slots.append(slot)
            } else {
                places[trace] = traces.count
                var trace = trace
                trace.slots = [slot]
                traces.append(trace)
            }
        }
        return traces
    }

    /// No migration that the group ever heard of has a higher number.
    package var lastMigration: MigrationID {
        max(marks.values.map(\.migration).max() ?? .none, tasks.last?.id ?? .none)
    }
}
