// Something that is seen through though nobody waits for it any more: what was got in a group has to be given back, however
// the one who wanted it ended.

import Primitives
import Synchronization

/// Where the result of something that goes on by itself meets who waits for it. Whoever comes to its end is told whether
/// anybody takes the result.
final class Errand<Value: Sendable>: Sendable {
    private struct State {
        /// Until it is taken: what it has may be given back when nobody has it any more.
        var result: Result<Value, BifrostError>?
        var isDone = false
        var continuation: CheckedContinuation<Result<Value, BifrostError>, Never>?
        var isAbandoned = false
        var whenAbandoned: (@Sendable () -> Void)?
    }
    private let state = Mutex(State())

    var isAbandoned: Bool { state.withLock { $0.isAbandoned } }

    /// Done when nobody wants the result any more; at once, if that is so already.
    func whenAbandoned(_ body: @escaping @Sendable () -> Void) {
        let isLate = state.withLock { state in
            if !state.isAbandoned { state.whenAbandoned = body }
            return state.isAbandoned
        }
        if isLate { body() }
    }

    /// - Returns: false: nobody wants it any more.
    func finish(_ result: Result<Value, BifrostError>) -> Bool {
        let (isWanted, continuation) = state.withLock { state in
            guard !state.isAbandoned else {
                return (false, nil as CheckedContinuation<Result<Value, BifrostError>, Never>?)
            }
            let waiting = state.continuation
            (state.isDone, state.continuation, state.whenAbandoned) = (true, nil, nil)
            if waiting == nil { state.result = result }
            return (true, waiting)
        }
        continuation?.resume(returning: result)
        return isWanted
    }

    private func abandon(_ error: BifrostError) {
        let (continuation, whenAbandoned) = state.withLock { state in
            guard !state.isDone, !state.isAbandoned else {
                return (nil as CheckedContinuation<Result<Value, BifrostError>, Never>?, nil as (@Sendable () -> Void)?)
            }
            state.isAbandoned = true
            defer { (state.continuation, state.whenAbandoned) = (nil, nil) }
            return (state.continuation, state.whenAbandoned)
        }
        continuation?.resume(returning: .failure(error))
        whenAbandoned?()
    }

    /// Waits for the result. To be called once.
    ///
    /// - Parameter limit: nil: as long as it takes.
    /// - Throws: what became of it; `cancelled`, `deadlineExceeded`: it goes on by itself, and its result is not wanted.
    func value(within limit: Duration?) async throws(BifrostError) -> Value {
        let clock = limit.map { limit in
            Task { [self] in
                guard (try? await Task.sleep(for: limit)) != nil else { return }
                abandon(
                    BifrostError(
                        .deadlineExceeded, "no answer within \(limit); what it came to, or comes to, is given back"))
            }
        }
        defer { clock?.cancel() }
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Result<Value, BifrostError>, Never>) in
                let known: Result<Value, BifrostError>? = state.withLock { state in
                    if let result = state.result {
                        state.result = nil
                        return result
                    }
                    if state.isAbandoned { return .failure(Self.cancelled) }
                    state.continuation = continuation
                    return nil
                }
                if let known { continuation.resume(returning: known) }
            }
        } onCancel: {
            abandon(Self.cancelled)
        }
        return try result.get()
    }

    private static var cancelled: BifrostError {
        BifrostError(
            .cancelled, "the task was cancelled; what it came to, or comes to, is given back",
            cause: CancellationError())
    }
}

/// Does it until it was done: it does no harm if that is more than once.
func seeThrough(_ body: () async throws(BifrostError) -> Void) async {
    while true {
        do throws(BifrostError) { return try await body() } catch {
            guard error.isRetrySafe || error.mayHaveHappened else { return }
            do { try await Task.sleep(for: .seconds(1)) } catch { return }
        }
    }
}

/// One attempt of a command whose end has to be known. It is not the last: what was got is given back until that is
/// answered, as no session is forgotten while its group has no quorum, whose elapsed time stands still.
let errandTime = Duration.seconds(3_600)

/// What goes on by itself for somebody who may not wait for it any more.
final class Errands: Sendable {
    private struct State {
        var next: UInt64 = 0
        var tasks: [UInt64: Task<Void, Never>] = [:]
    }
    private let state = Mutex(State())

    func start(_ body: @escaping @Sendable () async -> Void) {
        state.withLock { state in
            let number = state.next
            state.next += 1
            state.tasks[number] = Task { [self] in
                await body()
                self.state.withLock { _ = $0.tasks.removeValue(forKey: number) }
            }
        }
    }

    /// Returns when none is under way, those not either that others begin meanwhile.
    func end() async {
        while let task = state.withLock({ $0.tasks.values.first }) { await task.value }
    }
}
