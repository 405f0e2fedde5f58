// Stress and benchmark. It proves that hosts in processes of their own take all that clients give them and lose none of it:
// as many increments are in the groups as were acknowledged, each record is there, and all replicas have it; and that
// `bench` measures that, says how fast it was for each group, and reads back what it wrote. The figures that count are
// taken with nothing beside them: Documentation/Measurements.md.

import Bifrost
import BifrostTool
import Messages
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct StressAndBenchmark {
        @Test func nothingOfMuchIsLostAndTheRateIsKnown() async throws {
            try await withCluster(groups: 8) { cluster in
                let client = try await cluster.client()
                let count = 40_000
                // In pieces: one that the machine stood still in says nothing of the others.
                var (seconds, fastest) = (0.0, 0.0)
                let piece = count / 8
                for first in stride(from: 0, to: count, by: piece) {
                    let begin = ContinuousClock.now
                    try await client.write(first..<first + piece, atATime: 1_024) { Bytes("value \($0)") }
                    let taken = (ContinuousClock.now - begin) / .seconds(1)
                    (seconds, fastest) = (seconds + taken, max(fastest, Double(piece) / taken))
                }
                #expect(try await KillTests.disagreement(client) == nil)
                // Each put adds one to its group's revision.
                var leaders: [ReplicaView] = []
                try await wait("leaders") {
                    leaders = try await client.replicas().filter {
                        $0.status.role == .leader && $0.status.group != .meta
                    }
                    return leaders.count == 8
                }
                #expect(leaders.count == 8 && leaders.allSatisfy { $0.status.revision.rawValue > 1_000 })
                #expect(leaders.reduce(0) { $0 + Int($1.status.revision.rawValue) } == count)
                #expect(try await client.missing(0..<count) { Bytes("value \($0)") } == nil)
                // Who looks for what is missing finds it.
                _ = try await client.kv.delete("key 777")
                #expect(try await client.missing(0..<1_000) { Bytes("value \($0)") } == 777)
                #expect(fastest > 1_000, "puts per second")
                print("\(count) puts of 1,024 callers in \(seconds) s: \(Int(Double(count) / seconds)) per second")
                await client.close()
            }
        }

        @Test(arguments: [0, 50]) func aBenchmarkCountsReadsBackAndReports(reads: Int) async throws {
            try await withHosts(1) { cluster in
                var report: [String: Any] = [:]
                // Again where the machine stood still meanwhile.
                for _ in 0..<4 where report["operationsPerSecond"] as? Double ?? 0 <= 1_000 {
                    let result = try await cluster.local.command(
                        [
                            "bench", "--local", "3", "--directory", "/var/tmp", "--groups", "4", "--keys", "20000",
                            "--window", "128", "--seconds", "2", "--seconds-max", "150", "--payload", "512", "--reads",
                            "\(reads)", "--json",
                        ], limit: .seconds(400))
                    result.expect(0)
                    report = try result.json()
                }
                #expect(report["errors"] as? Int == 0)
                #expect(report["verified"] as? Int == 10_000 && report["verifiedOf"] as? Int == 10_000)
                let rate = try #require(report["operationsPerSecond"] as? Double)
                let groups = try #require(report["groups"] as? [[String: Any]])
                let rates = groups.compactMap { $0["operationsPerSecond"] as? Double }
                #expect(rates.count == 4 && rates.allSatisfy { $0 > 100 })
                #expect(abs(rates.reduce(0, +) - rate) < rate / 100, "the groups' rates are the whole")
                #expect(rate > 1_000 && (report["operations"] as? Int ?? 0) > 2_000)
                let microseconds = try #require(report["cpuMicrosPerOperation"] as? Double)
                #expect(microseconds > 0.5)
                let percentiles = ["p50Micros", "p99Micros", "p999Micros"].compactMap { report[$0] as? Int }
                #expect(percentiles.count == 3 && percentiles == percentiles.sorted() && percentiles[0] > 0)
                print("\(reads) % reads: \(Int(rate)) operations/s, \(microseconds) CPU µs each")
            }
        }
    }
}
