// Directories in which something of a state can't be read: what a recovery's report says of them, and what starts leave.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import Recovery
import Ring
import Storage
import TestSupport
import Testing

@Suite(.ownExecutor) struct StoppedHostTests {
    private let group = GroupID(1)

    private func put(_ keys: Range<Int>, on hosts: TestHosts) async throws {
        let client = try await hosts.client("writer")
        for key in keys {
            let value = Bytes(String(repeating: "v", count: 200) + "\(key)")
            _ = try await client.kv.put(Bytes("key \(key)"), value)
        }
        await client.close()
    }

    private func expect(_ keys: Range<Int>, on hosts: TestHosts) async throws {
        let client = try await hosts.client("reader")
        for key in keys { #expect(try await client.kv.get(Bytes("key \(key)")) != nil, "key \(key)") }
        await client.close()
    }

    /// The store of a host that was stopped a moment ago, and lets its directory go by and by.
    private func withStore<Result>(of path: String, _ body: (LMDBDisk) throws -> Result) async throws -> Result {
        var disk: LMDBDisk?
        try await wait(for: "the store of \(path)") {
            disk = try? LMDBDisk(directory: path + "/store")
            return disk != nil
        }
        return try body(try #require(disk))
    }

    private func report(_ path: String) async throws -> Recovery.HostReport {
        var host: StoppedHost?
        try await wait(for: "the directory \(path)") {
            host = try? StoppedHost(directory: path)
            return host != nil
        }
        return try #require(host).report()
    }

    private func damageManifest(of replica: ReplicaID, in path: String) async throws {
        try await withStore(of: path) { disk in
            try disk.write { writer in
                try writer.put(DiskKey(table: 2, high: replica.rawValue), count: 5, append: false) { place in
                    for byte in place.indices { place[byte] = 77 }
                }
            }
        }
    }

    /// Its log goes back to the beginning: a start makes the state anew, and with it the group has a quorum. Who went on
    /// from the other survivor would lose what that one lacks.
    @Test func aReplicaThatAStartMakesSoundIsReportedSo() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1) { hosts in
            try await put(0..<20, on: hosts)
            // Each has something of each group.
            try await hosts.waitForEqualStates()
            await hosts.stop(1)
            try await put(20..<60, on: hosts)
            await hosts.stopAll()
            for group in [group, .meta] {
                let replica = try #require(hosts.map.group(group)?.replica(on: HostID(3)))
                try await damageManifest(of: replica, in: hosts.path(2))
            }

            let behind = try await report(hosts.path(1))
            let found = try await report(hosts.path(2))
            for group in [group, .meta] {
                let reported = try #require(found.replicas.first { $0.group == group })
                let other = try #require(behind.replicas.first { $0.group == group })
                #expect(reported.base == .zero && reported.applied == .zero)
                #expect(reported.impairment == nil && !reported.isMute)
                #expect(reported.last >= other.last)
            }
            #expect(found.metaMap != nil && found.problem() == nil)
            var refusal = ""
            do { _ = try RecoveryPlanner.plan([behind, found], cluster: ClusterID(high: 8, low: 9)) } catch {
                refusal = "\(error)"
            }
            #expect(refusal.contains("no group has lost its quorum"), "\(refusal)")

            // And so it is.
            try await hosts.start(1, loops: 1)
            try await hosts.start(2, loops: 1)
            try await expect(0..<60, on: hosts)
        }
    }
}
