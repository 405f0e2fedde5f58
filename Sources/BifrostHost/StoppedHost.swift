// A host's directory while no process serves it: what a recovery has to know of it, and what it writes. Owns the order
// of writes, and what a crash between them leaves; what is to be written is the plan's affair.
//
//   journal: forced entries, tombstones and the new identity, one commit ──► store: identity ──► cluster-map
//            before it: nothing has happened
//            behind it: the host does not start until the rest is there, and `apply` goes on with that

import HostCore
import Messages
public import Primitives
import RaftCore
public import Recovery
import Ring
import StateMachines
import Storage

/// Holds the directory's locks as long as it lives.
public final class StoppedHost {
    private let directory: DataDirectory
    private let journal: Journal<LMDBDisk>
    private let store: Store<LMDBDisk>

    /// Where a plan stands on a host.
    public enum Standing: Hashable, Sendable {
        /// Everything is as it was reported: nothing of the plan has happened.
        case ready
        /// It was interrupted behind its first commit, and has to be finished.
        case begun
        case done
    }

    /// Opens what is there; makes nothing but an empty store where none is. As any start it flushes what was written, and deletes chunks of the store that
    /// nothing names.
    ///
    /// - Parameter level: what this program knows.
    /// - Throws: `HostError`: held by a running host, no host's directory, or damaged as a whole.
    public init(directory path: String, level: UInt32 = FeatureLevel.current) throws {
        guard !DataDirectory.isNew(path) else {
            throw HostError(.directory, "expected the data directory of a host at \(path), found none")
        }
        directory = try DataDirectory(path: path)
        do {
            // The store first: it says least when it is missing.
            let storeDisk = try LMDBDisk(directory: directory.store)
            let journalDisk = try LMDBDisk(directory: directory.journal)
            // Behind both locks.
            try directory.refuseRestoration()
            journal = try Journal(disk: journalDisk, formatting: nil)
            guard journal.identity.cluster != .none else {
                throw HostError(.directory, "\(path) belongs to no cluster: there is nothing to recover in it")
            }
            let identity = journal.identity
            store = try Store(
                disk: storeDisk,
                formatting: StoreIdentity(
                    cluster: identity.cluster, host: identity.host, journal: identity.journal))
            journal.heed(store.loss)
            guard identity.featureLevel <= level else {
                throw HostError(
                    .directory,
                    "\(path) was used by a version with feature level \(identity.featureLevel), this one has "
                        + "\(level): use the newer one")
            }
            guard store.identity.host == identity.host, store.identity.journal == identity.journal else {
                throw HostError(
                    .directory,
                    "\(path): its store was written by host \(store.identity.host) beside another journal, not by host "
                        + "\(identity.host): put the journal and the store that belong together back into one directory"
                )
            }
            try journal.refuseIfLost(beside: store)
        } catch let error as DiskError {
            throw HostError(error, of: directory)
        }
    }

    private func told<Result>(_ body: () throws -> Result) throws -> Result {
        do { return try body() } catch let error as DiskError {
            throw HostError(error.code == .failed ? .disk : .directory, "\(directory.path): \(error)")
        }
    }

    private func map() throws -> ClusterMap {
        guard let map = try directory.loadMap() else {
            throw HostError(
                .directory,
                "\(directory.path) has no copy of the cluster map: copy the file cluster-map from another host's directory"
            )
        }
        return map
    }

    // MARK: Report

    /// What is here. Reads all entries of the journal once, some at a time.
    ///
    /// - Parameter progress: called for each replica with how many of how many are done.
    public func report(progress: (Int, Int) -> Void = { _, _ in }) throws -> HostReport {
        let identity = journal.identity
        let map = try map()
        guard map.cluster == identity.cluster, store.identity.cluster == identity.cluster else {
            throw unfinished(map.cluster == identity.cluster ? store.identity.cluster : map.cluster)
        }
        let logs = journal.recovered()
        let manifests = store.manifests()
        let damaged = store.damaged()
        var ids = Set(logs.filter { !$0.isTombstone }.map(\.replica))
        ids.formUnion(manifests.map(\.replica))
        ids.formUnion(damaged.map(\.replica))
        ids.subtract(logs.filter(\.isTombstone).map(\.replica))
        var report = HostReport(
            cluster: identity.cluster, host: identity.host, incarnation: identity.incarnation,
            bootCounter: identity.bootCounter, journal: identity.journal, journalSequence: journal.lastSequence,
            isJournalDamaged: journal.isLossUnmarked, map: map,
            greatestReplica: (ids.map { $0 } + logs.map(\.replica)).max() ?? .none, replicas: [])
        report.gone = logs.filter(\.isTombstone).map(\.replica)
        let aside = try directory.storesAside()
        report.storesAside = aside.isEmpty ? nil : aside
        let manifestOf = Dictionary(uniqueKeysWithValues: manifests.map { ($0.replica, $0) })
        let logOf = Dictionary(uniqueKeysWithValues: logs.map { ($0.replica, $0) })
        for (count, id) in ids.sorted().enumerated() {
            progress(count, ids.count)
            let (manifest, log) = (manifestOf[id], logOf[id])
            // One that is damaged and has no log says nothing of its group.
            guard let group = manifest?.header.group ?? log?.group else {
                report.gone.append(id)
                continue
            }
            let (replica, metaMaps) = try told {
                try examine(
                    ReplicaOnDisk(
                        group: group, replica: id, manifest: manifest, log: log, isJournalDamaged: journal.mayLack(id)),
                    map: map, damage: damaged.first { $0.replica == id }?.error)
            }
            report.replicas.append(replica)
            // Of several the one that the map places here, as only that one takes part.
            if let metaMap = metaMaps?.last, report.metaMap == nil || map.group(.meta)?.record(of: id) != nil {
                report.metaMap = metaMap
                report.metaVersions = metaMaps?.map { MapVersion($0) } ?? []
            }
        }
        progress(ids.count, ids.count)
        return report
    }

    private static var pageBytes: Int { 4 << 20 }

    /// - Returns: of the meta group's replica also the map as of what it knows to be committed, and as of each change
    ///   behind that.
    private func examine(
        _ disk: ReplicaOnDisk, map: ClusterMap, damage: DiskError?
    ) throws -> (ReplicaReport, [ClusterMap]?) {
        let first = map.group(disk.group)?.firstConfiguration(of: disk.replica) ?? Configuration(voters: [])
        let plan = ReplicaStartPlan(disk, configuration: first)
        let start = plan.start
        var report = ReplicaReport(
            group: disk.group, replica: disk.replica, term: start.hardState.term, vote: start.hardState.vote,
            applied: start.applied,
            commit: max(start.base, min(max(start.applied, start.hardState.commit), start.last)),
            base: start.base, baseTerm: start.baseTerm, terms: start.termRuns, last: start.last,
            lastLogTime: start.appliedLogTime, configurations: [start.configuration],
            // As a start would find it: that removes a state that can't be read, and where the log goes back to the
            // beginning, nothing is missing then. Who called this one impaired would give up what its log has.
            impairment: plan.impairment.map { impairment in
                damage.map { "its state can't be read: \($0); \(impairment)" } ?? impairment
            }, isMute: plan.isMute)
        guard !report.isMute else { return (report, nil) }
        var machine: MasterStateMachine?
        if disk.group == .meta, report.impairment == nil {
            machine =
                try store.view(disk.replica).map { try RestoredReplica.machine(.meta, $0, store) }
                ?? MasterStateMachine(group: .meta)
        }
        var ownership = try self.ownership(disk, map, start, &report)
        var maps: [ClusterMap] = []
        func noteMap() {
            if let map = machine?.meta.map, map.version != maps.last?.version { maps.append(map) }
        }
        var from = start.base.next
        do {
            while from <= start.last {
                let entries = try journal.entries(
                    of: disk.replica, from: from, through: start.last, bytesMax: Self.pageBytes)
                guard let last = entries.last else {
                    throw DiskError(.corrupt, "journal: entry \(from) of replica \(disk.replica) is missing")
                }
                for entry in entries {
                    if entry.index > report.commit { noteMap() }
                    if entry.index > start.applied { ownership?.follow(entry) }
                    try note(entry, in: &report, &machine)
                }
                from = last.index.next
            }
        } catch let error as DiskError where error.code == .corrupt {
            report.impairment = "\(error)"
            report.isMute = true
        }
        report.configurations.sort { $0.index < $1.index }
        report.note(ownership)
        noteMap()
        return (report, report.impairment == nil ? maps : nil)
    }

    /// What the state says of slots, for what the log makes of it; nil: nothing moves in this cluster, or it is impaired.
    private func ownership(
        _ disk: ReplicaOnDisk, _ map: ClusterMap, _ start: RaftStart, _ report: inout ReplicaReport
    ) throws -> SlotOwnership? {
        guard disk.group != .meta, report.impairment == nil, map.featureLevel >= FeatureLevel.migrations else {
            return nil
        }
        do {
            let view = start.applied > .zero ? store.view(disk.replica) : nil
            return try
                (view.map { try RestoredReplica.machine(disk.group, $0, store) }
                ?? MasterStateMachine(group: disk.group)).ownership
        } catch let error as DiskError where error.code == .corrupt {
            report.impairment = "its records about slots can't be read: \(error)"
        } catch let error as DecodingFailure {
            report.impairment = "its records about slots can't be read: \(error)"
        }
        return nil
    }

    private func note(
        _ entry: LogEntry, in report: inout ReplicaReport, _ machine: inout MasterStateMachine?
    ) throws {
        report.lastLogTime = max(report.lastLogTime, entry.logTime)
        if entry.kind == .configuration {
            var reader = ByteReader(entry.payload)
            if var configuration = try? Configuration(from: &reader), reader.isAtEnd {
                configuration.index = entry.index
                if !report.configurations.contains(where: { $0.index == entry.index }) {
                    report.configurations.append(configuration)
                }
            } else {
                report.impairment = "entry \(entry.index) of its log is no configuration"
            }
        }
        if let applied = machine?.applied, entry.index == applied.next {
            var nowhere = Nowhere()
            if case .unsupported(let what)? = machine?.apply(entry, into: &nowhere) {
                report.impairment = "this version can't apply its log: \(what)"
                machine = nil
            }
        }
    }

    /// The records of a state that is only looked at.
    private struct Nowhere: RecordStore {
        func put(
            slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
            expiry: LogTime, value: Bytes?
        ) {}
        func find(_ place: RecordPosition) -> Finding { .absent }
    }

    // MARK: Apply

    private func unfinished(_ cluster: ClusterID) -> HostError {
        HostError(
            .directory,
            "\(directory.path) belongs to cluster \(journal.identity.cluster), its store or its "
                + "cluster map to \(cluster): a recovery was interrupted here; run 'bifrost recover apply' again with the same plan"
        )
    }

    /// What of the plan is here.
    ///
    /// - Throws: `HostError` if the plan is not for this host, or was made from something else than what is here now.
    public func standing(of plan: RecoveryPlan) throws -> (Standing, SurvivingHost) {
        let identity = journal.identity
        guard let host = plan.hosts.first(where: { $0.host == identity.host }),
            host.incarnation == identity.incarnation, host.journal == identity.journal,
            [plan.formerCluster, plan.cluster].contains(identity.cluster)
        else {
            throw HostError(
                .invalid,
                "the plan is not for host \(identity.host) of cluster \(identity.cluster) in \(directory.path): expected one of "
                    + "the hosts \(plan.hosts.map { "\($0.host)" }.joined(separator: ", ")) of cluster \(plan.formerCluster), as "
                    + "they were reported")
        }
        if identity.cluster == plan.cluster {
            // The copy of the map is written last, and replaced as a whole: one that is missing or damaged was lost later,
            // and the plan's is too old by then.
            return (try map().cluster == plan.cluster ? .done : .begun, host)
        }
        guard host.bootCounter == identity.bootCounter, host.journalSequence == journal.lastSequence else {
            throw HostError(
                .invalid,
                "host \(identity.host) was started since its report (boot \(identity.bootCounter), commit "
                    + "\(journal.lastSequence); the report has \(host.bootCounter) and \(host.journalSequence)): stop all "
                    + "survivors, and make reports and a plan anew")
        }
        return (.ready, host)
    }

    /// Carries the host's part out. Done again, it changes nothing; interrupted, it goes on where it stopped.
    ///
    /// - Returns: whether something was changed.
    @discardableResult public func apply(_ plan: RecoveryPlan) throws -> Bool {
        let (standing, host) = try standing(of: plan)
        guard standing != .done else { return false }
        try told {
            if standing == .ready {
                var identity = journal.identity
                identity.cluster = plan.cluster
                identity.featureLevel = max(identity.featureLevel, FeatureLevel.recovery)
                _ = try journal.append(
                    try host.orders.flatMap { try records(of: $0, plan) }, renaming: identity)
            }
            var identity = store.identity
            identity.cluster = plan.cluster
            try store.update(identity)
            try directory.save(plan.map)
        }
        return true
    }

    private func records(of order: ReplicaOrder, _ plan: RecoveryPlan) throws -> [JournalRecord] {
        let log = journal.log(of: order.replica)
        guard let lead = order.lead else {
            return log?.isTombstone == true ? [] : [.tombstone(order.group, order.replica)]
        }
        // As the replica would start: where its log does not continue its state, that is settled first.
        let start = ReplicaStartPlan(
            ReplicaOnDisk(
                group: order.group, replica: order.replica, manifest: store.manifest(of: order.replica), log: log,
                isJournalDamaged: journal.mayLack(order.replica)),
            configuration: lead.configuration)
        let lastTerm = start.start.termRuns.last?.term ?? start.start.baseTerm
        guard start.impairment == nil, start.start.last == lead.last, lastTerm == lead.lastTerm,
            start.start.hardState.term < lead.term
        else {
            throw HostError(
                .invalid,
                "replica \(order.replica) of group \(order.group) is not what was reported: its log ends at "
                    + "\(start.start.last) in term \(lastTerm), expected \(lead.last) in term \(lead.lastTerm)")
        }
        var writer = ByteWriter()
        lead.configuration.encode(into: &writer)
        var entries = [
            LogEntry(
                index: lead.last.next, term: lead.term, logTime: lead.logTime, kind: .configuration,
                payload: writer.take())
        ]
        if order.group == .meta {
            entries.append(
                LogEntry(
                    index: lead.last + 2, term: lead.term, logTime: lead.logTime, kind: .command,
                    payload: MetaCommand.recover(plan.map).payload()))
        }
        // It votes for nobody in this term: the entries are as a leader's of it.
        let state = HardState(term: lead.term, vote: order.replica, commit: start.start.hardState.commit)
        return start.records + [
            .append(order.group, order.replica, entries), .hardState(order.group, order.replica, state),
        ]
    }
}

extension ReplicaReport {
    fileprivate mutating func note(_ ownership: SlotOwnership?) {
        guard let ownership, ownership.hasHistory else { return }
        lastMigration = ownership.lastMigration
        let traces = ownership.traces.map {
            SlotTrace(
                migration: $0.migration, standing: SlotTrace.Standing($0.standing), group: $0.group, epoch: $0.epoch,
                slots: $0.slots)
        }
        slots = traces.isEmpty ? nil : traces
    }
}

extension SlotTrace.Standing {
    fileprivate init(_ standing: SlotOwnership.Trace.Standing) {
        self =
            switch standing {
            case .under(.exporting): .exporting
            case .under(.frozen): .frozen
            case .under(.released): .released
            case .under(.importing): .importing
            case .under(.sealed): .sealed
            case .under(.dropping): .dropping
            case .came: .came
            case .gone: .gone
            }
    }
}
