// The judgement of a whole history: each key on its own, as linearizability is local (Herlihy and Wing 1990). Owns the
// partition; the search stands in LinearizabilityChecker.

public import Primitives

/// What is true of each key of a history.
public struct HistoryReport: Sendable {
    public struct Key: Sendable {
        public var key: Bytes
        /// Of this key, in the order of the history. The verdict's places are those in here.
        public var records: [HistoryRecord]
        /// Its states have numbers for values: the places in `values`.
        public var verdict: Verdict<RegisterModel<Int>.State>
        public var values: [Bytes]
        public var steps: Int
    }

    /// Keys with a violation or without an answer, in the order in which the history names them first.
    public private(set) var suspicious: [Key] = []
    public private(set) var operationCount = 0
    public private(set) var unknownOutcomeCount = 0
    public private(set) var keyCount = 0
    /// Of all keys.
    public private(set) var steps = 0

    /// Some key is not linearizable.
    public var violation: Key? {
        suspicious.first { if case .violation = $0.verdict { true } else { false } }
    }
    /// Every key is linearizable.
    public var isLinearizable: Bool { suspicious.isEmpty }

    /// Judges every key. Takes time as the limits allow, per key.
    public init(checking history: some Sequence<HistoryRecord>, limits: CheckLimits = CheckLimits()) {
        var places: [Bytes: Int] = [:]
        var keys: [(key: Bytes, records: [HistoryRecord])] = []
        for record in history {
            operationCount += 1
            if record.outcome == .unknown { unknownOutcomeCount += 1 }
            if let place = places[record.key] {
                keys[place].records.append(record)
            } else {
                places[record.key] = keys.count
                keys.append((record.key, [record]))
            }
        }
        keyCount = keys.count
        let checker = LinearizabilityChecker(RegisterModel<Int>(), limits: limits)
        for (key, records) in keys {
            let (operations, values) = Self.numbered(records)
            let (verdict, steps) = checker.check(operations)
            self.steps += steps
            if case .linearizable = verdict { continue }
            suspicious.append(Key(key: key, records: records, verdict: verdict, values: values, steps: steps))
        }
    }

    /// The same with values as numbers, which compare and hash in no time.
    private static func numbered(
        _ records: [HistoryRecord]
    ) -> (operations: [HistoryOperation<RegisterInput<Int>, RegisterOutput<Int>>], values: [Bytes]) {
        var numbers: [Bytes: Int] = [:]
        var values: [Bytes] = []
        func number(_ value: Bytes) -> Int {
            if let number = numbers[value] { return number }
            numbers[value] = values.count
            values.append(value)
            return values.count - 1
        }
        let operations = records.map { record -> HistoryOperation<RegisterInput<Int>, RegisterOutput<Int>> in
            let input: RegisterInput<Int> =
                switch record.input {
                case .put(let value): .put(number(value))
                case .get: .get
                case .delete: .delete
                case .compareAndSet(.value(let expected), let value):
                    .compareAndSet(.value(expected.map(number)), to: value.map(number))
                case .compareAndSet(.revision(let revision), let value):
                    .compareAndSet(.revision(revision), to: value.map(number))
                }
            let outcome: HistoryOperation<RegisterInput<Int>, RegisterOutput<Int>>.Outcome
            switch record.outcome {
            case .failed: outcome = .failed
            case .unknown: outcome = .unknown
            case .ok(let output):
                guard let end = record.end else {
                    preconditionFailure("an operation with a known outcome has returned")
                }
                let numbered: RegisterOutput<Int> =
                    switch output {
                    case .changed(let revision): .changed(revision: revision)
                    case .found(let value, let revision): .found(value.map(number), revision: revision)
                    case .conditionFailed: .conditionFailed
                    }
                outcome = .returned(numbered, at: end)
            }
            return HistoryOperation(client: record.client, input: input, outcome: outcome, call: record.call)
        }
        return (operations, values)
    }
}
