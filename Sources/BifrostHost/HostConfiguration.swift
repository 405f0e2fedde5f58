// What a host is told when it starts.

public import CoreMetrics
public import HostCore
import NIOCore
public import RPC
public import StateMachines

/// Where a host keeps its data and listens. Everything else is in the cluster's map.
public struct HostConfiguration: Sendable {
    /// The data directory; made if it is missing.
    public var directory: String
    /// Where to listen. Port 0 takes a free one. Nil: nowhere, for a host that is all of its cluster and serves only
    /// clients in its own process (`Cluster.open`).
    public var listen: NetworkAddress?
    /// The address that others reach this host by; nil: the one that it listens on.
    public var advertise: String?
    /// What people call it, for messages.
    public var name: String
    public var zone: String
    /// Event loops: threads that own sockets and replicas, 1 to `eventLoopsMax`. Nothing on disk or on the wire depends
    /// on the number: it may be another at the next start.
    public var eventLoops = Self.eventLoopsDefault
    /// Threads for reads that may touch the disk.
    public var readerThreads = 2
    /// Threads for queries of users' state machines, 1 to `queryThreadsMax`: so many are answered at the same time, of all
    /// groups together.
    public var queryThreads = Self.queryThreadsDefault
    /// Bytes of the store's index and filter chunks kept in memory.
    public var indexCacheBytes = 64 << 20
    /// Bytes of freed memtable memory kept for the next.
    public var memtablePoolBytes = 128 << 20
    /// Bytes of zeros written ahead in the journal's file: halves the time of a commit that would extend it.
    public var journalPreallocateBytes = 16 << 20
    /// Space in each of the two files that only deletes, merges and prefix deletion may use, so that a full file system
    /// shows before a write has begun, and what gives space back goes on. Twice as much is allocated ahead.
    public var reserveBytes = 8 << 20
    public var settings = HostSettings()
    public var limits = ServerLimits()
    /// Where the host's metrics go; nil: to the backend that the process chose with `MetricsSystem.bootstrap`. Hosts in
    /// one process need one each, as their series have the same names. Documentation/Metrics.md lists them.
    public var metrics: (any MetricsFactory)?
    /// Milliseconds between two recordings of them; 0: only when `Host.recordMetrics` is called.
    public var metricsPeriodMilliseconds: Int64 = 1_000
    /// Groups with series of their own, the lowest numbers first; what there is of all others is in sums alone.
    public var metricsGroupsMax = 64
    /// The program's version, for status.
    public var version = ""

    /// Bytes of cold data that are read in a second to verify their checksums; 0: none are.
    public var scrubBytesPerSecond: Int {
        get { settings.scrubBytesPerSecond }
        set { settings.scrubBytesPerSecond = newValue }
    }
    /// As in the settings: below `FeatureLevel.current` the host is like one of an older version, for trials.
    public var featureLevel: UInt32 {
        get { settings.featureLevel }
        set { settings.featureLevel = newValue }
    }

    /// Users' state machines that this program has. All hosts of a cluster should have the same: a host takes a command
    /// only where the other hosts of its group have it too.
    public var machines: StateMachineRegistry {
        get { settings.machines }
        set { settings.machines = newValue }
    }

    public static let eventLoopsMax = 64
    /// Half of the cores, as disks and clients want theirs, and at most four.
    public static var eventLoopsDefault: Int { max(1, min(4, System.coreCount / 2)) }

    public static let queryThreadsMax = 256
    /// Half of the cores, and at least two, so that one long query does not keep all others waiting.
    public static var queryThreadsDefault: Int { max(2, min(queryThreadsMax, System.coreCount / 2)) }

    public init(directory: String, listen: NetworkAddress?, name: String = "", zone: String = "") {
        self.directory = directory
        self.listen = listen
        self.name = name
        self.zone = zone
    }
}

// The words of other modules that a host's program needs.
public typealias NetworkAddress = RPC.NetworkAddress
public typealias StateMachineRegistry = StateMachines.StateMachineRegistry
