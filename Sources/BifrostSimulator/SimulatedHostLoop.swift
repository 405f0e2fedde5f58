// One event loop of a simulated host: feeds its HostCore, runs its turns, and takes what other threads hand to it in
// the order in which they did. Decides nothing, as the real shell.

import HostCore
import Messages
import Primitives
import Storage

final class SimulatedHostLoop {
    // It owns this.
    unowned(unsafe) let host: SimulatedHost
    let number: Int
    let core: HostCore
    private var effects = HostEffects()
    // What happens most often has one closure each.
    private var tickEvent: () -> Void = {}
    private var turnEvent: () -> Void = {}
    private static let tickName: StaticString = "host %h: loop %b ticks"
    private static let turnName: StaticString = "host %h: loop %b has a turn"
    private var isTurnScheduled = false
    private var inbox: [() -> Void] = []
    /// A long turn or a thread that gets no processor: nothing of this loop runs until then.
    var stalledUntil: UInt64 = 0

    private var cluster: SimulatedCluster { host.cluster }

    init(host: SimulatedHost, core: HostCore) {
        self.host = host
        self.core = core
        number = core.loop.number
        tickEvent = host.event(Self.tickName, loop: number) { [unowned self] in tick() }
        turnEvent = host.event(Self.turnName, loop: number) { [unowned self] in
            isTurnScheduled = false
            runTurn()
        }
    }

    /// Something of this loop that happens later.
    func schedule(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        host.schedule(after: delay, name, b, loop: number, action)
    }

    /// Something that another thread hands to the loop: what was handed over first is done first.
    func execute(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        inbox.append(action)
        schedule(after: delay, name, b) { [unowned self] in
            if !inbox.isEmpty { inbox.removeFirst()() }
        }
    }

    /// Something that comes up on another loop of the host: at once if it is this one.
    func take(from other: Int, _ name: StaticString, _ action: @escaping () -> Void) {
        if other == number {
            action()
        } else {
            execute(after: cluster.random.below(cluster.plan.turnDelayNanosecondsMax), name, UInt64(number), action)
        }
    }

    // MARK: Turns

    func begin() {
        scheduleTick()
        runTurn()
    }

    private func scheduleTick() {
        cluster.schedule(after: host.tickNanoseconds, Self.tickName, UInt64(host.place), UInt64(number), tickEvent)
    }

    private func tick() {
        scheduleTick()
        core.journalBytes = host.journal?.statistics.bytes ?? 0
        core.tick(now: host.clock)
        runTurn()
    }

    /// Has a turn soon, once for all that comes until then.
    func scheduleTurn() {
        guard !isTurnScheduled else { return }
        isTurnScheduled = true
        cluster.schedule(
            after: cluster.random.below(cluster.plan.turnDelayNanosecondsMax), Self.turnName, UInt64(host.place),
            UInt64(number), turnEvent)
    }

    /// A turn at once, or soon.
    func getOn() {
        if cluster.random.below(16) == 0 { runTurn() } else { scheduleTurn() }
    }

    func runTurn() {
        guard host.isRunning else { return }
        core.turn(now: host.clock, into: &effects)
        var work = HostEffects()
        swap(&work, &effects)
        if let batch = work.journal { cluster.invariants.asked(host, batch) }
        host.carryOut(work, of: self)
        guard host.isRunning else { return }
        work.removeAll()
        swap(&work, &effects)
        cluster.invariants.observe(host, core)
        if core.hasWork { scheduleTurn() }
    }
}
