import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct MasterStateMachineTests {
    private func commands(seed: UInt64, count: Int) -> [LogEntry] {
        var random = SeededRandom(seed: seed)
        return (1...UInt64(count)).map { index in
            let key = Bytes("key-\(random.below(50))")
            let command: KeyValueCommand =
                random.below(4) == 0 ? .delete(key: key) : .put(key: key, value: Bytes("value-\(random.next())"))
            return .command(index, command.payload(), logTime: index)
        }
    }

    private func applyAll(_ entries: [LogEntry]) throws -> (MasterStateMachine, ModelStore) {
        var machine = try MasterStateMachine(group: GroupID(1))
        var store = ModelStore()
        for entry in entries { _ = machine.apply(entry, into: &store) }
        return (machine, store)
    }

    @Test func replicasAgreeAndARestartGoesOnWhereTheManifestStands() throws {
        let entries = commands(seed: 1, count: 500)
        let (whole, store) = try applyAll(entries)
        var (machine, restored) = try applyAll(Array(entries[..<200]))
        machine = try MasterStateMachine(
            group: GroupID(1), applied: machine.applied, revision: machine.revision,
            logTime: machine.logTime, digest: machine.digest)
        for entry in entries[200...] { _ = machine.apply(entry, into: &restored) }
        #expect(
            machine.digest == whole.digest && machine.revision == whole.revision && machine.logTime == whole.logTime)
        #expect(restored == store)
        // Digests stand in manifests and are compared between versions: this one is for ever.
        #expect(whole.digest == 1_923_026_884_458_964_893)
    }

    @Test func everyDifferenceShowsInTheDigest() throws {
        func digest(_ commands: [KeyValueCommand], emptyFirst: Bool = false) throws -> UInt64 {
            var entries = commands.enumerated().map {
                LogEntry.command(UInt64($0.offset + (emptyFirst ? 2 : 1)), $0.element.payload())
            }
            if emptyFirst {
                entries.insert(
                    LogEntry(index: LogIndex(1), term: Term(1), logTime: .zero, kind: .empty, payload: Bytes()), at: 0)
            }
            return try applyAll(entries).0.digest
        }
        let variants: [[KeyValueCommand]] = [
            [.put(key: "a", value: "1"), .put(key: "b", value: "2")],
            [.put(key: "b", value: "2"), .put(key: "a", value: "1")],
            [.put(key: "a", value: "2"), .put(key: "b", value: "2")],
            [.put(key: "a", value: "1"), .put(key: "c", value: "2")],
            [.put(key: "a1", value: ""), .put(key: "b", value: "2")], [.put(key: "a", value: "1")], [.delete(key: "a")],
            [.put(key: "a", value: "")], [],
        ]
        var digests = try variants.map { try digest($0) }
        // The same effects at other indices are another history.
        digests.append(try digest(variants[0], emptyFirst: true))
        #expect(Set(digests).count == digests.count)
    }

    @Test func whatThisVersionDoesNotKnowStopsTheReplicaAndChangesNothing() throws {
        let put = KeyValueCommand.put(key: "k", value: "v")
        func changed(_ offset: Int, _ byte: UInt8) -> Bytes {
            var bytes = put.payload().array
            bytes[offset] = byte
            return Bytes(bytes)
        }
        let entries: [(LogEntry, String)] = [
            (
                LogEntry(
                    index: LogIndex(1), term: Term(1), logTime: LogTime(9), kind: EntryKind(rawValue: 77),
                    payload: Bytes()), "kind 77"
            ),
            (.command(1, changed(2, 2), logTime: 9), "header"),
            (.command(1, changed(0, 8), logTime: 9), "sub state machine 8"),
            (.command(1, changed(0, 16), logTime: 9), "state machine 16"),
            (.command(1, changed(0, 2), logTime: 9), "sub state machine 2"),
            (.command(1, changed(28, 4), logTime: 9), "does not know"),
            (.command(1, changed(28, 3), logTime: 9), "expected"),
            (.command(1, changed(29, 2), logTime: 9), "does not know"),
            (.command(1, changed(39, 1), logTime: 9), "does not know"), (.command(1, Bytes(), logTime: 9), "header"),
            (.command(1, put.payload()[0..<30], logTime: 9), "does not know"),
        ]
        for (entry, text) in entries {
            var machine = try MasterStateMachine(group: GroupID(1))
            var store = ModelStore()
            guard case .unsupported(let what) = machine.apply(entry, into: &store) else {
                Issue.record("applied: \(text)"); continue
            }
            #expect(what.contains(text) && what.contains("entry 1"), "\(what)")
            #expect(store.writes == 0 && machine.applied == .zero && machine.logTime == .zero && machine.digest == 0)
        }
        // Key-value commands have no place in the meta group.
        var machine = try MasterStateMachine(group: .meta)
        var store = ModelStore()
        guard case .unsupported = machine.apply(.command(1, put.payload()), into: &store) else {
            Issue.record("applied"); return
        }
    }
}
