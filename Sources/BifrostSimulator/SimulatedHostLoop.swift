// One event loop of a simulated host: feeds its HostCore, runs its turns, and takes what other threads hand to it in
// the order in which they did. Decides nothing, as the real shell.

import HostCore
import Messages
import Primitives
import Storage

final class SimulatedHostLoop {
    // It owns this.
    unowned(unsafe) let host: SimulatedHost
    let world: SimulatedWorld
    private let invariants: Invariants
    /// Of the process that this loop is of.
    private let process: SimulatedEvent.Process
    private let place: UInt64
    let number: Int
    let core: HostCore
    @exclusivity(unchecked) private var effects = HostEffects()
    // What happens most often has one closure each.
    private var tickEvent: () -> Void = {}
    private var turnEvent: () -> Void = {}
    @exclusivity(unchecked) private var ticks: UInt64 = 0
    private static let tickName: StaticString = "host %h: loop %b ticks"
    private static let turnName: StaticString = "host %h: loop %b has a turn"
    @exclusivity(unchecked) private var isTurnScheduled = false
    @exclusivity(unchecked) private var leaseReadsSeen: UInt64 = 0
    @exclusivity(unchecked) private var staleReadsSeen: UInt64 = 0
    @exclusivity(unchecked) private var writesSlowedSeen: UInt64 = 0
    @exclusivity(unchecked) private var sessionReadsSeen: UInt64 = 0
    @exclusivity(unchecked) private var hangHandOversSeen: UInt64 = 0
    @exclusivity(unchecked) private var hangStepDownsSeen: UInt64 = 0
    private var inboxEvent: () -> Void = {}
    /// A struct: functions that are elements themselves are wrapped in another one each.
    private struct Handed { var action: () -> Void }
    @exclusivity(unchecked) private var inbox: [Handed] = []
    /// A long turn or a thread that gets no processor: nothing of this loop runs until then.
    @exclusivity(unchecked) var stalledUntil: UInt64 = 0

    init(host: SimulatedHost, core: HostCore) {
        self.host = host
        self.core = core
        world = host.world
        invariants = host.invariants
        number = core.loop.number
        process = SimulatedEvent.Process(life: host.life, loop: number)
        place = UInt64(host.place)
        tickEvent = { [unowned(unsafe) self] in tick() }
        turnEvent = { [unowned(unsafe) self] in
            isTurnScheduled = false
            runTurn()
        }
        inboxEvent = { [unowned(unsafe) self] in if !inbox.isEmpty { inbox.removeFirst().action() } }
    }

    /// Something of this loop that happens later.
    func schedule(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        world.schedule(after: delay, name, place, b, of: process, action)
    }

    /// Something that another thread hands to the loop: what was handed over first is done first.
    func execute(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        inbox.append(Handed(action: action))
        schedule(after: delay, name, b, inboxEvent)
    }

    /// Something that comes up on another loop of the host: at once if it is this one.
    func take(from other: Int, _ name: StaticString, _ action: @escaping () -> Void) {
        if other == number {
            action()
        } else {
            execute(after: world.random.below(world.plan.turnDelayNanosecondsMax), name, UInt64(number), action)
        }
    }

    // MARK: Turns

    func begin() {
        scheduleTick()
        runTurn()
    }

    private func scheduleTick() {
        schedule(after: host.tickNanoseconds, Self.tickName, UInt64(number), tickEvent)
    }

    private func tick() {
        scheduleTick()
        if let statistics = host.journal?.statistics { core.journalBytes = statistics.bytes + statistics.baseBytes }
        core.tick(now: host.clock)
        runTurn()
        ticks += 1
        guard host.isRunning, ticks % Self.ticksBetweenLooks == 0, let overlooked = core.overlooked() else { return }
        world.fail("what needs work is looked at", "host \(host.place + 1), loop \(number): \(overlooked)")
    }

    /// Who is overlooked is so for ever, and each look costs some microseconds for each replica.
    private static var ticksBetweenLooks: UInt64 { 7 }

    /// Has a turn soon, once for all that comes until then.
    func scheduleTurn() {
        guard !isTurnScheduled else { return }
        isTurnScheduled = true
        schedule(
            after: world.random.below(world.plan.turnDelayNanosecondsMax), Self.turnName, UInt64(number), turnEvent)
    }

    /// A turn at once, or soon.
    func getOn() {
        if world.random.below(16) == 0 { runTurn() } else { scheduleTurn() }
    }

    func runTurn() {
        // Once: each look counts references.
        let host = host
        guard host.isRunning else { return }
        core.turn(now: host.clock, into: &effects)
        if let batch = effects.journal { invariants.asked(host, batch) }
        // Nothing that is carried out has a turn of this loop before it ends.
        host.carryOut(&effects, of: self)
        guard host.isRunning else { return }
        effects.removeAll()
        invariants.observe(host, core)
        if core.leaseReads > leaseReadsSeen {
            leaseReadsSeen = core.leaseReads
            world.mark(.leaseRead)
        }
        if core.hangHandOvers > hangHandOversSeen {
            hangHandOversSeen = core.hangHandOvers
            world.mark(.handedOverForHang)
        }
        if core.hangStepDowns > hangStepDownsSeen {
            hangStepDownsSeen = core.hangStepDowns
            world.mark(.steppedDownForHang)
        }
        if core.sessionReads > sessionReadsSeen {
            sessionReadsSeen = core.sessionReads
            world.mark(.sessionRead)
        }
        if core.staleReads > staleReadsSeen {
            staleReadsSeen = core.staleReads
            world.mark(.staleRead)
        }
        if core.writesSlowed > writesSlowedSeen {
            writesSlowedSeen = core.writesSlowed
            world.mark(.writersSlowed)
        }
        if core.hasWork { scheduleTurn() }
    }
}
