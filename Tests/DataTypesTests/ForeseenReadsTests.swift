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
        final class Looks { var count = 0 }
        let looks = Looks()

        mutating func put(
            slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision,
            changed: LogIndex, expiry: LogTime, value: Bytes?
        ) {
            let place = RecordPosition(slot: slot, machine: machine, key: Bytes(copying: key))
            records[place] = value.map { StoredRecord(value: $0.compacted(), revision: revision, expiry: expiry) }
            memory?.insert(place)
        }

        func find(_ place: RecordPosition) -> Finding {
            looks.count += 1
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

    /// Applies entries one after the other, and fetches what they lack as a host does: for all that wait in one go.
    ///
    /// - Returns: how often, and how often a record was looked for in order to know what to fetch.
    mutating func apply(_ commands: [any MachineCommand]) -> (rounds: Int, looks: Int, isDone: Bool) {
        store.memory = []
        var survey = ReadSurvey()
        var entries: [LogEntry] = []
        for (place, command) in commands.enumerated() {
            var entry = entry(command)
            entry.index = LogIndex(machine.applied.rawValue + UInt64(place) + 1)
            entries.append(entry)
        }
        var (rounds, looks) = (0, 0)
        while let entry = entries.first {
            switch machine.apply(entry, into: &store) {
            case .done: entries.removeFirst()
            case .unready(let places) where rounds < 1_000:
                rounds += 1
                let before = store.looks.count
                survey.begin(places)
                var fetched = Set(places)
                for entry in entries.dropFirst() { fetched.formUnion(survey.missing(of: entry, machine, store)) }
                looks += store.looks.count - before
                store.memory?.formUnion(fetched)
            default: return (rounds, looks, false)
            }
        }
        return (rounds, looks, true)
    }

    /// A queue with 200 items.
    mutating func fill(_ name: Bytes) throws {
        for number in 0..<4 {
            let items = (0..<50).map { ObjectQueue.Push(Bytes("item \(50 * number + $0)")) }
            let pushed = try submit(QueuePush(name, items))
            #expect(pushed != nil)
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

    /// Each sees at first the same item as the others: what they take is known only as they take it.
    @Test func whoTakesFromOneQueueFetchesForWhoComesBehind() throws {
        var group = try Group()
        try group.fill("q")
        let taken = group.apply((0..<150).map { _ in QueueTakeAndAck("q", 1) })
        // Head, root, and for each of three leaves one round and another one for the items in it.
        #expect(taken.isDone && taken.rounds == 8, "\(taken)")
        #expect(taken.looks < 500, "\(taken)")
    }

    @Test func whoTakesAloneFetchesForNobody() throws {
        var group = try Group()
        try group.fill("q")
        let taken = group.apply([QueueTakeAndAck("q", 1)])
        #expect(taken.isDone && taken.rounds == 4, "\(taken)")
        let items = group.store.memory?.filter { $0.key.count == 21 && $0.key[12] == 1 }
        #expect(items?.count == 1)
    }

    /// They can't tell ahead what they read, and read different records of one object.
    @Test func commandsOnElementsOfOneObjectFetchThemTogether() throws {
        var group = try Group()
        for number in 0..<50 {
            let put = try group.submit(MapPut("m", Bytes("k\(number)"), "1"))
            #expect(put != nil)
        }
        let removed = group.apply((0..<50).map { MapRemove("m", Bytes("k\($0)")) })
        #expect(removed.isDone && removed.rounds == 2, "\(removed)")
    }

    @Test func entriesThatLackNothingAreNotLookedAtAgain() throws {
        var group = try Group()
        try group.fill("q")
        var commands: [any MachineCommand] = []
        for number in 0..<100 {
            let name = Bytes("m\(number)")
            let put = try group.submit(MapPut(name, "a", "1"))
            #expect(put != nil)
            commands.append(MapPut(name, "a", "2"))
        }
        let putAlone = group.apply(commands)
        // Heads, and elements.
        #expect(putAlone.isDone && putAlone.rounds == 2, "\(putAlone)")
        // The queue needs two more rounds. In the first of these maps are found to have all they need.
        let both = group.apply([QueueTakeAndAck("q", 1)] + commands)
        #expect(both.isDone && both.rounds == 4, "\(both)")
        #expect(both.looks - putAlone.looks < 800, "\(both), \(putAlone)")
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
