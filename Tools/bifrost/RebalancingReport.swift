// A rebalancing that is carried out, as people and programs read it: how far it is, what each step waits for, when it may be
// over. Pure.

package import Messages
package import Primitives
package import Ring
package import StateMachines

/// That the cluster keeps the balance by itself.
package struct AutoReport: Encodable, Sendable, Equatable {
    package var concurrentMax: UInt32
    /// 0: as much as hosts give.
    package var bytesPerSecondMax: UInt64
    /// 0: as it comes.
    package var pauseMillisMax: UInt32
    package var waitsFor: String?

    package init(_ standing: AutoStanding) {
        concurrentMax = standing.auto.limits.concurrentMax
        bytesPerSecondMax = standing.auto.limits.bytesPerSecondMax
        pauseMillisMax = standing.auto.limits.pauseMillisMax
        waitsFor = standing.wait?.description
    }

    package var text: String {
        let limits = RebalancingReport.limits(concurrentMax, bytesPerSecondMax, pauseMillisMax)
        let wait = waitsFor.map { "it waits for \($0)" } ?? "it looks now"
        return "the cluster keeps the balance by itself, \(limits); \(wait)"
    }
}

package struct RebalancingReport: Encodable, Sendable {
    package struct Step: Encodable, Sendable {
        package var step: Int
        package var state: String
        package var what: String
        package var reason: String
        /// That are written for it, by the plan.
        package var bytes: UInt64
        /// 0 to 1, as far as anybody knows. Of one that failed or was cancelled 0: nothing came of it.
        package var progress: Double
        package var migration: UInt64?
        package var phase: String?
        /// Of the target's present leader: that it copied, and rounds.
        package var copiedBytes: UInt64?
        package var rounds: UInt32?
        /// At which its target fetches, in one replica: no more than its part of the limit, which holds over some seconds.
        package var bytesPerSecond: UInt64?
        /// Groups that it waits for, and that have had no leader for so long that it waits in vain.
        package var leaderless: [UInt32]?
        package var waitsFor: String?
        /// Why it failed, or its last attempt did.
        package var why: String?
    }

    package var rebalancing: UInt64
    package var mapVersion: UInt64
    /// waiting, running, pausing, paused, blocked, cancelling, converged, failed, cancelled
    package var state: String
    package var done: Bool
    /// The cluster began it by itself.
    package var automatic: Bool
    /// nil: the cluster begins none by itself.
    package var auto: AutoReport?
    package var concurrentMax: UInt32
    /// 0: as much as hosts give.
    package var bytesPerSecondMax: UInt64
    /// 0: as it comes.
    package var pauseMillisMax: UInt32
    package var stepsDone: Int
    package var stepsFailed: Int
    package var stepsCancelled: Int
    package var stepsOpen: Int
    /// 0 to 1: what is done of what was planned. 1 only if all of it is.
    package var progress: Double
    /// Of the plan; those that are written so far, about.
    package var bytes: UInt64
    package var bytesDone: UInt64
    /// That were copied, in one replica each, of the last minute that somebody looked at.
    package var bytesPerSecond: UInt64?
    /// nil: not known, or it does not go on.
    package var secondsLeft: UInt64?
    /// Groups that steps wait for.
    package var leaderless: [LeaderlessGroup]
    /// Groups that were to get slots and have none, where nothing brings them any more.
    package var emptyGroups: [UInt32]
    package var steps: [Step]

    package enum End: Sendable, Equatable {
        case converged, inProgress, blocked, failed, cancelled
    }
    package var end: End { ended }
    private var ended: End
    /// Of the plan's weight, what is open.
    private var left: Double
    /// In one replica each: slots, whose rate is limited, and states of replicas.
    private var copied: (slots: UInt64, replicas: UInt64)
    /// It will be blocked if the groups that it waits for go on having no leader.
    package let mayBeBlocked: Bool

    private enum CodingKeys: String, CodingKey {
        case rebalancing, mapVersion, state, done, automatic, auto, concurrentMax, bytesPerSecondMax, pauseMillisMax,
            stepsDone
        case stepsFailed, stepsCancelled, stepsOpen, progress, bytes, bytesDone, bytesPerSecond, secondsLeft,
            leaderless, emptyGroups, steps
    }

    /// What each step counts beside its bytes, so that those without any count too.
    private static let stepBytes: UInt64 = 64 << 10

    /// - Parameters:
    ///   - map: that the hosts have; nil: none is known.
    ///   - migrations: as the targets' leaders know them.
    ///   - leaderless: groups without a leader, of those that steps wait for.
    package init(
        _ standing: RebalancingStanding, map: ClusterMap? = nil, migrations: [MigrationReport] = [],
        leaderless: [LeaderlessGroup] = []
    ) {
        let record = standing.rebalancing
        rebalancing = record.id.rawValue
        mapVersion = standing.mapVersion
        automatic = record.isAutomatic
        auto = standing.auto.map { AutoReport($0) }
        concurrentMax = record.limits.concurrentMax
        bytesPerSecondMax = record.limits.bytesPerSecondMax
        pauseMillisMax = record.limits.pauseMillisMax
        stepsDone = record.count(.done)
        stepsFailed = record.count(.failed)
        stepsCancelled = record.count(.cancelled)
        stepsOpen = record.count(.waiting) + record.count(.underway)
        done = record.isOver
        self.leaderless = leaderless
        let missing = record.steps.indices.map { (place: Int) -> [LeaderlessGroup] in
            guard let map, !leaderless.isEmpty else { return [] }
            let groups = standing.groups(of: place, in: map).map(\.rawValue)
            return leaderless.filter { groups.contains($0.group) }
        }
        ended = Self.end(of: standing, isHeld: missing.map { $0.contains(where: \.isHeld) })
        mayBeBlocked = ended == .inProgress && standing.isBlocked { !missing[$0].isEmpty }
        state = Self.word(for: ended, record)
        emptyGroups = map.map { record.emptyTargets(in: $0) } ?? []
        let rateMax = record.limits.ofMigration.bytesPerSecondMax
        var steps: [Step] = []
        var (weightDone, weightOpen, weight) = (0.0, 0.0, 0.0)
        bytes = 0
        bytesDone = 0
        copied = (0, 0)
        for (place, step) in record.steps.enumerated() {
            let words = RebalanceReport.Step(step.move, step.reason, bytes: step.bytes)
            var report = Step(
                step: place + 1, state: step.state.word, what: words.text, reason: words.reason, bytes: step.bytes,
                progress: step.state == .done ? 1 : 0, waitsFor: Self.wait(of: place, standing, missing[place]),
                why: step.word.isEmpty ? nil : step.word)
            let held = missing[place].filter(\.isHeld).map(\.group)
            report.leaderless = held.isEmpty ? nil : held
            // How often what is copied once is written.
            var replicas = 1
            if case .slots(_, _, let target) = step.move {
                replicas = max(map?.group(target)?.replicas.count ?? 1, 1)
                if step.state == .underway {
                    report.migration = step.begun
                    // It is over, and what came of it is not noted yet.
                    if standing.waits[place] == nil, let map, map.version >= standing.mapVersion,
                        map.migration(MigrationID(step.begun)) == nil
                    {
                        report.progress = 0.95
                    }
                    if let known = migrations.first(where: { $0.id.rawValue == step.begun }) {
                        report.phase = known.phase?.word
                        report.copiedBytes = known.bytes
                        report.rounds = known.rounds
                        report.bytesPerSecond =
                            rateMax > 0 ? min(known.bytesPerSecond, rateMax) : known.bytesPerSecond
                        if case .copy(_, .copying)? = standing.waits[place], missing[place].isEmpty {
                            report.waitsFor = "\(standing.waits[place]!); it waits for \(known.wait)"
                        }
                        let written = Double(known.bytes) * Double(replicas)
                        // What was written since the plan was made comes on top: it is never said to be done before it is.
                        report.progress = step.bytes == 0 ? 0 : min(written / Double(step.bytes), 0.95)
                    }
                }
            }
            let part = Double(step.bytes) + Double(Self.stepBytes)
            weight += part
            weightDone += part * report.progress
            if !step.isOver { weightOpen += part * (1 - report.progress) }
            bytes = bytes.addingClamped(step.bytes)
            let written = UInt64(Double(min(step.bytes, 1 << 62)) * report.progress)
            bytesDone = bytesDone.addingClamped(written)
            switch step.move {
            case .slots: copied.slots = copied.slots.addingClamped(written / UInt64(replicas))
            case .replica, .leader: copied.replicas = copied.replicas.addingClamped(written)
            }
            steps.append(report)
        }
        progress = stepsDone == steps.count ? 1 : min(weightDone / max(weight, 1), 0.999)
        left = weightOpen / max(weight, 1)
        self.steps = steps
    }

    private static func end(of standing: RebalancingStanding, isHeld: [Bool]) -> End {
        let record = standing.rebalancing
        guard record.isOver else { return standing.isBlocked { isHeld[$0] } ? .blocked : .inProgress }
        if record.count(.done) == record.steps.count { return .converged }
        // Whoever cancelled it knows why not all of it is done; what failed stands beside it.
        return record.isCancelled || record.count(.cancelled) > 0 ? .cancelled : .failed
    }

    private static func word(for end: End, _ record: Rebalancing) -> String {
        switch end {
        case .converged: "converged"
        case .failed: "failed"
        case .cancelled: "cancelled"
        case .blocked: record.isPaused && !record.isCancelled && record.count(.underway) == 0 ? "paused" : "blocked"
        case .inProgress:
            record.isCancelled
                ? "cancelling" : record.isPaused ? "pausing" : record.count(.underway) > 0 ? "running" : "waiting"
        }
    }

    /// What is open and waits for nothing is about to be written down by the meta group's leader.
    private static func wait(of place: Int, _ standing: RebalancingStanding, _ missing: [LeaderlessGroup]) -> String? {
        let step = standing.rebalancing.steps[place]
        guard !step.isOver else { return nil }
        if !missing.isEmpty { return missing.map(\.text).joined(separator: "; ") }
        if let wait = standing.waits[place] { return wait.description }
        if step.state == .underway { return "nothing: what came of it is being noted" }
        return standing.rebalancing.isCancelled ? "nothing: it is being cancelled" : "nothing: it is being begun"
    }

    /// What was seen at a moment, to be compared with later.
    package struct Sample: Sendable {
        package var seconds: Double
        fileprivate var progress: Double
        fileprivate var copied: (slots: UInt64, replicas: UInt64)
    }

    /// - Parameter seconds: since whenever.
    package func sample(at seconds: Double) -> Sample {
        Sample(seconds: seconds, progress: progress, copied: copied)
    }

    /// With what was seen some seconds before: the rate since then, and when it may be over. A step that is done counts what
    /// was planned for it, at once; so what slots bring is never more than the limit, which holds over these seconds.
    package mutating func measure(since earlier: Sample, at seconds: Double) {
        let elapsed = seconds - earlier.seconds
        guard elapsed >= 1, !done else { return }
        func rate(_ now: UInt64, _ before: UInt64) -> Double { Double(now > before ? now - before : 0) / elapsed }
        var slots = rate(copied.slots, earlier.copied.slots)
        if bytesPerSecondMax > 0 { slots = min(slots, Double(bytesPerSecondMax)) }
        bytesPerSecond = UInt64(min(slots + rate(copied.replicas, earlier.copied.replicas), 1e18))
        let gained = progress - earlier.progress
        // Who waits for somebody, or is to end early, has no time to come.
        guard gained > 0, state == "running" || state == "waiting", steps.allSatisfy({ $0.leaderless == nil }) else {
            return
        }
        secondsLeft = UInt64(min(left / gained * elapsed, 1e9).rounded(.up))
    }

    // MARK: - Text

    /// The whole, as one line with a bar.
    package func line(barWidth: Int = 24) -> String {
        var text = "rebalancing \(rebalancing) \(Self.bar(progress, barWidth))"
        text += "  \(stepsDone) of \(steps.count) steps"
        if stepsFailed > 0 { text += ", \(HumanText.grouped(UInt64(stepsFailed))) failed" }
        text += "  \(HumanText.bytes(bytesDone)) of \(HumanText.bytes(bytes))"
        if let bytesPerSecond { text += "  \(HumanText.bytes(bytesPerSecond))/s" }
        if let secondsLeft { text += "  ETA \(HumanText.clock(seconds: secondsLeft))" }
        return text + "  \(state)"
    }

    /// Of those that are under way, one line each.
    package func moveLines(most: Int, barWidth: Int = 16) -> [String] {
        let moves = steps.filter { $0.state == Rebalancing.Step.State.underway.word }
        return moves.prefix(most).map { step in
            var text = "  \(step.step). \(Self.bar(step.progress, barWidth))  \(step.what)"
            if let rate = step.bytesPerSecond, rate > 0, step.leaderless == nil, end != .blocked {
                text += "  \(HumanText.bytes(rate))/s"
                let left = Double(step.bytes) * (1 - step.progress)
                if let copied = step.copiedBytes, copied > 0, step.progress > 0 {
                    // Each replica is written, and its group fetches once.
                    let factor = Double(step.bytes) * step.progress / Double(copied)
                    let seconds = left / max(factor, 1) / Double(rate)
                    text += "  ETA \(HumanText.clock(seconds: UInt64(min(seconds, 1e9).rounded(.up))))"
                }
            }
            if let wait = step.waitsFor { text += "  waits for \(wait)" }
            return text
        } + (moves.count > most ? ["  … and \(moves.count - most) more"] : [])
    }

    private static func bar(_ fraction: Double, _ width: Int) -> String {
        let filled = Int(max(0, min(1, fraction)) * Double(width))
        let percent = HumanText.fixed(max(0, fraction) * 100, 1)
        return "[\(String(repeating: "#", count: filled))\(String(repeating: ".", count: width - filled))]"
            + " \(String(repeating: " ", count: max(0, 5 - percent.count)))\(percent) %"
    }

    /// All that is to be said, over several lines.
    ///
    /// - Parameter isEachShown: steps that are done, too.
    package func text(steps isEachShown: Bool) -> String {
        var lines = [line()]
        let limits = Self.limits(concurrentMax, bytesPerSecondMax, pauseMillisMax)
        lines.append(automatic ? "begun by the cluster itself, \(limits)" : limits)
        if let auto { lines.append(auto.text) }
        if let emptyText { lines.append(emptyText) }
        let shown = steps.filter { isEachShown || $0.state != Rebalancing.Step.State.done.word }
        guard !shown.isEmpty else { return lines.joined(separator: "\n") }
        var table = Table([
            ("step", .right), ("state", .left), ("what", .left), ("writes", .right), ("waits for", .left),
        ])
        for step in shown {
            let why = step.why.map { step.waitsFor == nil ? $0 : "; before: \($0)" } ?? ""
            table.add([
                "\(step.step)", step.state, step.what, HumanText.bytes(step.bytes), (step.waitsFor ?? "") + why,
            ])
        }
        lines.append(table.text)
        return lines.joined(separator: "\n")
    }

    fileprivate static func limits(_ concurrent: UInt32, _ bytesPerSecond: UInt64, _ pauseMillis: UInt32) -> String {
        var limits = ["at most \(HumanText.count(Int(concurrent), "move")) at a time"]
        if bytesPerSecond > 0 { limits.append("\(HumanText.bytes(bytesPerSecond))/s of slots' records") }
        if pauseMillis > 0 { limits.append("pauses of \(pauseMillis) ms") }
        return limits.joined(separator: ", ")
    }

    /// Why it did not converge, in words; nil: it did, or it may yet.
    package var problem: String? {
        switch end {
        case .converged, .inProgress: return nil
        case .cancelled:
            let failed = stepsFailed > 0 ? ", \(HumanText.grouped(UInt64(stepsFailed))) failed" : ""
            return "rebalancing \(rebalancing) was cancelled: \(stepsDone) of \(steps.count) steps are done\(failed)"
        case .failed:
            let first = steps.first { $0.state == Rebalancing.Step.State.failed.word }
            return "\(HumanText.count(stepsFailed, "step")) of rebalancing \(rebalancing) failed, as step "
                + "\(first?.step ?? 0): \(first?.why ?? "nobody knows why"); plan again"
        case .blocked:
            // What has no leader holds up those that wait for their turn.
            let first = steps.first { $0.leaderless != nil } ?? steps.first { $0.waitsFor != nil }
            return "rebalancing \(rebalancing) does not go on by itself: step \(first?.step ?? 0) waits for "
                + (first?.waitsFor ?? "nobody knows what")
        }
    }
}

extension RebalancingReport {
    /// Of groups that were made for slots which do not come any more; nil: there are none.
    package var emptyText: String? { Self.emptyText(of: emptyGroups) }

    package static func emptyText(of groups: [UInt32]) -> String? {
        guard let last = groups.last else { return nil }
        let give = "'bifrost rebalance apply' gives"
        guard groups.count > 1 else {
            return "group \(last) has no slots: \(give) it some, 'bifrost group delete \(last)' deletes it"
        }
        let names = groups.dropLast().map { "\($0)" }.joined(separator: ", ")
        return "groups \(names) and \(last) have no slots: \(give) them some, 'bifrost group delete' deletes each"
    }

    /// What it means that a leader names a rebalancing, to somebody who asked about another.
    package enum Answer: Sendable, Equatable {
        case current
        /// Ids only grow: that one is over, and another was begun since.
        case later
        /// The host was deposed, and does not know it yet; or the cluster was recovered.
        case earlier

        /// - Parameter found: nil: it knows of none.
        package init(_ found: RebalancingID?, about id: RebalancingID) {
            guard let found, found >= id else {
                self = .earlier
                return
            }
            self = found == id ? .current : .later
        }
    }
}

extension Rebalancing {
    /// Groups that slots were to come to, and that have none; ascending. Not those of weight 0, which are to have none.
    package func targetsWithoutSlots(in map: ClusterMap) -> [UInt32] {
        var targets: Set<GroupID> = []
        for step in steps { if case .slots(_, _, let target) = step.move { targets.insert(target) } }
        let owners = map.ring.counts().map(\.group)
        return targets.sorted().filter { map.group($0).map { $0.weight > 0 } ?? false && !owners.contains($0) }
            .map(\.rawValue)
    }

    /// Those of them that get none any more: the rest failed, or was cancelled.
    fileprivate func emptyTargets(in map: ClusterMap) -> [UInt32] { isOver ? targetsWithoutSlots(in: map) : [] }

    /// Why it can be neither paused nor resumed, in words; nil: it can.
    package var endText: String? {
        if isOver { return "rebalancing \(id) is over\(isCancelled ? ", it was cancelled" : "")" }
        return isCancelled ? "rebalancing \(id) was cancelled, and is coming to its end" : nil
    }

    /// The wish came when it was over already: it would be another record else.
    package func isTooLate(for wish: Wish) -> Bool {
        var other = self
        return isOver && other.take(wish)
    }
}

extension Rebalancing.Step.State {
    package var word: String {
        switch self {
        case .waiting: "waiting"
        case .underway: "underway"
        case .done: "done"
        case .failed: "failed"
        case .cancelled: "cancelled"
        }
    }
}

extension MigrationTask.Phase {
    package var word: String {
        switch self {
        case .exporting: "exporting"
        case .frozen: "frozen"
        case .released: "released"
        case .importing: "importing"
        case .sealed: "sealed"
        case .dropping: "dropping"
        }
    }
}
