// The endpoint over real sockets: what is answered, what is turned away, who is cut off.

import CoreMetrics
import MetricsEndpoint
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

/// All that comes over a connection until it ends.
private final class Listener: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    let text = Mutex("")
    let isHeld: Bool

    /// - Parameter isHeld: reads nothing.
    init(isHeld: Bool) { self.isHeld = isHeld }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let read = String(buffer: unwrapInboundIn(data))
        text.withLock { $0 += read }
    }
}

private struct Caller {
    let channel: any Channel
    let listener: Listener

    init(_ server: MetricsServer, reads: Bool = true) async throws {
        let listener = Listener(isHeld: !reads)
        self.listener = listener
        channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.autoRead, value: reads)
            .channelOption(.socketOption(.so_rcvbuf), value: 4_096)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(listener) }
            }
            .connect(host: "127.0.0.1", port: server.port).get()
    }

    func say(_ text: String) async throws {
        try await channel.writeAndFlush(channel.allocator.buffer(string: text)).get()
    }

    /// When the other side has ended the connection.
    func end() async throws -> String {
        try await channel.closeFuture.get()
        return listener.text.withLock { $0 }
    }
}

private func ask(_ server: MetricsServer, _ request: String) async throws -> (head: String, body: String) {
    let caller = try await Caller(server)
    try await caller.say(request)
    let text = try await caller.end()
    let end = try #require(text.firstRange(of: "\r\n\r\n"), "found \(text)")
    return (String(text[..<end.lowerBound]), String(text[end.upperBound...]))
}

private func withServer(
    _ registry: PrometheusRegistry = PrometheusRegistry(), _ adapt: (inout MetricsServer.Limits) -> Void = { _ in },
    _ body: (MetricsServer) async throws -> Void
) async throws {
    var limits = MetricsServer.Limits()
    adapt(&limits)
    let server = try await MetricsServer.start(host: "127.0.0.1", port: 0, registry: registry, limits: limits)
    do {
        try await body(server)
        await server.stop()
    } catch {
        await server.stop()
        throw error
    }
}

@Suite(.ownExecutor) struct MetricsServerTests {
    private let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

    @Test func itAnswersWithThePageTakenAnew() async throws {
        let registry = PrometheusRegistry()
        let asked = Counter(label: "asked_total", factory: registry)
        // The threads for tasks may be busy with other tests for long.
        try await withServer(
            registry,
            {
                $0.refreshMilliseconds = 600_000
                $0.connectionMilliseconds = 600_000
            }
        ) { server in
            server.refresh { asked.increment() }
            for number in 1...3 {
                let answer = try await ask(server, get)
                #expect(answer.head.hasPrefix("HTTP/1.1 200 OK\r\n"))
                #expect(answer.head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"))
                #expect(answer.head.contains("Content-Length: \(answer.body.utf8.count)"))
                #expect(answer.body.contains("asked_total \(number)\n"))
            }
            #expect(try await ask(server, "GET /metrics?a=b HTTP/1.0\r\n\r\n").head.contains(" 200 OK"))
        }
    }

    @Test func whatIsNotAskedForRightIsTurnedAway() async throws {
        try await withServer(PrometheusRegistry(), { $0.requestBytesMax = 2_000 }) { server in
            for path in ["/", "/metrics/", "/metricsx", "//metrics", "http://x/metrics"] {
                #expect(try await ask(server, "GET \(path) HTTP/1.1\r\nHost: x\r\n\r\n").head.contains(" 404 "))
            }
            for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
                let answer = try await ask(
                    server, "\(method) /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
                #expect(answer.head.contains(" 405 ") && answer.head.contains("Allow: GET"))
            }
            let head = try await ask(server, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(head.head.contains(" 405 ") && head.body.isEmpty)
            #expect(try await ask(server, "what is this\r\n\r\n").head.contains(" 400 "))
            for long in [
                "GET /metrics HTTP/1.1\r\nX: \(String(repeating: "a", count: 5_000))",
                "GET /\(String(repeating: "a", count: 5_000))",
            ] {
                #expect(try await ask(server, long).head.contains(" 431 "))
            }
            // Only the first of what comes at once is answered.
            let twice = try await ask(server, get + get)
            #expect(!twice.body.contains("HTTP/1.1"))
            #expect(try await ask(server, get).head.contains(" 200 OK"))
        }
    }

    @Test func connectionsBeyondTheBoundAreClosedAndOthersComeWhenThereIsRoom() async throws {
        try await withServer(PrometheusRegistry(), { $0.connectionsMax = 2 }) { server in
            let held = [try await Caller(server), try await Caller(server)]
            // Both are accepted for certain: one that is not yet can't be counted.
            for caller in held { try await caller.say("GET /") }
            while server.connectionsRefused == 0 {
                let further = try await Caller(server)
                if try await further.end().isEmpty { break }
            }
            #expect(server.connectionsRefused >= 1)
            try await held[0].channel.close().get()
            var answer = ""
            for _ in 0..<90_000 where !answer.contains(" 200 OK") {
                let caller = try await Caller(server)
                try? await caller.say(get)
                answer = (try? await caller.end()) ?? ""
                await OwnExecutor.pause(milliseconds: 10)
            }
            #expect(answer.contains(" 200 OK"))
            try await held[1].channel.close().get()
        }
    }

    @Test func whoAsksOrReadsTooSlowlyIsCutOff() async throws {
        var limits = PrometheusRegistry.Limits()
        limits.seriesMax = 40_000
        let registry = PrometheusRegistry(limits: limits)
        // More than the system takes for a reader that does not read.
        for number in 0..<40_000 {
            Counter(
                label: "c", dimensions: [("n", "\(number) " + String(repeating: "x", count: 240))], factory: registry
            ).increment()
        }
        try await withServer(registry, { $0.connectionMilliseconds = 300 }) { server in
            let slow = try await Caller(server)
            try await slow.say("GET /metr")
            #expect(try await slow.end() == "")
            // A server that is held up cuts off later.
            var count = Int.max
            for milliseconds in [600, 3_000, 30_000] where count >= 10_000_000 {
                let deaf = try await Caller(server, reads: false)
                try await deaf.say(get)
                await OwnExecutor.pause(milliseconds: milliseconds)
                try await deaf.channel.setOption(.autoRead, value: true).get()
                _ = try? await deaf.channel.closeFuture.get()
                count = deaf.listener.text.withLock { $0.utf8.count }
            }
            #expect(count < 10_000_000, "all of it came")
        }
        try await withServer(registry, { $0.connectionMilliseconds = 600_000 }) { server in
            let whole = try await ask(server, get)
            #expect(whole.body.utf8.count > 10_000_000)
        }
    }

    @Test func figuresThatDoNotComeInTimeAreThoseFromBefore() async throws {
        let registry = PrometheusRegistry()
        let gauge = Gauge(label: "g", factory: registry)
        gauge.record(1)
        let calls = Atomic<Int>(0)
        try await withServer(registry, { $0.refreshMilliseconds = 100 }) { server in
            let (gate, opener) = AsyncStream.makeStream(of: Void.self)
            let refreshed = Mutex(0)
            server.refresh {
                calls.add(1, ordering: .relaxed)
                for await _ in gate { break }
                gauge.record(2)
                refreshed.withLock { $0 += 1 }
            }
            var answer = try await ask(server, get)
            #expect(answer.body.contains("g 1\n"))
            for _ in 0..<180_000 where calls.load(ordering: .relaxed) == 0 { await OwnExecutor.pause(milliseconds: 10) }
            // The first call is still under way: no second one begins.
            answer = try await ask(server, get)
            #expect(answer.body.contains("g 1\n"))
            #expect(calls.load(ordering: .relaxed) == 1)
            opener.finish()
            for _ in 0..<180_000 where refreshed.withLock({ $0 }) == 0 { await OwnExecutor.pause(milliseconds: 10) }
            answer = try await ask(server, get)
            #expect(answer.body.contains("g 2\n"))
        }
    }

    @Test func anAddressThatIsTakenIsAnError() async throws {
        try await withServer { server in
            await #expect(throws: (any Error).self) {
                _ = try await MetricsServer.start(host: "127.0.0.1", port: server.port, registry: PrometheusRegistry())
            }
        }
    }
}
