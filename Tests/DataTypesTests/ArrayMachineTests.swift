// The array's machine against plain arrays, within one group's state machine; and its bytes.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// One group with a store that remembers everything, and what it told.
private struct Group {
    struct Store: RecordStore {
        var records: [RecordPosition: StoredRecord] = [:]
        var writes = 0
        var told: [EmittedEvent] = []
        /// Nothing is in memory but these.
        var memory: Set<RecordPosition>?

        mutating func put(
            slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision,
            changed: LogIndex, expiry: LogTime, value: Bytes?
        ) {
            writes += 1
            let place = RecordPosition(slot: slot, machine: machine, key: Bytes(copying: key))
            records[place] = value.map { StoredRecord(value: $0.compacted(), revision: revision, expiry: expiry) }
        }

        mutating func emit(_ event: EmittedEvent, slot: Slot, machine: SubMachineNumber, revision: Revision) {
            told.append(event)
        }

        func find(_ place: RecordPosition) -> Finding {
            if let memory, !memory.contains(place) { return .elsewhere }
            return records[place].map { .found($0) } ?? .absent
        }
    }

    var machine: MasterStateMachine
    var store = Store()
    var logTime: UInt64 = 1_000
    /// Of the last command or query.
    var rounds = 0

    init() throws {
        machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = DataTypeMachines.registry
    }

    private mutating func apply(_ payload: Bytes) throws -> Bytes {
        (store.writes, store.told, rounds) = (0, [], 0)
        while true {
            let entry = LogEntry(
                index: machine.applied.next, term: Term(1), logTime: LogTime(logTime), kind: .command, payload: payload)
            switch machine.apply(entry, into: &store) {
            case .done(_, let body): return body
            case .unready(let places):
                rounds += 1
                try #require(rounds < 500 && store.memory != nil)
                store.memory?.formUnion(places)
            case let other: throw Refusal.invalid("\(other)")
            }
        }
    }

    @discardableResult
    mutating func submit<Command: MachineCommand<ArrayMachine>>(_ command: Command) throws -> Command.Answer {
        switch try MachineOutcome(
            decoding: try apply(MachineRequest(command).payload(machine: ArrayMachine.number)))
        {
        case .answer(let bytes): return try Command.Answer(decoding: bytes)
        case .failure(let failure): throw failure
        }
    }

    mutating func ask<Query: MachineQuery<ArrayMachine>>(_ query: Query) throws -> Query.Answer {
        rounds = 0
        var reading = try MachineReading(
            MachineRequest(query).encoded(), machine: ArrayMachine.number, slot: Ring.slot(of: query.key),
            machines: DataTypeMachines.registry)
        while true {
            let (places, records) = (Set(reading.places), store.records)
            let result = try reading.result(
                index: machine.applied, revision: machine.revision, logTime: machine.logTime
            ) { place in
                places.contains(place) ? records[place].map { .found($0) } ?? .absent : .elsewhere
            }
            switch result {
            case .more(let next):
                reading = next
                rounds += 1
            case .refused(let refusal): throw refusal
            case .done(let bytes):
                switch try MachineOutcome(decoding: bytes) {
                case .answer(let bytes): return try Query.Answer(decoding: bytes)
                case .failure(let failure): throw failure
                }
            }
        }
    }

    /// Commands that are scheduled, in the order in which they come; without what is a leader's to sweep.
    var scheduled: [DeadlineKey] {
        get throws {
            try store.records.filter { $0.key.machine == .deadlines }.sorted { $0.key.key < $1.key.key }.compactMap {
                place, record in
                let deadline = try Deadline(key: place.key, value: record.value)
                if case .command = deadline.purpose { return deadline.key }
                return nil
            }
        }
    }

    /// Does what is scheduled until nothing is left. Returns how much that was.
    mutating func settle() throws -> Int {
        var done = 0
        while let first = try scheduled.first {
            logTime += 1_000
            _ = try apply(DeadlineCommand.fire(first).payload())
            done += 1
            try #require(done < 200)
        }
        return done
    }

    /// Keys of the array's records.
    var keys: [Bytes] { store.records.keys.filter { $0.machine == ArrayMachine.number }.map(\.key).sorted() }
}

private func code(_ body: () throws -> Void) -> UInt32? {
    do {
        try body()
        return nil
    } catch { return (error as? MachineFailure)?.code }
}

/// What a watcher keeps.
private struct Copy {
    var elements: [(id: UInt64, value: Bytes)] = []

    mutating func take(_ told: [EmittedEvent], of name: Bytes) throws {
        let prefix = ArrayMachine.watchKey(name)
        for event in told {
            try #require(event.key[0..<prefix.count] == prefix)
            if event.kind == .cleared {
                #expect(event.key == prefix && event.body.isEmpty)
                elements = []
                continue
            }
            let change = try ArrayChange(decoding: event.body)
            var reader = ByteReader(event.key[prefix.count..<event.key.count])
            var id: UInt64?
            if event.key.count > prefix.count { id = UInt64(bigEndian: try reader.read()) }
            switch change {
            case .inserted(let index, let value):
                elements.insert((try #require(id), value), at: Int(index))
                #expect(event.kind == .put)
            case .set(let index, let value):
                #expect(elements[Int(index)].id == id && event.kind == .put)
                elements[Int(index)].value = value
            case .removed(let index):
                #expect(elements.remove(at: Int(index)).id == id && event.kind == .deleted)
            case .trimmed(let range):
                #expect(id == nil && event.kind == .deleted)
                elements = Array(elements[Int(range.lowerBound)..<Int(range.upperBound)])
            }
        }
    }
}

@Suite(.serialized, .ownExecutor) struct ArrayMachineTests {
    private typealias Known = (id: UInt64, revision: Revision, value: Bytes)

    @Test(arguments: 0..<4 as Range<UInt64>)
    func itIsAnArray(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var group = try Group()
        let name: Bytes = "list"
        var model: [Known] = []
        var copy = Copy()
        var lastID: UInt64 = 0
        var gone: [UInt64] = []
        let size = seed < 2 ? 30 : 1_200
        for step in 0..<700 {
            let count = model.count
            let index = random.below(count + 1)
            let element = index < count ? model[index] : nil
            let place: ArrayPlace? = element.map {
                random.isOne(of: 2) ? .index(UInt64(index)) : .element(ArrayElementID($0.id))
            }
            var isTold = true
            switch random.below(16) {
            case 0..<4 where count < size:
                let values = (0..<[0, 1, 3, 256][random.below(4)]).map { number in
                    number % 90 == 40 ? Bytes([UInt8](repeating: 1, count: 4_500)) : Bytes("\(step) \(number)")
                }
                var at = index
                let point: ArrayPoint
                switch random.below(4) {
                case 0: point = .index(UInt64(index))
                case 1 where element != nil: point = .before(ArrayElementID(element?.id ?? 0))
                case 2 where element != nil:
                    point = .behind(ArrayElementID(element?.id ?? 0))
                    at += 1
                default:
                    point = .end
                    at = count
                }
                let answer = try group.submit(ArrayInsert(name, values, at: point))
                #expect(answer.index == UInt64(at) && answer.count == UInt64(count + values.count))
                #expect(answer.ids.map(\.rawValue) == (0..<values.count).map { lastID + 1 + UInt64($0) })
                model.insert(
                    contentsOf: zip(answer.ids, values).map { ($0.rawValue, group.machine.revision, $1) }, at: at)
                lastID += UInt64(values.count)
                isTold = !values.isEmpty
            case 4..<7 where place != nil:
                guard let place, let element else { break }
                let holds = !random.isOne(of: 3)
                let condition: EntryCondition =
                    random.isOne(of: 2)
                    ? .revision(holds ? element.revision : element.revision.next)
                    : holds ? .value(element.value) : .otherThan(element.value)
                let value = Bytes("set \(step)")
                let set = ArraySet(name, place, value, if: condition, answersPrevious: true)
                guard holds else {
                    #expect(code { try group.submit(set) } == ObjectFailure.conditionFailed)
                    isTold = false
                    break
                }
                let answer = try group.submit(set)
                #expect(answer.index == UInt64(index) && answer.id.rawValue == element.id)
                #expect(answer.previous.value == element.value && answer.previous.revision == element.revision)
                model[index] = (element.id, group.machine.revision, value)
            case 7..<9 where place != nil:
                guard let place, let element else { break }
                let answer = try group.submit(ArrayRemove(name, place, if: .revision(element.revision)))
                #expect(answer.index == UInt64(index) && answer.id.rawValue == element.id)
                #expect(answer.previous.revision == element.revision && answer.previous.value == nil)
                model.remove(at: index)
                gone.append(element.id)
            case 9 where random.isOne(of: 3):
                let end = min(count, index + random.below(257))
                let removed = try group.submit(ArrayRemoveRange(name, UInt64(index)..<UInt64(end)))
                #expect(removed.count == UInt64(end - index))
                gone += model[index..<end].prefix(2).map(\.id)
                model.removeSubrange(index..<end)
                isTold = end > index
            case 10 where random.isOne(of: 3):
                let end = index + random.below(count - index + 1)
                let kept: ArrayTrim.Kept
                var range = index..<end
                switch random.below(3) {
                case 0: kept = .range(UInt64(index)..<UInt64(end))
                case 1:
                    kept = .first(UInt64(index))
                    range = 0..<index
                default:
                    kept = .last(UInt64(index))
                    range = count - index..<count
                }
                #expect(try group.submit(ArrayTrim(name, keeping: kept)).count == UInt64(count - range.count))
                isTold = range.count < count
                gone += model[..<range.lowerBound].suffix(2).map(\.id) + model[range.upperBound...].prefix(2).map(\.id)
                model = Array(model[range])
                #expect(group.store.told.count == (isTold ? 1 : 0))
            case 11 where random.isOne(of: 12):
                #expect(try group.submit(ArrayClear(name)).count == UInt64(count))
                isTold = count > 0
                gone += model.prefix(3).map(\.id)
                model = []
            case 12 where random.isOne(of: 2):
                // Two of what is due, and one that somebody sends.
                for due in try group.scheduled.prefix(2) {
                    group.logTime += 1_000
                    guard
                        case .done = group.machine.apply(
                            LogEntry(
                                index: group.machine.applied.next, term: Term(1), logTime: LogTime(group.logTime),
                                kind: .command, payload: DeadlineCommand.fire(due).payload()), into: &group.store)
                    else { throw Refusal.invalid("it did not come") }
                }
                try group.submit(ArraySweep(name: name))
                isTold = false
            default:
                try read(&group, name, model, gone, &random)
                continue
            }
            #expect(group.store.writes <= 1_024)
            #expect(isTold == !group.store.told.isEmpty)
            try copy.take(group.store.told, of: name)
            #expect(copy.elements.map(\.id) == model.map(\.id) && copy.elements.map(\.value) == model.map(\.value))
            try #require(copy.elements.count == model.count)
        }
        _ = try group.settle()
        #expect(try group.scheduled.isEmpty)
        // Nothing is left of what was cut off: of each element two records, and one if its value is large.
        let generation = try #require(group.keys.last)[0..<name.count + 3 + 8]
        let kinds = group.keys.filter { $0.count > generation.count && $0[0..<generation.count] == generation }.map {
            $0[generation.count]
        }
        #expect(kinds.count { $0 == 2 } == model.count && kinds.count { $0 == 3 } == model.count)
        #expect(kinds.count { $0 == 5 } == model.count { $0.value.count > 4_096 } && !kinds.contains(4))
    }

    private func named(_ name: Bytes) -> Bytes { ArrayClear(name).encoded() }

    private func read(
        _ group: inout Group, _ name: Bytes, _ model: [Known], _ gone: [UInt64], _ random: inout SeededRandom
    ) throws {
        let index = random.below(model.count + 1)
        let known = index < model.count ? model[index] : nil
        let at = try group.ask(ArrayGet(name, .index(UInt64(index)))).element
        #expect(at?.id.rawValue == known?.id && at?.value == known?.value && at?.revision == known?.revision)
        if let known {
            #expect(try group.ask(ArrayGet(name, .element(ArrayElementID(known.id)))).element == at)
            #expect(try group.ask(ArrayIndex(name, of: ArrayElementID(known.id))).index == UInt64(index))
        }
        for id in gone.suffix(3) + [0, .max] {
            let id = ArrayElementID(id)
            #expect(try group.ask(ArrayGet(name, .element(id))).element == nil)
            #expect(try group.ask(ArrayIndex(name, of: id)).index == nil)
            #expect(code { try group.submit(ArraySet(name, .element(id), "x")) } == ObjectFailure.noElement)
            #expect(code { _ = try group.ask(ArrayPage(name, from: .behind(id))) } == ObjectFailure.noElement)
        }
        #expect(try group.ask(ArrayCount(name)).count == UInt64(model.count))
        let limit = 1 + random.below(300)
        let point: ArrayPoint = known.map { .before(ArrayElementID($0.id)) } ?? .index(UInt64(index))
        let page = try group.ask(ArrayPage(name, from: point, elementsMax: UInt32(limit)))
        let expected = model[index...].prefix(min(limit, 256))
        #expect(page.index == UInt64(index) && page.elements.map(\.id.rawValue) == expected.map(\.id))
        #expect(page.elements.map(\.value) == expected.map(\.value) && page.count == UInt64(model.count))
        let end = index + expected.count
        #expect(page.next == (end < model.count ? UInt64(end) : nil))
    }

    @Test func whatCanNotBeDoneSaysWhyAndChangesNothing() throws {
        var group = try Group()
        try group.submit(ArrayInsert("a", ["x", "y"]))
        let keys = group.keys
        for index in [2, 3, UInt64.max] {
            let gone = ArraySet("a", .index(index), "z", if: .absent)
            #expect(throws: MachineFailure.self) { try group.submit(gone) }
            do { try group.submit(gone) } catch let failure as MachineFailure {
                #expect(failure.code == ObjectFailure.noIndex && failure.text.contains("has 2 elements"))
                #expect(try ObjectCount(decoding: failure.details).count == 2)
            }
            #expect(code { try group.submit(ArrayRemove("a", .index(index))) } == ObjectFailure.noIndex)
        }
        for failing in [ArrayPoint.index(3), .index(.max)] {
            #expect(code { try group.submit(ArrayInsert("a", ["z"], at: failing)) } == ObjectFailure.noIndex)
        }
        #expect(
            code { try group.submit(ArrayInsert("a", ["z"], at: .before(ArrayElementID(9)))) }
                == ObjectFailure.noElement)
        #expect(code { try group.submit(ArrayRemoveRange("a", 1..<3)) } == ObjectFailure.noIndex)
        #expect(code { try group.submit(ArrayRemoveRange("a", .max - 1 ..< .max)) } == ObjectFailure.noIndex)
        #expect(code { try group.submit(ArrayTrim("a", keeping: .range(0..<(.max)))) } == ObjectFailure.noIndex)
        do {
            try group.submit(ArrayRemove("a", .index(0), if: .value("y")))
            Issue.record("it was removed")
        } catch let failure as MachineFailure {
            let found = try FoundEntry(decoding: failure.details)
            #expect(
                failure.code == ObjectFailure.conditionFailed && found.value == "x" && found.revision == Revision(1))
        }
        #expect(group.keys == keys)
        // What does nothing writes nothing, and tells nothing.
        try group.submit(ArrayTrim("a", keeping: .last(9)))
        try group.submit(ArrayInsert("a", []))
        try group.submit(ArraySweep(name: "a"))
        try group.submit(ArrayClear("other"))
        try group.submit(ArrayTrim("other", keeping: .first(0)))
        #expect(group.store.writes == 0 && group.store.told.isEmpty && group.keys == keys)
        // Empty, it has its head still: ids go on.
        try group.submit(ArrayTrim("a", keeping: .first(0)))
        #expect(group.store.told.map(\.kind) == [.cleared])
        #expect(try group.submit(ArrayInsert("a", ["z"])).first.rawValue == 3)
    }

    /// Many small cuts behind a large one are as many writes as elements, and fit into their commands.
    @Test func manySmallTrimsAreSweptToo() throws {
        var group = try Group()
        let values = (0..<256).map { Bytes("\($0)") }
        for _ in 0..<160 { try group.submit(ArrayInsert("a", values)) }
        try group.submit(ArrayTrim("a", keeping: .last(400)))
        for count in (100..<400).reversed() {
            try group.submit(ArrayTrim("a", keeping: .first(UInt64(count))))
            #expect(group.store.writes <= 1_024)
        }
        _ = try group.settle()
        #expect(try group.scheduled.isEmpty)
        #expect(group.keys.count < 1 + 200 + 10)
    }

    /// A million elements are cut off as fast as two; what they leave goes, without an end of it while more comes.
    @Test func whatATrimLeavesIsDeletedLater() throws {
        var group = try Group()
        let values = (0..<256).map { Bytes("\($0)") }
        for _ in 0..<20 { try group.submit(ArrayInsert("a", values)) }
        #expect(try group.submit(ArrayTrim("a", keeping: .last(100))).count == 5_020)
        #expect(group.store.writes < 150 && group.store.told.count == 1)
        #expect(try group.scheduled.count == 8)
        let before = group.keys.count
        // Somebody else's does no harm.
        try group.submit(ArraySweep(name: "a"))
        #expect(group.keys.count < before - 500)
        #expect(try group.scheduled.count == 8)
        let done = try group.settle()
        #expect((19...21).contains(done), "\(done)")
        #expect(group.keys.count < 1 + 200 + 10)
        // Trimmed all the time, with nothing that is due.
        try group.submit(ArrayTrim("a", keeping: .last(90)))
        #expect(try group.scheduled.count == 1)
        var most = 0
        for _ in 0..<100 {
            try group.submit(ArrayInsert("a", Array(values.prefix(100))))
            try group.submit(ArrayTrim("a", keeping: .last(90)))
            #expect(group.store.writes < 500)
            most = max(most, group.keys.count)
        }
        #expect(try group.scheduled.count == 1)
        #expect(most < 1_000, "\(most)")
        // Cleared meanwhile: the prefix goes as a whole, and what is due finds nothing.
        try group.submit(ArrayTrim("a", keeping: .last(10)))
        try group.submit(ArrayClear("a"))
        try group.submit(ArrayInsert("a", ["new"]))
        #expect(try group.settle() == 1)
        #expect(try group.ask(ArrayPage("a", from: .index(0))).elements.map(\.value) == ["new"])
    }

    /// Where nothing is in memory, a request waits once for each level, not for each record.
    @Test func whatIsOnDiskIsAskedForTogether() throws {
        var group = try Group()
        let values = (0..<256).map { $0 % 4 == 0 ? Bytes([UInt8](repeating: 3, count: 5_000)) : Bytes("\($0)") }
        for _ in 0..<120 { try group.submit(ArrayInsert("a", values)) }
        #expect(try group.ask(ArrayGet("a", .index(20_000))).element != nil)
        // The root, two levels below it, the element, and its value.
        #expect(group.rounds <= 5)
        _ = try group.ask(ArrayIndex("a", of: ArrayElementID(5_000)))
        #expect(group.rounds <= 4)
        #expect(try group.ask(ArrayPage("a", from: .index(13_000))).elements.count > 150)
        #expect(group.rounds <= 5)
        for command in [15_000, 29_990] as [UInt64] {
            group.store.memory = []
            _ = try group.submit(ArrayRemoveRange("a", command..<command + 250))
            #expect(group.rounds <= 30, "\(group.rounds)")
        }
        group.store.memory = []
        try group.submit(ArraySet("a", .element(ArrayElementID(9_000)), "x"))
        #expect(group.rounds <= 7)
        group.store.memory = []
        try group.submit(ArrayTrim("a", keeping: .range(7_000..<20_000)))
        #expect(group.rounds <= 30, "\(group.rounds)")
        group.store.memory = []
        try group.submit(ArrayTrim("a", keeping: .range(700..<10_000)))
        #expect(group.rounds <= 60 && group.store.writes < 700, "\(group.rounds), \(group.store.writes)")
    }

    private func hex(_ message: some Message) -> String {
        message.encoded().array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func bytes(_ hex: String) -> Bytes {
        let digits = Array(hex.utf8).map { UInt8($0 < 58 ? $0 - 48 : $0 - 87) }
        return Bytes(stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
    }

    @Test func theBytesAreWhatTheyAre() throws {
        let (name, seven) = ("01000000" + "61", "0700000000000000")
        func check<Sample: Message>(_ sample: Sample, _ expected: String) throws {
            #expect(hex(sample) == expected, "\(Sample.self)")
            #expect(try Sample(decoding: bytes(expected)) == sample)
        }
        let id = ArrayElementID(7)
        let places: [(ArrayPlace, String)] = [(.index(7), "01" + seven), (.element(id), "02" + seven)]
        for (place, text) in places {
            try check(ArrayGet("a", place), name + text)
            try check(ArraySet("a", place, "v"), name + text + "00" + "00" + "76")
            try check(
                ArraySet("a", place, "v", if: .value("w"), answersPrevious: true),
                name + text + "01" + "01" + "06" + "01000000" + "77" + "76")
            try check(ArrayRemove("a", place), name + text + "0000")
            try check(
                ArrayRemove("a", place, if: .revision(Revision(7)), answersPrevious: true),
                name + text + "0101" + "03" + seven)
        }
        let points: [(ArrayPoint, String)] = [
            (.index(7), "01" + seven), (.before(id), "02" + seven), (.behind(id), "03" + seven), (.end, "04"),
        ]
        for (point, text) in points {
            try check(
                ArrayInsert("a", ["v", ""], at: point), name + text + "0200" + "01000000" + "76" + "00000000")
            try check(ArrayPage("a", from: point, elementsMax: 5), name + text + "05000000")
        }
        let range = "0100000000000000" + seven
        try check(ArrayRemoveRange("a", 1..<7), name + range)
        try check(ArrayTrim("a", keeping: .range(1..<7)), name + "01" + range)
        try check(ArrayTrim("a", keeping: .first(7)), name + "02" + seven)
        try check(ArrayTrim("a", keeping: .last(7)), name + "03" + seven)
        try check(ArrayClear("a"), name)
        try check(ArraySweep(name: "a", isLast: true), name + "01")
        try check(ArrayIndex("a", of: id), name + seven)
        try check(ArrayCount("a"), name)
        #expect(ArrayMachine.number.rawValue == 20)
        #expect(ArrayMachine.commands.map { $0.number } == [1, 2, 3, 4, 5, 6, 7])
        #expect(ArrayMachine.queries.map { $0.number } == [1, 2, 3, 4])

        try check(ArrayChange.inserted(at: 7, "v"), "01" + seven + "76")
        try check(ArrayChange.set(at: 7, "v"), "02" + seven + "76")
        try check(ArrayChange.removed(at: 7), "03" + seven)
        try check(ArrayChange.trimmed(to: 1..<7), "04" + range)
        #expect(ArrayMachine.watchKey("a", id) == bytes("0001" + "61" + "01" + "0000000000000007"))

        // What they answer, and the records.
        var group = try Group()
        try check(
            try group.submit(ArrayInsert("a", ["v", "w"])),
            "0000000000000000" + "0100000000000000" + "0200" + "0200000000000000")
        let found = "0100000000000000" + "0200000000000000" + "01" + "0100000000000000"
        try check(
            try group.submit(ArraySet("a", .index(1), "x", answersPrevious: true)), found + "01" + "01000000" + "77")
        let element = "0200000000000000" + "0200000000000000" + "01000000" + "78"
        try check(try group.ask(ArrayGet("a", .index(1))), "01" + element)
        try check(try group.ask(ArrayGet("a", .index(2))), "00")
        try check(try group.ask(ArrayIndex("a", of: ArrayElementID(2))), "01" + "0100000000000000")
        try check(try group.ask(ArrayIndex("a", of: id)), "00")
        try check(
            try group.ask(ArrayPage("a", from: .index(1))), "0100000000000000" + "0100" + element + "0200000000000000")
        try check(
            try group.submit(ArrayRemove("a", .index(1))),
            "0100000000000000" + "0200000000000000" + "01" + "0200000000000000" + "00")
        let head = RecordPosition(slot: Ring.slot(of: "a"), machine: ArrayMachine.number, key: bytes("00016100"))
        func record(_ place: RecordPosition) throws -> String {
            try #require(group.store.records[place]).value.array.map {
                String($0 >> 4, radix: 16) + String($0 & 15, radix: 16)
            }.joined()
        }
        let one = "0100000000000000"
        let array = "01" + one + one + "01" + one + "0200000000000000" + "0300000000000000" + one + one
        #expect(try record(head) == "01" + array + "0000000000000000" + "00")
        try group.submit(ArrayInsert("a", ["y", "z"]))
        try group.submit(ArrayTrim("a", keeping: .first(1)))
        let text = try record(head)
        #expect(text.count == 2 * (1 + 58 + 8 + 1))
        #expect(text.hasSuffix("0200000000000000" + "01"), "\(text)")
    }

    @Test func damagedBytesDoNoHarm() throws {
        var group = try Group()
        let values = (0..<90).map { Bytes("\($0)") }
        try group.submit(ArrayInsert("a", values))
        let commands: [(UInt16, Bytes)] = [
            (1, ArrayInsert("a", ["v", "w"], at: .before(ArrayElementID(3))).encoded()),
            (2, ArraySet("a", .index(3), "v", if: .revision(Revision(1))).encoded()),
            (3, ArrayRemove("a", .element(ArrayElementID(5))).encoded()),
            (4, ArrayRemoveRange("a", 3..<5).encoded()), (5, ArrayTrim("a", keeping: .range(1..<80)).encoded()),
        ]
        var done = 0
        for (number, body) in commands {
            mutate(body, seed: UInt64(number), rounds: 400) { body in
                let request = MachineRequest(number: number, key: "a", body: body)
                guard DataTypeMachines.registry.problem(ofCommand: request, of: ArrayMachine.number) == nil else {
                    return
                }
                done += 1
                let entry = LogEntry(
                    index: group.machine.applied.next, term: Term(1), logTime: LogTime(2_000), kind: .command,
                    payload: request.payload(machine: ArrayMachine.number))
                guard case .done(_, let body) = group.machine.apply(entry, into: &group.store),
                    let outcome = try? MachineOutcome(decoding: body)
                else {
                    Issue.record("it was not done")
                    return
                }
                // It fails with a word of its own, or not at all.
                if case .failure(let failure) = outcome { #expect(failure.rule == nil, "\(failure)") }
            }
        }
        #expect(done > 200)
        for sample in [ArrayChange.inserted(at: 7, "v"), .trimmed(to: 1..<7)] {
            mutate(sample.encoded(), seed: 9) { _ = try? ArrayChange(decoding: $0) }
        }
        let page = try group.ask(ArrayPage("a", from: .index(0)))
        mutate(page.encoded(), seed: 10) { _ = (try? ArrayPage.Answer(decoding: $0))?.next }
    }
}
