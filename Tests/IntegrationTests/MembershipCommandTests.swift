// `bifrost members`, `barrier` and `latch`: with real processes, and a member that is stopped.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct MembershipCommandTests {
        private func run(_ cluster: TestCluster, _ words: String...) throws -> ChildProcess {
            var environment = ProcessInfo.processInfo.environment
            let own = [
                "BIFROST_CONNECT": cluster.hosts.map(\.address).joined(separator: ","),
                "BIFROST": cluster.local.executable,
            ]
            environment.merge(own) { $1 }
            return try ChildProcess(cluster.local.executable, words, environment: environment)
        }

        private func wait(_ isDone: () async throws -> Bool) async throws {
            let end = ContinuousClock.now + .seconds(180)
            while try await !isDone() {
                try #require(ContinuousClock.now < end, "it did not come about")
                await OwnExecutor.pause(milliseconds: 20)
            }
        }

        @Test func commandsRunAsMembers() async throws {
            try await withCluster { cluster in
                try await cluster.bifrost("members", "list", "w").expect(1, saying: "there is no membership")
                try await run(cluster, "members", "join", "w", "a", "--no-create", "--", "true").end(
                    killAfter: .seconds(180)
                ).expect(1)
                try await cluster.bifrost("members", "create", "w").expect(0)
                try await cluster.bifrost("members", "create", "w").expect(1)
                try await cluster.bifrost("members", "leader", "w").expect(1, saying: "nobody leads")
                let first = try run(
                    cluster, "members", "join", "w", "a", "--value", "one", "--", "sh", "-c",
                    "echo \"$BIFROST_GUARD\"; exec sleep 600")
                try await wait { try await cluster.bifrost("members", "leader", "w").ending == .exit(0) }
                let second = try run(
                    cluster, "members", "join", "w", "b", "--value", "two", "--leaves", "--", "sleep", "600")
                try await wait {
                    try await cluster.bifrost("members", "list", "w").text
                        == "a\tonline\tleader\tone\nb\tonline\t-\ttwo\n"
                }
                #expect(try await cluster.bifrost("members", "leader", "w").text.hasPrefix("a\t"))
                try await run(cluster, "members", "join", "w", "b", "--no-take-over", "--", "true").end(
                    killAfter: .seconds(180)
                ).expect(1)
                let listed = try await cluster.bifrost("members", "list", "w", "--online", "--json").json()
                #expect(listed["online"] as? Int == 2 && listed["epoch"] as? Int ?? 0 > 0)

                let told = try await cluster.bifrost("members", "watch", "w", "--after", "0", "--limit", "4").text
                #expect(
                    told.split(separator: "\n").compactMap { $0.split(separator: "\t").first } == [
                        "joined", "online", "leaderChanged", "joined", "online",
                    ])

                // It is put offline, its command is ended, and the other one leads.
                try await cluster.bifrost("members", "offline", "w", "a").expect(0)
                let lost = await first.end(killAfter: .seconds(180))
                #expect(lost.ending == .exit(75) && lost.text == "\n", "\(lost.errorText)")
                try await cluster.bifrost("members", "offline", "w", "a").expect(1)
                #expect(try await cluster.bifrost("members", "leader", "w").text.hasPrefix("b\t"))
                second.send(SIGTERM)
                #expect(await second.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))
                #expect(try await cluster.bifrost("members", "list", "w").text == "a\toffline\t-\tone\n")
                try await cluster.bifrost("members", "list", "w", "--online").expect(1)
                try await cluster.bifrost("members", "leave", "w", "a").expect(0)
                try await cluster.bifrost("members", "leave", "w", "a").expect(1)
                try await cluster.bifrost("members", "delete", "w").expect(0)
                try await cluster.bifrost("members", "delete", "w").expect(1)
            }
        }

        @Test func aMemberThatIsStoppedIsOfflineAndItsWritesAreRefused() async throws {
            try await withCluster { cluster in
                let stopped = try run(
                    cluster, "members", "join", "{w}", "a", "--session-ttl", "10s", "--", "sleep", "600")
                try await wait { try await cluster.bifrost("members", "leader", "{w}").ending == .exit(0) }
                let second = try run(cluster, "members", "join", "{w}", "b", "--", "sleep", "600")
                func listed() async throws -> [String: Any] {
                    try await cluster.bifrost("members", "list", "{w}", "--json").json()
                }
                try await wait { try await listed()["online"] as? Int == 2 }
                let before = try await listed()
                let epoch = try #require(before["epoch"] as? Int)
                let token = try #require(((before["entries"] as? [[String: Any]])?.first)?["token"] as? Int)
                for number in [epoch, token] {
                    try await cluster.bifrost("value", "set", "--guard", "members:\(number):{w}", "{w}v", "early")
                        .expect(0)
                }
                stopped.send(SIGSTOP)
                try await wait { try await cluster.bifrost("members", "leader", "{w}").text.hasPrefix("b\t") }
                for number in [epoch, token] {
                    let late = try await cluster.bifrost(
                        "value", "set", "--guard", "members:\(number):{w}", "{w}v", "late")
                    late.expect(75, saying: "membership {w}: its token is over (\(number))")
                    #expect(!late.errorText.contains("lock"))
                }
                #expect(try #require(try await listed()["epoch"] as? Int) > epoch)
                #expect(try await cluster.bifrost("value", "get", "{w}v").text == "early")
                stopped.send(SIGCONT)
                await stopped.end(killAfter: .seconds(180)).expect(75, saying: "was lost while 'sleep' ran")
                try await cluster.bifrost("members", "delete", "{w}").expect(1, saying: "online")
                try await cluster.bifrost("members", "delete", "{w}", "--force").expect(0)
                await second.end(killAfter: .seconds(180)).expect(75)
            }
        }

        @Test func barriersAndLatches() async throws {
            try await withCluster { cluster in
                try await cluster.bifrost("barrier", "show", "start").expect(1)
                try await cluster.bifrost("barrier", "arrive", "start", "--parties", "2", "--wait", "50ms").expect(
                    1, saying: "too few came")
                let ended = try run(cluster, "barrier", "arrive", "start", "--parties", "2")
                try await wait { try await cluster.bifrost("barrier", "show", "start").text.hasPrefix("1\t2\t") }
                ended.send(SIGTERM)
                let result = await ended.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(128 + SIGTERM) && result.errorText.isEmpty, "\(result.errorText)")
                try await cluster.bifrost("barrier", "show", "start").expect(1)
                // A watch of what comes later may begin too late: this one is told what was before it.
                let before = try await cluster.bifrost("value", "set", "{start}v", "x", "--json").json()
                let revision = try #require(before["revision"] as? Int)
                let first = try run(cluster, "barrier", "arrive", "start", "--parties", "2")
                try await wait { try await cluster.bifrost("barrier", "show", "start").ending == .exit(0) }
                let round = try await cluster.bifrost("barrier", "arrive", "start").text
                #expect(await first.end(killAfter: .seconds(180)).text == round && Int(round.dropLast()) ?? 0 > 0)
                let told = try await cluster.bifrost(
                    "barrier", "watch", "start", "--after", "\(revision)", "--limit", "2")
                #expect(told.text == "put\t1 2 \(round)put\t2 2 \(round)", "\(told.text)")

                try await cluster.bifrost("latch", "count-down", "done").expect(1, saying: "set it first")
                try await cluster.bifrost("latch", "show", "done").expect(1)
                let set = try await cluster.bifrost("latch", "set", "done", "2", "--json").json()
                let number = try #require(set["round"] as? Int)
                try await cluster.bifrost("latch", "wait", "done", "--for", "50ms").expect(
                    1, saying: "did not come to zero")
                let waiting = try run(cluster, "latch", "wait", "done")
                #expect(try await cluster.bifrost("latch", "count-down", "done").text == "1\t\(number)\n")
                try await cluster.bifrost("latch", "count-down", "done", "--round", "\(number + 1)").expect(1)
                #expect(try await cluster.bifrost("latch", "count-down", "done").text == "0\t\(number)\n")
                #expect(await waiting.end(killAfter: .seconds(180)).text == "\(number)\n")
                try await cluster.bifrost("latch", "delete", "done").expect(0)
                try await cluster.bifrost("latch", "delete", "done").expect(1)
            }
        }
    }
}
