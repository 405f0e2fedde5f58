// The client's shell: carries out what `ClientRouter` decides, on one event loop. Owns the router, the connections and
// the
// completions of operations; decides nothing itself.
//
//     submit ─► router ─► effects ─► one write per connection
//     answers of one read ─► router ─► effects ─► completions, which submit again, in the same turn

package import ClientCore
import Logging
package import Messages
package import NIOCore
package import Primitives
package import RPC
import Ring
import StateMachines
import Synchronization

/// One client on one event loop. All functions are called on that loop unless they say otherwise.
///
/// `submit` is the pipelined interface: it allocates nothing of its own, completions of all answers of one read run in
/// one
/// go, and what they submit leaves in one write.
package final class ClientLoop: @unchecked Sendable, RPCConnectionDelegate {
    // @unchecked: `eventLoop` and `options` never change; all else is touched on the event loop only, which is checked
    // at
    // the doors.

    /// Called once for each operation, on the loop, with the tag that was given. The bytes are an encoded `DataResult`,
    /// or
    /// `PageResult` for a page.
    package typealias Completion = (_ tag: UInt64, _ result: Result<Bytes, OperationFailure>) -> Void

    package let eventLoop: any EventLoop
    private let options: ClusterOptions
    /// The way to the host in this process, if one was named.
    private let local: LocalServer?
    private var router: ClientRouter
    private var effects = ClientEffects()
    /// The effects that are being carried out.
    private var work = ClientEffects()
    private var random: SeededRandom

    private struct Pending {
        var completion: Completion?
        var tag: UInt64 = 0
    }
    private var pending: [Pending] = []
    private var freePending: [Int] = []

    private struct Link {
        var id: HostID
        var address: String
        var connection: RPCConnection
    }
    private var seeds: [RPCConnection] = []
    private var seedAccounts = SeedAccounts([])
    private var began = Instant.zero
    /// The first map and who asked for it, until it is known of which clusters the other seeds are.
    private var firstMap: (fetch: MapFetch, map: ClusterMap)?
    private var isComparingSeeds = false
    /// Ascending by id.
    private var links: [Link] = []
    private var sources: [ObjectIdentifier: MapSource] = [:]

    private var isInTurn = false
    private var turnNow = Instant.zero
    private var batchNow = Instant.zero
    private var isTurnScheduled = false
    private var isTickScheduled = false
    /// The tick for which there is time.
    private var laterTick: (at: Instant, task: Scheduled<Void>)?
    private var isClosed = false
    /// After `isClosed`: the connections are closed, too.
    private var hasEnded = false
    /// The calls that end this client's sessions, while they are waited for.
    private var sessionCalls: Set<CallID> = []
    private var endTask: Scheduled<Void>?
    private var closeWaiters: [() -> Void] = []
    /// Seeds that said in a row that they belong to no cluster.
    private var notInitialisedCount = 0
    private var lastConnectFailure: RPCError?
    private var mapWaiters: [(deadline: Instant, resume: (Result<ClusterMap, BifrostError>) -> Void)] = []
    private var losses = SessionLosses()
    /// Looks at them again.
    private var lossTask: (at: Instant, task: Scheduled<Void>)?
    private let isOver = Atomic<Bool>(false)

    /// How long the first map waits for other seeds. Hosts that live say who they are much sooner.
    private static let seedsMilliseconds: Int64 = 100

    /// How long the end of this client's sessions is waited for when it is closed. One that is left behind ends by
    /// itself.
    private static let sessionsMilliseconds: Int64 = 100

    /// Turns within one call of `runTurn`; a completion that always submits again goes on after other work of the loop.
    private static let roundsMax = 8

    init(eventLoop: any EventLoop, seedCount: Int, options: ClusterOptions) {
        self.eventLoop = eventLoop
        local = options.host?.localServer
        var options = options
        options.host = nil
        self.options = options
        random = SeededRandom(seed: options.seed ?? UInt64.random(in: 0...UInt64.max))
        var settings = ClientSettings()
        settings.operationsMax = options.operationsMax
        settings.groupWindowMax = options.operationsMax
        settings.sessionTimeToLiveMilliseconds =
            options.hasSessions ? options.sessionTimeToLive.nanoseconds / 1_000_000 : 0
        router = ClientRouter(settings: settings, seedCount: seedCount, seed: random.next())
    }

    /// Connects to the seeds, in order.
    ///
    /// - Parameter isThrough: the one seed is the address of the host in this process.
    package func start(seeds addresses: [NetworkAddress], isThrough: Bool = false) {
        eventLoop.preconditionInEventLoop()
        seedAccounts = SeedAccounts(addresses)
        began = RPCClock.now()
        for (number, address) in addresses.enumerated() {
            let connection = makeConnection(
                to: address, through: isThrough ? local : nil, cluster: .none, target: HostID(0))
            sources[ObjectIdentifier(connection)] = .seed(number)
            seeds.append(connection)
            connection.connect()
        }
        needTicks()
    }

    // MARK: operations

    /// Submits an operation. Returns nil if it was completed at once.
    @discardableResult
    package func submit(
        kind: RequestKind, target: RequestTarget, pinned: HostID = HostID(0),
        machine: SubMachineNumber = SubMachineNumber(0), consistency: Consistency = .linearizable, bound: UInt32 = 0,
        payload: Bytes, deadline: Instant, tag: UInt64, completion: @escaping Completion
    ) -> OperationHandle? {
        eventLoop.preconditionInEventLoop()
        let place: Int
        if let last = freePending.popLast() {
            place = last
            pending[place] = Pending(completion: completion, tag: tag)
        } else {
            place = pending.count
            pending.append(Pending(completion: completion, tag: tag))
        }
        guard !isClosed else {
            let failure = OperationFailure(
                code: .closed, mayHaveHappened: false, message: "the client is closed; nothing was done")
            effects.completions.append(ClientCompletion(tag: UInt64(place), result: .failure(failure)))
            needTurn()
            return nil
        }
        let request = ClientRequest(
            tag: UInt64(place), kind: kind, target: target, pinned: pinned, machine: machine, consistency: consistency,
            bound: bound, payload: payload, deadline: deadline)
        let handle = router.submit(request, now: isInTurn ? turnNow : RPCClock.now(), into: &effects)
        needTurn()
        needTicks()
        return handle
    }

    /// See `ClientRouter.withdraw`: false if the operation goes on in the background.
    package func withdraw(_ handle: OperationHandle) -> Bool {
        eventLoop.preconditionInEventLoop()
        let isWithdrawn = router.withdraw(handle, now: RPCClock.now(), into: &effects)
        needTurn()
        return isWithdrawn
    }

    package var statistics: ClientStatistics { router.statistics }
    package var operationCount: Int { router.operationCount }
    package var map: ClusterMap? { router.map }
    package func leader(of group: GroupID) -> HostID? { router.leader(of: group) }

    /// Calls back when a map is known, or at the deadline with the reason why none is.
    func whenMapIsKnown(deadline: Instant, _ resume: @escaping (Result<ClusterMap, BifrostError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        if let map = router.map { return resume(.success(map)) }
        if isClosed { return resume(.failure(BifrostError(.closed, "the client is closed"))) }
        mapWaiters.append((deadline, resume))
        needTicks()
    }

    /// Takes a map that was fetched outside of the router's own turn.
    package func take(_ map: ClusterMap) {
        eventLoop.preconditionInEventLoop()
        router.mapReceived(map, now: RPCClock.now(), into: &effects)
        needTurn()
    }

    /// The connection to a host of the map.
    package func connection(to host: HostID) -> RPCConnection? {
        eventLoop.preconditionInEventLoop()
        return links.first { $0.id == host }?.connection
    }

    /// Ends all operations at once, and the connections as soon as the groups know that this client's sessions are
    /// over, or after 100 ms. Calls back then.
    package func close(_ closed: @escaping () -> Void = {}) {
        eventLoop.preconditionInEventLoop()
        guard !hasEnded else { return closed() }
        closeWaiters.append(closed)
        guard !isClosed else { return }
        isClosed = true
        isOver.store(true, ordering: .relaxed)
        laterTick?.task.cancel()
        laterTick = nil
        router.close(into: &effects)
        // Hosts do it also when nobody waits any more.
        let deadline = RPCClock.now() + UInt64(Self.sessionsMilliseconds) * 100_000_000
        sessionCalls = Set(router.closeSessions(deadline: deadline, into: &effects))
        runTurn()
        let waiters = mapWaiters
        mapWaiters = []
        for waiter in waiters { waiter.resume(.failure(BifrostError(.closed, "the client is closed"))) }
        guard !sessionCalls.isEmpty else { return end() }
        endTask = eventLoop.scheduleTask(in: .milliseconds(Self.sessionsMilliseconds)) { [self] in end() }
    }

    private func sessionCallEnded(_ call: CallID) {
        guard sessionCalls.remove(call) != nil, sessionCalls.isEmpty else { return }
        // Not out of what a connection is just doing.
        eventLoop.execute { [self] in end() }
    }

    private func end() {
        guard !hasEnded else { return }
        hasEnded = true
        sessionCalls = []
        endTask?.cancel()
        endTask = nil
        let all = seeds + links.map(\.connection)
        sources = [:]
        seeds = []
        links = []
        for connection in all { connection.close() }
        let waiters = closeWaiters
        closeWaiters = []
        for closed in waiters { closed() }
    }

    // MARK: sessions that are held

    /// The client is closed. Whoever let go of it may have let go of its threads, so nothing more is handed to them. Any
    /// thread may ask.
    var isGone: Bool { isOver.load(ordering: .relaxed) }

    /// See `ClientRouter.holdSession`.
    func holdSession(of slot: Slot) {
        eventLoop.preconditionInEventLoop()
        router.holdSession(of: slot, now: RPCClock.now())
        needTicks()
    }

    /// Undoes one of these, on any thread.
    func letGoOfSession(of slot: Slot) {
        guard !isGone else { return }
        eventLoop.execute { [self] in
            router.letGoOfSession(of: slot)
            needTicks()
        }
    }

    /// The session in the group that owns the slot; nil: none is open, or it counts as lost.
    ///
    /// - Parameter id: of the session in which something was got, in whichever group that was; nil: the one that is there now.
    func sessionLife(of slot: Slot, as id: SessionID?) -> SessionLife? {
        eventLoop.preconditionInEventLoop()
        let life = id.map { router.sessionLife(of: slot, as: $0) } ?? router.sessionLife(of: slot)
        guard let life, life.endsAt > RPCClock.now() else { return nil }
        return life
    }

    /// Resumes the waiter when its session counts as lost: also when the client is closed, which ends all sessions.
    func wait(_ waiter: LossWaiter) {
        eventLoop.preconditionInEventLoop()
        losses.add(waiter)
        checkLosses(now: RPCClock.now())
    }

    func stopWaiting(_ waiter: LossWaiter) {
        eventLoop.preconditionInEventLoop()
        losses.remove(waiter)
        scheduleLosses()
    }

    /// Resumes those whose sessions are lost, and comes back when the next one may be.
    private func checkLosses(now: Instant) {
        let lost = losses.take(now: now, changes: router.sessionChanges) { router.sessionLife(of: $0, as: $1) }
        scheduleLosses()
        for waiter in lost { waiter.resume(isLost: true) }
    }

    private func scheduleLosses() {
        guard losses.dueAt != lossTask?.at else { return }
        lossTask?.task.cancel()
        lossTask = losses.dueAt.map { next in
            let pause = TimeAmount.nanoseconds(Int64(next.since(RPCClock.now())))
            let task = eventLoop.scheduleTask(in: pause) { [self] in
                lossTask = nil
                checkLosses(now: RPCClock.now())
            }
            // The loop is shut down, though the client was not closed: nobody would ever be told anything.
            task.futureResult.whenFailure { [self] error in
                if case EventLoopError.shutdown = error { loseAll() }
            }
            return (next, task)
        }
    }

    private func loseAll() {
        isOver.store(true, ordering: .relaxed)
        lossTask = nil
        for waiter in losses.takeAll() { waiter.resume(isLost: true) }
    }

    // MARK: turns

    private func needTurn() {
        guard !isInTurn, !isTurnScheduled, !effects.isEmpty || losses.isNew(router.sessionChanges) else { return }
        isTurnScheduled = true
        eventLoop.execute { [self] in
            isTurnScheduled = false
            runTurn()
        }
    }

    /// Carries out all effects, and those of the completions that it runs.
    private func runTurn() {
        guard !isInTurn else { return }
        isInTurn = true
        turnNow = batchNow == .zero ? RPCClock.now() : batchNow
        batchNow = .zero
        // Whoever waits for losses has to know before he is told anything else: this process may have stood still, and the
        // timers of a machine that slept are late.
        if losses.isDue(now: turnNow, changes: router.sessionChanges) { checkLosses(now: turnNow) }
        var rounds = 0
        while !effects.isEmpty, rounds < Self.roundsMax {
            rounds += 1
            swap(&effects, &work)
            if work.mapChanged { reconnect() }
            for send in work.sends { transmit(send) }
            if let fetch = work.mapFetch { fetchMap(fetch) }
            // `work.cancels` needs nothing: a call that is given up ends with its own deadline, and its answer is
            // dropped.
            for completion in work.completions {
                let place = Int(completion.tag)
                let entry = pending[place]
                pending[place].completion = nil
                freePending.append(place)
                entry.completion?(entry.tag, completion.result)
            }
            work.removeAll()
        }
        isInTurn = false
        needTurn()
    }

    private func needTicks() {
        guard !isTickScheduled, !isClosed else { return }
        let now = RPCClock.now()
        let soonest = now + router.settings.tickNanoseconds
        let next = mapWaiters.isEmpty ? router.nextTick(now: now) : soonest
        guard let next, next <= soonest else { return scheduleTick(at: next, now: now) }
        isTickScheduled = true
        eventLoop.scheduleTask(in: .nanoseconds(Int64(router.settings.tickNanoseconds))) { [self] in
            isTickScheduled = false
            tick()
        }
    }

    /// One that waits is left alone where it comes early: that costs less than another timer for each operation. But one
    /// that should have come comes late, as timers stand still while the machine sleeps.
    private func scheduleTick(at next: Instant?, now: Instant) {
        if let next, let laterTick, laterTick.at >= now, laterTick.at <= next { return }
        laterTick?.task.cancel()
        laterTick = next.map { next in
            let task = eventLoop.scheduleTask(in: .nanoseconds(Int64(next.since(now)))) { [self] in
                laterTick = nil
                tick()
            }
            return (next, task)
        }
    }

    private func tick() {
        let now = RPCClock.now()
        router.tick(now: now, into: &effects)
        expireMapWaiters(now: now)
        runTurn()
        needTicks()
    }

    private func expireMapWaiters(now: Instant) {
        // Nobody listens anywhere: that changes only if somebody is just starting hosts.
        let isHopeless =
            options.refusalGrace.map { now.since(began) >= $0.nanoseconds && seedAccounts.allRefuse } ?? false
        func isOver(_ deadline: Instant) -> Bool { isHopeless || deadline <= now }
        guard mapWaiters.contains(where: { isOver($0.deadline) }) else { return }
        let late = mapWaiters.filter { isOver($0.deadline) }
        mapWaiters.removeAll { isOver($0.deadline) }
        let tried = seeds.map { "\($0.address)" }.joined(separator: ", ")
        let failure = BifrostError(
            .unreachable, "no host of the cluster answered (tried \(tried))", cause: lastConnectFailure)
        for waiter in late { waiter.resume(.failure(explained(failure))) }
    }

    /// With the last thing that kept a connection from standing, where nobody could be reached.
    func explained(_ error: BifrostError) -> BifrostError {
        guard error.code == .unreachable, let lastConnectFailure else { return error }
        var explained = error
        explained.message += "; the last attempt: \(lastConnectFailure.message)"
        return explained
    }

    // MARK: sending

    private func transmit(_ send: ClientSend) {
        guard let index = links.firstIndex(where: { $0.id == send.host }) else {
            sessionCallEnded(send.call)
            return router.callFailed(send.call, .notSent, now: turnNow, into: &effects)
        }
        do throws(RPCError) {
            try links[index].connection.call(send, tag: send.call.rawValue)
        } catch {
            sessionCallEnded(send.call)
            router.callFailed(send.call, CallFailure(error), now: turnNow, into: &effects)
        }
    }

    private func fetchMap(_ fetch: MapFetch) {
        let connection: RPCConnection? =
            switch fetch.source {
            case .seed(let number): number < seeds.count ? seeds[number] : nil
            case .host(let id): links.first { $0.id == id }?.connection
            }
        guard let connection else {
            return router.mapAnswered(fetch.number, .failed, now: turnNow, into: &effects)
        }
        let deadline = turnNow + router.settings.mapFetchNanoseconds
        do throws(RPCError) {
            try connection.call(
                service: ServiceNumber.cluster, method: ClusterMethod.map,
                payload: MapRequest(known: fetch.knownVersion).encoded(), deadline: deadline
            ) { [self] result in
                mapCame(fetch, result)
            }
        } catch {
            lastConnectFailure = error
            router.mapAnswered(fetch.number, .failed, now: turnNow, into: &effects)
        }
    }

    private func mapCame(_ fetch: MapFetch, _ result: Result<Bytes, RPCError>) {
        guard !isClosed else { return }
        var answer = MapAnswer.failed
        switch result {
        case .success(let bytes):
            do {
                switch try MapReply(decoding: bytes) {
                case .map(let map): answer = .map(map)
                case .unchanged: answer = .unchanged
                case .notInitialised: answer = .notInitialised
                }
            } catch {
                options.logger.warning("a map that can't be read", metadata: ["reason": "\(error)"])
            }
        case .failure(let error): lastConnectFailure = error
        }
        if case .map(let map) = answer, router.map == nil {
            firstMap = (fetch, map)
            eventLoop.scheduleTask(in: .milliseconds(Self.seedsMilliseconds)) { [self] in compareSeeds(isLate: true) }
            return compareSeeds(isLate: false)
        }
        if case .notInitialised = answer { notInitialisedCount += 1 } else { notInitialisedCount = 0 }
        router.mapAnswered(fetch.number, answer, now: RPCClock.now(), into: &effects)
        if notInitialisedCount >= max(seeds.count, 1), router.map == nil {
            let waiters = mapWaiters
            mapWaiters = []
            let failure = BifrostError(
                .notInitialised, "the hosts answer, but belong to no cluster yet: `bifrost init` makes one")
            for waiter in waiters { waiter.resume(.failure(failure)) }
        }
        needTurn()
        needTicks()
    }

    // MARK: the first map

    /// Takes the first map when the seeds that answer are of its cluster. Addresses of two clusters in one list are a
    /// mistake, and whichever answers first must not decide where somebody's data goes.
    private func compareSeeds(isLate: Bool) {
        guard !isClosed, !isComparingSeeds, router.map == nil, let firstMap else { return }
        guard isLate || seedAccounts.isDecided else { return }
        let strangers = seedAccounts.clusters.filter { $0.cluster != firstMap.map.cluster }
        guard !strangers.isEmpty else { return takeFirst(firstMap.map) }
        isComparingSeeds = true
        var maps = [firstMap.map]
        var open = strangers.count
        func came(_ bytes: Bytes?) {
            if let bytes, case .map(let map)? = try? MapReply(decoding: bytes) { maps.append(map) }
            open -= 1
            guard open == 0, !isClosed else { return }
            if let chosen = seedAccounts.choice(among: maps) { return takeFirst(chosen) }
            let waiters = mapWaiters
            mapWaiters = []
            for waiter in waiters { waiter.resume(.failure(BifrostError(.invalid, seedAccounts.conflict))) }
        }
        let deadline = RPCClock.now() + router.settings.mapFetchNanoseconds
        for stranger in strangers {
            do throws(RPCError) {
                try seeds[stranger.seed].call(
                    service: ServiceNumber.cluster, method: ClusterMethod.map, payload: MapRequest().encoded(),
                    deadline: deadline
                ) { came(try? $0.get()) }
            } catch {
                came(nil)
            }
        }
    }

    private func takeFirst(_ map: ClusterMap) {
        guard let firstMap else { return }
        self.firstMap = nil
        notInitialisedCount = 0
        router.mapAnswered(firstMap.fetch.number, .map(map), now: RPCClock.now(), into: &effects)
        needTurn()
        needTicks()
    }

    // MARK: connections

    private func makeConnection(
        to address: NetworkAddress, through local: LocalServer?, cluster: ClusterID, target: HostID
    ) -> RPCConnection {
        let identity = PeerIdentity(cluster: cluster, featureLevel: FeatureLevel.current, name: options.name)
        return RPCConnection(
            to: address, through: local, hello: Hello(role: .client, identity: identity, target: target),
            eventLoop: eventLoop,
            seed: random.next(), delegate: self, logger: options.logger)
    }

    /// The map is another one: connections to its hosts, and to nobody else.
    private func reconnect() {
        guard let map = router.map else { return }
        var kept: [Link] = []
        for link in links {
            if map.host(link.id)?.address == link.address {
                kept.append(link)
            } else {
                sources[ObjectIdentifier(link.connection)] = nil
                router.connectionDown(.host(link.id), now: turnNow, into: &effects)
                link.connection.close()
            }
        }
        for record in map.hosts where !kept.contains(where: { $0.id == record.id }) {
            let isLocal = local?.serves(record.id, of: map.cluster) ?? false
            do throws(RPCError) {
                let connection = makeConnection(
                    to: try NetworkAddress(record.address), through: isLocal ? local : nil, cluster: map.cluster,
                    target: record.id)
                sources[ObjectIdentifier(connection)] = .host(record.id)
                kept.append(Link(id: record.id, address: record.address, connection: connection))
                connection.connect()
            } catch {
                options.logger.error(
                    "a host's address can't be read", metadata: ["host": "\(record.id)", "reason": "\(error)"])
            }
        }
        kept.sort { $0.id < $1.id }
        links = kept
        for (number, seed) in seeds.enumerated() {
            sources[ObjectIdentifier(seed)] = nil
            router.connectionDown(.seed(number), now: turnNow, into: &effects)
            seed.close()
        }
        seeds = []
        let waiters = mapWaiters
        mapWaiters = []
        for waiter in waiters { waiter.resume(.success(map)) }
    }

    package func connectionUp(_ connection: RPCConnection, welcome: Welcome) {
        guard let source = sources[ObjectIdentifier(connection)] else { return }
        lastConnectFailure = nil
        if case .seed(let number) = source { seedAccounts.answered(number, as: welcome.identity.cluster) }
        router.connectionUp(source, now: RPCClock.now(), into: &effects)
        compareSeeds(isLate: false)
        needTurn()
        needTicks()
    }

    package func connectionDown(_ connection: RPCConnection, reason: RPCError) {
        guard let source = sources[ObjectIdentifier(connection)] else { return }
        lastConnectFailure = reason
        if case .seed(let number) = source {
            seedAccounts.failed(number, reason)
            compareSeeds(isLate: false)
        }
        router.connectionDown(source, now: RPCClock.now(), into: &effects)
        needTurn()
    }

    package func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>) {
        let call = CallID(rawValue: tag)
        if isClosed { sessionCallEnded(call) }
        switch result {
        case .success(let bytes):
            // One look at the clock for all answers of a read; `readComplete` follows.
            if batchNow == .zero { batchNow = RPCClock.now() }
            router.answered(call, bytes, now: batchNow, into: &effects)
        case .failure(let error):
            // The router keeps the deadline itself, and words it better. Nor does "not handed to the socket" mean
            // "never
            // sent" here: the frame still waits in a buffer of a connection that lives.
            if error.code == .deadlineExceeded { return }
            router.callFailed(call, CallFailure(error), now: RPCClock.now(), into: &effects)
            needTurn()
        }
    }

    package func readComplete(_ connection: RPCConnection) { runTurn() }
}
