// Callers in the host's own process: what comes of a call is what would come of it over a socket.

import Dispatch
import Glibc
import NIOCore
import NIOPosix
import Primitives
import RPC
import Synchronization
import TestSupport
import Testing

/// Method 1 answers with the request, on another thread; method 3 keeps the call for the test to answer; others fail.
private final class LocalEcho: LocalService {
    struct State {
        var kept: [InboundCall] = []
        var received = 0
        var batches: [Int] = []
    }
    let state = Mutex(State())

    func receive(_ calls: [InboundCall]) {
        state.withLock {
            $0.received += calls.count
            $0.batches.append(calls.count)
            $0.kept += calls.filter { $0.method == 3 }
        }
        let others = calls.filter { $0.method != 3 }
        guard !others.isEmpty else { return }
        DispatchQueue.global().async {
            for call in others {
                #expect(call.connection == nil)
                if call.method == 1 {
                    call.reply.respond { $0.write(call.payload) }
                } else {
                    call.reply.fail(.unknownMethod, "method \(call.method)")
                }
            }
        }
    }

    var keptCount: Int { state.withLock { $0.kept.count } }

    /// Answers what is kept with its own payload.
    func release() {
        let kept = state.withLock { state in
            defer { state.kept = [] }
            return state.kept
        }
        for call in kept { call.reply.respond(call.payload) }
    }
}

@Suite(.ownExecutor) struct LocalLineTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func server(_ limits: ServerLimits = ServerLimits()) -> (LocalEcho, LocalServer) {
        let echo = LocalEcho()
        return (
            echo, LocalServer(service: echo, policy: FixedIdentityPolicy(identity: serverIdentity), limits: limits)
        )
    }

    private func client(
        _ server: LocalServer, hello: Hello = clientHello, delegate: (any RPCConnectionDelegate)? = nil,
        limits: ClientLimits = ClientLimits()
    ) -> RPCConnection {
        let connection = RPCConnection(
            to: NetworkAddress(host: "here", port: 0), through: server, hello: hello, eventLoop: group.next(), seed: 1,
            delegate: delegate, limits: limits)
        connection.connect()
        return connection
    }

    private func call(_ client: RPCConnection, tags: Range<UInt64>, method: UInt16 = 3, _ payload: Bytes) async throws {
        try await client.eventLoop.submit {
            for tag in tags { try client.call(service: 2, method: method, payload: payload, tag: tag) }
        }.get()
    }

    private func askNow(_ client: RPCConnection) async throws -> Bytes {
        try await client.request(service: 2, method: 1, payload: "", deadline: soon(), isPatient: false)
    }

    private func error(of tag: UInt64, _ recorder: Recorder) -> RPCError? {
        guard case .failure(let error) = recorder.state.withLock({ $0.results[tag] }) else { return nil }
        return error
    }

    @Test func callsAreAnsweredFromAnyThreadAndThoseOfOneTurnGoTogether() async throws {
        let (echo, server) = server()
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        #expect(try await client.ask(service: 2, method: 1, payload: "hello") == "hello")
        try await call(client, tags: 0..<1_000, method: 1, "x")
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 1_000 })
        #expect(recorder.state.withLock { $0.results.values.allSatisfy { (try? $0.get()) == "x" } })
        #expect(echo.state.withLock { $0.batches } == [1, 1_000])
        // The delegate hears the end of each batch of answers, so that it can send what they lead to in one go.
        #expect(await eventually { recorder.state.withLock { (1...1_000).contains($0.batches) } })
        // Long answers and many of them: each is its own.
        let blocks = (0..<40).map { Bytes([UInt8](repeating: UInt8($0), count: 30_000 + $0)) }
        try await client.eventLoop.submit {
            for (number, block) in blocks.enumerated() {
                try client.call(service: 2, method: 1, tag: 2_000 + UInt64(number)) { $0.write(block) }
            }
        }.get()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 1_040 })
        for (number, block) in blocks.enumerated() {
            #expect(recorder.state.withLock { try? $0.results[2_000 + UInt64(number)]?.get() } == block)
        }
        let failure = await #expect(throws: RPCError.self) { try await client.ask(service: 2, method: 9, payload: "") }
        #expect(failure?.code == .unknownMethod && failure?.mayHaveBeenSent == false)
        #expect(server.counters.requests == 1_042 && server.counters.connectionsOpen == 1)
        client.close()
        #expect(await eventually { server.counters.connectionsOpen == 0 })
    }

    @Test func theHandshakeIsThatOfASocket() async throws {
        let (_, server) = server()
        for (hello, code) in [
            (
                Hello(role: .client, identity: PeerIdentity(cluster: ClusterID(high: 9, low: 9))),
                RPCError.Code.wrongCluster
            ),
            (Hello(role: .client, identity: PeerIdentity(), target: HostID(7)), .wrongHost),
            (Hello(role: .consensus, identity: serverIdentity), .forbiddenRole),
        ] {
            let client = client(server, hello: hello)
            let error = await #expect(throws: RPCError.self) {
                try await client.ask(service: 2, method: 1, payload: "", deadline: soon(100))
            }
            #expect(error?.code == .deadlineExceeded)
            let reason = await #expect(throws: RPCError.self) {
                try await askNow(client)
            }
            #expect(reason?.code == code, "\(String(describing: reason))")
            client.close()
        }
        #expect(server.counters.connectionsAccepted == 0)
    }

    @Test func beyondTheHostsBoundsCallsWaitAndBeyondTheCallersTheyAreRefused() async throws {
        var limits = ServerLimits()
        limits.callsInFlightMax = 100
        limits.bytesInFlightMax = 10_000
        let (echo, server) = server(limits)
        var clientLimits = ClientLimits()
        clientLimits.outboundBytesMax = 1 << 20
        let recorder = Recorder()
        let client = client(server, delegate: recorder, limits: clientLimits)
        try await client.waitUntilUp(deadline: soon())

        // As the welcome said.
        let refused = await #expect(throws: RPCError.self) { try await call(client, tags: 0..<101, "x") }
        #expect(refused?.code == .overloaded && refused?.mayHaveBeenSent == false)
        #expect(await eventually { echo.keptCount == 100 })
        echo.release()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 100 })

        // By bytes: the one that passes the bound is the last.
        try await call(client, tags: 200..<250, Bytes([UInt8](repeating: 1, count: 3_000)))
        #expect(await eventually { echo.keptCount == 4 })
        await OwnExecutor.pause(milliseconds: 20)
        #expect(echo.keptCount == 4)
        #expect(try await client.eventLoop.submit { client.unsentBytes }.get() == 46 * 3_000)
        #expect(
            await eventually {
                echo.release()
                return recorder.state.withLock { $0.results.count } == 150
            })

        // More than may wait here.
        let block = Bytes([UInt8](repeating: 1, count: 300_000))
        try await call(client, tags: 300..<301, block)
        try await call(client, tags: 301..<305, block)
        let full = await #expect(throws: RPCError.self) { try await call(client, tags: 305..<306, block) }
        #expect(full?.code == .overloaded && full?.mayHaveBeenSent == false)
        #expect(
            await eventually {
                echo.release()
                return recorder.state.withLock { $0.results.count } == 155
            })
        #expect(recorder.state.withLock { $0.writable } > 0)
        client.close()
    }

    /// Calls that were taken back count until the host has answered them.
    @Test func whatIsTakenBackStillFillsTheHostsBound() async throws {
        var limits = ServerLimits()
        limits.callsInFlightMax = 10
        let (echo, server) = server(limits)
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        let calls = try await client.eventLoop.submit {
            try (0..<10 as Range<UInt64>).map { try client.call(service: 2, method: 3, payload: "x", tag: $0) }
        }.get()
        #expect(await eventually { echo.keptCount == 10 })
        try await client.eventLoop.submit { for call in calls { client.cancel(call) } }.get()
        #expect(error(of: 9, recorder)?.code == .cancelled && error(of: 9, recorder)?.mayHaveBeenSent == true)
        try await call(client, tags: 10..<15, "y")
        await OwnExecutor.pause(milliseconds: 20)
        #expect(echo.state.withLock { $0.received } == 10)
        echo.release()
        #expect(await eventually { echo.keptCount == 5 })
        echo.release()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 15 })
        #expect(error(of: 0, recorder)?.code == .cancelled && error(of: 12, recorder) == nil)
        client.close()
    }

    @Test func deadlinesPassHereAndLateAnswersAreDropped() async throws {
        let (echo, server) = server()
        let client = client(server)
        try await client.waitUntilUp(deadline: soon())
        // On a machine that stands still it may pass before the call has left.
        var hasLeft = false
        for _ in 0..<20 where !hasLeft {
            let error = await #expect(throws: RPCError.self) {
                try await client.ask(service: 2, method: 3, payload: "x", deadline: soon(20))
            }
            #expect(error?.code == .deadlineExceeded)
            hasLeft = error?.mayHaveBeenSent == true
        }
        #expect(hasLeft)
        let task = Task(executorPreference: OwnExecutor.current) {
            try await client.ask(service: 2, method: 3, payload: "x")
        }
        #expect(await eventually { echo.keptCount == 2 })
        task.cancel()
        let cancelled = await #expect(throws: RPCError.self) { try await task.value }
        #expect(cancelled?.code == .cancelled && cancelled?.mayHaveBeenSent == true)
        echo.release()
        #expect(try await client.ask(service: 2, method: 1, payload: "next") == "next")
        client.close()
    }

    @Test func aHostThatEndsTellsWhichCallsItGot() async throws {
        var limits = ServerLimits()
        limits.bytesInFlightMax = 1
        let (echo, server) = server(limits)
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<10, "x")
        #expect(await eventually { echo.keptCount == 1 })
        await server.stop(graceMilliseconds: 30)
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 10 })
        #expect(
            (0..<10).map { error(of: $0, recorder)?.code } == [RPCError.Code?](repeating: .connectionLost, count: 10))
        #expect(
            (0..<10).map { error(of: $0, recorder)?.mayHaveBeenSent } == [true] + [Bool](repeating: false, count: 9))
        // Nobody hears it.
        echo.release()
        let refused = await #expect(throws: RPCError.self) { try await call(client, tags: 20..<21, "x") }
        #expect(refused?.code == .notConnected)
        let late = await #expect(throws: RPCError.self) {
            try await askNow(client)
        }
        #expect(late?.code == .connectRefused, "there is no port to try: \(String(describing: late))")
        client.close()
    }

    @Test func aHostThatStopsAnswersWhatIsUnderWay() async throws {
        let (echo, server) = server()
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<10, "x")
        #expect(await eventually { echo.keptCount == 10 })
        async let stopped: Void = server.stop(graceMilliseconds: 60_000)
        #expect(try await eventually { try await !client.eventLoop.submit { client.isConnected }.get() })
        let refused = await #expect(throws: RPCError.self) { try await call(client, tags: 20..<21, "x") }
        #expect(refused?.code == .notConnected)
        echo.release()
        // Long before its grace is over: all is answered.
        await stopped
        #expect(recorder.state.withLock { $0.results.values.allSatisfy { (try? $0.get()) == "x" } })
        #expect(recorder.state.withLock { $0.results.count } == 10)
        client.close()
    }

    @Test func answersHaveRoomUpToABound() async throws {
        var limits = ServerLimits()
        limits.outboundRoomBytes = 4 << 20
        let (echo, server) = server(limits)
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<40, "x")
        #expect(await eventually { echo.keptCount == 40 })
        let kept = echo.state.withLock { $0.kept }
        let block = Bytes([UInt8](repeating: 1, count: 1 << 20))
        // The caller's loop is busy all the while.
        let refused = try await client.eventLoop.submit {
            kept.count { call in
                guard call.reply.hasRoom(for: block.count) else { return true }
                call.reply.respond(block)
                return false
            }
        }.get()
        #expect(refused == 36)
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 4 })
        client.close()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 40 })
        #expect(error(of: 39, recorder)?.code == .closed && error(of: 39, recorder)?.mayHaveBeenSent == true)
    }

    /// As a socket that is closed behind what was written to it.
    @Test func whoClosesHandsOverWhatItHasSent() async throws {
        var limits = ServerLimits()
        limits.callsInFlightMax = 3
        let (echo, server) = server(limits)
        var clientLimits = ClientLimits()
        clientLimits.callsInFlightMax = 100
        let recorder = Recorder()
        let client = client(server, delegate: recorder, limits: clientLimits)
        try await client.waitUntilUp(deadline: soon())
        try await client.eventLoop.submit {
            for tag in 0..<3 as Range<UInt64> { try client.call(service: 2, method: 3, payload: "x", tag: tag) }
            client.close()
        }.get()
        #expect(echo.keptCount == 3)
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 3 })
        for tag in 0..<3 as Range<UInt64> {
            #expect(error(of: tag, recorder)?.code == .closed && error(of: tag, recorder)?.mayHaveBeenSent == true)
        }
        #expect(server.counters.connectionsOpen == 0)
        // Nobody hears it.
        echo.release()
    }

    /// A caller that takes nothing loses long answers and keeps short ones: it has room for those.
    @Test func answersBeyondTheBoundAreDroppedAndShortOnesAreNot() async throws {
        var limits = ServerLimits()
        limits.outboundBytesMax = 100_000
        limits.outboundSmallBytes = 1_000
        let (echo, server) = server(limits)
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<8, "x")
        #expect(await eventually { echo.keptCount == 8 })
        let kept = echo.state.withLock { $0.kept }
        let (long, short) = (
            Bytes([UInt8](repeating: 1, count: 60_000)), Bytes([UInt8](repeating: 2, count: 1_000))
        )
        // The caller's loop is busy all the while.
        try await client.eventLoop.submit {
            for (place, call) in kept.enumerated() {
                let payload = place < 4 || place > 5 ? long : short
                if place % 2 == 0 { call.reply.respond(payload) } else { call.reply.respond { $0.write(payload) } }
            }
        }.get()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 8 })
        let results = recorder.state.withLock { state in (0..<8 as Range<UInt64>).map { state.results[$0] } }
        #expect(results.map { (try? $0?.get())?.count } == [60_000, 60_000, nil, nil, 1_000, 1_000, nil, nil])
        #expect([2, 3, 6, 7].allSatisfy { error(of: $0, recorder)?.code == .answerDropped })
        #expect([2, 3, 6, 7].allSatisfy { error(of: $0, recorder)?.mayHaveBeenSent == true })
        client.close()
    }

    @Test func anAnswerThatFitsIntoNoFrameIsNoneHereEither() async throws {
        let (echo, server) = server()
        let recorder = Recorder()
        let client = client(server, delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<4, "x")
        #expect(await eventually { echo.keptCount == 4 })
        let kept = echo.state.withLock { $0.kept }
        for (place, call) in kept.enumerated() {
            let payload = Bytes([UInt8](repeating: 1, count: FrameHeader.payloadBytesMax + place / 2))
            if place % 2 == 0 { call.reply.respond(payload) } else { call.reply.respond { $0.write(payload) } }
        }
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 4 })
        #expect((0..<4).map { error(of: $0, recorder)?.code } == [nil, nil, .answerDropped, .answerDropped])
        // A second answer is noise, and counted.
        kept[0].reply.respond("again")
        #expect(await eventually { server.counters.dropped == 1 })
        #expect(server.counters.answers == 4)
        client.close()
    }

    @Test func thereAreAsManyLinesAsConnectionsMayBe() async throws {
        var limits = ServerLimits()
        limits.connectionsMax = 2
        let (_, server) = server(limits)
        let clients = (0..<2).map { _ in client(server) }
        for client in clients { try await client.waitUntilUp(deadline: soon()) }
        let third = client(server)
        let refused = await #expect(throws: RPCError.self) { try await askNow(third) }
        #expect(refused?.code == .tooManyConnections)
        clients[0].close()
        #expect(await eventually { server.counters.connectionsOpen == 1 })
        #expect(try await third.ask(service: 2, method: 1, payload: "now", deadline: soon(180_000)) == "now")
        for client in clients + [third] { client.close() }
    }

    @Test func aHostServesItselfAndOfItsClusterAloneUntilItStops() async throws {
        let (_, server) = server()
        #expect(server.serves(HostID(1), of: serverIdentity.cluster))
        #expect(!server.serves(HostID(2), of: serverIdentity.cluster))
        #expect(!server.serves(HostID(1), of: ClusterID(high: 9, low: 9)))
        // One of no cluster yet refuses nobody, and is nobody's.
        let new = LocalServer(service: LocalEcho(), policy: FixedIdentityPolicy(identity: PeerIdentity()))
        #expect(!new.serves(HostID(1), of: serverIdentity.cluster))
        await server.stop()
        #expect(!server.serves(HostID(1), of: serverIdentity.cluster))
    }

    /// `stop` gives it five seconds.
    @Test func aHostThatHasStoppedIsHandedNothingByALoopThatStoodStill() async throws {
        let (echo, server) = server()
        let own = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let recorder = Recorder()
        let client = RPCConnection(
            to: NetworkAddress(host: "here", port: 0), through: server, hello: clientHello, eventLoop: own.next(),
            seed: 1, delegate: recorder)
        client.connect()
        try await client.waitUntilUp(deadline: soon())
        let goOn = DispatchSemaphore(value: 0)
        await withCheckedContinuation { (begun: CheckedContinuation<Void, Never>) in
            own.next().execute {
                do { try client.call(service: 2, method: 3, payload: "x", tag: 1) } catch { Issue.record("\(error)") }
                begun.resume()
                goOn.wait()
            }
        }
        await server.stop(graceMilliseconds: 0)
        goOn.signal()
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 1 })
        #expect(error(of: 1, recorder)?.code == .connectionLost && error(of: 1, recorder)?.mayHaveBeenSent == false)
        #expect(echo.state.withLock { $0.received } == 0)
        client.close()
        try await own.shutdownGracefully()
    }

    /// A task that was cancelled does not sleep: it would ask again and again, on a thread that others need, until its
    /// time is over.
    @Test(arguments: [true, false]) func aCancelledTaskThatStopsAHostWaitsForWhatIsUnderWay(local: Bool) async throws {
        let meter = MeteredExecutor()
        let (echo, server) = server()
        let loopback = try await Loopback()
        let recorder = Recorder()
        let client = local ? client(server, delegate: recorder) : loopback.client(delegate: recorder)
        try await client.waitUntilUp(deadline: soon())
        try await call(client, tags: 0..<10, "x")
        #expect(
            await eventually { local ? echo.keptCount == 10 : loopback.echo.state.withLock { $0.kept.count } == 10 })
        let stop = Task(executorPreference: meter) {
            withUnsafeCurrentTask { $0?.cancel() }
            if local {
                await server.stop(graceMilliseconds: 180_000)
            } else {
                await loopback.server.stop(graceMilliseconds: 180_000)
            }
        }
        #expect(try await eventually { try await !client.eventLoop.submit { client.isConnected }.get() })
        await OwnExecutor.pause(milliseconds: 1_000)
        #expect(recorder.state.withLock { $0.results.isEmpty })
        if local {
            echo.release()
        } else {
            for call in loopback.echo.state.withLock({ $0.kept }) { call.reply.respond(call.payload) }
        }
        await stop.value
        #expect(await eventually { recorder.state.withLock { $0.results.count } == 10 })
        #expect(recorder.state.withLock { $0.results.values.allSatisfy { (try? $0.get()) == "x" } })
        #expect(meter.milliseconds < 100, "\(meter.milliseconds) ms of a processor to wait for a second")
        client.close()
        try await loopback.stop()
    }
}

/// Runs tasks on a queue of its own, and knows how much of a processor they took.
private final class MeteredExecutor: TaskExecutor {
    private let queue = DispatchQueue(label: "bifrost.test.metered")
    private let nanoseconds = Mutex<UInt64>(0)

    var milliseconds: UInt64 { nanoseconds.withLock { $0 } / 1_000_000 }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { [self] in
            let before = Self.threadTime()
            job.runSynchronously(on: asUnownedTaskExecutor())
            let taken = Self.threadTime() - before
            nanoseconds.withLock { $0 += taken }
        }
    }

    private static func threadTime() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
