// What simulated clients saw, as a history for the checker.

import BifrostSimulator
import Linearizability
import Primitives

extension HistoryRecord {
    init(_ operation: SimulatedOperation) {
        let input: RegisterInput<Bytes> =
            switch operation.kind {
            case .put(let value): .put(value)
            case .get: .get
            case .delete: .delete
            }
        let outcome: Outcome =
            switch operation.outcome {
            case .unknown: .unknown
            case .failed: .failed
            case .done: .ok(.changed(revision: nil))
            case .found(let value): .ok(.found(value, revision: nil))
            }
        self.init(
            client: UInt64(operation.client), key: operation.key, input: input, outcome: outcome,
            call: operation.called, end: operation.ended == .max ? nil : operation.ended)
    }
}

/// The first key that is not linearizable, or was too much to judge.
func linearizabilityViolation(of operations: [SimulatedOperation]) -> String? {
    let report = HistoryReport(checking: operations.lazy.map { HistoryRecord($0) })
    return (report.violation ?? report.suspicious.first)?.explanation.joined(separator: "\n  ")
}
