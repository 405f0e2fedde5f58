// A cluster whose slots are on the move is saved, or loses most of its hosts: with the tool, and real processes.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import Ring
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct SaveOfMovesTests {
        private static let count = 300

        /// Lines of an import.
        private static let records = (0..<count).map { "key \($0)\t\($0) \(String(repeating: "v", count: 4_000))" }

        /// Three hosts, three groups with records, and a fourth group whose share of the slots is on its way.
        ///
        /// - Parameter limits: of the rebalancing. With some bytes a second no step with records ends while a test looks on.
        private func withMoves(
            _ limits: [String], _ body: (TestCluster, Cluster) async throws -> Void
        ) async throws {
            try await withMovingSlots { cluster in
                let input = Array(Self.records.map { $0 + "\n" }.joined().utf8)
                try await cluster.bifrost("import", "-", input: input).expect(0)
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,3", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)
                let client = try await cluster.client()
                // All of them have what is to be found behind it.
                #expect(try await KillTests.disagreement(client) == nil)
                let begun = try await cluster.local.command(
                    ["rebalance", "apply", "--yes", "--detach", "--connect", cluster.local.addresses] + limits,
                    limit: .seconds(200))
                begun.expectInProgress()
                try await wait("slots on their way") { try await !client.map(refresh: true).migrations.isEmpty }
                try await body(cluster, client)
                await client.close()
            }
        }

        private func expectAll(_ cluster: TestCluster, at hosts: [LocalCluster.HostProcess]? = nil) async throws {
            let exported = try await cluster.bifrost("export", "--sorted", "-", at: hosts)
            exported.expect(0)
            let lines = exported.text.split(separator: "\n").map(String.init)
            let sorted = Self.records.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
            #expect(lines == sorted, "\(lines.count) records of \(sorted.count), or others")
            let verified = try await cluster.bifrost("ring", "verify", "--json", at: hosts, limit: .seconds(200))
            verified.expect(0)
            #expect(try verified.json()["proven"] as? Bool == true)
        }

        private func command(_ cluster: TestCluster, _ words: [String]) async throws -> ChildProcess.Result {
            try await cluster.local.command(words, limit: .seconds(180))
        }

        /// Another cluster of a save, of so many hosts, in which all is there and slots move on.
        private func expectRestored(_ save: String, hosts: Int) async throws {
            try await withHosts(hosts) { other in
                let targets = other.hosts.flatMap { ["--host", "\($0.address)=\($0.directory)"] }
                let restore = ["snapshot", "restore", save] + targets
                // What knows less refuses it.
                try await command(other, restore + ["--feature-level", "\(FeatureLevel.gatherings)"]).expect(
                    64, saying: "feature level")
                try await command(other, restore).expect(0)
                for host in other.hosts { try other.start(host) }
                _ = try await other.waitForStatus(0)
                try await expectAll(other)
                try await other.bifrost("rebalance", "apply", "--yes", limit: .seconds(600)).expect(0)
                try await expectAll(other)
            }
        }

        /// Nothing is decided yet of what moves: it is taken back, and goes on when somebody says so.
        @Test func aSaveTakesBackWhatMovesAndWhatWasPausedGoesOnBehindIt() async throws {
            try await withMoves(["--max-bytes-per-second", "1KiB", "--max-concurrent", "2"]) { cluster, client in
                let save = cluster.directory + "/save"
                try await cluster.bifrost("rebalance", "pause").expect(0)
                let moving = try await client.map(refresh: true).migrations
                #expect(!moving.isEmpty)
                let saved = try await cluster.bifrost("snapshot", "save", save, "--json", limit: .seconds(400))
                saved.expect(0)
                #expect(try saved.json()["whole"] as? Bool == true)
                let after = try await client.map(refresh: true)
                #expect(after.migrations.isEmpty)
                #expect(moving.allSatisfy { one in one.slots.allSatisfy { after.owner(of: $0) == one.source } })
                try await command(cluster, ["snapshot", "inspect", save]).expect(0)

                // Nothing is under way any more, and nothing begins.
                try await wait("a rebalancing that nothing goes on of") {
                    try await cluster.bifrost("rebalance", "status").ending == .exit(8)
                }
                for words in [["status"], ["watch", "--timeout", "1s"]] {
                    let blocked = try await command(
                        cluster, ["rebalance"] + words + ["--json", "--connect", cluster.local.addresses])
                    blocked.expect(8, saying: "does not go on by itself", "somebody to resume it")
                    #expect(try blocked.json()["state"] as? String == "paused")
                }
                try await expectRestored(save, hosts: 3)

                try await cluster.bifrost("rebalance", "resume", "--max-bytes-per-second", "0").expect(0)
                try await cluster.bifrost("rebalance", "watch", limit: .seconds(600)).expect(0)
                #expect(try await client.map(refresh: true).ring.slots(of: GroupID(4)).count > 4_000)
                try await expectAll(cluster)
            }
        }

        /// Steps wait for it, and go on behind it.
        @Test func aSaveInTheMiddleOfARebalancingIsWhole() async throws {
            try await withMoves(["--max-concurrent", "4"]) { cluster, client in
                for number in 1...3 {
                    let save = cluster.directory + "/save \(number)"
                    try await cluster.bifrost("snapshot", "save", save, limit: .seconds(400)).expect(0)
                    try await command(cluster, ["snapshot", "inspect", save]).expect(0)
                }
                try await expectRestored(cluster.directory + "/save 1", hosts: 1)
                try await cluster.bifrost("rebalance", "watch", limit: .seconds(600)).expect(0)
                try await expectAll(cluster)
            }
        }

        /// Who saves is stopped, and what it had paused goes on.
        @Test func aSaveThatIsStoppedLeavesNothingPaused() async throws {
            try await withMoves(["--max-bytes-per-second", "1KiB", "--max-concurrent", "2"]) { cluster, client in
                let saving = try ChildProcess(
                    cluster.local.executable,
                    ["snapshot", "save", cluster.directory + "/save", "--connect", cluster.local.addresses])
                try await wait("a rebalancing that is paused") {
                    let status = try await cluster.bifrost("rebalance", "status", "--json")
                    return ["paused", "pausing"].contains(try status.json()["state"] as? String)
                }
                saving.send(SIGTERM)
                let ended = await saving.end(killAfter: .seconds(180))
                #expect(ended.ending == .exit(143), "\(ended.errorText)")
                let status = try await cluster.bifrost("rebalance", "status", "--json")
                status.expectInProgress()
                let state = try status.json()["state"] as? String
                #expect(state == "running" || state == "waiting", "\(status.text)")
                try await cluster.bifrost("rebalance", "cancel").expect(0)
            }
        }

        /// Two of three hosts are lost in the middle: the last one knows whose the slots are.
        @Test func theLastHostGoesOnAloneThoughSlotsWereOnTheirWay() async throws {
            try await withMoves(["--max-bytes-per-second", "1KiB", "--max-concurrent", "2"]) { cluster, client in
                let last = cluster.hosts[2]
                // It knows of what moves, too.
                #expect(try await KillTests.disagreement(client) == nil)
                for host in cluster.hosts { cluster.local.kill(host) }
                let (report, plan) = (cluster.directory + "/report", cluster.directory + "/plan")
                let stopped = ["--directory", last.directory]
                let before = ["--feature-level", "\(FeatureLevel.gatherings)"]
                try await command(cluster, ["recover", "report", "-o", report] + stopped + before).expect(
                    73, saying: "feature level")
                try await command(cluster, ["recover", "report", "-o", report] + stopped).expect(0)
                let planned = try await command(cluster, ["recover", "plan", report, "-o", plan])
                planned.expect(0)
                #expect(planned.text.contains("Slots that were on the move:"), "\(planned.text)")
                #expect(!planned.text.contains("LACK SOME OF THEIR RECORDS"), "\(planned.text)")
                let applied = try await command(cluster, ["recover", "apply", plan, "--yes"] + stopped)
                #expect(applied.ending == .exit(0), "\(applied.errorText)")

                try cluster.start(last)
                let alone = try await cluster.client(at: [last])
                try await wait("slots that are settled") { try await alone.map(refresh: true).migrations.isEmpty }
                await alone.close()
                try await expectAll(cluster, at: [last])
                // What was planned was for hosts that are lost.
                try await cluster.bifrost("rebalance", "status", at: [last]).expect(0)
                try await cluster.bifrost("rebalance", "apply", "--yes", at: [last], limit: .seconds(600)).expect(0)
                try await expectAll(cluster, at: [last])
            }
        }
    }
}
