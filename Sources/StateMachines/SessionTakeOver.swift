// Sessions that came with slots, and who stands for them. What a client has in a slot it has by the session in which it got
// it; when the slot moves, that session's number comes along, and takes no calls here. The client's own session of this group
// stands for it then: its words are words of both, its calls on what the other has are the other's, and with it both end.
//
//     group A: session 7 ──lock──┐                       group B: session 7 (adopted) ──lock
//     group B: session 9         │  the slot moves  ──►           ▲ stands for
//                                                                 session 9, which the client uses
//
// Numbers of sessions are drawn from 2^64 by chance, in all groups alike: one that comes is not another client's.

import DequeModule
public import Messages
public import Primitives

extension Session {
    /// It has a time of its own: nobody stands for it, or it has nothing that somebody could stand for.
    var endsByItself: Bool { owner == .none || holdings.isEmpty || isPlanted("ended-though-stood-for") }

    fileprivate mutating func own(_ id: SessionID) {
        let place = owned.firstIndex { $0 >= id } ?? owned.count
        if place == owned.count || owned[place] != id { owned.insert(id, at: place) }
    }
}

extension SessionTable {
    /// The session at this place stands for these from now on, as far as they are here; the last one that says so counts. A
    /// session that has calls of its own takes none any more: the same client has another one, and knows the outcome of all.
    ///
    /// It is a numbered call: a late copy of it finds that it was done, and gives nobody back to a session that is not in
    /// use any more.
    ///
    /// - Returns: those that are here, in the order in which they were named.
    mutating func takeOver(
        _ ids: [SessionID], at place: Int, index: LogIndex, _ revision: Revision, _ logTime: LogTime
    ) -> [SessionID] {
        let own = sessions[place].id
        var found: [SessionID] = []
        for id in ids {
            guard let other = self.place(of: id) else { continue }
            found.append(id)
            guard other != place else { continue }
            if let before = self.place(of: sessions[other].owner), before != place {
                sessions[before].owned.removeAll { $0 == id }
            }
            for standing in sessions[other].owned {
                guard let third = self.place(of: standing) else { continue }
                sessions[third].owner = own
                touch(third, at: index, revision, logTime)
                sessions[place].own(standing)
            }
            calls -= sessions[other].answers.count
            bodyBytes -= sessions[other].bodyBytes
            if !sessions[other].isAdopted { noteAdopted() }
            sessions[other].becomeOwned(by: own)
            touch(other, at: index, revision, logTime)
            sessions[place].own(id)
        }
        return found
    }

    /// By which session a caller's has, or would have, this object: its own, or one that it stands for and that has it
    /// already. Cost: O(1) for who stands for nobody.
    func holder(of name: Bytes, _ machine: SubMachineNumber, _ slot: Slot, for id: SessionID) -> SessionID {
        guard machine.isDataType, let place = place(of: id), !sessions[place].owned.isEmpty else { return id }
        let holding = SessionHolding(machine: machine, slot: slot, name: name)
        guard !sessions[place].holdings.has(holding), !isPlanted("holder-not-found") else { return id }
        return sessions[place].owned.first { holdings(of: $0).has(holding) } ?? id
    }

    /// Sessions that are there, and behind each those for which it stands; each once.
    func withOwned(_ ids: [SessionID]) -> [SessionID] {
        var known: Set<SessionID> = []
        var all: [SessionID] = []
        for id in ids {
            guard let place = place(of: id) else { continue }
            for one in [id] + sessions[place].owned where known.insert(one).inserted { all.append(one) }
        }
        return all
    }

    func holdingsCount(of session: Session) -> Int {
        session.owned.reduce(session.holdings.count) { $0 + holdings(of: $1).count }
    }

    /// As records say who stands for whom, and not for whom one stands.
    mutating func findOwned() throws(DecodingFailure) {
        for session in sessions where session.owner != .none {
            guard let owner = place(of: session.owner), !sessions[owner].isAdopted else {
                throw DecodingFailure(
                    expected: "a session that stands for session \(session.id)",
                    found: "none of number \(session.owner)"
                )
            }
            sessions[owner].own(session.id)
        }
    }
}

extension Session {
    fileprivate mutating func becomeOwned(by id: SessionID) {
        answers = []
        (bodyBytes, room) = (0, 0)
        owned = []
        isAdopted = true
        followsSlots = false
        owner = id
    }
}

/// A slot in which a client holds something.
public struct HeldSlot: Hashable, Sendable {
    public var slot: Slot
    /// Since when the group has it, as far as the client knows.
    public var epoch: Epoch

    public init(slot: Slot, epoch: Epoch) { (self.slot, self.epoch) = (slot, epoch) }
}

/// What a group says to who holds something in its slots.
///
/// `is there u8 | count u16 | each: slot u16, group u32, epoch u64`
public struct HeldSlotsAnswer: Message, Hashable {
    public struct Moved: Hashable, Sendable {
        public var slot: Slot
        /// It has the slot, since this epoch. The same one as was asked: it went, and came back.
        public var group: GroupID
        public var epoch: Epoch

        public init(slot: Slot, group: GroupID, epoch: Epoch) {
            (self.slot, self.group, self.epoch) = (slot, group, epoch)
        }
    }
    /// The session is: what it has in slots that are not named it has still.
    public var isThere: Bool
    /// Since the client knew of them: what was held there is held in that group, by a session of the same number.
    public var moved: [Moved] = []

    public init(isThere: Bool, moved: [Moved] = []) { (self.isThere, self.moved) = (isThere, moved) }

    public func encode(into writer: inout ByteWriter) {
        writer.write(isThere)
        writer.write(UInt16(truncatingIfNeeded: moved.count))
        for one in moved {
            writer.write(one.slot)
            writer.write(one.group)
            writer.write(one.epoch)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        isThere = try reader.readBool()
        let count = Int(try reader.read(UInt16.self))
        try reader.check(count: count, ofSize: 14)
        for _ in 0..<count {
            moved.append(Moved(slot: try reader.read(), group: try reader.read(), epoch: try reader.read()))
        }
    }
}
