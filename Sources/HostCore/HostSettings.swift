// The bounds and periods of a host. Every number that decides something stands here with its unit.

import DataTypes
import Primitives
public import RaftCore
public import Ring
public import StateMachines

/// What a host may be told to do otherwise. The defaults suit a data centre and a busy loopback alike.
public struct HostSettings: Sendable {
    /// The feature level that this process names to others, and up to which it goes: below `FeatureLevel.current` it is
    /// like an older version, for trials of clusters of several versions. Never lower than at an earlier start.
    public var featureLevel = FeatureLevel.current
    /// Nanoseconds between two calls of `HostCore.tick`.
    public var tickNanoseconds: UInt64 = 50_000_000
    /// Ticks between two heartbeats to each connected host.
    public var heartbeatTicks = 2
    /// Ticks without an agreeing heartbeat after which a host's leaders are suspected and their followers' timers run.
    public var suspicionTicks = 6
    /// How long, by its own clock, a host that agrees with another's heartbeat lets none of the groups that it follows
    /// there vote for anybody else; 0: it promises nothing, and there are no leases. Below a time-out no election waits
    /// for it. After a restart a host waits it out: it must not be lowered while an earlier promise may be running.
    public var leaseNanoseconds: UInt64 = 450_000_000
    /// By how many thousandths any host's clock may run fast or slow, at most: leases of hosts whose clocks do worse are
    /// not safe. At most 999.
    public var clockDriftPerMille: UInt64 = 50
    /// Entries of a group's log after which its replicas compare their states: a power of two, and the same on all hosts,
    /// or nothing is compared. For tests; a host has this one.
    package var digestInterval: UInt64 = 4_096
    /// Records of cleared collections that one command deletes, of all collections together.
    package var sweptRecordsMax = 512
    /// Bifrost's data types, and users' state machines of this host's program.
    public var machines = DataTypeMachines.registry {
        didSet { machines = machines.withDataTypes }
    }
    /// Each group's consensus; its time-outs are in the same ticks.
    public var raft = RaftSettings()

    /// Bytes of distinct records in a live memtable that trigger a checkpoint.
    public var memtableBytesTrigger = 8 << 20
    /// Bytes in a live memtable beyond which apply pauses while an older one is still being written, and the leader
    /// answers `overloaded`.
    public var memtableBytesMax = 32 << 20
    /// Bytes of a replica's entries in the journal since its last checkpoint that trigger the next.
    public var journalBytesTrigger = 8 << 20
    /// Bytes of the whole journal above which the replica that pins most of it is checkpointed, however small.
    public var journalBytesSoft = 512 << 20
    /// Bytes of a journal that is kept for a replica that is behind; beyond it, writes are refused with a clear error.
    /// Beyond a quarter more, entries of other hosts' leaders are not taken either.
    public var journalBytesMax = 8 << 30
    /// Bytes of entries that wait for the journal's disk; beyond it no more are taken, from clients or leaders.
    public var undurableBytesMax = 256 << 20
    /// Ticks for which the journal's disk may complete nothing of what it was asked for, before the host hands over what
    /// it leads: longer than two elections take. 0: it never does.
    public var journalHangTicks = 100
    /// Bytes of memory that the memtables of all replicas may take; beyond it the largest are checkpointed, however small.
    public var memtableBytesTotal = 1 << 30
    /// Nanoseconds after which what a replica has applied is checkpointed, however little it is.
    public var checkpointNanoseconds: UInt64 = 600_000_000_000
    /// Checkpoints that may be under way at once.
    public var checkpointsMax = 4
    /// Merges that may be under way at once. They are long: they have places of their own, or a checkpoint, which makes
    /// room for apply, would wait for the end of one.
    public var mergesMax = 2
    /// Runs of a replica above which they are merged.
    public var runsMax = 8
    /// Bytes of entries applied in one turn for one group, so that no group keeps the others waiting.
    public var applyBytesPerTurn = 1 << 20
    /// Bytes of applied entries that a replica keeps in memory for followers that are a little behind.
    public var logMemoryBytesMax = 4 << 20
    /// Bytes of memory that the logs of all replicas may keep alive: entries in memory are slices of the frames that
    /// they came in. Each replica has its share, and `logMemoryBytesMax` at least four times.
    public var logPinnedBytesMax = 1 << 30
    /// Calls that may wait in one group, proposals and reads together; beyond it, `overloaded`.
    public var waitingCallsMax = 65_536
    /// Bytes of answers to reads in one turn, so that no burst of reads of large values keeps heartbeats waiting; the
    /// rest is served in the next ones.
    public var replyBytesPerTurn = 4 << 20
    /// Bytes and number of one page of a group's records.
    public var pageBytesMax = 1 << 20
    public var pageRecordsMax = 16_384
    /// Pages that one loop's groups are asked for and have not answered, each of which may take as much memory as a page
    /// has; beyond it, `overloaded`.
    public var pagesMax = 64
    /// What changed last, for watches: of all groups of one loop, and of one group. 0: nothing is kept.
    public var historyBytesMax = 64 << 20
    public var historyBytesOfGroupMax = 4 << 20
    /// Watches that wait at one loop's groups; beyond it, `overloaded`.
    public var watchesMax = 65_536
    /// Queries of users' state machines that one loop's groups are asked and have not answered; beyond it, `overloaded`.
    public var queriesMax = 4_096
    /// Groups whose explicit heartbeats are started in one tick after a disagreement, so that many do not wake at once.
    public var wakesPerTick = 512
    /// Groups that a host stands for election in at start in one tick, where it is preferred as leader: the others follow
    /// in the next ones.
    public var campaignsPerTick = 256
    /// Groups that a host hands over in one second, to the replicas that the map prefers or because it is drained: each
    /// handover stops a group's proposals for a moment.
    public var handOversPerSecond = 128

    /// Bytes of a piece of a snapshot, and how many are read for other hosts in a second, by this loop. More than one
    /// piece is never under way for a receiver.
    public var snapshotPieceBytes = 256 << 10
    public var snapshotBytesPerSecond = 128 << 20
    /// Bytes that one read passes while it counts the records of a state that is to be given: others have their turn
    /// before the next.
    public var snapshotCountBytes = 2 << 20
    /// Snapshots that one loop gives at a time, and those that it gets.
    public var snapshotsMax = 4
    /// A page of records of slots that move, at most, but for one record.
    package var migrationPageBytes = 256 << 10
    package var migrationPageRecords = 1_024
    /// What one read takes into a digest, at most, but for one record. Nothing of it is kept or sent, and writers wait for
    /// it: larger pieces than pages, so that there are few ways between event loop and readers.
    package var migrationDigestBytes = 1 << 20
    package var migrationDigestRecords = 4_096
    /// What the last round before the freeze may have brought: so much may come again while writers wait.
    package var migrationLittleBytes = 256 << 10
    /// A target's seal goes into its log right behind the last page, and not when that is applied. Off in some simulations, as
    /// behind a leader that is lost between the two.
    package var sealsWithLastPage = true
    /// Bytes of slots that move that one loop reads in a second for their new groups.
    public var migrationBytesPerSecond = 64 << 20
    /// States that one loop keeps for clients at a time, while they copy them; beyond it, `overloaded`. What they read
    /// counts among what is read for other hosts, and records are counted for one of them at a time.
    public var clientSnapshotsMax = 2
    /// Groups that may have a member on its way at a time, for hosts that are drained: each costs the transfer of a state.
    public var movesMax = 16
    /// Nanoseconds without a connection after which a host does not come soon: what was on its way there from a host that
    /// is drained goes elsewhere.
    public var moveNanoseconds: UInt64 = 30_000_000_000
    /// Where the cluster keeps the balance by itself: nanoseconds from one look at what slots have to the next, and from the
    /// end of a rebalancing to the next look; six times as long where steps of it failed.
    public var balanceLookNanoseconds: UInt64 = 60_000_000_000
    public var balanceRestNanoseconds: UInt64 = 300_000_000_000
    /// Bytes that have to be written to even out bytes, in all replicas together, before that is worth a rebalancing.
    public var balanceBytesMin: UInt64 = 64 << 20
    /// What it plans by. What replicas and slots count beside their bytes hides how uneven a cluster of a few KB is.
    public var balanceRules = RebalanceInput.Rules()
    /// Bytes of cold data that are read in a second to verify their checksums; 0: none are.
    public var scrubBytesPerSecond = 4 << 20
    /// Nanoseconds from the beginning of one round through all that is on the disks to that of the next, at least: little
    /// data is not read again and again.
    public var scrubRoundNanoseconds: UInt64 = 3_600_000_000_000
    /// Bytes that are verified in one go.
    public var scrubPieceBytes = 256 << 10
    /// A journal above this does not wait for members that are behind: they get snapshots.
    public var journalBytesForLaggards = 1 << 30

    public init() {}

    /// One loop's share of the bounds on the whole host.
    func share(of loop: LoopPlace) -> HostSettings {
        var share = self
        share.undurableBytesMax = max(undurableBytesMax / loop.count, Self.undurableBytesLeast)
        share.memtableBytesTotal = memtableBytesTotal / loop.count
        share.checkpointsMax = max(checkpointsMax / loop.count, 1)
        share.mergesMax = max(mergesMax / loop.count, 1)
        share.logPinnedBytesMax = logPinnedBytesMax / loop.count
        share.wakesPerTick = max(wakesPerTick / loop.count, 1)
        share.campaignsPerTick = max(campaignsPerTick / loop.count, 1)
        share.handOversPerSecond = max(handOversPerSecond / loop.count, 1)
        return loop.count == 1 ? self : share
    }

    /// Below this a loop's share would stall on a few large appends.
    private static var undurableBytesLeast: Int { 4 << 20 }
}
