// What can go wrong with a call or a connection, and what the caller may conclude from it.

import Primitives

/// The failure of a call, a handshake or a connection. Equal by code.
public struct RPCError: Error, Sendable, Hashable, CustomStringConvertible {
    /// Stable numbers: below 1,000 they travel in error frames and refused handshakes, from 1,000 on they are this
    /// side's own.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        init(_ rawValue: UInt16) { self.rawValue = rawValue }

        /// No service of this number is offered here.
        public static let unknownService = Code(1)
        public static let unknownMethod = Code(2)
        /// The request's body was not understood. Nothing was done.
        public static let invalid = Code(3)
        /// Nothing was done; try later.
        public static let overloaded = Code(4)
        /// This host is stopping or not ready. Nothing was done; try another.
        public static let unavailable = Code(5)
        /// The time given with the call is over.
        public static let deadlineExceeded = Code(6)
        /// The service failed in a way that is its own fault.
        public static let internalFailure = Code(7)
        /// The call may have been carried out; its answer was too long, or too much was waiting to be sent already.
        public static let answerDropped = Code(8)
        /// The caller took the call back.
        public static let cancelled = Code(9)

        public static let wrongCluster = Code(100)
        public static let wrongHost = Code(101)
        public static let refusedIncarnation = Code(102)
        public static let unsupportedVersion = Code(103)
        public static let tooManyConnections = Code(104)
        public static let handshakeTimeout = Code(105)
        public static let forbiddenRole = Code(106)

        /// There is no connection now. Nothing was sent.
        public static let notConnected = Code(1_000)
        /// The connection ended before the answer came: see `mayHaveBeenSent`.
        public static let connectionLost = Code(1_001)
        public static let connectFailed = Code(1_002)
        /// The peer sent what is no frame.
        public static let badFrame = Code(1_003)
        /// This side closed the connection.
        public static let closed = Code(1_004)
        /// The request is longer than a frame may be. Nothing was sent.
        public static let tooLarge = Code(1_005)
        public static let cannotListen = Code(1_006)
        /// Nobody listens at the address: the system there said so at once.
        public static let connectRefused = Code(1_007)
    }

    public var code: Code
    /// What was expected, what came, what to do. Holds no keys or values.
    public var message: String
    /// False: the request certainly never left this process, or the host says that it did nothing. True: it may have
    /// been
    /// carried out.
    public var mayHaveBeenSent: Bool

    public init(_ code: Code, _ message: String, mayHaveBeenSent: Bool = false) {
        self.code = code
        self.message = message
        self.mayHaveBeenSent = mayHaveBeenSent
    }

    public static func == (left: RPCError, right: RPCError) -> Bool { left.code == right.code }
    public func hash(into hasher: inout Hasher) { hasher.combine(code) }
    public var description: String { message }
}

/// An error frame's payload: code u16 | flags u16 (bit 0: may have been carried out) | length u32, UTF-8.
extension RPCError {
    /// Longer texts are cut before they are sent, and refused when they come.
    static let messageBytesMax = 512

    func encode(into writer: inout ByteWriter) {
        writer.write(code.rawValue)
        writer.write((mayHaveBeenSent ? 1 : 0) as UInt16)
        writer.writeWithLength(message.cut(toBytes: Self.messageBytesMax))
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let code = Code(rawValue: try reader.read())
        let flags: UInt16 = try reader.read()
        guard flags < 2 else { throw DecodingFailure(expected: "an error's flags", found: "\(flags)") }
        self.init(code, try reader.readStringWithLength(limit: Self.messageBytesMax), mayHaveBeenSent: flags == 1)
    }
}

extension String {
    /// A prefix of at most `limit` bytes of UTF-8 that does not end within a character.
    func cut(toBytes limit: Int) -> String {
        guard utf8.count > limit else { return self }
        var end = utf8.index(utf8.startIndex, offsetBy: limit)
        while end.samePosition(in: self) == nil { end = utf8.index(before: end) }
        return String(self[..<end])
    }
}
