// One group and its objects, entry by entry, with a store that remembers everything.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines

struct ObjectGroup {
    private struct Store: RecordStore {
        var records: [RecordPosition: StoredRecord] = [:]

        mutating func put(
            slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
            expiry: LogTime, value: Bytes?
        ) {
            let place = RecordPosition(slot: slot, machine: machine, key: Bytes(copying: key))
            records[place] = value.map { StoredRecord(value: $0.compacted(), revision: revision, expiry: expiry) }
        }

        mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision) {}

        func find(_ place: RecordPosition) -> Finding { records[place].map { .found($0) } ?? .absent }
    }

    private var machine: MasterStateMachine
    private var store = Store()
    private var calls: [SessionID: UInt64] = [:]
    private(set) var logTime: UInt64 = 1_000

    init() throws {
        machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = DataTypeMachines.registry
    }

    private mutating func apply(_ payload: Bytes) throws -> Bytes {
        let entry = LogEntry(
            index: machine.applied.next, term: Term(1), logTime: LogTime(logTime), kind: .command, payload: payload)
        guard case .done(_, let body) = machine.apply(entry, into: &store) else { throw Refusal.noQuorum }
        return body
    }

    mutating func open() -> SessionID {
        guard
            let body = try? apply(
                SessionCommand.open(timeToLive: 10_000, nonce: machine.applied.rawValue).payload())
        else { return .none }
        var reader = ByteReader(body)
        return (try? reader.read()) ?? .none
    }

    mutating func close(_ session: SessionID) { _ = try? apply(SessionCommand.close(session).payload()) }
    mutating func touch() -> Bool { (try? apply(KeyValueCommand.put(key: "k", value: "v").payload())) != nil }

    mutating func submit<Command: MachineCommand>(
        _ command: Command, of session: SessionID = .none
    ) throws -> Command.Answer {
        var header = CommandHeader(machine: Command.Machine.number)
        if session != .none {
            calls[session, default: 0] += 1
            header = CommandHeader(
                machine: Command.Machine.number, session: session, sequence: calls[session] ?? 0,
                firstUnacknowledged: calls[session] ?? 0)
        }
        let body = try apply(MachineRequest(command).payload(header: header))
        switch try MachineOutcome(decoding: body) {
        case .answer(let bytes): return try Command.Answer(decoding: bytes)
        case .failure(let failure): throw failure
        }
    }

    /// Whether a command behind this token is done.
    mutating func stands(_ token: FencingToken, for command: some MachineCommand) throws -> Bool {
        let bare = MachineRequest(command).payload(machine: type(of: command).number(of: command))
        let entry = LogEntry(
            index: machine.applied.next, term: Term(1), logTime: LogTime(logTime), kind: .command,
            payload: try CommandGuard.payload(bare, guardedBy: token))
        if case .done = machine.apply(entry, into: &store) { return true }
        return false
    }

    /// Time goes on, and commands that are due are done.
    mutating func pass(millis: UInt64) throws {
        logTime += millis
        for due in deadlines where due.time.rawValue <= logTime { _ = try apply(DeadlineCommand.fire(due).payload()) }
    }

    /// Of commands that are to come, ascending.
    var deadlines: [DeadlineKey] {
        store.records.filter { $0.key.machine == .deadlines && $0.value.value.array.first == 2 }.compactMap {
            place, _ -> DeadlineKey? in
            var reader = ByteReader(place.key)
            guard let time = try? reader.read(UInt64.self), let index = try? reader.read(UInt64.self),
                let number = try? reader.read(UInt16.self)
            else { return nil }
            return DeadlineKey(
                time: LogTime(UInt64(bigEndian: time)), index: LogIndex(UInt64(bigEndian: index)),
                number: UInt16(bigEndian: number))
        }.sorted { ($0.time.rawValue, $0.index.rawValue, $0.number) < ($1.time.rawValue, $1.index.rawValue, $1.number) }
    }

    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    func bytes(of machine: SubMachineNumber) -> [Bytes: Bytes] {
        var found: [Bytes: Bytes] = [:]
        for (place, record) in store.records where place.machine == machine { found[place.key] = record.value }
        return found
    }

    /// In hex.
    func records(of machine: SubMachineNumber) -> [String: String] {
        var found: [String: String] = [:]
        for (key, value) in bytes(of: machine) { found[hex(key)] = hex(value) }
        return found
    }

    /// The one deadline's, as records have it: group, time, index, number.
    var timerBytes: String {
        guard let deadline = deadlines.first else { return "" }
        var writer = ByteWriter(capacity: 22)
        writer.write(GroupID(1))
        writer.write(deadline.time.rawValue)
        writer.write(deadline.index.rawValue)
        writer.write(deadline.number)
        return hex(writer.take())
    }
}

extension MachineCommand {
    fileprivate static func number(of _: Self) -> SubMachineNumber { Machine.number }
}
