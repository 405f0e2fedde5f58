import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// A plan that is carried out, through the meta group's log: by leaders that come and go between every two entries, and say
/// what was said before.
@Suite struct RebalancingMachineTests {
    /// The meta group, and what the other groups' leaders do with its map.
    private struct Meta {
        var machine: MasterStateMachine
        var store = ModelStore()

        init(groups: Int = 4, hosts: Int = 4, featureLevel: UInt32 = FeatureLevel.migrations) throws {
            let hosts = (1...hosts).map {
                HostRecord(
                    id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                    incarnation: Incarnation(UInt64($0) + 100), featureLevel: FeatureLevel.migrations)
            }
            let map = try Planner.firstMap(
                cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3,
                featureLevel: featureLevel)
            machine = try MasterStateMachine(group: .meta)
            _ = machine.apply(.command(1, MetaCommand.initialise(map).payload()), into: &store)
        }

        var map: ClusterMap { machine.meta.map! }
        var record: Rebalancing? { machine.meta.rebalancing }
        var auto: AutoRebalancing? { machine.meta.auto }

        /// nil: it was carried out; else why not. What stands in the records afterwards is what the machine has.
        mutating func apply(_ command: MetaCommand) throws -> String? {
            #expect(try MetaCommand(payload: command.payload()) == command)
            let before = (map, record, auto)
            let applied = machine.apply(.command(machine.applied.rawValue + 1, command.payload()), into: &store)
            #expect(map.problem() == nil && (record == nil || record?.problem == nil))
            let restored = try MetaMachine(restoring: store.metaRecords.reversed())
            #expect(restored.map == map && restored.rebalancing == record && restored.auto == auto)
            if case .refused(.invalid(let text)) = applied {
                #expect(before.0 == map && before.1 == record && before.2 == auto)
                return text
            }
            if case .unsupported(let what) = applied { Issue.record("unsupported: \(what)") }
            return nil
        }

        /// What it is answered; nil: it is refused.
        mutating func answer(_ command: MetaCommand) -> Bytes? {
            let entry = LogEntry.command(machine.applied.rawValue + 1, command.payload())
            guard case .done(_, let body) = machine.apply(entry, into: &store) else { return nil }
            return body
        }

        /// A process that begins anew with what is in the records.
        mutating func restart() throws {
            machine = try MasterStateMachine(
                group: .meta, applied: machine.applied, revision: machine.revision, metaRecords: store.metaRecords)
        }

        func slots(of group: UInt32, _ range: Range<Int>) -> [Slot] { Array(map.ring.slots(of: GroupID(group))[range]) }

        /// What the leader of the meta group would do next; nil: nothing.
        func next() -> MetaCommand? {
            guard let record, let act = record.acts(map).first else { return nil }
            switch act {
            case .report(let place, let report): return .reportStep(record.id, UInt32(place), report)
            case .abort(let id): return .change(.abortMigration(id))
            case .takeBack(let group, let replica): return .change(.setRole(group, replica, .leaving))
            case .limit(let id): return .change(.limitMigration(id, record.limits.ofMigration))
            }
        }

        /// What groups report next, and the planner of moves begins; nil: nothing.
        func groupsNext() -> MapChange? {
            for migration in map.migrations {
                switch migration.state {
                case .copying: return .commitMigration(migration.id, frozen: LogIndex(7), digest: 1)
                case .committed: return .migrationReleased(migration.id, LogIndex(8), Revision(9))
                case .released: return .migrationActivated(migration.id)
                case .activated: return .migrationDone(migration.id, .source)
                case .aborting, .settling:
                    return .migrationDone(migration.id, migration.isSourceDone ? .target : .source)
                }
            }
            if let step = Planner.moves(map, movesMax: 8).steps.first { return MapChange(step) }
            for group in map.groups where !group.isSettled {
                // A learner first, then a voter; who is to leave goes.
                let voters = group.replicas.filter {
                    $0.membership == .voter && $0.isWanted || $0.role == .voter && $0.membership == .learner
                }.map(\.id)
                let learners = group.replicas.filter { $0.isWanted && !voters.contains($0.id) }.map(\.id)
                return .settled(
                    group.id, index: group.configurationIndex.next, voters: voters, learners: learners)
            }
            return nil
        }
    }

    /// Slots to another group, a replica to the spare host, a lead.
    private func plan(_ meta: Meta, token: UInt64 = 1, concurrent: UInt32 = 4) throws -> RebalancingPlan {
        let map = meta.map
        let moved = try #require(map.group(GroupID(3)))
        let spare = try #require(map.hosts.first { moved.replica(on: $0.id) == nil })
        let led = try #require(map.group(GroupID(4)))
        let heir = try #require(led.replicas.first { $0.id != led.preferredLeader })
        return RebalancingPlan(
            token: token,
            steps: [
                Rebalancing.Step(
                    .slots(meta.slots(of: 1, 0..<5), from: GroupID(1), to: GroupID(2)), .groupIsUneven, bytes: 500),
                Rebalancing.Step(
                    .slots(meta.slots(of: 1, 5..<9), from: GroupID(1), to: GroupID(3)), .groupIsUneven, bytes: 400),
                Rebalancing.Step(
                    .replica(moved.id, moved.replicas[0].id, from: moved.replicas[0].host, to: spare.id), .hostIsEmpty,
                    bytes: 9_000),
                Rebalancing.Step(
                    .leader(led.id, from: try #require(led.host(of: led.preferredLeader)), to: heir.host), .leads,
                    bytes: 0),
            ], for: map, limits: Rebalancing.Limits(concurrentMax: concurrent, pauseMillisMax: 50))
    }

    private func begun(_ meta: inout Meta, concurrent: UInt32 = 4) throws {
        #expect(try meta.apply(.beginRebalancing(plan(meta, concurrent: concurrent))) == nil)
    }

    // MARK: - Beginning

    @Test func onePlanIsBegunAtATimeAndTwiceIsOnce() throws {
        var meta = try Meta()
        let first = try plan(meta)
        #expect(try meta.apply(.beginRebalancing(first)) == nil)
        let record = try #require(meta.record)
        #expect(record.id == RebalancingID(meta.map.version) && record.steps.allSatisfy { $0.state == .waiting })
        #expect(try meta.apply(.beginRebalancing(first)) == nil)
        #expect(meta.record == record)
        let other = try meta.apply(.beginRebalancing(plan(meta, token: 2)))
        #expect(other?.contains("is under way") == true)
        // Over, it makes room, and the next one has a higher number though the map is the same.
        #expect(try meta.apply(.setRebalancing(record.id, .cancel)) == nil)
        #expect(meta.record?.isOver == true)
        let less = RebalancingPlan(
            token: 3, steps: [first.steps[3]], for: meta.map, limits: Rebalancing.Limits())
        #expect(try meta.apply(.beginRebalancing(less)) == nil)
        #expect(meta.record?.id == RebalancingID(record.id.rawValue + 1) && meta.record?.steps.count == 1)
        // Late words about the one before do nothing.
        #expect(try meta.apply(.reportStep(record.id, 0, .begun)) != nil)
        #expect(try meta.apply(.setRebalancing(record.id, .pause)) != nil)
        #expect(meta.map.migrations.isEmpty && meta.record?.isPaused == false)
    }

    @Test func aPlanWhoseGroundChangedIsStaleAndOneWhoseDidNotIsNot() throws {
        var meta = try Meta()
        let planned = try plan(meta)
        // A slot that is in no step may move meanwhile.
        let resting = meta.slots(of: 1, 20..<21)
        #expect(try meta.apply(.change(.migrate(resting, from: GroupID(1), to: GroupID(4)))) == nil)
        var later = meta
        #expect(try later.apply(.beginRebalancing(planned)) == nil)
        let moving = meta.slots(of: 1, 1..<2)
        #expect(try meta.apply(.change(.migrate(moving, from: GroupID(1), to: GroupID(4)))) == nil)
        let refusal = try meta.apply(.beginRebalancing(planned))
        #expect(refusal?.hasPrefix(Rebalancing.staleWord) == true && meta.record == nil)
    }

    @Test func plansNeedTheFeatureLevelAndHaveToBePossible() throws {
        var early = try Meta(featureLevel: FeatureLevel.gatherings)
        let planned = try plan(early)
        #expect(try early.apply(.beginRebalancing(planned))?.contains("feature level") == true)
        #expect(early.machine.meta.check(MetaCommand.beginRebalancing(planned).payload()) != nil)
        #expect(early.machine.meta.check(MetaCommand.setRebalancing(RebalancingID(1), .pause).payload()) != nil)
        var meta = try Meta()
        #expect(meta.machine.meta.check(MetaCommand.beginRebalancing(planned).payload()) == nil)
        // Nobody but the leader says what became of a step.
        #expect(meta.machine.meta.check(MetaCommand.reportStep(RebalancingID(1), 0, .done).payload()) != nil)
        var bad = try plan(meta)
        bad.limits.concurrentMax = 65
        var payload = MetaCommand.beginRebalancing(bad).payload()
        #expect(throws: DecodingFailure.self) { try MetaCommand(payload: payload) }
        bad = try plan(meta)
        bad.steps[0].state = .done
        #expect(try meta.apply(.beginRebalancing(bad)) == nil)
        #expect(meta.record?.steps[0].state == .waiting)
        payload = MetaCommand.beginRebalancing(try plan(meta)).payload()
        for count in 30..<payload.count {
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: payload[0..<count]) }
        }
    }

    /// Asked for before its step has begun, no migration holds the group yet.
    @Test func aGroupThatSlotsAreToComeToOrLeaveIsNotDeleted() throws {
        func refusal(_ meta: Meta, _ group: UInt32) -> String? {
            let payload = MetaCommand.change(.deleteGroup(GroupID(group))).payload()
            guard case .invalid(let text)? = meta.machine.meta.check(payload) else { return nil }
            return text
        }
        var meta = try Meta()
        let hosts = meta.map.hosts.prefix(3).map(\.id)
        for _ in 0..<2 {
            #expect(try meta.apply(.change(.createGroup(weight: 100, hosts: hosts, preferred: 0))) == nil)
        }
        #expect(refusal(meta, 5) == nil)
        let steps = [
            Rebalancing.Step(
                .slots(meta.slots(of: 1, 0..<5), from: GroupID(1), to: GroupID(2)), .groupIsUneven, bytes: 5),
            Rebalancing.Step(.slots(meta.slots(of: 1, 5..<9), from: GroupID(1), to: GroupID(5)), .groupIsNew, bytes: 4),
        ]
        let planned = RebalancingPlan(
            token: 1, steps: steps, for: meta.map, limits: Rebalancing.Limits(concurrentMax: 1))
        #expect(try meta.apply(.beginRebalancing(planned)) == nil)
        let id = try #require(meta.record?.id)
        #expect(meta.map.migrations.isEmpty)
        let text = refusal(meta, 5)
        #expect(text?.contains("group 5 is part of rebalancing \(id), whose step 2") == true, "\(text ?? "")")
        #expect(text?.contains("'bifrost rebalance cancel'") == true && MetaMachine.isRefusalByRebalancing(text ?? ""))
        #expect(refusal(meta, 1)?.contains("whose step 1") == true)
        // In no step.
        #expect(refusal(meta, 6) == nil && refusal(meta, 3) == nil)
        // What is in the log already takes effect as it ever did: replicas of all versions do the same.
        var late = meta
        #expect(try late.apply(.change(.deleteGroup(GroupID(5)))) == nil && late.map.group(GroupID(5)) == nil)
        #expect(try meta.apply(.setRebalancing(id, .cancel)) == nil)
        #expect(meta.record?.isOver == true && refusal(meta, 5) == nil)
        #expect(try meta.apply(.change(.deleteGroup(GroupID(5)))) == nil && meta.map.group(GroupID(5)) == nil)
    }

    // MARK: - Carrying out

    /// Drives and reports until nothing is left to do; each command of the driver comes twice, and between every two entries
    /// the process may begin anew.
    private func carryOut(_ meta: inout Meta, restarts: Bool, _ look: (inout Meta) throws -> Void = { _ in }) throws {
        var steps = 0
        while true {
            try look(&meta)
            if restarts { try meta.restart() }
            let driven = meta.next()
            if let driven {
                #expect(try meta.apply(driven) == nil, "\(driven)")
                if restarts { try meta.restart() }
                // Once more, by whoever led before: it does nothing, or says that it does not.
                let (map, record) = (meta.map, meta.record)
                if case .reportStep = driven {
                    _ = try meta.apply(driven)
                    #expect(meta.map == map && meta.record == record, "\(driven)")
                }
            }
            // What has just begun may be called off before its groups hear of it.
            if driven != nil { try look(&meta) }
            let change = meta.groupsNext()
            if let change { #expect(try meta.apply(.change(change)) == nil, "\(change)") }
            guard driven != nil || change != nil else { return }
            steps += 1
            guard steps < 1_000 else {
                Issue.record("no end")
                return
            }
        }
    }

    @Test(arguments: [1, 2, 4] as [UInt32], [false, true])
    func aPlanIsCarriedOutWhoeverLeads(concurrent: UInt32, restarts: Bool) throws {
        var meta = try Meta()
        let planned = try plan(meta, concurrent: concurrent)
        #expect(try meta.apply(.beginRebalancing(planned)) == nil)
        var most = 0
        try carryOut(&meta, restarts: restarts) { meta in
            most = max(most, meta.record?.count(.underway) ?? 0)
            for migration in meta.map.migrations {
                #expect(migration.limits == MigrationLimits(bytesPerSecondMax: 0, pauseMillisMax: 50))
            }
        }
        #expect(most <= Int(concurrent) && most >= min(Int(concurrent), 2))
        let record = try #require(meta.record)
        #expect(record.isOver && record.steps.allSatisfy { $0.state == .done && $0.attempts == 1 }, "\(record)")
        for step in planned.steps {
            switch step.move {
            case .slots(let slots, _, let to): #expect(slots.allSatisfy { meta.map.owner(of: $0) == to })
            case .replica(let group, let old, _, let to):
                let group = try #require(meta.map.group(group))
                #expect(group.record(of: old) == nil && group.replica(on: to) != nil && group.isSettled)
                #expect(group.replicas.count == 3)
            case .leader(let group, _, let to):
                let group = try #require(meta.map.group(group))
                #expect(group.host(of: group.preferredLeader) == to)
            }
        }
    }

    /// The planner of moves takes what is on a host that drains, too, and to other hosts than the plan's: it may be ahead by
    /// any number of entries, and no step fails for that.
    @Test func aPlanForAHostThatDrainsEndsBesideTheDrainItself() throws {
        for ahead in 0..<60 {
            var meta = try Meta(groups: 6, hosts: 6)
            let drained = HostID(1)
            #expect(try meta.apply(.change(.setHostState(drained, .draining))) == nil)
            var steps: [Rebalancing.Step] = []
            for group in meta.map.groups {
                guard let old = group.replica(on: drained) else { continue }
                let chosen = Planner.moves(meta.map, movesMax: 64).steps.lazy.compactMap { step -> HostID? in
                    if case .add(group.id, let host, _, _) = step { host } else { nil }
                }.first
                let other = try #require(
                    meta.map.hosts.first {
                        $0.id != drained && $0.id != chosen && group.replica(on: $0.id) == nil
                    })
                if group.preferredLeader == old {
                    let heir = try #require(group.replicas.last { $0.id != old })
                    steps.append(
                        Rebalancing.Step(.leader(group.id, from: drained, to: heir.host), .hostDrains, bytes: 0))
                }
                steps.append(
                    Rebalancing.Step(.replica(group.id, old, from: drained, to: other.id), .hostDrains, bytes: 9_000))
                if group.preferredLeader != old {
                    // Who is to lead comes with that.
                    let leads = try #require(group.host(of: group.preferredLeader))
                    steps.append(
                        Rebalancing.Step(.leader(group.id, from: leads, to: other.id), .leads, bytes: 0))
                }
            }
            #expect(steps.count > 2)
            let plan = RebalancingPlan(
                token: 1, steps: steps, for: meta.map, limits: Rebalancing.Limits(concurrentMax: 1))
            #expect(try meta.apply(.beginRebalancing(plan)) == nil)
            for _ in 0..<ahead {
                guard let change = meta.groupsNext() else { break }
                #expect(try meta.apply(.change(change)) == nil, "\(change)")
            }
            try carryOut(&meta, restarts: false)
            let record = try #require(meta.record)
            #expect(record.steps.allSatisfy { $0.state == .done }, "\(ahead): \(record)")
            #expect(meta.map.replicas(on: drained).isEmpty)
            #expect(meta.map.groups.allSatisfy { $0.isSettled && $0.host(of: $0.preferredLeader) != drained })
        }
    }

    @Test func cancelledAtEveryMomentItEndsAndNothingIsHalf() throws {
        // At which entry it is cancelled: all of them, one after the other.
        for moment in 0..<60 {
            var meta = try Meta()
            try begun(&meta, concurrent: 2)
            let owners = meta.map.ring
            let id = try #require(meta.record?.id)
            var looks = 0
            try carryOut(&meta, restarts: true) { meta in
                if looks == moment {
                    let refusal = try meta.apply(.setRebalancing(id, .cancel))
                    #expect(refusal == nil)
                }
                looks += 1
            }
            let record = try #require(meta.record)
            #expect(record.isOver && meta.map.migrations.isEmpty, "\(moment): \(record)")
            #expect(meta.map.groups.allSatisfy { $0.isSettled && $0.replicas.count == 3 })
            for step in record.steps {
                guard case .slots(let slots, let from, let to) = step.move else { continue }
                #expect(step.state == .done || step.state == .cancelled)
                for slot in slots {
                    #expect(meta.map.owner(of: slot) == (step.state == .done ? to : from), "\(moment)")
                    #expect(owners.owner(of: slot) == from)
                }
            }
        }
    }

    @Test func abortedMigrationsAreTriedAgainAndFailAtLast() throws {
        var meta = try Meta()
        try begun(&meta)
        var aborts = 0
        try carryOut(&meta, restarts: false) { meta in
            for migration in meta.map.migrations where migration.target == GroupID(2) && migration.state == .copying {
                let refusal = try meta.apply(.change(.abortMigration(migration.id)))
                #expect(refusal == nil)
                aborts += 1
            }
        }
        let record = try #require(meta.record)
        #expect(
            aborts == 3 && record.steps[0].state == .failed && record.steps[0].word.contains("aborted"),
            "\(aborts): \(record.steps[0])")
        #expect(record.steps[1...].allSatisfy { $0.state == .done }, "\(record)")
    }

    /// It passes: the step says why, and is begun again more often than one that fails would be.
    @Test func aMigrationWhoseSourceStoodStillIsNoAttempt() throws {
        var meta = try Meta()
        try begun(&meta)
        var (aborts, words) = (0, Set<String>())
        try carryOut(&meta, restarts: true) { meta in
            for migration in meta.map.migrations
            where migration.target == GroupID(2) && migration.state == .copying && aborts < 7 {
                let lost = LostTime(millis: 4_000)
                let refusal = try meta.apply(.change(.abortMigration(migration.id, lost)))
                #expect(refusal == nil)
                aborts += 1
                let step = try #require(meta.record?.steps[0])
                #expect(step.state == .underway && step.attempts == 0 && step.word.contains("nobody for 4.0 s"))
                words.insert(step.word)
                // Said again, and when one of the two has forgotten it.
                #expect(try meta.apply(.change(.abortMigration(migration.id, lost))) == nil)
                #expect(try meta.apply(.change(.migrationDone(migration.id, .target))) == nil)
                #expect(meta.record?.steps[0] == step)
            }
        }
        let record = try #require(meta.record)
        #expect(aborts == 7 && words.count == 7 && record.steps[0].attempts == 1, "\(record.steps[0])")
        #expect(record.steps.allSatisfy { $0.state == .done }, "\(record)")
    }

    @Test func aStepThatTheMapRefusesIsNotBegun() throws {
        var meta = try Meta()
        try begun(&meta)
        let id = try #require(meta.record?.id)
        let slots = meta.slots(of: 1, 0..<1)
        #expect(try meta.apply(.change(.migrate(slots, from: GroupID(1), to: GroupID(4)))) == nil)
        let version = meta.map.version
        #expect(try meta.apply(.reportStep(id, 0, .begun)) != nil)
        #expect(try meta.apply(.reportStep(id, 9, .begun)) != nil)
        #expect(meta.record?.steps[0].state == .waiting && meta.map.version == version)
        #expect(meta.record?.waits(meta.map)[0] == .migration(MigrationID(version)))
    }

    @Test func aRecoveryEndsIt() throws {
        var meta = try Meta()
        try begun(&meta)
        var recovered = meta.map
        recovered.version += 10
        #expect(try meta.apply(.recover(recovered)) == nil)
        #expect(meta.record == nil && meta.map == recovered)
    }

    // MARK: - Limits

    @Test func migrationsGetOtherLimitsUntilTheyAreDecided() throws {
        var meta = try Meta()
        let slots = meta.slots(of: 1, 0..<3)
        let limits = MigrationLimits(bytesPerSecondMax: 1 << 20, pauseMillisMax: 20)
        #expect(try meta.apply(.change(.migrate(slots, from: GroupID(1), to: GroupID(2), limits: limits))) == nil)
        let id = MigrationID(meta.map.version)
        #expect(meta.map.migration(id)?.limits == limits)
        let version = meta.map.version
        #expect(try meta.apply(.change(.limitMigration(id, limits))) == nil)
        #expect(meta.map.version == version)
        #expect(try meta.apply(.change(.limitMigration(id, MigrationLimits()))) == nil)
        #expect(meta.map.migration(id)?.limits == MigrationLimits() && meta.map.version == version + 1)
        #expect(try meta.apply(.change(.limitMigration(id, MigrationLimits(bytesPerSecondMax: 1 << 62)))) != nil)
        #expect(try meta.apply(.change(.commitMigration(id, frozen: LogIndex(7), digest: 1))) == nil)
        #expect(try meta.apply(.change(.limitMigration(id, limits))) != nil)
        #expect(try meta.apply(.change(.limitMigration(MigrationID(99), limits))) != nil)
    }

    // MARK: - By itself

    @Test func theBalanceIsKeptByItselfUntilSomebodyEndsThat() throws {
        var meta = try Meta()
        let auto = AutoRebalancing(limits: Rebalancing.Limits(concurrentMax: 2, bytesPerSecondMax: 1_000))
        #expect(meta.auto == nil)
        #expect(try meta.apply(.setAuto(auto)) == nil)
        #expect(meta.auto == auto)
        try meta.restart()
        #expect(meta.auto == auto)
        let other = AutoRebalancing()
        #expect(try meta.apply(.setAuto(other)) == nil && meta.auto == other)
        // It can't be read where it comes.
        #expect(throws: DecodingFailure.self) {
            try meta.apply(.setAuto(AutoRebalancing(limits: Rebalancing.Limits(concurrentMax: 0))))
        }
        #expect(meta.auto == other)
        // Off, what is under way goes on.
        try begun(&meta)
        #expect(try meta.apply(.setAuto(nil)) == nil)
        #expect(meta.auto == nil && meta.record?.isCancelled == false && meta.record?.isOver == false)
        try meta.restart()
        #expect(meta.auto == nil)
    }

    @Test func toCallOneOffEndsItToo() throws {
        var meta = try Meta()
        #expect(try meta.apply(.setAuto(AutoRebalancing())) == nil)
        try begun(&meta)
        let id = try #require(meta.record?.id)
        #expect(try meta.apply(.setRebalancing(id, .pause)) == nil && meta.auto != nil)
        #expect(try meta.apply(.setRebalancing(RebalancingID(id.rawValue + 1), .cancel)) != nil && meta.auto != nil)
        #expect(try meta.apply(.setRebalancing(id, .cancel)) == nil)
        #expect(meta.auto == nil && meta.record?.isCancelled == true)
        // It is over by now, and may have been told again since.
        #expect(meta.record?.isOver == true)
        #expect(try meta.apply(.setAuto(AutoRebalancing())) == nil && meta.auto != nil)
        #expect(try meta.apply(.setRebalancing(id, .cancel)) == nil && meta.auto == nil)
    }

    @Test func noneBeginsByItselfWhereThatIsOffOrAnotherIsUnderWay() throws {
        var meta = try Meta()
        var own = try plan(meta, token: 8)
        own.isAutomatic = true
        // A late entry of a leader that had not seen that it was turned off.
        #expect(try meta.apply(.beginRebalancing(own)) != nil && meta.record == nil)
        #expect(try meta.apply(.setAuto(AutoRebalancing())) == nil)
        try begun(&meta)
        #expect(meta.record?.isAutomatic == false)
        #expect(try meta.apply(.beginRebalancing(own))?.contains("is under way") == true)
        #expect(try meta.apply(.setRebalancing(try #require(meta.record?.id), .cancel)) == nil)
        #expect(try meta.apply(.setAuto(AutoRebalancing())) == nil)
        #expect(try meta.apply(.beginRebalancing(own)) == nil)
        #expect(meta.record?.isAutomatic == true && meta.record?.isOver == false)
        // Nobody else may say so.
        #expect(meta.machine.meta.check(MetaCommand.beginRebalancing(own).payload()) != nil)
        #expect(meta.machine.meta.check(MetaCommand.beginRebalancing(try plan(meta)).payload()) == nil)
        #expect(meta.machine.meta.check(MetaCommand.setAuto(nil).payload()) == nil)
    }

    @Test func aRecoveryEndsItAndALowerLevelKnowsNothingOfIt() throws {
        var meta = try Meta()
        #expect(try meta.apply(.setAuto(AutoRebalancing())) == nil)
        var recovered = meta.map
        recovered.version += 10
        #expect(try meta.apply(.recover(recovered)) == nil)
        #expect(meta.auto == nil)
        var older = try Meta(featureLevel: FeatureLevel.migrations - 1)
        #expect(try older.apply(.setAuto(AutoRebalancing()))?.contains("feature level") == true)
        #expect(older.machine.meta.check(MetaCommand.setAuto(AutoRebalancing()).payload()) != nil)
    }

    @Test func loadsAreOfAllSlotsOfTheGroup() throws {
        let meta = try Meta()
        let own = meta.map.ring.slots(of: GroupID(2))
        let load = GroupLoad(
            stateBytes: 10, memtableBytes: 0, otherBytes: 0, seconds: 10,
            slots: [
                SlotLoad(slot: own[1], bytes: 7, operationsPer1000Seconds: 9),
                SlotLoad(slot: own[own.count - 1], bytes: 8, operationsPer1000Seconds: 0),
            ])
        let loads = load.slotLoads(of: GroupID(2), in: meta.map)
        #expect(loads.map(\.slot) == own)
        #expect(loads[0].bytes == 0 && loads[1].bytes == 7 && loads[1].operations == 9)
        #expect(loads[own.count - 1].bytes == 8)
        // One that owns other slots by now has nothing of these.
        #expect(load.slotLoads(of: GroupID(3), in: meta.map).allSatisfy { $0.bytes == 0 })
    }

    // MARK: - Bytes

    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func join(_ parts: String...) -> String { parts.joined() }

    /// In little-endian, as all integers.
    private func long(_ byte: String) -> String { byte + "00000000000000" }

    private func fixedPlan(_ meta: Meta) -> RebalancingPlan {
        RebalancingPlan(
            token: 77,
            steps: [
                Rebalancing.Step(
                    .slots([Slot(1), Slot(2), Slot(5)], from: GroupID(1), to: GroupID(2)), .groupIsUneven, bytes: 6),
                Rebalancing.Step(
                    .replica(GroupID(3), ReplicaID(4), from: HostID(5), to: HostID(6)), .hostIsEmpty, bytes: 7),
                Rebalancing.Step(.leader(GroupID(3), from: HostID(5), to: HostID(6)), .leads, bytes: 0),
            ], for: meta.map, limits: Rebalancing.Limits(concurrentMax: 3, bytesPerSecondMax: 5, pauseMillisMax: 50))
    }

    private var limitsBytes: String { join("03000000", long("05"), "32000000") }

    private var stepBytes: [String] {
        let start = join(long("00"), "00000000")
        return [
            join(
                "01", "03", "00", long("06"), start, "01", "01000000", "02000000", "02000000", "01000200", "05000100"),
            join("01", "08", "00", long("07"), start, "02", "03000000", long("04"), long("05"), long("06")),
            join("01", "09", "00", long("00"), start, "03", "03000000", long("05"), long("06")),
        ]
    }

    /// As they stand in the meta group's log: they never change.
    @Test func bytesOfCommandsAreFrozen() throws {
        var plan = fixedPlan(try Meta())
        (plan.mapVersion, plan.ground) = (8, 0x0102_0304_0506_0708)
        let start = join(long("4d"), long("08"), "0807060504030201", limitsBytes)
        var automatic = plan
        automatic.isAutomatic = true
        automatic.steps.removeLast(2)
        let id = RebalancingID(9)
        let samples: [(command: MetaCommand, bytes: String)] = [
            (.beginRebalancing(plan), join("17", "01", start, "00", "03000000", stepBytes.joined())),
            (.beginRebalancing(automatic), join("17", "01", start, "01", "01000000", stepBytes[0])),
            (.setRebalancing(id, .pause), join("18", "01", long("09"), "01")),
            (.setRebalancing(id, .resume), join("18", "01", long("09"), "02")),
            (.setRebalancing(id, .cancel), join("18", "01", long("09"), "03")),
            (.setRebalancing(id, .limits(plan.limits)), join("18", "01", long("09"), "04", limitsBytes)),
            (.reportStep(id, 2, .begun), join("19", "01", long("09"), "02000000", "01")),
            (.reportStep(id, 2, .done), join("19", "01", long("09"), "02000000", "02")),
            (.reportStep(id, 2, .failed("no")), join("19", "01", long("09"), "02000000", "03", "02000000", "6e6f")),
            (.reportStep(id, 2, .again("no")), join("19", "01", long("09"), "02000000", "04", "02000000", "6e6f")),
            (.reportStep(id, 2, .cancelled), join("19", "01", long("09"), "02000000", "05")),
            (.setAuto(AutoRebalancing(limits: plan.limits)), join("1a", "01", "01", "01", limitsBytes)),
            (.setAuto(nil), join("1a", "01", "00")),
        ]
        for (command, bytes) in samples {
            let payload = command.payload()
            #expect(hex(payload) == "0200" + "0100" + String(repeating: "0", count: 48) + bytes, "\(command)")
            #expect(try MetaCommand(payload: payload) == command)
            for count in 0..<payload.count {
                #expect(throws: DecodingFailure.self) { try MetaCommand(payload: payload[0..<count]) }
            }
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(payload.array + [0])) }
            mutate(payload, seed: 9, rounds: 500) { payload in
                guard let read = try? MetaCommand(payload: payload) else { return }
                #expect((try? MetaCommand(payload: read.payload())) == read)
            }
        }
        // The number behind the last one.
        var bytes = MetaCommand.setAuto(nil).payload().array
        bytes[28] = 27
        #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(bytes)) }
    }

    /// As they stand among the meta group's records: they never change. Answers are those to changes of the map.
    @Test func bytesOfRecordsAreFrozen() throws {
        var meta = try Meta()
        #expect(meta.map.version == 1)
        func records(_ meta: Meta) -> [Bytes: String] {
            var found: [Bytes: String] = [:]
            for record in meta.store.metaRecords where record.key.starts(with: "rebalancing") {
                found[record.key] = record.value.map { hex($0) } ?? "deleted"
            }
            return found
        }
        func key(_ place: UInt8) -> Bytes { Bytes(Array("rebalancing/".utf8) + [0, 0, 0, place]) }
        let (first, second) = (MetaOutcome(mapVersion: 1).encoded(), MetaOutcome(mapVersion: 2).encoded())
        let plan = fixedPlan(meta)
        var expected: [Bytes: String] = ["rebalancing-auto": join("01", limitsBytes)]
        #expect(meta.answer(.setAuto(AutoRebalancing(limits: plan.limits))) == first)
        #expect(records(meta) == expected)
        let head = join("01", long("01"), long("4d"), long("01"), limitsBytes)
        expected["rebalancing"] = join(head, "00", "03000000")
        for (place, bytes) in stepBytes.enumerated() { expected[key(UInt8(place))] = bytes }
        #expect(meta.answer(.beginRebalancing(plan)) == first)
        #expect(records(meta) == expected)
        expected[key(1)] = join(
            "04", "08", "00", long("07"), long("00"), "02000000", "6e6f", "02", "03000000", long("04"), long("05"),
            long("06"))
        #expect(meta.answer(.reportStep(RebalancingID(1), 1, .failed("no"))) == first)
        #expect(records(meta) == expected)
        expected["rebalancing-auto"] = "deleted"
        expected["rebalancing"] = join(head, "02", "03000000")
        for place in [0, 2] { expected[key(UInt8(place))] = join("05", String(stepBytes[place].dropFirst(2))) }
        #expect(meta.answer(.setRebalancing(RebalancingID(1), .cancel)) == first)
        #expect(records(meta) == expected)
        // Another one has a higher number, and fewer steps.
        var next = plan
        next.token = 78
        next.steps.removeLast(2)
        expected["rebalancing"] = join("01", long("02"), long("4e"), long("01"), limitsBytes, "00", "01000000")
        expected[key(0)] = stepBytes[0]
        for place in [1, 2] as [UInt8] { expected[key(place)] = "deleted" }
        #expect(meta.answer(.beginRebalancing(next)) == second)
        #expect(records(meta) == expected)
        let restored = try MetaMachine(restoring: meta.store.metaRecords)
        #expect(restored.rebalancing == meta.record && restored.auto == nil && meta.record?.steps.count == 1)
    }

    // MARK: - What replicas and leaders say

    @Test func wordsAboutSlotsComeBackFromTheirBytes() throws {
        let migrations = GroupMigrations([
            MigrationReport(id: MigrationID(4), source: GroupID(2), phase: nil),
            MigrationReport(
                id: MigrationID(9), source: GroupID(3), phase: .importing, rounds: 3, bytes: 1 << 40,
                lastRoundBytes: 77, bytesPerSecond: 12, wait: .pace),
        ])
        let contents = SlotContents(
            mapVersion: 12,
            gates: [
                RingProof.Gate(
                    slot: Slot(3), standing: .moved, migration: MigrationID(4), group: GroupID(2), epoch: Epoch(9))
            ],
            tasks: [
                RingProof.Task(
                    migration: MigrationID(5), isSource: true, group: GroupID(2), slots: [Slot(4), Slot(5), Slot(9)])
            ], filled: [Slot(0), Slot(1), Slot(16_383)],
            next: SlotContents(mapVersion: 0).next)
        #expect(try GroupMigrations(decoding: migrations.encoded()) == migrations)
        #expect(try SlotContents(decoding: contents.encoded()) == contents)
        #expect(try SlotContentsQuery(decoding: SlotContentsQuery().encoded()) == SlotContentsQuery())
        #expect(try MigrationsQuery(decoding: MigrationsQuery().encoded()) == MigrationsQuery())
        for bytes in [migrations.encoded(), contents.encoded()] {
            for count in 0..<bytes.count {
                #expect(throws: DecodingFailure.self) { try GroupMigrations(decoding: bytes[0..<count]) }
                #expect(throws: DecodingFailure.self) { try SlotContents(decoding: bytes[0..<count]) }
            }
        }
        #expect(Set(MigrationWait.allCases.map(\.description)).count == MigrationWait.allCases.count)
    }

    /// As they stand on the wire: hosts and clients of other versions read them.
    @Test func bytesOfWordsAboutSlotsAreFrozen() throws {
        let place = RecordPosition(slot: Slot(5), machine: .keyValue, key: "k")
        let position = "09000000" + "0500" + "0100" + "01000000" + "6b"
        #expect(hex(MigrationsQuery().encoded()) == "02")
        let migrations = GroupMigrations([
            MigrationReport(id: MigrationID(4), source: GroupID(2), phase: nil),
            MigrationReport(
                id: MigrationID(9), source: GroupID(3), phase: .importing, rounds: 5, bytes: 6, lastRoundBytes: 7,
                bytesPerSecond: 8, wait: .pace),
        ])
        #expect(
            hex(migrations.encoded())
                == join(
                    "02000000", long("04"), "02000000", "00", "00000000", long("00"), long("00"), long("00"), "07",
                    long("09"), "03000000", "04", "05000000", long("06"), long("07"), long("08"), "02"))
        let waits: [MigrationWait] = [.nothing, .source, .pace, .freeze, .digest, .map, .log, .beginning]
        #expect(waits.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 6, 7] && waits.count == MigrationWait.allCases.count)

        #expect(hex(SlotContentsQuery().encoded()) == "03" + "00000000")
        #expect(hex(SlotContentsQuery(from: place.encoded()).encoded()) == "03" + position)
        let contents = SlotContents(
            mapVersion: 12,
            gates: [
                RingProof.Gate(
                    slot: Slot(3), standing: .moved, migration: MigrationID(4), group: GroupID(2), epoch: Epoch(9))
            ],
            tasks: [
                RingProof.Task(migration: MigrationID(5), isSource: true, group: GroupID(2), slots: [Slot(4), Slot(5)])
            ], filled: [Slot(0), Slot(1), Slot(16_383)], next: place.encoded())
        #expect(
            hex(contents.encoded())
                == join(
                    "01", long("0c"), "01000000", "0300", "03", long("04"), "02000000", long("09"), "01000000",
                    long("05"), "01", "02000000", "01000000", "04000200", "02000000", "00000200", "ff3f0100", position))
        #expect(try SlotContents(decoding: contents.encoded()) == contents)
        #expect(
            hex(SlotContents(mapVersion: 0).encoded())
                == join("01", long("00"), "00000000", "00000000", "00000000", "00000000"))
        let standings: [RingProof.Standing] = [.open, .frozen, .moved, .arriving]
        #expect(standings.map(\.rawValue) == [1, 2, 3, 4] && standings.count == RingProof.Standing.allCases.count)
    }
}
