import Primitives
import Ring
import Testing

/// The record of a rebalancing: its bytes, what wishes and reports do to it, what is next and what each step waits for.
@Suite struct RebalancingTests {
    private func map(hosts: Int = 4, groups: Int = 4) throws -> ClusterMap {
        let hosts = (1...hosts).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "10.0.0.1:\($0)",
                incarnation: Incarnation(UInt64($0) * 7), featureLevel: FeatureLevel.migrations)
        }
        return try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3,
            featureLevel: FeatureLevel.migrations)
    }

    private func slots(_ map: ClusterMap, of group: UInt32, _ range: Range<Int>) -> [Slot] {
        Array(map.ring.slots(of: GroupID(group))[range])
    }

    private func record(_ steps: [Rebalancing.Step], concurrent: UInt32 = 4) -> Rebalancing {
        Rebalancing(
            id: RebalancingID(9), token: 77, plannedVersion: 8,
            limits: Rebalancing.Limits(concurrentMax: concurrent), steps: steps)
    }

    /// A step of each kind, all of which may begin, and none waits for another.
    private func steps(_ map: ClusterMap) throws -> [Rebalancing.Step] {
        let moved = try #require(map.group(GroupID(3)))
        let old = moved.replicas[0]
        let spare = try #require(map.hosts.first { moved.replica(on: $0.id) == nil })
        let led = try #require(map.group(GroupID(4)))
        let heir = try #require(led.replicas.first { $0.id != led.preferredLeader })
        return [
            Rebalancing.Step(
                .slots(slots(map, of: 1, 0..<3), from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 1_000),
            Rebalancing.Step(.replica(moved.id, old.id, from: old.host, to: spare.id), .hostDrains, bytes: 5_000),
            Rebalancing.Step(
                .leader(led.id, from: try #require(led.host(of: led.preferredLeader)), to: heir.host), .leads, bytes: 0),
        ]
    }

    private func take(
        _ report: Rebalancing.Report, of place: Int, begun: UInt64 = 0, in record: inout Rebalancing,
        isTurn: Bool = true, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let did = record.take(report, of: place, begun: begun)
        #expect(did == isTurn, "\(report) of step \(place)", sourceLocation: sourceLocation)
    }

    private func take(
        _ wish: Rebalancing.Wish, in record: inout Rebalancing, isTurn: Bool = true,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let did = record.take(wish)
        #expect(did == isTurn, "\(wish)", sourceLocation: sourceLocation)
    }

    private func encoded(_ record: Rebalancing) -> Bytes {
        var writer = ByteWriter()
        record.encode(into: &writer)
        return writer.take()
    }

    private func decoded(_ bytes: Bytes) throws -> Rebalancing {
        var reader = ByteReader(bytes)
        let record = try Rebalancing(from: &reader)
        try reader.expectEnd()
        return record
    }

    // MARK: - Bytes

    @Test func aRecordComesBackFromItsBytes() throws {
        var record = record(try steps(try map()))
        record.isPaused = true
        record.limits = Rebalancing.Limits(concurrentMax: 64, bytesPerSecondMax: 1 << 30, pauseMillisMax: 50)
        record.steps[0].state = .underway
        record.steps[0].begun = 12
        record.steps[0].attempts = 2
        record.steps[1].state = .failed
        record.steps[1].word = "nobody took it – ä"
        record.steps[2].state = .done
        #expect(try decoded(encoded(record)) == record)
        record.isCancelled = true
        record.isPaused = false
        record.isAutomatic = true
        #expect(try decoded(encoded(record)) == record)
        #expect(record.steps.allSatisfy { $0.encodedBytes > 0 })
    }

    private func hex(_ encode: (inout ByteWriter) -> Void) -> String {
        var writer = ByteWriter()
        encode(&writer)
        return writer.take().array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func join(_ parts: String...) -> String { parts.joined() }

    /// In little-endian, as all integers.
    private func long(_ byte: String) -> String { byte + "00000000000000" }

    /// As they stand in the meta group's log and records, and in answers: they never change.
    @Test func bytesAreFrozen() throws {
        let record = Rebalancing(
            id: RebalancingID(9), token: 77, plannedVersion: 8,
            limits: Rebalancing.Limits(concurrentMax: 3, bytesPerSecondMax: 5, pauseMillisMax: 50), isPaused: true,
            steps: [
                Rebalancing.Step(
                    .slots([Slot(1), Slot(2), Slot(5)], from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 6,
                    state: .underway, begun: 12, attempts: 2, word: "ä"),
                Rebalancing.Step(
                    .replica(GroupID(3), ReplicaID(4), from: HostID(5), to: HostID(6)), .hostDrains, bytes: 7),
                Rebalancing.Step(
                    .leader(GroupID(3), from: HostID(5), to: HostID(6)), .leads, bytes: 0, state: .done, attempts: 1),
            ])
        let limits = join("03000000", long("05"), "32000000")
        let head = join("01", long("09"), long("4d"), long("08"), limits, "01", "03000000")
        let steps = [
            join(
                "02", "02", "02", long("06"), long("0c"), "02000000", "c3a4", "01", "01000000", "02000000", "02000000",
                "01000200", "05000100"),
            join(
                "01", "04", "00", long("07"), long("00"), "00000000", "02", "03000000", long("04"), long("05"),
                long("06")),
            join(
                "03", "09", "01", long("00"), long("00"), "00000000", "03", "03000000", long("05"), long("06")),
        ]
        #expect(hex { record.encodeHead(into: &$0) } == head)
        #expect(record.steps.map { step in hex { step.encode(into: &$0) } } == steps)
        #expect(hex { record.encode(into: &$0) } == head + steps.joined())
        #expect(record.steps.map(\.encodedBytes) == steps.map { $0.count / 2 })
        #expect(try decoded(encoded(record)) == record)
        for (isPaused, isCancelled, isAutomatic, flags) in [
            (false, false, false, "00"), (true, false, false, "01"), (false, true, false, "02"),
            (false, false, true, "04"), (true, true, true, "07"),
        ] {
            var other = record
            (other.isPaused, other.isCancelled, other.isAutomatic) = (isPaused, isCancelled, isAutomatic)
            #expect(hex { other.encodeHead(into: &$0) }.dropFirst(82).prefix(2) == flags)
        }
        let states: [Rebalancing.Step.State] = [.waiting, .underway, .done, .failed, .cancelled]
        #expect(states.map(\.rawValue) == [1, 2, 3, 4, 5] && states.count == Rebalancing.Step.State.allCases.count)
        let reasons: [RebalancePlan.Reason] = [
            .groupLeaves, .groupIsNew, .groupIsUneven, .hostDrains, .hostHasNoWeight, .zones, .hostIsFull, .hostIsEmpty,
            .leads,
        ]
        #expect(reasons.count == RebalancePlan.Reason.allCases.count)
        for (place, reason) in reasons.enumerated() {
            let step = Rebalancing.Step(record.steps[2].move, reason, bytes: 0)
            #expect(hex { step.encode(into: &$0) }.dropFirst(2).prefix(2) == "0\(place + 1)")
        }
    }

    /// The only words that replicas compose themselves, each for itself: they stand in the meta group's records, and never
    /// change.
    @Test func theWordOfAMigrationThatIsCalledOffIsFrozen() throws {
        for (millis, time) in [(4_399, "4.3"), (50, "0.0"), (1 << 40, "4294967.2")] as [(UInt64, String)] {
            var record = record(
                [
                    Rebalancing.Step(
                        .slots([Slot(1)], from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 6, state: .underway,
                        begun: 12, attempts: 1)
                ])
            var migration = MigrationRecord(
                id: MigrationID(12), slots: [Slot(1)], source: GroupID(1), target: GroupID(2), state: .aborting)
            let isNothing = !record.note(migration)
            migration.lostTime = LostTime(millis: millis)
            let isNoted = record.note(migration)
            #expect(
                record.steps[0].word
                    == "migration 12 was called off: group 1 was led by nobody for \(time) s meanwhile")
            #expect(record.steps[0].attempts == 0 && isNothing && isNoted)
            let isNotedTwice = record.note(migration)
            #expect(!isNotedTwice)
        }
    }

    @Test func bytesOfWishesReportsAndWaitsAreFrozen() {
        let limits = Rebalancing.Limits(concurrentMax: 3, bytesPerSecondMax: 5, pauseMillisMax: 50)
        let wishes: [(Rebalancing.Wish, String)] = [
            (.pause, "01"), (.resume, "02"), (.cancel, "03"),
            (.limits(limits), join("04", "03000000", long("05"), "32000000")),
        ]
        for (wish, bytes) in wishes { #expect(hex { wish.encode(into: &$0) } == bytes) }
        let reports: [(Rebalancing.Report, String)] = [
            (.begun, "01"), (.done, "02"), (.failed("no"), join("03", "02000000", "6e6f")),
            (.again("ä"), join("04", "02000000", "c3a4")), (.cancelled, "05"),
        ]
        for (report, bytes) in reports { #expect(hex { report.encode(into: &$0) } == bytes) }
        let waits: [(RebalanceWait, String)] = [
            (.resumption, join("01", long("00"), long("00"))),
            (.turn(underway: 3, most: 4), join("02", long("03"), long("04"))),
            (.step(5), join("03", long("05"), long("00"))),
            (.host(HostID(6)), join("04", long("06"), long("00"))),
            (.group(GroupID(7)), join("05", long("07"), long("00"))),
            (.migration(MigrationID(8)), join("06", long("08"), long("00"))),
            (.members(GroupID(9)), join("07", long("09"), long("00"))),
            (.room, join("08", long("00"), long("00"))),
            (.copy(MigrationID(10), .settling), join("09", long("0a"), long("06"))),
            (.replica(ReplicaID(11), HostID(12), votes: false), join("0a", long("0b"), long("0c"))),
            (.replica(ReplicaID(11), HostID(12), votes: true), join("0b", long("0b"), long("0c"))),
            (.leaving(ReplicaID(13), HostID(14)), join("0c", long("0d"), long("0e"))),
        ]
        for (wait, bytes) in waits { #expect(hex { wait.encode(into: &$0) } == bytes, "\(wait)") }
    }

    @Test func noPrefixAndNoNumberOutOfBoundsIsTakenForARecord() throws {
        let record = record(try steps(try map()))
        let bytes = encoded(record)
        for count in 0..<bytes.count { #expect(throws: DecodingFailure.self) { try decoded(bytes[0..<count]) } }
        func changed(_ place: Int, _ byte: UInt8) -> Bytes {
            var array = bytes.array
            array[place] = byte
            return Bytes(array)
        }
        // Version, flags, count of moves at a time, count of steps, and of the first step: state, reason, kind.
        let head = 1 + 8 + 8 + 8 + 16
        for (place, byte) in [(0, 2), (head, 8), (25, 0), (25, 65), (head + 1, 0), (head + 4, 1)] as [(Int, UInt8)] {
            #expect(throws: DecodingFailure.self, "\(place)") { try decoded(changed(place, byte)) }
        }
        let step = head + 5
        for (place, byte) in [(0, 0), (0, 6), (1, 0), (1, 10), (23, 0), (23, 4)] as [(Int, UInt8)] {
            #expect(throws: DecodingFailure.self, "\(place)") { try decoded(changed(step + place, byte)) }
        }
        // Whatever one byte says: it is a record, or it is refused.
        for place in 0..<bytes.count {
            for byte in [0, 1, 0x7f, 0xff] as [UInt8] {
                if let other = try? decoded(changed(place, byte)) { #expect(other.problem == nil) }
            }
        }
    }

    @Test func stepsThatCanNotBeAreNamed() throws {
        let map = try map()
        let good = try steps(map)
        #expect(Rebalancing.problem(of: good) == nil)
        #expect(Rebalancing.problem(of: []) != nil)
        #expect(Rebalancing.problem(of: Array(repeating: good[0], count: Rebalancing.stepsMax + 1)) != nil)
        let slots = slots(map, of: 1, 0..<3)
        let bad: [RebalancePlan.Move] = [
            .slots([], from: GroupID(1), to: GroupID(2)), .slots(slots.reversed(), from: GroupID(1), to: GroupID(2)),
            .slots(slots, from: GroupID(1), to: GroupID(1)), .slots(slots, from: .meta, to: GroupID(1)),
            .slots((0...512).map { Slot(UInt16($0)) }, from: GroupID(1), to: GroupID(2)),
            .replica(GroupID(1), ReplicaID(4), from: HostID(1), to: HostID(1)),
            .replica(GroupID(1), .none, from: HostID(1), to: HostID(2)),
            .leader(GroupID(1), from: HostID(2), to: HostID(2)),
        ]
        for move in bad { #expect(Rebalancing.problem(of: [.init(move, .leads, bytes: 0)]) != nil, "\(move)") }
        // Each is allowed, and all together are not: whoever adds them up stays within the type.
        let most: UInt64 = 1 << 62 - 1
        func lead(_ bytes: UInt64) -> Rebalancing.Step {
            Rebalancing.Step(.leader(GroupID(1), from: HostID(1), to: HostID(2)), .leads, bytes: bytes)
        }
        #expect(Rebalancing.problem(of: [lead(most)]) == nil && Rebalancing.problem(of: [lead(most + 1)]) != nil)
        #expect(Rebalancing.problem(of: [lead(most - 1), lead(1)]) == nil)
        #expect(Rebalancing.problem(of: [lead(most), lead(1)]) != nil)
        #expect(Rebalancing.problem(of: Array(repeating: lead(most), count: Rebalancing.stepsMax)) != nil)
        #expect(Rebalancing.Limits(concurrentMax: 0).problem != nil)
        #expect(Rebalancing.Limits(concurrentMax: 65).problem != nil)
        #expect(Rebalancing.Limits(bytesPerSecondMax: 1 << 62).problem != nil)
    }

    @Test func wishesAndReportsComeBackFromTheirBytes() throws {
        for wish in [.pause, .resume, .cancel, .limits(Rebalancing.Limits(concurrentMax: 7))] as [Rebalancing.Wish] {
            var writer = ByteWriter()
            wish.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect(try Rebalancing.Wish(from: &reader) == wish && reader.isAtEnd)
        }
        for report in [.begun, .done, .failed("a"), .again("b"), .cancelled] as [Rebalancing.Report] {
            var writer = ByteWriter()
            report.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect(try Rebalancing.Report(from: &reader) == report && reader.isAtEnd)
        }
        for kind in [0, 5, 6, 255] as [UInt8] {
            var reader = ByteReader(Bytes([kind]))
            #expect(throws: DecodingFailure.self) { try Rebalancing.Wish(from: &reader) }
        }
        for kind in [0, 6, 255] as [UInt8] {
            var reader = ByteReader(Bytes([kind]))
            #expect(throws: DecodingFailure.self) { try Rebalancing.Report(from: &reader) }
        }
        let waits: [RebalanceWait] = [
            .resumption, .turn(underway: 3, most: 4), .step(1_023), .host(HostID(3)), .group(GroupID(2)),
            .migration(MigrationID(5)), .members(GroupID(8)), .room, .copy(MigrationID(5), .released),
            .replica(ReplicaID(4), HostID(2), votes: true), .replica(ReplicaID(4), HostID(2), votes: false),
            .leaving(ReplicaID(4), HostID(2)),
        ]
        for wait in waits {
            var writer = ByteWriter()
            wait.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect(try RebalanceWait(from: &reader) == wait && reader.isAtEnd)
            #expect(!wait.description.isEmpty)
        }
        #expect(Set(waits.map(\.description)).count == waits.count)
    }

    // MARK: - Plans

    @Test func aPlanOfManySlotsIsSeveralStepsAndOneThatDoesNotFitIsCut() throws {
        let map = try map(groups: 1)
        let all = map.ring.slots(of: GroupID(1))
        var plan = Planner.rebalance(RebalanceInput(map: map))
        plan.steps = [
            RebalancePlan.Step(move: .slots(all, from: GroupID(1), to: GroupID(2)), reason: .groupIsNew, bytes: 32_768),
            RebalancePlan.Step(move: .leader(GroupID(1), from: HostID(1), to: HostID(2)), reason: .leads, bytes: 0),
        ]
        let (steps, rest) = Rebalancing.steps(of: plan, bytesMax: 60_000)
        #expect(rest == nil && steps.count == 33 && Rebalancing.problem(of: steps) == nil)
        let moved = steps.flatMap { step -> [Slot] in if case .slots(let slots, _, _) = step.move { slots } else { [] }
        }
        #expect(moved == all)
        #expect(steps.reduce(0) { $0 + $1.bytes } == 32_768)
        // A step of the plan is taken as a whole.
        let few = Rebalancing.steps(of: plan, bytesMax: 1_000)
        #expect(few.steps.isEmpty && few.rest == 2)
    }

    // MARK: - Ground

    @Test func theGroundIsWhatStepsTouchAndNothingElse() throws {
        let map = try map()
        let steps = try steps(map)
        let ground = Rebalancing.ground(of: steps, in: map)
        func changed(_ change: (inout ClusterMap) -> Void) -> Bool {
            var other = map
            change(&other)
            return Rebalancing.ground(of: steps, in: other) != ground
        }
        let moving = slots(map, of: 1, 0..<3)
        let resting = slots(map, of: 1, 3..<5)
        #expect(!changed { $0.version += 1 })
        #expect(!changed { $0.ring.assign(resting, to: GroupID(2)) })
        #expect(changed { $0.ring.assign([moving[1]], to: GroupID(2)) })
        // Away and back is another epoch.
        #expect(
            changed {
                $0.ring.assign([moving[1]], to: GroupID(2))
                $0.ring.assign([moving[1]], to: GroupID(1))
            })
        #expect(
            changed {
                $0.migrations = [
                    MigrationRecord(id: MigrationID(1), slots: [moving[0]], source: GroupID(1), target: GroupID(2))
                ]
            })
        #expect(
            !changed {
                $0.migrations = [
                    MigrationRecord(id: MigrationID(1), slots: resting, source: GroupID(1), target: GroupID(2))
                ]
            })
        func changing(_ group: UInt32, _ change: (inout GroupRecord) -> Void) -> Bool {
            changed { map in
                var record = map.group(GroupID(group))!
                change(&record)
                map.replace(record)
            }
        }
        #expect(changing(3) { $0.replicas[1].role = .learner })
        #expect(
            changing(4) { group in group.preferredLeader = group.replicas.first { $0.id != group.preferredLeader }!.id }
        )
        #expect(changing(2) { $0.state = .stopped })
        // Whose slots go only has no replica that moves.
        #expect(!changing(1) { $0.replicas[1].role = .learner })
        #expect(
            changed { map in
                for place in map.hosts.indices { map.hosts[place].state = .draining }
            })
        #expect(changed { map in for place in map.hosts.indices { map.hosts[place].zone = "another" } })
        #expect(!changed { map in for place in map.hosts.indices { map.hosts[place].name = "another" } })
    }

    // MARK: - Wishes and reports

    /// Whoever plans and the meta group may have other versions: both have to come to the same number.
    @Test func theGroundIsTheSameInAllVersions() {
        func host(_ id: UInt64, zone: String, _ state: HostState = .active) -> HostRecord {
            HostRecord(
                id: HostID(id), name: "host-\(id)", address: "10.0.0.1:\(id)", zone: zone, weight: 100 + UInt32(id),
                incarnation: Incarnation(id), featureLevel: FeatureLevel.migrations, state: state)
        }
        var ring = SlotTable(epoch: Epoch(3), owners: Array(repeating: GroupID(1), count: Slot.count))
        ring.assign([Slot(9)], to: GroupID(2))
        let groups = [
            GroupRecord(
                id: GroupID(1),
                replicas: [
                    ReplicaRecord(id: ReplicaID(4), host: HostID(1)),
                    ReplicaRecord(
                        id: ReplicaID(5), host: HostID(2), role: .learner, membership: .absent,
                        successorOf: ReplicaID(4)),
                ], preferredLeader: ReplicaID(4)),
            GroupRecord(
                id: GroupID(2), replicas: [ReplicaRecord(id: ReplicaID(6), host: HostID(1))],
                preferredLeader: ReplicaID(6), state: .stopped),
        ]
        let map = ClusterMap(
            cluster: ClusterID(high: 1, low: 2), version: 7, featureLevel: FeatureLevel.migrations,
            hosts: [host(1, zone: "east"), host(2, zone: "", .draining)], groups: groups, ring: ring,
            migrations: [
                MigrationRecord(id: MigrationID(7), slots: [Slot(5)], source: GroupID(1), target: GroupID(2))
            ], nextHost: HostID(3), nextGroup: GroupID(3), nextReplica: ReplicaID(7))
        let steps = [
            Rebalancing.Step(
                .slots([Slot(5), Slot(9)], from: GroupID(1), to: GroupID(2)), .groupIsUneven, bytes: 1),
            Rebalancing.Step(
                .replica(GroupID(1), ReplicaID(4), from: HostID(1), to: HostID(3)), .hostIsFull, bytes: 2),
            Rebalancing.Step(.leader(GroupID(9), from: HostID(1), to: HostID(2)), .leads, bytes: 0),
        ]
        #expect(Rebalancing.ground(of: [], in: map) == 0)
        #expect(Rebalancing.ground(of: [steps[0]], in: map) == 0xa487_10c7_e3a2_7ad7)
        #expect(Rebalancing.ground(of: steps, in: map) == 0xaf1b_e2a6_65e7_4e0f)
    }

    @Test func reportsOutOfTurnChangeNothing() throws {
        var record = record(try steps(try map()))
        take(.again("x"), of: 0, in: &record, isTurn: false)
        take(.cancelled, of: 0, in: &record, isTurn: false)
        take(.done, of: 3, in: &record, isTurn: false)
        take(.begun, of: 0, begun: 5, in: &record)
        #expect(record.steps[0].state == .underway && record.steps[0].begun == 5 && record.steps[0].attempts == 1)
        take(.begun, of: 0, begun: 6, in: &record, isTurn: false)
        take(.again("aborted"), of: 0, in: &record)
        #expect(record.steps[0].state == .waiting)
        for attempt in 2...3 as ClosedRange<UInt64> {
            take(.begun, of: 0, begun: 5 + attempt, in: &record)
            take(.again("aborted"), of: 0, in: &record)
        }
        // That was the last attempt.
        take(.begun, of: 0, begun: 9, in: &record, isTurn: false)
        take(.failed(String(repeating: "ä", count: 200)), of: 0, in: &record)
        #expect(record.steps[0].word.utf8.count == 254 && record.steps[0].state == .failed)
        take(.done, of: 0, in: &record, isTurn: false)
        // A lead's change of the map is all of it.
        take(.begun, of: 2, in: &record)
        #expect(record.steps[2].state == .done)
        take(.begun, of: 1, begun: 30, in: &record)
        take(.done, of: 1, in: &record)
        #expect(record.isOver)
    }

    @Test func pausesAndCancelsKeepStepsFromBeginning() throws {
        let map = try map()
        var record = record(try steps(map))
        take(.begun, of: 1, begun: 30, in: &record)
        take(.pause, in: &record)
        take(.pause, in: &record, isTurn: false)
        take(.begun, of: 0, in: &record, isTurn: false)
        #expect(record.waits(map)[0] == .resumption && record.waits(map)[2] == .resumption)
        take(.resume, in: &record)
        take(.limits(Rebalancing.Limits(concurrentMax: 1)), in: &record)
        #expect(record.waits(map)[0] == .turn(underway: 1, most: 1))
        take(.cancel, in: &record)
        #expect(record.steps.map(\.state) == [.cancelled, .underway, .cancelled] && !record.isOver)
        take(.begun, of: 0, in: &record, isTurn: false)
        take(.cancelled, of: 1, in: &record)
        #expect(record.isOver)
    }

    // MARK: - What is next

    @Test func stepsThatDoNotTouchEachOtherBeginTogetherWithinLimits() throws {
        let map = try map()
        let steps = try steps(map)
        #expect(
            record(steps).acts(map) == [.report(0, .begun), .report(1, .begun), .report(2, .begun)])
        // A lead costs nothing, and waits for no turn.
        #expect(record(steps, concurrent: 1).acts(map) == [.report(0, .begun), .report(2, .begun)])
        #expect(record(steps, concurrent: 1).waits(map)[1] == .turn(underway: 1, most: 1))
    }

    @Test func stepsOfOneGroupKeepTheirOrderAndItsMigrationsNeedNone() throws {
        let map = try map()
        let group = try #require(map.group(GroupID(1)))
        let spare = try #require(map.hosts.first { group.replica(on: $0.id) == nil })
        let old = group.replicas[0]
        let steps = [
            Rebalancing.Step(.slots(slots(map, of: 1, 0..<2), from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 1),
            Rebalancing.Step(.slots(slots(map, of: 1, 2..<4), from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 1),
            Rebalancing.Step(.replica(group.id, old.id, from: old.host, to: spare.id), .hostDrains, bytes: 1),
            Rebalancing.Step(.slots(slots(map, of: 1, 4..<6), from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 1),
        ]
        let record = record(steps)
        #expect(record.acts(map) == [.report(0, .begun), .report(1, .begun)])
        #expect(record.waits(map) == [nil, nil, .step(1), .step(2)])
    }

    @Test func whatLeavesAHostGoesFirst() throws {
        let map = try map(hosts: 5, groups: 8)
        let groups = map.dataGroups
        let leaving = groups[0]
        let host = leaving.replicas[0].host
        let away = try #require(map.hosts.first { leaving.replica(on: $0.id) == nil })
        let coming = try #require(groups.first { $0.id != leaving.id && $0.replica(on: host) == nil })
        let steps = [
            Rebalancing.Step(
                .replica(leaving.id, leaving.replicas[0].id, from: host, to: away.id), .hostIsFull, bytes: 1),
            Rebalancing.Step(
                .replica(coming.id, coming.replicas[0].id, from: coming.replicas[0].host, to: host), .hostIsFull,
                bytes: 1),
        ]
        #expect(record(steps).waits(map) == [nil, .step(0)])
    }

    @Test func aStepWhosePremiseIsGoneFailsWithAWordAndTheRestGoesOn() throws {
        let map = try map()
        let steps = try steps(map)
        func first(_ place: Int, _ change: (inout ClusterMap) -> Void) -> RebalanceAct? {
            var other = map
            change(&other)
            return record(steps).acts(other).first {
                if case .report(place, _) = $0 { true } else { false }
            }
        }
        func fails(_ act: RebalanceAct?) -> Bool {
            if case .report(_, .failed(let word))? = act { !word.isEmpty } else { false }
        }
        let moving = slots(map, of: 1, 0..<3)
        #expect(fails(first(0) { $0.ring.assign([moving[1]], to: GroupID(3)) }))
        #expect(first(0) { $0.ring.assign(moving, to: GroupID(2)) } == .report(0, .done))
        #expect(fails(first(1) { map in for place in map.hosts.indices { map.hosts[place].state = .draining } }))
        #expect(
            fails(
                first(2) { map in
                    var group = map.group(GroupID(4))!
                    let other = group.replicas.last { $0.id != group.preferredLeader }!
                    group.preferredLeader = other.id
                    map.replace(group)
                }))
        #expect(fails(first(0) { $0.removeGroup(GroupID(2)) }))
        // The others go on all the same.
        var other = map
        other.ring.assign([moving[1]], to: GroupID(3))
        #expect(record(steps).acts(other).dropFirst() == [.report(1, .begun), .report(2, .begun)])
    }

    /// The planner of moves empties a host that drains, at its own pace, and to hosts of its own choice.
    @Test func whatADrainDoesItselfIsWaitedForAndIsDone() throws {
        var map = try map(hosts: 5)
        var steps = try steps(map)
        guard case .replica(let id, let old, let from, let to) = steps[1].move,
            case .leader(let led, let leads, let heir) = steps[2].move
        else { return }
        func acts(_ map: ClusterMap, _ place: Int) -> RebalanceAct? {
            record(steps).acts(map).first { if case .report(place, _) = $0 { true } else { false } }
        }
        func fails(_ act: RebalanceAct?) -> Bool {
            if case .report(_, .failed)? = act { true } else { false }
        }
        func changing(_ id: GroupID, _ map: ClusterMap, _ change: (inout GroupRecord) -> Void) -> ClusterMap {
            var (map, group) = (map, map.group(id)!)
            change(&group)
            map.replace(group)
            return map
        }
        let leaving = changing(id, map) { group in
            group.replicas[group.replicas.firstIndex { $0.id == old }!].role = .leaving
        }
        #expect(acts(leaving, 1) == nil && record(steps).waits(leaving)[1] == .members(id))
        let gone = changing(id, map) { group in group.replicas.removeAll { $0.id == old } }
        #expect(acts(gone, 1) == .report(1, .done))
        // The host may be removed by then.
        var removed = gone
        for group in removed.groups where group.id != id {
            removed = changing(group.id, removed) { group in group.replicas.removeAll { $0.host == from } }
        }
        removed.removeHost(from)
        #expect(acts(removed, 1) == .report(1, .done))
        // Another one in its place is not what was meant.
        let replaced = changing(id, gone) { group in
            group.replicas.append(ReplicaRecord(id: map.nextReplica, host: from))
        }
        #expect(fails(acts(replaced, 1)))
        // Where nothing drains it was somebody else's wish, and the step came to nothing.
        steps[1].reason = .hostIsFull
        #expect(fails(acts(gone, 1)) && record(steps).waits(leaving)[1] == .members(id))
        // A host that began to drain after the plan was made.
        func draining(_ host: HostID, _ map: ClusterMap) -> ClusterMap {
            var map = map
            map.hosts[map.hosts.firstIndex { $0.id == host }!].state = .draining
            return map
        }
        #expect(acts(draining(from, gone), 1) == .report(1, .done))
        // The step's host is taken, or takes nothing any more: the drain finds another one, as long as there is any.
        map = draining(from, map)
        #expect(acts(draining(to, map), 1) == nil && record(steps).waits(draining(to, map))[1] == .members(id))
        let away = map.hosts.map(\.id).filter { $0 != to }
        #expect(
            fails(
                record(steps).acts(draining(to, map), away: away).first {
                    if case .report(1, _) = $0 { true } else { false }
                }))
        // The lead is another's by now.
        let other = changing(led, map) { group in
            group.preferredLeader = group.replicas.first { $0.host != leads && $0.host != heir }!.id
        }
        let third = try #require(other.group(led).flatMap { $0.host(of: $0.preferredLeader) })
        var without = other
        without.hosts[without.hosts.firstIndex { $0.id == third }!].state = .active
        without.hosts[without.hosts.firstIndex { $0.id == leads }!].state = .active
        #expect(fails(acts(without, 2)))
        #expect(acts(draining(leads, without), 2) == .report(2, .done))
        steps[2].reason = .hostDrains
        #expect(acts(without, 2) == .report(2, .done))
        // That one drains, too: nothing of it is done yet.
        #expect(fails(acts(draining(third, without), 2)))
    }

    @Test func whatSomebodyElseHasToDoIsNamed() throws {
        let map = try map()
        let steps = try steps(map)
        guard case .replica(let id, _, _, let to) = steps[1].move else { return }
        #expect(record(steps).waits(map, away: [to])[1] == .host(to))
        var stopped = map
        var group = stopped.group(GroupID(2))!
        group.state = .stopped
        stopped.replace(group)
        #expect(record(steps).waits(stopped)[0] == .group(GroupID(2)))
        var moving = map
        moving.migrations = [
            MigrationRecord(
                id: MigrationID(1), slots: [slots(map, of: 1, 0..<1)[0]], source: GroupID(1), target: GroupID(3))
        ]
        #expect(record(steps).waits(moving)[0] == .migration(MigrationID(1)))
        var changing = map
        group = changing.group(id)!
        group.replicas[1].role = .learner
        changing.replace(group)
        #expect(record(steps).waits(changing)[1] == .members(id))
        #expect(RebalanceWait.host(to).needsSomebody && !RebalanceWait.members(id).needsSomebody)
    }

    @Test func aMigrationUnderwayIsFollowedLimitedAndTakenBack() throws {
        var map = try map()
        var record = record(try steps(map))
        let moving = slots(map, of: 1, 0..<3)
        take(.begun, of: 0, begun: 5, in: &record)
        func migration(_ state: MigrationRecord.State) -> MigrationRecord {
            MigrationRecord(
                id: MigrationID(5), slots: moving, source: GroupID(1), target: GroupID(2),
                limits: record.limits.ofMigration, state: state)
        }
        map.migrations = [migration(.copying)]
        #expect(record.waits(map)[0] == .copy(MigrationID(5), .copying))
        #expect(!record.acts(map).contains(.limit(MigrationID(5))))
        _ = record.take(.limits(Rebalancing.Limits(concurrentMax: 2, bytesPerSecondMax: 1_000)))
        #expect(record.limits.ofMigration.bytesPerSecondMax == 500)
        #expect(record.acts(map).first == .limit(MigrationID(5)))
        map.migrations = [migration(.copying)]
        #expect(!record.acts(map).contains(.limit(MigrationID(5))))

        var cancelled = record
        _ = cancelled.take(.cancel)
        #expect(cancelled.acts(map) == [.abort(MigrationID(5))])
        var decided = map
        decided.ring.assign(moving, to: GroupID(2))
        decided.migrations = [migration(.committed)]
        #expect(cancelled.acts(decided).isEmpty && cancelled.waits(decided)[0] == .copy(MigrationID(5), .committed))
        decided.migrations = []
        #expect(cancelled.acts(decided) == [.report(0, .done)])

        // It was aborted.
        map.migrations = []
        guard case .report(0, .again)? = record.acts(map).first else {
            Issue.record("expected another attempt, found \(record.acts(map))")
            return
        }
        record.steps[0].attempts = Rebalancing.attemptsMax
        guard case .report(0, .failed)? = record.acts(map).first else {
            Issue.record("expected no other attempt, found \(record.acts(map))")
            return
        }
        #expect(cancelled.acts(map) == [.report(0, .cancelled)])
        map.ring.assign([moving[0]], to: GroupID(3))
        guard case .report(0, .failed)? = record.acts(map).first else {
            Issue.record("expected a failure, found \(record.acts(map))")
            return
        }
    }

    @Test func aReplicaUnderwayIsFollowedAndTakenBackWhileItDoesNotVote() throws {
        var map = try map()
        var record = record(Array(try steps(map)[1...1]))
        guard case .replica(let id, let old, let from, let to) = record.steps[0].move else { return }
        let new = map.nextReplica
        take(.begun, of: 0, begun: new.rawValue, in: &record)
        func set(_ membership: ReplicaRecord.Membership, role: ReplicaRecord.Role = .voter, old isThere: Bool = true) {
            var group = map.group(id)!
            group.replicas.removeAll { $0.id == new || $0.id == old && !isThere }
            group.replicas.append(
                ReplicaRecord(
                    id: new, host: to, role: role, membership: membership, successorOf: isThere ? old : .none))
            map.nextReplica = ReplicaID(new.rawValue + 1)
            map.replace(group)
        }
        set(.absent)
        #expect(record.waits(map) == [.replica(new, to, votes: false)] && record.acts(map).isEmpty)
        #expect(record.waits(map, away: [to]) == [.host(to)])
        #expect(record.acts(map, away: [to], lost: [to]) == [.takeBack(id, new)])
        var cancelled = record
        _ = cancelled.take(.cancel)
        #expect(cancelled.acts(map) == [.takeBack(id, new)])
        set(.learner, role: .leaving)
        #expect(cancelled.acts(map).isEmpty && cancelled.waits(map) == [.leaving(new, to)])
        set(.voter)
        #expect(cancelled.acts(map).isEmpty && record.waits(map) == [.leaving(old, from)])
        set(.voter, old: false)
        #expect(record.acts(map) == [.report(0, .done)] && cancelled.acts(map) == [.report(0, .done)])

        // Somebody removed it.
        var group = map.group(id)!
        group.replicas.removeAll { $0.id == new }
        var without = map
        without.replace(group)
        guard case .report(0, .failed)? = record.acts(without).first else {
            Issue.record("expected a failure, found \(record.acts(without))")
            return
        }
        group.replicas.append(ReplicaRecord(id: old, host: from))
        without.replace(group)
        guard case .report(0, .again)? = record.acts(without).first else {
            Issue.record("expected another attempt, found \(record.acts(without))")
            return
        }
        #expect(cancelled.acts(without) == [.report(0, .cancelled)])
    }
}
