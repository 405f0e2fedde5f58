// A whole cluster in one thread: hosts, clients, network, disks and time, all from one seed. Owns the order of events
// and
// the phases of a run; the decisions are those of the production modules.

import HostCore
import Primitives
import Ring
import Storage

/// How much happened in a run.
public struct SimulationReport: Hashable, Sendable {
    public var seed: UInt64 = 0
    public var traceHash: UInt64 = 0
    public var events: UInt64 = 0
    public var simulatedNanoseconds: UInt64 = 0
    public var operations = 0
    public var acknowledged = 0
    public var unknownOutcomes = 0
    public var faults = 0
    public var crashes = 0
    public var diskFailures = 0
    public var elections = 0
    public var commits = 0
    public var checkpoints = 0
    public var merges = 0
    public var trimmedValues = 0
    public var coldReads = 0
    public var logReads = 0
    public var bulkPayloads = 0
    /// The largest journal of a host when all groups are idle.
    public var journalBytesAtRest = 0
    /// From healing until every group had a leader.
    public var leadersNanoseconds: UInt64 = 0
    public init() {}
}

/// A rule that was broken.
public struct SimulationFailure: Error, Sendable, CustomStringConvertible {
    public var seed: UInt64
    public var invariant: String
    public var detail: String
    public var lastEvents: [String]

    public var description: String {
        "seed \(seed): \(invariant): \(detail)\nlast events:\n  " + lastEvents.joined(separator: "\n  ")
    }
}

/// One run. Make it, call `run`, look at `operations`.
public final class SimulatedCluster {
    public let seed: UInt64
    package let plan: SimulatedPlan
    let map: ClusterMap
    var random: SeededRandom
    private(set) var now: UInt64 = 0
    private var queue = SimulatedEventQueue()
    private var trace = SimulatedTrace()
    private(set) var hosts: [SimulatedHost] = []
    private(set) var clients: [SimulatedClient] = []
    private(set) var network: SimulatedNetwork!
    private(set) var peerLinks: [SimulatedPeerLink] = []
    private(set) var invariants: Invariants!
    let keys: [Bytes]
    var report = SimulationReport()
    private(set) var failure: SimulationFailure?

    /// Clients go on submitting.
    var isLoadOn = true
    var areFaultsOn = true
    /// What clients did, in the order of calls; reads of the end included.
    public internal(set) var operations: [SimulatedOperation] = []
    /// Payloads of commands, by operation.
    var payloads: [Int: Bytes] = [:]
    var nextSequence: UInt64 = 1

    /// - Parameter adjust: changes what the seed drew.
    package init(seed: UInt64, adjust: (inout SimulatedPlan) -> Void = { _ in }) {
        self.seed = seed
        random = SeededRandom(seed: mix(seed))
        var plan = SimulatedPlan(random: &random)
        adjust(&plan)
        self.plan = plan
        let records = (1...plan.hosts).map { number in
            HostRecord(
                id: HostID(UInt64(number)), name: "host\(number)", address: "10.0.0.\(number):7000",
                incarnation: Incarnation(UInt64(number) * 1_000_003))
        }
        do {
            map = try Planner.firstMap(
                cluster: ClusterID(high: 1, low: seed | 1), hosts: records, groups: plan.groups, replicas: 3)
        } catch { preconditionFailure("no map: \(error)") }
        keys = (0..<plan.keys).map { Bytes("key \($0)") }
        report.seed = seed
        invariants = Invariants(cluster: self)
        network = SimulatedNetwork(cluster: self, count: plan.hosts + plan.clients)
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
    }

    public convenience init(seed: UInt64) { self.init(seed: seed, adjust: { _ in }) }

    /// Each event as a line, as it happens.
    public func listen(_ listener: @escaping (String) -> Void) { trace.listener = listener }

    // MARK: Time

    func schedule(
        after delay: UInt64, _ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0, _ action: @escaping () -> Void
    ) {
        queue.schedule(at: now + delay) { [unowned self] in
            trace.note(TraceNote(time: now, name: name, a: a, b: b))
            action()
        }
    }

    func note(_ name: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0) {
        trace.note(TraceNote(time: now, name: name, a: a, b: b))
    }

    /// A rule is broken: the run ends with the first one.
    func fail(_ invariant: String, _ detail: String) {
        guard failure == nil else { return }
        failure = SimulationFailure(seed: seed, invariant: invariant, detail: detail, lastEvents: trace.last)
    }

    /// Lets time pass until `isDone`, at most for so long. Whether it was done.
    @discardableResult
    private func pass(_ nanosecondsMax: UInt64, until isDone: () -> Bool = { false }) throws(SimulationFailure) -> Bool
    {
        let end = now + nanosecondsMax
        var nextLook = now
        while let time = queue.nextTime, time <= end {
            if time >= nextLook {
                if isDone() { return true }
                nextLook = time + 20_000_000
            }
            guard let event = queue.take() else { break }
            now = time
            event.action()
            if let failure { throw failure }
        }
        now = end
        return isDone()
    }

    private func expect(_ isTrue: Bool, _ invariant: String, _ detail: @autoclosure () -> String)
        throws(SimulationFailure)
    {
        if !isTrue { fail(invariant, detail()) }
        if let failure { throw failure }
    }

    // MARK: Phases

    /// Virtual time in which each group must have a leader once all is well again.
    private static let leadersNanosecondsMax: UInt64 = 10_000_000_000
    private static let operationsNanosecondsMax: UInt64 = 30_000_000_000

    /// Safety under faults, then healing, convergence, rest; everything read back through every host, and again after
    /// all
    /// of them were restarted.
    public func run() throws(SimulationFailure) -> SimulationReport {
        for host in hosts { schedule(after: random.below(100_000_000), "start", UInt64(host.place)) { host.start() } }
        for client in clients { client.start(workers: plan.workersPerClient) }
        scheduleFault()
        try pass(plan.faultsNanoseconds)
        heal()
        try awaitLeaders()
        try pass(1_000_000_000)
        isLoadOn = false
        try expect(
            try pass(
                Self.operationsNanosecondsMax,
                until: { clients.allSatisfy { $0.openOperations == 0 && $0.workersBusy == 0 } }),
            "operations end", "\(clients.map(\.openOperations)) are still open")
        try expect(try pass(Self.leadersNanosecondsMax, until: { isConverged }), "convergence", describeReplicas())
        try expect(
            try pass(Self.leadersNanosecondsMax, until: { isAtRest }), "idle groups cost nothing", describeReplicas())
        report.journalBytesAtRest = hosts.reduce(0) { max($0, $1.journal?.statistics.bytes ?? 0) }
        try readBack()
        for host in hosts { crash(host.place, restartAfter: random.below(500_000_000)) }
        try pass(600_000_000)
        try awaitLeaders()
        try readBack()
        judgeCommands()
        if let failure { throw failure }
        report.traceHash = trace.hash
        report.events = trace.count
        report.simulatedNanoseconds = now
        report.operations = operations.count
        report.acknowledged = operations.reduce(0) { $0 + ($1.outcome == .failed || $1.outcome == .unknown ? 0 : 1) }
        report.unknownOutcomes = operations.reduce(0) { $0 + ($1.outcome == .unknown ? 1 : 0) }
        return report
    }

    private func awaitLeaders() throws(SimulationFailure) {
        let start = now
        try expect(
            try pass(Self.leadersNanosecondsMax, until: { hasLeaders }), "a leader within ten seconds",
            describeReplicas())
        report.leadersNanoseconds = max(report.leadersNanoseconds, now - start)
    }

    /// Every group has one leader with a committed entry of its term, and all members follow it.
    private var hasLeaders: Bool {
        map.groups.allSatisfy { group in
            let replicas = inspections(of: group)
            guard replicas.count == group.replicas.count, let leader = replicas.first(where: { $0.isEstablished })
            else { return false }
            return replicas.allSatisfy { $0.term == leader.term && $0.leader == leader.replica }
        }
    }

    private var isConverged: Bool {
        map.groups.allSatisfy { group in
            let replicas = inspections(of: group)
            return replicas.count == group.replicas.count
                && replicas.allSatisfy {
                    $0.applied == replicas[0].applied && $0.digest == replicas[0].digest && $0.applied == $0.last
                }
        }
    }

    private var isAtRest: Bool { hosts.allSatisfy { $0.activeCount == 0 } }

    private func inspections(of group: GroupRecord) -> [ReplicaInspection] {
        group.replicas.compactMap { hosts[place(of: $0.host)].inspection(of: group.id) }
    }

    private func describeReplicas() -> String {
        map.groups.map { group in
            "group \(group.id): "
                + inspections(of: group).map {
                    "\($0.replica) \($0.role) term \($0.term) leader \($0.leader) \($0.manifestIndex)/\($0.applied)/\($0.commit)/\($0.last)"
                        + "\($0.isActive ? " active" : "")\($0.waitingCalls > 0 ? " calls \($0.waitingCalls)" : "")"
                }.joined(separator: ", ")
        }.joined(separator: "\n")
    }

    private func readBack() throws(SimulationFailure) {
        var open = 0
        for (number, host) in hosts.enumerated() {
            for group in map.dataGroups where group.replica(on: host.id) != nil {
                open += 1
                readAll(of: group.id, at: host.id, through: clients[number % clients.count]) { open -= 1 }
            }
        }
        try expect(
            try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
            "\(open) groups can't be read back")
    }

    // MARK: Finding

    func place(of host: HostID) -> Int { Int(host.rawValue) - 1 }

    func peerLink(from: Int, to: Int, over channel: PeerChannel) -> SimulatedPeerLink {
        let place = from * (plan.hosts - 1) + (to > from ? to - 1 : to)
        return peerLinks[Int(channel.rawValue) * plan.hosts * (plan.hosts - 1) + place]
    }
}
