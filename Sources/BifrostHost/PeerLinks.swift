// The consensus connections: one between each two hosts, dialled by the one with the lower id, used by both.

import Logging
import Messages
import NIOCore
import Primitives
import RPC
import Ring

/// Methods of the consensus service.
enum ConsensusMethod {
    /// One way, in both directions: a peer batch (see `HostCore.PeerBatchWriter`).
    static let batch: UInt16 = 1
}

/// One link for each other host. Belongs to the host's event loop.
final class PeerLinks: @unchecked Sendable {
    // @unchecked: all mutable state belongs to `loop`.

    private enum Link {
        /// Dialled here; comes back by itself.
        case dialled(RPCConnection)
        /// Dialled by the other host.
        case accepted(InboundConnection)
    }

    private let loop: any EventLoop
    private let door: HostDoor
    private let logger: Logger
    private var links: [HostID: Link] = [:]
    private var up: Set<HostID> = []
    private var isClosed = false
    /// Told what comes; set once, right after both are made.
    weak var shell: HostShell?

    init(loop: any EventLoop, door: HostDoor, logger: Logger) {
        self.loop = loop
        self.door = door
        self.logger = logger
    }

    /// Hosts with which a connection stands.
    var connectedCount: Int { up.count }

    /// Dials the hosts of the map that are ours to dial and that are not dialled yet, or elsewhere.
    func adopt(_ map: ClusterMap) {
        loop.preconditionInEventLoop()
        let own = door.identity
        for host in map.hosts where host.id > own.host {
            guard let address = try? NetworkAddress(host.address) else {
                logger.error("host \(host.id) has the address '\(host.address)', which is none")
                continue
            }
            if case .dialled(let known)? = links[host.id], known.address == address { continue }
            dial(host.id, at: address)
        }
    }

    /// Takes the place of an earlier connection to the host, if there is one.
    private func dial(_ host: HostID, at address: NetworkAddress) {
        let earlier = links[host]
        let connection = RPCConnection(
            to: address, hello: Hello(role: .consensus, identity: door.identity, target: host), eventLoop: loop,
            seed: mix(host.rawValue ^ door.identity.incarnation.rawValue),
            delegate: DialledLink(host: host, links: self),
            backoff: Backoff(firstMilliseconds: 25, maxMilliseconds: 500), logger: logger)
        links[host] = .dialled(connection)
        if case .dialled(let known)? = earlier {
            wentDown(host)
            known.close()
        }
        connection.connect()
    }

    /// False if nothing was sent: no connection, or too much is unsent. Consensus sends again what it must.
    @discardableResult
    func send(_ payload: Bytes, to host: HostID) -> Bool {
        guard up.contains(host) else { return false }
        return switch links[host] {
        case .dialled(let connection)?:
            connection.sendOneway(service: ServiceNumber.consensus, method: ConsensusMethod.batch) { $0.write(payload) }
        case .accepted(let connection)?:
            connection.sendOneway(service: ServiceNumber.consensus, method: ConsensusMethod.batch) { $0.write(payload) }
        case nil: false
        }
    }

    func closeAll() {
        loop.preconditionInEventLoop()
        isClosed = true
        for link in links.values {
            switch link {
            case .dialled(let connection): connection.close()
            case .accepted(let connection): connection.close()
            }
        }
        links = [:]
        up = []
    }

    // MARK: Accepted

    /// A host with a lower id dialled. A newer connection of the same host takes the place of an older one.
    func accepted(_ connection: InboundConnection) {
        let host = connection.peer.host
        guard !isClosed, host < door.identity.host else {
            logger.warning("host \(host) dialled, which is not its part; its connection is closed")
            return connection.close()
        }
        if case .accepted(let old)? = links[host] {
            wentDown(host)
            old.close()
        }
        links[host] = .accepted(connection)
        cameUp(host)
    }

    func closed(_ connection: InboundConnection) {
        let host = connection.peer.host
        guard case .accepted(let present)? = links[host], present === connection else { return }
        links[host] = nil
        wentDown(host)
    }

    /// Whether what comes over this connection is the host's present word.
    func isPresent(_ connection: InboundConnection) -> Bool {
        guard case .accepted(let present)? = links[connection.peer.host] else { return false }
        return present === connection
    }

    // MARK: Dialled

    fileprivate func dialledUp(_ host: HostID, _ connection: RPCConnection, _ welcome: Welcome) {
        guard !isClosed, case .dialled(let present)? = links[host], present === connection else { return }
        // The other side judged us at its door; this side judges it likewise.
        if let refusal = door.refusal(of: welcome.identity) {
            logger.error("host \(host) is not believed: \(refusal.message)")
            // It may have been started with the wrong directory, and come back with the right one.
            loop.scheduleTask(in: .seconds(5)) { [weak self] in
                guard let self, !isClosed, case .dialled(let present)? = links[host], present === connection else {
                    return
                }
                dial(host, at: connection.address)
            }
            return connection.close()
        }
        cameUp(host)
    }

    fileprivate func dialledDown(_ host: HostID, _ connection: RPCConnection) {
        guard case .dialled(let present)? = links[host], present === connection else { return }
        wentDown(host)
    }

    fileprivate func received(
        _ host: HostID, _ connection: RPCConnection, _ service: UInt16, _ method: UInt16, _ payload: Bytes
    ) {
        guard up.contains(host), case .dialled(let present)? = links[host], present === connection,
            service == ServiceNumber.consensus, method == ConsensusMethod.batch
        else { return }
        if shell?.receiveBatch(payload, from: host) == false { dial(host, at: connection.address) }
    }

    fileprivate func readComplete() { shell?.runTurn() }

    private func cameUp(_ host: HostID) {
        guard up.insert(host).inserted else { return }
        logger.debug("connected with host \(host)")
        shell?.peerUp(host)
    }

    private func wentDown(_ host: HostID) {
        guard up.remove(host) != nil else { return }
        logger.debug("no connection with host \(host)")
        shell?.peerDown(host)
    }
}

/// Reports a dialled connection's state.
private final class DialledLink: RPCConnectionDelegate {
    private let host: HostID
    private let links: PeerLinks

    init(host: HostID, links: PeerLinks) {
        self.host = host
        self.links = links
    }

    func connectionUp(_ connection: RPCConnection, welcome: Welcome) { links.dialledUp(host, connection, welcome) }
    func connectionDown(_ connection: RPCConnection, reason: RPCError) { links.dialledDown(host, connection) }
    func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>) {}
    func received(_ connection: RPCConnection, service: UInt16, method: UInt16, payload: Bytes) {
        links.received(host, connection, service, method, payload)
    }
    func readComplete(_ connection: RPCConnection) { links.readComplete() }
}
