// Watches of keys as programs see them: the records that are there, then what becomes of them. How both come together is
// WatchStory's affair.

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

    fileprivate var source: WatchSource {
        let watch = self
        return WatchSource(
            cluster: store.cluster, slot: slot, machine: .keyValue, from: from, end: end, start: start,
            patience: patience, problem: problem,
            // Any key of the slot would do: what is asked for is the revision.
            moment: { () async throws(BifrostError) in
                try await watch.store.reading(watch.from, in: watch.slot).revision
            },
            page: { (from) async throws(BifrostError) in try await watch.page(from: from) })
    }

    private func page(from: Bytes) async throws(BifrostError) -> ScanPage {
        guard isOneKey else {
            let scan = KeyValueScan(from: from, end: end, recordsMax: .max, bytesMax: 1 << 20)
            return try await store.page(slot: slot, scan)
        }
        // Hosts have few pages at a time, and many gets.
        let (found, moment) = try await store.reading(from, in: slot)
        switch found {
        case .absent: return ScanPage(records: [], next: nil, revision: moment)
        case .found(let value, let revision, let expiry):
            let record = KeyValueScanPage.Record(key: from, value: value, revision: revision, expiry: expiry)
            return ScanPage(records: [record], next: nil, revision: moment)
        }
    }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private var story: WatchStory

        init(watch: KeyValueWatch) { story = WatchStory(watch.source) }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> KeyValueChange? {
            while true {
                let told = try await story.next()
                let kind: KeyValueChange.Kind
                switch told.kind {
                case .present: kind = .present
                case .ready: kind = .ready
                case .progress: kind = .progress
                case .change(.put): kind = .put
                case .change(.deleted): kind = .deleted
                case .change(.expired): kind = .expired
                // This machine tells nothing else.
                case .change(.event), .change(.cleared): continue
                }
                return KeyValueChange(
                    kind: kind, key: told.key, value: told.value, revision: told.revision, resume: told.resume)
            }
        }
    }
}
