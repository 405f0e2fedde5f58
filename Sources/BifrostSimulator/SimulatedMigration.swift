// One cell of the crash matrix: a small cluster moves slots once, with records, deletions, times to live, scheduled commands
// and a lock in them, and at one moment between two steps something happens to whoever carries them out. The moment is when
// an entry is committed, a map adopted, or a read done, as the rules see it; nothing here waits for a time. What has to hold
// is what has to hold in every run; what is added here is that a migration ends, and leaves nothing behind.

import ClientCore
import DataTypes
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

/// The cell's own part in its run.
final class SimulatedMigration {
    // It owns this, and outlives it.
    private unowned(unsafe) let cluster: SimulatedCluster
    private let world: SimulatedWorld
    let cell: MigrationCell
    private let slots: [Slot]
    private let first: (source: GroupID, target: GroupID)
    /// Of the migration that the cell is about.
    private var source: GroupID
    private var target: GroupID
    private var tracked = MigrationID.none
    private var state: MigrationRecord.State?
    /// Of moves back: the one before.
    private var before = MigrationID.none
    private var frozen = LogIndex.zero
    private(set) var isStruck = false
    private(set) var isDone = false
    private(set) var isOver = false
    /// It was called off because the source's log time stood still; and whether it can have: somebody was lost without whom
    /// the source was not led, or not as before.
    private(set) var hasLostTime = false
    private(set) var isSourceStruck = false
    /// When the target began, and who led the source then.
    private var imported = MigrationID.none
    private var importedAt: UInt64?
    private var sourceLeader: Int?
    private var isAskedFor = false
    private var isToBeAborted = false
    /// Has no state of the group, and is to lead it.
    private var absent: (host: Int, group: GroupID)?
    private var hasInstalled = false
    private(set) var ledBehindSnapshot = false
    private var repeatedAt: Set<MigrationPoint> = []
    private var isRepeating = false

    // What comes again, or late.
    private var commands: [(group: GroupID, payload: Bytes)] = []
    private var known: Set<UInt64> = []
    private var words: [(to: Int, from: HostID, word: MigrationWord)] = []
    private var calls: [HeldCall] = []
    private static let repeatedMax = 120

    /// A packet that is under way for long.
    private struct HeldCall {
        var host: Int
        var life: UInt64
        var link: SimulatedClientLink
        var generation: UInt64
        var frame: SimulatedFrame
    }

    init(cluster: SimulatedCluster, cell: MigrationCell, lock: Bytes) {
        self.cluster = cluster
        world = cluster.world
        self.cell = cell
        let map = cluster.map
        let source = map.owner(of: slot(of: lock)) ?? .meta
        let target = map.dataGroups.map(\.id).first { $0 != source } ?? .meta
        first = (source, target)
        (self.source, self.target) = (source, target)
        var names = cluster.keys + [Self.kept, lock] + (0..<3).map { Bank.book(of: $0) }
        names += (0..<30).map { Bytes("lease/\($0)") }
        slots = Set(names.map { slot(of: $0) }.filter { map.owner(of: $0) == source }).sorted()
    }

    /// A key that is written once, before anything moves. Its slot is the lock's: it moves.
    static let kept: Bytes = "{moving lock}kept"
    static let lock: Bytes = "{moving lock}"

    // MARK: What is asked for

    /// Before anything moves: a member that is to get a state is away long enough that no log leads to it.
    func prepare() {
        guard cell.trouble == .sourceSnapshot || cell.trouble == .targetSnapshot else { return }
        let group = cell.trouble == .sourceSnapshot ? source : target
        let leaders = [GroupID.meta, source, target].compactMap { leader(of: $0) }
        let members = members(of: group)
        guard
            let place = members.first(where: { !leaders.contains($0) })
                ?? members.first(where: { $0 != leader(of: group) })
        else { return }
        world.note("host %h goes away", UInt64(place))
        absent = (place, group)
        cluster.hosts[place].crash()
    }

    func begin() {
        isAskedFor = true
        if cell.trouble == .oldRing { cluster.clients.last?.keepsMap = true }
        keepAsking()
    }

    /// Until the map shows it.
    private func keepAsking() {
        guard !isOver else { return }
        ask()
        world.schedule(after: 150_000_000, "somebody looks whether the map is changed") { [unowned self] in
            keepAsking()
        }
    }

    /// For a change of the map that there is: of two only one can come about.
    private func ask() {
        guard let change = wanted else { return }
        if let place = leader(of: .meta), cluster.hosts[place].pausedUntil <= world.now {
            let payload = MetaCommand.change(change, expecting: cluster.map.version).payload()
            world.note("somebody asks host %h to change map %b", UInt64(place), cluster.map.version)
            cluster.hosts[place].call(.meta, payload, { _ in }) { core, payload, call in
                core.administer(payload, call: call)
            }
        }
    }

    private var wanted: MapChange? {
        if tracked == .none {
            if before == .none { return .migrate(slots, from: first.source, to: first.target) }
            // The way back: as soon as the way there is over.
            return cluster.map.migrations.isEmpty ? .migrate(slots, from: first.target, to: first.source) : nil
        }
        // Also when it is decided: then it comes too late.
        return isToBeAborted && state != nil && state != .aborting ? .abortMigration(tracked) : nil
    }

    /// What goes wrong is short enough for a migration to go on behind it, unless somebody calls it off, the target has no room,
    /// a leader has forgotten deletions as his state is another one's, or what ends in time would end early as nobody led the
    /// source for a while, or its leader's store stood still: then that is what the map says.
    var mayBeCalledOff: Bool {
        switch cell.trouble {
        case .none, .oldRing, .late, .back, .copied, .standstill:
            cell.abortedAt != nil || hasLostTime && cell.hasEnds && (isSourceStruck || isSourceHeldUp)
        case .sourceSnapshot, .targetSnapshot, .fullDisk, .abort, .lostRecord: true
        }
    }

    /// A leader whose memtable is full gives its log no time before the store's thread, which the simulator keeps waiting,
    /// has written it out: for so long that nothing comes of the migration, between the entry that begins the import and the end.
    private var isSourceHeldUp: Bool {
        guard let begun = importedAt, let place = sourceLeader else { return false }
        let times = cluster.hosts[place].storeHeldUp.map {
            $0.upperBound - min(max($0.lowerBound, begun), $0.upperBound)
        }
        return times.reduce(0, +) >= MigrationClock.slackMillis * 1_000_000
    }

    // MARK: What comes about

    /// The newest map is another one.
    func adopted(_ map: ClusterMap) {
        guard isAskedFor, !isOver else { return }
        if tracked == .none {
            guard let migration = map.migrations.first(where: { $0.id > before }) else {
                if before != .none { ask() }
                return
            }
            tracked = migration.id
            (source, target) = (migration.source, migration.target)
        }
        let newer = map.migration(tracked)?.state
        if let lost = map.migration(tracked)?.lostTime, lost != .none { hasLostTime = true }
        guard newer != state else { return }
        let older = state
        state = newer
        if let newer, newer != .copying, newer != .aborting { isDone = true }
        switch newer {
        case .copying?: reach(.created)
        case .committed?: reach(.committed)
        case .released?: reach(.releaseKnown)
        case .activated?: reach(.activationKnown)
        case .aborting?: reach(.aborting)
        // A recovery's, and none is simulated.
        case .settling?: break
        case nil:
            guard older != nil else { return }
            if cell.trouble == .back, before == .none, isDone {
                before = tracked
                tracked = .none
                frozen = .zero
                isDone = false
                return ask()
            }
            reach(.gone)
            isOver = true
            for client in cluster.clients { client.keepsMap = false }
        }
    }

    /// A group has committed a step.
    func committed(_ step: MigrationStep, at index: LogIndex, in group: GroupID) {
        guard isAskedFor, step.migration == tracked, tracked != .none else { return }
        switch step {
        case .beginExport: reach(.exporting)
        case .beginImport:
            // Of moves back there was one before, and either may come again.
            if imported != tracked { (imported, importedAt, sourceLeader) = (tracked, world.now, leader(of: source)) }
            reach(.importing)
        case .page(_, let number, let start, let isLast, _):
            if number == 1 { reach(.firstPage) }
            if !isLast, number > 1 { reach(.middlePage) }
            if isLast { reach(frozen > .zero && start >= frozen ? .lastRound : .lastPage) }
        case .freeze:
            if frozen == .zero { frozen = index }
            reach(.frozen)
        case .seal: reach(.sealed)
        case .release: reach(.released)
        case .activate: reach(.activated)
        case .forget: reach(group == source ? .sourceForgot : .targetForgot)
        case .clear: reach(group == source ? .clearing : .targetClearing)
        case .cleared: reach(group == source ? .cleared : .targetCleared)
        }
    }

    /// A reader has looked something up for a migration.
    func hasRead(_ result: inout MigrationReadResult) {
        guard isAskedFor, result.read.migration == tracked else { return }
        switch result.read.purpose {
        case .page:
            // As if the source had made a mistake.
            if cell.trouble == .lostRecord { result.records.removeAll { $0.key.key == Self.kept } }
            reach(.pageRead)
        // The source's: it knows how its times are those of the target.
        case .digest(let clock): if clock != nil, result.next == nil { reach(.compared) }
        case .clearing: break
        }
    }

    private func reach(_ point: MigrationPoint) {
        if cell.trouble == .late || cell.trouble == .back, isStruck, repeatedAt.insert(point).inserted { comeAgain() }
        if point == cell.abortedAt, !isToBeAborted {
            isToBeAborted = true
            world.schedule(after: 0, "the migration is called off") { [unowned self] in ask() }
        }
        guard point == cell.point, !isStruck, cell.trouble != .back || before != .none else { return }
        // What is behind an abort has other moments of the same names.
        guard cell.abortedAt == nil || state == .aborting || state == nil else { return }
        isStruck = true
        world.note("moment %a of the migration has come", UInt64(point.rawValue))
        // Before anything else happens, but not within it.
        world.schedule(after: 0, "the migration is struck") { [unowned self] in strike() }
    }

    // MARK: What goes wrong

    /// The place of the host that leads a group, by all that is known; nil: nobody does.
    private func leader(of group: GroupID) -> Int? {
        let leading = cluster.hosts.indices.compactMap { place -> (place: Int, term: Term)? in
            guard let replica = cluster.hosts[place].inspection(of: group), replica.role == .leader else { return nil }
            return (place, replica.term)
        }
        return leading.max { $0.term < $1.term }?.place
    }

    private func strike() {
        var groups: [GroupID] = []
        if cell.actor.hasDriver { groups.append(.meta) }
        if cell.actor.hasSource { groups.append(source) }
        if cell.actor.hasTarget { groups.append(target) }
        // Who was lost a moment ago, of another cause, leads no more.
        let leaders = groups.compactMap { group in leader(of: group).map { (group, $0) } }
        let sourceLeader = leader(of: source)
        trouble()
        if cell.loss == .handedOver {
            // A new leader counts from its last entry on.
            isSourceStruck = cell.actor.hasSource || cell.trouble == .standstill
            for (group, place) in leaders { handOver(group, from: place, to: .none) }
            return
        }
        var lost: Set<Int> = []
        for (_, place) in leaders where lost.insert(place).inserted { lose(place) }
        // One host may lead several groups.
        let left = members(of: source).filter { !lost.contains($0) }
        isSourceStruck =
            cell.trouble == .standstill || sourceLeader.map { !left.contains($0) } ?? true
            || left.count * 2 <= members(of: source).count
    }

    /// The places of a group's hosts.
    private func members(of group: GroupID) -> [Int] {
        (cluster.map.group(group)?.replicas ?? []).map { cluster.place(of: $0.host) }
    }

    /// Long enough that others lead, by their time-outs and promises.
    private static let longNanoseconds: UInt64 = 2_500_000_000

    private func lose(_ place: Int) {
        world.report.faults += 1
        switch cell.loss {
        case .killed, .powerLost:
            // Back before anybody stands for election, or long after.
            let pause = world.random.below(2) == 0 ? 40_000_000 + world.random.below(100_000_000) : Self.longNanoseconds
            cluster.crash(place, restartAfter: pause, losesPower: cell.loss == .powerLost)
        case .stopped:
            world.note("host %h is stopped for %b µs", UInt64(place), Self.longNanoseconds / 1_000)
            cluster.hosts[place].pausedUntil = world.now + Self.longNanoseconds
        case .cutOff:
            world.note("host %h is cut off from the others for %b µs", UInt64(place), Self.longNanoseconds / 1_000)
            for other in cluster.hosts.indices where other != place {
                cluster.network.block(place, other, nanoseconds: Self.longNanoseconds)
                cluster.network.block(other, place, nanoseconds: Self.longNanoseconds)
            }
        case .handedOver: break
        }
    }

    /// Longer than the slack that a migration has, and others need to lead.
    private static let standstillNanoseconds: UInt64 = 4_000_000_000

    private func standStill() {
        world.report.faults += 1
        let members = members(of: source)
        world.note(
            "the members of group %a do not hear each other for %b µs", UInt64(source.rawValue),
            Self.standstillNanoseconds / 1_000)
        for place in members {
            for other in members where other != place {
                cluster.network.block(place, other, nanoseconds: Self.standstillNanoseconds)
            }
        }
    }

    private func handOver(_ group: GroupID, from place: Int, to target: ReplicaID) {
        world.note("host %h is asked to hand group %b over", UInt64(place), UInt64(group.rawValue))
        guard cluster.hosts[place].isRunning else { return }
        cluster.hosts[place].call(group, nil, { _ in }) { core, _, call in core.transfer(group, to: target, call: call)
        }
    }

    private func trouble() {
        switch cell.trouble {
        case .none, .oldRing, .lostRecord: break
        case .late, .back: comeAgain()
        case .sourceSnapshot, .targetSnapshot:
            guard let absent, !cluster.hosts[absent.host].isRunning else { break }
            cluster.hosts[absent.host].start()
            lead(attempts: 40)
        case .fullDisk: fillDisk()
        case .abort:
            isToBeAborted = true
            ask()
        case .copied: copyStates()
        case .standstill: standStill()
        }
    }

    private func fillDisk() {
        guard let place = leader(of: target) else { return }
        let host = cluster.hosts[place]
        let disk = world.random.below(2) == 0 ? host.journalDisk : host.storeDisk
        let time: UInt64 = 1_500_000_000
        world.note("a disk of host %h is full for %b µs", UInt64(place), time / 1_000)
        disk.faults.bytesMax = disk.bytes + Int(world.random.below(3_000))
        disk.faults.reserveBytes = Int(world.random.below(3_000))
        host.fullUntil = world.now + time
        host.spaceLevel = world.random.below(2) == 0 ? .low : .out
        host.tellSpace()
        world.schedule(after: time, "the disks of host %h may have room again", UInt64(place)) {
            if host.fullUntil <= host.world.now { host.giveRoom() }
        }
    }

    /// Who was away leads as soon as somebody can hand it to him.
    private func lead(attempts: Int) {
        guard let absent, attempts > 0, !ledBehindSnapshot else { return }
        if let replica = cluster.hosts[absent.host].inspection(of: absent.group), let place = leader(of: absent.group) {
            if place == absent.host {
                ledBehindSnapshot = hasInstalled
                return
            }
            if !replica.isInstalling, cluster.hosts[place].pausedUntil <= world.now {
                handOver(absent.group, from: place, to: replica.replica)
            }
        }
        world.schedule(after: 100_000_000, "host %h is to lead", UInt64(absent.host)) { [unowned self] in
            lead(attempts: attempts - 1)
        }
    }

    /// A replica goes on from another one's state.
    func installed(_ manifest: Manifest, at place: Int) {
        guard let absent, place == absent.host, isStruck,
            cluster.map.group(absent.group)?.host(of: manifest.replica) == cluster.hosts[place].id
        else { return }
        hasInstalled = true
    }

    /// Each member of both groups gives a first piece of what it has, and keeps the rest until it is told otherwise.
    private func copyStates() {
        for group in [source, target] {
            for replica in cluster.map.group(group)?.replicas ?? [] {
                let number = world.random.next() | 1
                let host = cluster.hosts[cluster.place(of: replica.host)]
                snapshot(SnapshotRequest(group: group, snapshot: number, kind: .fetch), at: host)
                world.schedule(after: 1_000_000_000, "host %h is told to forget a copy", UInt64(host.place)) {
                    [unowned self] in
                    snapshot(SnapshotRequest(group: group, snapshot: number, kind: .release), at: host)
                }
            }
        }
    }

    private func snapshot(_ request: SnapshotRequest, at host: SimulatedHost) {
        guard host.isRunning else { return }
        host.call(request.group, nil, { _ in }) { core, _, call in core.snapshot(request, call: call) }
    }

    // MARK: What comes again

    /// A replica has an entry in its log that was not there before.
    func appended(_ entry: LogEntry, in group: GroupID) {
        guard cell.trouble == .late || cell.trouble == .back, entry.kind == .command, isAskedFor,
            entry.payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine }) == .slotOwnership,
            commands.count < Self.repeatedMax, known.insert(entry.payload.withUnsafeBytes { hash64($0) }).inserted
        else { return }
        commands.append((group, entry.payload))
    }

    func said(_ payload: Bytes, by host: HostID, to place: Int) {
        guard cell.trouble == .late, isAskedFor, !isRepeating, words.count < Self.repeatedMax,
            let batch = try? PeerBatchReader(payload)
        else { return }
        for word in batch.words { if case .migration(let word) = word { words.append((place, host, word)) } }
    }

    /// Whether a client's call does not get there yet.
    func holds(_ frame: SimulatedFrame, on link: SimulatedClientLink, at host: SimulatedHost) -> Bool {
        guard cell.trouble == .late || cell.trouble == .back, isAskedFor, !isOver,
            frame.kind == ClientFrameKind.execute.rawValue, calls.count < Self.repeatedMax, world.random.below(8) == 0
        else { return false }
        world.note("a call to host %h is under way for long", UInt64(host.place))
        calls.append(
            HeldCall(
                host: host.place, life: host.life, link: link, generation: link.responses.generation, frame: frame))
        return true
    }

    /// As leaders of long ago might have sent it.
    private func comeAgain() {
        world.schedule(after: 0, "what was said of the migration is said again") { [unowned self] in
            for (group, payload) in commands {
                guard let place = leader(of: group) else { continue }
                let loop = cluster.hosts[place].loop(of: group)
                loop.core.proposeAgain(payload, in: group)
                loop.scheduleTurn()
            }
            isRepeating = true
            defer { isRepeating = false }
            for (to, from, word) in words where cluster.hosts[to].isRunning {
                var writer = PeerBatchWriter()
                writer.append(.migration(word))
                cluster.hosts[to].receive(writer.take(), from: from, connection: 0)
            }
            let due = calls.filter { _ in world.random.below(3) == 0 || isOver }
            calls.removeAll { call in due.contains { $0.frame.call == call.frame.call && $0.link === call.link } }
            deliver(due)
        }
    }

    private func deliver(_ due: [HeldCall]) {
        for call in due {
            let host = cluster.hosts[call.host]
            guard host.isRunning, host.life == call.life, call.link.responses.generation == call.generation,
                call.link.responses.isOpen
            else { continue }
            host.receive(call.frame, on: call.link, isHeld: true)
        }
    }

    /// What is still under way arrives, or does not.
    func finish() {
        let due = calls
        calls = []
        deliver(due)
    }
}

// MARK: - The run

extension SimulatedCluster {
    /// Virtual time in which a migration must be over, whatever happened to it: it has fifteen seconds for the freeze alone.
    private static let migrationNanosecondsMax: UInt64 = 120_000_000_000

    /// A small cluster in which nothing goes wrong but what the cell says.
    convenience init(_ cell: MigrationCell) {
        self.init(seed: cell.seed, settings: SimulationSettings(profile: .moves, seconds: 10), workload: nil) { plan in
            plan.beSmall(seed: cell.seed, hasEnds: cell.hasEnds)
            if cell.trouble == .sourceSnapshot || cell.trouble == .targetSnapshot {
                plan.hosts = max(plan.hosts, 4)
                plan.settings.journalBytesForLaggards = 2_000
                plan.settings.journalBytesTrigger = 1_000
            }
            // The target's members are others.
            if cell.trouble == .standstill { plan.hosts = max(plan.hosts, 5) }
        }
        migration = SimulatedMigration(cluster: self, cell: cell, lock: SimulatedMigration.lock)
        otherKeys = [SimulatedMigration.kept]
    }

    /// The cell's run, with all rules. Once only.
    func runCell() throws(SimulationFailure) -> MigrationCellReport {
        guard let migration else { preconditionFailure("a cell's run is of a cell") }
        for host in hosts {
            schedule(after: world.random.below(10_000_000), "host %h starts", UInt64(host.place)) { host.start() }
        }
        for client in clients { client.start(workers: world.plan.workersPerClient) }
        startWatches()
        try awaitLeaders()
        let lock = SimulatedLock(name: SimulatedMigration.lock)
        submit(lock.acquire(), through: clients[0], nanoseconds: 10_000_000_000) {}
        putKept()
        try expect(try pass(12_000_000_000, until: { lock.token > 0 }), "operations end", "nobody gets the lock")
        submit(lock.queue(), through: clients[clients.count - 1], nanoseconds: 10_000_000_000) {}
        try expect(try pass(12_000_000_000, until: { lock.ticket > 0 }), "operations end", "nobody waits for the lock")
        migration.prepare()
        try pass(1_500_000_000)
        migration.begin()
        try expect(
            try pass(Self.migrationNanosecondsMax, until: { migration.isOver && map.migrations.isEmpty }),
            "a migration ends", "\(migration.cell): \(describeReplicas())")
        // Whoever was stopped or cut off is back, and finds that all is over.
        try pass(3_000_000_000)
        migration.finish()
        heal()
        try awaitLeaders()
        try pass(300_000_000)
        try comeToRest()
        try expectNothingLeft()
        try expectLock(lock)
        if migration.cell.trouble == .lostRecord {
            try expect(!migration.isDone, "digests are compared", "a record was lost, and the slots moved")
        }
        if !migration.mayBeCalledOff {
            try expect(migration.isDone, "nothing is called off for nothing", "\(migration.cell)")
        }
        try checkHistory()
        var report = MigrationCellReport(cell: migration.cell)
        report.isStruck = migration.isStruck
        report.isDone = migration.isDone
        report.hasLostTime = migration.hasLostTime
        report.isHeldUp = migration.hasLostTime && !migration.isSourceStruck
        report.ledBehindSnapshot = migration.ledBehindSnapshot
        report.acknowledged = acknowledged
        report.nanoseconds = now
        report.traceHash = world.trace.hash
        return report
    }

    private func putKept() {
        let key = SimulatedMigration.kept
        let header = CommandHeader(machine: .keyValue, sequence: nextSequence)
        nextSequence += 1
        let number = operations.count
        operations.append(SimulatedOperation(client: 0, key: key, kind: .put("kept"), called: now))
        clients[0].submit(
            kind: .command, target: .slot(slot(of: key)),
            payload: KeyValueCommand.put(key: key, value: "kept")
                .payload(header: header), nanoseconds: 10_000_000_000, number: number
        ) { [unowned self] result in end(number, result) }
    }

    /// No group has anything to do for a migration any more. That no record lies outside of its owner's slots is seen when
    /// all is read back.
    private func expectNothingLeft() throws(SimulationFailure) {
        for host in hosts where host.isRunning {
            for replica in host.inspections() where replica.migrations > 0 {
                fail(
                    "nothing is left behind",
                    "group \(replica.group), replica \(replica.replica), is at \(replica.migrations) migrations")
            }
        }
        if let failure { throw failure }
    }

    /// Who had the lock has it, under the same token, and who waited waits, wherever it went and how often.
    private func expectLock(_ lock: SimulatedLock) throws(SimulationFailure) {
        let replicas = map.owner(of: slot(of: lock.name)).flatMap { map.group($0) }?.replicas ?? []
        var open = replicas.count * 2
        for replica in replicas {
            for request in [lock.holders(), lock.waiters()] {
                submit(request, pinned: replica.host, through: clients[0], nanoseconds: 20_000_000_000) { open -= 1 }
            }
        }
        try expect(
            try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
            "\(open) questions about the lock got no answer")
        try expect(lock.seen == replicas.count * 2, "operations end", "the lock was seen \(lock.seen) times only")
    }
}

/// A lock that one client has while another one waits for it.
private final class SimulatedLock {
    let name: Bytes
    private(set) var token: UInt64 = 0
    private(set) var ticket: UInt64 = 0
    /// Answers that were as they have to be.
    private(set) var seen = 0

    init(name: Bytes) { self.name = name }

    func acquire() -> SimulatedRequest {
        SimulatedRequest(PermitAcquire<LockMachine>(name, waitMillis: .max)) { [unowned self] outcome in
            guard case .answer(let answer) = outcome, answer.state == .granted else { return "\(outcome)" }
            token = answer.token
            return nil
        }
    }

    func queue() -> SimulatedRequest {
        SimulatedRequest(PermitAcquire<LockMachine>(name, waitMillis: .max)) { [unowned self] outcome in
            guard case .answer(let answer) = outcome, answer.state == .queued else { return "\(outcome)" }
            ticket = answer.ticket
            return nil
        }
    }

    func holders() -> SimulatedRequest { list(waiters: false) }
    func waiters() -> SimulatedRequest { list(waiters: true) }

    private func list(waiters: Bool) -> SimulatedRequest {
        SimulatedRequest(PermitList<LockMachine>(name, waiters: waiters), .linearizableAnywhere) {
            [unowned self] outcome in
            guard case .answer(let listing) = outcome else { return nil }
            let expected = waiters ? [ticket] : [token]
            guard listing.entries.map(\.number) == expected, listing.out == 1, listing.waiters == 1 else {
                return "\(listing), where \(token) has the lock and \(ticket) waits"
            }
            seen += 1
            return nil
        }
    }
}

extension SimulatedPlan {
    /// What is the same in all cells, and what is not: hosts, thresholds and chances are the seed's.
    ///
    /// - Parameter hasEnds: false: nothing ends in time, and no command is scheduled.
    mutating func beSmall(seed: UInt64, hasEnds: Bool) {
        hosts = 3 + Int(seed % 3)
        joiners = 0
        replicas = 3
        groups = 2
        clients = 2
        workersPerClient = 1
        burstMax = 4
        keys = 14
        openOperationsPerKeyMax = 3
        thinkNanoseconds = 80_000_000
        sessionMilliseconds = 900_000
        latencyNanosecondsMax = 400_000
        bulkNanosecondsMax = 1_000_000
        slowPerThousand = 0
        turnDelayNanosecondsMax = 100_000
        commitNanosecondsMax = 2_000_000
        storeJobNanosecondsMax = 20_000_000
        readNanosecondsMax = 1_000_000
        journalCommitBytesMax = JournalQueue.commitBytesMax
        jobsPerEnd = .max
        valueBytesMax = 60
        conditionalPercent = 15
        scanPercent = 15
        machinePercent = hasEnds ? 15 : 0
        dataTypePercent = 0
        leasePercent = hasEnds ? 8 : 0
        holdersOfThree = 0
        delayMillisecondsMax = 4_000
        staleReadsPercent = 20
        staleMillisecondsMax = 500
        sessionReadsPercent = 15
        leaseReadsPercent = 20
        watches = 3
        featureLevels = []
        newestLevel = FeatureLevel.migrations
        // Members neither come nor go; maps take their time to the disk.
        operatorPauseNanosecondsMax = 1
        settings.journalBytesMax = HostSettings().journalBytesMax
        settings.journalBytesSoft = 400_000
        settings.journalBytesForLaggards = .max
        settings.logPinnedBytesMax = HostSettings().logPinnedBytesMax
        settings.waitingCallsMax = 1_000
        settings.memtableBytesTotal = HostSettings().memtableBytesTotal
        settings.snapshotPieceBytes = 20_000
        settings.leaseNanoseconds = 400_000_000
        settings.raft = RaftSettings()
        settings.raft.electionTicks = 8
        settings.heartbeatTicks = 2
        settings.suspicionTicks = 6
        // A round has many pages.
        settings.migrationPageRecords = 3
        settings.migrationPageBytes = 4_000
        settings.migrationDigestRecords = 3
        settings.migrationDigestBytes = 4_000
        settings.migrationLittleBytes = HostSettings().migrationLittleBytes
        settings.sealsWithLastPage = seed / 3 % 2 == 0
    }
}
