// Sessions as the rules know them: from committed entries alone, with everything that was ever said in them, and without
// bounds. What it makes of an entry is what every replica has to make of it.

import Primitives
import StateMachines

/// What a command says to its group's sessions.
enum CallMark: Equatable {
    case call(SessionID, sequence: UInt64, firstUnacknowledged: UInt64)
    /// A call too: from now on it stands for these, as far as they are here.
    case takeOver(SessionID, sequence: UInt64, firstUnacknowledged: UInt64, [SessionID])
    case other(SessionCommand)
    /// Of the group's own.
    case own
    /// Of a migration.
    case step(MigrationStep)

    init?(_ payload: Bytes) {
        guard let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }) else { return nil }
        if header.session != .none {
            if header.machine == .sessions, case .takeOver(_, let ids)? = try? SessionCommand(payload: payload) {
                self = .takeOver(
                    header.session, sequence: header.sequence, firstUnacknowledged: header.firstUnacknowledged, ids)
            } else {
                self = .call(
                    header.session, sequence: header.sequence, firstUnacknowledged: header.firstUnacknowledged)
            }
        } else if header.machine == .sessions, let command = try? SessionCommand(payload: payload) {
            self = .other(command)
        } else if header.machine == .slotOwnership, let command = try? SlotCommand(payload: payload) {
            self = MigrationStep(command).map { .step($0) } ?? .own
        } else if header.machine == .deadlines {
            self = .own
        } else {
            return nil
        }
    }
}

/// What sessions hold, as the models of objects know it. Where nothing is held, nothing of it is asked.
struct HeldSlots {
    /// Those in which a session holds something, of the ones that are on their way to the group as well.
    var of: (SessionID) -> Set<Slot> = { _ in [] }
    /// The slot is frozen, gone, or on its way here.
    var isGated: (Slot) -> Bool = { _ in false }
}

struct SessionModel {
    enum Effect {
        /// A client's command that is to be done.
        case done
        /// It was done when it came first.
        case repeated
        /// Its session is not there, or it is none of its window.
        case void
        /// It is about sessions; so many ended of themselves.
        case none(expired: Int)
    }

    private struct Session {
        var timeToLive: UInt64
        var activeAt: LogTime
        var activeIndex: LogIndex
        var firstUnacknowledged: UInt64 = 1
        var done: Set<UInt64> = []
        /// It came with slots, or another one stands for it: it takes neither calls nor words.
        var isAdopted = false
        /// Who stands for it.
        var owner = SessionID.none
        /// For whom it stands, ascending.
        var owned: [SessionID] = []
    }

    private var sessions: [SessionID: Session] = [:]
    private var logTime = LogTime.zero
    /// Those that the last entry ended, in the order in which they give back what they hold.
    private(set) var ended: [SessionID] = []

    func has(_ id: SessionID) -> Bool { sessions[id] != nil }

    func owned(by id: SessionID) -> [SessionID] { sessions[id]?.owned ?? [] }

    /// Takes the next committed entry.
    ///
    /// - Parameters:
    ///   - isGated: the slot of its command takes none now.
    ///   - held: who holds something in a slot that is on the move does not end.
    mutating func commit(
        _ mark: EntryMark, at index: LogIndex, isGated: Bool, _ held: HeldSlots = HeldSlots()
    ) -> Effect {
        logTime = max(logTime, mark.logTime)
        ended = []
        switch mark.call {
        case nil: return mark.command == 0 ? .none(expired: 0) : isGated ? .void : .done
        case .own, .step: return .none(expired: 0)
        case .call(let id, let sequence, let firstUnacknowledged):
            return call(id, sequence, firstUnacknowledged, at: index, isGated: isGated)
        case .takeOver(let id, let sequence, let firstUnacknowledged, let ids):
            let effect = call(id, sequence, firstUnacknowledged, at: index, isGated: isGated)
            if case .done = effect { takeOver(ids, by: id, at: index) }
            return effect
        case .other(.open(let timeToLive, let nonce, _)):
            let id = SessionTable.id(term: Term(mark.term), index: index, nonce: nonce)
            sessions[id] = Session(timeToLive: timeToLive, activeAt: logTime, activeIndex: index)
            return .none(expired: 0)
        case .other(.keepAlive(let words)):
            for word in words { hear(word, at: index) }
            return .none(expired: 0)
        case .other(.hold(let word, _)):
            hear(word, at: index)
            return .none(expired: 0)
        // Without a session it is nobody's.
        case .other(.takeOver): return .none(expired: 0)
        case .other(.close(let id)):
            if sessions[id] != nil, !isHeldUp(id, held) { end([id]) }
            return .none(expired: 0)
        case .other(.expire(let expiries)):
            var over: [SessionID] = []
            for expiry in expiries {
                guard let session = sessions[expiry.id], session.activeIndex == expiry.activeIndex,
                    session.activeAt.rawValue + session.timeToLive <= logTime.rawValue,
                    session.owner == .none || held.of(expiry.id).isEmpty, !isHeldUp(expiry.id, held),
                    !over.contains(expiry.id)
                else { continue }
                over.append(expiry.id)
            }
            end(over)
            return .none(expired: ended.count)
        }
    }

    private mutating func call(
        _ id: SessionID, _ sequence: UInt64, _ firstUnacknowledged: UInt64, at index: LogIndex, isGated: Bool
    ) -> Effect {
        guard var session = sessions[id], !session.isAdopted else { return .void }
        let first = max(session.firstUnacknowledged, firstUnacknowledged)
        guard sequence >= first, sequence - first < SessionTable.Limits.window else { return .void }
        session.activeAt = max(session.activeAt, logTime)
        session.activeIndex = index
        session.firstUnacknowledged = first
        if isGated, !session.done.contains(sequence) {
            sessions[id] = session
            return .void
        }
        let isNew = session.done.insert(sequence).inserted
        sessions[id] = session
        return isNew ? .done : .repeated
    }

    private mutating func hear(_ word: SessionCommand.Life, at index: LogIndex) {
        guard var session = sessions[word.id], !session.isAdopted else { return }
        session.activeAt = logTime
        session.activeIndex = index
        session.firstUnacknowledged = max(session.firstUnacknowledged, word.firstUnacknowledged)
        sessions[word.id] = session
    }

    private mutating func touch(_ id: SessionID, at index: LogIndex) {
        guard let session = sessions[id] else { return }
        sessions[id]?.activeAt = max(session.activeAt, logTime)
        sessions[id]?.activeIndex = index
    }

    // MARK: Slots that move

    /// Pages told of a session that holds something in slots that are to come.
    mutating func adopt(_ id: SessionID, timeToLive: UInt64, at index: LogIndex) {
        guard sessions[id] == nil else { return }
        sessions[id] = Session(timeToLive: timeToLive, activeAt: logTime, activeIndex: index, isAdopted: true)
    }

    /// Slots are served from now on: who holds something there has all of his time, and so has who stands for him.
    mutating func begin(_ slots: [Slot], at index: LogIndex, _ held: HeldSlots) {
        for id in sessions.keys.sorted() where !held.of(id).isDisjoint(with: slots) {
            touch(id, at: index)
            if let owner = sessions[id]?.owner, owner != .none { touch(owner, at: index) }
        }
    }

    private mutating func takeOver(_ ids: [SessionID], by own: SessionID, at index: LogIndex) {
        for id in ids where id != own {
            guard let other = sessions[id] else { continue }
            if other.owner != own { sessions[other.owner]?.owned.removeAll { $0 == id } }
            for standing in [id] + other.owned {
                sessions[standing]?.isAdopted = true
                sessions[standing]?.owner = own
                touch(standing, at: index)
                if sessions[own]?.owned.contains(standing) == false {
                    sessions[own]?.owned.append(standing)
                    sessions[own]?.owned.sort()
                }
            }
            sessions[id]?.owned = []
        }
    }

    private func isHeldUp(_ id: SessionID, _ held: HeldSlots) -> Bool {
        ([id] + owned(by: id)).contains { held.of($0).contains(where: held.isGated) }
    }

    /// And those for which they stand.
    private mutating func end(_ named: [SessionID]) {
        for id in named {
            for one in [id] + owned(by: id) where !ended.contains(one) { ended.append(one) }
        }
        for id in ended {
            if let owner = sessions[id]?.owner { sessions[owner]?.owned.removeAll { $0 == id } }
            sessions[id] = nil
        }
    }
}
