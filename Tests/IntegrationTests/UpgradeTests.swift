// A cluster of an older version is upgraded host by host, and then its feature level is raised.

import BifrostTool
import Foundation
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct UpgradeTests {
        private let top = Int(FeatureLevel.current)

        private struct Levels: Equatable {
            var level: Int
            var possible: Int
            var registered: [Int]
        }

        private func levels(_ cluster: TestCluster) async throws -> Levels {
            let report = try await cluster.bifrost("cluster", "show", "--json").json()
            let hosts = try #require(report["hosts"] as? [[String: Any]])
            return Levels(
                level: report["featureLevel"] as? Int ?? 0, possible: report["possible"] as? Int ?? 0,
                registered: hosts.map { $0["registered"] as? Int ?? 0 })
        }

        /// The directory knows what the process before did: its next one is told no less.
        private func restart(_ host: LocalCluster.HostProcess, of cluster: TestCluster, level: Int?) throws {
            cluster.local.stop(host)
            try cluster.local.start(host, arguments: level.map { ["--feature-level", "\($0)"] } ?? [])
        }

        @Test(arguments: [1, 2]) func hostsAreUpgradedOneByOneAndThenTheClusterIs(level: Int) async throws {
            try await withHosts(4) { cluster in
                try cluster.local.startAll(arguments: ["--feature-level", "\(level)"])
                let three = cluster.hosts[..<3].map(\.address).joined(separator: ",")
                try await cluster.local.run(["init", "--hosts", three, "--groups", "4"])
                try await cluster.bifrost("put", "k", "v").expect(0)
                #expect(
                    try await levels(cluster)
                        == Levels(level: level, possible: level, registered: [level, level, level]))
                try await cluster.bifrost("cluster", "upgrade", "--to", "4").expect(
                    1, saying: "host 1 (\(cluster.hosts[0].address)) registers \(level)", "nothing was changed")
                let there = try await cluster.bifrost("cluster", "upgrade")
                there.expect(0)
                #expect(there.text.contains("is at feature level \(level) already"), "\(there.text)")

                try restart(cluster.hosts[1], of: cluster, level: nil)
                try restart(cluster.hosts[0], of: cluster, level: nil)
                // The third is of the old version, and another one is away.
                try await cluster.bifrost("cluster", "upgrade", "--to", "4").expect(
                    1, saying: "host 3 (\(cluster.hosts[2].address)) registers \(level): start a newer version there")
                let end = ContinuousClock.now + .seconds(180)
                while try await levels(cluster).registered != [top, top, level], ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 100)
                }
                #expect(
                    try await levels(cluster) == Levels(level: level, possible: level, registered: [top, top, level]))
                // An older version does not get the directory of a newer one.
                cluster.local.stop(cluster.hosts[0])
                try await cluster.local.command([
                    "serve", "--directory", cluster.hosts[0].directory, "--listen", cluster.hosts[0].address,
                    "--feature-level", "\(level)",
                ]).expectLast(73, saying: "was used by a version with feature level \(top)")
                try cluster.start(cluster.hosts[0])

                // Right behind the last restart: it is waited for.
                try restart(cluster.hosts[2], of: cluster, level: nil)
                let dry = try await cluster.bifrost("cluster", "upgrade", "--to", "\(top)", "--dry-run", "--json")
                dry.expect(0)
                #expect(try dry.json()["to"] as? Int == top && dry.json()["changed"] as? Bool == false)
                #expect(try await levels(cluster) == Levels(level: level, possible: top, registered: [top, top, top]))
                // Two people at once: one of them did it, or the other, or both find it done.
                async let one = cluster.bifrost("cluster", "upgrade", "--json")
                async let other = cluster.bifrost("cluster", "upgrade", "--json")
                let both = try await [one, other]
                for result in both {
                    result.expect(0)
                    #expect(try result.json()["to"] as? Int == top)
                }
                #expect(try both.count { try $0.json()["changed"] as? Bool == true } >= 1)
                #expect(try await levels(cluster) == Levels(level: top, possible: top, registered: [top, top, top]))
                try await cluster.bifrost("cluster", "upgrade", "--to", "3").expect(1, saying: "never goes back")
                try await cluster.bifrost("cluster", "upgrade", "--to", "\(top + 1)").expect(
                    64, saying: "levels up to \(top)")
                #expect(try await cluster.bifrost("get", "k").text == "v")

                // The fourth is left behind until it is upgraded.
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(
                    1, saying: "feature level \(top)", "knows \(level)", "nothing was changed")
                try restart(cluster.hosts[3], of: cluster, level: nil)
                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4").expect(0)
                let text = try await cluster.bifrost("cluster", "show").text
                #expect(text.contains("feature level \(top)") && text.contains("the highest that this program knows"))
            }
        }
    }
}
