// Memberships of clients: who belongs to them, who is online, and who leads. Sub state machine 26.

public import Messages
public import Primitives
public import StateMachines

/// Memberships: members are there until they leave, and online as long as the session lives in which they came. The one
/// that has been online for the longest time leads.
///
/// What an object's records are: see `Members`. From feature level 10 on.
public enum MembershipMachine: SessionHolder, FencingMachine {
    public static let number = SubMachineNumber(26)
    /// Each member that is online has a token, and the leader one more.
    public static let isExclusive = false

    public static let commands: [any MachineCommand<MembershipMachine>.Type] = [
        MembershipCreate.self, MembershipDelete.self, MembershipJoin.self, MembershipLeave.self,
        MembershipUpdate.self, MembershipForget.self, MembershipDeleteRest.self,
    ]
    public static let queries: [any MachineQuery<MembershipMachine>.Type] = [MembershipList.self]

    public static func tokenRecord(_ name: Bytes, _ token: UInt64) -> Bytes {
        ObjectKey(name).record(MembershipPart.tokens, token)
    }

    public static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws {
        let before = context
        do {
            var members = try Members(name, in: &context)
            try members.end(session, in: &context)
            try members.close(in: &context)
        } catch is RecordDamage {
            context = before
            var members = try Members(name, in: &context)
            try members.endDamaged(session, in: &context)
            try members.close(in: &context)
        }
    }

    /// One command on a membership: what it throws changes nothing.
    fileprivate static func change<Answer>(
        _ name: Bytes, in context: inout MachineContext,
        _ body: (inout Members, inout MachineContext) throws -> Answer
    ) throws -> Answer {
        do {
            var members = try Members(name, in: &context)
            let answer = try body(&members, &context)
            try members.close(in: &context)
            return answer
        } catch let damage as RecordDamage {
            throw MachineFailure(ObjectFailure.damaged, "the membership is damaged: \(damage)")
        }
    }

    /// Where watches see who leads.
    package static func leaderKey(_ name: Bytes) -> Bytes { ObjectKey(name).record() }
    /// Where they see what becomes of members: this, and the id behind it.
    package static func membersKey(_ name: Bytes) -> Bytes { ObjectKey(name).record(MembershipPart.members) }
    /// Behind all that they see.
    package static func endOfWatch(_ name: Bytes) -> Bytes { ObjectKey(name).record(MembershipPart.tokens) }
}

/// What goes with a membership that is deleted: the times that its members stay.
extension MembershipMachine: SweptMachine {
    public static func timer(in record: Bytes) -> ScheduledCommand? { (try? MemberRecord(decoding: record))?.timer }
}

extension ObjectFailure {
    /// There is no such membership, or it is being deleted.
    public static let noMembership: UInt32 = 52
    /// A membership with members online is deleted by force alone.
    public static let membersOnline: UInt32 = 53
    /// A member with this id is online in another session.
    public static let memberOnline: UInt32 = 54
    public static let tooManyMembers: UInt32 = 55
}

/// Makes a membership. Answers whether it was not there before.
///
/// `name`
public struct MembershipCreate: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        try MembershipMachine.change(name, in: &context) { members, context in
            guard members.head.state != .closing else {
                throw MachineFailure(ObjectFailure.noMembership, "the membership is being deleted")
            }
            return members.create(in: &context)
        }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Deletes a membership with all its members. With many online this goes on by itself once it has begun: meanwhile nobody
/// joins and nobody leads.
///
/// `name | force u8 | generation u64`
public struct MembershipDelete: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    public var name: Bytes
    public var force: Bool
    public var generation: UInt64

    /// - Parameters:
    ///   - force: also if members are online.
    ///   - generation: none but the one that this deleted in part, as it answered; 0: whichever it is.
    public init(_ name: Bytes, force: Bool = false, generation: UInt64 = 0) {
        self.name = name
        self.force = force
        self.generation = generation
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> MembershipDeleted {
        try MembershipMachine.change(name, in: &context) { members, context in
            try members.delete(force: force, generation: generation, in: &context)
                ?? MembershipDeleted(generation: 0, online: 0)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(force)
        writer.write(generation)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        force = try reader.readBool()
        generation = try reader.read()
    }
}

/// `generation u64 | online u32`
public struct MembershipDeleted: Hashable, Sendable, Message {
    /// Which membership of that name it was: the revision at which it was made. 0: there was none.
    public var generation: UInt64
    /// Still; 0: it is deleted.
    public var online: UInt32

    package init(generation: UInt64, online: UInt32) { (self.generation, self.online) = (generation, online) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(generation)
        writer.write(online)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (generation, online) = (try reader.read(), try reader.read())
    }
}

/// The rest of a deletion. Scheduled by what began it; from anybody else it does nothing.
///
/// `name | generation: group u32, revision u64`
public struct MembershipDeleteRest: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 7
    public static let bringsDataIn = false
    public var name: Bytes
    package var generation: Generation

    init(name: Bytes, generation: Generation) { (self.name, self.generation) = (name, generation) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        try MembershipMachine.change(name, in: &context) { members, context in
            guard context.isScheduled, members.head.state == .closing, members.head.generation == generation else {
                return Done()
            }
            _ = try members.delete(force: true, in: &context)
            return Done()
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(generation.group)
        writer.write(generation.revision)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        generation = Generation(group: try reader.read(), revision: try reader.read())
    }
}

/// Joins, or comes online again: with a new token, as long as the caller's session lives. In the session in which it is
/// online already it keeps its token, and is online until all are given up that came to it by a wish of their own.
///
/// `name | member: length u32, bytes | creates u8 | takes over u8 | stays u64 | wish u64 | metadata: rest`
public struct MembershipJoin: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 3
    public var name: Bytes
    public var member: Bytes
    /// Makes the membership if there is none.
    public var creates: Bool
    /// From another session in which a member with this id is online: that one is put offline. Otherwise it fails.
    public var takesOver: Bool
    /// So long it is a member while it is offline, in milliseconds of log time; 0: it leaves then; above
    /// `MachineContext.Limits.delayMillisMax`: for ever.
    public var staysMillis: UInt64
    /// The caller's own number for it: by this it is given up, and nobody else's place with it. Not 0.
    public var wish: UInt64
    /// What others see of it.
    public var metadata: Bytes

    public init(
        _ name: Bytes, as member: Bytes, creates: Bool = true, takesOver: Bool = true, staysMillis: UInt64 = 0,
        wish: UInt64 = 1, metadata: Bytes = Bytes()
    ) {
        self.wish = wish
        self.name = name
        self.member = member
        self.creates = creates
        self.takesOver = takesOver
        self.staysMillis = staysMillis
        self.metadata = metadata
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> MembershipJoined {
        try MembershipMachine.change(name, in: &context) { members, context in try members.join(self, in: &context) }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(member)
        writer.write(creates)
        writer.write(takesOver)
        writer.write(staysMillis)
        writer.write(wish)
        writer.write(metadata)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        member = try reader.readMemberID()
        (creates, takesOver) = (try reader.readBool(), try reader.readBool())
        staysMillis = try reader.read()
        wish = try reader.read()
        guard wish > 0 else { throw DecodingFailure(expected: "the caller's own number, not 0", found: "0") }
        metadata = try reader.readMetadata()
    }
}

/// `token u64 | epoch u64 | session u64 | joined u64 | changed u64`
public struct MembershipJoined: Hashable, Sendable, Message {
    /// As long as it is online.
    public var token: UInt64
    /// Of its leadership; 0: another one leads.
    public var epoch: UInt64
    /// The caller's.
    public var session: SessionID
    /// The versions of the membership at which it joined, and of what last became of it.
    public var joined: UInt64
    public var changed: UInt64

    package init(token: UInt64, epoch: UInt64, session: SessionID, joined: UInt64, changed: UInt64) {
        (self.token, self.epoch, self.session) = (token, epoch, session)
        (self.joined, self.changed) = (joined, changed)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(token)
        writer.write(epoch)
        writer.write(session)
        writer.write(joined)
        writer.write(changed)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (token, epoch, session) = (try reader.read(), try reader.read(), try reader.read())
        (joined, changed) = (try reader.read(), try reader.read())
    }
}

/// Which time online of a member is meant.
///
/// `kind u8 | token u64, for kind 1 | wish u64, for kinds 1 and 2`: 0 whoever's, 1 with this token, 2 in the caller's
/// session. Wish 0: all that keep it online there.
public enum MembershipStint: Hashable, Sendable {
    case any
    case token(UInt64, wish: UInt64 = 0)
    /// Of the caller's session: also where the answer was lost that had its token.
    case own(wish: UInt64 = 0)

    func fits(_ member: MemberRecord, _ session: SessionID) -> Bool {
        switch self {
        case .any: true
        case .token(let token, _): token > 0 && member.token == token
        case .own: session != .none && member.session == session
        }
    }

    /// What is given up of those that keep it online; nil: all.
    var wish: UInt64? {
        switch self {
        case .any: nil
        case .token(_, let wish), .own(let wish): wish > 0 ? wish : nil
        }
    }

    func encode(into writer: inout ByteWriter) {
        switch self {
        case .any: writer.write(0 as UInt8)
        case .token(let token, let wish):
            writer.write(1 as UInt8)
            writer.write(token)
            writer.write(wish)
        case .own(let wish):
            writer.write(2 as UInt8)
            writer.write(wish)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 0: self = .any
        case 1: self = .token(try reader.read(), wish: try reader.read())
        case 2: self = .own(wish: try reader.read())
        case let kind: throw DecodingFailure(expected: "whose time online is meant, 0 to 2", found: "\(kind)")
        }
    }
}

/// Puts a member offline, or has it leave: where a wish is named, only if nobody else keeps it online. Answers whether
/// there was one like this.
///
/// `name | member: length u32, bytes | leaves u8 | whose`
public struct MembershipLeave: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 4
    public static let bringsDataIn = false
    public var name: Bytes
    public var member: Bytes
    /// false: it is offline from now on, and a member for as long as it said.
    public var leaves: Bool
    public var whose: MembershipStint

    public init(_ name: Bytes, _ member: Bytes, leaves: Bool = true, _ whose: MembershipStint = .any) {
        self.name = name
        self.member = member
        self.leaves = leaves
        self.whose = whose
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        try MembershipMachine.change(name, in: &context) { members, context in
            guard members.isThere else { return false }
            return try members.goOffline(member, whose, leaves: leaves, in: &context)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(member)
        writer.write(leaves)
        whose.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        member = try reader.readMemberID()
        leaves = try reader.readBool()
        whose = try MembershipStint(from: &reader)
    }
}

/// Changes what a member says of itself. Answers whether there was one like this.
///
/// `name | member: length u32, bytes | whose | metadata: rest`
public struct MembershipUpdate: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 5
    public var name: Bytes
    public var member: Bytes
    public var whose: MembershipStint
    public var metadata: Bytes

    public init(_ name: Bytes, _ member: Bytes, _ whose: MembershipStint = .any, metadata: Bytes) {
        self.name = name
        self.member = member
        self.whose = whose
        self.metadata = metadata
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Bool {
        try MembershipMachine.change(name, in: &context) { members, context in
            guard members.isThere else { return false }
            return try members.update(member, whose, metadata, in: &context)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(member)
        whose.encode(into: &writer)
        writer.write(metadata)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        member = try reader.readMemberID()
        whose = try MembershipStint(from: &reader)
        metadata = try reader.readMetadata()
    }
}

/// A member's time offline is over. Scheduled when it went offline; from anybody else it does nothing.
///
/// `name | member: length u32, bytes`
public struct MembershipForget: MachineCommand {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 6
    public static let bringsDataIn = false
    public var name: Bytes
    public var member: Bytes

    init(name: Bytes, member: Bytes) { (self.name, self.member) = (name, member) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        try MembershipMachine.change(name, in: &context) { members, context in
            try members.forget(member, in: &context)
            return Done()
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(member)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        member = try reader.readMemberID()
    }
}

extension ByteReader {
    fileprivate mutating func readMetadata() throws(DecodingFailure) -> Bytes {
        let metadata = readRest()
        guard metadata.count <= MembershipLimits.metadataBytesMax else {
            throw DecodingFailure(
                expected: "at most \(MembershipLimits.metadataBytesMax) bytes that a member says of itself",
                found: "\(metadata.count)")
        }
        return metadata
    }
}
