// From the cluster map to replicas: which are started, once, and who campaigns first.

public import Primitives
import RaftCore
public import Ring
public import StateMachines
public import Storage

extension HostCore {
    /// A cluster map from the disk, from another host or from the meta group here. Older ones are ignored. The other
    /// loops learn it from loop 0.
    public func adopt(_ newer: ClusterMap) {
        if let map {
            guard newer.cluster == map.cluster, newer.version > map.version else { return }
        }
        let older = map
        map = newer
        if isPlanted("owner-without-epoch"), host.rawValue == 2 {
            let owners = (0..<Slot.count).map { newer.ring.owner(of: Slot(UInt16($0 ^ 1))) ?? .meta }
            map?.ring = SlotTable(epoch: newer.ring.epoch, owners: owners)
        }
        for record in newer.hosts { addPeer(record.id) }
        let areHostsOthers = older?.hosts != newer.hosts
        // A map differs from the one before in few groups, and thousands of groups are made one by one. Both ascend.
        var place = 0
        var oldPlace = 0
        for replica in replicas {
            let group = newer.groups.next(from: &place, of: replica.group)
            let isSame = group == older?.groups.next(from: &oldPlace, of: replica.group)
            if !isSame {
                if let group { replica.learn(group) }
                updateLiveness(replica)
            }
            if !isSame || areHostsOthers, !isPlanted("place-unseen") { lookAtPlacement(replica) }
        }
        if loop.isFirst {
            effects.map = map
            tell(.map(newer))
            if newer.migrations != older?.migrations ?? [] { spreadMigrations(newer, before: older) }
        }
        askForBirths()
        areMigrationsDue = true
    }

    /// Replicas that the map places here and that have not been added. The shell asks its disk: one that is known there
    /// is restored, one that is not is born, and either comes back through `install`.
    func askForBirths() {
        guard let map else { return }
        for group in map.groups where loop.owns(group.id) && replica(of: group.id) == nil {
            guard let id = group.replica(on: host), isBirthAsked.insert(id).inserted else { continue }
            effects.births.append(
                ReplicaBirth(group: group.id, replica: id, configuration: group.firstConfiguration(of: id)))
        }
    }

    /// Adds a replica whose start is durable on disk.
    ///
    /// - Parameters:
    ///   - plan: what the restart rules made of the disk, with the entries that they asked for.
    ///   - machine: the state machine as of the manifest.
    ///   - memtable: empty; from the host's pool of memory.
    ///   - view: pins the manifest.
    public func install(
        group: GroupID, plan: ReplicaStartPlan, machine: MasterStateMachine, memtable: Memtable, view: StoreView
    ) {
        var core = RaftCore(start: plan.start, settings: settings.raft, seed: random.next())
        var machine = machine
        machine.machines = settings.machines
        if let replica = replica(of: group) {
            guard replica.id == plan.start.replica else {
                // The map has placed another one here since: that one comes when this one is deleted.
                isBirthAsked.remove(plan.start.replica)
                return
            }
            // Its log and state are other ones now, and what it promised is not.
            bind(replica)
            core.keepPromise(until: replica.core.promisedUntil)
            countElections(of: replica)
            replica.core = core
            replica.counted = ElectionsCounted(core)
            replica.machine = machine
            replica.memtable = memtable
            historyBytes -= replica.history.bytes
            replica.history.begin(at: machine.revision)
            replica.fetch.forget()
            return begin(replica, again: plan, on: view)
        }
        if plan.mayHavePromised { keepEarlierPromises(&core) }
        let replica = Replica(group: group, core: core, machine: machine, memtable: memtable, view: view)
        if let group = map?.group(group) { replica.learn(group) }
        replica.impairment = Self.impairment(plan, core)
        replica.isMute = plan.isMute
        replica.isStateDamaged = plan.isStateDamaged
        replica.elapsedSeen = elapsedMilliseconds
        replica.discarded = plan.start.base
        if let impairment = replica.impairment {
            effects.notices.append("group \(group): replica \(replica.id) neither campaigns nor serves: \(impairment)")
        }
        if replica.preferredLeader != replica.id {
            let wait = plan.mayHavePromised ? settings.leaseNanoseconds / settings.tickNanoseconds : 0
            replica.patientUntilTick = tickCount + UInt64(2 * settings.raft.electionTicks) + wait
        }
        add(replica)
        if replica.impairment != nil, !replica.isMute { wantSnapshot(replica) }
    }

    /// Why a replica may neither campaign nor serve; nil if it may.
    static func impairment(_ plan: ReplicaStartPlan, _ core: RaftCore) -> String? {
        plan.impairment
            ?? (core.isImpaired
                ? "what the disk has of its log and its state contradicts itself; its peers have whole copies" : nil)
    }

    /// Leaders spread evenly at start: where the map prefers us, and a majority can be reached, we do not wait for a
    /// time-out. A bounded number in each tick: thousands at once would keep each other waiting.
    func campaignWherePreferred() {
        guard map != nil, !newcomers.isEmpty, !isJournalHung else { return }
        var kept = 0
        var left = settings.campaignsPerTick
        for place in newcomers.indices {
            let replica = newcomers[place]
            if replica.impairment == nil {
                guard replica.withCore({ $0.leader }) == .none,
                    replica.campaignsAtStart < Self.campaignsAtStartMax
                else { continue }
                if left > 0, replica.preferredLeader == replica.id, tickCount >= replica.campaignTick,
                    campaignAtStart(replica)
                {
                    left -= 1
                }
            }
            newcomers[kept] = replica
            kept += 1
        }
        newcomers.removeLast(newcomers.count - kept)
    }

    /// False: it can't win now.
    private func campaignAtStart(_ replica: Replica) -> Bool {
        guard replica.core.role != .candidate, replica.stopped == nil else { return false }
        bind(replica)
        guard replica.core.promisedUntil <= now.rawValue else { return false }
        let voters = replica.core.configuration.voters
        let reachable = voters.filter { voter in
            voter == replica.id || replica.host(of: voter).flatMap { peer($0) }?.isConnected == true
        }
        guard reachable.count * 2 > voters.count else { return false }
        // Who started later than this one may still have to wait out a promise, and says nothing.
        replica.campaignsAtStart += 1
        replica.campaignTick = tickCount + Self.campaignPauseTicks
        replica.core.campaign()
        markReady(replica)
        return true
    }

    private static var campaignsAtStartMax: Int { 10 }
    private static var campaignPauseTicks: UInt64 { 2 }

    /// The meta group's state is the map. Its first leader writes the map that `init` gave to every host.
    func adoptMetaMap(_ replica: Replica) {
        if let newer = replica.machine.meta.map, newer.version > map?.version ?? 0 {
            adopt(newer)
            planMoves()
        }
    }

    func proposeFirstMap() {
        guard let replica = replica(of: .meta), replica.core.role == .leader, !replica.hasProposedMap,
            replica.machine.meta.map == nil, let map, replica.core.appliedIndex == replica.core.lastIndex
        else { return }
        let payload = MetaCommand.initialise(map).payload()
        advanceLogTime(replica)
        let result = replica.core.propose(kind: .command, payload: payload, logTime: replica.logTime.current)
        if case .accepted = result { replica.hasProposedMap = true }
        markReady(replica)
    }
}

extension [GroupRecord] {
    /// The record of a group, for who asks for ascending ones: looks on from the place of the one before.
    fileprivate func next(from place: inout Int, of group: GroupID) -> GroupRecord? {
        while place < count, self[place].id < group { place += 1 }
        return place < count && self[place].id == group ? self[place] : nil
    }
}
