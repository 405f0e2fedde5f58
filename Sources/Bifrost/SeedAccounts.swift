// What the addresses that a client begins with turned out to be. Pure: owns the judgement whether they are of one
// cluster; connects to nobody.

package import Primitives
package import RPC
import Ring

/// The addresses that a client was given, and what is known of each.
package struct SeedAccounts: Sendable {
    package enum State: Equatable, Sendable {
        case trying
        /// Nobody listens there.
        case refused
        case failed
        case answers(ClusterID)
    }

    package let addresses: [NetworkAddress]
    package private(set) var states: [State]

    package init(_ addresses: [NetworkAddress]) {
        self.addresses = addresses
        states = addresses.map { _ in .trying }
    }

    package mutating func answered(_ seed: Int, as cluster: ClusterID) { states[seed] = .answers(cluster) }

    /// An attempt came to nothing, or a connection ended: what a host said of itself before stays true.
    package mutating func failed(_ seed: Int, _ reason: RPCError) {
        if case .answers = states[seed] { return }
        states[seed] = reason.code == .connectRefused ? .refused : .failed
    }

    /// Of each one is known whether it answers.
    package var isDecided: Bool { !states.contains(.trying) }
    package var allRefuse: Bool { states.allSatisfy { $0 == .refused } }

    /// The clusters that answered, each with the first seed of it, in the order of the seeds.
    package var clusters: [(cluster: ClusterID, seed: Int)] {
        var found: [(cluster: ClusterID, seed: Int)] = []
        for case (let seed, .answers(let cluster)) in states.enumerated() where cluster != .none {
            if !found.contains(where: { $0.cluster == cluster }) { found.append((cluster, seed)) }
        }
        return found
    }

    /// The map to begin with although hosts of several clusters answered: the one, if it is only one, that has the
    /// addresses of all the strangers. Somebody started those in the place of its hosts, and it goes on without them.
    package func choice(among maps: [ClusterMap]) -> ClusterMap? {
        let candidates = maps.filter { map in
            states.indices.allSatisfy { seed in
                guard case .answers(let cluster) = states[seed], cluster != .none, cluster != map.cluster else {
                    return true
                }
                return map.hosts.contains { $0.address == addresses[seed].description }
            }
        }
        return candidates.count == 1 ? candidates[0] : nil
    }

    /// What to say when there is no choice.
    package var conflict: String {
        let names = clusters.map { "the host at \(addresses[$0.seed]) belongs to cluster \($0.cluster)" }
        return "expected addresses of one cluster, found several: \(names.joined(separator: ", "))"
    }
}
