// Who waits for the loss of this client's sessions. Decides whose session is lost, and when to look again; the clock, the
// timer and what the router knows of sessions are ClientLoop's.

import ClientCore
import Primitives
import Ring

struct SessionLosses {
    /// Of sessions that are not lost yet, as far as is known.
    private var waiters: [LossWaiter] = []
    /// When the first of these sessions counts as lost if nothing is answered in it any more.
    private(set) var dueAt: Instant?
    /// What the router had counted when they were looked at.
    private var changesSeen: UInt64 = 0

    mutating func add(_ waiter: LossWaiter) { waiters.append(waiter) }

    mutating func remove(_ waiter: LossWaiter) {
        waiters.removeAll { $0 === waiter }
        if waiters.isEmpty { dueAt = nil }
    }

    /// The router has counted another change of sessions since they were looked at.
    func isNew(_ changes: UInt64) -> Bool { changes != changesSeen }

    /// One of them may be lost.
    func isDue(now: Instant, changes: UInt64) -> Bool { isNew(changes) || dueAt.map { $0 <= now } ?? false }

    /// Takes those out whose sessions are lost. Words that are answered meanwhile move the moment at which the next one may
    /// be, so they are looked at no more than about once in a session's time. Cost: O(waiters).
    mutating func take(
        now: Instant, changes: UInt64, lifeOf sessionLife: (Slot, SessionID) -> SessionLife?
    ) -> [LossWaiter] {
        changesSeen = changes
        var next: Instant?
        var lost: [LossWaiter] = []
        waiters.removeAll { waiter in
            if let life = sessionLife(waiter.slot, waiter.id), life.endsAt > now {
                next = min(next ?? life.endsAt, life.endsAt)
                return false
            }
            lost.append(waiter)
            return true
        }
        dueAt = next
        return lost
    }

    mutating func takeAll() -> [LossWaiter] {
        defer {
            waiters = []
            dueAt = nil
        }
        return waiters
    }
}
