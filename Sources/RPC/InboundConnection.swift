// A connection that a server accepted: carries out what `ServerSession` decides. Owns the session, the wire, and a
// mailbox for answers from other threads.

public import NIOCore
public import Primitives
import Synchronization

public final class InboundConnection: @unchecked Sendable {
    // @unchecked: `id`, `eventLoop`, `services`, `remoteAddress`, `server` never change. `mailbox` is a mutex. All else
    // belongs to the event loop: the functions that touch it check that they run there. `hello` is written once, before
    // the connection is handed to any service.

    /// Unique within the server.
    public let id: UInt64
    public let eventLoop: any EventLoop
    /// Without port.
    public let remoteAddress: String
    private let services: ServiceTable
    private let server: ServerCore
    private let mailbox = Mutex(Mailbox())
    /// Bytes that the socket had not taken when other threads' answers were last taken over.
    private let backlog = Atomic(0)

    /// What the peer said of itself. Set before the first call is delivered.
    public private(set) var hello: Hello

    private var session: ServerSession
    private var wire: Wire<InboundConnection>?
    /// Services that got something in this batch: bit i is `services.objects[i]`. At most 64 objects.
    private var touched: UInt64 = 0
    /// What was heard up to the last tick.
    private var heard: UInt64 = 0
    private var silentTicks: Int64 = 0
    private var ticker: RepeatedTask?
    private var requests = 0
    private var oneways = 0
    private var answers = 0
    private var spareMail = Mailbox()

    private static var ticksOfSilence: Int64 { 7 }

    init(
        id: UInt64, eventLoop: any EventLoop, services: ServiceTable, remoteAddress: String, server: ServerCore
    ) {
        self.id = id
        self.eventLoop = eventLoop
        self.services = services
        self.remoteAddress = remoteAddress
        self.server = server
        hello = Hello(role: .client, identity: PeerIdentity())
        session = ServerSession(limits: server.limits, services: services.numbers, seed: mix(id ^ server.seed))
    }

    func makeWire() -> Wire<InboundConnection> {
        let wire = Wire(
            owner: self, payloadBytesMax: FrameHeader.helloBytesMax,
            versions: FrameHeader.handshakeVersion...FrameHeader.handshakeVersion)
        self.wire = wire
        return wire
    }

    public var peer: PeerIdentity { hello.identity }

    /// Calls that were not answered yet. On the event loop only.
    public var callsInFlight: Int {
        eventLoop.preconditionInEventLoop()
        return session.callsInFlight
    }

    /// Bytes that the socket has not taken. On the event loop only.
    public var unsentBytes: Int {
        eventLoop.preconditionInEventLoop()
        return wire?.outbound.count ?? 0
    }

    /// Sends now what was answered, instead of at the end of the batch or of this turn of the loop. On the event loop
    /// only.
    public func flush() {
        eventLoop.preconditionInEventLoop()
        wire?.flush()
    }

    /// Closes the connection. From any thread.
    public func close() {
        if eventLoop.inEventLoop { wire?.close() } else { eventLoop.execute { self.wire?.close() } }
    }

    /// Tells a client to send no new calls; what is in flight is answered. Another host is told nothing. On the event
    /// loop only. True: there is nothing to wait for.
    func drain() -> Bool {
        eventLoop.preconditionInEventLoop()
        if session.phase == .open, hello.role != .client { return session.callsInFlight == 0 }
        if session.drain(), let wire {
            wire.outbound.append(FrameHeader(kind: .goaway))
            wire.flush()
        } else if session.phase == .awaitingHello {
            wire?.close()
        }
        return session.phase == .closed
    }

    /// Sends a frame that has no answer, in one write together with all that waits; to peers only. False, and nothing
    /// sent: the connection ends, or more than the bound is unsent; or the payload is over the frame's
    /// limit; the caller drops it. On the event loop only.
    public func sendOneway(service: UInt16, method: UInt16, writing body: (inout ByteWriter) -> Void) -> Bool {
        eventLoop.preconditionInEventLoop()
        precondition(hello.role != .client, "one-way frames go to hosts only")
        guard session.phase == .open, let wire, !isOverfull(wire) else { return false }
        let fits = wire.outbound.append(FrameHeader(kind: .oneway, service: service, method: method), writing: body)
        wire.flush()
        return fits
    }

    // MARK: Answers, from any thread

    func hasRoom(for bytes: Int) -> Bool {
        let waiting =
            eventLoop.inEventLoop
            ? wire?.outbound.count ?? 0
            : mailbox.withLock { $0.frames.count } + backlog.load(ordering: .relaxed)
        let hasRoom = waiting == 0 || waiting + bytes <= server.limits.outboundRoomBytes
        // It may be long since the event loop looked.
        if !hasRoom, !eventLoop.inEventLoop {
            eventLoop.execute { self.backlog.store(self.wire?.outbound.count ?? 0, ordering: .relaxed) }
        }
        return hasRoom
    }

    func respond(_ call: UInt64, _ payload: Bytes) {
        guard payload.count <= FrameHeader.payloadBytesMax else { return fail(call, Self.tooLong(payload.count)) }
        guard eventLoop.inEventLoop else { return post(call, FrameHeader(kind: .response, call: call), payload) }
        guard mayAnswer(call), let wire else { return }
        guard fits(payload.count, on: wire) else { return }
        let isDropped = isOverfull(wire) && payload.count > server.limits.outboundSmallBytes
        if isDropped {
            append(Self.overfull, to: call, on: wire)
        } else {
            wire.outbound.append(FrameHeader(kind: .response, call: call), payload: payload)
        }
        answered(on: wire)
    }

    func respond(_ call: UInt64, writing body: (inout ByteWriter) -> Void) {
        guard eventLoop.inEventLoop else { return post(call, writing: body) }
        guard let wire, !isOverfull(wire) else {
            var writer = ByteWriter()
            body(&writer)
            return respond(call, writer.take())
        }
        guard mayAnswer(call) else { return }
        if !wire.outbound.append(FrameHeader(kind: .response, call: call), writing: body) {
            append(Self.tooLong(FrameHeader.payloadBytesMax + 1), to: call, on: wire)
        }
        answered(on: wire)
    }

    func fail(_ call: UInt64, _ error: RPCError) {
        guard eventLoop.inEventLoop else {
            var writer = ByteWriter()
            error.encode(into: &writer)
            return post(call, FrameHeader(kind: .error, call: call), writer.take())
        }
        guard mayAnswer(call), let wire, fits(0, on: wire) else { return }
        append(error, to: call, on: wire)
        answered(on: wire)
    }

    static func tooLong(_ count: Int) -> RPCError {
        RPCError(
            .answerDropped,
            "an answer of \(count) bytes or more: at most \(FrameHeader.payloadBytesMax) fit into a frame",
            mayHaveBeenSent: true)
    }

    static var overfull: RPCError {
        RPCError(
            .answerDropped, "the answer was dropped: this connection does not read what waits for it already",
            mayHaveBeenSent: true)
    }

    @inline(__always)
    private func mayAnswer(_ call: UInt64) -> Bool {
        switch session.answer(call) {
        case .send:
            return true
        case .drop:
            resumeIfPaused()
            return false
        case .unknown:
            server.counters.dropped.add(1, ordering: .relaxed)
            return false
        }
    }

    @inline(__always)
    private func answered(on wire: Wire<InboundConnection>) {
        answers += 1
        wire.written()
        resumeIfPaused()
    }

    @inline(__always)
    private func resumeIfPaused() { if let wire, !wireIsPaused { wire.resume() } }

    private func append(_ error: RPCError, to call: UInt64, on wire: Wire<InboundConnection>) {
        _ = wire.outbound.append(FrameHeader(kind: .error, call: call)) { error.encode(into: &$0) }
    }

    @inline(__always)
    private func isOverfull(_ wire: Wire<InboundConnection>) -> Bool {
        wire.outbound.count > server.limits.outboundBytesMax
    }

    /// Closes the connection when its peer does not read although twice the bound is waiting.
    private func fits(_ count: Int, on wire: Wire<InboundConnection>) -> Bool {
        guard wire.outbound.count > 2 * server.limits.outboundBytesMax else { return true }
        server.report(
            ConnectionFault(.doesNotRead, "\(wire.outbound.count) bytes of answers wait, and none is read"), from: self)
        wire.close()
        return false
    }

    // MARK: Answers from other threads

    /// Frames that other threads encoded, and whose they are. One task takes all of them over.
    private struct Mailbox: ~Copyable, Sendable {
        struct Letter: Sendable {
            var call: UInt64
            var start: Int
            var count: Int
        }
        var letters: [Letter] = []
        var frames = FrameWriter()
        var isTaskScheduled = false

        /// Notes whose frame was just added. True: a task has to be scheduled for it.
        mutating func add(_ call: UInt64, from start: Int) -> Bool {
            letters.append(Letter(call: call, start: start, count: frames.count - start))
            defer { isTaskScheduled = true }
            return !isTaskScheduled
        }
    }

    private func post(_ call: UInt64, _ header: FrameHeader, _ payload: Bytes) {
        let limits = server.limits
        let mustSchedule = mailbox.withLock { box in
            let start = box.frames.count
            if start > limits.outboundBytesMax, payload.count > limits.outboundSmallBytes {
                _ = box.frames.append(FrameHeader(kind: .error, call: call)) { Self.overfull.encode(into: &$0) }
            } else {
                box.frames.append(header, payload: payload)
            }
            return box.add(call, from: start)
        }
        if mustSchedule { eventLoop.execute { self.takeMail() } }
    }

    /// The same, encoded in place: answers of one loop's groups to another loop's connections come by thousands.
    private func post(_ call: UInt64, writing body: (inout ByteWriter) -> Void) {
        let outboundBytesMax = server.limits.outboundBytesMax
        let mustSchedule = mailbox.withLock { box -> Bool? in
            let start = box.frames.count
            guard start <= outboundBytesMax else { return nil }
            if !box.frames.append(FrameHeader(kind: .response, call: call), writing: body) {
                let error = Self.tooLong(FrameHeader.payloadBytesMax + 1)
                _ = box.frames.append(FrameHeader(kind: .error, call: call)) { error.encode(into: &$0) }
            }
            return box.add(call, from: start)
        }
        guard let mustSchedule else {
            var writer = ByteWriter()
            body(&writer)
            return respond(call, writer.take())
        }
        if mustSchedule { eventLoop.execute { self.takeMail() } }
    }

    private func takeMail() {
        eventLoop.preconditionInEventLoop()
        mailbox.withLock { box in
            swap(&box, &spareMail)
            box.isTaskScheduled = false
        }
        for letter in spareMail.letters where mayAnswer(letter.call) {
            guard let wire, fits(letter.count, on: wire) else { break }
            if isOverfull(wire), letter.count > server.limits.outboundSmallBytes {
                append(Self.overfull, to: letter.call, on: wire)
            } else {
                spareMail.frames.withUnsafeBytes { bytes in
                    let frame = bytes[letter.start..<letter.start + letter.count]
                    wire.outbound.append(encoded: UnsafeRawBufferPointer(rebasing: frame))
                }
            }
            answers += 1
        }
        spareMail.letters.removeAll(keepingCapacity: true)
        spareMail.frames.removeAll()
        wire?.flush()
        backlog.store(wire?.outbound.count ?? 0, ordering: .relaxed)
        resumeIfPaused()
    }
}

extension InboundConnection: WireOwner {
    func wireActive() {
        guard ticker == nil else { return }
        let milliseconds = server.limits.handshakeMilliseconds
        let period = max(1, server.limits.silenceMilliseconds / Self.ticksOfSilence)
        // The first tick judges the handshake, the later ones the silence.
        ticker = eventLoop.scheduleRepeatedTask(
            initialDelay: .milliseconds(milliseconds), delay: .milliseconds(period)
        ) { [weak self] _ in self?.tick() }
    }

    private func tick() {
        if session.phase == .awaitingHello {
            return closing(
                ConnectionFault(.handshakeTimeout, "no hello within \(server.limits.handshakeMilliseconds) ms"))
        }
        guard let wire else { return }
        silentTicks = wire.heard == heard ? silentTicks + 1 : 0
        heard = wire.heard
        if silentTicks >= Self.ticksOfSilence {
            closing(ConnectionFault(.silent, "nothing was heard for \(server.limits.silenceMilliseconds) ms"))
        }
    }

    private func closing(_ fault: ConnectionFault) {
        server.report(fault, from: self)
        wire?.close()
    }

    var wireIsPaused: Bool {
        if session.isFull { return true }
        guard let wire else { return true }
        // What other hosts send is answered by nothing that grows here, and their pings must be heard.
        if session.phase == .open, hello.role != .client { return false }
        return !wire.isWritable && wire.outbound.count >= server.limits.outboundPauseBytes
    }

    func wireReceived(_ frame: consuming Frame) {
        guard let wire else { return }
        switch session.receive(frame) {
        case .deliver:
            requests += 1
            let header = frame.header
            let entry = services.entry(of: header.service)
            touched |= 1 << UInt64(entry.object)
            let milliseconds = UInt64(header.deadlineMilliseconds)
            entry.service.receive(
                InboundCall(
                    reply: CallReply(connection: self, call: header.call), service: header.service,
                    method: header.method,
                    deadline: milliseconds == 0 ? nil : RPCClock.now() + milliseconds * 1_000_000,
                    payload: frame.payload))
        case .deliverOneway:
            oneways += 1
            let header = frame.header
            let entry = services.entry(of: header.service)
            touched |= 1 << UInt64(entry.object)
            entry.service.receive(
                oneway: InboundOneway(
                    connection: self, service: header.service, method: header.method, payload: frame.payload))
        case .cancel(let service):
            let entry = services.entry(of: service)
            touched |= 1 << UInt64(entry.object)
            entry.service.cancelled(CallReply(connection: self, call: frame.header.call))
        case .fail(let error):
            append(error, to: frame.header.call, on: wire)
            wire.written()
        case .pong:
            wire.outbound.append(FrameHeader(kind: .pong, call: frame.header.call))
            wire.written()
        case .drop:
            server.counters.dropped.add(1, ordering: .relaxed)
        case .shakeHands(let hello):
            shakeHands(hello, on: wire)
        case .refuse(let error):
            refuse(error, on: wire)
        case .close(let fault):
            closing(fault)
        }
    }

    private func shakeHands(_ hello: Hello, on wire: Wire<InboundConnection>) {
        let reply = session.answered(hello: hello, with: server.policy.answer(to: hello, from: remoteAddress))
        guard case .accepted(let welcome) = reply else {
            if case .refused(let error) = reply { refuse(error, on: wire) }
            return
        }
        self.hello = hello
        _ = wire.outbound.append(FrameHeader(kind: .helloReply)) { reply.encode(into: &$0) }
        wire.agreed(on: welcome.version)
        // Nobody answers a call before there is one.
        mailbox.withLock { $0.frames.version = welcome.version }
        spareMail.frames.version = welcome.version
        wire.written()
        for service in services.objects { service.connectionOpened(self) }
    }

    private func refuse(_ error: RPCError, on wire: Wire<InboundConnection>) {
        _ = wire.outbound.append(FrameHeader(kind: .helloReply)) { HelloReply.refused(error).encode(into: &$0) }
        closing(ConnectionFault(.refused, error.message))
    }

    func wireBatchEnded() {
        var left = touched
        touched = 0
        while left != 0 {
            let object = left.trailingZeroBitCount
            left &= left - 1
            services.objects[object].readComplete(on: eventLoop)
        }
        flushCounters()
    }

    private func flushCounters() {
        if requests > 0 { server.counters.requests.add(requests, ordering: .relaxed) }
        if oneways > 0 { server.counters.oneways.add(oneways, ordering: .relaxed) }
        if answers > 0 { server.counters.answers.add(answers, ordering: .relaxed) }
        requests = 0
        oneways = 0
        answers = 0
    }

    func wireWritable() {}

    func wireFailed(_ fault: ConnectionFault) { server.report(fault, from: self) }

    func wireEnded(truncated: Bool, cause: (any Error)?) {
        ticker?.cancel()
        ticker = nil
        wire = nil
        let wasOpen = session.phase == .open || session.phase == .draining
        if truncated, wasOpen || session.phase == .awaitingHello {
            server.report(ConnectionFault(.truncated, "the stream ended in the middle of a frame"), from: self)
        }
        let orphans = session.close()
        for orphan in orphans {
            services.entry(of: orphan.service).service.cancelled(CallReply(connection: self, call: orphan.call))
        }
        if wasOpen { for service in services.objects { service.connectionClosed(self) } }
        flushCounters()
        server.closed(self)
    }
}
