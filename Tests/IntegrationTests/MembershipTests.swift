// Hosts come and go and groups move between them, with real processes, while clients write.

import Bifrost
import BifrostTool
import Foundation
import Messages
import Primitives
import Ring
import Synchronization
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct MembershipTests {
        /// Four hosts that run, of which the first three are a cluster.
        private func withThreeOfFour<Result>(
            groups: Int = 4, _ body: (TestCluster) async throws -> Result
        ) async throws -> Result {
            try await withHosts(4) { cluster in
                try cluster.local.startAll()
                let three = cluster.hosts[..<3].map(\.address).joined(separator: ",")
                try await cluster.local.run(["init", "--hosts", three, "--groups", "\(groups)"])
                return try await body(cluster)
            }
        }

        private struct Member: Equatable {
            var replica: Int
            var host: Int
            var wanted: String
            var reported: String
            var leads: Bool
        }

        private func members(_ group: String, _ cluster: TestCluster) async throws -> [Member] {
            let report = try await cluster.bifrost("group", "members", group, "--json").json()
            return try #require(report["replicas"] as? [[String: Any]]).map {
                Member(
                    replica: $0["replica"] as? Int ?? 0, host: $0["host"] as? Int ?? 0,
                    wanted: $0["wanted"] as? String ?? "", reported: $0["reported"] as? String ?? "",
                    leads: $0["leads"] as? Bool ?? false)
            }
        }

        private func hosts(_ cluster: TestCluster) async throws -> [[String: Any]] {
            let report = try await cluster.bifrost("host", "list", "--json").json()
            return try #require(report["hosts"] as? [[String: Any]])
        }

        /// The number of a group's leader's host; waits for one.
        private func leader(_ group: String, _ cluster: TestCluster) async throws -> Int {
            let end = ContinuousClock.now + .seconds(180)
            while ContinuousClock.now < end {
                if let host = try await members(group, cluster).first(where: \.leads)?.host { return host }
                await OwnExecutor.pause(milliseconds: 50)
            }
            Issue.record("group \(group) had no leader within 180 s")
            return 0
        }

        @Test func aHostComesAGroupMovesAHostIsKilledMeanwhileAndAnotherDrainsAndGoes() async throws {
            try await withThreeOfFour { cluster in
                let client = try await cluster.client(at: Array(cluster.hosts.prefix(3)))
                let load = KeyedLoad(workers: 16, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
                try await load.progress(by: 200)

                // A fourth host.
                let added = try await cluster.bifrost("host", "add", cluster.hosts[3].address, "--json")
                added.expect(0)
                let report = try added.json()
                #expect(report["host"] as? Int == 4 && report["changed"] as? Bool == true)
                let again = try await cluster.bifrost("host", "add", cluster.hosts[3].address, "--json").json()
                #expect(again["host"] as? Int == 4 && again["changed"] as? Bool == false)
                let four = try await hosts(cluster)
                #expect(four.count == 4 && four.allSatisfy { $0["reachable"] as? Bool == true }, "\(four)")
                #expect(four[3]["replicas"] as? Int == 0 && four[3]["state"] as? String == "active")

                // Group 1 moves from host 2 to it, and host 3 is killed in the middle.
                let old = try #require(try await members("1", cluster).first { $0.host == 2 }).replica
                let begun = try await cluster.bifrost(
                    "group", "add-replica", "1", "--host", "4", "--successor-of", "\(old)", "--no-wait", "--json")
                begun.expect(0)
                let new = try #require(try begun.json()["replica"] as? Int)
                cluster.local.kill(cluster.hosts[2])
                try await load.progress(by: 200)
                try cluster.start(cluster.hosts[2])
                let ended = try await cluster.bifrost(
                    "group", "add-replica", "1", "--host", "4", "--successor-of", "\(old)", "--json")
                // It is over already, or goes on: in both cases there is one new replica, not two.
                ended.expect(0)
                #expect(try ended.json()["replica"] as? Int == new)
                let moved = try await members("1", cluster)
                #expect(moved.allSatisfy { $0.wanted == "voter" && $0.reported == "voter" }, "\(moved)")
                #expect(moved.map(\.host).sorted() == [1, 3, 4] && moved.contains { $0.replica == new }, "\(moved)")
                try await load.progress(by: 200)

                // It can lead.
                try await cluster.bifrost("group", "transfer-leader", "1", "--host", "4").expect(0)

                // Host 2 goes.
                try await cluster.bifrost("host", "remove", "2").expect(
                    1, saying: "let it drain", "nothing was changed")
                let drained = try await cluster.bifrost("host", "drain", "2", "--progress", "--timeout", "170s")
                #expect(drained.ending == .exit(0), "\(drained.errorText)")
                #expect(drained.errorText.contains("draining host 2: "), "\(drained.errorText)")
                #expect(drained.text.contains("bifrost host remove 2"))
                #expect(try await hosts(cluster)[1]["replicas"] as? Int == 0)
                try await cluster.bifrost("host", "remove", cluster.hosts[1].address).expect(0)
                try await cluster.bifrost("host", "add", cluster.hosts[1].address).expect(
                    1, saying: "was removed from it", "new, empty --directory")
                try await cluster.bifrost("host", "add", cluster.hosts[0].address, "--weight", "7").expect(
                    1, saying: "already, with weight 100")
                cluster.local.stop(cluster.hosts[1])
                #expect(try await hosts(cluster).compactMap { $0["host"] as? Int } == [1, 3, 4])
                try await load.progress(by: 200)
                for group in ["meta", "1", "2", "3", "4"] {
                    let members = try await members(group, cluster)
                    #expect(members.map(\.host).sorted() == [1, 3, 4], "group \(group): \(members)")
                    #expect(
                        members.allSatisfy { $0.wanted == "voter" && $0.reported == "voter" },
                        "group \(group): \(members)")
                }

                load.stop()
                await running.value
                #expect(load.unexpected == nil)
                #expect(try await load.lost(client) == nil)
                await client.close()

                // Nobody needs what host 2 had: the others, after a restart, have it all.
                let left = [0, 2, 3].map { cluster.hosts[$0] }
                for host in left { cluster.local.kill(host) }
                for host in left { try cluster.start(host) }
                let other = try await cluster.client(at: left)
                #expect(try await load.lost(other) == nil)
                #expect(try await KillTests.disagreement(other) == nil)
                await other.close()
            }
        }

        @Test func aReplicaLearnsVotesLearnsAgainAndLeaves() async throws {
            try await withThreeOfFour { cluster in
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                let added = try await cluster.bifrost(
                    "group", "add-replica", "1", "--host", "host-4", "--learner", "--json")
                added.expect(0)
                let id = try #require(try added.json()["replica"] as? Int)
                func role() async throws -> [String] {
                    try await members("1", cluster).filter { $0.replica == id }.flatMap { [$0.wanted, $0.reported] }
                }
                #expect(try await role() == ["learner", "learner"])
                // Another wish than that is no wish for another replica.
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4").expect(
                    1, saying: "group promote 1 \(id)")
                try await cluster.bifrost("group", "promote", "1", "\(id)").expect(0)
                #expect(try await role() == ["voter", "voter"])
                try await cluster.bifrost("group", "demote", "1", "--host", "4").expect(0)
                #expect(try await role() == ["learner", "learner"])
                try await cluster.bifrost("group", "remove-replica", "1", "\(id)").expect(0)
                #expect(try await role() == [])
                try await cluster.bifrost("group", "remove-replica", "1", "\(id)").expect(
                    64, saying: "no replica \(id)")
                #expect(try await members("1", cluster).count == 3)
            }
        }

        @Test func twoWhoWantTheSameAtOnceGetItOnce() async throws {
            try await withThreeOfFour { cluster in
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                async let first = cluster.bifrost("group", "add-replica", "1", "--host", "4", "--json")
                async let second = cluster.bifrost("group", "add-replica", "1", "--host", "4", "--json")
                let results = try await [first, second]
                for result in results { result.expect(0) }
                let reports = try results.map { try $0.json() }
                #expect(Set(reports.compactMap { $0["replica"] as? Int }).count == 1, "\(reports)")
                #expect(reports.count { $0["changed"] as? Bool == true } == 1, "\(reports)")
                #expect(try await members("1", cluster).count == 4)
            }
        }

        /// The meta group's leader stands still with the question in its socket: what it does when it goes on is for a
        /// version of the map that is over.
        @Test func aLostAnswerBringsNoSecondReplica() async throws {
            try await withThreeOfFour { cluster in
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                let leader = cluster.hosts[try await leader("meta", cluster) - 1]
                leader.process?.send(SIGSTOP)
                let added = try await cluster.bifrost(
                    "group", "add-replica", "1", "--host", "4", "--no-wait", "--timeout", "170s", "--json")
                leader.process?.send(SIGCONT)
                added.expect(0)
                let id = try #require(try added.json()["replica"] as? Int)
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4").expect(0)
                let members = try await members("1", cluster)
                #expect(members.count == 4 && members.filter { $0.host == 4 }.map(\.replica) == [id], "\(members)")
            }
        }

        /// Groups to be made, which their weights tell apart.
        private final class Creations: Sendable {
            static let weights = 101..<150
            private let open = Mutex(Array(weights))

            var left: Int { open.withLock { $0.count } }
            func next() -> Int? { open.withLock { $0.popLast() } }
        }

        /// Killed with a change on its way to the others, the meta group's leader answers nobody, and its successor
        /// carries the change out. What came of it shows in the map: asked for once more, it would be a second group.
        @Test func groupsWhoseAnswersWereLostAreMadeOnce() async throws {
            try await withCluster(groups: 1) { cluster in
                let work = Creations()
                try await withThrowingTaskGroup(of: Void.self) { workers in
                    for _ in 0..<6 {
                        workers.addTask {
                            while let weight = work.next() {
                                let result = try await cluster.bifrost(
                                    "group", "create", "--hosts", "1,2,3", "--weight", "\(weight)", "--no-wait",
                                    "--timeout", "170s")
                                result.expect(0)
                            }
                        }
                    }
                    while work.left > 0 {
                        let host = cluster.hosts[try await leader("meta", cluster) - 1]
                        cluster.local.kill(host)
                        try cluster.start(host)
                        let left = work.left
                        // The others are to have a leader, and to make a few, before that one is killed too.
                        let end = ContinuousClock.now + .seconds(180)
                        while work.left > max(0, left - 8), ContinuousClock.now < end {
                            await OwnExecutor.pause(milliseconds: 5)
                        }
                    }
                    try await workers.waitForAll()
                }
                let list = try await cluster.bifrost("group", "list", "--json").json()
                let groups = try #require(list["groups"] as? [[String: Any]])
                let found = groups.compactMap { $0["weight"] as? Int }.filter { $0 > 100 }
                #expect(found.sorted() == Array(Creations.weights))
            }
        }

        @Test func leadersHandOver() async throws {
            try await withCluster { cluster in
                for host in [2, 3, 1] {
                    try await cluster.bifrost("group", "transfer-leader", "2", "--host", "\(host)").expect(0)
                    #expect(try await leader("2", cluster) == host)
                }
                let before = try await leader("meta", cluster)
                try await cluster.bifrost("group", "transfer-leader", "meta").expect(0)
                #expect(try await leader("meta", cluster) != before)
                let id = try #require(try await members("2", cluster).first { $0.host == 1 }).replica
                let same = try await cluster.bifrost("group", "transfer-leader", "2", "--to", "\(id)")
                same.expect(0)
                #expect(same.text.contains("it did before"), "\(same.text)")
            }
        }

        @Test func aNewHostWithReplicasGetsItsShareOfLeaders() async throws {
            try await withThreeOfFour(groups: 12) { cluster in
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                func groups() async throws -> [[String: Any]] {
                    let list = try await cluster.bifrost("group", "list", "--json").json()
                    return try #require(list["groups"] as? [[String: Any]]).filter { $0["group"] as? Int != 0 }
                }
                // In nine of them it takes the place of one that leads nothing, of each host's three.
                var moves: [(group: String, old: String)] = []
                for (number, group) in try await groups().prefix(9).enumerated() {
                    let replicas = try #require(group["replicas"] as? [[String: Any]])
                    let others = replicas.filter { $0["preferred"] as? Bool == false }
                    let old = try #require(others[number % 2]["replica"] as? Int)
                    moves.append(("\(group["group"] as? Int ?? 0)", "\(old)"))
                }
                for wait in [["--no-wait"], []] {
                    for (group, old) in moves {
                        let words = ["group", "add-replica", group, "--host", "4", "--successor-of", old] + wait
                        try await cluster.local.command(words + ["--connect", cluster.hosts[0].address]).expect(0)
                    }
                }
                let dry = try await cluster.bifrost("group", "spread-leaders", "--dry-run", "--json").json()
                let planned = try #require(dry["changes"] as? [[String: Any]])
                #expect(planned.count == 3 && planned.allSatisfy { $0["host"] as? Int == 4 }, "\(dry)")
                #expect(dry["changed"] as? Bool == false)
                // Two people at once make the changes once.
                async let one = cluster.bifrost("group", "spread-leaders", "--json", "--timeout", "170s")
                async let other = cluster.bifrost("group", "spread-leaders", "--json", "--timeout", "170s")
                var changes = 0
                for result in try await [one, other] {
                    result.expect(0)
                    changes += try #require(result.json()["changes"] as? [Any]).count
                }
                #expect(changes == 3)
                // One that lost its lead meanwhile gets it back.
                var leads: [Int: Int] = [:]
                let end = ContinuousClock.now + .seconds(180)
                repeat {
                    leads = [:]
                    for group in try await groups() { leads[group["leaderHost"] as? Int ?? 0, default: 0] += 1 }
                } while leads != [1: 3, 2: 3, 3: 3, 4: 3] && ContinuousClock.now < end
                #expect(leads == [1: 3, 2: 3, 3: 3, 4: 3])
                let again = try await cluster.bifrost("group", "spread-leaders", "--progress")
                again.expect(0)
                #expect(again.text.contains("nothing to do"))
            }
        }

        @Test func groupsAreMadeAndDeleted() async throws {
            try await withCluster(groups: 2) { cluster in
                let made = try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,host-3", "--count", "3", "--json")
                made.expect(0)
                #expect(try made.json()["groups"] as? [Int] == [3, 4, 5])
                for group in ["3", "4", "5"] { #expect(try await members(group, cluster).contains(where: \.leads)) }
                try await cluster.bifrost("group", "delete", "4").expect(0)
                let again = try await cluster.bifrost("group", "delete", "4", "--json")
                again.expect(0)
                #expect(try again.json()["changed"] as? Bool == false && again.json()["done"] as? Bool == true)
                try await cluster.bifrost("group", "delete", "9").expect(64, saying: "no group 9")
                #expect(made.errorText.isEmpty, "\(made.errorText)")
                #expect(try (made.json()["notes"] as? [String])?.isEmpty == true)
                let two = try await cluster.bifrost("group", "create", "--hosts", "1,2", "--json")
                two.expect(0)
                let note = try #require((two.json()["notes"] as? [String])?.first)
                #expect(note.contains("two replicas tolerate no loss") && two.errorText == "bifrost: \(note)\n")
                try await cluster.bifrost("group", "delete", "6").expect(0)
                try await cluster.bifrost("group", "delete", "1").expect(1, saying: "slots", "nothing was changed")
                let list = try await cluster.bifrost("group", "list", "--json").json()
                let groups = try #require(list["groups"] as? [[String: Any]])
                #expect(groups.compactMap { $0["group"] as? Int } == [0, 1, 2, 3, 5])
                #expect(groups.allSatisfy { $0["leaderReplica"] as? Int == $0["leader"] as? Int })
                let one = try await cluster.bifrost("group", "members", "1", "--json").json()
                #expect(one["cluster"] as? String == list["cluster"] as? String && one["mapVersion"] is Int)
            }
        }

        @Test func aGroupIsStoppedAndStartedAndAHostsWeightChanges() async throws {
            try await withThreeOfFour(groups: 1) { cluster in
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                try await cluster.bifrost("put", "k", "v").expect(0)
                try await cluster.bifrost("group", "stop", "meta").expect(1, saying: "can't be stopped")
                let stopped = try await cluster.bifrost("group", "stop", "1", "--json")
                #expect(try stopped.json()["changed"] as? Bool == true)
                let again = try await cluster.bifrost("group", "stop", "1")
                #expect(again.text == "group 1 is stopped; it was before\n")
                // The word is with all hosts within a second or two.
                let end = ContinuousClock.now + .seconds(180)
                while try await cluster.bifrost("get", "k", "--timeout", "300ms").ending == .exit(0),
                    ContinuousClock.now < end
                {}
                try await cluster.bifrost("get", "k", "--timeout", "500ms").expect(4, saying: "group 1 is stopped")
                try await cluster.bifrost("put", "k", "w", "--timeout", "500ms").expect(4, saying: "group start 1")
                #expect(try await cluster.bifrost("group", "list").text.contains("it is stopped"))
                // It moves and is saved as any other.
                let old = try #require(try await members("1", cluster).first { $0.host == 2 }).replica
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4", "--successor-of", "\(old)")
                    .expect(0)
                try await cluster.bifrost("snapshot", "save", cluster.directory + "/save").expect(0)
                async let waiting = cluster.bifrost("put", "k", "waited", "--timeout", "170s")
                try await cluster.bifrost("group", "start", "1").expect(0)
                try await waiting.expect(0)
                #expect(try await cluster.bifrost("get", "k").text == "waited")

                let weight = try await cluster.bifrost("host", "weight", "4", "0")
                #expect(weight.text == "host 4 has weight 0, and had 100\n")
                #expect(try await cluster.bifrost("host", "weight", "4", "0").text == "host 4 has weight 0 already\n")
                #expect(try await hosts(cluster)[3]["weight"] as? Int == 0)
                try await cluster.bifrost("host", "weight", "9", "1").expect(64)
                // One that the host's replica never followed.
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4", "--successor-of", "999").expect(
                    64, saying: "no replica 999")
            }
        }

        @Test func aReplicaIsReplacedOnItsHost() async throws {
            try await withCluster(groups: 1) { cluster in
                try await cluster.bifrost("put", "k", "v").expect(0)
                let old = try #require(try await members("1", cluster).first { $0.host == 2 }).replica
                try await cluster.bifrost("group", "replace-replica", "1", "--host", "2").expect(0)
                let members = try await members("1", cluster)
                let new = try #require(members.first { $0.host == 2 })
                #expect(new.replica > old && new.reported == "voter" && members.count == 3, "\(members)")
                #expect(try await cluster.bifrost("get", "k").text == "v")
            }
        }

        @Test func aDrainThatCannotEndSaysWhyAndCanBeTakenBack() async throws {
            try await withCluster { cluster in
                let drained = try await cluster.bifrost("host", "drain", "2", "--timeout", "2s")
                drained.expect(
                    2, saying: "host 2: not yet within the time", "a host that can take replica", "goes on by itself")
                #expect(try await hosts(cluster)[1]["state"] as? String == "draining")
                let cancelled = try await cluster.bifrost("host", "drain", "2", "--cancel")
                cancelled.expect(0)
                #expect(cancelled.text == "host 2 is active, with 5 replicas\n")
                let again = try await cluster.bifrost("host", "drain", "2", "--cancel")
                #expect(again.text.contains("asked for before"))
                #expect(try await hosts(cluster)[1]["state"] as? String == "active")
            }
        }

        @Test func whatMakesNoSenseIsSaidAndNothingIsChanged() async throws {
            try await withThreeOfFour(groups: 1) { cluster in
                let before = try await cluster.bifrost("group", "list", "--json").json()["mapVersion"] as? Int
                try await cluster.bifrost("host", "drain", "9").expect(64, saying: "no host '9'", "host-3")
                try await cluster.bifrost("group", "members", "9").expect(64, saying: "no group 9")
                try await cluster.bifrost("group", "members", "x").expect(64, saying: "x")
                try await cluster.bifrost("group", "promote", "1").expect(64, saying: "--host")
                try await cluster.bifrost("group", "promote", "1", "2", "--host", "1").expect(64, saying: "named twice")
                try await cluster.bifrost("group", "promote", "1", "99").expect(
                    64, saying: "no replica 99", "on host 1")
                try await cluster.bifrost("group", "create", "--hosts", "1,,2").expect(64, saying: "'1,,2'")
                try await cluster.bifrost("group", "create", "--hosts", "1,host-1").expect(64, saying: "named twice")
                try await cluster.bifrost("host", "add", "127.0.0.1:1", "--timeout", "2s").expect(
                    4, saying: "bifrost serve")
                // Of another cluster: it stays where it is.
                let other = cluster.hosts[3]
                try await cluster.local.run(["init", "--hosts", other.address, "--groups", "1"])
                try await cluster.bifrost("host", "add", other.address, at: Array(cluster.hosts[..<3])).expect(
                    64, saying: "belongs to cluster", "empty --directory")
                try await cluster.bifrost("host", "list").expect(64, saying: "name hosts of one cluster")
                let after = try await cluster.bifrost("group", "list", "--json", at: Array(cluster.hosts[..<3])).json()
                #expect(after["mapVersion"] as? Int == before)
                // Nobody at all.
                try await cluster.local.command(["host", "list", "--connect", "127.0.0.1:1", "--timeout", "2s"]).expect(
                    4, saying: "127.0.0.1:1")
            }
        }
    }
}
