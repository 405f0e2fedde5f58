// A membership while a command changes it. Owns when members join, leave, come online and go offline, and who leads.
//
//     join ──► online (token) ──► offline ──► left
//                 ▲  its session      │ after its time, or on request
//                 └───────────────────┘ join again
//
// Of those that are online the one leads that has been so for the longest time.

import Messages
import Primitives
import StateMachines

struct Members {
    private let key: ObjectKey
    private(set) var head: MembershipHead
    private let before: MembershipHead?
    private var stints: RecordTable<MemberStint>

    init(_ name: Bytes, in context: inout MachineContext) throws {
        key = ObjectKey(name)
        before = try context.get(key.record(), as: MembershipHead.self)
        head =
            before
            ?? MembershipHead(generation: Generation(group: context.group, revision: context.revision))
        stints = RecordTable(RecordPrefix(key.record(MembershipPart.tokens)))
    }

    var isThere: Bool { head.state != .gone }

    /// Above all that this membership has given before, also where it was deleted in between, and when it has moved:
    /// revisions of a group only grow.
    private mutating func number(in context: MachineContext) -> UInt64 {
        head.last = max(head.last + 1, context.revision.rawValue)
        return head.last
    }

    // MARK: The membership

    /// - Returns: false: it was there before.
    mutating func create(in context: inout MachineContext) -> Bool {
        guard head.state == .gone else { return false }
        let last = head.last
        head = MembershipHead(generation: Generation(group: context.group, revision: context.revision))
        (head.last, head.state) = (last, .open)
        _ = number(in: context)
        return true
    }

    /// - Parameters:
    ///   - force: also if some are online.
    ///   - generation: only this one; 0: whichever it is.
    /// - Returns: how many are still online: then it goes on by itself. nil: there is none.
    mutating func delete(
        force: Bool, generation: UInt64 = 0, in context: inout MachineContext
    ) throws -> MembershipDeleted? {
        guard isThere, generation == 0 || generation == head.generation.revision.rawValue else { return nil }
        let generation = head.generation.revision.rawValue
        guard force || head.state == .closing || head.online == 0 else {
            throw MachineFailure(ObjectFailure.membersOnline, "\(head.online) members are online")
        }
        let isFirst = head.state == .open
        head.state = .closing
        try settle(in: &context)
        var evictions = 0
        while head.firstOnline > 0, evictions < MembershipLimits.evictionsMax {
            guard let stint = try stints.value(of: head.firstOnline, in: &context),
                var member = try member(stint.id, in: &context)
            else { throw RecordDamage(head.firstOnline, "the first one online is not there") }
            try goOffline(stint.id, &member, .deleted, in: &context)
            try leave(stint.id, member, .deleted, in: &context)
            evictions += 1
        }
        guard head.online == 0 else {
            if isFirst || context.isScheduled {
                try context.schedule(
                    MembershipDeleteRest(name: key.name, generation: head.generation), after: .milliseconds(1))
            }
            return MembershipDeleted(generation: generation, online: head.online)
        }
        try context.sweep(key.membership(head.generation))
        context.tell(.cleared, key.record(MembershipPart.members))
        let last = head.last
        head = MembershipHead(generation: head.generation)
        head.last = last
        return MembershipDeleted(generation: generation, online: 0)
    }

    // MARK: Members

    /// nil: it is none.
    func member(_ id: Bytes, in context: inout MachineContext) throws -> MemberRecord? {
        try context.get(key.member(id, head.generation), as: MemberRecord.self)
    }

    mutating func join(_ wish: MembershipJoin, in context: inout MachineContext) throws -> MembershipJoined {
        switch head.state {
        case .gone:
            guard wish.creates else {
                throw MachineFailure(ObjectFailure.noMembership, "there is no such membership: create it first")
            }
            _ = create(in: &context)
        case .open: break
        case .closing: throw MachineFailure(ObjectFailure.noMembership, "the membership is being deleted")
        }
        let id = wish.member
        let known = try member(id, in: &context)
        try context.hold(key.name)
        var own = try session(context.session, in: &context)
        guard own.ids.contains(id) || own.ids.count < MembershipLimits.membersOfSessionMax else {
            throw MachineFailure(
                ObjectFailure.tooManyClaims,
                "a session has at most \(MembershipLimits.membersOfSessionMax) members online in one membership")
        }
        var member: MemberRecord
        if let known {
            member = known
            member.staysMillis = wish.staysMillis
            if member.token > 0 {
                if member.session == context.session { return try join(again: wish, known, in: &context) }
                guard wish.takesOver else {
                    throw MachineFailure(
                        ObjectFailure.memberOnline, "a member with this id is online, in another session")
                }
                try goOffline(id, &member, .takenOver, in: &context)
            }
            if let timer = member.timer { try context.cancel(timer) }
            member.timer = nil
        } else {
            guard head.members < MembershipLimits.membersMax else {
                throw MachineFailure(
                    ObjectFailure.tooManyMembers, "a membership has at most \(MembershipLimits.membersMax) members")
            }
            head.members += 1
            member = MemberRecord(
                joined: number(in: context), at: context.logTime, staysMillis: wish.staysMillis,
                metadata: wish.metadata)
            tell(.joined, id, member, in: &context)
        }
        member.metadata = wish.metadata
        member.token = number(in: context)
        member.session = context.session
        member.changed = member.token
        member.since = context.logTime
        member.wishes = [wish.wish]
        try link(member.token, id, in: &context)
        own.ids.append(id)
        try context.put(key.memberSession(context.session, head.generation), own)
        try context.put(key.member(id, head.generation), member)
        tell(.online, id, member, in: &context)
        try settle(in: &context)
        return joined(member)
    }

    /// In the session in which it is online.
    private mutating func join(
        again wish: MembershipJoin, _ known: MemberRecord, in context: inout MachineContext
    ) throws -> MembershipJoined {
        var member = known
        if !member.wishes.contains(wish.wish) {
            guard member.wishes.count < MembershipLimits.placesOfMemberMax else {
                throw MachineFailure(
                    ObjectFailure.tooManyClaims,
                    "a member is kept online by at most \(MembershipLimits.placesOfMemberMax) in one session")
            }
            member.wishes.append(wish.wish)
        }
        (member.metadata, member.staysMillis) = (wish.metadata, wish.staysMillis)
        if member.metadata != known.metadata || member.staysMillis != known.staysMillis {
            member.changed = number(in: context)
            tell(.updated, wish.member, member, in: &context)
        }
        if member != known { try context.put(key.member(wish.member, head.generation), member) }
        return joined(member)
    }

    private func joined(_ member: MemberRecord) -> MembershipJoined {
        MembershipJoined(
            token: member.token, epoch: head.leading == member.token ? head.epoch : 0, session: member.session,
            joined: member.joined, changed: member.changed)
    }

    /// - Returns: false: nobody like this is online, or in the membership.
    mutating func update(
        _ id: Bytes, _ whose: MembershipStint, _ metadata: Bytes, in context: inout MachineContext
    ) throws -> Bool {
        guard var member = try member(id, in: &context), whose.fits(member, context.session) else { return false }
        guard member.metadata != metadata else { return true }
        member.metadata = metadata
        member.changed = number(in: context)
        tell(.updated, id, member, in: &context)
        try context.put(key.member(id, head.generation), member)
        return true
    }

    /// - Parameter leaves: it is no member any more.
    /// - Returns: false: nobody like this is online; or in the membership.
    mutating func goOffline(
        _ id: Bytes, _ whose: MembershipStint, leaves: Bool, in context: inout MachineContext
    ) throws -> Bool {
        guard var member = try member(id, in: &context), whose.fits(member, context.session) else { return false }
        guard leaves || member.token > 0 else { return false }
        if let wish = whose.wish {
            guard let place = member.wishes.firstIndex(of: wish) else { return false }
            member.wishes.remove(at: place)
            guard member.wishes.isEmpty else {
                // Others keep it online.
                try context.put(key.member(id, head.generation), member)
                return true
            }
        }
        if member.token > 0 { try goOffline(id, &member, .asked, in: &context) }
        if leaves { try leave(id, member, .asked, in: &context) } else { try stay(id, member, .asked, in: &context) }
        try settle(in: &context)
        return true
    }

    /// Its time offline is over.
    mutating func forget(_ id: Bytes, in context: inout MachineContext) throws {
        guard isThere, var member = try member(id, in: &context), let timer = member.timer, context.isDoing(timer)
        else { return }
        member.timer = nil
        try leave(id, member, .timeOver, in: &context)
    }

    /// The session has ended.
    mutating func end(_ session: SessionID, in context: inout MachineContext) throws {
        guard isThere else { return }
        let ids = try self.session(session, in: &context).ids
        guard !ids.isEmpty else { return }
        try context.prepare(ids.map { key.member($0, head.generation) })
        for id in ids {
            guard var member = try member(id, in: &context), member.session == session else { continue }
            if isPlanted("session-end-forgets-a-member"), head.online > 1 { continue }
            try putOffline(id, &member, .sessionEnded, in: &context)
            try stay(id, member, .sessionEnded, in: &context)
        }
        try context.delete(key.memberSession(session, head.generation))
        context.letGo(key.name, of: session)
        try settle(in: &context)
    }

    /// The same where those that are online are not as they should be: no token of it stands any more, at least.
    mutating func endDamaged(_ session: SessionID, in context: inout MachineContext) throws {
        for id in try self.session(session, in: &context).ids {
            guard var member = try member(id, in: &context), member.session == session else { continue }
            stints.remove(member.token)
            if head.leading == member.token {
                if head.epoch > 0 { stints.remove(head.epoch) }
                (head.leading, head.epoch) = (0, 0)
            }
            (member.token, member.session, member.wishes) = (0, .none, [])
            try context.put(key.member(id, head.generation), member)
        }
    }

    /// Puts it offline. Its record is the caller's to write.
    private mutating func goOffline(
        _ id: Bytes, _ member: inout MemberRecord, _ reason: MembershipTold.Reason, in context: inout MachineContext
    ) throws {
        var own = try session(member.session, in: &context)
        own.ids.removeAll { $0 == id }
        let place = key.memberSession(member.session, head.generation)
        if own.ids.isEmpty {
            try context.delete(place)
            context.letGo(key.name, of: member.session)
        } else {
            try context.put(place, own)
        }
        try putOffline(id, &member, reason, in: &context)
    }

    /// What its session has is the caller's to write too.
    private mutating func putOffline(
        _ id: Bytes, _ member: inout MemberRecord, _ reason: MembershipTold.Reason, in context: inout MachineContext
    ) throws {
        try unlink(member.token, in: &context)
        (member.token, member.session, member.wishes) = (0, .none, [])
        member.changed = number(in: context)
        member.since = context.logTime
        tell(.offline, id, member, reason, in: &context)
    }

    /// It is offline, and a member for as long as it said.
    private mutating func stay(
        _ id: Bytes, _ member: MemberRecord, _ reason: MembershipTold.Reason, in context: inout MachineContext
    ) throws {
        guard member.staysMillis > 0 else { return try leave(id, member, reason, in: &context) }
        var member = member
        if member.staysMillis <= MachineContext.Limits.delayMillisMax {
            member.timer = try context.schedule(
                MembershipForget(name: key.name, member: id), after: .milliseconds(member.staysMillis))
        }
        try context.put(key.member(id, head.generation), member)
    }

    /// One that is offline.
    private mutating func leave(
        _ id: Bytes, _ member: MemberRecord, _ reason: MembershipTold.Reason, in context: inout MachineContext
    ) throws {
        if let timer = member.timer { try context.cancel(timer) }
        try context.delete(key.member(id, head.generation))
        head.members -= min(1, head.members)
        var member = member
        member.changed = number(in: context)
        tell(.left, id, member, reason, in: &context)
    }

    private func session(_ session: SessionID, in context: inout MachineContext) throws -> MemberSession {
        try context.get(key.memberSession(session, head.generation), as: MemberSession.self) ?? MemberSession()
    }

    // MARK: Who leads

    private mutating func settle(in context: inout MachineContext) throws {
        let first = head.state == .open ? head.firstOnline : 0
        guard first != head.leading else { return }
        if head.epoch > 0 { stints.remove(head.epoch) }
        (head.leading, head.epoch) = (first, 0)
        guard first > 0 else {
            let told = MembershipTold(.leaderChanged, version: number(in: context), nil)
            return context.tell(.put, key.record(), told.encoded())
        }
        guard let stint = try stints.value(of: first, in: &context),
            let member = try member(stint.id, in: &context)
        else { throw RecordDamage(first, "the first one online is not there") }
        head.epoch = number(in: context)
        stints.add(head.epoch, MemberStint(of: stint.id, isOfLeader: true))
        let told = MembershipTold(.leaderChanged, version: head.epoch, MembershipMember(stint.id, member))
        context.tell(.put, key.record(), told.encoded())
    }

    // MARK: Inside

    private func tell(
        _ cause: MembershipTold.Cause, _ id: Bytes, _ member: MemberRecord, _ reason: MembershipTold.Reason = .none,
        in context: inout MachineContext
    ) {
        context.tell(
            .put, key.record(MembershipPart.members, id),
            MembershipTold(cause, reason, version: member.changed, MembershipMember(id, member)).encoded())
    }

    private mutating func link(_ token: UInt64, _ id: Bytes, in context: inout MachineContext) throws {
        try change(head.lastOnline, in: &context) { $0.next = token }
        stints.add(token, MemberStint(of: id, previous: head.lastOnline))
        if head.firstOnline == 0 { head.firstOnline = token }
        head.lastOnline = token
        head.online += 1
    }

    private mutating func unlink(_ token: UInt64, in context: inout MachineContext) throws {
        guard let stint = try stints.value(of: token, in: &context) else {
            throw RecordDamage(token, "one that is online is not there")
        }
        try change(stint.previous, in: &context) { $0.next = stint.next }
        try change(stint.next, in: &context) { $0.previous = stint.previous }
        if head.firstOnline == token { head.firstOnline = stint.next }
        if head.lastOnline == token { head.lastOnline = stint.previous }
        head.online -= min(1, head.online)
        stints.remove(token)
    }

    private mutating func change(
        _ token: UInt64, in context: inout MachineContext, _ body: (inout MemberStint) -> Void
    ) throws {
        guard token > 0 else { return }
        guard try stints.value(of: token, in: &context) != nil, stints.change(token, body) else {
            throw RecordDamage(token, "one that others came behind is not there")
        }
    }

    /// Writes all that has changed.
    mutating func close(in context: inout MachineContext) throws {
        try stints.flush(into: &context)
        // Numbers begin at a revision: behind this command all are above those that were given.
        if !isThere, head.last <= context.revision.rawValue {
            if before != nil { try context.delete(key.record()) }
        } else if head != before {
            try context.put(key.record(), head)
        }
    }
}
