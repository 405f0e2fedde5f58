// Virtual time: what happens next, and the record of what happened. Knows nothing of hosts or networks.

import Primitives

/// What an event was, for the transcript and the trace's hash. `name` is a constant; `a` and `b` say who and what.
struct TraceNote {
    var time: UInt64 = 0
    var name: StaticString = ""
    var a: UInt64 = 0
    var b: UInt64 = 0

    /// Cost: proportional to the name.
    var text: String {
        let micros = time / 1_000
        return "\(micros / 1_000_000).\(String(1_000_000 + micros % 1_000_000).dropFirst()) \(name) \(a) \(b)"
    }
}

/// Events by time, and in the order of their scheduling at equal times.
struct SimulatedEventQueue {
    private struct Item {
        var time: UInt64
        var number: UInt64
        var action: () -> Void

        func isBefore(_ other: Item) -> Bool { time != other.time ? time < other.time : number < other.number }
    }

    private var heap: [Item] = []
    private var nextNumber: UInt64 = 0

    var isEmpty: Bool { heap.isEmpty }
    var nextTime: UInt64? { heap.first?.time }

    mutating func schedule(at time: UInt64, _ action: @escaping () -> Void) {
        heap.append(Item(time: time, number: nextNumber, action: action))
        nextNumber += 1
        var place = heap.count - 1
        while place > 0 {
            let parent = (place - 1) / 2
            guard heap[place].isBefore(heap[parent]) else { break }
            heap.swapAt(place, parent)
            place = parent
        }
    }

    mutating func take() -> (time: UInt64, action: () -> Void)? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        if !heap.isEmpty {
            heap[0] = last
            var place = 0
            while true {
                var least = place
                for child in [2 * place + 1, 2 * place + 2]
                where child < heap.count && heap[child].isBefore(heap[least]) {
                    least = child
                }
                if least == place { break }
                heap.swapAt(place, least)
                place = least
            }
        }
        return (first.time, first.action)
    }
}

/// The last events, and a hash over all of them: the same seed gives the same hash.
struct SimulatedTrace {
    private(set) var hash: UInt64 = 0
    private(set) var count: UInt64 = 0
    private var ring = [TraceNote](repeating: TraceNote(), count: Self.kept)
    /// Events kept for the report of a violation.
    static let kept = 60
    /// Called with each event, for `--trace`.
    var listener: ((String) -> Void)?

    mutating func note(_ note: TraceNote) {
        hash = mix(hash ^ note.time ^ mix(UInt64(note.name.utf8CodeUnitCount) ^ mix(note.a) &+ note.b))
        ring[Int(count % UInt64(Self.kept))] = note
        count += 1
        listener?(note.text)
    }

    /// Oldest first.
    var last: [String] {
        let first = count > UInt64(Self.kept) ? count - UInt64(Self.kept) : 0
        return (first..<count).map { ring[Int($0 % UInt64(Self.kept))].text }
    }
}
