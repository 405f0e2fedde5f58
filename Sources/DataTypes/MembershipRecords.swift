// The bytes of a membership's records: its head, its members, who of them is online, and what a session has of it.

import Messages
import Primitives
import StateMachines

/// Bounds of memberships. They decide, so they are part of the format.
public enum MembershipLimits {
    /// Of a member's id, in bytes; it has one at least.
    public static let idBytesMax = 256
    /// Of what a member says of itself, in bytes.
    public static let metadataBytesMax = 1_024
    /// Of one membership, online or not.
    public static let membersMax: UInt32 = 1 << 20
    /// That one session has online in one membership: its end is one command.
    public static let membersOfSessionMax = 16
    /// That keep one member online in one session.
    public static let placesOfMemberMax = 16
    /// That one command puts out, when a membership is deleted that has some online.
    package static let evictionsMax = 64
    /// Of a listing.
    public static let pageMax = 256
}

/// A membership's own record.
///
/// `version u8 = 1 | state u8 | generation: group u32, revision u64 | members u32 | online u32 | last version u64 |
/// leading token u64 | epoch u64 | online, in the order in which they came: first u64, last u64`
struct MembershipHead: Hashable, Message {
    enum State: UInt8 {
        /// Nothing but the last version is known.
        case gone = 0
        case open
        /// It is being deleted, and takes nobody in.
        case closing
    }
    var state = State.gone
    /// Where its members' records are.
    var generation: Generation
    var members: UInt32 = 0
    var online: UInt32 = 0
    /// Versions, tokens and epochs are numbers of one counter.
    var last: UInt64 = 0
    /// The token of the member that leads, and its epoch; 0: nobody does.
    var leading: UInt64 = 0
    var epoch: UInt64 = 0
    /// Tokens; 0: nobody is online.
    var firstOnline: UInt64 = 0
    var lastOnline: UInt64 = 0

    private static let formatVersion: UInt8 = 1

    init(generation: Generation) { self.generation = generation }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(state.rawValue)
        writer.write(generation.group)
        writer.write(generation.revision)
        writer.write(members)
        writer.write(online)
        for number in [last, leading, epoch, firstOnline, lastOnline] { writer.write(number) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a membership's head")
        let number = try reader.read(UInt8.self)
        guard let known = State(rawValue: number) else {
            throw DecodingFailure(expected: "the state of a membership, 0 to 2", found: "\(number)")
        }
        state = known
        generation = Generation(group: try reader.read(), revision: try reader.read())
        (members, online) = (try reader.read(), try reader.read())
        (last, leading, epoch) = (try reader.read(), try reader.read(), try reader.read())
        (firstOnline, lastOnline) = (try reader.read(), try reader.read())
        guard last <= 1 << 62, members <= MembershipLimits.membersMax else {
            throw DecodingFailure(expected: "a membership's head", found: "\(members) members at version \(last)")
        }
    }
}

/// A member, online or not.
///
/// `version u8 = 1 | token u64 | session u64 | joined u64 | changed u64 | since u64 | stays u64 | wishes u16, each u64 |
/// has timer u8 | timer, 22 bytes, if there is one | metadata`
struct MemberRecord: Hashable, Message {
    /// 0: it is offline.
    var token: UInt64 = 0
    var session = SessionID.none
    /// The version at which it joined, and that of what last became of it.
    var joined: UInt64
    var changed: UInt64
    /// Log time at which it came online, or went offline.
    var since: LogTime
    /// So long it is a member while it is offline, in milliseconds; 0: it leaves then; `UInt64.max`: for ever.
    var staysMillis: UInt64
    /// The client's own numbers of those that keep it online: it is so until the last one is given up.
    var wishes: [UInt64] = []
    /// What has it leave.
    var timer: ScheduledCommand?
    var metadata: Bytes

    private static let formatVersion: UInt8 = 1

    init(joined: UInt64, at since: LogTime, staysMillis: UInt64, metadata: Bytes) {
        self.joined = joined
        self.since = since
        changed = joined
        self.staysMillis = staysMillis
        self.metadata = metadata
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(token)
        writer.write(session)
        for number in [joined, changed, since.rawValue, staysMillis] { writer.write(number) }
        writer.writeList(wishes) { $1.write($0) }
        writer.writeOptional(timer) { $0.encode(into: &$1) }
        writer.write(metadata)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a member")
        (token, session) = (try reader.read(), try reader.read())
        (joined, changed) = (try reader.read(), try reader.read())
        (since, staysMillis) = (try reader.read(), try reader.read())
        wishes = try reader.readList(countMax: MembershipLimits.placesOfMemberMax) { reader throws(DecodingFailure) in
            try reader.read()
        }
        timer = try reader.readOptional { reader throws(DecodingFailure) in try ScheduledCommand(from: &reader) }
        metadata = reader.readRest()
        guard (token == 0) == (session == .none) else {
            throw DecodingFailure(expected: "a member, online with a session", found: "token \(token) of \(session)")
        }
    }
}

/// Something that has a token: a member as long as it is online, and beside that as long as it leads. Those that are online
/// are a list in the order in which they came.
///
/// `version u8 = 1 | leads u8 | previous u64 | next u64 | id: rest`
struct MemberStint: Hashable, Message {
    /// It is the token of a leader, its epoch, and stands in no list.
    var isOfLeader: Bool
    /// Tokens; 0: none.
    var previous: UInt64 = 0
    var next: UInt64 = 0
    var id: Bytes

    private static let formatVersion: UInt8 = 1

    init(of id: Bytes, previous: UInt64 = 0, isOfLeader: Bool = false) {
        self.id = id
        self.previous = previous
        self.isOfLeader = isOfLeader
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(isOfLeader)
        writer.write(previous)
        writer.write(next)
        writer.write(id)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a member's time online")
        isOfLeader = try reader.readBool()
        (previous, next) = (try reader.read(), try reader.read())
        id = reader.readRest()
    }
}

/// The members that a session has online.
///
/// `0 u8 | version u8 = 1 | ids: count u16, each: length u32, bytes`: no member's record begins like this, so a sweep takes
/// none of it for one.
struct MemberSession: Hashable, Message {
    var ids: [Bytes] = []

    private static let formatVersion: UInt8 = 1

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(0 as UInt8)
        writer.write(Self.formatVersion)
        writer.writeList(ids) { $1.writeWithLength($0) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 0, of: "what begins a session's record")
        try reader.expect(version: Self.formatVersion, of: "what a session has of a membership")
        ids = try reader.readList(countMax: MembershipLimits.membersOfSessionMax) { reader throws(DecodingFailure) in
            try reader.readMemberID()
        }
    }
}

extension ByteReader {
    mutating func readMemberID() throws(DecodingFailure) -> Bytes {
        let id = try readBytesWithLength(limit: MembershipLimits.idBytesMax)
        guard !id.isEmpty else { throw DecodingFailure(expected: "a member's id", found: "none") }
        return id
    }
}

/// Parts of a membership's records: `generation | 1 | id`, `generation | 2 | session` in the first, tokens in the second.
/// Watches see its leader under the head's key, and members under `members | id`.
enum MembershipPart {
    static let members: UInt8 = 1
    static let tokens: UInt8 = 2
}

extension ObjectKey {
    /// How the keys of all that belongs to one generation of a membership begin.
    func membership(_ generation: Generation) -> Bytes {
        var writer = ByteWriter(capacity: 12)
        writer.write(generation.group.rawValue.bigEndian)
        writer.write(generation.revision.rawValue.bigEndian)
        return record(MembershipPart.members, writer.take())
    }

    func member(_ id: Bytes, _ generation: Generation) -> Bytes {
        RecordPrefix(membership(generation)).kind(1).record(id)
    }

    func memberSession(_ session: SessionID, _ generation: Generation) -> Bytes {
        RecordPrefix(membership(generation)).kind(2).record(session.rawValue)
    }
}
