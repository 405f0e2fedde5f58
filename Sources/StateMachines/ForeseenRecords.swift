// What commands of data types will read, told before they are applied: so that what lies on disk is fetched for many of
// them in one go. A guess: nothing of it decides.

package import Messages
package import Primitives

/// A command that can tell what it reads without being done.
package protocol ForeseeingCommand: MachineCommand {
    /// Keys of records that it will read, as it looks now, and that have to be fetched first; nil: it reads others too,
    /// which doing it tells.
    func missing(in records: ForeseenRecords) -> [Bytes]?
}

/// A machine's records in one slot, as far as they are in memory.
package struct ForeseenRecords {
    private let slot: Slot
    private let machine: SubMachineNumber
    private let store: any RecordStore

    init(_ slot: Slot, _ machine: SubMachineNumber, _ store: any RecordStore) {
        self.slot = slot
        self.machine = machine
        self.store = store
    }

    /// Those of the keys whose records have to be fetched.
    package func missing(_ keys: [Bytes]) -> [Bytes] { keys.filter { isElsewhere($0) } }

    /// The same of one key.
    package func missing(_ key: Bytes) -> [Bytes] { isElsewhere(key) ? [key] : [] }

    /// nil: there is none, or it has to be fetched.
    package func bytes(of key: Bytes) -> Bytes? {
        guard case .found(let record) = store.find(place(of: key)) else { return nil }
        return record.value
    }

    /// nil: there is none, or it has to be fetched.
    package func value<Value: Message>(of key: Bytes, as _: Value.Type) -> Value? {
        bytes(of: key).flatMap { try? Value(decoding: $0) }
    }

    package func isElsewhere(_ key: Bytes) -> Bool { store.isElsewhere(place(of: key)) }

    private func place(of key: Bytes) -> RecordPosition { RecordPosition(slot: slot, machine: machine, key: key) }
}
