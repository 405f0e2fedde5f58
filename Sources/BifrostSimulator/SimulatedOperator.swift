// Whoever changes the cluster while it serves: replicas come, go and change their roles, leadership is handed over,
// groups are made and deleted, hosts join, drain and are removed. Draws what is asked for; judges nothing.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines

final class SimulatedOperator {
    // It owns this, and outlives it.
    private unowned(unsafe) let cluster: SimulatedCluster
    private let world: SimulatedWorld
    /// What the operator last looked at; often not the newest.
    private var map: ClusterMap
    /// The host that was said to lead the meta group.
    private var leader: HostID?
    /// Hosts from here on have not joined yet: they join in order, so that a host's place tells its id.
    private var nextJoiner: Int
    private var isJoining = false
    /// Nothing new is asked for any more.
    private var isSettling = false
    /// Requests that nobody has answered, and that he still waits for.
    private(set) var asksOpen = 0
    private static let attemptsMax = 12
    /// The last one that the cluster began by itself, as far as he saw.
    private var lastAutomatic = RebalancingID.none

    init(cluster: SimulatedCluster, members: Int) {
        self.cluster = cluster
        world = cluster.world
        map = cluster.map
        nextJoiner = members
    }

    func start() { scheduleNext() }

    private func scheduleNext() {
        let pause = world.plan.operatorPauseNanosecondsMax
        world.schedule(after: pause / 8 + world.random.below(pause), "the operator looks at the cluster") {
            [unowned self] in
            guard cluster.areFaultsOn else { return }
            if world.random.below(8) != 0 { map = cluster.map }
            if let present = cluster.rebalancing, present.isAutomatic, present.id != lastAutomatic {
                lastAutomatic = present.id
                world.mark(.balancedByItself)
            }
            act()
            scheduleNext()
        }
    }

    private func below(_ count: Int) -> Int { Int(world.random.below(UInt64(count))) }

    private func any<Element>(_ elements: [Element]) -> Element? {
        elements.isEmpty ? nil : elements[below(elements.count)]
    }

    // MARK: What is asked for

    private func act() {
        // Hosts that are empty are few: the rest of the draws would let most of them come back first.
        if below(2) == 0, removeHost() { return }
        if map.featureLevel < world.plan.newestLevel, below(4) == 0 { return raiseLevel() }
        if world.plan.rebalancePercent > 0, world.random.below(100) < world.plan.rebalancePercent { return rebalance() }
        if world.random.below(100) < world.plan.migrationPercent { return migrate() }
        guard let group = any(map.groups) else { return }
        let active = map.hosts.filter { $0.state == .active }
        let free = active.filter { group.replica(on: $0.id) == nil }
        let wanted = group.replicas.filter(\.isWanted)
        switch below(100) {
        case ..<24:
            guard let old = any(wanted), let host = any(free) else { return }
            submit(.addReplica(group.id, host: host.id, role: old.role, successorOf: old.id))
        case ..<38:
            guard group.replicas.count < active.count, let host = any(free) else { return }
            submit(
                .addReplica(group.id, host: host.id, role: below(3) == 0 ? .learner : .voter, successorOf: .none))
        case ..<52:
            // Seldom down to a single voter.
            guard wanted.count(where: { $0.role == .voter }) > 2 || below(4) == 0, let old = any(wanted) else { return }
            submit(.setRole(group.id, old.id, .leaving))
        case ..<60:
            guard let replica = any(wanted) else { return }
            submit(.setRole(group.id, replica.id, replica.role == .voter ? .learner : .voter))
        case ..<68: drainOrNot(active)
        case ..<74: createGroup(active)
        case ..<79:
            guard let group = any(map.dataGroups.filter { $0.id.rawValue > UInt32(world.plan.groups) }) else { return }
            submit(.deleteGroup(group.id))
        case ..<84:
            guard let old = any(wanted.filter { $0.role == .voter }) else { return }
            submit(.replaceReplica(group.id, old.id))
        case ..<94:
            guard let target = below(3) == 0 ? ReplicaID.none : any(group.replicas)?.id else { return }
            transfer(group, to: target)
        case ..<97:
            guard let replica = any(wanted) else { return }
            submit(.preferLeader(group.id, replica.id))
        default: join()
        }
    }

    private func createGroup(_ active: [HostRecord]) {
        guard map.groups.count < world.plan.groups + 4 else { return }
        let hosts = active.map(\.id).filter { _ in below(2) == 0 }
        guard !hosts.isEmpty else { return }
        submit(.createGroup(weight: 100, hosts: Array(hosts.prefix(5)), preferred: UInt8(below(min(hosts.count, 5)))))
    }

    /// Some slots go from one group to another, or what is under way is called off.
    private func migrate() {
        if below(6) == 0, let migration = any(map.migrations) { return submit(.abortMigration(migration.id)) }
        guard let source = any(map.dataGroups)?.id, let target = any(map.dataGroups.filter { $0.id != source })?.id
        else {
            return
        }
        // Those of keys that somebody writes, mostly, and a few beside.
        let keys = cluster.writtenKeys.map { Ring.slot(of: $0) }.filter { map.owner(of: $0) == source }
        var slots = Set(keys.filter { _ in below(3) == 0 })
        let all = map.ring.slots(of: source)
        for _ in 0..<below(4) { if let slot = any(all) { slots.insert(slot) } }
        guard !slots.isEmpty else { return }
        submit(.migrate(slots.sorted(), from: source, to: target))
    }

    /// A plan is begun for loads that are drawn, often for a map that is not the newest; what is under way is paused, goes
    /// on, gets other limits, or is called off.
    private func rebalance() {
        if world.plan.autoPercent > 0, world.random.below(100) < world.plan.autoPercent {
            return balance()
        }
        if let present = cluster.rebalancing, !present.isOver {
            let wish: Rebalancing.Wish =
                switch below(10) {
                case ..<2: .pause
                case 2: .cancel
                case ..<5: .limits(limits())
                default: .resume
                }
            return submit(.setRebalancing(present.id, wish))
        }
        // Beside a cluster that does it by itself, seldom: it waits for what others have begun.
        if cluster.keepsBalance, below(4) > 0 { return }
        let loads = cluster.keys.map { key in
            RebalanceInput.SlotLoad(
                slot: Ring.slot(of: key), bytes: 1 + world.random.below(1 << 22), operations: world.random.below(100))
        }
        var rules = RebalanceInput.Rules()
        rules.bytesPercent = below(30)
        rules.slotOverheadBytes = 1
        let plan = Planner.rebalance(RebalanceInput(map: map, loads: loads, rules: rules))
        var (steps, _) = Rebalancing.steps(of: plan, bytesMax: 60_000)
        // Not all of it, mostly: the next plan finds something, too.
        if below(4) > 0 { steps = Array(steps.prefix(1 + below(12))) }
        guard !steps.isEmpty else { return }
        submit(
            .beginRebalancing(
                RebalancingPlan(token: world.random.next() | 1, steps: steps, for: map, limits: limits())))
    }

    /// The cluster is told to keep the balance by itself, which stays on for some time, mostly, and then gets groups
    /// without slots.
    private func balance() {
        guard cluster.keepsBalance else { return submit(.setAuto(AutoRebalancing(limits: limits()))) }
        switch below(6) {
        case 0: submit(.setAuto(nil))
        case 1: submit(.setAuto(AutoRebalancing(limits: limits())))
        case ..<4: createGroup(map.hosts.filter { $0.state == .active })
        // It is left alone.
        default: break
        }
    }

    private func limits() -> Rebalancing.Limits {
        Rebalancing.Limits(
            concurrentMax: UInt32(1 + below(6)),
            bytesPerSecondMax: below(2) == 0 ? 0 : 2_000 + world.random.below(100_000),
            pauseMillisMax: below(2) == 0 ? 0 : UInt32(50 + below(2_000)))
    }

    /// Mostly to what all hosts have registered, sometimes to what some have not, or to less.
    private func raiseLevel() {
        let possible = map.hosts.map(\.featureLevel).min() ?? world.plan.newestLevel
        let level = below(3) > 0 ? possible : 1 + UInt32(below(Int(world.plan.newestLevel)))
        submit(.raiseFeatureLevel(level))
    }

    private func drainOrNot(_ active: [HostRecord]) {
        let draining = map.hosts.filter { $0.state == .draining }
        if removeHost() { return }
        // Somebody has to take what leaves.
        if below(8) == 0 || active.count < 4, let host = any(draining) {
            submit(.setHostState(host.id, .active))
        } else if active.count >= 4, draining.count < 2,
            // One that was registered and does not know it yet would ask again when it is gone, and get another id.
            let host = any(active.filter { cluster.place(of: $0.id) < nextJoiner })
        {
            submit(.setHostState(host.id, .draining))
        }
    }

    /// Whether there is one that is empty.
    private func removeHost() -> Bool {
        guard map.hosts.count > 4,
            let host = map.hosts.first(where: { $0.state == .draining && map.replicas(on: $0.id).isEmpty })
        else { return false }
        submit(.removeHost(host.id)) { [unowned self] isDone in
            if isDone { cluster.retire(cluster.place(of: host.id)) }
        }
        return true
    }

    /// One host more. It may be asked for again after an answer was lost: the same incarnation gets the same id.
    private func join() {
        guard nextJoiner < cluster.hosts.count, !isJoining else { return }
        isJoining = true
        let place = nextJoiner
        world.note("the operator lets host %h join", UInt64(place))
        let host = cluster.hosts[place]
        // The cluster has left it behind: it is upgraded before it joins, once somebody has read why it was refused.
        if host.featureLevel < cluster.map.featureLevel, below(2) == 0 { host.upgrade() }
        let registration = HostRegistration(
            name: "host\(place + 1)", address: SimulatedCluster.address(of: place), incarnation: host.incarnation,
            featureLevel: host.featureLevel)
        ask(.meta) { target, answered in
            target.call(.meta, MetaCommand.registerHost(registration).payload(), answered) { core, _, call in
                core.register(registration, call: call)
            }
        } ended: { [unowned self] result in
            isJoining = false
            guard let result, let registered = try? MetaResult(decoding: result.body), place == nextJoiner else {
                return
            }
            guard cluster.place(of: registered.host) == place else {
                return world.fail("a host's id", "host \(place + 1) was registered as host \(registered.host)")
            }
            nextJoiner += 1
            world.mark(.hostJoined)
            host.join(cluster.map)
        }
    }

    private func submit(_ change: MapChange, ended: @escaping (Bool) -> Void = { _ in }) {
        submit(.change(change, expecting: below(2) == 0 ? map.version : 0), ended: ended)
    }

    private func submit(_ command: MetaCommand, ended: @escaping (Bool) -> Void = { _ in }) {
        world.note("the operator asks for a change of map %a", map.version)
        let payload = command.payload()
        ask(.meta) { target, answered in
            target.call(.meta, payload, answered) { core, payload, call in core.administer(payload, call: call) }
        } ended: { [unowned self] result in
            guard let result, let outcome = try? MetaOutcome(decoding: result.body) else { return ended(false) }
            world.note("the operator's change shows in map %a", outcome.mapVersion)
            ended(true)
        }
    }

    private func transfer(_ group: GroupRecord, to target: ReplicaID) {
        world.note("the operator hands group %a over to replica %b", UInt64(group.id.rawValue), target.rawValue)
        ask(group.id) { host, answered in
            host.call(group.id, nil, answered) { core, _, call in core.transfer(group.id, to: target, call: call) }
        } ended: { _ in
        }
    }

    // MARK: Asking

    private typealias Answer = (Response<DataResult>) -> Void

    /// Asks members of the group one after the other until one takes the request. Nil: refused, or nobody knows.
    private func ask(
        _ group: GroupID, _ send: @escaping (SimulatedHost, @escaping Answer) -> Void,
        ended: @escaping (DataResult?) -> Void
    ) {
        asksOpen += 1
        // What was asked for before all was mended is not asked for again: it might undo what is to settle.
        attempt(0, group, isOfEnd: isSettling, send) { [unowned self] result in
            asksOpen -= 1
            ended(result)
        }
    }

    private func attempt(
        _ attempt: Int, _ group: GroupID, isOfEnd: Bool, _ send: @escaping (SimulatedHost, @escaping Answer) -> Void,
        ended: @escaping (DataResult?) -> Void
    ) {
        let members = map.group(group)?.replicas.map(\.host) ?? []
        guard attempt < Self.attemptsMax, let any = any(members) else { return ended(nil) }
        let target = cluster.hosts[cluster.place(of: group == .meta ? leader ?? any : any)]
        leader = nil
        var isOver = false
        func again(_ delay: UInt64) {
            guard !isOver else { return }
            isOver = true
            world.schedule(after: delay, "the operator asks again") { [unowned self] in
                guard cluster.areFaultsOn || isOfEnd && group == .meta else { return ended(nil) }
                self.attempt(attempt + 1, group, isOfEnd: isOfEnd, send, ended: ended)
            }
        }
        world.schedule(
            after: 100_000 + world.random.below(2_000_000), "the operator asks host %h", UInt64(target.place)
        ) {
            [unowned self] in
            guard target.isRunning, target.pausedUntil <= world.now else { return again(50_000_000) }
            send(target) { [unowned self] response in
                switch response {
                case .done(let result):
                    // The answer may be lost.
                    guard !isOver else { return }
                    isOver = true
                    ended(world.random.below(16) == 0 ? nil : result)
                case .refused(.notLeader(let host, _)):
                    if group == .meta, host != HostID(0) { leader = host }
                    again(20_000_000)
                case .refused(.overloaded), .refused(.unknownGroup): again(100_000_000)
                case .refused(.outcomeUnknown) where world.random.below(2) == 0: again(100_000_000)
                default:
                    guard !isOver else { return }
                    isOver = true
                    ended(nil)
                }
            }
        }
        world.schedule(after: 3_000_000_000, "the operator waits no longer") { again(0) }
    }

    // MARK: At the end

    /// All is mended: no host drains any more, so that whatever is under way can come to its end.
    func settle() {
        isSettling = true
        map = cluster.map
        // Whoever lets a host join asks again until he hears that it did.
        while nextJoiner < cluster.hosts.count, map.host(cluster.hosts[nextJoiner].id) != nil {
            cluster.hosts[nextJoiner].join(map)
            nextJoiner += 1
        }
        for place in map.hosts.map({ cluster.place(of: $0.id) }) {
            let host = cluster.hosts[place]
            if host.featureLevel < world.plan.newestLevel, host.isRunning {
                world.note("the operator upgrades host %h", UInt64(place))
                cluster.crash(place)
                host.upgrade()
            }
        }
        // As soon as the map says of all hosts that they are upgraded.
        if map.featureLevel < world.plan.newestLevel,
            map.hosts.allSatisfy({ $0.featureLevel == world.plan.newestLevel })
        {
            submit(.raiseFeatureLevel(world.plan.newestLevel))
        }
        for host in map.hosts where host.state == .draining { submit(.setHostState(host.id, .active)) }
        // It may wait for a host that is lost for good.
        if let present = cluster.rebalancing, !present.isOver, !present.isCancelled {
            submit(.setRebalancing(present.id, .cancel))
        }
        if cluster.keepsBalance { submit(.setAuto(nil)) }
        // To the end: what was asked for before may still come about.
        world.schedule(after: 1_000_000_000, "the operator looks whether hosts still drain") { [unowned self] in
            settle()
        }
    }
}
