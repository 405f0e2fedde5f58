// One group's member on this host: consensus, state machine, memtable and the calls that wait for them.

import DequeModule
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

/// A call of a client as the shell knows it; opaque here.
public struct CallToken: Hashable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Owned by its host's core and touched by nothing else.
final class Replica {
    struct Proposal {
        var index: LogIndex
        var term: Term
        var call: CallToken
        /// The clock of the turn that it came with; 0 until then.
        var begun: UInt64 = 0
        var slot = Slot.group
    }

    /// Reads that share one round of confirmation.
    struct ReadBatch {
        var context: UInt64
        /// Where the reads may be served from; nil until consensus has confirmed.
        var index: LogIndex?
        /// The tick in which they were gathered.
        var tick: UInt64
        /// The clock then, if the index is at or above all that had been acknowledged by that time.
        var begun: UInt64?
        var reads: [WaitingRead]
        /// Of `reads`, those that were served in earlier turns.
        var served = 0
    }

    /// A memtable on its way to the disk.
    struct Checkpoint {
        var frozen: FrozenMemtable
        var header: ManifestHeader
        /// The store thread has it.
        var isUnderWay = false
    }

    let group: GroupID
    let id: ReplicaID
    var core: RaftCore
    var machine: MasterStateMachine
    var memtable: Memtable
    var view: StoreView
    var checkpoint: Checkpoint?
    /// It is in the host's list of replicas with sessions.
    var isWatchedForSessions = false
    /// The leader ends sessions whose time is over, not before this tick.
    var expiryTick: UInt64 = 0
    /// Or when this entry is applied: what was proposed last.
    var expiryIndex = LogIndex.zero
    var deadlines = DeadlineWatch()
    /// What changed last.
    let history: ChangeHistory
    var watches = WaitingWatches()
    /// Parts in migrations that this host takes care of, as its leader.
    var drives = 0
    /// What commands read that is not in memory.
    var fetch = StateFetch()
    var isMerging = false
    /// There was too little space for a merge: not before this tick, and how long it was put off.
    var mergeTick: UInt64?
    var mergePauseTicks: UInt64 = 0
    /// The same of a checkpoint that met damage; what was frozen waits.
    var checkpointTick: UInt64?
    var checkpointPauseTicks: UInt64 = 0
    /// It is among those that wait for a place for a store job.
    var waitsForStore = false
    /// Why it stands still, for status and errors; nil while it is sound.
    var stopped: String?
    var impairment: String?
    /// It takes no part at all: its log may lack what it promised.
    var isMute = false
    /// The same was found out while it ran.
    var isLogDamaged = false
    /// It stands still or is mute, and is named so to other hosts.
    var isSilent = false

    /// Proposals of this replica's time as leader, by ascending term, and index within a term.
    var proposals: Deque<Proposal> = []
    var gathered: [WaitingRead] = []
    /// Reads that need not ask the others while there is a lease.
    var gatheredByLease: [WaitingRead] = []
    /// Those that may miss what is newer than so many nanoseconds.
    var gatheredBounded: [(read: WaitingRead, bound: ReadBound)] = []
    /// What has been applied misses nothing that was acknowledged before this reading of the clock; nil: unknown.
    var freshAt: UInt64?
    var readBatches: Deque<ReadBatch> = []
    var nextContext: UInt64 = 1

    /// It is in the host's list of replicas with something to do this turn.
    var isReady = false
    /// It is ticked; quiet replicas are not.
    var isActive = false
    /// Tick until which it stays active whatever its state: explicit heartbeats after a disagreement.
    var activeUntilTick: UInt64 = 0

    /// What it adds to the digests of the hosts that it leads on, or to that of the host that leads it.
    var leadingOn: [HostID] = []
    var followingHost: HostID?
    var contributedDigest: UInt64 = 0

    /// What it leads is in the sums of this question of loop 0 and of all later ones, as it leads now.
    var leadsSinceRound: UInt64 = 0

    /// The journal ticket of the last thing it persisted.
    var lastTicket: UInt64 = 0
    /// Messages that wait for that ticket, but for those that go with what was written.
    var heldMessages = 0
    /// Encoded bytes of the entries that were applied since the checkpoint that was frozen last: what a new one would let
    /// the journal forget.
    var appliedBytesSinceCheckpoint = 0
    /// The tick in which the first entry since that checkpoint was applied.
    var unsavedSinceTick: UInt64?
    /// Every member has everything up to here on disk.
    var floor: LogIndex = .zero
    var announcedFloor: LogIndex = .zero
    var checkpoints: UInt64 = 0
    var merges: UInt64 = 0
    var appliedCommands: UInt64 = 0
    /// What of its consensus was counted: see `HostCounts`.
    var counted: ElectionsCounted
    /// For want of space another replica is asked to lead, not before this tick.
    var handOverTick: UInt64 = 0
    /// Since the journal's disk began to hang, another one was asked to lead.
    var isHandedOverForHang = false
    var snapshots = SnapshotState()
    /// It is in the host's list of those with something to do about snapshots.
    var isSnapshotting = false
    /// What it has on disk can't be read: it needs a whole state of another.
    var isStateDamaged = false
    /// What it met of that, in words. A leader's state is fetched when another leads.
    var damage: String?
    /// For so many seconds it has followed somebody since.
    var followingSeconds = 0
    /// As a leader it asks another one to lead in so many seconds, and so many after that again.
    var handOverSeconds = 0
    var handOverPauseSeconds = 0
    var snapshotsInstalled: UInt64 = 0
    /// Of its state, and of other members', where they are compared.
    var digests = ReplicaDigests()
    /// It is being deleted from here.
    var removal: ReplicaRemoval?
    /// It is in the host's list of those whose place in the map is looked at.
    var isUnsettled = false
    /// It is in the host's list of leaders whose floors may have risen.
    var isStirred = false
    /// What its live memtable takes, as it counts in the host's sum.
    var memtableBytes = 0
    /// The tick in which it began to lead; nil while it does not.
    var leadsSinceTick: UInt64?
    /// The ticks at which other members last began to lead, as far as it was seen here, or were asked to.
    var lastTurns: [ReplicaID: UInt64] = [:]
    /// Another replica is preferred as leader: until this tick after the start its host gets the time to come.
    var patientUntilTick: UInt64 = 0
    /// How many chances it took to lead at start without waiting for a time-out, and the tick before which it does not
    /// try again.
    var campaignsAtStart = 0
    var campaignTick: UInt64 = 0
    /// As the meta group's leader: the first map is proposed.
    var hasProposedMap = false
    /// Users' machines that this host does not have, and that snapshots had records of: it was said already.
    var machinesMissed: Set<SubMachineNumber> = []
    /// Told to the journal as superfluous already.
    var discarded: LogIndex = .zero
    var logTime = LogTimeClock()
    /// The host's elapsed milliseconds that `logTime` has seen.
    var elapsedSeen: UInt64 = 0

    init(group: GroupID, core: RaftCore, machine: MasterStateMachine, memtable: Memtable, view: StoreView) {
        self.group = group
        self.id = core.replica
        self.core = core
        counted = ElectionsCounted(core)
        self.machine = machine
        self.memtable = memtable
        self.view = view
        history = ChangeHistory(floor: machine.revision)
    }

    /// Where the members of the group are, as maps have said: few, and looked through for each message.
    private var places: [ReplicaRecord] = []

    func host(of member: ReplicaID) -> HostID? {
        for place in places where place.id == member { return place.host }
        return nil
    }

    /// Neither the newest map nor the configuration in effect has it as a member.
    func isStranger(_ member: ReplicaID) -> Bool {
        !places.dropLast(strangers).contains { $0.id == member }
            && !withCore { $0.configuration.members.contains(member) }
    }

    /// A newer map's word. Who is not a member any more is remembered: it may have to be told.
    func learn(_ record: GroupRecord) {
        let members = record.replicas
        let others = places.filter { place in !members.contains { $0.id == place.id } }
        places = others.isEmpty ? members : members + others.suffix(Self.strangersMax)
        strangers = min(others.count, Self.strangersMax)
        preferredLeader = record.preferredLeader
        isHalted = record.state == .stopped
    }

    /// People stopped the group: it takes no commands and answers no reads.
    private(set) var isHalted = false

    /// As the newest map that has the group says.
    private(set) var preferredLeader = ReplicaID.none

    /// Whether what is said in a replica's name may come from that host. An id stays on one host for life. Who is in no
    /// map that this host remembers is believed, and remembered so that it can be answered: a member that was removed
    /// before this process began and was never told, or one that comes with the next map.
    func believes(_ member: ReplicaID, isOn host: HostID) -> Bool {
        if let known = self.host(of: member) { return known == host }
        guard member != .none else { return false }
        if strangers == Self.strangersMax {
            places.remove(at: places.count - strangers)
            strangers -= 1
        }
        places.append(ReplicaRecord(id: member, host: host, membership: .absent))
        strangers += 1
        hasMetStranger = true
        return true
    }

    /// Since its part in the sums of liveness was last looked at for that.
    var hasMetStranger = false

    /// The last of `places` that no map has.
    private var strangers = 0
    /// As many as a group remembers that it removed.
    private static let strangersMax = 64

    /// Looks at consensus where it is. What a call into its module is asked of is copied first otherwise, with a count
    /// of references to each of its buffers, because it is a property of an object. `body` changes nothing.
    func withCore<Result>(_ body: (inout RaftCore) -> Result) -> Result { body(&core) }

    /// What it is to others: one that stands still leads nobody.
    var role: RaftRole { stopped == nil ? core.role : .follower }

    /// Reads in `gathered`, `gatheredByLease`, `gatheredBounded` and `readBatches`.
    var waitingReads = 0
    var waitingCalls: Int { proposals.count + waitingReads }

    /// All layers below the live memtable.
    var coldView: StoreView {
        var view = view
        if !isPlanted("frozen-memtable-unread") { view.frozen = checkpoint?.frozen }
        return view
    }

    /// The store's truth lags the state by this much journal.
    var manifestIndex: LogIndex { view.manifest.header.index }
}

/// How much a read may miss.
enum ReadBound {
    case age(nanoseconds: UInt64)
    /// Applied here.
    case index(LogIndex)
}

/// A read that waits for consensus to confirm it.
struct WaitingRead {
    enum Kind {
        case key(RecordKey)
        case page(PageRange)
        case machine(MachineReading)
        case sessions(SessionQuery)
        case load
        /// A client's copy of the state begins: the number that it chose.
        case snapshot(UInt64)

        /// It counts among the pages that are asked for.
        var isPage: Bool {
            switch self {
            case .page, .load: true
            case .key, .machine, .sessions, .snapshot: false
            }
        }

        /// Whose work it is; nil: no slot's.
        var slot: Slot? {
            switch self {
            case .key(let key): key.slot
            case .page(let range): range.isScan ? range.from?.slot : nil
            case .machine(let reading): reading.slot
            case .sessions, .load, .snapshot: nil
            }
        }
    }
    struct PageRange {
        var from: RecordKey?
        var end: RecordKey?
        var recordsMax: Int
        var bytesMax: Int
        var isScan: Bool
    }
    var call: CallToken
    var kind: Kind
}

/// Log time: elapsed time, from the last entry on, by the monotonic clock's progress, at most
/// 100 ms per tick, and only while a quorum answers.
struct LogTimeClock {
    static let millisecondsPerTickMax: UInt64 = 100

    private(set) var current = LogTime.zero

    /// What was stamped with a time has seen all of the time until this one: clocks are read once per tick, so that an
    /// entry's time may be as far behind as a tick adds.
    var certain: LogTime {
        LogTime(current.rawValue - min(current.rawValue, Self.millisecondsPerTickMax + 1))
    }

    /// The replica begins to lead; the last entry in the log has this time.
    mutating func begin(at lastLogTime: LogTime) { current = lastLogTime }

    /// The last entry in the log, committed or not, has this time.
    mutating func follow(_ lastLogTime: LogTime) { if lastLogTime > current { current = lastLogTime } }

    /// Milliseconds that the host's own bounded clock went on since the last call, if a quorum answers.
    mutating func advance(by milliseconds: UInt64, quorumAnswers: Bool) {
        if quorumAnswers { current = LogTime(current.rawValue + milliseconds) }
    }
}
