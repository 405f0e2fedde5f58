// A program that imports the client library alone can name all that its signatures speak of. That this file compiles is
// half of the test: it must import nothing else.

import Bifrost
import Testing

/// What a program might keep of the answers to what it asks.
private struct Kept {
    var reading: KeyValueReading = .absent
    var record: KeyValueScanPage.Record?
    var page: PageResult?
    var pageRecord: PageRecord?
    var position: RecordPosition?
    var sessions: SessionPage?
    var load: GroupLoad?
    var slotLoad: SlotLoad?
    var standing: SessionStanding?
    var session = SessionID.none
    var index = LogIndex.zero
    var term = Term.zero
    var revision = Revision.zero
    var epoch = Epoch.zero
    var cluster = ClusterID.none
    var slot = Slot.group
    var ring: SlotTable?
    var host: HostRecord?
    var hostState: HostState?
    var incarnation: Incarnation?
    var upkeep: HostUpkeep?
    var group: GroupRecord?
    var replicaRecord: ReplicaRecord?
    var replica: ReplicaID?
    var status: ReplicaStatus?
    var role: ReplicaRole?
    var refusal: Refusal?
    var changeKind: KeyValueChange.Kind?
    var machineRecord: MachineRecord?
    var command: MachineCommandNumber?
    var registration: RegistrationFailure?
    var address: NetworkAddress?
    var inProcess: (any InProcessHost)?
}

@Suite struct WordTests {
    @Test func aTransactionIsPutTogetherInArrays() throws {
        var conditions: [KeyValueTransaction.Condition] = []
        for (key, test) in [("{l}a", .absent), ("{l}b", .newerThan(Revision(7)))]
            as [(Bytes, KeyValueTransaction.Condition.Test)]
        {
            conditions.append(KeyValueTransaction.Condition(key, test))
        }
        let then: [KeyValueTransaction.Operation] = [.put(key: "{l}a", value: "1", timeToLiveMillis: 90_000)]
        let transaction = KeyValueTransaction(if: conditions, then: then, otherwise: [.get(key: "{l}b")])
        #expect(transaction.problem() == nil && transaction.keys == ["{l}a", "{l}b", "{l}a", "{l}b"])
        let strange: [KeyValueTransaction.Operation] = [.delete(key: "a"), .delete(key: "b")]
        let problem: Refusal? = KeyValueTransaction(then: strange).problem()
        guard case .invalid(let why) = problem else {
            Issue.record("\(String(describing: problem))")
            return
        }
        #expect(why.contains("one slot"))
    }

    @Test func answersAreKeptUnderTheirNames() throws {
        var kept = Kept()
        kept.reading = .found(value: "1", revision: Revision(3), expiry: .zero)
        kept.address = try NetworkAddress("127.0.0.1:7001")
        guard case .found(let value, let revision, _) = kept.reading else {
            Issue.record("\(kept.reading)")
            return
        }
        #expect(value == "1" && revision > kept.revision && kept.session == .none && kept.cluster == .none)
        #expect(throws: RegistrationFailure.self) { _ = try StateMachineRegistry([Low.self]) }
    }

    private enum Low: StateMachine {
        static let number = SubMachineNumber(9)
        static let commands: [any MachineCommand<Low>.Type] = []
    }
}
