// Which feature level a cluster is at, which one it could be raised to, and who holds it back. Pure: map and hosts'
// accounts in, a decision out.

import Messages
package import Primitives
package import Ring

package struct ClusterLevels: Sendable, Equatable {
    package struct Host: Sendable, Equatable {
        package var id: HostID
        package var address: String
        /// In the map.
        package var registered: UInt32
        /// As the host says itself, with the process that runs now; nil if it does not answer.
        package var named: UInt32?
        /// What its record has, or will have within seconds; of one that does not answer, what it has.
        package var coming: UInt32 { max(registered, named ?? 0) }
    }

    package enum Decision: Sendable, Equatable {
        /// It is there already.
        case there
        case raise(UInt32)
        /// For hosts of newer versions whose records are not renewed yet, and such as don't answer, one line each.
        case wait([String])
    }

    /// In force.
    package var level: UInt32
    package var hosts: [Host]

    package init(_ map: ClusterMap, _ accounts: [HostAccount]) {
        level = map.featureLevel
        hosts = map.hosts.map { host in
            let status = accounts.first { $0.host.id == host.id }?.status
            let isItself = status.map { $0.cluster == map.cluster && $0.host == host.id } ?? false
            return Host(
                id: host.id, address: host.address, registered: host.featureLevel,
                named: isItself ? status?.featureLevel : nil)
        }
    }

    /// To which it can be raised now: all hosts have registered it, and this program knows it.
    package var possible: UInt32 { max(level, min(hosts.map(\.registered).min() ?? level, FeatureLevel.current)) }

    /// To which it can be raised if those that don't answer, as they are perhaps just started, know all.
    private var hoped: UInt32 {
        max(level, hosts.map { $0.named == nil ? FeatureLevel.current : $0.coming }.min() ?? level)
    }

    /// Those that keep the cluster below a level, in words; at most eight.
    package func holding(below target: UInt32) -> String {
        let old = hosts.filter { $0.coming < target }
        return old.prefix(8).map {
            "host \($0.id) (\($0.address)) registers \($0.registered)\($0.named == nil ? " and does not answer" : "")"
        }.joined(separator: ", ") + (old.count > 8 ? ", and \(old.count - 8) more" : "")
    }

    /// - Parameter wanted: nil: the highest that is possible.
    package func decide(_ wanted: UInt32?) throws(ToolError) -> Decision {
        let target = wanted ?? min(hoped, FeatureLevel.current)
        guard target <= FeatureLevel.current else {
            throw ToolError(
                .usage,
                "this program knows feature levels up to \(FeatureLevel.current), not \(target): use the program of the "
                    + "version that has it; nothing was changed")
        }
        guard target >= level else {
            throw ToolError(
                .negative,
                "the cluster uses feature level \(level), which never goes back, as to \(target): expected a higher one; "
                    + "nothing was changed")
        }
        guard target > level else { return .there }
        guard !hosts.contains(where: { $0.named != nil && $0.coming < target }) else {
            throw ToolError(
                .negative,
                "feature level \(target) needs hosts that all know it, and \(holding(below: target)): start a newer version there, or "
                    + "remove the host; nothing was changed")
        }
        let waiting = hosts.filter { $0.registered < target }
        guard waiting.isEmpty else {
            return .wait(
                waiting.map { host in
                    let knows = host.named.map { "knows \($0)" } ?? "does not answer"
                    return "host \(host.id) (\(host.address)) \(knows), and registers \(host.registered) still"
                })
        }
        return .raise(target)
    }

    /// What a level brought, in words.
    package static func words(_ level: UInt32) -> String {
        switch level {
        case FeatureLevel.first: "the first version's formats"
        case FeatureLevel.membership: "members of groups, groups and hosts change while the cluster runs"
        case FeatureLevel.recovery: "clusters that were recovered"
        case FeatureLevel.silence: "hosts name their silent replicas to each other"
        case FeatureLevel.transactions:
            "transactions, groups that are stopped and started, weights of hosts that change"
        case FeatureLevel.sessions: "sessions: commands that are done once, however often they are sent"
        case FeatureLevel.machines: "state machines of users"
        case FeatureLevel.deadlines: "times to live of keys, timers and events of state machines, digests compared"
        case FeatureLevel.dataTypes:
            "data types: values, numbers, maps, sets, arrays, queues, locks, semaphores, elections, leases"
        case FeatureLevel.gatherings: "memberships of clients, barriers, latches"
        case FeatureLevel.migrations: "slots move from group to group while both serve"
        default: "unknown to this program"
        }
    }
}
