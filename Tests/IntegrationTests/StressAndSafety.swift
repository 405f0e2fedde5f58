// Stress and safety. It proves that what clients saw is linearizable, whatever happened to real hosts under load: they are
// killed, all at once too, and stopped for longer than an election takes, while clients write, change on conditions and
// read in all ways that promise to be linearizable. `Tools/chaos` does more of it: partitions, disks that fail and fill up,
// changed bytes.

import Bifrost
import BifrostTool
import Foundation
import Linearizability
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct StressAndSafety {
        @Test func whatClientsSawIsLinearizableThoughHostsAreKilledAndStopped() async throws {
            try await withCluster { cluster in
                let history = try await withRecordedLoad(cluster) { load in
                    for (round, host) in cluster.hosts.enumerated() {
                        load.begin(round)
                        try await load.progress(by: 300)
                        cluster.local.kill(host)
                        try await load.progress(by: 300)
                        try cluster.start(host)
                        _ = try await cluster.waitForStatus(0)
                        if round < 2 {
                            let other = cluster.hosts[(round + 1) % 3]
                            other.process?.send(SIGSTOP)
                            await OwnExecutor.pause(milliseconds: 1_500)
                            other.process?.send(SIGCONT)
                        }
                        try await load.progress(by: 300)
                    }
                    load.begin(3)
                    try await load.progress(by: 300)
                    for host in cluster.hosts { cluster.local.kill(host) }
                    try cluster.local.startAll()
                    _ = try await cluster.waitForStatus(0)
                    try await load.progress(by: 300)
                }

                // The same with one write that nobody would have seen again.
                var read: Set<Bytes> = []
                for record in history { if case .ok(.found(let value?, _)) = record.outcome { read.insert(value) } }
                let place = try #require(
                    history.firstIndex {
                        if case .put(let value) = $0.input, case .ok = $0.outcome {
                            read.contains(value)
                        } else {
                            false
                        }
                    })
                var broken = history
                broken.remove(at: place)
                #expect(!HistoryReport(checking: broken).isLinearizable)
            }
        }
    }
}
