// A client's session in one group: which calls it has made, and of which it knows the outcome. Owns numbers only.

import DequeModule
import Primitives
import StateMachines

struct ClientSession: Sendable {
    enum Standing: Sendable { case none, opening, open }

    var standing = Standing.none
    var id = SessionID.none
    /// The lowest call whose outcome is not known: the group forgets the answers of those before.
    private(set) var firstUnacknowledged: UInt64 = 1
    /// From `firstUnacknowledged` on: the outcome is known.
    private var known: Deque<Bool> = []
    /// When the client sent what was answered in it last: from then on the group lets it live, for its time at least.
    var aliveAt = Instant.zero
    /// A keep-alive is under way.
    var isKeptAlive = false
    /// What the group was told last of what it may forget, and what a keep-alive that is under way tells it.
    var acknowledged: UInt64 = 1
    var saying: UInt64 = 1
    /// A call ended without anybody knowing whether it was done. It may still be on its way, and would be done behind
    /// what goes in another session: the group has to say that this one is over.
    var hasUnknown = false
    /// Of one that could not be opened, so many times.
    var failures = 0
    var notBefore = Instant.zero
    var obstacle: SessionObstacle?

    /// Another call may be begun. Half of the window that a group keeps: a message that comes late names the first one too
    /// low, and its call must be in the window all the same.
    var hasRoom: Bool { UInt64(known.count) < SessionTable.Limits.window / 2 }

    /// The number of the next call.
    mutating func begin() -> UInt64 {
        known.append(false)
        return firstUnacknowledged + UInt64(known.count) - 1
    }

    mutating func end(_ sequence: UInt64) {
        guard sequence >= firstUnacknowledged, sequence - firstUnacknowledged < UInt64(known.count) else { return }
        known[Int(sequence - firstUnacknowledged)] = true
        while known.first == true {
            known.removeFirst()
            firstUnacknowledged += 1
        }
    }

    /// Nothing was under way in it for so long that the group may have forgotten it: another one costs less than to ask.
    /// Not to be asked of one that is held.
    func hasLapsed(now: Instant, after nanoseconds: UInt64) -> Bool {
        standing == .open && known.isEmpty && !isKeptAlive && !hasUnknown && now.since(aliveAt) >= nanoseconds
    }

    /// - Parameter life: how long the group lets it live without a word, in nanoseconds.
    func needsKeepAlive(now: Instant, after nanoseconds: UInt64, life: UInt64, isHeld: Bool) -> Bool {
        guard standing == .open, !isKeptAlive else { return false }
        if isHeld || !known.isEmpty, now.since(aliveAt) >= nanoseconds { return true }
        // Answers end with their session. A word for their sake that nobody answers is said again within its life, and not
        // for ever: as it is under way itself, it would keep the clock going for which it is said.
        return known.isEmpty && firstUnacknowledged - acknowledged >= Self.answersMax && now.since(aliveAt) < life
    }

    /// So many answers a group may keep for a client that has nothing under way.
    private static var answersMax: UInt64 { 128 }
}

/// Why a group opened no session when it was asked last.
struct SessionObstacle: Sendable {
    var code: FailureCode
    var text: String
}

/// Whose an operation is.
enum OperationPurpose: UInt8 {
    case caller
    /// The router's own.
    case openSession, keepAlive
    /// The router's too, and a call of a session as callers' commands are.
    case takeOver

    var isNumbered: Bool { self == .caller || self == .takeOver }
}
