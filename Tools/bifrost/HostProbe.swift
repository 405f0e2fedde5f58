// Questions to one host, whether it belongs to a cluster or not. Owns a connection; what the answers mean is the
// asker's.

import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC

/// A connection to the host at an address: whichever that is, or one host of one cluster.
struct HostProbe: Sendable {
    let address: String
    private let connection: RPCConnection
    private let cluster: ClusterID

    /// - Parameters:
    ///   - cluster: `.none`: any. Otherwise a host of another one is refused, and refuses.
    ///   - host: 0: any.
    init(_ address: String, of cluster: ClusterID = .none, host: HostID = HostID(0)) throws(ToolError) {
        do {
            self.address = address
            self.cluster = cluster
            connection = RPCConnection(
                to: try NetworkAddress(address),
                hello: Hello(
                    role: .client,
                    identity: PeerIdentity(
                        cluster: cluster, featureLevel: FeatureLevel.current, name: "bifrost command line"),
                    target: host),
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

    func rebalancing(deadline: Instant) async throws(ToolError) -> RebalancingReply {
        try await ask(ClusterMethod.rebalancing, RebalancingRequest(), deadline, isPatient: false)
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
    ///
    /// - Throws: `wrongCluster` also when the answer came from a host that belonged to no cluster when it was connected to:
    ///   it may have become another one's since. This probe gets no answer then that could be believed.
    func data(_ method: UInt16, _ payload: Bytes, deadline: Instant) async throws(RPCError) -> Bytes {
        let answer = try await connection.request(
            service: ServiceNumber.data, method: method, payload: payload, deadline: deadline, isPatient: false)
        guard cluster != .none else { return answer }
        let welcome = await withCheckedContinuation { (continuation: CheckedContinuation<Welcome?, Never>) in
            connection.eventLoop.execute { continuation.resume(returning: connection.welcome) }
        }
        guard welcome?.identity.cluster == cluster else {
            throw RPCError(.wrongCluster, "\(address) belonged to no cluster when it was asked, expected \(cluster)")
        }
        return answer
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
