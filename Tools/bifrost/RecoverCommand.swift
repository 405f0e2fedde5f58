// `bifrost recover`: groups whose quorum is lost for good go on with what survived. On stopped hosts; what is decided is
// decided by RecoveryPlanner, what is written by StoppedHost.

import ArgumentParser
import BifrostHost
import Foundation
import Primitives
import Recovery

struct RecoverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recover",
        abstract: "Rebuilds groups that lost their quorum for good, from the hosts that survived. May lose writes.",
        discussion: """
            For when a majority of some group's replicas is gone and will not come back. All hosts that survived are \
            stopped first; nothing is sent anywhere, files are carried by you:

              on each survivor:  bifrost recover report --directory DATA -o host-1.report
              anywhere:          bifrost recover plan host-*.report -o plan
              on each survivor:  bifrost recover apply plan --directory DATA

            The plan says for each group from whose log it goes on and what may be lost. The survivors become a cluster \
            with a new id: hosts and clients that know the old one are refused. THE LOST HOSTS MUST NEVER BE STARTED \
            AGAIN with their old directories: among themselves they may still be a majority, and would go on serving \
            the old cluster. Documentation/Recovery.md says more.
            """,
        subcommands: [RecoverReport.self, RecoverPlan.self, RecoverApply.self, RecoverShow.self])
}

/// Where a stopped host's data is.
struct StoppedOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("The data directory of a host that is stopped.", valueName: "path"), completion: .directory)
    var directory: String

    @OptionGroup var trial: TrialLevel

    /// Held until it is let go.
    func host() throws -> StoppedHost { try StoppedHost(directory: directory, level: trial.level) }
}

struct RecoverReport: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report", abstract: "Writes down what a stopped host has.",
        discussion: """
            Changes nothing that a start of the host would not: what was written is flushed, and chunks of the store \
            that nothing names are deleted.

            EXAMPLES:
              bifrost recover report --directory /var/lib/bifrost -o host-1.report
            """)

    @OptionGroup var stopped: StoppedOptions
    @Option(
        name: [.customShort("o"), .long], help: ArgumentHelp("The file to make; - is standard output."),
        completion: .file())
    var output: String
    @OptionGroup var common: CommonOptions

    func run() async throws {
        let host = try stopped.host()
        let isWatched = Output.isErrorTerminal
        let report = try host.report { done, count in
            if isWatched { Output.error("\rread \(done) of \(count) replicas\(done == count ? "\n" : "")") }
        }
        guard try !RecoveryFile.report(report).write(to: output) else { return }
        if common.json { return try Output.json(RecoverySummary(report)) }
        try Output.line("\(RecoveryText.head(of: report)); written to \(output)")
    }
}

struct RecoverPlan: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Decides from the survivors' reports what becomes of each group.",
        discussion: """
            Give the reports of all hosts that survived: a host of the map without one counts as lost for ever. Writes \
            the plan, and prints what it does and what may be lost. Ends with 1 if no group lost its quorum, and if \
            nobody has anything of a group that is not named with --accept-empty.

            EXAMPLES:
              bifrost recover plan host-1.report host-4.report -o plan
              bifrost recover plan host-1.report -o plan --accept-empty 7 --accept-empty 9
            """)

    @Argument(help: ArgumentHelp("Files of 'bifrost recover report'.", valueName: "report"), completion: .file())
    var reports: [String]
    @Option(
        name: [.customShort("o"), .long], help: ArgumentHelp("The file to make; - is standard output."),
        completion: .file())
    var output: String
    @Option(
        help: ArgumentHelp(
            "A group of which nobody has anything, or meta: let it begin anew with nothing. May be repeated.",
            valueName: "group"))
    var acceptEmpty: [String] = []
    @OptionGroup var common: CommonOptions

    func run() async throws {
        let groups = try acceptEmpty.map { (name) throws(ToolError) -> GroupID in
            if name == "meta" { return .meta }
            guard let number = UInt32(name) else {
                throw ToolError(
                    .usage, "expected the number of a group, or meta, after --accept-empty, found '\(name)'")
            }
            return GroupID(number)
        }
        let found = try reports.map { (path) throws(ToolError) -> HostReport in
            guard case .report(let report) = try RecoveryFile.read(path) else {
                throw ToolError(.badData, "\(path) is a plan; expected reports of hosts")
            }
            return report
        }
        let cluster = ClusterID(high: UInt64.random(in: 1...UInt64.max), low: UInt64.random(in: 0...UInt64.max))
        let plan = try RecoveryPlanner.plan(found, cluster: cluster, acceptEmpty: Set(groups))
        guard try !RecoveryFile.plan(plan).write(to: output) else { return }
        if common.json { return try Output.json(RecoverySummary(plan)) }
        try Output.line(RecoveryText.account(of: plan) + "\n\nwritten to \(output); nothing was changed yet")
    }
}

struct RecoverApply: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Carries a plan out on one stopped host, after asking.",
        discussion: """
            Shows the plan and what may be lost, asks, and writes the host's part. Copy the directory first: there is \
            no way back. If it is interrupted, run it again; until it is done the host does not start. Again, when all \
            is done, it changes nothing.

            EXAMPLES:
              bifrost recover apply plan --directory /var/lib/bifrost
              bifrost recover apply plan --directory /var/lib/bifrost --yes --json
            """)

    @Argument(help: ArgumentHelp("The file of 'bifrost recover plan'.", valueName: "plan"), completion: .file())
    var plan: String
    @OptionGroup var stopped: StoppedOptions
    @Flag(help: "Don't ask.")
    var yes = false
    @OptionGroup var common: CommonOptions

    func run() async throws {
        guard case .plan(let plan) = try RecoveryFile.read(plan) else {
            throw ToolError(.badData, "\(self.plan) is the report of a host; expected a plan")
        }
        // Holds the directory until the end: what is shown is what is written to.
        let host = try stopped.host()
        let (standing, part) = try host.standing(of: plan)
        if standing == .ready {
            Output.error(RecoveryText.account(of: plan) + "\n\n" + RecoveryText.orders(of: part, in: plan) + "\n")
            if !yes {
                let words = "recover host \(part.host)"
                try Confirmation.ask(
                    "There is no way back. To go on, type: \(words)", for: words, otherwise: "nothing was changed")
            }
        } else if standing == .begun {
            Output.note("this plan was interrupted here; going on")
        }
        let isChanged = try host.apply(plan)
        if common.json {
            return try Output.json(
                RecoverySummary.Applied(
                    host: part.host.rawValue, cluster: plan.cluster.description, changed: isChanged, done: true))
        }
        try Output.line(
            isChanged
                ? "host \(part.host) belongs to cluster \(plan.cluster) now: when all survivors do, start them with 'bifrost serve'"
                : "this plan was applied to host \(part.host) already; nothing to do")
    }
}

struct RecoverShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Prints a report or a plan for people, or its main points as JSON.",
        discussion: """
            EXAMPLES:
              bifrost recover show host-1.report
              bifrost recover show plan --json
            """)

    @Argument(
        help: ArgumentHelp("A file of 'bifrost recover report' or 'plan'; - is standard input."), completion: .file())
    var file: String
    @OptionGroup var common: CommonOptions

    func run() async throws {
        switch try RecoveryFile.read(file) {
        case .report(let report):
            if common.json { return try Output.json(RecoverySummary(report)) }
            try Output.line(RecoveryText.head(of: report) + "\n" + RecoveryText.table(of: report))
        case .plan(let plan):
            if common.json { return try Output.json(RecoverySummary(plan)) }
            try Output.line(RecoveryText.account(of: plan))
        }
    }
}
