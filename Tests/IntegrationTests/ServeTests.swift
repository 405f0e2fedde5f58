// Hosts as `bifrost serve` starts them: what they log, and how they come into a cluster by themselves.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct ServeTests {
        private func lines(_ host: LocalCluster.HostProcess, _ cluster: TestCluster) throws -> [[String: Any]] {
            try cluster.log(host).split(separator: "\n").filter { !$0.hasPrefix("listening ") }.map { line in
                let object = try? JSONSerialization.jsonObject(with: Data(line.utf8))
                return try #require(object as? [String: Any], "\(line) is no object")
            }
        }

        @Test func allThatAHostLogsIsJSONIfThatIsAskedFor() async throws {
            try await withHosts(1) { cluster in
                let host = cluster.hosts[0]
                let settings = cluster.directory + "/settings.json"
                try #"{"log-format": "json", "log-level": "info"}"#.write(
                    toFile: settings, atomically: true, encoding: .utf8)
                try cluster.local.start(host, arguments: ["--config", settings])
                try await cluster.local.run(["init", "--hosts", host.address, "--groups", "1"])
                #expect(try RawConnection(host.address).isClosedAfter(Array("GET / HTTP/1.1\r\n\r\n".utf8)))
                try await wait("it says so") {
                    try lines(host, cluster).contains { $0["level"] as? String == "warning" }
                }
                let closed = try #require(try lines(host, cluster).last { $0["level"] as? String == "warning" })
                #expect(closed["logger"] as? String == "bifrost" && closed["source"] as? String == "RPC", "\(closed)")
                #expect((closed["metadata"] as? [String: Any])?.isEmpty == false, "\(closed)")
                #expect((closed["time"] as? String)?.hasSuffix("Z") == true)

                // What ends a host as well. The first one holds its directory.
                let second = try await cluster.local.command(
                    ["serve", "--directory", host.directory, "--listen", "127.0.0.1:0", "--log-format", "json"])
                #expect(second.ending == .exit(73))
                let object = try JSONSerialization.jsonObject(with: Data(second.errorText.utf8)) as? [String: Any]
                #expect(object?["level"] as? String == "critical", "\(second.errorText)")
                #expect((object?["message"] as? String)?.contains(host.directory) == true)

                // Less, from the environment, which wins over the file.
                cluster.local.stop(host)
                let quiet = try ChildProcess(
                    cluster.local.executable,
                    ["serve", "--directory", host.directory, "--listen", host.address, "--config", settings],
                    environment: ["BIFROST_LOG_LEVEL": "error"])
                _ = try await cluster.waitForStatus(0)
                #expect(try RawConnection(host.address).isClosedAfter(Array("GET / HTTP/1.1\r\n\r\n".utf8)))
                quiet.send(SIGTERM)
                let ended = await quiet.end(killAfter: .seconds(180))
                #expect(ended.ending == .exit(0) && ended.errorText.isEmpty, "\(ended.errorText)")
            }
        }

        @Test func aLevelOrFormatThatThereIsNotNamesThoseThatThereAre() async throws {
            try await withHosts(0) { place in
                func serve(_ words: String..., variables: [String: String] = [:]) async throws -> ChildProcess.Result {
                    try await ChildProcess(
                        place.local.executable, ["serve", "--directory", place.directory + "/x"] + words,
                        environment: variables
                    ).end(killAfter: .seconds(180))
                }
                try await serve("--log-level", "loud").expect(
                    64, saying: "'loud'", "--log-level", "trace", "debug", "info", "notice", "warning", "error",
                    "critical")
                try await serve("--log-format", "xml").expect(64, saying: "'xml'", "--log-format", "text", "json")
                try await serve(variables: ["BIFROST_LOG_LEVEL": "loud"]).expect(
                    64, saying: "environment variable BIFROST_LOG_LEVEL", "critical")
                let settings = place.directory + "/settings.json"
                try #"{"log-format": "xml"}"#.write(toFile: settings, atomically: true, encoding: .utf8)
                try await serve("--config", settings).expect(64, saying: "key \"log-format\"", "text", "json")
            }
        }

        private func wait(_ what: String, _ isSo: () async throws -> Bool) async throws {
            let end = ContinuousClock.now + .seconds(180)
            while try await !isSo() {
                guard ContinuousClock.now < end else {
                    Issue.record("not within 180 s: \(what)")
                    return
                }
                await OwnExecutor.pause(milliseconds: 50)
            }
        }

        private func hosts(_ cluster: TestCluster, at hosts: [LocalCluster.HostProcess]) async throws -> [Int] {
            let list = try await cluster.bifrost("host", "list", "--json", at: hosts)
            let all = try #require(try list.json()["hosts"] as? [[String: Any]], "\(list.errorText)")
            return all.filter { $0["reachable"] as? Bool == true }.compactMap { $0["host"] as? Int }
        }

        @Test func aHostAsksToBeTakenInAndJustStartsWhenItIsAMember() async throws {
            try await withHosts(4) { cluster in
                let (old, new) = (Array(cluster.hosts.prefix(3)), cluster.hosts[3])
                // All hosts may have the same word, with themselves in it; one that answers is enough.
                let join = ["--join", cluster.local.addresses]
                try cluster.local.start(new, arguments: join)
                try await wait("it says that it waits") { cluster.log(new).contains("this host goes on trying") }
                #expect(cluster.log(new).contains("\(old[0].address) does not answer"), "\(cluster.log(new))")
                #expect(!cluster.log(new).contains("\(new.address) does not answer"))

                for host in old { try cluster.local.start(host) }
                try await cluster.local.run(
                    ["init", "--hosts", old.map(\.address).joined(separator: ","), "--groups", "2"])
                try await wait("it is a member") {
                    // It saw hosts of no cluster in between, or the cluster at once.
                    if !new.isRunning { try cluster.local.start(new, arguments: join) }
                    return try await hosts(cluster, at: old) == [1, 2, 3, 4]
                }
                #expect(cluster.log(new).contains("this host is host 4 of cluster"), "\(cluster.log(new))")
                _ = try await cluster.waitForStatus(0)
                try await cluster.bifrost("put", "k", "v").expect(0)
                #expect(try await cluster.bifrost("get", "k", at: [new]).text == "v")

                // A member starts and serves while nobody else is there, and does not ask again.
                cluster.local.stopAll()
                let before = cluster.log(new).count
                try cluster.local.start(new, arguments: join)
                try await wait("it answers") {
                    try await cluster.bifrost("status", "--timeout", "1s", at: [new]).text.hasPrefix("unavailable")
                }
                #expect(new.isRunning)
                #expect(!cluster.log(new).dropFirst(before).contains("--join"), "\(cluster.log(new))")
                for host in old { try cluster.local.start(host, arguments: join) }
                _ = try await cluster.waitForStatus(0)
                #expect(try await hosts(cluster, at: [new]) == [1, 2, 3, 4])
                #expect(cluster.hosts.allSatisfy { $0.isRunning })

                // What is done by hand afterwards is done already.
                let add = try await cluster.bifrost("host", "add", new.address, at: old)
                add.expect(0)
                #expect(add.text.contains("already; nothing to do"))

                // Taken away, it does not come back by itself.
                try await cluster.bifrost("host", "remove", "4", at: old).expect(0)
                cluster.local.stop(new)
                try cluster.local.start(new, arguments: join)
                try await wait("it ends") { !new.isRunning }
                #expect(new.process?.ending == .exit(73))
                #expect(cluster.log(new).contains("was removed from it"), "\(cluster.log(new))")
            }
        }

        @Test func aHostThatIsKilledWhileItJoinsGetsOneId() async throws {
            try await withHosts(4) { cluster in
                let (old, new) = (Array(cluster.hosts.prefix(3)), cluster.hosts[3])
                for host in old { try cluster.local.start(host) }
                try await cluster.local.run(
                    ["init", "--hosts", old.map(\.address).joined(separator: ","), "--groups", "2"])
                for milliseconds in [20, 60, 100, 140, 180, 220] {
                    try cluster.local.start(new, arguments: ["--join", old[0].address])
                    await OwnExecutor.pause(milliseconds: milliseconds)
                    cluster.local.kill(new)
                }
                try cluster.local.start(new, arguments: ["--join", old[0].address])
                try await wait("it is a member") { try await hosts(cluster, at: old) == [1, 2, 3, 4] }
                let list = try await cluster.bifrost("host", "list", "--json", at: old).json()
                #expect((list["hosts"] as? [[String: Any]])?.count == 4, "\(list)")
            }
        }

        @Test func whereAHostCannotJoinIsSaid() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                try await withCluster(hosts: 1, groups: 1) { other in
                    let (ours, theirs) = (cluster.hosts[0], other.hosts[0])
                    func serve(_ directory: String, _ join: String...) async throws -> ChildProcess.Result {
                        try await cluster.local.command(
                            [
                                "serve", "--directory", directory, "--listen", "127.0.0.1:0", "--join",
                                join.joined(separator: ","),
                            ], limit: .seconds(180))
                    }
                    let new = cluster.directory + "/new"
                    try await serve(new, ours.address, theirs.address).expect(64, saying: "hosts of two clusters")
                    let port = try LocalCluster.freePorts(1)[0]
                    let itself = try await cluster.local.command(
                        [
                            "serve", "--directory", new, "--listen", "127.0.0.1:\(port)", "--join",
                            "127.0.0.1:\(port)",
                        ], limit: .seconds(180))
                    itself.expect(64, saying: "--join names this host itself")

                    // A directory of one cluster, and a host of another.
                    cluster.local.stop(ours)
                    try await serve(ours.directory, theirs.address).expectLast(
                        73, saying: "--directory belongs to cluster", theirs.address, "new, empty --directory")
                    try cluster.start(ours)
                    _ = try await cluster.waitForStatus(0)

                    // One that the cluster does not take.
                    let older = try await cluster.local.command(
                        [
                            "serve", "--directory", cluster.directory + "/older", "--listen", "127.0.0.1:0",
                            "--feature-level", "5", "--join", ours.address,
                        ], limit: .seconds(180))
                    older.expect(1, saying: "refused", "feature level")

                    // Hosts of no cluster.
                    try await withHosts(1) { free in
                        try free.local.startAll()
                        try await wait("it runs") { free.log(free.hosts[0]).contains("listening ") }
                        try await serve(new, free.hosts[0].address).expect(
                            4, saying: "\(free.hosts[0].address) belongs to no cluster", "bifrost init")
                        try await serve(cluster.directory + "/newer", "nowhere").expect(64, saying: "is no address")
                    }
                    // It was not spoilt by all that.
                    let host = try ChildProcess(
                        cluster.local.executable,
                        ["serve", "--directory", new, "--listen", "127.0.0.1:\(port)", "--join", ours.address])
                    try await wait("it is a member") { try await hosts(cluster, at: [ours]) == [1, 2] }
                    host.send(SIGTERM)
                    #expect(await host.end(killAfter: .seconds(180)).ending == .exit(0))
                }
            }
        }

        @Test func aHostThatWaitsToJoinStopsWhenItIsTold() async throws {
            try await withHosts(2) { cluster in
                let host = cluster.hosts[0]
                try cluster.local.start(host, arguments: ["--join", cluster.hosts[1].address])
                try await wait("it says that it waits") { cluster.log(host).contains("this host goes on trying") }
                host.process?.send(SIGTERM)
                try await wait("it ends") { !host.isRunning }
                #expect(host.process?.ending == .exit(0), "\(cluster.log(host))")
            }
        }
    }
}
