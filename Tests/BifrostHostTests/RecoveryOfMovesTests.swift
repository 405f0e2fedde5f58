// Groups that lose their quorum while slots move between them, on real hosts: what one of three knew is gone on from.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import RPC
import Recovery
import Ring
import TestSupport
import Testing

@Suite(.ownExecutor) struct RecoveryOfMovesTests {
    private static func brisk(_ settings: inout HostSettings) {
        settings.tickNanoseconds = 25_000_000
        settings.featureLevel = FeatureLevel.migrations
    }

    /// Of a host that was stopped a moment ago, and lets its directory go by and by.
    private func withStopped<Result>(_ path: String, _ body: (StoppedHost) throws -> Result) async throws -> Result {
        var host: StoppedHost?
        try await wait(for: "the directory \(path)") {
            host = try? StoppedHost(directory: path, level: FeatureLevel.migrations)
            return host != nil
        }
        return try body(try #require(host))
    }

    @Test(arguments: 0..<6) func oneOfThreeHostsGoesOnWithEachSlotInOneGroup(round: Int) async throws {
        try await withHosts(loops: [1, 1, 2], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let (one, two) = (GroupID(1), GroupID(2))
            let keys = (0..<40).map { Bytes("{tag \($0)}") }
            let slots = Set(keys.map { Ring.slot(of: $0) }).sorted()
            let writer = try await hosts.client()
            for key in keys { try await writer.kv.put(key, Bytes("\(key)")) }
            await writer.close()
            let moves = MovesOperator(addresses: hosts.addresses)
            // In some rounds they have moved before.
            if round % 2 == 1 { try await moves.move(slots, from: one, to: two) }
            let (source, target) = round % 2 == 1 ? (two, one) : (one, two)
            try await hosts.waitForEqualStates()
            _ = try await moves.begin(slots, from: source, to: target)
            // Wherever that meets it: nothing that follows depends on it.
            await OwnExecutor.pause(milliseconds: 20 * round)
            await hosts.stopAll()

            let path = hosts.path(2)
            let report = try await withStopped(path) { try $0.report() }
            #expect(report.problem() == nil)
            let plan = try RecoveryPlanner.plan([report], cluster: ClusterID(high: 12, low: UInt64(round + 1)))
            let isChanged = try await withStopped(path) { try $0.apply(plan) }
            #expect(isChanged)
            let mayLack = plan.settlements?.contains { $0.mayLack } ?? false
            print("round \(round): \(plan.settlements?.map(\.account) ?? ["nothing was on the move"])")

            try await hosts.start(2, loops: 2)
            let after = MovesOperator(addresses: hosts.addresses)
            _ = try await after.waitUntilOver(since: 0)
            let client = try await hosts.client()
            for key in keys where !mayLack {
                #expect(try await client.kv.get(key)?.value == Bytes("\(key)"), "\(key)")
            }
            for key in keys { try await client.kv.put(key, "after") }
            // Whatever was left is gone, or the digests of these would differ for ever.
            for (source, target) in [(one, two), (two, one)] {
                try await after.move(slots, from: source, to: target)
                for key in keys { #expect(try await client.kv.get(key)?.value == "after", "\(key)") }
            }
            await client.close()
        }
    }
}
