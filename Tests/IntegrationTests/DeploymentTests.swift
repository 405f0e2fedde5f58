// What Documentation/Deployment.md tells people to install: the unit for systemd and the configuration of a host.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct DeploymentTests {
        private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()

        private func text(_ path: String) throws -> String {
            try String(contentsOf: Self.root.appending(path: path), encoding: .utf8)
        }

        @Test func theUnitSaysNothingThatSystemdDoesNotKnow() async throws {
            try await withHosts(0) { place in
                let installed = "/usr/local/bin/bifrost"
                let unit = try text("Tools/bifrost.service")
                #expect(unit.contains("ExecStart=\(installed) serve --config /etc/bifrost/host.json\n"))
                // Not started again: what only a person can mend.
                #expect(
                    unit.contains(
                        "RestartPreventExitStatus=\(ExitStatus.usage.rawValue) \(ExitStatus.badDirectory.rawValue)\n"))
                let analyse = "/usr/bin/systemd-analyze"
                guard FileManager.default.isExecutableFile(atPath: analyse) else { return }
                let file = place.directory + "/bifrost.service"
                func verify(_ unit: String) async throws -> ChildProcess.Result {
                    try unit.replacing(installed, with: place.local.executable).write(
                        toFile: file, atomically: true, encoding: .utf8)
                    return try await ChildProcess(analyse, ["verify", file]).end(killAfter: .seconds(180))
                }
                let verified = try await verify(unit)
                #expect(verified.ending == .exit(0) && verified.errorText.isEmpty, "\(verified.errorText)")
                // It ends with 0 whatever it says.
                let misspelt = try await verify(unit.replacing("LimitNOFILE", with: "LimitNoFiles"))
                #expect(misspelt.errorText.contains("LimitNoFiles"))
            }
        }

        @Test func theConfigurationOfThePageStartsAHost() async throws {
            try await withHosts(2) { cluster in
                let page = try text("Documentation/Deployment.md")
                let block = try #require(page.firstMatch(of: /```json\n(\{[^`]*\})\n```/)).1
                let join = try #require(page.firstMatch(of: /```json\n  ("join": "[^"]*")\n```/)).1
                // As a host that comes later has it, at an address that this machine has.
                for (host, words) in [(cluster.hosts[0], ""), (cluster.hosts[1], "\(join),")] {
                    let file = host.directory + ".json"
                    try block.replacing("{\n", with: "{\(words)").replacing("/var/lib/bifrost", with: host.directory)
                        .replacing("10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001", with: cluster.hosts[0].address)
                        .replacing("10.0.0.1:7001", with: host.address)
                        .write(toFile: file, atomically: true, encoding: .utf8)
                    let child = try ChildProcess(
                        cluster.local.executable, ["serve", "--config", file, "--end-with-input"], input: .lifeline)
                    defer { child.send(SIGTERM) }
                    if host === cluster.hosts[0] {
                        try await cluster.local.run(["init", "--hosts", host.address, "--groups", "1"])
                        child.send(SIGTERM)
                        #expect(await child.end(killAfter: .seconds(180)).ending == .exit(0))
                        try cluster.start(host)
                        continue
                    }
                    let end = ContinuousClock.now + .seconds(180)
                    var hosts: [[String: Any]] = []
                    while hosts.count < 2, ContinuousClock.now < end {
                        let list = try await cluster.bifrost("host", "list", "--json", at: [cluster.hosts[0]])
                        hosts = (try? list.json())?["hosts"] as? [[String: Any]] ?? []
                        await OwnExecutor.pause(milliseconds: 50)
                    }
                    let second = try #require(hosts.last)
                    #expect(second["name"] as? String == "alpha" && second["zone"] as? String == "rack-1")
                    #expect(second["address"] as? String == host.address)
                }
            }
        }
    }
}
