// `bifrost bench --embedded`: the host in the process that drives it, with and without a socket between them.

import Bifrost
import BifrostEmbedded
import BifrostHost
import Foundation
import Logging
import Messages
import Primitives
import RPC
import Ring

extension Bench {
    func runEmbedded() async throws {
        let home = try LocalCluster.parentDirectory(directory) + "/bifrost-bench-embedded-\(getpid())"
        let machine = Machine(directory: URL(fileURLWithPath: home).deletingLastPathComponent().path)
        defer {
            if keep {
                Output.error("bench: data: \(home)\n")
            } else {
                try? FileManager.default.removeItem(atPath: home)
            }
        }
        let report =
            if sockets {
                try await measureOverSockets(home, machine)
            } else {
                try await measure(machine: machine) { options in
                    try await Cluster.open(
                        directory: home, groups: groups ?? 16, options: options,
                        configure: { if let loops { $0.eventLoops = loops } })
                }
            }
        try finish(report)
    }

    /// The same host, but that it listens, and is called there.
    private func measureOverSockets(_ home: String, _ machine: Machine) async throws -> BenchReport {
        var configuration = HostConfiguration(directory: home, listen: NetworkAddress(host: "127.0.0.1", port: 0))
        if let loops { configuration.eventLoops = loops }
        var logger = Logger(label: "bifrost.host")
        logger.logLevel = .error
        let host = try await BifrostHost.Host.start(configuration, logger: logger) { error in
            Output.error("bench: \(error.message)\n")
            _exit(ExitStatus.diskFailed.rawValue)
        }
        let result: Result<BenchReport, any Error>
        do {
            try await makeCluster(at: host.address)
            result = .success(
                try await measure(machine: machine) { options in
                    try await Cluster.connect(to: ["\(host.address)"], options: options)
                })
        } catch {
            result = .failure(error)
        }
        await host.stop()
        return try result.get()
    }

    private func makeCluster(at address: NetworkAddress) async throws {
        let probe = try HostProbe("\(address)")
        defer { probe.close() }
        let deadline = RPCClock.now() + 30_000_000_000
        let ping = try await probe.ping(deadline: deadline)
        let record = HostRecord(
            id: HostID(1), name: ping.name, address: ping.address, incarnation: ping.incarnation,
            featureLevel: ping.featureLevel)
        let map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 1), hosts: [record], groups: groups ?? 16, replicas: 1,
            featureLevel: FeatureLevel.ofNewMap(hosts: [ping.featureLevel]))
        let reply = try await probe.initialise(
            InitialiseRequest(host: record.id, incarnation: ping.incarnation, map: map), deadline: deadline)
        guard case .done = reply else { throw ToolError(.unavailable, "making the cluster: the host said \(reply)") }
    }
}
