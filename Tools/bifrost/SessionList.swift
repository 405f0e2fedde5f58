// `bifrost session list`: whose sessions the groups have, how long they last, and what is kept for them.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import Ring
import StateMachines

struct SessionTool: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session", abstract: "Looks at clients' sessions.", subcommands: [SessionList.self])
}

struct SessionList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Prints the sessions of each group.",
        discussion: """
            As each group's leader has them, or with --host the replicas on one host, however old. A session ends when \
            nothing is left of its time; it begins anew with each word of its client, the last of which was the entry \
            at the index shown. Times are log time: of a replica that does not lead, that of its last entry. Calls are \
            counted from the first that is not acknowledged to the last that came; answers are those of them that \
            came, and bytes what is kept of their bodies. Documentation/Sessions.md tells the rest.

            EXAMPLES:
              bifrost session list
              bifrost session list --group 3 --host 2
              bifrost session list --json
            """)

    @Option(help: ArgumentHelp("Of this group alone.", valueName: "group"))
    var group: GroupArgument?

    @Option(help: ArgumentHelp("As the replicas on this host have them: its id, name or address.", valueName: "host"))
    var host: String?

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Session: Encodable {
            /// A text: most readers of JSON have no room for all of its digits in a number.
            var session: String
            var timeToLiveMillis: UInt64
            var leftMillis: UInt64
            var firstUnacknowledgedCall: UInt64
            var calls: UInt32
            var answers: UInt32
            var bytes: UInt32
            var lastWordIndex: UInt64

            init(_ standing: SessionStanding, at logTime: LogTime) {
                session = standing.id.description
                timeToLiveMillis = standing.timeToLive
                leftMillis = standing.left(at: logTime)
                firstUnacknowledgedCall = standing.firstUnacknowledged
                calls = standing.calls
                answers = standing.answers
                bytes = standing.bytes
                lastWordIndex = standing.activeIndex.rawValue
            }
        }
        struct Group: Encodable {
            var group: UInt32
            var sessions: [Session] = []
            /// Why it says nothing, or not all.
            var problem: String?
        }
        /// The replicas' on this host; null: the leaders'.
        var host: UInt64?
        var groups: [Group]
    }

    func run() async throws {
        let cluster = try await options.cluster()
        let map = try await cluster.map(refresh: true)
        let wantedHost = try host.map { word throws(ToolError) in try MapNames.host(word, in: map) }
        let groups = try groups(of: map, on: wantedHost)
        let reading = wantedHost.map { ReadConsistency.localAt($0.id) } ?? .linearizable
        var report = Report(host: wantedHost?.id.rawValue, groups: [])
        var failure: ToolError?
        for group in groups {
            let (found, trouble) = await sessions(of: group, reading, cluster)
            report.groups.append(found)
            failure = failure ?? trouble
        }
        await cluster.close()
        if options.common.json { try Output.json(report) } else { try Output.line(text(report)) }
        if let failure {
            let silent = report.groups.count { $0.problem != nil }
            throw ToolError(
                failure.status,
                "\(silent) of \(HumanText.count(groups.count, "group")) did not say: \(failure.message)")
        }
    }

    private func groups(of map: ClusterMap, on host: HostRecord?) throws(ToolError) -> [GroupRecord] {
        if let group {
            guard group.id != .meta else { throw ToolError(.usage, "the meta group has no sessions") }
            let record = try MapNames.group(group.id, in: map)
            if let host { _ = try MapNames.replica(on: host, of: record) }
            return [record]
        }
        return map.dataGroups.filter { group in
            host.map { host in group.replicas.contains { $0.host == host.id } } ?? true
        }
    }

    /// All pages.
    private func sessions(
        of group: GroupRecord, _ reading: ReadConsistency, _ cluster: Cluster
    ) async -> (Report.Group, ToolError?) {
        var found = Report.Group(group: group.id.rawValue)
        var next: SessionID? = SessionID.none
        do throws(BifrostError) {
            while let from = next {
                let page = try await cluster.sessions(of: group.id, from: from, reading)
                found.sessions += page.sessions.map { Report.Session($0, at: page.logTime) }
                // Whatever a host says, it comes to an end.
                next = page.next.flatMap { $0 > from ? $0 : nil }
            }
            return (found, nil)
        } catch {
            var trouble = ToolError(error)
            if error.code == .invalid {
                trouble = ToolError(
                    .unavailable, "\(error.message): its host is of a version that does not show sessions: upgrade it")
            }
            trouble.message = "\(group.id.words): \(trouble.message)"
            found.problem = trouble.message
            return (found, trouble)
        }
    }

    private func text(_ report: Report) -> String {
        var table = Table([
            ("group", .right), ("session", .right), ("lives", .right), ("left", .right), ("calls", .right),
            ("answers", .right), ("bytes", .right), ("last word", .right),
        ])
        var count = 0
        for group in report.groups {
            for session in group.sessions {
                table.add([
                    "\(group.group)", session.session, HumanText.duration(milliseconds: session.timeToLiveMillis),
                    HumanText.duration(milliseconds: session.leftMillis), "\(session.calls)", "\(session.answers)",
                    HumanText.bytes(UInt64(session.bytes)), "\(session.lastWordIndex)",
                ])
            }
            count += group.sessions.count
        }
        let place = report.host.map { "on host \($0)" } ?? "at the leaders"
        let heading =
            "\(HumanText.count(count, "session")) in \(HumanText.count(report.groups.count, "group")), \(place)"
        return count == 0 ? heading : heading + "\n" + table.text
    }
}
