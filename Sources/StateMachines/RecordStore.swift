// What a state machine sees of storage, and what it says of an entry.

public import Messages
public import Primitives

/// Where state machines write, and what they read: the replica's memtable and what lies below it, or a model of them in
/// tests. A record's place is (slot, machine, key).
public protocol RecordStore {
    /// Replaces the record there, or adds it. `value` nil: a tombstone. `key` is valid during the call only, and
    /// `value`
    /// is a slice of the entry's payload: what stays is copied.
    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?)

    /// The same, of what is no change for whoever watches: it comes or goes with its slot.
    mutating func putUntold(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?)

    /// A machine's command has something to tell whoever watches. It is no record, and not kept.
    mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision)

    /// What is there, as far as that can be told without waiting for a disk.
    func find(_ place: RecordPosition) -> Finding

    /// Whether that can't be told without waiting for a disk.
    func isElsewhere(_ place: RecordPosition) -> Bool
}

extension RecordStore {
    public mutating func putUntold(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?
    ) {
        put(slot: slot, machine: machine, key: key, revision: revision, changed: changed, expiry: expiry, value: value)
    }

    public mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision) {}

    public func isElsewhere(_ place: RecordPosition) -> Bool {
        if case .elsewhere = find(place) { true } else { false }
    }
}

/// What a machine tells whoever watches.
public struct EmittedEvent: Hashable, Sendable {
    public var kind = Change.Kind.event
    /// Of an event, among its machine's; 0 otherwise.
    public var number: UInt16
    public var key: Bytes
    public var body: Bytes
}

/// The same, with where it was.
public struct ToldEvent: Hashable, Sendable {
    public var slot: Slot
    public var machine: SubMachineNumber
    public var event: EmittedEvent
}

/// What a store says of a place.
public enum Finding: Hashable, Sendable {
    case absent
    case found(StoredRecord)
    /// It may be on disk: it has to be fetched first.
    case elsewhere
}

/// A live record as state machines see it.
public struct StoredRecord: Hashable, Sendable {
    public var value: Bytes
    /// At which it got its value.
    public var revision: Revision
    /// In log time; 0: never.
    public var expiry: LogTime

    public init(value: Bytes, revision: Revision, expiry: LogTime = .zero) {
        self.value = value
        self.revision = revision
        self.expiry = expiry
    }
}

/// A command can't be applied before these records are in memory. Nothing was changed: it is applied again then, from
/// its beginning.
public struct Unready: Error, Hashable, Sendable {
    public var places: [RecordPosition]
    /// What commands behind it may read next, as the object looks now.
    var along: [RecordPosition] = []
    public init(_ places: [RecordPosition]) { self.places = places }
}

/// What became of an entry.
public enum Applied: Hashable, Sendable {
    /// The entry is no command.
    case nothing
    /// The command took effect, at this revision; or it found everything as it wants it, and this is the group's
    /// revision.
    case done(revision: Revision, body: Bytes)
    /// The command came before in its session, and was applied then; this is what it came to.
    case repeated(SessionAnswer)
    /// The command has no effect, for a reason that lies in the state: the same on every replica.
    case refused(Refusal)
    /// This version can't apply the entry: its kind, its machine, its version or its form is unknown. Nothing changed,
    /// and the replica has to stop before this entry: going on without it would make its state differ.
    case unsupported(String)
    /// Nothing changed: the entry has to be applied again once these records are in memory.
    case unready([RecordPosition])
}
