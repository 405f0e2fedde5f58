import Messages
import Primitives
import StateMachines

/// A record store that remembers everything.
struct ModelStore: RecordStore, Equatable {
    struct Key: Hashable, Comparable {
        var slot: Slot
        var machine: SubMachineNumber
        var key: Bytes
        static func < (left: Key, right: Key) -> Bool {
            (left.slot.rawValue, left.machine.rawValue, left.key) < (
                right.slot.rawValue, right.machine.rawValue, right.key
            )
        }
    }
    struct Record: Hashable {
        var revision: Revision
        var changed: LogIndex
        var expiry: LogTime
        var value: Bytes?
    }
    var records: [Key: Record] = [:]
    var writes = 0

    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime,
        value: Bytes?
    ) {
        writes += 1
        records[Key(slot: slot, machine: machine, key: Bytes(copying: key))] =
            Record(revision: revision, changed: changed, expiry: expiry, value: value?.compacted())
    }

    /// Places that it says are not in memory.
    var elsewhere: Set<RecordPosition> = []

    func find(_ place: RecordPosition) -> Finding {
        guard !elsewhere.contains(place) else { return .elsewhere }
        guard let found = records[Key(slot: place.slot, machine: place.machine, key: place.key)],
            let value = found.value
        else { return .absent }
        return .found(StoredRecord(value: value, revision: found.revision, expiry: found.expiry))
    }

    var metaRecords: [MetaRecord] {
        records.filter { $0.key.machine == .meta && $0.key.slot == .group }.sorted { $0.key < $1.key }
            .map { MetaRecord(key: $0.key.key, value: $0.value.value) }
    }
}

extension LogEntry {
    static func command(_ index: UInt64, _ payload: Bytes, logTime: UInt64 = 0) -> LogEntry {
        LogEntry(index: LogIndex(index), term: Term(1), logTime: LogTime(logTime), kind: .command, payload: payload)
    }
}
