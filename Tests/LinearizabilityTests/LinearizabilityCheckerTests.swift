import Linearizability
import Primitives
import Testing

private func known(
    _ input: RegisterInput<Int>, _ output: RegisterOutput<Int>, _ call: UInt64, _ end: UInt64
) -> RegisterOperation {
    RegisterOperation(client: call, input: input, outcome: .returned(output, at: end), call: call)
}
private func put(_ value: Int, _ call: UInt64, _ end: UInt64, at revision: UInt64? = nil) -> RegisterOperation {
    known(.put(value), .changed(revision: revision), call, end)
}
private func delete(_ call: UInt64, _ end: UInt64, at revision: UInt64? = nil) -> RegisterOperation {
    known(.delete, .changed(revision: revision), call, end)
}
private func get(_ value: Int?, _ call: UInt64, _ end: UInt64, at revision: UInt64? = nil) -> RegisterOperation {
    known(.get, .found(value, revision: revision), call, end)
}
private func set(
    _ value: Int?, if condition: RegisterInput<Int>.Condition, _ swapped: Bool, _ call: UInt64, _ end: UInt64,
    at revision: UInt64? = nil
) -> RegisterOperation {
    known(
        .compareAndSet(condition, to: value), swapped ? .changed(revision: revision) : .conditionFailed, call, end)
}
private func unknown(_ input: RegisterInput<Int>, _ call: UInt64) -> RegisterOperation {
    RegisterOperation(client: call, input: input, outcome: .unknown, call: call)
}

private func isLinearizable(_ history: [RegisterOperation]) -> Bool {
    if case .linearizable = LinearizabilityChecker(Register()).check(history).verdict { true } else { false }
}

@Suite struct LinearizabilityCheckerTests {
    @Test(arguments: [
        [],
        [put(1, 0, 10), get(1, 11, 12), delete(13, 14), get(nil, 15, 16)],
        // Concurrent writes may stand in either order, but all see the same one.
        [put(1, 0, 10), put(2, 0, 10), get(1, 11, 12), get(1, 13, 14)],
        [put(1, 0, 10), put(2, 0, 10), get(2, 11, 12)],
        // What returns at the moment of a call is concurrent with it.
        [put(1, 0, 5), put(2, 5, 9), get(1, 10, 11)],
        // An unknown write may take effect much later, or never.
        [put(1, 0, 1), unknown(.put(2), 2), get(1, 10, 11), get(2, 12, 13)],
        [put(1, 0, 1), unknown(.put(2), 2), get(1, 10, 11)],
        [put(1, 0, 1), unknown(.delete, 2), get(1, 10, 11), get(nil, 12, 13)],
        // An unknown write that nobody saw explains why a condition failed.
        [put(1, 0, 1), unknown(.put(2), 2), set(3, if: .value(1), false, 10, 11), put(4, 12, 13)],
        [put(1, 0, 1), set(2, if: .value(1), true, 2, 3), set(3, if: .value(1), false, 4, 5), get(2, 6, 7)],
        [set(1, if: .value(nil), true, 0, 1), set(nil, if: .value(1), true, 2, 3), get(nil, 4, 5)],
        [put(1, 0, 1, at: 4), get(1, 2, 3, at: 4), set(2, if: .revision(4), true, 4, 5, at: 9), get(2, 6, 7, at: 9)],
        // A read tells the revision of a write that had none.
        [put(1, 0, 1, at: 4), unknown(.put(2), 2), get(2, 3, 4, at: 6), put(3, 5, 6, at: 7)],
        [RegisterOperation(client: 1, input: .put(1), outcome: .failed, call: 0), get(nil, 1, 2)],
    ])
    func goodHistoriesHaveAnOrder(history: [RegisterOperation]) {
        guard case .linearizable(let order) = LinearizabilityChecker(Register()).check(history).verdict else {
            Issue.record("found no order of \(history)")
            return
        }
        #expect(problem(with: order, of: history, Register(), isWhole: true) == nil)
    }

    @Test(arguments: [
        // A stale read, a lost write, a value that nobody wrote, a read from the future, a value that comes back.
        [put(1, 0, 1), put(2, 2, 3), get(1, 4, 5)],
        [put(1, 0, 1), get(nil, 2, 3)],
        [get(7, 0, 1)],
        [get(1, 0, 1), put(1, 2, 3)],
        [put(1, 0, 1), unknown(.put(2), 2), get(2, 3, 4), get(1, 5, 6)],
        [put(1, 0, 10), put(2, 0, 10), get(1, 11, 12), get(2, 13, 14)],
        // One unknown write does not happen twice.
        [put(1, 0, 1), unknown(.put(2), 2), get(2, 3, 4), put(1, 5, 6), get(2, 7, 8)],
        // Two that swapped the same value; a condition that held and yet failed.
        [put(1, 0, 1), set(2, if: .value(1), true, 2, 9), set(3, if: .value(1), true, 2, 9)],
        [put(1, 0, 1), set(2, if: .value(1), false, 2, 3)],
        // Revisions that fall, stand still, or belong to another write.
        [put(1, 0, 1, at: 5), put(2, 2, 3, at: 4)],
        [put(1, 0, 1, at: 5), delete(2, 3, at: 5)],
        [put(1, 0, 1, at: 5), get(1, 2, 3, at: 6)],
        [put(1, 0, 1, at: 5), put(1, 2, 3, at: 6), get(1, 4, 5, at: 5)],
        [put(1, 0, 1, at: 4), set(2, if: .revision(3), true, 2, 3)],
        [RegisterOperation(client: 1, input: .put(1), outcome: .failed, call: 0), get(1, 1, 2)],
    ])
    func badHistoriesHaveNone(history: [RegisterOperation]) {
        guard case .violation(let violation) = LinearizabilityChecker(Register()).check(history).verdict else {
            Issue.record("found an order of \(history)")
            return
        }
        #expect(problem(with: violation.prefix, of: history, Register(), isWhole: false) == nil)
        #expect(!violation.prefix.contains(violation.stuck))
    }

    @Test func aViolationNamesTheStaleReadAndTheValueBeforeIt() {
        let history = [put(1, 0, 1), put(2, 2, 3), get(2, 4, 5), get(1, 6, 7), get(2, 8, 9)]
        guard case .violation(let violation) = LinearizabilityChecker(Register()).check(history).verdict else {
            Issue.record("found an order")
            return
        }
        #expect(violation.prefix == [0, 1, 2])
        #expect(violation.stuck == 3)
        #expect(violation.state.value == 2)
    }

    // MARK: Against all orders

    /// All ways in which intervals of so many operations, in the order of their calls, can overlap.
    private static func interleavings(_ count: Int) -> [[(call: UInt64, end: UInt64)]] {
        var all: [[(call: UInt64, end: UInt64)]] = []
        func extend(_ intervals: [(call: UInt64, end: UInt64)], open: [Int], at time: UInt64) {
            if intervals.count == count, open.isEmpty { all.append(intervals) }
            if intervals.count < count {
                extend(intervals + [(time, 0)], open: open + [intervals.count], at: time + 1)
            }
            for place in open {
                var ended = intervals
                ended[place].end = time
                extend(ended, open: open.filter { $0 != place }, at: time + 1)
            }
        }
        extend([], open: [], at: 0)
        return all
    }

    private static func compare(
        _ inputs: [(input: RegisterInput<Int>, output: RegisterOutput<Int>?)], count: Int
    ) -> (good: Int, bad: Int) {
        let interleavings = interleavings(count)
        #expect(interleavings.count == [1, 1, 3, 15, 105][count])
        let checker = LinearizabilityChecker(Register())
        var good = 0
        var bad = 0
        var chosen = Array(repeating: 0, count: count)
        while true {
            for intervals in interleavings {
                let history = zip(chosen, intervals).map { choice, interval in
                    let (input, output) = inputs[choice]
                    return RegisterOperation(
                        client: 1, input: input, outcome: output.map { .returned($0, at: interval.end) } ?? .unknown,
                        call: interval.call)
                }
                let expected = isLinearizableByBruteForce(history)
                let isRight: Bool
                switch checker.check(history).verdict {
                case .linearizable(let order):
                    isRight = expected && problem(with: order, of: history, Register(), isWhole: true) == nil
                case .violation(let violation):
                    isRight =
                        !expected && problem(with: violation.prefix, of: history, Register(), isWhole: false) == nil
                case .unknown: isRight = false
                }
                if !isRight { Issue.record("expected \(expected ? "an" : "no") order: \(history)") }
                if expected { good += 1 } else { bad += 1 }
            }
            guard let place = chosen.lastIndex(where: { $0 < inputs.count - 1 }) else { return (good, bad) }
            chosen[place] += 1
            for later in chosen.indices.dropFirst(place + 1) { chosen[later] = 0 }
        }
    }

    @Test func allHistoriesOfThreeOperationsAreJudgedAsAllOrdersSay() {
        var inputs: [(RegisterInput<Int>, RegisterOutput<Int>?)] = [
            (.put(1), nil), (.put(2), nil), (.delete, nil), (.get, nil), (.compareAndSet(.value(1), to: 2), nil),
            (.compareAndSet(.value(nil), to: 1), nil), (.compareAndSet(.revision(1), to: nil), nil),
            (.compareAndSet(.value(1), to: 2), .conditionFailed),
            (.compareAndSet(.value(nil), to: 1), .conditionFailed), (.get, .found(nil, revision: nil)),
        ]
        for revision in [nil, 1, 2] as [UInt64?] {
            inputs += [
                (.put(1), .changed(revision: revision)), (.delete, .changed(revision: revision)),
                (.compareAndSet(.value(1), to: 2), .changed(revision: revision)),
                (.get, .found(1, revision: revision)), (.get, .found(2, revision: revision)),
            ]
        }
        inputs.append((.compareAndSet(.revision(1), to: 2), .changed(revision: nil)))
        for count in 1...3 {
            let (good, bad) = Self.compare(inputs, count: count)
            #expect(good > 10 && bad >= 10, "\(count) operations: \(good) good, \(bad) bad")
        }
    }

    @Test func allHistoriesOfFourOperationsAreJudgedAsAllOrdersSay() {
        let (good, bad) = Self.compare(
            [
                (.put(1), nil), (.compareAndSet(.value(1), to: 2), nil), (.put(1), .changed(revision: nil)),
                (.get, .found(1, revision: nil)),
                (.get, .found(2, revision: nil)), (.compareAndSet(.value(1), to: 2), .changed(revision: nil)),
                (.compareAndSet(.value(1), to: 2), .conditionFailed),
            ], count: 4)
        #expect(good > 30_000 && bad > 30_000, "\(good) good, \(bad) bad")
    }

    /// Histories as a right register gives them, then with another answer in one place.
    @Test func aChangedAnswerIsFoundExactlyWhenNoOrderExplainsIt() {
        var random = SeededRandom(seed: 11)
        let checker = LinearizabilityChecker(Register())
        var caught = 0
        var harmless = 0
        for _ in 0..<20_000 {
            var history = Self.goodHistory(operations: 7, &random)
            #expect(isLinearizable(history), "\(history)")
            let place = Int(random.below(7))
            guard case .returned(let output, let end) = history[place].outcome else { continue }
            let other: RegisterOutput<Int>
            switch output {
            case .found(let value, let revision):
                let revision = value == nil ? random.below(4) : revision.map { $0 + random.below(2) }
                other = .found(Int(random.below(3)), revision: revision)
            case .changed(let revision): other = .changed(revision: revision.map { $0 + 1 + random.below(3) })
            case .conditionFailed: other = .changed(revision: nil)
            }
            history[place].outcome = .returned(other, at: end)
            let expected = isLinearizableByBruteForce(history)
            switch checker.check(history).verdict {
            case .linearizable: #expect(expected, "\(history)")
            case .violation: #expect(!expected, "\(history)")
            case .unknown: Issue.record("no answer")
            }
            if expected { harmless += 1 } else { caught += 1 }
        }
        #expect(caught > 2_000 && harmless > 1_000, "\(caught) caught, \(harmless) harmless")
    }

    /// Operations with their effect somewhere between call and return, in random order of effects.
    static func goodHistory(operations: Int, _ random: inout SeededRandom) -> [RegisterOperation] {
        var register = Register.State(value: nil, revision: 0, isRevisionKnown: true)
        return (0..<operations).map { number in
            let effect = UInt64(number) * 10 + 100
            let call = effect - random.below(25)
            let end = effect + random.below(25)
            let isUnknown = random.below(5) == 0
            let isNoted = random.below(2) == 0
            var input = RegisterInput<Int>.get
            switch random.below(6) {
            case 0, 1: input = .put(Int(random.below(3)))
            case 2: input = .delete
            case 3: input = .compareAndSet(.value(Int(random.below(3))), to: Int(random.below(3)))
            default: break
            }
            var output = RegisterOutput<Int>.conditionFailed
            func change(to value: Int?) {
                guard !isUnknown || random.below(2) == 0 else { return }
                register = .init(value: value, revision: register.revision + 1, isRevisionKnown: true)
                output = .changed(revision: isNoted ? register.revision : nil)
            }
            switch input {
            case .put(let value): change(to: value)
            case .delete: change(to: nil)
            case .get:
                let isThere = register.value != nil && isNoted
                output = .found(register.value, revision: isThere ? register.revision : nil)
            case .compareAndSet(.value(let expected), let value): if expected == register.value { change(to: value) }
            case .compareAndSet: break
            }
            return RegisterOperation(
                client: UInt64(number), input: input, outcome: isUnknown ? .unknown : .returned(output, at: end),
                call: call)
        }
    }

    /// A queue cares for order, so that an unknown operation can't always wait: what the rules of the search must
    /// respect.
    @Test func aQueueIsJudgedAsAllOrdersSay() {
        var random = SeededRandom(seed: 12)
        let checker = LinearizabilityChecker(QueueModel())
        var good = 0
        for _ in 0..<30_000 {
            let history = (0..<6).map { number -> HistoryOperation<QueueModel.Input, QueueModel.Output> in
                let call = random.below(20)
                let end = call + random.below(14)
                let isUnknown = random.below(3) == 0
                if random.below(2) == 0 {
                    return .init(
                        client: 1, input: .enqueue(Int(random.below(2))),
                        outcome: isUnknown ? .unknown : .returned(.init(taken: nil), at: end), call: call)
                }
                let taken = [nil, 0, 1, 1][Int(random.below(4))]
                return .init(
                    client: 1, input: .dequeue, outcome: isUnknown ? .unknown : .returned(.init(taken: taken), at: end),
                    call: call)
            }
            let expected = hasOrder(history, from: [Int]()) { input, output, state, then in
                switch input {
                case .enqueue(let value): return then(state + [value])
                case .dequeue:
                    guard let output else { return then(Array(state.dropFirst())) }
                    return output.taken == state.first && then(Array(state.dropFirst()))
                }
            }
            if case .linearizable(let order) = checker.check(history).verdict {
                #expect(expected, "\(history)")
                #expect(problem(with: order, of: history, QueueModel(), isWhole: true) == nil)
                good += 1
            } else {
                #expect(!expected, "\(history)")
            }
        }
        #expect(good > 3_000 && good < 27_000, "\(good) good")
    }

    // MARK: Costs

    /// A register that `clients` clients use, each one operation after the other, with overlaps.
    private static func busyHistory(
        operations: Int, clients: UInt64, unknownOneIn: UInt64, _ random: inout SeededRandom
    ) -> [RegisterOperation] {
        var free = Array(repeating: UInt64(0), count: Int(clients))
        var value: Int?
        var time: UInt64 = 0
        return (0..<operations).map { number in
            // The effects are in order; each client's operations do not overlap.
            let client = free.indices.min { free[$0] < free[$1] } ?? 0
            time = max(time + 1 + random.below(20), free[client] + 1)
            let call = max(free[client], time - min(time, random.below(10 * clients)))
            let end = time + random.below(10 * clients)
            free[client] = end + 1
            let isUnknown = random.below(unknownOneIn) == 0
            guard random.below(2) == 0 else {
                return RegisterOperation(
                    client: UInt64(client), input: .get, outcome: .returned(.found(value, revision: nil), at: end),
                    call: call)
            }
            if !isUnknown || random.below(2) == 0 { value = number }
            return RegisterOperation(
                client: UInt64(client), input: .put(number),
                outcome: isUnknown ? .unknown : .returned(.changed(revision: nil), at: end), call: call)
        }
    }

    @Test func aHundredThousandOperationsOverAThousandKeysTakeFewSteps() {
        var random = SeededRandom(seed: 5)
        let checker = LinearizabilityChecker(Register())
        var steps = 0
        for _ in 0..<1_000 {
            let history = Self.busyHistory(operations: 100, clients: 8, unknownOneIn: 20, &random)
            let result = checker.check(history)
            steps += result.steps
            guard case .linearizable = result.verdict else {
                Issue.record("not linearizable: \(history)")
                return
            }
        }
        #expect(steps < 3_000_000, "\(steps) steps")
    }

    @Test func aLongHistoryOfOneKeyTakesStepsInProportion() {
        var random = SeededRandom(seed: 6)
        let history = Self.busyHistory(operations: 100_000, clients: 4, unknownOneIn: 1_000_000, &random)
        let (verdict, steps) = LinearizabilityChecker(Register()).check(history)
        guard case .linearizable = verdict else {
            Issue.record("not linearizable")
            return
        }
        #expect(steps < 2_000_000, "\(steps) steps")
    }

    @Test func hundredsOfUnknownOutcomesDoNotExplode() {
        var random = SeededRandom(seed: 7)
        for _ in 0..<20 {
            let history = Self.busyHistory(operations: 1_000, clients: 6, unknownOneIn: 3, &random)
            let (verdict, steps) = LinearizabilityChecker(Register()).check(history)
            guard case .linearizable = verdict else {
                Issue.record("not linearizable")
                return
            }
            #expect(steps < 1_000_000, "\(steps) steps")
        }
    }

    /// A hundred equal unknown deletes, and writes that they explain the loss of.
    @Test func equalUnknownOperationsAreInterchangeable() {
        var history = (0..<100).map { unknown(.delete, $0) }
        for round in 0..<100 as Range<UInt64> {
            history += [
                put(Int(round), 1_000 + 10 * round, 1_001 + 10 * round),
                get(nil, 1_002 + 10 * round, 1_003 + 10 * round),
            ]
        }
        #expect(isLinearizable(history))
        // One more than there are deletes.
        history += [put(1_000, 5_000, 5_001), get(nil, 5_002, 5_003)]
        let (verdict, steps) = LinearizabilityChecker(Register()).check(history)
        guard case .violation = verdict else {
            Issue.record("expected a violation")
            return
        }
        #expect(steps < 1_000_000, "\(steps) steps")
    }

    @Test func aLimitEndsTheSearchWithoutAnAnswer() {
        // 24 concurrent writes and a read of none of them: every subset is a configuration.
        let writes = (1...24).map { put($0, 0, 1_000) }
        let history = writes + [get(99, 1_001, 1_002)]
        for limits in [CheckLimits(stepsMax: 10_000), CheckLimits(configurationsMax: 10_000)] {
            let (verdict, steps) = LinearizabilityChecker(Register(), limits: limits).check(history)
            guard case .unknown = verdict else {
                Issue.record("expected no answer")
                return
            }
            #expect(steps < 1_000_000)
        }
    }
}

/// First in, first out.
private struct QueueModel: SequentialModel {
    enum Input: Hashable { case enqueue(Int), dequeue }
    struct Output { var taken: Int? }
    var initialState: [Int] { [] }

    func apply(_ input: Input, _ output: Output?, to state: [Int]) -> [Int]? {
        switch input {
        case .enqueue(let value): state + [value]
        case .dequeue:
            if let output {
                output.taken == state.first ? Array(state.dropFirst()) : nil
            } else {
                state.isEmpty ? nil : Array(state.dropFirst())
            }
        }
    }
}
