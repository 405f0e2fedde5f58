// The metrics of `bifrost serve`: a backend for what the host records, and who answers when Prometheus asks.

public import BifrostHost
import CoreMetrics
public import MetricsEndpoint
import RPC

/// Listens before the host starts, so that a wrong address shows before anything else has happened.
struct MetricsListener {
    private let server: MetricsServer
    /// Where it listens; tells the port when 0 was asked for.
    let address: NetworkAddress

    /// Makes the backend that of the process. Once in its life.
    static func start(on address: NetworkAddress) async throws -> MetricsListener {
        let registry = PrometheusRegistry(
            descriptions: HostMetric.all.map {
                PrometheusRegistry.Description(name: $0.name, help: $0.help, buckets: $0.bucketSeconds)
            })
        let server: MetricsServer
        do {
            server = try await MetricsServer.start(host: address.host, port: address.port, registry: registry)
        } catch {
            throw ToolError(
                .cannotListen, "cannot listen on \(address) for metrics: \(error); choose another with --metrics")
        }
        MetricsSystem.bootstrap(registry)
        return MetricsListener(
            server: server, address: NetworkAddress(host: address.host, port: server.port))
    }

    /// What is asked for from now on is as it is at that moment.
    func show(_ host: BifrostHost.Host) { server.refresh { await host.recordMetrics() } }

    func stop() async { await server.stop() }
}

// What a second of commands comes to is counted at once.
extension HistogramSeries: RepeatingTimerHandler {}
