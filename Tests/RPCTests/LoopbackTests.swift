import Foundation
import NIOCore
import NIOPosix
import Primitives
import RPC
import Synchronization
import TestSupport
import Testing

/// Writes down what happens on a connection.
final class Recorder: RPCConnectionDelegate {
    struct State {
        var ups = 0
        var downs: [RPCError] = []
        var downTimes: [Instant] = []
        var results: [UInt64: Result<Bytes, RPCError>] = [:]
        var order: [UInt64] = []
        var batches = 0
        var writable = 0
        /// Bytes of each.
        var oneways: [Int] = []
    }
    let state = Mutex(State())
    private let isOneAttempt: Bool

    /// - Parameter isOneAttempt: closes the connection when it went down, before it connects again.
    init(isOneAttempt: Bool = false) { self.isOneAttempt = isOneAttempt }

    func connectionUp(_ connection: RPCConnection, welcome: Welcome) { state.withLock { $0.ups += 1 } }
    func connectionDown(_ connection: RPCConnection, reason: RPCError) {
        state.withLock {
            $0.downs.append(reason)
            $0.downTimes.append(RPCClock.now())
        }
        if isOneAttempt { connection.close() }
    }
    func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>) {
        state.withLock {
            $0.results[tag] = result
            $0.order.append(tag)
        }
    }
    func received(_ connection: RPCConnection, service: UInt16, method: UInt16, payload: Bytes) {
        state.withLock { $0.oneways.append(payload.count) }
    }
    func readComplete(_ connection: RPCConnection) { state.withLock { $0.batches += 1 } }
    func connectionWritable(_ connection: RPCConnection) { state.withLock { $0.writable += 1 } }
}

@Suite(.ownExecutor) struct LoopbackTests {
    @Test func aCallIsAnswered() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            #expect(try await client.ask(service: 2, method: 1, payload: "hello") == "hello")
            #expect(try await client.ask(service: 3, method: 1, payload: "") == "")
            let large = Bytes([UInt8](repeating: 9, count: FrameHeader.payloadBytesMax))
            #expect(try await client.ask(service: 2, method: 1, payload: large) == large)
            // A long answer leaves before its batch is counted.
            #expect(await eventually { loopback.server.counters.requests == 3 })
        }
    }

    /// Calls, their long answers, answers of other threads and answers that come in one read with the handshake,
    /// between sides of which one or both are of an older version.
    @Test(arguments: [(1...1, 1...1, 1), (1...1, 1...2, 1), (1...2, 1...1, 1), (1...2, 1...2, 2), (2...5, 1...2, 2)])
    func sidesOfDifferentVersionsSpeakTheHighestThatBothKnow(
        caller: ClosedRange<Int>, host: ClosedRange<Int>, spoken: Int
    ) async throws {
        var limits = ServerLimits()
        limits.versions = UInt8(host.lowerBound)...UInt8(host.upperBound)
        try await Loopback.run(limits: limits) { loopback async throws in
            let client = loopback.client(
                hello: Hello(
                    role: .consensus, identity: PeerIdentity(cluster: serverIdentity.cluster, host: HostID(7)),
                    versionMin: UInt8(caller.lowerBound), versionMax: UInt8(caller.upperBound)))
            #expect(try await client.ask(service: 2, method: 1, payload: "hello") == "hello")
            #expect(try await client.ask(service: 2, method: 5, payload: "from a thread") == "from a thread")
            let large = Bytes([UInt8](repeating: 9, count: FrameHeader.payloadBytesMax))
            #expect(try await client.ask(service: 2, method: 1, payload: large) == large)
            let isSent = try await client.eventLoop.submit {
                #expect(client.welcome?.version == UInt8(spoken))
                return client.sendOneway(service: 2, method: 1) { $0.write(Bytes("beat")) }
            }.get()
            #expect(isSent)
            #expect(await eventually { loopback.echo.state.withLock { $0.oneways } == ["beat"] })
            #expect(loopback.server.counters.faults.isEmpty)

            let socket = try await RawSocket.connect(loopback.server.address, loopback.clientGroup)
            try await socket.send(helloFrame(version: UInt8(caller.upperBound)))
            #expect(await eventually { socket.frames.count == 1 })
            try await socket.send(
                FrameTests.frame(FrameHeader(kind: .ping, call: 3), version: UInt8(spoken)))
            #expect(await eventually { socket.frames.count == 2 })
            // The handshake's frames are of the first version, the others of the one that was agreed on.
            let versions = socket.state.withLock {
                [$0.bytes[2], $0.bytes[$0.bytes.count - FrameHeader.byteCount + 2]]
            }
            #expect(versions == [1, UInt8(spoken)])
            try await socket.close()
        }
    }

    @Test func whoConnectsWhileAnAddressIsOnlyLookedAtIsNotKeptWaiting() async throws {
        let held = try HeldPort()
        let port = held.number
        let calls = Mutex((connected: [CInt](), isOver: false, hasEnded: false))
        Thread.detachNewThread {
            var place = sockaddr_in()
            place.sin_family = sa_family_t(AF_INET)
            place.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            place.sin_port = UInt16(port).bigEndian
            while !calls.withLock({ $0.isOver }) {
                let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
                let isConnected = withUnsafePointer(to: &place) { pointer in
                    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
                    }
                }
                if isConnected { calls.withLock { $0.connected.append(descriptor) } } else { close(descriptor) }
            }
            calls.withLock { $0.hasEnded = true }
        }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let (enough, end) = (soon(20_000), soon())
        while true {
            let count = calls.withLock { $0.connected.count }
            if count >= 100 || RPCClock.now() >= (count == 0 ? end : enough) { break }
            try await RPCServer.check(NetworkAddress(host: "127.0.0.1", port: port), group: group)
        }
        calls.withLock { $0.isOver = true }
        #expect(await eventually { calls.withLock { $0.hasEnded } })
        let connected = calls.withLock { $0.connected }
        #expect(!connected.isEmpty, "nobody came in time: this test shows nothing")
        // As a hello would: the system forgets a connection that it was still making when its listener closed, and says
        // so to who sends.
        for descriptor in connected { send(descriptor, [1], 1, Int32(MSG_NOSIGNAL)) }
        var waiting = connected.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        let patience = soon()
        while waiting.contains(where: { $0.revents == 0 }), RPCClock.now() < patience {
            poll(&waiting, nfds_t(waiting.count), 100)
        }
        #expect(waiting.count { $0.revents == 0 } == 0, "of \(waiting.count) connections")
        for descriptor in connected { close(descriptor) }
        try await group.shutdownGracefully()
        withExtendedLifetime(held) {}
    }

    @Test func tenThousandCallsAnsweredInReverseOrderFindTheirCallers() async throws {
        try await Loopback.run { loopback async throws in
            let recorder = Recorder()
            let client = loopback.client(delegate: recorder)
            try await client.waitUntilUp(deadline: soon())
            try await client.eventLoop.submit {
                for tag in 0..<10_000 as Range<UInt64> {
                    try client.call(service: 2, method: 3, tag: tag) { $0.write(tag) }
                }
            }.get()
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 10_000 })
            let kept = loopback.echo.state.withLock { $0.kept }
            // From this thread, which is not the connection's.
            for call in kept.reversed() { call.reply.respond(call.payload) }
            #expect(await eventually { recorder.state.withLock { $0.order.count } == 10_000 })
            recorder.state.withLock { state in
                #expect(state.order == (0..<10_000).reversed())
                for tag in 0..<10_000 as Range<UInt64> {
                    var writer = ByteWriter()
                    writer.write(tag)
                    let expected = writer.take()
                    #expect((try? state.results[tag]?.get()) == expected)
                }
                #expect(state.batches < 10_000)
            }
            // A second answer is dropped.
            kept[0].reply.respond("again")
            #expect(await eventually { loopback.server.counters.dropped == 1 })
        }
    }

    @Test func answersFromOtherThreadsAndErrorsArrive() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            await withTaskGroup(of: Bool.self) { group in
                for number in 0..<500 {
                    group.addTask {
                        (try? await client.request(service: 2, method: 5, payload: Bytes("\(number)")))
                            == Bytes("\(number)")
                    }
                }
                for await isRight in group { #expect(isRight) }
            }
            await #expect(throws: RPCError(.overloaded, "")) {
                try await client.request(service: 2, method: 6, payload: "")
            }
            await #expect(throws: RPCError(.unknownMethod, "")) {
                try await client.request(service: 2, method: 99, payload: "")
            }
            await #expect(throws: RPCError(.unknownService, "")) {
                try await client.request(service: 9, method: 1, payload: "")
            }
            await #expect(throws: RPCError(.tooLarge, "")) {
                let payload = Bytes([UInt8](repeating: 9, count: FrameHeader.payloadBytesMax + 1))
                return try await client.request(service: 2, method: 1, payload: payload)
            }
            #expect(try await client.ask(service: 2, method: 1, payload: "still there") == "still there")
        }
    }

    @Test func anAnswerThatFitsIntoNoFrameBecomesAnError() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            var writer = ByteWriter()
            writer.write(UInt32(FrameHeader.payloadBytesMax + 1))
            let request = writer.take()
            await #expect(throws: RPCError(.answerDropped, "")) {
                try await client.request(service: 2, method: 4, payload: request)
            }
        }
    }

    @Test func oneBatchOfRequestsIsAnsweredInOneTurn() async throws {
        try await Loopback.run { loopback async throws in
            let recorder = Recorder()
            let client = loopback.client(delegate: recorder)
            try await client.waitUntilUp(deadline: soon())
            try await client.eventLoop.submit {
                for tag in 0..<500 as Range<UInt64> { try client.call(service: 2, method: 2, payload: "x", tag: tag) }
            }.get()
            #expect(await eventually { recorder.state.withLock { $0.results.count } == 500 })
            #expect(loopback.echo.state.withLock { $0.batches } < 20)
        }
    }

    @Test func oneWayFramesArriveInOrder() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            try await client.waitUntilUp(deadline: soon())
            try await client.eventLoop.submit {
                for number in 0..<1_000 as Range<UInt32> {
                    #expect(client.sendOneway(service: 3, method: 1) { $0.write(number) })
                }
            }.get()
            #expect(await eventually { loopback.echo.state.withLock { $0.oneways.count } == 1_000 })
            let numbers = loopback.echo.state.withLock { $0.oneways }.map { bytes in
                var reader = ByteReader(bytes)
                return try? reader.read(UInt32.self)
            }
            #expect(numbers == Array(0..<1_000))
        }
    }

    @Test func aDeadlineEndsTheCallAndTheHostIsTold() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            try await client.waitUntilUp(deadline: soon())
            // On a machine that stands still it may pass before the call has left, or be noticed late: again then.
            var (hasLeft, took, calls) = (false, UInt64.max, 0)
            for _ in 0..<10 where !hasLeft || took >= 2_000 {
                let start = RPCClock.now()
                do throws(RPCError) {
                    _ = try await client.request(service: 2, method: 3, payload: "", deadline: soon(80))
                    Issue.record("answered")
                } catch {
                    #expect(error.code == .deadlineExceeded)
                    hasLeft = error.mayHaveBeenSent
                    calls += hasLeft ? 1 : 0
                }
                took = RPCClock.now().since(start) / 1_000_000
                #expect(took >= 80)
            }
            #expect(hasLeft && took < 2_000)
            let left = calls
            #expect(await eventually { loopback.echo.state.withLock { $0.cancelled.count } == left })
            let call = loopback.echo.state.withLock { $0.kept[0] }
            #expect(call.deadline != nil)
            call.reply.respond("late")
            #expect(try await client.ask(service: 2, method: 1, payload: "next", deadline: soon()) == "next")
        }
    }

    @Test func aCancelledTaskCancelsTheCallAtTheHost() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            let task = Task(executorPreference: OwnExecutor.current) {
                try await client.request(service: 2, method: 3, payload: "")
            }
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 1 })
            task.cancel()
            await #expect(throws: RPCError(.cancelled, "")) { try await task.value }
            #expect(await eventually { loopback.echo.state.withLock { $0.cancelled.count } == 1 })
            let cancelled = Task(executorPreference: OwnExecutor.current) {
                withUnsafeCurrentTask { $0?.cancel() }
                return try await client.request(service: 2, method: 1, payload: "")
            }
            await #expect(throws: RPCError(.cancelled, "")) { try await cancelled.value }
        }
    }

    @Test func closuresAndCancelOnTheLoop() async throws {
        try await Loopback.run { loopback async throws in
            let client = loopback.client()
            try await client.waitUntilUp(deadline: soon())
            let results = Mutex<[Result<Bytes, RPCError>]>([])
            try await client.eventLoop.submit {
                let call = try client.call(service: 2, method: 3, payload: "") { result in
                    results.withLock { $0.append(result) }
                }
                client.cancel(call)
                client.cancel(call)
                try client.call(service: 2, method: 1, payload: "b") { result in results.withLock { $0.append(result) }
                }
            }.get()
            #expect(await eventually { results.withLock { $0.count } == 2 })
            #expect(results.withLock { $0 } == [.failure(RPCError(.cancelled, "")), .success("b")])
        }
    }

    @Test func aReaderThatDoesNotReadDoesNotFillTheHostsMemory() async throws {
        try await Loopback.run { loopback async throws in
            let socket = try await RawSocket.connect(loopback.server.address, loopback.clientGroup, autoRead: false)
            try await socket.send(helloFrame(version: 1))
            #expect(await eventually { loopback.echo.state.withLock { $0.opened } == 1 })
            var requests: [UInt8] = []
            for call in 1...4_000 as ClosedRange<UInt64> {
                requests += FrameTests.frame(FrameHeader(kind: .request, service: 2, method: 4, call: call)) {
                    $0.write(16_384 as UInt32)
                }
            }
            try await socket.send(requests)
            var before = -1
            while true {
                let now = loopback.echo.state.withLock { $0.received }
                if now == before, now > 0 { break }
                before = now
                await OwnExecutor.pause(milliseconds: 200)
            }
            // 64 MB were asked for; what the sockets hold and a little more was made.
            #expect(before < 1_500)
            try await socket.channel.setOption(.autoRead, value: true).get()
            let length = FrameHeader.byteCount + 16_384
            #expect(await eventually { socket.state.withLock { $0.bytes.count } >= 4_000 * length })
            let frames = socket.frames
            #expect(frames.count == 4_001)
            #expect(frames.dropFirst().map(\.header.call) == Array(1...4_000))
            try await socket.close()
        }
    }

    /// A client that reads nothing: answers of 1 MiB find room up to the bound, from its event loop and from elsewhere.
    @Test(arguments: [true, false]) func answersHaveRoomUpToABound(onItsLoop: Bool) async throws {
        var limits = ServerLimits()
        limits.outboundRoomBytes = 4 << 20
        try await Loopback.run(limits: limits) { loopback async throws in
            let socket = try await RawSocket.connect(loopback.server.address, loopback.clientGroup, autoRead: false)
            try await socket.send(helloFrame(version: 1))
            #expect(await eventually { loopback.echo.state.withLock { $0.opened } == 1 })
            var requests: [UInt8] = []
            for call in 1...40 as ClosedRange<UInt64> {
                requests += FrameTests.frame(FrameHeader(kind: .request, service: 2, method: 3, call: call), "x")
            }
            try await socket.send(requests)
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 40 })
            let kept = loopback.echo.state.withLock { $0.kept }
            let block = Bytes([UInt8](repeating: 1, count: 1 << 20))
            var refused = 0
            for call in kept {
                @Sendable func answer() -> Bool {
                    guard call.reply.hasRoom(for: block.count) else { return false }
                    call.reply.respond(block)
                    return true
                }
                let loop = call.connection!.eventLoop
                let isAnswered = onItsLoop ? try await loop.submit(answer).get() : answer()
                if !isAnswered { refused += 1 }
                // What was answered is with the connection before the next is asked.
                if !onItsLoop { try await loop.submit {}.get() }
            }
            // Sockets take some of it.
            #expect(refused > 20, "\(refused) of 40 found no room")
            #expect(refused < 40)
            try await socket.close()
        }
    }

    @Test func beyondItsBoundOnCallsInFlightTheHostStopsReading() async throws {
        var limits = ServerLimits()
        limits.callsInFlightMax = 100
        try await Loopback.run(limits: limits) { loopback async throws in
            let socket = try await RawSocket.connect(loopback.server.address, loopback.clientGroup)
            try await socket.send(helloFrame(version: 1))
            var requests: [UInt8] = []
            for call in 1...1_000 as ClosedRange<UInt64> {
                requests += FrameTests.frame(FrameHeader(kind: .request, service: 2, method: 3, call: call), "x")
            }
            try await socket.send(requests)
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 100 })
            await OwnExecutor.pause(milliseconds: 50)
            #expect(loopback.echo.state.withLock { $0.kept.count } == 100)
            #expect(
                await eventually {
                    let kept = loopback.echo.state.withLock { state in
                        defer { state.kept = [] }
                        return state.kept
                    }
                    for call in kept { call.reply.respond(call.payload) }
                    return loopback.echo.state.withLock { $0.received } == 1_000
                })
            #expect(await eventually { socket.frames.count == 1_001 - loopback.echo.state.withLock { $0.kept.count } })
            try await socket.close()
        }
    }

    @Test func aHostThatDoesNotReadMakesOneWayFramesFailAndThenRecovers() async throws {
        var limits = ServerLimits()
        limits.bytesInFlightMax = 1  // any call with a payload stops the host from reading
        try await Loopback.run(limits: limits) { loopback async throws in
            var clientLimits = ClientLimits()
            clientLimits.outboundBytesMax = 1 << 20
            let recorder = Recorder()
            let client = loopback.client(delegate: recorder, limits: clientLimits)
            try await client.waitUntilUp(deadline: soon())
            _ = try await client.eventLoop.submit { try client.call(service: 2, method: 3, payload: "stop", tag: 1) }
                .get()
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 1 })
            let block = Bytes([UInt8](repeating: 1, count: 256 << 10))
            var sent = 0
            while try await client.eventLoop.submit({ client.sendOneway(service: 2, method: 1) { $0.write(block) } })
                .get()
            {
                sent += 1
                if sent == 400 { break }
            }
            #expect(sent < 400)
            #expect(try await client.eventLoop.submit { client.unsentBytes }.get() < 3 << 20)
            let refused = try await client.eventLoop.submit {
                do throws(RPCError) {
                    try client.call(service: 2, method: 1, payload: "x", tag: 2)
                    return nil as RPCError?
                } catch { return error }
            }.get()
            #expect(refused?.code == .overloaded)
            loopback.echo.state.withLock { $0.kept[0] }.reply.respond("go")
            #expect(await eventually { loopback.echo.state.withLock { $0.oneways.count } == sent })
            #expect(await eventually { recorder.state.withLock { $0.writable } > 0 })
        }
    }

    @Test func aLostConnectionTellsWhichCallsNeverLeft() async throws {
        var limits = ServerLimits()
        limits.bytesInFlightMax = 1
        try await Loopback.run(limits: limits) { loopback async throws in
            let recorder = Recorder()
            let client = loopback.client(delegate: recorder)
            try await client.waitUntilUp(deadline: soon())
            let block = Bytes([UInt8](repeating: 1, count: 1 << 20))
            for tag in 0..<40 as Range<UInt64> {
                _ = try await client.eventLoop.submit {
                    try client.call(service: 2, method: 3, payload: block, tag: tag)
                }.get()
            }
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 1 })
            loopback.echo.state.withLock { $0.kept[0] }.connection?.close()
            #expect(await eventually { recorder.state.withLock { $0.results.count } == 40 })
            let marks = recorder.state.withLock { state in
                (0..<40 as Range<UInt64>).map { tag -> Bool? in
                    guard case .failure(let error) = state.results[tag], error.code == .connectionLost else {
                        return nil
                    }
                    return error.mayHaveBeenSent
                }
            }
            #expect(marks.first == true)
            #expect(marks.last == false)
            let firstUnsent = marks.firstIndex(of: false) ?? 0
            #expect(marks[firstUnsent...].allSatisfy { $0 == false })
            #expect(marks[..<firstUnsent].allSatisfy { $0 == true })
            // The call that the host worked on is cancelled there.
            #expect(await eventually { loopback.echo.state.withLock { $0.cancelled.count } == 1 })
        }
    }

    @Test func aStoppingHostAnswersWhatIsInFlight() async throws {
        try await Loopback.run { loopback async throws in
            let recorder = Recorder()
            let client = loopback.client(delegate: recorder)
            let answer = Task(executorPreference: OwnExecutor.current) {
                try await client.request(service: 2, method: 3, payload: "last")
            }
            #expect(await eventually { loopback.echo.state.withLock { $0.kept.count } == 1 })
            let stopped = Task(executorPreference: OwnExecutor.current) {
                await loopback.server.stop(graceMilliseconds: 5_000)
            }
            #expect(await eventually { (try? await client.eventLoop.submit { !client.isConnected }.get()) == true })
            loopback.echo.state.withLock { $0.kept[0] }.reply.respond("done")
            #expect(try await answer.value == "done")
            await stopped.value
            #expect(loopback.server.counters.connectionsOpen == 0)
            client.close()
        }
    }

    @Test func itComesBackAfterTheHostRestartedWithABackOff() async throws {
        let port = try HeldPort()
        let first = try await Loopback(port: port.number)
        let recorder = Recorder()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let client = RPCConnection(
            to: first.server.address, hello: clientHello, eventLoop: group.next(), seed: 11, delegate: recorder)
        client.connect()
        #expect(try await client.ask(service: 2, method: 1, payload: "a") == "a")
        try await first.stop()
        // The end of the connection, and four refusals after waits of at least half of 25, 50, 100 and 200 ms.
        #expect(await eventually { recorder.state.withLock { $0.downs.count } >= 5 })
        let (downs, times) = recorder.state.withLock { (Array($0.downs.prefix(5)), Array($0.downTimes.prefix(5))) }
        // The first wait began a little before its mark.
        #expect(times[4].since(times[0]) >= 150_000_000)
        #expect(downs.dropFirst().allSatisfy { $0.code == .connectRefused && $0.message.contains("refused") })
        let second = try await Loopback(port: port.number)
        #expect(try await client.ask(service: 2, method: 1, payload: "b", deadline: soon()) == "b")
        #expect(recorder.state.withLock { $0.ups } == 2)
        client.close()
        #expect(await eventually { recorder.state.withLock { $0.downs.last?.code } == .closed })
        await #expect(throws: RPCError(.closed, "")) { try await client.request(service: 2, method: 1, payload: "c") }
        try await second.stop()
        try await group.shutdownGracefully()
        withExtendedLifetime(port) {}
    }

    @Test func aCallThatDoesNotWaitHearsOfARefusalAtOnceAndOfAHostThatCame() async throws {
        let port = try HeldPort()
        let first = try await Loopback(port: port.number)
        try await first.stop()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        // The longest back-off: a call that waited for it would be late.
        let client = RPCConnection(
            to: first.server.address, hello: clientHello, eventLoop: group.next(), seed: 11,
            backoff: Backoff(firstMilliseconds: 60_000, maxMilliseconds: 60_000))
        client.connect()
        for _ in 0..<3 {
            await #expect(throws: RPCError(.connectRefused, "")) {
                try await client.request(
                    service: 2, method: 1, payload: "a", deadline: soon(), isPatient: false)
            }
        }
        let second = try await Loopback(port: port.number)
        let answer = try await client.request(
            service: 2, method: 1, payload: "b", deadline: soon(), isPatient: false)
        #expect(answer == "b")
        client.close()
        try await second.stop()
        try await group.shutdownGracefully()
        withExtendedLifetime(port) {}
    }

    @Test func withoutAHostACallFailsWithinItsDeadlineAndSaysWhy() async throws {
        let port = try HeldPort()
        let first = try await Loopback(port: port.number)
        await first.server.stop()
        let recorder = Recorder()
        let client = first.client(delegate: recorder)
        // Before, it could not know why.
        #expect(await eventually { recorder.state.withLock { !$0.downs.isEmpty } })
        do throws(RPCError) {
            _ = try await client.request(service: 2, method: 1, payload: "a", deadline: soon(150))
            Issue.record("answered")
        } catch {
            #expect(error.code == .deadlineExceeded)
            #expect(!error.mayHaveBeenSent)
            #expect(error.message.contains("refused"))
        }
        let thrown = try await client.eventLoop.submit {
            do throws(RPCError) {
                try client.call(service: 2, method: 1, payload: "x", tag: 2)
                return nil as RPCError?
            } catch { return error }
        }.get()
        #expect(thrown?.code == .notConnected)
        client.close()
        try await first.stop()
        withExtendedLifetime(port) {}
    }

    @Test func anAddressThatIsTakenIsSaidSo() async throws {
        try await Loopback.run { loopback async throws in
            do throws(RPCError) {
                _ = try await RPCServer.start(
                    on: loopback.server.address, group: loopback.serverGroup, services: [],
                    policy: FixedIdentityPolicy(identity: serverIdentity))
                Issue.record("listening twice")
            } catch {
                #expect(error.code == .cannotListen)
                #expect(error.message == "cannot listen on \(loopback.server.address): Address already in use")
            }
        }
    }
}
