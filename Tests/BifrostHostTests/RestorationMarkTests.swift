// A directory that a restoration fills, and hosts that are started in it: before, meanwhile, and after either was
// interrupted. Whatever a host has served from stays.

import BifrostHost
import Foundation
import Primitives
import Ring
import Storage
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct RestorationMarkTests {
    private static let cluster = ClusterID(high: 1, low: 2)

    /// As if a save of one group were restored to one host.
    private static func restoration(in path: String) throws -> HostRestoration {
        let host = HostRecord(
            id: HostID(1), name: "h", address: "127.0.0.1:1", incarnation: Incarnation(9),
            featureLevel: FeatureLevel.current)
        let map = try Planner.firstMap(
            cluster: cluster, hosts: [host], groups: 1, replicas: 1, featureLevel: FeatureLevel.current)
        return try HostRestoration(directory: path, host: host.id, map: map)
    }

    private func restore(_ path: String) throws -> HostRestoration { try Self.restoration(in: path) }

    private func refusal(_ body: () async throws -> Void) async -> String {
        do {
            try await body()
            return "nothing was refused"
        } catch let error as HostError {
            return error.code == .directory ? error.message : "\(error.code): \(error.message)"
        } catch {
            return "\(error)"
        }
    }

    private func names(_ path: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: path).sorted()
    }

    @Test func noHostStartsWhereARestorationIsUnderWayOrWasInterrupted() async throws {
        let directory = try TestDirectory()
        let path = directory.path + "/a/b"
        do {
            let restoration = try restore(path)
            let text = await refusal { _ = try await startHost(path) }
            #expect(text.contains("another restoration fills this directory"), "\(text)")
            let second = await refusal { _ = try restore(path) }
            #expect(second.contains("another restoration fills this directory"), "\(second)")
            withExtendedLifetime(restoration) {}
        }
        let text = await refusal { _ = try await startHost(path) }
        #expect(text.contains("half of a restoration"), "\(text)")
        let recovered = await refusal { _ = try StoppedHost(directory: path) }
        #expect(recovered.contains("half of a restoration"), "\(recovered)")
        // What a host that was refused has left there is no obstacle.
        try FileManager.default.createDirectory(atPath: path + "/journal/x", withIntermediateDirectories: true)
        do { try restore(path).complete() }
        #expect(try names(path) == ["cluster-map", "journal", "store"])
        let host = try await startHost(path)
        #expect(host.cluster == Self.cluster)
        await host.stop()
        let full = await refusal { _ = try restore(path) }
        #expect(full.contains("is not empty"), "\(full)")
        #expect(try names(path) == ["cluster-map", "journal", "store"])
    }

    /// The mark of a restoration that found a host's directory, and was killed before it could say so.
    @Test func aMarkBesideAHostsFilesDeletesNothing() async throws {
        let directory = try TestDirectory()
        let path = directory.path + "/a"
        await (try startHost(path)).stop()
        let before = try names(path)
        #expect(FileManager.default.createFile(atPath: path + "/RESTORING", contents: nil))
        let text = await refusal { _ = try restore(path) }
        #expect(text.contains("is not empty"), "\(text)")
        #expect(try names(path) == before)
        #expect(FileManager.default.createFile(atPath: path + "/RESTORING", contents: Data("bifrost: a rest".utf8)))
        // It says nothing of what is there: the host goes on.
        await (try startHost(path)).stop()
        #expect(try names(path) == before)
    }

    @Test func whatAnotherProcessHoldsIsNotDeleted() async throws {
        let directory = try TestDirectory()
        let path = directory.path + "/a"
        do { _ = try restore(path) }
        for file in ["journal/LOCK", "store/data.mdb"] {
            let descriptor = open(path + "/" + file, O_RDWR | O_CLOEXEC)
            #expect(descriptor >= 0 && flock(descriptor, LOCK_EX | LOCK_NB) == 0)
            let text = await refusal { _ = try restore(path) }
            #expect(text.contains("\(file) is held by another process"), "\(text)")
            #expect(FileManager.default.fileExists(atPath: path + "/journal/data.mdb"))
            #expect(FileManager.default.fileExists(atPath: path + "/store/data.mdb"))
            close(descriptor)
        }
        do { try restore(path).complete() }
        await (try startHost(path)).stop()
    }

    /// A host and a restoration begin in one directory at about the same time, again and again: one of them at the most
    /// gets it, and a host that had it is there afterwards whatever restorations come.
    @Test func noScheduleDeletesWhatAHostHasServedFrom() async throws {
        var (served, restored) = (0, 0)
        for round in 0..<60 {
            let directory = try TestDirectory()
            let path = directory.path + "/a"
            let delay = UInt32(round % 20) * 150
            let ended = Mutex<Bool?>(nil)
            let hasServed = Mutex(false)
            // Some come one behind the other, most at about the same time.
            let (isFirst, isSecond) = (round % 10 == 0, round % 10 == 5)
            Thread.detachNewThread {
                usleep(delay)
                while isSecond, !hasServed.withLock({ $0 }) { usleep(1_000) }
                var isWhole = false
                if let restoration = try? Self.restoration(in: path) {
                    // As if it were killed, or to its end.
                    isWhole = round % 2 == 0 && (try? restoration.complete()) != nil
                }
                ended.withLock { [isWhole] in $0 = isWhole }
            }
            if isFirst { try await wait(for: "the restoration to end") { ended.withLock { $0 } != nil } }
            let cluster = try? await serve(path)
            hasServed.withLock { $0 = true }
            try await wait(for: "the restoration to end") { ended.withLock { $0 } != nil }
            if ended.withLock({ $0 }) == true { restored += 1 }
            guard let cluster else { continue }
            served += 1
            let journal = try fileNumber(path + "/journal/data.mdb")
            let again = await refusal { _ = try restore(path) }
            #expect(again.contains("is not empty"), "round \(round): \(again)")
            #expect(try fileNumber(path + "/journal/data.mdb") == journal)
            #expect(try await serve(path) == cluster, "round \(round)")
        }
        #expect(served >= 12 && restored >= 6, "\(served) hosts served, \(restored) directories were restored")
    }

    /// Starts a host and stops it; its cluster.
    private func serve(_ path: String) async throws -> ClusterID {
        let host = try await startHost(path)
        await host.stop()
        return host.cluster
    }

    private func fileNumber(_ path: String) throws -> Int {
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        return try #require(attributes[.systemFileNumber] as? Int)
    }

    // MARK: Names on disk

    @Test(arguments: [
        ("a", "."), ("a/", "."), ("a/b", "a"), ("a//b//", "a"), ("/a", "/"), ("//a", "/"), ("/", "/"), ("/a/b", "/a"),
        ("a/..", "a/../.."), (".", "./.."), ("", "."),
    ]) func aDirectorysNameIsInTheOneAbove(path: String, above: String) {
        #expect(DurableDirectory.parent(of: path) == above)
    }

    @Test func theNamesOfAllDirectoriesThatAreMadeAreSynced() throws {
        let directory = try TestDirectory()
        func synced(_ path: String) throws -> [String] {
            var all: [String] = []
            try DurableDirectory.make(path) { all.append($0) }
            var isDirectory: ObjCBool = false
            #expect(FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) && isDirectory.boolValue)
            return all
        }
        let path = directory.path
        #expect(try synced(path + "/a/b/c") == [path, path + "/a", path + "/a/b"])
        // It may have been made by a process that was killed before it synced.
        #expect(try synced(path + "/a/b/c") == [path + "/a/b"])
        #expect(try synced(path + "/a/d/") == [path + "/a"])
        #expect(FileManager.default.createFile(atPath: path + "/file", contents: nil))
        for below in ["", "/x", "/x/y"] {
            let error = #expect(throws: HostError.self) { try DurableDirectory.make(path + "/file" + below) }
            #expect(error?.code == .directory)
        }
        struct Failure: Error {}
        #expect(throws: Failure.self, "what can't be synced is not made") {
            try DurableDirectory.make(path + "/n/m") { if $0 == path + "/n" { throw Failure() } }
        }
    }
}
