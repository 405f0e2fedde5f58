// What a sub state machine sees while one of its commands is applied. Owns what the command writes until it is done:
// a command that fails, or has to wait for a record, leaves nothing behind.

import Messages
public import Primitives
import Ring

/// One command's view of its group: the entry that it came in, and the records of its machine in its slot.
///
/// Nothing else goes in: no clock, no chance but `random`, nothing that another replica may see otherwise. Reads see
/// what the command has written so far.
public struct ApplyContext {
    /// The entry's place in the log.
    public let index: LogIndex
    /// The group's elapsed time.
    public let logTime: LogTime
    /// What the command's writes get as their revision.
    public let revision: Revision
    /// Where all records of the command lie.
    public let slot: Slot
    /// The same numbers on every replica.
    public var random: SeededRandom
    /// In the order in which they were made.
    private(set) var writes: [RecordWrite] = []
    /// By key: the place of its last write. Empty as long as there are few, which are quicker looked through.
    private var lastWrites: [Bytes: Int] = [:]
    /// Of the machine itself, among all of them.
    private var ownWrites = 0
    private static let fewWrites = 8

    let group: GroupID
    let machine: SubMachineNumber
    private let store: any RecordStore
    /// Of the entry, set by other contexts: deadlines of one entry have numbers of their own. nil: a number is how much was
    /// written before, and there are no other contexts.
    private let deadlinesBefore: Int?
    private(set) var deadlinesSet = 0

    init(
        group: GroupID, _ entry: LogEntry, logTime: LogTime, revision: Revision, slot: Slot, machine: SubMachineNumber,
        store: any RecordStore, deadlinesBefore: Int? = nil
    ) {
        self.group = group
        self.deadlinesBefore = deadlinesBefore
        index = entry.index
        self.logTime = logTime
        self.revision = revision
        self.slot = slot
        self.machine = machine
        self.store = store
        // Other numbers in each group, and in a log that begins anew.
        random = SeededRandom(
            seed: mix(
                mix(mix(UInt64(group.rawValue)) ^ entry.term.rawValue) ^ index.rawValue
                    ^ UInt64(machine.rawValue) << 48))
    }

    /// The key's record, as the command has made it or found it; nil if there is none. One whose time is over is there
    /// until the group ends it.
    ///
    /// - Throws: it is not in memory. The command ends with this error, and is applied again later.
    public func get(_ key: Bytes) throws(Unready) -> StoredRecord? {
        if let place = lastWrite(of: key) {
            let own = writes[place]
            return own.value.map { StoredRecord(value: $0, revision: revision, expiry: own.expiry) }
        }
        switch store.find(place(of: key)) {
        case .absent: return nil
        case .found(let record): return record
        case .elsewhere: throw Unready([place(of: key)])
        }
    }

    /// Sees to it that reads of these keys don't throw: what a command reads is best said at its beginning, so that all
    /// of it is fetched in one go. False: their values have more bytes than `bytesMax` together, and not all need be in
    /// memory.
    ///
    /// - Throws: some are not in memory.
    public func prepare(_ keys: some Sequence<Bytes>, bytesMax: Int = .max) throws(Unready) -> Bool {
        var missing: [RecordPosition] = []
        var bytes = 0
        for key in keys {
            let place = place(of: key)
            switch store.find(place) {
            case .absent: break
            case .found(let record):
                bytes += record.value.count
                // By the keys before alone: the same on every replica, whatever of the rest is in memory.
                if missing.isEmpty, bytes > bytesMax { return false }
            case .elsewhere: missing.append(place)
            }
        }
        guard missing.isEmpty else { throw Unready(missing) }
        return true
    }

    /// Those of the keys whose records have to be fetched before they can be read.
    func elsewhere(_ keys: [Bytes]) -> [RecordPosition] {
        keys.map { place(of: $0) }.filter { store.isElsewhere($0) }
    }

    /// Sets the key's record.
    ///
    /// - Parameter expiry: in log time; 0: never.
    public mutating func put(_ key: Bytes, _ value: Bytes, expiry: LogTime = .zero) {
        append(RecordWrite(slot: slot, machine: machine, key: key, expiry: expiry, value: value))
        guard expiry > .zero else { return }
        _ = set(expiry, .record(place(of: key)))
    }

    /// Sees to it that something is done when log time has come to `time`.
    mutating func set(_ time: LogTime, _ purpose: Deadline.Purpose) -> DeadlineKey {
        let number = deadlinesBefore.map { $0 + deadlinesSet } ?? writes.count
        deadlinesSet += 1
        let key = DeadlineKey(time: time, index: index, number: UInt16(truncatingIfNeeded: number))
        writes.append(Deadline(key, purpose).write)
        return key
    }

    /// What is to be done then, if it is a command of this machine in this slot that nobody called off.
    ///
    /// - Throws: it is not in memory.
    func scheduled(_ command: ScheduledCommand) throws(Unready) -> (Deadline, MachineRequest)? {
        var found: Deadline?
        if command.group == group { found = try deadline(command.deadline) }
        if found == nil {
            // It may have come here with its slot, or come back.
            let timer = MovedTimer(of: command)
            if let value = try value(at: timer.place), let key = try? timer.key(value) { found = try deadline(key) }
        }
        guard let found, case .command(machine, let request) = found.purpose, Ring.slot(of: request.key) == slot,
            found.handle(in: group) == command
        else { return nil }
        return (found, request)
    }

    private func deadline(_ key: DeadlineKey) throws(Unready) -> Deadline? {
        try value(at: key.place).flatMap { try? Deadline(key: key.key, value: $0) }
    }

    /// Of a record beside the machine's own. Few commands write any, and these few.
    private func value(at place: RecordPosition) throws(Unready) -> Bytes? {
        if let own = writes.last(where: { $0.machine == place.machine && $0.slot == place.slot && $0.key == place.key })
        {
            return own.value
        }
        switch store.find(place) {
        case .absent: return nil
        case .found(let record): return record.value
        case .elsewhere: throw Unready([place])
        }
    }

    /// Sees to it that `scheduled` of these doesn't throw.
    ///
    /// - Throws: some are not in memory.
    func prepare(scheduled keys: [DeadlineKey]) throws(Unready) {
        let missing = keys.map(\.place).filter { if case .elsewhere = store.find($0) { true } else { false } }
        guard missing.isEmpty else { throw Unready(missing) }
    }

    /// It is done, or called off.
    mutating func remove(_ deadline: Deadline) { writes += deadline.removals }

    /// When a record ends that lives for so long from now on; 0: never.
    func expiry(afterMillis timeToLive: UInt64) -> LogTime {
        timeToLive > 0 ? LogTime(logTime.rawValue + timeToLive) : .zero
    }

    /// Deletes the key's record, whether or not there is one.
    public mutating func delete(_ key: Bytes) {
        append(RecordWrite(slot: slot, machine: machine, key: key, expiry: .zero, value: nil))
    }

    private mutating func append(_ write: RecordWrite) {
        if !lastWrites.isEmpty { lastWrites[write.key] = writes.count }
        writes.append(write)
        ownWrites += 1
        guard lastWrites.isEmpty, ownWrites > Self.fewWrites else { return }
        for place in writes.indices where writes[place].machine == machine { lastWrites[writes[place].key] = place }
    }

    private func lastWrite(of key: Bytes) -> Int? {
        guard lastWrites.isEmpty else { return lastWrites[key] }
        guard ownWrites > 0 else { return nil }
        return writes.indices.last { writes[$0].machine == machine && writes[$0].key == key }
    }

    private func place(of key: Bytes) -> RecordPosition { RecordPosition(slot: slot, machine: machine, key: key) }
}

/// What a command does to one record.
@usableFromInline struct RecordWrite {
    @usableFromInline var slot: Slot
    @usableFromInline var machine: SubMachineNumber
    @usableFromInline var key: Bytes
    @usableFromInline var expiry: LogTime
    /// nil: deleted.
    @usableFromInline var value: Bytes?
    /// Of what comes or goes with its slot, and is no change of its own; nil: the entry's.
    @usableFromInline var revision: Revision?
}
