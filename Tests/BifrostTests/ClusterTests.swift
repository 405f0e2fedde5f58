// The client over real sockets, against hosts that keep their records in a dictionary.

import Bifrost
import ClientCore
import Logging
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// What the pretended hosts share: the records, and who leads.
private final class World: Sendable {
    struct State {
        var map: ClusterMap?
        var records: [Bytes: (value: Bytes, revision: UInt64)] = [:]
        var revision: UInt64 = 0
        var leader = HostID(1)
        var isSilent = false
        /// Calls that were left without an answer.
        var unanswered = 0
        /// Of all groups: those that are open, and how many were.
        var sessions: Set<UInt64> = []
        var sessionsOpened: UInt64 = 0
        /// Words of sessions that are not there.
        var wordsInVain = 0
        /// Writes that took effect, by key.
        var executions: [Bytes: Int] = [:]
        /// Keeps the calls until `release`.
        var isHolding = false
        var held: [(host: PretendedHost, call: InboundCall)] = []
    }
    let state = Mutex(State())

    /// Performs what was held, late as it is.
    func release() {
        let held = state.withLock { state in
            state.isHolding = false
            defer { state.held = [] }
            return state.held
        }
        for (host, call) in held { host.perform(call) }
    }
}

private final class PretendedHost: RPCService {
    let id: HostID
    let world: World
    init(id: HostID, world: World) {
        self.id = id
        self.world = world
    }

    func receive(_ call: InboundCall) {
        let isHeld = world.state.withLock { state in
            guard state.isHolding, call.service == ServiceNumber.data else { return false }
            state.held.append((self, call))
            return true
        }
        if !isHeld { perform(call) }
    }

    fileprivate func perform(_ call: InboundCall) {
        let answer: Bytes? = world.state.withLock { (state: inout World.State) -> Bytes? in
            if call.service == ServiceNumber.cluster {
                switch call.method {
                case ClusterMethod.map: return (state.map.map { MapReply.map($0) } ?? .notInitialised).encoded()
                default:
                    var status = HostStatus()
                    status.host = id
                    return status.encoded()
                }
            }
            guard !state.isSilent else {
                state.unanswered += 1
                return nil
            }
            guard state.leader == id else {
                return Response<DataResult>.refused(.notLeader(leader: state.leader, term: Term(1))).encoded()
            }
            switch call.method {
            case DataMethod.execute:
                guard let request = try? ExecuteRequest(decoding: call.payload) else { return nil }
                let payload = request.payload
                if let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }), header.machine == .sessions {
                    guard let command = try? SessionCommand(payload: payload) else { return nil }
                    return sessionAnswer(to: command, &state)
                }
                if let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }), header.session != .none,
                    !state.sessions.contains(header.session.rawValue)
                {
                    return Response<DataResult>.refused(.sessionExpired).encoded()
                }
                let keyCount = Int(payload[30]) | Int(payload[31]) << 8
                state.revision += 1
                let start = payload[28] == 1 ? 40 : 32
                state.executions[payload[start..<start + keyCount].compacted(), default: 0] += 1
                if payload[28] == 1 {
                    let value = payload[(40 + keyCount)..<payload.count].compacted()
                    state.records[payload[40..<40 + keyCount].compacted()] = (value, state.revision)
                } else {
                    state.records[payload[32..<32 + keyCount]] = nil
                }
                return Response.done(DataResult(index: LogIndex(state.revision), revision: Revision(state.revision)))
                    .encoded()
            case DataMethod.query:
                guard let request = try? QueryRequest(decoding: call.payload),
                    case .get(let key)? = try? KeyValueQuery(decoding: request.query)
                else { return nil }
                var reading = KeyValueReading.absent
                if let found = state.records[key] {
                    reading = .found(value: found.value, revision: Revision(found.revision), expiry: .zero)
                }
                return Response.done(
                    DataResult(index: LogIndex(1), revision: Revision(state.revision), body: reading.encoded())
                ).encoded()
            default:
                guard let request = try? PageRequest(decoding: call.payload) else { return nil }
                let all = state.records.keys.sorted()
                let rest = all.filter { key in request.from.map { $0.key <= key } ?? true }
                func position(_ key: Bytes) -> RecordPosition {
                    RecordPosition(slot: slot(of: key), machine: .keyValue, key: key)
                }
                let records = rest.prefix(3).map { key in
                    PageRecord(position: position(key), revision: Revision(1), value: state.records[key]!.value)
                }
                return Response.done(
                    PageResult(
                        index: LogIndex(1), revision: Revision(1), records: records,
                        next: rest.dropFirst(3).first.map(position))
                ).encoded()
            }
        }
        if let answer { call.reply.respond(answer) }
    }
}

private func sessionAnswer(to command: SessionCommand, _ state: inout World.State) -> Bytes {
    state.revision += 1
    var body = ByteWriter()
    switch command {
    case .open:
        state.sessionsOpened += 1
        state.sessions.insert(state.sessionsOpened)
        body.write(state.sessionsOpened)
    case .close(let id): state.sessions.remove(id.rawValue)
    case .keepAlive(let words):
        for word in words where !state.sessions.contains(word.id.rawValue) {
            state.wordsInVain += 1
            body.write(word.id)
        }
    default: return Response<DataResult>.refused(.invalid("\(command)")).encoded()
    }
    let result = DataResult(
        index: LogIndex(state.revision), revision: Revision(state.revision), body: body.take())
    return Response.done(result).encoded()
}

private func withCluster(
    cluster: ClusterID = ClusterID(high: 0, low: 7), featureLevel: UInt32 = FeatureLevel.first, groupCount: Int = 1,
    limits: ServerLimits = ServerLimits(), initialised: Bool = true,
    _ body: (World, [RPCServer]) async throws -> Void
) async throws {
    let world = World()
    let servers = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    var logger = Logger(label: "test")
    logger.logLevel = .error
    var running: [RPCServer] = []
    for number in 1...2 {
        let host = PretendedHost(id: HostID(UInt64(number)), world: world)
        let identity = PeerIdentity(cluster: cluster, host: host.id, featureLevel: 1)
        running.append(
            try await RPCServer.start(
                on: NetworkAddress(host: "127.0.0.1", port: 0), group: servers,
                services: [(ServiceNumber.data, host), (ServiceNumber.cluster, host)],
                policy: FixedIdentityPolicy(identity: identity), limits: limits, logger: logger))
    }
    if initialised {
        let hosts = running.enumerated().map { (number: Int, server: RPCServer) -> HostRecord in
            let id = UInt64(number + 1)
            return HostRecord(id: HostID(id), name: "h", address: "\(server.address)", incarnation: Incarnation(id))
        }
        let groups = (1...groupCount).map { (number: Int) -> GroupRecord in
            let first = UInt64(number * 2)
            let replicas = [
                ReplicaRecord(id: ReplicaID(first + 1), host: HostID(1)),
                ReplicaRecord(id: ReplicaID(first + 2), host: HostID(2)),
            ]
            return GroupRecord(id: GroupID(UInt32(number)), replicas: replicas, preferredLeader: ReplicaID(first + 1))
        }
        let owners = (0..<Slot.count).map { GroupID(UInt32($0 % groupCount + 1)) }
        let map = ClusterMap(
            cluster: cluster, featureLevel: featureLevel, hosts: hosts, groups: groups,
            ring: SlotTable(epoch: Epoch(1), owners: owners),
            nextHost: HostID(3), nextGroup: GroupID(100), nextReplica: ReplicaID(1_000))
        world.state.withLock { $0.map = map }
    }
    do {
        try await body(world, running)
    } catch {
        for server in running { await server.stop(graceMilliseconds: 10) }
        throw error
    }
    for server in running { await server.stop(graceMilliseconds: 10) }
    try await servers.shutdownGracefully()
}

@Suite struct SeedAccountsTests {
    private func map(_ cluster: UInt64, _ ports: [Int]) -> ClusterMap {
        let hosts = ports.enumerated().map { number, port in
            let id = UInt64(number + 1)
            return HostRecord(
                id: HostID(id), name: "h", address: "127.0.0.1:\(port)", incarnation: Incarnation(id))
        }
        return ClusterMap(
            cluster: ClusterID(high: 0, low: cluster), hosts: hosts, groups: [], ring: SlotTable(),
            nextHost: HostID(9), nextGroup: GroupID(9), nextReplica: ReplicaID(9))
    }

    private func seeds(_ clusters: [UInt64]) -> SeedAccounts {
        var seeds = SeedAccounts(clusters.indices.map { NetworkAddress(host: "127.0.0.1", port: $0 + 1) })
        for (seed, cluster) in clusters.enumerated() {
            seeds.answered(seed, as: cluster == 0 ? .none : ClusterID(high: 0, low: cluster))
        }
        return seeds
    }

    @Test func whatIsKnownOfThem() {
        var seeds = SeedAccounts((1...3).map { NetworkAddress(host: "127.0.0.1", port: $0) })
        #expect(!seeds.isDecided && !seeds.allRefuse)
        for seed in 0..<3 { seeds.failed(seed, RPCError(.connectRefused, "")) }
        #expect(seeds.isDecided && seeds.allRefuse && seeds.clusters.isEmpty)
        seeds.failed(1, RPCError(.connectFailed, ""))
        #expect(!seeds.allRefuse)
        seeds.answered(1, as: ClusterID(high: 0, low: 5))
        // What it said stays known when its connection ends.
        seeds.failed(1, RPCError(.connectRefused, ""))
        #expect(!seeds.allRefuse && seeds.clusters.map(\.seed) == [1])
    }

    @Test func strangersInThePlaceOfHostsAreNoChoiceToMake() {
        // Cluster 5 at 1, 2 and 3, where cluster 6 has taken the place of the third.
        let ours = map(5, [1, 2, 3])
        let theirs = map(6, [8])
        #expect(seeds([5, 5, 6]).choice(among: [theirs, ours])?.cluster == ours.cluster)
        // Two clusters in one list, and two that know each other's addresses.
        #expect(seeds([5, 6]).choice(among: [map(5, [1]), map(6, [2])]) == nil)
        #expect(seeds([5, 6]).choice(among: [map(5, [1, 2]), map(6, [1, 2])]) == nil)
        #expect(seeds([5, 0, 5]).choice(among: [ours])?.cluster == ours.cluster)
        let conflict = seeds([5, 6]).conflict
        #expect(conflict.contains("127.0.0.1:1 belongs to cluster 00000000000000000000000000000005"))
        #expect(conflict.contains("127.0.0.1:2 belongs to cluster 00000000000000000000000000000006"))
    }
}

@Suite(.serialized, .ownExecutor) struct ClusterTests {
    @Test func addressesOfTwoClustersAreRefusedWhicheverAnswersFirst() async throws {
        try await withCluster { world, servers in
            try await withCluster(cluster: ClusterID(high: 0, low: 8)) { otherWorld, otherServers in
                let (ours, theirs) = ("\(servers[0].address)", "\(otherServers[0].address)")
                for addresses in [
                    [ours, theirs], [theirs, ours], ["127.0.0.1:1", ours, "\(servers[1].address)", theirs],
                ] {
                    let error = await #expect(throws: BifrostError.self) {
                        try await Cluster.connect(to: addresses)
                    }
                    #expect(error?.code == .invalid && error?.mayHaveHappened == false)
                    #expect(error?.message.contains("\(ours) belongs to cluster") == true)
                    #expect(error?.message.contains("\(theirs) belongs to cluster") == true)
                }
                #expect(world.state.withLock { $0.revision } + otherWorld.state.withLock { $0.revision } == 0)
            }
        }
    }

    @Test func aListThatRefusesAsAWholeIsGivenUpAfterItsGrace() async throws {
        var options = ClusterOptions()
        options.connectTimeout = .seconds(60)
        options.refusalGrace = .milliseconds(100)
        let error = await #expect(throws: BifrostError.self) {
            try await Cluster.connect(to: ["127.0.0.1:1", "127.0.0.1:2"], options: options)
        }
        #expect(error?.code == .unreachable && error?.message.contains("refused") == true)
    }

    @Test func putGetDeleteAndALeaderThatChanges() async throws {
        try await withCluster { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            let first = try await cluster.kv.put("a", "1")
            #expect(first == Revision(1))
            let found = try await cluster.kv.get("a")
            #expect(found?.value == "1" && found?.revision == first)
            world.state.withLock { $0.leader = HostID(2) }
            #expect(try await cluster.kv.put("b", "2") == Revision(2))
            #expect(try await cluster.kv.delete("a") == Revision(3))
            #expect(try await cluster.kv.get("a") == nil)
            await cluster.close()
            await #expect(throws: BifrostError(.closed, "")) { try await cluster.kv.put("c", "3") }
        }
    }

    @Test func limitsAreCheckedBeforeAnythingIsSent() async throws {
        try await withCluster { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            let error = await #expect(throws: BifrostError.self) {
                try await cluster.kv.put(Bytes([UInt8](repeating: 1, count: 4_097)), "")
            }
            #expect(error?.code == .tooLarge)
            #expect(error?.message == "a key has at most 4096 bytes, not 4097")
            await #expect(throws: BifrostError(.tooLarge, "")) {
                try await cluster.kv.put("k", Bytes([UInt8](repeating: 1, count: 1_048_577)))
            }
            await #expect(throws: BifrostError(.invalid, "")) { try await cluster.kv.get("") }
            #expect(world.state.withLock { $0.revision } == 0)
            let large = Bytes([UInt8](repeating: 7, count: 1_048_576))
            try await cluster.kv.put("k", large)
            #expect(try await cluster.kv.get("k")?.value == large)
            await cluster.close()
        }
    }

    @Test func whereNobodyListensConnectSaysSo() async throws {
        var options = ClusterOptions()
        options.connectTimeout = .milliseconds(200)
        let error = await #expect(throws: BifrostError.self) {
            try await Cluster.connect(to: ["127.0.0.1:1"], options: options)
        }
        #expect(error?.code == .unreachable)
        #expect(error?.message.contains("127.0.0.1:1") == true)
        #expect(error?.isRetrySafe == true)
        await #expect(throws: BifrostError(.invalid, "")) { try await Cluster.connect(to: ["nonsense"]) }
        try await withCluster(initialised: false) { _, servers in
            await #expect(throws: BifrostError(.notInitialised, "")) {
                try await Cluster.connect(to: ["\(servers[0].address)"])
            }
        }
    }

    @Test func silenceEndsAtTheDeadlineAndCancellationAtOnce() async throws {
        try await withCluster { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            try await cluster.kv.put("a", "1")
            world.state.withLock { $0.isSilent = true }
            let error = await #expect(throws: BifrostError.self) {
                try await cluster.kv.put("a", "2", timeout: .seconds(1))
            }
            #expect(error?.code == .outcomeUnknown && error?.mayHaveHappened == true && error?.isRetrySafe == false)
            await #expect(throws: BifrostError(.deadlineExceeded, "")) {
                try await cluster.kv.get("a", timeout: .milliseconds(100))
            }
            let before = world.state.withLock { $0.unanswered }
            let task = Task(executorPreference: OwnExecutor.current) {
                try await cluster.kv.put("a", "3", timeout: .seconds(180))
            }
            while world.state.withLock({ $0.unanswered }) == before { await OwnExecutor.pause(milliseconds: 2) }
            task.cancel()
            let cancelled = await #expect(throws: BifrostError.self) { try await task.value }
            #expect(cancelled?.cause is CancellationError)
            await cluster.close()
        }
    }

    private func eventually(_ condition: () -> Bool) async -> Bool {
        for _ in 0..<90_000 {
            if condition() { return true }
            await OwnExecutor.pause(milliseconds: 2)
        }
        return false
    }

    /// The host that was asked answers after the deadline, and what it says would make another attempt safe at any
    /// other time.
    @Test func aWriteWhoseAnswerComesAfterTheDeadlineIsNotSentToAnotherHost() async throws {
        try await withCluster { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            try await cluster.kv.put("a", "1")
            world.state.withLock { $0.isHolding = true }
            let error = await #expect(throws: BifrostError.self) {
                try await cluster.kv.put("a", "2", timeout: .seconds(1))
            }
            #expect(error?.code == .outcomeUnknown && error?.mayHaveHappened == true && error?.isRetrySafe == false)
            #expect(await eventually { world.state.withLock { $0.held.count } == 1 })
            world.state.withLock { $0.leader = HostID(2) }
            world.release()
            // The client is busy with this for longer than with anything that the late answer could have begun.
            #expect(try await cluster.kv.put("b", "1") == Revision(2))
            #expect(world.state.withLock { $0.executions } == ["a": 1, "b": 1])
            await cluster.close()
        }
    }

    /// The host reads no more, so that requests wait on this side, where the connection knows that they have not left
    /// yet. They leave when it reads again: at their deadlines they may still take effect, and once only.
    @Test func aWriteThatWaitsInABufferAtItsDeadlineIsOfUnknownOutcomeAndTakesEffectOnce() async throws {
        var limits = ServerLimits()
        limits.bytesInFlightMax = 1
        try await withCluster(limits: limits) { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            try await cluster.kv.put("a", "1")
            world.state.withLock { $0.isHolding = true }
            let large = Bytes([UInt8](repeating: 7, count: 1 << 20))
            var keys = (0..<40).map { Bytes("large \($0)") }
            let filling = keys.map { key in
                Task(executorPreference: OwnExecutor.current) {
                    try await cluster.kv.put(key, large, timeout: .seconds(180))
                }
            }
            #expect(await eventually { world.state.withLock { $0.held.count } == 1 })
            let connection = try #require(await onLoop(cluster) { $0.connection(to: HostID(1)) })
            #expect(
                await eventuallyOnLoop(cluster) { _ in
                    connection.callsInFlight == 40 && connection.unsentBytes > 1 << 20
                })
            // Their deadlines fall before, on and behind the ticks at which the client looks at its operations.
            let late = (0..<50).map { Bytes("late \($0)") }
            let outcomes = await withTaskGroup(of: BifrostError?.self) { group in
                for (number, key) in late.enumerated() {
                    group.addTask {
                        do throws(BifrostError) {
                            _ = try await cluster.kv.put(key, "x", timeout: .milliseconds(10_000 + number))
                            return nil
                        } catch {
                            return error
                        }
                    }
                }
                var outcomes: [BifrostError?] = []
                for await outcome in group { outcomes.append(outcome) }
                return outcomes
            }
            #expect(outcomes.allSatisfy { $0?.code == .outcomeUnknown && $0?.mayHaveHappened == true })
            world.release()
            for task in filling { _ = try await task.value }
            keys += late
            #expect(await eventually { world.state.withLock { $0.executions.count } == keys.count + 1 })
            #expect(world.state.withLock { $0.executions.values.allSatisfy { $0 == 1 } })
            await cluster.close()
        }
    }

    private func onLoop<Result: Sendable>(
        _ cluster: Cluster, _ body: @escaping @Sendable (ClientLoop) -> Result
    ) async throws -> Result {
        let loop = cluster.loop
        return try await loop.eventLoop.submit { body(loop) }.get()
    }

    private func eventuallyOnLoop(
        _ cluster: Cluster, _ condition: @escaping @Sendable (ClientLoop) -> Bool
    ) async -> Bool {
        for _ in 0..<90_000 {
            if (try? await onLoop(cluster, condition)) == true { return true }
            await OwnExecutor.pause(milliseconds: 2)
        }
        return false
    }

    @Test func pagesAndStatus() async throws {
        try await withCluster { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[1].address)"])
            for number in 0..<10 { try await cluster.kv.put(Bytes("k\(number)"), "v") }
            var keys: [String] = []
            for try await page in cluster.pages(of: GroupID(1), .linearizableAt(HostID(1))) {
                keys += page.records.map(\.position.key.string)
            }
            #expect(keys == (0..<10).map { "k\($0)" })
            let reports = try await cluster.status(timeout: .seconds(180))
            #expect(reports.map { try? $0.status.get().host } == [HostID(1), HostID(2)])
            await servers[1].stop(graceMilliseconds: 10)
            let after = try await cluster.status(timeout: .seconds(180))
            #expect((try? after[1].status.get()) == nil && (try? after[0].status.get()) != nil)
            #expect(try await cluster.map(refresh: true).groups.count == 1)
            await cluster.close()
        }
    }

    @Test func aClientThatIsClosedLeavesNoSessionBehind() async throws {
        try await withCluster(featureLevel: FeatureLevel.sessions, groupCount: 2) { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            for number in 0..<50 { try await cluster.kv.put(Bytes("k\(number)"), "v") }
            #expect(world.state.withLock { $0.sessions } == [1, 2])
            await cluster.close()
            #expect(world.state.withLock { $0.sessions } == [])
            await cluster.close()
            // A host that says nothing keeps nobody for long, and its session ends by itself.
            let other = try await Cluster.connect(to: ["\(servers[0].address)"])
            try await other.kv.put("k", "v")
            world.state.withLock { $0.isSilent = true }
            let start = RPCClock.now()
            await other.close()
            // Not for as long as an operation may take, which is ten seconds, unless the machine stood still.
            var shortest = RPCClock.now().since(start)
            var left: Set<UInt64> = [3]
            for attempt in 4..<8 as Range<UInt64> where shortest >= 5_000_000_000 {
                world.state.withLock { $0.isSilent = false }
                let another = try await Cluster.connect(to: ["\(servers[0].address)"])
                try await another.kv.put("k", "v")
                world.state.withLock { $0.isSilent = true }
                let start = RPCClock.now()
                await another.close()
                shortest = min(shortest, RPCClock.now().since(start))
                left.insert(attempt)
            }
            #expect(shortest < 5_000_000_000)
            #expect(world.state.withLock { $0.sessions } == left)
        }
    }

    // MARK: sessions that are held

    /// With a client whose sessions live for so long, and a hold on the slot of "k".
    private func withHold(
        _ timeToLive: Duration, _ body: (World, Cluster, SessionHold) async throws -> Void
    ) async throws {
        try await withCluster(featureLevel: FeatureLevel.sessions) { world, servers in
            let threads = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            var options = ClusterOptions()
            options.timeout = .seconds(180)
            options.sessionTimeToLive = timeToLive
            options.eventLoopGroup = threads
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"], options: options)
            let hold = cluster.hold(slot(of: "k"))
            #expect(await hold.life() == nil)
            try await body(world, cluster, hold)
            await cluster.close()
            // Its hold is forgotten when its threads have ended.
            try await threads.shutdownGracefully()
            hold.release()
        }
    }

    /// How tasks ended, in the order in which they did.
    private final class Ends: Sendable {
        private let all = Mutex<[String]>([])
        var list: [String] { all.withLock { $0 } }

        func note(_ name: String, _ body: @escaping @Sendable () async throws -> Void) -> Task<Void, Never> {
            Task(executorPreference: OwnExecutor.current) { [self] in
                do {
                    try await body()
                    all.withLock { $0.append(name) }
                } catch {
                    all.withLock { $0.append("\(name): \((error as? BifrostError)?.code.rawValue ?? "\(error)")") }
                }
            }
        }

        func wait(for list: [String]) async {
            for _ in 0..<90_000 where self.list.count < list.count { await OwnExecutor.pause(milliseconds: 2) }
            #expect(self.list == list)
        }
    }

    @Test func aSessionIsLostWhenAnotherTakesItsPlace() async throws {
        try await withHold(.seconds(3_600)) { world, cluster, hold in
            try await cluster.kv.put("k", "1")
            let life = try #require(await hold.life())
            #expect(life.id == SessionID(1) && life.endsAt.since(life.aliveAt) == 3_240_000_000_000)
            let ends = Ends()
            _ = ends.note("first") { try await hold.lost(SessionID(1)) }
            // Nobody knows of this one.
            _ = ends.note("other") { try await hold.lost(SessionID(7)) }
            await ends.wait(for: ["other"])
            world.state.withLock { $0.sessions = [] }
            try await cluster.kv.put("k", "2")
            await ends.wait(for: ["other", "first"])
            #expect(await hold.life()?.id == SessionID(2))
        }
    }

    @Test func aSessionThatTheGroupDoesNotHaveIsLostByTheNextWord() async throws {
        try await withHold(.seconds(6)) { world, cluster, hold in
            try await cluster.kv.put("k", "1")
            world.state.withLock { $0.sessions = [] }
            let ends = Ends()
            _ = ends.note("lost") { try await hold.lost(SessionID(1)) }
            await ends.wait(for: ["lost"])
            #expect(world.state.withLock { $0.wordsInVain } == 1)
            #expect(await hold.life() == nil)
        }
    }

    @Test func whoWaitsForALossEndsWithHisTaskAndWithTheCluster() async throws {
        try await withHold(.seconds(3_600)) { world, cluster, hold in
            try await cluster.kv.put("k", "1")
            let ends = Ends()
            let task = ends.note("one") { try await hold.lost(SessionID(1)) }
            // It waits, or it does not yet.
            _ = await hold.life()
            task.cancel()
            await ends.wait(for: ["one: cancelled"])
            ends.note("none") { try await hold.lost(SessionID(1)) }.cancel()
            await ends.wait(for: ["one: cancelled", "none: cancelled"])
            _ = ends.note("two") { try await hold.lost(SessionID(1)) }
            _ = await hold.life()
            await cluster.close()
            await ends.wait(for: ["one: cancelled", "none: cancelled", "two"])
            #expect(await hold.life() == nil)
            try await hold.lost(SessionID(1))
        }
    }

    /// Whoever let go of a client, or of its threads alone, is not kept waiting by them.
    @Test(arguments: [true, false]) func aHoldWithoutAnEventLoopKeepsNobodyWaiting(isClosed: Bool) async throws {
        try await withCluster(featureLevel: FeatureLevel.sessions) { _, servers in
            let threads = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            var options = ClusterOptions()
            options.timeout = .seconds(180)
            options.sessionTimeToLive = .seconds(3_600)
            options.eventLoopGroup = threads
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"], options: options)
            let hold = cluster.hold(slot(of: "k"))
            try await cluster.kv.put("k", "1")
            let life = try #require(await hold.life())
            let ends = Ends()
            _ = ends.note("waiting") { try await hold.lost(life.id) }
            if isClosed { await cluster.close() }
            try await threads.shutdownGracefully()
            await ends.wait(for: ["waiting"])
            _ = ends.note("life") { #expect(await hold.life() == nil) }
            await ends.wait(for: ["waiting", "life"])
            _ = ends.note("lost") { try await hold.lost(life.id) }
            await ends.wait(for: ["waiting", "life", "lost"])
            cluster.hold(slot(of: "l")).release()
            hold.release()
        }
    }

    /// As when the process was stopped: what came meanwhile is there, and so is the time.
    @Test func aClientThatStoodStillKnowsOfItsLossFirst() async throws {
        try await withHold(.seconds(1)) { world, cluster, hold in
            try await cluster.kv.put("k", "1")
            let ends = Ends()
            world.state.withLock { $0.isHolding = true }
            _ = ends.note("lost") { try await hold.lost(SessionID(1)) }
            _ = ends.note("get") { _ = try await cluster.kv.get("k") }
            #expect(await eventually { world.state.withLock { !$0.held.isEmpty } })
            await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                cluster.loop.eventLoop.execute {
                    continuation.resume()
                    usleep(1_500_000)
                }
            }
            world.release()
            await ends.wait(for: ["lost", "get"])
        }
    }

    @Test(arguments: [Duration.milliseconds(999), .zero, .seconds(-5), .milliseconds(3_600_001)])
    func aTimeThatNoSessionCanHaveIsRefused(_ timeToLive: Duration) async throws {
        var options = ClusterOptions()
        options.sessionTimeToLive = timeToLive
        let error = await #expect(throws: BifrostError.self) {
            try await Cluster.connect(to: ["127.0.0.1:1"], options: options)
        }
        #expect(error?.code == .invalid)
        #expect(error?.message == "sessionTimeToLive is \(timeToLive); expected 1 s to 3600 s")
    }

    /// More than may be under way at once: in the keys' order, and one that is refused does not hold up the others.
    @Test func manyKeysAtOnce() async throws {
        try await withCluster(groupCount: 8) { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            let records = (0..<600).map { (key: Bytes("k\($0)"), value: Bytes("\($0)")) }
            try await cluster.kv.put(records)
            #expect(world.state.withLock { $0.records.count } == 600)
            let found = try await cluster.kv.get(["none"] + records.map(\.key).reversed() + ["k7"])
            #expect(found.map { $0?.value } == [nil] + records.map(\.value).reversed() + ["7"])
            #expect(try await cluster.kv.get([] as [Bytes]).isEmpty)
            let error = await #expect(throws: BifrostError.self) {
                try await cluster.kv.put([("l1", "1"), ("", "2"), ("l3", "3")])
            }
            #expect(error?.code == .invalid)
            #expect(try await cluster.kv.get(["l1", "l3"]).map { $0?.value } == ["1", "3"])
            await cluster.close()
        }
    }

    @Test func manyTasksAtOnce() async throws {
        try await withCluster(groupCount: 8) { world, servers in
            let cluster = try await Cluster.connect(to: ["\(servers[0].address)"])
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<2_000 {
                    group.addTask { try await cluster.kv.put(Bytes("k\(number)"), Bytes("\(number)")) }
                }
                try await group.waitForAll()
            }
            #expect(world.state.withLock { $0.records.count } == 2_000)
            await cluster.close()
        }
    }
}
