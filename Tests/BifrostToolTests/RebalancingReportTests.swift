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

    @Test func whatIsCopiedCountsAndTheRestHasATime() {
        let migration = MigrationReport(
            id: MigrationID(11), source: GroupID(1), phase: .importing, rounds: 1, bytes: 100_000,
            lastRoundBytes: 5_000, bytesPerSecond: 50_000, wait: .pace)
        let wait = RebalanceWait.copy(MigrationID(11), .copying)
        var report = RebalancingReport(
            standing([.done, .underway, .waiting], [nil, wait, nil]), migrations: [migration]
        ) { _ in 3 }
        // A third of a megabyte is written three times.
        #expect(report.steps[1].progress > 0.299 && report.steps[1].progress < 0.301)
        #expect(report.bytesDone == 1_300_000 && report.bytes == 3_000_000)
        #expect(report.progress > 0.43 && report.progress < 0.44)
        #expect(report.steps[1].waitsFor?.contains("the limit of bytes per second") == true)
        report.measure(since: (report.progress - 0.1, 1_000_000), seconds: 10)
        #expect(report.bytesPerSecond == 30_000 && report.secondsLeft == 57)
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
    @Test func bytesWithoutEndAreShown() {
        for bytes in [1 << 62 - 1, .max] as [UInt64] {
            var standing = standing(
                [.done, .done, .done, .done, .underway, .waiting], [nil, nil, nil, nil, nil, nil])
            for place in standing.rebalancing.steps.indices { standing.rebalancing.steps[place].bytes = bytes }
            let migration = MigrationReport(
                id: MigrationID(14), source: GroupID(1), phase: .importing, rounds: .max, bytes: .max,
                lastRoundBytes: .max, bytesPerSecond: .max, wait: .pace)
            var report = RebalancingReport(standing, migrations: [migration]) { _ in 3 }
            #expect(report.bytes == .max && report.bytesDone >= 1 << 63)
            report.measure(since: (0, 0), seconds: 1)
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
