// Hosts as `bifrost serve` starts them: what they log.

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
                let ended = await quiet.end(killAfter: .seconds(20))
                #expect(ended.ending == .exit(0) && ended.errorText.isEmpty, "\(ended.errorText)")
            }
        }

        @Test func aLevelOrFormatThatThereIsNotNamesThoseThatThereAre() async throws {
            try await withHosts(0) { place in
                func serve(_ words: String..., variables: [String: String] = [:]) async throws -> ChildProcess.Result {
                    try await ChildProcess(
                        place.local.executable, ["serve", "--directory", place.directory + "/x"] + words,
                        environment: variables
                    ).end(killAfter: .seconds(20))
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
    }
}
