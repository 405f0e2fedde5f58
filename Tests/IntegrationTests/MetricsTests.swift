// What Prometheus gets of a cluster of real processes, through a client of ours: that it moves, and adds up.

import BifrostTool
import Foundation
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

/// A page as it was read: samples by name and labels.
private struct Page {
    var samples: [String: Double] = [:]
    var types: [String: String] = [:]

    init(_ text: String) throws {
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            if line.hasPrefix("# TYPE ") {
                #expect(types.updateValue(String(words[3]), forKey: String(words[2])) == nil, "\(line) came twice")
            } else if !line.hasPrefix("#") {
                let space = try #require(line.lastIndex(of: " "))
                let value = try #require(Double(line[line.index(after: space)...]), "\(line)")
                #expect(samples.updateValue(value, forKey: String(line[..<space])) == nil, "\(line) came twice")
            }
        }
    }

    subscript(_ name: String) -> Double { samples[name] ?? .nan }
    /// Over all labels.
    func sum(_ name: String) -> Double {
        samples.reduce(0) { $0 + ($1.key.hasPrefix(name + "{") ? $1.value : 0) }
    }
}

/// All that comes until the other side closes.
private final class Answer: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    let text = Mutex("")

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let read = String(buffer: unwrapInboundIn(data))
        text.withLock { $0 += read }
    }
}

extension IntegrationTests {
    @Suite struct MetricsTests {
        /// Where a host says that its metrics are.
        private func address(_ cluster: TestCluster, _ host: LocalCluster.HostProcess) async throws -> String {
            for _ in 0..<18_000 {
                if let line = cluster.log(host).split(separator: "\n").first(where: { $0.hasPrefix("listening ") }),
                    let range = line.firstRange(of: " metrics ")
                {
                    return String(line[range.upperBound...])
                }
                await OwnExecutor.pause(milliseconds: 10)
            }
            throw Executable.Missing(description: "no address of metrics in \(cluster.log(host))")
        }

        private func waitUntilItListens(_ cluster: TestCluster, _ host: LocalCluster.HostProcess) async throws {
            for _ in 0..<18_000 where !cluster.log(host).contains("listening") {
                await OwnExecutor.pause(milliseconds: 10)
            }
        }

        private func page(_ address: String) async throws -> Page {
            let answer = Answer()
            let words = address.split(separator: ":")
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(answer) }
                }
                .connect(host: String(words[0]), port: try #require(Int(words[1]))).get()
            let request = "GET /metrics HTTP/1.1\r\nHost: \(address)\r\n\r\n"
            try await channel.writeAndFlush(channel.allocator.buffer(string: request)).get()
            try await channel.closeFuture.get()
            let text = answer.text.withLock { $0 }
            let end = try #require(text.firstRange(of: "\r\n\r\n"), "\(text)")
            #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n"))
            #expect(text[..<end.lowerBound].contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"))
            return try Page(String(text[end.upperBound...]))
        }

        @Test func theFiguresOfThreeHostsMoveAndAddUp() async throws {
            try await withHosts(3) { cluster in
                try cluster.local.startAll(arguments: ["--metrics", "127.0.0.1:0"])
                var addresses: [String] = []
                for host in cluster.hosts { addresses.append(try await address(cluster, host)) }
                #expect(Set(addresses).count == 3)
                let alone = try await page(addresses[0])
                #expect(alone["bifrost_member"] == 0 && alone["bifrost_replicas"] == 0)
                try await cluster.local.run(["init", "--hosts", cluster.local.addresses, "--groups", "4"])
                try await cluster.bifrost("put", "first", "v").expect(0)
                func pages() async throws -> [Page] {
                    // Until all replicas have applied the same.
                    for _ in 0..<9_000 {
                        var pages: [Page] = []
                        for address in addresses { pages.append(try await page(address)) }
                        if Set(pages.map { $0["bifrost_commands_applied_total"] }).count == 1,
                            Set(pages.map { $0.sum("bifrost_group_commit_index") }).count == 1,
                            pages.allSatisfy({ $0["bifrost_apply_lag_entries"] == 0 })
                        {
                            return pages
                        }
                        await OwnExecutor.pause(milliseconds: 20)
                    }
                    throw Executable.Missing(description: "the replicas did not become equal")
                }
                let before = try await pages()
                let records = (0..<500).map { "key\($0)\tvalue\($0)\n" }.joined()
                try await cluster.bifrost("import", "-", input: Array(records.utf8)).expect(0)
                let after = try await pages()

                func difference(_ name: String) -> [Double] { zip(before, after).map { $1[name] - $0[name] } }
                func total(_ name: String) -> Double { difference(name).reduce(0, +) }
                // Each command was applied by all three, and measured by the one that led.
                let commands = difference("bifrost_commands_applied_total")
                #expect(commands[0] >= 500)
                #expect(total("bifrost_commit_latency_seconds_count") == commands[0])
                #expect(total("bifrost_commit_latency_seconds_sum") > 0)
                let bounds = after[0].samples.filter { $0.key.hasPrefix("bifrost_commit_latency_seconds_bucket") }
                #expect(bounds.count == 17)
                for page in after {
                    #expect(
                        page["bifrost_commit_latency_seconds_bucket{le=\"+Inf\"}"]
                            == page["bifrost_commit_latency_seconds_count"])
                    #expect(page["bifrost_journal_commit_seconds_count"] == page["bifrost_journal_commits_total"])
                    #expect(page["bifrost_journal_commit_seconds_sum"] > 0)
                    #expect(page["bifrost_replicas"] == 5 && page["bifrost_groups_leaderless"] == 0)
                    #expect(page.sum("bifrost_group_leader") == page["bifrost_groups_led"])
                    #expect(page.sum("bifrost_group_checkpoint_lag_entries") == page["bifrost_checkpoint_lag_entries"])
                    #expect(page["bifrost_checkpoint_lag_bytes"] >= page["bifrost_checkpoint_lag_bytes_max"])
                    #expect(page["bifrost_peers_connected"] == 2 && page["bifrost_member"] == 1)
                    #expect(page["bifrost_groups_without_series"] == 0 && page["metrics_series_refused_total"] == 0)
                    #expect(page["bifrost_space_level"] >= 0 && page["bifrost_damages_total"] == 0)
                    #expect(page["process_resident_memory_bytes"] > 1_000_000 && page["process_open_fds"] > 10)
                    let now = Date().timeIntervalSince1970
                    #expect(abs(page["bifrost_recorded_timestamp_seconds"] - now) < 180)
                    #expect((now - 3_600...now + 1).contains(page["process_start_time_seconds"]))
                    #expect(page.types["bifrost_commit_latency_seconds"] == "histogram")
                }
                #expect(after.reduce(0) { $0 + $1["bifrost_groups_led"] } == 5)
                #expect(after.reduce(0) { $0 + $1["bifrost_elections_won_total"] } >= 5)
                for name in [
                    "bifrost_journal_entries_total", "bifrost_journal_written_bytes_total", "process_cpu_seconds_total",
                    "bifrost_checkpoint_lag_entries",
                ] {
                    #expect(difference(name).allSatisfy { $0 > 0 }, "\(name)")
                }
                // Who led is gone: the others won elections, in later terms.
                let gone = try #require(after.indices.first { after[$0]["bifrost_groups_led"] > 0 })
                cluster.local.kill(cluster.hosts[gone])
                let others = addresses.indices.filter { $0 != gone }
                var pair: [Page] = []
                for _ in 0..<9_000 {
                    pair = []
                    for number in others { pair.append(try await page(addresses[number])) }
                    if pair.reduce(0, { $0 + $1["bifrost_groups_led"] }) == 5,
                        pair.allSatisfy({ $0["bifrost_peers_connected"] == 1 })
                    {
                        break
                    }
                    await OwnExecutor.pause(milliseconds: 20)
                }
                #expect(pair.reduce(0) { $0 + $1["bifrost_groups_led"] } == 5)
                #expect(pair.allSatisfy { $0["bifrost_peers_connected"] == 1 })
                for (number, page) in zip(others, pair) {
                    #expect(page["bifrost_term_changes_total"] > after[number]["bifrost_term_changes_total"])
                }
            }
        }

        @Test func aBadAddressIsAMistakeBeforeTheHostStarts() async throws {
            try await withHosts(1) { place in
                let directory = place.directory + "/x"
                func serve(_ words: String...) async throws -> ChildProcess.Result {
                    try await place.local.command(["serve", "--directory", directory] + words)
                }
                try await serve("--metrics", "here").expect(64, saying: "--metrics", "host:port")
                try await serve("--metrics", "0.0.0.0:0").expect(64, saying: "--metrics", "--insecure-listen")
                try await serve("--listen", "127.0.0.1:7001", "--metrics", "127.0.0.1:7001").expect(
                    64, saying: "another port")
                try place.start(place.hosts[0])
                try await waitUntilItListens(place, place.hosts[0])
                try await serve("--listen", "127.0.0.1:0", "--metrics", place.hosts[0].address).expect(
                    69, saying: "cannot listen on \(place.hosts[0].address)", "--metrics")
                #expect(!FileManager.default.fileExists(atPath: directory))
            }
        }

        @Test func theFileOfSettingsHasIt() async throws {
            try await withHosts(1) { place in
                let file = place.directory + "/settings.json"
                try #"{"metrics": "127.0.0.1:0"}"#.write(toFile: file, atomically: true, encoding: .utf8)
                try place.local.start(place.hosts[0], arguments: ["--config", file, "--json"])
                try await waitUntilItListens(place, place.hosts[0])
                let line = try #require(place.log(place.hosts[0]).split(separator: "\n").first { $0.hasPrefix("{") })
                let object = try #require(
                    try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
                #expect(try await page(try #require(object["metrics"] as? String))["bifrost_member"] == 0)
            }
        }
    }
}
