// Watches of keys: the records that are there, then what becomes of them. Owns how a snapshot, which is read page by page,
// and the changes behind it come together to one story.

import ClientCore
import Messages
public import Primitives
import Ring
import StateMachines

/// What a watch of keys tells.
public struct KeyValueChange: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// The key was there when the watch began.
        case present
        /// Of a snapshot: all of it was told, and together with the changes that came in between it is what there was at
        /// `revision`, neither more nor less. Otherwise: the watch stands, and misses nothing behind `revision`. No key.
        case ready
        /// The key got this value.
        case put
        case deleted
        /// Its time to live was over.
        case expired
        /// Nothing happened up to `revision`, for some seconds. No key.
        case progress
    }
    public var kind: Kind
    public var key: Bytes
    /// Of `present` and `put`.
    public var value: Bytes
    /// Of the group, at which it happened; of `present`: at which the key got its value.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind what was told so far; nil while a snapshot is not complete. All changes of
    /// one transaction have one revision: before the last of them, this is the revision before.
    public var resume: Revision?
}

extension KeyValueStore {
    /// What becomes of one key.
    ///
    ///     for try await change in cluster.kv.watch("{user:7}/name") where change.kind == .put { … }
    ///
    /// In the order of revisions, with no gap and no repetition, across changes of leaders, lost connections and restarts
    /// of hosts. A host keeps the last changes of each group in memory, some megabytes of them or less: who is slower
    /// than that, or comes back later, gets `compacted` and begins with a snapshot. The next changes are asked for when the
    /// last ones were taken: a slow reader costs no memory anywhere.
    ///
    /// - Parameter patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func watch(_ key: Bytes, from start: WatchStart = .snapshot, patience: Duration? = nil) -> KeyValueWatch {
        KeyValueWatch(
            store: self, slot: Ring.slot(of: key), from: key, end: Bytes(key.array + [0]), isOneKey: true, start: start,
            patience: patience, problem: KeyValue.problem(ofKeyOf: key.count).map { BifrostError($0) })
    }

    /// The same for all keys that begin with `prefix`, which has a whole tag in it, such as `{user:7}/`.
    public func watch(
        prefix: Bytes, from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> KeyValueWatch {
        let (from, end) = Self.range(prefix, nil, nil)
        let slot = Self.slotOfKeys(with: prefix)
        let problem =
            slot == nil
            ? BifrostError(
                .invalid,
                "a watch needs a prefix with a whole tag, such as {user:7}/, whose keys live together: '\(prefix.string)' "
                    + "has none") : nil
        return KeyValueWatch(
            store: self, slot: slot ?? .group, from: from, end: end, isOneKey: false, start: start, patience: patience,
            problem: problem)
    }
}

/// Changes of keys, one by one. See `KeyValueStore.watch`. Each iterator is a watch of its own.
public struct KeyValueWatch: AsyncSequence, Sendable {
    public typealias Element = KeyValueChange
    public typealias Failure = BifrostError

    let store: KeyValueStore
    let slot: Slot
    let from: Bytes
    let end: Bytes?
    let isOneKey: Bool
    let start: WatchStart
    let patience: Duration?
    let problem: BifrostError?

    public func makeAsyncIterator() -> Iterator { Iterator(watch: self) }

    private func reading(_ key: Bytes) async throws(BifrostError) -> (found: KeyValueReading, revision: Revision) {
        try await Patience(patience).ask { () async throws(BifrostError) in
            try await store.reading(key, in: slot)
        }
    }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private enum Phase { case new, reading, catchingUp, live }

        private let watch: KeyValueWatch
        private var phase = Phase.new
        private var feed: WatchFeed
        /// Of the snapshot's pages, ascending: where each ends, and of which moment it is.
        private var pages: [(end: Bytes?, revision: Revision)] = []
        private var hasLooked = false
        private var told: [KeyValueChange] = []
        private var place = 0

        init(watch: KeyValueWatch) {
            self.watch = watch
            feed = WatchFeed(
                cluster: watch.store.cluster, slot: watch.slot, machine: .keyValue, from: watch.from, end: watch.end,
                patience: watch.patience, through: .zero)
        }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> KeyValueChange? {
            while place >= told.count {
                told.removeAll(keepingCapacity: true)
                place = 0
                try await goOn()
            }
            place += 1
            return told[place - 1]
        }

        private mutating func goOn() async throws(BifrostError) {
            switch phase {
            case .new:
                if let problem = watch.problem { throw problem }
                switch watch.start {
                case .after(let revision):
                    feed.through = revision
                    phase = .live
                case .now:
                    // Any key of the slot would do: what is asked for is the revision.
                    let revision = try await watch.reading(watch.from).revision
                    feed.through = revision
                    tell(.ready, revision, resume: revision)
                    phase = .live
                case .snapshot:
                    phase = .reading
                }
            case .reading: try await read()
            case .catchingUp: try await catchUp()
            case .live:
                let before = feed.through
                let changes = try await feed.next()
                for (place, change) in changes.enumerated() {
                    tell(change, resume: changes.isLastOfRevision(place) ? change.revision : change.revision.previous)
                }
                if changes.isEmpty, feed.through > before { tell(.progress, feed.through, resume: feed.through) }
            }
        }

        private mutating func read() async throws(BifrostError) {
            let page = try await page()
            pages.append((page.next, page.revision))
            for record in page.records {
                told.append(
                    KeyValueChange(
                        kind: .present, key: record.key, value: record.value, revision: record.revision, resume: nil))
            }
            // What each page misses is behind its own moment, and so behind the first one's.
            if pages.count == 1 { feed.through = page.revision }
            guard page.next != nil else {
                phase = .catchingUp
                return beReady()
            }
            // Hosts don't keep for long what changes meanwhile. What is not read yet will be as it is then.
            for change in try await feed.next(waits: false) {
                guard let known = pageOf(change.key), change.revision > known.revision else { continue }
                tell(change, resume: nil)
            }
        }

        /// The snapshot is that of its last page's moment once all changes up to there are told.
        private mutating func catchUp() async throws(BifrostError) {
            guard let last = pages.last?.revision else { preconditionFailure("a snapshot has pages") }
            // The last page's moment has passed: nothing has to happen first, but for a leader that is new.
            let changes = try await feed.next(waits: hasLooked)
            hasLooked = true
            for (place, change) in changes.enumerated() {
                if change.revision > last { beReady(at: last) }
                guard change.revision > pageOf(change.key)?.revision ?? .zero else { continue }
                let resume = changes.isLastOfRevision(place) ? change.revision : change.revision.previous
                tell(change, resume: phase == .live ? resume : nil)
            }
            beReady()
        }

        private func pageOf(_ key: Bytes) -> (end: Bytes?, revision: Revision)? {
            pages.first { $0.end.map { key < $0 } ?? true }
        }

        private mutating func beReady() {
            guard let last = pages.last?.revision, feed.through >= last else { return }
            beReady(at: last)
        }

        private mutating func beReady(at revision: Revision) {
            guard phase == .catchingUp else { return }
            tell(.ready, revision, resume: revision)
            phase = .live
        }

        private mutating func tell(_ kind: KeyValueChange.Kind, _ revision: Revision, resume: Revision?) {
            told.append(KeyValueChange(kind: kind, key: Bytes(), value: Bytes(), revision: revision, resume: resume))
        }

        private mutating func tell(_ change: Change, resume: Revision?) {
            let kind: KeyValueChange.Kind
            switch change.kind {
            case .put: kind = .put
            case .deleted: kind = .deleted
            case .expired: kind = .expired
            // No machine of users has keys of this one.
            case .event: return
            }
            told.append(
                KeyValueChange(
                    kind: kind, key: change.key, value: change.value, revision: change.revision, resume: resume))
        }

        private func page() async throws(BifrostError) -> ScanPage {
            guard !watch.isOneKey else { return try await pageOfKey(watch.from) }
            let scan = KeyValueScan(
                from: pages.last?.end ?? watch.from, end: watch.end, recordsMax: .max, bytesMax: 1 << 20)
            return try await Patience(watch.patience).ask { () async throws(BifrostError) in
                try await watch.store.page(slot: watch.slot, scan)
            }
        }

        /// Hosts have few pages at a time, and many gets.
        private func pageOfKey(_ key: Bytes) async throws(BifrostError) -> ScanPage {
            let (found, moment) = try await watch.reading(key)
            switch found {
            case .absent: return ScanPage(records: [], next: nil, revision: moment)
            case .found(let value, let revision, let expiry):
                let record = KeyValueScanPage.Record(key: key, value: value, revision: revision, expiry: expiry)
                return ScanPage(records: [record], next: nil, revision: moment)
            }
        }
    }
}
