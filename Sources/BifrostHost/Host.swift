// A host as a program starts and stops it.

import Foundation
public import Logging
package import HostCore
import NIOCore
import NIOPosix
public import Primitives
public import RPC
import Messages
import Ring
import Storage

/// One running host: its data directory, its replicas, its listener.
public final class Host: InProcessHost {
    private let shell: HostShell
    /// Nil: it listens nowhere.
    private let server: RPCServer?
    private let group: MultiThreadedEventLoopGroup
    private let metrics: HostMetrics?

    /// Where it listens; tells the port when 0 was asked for. `embeddedAddress` if it listens nowhere.
    public let address: NetworkAddress
    /// The way of clients in this process: `ClusterOptions.host`.
    public var localServer: LocalServer { shell.localServer }

    /// In the maps of clusters of one host that listens nowhere. Nobody can connect to port 0.
    public static let embeddedAddress = NetworkAddress(host: "embedded", port: 0)

    /// `.none` before `bifrost init`.
    public var cluster: ClusterID { shell.journal.identity.cluster }
    public var host: HostID { shell.journal.identity.host }

    private init(shell: HostShell, server: RPCServer?, group: MultiThreadedEventLoopGroup) {
        self.shell = shell
        self.server = server
        self.group = group
        address = server?.address ?? Self.embeddedAddress
        metrics = HostMetrics(of: shell)
    }

    /// Opens the directory, listens, and takes its part in the cluster that it belongs to, if it belongs to one.
    ///
    /// - Parameter failed: called when a disk failed: nothing in memory may be believed from then on, the process must
    ///   end.
    /// - Throws: `HostError` with what to do: the directory is held, of a newer format or damaged; the address is
    ///   taken.
    public static func start(
        _ configuration: HostConfiguration, logger: Logger, failed: @escaping @Sendable (HostError) -> Void
    ) async throws -> Host {
        if let listen = configuration.listen, listen.port != 0, DataDirectory.isNew(configuration.directory) {
            // One that can't listen anyway leaves nothing behind.
            do throws(RPCError) {
                try await RPCServer.check(listen, group: MultiThreadedEventLoopGroup.singleton)
            } catch {
                throw HostError(listening: error)
            }
        }
        let directory = try DataDirectory(path: configuration.directory)
        let (journalDisk, storeDisk, journal) = try open(directory, configuration, logger)
        let map = try directory.loadMap()
        if let map, journal.identity.cluster != .none, journal.identity.cluster != map.cluster {
            throw HostError(
                .directory,
                "\(configuration.directory) belongs to cluster \(journal.identity.cluster), its cluster map to "
                    + "\(map.cluster): if 'bifrost recover apply' was interrupted here, run it again with the same plan; "
                    + "else put back the cluster-map that belongs here"
            )
        }

        if let map, map.featureLevel > journal.identity.featureLevel {
            throw HostError(
                .directory,
                "the cluster of \(configuration.directory) uses feature level \(map.featureLevel), this version knows "
                    + "\(journal.identity.featureLevel): use the newer one"
            )
        }

        if let map, journal.identity.cluster != .none {
            try refuseOtherUse(of: directory, map, journal.identity.host, isEmbedded: configuration.listen == nil)
        }

        precondition(
            (1...HostConfiguration.eventLoopsMax).contains(configuration.eventLoops),
            "a host has 1 to \(HostConfiguration.eventLoopsMax) event loops")
        precondition(
            (1...HostConfiguration.queryThreadsMax).contains(configuration.queryThreads),
            "a host has 1 to \(HostConfiguration.queryThreadsMax) threads for queries")
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configuration.eventLoops)
        let readers = NIOThreadPool(numberOfThreads: configuration.readerThreads)
        readers.start()
        let queries = NIOThreadPool(numberOfThreads: configuration.queryThreads)
        queries.start()
        let shell = HostShell(
            eventLoops: Array(group.makeIterator()), configuration: configuration, directory: directory,
            journal: journal, journalDisk: journalDisk, storeDisk: storeDisk, readers: readers,
            queries: queries, logger: logger, failed: failed)
        var listening: RPCServer?
        do {
            if let address = configuration.listen {
                do throws(RPCError) { listening = try await listen(address, shell, group, logger) } catch {
                    throw HostError(listening: error)
                }
            }
            let server = listening
            try await shell.main.eventLoop.submit {
                shell.boundAddress = server?.address
                shell.server = server
                // An `init` may have come first: then it has begun, or is about to.
                guard !shell.hasBegun, !shell.isInitialising, shell.journal.identity.cluster != .none else { return }
                guard let map else {
                    throw HostError(
                        .directory,
                        "\(configuration.directory) has no copy of the cluster map: copy the file cluster-map from the directory of another host of the cluster"
                    )
                }
                guard map.cluster == shell.journal.identity.cluster else {
                    throw HostError(
                        .directory,
                        "\(configuration.directory) belongs to cluster \(shell.journal.identity.cluster), its cluster map to \(map.cluster)"
                    )
                }
                try shell.begin(with: map)
            }.get()
            return Host(shell: shell, server: server, group: group)
        } catch {
            await listening?.stop(graceMilliseconds: 0)
            await end(shell, group)
            if let error = error as? DiskError { throw HostError(error, of: directory) }
            throw error
        }
    }

    private static func listen(
        _ address: NetworkAddress, _ shell: HostShell, _ group: MultiThreadedEventLoopGroup, _ logger: Logger
    ) async throws(RPCError) -> RPCServer {
        try await RPCServer.start(
            on: address, group: group,
            servicesOn: { eventLoop in
                guard let loop = shell.loops.first(where: { $0.eventLoop === eventLoop }) else {
                    preconditionFailure("every event loop of the group is one of the host's")
                }
                return [ServiceNumber.consensus, ServiceNumber.data, ServiceNumber.cluster].map { ($0, loop) }
            },
            policy: shell.door, limits: shell.configuration.limits, logger: logger)
    }

    /// A directory is one kind's for good: what the map says of the host's address is where others look for it. One that
    /// listens although its map has no address for it would be found by nobody, and one that does not would be missing in
    /// its cluster.
    private static func refuseOtherUse(
        of directory: DataDirectory, _ map: ClusterMap, _ host: HostID, isEmbedded: Bool
    ) throws {
        let address = map.host(host)?.address ?? "an address that its map has no more"
        if isEmbedded, address != embeddedAddress.description {
            throw HostError(
                .directory,
                "\(directory.path) belongs to host \(host) of cluster \(map.cluster), which others reach at \(address): "
                    + "serve it with `bifrost serve`, or name another directory")
        }
        if !isEmbedded, address == embeddedAddress.description {
            throw HostError(
                .directory,
                "\(directory.path) belongs to a program that has its cluster embedded (`Cluster.open`): such a directory "
                    + "is opened by programs and not served. Name another one")
        }
    }

    /// Ends all threads: first what answers to the loops, last the loops, so that nothing comes to one that is gone.
    private static func end(_ shell: HostShell, _ group: MultiThreadedEventLoopGroup) async {
        await shell.stop()
        try? await shell.storeWriter.shutDown()
        try? await shell.journalWriter.shutDown()
        try? await shell.readers.shutdownGracefully()
        try? await shell.queries.shutdownGracefully()
        try? await shell.copies.shutDown()
        try? await group.shutdownGracefully()
    }

    private static func open(
        _ directory: DataDirectory, _ configuration: HostConfiguration, _ logger: Logger
    ) throws -> (LMDBDisk, LMDBDisk, Journal<LMDBDisk>) {
        try directory.refuseRestoration()
        // Identity and votes are in the journal. Without it, what lies beside it is no new host's directory.
        if let remains = directory.remainsWithoutJournal {
            throw HostError(
                .directory,
                "\(directory.path) has \(remains) but no journal: its disk counts as lost, and this host must not come back under "
                    + "its old identity. Move the directory away, or put the journal back"
            )
        }
        do {
            var journalSettings = LMDBDisk.Settings()
            journalSettings.preallocateBytes = configuration.journalPreallocateBytes
            journalSettings.reserveBytes = configuration.reserveBytes
            var storeSettings = LMDBDisk.Settings()
            storeSettings.reserveBytes = configuration.reserveBytes
            let quarantine = StoreQuarantine(directory: directory, logger: logger)
            try quarantine.lookAtJournal()
            let journalDisk = try LMDBDisk(directory: directory.journal, settings: journalSettings)
            let storeDisk = try quarantine.openStore(storeSettings, beside: journalDisk)
            // Both are locked, and a restoration that begins from now on finds them: before, it may have begun meanwhile.
            try directory.refuseRestoration(removesFalseStart: true)
            var random = SystemRandomNumberGenerator()
            let level = configuration.settings.featureLevel
            let fresh = HostIdentity(
                incarnation: Incarnation(random.next() | 1), featureLevel: level,
                journal: random.next() | 1)
            let journal = try Journal(disk: journalDisk, formatting: fresh)
            var identity = journal.identity
            guard identity.featureLevel <= level else {
                throw HostError(
                    .directory,
                    "\(directory.path) was used by a version with feature level \(identity.featureLevel), this one has \(level): use the newer one"
                )
            }
            // A store has an owner as soon as it has a superblock, and a host without a cluster has no store.
            let isStoreUsed = try storeDisk.read {
                try $0.lastKey(from: DiskKey(table: 0), through: DiskKey(table: .max)) != nil
            }
            guard identity.cluster != .none || !isStoreUsed else {
                throw HostError(
                    .directory,
                    "\(directory.path) has the store of a host of some cluster, but a journal of none: its disk counts as lost. "
                        + "Move the directory away, or put the right journal back"
                )
            }
            identity.bootCounter += 1
            // On disk before anybody hears of it: no older version comes after it here.
            identity.featureLevel = level
            try journal.update(identity)
            return (journalDisk, storeDisk, journal)
        } catch let error as DiskError {
            throw HostError(error, of: directory)
        }
    }

    /// Stops listening, answers what is in flight within the grace time, and ends all threads.
    public func stop(graceMilliseconds: Int64 = 1_000) async {
        await metrics?.stop()
        async let local: Void = localServer.stop(graceMilliseconds: graceMilliseconds)
        await server?.stop(graceMilliseconds: graceMilliseconds)
        await local
        await Self.end(shell, group)
    }

    /// Ends the ways of clients in this process at once: nothing is answered any more.
    package func refuse() async { await localServer.stop(graceMilliseconds: 0) }

    /// Brings the metrics up to now. Takes a look at each replica on its event loop, some hundred nanoseconds for each;
    /// while another call does that it returns at once. Does nothing without a backend.
    public func recordMetrics() async { await metrics?.record() }

    /// What was sent and received over the bulk connections, in payloads: shows which way catching up took.
    package var bulkPayloads: (sent: Int, received: Int) { shell.links.bulkPayloads }

    /// This process has the directory open. True for some moments after `stop`, until all of the host is let go.
    package static func holds(_ directory: String) -> Bool {
        LMDBDisk.isOpen(directory: directory + "/journal") || LMDBDisk.isOpen(directory: directory + "/store")
    }

    /// What was verified of its cold data since it started.
    package func scrubbed() async throws -> ScrubStatistics {
        try await shell.main.eventLoop.submit { [shell] in shell.scrubbed.statistics }.get()
    }
}

extension HostError {
    fileprivate init(listening error: RPCError) {
        self.init(.address, "\(error.message); choose another with --listen")
    }

    /// Of a disk that was just opened: nothing was acknowledged yet.
    init(_ error: DiskError, of directory: DataDirectory) {
        self.init(error.code == .failed ? .disk : .directory, "can't open \(directory.path): \(error)")
    }
}
