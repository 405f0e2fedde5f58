import Dispatch
import Glibc
import NIOCore
import NIOPosix
import Primitives
import RPC
import Synchronization
import TestSupport
import Testing

let serverIdentity = PeerIdentity(
    cluster: ClusterID(high: 1, low: 2), host: HostID(1), incarnation: Incarnation(3), bootCounter: 4, featureLevel: 1,
    name: "one")
let clientHello = Hello(role: .client, identity: PeerIdentity(name: "test"))

/// Method 1 answers with the request, method 2 with 24 bytes at the end of the batch, method 3 keeps the call for the
/// test to answer, method 4 answers with as many bytes as the request's first four say, method 5 answers from another
/// thread.
final class EchoService: RPCService {
    struct State {
        var kept: [InboundCall] = []
        var cancelled: [UInt64] = []
        var oneways: [Bytes] = []
        var opened = 0
        var closed = 0
        var batches = 0
        var received = 0
        var receivedBytes = 0
    }
    let state = Mutex(State())
    // Belongs to the one event loop of the tests that use method 2.
    nonisolated(unsafe) var turn: [CallReply] = []

    func receive(_ call: InboundCall) {
        switch call.method {
        case 1: call.reply.respond(call.payload)
        case 2: turn.append(call.reply)
        case 3:
            state.withLock {
                $0.kept.append(call)
                $0.received += 1
                $0.receivedBytes += call.payload.count
            }
        case 4:
            var reader = ByteReader(call.payload)
            let count = (try? reader.read(UInt32.self)) ?? 0
            state.withLock { $0.received += 1 }
            call.reply.respond { writer in
                _ = writer.extend(by: Int(count))
            }
        case 5:
            DispatchQueue.global().async { call.reply.respond(call.payload) }
        case 6:
            call.reply.fail(.overloaded, "later")
        default: call.reply.fail(.unknownMethod, "method \(call.method)")
        }
    }

    func receive(oneway: InboundOneway) { state.withLock { $0.oneways.append(oneway.payload.compacted()) } }
    func cancelled(_ reply: CallReply) { state.withLock { $0.cancelled.append(reply.call) } }
    func connectionOpened(_ connection: InboundConnection) { state.withLock { $0.opened += 1 } }
    func connectionClosed(_ connection: InboundConnection) { state.withLock { $0.closed += 1 } }

    func readComplete(on eventLoop: any EventLoop) {
        for reply in turn {
            reply.respond { writer in
                writer.write(1 as UInt64)
                writer.write(2 as UInt64)
                writer.write(3 as UInt64)
            }
        }
        turn.removeAll(keepingCapacity: true)
        state.withLock { $0.batches += 1 }
    }
}

/// A server with an echo service under numbers 2 and 3, on a loop of its own, and a loop for clients.
struct Loopback {
    let serverGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let clientGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let echo = EchoService()
    let server: RPCServer

    init(limits: ServerLimits = ServerLimits(), port: Int = 0, policy: (any HandshakePolicy)? = nil) async throws {
        server = try await RPCServer.start(
            on: NetworkAddress(host: "127.0.0.1", port: port), group: serverGroup,
            services: [(2, echo), (3, echo)], policy: policy ?? FixedIdentityPolicy(identity: serverIdentity),
            limits: limits)
    }

    func client(
        hello: Hello = clientHello, delegate: (any RPCConnectionDelegate)? = nil, limits: ClientLimits = ClientLimits()
    ) -> RPCConnection {
        let connection = RPCConnection(
            to: server.address, hello: hello, eventLoop: clientGroup.next(), seed: 1, delegate: delegate, limits: limits
        )
        connection.connect()
        return connection
    }

    func stop() async throws {
        await server.stop(graceMilliseconds: 50)
        try await serverGroup.shutdownGracefully()
        try await clientGroup.shutdownGracefully()
    }

    static func run(
        limits: ServerLimits = ServerLimits(), policy: (any HandshakePolicy)? = nil,
        _ body: (Loopback) async throws -> Void
    ) async throws {
        let loopback = try await Loopback(limits: limits, policy: policy)
        do {
            try await body(loopback)
        } catch {
            try await loopback.stop()
            throw error
        }
        try await loopback.stop()
    }
}

func soon(_ milliseconds: UInt64 = 180_000) -> Instant { RPCClock.now() + milliseconds * 1_000_000 }

/// Looks again and again until `condition` holds; false after three minutes: other tests may have the processor for long.
func eventually(_ condition: () async throws -> Bool) async rethrows -> Bool {
    let end = soon(180_000)
    while try await !condition() {
        if RPCClock.now() > end { return false }
        await OwnExecutor.pause(milliseconds: 2)
    }
    return true
}

/// A port that is this test's although nobody listens there: bound, and free for whoever asks for it by its number. No
/// other test that runs meanwhile is given it, so what connects there is refused, or finds the host that is meant.
final class HeldPort {
    let number: Int
    private let descriptor: Int32

    init() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var reuse: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuse, socklen_t(MemoryLayout<Int32>.size))
        var place = sockaddr_in()
        place.sin_family = sa_family_t(AF_INET)
        place.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &place) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, length) == 0 && getsockname(descriptor, address, &length) == 0
            }
        }
        self.descriptor = descriptor
        number = Int(UInt16(bigEndian: place.sin_port))
        try #require(isBound, "no port: errno \(errno)")
    }

    deinit { close(descriptor) }
}

/// A socket without our protocol: sends what it is told, keeps what comes.
final class RawSocket: ChannelInboundHandler, @unchecked Sendable {
    // @unchecked: `state` is a mutex, `channel` is set before the socket is used.
    typealias InboundIn = ByteBuffer
    struct State {
        var bytes: [UInt8] = []
        var isClosed = false
    }
    let state = Mutex(State())
    var channel: (any Channel)!

    static func connect(_ address: NetworkAddress, _ group: any EventLoopGroup, autoRead: Bool = true) async throws
        -> RawSocket
    {
        let socket = RawSocket()
        socket.channel = try await ClientBootstrap(group: group)
            .channelOption(.autoRead, value: autoRead)
            .channelInitializer { $0.pipeline.addHandler(socket) }
            .connect(host: address.host, port: address.port).get()
        return socket
    }

    func send(_ bytes: [UInt8]) async throws { try await channel.writeAndFlush(ByteBuffer(bytes: bytes)).get() }
    func close() async throws { try? await channel.close().get() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let buffer = unwrapInboundIn(data)
        state.withLock { $0.bytes.append(contentsOf: buffer.readableBytesView) }
    }
    func channelInactive(context: ChannelHandlerContext) { state.withLock { $0.isClosed = true } }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    var isClosed: Bool { state.withLock { $0.isClosed } }
    var frames: [Frame] { FrameTests.assemble(state.withLock { $0.bytes }).0 }
}

/// That of a caller that goes on in `version`.
func helloFrame(version: UInt8) -> [UInt8] {
    let hello = Hello(role: .client, identity: PeerIdentity(name: "test"), versionMax: version)
    var writer = FrameWriter()
    _ = writer.append(FrameHeader(kind: .hello)) { hello.encode(into: &$0) }
    return writer.withUnsafeBytes { Array($0) }
}

extension RPCConnection {
    /// `request` as `#expect` takes it, which knows no typed throws.
    func ask(service: UInt16, method: UInt16, payload: Bytes, deadline: Instant? = nil) async throws -> Bytes {
        try await request(service: service, method: method, payload: payload, deadline: deadline)
    }
}
