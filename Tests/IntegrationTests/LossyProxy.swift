// A TCP proxy that loses answers. Owns its listening socket; knows nothing of what goes through it.

import NIOCore
import NIOPosix
import Synchronization

/// Listens on a port of loopback and passes all bytes on to another one. Of what comes back some pieces are lost, with
/// their connection: what was asked for arrived and was done, and who asked is not told.
final class LossyProxy: Sendable {
    private struct State {
        var lossesPerMillion = 0
        var pieces = 0
        var losses = 0
        var channels: [any Channel] = []
    }

    let port: Int
    private let state = Mutex(State())

    init(port: Int) { self.port = port }

    /// Of a million pieces that come back.
    var lossesPerMillion: Int {
        get { state.withLock { $0.lossesPerMillion } }
        set { state.withLock { $0.lossesPerMillion = newValue } }
    }
    var losses: Int { state.withLock { $0.losses } }

    func start(target: Int) async throws {
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { inbound in
                // Both sides on one event loop, so that order is kept.
                ClientBootstrap(group: inbound.eventLoop)
                    .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .channelInitializer { outbound in
                        outbound.eventLoop.makeCompletedFuture {
                            try outbound.pipeline.syncOperations.addHandler(
                                LossyProxyHandler(self, partner: inbound, isWayBack: true))
                        }
                    }
                    .connect(host: "127.0.0.1", port: target)
                    .flatMapThrowing { outbound in
                        try inbound.pipeline.syncOperations.addHandler(
                            LossyProxyHandler(self, partner: outbound, isWayBack: false))
                    }
            }
            .bind(host: "127.0.0.1", port: port).get()
        state.withLock { $0.channels.append(listener) }
    }

    func stop() async {
        let open = state.withLock { state in
            defer { state.channels = [] }
            return state.channels
        }
        for channel in open { try? await channel.close().get() }
    }

    fileprivate func losesNext() -> Bool {
        state.withLock { state in
            state.pieces += 1
            guard Int.random(in: 0..<1_000_000) < state.lossesPerMillion else { return false }
            state.losses += 1
            return true
        }
    }
}

/// One direction of a connection.
private final class LossyProxyHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let proxy: LossyProxy
    private let partner: any Channel
    private let isWayBack: Bool

    init(_ proxy: LossyProxy, partner: any Channel, isWayBack: Bool) {
        self.proxy = proxy
        self.partner = partner
        self.isWayBack = isWayBack
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isWayBack || !proxy.losesNext() else { return context.close(promise: nil) }
        partner.writeAndFlush(unwrapInboundIn(data), promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        partner.close(promise: nil)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
