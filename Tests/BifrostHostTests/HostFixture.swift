// Hosts in this process: real directories, real sockets on loopback. Owns starting them, making a cluster of them, and
// asking one of them.

import Bifrost
import BifrostHost
import Foundation
import HostCore
import Logging
import Messages
import NIOPosix
import Primitives
import RPC
import Ring
import Synchronization
import TestSupport
import Testing

typealias Host = BifrostHost.Host

struct Timeout: Error, CustomStringConvertible {
    var description: String
}

/// Asks until it is so. Nothing in these tests is decided by how long that takes.
func wait(
    seconds: Double = 180, for what: @autoclosure () -> String, until isSo: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    while try await !isSo() {
        guard ContinuousClock.now < end else { throw Timeout(description: "waited \(seconds) s for: \(what())") }
        await OwnExecutor.pause(milliseconds: 5)
    }
}

/// A directory on a disk, for one test; removed at the end.
final class TestDirectory: Sendable {
    let path: String
    init() throws {
        path = "/var/tmp/bifrost-host-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// A loopback address for the hosts of one test's directory: a port that a host gave back stays free until the next
/// life of that host takes it, because nobody else listens, or calls from, there.
private func loopback(of directory: String) -> String {
    let name = directory.split(separator: "/").first { $0.hasPrefix("bifrost-host-") } ?? "0"
    let number = name.utf8.reduce(1 as UInt64) { mix($0 ^ UInt64($1)) }
    return "127.\(1 + number % 254).\(1 + number / 254 % 254).\(1 + number / 64_516 % 254)"
}

/// Starts a host. One that was stopped a moment ago in this process is let some time to let its directory go, and its
/// port: other tests start processes, which have all that is open here until they are their own program.
func startHost(_ directory: String, port: Int = 0, loops: Int = 1, _ adapt: (inout HostSettings) -> Void = { _ in })
    async throws -> Host
{
    var configuration = HostConfiguration(
        directory: directory, listen: NetworkAddress(host: loopback(of: directory), port: port), name: "test")
    configuration.eventLoops = loops
    configuration.journalPreallocateBytes = 0
    configuration.reserveBytes = 0
    adapt(&configuration.settings)
    var logger = Logger(label: "host")
    logger.logLevel = .critical
    let end = ContinuousClock.now + .seconds(180)
    while true {
        do {
            return try await Host.start(configuration, logger: logger) { Issue.record("the disk failed: \($0)") }
        } catch let error as HostError {
            let isHeld = error.message.contains("this process has it open")
            let isTaken = port > 0 && error.message.contains("Address already in use")
            guard isHeld || isTaken, ContinuousClock.now < end else { throw error }
            await OwnExecutor.pause(milliseconds: 5)
        }
    }
}

/// Questions to one host's cluster service.
struct Probe: Sendable {
    let connection: RPCConnection

    init(_ address: NetworkAddress, backoffMilliseconds: UInt64 = 5) {
        connection = RPCConnection(
            to: address, hello: Hello(role: .client, identity: PeerIdentity(featureLevel: 1, name: "test")),
            eventLoop: MultiThreadedEventLoopGroup.singleton.next(), seed: 1,
            backoff: Backoff(firstMilliseconds: backoffMilliseconds, maxMilliseconds: backoffMilliseconds))
        connection.connect()
    }

    func ask<Question: Message, Answer: Message>(
        _ method: UInt16, _ question: Question, _: Answer.Type = Answer.self, seconds: UInt64 = 180
    ) async throws -> Answer {
        try Answer(
            decoding: try await connection.request(
                service: ServiceNumber.cluster, method: method, payload: question.encoded(),
                deadline: RPCClock.now() + seconds * 1_000_000_000))
    }

    func ping() async throws -> PingReply { try await ask(ClusterMethod.ping, PingRequest()) }
    func status() async throws -> HostStatus { try await ask(ClusterMethod.status, StatusRequest()) }
    func initialise(_ host: HostID, _ incarnation: Incarnation, _ map: ClusterMap) async throws -> InitialiseReply {
        try await ask(
            ClusterMethod.initialise, InitialiseRequest(host: host, incarnation: incarnation, map: map))
    }
    func close() { connection.close() }
}

/// The map of a new cluster of hosts that answered so.
func firstMap(_ pings: [PingReply], groups: Int, featureLevel: UInt32 = FeatureLevel.first) throws -> ClusterMap {
    try Planner.firstMap(
        cluster: ClusterID(high: UInt64.random(in: 1...UInt64.max), low: 1),
        hosts: pings.enumerated().map { number, ping in
            HostRecord(
                id: HostID(UInt64(number + 1)), name: ping.name, address: ping.address, incarnation: ping.incarnation,
                featureLevel: ping.featureLevel)
        }, groups: groups, replicas: min(3, pings.count), featureLevel: featureLevel)
}

/// Some hosts of one cluster. Belongs to one test's task.
final class TestHosts {
    let directory: TestDirectory
    let adapt: (inout HostSettings) -> Void
    private(set) var running: [Host?]
    private(set) var ports: [Int] = []
    private(set) var map: ClusterMap

    /// Starts one host for each number of event loops, and makes a cluster of them.
    init(
        loops: [Int], groups: Int, featureLevel: UInt32 = FeatureLevel.first,
        _ adapt: @escaping (inout HostSettings) -> Void = { _ in }
    ) async throws {
        directory = try TestDirectory()
        self.adapt = adapt
        running = []
        for (number, count) in loops.enumerated() {
            running.append(try await startHost("\(directory.path)/\(number)", loops: count, adapt))
        }
        ports = running.map { $0!.address.port }
        let probes = running.map { Probe($0!.address) }
        defer { for probe in probes { probe.close() } }
        var pings: [PingReply] = []
        for probe in probes { pings.append(try await probe.ping()) }
        map = try firstMap(pings, groups: groups, featureLevel: featureLevel)
        for (number, probe) in probes.enumerated() {
            let reply = try await probe.initialise(HostID(UInt64(number + 1)), pings[number].incarnation, map)
            guard case .done = reply else { throw Timeout(description: "init was answered \(reply)") }
        }
    }

    func path(_ number: Int) -> String { "\(directory.path)/\(number)" }

    func start(_ number: Int, loops: Int, in path: String? = nil) async throws {
        running[number] = try await startHost(path ?? self.path(number), port: ports[number], loops: loops, adapt)
    }

    func stop(_ number: Int) async {
        await running[number]?.stop(graceMilliseconds: 200)
        running[number] = nil
    }

    func stopAll() async { for number in running.indices { await stop(number) } }

    /// Of those that run.
    var addresses: [String] {
        zip(ports, running).compactMap { port, host in
            host == nil ? nil : "\(loopback(of: directory.path)):\(port)"
        }
    }

    func client(_ name: String = "test") async throws -> Cluster {
        var options = ClusterOptions()
        options.name = name
        options.timeout = .seconds(180)
        options.connectTimeout = .seconds(180)
        return try await Cluster.connect(to: addresses, options: options)
    }

    func status(_ number: Int) async throws -> HostStatus {
        let probe = Probe(NetworkAddress(host: loopback(of: directory.path), port: ports[number]))
        defer { probe.close() }
        return try await probe.status()
    }

    /// Every replica has applied what its group's others have, and to the same effect.
    func waitForEqualStates() async throws {
        var last = "nothing"
        try await wait(for: "equal states, found \(last)") {
            var states: [GroupID: Set<String>] = [:]
            var replicas = 0
            for number in running.indices where running[number] != nil {
                for replica in try await status(number).replicas {
                    replicas += 1
                    states[replica.group, default: []].insert(
                        "\(replica.lastIndex) \(replica.appliedIndex) \(replica.digest)")
                }
            }
            last = "\(states)"
            // A host that has just started has not restored all of its replicas yet.
            return replicas == map.groups.count * running.count { $0 != nil }
                && states.values.allSatisfy { $0.count == 1 }
        }
    }
}

/// Runs a test with hosts that are stopped at its end, whatever comes of it.
func withHosts<Result>(
    loops: [Int], groups: Int, featureLevel: UInt32 = FeatureLevel.first,
    _ adapt: @escaping (inout HostSettings) -> Void = { _ in }, _ body: (TestHosts) async throws -> Result
) async throws -> Result {
    let hosts = try await TestHosts(loops: loops, groups: groups, featureLevel: featureLevel, adapt)
    do {
        let result = try await body(hosts)
        await hosts.stopAll()
        return result
    } catch {
        await hosts.stopAll()
        throw error
    }
}
