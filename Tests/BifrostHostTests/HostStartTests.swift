// The first moments of a host, and directories that are not what they should be.

import BifrostHost
import Foundation
import HostCore
import Messages
import Primitives
import RPC
import Ring
import TestSupport
import Testing

@Suite(.ownExecutor) struct HostStartTests {
    /// `init` comes in the very moment in which the host begins to listen, before its start has looked at what it is.
    @Test(arguments: [1, 3]) func anInitInTheFirstMomentsOfAStartIsDoneOnce(loops: Int) async throws {
        for _ in 0..<4 {
            let directory = try TestDirectory()
            // A start that makes the directory tells the incarnation, so that the request can wait for the next one.
            let ping = try await pingOfFirstStart(in: directory, loops: loops)
            let address = try NetworkAddress(ping.address)
            let map = try firstMap([ping], groups: 2)

            let probe = Probe(address, backoffMilliseconds: 1)
            defer { probe.close() }
            async let answer = probe.initialise(HostID(1), ping.incarnation, map)
            let host = try await startHost(directory.path, port: address.port, loops: loops)
            guard case .done = try await answer else {
                Issue.record("init was refused")
                return await host.stop(graceMilliseconds: 0)
            }
            #expect(host.cluster == map.cluster && host.host == HostID(1))
            try await wait(for: "leaders") {
                let status = try await probe.status()
                return status.replicas.count == 3 && status.replicas.allSatisfy { $0.leader == $0.replica }
            }
            // A repeated one finds it done.
            guard case .done = try await probe.initialise(HostID(1), ping.incarnation, map) else {
                Issue.record("a repeated init was refused")
                return await host.stop(graceMilliseconds: 0)
            }
            await host.stop(graceMilliseconds: 0)
        }
    }

    @Test func aDirectoryOfOthersIsRefusedAndLeftAlone() async throws {
        let directory = try TestDirectory()
        let files = FileManager.default
        try Data("x".utf8).write(to: URL(fileURLWithPath: directory.path + "/notes.txt"))
        let error = await #expect(throws: HostError.self) { try await startHost(directory.path) }
        #expect(error?.code == .directory && error?.message.contains("notes.txt") == true)
        #expect(try files.contentsOfDirectory(atPath: directory.path) == ["notes.txt"])

        // A disk of its own is no directory of others, and a host's own stays one whatever is put there later.
        try files.createDirectory(atPath: directory.path + "/disk/lost+found", withIntermediateDirectories: true)
        try await startHost(directory.path + "/disk").stop(graceMilliseconds: 0)
        try Data("x".utf8).write(to: URL(fileURLWithPath: directory.path + "/disk/notes.txt"))
        try await startHost(directory.path + "/disk").stop(graceMilliseconds: 0)
    }

    @Test func whatKnowsLessThanDirectoryOrClusterIsRefusedAndSaysSo() async throws {
        let directory = try TestDirectory()
        // The directory: it is read by nobody older than its last user.
        try await startHost(directory.path) { $0.featureLevel = 3 }.stop(graceMilliseconds: 0)
        let error = await #expect(throws: HostError.self) {
            try await startHost(directory.path) { $0.featureLevel = 2 }
        }
        #expect(error?.code == .directory)
        #expect(error?.message.contains("feature level 3, this one has 2: use the newer one") == true, "\(error!)")

        var map = try await joinedAtLevelThree(directory)

        // The cluster that it belongs to, as by a copy of its map that another host had.
        let path = URL(fileURLWithPath: directory.path + "/cluster-map")
        let kept = try Data(contentsOf: path)
        map.featureLevel = 4
        try ClusterMapFile.encoded(map).withUnsafeBytes { try Data($0).write(to: path) }
        let other = await #expect(throws: HostError.self) {
            try await startHost(directory.path) { $0.featureLevel = 3 }
        }
        #expect(other?.code == .directory)
        #expect(other?.message.contains("uses feature level 4, this version knows 3") == true, "\(other!)")
        try kept.write(to: path)
        try await startHost(directory.path).stop(graceMilliseconds: 0)
    }

    /// Starts a host of level 3 in the directory and makes it a cluster of that level, after one that is above it.
    private func joinedAtLevelThree(_ directory: TestDirectory) async throws -> ClusterMap {
        let host = try await startHost(directory.path) { $0.featureLevel = 3 }
        let probe = Probe(host.address)
        defer { probe.close() }
        let ping = try await probe.ping()
        #expect(ping.featureLevel == 3)
        var map = try firstMap([ping], groups: 1)
        map.featureLevel = 4
        guard case .refused(let text) = try await probe.initialise(HostID(1), ping.incarnation, map) else {
            throw Timeout(description: "a map above its level was not refused")
        }
        #expect(text.contains("uses feature level 4") && text.contains("knows 3"), "\(text)")
        map.featureLevel = 3
        guard case .done = try await probe.initialise(HostID(1), ping.incarnation, map) else {
            throw Timeout(description: "a map of its level was refused")
        }
        try await wait(for: "a map on disk") {
            FileManager.default.fileExists(atPath: directory.path + "/cluster-map")
        }
        await host.stop(graceMilliseconds: 0)
        return map
    }

    private func pingOfFirstStart(in directory: TestDirectory, loops: Int) async throws -> PingReply {
        let host = try await startHost(directory.path, loops: loops)
        let probe = Probe(host.address)
        defer { probe.close() }
        let ping = try await probe.ping()
        await host.stop(graceMilliseconds: 0)
        return ping
    }

    /// A directory of a host that was a cluster of its own and was stopped.
    private func usedDirectory() async throws -> TestDirectory {
        let directory = try TestDirectory()
        let host = try await startHost(directory.path)
        let probe = Probe(host.address)
        defer { probe.close() }
        let ping = try await probe.ping()
        let reply = try await probe.initialise(HostID(1), ping.incarnation, try firstMap([ping], groups: 1))
        guard case .done = reply else { throw Timeout(description: "init was answered \(reply)") }
        try await wait(for: "a store and a map on disk") {
            let status = try await probe.status()
            let isMapThere = FileManager.default.fileExists(atPath: directory.path + "/cluster-map")
            return status.replicas.count == 2 && isMapThere
        }
        await host.stop(graceMilliseconds: 0)
        return directory
    }

    private func expectRefusal(_ directory: TestDirectory, saying text: String) async throws {
        do {
            let host = try await startHost(directory.path)
            await host.stop(graceMilliseconds: 0)
            Issue.record("it started")
        } catch let error as HostError {
            #expect(error.code == .directory && error.message.contains(text), "\(error)")
        }
    }

    private func remove(_ name: String, of directory: TestDirectory) throws {
        try FileManager.default.removeItem(atPath: "\(directory.path)/\(name)/data.mdb")
        try FileManager.default.removeItem(atPath: "\(directory.path)/\(name)/lock.mdb")
    }

    @Test func aStoreOrAMapWithoutTheirJournalAreNoNewHost() async throws {
        let directory = try await usedDirectory()
        try remove("journal", of: directory)
        try await expectRefusal(directory, saying: "has a store but no journal")
        try remove("store", of: directory)
        try await expectRefusal(directory, saying: "has a cluster map but no journal")
        // Nor does a refusal leave a journal behind that would make the next start go well.
        try await expectRefusal(directory, saying: "has a cluster map but no journal")
    }

    @Test func aStoreBesideAJournalOfNoClusterIsNoNewHost() async throws {
        let directory = try await usedDirectory()
        let other = try TestDirectory()
        await (try startHost(other.path)).stop(graceMilliseconds: 0)
        try remove("journal", of: directory)
        try FileManager.default.copyItem(
            atPath: other.path + "/journal/data.mdb", toPath: directory.path + "/journal/data.mdb")
        try await expectRefusal(directory, saying: "a journal of none")
    }

    @Test func aStartThatFailsLetsGoOfDirectoryAndPort() async throws {
        let directory = try await usedDirectory()
        try FileManager.default.moveItem(
            atPath: directory.path + "/cluster-map", toPath: directory.path + "/cluster-map.away")
        try await expectRefusal(directory, saying: "no copy of the cluster map")
        try FileManager.default.moveItem(
            atPath: directory.path + "/cluster-map.away", toPath: directory.path + "/cluster-map")
        let host = try await startHost(directory.path)
        #expect(host.host == HostID(1))
        await host.stop(graceMilliseconds: 0)
    }
}
