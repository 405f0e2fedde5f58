// One value with a name, as programs see it.

public import DataTypes
public import Messages
public import Primitives
public import StateMachines

extension Cluster {
    /// A single value.
    ///
    ///     let leader = cluster.value("{ledger}/leader", of: String.self)
    ///     try await leader.set("host 3", if: .absent, timeToLive: .seconds(30))
    public func value<Value: Message>(_ name: Bytes, of _: Value.Type) -> ReliableValue<Value> {
        ReliableValue(object: ReliableObject(cluster: self, name: name))
    }
}

/// One value with a name. Each operation takes effect at one moment between its call and its return; commands are done
/// once, however often they have to be sent. All throw `BifrostError`; a condition that does not hold throws
/// `conditionFailed`, with what is there in `foundEntry`.
public struct ReliableValue<Value: Message>: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    /// The value, and when it got there; nil if there is none.
    public func get(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Versioned<Value>? {
        let found = try await object.query(ValueGet(name), consistency, timeout: timeout).answer.entry
        guard let found else { return nil }
        return try ReliableObject.decoded(found)
    }

    /// Sets it.
    ///
    /// - Parameters:
    ///   - condition: nothing changes if it does not hold; nil: none.
    ///   - timeToLive: it is gone so long afterwards, no earlier, unless it is set again; nil: it stays. In whole
    ///     milliseconds of the group's elapsed time.
    /// - Returns: the revision at which it took effect.
    @discardableResult
    public func set(
        _ value: Value, if condition: EntryCondition? = nil, timeToLive: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await set(value, condition, timeToLive, answersPrevious: false, timeout).revision
    }

    /// Sets it, and returns what was there before.
    public func swap(
        _ value: Value, timeToLive: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Versioned<Value>? {
        let previous = try await set(value, nil, timeToLive, answersPrevious: true, timeout).answer
        guard let revision = previous.revision, let bytes = previous.value else { return nil }
        return Versioned(try ReliableObject.value(bytes), at: revision)
    }

    /// Sets it if it is `expected` now (the same bytes). For a comparison by revision see `set(_:if:)`.
    ///
    /// - Returns: whether it was; else nothing was changed.
    public func compareAndSet(
        _ expected: Value, to value: Value, timeToLive: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Bool {
        do throws(BifrostError) {
            try await set(value, if: .value(expected.encoded()), timeToLive: timeToLive, timeout: timeout)
            return true
        } catch {
            guard error.code == .conditionFailed else { throw error }
            return false
        }
    }

    /// Takes it away. Returns whether there was one.
    @discardableResult
    public func delete(
        if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Bool {
        try await object.submit(ValueDelete(name, if: condition), timeout: timeout).answer.revision != nil
    }

    /// What becomes of it. See `ObjectWatch`.
    ///
    /// - Parameter patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> ObjectWatch<Value> {
        let object = object
        return object.watch(
            machine: ValueMachine.number, key: ValueMachine.watchKey(name), start: start, patience: patience
        ) { () async throws(BifrostError) in
            let found = try await object.query(ValueGet(object.name))
            return (found.answer.entry, found.revision)
        }
    }

    private func set(
        _ value: Value, _ condition: EntryCondition?, _ timeToLive: Duration?, answersPrevious: Bool,
        _ timeout: Duration?
    ) async throws(BifrostError) -> (answer: PreviousEntry, revision: Revision) {
        let bytes = value.encoded()
        try object.check(value: bytes)
        return try await object.submit(
            ValueSet(
                name, bytes, if: condition, timeToLiveMillis: try timeToLive?.timeToLiveMillis ?? 0,
                answersPrevious: answersPrevious), timeout: timeout)
    }
}
