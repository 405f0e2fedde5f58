// Membership changes. It proves that members of groups can be exchanged, added, taken out, made voters and learners while
// clients write and hosts die, and that nothing acknowledged is lost by it: each group has the members that were wanted
// in the end, and they are equal; in the simulator also while hosts join and leave and versions are mixed.

import Bifrost
import BifrostSimulator
import BifrostTool
import Messages
import Primitives
import Ring
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct MembershipChanges {
        @Test func membersGroupsAndHostsComeAndGoUnderFaults() throws {
            var total = SimulationReport()
            for seed in 1...12 as ClosedRange<UInt64> {
                let run = try SimulatedRun(seed: seed, SimulationSettings(profile: .membership, seconds: 15))
                #expect(run.operations.contains { $0.outcome != .unknown && $0.kind != .get })
                total.add(run.report)
            }
            let marks: [SimulationMark] = [.membersChange, .replicaRemoved, .hostJoined]
            for mark in marks { #expect(total.marks[mark.rawValue] > 0, "\(mark) never happened") }
            #expect(total.marks[SimulationMark.membersChange.rawValue] > 60)
            print("\(marks.map { "\($0): \(total.marks[$0.rawValue])" }); \(total)")
        }

        private struct Member {
            var replica: Int
            var host: Int
            var wanted: String
            var reported: String
        }

        private func members(_ group: Int, _ cluster: TestCluster) async throws -> [Member] {
            let report = try await cluster.bifrost("group", "members", "\(group)", "--json").json()
            return try #require(report["replicas"] as? [[String: Any]]).map {
                Member(
                    replica: $0["replica"] as? Int ?? 0, host: $0["host"] as? Int ?? 0,
                    wanted: $0["wanted"] as? String ?? "", reported: $0["reported"] as? String ?? "")
            }
        }

        /// Each founder of a group leaves for another host in turn, and meanwhile a host is killed.
        @Test func allMembersOfAGroupAreExchangedUnderLoadWhileHostsAreKilled() async throws {
            try await withCluster(hosts: 4, groups: 2) { cluster in
                let client = try await cluster.client()
                let load = KeyedLoad(workers: 16, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
                try await load.progress(by: 200)
                let group = 1
                let founders = Set(try await members(group, cluster).map(\.replica))
                for round in 0..<3 {
                    let before = try await members(group, cluster)
                    let old = try #require(before.first { founders.contains($0.replica) })
                    let target = try #require((1...4).first { host in !before.contains { $0.host == host } })
                    // The host of the one who leaves dies in the middle, of the one who comes, or of one who stays.
                    let third = try #require(before.first { $0.replica != old.replica }).host
                    let victim = cluster.hosts[[old.host, target, third][round] - 1]
                    let begun = try await cluster.bifrost(
                        "group", "add-replica", "\(group)", "--host", "\(target)", "--successor-of",
                        "\(old.replica)", "--no-wait", "--json")
                    begun.expect(0)
                    let new = try #require(try begun.json()["replica"] as? Int)
                    cluster.local.kill(victim)
                    try await load.progress(by: 100)
                    try cluster.start(victim)
                    let ended = try await cluster.bifrost(
                        "group", "add-replica", "\(group)", "--host", "\(target)", "--successor-of",
                        "\(old.replica)", "--json")
                    ended.expect(0)
                    let after = try await members(group, cluster)
                    #expect(after.count == 3 && after.allSatisfy { $0.wanted == "voter" && $0.reported == "voter" })
                    #expect(after.contains { $0.replica == new && $0.host == target })
                    #expect(!after.contains { $0.replica == old.replica })
                    try await load.progress(by: 100)
                }
                let now = try await members(group, cluster)
                #expect(founders.count == 3 && founders.isDisjoint(with: now.map(\.replica)), "\(now)")
                // A voter that is made a learner counts no more, and counts again.
                let one = try await members(1, cluster)[0]
                try await cluster.bifrost("group", "demote", "1", "\(one.replica)").expect(0)
                #expect(try await members(1, cluster).first { $0.replica == one.replica }?.reported == "learner")
                try await load.progress(by: 100)
                try await cluster.bifrost("group", "promote", "1", "\(one.replica)").expect(0)
                try await load.progress(by: 100)
                load.stop()
                await running.value
                #expect(load.unexpected == nil)
                #expect(try await load.lost(client) == nil)
                #expect(try await KillTests.disagreement(client) == nil)
                await client.close()
            }
        }
    }
}
