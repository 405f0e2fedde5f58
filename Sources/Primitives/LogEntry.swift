// What a group's log is made of, as consensus, journal and wire share it.

/// What an entry is for. A kind that this version does not know is kept as it came, and stops the replica when applied.
public struct EntryKind: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Nothing: a leader's first entry of its term (Raft thesis §6.4).
    @inlinable public static var empty: EntryKind { EntryKind(rawValue: 0) }
    /// A command for a sub state machine; the payload begins with a command header (see `Documentation/Formats.md`).
    @inlinable public static var command: EntryKind { EntryKind(rawValue: 1) }
    /// A `Configuration`, in effect from its append on (Raft thesis §4.1).
    @inlinable public static var configuration: EntryKind { EntryKind(rawValue: 2) }
}

/// One entry of a group's log.
public struct LogEntry: Hashable, Sendable {
    public var index: LogIndex
    public var term: Term
    /// The group's elapsed time as the leader wrote it; never falls along the log.
    public var logTime: LogTime
    public var kind: EntryKind
    public var payload: Bytes

    @inlinable public init(index: LogIndex, term: Term, logTime: LogTime, kind: EntryKind, payload: Bytes) {
        self.index = index
        self.term = term
        self.logTime = logTime
        self.kind = kind
        self.payload = payload
    }

    /// Bytes that `encode` adds in front of the payload.
    @inlinable public static var headerBytes: Int { 24 }
    @inlinable public var encodedBytes: Int { Self.headerBytes + payload.count }
}

extension LogEntry {
    /// `term u64 | log time u64 | kind u8 | 0 u8 × 3 | payload length u32 | payload`. The index is not written: entries
    /// stand in the order of the log behind a header that names the first. One encoding serves wire and journal.
    public func encode(into writer: inout ByteWriter) {
        let place = writer.extend(by: encodedBytes)
        encode(into: place)
    }

    /// The same into memory of exactly `encodedBytes` bytes.
    public func encode(into place: UnsafeMutableRawBufferPointer) {
        precondition(place.count == encodedBytes)
        place.storeBytes(of: term.rawValue.littleEndian, toByteOffset: 0, as: UInt64.self)
        place.storeBytes(of: logTime.rawValue.littleEndian, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: UInt32(kind.rawValue).littleEndian, toByteOffset: 16, as: UInt32.self)
        place.storeBytes(of: UInt32(payload.count).littleEndian, toByteOffset: 20, as: UInt32.self)
        payload.withUnsafeBytes {
            UnsafeMutableRawBufferPointer(rebasing: place[Self.headerBytes...]).copyMemory(from: $0)
        }
    }

    /// Reads what `encode` wrote; the payload shares the reader's storage.
    public init(index: LogIndex, from reader: inout ByteReader) throws(DecodingFailure) {
        let term = try reader.read(Term.self)
        let logTime = try reader.read(LogTime.self)
        let kind = try reader.read(UInt32.self)
        guard kind < 256 else { throw DecodingFailure(expected: "an entry's kind", found: "\(kind)") }
        self.init(
            index: index, term: term, logTime: logTime, kind: EntryKind(rawValue: UInt8(kind)),
            payload: try reader.readBytesWithLength())
    }
}

/// What a replica must never forget (Raft paper, figure 2): kept in the journal.
public struct HardState: Hashable, Sendable {
    public var term: Term
    /// The candidate voted for in `term`; `.none` if no vote was given.
    public var vote: ReplicaID
    /// The highest index known to be committed when this was written: a hint that only grows, for a faster restart.
    public var commit: LogIndex

    public init(term: Term = .zero, vote: ReplicaID = .none, commit: LogIndex = .zero) {
        self.term = term
        self.vote = vote
        self.commit = commit
    }
}

/// A group's members. Joint while `outgoing` is not empty: then both majorities count (Raft thesis §4.3).
public struct Configuration: Hashable, Sendable {
    /// Index of the entry that made it; 0 for the group's first.
    public var index: LogIndex
    /// Sorted, as are the others.
    public var voters: [ReplicaID]
    public var outgoing: [ReplicaID]
    public var learners: [ReplicaID]

    public init(index: LogIndex = .zero, voters: [ReplicaID], outgoing: [ReplicaID] = [], learners: [ReplicaID] = []) {
        self.index = index
        self.voters = voters.sorted()
        self.outgoing = outgoing.sorted()
        self.learners = learners.sorted()
    }

    public var isJoint: Bool { !outgoing.isEmpty }

    /// Every replica with a part in the group, once, sorted.
    public var members: [ReplicaID] {
        // Nearly always: nobody comes or goes, and nothing has to be made.
        if outgoing.isEmpty, learners.isEmpty, zip(voters, voters.dropFirst()).allSatisfy({ $0 < $1 }) { return voters }
        var all = voters + outgoing + learners
        all.sort()
        var unique: [ReplicaID] = []
        for replica in all where unique.last != replica { unique.append(replica) }
        return unique
    }

    /// `version u16 = 1 | index u64 | voters: count u16, id u64 … | outgoing likewise | learners likewise`
    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(index)
        for list in [voters, outgoing, learners] {
            writer.write(UInt16(list.count))
            for replica in list { writer.write(replica) }
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == 1 else {
            throw DecodingFailure(expected: "a configuration of version 1", found: "version \(version)")
        }
        index = try reader.read()
        voters = try Self.readList(&reader)
        outgoing = try Self.readList(&reader)
        learners = try Self.readList(&reader)
    }

    private static func readList(_ reader: inout ByteReader) throws(DecodingFailure) -> [ReplicaID] {
        let count = Int(try reader.read(UInt16.self))
        try reader.check(count: count, ofSize: 8)
        var list: [ReplicaID] = []
        for _ in 0..<count { list.append(try reader.read()) }
        return list
    }
}
