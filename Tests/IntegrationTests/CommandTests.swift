// What people and scripts do with a cluster on the command line.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct CommandTests {
        @Test func aValueThatOneHostTookIsReadAtTheOthersUntilItIsDeleted() async throws {
            try await withCluster { cluster in
                let put = try await cluster.bifrost("put", "greeting", "hello", at: [cluster.hosts[0]])
                put.expect(0)
                #expect(put.text == "revision 1\n")
                for host in cluster.hosts {
                    let get = try await cluster.bifrost("get", "greeting", at: [host])
                    get.expect(0)
                    #expect(get.text == "hello")
                }
                try await cluster.bifrost("put", "greeting", "hello again", at: [cluster.hosts[1]]).expect(0)
                #expect(try await cluster.bifrost("get", "greeting", at: [cluster.hosts[2]]).text == "hello again")

                let delete = try await cluster.bifrost("delete", "greeting", at: [cluster.hosts[2]])
                delete.expect(0)
                #expect(delete.text == "revision 3\n")
                for host in cluster.hosts {
                    let get = try await cluster.bifrost("get", "greeting", at: [host])
                    get.expect(1, saying: "'greeting' has no value")
                    #expect(get.output.isEmpty)
                }
                // Deleting what is not there is no failure.
                try await cluster.bifrost("delete", "greeting").expect(0)
                try await everyResultIsOneObject(cluster)
            }
        }

        @Test func aNewClusterHasTheLevelThatItsHostsKnow() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let save = try await cluster.bifrost("snapshot", "save", cluster.directory + "/save", "--json")
                save.expect(0)
                #expect(try save.json()["featureLevel"] as? Int == Int(FeatureLevel.current))
            }
        }

        @Test func conditionsAndTransactionsTakeEffectOrSayWhyNot() async throws {
            try await withCluster { cluster in
                let first = try await cluster.bifrost("put", "--if-absent", "{l}a", "100", "--json")
                first.expect(0)
                let revision = try #require(try first.json()["revision"] as? Int)
                let twice = try await cluster.bifrost("put", "--if-absent", "{l}a", "1")
                twice.expect(1, saying: "it got its value at revision \(revision); nothing was changed")
                #expect(twice.output.isEmpty)
                try await cluster.bifrost("put", "--if-revision", "\(revision)", "{l}a", "90").expect(0)
                try await cluster.bifrost("put", "--if-revision", "\(revision)", "{l}a", "80").expect(1)
                try await cluster.bifrost("delete", "--if-value", "100", "{l}a").expect(1)
                try await cluster.bifrost("put", "--if-present", "{l}b", "1").expect(1, saying: "it has no value")
                try await cluster.bifrost("put", "--if-absent", "--if-present", "x", "1").expect(64, saying: "one of")
                #expect(try await cluster.bifrost("get", "{l}a").text == "90")

                let transfer = """
                    {"if": [{"key": "{l}a", "test": "value", "value": "90"}, {"key": "{l}b", "test": "absent"}],
                     "then": [{"op": "put", "key": "{l}a", "value": "80"}, {"op": "put", "key": "{l}b", "value": "10"}],
                     "else": [{"op": "get", "key": "{l}a"}, {"op": "get", "key": "{l}c"}]}
                    """
                let done = try await cluster.bifrost("txn", "-", "--json", input: Array(transfer.utf8))
                done.expect(0)
                #expect(try done.json()["held"] as? Bool == true)
                let again = try await cluster.bifrost("txn", "-", "--json", input: Array(transfer.utf8))
                again.expect(1, saying: "a condition does not hold")
                let readings = try #require(try again.json()["readings"] as? [[String: Any]])
                #expect(readings.map { $0["found"] as? Bool } == [true, false])
                #expect(readings[0]["value"] as? String == "80")
                #expect(readings[0]["revision"] as? Int == (try done.json()["revision"] as? Int))
                let text = try await cluster.bifrost("txn", "-", input: Array(transfer.utf8))
                text.expect(1, saying: "a condition does not hold")
                #expect(text.text.contains("{l}a = 80, revision ") && text.text.contains("{l}c has no value"))
                for host in cluster.hosts {
                    #expect(try await cluster.bifrost("get", "{l}b", at: [host]).text == "10")
                }

                for (input, message) in [
                    ("nonsense", "this is no JSON"), ("[]", "expected a JSON object"), ("{}", "names no key"),
                    (#"{"then": [{"op": "get", "key": "a"}, {"op": "get", "key": "b"}]}"#, "in braces"),
                    (#"{"fi": []}"#, #"found "fi""#), (#"{"if": [{"key": "a", "tset": "absent"}]}"#, #"found "tset""#),
                    (#"{"if": [{"key": "a", "test": "older"}]}"#, #"found "older""#),
                    (#"{"if": [{"key": "a", "test": "value", "revision": 1}]}"#, #"goes with "value""#),
                    (#"{"if": [{"key": "a", "test": "revision"}]}"#, #"goes with "revision""#),
                    (#"{"then": [{"op": "put", "key": "a"}]}"#, #""value" is missing"#),
                    (#"{"then": [{"op": "put", "key": 1, "value": ""}]}"#, #""then", 1, "key""#),
                    (#"{"then": [{"op": "get"}]}"#, #""key" is missing"#),
                    (#"{"then": [{"op": "get", "keyBase64": "?"}]}"#, "no base 64"),
                    (#"{"then": [{"op": "put", "key": "a", "value": "", "ttl": "soon"}]}"#, #"found "soon""#),
                    (#"{"then": [{"op": "put", "key": "a", "value": "", "ttl": "25h"}]}"#, "at most 24h"),
                    (#"{"else": [{"op": "get", "key": "a", "ttl": "1s"}]}"#, #""else", 1: "ttl" goes with put"#),
                    (#"{"then": [{"op": "put", "key": "a", "value": "", "ttl": 90}]}"#, #""then", 1, "ttl""#),
                ] {
                    try await cluster.bifrost("txn", "-", input: Array(input.utf8)).expect(65, saying: message)
                }
            }
        }

        @Test func whatATransactionPutsForATimeIsGoneBehindIt() async throws {
            try await withCluster { cluster in
                let puts = """
                    {"then": [{"op": "put", "key": "{l}short", "value": "1", "ttl": "300ms"},
                              {"op": "put", "key": "{l}long", "value": "2", "ttl": "1h"},
                              {"op": "put", "key": "{l}stays", "value": "3"}]}
                    """
                let done = try await cluster.bifrost("txn", "-", "--json", input: Array(puts.utf8))
                done.expect(0)
                let revision = try #require(try done.json()["revision"] as? Int)
                let words = ["--after", "\(revision - 1)", "--limit", "4", "--prefix", "{l}"]
                let watched = try await cluster.local.command(
                    ["watch", "--connect", cluster.local.addresses] + words, limit: .seconds(180))
                watched.expect(0)
                let last = watched.text.split(separator: "\n").last ?? ""
                #expect(last.contains("expired") && last.contains("{l}short"), "\(watched.text)")
                try await cluster.bifrost("get", "{l}short").expect(1)
                #expect(try await cluster.bifrost("get", "{l}long").text == "2")
                #expect(try await cluster.bifrost("get", "{l}stays").text == "3")
            }
        }

        @Test func scansShowATagInOrder() async throws {
            try await withCluster { cluster in
                let records = (0..<30).map { "{l}/\($0 + 10)\tv\($0)" }
                let lines = records.joined(separator: "\n") + "\n{l}0\tno\nother\tno\n"
                try await cluster.bifrost("import", "-", input: Array(lines.utf8)).expect(0)
                let all = try await cluster.bifrost("scan", "{l}/")
                all.expect(0)
                #expect(all.text == records.joined(separator: "\n") + "\n")
                let keys = try await cluster.bifrost("scan", "--keys", "--limit", "3", "--from", "{l}/20", "{l}/")
                #expect(keys.text == "{l}/20\n{l}/21\n{l}/22\n")
                let json = try await cluster.bifrost("scan", "--json", "--before", "{l}/12", "{l}/")
                json.expect(0)
                let first = try #require(json.text.split(separator: "\n").first)
                #expect(first.hasPrefix(#"{"key":"{l}/10","revision":"#) && first.hasSuffix(#","value":"v0"}"#))
                try await cluster.bifrost("scan", "{nobody}").expect(1, saying: "no key begins with")
                try await cluster.bifrost("scan", "other").expect(64, saying: "a whole tag")
                try await cluster.bifrost("scan", "--limit", "0", "{l}/").expect(64, saying: "at least 1")
                try await cluster.bifrost("scan", "--max-age", "1s", "{l}/").expect(64, saying: "--max-age goes with")
            }
        }

        @Test func aClusterToProgramAgainstKeepsItsData() async throws {
            try await withHosts(0) { place in
                let port = try LocalCluster.freePorts(1)[0]
                let directory = place.directory + "/dev"
                let words = ["--hosts", "1", "--port", "\(port)", "--directory", directory]
                for (round, groups) in [["--groups", "2"], []].enumerated() {
                    let output = place.directory + "/dev-\(round).out"
                    let dev = try ChildProcess(
                        place.local.executable, ["dev"] + words + groups, output: .file(output))
                    let end = ContinuousClock.now + .seconds(180)
                    while ContinuousClock.now < end,
                        (try? String(contentsOfFile: output, encoding: .utf8))?.isEmpty ?? true
                    {
                        await OwnExecutor.pause(milliseconds: 20)
                    }
                    let said = try String(contentsOfFile: output, encoding: .utf8)
                    #expect(said == "serving 127.0.0.1:\(port) directory \(directory)\n")
                    func run(_ words: String...) async throws -> ChildProcess.Result {
                        try await place.local.command(words + ["--connect", "127.0.0.1:\(port)"])
                    }
                    if round == 0 { try await run("put", "k", "v").expect(0) }
                    #expect(try await run("get", "k").text == "v")
                    dev.send(SIGINT)
                    #expect(dev.waitForEnd(secondsMax: 180) && dev.ending == .exit(0))
                }
            }
        }

        @Test func aClusterToProgramAgainstGoesOnWithoutAHostThatEnds() async throws {
            try await withHosts(0) { place in
                // Three in a row.
                var port = try LocalCluster.freePorts(1)[0]
                while !(port..<port + 3).allSatisfy({ LocalCluster.isFree($0) }) {
                    port = try LocalCluster.freePorts(1)[0]
                }
                let (output, errors) = (place.directory + "/dev.out", place.directory + "/dev.errors")
                let dev = try ChildProcess(
                    place.local.executable,
                    ["dev", "--port", "\(port)", "--directory", place.directory + "/dev", "--groups", "2", "--json"],
                    output: .file(output), errors: .file(errors))
                defer { dev.send(SIGKILL) }
                func lines() throws -> [[String: Any]] {
                    let text = (try? String(contentsOfFile: output, encoding: .utf8)) ?? ""
                    return try text.split(separator: "\n").map {
                        try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
                    }
                }
                func wait(for count: Int) async throws -> [[String: Any]] {
                    let end = ContinuousClock.now + .seconds(180)
                    while try lines().count < count, ContinuousClock.now < end {
                        await OwnExecutor.pause(milliseconds: 20)
                    }
                    let lines = try lines()
                    try #require(lines.count == count, "\(lines)")
                    return lines
                }
                let pids = try #require(try await wait(for: 1)[0]["pids"] as? [Int])
                kill(Int32(pids[1]), SIGKILL)
                let end = try await wait(for: 2)[1]
                #expect(end["event"] as? String == "ended" && end["host"] as? Int == 2, "\(end)")
                #expect(end["signal"] as? Int == 9 && end["running"] as? Int == 2 && end["code"] == nil, "\(end)")
                // Two of three serve.
                let connect = ["--connect", "127.0.0.1:\(port)", "--timeout", "170s"]
                try await place.local.command(["put", "k", "v"] + connect).expect(0)
                #expect(try await place.local.command(["get", "k"] + connect).text == "v")
                #expect(dev.isRunning)
                for pid in [pids[0], pids[2]] { kill(Int32(pid), SIGKILL) }
                #expect(dev.waitForEnd(secondsMax: 180) && dev.ending == .exit(4))
                // Behind the lines, why it ended.
                let last = try await wait(for: 5)[4]
                let error = try #require(last["error"] as? [String: Any], "\(last)")
                #expect(error["code"] as? Int == 4 && (error["message"] as? String)?.contains("all hosts") == true)
                let said = try String(contentsOfFile: errors, encoding: .utf8)
                #expect(said.contains("host 2 at 127.0.0.1:\(port + 1) ended with signal 9; its log is "), "\(said)")
                #expect(said.contains("; 2 hosts go on\n") && said.contains("bifrost: all hosts have ended"), "\(said)")
            }
        }

        /// The only test of the ports that commands know by themselves.
        @Test(.enabled(if: (7_001...7_003).allSatisfy { LocalCluster.isFree($0) }))
        func threeHostsToProgramAgainstAreFoundWithoutBeingNamed() async throws {
            try await withHosts(0) { place in
                let directory = place.directory + "/dev"
                let output = place.directory + "/dev.out"
                let dev = try ChildProcess(
                    place.local.executable, ["dev", "--directory", directory, "--groups", "4", "--json"],
                    output: .file(output))
                defer { dev.send(SIGKILL) }
                let end = ContinuousClock.now + .seconds(180)
                func said() -> String { (try? String(contentsOfFile: output, encoding: .utf8)) ?? "" }
                while ContinuousClock.now < end, dev.isRunning, !said().hasSuffix("\n") {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                let announced = try JSONSerialization.jsonObject(with: Data(said().utf8)) as? [String: Any]
                #expect(announced?["addresses"] as? [String] == (7_001...7_003).map { "127.0.0.1:\($0)" })
                #expect(Set(announced?["pids"] as? [Int] ?? []).count == 3)
                try await place.local.command(["put", "k", "v"]).expect(0)
                #expect(try await place.local.command(["get", "k"]).text == "v")
                let status = try await place.local.command(["status", "--json"]).json()
                #expect((status["hosts"] as? [Any])?.count == 3 && status["groups"] as? Int == 4)
                dev.send(SIGINT)
                #expect(dev.waitForEnd(secondsMax: 180) && dev.ending == .exit(0))
                // Its hosts end with it.
                try await place.local.command(["get", "k"]).expect(4)
            }
        }

        @Test func statusThatIsWatchedIsSaidAgainAndAgain() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let watched = try Following(cluster, "status", "--watch", "--interval", "50ms", "--json")
                let end = ContinuousClock.now + .seconds(180)
                func lines() -> [Substring] { watched.text.split(separator: "\n") }
                try await watched.wait(for: "\n")
                cluster.local.kill(cluster.hosts[0])
                // It goes on where the cluster can't be asked, and where it can again.
                while ContinuousClock.now < end, watched.isRunning, lines().last?.contains(#""unavailable""#) == false {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                try cluster.start(cluster.hosts[0])
                let count = lines().count
                while ContinuousClock.now < end, watched.isRunning,
                    lines().dropFirst(count).contains(where: { $0.contains(#""healthy""#) }) == false
                {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                await watched.stop()
                let said = try watched.text.split(separator: "\n").map {
                    try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
                }.map { $0?["status"] as? String }
                let gone = try #require(said.firstIndex(of: "unavailable"), "\(said)")
                #expect(said.lastIndex(of: "healthy") ?? 0 > gone, "\(said)")
            }
        }

        @Test func theRingIsDrawnIntoAFile() async throws {
            try await withCluster(hosts: 1, groups: 3) { cluster in
                let file = cluster.directory + "/ring.svg"
                let shown = try await cluster.bifrost("ring", "show", "--svg", file)
                shown.expect(0)
                #expect(shown.text.contains("GROUP  SLOTS"))
                let svg = try String(contentsOfFile: file, encoding: .utf8)
                #expect(svg.hasPrefix("<svg ") && svg.hasSuffix("</svg>\n"), "\(svg.prefix(200))")
                #expect((1...3).allSatisfy { svg.contains("group \($0)") })
                // On standard output alone, and the same.
                #expect(try await cluster.bifrost("ring", "show", "--svg", "-").text == svg)
                try await cluster.bifrost("ring", "show", "--svg", cluster.directory + "/none/ring.svg").expect(74)
                try await cluster.bifrost("ring", "show", "--svg", "-", "--json").expect(64)
            }
        }

        private func everyResultIsOneObject(_ cluster: TestCluster) async throws {
            let put = try await cluster.bifrost("put", "--json", "a", "1").json()
            #expect(put["key"] as? String == "a" && put["revision"] is Int && put["group"] is Int)
            let get = try await cluster.bifrost("get", "--json", "a").json()
            #expect(get["value"] as? String == "1" && get["revision"] as? Int == put["revision"] as? Int)
            let binary = try await cluster.bifrost("put", "--json", "b", "-", input: [0xff, 0xfe])
            binary.expect(0)
            #expect(try await cluster.bifrost("get", "--json", "b").json()["valueBase64"] as? String == "//4=")
            #expect(try await cluster.bifrost("delete", "--json", "b").json()["revision"] is Int)
            let status = try await cluster.bifrost("status", "--json").json()
            #expect(status["status"] as? String == "healthy" && (status["hosts"] as? [Any])?.count == 3)
            let ring = try await cluster.bifrost("ring", "show", "--json").json()
            let groups = try #require(ring["groups"] as? [[String: Any]])
            #expect(groups.count == 5)
            #expect(groups.compactMap { $0["slots"] as? Int }.reduce(0, +) == 16_384)
            #expect(groups.allSatisfy { $0["leader"] is Int && $0["leaderHost"] as? Int == $0["leader"] as? Int })
            // Each replica's id is one group's, so that of the leader tells the two apart.
            for group in groups {
                let replicas = try #require(group["replicas"] as? [[String: Any]])
                let leads = replicas.filter { $0["replica"] as? Int == group["leaderReplica"] as? Int }
                #expect(leads.compactMap { $0["host"] as? Int } == [group["leaderHost"] as? Int ?? 0], "\(group)")
            }
            let imported = try await cluster.bifrost("import", "--json", "-", input: Array("x\ty\n".utf8)).json()
            #expect(imported["records"] as? Int == 1)
            let file = cluster.directory + "/all.tsv"
            let exported = try await cluster.bifrost("export", "--json", file).json()
            #expect(exported["records"] as? Int == 2)
            let again = try await cluster.local.command(["init", "--hosts", cluster.local.addresses, "--groups", "5"])
            again.expect(64, saying: "with 4 groups")
            let same = try await cluster.local.command([
                "init", "--hosts", cluster.local.addresses, "--groups", "4", "--json",
            ])
            #expect(try same.json()["hostsThatWereMembers"] as? Int == 3)
        }

        @Test func anyBytesPassThroughPipesAndComeBackFromAnExport() async throws {
            try await withCluster(hosts: 1) { cluster in
                let all = (0...255).map { UInt8($0) }
                let values: [(String, [UInt8])] = [
                    ("all", all + all.reversed()), ("empty", []), ("line", Array("one\n".utf8)),
                    ("tabs", Array("a\tb\\t\r\n\0c".utf8)), ("large", [UInt8](repeating: 10, count: 1 << 20)),
                    ("k\tey\n", Array("odd key".utf8)),
                ]
                for (key, value) in values {
                    try await cluster.bifrost("put", key, "-", input: value).expect(0)
                    let get = try await cluster.bifrost("get", key)
                    get.expect(0)
                    #expect(get.output == value, "\(key)")
                }
                let export = try await cluster.bifrost("export", "--sorted", "-")
                export.expect(0)
                #expect(export.text.split(separator: "\n").count == values.count)
                #expect(export.text.contains("tabs\ta\\tb\\\\t\\r\\n\\0c\n"))

                for (key, _) in values { try await cluster.bifrost("delete", key).expect(0) }
                #expect(try await cluster.bifrost("export", "-").output.isEmpty)

                let imported = try await cluster.bifrost("import", "-", input: export.output)
                imported.expect(0)
                #expect(imported.text.hasPrefix("imported \(values.count) records"))
                #expect(try await cluster.bifrost("export", "--sorted", "-").output == export.output)
                for (key, value) in values { #expect(try await cluster.bifrost("get", key).output == value, "\(key)") }

                // A reader that goes away ends the export as SIGPIPE would.
                let shell = try ChildProcess(
                    "/bin/bash",
                    [
                        "-c",
                        "'\(cluster.local.executable)' export --connect \(cluster.hosts[0].address) - | true; exit ${PIPESTATUS[0]}",
                    ])
                #expect(await shell.end(killAfter: .seconds(180)).ending == .exit(141))
            }
        }

        @Test func statusIsHealthyThenDegradedAfterAKillAndHealthyAfterARestart() async throws {
            try await withCluster { cluster in
                let before = try await cluster.waitForStatus(0)
                #expect(before.text.hasPrefix("healthy\n"))

                cluster.local.kill(cluster.hosts[2])
                let degraded = try await cluster.waitForStatus(3)
                #expect(degraded.text.hasPrefix("degraded\n"))
                #expect(degraded.text.contains("host 3 at \(cluster.hosts[2].address)"), "\(degraded.text)")
                let json = try await cluster.bifrost("status", "--json", "--timeout", "1s")
                #expect(json.ending == .exit(3))
                #expect(try json.json()["status"] as? String == "degraded")
                // Two of three go on.
                try await cluster.bifrost("put", "k", "v").expect(0)

                try cluster.start(cluster.hosts[2])
                #expect(try await cluster.waitForStatus(0).text.hasPrefix("healthy\n"))
                #expect(try await cluster.bifrost("get", "k", at: [cluster.hosts[2]]).text == "v")
            }
        }

        @Test func aBenchmarkGoesOnUntilEachReplicaHasCheckpointedAndReadsBackWhatItWrote() async throws {
            let place = "/var/tmp/bifrost-test-bench-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36)
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: place) }
            let bench = try await ChildProcess(
                Executable.path(),
                [
                    "bench", "--local", "3", "--groups", "2", "--keys", "1000", "--payload", "4096", "--window", "64",
                    "--seconds", "0.5", "--reads", "20", "--directory", place, "--json",
                ]
            ).end(killAfter: .seconds(180))
            bench.expect(0)
            let report = try bench.json()
            func number(_ name: String) throws -> Double { try #require(report[name] as? NSNumber).doubleValue }
            #expect(try number("operationsPerSecond") > 0)
            #expect(try 0 < number("p50Micros") && number("p50Micros") <= number("p99Micros"))
            #expect(try number("p99Micros") <= number("p999Micros"))
            #expect(try number("cpuMicrosPerOperation") > 0)
            #expect(try number("errors") == 0)
            #expect(try number("verified") == 10_000)
            #expect(try number("checkpointsPerReplica") >= 3)
            let groups = try #require(report["groups"] as? [[String: Any]])
            #expect(groups.compactMap { $0["group"] as? Int } == [1, 2])
            for group in groups {
                #expect((1...3).contains(try #require(group["leader"] as? Int)))
                #expect(try #require(group["operationsPerSecond"] as? NSNumber).doubleValue > 0)
            }
            let rates = groups.compactMap { ($0["operationsPerSecond"] as? NSNumber)?.doubleValue }
            #expect(try abs(rates.reduce(0, +) - number("operationsPerSecond")) < 1)
            let machine = try #require(report["machine"] as? [String: Any])
            for name in ["kernel", "filesystem", "commit"] { #expect(machine[name] as? String != nil, "\(name)") }
            #expect(machine["cores"] as? Int ?? 0 > 0)
            #expect(machine["fdatasyncP50Micros"] as? Int ?? 0 > 0)
            // Hosts and data are gone.
            #expect(try FileManager.default.contentsOfDirectory(atPath: place).isEmpty)
        }

        @Test func measurementsRunOnHostsOfTheirOwnAndLeaveNothingBehind() async throws {
            let place = "/var/tmp/bifrost-test-measure-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36)
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: place) }
            func measure(_ words: String...) async throws -> [String: Any] { try await measure(words) }
            func measure(_ words: [String]) async throws -> [String: Any] {
                let result = try await ChildProcess(
                    Executable.path(), ["measure"] + words + ["--groups", "6", "--directory", place, "--json"]
                ).end(killAfter: .seconds(180))
                result.expect(0)
                #expect(try FileManager.default.contentsOfDirectory(atPath: place).isEmpty)
                return try result.json()
            }
            func number(_ value: Any?) throws -> Double { try #require(value as? NSNumber).doubleValue }
            /// Again, a few times at most, where the machine stood still meanwhile.
            func measure(
                _ words: [String], until isSound: ([String: Any]) throws -> Bool
            ) async throws -> [String: Any] {
                var report = try await measure(words)
                for _ in 0..<4 where try !isSound(report) { report = try await measure(words) }
                return report
            }

            let failover = try await measure("failover", "--kills", "1", "--quiet", "1")
            let kills = try #require(failover["kills"] as? [[String: Any]])
            let led = try number(kills.first?["groupsLed"])
            let firstWrite = try #require(failover["firstWrite"] as? [String: Any])
            #expect(try led >= 2 && number(firstWrite["count"]) == led && number(failover["unanswered"]) == 0)
            // No election begins before a promise of 450 ms has ended.
            #expect(try number(firstWrite["leastMillis"]) > 400)

            // Sessions are lost where nothing moves for longer than they live.
            let sessions = try await measure(["sessions", "--sessions", "300", "--ttl", "3", "--seconds", "2"]) {
                try number($0["lost"]) + number($0["failed"]) == 0
            }
            #expect(try number(sessions["keepAlives"]) >= 300 && number(sessions["lost"]) == 0)
            #expect(try number(sessions["failed"]) == 0)

            let idle = try await measure("idle", "--seconds", "1", "--settle", "1", "--writes", "3")
            let hosts = try #require(idle["hosts"] as? [[String: Any]])
            #expect(hosts.count == 3)
            for host in hosts {
                #expect(try number(host["residentBytes"]) >= number(host["emptyBytes"]))
                #expect(try number(host["cpuPercent"]) < 100 && number(host["descriptors"]) > 5)
            }
            #expect(try number((idle["writesAfterwards"] as? [String: Any])?["count"]) == 3)

            let restart = try await measure("restart", "--rounds", "1", "--megabytes", "1")
            let rounds = try #require(restart["rounds"] as? [[String: Any]])
            #expect(try number(rounds.first?["journalBytes"]) > 1_000_000)
            #expect(try number(rounds.first?["answeredMillis"]) < number(rounds.first?["servedMillis"]))

            let queries = try await measure(["queries", "--threads", "2,1", "--rounds", "1", "--seconds", "0.5"]) {
                let (computing, rows) = (try number($0["computingMicros"]), $0["rows"] as? [[String: Any]] ?? [])
                return try rows.compactMap { ($0["runs"] as? [[String: Any]])?.first }.allSatisfy {
                    let both = $0["both"] as? [String: Any]
                    return try number(both?["queriesPerSecond"]) > 0 && number(both?["commandsPerSecond"]) > 0
                        && number($0["cpuMicrosPerQuery"]) > computing / 2
                }
            }
            let rows = try #require(queries["rows"] as? [[String: Any]])
            #expect(rows.map { $0["queryThreads"] as? Int } == [2, 1])
            for row in rows {
                let run = try #require((row["runs"] as? [[String: Any]])?.first)
                func rate(_ load: String, _ what: String) throws -> Double {
                    try number((run[load] as? [String: Any])?[what + "PerSecond"])
                }
                #expect(try rate("queries", "queries") > 0 && rate("queries", "commands") == 0)
                #expect(try rate("commands", "queries") == 0 && rate("commands", "commands") > 0)
                #expect(try rate("both", "queries") > 0 && rate("both", "commands") > 0)
                #expect(try number(run["cpuMicrosPerQuery"]) > number(queries["computingMicros"]) / 2)
            }

            // Each key has as many watchers as another; each watcher is told each put.
            for shape in [["--keys", "7"], ["--keys", "1", "--prefixes"]] {
                let watches = try await measure(
                    [
                        "watches", "--watchers", "70", "--rate", "50", "--seconds", "1", "--quiet", "0.2", "--rounds",
                        "2",
                    ]
                        + shape)
                let runs = try #require(watches["runs"] as? [[String: Any]])
                #expect(runs.count == 2)
                for run in runs {
                    #expect(try number(run["told"]) == 50 * 70 / number(watches["keys"]))
                    let told = try #require(run["fromSent"] as? [String: Any])
                    #expect(try number(told["p50Millis"]) > 0 && number(told["p50Millis"]) <= number(told["maxMillis"]))
                    #expect(try number(run["hostBytesBefore"]) > 1_000_000)
                    #expect(try number(run["clientThreads"]) < 64 && number(run["clientDescriptors"]) < 128)
                }
            }
            // A group keeps some 25 of these changes: who reads nothing while there are 40 is told that it came too late.
            let slow = try await measure(
                [
                    "watches", "--watchers", "20", "--keys", "1", "--rate", "10", "--seconds", "5", "--quiet", "0",
                    "--payload", "80000", "--slow", "10%", "--pause", "4",
                ]
            ) {
                let run = try #require(($0["runs"] as? [[String: Any]])?.first)
                let slowOnes = run["slow"] as? [String: Any]
                return try number(run["told"]) == 18 * 50 && number(slowOnes?["compacted"]) > 0
            }
            let run = try #require((slow["runs"] as? [[String: Any]])?.first)
            let slowOnes = try #require(run["slow"] as? [String: Any])
            #expect(try number(slow["slowWatchers"]) == 2 && number(run["told"]) == 18 * 50)
            #expect(try number(slowOnes["compacted"]) > 0 && number(slowOnes["passedOver"]) > 0)
        }

        @Test(arguments: ["map", "set", "array", "queue"])
        func collectionsAreFilledUsedMovedAndCleared(type: String) async throws {
            let place = "/var/tmp/bifrost-test-collections-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36)
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: place) }
            let result = try await ChildProcess(
                Executable.path(),
                [
                    "measure", "collections", "--type", type, "--elements", "2000", "--calls", "20", "--groups", "2",
                    "--directory", place, "--json",
                ]
            ).end(killAfter: .seconds(240))
            result.expect(0)
            #expect(try FileManager.default.contentsOfDirectory(atPath: place).isEmpty)
            let report = try result.json()
            func number(_ value: Any?) throws -> Double { try #require(value as? NSNumber).doubleValue }
            let sizes = try #require(report["sizes"] as? [[String: Any]])
            #expect(try sizes.map { try number($0["elements"]) } == [1_000, 2_000])
            for size in sizes {
                let operations = try #require(size["operations"] as? [[String: Any]])
                #expect(operations.count >= 5)
                for operation in operations {
                    #expect(try number(operation["calls"]) >= 20)
                    #expect(try 0 < number(operation["p50Micros"]))
                    #expect(try number(operation["p50Micros"]) <= number(operation["p99Micros"]))
                }
            }
            let load = try #require(report["load"] as? [String: Any])
            #expect(try number(load["elementsPerSecond"]) > 0 && number(load["cpuMicrosPerElement"]) > 0)
            let replicas = try #require(report["replicas"] as? [[String: Any]])
            #expect(replicas.count == 3)
            #expect(try replicas.count { try #require($0["isLeader"] as? Bool) } == 1)
            let transfer = try #require(report["transfer"] as? [String: Any])
            #expect(try number((transfer["readsAfterwards"] as? [String: Any])?["calls"]) == 20)
            let clear = try #require(report["clear"] as? [String: Any])
            #expect(try number(clear["recordsLeft"]) <= 1)
            // Some hundred records to an entry.
            #expect(try number(clear["sweptEntries"]) >= 2)
            // Each of the elements was listed.
            #expect(try number(report["checked"]) > 2_000 && number(report["wrong"]) == 0)
        }

        @Test func sessionsAreListedWhileTheirClientsLive() async throws {
            try await withCluster { cluster in
                let none = try await cluster.bifrost("session", "list")
                none.expect(0)
                #expect(none.text == "0 sessions in 4 groups, at the leaders\n")
                let client = try await cluster.client()
                for number in 0..<40 { try await client.kv.put(Bytes("key \(number)"), "v") }
                let all = try await cluster.bifrost("session", "list", "--json")
                all.expect(0)
                let groups = try #require(try all.json()["groups"] as? [[String: Any]])
                #expect(groups.map { $0["group"] as? Int } == [1, 2, 3, 4])
                for group in groups {
                    let sessions = try #require(group["sessions"] as? [[String: Any]])
                    let session = try #require(sessions.first)
                    #expect(sessions.count == 1 && session["session"] is String)
                    let (lives, left) = (session["timeToLiveMillis"] as? Int, session["leftMillis"] as? Int)
                    #expect(try #require(lives) >= #require(left) && #require(lives) >= 1_000)
                    #expect(try #require(session["answers"] as? Int) >= 1 && session["lastWordIndex"] is Int)
                }
                // A replica shows what it has applied, which may come a moment later.
                let shown = ContinuousClock.now + .seconds(180)
                while true {
                    let text = try await cluster.bifrost("session", "list", "--group", "2", "--host", "3")
                    text.expect(0)
                    if text.text.hasPrefix("1 session in 1 group, on host 3\nGROUP") { break }
                    try #require(ContinuousClock.now < shown, "\(text.text)")
                    await OwnExecutor.pause(milliseconds: 50)
                }
                try await cluster.bifrost("session", "list", "--group", "9").expect(64, saying: "no group 9")
                try await cluster.bifrost("session", "list", "--group", "meta").expect(64, saying: "no sessions")
                await client.close()
                let end = ContinuousClock.now + .seconds(180)
                while try await !cluster.bifrost("session", "list").text.hasPrefix("0 sessions") {
                    try #require(ContinuousClock.now < end)
                    await OwnExecutor.pause(milliseconds: 50)
                }
            }
        }

        @Test func keysAreWatchedFromWhatIsThereOn() async throws {
            try await withHosts(1) { cluster in
                try cluster.local.startAll()
                try await cluster.local.run(["init", "--hosts", cluster.local.addresses, "--groups", "2"])
                try await cluster.bifrost("put", "{w}a", "1").expect(0)
                let all = try Following(cluster, "watch", "--prefix", "{w}", "--limit", "4", "--json")
                let one = try Following(cluster, "watch", "{w}b", "--limit", "3")
                // Changes before belong to what is there.
                try await all.wait(for: #""change":"ready""#)
                try await one.wait(for: "ready\n")
                try await cluster.bifrost("put", "--ttl", "700ms", "{w}b", "x\ty").expect(0)
                try await cluster.bifrost("delete", "{w}a").expect(0)
                try await one.wait(for: "expired\t{w}b\t\n")
                try await cluster.bifrost("get", "{w}b").expect(1)
                try await cluster.bifrost("put", "{w}b", "z").expect(0)
                #expect(await all.end() == .exit(0))
                #expect(await one.end() == .exit(0))
                #expect(one.text == "ready\nput\t{w}b\tx\\ty\nexpired\t{w}b\t\nput\t{w}b\tz\n")
                let last = try #require(all.text.split(separator: "\n").last)
                #expect(last.hasPrefix(#"{"change":"put","key":"{w}b","resume":"#) && last.hasSuffix(#","value":"z"}"#))
                try await cluster.bifrost("watch", "{w}b", "--after", "99999999", "--limit", "1").expect(
                    1, saying: "has not come to revision 99999999")
                try await cluster.bifrost("watch", "--prefix", "w").expect(64, saying: "tag")
                try await cluster.bifrost("put", "--ttl", "0s", "{w}b", "x").expect(64)
            }
        }

        @Test func stateMachinesAreAskedByTheirNumbers() async throws {
            try await withHosts(3) { cluster in
                try cluster.local.startAll(arguments: ["--measured-machine", "--query-threads", "1"])
                try await cluster.local.run(["init", "--hosts", cluster.local.addresses, "--groups", "4"])
                // Place 3, seed 255, tag "a".
                let body = "03000000 ff00000000000000 61"
                let done = try await cluster.bifrost("machine", "call", "--hex", "65000", "1", "{a}", body)
                done.expect(0)
                #expect(done.text == "ff00000000000000\n")
                let json = try await cluster.bifrost(
                    "machine", "call", "--json", "--hex", "65000", "1", "{a}", "-", input: Array((body + "\n").utf8))
                json.expect(0)
                #expect(try json.json()["answerBase64"] as? String == "/wAAAAAAAAA=")
                #expect(try json.json()["revision"] as? Int == 2)

                let file = cluster.directory + "/question"
                // Four blocks, one pass.
                try Data([4, 0, 0, 0, 1, 0, 0, 0, 0x61]).write(to: URL(fileURLWithPath: file))
                let asked = try await cluster.bifrost("machine", "query", "65000", "1", "{a}", "--file", file)
                asked.expect(0)
                #expect(asked.text.count == 17 && asked.text != String(repeating: "0", count: 16) + "\n")
                let stale = try await cluster.bifrost(
                    "machine", "query", "65000", "1", "{a}", "--file", "-", "--consistency", "stale", "--max-age", "1m",
                    "--json", input: [4, 0, 0, 0, 1, 0, 0, 0, 0x61])
                stale.expect(0)
                #expect(try stale.json()["answer"] as? String == String(asked.text.dropLast()))

                let refused = try await cluster.bifrost(
                    "machine", "call", "--json", "--hex", "65000", "1", "{a}", "40000000 ff00000000000000 61")
                refused.expect(1, saying: "a block's place is below 64, not 64 (1); nothing was changed")
                let failure = try #require(try refused.json()["failure"] as? [String: Any])
                #expect(failure["code"] as? Int == 1 && failure["details"] as? String == "64")
                #expect(failure["text"] as? String == "a block's place is below 64, not 64")
                try await cluster.bifrost("machine", "call", "65000", "1", "{b}", "--hex", body).expect(64)
                try await cluster.bifrost("machine", "call", "65000", "9", "{a}", "--timeout", "1s")
                    .expect(4, saying: "has no command or query 9")
                try await cluster.bifrost("machine", "call", "1023", "1", "{a}").expect(64, saying: "from 1024 on")
                try await cluster.bifrost("machine", "call", "65000", "1", "{a}", "--hex", "0")
                    .expect(65, saying: "hexadecimal")
                try await cluster.bifrost("machine", "query", "65000", "1", "{a}", "x", "--file", file)
                    .expect(64, saying: "--file")
            }
        }

        @Test func settingsComeFromTheCommandLineThenTheEnvironmentThenTheFile() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let file = cluster.directory + "/settings.json"
                try #"{"connect": "127.0.0.1:1", "json": true, "timeout": "170s"}"#.write(
                    toFile: file, atomically: true, encoding: .utf8)
                func run(_ environment: [String: String], _ words: String...) async throws -> ChildProcess.Result {
                    try await ChildProcess(cluster.local.executable, words, environment: environment).end(
                        killAfter: .seconds(180))
                }
                let address = cluster.hosts[0].address
                try await run(["BIFROST_CONFIG": file], "put", "k", "v").expect(4)
                let put = try await run(["BIFROST_CONFIG": file, "BIFROST_CONNECT": address], "put", "k", "v")
                put.expect(0)
                #expect(try put.json()["revision"] as? Int == 1)
                try await run(["BIFROST_CONNECT": "127.0.0.1:1"], "get", "--connect", address, "k").expect(0)
                try #"{"conect": "127.0.0.1:1"}"#.write(toFile: file, atomically: true, encoding: .utf8)
                try await run(["BIFROST_CONFIG": file], "get", "k").expect(64, saying: "\"conect\"")
            }
        }

        @Test func aHistoryIsJudgedAndItsViolationDrawn() async throws {
            try await withHosts(0) { place in
                func line(_ rest: String) -> String { #"{"client":1,"key":"k","outcome":"ok","# + rest + "}\n" }
                let good =
                    line(#""op":"put","value":"a","call":1,"return":2"#)
                    + line(#""op":"put","value":"b","call":3,"return":4"#)
                let file = place.directory + "/history.jsonl"
                let svg = place.directory + "/violation.svg"
                func check(_ history: String, _ arguments: String...) async throws -> ChildProcess.Result {
                    try history.write(toFile: file, atomically: true, encoding: .utf8)
                    return try await place.local.command(["history", "check", file] + arguments)
                }

                let fine = try await check(good, "--svg", svg)
                fine.expect(0)
                #expect(fine.text == "linearizable: 2 operations on 1 key, 0 of unknown outcome\n")
                #expect(!FileManager.default.fileExists(atPath: svg))

                let stale = good + line(#""op":"get","value":"a","call":5,"return":6"#)
                let bad = try await check(stale, "--svg", svg, "--json")
                #expect(bad.ending == .exit(1) && bad.errors.isEmpty, "\(bad.errorText)")
                #expect(try bad.json()["verdict"] as? String == "violation")
                #expect(try String(contentsOfFile: svg, encoding: .utf8).contains("get → a"))

                let short = try await check(stale, "--steps", "1")
                #expect(short.ending == .exit(2) && short.text.contains("no answer for key k within "), "\(short.text)")
                try await check(good + "{}\n").expect(65, saying: "history.jsonl, line 3: ")
                try await place.local.command(["history", "check", place.directory]).expect(74)
            }
        }
    }
}
