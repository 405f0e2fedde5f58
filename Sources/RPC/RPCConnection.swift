// The calling side: one connection to one address that comes back by itself. Owns the session of the present socket,
// the back-off between sockets, and the completions of calls in flight. Refuses to retry calls: whether a call may be
// sent again is the caller's knowledge.

public import Logging
public import NIOCore
import NIOPosix
public import Primitives

public final class RPCConnection: @unchecked Sendable {
    // @unchecked: `eventLoop`, `address`, `limits`, `logger` never change. All else belongs to the event loop: the
    // functions
    // that touch it check that they run there, or go there first (`connect`, `close`, the async ones).

    public let eventLoop: any EventLoop
    public let address: NetworkAddress
    public let limits: ClientLimits
    private let logger: Logger?
    private var delegate: (any RPCConnectionDelegate)?
    /// The host at the address, while it is in this process: the connection is a line to it then, and no socket.
    private let local: LocalServer?

    /// What this side says of itself at the next connect. On the event loop only.
    public var hello: Hello {
        get {
            eventLoop.preconditionInEventLoop()
            return nextHello
        }
        set {
            eventLoop.preconditionInEventLoop()
            nextHello = newValue
        }
    }

    private enum Pending {
        case tagged(UInt64)
        case closure((Result<Bytes, RPCError>) -> Void)
    }

    private enum State {
        case idle, connecting, linked, waiting, closed
    }

    /// An async call that waits for the connection to come up.
    private struct Waiting {
        var deadline: Instant
        /// Waits for later attempts when one fails.
        var isPatient: Bool
        /// Called with nil when it is up, or with why it is not.
        var proceed: (RPCError?) -> Void
    }

    private var nextHello: Hello
    private var state = State.idle
    private var session: ClientSession<Pending>
    /// One of these two while there is a connection.
    private var wire: Wire<RPCConnection>?
    private var line: LocalLine?
    /// Of the present connection, or of the last one.
    private var lastWelcome: Welcome?
    private var isUp = false
    private var upSince = Instant.zero
    private var backoff: Backoff
    private var random: SeededRandom
    private var reconnectTask: Scheduled<Void>?
    private var handshakeTask: Scheduled<Void>?
    private var pinger: RepeatedTask?
    private var deadlineTask: Scheduled<Void>?
    private var deadlineTaskAt = Instant.zero
    private var pings = PingMonitor()
    /// Why the present socket is being closed, or the last one was.
    private var reason: RPCError?
    private var waiting: [UInt64: Waiting] = [:]
    private var nextWaiting: UInt64 = 1
    private var refusedForRoom = false

    /// A connection that grew this old before it ended is tried again at once, else the back-off goes on.
    private static var steadyNanoseconds: UInt64 { 1_000_000_000 }

    /// Does nothing before `connect`. `seed` decides the jitter.
    ///
    /// - Parameter local: of the host at the address, if it is in this process: as long as it takes calls, they take the
    ///   short way to it.
    public init(
        to address: NetworkAddress, through local: LocalServer? = nil, hello: Hello, eventLoop: any EventLoop,
        seed: UInt64,
        delegate: (any RPCConnectionDelegate)? = nil, limits: ClientLimits = ClientLimits(),
        backoff: Backoff = Backoff(), logger: Logger? = nil
    ) {
        self.address = address
        self.eventLoop = eventLoop
        self.limits = limits
        self.logger = logger
        self.delegate = delegate
        self.local = local
        self.backoff = backoff
        nextHello = hello
        random = SeededRandom(seed: seed)
        session = ClientSession(hello: hello, limits: limits, seed: 0)
    }

    // MARK: Life

    /// Connects, and again whenever the connection ends, until `close`. From any thread.
    public func connect() {
        guard eventLoop.inEventLoop else { return eventLoop.execute { self.connect() } }
        if state == .idle { attempt() }
    }

    /// Ends the connection for good; calls in flight complete with `closed`. From any thread.
    public func close() {
        guard eventLoop.inEventLoop else { return eventLoop.execute { self.close() } }
        guard state != .closed else { return }
        let wasLinked = state == .linked
        reason = RPCError(.closed, "the connection was closed by this side")
        state = .closed
        reconnectTask?.cancel()
        if wasLinked, let wire {
            wire.close()  // goes on in `wireEnded`
        } else if wasLinked, let line {
            line.close()  // goes on in `lineEnded`
        } else {
            finish()
        }
    }

    /// True between the handshake and the end of the connection. On the event loop only.
    public var isConnected: Bool {
        eventLoop.preconditionInEventLoop()
        return isUp
    }

    /// What the host said of itself in the last handshake that went well. On the event loop only.
    public var welcome: Welcome? {
        eventLoop.preconditionInEventLoop()
        return lastWelcome
    }

    public var callsInFlight: Int {
        eventLoop.preconditionInEventLoop()
        return session.callsInFlight
    }

    /// Bytes that the socket has not taken. On the event loop only.
    public var unsentBytes: Int {
        eventLoop.preconditionInEventLoop()
        return wire?.outbound.count ?? line?.unsentBytes ?? 0
    }

    // MARK: Calls, on the event loop

    /// Sends a request; the answer comes to the delegate with `tag`. Throws when nothing was sent: not connected, too
    /// many in
    /// flight or waiting, too large. Goes out at the end of the present batch of reads or turn of the loop, or with
    /// `flush`.
    @discardableResult
    public func call(
        service: UInt16, method: UInt16, payload: Bytes, deadline: Instant? = nil, tag: UInt64
    ) throws(RPCError) -> UInt64 {
        try start(service, method, payload, deadline, .tagged(tag))
    }

    /// The same; `body` appends the payload straight in the connection's outbound buffer, and uses nothing else of this
    /// connection.
    @discardableResult
    public func call(
        service: UInt16, method: UInt16, deadline: Instant? = nil, tag: UInt64, writing body: (inout ByteWriter) -> Void
    ) throws(RPCError) -> UInt64 {
        if let line {
            // Before anything is written: what would be refused costs nothing.
            try refuseWithoutRoom(on: line)
            var writer = ByteWriter()
            body(&writer)
            return try send(service, method, writer.take(), deadline, .tagged(tag), on: line)
        }
        let wire = try wireWithRoom()
        let call = try session.begin(.tagged(tag), deadline: deadline, frameStart: wire.position)
        let header = FrameHeader(
            kind: .request, service: service, method: method, call: call,
            deadlineMilliseconds: milliseconds(to: deadline))
        guard wire.outbound.append(header, writing: body) else {
            _ = session.forget(call)
            throw RPCError(.tooLarge, "a request of more than \(FrameHeader.payloadBytesMax) bytes")
        }
        wire.written()
        return call
    }

    /// The same with a closure, which is called once unless this throws.
    @discardableResult
    public func call(
        service: UInt16, method: UInt16, payload: Bytes, deadline: Instant? = nil,
        completion: @escaping (Result<Bytes, RPCError>) -> Void
    ) throws(RPCError) -> UInt64 {
        try start(service, method, payload, deadline, .closure(completion))
    }

    /// Takes a call back: it completes with `cancelled` before this returns, and the host is told. Does nothing when it
    /// was
    /// completed.
    public func cancel(_ call: UInt64) {
        eventLoop.preconditionInEventLoop()
        guard let pending = session.forget(call) else { return }
        sendCancel(call)
        complete(pending, .failure(RPCError(.cancelled, "the call was cancelled", mayHaveBeenSent: true)))
        closeIfDrained()
    }

    /// Sends a frame that has no answer, in one write together with all that waits. False, and nothing sent: not
    /// connected,
    /// or more than the bound is unsent; or the payload is over the frame's limit; the caller drops it.
    public func sendOneway(service: UInt16, method: UInt16, writing body: (inout ByteWriter) -> Void) -> Bool {
        eventLoop.preconditionInEventLoop()
        guard isUp, let wire else { return false }
        guard wire.outbound.count <= limits.outboundBytesMax else {
            refusedForRoom = true
            return false
        }
        let fits = wire.outbound.append(FrameHeader(kind: .oneway, service: service, method: method), writing: body)
        wire.flush()
        return fits
    }

    /// Hands what was written to the socket now.
    public func flush() {
        eventLoop.preconditionInEventLoop()
        wire?.flush()
        line?.flush()
    }

    // MARK: Calls, from anywhere

    /// Waits for the connection if need be, calls, and waits for the answer. Cancelling the task takes the call back.
    /// Without a deadline it waits ten seconds for a connection, and for the answer as long as the connection lasts.
    /// - Parameter isPatient: false: if there is no connection, the next attempt to make one decides. It is made at once.
    public func request(
        service: UInt16, method: UInt16, payload: Bytes, deadline: Instant? = nil, isPatient: Bool = true
    ) async throws(RPCError) -> Bytes {
        let ticket = Ticket()
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let start: @Sendable () -> Void = {
                    self.begin(ticket, service, method, payload, deadline, isPatient) {
                        continuation.resume(returning: $0)
                    }
                }
                if self.eventLoop.inEventLoop { start() } else { self.eventLoop.execute(start) }
            }
        } onCancel: {
            self.eventLoop.execute { self.cancel(ticket) }
        }
        return try result.get()
    }

    /// Waits until the handshake is done. Throws why it was not by then.
    public func waitUntilUp(deadline: Instant) async throws(RPCError) {
        let failure = await withCheckedContinuation { (continuation: CheckedContinuation<RPCError?, Never>) in
            self.eventLoop.execute {
                if self.isUp { return continuation.resume(returning: nil) }
                _ = self.wait(until: deadline, isPatient: true) { continuation.resume(returning: $0) }
            }
        }
        if let failure { throw failure }
    }

    /// Where an async call stands. Belongs to the event loop.
    private final class Ticket: @unchecked Sendable {
        enum Stage {
            case new, waiting(UInt64), sent(UInt64), done
        }
        var stage = Stage.new
    }

    private func begin(
        _ ticket: Ticket, _ service: UInt16, _ method: UInt16, _ payload: Bytes, _ deadline: Instant?,
        _ isPatient: Bool, _ completion: @escaping (Result<Bytes, RPCError>) -> Void
    ) {
        if case .done = ticket.stage {
            return completion(.failure(RPCError(.cancelled, "the call was cancelled before it was sent")))
        }
        guard isUp else {
            let end = deadline ?? RPCClock.now() + 10_000_000_000
            let number = wait(until: end, isPatient: isPatient) { [self] failure in
                if let failure {
                    ticket.stage = .done
                    completion(.failure(failure))
                } else {
                    ticket.stage = .new
                    begin(ticket, service, method, payload, deadline, isPatient, completion)
                }
            }
            if let number { ticket.stage = .waiting(number) }
            return
        }
        do throws(RPCError) {
            let call = try start(
                service, method, payload, deadline,
                .closure { result in
                    ticket.stage = .done
                    completion(result)
                })
            ticket.stage = .sent(call)
        } catch {
            ticket.stage = .done
            completion(.failure(error))
        }
    }

    private func cancel(_ ticket: Ticket) {
        switch ticket.stage {
        case .new: ticket.stage = .done
        case .waiting(let number):
            waiting.removeValue(forKey: number)?.proceed(
                RPCError(.cancelled, "the call was cancelled before it was sent"))
        case .sent(let call): cancel(call)
        case .done: break
        }
    }

    /// Nil: `proceed` was called already.
    private func wait(
        until deadline: Instant, isPatient: Bool, proceed: @escaping (RPCError?) -> Void
    ) -> UInt64? {
        if state == .closed {
            proceed(RPCError(.closed, "the connection was closed by this side"))
            return nil
        }
        guard waiting.count < limits.waitingMax else {
            proceed(RPCError(.overloaded, "\(limits.waitingMax) calls wait for the connection to \(address)"))
            return nil
        }
        let number = nextWaiting
        nextWaiting += 1
        waiting[number] = Waiting(deadline: deadline, isPatient: isPatient, proceed: proceed)
        scheduleDeadline(deadline)
        // What the last attempt found may be old by now.
        if !isPatient, state == .waiting {
            reconnectTask?.cancel()
            attempt()
        }
        return number
    }

    // MARK: Inside

    private func start(
        _ service: UInt16, _ method: UInt16, _ payload: Bytes, _ deadline: Instant?, _ pending: consuming Pending
    ) throws(RPCError) -> UInt64 {
        guard payload.count <= FrameHeader.payloadBytesMax else {
            throw RPCError(.tooLarge, "a request of \(payload.count) bytes, at most \(FrameHeader.payloadBytesMax) fit")
        }
        if let line { return try send(service, method, payload, deadline, pending, on: line) }
        let wire = try wireWithRoom()
        let call = try session.begin(pending, deadline: deadline, frameStart: wire.position)
        let header = FrameHeader(
            kind: .request, service: service, method: method, call: call,
            deadlineMilliseconds: milliseconds(to: deadline))
        wire.outbound.append(header, payload: payload)
        wire.written()
        return call
    }

    private func send(
        _ service: UInt16, _ method: UInt16, _ payload: Bytes, _ deadline: Instant?, _ pending: consuming Pending,
        on line: LocalLine
    ) throws(RPCError) -> UInt64 {
        guard payload.count <= FrameHeader.payloadBytesMax else {
            throw RPCError(.tooLarge, "a request of \(payload.count) bytes, at most \(FrameHeader.payloadBytesMax) fit")
        }
        try refuseWithoutRoom(on: line)
        let call = try session.begin(pending, deadline: deadline, frameStart: line.position)
        if let deadline { scheduleDeadline(deadline) }
        line.send(service, method, call, deadline, payload)
        return call
    }

    private func refuseWithoutRoom(on line: LocalLine) throws(RPCError) {
        eventLoop.preconditionInEventLoop()
        guard isUp else { throw notConnected }
        guard line.hasRoom else {
            throw RPCError(.overloaded, "\(line.unsentBytes) bytes wait to be taken by \(address)")
        }
    }

    private var notConnected: RPCError {
        RPCError(.notConnected, "not connected to \(address)\(reason.map { ": \($0.message)" } ?? "")")
    }

    @inline(__always)
    private func wireWithRoom() throws(RPCError) -> Wire<RPCConnection> {
        eventLoop.preconditionInEventLoop()
        guard isUp, let wire else { throw notConnected }
        guard wire.outbound.count <= limits.outboundBytesMax else {
            refusedForRoom = true
            throw RPCError(.overloaded, "\(wire.outbound.count) bytes wait to be sent to \(address)")
        }
        return wire
    }

    /// What a deadline is on the wire, and its alarm is set. At least 1 ms: 0 would mean none.
    @inline(__always)
    private func milliseconds(to deadline: Instant?) -> UInt32 {
        guard let deadline else { return 0 }
        scheduleDeadline(deadline)
        let milliseconds = deadline.since(RPCClock.now()) / 1_000_000
        return UInt32(min(max(milliseconds, 1), UInt64(UInt32.max)))
    }

    private func complete(_ pending: Pending, _ result: Result<Bytes, RPCError>) {
        switch pending {
        case .tagged(let tag): delegate?.completed(self, tag: tag, result)
        case .closure(let completion): completion(result)
        }
    }

    private func sendCancel(_ call: UInt64) {
        guard let wire else { return }
        wire.outbound.append(FrameHeader(kind: .cancel, call: call))
        wire.written()
    }

    private func closeIfDrained() {
        guard session.phase == .draining, session.callsInFlight == 0 else { return }
        wire?.close()
        line?.close()
    }

    /// One task per connection, at the earliest deadline known or up to a step later.
    @inline(__always)
    private func scheduleDeadline(_ deadline: Instant) {
        if deadlineTask == nil || deadline < deadlineTaskAt { setDeadlineTask(deadline) }
    }

    private func setDeadlineTask(_ deadline: Instant) {
        let step = UInt64(limits.deadlineStepMilliseconds) * 1_000_000
        let now = RPCClock.now()
        let at = max(deadline, now) + step
        // An alarm that is early enough stays.
        if deadlineTask != nil, deadlineTaskAt <= at { return }
        deadlineTask?.cancel()
        deadlineTaskAt = at
        let delay = TimeAmount.nanoseconds(Int64(clamping: at.since(now)))
        deadlineTask = eventLoop.scheduleTask(in: delay) { self.deadlinesPassed() }
    }

    private func deadlinesPassed() {
        deadlineTask = nil
        let now = RPCClock.now()
        let handedOver = wire?.handedOver ?? line?.handedOver ?? 0
        for late in session.expire(now: now) {
            sendCancel(late.call)
            let mayHaveBeenSent = late.frameStart < handedOver
            complete(
                late.pending,
                .failure(
                    RPCError(
                        .deadlineExceeded, "no answer from \(address) within the deadline",
                        mayHaveBeenSent: mayHaveBeenSent)))
        }
        let lateWaiting = waiting.filter { $0.value.deadline <= now }.keys.sorted()
        for number in lateWaiting {
            let why = reason.map { ": \($0.message)" } ?? ""
            waiting.removeValue(forKey: number)?
                .proceed(RPCError(.deadlineExceeded, "no connection to \(address) within the deadline\(why)"))
        }
        closeIfDrained()
        if let next = session.nextDeadline { scheduleDeadline(next) }
        if let next = waiting.values.map(\.deadline).min() { scheduleDeadline(next) }
    }

    // MARK: Sockets

    private func attempt() {
        state = .connecting
        reconnectTask = nil
        if let local, local.isOpen { return attempt(local) }
        guard address.port != 0 else {
            return attemptFailed(
                as: RPCError(.connectRefused, "\(address) has no port: its host takes calls of its own process only"))
        }
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(.milliseconds(limits.connectMilliseconds))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.maxMessagesPerRead, value: 4)
            .channelOption(.recvAllocator, value: receiveAllocator)
            .channelOption(.writeBufferWaterMark, value: writeMarks)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        // A host may go on behind its reply at once, in the same read: of any length, and in the
                        // version that the reply says. The session bounds the reply itself.
                        Wire(
                            owner: self, payloadBytesMax: FrameHeader.payloadBytesMax, versions: FrameHeader.versions))
                }
            }
        // An address needs no resolver, and no thread for it.
        let future =
            if let ip = try? SocketAddress(ipAddress: address.host, port: address.port) {
                bootstrap.connect(to: ip)
            } else {
                bootstrap.connect(host: address.host, port: address.port)
            }
        future.whenComplete { result in
            switch result {
            case .success(let channel): self.linked(channel)
            case .failure(let error): self.attemptFailed(error)
            }
        }
    }

    private func linked(_ channel: any Channel) {
        // Already gone again, or closed meanwhile.
        guard state == .connecting, channel.isActive,
            let wire = try? channel.pipeline.syncOperations.handler(type: Wire<RPCConnection>.self)
        else {
            channel.close(promise: nil)
            if state == .connecting { attemptFailed(RPCError(.connectFailed, "the connection ended at once")) }
            return
        }
        state = .linked
        self.wire = wire
        reason = nil
        session = ClientSession(hello: nextHello, limits: limits, seed: random.next())
        _ = wire.outbound.append(FrameHeader(kind: .hello)) { nextHello.encode(into: &$0) }
        wire.flush()
        handshakeTask = eventLoop.scheduleTask(in: .milliseconds(limits.handshakeMilliseconds)) { [self] in
            end(
                RPCError(
                    .handshakeTimeout, "\(address) did not answer the handshake in \(limits.handshakeMilliseconds) ms"))
        }
    }

    private func attemptFailed(_ error: any Error) {
        attemptFailed(
            as: RPCError(
                isRefusal(error) ? .connectRefused : .connectFailed, "cannot connect to \(address): \(text(of: error))")
        )
    }

    private func attemptFailed(as failure: RPCError) {
        guard state == .connecting else { return }
        reason = failure
        reconnectLater()
        delegate?.connectionDown(self, reason: failure)
        endImpatientWaits(failure)
    }

    /// The handshake with a host in this process. Later, as its result comes from a socket, too.
    private func attempt(_ local: LocalServer) {
        eventLoop.execute { [self] in
            guard state == .connecting else { return }
            let line = LocalLine(caller: self, server: local, limits: limits, seed: random.next())
            session = ClientSession(hello: nextHello, limits: limits, seed: random.next())
            switch local.open(line, nextHello) {
            case .refused(let error):
                backoff.lengthen()
                attemptFailed(as: located(error))
            case .accepted(let welcome):
                state = .linked
                self.line = line
                reason = nil
                if let refusal = session.accept(welcome) {
                    backoff.lengthen()
                    return end(located(refusal))
                }
                up(welcome)
            }
        }
    }

    /// Whoever does not wait for later attempts hears why this one came to nothing.
    private func endImpatientWaits(_ why: RPCError) {
        for number in waiting.filter({ !$0.value.isPatient }).keys.sorted() {
            waiting.removeValue(forKey: number)?.proceed(why)
        }
    }

    /// A refusal's words with the address in the place of "this host".
    private func located(_ refusal: RPCError) -> RPCError {
        let own = "this host "
        guard refusal.message.hasPrefix(own) else {
            return RPCError(refusal.code, "the host at \(address) refused: \(refusal.message)")
        }
        return RPCError(refusal.code, "the host at \(address) \(refusal.message.dropFirst(own.count))")
    }

    private func reconnectLater() {
        state = .waiting
        let wait = TimeAmount.nanoseconds(Int64(backoff.next(&random)))
        reconnectTask = eventLoop.scheduleTask(in: wait) { [self] in
            if state == .waiting { attempt() }
        }
    }

    /// Closes the present socket; `wireEnded` tells everybody why.
    private func end(_ why: RPCError) {
        if reason == nil { reason = why }
        wire?.close()
        line?.close()
    }

    /// Nothing will come any more.
    private func finish() {
        let why = reason ?? RPCError(.closed, "the connection was closed by this side")
        deadlineTask?.cancel()
        deadlineTask = nil
        let left = waiting.sorted { $0.key < $1.key }
        waiting = [:]
        for (_, entry) in left { entry.proceed(why) }
        delegate?.connectionDown(self, reason: why)
        delegate = nil
    }

    private func tick() {
        guard let wire else { return }
        switch pings.tick(heard: wire.heard, handedOver: wire.handedOver, position: wire.position) {
        case .alive: break
        case .ping(let number):
            wire.outbound.append(FrameHeader(kind: .ping, call: number))
            wire.written()
        case .dead(.silence): end(RPCError(.connectionLost, "\(address) answers no ping, nothing comes from it"))
        case .dead(.noPong):
            end(RPCError(.connectionLost, "\(address) answers no ping: what is sent to it does not seem to arrive"))
        }
    }
}

extension RPCConnection: WireOwner {
    func wireActive() {}

    /// Answers are always taken: a caller that stopped reading because it can't write could wait for a host that does
    /// the
    /// same.
    var wireIsPaused: Bool { false }

    func wireReceived(_ frame: consuming Frame) {
        guard let wire else { return }
        switch session.receive(frame) {
        case .succeed(let pending):
            complete(pending, .success(frame.payload))
            closeIfDrained()
        case .fail(let pending, let error):
            complete(pending, .failure(error))
            closeIfDrained()
        case .drop:
            break
        case .ponged(let number):
            pings.pong(number)
        case .pong:
            wire.outbound.append(FrameHeader(kind: .pong, call: frame.header.call))
            wire.written()
        case .deliverOneway:
            delegate?.received(
                self, service: frame.header.service, method: frame.header.method, payload: frame.payload)
        case .up(let welcome):
            up(welcome)
        case .refused(let error):
            backoff.lengthen()
            end(located(error))
        case .goaway(let why):
            isUp = false
            reason = why
            closeIfDrained()
        case .close(let fault):
            wireFailed(fault)
            wire.close()
        }
    }

    private func up(_ welcome: Welcome) {
        handshakeTask?.cancel()
        handshakeTask = nil
        lastWelcome = welcome
        isUp = true
        upSince = RPCClock.now()
        pings = PingMonitor()
        wire?.agreed(on: welcome.version)
        if wire != nil {
            let period = TimeAmount.milliseconds(max(1, limits.pingMilliseconds / 2))
            pinger = eventLoop.scheduleRepeatedTask(initialDelay: period, delay: period) { [weak self] _ in
                self?.tick()
            }
        }
        delegate?.connectionUp(self, welcome: welcome)
        let left = waiting.sorted { $0.key < $1.key }
        waiting = [:]
        for (_, entry) in left { entry.proceed(nil) }
    }

    func wireBatchEnded() {
        delegate?.readComplete(self)
    }

    func wireWritable() {
        guard refusedForRoom else { return }
        refusedForRoom = false
        delegate?.connectionWritable(self)
    }

    func wireFailed(_ fault: ConnectionFault) {
        logger?.warning(
            "connection closed",
            metadata: ["address": "\(address)", "reason": "\(fault.reason)", "detail": "\(fault.text)"])
        if reason == nil { reason = RPCError(.badFrame, "\(address) sent what can't be read: \(fault.text)") }
    }

    func wireEnded(truncated: Bool, cause: (any Error)?) {
        // A socket that never got as far as `linked` is told of by its connect.
        guard let wire, state == .linked || state == .closed else { return }
        self.wire = nil
        ended(
            RPCError(.connectionLost, "the connection to \(address) ended\(cause.map { ": \(text(of: $0))" } ?? "")"),
            handedOver: wire.handedOver)
    }

    /// The present connection is gone, for the reason that is known, or for this one.
    private func ended(_ cause: @autoclosure () -> RPCError, handedOver: UInt64) {
        isUp = false
        handshakeTask?.cancel()
        pinger?.cancel()
        pinger = nil
        refusedForRoom = false
        let why = reason ?? cause()
        reason = why
        if upSince != .zero, RPCClock.now().since(upSince) >= Self.steadyNanoseconds { backoff.reset() }
        upSince = .zero
        let code = state == .closed ? RPCError.Code.closed : .connectionLost
        for lost in session.close(handedOver: handedOver) {
            complete(lost.pending, .failure(RPCError(code, why.message, mayHaveBeenSent: lost.mayHaveBeenSent)))
        }
        if state == .closed { return finish() }
        reconnectLater()
        delegate?.connectionDown(self, reason: why)
        endImpatientWaits(why)
    }
}

// What a line to a host in this process tells. All calls come on the event loop.
extension RPCConnection {
    func lineAnswered(_ call: UInt64, _ result: Result<Bytes, RPCError>) {
        // Nil: it was taken back, or its time is over.
        guard let pending = session.forget(call) else { return }
        complete(pending, result)
        closeIfDrained()
    }

    func lineBatchEnded() { delegate?.readComplete(self) }

    func lineWritable() { delegate?.connectionWritable(self) }

    func lineDrained() {
        guard let why = session.drain() else { return }
        isUp = false
        reason = why
        closeIfDrained()
    }

    func lineEnded(byHost: Bool) {
        guard let line else { return }
        self.line = nil
        if byHost { reason = RPCError(.connectionLost, "the host at \(address) has ended") }
        ended(RPCError(.connectionLost, "the host at \(address) has ended"), handedOver: line.handedOver)
    }
}
