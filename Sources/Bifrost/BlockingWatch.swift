// Watches for programs that are not async: changes, one after the other, for a thread that waits for them. Owns the way
// from the task that watches to that thread; what is told, and in which order, `KeyValueWatch` and `MachineEvents` say.

import Dispatch
import Synchronization

/// What becomes of keys, or what a machine tells, as a sequence whose `next` waits.
///
///     let watch = cluster.watch(prefix: "{user:7}/")
///     for change in watch where change.kind == .put { print(change.key, change.value) }
///     if let failure = watch.failure { throw failure }
///
/// It ends when `cancel` is called or the cluster is closed, from another thread or this one, and when it fails: then
/// `failure` says why. Changes that threads take at the same time are each given to one of them, in their order. The
/// watch is one of its own from its beginning on, so a second loop goes on where the first one stopped. It is over when
/// nobody has it any more.
///
/// Never wait for it in an async function or on an event loop: the thread that it stops is one that others wait for,
/// the watch itself among them, and it may never go on. On an event loop it ends the program instead.
///
/// Cost: one task, and a switch of threads for some changes. 16 changes and one answer of a host are fetched before
/// they are taken; a slow reader takes no more memory than that, and is told when it was too slow.
public final class BlockingWatch<Change: Sendable>: Sequence, IteratorProtocol, Sendable {
    public typealias Element = Change

    private let line: WatchLine<Change>
    private let task: Task<Void, Never>

    init<Changes: AsyncSequence & Sendable>(_ changes: Changes)
    where Changes.Element == Change, Changes.Failure == BifrostError {
        let line = WatchLine<Change>()
        self.line = line
        task = Task.detached {
            do throws(BifrostError) {
                for try await change in changes {
                    guard await line.give(change) else { return }
                }
                line.end(nil)
            } catch {
                line.end(error)
            }
        }
    }

    deinit { cancel() }

    /// Waits for the next change. Nil: it has ended.
    public func next() -> Change? { line.take(before: .distantFuture).flatMap { $0 } }

    /// The same, for so long at the longest.
    ///
    /// - Throws: `deadlineExceeded` if nothing happened meanwhile; the watch goes on, and the next call has what comes
    ///   next. And the `failure` of one that has ended by it.
    public func next(within time: Duration) throws(BifrostError) -> Change? {
        let nanoseconds = Int(clamping: time.nanoseconds)
        guard let change = line.take(before: .now() + .nanoseconds(nanoseconds)) else {
            throw BifrostError(.deadlineExceeded, "nothing happened for \(time)")
        }
        if change == nil, let failure { throw failure }
        return change
    }

    /// Ends it: threads that wait return, and what was not taken yet is forgotten. From any thread, at any time.
    public func cancel() {
        line.cancel()
        task.cancel()
    }

    /// Why it has ended; nil if it goes on, was cancelled, or its cluster was closed.
    public var failure: BifrostError? { line.failure }
}

/// So many changes of a `BlockingWatch` are fetched ahead, each of them a key and a value at most.
private let changesAheadMax = 16

/// What a task has for threads that wait. The semaphore counts what is in it, and its end as one more.
private final class WatchLine<Change: Sendable>: Sendable {
    private struct State {
        var changes: [Change] = []
        var hasEnded = false
        var failure: BifrostError?
        /// The task, while the line is full.
        var giver: CheckedContinuation<Void, Never>?
    }
    private let state = Mutex(State())
    private let count = DispatchSemaphore(value: 0)

    /// Returns when there is room for the next one. False: nobody wants one.
    func give(_ change: Change) async -> Bool {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let hasRoom = state.withLock { state in
                guard !state.hasEnded else { return true }
                state.changes.append(change)
                count.signal()
                guard state.changes.count >= changesAheadMax else { return true }
                state.giver = continuation
                return false
            }
            if hasRoom { continuation.resume() }
        }
        return state.withLock { !$0.hasEnded }
    }

    /// Nothing comes any more; what is there can still be taken.
    func end(_ error: BifrostError?) {
        state.withLock { state in
            guard !state.hasEnded else { return }
            state.hasEnded = true
            // Whoever watches wanted that himself.
            if let error, error.code != .closed, error.code != .cancelled { state.failure = error }
            count.signal()
        }
    }

    func cancel() {
        let giver = state.withLock { state in
            state.changes = []
            if !state.hasEnded { count.signal() }
            state.hasEnded = true
            defer { state.giver = nil }
            return state.giver
        }
        giver?.resume()
    }

    /// Nil: nothing came in time. Nil within: it has ended.
    func take(before deadline: DispatchTime) -> Change?? {
        preconditionMayWait()
        guard count.wait(timeout: deadline) == .success else { return nil }
        let (change, giver) = state.withLock { state -> (Change?, CheckedContinuation<Void, Never>?) in
            guard !state.changes.isEmpty else {
                // The end stays, for the next who comes.
                count.signal()
                return (nil, nil)
            }
            defer { state.giver = nil }
            return (state.changes.removeFirst(), state.giver)
        }
        giver?.resume()
        return .some(change)
    }

    var failure: BifrostError? { state.withLock { $0.failure } }
}
