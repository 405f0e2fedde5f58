// That the meta group keeps the balance by itself: within which limits, when it looks at all, and what it begins then. The
// pure part: who asks the groups for their loads, and how often, is the host's business (HostCore+AutoRebalancing).
//
//   something is on its way, or somebody is away ──► it waits, and says for what
//   all is calm ──► a look: loads ──► out of the wide bounds? ──► once more, some time later ──► a plan to the usual bounds

public import Primitives

/// The meta group's order to keep the balance by itself. There is one as long as it is on.
public struct AutoRebalancing: Hashable, Sendable {
    /// Of each rebalancing that it begins.
    public var limits: Rebalancing.Limits

    public init(limits: Rebalancing.Limits = Rebalancing.Limits()) { self.limits = limits }

    /// What is out of bounds by so much is planned for, to the bounds that a person's plan has: what comes inside by one plan
    /// is far from the next.
    public static let beginPercent = 20
    /// Looks one after the other that have to find something: what is measured of bytes falls with each merge.
    public static let looksMin = 2

    public static let formatVersion: UInt8 = 1

    /// `version u8 = 1 | limits`
    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        limits.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt8.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(
                expected: "an order to keep the balance of version \(Self.formatVersion)", found: "version \(version)")
        }
        limits = try Rebalancing.Limits(from: &reader)
    }
}

extension AutoRebalancing {
    /// Why nothing is looked at now; nil: all is calm. What is on its way changes loads by itself, and with a host away a
    /// plan would be one for a cluster that nobody wants to keep.
    ///
    /// - Parameter away: hosts that do not answer.
    public static func hindrance(_ map: ClusterMap, _ rebalancing: Rebalancing?, away: [HostID]) -> AutoWait? {
        if let rebalancing, !rebalancing.isOver { return .rebalancing(rebalancing.id) }
        // A save ends them, a recovery settles them: both are waited for like any other.
        if let migration = map.migrations.first { return .migration(migration.id) }
        if let group = map.groups.first(where: \.isMoving) { return .members(group.id) }
        if let host = map.hosts.first(where: { away.contains($0.id) }) { return .host(host.id) }
        return nil
    }

    /// The plan that is worth to be begun; nil: none is. To the rules' bounds, but only if something is out of the wide
    /// ones: a group or a host that is to have nothing or has nothing yet, zones, leads; or bytes, if evening them out
    /// writes `bytesMin`. Rates of operations are no part of it: they change from minute to minute, and what somebody has
    /// planned by them stays inside the bounds of bytes.
    ///
    /// Costs two plans.
    public static func plan(_ input: RebalanceInput, bytesMin: UInt64) -> RebalancePlan? {
        var input = input
        for place in input.loads.indices { input.loads[place].operations = 0 }
        var wide = input
        wide.rules.bytesPercent = max(beginPercent, input.rules.bytesPercent)
        wide.rules.leadersPercent = max(beginPercent, input.rules.leadersPercent)
        guard isWorth(Planner.rebalance(wide), input.map, bytesMin: bytesMin) else { return nil }
        let plan = Planner.rebalance(input)
        return plan.steps.isEmpty ? nil : plan
    }

    private static func isWorth(_ plan: RebalancePlan, _ map: ClusterMap, bytesMin: UInt64) -> Bool {
        var bytes: UInt64 = 0
        for step in plan.steps {
            switch step.reason {
            case .groupLeaves, .groupIsNew, .hostDrains, .hostHasNoWeight, .zones, .leads: return true
            // In a small cluster the others have too much, where a host has nothing yet.
            case .hostIsEmpty, .hostIsFull:
                if case .replica(_, _, _, let to) = step.move, map.replicas(on: to).isEmpty { return true }
            case .groupIsUneven: break
            }
            bytes = bytes.addingClamped(step.bytes)
        }
        return !plan.steps.isEmpty && bytes >= bytesMin
    }
}

/// What the meta group's leader waits for before it begins a rebalancing by itself. Printed as what stands behind "waits
/// for".
public enum AutoWait: Hashable, Sendable, CustomStringConvertible {
    /// It is under way, whoever began it.
    case rebalancing(RebalancingID)
    case migration(MigrationID)
    case members(GroupID)
    /// It does not answer.
    case host(HostID)
    /// Its leader has not said what its slots have.
    case load(GroupID)
    /// It leads for so short, or the last rebalancing is over for so short.
    case pause(seconds: UInt64)
    /// The last look found nothing to do.
    case imbalance(seconds: UInt64)
    /// The last look found something, the next one has to find it, too.
    case confirmation(seconds: UInt64)

    public var description: String {
        switch self {
        case .rebalancing(let id): "the end of rebalancing \(id)"
        case .migration(let id): "the end of migration \(id)"
        case .members(let group): "group \(group), whose members are changing"
        case .host(let host): "host \(host), which does not answer: start it, or drain and remove it"
        case .load(let group): "the leader of group \(group), which has to say what its slots have"
        case .pause(let seconds): "its next look, in about \(seconds) s"
        case .imbalance(let seconds): "loads out of bounds: the last look found none, the next is in about \(seconds) s"
        case .confirmation(let seconds):
            "another look that finds loads out of bounds as the last one did, in about \(seconds) s"
        }
    }

    /// `kind u8 | number u64`
    public func encode(into writer: inout ByteWriter) {
        func write(_ kind: UInt8, _ number: UInt64) {
            writer.write(kind)
            writer.write(number)
        }
        switch self {
        case .rebalancing(let id): write(1, id.rawValue)
        case .migration(let id): write(2, id.rawValue)
        case .members(let group): write(3, UInt64(group.rawValue))
        case .host(let host): write(4, host.rawValue)
        case .load(let group): write(5, UInt64(group.rawValue))
        case .pause(let seconds): write(6, seconds)
        case .imbalance(let seconds): write(7, seconds)
        case .confirmation(let seconds): write(8, seconds)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let (kind, number) = (try reader.read(UInt8.self), try reader.read(UInt64.self))
        switch kind {
        case 1: self = .rebalancing(RebalancingID(number))
        case 2: self = .migration(MigrationID(number))
        case 3: self = .members(GroupID(UInt32(truncatingIfNeeded: number)))
        case 4: self = .host(HostID(number))
        case 5: self = .load(GroupID(UInt32(truncatingIfNeeded: number)))
        case 6: self = .pause(seconds: number)
        case 7: self = .imbalance(seconds: number)
        case 8: self = .confirmation(seconds: number)
        default: throw DecodingFailure(expected: "what a look waits for, 1 to 8", found: "kind \(kind)")
        }
    }
}
