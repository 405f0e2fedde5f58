// One event loop of a host: feeds what comes from sockets, disks, timers and the other loops to its `HostCore`, and
// carries out what that asks. Decides nothing. Everything here belongs to the event loop, and so do the replicas of its
// groups.
//
//   own connections ──► receive ──┬──► core ──► turn ──► answers, journal, store, readers
//                                 │                └───► peers' links ──► the link's loop ──► socket
//                                 └──► outgoing ──► take (another loop)
//
// Loops hand over to each other by `execute`, which keeps the order of each pair of loops, and across pairs the order
// of cause and effect.

import HostCore
import Logging
import Messages
import NIOCore
import Primitives
import RPC
import RaftCore
import Ring
import StateMachines
import Storage
import Synchronization

final class HostLoop: @unchecked Sendable {
    // @unchecked: `place`, `eventLoop` and `shell` never change, what waits is counted in atomics; all else belongs to
    // `eventLoop`, which every entry point checks or goes to first.

    let place: LoopPlace
    let eventLoop: any EventLoop
    /// Outlives the loop's last task: a host is stopped before it is let go.
    unowned let shell: HostShell

    private(set) var core: HostCore?
    private(set) var store: Store<LMDBDisk>?
    private(set) var isStopping = false
    private var effects = HostEffects()
    var calls = CallRegistry()
    private var isTurnScheduled = false
    private var isInTurn = false
    private var ticker: RepeatedTask?

    /// What was read here and belongs to other loops, by loop; handed over at the end of the read. Empty with one loop.
    /// Bounded by what one read of a socket brings.
    var outgoing: [LoopDelivery]
    var hasOutgoing = false
    /// Bytes of peers' payloads that other loops handed over and this one has not looked at yet.
    private let peerBytesWaiting = Atomic<Int>(0)
    /// The same of clients' calls.
    private let callBytesWaiting = Atomic<Int>(0)

    /// Calls of the cluster service that wait for what the core makes of them.
    private var clusterCalls: [CallToken: (Response<DataResult>) -> Void] = [:]
    private var clusterCallCount: UInt64 = 0

    /// Where payloads for other hosts go. A copy of what loop 0 knows.
    private var routes: [PeerChannelKey: PeerLink] = [:]
    /// Links of connections that other hosts dialled and that live here, by the connection's id.
    var acceptedLinks: [UInt64: PeerLink] = [:]

    init(place: LoopPlace, eventLoop: any EventLoop, shell: HostShell) {
        self.place = place
        self.eventLoop = eventLoop
        self.shell = shell
        outgoing = place.count > 1 ? Array(repeating: LoopDelivery(), count: place.count) : []
    }

    /// At once if this is the loop that runs, else as a task of its own.
    func run(_ work: @escaping @Sendable () -> Void) {
        if eventLoop.inEventLoop { work() } else { eventLoop.execute(work) }
    }

    // MARK: Beginning and end

    func begin(_ core: sending HostCore, store: Store<LMDBDisk>) {
        eventLoop.preconditionInEventLoop()
        guard !isStopping else { return }
        precondition(self.core == nil, "a host begins once")
        self.core = core
        self.store = store
        let period = TimeAmount.nanoseconds(Int64(core.settings.tickNanoseconds))
        ticker = eventLoop.scheduleRepeatedTask(initialDelay: period, delay: period) { [unowned self] _ in tick() }
    }

    /// Takes nothing any more. What other loops still hand over is refused or dropped.
    func stop() {
        eventLoop.preconditionInEventLoop()
        isStopping = true
        ticker?.cancel()
        routes = [:]
    }

    // MARK: Turns

    private func tick() {
        guard let core, !isStopping else { return }
        let statistics = shell.journal.statistics
        core.journalBytes = statistics.bytes + statistics.baseBytes
        core.tick(now: RPCClock.now())
        runTurn()
    }

    /// Has a turn soon, once for all that comes until then.
    func scheduleTurn() {
        guard !isTurnScheduled else { return }
        isTurnScheduled = true
        eventLoop.execute { [self] in
            isTurnScheduled = false
            runTurn()
        }
    }

    func runTurn() {
        eventLoop.preconditionInEventLoop()
        guard let core, !isStopping else { return }
        // A write that fails makes NIO read what has still come in over that connection, within the write, and its end
        // asks for a turn: the effects under way would be exchanged for others, and a batch for the journal lost.
        guard !isInTurn else { return scheduleTurn() }
        isInTurn = true
        defer { isInTurn = false }
        core.turn(now: RPCClock.now(), into: &effects)
        carryOut()
        if core.hasWork { scheduleTurn() }
    }

    func journalDone(_ ticket: UInt64, _ sequence: UInt64) {
        guard let core, !isStopping else { return }
        core.journalDone(ticket: ticket, sequence: sequence)
        // What came while the commit was under way shares this turn.
        runTurn()
    }

    func spaceChanged(_ level: SpaceLevel) {
        guard let core, !isStopping else { return }
        core.spaceChanged(level)
    }

    func storeDone(_ outcome: StoreOutcome) {
        guard let core, !isStopping else { return }
        switch outcome {
        case .checkpointed(let group, let view): core.checkpointDone(group: group, view: view)
        case .merged(let group, let view): core.mergeDone(group: group, view: view)
        case .mergeFoundNoSpace(let group, let reason):
            shell.space.mergeFoundNoSpace(reason)
            core.mergeFoundNoSpace(group: group)
        case .removed(let group): core.replicaRemoved(group: group)
        case .snapshotTaken(let group, let after, let isLast):
            core.snapshotTaken(group: group, after: after, isLast: isLast)
        case .snapshotInstalled(let group, let machines): core.snapshotInstalled(group: group, machines: machines)
        case .snapshotFailed(let group, let why): core.snapshotFailed(group: group, why)
        case .damaged(let job, let what):
            shell.logger.error("what a replica has on disk is damaged", metadata: ["error": "\(what)"])
            core.storeDamaged(job, what)
        }
        scheduleTurn()
    }

    func scrubbed(_ finding: ScrubFinding) {
        guard let core, !isStopping else { return }
        core.scrubbed(finding)
        scheduleTurn()
    }

    /// Answers a read, or refuses it when its connection has too much to read already: else a client that asks for many
    /// large values at once would fill this process with them. Never for commands: a refusal says that nothing was done.
    func answer<Result>(_ call: CallToken, _ response: Response<Result>, bytes: (Result) -> Int) {
        guard let reply = calls.take(call) else { return }
        if case .done(let result) = response, bytes(result) > Self.largeAnswerBytes, !reply.hasRoom(for: bytes(result))
        {
            return reply.respond {
                Response<Result>.refused(.overloaded(retryAfterMillis: Self.largeAnswerPauseMillis)).encode(into: &$0)
            }
        }
        reply.respond { response.encode(into: &$0) }
    }

    private static var largeAnswerBytes: Int { 16 << 10 }
    private static var largeAnswerPauseMillis: UInt32 { 50 }

    private func carryOut() {
        if let map = effects.map { shell.mapChanged(map) }
        for (host, channel, payload) in effects.peerPayloads {
            // Refused when too much is unsent: consensus sends again what it must.
            routes[PeerChannelKey(host: host, channel: channel)]?.send(payload, from: self)
        }
        if effects.journal != nil || !effects.superfluous.isEmpty {
            shell.journalWriter.submit(effects.journal, superfluous: effects.superfluous, from: place.number)
        }
        for reply in effects.replies {
            if reply.isRead {
                answer(reply.call, reply.response) { $0.body.count }
            } else if let answer = clusterCalls.removeValue(forKey: reply.call) {
                answer(reply.response)
            } else {
                calls.take(reply.call)?.respond { reply.response.encode(into: &$0) }
            }
        }
        if !effects.coldReads.isEmpty { startColdReads(effects.coldReads[...]) }
        for page in effects.coldPages { startColdPage(page) }
        for read in effects.loadReads { startLoadRead(read) }
        for look in effects.balanceLooks { startBalanceLook(look) }
        for read in effects.stateReads { startStateRead(read) }
        for read in effects.deadlineReads { startDeadlineRead(read) }
        for read in effects.migrationReads { startMigrationRead(read) }
        startMachineReads(effects.machineReads)
        for read in effects.logReads { startLogRead(read) }
        for read in effects.snapshotReads { startSnapshotRead(read) }
        if let store {
            for job in effects.storeJobs { shell.storeWriter.submit(job, in: store, from: place.number) }
        }
        if !effects.births.isEmpty { startBirths(effects.births) }
        if !effects.loopMessages.isEmpty { handOver(effects.loopMessages) }
        if effects.damages > 0 { shell.damages.add(UInt64(effects.damages), ordering: .relaxed) }
        for notice in effects.notices { shell.logger.notice("\(notice)") }
        effects.removeAll()
    }

    /// Has the core do something that it answers like a call of the data service.
    func ask(_ body: (HostCore, CallToken) -> Void, _ answer: @escaping (Response<DataResult>) -> Void) {
        eventLoop.preconditionInEventLoop()
        guard let core, !isStopping else {
            return answer(
                .refused(.unavailable(isStopping ? "the host is stopping" : "the host belongs to no cluster yet")))
        }
        clusterCallCount += 1
        // No place in the registry has this number.
        let call = CallToken(rawValue: clusterCallCount << 32 | 0xffff_ffff)
        clusterCalls[call] = answer
        body(core, call)
        scheduleTurn()
    }

    // MARK: Other loops

    /// Hands what was read here to the loops that it belongs to: one task for each. Loop 0 comes last: what it asks the
    /// others once it has its part, they answer with theirs taken in.
    func handOver() {
        guard hasOutgoing else { return }
        hasOutgoing = false
        for number in stride(from: place.count - 1, through: 0, by: -1) where !outgoing[number].isEmpty {
            let delivery = outgoing[number]
            outgoing[number] = LoopDelivery()
            if number == place.number { take(delivery) } else { shell.loops[number].give(delivery) }
        }
    }

    /// From another loop. A loop that is far behind takes no more: consensus sends again what it must, and clients are
    /// told that it is overloaded.
    private func give(_ delivery: consuming LoopDelivery) {
        var delivery = delivery
        let bytes = delivery.peerBytes
        if bytes > 0 {
            let waiting = peerBytesWaiting.add(bytes, ordering: .relaxed).newValue
            if waiting > Self.peerBytesWaitingMax {
                peerBytesWaiting.subtract(bytes, ordering: .relaxed)
                delivery.parts = []
                delivery.peerBytes = 0
            }
        }
        let callBytes = delivery.callBytes
        if callBytes > 0 {
            let waiting = callBytesWaiting.add(callBytes, ordering: .relaxed).newValue
            if waiting > Self.callBytesWaitingMax {
                callBytesWaiting.subtract(callBytes, ordering: .relaxed)
                for call in delivery.calls {
                    let refusal = Refusal.overloaded(retryAfterMillis: 50)
                    call.reply.respond { Response<DataResult>.refused(refusal).encode(into: &$0) }
                }
                delivery.calls = []
                delivery.callBytes = 0
            }
        }
        guard !delivery.isEmpty else { return }
        eventLoop.execute { [self, delivery] in
            peerBytesWaiting.subtract(delivery.peerBytes, ordering: .relaxed)
            callBytesWaiting.subtract(delivery.callBytes, ordering: .relaxed)
            take(delivery)
            scheduleTurn()
        }
    }

    private static var peerBytesWaitingMax: Int { 128 << 20 }
    private static var callBytesWaitingMax: Int { 128 << 20 }

    private func take(_ delivery: LoopDelivery) {
        if let core, !isStopping {
            for (part, host) in delivery.parts { core.receive(part, from: host) }
        }
        for call in delivery.calls { perform(call.request, call.reply) }
    }

    /// What this loop's core says to the others'. Small by its nature: a few numbers per tick and host, and now and
    /// then a map.
    private func handOver(_ messages: [(loop: Int, message: LoopMessage)]) {
        var byLoop = [[LoopMessage]](repeating: [], count: place.count)
        for (loop, message) in messages { byLoop[loop].append(message) }
        for (number, messages) in byLoop.enumerated() where !messages.isEmpty {
            let loop = shell.loops[number]
            loop.eventLoop.execute { loop.take(messages) }
        }
    }

    private func take(_ messages: [LoopMessage]) {
        guard let core, !isStopping else { return }
        for message in messages { core.receive(message) }
        scheduleTurn()
    }

    // MARK: Peers

    /// On loop 0 only, which tells the other loops' cores.
    func peerUp(_ host: HostID, over channel: PeerChannel, featureLevel: UInt32) {
        guard let core, !isStopping else { return }
        core.peerUp(host, over: channel, featureLevel: featureLevel)
        scheduleTurn()
    }

    /// On loop 0 only.
    func peerDown(_ host: HostID, over channel: PeerChannel) {
        guard let core, !isStopping else { return }
        core.peerDown(host, over: channel)
        scheduleTurn()
    }

    func addRoute(_ link: PeerLink) {
        eventLoop.preconditionInEventLoop()
        if !isStopping { routes[link.key] = link }
    }

    func removeRoute(_ link: PeerLink) {
        eventLoop.preconditionInEventLoop()
        if routes[link.key] === link { routes[link.key] = nil }
    }

    /// What another host said, as its connection here brought it. False if it can't be read: the connection is closed
    /// by the caller.
    func receiveBatch(_ payload: Bytes, from host: HostID) -> Bool {
        guard let core, !isStopping else { return true }
        do throws(DecodingFailure) {
            if place.count == 1 {
                try core.receive(payload, from: host)
                return true
            }
            for (number, part) in try PeerBatchPart.split(payload, loops: place.count).enumerated() {
                guard let part else { continue }
                outgoing[number].parts.append((part, host))
                // Each part keeps the whole payload alive.
                outgoing[number].peerBytes += payload.count
                hasOutgoing = true
            }
            return true
        } catch {
            shell.logger.warning(
                "a peer's batch can't be read; its connection is closed",
                metadata: ["host": "\(host)", "error": "\(error)"])
            return false
        }
    }
}

/// What one loop hands to another after a read.
struct LoopDelivery: Sendable {
    var calls: [(request: DataRequest, reply: CallReply)] = []
    var parts: [(part: PeerBatchPart, host: HostID)] = []
    /// What the parts keep alive.
    var peerBytes = 0
    /// Of the calls' payloads.
    var callBytes = 0

    var isEmpty: Bool { calls.isEmpty && parts.isEmpty }
}
