// Questions to one host, whether it belongs to a cluster or not. Owns a connection; what the answers mean is the
// asker's.

import Messages
import NIOPosix
import Primitives
import RPC

/// A connection to the host at an address, as a client that knows no cluster.
struct HostProbe: Sendable {
    let address: String
    private let connection: RPCConnection

    init(_ address: String) throws(ToolError) {
        do {
            self.address = address
            connection = RPCConnection(
                to: try NetworkAddress(address),
                hello: Hello(
                    role: .client,
                    identity: PeerIdentity(featureLevel: FeatureLevel.current, name: "bifrost command line")),
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(), seed: UInt64.random(in: 0...UInt64.max))
            connection.connect()
        } catch {
            throw ToolError(.usage, error.message)
        }
    }

    func close() { connection.close() }

    func ping(deadline: Instant) async throws(ToolError) -> PingReply {
        try await ask(ClusterMethod.ping, PingRequest(nonce: UInt64.random(in: 0...UInt64.max)), deadline)
    }

    /// - Parameter isPatient: false: an address where nobody listens now is an error at once.
    func map(
        known: UInt64 = 0, deadline: Instant, isPatient: Bool = true
    ) async throws(ToolError) -> MapReply {
        try await ask(ClusterMethod.map, MapRequest(known: known), deadline, isPatient: isPatient)
    }

    func status(deadline: Instant, isPatient: Bool = true) async throws(ToolError) -> HostStatus {
        try await ask(ClusterMethod.status, StatusRequest(), deadline, isPatient: isPatient)
    }

    func initialise(_ request: InitialiseRequest, deadline: Instant) async throws(ToolError) -> InitialiseReply {
        try await ask(ClusterMethod.initialise, request, deadline)
    }

    /// A question that changes something. Thrown with the status `outcomeUnknown`: it may have been carried out, or
    /// may be yet.
    func change<Question: Message, Answer: Message>(
        _ method: UInt16, _ question: Question, deadline: Instant
    ) async throws(ToolError) -> Answer {
        try await ask(method, question, deadline, isPatient: false, ifSent: .outcomeUnknown)
    }

    /// A call of the data service, to a host that has to be there now.
    func data(_ method: UInt16, _ payload: Bytes, deadline: Instant) async throws(RPCError) -> Bytes {
        try await connection.request(
            service: ServiceNumber.data, method: method, payload: payload, deadline: deadline, isPatient: false)
    }

    private func ask<Question: Message, Answer: Message>(
        _ method: UInt16, _ question: Question, _ deadline: Instant, isPatient: Bool = true,
        ifSent status: ExitStatus = .unavailable
    ) async throws(ToolError) -> Answer {
        let bytes: Bytes
        do throws(RPCError) {
            bytes = try await connection.request(
                service: ServiceNumber.cluster, method: method, payload: question.encoded(), deadline: deadline,
                isPatient: isPatient)
        } catch {
            throw ToolError(error.mayHaveBeenSent ? status : .unavailable, error.message)
        }
        do throws(DecodingFailure) {
            return try Answer(decoding: bytes)
        } catch {
            throw ToolError(.fault, "\(address) gave an answer that can't be read: \(error)")
        }
    }
}

/// Asks all at the same time; the answers come in the order of the items.
func concurrently<Item: Sendable, Answer: Sendable>(
    _ items: [Item], _ ask: @escaping @Sendable (Item) async throws(ToolError) -> Answer
) async -> [Result<Answer, ToolError>] {
    await withTaskGroup(of: (Int, Result<Answer, ToolError>).self) { group in
        for (position, item) in items.enumerated() {
            group.addTask {
                do throws(ToolError) {
                    return (position, .success(try await ask(item)))
                } catch {
                    return (position, .failure(error))
                }
            }
        }
        var answers: [(Int, Result<Answer, ToolError>)] = []
        for await answer in group { answers.append(answer) }
        return answers.sorted { $0.0 < $1.0 }.map(\.1)
    }
}
