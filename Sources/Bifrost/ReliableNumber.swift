// A number with a name, as programs see it.

public import DataTypes
import Messages
public import Primitives
public import StateMachines

/// A Swift type whose values numbers have.
public protocol NumberValue: Sendable {
    var numeral: Numeral { get }
    /// nil: it is of the other kind.
    init?(_ numeral: Numeral)
}

extension Int64: NumberValue {
    public var numeral: Numeral { .integer(self) }
    public init?(_ numeral: Numeral) {
        guard case .integer(let value) = numeral else { return nil }
        self = value
    }
}

extension Int: NumberValue {
    public var numeral: Numeral { .integer(Int64(self)) }
    public init?(_ numeral: Numeral) {
        guard case .integer(let value) = numeral else { return nil }
        self = Int(value)
    }
}

extension Double: NumberValue {
    /// What is not finite is refused by the hosts.
    public var numeral: Numeral { .double(self) }
    public init?(_ numeral: Numeral) {
        guard case .double(let value) = numeral else { return nil }
        self = value
    }
}

/// A number of either kind.
extension Cluster {
    package func number(_ name: Bytes) -> ReliableNumeral {
        ReliableNumeral(object: ReliableObject(cluster: self, name: name))
    }
}

extension Cluster {
    /// A number: `Int`, `Int64` or `Double`.
    ///
    ///     let visits = try await cluster.number("{home}/visits", of: Int.self).add(1)
    public func number<Value: NumberValue>(_ name: Bytes, of _: Value.Type) -> ReliableNumber<Value> {
        ReliableNumber(object: ReliableObject(cluster: self, name: name))
    }
}

/// A number with a name. One that was never set counts as 0. Each operation takes effect at one moment between its call and
/// its return; commands are done once, however often they have to be sent. All throw `BifrostError`: `overflow`,
/// `divisionByZero`, `outOfBounds` and `conditionFailed` with what is there in `foundNumber`, `invalid` where an integer
/// meets a double; none of these changes anything.
public struct ReliableNumber<Value: NumberValue>: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    /// nil: it was never set.
    public func get(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Value? {
        guard let state = try await numeral.get(consistency, timeout: timeout) else { return nil }
        return try value(state.value)
    }

    /// Each of these returns what the number is afterwards.
    @discardableResult
    public func set(_ value: Value, timeout: Duration? = nil) async throws(BifrostError) -> Value {
        try await change(.set, value, nil, timeout)
    }

    @discardableResult
    public func add(_ operand: Value, timeout: Duration? = nil) async throws(BifrostError) -> Value {
        try await change(.add, operand, nil, timeout)
    }

    @discardableResult
    public func subtract(_ operand: Value, timeout: Duration? = nil) async throws(BifrostError) -> Value {
        try await change(.subtract, operand, nil, timeout)
    }

    @discardableResult
    public func multiply(by operand: Value, timeout: Duration? = nil) async throws(BifrostError) -> Value {
        try await change(.multiply, operand, nil, timeout)
    }

    /// Integers: towards 0.
    @discardableResult
    public func divide(by operand: Value, timeout: Duration? = nil) async throws(BifrostError) -> Value {
        try await change(.divide, operand, nil, timeout)
    }

    /// Sets it if it is `expected` now.
    ///
    /// - Returns: whether it was; else nothing was changed.
    public func compareAndSet(
        _ expected: Value, to value: Value, timeout: Duration? = nil
    ) async throws(BifrostError) -> Bool {
        do throws(BifrostError) {
            _ = try await change(.set, value, expected, timeout)
            return true
        } catch {
            guard error.code == .conditionFailed else { throw error }
            return false
        }
    }

    /// Between what it stays from now on: what would leave them fails with `outOfBounds`, and changes nothing. A number that
    /// was never set becomes 0.
    public func bound(
        atLeast lower: Value?, atMost upper: Value?, timeout: Duration? = nil
    ) async throws(BifrostError) {
        _ = try await numeral.bound(atLeast: lower?.numeral, atMost: upper?.numeral, timeout: timeout)
    }

    /// Number and bounds go. Returns what it was.
    @discardableResult
    public func delete(timeout: Duration? = nil) async throws(BifrostError) -> Value? {
        guard let state = try await numeral.delete(timeout: timeout) else { return nil }
        return try value(state.value)
    }

    /// What becomes of it. See `ObjectWatch`.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> ObjectWatch<NumberState> {
        numeral.watch(from: start, patience: patience)
    }

    private var numeral: ReliableNumeral { ReliableNumeral(object: object) }

    private func change(
        _ operation: NumberChange.Operation, _ operand: Value, _ expected: Value?, _ timeout: Duration?
    ) async throws(BifrostError) -> Value {
        try value(
            try await numeral.change(operation, operand.numeral, ifEqual: expected?.numeral, timeout: timeout))
    }

    private func value(_ numeral: Numeral) throws(BifrostError) -> Value {
        guard let value = Value(numeral) else {
            throw BifrostError(.invalid, "the number \(name) is no \(Value.self): it is \(numeral)")
        }
        return value
    }
}

/// The same for who does not know of which kind it is.
package struct ReliableNumeral: Sendable {
    let object: ReliableObject
    private var name: Bytes { object.name }

    init(object: ReliableObject) { self.object = object }

    package func get(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> NumberState? {
        try await object.query(NumberGet(name), consistency, timeout: timeout).answer.state
    }

    package func change(
        _ operation: NumberChange.Operation, _ operand: Numeral, ifEqual expected: Numeral? = nil,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Numeral {
        let command = NumberChange(name, operation, operand, ifEqual: expected)
        return try await object.submit(command, timeout: timeout).answer.value
    }

    package func bound(
        atLeast lower: Numeral?, atMost upper: Numeral?, timeout: Duration? = nil
    ) async throws(BifrostError) -> NumberState? {
        try await object.submit(NumberBound(name, lower: lower, upper: upper), timeout: timeout).answer.state
    }

    package func delete(timeout: Duration? = nil) async throws(BifrostError) -> NumberState? {
        try await object.submit(NumberDelete(name), timeout: timeout).answer.state
    }

    package func watch(from start: WatchStart, patience: Duration? = nil) -> ObjectWatch<NumberState> {
        let object = object
        return object.watch(
            machine: NumberMachine.number, key: NumberMachine.watchKey(name), start: start, patience: patience
        ) { () async throws(BifrostError) in
            let found = try await object.query(NumberGet(object.name))
            // Numbers don't say at which revision they were set: it was no later than this.
            return (
                found.answer.state.map { ObjectEntry(value: $0.encoded(), revision: found.revision) }, found.revision
            )
        }
    }
}
