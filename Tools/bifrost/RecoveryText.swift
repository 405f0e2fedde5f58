// Reports and plans of a recovery as people read them, and their main points as JSON. Pure.

import Primitives
package import Recovery
import Ring

package enum RecoveryText {
    package static func head(of report: HostReport) -> String {
        let unsound = report.replicas.count { $0.impairment != nil || $0.isMute }
        return "host \(report.host) of cluster \(report.cluster): \(HumanText.count(report.replicas.count, "replica"))"
            + (unsound > 0 ? ", \(unsound) of them not sound" : "")
            + "; map \(report.map.version), boot \(report.bootCounter)"
            + (report.isJournalDamaged ? "; ITS JOURNAL IS DAMAGED: it counts as lost" : "")
    }

    package static func table(of report: HostReport) -> String {
        var table = Table([
            ("group", .right), ("replica", .right), ("term", .right), ("applied", .right), ("committed", .right),
            ("last", .right), ("of term", .right), ("voters", .left), ("state", .left),
        ])
        for replica in report.replicas {
            let configuration = replica.configurations.last
            table.add([
                replica.group == .meta ? "meta" : "\(replica.group)", "\(replica.replica)", "\(replica.term)",
                "\(replica.applied)", "\(replica.commit)", "\(replica.last)", "\(replica.lastTerm)",
                list(configuration?.voters ?? []) + (configuration?.isJoint == true ? " (joint)" : ""),
                replica.impairment ?? "sound",
            ])
        }
        return table.text
    }

    private static func list(_ replicas: [ReplicaID]) -> String {
        replicas.isEmpty ? "-" : replicas.map { "\($0)" }.joined(separator: ",")
    }

    /// What the plan does as a whole and for each group, what may be lost, and what must never be done afterwards.
    package static func account(of plan: RecoveryPlan) -> String {
        var lines = [
            "Cluster \(plan.formerCluster) (map \(plan.formerMapVersion)) becomes cluster \(plan.cluster) "
                + "(map \(plan.map.version)).",
            "It goes on with \(plan.hosts.map { "host \($0.host) at \($0.address)" }.joined(separator: ", ")).",
        ]
        for host in plan.lostHosts {
            lines.append(
                "Host \(host.host) at \(host.address) counts as lost"
                    + (host.isDamaged ? ", as its journal is damaged" : "")
                    + (host.isRemoved
                        ? ", and is in the map no more."
                        : "; it stays in the map until 'bifrost host drain \(host.host)' and 'host remove'."))
        }
        let kept = plan.groups.filter { $0.outcome == .kept }
        if !kept.isEmpty {
            lines.append("")
            lines.append(
                "Left alone, as they have a quorum: group\(kept.count == 1 ? "" : "s") "
                    + kept.map { "\($0.group)" }.joined(separator: ", ") + ".")
        }
        for group in plan.groups where group.outcome != .kept {
            lines.append("")
            lines += group.account.enumerated().map { number, line in
                (number == 0 ? "" : "  ") + line.prefix(1).uppercased() + line.dropFirst()
            }
        }
        if let settlements = plan.settlements {
            lines.append("")
            lines.append("Slots that were on the move:")
            lines += settlements.map { "  " + $0.account.prefix(1).uppercased() + $0.account.dropFirst() }
        }
        if !plan.strays.isEmpty {
            lines.append("")
            lines.append("On these disks, but in no map; they stay there and take no part:")
            lines += plan.strays.map {
                "  replica \($0.replica) of group \($0.group) on host \($0.host), whose log ends at \($0.last) in term "
                    + "\($0.lastTerm)"
                    + (plan.map.group($0.group) == nil ? ": NOBODY WILL HAVE THIS GROUP" : "")
            }
        }
        if !plan.lostHosts.isEmpty {
            lines.append("")
            lines.append(
                "NEVER START \(plan.lostHosts.map { "host \($0.host)" }.joined(separator: ", ")) AGAIN with "
                    + "\(plan.lostHosts.count == 1 ? "its" : "their") old data: among themselves they may still be a "
                    + "majority of the old cluster, and would serve it beside this one. Clients and hosts that know this "
                    + "one refuse them; clients that begin with addresses alone may find them.")
        }
        return lines.joined(separator: "\n")
    }

    package static func orders(of host: SurvivingHost, in plan: RecoveryPlan) -> String {
        let leads = host.orders.filter { $0.lead != nil }.map { $0.group == .meta ? "meta" : "\($0.group)" }
        let buried = host.orders.filter { $0.lead == nil }.map { "\($0.replica) of group \($0.group)" }
        var text = "On host \(host.host): the new cluster id and map are written"
        if !leads.isEmpty { text += "; its replicas go on alone with the groups \(leads.joined(separator: ", "))" }
        if !buried.isEmpty { text += "; DELETED: replicas \(buried.joined(separator: ", "))" }
        return text + "."
    }
}

/// What `--json` prints of a report or a plan.
struct RecoverySummary: Encodable {
    struct Applied: Encodable {
        var host: UInt64
        var cluster: String
        var changed: Bool
        var done: Bool
    }
    struct Group: Encodable {
        var group: UInt32
        var outcome: String
        var baseReplica: UInt64?
        var baseHost: UInt64?
        var certain: UInt64
        var last: UInt64
        var mayLose: Bool
        var account: [String]
    }
    struct Lost: Encodable {
        var host: UInt64
        var address: String
        var removed: Bool
    }
    var kind: String
    var cluster: String
    var formerCluster: String?
    var mapVersion: UInt64
    var hosts: [UInt64]
    var lostHosts: [Lost]?
    var groups: [Group]?
    var settlements: [SlotSettlement]?
    var replicas: [Recovery.ReplicaReport]?

    init(_ report: HostReport) {
        kind = "report"
        cluster = report.cluster.description
        mapVersion = report.map.version
        hosts = [report.host.rawValue]
        replicas = report.replicas
    }

    init(_ plan: RecoveryPlan) {
        kind = "plan"
        cluster = plan.cluster.description
        formerCluster = plan.formerCluster.description
        mapVersion = plan.map.version
        hosts = plan.hosts.map(\.host.rawValue)
        lostHosts = plan.lostHosts.map {
            Lost(host: $0.host.rawValue, address: $0.address, removed: $0.isRemoved)
        }
        groups = plan.groups.map {
            Group(
                group: $0.group.rawValue, outcome: $0.outcome.rawValue, baseReplica: $0.base?.replica.rawValue,
                baseHost: $0.base?.host.rawValue, certain: $0.certain.rawValue, last: $0.last.rawValue,
                mayLose: $0.mayLose, account: $0.account)
        }
        settlements = plan.settlements
    }
}
