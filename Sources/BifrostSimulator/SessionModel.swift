// Sessions as the rules know them: from committed entries alone, with everything that was ever said in them, and without
// bounds. What it makes of an entry is what every replica has to make of it.

import Primitives
import StateMachines

/// What a command says to its group's sessions.
enum CallMark: Equatable {
    case call(SessionID, sequence: UInt64, firstUnacknowledged: UInt64)
    case other(SessionCommand)
    /// Of the group's own.
    case own
    /// Of a migration.
    case step(MigrationStep)

    init?(_ payload: Bytes) {
        guard let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }) else { return nil }
        if header.session != .none {
            self = .call(
                header.session, sequence: header.sequence, firstUnacknowledged: header.firstUnacknowledged)
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
    }

    private var sessions: [SessionID: Session] = [:]
    private var logTime = LogTime.zero

    func has(_ id: SessionID) -> Bool { sessions[id] != nil }

    /// Takes the next committed entry.
    ///
    /// - Parameter isGated: the slot of its command takes none now.
    mutating func commit(_ mark: EntryMark, at index: LogIndex, isGated: Bool) -> Effect {
        logTime = max(logTime, mark.logTime)
        switch mark.call {
        case nil: return mark.command == 0 ? .none(expired: 0) : isGated ? .void : .done
        case .own, .step: return .none(expired: 0)
        case .call(let id, let sequence, let firstUnacknowledged):
            guard var session = sessions[id] else { return .void }
            let first = max(session.firstUnacknowledged, firstUnacknowledged)
            guard sequence >= first, sequence - first < SessionTable.Limits.window else { return .void }
            session.activeAt = max(session.activeAt, logTime)
            session.activeIndex = index
            if isGated, !session.done.contains(sequence) {
                session.firstUnacknowledged = first
                sessions[id] = session
                return .void
            }
            let isNew = session.done.insert(sequence).inserted
            session.firstUnacknowledged = first
            sessions[id] = session
            return isNew ? .done : .repeated
        case .other(.open(let timeToLive, let nonce)):
            let id = SessionTable.id(term: Term(mark.term), index: index, nonce: nonce)
            sessions[id] = Session(timeToLive: timeToLive, activeAt: logTime, activeIndex: index)
            return .none(expired: 0)
        case .other(.keepAlive(let words)):
            for word in words {
                guard var session = sessions[word.id] else { continue }
                session.activeAt = logTime
                session.activeIndex = index
                session.firstUnacknowledged = max(session.firstUnacknowledged, word.firstUnacknowledged)
                sessions[word.id] = session
            }
            return .none(expired: 0)
        case .other(.hold(let word, _)):
            guard var session = sessions[word.id] else { return .none(expired: 0) }
            session.activeAt = logTime
            session.activeIndex = index
            session.firstUnacknowledged = max(session.firstUnacknowledged, word.firstUnacknowledged)
            sessions[word.id] = session
            return .none(expired: 0)
        // It is a call, and comes as one.
        case .other(.takeOver): return .none(expired: 0)
        case .other(.close(let id)):
            sessions[id] = nil
            return .none(expired: 0)
        case .other(.expire(let expiries)):
            var expired = 0
            for expiry in expiries {
                guard let session = sessions[expiry.id], session.activeIndex == expiry.activeIndex,
                    session.activeAt.rawValue + session.timeToLive <= logTime.rawValue
                else { continue }
                sessions[expiry.id] = nil
                expired += 1
            }
            return .none(expired: expired)
        }
    }
}
