// Snapshots between real hosts: one that was away too long, one whose file has damaged bytes, one whose store is gone.

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

@Suite(.ownExecutor) struct SnapshotTests {
    /// Journals wait for nobody, checkpoints are small, pieces too.
    private static func forgetful(_ settings: inout HostSettings) {
        ClusterOfLoopsTests.brisk(&settings)
        settings.journalBytesForLaggards = 100 << 10
        settings.memtableBytesTrigger = 64 << 10
        settings.journalBytesTrigger = 128 << 10
        settings.snapshotPieceBytes = 20 << 10
    }

    private static func value(_ key: Int, _ round: Int) -> Bytes {
        Bytes(Array("value \(key) of round \(round) ".utf8) + Array(repeating: UInt8(key & 0xff), count: 1_000))
    }

    private func put(_ keys: Range<Int>, round: Int, on hosts: TestHosts) async throws {
        let client = try await hosts.client("writer")
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for key in keys {
                tasks.addTask { try await client.kv.put(Bytes("key \(key)"), Self.value(key, round)) }
            }
            try await tasks.waitForAll()
        }
        await client.close()
    }

    private func expect(_ keys: Range<Int>, round: Int, on hosts: TestHosts, at number: Int) async throws {
        let client = try await hosts.client("reader")
        for key in keys {
            let found = try await client.kv.get(Bytes("key \(key)"), .linearizableAt(HostID(UInt64(number + 1))))
            #expect((found?.value == Self.value(key, round)) == true, "key \(key)")
        }
        await client.close()
    }

    private func firstIndexes(_ hosts: TestHosts, at number: Int) async throws -> [LogIndex] {
        try await hosts.status(number).replicas.filter { $0.group != .meta }.map(\.firstIndex)
    }

    @Test func aHostThatWasAwayTooLongGetsSnapshotsInWholeAndInPart() async throws {
        try await withHosts(loops: [2, 1, 2], groups: 3, Self.forgetful) { hosts in
            // Once from nothing, then as what changed since.
            for round in 0..<2 {
                let isFirst = round == 0
                try await put(0..<200, round: 2 * round, on: hosts)
                try await hosts.waitForEqualStates()
                let last = try await hosts.status(2).replicas.filter { $0.group != .meta }.map(\.lastIndex)
                await hosts.stop(2)
                // Until the logs of the others no longer go back to what it has.
                var writes = 0
                try await wait(for: "the logs to be cut") {
                    try await put(isFirst ? 0..<300 : 0..<150, round: 2 * round + 1, on: hosts)
                    writes += 1
                    for number in 0..<2 {
                        let first = try await firstIndexes(hosts, at: number)
                        guard zip(first, last).allSatisfy({ $0 > $1.next }) else { return false }
                    }
                    return true
                }
                try await hosts.start(2, loops: 1)
                try await hosts.waitForEqualStates()
                try await expect(0..<150, round: 2 * round + 1, on: hosts, at: 2)
                let status = try await hosts.status(2)
                #expect(status.replicas.allSatisfy { $0.problem.isEmpty }, "\(status.replicas.map(\.problem))")
                #expect(status.badFrames == 0)
            }
            // What it got outlives it.
            await hosts.stop(2)
            try await hosts.start(2, loops: 3)
            try await hosts.waitForEqualStates()
            try await expect(0..<150, round: 3, on: hosts, at: 2)
        }
    }

    @Test func damagedBytesInTheFileOfARunningHostAreMendedFromTheOthers() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, Self.forgetful) { hosts in
            try await put(0..<400, round: 0, on: hosts)
            try await wait(for: "runs on every host") {
                for number in 0..<3 {
                    let replicas = try await hosts.status(number).replicas.filter { $0.group != .meta }
                    guard replicas.allSatisfy({ $0.runs > 0 }) else { return false }
                }
                return true
            }
            // Values that are in runs, changed in the store's file under the host's feet.
            let changed = try flipValues(in: hosts.path(1) + "/store/data.mdb", every: 40)
            #expect(changed > 0)
            let before = try #require(hosts.running[1]).bulkPayloads.received
            // A get that meets such a block is refused, and asked again until the replica has another's state.
            let client = try await hosts.client("reader")
            for key in 0..<400 {
                let found = try await client.kv.get(Bytes("key \(key)"), .linearizableAt(HostID(2)))
                #expect((found?.value == Self.value(key, 0)) == true, "key \(key): a wrong answer")
            }
            await client.close()
            try await hosts.waitForEqualStates()
            try await expect(0..<400, round: 0, on: hosts, at: 1)
            #expect(try #require(hosts.running[1]).bulkPayloads.received > before, "states of other hosts")
            #expect(try await hosts.status(1).replicas.allSatisfy { $0.problem.isEmpty })
        }
    }

    /// Flips a bit in each `every`th value that is found, by its own text, in the file. Returns how many.
    private func flipValues(in path: String, every: Int) throws -> Int {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? file.close() }
        let bytes = try #require(try file.readToEnd())
        let text = Data(" of round 0 ".utf8)
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
