// A whole cluster in the program that uses it: one host, one directory, no ports. Owns its beginning and its end; what
// runs in between is the host and the client of every other cluster.

public import Bifrost
public import BifrostHost
public import Logging
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring
public import StateMachines

extension Cluster {
    /// Opens the cluster that a directory holds, and makes one if the directory is missing or empty. It runs in this
    /// process and listens nowhere; what it acknowledges is on the disk.
    ///
    ///     let cluster = try await Cluster.open(directory: "data")
    ///     try await cluster.kv.put("a", "b")
    ///     await cluster.close()
    ///
    /// One process at a time has a directory open, once. `close` stops the host; a process that ends without it loses
    /// nothing that was acknowledged. Operations, guarantees, bounds and errors are those of `connect`.
    ///
    /// - Parameters:
    ///   - directory: made if it is missing.
    ///   - machines: users' state machines. A directory with commands of one can't go on without it.
    ///   - groups: how many share the data, for good, 1 to 65,535. Nil: as many as there are, 4 in a new directory.
    ///   - logger: the host's. Nil: that of the options.
    ///   - options: the client's; `host` and `refusalGrace` mean nothing here.
    ///   - configure: changes further settings of the host.
    ///   - diskFailed: called once, when the disk failed. Every operation fails from then on; what is unknown by then
    ///     is on the disk or not. Close the cluster, look at the disk, and open it again.
    /// - Throws: `directory` when another has it open, when it is of a host of another cluster, damaged or newer;
    ///   `invalid` for settings that don't fit; `unavailable` if the disk fails or has no space.
    public static func open(
        directory: String, machines: [any StateMachine.Type] = [], groups: Int? = nil, logger: Logger? = nil,
        options: ClusterOptions = ClusterOptions(), configure: (inout HostConfiguration) -> Void = { _ in },
        diskFailed: @escaping @Sendable (HostError) -> Void = { _ in }
    ) async throws(BifrostError) -> Cluster {
        if let groups, groups < 1 || groups >= ClusterMap.groupsMax {
            throw BifrostError(.invalid, "groups is 1 to \(ClusterMap.groupsMax - 1), not \(groups)")
        }
        var configuration = HostConfiguration(directory: directory, listen: nil, name: "embedded")
        do {
            configuration.machines = try StateMachineRegistry(machines)
        } catch {
            throw BifrostError(.invalid, "the state machines can't be registered: \(error)", cause: error)
        }
        configure(&configuration)
        configuration.listen = nil
        configuration.advertise = nil
        configuration.directory = directory

        let embedded = EmbeddedHost(directory: directory)
        let host = try await embedded.start(configuration, logger: logger ?? options.logger, diskFailed: diskFailed)
        if host.cluster == .none {
            do throws(BifrostError) {
                try await makeCluster(of: host, groups: groups ?? 4, timeout: options.connectTimeout)
            } catch {
                await embedded.stop()
                throw error
            }
        }
        var options = options
        options.host = host
        let cluster = try await Cluster.connect(
            toSeeds: [host.address], isThrough: true, options: options, closing: { await embedded.stop() })
        do throws(BifrostError) {
            let found = try await cluster.map().dataGroups.count
            if let groups, found != groups {
                throw BifrostError(.invalid, "\(directory) has \(found) groups, not \(groups): leave `groups` out")
            }
        } catch {
            await cluster.close()
            throw error
        }
        return cluster
    }

    /// As `bifrost init` does of one host.
    private static func makeCluster(
        of host: Host, groups: Int, timeout: Duration
    ) async throws(BifrostError) {
        let connection = RPCConnection(
            to: host.address, through: host.localServer,
            hello: Hello(role: .client, identity: PeerIdentity(featureLevel: FeatureLevel.current, name: "open")),
            eventLoop: MultiThreadedEventLoopGroup.singleton.next(), seed: 1)
        connection.connect()
        defer { connection.close() }
        let deadline = RPCClock.now() + UInt64(max(.zero, timeout) / .nanoseconds(1))
        do {
            func ask<Question: Message, Answer: Message>(_ method: UInt16, _ question: Question) async throws -> Answer
            {
                try Answer(
                    decoding: try await connection.request(
                        service: ServiceNumber.cluster, method: method, payload: question.encoded(), deadline: deadline)
                )
            }
            let ping: PingReply = try await ask(ClusterMethod.ping, PingRequest())
            let record = HostRecord(
                id: HostID(1), name: ping.name, address: ping.address, zone: ping.zone, incarnation: ping.incarnation,
                featureLevel: ping.featureLevel)
            let map = try Planner.firstMap(
                cluster: ClusterID(high: UInt64.random(in: 1...UInt64.max), low: UInt64.random(in: 0...UInt64.max)),
                hosts: [record], groups: groups, replicas: 1,
                featureLevel: FeatureLevel.ofNewMap(hosts: [ping.featureLevel]))
            let reply: InitialiseReply = try await ask(
                ClusterMethod.initialise, InitialiseRequest(host: record.id, incarnation: ping.incarnation, map: map))
            guard case .done = reply else {
                throw BifrostError(.unavailable, "the cluster could not be made: the host said \(reply)")
            }
        } catch let error as BifrostError {
            throw error
        } catch {
            throw BifrostError(.unavailable, "the cluster could not be made: \(error)", cause: error)
        }
    }
}
