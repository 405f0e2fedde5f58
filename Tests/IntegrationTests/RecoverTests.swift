// A majority of hosts is lost for good; what is left becomes a cluster again.

import Bifrost
import BifrostTool
import Foundation
import Messages
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct RecoverTests {
        private func records(_ count: Int, _ value: String) -> [UInt8] {
            Array((0..<count).map { "key-\($0)\t\(value)-\($0)\n" }.joined().utf8)
        }

        private func export(_ cluster: TestCluster, at host: LocalCluster.HostProcess) async throws -> String {
            let result = try await cluster.bifrost("export", "-", "--sorted", at: [host])
            result.expect(0)
            return result.text
        }

        /// Runs `recover WORDS…`.
        @discardableResult private func recover(
            _ cluster: TestCluster, _ words: String..., input: [UInt8]? = nil
        ) async throws -> ChildProcess.Result {
            try await cluster.local.command(["recover"] + words, input: input, limit: .seconds(180))
        }

        private func voters(_ group: String, _ cluster: TestCluster, at host: LocalCluster.HostProcess) async throws
            -> [Int]
        {
            let report = try await cluster.bifrost("group", "members", group, "--json", at: [host]).json()
            return try #require(report["replicas"] as? [[String: Any]])
                .filter { $0["reported"] as? String == "voter" && $0["wanted"] as? String == "voter" }
                .compactMap { $0["host"] as? Int }.sorted()
        }

        private func waitForVoters(
            _ hosts: [Int], of group: String, _ cluster: TestCluster, at host: LocalCluster.HostProcess
        ) async throws {
            let end = ContinuousClock.now + .seconds(180)
            var found: [Int] = []
            while ContinuousClock.now < end {
                found = (try? await voters(group, cluster, at: host)) ?? []
                if found == hosts { return }
                await OwnExecutor.pause(milliseconds: 100)
            }
            Issue.record(
                "group \(group): voters on \(found) after 180 s, expected \(hosts); log:\n\(cluster.log(host))")
        }

        @Test func theLastOfThreeHostsGoesOnAlone() async throws {
            try await withCluster { cluster in
                let (gone, former, last) = (cluster.hosts[0], cluster.hosts[1], cluster.hosts[2])
                try await cluster.bifrost("import", "-", input: records(500, "first")).expect(0)
                let before = try await export(cluster, at: last)
                #expect(before.split(separator: "\n").count == 500)
                // The last one has to have it all.
                let client = try await cluster.client()
                #expect(try await KillTests.disagreement(client) == nil)
                await client.close()
                func path(_ name: String) -> String { cluster.directory + "/" + name }
                try await recover(cluster, "report", "--directory", last.directory, "-o", path("r")).expect(
                    73, saying: "has it open")

                // All stop; the directory of one is gone, the one of another is thought to be.
                cluster.local.stop(cluster.hosts)
                let files = FileManager.default
                try files.removeItem(atPath: gone.directory)

                try await recover(cluster, "report", "--directory", gone.directory, "-o", path("r")).expect(
                    73, saying: "found none")
                #expect(!files.fileExists(atPath: gone.directory), "nothing is made")
                let reported = try await recover(
                    cluster, "report", "--directory", last.directory, "-o", path("r3"), "--json")
                reported.expect(0)
                #expect((try reported.json()["replicas"] as? [Any])?.count == 5)
                try await recover(cluster, "show", path("r3")).expect(0)
                let planned = try await recover(cluster, "plan", path("r3"), "-o", path("plan"))
                planned.expect(0)
                #expect(planned.text.contains("NEVER START host 1, host 2 AGAIN"), "\(planned.text)")
                let shown = try await recover(cluster, "show", path("plan"), "--json").json()
                #expect(
                    (shown["groups"] as? [[String: Any]])?.allSatisfy { $0["outcome"] as? String == "recovered" }
                        == true)
                try await recover(cluster, "apply", path("r3"), "--directory", last.directory).expect(
                    65, saying: "expected a plan")

                // Not confirmed: nothing happens.
                for answer in ["", "yes\n"] {
                    let refused = try await recover(
                        cluster, "apply", path("plan"), "--directory", last.directory, input: Array(answer.utf8))
                    refused.expectLast(1, saying: "nothing was changed")
                    #expect(refused.errorText.contains("MAY BE LOST"), "\(refused.errorText)")
                }
                // The other's directory is none of the plan's.
                try await recover(cluster, "apply", path("plan"), "--directory", former.directory, "--yes").expect(
                    64, saying: "not for host 2")

                // A crash behind the first commit: neither store nor map know anything of it.
                for name in ["store", "cluster-map"] {
                    try files.copyItem(atPath: last.directory + "/" + name, toPath: path("old-\(name)"))
                }
                let applied = try await recover(
                    cluster, "apply", path("plan"), "--directory", last.directory, input: Array("recover host 3\n".utf8)
                )
                #expect(applied.ending == .exit(0), "\(applied.errorText)")
                for name in ["store", "cluster-map"] {
                    try files.removeItem(atPath: last.directory + "/" + name)
                    try files.copyItem(atPath: path("old-\(name)"), toPath: last.directory + "/" + name)
                }
                let refused = try await cluster.local.command(
                    ["serve", "--directory", last.directory, "--listen", last.address], limit: .seconds(180))
                #expect(
                    refused.ending == .exit(73) && refused.errorText.contains("recover apply"), "\(refused.errorText)")
                try await recover(cluster, "report", "--directory", last.directory, "-o", path("r")).expect(
                    73, saying: "interrupted")
                let resumed = try await recover(
                    cluster, "apply", path("plan"), "--directory", last.directory, "--json")
                #expect(try resumed.json()["changed"] as? Bool == true)
                let again = try await recover(cluster, "apply", path("plan"), "--directory", last.directory, "--json")
                #expect(try again.json()["changed"] as? Bool == false)

                // It serves, and has all.
                try cluster.start(last)
                #expect(try await export(cluster, at: last) == before)
                try await cluster.bifrost("put", "after", "it", at: [last]).expect(0)
                #expect(try await cluster.bifrost("get", "after", at: [last]).text == "it")
                try await recover(cluster, "report", "--directory", last.directory, "-o", path("r")).expect(
                    73, saying: "has it open")

                // The one that was thought to be lost comes back with the old cluster: nobody listens.
                try cluster.start(former)
                let end = ContinuousClock.now + .seconds(180)
                while !cluster.log(former).contains("belongs to cluster"), ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 100)
                }
                #expect(cluster.log(former).contains("belongs to cluster"), "\(cluster.log(former))")
                try await cluster.bifrost("put", "lost", "it", "--timeout", "2s", at: [former]).expect(4)
                #expect(try await voters("1", cluster, at: last) == [3])
                cluster.local.stop(former)

                // New, empty, it may join, and gets replicas.
                try files.removeItem(atPath: former.directory)
                try cluster.start(former)
                let added = try await cluster.bifrost("host", "add", former.address, "--json", at: [last])
                added.expect(0)
                #expect(try added.json()["host"] as? Int == 4)
                for group in ["meta", "1", "2"] {
                    try await cluster.bifrost("group", "add-replica", group, "--host", "4", at: [last]).expect(0)
                    #expect(try await voters(group, cluster, at: last) == [3, 4])
                }
                // A restart changes nothing of it.
                cluster.local.stop([last, former])
                try cluster.start(last)
                try cluster.start(former)
                #expect(try await cluster.bifrost("get", "key-7", at: [last]).text == "first-7")
                try await waitForVoters([3, 4], of: "1", cluster, at: last)
            }
        }

        /// Each group has one replica. The host of the meta group is lost, and so is all that only it had.
        @Test func whatNobodyHasBeginsAnewAndTheMapComesFromACopy() async throws {
            try await withHosts(3) { cluster in
                try cluster.local.startAll()
                try await cluster.local.run([
                    "init", "--hosts", cluster.local.addresses, "--groups", "6", "--replicas", "1",
                ])
                try await cluster.bifrost("import", "-", input: records(300, "first")).expect(0)
                let before = try await export(cluster, at: cluster.hosts[0]).split(separator: "\n")
                let meta = try #require(try await voters("meta", cluster, at: cluster.hosts[0]).first)
                var empty = ["--accept-empty", "meta"]
                for group in 1...6 {
                    let places = try await voters("\(group)", cluster, at: cluster.hosts[0])
                    if places == [meta] { empty += ["--accept-empty", "\(group)"] }
                }
                #expect(empty.count == 6, "the meta group's host has two others: \(empty)")
                cluster.local.stop(cluster.hosts)

                func path(_ name: String) -> String { cluster.directory + "/" + name }
                let survivors = cluster.hosts.filter { $0.number != meta }
                for host in survivors {
                    try await recover(
                        cluster, "report", "--directory", host.directory, "-o", path("r\(host.number)")
                    ).expect(0)
                }
                let plan = ["recover", "plan", "-o", path("plan")] + survivors.map { path("r\($0.number)") }
                try await cluster.local.command(plan).expect(
                    1, saying: "nobody has anything sound", "--accept-empty meta")
                #expect(!FileManager.default.fileExists(atPath: path("plan")))
                let planned = try await cluster.local.command(plan + empty)
                #expect(planned.ending == .exit(0) && planned.text.contains("EMPTY"), "\(planned.errorText)")
                for host in survivors {
                    let applied = try await recover(
                        cluster, "apply", path("plan"), "--directory", host.directory, "--yes")
                    #expect(applied.ending == .exit(0), "\(applied.errorText)")
                    try cluster.start(host)
                }
                let imported = try await cluster.bifrost("put", "new", "it", "--timeout", "170s", at: survivors)
                imported.expect(0)
                let after = try await export(cluster, at: survivors[0]).split(separator: "\n")
                #expect(Set(after).subtracting(before) == ["new\tit"])
                #expect(after.count > 100 && after.count < 290, "\(after.count) of 300 are left")
                try await cluster.bifrost("import", "-", input: records(300, "again"), at: survivors).expect(0)
                // The meta group has the map, and takes changes.
                try await cluster.bifrost("host", "drain", "\(survivors[0].number)", "--no-wait", at: survivors).expect(
                    0)
            }
        }

        /// Two of five survive, one of them far behind: the other is what the groups go on from, and the first learns.
        @Test func ofTwoSurvivorsTheOneWithMoreLeadsAndTheOtherCatchesUp() async throws {
            try await withHosts(5) { cluster in
                try cluster.local.startAll()
                try await cluster.local.run([
                    "init", "--hosts", cluster.local.addresses, "--groups", "2", "--replicas", "5",
                ])
                let (fourth, fifth) = (cluster.hosts[3], cluster.hosts[4])
                try await cluster.bifrost("import", "-", input: records(100, "first")).expect(0)
                cluster.local.kill(fifth)
                try await cluster.bifrost(
                    "import", "-", input: records(300, "second"), at: Array(cluster.hosts[..<4])
                ).expect(0)
                let before = try await export(cluster, at: fourth)
                // Followers know what is committed a moment after it is.
                let client = try await cluster.client(at: Array(cluster.hosts[..<4]))
                try await wait("four equal replicas of each group") {
                    let groups = Dictionary(grouping: try await client.replicas(), by: \.status.group).values
                    return groups.count == 3
                        && groups.allSatisfy { $0.count == 4 && Set($0.map(\.status.appliedIndex)).count == 1 }
                }
                await client.close()
                for host in cluster.hosts[..<4] { cluster.local.kill(host) }

                func path(_ name: String) -> String { cluster.directory + "/" + name }
                for host in [fourth, fifth] {
                    try await recover(
                        cluster, "report", "--directory", host.directory, "-o", path("r\(host.number)")
                    ).expect(0)
                }
                let planned = try await recover(
                    cluster, "plan", path("r\(fourth.number)"), path("r\(fifth.number)"), "-o", path("plan"), "--json")
                planned.expect(0)
                let groups = try #require(try planned.json()["groups"] as? [[String: Any]])
                #expect(groups.count == 3 && groups.dropFirst().allSatisfy { $0["baseHost"] as? Int == 4 }, "\(groups)")
                for host in [fifth, fourth] {
                    let applied = try await recover(
                        cluster, "apply", path("plan"), "--directory", host.directory, "--yes")
                    #expect(applied.ending == .exit(0), "\(applied.errorText)")
                }
                try cluster.start(fifth)
                try cluster.start(fourth)
                for group in ["meta", "1", "2"] { try await waitForVoters([4, 5], of: group, cluster, at: fourth) }
                #expect(try await export(cluster, at: fourth) == before)
                try await cluster.bifrost("put", "after", "it", at: [fourth, fifth]).expect(0)
                // Either of them has it all.
                cluster.local.kill(fourth)
                cluster.local.kill(fifth)
                try cluster.start(fourth)
                try cluster.start(fifth)
                #expect(try await cluster.bifrost("get", "key-299", at: [fifth]).text == "second-299")
                // A moment after one group has a leader all of them have.
                _ = try await cluster.waitForStatus(0)
            }
        }
    }
}
