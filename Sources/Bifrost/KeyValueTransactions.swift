// Changes that depend on what is there: conditions on single keys, and transactions over several.

import ClientCore
import Messages
public import Primitives
import Ring
public import StateMachines

/// What a condition that did not hold found instead; the `cause` of a `BifrostError` with `conditionFailed`.
public struct ConditionFailure: Error, Hashable, Sendable {
    /// The key's value and revision; nil: it has none.
    public var current: KeyValueReading
    /// Of the group, when it was looked at.
    public var revision: Revision
}

/// What a transaction did.
public struct TransactionResult: Hashable, Sendable {
    /// All conditions held, and `then` was done; else `otherwise`.
    public var holds: Bool
    /// Of its changes; the group's if it made none.
    public var revision: Revision
    /// What the gets in the part that was done found, in their order.
    public var readings: [KeyValueReading]
}

extension KeyValueStore {
    /// Sets the key's value if the condition holds; all other writes come before or after both. Returns the revision at
    /// which that took effect.
    ///
    /// - Throws: `conditionFailed` if it does not hold; its cause is a `ConditionFailure`, with what is there.
    @discardableResult
    public func put(
        _ key: Bytes, _ value: Bytes, if condition: KeyValueTransaction.Condition.Test, timeToLive: Duration? = nil,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await change(
            .put(key: key, value: value, timeToLiveMillis: try timeToLive?.timeToLiveMillis ?? 0), if: condition,
            timeout: timeout)
    }

    /// Removes the key if the condition holds. Returns the revision at which it was gone.
    ///
    /// - Throws: `conditionFailed`, as for `put(_:_:if:timeout:)`.
    @discardableResult
    public func delete(
        _ key: Bytes, if condition: KeyValueTransaction.Condition.Test, timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await change(.delete(key: key), if: condition, timeout: timeout)
    }

    private func change(
        _ operation: KeyValueTransaction.Operation, if condition: KeyValueTransaction.Condition.Test,
        timeout: Duration?
    ) async throws(BifrostError) -> Revision {
        let key = operation.key
        let result = try await transaction(
            if: [.init(key, condition)], then: [operation], otherwise: [.get(key: key)], timeout: timeout)
        guard !result.holds else { return result.revision }
        let current = result.readings.first ?? .absent
        let found =
            switch current {
            case .absent: "it has no value"
            case .found(_, let revision, _): "it got its value at revision \(revision)"
            }
        throw BifrostError(
            .conditionFailed, "the condition on the key does not hold: \(found); nothing was changed",
            cause: ConditionFailure(current: current, revision: result.revision))
    }

    /// If all conditions hold, does `then`, else `otherwise`: all of it or nothing, at one revision, and no other change
    /// comes between. All keys lie in one slot: give keys that belong together the same part in `{…}`.
    ///
    /// - Throws: `invalid` and `tooLarge` for what breaks the rules (`KeyValueTransaction.problem`). A condition that does
    ///   not hold is no error.
    public func transaction(
        if conditions: [KeyValueTransaction.Condition], then: [KeyValueTransaction.Operation],
        otherwise: [KeyValueTransaction.Operation] = [], timeout: Duration? = nil
    ) async throws(BifrostError) -> TransactionResult {
        let transaction = KeyValueTransaction(if: conditions, then: then, otherwise: otherwise)
        if let problem = transaction.problem() { throw BifrostError(problem) }
        guard let key = transaction.keys.first else { preconditionFailure("one without a key has a problem") }
        let answer = try await cluster.perform(
            kind: .command, target: .slot(slot(of: key)), payload: transaction.payload(), guardedBy: token,
            timeout: timeout)
        do throws(DecodingFailure) {
            let result = try DataResult(decoding: answer)
            let outcome = try KeyValueOutcome(decoding: result.body)
            return TransactionResult(holds: outcome.holds, revision: result.revision, readings: outcome.readings)
        } catch {
            throw BifrostError(malformed: error, mayHaveHappened: true)
        }
    }

    /// The values of many keys, in the keys' order; nil where there is none. Each is read as by `get`, and they are read
    /// at the same time: together they are no snapshot.
    public func get(
        _ keys: [Bytes], _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> [(value: Bytes, revision: Revision)?] {
        try await together(keys.count) { place throws(BifrostError) in
            try await get(keys[place], consistency, timeout: timeout)
        }
    }

    /// Sets the values of many keys at the same time, each by itself: others may see some of them and not yet the rest.
    /// Where one fails, the error is thrown when all have ended, and the others stand. For all or nothing, see
    /// `transaction`.
    public func put(_ records: [(key: Bytes, value: Bytes)], timeout: Duration? = nil) async throws(BifrostError) {
        _ = try await together(records.count) { place throws(BifrostError) in
            try await put(records[place].key, records[place].value, timeout: timeout)
        }
    }

    /// So many under way at once, so that a long list does not take the client's whole bound.
    private static var togetherMax: Int { 256 }

    private func together<Value: Sendable>(
        _ count: Int, _ body: @escaping @Sendable (Int) async throws(BifrostError) -> Value
    ) async throws(BifrostError) -> [Value] {
        let results = await withTaskGroup(of: (Int, Result<Value, BifrostError>).self) { group in
            func add(_ place: Int) {
                group.addTask {
                    do throws(BifrostError) { return (place, .success(try await body(place))) } catch {
                        return (place, .failure(error))
                    }
                }
            }
            for place in 0..<min(count, Self.togetherMax) { add(place) }
            var next = min(count, Self.togetherMax)
            var results: [Result<Value, BifrostError>?] = Array(repeating: nil, count: count)
            while let (place, result) = await group.next() {
                results[place] = result
                if next < count {
                    add(next)
                    next += 1
                }
            }
            return results
        }
        var values: [Value] = []
        values.reserveCapacity(count)
        for case .some(let result) in results { values.append(try result.get()) }
        return values
    }
}
