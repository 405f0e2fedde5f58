// What a state machine sees of storage, and what it says of an entry.

public import Messages
public import Primitives

/// Where state machines write: the replica's memtable, or a model of it in tests. A record's place is (slot, machine,
/// key).
public protocol RecordStore {
    /// Replaces the record there, or adds it. `value` nil: a tombstone. `key` is valid during the call only, and
    /// `value`
    /// is a slice of the entry's payload: what stays is copied.
    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?)
}

/// What became of an entry.
public enum Applied: Hashable, Sendable {
    /// The entry is no command.
    case nothing
    /// The command took effect, at this revision; or it found everything as it wants it, and this is the group's
    /// revision.
    case done(revision: Revision, body: Bytes)
    /// The command has no effect, for a reason that lies in the state: the same on every replica.
    case refused(Refusal)
    /// This version can't apply the entry: its kind, its machine, its version or its form is unknown. Nothing changed,
    /// and the replica has to stop before this entry: going on without it would make its state differ.
    case unsupported(String)
}
