// The calling side's protocol state of one connection: handshake, calls in flight with their deadlines. A value
// without sockets, clocks or NIO. `RPCConnection` carries it out. A session lives as long as its socket.

package import Primitives

/// What the calling side allows itself.
public struct ClientLimits: Sendable {
    /// Calls in flight; more are refused with `overloaded`. The server's own bound counts too.
    public var callsInFlightMax = 65_536
    /// Bytes that wait because the socket takes no more: beyond it, calls are refused with `overloaded` and one-way
    /// frames are dropped. As much again may be in the socket's own queue.
    public var outboundBytesMax = 64 << 20
    public var connectMilliseconds: Int64 = 5_000
    public var handshakeMilliseconds: Int64 = 5_000
    /// Twice in this time the host is pinged. Nothing heard for this long: the connection is given up; without a pong,
    /// though something is heard, after three times as long.
    public var pingMilliseconds: Int64 = 10_000
    /// Deadlines are looked at in steps of this length.
    public var deadlineStepMilliseconds: Int64 = 5
    /// Async calls that wait for the connection to come up; more are refused with `overloaded`.
    public var waitingMax = 4_096
    public init() {}
}

package struct ClientSession<Pending> {
    package enum Phase: Sendable, Equatable {
        case handshaking
        case up
        /// The peer is going away: what is in flight is still answered, nothing new is sent.
        case draining
        case closed
    }

    struct Call {
        /// 0 is none.
        var deadline: UInt64
        /// How many bytes were written to the connection before this call's frame.
        var frameStart: UInt64
        var pending: Pending
    }

    package enum Action {
        /// Legal noise: a late answer to a call that was cancelled or timed out.
        case drop
        case up(Welcome)
        case refused(RPCError)
        case succeed(Pending)
        case fail(Pending, RPCError)
        case pong
        case ponged(UInt64)
        /// A frame without an answer, from one host to another.
        case deliverOneway
        case goaway(RPCError)
        case close(ConnectionFault)
    }

    package private(set) var phase = Phase.handshaking
    package let hello: Hello
    package let limits: ClientLimits
    private var calls: CallTable<Call>
    private var callsInFlightMax: Int
    private var nextCall: UInt64 = 1
    /// No deadline of a call in flight is earlier; `UInt64.max` when there is none.
    private var earliest = UInt64.max

    package init(hello: Hello, limits: ClientLimits, seed: UInt64) {
        self.hello = hello
        self.limits = limits
        callsInFlightMax = limits.callsInFlightMax
        calls = CallTable(seed: seed)
    }

    package var callsInFlight: Int { calls.count }

    /// When `expire` has something to do at the earliest; nil: no call in flight has a deadline.
    package var nextDeadline: Instant? { earliest == .max ? nil : Instant(earliest) }

    /// Begins a call; returns its number. Throws when it must not be sent: then nothing of it is kept.
    package mutating func begin(
        _ pending: consuming Pending, deadline: Instant?, frameStart: UInt64
    ) throws(RPCError) -> UInt64 {
        guard phase == .up else {
            throw RPCError(.notConnected, phase == .draining ? "the host is stopping" : "not connected")
        }
        guard calls.count < callsInFlightMax else {
            throw RPCError(.overloaded, "\(callsInFlightMax) calls are in flight on this connection")
        }
        let call = nextCall
        nextCall += 1
        let at = deadline?.rawValue ?? 0
        calls.insert(call, Call(deadline: at, frameStart: frameStart, pending: pending))
        if at != 0, at < earliest { earliest = at }
        return call
    }

    /// Forgets a call that was begun; nil when it was answered meanwhile. The caller tells the peer.
    package mutating func forget(_ call: UInt64) -> Pending? { calls.remove(call)?.pending }

    package mutating func receive(_ frame: borrowing Frame) -> Action {
        let header = frame.header
        if phase == .handshaking { return receiveReply(frame) }
        switch header.kind {
        case .response:
            guard let call = calls.remove(header.call) else { return .drop }
            return .succeed(call.pending)
        case .error:
            var reader = ByteReader(frame.payload)
            do throws(DecodingFailure) {
                let error = try RPCError(from: &reader)
                try reader.expectEnd()
                guard let call = calls.remove(header.call) else { return .drop }
                return .fail(call.pending, error)
            } catch {
                return .close(ConnectionFault(.badCall, "an error frame that can't be read: \(error)"))
            }
        case .ping:
            return .pong
        case .pong:
            return .ponged(header.call)
        case .goaway:
            guard let why = drain() else { return .drop }
            return .goaway(why)
        case .oneway where hello.role != .client:
            return .deliverOneway
        case .request, .oneway, .cancel, .hello, .helloReply:
            return .close(ConnectionFault(.unexpectedKind, "a frame of kind \(header.kind) from a server"))
        }
    }

    /// The host takes no new calls; nil: that is known.
    package mutating func drain() -> RPCError? {
        guard phase == .up else { return nil }
        phase = .draining
        return RPCError(.unavailable, "the host is stopping")
    }

    /// The host accepted. Returns why it is not the one that was meant; nil: calls may be sent.
    package mutating func accept(_ welcome: Welcome) -> RPCError? {
        if let refusal = check(welcome) { return refusal }
        callsInFlightMax = max(1, min(limits.callsInFlightMax, Int(welcome.callsInFlightMax)))
        phase = .up
        return nil
    }

    /// Takes out the calls whose deadlines have passed. Cost: nothing before the earliest deadline, else the table's
    /// size.
    package mutating func expire(now: Instant) -> [(call: UInt64, pending: Pending, frameStart: UInt64)] {
        guard now.rawValue >= earliest else { return [] }
        var late: [UInt64] = []
        var next = UInt64.max
        calls.forEach { call, entry in
            guard entry.deadline != 0 else { return }
            if entry.deadline <= now.rawValue { late.append(call) } else { next = min(next, entry.deadline) }
        }
        earliest = next
        late.sort()
        return late.map { call in
            let entry = calls.remove(call)!
            return (call, entry.pending, entry.frameStart)
        }
    }

    /// The connection ended. Returns what was in flight, by ascending number; of what begins at or behind `handedOver`
    /// bytes nothing left this process.
    package mutating func close(handedOver: UInt64) -> [(pending: Pending, mayHaveBeenSent: Bool)] {
        phase = .closed
        earliest = .max
        return calls.removeAll().map { ($0.value.pending, $0.value.frameStart < handedOver) }
    }

    private mutating func receiveReply(_ frame: borrowing Frame) -> Action {
        // A server that is full answers with its refusal before it has read anything.
        guard frame.header.kind == .helloReply else {
            return .close(ConnectionFault(.unexpectedKind, "a frame of kind \(frame.header.kind) before the handshake"))
        }
        guard frame.header.length <= FrameHeader.helloBytesMax else {
            return .close(
                ConnectionFault(
                    .overLong,
                    "an answer to the hello of \(frame.header.length) bytes, at most \(FrameHeader.helloBytesMax) are "
                        + "accepted"))
        }
        var reader = ByteReader(frame.payload)
        do throws(DecodingFailure) {
            switch try HelloReply(from: &reader) {
            case .refused(let error):
                return .refused(error)
            case .accepted(let welcome):
                if let refusal = accept(welcome) { return .refused(refusal) }
                return .up(welcome)
            }
        } catch {
            return .close(ConnectionFault(.badHello, "\(error)"))
        }
    }

    /// The caller's half of the rules: it does not take another host or another cluster for the one that it meant.
    private func check(_ welcome: Welcome) -> RPCError? {
        let own = hello.identity
        guard welcome.version >= hello.versionMin, welcome.version <= hello.versionMax else {
            return RPCError(.unsupportedVersion, "this host answers in protocol version \(welcome.version)")
        }
        guard own.cluster == .none || welcome.identity.cluster == .none || own.cluster == welcome.identity.cluster
        else {
            return RPCError(
                .wrongCluster, "this host belongs to cluster \(welcome.identity.cluster), expected \(own.cluster)")
        }
        if hello.target != HostID(0), welcome.identity.host != HostID(0), hello.target != welcome.identity.host {
            return RPCError(
                .wrongHost, "this host is number \(welcome.identity.host), expected number \(hello.target)")
        }
        return nil
    }
}
