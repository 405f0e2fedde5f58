import DataTypes
import Foundation
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// What requests need their senders to be allowed.
@Suite struct PermissionTests {
    private let machines = StateMachineRegistry().withDataTypes

    private func needed(_ payload: Bytes) throws(Refusal) -> [Permission] {
        try Permissions.needed(
            for: ExecuteRequest(group: GroupID(1), epoch: .zero, slot: Slot(0), payload: payload), machines: machines)
    }

    private func needed(_ machine: SubMachineNumber, _ query: Bytes) throws(Refusal) -> [Permission] {
        try Permissions.needed(
            for: QueryRequest(group: GroupID(1), epoch: .zero, slot: Slot(0), machine: machine, query: query),
            machines: machines)
    }

    private func needed(_ change: MapChange) throws(Refusal) -> [Permission] { try needed(.change(change)) }

    private func needed(_ command: MetaCommand) throws(Refusal) -> [Permission] {
        try Permissions.needed(for: AdministerRequest(payload: command.payload()))
    }

    private func needed(
        watching machine: SubMachineNumber, from: Bytes, end: Bytes?
    ) throws(Refusal) -> [Permission] {
        try Permissions.needed(
            for: WatchRequest(
                group: GroupID(1), epoch: .zero, slot: Slot(0), machine: machine,
                range: WatchRange(after: .zero, waitMillis: 0, from: from, end: end)))
    }

    // MARK: The table

    /// Made from what the code asks for. When it fails: what it expected is the new table, if that is what is meant.
    @Test func theDocumentationHasTheTableThatTheCodeHas() throws {
        let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Documentation/Permissions.md")
        let text = try String(contentsOf: page, encoding: .utf8)
        let mark = "<!-- generated: PermissionTable -->\n\n"
        let parts = text.components(separatedBy: mark)
        try #require(parts.count == 2)
        let documented = parts[1].split(separator: "\n", omittingEmptySubsequences: false)
        let made = PermissionTable.text(dataTypes: DataTypeMachines.all)
            .split(separator: "\n", omittingEmptySubsequences: false)
        for (place, line) in made.enumerated() where place >= documented.count || documented[place] != line {
            Issue.record("line \(place + 1) of the table is to be: \(line)")
        }
        #expect(documented.count == made.count)
    }

    @Test func everyMethodOfTheServicesIsInIt() {
        let known = ServiceCall.allCases.map { [$0.service, $0.method] }
        #expect(Set(known).count == known.count)
        for call in ServiceCall.allCases {
            #expect(ServiceCall(service: call.service, method: call.method) == call)
        }
        for method in 0...20 as ClosedRange<UInt16> {
            let isData = (1...5).contains(method)
            #expect((ServiceCall(service: ServiceNumber.data, method: method) != nil) == isData)
            #expect((ServiceCall(service: ServiceNumber.cluster, method: method) != nil) == (1...9).contains(method))
            #expect(ServiceCall(service: ServiceNumber.consensus, method: method) == nil)
        }
        for call in ServiceCall.allCases {
            let needed = Permissions.needed(for: call)
            #expect(needed.map { $0.isEmpty } != true, "\(call) is free")
            #expect((needed == nil) == [.execute, .query, .watch, .administer].contains(call))
        }
        #expect(Permissions.needed(for: .page) == [.everything(.admin)])
    }

    // MARK: Keys and values

    @Test func keysAreWrittenByWhoMayWriteThemAndReadByWhoMayRead() throws {
        #expect(try needed(KeyValueCommand.put(key: "k", value: "v").payload()) == [.key(.write, "k")])
        #expect(try needed(KeyValueCommand.delete(key: "k").payload()) == [.key(.write, "k")])
        #expect(try needed(.keyValue, KeyValueQuery.get(key: "k").encoded()) == [.key(.read, "k")])
        let scan = KeyValueScan(from: "a", end: "b", recordsMax: 1, bytesMax: 1)
        #expect(try needed(.keyValue, KeyValueQuery.scan(scan).encoded()) == [.range(.read, from: "a", end: "b")])
        let all = KeyValueScan(from: Bytes(), end: nil, recordsMax: 1, bytesMax: 1)
        #expect(try needed(.keyValue, KeyValueQuery.scan(all).encoded()) == [.range(.read, from: "", end: nil)])
        #expect(try needed(watching: .keyValue, from: "k", end: Bytes("k".utf8 + [0])) == [.key(.read, "k")])
        #expect(try needed(watching: .keyValue, from: "a", end: "b") == [.range(.read, from: "a", end: "b")])
    }

    /// What its conditions find is told by what is done.
    @Test func aTransactionNeedsWhatEachOfItsPartsNeeds() throws {
        let transaction = KeyValueTransaction(
            if: [.init("c", .absent), .init("d", .value("x"))], then: [.put(key: "p", value: "v"), .get(key: "g")],
            otherwise: [.delete(key: "o")])
        #expect(
            try needed(transaction.payload()) == [
                .key(.read, "c"), .key(.read, "d"), .key(.write, "p"), .key(.read, "g"), .key(.write, "o"),
            ])
    }

    // MARK: Machines

    @Test func objectsAreNeededByTheirNames() throws {
        let machine = SetMachine.number
        func payload<Command: MachineCommand>(_ command: Command) -> Bytes {
            MachineRequest(command).payload(machine: Command.Machine.number)
        }
        #expect(try needed(payload(SetAdd("{s}a", ["x"]))) == [.key(.read, "{s}a"), .key(.write, "{s}a")])
        #expect(
            try needed(payload(SetMove("x", from: "{s}a", to: "{s}b")))
                == ["{s}a", "{s}b"].flatMap { [.key(.read, $0), .key(.write, $0)] })
        #expect(try needed(payload(QueueSettings("q", deliveriesMax: 3))) == [.key(.write, "q")])
        #expect(try needed(machine, MachineRequest(SetCount("{s}a")).encoded()) == [.key(.read, "{s}a")])
        let combined = SetCombine(.union, of: ["{s}a", "{s}b", "{s}c"], from: Bytes())
        #expect(
            try needed(machine, MachineRequest(combined).encoded())
                == [.key(.read, "{s}a"), .key(.read, "{s}b"), .key(.read, "{s}c")])
    }

    /// What is done goes by the body: a name in front of it that is allowed does not help.
    @Test func anotherNameInFrontOfTheBodyIsRefused() throws {
        var request = MachineRequest(ValueGet("{t}secret"))
        request.key = "{t}mine"
        let query = request.encoded()
        #expect(throws: Refusal.self) { try needed(ValueMachine.number, query) }
        request = MachineRequest(ValueSet("{t}secret", "x"))
        request.key = "{t}mine"
        let payload = request.payload(machine: ValueMachine.number)
        #expect(throws: Refusal.self) { try needed(payload) }
    }

    @Test func aWatchOfAnObjectIsAboutItsNameAndNoFurther() throws {
        let machine = SetMachine.number
        let records = Bytes([0, 3]).array + Array("abc".utf8)
        let element = Bytes(records + [1, 7])
        #expect(try needed(watching: machine, from: element, end: Bytes(element.array + [0])) == [.key(.read, "abc")])
        let prefix = Bytes(records + [1])
        #expect(try needed(watching: machine, from: prefix, end: prefix.endOfPrefix) == [.key(.read, "abc")])
        let all: [Permission] = [.range(.read, from: "", end: nil)]
        #expect(try needed(watching: machine, from: prefix, end: nil) == all)
        #expect(try needed(watching: machine, from: prefix, end: Bytes([0, 3]).endOfPrefix) == all)
        for other in [Bytes(), Bytes([0]), Bytes([0, 0, 1]), Bytes([0, 9, 1])] {
            #expect(try needed(watching: machine, from: other, end: Bytes(other.array + [0])) == all)
        }
        // A user's machine has keys of its own.
        #expect(try needed(watching: .firstOfUsers, from: "k", end: Bytes("k".utf8 + [0])) == [.key(.read, "k")])
        #expect(try needed(watching: .firstOfUsers, from: "", end: nil) == all)
        for inner in [.meta, .sessions, .deadlines, .guards] as [SubMachineNumber] {
            #expect(throws: Refusal.self) { try needed(watching: inner, from: "k", end: nil) }
        }
    }

    @Test func aGuardedCommandNeedsTheLocksNameToo() throws {
        let token = FencingToken(7, of: "lock", machine: LockMachine.number)
        let inner = KeyValueCommand.put(key: "k", value: "v").payload()
        let payload = try CommandGuard.payload(inner, guardedBy: token)
        #expect(try needed(payload) == [.key(.write, "lock"), .key(.write, "k")])
    }

    @Test func whatTheHostDoesNotHaveIsRefused() {
        let command = MachineRequest(number: 1, key: "k", body: Bytes())
        let payload = command.payload(machine: .firstOfUsers)
        #expect { try needed(payload) } throws: { error in
            guard case .unavailable? = error as? Refusal else { return false }
            return true
        }
        #expect(throws: Refusal.self) { try needed(.firstOfUsers, command.encoded()) }
        #expect(throws: Refusal.self) { try needed(SubMachineNumber(9), Bytes([1])) }
        #expect(throws: Refusal.self) { try needed(Bytes()) }
        #expect(throws: Refusal.self) { try needed(.keyValue, Bytes()) }
    }

    // MARK: Sessions, slots, the meta group

    @Test func sessionsAreForWhoMayWriteSomething() throws {
        let life = SessionCommand.Life(id: SessionID(1), firstUnacknowledged: 1)
        let own: [SessionCommand] = [
            .open(timeToLive: 1_000, nonce: 1), .keepAlive([life]), .close(SessionID(1)),
            .takeOver(Slot(1), [SessionID(2)]), .hold(life, []),
        ]
        for command in own { #expect(try needed(command.payload()) == [.something(.write)]) }
        #expect(try needed(SessionCommand.expire([]).payload()) == [.hosts])
        #expect(try needed(.sessions, SessionQuery().encoded()) == [.everything(.admin)])
    }

    @Test func whatHostsSayIsTakenFromHostsAlone() throws {
        #expect(try needed(SlotCommand.freeze(MigrationID(1)).payload()) == [.hosts])
        for machine in [.meta, .configuration, .slotOwnership, .deadlines] as [SubMachineNumber] {
            #expect(
                try needed(MachineRequest(number: 1, key: "k", body: Bytes()).payload(machine: machine)) == [.hosts])
        }
        #expect(try needed(.slotOwnership, SlotLoadQuery().encoded()) == [.everything(.read)])
        #expect(try needed(.slotOwnership, MigrationsQuery().encoded()) == [.everything(.read)])
        #expect(try needed(.slotOwnership, SlotContentsQuery().encoded()) == [.everything(.read)])
        let one = GroupID(1)
        for change in [
            MapChange.settled(one, index: LogIndex(1), voters: [ReplicaID(1)], learners: []),
            .commitMigration(MigrationID(1), frozen: LogIndex(1), digest: 1),
            .migrationReleased(MigrationID(1), LogIndex(1), Revision(1)), .migrationActivated(MigrationID(1)),
            .migrationDone(MigrationID(1), .source),
        ] { #expect(try needed(change) == [.hosts]) }
        #expect(try needed(.reportStep(RebalancingID(1), 0, .done)) == [.hosts])
    }

    @Test func theClusterIsChangedByWhoMayAdministerEverything() throws {
        let one = GroupID(1)
        for change in [
            MapChange.deleteGroup(one), .setHostState(HostID(1), .draining), .raiseFeatureLevel(12),
            .abortMigration(MigrationID(1)), .putRole(AccessRole("r", grants: [])), .deleteRole("r"),
            .putUser(AccessUser("u", roles: [])), .deleteUser("u"), .setAccessRequired(false),
        ] { #expect(try needed(change) == [.everything(.admin)]) }
        #expect(try needed(.setAuto(nil)) == [.everything(.admin)])
        #expect(throws: Refusal.self) { try Permissions.needed(for: AdministerRequest(payload: "x")) }
    }

    /// Whatever comes: it needs something, or is refused.
    @Test func nothingIsFree() {
        let samples: [Bytes] = [
            KeyValueCommand.put(key: "k", value: "v").payload(), KeyValueCommand.delete(key: "k").payload(),
            MachineRequest(SetMove("x", from: "{s}a", to: "{s}b")).payload(machine: SetMachine.number),
            SessionCommand.close(SessionID(1)).payload(),
        ]
        for (seed, sample) in samples.enumerated() {
            mutate(sample, seed: UInt64(seed)) { payload in
                guard let found = try? needed(payload) else { return }
                #expect(
                    !found.isEmpty
                        || payload.count > CommandHeader.encodedBytes && payload[CommandHeader.encodedBytes] == 3)
            }
            mutate(sample, seed: UInt64(seed) + 100) { bytes in
                for machine in [.keyValue, SetMachine.number, .sessions, .slotOwnership] as [SubMachineNumber] {
                    guard let found = try? needed(machine, bytes) else { continue }
                    #expect(!found.isEmpty)
                }
            }
        }
    }
}
