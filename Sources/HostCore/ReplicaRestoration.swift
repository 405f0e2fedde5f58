// From what a disk holds to what `HostCore.install` takes: the same steps for every disk, so that the shell and the
// simulator restart replicas in one way. Reads the disk, and writes the first manifest of a replica that has none.

public import Messages
public import Primitives
import RaftCore
public import StateMachines
public import Storage

/// A replica that is ready to be added once `plan.records` are durable in the journal.
public struct RestoredReplica: Sendable {
    public var group: GroupID
    public var plan: ReplicaStartPlan
    public var machine: MasterStateMachine
    /// Pins the manifest.
    public var view: StoreView
    /// What it had in the store could not be read, and is gone: it begins with its log alone, and needs another's state
    /// if that does not go back to the beginning.
    public var damage: DiskError?

    /// Restores a replica that the disk knows; makes the first manifest of one that it doesn't. Store thread.
    ///
    /// - Parameter logs: what the journal recovered when it was opened.
    /// - Throws: what the disk throws.
    public init<D: Disk>(
        _ birth: ReplicaBirth, logs: [RecoveredLog], journal: Journal<D>, store: Store<D>
    ) throws {
        damage = store.damaged().first { $0.replica == birth.replica }?.error
        if damage != nil { try store.remove(birth.replica) }
        var manifest = store.manifest(of: birth.replica)
        let log = logs.first { $0.replica == birth.replica }
        let isNew = manifest == nil && log == nil && !journal.isDamaged
        if manifest == nil {
            let header = ManifestHeader(
                group: birth.group, replica: birth.replica, index: .zero, term: .zero, revision: .zero, logTime: .zero,
                configuration: birth.configuration, digest: 0, journal: journal.identity.journal, journalSequence: 0)
            manifest = try store.start(header)
        }
        if let manifest { try journal.refuseIfLost(behind: manifest) }
        let onDisk = ReplicaOnDisk(
            group: birth.group, replica: birth.replica, manifest: manifest,
            log: log, isJournalDamaged: journal.isDamaged)
        plan = ReplicaStartPlan(onDisk, configuration: birth.configuration)
        plan.mayHavePromised = !isNew
        if plan.hasEntries {
            plan.start.entries = try journal.entries(
                of: birth.replica, from: plan.entriesFrom, through: plan.entriesThrough, bytesMax: .max)
        }
        guard let view = store.view(birth.replica) else {
            throw DiskError(.corrupt, "the store has no sound manifest of replica \(birth.replica)")
        }
        self.view = view
        group = birth.group
        machine = try Self.machine(birth.group, view, store)
    }

    /// The state machine as of the manifest. The meta group's live state is read from its records.
    public static func machine<D: Disk>(_ group: GroupID, _ view: StoreView, _ store: Store<D>) throws
        -> MasterStateMachine
    {
        let header = view.manifest.header
        var records: [MetaRecord] = []
        if group == .meta {
            var from: RecordKey? = RecordKey.first(of: .group)
            while let first = from {
                let page = try store.page(
                    in: view, from: first, recordsMax: 1_024, bytesMax: 8 << 20, tombstones: false)
                for record in page.records where record.key.slot == .group && record.key.machine == .meta {
                    records.append(MetaRecord(key: record.key.key, value: record.value))
                }
                from = page.next
            }
        }
        return try MasterStateMachine(
            group: group, applied: header.index, revision: header.revision, logTime: header.logTime,
            digest: header.digest,
            metaRecords: records)
    }
}

extension Journal {
    /// Deletes what the store has of replicas that were removed from here: the process may have ended behind the
    /// tombstone. Store thread, before any replica of the host takes part.
    public func deleteRemoved(from store: Store<Storage>) throws {
        for log in recovered() where log.isTombstone && store.manifest(of: log.replica) != nil {
            try store.remove(log.replica)
        }
    }

    /// Whether this is the journal that the store's manifests were written with, with all that they have seen of it. To
    /// be asked before any replica of the host takes part: afterwards the journal grows, and hides what it lost.
    ///
    /// - Throws: `.refused` when it is not: the disk counts as lost.
    public func refuseIfLost(beside store: Store<Storage>) throws {
        for manifest in store.manifests() { try refuseIfLost(behind: manifest) }
    }

    /// A journal that is another's, or ends before what a manifest has seen of it, is a lost disk: votes may be
    /// forgotten, and this host must not come back under its old identity.
    fileprivate func refuseIfLost(behind manifest: Manifest) throws {
        guard manifest.journal != identity.journal || manifest.journalSequence > lastSequence,
            !isPlanted("lost-journal-accepted")
        else { return }
        throw DiskError(
            .refused,
            "the journal (\(identity.journal), up to \(lastSequence)) is not the one that replica \(manifest.replica) was "
                + "written with (\(manifest.journal), \(manifest.journalSequence)): the disk counts as lost; "
                + "start with an empty directory")
    }
}

extension ColdPage {
    /// The answer: what the live memtable held, laid over what is below it, up to `recordsMax` records and `bytesMax`
    /// bytes of them as encoded, but at least one. Any thread.
    public func result<D: Disk>(from store: Store<D>, recordsMax: Int) throws -> PageResult {
        let cold = try store.page(in: view, from: from, recordsMax: recordsMax, bytesMax: bytesMax, tombstones: true)
        let merged = RecordPage.overlaid(newer: live, older: cold)
        var next = merged.next.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key) }
        var records: [PageRecord] = []
        records.reserveCapacity(min(merged.records.count, recordsMax))
        var bytes = 0
        // Each of the two layers may fill a page of its own.
        for record in merged.records {
            let position = RecordPosition(slot: record.key.slot, machine: record.key.machine, key: record.key.key)
            let found = PageRecord(
                position: position, revision: record.revision, expiry: record.expiry, value: record.value ?? Bytes())
            bytes += found.encodedBytes
            guard records.isEmpty || records.count < recordsMax && bytes <= bytesMax else {
                next = position
                break
            }
            records.append(found)
        }
        return PageResult(index: index, revision: revision, records: records, next: next)
    }
}
