// Directories in which something of a state can't be read: what a recovery's report says of them, and starts leave.

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

    /// Keys of all chunks, and whether the store finds the replica damaged.
    private func look(at replica: ReplicaID, in path: String) async throws -> (chunks: [DiskKey], isDamaged: Bool) {
        try await withStore(of: path) { disk in
            let isDamaged = try Store(disk: disk).damaged().contains { $0.replica == replica }
            var chunks: [DiskKey] = []
            try disk.read { reader in
                try reader.scan(
                    from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)
                ) { key, _ in
                    chunks.append(key)
                    return true
                }
            }
            return (chunks, isDamaged)
        }
    }

    private func replica(_ number: Int, of hosts: TestHosts) throws -> ReplicaID {
        try #require(hosts.map.group(group)?.replica(on: HostID(UInt64(number + 1))))
    }

    /// Its log goes back to the beginning: a start makes the state anew, and with it the group has a quorum. Who went
    /// on from the other survivor would lose what that one lacks.
    @Test func aReplicaThatAStartMakesSoundIsReportedSo() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1) { hosts in
            try await put(0..<20, on: hosts)
            // The meta group's log begins with an entry of its leader, and then the map.
            try await wait(for: "the map in the meta group's log") {
                try await hosts.status(1).replicas.contains { $0.group == .meta && $0.appliedIndex >= LogIndex(2) }
            }
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

    /// Nobody may have another: what can't be read is not deleted, however often it is started.
    @Test func whatCantBeReadStaysUntilAnotherMemberGivesAState() async throws {
        func forgetful(_ settings: inout HostSettings) {
            settings.journalBytesForLaggards = 1
            settings.memtableBytesTrigger = 4_000
        }
        try await withHosts(loops: [1, 1, 1], groups: 1, forgetful) { hosts in
            try await put(0..<200, on: hosts)
            try await wait(for: "a log that begins behind the beginning") {
                let replica = try await hosts.status(0).replicas.first { $0.group == group }
                return try #require(replica).firstIndex > LogIndex(1) && replica?.runs != 0
            }
            await hosts.stopAll()
            let id = try replica(0, of: hosts)
            try await damageManifest(of: id, in: hosts.path(0))
            let before = try await look(at: id, in: hosts.path(0))
            #expect(before.isDamaged && !before.chunks.isEmpty)
            let reported = try #require(try await report(hosts.path(0)).replicas.first { $0.group == group })
            #expect(reported.impairment?.contains("its state can't be read") == true, "\(reported)")

            for life in 1...2 {
                try await hosts.start(0, loops: 1)
                var problem = ""
                try await wait(for: "a word on the damage, found \(problem)") {
                    problem = try await hosts.status(0).replicas.first { $0.group == group }?.problem ?? ""
                    return problem.contains("its state can't be read, and stays on the disk")
                }
                await hosts.stop(0)
                let after = try await look(at: id, in: hosts.path(0))
                #expect(after.isDamaged && Set(before.chunks).isSubset(of: after.chunks), "life \(life)")
            }

            for number in 0..<3 { try await hosts.start(number, loops: 1) }
            try await hosts.waitForEqualStates()
            #expect(try await hosts.status(0).replicas.allSatisfy { $0.problem.isEmpty })
            try await expect(0..<200, on: hosts)
            await hosts.stopAll()
            #expect(try await look(at: id, in: hosts.path(0)).isDamaged == false)
        }
    }
}
