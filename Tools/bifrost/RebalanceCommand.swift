// `bifrost rebalance plan`: what should move so that load is even. Asks the groups' leaders what their slots have and do;
// what follows from it is the planner's business, and nothing here changes anything. What carries a plan out stands in
// RebalanceApply.swift.

import ArgumentParser
import Bifrost
import Primitives
import Ring
import StateMachines

struct RebalanceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rebalance", abstract: "Gives groups and hosts even loads, while the cluster serves.",
        discussion: """
            EXIT CODES of apply, status and watch:
              0   converged: all that was planned is done, or nothing was to do
              1   not confirmed, cancelled (with steps that failed, too), or refused;
                  another one is under way
              6   in progress: it goes on by itself
              7   the plan is stale: what it moves has changed since; nothing was begun
              8   blocked: steps failed, or nothing goes on until somebody does
                  something, as where groups have no leader for more than ten seconds;
                  of apply also: groups did not say what they have
            The rest is as 'bifrost --help' says.
            """,
        subcommands: [
            RebalancePlanCommand.self, RebalanceApply.self, RebalanceStatus.self, RebalanceWatch.self,
            RebalancePause.self, RebalanceResume.self, RebalanceCancel.self, RebalanceAuto.self,
        ])
}

struct RebalancePlanCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Prints which slots, replicas and leads should move, and what comes of it.",
        discussion: """
            Nothing is carried out: it only reads. Each group's leader says how many bytes its slots have, about, and how \
            often they were asked for in the last ten to twenty seconds: run it while the usual work is done. Leads are \
            preferences, which leadership follows. Bytes of hosts are not bounded by their free space, which no host \
            tells.

            Whatever has no more and no less than its share by weight, give or take the per cents, stays. Slots of groups \
            that do not answer count as the mean of the others. Documentation/Rebalancing.md tells the rest.

            EXIT CODES: 0 there is a plan, or all is in balance; 4 nothing is planned, and groups did not say what they have: \
            nobody can tell.

            EXAMPLES:
              bifrost rebalance plan
              bifrost rebalance plan --steps --bytes-percent 20
              bifrost rebalance plan --json --progress
            """)

    @Flag(help: "Print each step, in the order in which they are allowed.")
    var steps = false

    @OptionGroup var planning: RebalancePlanning
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let cluster = try await options.cluster()
        let planned = try await planning.plan(cluster, options)
        await cluster.close()
        let report = planned.report
        if options.common.json { try Output.json(report) } else { try Output.line(report.text(steps: steps)) }
        if let doubt = report.doubt { throw ToolError(.unavailable, doubt) }
    }
}

/// By which rules is planned, and that.
struct RebalancePlanning: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "By how much of its share a host or a group may have more or fewer bytes.", valueName: "percent"))
    var bytesPercent = RebalanceInput.Rules().bytesPercent

    @Option(
        help: ArgumentHelp(
            "The same of operations per second: of groups, and of what hosts lead.", valueName: "percent"))
    var operationsPercent = RebalanceInput.Rules().operationsPercent

    @Option(help: ArgumentHelp("The same of the groups that a host leads.", valueName: "percent"))
    var leadersPercent = RebalanceInput.Rules().leadersPercent

    @Flag(
        inversion: .prefixedNo,
        help: "Show on standard error which groups are still asked. (default: if that is a terminal)")
    var progress: Bool?

    /// Groups that are asked at the same time: each takes a thread of its host some while.
    private static let asksMax = 16
    /// For hosts to say that they are up.
    private static let hostsTimeout = Duration.seconds(2)

    func validate() throws {
        for (name, percent) in [
            ("bytes", bytesPercent), ("operations", operationsPercent), ("leaders", leadersPercent),
        ] where !(0...1_000).contains(percent) {
            throw ValidationError("--\(name)-percent is 0 to 1000, not \(percent)")
        }
    }

    /// Bounds other than the usual ones.
    var isGiven: Bool {
        let usual = RebalanceInput.Rules()
        return bytesPercent != usual.bytesPercent || operationsPercent != usual.operationsPercent
            || leadersPercent != usual.leadersPercent
    }

    /// A plan, and the map that it is for.
    struct Planned {
        var map: ClusterMap
        var plan: RebalancePlan
        var report: RebalanceReport
    }

    /// - Parameter newest: of what somebody heard of elsewhere; nil: as the first host has it that answers.
    func plan(_ cluster: Cluster, _ options: ClientOptions, by newest: ClusterMap? = nil) async throws -> Planned {
        // Also for the questions that follow.
        let known = try await cluster.map(refresh: true)
        let map = newest.map { $0.version < known.version ? known : $0 } ?? known
        let accounts = try await cluster.accounts(timeout: options.timeout?.duration ?? Self.hostsTimeout)
        let answers = await loads(of: map.dataGroups, cluster)
        if let failure = answers.compactMap(\.failure).first, !answers.contains(where: { $0.load != nil }) {
            guard answers.count > 1 else { throw failure }
            throw ToolError(
                failure.status, "none of \(answers.count) groups said what its slots have: \(failure.message)")
        }
        var rules = RebalanceInput.Rules()
        (rules.bytesPercent, rules.operationsPercent) = (bytesPercent, operationsPercent)
        rules.leadersPercent = leadersPercent
        let isUp = accounts.map { (host: $0.host.id, isUp: $0.status != nil) }
        let plan = Planner.rebalance(
            RebalanceInput(
                map: map, hosts: isUp.map { RebalanceInput.HostFacts(host: $0.host, isUp: $0.isUp) },
                loads: answers.flatMap { $0.slots(in: map) }, rules: rules))
        let report = RebalanceReport(
            plan, map: map, down: isUp.filter { !$0.isUp }.map(\.host), answers: answers)
        return Planned(map: map, plan: plan, report: report)
    }

    /// In the order of the groups.
    private func loads(of groups: [GroupRecord], _ cluster: Cluster) async -> [GroupAnswer] {
        let meter = StandingMeter(
            "asking what slots have", counting: "group", isShown: progress ?? Output.isErrorTerminal)
        defer { meter.finish() }
        var answers: [GroupAnswer?] = Array(repeating: nil, count: groups.count)
        func show() {
            meter.show(groups.indices.filter { answers[$0] == nil }.map { groups[$0].id.words })
        }
        show()
        await withTaskGroup(of: (Int, GroupAnswer).self) { tasks in
            for (place, group) in groups.enumerated() {
                if place >= Self.asksMax, let (done, answer) = await tasks.next() {
                    answers[done] = answer
                    show()
                }
                tasks.addTask { (place, await Self.load(of: group, cluster)) }
            }
            for await (done, answer) in tasks {
                answers[done] = answer
                show()
            }
        }
        return answers.compactMap { $0 }
    }

    private static func load(of group: GroupRecord, _ cluster: Cluster) async -> GroupAnswer {
        guard group.state != .stopped else {
            return GroupAnswer(
                group: group.id,
                failure: ToolError(.unavailable, "\(group.id.words) is stopped: start it, or plan without it"),
                isStopped: true)
        }
        do throws(BifrostError) {
            return GroupAnswer(group: group.id, load: try await cluster.load(of: group.id))
        } catch {
            var failure = ToolError(error)
            if error.code == .invalid {
                failure = ToolError(
                    .unavailable,
                    "its leader's host is of a version that does not measure loads: upgrade it (\(error.message))")
            }
            failure.message = "\(group.id.words): \(failure.message)"
            return GroupAnswer(group: group.id, failure: failure)
        }
    }
}
