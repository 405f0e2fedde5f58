// What people do by mistake, and what they are told: wrong addresses and words, interruptions, closed descriptors.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct MistakeTests {
        private func shell(_ cluster: TestCluster, _ script: String) async throws -> ChildProcess.Result {
            try await ChildProcess("/bin/bash", ["-c", "bifrost='\(cluster.local.executable)'; \(script)"]).end(
                killAfter: .seconds(180))
        }

        @Test func aDashIsAValueBehindTwoDashesAndOtherwiseStandardInput() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let connect = "--connect \(cluster.hosts[0].address)"
                try await cluster.bifrost("put", "k", "--", "-", input: Array("input".utf8)).expect(0)
                #expect(try await cluster.bifrost("get", "k").text == "-")
                try await cluster.bifrost("put", "--", "-", "-", input: Array("input".utf8)).expect(0)
                #expect(try await cluster.bifrost("get", "-").text == "-")
                try await cluster.bifrost("put", "k", "-", "--", input: Array("input".utf8)).expect(0)
                #expect(try await cluster.bifrost("get", "k").text == "input")
                try await cluster.bifrost("put", "k", "-", input: []).expect(0)
                let empty = try await cluster.bifrost("get", "k")
                empty.expect(0)
                #expect(empty.output.isEmpty)
                let help = try await cluster.bifrost("put", "--help").text.replacing("\n", with: " ")
                #expect(help.contains("an empty input is the empty value"))

                try await shell(cluster, "$bifrost put \(connect) k - <&-").expect(
                    74, saying: "standard input is closed")
                try await shell(cluster, "$bifrost put \(connect) k v >&-").expect(
                    74, saying: "the value is written", "standard output")
                #expect(try await cluster.bifrost("get", "k").text == "v")
            }
        }

        @Test func addressesOfTwoClustersAreRefusedAndNothingIsWritten() async throws {
            try await withCluster(hosts: 1, groups: 1) { one in
                try await withCluster(hosts: 1, groups: 1) { other in
                    for hosts in [one.hosts + other.hosts, other.hosts + one.hosts] {
                        try await one.bifrost("put", "k", "v", at: hosts).expect(
                            64, saying: "expected addresses of one cluster",
                            "\(one.hosts[0].address) belongs to cluster",
                            "\(other.hosts[0].address) belongs to cluster")
                    }
                    try await one.bifrost("get", "k").expect(1)
                    try await other.bifrost("get", "k").expect(1)
                }
            }
        }

        @Test func ofTwoThatMakeAClusterOfTheSameHostsAtTheSameTimeOneDoesAndTheOtherHelps() async throws {
            for _ in 0..<6 {
                try await withHosts(3) { cluster in
                    try cluster.local.startAll()
                    // All are there: both find them free at the same moment.
                    let end = ContinuousClock.now + .seconds(180)
                    while !cluster.hosts.allSatisfy({ cluster.log($0).contains("listening ") }),
                        ContinuousClock.now < end
                    { await OwnExecutor.pause(milliseconds: 10) }
                    let addresses = cluster.hosts.map(\.address)
                    let inits = try [addresses, addresses.reversed()].map { list in
                        try ChildProcess(
                            cluster.local.executable,
                            ["init", "--hosts", list.joined(separator: ","), "--groups", "4", "--json"])
                    }
                    var made: Set<String> = []
                    for process in inits {
                        let result = await process.end(killAfter: .seconds(180))
                        result.expect(0)
                        made.insert(try #require(try result.json()["cluster"] as? String))
                    }
                    #expect(made.count == 1)
                    _ = try await cluster.waitForStatus(0)
                }
            }
        }

        @Test func aStrangerInThePlaceOfAHostIsNamedWithItsCluster() async throws {
            try await withCluster { cluster in
                try await withCluster(hosts: 1, groups: 1) { other in
                    let place = cluster.hosts[1]
                    let text = try await other.bifrost("status", "--json").json()["cluster"] as? String
                    let stranger = try #require(text)
                    let process = try cluster.replace(place, byHostOf: other)
                    let end = ContinuousClock.now + .seconds(180)
                    // Host 1 has the lower number and dials.
                    let words = "no connection with host 2: the host at \(place.address) belongs to cluster \(stranger)"
                    while !cluster.log(cluster.hosts[0]).contains(words), ContinuousClock.now < end {
                        await OwnExecutor.pause(milliseconds: 50)
                    }
                    #expect(cluster.log(cluster.hosts[0]).components(separatedBy: words).count == 2)
                    let missing =
                        "host 2 at \(place.address) is missing: the host at \(place.address) belongs to cluster "
                        + "\(stranger), expected "
                    try await wait("status says so") { try await cluster.bifrost("status").text.contains(missing) }
                    // Its address in the list, the map says which cluster is meant.
                    try await cluster.bifrost("put", "k", "v").expect(0)
                    // It was told where its own cluster looks for it.
                    process.send(SIGTERM)
                    let ending = await process.end(killAfter: .seconds(180))
                    #expect(ending.ending == .exit(0), "\(ending.errorText)")
                    #expect(
                        ending.errorText.contains(
                            "the cluster's map has host 1 at \(other.hosts[0].address), but it listens on "
                                + "\(place.address)"), "\(ending.errorText)")
                    // The others come again and again, and one line speaks for all.
                    let refusals = ending.errorText.split(separator: "\n").filter {
                        $0.contains("this host belongs to")
                    }
                    #expect(refusals.count == 1, "\(ending.errorText)")
                    #expect(!cluster.log(cluster.hosts[0]).contains("map has host"))
                }
            }
        }

        @Test func aHostThatRefusesConnectionsIsMissingAtOnce() async throws {
            try await withCluster { cluster in
                cluster.local.kill(cluster.hosts[2])
                // Who waited for them would be killed before.
                let status = try await cluster.bifrost("status", "--timeout", "10m", at: [cluster.hosts[0]])
                #expect(status.text.contains("\(cluster.hosts[2].address) is missing: connection refused"))
                try await cluster.bifrost("ring", "show", "--timeout", "10m").expect(0)
                cluster.local.kill(cluster.hosts[0])
                cluster.local.kill(cluster.hosts[1])
                try await cluster.bifrost("get", "--timeout", "10m", "k").expect(4, saying: "refused", "--connect")
                let down = try await cluster.bifrost("status", "--timeout", "10m")
                #expect(down.ending == .exit(4) && down.text.hasPrefix("unavailable\n"))

                // Hosts that are just starting are waited for; for a second, which is too short now and then.
                var ending = Ending.exit(4)
                for _ in 0..<20 where ending == .exit(4) {
                    for host in cluster.hosts { cluster.local.kill(host) }
                    let get = Task(executorPreference: OwnExecutor.current) { try await cluster.bifrost("get", "k") }
                    await OwnExecutor.pause(milliseconds: 100)
                    try cluster.local.startAll()
                    ending = try await get.value.ending
                }
                #expect(ending == .exit(1))
            }
        }

        @Test func anImportThatASignalEndsSaysHowFarItCame() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let lines = cluster.directory + "/lines"
                for (number, code) in [(SIGINT, 130 as Int32), (SIGTERM, 143)] {
                    // An answer comes a moment after its effect; later where the machine stands still.
                    var (result, acknowledged) = (nil as ChildProcess.Result?, 0)
                    for pause in [200, 2_000, 20_000] where acknowledged != 3 {
                        let ended = try await endImport(cluster, lines, number, after: pause)
                        acknowledged = try ended.json()["records"] as? Int ?? 0
                        result = ended
                    }
                    let ended = try #require(result)
                    ended.expect(
                        code, saying: "3 records acknowledged", "all lines up to 3 are written", "go on from line 4")
                    let object = try ended.json()
                    #expect(object["records"] as? Int == 3 && object["certainLine"] as? Int == 3, "\(ended.text)")
                    #expect(object["signal"] as? String == (number == SIGINT ? "SIGINT" : "SIGTERM"))
                }
            }
        }

        /// An import that waits for more, and gets a signal so long after its third record is there.
        private func endImport(
            _ cluster: TestCluster, _ lines: String, _ number: Int32, after milliseconds: Int
        ) async throws -> ChildProcess.Result {
            // A pipe that stays open: the import waits for more.
            let script = "exec > '\(lines)'; printf 'a\\t1\\nb\\t2\\nc\\t3\\n'; exec sleep 600"
            try? FileManager.default.removeItem(atPath: lines)
            #expect(mkfifo(lines, 0o600) == 0)
            let feeder = try ChildProcess("/bin/bash", ["-c", script])
            let load = try ChildProcess(
                cluster.local.executable,
                ["import", "--connect", cluster.hosts[0].address, "--no-progress", "--json", lines])
            let end = ContinuousClock.now + .seconds(180)
            while try await cluster.bifrost("get", "c").ending != .exit(0), ContinuousClock.now < end {
                await OwnExecutor.pause(milliseconds: 10)
            }
            await OwnExecutor.pause(milliseconds: milliseconds)
            load.send(number)
            let result = await load.end(killAfter: .seconds(180))
            feeder.send(SIGKILL)
            _ = await feeder.end(killAfter: .seconds(180))
            try await cluster.bifrost("delete", "c").expect(0)
            return result
        }

        @Test func whatIsWrongWithAFileIsAnObjectToo() async throws {
            try await withHosts(0) { place in
                let check = try await place.local.command(
                    ["import", "--check", "--json", "-"], input: Array("a\t1\nbad\nb\t2\n".utf8))
                #expect(check.ending == .exit(65))
                let object = try check.json()
                #expect(object["lines"] as? Int == 3 && object["malformed"] as? Int == 1)
                let first = try #require((object["first"] as? [[String: Any]])?.first)
                #expect(first["line"] as? Int == 2)
                #expect(first["problem"] as? String == "expected KEY, a tab, VALUE; found no tab")
                let good = try await place.local.command(
                    ["import", "--check", "--json", "-"], input: Array("a\t1\n".utf8))
                good.expect(0)
                #expect(try good.json()["malformed"] as? Int == 0)

                for file in ["/dev/null", "-"] {
                    try await place.local.command(["history", "check", "--json", file], input: []).expect(
                        65, saying: "nothing to check")
                }
            }
        }

        @Test func wordsThatAreMistypedAreNamedWithWhatWasMeant() async throws {
            try await withHosts(0) { place in
                func run(_ words: String...) async throws -> ChildProcess.Result {
                    try await place.local.command(words)
                }
                try await run("help", "nosuch").expect(
                    64, saying: "there is no command 'nosuch'", "serve, dev, init, put")
                try await run("help", "stats").expect(64, saying: "did you mean 'status'?")
                try await run("help", "ring", "shwo").expect(64, saying: "did you mean 'ring show'?")
                try await run("ring", "shwo").expect(64, saying: "there is no command 'ring shwo'")
                try await run("help", "ring", "show").expect(0)
                // A command that is to be run has a place of its own.
                for words in [
                    ["lock", "door", "true"], ["lock", "--wait", "5s", "door", "true"],
                    ["lock", "run", "door", "true"],
                    ["elect", "door", "make", "deploy"], ["members", "join", "w", "a", "true"],
                ] { try await place.local.command(words).expect(64, saying: "behind --", "NAME") }
                let unknown = try await run("chas")
                unknown.expect(64)
                #expect(!unknown.errorText.contains("chaos"))
                try await run("bench", "--seconds", "abc").expect(64, saying: "'abc'", "expected a number")
                try await run("serve", "--directory", "x", "--scrub-rate=-1").expect(64, saying: "0 to 65536 MiB")
                for words in [["--after", "-1"], ["--after=-1"]] {
                    try await place.local.command(["watch", "k"] + words).expect(
                        64, saying: "'-1' is invalid for '--after", "expected a whole number, 0 or above")
                }
                try await run("put", "k", "v", "--ttl", "-1s").expect(64, saying: "'-1s'", "a time above 0")
                try await run("scan", "{k}", "--limit", "-1").expect(64, saying: "at least 1, not -1")
                try await run("watch", "k", "--after", "--limit", "1").expect(64, saying: "Missing value for '--after")
                try await run("serve", "--directory", "x", "--loops=1.5").expect(64, saying: "expected a whole number")
                // What a number may be is said where one is no number that it can be.
                try await run("host", "weight", "1", "99999999999").expect(
                    64, saying: "'99999999999' is invalid for '<number>'",
                    "expected a whole number from 0 to 4,294,967,295")
                try await run("queue", "push", "q", "v", "--priority", "256").expect(
                    64, saying: "expected a whole number from 0 to 255.")
                try await run("group", "members", "99999999999").expect(
                    64, saying: "expected a whole number from 0 to 4,294,967,295, or meta")
                try await run("scan", "{k}", "--limit", "99999999999999999999").expect(
                    64, saying: "expected a whole number up to 9,223,372,036,854,775,807")

                let misspelt = try await ChildProcess(
                    place.local.executable, ["import", "--check", "-"], environment: ["BIFROST_CONECT": "127.0.0.1:1"]
                ).end(killAfter: .seconds(180))
                #expect(misspelt.ending == .exit(0))
                #expect(misspelt.errorText.contains("did you mean BIFROST_CONNECT?"), "\(misspelt.errorText)")
                #expect(misspelt.errorText.split(separator: "\n").count == 1)
            }
        }

        @Test func everyExampleStandsOnALineOfItsOwn() async throws {
            try await withHosts(0) { place in
                let commands = [
                    ["serve"], ["init"], ["put"], ["get"], ["delete"], ["import"], ["export"], ["status"],
                    ["ring", "show"], ["history", "check"], ["bench"], ["demo"], ["simulate"], ["chaos"],
                ]
                for command in commands {
                    let help = try await place.local.command(command + ["--help"])
                    help.expect(0)
                    let lines = help.text.split(separator: "\n", omittingEmptySubsequences: false)
                    let examples = lines.drop { !$0.hasPrefix("EXAMPLES") }.dropFirst().prefix { !$0.isEmpty }
                    #expect(!examples.isEmpty, "\(command)")
                    for line in examples {
                        #expect(line.hasPrefix("  ") && line.count <= 80, "\(command): \(line)")
                    }
                }
            }
        }

        @Test func aNewHostThatCannotListenLeavesNothingBehind() async throws {
            try await withHosts(1) { cluster in
                try cluster.start(cluster.hosts[0])
                let end = ContinuousClock.now + .seconds(180)
                while !cluster.log(cluster.hosts[0]).contains("listening "), ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 10)
                }
                let directory = cluster.directory + "/second"
                func serve(_ directory: String) async throws -> ChildProcess.Result {
                    try await cluster.local.command(
                        ["serve", "--directory", directory, "--listen", cluster.hosts[0].address], limit: .seconds(180))
                }
                try await serve(directory).expect(69, saying: cluster.hosts[0].address, "--listen")
                #expect(!FileManager.default.fileExists(atPath: directory))
                // What is wrong with the directory of a host that runs is said before its address is looked at.
                try await serve(cluster.hosts[0].directory).expect(73, saying: "process \(cluster.hosts[0].pid)")

                try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
                try Data("x".utf8).write(to: URL(fileURLWithPath: directory + "/notes.txt"))
                try await cluster.local.command(["serve", "--directory", directory, "--listen", "127.0.0.1:0"]).expect(
                    73, saying: "notes.txt", "\(directory)/bifrost")
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == ["notes.txt"])
            }
        }
    }
}
