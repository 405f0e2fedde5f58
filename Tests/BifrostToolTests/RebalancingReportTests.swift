import BifrostTool
import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// How far a rebalancing is, as people read it.
@Suite struct RebalancingReportTests {
    private func standing(
        _ states: [Rebalancing.Step.State], _ waits: [RebalanceWait?], paused: Bool = false, cancelled: Bool = false
    ) -> RebalancingStanding {
        let steps = states.enumerated().map { place, state in
            Rebalancing.Step(
                .slots([Slot(UInt16(place))], from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 1_000_000,
                state: state, begun: state == .underway ? UInt64(10 + place) : 0, attempts: 1,
                word: state == .failed ? "slot 0 is group 3's by now" : "")
        }
        return RebalancingStanding(
            mapVersion: 20,
            rebalancing: Rebalancing(
                id: RebalancingID(9), token: 1, plannedVersion: 8, isPaused: paused, isCancelled: cancelled,
                steps: steps), waits: waits)
    }

    /// Three hosts, two groups with a replica on each.
    private func map(_ migrations: [MigrationRecord] = []) throws -> ClusterMap {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                incarnation: Incarnation(UInt64($0) + 100), featureLevel: FeatureLevel.migrations)
        }
        var map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: 2, replicas: 3,
            featureLevel: FeatureLevel.migrations)
        map.migrations = migrations
        return map
    }

    /// What hosts say of themselves: each group is led by its preferred replica.
    ///
    /// - Parameters:
    ///   - silent: hosts that say nothing.
    ///   - leaderless: groups whose replicas know no leader.
    private func accounts(_ map: ClusterMap, silent: [HostID] = [], leaderless: [GroupID] = []) -> [HostAccount] {
        map.hosts.map { host in
            guard !silent.contains(host.id) else { return HostAccount(host: host, status: nil, problem: "no answer") }
            var status = HostStatus()
            status.cluster = map.cluster
            status.host = host.id
            status.replicas = map.replicas(on: host.id).map { group, replica in
                var status = ReplicaStatus(group: group.id, replica: replica)
                let isLed = !leaderless.contains(group.id)
                status.role = isLed && group.preferredLeader == replica ? .leader : .follower
                status.isQuorumActive = isLed
                status.term = Term(2)
                status.leader = isLed ? group.preferredLeader : .none
                return status
            }
            return HostAccount(host: host, status: status)
        }
    }

    @Test func itsEndIsWhatItsStepsAre() {
        #expect(RebalancingReport(standing([.done, .done], [nil, nil])).end == .converged)
        #expect(RebalancingReport(standing([.done, .failed], [nil, nil])).end == .failed)
        #expect(RebalancingReport(standing([.done, .cancelled], [nil, nil], cancelled: true)).end == .cancelled)
        #expect(
            RebalancingReport(standing([.done, .waiting], [nil, .turn(underway: 1, most: 1)])).state == "blocked")
        #expect(RebalancingReport(standing([.done, .waiting], [nil, nil])).end == .inProgress)
        let paused = RebalancingReport(standing([.done, .waiting], [nil, .resumption], paused: true))
        #expect(paused.end == .blocked && paused.state == "paused")
        #expect(paused.problem?.contains("step 2 waits for somebody to resume it") == true)
        let away = RebalancingReport(standing([.waiting, .waiting], [.host(HostID(3)), .step(0)]))
        #expect(away.end == .blocked && away.problem?.contains("host 3, which does not answer") == true)
        let failed = RebalancingReport(standing([.failed], [nil]))
        #expect(failed.problem?.contains("slot 0 is group 3's by now") == true)
    }

    /// Whoever cancels it is told so, whatever failed before or after, and however it was set.
    @Test func whatWasCancelledIsShownAsCancelled() {
        let mixed = RebalancingReport(
            standing([.done, .failed, .cancelled], [nil, nil, nil], paused: true, cancelled: true))
        #expect(mixed.end == .cancelled && mixed.state == "cancelled")
        #expect(mixed.stepsDone == 1 && mixed.stepsFailed == 1 && mixed.stepsCancelled == 1)
        #expect(mixed.problem == "rebalancing 9 was cancelled: 1 of 3 steps are done, 1 failed")
        // What was under way failed, and nothing else was left.
        #expect(RebalancingReport(standing([.done, .failed], [nil, nil], cancelled: true)).end == .cancelled)
        // It went to its end all the same.
        #expect(RebalancingReport(standing([.done, .done], [nil, nil], cancelled: true)).end == .converged)
        let wait = RebalanceWait.copy(MigrationID(10), .committed)
        let ending = standing([.underway, .cancelled], [wait, nil], paused: true, cancelled: true)
        #expect(RebalancingReport(ending).state == "cancelling")
        #expect(ending.rebalancing.endText == "rebalancing 9 was cancelled, and is coming to its end")
        #expect(
            standing([.done, .cancelled], [nil, nil], cancelled: true).rebalancing.endText?.contains("is over") == true)
        #expect(standing([.done, .waiting], [nil, nil], paused: true).rebalancing.endText == nil)
    }

    @Test func whatFailedIsNoProgress() {
        let half = RebalancingReport(standing([.done, .failed], [nil, nil]))
        #expect(half.done && half.progress == 0.5 && half.bytesDone == 1_000_000 && half.steps[1].progress == 0)
        #expect(
            half.line(barWidth: 10).contains("[#####.....]  50.0 %  1 of 2 steps, 1 failed"),
            "\(half.line(barWidth: 10))")
        #expect(RebalancingReport(standing([.done, .done], [nil, nil])).progress == 1)
        // What failed is not waited for: half of what is left came in ten seconds.
        let before = RebalancingReport(standing([.failed, .waiting, .waiting], [nil, nil, nil])).sample(at: 1)
        var after = RebalancingReport(standing([.failed, .done, .waiting], [nil, nil, nil]))
        after.measure(since: before, at: 11)
        #expect(after.secondsLeft == 10)
    }

    @Test func whatDoesNotGoOnHasNoTimeToCome() throws {
        func report(_ waits: [RebalanceWait?], paused: Bool = false, cancelled: Bool = false) throws
            -> RebalancingReport
        {
            let before = RebalancingReport(standing([.waiting, .underway, .waiting], [nil, nil, nil])).sample(at: 0)
            var report = RebalancingReport(
                standing([.done, .underway, .waiting], waits, paused: paused, cancelled: cancelled))
            report.measure(since: before, at: 10)
            return report
        }
        let wait = RebalanceWait.copy(MigrationID(11), .copying)
        #expect(try report([nil, wait, .turn(underway: 1, most: 1)]).secondsLeft == 20)
        #expect(try report([nil, wait, .resumption], paused: true).secondsLeft == nil)
        #expect(try report([nil, .host(HostID(3)), .resumption], paused: true).secondsLeft == nil)
        #expect(try report([nil, .host(HostID(3)), .step(1)]).secondsLeft == nil)
        let cancelled = try report([nil, wait, nil], cancelled: true)
        #expect(cancelled.secondsLeft == nil && !cancelled.line().contains("ETA"))
        // What was written is there all the same.
        #expect(cancelled.bytesPerSecond == 100_000)
    }

    /// The limit is of what is copied once, and what is written is that in each replica; and a step that is done counts at
    /// once what was planned for it.
    @Test func theRateIsNeverAboveTheLimit() throws {
        let map = try map()
        let migration = MigrationReport(
            id: MigrationID(11), source: GroupID(1), phase: .importing, rounds: 1, bytes: 90_000,
            lastRoundBytes: 5_000, bytesPerSecond: 50_000, wait: .pace)
        func measured(_ limit: UInt64) -> RebalancingReport {
            let before = RebalancingReport(standing([.waiting, .waiting], [nil, nil]), map: map).sample(at: 0)
            var now = standing([.done, .underway], [nil, .copy(MigrationID(11), .copying)])
            now.rebalancing.limits = Rebalancing.Limits(concurrentMax: 2, bytesPerSecondMax: limit)
            var report = RebalancingReport(now, map: map, migrations: [migration])
            report.measure(since: before, at: 10)
            return report
        }
        // 1,000,000 and 270,000 were written, a third of each was copied.
        let free = measured(0)
        #expect(free.bytesPerSecond == 42_333 && free.steps[1].bytesPerSecond == 50_000)
        let limited = measured(20_000)
        #expect(limited.bytesPerSecond == 20_000 && limited.steps[1].bytesPerSecond == 10_000)
        #expect(limited.bytesDone == 1_270_000)
    }

    @Test func whatHasJustBegunSaysSo() {
        let report = RebalancingReport(standing([.done, .underway, .waiting], [nil, nil, nil]))
        #expect(report.steps[0].waitsFor == nil)
        #expect(report.steps[1].waitsFor == "nothing: what came of it is being noted")
        #expect(report.steps[2].waitsFor == "nothing: it is being begun")
        #expect(report.text(steps: false).contains("nothing: it is being begun"))
        #expect(report.end == .inProgress)
        let cancelled = RebalancingReport(standing([.waiting], [nil], cancelled: true))
        #expect(cancelled.steps[0].waitsFor == "nothing: it is being cancelled")
    }

    @Test func aGroupThatLostItsSlotsAgainIsNamed() throws {
        var map = try map()
        map.ring.assign(map.ring.slots(of: GroupID(2)), to: GroupID(1))
        let cancelled = standing([.cancelled, .cancelled], [nil, nil], cancelled: true)
        let report = RebalancingReport(cancelled, map: map)
        #expect(report.emptyGroups == [2])
        #expect(report.text(steps: false).contains("group 2 has no slots: "), "\(report.text(steps: false))")
        #expect(report.text(steps: false).contains("'bifrost group delete 2'"))
        #expect(cancelled.rebalancing.targetsWithoutSlots(in: map) == [2])
        // It may get some yet.
        #expect(RebalancingReport(standing([.cancelled, .waiting], [nil, nil]), map: map).emptyGroups.isEmpty)
        map.ring.assign([Slot(7)], to: GroupID(2))
        #expect(RebalancingReport(cancelled, map: map).emptyGroups.isEmpty)
        #expect(RebalancingReport.emptyText(of: [2, 4, 5])?.hasPrefix("groups 2, 4 and 5 have no slots") == true)
        #expect(RebalancingReport.emptyText(of: []) == nil)
    }

    // MARK: - Groups without leaders

    /// As long as an election may take it goes on; then it is said who holds it up.
    @Test func whatWaitsForAGroupWithoutALeaderIsBlocked() throws {
        let migration = MigrationRecord(id: MigrationID(10), slots: [Slot(0)], source: GroupID(1), target: GroupID(2))
        let map = try map([migration])
        let now = standing(
            [.underway, .waiting], [.copy(MigrationID(10), .copying), .turn(underway: 1, most: 1)])
        #expect(now.groups(of: 0, in: map) == [GroupID(1), GroupID(2)] && now.groups(of: 1, in: map).isEmpty)
        var groups = LeaderlessGroups()
        func look(_ accounts: [HostAccount], at seconds: Double) -> RebalancingReport {
            groups.look(at: now.groups(of: 0, in: map), map, accounts, seconds: seconds)
            return RebalancingReport(now, map: map, leaderless: groups.groups(at: seconds))
        }
        let sound = look(accounts(map), at: 0)
        #expect(sound.end == .inProgress && sound.leaderless.isEmpty && !sound.mayBeBlocked && groups.isEmpty)
        let lost = accounts(map, silent: [HostID(2), HostID(3)], leaderless: [GroupID(1)])
        // Group 2 has a leader, or followers that hear from one.
        let led = accounts(map, silent: [HostID(3)], leaderless: [GroupID(1)])
        let first = look(led, at: 5)
        #expect(first.end == .inProgress && first.mayBeBlocked && first.leaderless.contains { $0.group == 1 })
        #expect(
            first.steps[0].waitsFor?.contains("group 1, which has no leader: host 3 does not answer") == true,
            "\(first.steps[0].waitsFor ?? "")")
        #expect(look(led, at: 14.5).end == .inProgress)
        let late = look(led, at: 15)
        #expect(late.end == .blocked && late.state == "blocked" && !late.mayBeBlocked)
        #expect(late.steps[0].leaderless?.contains(1) == true && late.steps[1].leaderless == nil)
        #expect(
            late.problem?.hasPrefix(
                "rebalancing 9 does not go on by itself: step 1 waits for group 1, which has no leader") == true,
            "\(late.problem ?? "")")
        #expect(late.moveLines(most: 4).first?.contains("ETA") == false)
        let both = look(lost, at: 16)
        #expect(both.steps[0].waitsFor?.contains("hosts 2 and 3 do not answer") == true, "\(both.steps)")
        // A leader came, and went again: that is another time.
        #expect(look(accounts(map), at: 17).end == .inProgress)
        #expect(look(led, at: 18).end == .inProgress)
    }

    @Test func whatElseGoesOnIsNotBlockedByAGroupWithoutALeader() throws {
        let migrations = [
            MigrationRecord(id: MigrationID(10), slots: [Slot(0)], source: GroupID(1), target: GroupID(2)),
            MigrationRecord(
                id: MigrationID(11), slots: [Slot(1)], source: GroupID(1), target: GroupID(2), state: .released),
        ]
        let map = try map(migrations)
        let now = standing(
            [.underway, .underway], [.copy(MigrationID(10), .copying), .copy(MigrationID(11), .released)])
        // The second is the target's alone.
        #expect(now.groups(of: 1, in: map) == [GroupID(2)])
        let lost = LeaderlessGroup(group: GroupID(1), silentHosts: [HostID(3)], seconds: 99)
        let report = RebalancingReport(now, map: map, leaderless: [lost])
        #expect(report.end == .inProgress && report.state == "running" && !report.mayBeBlocked)
        #expect(report.steps[0].leaderless == [1] && report.steps[1].leaderless == nil)
        var ended = now
        ended.rebalancing.steps[1].state = .done
        ended.waits[1] = nil
        #expect(RebalancingReport(ended, map: map, leaderless: [lost]).end == .blocked)
        // Of one whose silence is younger, or that another step waits for.
        let young = LeaderlessGroup(group: GroupID(1), silentHosts: [], seconds: 9)
        #expect(RebalancingReport(ended, map: map, leaderless: [young]).mayBeBlocked)
        #expect(young.text == "group 1, which has no leader: see 'bifrost status'")
    }

    /// What is committed is the source's turn, and so on: whoever has done his part is not waited for.
    @Test func eachStepOfAMigrationIsSomebodysTurn() throws {
        let (source, target) = (GroupID(1), GroupID(2))
        for (state, groups) in [
            (.copying, [source, target]), (.committed, [source]), (.released, [target]), (.activated, [source]),
            (.aborting, [target]), (.settling, [target]),
        ] as [(MigrationRecord.State, [GroupID])] {
            let migration = MigrationRecord(
                id: MigrationID(10), slots: [Slot(0)], source: source, target: target, state: state,
                isSourceDone: state == .aborting || state == .settling)
            let map = try map([migration])
            #expect(standing([.underway], [.copy(MigrationID(10), state)]).groups(of: 0, in: map) == groups, "\(state)")
            #expect(standing([.waiting], [.migration(MigrationID(10))]).groups(of: 0, in: map) == groups, "\(state)")
        }
        let map = try map()
        #expect(standing([.underway], [.copy(MigrationID(10), .copying)]).groups(of: 0, in: map).isEmpty)
        #expect(standing([.waiting], [.members(GroupID(2))]).groups(of: 0, in: map) == [GroupID(2)])
        var moving = standing([.underway], [.replica(ReplicaID(9), HostID(3), votes: false)])
        moving.rebalancing.steps[0].move = .replica(GroupID(2), ReplicaID(5), from: HostID(1), to: HostID(3))
        #expect(moving.groups(of: 0, in: map) == [GroupID(2)])
    }

    // MARK: - Plans

    @Test func aPlanWithoutWordsOfAllGroupsDoesNotSayThatAllIsInBalance() throws {
        let map = try map()
        let plan = Planner.rebalance(RebalanceInput(map: map))
        #expect(plan.steps.isEmpty)
        let load = GroupLoad(stateBytes: 0, memtableBytes: 0, otherBytes: 0, seconds: 10, slots: [])
        let told = GroupAnswer(group: GroupID(1), load: load)
        func report(_ other: GroupAnswer, down: [HostID] = []) -> RebalanceReport {
            RebalanceReport(plan, map: map, down: down, answers: [told, other])
        }
        let whole = report(GroupAnswer(group: GroupID(2), load: load))
        #expect(whole.inBalance && whole.doubt == nil && whole.text(steps: false).hasPrefix("in balance"))
        let failure = ToolError(.unavailable, "group 2: it has no leader")
        let silent = report(GroupAnswer(group: GroupID(2), failure: failure), down: [HostID(2)])
        #expect(!silent.inBalance && silent.silentGroups == [2])
        #expect(
            silent.doubt
                == "nobody can tell whether anything should move, as group 2 did not say what slots have: host 2 does not "
                + "answer", "\(silent.doubt ?? "")")
        let text = silent.text(steps: false)
        #expect(!text.contains("in balance") && text.contains("group 2: it has no leader"), "\(text)")
        #expect(report(GroupAnswer(group: GroupID(2), failure: failure)).doubt?.hasSuffix("'bifrost status'") == true)
        // Who is stopped keeps what it has.
        let stopped = report(GroupAnswer(group: GroupID(2), failure: failure, isStopped: true))
        #expect(stopped.inBalance && stopped.doubt == nil)
    }

    @Test func whatIsCopiedCountsAndTheRestHasATime() throws {
        let map = try map()
        let migration = MigrationReport(
            id: MigrationID(11), source: GroupID(1), phase: .importing, rounds: 1, bytes: 100_000,
            lastRoundBytes: 5_000, bytesPerSecond: 50_000, wait: .pace)
        let wait = RebalanceWait.copy(MigrationID(11), .copying)
        let before = RebalancingReport(standing([.done, .underway, .waiting], [nil, wait, nil]), map: map)
        var report = RebalancingReport(
            standing([.done, .underway, .waiting], [nil, wait, nil]), map: map, migrations: [migration])
        // A third of a megabyte is written three times.
        #expect(report.steps[1].progress > 0.299 && report.steps[1].progress < 0.301)
        #expect(report.bytesDone == 1_300_000 && report.bytes == 3_000_000)
        #expect(report.progress > 0.43 && report.progress < 0.44)
        #expect(report.steps[1].waitsFor?.contains("the limit of bytes per second") == true)
        // A tenth of the whole in ten seconds: 300,000 bytes were written, 100,000 were copied.
        report.measure(since: before.sample(at: 3), at: 13)
        #expect(report.bytesPerSecond == 10_000 && report.secondsLeft == 57)
        let line = report.line(barWidth: 10)
        #expect(line.contains("[####......]") && line.contains("1 of 3 steps") && line.contains("ETA 0:57"), "\(line)")
        let moves = report.moveLines(most: 4)
        #expect(moves.count == 1 && moves[0].contains("slots 1 of group 1 to group 2"), "\(moves)")
        // 700,000 bytes are left, of three replicas, at 50,000 a second.
        #expect(moves[0].contains("ETA 0:05"), "\(moves)")
        #expect(report.text(steps: false).contains("underway") && !report.text(steps: false).contains("  done"))
        #expect(report.text(steps: true).contains("done"))
    }

    /// A host that answers has no such record, but this is what the tool makes of one.
    @Test func bytesWithoutEndAreShown() throws {
        for bytes in [1 << 62 - 1, .max] as [UInt64] {
            var standing = standing(
                [.done, .done, .done, .done, .underway, .waiting], [nil, nil, nil, nil, nil, nil])
            for place in standing.rebalancing.steps.indices { standing.rebalancing.steps[place].bytes = bytes }
            let migration = MigrationReport(
                id: MigrationID(14), source: GroupID(1), phase: .importing, rounds: .max, bytes: .max,
                lastRoundBytes: .max, bytesPerSecond: .max, wait: .pace)
            let before = RebalancingReport(self.standing([.waiting], [nil])).sample(at: 0)
            var report = RebalancingReport(standing, map: try map(), migrations: [migration])
            #expect(report.bytes == .max && report.bytesDone >= 1 << 63)
            report.measure(since: before, at: 1)
            #expect(!report.line().isEmpty && !report.text(steps: true).isEmpty && report.moveLines(most: 4).count == 1)
        }
    }

    @Test func itSaysThatTheClusterKeepsTheBalanceByItself() {
        var standing = standing([.done, .waiting], [nil, nil])
        #expect(!RebalancingReport(standing).text(steps: false).contains("by itself"))
        #expect(RebalancingReport(standing).auto == nil && !RebalancingReport(standing).automatic)
        standing.rebalancing.isAutomatic = true
        standing.auto = AutoStanding(
            auto: AutoRebalancing(limits: Rebalancing.Limits(concurrentMax: 2, pauseMillisMax: 50)),
            wait: .rebalancing(RebalancingID(9)))
        let report = RebalancingReport(standing)
        let text = report.text(steps: false)
        #expect(report.automatic && text.contains("begun by the cluster itself, at most 4 moves at a time"), "\(text)")
        #expect(
            text.contains(
                "the cluster keeps the balance by itself, at most 2 moves at a time, pauses of 50 ms; it waits for the end of "
                    + "rebalancing 9"), "\(text)")
        #expect(AutoReport(AutoStanding(auto: AutoRebalancing(), wait: nil)).text.hasSuffix("it looks now"))
    }

    @Test func ofWhoNamesAnEarlierOneIsAskedAgain() {
        let id = RebalancingID(9)
        #expect(RebalancingReport.Answer(id, about: id) == .current)
        #expect(RebalancingReport.Answer(RebalancingID(10), about: id) == .later)
        #expect(RebalancingReport.Answer(RebalancingID(8), about: id) == .earlier)
        #expect(RebalancingReport.Answer(nil, about: id) == .earlier)
    }

    @Test func whetherAWishCameTooLateIsSeenByTheRecord() {
        let limits = Rebalancing.Limits(concurrentMax: 9)
        let running = standing([.done, .waiting], [nil, nil]).rebalancing
        let over = standing([.done, .done], [nil, nil]).rebalancing
        for wish in [.pause, .cancel, .limits(limits)] as [Rebalancing.Wish] {
            var wished = running
            #expect(wished.take(wish) && !wished.isTooLate(for: wish) && !running.isTooLate(for: wish))
            #expect(over.isTooLate(for: wish))
        }
        // It went to its end with it.
        var (paused, cancelled, limited) = (over, over, over)
        (paused.isPaused, cancelled.isCancelled, limited.limits) = (true, true, limits)
        #expect(!paused.isTooLate(for: .pause) && paused.isTooLate(for: .resume))
        #expect(!cancelled.isTooLate(for: .cancel) && !limited.isTooLate(for: .limits(limits)))
    }

    @Test func aGroupIsHalvedByBytes() {
        let slots = (10..<20).map { Slot(UInt16($0)) }
        func load(_ bytes: [UInt64]) -> [SlotLoad] {
            zip(slots, bytes).filter { $0.1 > 0 }.map { SlotLoad(slot: $0.0, bytes: $0.1, operationsPer1000Seconds: 0) }
        }
        let even = GroupHalves(slots, bytes: load(Array(repeating: 1_000_000, count: 10)))
        #expect(even.moving == Array(slots[5...]) && even.bytes == 5_000_000 && even.bytesOfAll == 10_000_000)
        #expect(GroupHalves(slots, bytes: []).moving == Array(slots[5...]))
        // One that has nearly all goes, or stays, alone with what is on its side.
        let last = GroupHalves(slots, bytes: load(Array(repeating: 1_000, count: 9) + [9_000_000]))
        #expect(last.moving == [slots[9]] && last.bytes == 9_000_000)
        let first = GroupHalves(slots, bytes: load([9_000_000] + Array(repeating: 1_000, count: 9)))
        #expect(first.moving == Array(slots[1...]))
        let two = GroupHalves(Array(slots[..<2]), bytes: [])
        #expect(two.moving == [slots[1]])
        #expect(GroupHalves([slots[0]], bytes: []).moving.isEmpty)
        // What no slot can have.
        let wild = GroupHalves(slots, bytes: load(Array(repeating: .max, count: 10)))
        #expect(wild.moving == Array(slots[5...]) && wild.bytes == 5 * RebalanceInput.loadMax)
        let all = (0..<Slot.count).map { Slot(UInt16($0)) }
        let most = GroupHalves(
            all, bytes: all.map { SlotLoad(slot: $0, bytes: .max, operationsPer1000Seconds: 0) })
        #expect(most.bytesOfAll * UInt64(ClusterMap.replicasPerGroupMax) < 1 << 62)
    }

    @Test func bytesAreReadAsPeopleWriteThem() throws {
        for (text, bytes) in [("0", 0), ("512", 512), ("1KiB", 1_024), ("20MiB", 20 << 20), ("2GB", 2_000_000_000)] {
            #expect(try ByteCount(parsing: text).bytes == UInt64(bytes))
        }
        for text in ["", "MiB", "-1", "1.5MiB", "fast", "99999999999GiB"] {
            #expect(throws: (any Error).self) { try ByteCount(parsing: text) }
        }
        #expect(try PauseLimit(parsing: "0").milliseconds == 0 && PauseLimit(parsing: "50ms").milliseconds == 50)
        #expect(try PauseLimit(parsing: "0ms").milliseconds == 0 && PauseLimit(parsing: "1.5s").milliseconds == 1_500)
        for text in ["-1s", "-1ms", "-0ms", "ms", "fast", "25h", ""] {
            let error = #expect(throws: (any Error).self) { try PauseLimit(parsing: text) }
            #expect("\(error!)".contains("as in 50ms or 2s") && "\(error!)".contains("found '\(text)'"), "\(text)")
        }
    }
}
