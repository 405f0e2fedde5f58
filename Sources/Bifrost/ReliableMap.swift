// A map with a name, as programs see it.

public import DataTypes
public import Messages
public import Primitives
public import StateMachines

extension Cluster {
    /// A map from bytes to values.
    ///
    ///     let users = cluster.map("users", of: User.self)
    ///     try await users.put("ada", ada, if: .absent, timeToLive: .seconds(3_600))
    public func map<Value: Message>(_ name: Bytes, of _: Value.Type) -> ReliableMap<Value> {
        ReliableMap(object: ReliableObject(cluster: self, name: name))
    }
}

/// A map with a name: keys of up to `ObjectLimits.elementBytesMax` bytes, in the order of their bytes, with values. It lies
/// whole in one group, and may be larger than that group's memory. Each operation takes effect at one moment between its
/// call and its return; commands are done once, however often they have to be sent. All throw `BifrostError`; a condition
/// that does not hold throws `conditionFailed`, with what is there in `foundEntry`.
public struct ReliableMap<Value: Message>: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    public typealias Entry = (key: Bytes, value: Value, revision: Revision)

    /// The key's value, and when it got it; nil if it has none.
    public func get(
        _ key: Bytes, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Versioned<Value>? {
        try await get([key], consistency, timeout: timeout)[0]
    }

    /// The same of up to 256 keys, as they stood at one moment, in their order.
    public func get(
        _ keys: [Bytes], _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> [Versioned<Value>?] {
        for key in keys { try object.check(element: key) }
        guard keys.count <= MapGet.keysMax else {
            throw BifrostError(.tooLarge, "up to \(MapGet.keysMax) keys are read together, not \(keys.count)")
        }
        let answer = try await object.query(MapGet(name, keys), consistency, timeout: timeout).answer
        guard answer.entries.count == keys.count else {
            throw BifrostError(.malformedAnswer, "\(answer.entries.count) entries came for \(keys.count) keys")
        }
        var found: [Versioned<Value>?] = []
        for entry in answer.entries {
            if let entry { found.append(try ReliableObject.decoded(entry)) } else { found.append(nil) }
        }
        return found
    }

    /// Gives the key a value.
    ///
    /// - Parameters:
    ///   - condition: of this key; nothing changes if it does not hold; nil: none.
    ///   - timeToLive: the entry is gone so long afterwards, no earlier, unless it is put again; nil: it stays. In whole
    ///     milliseconds of the group's elapsed time.
    /// - Returns: the revision at which it took effect.
    @discardableResult
    public func put(
        _ key: Bytes, _ value: Value, if condition: EntryCondition? = nil, timeToLive: Duration? = nil,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await put(key, value, condition, timeToLive, answersPrevious: false, timeout).revision
    }

    /// Gives the key a value, and returns what it had before.
    public func swap(
        _ key: Bytes, _ value: Value, timeToLive: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Versioned<Value>? {
        try Self.previous(try await put(key, value, nil, timeToLive, answersPrevious: true, timeout).answer)
    }

    /// Takes the key away. Returns what it had.
    @discardableResult
    public func remove(
        _ key: Bytes, if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Versioned<Value>? {
        try object.check(element: key)
        let command = MapRemove(name, key, if: condition, answersPrevious: true)
        return try Self.previous(try await object.submit(command, timeout: timeout).answer)
    }

    /// If all conditions hold, does `then`, else `otherwise`: all of it at one revision, and no other change comes between.
    /// Without conditions it is a batch. Values are bytes here, as their `Message` writes them. Up to 256 conditions, and
    /// 256 operations in each list; together no larger than a value may be.
    public func transaction(
        if conditions: [MapTransaction.Condition] = [], then: [MapTransaction.Operation],
        otherwise: [MapTransaction.Operation] = [], timeout: Duration? = nil
    ) async throws(BifrostError) -> MapTransaction.Outcome {
        guard max(conditions.count, then.count, otherwise.count) <= MapTransaction.partsMax else {
            throw BifrostError(
                .tooLarge, "a transaction has up to \(MapTransaction.partsMax) conditions, and operations in each list")
        }
        let command = MapTransaction(name, if: conditions, then: then, otherwise: otherwise)
        return try await object.submit(command, timeout: timeout).answer
    }

    /// How many entries there are. Cost: one record, however many.
    public func count(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Int {
        Int(clamping: try await object.query(MapCount(name), consistency, timeout: timeout).answer.count)
    }

    /// Takes all entries away, however many, at one revision. Returns how many there were. What they took on disk is
    /// given back in the time after.
    @discardableResult
    public func clear(timeout: Duration? = nil) async throws(BifrostError) -> Int {
        Int(clamping: try await object.submit(MapClear(name), timeout: timeout).answer.count)
    }

    /// Some entries, ascending by key, as they stood together at one moment.
    public struct Page: Sendable {
        public var entries: [Entry]
        /// Where the next page begins; nil: this was the last one. A page may be empty and have a next one.
        public var next: Bytes?
        /// Of the group, at that moment.
        public var revision: Revision
    }

    /// Up to `entriesMax` entries (1,024 at most, and 512 KiB of them) from the key `first` on and before `end`, of those
    /// that begin with `prefix`.
    public func page(
        prefix: Bytes = Bytes(), from first: Bytes? = nil, before end: Bytes? = nil, entriesMax: Int = 1_000,
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        for bound in [prefix, first ?? Bytes(), end ?? Bytes()] { try object.check(element: bound) }
        let (from, to) = KeyValueStore.range(prefix, first, end)
        let (answer, revision) = try await query(from: from, end: to, entriesMax: entriesMax, consistency, timeout)
        var entries: [Entry] = []
        for element in answer.entries {
            let found: Versioned<Value> = try ReliableObject.decoded(element.entry)
            entries.append((element.key, found.value, found.revision))
        }
        return Page(entries: entries, next: answer.next, revision: revision)
    }

    private func query(
        from: Bytes, end: Bytes?, entriesMax: Int, _ consistency: ReadConsistency = .linearizable,
        _ timeout: Duration? = nil
    ) async throws(BifrostError) -> (answer: MapPage.Answer, revision: Revision) {
        let page = MapPage(name, from: from, end: end, entriesMax: UInt32(clamping: max(entriesMax, 1)))
        return try await object.query(page, consistency, timeout: timeout)
    }

    /// All entries whose keys begin with `prefix`, page by page. Each page shows one moment: together they are no snapshot,
    /// but what is there before and is not changed meanwhile is in it exactly once. A snapshot is `watch` up to `ready`.
    public func entries(
        prefix: Bytes = Bytes(), _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) -> MapEntries<Value> {
        MapEntries(map: self, prefix: prefix, consistency: consistency, timeout: timeout)
    }

    /// What becomes of the entries whose keys begin with `prefix`. See `ObjectWatch`.
    ///
    /// - Parameter patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func watch(
        prefix: Bytes = Bytes(), from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> ObjectWatch<Value> {
        let map = self
        let key = ObjectKey(name)
        let base = key.watchKey(Bytes())
        let end = prefix.endOfPrefix
        return object.watch(
            machine: MapMachine.number, prefix: base, from: key.watchKey(prefix),
            end: end.map { key.watchKey($0) } ?? base.endOfPrefix, start: start, patience: patience,
            moment: { () async throws(BifrostError) in try await map.object.query(MapCount(map.name)).revision },
            page: { (from) async throws(BifrostError) in
                let first = from[min(base.count, from.count)..<from.count]
                let (answer, revision) = try await map.query(from: first, end: end, entriesMax: 1_024)
                return ScanPage(
                    records: answer.entries.map {
                        KeyValueScanPage.Record(
                            key: key.watchKey($0.key), value: $0.entry.value, revision: $0.entry.revision)
                    }, next: answer.next.map { key.watchKey($0) }, revision: revision)
            })
    }

    private func put(
        _ key: Bytes, _ value: Value, _ condition: EntryCondition?, _ timeToLive: Duration?, answersPrevious: Bool,
        _ timeout: Duration?
    ) async throws(BifrostError) -> (answer: PreviousEntry, revision: Revision) {
        let bytes = value.encoded()
        try object.check(element: key)
        try object.check(value: bytes)
        return try await object.submit(
            MapPut(
                name, key, bytes, if: condition, timeToLiveMillis: try timeToLive?.timeToLiveMillis ?? 0,
                answersPrevious: answersPrevious), timeout: timeout)
    }

    private static func previous(_ previous: PreviousEntry) throws(BifrostError) -> Versioned<Value>? {
        guard let revision = previous.revision, let bytes = previous.value else { return nil }
        return Versioned(try ReliableObject.value(bytes), at: revision)
    }
}

/// A map's entries, one by one. See `ReliableMap.entries`.
public struct MapEntries<Value: Message>: AsyncSequence, Sendable {
    public typealias Element = ReliableMap<Value>.Entry
    public typealias Failure = BifrostError

    let map: ReliableMap<Value>
    let prefix: Bytes
    let consistency: ReadConsistency
    let timeout: Duration?

    public func makeAsyncIterator() -> Iterator { Iterator(entries: self) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        let entries: MapEntries
        private var page: ReliableMap<Value>.Page?
        private var place = 0

        init(entries: MapEntries) { self.entries = entries }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            while true {
                if let page, place < page.entries.count {
                    place += 1
                    return page.entries[place - 1]
                }
                if let page, page.next == nil { return nil }
                page = try await entries.map.page(
                    prefix: entries.prefix, from: page?.next, entriesMax: 1_024, entries.consistency,
                    timeout: entries.timeout)
                place = 0
            }
        }
    }
}
