// Listens for those who ask for metrics, over HTTP/1.1. Owns its event loop and its listener; what one connection may do is
// MetricsConnection's.

import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// Answers `GET /metrics` with a registry's text, one request for each connection. Another path is answered with 404,
/// another method with 405. It has a thread of its own, and nothing waits for who reads slowly.
public final class MetricsServer: Sendable {
    /// What is beyond a bound is turned away, or cut off.
    public struct Limits: Sendable {
        /// Connections at a time; further ones are closed at once.
        public var connectionsMax = 32
        /// Bytes of a request that are looked at, with its headers: beyond them it is answered with 431.
        public var requestBytesMax = 16 << 10
        /// From the beginning of a connection until its answer is with the system: who asks or reads too slowly is cut off.
        public var connectionMilliseconds: Int64 = 10_000
        /// Until figures are taken anew for an answer: then it has those from before.
        public var refreshMilliseconds: Int64 = 2_000
        /// From the end of an answer until a client has closed its side.
        public var lingerMilliseconds: Int64 = 1_000
        public init() {}
    }

    /// Asked before each answer; takes the figures anew. Called on no particular thread, and not while the last call has
    /// not returned.
    public typealias Refresh = @Sendable () async -> Void

    private let channel: any Channel
    private let group: MultiThreadedEventLoopGroup
    private let pages: MetricsPages
    /// The port that it listens on: tells it when 0 was asked for.
    public let port: Int

    private init(channel: any Channel, group: MultiThreadedEventLoopGroup, pages: MetricsPages) {
        self.channel = channel
        self.group = group
        self.pages = pages
        port = channel.localAddress?.port ?? 0
    }

    /// Listens from now on; answers have what the registry has, until `refresh(by:)` is called.
    ///
    /// - Throws: what the system says if the address can't be listened on.
    public static func start(
        host: String, port: Int, registry: PrometheusRegistry, limits: Limits = Limits()
    ) async throws -> MetricsServer {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let pages = MetricsPages(registry: registry, limits: limits)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try pages.accept(channel) }
            }
        do {
            let channel = try await bootstrap.bind(host: host, port: port).get()
            return MetricsServer(channel: channel, group: group, pages: pages)
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
    }

    /// From now on figures are taken anew for each answer.
    public func refresh(by refresh: @escaping Refresh) { pages.refresh.withLock { $0 = refresh } }

    /// Closes the listener and all connections.
    public func stop() async {
        try? await channel.close().get()
        try? await group.shutdownGracefully()
    }

    /// Connections that were closed because there were too many.
    public var connectionsRefused: Int { pages.refused.load(ordering: .relaxed) }
}

/// What all connections of a server share.
final class MetricsPages: Sendable {
    let registry: PrometheusRegistry
    let limits: MetricsServer.Limits
    let refresh = Mutex<MetricsServer.Refresh?>(nil)
    let refused = Atomic<Int>(0)
    private let isRefreshing = Atomic<Bool>(false)
    private let open = Atomic<Int>(0)

    init(registry: PrometheusRegistry, limits: MetricsServer.Limits) {
        self.registry = registry
        self.limits = limits
    }

    /// On the channel's event loop, before it reads.
    func accept(_ channel: any Channel) throws {
        guard open.add(1, ordering: .relaxed).newValue <= limits.connectionsMax else {
            open.subtract(1, ordering: .relaxed)
            refused.add(1, ordering: .relaxed)
            throw ChannelError.ioOnClosedChannel
        }
        channel.closeFuture.whenComplete { [self] _ in open.subtract(1, ordering: .relaxed) }
        var decoderLimits = NIOHTTPDecoderLimitConfiguration()
        decoderLimits.maxHeaderListSize = limits.requestBytesMax
        let pipeline = channel.pipeline.syncOperations
        try pipeline.addHandler(RequestBound(bytesMax: limits.requestBytesMax))
        try pipeline.configureHTTPServerPipeline(
            withPipeliningAssistance: false, withErrorHandling: true, withEncoderConfiguration: .init(),
            withDecoderLimitConfiguration: decoderLimits)
        try pipeline.addHandler(MetricsConnection(pages: self))
    }

    /// The page, with figures taken anew if that is soon done and nobody else is doing it.
    func page(on eventLoop: any EventLoop) -> EventLoopFuture<String> {
        let refresh = refresh.withLock { $0 }
        let isTaken = isRefreshing.exchange(true, ordering: .acquiring)
        guard let refresh, !isTaken else {
            if !isTaken { isRefreshing.store(false, ordering: .releasing) }
            return eventLoop.makeSucceededFuture(registry.text())
        }
        let done = eventLoop.makePromise(of: String.self)
        let late = eventLoop.scheduleTask(in: .milliseconds(limits.refreshMilliseconds)) { [registry] in
            done.succeed(registry.text())
        }
        eventLoop.makeFutureWithTask { [self] in
            await refresh()
            isRefreshing.store(false, ordering: .releasing)
        }.whenComplete { [registry] _ in
            late.cancel()
            // Fails nothing if the time was over: a promise is kept once.
            done.succeed(registry.text())
        }
        return done.futureResult
    }
}
