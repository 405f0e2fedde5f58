// Puts and gets as the pipelined interface has them.

import ClientCore
import Messages
package import Primitives
import Ring
import StateMachines

extension ClientLoop {
    /// Submits a put. The completion's bytes are a `DataResult`. Keys and values over the limits complete with
    /// `tooLarge`.
    package func put(_ key: Bytes, _ value: Bytes, deadline: Instant, tag: UInt64, completion: @escaping Completion) {
        let command = KeyValueCommand.put(key: key, value: value)
        if let problem = command.problem() {
            return completion(tag, .failure(OperationFailure(refusal: problem)))
        }
        submit(
            kind: .command, target: .slot(slot(of: key)), payload: command.payload(), deadline: deadline, tag: tag,
            completion: completion)
    }

    /// Submits a get. The body of the completion's `DataResult` is a `KeyValueReading`.
    package func get(
        _ key: Bytes, _ consistency: ReadConsistency = .linearizable, deadline: Instant, tag: UInt64,
        completion: @escaping Completion
    ) {
        let query = KeyValueQuery.get(key: key)
        if let problem = query.problem() {
            return completion(tag, .failure(OperationFailure(refusal: problem)))
        }
        submit(
            kind: .query, target: .slot(slot(of: key)), pinned: consistency.host, machine: .keyValue,
            consistency: consistency.onWire, bound: consistency.bound, payload: query.encoded(), deadline: deadline,
            tag: tag,
            completion: completion)
    }
}

extension OperationFailure {
    /// Of the client's own check of a request.
    init(refusal: Refusal) {
        switch refusal {
        case .tooLarge(let text): self.init(code: .tooLarge, mayHaveHappened: false, message: text)
        case .invalid(let text): self.init(code: .invalid, mayHaveHappened: false, message: text)
        default: self.init(code: .unavailable, mayHaveHappened: refusal.mayHaveHappened, message: refusal.description)
        }
    }
}
