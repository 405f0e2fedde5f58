// All orders of a small history, one after the other: slow, and plainly what the definition says. Shares nothing with
// the checker but the history's type.

import Linearizability

typealias Register = RegisterModel<Int>
typealias RegisterOperation = HistoryOperation<RegisterInput<Int>, RegisterOutput<Int>>

/// Whether some order of all known and some of the unknown operations respects time, each of which `run` lets happen.
/// - Parameter run: calls its last argument with each state that is possible after the operation, until one call is
/// true.
func hasOrder<Input, Output, State>(
    _ history: [HistoryOperation<Input, Output>], from state: State,
    _ run: @escaping (Input, Output?, State, (State) -> Bool) -> Bool
) -> Bool {
    let left = history.filter { if case .failed = $0.outcome { false } else { true } }
    let ends = left.map { if case .returned(_, let end) = $0.outcome { end } else { UInt64.max } }
    let known = left.indices.filter { ends[$0] < .max }.reduce(0) { $0 | 1 << $1 }
    func search(_ done: Int, _ state: State) -> Bool {
        if done & known == known { return true }
        var first = UInt64.max
        for place in ends.indices where done & 1 << place == 0 { first = min(first, ends[place]) }
        for (place, operation) in left.enumerated() where done & 1 << place == 0 && operation.call <= first {
            var output: Output?
            if case .returned(let known, _) = operation.outcome { output = known }
            if run(operation.input, output, state, { search(done | 1 << place, $0) }) { return true }
        }
        return false
    }
    return search(0, state)
}

/// The register with numbers for revisions that are far enough apart for those that nobody told to stand between.
struct ConcreteRegister {
    static let gap = 16
    var value: Int?
    var revision = 0

    static func run(
        _ input: RegisterInput<Int>, _ output: RegisterOutput<Int>?, _ state: Self, seen: [Int],
        _ then: (Self) -> Bool
    ) -> Bool {
        func change(to value: Int?, _ told: UInt64?) -> Bool {
            if let told {
                let revision = Int(told) * gap
                return revision > state.revision && then(Self(value: value, revision: revision))
            }
            // One that an answer tells, or one that none tells: then the smallest leaves most room for others.
            return ([state.revision + 1] + seen.filter { $0 > state.revision }).contains {
                then(Self(value: value, revision: $0))
            }
        }
        func holds(_ condition: RegisterInput<Int>.Condition) -> Bool {
            switch condition {
            case .value(let value): state.value == value
            case .revision(let revision): state.value != nil && state.revision == Int(revision) * gap
            }
        }
        var told: UInt64?
        if case .changed(let revision)? = output { told = revision }
        switch (input, output) {
        case (.get, nil): return then(state)
        case (.get, .found(let value, let revision)):
            return state.value == value && revision.map { Int($0) * gap == state.revision } ?? true && then(state)
        case (.put(let value), _): return change(to: value, told)
        case (.delete, _): return change(to: nil, told)
        case (.compareAndSet(let condition, _), .conditionFailed): return !holds(condition) && then(state)
        case (.compareAndSet(let condition, let value), .changed): return holds(condition) && change(to: value, told)
        case (.compareAndSet(let condition, let value), nil):
            return holds(condition) ? change(to: value, nil) : then(state)
        default: return false
        }
    }
}

func isLinearizableByBruteForce(_ history: [RegisterOperation]) -> Bool {
    var seen: [UInt64] = []
    for operation in history {
        if case .returned(.found(_, let revision?), _) = operation.outcome { seen.append(revision) }
        if case .compareAndSet(.revision(let revision), _) = operation.input { seen.append(revision) }
    }
    let numbers = Set(seen).sorted().map { Int($0) * ConcreteRegister.gap }
    return hasOrder(history, from: ConcreteRegister()) { ConcreteRegister.run($0, $1, $2, seen: numbers, $3) }
}

/// Nil if the order is one of operations of the history, each once, that respects time and the model.
/// - Parameter isWhole: all known operations must be in it.
func problem<Model: SequentialModel>(
    with order: [Int], of history: [HistoryOperation<Model.Input, Model.Output>], _ model: Model, isWhole: Bool
) -> String? {
    guard Set(order).count == order.count else { return "an operation comes twice" }
    var state = model.initialState
    var left = Set(history.indices.filter { if case .returned = history[$0].outcome { true } else { false } })
    for place in order {
        left.remove(place)
        for other in left {
            if case .returned(_, let end) = history[other].outcome, end < history[place].call {
                return "\(place) comes before \(other), which was over"
            }
        }
        var output: Model.Output?
        switch history[place].outcome {
        case .returned(let known, _): output = known
        case .unknown: break
        case .failed: return "\(place) failed"
        }
        guard let after = model.apply(history[place].input, output, to: state) else { return "\(place) can't come" }
        state = after
    }
    return isWhole && !left.isEmpty ? "\(left.count) operations are missing" : nil
}
