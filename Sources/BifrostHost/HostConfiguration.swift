// What a host is told when it starts.

public import HostCore
public import RPC

/// Where a host keeps its data and listens. Everything else is in the cluster's map.
public struct HostConfiguration: Sendable {
    /// The data directory; made if it is missing.
    public var directory: String
    /// Where to listen. Port 0 takes a free one.
    public var listen: NetworkAddress
    /// The address that others reach this host by; nil: the one that it listens on.
    public var advertise: String?
    /// What people call it, for messages.
    public var name: String
    public var zone: String
    /// Threads for reads that may touch the disk.
    public var readerThreads = 2
    /// Bytes of the store's index and filter chunks kept in memory.
    public var indexCacheBytes = 64 << 20
    /// Bytes of freed memtable memory kept for the next.
    public var memtablePoolBytes = 128 << 20
    /// Bytes of zeros written ahead in the journal's file: halves the time of a commit that would extend it.
    public var journalPreallocateBytes = 16 << 20
    public var settings = HostSettings()
    public var limits = ServerLimits()
    /// The program's version, for status.
    public var version = ""

    public init(directory: String, listen: NetworkAddress, name: String = "", zone: String = "") {
        self.directory = directory
        self.listen = listen
        self.name = name
        self.zone = zone
    }
}
