// A host's decisions: which group gets what, batching by turn, liveness of hosts, apply, checkpoints, what may be
// deleted. It owns its replicas and no thread, socket, file or clock: the shell and the simulator carry its effects
// out.

import DequeModule
import Messages
public import Primitives
import RaftCore
public import Ring
package import StateMachines
import Storage

/// One event loop's part of a host: all of it, if there is one loop. Inputs note what came; `turn` steps every group
/// that has something to do once and says what to do. Not thread-safe: it belongs to its event loop.
public final class HostCore {
    /// Told of each entry that is applied, and what it came to. For rules that know what it has to come to.
    package var onApplied: ((GroupID, LogEntry, Applied) -> Void)?

    /// Another host of the cluster.
    final class Peer {
        let host: HostID
        var isConnected = false
        var isBulkConnected = false
        /// When its connection was lost, or this host began to look for it; nil while it is connected.
        var awaySinceTick: UInt64?
        /// Connections for bulk so far: who asks through a later one may be another process.
        var bulkConnections: UInt64 = 0
        /// Of its version, as it named it in the handshake. Known when it is connected.
        var namedLevel: UInt32 = 0
        /// What both know: what it can be told.
        var featureLevel: UInt32 = 0 {
            didSet {
                let version: UInt8 =
                    featureLevel >= FeatureLevel.silence ? 3 : featureLevel >= FeatureLevel.membership ? 2 : 1
                writer.version = version
                bulkWriter.version = version
            }
        }
        var knowsSnapshots: Bool { featureLevel >= FeatureLevel.membership }
        var knowsMembership: Bool { featureLevel >= FeatureLevel.membership }
        /// Of the map that it has, as its last heartbeat said; nil: unknown. And for how many seconds that was older.
        var mapVersion: UInt64?
        var olderMapSeconds = 0
        var knowsPromises: Bool { featureLevel >= FeatureLevel.membership }
        var knowsSilence: Bool { featureLevel >= FeatureLevel.silence }
        var knowsMachines: Bool { featureLevel >= FeatureLevel.machines }
        var knowsDigests: Bool { featureLevel >= FeatureLevel.deadlines }
        var knowsMigrations: Bool { featureLevel >= FeatureLevel.migrations }
        /// Users' commands that its program can apply; nil: it has not said so on this connection. Looked up only.
        var machines: Set<MachineCommandNumber>?
        /// Its replicas of this loop's groups that say nothing, as it said last; ascending by group. And the sum over them.
        var silent: [SilentReplica] = []
        var silence: UInt64 = 0
        fileprivate var writer = PeerBatchWriter()
        fileprivate var bulkWriter = PeerBatchWriter()
        /// It is in `told`.
        fileprivate var isTold = false
        /// Loop 0: of the last heartbeat, and of the last one that was answered, or that no answer counts for any more.
        var heartbeatSequence: UInt64
        var answeredSequence: UInt64
        /// Loop 0: heartbeats without an answer, the newest last. At most `heartbeatsAskedMax`: an answer to one before
        /// still says that the other side agrees, and makes no lease.
        var heartbeatsAsked: [HeartbeatAsked] = []
        /// What this host promised there, and was promised there.
        var promise = HostPromise()
        var lease = HostLease()
        /// The tick in which this host last agreed with our heartbeat: it follows us where we lead.
        var lastAgreedTick: UInt64?
        /// The tick in which we last agreed with this host's heartbeat: it leads where we follow.
        var lastFollowedTick: UInt64?
        /// Of what this loop leads with a member there, and of what it follows there.
        var leading = LivenessSum()
        var following = LivenessSum()
        /// Loop 0: the same of the other loops, as far as they have answered.
        var leadingElsewhere = LivenessSum()
        var followingElsewhere = LivenessSum()
        /// Loop 0: the sum over the other loops' parts of the other host's silent replicas, as far as they have answered.
        var silenceElsewhere: UInt64 = 0
        /// Loop 0: silent replicas of the other loops, as far as they have answered.
        var silentElsewhere: [SilentReplica] = []
        /// Loop 0: the heartbeat that is being compared with what all loops follow there, and the newest one since.
        var followingPoll: LoopPoll?
        /// A heartbeat came, or the answer to one, whatever it said.
        var lastHeardTick: UInt64?
        /// Loop 0: the last heartbeat that was compared agreed.
        var wasFollowed = false
        var comparedHeartbeat: HostHeartbeat?
        var nextHeartbeat: HostHeartbeat?
        /// Loop 0: it is in `comparing`.
        var isComparing = false
        /// Our groups' explicit heartbeats towards it are wanted, from this one on. No position in `replicas`: they come
        /// and go meanwhile.
        var wakeFrom: GroupID?
        /// What we lead with a member there, and what we follow there, is ticked: the host has not agreed lately.
        var isLeadingSuspected = true
        var isFollowingSuspected = true

        /// - Parameter sequence: where the numbers of heartbeats begin.
        init(host: HostID, sequence: UInt64) {
            self.host = host
            heartbeatSequence = sequence
            answeredSequence = sequence
        }
    }

    /// Messages that wait until a journal ticket is durable.
    struct Held {
        var ticket: UInt64
        var replica: Replica
        /// Consensus' number for what it persisted with this ticket; 0 if only messages wait.
        var sequence: UInt64
        var messages: [RaftMessage]
        var bytes: Int
    }

    public let host: HostID
    /// Its bounds on the whole host are this loop's share of them.
    public let settings: HostSettings
    public let loop: LoopPlace
    public internal(set) var map: ClusterMap? {
        didSet {
            haveSlotsMoved = map.map { $0.ring.epoch > SlotTable.firstEpoch } ?? false
        }
    }
    /// What each call asks of the map, so that none copies it: slots have moved in this cluster.
    private(set) var haveSlotsMoved = false
    /// Name of the journal, for manifests.
    let journal: UInt64
    var random: SeededRandom

    /// Sorted by group.
    var replicas: [Replica] = []
    /// By group number, for the hot path; group numbers come from a counter and are dense.
    private var replicaOfGroup: [Replica?] = []
    var ready: [Replica] = []
    /// So many at its beginning got nothing in the last turn.
    var readyFirst = 0
    /// Those that the last turn stepped.
    var stepped: [Replica] = []
    var active: [Replica] = []
    /// Those that have not had their chances to lead at start, in the order in which they came.
    var newcomers: [Replica] = []
    /// Those whose place in the map is looked at each second; the others have what they want.
    var unsettled: [Replica] = []
    /// In this second.
    var handOversLeft = 0
    /// Leaders that something happened to since floors were last announced.
    var stirred: [Replica] = []
    /// When replicas came to have something that is in no checkpoint, oldest first. One that was checkpointed since, or
    /// is gone, stays until its turn comes.
    var unsaved: Deque<(replica: Replica, tick: UInt64)> = []
    /// What all live memtables take.
    var memtableBytes = 0
    /// Replicas here that say nothing, ascending by group.
    var silent: [SilentReplica] = []
    /// Sorted by host.
    private(set) var peers: [Peer] = []
    /// Those for whom something was written since the last turn.
    private var told: [Peer] = []
    var isBirthAsked: Set<ReplicaID> = []

    var held: Deque<Held> = []
    var nextTicket: UInt64 = 1
    var doneTicket: UInt64 = 0
    /// The tick in which the journal last completed something, or was asked for something while it had nothing to do.
    var journalTick: UInt64 = 0
    /// It has completed nothing for too long.
    package internal(set) var isJournalHung = false
    /// Groups that were handed over, and those that were given up, because of that.
    package internal(set) var hangHandOvers: UInt64 = 0
    package internal(set) var hangStepDowns: UInt64 = 0
    /// The last commit of the journal that is known to be durable.
    var journalSequence: UInt64
    /// Bytes of entries that were handed to the journal and are not durable yet.
    var undurableBytes = 0
    var records: [JournalRecord] = []
    var effects = HostEffects()
    var raftEffects = RaftEffects()

    public internal(set) var now: Instant
    var tickCount: UInt64 = 0
    /// The host's own elapsed time, at most 100 ms per tick: what log times go by.
    var elapsedMilliseconds: UInt64 = 0
    var elapsedCountedTo: Instant
    /// Loop 0: the question what all loops lead, and the number of questions so far.
    var leadingPoll: LoopPoll?
    var polls: UInt64 = 0
    /// The question what is led that this loop answered last.
    var leadingRound: UInt64 = 0
    /// Loop 0: hosts with a heartbeat to compare.
    var comparing: [Peer] = []
    /// Another at each start, so that no answer to a heartbeat of an earlier process counts for one of this.
    private let heartbeatSequenceStart: UInt64
    var checkpointsUnderWay = 0
    var mergesUnderWay = 0
    /// Replicas that wait for a place, the longest first.
    var checkpointWaiters: Deque<Replica> = []
    var mergeWaiters: Deque<Replica> = []
    /// Replicas of groups that have sessions.
    var withSessions: [Replica] = []
    /// Leaders whose groups may have deadlines.
    var withDeadlines: [Replica] = []
    /// What this loop's leaders do for migrations.
    var drives: [MigrationDrive] = []
    /// Something happened that may make it a migration's next step's turn.
    var areMigrationsDue = false
    /// What groups of this loop said to each other, to be heard in the next turn.
    var migrationWords: [MigrationWord] = []
    /// Loop 0: what was said last of each migration, and when.
    var migrationReports: [MigrationID: (change: MapChange, tick: UInt64)] = [:]
    /// That may be read for targets now.
    var migrationBytesLeft = 0
    /// Commands that are delayed, in the order in which they came; and their bytes.
    var slowed: [SlowedWrite] = []
    var slowedBytes = 0
    /// Those at which watches wait.
    var watched: [Replica] = []
    /// Of all replicas' histories of changes, about.
    var historyBytes = 0
    /// Watches that wait, at all of them.
    var watchesOpen = 0
    /// The last answer to a watch, for others that ask for the same.
    var watchAnswer: (request: WatchRequest, through: Revision, changes: Int, body: Bytes)?
    /// Replicas whose apply waits for a read that failed, until the next tick.
    var fetchesToRetry: [Replica] = []
    /// Replicas with a `mergeTick`, and those with a `checkpointTick`.
    var jobsPutOff = 0
    /// Replicas with a `digests.doubt`; others leave the list later.
    var doubted: [Replica] = []
    /// Replicas with a `damage`, when they were last counted.
    var damagesMet = 0
    /// Some replica needs less of the journal than it did.
    var isTrimDue = false
    /// What loop 0 asked and is answered at the end of the turn.
    var loopQuestions: [LoopMessage.Kind] = []
    /// Bytes that the journal holds, as the shell last measured it.
    public var journalBytes = 0
    /// So much above its bound that nothing of other hosts is taken.
    var isJournalOverfull = false
    /// Of answers to reads in this turn.
    var repliedBytes = 0
    /// Space for this host's files.
    var space = SpaceLevel.ample
    /// Pages asked for and not answered.
    var pagesOpen = 0
    /// The same of queries of users' machines.
    var queriesOpen = 0
    /// As the meta group's leader, where the cluster keeps the balance by itself.
    var balance: BalanceWatch?
    /// As the meta group's leader: when a group's report was proposed.
    var reportTicks: [GroupID: UInt64] = [:]
    /// Replicas that give or get snapshots, or need to.
    var snapshotting: [Replica] = []
    var suppliesOpen = 0
    /// The same for clients, those that wait for the disk among them.
    var clientSuppliesOpen = 0
    /// Supplies that there ever were: gives each its own number.
    var suppliesMade: UInt64 = 0
    /// A read that counts records for a client is under way.
    var isCountingForClient = false
    var intakesOpen = 0
    /// What may be read for other hosts now.
    var snapshotBytesLeft = 0
    /// For operators.
    var counts = HostCounts()
    var slotWork = SlotWork()
    /// Reads that were served by lease.
    public internal(set) var leaseReads: UInt64 = 0
    /// Reads with a bound on their age that were answered without asking anybody.
    public internal(set) var staleReads: UInt64 = 0
    /// Reads of clients that have seen no more than is here, answered without asking anybody.
    package internal(set) var sessionReads: UInt64 = 0
    /// Calls answered `overloaded`.
    public internal(set) var overloads: UInt64 = 0
    /// Messages that named a group or replica which is not here.
    public internal(set) var strayMessages: UInt64 = 0

    /// - Parameters:
    ///   - settings: the host's; each loop takes its share of the bounds that are the whole host's.
    ///   - seed: of all randomness here. The host's: loops make theirs from it.
    ///   - loop: the groups that it owns. All loops of a host have the same count.
    public init(
        host: HostID, journal: UInt64, settings: HostSettings, seed: UInt64, now: Instant, journalSequence: UInt64,
        loop: LoopPlace = .only
    ) {
        precondition(settings.digestInterval.nonzeroBitCount == 1, "the interval of digests is a power of two")
        self.host = host
        self.journal = journal
        self.settings = settings.share(of: loop)
        self.loop = loop
        heartbeatSequenceStart = mix(seed &+ 0x6c65_6173_6573) >> 2
        self.random = SeededRandom(seed: loop.isFirst ? seed : mix(seed ^ mix(UInt64(loop.number))))
        self.now = now
        self.journalSequence = journalSequence
        elapsedCountedTo = now
    }

    // MARK: Finding things

    func replica(of group: GroupID) -> Replica? {
        let place = Int(group.rawValue)
        return place < replicaOfGroup.count ? replicaOfGroup[place] : nil
    }

    /// In `replicas`, of the first whose group is not below. O(log n).
    func position(of group: GroupID) -> Int {
        var low = 0
        var high = replicas.count
        while low < high {
            let middle = (low + high) / 2
            if replicas[middle].group < group { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func peer(_ host: HostID) -> Peer? {
        for peer in peers where peer.host == host { return peer }
        return nil
    }

    /// Adds a replica that is ready to take part. Groups above this number are refused by the cluster map's decoder.
    func add(_ replica: Replica) {
        let place = Int(replica.group.rawValue)
        precondition(place < Self.groupNumberMax, "a group's number is out of bounds")
        precondition(loop.owns(replica.group), "a replica belongs to one loop")
        while replicaOfGroup.count <= place { replicaOfGroup.append(nil) }
        precondition(replicaOfGroup[place] == nil, "a group has one replica on a host")
        replicaOfGroup[place] = replica
        replicas.insert(replica, at: position(of: replica.group))
        newcomers.append(replica)
        noteSessions(of: replica)
        updateLiveness(replica)
        markReady(replica)
    }

    /// Forgets a replica of which nothing is on disk any more.
    func remove(_ replica: Replica) {
        replica.stopped = replica.stopped ?? "removed"
        closeSupplies(of: replica)
        updateLiveness(replica)
        let place = position(of: replica.group)
        if place < replicas.count, replicas[place] === replica { replicas.remove(at: place) }
        ready.removeAll { $0 === replica }
        active.removeAll { $0 === replica }
        newcomers.removeAll { $0 === replica }
        unsettled.removeAll { $0 === replica }
        unsaved.removeAll { $0.replica === replica }
        memtableBytes -= replica.memtableBytes
        forgetSilence(of: replica)
        snapshotting.removeAll { $0 === replica }
        stepped.removeAll { $0 === replica }
        fetchesToRetry.removeAll { $0 === replica }
        withSessions.removeAll { $0 === replica }
        withDeadlines.removeAll { $0 === replica }
        drives.removeAll { $0.replica === replica }
        endWatches(of: replica, .unknownGroup)
        watched.removeAll { $0 === replica }
        historyBytes -= replica.history.bytes
        doubted.removeAll { $0 === replica }
        replicaOfGroup[Int(replica.group.rawValue)] = nil
        isTrimDue = true
    }

    func addPeer(_ host: HostID) {
        guard host != self.host, peer(host) == nil else { return }
        let position = peers.firstIndex { $0.host > host } ?? peers.count
        let peer = Peer(host: host, sequence: heartbeatSequenceStart)
        peer.awaySinceTick = tickCount
        peers.insert(peer, at: position)
    }

    // MARK: Telling peers

    /// Adds to what the peer is told over this channel at the end of the turn. A payload that `bytes` more would make
    /// larger than its bound is closed, and another begun.
    func write(
        to peer: Peer, over channel: PeerChannel, bytes: Int = 0, _ body: (inout PeerBatchWriter) -> Void
    ) {
        if !peer.isTold {
            peer.isTold = true
            told.append(peer)
        }
        func write(into writer: inout PeerBatchWriter) {
            if bytes > 0, writer.messageBytes + bytes > Self.peerPayloadBytes, let payload = writer.takeIfAny() {
                effects.peerPayloads.append((peer.host, channel, payload))
            }
            body(&writer)
        }
        switch channel {
        case .consensus: write(into: &peer.writer)
        case .bulk: write(into: &peer.bulkWriter)
        }
    }

    private static var peerPayloadBytes: Int { 2 << 20 }

    /// Hands over what was written for all peers, in the order of hosts.
    func takePayloads() {
        guard !told.isEmpty else { return }
        var peers: [Peer] = []
        swap(&peers, &told)
        if peers.count > 1 { peers.sort { $0.host < $1.host } }
        for peer in peers {
            peer.isTold = false
            // What is dropped here for want of a connection consensus sends again.
            if let payload = peer.writer.takeIfAny(), peer.isConnected {
                effects.peerPayloads.append((peer.host, .consensus, payload))
            }
            if let payload = peer.bulkWriter.takeIfAny(), peer.isBulkConnected {
                effects.peerPayloads.append((peer.host, .bulk, payload))
            }
        }
        peers.clear()
        swap(&peers, &told)
    }

    /// What was written for a connection that is lost.
    func drop(_ channel: PeerChannel, of peer: Peer) {
        switch channel {
        case .consensus: _ = peer.writer.takeIfAny()
        case .bulk: _ = peer.bulkWriter.takeIfAny()
        }
    }

    /// Bound on the numbers of groups, so that a map from outside cannot make the host take memory without end.
    static let groupNumberMax = Int(ClusterMap.groupNumberMax)
}
