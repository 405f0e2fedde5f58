// A store whose file is damaged, when its host starts. Everything here carries a note, or does not open: the file is
// looked through before LMDB reads it. How notes come about is seen by processes of their own (IntegrationTests).

import Bifrost
import BifrostHost
import Foundation
import Glibc
import HostCore
import Messages
import Primitives
import RPC
import Recovery
import Ring
import StateMachines
import Storage
import TestSupport
import Testing

@Suite(.ownExecutor) struct QuarantineTests {
    /// Small checkpoints, so that logs do not go back to the beginning.
    private static func forgetful(_ settings: inout HostSettings) {
        ClusterOfLoopsTests.brisk(&settings)
        settings.memtableBytesTrigger = 64 << 10
        settings.journalBytesTrigger = 128 << 10
        settings.snapshotPieceBytes = 20 << 10
    }

    private static func value(_ key: Int) -> Bytes {
        Bytes(Array("value \(key) ".utf8) + Array(repeating: UInt8(key & 0xff), count: 1_000))
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

    private func mark(_ directory: String) throws {
        try Data("page 7 is broken".utf8).write(to: URL(fileURLWithPath: directory + "/DAMAGED"))
    }

    /// Overwrites every page of the trees behind the first two.
    private func ruin(_ file: String) throws {
        var content = try Data(contentsOf: URL(fileURLWithPath: file))
        for page in 2..<content.count / 4_096 where [1, 2].contains(content[page * 4_096 + 10]) {
            let start = page * 4_096
            content.replaceSubrange(start + 10..<start + 24, with: Data(repeating: 0xee, count: 14))
        }
        try content.write(to: URL(fileURLWithPath: file))
    }

    /// Overwrites the first page of every value that has pages of its own: what has none, as manifests, stays.
    private func ruinValues(_ file: String) throws {
        var content = try Data(contentsOf: URL(fileURLWithPath: file))
        var count = 0
        for page in 2..<content.count / 4_096 where content[page * 4_096 + 10] == 4 {
            let start = page * 4_096
            guard (0..<8).allSatisfy({ Int(content[start + $0]) == page >> (8 * $0) & 255 }) else { continue }
            content.replaceSubrange(start + 10..<start + 24, with: Data(repeating: 0xee, count: 14))
            count += 1
        }
        #expect(count > 0)
        try content.write(to: URL(fileURLWithPath: file))
    }

    private func aside(_ directory: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasPrefix("store.damaged-") }
    }

    /// Waits until some of the log of every group but the meta group was deleted everywhere.
    private func waitForShortLogs(_ hosts: TestHosts) async throws {
        var next = 0
        try await wait(for: "logs that do not go back to the beginning") {
            try await put(next..<next + 100, on: hosts)
            next = (next + 100) % 400
            for number in hosts.running.indices {
                let replicas = try await hosts.status(number).replicas.filter { $0.group != .meta }
                guard replicas.allSatisfy({ $0.firstIndex > LogIndex(1) }) else { return false }
            }
            return true
        }
        try await put(0..<400, on: hosts)
    }

    @Test(arguments: [false, true]) func aDamagedStoreIsPutAsideAndMadeAnewFromTheOthers(isCutOff: Bool) async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, Self.forgetful) { hosts in
            try await waitForShortLogs(hosts)
            try await hosts.waitForEqualStates()
            await hosts.stop(1)
            let store = hosts.path(1) + "/store"
            if isCutOff {
                // It is refused when it is opened: no note is needed.
                #expect(truncate(store + "/data.mdb", 3 * 4_096) == 0)
            } else {
                try ruin(store + "/data.mdb")
                try mark(store)
            }
            let damaged = try Data(contentsOf: URL(fileURLWithPath: store + "/data.mdb"))
            try await put(400..<500, on: hosts)
            try await hosts.start(1, loops: 1)
            try await hosts.waitForEqualStates()
            #expect(try #require(hosts.running[1]).bulkPayloads.received > 0, "states of other hosts")
            #expect(try await hosts.status(1).replicas.allSatisfy { $0.problem.isEmpty })
            try await expect(0..<500, on: hosts, at: 1)
            // What it was is kept.
            let kept = try aside(hosts.path(1))
            #expect(kept.count == 1)
            let keptFile = hosts.path(1) + "/" + (kept.first ?? "") + "/data.mdb"
            #expect(try Data(contentsOf: URL(fileURLWithPath: keptFile)) == damaged)
            #expect(FileManager.default.fileExists(atPath: hosts.path(1) + "/" + kept[0] + "/DAMAGED") == !isCutOff)

            // A second one is the operator's.
            await hosts.stop(1)
            try ruin(store + "/data.mdb")
            try mark(store)
            let error = await #expect(throws: HostError.self) { try await hosts.start(1, loops: 1) }
            #expect(
                error?.code == .directory && error?.message.contains(kept[0]) == true, "\(String(describing: error))")
            #expect(try aside(hosts.path(1)) == kept && FileManager.default.fileExists(atPath: store + "/DAMAGED"))
            try FileManager.default.removeItem(atPath: hosts.path(1) + "/" + kept[0])
            try await hosts.start(1, loops: 2)
            try await hosts.waitForEqualStates()
            try await expect(0..<500, on: hosts, at: 1)
            // The start that was refused counts as none.
            #expect(try aside(hosts.path(1)).count == 1)
        }
    }

    /// LMDB finds nothing wrong with it, and a start finds that it is no store.
    @Test func aStoreWithoutItsSuperblockIsPutAsideByTheNextStart() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await waitForShortLogs(hosts)
            await hosts.stop(0)
            do {
                let disk = try LMDBDisk(directory: hosts.path(0) + "/store")
                try disk.write { writer in _ = try writer.delete(DiskKey(table: 1)) }
            }
            let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
            #expect(error?.code == .directory && error?.message.contains("no superblock") == true)
            #expect(try aside(hosts.path(0)).isEmpty)
            try await hosts.start(0, loops: 1)
            #expect(try aside(hosts.path(0)).count == 1)
            try await hosts.waitForEqualStates()
            try await expect(0..<400, on: hosts, at: 0)
        }
    }

    @Test func aSoundFileWithANoteIsReadThroughAndServes() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, Self.forgetful) { hosts in
            try await put(0..<200, on: hosts)
            try await hosts.waitForEqualStates()
            await hosts.stop(0)
            for name in ["journal", "store"] { try mark(hosts.path(0) + "/" + name) }
            try await hosts.start(0, loops: 1)
            try await hosts.waitForEqualStates()
            try await expect(0..<200, on: hosts, at: 0)
            #expect(try aside(hosts.path(0)).isEmpty)
            for name in ["journal", "store"] {
                #expect(!FileManager.default.fileExists(atPath: hosts.path(0) + "/" + name + "/DAMAGED"))
            }
        }
    }

    @Test func withADamagedJournalNothingStartsAndNothingIsPutAside() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await put(0..<200, on: hosts)
            await hosts.stop(0)
            try ruin(hosts.path(0) + "/journal/data.mdb")
            try mark(hosts.path(0) + "/journal")
            for name in ["journal", "store"] {
                let error = await #expect(throws: HostError.self, "\(name)") { try await hosts.start(0, loops: 1) }
                #expect(error?.code == .directory && error?.message.contains("host add") == true)
                // The store's damage beside it changes nothing.
                if name == "journal" { try mark(hosts.path(0) + "/store") }
            }
            #expect(try aside(hosts.path(0)).isEmpty)
        }
    }

    /// All that the journal forgot without a trace may have been anybody's, and only the store knew who was never here.
    @Test func besideAJournalThatLostRecordsTheDiskIsLost() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await put(0..<50, on: hosts)
            await hosts.stop(0)
            do {
                let disk = try LMDBDisk(directory: hosts.path(0) + "/journal")
                let last = try disk.read {
                    try $0.lastKey(from: DiskKey(table: 9), through: DiskKey(table: 9, high: .max, low: .max))
                }
                let key = try #require(last)
                try disk.write { writer in
                    try writer.put(key, count: 3, append: false) { $0.copyBytes(from: [1, 2, 3]) }
                }
            }
            try ruin(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
            #expect(error?.message.contains("the disk counts as lost") == true, "\(String(describing: error))")
            #expect(try aside(hosts.path(0)).isEmpty)
        }
    }

    /// What can still be read of the store says that the journal was longer once: votes and acknowledgements are gone.
    @Test func besideAJournalThatWasSetBackTheDiskIsLost() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await put(0..<20, on: hosts)
            await hosts.stop(0)
            let file = hosts.path(0) + "/journal/data.mdb"
            let earlier = try Data(contentsOf: URL(fileURLWithPath: file))
            try await hosts.start(0, loops: 1)
            try await waitForShortLogs(hosts)
            await hosts.stop(0)
            let later = try Data(contentsOf: URL(fileURLWithPath: file))
            try ruinValues(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            try earlier.write(to: URL(fileURLWithPath: file))
            let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
            #expect(
                error?.message.contains("it was written with: the disk counts as lost") == true
                    && error?.message.contains("store is damaged") == true, "\(String(describing: error))")
            #expect(try aside(hosts.path(0)).isEmpty)
            // It is the journal, and nothing else.
            try later.write(to: URL(fileURLWithPath: file))
            try await hosts.start(0, loops: 1)
            #expect(try aside(hosts.path(0)).count == 1)
        }
    }

    /// What the log of a replica says of its group, behind a base that is not its beginning.
    enum Members: String, CaseIterable, Sendable {
        case unknown, alone, aloneOnce, joinedJustNow, aloneSoon, leavingOthers

        /// Of others, and of none.
        var isOnlyCopy: Bool { [.alone, .aloneSoon, .joinedJustNow, .leavingOthers].contains(self) }

        /// Voters and outgoing ones, and whether they are committed.
        func configurations(_ replica: ReplicaID, _ others: [ReplicaID]) -> [([ReplicaID], [ReplicaID], Bool)] {
            switch self {
            case .unknown: []
            case .alone: [([replica], [], true)]
            case .aloneOnce:
                [([replica], [], true), ([replica] + others, [replica], true), ([replica] + others, [], true)]
            // Who has come may have nothing yet.
            case .joinedJustNow: [([replica], [], true), ([replica] + others, [replica], false)]
            case .aloneSoon: [([replica] + others, [], true), ([replica], [], false)]
            case .leavingOthers: [([replica], [replica] + others, true)]
            }
        }
    }

    @Test(arguments: Members.allCases) func theOnlyCopyIsNotPutAside(members: Members) async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await put(0..<20, on: hosts)
            await hosts.stopAll()
            let group = GroupID(1)
            let record = try #require(hosts.map.group(group))
            let replica = try #require(record.replica(on: HostID(1)))
            let others = record.replicas.map(\.id).filter { $0 != replica }
            do {
                let journal = try Journal(disk: LMDBDisk(directory: hosts.path(0) + "/journal"), formatting: nil)
                let log = try #require(journal.log(of: replica))
                let term = log.termRuns.last?.term ?? log.baseTerm
                var records: [JournalRecord] = [.base(group, replica, log.last, term)]
                var commit = log.last
                for (voters, outgoing, isCommitted) in members.configurations(replica, others) {
                    var writer = ByteWriter()
                    let last = log.last + records.count
                    Configuration(index: last, voters: voters, outgoing: outgoing).encode(into: &writer)
                    let entry = LogEntry(
                        index: last, term: term, logTime: .zero, kind: .configuration, payload: writer.take())
                    records.append(.append(group, replica, [entry]))
                    if isCommitted { commit = last }
                }
                records.append(.hardState(group, replica, HardState(term: term, commit: commit)))
                _ = try journal.append(records)
            }
            try ruin(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            if members.isOnlyCopy {
                let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
                #expect(
                    error?.code == .directory && error?.message.contains("no other host has a copy of group 1") == true,
                    "\(String(describing: error))")
                #expect(try aside(hosts.path(0)).isEmpty)
            } else {
                try await hosts.start(0, loops: 1)
                #expect(try aside(hosts.path(0)).count == 1)
            }
        }
    }

    /// What the log does not say the manifest may, and the map's copy be too old to know.
    @Test(arguments: [false, true]) func aManifestSaysWhoVotes(isAlone: Bool) async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await waitForShortLogs(hosts)
            await hosts.stopAll()
            let group = GroupID(1)
            var map = hosts.map
            let replica = try #require(map.group(group)?.replica(on: HostID(1)))
            do {
                let journal = try Journal(disk: LMDBDisk(directory: hosts.path(0) + "/journal"), formatting: nil)
                let log = try #require(journal.log(of: replica))
                let term = log.termRuns.last?.term ?? log.baseTerm
                _ = try journal.append([.base(group, replica, log.last, term)])
                let store = try Store(disk: LMDBDisk(directory: hosts.path(0) + "/store"))
                var header = try #require(store.manifest(of: replica)).header
                header.index = log.last
                header.term = term
                if isAlone { header.configuration = Configuration(voters: [replica]) }
                try store.checkpoint(Memtable().freeze(), header)
            }
            // The map says the contrary of the manifest.
            if !isAlone {
                var record = try #require(map.group(group))
                record.replicas.removeAll { $0.id != replica }
                record.founders = [replica]
                record.preferredLeader = replica
                map.replace(record)
                try Data(ClusterMapFile.encoded(map).array).write(
                    to: URL(fileURLWithPath: hosts.path(0) + "/cluster-map"))
            }
            try ruinValues(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            if isAlone {
                let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
                #expect(
                    error?.message.contains("no other host has a copy of group 1") == true,
                    "\(String(describing: error))")
                #expect(try aside(hosts.path(0)).isEmpty)
            } else {
                try await hosts.start(0, loops: 1)
                #expect(try aside(hosts.path(0)).count == 1)
            }
        }
    }

    /// The meta group may have been away for long.
    @Test func aGroupThatNobodyKnowsCountsAsAlone() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, Self.forgetful) { hosts in
            try await waitForShortLogs(hosts)
            await hosts.stopAll()
            var map = hosts.map
            map.removeGroup(GroupID(2))
            map.ring = SlotTable(epoch: map.ring.epoch, owners: Array(repeating: GroupID(1), count: Slot.count))
            try Data(ClusterMapFile.encoded(map).array).write(
                to: URL(fileURLWithPath: hosts.path(0) + "/cluster-map"))
            let replica = try #require(hosts.map.group(GroupID(2))?.replica(on: HostID(1)))
            do {
                let journal = try Journal(disk: LMDBDisk(directory: hosts.path(0) + "/journal"), formatting: nil)
                let log = try #require(journal.log(of: replica))
                _ = try journal.append([
                    .base(GroupID(2), replica, log.last, log.termRuns.last?.term ?? log.baseTerm)
                ])
            }
            try ruin(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            let error = await #expect(throws: HostError.self) { try await hosts.start(0, loops: 1) }
            #expect(
                error?.message.contains("no other host has a copy of group 2:") == true, "\(String(describing: error))")
            #expect(try aside(hosts.path(0)).isEmpty)
        }
    }

    /// A recovery has to know of it.
    @Test func aStoreThatWasPutAsideIsReported() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 1, Self.forgetful) { hosts in
            try await put(0..<20, on: hosts)
            await hosts.stopAll()
            func report() async throws -> Recovery.HostReport {
                var host: StoppedHost?
                try await wait(for: "the directory") {
                    host = try? StoppedHost(directory: hosts.path(0))
                    return host != nil
                }
                return try #require(host).report()
            }
            #expect(try await report().storesAside == nil)
            for number in [12, 7] {
                try FileManager.default.createDirectory(
                    atPath: hosts.path(0) + "/store.damaged-\(number)", withIntermediateDirectories: true)
            }
            #expect(try await report().storesAside == ["store.damaged-12", "store.damaged-7"])
        }
    }

    /// The log of a host that is alone goes back to the beginning: it makes its state of that.
    @Test func aHostAloneWithAWholeLogMakesItsStateAnew() async throws {
        try await withHosts(loops: [1], groups: 2, ClusterOfLoopsTests.brisk) { hosts in
            try await put(0..<100, on: hosts)
            await hosts.stop(0)
            try ruin(hosts.path(0) + "/store/data.mdb")
            try mark(hosts.path(0) + "/store")
            try await hosts.start(0, loops: 1)
            try await expect(0..<100, on: hosts, at: 0)
            #expect(try aside(hosts.path(0)).count == 1)
        }
    }
}
