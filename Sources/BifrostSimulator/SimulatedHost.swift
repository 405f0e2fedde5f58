// One host's shell in the simulation: feeds HostCore from the virtual network, disk and clock, and carries out what it
// asks. Decides nothing, as the real shell; time that a disk or a reader takes is drawn from the seed.

import ClientCore
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage

final class SimulatedHost {
    unowned let cluster: SimulatedCluster
    /// Position among the hosts; its endpoint in the network.
    let place: Int
    let id: HostID
    let journalDisk: SimulatedDisk
    let storeDisk: SimulatedDisk
    private let incarnation: Incarnation
    private let journalName: UInt64
    /// The copy of the cluster map that a restart begins with.
    private var savedMap: ClusterMap
    /// Its clock goes `clockRate` millionths as fast as virtual time.
    private let clockRate: UInt64
    private let clockStart: UInt64

    /// Raised at each crash, so that what belongs to an earlier process is told.
    private(set) var life: UInt64 = 0
    private(set) var isRunning = false
    /// The process is stopped (SIGSTOP) until then: nothing of it runs, its clock goes on.
    var pausedUntil: UInt64 = 0
    /// Everything on the disks takes so many times as long until then.
    var slowDiskUntil: UInt64 = 0
    /// Nothing on the disks ends before then.
    var stalledDiskUntil: UInt64 = 0

    // The process.
    private(set) var core: HostCore?
    var journal: Journal<SimulatedDisk>?
    var store: Store<SimulatedDisk>?
    private var effects = HostEffects()
    private var isTurnScheduled = false
    private var handedOver: [() -> Void] = []
    var queuedBatches: [JournalBatch] = []
    var committing: [JournalBatch] = []
    /// What the core last called superfluous in the journal.
    var superfluous: [(replica: ReplicaID, through: LogIndex)] = []
    var isTrimDue = false
    var isCommitting = false
    var storeJobs: [StoreJob] = []
    var isStoreBusy = false
    private var calls: [UInt64: SimulatedCall] = [:]
    private var nextCall: UInt64 = 1
    let memtables = MemtablePool(bytesMax: 1 << 20)

    init(cluster: SimulatedCluster, place: Int, id: HostID, map: ClusterMap) {
        self.cluster = cluster
        self.place = place
        self.id = id
        savedMap = map
        journalDisk = SimulatedDisk(seed: cluster.random.next())
        storeDisk = SimulatedDisk(seed: cluster.random.next())
        incarnation = map.host(id)?.incarnation ?? Incarnation(1)
        journalName = cluster.random.next() | 1
        let drift = cluster.plan.clockDriftMillionths
        clockRate = 1_000_000 - drift + cluster.random.below(2 * drift + 1)
        clockStart = cluster.random.below(1_000_000_000_000)
    }

    /// The host's monotonic clock.
    var clock: Instant {
        Instant(clockStart + cluster.now / 1_000 * clockRate / 1_000 + cluster.now % 1_000)
    }

    var isListening: Bool { isRunning }

    /// Something of this process that happens later: not at all if it has ended by then, later if it is stopped.
    func schedule(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        let life = life
        cluster.schedule(after: delay, name, UInt64(place), b) { [unowned self] in run(life, name, b, action) }
    }

    /// Something that another thread hands to the loop: what was handed over first is done first.
    func execute(after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, _ action: @escaping () -> Void) {
        handedOver.append(action)
        schedule(after: delay, name, b) { [unowned self] in
            if !handedOver.isEmpty { handedOver.removeFirst()() }
        }
    }

    private func run(_ life: UInt64, _ name: StaticString, _ b: UInt64, _ action: @escaping () -> Void) {
        guard life == self.life, isRunning else { return }
        if pausedUntil > cluster.now {
            cluster.schedule(after: pausedUntil - cluster.now, name, UInt64(place), b) { [unowned self] in
                run(life, name, b, action)
            }
            return
        }
        action()
    }

    // MARK: Beginning and end

    /// Starts the process on what the disks hold.
    func start() {
        precondition(!isRunning)
        isRunning = true
        do {
            let fresh = HostIdentity(
                cluster: savedMap.cluster, host: id, incarnation: incarnation, featureLevel: 1, journal: journalName)
            let journal = try Journal(disk: journalDisk, formatting: fresh)
            var identity = journal.identity
            identity.bootCounter += 1
            try journal.update(identity)
            self.journal = journal
            cluster.invariants.restarted(self, journal.recovered())
            let store = try Store(
                disk: storeDisk,
                formatting: StoreIdentity(cluster: identity.cluster, host: id, journal: identity.journal),
                settings: StoreSettings(cacheBytesMax: 1 << 16, runsMax: cluster.plan.settings.runsMax, deletionsMax: 8)
            )
            self.store = store
            let core = HostCore(
                host: id, journal: identity.journal, settings: cluster.plan.settings,
                seed: mix(incarnation.rawValue ^ mix(identity.bootCounter)), now: clock,
                journalSequence: journal.lastSequence)
            self.core = core
            core.adopt(savedMap)
            scheduleTick()
            runTurn()
        } catch {
            diskFailed(error)
            return
        }
        for link in cluster.peerLinks where link.from == place { link.connect(after: cluster.random.below(20_000_000)) }
    }

    /// The process ends without warning.
    func crash() {
        guard isRunning else { return }
        // A commit that was on its way may have reached the disk before the end, whole or not at all.
        if !committing.isEmpty, cluster.random.below(2) == 0 { _ = try? write(committing) }
        isRunning = false
        life += 1
        pausedUntil = 0
        for call in calls.keys.sorted() { calls[call] = nil }
        core = nil
        journal = nil
        store = nil
        effects = HostEffects()
        isTurnScheduled = false
        handedOver = []
        queuedBatches = []
        committing = []
        superfluous = []
        isTrimDue = false
        isCommitting = false
        storeJobs = []
        isStoreBusy = false
        journalDisk.crash()
        storeDisk.crash()
        cluster.invariants.crashed(self)
        cluster.report.crashes += 1
        for link in cluster.peerLinks {
            if link.from == place { link.senderEnded() }
            // The others notice at once (the kernel says so) or only when they wait for an answer in vain.
            if link.to == place {
                link.reset(after: cluster.random.below(3) == 0 ? cluster.random.below(2_000_000_000) : 200_000)
            }
        }
        for client in cluster.clients { client.hostEnded(place) }
    }

    // MARK: Turns

    private func scheduleTick() {
        let period = cluster.plan.settings.tickNanoseconds * 1_000_000 / clockRate
        schedule(after: period, "tick") { [unowned self] in
            scheduleTick()
            core?.journalBytes = journal?.statistics.bytes ?? 0
            core?.tick(now: clock)
            runTurn()
        }
    }

    /// Has a turn soon, once for all that comes until then.
    func scheduleTurn() {
        guard !isTurnScheduled else { return }
        isTurnScheduled = true
        schedule(after: cluster.random.below(cluster.plan.turnDelayNanosecondsMax), "turn") { [unowned self] in
            isTurnScheduled = false
            runTurn()
        }
    }

    func runTurn() {
        guard let core, isRunning else { return }
        core.turn(now: clock, into: &effects)
        let work = effects
        effects = HostEffects()
        if let batch = work.journal { cluster.invariants.asked(self, batch) }
        carryOut(work)
        guard isRunning else { return }
        cluster.invariants.observe(self, core)
        if core.hasWork { scheduleTurn() }
    }

    private func carryOut(_ work: HostEffects) {
        if let map = work.map { savedMap = map }
        for (host, payload) in work.peerPayloads {
            cluster.invariants.sent(self, payload)
            cluster.peerLink(from: place, to: cluster.place(of: host)).channel.send(SimulatedFrame(payload: payload))
        }
        if work.journal != nil || !work.superfluous.isEmpty { submit(work.journal, superfluous: work.superfluous) }
        for reply in work.replies { answer(reply.call) { reply.response.encode(into: &$0) } }
        for read in work.coldReads { startColdRead(read) }
        for page in work.coldPages { startColdPage(page) }
        for read in work.logReads { startLogRead(read) }
        if !work.storeJobs.isEmpty { submit(work.storeJobs) }
        if !work.births.isEmpty { startBirths(work.births) }
    }

    // MARK: What comes in

    func receive(_ payload: Bytes, from host: HostID) {
        guard let core else { return }
        do throws(DecodingFailure) {
            try core.receive(payload, from: host)
        } catch {
            cluster.fail("wire", "host \(id) can't read what host \(host) sent: \(error)")
        }
        if cluster.random.below(4) == 0 { runTurn() } else { scheduleTurn() }
    }

    /// A client's request, as the shell's services take it.
    func receive(_ frame: SimulatedFrame, on link: SimulatedClientLink) {
        guard let core, let kind = ClientFrameKind(rawValue: frame.kind) else { return }
        let call = SimulatedCall(link: link, generation: link.responses.generation, frame: frame)
        do throws(DecodingFailure) {
            switch kind {
            case .execute: core.execute(try ExecuteRequest(decoding: frame.payload), call: add(call))
            case .query: core.query(try QueryRequest(decoding: frame.payload), call: add(call))
            case .page: core.page(try PageRequest(decoding: frame.payload), call: add(call))
            case .map:
                let request = try MapRequest(decoding: frame.payload)
                let reply: MapReply =
                    if let map = core.map {
                        map.version > request.known ? .map(map) : .unchanged(version: map.version)
                    } else {
                        .notInitialised
                    }
                call.respond { reply.encode(into: &$0) }
            }
        } catch {
            cluster.fail("wire", "host \(id) can't read a client's request: \(error)")
        }
        if cluster.random.below(4) == 0 { runTurn() } else { scheduleTurn() }
    }

    private func add(_ call: SimulatedCall) -> CallToken {
        nextCall += 1
        calls[nextCall] = call
        return CallToken(rawValue: nextCall)
    }

    func answer(_ token: CallToken, writing body: (inout ByteWriter) -> Void) {
        guard let call = calls.removeValue(forKey: token.rawValue) else {
            cluster.fail(
                "one answer per call", "host \(id) answers call \(token.rawValue) twice, or one that never came")
            return
        }
        call.respond(writing: body)
    }
}

/// A client's call that waits for its answer.
struct SimulatedCall {
    var link: SimulatedClientLink
    var generation: UInt64
    var frame: SimulatedFrame

    func respond(writing body: (inout ByteWriter) -> Void) {
        guard link.responses.isOpen, link.responses.generation == generation else { return }
        var writer = ByteWriter(capacity: 64)
        body(&writer)
        link.responses.send(SimulatedFrame(kind: frame.kind, call: frame.call, payload: writer.take()))
    }
}
