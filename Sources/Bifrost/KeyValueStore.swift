// Keys and values as programs see them. Owns the encoding of requests and the checks before they are sent.

import ClientCore
import Messages
public import Primitives
import Ring
public import StateMachines

/// The plain key-value store of a cluster.
///
/// A key has 1 to `Limits.keyBytesMax` bytes, a value 0 to `Limits.valueBytesMax`. Keys with the same part in `{…}`
/// live
/// together. Each function throws `BifrostError`; its `mayHaveHappened` says whether a write may have taken effect.
public struct KeyValueStore: GuardableObject {
    let cluster: Cluster
    var token: FencingToken?

    public func guarded(by token: FencingToken) -> Self { Self(cluster: cluster, token: token) }

    /// Sets the key's value, whatever it was. Returns the revision of its group at which that took effect.
    ///
    /// - Parameter timeToLive: the key is gone so long afterwards, no earlier, and a second or two later at most while its
    ///   group has a leader; nil: it stays. Whole milliseconds of the group's elapsed time, which stands still while nobody
    ///   can write. The next write to the key, with another time to live or none, takes its place. Needs feature level 8.
    @discardableResult
    public func put(
        _ key: Bytes, _ value: Bytes, timeToLive: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await execute(
            .put(key: key, value: value, timeToLiveMillis: try timeToLive?.timeToLiveMillis ?? 0), timeout: timeout)
    }

    /// Removes the key, whether or not it is there. Returns the revision at which it was gone.
    @discardableResult
    public func delete(_ key: Bytes, timeout: Duration? = nil) async throws(BifrostError) -> Revision {
        try await execute(.delete(key: key), timeout: timeout)
    }

    /// The key's value and the revision at which it got it; nil if it has none.
    public func get(
        _ key: Bytes, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> (value: Bytes, revision: Revision)? {
        switch try await reading(key, in: slot(of: key), consistency, timeout: timeout).found {
        case .absent: return nil
        case .found(let value, let revision, _): return (value, revision)
        }
    }

    /// What there is of a key, and the group's revision at that moment.
    func reading(
        _ key: Bytes, in slot: Slot, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> (found: KeyValueReading, revision: Revision) {
        let query = KeyValueQuery.get(key: key)
        if let problem = query.problem() { throw BifrostError(problem) }
        let answer = try await cluster.perform(
            kind: .query, target: .slot(slot), reading: consistency, machine: .keyValue, payload: query.encoded(),
            timeout: timeout)
        do throws(DecodingFailure) {
            let result = try DataResult(decoding: answer)
            return (try KeyValueReading(decoding: result.body), result.revision)
        } catch {
            throw BifrostError(malformed: error)
        }
    }

    private func execute(_ command: KeyValueCommand, timeout: Duration?) async throws(BifrostError) -> Revision {
        if let problem = command.problem() { throw BifrostError(problem) }
        let answer = try await cluster.perform(
            kind: .command, target: .slot(slot(of: command.key)), payload: command.payload(),
            guardedBy: token, timeout: timeout)
        do throws(DecodingFailure) {
            return try DataResult(decoding: answer).revision
        } catch {
            throw BifrostError(malformed: error, mayHaveHappened: true)
        }
    }
}

extension Duration {
    /// - Throws: `invalid` if it is below a millisecond or beyond what a key may live.
    package var timeToLiveMillis: UInt64 {
        get throws(BifrostError) {
            let (seconds, attoseconds) = components
            let millis = seconds.multipliedReportingOverflow(by: 1_000)
            let whole = millis.partialValue + attoseconds / 1_000_000_000_000_000
            guard !millis.overflow, whole >= 1, whole <= Int64(KeyValue.timeToLiveMillisMax) else {
                throw BifrostError(
                    .invalid, "a time to live has 1 to \(KeyValue.timeToLiveMillisMax) milliseconds, not \(self)")
            }
            return UInt64(whole)
        }
    }
}
