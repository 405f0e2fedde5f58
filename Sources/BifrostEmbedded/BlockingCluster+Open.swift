// Embedded clusters for programs that are not async.

public import Bifrost
public import BifrostHost
public import Logging
public import StateMachines

extension BlockingCluster {
    /// As `Cluster.open`: opens the cluster that a directory holds, in this process, and makes one if the directory is
    /// missing or empty.
    ///
    ///     let cluster = try BlockingCluster.open(directory: "data")
    ///     try cluster.put("a", "b")
    ///     cluster.close()
    ///
    /// Parameters and errors are those of `Cluster.open`. `configure` and `diskFailed` are called on other threads,
    /// which must not wait for this cluster: let `diskFailed` tell a thread of yours. Never call this from an async function
    /// or an event loop, see `BlockingCluster`.
    public static func open(
        directory: String, machines: [any StateMachine.Type] = [], groups: Int? = nil, logger: Logger? = nil,
        options: ClusterOptions = ClusterOptions(),
        configure: @escaping @Sendable (inout HostConfiguration) -> Void = { _ in },
        diskFailed: @escaping @Sendable (HostError) -> Void = { _ in }
    ) throws(BifrostError) -> BlockingCluster {
        BlockingCluster(
            try waiting { () async throws(BifrostError) in
                try await Cluster.open(
                    directory: directory, machines: machines, groups: groups, logger: logger, options: options,
                    configure: configure, diskFailed: diskFailed)
            })
    }
}
