// Who may come in: the host's side of every handshake. Knows the hosts of the map by incarnation and boot counter.

import Messages
import Primitives
import RPC
import Ring
import Storage
import Synchronization

/// Answers handshakes on any event loop; updated when identity or map change.
final class HostDoor: HandshakePolicy {
    private struct State {
        var identity: PeerIdentity
        /// Of the map: who knows less would not understand what is said.
        var featureLevel: UInt32 = 0
        /// Sorted as in the map.
        var hosts: [(host: HostID, incarnation: Incarnation)] = []
        /// The highest boot counter seen of each host: a lower one later is a disk that went back in time.
        var boots: [HostID: UInt64] = [:]
    }

    private let state: Mutex<State>
    private let name: String

    init(identity: HostIdentity, name: String) {
        self.name = name
        state = Mutex(State(identity: Self.peerIdentity(identity, name)))
    }

    var identity: PeerIdentity { state.withLock { $0.identity } }

    func update(identity: HostIdentity, map: ClusterMap) {
        state.withLock {
            $0.identity = Self.peerIdentity(identity, name)
            $0.featureLevel = map.featureLevel
            $0.hosts = map.hosts.map { ($0.id, $0.incarnation) }
        }
    }

    func answer(to hello: Hello, from address: String) -> HandshakeAnswer {
        state.withLock { state in
            if let refusal = hello.refusal(at: state.identity) { return .refuse(refusal) }
            guard hello.role != .client else { return .accept(state.identity) }
            if let refusal = Self.judge(hello.identity, &state) { return .refuse(refusal) }
            return .accept(state.identity)
        }
    }

    /// Why a host that was dialled is not believed to be the one of the map; nil if it is.
    func refusal(of peer: PeerIdentity) -> RPCError? {
        state.withLock { Self.judge(peer, &$0) }
    }

    private static func judge(_ peer: PeerIdentity, _ state: inout State) -> RPCError? {
        guard peer.cluster == state.identity.cluster, let known = state.hosts.first(where: { $0.host == peer.host })
        else {
            return RPCError(.wrongHost, "host \(peer.host) is not in this cluster's map")
        }
        guard known.incarnation == peer.incarnation else {
            return RPCError(
                .wrongHost,
                "host \(peer.host) lost its disk: its incarnation is \(peer.incarnation), the map has \(known.incarnation)"
            )
        }
        guard peer.featureLevel >= state.featureLevel else {
            return RPCError(
                .wrongHost,
                "the cluster uses feature level \(state.featureLevel), host \(peer.host)'s version knows "
                    + "\(peer.featureLevel): start it with a newer one")
        }
        if let seen = state.boots[peer.host], peer.bootCounter < seen {
            return RPCError(
                .wrongHost,
                "host \(peer.host) has an older disk than before: boot \(peer.bootCounter) after boot \(seen)")
        }
        state.boots[peer.host] = peer.bootCounter
        return nil
    }

    private static func peerIdentity(_ identity: HostIdentity, _ name: String) -> PeerIdentity {
        PeerIdentity(
            cluster: identity.cluster, host: identity.host, incarnation: identity.incarnation,
            bootCounter: identity.bootCounter, featureLevel: identity.featureLevel, name: name)
    }
}
