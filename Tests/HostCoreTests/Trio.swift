// Three host cores with journals and stores over simulated disks, joined by queues that the test moves by hand.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

/// One host; the test says when its journal and its store get on.
final class TestHost {
    let id: HostID
    /// One for each event loop.
    let cores: [HostCore]
    /// The only one, or loop 0's.
    var core: HostCore { cores[0] }
    let journalDisk: SimulatedDisk
    let journal: Journal<SimulatedDisk>
    let storeDisk: SimulatedDisk
    let store: Store<SimulatedDisk>
    var holdsJournal = false
    var holdsStore = false
    /// Pieces of snapshots for others are not read, and wait.
    var holdsSnapshotReads = false
    private(set) var heldSnapshotReads: [SnapshotRead] = []
    /// Plans of balance are not made, and wait.
    var holdsBalanceLooks = false
    var heldBalanceLooks: [BalanceLook] = []
    /// Loops that have no room for what other hosts say.
    var fullLoops: Set<Int> = []
    /// Loops that get nothing done.
    var stuckLoops: Set<Int> = []
    /// What was handed to each loop, in order.
    private var inboxes: [[LoopInput]]
    private(set) var batches: [(loop: Int, batch: JournalBatch)] = []
    private(set) var jobs: [StoreJob] = []
    private(set) var outbox: [(host: HostID, channel: PeerChannel, payload: Bytes)] = []
    private(set) var replies: [CallToken: Response<DataResult>] = [:]
    /// The newest list of each loop.
    private var superfluousOfLoop: [[(replica: ReplicaID, through: LogIndex)]]
    var superfluous: [(replica: ReplicaID, through: LogIndex)] { Array(superfluousOfLoop.joined()) }
    private(set) var notices: [String] = []
    /// Nobody answers these but the test.
    var coldPages: [ColdPage] = []
    private var effects = HostEffects()

    /// What comes to a loop from another thread.
    enum LoopInput {
        case message(LoopMessage)
        case part(PeerBatchPart, HostID)
    }

    /// - Parameter prepare: what the journal has before the host starts.
    init(
        _ id: HostID, map: ClusterMap, settings: HostSettings, loops: Int = 1,
        prepare: (Journal<SimulatedDisk>) throws -> Void = { _ in }
    ) throws {
        self.id = id
        inboxes = Array(repeating: [], count: loops)
        superfluousOfLoop = Array(repeating: [], count: loops)
        let identity = HostIdentity(
            cluster: map.cluster, host: id, incarnation: Incarnation(id.rawValue), featureLevel: 1,
            journal: 100 + id.rawValue)
        journalDisk = SimulatedDisk(seed: id.rawValue)
        journal = try Journal(disk: journalDisk, formatting: identity)
        try prepare(journal)
        storeDisk = SimulatedDisk(seed: 10 + id.rawValue)
        store = try Store(
            disk: storeDisk,
            formatting: StoreIdentity(cluster: map.cluster, host: id, journal: identity.journal),
            settings: StoreSettings(runsMax: settings.runsMax))
        let sequence = journal.lastSequence
        cores = (0..<loops).map { number in
            HostCore(
                host: id, journal: identity.journal, settings: settings, seed: id.rawValue, now: Instant(1_000_000),
                journalSequence: sequence, loop: LoopPlace(number: number, count: loops))
        }
        core.adopt(map)
    }

    let intakes = SnapshotIntakes<SimulatedDisk>()
    var now = Instant(1_000_000)
    /// The most replies that one turn brought.
    var repliesOfTurnMax = 0
    /// What commands wait for is not read, and waits.
    var holdsStateReads = false
    private var heldStateReads: [StateRead] = []
    /// Reads that commands waited for.
    var fetches = 0
    /// What sweeps are to delete is not read, and waits.
    var holdsSweeps = false
    private(set) var heldSweeps: [DeadlineRead] = []
    /// Of the sweeps of one command: the most bytes that were copied out of memory, and that were there with those of the
    /// disk.
    private(set) var sweptBytesMax = (live: 0, all: 0)

    func core(of group: GroupID) -> HostCore { cores[LoopPlace.owner(of: group, loops: cores.count)] }
    func inspection(of group: GroupID) -> ReplicaInspection? { core(of: group).inspection(of: group) }
    var activeCount: Int { cores.reduce(0) { $0 + $1.activeCount } }
    var hasWork: Bool {
        cores.contains { !stuckLoops.contains($0.loop.number) && ($0.hasWork || !inboxes[$0.loop.number].isEmpty) }
    }

    func tick() {
        now = now + 50_000_000
        for core in cores where !stuckLoops.contains(core.loop.number) { core.tick(now: now) }
    }

    /// What another host said: dealt out to the loops as a shell does it.
    func receive(_ payload: Bytes, from host: HostID) throws {
        if cores.count == 1 { return try core.receive(payload, from: host) }
        let parts = try PeerBatchPart.split(payload, loops: cores.count)
        for number in cores.indices.reversed() {
            guard let part = parts[number], !fullLoops.contains(number) else { continue }
            inboxes[number].append(.part(part, host))
        }
    }

    /// One turn of each loop that is not stuck.
    func turn() throws {
        for core in cores where !stuckLoops.contains(core.loop.number) { try turn(core) }
    }

    private func turn(_ core: HostCore) throws {
        let number = core.loop.number
        let inbox = inboxes[number]
        inboxes[number] = []
        for input in inbox {
            switch input {
            case .message(let message): core.receive(message)
            case .part(let part, let host): core.receive(part, from: host)
            }
        }
        core.turn(now: now, into: &effects)
        let work = effects
        effects = HostEffects()
        outbox += work.peerPayloads
        for (loop, message) in work.loopMessages { inboxes[loop].append(.message(message)) }
        repliesOfTurnMax = max(repliesOfTurnMax, work.replies.count)
        for reply in work.replies { replies[reply.call] = reply.response }
        if !work.superfluous.isEmpty { superfluousOfLoop[number] = work.superfluous }
        notices += work.notices
        for read in work.coldReads {
            do {
                let found = try store.get(read.key, in: read.view)
                replies[read.call] = .done(HostCore.result(found, index: read.index, revision: read.revision))
            } catch let error as DiskError where error.code == .corrupt {
                replies[read.call] = .refused(.unavailable("\(error)"))
                core.stateDamaged(group: read.group, "\(error)")
            }
        }
        if holdsBalanceLooks { heldBalanceLooks += work.balanceLooks }
        if !holdsBalanceLooks { for look in work.balanceLooks { core.balanceLooked(look.result()) } }
        for read in work.loadReads where read.isForHost { core.loadRead(read, try read.result(from: store)) }
        for read in work.loadReads where !read.isForHost {
            core.pageDone()
            replies[read.call] = .done(try read.result(from: store))
        }
        for read in work.migrationReads { core.migrationRead(try read.result(from: store)) }
        for read in work.machineReads {
            let result = try read.result(from: store)
            if let response = read.response(to: result) {
                core.queryDone()
                replies[read.call] = response
            } else if case .more(let reading) = result {
                core.queryAgain(read, reading)
            }
        }
        for read in work.deadlineReads {
            if case .sweeps = read.purpose { heldSweeps.append(read) } else { try answer(read, core) }
        }
        let sweeps = holdsSweeps ? [] : heldSweeps
        if !holdsSweeps { heldSweeps = [] }
        for read in sweeps { try answer(read, core) }
        heldStateReads += work.stateReads
        fetches += work.stateReads.count
        let stateReads = holdsStateReads ? [] : heldStateReads
        if !holdsStateReads { heldStateReads = [] }
        for read in stateReads {
            do {
                core.stateFetched(try read.result(from: store))
            } catch let error as DiskError where error.code == .corrupt {
                core.stateFetchFailed(read, damage: "\(error)")
            }
        }
        for read in work.migrationReads { core.migrationRead(try read.result(from: store)) }
        coldPages += work.coldPages
        for read in work.logReads {
            let entries = try journal.entries(
                of: read.replica, from: read.from, through: read.through, bytesMax: read.bytesMax)
            core.supply(entries, group: read.group, follower: read.follower)
        }
        heldSnapshotReads += work.snapshotReads
        let snapshotReads = holdsSnapshotReads ? [] : heldSnapshotReads
        if !holdsSnapshotReads { heldSnapshotReads = [] }
        for read in snapshotReads {
            do { core.snapshotRead(read, try read.result(from: store)) } catch let error as DiskError
                where error.code == .corrupt
            {
                core.stateDamaged(group: read.group, "\(error)")
                core.snapshotRead(read, nil)
            }
        }
        let logs = journal.recovered()
        for restored in try RestoredReplica.restored(work.births, logs: logs, journal: journal, store: store) {
            if !restored.plan.records.isEmpty { _ = try journal.append(restored.plan.records) }
            core.install(
                group: restored.group, plan: restored.plan, machine: restored.machine, memtable: Memtable(),
                view: restored.view)
        }
        if let batch = work.journal { batches.append((number, batch)) }
        jobs += work.storeJobs
        if !holdsJournal { try commit() }
        if !holdsStore { try doJobs() }
    }

    private func answer(_ read: DeadlineRead, _ core: HostCore) throws {
        let result = try read.result(from: store)
        if case .sweeps(let reads, _) = read.purpose {
            sweptBytesMax.live = max(sweptBytesMax.live, reads.reduce(0) { $0 + $1.liveBytes })
            sweptBytesMax.all = max(sweptBytesMax.all, result.swept.reduce(0) { $0 + $1.keyAndValueBytes })
        }
        core.deadlinesRead(result)
    }

    func commit() throws {
        guard !batches.isEmpty else { return }
        let sequence = try journal.append(batches.flatMap(\.batch.records))
        let durable = batches
        batches = []
        for core in cores {
            guard let last = durable.last(where: { $0.loop == core.loop.number }) else { continue }
            core.journalDone(ticket: last.batch.ticket, sequence: sequence)
        }
    }

    /// What the store was asked for and has not done, which nobody does then.
    func takeJobs() -> [StoreJob] {
        defer { jobs = [] }
        return jobs
    }

    func doJobs(where isDone: (StoreJob) -> Bool = { _ in true }) throws {
        let work = jobs.filter(isDone)
        jobs.removeAll(where: isDone)
        for job in work { try carryOut(StoreQueue.Entry(job, from: 0), in: store) }
    }

    func takeOutbox() -> [(host: HostID, channel: PeerChannel, payload: Bytes)] {
        defer { outbox = [] }
        return outbox
    }

    /// Begins a put; its answer comes under the token.
    func put(_ key: String, _ value: String, group: GroupID, token: UInt64) {
        let command = KeyValueCommand.put(key: Bytes(key), value: Bytes(value))
        core(of: group).execute(
            ExecuteRequest(group: group, epoch: Epoch(1), slot: slot(of: Bytes(key)), payload: command.payload()),
            call: CallToken(rawValue: token))
    }

    func get(
        _ key: String, group: GroupID, _ consistency: Consistency = .linearizable, bound: UInt64 = 0, token: UInt64
    ) {
        let slot = slot(of: Bytes(key))
        core(of: group).query(
            QueryRequest(
                group: group, epoch: Epoch(1), slot: slot, machine: .keyValue, consistency: consistency,
                bound: bound, query: KeyValueQuery.get(key: Bytes(key)).encoded()),
            call: CallToken(rawValue: token))
    }

    func put(_ key: String, _ value: String, timeToLiveMillis: UInt64, group: GroupID, token: UInt64) {
        execute(
            KeyValueCommand.put(key: Bytes(key), value: Bytes(value), timeToLiveMillis: timeToLiveMillis).payload(),
            slot(of: Bytes(key)), group, token: token)
    }

    func delete(_ key: String, group: GroupID, token: UInt64) {
        core(of: group).execute(
            ExecuteRequest(
                group: group, epoch: Epoch(1), slot: slot(of: Bytes(key)),
                payload: KeyValueCommand.delete(key: Bytes(key)).payload()),
            call: CallToken(rawValue: token))
    }

    func page(_ group: GroupID, _ consistency: Consistency = .linearizable, token: UInt64) {
        core(of: group).page(
            PageRequest(group: group, consistency: consistency, from: nil, bytesMax: 1_000),
            call: CallToken(rawValue: token))
    }

    func answer(_ token: UInt64) -> Response<DataResult>? { replies[CallToken(rawValue: token)] }
    func refusal(_ token: UInt64) -> Refusal? {
        if case .refused(let refusal) = answer(token) { refusal } else { nil }
    }
    func result(_ token: UInt64) -> DataResult? {
        if case .done(let result) = answer(token) { result } else { nil }
    }
    func isDone(_ token: UInt64) -> Bool {
        if case .done = answer(token) { true } else { false }
    }
}

extension TestHost: StoreJobRunner {
    typealias Storage = SimulatedDisk

    var journalStand: (name: UInt64, sequence: UInt64) { (journal.identity.journal, journal.lastSequence) }
    func nextCheckpoint() -> StoreQueue.Entry? { nil }
    func foundNoSpace(_ entry: StoreQueue.Entry, _ error: DiskError) {}

    func ended(_ entry: StoreQueue.Entry, _ outcome: StoreOutcome) {
        switch outcome {
        case .checkpointed(let group, let view): core(of: group).checkpointDone(group: group, view: view)
        case .merged(let group, let view): core(of: group).mergeDone(group: group, view: view)
        case .mergeFoundNoSpace(let group, _): core(of: group).mergeFoundNoSpace(group: group)
        case .damaged(.checkpoint(let group, _, _), let what), .damaged(.merge(let group, _, _), let what):
            core(of: group).storeDamaged(entry.job, what)
        case .damaged: break
        case .removed(let group): core(of: group).replicaRemoved(group: group)
        case .snapshotTaken(let group, let after, let isLast):
            core(of: group).snapshotTaken(group: group, after: after, isLast: isLast)
        case .snapshotInstalled(let group, let machines):
            core(of: group).snapshotInstalled(group: group, machines: machines)
        case .snapshotFailed(let group, let why):
            core(of: group).snapshotFailed(group: group, why)
            notices.append(why)
        }
    }
}

final class Trio {
    let map: ClusterMap
    let hosts: [TestHost]
    private let featureLevels: [UInt32]
    /// Places of hosts that are cut off from the others.
    var isCut: Set<Int> = []
    /// What went over the bulk connections, and whether it is lost.
    private(set) var bulkPayloads = 0
    private(set) var bulkBytes = 0
    var isBulkLost = false
    /// Called with each payload that is sent.
    var look: ((_ from: Int, _ to: Int, _ channel: PeerChannel, _ payload: Bytes) -> Void)?
    /// What arrives of it, where memory on the way turns bits over.
    var tamper: ((_ from: Int, _ to: Int, _ payload: Bytes) -> Bytes)?

    /// - Parameters:
    ///   - loops: event loops of each host.
    ///   - featureLevels: of each host's version. What one does not know itself it says to nobody, whatever they know.
    ///   - registered: the levels that the first map has of the hosts; nil: the same.
    ///   - machines: of users, that all hosts have but those at the places `unaware`, and the one at 2 if it has `odd` ones.
    ///   - prepare: what a host's journal has before it starts.
    ///   - mapLevel: below `FeatureLevel.membership` members stay as they are, and nobody is replaced.
    init(
        groups: Int = 1, hosts count: Int = 3, loops: [Int]? = nil, featureLevels: [UInt32]? = nil,
        registered: [UInt32]? = nil, mapLevel: UInt32? = nil, machines: StateMachineRegistry = StateMachineRegistry(),
        unaware: Set<Int> = [], odd: StateMachineRegistry? = nil, adjust: (inout HostSettings) -> Void = { _ in },
        prepare: (HostID, ClusterMap, Journal<SimulatedDisk>) throws -> Void = { _, _, _ in }
    ) throws {
        var settings = HostSettings()
        adjust(&settings)
        let levels = featureLevels ?? Array(repeating: FeatureLevel.current, count: count)
        self.featureLevels = levels
        let records = (1...count).map { number in
            HostRecord(
                id: HostID(UInt64(number)), name: "host\(number)", address: "10.0.0.\(number):7000",
                incarnation: Incarnation(UInt64(number)), featureLevel: (registered ?? levels)[number - 1])
        }
        map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: records, groups: groups, replicas: min(3, count),
            featureLevel: mapLevel ?? FeatureLevel.ofNewMap(hosts: registered ?? levels))
        var hosts: [TestHost] = []
        for (place, record) in records.enumerated() {
            var settings = settings
            settings.featureLevel = levels[place]
            settings.machines = unaware.contains(place) ? StateMachineRegistry() : machines
            if place == 2, let odd { settings.machines = odd }
            hosts.append(
                try TestHost(record.id, map: map, settings: settings, loops: loops?[place] ?? 1) { [map] in
                    try prepare(record.id, map, $0)
                })
        }
        self.hosts = hosts
        for host in hosts { try host.turn() }
        for place in hosts.indices {
            for other in hosts.indices where other != place { connect(place, to: other) }
        }
    }

    private func connect(_ place: Int, to other: Int) {
        for channel in PeerChannel.allCases {
            hosts[place].core.peerUp(
                hosts[other].id, over: channel, featureLevel: featureLevels[other])
        }
    }

    /// Delivers until nothing moves.
    func settle() throws {
        for _ in 0..<1_000 where try !deliver() { return }
    }

    /// One turn of each host, and what it says. False: nothing moves any more.
    func deliver() throws -> Bool {
        var moved = false
        for (place, host) in hosts.enumerated() {
            try host.turn()
            for (target, channel, payload) in host.takeOutbox() {
                moved = true
                let to = Int(target.rawValue) - 1
                if isCut.contains(place) || isCut.contains(to) { continue }
                look?(place, to, channel, payload)
                if channel == .bulk {
                    bulkPayloads += 1
                    bulkBytes += payload.count
                    if isBulkLost { continue }
                }
                try hosts[to].receive(tamper?(place, to, payload) ?? payload, from: host.id)
            }
            if host.hasWork { moved = true }
        }
        return moved
    }

    /// Another host's answer that it does not agree with the host's next heartbeat.
    func disagree(_ place: Int, with other: Int) throws {
        let host = hosts[place]
        for _ in 0..<20 {
            for payload in host.takeOutbox() where payload.host == hosts[other].id {
                guard let heartbeat = try PeerBatchReader(payload.payload).heartbeat else { continue }
                var writer = PeerBatchWriter()
                writer.reply = HostHeartbeatReply(sequence: heartbeat.sequence, agrees: false)
                return try host.receive(writer.take(), from: hosts[other].id)
            }
            if !host.hasWork { host.tick() }
            try host.turn()
        }
        throw DiskError(.misuse, "no heartbeat came")
    }

    func tick(_ count: Int = 1) throws {
        for _ in 0..<count {
            for host in hosts { host.tick() }
            try settle()
            for host in hosts {
                for core in host.cores where !host.stuckLoops.contains(core.loop.number) && !core.hasWork {
                    if let overlooked = core.overlooked() { Issue.record("host \(host.id): \(overlooked)") }
                }
            }
        }
    }

    func cut(_ place: Int) {
        isCut.insert(place)
        for (other, host) in hosts.enumerated() where other != place {
            for channel in PeerChannel.allCases {
                host.core.peerDown(hosts[place].id, over: channel)
                hosts[place].core.peerDown(host.id, over: channel)
            }
        }
    }

    func join(_ place: Int) {
        isCut.remove(place)
        for other in hosts.indices where other != place {
            connect(other, to: place)
            connect(place, to: other)
        }
    }

    /// Ticks until the group has a leader among the hosts that are not cut off, and says where.
    func leader(of group: GroupID = GroupID(1)) throws -> Int {
        for _ in 0..<200 {
            try tick()
            for (place, host) in hosts.enumerated() where !isCut.contains(place) {
                if host.inspection(of: group)?.isEstablished == true { return place }
            }
        }
        throw DiskError(.misuse, "no leader came")
    }
}
