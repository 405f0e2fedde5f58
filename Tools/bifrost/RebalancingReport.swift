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
        /// 0 to 1, as far as anybody knows.
        package var progress: Double
        package var migration: UInt64?
        package var phase: String?
        /// Of the target's present leader: that it copied, and rounds.
        package var copiedBytes: UInt64?
        package var rounds: UInt32?
        package var bytesPerSecond: UInt64?
        package var waitsFor: String?
        /// Why it failed, or its last attempt did.
        package var why: String?
    }

    package var rebalancing: UInt64
    package var mapVersion: UInt64
    /// waiting, running, paused, blocked, cancelling, converged, failed, cancelled
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
    package var stepsOpen: Int
    /// 0 to 1.
    package var progress: Double
    /// Of the plan; those that are written so far, about.
    package var bytes: UInt64
    package var bytesDone: UInt64
    /// Since somebody looks.
    package var bytesPerSecond: UInt64?
    package var secondsLeft: UInt64?
    package var steps: [Step]

    package enum End: Sendable, Equatable {
        case converged, inProgress, blocked, failed, cancelled
    }
    package var end: End { ended }
    private var ended: End

    private enum CodingKeys: String, CodingKey {
        case rebalancing, mapVersion, state, done, automatic, auto, concurrentMax, bytesPerSecondMax, pauseMillisMax,
            stepsDone
        case stepsFailed, stepsOpen, progress, bytes, bytesDone, bytesPerSecond, secondsLeft, steps
    }

    /// What each step counts beside its bytes, so that those without any count too.
    private static let stepBytes: UInt64 = 64 << 10

    /// - Parameters:
    ///   - migrations: as the targets' leaders know them.
    ///   - replicas: how many a group has, each of which is written.
    package init(
        _ standing: RebalancingStanding, migrations: [MigrationReport] = [], replicas: (GroupID) -> Int = { _ in 1 }
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
        stepsOpen = record.count(.waiting) + record.count(.underway)
        done = record.isOver
        if record.isOver {
            ended = stepsFailed > 0 ? .failed : record.count(.cancelled) > 0 ? .cancelled : .converged
        } else {
            ended = standing.isBlocked ? .blocked : .inProgress
        }
        state =
            switch ended {
            case .converged: "converged"
            case .failed: "failed"
            case .cancelled: "cancelled"
            case .blocked: record.isPaused ? "paused" : "blocked"
            case .inProgress:
                record.isCancelled
                    ? "cancelling"
                    : record.isPaused ? "pausing" : record.count(.underway) > 0 ? "running" : "waiting"
            }
        var steps: [Step] = []
        var (weightDone, weight) = (0.0, 0.0)
        bytes = 0
        bytesDone = 0
        for (place, step) in record.steps.enumerated() {
            let words = RebalanceReport.Step(step.move, step.reason, bytes: step.bytes)
            var report = Step(
                step: place + 1, state: step.state.word, what: words.text, reason: words.reason, bytes: step.bytes,
                progress: step.isOver ? 1 : 0, waitsFor: standing.waits[place]?.description,
                why: step.word.isEmpty ? nil : step.word)
            if step.state == .underway, case .slots(_, _, let target) = step.move {
                report.migration = step.begun
                if let known = migrations.first(where: { $0.id.rawValue == step.begun }) {
                    report.phase = known.phase?.word
                    report.copiedBytes = known.bytes
                    report.rounds = known.rounds
                    report.bytesPerSecond = known.bytesPerSecond
                    if case .copy(_, .copying)? = standing.waits[place] {
                        report.waitsFor = "\(standing.waits[place]!); it waits for \(known.wait)"
                    }
                    let written = Double(known.bytes) * Double(max(replicas(target), 1))
                    // What was written since the plan was made comes on top: it is never said to be done before it is.
                    report.progress = step.bytes == 0 ? 0 : min(written / Double(step.bytes), 0.95)
                }
            }
            let part = Double(step.bytes) + Double(Self.stepBytes)
            weight += part
            weightDone += part * report.progress
            bytes = bytes.addingClamped(step.bytes)
            if step.state == .done || step.state == .underway {
                bytesDone = bytesDone.addingClamped(UInt64(Double(min(step.bytes, 1 << 62)) * report.progress))
            }
            steps.append(report)
        }
        progress = record.isOver ? 1 : weight > 0 ? weightDone / weight : 1
        self.steps = steps
    }

    /// With what was seen some seconds before: the rate since then, and when it may be over.
    package mutating func measure(since earlier: (progress: Double, bytesDone: UInt64), seconds: Double) {
        guard seconds >= 1, !done else { return }
        let written = Double(bytesDone > earlier.bytesDone ? bytesDone - earlier.bytesDone : 0)
        bytesPerSecond = UInt64(min(written / seconds, 1e18))
        let gained = progress - earlier.progress
        guard gained > 0 else { return }
        secondsLeft = UInt64(min((1 - progress) / gained * seconds, 1e9).rounded(.up))
    }

    // MARK: - Text

    /// The whole, as one line with a bar.
    package func line(barWidth: Int = 24) -> String {
        var text = "rebalancing \(rebalancing) \(Self.bar(progress, barWidth))"
        text += "  \(stepsDone + stepsFailed) of \(steps.count) steps"
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
            if let rate = step.bytesPerSecond, rate > 0 {
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
            return "rebalancing \(rebalancing) was cancelled: \(stepsDone) of \(steps.count) steps are done"
        case .failed:
            let first = steps.first { $0.state == Rebalancing.Step.State.failed.word }
            return "\(HumanText.count(stepsFailed, "step")) of rebalancing \(rebalancing) failed, as step "
                + "\(first?.step ?? 0): \(first?.why ?? "nobody knows why"); plan again"
        case .blocked:
            let first = steps.first { $0.waitsFor != nil }
            return "rebalancing \(rebalancing) does not go on by itself: step \(first?.step ?? 0) waits for "
                + (first?.waitsFor ?? "nobody knows what")
        }
    }
}

extension RebalancingReport {
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
