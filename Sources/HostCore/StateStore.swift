// What a replica's state machine writes into and reads from: the live memtable, what was frozen of it, and records that
// were fetched from disk for commands that read them.

public import Messages
public import Primitives
import RaftCore
public import StateMachines
public import Storage

extension Memtable: RecordStore {
    /// As if nothing lay below it.
    public func find(_ place: RecordPosition) -> Finding { Finding(get(RecordKey(place))) ?? .absent }
}

/// All layers of a replica's state, as far as they are in memory. Three references: so much an existential holds without
/// memory of its own, and each command's context has one. What plain puts need is not behind another one.
struct ReplicaRecords: RecordStore {
    private final class Layers {
        let frozen: FrozenMemtable?
        let hasRuns: Bool
        let fetched: [RecordPosition: Finding]
        let historyBytesMax: Int

        init(_ frozen: FrozenMemtable?, hasRuns: Bool, _ fetched: [RecordPosition: Finding], historyBytesMax: Int) {
            self.frozen = frozen
            self.hasRuns = hasRuns
            self.fetched = fetched
            self.historyBytesMax = historyBytesMax
        }
    }
    private let memtable: Memtable
    private let history: ChangeHistory
    private let layers: Layers

    /// - Parameter hasRuns: whether anything lies below the frozen memtable.
    init(
        memtable: Memtable, frozen: FrozenMemtable?, hasRuns: Bool, fetched: [RecordPosition: Finding],
        history: ChangeHistory, historyBytesMax: Int
    ) {
        self.memtable = memtable
        self.history = history
        layers = Layers(frozen, hasRuns: hasRuns, fetched, historyBytesMax: historyBytesMax)
    }

    @inline(__always)
    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?
    ) {
        memtable.put(
            slot: slot, machine: machine, key: key, revision: revision, changed: changed, expiry: expiry, value: value)
        guard machine == .keyValue else { return }
        let kind: Change.Kind = value != nil ? .put : expiry > .zero ? .expired : .deleted
        history.append(
            kind, slot: slot, machine: machine, revision: revision, expiry: value == nil ? .zero : expiry, key: key,
            value: value, bytesMax: layers.historyBytesMax)
    }

    mutating func putUntold(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?
    ) {
        memtable.put(
            slot: slot, machine: machine, key: key, revision: revision, changed: changed, expiry: expiry, value: value)
    }

    mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision) {
        event.key.withUnsafeBytes {
            history.append(
                event.kind, number: event.number, slot: slot, machine: machine, revision: revision, key: $0,
                value: event.body, bytesMax: layers.historyBytesMax)
        }
    }

    func find(_ place: RecordPosition) -> Finding {
        let inMemory = place.key.withUnsafeBytes { key in
            memtable.value(slot: place.slot, machine: place.machine, key: key)
                ?? layers.frozen?.value(slot: place.slot, machine: place.machine, key: key)
        }
        if let inMemory { return Finding(inMemory) }
        guard layers.hasRuns else { return .absent }
        return layers.fetched[place] ?? (isPlanted("disk-taken-for-empty") ? .absent : .elsewhere)
    }

    func isElsewhere(_ place: RecordPosition) -> Bool {
        guard layers.hasRuns, !isPlanted("disk-taken-for-empty") else { return false }
        let isInMemory = place.key.withUnsafeBytes { key in
            memtable.has(slot: place.slot, machine: place.machine, key: key)
                || layers.frozen?.has(slot: place.slot, machine: place.machine, key: key) == true
        }
        guard !isInMemory else { return false }
        return layers.fetched[place].map { if case .elsewhere = $0 { true } else { false } } ?? true
    }
}

extension Finding {
    /// Nil: this layer does not know.
    init?(_ lookup: Lookup) {
        switch lookup {
        case .absent: return nil
        case .tombstone: self = .absent
        case .found(let record):
            self = .found(
                StoredRecord(value: record.value ?? Bytes(), revision: record.revision, expiry: record.expiry))
        }
    }
}

extension Finding {
    init(_ value: RecordValue) {
        self =
            value.value.map { .found(StoredRecord(value: $0, revision: value.revision, expiry: value.expiry)) }
            ?? .absent
    }
}

extension RecordKey {
    init(_ place: RecordPosition) { self.init(slot: place.slot, machine: place.machine, key: place.key) }
}

/// Records that commands wait for, to be read from disk.
struct StateFetch {
    /// Which one it is: what an earlier one brings is another view's.
    var number: UInt64 = 0
    /// Apply waits for it.
    private(set) var isUnderWay = false
    /// It failed, and is not begun again before a tick.
    private(set) var isPutOff = false

    var isAwaited: Bool { isUnderWay || isPutOff }
    /// What it brought: true of all that lies below the memtables, until a checkpoint adds to that.
    private(set) var found: [RecordPosition: Finding] = [:]
    private var bytes = 0
    /// What is known of the entries behind.
    var survey = ReadSurvey()
    /// The entry that waited for the last one.
    private var head = LogIndex.zero

    /// What earlier ones brought is kept as long as it is little, and for as long as the same entry waits.
    private static var bytesMax: Int { 16 << 20 }

    /// It keeps as much as it should: no more is fetched ahead.
    var isLarge: Bool { bytes > Self.bytesMax }

    mutating func begin(before index: LogIndex) {
        if bytes > Self.bytesMax, head != index { drop() }
        head = index
        number += 1
        isUnderWay = true
    }

    mutating func take(_ result: StateReadResult) {
        isUnderWay = false
        for (key, lookup) in zip(result.keys, result.lookups) {
            let place = RecordPosition(slot: key.slot, machine: key.machine, key: key.key)
            found[place] = Finding(lookup) ?? .absent
            bytes += key.key.count + (lookup.record?.value?.count ?? 0)
        }
    }

    mutating func putOff() {
        forget()
        isPutOff = true
    }

    mutating func resume() { isPutOff = false }

    /// What is below the memtables has changed, or is not needed any more.
    mutating func forget() {
        if isUnderWay { number += 1 }
        isUnderWay = false
        isPutOff = false
        drop()
    }

    private mutating func drop() {
        survey = ReadSurvey()
        guard !found.isEmpty else { return }
        found = [:]
        bytes = 0
    }
}

/// Records for commands that read them: for a reader thread, answered by `HostCore.stateFetched`.
public struct StateRead: Sendable {
    public var group: GroupID
    package var number: UInt64
    package var keys: [RecordKey]
    package var view: StoreView

    /// What one read brings at most, but for one value: the rest is asked for again.
    private static var bytesMax: Int { 4 << 20 }

    /// Reads them, or the first of them. Any thread.
    public func result<D: Disk>(from store: Store<D>) throws -> StateReadResult {
        var lookups: [Lookup] = []
        lookups.reserveCapacity(keys.count)
        var bytes = 0
        for key in keys {
            let lookup = try store.get(key, in: view)
            lookups.append(lookup)
            bytes += lookup.record?.value?.count ?? 0
            if bytes >= Self.bytesMax { break }
        }
        return StateReadResult(group: group, number: number, keys: keys, lookups: lookups)
    }
}

/// What a `StateRead` found: of the first keys, as many as there are lookups.
public struct StateReadResult: Sendable {
    public var group: GroupID
    package var number: UInt64
    package var keys: [RecordKey]
    package var lookups: [Lookup]
}

extension HostCore {
    /// Most keys that are fetched in one go, so that no group takes a reader's thread for long.
    static var fetchedKeysMax: Int { 1_024 }

    /// Fewer have more, and those that are watched as much as there is.
    private func historyBytesMax(of replica: Replica) -> Int {
        let share = min(settings.historyBytesMax / max(replicas.count, 1), settings.historyBytesOfGroupMax)
        let isWatched = tickCount < replica.watches.wantedUntilTick && historyBytes < settings.historyBytesMax
        return isWatched ? settings.historyBytesOfGroupMax : share
    }

    func records(of replica: Replica) -> ReplicaRecords {
        ReplicaRecords(
            memtable: replica.memtable, frozen: replica.checkpoint?.frozen,
            hasRuns: !replica.view.manifest.runs.isEmpty, fetched: replica.fetch.found, history: replica.history,
            historyBytesMax: historyBytesMax(of: replica))
    }

    /// Apply waits for these records of the first entry, and has whatever that and the entries behind it read fetched as
    /// well. Only this group waits.
    func fetch(_ places: [RecordPosition], before entries: ArraySlice<LogEntry>, _ replica: Replica) {
        let records = records(of: replica)
        // Taken out once: each look at it where it is would copy it.
        let machine = replica.machine
        var keys = places
        replica.fetch.survey.begin(places)
        for entry in entries.dropFirst() {
            guard keys.count < Self.fetchedKeysMax, !replica.fetch.isLarge else { break }
            keys += replica.fetch.survey.missing(of: entry, machine, records)
        }
        replica.fetch.begin(before: replica.core.appliedIndex.next)
        effects.stateReads.append(
            StateRead(
                group: replica.group, number: replica.fetch.number, keys: keys.map { RecordKey($0) },
                view: replica.coldView))
    }

    /// What apply waits for is here.
    public func stateFetched(_ result: StateReadResult) {
        guard let replica = replica(of: result.group), replica.fetch.isUnderWay, replica.fetch.number == result.number
        else { return }
        replica.fetch.take(result)
        markReady(replica)
    }

    /// It could not be read. What is damaged is another replica's to mend, if there is one; else this one can't go on.
    ///
    /// - Parameter damage: what is damaged; nil: the read failed for another reason, and is tried again.
    public func stateFetchFailed(_ read: StateRead, damage: String?) {
        guard let replica = replica(of: read.group), replica.fetch.isUnderWay, replica.fetch.number == read.number
        else { return }
        replica.fetch.putOff()
        if let damage { stateDamaged(group: read.group, damage) }
        guard replica.stopped == nil else { return }
        if !fetchesToRetry.contains(where: { $0 === replica }) { fetchesToRetry.append(replica) }
        // It can't apply, and its group can't do without its vote: it gives that to one who can apply.
        guard damage != nil, replica.role == .leader, let heir = successor(of: replica, where: { _ in true })
        else { return }
        _ = replica.core.transfer(to: heir)
        markReady(replica)
    }

    /// Once per tick; what met damage is asked for again once per second.
    func retryFetches() {
        guard !fetchesToRetry.isEmpty else { return }
        let isSecond = tickCount % secondTicks == 0
        let due = fetchesToRetry.filter { $0.damage == nil || isSecond }
        fetchesToRetry.removeAll { $0.damage == nil || isSecond }
        for replica in due where replica.stopped == nil {
            replica.fetch.resume()
            markReady(replica)
        }
    }
}
