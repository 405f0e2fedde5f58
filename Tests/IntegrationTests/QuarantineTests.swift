// Hosts whose files are damaged under them: the process ends, says which file it was, and the next start gets out of it.

import Bifrost
import BifrostTool
import Foundation
import Messages
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite struct QuarantineTests {
        /// So much that checkpoints are made, and logs are cut.
        private static let records = 1...4_000

        private func lines(_ numbers: ClosedRange<Int>) -> String {
            numbers.map { "key-\($0)\t\(String(repeating: "\($0 % 10)", count: 10_000))" }.joined(separator: "\n")
                + "\n"
        }

        private func fill(_ cluster: TestCluster) async throws {
            try await cluster.bifrost("import", "-", input: Array(lines(Self.records).utf8)).expect(0)
        }

        private func expectAll(_ cluster: TestCluster, at host: LocalCluster.HostProcess) async throws {
            let export = try await cluster.bifrost("export", "--sorted", "--host", host.address, "-")
            export.expect(0)
            let found = export.text.split(separator: "\n").sorted()
            let expected = lines(Self.records).split(separator: "\n").sorted()
            #expect(found.count == expected.count && found == expected)
        }

        /// Starts the host as one who restarts what ends would: until it serves. How its earlier processes ended.
        private func startUntilItServes(_ cluster: TestCluster, _ host: LocalCluster.HostProcess) async throws
            -> [Ending]
        {
            var endings: [Ending] = []
            while endings.count < 6 {
                try cluster.start(host)
                let process = try #require(host.process)
                let end = ContinuousClock.now + .seconds(180)
                while ContinuousClock.now < end, process.isRunning {
                    // What ends it may be read a moment after it serves.
                    if let result = try? await cluster.bifrost(
                        "export", "--host", host.address, "--timeout", "2s", "-"),
                        result.ending == .exit(0)
                    {
                        return endings
                    }
                    await OwnExecutor.pause(milliseconds: 50)
                }
                guard !process.isRunning else { break }
                endings.append(await process.end(killAfter: .seconds(180)).ending)
            }
            Issue.record("it does not serve: \(endings)\n\(cluster.log(host).suffix(4_000))")
            return endings
        }

        /// Nothing is written to the file: checkpoints and merges are made.
        private func waitForRest(_ file: String) async throws {
            func change() throws -> Date? {
                try FileManager.default.attributesOfItem(atPath: file)[.modificationDate] as? Date
            }
            var last = try change()
            var since = ContinuousClock.now
            let end = since + .seconds(180)
            while ContinuousClock.now < since + .seconds(2), ContinuousClock.now < end {
                await OwnExecutor.pause(milliseconds: 50)
                let now = try change()
                if now != last { since = ContinuousClock.now }
                last = now
            }
        }

        private func aside(_ host: LocalCluster.HostProcess) throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: host.directory).filter {
                $0.hasPrefix("store.damaged-")
            }
        }

        private func isNoted(_ host: LocalCluster.HostProcess, _ environment: String) -> Bool {
            FileManager.default.fileExists(atPath: host.directory + "/\(environment)/DAMAGED")
        }

        @Test func aStoreThatIsCutOffUnderItsHostIsNamedAndPutAside() async throws {
            try await withCluster(groups: 2) { cluster in
                try await fill(cluster)
                let host = cluster.hosts[1]
                let store = host.directory + "/store/data.mdb"
                try await waitForRest(store)
                #expect(truncate(store, 8_192) == 0)
                let process = try #require(host.process)
                // Somebody reads what is no longer there.
                let end = ContinuousClock.now + .seconds(180)
                while process.isRunning, ContinuousClock.now < end {
                    _ = try await cluster.bifrost("export", "--host", host.address, "--timeout", "1s", "-")
                }
                #expect(await process.end(killAfter: .seconds(180)).ending == .signal(SIGBUS))
                #expect(
                    cluster.log(host).contains("\(store): a page can't be read (SIGBUS at offset"),
                    "\(cluster.log(host).suffix(2_000))")
                #expect(isNoted(host, "store") && !isNoted(host, "journal"))

                #expect(try await startUntilItServes(cluster, host) == [])
                #expect(try aside(host).count == 1)
                #expect(cluster.log(host).contains("the store is damaged and was put aside"))
                _ = try await cluster.waitForStatus(0)
                for host in cluster.hosts { try await expectAll(cluster, at: host) }
                let client = try await Cluster.connect(to: [cluster.hosts[0].address])
                #expect(try await KillTests.disagreement(client) == nil)
                await client.close()
            }
        }

        /// What the pages of the trees say of themselves, and where they lead: nowhere, or somewhere.
        private func ruin(_ file: String, _ bytes: (Int) -> UInt8) throws {
            let handle = try FileHandle(forUpdating: URL(fileURLWithPath: file))
            defer { try? handle.close() }
            let content = try #require(try handle.readToEnd())
            var ruined = 0
            for page in 2..<content.count / 4_096 {
                let start = page * 4_096
                let isItself = (0..<8).allSatisfy { Int(content[start + $0]) == page >> (8 * $0) & 255 }
                guard isItself, [1, 2].contains(content[start + 10]) else { continue }
                let lower = Int(content[start + 12]) | Int(content[start + 13]) << 8
                guard (18...4_096).contains(lower) else { continue }
                // The nodes: sizes of values, numbers of pages, lengths of keys; not what leads to them.
                for slot in stride(from: 16, to: lower, by: 2) {
                    let node = Int(content[start + slot]) | Int(content[start + slot + 1]) << 8
                    guard (16..<4_088).contains(node) else { continue }
                    try handle.seek(toOffset: UInt64(start + node))
                    try handle.write(contentsOf: Data((0..<6).map(bytes)))
                    ruined += 1
                }
            }
            try #require(ruined > 0)
        }

        @Test(arguments: [
            [0xf0, 0xff, 0xff, 0xff, 0, 0], [0xff, 0xff, 0, 0, 0, 0], [0xee, 0xee, 0xee, 0xee, 0xee, 0xee],
        ])
        func aStoreWhoseTreeLeadsAstrayIsPutAside(bytes: [UInt8]) async throws {
            try await withCluster(groups: 2) { cluster in
                try await fill(cluster)
                let host = cluster.hosts[1]
                // A store that nothing was written to yet has no tree that could lead astray.
                try await waitForRest(host.directory + "/store/data.mdb")
                cluster.local.kill(host)
                try ruin(host.directory + "/store/data.mdb") { bytes[$0] }
                let endings = try await startUntilItServes(cluster, host)
                // Which of them it is depends on where the pages lead.
                #expect(
                    !endings.isEmpty
                        && endings.allSatisfy {
                            [.signal(SIGSEGV), .signal(SIGBUS), .signal(SIGABRT), .exit(5), .exit(73)].contains($0)
                        }, "\(endings)")
                #expect(try aside(host).count == 1, "\(endings)\n\(cluster.log(host).suffix(4_000))")
                #expect(!isNoted(host, "journal"))
                _ = try await cluster.waitForStatus(0)
                for host in cluster.hosts { try await expectAll(cluster, at: host) }
            }
        }

        /// One that somebody sent says nothing of any page; the process ends with it all the same.
        @Test(arguments: [SIGSEGV, SIGBUS]) func aSignalFromOutsideLeavesNoNote(signal: Int32) async throws {
            try await withHosts(1) { cluster in
                let host = cluster.hosts[0]
                // Swift's report of a crash would take the signal, and the process would go on.
                try cluster.local.start(host, through: ["/usr/bin/env", "SWIFT_BACKTRACE=enable=no"])
                let end = ContinuousClock.now + .seconds(180)
                while !cluster.log(host).contains("listening"), ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 10)
                }
                host.process?.send(signal)
                #expect(await host.process?.end(killAfter: .seconds(180)).ending == .signal(signal))
                #expect(!isNoted(host, "store") && !isNoted(host, "journal"))
                #expect(!cluster.log(host).contains("page"), "\(cluster.log(host))")
            }
        }

        @Test func theOnlyCopyOfAGroupIsLeftWhereItIs() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                try await fill(cluster)
                let host = cluster.hosts[0]
                // The log goes back to the beginning until a checkpoint is there: every second it is looked at.
                let end = ContinuousClock.now + .seconds(180)
                var first: UInt64 = 0
                let client = try await Cluster.connect(to: [host.address])
                while first <= 1, ContinuousClock.now < end {
                    let statuses = try await client.status(timeout: .seconds(2)).compactMap { try? $0.status.get() }
                    first =
                        statuses.flatMap(\.replicas).filter { $0.group != .meta }.map(\.firstIndex.rawValue).min() ?? 0
                    await OwnExecutor.pause(milliseconds: 50)
                }
                await client.close()
                #expect(first > 1)
                cluster.local.kill(host)
                #expect(truncate(host.directory + "/store/data.mdb", 8_192) == 0)
                for _ in 0..<2 {
                    try cluster.start(host)
                    #expect(await host.process?.end(killAfter: .seconds(180)).ending == .exit(73))
                    #expect(
                        cluster.log(host).contains("no other host has a copy of group 1: this host does not start"),
                        "\(cluster.log(host).suffix(2_000))")
                }
                #expect(try aside(host).isEmpty)
            }
        }
    }
}
