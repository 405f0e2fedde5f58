// All hosts are restarted under load, one after the other, as Documentation/Upgrades.md says.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct RollingRestartTests {
        @Test func allHostsAreRestartedInTurnUnderLoadAndNothingIsLost() async throws {
            try await withCluster { cluster in
                try await withRecordedLoad(cluster) { load in
                    for (round, host) in cluster.hosts.enumerated() {
                        load.begin(round)
                        // Nobody goes on before all is well.
                        _ = try await cluster.waitForStatus(0)
                        try await load.progress(by: 300)
                        host.process?.send(SIGTERM)
                        let ending = await host.process?.end(killAfter: .seconds(180)).ending
                        #expect(ending == .exit(0), "\(cluster.log(host))")
                        try await load.progress(by: 300)
                        try cluster.start(host)
                        _ = try await cluster.waitForStatus(0)
                        try await load.progress(by: 300)
                    }
                    load.begin(3)
                    try await cluster.bifrost("group", "spread-leaders", "--no-wait").expect(0)
                    try await load.progress(by: 300)
                }

                // Each process is a new one.
                let status = try await cluster.bifrost("status", "--json").json()
                let hosts = try #require(status["hosts"] as? [[String: Any]])
                #expect(hosts.count == 3)
            }
        }
    }
}
