import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct KeyValueTransactionTests {
    private typealias Condition = KeyValueTransaction.Condition
    private typealias Operation = KeyValueTransaction.Operation

    /// One group's machine and all its records.
    private struct Group {
        var machine: MasterStateMachine
        var store = ModelStore()

        init() throws { machine = try MasterStateMachine(group: GroupID(1)) }

        mutating func apply(_ payload: Bytes, logTime: UInt64 = 0) -> Applied {
            machine.apply(.command(machine.applied.rawValue + 1, payload, logTime: logTime), into: &store)
        }

        mutating func put(_ key: Bytes, _ value: Bytes) {
            _ = apply(KeyValueCommand.put(key: key, value: value).payload())
        }

        mutating func apply(_ transaction: KeyValueTransaction) throws -> KeyValueOutcome {
            guard case .done(_, let body) = apply(transaction.payload()) else { throw Refusal.invalid("not done") }
            return try KeyValueOutcome(decoding: body)
        }

        func value(_ key: Bytes) -> Bytes? {
            guard
                case .found(let record) = store.find(
                    RecordPosition(slot: slot(of: key), machine: .keyValue, key: key))
            else { return nil }
            return record.value
        }
    }

    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// Bytes that stand in logs. They don't change.
    @Test func payloadsHaveTheirBytes() {
        let transaction = KeyValueTransaction(
            if: [
                Condition("a", .absent), Condition("a", .present), Condition("a", .revision(Revision(3))),
                Condition("a", .olderThan(Revision(4))), Condition("a", .newerThan(Revision(5))),
                Condition("a", .value("v")), Condition("a", .otherThan("w")),
            ],
            then: [.put(key: "a", value: "xy", timeToLiveMillis: 6), .delete(key: "a")], otherwise: [.get(key: "a")])
        let header = "0100" + "0100" + String(repeating: "0", count: 48)
        let conditions = [
            "01010061", "02010061", "030100610300000000000000", "040100610400000000000000", "050100610500000000000000",
            "060100610100000076", "070100610100000077",
        ]
        let operations = ["01010061" + "0600000000000000" + "02000000" + "7879", "02010061", "03010061"]
        #expect(
            hex(transaction.payload())
                == header + "0301" + "0700" + "0200" + "0100" + conditions.joined() + operations.joined())
        #expect(
            hex(
                KeyValueOutcome(
                    holds: true, readings: [.absent, .found(value: "v", revision: Revision(2), expiry: .zero)]
                ).encoded())
                == "01" + "0200" + "11000000" + "00" + String(repeating: "0", count: 32) + "12000000" + "01"
                + "0200000000000000" + "0000000000000000" + "76")
    }

    @Test func eachConditionHoldsWhenItShouldAndOnlyThen() throws {
        // "a" has revision 2 after two puts of others and itself; "b" is absent; "c" was deleted.
        let cases: [(Bytes, Condition.Test, Bool)] = [
            ("{t}a", .absent, false), ("{t}b", .absent, true), ("{t}c", .absent, true),
            ("{t}a", .present, true), ("{t}b", .present, false), ("{t}c", .present, false),
            ("{t}a", .revision(Revision(2)), true), ("{t}a", .revision(Revision(1)), false),
            ("{t}a", .revision(Revision(3)), false), ("{t}b", .revision(.zero), false),
            ("{t}a", .olderThan(Revision(3)), true), ("{t}a", .olderThan(Revision(2)), false),
            ("{t}b", .olderThan(Revision(9)), false),
            ("{t}a", .newerThan(Revision(1)), true), ("{t}a", .newerThan(Revision(2)), false),
            ("{t}b", .newerThan(.zero), false),
            ("{t}a", .value("one"), true), ("{t}a", .value("two"), false), ("{t}b", .value(""), false),
            ("{t}a", .otherThan("two"), true), ("{t}a", .otherThan("one"), false), ("{t}b", .otherThan("one"), false),
        ]
        for (key, test, holds) in cases {
            var group = try Group()
            group.put("{t}c", "x")
            group.put("{t}a", "one")
            _ = group.apply(KeyValueCommand.delete(key: "{t}c").payload())
            let before = group.machine.revision
            let outcome = try group.apply(
                KeyValueTransaction(
                    if: [Condition(key, test)], then: [.put(key: "{t}seen", value: "yes")],
                    otherwise: [.get(key: key)]))
            #expect(outcome.holds == holds, "\(key.string) \(test)")
            #expect(group.value("{t}seen") == (holds ? "yes" : nil))
            #expect(group.machine.revision == (holds ? before.next : before), "a read makes no revision")
        }
    }

    @Test func aTransactionTakesEffectAtOneRevisionAndSeesItself() throws {
        var group = try Group()
        group.put("{t}a", "1")
        let outcome = try group.apply(
            KeyValueTransaction(
                if: [Condition("{t}a", .value("1")), Condition("{t}b", .absent)],
                then: [
                    .put(key: "{t}b", value: "2"), .get(key: "{t}b"), .delete(key: "{t}a"), .get(key: "{t}a"),
                    .put(key: "{t}b", value: "3"), .get(key: "{t}b"),
                ]))
        #expect(
            outcome
                == KeyValueOutcome(
                    holds: true,
                    readings: [
                        .found(value: "2", revision: Revision(2), expiry: .zero), .absent,
                        .found(value: "3", revision: Revision(2), expiry: .zero),
                    ]))
        #expect(group.value("{t}a") == nil && group.value("{t}b") == "3" && group.machine.revision == Revision(2))
        // One that does not hold leaves everything as it was, whichever condition it is.
        let digest = group.machine.digest
        let refused = try group.apply(
            KeyValueTransaction(
                if: [Condition("{t}b", .present), Condition("{t}a", .present)], then: [.delete(key: "{t}b")]))
        #expect(!refused.holds && refused.readings.isEmpty)
        #expect(group.value("{t}b") == "3" && group.machine.digest == digest)
    }

    @Test func oneThatReadsWhatIsNotInMemoryChangesNothingUntilItIs() throws {
        var group = try Group()
        group.put("{t}a", "1")
        group.put("{t}b", "2")
        let home = slot(of: "t" as Bytes)
        let places = ["{t}a", "{t}b"].map { RecordPosition(slot: home, machine: .keyValue, key: Bytes($0)) }
        group.store.elsewhere = Set(places)
        let transaction = KeyValueTransaction(
            if: [Condition("{t}a", .value("1"))], then: [.put(key: "{t}c", value: "3"), .get(key: "{t}b")])
        let before = group
        #expect(group.apply(transaction.payload()) == .unready(places))
        #expect(group.store == before.store && group.machine.applied == before.machine.applied)
        #expect(group.machine.digest == before.machine.digest && group.machine.revision == before.machine.revision)
        let entry = LogEntry.command(3, transaction.payload())
        #expect(group.machine.reads(of: entry, group.store) == places)
        #expect(
            group.machine.reads(of: .command(3, KeyValueCommand.delete(key: "{t}a").payload()), group.store).isEmpty)
        group.store.elsewhere = [places[1]]
        #expect(group.apply(transaction.payload()) == .unready([places[1]]))
        group.store.elsewhere = []
        let outcome = try group.apply(transaction)
        #expect(outcome.holds && outcome.readings.count == 1 && group.value("{t}c") == "3")
        // What it does not read need not be there.
        group.store.elsewhere = Set(places)
        #expect(try group.apply(KeyValueTransaction(then: [.put(key: "{t}a", value: "4")])).holds)
    }

    @Test func limitsAreCheckedBeforeAProposal() {
        func check(_ transaction: KeyValueTransaction, level: UInt32 = FeatureLevel.current) -> Refusal? {
            let home = transaction.keys.first.map { slot(of: $0) } ?? Slot(0)
            let found = MasterStateMachine.check(transaction.payload(), slot: home, level: level)
            if level == FeatureLevel.current { #expect(found == transaction.problem(), "the client checks the same") }
            return found
        }
        #expect(check(KeyValueTransaction(then: [.put(key: "a", value: "")])) == nil)
        #expect(check(KeyValueTransaction()) == .invalid("the transaction names no key"))
        #expect(check(KeyValueTransaction(then: [.get(key: "")])) == .invalid("the key is empty"))
        guard case .invalid(let text) = check(KeyValueTransaction(then: [.get(key: "a"), .delete(key: "b")])) else {
            Issue.record("keys of two slots pass")
            return
        }
        #expect(text.contains("braces"))
        let many = Array(repeating: Operation.get(key: "k"), count: KeyValueTransaction.partsMax)
        #expect(check(KeyValueTransaction(then: many)) == nil)
        let tooMany = KeyValueTransaction(if: [Condition("k", .absent)], then: many)
        #expect(
            tooMany.problem() == .tooLarge("a transaction has at most 256 conditions and operations, not 257"))
        #expect(MasterStateMachine.check(tooMany.payload(), slot: slot(of: "k" as Bytes), level: 9) != nil)
        let half = Bytes(Array(repeating: 66, count: Limits.valueBytesMax / 2))
        let rest = Bytes(Array(repeating: 66, count: Limits.valueBytesMax / 2 + Limits.keyBytesMax))
        #expect(check(KeyValueTransaction(then: [.put(key: "k", value: half), .put(key: "k", value: half)])) == nil)
        #expect(check(KeyValueTransaction(then: [.put(key: "k", value: half), .put(key: "k", value: rest)])) != nil)
        #expect(
            check(KeyValueTransaction(then: [.put(key: "k", value: "v", timeToLiveMillis: 1)]), level: 7)?.description
                .contains("level 8") == true)
        #expect(check(KeyValueTransaction(then: [.put(key: "k", value: "v", timeToLiveMillis: 1)]), level: 8) == nil)
        // Hosts of an earlier version would stop at it.
        guard case .invalid(let older) = check(KeyValueTransaction(then: [.get(key: "k")]), level: 4) else {
            Issue.record("a transaction passes below its level")
            return
        }
        #expect(older.contains("level 5"))
        #expect(
            MasterStateMachine.check(
                KeyValueTransaction(then: [.get(key: "somekey")]).payload(), slot: Slot(1), level: 9)
                == .invalid("the keys' slot is 11058, not 1"))
        #expect(MasterStateMachine.bringsDataIn(KeyValueTransaction(otherwise: [.put(key: "k", value: "")]).payload()))
        #expect(!MasterStateMachine.bringsDataIn(KeyValueTransaction(then: [.delete(key: "k")]).payload()))
    }

    /// What gets find is bounded, whatever the values have become, and the same on every replica.
    @Test func oneThatReadsTooMuchIsRefusedWhateverIsInMemory() throws {
        var group = try Group()
        let large = Bytes(Array(repeating: 66, count: Limits.valueBytesMax))
        let keys = (0..<10).map { Bytes("{t}\($0)") }
        for key in keys { group.put(key, large) }
        let places = keys.map { RecordPosition(slot: slot(of: $0), machine: .keyValue, key: $0) }
        let transaction = KeyValueTransaction(if: keys.map { Condition($0, .present) }, then: [.delete(key: keys[0])])
        var other = group
        // The first nine are too much already.
        other.store.elsewhere = [places[9]]
        let refusal = Applied.refused(.tooLarge("the transaction reads more than 8388608 bytes"))
        #expect(group.apply(transaction.payload()) == refusal && other.apply(transaction.payload()) == refusal)
        #expect(group.machine.digest == other.machine.digest && group.value(keys[0]) == large)
        other.store.elsewhere = [places[3]]
        #expect(other.apply(transaction.payload()) == .unready([places[3]]))
    }

    @Test func moreThanAnAnswerHoldsIsRefusedAndChangesNothing() throws {
        var group = try Group()
        let large = Bytes(Array(repeating: 66, count: Limits.valueBytesMax))
        group.put("{t}a", large)
        group.put("{t}b", large)
        let before = group.machine.digest
        let transaction = KeyValueTransaction(
            then: [.put(key: "{t}c", value: "x"), .get(key: "{t}a"), .get(key: "{t}b")])
        guard case .refused(.tooLarge) = group.apply(transaction.payload()) else {
            Issue.record("an answer of two values of 1 MiB passes")
            return
        }
        #expect(group.value("{t}c") == nil && group.machine.digest == before)
        #expect(group.machine.applied == LogIndex(3))
    }

    @Test func whatPassesTheCheckIsAppliedAndWhatDoesNotNeverChangesAnything() throws {
        let original = KeyValueTransaction(
            if: [Condition("{tag}k", .absent), Condition("{tag}k", .otherThan("x"))],
            then: [.put(key: "{tag}k", value: "value"), .delete(key: "{tag}l")], otherwise: [.get(key: "{tag}k")]
        ).payload()
        var passed = 0
        mutate(original, seed: 7, rounds: 20_000) { payload in
            let isFine =
                MasterStateMachine.check(payload, slot: slot(of: "tag" as Bytes), level: FeatureLevel.current) == nil
            guard var group = try? Group() else { return }
            let applied = group.apply(payload)
            if isFine {
                passed += 1
                if case .done = applied { return }
                if applied == .refused(.sessionExpired),
                    payload.withUnsafeBytes({ CommandHeader(of: $0)?.session }) != SessionID.none
                {
                    return
                }
                Issue.record("\(applied) of what passed")
            } else if case .unsupported = applied {
                #expect(group.store.writes == 0 && group.machine.applied == .zero && group.machine.digest == 0)
            }
            _ = try? KeyValueTransaction(payload: payload)
            _ = try? KeyValueOutcome(decoding: payload)
        }
        #expect(passed > 100)
    }

    /// Random transactions against a dictionary, with records that are now and then not in memory.
    @Test(arguments: 1...20 as ClosedRange<UInt64>) func aModelSaysTheSame(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var group = try Group()
        var model: [Bytes: (value: Bytes, revision: Revision)] = [:]
        func key() -> Bytes { Bytes("{t}\(random.below(6))") }
        func value() -> Bytes { Bytes("\(random.below(3))") }
        func operation() -> Operation {
            switch random.below(3) {
            case 0: .put(key: key(), value: value())
            case 1: .delete(key: key())
            default: .get(key: key())
            }
        }
        func condition() -> Condition {
            let revision = Revision(random.below(group.machine.revision.rawValue + 2))
            let tests: [Condition.Test] = [
                .absent, .present, .revision(revision), .olderThan(revision), .newerThan(revision), .value(value()),
                .otherThan(value()),
            ]
            return Condition(key(), tests[Int(random.below(UInt64(tests.count)))])
        }
        var held = 0
        for _ in 0..<400 {
            let transaction = KeyValueTransaction(
                if: (0..<random.below(3)).map { _ in condition() },
                then: (0...random.below(4)).map { _ in operation() },
                otherwise: (0..<random.below(3)).map { _ in operation() })
            if random.below(3) == 0 {
                group.store.elsewhere = Set(
                    transaction.keys.map {
                        RecordPosition(slot: slot(of: $0), machine: .keyValue, key: $0)
                    }.filter { _ in random.below(2) == 0 })
                let digest = group.machine.digest
                if case .unready = group.apply(transaction.payload()) {
                    #expect(group.machine.digest == digest)
                    group.store.elsewhere = []
                } else {
                    // All that it reads was there: it was applied, and the model follows below with the same.
                    group.store.elsewhere = []
                    let (holds, _) = follow(transaction, &model, at: &group)
                    held += holds ? 1 : 0
                    continue
                }
            }
            let outcome = try group.apply(transaction)
            let (holds, readings) = follow(transaction, &model, at: &group)
            held += holds ? 1 : 0
            #expect(outcome == KeyValueOutcome(holds: holds, readings: readings))
            for (key, record) in model { #expect(group.value(key) == record.value) }
        }
        #expect(held > 40 && held < 400)
    }

    private func follow(
        _ transaction: KeyValueTransaction, _ model: inout [Bytes: (value: Bytes, revision: Revision)],
        at group: inout Group
    ) -> (Bool, [KeyValueReading]) {
        let holds = transaction.conditions.allSatisfy { condition in
            let found = model[condition.key]
            return switch condition.test {
            case .absent: found == nil
            case .present: found != nil
            case .revision(let revision): found?.revision == revision
            case .olderThan(let revision): found != nil && found!.revision < revision
            case .newerThan(let revision): found != nil && found!.revision > revision
            case .value(let value): found?.value == value
            case .otherThan(let value): found != nil && found!.value != value
            }
        }
        var readings: [KeyValueReading] = []
        for operation in holds ? transaction.then : transaction.otherwise {
            switch operation {
            case .put(let key, let value, _): model[key] = (value, group.machine.revision)
            case .delete(let key): model[key] = nil
            case .get(let key):
                readings.append(
                    model[key].map { .found(value: $0.value, revision: $0.revision, expiry: .zero) } ?? .absent)
            }
        }
        return (holds, readings)
    }
}
