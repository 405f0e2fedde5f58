// A TCP proxy that misbehaves on purpose. Owns its listening socket; knows nothing of what goes through it.

import NIOCore
import NIOPosix
import Synchronization

/// Listens on a port of loopback and passes all bytes on to another port, in order, late, changed or not at all.
final class ChaosProxy: Sendable {
    /// What happens to each piece that is read from a socket.
    struct Faults: Sendable {
        /// Each piece waits up to so long. Order is kept.
        var delayMillisecondsMax = 0
        /// In a million.
        var cut = 0
        /// In a million. One bit of the piece changes.
        var corrupt = 0
    }

    struct Counts: Sendable {
        var connections = 0
        var pieces = 0
        var cut = 0
        var corrupted = 0
    }

    private struct State {
        var faults = Faults()
        var counts = Counts()
    }

    let port: Int
    private let state = Mutex(State())
    private let channels = Mutex<[any Channel]>([])

    init(port: Int) { self.port = port }

    var faults: Faults {
        get { state.withLock { $0.faults } }
        set { state.withLock { $0.faults = newValue } }
    }
    var counts: Counts { state.withLock { $0.counts } }

    func start(target: Int) async throws {
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { inbound in
                // Both sides on one event loop, so that what happens to one is seen by the other in order.
                ClientBootstrap(group: inbound.eventLoop)
                    .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .channelInitializer { outbound in
                        outbound.eventLoop.makeCompletedFuture {
                            try outbound.pipeline.syncOperations.addHandler(
                                ChaosProxyHandler(self, partner: inbound))
                        }
                    }
                    .connect(host: "127.0.0.1", port: target)
                    .flatMapThrowing { outbound in
                        self.state.withLock { $0.counts.connections += 1 }
                        try inbound.pipeline.syncOperations.addHandler(ChaosProxyHandler(self, partner: outbound))
                    }
            }
            .bind(host: "127.0.0.1", port: port).get()
        channels.withLock { $0.append(listener) }
    }

    func stop() async {
        let open = channels.withLock { channels in
            defer { channels = [] }
            return channels
        }
        for channel in open { try? await channel.close().get() }
    }

    /// What becomes of one piece: nil: the connection is cut.
    fileprivate func pass(_ piece: ByteBuffer) -> (piece: ByteBuffer, delay: TimeAmount)? {
        state.withLock { state in
            state.counts.pieces += 1
            if Int.random(in: 0..<1_000_000) < state.faults.cut {
                state.counts.cut += 1
                return nil
            }
            var piece = piece
            if Int.random(in: 0..<1_000_000) < state.faults.corrupt, piece.readableBytes > 0 {
                state.counts.corrupted += 1
                let place = piece.readerIndex + Int.random(in: 0..<piece.readableBytes)
                let byte = piece.getInteger(at: place, as: UInt8.self) ?? 0
                piece.setInteger(byte ^ 1 << UInt8.random(in: 0..<8), at: place)
            }
            let delay = state.faults.delayMillisecondsMax
            return (piece, .milliseconds(delay > 0 ? Int64.random(in: 0...Int64(delay)) : 0))
        }
    }
}

/// One direction of a connection.
private final class ChaosProxyHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let proxy: ChaosProxy
    private let partner: any Channel
    /// When the last piece goes on: none overtakes it.
    private var reached = NIODeadline.uptimeNanoseconds(0)

    init(_ proxy: ChaosProxy, partner: any Channel) {
        self.proxy = proxy
        self.partner = partner
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let (piece, delay) = proxy.pass(unwrapInboundIn(data)) else {
            context.close(promise: nil)
            return
        }
        let now = NIODeadline.now()
        let partner = partner
        guard delay > .zero || reached > now else {
            partner.writeAndFlush(piece, promise: nil)
            return
        }
        reached = max(reached, now + delay)
        context.eventLoop.scheduleTask(deadline: reached) { partner.writeAndFlush(piece, promise: nil) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        partner.close(promise: nil)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
