import BifrostTool
import Foundation
import Primitives
import Recovery
import Ring
import Testing

@Suite struct RecoveryFileTests {
    private func report() throws -> HostReport {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                incarnation: Incarnation(UInt64.max - UInt64($0)), featureLevel: FeatureLevel.membership)
        }
        let map = try Planner.firstMap(
            cluster: ClusterID(high: 0xfedc_ba98_7654_3210, low: 1), hosts: hosts, groups: 2, replicas: 3,
            featureLevel: FeatureLevel.membership)
        let replicas = map.replicas(on: HostID(3)).map { group, replica in
            ReplicaReport(
                group: group.id, replica: replica, term: Term(4), vote: replica, applied: LogIndex(5),
                commit: LogIndex(6), base: LogIndex(2), baseTerm: Term(1),
                terms: [TermRun(first: LogIndex(3), term: Term(3))],
                last: LogIndex((1 << 61) + 1),
                lastLogTime: LogTime(9), configurations: [Configuration(voters: group.founders)],
                impairment: group.id == .meta ? "it \"needs\" a snapshot" : nil)
        }
        return HostReport(
            cluster: map.cluster, host: HostID(3), incarnation: hosts[2].incarnation, bootCounter: 2,
            journal: 0x1234_5678_9abc_def1, journalSequence: 77, map: map, metaMap: map,
            greatestReplica: ReplicaID(9), replicas: replicas)
    }

    private func read(_ text: String) throws -> RecoveryFile { try RecoveryFile(Bytes(text), name: "file") }

    @Test func reportsAndPlansComeBackAsTheyWere() throws {
        let report = try report()
        let bytes = try RecoveryFile.report(report).encoded()
        guard case .report(let found) = try RecoveryFile(Bytes(bytes), name: "file") else {
            Issue.record("not a report")
            return
        }
        #expect(found == report)
        let plan = try RecoveryPlanner.plan([report], cluster: ClusterID(high: 5, low: 6), acceptEmpty: [.meta])
        guard case .plan(let planned) = try RecoveryFile(Bytes(try RecoveryFile.plan(plan).encoded()), name: "file")
        else {
            Issue.record("not a plan")
            return
        }
        #expect(planned == plan)
        // Whoever lays the file out anew changes nothing.
        let object = try JSONSerialization.jsonObject(with: Data(bytes))
        let pretty = try JSONSerialization.data(withJSONObject: object, options: [.prettyPrinted])
        guard case .report(let again) = try read(String(decoding: pretty, as: UTF8.self)) else {
            Issue.record("not a report")
            return
        }
        #expect(again == report)
    }

    @Test func whatIsDamagedEditedOrNewerIsRefused() throws {
        let text = String(decoding: try RecoveryFile.report(report()).encoded(), as: UTF8.self)
        func expect(_ changed: String, _ words: String) {
            let error = #expect(throws: ToolError.self) { try read(changed) }
            #expect(error?.status == .badData && error?.message.contains(words) == true, "\(error?.message ?? "")")
        }
        expect("", "found another")
        expect("{}", "found another")
        expect(String(text.dropLast(40)), "found another")
        expect(text.replacing("\"journalSequence\":77", with: "\"journalSequence\":78"), "edited")
        expect(text.replacing("\"bootCounter\":2", with: "\"bootCounter\":-2"), "damaged")
        expect(text.replacing("\"version\":1", with: "\"version\":2"), "version 2")
        expect(text.replacing("\"cluster\":\"fedc", with: "\"cluster\":\"xedc"), "hexadecimal")
        // No byte may be another without a word.
        var random = SeededRandom(seed: 1)
        let bytes = Array(text.utf8)
        for _ in 0..<200 {
            var changed = bytes
            let place = Int(random.below(UInt64(bytes.count)))
            changed[place] ^= UInt8(1 << random.below(7))
            guard case .report(let found)? = try? RecoveryFile(Bytes(changed), name: "file") else { continue }
            #expect(try found == report(), "byte \(place)")
        }
    }

    @Test func theWordsSayWhatIsLostAndWhoMustNotComeBack() throws {
        var report = try report()
        for place in report.replicas.indices { report.replicas[place].impairment = nil }
        let plan = try RecoveryPlanner.plan([report], cluster: ClusterID(high: 5, low: 6))
        let text = RecoveryText.account(of: plan)
        #expect(text.contains("NEVER START host 1, host 2 AGAIN"), "\(text)")
        #expect(text.contains("MAY BE LOST") && text.contains("The meta group goes on from replica"), "\(text)")
        #expect(RecoveryText.orders(of: plan.hosts[0], in: plan).contains("meta, 1, 2"))
        #expect(RecoveryText.table(of: report).contains("meta"))
    }
}
