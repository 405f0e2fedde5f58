// `bifrost rebalance apply` and what goes with it, and `bifrost ring verify`: against real hosts.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import Ring
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct RebalanceApplyTests {
        private func fill(_ cluster: TestCluster, keys: Int, bytes: Int) async throws {
            let client = try await cluster.client()
            let value = Bytes(Array(repeating: UInt8(ascii: "x"), count: bytes))
            for key in 0..<keys { try await client.kv.put(Bytes("key \(key)"), value) }
            await client.close()
        }

        /// `rebalance WORDS… --json`
        private func rebalance(_ cluster: TestCluster, _ words: [String]) async throws -> ChildProcess.Result {
            try await cluster.local.command(
                ["rebalance"] + words + ["--json", "--connect", cluster.local.addresses], limit: .seconds(200))
        }

        @Test func aNewGroupGetsItsShareAndEachSlotIsInOnePlace() async throws {
            try await withMovingSlots { cluster in
                try await fill(cluster, keys: 300, bytes: 4_000)
                try await cluster.bifrost("rebalance", "status").expect(0)
                let sound = try await cluster.bifrost("ring", "verify", "--json")
                sound.expect(0)
                #expect(try sound.json()["proven"] as? Bool == true)
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,3", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)

                // Not confirmed: nothing is begun.
                try await cluster.bifrost("rebalance", "apply", input: Array("no\n".utf8), limit: .seconds(200))
                    .expectLast(
                        1, saying: "nothing was begun")
                try await cluster.bifrost("rebalance", "pause").expect(1, saying: "no rebalancing is under way")

                let applied = try await cluster.bifrost(
                    "rebalance", "apply", "--yes", "--max-concurrent", "2", "--max-pause", "2s", limit: .seconds(600))
                applied.expect(0)
                #expect(applied.text.contains("this is what will be done"), "\(applied.text)")
                #expect(applied.text.contains("converged") && applied.text.contains("100.0 %"), "\(applied.text)")

                let client = try await cluster.client()
                let map = try await client.map(refresh: true)
                let counts = map.ring.counts().map(\.slots)
                #expect(counts.count == 4 && counts.max()! - counts.min()! <= Slot.count / 20, "\(counts)")
                for key in 0..<300 { #expect(try await client.kv.get(Bytes("key \(key)"))?.value.count == 4_000) }
                await client.close()

                let status = try await cluster.bifrost("rebalance", "status", "--json")
                status.expect(0)
                let report = try status.json()
                #expect(report["done"] as? Bool == true && report["state"] as? String == "converged")
                #expect(report["concurrentMax"] as? Int == 2 && report["pauseMillisMax"] as? Int == 2_000)
                try await cluster.bifrost("rebalance", "watch").expect(0)
                let verified = try await cluster.bifrost("ring", "verify", limit: .seconds(200))
                verified.expect(0)
                #expect(verified.text.contains("each slot is served by one group"), "\(verified.text)")
                let again = try await cluster.bifrost("rebalance", "apply", "--yes", "--json", limit: .seconds(200))
                again.expect(0)
                #expect(try again.json()["done"] as? Bool == true)
            }
        }

        @Test func aProofDoesNotWaitForAHostThatIsGone() async throws {
            try await withMovingSlots { cluster in
                try await fill(cluster, keys: 10, bytes: 10)
                cluster.local.kill(cluster.hosts[2])
                _ = try await cluster.waitForStatus(3)
                // Who waited for it would be killed before.
                let verified = try await cluster.bifrost(
                    "ring", "verify", "--timeout", "1h", "--progress", "--json", limit: .seconds(300))
                let address = cluster.hosts[2].address
                verified.expectLast(
                    4,
                    saying:
                        "not proven: host 3 at \(address) does not answer (cannot connect to \(address): Connection refused)",
                    "nothing is known of 3 replicas; nothing that the others have speaks against it")
                #expect(verified.errorText.contains("on host 3, which does not answer"), "\(verified.errorText)")
                let report = try verified.json()
                #expect(report["proven"] as? Bool == false && report["silentHosts"] as? [Int] == [3])
                #expect((report["violations"] as? [Any])?.isEmpty == true)
                let unproven = try #require(report["unproven"] as? [String])
                #expect(unproven.count == 3, "\(unproven)")
                #expect(unproven.allSatisfy { $0.contains("on host 3: its host") }, "\(unproven)")

                try cluster.start(cluster.hosts[2])
                let whole = try await cluster.bifrost("ring", "verify", "--json", limit: .seconds(200))
                whole.expect(0)
                #expect(try whole.json()["silentHosts"] as? [Int] == [])
            }
        }

        @Test func whatIsDetachedGoesOnIsPausedResumedAndCancelled() async throws {
            try await withMovingSlots { cluster in
                try await fill(cluster, keys: 300, bytes: 4_000)
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,3", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)
                // Some bytes a second: it does not end by itself in the time of this test.
                let begun = try await cluster.bifrost(
                    "rebalance", "apply", "--yes", "--detach", "--json", "--max-bytes-per-second", "1KiB",
                    "--max-concurrent", "1", limit: .seconds(200))
                #expect(begun.ending == .exit(6), "\(begun.errorText)")
                #expect(try begun.json()["done"] as? Bool == false)
                let status = try await cluster.bifrost("rebalance", "status")
                #expect(status.ending == .exit(6), "\(status.text)\(status.errorText)")
                #expect(status.text.contains("underway") || status.text.contains("waiting"), "\(status.text)")
                try await cluster.bifrost("rebalance", "apply", "--yes", limit: .seconds(200)).expectLast(
                    1, saying: "is under way")
                try await cluster.bifrost("rebalance", "pause").expect(0)
                let paused = try await cluster.bifrost("rebalance", "status", "--json")
                let steps = try #require(try paused.json()["steps"] as? [[String: Any]])
                #expect(steps.contains { ($0["waitsFor"] as? String)?.contains("resume") == true }, "\(steps)")
                let watched = try await cluster.bifrost("rebalance", "watch", "--timeout", "2s", "--json")
                #expect([.exit(6), .exit(8)].contains(watched.ending), "\(watched.errorText)")
                try await cluster.bifrost("rebalance", "resume", "--max-bytes-per-second", "2KiB").expect(0)
                try await cluster.bifrost("rebalance", "cancel", "--json").expect(0)
                let ended = try await cluster.bifrost("rebalance", "watch", limit: .seconds(600))
                ended.expectLast(1, saying: "was cancelled")
                try await cluster.bifrost("ring", "verify", limit: .seconds(200)).expect(0)
                try await cluster.bifrost("rebalance", "cancel").expect(1, saying: "no rebalancing is under way")
            }
        }

        @Test func theClusterIsToldToKeepTheBalanceByItself() async throws {
            try await withMovingSlots { cluster in
                let before = try await cluster.bifrost("rebalance", "auto")
                before.expect(0)
                #expect(before.text.contains("does not rebalance by itself"), "\(before.text)")
                let on = try await cluster.bifrost("rebalance", "auto", "on", "--max-concurrent", "2", "--json")
                on.expect(0)
                #expect(try on.json()["changed"] as? Bool == true)
                // What is not named stays.
                let again = try await cluster.bifrost("rebalance", "auto", "on", "--max-pause", "50ms", "--json")
                again.expect(0)
                let auto = try #require(try again.json()["auto"] as? [String: Any])
                #expect(auto["concurrentMax"] as? Int == 2 && auto["pauseMillisMax"] as? Int == 50, "\(auto)")
                let status = try await cluster.bifrost("rebalance", "status")
                status.expect(0)
                #expect(
                    status.text.contains("keeps the balance by itself, at most 2 moves at a time"), "\(status.text)")
                try await cluster.bifrost("rebalance", "auto", "off", "--max-concurrent", "3").expect(
                    64, saying: "limits are given with 'on'")
                try await cluster.bifrost("rebalance", "apply", "--auto", "--detach").expect(64, saying: "--detach")
                // None is under way: to cancel is to turn it off.
                let cancelled = try await cluster.bifrost("rebalance", "cancel")
                cancelled.expect(0)
                #expect(cancelled.text.contains("begins no rebalancing by itself any more"), "\(cancelled.text)")
                let after = try await cluster.bifrost("rebalance", "auto", "--json")
                after.expect(0)
                #expect(try after.json()["auto"] == nil && after.json()["on"] as? Bool == false)
                let both = try await cluster.bifrost("rebalance", "auto", "on", "--json")
                #expect(try both.json()["on"] as? Bool == true, "\(both.text)")
                let ended = try await cluster.bifrost("rebalance", "cancel", "--json")
                ended.expect(0)
                #expect(try ended.json()["autoEnded"] as? Bool == true && ended.json()["changed"] as? Bool == true)
                let off = try await cluster.bifrost("rebalance", "auto", "off", "--json")
                #expect(try off.json()["on"] as? Bool == false && off.json()["changed"] as? Bool == false)
                try await cluster.bifrost("rebalance", "apply", "--auto", input: Array("no\n".utf8)).expectLast(
                    1, saying: "nothing was changed")
                try await cluster.bifrost("rebalance", "apply", "--auto", "--yes", "--max-concurrent", "5").expect(0)
                let applied = try await cluster.bifrost("rebalance", "auto")
                #expect(applied.text.contains("at most 5 moves at a time"), "\(applied.text)")
            }
        }

        @Test func aGroupIsSplit() async throws {
            try await withMovingSlots(groups: 2) { cluster in
                try await fill(cluster, keys: 200, bytes: 2_000)
                let split = try await cluster.bifrost("group", "split", "1", limit: .seconds(600))
                split.expect(0)
                #expect(split.text.hasPrefix("group 3 has "), "\(split.text)")
                let client = try await cluster.client()
                let counts = try await client.map(refresh: true).ring.counts()
                #expect(counts.map(\.group) == [GroupID(1), GroupID(2), GroupID(3)])
                #expect(
                    counts[0].slots < 5_500 && counts[2].slots < 5_500 && counts[1].slots == Slot.count / 2, "\(counts)"
                )
                for key in 0..<200 { #expect(try await client.kv.get(Bytes("key \(key)"))?.value.count == 2_000) }
                await client.close()
                try await cluster.bifrost("ring", "verify", limit: .seconds(200)).expect(0)
                try await cluster.bifrost("group", "split", "9").expect(64, saying: "there is no group 9")
            }
        }

        /// Each ends at once, and nothing with it: exit code 6 where it goes on by itself.
        @Test func whatIsUnderWayIsNamedByEachCommand() async throws {
            try await withMovingSlots(groups: 2) { cluster in
                for word in ["status", "watch"] {
                    let none = try await cluster.bifrost("rebalance", word, "--json")
                    none.expect(0)
                    #expect(try none.json()["done"] as? Bool == true, "\(none.text)")
                }
                try await fill(cluster, keys: 300, bytes: 4_000)
                try await cluster.bifrost("group", "split", "meta").expect(1, saying: "has no slots")

                let split = try await cluster.bifrost(
                    "group", "split", "1", "--detach", "--json", "--max-bytes-per-second", "1KiB", "--timeout", "170s")
                split.expectInProgress()
                let begun = try split.json()
                #expect(begun["group"] as? Int == 3 && begun["done"] as? Bool == false, "\(begun)")
                #expect(begun["slots"] as? Int ?? 0 > 2_000, "\(begun)")
                let id = try #require(begun["rebalancing"] as? Int)
                try await cluster.bifrost("group", "split", "2").expect(1, saying: "rebalancing \(id) is under way")
                for words in [["watch", "--timeout", "1s"], ["status", "--steps"]] {
                    let result = try await rebalance(cluster, words)
                    result.expectInProgress()
                    let report = try result.json()
                    #expect(report["rebalancing"] as? Int == id && report["done"] as? Bool == false, "\(report)")
                }

                // It is to have slots, and what is planned beside it is for nobody.
                try await cluster.bifrost("group", "delete", "3").expect(
                    1, saying: "group 3 is part of rebalancing \(id)", "'bifrost rebalance cancel'")
                let refused = try await cluster.bifrost("rebalance", "apply", "--yes")
                refused.expect(1, saying: "rebalancing \(id) is under way", "nothing was begun")
                #expect(refused.text.isEmpty, "\(refused.text)")

                // What is so already is no change.
                func isChanged(_ words: String...) async throws -> Bool {
                    let result = try await rebalance(cluster, words)
                    result.expect(0)
                    let report = try result.json()
                    #expect(report["rebalancing"] as? Int == id, "\(report)")
                    return try #require(report["changed"] as? Bool)
                }
                #expect(try await isChanged("pause"))
                #expect(try await !isChanged("pause"))
                #expect(try await isChanged("resume", "--max-concurrent", "2"))
                #expect(try await !isChanged("resume", "--max-concurrent", "2"))
                #expect(try await cluster.bifrost("rebalance", "status", "--json").json()["concurrentMax"] as? Int == 2)
                let cancelled = try await cluster.bifrost("rebalance", "cancel")
                cancelled.expect(0)
                #expect(cancelled.text.hasPrefix("rebalancing \(id) is cancelled"), "\(cancelled.text)")
                // Coming to its end, or over.
                for word in ["pause", "resume"] {
                    let late = try await cluster.bifrost("rebalance", word, "--json")
                    late.expect(1, saying: "was cancelled")
                    #expect(try late.json()["changed"] as? Bool == false, "\(late.text)")
                }
                try await cluster.bifrost("rebalance", "watch", limit: .seconds(600)).expect(1, saying: "was cancelled")
                let after = try await cluster.bifrost("rebalance", "status", "--json")
                after.expect(1, saying: "was cancelled")
                #expect(try after.json()["state"] as? String == "cancelled")
                try await cluster.bifrost("ring", "verify", limit: .seconds(200)).expect(0)
            }
        }

        /// Two replicas, of which one is lost: the meta group's leader, which has a majority, knows nothing of that.
        @Test func whatWaitsForAGroupWithoutAMajorityIsBlockedAndSaysByWhom() async throws {
            try await withMovingSlots(spare: 1) { cluster in
                let (rest, lost) = (Array(cluster.hosts.prefix(3)), cluster.hosts[3])
                try await cluster.bifrost("host", "add", lost.address, at: rest).expect(0)
                try await fill(cluster, keys: 300, bytes: 4_000)
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,4", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)
                let begun = try await cluster.bifrost(
                    "rebalance", "apply", "--yes", "--detach", "--max-bytes-per-second", "512", "--bytes-percent",
                    "1000", "--operations-percent", "1000", "--leaders-percent", "1000", limit: .seconds(200))
                begun.expectInProgress()
                // Steps that move no records are done at once; the others take longer than this looks on.
                try await wait("slots with records that are on their way") {
                    let steps = try await cluster.bifrost("rebalance", "status", "--json").json()["steps"]
                    return (steps as? [[String: Any]] ?? []).contains { ($0["copiedBytes"] as? Int ?? 0) > 0 }
                }
                cluster.local.kill(lost)

                try await wait("a group without a leader that holds up all") {
                    try await cluster.bifrost("rebalance", "status", at: rest).ending == .exit(8)
                }
                let status = try await cluster.bifrost("rebalance", "status", "--json", at: rest)
                status.expect(8, saying: "group 4, which has no leader: host 4 does not answer")
                let report = try status.json()
                let leaderless = try #require(report["leaderless"] as? [[String: Any]])
                #expect(leaderless.count == 1 && leaderless[0]["group"] as? Int == 4, "\(leaderless)")
                #expect(leaderless[0]["silentHosts"] as? [Int] == [4], "\(leaderless)")
                #expect(report["state"] as? String == "blocked" && report["secondsLeft"] == nil, "\(report)")
                try await cluster.bifrost("rebalance", "watch", at: rest).expect(8, saying: "which has no leader")
                let other = try await cluster.bifrost("rebalance", "apply", "--yes", at: rest)
                other.expect(1, saying: "is under way")

                // What is under way can't be taken back either, without the group.
                try await cluster.bifrost("rebalance", "cancel", at: rest).expect(0)
                let paused = try await cluster.bifrost("rebalance", "pause", "--json", at: rest)
                paused.expect(1, saying: "was cancelled")
                #expect(try paused.json()["changed"] as? Bool == false, "\(paused.text)")
                try await cluster.bifrost("group", "delete", "4", at: rest).expect(1, saying: "is part of rebalancing")
                try cluster.start(lost)
                try await wait("a group with a leader that takes it back") {
                    try await cluster.bifrost("rebalance", "status").ending == .exit(1)
                }
                try await cluster.bifrost("rebalance", "watch").expect(1, saying: "was cancelled")
                try await cluster.bifrost("ring", "verify", limit: .seconds(200)).expect(0)
            }
        }

        /// Between the plan that is shown and the answer the cluster becomes another one.
        @Test func aPlanIsStaleIfTheClusterChangedBeforeItIsConfirmed() async throws {
            try await withMovingSlots { cluster in
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,3", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)
                let (answer, shown) = (cluster.directory + "/answer", cluster.directory + "/shown")
                let script =
                    "(until [ -e \"$0\" ]; do sleep 0.05; done; echo yes) "
                    + "| \"$1\" rebalance apply --connect \"$2\" >\"$3\""
                let child = try ChildProcess(
                    "/bin/sh", ["-c", script, answer, cluster.local.executable, cluster.local.addresses, shown])
                try await wait("a plan that is shown") {
                    let text = (try? String(contentsOfFile: shown, encoding: .utf8)) ?? ""
                    return text.contains("this is what will be done") && text.hasSuffix("\n") || !child.isRunning
                }
                try await cluster.bifrost("group", "stop", "4").expect(0)
                try Data().write(to: URL(fileURLWithPath: answer))
                await child.end(killAfter: .seconds(200)).expectLast(
                    7, saying: "the plan is stale", "nothing was begun")
                let none = try await cluster.bifrost("rebalance", "status")
                none.expect(0)
                #expect(none.text == "nothing was ever rebalanced here\n", "\(none.text)")
                try await cluster.bifrost("group", "start", "4").expect(0)
                try await cluster.bifrost("rebalance", "apply", "--yes", limit: .seconds(600)).expect(0)
            }
        }

        @Test func withoutTheFeatureLevelNothingIsBegun() async throws {
            try await withHosts(3) { cluster in
                try cluster.local.startAll(arguments: ["--feature-level", "\(FeatureLevel.gatherings)"])
                try await cluster.local.run(["init", "--hosts", cluster.local.addresses, "--groups", "4"])
                try await cluster.bifrost(
                    "group", "create", "--hosts", "1,2,3", "--timeout", "180s", limit: .seconds(200)
                ).expect(0)
                try await cluster.bifrost("rebalance", "apply", "--yes", limit: .seconds(200)).expectLast(
                    1, saying: "feature level")
                try await cluster.bifrost("rebalance", "status").expect(1, saying: "feature level")
                try await cluster.bifrost("rebalance", "apply", "--max-concurrent", "65").expect(
                    64, saying: "1 to 64 moves at a time")
                try await cluster.bifrost("rebalance", "apply", "--max-bytes-per-second", "fast").expect(
                    64, saying: "expected a number of bytes")
            }
        }
    }
}
