// Bytes that change in the files of a running host, and that nobody reads.

import Bifrost
import BifrostHost
import Foundation
import HostCore
import Messages
import Primitives
import RPC
import StateMachines
import Storage
import TestSupport
import Testing

@Suite(.ownExecutor) struct ScrubbingTests {
    /// Small checkpoints, so that most is in runs.
    private static func settings(_ settings: inout HostSettings) {
        ClusterOfLoopsTests.brisk(&settings)
        settings.memtableBytesTrigger = 64 << 10
        settings.journalBytesTrigger = 128 << 10
        settings.snapshotPieceBytes = 20 << 10
        settings.scrubBytesPerSecond = 64 << 20
        settings.scrubRoundNanoseconds = 200_000_000
    }

    private static func value(_ key: Int) -> Bytes {
        Bytes(Array("value \(key) for nobody ".utf8) + Array(repeating: UInt8(key & 0xff), count: 1_000))
    }

    private func put(_ keys: Range<Int>, on hosts: TestHosts) async throws {
        let client = try await hosts.client("writer")
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for key in keys { tasks.addTask { try await client.kv.put(Bytes("key \(key)"), Self.value(key)) } }
            try await tasks.waitForAll()
        }
        await client.close()
    }

    private func expect(_ keys: Range<Int>, on hosts: TestHosts, at number: Int) async throws {
        let client = try await hosts.client("reader")
        for key in keys {
            let found = try await client.kv.get(Bytes("key \(key)"), .linearizableAt(HostID(UInt64(number + 1))))
            #expect((found?.value == Self.value(key)) == true, "key \(key)")
        }
        await client.close()
    }

    private func statistics(_ hosts: TestHosts, _ number: Int) async throws -> ScrubStatistics {
        try await #require(hosts.running[number]).scrubbed()
    }

    @Test func whatChangedInTheStoresFileAndNobodyReadsIsMendedFromTheOthers() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, Self.settings) { hosts in
            try await put(0..<400, on: hosts)
            try await wait(for: "runs on every host") {
                for number in 0..<3 {
                    let replicas = try await hosts.status(number).replicas.filter { $0.group != .meta }
                    guard replicas.allSatisfy({ $0.runs > 0 }) else { return false }
                }
                return true
            }
            let rounds = try await statistics(hosts, 1).rounds
            try await wait(for: "a round through sound data") {
                try await statistics(hosts, 1).rounds > rounds + 1
            }
            #expect(try await statistics(hosts, 1).damages == 0)
            let received = try #require(hosts.running[1]).bulkPayloads.received
            #expect(try flipValues(in: hosts.path(1) + "/store/data.mdb", every: 40) > 0)
            // Nobody reads. A replica that is found so stops, and gets another's state.
            try await wait(for: "damage to be found and mended") {
                let rounds = try await statistics(hosts, 1).rounds
                try await wait(for: "two rounds more") { try await statistics(hosts, 1).rounds > rounds + 2 }
                let damages = try await statistics(hosts, 1).damages
                try await wait(for: "another round") { try await statistics(hosts, 1).rounds > rounds + 3 }
                let problems = try await hosts.status(1).replicas.map(\.problem).filter { !$0.isEmpty }
                let after = try await statistics(hosts, 1).damages
                return damages > 0 && after == damages && problems.isEmpty
            }
            #expect(try #require(hosts.running[1]).bulkPayloads.received > received, "states of other hosts")
            // As `status` shows it.
            let client = try await hosts.client("operator")
            let upkeep = try #require(try await client.status()[1].upkeep)
            await client.close()
            #expect(upkeep.damages > 0 && upkeep.scrubRounds > 2 && upkeep.sinceRoundMillis < 60_000)
            #expect(upkeep.lastRoundBytes > 100_000 && upkeep.scrubbedBytes > upkeep.lastRoundBytes)
            for number in [0, 2] { #expect(try await statistics(hosts, number).damages == 0, "its files are sound") }
            try await hosts.waitForEqualStates()
            try await expect(0..<400, on: hosts, at: 1)
            // What it has on disk now is sound: a start finds nothing, nor does a merge.
            await hosts.stop(1)
            try await hosts.start(1, loops: 1)
            try await hosts.waitForEqualStates()
            try await expect(0..<400, on: hosts, at: 1)
            #expect(try await hosts.status(1).replicas.allSatisfy { $0.problem.isEmpty })
        }
    }

    /// A journal's record that nobody reads: its replica gets another id, as it would after a start.
    @Test func aReplicaWhoseJournalChangedUnderARunningHostIsReplaced() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, featureLevel: FeatureLevel.membership) { settings in
            Self.settings(&settings)
            settings.memtableBytesTrigger = 8 << 20
            settings.journalBytesTrigger = 8 << 20
        } _: { hosts in
            try await put(0..<40, on: hosts)
            try await hosts.waitForEqualStates()
            let before = try await hosts.status(1).replicas.first { $0.group != .meta }?.replica
            #expect(try flipValues(in: hosts.path(1) + "/journal/data.mdb", every: 5) > 0)
            try await wait(for: "another replica in its place") {
                let replica = try await hosts.status(1).replicas.first { $0.group != .meta }
                return replica.map { $0.replica != before && $0.problem.isEmpty } ?? false
            }
            #expect(try await statistics(hosts, 1).damages > 0)
            try await hosts.waitForEqualStates()
            try await expect(0..<40, on: hosts, at: 1)
        }
    }

    /// Flips a bit in each `every`th value that is found, by its own text, in the file. Returns how many.
    private func flipValues(in path: String, every: Int) throws -> Int {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? file.close() }
        let bytes = try #require(try file.readToEnd())
        let text = Data(" for nobody ".utf8)
        var place = bytes.startIndex
        var found = 0
        var changed = 0
        while let range = bytes.range(of: text, in: place..<bytes.endIndex) {
            place = range.upperBound
            found += 1
            guard found % every == 0 else { continue }
            try file.seek(toOffset: UInt64(range.lowerBound + 4))
            try file.write(contentsOf: Data([bytes[range.lowerBound + 4] ^ 1]))
            changed += 1
        }
        return changed
    }
}
