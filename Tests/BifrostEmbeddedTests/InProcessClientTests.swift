// Clients beside a host of a cluster in one process: what is for it takes the short way, what is for others a socket.

import Bifrost
import BifrostHost
import Foundation
import Messages
import NIOPosix
import Primitives
import RPC
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

/// Hosts on loopback that are one cluster. Belongs to one test's task.
final class ServedHosts {
    fileprivate(set) var hosts: [BifrostHost.Host] = []
    private var stopped: Set<Int> = []

    func stop(_ number: Int) async {
        guard stopped.insert(number).inserted else { return }
        await hosts[number].stop(graceMilliseconds: 0)
    }

    fileprivate func stopAll() async { for number in hosts.indices { await stop(number) } }
}

/// Their directories are 0, 1, … below the one that is given.
func withServedHosts(
    _ count: Int, in directory: TestDirectory = TestDirectory(), groups: Int = 6,
    _ body: (ServedHosts) async throws -> Void
) async throws {
    let served = ServedHosts()
    do {
        for number in 0..<count {
            var configuration = HostConfiguration(
                directory: "\(directory.path)/\(number)", listen: NetworkAddress(host: "127.0.0.1", port: 0))
            small(&configuration)
            configuration.eventLoops = 1 + number % 2
            served.hosts.append(
                try await BifrostHost.Host.start(configuration, logger: quiet) { Issue.record("disk: \($0)") })
        }
        let connections = served.hosts.map { host in
            RPCConnection(
                to: host.address, hello: Hello(role: .client, identity: PeerIdentity(name: "test")),
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(), seed: 1)
        }
        for connection in connections { connection.connect() }
        defer { for connection in connections { connection.close() } }
        func ask<Question: Message, Answer: Message>(
            _ number: Int, _ method: UInt16, _ question: Question
        ) async throws -> Answer {
            try Answer(
                decoding: try await connections[number].request(
                    service: ServiceNumber.cluster, method: method, payload: question.encoded(),
                    deadline: RPCClock.now() + 180_000_000_000))
        }
        var records: [HostRecord] = []
        for number in 0..<count {
            let ping: PingReply = try await ask(number, ClusterMethod.ping, PingRequest())
            records.append(
                HostRecord(
                    id: HostID(UInt64(number + 1)), name: ping.name, address: ping.address,
                    incarnation: ping.incarnation, featureLevel: ping.featureLevel))
        }
        let map = try Planner.firstMap(
            cluster: ClusterID(high: UInt64.random(in: 1...UInt64.max), low: 1), hosts: records, groups: groups,
            replicas: min(3, count), featureLevel: FeatureLevel.current)
        for number in 0..<count {
            let reply: InitialiseReply = try await ask(
                number, ClusterMethod.initialise,
                InitialiseRequest(host: records[number].id, incarnation: records[number].incarnation, map: map))
            guard case .done = reply else { throw Timeout(description: "init was answered \(reply)") }
        }
        try await body(served)
        await served.stopAll()
    } catch {
        await served.stopAll()
        throw error
    }
}

@Suite(.ownExecutor) struct InProcessClientTests {
    private func options(_ host: BifrostHost.Host? = nil) -> ClusterOptions {
        var options = ClusterOptions()
        options.timeout = .seconds(180)
        options.host = host
        return options
    }

    /// Requests that came to each host the short way.
    private func short(_ hosts: [BifrostHost.Host]) -> [Int] { hosts.map { $0.localServer.counters.requests } }

    @Test func whatIsForTheHostBesideItTakesTheShortWayAndWhatIsForOthersTheirSockets() async throws {
        try await withServedHosts(3) { served async throws in
            let hosts = served.hosts
            let clusters = [
                try await Cluster.connect(to: hosts.map { "\($0.address)" }, options: options(hosts[1])),
                try await Cluster.connect(through: hosts[1], options: options()),
            ]
            for (number, cluster) in clusters.enumerated() {
                let before = short(hosts)[1]
                for key in 0..<60 { try await cluster.kv.put(Bytes("key \(key)"), Bytes("\(number) \(key)")) }
                for key in 0..<60 {
                    #expect(try await cluster.kv.get(Bytes("key \(key)"))?.value.string == "\(number) \(key)")
                }
                #expect(try await cluster.kv.get("key 1", .linearizableAt(HostID(2)))?.value.string == "\(number) 1")
                #expect(try await cluster.status().count { (try? $0.status.get()) != nil } == 3)
                let requests = short(hosts)
                #expect(requests[0] == 0 && requests[2] == 0)
                #expect(requests[1] > before, "\(requests)")
            }
            // Without it, nothing does.
            let before = short(hosts)
            let plain = try await Cluster.connect(to: ["\(hosts[1].address)"], options: options())
            for key in 0..<60 { try await plain.kv.put(Bytes("key \(key)"), "plain") }
            #expect(short(hosts) == before)
            for cluster in clusters + [plain] { await cluster.close() }
            #expect(hosts[1].localServer.counters.connectionsOpen == 0)
        }
    }

    @Test func whenTheHostBesideItEndsTheOthersGoOnAndNothingIsDoneTwice() async throws {
        try await withServedHosts(3) { served async throws in
            let cluster = try await Cluster.connect(through: served.hosts[0], options: options())
            try await cluster.kv.put("warm", "up")
            let tally = Tally()
            let tasks = (0..<16).map { lane in
                Task(executorPreference: OwnExecutor.current) {
                    var last: Revision?
                    for number in 1... {
                        if tally.isOver.withLock({ $0 }) { return }
                        let key = Bytes("lane \(lane)")
                        do throws(BifrostError) {
                            // Its own last revision: a put that was done twice would be found out.
                            let condition: KeyValueTransaction.Condition.Test =
                                if let last { .revision(last) } else { .absent }
                            last = try await cluster.kv.put(key, Bytes("\(number)"), if: condition)
                        } catch {
                            Issue.record("lane \(lane), put \(number): \(error)")
                            return
                        }
                        tally.acknowledged.withLock { $0[lane] = number }
                    }
                }
            }
            try await wait(for: "puts of all lanes") {
                tally.acknowledged.withLock { $0.values.count { $0 > 5 } } == 16
            }
            await served.stop(0)
            let before = tally.acknowledged.withLock { $0 }
            try await wait(for: "more puts of all lanes") {
                tally.acknowledged.withLock { now in (0..<16).allSatisfy { (now[$0] ?? 0) > (before[$0] ?? 0) + 5 } }
            }
            tally.isOver.withLock { $0 = true }
            for task in tasks { await task.value }
            for (lane, number) in tally.acknowledged.withLock({ $0 }) {
                #expect(try await cluster.kv.get(Bytes("lane \(lane)"))?.value.string == "\(number)")
            }
            await cluster.close()
        }
    }

    @Test func aHostWithoutAClusterSaysSo() async throws {
        let directory = TestDirectory()
        var configuration = HostConfiguration(directory: directory.path, listen: nil)
        small(&configuration)
        let host = try await BifrostHost.Host.start(configuration, logger: quiet) { _ in }
        let error = await #expect(throws: BifrostError.self) { try await Cluster.connect(through: host) }
        #expect(error?.code == .notInitialised)
        await host.stop(graceMilliseconds: 0)
    }
}
