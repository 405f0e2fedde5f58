// Events of users' machines as programs see them. Owns which of a slot's events are meant, and their types.

import ClientCore
import Messages
public import Primitives
import Ring
public import StateMachines

/// An event that a machine's command emitted.
public struct MachineEventRecord: Hashable, Sendable {
    /// Among the machine's events.
    public var number: UInt16
    public var key: Bytes
    /// As the event's `Message` wrote it.
    public var body: Bytes
    /// Of the group, at which the command took effect.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind it. All events of a command have one revision: before the last of them this
    /// is the revision before.
    public var resume: Revision
}

extension MachineClient {
    /// What the machine emits for one tag: all events whose keys have the same part in `{…}` as `key`, or are the same
    /// where it has none.
    ///
    ///     for try await sold in cluster.machine(Inventory.self).events(SoldOut.self, of: "{lamp}") { … sold.event.sku … }
    ///
    /// In the order of revisions, with no gap and no repetition, as for `KeyValueStore.watch`. Events are not kept as
    /// records are: who comes later than the last ones that a host has in memory gets `compacted`, and has to ask the
    /// machine itself what there is. `start` is `.now` or `.after`; there is no snapshot of events.
    ///
    /// - Parameter patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func events(
        of key: Bytes, from start: WatchStart = .now, patience: Duration? = nil
    ) -> MachineEventRecords {
        MachineEventRecords(
            cluster: cluster, machine: Machine.number, key: key, start: start, patience: patience, number: nil)
    }

    /// The same, of one type alone. Throws `malformedAnswer` for one that can't be read as `Event`.
    public func events<Event: MachineEvent<Machine>>(
        _: Event.Type, of key: Bytes, from start: WatchStart = .now, patience: Duration? = nil
    ) -> MachineEvents<Event> {
        MachineEvents(
            records: MachineEventRecords(
                cluster: cluster, machine: Machine.number, key: key, start: start, patience: patience,
                number: Event.number))
    }
}

/// Events of a machine, one by one. See `MachineClient.events`. Each iterator is a watch of its own.
public struct MachineEventRecords: AsyncSequence, Sendable {
    public typealias Element = MachineEventRecord
    public typealias Failure = BifrostError

    let cluster: Cluster
    let machine: SubMachineNumber
    let key: Bytes
    let start: WatchStart
    let patience: Duration?
    /// The only ones; nil: all.
    let number: UInt16?

    /// Of a machine by its number, whatever it is.
    package init(
        cluster: Cluster, machine: SubMachineNumber, key: Bytes, start: WatchStart, patience: Duration?, number: UInt16?
    ) {
        self.cluster = cluster
        self.machine = machine
        self.key = key
        self.start = start
        self.patience = patience
        self.number = number
    }

    public func makeAsyncIterator() -> Iterator { Iterator(events: self) }

    func beginning(from start: WatchStart) -> MachineEventRecords {
        MachineEventRecords(
            cluster: cluster, machine: machine, key: key, start: start, patience: patience, number: number)
    }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private let events: MachineEventRecords
        private var feed: WatchFeed
        private var hasBegun = false
        private var told: [MachineEventRecord] = []
        private var place = 0

        init(events: MachineEventRecords) {
            self.events = events
            let slot = Ring.slot(of: events.key)
            feed = WatchFeed(
                cluster: events.cluster, slot: slot, machine: events.machine, from: Bytes(), end: nil,
                patience: events.patience, through: .zero)
        }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> MachineEventRecord? {
            try await begin()
            while place >= told.count {
                place = 0
                told = []
                let changes = try await feed.next().filter { change in
                    change.kind == .event && tag(of: change.key) == tag(of: events.key)
                        && events.number.map { $0 == change.number } ?? true
                }
                told = changes.indices.map { place in
                    let change = changes[place]
                    return MachineEventRecord(
                        number: change.number, key: change.key, body: change.value, revision: change.revision,
                        resume: changes.isLastOfRevision(place) ? change.revision : change.revision.previous)
                }
            }
            place += 1
            return told[place - 1]
        }

        /// Returns when the watch stands: it misses nothing that happens afterwards. `next` does it otherwise.
        public mutating func begin() async throws(BifrostError) {
            guard !hasBegun else { return }
            if let problem = KeyValue.problem(ofKeyOf: events.key.count) { throw BifrostError(problem) }
            switch events.start {
            case .snapshot:
                throw BifrostError(
                    .invalid, "there is no snapshot of events: watch them from now on, or behind a revision")
            case .after(let revision): feed.through = revision
            case .now:
                // What keys and values have there does not matter: what is asked for is the revision.
                let (cluster, slot, key) = (events.cluster, feed.slot, events.key)
                feed.through = try await Patience(events.patience).ask { () async throws(BifrostError) in
                    try await cluster.kv.reading(key, in: slot)
                }.revision
            }
            hasBegun = true
        }

        /// All up to here was told, or came before it began.
        var through: Revision { feed.through }

        private func tag(of key: Bytes) -> Bytes { key.withUnsafeBytes { key[tagRange(of: $0)] } }
    }
}

/// Events of one type. See `MachineClient.events`.
public struct MachineEvents<Event: MachineEvent>: AsyncSequence, Sendable {
    public typealias Failure = BifrostError

    /// An event, and where it stands.
    public struct Element: Sendable {
        public var event: Event
        public var revision: Revision
        /// As `MachineEventRecord.resume`.
        public var resume: Revision
    }

    let records: MachineEventRecords

    public func makeAsyncIterator() -> Iterator { Iterator(records: records.makeAsyncIterator()) }

    /// The same events, from where they begin at this moment: none that comes afterwards is missed.
    func standing() async throws(BifrostError) -> MachineEvents {
        var iterator = records.makeAsyncIterator()
        try await iterator.begin()
        return MachineEvents(records: records.beginning(from: .after(iterator.through)))
    }

    public struct Iterator: AsyncIteratorProtocol {
        var records: MachineEventRecords.Iterator

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            guard let record = try await records.next(isolation: actor) else { return nil }
            do throws(DecodingFailure) {
                return Element(
                    event: try Event(decoding: record.body), revision: record.revision, resume: record.resume)
            } catch {
                throw BifrostError(malformed: error)
            }
        }

        /// Returns when the watch stands: it misses nothing that happens afterwards.
        public mutating func begin() async throws(BifrostError) { try await records.begin() }
    }
}
