// What commands print, where they print it, and what they leave behind when that fails.

import BifrostTool
import Foundation
import Synchronization
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct OutputTests {
        /// The command line as a shell has it, with `bifrost` for the executable and its first host.
        private func shell(_ cluster: TestCluster, _ script: String) async throws -> ChildProcess.Result {
            let name =
                "bifrost() { local command=$1; shift; '\(cluster.local.executable)' $command --connect "
                + "\(cluster.hosts[0].address) \"$@\"; }; "
            return try await ChildProcess("/bin/bash", ["-c", name + script]).end(killAfter: .seconds(180))
        }

        @Test func bytesThatAreNoTextPassThroughArgumentsAndJSON() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let put = try await shell(cluster, #"bifrost put --json $'k\xff' $'v\xfe'"#)
                #expect(put.ending == .exit(0), "\(put.errorText)")
                #expect(try put.json()["keyBase64"] as? String == "a/8=")
                #expect(try put.json()["key"] == nil)
                let get = try await shell(cluster, #"bifrost get --json $'k\xff'"#).json()
                #expect(get["keyBase64"] as? String == "a/8=" && get["valueBase64"] as? String == "dv4=")
                #expect(get["found"] as? Bool == true)
                #expect(try await shell(cluster, #"bifrost get $'k\xff'"#).output == [0x76, 0xfe])
                // It is not the key that U+FFFD would have made of it.
                try await shell(cluster, #"bifrost get $'k\xef\xbf\xbd'"#).expect(1)
                #expect(
                    try await shell(cluster, #"bifrost delete --json $'k\xff'"#).json()["keyBase64"] as? String
                        == "a/8=")
                try await shell(cluster, #"bifrost get $'k\xff'"#).expect(1)
            }
        }

        @Test func aKeyWithoutAValueIsAnObjectToo() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let get = try await cluster.bifrost("get", "--json", "nothing")
                get.expect(1, saying: "'nothing' has no value")
                #expect(try get.json()["found"] as? Bool == false)
                #expect(try get.json()["key"] as? String == "nothing")
                #expect(try get.json().count == 2)
            }
        }

        @Test func noIsAnObjectToo() async throws {
            try await withCluster { cluster in
                func no(_ words: [String], saying text: String) async throws -> NSDictionary {
                    let result = try await cluster.local.command(
                        words + ["--json", "--connect", cluster.local.addresses])
                    result.expect(1, saying: text)
                    #expect(result.text.split(separator: "\n").count == 1, "\(words): \(result.text)")
                    return try result.json() as NSDictionary
                }
                // Who looks for something finds it or not.
                for words in [
                    ["value", "get", "x"], ["array", "get", "x", "--at", "0"], ["array", "list", "x"],
                    ["array", "slice", "x", "0"], ["map", "get", "x", "y"], ["map", "list", "x"], ["set", "list", "x"],
                    ["queue", "take", "x"], ["queue", "pop", "x"], ["queue", "peek", "x"], ["queue", "dead", "x"],
                    ["members", "leader", "x"], ["latch", "show", "x"], ["latch", "delete", "x"],
                ] {
                    let answer = try await no(words, saying: "x'")
                    #expect(answer == ["found": false], "\(words): \(answer)")
                }
                // Of what was to be done it is told why it was not.
                try await cluster.bifrost("value", "set", "v", "1").expect(0)
                try await cluster.bifrost("latch", "set", "l", "1").expect(0)
                for (words, text) in [
                    (["value", "set", "v", "2", "--if-absent"], "nothing was changed"),
                    (["value", "cas", "v", "3", "2"], "nothing was changed"),
                    (["put", "k", "2", "--if-present"], "nothing was changed"),
                    (["map", "put", "m", "k", "v", "--if-present"], "nothing was changed"),
                    (["array", "set", "a", "v", "--at", "7"], "nothing was changed"),
                    (["number", "divide", "n", "0"], "division by zero"),
                    (["latch", "wait", "l", "--for", "50ms"], "did not come to zero"),
                    (["latch", "count-down", "none"], "set it first"),
                    (["barrier", "arrive", "b", "--parties", "2", "--wait", "50ms"], "too few came"),
                ] {
                    let answer = try await no(words, saying: text)
                    #expect(answer["done"] as? Bool == false && answer.count == 2, "\(words): \(answer)")
                    #expect((answer["reason"] as? String)?.contains(text) ?? false, "\(words): \(answer)")
                }
                // What scan prints is imported, line by line.
                let scan = try await cluster.bifrost("scan", "--json", "{none}")
                scan.expect(1)
                #expect(scan.output.isEmpty)
                // And all of them say nothing on standard output without --json.
                let text = try await cluster.bifrost("value", "cas", "v", "3", "2")
                #expect(text.ending == .exit(1) && text.output.isEmpty)
            }
        }

        @Test func whatCouldNotBeDoneIsAnObjectToo() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                func failure(_ code: Int32, _ words: [String]) async throws -> String {
                    let result = try await cluster.local.command(words)
                    result.expect(code)
                    #expect(result.text.split(separator: "\n").count == 1, "\(words): \(result.text)")
                    let object = try result.json()
                    let error = try #require(object["error"] as? [String: Any], "\(words): \(result.text)")
                    #expect(object.count == 1 && error["code"] as? Int == Int(code), "\(words): \(result.text)")
                    let message = try #require(error["message"] as? String)
                    #expect(result.errorText == "bifrost: \(message)\n", "\(words)")
                    return message
                }
                let here = ["--connect", cluster.local.addresses, "--json"]
                let nowhere = ["--connect", "127.0.0.1:1", "--timeout", "1s", "--json"]
                // Of a token that is over, of a key that is none, of what nobody answers.
                #expect(
                    try await failure(75, ["value", "set", "{d}v", "1", "--guard", "lock:7:{d}"] + here).contains(
                        "its token is over"))
                _ = try await failure(65, ["get", String(repeating: "k", count: 5_000)] + here)
                for words in [
                    ["get", "k"], ["watch", "k"], ["group", "list"], ["host", "weight", "1", "2"],
                    ["map", "list", "m"],
                    ["ring", "verify"],
                ] { _ = try await failure(4, words + nowhere) }
                // What is printed is for others: records, or what a command says that is run meanwhile.
                for words in [
                    ["scan", "{k}"] + nowhere, ["export", "-", "--format", "ucd"] + nowhere,
                    ["lock", "{k}"] + nowhere + ["--", "true"], ["elect", "{k}"] + nowhere + ["--", "true"],
                ] {
                    let result = try await cluster.local.command(words)
                    result.expect(4)
                    #expect(result.output.isEmpty, "\(words): \(result.text)")
                    #expect(result.errorText.hasPrefix("bifrost: "), "\(words)")
                }
                #expect(
                    try await failure(64, ["group", "members", "77"] + here).contains("there is no group 77"))
                // Of a line that is not understood, as far as it is plain that an object is wanted.
                for words in [
                    ["get", "--json"], ["frobnicate", "--json"], ["put", "--json", "k", "v", "--nonsense"],
                    ["get", "--json", "k", "--timeout", "never"],
                ] { _ = try await failure(64, words) }
                let file = cluster.directory + "/none.json"
                #expect(try await failure(74, ["get", "--json", "k", "--config", file]).contains(file))
                // A flag behind -- is none.
                let plain = try await cluster.local.command(["get", "--connect", "127.0.0.1:1", "--", "--json"])
                plain.expect(4)
                #expect(plain.output.isEmpty)
                // Who has an object of his own has no other.
                let down = try await cluster.local.command(["status"] + nowhere)
                #expect(down.ending == .exit(4) && down.text.split(separator: "\n").count == 1, "\(down.text)")
                #expect(try down.json()["status"] as? String == "unavailable")
                let taken = try await cluster.local.command([
                    "serve", "--json", "--directory", cluster.hosts[0].directory, "--listen", "127.0.0.1:0",
                ])
                #expect(taken.ending == .exit(73))
                #expect((try taken.json()["error"] as? [String: Any])?["code"] as? Int == 73, "\(taken.text)")
            }
        }

        @Test func aResultThatCannotBeWrittenDoesNotHideThatTheWriteHappened() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                try await shell(cluster, "bifrost put k v > /dev/full").expect(
                    74, saying: "the value is written at revision 1", "standard output", "No space left")
                #expect(try await cluster.bifrost("get", "k").text == "v")
                #expect(try await cluster.bifrost("get", "--consistency", "lease", "k").text == "v")
                try await shell(cluster, "bifrost delete --json k > /dev/full").expect(
                    74, saying: "the key is deleted at revision 2", "No space left")
                try await shell(cluster, #"printf 'a\t1\nb\t2\n' | bifrost import - > /dev/full"#).expect(
                    74, saying: "all 2 records are written", "No space left")
                try await shell(cluster, "bifrost get a > /dev/full").expect(
                    74, saying: "can't write to standard output")
            }
        }

        @Test func aWatchOfWhatIsQuietEndsWithItsReader() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                try await cluster.bifrost("put", "k", "v").expect(0)
                try await cluster.bifrost("value", "set", "v", "1").expect(0)
                // Both lines are read, and no other comes: one that waits for it is killed.
                let watch = try await shell(cluster, "bifrost watch k | head -2; echo ${PIPESTATUS[0]}")
                #expect(watch.text == "present\tk\tv\nready\n141\n" && watch.errorText.isEmpty, "\(watch.errorText)")
                let value = try await ChildProcess(
                    "/bin/bash",
                    [
                        "-c", "\"$0\" value watch --connect \"$1\" v | head -2; echo ${PIPESTATUS[0]}",
                        cluster.local.executable, cluster.hosts[0].address,
                    ]
                ).end(killAfter: .seconds(180))
                #expect(value.text == "present\t1\nready\n141\n" && value.errorText.isEmpty, "\(value.errorText)")
            }
        }

        @Test func anExportThatASignalEndsLeavesNothing() async throws {
            try await withCluster { cluster in
                try await cluster.bifrost("put", "k", "v").expect(0)
                // The last host gives the map, and no majority gives records: an export has made its file and waits.
                cluster.local.kill(cluster.hosts[0])
                cluster.local.kill(cluster.hosts[1])
                let place = cluster.directory + "/exports"
                try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
                try Data("before\n".utf8).write(to: URL(fileURLWithPath: place + "/all.tsv"))
                func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: place).sorted() }
                for number in [SIGINT, SIGTERM, SIGHUP] {
                    let export = try ChildProcess(
                        cluster.local.executable,
                        ["export", "--connect", cluster.hosts[2].address, "--timeout", "60s", place + "/all.tsv"])
                    let end = ContinuousClock.now + .seconds(180)
                    while try files().count < 2, ContinuousClock.now < end { await OwnExecutor.pause(milliseconds: 5) }
                    #expect(try files().count == 2)
                    export.send(number)
                    let result = await export.end(killAfter: .seconds(180))
                    #expect(result.ending == .signal(number), "\(result.errorText)")
                    #expect(try files() == ["all.tsv"])
                }
                #expect(try String(contentsOfFile: place + "/all.tsv", encoding: .utf8) == "before\n")
            }
        }

        @Test func aBenchThatIsCutOffSaysWhy() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let bench = try await cluster.bifrost(
                    "bench", "--seconds", "0.2", "--seconds-max", "0.2", "--keys", "10")
                #expect(bench.ending == .exit(1))
                #expect(bench.errorText.contains("checkpointed three times"), "\(bench.errorText)")
                #expect(bench.errorText.contains("--seconds-max 0.2"), "\(bench.errorText)")
                // Nobody measured the hosts' disks.
                #expect(bench.text.contains("machine") && !bench.text.contains("fdatasync"), "\(bench.text)")
            }
        }

        @Test func aBenchGoesOnWithoutAHostThatEnds() async throws {
            try await withCluster { cluster in
                let said = Said()
                let bench = try ChildProcess(
                    cluster.local.executable,
                    [
                        "bench", "--connect", cluster.local.addresses, "--seconds", "10", "--keys", "2000", "--json",
                        "--reads", "20",
                    ], errors: .streamed { read in said.bytes.withLock { $0 += read } })
                // Every host leads some of 2,000 keys while they are written, and one with operations under way ends.
                let end = ContinuousClock.now + .seconds(180)
                while !said.text.contains(" operations, "), bench.isRunning, ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                cluster.local.kill(cluster.hosts[0])
                #expect(bench.isRunning)
                let result = await bench.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(0), "\(said.text)")
                let report = try result.json()
                func number(_ name: String) throws -> Double { try #require(report[name] as? NSNumber).doubleValue }
                #expect(try number("seconds") >= 10 && number("seconds") < 170)
                // What was under way goes to the others, and is done once.
                #expect(try number("errors") == 0, "\(said.text)")
                #expect(try number("operations") > 1_000)
                #expect(try number("cpuMicrosPerOperation") > 0)
                #expect(try number("verified") == 10_000, "\(said.text)")
                let gap = try #require((report["hostsWithGaps"] as? [[String: Any]])?.first)
                #expect(gap["host"] as? Int == 1 && gap["address"] as? String == cluster.hosts[0].address)
                #expect((gap["problem"] as? String)?.contains("its CPU counts until") == true, "\(gap)")
                #expect(said.text.contains("host 1 at \(cluster.hosts[0].address) does not answer"))
                #expect(said.text.contains("nobody waits for its checkpoints"))
            }
        }

        @Test func aBenchWithoutAQuorumEndsInTime() async throws {
            try await withCluster { cluster in
                cluster.local.kill(cluster.hosts[0])
                cluster.local.kill(cluster.hosts[1])
                try await expectQuick(.seconds(5)) {
                    // More keys than are written at a time: the first that fails is enough.
                    try await cluster.bifrost("bench", "--timeout", "2s", "--keys", "100000", at: [cluster.hosts[2]])
                        .expectLast(4, saying: "writing the keys: ", "nothing was measured")
                }
            }
        }

        @Test func aLocalBenchSaysWhatBecameOfAHostThatEnded() async throws {
            try await withHosts(0) { place in
                let said = Said()
                let bench = try ChildProcess(
                    place.local.executable,
                    [
                        "bench", "--local", "3", "--groups", "2", "--keys", "1000", "--seconds", "10", "--directory",
                        place.directory,
                    ], errors: .streamed { read in said.bytes.withLock { $0 += read } })
                let end = ContinuousClock.now + .seconds(180)
                func pid() throws -> Int32? {
                    let processes = try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap {
                        Int32($0)
                    }
                    return processes.first { process in
                        let line = FileManager.default.contents(atPath: "/proc/\(process)/cmdline") ?? Data()
                        let text = String(decoding: line, as: UTF8.self)
                        return text.contains("\0serve\0") && text.contains("\(place.directory)/bifrost-bench")
                            && text.contains("/host-2\0")
                    }
                }
                while !said.text.contains(" operations, "), bench.isRunning, ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                let host = try #require(try pid())
                kill(host, SIGKILL)
                var result = await bench.end(killAfter: .seconds(180))
                result.errors = said.bytes.withLock { $0 }
                result.expectLast(1, saying: "host 2 ended during the run, with signal 9")
                #expect(result.text.contains("host 2       does not answer"), "\(result.text)")
                for words in ["bench:   host 2 ended with signal 9", "bench:   host 1: listening 127.0.0.1:"] {
                    #expect(result.errorText.contains(words), "\(result.errorText)")
                }
            }
        }

        @Test func statusTakesNoLongerThanItSays() async throws {
            // Takes connections and says nothing.
            let silent = try SilentListener()
            try await withHosts(0) { place in
                try await expectQuick(.milliseconds(2_900)) {
                    let begin = ContinuousClock.now
                    let status = try await place.local.command(["status", "--connect", silent.address])
                    #expect(status.ending == .exit(4) && ContinuousClock.now - begin >= .seconds(2))
                }
            }
        }

        @Test func commandLinesThatGoWrongAreExplained() async throws {
            try await withHosts(0) { place in
                func run(_ words: String...) async throws -> ChildProcess.Result {
                    try await place.local.command(words)
                }
                try await run("frobnicate").expect(
                    64, saying: "there is no command 'frobnicate'", "serve, dev, init, put")
                try await run("put", "-k", "v").expect(64, saying: "'-k' is taken", "behind --", "bifrost put --help")
                try await run("put", "k", "-5").expect(64, saying: "'-5' is taken", "behind --")
                try await run("serve", "--directory", "").expect(64, saying: "--directory is empty")
                try await run("bench", "--local", "1", "--directory", "").expect(64, saying: "--directory is empty")
                try await run("demo", "--directory", "").expect(64, saying: "--directory is empty")
                try await run("get", "--config", "", "k").expect(64, saying: "--config is empty")
                for list in ["127.0.0.1:1,,127.0.0.1:2", "127.0.0.1:1,", ",127.0.0.1:1", ","] {
                    try await run("init", "--hosts", list).expect(64, saying: "expected host:port", "'\(list)'")
                    try await run("get", "--connect", list, "k").expect(64, saying: "expected host:port", "'\(list)'")
                }
            }
        }
    }
}

/// What a command says while it goes on.
private final class Said: Sendable {
    let bytes = Mutex<[UInt8]>([])
    var text: String { String(decoding: bytes.withLock { $0 }, as: UTF8.self) }
}

/// A socket on loopback that the system accepts connections for, and nobody else.
private final class SilentListener {
    private let descriptor: Int32
    let address: String

    init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var own = sockaddr_in()
        own.sin_family = sa_family_t(AF_INET)
        own.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = descriptor
        let result = withUnsafeMutablePointer(to: &own) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 8) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        try #require(result, "can't listen on loopback")
        address = "127.0.0.1:\(UInt16(bigEndian: own.sin_port))"
    }

    deinit { close(descriptor) }
}
