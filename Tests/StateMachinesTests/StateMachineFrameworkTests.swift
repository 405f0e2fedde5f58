// Users' state machines within one group's state machine: what a command does, what it may not do, and what is kept.

import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// A shelf of counters, and commands that break each rule there is.
enum Shelf: StateMachine {
    static let number = SubMachineNumber(2_000)
    static let commands: [any MachineCommand<Shelf>.Type] = [Add.self, Misbehave.self, Look.self]
    static let queries: [any MachineQuery<Shelf>.Type] = [Read.self]
}

struct Count: Message {
    var value: UInt64
    init(_ value: UInt64) { self.value = value }
    /// In a way of its own: the writer that an answer gets begins with the answer.
    func encode(into writer: inout ByteWriter) {
        writer.write(0 as UInt64)
        writer.overwrite(value, at: 0)
    }
    init(from reader: inout ByteReader) throws(DecodingFailure) { value = try reader.read() }
}

/// Adds to a counter, at most to 10, and answers what it is then.
struct Add: MachineCommand {
    typealias Machine = Shelf
    typealias Answer = Count
    static let number: UInt16 = 1
    var key: Bytes
    var amount: UInt64
    init(_ key: Bytes, _ amount: UInt64) { (self.key, self.amount) = (key, amount) }

    func apply(in context: inout MachineContext) throws -> Count {
        let old = try context.get(key, as: Count.self)?.value ?? 0
        // Gone again if it is too much.
        try context.put(key, Count(old + amount))
        guard old + amount <= 10 else { throw MachineFailure(7, "\(old) and \(amount) are more than 10") }
        return try #require(try context.get(key, as: Count.self))
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(amount)
        writer.writeWithLength(key)
    }
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        amount = try reader.read()
        key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
    }
}

struct Misbehave: MachineCommand {
    typealias Machine = Shelf
    typealias Answer = Count
    static let number: UInt16 = 2
    static var bringsDataIn: Bool { false }
    enum How: UInt8, CaseIterable {
        case writeElsewhere = 1, readElsewhere, writeTooMuch, writeTooMany, answerTooMuch, emptyKey, readWrongType
        case hideMissing, readTooOften, useACopy

        var rule: MachineFailure.Rule? {
            switch self {
            case .writeElsewhere, .readElsewhere: .keyElsewhere
            case .writeTooMuch, .writeTooMany: .writesTooMuch
            case .answerTooMuch: .valueTooLarge
            case .emptyKey: .badKey
            case .readWrongType: .otherError
            case .readTooOften: .readsTooMuch
            case .hideMissing, .useACopy: nil
            }
        }
    }
    var key: Bytes { "{m}k" }
    var how: How

    struct TooLong: Message {
        func encode(into writer: inout ByteWriter) { writer.write(Bytes([UInt8](repeating: 1, count: 1 << 20 + 1))) }
        init() {}
        init(from reader: inout ByteReader) throws(DecodingFailure) { _ = reader.readRest() }
    }

    /// What it broke it hides, and says that all is well.
    func apply(in context: inout MachineContext) throws -> Count {
        try context.put("{m}written", Count(1))
        switch how {
        case .writeElsewhere: try? context.put("other", Count(1))
        case .readElsewhere: _ = try? context.get("other")
        case .writeTooMuch:
            let value = Bytes([UInt8](repeating: 1, count: Limits.valueBytesMax))
            for number in 0..<5 { try? context.put(Bytes("{m}\(number)"), value) }
        case .writeTooMany:
            for number in 0..<MachineContext.Limits.writesMax { try? context.put(Bytes("{m}\(number)"), Count(1)) }
        case .answerTooMuch: try context.put("{m}long", TooLong())
        case .emptyKey: try? context.delete("")
        case .readWrongType: _ = try context.get("{m}short", as: Count.self)
        case .hideMissing:
            let found = try? context.get("{m}far", as: Count.self)
            return found ?? Count(999)
        case .readTooOften: for _ in 0...MachineContext.Limits.readsMax { _ = try? context.get("{m}none") }
        case .useACopy:
            var copy = context
            let found = try? copy.get("{m}far", as: Count.self)
            return found ?? Count(999)
        }
        return Count(1)
    }

    init(_ how: How) { self.how = how }
    func encode(into writer: inout ByteWriter) { writer.write(how.rawValue) }
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let how = How(rawValue: number) else { throw DecodingFailure(expected: "1 to 10", found: "\(number)") }
        self.how = how
    }
}

/// Answers what the context says.
struct Look: MachineCommand {
    typealias Machine = Shelf
    static let number: UInt16 = 3
    var key: Bytes { "{m}k" }
    struct Answer: Message {
        var numbers: [UInt64]
        func encode(into writer: inout ByteWriter) { for number in numbers { writer.write(number) } }
        init(_ numbers: [UInt64]) { self.numbers = numbers }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            numbers = []
            for _ in 0..<6 { numbers.append(try reader.read()) }
        }
    }
    func apply(in context: inout MachineContext) throws -> Answer {
        Answer([
            context.index.rawValue, context.logTime.rawValue, context.revision.rawValue, context.session.rawValue,
            context.random.next(), context.random.next(),
        ])
    }
    init() {}
    func encode(into writer: inout ByteWriter) {}
    init(from reader: inout ByteReader) throws(DecodingFailure) {}
}

struct Read: MachineQuery {
    typealias Machine = Shelf
    typealias Answer = Count
    static let number: UInt16 = 1
    var key: Bytes
    init(_ key: Bytes) { self.key = key }
    func answer(in view: inout MachineView) throws -> Count {
        guard let found = try view.get(key, as: Count.self) else { throw MachineFailure(1, "none") }
        // Not named in `readKeys`.
        return Count(found.value + (try view.get("{m}more", as: Count.self)?.value ?? 0))
    }
    func encode(into writer: inout ByteWriter) { writer.writeWithLength(key) }
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
    }
}

@Suite("StateMachineFramework") struct StateMachineFrameworkTests {
    private struct Group {
        var machine: MasterStateMachine
        var store = ModelStore()
        var logTime: UInt64 = 5

        init(isAware: Bool = true) throws {
            machine = try MasterStateMachine(group: GroupID(1))
            if isAware { machine.machines = try StateMachineRegistry([Shelf.self]) }
        }

        mutating func apply(_ payload: Bytes) -> Applied {
            machine.apply(.command(machine.applied.rawValue + 1, payload, logTime: logTime), into: &store)
        }

        mutating func apply<Command: MachineCommand>(
            _ command: Command, header: CommandHeader? = nil
        ) throws -> Result<Command.Answer, MachineFailure> {
            var payload = MachineRequest(command).payload(machine: Shelf.number)
            if let header {
                var writer = ByteWriter()
                header.encode(into: &writer)
                writer.write(payload[CommandHeader.encodedBytes..<payload.count])
                payload = writer.take()
            }
            switch apply(payload) {
            case .done(_, let body): return try result(body)
            case .repeated(let answer):
                guard case .done(let body) = answer.outcome else { throw Refusal.invalid("\(answer)") }
                return try result(body)
            case let other: throw Refusal.invalid("\(other)")
            }
        }

        private func result<Answer: Message>(_ body: Bytes) throws -> Result<Answer, MachineFailure> {
            switch try MachineOutcome(decoding: body) {
            case .answer(let bytes): .success(try Answer(decoding: bytes))
            case .failure(let failure): .failure(failure)
            }
        }

        mutating func open() throws -> SessionID {
            guard case .done(_, let body) = apply(SessionCommand.open(timeToLive: 10_000, nonce: 7).payload()) else {
                throw Refusal.invalid("not opened")
            }
            var reader = ByteReader(body)
            return try reader.read()
        }

        func count(_ key: Bytes) throws -> UInt64? {
            let place = RecordPosition(slot: slot(of: key), machine: Shelf.number, key: key)
            guard case .found(let record) = store.find(place) else { return nil }
            return try Count(decoding: record.value).value
        }
    }

    @Test func commandsReadWhatTheyWroteAndFailuresLeaveNothingBehind() throws {
        var group = try Group()
        #expect(try group.apply(Add("{a}x", 4)) == .success(Count(4)))
        #expect(try group.apply(Add("{a}x", 6)) == .success(Count(10)))
        let (revision, writes) = (group.machine.revision, group.store.writes)
        #expect(try group.apply(Add("{a}x", 1)) == .failure(MachineFailure(7, "10 and 1 are more than 10")))
        #expect(try group.count("{a}x") == 10)
        #expect(group.machine.revision == revision && group.store.writes == writes)
        // Its records are its own: the same key of the key-value machine is another one.
        _ = group.apply(KeyValueCommand.put(key: "{a}x", value: "v").payload())
        #expect(try group.count("{a}x") == 10)
    }

    @Test func whatBreaksARuleIsNotDoneWhateverTheMachineMakesOfIt() throws {
        for how in Misbehave.How.allCases where how.rule != nil {
            var group = try Group()
            let short = Bytes("{m}short")
            short.withUnsafeBytes {
                group.store.put(
                    slot: slot(of: short), machine: Shelf.number, key: $0, revision: Revision(1), changed: LogIndex(1),
                    expiry: .zero, value: "12")
            }
            let before = group.store
            guard case .failure(let failure) = try group.apply(Misbehave(how)) else {
                Issue.record("\(how) passed")
                continue
            }
            #expect(failure.rule == how.rule && failure.text.isEmpty && !failure.description.isEmpty, "\(how)")
            #expect(group.store == before, "\(how)")
        }
    }

    @Test func whatIsNotInMemoryIsWaitedForAlsoByAMachineThatHidesIt() throws {
        var group = try Group()
        let far = RecordPosition(slot: slot(of: "{m}far"), machine: Shelf.number, key: "{m}far")
        group.store.elsewhere = [far]
        let before = group.machine.digest
        for how in [Misbehave.How.hideMissing, .useACopy] {
            let payload = MachineRequest(Misbehave(how)).payload(machine: Shelf.number)
            #expect(group.apply(payload) == .unready([far]))
            #expect(group.machine.applied == .zero && group.machine.digest == before && group.store.writes == 0)
        }
        group.store.elsewhere = []
        #expect(try group.apply(Misbehave(.hideMissing)) == .success(Count(999)))
        // What it names is fetched ahead.
        let entry = LogEntry.command(9, MachineRequest(Add("{a}x", 1)).payload(machine: Shelf.number))
        #expect(
            group.machine.reads(of: entry, group.store)
                == [RecordPosition(slot: slot(of: "{a}x"), machine: Shelf.number, key: "{a}x")])
    }

    @Test func aCallThatComesAgainGetsItsAnswerAndItsFailureAgain() throws {
        var group = try Group()
        let session = try group.open()
        func header(_ call: UInt64) -> CommandHeader {
            CommandHeader(machine: Shelf.number, session: session, sequence: call, firstUnacknowledged: 1)
        }
        for _ in 0..<3 { #expect(try group.apply(Add("{a}x", 9), header: header(1)) == .success(Count(9))) }
        for _ in 0..<3 {
            guard case .failure(let failure) = try group.apply(Add("{a}x", 9), header: header(2)) else {
                Issue.record("it was done")
                continue
            }
            #expect(failure.code == 7)
        }
        // Other circumstances, the same answer.
        #expect(try group.apply(Add("{a}y", 1), header: header(3)) == .success(Count(1)))
        #expect(try group.count("{a}x") == 9)
    }

    @Test func theContextSaysTheSameToEveryReplicaAndOtherThingsToEveryEntry() throws {
        var (left, right) = (try Group(), try Group())
        let session = try left.open()
        #expect(try right.open() == session)
        let header = CommandHeader(machine: Shelf.number, session: session, sequence: 1, firstUnacknowledged: 1)
        let first = try left.apply(Look(), header: header).get().numbers
        #expect(try right.apply(Look(), header: header).get().numbers == first)
        #expect(first[..<4] == [2, 5, 1, session.rawValue] && first[4] != first[5])
        let second = try left.apply(Look()).get().numbers
        #expect(second[3] == 0 && second[4] != first[4])
        #expect(left.machine.digest != right.machine.digest)
        _ = try right.apply(Look())
        #expect(left.machine.digest == right.machine.digest)
    }

    @Test func replicasWhoseMachinesAnswerOtherwiseDoNotAgreeInTheirDigest() throws {
        var (left, right) = (try Group(), try Group())
        // No record differs, only what is said.
        left.store.elsewhere = []
        _ = try left.apply(Misbehave(.hideMissing))
        let far = Bytes("{m}far")
        far.withUnsafeBytes {
            right.store.put(
                slot: slot(of: far), machine: Shelf.number, key: $0, revision: Revision(1), changed: LogIndex(1),
                expiry: .zero, value: Count(5).encoded())
        }
        _ = try right.apply(Misbehave(.hideMissing))
        #expect(left.machine.digest != right.machine.digest && left.machine.revision == right.machine.revision)
    }

    @Test func aHostWithoutTheMachineStopsBeforeTheEntryAndKeepsItsRecords() throws {
        var aware = try Group()
        #expect(try aware.apply(Add("{a}x", 3)) == .success(Count(3)))
        var unaware = try Group(isAware: false)
        unaware.store = aware.store
        let payload = MachineRequest(Add("{a}x", 3)).payload(machine: Shelf.number)
        guard case .unsupported(let why) = unaware.apply(payload) else {
            Issue.record("it was applied")
            return
        }
        #expect(why.contains("state machine 2000") && unaware.machine.applied == .zero)
        // Other commands go on, and the records stay as they are.
        _ = unaware.apply(KeyValueCommand.put(key: "k", value: "v").payload())
        #expect(try unaware.count("{a}x") == 3)
        // So does a command whose bytes this version can't read.
        let malformed = MachineRequest(number: 1, key: "{a}x", body: "?").payload(machine: Shelf.number)
        guard case .unsupported = aware.apply(malformed) else {
            Issue.record("it was applied")
            return
        }
    }

    @Test func whatCanNotBeAppliedIsTurnedDownBeforeItIsProposed() throws {
        let machines = try StateMachineRegistry([Shelf.self])
        func check(
            _ request: MachineRequest, _ slot: Slot? = nil, level: UInt32 = FeatureLevel.machines,
            machines: StateMachineRegistry
        ) -> Refusal? {
            MasterStateMachine.check(
                request.payload(machine: Shelf.number), slot: slot ?? Ring.slot(of: request.key), level: level,
                machines: machines)
        }
        let good = MachineRequest(Add("{a}x", 1))
        #expect(check(good, machines: machines) == nil)
        guard case .unavailable(let level)? = check(good, level: FeatureLevel.sessions, machines: machines),
            case .unavailable(let none)? = check(good, machines: StateMachineRegistry()),
            case .unavailable(let other)? = check(
                MachineRequest(number: 9, key: "k", body: ""), machines: machines),
            case .invalid? = check(good, Slot(1), machines: machines),
            case .invalid? = check(MachineRequest(number: 1, key: "{a}x", body: "?"), machines: machines),
            case .invalid? = check(MachineRequest(number: 1, key: "{b}x", body: good.body), machines: machines),
            case .invalid? = check(MachineRequest(number: 1, key: "", body: good.body), machines: machines),
            case .tooLarge? = check(
                MachineRequest(number: 1, key: "k", body: Bytes([UInt8](repeating: 0, count: 1 << 20 + 1))),
                machines: machines)
        else {
            Issue.record("one of them passed")
            return
        }
        #expect(level.contains("feature level 7") && none.contains("no state machine 2000"))
        #expect(other.contains("no command or query 9"))
        // Deletes and their like are taken as long as there is any space.
        #expect(MasterStateMachine.bringsDataIn(good.payload(machine: Shelf.number), machines: machines))
        #expect(
            !MasterStateMachine.bringsDataIn(
                MachineRequest(Misbehave(.emptyKey)).payload(machine: Shelf.number), machines: machines))
        mutate(good.payload(machine: Shelf.number), seed: 3) { payload in
            let problem = MasterStateMachine.check(payload, slot: slot(of: "{a}x"), level: 7, machines: machines)
            guard problem == nil, var group = try? Group() else { return }
            if case .unsupported(let why) = group.apply(payload) { Issue.record("\(payload.array): \(why)") }
        }
    }

    @Test func queriesAreAnsweredFromOneMomentAndNameMoreWhenTheyHaveTo() throws {
        let machines = try StateMachineRegistry([Shelf.self])
        let home = slot(of: "{m}k")
        let reading = try MachineReading(
            MachineRequest(Read("{m}k")).encoded(), machine: Shelf.number, slot: home, machines: machines)
        #expect(reading.places.map(\.key) == ["{m}k"])
        var store = ModelStore()
        func answer(_ reading: MachineReading) throws -> MachineReading.Result {
            let known = Set(reading.places)
            return try reading.result(index: LogIndex(4), revision: Revision(2), logTime: LogTime(1)) { [store] place in
                known.contains(place) ? store.find(place) : .elsewhere
            }
        }
        guard case .done(let none) = try answer(reading) else { throw Refusal.invalid("no answer") }
        #expect(try MachineOutcome(decoding: none) == .failure(MachineFailure(1, "none")))
        for key in ["{m}k", "{m}more"] as [Bytes] {
            key.withUnsafeBytes {
                store.put(
                    slot: home, machine: Shelf.number, key: $0, revision: Revision(1), changed: LogIndex(1),
                    expiry: .zero, value: Count(20).encoded())
            }
        }
        guard case .more(let next) = try answer(reading) else { throw Refusal.invalid("it did not ask") }
        #expect(next.places.map(\.key) == ["{m}k", "{m}more"])
        guard case .done(let body) = try answer(next) else { throw Refusal.invalid("no answer") }
        #expect(try MachineOutcome(decoding: body) == .answer(Count(40).encoded()))
        // One that never gets there is given up.
        var endless = reading
        var rounds = 0
        while rounds < 1_000 {
            let result = try endless.result(index: .zero, revision: .zero, logTime: .zero) { _ in .elsewhere }
            guard case .more(let next) = result else { break }
            endless = next
            rounds += 1
        }
        #expect(rounds == MachineView.roundsMax)
        // What the disk says is not hidden by the machine.
        #expect(throws: Refusal.unavailable("damaged")) {
            try reading.result(index: .zero, revision: .zero, logTime: .zero) { _ in
                throw Refusal.unavailable("damaged")
            }
        }
        #expect(throws: Refusal.self) {
            try MachineReading(
                MachineRequest(Read("{m}k")).encoded(), machine: Shelf.number, slot: Slot(3), machines: machines)
        }
        mutate(MachineRequest(Read("{m}k")).encoded(), seed: 4) {
            _ = try? MachineReading($0, machine: Shelf.number, slot: home, machines: machines)
        }
    }

    @Test func machinesThatCanNotBeTogetherAreSaidToBe() throws {
        enum Low: StateMachine {
            static let number = SubMachineNumber(1_023)
            static let commands: [any MachineCommand<Low>.Type] = []
        }
        enum Same: StateMachine {
            static let number = Shelf.number
            static let commands: [any MachineCommand<Same>.Type] = []
        }
        func text(_ machines: [any StateMachine.Type]) -> String {
            do throws(RegistrationFailure) {
                _ = try StateMachineRegistry(machines)
                return "all is well"
            } catch { return error.description }
        }
        #expect(text([Low.self]).contains("those below 1024 are Bifrost's own"))
        #expect(text([Shelf.self, Same.self]) == "Same and Shelf both have the number 2000")
        #expect(text([Shelf.self]) == "all is well")
        #expect(try StateMachineRegistry([Shelf.self]).commandNumbers.map(\.command) == [1, 2, 3])
    }

    @Test func failuresKeepAsMuchTextAsThereIsRoomFor() throws {
        let long = MachineFailure(
            1, String(repeating: "é", count: 300), details: Bytes([UInt8](repeating: 7, count: 2_000)))
        let failure = try MachineFailure(decoding: long.encoded())
        #expect(failure.text.utf8.count == MachineFailure.textBytesMax && failure.code == 1)
        #expect(failure.details.count == MachineFailure.detailsBytesMax)
        // The framework's own go without words, which may be others in another version.
        let ruled = MachineFailure(MachineFailure.Rule.badKey.rawValue, "words", details: "more")
        #expect(try MachineFailure(decoding: ruled.encoded()) == MachineFailure(ruled.code, ""))
        mutate(MachineOutcome.failure(failure).encoded(), seed: 5) { _ = try? MachineOutcome(decoding: $0) }
    }
}
