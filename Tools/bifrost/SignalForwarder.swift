// SIGINT, SIGTERM and SIGHUP of a command that waits for something in a group, and perhaps runs a program with it. Owns
// where they go, and that a wait which they end leaves nothing behind.

import Bifrost
import Foundation
import Synchronization

/// Until `end` these signals do not end the process by themselves: they end what it waits for, or go to the program.
final class SignalForwarder: Sendable {
    private enum Stage {
        /// With the first signal that came meanwhile: it is for what comes next.
        case between(Int32?)
        case waiting(cancel: @Sendable () -> Void)
        /// While it waited.
        case stopped(Int32)
        case running(ChildProcess)
    }

    private let stage = Mutex(Stage.between(nil))
    private let signals = Mutex<[TakenSignal]>([])

    /// How long a wait that is ended tries to give back what it has in the group: its place, or what it just got.
    private static let giveBackSeconds = 5.0

    init() {
        let taken = [SIGINT, SIGTERM, SIGHUP].compactMap { number in
            // Whoever forgets this goes on taking them, until `end`.
            TakenSignal(number, on: .global()) { [self] in came(number) }
        }
        signals.withLock { $0 = taken }
    }

    /// From here on the signals end the process by themselves, also one that has come.
    func end() {
        signals.withLock { signals in
            for signal in signals { signal.end() }
            signals = []
        }
        if case .between(let number?) = stage.withLock({ $0 }) { exit(128 + number) }
    }

    private func came(_ number: Int32) {
        let act: (@Sendable () -> Void)? = stage.withLock { stage in
            switch stage {
            case .between(let first):
                stage = .between(first ?? number)
                return nil
            case .waiting(let cancel):
                stage = .stopped(number)
                return {
                    DispatchQueue.global().asyncAfter(deadline: .now() + Self.giveBackSeconds) { exit(128 + number) }
                    cancel()
                }
            case .stopped: return nil
            case .running(let child): return { child.sendToAll(number) }
            }
        }
        act?()
    }

    /// The stage is another one from now on. Returns the signal that came before it.
    private func go(to next: Stage) -> Int32? {
        stage.withLock { stage in
            defer { stage = next }
            return if case .between(let number) = stage { number } else { nil }
        }
    }

    /// The signals go to the program, also one that has come.
    func hand(to child: ChildProcess) {
        if let number = go(to: .running(child)) { child.sendToAll(number) }
    }

    /// What the body came to. Does not return if a signal comes before that: the body's task is cancelled, what it has in
    /// the group is given back, as far as that can be done within some seconds, and the process ends as one that the
    /// signal ended.
    ///
    /// - Parameter giveBack: gives back what the body got in that moment.
    func wait<Value: Sendable>(
        _ cluster: Cluster, _ body: @escaping @Sendable () async throws(BifrostError) -> Value,
        giveBack: (Value) async -> Void
    ) async throws(BifrostError) -> Value {
        let task = Task { () -> Result<Value, BifrostError> in
            do throws(BifrostError) { return .success(try await body()) } catch { return .failure(error) }
        }
        if let number = go(to: .waiting(cancel: { task.cancel() })) { came(number) }
        let result = await task.value
        let signal: Int32? = stage.withLock { stage in
            if case .stopped(let number) = stage { return number }
            stage = .between(nil)
            return nil
        }
        guard let signal else { return try result.get() }
        if case .success(let value) = result { await giveBack(value) }
        await cluster.settle()
        await cluster.close()
        exit(128 + signal)
    }
}
