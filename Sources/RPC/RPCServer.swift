// The listening side: accepts connections within bounds and gives each to its services. Owns the listener, the registry
// of
// connections, counters and the rate of its log lines.

public import Logging
public import NIOCore
import NIOPosix
package import Primitives
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What the server counted since its start.
public struct RPCServerCounters: Sendable {
    public var connectionsOpen = 0
    public var connectionsAccepted = 0
    public var requests = 0
    public var oneways = 0
    /// Counted at the end of each read; may lag by one batch per connection.
    public var answers = 0
    /// Legal noise: late cancellations, second answers, one-way frames for nobody.
    public var dropped = 0
    /// Connections closed by this side, by reason.
    public var faults: [ConnectionFault.Reason: Int] = [:]
}

public final class RPCServer: Sendable {
    private let core: ServerCore
    private let channel: any Channel

    /// Where it listens; tells the port when 0 was asked for.
    public let address: NetworkAddress

    private init(core: ServerCore, channel: any Channel) {
        self.core = core
        self.channel = channel
        let local = channel.localAddress
        address = NetworkAddress(host: local?.ipAddress ?? "", port: local?.port ?? 0)
    }

    /// Listens, and serves from then on. Accepted connections are spread over the group's event loops. Throws
    /// `cannotListen` with the reason when the address is taken or not this machine's. At most 64 service objects,
    /// numbers
    /// below 256.
    public static func start(
        on address: NetworkAddress, group: any EventLoopGroup, services: [(number: UInt16, service: any RPCService)],
        policy: any HandshakePolicy, limits: ServerLimits = ServerLimits(), logger: Logger? = nil
    ) async throws(RPCError) -> RPCServer {
        try await start(
            on: address, group: group, servicesOn: { _ in services }, policy: policy, limits: limits, logger: logger)
    }

    /// The same with services of each event loop's own: a connection is served by those of the loop that it lives on,
    /// which then need no lock. `servicesOn` is called once for each loop of the group, before this returns.
    public static func start(
        on address: NetworkAddress, group: any EventLoopGroup,
        servicesOn: (any EventLoop) -> [(number: UInt16, service: any RPCService)],
        policy: any HandshakePolicy, limits: ServerLimits = ServerLimits(), logger: Logger? = nil
    ) async throws(RPCError) -> RPCServer {
        let tables = group.makeIterator().map { ($0, ServiceTable(servicesOn($0))) }
        let core = ServerCore(tables: tables, policy: policy, limits: limits, logger: logger)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1_024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptPause(logger: logger))
                }
            }
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: 4)
            .childChannelOption(.recvAllocator, value: receiveAllocator)
            .childChannelOption(.writeBufferWaterMark, value: writeMarks)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try core.accept(channel) }
            }
        do {
            let channel = try await bootstrap.bind(host: address.host, port: address.port).get()
            return RPCServer(core: core, channel: channel)
        } catch {
            throw RPCError(.cannotListen, "cannot listen on \(address): \(text(of: error))")
        }
    }

    /// Throws what `start` would if the address can't be listened on now. Nothing stays open: whoever connects in the
    /// moment finds his connection closed.
    public static func check(_ address: NetworkAddress, group: any EventLoopGroup) async throws(RPCError) {
        do {
            let channel = try await ServerBootstrap(group: group)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelInitializer { $0.eventLoop.makeFailedFuture(ChannelError.ioOnClosedChannel) }
                .bind(host: address.host, port: address.port).get()
            try await channel.close().get()
        } catch {
            throw RPCError(.cannotListen, "cannot listen on \(address): \(text(of: error))")
        }
    }

    public var counters: RPCServerCounters { core.snapshot() }

    /// Accepts no more, tells clients to send no new calls, waits until they have closed their connections, which they
    /// do when all is answered, or `graceMilliseconds` have passed, and closes what is left. (Closing first would cut
    /// off calls that were sent before they could know.) Connections of other hosts go on until the end: what clients
    /// wait for takes a majority.
    public func stop(graceMilliseconds: Int64 = 1_000) async {
        try? await channel.close().get()
        let end = NIODeadline.now() + .milliseconds(graceMilliseconds)
        while true {
            var isDrained = true
            for connection in core.connections() {
                let isDone = (try? await connection.eventLoop.submit { connection.drain() }.get()) ?? true
                isDrained = isDrained && isDone
            }
            if isDrained || NIODeadline.now() >= end { break }
            await pause(milliseconds: 10)
        }
        // Again and again: one may have been accepted just before the listener closed.
        while !core.connections().isEmpty, NIODeadline.now() < end + .seconds(5) {
            for connection in core.connections() { connection.close() }
            await pause(milliseconds: 2)
        }
    }

    /// Also in a task that was cancelled, which `Task.sleep` would not keep.
    private func pause(milliseconds: Int64) async {
        try? await channel.eventLoop.scheduleTask(in: .milliseconds(milliseconds)) {}.futureResult.get()
    }
}

/// Reads grow up to 256 KiB: at full load one read brings a thousand requests.
var receiveAllocator: AdaptiveRecvByteBufferAllocator {
    AdaptiveRecvByteBufferAllocator(minimum: 2_048, initial: 16_384, maximum: 256 << 10)
}

/// Above 1 MiB in the socket's queue no more is given to it: the rest waits with us, where it can still be counted,
/// and is known not to have been sent.
var writeMarks: ChannelOptions.Types.WriteBufferWaterMark {
    ChannelOptions.Types.WriteBufferWaterMark(low: 256 << 10, high: 1 << 20)
}

/// The system's words for an error of the network.
func text(of error: any Error) -> String {
    if let error = error as? IOError { return String(cString: strerror(error.errnoCode)) }
    if let error = error as? NIOConnectionError, let first = error.connectionErrors.first {
        return text(of: first.error)
    }
    return "\(error)"
}

/// Nobody listens there.
func isRefusal(_ error: any Error) -> Bool {
    if let error = error as? IOError { return error.errnoCode == ECONNREFUSED }
    if let error = error as? NIOConnectionError {
        return error.connectionErrors.contains { isRefusal($0.error) }
    }
    return false
}

/// The services of one event loop's connections, by number.
final class ServiceTable: Sendable {
    struct Entry: Sendable {
        let service: any RPCService
        /// Index into `objects`.
        let object: Int
    }

    let numbers: [UInt16]
    let objects: [any RPCService]
    private let entries: [Entry?]

    init(_ services: [(number: UInt16, service: any RPCService)]) {
        var objects: [any RPCService] = []
        var entries = [Entry?](repeating: nil, count: ServerSession.servicesMax)
        for (number, service) in services {
            precondition(Int(number) < ServerSession.servicesMax, "service numbers are below 256")
            precondition(entries[Int(number)] == nil, "two services with number \(number)")
            let object = objects.firstIndex { $0 === service } ?? objects.count
            if object == objects.count { objects.append(service) }
            entries[Int(number)] = Entry(service: service, object: object)
        }
        precondition(objects.count <= 64, "at most 64 services")
        self.objects = objects
        self.entries = entries
        numbers = services.map(\.number)
    }

    /// The session delivers only to services that are there.
    @inline(__always)
    func entry(of service: UInt16) -> Entry { entries[Int(service)]! }
}

/// What all connections of a server share.
final class ServerCore: Sendable {
    final class Counters: Sendable {
        let accepted = Atomic(0)
        let requests = Atomic(0)
        let oneways = Atomic(0)
        let answers = Atomic(0)
        let dropped = Atomic(0)
    }

    /// Who is connected. Looked at when a connection comes or goes.
    private struct Registry {
        var connections: [UInt64: InboundConnection] = [:]
        var perAddress: [String: Int] = [:]
        var nextID: UInt64 = 1
        var faults = [Int](repeating: 0, count: ConnectionFault.Reason.allCases.count)
        var limiter = LogLimiter()
        var refusals = RepetitionLimiter()
    }

    let limits: ServerLimits
    let policy: any HandshakePolicy
    private let tables: [(eventLoop: any EventLoop, services: ServiceTable)]
    let seed: UInt64
    let counters = Counters()
    private let logger: Logger?
    private let registry = Mutex(Registry())

    init(
        tables: [(any EventLoop, ServiceTable)], policy: any HandshakePolicy, limits: ServerLimits, logger: Logger?
    ) {
        self.tables = tables
        self.limits = limits
        self.policy = policy
        self.logger = logger
        var random = SystemRandomNumberGenerator()
        seed = random.next()
    }

    /// Looked for when a connection comes, among at most some dozens.
    private func services(on eventLoop: any EventLoop) -> ServiceTable {
        guard let table = tables.first(where: { $0.eventLoop === eventLoop }) else {
            preconditionFailure("a connection on an event loop that is none of the server's group")
        }
        return table.services
    }

    /// On the channel's event loop, before it reads.
    func accept(_ channel: any Channel) throws {
        let address = channel.remoteAddress?.ipAddress ?? "unknown"
        let eventLoop = channel.eventLoop
        let services = services(on: eventLoop)
        let connection = registry.withLock { registry -> InboundConnection? in
            guard registry.connections.count < limits.connectionsMax,
                registry.perAddress[address, default: 0] < limits.connectionsPerAddressMax
            else { return nil }
            let id = registry.nextID
            registry.nextID += 1
            registry.perAddress[address, default: 0] += 1
            let connection = InboundConnection(
                id: id, eventLoop: eventLoop, services: services, remoteAddress: address, server: self)
            registry.connections[id] = connection
            return connection
        }
        guard let connection else {
            report(ConnectionFault(.tooManyConnections, "the bound on connections is reached"), address: address)
            return refuse(channel)
        }
        counters.accepted.add(1, ordering: .relaxed)
        do {
            try channel.pipeline.syncOperations.addHandler(connection.makeWire())
        } catch {
            closed(connection)
            throw error
        }
    }

    /// Says why, without waiting for the hello, and closes.
    private func refuse(_ channel: any Channel) {
        var frame = FrameWriter()
        let error = RPCError(.tooManyConnections, "this host has as many connections as it accepts: try later")
        _ = frame.append(FrameHeader(kind: .helloReply)) { HelloReply.refused(error).encode(into: &$0) }
        let buffer = frame.withUnsafeBytes { ByteBuffer(bytes: $0) }
        // Once the channel is active: in its initializer nothing can be written yet.
        channel.eventLoop.execute {
            channel.writeAndFlush(buffer).whenComplete { _ in channel.close(promise: nil) }
        }
    }

    func closed(_ connection: InboundConnection) {
        registry.withLock { registry in
            registry.connections[connection.id] = nil
            let left = registry.perAddress[connection.remoteAddress, default: 1] - 1
            registry.perAddress[connection.remoteAddress] = left == 0 ? nil : left
        }
    }

    func connections() -> [InboundConnection] {
        registry.withLock { $0.connections.values.sorted { $0.id < $1.id } }
    }

    /// Counts why a connection is closed, and logs it unless many were logged just now.
    func report(_ fault: ConnectionFault, from connection: InboundConnection) {
        report(fault, address: connection.remoteAddress)
    }

    private func report(_ fault: ConnectionFault, address: String) {
        let suppressed = registry.withLock { registry -> Int? in
            registry.faults[fault.reason.rawValue] += 1
            let now = RPCClock.now()
            guard fault.reason == .refused else { return registry.limiter.admit(now: now) }
            // A peer that is refused comes again and again.
            guard let repeated = registry.refusals.admit("\(address) \(fault.text)", now: now) else { return nil }
            return registry.limiter.admit(now: now).map { $0 + repeated }
        }
        guard let suppressed else { return }
        logger?.warning(
            "connection closed",
            metadata: [
                "address": "\(address)", "reason": "\(fault.reason)", "detail": "\(fault.text)",
                "suppressed": "\(suppressed)",
            ])
    }

    func snapshot() -> RPCServerCounters {
        var result = RPCServerCounters()
        registry.withLock { registry in
            result.connectionsOpen = registry.connections.count
            for reason in ConnectionFault.Reason.allCases where registry.faults[reason.rawValue] > 0 {
                result.faults[reason] = registry.faults[reason.rawValue]
            }
        }
        result.connectionsAccepted = counters.accepted.load(ordering: .relaxed)
        result.requests = counters.requests.load(ordering: .relaxed)
        result.oneways = counters.oneways.load(ordering: .relaxed)
        result.answers = counters.answers.load(ordering: .relaxed)
        result.dropped = counters.dropped.load(ordering: .relaxed)
        return result
    }
}

/// Of lines that say the same, the first and then one a minute.
package struct RepetitionLimiter: Sendable {
    package static let windowNanoseconds: UInt64 = 60_000_000_000
    /// Different lines that are remembered; with one more all are forgotten, and said anew.
    package static let linesMax = 256
    private var lines: [String: (said: Instant, suppressed: Int)] = [:]

    package init() {}

    /// How many equal lines were suppressed before this one, or nil: suppress it.
    package mutating func admit(_ line: String, now: Instant) -> Int? {
        if let known = lines[line], now.since(known.said) < Self.windowNanoseconds {
            lines[line]?.suppressed += 1
            return nil
        }
        let suppressed = lines[line]?.suppressed ?? 0
        if lines.count >= Self.linesMax, lines[line] == nil { lines = [:] }
        lines[line] = (now, 0)
        return suppressed
    }
}

/// At most ten lines in ten seconds: a port scan must not fill the disk.
package struct LogLimiter: Sendable {
    package static let linesMax = 10
    package static let windowNanoseconds: UInt64 = 10_000_000_000
    private var windowStart = Instant.zero
    private var lines = 0
    private var suppressed = 0

    package init() {}

    /// How many lines were suppressed before this one, or nil: suppress it.
    package mutating func admit(now: Instant) -> Int? {
        if now.since(windowStart) >= Self.windowNanoseconds || windowStart == .zero {
            windowStart = now
            lines = 0
        }
        guard lines < Self.linesMax else {
            suppressed += 1
            return nil
        }
        lines += 1
        defer { suppressed = 0 }
        return suppressed
    }
}
