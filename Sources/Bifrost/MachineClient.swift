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
public struct MachineClient<Machine: StateMachine>: GuardableObject {
    let cluster: Cluster
    var token: FencingToken?

    public func guarded(by token: FencingToken) -> Self { Self(cluster: cluster, token: token) }

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
        let (outcome, revision) = try await cluster.submit(
            MachineRequest(command), to: Machine.number, guardedBy: token, timeout: timeout)
        return (try Self.answer(outcome, isCommand: true), revision)
    }

    /// The query's answer, as all records that it reads stood at one moment.
    ///
    /// - Throws: as for `submit(_:timeout:)`.
    public func query<Query: MachineQuery<Machine>>(
        _ query: Query, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Query.Answer {
        let (outcome, _) = try await cluster.query(
            MachineRequest(query), of: Machine.number, consistency, timeout: timeout)
        return try Self.answer(outcome, isCommand: false)
    }

    private static func answer<Answer: Message>(
        _ outcome: MachineOutcome, isCommand: Bool
    ) throws(BifrostError) -> Answer {
        switch outcome {
        case .answer(let body):
            do throws(DecodingFailure) { return try Answer(decoding: body) } catch {
                throw BifrostError(malformed: error, mayHaveHappened: isCommand)
            }
        case .failure(let failure):
            throw BifrostError(
                .machineFailed, "state machine \(Machine.number): \(failure); nothing was changed", cause: failure)
        }
    }
}

/// The same for who knows a machine by its numbers alone, and its commands and answers as bytes.
extension Cluster {
    package func submit(
        _ request: MachineRequest, to machine: SubMachineNumber, guardedBy token: FencingToken? = nil,
        isBare: Bool = false, timeout: Duration? = nil
    ) async throws(BifrostError) -> (outcome: MachineOutcome, revision: Revision) {
        if let problem = request.problem() { throw BifrostError(problem) }
        let bytes = try await perform(
            kind: .command, target: .slot(Ring.slot(of: request.key)), payload: request.payload(machine: machine),
            guardedBy: token, isBare: isBare, timeout: timeout)
        return try Self.outcome(bytes, isCommand: true)
    }

    package func query(
        _ request: MachineRequest, of machine: SubMachineNumber, _ consistency: ReadConsistency = .linearizable,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> (outcome: MachineOutcome, revision: Revision) {
        if let problem = request.problem() { throw BifrostError(problem) }
        let bytes = try await perform(
            kind: .query, target: .slot(Ring.slot(of: request.key)), reading: consistency, machine: machine,
            payload: request.encoded(), timeout: timeout)
        return try Self.outcome(bytes, isCommand: false)
    }

    private static func outcome(
        _ bytes: Bytes, isCommand: Bool
    ) throws(BifrostError) -> (outcome: MachineOutcome, revision: Revision) {
        do throws(DecodingFailure) {
            let result = try DataResult(decoding: bytes)
            return (try MachineOutcome(decoding: result.body), result.revision)
        } catch {
            throw BifrostError(malformed: error, mayHaveHappened: isCommand)
        }
    }
}
