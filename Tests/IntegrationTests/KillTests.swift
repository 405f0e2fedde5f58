// What was acknowledged is there, whatever is killed; what can't be done ends with an error in time.

import Bifrost
import BifrostTool
import Foundation
import Messages
import Primitives
import Synchronization
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct KillTests {
        /// BIFROST_KILL_ROUNDS=20 makes a long run of it.
        @Test func noAcknowledgedWriteIsLostWhenEachHostIsKilledInTurnAndThenAllAtOnce() async throws {
            try await withCluster { cluster in
                let client = try await cluster.client()
                let load = KeyedLoad(workers: 32, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
                let rounds = ProcessInfo.processInfo.environment["BIFROST_KILL_ROUNDS"].flatMap { Int($0) } ?? 1
                for _ in 0..<rounds {
                    for host in cluster.hosts {
                        try await load.progress(by: 500)
                        cluster.local.kill(host)
                        // The other two go on without it.
                        try await load.progress(by: 500)
                        try cluster.start(host)
                        _ = try await cluster.waitForStatus(0)
                    }
                    // As when the power goes.
                    try await load.progress(by: 500)
                    for host in cluster.hosts { cluster.local.kill(host) }
                    try cluster.local.startAll()
                    _ = try await cluster.waitForStatus(0)
                }
                try await load.progress(by: 500)
                load.stop()
                await running.value
                #expect(load.unexpected == nil)
                #expect(try await load.lost(client) == nil)
                await client.close()

                // Another client, after a restart without load, finds the same, and so does every replica.
                for host in cluster.hosts { cluster.local.kill(host) }
                try cluster.local.startAll()
                _ = try await cluster.waitForStatus(0)
                let other = try await Cluster.connect(to: [cluster.hosts[1].address])
                #expect(try await load.lost(other) == nil)
                #expect(try await Self.disagreement(other) == nil)
                // The check sees what it looks for.
                _ = try await other.kv.put("worker-7", "0")
                #expect(try await load.lost(other)?.hasPrefix("worker 7: found 0") == true)
                await other.close()
            }
        }

        /// Waits until all replicas of each group have applied as much; the first group whose digests differ then.
        static func disagreement(_ client: Cluster) async throws -> String? {
            let end = ContinuousClock.now + .seconds(180)
            while ContinuousClock.now < end {
                let statuses = try await client.status(timeout: .seconds(2)).compactMap { try? $0.status.get() }
                let groups = Dictionary(grouping: statuses.flatMap(\.replicas), by: \.group)
                let isSettled = groups.values.allSatisfy { replicas in
                    replicas.count == 3
                        && replicas.allSatisfy {
                            $0.appliedIndex == replicas[0].appliedIndex && $0.digestIndex == $0.appliedIndex
                        }
                }
                if !groups.isEmpty, isSettled {
                    return groups.values.first { Set($0.map(\.digest)).count > 1 }.map { "group \($0[0].group): \($0)" }
                }
                await OwnExecutor.pause(milliseconds: 50)
            }
            return "the replicas did not come to equal indices within 180 s"
        }

        @Test func withoutAQuorumCommandsEndInTimeAndSayWhatBecameOfTheWrite() async throws {
            try await withCluster { cluster in
                try await cluster.bifrost("put", "before", "1").expect(0)
                cluster.local.kill(cluster.hosts[0])
                cluster.local.kill(cluster.hosts[1])
                let last = [cluster.hosts[2]]

                // The host that is left may lead the key's group and not know yet that nobody follows: unknown.
                // Otherwise the write certainly did not happen.
                var certain: [Int] = []
                var unsure: Set<Int> = []
                var attempts = 0
                let end = ContinuousClock.now + .seconds(180)
                repeat {
                    attempts += 1
                    var put: ChildProcess.Result?
                    try await expectQuick(.seconds(4)) {
                        if put != nil { unsure.insert(attempts) }
                        put = try await cluster.bifrost(
                            "put", "--timeout", "1500ms", "key-\(attempts)", "value", at: last)
                    }
                    switch put?.ending {
                    case .exit(2): put?.expect(2, saying: "may have taken effect")
                    default:
                        put?.expect(4, saying: "nothing was")
                        certain.append(attempts)
                    }
                } while attempts < 3 || certain.last != attempts && ContinuousClock.now < end
                // By now it knows.
                #expect(certain.last == attempts)
                try await expectQuick(.seconds(6)) {
                    try await cluster.bifrost("get", "--timeout", "1s", "before", at: last).expect(4)
                    let status = try await cluster.bifrost("status", "--timeout", "1s", at: last)
                    #expect(status.ending == .exit(4))
                    #expect(status.text.hasPrefix("unavailable\n"), "\(status.text)")
                }

                try cluster.start(cluster.hosts[0])
                _ = try await cluster.waitForStatus(3)
                try await cluster.bifrost("put", "after", "2").expect(0)
                #expect(try await cluster.bifrost("get", "before").text == "1")
                // One that was tried again where the machine stood still may have been made before.
                for attempt in certain where !unsure.contains(attempt) {
                    try await cluster.bifrost("get", "key-\(attempt)").expect(1)
                }
            }
        }

        @Test func noHostAtAllIsAnErrorInTime() async throws {
            try await withHosts(1) { cluster in
                try await expectQuick(.seconds(3)) {
                    try await cluster.bifrost("put", "--timeout", "1s", "k", "v").expect(
                        4, saying: cluster.hosts[0].address)
                }
                // A host that belongs to no cluster yet.
                try cluster.start(cluster.hosts[0])
                let end = ContinuousClock.now + .seconds(180)
                while !cluster.log(cluster.hosts[0]).contains("listening"), ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 10)
                }
                try await cluster.bifrost("get", "--timeout", "1s", "k").expect(4, saying: "bifrost init")
            }
        }

        @Test func aSignalToEndIsACleanEndAndNothingIsLost() async throws {
            try await withCluster { cluster in
                for number in 0..<20 { try await cluster.bifrost("put", "key-\(number)", "\(number)").expect(0) }
                var shortest = Duration.seconds(180)
                for _ in 0..<5 where shortest >= .seconds(5) {
                    let begin = ContinuousClock.now
                    for host in cluster.hosts { host.process?.send(SIGTERM) }
                    for host in cluster.hosts {
                        let ending = await host.process?.end(killAfter: .seconds(180)).ending
                        #expect(ending == .exit(0), "\(cluster.log(host))")
                    }
                    shortest = min(shortest, ContinuousClock.now - begin)
                    try cluster.local.startAll()
                    _ = try await cluster.waitForStatus(0)
                }
                #expect(shortest < .seconds(5))
                let export = try await cluster.bifrost("export", "--sorted", "-")
                #expect(export.text.split(separator: "\n").count == 20)
                // SIGINT is the same.
                cluster.hosts[0].process?.send(SIGINT)
                #expect(await cluster.hosts[0].process?.end(killAfter: .seconds(180)).ending == .exit(0))
                // A host whose parent goes away goes too.
                cluster.hosts[1].process?.closeInput()
                #expect(await cluster.hosts[1].process?.end(killAfter: .seconds(180)).ending == .exit(0))
            }
        }

        /// What is in flight when a host is told to end is answered: its peers go on with it until then.
        @Test func aCleanEndOfEachHostInTurnLeavesNoWriteUnknown() async throws {
            try await withCluster { cluster in
                let client = try await cluster.client()
                let load = KeyedLoad(workers: 64, client: client)
                let running = Task(executorPreference: OwnExecutor.current) { await load.run() }
                for host in cluster.hosts + cluster.hosts {
                    try await load.progress(by: 500)
                    host.process?.send(SIGTERM)
                    #expect(await host.process?.end(killAfter: .seconds(180)).ending == .exit(0))
                    try cluster.start(host)
                    _ = try await cluster.waitForStatus(0)
                }
                load.stop()
                await running.value
                #expect(load.unexpected == nil)
                #expect(load.unknown == [])
                #expect(try await load.lost(client) == nil)
                await client.close()
            }
        }

        @Test func aHostWithoutSpaceGoesOnAndNothingAcknowledgedIsLost() async throws {
            try await withHosts(1) { cluster in
                let host = cluster.hosts[0]
                // Files above 12 MiB can't be written: SIGXFSZ ignored, that is an error of the write, as on a full disk.
                let shell = try ChildProcess(
                    "/bin/bash",
                    [
                        "-c",
                        "trap '' XFSZ; ulimit -f 12288; exec '\(cluster.local.executable)' serve --directory '\(host.directory)' "
                            + "--listen \(host.address) --end-with-input",
                    ], input: .lifeline)
                try await cluster.local.run(["init", "--hosts", host.address, "--groups", "2"])
                let filling = String(repeating: "x", count: 400)
                let lines = (10_000..<40_000).map {
                    "key-\($0)\tvalue \($0) of a journal that grows too large \(filling)"
                }
                let imported = try await cluster.bifrost(
                    "import", "--timeout", "10s", "-", input: Array(lines.joined(separator: "\n").utf8))
                #expect([.exit(2), .exit(4)].contains(imported.ending), "\(imported.errorText)")
                let number = imported.errorText.firstMatch(of: /line (\d+), key/).flatMap { Int($0.1) }
                let written = try #require(number, "\(imported.errorText)") - 1
                #expect(written > 0)
                // It reads, it says why it does not write, and it ends when it is told to.
                let first = String(lines[0].split(separator: "\t")[0])
                try await cluster.bifrost("get", first).expect(0)
                try await cluster.bifrost("put", "--timeout", "1s", "another", "value").expect(4)
                shell.send(SIGTERM)
                let end = await shell.end(killAfter: .seconds(180))
                #expect(end.ending == .exit(0), "\(end.errorText)")
                #expect(end.errorText.contains("the journal waits for space"), "\(end.errorText)")

                // There is space again.
                try cluster.start(host)
                _ = try await cluster.waitForStatus(0)
                let found = Set(try await cluster.bifrost("export", "-").text.split(separator: "\n").map(String.init))
                #expect(lines.prefix(written).allSatisfy { found.contains($0) })
            }
        }

        @Test func theDemoProvesItsPointAndLeavesNothingBehind() async throws {
            try await withHosts(0) { place in
                let input = place.directory + "/input.tsv"
                let work = place.directory + "/work"
                try FileManager.default.createDirectory(atPath: work, withIntermediateDirectories: true)
                let lines = (0..<3_000).map { "key-\($0)\tvalue \($0 * 7) \\t of the demo" }
                try (lines.joined(separator: "\n") + "\n").write(toFile: input, atomically: true, encoding: .utf8)
                let demo = try await place.local.command(
                    ["demo", "--input", input, "--groups", "4", "--directory", work, "--json"], limit: .seconds(180))
                #expect(demo.ending == .exit(0), "\(demo.errorText)")
                let report = try demo.json()
                #expect(report["proved"] as? Bool == true)
                let exports = try #require(report["exports"] as? [[String: Any]])
                #expect(
                    exports.count == 3
                        && exports.allSatisfy { $0["equal"] as? Bool == true && $0["records"] as? Int == 3_000 })
                let groups = try #require(report["groups"] as? [[String: Any]])
                #expect(groups.count == 5 && groups.allSatisfy { $0["agrees"] as? Bool == true })
                #expect(groups.compactMap { $0["records"] as? Int }.reduce(0, +) == 3_000)
                let killed = try #require(report["import"] as? [String: Any])
                #expect(killed["recordsWithoutKilled"] as? Int ?? 0 > 0)
                #expect(demo.errorText.contains("KILLED host"))
                #expect(try FileManager.default.contentsOfDirectory(atPath: work).isEmpty)

                // Ctrl-C in the middle.
                let interrupted = try ChildProcess(
                    place.local.executable, ["demo", "--input", input, "--groups", "4", "--directory", work])
                let end = ContinuousClock.now + .seconds(180)
                while try FileManager.default.subpathsOfDirectory(atPath: work).count < 6
                    || Self.hosts(below: work).count < 3, ContinuousClock.now < end
                {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                let hosts = Self.hosts(below: work)
                #expect(hosts.count == 3)
                interrupted.send(SIGINT)
                #expect(await interrupted.end(killAfter: .seconds(180)).ending == .exit(130))
                #expect(try FileManager.default.contentsOfDirectory(atPath: work).isEmpty)
                #expect(Self.hosts(below: work).isEmpty)
            }
        }

        /// Processes whose command line names the directory, but for `bifrost demo` itself.
        private static func hosts(below directory: String) -> [String] {
            let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
            return processes.filter { process in
                guard Int(process) != nil, let line = FileManager.default.contents(atPath: "/proc/\(process)/cmdline")
                else { return false }
                let text = String(decoding: line, as: UTF8.self)
                return text.contains("\0serve\0") && text.contains(directory)
            }
        }
    }
}

/// Workers that each write one key over and over, with a number that only grows.
final class KeyedLoad: Sendable {
    private struct Key {
        /// The last number that was acknowledged.
        var acknowledged = 0
        /// The last one that was sent.
        var sent = 0
    }
    private struct State {
        var keys: [Key]
        var acknowledged = 0
        var isStopping = false
        var unknown: [String] = []
        var unexpected: String?
    }

    private let state: Mutex<State>
    private let workers: Int
    private let client: Cluster

    init(workers: Int, client: Cluster) {
        self.workers = workers
        self.client = client
        state = Mutex(State(keys: Array(repeating: Key(), count: workers)))
    }

    var unexpected: String? { state.withLock { $0.unexpected } }
    /// Writes that may have happened or not.
    var unknown: [String] { state.withLock { $0.unknown } }
    func stop() { state.withLock { $0.isStopping = true } }

    func run() async {
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<workers { group.addTask { await self.write(worker) } }
        }
    }

    private static func name(_ worker: Int) -> Bytes { Bytes("worker-\(worker)") }

    private func write(_ worker: Int) async {
        while true {
            let number = state.withLock { state in
                if state.isStopping { return 0 }
                state.keys[worker].sent += 1
                return state.keys[worker].sent
            }
            if number == 0 { return }
            do throws(BifrostError) {
                _ = try await client.kv.put(Self.name(worker), Bytes("\(number)"))
                state.withLock {
                    $0.keys[worker].acknowledged = number
                    $0.acknowledged += 1
                }
            } catch {
                // A write whose outcome is unknown may show, and may show late: only the bounds of what is read grow.
                if !error.mayHaveHappened && !error.isRetrySafe { state.withLock { $0.unexpected = error.description } }
                // It must not be able to overtake the next one.
                guard error.mayHaveHappened else { continue }
                state.withLock { $0.unknown.append(error.description) }
                await OwnExecutor.pause(milliseconds: 2_000)
            }
        }
    }

    /// Waits until so many more writes are acknowledged.
    func progress(by count: Int) async throws {
        let goal = state.withLock { $0.acknowledged } + count
        let end = ContinuousClock.now + .seconds(180)
        while state.withLock({ $0.acknowledged }) < goal {
            guard ContinuousClock.now < end else {
                Issue.record("the load made no progress within 180 s")
                return
            }
            await OwnExecutor.pause(milliseconds: 10)
        }
    }

    /// The first key whose value is older than what was acknowledged, or was never written.
    func lost(_ client: Cluster) async throws -> String? {
        for (worker, key) in state.withLock({ $0.keys }).enumerated() {
            let found = try await client.kv.get(Self.name(worker)).map { Int($0.value.string) ?? -1 } ?? 0
            guard (key.acknowledged...key.sent).contains(found) else {
                return "worker \(worker): found \(found), acknowledged \(key.acknowledged), sent \(key.sent)"
            }
        }
        return nil
    }
}
