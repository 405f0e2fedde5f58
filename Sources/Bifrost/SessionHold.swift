// What those need who have something in a group (a lock, a place in a membership) for as long as this client's session
// lives there: to keep the session, to know which one it is, and to learn that it is lost. Owns the way from a task to the
// loop and back.

package import ClientCore
import NIOCore
package import Primitives
import Synchronization

extension Cluster {
    /// Keeps the session in the group that owns the slot alive, though nothing is under way in it, until the hold is
    /// released. Opens none: the command does that by which something is got. So hold first, and then send that command.
    ///
    /// Cost: while anything is held, one command in each third of the session's time for each group concerned.
    package func hold(_ slot: Slot) -> SessionHold { SessionHold(of: slot, on: loop) }
}

/// Keeps a session until it is released, or forgotten. Does not keep its `Cluster` open.
package final class SessionHold: Sendable {
    package let slot: Slot
    private let loop: ClientLoop
    private let isReleased = Atomic<Bool>(false)

    init(of slot: Slot, on loop: ClientLoop) {
        self.slot = slot
        self.loop = loop
        guard !loop.isGone else { return }
        loop.eventLoop.execute { loop.holdSession(of: slot) }
    }

    deinit { release() }

    /// The session is no longer kept for the sake of this hold: it ends after its time unless something else needs it.
    /// What is had in it is to be given back before. More than once is as once. Any thread may call it.
    package func release() {
        guard !isReleased.exchange(true, ordering: .relaxed) else { return }
        loop.letGoOfSession(of: slot)
    }

    /// The session that there is now in the group that owns the slot; nil: none, or one that counts as lost, or the
    /// cluster is closed. That it was there says nothing of later: see `endsAt`.
    ///
    /// - Parameter id: of the one in which something was got, which may have come here with the slot.
    package func life(as id: SessionID? = nil) async -> SessionLife? {
        guard !loop.isGone else { return nil }
        return await withCheckedContinuation { continuation in
            let waiting = LoopContinuation<SessionLife?>(continuation, otherwise: nil)
            loop.eventLoop.execute { [loop, slot] in waiting.resume(returning: loop.sessionLife(of: slot, as: id)) }
        }
    }

    /// Returns as soon as the session counts as lost: another one or none is there, nothing was answered in it until
    /// `SessionLife.endsAt`, or the cluster was closed. Where the slot moves it goes along, and is another group's. Of a
    /// process that was stopped this is told before anything that comes later. Also after `release`.
    ///
    /// A session that was lost by the clock alone may turn out to live: what was had in it may still be there.
    ///
    /// - Throws: `cancelled` when the task is cancelled before; nothing else.
    package func lost(_ id: SessionID) async throws(BifrostError) {
        guard !loop.isGone else { return }
        let waiter = LossWaiter(of: slot, id)
        let isLost = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Bool, Never>) in
                let waiting = LoopContinuation(continuation, otherwise: true)
                loop.eventLoop.execute { [loop] in waiter.start(waiting, on: loop) }
            }
        } onCancel: {
            // The end of the client is that of all who wait.
            guard !loop.isGone else { return }
            loop.eventLoop.execute { [loop] in waiter.cancel(on: loop) }
        }
        guard isLost else {
            throw BifrostError(.cancelled, "the task was cancelled", cause: CancellationError())
        }
    }
}

/// A task that waits for what an event loop is to do. One that was shut down does nothing and says nothing: it forgets
/// what it was given, and with that the task goes on.
private final class LoopContinuation<Value: Sendable>: Sendable {
    private let continuation: Mutex<CheckedContinuation<Value, Never>?>
    private let otherwise: Value

    /// - Parameter otherwise: what the task gets if nobody resumes it.
    init(_ continuation: CheckedContinuation<Value, Never>, otherwise: Value) {
        self.continuation = Mutex(continuation)
        self.otherwise = otherwise
    }

    deinit { resume(returning: otherwise) }

    /// Only the first time.
    func resume(returning value: Value) {
        let waiting = continuation.withLock { continuation in
            defer { continuation = nil }
            return continuation
        }
        waiting?.resume(returning: value)
    }
}

/// Who waits for the loss of a session. Resumes its task exactly once.
final class LossWaiter: @unchecked Sendable {
    // @unchecked: belongs to the event loop; the task only creates it and hands it over.
    let slot: Slot
    let id: SessionID
    private var continuation: LoopContinuation<Bool>?
    private var isCancelled = false

    init(of slot: Slot, _ id: SessionID) {
        self.slot = slot
        self.id = id
    }

    fileprivate func start(_ continuation: LoopContinuation<Bool>, on loop: ClientLoop) {
        self.continuation = continuation
        if isCancelled { return resume(isLost: false) }
        loop.wait(self)
    }

    func cancel(on loop: ClientLoop) {
        isCancelled = true
        loop.stopWaiting(self)
        resume(isLost: false)
    }

    func resume(isLost: Bool) {
        continuation?.resume(returning: isLost)
        continuation = nil
    }
}
