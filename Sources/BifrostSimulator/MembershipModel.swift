// Memberships, barriers and latches as the rules know them: lists of who belongs, who has come, and what is left.

import DataTypes
import Messages
import Primitives
import StateMachines

/// One membership. What each command comes to is what it has to come to on every replica.
struct MembershipModel: WatchedModel {
    struct Member {
        var token: UInt64 = 0
        var session = SessionID.none
        var joined: UInt64
        var changed: UInt64
        var since: LogTime
        var stays: UInt64
        var wishes: [UInt64] = []
        var metadata: Bytes
        /// What put it offline for a time, and when that is over.
        var timer: ObjectTimer?
        var due = LogTime.zero
    }
    typealias Moment = PermitModel.Moment

    private(set) var isThere = false
    /// The revision at which it was made.
    private var generation: UInt64 = 0
    private(set) var members: [Bytes: Member] = [:]
    private(set) var last: UInt64 = 0
    private var leading: UInt64 = 0
    private(set) var epoch: UInt64 = 0
    /// Members that went offline with their sessions, and those that left when their time was over.
    private(set) var ended = 0
    private(set) var forgotten = 0
    var events: [ObjectEvent] = []

    /// In the order in which they came.
    var online: [Bytes] {
        members.filter { $0.value.token > 0 }.sorted { $0.value.token < $1.value.token }.map(\.key)
    }
    var hasTimer: Bool { members.values.contains { $0.timer != nil } }
    /// Those with members online.
    var sessions: Set<SessionID> { Set(members.values.filter { $0.token > 0 }.map(\.session)) }

    /// It came with its slot.
    mutating func arrive(from group: GroupID, _ clock: MigrationClock) {
        for id in members.keys {
            guard let member = members[id] else { continue }
            members[id]?.timer = member.timer?.arrived(from: group)
            members[id]?.due = clock.time(member.due)
        }
    }

    func entry(_ id: Bytes) -> MembershipMember? {
        members[id].map {
            MembershipMember(
                id: id, token: $0.token, session: $0.session, joined: $0.joined, changed: $0.changed,
                since: $0.since.rawValue, staysMillis: $0.stays, metadata: $0.metadata)
        }
    }

    var leader: MembershipMember? { epoch > 0 ? online.first.flatMap { entry($0) } : nil }

    /// Somebody has this token.
    func stands(_ token: UInt64) -> Bool {
        token > 0 && (token == epoch || members.values.contains { $0.token == token })
    }

    private mutating func number(_ now: Moment) -> UInt64 {
        last = max(last + 1, now.revision.rawValue)
        return last
    }

    private mutating func settle(_ now: Moment) {
        let first = isThere ? online.first.flatMap { members[$0]?.token } ?? 0 : 0
        guard first != leading else { return }
        leading = first
        let number = number(now)
        epoch = first > 0 ? number : 0
        let told = MembershipTold(.leaderChanged, version: number, first > 0 ? online.first.flatMap { entry($0) } : nil)
        events.append(ObjectEvent(.put, part: 0, value: told.encoded()))
    }

    /// Watches are told what became of a member, as it is now.
    private mutating func tell(
        _ cause: MembershipTold.Cause, _ id: Bytes, _ reason: MembershipTold.Reason = .none
    ) {
        guard let entry = entry(id) else { return }
        let told = MembershipTold(cause, reason, version: entry.changed, entry)
        events.append(ObjectEvent(.put, part: Self.memberPart, id, value: told.encoded()))
    }

    private static let memberPart: UInt8 = 1

    mutating func create(_ now: Moment) -> Bool {
        guard !isThere else { return false }
        isThere = true
        generation = now.revision.rawValue
        _ = number(now)
        return true
    }

    mutating func delete(
        _ command: MembershipDelete, _ now: Moment
    ) -> Result<MembershipDeleted, MachineFailure> {
        guard isThere, command.generation == 0 || command.generation == generation else {
            return .success(MembershipDeleted(generation: 0, online: 0))
        }
        let all = online
        guard command.force || all.isEmpty else { return .failure(MachineFailure(ObjectFailure.membersOnline, "")) }
        isThere = false
        settle(now)
        for id in all {
            goOffline(id, .deleted, now)
            leave(id, .deleted, now)
        }
        members = [:]
        events.append(ObjectEvent(.cleared, part: Self.memberPart))
        return .success(MembershipDeleted(generation: generation, online: 0))
    }

    mutating func join(
        _ wish: MembershipJoin, of session: SessionID, _ now: Moment
    ) -> Result<MembershipJoined, MachineFailure> {
        func failure(_ code: UInt32) -> Result<MembershipJoined, MachineFailure> { .failure(MachineFailure(code, "")) }
        guard isThere || wish.creates else { return failure(ObjectFailure.noMembership) }
        guard session != .none else { return failure(MachineFailure.Rule.needsSession.rawValue) }
        let id = wish.member
        if let known = members[id], known.token > 0, known.session != session, !wish.takesOver {
            return failure(ObjectFailure.memberOnline)
        }
        if let known = members[id], known.token > 0, known.session == session, !known.wishes.contains(wish.wish),
            known.wishes.count == MembershipLimits.placesOfMemberMax
        {
            return failure(ObjectFailure.tooManyClaims)
        }
        _ = create(now)
        if var known = members[id] {
            if known.token > 0, known.session == session {
                if !known.wishes.contains(wish.wish) { known.wishes.append(wish.wish) }
                let isOther = known.metadata != wish.metadata || known.stays != wish.staysMillis
                if isOther { known.changed = number(now) }
                known.metadata = wish.metadata
                known.stays = wish.staysMillis
                members[id] = known
                if isOther { tell(.updated, id) }
                return joined(id)
            }
            // It stays for as long as the one says who comes.
            members[id]?.stays = wish.staysMillis
            if known.token > 0 { goOffline(id, .takenOver, now) }
        } else {
            let version = number(now)
            members[id] = Member(
                joined: version, changed: version, since: now.logTime, stays: wish.staysMillis,
                metadata: wish.metadata)
            tell(.joined, id)
        }
        let token = number(now)
        members[id]?.timer = nil
        members[id]?.stays = wish.staysMillis
        members[id]?.since = now.logTime
        members[id]?.wishes = [wish.wish]
        members[id]?.metadata = wish.metadata
        members[id]?.token = token
        members[id]?.changed = token
        members[id]?.session = session
        tell(.online, id)
        settle(now)
        return joined(id)
    }

    private func joined(_ id: Bytes) -> Result<MembershipJoined, MachineFailure> {
        guard let entry = entry(id) else { return .failure(MachineFailure(0, "it did not join")) }
        return .success(
            MembershipJoined(
                token: entry.token, epoch: leading == entry.token ? epoch : 0, session: entry.session,
                joined: entry.joined, changed: entry.changed))
    }

    private mutating func say(_ id: Bytes, _ metadata: Bytes, _ now: Moment) {
        guard members[id]?.metadata != metadata else { return }
        let version = number(now)
        members[id]?.metadata = metadata
        members[id]?.changed = version
        tell(.updated, id)
    }

    private mutating func goOffline(_ id: Bytes, _ reason: MembershipTold.Reason, _ now: Moment) {
        let version = number(now)
        members[id]?.token = 0
        members[id]?.session = .none
        members[id]?.wishes = []
        members[id]?.since = now.logTime
        members[id]?.changed = version
        tell(.offline, id, reason)
    }

    private mutating func stay(_ id: Bytes, _ reason: MembershipTold.Reason, _ now: Moment) {
        guard let stays = members[id]?.stays, stays > 0 else { return leave(id, reason, now) }
        guard stays <= MachineContext.Limits.delayMillisMax else { return }
        members[id]?.timer = ObjectTimer(now.index)
        members[id]?.due = now.due(after: stays)
    }

    private mutating func leave(_ id: Bytes, _ reason: MembershipTold.Reason, _ now: Moment) {
        let version = number(now)
        members[id]?.changed = version
        tell(.left, id, reason)
        members[id] = nil
    }

    private func fits(_ id: Bytes, _ whose: MembershipStint, _ session: SessionID) -> Bool {
        guard isThere, let member = members[id] else { return false }
        return switch whose {
        case .any: true
        case .token(let token, _): token > 0 && member.token == token
        case .own: session != .none && member.session == session
        }
    }

    mutating func leave(_ command: MembershipLeave, of session: SessionID, _ now: Moment) -> Bool {
        let id = command.member
        guard fits(id, command.whose, session), let token = members[id]?.token else { return false }
        guard command.leaves || token > 0 else { return false }
        switch command.whose {
        case .token(_, let wish) where wish > 0, .own(let wish) where wish > 0:
            guard members[id]?.wishes.contains(wish) == true else { return false }
            members[id]?.wishes.removeAll { $0 == wish }
            if members[id]?.wishes.isEmpty == false { return true }
        default: break
        }
        if token > 0 { goOffline(id, .asked, now) }
        if command.leaves { leave(id, .asked, now) } else { stay(id, .asked, now) }
        settle(now)
        return true
    }

    mutating func update(_ command: MembershipUpdate, of session: SessionID, _ now: Moment) -> Bool {
        guard fits(command.member, command.whose, session) else { return false }
        say(command.member, command.metadata, now)
        return true
    }

    /// - Returns: false: no member's time is over.
    mutating func fire(_ deadline: DeadlineKey, _ now: Moment) -> Bool {
        guard
            let id = members.keys.sorted().first(where: {
                members[$0]?.timer == ObjectTimer(deadline) && members[$0]?.due == deadline.time
            })
        else { return false }
        leave(id, .timeOver, now)
        forgotten += 1
        return true
    }

    /// - Returns: false: it had nothing here.
    mutating func end(_ session: SessionID, _ now: Moment) -> Bool {
        let own = online.filter { members[$0]?.session == session }
        guard !own.isEmpty else { return false }
        for id in own {
            goOffline(id, .sessionEnded, now)
            stay(id, .sessionEnded, now)
            ended += 1
        }
        settle(now)
        return true
    }
}

/// One barrier.
struct BarrierModel: WatchedModel {
    private(set) var state = BarrierState(round: 0, parties: 0, arrived: 0, isOpen: false)
    private var arrivals: [(session: SessionID, wish: UInt64)] = []
    /// Rounds that are over.
    private(set) var opened = 0
    /// Those that have arrived.
    var sessions: Set<SessionID> { Set(arrivals.map(\.session)) }
    var events: [ObjectEvent] = []

    mutating func arrive(
        _ command: BarrierArrive, of session: SessionID, _ now: PermitModel.Moment
    ) -> Result<BarrierArrival, MachineFailure> {
        func failure(_ code: UInt32) -> Result<BarrierArrival, MachineFailure> { .failure(MachineFailure(code, "")) }
        if arrivals.isEmpty {
            guard command.parties > 0 else { return failure(ObjectFailure.noLimit) }
        } else {
            guard command.parties == 0 || command.parties == state.parties else {
                return failure(ObjectFailure.otherLimit)
            }
        }
        guard arrivals.count(where: { $0.session == session }) < BarrierLimits.arrivalsOfSessionMax else {
            return failure(ObjectFailure.tooManyClaims)
        }
        guard session != .none else { return failure(MachineFailure.Rule.needsSession.rawValue) }
        if arrivals.isEmpty {
            state = BarrierState(round: now.revision.rawValue, parties: command.parties, arrived: 0, isOpen: false)
        }
        arrivals.append((session, command.wish))
        state.arrived = UInt32(arrivals.count)
        var answer = BarrierArrival(session: session, state: state)
        if state.arrived == state.parties {
            answer.state.isOpen = true
            arrivals = []
            opened += 1
        }
        tell(answer.state)
        if answer.state.isOpen { events.append(ObjectEvent(.put, part: 1, value: answer.state.encoded())) }
        settle()
        return .success(answer)
    }

    private mutating func tell(_ state: BarrierState) {
        events.append(ObjectEvent(.put, part: 0, value: state.encoded()))
    }

    /// Some went.
    private mutating func leave() {
        state.arrived = UInt32(arrivals.count)
        tell(state)
        settle()
    }

    private mutating func settle() {
        state.arrived = UInt32(arrivals.count)
        if arrivals.isEmpty { state = BarrierState(round: 0, parties: 0, arrived: 0, isOpen: false) }
    }

    func check(wish: UInt64, of session: SessionID) -> BarrierStanding {
        let waits = session != .none && arrivals.contains { $0.session == session && $0.wish == wish }
        return BarrierStanding(session: session, waits: waits)
    }

    mutating func withdraw(wish: UInt64, of session: SessionID) -> BarrierStanding {
        let standing = check(wish: wish, of: session)
        if let place = arrivals.firstIndex(where: { $0.session == session && $0.wish == wish }), standing.waits {
            arrivals.remove(at: place)
            leave()
        }
        return standing
    }

    /// - Returns: false: it had nothing here.
    mutating func end(_ session: SessionID) -> Bool {
        let before = arrivals.count
        arrivals.removeAll { $0.session == session }
        guard arrivals.count < before else { return false }
        leave()
        return true
    }
}

/// One latch.
struct LatchModel: WatchedModel {
    private(set) var state: LatchState?
    var events: [ObjectEvent] = []

    mutating func set(_ command: LatchSet, _ now: PermitModel.Moment) -> LatchState {
        if command.ifAbsent, let state { return state }
        let round = max((state?.round ?? 0) + 1, now.revision.rawValue)
        let new = LatchState(
            round: round, count: command.count, initial: command.count,
            opened: command.count == 0 ? round : state?.opened ?? 0)
        state = new
        tell(new)
        return new
    }

    mutating func countDown(_ command: LatchCountDown) -> Result<LatchState, MachineFailure> {
        guard var now = state else { return .failure(MachineFailure(ObjectFailure.noLatch, "")) }
        guard command.round == 0 || command.round == now.round else {
            return .failure(MachineFailure(ObjectFailure.otherRound, ""))
        }
        now.count = command.amount >= now.count ? 0 : now.count - command.amount
        if now.count == 0 { now.opened = now.round }
        if now != state { tell(now) }
        state = now
        return .success(now)
    }

    mutating func delete() -> Bool {
        guard state != nil else { return false }
        state = nil
        events.append(ObjectEvent(.deleted, part: 0))
        return true
    }

    private mutating func tell(_ state: LatchState) {
        events.append(ObjectEvent(.put, part: 0, value: state.encoded()))
    }
}
