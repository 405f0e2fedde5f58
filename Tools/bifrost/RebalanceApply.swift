// `bifrost rebalance apply`, `status`, `watch`, `pause`, `resume`, `cancel`: a plan is carried out by the cluster; what is
// done here is to ask for it and to show it. Nothing ends with this program.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import RPC
import Ring
import StateMachines

/// How much may be done at a time, where the command line says something.
struct RebalanceLimits: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Moves of slots and replicas at a time, up to \(Rebalancing.Limits.concurrentLimit). (default: 4)",
            valueName: "count"))
    var maxConcurrent: UInt32?

    @Option(
        help: ArgumentHelp(
            "What all moves of slots together may copy in a second, as in 500KiB or 20MiB; 0: as much as hosts give. "
                + "(default: 0) States of replicas that move have their hosts' own bound.", valueName: "bytes"),
        transform: ByteCount.init(parsing:))
    var maxBytesPerSecond: ByteCount?

    @Option(
        help: ArgumentHelp(
            "For how long writers of slots may wait while these change hands, as in 50ms, about; 0: as it comes. A move "
                + "that would take longer copies once more what changed, and is given up after 24 rounds. (default: 0)",
            valueName: "time"),
        transform: PauseLimit.init(parsing:))
    var maxPause: PauseLimit?

    var isGiven: Bool { maxConcurrent != nil || maxBytesPerSecond != nil || maxPause != nil }

    /// These, where they are given.
    func over(_ limits: Rebalancing.Limits) -> Rebalancing.Limits {
        Rebalancing.Limits(
            concurrentMax: maxConcurrent ?? limits.concurrentMax,
            bytesPerSecondMax: maxBytesPerSecond?.bytes ?? limits.bytesPerSecondMax,
            pauseMillisMax: maxPause?.milliseconds ?? limits.pauseMillisMax)
    }

    func validate() throws {
        if let problem = over(Rebalancing.Limits()).problem { throw ValidationError("expected \(problem)") }
    }
}

/// A number of bytes as people write it.
package struct ByteCount: Equatable, Sendable {
    package var bytes: UInt64

    /// 65536, 64KiB, 20MiB, 1GiB; or with KB, MB, GB for powers of 1,000.
    package init(parsing text: String) throws {
        let units: [(String, UInt64)] = [
            ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 1_000), ("MB", 1_000_000),
            ("GB", 1_000_000_000), ("B", 1), ("", 1),
        ]
        for (unit, factor) in units where text.hasSuffix(unit) {
            guard let number = UInt64(text.dropLast(unit.count)) else { continue }
            let (product, isBeyond) = number.multipliedReportingOverflow(by: factor)
            guard !isBeyond, product < 1 << 60 else { break }
            bytes = product
            return
        }
        throw ValidationError("expected a number of bytes, as in 65536, 500KiB, 20MiB or 1GiB, found '\(text)'")
    }
}

/// A longest pause; 0 is none.
package struct PauseLimit: Equatable, Sendable {
    package var milliseconds: UInt32

    /// 50ms, 2s; 0 or 0ms: none. A number alone is seconds, as everywhere.
    package init(parsing text: String) throws {
        if ["0", "0ms", "0s"].contains(text) {
            milliseconds = 0
            return
        }
        guard let span = try? TimeSpan(parsing: text) else {
            throw ValidationError(
                "expected a time up to 24h with its unit, as in 50ms or 2s, or 0 for no limit; found '\(text)'")
        }
        milliseconds = UInt32(clamping: Int64(span.duration / .milliseconds(1)))
    }
}

/// As much of a plan as the meta group takes at once, as it is asked for it.
struct RebalancingOrder {
    let plan: RebalancingPlan
    /// Steps that did not fit; nil: all did.
    let stepsLeft: Int?

    /// Of a command for the meta group. That leaves room for all but the steps.
    private static let stepBytesMax = AdministerRequest.payloadBytesMax - 1_024

    /// - Parameter map: that it was planned for.
    init(_ plan: RebalancePlan, for map: ClusterMap, _ limits: RebalanceLimits) throws(ToolError) {
        let (steps, rest) = Rebalancing.steps(of: plan, bytesMax: Self.stepBytesMax)
        guard !steps.isEmpty else {
            throw ToolError(.fault, "the plan's first step does not fit into a command; please report it")
        }
        var limits = limits.over(Rebalancing.Limits())
        // Each move gets its share of the bytes per second: none is kept for moves that there are not.
        if limits.bytesPerSecondMax > 0 { limits.concurrentMax = min(limits.concurrentMax, UInt32(steps.count)) }
        self.plan = RebalancingPlan(token: UInt64.random(in: 1...UInt64.max), steps: steps, for: map, limits: limits)
        stepsLeft = rest
    }
}

struct RebalanceApply: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Plans, shows the plan, asks, and has the cluster carry it out.",
        discussion: """
            The leader of the meta group carries the plan out, step by step and within limits, while clients read and \
            write; this command shows how far it is. If it ends, or its terminal is closed, the cluster goes on: see \
            'bifrost rebalance status' and 'watch'. With --detach it only begins. It needs feature level 11.

            With --auto nothing is planned now: from now on the cluster keeps the balance by itself within the limits, \
            as 'bifrost rebalance auto --help' says, until 'bifrost rebalance auto off' or 'cancel'.

            EXIT CODES: 0 converged, 1 not confirmed or cancelled, 6 in progress (--detach, or the time is over), 7 the \
            plan is stale because the cluster changed after it was made, and nothing was begun, 8 blocked: steps failed, or \
            nothing goes on until somebody does something ('status' says what), or there was nothing to do as far as anybody \
            knows, since groups did not say what they have.

            EXAMPLES:
              bifrost rebalance apply
              bifrost rebalance apply --yes --max-concurrent 2 --max-bytes-per-second 20MiB --max-pause 50ms
              bifrost rebalance apply --yes --detach --json
              bifrost rebalance apply --auto --max-bytes-per-second 20MiB
            """)

    @Flag(help: "Do not ask.")
    var yes = false

    @Flag(help: "Begin it, and do not wait.")
    var detach = false

    @Flag(help: "From now on the cluster keeps the balance by itself; nothing is planned now.")
    var auto = false

    @Flag(help: "Print each step, in the order in which they are allowed.")
    var steps = false

    @OptionGroup var limits: RebalanceLimits
    @OptionGroup var planning: RebalancePlanning
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var plan: RebalanceReport
        /// 0: there was nothing to do.
        var rebalancing: UInt64
        var changed: Bool
        var done: Bool
        /// Of the plan, that did not fit, and are planned anew when these are over.
        var stepsLeft: Int
    }

    /// Plans one after the other, where one has more steps than are carried out at a time.
    private static let partsMax = 64

    func validate() throws {
        guard auto else { return }
        if detach || steps { throw ValidationError("--auto plans nothing now: --detach and --steps are not for it") }
        if planning.isGiven {
            throw ValidationError("--auto has bounds of its own: 20 % to begin, and 10 % to plan by; give no others")
        }
    }

    func run() async throws {
        if auto {
            if !yes {
                try Confirmation.ask(
                    "To let the cluster move slots, replicas and leads by itself from now on, type: yes", for: "yes",
                    otherwise: "nothing was changed")
            }
            return try await RebalanceAuto.turnOn(limits, options)
        }
        let cluster = try await options.cluster()
        let watch = RebalancingWatch(cluster, options)
        do {
            try await run(cluster, watch)
        } catch {
            watch.close()
            await cluster.close()
            throw error
        }
    }

    private func run(_ cluster: Cluster, _ watch: RebalancingWatch) async throws {
        // Of the last part that was carried out.
        var last: (plan: RebalanceReport, id: RebalancingID, mapVersion: UInt64, stepsLeft: Int)?
        // Before anything is shown: what is planned beside it is for nobody, and lacks what is on its way.
        if let other = try await watch.underway() {
            throw ToolError(
                .negative,
                "rebalancing \(other) is under way: wait until it is over, or cancel it; nothing was begun")
        }
        for part in 0..<Self.partsMax {
            // By a map of before the last part's end the next one would be made for what has moved since.
            let map = try await watch.map(since: last?.mapVersion ?? 0)
            var planned = try await planning.plan(cluster, options, by: map)
            guard !planned.plan.steps.isEmpty else {
                let doubt = planned.report.doubt
                if options.common.json {
                    let report = Report(
                        plan: planned.report, rebalancing: 0, changed: part > 0, done: doubt == nil, stepsLeft: 0)
                    try Output.json(report)
                } else {
                    try Output.line(planned.report.text(steps: steps))
                }
                if let doubt { throw ToolError(.blocked, "\(doubt); nothing\(part > 0 ? " more" : "") was begun") }
                return await end(cluster, watch)
            }
            let order = try RebalancingOrder(planned.plan, for: planned.map, limits)
            planned.report.estimate(by: order.plan.limits)
            let note = order.stepsLeft == nil ? "this is what will be done" : "in parts, of which this is the first"
            let text = part == 0 && !options.common.json ? planned.report.text(steps: steps, note: note) : nil
            // Whom nobody asks is shown what was begun, and not what was refused.
            if let text, !yes { try Output.line(text) }
            if part == 0, !yes {
                try Confirmation.ask(
                    "To carry out \(HumanText.count(planned.plan.steps.count, "step")), type: yes", for: "yes",
                    otherwise: "nothing was begun")
            }
            let id: RebalancingID
            do throws(ToolError) { id = try await begin(order.plan) } catch {
                // Somebody else moved something: what is left is planned for what there is by now.
                guard error.status == .stale, part > 0 else { throw error }
                continue
            }
            if let text, yes {
                do { try Output.line(text) } catch { throw ToolError(error).after("rebalancing \(id) has begun") }
            }
            planned.report.carriedOut = true
            if detach {
                if options.common.json {
                    let report = Report(
                        plan: planned.report, rebalancing: id.rawValue, changed: true, done: false,
                        stepsLeft: order.stepsLeft ?? 0)
                    try Output.json(report)
                } else {
                    let left =
                        order.stepsLeft.map {
                            "; \(HumanText.count($0, "step")) of the plan are left for another time"
                        } ?? ""
                    try Output.line(
                        "rebalancing \(id) has begun, and goes on by itself: see 'bifrost rebalance status'\(left)")
                }
                throw Outcome(.inProgress)
            }
            let report = try await watch.follow(id, isShown: planning.progress ?? Output.isErrorTerminal)
            guard report.end == .converged, let stepsLeft = order.stepsLeft else {
                try watch.print(report, json: options.common.json, steps: steps)
                return await end(cluster, watch)
            }
            last = (planned.report, id, report.mapVersion, stepsLeft)
        }
        guard let last else { return await end(cluster, watch) }
        if options.common.json {
            try Output.json(
                Report(
                    plan: last.plan, rebalancing: last.id.rawValue, changed: true, done: false,
                    stepsLeft: last.stepsLeft))
        } else {
            try Output.line(
                "\(Self.partsMax) parts were begun, and \(HumanText.count(last.stepsLeft, "step")) of the last plan are left "
                    + "for another time: run it again")
        }
        throw Outcome(.inProgress)
    }

    private func begin(_ plan: RebalancingPlan) async throws(ToolError) -> RebalancingID {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        return try await administrator.begin(plan)
    }

    private func end(_ cluster: Cluster, _ watch: RebalancingWatch) async {
        watch.close()
        await cluster.close()
    }
}

struct RebalanceStatus: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Prints how far the rebalancing is, and what each step waits for.",
        discussion: """
            Of the one that is under way, or the last one there was. Steps that are done are left out, but for --steps. \
            Where the cluster keeps the balance by itself, it says so, and what it waits for. Where all waits for groups that \
            have no leader it looks on for ten seconds, as they may get one.

            EXIT CODES: 0 converged, or there was none; 1 it was cancelled; 6 in progress; 8 blocked: steps failed, or \
            nothing goes on until somebody does something.

            EXAMPLES:
              bifrost rebalance status
              bifrost rebalance status --json
            """)

    @Flag(help: "Print steps that are done, too.")
    var steps = false

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let cluster = try await options.cluster()
        let watch = RebalancingWatch(cluster, options)
        let report: RebalancingReport?
        do { report = try await watch.lookUntilCertain() } catch {
            watch.close()
            await cluster.close()
            throw error
        }
        watch.close()
        await cluster.close()
        guard let report else { return try watch.printNone(json: options.common.json) }
        try watch.print(report, json: options.common.json, steps: steps)
    }
}

struct RebalanceWatch: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Shows how far the rebalancing is until it is over.",
        discussion: """
            As 'bifrost rebalance apply' does. Nothing ends with this command. With --timeout it looks for so long.

            EXIT CODES: as of 'bifrost rebalance apply'.

            EXAMPLES:
              bifrost rebalance watch
              bifrost rebalance watch --timeout 10m --json
            """)

    @Flag(
        inversion: .prefixedNo,
        help: "Show it on standard error. (default: if that is a terminal)")
    var progress: Bool?

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let cluster = try await options.cluster()
        let watch = RebalancingWatch(cluster, options)
        do {
            guard let first = try await watch.look() else {
                watch.close()
                await cluster.close()
                return try watch.printNone(json: options.common.json)
            }
            let report = try await watch.follow(
                RebalancingID(first.rebalancing), isShown: progress ?? Output.isErrorTerminal)
            watch.close()
            await cluster.close()
            try watch.print(report, json: options.common.json, steps: false)
        } catch {
            watch.close()
            await cluster.close()
            throw error
        }
    }
}

/// What `pause`, `resume` and `cancel` have in common.
private struct RebalanceWish {
    struct Report: Encodable {
        /// 0: none is under way.
        var rebalancing: UInt64
        var changed: Bool
        /// False: it came to nothing, and `reason` says why.
        var done: Bool
        /// The cluster kept the balance by itself, and this has ended that.
        var autoEnded: Bool
        /// Groups that were to get slots, and have none now.
        var emptyGroups: [UInt32]
        var reason: String?
    }

    let options: ClientOptions
    /// What is to be asked for, of the one that is under way.
    let wishes: (Rebalancing) -> [Rebalancing.Wish]
    /// It is to end, and no other is to begin by itself; else it is to go on in another way.
    var isEnd = false
    /// What it came to.
    let words: (RebalancingID) -> String

    func run() async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        _ = try await administrator.map()
        let (standing, auto) = try await administrator.balance(until: RPCClock.now() + 10_000_000_000)
        let isAutoEnded = isEnd && auto != nil
        guard let record = standing?.rebalancing, !record.isOver else {
            guard isAutoEnded else {
                let last = standing?.rebalancing.endText.map { ": \($0)" } ?? ""
                throw try refused("no rebalancing is under way\(last); nothing was changed")
            }
            try await administrator.set(auto: nil)
            let report = Report(rebalancing: 0, changed: true, done: true, autoEnded: true, emptyGroups: [])
            if options.common.json { return try Output.json(report) }
            return try Output.line(
                "no rebalancing is under way; the cluster begins no rebalancing by itself any more")
        }
        if !isEnd, let text = record.endText { throw try refused("\(text); nothing was changed", record.id) }
        let wishes = wishes(record)
        for wish in wishes { try await administrator.set(record.id, wish) }
        // To cancel turns it off; it may have been turned on again since.
        if isAutoEnded, wishes.isEmpty { try await administrator.set(auto: nil) }
        let found = wishes.isEmpty ? record : try await self.standing(of: record.id, administrator)
        let late = found.map { found in wishes.filter { found.isTooLate(for: $0) } } ?? wishes
        guard late.isEmpty || late.count < wishes.count || isAutoEnded else {
            throw try refused("rebalancing \(record.id) ended before this came; nothing was changed", record.id)
        }
        if !isEnd, let text = found?.endText, found?.isCancelled ?? false {
            throw try refused("\(text): somebody else did that meanwhile", record.id)
        }
        // It is done, whether or not somebody tells what is left of it.
        let map = isEnd ? try? await administrator.map() : nil
        let empty = map.flatMap { found?.targetsWithoutSlots(in: $0) } ?? []
        if options.common.json {
            let isChanged = late.count < wishes.count || isAutoEnded && (wishes.isEmpty || !late.isEmpty)
            return try Output.json(
                Report(
                    rebalancing: record.id.rawValue, changed: isChanged, done: true, autoEnded: isAutoEnded,
                    emptyGroups: empty))
        }
        let end = isAutoEnded ? "; the cluster begins none by itself any more" : ""
        let left =
            RebalancingReport.emptyText(of: empty).map { "; \(found?.isOver ?? true ? "" : "so far ")\($0)" } ?? ""
        try Output.line((late.isEmpty ? words(record.id) : "rebalancing \(record.id) has ended by now") + end + left)
    }

    /// An end with a line on standard error, and an object where one is asked for.
    private func refused(_ reason: String, _ id: RebalancingID = .none) throws(ToolError) -> ToolError {
        if options.common.json {
            try Output.json(
                Report(
                    rebalancing: id.rawValue, changed: false, done: false, autoEnded: false, emptyGroups: [],
                    reason: reason))
        }
        return ToolError(.negative, reason)
    }

    /// Nobody refuses a wish for what has just ended, and it does nothing: how it stands behind it. nil: another one was
    /// begun since.
    private func standing(
        of id: RebalancingID, _ administrator: Administrator
    ) async throws(ToolError) -> Rebalancing? {
        let end = RPCClock.now() + 10_000_000_000
        while true {
            let found = try await administrator.rebalancing(until: end)?.rebalancing
            switch RebalancingReport.Answer(found?.id, about: id) {
            case .current: return found
            case .later: return nil
            case .earlier: break
            }
            guard RPCClock.now() < end else {
                throw ToolError(
                    .outcomeUnknown,
                    "the meta group took it, and nobody says whether rebalancing \(id) had ended before: look with "
                        + "'bifrost rebalance status'")
            }
            try await administrator.sleep(Administrator.pause)
        }
    }
}

struct RebalancePause: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause", abstract: "Lets no step of the rebalancing begin; what is under way goes to its end.",
        discussion: """
            One that was cancelled or is over can't be paused: exit code 1.

            EXAMPLES:
              bifrost rebalance pause
            """)
    @OptionGroup var options: ClientOptions

    func run() async throws {
        try await RebalanceWish(options: options, wishes: { $0.isPaused ? [] : [.pause] }) {
            "rebalancing \($0) is paused: no step begins until 'bifrost rebalance resume'"
        }.run()
    }
}

struct RebalanceResume: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume", abstract: "Lets a paused rebalancing go on, or gives it other limits.",
        discussion: """
            Limits that are not named stay. Those of slots that are under way change, too. One that was cancelled or is over \
            can't be resumed: exit code 1.

            EXAMPLES:
              bifrost rebalance resume
              bifrost rebalance resume --max-concurrent 8
            """)
    @OptionGroup var limits: RebalanceLimits
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let limits = limits
        try await RebalanceWish(
            options: options,
            wishes: { record in
                let new = limits.over(record.limits)
                return (new == record.limits ? [] : [.limits(new)]) + (record.isPaused ? [.resume] : [])
            }
        ) { "rebalancing \($0) goes on" }.run()
    }
}

struct RebalanceCancel: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "Ends the rebalancing where it stands.",
        discussion: """
            No step begins any more. Slots and replicas on their way stay where they were if nothing is decided yet, and \
            go to their end otherwise; what is done stays done. 'bifrost rebalance watch' shows when it is over. Where \
            the cluster keeps the balance by itself, that ends, too (autoEnded of --json). Groups that were to get slots and \
            have none are named: they stay.

            EXAMPLES:
              bifrost rebalance cancel
            """)
    @OptionGroup var options: ClientOptions

    func run() async throws {
        try await RebalanceWish(options: options, wishes: { $0.isCancelled ? [] : [.cancel] }, isEnd: true) {
            "rebalancing \($0) is cancelled: what is under way is taken back, or goes to its end where it is decided"
        }.run()
    }
}

/// Looks at the rebalancing, again and again. Used by one task.
final class RebalancingWatch {
    /// Its time is never over: each look has its own.
    private let administrator: Administrator
    private let cluster: Cluster
    private let options: ClientOptions
    /// Of what was seen first, and then: a rate is over some seconds.
    private var samples: [RebalancingReport.Sample] = []
    private let began = RPCClock.now()
    /// Of those that steps wait for.
    private var leaderless = LeaderlessGroups()
    private var askedAccounts: Double?

    /// A minute of looks: less would tell of single pages and steps.
    private static let samplesMax = 120
    /// All hosts are asked for all of their replicas: seldom, as long as all groups that matter have leaders.
    private static let accountsSeconds = 5.0
    private static let pause = Duration.milliseconds(500)
    private static let mapPause = Duration.milliseconds(50)
    /// For the meta group to have a leader again.
    private static let patienceNanoseconds: UInt64 = 60_000_000_000
    private static let lookNanoseconds: UInt64 = 10_000_000_000
    /// When the time is over.
    private static let lookNanosecondsMin: UInt64 = 1_000_000_000
    /// For a step that waits for a host that was only started again.
    private static let blockedNanoseconds: UInt64 = 15_000_000_000
    private static let reportTimeout = Duration.seconds(1)
    /// As it was when somebody looked last.
    private var auto: AutoStanding?

    init(_ cluster: Cluster, _ options: ClientOptions) {
        self.cluster = cluster
        self.options = options
        // --timeout is for how long is looked, and the last look is to tell how it stands then.
        administrator = Administrator(seeds: options.addresses, timeout: .seconds(3_600 * 24 * 365))
    }

    func close() { administrator.close() }

    /// The newest that any host has, of that version at least.
    func map(since version: UInt64) async throws(ToolError) -> ClusterMap {
        let end = RPCClock.now() + Self.lookNanoseconds
        while true {
            let map = try await administrator.map(until: end)
            if map.version >= version { return map }
            guard RPCClock.now() < end else {
                throw ToolError(
                    .unavailable, "no host that answers has version \(version) of the map yet: run it again")
            }
            try await administrator.sleep(Self.mapPause)
        }
    }

    /// nil: there is none, and was none.
    ///
    /// - Parameter end: not much longer than until then.
    func look(until end: Instant? = nil) async throws -> RebalancingReport? {
        func limit() -> Instant {
            let now = RPCClock.now()
            let latest = now + Self.lookNanoseconds
            return min(latest, max(end ?? latest, now + Self.lookNanosecondsMin))
        }
        _ = try await administrator.map(until: limit())
        let balance = try await administrator.balance(until: limit())
        auto = balance.auto
        guard let standing = balance.standing else { return nil }
        let map = try await administrator.map(until: limit())
        var targets: [GroupID] = []
        for step in standing.rebalancing.steps where step.state == .underway {
            if case .slots(_, _, let target) = step.move, !targets.contains(target) { targets.append(target) }
        }
        // Who does not answer has no figures: the record says all that matters.
        var migrations: [MigrationReport] = []
        await withTaskGroup(of: [MigrationReport].self) { [cluster] tasks in
            for target in targets {
                tasks.addTask { (try? await cluster.migrations(to: target, timeout: Self.reportTimeout)) ?? [] }
            }
            for await some in tasks { migrations += some }
        }
        await lookForLeaders(standing, map)
        let seconds = Double(RPCClock.now().since(began)) / 1e9
        var report = RebalancingReport(
            standing, map: map, migrations: migrations, leaderless: leaderless.groups(at: seconds))
        if let first = samples.first { report.measure(since: first, at: seconds) }
        if samples.count == Self.samplesMax { samples.removeFirst() }
        samples.append(report.sample(at: seconds))
        return report
    }

    /// Whether the groups that steps wait for have leaders. Who drives does not know: its word is that it goes on.
    private func lookForLeaders(_ standing: RebalancingStanding, _ map: ClusterMap) async {
        var groups: Set<GroupID> = []
        for place in standing.rebalancing.steps.indices { groups.formUnion(standing.groups(of: place, in: map)) }
        let seconds = Double(RPCClock.now().since(began)) / 1e9
        guard !groups.isEmpty else {
            leaderless = LeaderlessGroups()
            return
        }
        if leaderless.isEmpty, let askedAccounts, seconds - askedAccounts < Self.accountsSeconds { return }
        // What can't be asked at the moment is as it was.
        guard let accounts = try? await administrator.accounts(map) else { return }
        askedAccounts = seconds
        leaderless.look(at: groups, map, accounts, seconds: Double(RPCClock.now().since(began)) / 1e9)
    }

    /// The same. Where all waits for groups without leaders, until that has passed, or has lasted for some seconds; or the
    /// command's time is over.
    func lookUntilCertain() async throws -> RebalancingReport? {
        let end = options.timeout.map { RPCClock.now() + UInt64(max(0, $0.duration / .nanoseconds(1))) }
        while true {
            let report = try await look(until: end)
            guard let report, report.mayBeBlocked, end.map({ RPCClock.now() < $0 }) ?? true else { return report }
            try await Task.sleep(for: Self.pause)
        }
    }

    /// What is under way, whoever began it.
    func underway() async throws(ToolError) -> RebalancingID? {
        _ = try await administrator.map(until: RPCClock.now() + Self.lookNanoseconds)
        let standing = try await administrator.balance(until: RPCClock.now() + Self.lookNanoseconds).standing
        return standing.flatMap { $0.rebalancing.isOver ? nil : $0.rebalancing.id }
    }

    /// Until it is over, blocked for some time, or another one; or the command's time is over.
    func follow(_ id: RebalancingID, isShown: Bool) async throws -> RebalancingReport {
        let meter = RebalancingMeter(isShown: isShown)
        defer { meter.finish() }
        let interruption = Interruption { number in
            if Output.isErrorTerminal { Output.error("\n") }
            Output.note(
                "rebalancing \(id) goes on by itself: 'bifrost rebalance status' shows it, 'bifrost rebalance cancel' ends it"
            )
            _exit((number == SIGINT ? ExitStatus.interrupted : .terminated).rawValue)
        }
        defer { interruption.end() }
        let end = options.timeout.map { RPCClock.now() + UInt64(max(0, $0.duration / .nanoseconds(1))) }
        var lastHeard = RPCClock.now()
        var last: RebalancingReport?
        var blockedSince: Instant?
        while true {
            do {
                let found = try await look(until: end)
                switch RebalancingReport.Answer(found.map { RebalancingID($0.rebalancing) }, about: id) {
                case .current: break
                case .later: throw ToolError(.negative, "rebalancing \(id) was followed by another one")
                case .earlier:
                    throw ToolError(.unavailable, "who says that it leads the meta group knows no rebalancing \(id)")
                }
                guard let report = found else { continue }
                last = report
                lastHeard = RPCClock.now()
                meter.show(report)
                if report.done || end.map({ lastHeard >= $0 }) ?? false { return report }
                if report.end == .blocked {
                    blockedSince = blockedSince ?? lastHeard
                    // For as long as a group has no leader it was waited for that already; not so for what else is under way.
                    let underway = report.steps.filter { $0.state == Rebalancing.Step.State.underway.word }
                    let isHeld = !underway.isEmpty && underway.allSatisfy { $0.leaderless != nil }
                    if isHeld || lastHeard.since(blockedSince!) >= Self.blockedNanoseconds { return report }
                } else {
                    blockedSince = nil
                }
            } catch let error as ToolError where error.status == .unavailable {
                // As it was when somebody said so last: it is not over, and goes on.
                let isOver = end.map { RPCClock.now() >= $0 } ?? false
                if isOver, let last { return last }
                guard !isOver, RPCClock.now().since(lastHeard) < Self.patienceNanoseconds else {
                    throw error.after("rebalancing \(id) was begun, and goes on by itself")
                }
            }
            try await Task.sleep(for: Self.pause)
        }
    }

    /// The result, and how the command ends.
    func print(_ report: RebalancingReport, json: Bool, steps: Bool) throws {
        if json { try Output.json(report) } else { try Output.line(report.text(steps: steps)) }
        switch report.end {
        case .converged: return
        case .inProgress: throw Outcome(.inProgress)
        case .blocked, .failed: throw ToolError(.blocked, report.problem ?? "")
        case .cancelled: throw ToolError(.negative, report.problem ?? "")
        }
    }

    func printNone(json: Bool) throws {
        struct None: Encodable {
            var done = true
            var auto: AutoReport?
        }
        let auto = auto.map { AutoReport($0) }
        if json { return try Output.json(None(auto: auto)) }
        try Output.line(["nothing was ever rebalanced here", auto?.text].compactMap { $0 }.joined(separator: "\n"))
    }
}

/// The whole and each move, on standard error: some lines that are drawn anew on a terminal, elsewhere the first of them
/// when it says something new.
final class RebalancingMeter {
    private let isShown: Bool
    private let isTerminal = Output.isErrorTerminal
    private var shown: [String] = []

    private static let movesMax = 8

    init(isShown: Bool) { self.isShown = isShown }

    func show(_ report: RebalancingReport) {
        guard isShown else { return }
        guard isTerminal else {
            let line = report.line()
            if shown != [line] { Output.error(line + "\n") }
            shown = [line]
            return
        }
        // A line that wraps can't be drawn over.
        let room = ProgressMeter.terminalColumns - 1
        let lines = ([report.line()] + report.moveLines(most: Self.movesMax)).map { String($0.prefix(room)) }
        var text = shown.isEmpty ? "" : "\u{1b}[\(shown.count)A"
        for line in lines { text += "\r\u{1b}[K\(line)\n" }
        // What the picture before had more.
        let more = max(0, shown.count - lines.count)
        for _ in 0..<more { text += "\r\u{1b}[K\n" }
        if more > 0 { text += "\u{1b}[\(more)A" }
        Output.error(text)
        shown = lines
    }

    func finish() { shown = [] }
}
