// One accepted connection's protocol state: handshake, calls in flight, limits. A value without sockets, clocks or NIO:
// a frame goes in, what to do comes out. `InboundConnection` carries it out.

import Primitives

/// What one listening side allows. Every bound says what happens when it is reached.
public struct ServerLimits: Sendable {
    /// More are answered with a refusal and closed.
    public var connectionsMax = 1_024
    /// The same, per remote address. As high as `connectionsMax` until there is TLS: loopback is one address.
    public var connectionsPerAddressMax = 1_024
    /// Calls in flight per connection: beyond it, nothing more is read from the connection until some are answered.
    public var callsInFlightMax = 65_536
    /// Bytes of the requests in flight per connection: the same.
    public var bytesInFlightMax = 64 << 20
    /// Answers that wait because the socket takes no more: from this many bytes on nothing more is read.
    public var outboundPauseBytes = 256 << 10
    /// Bytes of answers that wait: beyond it, answers over `outboundSmallBytes` become `answerDropped`, and beyond
    /// twice of it the connection is closed, because its peer does not read.
    public var outboundBytesMax = 64 << 20
    public var outboundSmallBytes = 4 << 10
    /// Bytes of answers that wait: beyond it, services refuse what they can answer later (`CallReply.hasRoom`).
    public var outboundRoomBytes = 16 << 20
    /// From connecting to a good hello; later the connection is closed.
    public var handshakeMilliseconds: Int64 = 5_000
    /// A connection on which nothing came for this long is closed. Clients ping each 5 s.
    public var silenceMilliseconds: Int64 = 35_000
    /// Versions of frames that are spoken. Fewer than are known: as a host of an older version would.
    public var versions = FrameHeader.versions
    public init() {}
}

package struct ServerSession {
    package enum Phase: Sendable {
        case awaitingHello
        case open
        /// Told the peer to go away: calls in flight are answered, new ones refused.
        case draining
        case closed
    }

    /// What is known of a call until it is answered.
    struct InFlight {
        var service: UInt16
        /// The caller took it back: its answer is dropped when it comes. It counts as in flight until then, so that a
        /// flood of requests and cancellations is bounded like any other.
        var isCancelled: Bool
        var bytes: UInt32
    }

    /// What the connection does with a frame.
    package enum Action: Sendable, Equatable {
        /// Legal noise: dropped and counted.
        case drop
        /// Ask the host; then call `answered(hello:with:)`.
        case shakeHands(Hello)
        /// Refuse without asking the host, and close when it is sent.
        case refuse(RPCError)
        /// Hand the call to its service. It is in flight from now on.
        case deliver
        case deliverOneway
        /// Tell the service that the call's answer is not wanted any more.
        case cancel(service: UInt16)
        /// Answer this call with an error; it is not in flight.
        case fail(RPCError)
        case pong
        case close(ConnectionFault)
    }

    /// What becomes of an answer.
    package enum Answer: Sendable, Equatable {
        case send
        /// Cancelled meanwhile.
        case drop
        /// No such call: it was answered before.
        case unknown
    }

    /// Service numbers are below this.
    package static let servicesMax = 256

    package private(set) var phase = Phase.awaitingHello
    package let limits: ServerLimits
    private let isService: [Bool]
    private var calls: CallTable<InFlight>
    private var bytesInFlight = 0

    package init(limits: ServerLimits, services: [UInt16], seed: UInt64) {
        self.limits = limits
        var isService = [Bool](repeating: false, count: Self.servicesMax)
        for service in services { isService[Int(service)] = true }
        self.isService = isService
        calls = CallTable(seed: seed)
    }

    package var callsInFlight: Int { calls.count }

    /// True: hand no further frame in until an answer made room.
    @inline(__always)
    package var isFull: Bool { calls.count >= limits.callsInFlightMax || bytesInFlight >= limits.bytesInFlightMax }

    package mutating func receive(_ frame: borrowing Frame) -> Action {
        let header = frame.header
        switch phase {
        case .awaitingHello: return receiveHello(frame)
        case .closed: return .drop
        case .open, .draining: break
        }
        switch header.kind {
        case .request:
            let inFlight = InFlight(service: header.service, isCancelled: false, bytes: header.length)
            guard phase == .open else {
                return header.call == 0 ? badCall(0) : .fail(RPCError(.unavailable, "this host is stopping"))
            }
            guard isOffered(header.service) else {
                return header.call == 0
                    ? badCall(0) : .fail(RPCError(.unknownService, "service \(header.service) is not offered here"))
            }
            guard calls.insert(header.call, inFlight) else { return badCall(header.call) }
            bytesInFlight += Int(header.length)
            return .deliver
        case .oneway:
            return isOffered(header.service) && phase == .open ? .deliverOneway : .drop
        case .cancel:
            guard let call = calls[header.call], !call.isCancelled else { return .drop }  // answered meanwhile
            calls.update(header.call) { $0.isCancelled = true }
            return .cancel(service: call.service)
        case .ping:
            return .pong
        case .pong, .goaway:
            return .drop
        case .hello, .helloReply, .response, .error:
            return .close(ConnectionFault(.unexpectedKind, "a frame of kind \(header.kind) after the handshake"))
        }
    }

    /// The outcome of the handshake: what to send, and the phase moves on.
    package mutating func answered(hello: Hello, with answer: HandshakeAnswer) -> HelloReply {
        precondition(phase == .awaitingHello, "a handshake is answered once")
        switch answer {
        case .accept(let identity):
            phase = .open
            return .accepted(
                Welcome(
                    identity: identity, version: min(hello.versionMax, limits.versions.upperBound),
                    callsInFlightMax: UInt32(limits.callsInFlightMax),
                    payloadBytesMax: UInt32(FrameHeader.payloadBytesMax)))
        case .refuse(let error):
            phase = .closed
            return .refused(error)
        }
    }

    /// A service answered: the call is no longer in flight.
    @inline(__always)
    package mutating func answer(_ call: UInt64) -> Answer {
        guard let inFlight = calls.remove(call) else { return .unknown }
        bytesInFlight -= Int(inFlight.bytes)
        return inFlight.isCancelled ? .drop : .send
    }

    /// True when the peer must be told to go away.
    package mutating func drain() -> Bool {
        guard phase == .open else { return false }
        phase = .draining
        return true
    }

    /// The connection ended; returns the calls whose services still work on them, with their services.
    package mutating func close() -> [(call: UInt64, service: UInt16)] {
        phase = .closed
        bytesInFlight = 0
        return calls.removeAll().filter { !$0.value.isCancelled }.map { ($0.call, $0.value.service) }
    }

    private func isOffered(_ service: UInt16) -> Bool { Int(service) < Self.servicesMax && isService[Int(service)] }

    private func badCall(_ call: UInt64) -> Action {
        .close(ConnectionFault(.badCall, "call \(call) is 0 or in flight already"))
    }

    private mutating func receiveHello(_ frame: borrowing Frame) -> Action {
        guard frame.header.kind == .hello else {
            phase = .closed
            return .close(ConnectionFault(.unexpectedKind, "a frame of kind \(frame.header.kind) before the handshake"))
        }
        var reader = ByteReader(frame.payload)
        do throws(DecodingFailure) {
            let hello = try Hello(from: &reader)
            let versions = limits.versions
            guard hello.versionMin <= hello.versionMax, hello.versionMin <= versions.upperBound,
                hello.versionMax >= versions.lowerBound
            else {
                phase = .closed
                return .refuse(
                    RPCError(
                        .unsupportedVersion,
                        "this host speaks protocol versions \(versions.lowerBound) to \(versions.upperBound), the caller "
                            + "\(hello.versionMin) to \(hello.versionMax)"))
            }
            return .shakeHands(hello)
        } catch {
            phase = .closed
            return .close(ConnectionFault(.badHello, "\(error)"))
        }
    }
}
