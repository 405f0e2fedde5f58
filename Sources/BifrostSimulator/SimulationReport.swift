// What a run leaves: how much happened in it, or the rule that was broken.

/// How much happened in a run, or in many.
public struct SimulationReport: Hashable, Codable, Sendable {
    /// 0 for the sum of many.
    public var seed: UInt64 = 0
    /// Over all events; equal for equal seeds. 0 for the sum of many.
    public var traceHash: UInt64 = 0
    public var seeds = 0
    public var events: UInt64 = 0
    /// Virtual time from the first start to the last answer.
    public var simulatedNanoseconds: UInt64 = 0
    /// Virtual seconds in each of which at least `SimulationReport.operationsPerSecondMin` operations were
    /// acknowledged. What a run with less has shown is little, and no figure of speed counts it.
    public var busySeconds = 0
    public var operations = 0
    public var acknowledged = 0
    public var unknownOutcomes = 0
    public var faults = 0
    public var crashes = 0
    public var diskFailures = 0
    public var elections = 0
    public var commits = 0
    public var checkpoints = 0
    public var merges = 0
    public var trimmedValues = 0
    public var coldReads = 0
    /// Reads from disk that commands waited for.
    public var stateReads = 0
    /// Clients' changes that watches were told, as they had to be.
    public var watchedChanges = 0
    /// Events of data types that watches were told, each as its model tells it.
    public var watchedEvents = 0
    public var logReads = 0
    public var bulkPayloads = 0
    /// How often each rare path was taken, by `SimulationMark.rawValue`.
    public var marks = [Int](repeating: 0, count: SimulationMark.allCases.count)
    /// The largest journal of a host when all groups are idle.
    public var journalBytesAtRest = 0
    /// The longest time from healing until every group had a leader.
    public var leadersNanoseconds: UInt64 = 0

    public static let operationsPerSecondMin = 100

    public init() {}

    /// The sum of both; of what is a largest, the larger.
    public mutating func add(_ other: SimulationReport) {
        seed = 0
        traceHash = 0
        seeds += other.seeds
        events += other.events
        simulatedNanoseconds += other.simulatedNanoseconds
        busySeconds += other.busySeconds
        operations += other.operations
        acknowledged += other.acknowledged
        unknownOutcomes += other.unknownOutcomes
        faults += other.faults
        crashes += other.crashes
        diskFailures += other.diskFailures
        elections += other.elections
        commits += other.commits
        checkpoints += other.checkpoints
        merges += other.merges
        trimmedValues += other.trimmedValues
        coldReads += other.coldReads
        stateReads += other.stateReads
        watchedChanges += other.watchedChanges
        watchedEvents += other.watchedEvents
        logReads += other.logReads
        bulkPayloads += other.bulkPayloads
        for place in marks.indices { marks[place] += other.marks[place] }
        journalBytesAtRest = max(journalBytesAtRest, other.journalBytesAtRest)
        leadersNanoseconds = max(leadersNanoseconds, other.leadersNanoseconds)
    }
}

/// A path that a run takes rarely; those of damage in the profile `rot` only. Over many seeds each must have been
/// taken, or what lies behind it was not tested.
public enum SimulationMark: Int, CaseIterable, Sendable {
    /// A commit under way when the process ended was on the disk afterwards.
    case commitSurvivedItsProcess
    /// A checkpoint under way when its process was killed was in the page cache afterwards, and on no disk.
    case pageCacheOutlivedItsProcess
    /// A commit that was reported as failed was on the disk afterwards.
    case failedCommitWasThere
    /// A checkpoint that was reported as failed was on the disk afterwards.
    case failedCheckpointWasThere
    /// A replica took entries back that another leader had overwritten.
    case logTruncated
    /// Two replicas believed to lead a group at the same time, in different terms.
    case twoLeaders
    /// A follower's entries came back from its leader's journal.
    case entriesReadBack
    /// A read was answered by a replica that did not lead.
    case followerRead
    /// A get needed the disk.
    case coldRead
    /// A command needed the disk.
    case stateRead
    /// A transaction's condition did not hold.
    case conditionFailed
    /// A user's state machine was told or asked something, and it ended.
    case machineUsed
    /// It said that it can't be done.
    case machineFailure
    /// A command that it had scheduled came.
    case scheduledCommand
    /// An entry of a map, or a value, whose time was over; a collection that was emptied; an
    /// array that was trimmed.
    case dataTypeExpired, dataTypeCleared, dataTypeTrimmed
    /// A command was held back, as its fencing token is over; a session ended that held something.
    case guardHeld, heldToTheEnd
    /// An item of a queue that was not acknowledged in time.
    case queueItemCameBack
    /// A member went offline with its session; one left when its time offline was over; a barrier's round was over.
    case memberPutOffline, memberLeftInTime, barrierOpened
    /// A key got a time to live; one was gone when it was looked at again.
    case leaseSet, leaseEnded
    /// A watch was told of a change; one was told that what it asks for is not kept any more.
    case watchTold, watchCompacted
    /// The same of watches of data types.
    case objectWatchTold, objectWatchCompacted
    /// A query of one went on for records that it had not named.
    case machineReadOn
    /// A page of a scan was answered.
    case scan
    /// A client was told that its operation's outcome is unknown.
    case unknownOutcome
    /// A command was in a log again, and was answered by what it did when it came first.
    case commandRepeated
    /// A command was in a log behind the end of its session.
    case sessionGone
    /// A session ended as its client had been silent.
    case sessionExpired
    /// A client was told that its operation had certainly no effect.
    case certainFailure
    /// Values of the journal were deleted.
    case journalTrimmed
    /// Runs were merged.
    case merged
    /// A host was stopped for longer than an election takes, and went on.
    case pausedBeyondElection
    /// A disk failed on write.
    case diskFailed
    /// A disk failed while its host started.
    case diskFailedAtStart
    /// A disk had no room for what was to be written.
    case diskFull
    /// A connection was reset, and a part of what was under way arrived.
    case partArrived
    /// All hosts were down at the same time.
    case allDown
    /// A process ended between two transactions of a commit, a checkpoint or a merge.
    case endedWithinJob
    /// A process ended, for a reason of its own, while it took its time with a merge.
    case endedWithinMerge
    /// A damaged disk was noticed by a read, which was refused.
    case damageNoticedByRead
    /// A damaged journal made a replica mute.
    case damageMadeMute
    /// A start found that a replica's state in the store was damaged.
    case damageFoundAtStart
    /// A damaged disk ended its host.
    case damageEndedHost
    /// A replica went on from another's state.
    case snapshotInstalled
    /// A snapshot under way was given up.
    case snapshotFailed
    /// A leader answered reads by lease.
    case leaseRead
    /// A replica appended a joint configuration.
    case membersChange
    /// A replica that was out was deleted from its host.
    case replicaRemoved
    /// A group has let go of slots, and another one serves them.
    case slotsReleased
    case slotsActivated
    /// Sessions held something in slots that moved; one was taken over by its client's own in the new group.
    case heldOnTheMove, sessionTakenOver
    /// Commands were delayed, as a migration of their slots did not converge.
    case writersSlowed
    /// A group that was deleted was there before.
    case groupDeleted
    /// A host joined the cluster while it served.
    case hostJoined
    /// A host that was empty was removed from the cluster.
    case hostRemoved
    /// A replica answered a read with a bound on its age without asking anybody.
    case staleRead
    /// A replica answered a read in a client's session without asking anybody.
    case sessionRead
    /// Members did not settle while there was load.
    case membersSettledWithoutLoad
    /// All that a host had on its disks was verified.
    case scrubbedRound
    /// The scrubber found a replica's state damaged before anything else did.
    case scrubberFoundState
    /// It found a replica's log damaged.
    case scrubberFoundJournal
    /// It found damage in what nobody needed any more.
    case scrubberFoundSuperfluous
    /// A host whose disk hung handed a group over.
    case handedOverForHang
    /// It gave up a group that it could not hand over.
    case steppedDownForHang
    /// The cluster's feature level was raised under faults.
    case levelRaised
    /// The meta group began a rebalancing by itself.
    case balancedByItself
}

/// A rule that was broken.
public struct SimulationFailure: Error, Codable, Sendable, CustomStringConvertible {
    public var seed: UInt64
    /// The rule's name.
    public var invariant: String
    public var detail: String
    /// The newest last, as lines.
    public var lastEvents: [String]

    public init(seed: UInt64, invariant: String, detail: String, lastEvents: [String]) {
        self.seed = seed
        self.invariant = invariant
        self.detail = detail
        self.lastEvents = lastEvents
    }

    public var description: String {
        "seed \(seed): \(invariant): \(detail)\nlast events:\n  " + lastEvents.joined(separator: "\n  ")
    }
}
