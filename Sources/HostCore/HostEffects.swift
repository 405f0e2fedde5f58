// What a host's core asks its shell to do after a turn. The shell carries it out and decides nothing.

public import Messages
public import Primitives
public import Ring
public import Storage

/// Records to make durable in one commit with whatever else waits; answered by `HostCore.journalDone(ticket:)`.
public struct JournalBatch: Sendable {
    public var ticket: UInt64
    public var records: [JournalRecord]
    /// Encoded bytes of what is in it, about.
    public let bytes: Int
    private static var recordBytes: Int { 72 }

    package init(ticket: UInt64, records: [JournalRecord]) {
        self.ticket = ticket
        self.records = records
        var bytes = 0
        for record in records {
            bytes += Self.recordBytes
            guard case .append(_, _, let entries) = record else { continue }
            for entry in entries { bytes += entry.encodedBytes }
        }
        self.bytes = bytes
    }
}

/// An answer to a client's call on the data service. The shell encodes it.
public struct HostReply: Sendable {
    public var call: CallToken
    public var response: Response<DataResult>
    /// It may be refused instead, and asked for again; the answer to a command that took effect never may.
    public var isRead = false
}

/// A read whose answer may have to come from disk: for a reader thread, which answers the call itself with
/// `HostCore.result`.
public struct ColdRead: Sendable {
    public var call: CallToken
    public var group: GroupID
    public var index: LogIndex
    public var revision: Revision
    public var key: RecordKey
    public var view: StoreView
}

/// A page of a group's records, for a reader thread: what the live memtable held, and the layers below it. When it is
/// answered, `HostCore.pageDone` follows.
public struct ColdPage: Sendable {
    public var call: CallToken
    public var group: GroupID
    public var index: LogIndex
    public var revision: Revision
    public var from: RecordKey?
    /// The first that is not asked for; nil: all are.
    public var end: RecordKey?
    public var recordsMax: Int
    public var bytesMax: Int
    public var live: RecordPage
    /// It answers a scan of the key-value machine, not a request for a page.
    public var isScan: Bool
    public var view: StoreView
}

/// What a group's slots have and do, for a thread that may wait, which answers the call. When it is answered,
/// `HostCore.pageDone` follows. With an `asker` there is no call to answer: `HostCore.loadRead` takes what is found.
public struct LoadRead: Sendable {
    public var call: CallToken
    /// The meta group's leader, that keeps the balance; nil: a client.
    package var asker: Asker?
    public var isForHost: Bool { asker != nil }

    package struct Asker: Sendable {
        var host: HostID
        /// Of its question.
        var number: UInt64
    }

    public var group: GroupID
    public var index: LogIndex
    public var revision: Revision
    /// That the group owns, ascending, each with what it was asked for in a thousand seconds.
    package var rates: [(slot: Slot, operations: UInt32)]
    /// That the rates are of.
    package var seconds: UInt32
    /// Of the live memtable, by slot.
    package var live: [UInt64]
    /// Of all memtables.
    package var memtableBytes: UInt64
    /// What it is about instead; nil: loads.
    package var contents: Contents?
    public var view: StoreView
}

/// Entries that a follower needs and that are no longer in memory: for a reader thread, answered by `HostCore.supply`.
public struct JournalRead: Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    public var follower: ReplicaID
    public var from: LogIndex
    public var through: LogIndex
    public var bytesMax: Int
}

/// A piece of a state for another host or a client: for a reader thread, answered by `HostCore.snapshotRead`.
public struct SnapshotRead: Sendable {
    package var group: GroupID
    /// `.none`: a client, or nobody in particular.
    package var to: ReplicaID
    /// Which of the host's supplies it is for. Numbers that others choose, or that come again, may be of another one.
    package var supply: UInt64
    package var base: LogIndex
    package var view: StoreView
    /// What is known of it: not to be made again. Empty: records are counted first, as many as one read may pass.
    package var description: Bytes
    package var count: SnapshotCount
    package var countBytesMax: Int
    /// Empty: the beginning, with the description.
    package var after: Bytes
    package var bytesMax: Int
    /// Of all records before; nil: none is wanted.
    package var digest: StateDigest?

    /// For a client, which may wait longer than who reads a record.
    package var isForClient: Bool { to == .none }
    /// It counts, and may not come to a piece.
    var counts: Bool { description.isEmpty }
}

/// Work for the store thread.
public enum StoreJob: Sendable {
    /// Write the frozen memtable as a run and publish it; answered by `HostCore.checkpointDone`.
    case checkpoint(GroupID, FrozenMemtable, ManifestHeader)
    /// Merge the replica's runs; answered by `HostCore.mergeDone`. Deletions that changed behind the index stay.
    case merge(GroupID, ReplicaID, tombstonesThrough: LogIndex)
    /// Put a piece of a snapshot beside the replica's state; answered by `HostCore.snapshotTaken` or `snapshotFailed`.
    case takeSnapshot(SnapshotPieceToTake)
    /// Make the snapshot, all of which is there, the replica's state; answered by `snapshotInstalled` or
    /// `snapshotFailed`.
    case installSnapshot(GroupID, ReplicaID)
    /// Delete what is there of a snapshot.
    case dropSnapshot(GroupID, ReplicaID)
    /// Delete the replica's state; answered by `replicaRemoved`.
    case removeReplica(GroupID, ReplicaID)
}

public struct SnapshotPieceToTake: Sendable {
    package var group: GroupID
    package var replica: ReplicaID
    /// Of the first piece: what was there of another one goes.
    package var description: SnapshotDescription?
    package var records: Bytes

    package init(group: GroupID, replica: ReplicaID, description: SnapshotDescription?, records: Bytes) {
        self.group = group
        self.replica = replica
        self.description = description
        self.records = records
    }
}

/// A replica to start that has never been on this disk: its first manifest and its journal base, durable, then
/// `HostCore.install`.
public struct ReplicaBirth: Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    public var configuration: Configuration

    public init(group: GroupID, replica: ReplicaID, configuration: Configuration) {
        self.group = group
        self.replica = replica
        self.configuration = configuration
    }
}

/// Filled by `HostCore.turn`, emptied by the shell. Reused from turn to turn.
public struct HostEffects: Sendable {
    /// One payload for each connection that is told something, more only when one would not fit into a frame. In order.
    public var peerPayloads: [(host: HostID, channel: PeerChannel, payload: Bytes)] = []
    /// For other loops of this host, to be handed over after the payloads, in order. Empty when there is one loop.
    public var loopMessages: [(loop: Int, message: LoopMessage)] = []
    public var journal: JournalBatch?
    public var replies: [HostReply] = []
    public var coldReads: [ColdRead] = []
    public var coldPages: [ColdPage] = []
    public var loadReads: [LoadRead] = []
    public var balanceLooks: [BalanceLook] = []
    public var stateReads: [StateRead] = []
    public var deadlineReads: [DeadlineRead] = []
    public var migrationReads: [MigrationRead] = []
    public var machineReads: [MachineRead] = []
    public var logReads: [JournalRead] = []
    public var snapshotReads: [SnapshotRead] = []
    public var storeJobs: [StoreJob] = []
    public var births: [ReplicaBirth] = []
    /// Not empty when something changed, and then complete, for all replicas of this loop: entries at or below these
    /// indices are superfluous, and the journal may trim. A value goes when the newest lists of all loops let it: a
    /// replica that is in none keeps its entries.
    public var superfluous: [(replica: ReplicaID, through: LogIndex)] = []
    /// A newer cluster map to keep, and to connect by.
    public var map: ClusterMap?
    /// Replicas of which damage was met, in their state or in their log, each time that it is news.
    public var damages = 0
    /// Lines for the operator's log.
    public var notices: [String] = []

    public init() {}

    public mutating func removeAll() {
        peerPayloads.clear()
        loopMessages.clear()
        journal = nil
        replies.clear()
        coldReads.clear()
        coldPages.clear()
        loadReads.clear()
        balanceLooks.clear()
        stateReads.clear()
        deadlineReads.clear()
        migrationReads.clear()
        machineReads.clear()
        logReads.clear()
        snapshotReads.clear()
        storeJobs.clear()
        births.clear()
        superfluous.clear()
        map = nil
        damages = 0
        notices.clear()
    }
}
