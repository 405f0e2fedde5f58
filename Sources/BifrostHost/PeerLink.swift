// One connection with another host, dialled here or there. Owns what may pass it and when; whom it is believed to be is
// decided by `PeerLinks`.
//
// A dialled link comes back by itself; an accepted one lives as long as its connection. What happens when one comes up:
//
//   link's loop    up ─────────────┐                ┌─► may write       ┌─► may read: what came meanwhile goes on
//   loop 0                         └─► judged, ─────┴─► cores told ─────┘
//                                      routes set
//
// So nothing is sent to a host that is not believed, and no core hears a host that it does not know to be connected,
// which would answer into the void.

import HostCore
import Logging
import Messages
import NIOCore
import Primitives
import RPC
import Synchronization

/// Methods of the consensus service.
enum ConsensusMethod {
    /// One way, in both directions, on both connections: a peer batch (see `HostCore.PeerBatchWriter`).
    static let batch: UInt16 = 1
}

/// The two connections of each pair of hosts.
struct PeerChannelKey: Hashable, Sendable {
    var host: HostID
    var channel: PeerChannel
}

final class PeerLink: @unchecked Sendable {
    // @unchecked: `key`, `loop`, `links` never change, `bytesInTransit` is atomic, `connection` is set once before the
    // link is known to a second thread; all else belongs to `loop`.

    private enum Connection {
        case dialled(RPCConnection)
        case accepted(InboundConnection)
    }

    private enum Phase {
        case down
        /// Not judged yet.
        case unjudged
        /// Believed, but not every core knows that it is up.
        case writable
        case open
    }

    let key: PeerChannelKey
    /// The event loop that its socket lives on.
    let loop: HostLoop
    private unowned let links: PeerLinks
    private var connection: Connection?
    /// Bytes that other loops handed over and the connection has not taken.
    private let bytesInTransit = Atomic<Int>(0)

    private var phase = Phase.down
    /// Since when the other side lets nobody in who is this host.
    private var refusedSince: Instant?
    /// Counts how often it came up, so that what is said of one connection is not taken for the next.
    private var generation: UInt64 = 0
    /// What came before the link was open.
    private var held: [Bytes] = []
    private var heldBytes = 0

    /// Payloads that other loops handed over and that were not written: more are refused. As much may be unsent behind
    /// the socket of a consensus connection.
    private static var bytesInTransitMax: Int { 64 << 20 }
    /// Bytes that a bulk connection's socket has not taken; beyond it more is refused, so that a slow follower costs
    /// little memory.
    private static var bulkUnsentBytesMax: Int { 8 << 20 }
    /// A host that was told of its cluster a moment after this one refuses until then, which is nothing to speak of.
    private static var refusedNanoseconds: UInt64 { 2_000_000_000 }
    /// Of what comes before the link is open, more is dropped: some tasks of loops later it is.
    private static var heldBytesMax: Int { 16 << 20 }
    /// Hosts that lean on one another must notice within seconds that a connection is dead, or open in one direction
    /// only: what their groups send over it is lost meanwhile.
    private static var limits: ClientLimits {
        var limits = ClientLimits()
        limits.pingMilliseconds = 4_000
        return limits
    }

    init(accepted connection: InboundConnection, channel: PeerChannel, loop: HostLoop, links: PeerLinks) {
        key = PeerChannelKey(host: connection.peer.host, channel: channel)
        self.loop = loop
        self.links = links
        self.connection = .accepted(connection)
    }

    /// `dial` follows.
    init(to key: PeerChannelKey, loop: HostLoop, links: PeerLinks) {
        self.key = key
        self.loop = loop
        self.links = links
    }

    func dial(_ address: NetworkAddress, as identity: PeerIdentity, logger: Logger) {
        precondition(connection == nil, "a link is dialled once")
        let made = RPCConnection(
            to: address, hello: Hello(role: key.channel.role, identity: identity, target: key.host),
            eventLoop: loop.eventLoop,
            seed: mix(key.host.rawValue ^ identity.incarnation.rawValue ^ UInt64(key.channel.role.rawValue) << 56),
            delegate: self, limits: Self.limits, backoff: Backoff(firstMilliseconds: 25, maxMilliseconds: 500),
            logger: logger)
        connection = .dialled(made)
        made.connect()
    }

    /// Where it was dialled; nil if the other side dialled.
    var address: NetworkAddress? {
        guard case .dialled(let connection)? = connection else { return nil }
        return connection.address
    }

    /// For good. From any thread.
    func close() {
        switch connection {
        case .dialled(let connection)?: connection.close()
        case .accepted(let connection)?: connection.close()
        case nil: break
        }
    }

    // MARK: Up and down, on the link's loop

    /// - Parameter identity: how the host that was dialled named itself; nil for one that came through the door.
    func cameUp(as identity: PeerIdentity?) {
        loop.eventLoop.preconditionInEventLoop()
        generation += 1
        phase = .unjudged
        held = []
        heldBytes = 0
        var featureLevel = identity?.featureLevel ?? 0
        if case .accepted(let connection)? = connection { featureLevel = connection.peer.featureLevel }
        loop.shell.main.run { [self, generation, featureLevel] in
            links.cameUp(self, generation, as: identity, featureLevel: featureLevel)
        }
    }

    func wentDown() {
        loop.eventLoop.preconditionInEventLoop()
        if case .down = phase { return }
        phase = .down
        held = []
        // What came over it goes ahead of the word that it is down.
        loop.handOver()
        loop.shell.main.run { [self] in links.wentDown(self) }
    }

    func allowWriting(_ generation: UInt64) {
        loop.eventLoop.preconditionInEventLoop()
        guard generation == self.generation, case .unjudged = phase else { return }
        phase = .writable
    }

    func allowReading(_ generation: UInt64) {
        loop.eventLoop.preconditionInEventLoop()
        guard generation == self.generation, case .writable = phase else { return }
        phase = .open
        let early = held
        held = []
        for payload in early { receive(payload) }
        if !early.isEmpty { loop.readComplete() }
    }

    // MARK: Payloads

    /// On the link's loop.
    func receive(_ payload: Bytes) {
        switch phase {
        case .down: return
        case .unjudged, .writable:
            guard heldBytes + payload.count <= Self.heldBytesMax else { return }
            heldBytes += payload.count
            held.append(payload)
            return
        case .open: break
        }
        if key.channel == .bulk { links.noteBulkReceived() }
        guard !loop.receiveBatch(payload, from: key.host) else { return }
        // Nothing of this connection is believed any more; a new one begins anew.
        wentDown()
        if address == nil { close() } else { loop.shell.main.run { [self] in links.redial(self) } }
    }

    /// From any of the host's loops. Dropped if there is no connection or too much is unsent.
    func send(_ payload: Bytes, from sender: HostLoop) {
        if sender === loop { return write(payload) }
        let waiting = bytesInTransit.add(payload.count, ordering: .relaxed).newValue
        guard waiting <= Self.bytesInTransitMax else {
            bytesInTransit.subtract(payload.count, ordering: .relaxed)
            return
        }
        loop.eventLoop.execute { [self] in
            bytesInTransit.subtract(payload.count, ordering: .relaxed)
            write(payload)
        }
    }

    private func write(_ payload: Bytes) {
        switch phase {
        case .down, .unjudged: return
        case .writable, .open: break
        }
        let (service, method) = (ServiceNumber.consensus, ConsensusMethod.batch)
        let isSent: Bool
        switch connection {
        case .dialled(let connection)?:
            guard key.channel != .bulk || connection.unsentBytes <= Self.bulkUnsentBytesMax else { return }
            isSent = connection.sendOneway(service: service, method: method) { $0.write(payload) }
        case .accepted(let connection)?:
            guard key.channel != .bulk || connection.unsentBytes <= Self.bulkUnsentBytesMax else { return }
            isSent = connection.sendOneway(service: service, method: method) { $0.write(payload) }
        case nil: isSent = false
        }
        if isSent, key.channel == .bulk { links.noteBulkSent() }
    }
}

extension PeerLink: RPCConnectionDelegate {
    func connectionUp(_ connection: RPCConnection, welcome: Welcome) {
        refusedSince = nil
        cameUp(as: welcome.identity)
    }
    func connectionDown(_ connection: RPCConnection, reason: RPCError) {
        wentDown()
        guard [.wrongCluster, .wrongHost, .refusedIncarnation].contains(reason.code) else {
            refusedSince = nil
            return
        }
        let now = RPCClock.now()
        let since = refusedSince ?? now
        refusedSince = since
        guard now.since(since) >= Self.refusedNanoseconds else { return }
        loop.shell.main.run { [self] in links.refused(self, reason) }
    }
    func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>) {}
    func received(_ connection: RPCConnection, service: UInt16, method: UInt16, payload: Bytes) {
        if service == ServiceNumber.consensus, method == ConsensusMethod.batch { receive(payload) }
    }
    func readComplete(_ connection: RPCConnection) { loop.readComplete() }
}

extension PeerChannel {
    /// What its connection says that it is for.
    var role: PeerRole {
        switch self {
        case .consensus: .consensus
        case .bulk: .bulk
        }
    }
}
