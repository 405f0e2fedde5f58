// A client of the simulated cluster: a ClientRouter, its connections, and workers that submit operations and note what
// came of them. Owns its part of the history; judges nothing.

import ClientCore
import Messages
public import Primitives
import Ring
import StateMachines

/// One operation of a client, as its caller saw it.
public struct SimulatedOperation: Sendable {
    public enum Kind: Hashable, Sendable {
        case put(Bytes), get, delete
        /// Sets the value, or deletes with nil, if the key has this value (nil: none) or got its value at this revision.
        case putIf(value: Bytes?, to: Bytes?)
        /// At which it got the value `was`: each value is written once, so that is as good a name for it.
        case putIfRevision(UInt64, was: Bytes, to: Bytes?)
        /// A command of a program's own state machine.
        case machine
    }
    public enum Outcome: Hashable, Sendable {
        /// Still under way, or nobody knows what became of it: it may take effect at any time after its call.
        case unknown
        /// Certainly without effect, now and later.
        case failed
        /// A command that took effect.
        /// And at which revision, if it has one of its own.
        case done(revision: UInt64?)
        /// What a get found.
        case found(Bytes?, revision: UInt64?)
    }
    public var client: Int
    public var key: Bytes
    public var kind: Kind
    /// Virtual time in nanoseconds.
    public var called: UInt64
    /// `.max` while the outcome is unknown.
    public var ended: UInt64 = .max
    /// The caller waits no longer.
    var hasEnded = false
    public var outcome = Outcome.unknown

    public init(client: Int, key: Bytes, kind: Kind, called: UInt64) {
        self.client = client
        self.key = key
        self.kind = kind
        self.called = called
    }
}

enum ClientFrameKind: UInt8 { case execute = 1, query, page, map, watch }

/// A client's connection to one host.
final class SimulatedClientLink {
    let host: Int
    /// Tells the connections to a host apart.
    let number: Int
    let requests: SimulatedChannel
    let responses: SimulatedChannel
    /// Calls without an answer, in order.
    var open: [(kind: ClientFrameKind, call: UInt64)] = []
    var attempt: UInt64 = 0

    init(host: Int, number: Int, requests: SimulatedChannel, responses: SimulatedChannel) {
        self.host = host
        self.number = number
        self.requests = requests
        self.responses = responses
    }
}

final class SimulatedClient {
    // It owns this, and outlives it.
    unowned(unsafe) let cluster: SimulatedCluster
    private let world: SimulatedWorld
    let place: Int
    private let endpoint: Int
    private var router: ClientRouter
    private var effects = ClientEffects()
    /// Empty; its memory is that of the next `effects`.
    private var spare = ClientEffects()
    private(set) var links: [SimulatedClientLink] = []
    /// Whoever waits for an operation, by its tag.
    private var waiting: [UInt64: (Result<Bytes, OperationFailure>) -> Void] = [:]
    /// By group: the last entry that was applied in what it was told, and a moment at which that was so, or earlier.
    private(set) var seen: [GroupID: (index: LogIndex, called: UInt64)] = [:]
    private var nextTag: UInt64 = 1
    /// Whom each call that is under way asks, and for which operation.
    private var asked: [UInt64: (tag: UInt64, group: GroupID)] = [:]
    /// By tag: whose answer ends the operation.
    private var answeredBy: [UInt64: GroupID] = [:]
    /// Whose answer it is that is told just now; `.meta`: nobody's. Slots move, and where an operation was sent first need not
    /// be where it is done.
    private(set) var answerer = GroupID.meta
    /// Commands among the operations, by tag.
    private var commands: [UInt64: Int] = [:]
    private var isTicking = false
    /// Of which an operation is open.
    private(set) var burstsOpen = 0
    private var isInTurn = false
    /// What is submitted waits for company.
    private var holdsBack = false
    /// It gets no map: what it goes by grows old.
    var keepsMap = false
    /// For whose sake it keeps its sessions, whatever it has there.
    private var heldSlots: [Slot] = []

    init(cluster: SimulatedCluster, place: Int) {
        self.cluster = cluster
        world = cluster.world
        self.place = place
        endpoint = cluster.hosts.count + place
        var settings = ClientSettings()
        settings.tickNanoseconds = 20_000_000
        settings.queryAttemptNanoseconds = 300_000_000 + world.random.below(1_000_000_000)
        settings.silenceNanoseconds = 300_000_000 + world.random.below(1_200_000_000)
        settings.mapFetchNanoseconds = 500_000_000
        if world.random.below(3) == 0 { settings.groupWindowMax = 1 + Int(world.random.below(3)) }
        settings.watchAttemptNanoseconds = 2_500_000_000
        settings.commandAttemptNanoseconds = 300_000_000 + world.random.below(2_000_000_000)
        // Some go without.
        settings.sessionTimeToLiveMilliseconds =
            world.random.below(8) == 0 ? 0 : SessionTable.Limits.timeToLiveMin + world.random.below(4_000)
        if let milliseconds = world.plan.sessionMilliseconds { settings.sessionTimeToLiveMilliseconds = milliseconds }
        router = ClientRouter(settings: settings, seedCount: cluster.hosts.count, seed: world.random.next())
        for host in cluster.hosts.indices {
            let link = SimulatedClientLink(
                host: host, number: endpoint, requests: cluster.network.channel(from: endpoint, to: host),
                responses: cluster.network.channel(from: host, to: endpoint))
            let target = cluster.hosts[host]
            let number = link.number
            link.requests.receiverReady = { [unowned(unsafe) target] in target.isReady(forConnection: number) }
            link.requests.deliver = { [unowned(unsafe) target, unowned(unsafe) link] frame in
                target.receive(frame, on: link)
            }
            link.responses.deliver = { [unowned(unsafe) self, unowned(unsafe) link] frame in receive(frame, on: link) }
            links.append(link)
        }
    }

    var now: Instant { Instant(world.now + 1) }
    var openOperations: Int { router.operationCount }
    var statistics: ClientStatistics { router.statistics }

    func start(workers: Int) {
        for link in links { connect(link, after: world.random.below(30_000_000)) }
        for _ in 0..<workers { work(after: world.random.below(50_000_000)) }
    }

    // MARK: What it holds

    /// From now on it keeps its sessions of these slots, wherever they go. Not one that has none.
    func hold(_ slots: [Slot]) {
        guard router.settings.sessionTimeToLiveMilliseconds > 0 else { return }
        heldSlots = slots
        for slot in slots { router.holdSession(of: slot, now: now) }
        runTurn()
    }

    func letGo() {
        for slot in heldSlots { router.letGoOfSession(of: slot) }
        heldSlots = []
        runTurn()
    }

    /// It goes by it that it has what it got in the slot by this session.
    func takesForHeld(_ id: SessionID, in slot: Slot) -> Bool {
        guard heldSlots.contains(slot), let life = router.sessionLife(of: slot, as: id) else { return false }
        return life.endsAt > now
    }

    // MARK: Workers

    private func work(after delay: UInt64) {
        world.schedule(after: delay, "client %h thinks of something", UInt64(place)) { [unowned self] in
            guard cluster.isLoadOn else { return }
            // It does not wait for what hangs: the rest of the cluster goes on having something to do.
            work(after: world.plan.thinkNanoseconds / 2 + world.random.below(world.plan.thinkNanoseconds))
            burstsOpen += 1
            // Several at a time leave together, as those of a caller that does not wait for each answer.
            var open = 1 + Int(world.random.below(UInt64(world.plan.burstMax)))
            holdsBack = true
            for _ in 0..<open {
                cluster.submitOperation(of: self) { [unowned self] in
                    open -= 1
                    if open == 0 { burstsOpen -= 1 }
                }
            }
            holdsBack = false
            runTurn()
        }
    }

    /// The run is over: nobody waits any more.
    func end() { waiting = [:] }

    /// Submits a request, and calls back when it is over.
    ///
    /// - Parameters:
    ///   - number: the operation that a command is.
    ///   - called: from when on a read may be as if it had been made; nil: from now on, if it is as new.
    func submit(
        kind: RequestKind, target: RequestTarget, pinned: HostID = HostID(0),
        machine: SubMachineNumber = .keyValue, consistency: Consistency = .linearizable, bound: UInt32 = 0,
        payload: Bytes,
        nanoseconds: UInt64, number: Int? = nil, called: UInt64? = nil,
        _ ended: @escaping (Result<Bytes, OperationFailure>) -> Void
    ) {
        let tag = nextTag
        nextTag += 1
        waiting[tag] = ended
        if let number { commands[tag] = number }
        if case .slot = target {
            let isNew = kind == .command || [.linearizable, .linearizableAnywhere, .lease].contains(consistency)
            let called = called ?? (isNew && kind != .watch ? cluster.now : 0)
            waiting[tag] = { [unowned self] result in
                if case .success(let bytes) = result, let told = DataResult.index(of: bytes) {
                    let old = seen[answerer] ?? (.zero, 0)
                    // A state behind two others is behind the moments of both.
                    seen[answerer] = (max(old.index, told), max(old.called, called))
                }
                ended(result)
            }
        }
        router.submit(
            ClientRequest(
                tag: tag, kind: kind, target: target, pinned: pinned,
                machine: kind == .query || kind == .watch ? machine : SubMachineNumber(0),
                consistency: consistency, bound: bound, payload: payload, deadline: now + nanoseconds),
            now: now, into: &effects)
        runTurn()
    }

    // MARK: Turns

    private func runTurn() {
        guard !isInTurn, !holdsBack else { return }
        isInTurn = true
        while !effects.isEmpty {
            var work = ClientEffects()
            swap(&work, &spare)
            swap(&work, &effects)
            if work.mapChanged {
                for link in links where link.requests.isOpen {
                    router.connectionUp(.host(cluster.hosts[link.host].id), now: now, into: &effects)
                }
            }
            for send in work.sends { transmit(send) }
            if let fetch = work.mapFetch { self.fetch(fetch) }
            for completion in work.completions {
                guard let ended = waiting.removeValue(forKey: completion.tag) else {
                    world.fail("one completion per operation", "client \(place) completes \(completion.tag) twice")
                    continue
                }
                answerer = answeredBy.removeValue(forKey: completion.tag) ?? .meta
                ended(completion.result)
            }
            work.removeAll()
            swap(&work, &spare)
        }
        isInTurn = false
        tickIfNeeded()
    }

    private func tickIfNeeded() {
        guard !isTicking, router.needsTicks else { return }
        isTicking = true
        world.schedule(after: router.settings.tickNanoseconds, "the clock of client %h ticks", UInt64(place)) {
            [unowned self] in
            isTicking = false
            router.tick(now: now, into: &effects)
            runTurn()
            tickIfNeeded()
        }
    }

    private func transmit(_ send: ClientSend) {
        let link = links[cluster.place(of: send.host)]
        guard link.requests.isOpen else {
            router.callFailed(send.call, .notSent, now: now, into: &effects)
            return
        }
        asked[send.call.rawValue] = (send.tag, send.group)
        switch send.kind {
        case .command:
            var writer = ByteWriter()
            ExecuteRequest.encodeHeader(group: send.group, epoch: send.epoch, slot: send.slot, into: &writer)
            let first = writer.count
            send.encodeCommand(into: &writer)
            let request = writer.take()
            if let number = commands[send.tag] {
                let hash = EntryMark.command(of: request[first..<request.count])
                cluster.sent(number, as: CommandName(group: send.group, hash: hash))
            }
            put(.execute, send.call.rawValue, request, on: link)
        case .query:
            let request = QueryRequest(
                group: send.group, epoch: send.epoch, slot: send.slot, machine: send.machine,
                consistency: send.consistency,
                bound: send.bound, query: send.payload)
            put(.query, send.call.rawValue, request.encoded(), on: link)
        case .watch:
            var writer = ByteWriter()
            WatchRequest.encodeHeader(
                group: send.group, epoch: send.epoch, slot: send.slot, machine: send.machine, into: &writer)
            writer.write(send.payload)
            put(.watch, send.call.rawValue, writer.take(), on: link)
        case .page: put(.page, send.call.rawValue, send.payload, on: link)
        }
    }

    private func put(_ kind: ClientFrameKind, _ call: UInt64, _ payload: Bytes, on link: SimulatedClientLink) {
        link.open.append((kind, call))
        link.requests.send(SimulatedFrame(kind: kind.rawValue, call: call, payload: payload))
    }

    private func fetch(_ fetch: MapFetch) {
        let place =
            switch fetch.source {
            case .seed(let number): number
            case .host(let id): cluster.place(of: id)
            }
        guard links[place].requests.isOpen, !keepsMap else {
            router.mapAnswered(fetch.number, .failed, now: now, into: &effects)
            return
        }
        put(.map, fetch.number, MapRequest(known: fetch.knownVersion).encoded(), on: links[place])
    }

    private func receive(_ frame: SimulatedFrame, on link: SimulatedClientLink) {
        guard let kind = ClientFrameKind(rawValue: frame.kind),
            let place = link.open.firstIndex(where: { $0.kind == kind && $0.call == frame.call })
        else {
            world.fail("one answer per call", "client \(self.place) hears twice of call \(frame.call)")
            return
        }
        link.open.remove(at: place)
        if kind == .map {
            var answer = MapAnswer.failed
            switch try? MapReply(decoding: frame.payload) {
            case .map(let map): answer = .map(map)
            case .unchanged: answer = .unchanged
            case .notInitialised: answer = .notInitialised
            case nil: world.fail("wire", "a map that can't be read")
            }
            router.mapAnswered(frame.call, answer, now: now, into: &effects)
        } else {
            if let asked = asked.removeValue(forKey: frame.call) { answeredBy[asked.tag] = asked.group }
            router.answered(CallID(rawValue: frame.call), frame.payload, now: now, into: &effects)
        }
        runTurn()
    }

    // MARK: Connections

    private func connect(_ link: SimulatedClientLink, after delay: UInt64) {
        link.attempt += 1
        let attempt = link.attempt
        world.schedule(after: delay, "client %h connects to host %i", UInt64(place), UInt64(link.host)) {
            [unowned self] in
            let host = cluster.hosts[link.host]
            guard attempt == link.attempt, !link.requests.isOpen else { return }
            guard host.isListening, host.pausedUntil <= world.now, cluster.network.isReachable(endpoint, link.host)
            else {
                connect(link, after: 25_000_000 + world.random.below(400_000_000))
                return
            }
            link.requests.open()
            link.responses.open()
            router.connectionUp(.seed(link.host), now: now, into: &effects)
            router.connectionUp(.host(host.id), now: now, into: &effects)
            runTurn()
        }
    }

    /// The connection breaks: what was under way in either direction is lost, or only the end of the requests.
    func reset(_ link: SimulatedClientLink, losesAll: Bool = true) {
        guard link.requests.isOpen else { return }
        if !losesAll {
            let target = cluster.hosts[link.host]
            let generation = link.responses.generation
            for (at, frame) in link.requests.takeArrived() {
                target.schedule(
                    after: max(at, world.now) - world.now, "bytes of a lost connection of client %b reach host %h",
                    UInt64(place + 1)
                ) { [unowned target, unowned link] in target.receive(frame, on: link, generation: generation) }
            }
        }
        link.requests.close()
        link.responses.close()
        let open = link.open
        link.open = []
        let host = cluster.hosts[link.host]
        router.connectionDown(.seed(link.host), now: now, into: &effects)
        router.connectionDown(.host(host.id), now: now, into: &effects)
        for (kind, call) in open {
            if kind == .map {
                router.mapAnswered(call, .failed, now: now, into: &effects)
            } else {
                asked[call] = nil
                router.callFailed(CallID(rawValue: call), .perhapsSent, now: now, into: &effects)
            }
        }
        runTurn()
        connect(link, after: world.random.below(100_000_000))
    }

    func hostEnded(_ host: Int) {
        let link = links[host]
        guard link.requests.isOpen else { return }
        // No answer comes any more; the client learns why soon.
        link.responses.close()
        link.attempt += 1
        let attempt = link.attempt
        world.schedule(
            after: 100_000 + world.random.below(500_000), "client %h notices that host %i is gone", UInt64(place),
            UInt64(host)
        ) { [unowned self] in
            if attempt == link.attempt { reset(link) }
        }
    }
}
