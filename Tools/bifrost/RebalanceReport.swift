// A plan of rebalancing as people and programs read it. Pure.

package import Primitives
package import Ring
package import StateMachines

/// What one group said of its load.
package struct GroupAnswer: Sendable {
    package var group: GroupID
    package var load: GroupLoad?
    package var failure: ToolError?
    /// It was not asked.
    package var isStopped = false

    package init(group: GroupID, load: GroupLoad? = nil, failure: ToolError? = nil, isStopped: Bool = false) {
        self.group = group
        self.load = load
        self.failure = failure
        self.isStopped = isStopped
    }

    /// Of all of its slots; none if it did not answer.
    func slots(in map: ClusterMap) -> [RebalanceInput.SlotLoad] { load?.slotLoads(of: group, in: map) ?? [] }
}

package struct RebalanceReport: Encodable {
    struct Figures: Encodable, Equatable {
        /// Of a host: of all its replicas. Of a group: in one replica.
        var bytes: UInt64
        /// Of a host: of the groups that prefer it as leader.
        var operationsPerSecond: Double
        var replicas: Int
        /// Groups that prefer it; of a group: whether anybody is preferred.
        var leads: Int
        var slots: Int

        init(_ figures: RebalancePlan.Figures) {
            bytes = figures.bytes
            operationsPerSecond = Double(figures.operations) / 1_000
            replicas = figures.replicas
            leads = figures.leaders
            slots = figures.slots
        }
    }
    struct Host: Encodable {
        var host: UInt64
        var name: String
        var address: String
        var zone: String
        var weight: UInt32
        var state: String
        var isUp: Bool
        var before: Figures
        var after: Figures
    }
    struct Group: Encodable {
        var group: UInt32
        var before: Figures
        var after: Figures
        /// As its leader has it.
        var stateBytes: UInt64?
        var memtableBytes: UInt64?
        /// Of sessions, and of slots that are moving.
        var otherBytes: UInt64?
        /// That operations were counted for.
        var seconds: UInt32?
        /// Why nothing was measured.
        var problem: String?
    }
    struct Step: Encodable {
        enum Kind: String, Encodable { case slots, replica, lead }
        var kind: Kind
        var group: UInt32
        var slots: [UInt16]?
        var toGroup: UInt32?
        var replica: UInt64?
        var fromHost: UInt64?
        var toHost: UInt64?
        var reason: String
        var bytes: UInt64
    }
    struct Unreached: Encodable {
        var host: UInt64?
        var group: UInt32?
        var zone: String?
        var why: String
    }
    var mapVersion: UInt64
    /// False: this is a plan.
    var carriedOut = false
    /// There is nothing to do, and all groups that serve said what they have.
    package var inBalance: Bool
    /// That the steps write, in all replicas.
    var bytes: UInt64
    /// For how long that takes, about.
    package private(set) var estimatedSeconds: UInt64 = 0
    var hosts: [Host]
    var groups: [Group]
    var steps: [Step]
    var unreached: [Unreached]
    /// Groups that serve, and did not say what they have.
    package var silentGroups: [UInt32]
    /// How often each step's bytes are written of what is copied.
    private var copies: [UInt64]

    private enum CodingKeys: String, CodingKey {
        case mapVersion, carriedOut, inBalance, bytes, estimatedSeconds, hosts, groups, steps, unreached, silentGroups
    }

    package init(_ plan: RebalancePlan, map: ClusterMap, down: [HostID], answers: [GroupAnswer]) {
        mapVersion = map.version
        // Who is stopped keeps what it has, and was not asked.
        silentGroups = answers.filter { $0.load == nil && !$0.isStopped }.map(\.group.rawValue)
        inBalance = plan.steps.isEmpty && silentGroups.isEmpty
        bytes = plan.bytes
        hosts = plan.hosts.compactMap { change in
            guard let host = map.hosts.first(where: { $0.id == change.host }) else { return nil }
            return Host(
                host: host.id.rawValue, name: host.name, address: host.address, zone: host.zone, weight: host.weight,
                state: host.state.word, isUp: !down.contains(host.id), before: Figures(change.before),
                after: Figures(change.after))
        }
        var rest = answers[...]
        groups = plan.groups.filter { $0.group != .meta }.map { change in
            while let first = rest.first, first.group < change.group { rest.removeFirst() }
            let answer = rest.first.flatMap { $0.group == change.group ? $0 : nil }
            return Group(
                group: change.group.rawValue, before: Figures(change.before), after: Figures(change.after),
                stateBytes: answer?.load?.stateBytes, memtableBytes: answer?.load?.memtableBytes,
                otherBytes: answer?.load?.otherBytes, seconds: answer?.load?.seconds,
                problem: answer?.failure?.message)
        }
        steps = plan.steps.map(Step.init)
        copies = plan.steps.map { step in
            guard case .slots(_, _, let target) = step.move else { return 1 }
            return UInt64(max(map.group(target)?.replicas.count ?? 1, 1))
        }
        unreached = plan.unreached.map { lack in
            switch lack.subject {
            case .host(let id): Unreached(host: id.rawValue, why: lack.why)
            case .group(let id): Unreached(group: id.rawValue, why: lack.why)
            case .zone(let name): Unreached(zone: name, why: lack.why)
            case .plan: Unreached(why: lack.why)
            }
        }
        estimate(by: Rebalancing.Limits())
    }

    // MARK: - Time

    /// What hosts of two cores wrote in a second for moves, and how long a step takes that writes next to nothing.
    private static let bytesPerSecond: UInt64 = 16 << 20
    private static let millisecondsPerStep: UInt64 = 300

    /// By limits that it is carried out with.
    package mutating func estimate(by limits: Rebalancing.Limits) {
        var (copied, written, slotSteps) = (UInt64(0), UInt64(0), UInt64(0))
        for (step, replicas) in zip(steps, copies) {
            written = written.addingClamped(step.bytes)
            guard step.kind == .slots else { continue }
            slotSteps += 1
            // Copied once, and written by each replica of the target.
            copied = copied.addingClamped(step.bytes / replicas)
        }
        let atOnce = UInt64(max(limits.concurrentMax, 1))
        let ways = UInt64(steps.count).multipliedReportingOverflow(by: Self.millisecondsPerStep).partialValue / atOnce
        var seconds = (ways / 1_000).addingClamped(written / Self.bytesPerSecond)
        if limits.bytesPerSecondMax > 0 { seconds = max(seconds, copied / limits.bytesPerSecondMax) }
        estimatedSeconds = steps.isEmpty ? 0 : max(seconds, 1)
    }

    // MARK: - Text

    package func text(steps isEachShown: Bool, note: String = "nothing is carried out") -> String {
        var lines = [heading(note)]
        lines.append(
            "\(HumanText.count(hosts.count, "host")), \(HumanText.count(groups.count, "group")), map version "
                + "\(mapVersion); bytes and operations per second as the groups' leaders measured them")
        let silent = groups.filter { $0.problem != nil }
        if !silent.isEmpty {
            lines.append("\(HumanText.count(silent.count, "group")) did not say, and count as the mean of the others:")
            lines += silent.prefix(Self.silentMax).map { "  \($0.problem ?? "")" }
            if silent.count > Self.silentMax { lines.append("  … and \(silent.count - Self.silentMax) more") }
        }
        lines.append(hostTable)
        if let groupTable { lines.append(groupTable) }
        if !steps.isEmpty { lines.append(isEachShown ? stepLines : summary) }
        if !unreached.isEmpty {
            lines.append(steps.isEmpty ? "out of bounds:" : "out of bounds with all of it done:")
            lines += unreached.map { "  \($0.subject)\($0.why)" }
        }
        return lines.joined(separator: "\n")
    }

    private static let silentMax = 8

    private func heading(_ note: String) -> String {
        if !steps.isEmpty {
            let time = HumanText.duration(milliseconds: min(estimatedSeconds, 1 << 40) * 1_000)
            return "a plan of \(HumanText.count(steps.count, "step")), to write \(HumanText.bytes(bytes)) in about "
                + "\(time); \(note)"
        }
        if !silentGroups.isEmpty { return "nobody can tell whether anything should move" }
        return unreached.isEmpty ? "in balance: nothing to do" : "in balance as far as it can be: nothing to do"
    }

    /// Why an empty plan does not mean that all is in balance, in words; nil: it does, or the plan is not empty.
    package var doubt: String? {
        guard steps.isEmpty, let last = silentGroups.last else { return nil }
        let shown = silentGroups.prefix(Self.silentMax).map { "\($0)" }.joined(separator: ", ")
        let names =
            silentGroups.count == 1
            ? "group \(last)"
            : "\(silentGroups.count) groups (\(shown)\(silentGroups.count > Self.silentMax ? ", …" : ""))"
        let away = hosts.filter { !$0.isUp }.map { "\($0.host)" }
        let why =
            away.count > 1
            ? "hosts \(away.dropLast().joined(separator: ", ")) and \(away[away.count - 1]) do not answer"
            : away.first.map { "host \($0) does not answer" } ?? "see 'bifrost status'"
        return "nobody can tell whether anything should move, as \(names) did not say what slots have: \(why)"
    }

    private var hostTable: String {
        var table = Table([
            ("host", .right), ("name", .left), ("weight", .right), ("replicas", .left), ("bytes", .left),
            ("leads", .left), ("operations/s", .left), ("state", .left),
        ])
        for host in hosts {
            func change(_ text: (Figures) -> String) -> String {
                let (before, after) = (text(host.before), text(host.after))
                return before == after ? before : "\(before) → \(after)"
            }
            table.add([
                "\(host.host)", host.name, "\(host.weight)", change { "\($0.replicas)" },
                change { HumanText.bytes($0.bytes) }, change { "\($0.leads)" },
                change { Self.rate($0.operationsPerSecond) },
                host.isUp ? host.state : "\(host.state), no answer",
            ])
        }
        return table.text
    }

    private static let groupsMax = 32

    /// Those that get something else to do; nil: none does.
    private var groupTable: String? {
        let changed = groups.filter { $0.before != $0.after }
        guard !changed.isEmpty else { return nil }
        var table = Table([
            ("group", .right), ("slots", .left), ("bytes", .left), ("operations/s", .left), ("replicas", .left),
        ])
        for group in changed.prefix(Self.groupsMax) {
            func change(_ text: (Figures) -> String) -> String {
                let (before, after) = (text(group.before), text(group.after))
                return before == after ? before : "\(before) → \(after)"
            }
            table.add([
                "\(group.group)", change { "\($0.slots)" }, change { HumanText.bytes($0.bytes) },
                change { Self.rate($0.operationsPerSecond) }, change { "\($0.replicas)" },
            ])
        }
        let more = changed.count - Self.groupsMax
        return more > 0 ? "\(table.text)\n  … and \(HumanText.count(more, "group")) more" : table.text
    }

    private static func rate(_ number: Double) -> String {
        number < 100 ? HumanText.fixed(number, 1) : HumanText.grouped(UInt64(number.rounded()))
    }

    /// Steps of a kind and for a reason, in the order of the first of them.
    private var summary: String {
        var sums: [(kind: Step.Kind, reason: String, count: Int, slots: Int, bytes: UInt64)] = []
        for step in steps {
            let known = sums.firstIndex { $0.kind == step.kind && $0.reason == step.reason }
            let place = known ?? sums.count
            if known == nil { sums.append((step.kind, step.reason, 0, 0, 0)) }
            sums[place].count += 1
            sums[place].slots += step.slots?.count ?? 0
            sums[place].bytes = sums[place].bytes.addingClamped(step.bytes)
        }
        var table = Table([("steps", .right), ("what", .left), ("writes", .right), ("why", .left)])
        for sum in sums {
            let what =
                switch sum.kind {
                case .slots: "\(HumanText.count(sum.slots, "slot")) to other groups"
                case .replica: "replicas to other hosts"
                case .lead: "leads to other hosts"
                }
            table.add(["\(sum.count)", what, HumanText.bytes(sum.bytes), sum.reason])
        }
        return table.text
    }

    private var stepLines: String {
        var table = Table([("step", .right), ("what", .left), ("writes", .right), ("why", .left)])
        for (place, step) in steps.enumerated() {
            table.add(["\(place + 1)", step.text, HumanText.bytes(step.bytes), step.reason])
        }
        return table.text
    }
}

extension RebalanceReport.Step {
    fileprivate init(_ step: RebalancePlan.Step) {
        self.init(step.move, step.reason, bytes: step.bytes)
    }

    init(_ move: RebalancePlan.Move, _ why: RebalancePlan.Reason, bytes: UInt64) {
        (reason, self.bytes) = (why.description, bytes)
        switch move {
        case .slots(let moving, let from, let to):
            (kind, group) = (.slots, from.rawValue)
            slots = moving.map(\.rawValue)
            toGroup = to.rawValue
        case .replica(let id, let moving, let from, let to):
            (kind, group) = (.replica, id.rawValue)
            replica = moving.rawValue
            (fromHost, toHost) = (from.rawValue, to.rawValue)
        case .leader(let id, let from, let to):
            (kind, group) = (.lead, id.rawValue)
            (fromHost, toHost) = (from.rawValue, to.rawValue)
        }
    }

    var text: String {
        func name(_ host: UInt64?) -> String { "host \(host ?? 0)" }
        let words = GroupID(group).words
        return switch kind {
        case .slots: "slots \(ranges) of \(words) to group \(toGroup ?? 0)"
        case .replica: "replica \(replica ?? 0) of \(words) from \(name(fromHost)) to \(name(toHost))"
        case .lead: "lead of \(words) from \(name(fromHost)) to \(name(toHost))"
        }
    }

    /// The first of them, as in 3, 8-11, 40; the rest as a number.
    private var ranges: String {
        var runs: [ClosedRange<UInt16>] = []
        for slot in slots ?? [] {
            if let last = runs.last, slot == last.upperBound + 1 {
                runs[runs.count - 1] = last.lowerBound...slot
            } else {
                runs.append(slot...slot)
            }
        }
        let shown = runs.prefix(Self.rangesMax)
        let rest = runs.dropFirst(Self.rangesMax).reduce(0) { $0 + $1.count }
        return shown.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
            .joined(separator: ", ") + (rest > 0 ? " and \(rest) more" : "")
    }

    private static let rangesMax = 8
}

extension RebalanceReport.Unreached {
    fileprivate var subject: String {
        if let host { return "host \(host): " }
        if let group { return "group \(group): " }
        if let zone { return "zone \(zone.isEmpty ? "-" : zone): " }
        return ""
    }
}
