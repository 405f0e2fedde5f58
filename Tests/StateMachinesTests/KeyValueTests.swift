import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct KeyValueTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// Bytes that stand in logs. They don't change.
    @Test func payloadsHaveTheirBytes() {
        let header = CommandHeader(machine: .keyValue, session: SessionID(0x0102), sequence: 3, firstUnacknowledged: 4)
        let start = "0100" + "0100" + "0201000000000000" + "0300000000000000" + "0400000000000000"
        #expect(
            hex(KeyValueCommand.put(key: "ab", value: "xyz", timeToLiveMillis: 5).payload(header: header))
                == start + "01" + "01" + "0200" + "0500000000000000" + "6162" + "78797a")
        #expect(hex(KeyValueCommand.delete(key: "ab").payload(header: header)) == start + "02" + "01" + "0200" + "6162")
        #expect(hex(KeyValueQuery.get(key: "ab").encoded()) == "01" + "6162")
        #expect(
            hex(KeyValueReading.found(value: "v", revision: Revision(2), expiry: LogTime(3)).encoded())
                == "01" + "0200000000000000" + "0300000000000000" + "76")
        let scan = KeyValueScan(from: "a", end: "bc", recordsMax: 3, bytesMax: 4)
        #expect(
            hex(KeyValueQuery.scan(scan).encoded())
                == "02" + "01" + "03000000" + "04000000" + "01000000" + "61" + "02000000" + "6263")
        let record = KeyValueScanPage.Record(key: "k", value: "vw", revision: Revision(2), expiry: LogTime(3))
        #expect(
            hex(KeyValueScanPage(records: [record], next: "l").encoded())
                == "01" + "01000000" + "0200000000000000" + "0300000000000000" + "01000000" + "6b" + "02000000" + "7677"
                + "01000000" + "6c")
        let read = KeyValueCommand.delete(key: "k").payload(header: header).withUnsafeBytes { CommandHeader(of: $0) }
        #expect(read == header)
    }

    @Test func readingsAndQueriesSurviveEncoding() throws {
        for reading in [KeyValueReading.absent, .found(value: "", revision: Revision(1), expiry: .zero)] {
            #expect(try KeyValueReading(decoding: reading.encoded()) == reading)
        }
        #expect(try KeyValueQuery(decoding: KeyValueQuery.get(key: "k").encoded()) == .get(key: "k"))
        for end in [nil, "z" as Bytes] {
            let scan = KeyValueQuery.scan(KeyValueScan(from: "", end: end))
            #expect(try KeyValueQuery(decoding: scan.encoded()) == scan && scan.problem() == nil)
            mutate(scan.encoded(), seed: 2) { _ = try? KeyValueQuery(decoding: $0) }
        }
        let long = Bytes([UInt8](repeating: 1, count: Limits.keyBytesMax + 2))
        for scan in [KeyValueScan(from: long, end: nil), KeyValueScan(from: "", end: long)] {
            #expect(KeyValueQuery.scan(scan).problem() != nil)
            #expect(throws: DecodingFailure.self) { try KeyValueQuery(decoding: KeyValueQuery.scan(scan).encoded()) }
        }
        let records = ["a", "b"].map { KeyValueScanPage.Record(key: $0, value: "", revision: Revision(1)) }
        for page in [KeyValueScanPage(records: records, next: nil), KeyValueScanPage(records: [], next: "c")] {
            #expect(try KeyValueScanPage(decoding: page.encoded()) == page)
            mutate(page.encoded(), seed: 3) { _ = try? KeyValueScanPage(decoding: $0) }
        }
        #expect(throws: DecodingFailure.self) { try KeyValueQuery(decoding: Bytes([9, 1])) }
        mutate(KeyValueReading.found(value: "v", revision: Revision(2), expiry: LogTime(3)).encoded(), seed: 1) {
            _ = try? KeyValueReading(decoding: $0)
            _ = try? KeyValueQuery(decoding: $0)
        }
    }

    @Test func putAndDeleteWriteRecordsWithRevisionAndIndex() throws {
        var machine = try MasterStateMachine(group: GroupID(3))
        var store = ModelStore()
        let empty = LogEntry(index: LogIndex(1), term: Term(1), logTime: LogTime(5), kind: .empty, payload: Bytes())
        #expect(machine.apply(empty, into: &store) == .nothing)
        #expect(machine.logTime == LogTime(5))
        #expect(
            machine.apply(
                .command(2, KeyValueCommand.put(key: "{a}1", value: "one").payload(), logTime: 9), into: &store)
                == .done(revision: Revision(1), body: Bytes()))
        #expect(
            machine.apply(.command(3, KeyValueCommand.put(key: "{a}2", value: "").payload(), logTime: 7), into: &store)
                == .done(revision: Revision(2), body: Bytes()))
        #expect(machine.logTime == LogTime(9), "log time never falls")
        let configuration = LogEntry(
            index: LogIndex(4), term: Term(1), logTime: .zero, kind: .configuration, payload: "anything")
        #expect(machine.apply(configuration, into: &store) == .nothing)
        #expect(
            machine.apply(.command(5, KeyValueCommand.delete(key: "{a}1").payload()), into: &store)
                == .done(revision: Revision(3), body: Bytes()))
        #expect(machine.applied == LogIndex(5) && machine.revision == Revision(3))
        let home = slot(of: "a" as Bytes)
        #expect(
            store.records == [
                .init(slot: home, machine: .keyValue, key: "{a}1"): .init(
                    revision: Revision(3), changed: LogIndex(5), expiry: .zero, value: nil),
                .init(slot: home, machine: .keyValue, key: "{a}2"): .init(
                    revision: Revision(2), changed: LogIndex(3), expiry: .zero, value: ""),
            ])
    }

    @Test func limitsAreCheckedBeforeAProposal() {
        func check(
            _ command: KeyValueCommand, header: CommandHeader = CommandHeader(machine: .keyValue),
            slot wanted: Slot? = nil
        ) -> Refusal? {
            MasterStateMachine.check(
                command.payload(header: header), slot: wanted ?? slot(of: command.key), level: FeatureLevel.current)
        }
        let longest = Bytes(Array(repeating: 65, count: Limits.keyBytesMax))
        let tooLong = Bytes(Array(repeating: 65, count: Limits.keyBytesMax + 1))
        let largest = Bytes(Array(repeating: 66, count: Limits.valueBytesMax))
        let tooLarge = Bytes(Array(repeating: 66, count: Limits.valueBytesMax + 1))
        #expect(check(.put(key: longest, value: largest)) == nil)
        #expect(check(.put(key: "k", value: "")) == nil)
        #expect(check(.delete(key: longest)) == nil)
        #expect(check(.put(key: tooLong, value: "")) == .tooLarge("a key has at most 4096 bytes, not 4097"))
        #expect(check(.delete(key: tooLong)) == .tooLarge("a key has at most 4096 bytes, not 4097"))
        #expect(check(.put(key: "k", value: tooLarge)) == .tooLarge("a value has at most 1048576 bytes, not 1048577"))
        #expect(check(.delete(key: "")) == .invalid("the key is empty"))
        #expect(
            check(.put(key: "k", value: "v", timeToLiveMillis: KeyValue.timeToLiveMillisMax + 1))
                == .invalid("a time to live has at most 1099511627776 ms, not 1099511627777"))
        let short = KeyValueCommand.put(key: "k", value: "v", timeToLiveMillis: 1).payload()
        #expect(check(.put(key: "k", value: "v", timeToLiveMillis: 1)) == nil)
        guard
            case .unavailable(let older) = MasterStateMachine.check(
                short, slot: slot(of: "k" as Bytes), level: FeatureLevel.deadlines - 1)
        else {
            Issue.record("a time to live passes below its level")
            return
        }
        #expect(older.contains("level 8"))
        #expect(
            check(.put(key: "k", value: "v"), header: CommandHeader(machine: .keyValue, session: SessionID(1))) != nil)
        #expect(check(.put(key: "k", value: "v"), header: CommandHeader(machine: .meta)) != nil)
        #expect(check(.put(key: "somekey", value: "v"), slot: Slot(1)) == .invalid("the key's slot is 11058, not 1"))
        // The client's own check says the same of the command.
        #expect(
            KeyValueCommand.put(key: tooLong, value: "").problem()
                == .tooLarge("a key has at most 4096 bytes, not 4097"))
        #expect(KeyValueCommand.delete(key: "k").problem() == nil)
        #expect(throws: Refusal.invalid("the key is empty")) {
            try KeyValue.check(query: KeyValueQuery.get(key: "").encoded(), slot: Slot(0))
        }
        #expect(throws: Refusal.self) {
            try KeyValue.check(query: KeyValueQuery.get(key: "somekey").encoded(), slot: Slot(0))
        }
        #expect(throws: Refusal.self) { try KeyValue.check(query: Bytes(), slot: Slot(0)) }
        #expect(throws: Never.self) {
            try KeyValue.check(query: KeyValueQuery.get(key: "somekey").encoded(), slot: Slot(11_058))
        }
    }

    @Test func whatPassesTheCheckIsAppliedAndWhatDoesNotNeverChangesAnything() throws {
        let original = KeyValueCommand.put(key: "{tag}key", value: "value").payload()
        var passed = 0
        mutate(original, seed: 5, rounds: 20_000) { payload in
            let isFine =
                MasterStateMachine.check(
                    payload, slot: slot(of: "tag" as Bytes), level: FeatureLevel.current) == nil
            guard var machine = try? MasterStateMachine(group: GroupID(1)) else { return }
            var store = ModelStore()
            let applied = machine.apply(.command(1, payload), into: &store)
            if isFine {
                passed += 1
                if payload.withUnsafeBytes({ CommandHeader(of: $0)?.session }) == SessionID.none {
                    // One with a time to live has a deadline as well.
                    let isMortal = payload.array[32..<40].contains { $0 != 0 } && payload[28] == 1
                    #expect(applied == .done(revision: Revision(1), body: Bytes()))
                    #expect(store.writes == (isMortal ? 2 : 1))
                } else {
                    #expect(applied == .refused(.sessionExpired) && store.writes == 0)
                }
            } else if case .unsupported = applied {
                #expect(
                    store.writes == 0 && machine.applied == .zero && machine.revision == .zero && machine.digest == 0)
            }
        }
        #expect(passed > 500, "most flips in sequence or value leave a good command")
    }
}
