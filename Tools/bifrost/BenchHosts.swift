// What a benchmark learns of the hosts while it runs, and what it misses. Pure: accounts in, figures and words out.

import Messages
package import Primitives
import Ring

/// Adds up what the hosts used and did since the first accounts, also of hosts that end or are started anew meanwhile:
/// what is known of those goes up to their last account.
package struct BenchHosts: Sendable {
    /// A host whose figures have a hole.
    package struct Gap: Codable, Equatable, Sendable {
        package var host: UInt64
        package var address: String
        package var problem: String
    }

    private struct Host {
        let id: HostID
        let address: String
        /// The newest account, however old.
        var last: HostStatus?
        /// When that came.
        var seconds = 0.0
        var cpuMicros: UInt64 = 0
        /// Of each replica, but for that of the meta group, which nobody writes to.
        var checkpoints: [GroupID: UInt64] = [:]
        /// The same as the newest account has it: since its process began.
        var counted: [GroupID: UInt64] = [:]
        /// Why it gave no account the last time; nil: it did.
        var problem: String?
        /// What is missing although it answers now; nil: nothing.
        var gap: String?

        mutating func take(_ status: HostStatus, at now: Double) {
            let isSame = last?.bootCounter == status.bootCounter
            let isFirst = last == nil
            let cpuBefore = isSame ? last?.cpuMicros ?? 0 : 0
            if isFirst, now > 0 { gap = "did not answer before \(HumanText.fixed(now, 1)) s" }
            if !isFirst, !isSame { gap = "was started anew before \(HumanText.fixed(now, 1)) s" }
            if !isSame { counted = [:] }
            // The first account is where counting begins; another process counts from zero.
            if !isFirst { cpuMicros += status.cpuMicros - min(cpuBefore, status.cpuMicros) }
            for replica in status.replicas where replica.group != .meta {
                let before = isFirst ? replica.checkpoints : counted[replica.group] ?? 0
                checkpoints[replica.group, default: 0] += replica.checkpoints - min(before, replica.checkpoints)
                counted[replica.group] = replica.checkpoints
            }
            last = status
            seconds = now
        }

        /// "does not answer (why): what is known of it".
        var absence: String {
            let known = last == nil ? "its CPU is unknown" : "its CPU counts until \(HumanText.fixed(seconds, 1)) s"
            return "does not answer (\(problem ?? "")): \(known)"
        }
    }

    private var hosts: [Host] = []

    /// - Parameter accounts: from just before the measured time.
    package init(_ accounts: [HostAccount]) {
        hosts = accounts.map { Host(id: $0.host.id, address: $0.host.address) }
        _ = take(accounts, at: 0)
    }

    /// - Parameter accounts: of the same hosts in the same order, `seconds` after the first.
    /// - Returns: what became different, a line for each host of which there is something to say.
    package mutating func take(_ accounts: [HostAccount], at seconds: Double) -> [String] {
        precondition(accounts.count == hosts.count, "accounts of other hosts")
        var news: [String] = []
        for (index, account) in accounts.enumerated() {
            let name = "host \(hosts[index].id) at \(hosts[index].address)"
            let wasMissing = hosts[index].problem != nil
            if let status = account.status {
                hosts[index].problem = nil
                hosts[index].take(status, at: seconds)
                if wasMissing { news.append("\(name) answers again") }
            } else {
                hosts[index].problem = account.problem
                if !wasMissing { news.append("\(name) \(hosts[index].absence); nobody waits for its checkpoints") }
            }
        }
        return news
    }

    /// Of all hosts together, as far as it is known.
    package var cpuMicros: UInt64 { hosts.reduce(0) { $0 + $1.cpuMicros } }

    /// The least of all replicas on hosts that answer; 0 if there are none.
    package var checkpointsMin: UInt64 {
        hosts.filter { $0.problem == nil }.compactMap { $0.checkpoints.values.min() }.min() ?? 0
    }

    /// As the hosts say that answer.
    package var leaders: [GroupID: HostID] {
        var leaders: [GroupID: HostID] = [:]
        for host in hosts where host.problem == nil {
            for replica in host.last?.replicas ?? [] where replica.role == .leader {
                leaders[replica.group] = host.id
            }
        }
        return leaders
    }

    package var gaps: [Gap] {
        hosts.compactMap { host in
            let problem = host.problem == nil ? host.gap : host.absence
            return problem.map { Gap(host: host.id.rawValue, address: host.address, problem: $0) }
        }
    }
}
