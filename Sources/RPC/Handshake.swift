// The first two frames of a connection: who calls, who answers, and whether they may talk. Owns the bytes of both and
// the
// rules that hold for every host. Whether an incarnation is still welcome is the host's own decision.

public import Primitives

/// What a connection is for.
public enum PeerRole: UInt8, Sendable {
    /// Heartbeats and consensus between hosts; nothing large waits in front of them.
    case consensus = 1
    /// Snapshots and migrations between hosts.
    case bulk = 2
    case client = 3
}

/// How one side of a connection names itself.
public struct PeerIdentity: Hashable, Sendable {
    /// `.none`: a host that was not initialised, or a client that does not know its cluster yet.
    public var cluster: ClusterID
    /// 0 for clients.
    public var host: HostID
    public var incarnation: Incarnation
    public var bootCounter: UInt64
    public var featureLevel: UInt32
    /// For logs; at most 256 bytes of UTF-8.
    public var name: String

    static let nameBytesMax = 256

    public init(
        cluster: ClusterID = .none, host: HostID = HostID(0), incarnation: Incarnation = Incarnation(0),
        bootCounter: UInt64 = 0, featureLevel: UInt32 = 0, name: String = ""
    ) {
        self.cluster = cluster
        self.host = host
        self.incarnation = incarnation
        self.bootCounter = bootCounter
        self.featureLevel = featureLevel
        self.name = name.cut(toBytes: Self.nameBytesMax)
    }

    /// feature level u32 | cluster 16 bytes | host u64 | incarnation u64 | boot counter u64 | length u32, name
    func encode(into writer: inout ByteWriter) {
        writer.write(featureLevel)
        writer.write(cluster)
        writer.write(host)
        writer.write(incarnation)
        writer.write(bootCounter)
        writer.writeWithLength(name)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let featureLevel: UInt32 = try reader.read()
        let cluster = try reader.readClusterID()
        self.init(
            cluster: cluster, host: try reader.read(), incarnation: try reader.read(), bootCounter: try reader.read(),
            featureLevel: featureLevel, name: try reader.readStringWithLength(limit: Self.nameBytesMax))
    }
}

/// The payload of the first frame, sent by the side that connected:
/// lowest version u8 | highest version u8 | role u8 | 0 u8 | target host u64 | identity.
public struct Hello: Hashable, Sendable {
    public var versionMin: UInt8
    public var versionMax: UInt8
    public var role: PeerRole
    /// The host that the caller means to reach; 0 is any.
    public var target: HostID
    public var identity: PeerIdentity

    public init(
        role: PeerRole, identity: PeerIdentity, target: HostID = HostID(0),
        versionMin: UInt8 = FrameHeader.versions.lowerBound, versionMax: UInt8 = FrameHeader.versions.upperBound
    ) {
        self.versionMin = versionMin
        self.versionMax = versionMax
        self.role = role
        self.target = target
        self.identity = identity
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(versionMin)
        writer.write(versionMax)
        writer.write(role.rawValue)
        writer.write(0 as UInt8)
        writer.write(target)
        identity.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let versionMin: UInt8 = try reader.read()
        let versionMax: UInt8 = try reader.read()
        let number: UInt8 = try reader.read()
        let zero: UInt8 = try reader.read()
        guard let role = PeerRole(rawValue: number), zero == 0 else {
            throw DecodingFailure(expected: "a role from 1 to 3 and a zero", found: "\(number) and \(zero)")
        }
        let target: HostID = try reader.read()
        self.init(
            role: role, identity: try PeerIdentity(from: &reader), target: target,
            versionMin: versionMin, versionMax: versionMax)
        try reader.expectEnd()
    }

    /// The rules of every host with this identity; nil: nothing speaks against it. A host that was not initialised
    /// accepts
    /// clients, so that one of them can initialise it, and no peers.
    public func refusal(at own: PeerIdentity) -> RPCError? {
        // The cluster first: a number says nothing about a host of another one.
        if role == .client {
            guard identity.cluster == .none || own.cluster == .none || identity.cluster == own.cluster else {
                return wrongCluster(own)
            }
        } else {
            guard own.cluster != .none else {
                return RPCError(.wrongCluster, "this host belongs to no cluster yet: it was not initialised")
            }
            guard identity.cluster == own.cluster else { return wrongCluster(own) }
        }
        if target != HostID(0), own.host != HostID(0), target != own.host {
            return RPCError(
                .wrongHost, "this host is number \(own.host), expected number \(target): check the addresses")
        }
        guard role == .client || identity.host != HostID(0) else {
            return RPCError(.forbiddenRole, "a peer must say which host it is")
        }
        return nil
    }

    private func wrongCluster(_ own: PeerIdentity) -> RPCError {
        RPCError(.wrongCluster, "this host belongs to cluster \(own.cluster), expected \(identity.cluster)")
    }
}

/// The payload of the second frame, sent by the side that listens:
/// status u16 (0 accepted) | version u8 | 0 u8, and then, when accepted, calls in flight max u32 | payload bytes max
/// u32 |
/// identity; when refused, length u32, text.
public enum HelloReply: Hashable, Sendable {
    case accepted(Welcome)
    case refused(RPCError)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .accepted(let welcome):
            writer.write(0 as UInt16)
            writer.write(welcome.version)
            writer.write(0 as UInt8)
            writer.write(welcome.callsInFlightMax)
            writer.write(welcome.payloadBytesMax)
            welcome.identity.encode(into: &writer)
        case .refused(let error):
            writer.write(error.code.rawValue)
            writer.write(0 as UInt16)
            writer.writeWithLength(error.message.cut(toBytes: RPCError.messageBytesMax))
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let status: UInt16 = try reader.read()
        let version: UInt8 = try reader.read()
        let zero: UInt8 = try reader.read()
        guard zero == 0 else { throw DecodingFailure(expected: "a zero", found: "\(zero)") }
        if status == 0 {
            let callsInFlightMax: UInt32 = try reader.read()
            let payloadBytesMax: UInt32 = try reader.read()
            self = .accepted(
                Welcome(
                    identity: try PeerIdentity(from: &reader), version: version, callsInFlightMax: callsInFlightMax,
                    payloadBytesMax: payloadBytesMax))
        } else {
            let text = try reader.readStringWithLength(limit: RPCError.messageBytesMax)
            self = .refused(RPCError(RPCError.Code(rawValue: status), text))
        }
        try reader.expectEnd()
    }
}

/// What the listening side says of itself when it accepts.
public struct Welcome: Hashable, Sendable {
    public var identity: PeerIdentity
    /// The version that both speak from now on.
    public var version: UInt8
    /// How many calls the server lets this connection have in flight: beyond it, it stops reading.
    public var callsInFlightMax: UInt32
    public var payloadBytesMax: UInt32

    public init(identity: PeerIdentity, version: UInt8, callsInFlightMax: UInt32, payloadBytesMax: UInt32) {
        self.identity = identity
        self.version = version
        self.callsInFlightMax = callsInFlightMax
        self.payloadBytesMax = payloadBytesMax
    }
}

/// The host's decision about a caller.
public enum HandshakeAnswer: Sendable {
    /// Accepted; the identity is what this host says of itself.
    case accept(PeerIdentity)
    case refuse(RPCError)
}

/// The host's part of a handshake. Asked on the connection's event loop, must answer at once; `Hello.refusal(at:)` has
/// the
/// rules that are common to all hosts.
public protocol HandshakePolicy: Sendable {
    func answer(to hello: Hello, from address: String) -> HandshakeAnswer
}

/// Accepts what the common rules accept, with an identity that does not change.
public struct FixedIdentityPolicy: HandshakePolicy {
    public var identity: PeerIdentity
    public init(identity: PeerIdentity) { self.identity = identity }
    public func answer(to hello: Hello, from address: String) -> HandshakeAnswer {
        if let refusal = hello.refusal(at: identity) { return .refuse(refusal) }
        return .accept(identity)
    }
}
