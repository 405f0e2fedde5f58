// What a host counts for operators, and how it stands: plain integers that the shell makes metrics of. Decides nothing,
// and nothing stands on it.

import DequeModule
package import Primitives
import RaftCore
import StateMachines

/// What was counted since the process started. Counts never fall, whatever becomes of the replicas that they came from.
package struct HostCounts: Sendable {
    /// Terms that replicas here moved on by, and elections that they stood for and won.
    package var termChanges: UInt64 = 0
    package var campaigns: UInt64 = 0
    package var electionsWon: UInt64 = 0
    /// Commands that took effect, once for each replica here.
    package var commands: UInt64 = 0
    /// From the turn that a client's command came with until the beginning of the one in which its leader applied it.
    package var commitTimes = DurationHistogram()
    package var checkpoints: UInt64 = 0
    package var merges: UInt64 = 0
    /// Of records, to members and clients, and from members.
    package var snapshotBytesGiven: UInt64 = 0
    package var snapshotBytesTaken: UInt64 = 0
    package var snapshotsInstalled: UInt64 = 0
    /// Of records of slots that move, to other groups and from them.
    package var migrationBytesGiven: UInt64 = 0
    package var migrationBytesTaken: UInt64 = 0
    /// Commands that were delayed, as the migration of their slots did not converge.
    package var writesSlowed: UInt64 = 0
    /// Points at which a majority of the voters had the state of a replica here, as it learned.
    package var digestsAgreed: UInt64 = 0
    /// Changes in answers to watches, each as often as it was told.
    package var changesTold: UInt64 = 0
    /// Watches whose changes were not kept any more, and those that were too many.
    package var watchesCompacted: UInt64 = 0
    package var watchesTurnedDown: UInt64 = 0
    /// As `HostCore` has them.
    package var overloads: UInt64 = 0
    package var leaseReads: UInt64 = 0
    package var staleReads: UInt64 = 0
    package var strayMessages: UInt64 = 0

    package init() {}

    package mutating func add(_ other: HostCounts) {
        termChanges += other.termChanges
        campaigns += other.campaigns
        electionsWon += other.electionsWon
        commands += other.commands
        commitTimes.add(other.commitTimes)
        checkpoints += other.checkpoints
        merges += other.merges
        snapshotBytesGiven += other.snapshotBytesGiven
        snapshotBytesTaken += other.snapshotBytesTaken
        snapshotsInstalled += other.snapshotsInstalled
        migrationBytesGiven += other.migrationBytesGiven
        migrationBytesTaken += other.migrationBytesTaken
        writesSlowed += other.writesSlowed
        digestsAgreed += other.digestsAgreed
        changesTold += other.changesTold
        watchesCompacted += other.watchesCompacted
        watchesTurnedDown += other.watchesTurnedDown
        overloads += other.overloads
        leaseReads += other.leaseReads
        staleReads += other.staleReads
        strayMessages += other.strayMessages
    }
}

/// A sum over replicas, and the largest of them.
package struct SumAndLargest: Sendable {
    package private(set) var sum: UInt64 = 0
    package private(set) var largest: UInt64 = 0
    mutating func add(_ value: UInt64) {
        sum += value
        largest = max(largest, value)
    }
    mutating func add(_ other: SumAndLargest) {
        sum += other.sum
        largest = max(largest, other.largest)
    }
}

/// One replica, for the series of its group.
package struct GroupFigures: Sendable {
    package var group: GroupID
    package var isLeader: Bool
    package var term: UInt64
    package var commit: UInt64
    package var applyLag: UInt64
    package var checkpointLag: UInt64
}

/// A host, or one loop of it, as it stands.
package struct HostFigures: Sendable {
    package var counts = HostCounts()
    package var replicas = 0
    package var leaders = 0
    package var leaderless = 0
    /// That are ticked.
    package var active = 0
    package var stopped = 0
    package var impaired = 0
    /// Whose state is not another's, where no majority says which is right.
    package var doubted = 0
    /// Entries that are committed and not applied; entries, and their bytes, that were applied behind the last checkpoint.
    package var applyLag = SumAndLargest()
    package var checkpointLag = SumAndLargest()
    package var checkpointLagBytes = SumAndLargest()
    package var memtableBytes = 0
    package var sessions = 0
    package var sessionCalls = 0
    package var proposalsWaiting = 0
    package var readsWaiting = 0
    package var pagesOpen = 0
    package var machineQueriesOpen = 0
    package var watchesWaiting = 0
    package var undurableBytes = 0
    package var checkpointsUnderWay = 0
    package var checkpointsWaiting = 0
    package var mergesUnderWay = 0
    package var mergesWaiting = 0
    package var snapshotsGiving = 0
    package var snapshotsTaking = 0
    package var isJournalHung = false
    /// Those with the lowest numbers, ascending; at most as many as were asked for.
    package var groups: [GroupFigures] = []

    package init() {}

    /// Another loop's, which has other groups.
    package mutating func add(_ other: HostFigures, groupsMax: Int) {
        counts.add(other.counts)
        replicas += other.replicas
        leaders += other.leaders
        leaderless += other.leaderless
        active += other.active
        stopped += other.stopped
        impaired += other.impaired
        doubted += other.doubted
        applyLag.add(other.applyLag)
        checkpointLag.add(other.checkpointLag)
        checkpointLagBytes.add(other.checkpointLagBytes)
        memtableBytes += other.memtableBytes
        sessions += other.sessions
        sessionCalls += other.sessionCalls
        proposalsWaiting += other.proposalsWaiting
        readsWaiting += other.readsWaiting
        pagesOpen += other.pagesOpen
        machineQueriesOpen += other.machineQueriesOpen
        watchesWaiting += other.watchesWaiting
        undurableBytes += other.undurableBytes
        checkpointsUnderWay += other.checkpointsUnderWay
        checkpointsWaiting += other.checkpointsWaiting
        mergesUnderWay += other.mergesUnderWay
        mergesWaiting += other.mergesWaiting
        snapshotsGiving += other.snapshotsGiving
        snapshotsTaking += other.snapshotsTaking
        isJournalHung = isJournalHung || other.isJournalHung
        groups = Array((groups + other.groups).sorted { $0.group < $1.group }.prefix(groupsMax))
    }
}

extension HostCore {
    /// Looks at every replica: some hundred nanoseconds for each, on the event loop, for who asks now and then.
    package func figures(groupsMax: Int) -> HostFigures {
        var figures = HostFigures()
        figures.counts = counts
        figures.counts.overloads = overloads
        figures.counts.leaseReads = leaseReads
        figures.counts.staleReads = staleReads
        figures.counts.strayMessages = strayMessages
        figures.replicas = replicas.count
        figures.active = active.count
        figures.groups.reserveCapacity(min(replicas.count, groupsMax))
        for replica in replicas { add(replica, to: &figures, groupsMax: groupsMax) }
        for replica in withSessions {
            figures.sessions += replica.machine.sessions.count
            figures.sessionCalls += replica.machine.sessions.callCount
        }
        figures.memtableBytes = memtableBytes
        figures.pagesOpen = pagesOpen
        figures.machineQueriesOpen = queriesOpen
        figures.watchesWaiting = watchesOpen
        figures.undurableBytes = undurableBytes
        figures.checkpointsUnderWay = checkpointsUnderWay
        figures.checkpointsWaiting = checkpointWaiters.count
        figures.mergesUnderWay = mergesUnderWay
        figures.mergesWaiting = mergeWaiters.count
        figures.snapshotsGiving = suppliesOpen + clientSuppliesOpen
        figures.snapshotsTaking = intakesOpen
        figures.isJournalHung = isJournalHung
        return figures
    }

    private func add(_ replica: Replica, to figures: inout HostFigures, groupsMax: Int) {
        let (term, leader, commit, applied) = replica.withCore { ($0.term, $0.leader, $0.commit, $0.appliedIndex) }
        let isLeader = replica.role == .leader
        if isLeader { figures.leaders += 1 }
        if leader == .none { figures.leaderless += 1 }
        if replica.stopped != nil { figures.stopped += 1 }
        if replica.impairment != nil || replica.damage != nil { figures.impaired += 1 }
        if replica.digests.doubt?.text != nil { figures.doubted += 1 }
        let applyLag = commit > applied ? commit.rawValue - applied.rawValue : 0
        let manifest = replica.manifestIndex
        let checkpointLag = applied > manifest ? applied.rawValue - manifest.rawValue : 0
        figures.applyLag.add(applyLag)
        figures.checkpointLag.add(checkpointLag)
        figures.checkpointLagBytes.add(UInt64(clamping: replica.appliedBytesSinceCheckpoint))
        figures.proposalsWaiting += replica.proposals.count
        figures.readsWaiting += replica.waitingReads
        guard figures.groups.count < groupsMax else { return }
        figures.groups.append(
            GroupFigures(
                group: replica.group, isLeader: isLeader, term: term.rawValue, commit: commit.rawValue,
                applyLag: applyLag, checkpointLag: checkpointLag))
    }

    /// Commands that came since the replica's last turn are of this one. O(commands that came).
    func dateProposals(of replica: Replica) {
        var place = replica.proposals.count - 1
        while place >= 0, replica.proposals[place].begun == 0 {
            replica.proposals[place].begun = now.rawValue
            place -= 1
        }
    }

    /// Its term or role is another one, or it begins anew.
    func countElections(of replica: Replica) {
        let counted = replica.withCore { ElectionsCounted($0) }
        // What is only counted must not end a host that has lost count.
        func rise(_ from: UInt64, _ to: UInt64) -> UInt64 { to > from ? to - from : 0 }
        counts.termChanges += rise(replica.counted.term.rawValue, counted.term.rawValue)
        counts.campaigns += rise(UInt64(replica.counted.campaigns), UInt64(counted.campaigns))
        counts.electionsWon += rise(UInt64(replica.counted.elections), UInt64(counted.elections))
        replica.counted = counted
    }
}

/// How far a replica's consensus was counted.
struct ElectionsCounted {
    var term: Term
    var campaigns: Int
    var elections: Int

    init(_ core: RaftCore) {
        term = core.term
        campaigns = core.statistics.campaigns
        elections = core.statistics.elections
    }
}
