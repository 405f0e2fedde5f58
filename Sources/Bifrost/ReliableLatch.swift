// Latches, as programs see them.

public import DataTypes
import Messages
public import Primitives
import StateMachines

extension Cluster {
    /// A latch that counts down.
    public func latch(_ name: Bytes) -> ReliableLatch {
        ReliableLatch(object: ReliableObject(cluster: self, name: name))
    }
}

/// A latch with a name: set to a count, counted down by whoever has done his part. Who waits goes on at zero. Set again,
/// the next round begins. All functions throw `BifrostError`.
public struct ReliableLatch: GuardableObject {
    var object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> ReliableLatch {
        ReliableLatch(object: object.guarded(by: token))
    }

    /// Begins a round.
    ///
    /// - Parameters:
    ///   - count: 0: the round is over at once.
    ///   - ifAbsent: a latch that is there stays as it is.
    /// - Returns: the latch as it is now.
    @discardableResult
    public func set(
        _ count: Int, ifAbsent: Bool = false, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState {
        guard let count = UInt64(exactly: count) else {
            throw BifrostError(.invalid, "a latch counts down from 0 or more, not from \(count)")
        }
        return try await object.submit(LatchSet(name, count, ifAbsent: ifAbsent), timeout: timeout).answer
    }

    /// Counts down, to zero at most.
    ///
    /// - Parameter round: it is refused in another one; nil: whichever it is.
    /// - Returns: the latch as it is now.
    /// - Throws: `conditionFailed`: nobody has set it, or it is in another round.
    @discardableResult
    public func countDown(
        by amount: Int = 1, round: UInt64? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState {
        guard let amount = UInt64(exactly: amount), amount > 0 else {
            throw BifrostError(.invalid, "a latch counts down by 1 or more, not by \(amount)")
        }
        try check(round)
        return try await object.submit(LatchCountDown(name, by: amount, round: round ?? 0), timeout: timeout).answer
    }

    /// - Returns: false: there was none.
    @discardableResult
    public func delete(timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await object.submit(LatchDelete(name), timeout: timeout).answer
    }

    /// nil: nobody has set it.
    public func state(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState? {
        try await object.query(LatchShow(name), consistency, timeout: timeout).answer.state
    }

    /// Waits until the round that is under way comes to zero; at once, if it has.
    ///
    /// - Parameters:
    ///   - round: one that is known to have been; nil: the present one.
    ///   - limit: nil: as long as it takes.
    /// - Returns: the number of the round.
    /// - Throws: `deadlineExceeded`; `conditionFailed`: nobody has set it, it was deleted, or another round began before this
    ///   one came to zero (or this is not known any more).
    @discardableResult
    public func wait(round: UInt64? = nil, for limit: Duration? = nil) async throws(BifrostError) -> UInt64 {
        try check(round)
        let waiting = Task { () -> Result<UInt64, BifrostError> in
            do throws(BifrostError) { return .success(try await reach(round)) } catch { return .failure(error) }
        }
        let clock = limit.map { limit in
            Task {
                guard (try? await Task.sleep(for: limit)) != nil else { return }
                waiting.cancel()
            }
        }
        defer { clock?.cancel() }
        let result = await withTaskCancellationHandler {
            await waiting.value
        } onCancel: {
            waiting.cancel()
        }
        do throws(BifrostError) { return try result.get() } catch {
            guard error.code == .cancelled, !Task.isCancelled, let limit else { throw error }
            throw BifrostError(.deadlineExceeded, "\(name): the latch did not come to zero within \(limit)")
        }
    }

    private func check(_ round: UInt64?) throws(BifrostError) {
        guard round != 0 else { throw BifrostError(.invalid, "\(name): no latch has a round 0") }
    }

    private func reach(_ wanted: UInt64?) async throws(BifrostError) -> UInt64 {
        var round = wanted
        let record = RecordWatch(object: object, machine: LatchMachine.number, key: LatchMachine.stateKey(name))
        return try await record.first { (change) throws(BifrostError) -> UInt64? in
            guard change.kind == .put, let state = try? LatchState(decoding: change.value) else {
                throw gone("the latch was deleted before it came to zero")
            }
            return try isOpen(round ?? state.round, state) ? state.opened : nil
        } asked: { () async throws(BifrostError) -> (UInt64?, Revision) in
            let (found, revision) = try await object.query(LatchShow(name))
            guard let state = found.state else { throw gone("nobody has set the latch, or it was deleted") }
            let wanted = round ?? state.round
            round = wanted
            return (try isOpen(wanted, state) ? wanted : nil, revision)
        }
    }

    private func isOpen(_ round: UInt64, _ state: LatchState) throws(BifrostError) -> Bool {
        if state.opened == round { return true }
        guard state.round == round else {
            throw gone("the latch is in round \(state.round): round \(round) is over, or never was")
        }
        return false
    }

    private func gone(_ text: String) -> BifrostError { BifrostError(.conditionFailed, "\(name): \(text)") }

    /// What it becomes, change by change.
    public func watch(
        from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> ObjectWatch<LatchState> {
        let object = object
        return object.watch(
            machine: LatchMachine.number, key: LatchMachine.stateKey(name), start: start, patience: patience,
            entry: { () async throws(BifrostError) in
                let (found, revision) = try await object.query(LatchShow(object.name))
                return (found.state.map { ObjectEntry(value: $0.encoded(), revision: revision) }, revision)
            })
    }
}
