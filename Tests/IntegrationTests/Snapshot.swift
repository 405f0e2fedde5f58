// Snapshots. It proves that a replica that needs what is in no log any more gets its leader's state, is equal to the others
// then, has it on its own disk, and goes on by the log; under faults too. That an increment has only what changed:
// `Snapshot` in HostCoreTests.

import Bifrost
import BifrostSimulator
import BifrostTool
import Foundation
import HostCore
import Messages
import Primitives
import Storage
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct Snapshot {
        /// Journals that wait for nobody, and hosts that are down or cut off for a while.
        @Test func replicasThatWereLeftBehindGoOnFromSnapshotsUnderFaults() throws {
            var total = SimulationReport()
            for seed in 1...12 as ClosedRange<UInt64> {
                let run = try SimulatedRun(
                    seed: seed, SimulationSettings(seconds: 20),
                    adjust: { plan in
                        plan.settings.journalBytesForLaggards = 5_000
                        plan.weights[SimulatedFault.isolate.rawValue] += 4
                        plan.weights[SimulatedFault.crash.rawValue] += 4
                    })
                #expect(run.differentCopy == nil, "seed \(seed)")
                total.add(run.report)
            }
            #expect(total.marks[SimulationMark.snapshotInstalled.rawValue] > 60)
            #expect(total.checkpoints > 1_000 && total.trimmedValues > 1_000)
            print("\(total.marks[SimulationMark.snapshotInstalled.rawValue]) snapshots were installed")
        }

        @Test func aNewReplicaGetsTheStateOfALogThatWasCutAndHasItOnItsOwnDisk() async throws {
            try await withHosts(4) { cluster in
                try cluster.local.startAll()
                let three = cluster.hosts[..<3].map(\.address).joined(separator: ",")
                try await cluster.local.run(["init", "--hosts", three, "--groups", "1"])
                let client = try await cluster.client()
                let block = String(repeating: "snapshot ", count: 20_000)
                @Sendable func value(_ key: Int) -> Bytes { Bytes("\(key) \(block)") }
                try await client.write(0..<120, atATime: 8, value)
                // Above 8 MiB a state goes to the disk, and the log before it may go.
                try await wait("a log that was cut") {
                    try await client.replicas().contains {
                        $0.status.group == GroupID(1) && $0.status.role == .leader && $0.status.firstIndex.rawValue > 20
                    }
                }
                let leader = try #require(
                    try await client.replicas().first { $0.status.group == GroupID(1) && $0.status.role == .leader })
                #expect(leader.status.checkpoints > 0 && leader.status.manifestIndex.rawValue > 20)

                try await cluster.bifrost("host", "add", cluster.hosts[3].address).expect(0)
                try await cluster.bifrost("group", "add-replica", "1", "--host", "4").expect(0)
                #expect(cluster.log(cluster.hosts[3]).contains("goes on from a snapshot"))
                _ = try await client.map(refresh: true)
                try await client.write(120..<140, atATime: 8, value)
                func joined() async throws -> ReplicaView? {
                    let all = try await client.replicas().filter { $0.status.group == GroupID(1) }
                    guard all.count == 4, Set(all.map(\.status.digestIndex)).count == 1,
                        Set(all.map(\.status.digest)).count == 1
                    else { return nil }
                    return all.first { $0.host == HostID(4) }
                }
                try await wait("four equal replicas") { try await joined() != nil }
                let first = try #require(try await joined())
                #expect(first.status.revision == Revision(140) && first.status.firstIndex.rawValue > 20)

                // From its own disk, and from nobody: without the others it shows what the state had, of entries below the 20th.
                let host = cluster.hosts[3]
                for host in cluster.hosts { cluster.local.kill(host) }
                try cluster.start(host)
                let alone = try await cluster.client(at: [host])
                for key in [0, 5, 10] {
                    let found = try await alone.kv.get(Bytes("key \(key)"), .localAt(HostID(4)))
                    #expect(found?.value == value(key), "key \(key)")
                }
                await alone.close()
                for host in cluster.hosts[..<3] { try cluster.start(host) }
                _ = try await cluster.waitForStatus(0)
                #expect(try await client.missing(0..<140, value) == nil)
                await client.close()
            }
        }
    }
}
