// Queues as a group's machine: sessions, timers, waits and bytes, entry by entry of a log.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

private struct Place: Hashable {
    var slot: Slot
    var machine: SubMachineNumber
    var key: Bytes
}

private struct Store: RecordStore {
    var records: [Place: (value: Bytes, revision: Revision)] = [:]
    var events: [EmittedEvent] = []
    var writes = 0
    /// Reads of these wait once for a disk; nil: of none.
    var isCold = false
    var warm: Set<Place> = []

    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?
    ) {
        writes += 1
        let place = Place(slot: slot, machine: machine, key: Bytes(copying: key))
        records[place] = value.map { ($0.compacted(), revision) }
    }

    mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision) {
        events.append(event)
    }

    func find(_ place: RecordPosition) -> Finding {
        let known = Place(slot: place.slot, machine: place.machine, key: place.key)
        if isCold, !warm.contains(known) { return .elsewhere }
        guard let found = records[known] else { return .absent }
        return .found(StoredRecord(value: found.value, revision: found.revision, expiry: .zero))
    }
}

/// One group, entry by entry.
private struct Group {
    var machine: MasterStateMachine
    var store = Store()
    var index: UInt64 = 0
    var logTime: UInt64 = 1
    /// So often an entry waited for the disk.
    var waits = 0
    var calls: [SessionID: UInt64] = [:]
    static let name: Bytes = "jobs"

    init() throws {
        machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = DataTypeMachines.registry
    }

    mutating func apply(_ payload: Bytes) -> Applied {
        index += 1
        let entry = LogEntry(
            index: LogIndex(index), term: Term(1), logTime: LogTime(logTime), kind: .command, payload: payload)
        store.warm = []
        waits = 0
        while true {
            let outcome = machine.apply(entry, into: &store)
            guard case .unready(let places) = outcome else { return outcome }
            waits += 1
            for place in places {
                store.warm.insert(Place(slot: place.slot, machine: place.machine, key: place.key))
            }
        }
    }

    mutating func open() -> SessionID {
        guard case .done(_, let body) = apply(SessionCommand.open(timeToLive: 10_000, nonce: index).payload()) else {
            return .none
        }
        var reader = ByteReader(body)
        return (try? reader.read()) ?? .none
    }

    mutating func outcome(
        _ command: some MachineCommand, of session: SessionID = .none, again: Bool = false
    ) throws -> MachineOutcome {
        if !again { calls[session, default: 0] += 1 }
        let sequence = session == .none ? 0 : calls[session] ?? 0
        let header = CommandHeader(
            machine: QueueMachine.number, session: session, sequence: sequence,
            firstUnacknowledged: session == .none ? 0 : sequence)
        switch apply(MachineRequest(command).payload(header: header)) {
        case .done(_, let body): return try MachineOutcome(decoding: body)
        case .repeated(let answer):
            guard case .done(let body) = answer.outcome else { throw MachineFailure(0, "\(answer)") }
            return try MachineOutcome(decoding: body)
        case let other: throw MachineFailure(0, "\(other)")
        }
    }

    mutating func send<Command: MachineCommand>(
        _ command: Command, of session: SessionID = .none, again: Bool = false
    ) throws -> Command.Answer {
        switch try outcome(command, of: session, again: again) {
        case .answer(let body): return try Command.Answer(decoding: body)
        case .failure(let failure): throw failure
        }
    }

    func ask<Query: MachineQuery>(_ query: Query) throws -> Query.Answer {
        let request = MachineRequest(query)
        var reading = try MachineReading(
            request.encoded(), machine: QueueMachine.number, slot: slot(of: request.key),
            machines: DataTypeMachines.registry)
        while true {
            let result = try reading.result(
                index: LogIndex(index), revision: machine.revision, logTime: LogTime(logTime),
                lookUp: { store.find($0) })
            switch result {
            case .more(let next): reading = next
            case .refused(let refusal): throw MachineFailure(0, "\(refusal)")
            case .done(let body):
                switch try MachineOutcome(decoding: body) {
                case .answer(let body): return try Query.Answer(decoding: body)
                case .failure(let failure): throw failure
                }
            }
        }
    }

    /// All that is due, as a leader has it done.
    mutating func pass(_ millis: UInt64) throws {
        logTime += millis
        while let due = try store.records.filter({ $0.key.machine == .deadlines }).map({
            try Deadline(key: $0.key.key, value: $0.value.value)
        }).filter({ $0.key.time.rawValue <= logTime && $0.isCommand }).min(by: { $0.key.key < $1.key.key }) {
            _ = apply(DeadlineCommand.fire(due.key).payload())
        }
    }

    /// Until nothing is scheduled for at once any more.
    mutating func settle() throws { for _ in 0..<10 { try pass(2) } }

    mutating func push(_ values: [Bytes], delay: UInt64 = 0) throws -> [UInt64] {
        try send(QueuePush(Self.name, values.map { .init($0, delayMillis: delay) })).pushed.map(\.item)
    }

    mutating func take(
        _ count: UInt16, of session: SessionID = .none, visibility: UInt64 = 1_000, wait: UInt64 = 0,
        again: Bool = false
    ) throws -> ObjectQueue.Taken {
        try send(
            QueueTake(
                Self.name, count, visibilityMillis: visibility, waitMillis: wait, isOfSession: session != .none),
            of: session, again: again
        ).taken
    }

    func counts() throws -> QueueCounts { try ask(QueueCount(Self.name)) }

    /// Records of the machine, and timers.
    var left: (records: Int, timers: Int) {
        (
            store.records.keys.count { $0.machine == QueueMachine.number },
            store.records.keys.count { $0.machine == .deadlines }
        )
    }
}

@Suite struct QueueMachineTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { byte in String(byte >> 4, radix: 16) + String(byte & 15, radix: 16) }.joined()
    }

    @Test func whatIsTakenComesBackUnlessItIsAcknowledged() throws {
        var group = try Group()
        let ada = group.open()
        #expect(try group.push(["a", "b", "c"]) == [1, 2, 3])
        let first = try group.take(2, of: ada)
        #expect(first.deliveries.map(\.value) == ["a", "b"])
        // The answer was lost: the same one, and nothing more is taken.
        #expect(try group.take(2, of: ada, again: true) == first)
        #expect(try group.counts().inFlight == 2 && group.counts().ready == 1)
        #expect(try group.send(QueueAck(Group.name, [first.deliveries[0].receipt])).outcomes == [.done])
        try group.pass(999)
        #expect(try group.counts().ready == 1)
        try group.pass(1)
        #expect(try group.counts().ready == 2 && group.counts().inFlight == 0)
        let again = try group.take(1)
        #expect(again.deliveries[0].receipt == .init(item: 2, delivery: 2) && again.deliveries[0].deliveries == 2)
        // A late word of the first delivery takes nothing away.
        let late = first.deliveries.map(\.receipt)
        #expect(try group.send(QueueAck(Group.name, late), of: ada).outcomes == [.gone, .stale])
        #expect(try group.send(QueueNack(Group.name, late), of: ada).outcomes == [.gone, .stale])
        #expect(
            try group.send(QueueExtend(Group.name, late, visibilityMillis: 5), of: ada).outcomes == [.gone, .stale])
        #expect(try group.ask(QueueValue(Group.name, again.deliveries[0].receipt)) == "b")
        #expect(throws: MachineFailure(ObjectFailure.staleReceipt, "the item came back since it was taken")) {
            try group.ask(QueueValue(Group.name, late[1]))
        }
        let mine = again.deliveries.map(\.receipt)
        #expect(try group.send(QueueExtend(Group.name, mine, visibilityMillis: 9_000)).outcomes == [.done])
        try group.pass(8_999)
        #expect(try group.send(QueueNack(Group.name, mine, delayMillis: 50)).outcomes == [.done])
        #expect(try group.counts().delayed == 1)
        try group.pass(50)
        #expect(try group.send(QueueTakeAndAck(Group.name, 9)).taken.deliveries.map(\.value) == ["b", "c"])
        // The head stays, so that no receipt comes twice.
        #expect(group.left == (1, 0))
        #expect(try group.push(["d"]) == [4])
    }

    @Test func aSessionHoldsTheQueueAsLongAsItHasItems() throws {
        var group = try Group()
        let (ada, bob) = (group.open(), group.open())
        _ = try group.push(["a", "b"])
        let taken = try group.take(2, of: ada)
        _ = try group.take(1, of: bob)
        let writes = group.store.writes
        _ = group.apply(SessionCommand.close(bob).payload())
        #expect(group.store.writes == writes + 1)
        #expect(try group.send(QueueAck(Group.name, taken.deliveries.map(\.receipt))).outcomes == [.done, .done])
        let before = group.store.writes
        _ = group.apply(SessionCommand.close(ada).payload())
        #expect(group.store.writes == before + 1)
    }

    @Test func allThatASessionHadComesBackThoughItIsMuch() throws {
        var group = try Group()
        let (ada, bob) = (group.open(), group.open())
        for _ in 0..<3 { _ = try group.push((0..<64).map { Bytes("\($0)") }) }
        #expect(try group.take(180, of: ada, visibility: 1_000_000).deliveries.count == 180)
        #expect(try group.take(20, of: bob, visibility: 1_000_000).deliveries.count == 12)
        #expect(try group.take(3, of: ada, wait: 1_000).ticket == 1)
        _ = group.apply(SessionCommand.close(ada).payload())
        #expect(try group.counts().ready == 8 && group.counts().inFlight == 184 && group.counts().waiters == 0)
        // Nobody does what queues schedule but they.
        _ = try group.send(QueueEnd(decoding: end(of: bob)))
        _ = try group.send(QueueEnd(decoding: end(of: ada)))
        #expect(try group.counts().inFlight == 184)
        try group.settle()
        #expect(try group.counts().ready == 180 && group.counts().inFlight == 12)
    }

    private func end(of session: SessionID) -> Bytes {
        var writer = ByteWriter()
        writer.writeWithLength(Group.name)
        writer.write(session)
        return writer.take()
    }

    @Test func timersOfClientsDoNothing() throws {
        var group = try Group()
        _ = try group.send(QueuePush(Group.name, [.init("a", id: "id")]))
        _ = try group.take(1, wait: 500)
        _ = try group.take(1, wait: 500)
        let before = group.store.records.mapValues { $0.value }
        for kind in 0...2 as ClosedRange<UInt8> {
            for number in 0...3 as ClosedRange<UInt64> {
                for turn in 0...4 as ClosedRange<UInt64> {
                    var writer = ByteWriter()
                    writer.writeWithLength(Group.name)
                    writer.write(kind)
                    writer.write(number)
                    writer.write(turn)
                    _ = try group.send(QueueFire(decoding: writer.take()))
                }
            }
        }
        var writer = ByteWriter()
        writer.writeWithLength(Group.name)
        _ = try group.send(QueueServe(decoding: writer.take()))
        #expect(group.store.records.mapValues { $0.value } == before)
    }

    @Test func whoWaitsIsToldAndFindsItByHisTicket() throws {
        var group = try Group()
        let (ada, bob) = (group.open(), group.open())
        let large = Bytes([UInt8](repeating: 7, count: 5_000))
        #expect(try group.take(2, of: ada, wait: 1_000).ticket == 1)
        #expect(try group.take(1, of: ada, wait: 1_000, again: true).ticket == 1)
        #expect(try group.take(1, of: bob, wait: 50).ticket == 2)
        #expect(try group.take(1, wait: 5_000).ticket == 3)
        #expect(try group.ask(QueueTicket(Group.name, 1)).kind == .waiting)
        try group.pass(50)
        #expect(try told(group) == [2: .timedOut] && group.ask(QueueTicket(Group.name, 2)).kind == .over)
        _ = try group.push(["a", large])
        let event = try #require(group.store.events.last)
        #expect(event.kind == .put && event.key == QueueMachine.watchKey(Group.name, 1))
        let state = try QueueTicketState(decoding: event.body)
        #expect(state.kind == .delivered && state.deliveries.map(\.value) == ["a", nil])
        let found = try group.ask(QueueTicket(Group.name, 1))
        #expect(found.kind == .delivered && found.deliveries.map(\.value) == ["a", large])
        #expect(found.deliveries.map(\.receipt) == state.deliveries.map(\.receipt))
        // As long as something of it is in flight.
        _ = try group.send(QueueAck(Group.name, [state.deliveries[0].receipt]), of: ada)
        #expect(try group.ask(QueueTicket(Group.name, 1)).deliveries.map(\.value) == [large])
        // Nobody else gives it back.
        #expect(try !group.send(QueueCancelWait(Group.name, 1), of: bob).isTrue)
        #expect(try group.send(QueueCancelWait(Group.name, 1), of: ada).isTrue)
        #expect(try !group.send(QueueCancelWait(Group.name, 1), of: ada).isTrue)
        #expect(try group.ask(QueueTicket(Group.name, 1)).kind == .over)
        // It went to the next who waits, as if it had not been delivered.
        let next = try group.ask(QueueTicket(Group.name, 3))
        #expect(next.deliveries.map(\.deliveries) == [1] && next.deliveries.map(\.value) == [large])
        #expect(try told(group) == [2: .timedOut, 1: .delivered, 3: .delivered])
        #expect(try group.take(1, of: bob, wait: 50).ticket == 4)
        #expect(try group.send(QueueCancelWait(Group.name, 4), of: bob).isTrue)
        #expect(try told(group)[4] == .cancelled)
        try group.pass(10_000)
        #expect(try group.counts().ready == 1 && group.counts().waiters == 0)
    }

    private func told(_ group: Group) throws -> [UInt64: QueueTicketState.Kind] {
        var told: [UInt64: QueueTicketState.Kind] = [:]
        for event in group.store.events where event.kind == .put {
            var reader = ByteReader(event.key[event.key.count - 8..<event.key.count])
            told[UInt64(bigEndian: try reader.read())] = try QueueTicketState(decoding: event.body).kind
        }
        return told
    }

    /// No command hands over more than its bound: one that is scheduled goes on.
    @Test func servingGoesOnByItself() throws {
        var group = try Group()
        let ada = group.open()
        for _ in 0..<5 { _ = try group.push([Bytes](repeating: "x", count: 51)) }
        #expect(try group.take(255, of: ada, visibility: 100_000).deliveries.count == 255)
        // One of these gets something; then the session is full.
        for ticket in 1...16 as ClosedRange<UInt64> {
            #expect(try group.take(1, of: ada, wait: 100_000).ticket == ticket)
        }
        for _ in 0..<84 { _ = try group.take(1, visibility: 100_000, wait: 100_000) }
        _ = try group.push([Bytes](repeating: "y", count: 64))
        #expect(try group.counts().ready == 15 && group.counts().waiters == 36)
        try group.pass(5)
        #expect(try group.counts().ready == 0 && group.counts().waiters == 21)
        let told = try told(group)
        #expect(told[1] == .delivered && (2...16).allSatisfy { told[$0] == .sessionFull })
        #expect((17...79).allSatisfy { told[$0] == .delivered } && told[80] == nil)
        #expect(try group.take(1, of: ada).stop == .sessionFull)
        // What comes back at a session's end goes to who waits, too.
        _ = group.apply(SessionCommand.close(ada).payload())
        try group.settle()
        #expect(try group.counts().waiters == 0 && group.counts().ready == 256 - 21)
    }

    @Test func deadItemsAreSeenRequeuedAndPurged() throws {
        var group = try Group()
        _ = try group.send(QueueSettings(Group.name, deliveriesMax: 1))
        _ = try group.push(["a", "b", "c", "d"])
        let taken = try group.take(4)
        _ = try group.send(QueueNack(Group.name, [taken.deliveries[2].receipt]))
        try group.pass(1_000)
        #expect(try group.counts().dead == 4 && group.counts().deliveriesMax == 1)
        let page = try group.ask(QueuePage(Group.name, isOfDead: true, itemsMax: 3)).page
        #expect(page.items.map(\.value) == ["a", "b", "c"] && page.next == 3)
        #expect(page.items.map(\.reason) == [.timedOut, .timedOut, .refused])
        let last = try group.ask(QueuePage(Group.name, isOfDead: true, after: 3, itemsMax: 9)).page
        #expect(last.items.map(\.value) == ["d"] && last.next == nil)
        #expect(try group.send(QueueRequeue(Group.name, [3, 1, 3, 9])).outcomes == [.done, .done, .notDead, .gone])
        #expect(try group.send(QueueRemoveDead(Group.name, [2, 1])).outcomes == [.done, .notDead])
        #expect(try group.send(QueuePurgeDead(Group.name)).count == 1)
        let ready = try group.ask(QueuePage(Group.name, isOfDead: false, itemsMax: 9)).page
        #expect(ready.items.map(\.value) == ["a", "c"] && ready.items.map(\.deliveries) == [0, 0])
    }

    @Test func clearForgetsItemsAndIDsAndNoNumbers() throws {
        var group = try Group()
        let ada = group.open()
        #expect(try group.send(QueueClear(Group.name)).count == 0)
        _ = try group.send(QueuePush(Group.name, [.init("a", id: "id"), .init("b", delayMillis: 50)]))
        #expect(try group.send(QueuePush(Group.name, [.init("a", id: "id")])).pushed == [.init(item: 1, isNew: false)])
        let taken = try group.take(1, of: ada)
        #expect(try group.send(QueueClear(Group.name)).count == 2)
        #expect(try group.send(QueueAck(Group.name, taken.deliveries.map(\.receipt)), of: ada).outcomes == [.gone])
        #expect(try group.send(QueuePush(Group.name, [.init("c", id: "id")])).pushed == [.init(item: 3, isNew: true)])
        try group.pass(2_000)
        #expect(try group.counts().ready == 1 && group.counts().delayed == 0)
        _ = group.apply(SessionCommand.close(ada).payload())
        #expect(try group.take(5).deliveries.map(\.value) == ["c"])
    }

    @Test func damageIsAFailure() throws {
        var group = try Group()
        let ada = group.open()
        _ = try group.push(["a", "b"])
        let taken = try group.take(1, of: ada, visibility: 100)
        var random = SeededRandom(seed: 5)
        var failures = 0
        for place in group.store.records.keys.filter({ $0.machine == QueueMachine.number }).sorted(by: {
            $0.key < $1.key
        }) {
            for round in 0..<200 {
                var damaged = group
                var bytes = damaged.store.records[place]!.value.array
                bytes[random.below(bytes.count)] = UInt8(random.below(256))
                if round == 0 { bytes = [] }
                damaged.store.records[place]!.value = Bytes(bytes)
                func attempt(_ command: some MachineCommand) throws {
                    guard case .failure(let failure) = try damaged.outcome(command, of: ada) else { return }
                    failures += 1
                    // Not `otherError`, which says nothing.
                    #expect(failure.rule == nil, "\(failure)")
                }
                try attempt(QueueTake(Group.name, 2, visibilityMillis: 5, waitMillis: 5, isOfSession: true))
                try attempt(QueueAck(Group.name, taken.deliveries.map(\.receipt)))
                try attempt(QueuePush(Group.name, [.init("c", id: "id")]))
                try attempt(QueueTakeAndAck(Group.name, 9))
                try damaged.pass(100)
                _ = damaged.apply(SessionCommand.close(ada).payload())
                try damaged.pass(100)
            }
        }
        #expect(failures > 50)
    }

    /// What is not in memory is fetched in few goes, however much it is.
    @Test func manyAcknowledgementsWaitForTheDiskAFewTimes() throws {
        var group = try Group()
        let ada = group.open()
        _ = try group.push((0..<64).map { Bytes("\($0)") })
        let taken = try group.take(64, of: ada)
        group.store.isCold = true
        #expect(
            try group.send(QueueAck(Group.name, taken.deliveries.map(\.receipt))).outcomes
                == [ObjectQueue.Outcome](repeating: .done, count: 64))
        #expect(group.waits <= 5)
        print("acknowledgements waited \(group.waits) times")
    }

    @Test func boundsAreWords() throws {
        var group = try Group()
        for command in [
            QueueTake(Group.name, 0, visibilityMillis: 1, waitMillis: 0, isOfSession: false),
            QueueTake(Group.name, 257, visibilityMillis: 1, waitMillis: 0, isOfSession: false),
            QueueTake(Group.name, 1, visibilityMillis: 0, waitMillis: 0, isOfSession: false),
            QueueTake(Group.name, 1, visibilityMillis: .max, waitMillis: 0, isOfSession: false),
            QueueTake(Group.name, 1, visibilityMillis: 1, waitMillis: .max, isOfSession: false),
        ] {
            guard case .failure(let failure) = try group.outcome(command) else {
                Issue.record("\(command) was done")
                continue
            }
            #expect(failure.code == ObjectFailure.badArgument)
        }
        _ = try group.push(["a"])
        // Who has no session has nothing in one.
        let take = QueueTake(Group.name, 1, visibilityMillis: 1, waitMillis: 0, isOfSession: true)
        guard case .failure(let failure) = try group.outcome(take) else {
            Issue.record("nobody's session holds something")
            return
        }
        #expect(failure.rule == .needsSession)
        #expect(try group.counts().ready == 1)
    }

    @Test func bytesStayWhatTheyAre() throws {
        let name = "01000000" + "71"
        let (one, two) = ("0100000000000000", "0200000000000000")
        func check<Value: Message>(
            _ value: Value, _ expected: String, place: SourceLocation = #_sourceLocation
        ) throws {
            #expect(hex(value.encoded()) == expected, sourceLocation: place)
            #expect(hex(try Value(decoding: value.encoded()).encoded()) == expected, sourceLocation: place)
            for length in 0..<value.encoded().count where Value.self != Bytes.self {
                _ = try? Value(decoding: value.encoded()[0..<length])
            }
        }
        let receipts = [ObjectQueue.Receipt(item: 1, delivery: 2)]
        let list = "0100" + one + two
        try check(
            QueuePush("q", [.init("v", priority: 9, delayMillis: 2, id: "i", windowMillis: 1), .init("")]),
            name + "0200" + "09" + two + "01000000" + "76" + "01" + "01000000" + "69" + one + "80"
                + "0000000000000000" + "00000000" + "00")
        try check(
            QueueTake("q", 3, visibilityMillis: 1, waitMillis: 2, isOfSession: true),
            name + "0300" + one + two + "01")
        try check(QueueTakeAndAck("q", 3), name + "0300")
        try check(QueueAck("q", receipts), name + list)
        try check(QueueNack("q", receipts, delayMillis: 1), name + one + list)
        try check(QueueExtend("q", receipts, visibilityMillis: 1), name + one + list)
        try check(QueueRequeue("q", [1, 2]), name + "0200" + one + two)
        try check(QueueRemoveDead("q", [1, 2]), name + "0200" + one + two)
        try check(QueuePurgeDead("q", itemsMax: 5), name + "0500")
        try check(QueueSettings("q", deliveriesMax: 5), name + "05000000")
        try check(QueueClear("q"), name)
        try check(QueueCancelWait("q", 1), name + one)
        try check(try QueueFire(decoding: bytes(name + "01" + one + two)), name + "01" + one + two)
        try check(try QueueServe(decoding: bytes(name)), name)
        try check(try QueueEnd(decoding: bytes(name + one)), name + one)
        try check(QueueCount("q"), name)
        try check(QueuePage("q", isOfDead: true, after: 1, itemsMax: 7), name + "01" + "01" + one + "0700")
        try check(QueueValue("q", receipts[0]), name + one + two)
        try check(QueueTicket("q", 1), name + one)
        #expect(QueueMachine.commands.map { $0.number } == Array(1...15))
        #expect(QueueMachine.queries.map { $0.number } == Array(1...4))
        #expect(QueueMachine.number == SubMachineNumber(21))
        #expect(QueueMachine.watchKey("q", 1) == bytes("0001" + "71" + "02" + "0000000000000001"))

        // Answers and records as they come about.
        var group = try Group()
        func answer(_ command: some MachineCommand) throws -> String {
            guard case .answer(let body) = try group.outcome(command) else { return "failure" }
            return hex(body)
        }
        let none = "0000000000000000"
        #expect(
            try answer(QueueTake("q", 1, visibilityMillis: 9, waitMillis: 9, isOfSession: false)) == "00" + one + "0000"
        )
        #expect(try answer(QueueCancelWait("q", 1)) == "01")
        #expect(try answer(QueuePush("q", [.init("v", priority: 9, id: "i")])) == "0100" + one + "01")
        #expect(
            try answer(QueueTake("q", 1, visibilityMillis: 9, waitMillis: 0, isOfSession: false))
                == "00" + none + "0100" + one + one + "09" + "01000000" + "01000000" + "01" + "01000000" + "76")
        #expect(try answer(QueueAck("q", receipts)) == "0100" + "02")
        #expect(try answer(QueueSettings("q", deliveriesMax: 3)) == "")
        #expect(
            hex(try group.ask(QueueCount("q")).encoded())
                == none + none + one + none + "00000000" + "03000000")
        _ = try group.send(QueueNack("q", [.init(item: 1, delivery: 1)]))
        #expect(
            hex(try group.ask(QueuePage("q", isOfDead: false, itemsMax: 1)).encoded())
                == "0100" + one + "09" + "01000000" + "02" + "01000000" + "76" + "00")
        let records = group.store.records.filter { $0.key.machine == QueueMachine.number }
        func record(_ rest: String) -> String? {
            records.first { $0.key.key == bytes("0001" + "71" + rest) }.map { hex($0.value.value) }
        }
        let first = "0000000000000001"
        #expect(
            record("00")
                == "01" + "00" + "01" + one + root(record, count: one) + root(record, count: none) + none + none + two
                + "03000000" + none + none + "00000000" + two)
        #expect(
            record("01" + first + "01" + first)
                == "01" + "00" + "09" + "02" + "01000000" + one + "0300000000000000" + none + none + "01000000" + "00"
                + "01" + "76")
        #expect(record("01" + first + "05" + "69") == one)
        #expect(record("01" + first + "06" + first) == "69")
        #expect(records.count == 5)
    }

    /// As the head has it: trees have samples of their own.
    private func root(_ record: (String) -> String?, count: String) -> String {
        let head = record("00") ?? ""
        let start = count == "0100000000000000" ? 22 : 72
        let root = String(head.dropFirst(start).prefix(50))
        #expect(root.contains(count))
        return root
    }

    private func bytes(_ hex: String) -> Bytes {
        let digits = Array(hex)
        return Bytes(
            stride(from: 0, to: digits.count, by: 2).map { UInt8(String(digits[$0...$0 + 1]), radix: 16) ?? 0 })
    }
}
