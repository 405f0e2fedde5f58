// Is a history one that a single copy could have produced? The search of Wing and Gong (1993) with the cache of Lowe
// (2017). Owns the search of one object; refuses to know data types, keys and files.

/// How much a check may cost before it ends without an answer.
public struct CheckLimits: Sendable {
    /// Applications of the model, per object.
    public var stepsMax: Int
    /// Configurations that are remembered, per object: they are what needs memory, some 100 bytes each.
    public var configurationsMax: Int

    public init(stepsMax: Int = 20_000_000, configurationsMax: Int = 2_000_000) {
        self.stepsMax = stepsMax
        self.configurationsMax = configurationsMax
    }
}

/// What a check found. Operations are named by their places in the history.
public enum Verdict<State: Sendable>: Sendable {
    /// An order that explains everything: all known operations, and those unknown ones that took effect.
    case linearizable(order: [Int])
    case violation(Violation<State>)
    /// A limit was reached first.
    case unknown
}

/// The longest explanation that was found of a history that has none.
public struct Violation<State: Sendable>: Sendable {
    /// An order that explains these operations, and no order explains more known ones.
    public var prefix: [Int]
    /// After the prefix.
    public var state: State
    /// The known operation that would have to come next, or before others that can't: of those that are not in the
    /// prefix, the first to return.
    public var stuck: Int
}

/// Searches an order of a history's operations in which each takes effect between its call and its return, and all
/// outputs are those of the model. Deterministic: equal histories cost equally many steps.
///
/// Three things keep the usual cases small, beside the cache:
///
/// * A known read that may come now, and changes nothing, comes now. (Whatever order there is, it may be moved here. A
///   write that happens to change nothing may not: it may be needed later.)
/// * An operation of unknown outcome is only taken as late as it can be: directly before one that it makes possible or
///   changes. (If the next would do the same without it, it is dropped; if both orders end equally, it comes second.)
/// * Of unknown operations with equal inputs the one called first is taken first.
///
/// That all three hold at once in some order, if there is any: take an order with the fewest unknown operations, these
/// as late as possible, then in order of calls; it has no pair that the second rule refuses. Moving a read
/// forward for the first rule passes unknown ones only towards the end, and changes no state between.
public struct LinearizabilityChecker<Model: SequentialModel>: Sendable {
    public let model: Model
    public let limits: CheckLimits

    public init(_ model: Model, limits: CheckLimits = CheckLimits()) {
        self.model = model
        self.limits = limits
    }

    /// - Returns: the verdict, and how many steps it took: applications of the model.
    public func check(
        _ history: [HistoryOperation<Model.Input, Model.Output>]
    ) -> (verdict: Verdict<Model.State>, steps: Int) {
        var search = Search(model: model, limits: limits, history: history)
        let verdict = search.run()
        return (verdict, search.steps)
    }
}

/// One search. Known operations have ranks in the order of their calls, unknown ones numbers in the order of theirs.
private struct Search<Model: SequentialModel> {
    struct Known {
        var place: Int
        var input: Model.Input
        var output: Model.Output
        var call: UInt64
        var end: UInt64
        var isReadOnly: Bool
    }
    struct Unknown {
        var place: Int
        var input: Model.Input
        var call: UInt64
        /// The one before with an equal input, or -1.
        var twin: Int
    }
    /// Where a search stands. What was taken is a bit set: `low` is the first known operation that is not taken, its
    /// words begin at the word of `low`, because all before is taken.
    struct Configuration: Hashable {
        var low: Int
        var known: UInt64
        var unknown: UInt64
        /// Further words of `known` up to the last that is not 0, then those of `unknown`. Usually empty.
        var more: [UInt64]
        var state: Model.State
        /// The refusal of pairs makes the last operation matter if it was an unknown one.
        var last: Int
        var before: Model.State?
    }
    struct Choice {
        /// A rank, or the complement of an unknown operation's number.
        var operation: Int
        /// No other choice needs to be tried here.
        var isForced: Bool
        /// What was before.
        var state: Model.State
        var last: Int
        var before: Model.State?
        var highest: Int
    }

    let model: Model
    let limits: CheckLimits
    var known: [Known]
    var unknown: [Unknown]
    /// The known operations that are not taken, linked both ways in the order of ranks; the last place is head and end.
    var next: [Int]
    var previous: [Int]
    var head: Int { known.count }

    var state: Model.State
    /// The last operation if it was an unknown one, or -1; and the state before it.
    var last = -1
    var before: Model.State?
    var knownTaken: [UInt64]
    var unknownTaken: [UInt64]
    var knownTakenCount = 0
    /// The highest rank that is taken, or -1.
    var highest = -1
    var path: [Choice] = []
    var visited: Set<Configuration> = []
    var steps = 0

    /// The longest explanation so far. It begins with the first `shared` choices of `path`.
    var best: [Int] = []
    var bestState: Model.State
    var bestStuck = -1
    var bestCount = -1
    var shared = 0

    init(model: Model, limits: CheckLimits, history: [HistoryOperation<Model.Input, Model.Output>]) {
        self.model = model
        self.limits = limits
        known = []
        var open: [Unknown] = []
        for (place, operation) in history.enumerated() {
            switch operation.outcome {
            case .failed: break
            case .unknown:
                open.append(Unknown(place: place, input: operation.input, call: operation.call, twin: -1))
            case .returned(let output, let end):
                precondition(end >= operation.call, "an operation returns after its call")
                known.append(
                    Known(
                        place: place, input: operation.input, output: output, call: operation.call, end: end,
                        isReadOnly: model.isReadOnly(operation.input, output)))
            }
        }
        known.sort { ($0.call, $0.end, $0.place) < ($1.call, $1.end, $1.place) }
        open.sort { ($0.call, $0.place) < ($1.call, $1.place) }
        let needed = model.needed(unknown: open.map(\.input), known: known.map { ($0.input, $0.output) })
        unknown = zip(open, needed).filter(\.1).map(\.0)
        var twins: [Model.Input: Int] = [:]
        for number in unknown.indices {
            unknown[number].twin = twins.updateValue(number, forKey: unknown[number].input) ?? -1
        }
        let count = known.count
        next = (0...count).map { $0 == count ? 0 : $0 + 1 }
        previous = (0...count).map { $0 == 0 ? count : $0 - 1 }
        state = model.initialState
        bestState = state
        knownTaken = Array(repeating: 0, count: (count + 63) / 64)
        unknownTaken = Array(repeating: 0, count: (unknown.count + 63) / 64)
    }

    mutating func run() -> Verdict<Model.State> {
        /// The choice after which to go on; nil in a new configuration.
        var tried: Int?
        while true {
            if knownTakenCount == known.count { return .linearizable(order: path.map { place(of: $0.operation) }) }
            guard steps < limits.stepsMax, visited.count < limits.configurationsMax else { return .unknown }
            let horizon = horizon()
            let isNew = tried == nil
            if isNew, let (rank, isAllowed) = unchanging(until: horizon) {
                if isAllowed {
                    take(rank, state, isForced: true)
                    continue
                }
            } else if advance(after: tried, until: horizon) {
                tried = nil
                continue
            }
            if isNew { noteBest() }
            guard let choice = goBack() else {
                return .violation(Violation(prefix: best, state: bestState, stuck: bestStuck))
            }
            tried = choice
        }
    }

    private func place(of operation: Int) -> Int {
        operation >= 0 ? known[operation].place : unknown[~operation].place
    }

    /// Until when an operation may have been called to come next: the first return of those that are not taken.
    private func horizon() -> UInt64 {
        var horizon = UInt64.max
        var rank = next[head]
        while rank != head, known[rank].call <= horizon {
            horizon = min(horizon, known[rank].end)
            rank = next[rank]
        }
        return horizon
    }

    // MARK: Choices

    private mutating func apply(_ input: Model.Input, _ output: Model.Output?, to state: Model.State) -> Model.State? {
        steps += 1
        return model.apply(input, output, to: state)
    }

    /// The first read that may come now and changes nothing, and whether the last one lets it.
    private mutating func unchanging(until horizon: UInt64) -> (rank: Int, isAllowed: Bool)? {
        var rank = next[head]
        while rank != head, known[rank].call <= horizon {
            if known[rank].isReadOnly, apply(known[rank].input, known[rank].output, to: state) == state {
                return (rank, !isRefused(known[rank].input, known[rank].output, giving: state, goesFirst: true))
            }
            rank = next[rank]
        }
        return nil
    }

    /// Takes the next possible choice behind `tried` that leads to a configuration nobody has seen.
    private mutating func advance(after tried: Int?, until horizon: UInt64) -> Bool {
        if tried.map({ $0 >= 0 }) ?? true {
            var rank = tried.map { next[$0] } ?? next[head]
            while rank != head, known[rank].call <= horizon {
                let (input, output) = (known[rank].input, known[rank].output)
                if let after = apply(input, output, to: state),
                    !isRefused(input, output, giving: after, goesFirst: true)
                {
                    take(rank, after, isForced: false)
                    if visited.insert(configuration()).inserted { return true }
                    undo()
                }
                rank = next[rank]
            }
        }
        var number = tried.map { $0 < 0 ? ~$0 + 1 : 0 } ?? 0
        while number < unknown.count, unknown[number].call <= horizon {
            let twin = unknown[number].twin
            if !isTaken(number), twin < 0 || isTaken(twin) {
                let input = unknown[number].input
                if let after = apply(input, nil, to: state), after != state,
                    !isRefused(input, nil, giving: after, goesFirst: number < last)
                {
                    take(~number, after, isForced: false)
                    if visited.insert(configuration()).inserted { return true }
                    undo()
                }
            }
            number += 1
        }
        return false
    }

    /// Whether the last operation is an unknown one that need not stand before this one.
    /// - Parameter goesFirst: this one stands before the last if the order of the two does not matter.
    private mutating func isRefused(
        _ input: Model.Input, _ output: Model.Output?, giving after: Model.State, goesFirst: Bool
    ) -> Bool {
        guard last >= 0, let before, let without = apply(input, output, to: before) else { return false }
        return without == after || goesFirst && apply(unknown[last].input, nil, to: without) == after
    }

    private func isTaken(_ number: Int) -> Bool { unknownTaken[number / 64] & 1 << UInt64(number % 64) != 0 }

    private mutating func take(_ operation: Int, _ after: Model.State, isForced: Bool) {
        path.append(
            Choice(
                operation: operation, isForced: isForced, state: state, last: last, before: before, highest: highest))
        if operation >= 0 {
            knownTaken[operation / 64] |= 1 << UInt64(operation % 64)
            knownTakenCount += 1
            highest = max(highest, operation)
            next[previous[operation]] = next[operation]
            previous[next[operation]] = previous[operation]
            last = -1
            before = nil
        } else {
            unknownTaken[~operation / 64] |= 1 << UInt64(~operation % 64)
            last = ~operation
            before = state
        }
        state = after
    }

    @discardableResult private mutating func undo() -> Choice {
        let choice = path.removeLast()
        let operation = choice.operation
        if operation >= 0 {
            knownTaken[operation / 64] &= ~(1 << UInt64(operation % 64))
            knownTakenCount -= 1
            next[previous[operation]] = operation
            previous[next[operation]] = operation
        } else {
            unknownTaken[~operation / 64] &= ~(1 << UInt64(~operation % 64))
        }
        state = choice.state
        last = choice.last
        before = choice.before
        highest = choice.highest
        shared = min(shared, path.count)
        return choice
    }

    /// Undoes up to the last choice that had others beside it. Nil: there is none.
    private mutating func goBack() -> Int? {
        while !path.isEmpty {
            let choice = undo()
            if !choice.isForced { return choice.operation }
        }
        return nil
    }

    private func configuration() -> Configuration {
        let low = next[head]
        let first = low / 64
        var more: [UInt64] = []
        if highest / 64 > first { more += knownTaken[(first + 1)...(highest / 64)] }
        if unknownTaken.count > 1 { more += unknownTaken[1...] }
        return Configuration(
            low: low, known: first < knownTaken.count ? knownTaken[first] : 0, unknown: unknownTaken.first ?? 0,
            more: more, state: state, last: last, before: before)
    }

    // MARK: The longest explanation

    /// Copies only what changed since the last time: histories of one long good part cost no more than their length.
    private mutating func noteBest() {
        guard knownTakenCount > bestCount else { return }
        bestCount = knownTakenCount
        best.removeSubrange(shared...)
        for choice in path[shared...] { best.append(place(of: choice.operation)) }
        shared = path.count
        bestState = state
        var stuck = next[head]
        var rank = stuck
        while rank != head, known[rank].call <= known[stuck].end {
            if known[rank].end < known[stuck].end { stuck = rank }
            rank = next[rank]
        }
        bestStuck = known[stuck].place
    }
}
