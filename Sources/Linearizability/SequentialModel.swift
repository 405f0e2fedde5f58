// What a checker has to know of a data type: its states, and what an operation makes of one. Owns no history.

/// A data type as a single copy would behave, one operation after the other.
///
/// A state may stand for all states that are possible at that point (a set of them, in whatever form compares cheaply):
/// then an operation leaves those that its output allows.
public protocol SequentialModel: Sendable {
    /// What the caller asked for. Operations of unknown outcome with equal inputs are interchangeable.
    associatedtype Input: Hashable & Sendable
    /// What the caller got.
    associatedtype Output: Sendable
    /// Equal states behave equally from then on.
    associatedtype State: Hashable & Sendable

    var initialState: State { get }

    /// The state after an operation, or nil if it can't have had this output in this state.
    ///
    /// - Parameter output: nil when nobody knows it. Then the state after the operation *with* its effect; nil if it
    ///   has none in this state. That it never took effect is the checker's matter.
    func apply(_ input: Input, _ output: Output?, to state: State) -> State?

    /// An operation with this output has no effect in any state; all it can do to a state is to rule out some of what
    /// it stands for. The search is faster for each operation of which this is said.
    func isReadOnly(_ input: Input, _ output: Output) -> Bool

    /// Which operations of unknown outcome an explanation of the known ones may need; one answer for each of `unknown`.
    /// Without those that it leaves out, the known ones must be explainable whenever they are with them.
    func needed(unknown: [Input], known: [(input: Input, output: Output)]) -> [Bool]
}

extension SequentialModel {
    /// None.
    public func isReadOnly(_ input: Input, _ output: Output) -> Bool { false }

    /// All of them.
    public func needed(unknown: [Input], known: [(input: Input, output: Output)]) -> [Bool] {
        Array(repeating: true, count: unknown.count)
    }
}

/// One operation on one object, as its caller saw it.
public struct HistoryOperation<Input: Sendable, Output: Sendable>: Sendable {
    public enum Outcome: Sendable {
        /// It took effect between its call and this time, which is not before the call.
        case returned(Output, at: UInt64)
        /// It may take effect at any time after its call, or never.
        case unknown
        /// Certainly without effect, then and later: left out.
        case failed
    }

    public var client: UInt64
    public var input: Input
    public var outcome: Outcome
    /// In the unit of the return times; any clock that all clients share. What returns at the very time of another's
    /// call is concurrent with it.
    public var call: UInt64

    public init(client: UInt64, input: Input, outcome: Outcome, call: UInt64) {
        self.client = client
        self.input = input
        self.outcome = outcome
        self.call = call
    }
}
