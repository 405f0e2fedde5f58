// Clusters whose hosts have different numbers of event loops: none of it shows.

import Bifrost
import BifrostHost
import Foundation
import HostCore
import Messages
import Primitives
import RPC
import Ring
import StateMachines
import Storage
import TestSupport
import Testing

@Suite(.ownExecutor) struct ClusterOfLoopsTests {
    /// Ticks short enough that elections do not take most of a test, and long enough for a busy machine.
    static func brisk(_ settings: inout HostSettings) { settings.tickNanoseconds = 25_000_000 }

    /// Puts keys of this name from several clients at once, whose connections land on different loops.
    private func put(_ name: String, _ keys: Range<Int>, on hosts: TestHosts, clients: Int = 3) async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for number in 0..<clients {
                let client = try await hosts.client("writer \(number)")
                tasks.addTask {
                    for key in keys where key % clients == number {
                        try await client.kv.put(Bytes("\(name) \(key)"), Bytes("value \(key) of \(name)"))
                    }
                    await client.close()
                }
            }
            try await tasks.waitForAll()
        }
    }

    private func expect(_ name: String, _ keys: Range<Int>, on hosts: TestHosts, at number: Int? = nil) async throws {
        let client = try await hosts.client("reader")
        let consistency = number.map { ReadConsistency.linearizableAt(HostID(UInt64($0 + 1))) } ?? .linearizable
        try await withThrowingTaskGroup(of: Bool.self) { tasks in
            for key in keys {
                tasks.addTask {
                    let found = try await client.kv.get(Bytes("\(name) \(key)"), consistency)
                    return found?.value == Bytes("value \(key) of \(name)")
                }
            }
            for try await isRight in tasks { #expect(isRight) }
        }
        await client.close()
    }

    @Test func aClientReadsWhatItWroteAtAnyReplica() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            for number in 0..<300 {
                let (key, value) = (Bytes("k\(number % 7)"), Bytes("\(number)"))
                let revision = try await cluster.kv.put(key, value)
                let found = try await cluster.kv.get(key, .session)
                #expect(found?.value == value && found?.revision == revision)
            }
            // Another client's session knows nothing of it, and its own order all the same.
            let other = try await hosts.client()
            var last = Revision.zero
            for _ in 0..<50 {
                let seen = try await other.kv.get("k0", .session)?.revision ?? .zero
                #expect(seen >= last)
                last = seen
            }
            await other.close()
            await cluster.close()
        }
    }

    @Test func hostsWithOneTwoAndThreeLoopsAreOneClusterAndRestartWithOtherNumbers() async throws {
        try await withHosts(loops: [1, 2, 3], groups: 7, Self.brisk) { hosts in
            try await put("a", 0..<300, on: hosts)
            for number in 0..<3 { try await expect("a", 0..<300, on: hosts, at: number) }
            // One after the other, while the rest serves.
            for (number, loops) in [(0, 3), (1, 1), (2, 2)] {
                await hosts.stop(number)
                try await put("b \(number)", 0..<30, on: hosts)
                try await hosts.start(number, loops: loops)
            }
            try await hosts.waitForEqualStates()
            for number in 0..<3 { try await expect("a", 0..<300, on: hosts, at: number) }
            // All at once.
            await hosts.stopAll()
            for (number, loops) in [2, 5, 1].enumerated() { try await hosts.start(number, loops: loops) }
            for number in 0..<3 { try await expect("b \(number)", 0..<30, on: hosts) }
            try await put("a", 300..<400, on: hosts)
            for number in 0..<3 { try await expect("a", 0..<400, on: hosts, at: number) }
            try await hosts.waitForEqualStates()
            for number in 0..<3 {
                let status = try await hosts.status(number)
                #expect(status.peersConnected == 2, "host \(number)")
                #expect(status.badFrames == 0, "host \(number)")
                #expect(status.replicas.count == 8, "host \(number)")
            }
        }
    }

    @Test func aFollowerThatWasAwayCatchesUpOverTheBulkConnection() async throws {
        let adapt: (inout HostSettings) -> Void = {
            Self.brisk(&$0)
            // What is applied leaves the leader's memory soon, and is read back from its journal.
            $0.logMemoryBytesMax = 32 << 10
        }
        try await withHosts(loops: [2, 1, 3], groups: 4, adapt) { hosts in
            try await put("before", 0..<20, on: hosts)
            try await hosts.waitForEqualStates()
            // What is wanted before the bulk connection is up again goes over the other one, which loses nothing: a
            // host that comes back may find all of it there. It is tried until the bulk connection was the first.
            for round in 0..<12 {
                await hosts.stop(2)
                let sent = hosts.running.compactMap { $0?.bulkPayloads.sent }.reduce(0, +)
                let client = try await hosts.client()
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for key in 0..<600 {
                        tasks.addTask {
                            try await client.kv.put(
                                Bytes("big \(key)"), Bytes(Array(repeating: UInt8(round), count: 4_000)))
                        }
                    }
                    try await tasks.waitForAll()
                }
                await client.close()
                try await hosts.start(2, loops: 2)
                try await hosts.waitForEqualStates()
                let isSent = hosts.running.prefix(2).compactMap { $0?.bulkPayloads.sent }.reduce(0, +) > sent
                if isSent, try #require(hosts.running[2]).bulkPayloads.received > 0 { break }
                #expect(round < 11, "nothing came over the bulk connection")
            }
            try await expect("before", 0..<20, on: hosts, at: 2)
        }
    }

    @Test func aReplicaThatDoesNotUnderstandItsLogStopsAndTheHostGoesOn() async throws {
        try await withHosts(loops: [2, 1, 2], groups: 3, Self.brisk) { hosts in
            try await put("k", 0..<60, on: hosts)
            try await hosts.waitForEqualStates()
            await hosts.stopAll()
            // As a newer version would have written it. Its log is the longest, and so no other of the first two can
            // lead.
            let group = GroupID(1)
            let (writer, entry) = try writeUnknownCommand(to: group, on: hosts)
            try await hosts.start(writer, loops: 2)
            try await hosts.start((writer + 1) % 3, loops: 3)
            try await wait(for: "the leader to stop") {
                try await hosts.status(writer).replicas.contains { $0.group == group && $0.role == .stopped }
            }
            try await hosts.start((writer + 2) % 3, loops: 1)
            // Without its leader the second one leads, commits, and stops as well. A third can't lead without them.
            try await wait(for: "a majority to stop") {
                var stopped = 0
                for number in 0..<3 {
                    let replica = try await hosts.status(number).replicas.first { $0.group == group }
                    if replica?.role == .stopped, replica?.appliedIndex == entry.previous { stopped += 1 }
                }
                return stopped == 2
            }
            // The hosts stay what they are for each other, and all other groups go on.
            let client = try await hosts.client()
            for round in 0..<20 {
                for key in 0..<60 where hosts.map.ring.owner(of: slot(of: Bytes("k \(key)"))) != group {
                    try await client.kv.put(Bytes("k \(key)"), Bytes("value \(round)"))
                }
            }
            let lost = try #require((0..<60).first { hosts.map.ring.owner(of: slot(of: Bytes("k \($0)"))) == group })
            await #expect(throws: BifrostError.self) {
                try await client.kv.put(Bytes("k \(lost)"), "x", timeout: .milliseconds(300))
            }
            await client.close()
            for number in 0..<3 {
                let status = try await hosts.status(number)
                #expect(status.peersConnected == 2)
                let replica = try #require(status.replicas.first { $0.group == group })
                #expect((replica.role == .stopped) == replica.problem.contains("not understood"))
                #expect(replica.role != .leader)
                #expect(status.replicas.allSatisfy { $0.group == group || $0.leader != .none })
            }
        }
    }

    /// Appends what nobody understands to the most recent of the group's logs; hosts stop one after the other, and the
    /// last ones may have elected a leader meanwhile.
    private func writeUnknownCommand(to group: GroupID, on hosts: TestHosts) throws -> (host: Int, index: LogIndex) {
        var best: (host: Int, term: Term, index: LogIndex)?
        for number in 0..<3 {
            let disk = try LMDBDisk(directory: hosts.path(number) + "/journal")
            let log = try #require(try Journal(disk: disk, formatting: nil).recovered().first { $0.group == group })
            let term = log.termRuns.last?.term ?? log.baseTerm
            if let best, (best.term, best.index) >= (term, log.last) { continue }
            best = (number, term, log.last)
        }
        let (host, term, last) = try #require(best)
        let journal = try Journal(disk: try LMDBDisk(directory: hosts.path(host) + "/journal"), formatting: nil)
        let replica = try #require(journal.recovered().first { $0.group == group }).replica
        let entry = LogEntry(
            index: last.next, term: term, logTime: LogTime(1 << 40), kind: EntryKind(rawValue: 99), payload: Bytes())
        _ = try journal.append([.append(group, replica, [entry])])
        return (host, entry.index)
    }

    @Test func aHostThatWasRefusedForItsDirectoryIsDialledAgainWhenItHasTheRightOne() async throws {
        try await withHosts(loops: [2, 1], groups: 2, Self.brisk) { hosts in
            func connect() async throws {
                try await wait(for: "the two to connect") { try await hosts.status(0).peersConnected == 1 }
            }
            try await connect()
            await hosts.stop(1)
            let backup = hosts.path(1) + "-backup"
            try FileManager.default.copyItem(atPath: hosts.path(1), toPath: backup)
            for _ in 0..<2 {
                try await hosts.start(1, loops: 2)
                try await connect()
                await hosts.stop(1)
            }
            // A copy of the past: its boot counter is behind the one that the other host has seen.
            try await hosts.start(1, loops: 1, in: backup)
            try await wait(for: "the other to be gone") { try await hosts.status(0).peersConnected == 0 }
            await OwnExecutor.pause(milliseconds: 1_000)
            #expect(try await hosts.status(0).peersConnected == 0)
            await hosts.stop(1)
            try await hosts.start(1, loops: 3)
            try await connect()
            try await put("after", 0..<10, on: hosts, clients: 1)
            try await expect("after", 0..<10, on: hosts)
        }
    }
}
