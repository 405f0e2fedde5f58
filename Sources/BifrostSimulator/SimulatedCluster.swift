// A whole cluster in one thread: hosts, clients, network, disks and time, all from one seed. Owns the order of events
// and what is true of the cluster as a whole; the phases of a run stand in +Phases, the decisions are those of the
// production modules.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage

/// One run. Make it, call `run`, look at `operations`.
public final class SimulatedCluster {
    public let settings: SimulationSettings
    let world: SimulatedWorld
    /// The newest that any host goes by.
    private(set) var map: ClusterMap
    // Unchecked: they do not change once they are made, and are looked at with every event.
    @exclusivity(unchecked) private(set) var hosts: [SimulatedHost] = []
    private(set) var clients: [SimulatedClient] = []
    private(set) var administrator: SimulatedOperator?
    private(set) var network: SimulatedNetwork!
    @exclusivity(unchecked) private(set) var peerLinks: [SimulatedPeerLink] = []
    private(set) var invariants: Invariants!
    /// A program with its own state machines; nil: there is none.
    let workload: (any SimulatedWorkload)?
    /// Uses Bifrost's data types; nil: nobody does.
    private(set) var dataTypes: DataTypeWorkload?
    let keys: [Bytes]
    let keyNumbers: [Bytes: Int]

    /// Clients go on submitting.
    var isLoadOn = true
    /// Pieces of states that hosts got from each other.
    var snapshotPiecesTaken = 0
    /// When the phase under way ends.
    private(set) var passEnd: UInt64 = 0
    /// Raised when faults begin, so that what was left to do in an earlier spell is told.
    var spell = 0
    /// Operations acknowledged in each virtual second.
    var acknowledgedInSecond: [Int] = []
    var acknowledged = 0
    /// By key.
    var openOperations: [Int]
    /// What clients did, in the order of calls; reads of the end included.
    public internal(set) var operations: [SimulatedOperation] = []
    /// Whose each command is that was ever sent, and how often each operation took effect.
    var commands: [CommandName: Int] = [:]
    var effects: [Int: Int] = [:]
    var nextSequence: UInt64 = 1
    /// By key: the value and the revision that some client saw last.
    var seen: [(value: Bytes?, revision: UInt64?)] = []
    /// Keys with times to live.
    var leases: [SimulatedLease] = []
    var watches: [SimulatedWatch] = []
    /// Of groups that are read back.
    var pagesRead = 0
    /// Written once, and read back with `keys`.
    var otherKeys: [Bytes] = []
    /// The run is a cell of the crash matrix; nil: it is none.
    var migration: SimulatedMigration?

    /// - Parameters:
    ///   - workload: of a user; nil: the seed says whether there is one.
    ///   - adjust: changes what the seed drew.
    package init(
        seed: UInt64, settings: SimulationSettings = SimulationSettings(), workload: (any SimulatedWorkload)? = nil,
        adjust: (inout SimulatedPlan) -> Void = { _ in }
    ) {
        self.settings = settings
        var random = SeededRandom(seed: mix(seed))
        var plan = SimulatedPlan(settings, random: &random)
        if workload != nil { plan.machinePercent = SimulatedPlan.machinePercentOfUsers }
        adjust(&plan)
        self.workload =
            workload
            ?? (plan.machinePercent > 0
                ? BankWorkload(
                    postDates: plan.featureLevels.isEmpty, delayMillisecondsMax: plan.delayMillisecondsMax,
                    slotsMove: plan.migrationPercent > 0) : nil)
        if let machines = self.workload?.machines { plan.settings.machines = machines }
        world = SimulatedWorld(seed: seed, plan: plan, random: random)
        let members = plan.hosts - plan.joiners
        let records = (0..<members).map { place in
            HostRecord(
                id: HostID(UInt64(place + 1)), name: "host\(place + 1)", address: Self.address(of: place),
                incarnation: Self.incarnation(of: place), featureLevel: plan.featureLevel(of: place))
        }
        do {
            map = try Planner.firstMap(
                cluster: ClusterID(high: 1, low: seed | 1), hosts: records, groups: plan.groups,
                replicas: plan.replicas,
                featureLevel: plan.featureLevels.isEmpty
                    ? plan.newestLevel : FeatureLevel.ofNewMap(hosts: records.map(\.featureLevel)))
        } catch { preconditionFailure("no map: \(error)") }
        keys = (0..<plan.keys).map { number in
            plan.scanPercent > 0 && number % 4 < 2 ? Bytes("\(Self.tags[number % 2])\(number)") : Bytes("key \(number)")
        }
        keyNumbers = Dictionary(uniqueKeysWithValues: keys.enumerated().map { ($0.element, $0.offset) })
        seen = Array(repeating: (nil, nil), count: plan.keys)
        openOperations = Array(repeating: 0, count: keys.count)
        invariants = Invariants(cluster: self)
        network = SimulatedNetwork(world: world, count: plan.hosts + plan.clients)
        hosts = (0..<plan.hosts).map { SimulatedHost(cluster: self, place: $0, id: HostID(UInt64($0 + 1)), map: map) }
        for channel in PeerChannel.allCases {
            for from in hosts.indices {
                for to in hosts.indices where to != from {
                    peerLinks.append(
                        SimulatedPeerLink(cluster: self, from: from, to: to, over: channel, number: peerLinks.count))
                }
            }
        }
        clients = (0..<plan.clients).map { SimulatedClient(cluster: self, place: $0) }
        if plan.dataTypePercent > 0 {
            dataTypes = DataTypeWorkload(slotsMove: plan.migrationPercent > 0) { [unowned self] name in
                map.owner(of: slot(of: name)) ?? .meta
            }
            dataTypes?.isTakenForHeld = { [unowned self] id, slot in
                clients.contains { $0.takesForHeld(id, in: slot) }
            }
        }
        if plan.operatorPauseNanosecondsMax > 0 { administrator = SimulatedOperator(cluster: self, members: members) }
    }

    /// What somebody writes: where slots move, these go on a journey.
    var writtenKeys: [Bytes] {
        keys + (dataTypes == nil ? [] : DataTypeWorkload.names)
            + (workload is BankWorkload ? (0..<BankWorkload.banks).map { Bank.book(of: UInt64($0)) } : [])
    }

    static func address(of place: Int) -> String { "10.0.0.\(place + 1):7000" }
    static func incarnation(of place: Int) -> Incarnation { Incarnation(UInt64(place + 1) * 1_000_003) }

    /// - Parameter workload: a program with its own state machines, which has a good part of the load.
    public convenience init(
        seed: UInt64, settings: SimulationSettings = SimulationSettings(), workload: (any SimulatedWorkload)? = nil
    ) {
        self.init(seed: seed, settings: settings, workload: workload, adjust: { _ in })
    }

    public var seed: UInt64 { world.seed }
    package var plan: SimulatedPlan { world.plan }

    /// Each event as a line, as it happens.
    public var listener: ((String) -> Void)? {
        get { world.listener }
        set { world.listener = newValue }
    }

    /// For whoever reports a trap: a precondition in production code ends the process.
    public var lastEvents: SimulationLastEvents { world.trace.last }

    // MARK: Time

    var now: UInt64 { world.now }
    var random: SeededRandom {
        get { world.random }
        set { world.random = newValue }
    }
    var areFaultsOn: Bool {
        get { world.areFaultsOn }
        set { world.areFaultsOn = newValue }
    }
    var report: SimulationReport {
        get { world.report }
        set { world.report = newValue }
    }
    var failure: SimulationFailure? { world.failure }

    func schedule(
        after delay: UInt64, _ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0, _ action: @escaping () -> Void
    ) {
        world.schedule(after: delay, name, a, b, action)
    }

    func note(_ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, _ d: UInt64 = 0) {
        world.note(name, a, b, c, d)
    }

    func mark(_ mark: SimulationMark) { world.mark(mark) }
    func fail(_ invariant: String, _ detail: String) { world.fail(invariant, detail) }

    /// Lets time pass until `isDone`, at most for so long. Whether it was done.
    @discardableResult
    func pass(_ nanosecondsMax: UInt64, until isDone: () -> Bool = { false }) throws(SimulationFailure) -> Bool {
        let end = now + nanosecondsMax
        passEnd = end
        var nextLook = now
        while let time = world.nextTime(until: end) {
            if time >= nextLook {
                if isDone() { return true }
                nextLook = time + 20_000_000
            }
            carryOutNext()
            if let failure { throw failure }
        }
        world.goOn(to: max(now, end))
        return isDone()
    }

    private func carryOutNext() {
        let event = world.takeEvent()
        if event.process.isNone { event.action() } else { hosts[Int(event.a)].carryOut(event) }
    }

    /// Lets time pass within an event, for what takes long while other things happen: as long as it goes on, and at most
    /// to where the phase under way ends.
    func pass(within nanoseconds: UInt64, while isGoingOn: () -> Bool) {
        let end = max(now, min(now + nanoseconds, passEnd))
        while isGoingOn(), failure == nil, world.nextTime(until: end) != nil { carryOutNext() }
        if isGoingOn() { world.goOn(to: max(now, end)) }
    }

    func expect(_ isTrue: Bool, _ invariant: String, _ detail: @autoclosure () -> String)
        throws(SimulationFailure)
    {
        if !isTrue { fail(invariant, detail()) }
        if let failure { throw failure }
    }

    // MARK: State

    /// Every group has one leader with a committed entry of its term, and all members on sound hosts follow it.
    var hasLeaders: Bool {
        map.groups.allSatisfy { group in
            guard let leader = inspections(of: group).first(where: { $0.isEstablished }) else { return false }
            // What is still to come or to go follows nobody yet, or nobody any more.
            guard group.isSettled else { return true }
            let sound = soundInspections(of: group)
            return sound.count >= group.replicas.count(where: { !hosts[place(of: $0.host)].isRotten })
                && sound.allSatisfy { $0.term == leader.term && $0.leader == leader.replica }
        }
    }

    var isConverged: Bool {
        map.groups.allSatisfy { group in
            let sound = soundInspections(of: group)
            return sound.allSatisfy {
                $0.applied == sound[0].applied && $0.digest == sound[0].digest && $0.applied == $0.last
            }
        }
    }

    /// What sound replicas have not applied of the longest log of their group, all together.
    var entriesBehind: Int {
        map.groups.reduce(0) { sum, group in
            let sound = soundInspections(of: group)
            let last = sound.map(\.last).max() ?? .zero
            return sum + sound.reduce(0) { $0 + (last - $1.applied) }
        }
    }

    /// Lost hosts and mute replicas keep nobody awake; a replica that nobody told that it is out does not rest.
    var isAtRest: Bool { hosts.reduce(0) { $0 + $1.activeCount } <= strays.count(where: \.isActive) }

    /// Each group has the members that are wanted, but for those on lost hosts, and no host is on its way out.
    var isSettled: Bool {
        map.hosts.allSatisfy { $0.state == .active } && map.featureLevel == world.plan.newestLevel
            && map.migrations.isEmpty && rebalancing?.isOver ?? true && !keepsBalance
            && map.groups.allSatisfy { $0.replicas.allSatisfy { $0.isSettled || hosts[place(of: $0.host)].isLost } }
            && Planner.moves(map, movesMax: .max).steps.allSatisfy { MapChange($0).refusal(by: map) != nil }
    }

    /// Some leader of the meta group is told to keep the balance by itself.
    var keepsBalance: Bool {
        hosts.contains { host in
            guard host.isRunning else { return false }
            switch host.loops.first?.core.rebalancingReply() {
            case .nothing(let auto)?: return auto != nil
            case .there(let standing)?: return standing.auto != nil
            default: return false
            }
        }
    }

    /// The newest that a leader of the meta group has.
    var rebalancing: Rebalancing? {
        hosts.compactMap { host -> Rebalancing? in
            guard host.isRunning, case .there(let standing)? = host.loops.first?.core.rebalancingReply() else {
                return nil
            }
            return standing.rebalancing
        }.max { $0.id < $1.id }
    }

    /// What a damaged log has promised nobody can give back: such a replica is replaced under a new id.
    var damagedLogs: [ReplicaInspection] {
        map.groups.flatMap { inspections(of: $0) }.filter(\.isLogDamaged)
    }

    /// All else is mended from others.
    private func soundInspections(of group: GroupRecord) -> [ReplicaInspection] {
        inspections(of: group).filter { !$0.isLogDamaged }
    }

    func inspections(of group: GroupRecord) -> [ReplicaInspection] {
        group.replicas.compactMap { record in
            let inspection = hosts[place(of: record.host)].inspection(of: group.id)
            return inspection?.replica == record.id ? inspection : nil
        }
    }

    func describeReplicas() -> String {
        (map.groups.map { describe($0) } + strays.map { "no map has \($0)" }
            + map.hosts.filter { $0.state == .draining }.map { "host \($0.id) drains" }
            + map.migrations.map {
                "migration \($0.id) of \($0.slots.count) slots, \($0.source) to \($0.target), is \($0.state)"
            }
            + (keepsBalance ? ["the cluster keeps the balance by itself"] : [])
            + (rebalancing.map { $0.isOver ? [] : ["rebalancing \($0.id): \($0.steps.filter { !$0.isOver })"] } ?? [])
            + ["feature level \(map.featureLevel), of hosts \(map.hosts.map(\.featureLevel))"]).joined(separator: "\n")
    }

    /// Replicas that the map does not name, and that are still there.
    var strays: [ReplicaInspection] {
        hosts.filter { $0.isRunning }.flatMap { host in
            host.inspections().filter { map.group($0.group)?.host(of: $0.replica) != host.id }
        }
    }

    private func describe(_ group: GroupRecord) -> String {
        "group \(group.id)\(group.replicas.compactMap(\.openWork).map { " (\($0))" }.joined()), \(invariants.describeConfigurations(group.id)): "
            + inspections(of: group).map {
                "\($0.replica) \($0.role) term \($0.term) leader \($0.leader) \($0.manifestIndex)/\($0.applied)/\($0.commit)/\($0.last)"
                    + "\($0.isActive ? " active" : "")\($0.waitingCalls > 0 ? " calls \($0.waitingCalls)" : "")"
            }.joined(separator: ", ")
    }

    // MARK: Members

    func adopted(_ host: SimulatedHost, _ newer: ClusterMap) {
        invariants.adopted(host, newer)
        guard newer.version > map.version else { return }
        if map.groups.contains(where: { newer.group($0.id) == nil }) { mark(.groupDeleted) }
        map = newer
        migration?.adopted(newer)
    }

    /// A host that was removed from the map.
    func retire(_ place: Int) {
        mark(.hostRemoved)
        hosts[place].retire()
    }

    // MARK: Finding

    func place(of host: HostID) -> Int { Int(host.rawValue) - 1 }

    func peerLink(from: Int, to: Int, over channel: PeerChannel) -> SimulatedPeerLink {
        let place = from * (plan.hosts - 1) + (to > from ? to - 1 : to)
        return peerLinks[Int(channel.rawValue) * plan.hosts * (plan.hosts - 1) + place]
    }
}
