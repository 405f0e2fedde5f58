// What one seed's run is made of: topology, thresholds, speeds, faults. Drawn at the beginning, so that each run has its
// own mix.

package import HostCore
package import Primitives
import RaftCore
import Ring

/// The mix of one run.
package struct SimulatedPlan: Sendable {
    package var hosts = 3
    /// Of each group, at most `hosts`.
    package var replicas = 3
    package var groups = 4
    package var clients = 2
    package var workersPerClient = 2
    /// Operations that a worker submits at a time, at most.
    package var burstMax = 8
    package var keys = 24
    /// Operations of one key that may be open at the same time.
    package var openOperationsPerKeyMax = 6
    package var settings = HostSettings()

    /// Event loops of a host: each start draws how many, mostly one.
    package var loopsMax = 3
    package var latencyNanosecondsMax: UInt64 = 400_000
    /// What the bulk connection may take longer.
    package var bulkNanosecondsMax: UInt64 = 20_000_000
    package var slowPerThousand: UInt64 = 3
    package var turnDelayNanosecondsMax: UInt64 = 60_000
    package var commitNanosecondsMax: UInt64 = 2_000_000
    package var storeJobNanosecondsMax: UInt64 = 20_000_000
    package var journalCommitBytesMax = JournalQueue.commitBytesMax
    package var readNanosecondsMax: UInt64 = 1_000_000
    /// Between two bursts of a worker, from a half of it to one and a half.
    package var thinkNanoseconds: UInt64 = 20_000_000
    package var clockDriftMillionths: UInt64 = 50_000
    package var valueBytesMax = 200
    /// Of a hundred gets, those by lease.
    package var leaseReadsPercent: UInt64 = 0
    /// Of the other reads, those with a bound on their age, and how large it is at most.
    package var staleReadsPercent: UInt64 = 0
    package var staleMillisecondsMax: UInt64 = 1
    /// Of the other reads, those that may miss what their client has not seen.
    package var sessionReadsPercent: UInt64 = 0
    /// Of a hundred puts, those with a condition.
    package var conditionalPercent: UInt64 = 0
    /// Of the reads, scans of all keys of a tag; with them half of the keys have one of two tags.
    package var scanPercent: UInt64 = 0
    /// Operations that are a program's with its own state machines; 0: there is none.
    package var machinePercent: UInt64 = 0
    /// Of what clients do: with Bifrost's data types.
    package var dataTypePercent: UInt64 = 0
    /// That sessions of clients live without a word; nil: each client's own chance decides.
    package var sessionMilliseconds: UInt64?
    /// Clients that watch keys.
    package var watches = 0
    /// Operations that are puts with a time to live.
    package var leasePercent: UInt64 = 0
    /// Times to live, and delays of what a program schedules, at most.
    package var delayMillisecondsMax: UInt64 = 15_000
    static let machinePercentOfUsers: UInt64 = 50

    /// Virtual nanoseconds between two faults, at most.
    package var faultPauseNanosecondsMax: UInt64 = 1_600_000_000
    /// How many times longer than in `safety` a fault may last.
    package var faultLength: UInt64 = 1
    /// The same of disks that stand still.
    package var diskStallLength: UInt64 = 1
    /// In calm times the disks of one host stand still for long.
    package var hangsDisks = false
    /// Of the hosts, those that are not in the cluster at first.
    package var joiners = 0
    /// Between two changes of members, groups and hosts; 0: there are none.
    package var operatorPauseNanosecondsMax: UInt64 = 0
    /// The newest feature level that hosts know.
    package var newestLevel = FeatureLevel.current
    /// Of so many changes that the operator asks for, per hundred, that slots move; 0: none do.
    package var migrationPercent: UInt64 = 0
    /// Of three clients, so many keep their sessions in the slots of data types that are held, where slots move.
    package var holdersOfThree = 0
    /// Of so many, per hundred, that a plan of rebalancing is begun, or set otherwise; 0: none is.
    package var rebalancePercent: UInt64 = 0
    /// Of so many of these, per hundred, that the cluster is told to keep the balance by itself, or not any more, or gets
    /// something to even out; 0: it never is.
    package var autoPercent: UInt64 = 0
    /// Of each host's version at first, of those to come too; it is started with the newest one some time later. Empty: all
    /// are of that from the beginning.
    package var featureLevels: [UInt32] = []
    /// The only host whose disks are damaged: fewer copies than any promise needs.
    package var rottenHost = 0
    /// A bug on purpose: the journal is not synced. For tests of the rules.
    package var forgetsToSync = false
    /// Of so many commits, checkpoints and merges one ends the process between its transactions.
    package var jobsPerEnd: UInt64 = 1_000
    /// Relative frequencies, in the order of `SimulatedFault`.
    package var weights: [UInt64] = []

    package init(_ simulation: SimulationSettings, random: inout SeededRandom) {
        func draw(_ range: ClosedRange<Int>) -> Int { range.lowerBound + Int(random.below(UInt64(range.count))) }
        func chance(_ percent: UInt64) -> Bool { random.below(100) < percent }
        hosts = chance(60) ? 3 : draw(4...7)
        replicas = hosts >= 5 && chance(40) ? 5 : 3
        groups = chance(85) ? draw(4...8) : chance(67) ? draw(1...2) : draw(9...64)
        clients = chance(85) ? draw(2...4) : chance(33) ? 1 : draw(5...16)
        workersPerClient = clients == 1 ? draw(3...5) : clients > 4 ? 1 : draw(1...3)
        burstMax = draw(8...32)
        keys = draw(16...64)
        openOperationsPerKeyMax = draw(2...7)

        // States are compared all the time.
        settings.digestInterval = 16
        settings.memtableBytesTrigger = draw(500...6_000)
        settings.memtableBytesMax = settings.memtableBytesTrigger * draw(1...4)
        settings.journalBytesTrigger = draw(1_000...12_000)
        settings.journalBytesSoft = draw(20_000...400_000)
        settings.checkpointsMax = draw(1...4)
        settings.mergesMax = draw(1...2)
        settings.runsMax = draw(1...3)
        settings.applyBytesPerTurn = draw(200...4_000)
        settings.logMemoryBytesMax = draw(300...8_000)
        if chance(20) { settings.logPinnedBytesMax = draw(20_000...400_000) }
        settings.waitingCallsMax = chance(20) ? draw(1...4) : 1_000
        settings.pageBytesMax = draw(200...4_000)
        settings.pageRecordsMax = draw(1...20)
        settings.wakesPerTick = draw(1...8)
        settings.heartbeatTicks = draw(1...3)
        settings.suspicionTicks = settings.heartbeatTicks * 2 + draw(0...4)
        settings.raft.appendBytesMax = draw(100...3_000)
        settings.raft.inflightMessagesMax = draw(1...16)
        settings.raft.inflightBytesMax = draw(500...20_000)
        settings.raft.uncommittedBytesMax = chance(20) ? draw(500...5_000) : 1 << 20
        settings.raft.readRoundsMax = draw(1...8)
        settings.raft.commitHintEntries = draw(1...64)
        settings.raft.electionTicks = draw(6...12)

        bulkNanosecondsMax = UInt64(draw(100_000...40_000_000))
        latencyNanosecondsMax = UInt64(draw(50_000...2_000_000))
        slowPerThousand = UInt64(draw(0...12))
        turnDelayNanosecondsMax = UInt64(draw(1...10) * draw(1_000...200_000))
        commitNanosecondsMax = UInt64(draw(100_000...8_000_000))
        storeJobNanosecondsMax = UInt64(draw(500_000...150_000_000))
        readNanosecondsMax = UInt64(draw(50_000...8_000_000))
        // What all workers together submit in a second: mostly little above what makes a second count, for what is more
        // costs time and shows little; sometimes much.
        let dice = draw(500...1_000)
        let rate = dice > 960 ? 400 + 15 * (dice - 960) : 150 + (dice - 500) * 70 / 460
        thinkNanoseconds = UInt64(clients * workersPerClient * (1 + burstMax) * 500_000_000 / rate)
        clockDriftMillionths = UInt64(draw(0...50_000))
        valueBytesMax = draw(10...300)
        faultPauseNanosecondsMax = UInt64(draw(800_000_000...5_000_000_000))
        jobsPerEnd = UInt64(draw(200...3_000))
        weights = SimulatedFault.allCases.map { fault in
            // Drawn last: it came later than the others, whose seeds mean the same as before.
            fault == .fullDisk || random.below(3) == 0 ? 0 : 1 + random.below(4)
        }
        // A run without crashes finds little.
        weights[SimulatedFault.crash.rawValue] += 2
        rottenHost = draw(0...hosts - 1)
        weights[SimulatedFault.rot.rawValue] = simulation.profile == .rot ? 6 : 0
        if simulation.profile == .liveness {
            faultPauseNanosecondsMax *= 4
            faultLength = UInt64(draw(3...10))
        }
        if chance(40) { weights[SimulatedFault.fullDisk.rawValue] = UInt64(draw(1...3)) }
        // From a stream of its own: earlier seeds mean the same as before. A commit must fit well below the bound, and
        // that of the first map has some 180 KB.
        var copy = random
        var later = SeededRandom(seed: mix(copy.next()))
        // Damage that nothing rebuilds yet pins a journal for ever.
        if simulation.profile != .rot, later.below(4) == 0 {
            settings.journalBytesMax = 400_000 + Int(later.below(400_000))
            settings.journalBytesSoft = min(settings.journalBytesSoft, settings.journalBytesMax / 4)
        }
        // Enough for many entries: a disk that syncs for each keeps up with no load.
        if later.below(2) == 0 { journalCommitBytesMax = 3_000 + Int(later.below(30_000)) }
        settings.journalBytesForLaggards = later.below(2) == 0 ? 20_000 + Int(later.below(200_000)) : .max
        settings.snapshotPieceBytes = 500 + Int(later.below(20_000))
        settings.snapshotsMax = 1 + Int(later.below(3))
        if later.below(4) == 0 { settings.checkpointNanoseconds = 1_000_000_000 + later.below(20_000_000_000) }
        if later.below(4) == 0 { settings.memtableBytesTotal = 200_000 + Int(later.below(2_000_000)) }
        // Also so long that elections wait for promises to end, and whole leaderships.
        settings.leaseNanoseconds = later.below(8) == 0 ? 0 : 100_000_000 + later.below(1_400_000_000)
        leaseReadsPercent = later.below(4) == 0 ? 0 : 20 + later.below(60)
        if simulation.profile == .membership {
            hosts = 4 + Int(later.below(4))
            joiners = Int(later.below(UInt64(hosts - 2)))
            replicas = min(1 + Int(later.below(4)), hosts - joiners)
            groups = min(groups, 12)
            operatorPauseNanosecondsMax = 300_000_000 + later.below(4_000_000_000)
            settings.movesMax = 1 + Int(later.below(4))
            settings.raft.promotionLagMax = 1 + Int(later.below(200))
        }
        staleReadsPercent = later.below(3) == 0 ? 0 : 10 + later.below(60)
        staleMillisecondsMax = 1 + later.below(later.below(2) == 0 ? 100 : 4_000)
        // Damage is to be found before a read meets it; else what may go wrong is a false alarm.
        settings.scrubBytesPerSecond = simulation.profile == .rot ? 20_000 + Int(later.below(400_000)) : 50_000
        settings.scrubPieceBytes = 1_000 + Int(later.below(20_000))
        settings.scrubRoundNanoseconds = later.below(5_000_000_000)
        settings.journalHangTicks = settings.raft.electionTicks * (2 + Int(later.below(4)))
        // Now and then disks stand still for so long that others have to lead.
        diskStallLength = later.below(3) == 0 ? 1 + later.below(10) : 1
        hangsDisks = simulation.profile == .liveness && later.below(2) == 0
        if simulation.profile == .membership, later.below(3) == 0 {
            let least = later.below(4) == 0 ? FeatureLevel.first : FeatureLevel.membership
            featureLevels = (0..<hosts).map { _ in
                least + UInt32(later.below(UInt64(FeatureLevel.current - least) + 1))
            }
        }
        settings.moveNanoseconds = 1_000_000_000 + later.below(30_000_000_000)
        let conditional = later.below(3) == 0 ? 0 : 5 + later.below(60)
        // Older hosts know no transactions.
        conditionalPercent = featureLevels.isEmpty ? conditional : 0
        scanPercent = later.below(3) == 0 ? 5 + later.below(40) : 0
        machinePercent = later.below(4) == 0 ? 5 + later.below(40) : 0
        leasePercent = later.below(3) == 0 ? 1 + later.below(20) : 0
        watches = later.below(3) == 0 ? 1 + Int(later.below(8)) : 0
        if later.below(2) == 0 { settings.historyBytesMax = Int(later.below(200_000)) }
        if later.below(2) == 0 { settings.historyBytesOfGroupMax = 500 + Int(later.below(50_000)) }
        sessionReadsPercent = later.below(3) == 0 ? 10 + later.below(60) : 0
        dataTypePercent = later.below(3) == 0 ? 5 + later.below(60) : 0
        // Their states are larger: in the smallest pieces members would not catch up with a log that keeps next to nothing.
        if simulation.profile == .membership, dataTypePercent > 0 { settings.snapshotPieceBytes += 5_000 }
        settings.sweptRecordsMax = 1 + Int(later.below(20))
        if simulation.profile.movesSlots { move(&later) }
        if simulation.profile == .rebalance { rebalance(&later) }
        if simulation.profile.movesSlots, dataTypePercent > 0 { holdersOfThree = Int(later.below(4)) }
        // So little that rounds go on until writers are slowed.
        if simulation.profile.movesSlots, later.below(3) == 0 {
            settings.migrationLittleBytes = 20 + Int(later.below(500))
        }
        settings.sealsWithLastPage = later.below(3) > 0
    }

    private mutating func rebalance(_ random: inout SeededRandom) {
        rebalancePercent = 40 + random.below(40)
        guard random.below(2) == 0 else { return }
        autoPercent = 30 + random.below(50)
        // It begins nothing while anything is on its way or somebody is away: now and then all is to be calm.
        faultPauseNanosecondsMax *= 4
        operatorPauseNanosecondsMax += 3_000_000_000
        migrationPercent /= 4
        settings.balanceLookNanoseconds = 100_000_000 + random.below(2_000_000_000)
        settings.balanceRestNanoseconds = 100_000_000 + random.below(4_000_000_000)
        settings.balanceBytesMin = random.below(1_000)
        // All that there is has some KB: with what replicas and slots usually count beside it, it would be even always.
        settings.balanceRules.replicaOverheadBytes = 1 + random.below(1_000)
        settings.balanceRules.slotOverheadBytes = 0
    }

    private mutating func move(_ random: inout SeededRandom) {
        newestLevel = FeatureLevel.migrations
        migrationPercent = 30 + random.below(70)
        joiners = 0
        groups = 2 + Int(random.below(5))
        operatorPauseNanosecondsMax = 200_000_000 + random.below(2_000_000_000)
        settings.movesMax = 1 + Int(random.below(4))
        settings.raft.promotionLagMax = 1 + Int(random.below(200))
        // Pages of a few records, so that a migration has many.
        settings.migrationPageBytes = 20 + Int(random.below(2_000))
        settings.migrationPageRecords = 1 + Int(random.below(20))
        settings.migrationDigestBytes = settings.migrationPageBytes
        settings.migrationDigestRecords = settings.migrationPageRecords
        if dataTypePercent > 0 { settings.snapshotPieceBytes += 5_000 }
    }
}

extension SimulatedPlan {
    /// Of its first process.
    func featureLevel(of place: Int) -> UInt32 {
        featureLevels.isEmpty ? newestLevel : featureLevels[place]
    }
}

/// What may go wrong at a moment.
package enum SimulatedFault: Int, CaseIterable, Sendable {
    case crash, crashAll, isolate, cutOneWay, clog, resetPeers, resetClients, pause, slowDisk, diskError, crashMajority
    case partition, stallDisk, stallLoop, narrow, rot, fullDisk
}
