// What commands of data types say ahead that they read, and that they read what they wrote themselves, however much.

import DataTypes
import Messages
import Primitives
import StateMachines
import Testing

/// One group whose records may be on disk.
private struct Group {
    struct Store: RecordStore {
        var records: [RecordPosition: StoredRecord] = [:]
        /// Nothing else is in memory; nil: all is.
        var memory: Set<RecordPosition>?

        mutating func put(
            slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision,
            changed: LogIndex, expiry: LogTime, value: Bytes?
        ) {
            let place = RecordPosition(slot: slot, machine: machine, key: Bytes(copying: key))
            records[place] = value.map { StoredRecord(value: $0.compacted(), revision: revision, expiry: expiry) }
        }

        func find(_ place: RecordPosition) -> Finding {
            if let memory, !memory.contains(place) { return .elsewhere }
            return records[place].map { .found($0) } ?? .absent
        }
    }

    var machine: MasterStateMachine
    var store = Store()

    init() throws {
        machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = DataTypeMachines.registry
    }

    func entry<Command: MachineCommand>(_ command: Command) -> LogEntry {
        LogEntry(
            index: machine.applied.next, term: Term(1), logTime: LogTime(1_000), kind: .command,
            payload: MachineRequest(command).payload(machine: Command.Machine.number))
    }

    /// What it came to; nil: it has to wait for records.
    mutating func submit<Command: MachineCommand>(_ command: Command) throws -> Command.Answer? {
        switch machine.apply(entry(command), into: &store) {
        case .done(_, let body):
            guard case .answer(let answer) = try MachineOutcome(decoding: body) else { return nil }
            return try Command.Answer(decoding: answer)
        default: return nil
        }
    }

    /// Fetches what the command says that it reads, until it says nothing any more.
    ///
    /// - Returns: how often, and how many records.
    mutating func fetch(_ command: some MachineCommand) -> (rounds: Int, records: Int) {
        store.memory = []
        var rounds = 0
        while true {
            let places = machine.reads(of: entry(command), store)
            guard !places.isEmpty, rounds < 10 else { return (rounds, store.memory?.count ?? 0) }
            rounds += 1
            store.memory?.formUnion(places)
        }
    }
}

struct ForeseenReadsTests {
    @Test func commandsSayAheadAllThatTheyReadAndNoMore() throws {
        var group = try Group()
        func check<Command: MachineCommand>(_ command: Command, rounds: Int, records: Int) throws {
            let fetched = group.fetch(command)
            #expect(fetched.rounds == rounds && fetched.records == records, "\(command)")
            let isDone = try group.submit(command) != nil
            #expect(isDone, "\(command) waits all the same")
            group.store.memory = nil
        }
        // A time to live is called off: its deadline is read as well.
        let lives = try group.submit(ValueSet("t", "1", timeToLiveMillis: 1_000))
        let entryLives = try group.submit(MapPut("tm", "a", "1", timeToLiveMillis: 1_000))
        #expect(lives != nil && entryLives != nil)
        try check(ValueSet("t", "2"), rounds: 2, records: 2)
        try check(MapPut("tm", "a", "2"), rounds: 3, records: 3)
        let put = try group.submit(MapPut("m", "a", "1"))
        let added = try group.submit(SetAdd("s", ["a", "b"]))
        #expect(put != nil && added != nil)
        try check(ValueSet("v", "1"), rounds: 1, records: 1)
        try check(NumberChange("n", .add, .integer(1)), rounds: 1, records: 1)
        // The head says under which keys the elements are.
        try check(MapPut("m", "a", "2"), rounds: 2, records: 2)
        try check(MapPut("m", "b", "2"), rounds: 2, records: 2)
        try check(SetAdd("s", ["b", "c", "d"]), rounds: 2, records: 4)
        try check(SetRemove("s", ["a", "x"]), rounds: 2, records: 3)
        // Commands that don't foresee are tried.
        try check(MapRemove("m", "a"), rounds: 2, records: 2)
    }

    @Test(arguments: [1, 4, 8, 9, 40]) func aCommandReadsWhatItWroteHoweverMuchThatIs(count: Int) throws {
        var group = try Group()
        let put = try group.submit(MapPut("m", "k0", "before"))
        #expect(put != nil)
        var operations: [MapTransaction.Operation] = []
        var values: [Bytes?] = []
        func add(_ operation: MapTransaction.Operation, _ value: Bytes? = nil) {
            operations.append(operation)
            values.append(value)
        }
        for number in 0..<count {
            let key = Bytes("k\(number)")
            // Deadlines are among the writes.
            add(.put(key, "1", timeToLiveMillis: number % 3 == 0 ? 10_000 : 0), number == 0 ? Bytes() : nil)
            add(.get(key), "1")
            if number % 2 == 0 {
                add(.put("k0", Bytes("0 of \(number)")), Bytes())
                add(.get("k0"), Bytes("0 of \(number)"))
            }
            if number % 4 == 3 {
                add(.remove(key), Bytes())
                add(.get(key))
            }
        }
        let outcome = try group.submit(MapTransaction("m", then: operations))
        #expect(outcome?.results.map { $0?.value } == values)
    }
}
