// What all parts of a simulated cluster share: time, chance, and the record of what happens. Owns the order of events;
// refuses to know what they do, and refers to nothing that refers to it, so that all parts may own it.

import Primitives

final class SimulatedWorld {
    let seed: UInt64
    let plan: SimulatedPlan
    // Unchecked: each access ends before anything else runs, and these are reached with every event.
    @exclusivity(unchecked) var random: SeededRandom
    @exclusivity(unchecked) private(set) var now: UInt64 = 0
    @exclusivity(unchecked) private var queue = SimulatedEventQueue()
    @exclusivity(unchecked) private(set) var trace = SimulationTrace()
    @exclusivity(unchecked) private(set) var failure: SimulationFailure?
    var report = SimulationReport()
    var areFaultsOn = false
    /// Each event as a line, as it happens.
    @exclusivity(unchecked) var listener: ((String) -> Void)?

    init(seed: UInt64, plan: SimulatedPlan, random: SeededRandom) {
        self.seed = seed
        self.plan = plan
        self.random = random
        report.seed = seed
    }

    // MARK: Time

    /// - Parameters:
    ///   - name: as `TraceNote` has it, for `a` and `b`.
    ///   - process: whose event it is, if it is one's; `a` is then its host's place.
    func schedule(
        after delay: UInt64, _ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0,
        of process: SimulatedEvent.Process = .none, _ action: @escaping () -> Void
    ) {
        queue.schedule(at: now + delay, SimulatedEvent(name: name, a: a, b: b, process: process, action: action))
    }

    /// When the next event happens; nil if there is none until then.
    func nextTime(until end: UInt64) -> UInt64? {
        guard let time = queue.nextTime, time <= end else { return nil }
        return time
    }

    /// The next event, noted; time goes on to it. There must be one.
    func takeEvent() -> SimulatedEvent {
        now = queue.nextTime ?? now
        let event = queue.take()
        note(event.name, event.a, event.b)
        return event
    }

    /// Nothing is left to happen before then.
    func goOn(to time: UInt64) { now = time }

    /// The run is over: what would have happened refers to whoever it would have happened to.
    func end() { queue = SimulatedEventQueue() }

    // MARK: What happened

    func note(_ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, _ d: UInt64 = 0) {
        trace.note(TraceNote(time: now, name: name, a: a, b: b, c: c, d: d))
        if let listener { listener(trace.last.newest) }
    }

    /// A line of some host's log, for whoever reads the events; not one of them.
    func say(_ line: @autoclosure () -> String) {
        guard let listener else { return }
        let micros = now / 1_000
        let fraction = String(micros % 1_000_000)
        let zeros = String(repeating: "0", count: 6 - fraction.count)
        listener("\(micros / 1_000_000).\(zeros)\(fraction)  \(line())")
    }

    /// A rare path was taken.
    func mark(_ mark: SimulationMark) { report.marks[mark.rawValue] += 1 }

    /// A rule is broken: the run ends with the first one.
    func fail(_ invariant: String, _ detail: String) {
        guard failure == nil else { return }
        failure = SimulationFailure(seed: seed, invariant: invariant, detail: detail, lastEvents: trace.last.lines)
    }
}
