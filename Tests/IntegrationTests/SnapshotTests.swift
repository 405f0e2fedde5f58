// A running cluster is saved into files, and another cluster is made of them, with real processes.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import SnapshotFiles
import Synchronization
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct SnapshotTests {
        /// Lines of an import, by number.
        private func lines(_ numbers: ClosedRange<Int>, valueBytes: Int = 40) -> [UInt8] {
            var text = ""
            for number in numbers {
                text += "key \(number)\t\(number) \(String(repeating: "v", count: valueBytes))\n"
            }
            return Array(text.utf8)
        }

        private func snapshot(_ cluster: TestCluster, _ words: String...) async throws -> ChildProcess.Result {
            try await cluster.local.command(["snapshot"] + words, limit: .seconds(180))
        }

        /// `--host` for each of its hosts.
        private func targets(_ cluster: TestCluster) -> [String] {
            cluster.hosts.flatMap { ["--host", "\($0.address)=\($0.directory)"] }
        }

        private func restore(_ save: String, to cluster: TestCluster) async throws -> ChildProcess.Result {
            try await cluster.local.command(
                ["snapshot", "restore", save, "--json"] + targets(cluster), limit: .seconds(180))
        }

        /// The size of a file, 0 if there is none.
        private func bytes(_ path: String) -> Int {
            ((try? FileManager.default.attributesOfItem(atPath: path))?[.size] as? NSNumber)?.intValue ?? 0
        }

        private func flip(_ path: String, at offset: Int) throws {
            var data = try Data(contentsOf: URL(fileURLWithPath: path))
            data[offset] ^= 4
            try data.write(to: URL(fileURLWithPath: path))
        }

        /// Counters that only grow, written one after the other until it is told to stop.
        private final class Counters: Sendable {
            private let state = Mutex((acknowledged: [Int](repeating: 0, count: 8), isStopped: false))
            var acknowledged: [Int] { state.withLock { $0.acknowledged } }
            func stop() { state.withLock { $0.isStopped = true } }

            func run(_ client: Cluster) async throws {
                var number = 0
                while !state.withLock({ $0.isStopped }) {
                    number += 1
                    for place in 0..<8 {
                        _ = try await client.kv.put(Bytes("counter \(place)"), Bytes("\(number)"))
                        state.withLock { $0.acknowledged[place] = number }
                    }
                }
            }
        }

        @Test func aSaveTakenUnderWritesBecomesAnotherClusterWithEveryRecordOfItsTime() async throws {
            try await withCluster(groups: 4) { cluster in
                let save = cluster.directory + "/save"
                let input = lines(1...3_000)
                try await cluster.bifrost("import", "-", input: input).expect(0)
                let client = try await cluster.client()
                let counters = Counters()
                let writing = Task(executorPreference: OwnExecutor.current) { try await counters.run(client) }
                let end = ContinuousClock.now + .seconds(180)
                while counters.acknowledged[7] < 3, ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 5)
                }
                let before = counters.acknowledged
                let result = try await cluster.bifrost("snapshot", "save", save, "--json")
                let after = counters.acknowledged
                counters.stop()
                try await writing.value
                await client.close()
                result.expect(0)
                let report = try result.json()
                #expect(report["whole"] as? Bool == true && report["recordsKept"] as? Int == 0)
                let groups = try #require(report["groups"] as? [[String: Any]])
                #expect(groups.compactMap { $0["group"] as? Int } == [0, 1, 2, 3, 4])

                let inspected = try await snapshot(cluster, "inspect", save, "--json")
                inspected.expect(0)
                let found = try #require(try inspected.json()["groups"] as? [[String: Any]])
                #expect(found.map { $0["digest"] as? String } == groups.map { $0["digest"] as? String })
                #expect(found.allSatisfy { $0["problem"] == nil })
                let one = try await snapshot(cluster, "inspect", save + "/group-2.state")
                one.expect(0)
                let text = try await snapshot(cluster, "inspect", save).text
                try expectMachines(found, try inspected.json(), lines: [text, one.text])

                // Another cluster, of four hosts.
                try await withHosts(4) { other in
                    let restored = try await restore(save, to: other)
                    restored.expect(0)
                    let made = try restored.json()
                    #expect(made["cluster"] as? String != report["cluster"] as? String)
                    #expect(made["savedCluster"] as? String == report["cluster"] as? String)
                    try other.local.startAll()
                    _ = try await other.waitForStatus(0)
                    let exported = try await other.bifrost("export", "--sorted", "-")
                    exported.expect(0)
                    let all = exported.text.split(separator: "\n").map(String.init)
                    let records = String(decoding: input, as: UTF8.self).split(separator: "\n").map(String.init)
                    #expect(
                        all.filter { $0.hasPrefix("key ") }
                            == records.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) })
                    for place in 0..<8 {
                        let line = try #require(all.first { $0.hasPrefix("counter \(place)\t") })
                        let value = try #require(line.split(separator: "\t").last.flatMap { Int($0) })
                        // What was acknowledged before is there, and what came later is not.
                        #expect(before[place] <= value && value <= after[place] + 1, "counter \(place): \(value)")
                    }
                    // It is a cluster like others: it takes writes, a host dies and comes back, groups and hosts change.
                    try await other.bifrost("put", "new", "record").expect(0)
                    other.local.kill(other.hosts[1])
                    try await other.bifrost("put", "newer", "record", at: [other.hosts[0]]).expect(0)
                    try other.start(other.hosts[1])
                    _ = try await other.waitForStatus(0)
                    #expect(try await other.bifrost("get", "newer").text == "record")
                    try await other.bifrost("group", "create", "--hosts", "1,2,3").expect(0)
                    try await other.bifrost("host", "drain", "4").expect(0)
                    other.local.stopAll()
                    try other.local.startAll()
                    _ = try await other.waitForStatus(0)
                    let again = try await other.bifrost("export", "--sorted", "-").text.split(separator: "\n")
                    #expect(again.count == all.count + 2)

                    // A host of the saved cluster in the place of one of these: nobody takes it for his own.
                    cluster.local.stopAll()
                    other.local.kill(other.hosts[2])
                    let stranger = try ChildProcess(
                        other.local.executable,
                        [
                            "serve", "--directory", cluster.hosts[0].directory, "--listen", other.hosts[2].address,
                            "--end-with-input",
                        ], input: .lifeline)
                    let status = try await other.waitForStatus(3)
                    #expect(status.text.contains("degraded"), "\(status.text)")
                    #expect(try await other.bifrost("get", "new", at: [other.hosts[0]]).text == "record")
                    stranger.send(SIGKILL)
                    _ = await stranger.end(killAfter: .seconds(180))
                    try other.start(other.hosts[2])
                    _ = try await other.waitForStatus(0)
                }
            }
        }

        /// Each group's records are those of its machines, and all together are said in words.
        private func expectMachines(_ groups: [[String: Any]], _ whole: [String: Any], lines: [String]) throws {
            var sums: [Int: Int] = [:]
            for group in groups {
                let machines = try #require(group["machines"] as? [[String: Any]])
                let counts = machines.compactMap { $0["records"] as? Int }
                #expect(counts.reduce(0, +) == group["records"] as? Int)
                for machine in machines {
                    sums[try #require(machine["machine"] as? Int), default: 0] += machine["records"] as? Int ?? 0
                }
                let isMeta = group["group"] as? Int == 0
                #expect(machines.contains { $0["name"] as? String == (isMeta ? "map" : "keys and values") })
            }
            // 3,000 lines and 8 counters, which some writer has a session for.
            #expect(sums[1] == 3_008 && sums[2] ?? 0 > 0 && sums[3] ?? 0 > 0, "\(sums)")
            let all = try #require(whole["machines"] as? [[String: Any]])
            #expect(all.compactMap { $0["machine"] as? Int } == sums.keys.sorted())
            #expect(all.compactMap { $0["records"] as? Int } == sums.sorted { $0.key < $1.key }.map(\.value))
            #expect(lines[0].contains("records of state machines: 1 (keys and values) 3,008, 2 (map) "), "\(lines[0])")
            #expect(lines[1].hasPrefix("records of state machines: 1 (keys and values) "), "\(lines[1])")
        }

        @Test func whatIsDamagedUnfinishedOrNotEmptyMakesNoCluster() async throws {
            try await withCluster(hosts: 1, groups: 2) { cluster in
                try await cluster.bifrost("import", "-", input: lines(1...500)).expect(0)
                let save = cluster.directory + "/save"
                try await cluster.bifrost("snapshot", "save", save).expect(0)
                try await cluster.bifrost("snapshot", "save", save).expect(64, saying: "has a save that is whole")
                try await withHosts(2) { other in
                    let file = save + "/group-1.state"
                    let place = bytes(file) / 2
                    try flip(file, at: place)
                    let inspected = try await snapshot(cluster, "inspect", save, "--json")
                    inspected.expect(65, saying: "group-1.state, at byte", "expected a sound piece")
                    #expect(try inspected.json()["groups"] as? [[String: Any]] != nil)
                    try await restore(save, to: other).expect(65, saying: "group-1.state", "no host starts")
                    // What is left of it is no host's directory, and the next restoration takes it.
                    let served = try await other.local.command(
                        ["serve", "--directory", other.hosts[0].directory, "--listen", other.hosts[0].address],
                        limit: .seconds(180))
                    served.expect(73, saying: "half of a restoration")
                    try flip(file, at: place)

                    // A digest that is another one, in a list that is sound in itself.
                    let list = save + "/save"
                    let original = try Data(contentsOf: URL(fileURLWithPath: list))
                    var saved = try SavedCluster(Bytes(Array(original)), file: "save")
                    saved.groups[2].digest ^= 1
                    try Data(saved.encoded().array).write(to: URL(fileURLWithPath: list))
                    try await snapshot(cluster, "inspect", save).expect(65, saying: "digest")
                    try await restore(save, to: other).expect(65, saying: "digest")
                    try FileManager.default.removeItem(atPath: list)
                    try await restore(save, to: other).expect(65, saying: "not whole")
                    try await snapshot(cluster, "inspect", save).expect(65, saying: "not whole")
                    try original.write(to: URL(fileURLWithPath: list))

                    // One group alone.
                    let one = cluster.directory + "/one"
                    try await cluster.bifrost("snapshot", "save", "--group", "2", one).expect(0)
                    try await snapshot(cluster, "inspect", one).expect(0)
                    try await restore(one, to: other).expect(65, saying: "1 group of 3")
                    try await expectOneGroup(cluster, of: [one, save], damaged: save + "/group-1.state")
                    try await cluster.bifrost("snapshot", "save", "--group", "9", cluster.directory + "/nine").expect(
                        64)

                    // The same directory twice, and one that is somebody's.
                    let twice = try await other.local.command(
                        [
                            "snapshot", "restore", save, "--host", "127.0.0.1:1=\(other.directory)/x", "--host",
                            "127.0.0.1:2=\(other.directory)/x",
                        ], limit: .seconds(180))
                    twice.expect(64, saying: "each host needs its own")
                    try await restore(save, to: other).expect(0)
                    try await restore(save, to: other).expect(73, saying: "is not empty")
                    try other.local.startAll()
                    _ = try await other.waitForStatus(0)
                    let exported = try await other.bifrost("export", "-").text.split(separator: "\n")
                    #expect(exported.count == 500)
                }
            }
        }

        /// A cluster of group 2 alone, from a save of that group or of all, whatever is wrong with others.
        private func expectOneGroup(_ cluster: TestCluster, of saves: [String], damaged file: String) async throws {
            let place = bytes(file) / 2
            try flip(file, at: place)
            for save in saves {
                try await withHosts(1) { other in
                    let host = "\(other.hosts[0].address)=\(other.hosts[0].directory)"
                    func restore(_ group: String) async throws -> ChildProcess.Result {
                        try await snapshot(other, "restore", save, "--json", "--group", group, "--host", host)
                    }
                    try await restore("9").expect(64, saying: "no state of group 9")
                    try await restore("meta").expect(64, saying: "always made anew")
                    let result = try await restore("2")
                    result.expect(0)
                    let report = try result.json()
                    #expect(report["groups"] as? Int == 1 && report["slotsWithoutOwner"] as? Int == 8_192, "\(report)")
                    try other.local.startAll()
                    _ = try await other.waitForStatus(0)
                    let lines = try await other.bifrost("export", "-").text.split(separator: "\n").map(String.init)
                    // Clients' sessions are records too.
                    let records = try #require(report["records"] as? Int)
                    #expect((lines.count...lines.count + 9).contains(records) && lines.count > 100)
                    // What is there is as it was, what is not is refused, and not as if it had never been.
                    let here = try #require(lines.first).split(separator: "\t").map(String.init)
                    #expect(try await other.bifrost("get", here[0]).text == here[1])
                    let all = try await cluster.bifrost("export", "-").text.split(separator: "\n").map(String.init)
                    #expect(Set(lines).isSubset(of: all))
                    let away = try #require(all.first { !lines.contains($0) })
                    try await other.bifrost(
                        "get", "--timeout", "1s", String(away.split(separator: "\t")[0])
                    ).expect(4)
                }
            }
            try flip(file, at: place)
        }

        /// A save of one large group that is ended by a signal in the middle; nil: it was faster.
        private func interrupt(_ cluster: TestCluster, _ directory: String, _ signal: Int32) async throws -> Ending? {
            let partial = directory + "/group-1.state.partial"
            let child = try ChildProcess(
                cluster.local.executable,
                ["snapshot", "save", "--connect", cluster.hosts.map(\.address).joined(separator: ","), directory])
            let end = ContinuousClock.now + .seconds(180)
            while child.isRunning, bytes(partial) < 2 << 20, ContinuousClock.now < end {
                await OwnExecutor.pause(milliseconds: 1)
            }
            child.send(signal)
            let ending = await child.end(killAfter: .seconds(180)).ending
            return bytes(partial) > 0 ? ending : nil
        }

        @Test(arguments: [SIGKILL, SIGINT]) func aSaveThatWasInterruptedGoesOn(signal: Int32) async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                try await cluster.bifrost("import", "-", input: lines(1...6_000, valueBytes: 10_000)).expect(0)
                // So that the next save has nothing to write out first.
                try await cluster.bifrost("snapshot", "save", cluster.directory + "/first").expect(0)
                for attempt in 0..<8 {
                    let save = cluster.directory + "/save-\(attempt)"
                    guard let ending = try await interrupt(cluster, save, signal) else { continue }
                    #expect(ending == (signal == SIGINT ? .exit(130) : .signal(SIGKILL)))
                    let half = try await snapshot(cluster, "inspect", save)
                    half.expect(65, saying: "not whole")
                    let result = try await cluster.bifrost("snapshot", "save", save, "--json")
                    result.expect(0)
                    let report = try result.json()
                    let kept = try #require(report["recordsKept"] as? Int)
                    // More than the map's few records.
                    #expect(kept > 100 && kept < 6_000, "\(report)")
                    try await snapshot(cluster, "inspect", save).expect(0)
                    let first = try Data(contentsOf: URL(fileURLWithPath: cluster.directory + "/first/group-1.state"))
                    let second = try Data(contentsOf: URL(fileURLWithPath: save + "/group-1.state"))
                    // The same state: but for the head, which has number and time.
                    #expect(first.count == second.count && first.suffix(36) == second.suffix(36))
                    return
                }
                Issue.record("no save could be interrupted in the middle")
            }
        }

        @Test func aSaveOutlivesTheHostThatGivesTheState() async throws {
            try await withCluster(hosts: 3, groups: 1) { cluster in
                try await cluster.bifrost("import", "-", input: lines(1...6_000, valueBytes: 10_000)).expect(0)
                for attempt in 0..<8 {
                    let save = cluster.directory + "/save-\(attempt)"
                    let partial = save + "/group-1.state.partial"
                    let child = try ChildProcess(
                        cluster.local.executable,
                        [
                            "snapshot", "save", "--connect", cluster.hosts.map(\.address).joined(separator: ","),
                            "--json",
                            save,
                        ])
                    let end = ContinuousClock.now + .seconds(180)
                    while child.isRunning, bytes(partial) < 2 << 20, ContinuousClock.now < end {
                        await OwnExecutor.pause(milliseconds: 1)
                    }
                    // Its number is in the file's head.
                    let head = FileHandle(forReadingAtPath: partial)?.readData(ofLength: 32) ?? Data()
                    guard head.count == 32 else {
                        _ = await child.end(killAfter: .seconds(180))
                        continue
                    }
                    let giver = cluster.hosts[Int(head[24]) - 1]
                    cluster.local.kill(giver)
                    let result = await child.end(killAfter: .seconds(180))
                    try cluster.start(giver)
                    result.expect(0)
                    let groups = try #require(try result.json()["groups"] as? [[String: Any]])
                    // Clients' sessions are records too.
                    #expect((6_000...6_009).contains(try #require(groups[1]["records"] as? Int)))
                    try await snapshot(cluster, "inspect", save).expect(0)
                    guard groups[1]["host"] as? Int != giver.number else {
                        // It was through before it was killed.
                        _ = try await cluster.waitForStatus(0)
                        continue
                    }
                    return
                }
                Issue.record("no host could be killed in the middle of a save")
            }
        }
    }
}
