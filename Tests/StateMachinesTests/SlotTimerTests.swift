// Commands that come later, times to live and sweeps, where their slots move meanwhile.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct SlotTimerTests {
    private let moving = [slot(of: "{a}")]
    private let key: Bytes = "{a}bell"
    private let id = MigrationID(3)
    /// All that moves comes so much later.
    private let slack = MigrationClock.slackMillis

    private func count(_ group: MovingGroup, _ chime: UInt64) throws -> UInt64 {
        try group.record(Chimes.record(key, chime), of: Chimes.number).map { try Count(decoding: $0.value).value } ?? 0
    }

    private func stop(_ group: inout MovingGroup, _ handle: ScheduledCommand) throws -> UInt64 {
        try group.send(Chimes.Stop(key, handle)).value
    }

    @Test func itComesOnceWhereItsSlotIsAndNeverEarly() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2, logTime: 1_000))
        try source.send(Chimes.Wind(key, 1, after: 10_000))
        // Over already when it moves.
        try source.send(Chimes.Wind(key, 2, after: 100))
        source.logTime += 4_000
        target.logTime += 500
        try target.take(3, moving, from: &source)
        #expect(source.deadlines.isEmpty)
        let times = target.deadlines.map(\.key.time.rawValue)
        #expect(times.count == 2 && times[1] == 1_500 + slack + 6_000 && times[0] <= 1_500)
        target.pass()
        #expect(try count(target, 2) == 1 && count(target, 1) == 0)
        let left = try #require(target.deadlines.first)
        #expect(left.key.origin == source.id && left.originTime == LogTime(510_000))
        // Whatever is asked for, by whoever.
        target.logTime = 7_499 + slack
        for origin in [source.id, .meta, GroupID(9)] {
            var key = left.key
            key.origin = origin
            target.apply(DeadlineCommand.fire(key).payload())
            #expect(try count(target, 1) == 0)
        }
        target.logTime = 7_500 + slack
        let fire = DeadlineCommand.fire(left.key).payload()
        for _ in 0..<3 {
            target.apply(fire)
            #expect(try count(target, 1) == 1 && target.deadlines.isEmpty)
        }
        source.logTime += 100_000
        source.apply(DeadlineCommand.fire(DeadlineKey(time: LogTime(510_000), index: LogIndex(1), number: 0)).payload())
        #expect(try count(source, 1) == 0)
        // Nothing is remembered of it.
        #expect(target.slotRecords.filter { $0.key.array.first == 3 && $0.value != nil }.isEmpty)
    }

    @Test func itIsCalledOffByTheNumberThatItHadFirst() throws {
        for stopsAt in 0..<4 {
            for isRestarted in [false, true] {
                // 1 → 2 → 3 → 1.
                var groups = [
                    try MovingGroup(1, logTime: 500_000), try MovingGroup(2, logTime: 1_000),
                    try MovingGroup(3, logTime: 90_000),
                ]
                let handle = try groups[0].send(Chimes.Wind(key, 1, after: 60_000))
                let second = try groups[0].send(Chimes.Wind(key, 2, after: 60_000))
                var millis: UInt64 = 0
                for move in 0...3 {
                    let place = move % 3
                    if isRestarted { try groups[place].restart() }
                    #expect(groups[place].deadlines.count == (move > stopsAt ? 1 : 2))
                    if move == stopsAt {
                        // Another slot's command finds nothing.
                        #expect(try groups[place].send(Chimes.Stop("{b}", handle)).value == 0)
                        #expect(try stop(&groups[place], handle) == 1)
                        #expect(groups[place].deadlines.count == 1)
                    }
                    if move >= stopsAt { #expect(try stop(&groups[place], handle) == 0) }
                    guard move < 3 else { break }
                    for place in groups.indices { groups[place].logTime += 5_000 }
                    millis += 5_000
                    var (source, target) = (groups[place], groups[(place + 1) % 3])
                    try target.take(UInt64(10 + move), moving, from: &source)
                    (groups[place], groups[(place + 1) % 3]) = (source, target)
                }
                // The other one comes where it is, once.
                groups[0].pass(60_000 + 3 * slack - millis - 1)
                #expect(try count(groups[0], 2) == 0)
                groups[0].pass(1)
                #expect(try count(groups[0], 2) == 1 && count(groups[0], 1) == 0)
                #expect(try stop(&groups[0], second) == 0)
                for group in groups { #expect(group.deadlines.isEmpty && group.areReplicasEqual) }
            }
        }
    }

    @Test func itComesInAnyOfThreeGroups() throws {
        for firesAt in 0..<4 {
            var groups = [
                try MovingGroup(1, logTime: 500_000), try MovingGroup(2, logTime: 1_000),
                try MovingGroup(3, logTime: 90_000),
            ]
            let handle = try groups[0].send(Chimes.Wind(key, 1, after: 60_000))
            for move in 0..<firesAt {
                var (source, target) = (groups[move % 3], groups[(move + 1) % 3])
                source.logTime += 3_000
                target.logTime += 3_000
                try target.take(UInt64(10 + move), moving, from: &source)
                (groups[move % 3], groups[(move + 1) % 3]) = (source, target)
                try groups[move % 3].restart()
            }
            let place = firesAt % 3
            groups[place].pass(60_000 + UInt64(firesAt) * slack - UInt64(firesAt) * 3_000 - 1)
            #expect(try count(groups[place], 1) == 0)
            groups[place].pass(1)
            #expect(try count(groups[place], 1) == 1)
            #expect(try stop(&groups[place], handle) == 0)
            groups[place].pass(90_000)
            #expect(try count(groups[place], 1) == 1)
        }
    }

    @Test func laterRoundsBringWhatBecameOfTimers() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        let cancelled = try source.send(Chimes.Wind(key, 1, after: 10_000))
        try source.send(Chimes.Wind(key, 2, after: 1_000))
        try source.send(Chimes.Wind(key, 3, after: 20_000))
        try target.begin(id, moving, from: &source)
        #expect(target.deadlines.count == 3)
        // What is due there stays as it is.
        target.pass(90_000)
        #expect(target.deadlines.count == 3 && target.records(of: .slotOwnership).count == 5)
        #expect(try stop(&source, cancelled) == 1)
        source.pass(1_000)
        #expect(try count(source, 2) == 1)
        try source.send(Chimes.Wind(key, 4, after: 10_000))
        // A timer that is gone may be on disk: it is waited for.
        let records = target.records(of: .slotOwnership).keys.filter { $0.key.array.first == 3 }.map {
            RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key)
        }
        target.store.elsewhere = Set(records)
        let page = try #require(target.nextPage(of: id, from: source, countMax: 100))
        let digest = target.machine.digest
        guard case .unready(let places) = target.apply(.page(id, page)) else { throw Refusal.noQuorum }
        #expect(places.count == 2 && Set(places).isSubset(of: records))
        #expect(target.machine.digest == digest && target.ownership.task(id)?.progress.page == page.number - 1)
        target.store.elsewhere = Set(
            target.deadlines.map { RecordPosition(slot: .group, machine: .deadlines, key: $0.key.key) })
        guard case .unready = target.apply(.page(id, page)) else { throw Refusal.noQuorum }
        target.store.elsewhere = []
        try target.takeRound(of: id, from: source)
        #expect(target.deadlines.count == 2 && target.records(of: .slotOwnership).count == 4)
        source.pass(50_000)
        try source.send(Chimes.Wind(key, 5, after: 1_000))
        source.apply(.freeze(id))
        // It comes at the target.
        source.pass(10_000)
        #expect(try count(source, 5) == 0 && source.deadlines.count == 1)
        try target.takeRound(of: id, from: source)
        let frozen = try #require(source.ownership.task(id))
        target.seal(id, frozen)
        target.pass(50_000)
        #expect(try count(target, 5) == 0 && target.deadlines.count == 1)
        try target.releaseAndActivate(id, from: &source, Epoch(4))
        #expect(target.machine.earliestDeadline == .zero, "what was put off is looked for again")
        target.pass()
        for chime in [2, 3, 4, 5] as [UInt64] { #expect(try count(target, chime) == 1, "\(chime)") }
        #expect(try count(target, 1) == 0)
    }

    /// Two migrations between the same groups: what the first one's source deletes is not gone at the target.
    @Test func timersOfAnotherMigrationStay() throws {
        let others = [slot(of: "{b}")]
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        let handle = try source.send(Chimes.Wind(key, 1, after: 10_000))
        try source.send(Chimes.Wind(key, 2, after: 10_000))
        try source.send(Chimes.Wind("{b}", 3, after: 10_000))
        try target.begin(id, moving, from: &source)
        try target.begin(MigrationID(4), others, from: &source)
        try target.freezeAndSeal(id, from: &source)
        try target.releaseAndActivate(id, from: &source, Epoch(4))
        source.clear(id)
        try target.takeRound(of: MigrationID(4), from: source)
        #expect(target.deadlines.count == 3)
        #expect(try stop(&target, handle) == 1)
        try target.freezeAndSeal(MigrationID(4), from: &source)
        try target.releaseAndActivate(MigrationID(4), from: &source, Epoch(5))
        target.pass(10_000 + slack)
        #expect(try count(target, 2) == 1 && count(target, 1) == 0)
        #expect(target.record(Chimes.record("{b}", 3), of: Chimes.number) != nil)
    }

    /// As one that was always here: a strike in vain, and a call-off, are no changes; others are their machine's.
    @Test func whoCameFromElsewhereCountsAsTheOthers() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        let handle = try source.send(Chimes.Wind(key, 1, after: 90_000))
        try source.send(Chimes.Wind(key, 0, after: 10_000))
        try source.send(Chimes.Wind(key, 2, after: 20_000))
        _ = source.put("{a}k", "v")
        try target.take(3, moving, from: &source)
        let revision = target.machine.revision
        target.pass(10_000 + slack)
        #expect(target.machine.revision == revision && target.deadlines.count == 2)
        #expect(try stop(&target, handle) == 1)
        #expect(target.machine.revision == revision && target.deadlines.count == 1)
        var machine = target.machine
        _ = machine.endInterval(entries: 0)
        var store = target.store
        let last = try #require(target.deadlines.first)
        let fire = DeadlineCommand.fire(last.key).payload()
        _ = machine.apply(.command(machine.applied.rawValue + 1, fire, logTime: target.logTime + 10_000), into: &store)
        #expect(machine.revision == revision.next)
        let machines = machine.endInterval(entries: 1)?.machines ?? []
        #expect(machines.first { $0.machine == Chimes.number }?.changes == 1)
        #expect(machines.first { $0.machine == .slotOwnership }?.changes ?? 0 == 0)
    }

    @Test func timesToLiveEndOnlyWhereTheSlotIsServed() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        _ = source.put("{a}k", "v", timeToLive: 1_000)
        _ = source.put("{a}other", "v", timeToLive: 90_000)
        try target.begin(id, moving, from: &source)
        target.pass(2_000)
        #expect(target.value("{a}k") == "v" && target.deadlines.count == 2)
        source.apply(.freeze(id))
        source.pass(2_000)
        #expect(source.value("{a}k") == "v" && source.deadlines.count == 2)
        // Given back: it ends.
        var aborted = source
        aborted.apply(.forget(id, moving))
        aborted.pass()
        #expect(aborted.value("{a}k") == nil && aborted.deadlines.count == 1)
        try target.takeRound(of: id, from: source)
        let frozen = try #require(source.ownership.task(id))
        target.seal(id, frozen)
        source.apply(.release(id, Epoch(4)))
        // What went is not ended here, and is no longer due.
        let left = source.records(in: moving)
        source.pass()
        #expect(source.records(in: moving) == left && source.deadlines.count == 1)
        target.pass()
        #expect(target.value("{a}k") == "v")
        target.apply(.activate(id, Epoch(2), .zero))
        target.pass()
        #expect(target.value("{a}k") == nil && target.value("{a}other") == "v")
        // Written again, it has another end.
        _ = target.put("{a}other", "again")
        target.pass(200_000)
        #expect(target.value("{a}other") == "again" && target.deadlines.isEmpty)
    }

    @Test func sweepsGoOnAtTheTarget() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        for element in 0..<9 { try source.send(MapPut("{a}map", Bytes("\(element)"), "v", timeToLiveMillis: 90_000)) }
        _ = source.put("{a}k", "v")
        try target.begin(id, moving, from: &source)
        try source.send(MapClear("{a}map"))
        source.logTime += 1
        source.apply(try #require(source.due.first).payload())
        let swept = source.records(in: moving).count
        source.apply(.freeze(id))
        source.pass(5_000)
        #expect(source.records(in: moving).count == swept && swept > 7)
        try target.takeRound(of: id, from: source)
        let frozen = try #require(source.ownership.task(id))
        target.seal(id, frozen)
        target.pass(5_000)
        #expect(target.records(in: moving).count == swept)
        try target.releaseAndActivate(id, from: &source, Epoch(4))
        try target.send(MapPut("{a}map", "new", "v"))
        target.pass(5_000)
        // The key, the map's head and its new entry.
        #expect(target.records(in: moving).count == 3)
        target.pass(200_000)
        #expect(target.records(in: moving).count == 3 && target.deadlines.isEmpty)
        source.clear(id)
        #expect(source.deadlines.isEmpty && source.records(in: moving).isEmpty)
    }

    /// Wherever they were set, and however often they moved since: nothing comes in vain.
    @Test func whatIsSweptTakesItsTimersAlong() throws {
        for clearedAt in 0...3 {
            // 1 → 2 → 3 → 1.
            var groups = [
                try MovingGroup(1, logTime: 500_000), try MovingGroup(2, logTime: 1_000),
                try MovingGroup(3, logTime: 90_000),
            ]
            // Another map's stay.
            try groups[0].send(MapPut("{a}other", "x", "v", timeToLiveMillis: 90_000))
            for move in 0...3 {
                let place = move % 3
                for element in 0..<3 {
                    try groups[place].send(MapPut("{a}map", Bytes("\(move) \(element)"), "v", timeToLiveMillis: 90_000))
                }
                #expect(groups[place].deadlines.count == 1 + 3 * (move + 1))
                if move == clearedAt {
                    try groups[place].send(MapClear("{a}map"))
                    groups[place].store.elsewhere = Set(
                        groups[place].slotRecords.map {
                            RecordPosition(slot: .group, machine: .slotOwnership, key: $0.key)
                        })
                    let step = try #require(groups[place].due.first).payload()
                    if case .unready(let missing) = groups[place].apply(step) {
                        #expect(move > 0 && missing.allSatisfy { groups[place].store.elsewhere.contains($0) })
                    } else {
                        #expect(move == 0)
                    }
                    groups[place].store.elsewhere = []
                    groups[place].pass()
                    #expect(groups[place].deadlines.count == 1, "\(groups[place].deadlines) at \(move)")
                    let aliases = groups[place].slotRecords.filter { $0.key.array.first == 3 && $0.value != nil }
                    #expect(aliases.count == (move == 0 ? 0 : 1))
                    let revision = groups[place].machine.revision
                    groups[place].pass(90_000)
                    #expect(groups[place].machine.revision == revision.next, "the other map's entry alone")
                    #expect(groups[place].deadlines.isEmpty && groups[place].areReplicasEqual)
                    break
                }
                for place in groups.indices { groups[place].logTime += 1_000 }
                var (source, target) = (groups[place], groups[(place + 1) % 3])
                try target.take(UInt64(10 + move), moving, from: &source)
                (groups[place], groups[(place + 1) % 3]) = (source, target)
            }
        }
    }

    /// Another object of the target has a deadline with the same numbers as one that comes.
    @Test func numbersOfTwoGroupsAreNotMistaken() throws {
        var (source, target) = (try MovingGroup(1, logTime: 5_000), try MovingGroup(2, logTime: 5_000))
        let theirs = try source.send(Chimes.Wind(key, 1, after: 10_000))
        let own = try target.send(Chimes.Wind("{b}", 2, after: 10_000 + slack))
        try target.take(3, moving, from: &source)
        #expect(target.deadlines.count == 2 && Set(target.deadlines.map(\.key.time)).count == 1)
        // Each in its own slot alone.
        #expect(try stop(&target, own) == 0)
        #expect(try target.send(Chimes.Stop("{b}", theirs)).value == 0)
        var stopped = target
        #expect(try stop(&stopped, theirs) == 1)
        stopped.pass(10_000 + slack)
        #expect(try count(stopped, 1) == 0)
        #expect(stopped.record(Chimes.record("{b}", 2), of: Chimes.number) != nil)
        #expect(try target.send(Chimes.Stop("{b}", own)).value == 1)
        target.pass(10_000 + slack)
        #expect(try count(target, 1) == 1)
        #expect(target.record(Chimes.record("{b}", 2), of: Chimes.number) == nil)
    }

    // MARK: Time that stands still

    /// What is put into a source behind the beginning; what ends or comes does so in three seconds.
    private enum Put: CaseIterable { case timeToLive, command, deletedTimeToLive, nothingThatEnds }

    /// Real time goes on, and both logs' with it, but for what a source loses while nobody leads it.
    private func pass(
        _ millis: UInt64, losing lost: UInt64 = 0, _ source: inout MovingGroup, _ target: inout MovingGroup
    ) {
        source.logTime += millis - lost
        target.logTime += millis
    }

    /// What was put when the source's time had stood still ends early by the target's clock: it is called off, or was little
    /// enough. What was put before, and is gone, counts as well: nobody looks whether it is.
    @Test func nothingEndsEarlyWhereASourceStoodStill() throws {
        for put in Put.allCases {
            for lost in [0, 500, slack, slack + 1, 5_000] {
                for isRestarted in [false, true] {
                    var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2, logTime: 70))
                    _ = source.put("{a}stays", "v")
                    try target.begin(id, moving, from: &source)
                    pass(6_000, losing: lost, &source, &target)
                    // In real time.
                    let end = target.logTime + 3_000
                    switch put {
                    case .timeToLive: _ = source.put("{a}k", "v", timeToLive: 3_000)
                    case .command: try source.send(Chimes.Wind(key, 1, after: 3_000))
                    case .deletedTimeToLive:
                        _ = source.put("{a}k", "v", timeToLive: 3_000)
                        try target.takeRound(of: id, from: source)
                        source.apply(KeyValueCommand.delete(key: "{a}k").payload())
                    case .nothingThatEnds: _ = source.put("{a}k", "v")
                    }
                    source.apply(.freeze(id))
                    try target.takeRound(of: id, from: source)
                    if isRestarted { try target.restart() }
                    let frozen = try #require(source.ownership.task(id))
                    let task = try #require(target.ownership.task(id))
                    let seen = target.seen(of: source)
                    let isKept = put == .nothingThatEnds || lost <= slack
                    #expect(task.hasEnds == (put != .nothingThatEnds), "\(put)")
                    #expect(task.keepsEnds(seen) == isKept, "\(put), \(lost) ms")
                    #expect(task.clock.lostMillis(seen) == (lost > slack ? lost : 0))
                    let seal = SlotCommand.seal(id, frozen: frozen.frozenIndex, frozen.revision, seen: seen)
                    for _ in 0..<2 { target.apply(seal) }
                    guard isKept else {
                        // Whatever it is told later, and whoever tells it; it is called off then.
                        #expect(target.ownership.task(id) == task, "\(put), \(lost) ms")
                        target.apply(.forget(id, moving))
                        target.clear(id)
                        source.apply(.forget(id, moving))
                        #expect(target.records(in: moving).isEmpty && target.deadlines.isEmpty)
                        try target.take(9, moving, from: &source)
                        #expect(target.value("{a}stays") == "v")
                        continue
                    }
                    try #require(target.ownership.task(id)?.phase == .sealed, "\(put), \(lost) ms")
                    try target.releaseAndActivate(id, from: &source, Epoch(4))
                    target.pass(end - target.logTime - 1)
                    switch put {
                    case .timeToLive:
                        #expect(target.value("{a}k") == "v", "\(lost) ms")
                        target.pass(1 + slack)
                        #expect(target.value("{a}k") == nil)
                    case .command:
                        #expect(try count(target, 1) == 0, "\(lost) ms")
                        target.pass(1 + slack)
                        #expect(try count(target, 1) == 1)
                    case .deletedTimeToLive: #expect(target.value("{a}k") == nil)
                    case .nothingThatEnds: #expect(target.value("{a}k") == "v")
                    }
                    #expect(target.areReplicasEqual)
                }
            }
        }
    }

    /// The times of a later moment say no less than those of the freeze: as long as both go on; and a target that stood still
    /// makes good for a source that did.
    @Test func timesOfAnyMomentBehindTheFreezeCount() throws {
        var (source, target) = (try MovingGroup(1, logTime: 500_000), try MovingGroup(2))
        _ = source.put("{a}k", "v", timeToLive: 60_000)
        try target.begin(id, moving, from: &source)
        source.apply(.freeze(id))
        try target.takeRound(of: id, from: source)
        let task = try #require(target.ownership.task(id))
        #expect(task.keepsEnds(target.seen(of: source)))
        pass(90_000, &source, &target)
        #expect(task.keepsEnds(target.seen(of: source)))
        pass(2_000, losing: 2_000, &source, &target)
        #expect(!task.keepsEnds(target.seen(of: source)))
        source.logTime += 2_000
        #expect(task.keepsEnds(target.seen(of: source)))
        // Numbers that no log has.
        for time in [0, 1, UInt64.max] {
            for own in [0, 1, UInt64.max] {
                let seen = MigrationClock(sourceTime: LogTime(time), ownTime: LogTime(own))
                _ = (
                    task.keepsEnds(seen), task.clock.lostMillis(seen), seen.isEarly(task.clock),
                    seen.time(LogTime(.max))
                )
            }
        }
    }
}
