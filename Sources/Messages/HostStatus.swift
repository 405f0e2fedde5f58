// What a host says of itself and its replicas: for `bifrost status`, the demo's proof and the benchmark.

public import Primitives

/// Asks for a host's status. `0 u32`: kept for a choice of parts.
public struct StatusRequest: Message {
    public init() {}
    public func encode(into writer: inout ByteWriter) { writer.write(0 as UInt32) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let parts = try reader.read(UInt32.self)
        guard parts == 0 else { throw DecodingFailure(expected: "0 in a status request", found: "\(parts)") }
    }
}

/// A replica's part in its group at the moment.
public enum ReplicaRole: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case follower = 0
    case preCandidate = 1
    case candidate = 2
    case leader = 3
    case learner = 4
    /// It applies nothing any more; `problem` says why.
    case stopped = 5

    public var description: String {
        switch self {
        case .follower: "follower"
        case .preCandidate: "pre-candidate"
        case .candidate: "candidate"
        case .leader: "leader"
        case .learner: "learner"
        case .stopped: "stopped"
        }
    }
}

/// One replica on a host. Counters count since the process started.
public struct ReplicaStatus: Hashable, Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    public var role: ReplicaRole = .follower
    /// The state is behind the log or damaged: it votes, but neither campaigns nor serves.
    public var isImpaired = false
    /// A leader has heard from a majority lately; a follower from its leader.
    public var isQuorumActive = false
    public var term: Term = .zero
    /// `.none` if unknown.
    public var leader: ReplicaID = .none
    /// First entry still in the journal.
    public var firstIndex: LogIndex = .zero
    public var lastIndex: LogIndex = .zero
    public var commitIndex: LogIndex = .zero
    public var appliedIndex: LogIndex = .zero
    /// Digest of all effects up to `digestIndex`: equal on all replicas at an equal index.
    public var digest: UInt64 = 0
    public var digestIndex: LogIndex = .zero
    public var revision: Revision = .zero
    public var logTime: LogTime = .zero
    /// Records in runs and memtables, those that hide each other counted each: an upper bound.
    public var records: UInt64 = 0
    /// The durable manifest's index.
    public var manifestIndex: LogIndex = .zero
    public var runs: UInt32 = 0
    public var checkpoints: UInt64 = 0
    public var merges: UInt64 = 0
    public var memtableBytes: UInt64 = 0
    /// Entries in memory.
    public var logBytes: UInt64 = 0
    /// Commands applied.
    public var commands: UInt64 = 0
    /// Empty if all is well.
    public var problem = ""

    public init(group: GroupID, replica: ReplicaID) {
        self.group = group
        self.replica = replica
    }

    static let encodedBytesMin = 159

    func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(replica)
        writer.write(role.rawValue)
        writer.write(isImpaired)
        writer.write(isQuorumActive)
        writer.write(term)
        writer.write(leader)
        for index in [firstIndex, lastIndex, commitIndex, appliedIndex] { writer.write(index) }
        writer.write(digest)
        writer.write(digestIndex)
        writer.write(revision)
        writer.write(logTime)
        writer.write(records)
        writer.write(manifestIndex)
        writer.write(runs)
        for count in [checkpoints, merges, memtableBytes, logBytes, commands] { writer.write(count) }
        writer.write(text: problem)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        replica = try reader.read()
        let role = try reader.read(UInt8.self)
        guard let known = ReplicaRole(rawValue: role) else {
            throw DecodingFailure(expected: "a replica's role", found: "\(role)")
        }
        self.role = known
        isImpaired = try reader.readBool()
        isQuorumActive = try reader.readBool()
        term = try reader.read()
        leader = try reader.read()
        firstIndex = try reader.read()
        lastIndex = try reader.read()
        commitIndex = try reader.read()
        appliedIndex = try reader.read()
        digest = try reader.read()
        digestIndex = try reader.read()
        revision = try reader.read()
        logTime = try reader.read()
        records = try reader.read()
        manifestIndex = try reader.read()
        runs = try reader.read()
        checkpoints = try reader.read()
        merges = try reader.read()
        memtableBytes = try reader.read()
        logBytes = try reader.read()
        commands = try reader.read()
        problem = try reader.readText()
    }
}

/// A host's own account. Counters count since the process started.
///
/// `version u16 = 1`, the fields in the order of their declaration, `replicas u32` and each replica's fields in the
/// order
/// of theirs; texts with a length u32, booleans as u8.
public struct HostStatus: Message {
    public var cluster: ClusterID = .none
    public var host = HostID(0)
    public var incarnation = Incarnation(0)
    public var bootCounter: UInt64 = 0
    public var featureLevel: UInt32 = 0
    /// The program's version.
    public var version = ""
    public var name = ""
    public var address = ""
    public var uptimeMillis: UInt64 = 0
    /// Of the map that the host has; 0 for none.
    public var mapVersion: UInt64 = 0
    public var ringEpoch: Epoch = .zero
    /// User and system time of the process.
    public var cpuMicros: UInt64 = 0
    /// Resident.
    public var memoryBytes: UInt64 = 0
    public var journalBytes: UInt64 = 0
    public var storeBytes: UInt64 = 0
    /// Durable commits of the journal, and the entries that they held.
    public var commits: UInt64 = 0
    public var committedEntries: UInt64 = 0
    /// Time of a durable commit, of the last some thousand; 0 before the first.
    public var syncP50Micros: UInt64 = 0
    public var syncP99Micros: UInt64 = 0
    /// Peers with which both connections stand.
    public var peersConnected: UInt32 = 0
    /// Connections closed because of what came over them.
    public var badFrames: UInt64 = 0
    /// Requests answered `overloaded`.
    public var overloads: UInt64 = 0
    /// Empty if all is well: what stops the host as a whole.
    public var problem = ""
    /// Ascending by group. At most `Limits.replicasPerHostMax` are sent.
    public var replicas: [ReplicaStatus] = []

    public init() {}

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(cluster)
        writer.write(host)
        writer.write(incarnation)
        writer.write(bootCounter)
        writer.write(featureLevel)
        for text in [version, name, address] { writer.write(text: text) }
        writer.write(uptimeMillis)
        writer.write(mapVersion)
        writer.write(ringEpoch)
        for number in [
            cpuMicros, memoryBytes, journalBytes, storeBytes, commits, committedEntries, syncP50Micros, syncP99Micros,
        ] {
            writer.write(number)
        }
        writer.write(peersConnected)
        writer.write(badFrames)
        writer.write(overloads)
        writer.write(text: problem)
        writer.write(UInt32(min(replicas.count, Limits.replicasPerHostMax)))
        for replica in replicas.prefix(Limits.replicasPerHostMax) { replica.encode(into: &writer) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a host's status")
        cluster = try reader.readClusterID()
        host = try reader.read()
        incarnation = try reader.read()
        bootCounter = try reader.read()
        featureLevel = try reader.read()
        version = try reader.readText()
        name = try reader.readText()
        address = try reader.readText()
        uptimeMillis = try reader.read()
        mapVersion = try reader.read()
        ringEpoch = try reader.read()
        cpuMicros = try reader.read()
        memoryBytes = try reader.read()
        journalBytes = try reader.read()
        storeBytes = try reader.read()
        commits = try reader.read()
        committedEntries = try reader.read()
        syncP50Micros = try reader.read()
        syncP99Micros = try reader.read()
        peersConnected = try reader.read()
        badFrames = try reader.read()
        overloads = try reader.read()
        problem = try reader.readText()
        let count = Int(try reader.read(UInt32.self))
        guard count <= Limits.replicasPerHostMax else {
            throw DecodingFailure(expected: "at most \(Limits.replicasPerHostMax) replicas", found: "\(count)")
        }
        try reader.check(count: count, ofSize: ReplicaStatus.encodedBytesMin)
        for _ in 0..<count { replicas.append(try ReplicaStatus(from: &reader)) }
    }
}
