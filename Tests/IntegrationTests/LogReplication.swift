// Log replication. It proves that all replicas of a group come to equal states, whatever parts them meanwhile: what was
// acknowledged is in each of them; that a follower that was away gets what it missed from its leader's log; and that
// digests tell states that differ.

import Bifrost
import BifrostSimulator
import BifrostTool
import Foundation
import Messages
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct LogReplication {
        @Test func allReplicasAreEqualAfterPartitions() throws {
            var total = SimulationReport()
            for seed in 1...12 as ClosedRange<UInt64> {
                let run = try SimulatedRun(
                    seed: seed, SimulationSettings(seconds: 20),
                    only: [.isolate, .partition, .cutOneWay, .clog, .narrow, .resetPeers, .pause],
                    adjust: { $0.faultPauseNanosecondsMax = min($0.faultPauseNanosecondsMax, 1_500_000_000) })
                #expect(run.differentCopy == nil, "seed \(seed)")
                // One copy that is another one would be seen.
                var broken = run
                broken.operations[run.operations.count - 1].outcome = .found("of nobody", revision: 1)
                #expect(broken.differentCopy != nil)
                total.add(run.report)
            }
            #expect(total.faults > 200 && total.crashes <= 12 * 7, "crashes only at the very end")
            #expect(total.marks[SimulationMark.logTruncated.rawValue] > 0, "no log was ever cut back")
            #expect(total.marks[SimulationMark.entriesReadBack.rawValue] > 0, "no follower was far behind")
            print("\(total)")
        }

        /// Fewer bytes than the least that a journal is cut for: all that it missed is in the others' logs.
        @Test func aFollowerFarBehindCatchesUpFromTheLog() async throws {
            try await withCluster(groups: 2) { cluster in
                let client = try await cluster.client()
                try await client.write(0..<500) { Bytes("first \($0)") }
                let away = cluster.hosts[2]
                cluster.local.kill(away)
                try await client.write(200..<5_200) { Bytes("second \($0)") }
                let others = try await client.replicas()
                #expect(Set(others.map(\.host)).count == 2)
                #expect(others.allSatisfy { $0.status.firstIndex.rawValue <= 1 }, "their logs go back to the beginning")
                let begin = ContinuousClock.now
                try cluster.start(away)
                #expect(try await KillTests.disagreement(client) == nil)
                let time = ContinuousClock.now - begin
                let all = try await client.replicas()
                let caughtUp = all.filter { $0.host == HostID(3) && $0.status.group != .meta }
                #expect(caughtUp.count == 2)
                #expect(caughtUp.reduce(0) { $0 + $1.status.revision.rawValue } == 5_500)
                #expect(!cluster.log(away).contains("goes on from a snapshot"), "from the log, not from a state")
                #expect(try await client.missing(0..<200) { Bytes("first \($0)") } == nil)
                #expect(try await client.missing(200..<5_200) { Bytes("second \($0)") } == nil)
                print("a follower 5,000 entries behind was equal \(time) after its start")
                await client.close()
            }
        }

        /// A stopped process keeps its connections, and hears all at once later. Two of three go on.
        @Test func replicasOfHostsThatStandStillInTurnAreEqualInTheEnd() async throws {
            try await withCluster { cluster in
                let client = try await cluster.client()
                let load = KeyedLoad(workers: 16, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
                for host in cluster.hosts {
                    try await load.progress(by: 200)
                    host.process?.send(SIGSTOP)
                    await OwnExecutor.pause(milliseconds: 1_500)
                    try await load.progress(by: 200)
                    host.process?.send(SIGCONT)
                    _ = try await cluster.waitForStatus(0)
                }
                load.stop()
                await running.value
                #expect(load.unexpected == nil)
                #expect(try await load.lost(client) == nil)
                #expect(try await KillTests.disagreement(client) == nil)
                // A digest is of what was written: another write, another digest.
                func digests() async throws -> [GroupID: UInt64] {
                    #expect(try await KillTests.disagreement(client) == nil)
                    let all = try await client.replicas().filter { $0.status.group != .meta }
                    return Dictionary(all.map { ($0.status.group, $0.status.digest) }) { $1 }
                }
                let before = try await digests()
                _ = try await client.kv.put("one more", "1")
                let after = try await digests()
                #expect(before.count == 4 && after.count { before[$0.key] != $0.value } == 1)
                await client.close()
            }
        }
    }
}
