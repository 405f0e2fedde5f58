// `bifrost lock NAME -- COMMAND` and its like: with real processes, and a holder that is stopped.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct LockCommandTests {
        private func run(_ cluster: TestCluster, _ words: String...) throws -> ChildProcess {
            try run(cluster, words)
        }

        private func run(_ cluster: TestCluster, _ words: [String]) throws -> ChildProcess {
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

        @Test func aCommandRunsUnderALockAndItsChangesAreGuarded() async throws {
            try await withCluster { cluster in
                // The command's exit code, its signals, and what is wrong with the line.
                let seven = try run(
                    cluster, "lock", "door", "--", "sh", "-c", "echo \"$BIFROST_LOCK_TOKEN $BIFROST_GUARD\"; exit 7")
                let ended = await seven.end(killAfter: .seconds(180))
                #expect(ended.ending == .exit(7))
                let words = ended.text.split(whereSeparator: \.isWhitespace)
                #expect(words.count == 2 && words[1] == "lock:\(words[0]):door")
                let killed = try await run(cluster, "lock", "door", "--", "sh", "-c", "kill -9 $$").end(
                    killAfter: .seconds(180))
                #expect(killed.ending == .exit(137))
                let nothing = try await run(cluster, "lock", "run", "door").end(killAfter: .seconds(180))
                nothing.expect(64, saying: "a command behind --")
                let unknown = try await run(cluster, "lock", "door", "--", "no-such-program").end(
                    killAfter: .seconds(180))
                unknown.expect(127, saying: "no-such-program")
                try await cluster.bifrost("lock", "show", "door").expect(1)
                try await cluster.bifrost("lock", "revoke", "door", "3").expect(1, saying: "nobody has it")
                try await cluster.bifrost("value", "set", "--guard", "lock:door", "v", "1").expect(
                    64, saying: "lock:17:NAME", "members:17:NAME")
                // What no token guards does not take one, and changes nothing.
                for words in [
                    ["host", "weight", "1", "7"], ["host", "drain", "1"], ["group", "create", "--hosts", "1"],
                    ["group", "delete", "1"], ["group", "stop", "1"], ["rebalance", "auto", "on"], ["get", "k"],
                    ["lock", "revoke", "door", "1"], ["members", "create", "w"],
                ] {
                    try await cluster.local.command(
                        words + ["--connect", cluster.local.addresses, "--guard", "lock:1:door"]
                    ).expect(64, saying: "Unknown option '--guard'")
                }
                let weights = try await cluster.bifrost("host", "list", "--json").json()["hosts"] as? [[String: Any]]
                #expect(weights?.compactMap { $0["weight"] as? Int } == [100, 100, 100])
                let help = try await cluster.bifrost("value", "set", "--help").text
                #expect(help.split(whereSeparator: \.isWhitespace).contains("members:EPOCH:NAME,"), "\(help)")

                // One at a time, in turn; and what a token guards.
                let first = try run(
                    cluster, "lock", "door", "--value", "first", "--", "sh", "-c",
                    "\"$BIFROST\" value set '{door}v' one && sleep 600")
                try await wait { try await cluster.bifrost("value", "get", "{door}v").text == "one" }
                let shown = try await cluster.bifrost("lock", "show", "door", "--json").json()
                let entry = try #require((shown["entries"] as? [[String: Any]])?.first)
                let token = try #require(entry["token"] as? Int)
                #expect(entry["epoch"] == nil)
                try await run(cluster, "lock", "door", "--no-wait", "--", "true").end(killAfter: .seconds(180))
                    .expect(1, saying: "nothing was run")
                try await cluster.bifrost("value", "set", "--guard", "lock:\(token - 1):door", "{door}v", "two")
                    .expect(75, saying: "lock door: its token is over (\(token - 1)); nothing was changed")
                try await cluster.bifrost("value", "set", "--guard", "lock:\(token):door", "{door}v", "three").expect(0)
                let watch = try run(cluster, "lock", "watch", "door", "--limit", "2", "--json")
                let second = try run(cluster, "lock", "door", "--", "echo", "second")
                try await wait { try await cluster.bifrost("lock", "waiting", "door").ending == .exit(0) }
                first.sendToAll(SIGTERM)
                #expect(await first.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))
                #expect(await second.end(killAfter: .seconds(180)).text == "second\n")
                let told = await watch.end(killAfter: .seconds(180)).text
                #expect(told.contains("\"present\"") || told.contains("\"put\""))
            }
        }

        @Test func aCommandThatIsStoppedLosesItsLock() async throws {
            try await withCluster { cluster in
                let file = cluster.directory + "/late"
                // The command goes on while the process that holds the lock for it stands still, past its time.
                let stopped = try run(
                    cluster, "lock", "run", "door", "--session-ttl", "10s", "--", "sh", "-c",
                    "\"$BIFROST\" value set '{door}v' early; \"$BIFROST\" value set elsewhere early; "
                        + "while [ ! -e '\(file)' ]; do sleep 0.1; done; "
                        + "\"$BIFROST\" value set '{door}v' late; echo $? > '\(file).beside'; "
                        + "\"$BIFROST\" value set elsewhere late; echo $? > '\(file).elsewhere'; sleep 600")
                try await wait { try await cluster.bifrost("value", "get", "elsewhere").text == "early" }
                stopped.send(SIGSTOP)
                let next = try run(
                    cluster, "lock", "door", "--", "sh", "-c",
                    "\"$BIFROST\" value set '{door}v' next && \"$BIFROST\" value set elsewhere next && sleep 600")
                try await wait { try await cluster.bifrost("value", "get", "elsewhere").text == "next" }
                try Data().write(to: URL(filePath: file))
                func code(_ place: String) -> String? {
                    try? String(contentsOfFile: "\(file).\(place)", encoding: .utf8)
                }
                try await wait { code("elsewhere")?.hasSuffix("\n") ?? false }
                #expect(code("beside") == "75\n" && code("elsewhere") == "75\n")
                #expect(try await cluster.bifrost("value", "get", "{door}v").text == "next")
                #expect(try await cluster.bifrost("value", "get", "elsewhere").text == "next")
                // It wakes up, ends its command, and says so.
                stopped.send(SIGCONT)
                let result = await stopped.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(75) && result.errorText.contains("lock:") == true)
                #expect(result.errorText.contains("was lost while 'sh' ran"))
                next.send(SIGTERM)
                #expect(await next.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))
            }
        }

        @Test func whatIgnoresTheEndOfItsCommandIsKilledAfterTheGrace() async throws {
            try await withCluster { cluster in
                // It has the output of 'bifrost lock', which is open as long as it lives.
                let held = try run(
                    cluster, "lock", "run", "door", "--grace", "500ms", "--", "bash", "-c",
                    "(trap '' TERM; \"$BIFROST\" value set ready yes; for ((n = 0; n < 3000; n++)); do sleep 0.1; done) & "
                        + "wait")
                try await wait { try await cluster.bifrost("value", "get", "ready").text == "yes" }
                let shown = try await cluster.bifrost("lock", "show", "door", "--json").json()
                let token = try #require(((shown["entries"] as? [[String: Any]])?.first)?["token"] as? Int)
                try await cluster.bifrost("lock", "revoke", "door", "\(token)").expect(0)
                try await wait { held.waitForEnd(secondsMax: 0) }
                await held.end().expect(75, saying: "was lost while 'bash' ran")
            }
        }

        @Test func whoIsEndedWhileHeWaitsLeavesNoPlace() async throws {
            try await withCluster { cluster in
                func waiters(_ kind: String) async throws -> Int? {
                    try await cluster.bifrost(kind, "show", "x", "--json").json()["waiters"] as? Int
                }
                for (kind, words) in [
                    ("lock", ["lock", "x"]), ("election", ["elect", "x"]),
                    ("semaphore", ["semaphore", "run", "x", "--permits", "1"]),
                    ("lease", ["lease", "run", "x", "--for", "1h"]),
                ] {
                    let holder = try run(cluster, words + ["--", "sleep", "600"])
                    try await wait { try await cluster.bifrost(kind, "show", "x").ending == .exit(0) }
                    for signal in [SIGTERM, SIGINT] {
                        let waiter = try run(cluster, words + ["--", "echo", "ran"])
                        try await wait { try await waiters(kind) == 1 }
                        waiter.send(signal)
                        let result = await waiter.end(killAfter: .seconds(180))
                        #expect(result.ending == .exit(128 + signal))
                        #expect(result.text.isEmpty && result.errorText.isEmpty, "\(result.errorText)")
                        #expect(try await waiters(kind) == 0)
                    }
                    holder.send(SIGTERM)
                    #expect(await holder.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))
                }
            }
        }

        @Test func whoIsEndedWhileHeWaitsDoesNotWaitForHosts() async throws {
            try await withCluster { cluster in
                let holder = try run(cluster, "lock", "x", "--", "sleep", "600")
                try await wait { try await cluster.bifrost("lock", "show", "x").ending == .exit(0) }
                let waiter = try run(cluster, "lock", "x", "--", "echo", "ran")
                try await wait { try await cluster.bifrost("lock", "waiting", "x").ending == .exit(0) }
                for host in cluster.hosts { host.process?.send(SIGSTOP) }
                waiter.send(SIGTERM)
                let result = await waiter.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(128 + SIGTERM) && result.errorText.isEmpty, "\(result.errorText)")
                for host in cluster.hosts { host.process?.send(SIGCONT) }
                holder.send(SIGTERM)
                #expect(await holder.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))
            }
        }

        @Test func electionsSemaphoresAndLeasesRunCommandsToo() async throws {
            try await withCluster { cluster in
                let leader = try run(cluster, "elect", "primary", "--value", "one", "--", "sleep", "600")
                try await wait { try await cluster.bifrost("election", "show", "primary").ending == .exit(0) }
                let standby = try run(cluster, "election", "run", "primary", "--value", "two", "--", "sleep", "600")
                try await wait { try await cluster.bifrost("election", "candidates", "primary").ending == .exit(0) }
                let shown = try await cluster.bifrost("election", "show", "primary", "--json").json()
                let entry = try #require((shown["entries"] as? [[String: Any]])?.first)
                let epoch = try #require(entry["epoch"] as? Int)
                #expect(entry["token"] as? Int == epoch)
                let observed = try await cluster.bifrost(
                    "election", "observe", "primary", "--after", "0", "--limit", "1", "--json"
                ).json()
                #expect(observed["epoch"] as? Int == epoch && observed["token"] as? Int == epoch, "\(observed)")
                // Deposed: its command is ended, and the next one leads.
                try await cluster.bifrost("election", "depose", "primary", "\(epoch)").expect(0)
                await leader.end(killAfter: .seconds(180)).expect(75, saying: "was lost")
                try await wait {
                    try await cluster.bifrost("election", "show", "primary").text.hasSuffix("two\n")
                }
                standby.send(SIGTERM)
                #expect(await standby.end(killAfter: .seconds(180)).ending == .exit(128 + SIGTERM))

                let builds = try await run(
                    cluster, "semaphore", "run", "builders", "--permits", "4", "--count", "3", "--",
                    "sh", "-c", "\"$BIFROST\" semaphore show builders --json"
                ).end(killAfter: .seconds(180))
                builds.expect(0)
                #expect(try builds.json()["out"] as? Int == 3 && (try builds.json()["limit"] as? Int) == 4)
                try await cluster.bifrost("semaphore", "set", "builders", "2").expect(0)
                try await run(cluster, "semaphore", "run", "builders", "--count", "3", "--", "true").end(
                    killAfter: .seconds(180)
                ).expect(64, saying: "1 to 2")
                // Renewed: it outlives its time, unless the machine stands still for longer.
                var ending = Ending.exit(75)
                for _ in 0..<5 where ending == .exit(75) {
                    ending = try await run(
                        cluster, "lease", "run", "disk", "--for", "3s", "--", "sh", "-c",
                        "sleep 7; \"$BIFROST\" lease show disk"
                    ).end(killAfter: .seconds(180)).ending
                }
                #expect(ending == .exit(0))
                try await cluster.bifrost("lease", "show", "disk").expect(1)
            }
        }
    }
}
