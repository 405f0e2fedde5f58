// A group's state machine: routes each committed entry to a sub state machine by its number, and keeps what all of them
// share: revision, log time, digest. Owns no records (they go to the store that the caller brings), reads no clock, and
// applies no configurations: those are consensus's business and only pass by.

public import Messages
public import Primitives
import Ring

/// One group's replicated state but for its records. The same entries give the same records, results and digest on
/// every replica, because nothing but the entry and this state goes in.
///
/// An entry is applied as a whole or, if any part of it is unknown to this version, not at all (`.unsupported`): the
/// checks before a proposal (`check`) keep such entries out of the log, so they come from a newer version only.
public struct MasterStateMachine: Sendable {
    public let group: GroupID
    /// The last entry applied.
    public private(set) var applied: LogIndex
    /// The group's counter of changes: raised by one with each command that changes records.
    public private(set) var revision: Revision
    /// Elapsed time as the entries carry it; never falls.
    public private(set) var logTime: LogTime
    /// Over all records written since the group began, in their order: replicas agree at equal index.
    public private(set) var digest: UInt64
    /// The cluster's map; in the meta group only.
    public private(set) var meta = MetaMachine()

    /// A new group, or one that goes on after a manifest with these numbers; `metaRecords` are the meta group's records
    /// in `Slot.group`, none in other groups.
    public init(
        group: GroupID, applied: LogIndex = .zero, revision: Revision = .zero, logTime: LogTime = .zero,
        digest: UInt64 = 0,
        metaRecords: some Sequence<MetaRecord> = []
    ) throws(DecodingFailure) {
        self.group = group
        self.applied = applied
        self.revision = revision
        self.logTime = logTime
        self.digest = digest
        meta = try MetaMachine(restoring: metaRecords)
    }

    /// Applies the next entry. Its index is the one after `applied`: anything else is a programmer's error.
    /// A key-value command allocates nothing; its cost beside the store's is the slot function and two hashes.
    @inlinable public mutating func apply(_ entry: LogEntry, into store: inout some RecordStore) -> Applied {
        if let write = decideKeyValue(entry) {
            entry.payload.withUnsafeBytes { payload in
                store.put(
                    slot: write.slot, machine: .keyValue, key: payload.slice(write.key), revision: revision,
                    changed: entry.index,
                    expiry: .zero, value: write.isPut ? entry.payload[write.value] : nil)
            }
            return .done(revision: revision, body: Bytes())
        }
        switch decideOther(entry, store) {
        case .nothing: return .nothing
        case .done(let writes, let body):
            for write in writes {
                write.key.withUnsafeBytes {
                    store.put(
                        slot: write.slot, machine: write.machine, key: $0, revision: revision, changed: entry.index,
                        expiry: write.expiry, value: write.value)
                }
            }
            return .done(revision: revision, body: body)
        case .refused(let refusal): return .refused(refusal)
        case .unsupported(let what): return .unsupported(what)
        case .unready(let places): return .unready(places)
        }
    }

    /// What has to be in memory before the entry can be applied, as far as that can be told from the entry alone: what
    /// is best fetched for many entries in one go.
    public func reads(of entry: LogEntry) -> [RecordPosition] {
        guard entry.kind == .command, group != .meta,
            entry.payload.withUnsafeBytes({
                CommandHeader(of: $0)?.machine == .keyValue && KeyValueTransaction.isOne($0)
            }), let transaction = try? KeyValueTransaction(payload: entry.payload)
        else { return [] }
        return transaction.readKeys.map {
            RecordPosition(slot: Ring.slot(of: $0), machine: .keyValue, key: $0)
        }
    }

    /// What a key-value command writes: ranges of the entry's payload. Apart from `apply`, as the next, so that only
    /// the
    /// writing is compiled anew for each kind of store; and apart from the next because this is the path of most
    /// entries.
    @usableFromInline struct KeyValueWrite {
        @usableFromInline var slot: Slot
        @usableFromInline var isPut: Bool
        @usableFromInline var key: Range<Int>
        @usableFromInline var value: Range<Int>
    }

    /// Takes a key-value command into revision, digest and log time; nil, and no change, if the entry is anything else.
    @usableFromInline mutating func decideKeyValue(_ entry: LogEntry) -> KeyValueWrite? {
        precondition(entry.index == applied.next, "entries are applied one after the other")
        guard entry.kind == .command, group != .meta else { return nil }
        return entry.payload.withUnsafeBytes { payload -> KeyValueWrite? in
            guard let header = CommandHeader(of: payload), header.machine == .keyValue, header.session == .none,
                let command = KeyValueCommandView(payload: payload), command.isWithinLimits
            else { return nil }
            let key = payload.slice(command.key)
            let slot = Ring.slot(of: key)
            revision = revision.next
            fold(
                slot: slot, machine: .keyValue, key: key, value: command.isPut ? payload.slice(command.value) : nil,
                changed: entry.index)
            applied = entry.index
            logTime = max(logTime, entry.logTime)
            return KeyValueWrite(slot: slot, isPut: command.isPut, key: command.key, value: command.value)
        }
    }

    /// What any other entry does.
    @usableFromInline enum Decision {
        case nothing
        case done([RecordWrite], body: Bytes)
        case refused(Refusal)
        case unsupported(String)
        case unready([RecordPosition])
    }

    /// Takes the entry into revision, digest, log time and map. Changes nothing if it is unsupported or unready.
    @usableFromInline mutating func decideOther(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        let decision: Decision
        switch entry.kind {
        case .command: decision = decideCommand(entry, store)
        case .empty, .configuration: decision = .nothing
        default: decision = .unsupported("entry \(entry.index) has the unknown kind \(entry.kind.rawValue)")
        }
        switch decision {
        case .unsupported, .unready: return decision
        case .nothing, .refused: break
        case .done(let writes, _):
            if !writes.isEmpty { revision = revision.next }
            for write in writes {
                write.key.withUnsafeBytes { key in
                    guard let value = write.value else { return fold(write, key, nil, changed: entry.index) }
                    value.withUnsafeBytes { fold(write, key, $0, changed: entry.index) }
                }
            }
        }
        applied = entry.index
        logTime = max(logTime, entry.logTime)
        return decision
    }

    private mutating func decideCommand(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        guard let header = entry.payload.withUnsafeBytes({ CommandHeader(of: $0) }) else {
            return .unsupported("entry \(entry.index) has no command header of version \(CommandHeader.formatVersion)")
        }
        guard header.session == .none else {
            return .unsupported(
                "entry \(entry.index) belongs to session \(header.session); this version has no sessions")
        }
        switch header.machine {
        case .meta where group == .meta: return decideMeta(entry)
        case .keyValue where group != .meta: return decideTransaction(entry, store)
        default:
            return .unsupported(
                "entry \(entry.index) is for sub state machine \(header.machine), which group \(group) does not have")
        }
    }

    private func decideTransaction(_ entry: LogEntry, _ store: any RecordStore) -> Decision {
        guard entry.payload.withUnsafeBytes({ KeyValueTransaction.isOne($0) }) else {
            return .unsupported("entry \(entry.index) holds a key-value command that this version does not know")
        }
        let transaction: KeyValueTransaction
        do throws(DecodingFailure) {
            transaction = try KeyValueTransaction(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        guard transaction.problem() == nil, let key = transaction.keys.first else {
            return .unsupported("entry \(entry.index) holds a transaction beyond the limits of this version")
        }
        var context = ApplyContext(
            index: entry.index, logTime: max(logTime, entry.logTime), revision: revision.next,
            slot: Ring.slot(of: key), machine: .keyValue, store: store)
        do throws(Unready) {
            switch try transaction.apply(in: &context) {
            case .success(let outcome): return .done(context.writes, body: outcome.encoded())
            case .failure(let refusal): return .refused(refusal)
            }
        } catch {
            return .unready(error.places)
        }
    }

    private mutating func decideMeta(_ entry: LogEntry) -> Decision {
        let command: MetaCommand
        do throws(DecodingFailure) {
            command = try MetaCommand(payload: entry.payload)
        } catch {
            return .unsupported("entry \(entry.index): \(error)")
        }
        switch meta.apply(command) {
        case .refused(let refusal): return .refused(refusal)
        case .done(let records, let body):
            let writes = records.map {
                RecordWrite(slot: .group, machine: .meta, key: $0.key, expiry: .zero, value: $0.value)
            }
            return .done(writes, body: body)
        }
    }

    private mutating func fold(
        _ write: RecordWrite, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?, changed: LogIndex
    ) {
        fold(
            slot: write.slot, machine: write.machine, key: key, value: value, changed: changed, expiry: write.expiry)
    }

    /// Takes one record write into the digest: place, revision, index, expiry, value or its absence.
    private mutating func fold(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?,
        changed: LogIndex, expiry: LogTime = .zero
    ) {
        let place = UInt64(slot.rawValue) | UInt64(machine.rawValue) << 16 | (value == nil ? 0 : 1 << 32)
        let seed = (place ^ mix(revision.rawValue) ^ mix(~changed.rawValue)) &+ expiry.rawValue &* 0x9e37_79b9_7f4a_7c15
        var hash = hash64(key, seed: seed)
        if let value { hash = hash64(value, seed: hash) }
        digest = mix(digest ^ hash)
    }
}

extension MasterStateMachine {
    /// Whether a client's command may be proposed in this group: nil, or why not. The slot's owner has been checked by
    /// the caller; that the command belongs to the slot is checked here. Allocates nothing for puts and deletes that
    /// pass.
    ///
    /// - Parameter level: the cluster's feature level: what older hosts can't apply is turned down.
    public static func check(_ payload: Bytes, slot: Slot, level: UInt32) -> Refusal? {
        payload.withUnsafeBytes { bytes in
            guard let header = CommandHeader(of: bytes) else {
                return .invalid("the command has no header of version \(CommandHeader.formatVersion)")
            }
            guard header.session == .none else { return .invalid("sessions are not supported by this version") }
            guard header.machine == .keyValue else {
                return .invalid("sub state machine \(header.machine) takes no commands from clients in this version")
            }
            if KeyValueTransaction.isOne(bytes) { return check(transaction: payload, slot: slot, level: level) }
            guard let command = KeyValueCommandView(payload: bytes) else {
                return .invalid("this is no key-value command of version \(KeyValueCommand.formatVersion)")
            }
            if let problem = KeyValue.problem(ofKeyOf: command.key.count) { return problem }
            if let problem = KeyValue.problem(
                ofValueOf: command.value.count, timeToLiveMillis: command.timeToLiveMillis)
            {
                return problem
            }
            let found = Ring.slot(of: bytes.slice(command.key))
            return found == slot ? nil : .invalid("the key's slot is \(found), not \(slot)")
        }
    }

    private static func check(transaction payload: Bytes, slot: Slot, level: UInt32) -> Refusal? {
        guard level >= FeatureLevel.transactions else {
            return .invalid(
                "transactions need feature level \(FeatureLevel.transactions), and the cluster is at \(level): "
                    + "upgrade its hosts, then run 'bifrost cluster upgrade'")
        }
        let transaction: KeyValueTransaction
        do throws(DecodingFailure) {
            transaction = try KeyValueTransaction(payload: payload)
        } catch {
            return .invalid("\(error)")
        }
        if let problem = transaction.problem() { return problem }
        let found = transaction.keys.first.map { Ring.slot(of: $0) }
        return found == slot ? nil : .invalid("the keys' slot is \(found ?? slot), not \(slot)")
    }

    /// Whether a command that `check` let pass makes the state grow: all do but deletes, which are taken as long as
    /// there is any space.
    public static func bringsDataIn(_ payload: Bytes) -> Bool {
        if let isPut = payload.withUnsafeBytes({ KeyValueCommandView(payload: $0)?.isPut }) { return isPut }
        return (try? KeyValueTransaction(payload: payload))?.bringsDataIn ?? true
    }
}
