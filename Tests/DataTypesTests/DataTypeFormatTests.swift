// What data types have in logs, in stores and on the wire, byte by byte: it never changes. Another format gets another
// number or version.

import DataTypes
import Messages
import Primitives
import StateMachines
import Testing

@Suite struct DataTypeFormatTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    /// It has these bytes, and they are read as the same again.
    private func expect<Value: Message>(
        _ value: Value, _ parts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let bytes = value.encoded()
        #expect(hex(bytes) == parts.joined(), sourceLocation: sourceLocation)
        let again = try Value(decoding: bytes)
        // Not all of them can be compared; this shows all that they have.
        #expect(String(reflecting: again) == String(reflecting: value), sourceLocation: sourceLocation)
        #expect(again.encoded() == bytes, sourceLocation: sourceLocation)
    }

    /// A name and a key: `length u32, bytes`.
    private let n = "01000000" + "6e"
    private let k = "01000000" + "6b"
    private let v = "01000000" + "76"
    /// A u64 in little-endian.
    private func long(_ byte: String) -> String { byte + "00000000000000" }
    private let entry = ObjectEntry(value: "v", revision: Revision(2))
    private var found: String { long("02") + v }

    private func word<Command: MachineCommand>(of command: Command.Type) -> String { "\(command) \(Command.number)" }
    private func word<Query: MachineQuery>(of query: Query.Type) -> String { "\(query) \(Query.number)" }

    private func words<Machine: StateMachine>(of machine: Machine.Type) -> [String] {
        var words = ["\(machine) \(Machine.number)"]
        for command in Machine.commands { words.append(word(of: command)) }
        for query in Machine.queries { words.append(word(of: query)) }
        return words
    }

    @Test func numbers() {
        #expect(
            words(of: ValueMachine.self) == [
                "ValueMachine 16", "ValueSet 1", "ValueDelete 2", "ValueExpire 3", "ValueGet 1",
            ])
        #expect(
            words(of: NumberMachine.self) == [
                "NumberMachine 17", "NumberChange 1", "NumberBound 2", "NumberDelete 3", "NumberGet 1",
            ])
        #expect(
            words(of: MapMachine.self) == [
                "MapMachine 18", "MapPut 1", "MapRemove 2", "MapTransaction 3", "MapClear 4", "MapExpire 5", "MapGet 1",
                "MapPage 2", "MapCount 3",
            ])
        #expect(
            words(of: SetMachine.self) == [
                "SetMachine 19", "SetAdd 1", "SetRemove 2", "SetMove 3", "SetClear 4", "SetContains 1", "SetCount 2",
                "SetPage 3", "SetCombine 4",
            ])
        let failures = [
            ObjectFailure.conditionFailed, ObjectFailure.overflow, ObjectFailure.divisionByZero,
            ObjectFailure.outOfBounds, ObjectFailure.otherKind, ObjectFailure.otherSlot,
        ]
        #expect(failures == [1, 2, 3, 4, 5, 6])
        // A whole command, and a query.
        #expect(
            hex(MachineRequest(MapRemove("n", "k")).payload(machine: MapMachine.number))
                == "1200" + "0100" + String(repeating: "0", count: 48) + "0200" + "01" + "0100" + "6e" + n + k + "0000")
        #expect(hex(MachineRequest(SetCount("n")).encoded()) == "0200" + "01" + "0100" + "6e" + n)
    }

    @Test func bounds() {
        #expect(ObjectLimits.nameBytesMax == 1_024 && ObjectLimits.elementBytesMax == 2_048)
        #expect(ObjectLimits.valueBytesMax == 1_032_192)
        #expect(MapTransaction.partsMax == 256 && MapGet.keysMax == 256)
        #expect(SetMachine.elementsMax == 256 && SetCombine.setsMax == 16 && SetCombine.elementsMaxMax == 256)
    }

    @Test func keysOfRecords() {
        let (key, generation) = (ObjectKey("n"), Generation(group: GroupID(1), revision: Revision(2)))
        #expect(hex(key.record()) == "0001" + "6e" + "00")
        #expect(hex(key.record(1, "x")) == "0001" + "6e" + "01" + "78")
        #expect(hex(key.record(2, 258)) == "0001" + "6e" + "02" + "0000000000000102")
        #expect(hex(key.element("x", of: generation)) == "0001" + "6e" + "01" + "00000001" + "0000000000000002" + "78")
        #expect(hex(key.watchKey("x")) == "0001" + "6e" + "01" + "78")
        #expect(hex(ValueMachine.watchKey("n")) == "0001" + "6e" + "01")
        #expect(hex(NumberMachine.watchKey("n")) == "0001" + "6e" + "01")
    }

    @Test func records() throws {
        let timer = try ScheduledCommand(
            decoding: Bytes([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0]))
        let place = "01000000" + long("02") + long("03") + "0400"
        for (record, bytes) in [
            (EntryRecord(timer: nil, value: "v"), "01" + "00" + "76"),
            (EntryRecord(timer: timer, value: "v"), "01" + "01" + place + "76"),
            (EntryRecord(timer: nil, value: ""), "01" + "00"),
        ] {
            #expect(hex(record.encoded()) == bytes)
            let again = try EntryRecord(decoding: record.encoded())
            #expect(again.timer == record.timer && again.value == record.value)
        }
        #expect(MapMachine.timer(in: EntryRecord(timer: timer, value: "v").encoded()) == timer)
        try expect(
            CollectionHead(generation: Generation(group: GroupID(1), revision: Revision(2)), count: 3), "01",
            "01000000", long("02"), long("03"))
        try expect(
            NumberState(value: .integer(5), lower: .integer(0)), "01", "01", long("05"), "01", "01", long("00"), "00")
        try expect(
            NumberState(value: .double(1.5), upper: .double(2)), "01", "02", "000000000000f83f", "00", "01", "02",
            "0000000000000040")
        #expect(hex(SetMachine.present) == "01")
    }

    @Test func conditions() throws {
        let conditions: [(EntryCondition, String)] = [
            (.absent, "01"), (.present, "02"), (.revision(Revision(3)), "03" + long("03")),
            (.olderThan(Revision(3)), "04" + long("03")), (.newerThan(Revision(3)), "05" + long("03")),
            (.value("v"), "06" + v), (.otherThan("v"), "07" + v),
        ]
        for (condition, bytes) in conditions { try expect(ValueDelete("n", if: condition), n, "00", "01", bytes) }
    }

    @Test func values() throws {
        try expect(ValueSet("n", "v"), n, long("00"), "00", "00", "76")
        try expect(
            ValueSet("n", "v", if: .value("v"), timeToLiveMillis: 5, answersPrevious: true), n, long("05"), "01", "01",
            "06", v, "76")
        try expect(ValueDelete("n", answersPrevious: true), n, "01", "00")
        try expect(ValueExpire(name: "n"), n)
        try expect(ValueGet("n"), n)
        try expect(PossibleEntry(nil), "00")
        try expect(PossibleEntry(entry), "01", found)
        try expect(PreviousEntry(nil), "00", long("00"), "00")
        try expect(PreviousEntry(entry), "01", long("02"), "00")
        try expect(PreviousEntry(entry, hasValue: true), "01", long("02"), "01", v)
        try expect(FoundEntry(nil), "00", long("00"), "00")
        try expect(FoundEntry(entry), "01", long("02"), "01", v)
    }

    @Test func numbersAsSuch() throws {
        let five = "01" + long("05")
        try expect(Numeral.integer(5), five)
        try expect(Numeral.integer(-2), "01", "feffffffffffffff")
        try expect(Numeral.double(-1.5), "02", "000000000000f8bf")
        let operations: [(NumberChange.Operation, String)] = [
            (.set, "01"), (.add, "02"), (.subtract, "03"), (.multiply, "04"), (.divide, "05"),
        ]
        #expect(operations.map(\.0) == NumberChange.Operation.allCases)
        for (operation, bytes) in operations {
            try expect(NumberChange("n", operation, .integer(5)), n, bytes, five, "00")
        }
        try expect(
            NumberChange("n", .set, .integer(5), ifEqual: .integer(4)), n, "01", five, "01", "01", long("04"))
        try expect(NumberBound("n", lower: nil, upper: .integer(5)), n, "00", "01", five)
        try expect(NumberBound("n", lower: .integer(5), upper: nil), n, "01", five, "00")
        try expect(NumberDelete("n"), n)
        try expect(NumberGet("n"), n)
        try expect(NumberFound(nil), "00")
        try expect(NumberFound(NumberState(value: .integer(5))), "01", "01", five, "00", "00")
        try expect(NumberChanged(value: .integer(5), previous: nil), five, "00")
        try expect(NumberChanged(value: .integer(5), previous: .integer(4)), five, "01", "01", long("04"))
    }

    @Test func maps() throws {
        try expect(
            MapPut("n", "k", "v", if: .absent, timeToLiveMillis: 5, answersPrevious: true), n, k, long("05"), "01",
            "01",
            "01", "76")
        try expect(MapPut("n", "k", "v"), n, k, long("00"), "00", "00", "76")
        try expect(MapRemove("n", "k", if: .present, answersPrevious: true), n, k, "01", "01", "02")
        try expect(
            MapTransaction(
                "n", if: [.init("k", .present)], then: [.put("k", "v", timeToLiveMillis: 5), .remove("k"), .get("k")],
                otherwise: [.get("k")]), n, "0100", k, "02", "0300", "01", k, long("05"), v, "02", k, "03", k, "0100",
            "03", k)
        try expect(MapTransaction.Outcome(succeeded: true, results: [nil, entry]), "01", "0200", "00", "01", found)
        try expect(MapClear("n"), n)
        try expect(MapExpire(name: "n", element: "k"), n, k)
        try expect(ObjectCount(3), long("03"))
        try expect(MapGet("n", ["k", ""]), n, "0200", k, "00000000")
        try expect(MapGet.Answer(entries: [nil, entry]), "0200", "00", "01", found)
        try expect(
            MapPage("n", from: "k", end: "n", entriesMax: 7, bytesMax: 8), n, k, "01", n, "07000000", "08000000")
        try expect(MapPage("n", from: "", end: nil), n, "00000000", "00", "ffffffff", "ffffffff")
        try expect(
            MapPage.Answer(entries: [.init(key: "k", entry: entry)], next: "n"), "0100", k, found, "01", n)
        try expect(MapPage.Answer(entries: [], next: nil), "0000", "00")
        try expect(MapCount("n"), n)
    }

    @Test func sets() throws {
        try expect(SetAdd("n", ["k", ""]), n, "0200", k, "00000000")
        try expect(SetRemove("n", ["k"]), n, "0100", k)
        try expect(SetMove("k", from: "n", to: "v"), n, v, k)
        try expect(SetClear("n"), n)
        try expect(SetContains("n", ["k"]), n, "0100", k)
        try expect(SetAnswer([true, false]), "0200", "01", "00")
        try expect(SetCount("n"), n)
        try expect(SetPage("n", from: "k", end: "n", elementsMax: 7), n, k, "01", n, "07000000")
        try expect(SetPage("n", from: "", end: nil), n, "00000000", "00", "ffffffff")
        try expect(SetElements(elements: ["k"], next: "n"), "0100", k, "01", n)
        try expect(SetElements(elements: [], next: nil), "0000", "00")
        let combinations: [(SetCombine.Combination, String)] = [
            (.union, "01"), (.intersection, "02"), (.difference, "03"),
        ]
        #expect(combinations.map(\.0) == SetCombine.Combination.allCases)
        for (combination, bytes) in combinations {
            try expect(
                SetCombine(combination, of: ["n", "v"], from: "k", elementsMax: 7), bytes, k, "07000000", "0200", n, v)
        }
    }
}
