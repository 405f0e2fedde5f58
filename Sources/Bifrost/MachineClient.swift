// Users' state machines as programs use them: typed commands and queries, answered by typed answers.

import ClientCore
import Messages
public import Primitives
import Ring
public import StateMachines

extension Cluster {
    /// A state machine that the cluster's hosts were started with.
    ///
    ///     let left = try await cluster.machine(Inventory.self).submit(Reserve(sku: "7", count: 2))
    public func machine<Machine: StateMachine>(_: Machine.Type) -> MachineClient<Machine> {
        MachineClient(cluster: self)
    }
}

/// One state machine of a cluster. Each function throws `BifrostError`.
public struct MachineClient<Machine: StateMachine>: Sendable {
    let cluster: Cluster

    /// Has the command done, exactly once, however often it has to be sent, and returns its answer.
    ///
    /// - Throws: `machineFailed` if the machine's own word is that it can't be done; its cause is a `MachineFailure`, and
    ///   nothing was changed. `unavailable` if some host does not have this machine or command.
    @discardableResult
    public func submit<Command: MachineCommand<Machine>>(
        _ command: Command, timeout: Duration? = nil
    ) async throws(BifrostError) -> Command.Answer {
        try await submitted(command, timeout: timeout).answer
    }

    /// The same, with the revision of the group at which it took effect.
    public func submitted<Command: MachineCommand<Machine>>(
        _ command: Command, timeout: Duration? = nil
    ) async throws(BifrostError) -> (answer: Command.Answer, revision: Revision) {
        let request = MachineRequest(command)
        if let problem = request.problem() { throw BifrostError(problem) }
        let bytes = try await cluster.perform(
            kind: .command, target: .slot(Ring.slot(of: request.key)),
            payload: request.payload(machine: Machine.number),
            timeout: timeout)
        return try Self.answer(bytes, isCommand: true)
    }

    /// The query's answer, as all records that it reads stood at one moment.
    ///
    /// - Throws: as for `submit(_:timeout:)`.
    public func query<Query: MachineQuery<Machine>>(
        _ query: Query, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Query.Answer {
        let request = MachineRequest(query)
        if let problem = request.problem() { throw BifrostError(problem) }
        let bytes = try await cluster.perform(
            kind: .query, target: .slot(Ring.slot(of: request.key)), reading: consistency, machine: Machine.number,
            payload: request.encoded(), timeout: timeout)
        let (answer, _): (Query.Answer, Revision) = try Self.answer(bytes, isCommand: false)
        return answer
    }

    private static func answer<Answer: Message>(
        _ bytes: Bytes, isCommand: Bool
    ) throws(BifrostError) -> (answer: Answer, revision: Revision) {
        let result: DataResult
        let outcome: MachineOutcome
        do throws(DecodingFailure) {
            result = try DataResult(decoding: bytes)
            outcome = try MachineOutcome(decoding: result.body)
            if case .answer(let body) = outcome { return (try Answer(decoding: body), result.revision) }
        } catch {
            throw BifrostError(malformed: error, mayHaveHappened: isCommand)
        }
        guard case .failure(let failure) = outcome else { preconditionFailure("an answer was returned above") }
        throw BifrostError(
            .machineFailed, "state machine \(Machine.number): \(failure); nothing was changed", cause: failure)
    }
}
