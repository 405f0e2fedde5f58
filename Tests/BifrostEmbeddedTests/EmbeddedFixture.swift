// Directories and clusters of these tests.

import Bifrost
import BifrostEmbedded
import BifrostHost
import Foundation
import Logging
import Primitives
import Synchronization
import TestSupport
import Testing

/// What the tasks of a test tell each other.
final class Tally: Sendable {
    /// By lane: the last put that was acknowledged.
    let acknowledged = Mutex<[Int: Int]>([:])
    let unknown = Mutex(0)
    let isOver = Mutex(false)
}

struct Timeout: Error, CustomStringConvertible {
    var description: String
}

/// Asks until it is so. Nothing in these tests is decided by how long that takes.
func wait(seconds: Double = 900, for what: String, until isSo: () async throws -> Bool) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    while try await !isSo() {
        guard ContinuousClock.now < end else { throw Timeout(description: "waited \(seconds) s for: \(what)") }
        await OwnExecutor.pause(milliseconds: 5)
    }
}

/// A directory on a disk, for one test; removed at the end.
final class TestDirectory: Sendable {
    let path: String
    init() { path = "/var/tmp/bifrost-embedded-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

var quiet: Logger {
    var logger = Logger(label: "host")
    logger.logLevel = .critical
    return logger
}

/// Files as small as can be.
func small(_ configuration: inout HostConfiguration) {
    configuration.journalPreallocateBytes = 0
    configuration.reserveBytes = 0
}

func open(
    _ directory: String, machines: [any StateMachine.Type] = [], groups: Int? = nil, loops: Int = 1
) async throws -> Cluster {
    var options = ClusterOptions()
    options.timeout = .seconds(180)
    return try await Cluster.open(
        directory: directory, machines: machines, groups: groups, logger: quiet, options: options,
        configure: {
            small(&$0)
            $0.eventLoops = loops
        })
}

/// Whatever comes of it, the cluster is closed at the end.
func withCluster(
    _ directory: String, machines: [any StateMachine.Type] = [], groups: Int? = nil, loops: Int = 1,
    _ body: (Cluster) async throws -> Void
) async throws {
    let cluster = try await open(directory, machines: machines, groups: groups, loops: loops)
    do {
        try await body(cluster)
        await cluster.close()
    } catch {
        await cluster.close()
        throw error
    }
}
