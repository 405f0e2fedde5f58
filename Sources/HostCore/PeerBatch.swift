// What one host says to another in one turn: a heartbeat or its answer, floors, and the messages of many groups.

public import Primitives
public import RaftCore

/// A host's word that it lives, and in short form which groups it leads on the receiver: `digest` is the sum over
/// those groups of `livenessDigest`, so that ten thousand idle groups cost one number.
public struct HostHeartbeat: Hashable, Sendable {
    public var sequence: UInt64
    public var groups: UInt32
    public var digest: UInt64
    /// Of the map that the sender has.
    public var mapVersion: UInt64
    /// Sum over the receiver's silent replicas that the sender knows of: they are not in `digest`.
    public var silence: UInt64

    public init(sequence: UInt64, groups: UInt32, digest: UInt64, mapVersion: UInt64 = 0, silence: UInt64 = 0) {
        self.sequence = sequence
        self.groups = groups
        self.digest = digest
        self.mapVersion = mapVersion
        self.silence = silence
    }
}

/// The answer: whether the receiver follows the sender in exactly those groups and terms.
public struct HostHeartbeatReply: Hashable, Sendable {
    public var sequence: UInt64
    public var agrees: Bool
    /// So long, by the receiver's clock and from before this was said, none of those groups votes for anybody else.
    /// 0: nothing is promised.
    public var promisedMicroseconds: UInt32

    public init(sequence: UInt64, agrees: Bool, promisedMicroseconds: UInt32 = 0) {
        self.sequence = sequence
        self.agrees = agrees
        self.promisedMicroseconds = promisedMicroseconds
    }
}

/// A group's part in a host's digest.
public func livenessDigest(group: GroupID, term: Term) -> UInt64 {
    mix(mix(UInt64(group.rawValue)) ^ term.rawValue)
}

/// All members of the group have everything up to `index` on disk: nobody will ask for it again.
public struct LogFloor: Hashable, Sendable {
    public var group: GroupID
    public var index: LogIndex

    public init(group: GroupID, index: LogIndex) {
        self.group = group
        self.index = index
    }
}

/// The payload of one consensus frame:
///
///     version u8 = 1 to 3 | parts u8 (bit 0 heartbeat, bit 1 reply, bit 2 silent replicas: version 3) | 0 u16
///     heartbeat: sequence u64 | groups u32 | digest u64        if bit 0
///            map version u64                                  … version 2
///            silence u64                                      … version 3
///     reply: sequence u64 | agrees u8                          if bit 1
///            promised u32, microseconds                        … version 2
///     silent replicas: count u32, then group u32 | id u64 each if bit 2
///     floors: count u32, then group u32 | index u64 each
///     snapshots: count u32, then SnapshotMessage each          version 2
///     words: count u32, then ClusterWord each                  version 2
///     messages: count u32, then group u32 | RaftMessage each
///
/// Written in one pass per turn; the count of messages is filled in at the end. Version 2 is written for hosts of feature
/// level 2 and above, version 3 for those of level 4 and above; those below do not know it.
public struct PeerBatchWriter: ~Copyable {
    private var messages: ByteWriter
    public private(set) var messageCount: UInt32 = 0
    public var heartbeat: HostHeartbeat?
    public var reply: HostHeartbeatReply?
    /// All that the sender has, if the receiver knows of others. From version 3 on.
    package var silent: [SilentReplica]?
    public var floors: [LogFloor] = []
    private var snapshots: [SnapshotMessage] = []
    private var words: [ClusterWord] = []
    private var snapshotBytes = 0
    /// The newest that the receiver knows.
    public var version: UInt8 = 3

    public init() { messages = ByteWriter(capacity: 4096) }

    public var isEmpty: Bool {
        messageCount == 0 && heartbeat == nil && reply == nil && silent == nil && floors.isEmpty && snapshots.isEmpty
            && words.isEmpty
    }
    public var messageBytes: Int { messages.count + snapshotBytes + (silent?.count ?? 0) * SilentReplica.encodedBytes }

    package mutating func append(_ snapshot: SnapshotMessage) {
        snapshots.append(snapshot)
        snapshotBytes += snapshot.encodedBytes
    }

    package mutating func append(_ word: ClusterWord) { words.append(word) }

    public mutating func append(_ message: RaftMessage, group: GroupID) {
        messages.write(group)
        message.encode(into: &messages)
        messageCount += 1
    }

    /// The frame's payload, if anything was written; the writer is empty afterwards.
    public mutating func takeIfAny() -> Bytes? { isEmpty ? nil : take() }

    /// The frame's payload; the writer is empty afterwards.
    public mutating func take() -> Bytes {
        var head = ByteWriter(capacity: 64 + floors.count * 12 + snapshotBytes + messages.count)
        let version: UInt8 = snapshots.isEmpty && words.isEmpty ? version : max(version, 2)
        let silent = version >= 3 ? silent : nil
        head.write(version)
        head.write(UInt8((heartbeat == nil ? 0 : 1) | (reply == nil ? 0 : 2) | (silent == nil ? 0 : 4)))
        head.write(0 as UInt16)
        if let heartbeat {
            head.write(heartbeat.sequence)
            head.write(heartbeat.groups)
            head.write(heartbeat.digest)
            if version >= 2 { head.write(heartbeat.mapVersion) }
            if version >= 3 { head.write(heartbeat.silence) }
        }
        if let reply {
            head.write(reply.sequence)
            head.write(reply.agrees)
            if version >= 2 { head.write(reply.promisedMicroseconds) }
        }
        if let silent {
            head.write(UInt32(silent.count))
            for replica in silent {
                head.write(replica.group)
                head.write(replica.id)
            }
        }
        head.write(UInt32(floors.count))
        for floor in floors {
            head.write(floor.group)
            head.write(floor.index)
        }
        if version >= 2 {
            head.write(UInt32(snapshots.count))
            for snapshot in snapshots { snapshot.encode(into: &head) }
            snapshots = []
            snapshotBytes = 0
            head.write(UInt32(words.count))
            for word in words { word.encode(into: &head) }
            words = []
        }
        head.write(messageCount)
        messages.withUnsafeBytes { head.write(bytes: $0) }
        messages.removeAll()
        messageCount = 0
        heartbeat = nil
        reply = nil
        self.silent = nil
        floors.clear()
        return head.take()
    }
}

/// Reads such a payload message by message; entries' payloads are slices of the frame.
public struct PeerBatchReader: ~Copyable {
    public let heartbeat: HostHeartbeat?
    public let reply: HostHeartbeatReply?
    /// nil: nothing was said of them.
    package let silent: [SilentReplica]?
    public let floors: [LogFloor]
    package let snapshots: [SnapshotMessage]
    package let words: [ClusterWord]
    private var reader: ByteReader
    private var left: Int

    public init(_ payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        let version = try reader.read(UInt8.self)
        guard (1...3).contains(version) else {
            throw DecodingFailure(expected: "a peer batch of version 1 to 3", found: "version \(version)")
        }
        let parts = try reader.read(UInt8.self)
        guard parts < (version >= 3 ? 8 : 4) else {
            throw DecodingFailure(expected: "parts of a peer batch", found: "bits \(parts)")
        }
        _ = try reader.read(UInt16.self)
        var heartbeat: HostHeartbeat?
        if parts & 1 != 0 {
            heartbeat = HostHeartbeat(
                sequence: try reader.read(), groups: try reader.read(), digest: try reader.read())
            if version >= 2 { heartbeat?.mapVersion = try reader.read() }
            if version >= 3 { heartbeat?.silence = try reader.read() }
        }
        var reply: HostHeartbeatReply?
        if parts & 2 != 0 {
            reply = HostHeartbeatReply(sequence: try reader.read(), agrees: try reader.readBool())
            if version >= 2 { reply?.promisedMicroseconds = try reader.read() }
        }
        var silent: [SilentReplica]?
        if parts & 4 != 0 {
            let count = Int(try reader.read(UInt32.self))
            try reader.check(count: count, ofSize: SilentReplica.encodedBytes)
            var replicas: [SilentReplica] = []
            for _ in 0..<count { replicas.append(SilentReplica(group: try reader.read(), id: try reader.read())) }
            for (replica, next) in zip(replicas, replicas.dropFirst()) where replica.group >= next.group {
                throw DecodingFailure(
                    expected: "silent replicas ascending by group", found: "\(next.group) after \(replica.group)")
            }
            silent = replicas
        }
        let floorCount = Int(try reader.read(UInt32.self))
        try reader.check(count: floorCount, ofSize: 12)
        var floors: [LogFloor] = []
        if floorCount > 0 { floors.reserveCapacity(floorCount) }
        for _ in 0..<floorCount { floors.append(LogFloor(group: try reader.read(), index: try reader.read())) }
        var snapshots: [SnapshotMessage] = []
        var words: [ClusterWord] = []
        if version >= 2 {
            let count = Int(try reader.read(UInt32.self))
            try reader.check(count: count, ofSize: 21)
            for _ in 0..<count { snapshots.append(try SnapshotMessage(from: &reader)) }
            let wordCount = Int(try reader.read(UInt32.self))
            try reader.check(count: wordCount, ofSize: ClusterWord.encodedBytesMin)
            for _ in 0..<wordCount { words.append(try ClusterWord(from: &reader)) }
        }
        left = Int(try reader.read(UInt32.self))
        self.heartbeat = heartbeat
        self.reply = reply
        self.silent = silent
        self.floors = floors
        self.snapshots = snapshots
        self.words = words
        self.reader = reader
    }

    /// The next message with its group, or nil at the end.
    public mutating func next() throws(DecodingFailure) -> (group: GroupID, message: RaftMessage)? {
        guard left > 0 else {
            try reader.expectEnd()
            return nil
        }
        left -= 1
        let group = try reader.read(GroupID.self)
        return (group, try RaftMessage(from: &reader))
    }
}

/// What of such a payload is for one loop of the host.
public struct PeerBatchPart: Sendable {
    package private(set) var messages: [(group: GroupID, message: RaftMessage)] = []
    package private(set) var floors: [LogFloor] = []
    package private(set) var snapshots: [SnapshotMessage] = []
    /// Loop 0's, but for those on one group's digests, migrations or loads.
    package private(set) var words: [ClusterWord] = []
    package private(set) var heartbeat: HostHeartbeat?
    package private(set) var reply: HostHeartbeatReply?
    /// Its groups' of those that the other host named; nil: nothing was said of them.
    package private(set) var silent: [SilentReplica]?

    private init() {}

    /// Reads a whole payload and deals it out, in order. By the loop of the connection that it came over; hand the
    /// parts to the other loops first and to loop 0 last, which compares heartbeats with what all loops made of it.
    ///
    /// - Returns: one place for each loop; nil if there is nothing for it.
    /// - Throws: when the payload is malformed: then nobody gets anything, and the shell closes that connection.
    public static func split(_ payload: Bytes, loops: Int) throws(DecodingFailure) -> [PeerBatchPart?] {
        var parts = [PeerBatchPart?](repeating: nil, count: loops)
        var batch = try PeerBatchReader(payload)
        while let (group, message) = try batch.next() {
            parts[LoopPlace.owner(of: group, loops: loops), default: PeerBatchPart()].messages.append((group, message))
        }
        for floor in batch.floors {
            parts[LoopPlace.owner(of: floor.group, loops: loops), default: PeerBatchPart()].floors.append(floor)
        }
        for snapshot in batch.snapshots {
            parts[LoopPlace.owner(of: snapshot.group, loops: loops), default: PeerBatchPart()].snapshots.append(
                snapshot)
        }
        for word in batch.words {
            var loop = 0
            if case .digest(let digest) = word { loop = LoopPlace.owner(of: digest.group, loops: loops) }
            if case .migration(let word) = word { loop = LoopPlace.owner(of: word.group, loops: loops) }
            if case .load(let word) = word { loop = LoopPlace.owner(of: word.group, loops: loops) }
            parts[loop, default: PeerBatchPart()].words.append(word)
        }
        if let silent = batch.silent {
            for loop in 0..<loops { parts[loop, default: PeerBatchPart()].silent = [] }
            for replica in silent {
                parts[LoopPlace.owner(of: replica.group, loops: loops), default: PeerBatchPart()].silent?.append(
                    replica)
            }
        }
        if batch.heartbeat != nil || batch.reply != nil {
            parts[0, default: PeerBatchPart()].heartbeat = batch.heartbeat
            parts[0, default: PeerBatchPart()].reply = batch.reply
        }
        return parts
    }
}

extension Array {
    /// In place: an optional element, filled if it is nil.
    fileprivate subscript<Wrapped>(place: Int, default filling: @autoclosure () -> Wrapped) -> Wrapped
    where Element == Wrapped? {
        get { self[place] ?? filling() }
        _modify {
            var value = self[place].take() ?? filling()
            defer { self[place] = value }
            yield &value
        }
    }
}
