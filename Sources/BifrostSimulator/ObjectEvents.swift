// What watches of data types have to be told, as the models know it: in which order, and at which revisions. What happens to
// objects is the models' affair.

import DataTypes
import Messages
import Primitives
import StateMachines

/// One event of an object, before it has the object's name and a revision.
struct ObjectEvent {
    var kind: Change.Kind
    /// Which of the object's keys it is about: the number of a part, and what stands behind it.
    var part: UInt8
    var rest: Bytes
    var value: Bytes

    init(_ kind: Change.Kind, part: UInt8, _ rest: Bytes = Bytes(), value: Bytes = Bytes()) {
        self.kind = kind
        self.part = part
        self.rest = rest
        self.value = value
    }

    /// - Parameter number: of an element, token or ticket.
    init(_ kind: Change.Kind, part: UInt8, number: UInt64, value: Bytes = Bytes()) {
        var writer = ByteWriter(capacity: 8)
        writer.write(number.bigEndian)
        self.init(kind, part: part, writer.take(), value: value)
    }
}

/// A model of an object that notes what its watches are told.
protocol WatchedModel {
    /// Since they were last taken, in order.
    var events: [ObjectEvent] { get set }
}

extension WatchedModel {
    mutating func takeEvents() -> [ObjectEvent] {
        defer { events = [] }
        return events
    }
}

/// All events of one group since it began.
struct ObjectEvents {
    /// By machine, in the order in which they are told.
    private var told: [SubMachineNumber: [Change]] = [:]

    mutating func tell(
        _ events: [ObjectEvent], of name: Bytes, _ machine: SubMachineNumber, at revision: Revision
    ) {
        for event in events {
            told[machine, default: []].append(
                Change(
                    event.kind, revision: revision, key: ObjectKey(name).record(event.part, event.rest),
                    value: event.value))
        }
    }

    /// What a watch of these keys is told behind `after`, up to `through`.
    private func changes(
        of machine: SubMachineNumber, from: Bytes, end: Bytes?, after: Revision, through: Revision
    ) -> [Change] {
        guard let all = told[machine] else { return [] }
        var (low, high) = (0, all.count)
        while low < high {
            let middle = (low + high) / 2
            if all[middle].revision > after { high = middle } else { low = middle + 1 }
        }
        return all[low...].prefix { $0.revision <= through }.filter { change in
            // Whoever watches any key that goes with all that begin alike is told.
            change.key >= from && end.map { change.key < $0 } ?? true
                || change.kind == .cleared && from.starts(with: change.key)
        }
    }

    /// What is wrong with what a watch of these keys was told; nil: nothing.
    ///
    /// - Parameter all: of the groups that may have had them, one after the other.
    static func problem(
        of told: [Change], _ all: [ObjectEvents], _ machine: SubMachineNumber, from: Bytes, end: Bytes?,
        after: Revision, through: Revision
    ) -> String? {
        let changes = all.flatMap { $0.changes(of: machine, from: from, end: end, after: after, through: through) }
        // Those of one revision are of one group, in their order.
        let expected = changes.enumerated().sorted {
            ($0.element.revision, $0.offset) < ($1.element.revision, $1.offset)
        }
        .map(\.element)
        guard told != expected else { return nil }
        let place = zip(told, expected).prefix { $0 == $1 }.count
        let found = place < told.count ? "\(told[place])" : "nothing more"
        let wanted = place < expected.count ? "\(expected[place])" : "nothing more"
        return "behind \(after), up to \(through), event \(place) of \(told.count) is \(found), not \(wanted)"
    }
}
