// The client as programs see it: async functions over a `ClientLoop`. Owns the way from a task to the loop and back;
// routing and retries are the loop's.

import ClientCore
import Messages
import NIOCore
import NIOPosix
import Primitives
public import RPC
import Ring
import StateMachines
import Synchronization

/// A connection to a Bifrost cluster.
///
///     let cluster = try await Cluster.connect(to: ["127.0.0.1:7001"])
///     let revision = try await cluster.kv.put("greeting", "hello")
///     let found = try await cluster.kv.get("greeting")
///     await cluster.close()
///
/// Finds the other hosts and each group's leader by itself, follows them, and retries what is safe to retry until the
/// operation's time is over. Any number of tasks may use it at once. All errors are `BifrostError`.
public final class Cluster: Sendable {
    package let loop: ClientLoop
    let options: ClusterOptions
    /// What ends with the cluster: a host that is its own.
    private let closing: (@Sendable () async -> Void)?
    private let inbox = Mutex<[AsyncOperation]>([])
    let errands = Errands()

    private init(loop: ClientLoop, options: ClusterOptions, closing: (@Sendable () async -> Void)?) {
        var options = options
        // Whoever forgets a cluster that was closed keeps no host's directory.
        options.host = nil
        self.loop = loop
        self.options = options
        self.closing = closing
    }

    /// One with a host of its own that nobody closed: the host would go on without those it belongs to.
    deinit {
        guard let closing else { return }
        let loop = loop
        loop.eventLoop.execute { loop.close() }
        Task { await closing() }
    }

    /// Connects to the first of `addresses` ("address:port") that answers, and learns the cluster's map from it. Throws
    /// `invalid` for what is no address, for options that can't be, and if hosts of different clusters answer, `unreachable` if no host answers
    /// within the time, `notInitialised` if hosts do but belong to no cluster.
    public static func connect(
        to addresses: [String], options: ClusterOptions = ClusterOptions()
    ) async throws(BifrostError) -> Cluster {
        guard !addresses.isEmpty else {
            throw BifrostError(.invalid, "expected the address of at least one host, found none")
        }
        var seeds: [NetworkAddress] = []
        for address in addresses {
            do throws(RPCError) {
                seeds.append(try NetworkAddress(address))
            } catch {
                throw BifrostError(.invalid, error.message, cause: error)
            }
        }
        return try await connect(toSeeds: seeds, options: options)
    }

    /// The same by a host of the cluster in this process (a `BifrostHost.Host`), which names the other hosts. What is for
    /// it goes to its event loops at once, as with `options.host`.
    public static func connect(
        through host: any InProcessHost, options: ClusterOptions = ClusterOptions()
    ) async throws(BifrostError) -> Cluster {
        var options = options
        options.host = host
        return try await connect(toSeeds: [host.address], isThrough: true, options: options)
    }

    /// - Parameters:
    ///   - isThrough: the one seed is the address of `options.host`.
    ///   - closing: done at the end of each `close`, and if this throws.
    package static func connect(
        toSeeds seeds: [NetworkAddress], isThrough: Bool = false, options: ClusterOptions,
        closing: (@Sendable () async -> Void)? = nil
    ) async throws(BifrostError) -> Cluster {
        let group = options.eventLoopGroup ?? MultiThreadedEventLoopGroup.singleton
        let loop = ClientLoop(eventLoop: group.next(), seedCount: seeds.count, options: options)
        let cluster = Cluster(loop: loop, options: options, closing: closing)
        if let problem = options.problem {
            await cluster.close()
            throw problem
        }
        let deadline = RPCClock.now() + options.connectTimeout.nanoseconds
        let result = await withCheckedContinuation {
            (continuation: CheckedContinuation<Result<ClusterMap, BifrostError>, Never>) in
            loop.eventLoop.execute {
                loop.start(seeds: seeds, isThrough: isThrough)
                loop.whenMapIsKnown(deadline: deadline) { continuation.resume(returning: $0) }
            }
        }
        if case .failure(let error) = result {
            await cluster.close()
            throw error
        }
        return cluster
    }

    /// Ends all operations, those under way with `closed` or `outcomeUnknown`, and all connections. Tells the hosts
    /// that this client's sessions are over, and waits for their answers for 100 ms at the longest. A host that was
    /// opened with the cluster is stopped, and its directory free, when this returns.
    public func close() async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            loop.eventLoop.execute { [loop] in
                loop.close { continuation.resume() }
            }
        }
        await closing?()
    }

    /// Waits until all is given back that callers gave up: locks and places among those who wait, items of queues. Also
    /// for locks that callers still wait for. As long as it takes: without a quorum, until there is one.
    package func settle() async { await errands.end() }

    /// Keys and values.
    public var kv: KeyValueStore { KeyValueStore(cluster: self) }

    // MARK: the way to the loop

    /// Runs one operation to its end. Cancelling the task withdraws what was certainly not sent; a command that was
    /// sent
    /// throws `outcomeUnknown` at once and is resolved in the background.
    func perform(
        kind: RequestKind, target: RequestTarget, reading: ReadConsistency = .linearizable,
        machine: SubMachineNumber = SubMachineNumber(0), payload: Bytes, guardedBy token: FencingToken? = nil,
        isBare: Bool = false, timeout: Duration?
    ) async throws(BifrostError) -> Bytes {
        var payload = payload
        let token = kind == .command && !isBare ? token ?? options.guardToken : nil
        if let token {
            do throws(DecodingFailure) { payload = try CommandGuard.payload(payload, guardedBy: token) } catch {
                throw BifrostError(.invalid, "\(error)")
            }
        }
        let deadline = RPCClock.now() + (timeout ?? options.timeout).nanoseconds
        let ticket = AsyncTicket()
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Result<Bytes, BifrostError>, Never>) in
                enqueue(
                    AsyncOperation(
                        kind: kind, target: target, reading: reading, machine: machine, payload: payload,
                        deadline: deadline,
                        ticket: ticket, continuation: continuation))
            }
        } onCancel: {
            loop.eventLoop.execute { [loop] in ticket.cancel(on: loop) }
        }
        do throws(BifrostError) { return try result.get() } catch {
            guard let token, error.code == .lockLost else { throw error }
            throw token.isOver(error)
        }
    }

    /// Operations of all tasks that come until the loop gets to them are taken over in one go.
    private func enqueue(_ operation: AsyncOperation) {
        let isFirst = inbox.withLock { inbox in
            inbox.append(operation)
            return inbox.count == 1
        }
        guard isFirst else { return }
        loop.eventLoop.execute { [self] in
            let operations = inbox.withLock { inbox in
                let all = inbox
                inbox = []
                return all
            }
            for operation in operations { operation.ticket.start(operation, on: loop) }
        }
    }
}

/// An operation on its way from a task to the loop.
struct AsyncOperation: Sendable {
    var kind: RequestKind
    var target: RequestTarget
    var reading: ReadConsistency
    var machine: SubMachineNumber
    var payload: Bytes
    var deadline: Instant
    var ticket: AsyncTicket
    var continuation: CheckedContinuation<Result<Bytes, BifrostError>, Never>
}

/// Where an async operation stands. Resumes its task exactly once.
final class AsyncTicket: @unchecked Sendable {
    // @unchecked: belongs to the event loop; the task only creates it and hands it over.
    private var continuation: CheckedContinuation<Result<Bytes, BifrostError>, Never>?
    private var handle: OperationHandle?
    private var isCommand = false
    private var isCancelled = false
    private var isDone = false

    func start(_ operation: AsyncOperation, on loop: ClientLoop) {
        guard !isCancelled else {
            operation.continuation.resume(
                returning: .failure(
                    BifrostError(.cancelled, "the task was cancelled; nothing was done", cause: CancellationError())))
            return
        }
        continuation = operation.continuation
        isCommand = operation.kind == .command
        let handle = loop.submit(
            kind: operation.kind, target: operation.target, pinned: operation.reading.host, machine: operation.machine,
            consistency: operation.reading.onWire, bound: operation.reading.bound, payload: operation.payload,
            deadline: operation.deadline, tag: 0
        ) { [self] _, result in
            isDone = true
            resume(result.mapError { loop.explained(BifrostError($0)) })
        }
        self.handle = handle
    }

    func cancel(on loop: ClientLoop) {
        isCancelled = true
        guard !isDone, let handle else { return }
        // Withdrawn: the completion comes with the effects of the withdrawal.
        if loop.withdraw(handle) || !isCommand { return }
        resume(
            .failure(
                BifrostError(
                    .outcomeUnknown,
                    "the task was cancelled while the command was under way: it may have taken effect or not; "
                        + "read before you decide to repeat it", cause: CancellationError(), mayHaveHappened: true)))
    }

    private func resume(_ result: Result<Bytes, BifrostError>) {
        continuation?.resume(returning: result)
        continuation = nil
    }
}
