// What a host offers on its connections, and how it answers. Owns the interface between the RPC layer and a host's
// shell.

internal import Glibc
public import NIOCore
public import Primitives

/// One service, known by its number. A host that works in turns notes what `receive` brings and does the work once, in
/// `readComplete`: what it answers there goes out in one write.
///
/// All calls come on the connection's event loop. One object may be registered under several numbers.
public protocol RPCService: AnyObject, Sendable {
    /// A request. It must be answered exactly once through `call.reply`, at any time, from any thread; until then it
    /// counts
    /// against the connection's bounds. Unknown methods are answered with `unknownMethod`.
    func receive(_ call: InboundCall)

    /// A frame without an answer. By default dropped.
    func receive(oneway: InboundOneway)

    /// The caller took the call back, or is gone: work on it may end. Answer it nevertheless; the answer is dropped.
    func cancelled(_ reply: CallReply)

    /// All frames of what was read from one connection in one go were handed over, and some were this object's.
    func readComplete(on eventLoop: any EventLoop)

    /// After the handshake, before the first call.
    func connectionOpened(_ connection: InboundConnection)

    /// After `cancelled` for all its calls. Nothing of this connection comes any more.
    func connectionClosed(_ connection: InboundConnection)
}

extension RPCService {
    public func receive(oneway: InboundOneway) {}
    public func cancelled(_ reply: CallReply) {}
    public func readComplete(on eventLoop: any EventLoop) {}
    public func connectionOpened(_ connection: InboundConnection) {}
    public func connectionClosed(_ connection: InboundConnection) {}
}

/// A request on its way to its service.
public struct InboundCall: Sendable {
    public let reply: CallReply
    public let service: UInt16
    public let method: UInt16
    /// When the caller stops waiting, on `RPCClock`; nil: never.
    public let deadline: Instant?
    /// A slice of the bytes of one read: keeps them alive. What lives long is copied out.
    public let payload: Bytes

    /// Nil: the caller is in this process.
    public var connection: InboundConnection? { reply.connection }
}

/// A message without an answer on its way to its service.
public struct InboundOneway: Sendable {
    public let connection: InboundConnection
    public let service: UInt16
    public let method: UInt16
    public let payload: Bytes
}

/// Where a call's answer goes. Small: keep it as long as the call lasts. All functions work from any thread; on the
/// connection's event loop they cost no allocation. Answers to calls whose connection is gone are dropped and counted,
/// and
/// so is a second answer.
public struct CallReply: Sendable {
    private enum Way: Sendable {
        case connection(InboundConnection)
        case line(LocalLine)
    }
    private let way: Way
    /// The call's number, unique among the caller's calls in flight.
    public let call: UInt64

    init(connection: InboundConnection, call: UInt64) {
        way = .connection(connection)
        self.call = call
    }

    init(line: LocalLine, call: UInt64) {
        way = .line(line)
        self.call = call
    }

    /// Nil: the caller is in this process.
    public var connection: InboundConnection? {
        guard case .connection(let connection) = way else { return nil }
        return connection
    }

    /// Answers with a payload of at most `FrameHeader.payloadBytesMax`; a longer one becomes `answerDropped`.
    public func respond(_ payload: Bytes) {
        switch way {
        case .connection(let connection): connection.respond(call, payload)
        case .line(let line): line.respond(call, payload)
        }
    }

    /// Answers with what `body` appends to the writer, straight in the connection's outbound buffer. `body` must use
    /// nothing else of this connection.
    public func respond(writing body: (inout ByteWriter) -> Void) {
        switch way {
        case .connection(let connection): connection.respond(call, writing: body)
        case .line(let line): line.respond(call, writing: body)
        }
    }

    /// Whether an answer of so many bytes may join those that wait for the caller. False: the caller asks for more than
    /// it reads; refuse, so that it asks again later. From any thread; costs a lock there, so ask for large ones only.
    public func hasRoom(for bytes: Int) -> Bool {
        switch way {
        case .connection(let connection): connection.hasRoom(for: bytes)
        case .line(let line): line.hasRoom(for: bytes)
        }
    }

    public func fail(_ error: RPCError) {
        switch way {
        case .connection(let connection): connection.fail(call, error)
        case .line(let line): line.fail(call, error)
        }
    }

    public func fail(_ code: RPCError.Code, _ message: String) { fail(RPCError(code, message)) }
}

/// The clock of all deadlines and leases: nanoseconds since the machine started, those in which it slept included. A
/// leader that slept must not take its lease for running (`CLOCK_MONOTONIC` would).
public enum RPCClock {
    public static func now() -> Instant {
        var time = timespec()
        let result = clock_gettime(CLOCK_BOOTTIME, &time)
        precondition(result == 0, "Linux has had this clock since 2.6.39")
        return Instant(UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
    }
}

/// An "address:port" or "[address]:port", or "name:port".
public struct NetworkAddress: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    public init(_ text: String) throws(RPCError) {
        let wrong = RPCError(.invalid, "'\(text.cut(toBytes: 256))' is no address: expected ADDRESS:PORT")
        guard let colon = text.lastIndex(of: ":") else { throw wrong }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw wrong
        }
        guard let port = UInt16(text[text.index(after: colon)...]), !host.isEmpty else { throw wrong }
        self.host = String(host)
        self.port = Int(port)
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
