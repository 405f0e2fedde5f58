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
    /// What it had in the store can't be read: it begins with its log alone. If that goes back to the beginning nothing
    /// is missing, and what can't be read is gone. Else it needs another's state, and keeps what it has until then:
    /// there may be none, and somebody may still get something out of it.
    public var damage: DiskError?

    /// Restores replicas that the disk knows; makes the first manifests of those that it doesn't, and of those whose
    /// log has all that their damaged state had, in one transaction. Store thread.
    ///
    /// - Parameter logs: what the journal has of them, ascending by replica; others may be among them.
    /// - Returns: in the order of `births`.
    /// - Throws: what the disk throws.
    public static func restored<D: Disk>(
        _ births: [ReplicaBirth], logs: [RecoveredLog], journal: Journal<D>, store: Store<D>
    ) throws -> [RestoredReplica] {
        let damaged = store.damaged()
        var damages: [DiskError?] = []
        var headers: [ManifestHeader] = []
        for birth in births {
            let damage = damaged.first { $0.replica == birth.replica }?.error
            damages.append(damage)
            if damage != nil {
                let fromLog = ReplicaStartPlan(
                    onDisk(birth, nil, logs, journal), configuration: birth.configuration)
                guard fromLog.impairment == nil else { continue }
                try store.remove(birth.replica)
            }
            guard store.manifest(of: birth.replica) == nil else { continue }
            headers.append(.first(birth.group, birth.replica, birth.configuration, journal: journal.identity.journal))
        }
        if journal.isLossUnmarked, !headers.isEmpty {
            try journal.markLoss(in: store, before: headers.map(\.replica))
        }
        try store.start(headers)
        var fresh = headers[...]
        return try zip(births, damages).map { birth, damage in
            let isFresh = fresh.first?.replica == birth.replica
            if isFresh { fresh.removeFirst() }
            return try RestoredReplica(
                birth, damage: damage, hadManifest: !isFresh, logs: logs, journal: journal, store: store)
        }
    }

    private static func onDisk<D: Disk>(
        _ birth: ReplicaBirth, _ manifest: Manifest?, _ logs: [RecoveredLog], _ journal: Journal<D>
    ) -> ReplicaOnDisk {
        ReplicaOnDisk(
            group: birth.group, replica: birth.replica, manifest: manifest, log: logs.log(of: birth.replica),
            isJournalDamaged: journal.mayLack(birth.replica))
    }

    private init<D: Disk>(
        _ birth: ReplicaBirth, damage: DiskError?, hadManifest: Bool, logs: [RecoveredLog], journal: Journal<D>,
        store: Store<D>
    ) throws {
        self.damage = damage
        let manifest = store.manifest(of: birth.replica)
        let onDisk = Self.onDisk(birth, manifest, logs, journal)
        // A manifest is written before a replica says anything, and deleted only behind `removedThrough`: without one,
        // and above that, it was never here. What a damaged journal lost can't be its then.
        let isNew =
            !hadManifest && damage == nil && onDisk.log == nil && !journal.mayLack(birth.replica)
            && (!journal.isDamaged || store.removedThrough.map { birth.replica > $0 } ?? false)
        if let manifest { try journal.refuseIfLost(behind: manifest) }
        plan = ReplicaStartPlan(onDisk, configuration: birth.configuration)
        plan.mayHavePromised = !isNew
        if plan.hasEntries {
            plan.start.entries = try journal.entries(
                of: birth.replica, from: plan.entriesFrom, through: plan.entriesThrough, bytesMax: .max)
        }
        if let view = store.view(birth.replica) {
            self.view = view
        } else if let damage, let impairment = plan.impairment {
            plan.impairment =
                "its state can't be read, and stays on the disk as it is until another member gives one: \(damage); "
                + impairment
            view = store.emptyView(
                .first(birth.group, birth.replica, birth.configuration, journal: journal.identity.journal))
        } else {
            throw DiskError(.corrupt, "the store has no sound manifest of replica \(birth.replica)")
        }
        group = birth.group
        do {
            machine = try Self.machine(birth.group, view, store)
        } catch let error where birth.group != .meta && Self.isDamage(error) {
            // Of this replica alone: it votes and acknowledges, and applies nothing until another gives it a state.
            plan.stateCanNotBeRead("\(error)")
            machine = try MasterStateMachine(group: birth.group, applied: view.manifest.header.index)
        }
    }

    private static func isDamage(_ error: any Error) -> Bool {
        error is DecodingFailure || (error as? DiskError)?.code == .corrupt
    }

    /// The state machine as of the manifest. The meta group's live state is read from its records.
    public static func machine<D: Disk>(_ group: GroupID, _ view: StoreView, _ store: Store<D>) throws
        -> MasterStateMachine
    {
        let header = view.manifest.header
        var records: [MetaRecord] = []
        var sessions: [SessionRecord] = []
        var slots: [SlotRecord] = []
        if !view.manifest.runs.isEmpty {
            var from: RecordKey? = RecordKey.first(of: .group)
            while let first = from {
                let page = try store.page(
                    in: view, from: first, recordsMax: 1_024, bytesMax: 8 << 20, tombstones: false)
                for record in page.records where record.key.slot == .group {
                    switch record.key.machine {
                    case .meta where group == .meta:
                        records.append(MetaRecord(key: record.key.key, value: record.value))
                    case .sessions where group != .meta:
                        sessions.append(
                            SessionRecord(
                                key: record.key.key, changed: record.changed, revision: record.revision,
                                value: record.value))
                    case .slotOwnership where group != .meta:
                        slots.append(SlotRecord(key: record.key.key, value: record.value))
                    default: break
                    }
                }
                from = page.next
            }
        }
        return try MasterStateMachine(
            group: group, applied: header.index, revision: header.revision, logTime: header.logTime,
            digest: header.digest,
            metaRecords: records, sessionRecords: sessions, slotRecords: slots)
    }
}

extension ManifestHeader {
    /// Of a replica that has nothing yet.
    static func first(
        _ group: GroupID, _ replica: ReplicaID, _ configuration: Configuration, journal: UInt64
    ) -> ManifestHeader {
        ManifestHeader(
            group: group, replica: replica, index: .zero, term: .zero, revision: .zero, logTime: .zero,
            configuration: configuration, digest: 0, journal: journal, journalSequence: 0)
    }
}

extension [RecoveredLog] {
    /// They ascend by replica.
    fileprivate func log(of replica: ReplicaID) -> RecoveredLog? {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if self[middle].replica < replica { low = middle + 1 } else { high = middle }
        }
        return low < count && self[low].replica == replica ? self[low] : nil
    }
}

extension Journal {
    /// Deletes what the store has of replicas that were removed from here: the process may have ended behind the
    /// tombstone. A store that does not know how far ids are used up learns it from a journal that is whole. Store
    /// thread, before any replica of the host takes part.
    ///
    /// - Throws: `.refused` if there is no such journal: the disk counts as lost.
    public func deleteRemoved(from store: Store<Storage>) throws {
        heed(store.loss)
        if store.removedThrough == nil {
            guard !isDamaged else {
                throw DiskError(
                    .refused,
                    "the journal lost records, and the store can't tell which replicas were ever here: the disk counts as "
                        + "lost; start with an empty directory")
            }
            try store.learnRemoved(through: recovered().last?.replica ?? .none)
        }
        guard !isDamaged || canBeMarked else {
            throw DiskError(
                .refused,
                "the journal lost what it knew of its replicas: the disk counts as lost; start with an empty directory")
        }
        for log in recovered() where log.isTombstone && store.manifest(of: log.replica) != nil {
            try store.remove(log.replica)
        }
    }

    /// Something was lost, and nobody knows whose. Replicas that come now are not concerned, as long as that can be told
    /// from here on, at each start: it is noted before they say anything.
    ///
    /// - Parameter newcomers: those that are about to come, of which nothing is on the disk.
    fileprivate func markLoss(in store: Store<Storage>, before newcomers: [ReplicaID]) throws {
        guard canBeMarked, let removed = store.removedThrough else { return }
        let known = store.manifests().map(\.replica) + store.damaged().map(\.replica) + recovered().map(\.replica)
        let last = max(known.max() ?? .none, removed)
        guard newcomers.contains(where: { $0 > last }) else { return }
        let loss = JournalLoss(sequence: lastSequence, replica: last)
        try store.note(loss)
        heed(loss)
    }

    /// Whether this is the journal that the store's manifests were written with, with all that they have seen of it. To
    /// be asked before any replica of the host takes part: afterwards the journal grows, and hides what it lost.
    ///
    /// - Throws: `.refused` when it is not: the disk counts as lost.
    public func refuseIfLost(beside store: Store<Storage>) throws {
        guard store.identity.journal == identity.journal || isPlanted("lost-journal-accepted") else {
            throw DiskError(
                .refused,
                "the journal (\(identity.journal)) is not the one that the store was written beside "
                    + "(\(store.identity.journal)): the disk counts as lost; start with an empty directory")
        }
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
    public func result<D: Disk>(from store: Store<D>) throws -> PageResult {
        let cold = try store.page(
            in: view, from: from, end: end, recordsMax: recordsMax, bytesMax: bytesMax, tombstones: true)
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

    /// The same, as the answer to a scan.
    public func scanned<D: Disk>(from store: Store<D>) throws -> DataResult {
        let page = try result(from: store)
        let records = page.records.map {
            KeyValueScanPage.Record(
                key: $0.position.key, value: $0.value, revision: $0.revision, expiry: $0.expiry)
        }
        return DataResult(
            index: page.index, revision: page.revision,
            body: KeyValueScanPage(records: records, next: page.next?.key).encoded())
    }
}
