// `bifrost group spread-leaders`: each host leads in proportion to its weight. Who is to lead what is planned by the ring's
// planner; leadership follows the preference by itself.

import ArgumentParser
import Primitives
import Ring
import StateMachines

struct GroupSpreadLeaders: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "spread-leaders", abstract: "Spreads leaders over the hosts by their weights.",
        discussion: """
            Makes as few other replicas preferred as leaders as it can, so that each host is preferred in proportion to \
            its weight, as far as the groups' replicas allow. Hosts that drain and such with weight 0 are preferred by \
            nobody. Then it waits until those lead that are to: seconds, or minutes where one of them led a moment \
            ago. It moves no replicas: for those see add-replica.

            EXAMPLES:
              bifrost group spread-leaders --dry-run
              bifrost group spread-leaders --progress
              bifrost group spread-leaders --no-wait --json
            """)

    @Flag(help: "Only say what would be done.")
    var dryRun = false

    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Change: Encodable {
            var group: UInt32
            var replica: UInt64
            /// That leads from now on, and that led before.
            var host: UInt64
            var formerHost: UInt64
        }
        struct Host: Encodable {
            var host: UInt64
            var weight: UInt32
            /// Groups that prefer it, the meta group among them.
            var before: Int
            var after: Int
        }
        var changes: [Change] = []
        var hosts: [Host] = []
        var mapVersion: UInt64 = 0
        var changed = false
        /// It was waited for, and has come about.
        var done = false
        var dryRun = false
    }

    /// Plans that are made anew, as somebody else changed the map under the one before.
    private static let plansMax = 8

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(600))
        defer { administrator.close() }
        let first = try await administrator.map()
        var map = first
        var report = Report(dryRun: dryRun)
        let meter = wait.meter("spreading leaders", counting: "group")
        defer { meter.finish() }
        if dryRun {
            for choice in Planner.leaders(map) { note(choice, in: map, &report) }
            map = Planner.leaders(map).reduce(map) { map, choice in
                MapChange.preferLeader(choice.group, choice.replica).applied(to: map) ?? map
            }
            report.mapVersion = first.version
        } else {
            report.mapVersion = try await change(&map, &report, administrator, meter)
            if !wait.noWait {
                try await administrator.wait(
                    for: [.preferredLead], since: report.mapVersion, what: "spreading leaders",
                    hint: "bifrost group list", meter: meter)
                report.done = true
            }
        }
        report.changed = !dryRun && !report.changes.isEmpty
        func counts(_ map: ClusterMap) -> [HostID: Int] {
            map.groups.reduce(into: [:]) { counts, group in
                if let host = group.host(of: group.preferredLeader) { counts[host, default: 0] += 1 }
            }
        }
        let (before, after) = (counts(first), counts(map))
        report.hosts = map.hosts.map {
            Report.Host(
                host: $0.id.rawValue, weight: $0.weight, before: before[$0.id] ?? 0, after: after[$0.id] ?? 0)
        }
        try show(report)
    }

    /// One change of the map after the other, each for the version that it was decided on: whatever ends this in between
    /// leaves what is done, and a plan for the rest. Returns the version from which on all show.
    private func change(
        _ map: inout ClusterMap, _ report: inout Report, _ administrator: Administrator, _ meter: StandingMeter
    ) async throws(ToolError) -> UInt64 {
        var version = map.version
        do throws(ToolError) {
            for _ in 0..<Self.plansMax {
                let choices = Planner.leaders(map)
                guard !choices.isEmpty else { return version }
                for (place, choice) in choices.enumerated() {
                    meter.show(choices[place...].map { "\($0.group.words): replica \($0.replica) is to be preferred" })
                    let change = try await administrator.bring(
                        about: .spreadLeader(choice.group, choice.replica), from: map)
                    if change.isChanged { note(choice, in: map, &report) }
                    version = max(version, change.mapVersion)
                    // Where nobody else changed anything the next map is known: of thousands of groups it is large.
                    let next = MapChange.preferLeader(choice.group, choice.replica).applied(to: map)
                    if let next, change.isChanged, next.version == change.mapVersion {
                        map = next
                    } else {
                        map = try await administrator.map()
                    }
                }
            }
        } catch {
            guard !report.changes.isEmpty else { throw error }
            throw ToolError(
                error.status,
                "\(error.message); before that \(HumanText.count(report.changes.count, "group")) got another preferred "
                    + "leader; run this again to go on")
        }
        throw ToolError(
            .unavailable,
            "the map changed again and again while this was decided: somebody else changes the cluster; run it again")
    }

    private func note(_ choice: Planner.LeaderChoice, in map: ClusterMap, _ report: inout Report) {
        guard let group = map.group(choice.group), let host = group.host(of: choice.replica),
            let former = group.host(of: group.preferredLeader)
        else { return }
        report.changes.append(
            Report.Change(
                group: group.id.rawValue, replica: choice.replica.rawValue, host: host.rawValue,
                formerHost: former.rawValue))
    }

    private func show(_ report: Report) throws {
        if options.common.json { return try Output.json(report) }
        guard !report.changes.isEmpty else {
            return try Output.line(
                "leaders are preferred in proportion to the hosts' weights, as far as replicas allow; nothing to do")
        }
        var hosts = Table([("host", .right), ("weight", .right), ("before", .right), ("after", .right)])
        for host in report.hosts {
            hosts.add(["\(host.host)", "\(host.weight)", "\(host.before)", "\(host.after)"])
        }
        let verb = dryRun ? "would get" : report.done ? "has, and is led by," : "gets"
        let lines = report.changes.map {
            "\(GroupID($0.group).words): host \($0.host) instead of host \($0.formerHost)"
        }
        try Output.line(
            "\(HumanText.count(report.changes.count, "group")) \(report.changes.count == 1 ? verb : Self.plural(verb)) "
                + "another preferred leader\n\(lines.joined(separator: "\n"))\n\(hosts.text)")
    }

    private static func plural(_ verb: String) -> String {
        switch verb {
        case "gets": "get"
        case "has, and is led by,": "have, and are led by,"
        default: verb
        }
    }
}
