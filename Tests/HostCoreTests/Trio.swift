// Three host cores with journals and stores over simulated disks, joined by queues that the test moves by hand.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

/// One host; the test says when its journal and its store get on.
final class TestHost {
    let id: HostID
    let core: HostCore
    let journal: Journal<SimulatedDisk>
    let store: Store<SimulatedDisk>
    var holdsJournal = false
    var holdsStore = false
    private(set) var batches: [JournalBatch] = []
    private(set) var jobs: [StoreJob] = []
    private(set) var outbox: [(host: HostID, payload: Bytes)] = []
    private(set) var replies: [CallToken: Response<DataResult>] = [:]
    private(set) var superfluous: [(replica: ReplicaID, through: LogIndex)] = []
    private(set) var notices: [String] = []
    private var effects = HostEffects()

    init(_ id: HostID, map: ClusterMap, settings: HostSettings) throws {
        self.id = id
        let identity = HostIdentity(
            cluster: map.cluster, host: id, incarnation: Incarnation(id.rawValue), featureLevel: 1,
            journal: 100 + id.rawValue)
        journal = try Journal(disk: SimulatedDisk(seed: id.rawValue), formatting: identity)
        store = try Store(
            disk: SimulatedDisk(seed: 10 + id.rawValue),
            formatting: StoreIdentity(cluster: map.cluster, host: id, journal: identity.journal),
            settings: StoreSettings(runsMax: settings.runsMax))
        core = HostCore(
            host: id, journal: identity.journal, settings: settings, seed: id.rawValue, now: Instant(1_000_000),
            journalSequence: journal.lastSequence)
        core.adopt(map)
    }

    var now = Instant(1_000_000)

    func turn() throws {
        core.turn(now: now, into: &effects)
        let work = effects
        effects = HostEffects()
        outbox += work.peerPayloads
        for reply in work.replies { replies[reply.call] = reply.response }
        if !work.superfluous.isEmpty { superfluous = work.superfluous }
        notices += work.notices
        for read in work.coldReads {
            let found = try store.get(read.key, in: read.view)
            replies[read.call] = .done(HostCore.result(found, index: read.index, revision: read.revision))
        }
        for read in work.logReads {
            let entries = try journal.entries(
                of: read.replica, from: read.from, through: read.through, bytesMax: read.bytesMax)
            core.supply(entries, group: read.group, follower: read.follower)
        }
        let logs = journal.recovered()
        for birth in work.births {
            let restored = try RestoredReplica(birth, logs: logs, journal: journal, store: store)
            if !restored.plan.records.isEmpty { _ = try journal.append(restored.plan.records) }
            core.install(
                group: restored.group, plan: restored.plan, machine: restored.machine, memtable: Memtable(),
                view: restored.view)
        }
        if let batch = work.journal { batches.append(batch) }
        jobs += work.storeJobs
        if !holdsJournal { try commit() }
        if !holdsStore { try doJobs() }
    }

    func commit() throws {
        guard let last = batches.last else { return }
        let sequence = try journal.append(batches.flatMap(\.records))
        batches = []
        core.journalDone(ticket: last.ticket, sequence: sequence)
    }

    func doJobs() throws {
        let work = jobs
        jobs = []
        for job in work {
            switch job {
            case .checkpoint(let group, let frozen, let header):
                try store.checkpoint(frozen, header)
                if let view = store.view(header.replica) { core.checkpointDone(group: group, view: view) }
            case .merge(let group, let replica):
                try store.merge(replica)
                if let view = store.view(replica) { core.mergeDone(group: group, view: view) }
            }
        }
    }

    func takeOutbox() -> [(host: HostID, payload: Bytes)] {
        defer { outbox = [] }
        return outbox
    }

    /// Begins a put; its answer comes under the token.
    func put(_ key: String, _ value: String, group: GroupID, token: UInt64) {
        let command = KeyValueCommand.put(key: Bytes(key), value: Bytes(value))
        core.execute(
            ExecuteRequest(group: group, epoch: Epoch(1), slot: slot(of: Bytes(key)), payload: command.payload()),
            call: CallToken(rawValue: token))
    }

    func get(_ key: String, group: GroupID, _ consistency: Consistency = .linearizable, token: UInt64) {
        let slot = slot(of: Bytes(key))
        core.query(
            QueryRequest(
                group: group, epoch: Epoch(1), slot: slot, machine: .keyValue, consistency: consistency,
                query: KeyValueQuery.get(key: Bytes(key)).encoded()),
            call: CallToken(rawValue: token))
    }

    func answer(_ token: UInt64) -> Response<DataResult>? { replies[CallToken(rawValue: token)] }
    func refusal(_ token: UInt64) -> Refusal? {
        if case .refused(let refusal) = answer(token) { refusal } else { nil }
    }
    func isDone(_ token: UInt64) -> Bool {
        if case .done = answer(token) { true } else { false }
    }
}

final class Trio {
    let map: ClusterMap
    let hosts: [TestHost]
    /// Places of hosts that are cut off from the others.
    var isCut: Set<Int> = []

    init(groups: Int = 1, adjust: (inout HostSettings) -> Void = { _ in }) throws {
        var settings = HostSettings()
        adjust(&settings)
        let records = (1...3).map { number in
            HostRecord(
                id: HostID(UInt64(number)), name: "host\(number)", address: "10.0.0.\(number):7000",
                incarnation: Incarnation(UInt64(number)))
        }
        map = try Planner.firstMap(cluster: ClusterID(high: 1, low: 2), hosts: records, groups: groups, replicas: 3)
        var hosts: [TestHost] = []
        for record in records { hosts.append(try TestHost(record.id, map: map, settings: settings)) }
        self.hosts = hosts
        for host in hosts { try host.turn() }
        for host in hosts { for other in hosts where other.id != host.id { host.core.peerUp(other.id) } }
    }

    /// Delivers until nothing moves.
    func settle() throws {
        for _ in 0..<1_000 {
            var moved = false
            for (place, host) in hosts.enumerated() {
                try host.turn()
                for (target, payload) in host.takeOutbox() {
                    moved = true
                    let to = Int(target.rawValue) - 1
                    if isCut.contains(place) || isCut.contains(to) { continue }
                    try hosts[to].core.receive(payload, from: host.id)
                }
                if host.core.hasWork { moved = true }
            }
            if !moved { return }
        }
    }

    func tick(_ count: Int = 1) throws {
        for _ in 0..<count {
            for host in hosts {
                host.now = host.now + 50_000_000
                host.core.tick(now: host.now)
            }
            try settle()
        }
    }

    func cut(_ place: Int) {
        isCut.insert(place)
        for (other, host) in hosts.enumerated() where other != place {
            host.core.peerDown(hosts[place].id)
            hosts[place].core.peerDown(host.id)
        }
    }

    func join(_ place: Int) {
        isCut.remove(place)
        for (other, host) in hosts.enumerated() where other != place {
            host.core.peerUp(hosts[place].id)
            hosts[place].core.peerUp(host.id)
        }
    }

    /// Ticks until the group has a leader among the hosts that are not cut off, and says where.
    func leader(of group: GroupID = GroupID(1)) throws -> Int {
        for _ in 0..<200 {
            try tick()
            for (place, host) in hosts.enumerated() where !isCut.contains(place) {
                if host.core.inspection(of: group)?.isEstablished == true { return place }
            }
        }
        throw DiskError(.misuse, "no leader came")
    }
}
