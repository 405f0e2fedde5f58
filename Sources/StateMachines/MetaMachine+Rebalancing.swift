// What commands about rebalancing do in the meta group: a plan is begun, set otherwise, and its steps are written down. A
// step's beginning is one with its change of the map: no crash comes between. Owns the records; which step's turn it is
// says Rebalancing+Driving.

import Messages
import Primitives
public import Ring

/// What is to be carried out, and what it was planned for.
public struct RebalancingPlan: Hashable, Sendable {
    /// Of whoever sends it, and another one for each plan: sent again, it is the same.
    public var token: UInt64
    public var mapVersion: UInt64
    /// `Rebalancing.ground` of the steps in that version.
    public var ground: UInt64
    public var limits: Rebalancing.Limits
    /// Of the meta group's leader, which keeps the balance by itself; refused where it is not to.
    public var isAutomatic: Bool
    public var steps: [Rebalancing.Step]

    /// - Parameter map: that the steps were planned for.
    public init(
        token: UInt64, steps: [Rebalancing.Step], for map: ClusterMap, limits: Rebalancing.Limits,
        isAutomatic: Bool = false
    ) {
        self.token = token
        self.isAutomatic = isAutomatic
        mapVersion = map.version
        ground = Rebalancing.ground(of: steps, in: map)
        self.limits = limits
        self.steps = steps
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(token)
        writer.write(mapVersion)
        writer.write(ground)
        limits.encode(into: &writer)
        writer.write(isAutomatic)
        writer.write(UInt32(steps.count))
        for step in steps { step.encode(into: &writer) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        token = try reader.read()
        mapVersion = try reader.read()
        ground = try reader.read()
        limits = try Rebalancing.Limits(from: &reader)
        isAutomatic = try reader.readBool()
        let count = Int(try reader.read(UInt32.self))
        guard count > 0, count <= Rebalancing.stepsMax else {
            throw DecodingFailure(expected: "1 to \(Rebalancing.stepsMax) steps", found: "\(count)")
        }
        steps = []
        for _ in 0..<count { steps.append(try Rebalancing.Step(from: &reader)) }
    }
}

extension Rebalancing {
    /// The change of the map that a step begins with; nil: what it names is not there.
    package func change(of place: Int, in map: ClusterMap) -> MapChange? {
        switch steps[place].move {
        case .slots(let slots, let from, let to): return .migrate(slots, from: from, to: to, limits: limits.ofMigration)
        case .replica(let group, let replica, _, let to):
            guard let old = map.group(group)?.record(of: replica), old.isWanted else { return nil }
            return .addReplica(group, host: to, role: old.role, successorOf: replica)
        case .leader(let group, _, let to):
            guard let replica = map.group(group)?.replica(on: to) else { return nil }
            return .preferLeader(group, replica)
        }
    }
}

extension MetaMachine {
    static func rebalancingRefusal(_ map: ClusterMap) -> Refusal? {
        guard map.featureLevel < FeatureLevel.migrations else { return nil }
        return .invalid(
            "the cluster uses feature level \(map.featureLevel), and rebalancing needs \(FeatureLevel.migrations): "
                + "upgrade all hosts, then raise the level")
    }

    /// A group that slots are to come to, or to leave, stays until the rebalancing is over: without it the step would fail.
    ///
    /// The leader's host asks before it proposes. It is no part of what a replica does with an entry: one of an earlier
    /// version would apply the same entry otherwise. So one that was proposed just before the rebalancing began still takes
    /// effect, and the step fails with that.
    func rebalancingRefusal(of change: MapChange) -> Refusal? {
        guard case .deleteGroup(let group) = change, let rebalancing,
            let place = rebalancing.steps.firstIndex(where: { step in
                guard !step.isOver, case .slots(_, let from, let to) = step.move else { return false }
                return from == group || to == group
            })
        else { return nil }
        return .invalid(
            "group \(group)\(Self.rebalancingWords) \(rebalancing.id), whose step \(place + 1) moves slots there or from there: "
                + "wait until it is over, or end it with 'bifrost rebalance cancel'")
    }

    private static var rebalancingWords: String { " is part of rebalancing" }

    /// Whether a change was refused for the rebalancing that stands beside the map: no later map tells why.
    public static func isRefusalByRebalancing(_ text: String) -> Bool { text.contains(rebalancingWords) }

    /// Of the rebalancing that the command was about.
    private func outcome(_ id: RebalancingID) -> Bytes {
        MetaOutcome(mapVersion: id.rawValue).encoded()
    }

    mutating func begin(_ plan: RebalancingPlan) -> Effect {
        guard let map else { return .refused(.invalid("there is no cluster yet")) }
        if let refusal = Self.rebalancingRefusal(map) { return .refused(refusal) }
        if plan.isAutomatic, auto == nil {
            return .refused(.invalid("the cluster is not to rebalance by itself"))
        }
        if let rebalancing, rebalancing.token == plan.token { return .done([], outcome(rebalancing.id)) }
        if let rebalancing, !rebalancing.isOver {
            return .refused(
                .invalid(
                    "rebalancing \(rebalancing.id) is under way: wait until it is over, or cancel it"))
        }
        // Whatever it says of how far they are, they begin here.
        let steps = plan.steps.map { Rebalancing.Step($0.move, $0.reason, bytes: $0.bytes) }
        if let problem = plan.limits.problem ?? Rebalancing.problem(of: steps) { return .refused(.invalid(problem)) }
        guard plan.mapVersion == map.version || plan.ground == Rebalancing.ground(of: steps, in: map) else {
            return .refused(
                .invalid(
                    "\(Rebalancing.staleWord): it was made for version \(plan.mapVersion) of the map, and what it moves has "
                        + "changed since; the map has version \(map.version) by now"))
        }
        let id = RebalancingID(max(map.version, (rebalancing?.id.rawValue ?? 0) + 1))
        guard id.rawValue < ClusterMap.counterMax else {
            return .refused(.invalid("numbers of rebalancing are used up"))
        }
        let old = rebalancing
        let new = Rebalancing(
            id: id, token: plan.token, plannedVersion: plan.mapVersion, limits: plan.limits,
            isAutomatic: plan.isAutomatic, steps: steps)
        rebalancing = new
        return .done(Self.records(of: new, changedFrom: old), outcome(id))
    }

    mutating func set(_ id: RebalancingID, _ wish: Rebalancing.Wish) -> Effect {
        guard let old = rebalancing, old.id == id else {
            return .refused(.invalid("there is no rebalancing \(id): it was followed by another, or never was"))
        }
        if case .limits(let limits) = wish, let problem = limits.problem { return .refused(.invalid(problem)) }
        var records: [MetaRecord] = []
        if case .cancel = wish {
            // Whoever calls it off does not want the next one either.
            records = Self.records(of: nil, changedFrom: auto)
            auto = nil
        }
        var new = old
        guard !old.isOver, new.take(wish) else {
            // Of one that is over the rest does not matter.
            return .done(records, outcome(id))
        }
        rebalancing = new
        return .done(records + Self.records(of: new, changedFrom: old), outcome(id))
    }

    /// From now on the meta group keeps the balance by itself, or not any more; what is under way goes on.
    mutating func set(_ new: AutoRebalancing?) -> Effect {
        guard let map else { return .refused(.invalid("there is no cluster yet")) }
        if let refusal = Self.rebalancingRefusal(map) { return .refused(refusal) }
        if let problem = new?.limits.problem { return .refused(.invalid(problem)) }
        let old = auto
        auto = new
        return .done(Self.records(of: new, changedFrom: old), MetaOutcome(mapVersion: map.version).encoded())
    }

    /// Which step's turn it is was decided at the end of this log: what comes late finds the step elsewhere, and does nothing.
    mutating func take(_ report: Rebalancing.Report, of step: UInt32, _ id: RebalancingID) -> Effect {
        guard let map, let old = rebalancing, old.id == id, Int(step) < old.steps.count else {
            return .refused(.invalid("there is no step \(UInt64(step) + 1) of a rebalancing \(id)"))
        }
        let place = Int(step)
        var new = old
        var records: [MetaRecord] = []
        if case .begun = report {
            guard old.steps[place].state == .waiting else { return .done([], outcome(id)) }
            guard let change = old.change(of: place, in: map) else {
                return .refused(.invalid("what step \(place + 1) moves is not there"))
            }
            do throws(Refusal) {
                let edit = try change.edit(map, expecting: 0)
                let begun: UInt64
                switch edit.part {
                case .migration(let migration): begun = migration.id.rawValue
                default: begun = edit.replica.rawValue
                }
                guard new.take(report, of: place, begun: begun) else { return .done([], outcome(id)) }
                records = changed(by: edit).records
            } catch {
                return .refused(error)
            }
        } else {
            guard new.take(report, of: place) else { return .done([], outcome(id)) }
        }
        rebalancing = new
        return .done(records + Self.records(of: new, changedFrom: old), outcome(id))
    }

    /// Where a migration is called off for a cause that passes, the step that began it says so in the same entry: before both
    /// groups have forgotten the migration, and with it the map.
    mutating func noteLostTime(_ edit: MapEdit) -> [MetaRecord] {
        guard case .migration(let migration) = edit.part, migration.state == .aborting, let old = rebalancing else {
            return []
        }
        var new = old
        guard new.note(migration) else { return [] }
        rebalancing = new
        return Self.records(of: new, changedFrom: old)
    }

    // MARK: - Records

    static var rebalancingKey: Bytes { "rebalancing" }
    static var stepPrefix: Bytes { "rebalancing/" }
    static var autoKey: Bytes { "rebalancing-auto" }

    static func records(of new: AutoRebalancing?, changedFrom old: AutoRebalancing?) -> [MetaRecord] {
        guard new != old else { return [] }
        guard let new else { return [MetaRecord(key: autoKey, value: nil)] }
        return [record(autoKey) { new.encode(into: &$0) }]
    }

    /// The records in which a rebalancing differs from the one before, in a fixed order.
    static func records(of new: Rebalancing?, changedFrom old: Rebalancing?) -> [MetaRecord] {
        var records: [MetaRecord] = []
        if let new {
            var (head, oldHead) = (new, old)
            head.steps = []
            oldHead?.steps = []
            if head != oldHead || new.steps.count != old?.steps.count {
                records.append(record(rebalancingKey) { new.encodeHead(into: &$0) })
            }
        } else if old != nil {
            records.append(MetaRecord(key: rebalancingKey, value: nil))
        }
        let (steps, before) = (new?.steps ?? [], old?.steps ?? [])
        for (place, step) in steps.enumerated() where place >= before.count || before[place] != step {
            records.append(record(stepKey(place)) { step.encode(into: &$0) })
        }
        for place in steps.count..<max(steps.count, before.count) {
            records.append(MetaRecord(key: stepKey(place), value: nil))
        }
        return records
    }

    static func stepKey(_ place: Int) -> Bytes { key(stepPrefix, UInt32(place).bigEndian) }
}

/// A rebalancing whose records come one by one, in any order.
struct RestoredRebalancing {
    private var head: (head: Rebalancing, steps: Int)?
    private var steps: [(place: Int, step: Rebalancing.Step)] = []

    /// False: it is another one's record.
    mutating func take(_ key: Bytes, _ reader: inout ByteReader) throws(DecodingFailure) -> Bool {
        let prefix = MetaMachine.stepPrefix
        if key == MetaMachine.rebalancingKey {
            head = try Rebalancing.readHead(&reader)
            return true
        }
        guard key.count == prefix.count + 4, key[0..<prefix.count] == prefix else { return false }
        var number = ByteReader(key[prefix.count..<key.count])
        let place = Int(UInt32(bigEndian: try number.read()))
        steps.append((place, try Rebalancing.Step(from: &reader)))
        return true
    }

    func finish() throws(DecodingFailure) -> Rebalancing? {
        guard let head else {
            guard steps.isEmpty else {
                throw DecodingFailure(expected: "a rebalancing's head", found: "\(steps.count) steps without it")
            }
            return nil
        }
        let sorted = steps.sorted { $0.place < $1.place }
        guard sorted.count == head.steps, sorted.enumerated().allSatisfy({ $0.offset == $0.element.place }) else {
            throw DecodingFailure(expected: "\(head.steps) steps of a rebalancing", found: "\(sorted.count), or others")
        }
        return try Rebalancing(head: head.head, steps: sorted.map(\.step))
    }
}
