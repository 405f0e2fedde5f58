// Hosts and commands as processes, for the tests of the whole. Owns finding the executable and removing what was made.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import Synchronization
import TestSupport
import Testing

/// All of them run one after the other: each has several processes, and elections should not wait for processor time.
@Suite(.serialized, .ownExecutor) struct IntegrationTests {}

typealias Ending = ChildProcess.Ending

/// Hosts, and commands that are told where they are.
struct TestCluster: Sendable {
    let local: LocalCluster
    /// Of `serve`, whenever one of its hosts is started.
    var hostArguments: [String] = []

    var hosts: [LocalCluster.HostProcess] { local.hosts }
    var directory: String { local.directory }

    /// Those whose default time of ten seconds a machine that stands still may take from them. Where it is of
    /// consequence a test says another one.
    private static let quick: Set<String> = [
        "put", "get", "delete", "txn", "scan", "value", "number", "map", "set", "array", "queue", "members",
    ]

    /// `bifrost WORDS…` with `--connect` to all hosts. One of them that was started a moment ago is let some time to
    /// listen: a command gives up a second after all have refused.
    @discardableResult
    func bifrost(
        _ words: String..., input: [UInt8]? = nil, at hosts: [LocalCluster.HostProcess]? = nil,
        limit: Duration = .seconds(240)
    ) async throws -> ChildProcess.Result {
        let families = [
            "ring", "group", "host", "cluster", "snapshot", "session", "machine", "value", "number", "map", "set",
            "array", "queue", "lock", "semaphore", "election", "lease", "members", "barrier", "latch",
            "rebalance",
        ]
        let count = families.contains(words.first ?? "") ? 2 : 1
        var options = ["--connect", (hosts ?? self.hosts).map(\.address).joined(separator: ",")]
        if Self.quick.contains(words.first ?? ""), !words.contains("--timeout") { options += ["--timeout", "170s"] }
        await waitUntilOneListens(hosts ?? self.hosts)
        return try await local.command(
            Array(words.prefix(count)) + options + words.dropFirst(count), input: input, limit: limit)
    }

    /// Of those whose process runs; none may be meant to.
    private func waitUntilOneListens(_ hosts: [LocalCluster.HostProcess]) async {
        let end = ContinuousClock.now + .seconds(180)
        while ContinuousClock.now < end {
            let running = hosts.filter(\.isRunning)
            if running.isEmpty || running.contains(where: { Self.isListening($0.address) }) { return }
            await OwnExecutor.pause(milliseconds: 10)
        }
    }

    /// Whether somebody listens on this port of loopback, as the system says: a host would log who only tries.
    private static func isListening(_ address: String) -> Bool {
        guard let port = address.split(separator: ":").last.flatMap({ Int($0) }),
            let table = try? String(contentsOfFile: "/proc/net/tcp", encoding: .utf8)
        else { return true }
        return table.split(separator: "\n").contains { line in
            let words = line.split(separator: " ")
            // LISTEN is 0A.
            guard words.count > 3, words[3] == "0A", let own = words[1].split(separator: ":").last else { return false }
            return Int(own, radix: 16) == port
        }
    }

    /// A client that a machine that stands still for a while does not make give up.
    func client(
        at hosts: [LocalCluster.HostProcess]? = nil, sessionTimeToLive: Duration = ClusterOptions().sessionTimeToLive
    ) async throws -> Cluster {
        var options = ClusterOptions()
        options.sessionTimeToLive = sessionTimeToLive
        options.timeout = .seconds(180)
        options.connectTimeout = .seconds(180)
        return try await Cluster.connect(to: (hosts ?? self.hosts).map(\.address), options: options)
    }

    /// Runs `bifrost status` until it ends with this code, and not only because followers have not yet noticed that
    /// their leader is gone: an election is still to come then, and `unavailable` for its time.
    func waitForStatus(_ code: Int32, seconds: Double = 180) async throws -> ChildProcess.Result {
        let end = ContinuousClock.now + .seconds(seconds)
        while true {
            // The last look begins after the end, however long the one before took.
            let isLast = ContinuousClock.now >= end
            let result = try await bifrost("status", "--timeout", "1s")
            if result.ending == .exit(code), !result.text.contains("with a leader that can't be reached from here") {
                return result
            }
            guard !isLast else {
                Issue.record(
                    "status did not end with \(code) within \(seconds) s, but with \(result.ending): \(result.text)\(result.errorText)"
                )
                return result
            }
            await OwnExecutor.pause(milliseconds: 50)
        }
    }

    /// Starts a host; commands wait until it listens.
    func start(_ host: LocalCluster.HostProcess) throws { try local.start(host, arguments: hostArguments) }

    /// Ends a host of this cluster and the only one of another, and starts that one where the first was.
    func replace(_ host: LocalCluster.HostProcess, byHostOf other: TestCluster) throws -> ChildProcess {
        local.kill(host)
        other.local.stop(other.hosts[0])
        return try ChildProcess(
            local.executable,
            ["serve", "--directory", other.hosts[0].directory, "--listen", host.address, "--end-with-input"],
            input: .lifeline)
    }

    func log(_ host: LocalCluster.HostProcess) -> String {
        (try? String(contentsOfFile: host.log, encoding: .utf8)) ?? ""
    }
}

/// A command that goes on, whose lines are looked at while it does.
final class Following: Sendable {
    private let child: ChildProcess
    private let lines: Lines

    private final class Lines: Sendable {
        let bytes = Mutex<[UInt8]>([])
    }

    init(_ cluster: TestCluster, _ words: String...) throws {
        let lines = Lines()
        self.lines = lines
        child = try ChildProcess(
            cluster.local.executable, words + ["--connect", cluster.local.addresses],
            output: .streamed { read in lines.bytes.withLock { $0 += read } })
    }

    var text: String { String(decoding: lines.bytes.withLock { $0 }, as: UTF8.self) }

    var isRunning: Bool { child.isRunning }

    func wait(for part: String, seconds: Double = 180) async throws {
        let end = ContinuousClock.now + .seconds(seconds)
        while !text.contains(part) {
            guard ContinuousClock.now < end, child.isRunning else {
                child.send(SIGKILL)
                let result = await child.end()
                throw Missing(description: "\(part) did not come in \(seconds) s, but: \(text)\(result.errorText)")
            }
            await OwnExecutor.pause(milliseconds: 20)
        }
    }

    /// Ends it as a terminal does.
    func stop() async {
        child.send(SIGINT)
        _ = await child.end(killAfter: .seconds(180))
    }

    func end(seconds: Double = 180) async -> ChildProcess.Ending {
        await child.end(killAfter: .seconds(seconds)).ending
    }

    struct Missing: Error, CustomStringConvertible {
        var description: String
    }
}

enum Executable {
    /// `bifrost` beside the test bundle: where `swift build --build-tests` puts both.
    static func path() throws -> String {
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let places = [own, CommandLine.arguments[0], Bundle.main.bundlePath].map {
            (($0 as NSString).deletingLastPathComponent as NSString).appendingPathComponent("bifrost")
        }
        guard let found = places.first(where: { FileManager.default.isExecutableFile(atPath: $0) }) else {
            throw Missing(
                description: "there is no executable at \(places[0]): run the tests with Tools/test, which builds it")
        }
        return found
    }

    struct Missing: Error, CustomStringConvertible {
        var description: String
    }
}

/// Hosts that run and belong to no cluster; gone with their data when `body` is done.
func withHosts<Result>(_ count: Int, _ body: (TestCluster) async throws -> Result) async throws -> Result {
    let local = try LocalCluster(
        below: "/var/tmp", name: "bifrost-test", count: count, executable: try Executable.path())
    defer { local.dispose(keepDirectory: false) }
    return try await body(TestCluster(local: local))
}

/// The same as a cluster.
func withCluster<Result>(
    hosts: Int = 3, groups: Int = 4, _ body: (TestCluster) async throws -> Result
) async throws -> Result {
    try await withHosts(hosts) { cluster in
        try cluster.local.startAll()
        try await cluster.local.run(["init", "--hosts", cluster.local.addresses, "--groups", "\(groups)"])
        return try await body(cluster)
    }
}

/// The same, and hosts that are no members yet.
///
/// - Parameter spare: how many of these.
func withMovingSlots<Result>(
    hosts: Int = 3, spare: Int = 0, groups: Int = 3, _ body: (TestCluster) async throws -> Result
) async throws -> Result {
    try await withHosts(hosts + spare) { cluster in
        for host in cluster.hosts { try cluster.start(host) }
        let members = Array(cluster.hosts.prefix(hosts))
        try await cluster.local.run([
            "init", "--hosts", members.map(\.address).joined(separator: ","), "--groups", "\(groups)",
        ])
        return try await body(cluster)
    }
}

extension ChildProcess.Result {
    /// Its standard output as one JSON object.
    func json() throws -> [String: Any] {
        let object = try JSONSerialization.jsonObject(with: Data(output))
        return try #require(object as? [String: Any], "expected a JSON object, found \(text)")
    }

    /// It ended with this code, and said on one line of standard error what the texts say.
    func expect(
        _ code: Int32, saying texts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(ending == .exit(code), "\(errorText)", sourceLocation: sourceLocation)
        for text in texts { #expect(errorText.contains(text), "\(errorText)", sourceLocation: sourceLocation) }
        guard code != 0 else { return }
        #expect(errorText.hasPrefix("bifrost: "), "\(errorText)", sourceLocation: sourceLocation)
        #expect(errorText.split(separator: "\n").count == 1, "\(errorText)", sourceLocation: sourceLocation)
    }

    /// What it asked for goes on by itself: that is all there is to be said.
    func expectInProgress(sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(ending == .exit(6) && errorText.isEmpty, "\(ending): \(errorText)", sourceLocation: sourceLocation)
    }

    /// The same of a command that says before what it does: its last line says why it ended.
    func expectLast(
        _ code: Int32, saying texts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(ending == .exit(code), "\(errorText)", sourceLocation: sourceLocation)
        let last = errorText.split(separator: "\n").last ?? ""
        #expect(last.hasPrefix("bifrost: "), "\(errorText)", sourceLocation: sourceLocation)
        for text in texts { #expect(last.contains(text), "\(errorText)", sourceLocation: sourceLocation) }
    }
}
