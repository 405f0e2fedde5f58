// The cluster service: the map, how a cluster begins and grows, and who is there. A host's status has its own file.

public import Primitives
public import Ring

/// Asks for the cluster's map. `known version u64`
public struct MapRequest: Message {
    /// The version that the asker has; 0 for none.
    public var known: UInt64
    public init(known: UInt64 = 0) { self.known = known }
    public func encode(into writer: inout ByteWriter) { writer.write(known) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { known = try reader.read() }
}

/// `kind u8`, then by kind: 0 not initialised; 1 unchanged: `version u64`; 2 `map`, in the form for clients (`ClusterMap.Form`).
/// Kept for later: 3 a delta of the ring.
public enum MapReply: Message {
    /// The host belongs to no cluster yet.
    case notInitialised
    /// The host has nothing newer than what the asker named.
    case unchanged(version: UInt64)
    /// It is sent without its policy, whoever asks: users and their tokens' hashes are the hosts' affair.
    case map(ClusterMap)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .notInitialised: writer.write(0 as UInt8)
        case .unchanged(let version):
            writer.write(1 as UInt8)
            writer.write(version)
        case .map(let map):
            writer.write(2 as UInt8)
            map.withoutAccess.encode(into: &writer)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 0: self = .notInitialised
        case 1: self = .unchanged(version: try reader.read())
        case 2: self = .map(try ClusterMap(from: &reader, form: .clients))
        default: throw DecodingFailure(expected: "a map's reply of kind 0, 1 or 2", found: "kind \(kind)")
        }
    }
}

/// Makes a host that belongs to no cluster a member of a new one. Sent to each host of the first map.
///
/// `version u16 = 1 | host u64 | incarnation u64 | map`
public struct InitialiseRequest: Message {
    /// The receiver's id in the map.
    public var host: HostID
    /// The receiver's incarnation as the sender heard it: a host that lost its disk in between refuses.
    public var incarnation: Incarnation
    public var map: ClusterMap

    public init(host: HostID, incarnation: Incarnation, map: ClusterMap) {
        self.host = host
        self.incarnation = incarnation
        self.map = map
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(host)
        writer.write(incarnation)
        map.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "an initialise request")
        host = try reader.read()
        incarnation = try reader.read()
        map = try ClusterMap(from: &reader)
    }
}

/// `kind u8`, then by kind: 0 done; 1 already: `cluster u64 × 2`; 2 refused: `text`.
public enum InitialiseReply: Message {
    /// The host is a member now, durably. Also the answer to a repeated request of the same cluster.
    case done
    /// The host belongs to this cluster, which is not the one named.
    case already(ClusterID)
    case refused(String)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .done: writer.write(0 as UInt8)
        case .already(let cluster):
            writer.write(1 as UInt8)
            writer.write(cluster)
        case .refused(let text):
            writer.write(2 as UInt8)
            writer.write(text: text)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 0: self = .done
        case 1: self = .already(try reader.readClusterID())
        case 2: self = .refused(try reader.readText())
        default: throw DecodingFailure(expected: "an initialise reply of kind 0, 1 or 2", found: "kind \(kind)")
        }
    }
}

/// A host announces itself to a cluster, or to the host that will found it.
///
/// `version u16 = 1 | cluster u64 × 2 | host u64 | incarnation u64 | feature level u32 | weight u32 | name, address,
/// zone: texts`
public struct JoinRequest: Message {
    /// The cluster that the host believes to belong to; `.none` for a new host, which takes the cluster that it finds.
    public var cluster: ClusterID
    /// The id that the host has; 0 for a new host.
    public var host: HostID
    public var incarnation: Incarnation
    public var featureLevel: UInt32
    public var weight: UInt32
    public var name: String
    /// "address:port" where it listens.
    public var address: String
    public var zone: String

    public init(
        cluster: ClusterID = .none, host: HostID = HostID(0), incarnation: Incarnation, featureLevel: UInt32,
        weight: UInt32 = 100, name: String, address: String, zone: String = ""
    ) {
        self.cluster = cluster
        self.host = host
        self.incarnation = incarnation
        self.featureLevel = featureLevel
        self.weight = weight
        self.name = name
        self.address = address
        self.zone = zone
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(cluster)
        writer.write(host)
        writer.write(incarnation)
        writer.write(featureLevel)
        writer.write(weight)
        for text in [name, address, zone] { writer.write(text: text) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a join request")
        cluster = try reader.readClusterID()
        host = try reader.read()
        incarnation = try reader.read()
        featureLevel = try reader.read()
        weight = try reader.read()
        name = try reader.readText()
        address = try reader.readText()
        zone = try reader.readText()
    }
}

/// `kind u8`, then by kind: 0 accepted: `cluster u64 × 2, host u64, map version u64`; 1 notInitialised;
/// 2 notLeader: `host u64, address text`; 3 refused: `text`; 4 retry: `millis u32`.
public enum JoinReply: Message {
    /// The host is registered, under this id.
    case accepted(cluster: ClusterID, host: HostID, mapVersion: UInt64)
    /// There is no cluster here yet; the announcement is noted. Ask again.
    case notInitialised
    /// Ask there; an empty address means that the leader of the meta group is unknown at the moment.
    case notLeader(host: HostID, address: String)
    /// Never, as it stands: another cluster, an address that another host has, a feature level too low.
    case refused(String)
    /// Not now: no quorum or too much to do.
    case retry(afterMillis: UInt32)

    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .accepted(let cluster, let host, let mapVersion):
            writer.write(0 as UInt8)
            writer.write(cluster)
            writer.write(host)
            writer.write(mapVersion)
        case .notInitialised: writer.write(1 as UInt8)
        case .notLeader(let host, let address):
            writer.write(2 as UInt8)
            writer.write(host)
            writer.write(text: address)
        case .refused(let text):
            writer.write(3 as UInt8)
            writer.write(text: text)
        case .retry(let millis):
            writer.write(4 as UInt8)
            writer.write(millis)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 0:
            self = .accepted(
                cluster: try reader.readClusterID(), host: try reader.read(), mapVersion: try reader.read())
        case 1: self = .notInitialised
        case 2: self = .notLeader(host: try reader.read(), address: try reader.readText())
        case 3: self = .refused(try reader.readText())
        case 4: self = .retry(afterMillis: try reader.read())
        default: throw DecodingFailure(expected: "a join reply of kind 0 to 4", found: "kind \(kind)")
        }
    }
}

/// Who is there? `nonce u64`
public struct PingRequest: Message {
    /// Comes back in the reply.
    public var nonce: UInt64
    public init(nonce: UInt64 = 0) { self.nonce = nonce }
    public func encode(into writer: inout ByteWriter) { writer.write(nonce) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { nonce = try reader.read() }
}

/// `version u16 = 1 | nonce u64 | cluster u64 × 2 | host u64 | incarnation u64 | boot u64 | feature level u32 | map
/// version u64 | name, address, zone: texts`
public struct PingReply: Message {
    public var nonce: UInt64
    /// `.none` before the host belongs to one.
    public var cluster: ClusterID
    /// 0 before the host belongs to a cluster.
    public var host: HostID
    public var incarnation: Incarnation
    /// How often this data directory was opened.
    public var bootCounter: UInt64
    public var featureLevel: UInt32
    /// 0 if the host has no map.
    public var mapVersion: UInt64
    public var name: String
    /// "address:port" where it listens.
    public var address: String
    public var zone: String

    public init(
        nonce: UInt64, cluster: ClusterID, host: HostID, incarnation: Incarnation, bootCounter: UInt64,
        featureLevel: UInt32, mapVersion: UInt64, name: String, address: String, zone: String
    ) {
        self.nonce = nonce
        self.cluster = cluster
        self.host = host
        self.incarnation = incarnation
        self.bootCounter = bootCounter
        self.featureLevel = featureLevel
        self.mapVersion = mapVersion
        self.name = name
        self.address = address
        self.zone = zone
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(nonce)
        writer.write(cluster)
        writer.write(host)
        writer.write(incarnation)
        writer.write(bootCounter)
        writer.write(featureLevel)
        writer.write(mapVersion)
        for text in [name, address, zone] { writer.write(text: text) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a ping's reply")
        nonce = try reader.read()
        cluster = try reader.readClusterID()
        host = try reader.read()
        incarnation = try reader.read()
        bootCounter = try reader.read()
        featureLevel = try reader.read()
        mapVersion = try reader.read()
        name = try reader.readText()
        address = try reader.readText()
        zone = try reader.readText()
    }
}
