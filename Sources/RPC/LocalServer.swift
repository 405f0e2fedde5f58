// The listening side for callers in the host's own process: no socket, no frames, no checksums. Owns who is connected
// and when it ends; what a call costs and how many there may be is `LocalLine`'s.
//
//   caller's event loop                                        the host's event loops
//   RPCConnection ─► LocalLine ── calls of one turn together ─► LocalService
//   RPCConnection ◄─ LocalLine ◄─ answers, until the caller's loop takes them ── CallReply

import NIOCore
package import Primitives
import Synchronization

/// A host that clients in its own process reach without a socket: see `ClusterOptions.host`.
public protocol InProcessHost: AnyObject, Sendable {
    /// Where others reach it.
    var address: NetworkAddress { get }
    var localServer: LocalServer { get }
}

/// What a host does with calls of its own process. Its part of the work is that of `RPCService`.
public protocol LocalService: AnyObject, Sendable {
    /// What a caller sent in one turn of its event loop, in its order. Comes on the caller's event loop: hands the calls
    /// over, and neither blocks nor answers before it returns. Each is answered exactly once through its `reply`, at any
    /// time, from any thread. A caller that took a call back is not heard of: its answer is dropped.
    func receive(_ calls: [InboundCall])
}

/// Accepts callers of this process by the same rules, and within the same bounds on calls and bytes in flight, as
/// `RPCServer` does those of others.
public final class LocalServer: Sendable {
    private enum Phase { case open, stopping, stopped }

    private struct State {
        var phase = Phase.open
        /// Nil once it has stopped: callers that stay keep nothing of the host.
        var service: (any LocalService)?
        var lines: [UInt64: LocalLine] = [:]
        var nextLine: UInt64 = 1
        var accepted = 0
        /// Opened when the last line has ended.
        var emptied: [Latch] = []
    }

    let limits: ServerLimits
    private let policy: any HandshakePolicy
    private let state: Mutex<State>
    private let requests = Atomic(0)
    private let answers = Atomic(0)
    private let dropped = Atomic(0)

    public init(service: any LocalService, policy: any HandshakePolicy, limits: ServerLimits = ServerLimits()) {
        state = Mutex(State(service: service))
        self.policy = policy
        self.limits = limits
    }

    /// As those of an `RPCServer`; nothing that comes this way is ever a fault.
    public var counters: RPCServerCounters {
        var counters = RPCServerCounters()
        state.withLock {
            counters.connectionsOpen = $0.lines.count
            counters.connectionsAccepted = $0.accepted
        }
        counters.requests = requests.load(ordering: .relaxed)
        counters.answers = answers.load(ordering: .relaxed)
        counters.dropped = dropped.load(ordering: .relaxed)
        return counters
    }

    /// It takes callers. False for good once it stops.
    var isOpen: Bool { state.withLock { $0.phase == .open } }

    /// The host is this one of this cluster, and takes callers.
    package func serves(_ host: HostID, of cluster: ClusterID) -> Bool {
        let hello = Hello(role: .client, identity: PeerIdentity(cluster: cluster), target: host)
        guard isOpen, case .accept(let identity) = policy.answer(to: hello, from: Self.place) else { return false }
        return identity.host == host && identity.cluster == cluster
    }

    private static let place = "this process"

    /// The handshake. On the line's event loop.
    func open(_ line: LocalLine, _ hello: Hello) -> HelloReply {
        let identity: PeerIdentity
        guard hello.role == .client else {
            return .refused(RPCError(.forbiddenRole, "this host is in the same process: other hosts are not"))
        }
        switch policy.answer(to: hello, from: Self.place) {
        case .refuse(let error): return .refused(error)
        case .accept(let its): identity = its
        }
        return state.withLock { state in
            guard state.phase == .open else { return .refused(RPCError(.unavailable, "this host is stopping")) }
            guard state.lines.count < limits.connectionsMax else {
                return .refused(
                    RPCError(
                        .tooManyConnections, "this host has as many connections as it accepts: try later"))
            }
            line.number = state.nextLine
            state.lines[line.number] = line
            state.nextLine += 1
            state.accepted += 1
            return .accepted(
                Welcome(
                    identity: identity, version: hello.versionMax, callsInFlightMax: UInt32(limits.callsInFlightMax),
                    payloadBytesMax: UInt32(FrameHeader.payloadBytesMax)))
        }
    }

    func closed(_ line: LocalLine) {
        let opened = state.withLock { state -> [Latch] in
            state.lines[line.number] = nil
            guard state.lines.isEmpty else { return [] }
            defer { state.emptied = [] }
            return state.emptied
        }
        for latch in opened { latch.open() }
    }

    /// False: the host has stopped, and has none of the calls. Under the lock, so that nothing is handed to event loops
    /// that have ended.
    func deliver(_ calls: [InboundCall]) -> Bool {
        let isTaken = state.withLock { state in
            guard let service = state.service else { return false }
            service.receive(calls)
            return true
        }
        if isTaken { requests.add(calls.count, ordering: .relaxed) }
        return isTaken
    }

    func noteAnswers(_ count: Int, dropped droppedCount: Int) {
        if count > 0 { answers.add(count, ordering: .relaxed) }
        if droppedCount > 0 { dropped.add(droppedCount, ordering: .relaxed) }
    }

    /// Takes no callers any more, tells those that are there to send no new calls, waits until all is answered or
    /// `graceMilliseconds` have passed, and ends what is left. Nothing is handed to the service once this returns, also
    /// in a task that was cancelled.
    public func stop(graceMilliseconds: Int64 = 1_000) async {
        func lines() -> [LocalLine] { state.withLock { $0.lines.values.sorted { $0.number < $1.number } } }
        state.withLock { if $0.phase == .open { $0.phase = .stopping } }
        for line in lines() { line.eventLoop.execute { line.drain() } }
        await untilEmpty(orFor: .milliseconds(graceMilliseconds))
        state.withLock {
            $0.phase = .stopped
            $0.service = nil
        }
        for line in lines() { line.eventLoop.execute { line.hostEnded() } }
        // An event loop that stands still keeps nobody up for ever.
        await untilEmpty(orFor: .seconds(5))
    }

    /// Returns when no line is left, or after that time.
    private func untilEmpty(orFor time: Duration) async {
        let latch = Latch()
        let isEmpty = state.withLock { state in
            if !state.lines.isEmpty { state.emptied.append(latch) }
            return state.lines.isEmpty
        }
        guard !isEmpty else { return }
        // In a task of its own: one that was cancelled sleeps no more.
        let alarm = Task.detached {
            try? await Task.sleep(for: time)
            latch.open()
        }
        await latch.wait()
        alarm.cancel()
    }
}

/// Opened once, for the one task that waits at it.
private final class Latch: Sendable {
    private struct State {
        var isOpen = false
        var waiter: CheckedContinuation<Void, Never>?
    }
    private let state = Mutex(State())

    func open() {
        let waiter = state.withLock { state in
            state.isOpen = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    func wait() async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let isOpen = state.withLock { state in
                if !state.isOpen { state.waiter = continuation }
                return state.isOpen
            }
            if isOpen { continuation.resume() }
        }
    }
}
