// What can be seen of memberships: who belongs to them and who is online; what watches are told.

public import Messages
public import Primitives
public import StateMachines

/// A member.
///
/// `id: length u32, bytes | token u64 | session u64 | joined u64 | changed u64 | since u64 | stays u64 |
/// metadata: length u32, bytes`
public struct MembershipMember: Hashable, Sendable, Message {
    public var id: Bytes
    /// As long as it is online: a guard for commands on what lies beside the membership. 0: it is offline.
    public var token: UInt64
    /// Of the client in which it is online.
    public var session: SessionID
    /// The version of the membership at which it joined.
    public var joined: UInt64
    /// The same of what last became of it.
    public var changed: UInt64
    /// The group's log time, in milliseconds, at which it came online or went offline.
    public var since: UInt64
    /// So long it is a member while it is offline, in milliseconds; `UInt64.max`: for ever.
    public var staysMillis: UInt64
    /// What it says of itself.
    public var metadata: Bytes

    public var isOnline: Bool { token > 0 }

    package init(
        id: Bytes, token: UInt64, session: SessionID, joined: UInt64, changed: UInt64, since: UInt64,
        staysMillis: UInt64, metadata: Bytes
    ) {
        (self.id, self.token, self.session) = (id, token, session)
        (self.joined, self.changed, self.metadata) = (joined, changed, metadata)
        (self.since, self.staysMillis) = (since, staysMillis)
    }

    init(_ id: Bytes, _ member: MemberRecord) {
        self.id = id
        (token, session) = (member.token, member.session)
        (joined, changed, metadata) = (member.joined, member.changed, member.metadata)
        (since, staysMillis) = (member.since.rawValue, member.staysMillis)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(id)
        writer.write(token)
        writer.write(session)
        writer.write(joined)
        for number in [changed, since, staysMillis] { writer.write(number) }
        writer.writeWithLength(metadata)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        id = try reader.readMemberID()
        (token, session) = (try reader.read(), try reader.read())
        (joined, changed) = (try reader.read(), try reader.read())
        (since, staysMillis) = (try reader.read(), try reader.read())
        metadata = try reader.readBytesWithLength(limit: MembershipLimits.metadataBytesMax)
    }
}

/// What watches are told.
///
/// `cause u8 | reason u8 | version u64 | has member u8 | member, if there is one`
package struct MembershipTold: Hashable, Sendable, Message {
    package enum Cause: UInt8, Sendable {
        /// As a snapshot has it: nothing became of it.
        case present = 0
        case joined, online, offline, updated, left
        /// To this member; without one: nobody leads.
        case leaderChanged
    }
    /// Of `offline` and `left`.
    package enum Reason: UInt8, Sendable {
        case none = 0
        case sessionEnded
        /// Somebody asked for it, most likely itself.
        case asked
        /// It came online in another session.
        case takenOver
        /// The time that it stays was over.
        case timeOver
        /// With the membership.
        case deleted
    }
    package var cause: Cause
    package var reason: Reason
    /// Of the membership, at which it happened: of a leader its epoch.
    package var version: UInt64
    package var member: MembershipMember?

    package init(_ cause: Cause, _ reason: Reason = .none, version: UInt64, _ member: MembershipMember?) {
        (self.cause, self.reason, self.version, self.member) = (cause, reason, version, member)
    }

    package func encode(into writer: inout ByteWriter) {
        writer.write(cause.rawValue)
        writer.write(reason.rawValue)
        writer.write(version)
        writer.writeOptional(member) { $0.encode(into: &$1) }
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = Cause(rawValue: number) else {
            throw DecodingFailure(expected: "what became of a membership, 0 to 6", found: "\(number)")
        }
        cause = known
        let why = try reader.read(UInt8.self)
        guard let known = Reason(rawValue: why) else {
            throw DecodingFailure(expected: "why that became of a member, 0 to 5", found: "\(why)")
        }
        reason = known
        version = try reader.read()
        member = try reader.readOptional { reader throws(DecodingFailure) in try MembershipMember(from: &reader) }
    }
}

/// A membership as it stands, and some of its members.
///
/// `state u8 | version u64 | members u32 | online u32 | epoch u64 | has leader u8 | leader, if there is one | entries u16 |
/// each | has next u8 | next: length u32, bytes, if there is one`
public struct MembershipListing: Hashable, Sendable, Message {
    public enum State: UInt8, Hashable, Sendable {
        /// There is no such membership.
        case absent = 0
        case open
        /// It is being deleted.
        case closing
    }
    public var state: State
    /// Grows with all that becomes of it. One that is not there has none.
    public var version: UInt64
    public var members: UInt32
    public var online: UInt32
    /// The leader's: grows with each leader, and stands as a token as long as that one leads. 0: nobody leads.
    public var epoch: UInt64
    public var leader: MembershipMember?
    /// By their ids; or, of those that are online, in the order in which they came.
    public var entries: [MembershipMember]
    /// Where the next page begins; nil: there is none.
    public var next: Bytes?

    init(_ head: MembershipHead?) {
        state = head.flatMap { State(rawValue: $0.state.rawValue) } ?? .absent
        version = state == .absent ? 0 : head?.last ?? 0
        (members, online, epoch) = (head?.members ?? 0, head?.online ?? 0, head?.epoch ?? 0)
        entries = []
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(state.rawValue)
        writer.write(version)
        writer.write(members)
        writer.write(online)
        writer.write(epoch)
        writer.writeOptional(leader) { $0.encode(into: &$1) }
        writer.writeList(entries) { $0.encode(into: &$1) }
        writer.writeOptional(next) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = State(rawValue: number) else {
            throw DecodingFailure(expected: "the state of a membership, 0 to 2", found: "\(number)")
        }
        state = known
        version = try reader.read()
        (members, online, epoch) = (try reader.read(), try reader.read(), try reader.read())
        leader = try reader.readOptional { reader throws(DecodingFailure) in try MembershipMember(from: &reader) }
        entries = try reader.readList(countMax: MembershipLimits.pageMax) { reader throws(DecodingFailure) in
            try MembershipMember(from: &reader)
        }
        next = try reader.readOptional { reader throws(DecodingFailure) in
            try reader.readBytesWithLength(limit: MembershipLimits.idBytesMax)
        }
    }
}

/// Who belongs to a membership.
///
/// `name | online u8 | from: length u32, bytes | entries u32`
public struct MembershipList: MachineQuery {
    public typealias Machine = MembershipMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    /// Those alone that are online.
    public var isOnline: Bool
    /// `next` of the page before; empty: the first one. Or an id, of all members.
    public var from: Bytes
    /// Up to `MembershipLimits.pageMax`.
    public var entriesMax: UInt32

    public init(_ name: Bytes, online: Bool = false, from: Bytes = Bytes(), entriesMax: UInt32 = .max) {
        self.name = name
        isOnline = online
        self.from = from
        self.entriesMax = entriesMax
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> MembershipListing {
        let key = ObjectKey(name)
        let head = try view.get(key.record(), as: MembershipHead.self)
        var listing = MembershipListing(head)
        guard let head, listing.state != .absent else { return listing }
        let recordsMax = max(1, min(Int(entriesMax), MembershipLimits.pageMax))
        if isOnline {
            try listOnline(key, head, recordsMax, in: &view, &listing)
        } else {
            let members = RecordPrefix(key.membership(head.generation)).kind(1)
            guard let end = members.bytes.endOfPrefix else { return listing }
            let page = try view.page(from: members.record(from), before: end, recordsMax: recordsMax)
            func id(_ key: Bytes) -> Bytes { key[min(members.bytes.count, key.count)..<key.count].compacted() }
            for (key, record) in page.records {
                listing.entries.append(MembershipMember(id(key), try MemberRecord(decoding: record.value)))
            }
            listing.next = page.next.map { id($0) }
        }
        if head.leading > 0,
            let stint = try view.get(key.record(MembershipPart.tokens, head.leading), as: MemberStint.self)
        {
            let place = key.member(stint.id, head.generation)
            listing.leader = try view.get(place, as: MemberRecord.self).map { MembershipMember(stint.id, $0) }
        }
        return listing
    }

    private func listOnline(
        _ key: ObjectKey, _ head: MembershipHead, _ recordsMax: Int, in view: inout MachineView,
        _ listing: inout MembershipListing
    ) throws {
        let tokens = RecordPrefix(key.record(MembershipPart.tokens))
        // One of them may be the leader's epoch.
        let page = try view.page(
            from: tokens.record(from), before: key.record(MembershipPart.tokens + 1), recordsMax: recordsMax + 1)
        var ids: [Bytes] = []
        listing.next = page.next.map { $0[min(tokens.bytes.count, $0.count)..<$0.count].compacted() }
        for (place, record) in page.records {
            let stint = try MemberStint(decoding: record.value)
            guard !stint.isOfLeader else { continue }
            guard ids.count < recordsMax else {
                listing.next = place[min(tokens.bytes.count, place.count)..<place.count].compacted()
                break
            }
            ids.append(stint.id)
        }
        let places = ids.map { key.member($0, head.generation) }
        try view.prepare(places)
        for (id, place) in zip(ids, places) {
            guard let member = try view.get(place, as: MemberRecord.self) else { continue }
            listing.entries.append(MembershipMember(id, member))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(isOnline)
        writer.writeWithLength(from)
        writer.write(entriesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        isOnline = try reader.readBool()
        from = try reader.readBytesWithLength(limit: MembershipLimits.idBytesMax)
        entriesMax = try reader.read()
    }
}
