// The phases of a run: load and faults, then all is mended, comes together, rests, and is read back.

import HostCore
import Primitives
import Ring
import Storage

extension SimulatedCluster {
    /// Virtual time in which each group must have a leader once all is well again.
    private static let leadersNanosecondsMax: UInt64 = 10_000_000_000
    /// And in which all operations that were under way must have ended.
    static let operationsNanosecondsMax: UInt64 = 30_000_000_000
    /// Of what is read back, in that time, of all groups together, or it is stuck.
    private static let pagesPerPassMin = 100
    /// And in which all changes of members must have come to their end.
    private static let membersNanosecondsMax: UInt64 = 120_000_000_000
    /// Entries that replicas come nearer to the ends of their logs in that time, at least, until all are there.
    private static let catchUpEntriesMin = 500
    /// Pieces of states in that time, of all members together, and how often that is enough.
    private static let catchUpPiecesMin = 100
    private static let membersSpellsMax = 10
    /// Acknowledged operations at the end of a calm spell, all groups together, at least, and the time that they may
    /// take: one packet may be under way for more than a second, and workers wait for all of a burst.
    private static let calmOperationsMin = 50
    private static let calmNanosecondsMax: UInt64 = 5_000_000_000
    private static let leadersSpellsMax = 30
    private static let pauseNanosecondsMax: UInt64 = 60_000_000_000
    private static let hangBeginsNanoseconds: UInt64 = 1_000_000_000

    /// The whole run. Once only.
    ///
    /// - Throws: the first rule that was broken.
    public func run() throws(SimulationFailure) -> SimulationReport {
        for host in hosts {
            schedule(after: world.random.below(100_000_000), "host %h starts", UInt64(host.place)) { host.start() }
        }
        for client in clients { client.start(workers: world.plan.workersPerClient) }
        // Others let their sessions end: what they have comes back.
        for client in clients where client.place % 3 < world.plan.holdersOfThree {
            client.hold(DataTypeWorkload.heldSlots)
        }
        startWatches()
        let end = UInt64(settings.seconds) * 1_000_000_000
        switch settings.profile {
        case .safety, .rot, .membership, .moves, .rebalance:
            beginFaults()
            administrator?.start()
            try pass(end)
        case .liveness: while now < end { try spellAndCalm() }
        }
        heal()
        // Leaders go as long as members do.
        administrator?.settle()
        if administrator != nil || settings.profile == .rot {
            try awaitMembers()
        }
        try awaitLeaders()
        try pass(1_000_000_000)
        try comeToRest()
        return finishedReport()
    }

    /// All is mended: the load ends, and what is there is read back, before all hosts crash and behind that.
    func comeToRest() throws(SimulationFailure) {
        isLoadOn = false
        for client in clients { client.letGo() }
        try expect(
            try pass(
                Self.operationsNanosecondsMax,
                until: { clients.allSatisfy { $0.openOperations == 0 && $0.burstsOpen == 0 } }),
            "operations end", "\(clients.map(\.openOperations)) are still open")
        try awaitLeases()
        try awaitWorkload()
        try finishWatches()
        try awaitConvergence()
        try awaitBesideSnapshots("idle groups cost nothing") { isAtRest }
        report.journalBytesAtRest = hosts.reduce(0) { max($0, $1.journal?.statistics.bytes ?? 0) }
        try readBack()
        try readWorkloadBack()
        for host in hosts where !host.isLost && host.isMember {
            crash(host.place, restartAfter: world.random.below(500_000_000))
        }
        try pass(600_000_000)
        try awaitLeaders()
        try readBack()
        try readWorkloadBack()
        try awaitLeases()
        judgeCommands()
        if let failure { throw failure }
    }

    /// Some long faults; then everything works, and the cluster must find its way back.
    private func spellAndCalm() throws(SimulationFailure) {
        beginFaults()
        var length = 4_000_000_000 + world.random.below(12_000_000_000)
        if world.random.below(6) == 0 {
            // One host is stopped for as long as a whole minute.
            let host = Int(world.random.below(UInt64(hosts.count)))
            let time = world.random.below(Self.pauseNanosecondsMax)
            note("host %h is stopped for %b µs", UInt64(host), time / 1_000)
            if time > 2_000_000_000 { mark(.pausedBeyondElection) }
            hosts[host].pausedUntil = max(hosts[host].pausedUntil, now + time)
            length = max(length, time + world.random.below(2_000_000_000))
        }
        try pass(length)
        heal()
        let before = operations.count
        try awaitLeaders()
        try pass(2_000_000_000 + world.random.below(3_000_000_000))
        let acknowledged = self.acknowledged
        try expect(
            try pass(
                Self.calmNanosecondsMax, until: { self.acknowledged - acknowledged >= Self.calmOperationsMin }),
            "work goes on",
            "\(self.acknowledged - acknowledged) operations in five seconds, though all is well: \(describeReplicas())")
        try expect(
            try pass(
                Self.operationsNanosecondsMax, until: { operations[..<before].allSatisfy { $0.hasEnded } }),
            "operations end", "an operation from before all was mended is still open")
        if world.plan.hangsDisks { try hangDisks() }
    }

    /// All is well but for the disks of one host, which stand still and say nothing: who it leads commits under others
    /// soon. What it leads and what waits for nothing may stay.
    private func hangDisks() throws(SimulationFailure) {
        let host = hosts[Int(world.random.below(UInt64(hosts.count)))]
        let bound =
            UInt64(world.plan.settings.journalHangTicks) * world.plan.settings.tickNanoseconds * 2
            + Self.leadersNanosecondsMax
        note("the disks of host %h stand still for %b µs", UInt64(host.place), bound / 1_000)
        host.stalledDiskUntil = now + bound
        let end = now + bound
        func isLedElsewhere(_ group: GroupRecord) -> Bool {
            if inspections(of: group).contains(where: { $0.isEstablished && group.replica(on: host.id) != $0.replica })
            {
                return true
            }
            guard let hung = host.inspection(of: group.id) else { return false }
            if hung.isEstablished, hung.stable == hung.last { return true }
            // Nobody gains by it as long as the others are not a majority that has more on disk: one may wait for a state.
            let others = inspections(of: group).count { $0.replica != hung.replica && $0.stable > hung.stable }
            return others * 2 <= group.replicas.count
        }
        // What it was asked for before is done, and is nothing that waits.
        try pass(Self.hangBeginsNanoseconds)
        try expect(
            try pass(end - now - 1, until: { map.groups.allSatisfy(isLedElsewhere) }), "others lead while a disk hangs",
            describeReplicas())
        try pass(end - now)
        try awaitLeaders()
    }

    /// All replicas come together. One that is far behind may take longer where a seed draws windows of one small
    /// message over slow links; but it must get on.
    private func awaitConvergence() throws(SimulationFailure) {
        var (behind, pieces, spells) = (entriesBehind, snapshotPiecesTaken, 1)
        while !(try pass(Self.operationsNanosecondsMax, until: { isConverged })) {
            let left = entriesBehind
            // Or somebody gets a whole state, in small pieces.
            let isFetching = snapshotPiecesTaken >= pieces + Self.catchUpPiecesMin && spells < Self.membersSpellsMax
            try expect(
                isFetching || left + Self.catchUpEntriesMin <= behind, "convergence", describeReplicas())
            (behind, pieces, spells) = (left, snapshotPiecesTaken, spells + 1)
        }
    }

    /// Every change of members that was asked for has come about. One who gets his state in small pieces over a slow
    /// link, while a log that may keep next to nothing grows faster, may need a rest from the load.
    private func awaitMembers() throws(SimulationFailure) {
        func isDone() -> Bool { isSettled && damagedLogs.isEmpty && (administrator?.asksOpen ?? 0) == 0 }
        guard try !pass(Self.membersNanosecondsMax, until: isDone) else { return }
        note("the load ends, as members have not settled under it")
        mark(.membersSettledWithoutLoad)
        isLoadOn = false
        // Without it they get on, or something is wrong. One whose seed draws windows of one small message may have many
        // thousand entries to fetch.
        var (behind, pieces, spells) = (entriesBehind, snapshotPiecesTaken, 1)
        while !(try pass(Self.membersNanosecondsMax, until: isDone)) {
            let left = entriesBehind
            // Or a host that lost its disks gets the states of all its groups, in small pieces.
            let isFetching = snapshotPiecesTaken >= pieces + Self.catchUpPiecesMin && spells < Self.membersSpellsMax
            try expect(
                isFetching || left + Self.catchUpEntriesMin <= behind, "members settle", describeReplicas())
            (behind, pieces, spells) = (left, snapshotPiecesTaken, spells + 1)
        }
    }

    func awaitLeaders() throws(SimulationFailure) {
        let start = now
        try awaitBesideSnapshots("a leader within ten seconds") { hasLeaders }
        report.leadersNanoseconds = max(report.leadersNanoseconds, now - start)
    }

    /// Within ten seconds. A member that has to get its state first, perhaps one that its group has no majority without,
    /// gets longer, as long as pieces of states arrive.
    private func awaitBesideSnapshots(_ invariant: String, until isDone: () -> Bool) throws(SimulationFailure) {
        var pieces = snapshotPiecesTaken
        var spells = 1
        while !(try pass(Self.leadersNanosecondsMax, until: isDone)) {
            try expect(snapshotPiecesTaken > pieces && spells < Self.leadersSpellsMax, invariant, describeReplicas())
            pieces = snapshotPiecesTaken
            spells += 1
        }
    }

    private func readBack() throws(SimulationFailure) {
        var open = 0
        for (number, host) in hosts.enumerated() where !host.isLost {
            for group in map.dataGroups where group.replica(on: host.id) != nil {
                open += 1
                readAll(of: group.id, at: host.id, through: clients[number % clients.count]) { open -= 1 }
            }
        }
        // Pages are small, and a group may have got much with its slots.
        var pages = pagesRead
        while !(try pass(Self.operationsNanosecondsMax, until: { open == 0 })) {
            try expect(pagesRead >= pages + Self.pagesPerPassMin, "operations end", "\(open) groups can't be read back")
            pages = pagesRead
        }
    }

    private func finishedReport() -> SimulationReport {
        var report = report
        report.seeds = 1
        report.traceHash = world.trace.hash
        report.events = world.trace.count
        report.simulatedNanoseconds = now
        report.busySeconds = acknowledgedInSecond.reduce(0) {
            $0 + ($1 >= SimulationReport.operationsPerSecondMin ? 1 : 0)
        }
        report.operations = operations.count
        report.acknowledged = acknowledged
        report.unknownOutcomes = operations.reduce(0) { $0 + ($1.outcome == .unknown ? 1 : 0) }
        return report
    }
}
