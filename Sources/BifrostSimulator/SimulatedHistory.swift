// What simulated clients saw, as a history, and its judgement: the last rule of a run.

public import Linearizability
import Primitives

extension HistoryRecord {
    /// An operation of a simulated client; nil if it is about no register.
    public init?(_ operation: SimulatedOperation) {
        let input: RegisterInput<Bytes>
        switch operation.kind {
        case .machine: return nil
        case .put(let value): input = .put(value)
        case .get: input = .get
        case .delete: input = .delete
        case .putIf(let expected, let value): input = .compareAndSet(.value(expected), to: value)
        case .putIfRevision(_, let was, let value): input = .compareAndSet(.value(was), to: value)
        }
        let outcome: Outcome =
            switch operation.outcome {
            case .unknown: .unknown
            case .failed: .failed
            case .done(let revision): .ok(.changed(revision: revision))
            case .found(let value, let revision): .ok(.found(value, revision: revision))
            }
        self.init(
            client: UInt64(operation.client), key: operation.key, input: input, outcome: outcome,
            call: operation.called, end: operation.ended == .max ? nil : operation.ended)
    }
}

extension SimulatedCluster {
    /// What clients did, in the order of calls; reads of the end included.
    public var history: some Sequence<HistoryRecord> { operations.lazy.compactMap { HistoryRecord($0) } }

    /// The whole run, and its history judged. Once only.
    ///
    /// - Throws: the first rule that was broken.
    public func runAndCheck() throws(SimulationFailure) -> SimulationReport {
        defer { end() }
        let report = try run()
        try checkHistory()
        return report
    }

    /// Nothing happens any more: what waits refers to the cluster, which would stay for ever.
    func end() {
        world.end()
        for client in clients { client.end() }
    }

    /// The history so far is linearizable.
    func checkHistory() throws(SimulationFailure) {
        let verdict = HistoryReport(checking: history)
        if let key = verdict.violation ?? verdict.suspicious.first {
            fail("linearizability", key.explanation.joined(separator: "\n  "))
            if let failure { throw failure }
        }
    }
}
