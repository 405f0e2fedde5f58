// Virtual time: what happens next. Knows nothing of hosts or networks.

/// Something that will happen: its name and whom it concerns, and what is done then.
struct SimulatedEvent {
    /// The process that an event is of, and its loop, if it is of one: nothing happens if the process has ended by then,
    /// and it happens later if either is stopped.
    struct Process {
        var life: UInt64
        /// -1: of none.
        var loop: Int
        var isNone: Bool { life == .max }
        static let none = Process(life: .max, loop: -1)
    }

    var name: StaticString
    var a: UInt64
    var b: UInt64
    var process: Process
    var action: () -> Void

    static var nothing: SimulatedEvent { SimulatedEvent(name: "", a: 0, b: 0, process: .none) {} }
}

/// Events by time, and in the order of their scheduling at equal times.
///
/// The heap has only what decides the order, in 16 bytes without references, since most of the work is moving it about;
/// the events themselves stay where they are.
struct SimulatedEventQueue {
    private struct Entry {
        var time: UInt64
        /// The number of the event in the upper 40 bits, its place in `events` in the lower 24.
        var numberAndPlace: UInt64

        func isBefore(_ other: Entry) -> Bool {
            time < other.time || time == other.time && numberAndPlace < other.numberAndPlace
        }
        var place: Int { Int(numberAndPlace & Self.placeMask) }
        static let placeMask: UInt64 = 1 << 24 - 1
    }

    private var heap: [Entry] = []
    private var events: [SimulatedEvent] = []
    private var free: [Int] = []
    private var nextNumber: UInt64 = 0

    var isEmpty: Bool { heap.isEmpty }
    var nextTime: UInt64? { heap.isEmpty ? nil : heap[0].time }

    /// At most 2^24 events wait at a time, and 2^40 happen in a run.
    mutating func schedule(at time: UInt64, _ event: consuming SimulatedEvent) {
        let place: Int
        if let last = free.popLast() {
            place = last
            swap(&event, &events[place])
        } else {
            place = events.count
            events.append(event)
        }
        precondition(place <= Entry.placeMask && nextNumber < 1 << 40, "too many events")
        let entry = Entry(time: time, numberAndPlace: nextNumber << 24 | UInt64(place))
        nextNumber += 1
        heap.append(entry)
        heap.withUnsafeMutableBufferPointer { heap in
            var hole = heap.count - 1
            while hole > 0 {
                let parent = (hole - 1) / 2
                let above = heap[parent]
                guard entry.isBefore(above) else { break }
                heap[hole] = above
                hole = parent
            }
            heap[hole] = entry
        }
    }

    /// The next event. There must be one.
    mutating func take() -> SimulatedEvent {
        guard let last = heap.popLast() else { preconditionFailure("nothing happens any more") }
        let first = heap.withUnsafeMutableBufferPointer { heap -> Entry in
            let count = heap.count
            guard count > 0 else { return last }
            let first = heap[0]
            // The hole at the top sinks to where the last entry fits.
            var hole = 0
            while true {
                var child = 2 * hole + 1
                guard child < count else { break }
                if child + 1 < count, heap[child + 1].isBefore(heap[child]) { child += 1 }
                let below = heap[child]
                guard below.isBefore(last) else { break }
                heap[hole] = below
                hole = child
            }
            heap[hole] = last
            return first
        }
        free.append(first.place)
        var event = SimulatedEvent.nothing
        swap(&event, &events[first.place])
        return event
    }
}
