// Which formats and commands there are. A cluster uses only those that every one of its hosts can read: the map's
// feature level says which, a host's says what its version knows.

/// Numbers of feature levels. Each level has everything of those below it.
public enum FeatureLevel {
    /// The first version's formats and commands.
    public static let first: UInt32 = 1
    /// Members of groups, groups and hosts change at runtime: host and group records of version 2, meta commands from
    /// 3 on.
    public static let membership: UInt32 = 2
    /// A cluster that was recovered after a loss of quorum: meta command 13.
    public static let recovery: UInt32 = 3
    /// Hosts name their silent replicas to each other: peers' batches of version 3.
    public static let silence: UInt32 = 4
    /// Transactions of the key-value machine: its command 3.
    public static let transactions: UInt32 = 5
    /// Sessions: commands that are applied once, however often they are sent.
    public static let sessions: UInt32 = 6
    /// State machines of users.
    public static let machines: UInt32 = 7
    /// Records and timers with deadlines: the times to live of keys, machines' timers. Comparing digests.
    public static let deadlines: UInt32 = 8
    /// Bifrost's data types: machines below 1,024; sweeps; records of sessions of version 2.
    public static let dataTypes: UInt32 = 9
    /// Memberships, barriers and latches: machines 26 to 28.
    public static let gatherings: UInt32 = 10
    /// Slots move from group to group: maps of version 2, meta commands from 16 on, sub state machine 5.
    public static let migrations: UInt32 = 11
    /// Users and roles: hosts' maps of version 3, meta commands 27 to 31. Nothing asks for it yet.
    public static let access: UInt32 = 12
    /// What this version knows.
    public static let current = migrations

    /// Of the map of a new cluster of hosts with these levels: everything that they all know may be asked of it. Hosts of
    /// an earlier version can't join it.
    public static func ofNewMap(hosts levels: [UInt32]) -> UInt32 { min(levels.min() ?? first, current) }
}
