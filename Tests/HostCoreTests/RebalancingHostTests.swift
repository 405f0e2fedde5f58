// A plan that the meta group's leader carries out: slots, a replica, a lead; with another leader in the middle, paused,
// cancelled, within limits. And what replicas say of slots, from which each one's place is proven.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage
import Testing

@Suite struct RebalancingHostTests {
    private let one = GroupID(1)
    private let two = GroupID(2)

    private func trio(
        groups: Int = 2, hosts: Int = 4, loops: [Int]? = nil, adjust: (inout HostSettings) -> Void = { _ in }
    ) throws -> Trio {
        try Trio(
            groups: groups, hosts: hosts, loops: loops,
            featureLevels: Array(repeating: FeatureLevel.migrations, count: hosts), mapLevel: FeatureLevel.migrations,
            adjust: adjust)
    }

    private func wait(_ trio: Trio, seconds: Int = 120, _ what: String, until isSo: () throws -> Bool) throws {
        for _ in 0..<(20 * seconds) {
            if try isSo() { return }
            try trio.tick()
        }
        throw DiskError(.misuse, "waited \(seconds) s for: \(what)")
    }

    /// Each host is asked until the meta group's leader takes it.
    private func administer(_ trio: Trio, _ command: MetaCommand, token: UInt64) throws {
        for _ in 0..<200 {
            for (place, host) in trio.hosts.enumerated() where !trio.isCut.contains(place) {
                host.core.administer(command.payload(), call: CallToken(rawValue: token))
            }
            try trio.tick()
            if trio.hosts.contains(where: { $0.isDone(token) }) { return }
        }
        throw DiskError(.misuse, "nobody took the command")
    }

    /// As the meta group's leader has it; nil: nobody leads.
    private func standing(_ trio: Trio) -> RebalancingStanding? {
        for (place, host) in trio.hosts.enumerated() where !trio.isCut.contains(place) {
            if case .there(let standing)? = host.core.rebalancingReply() { return standing }
        }
        return nil
    }

    private func map(_ trio: Trio) throws -> ClusterMap {
        let maps = trio.hosts.enumerated().filter { !trio.isCut.contains($0.offset) }.compactMap { $0.element.core.map }
        return try #require(maps.max { $0.version < $1.version })
    }

    private func keys(_ count: Int, of group: GroupID, _ trio: Trio) -> [String] {
        Array((0...).lazy.map { "key \($0)" }.filter { trio.map.owner(of: slot(of: Bytes($0))) == group }.prefix(count))
    }

    private func write(_ keys: [String], _ group: GroupID, _ trio: Trio, token: UInt64) throws {
        let leader = try trio.leader(of: group)
        for (number, key) in keys.enumerated() {
            trio.hosts[leader].put(key, "value of \(key)", group: group, token: token + UInt64(number))
        }
        try trio.tick(4)
        for number in keys.indices { #expect(trio.hosts[leader].isDone(token + UInt64(number))) }
    }

    private func plan(
        _ trio: Trio, _ steps: [Rebalancing.Step], limits: Rebalancing.Limits = .init(), token: UInt64 = 5
    ) throws -> RebalancingPlan {
        RebalancingPlan(token: token, steps: steps, for: try map(trio), limits: limits)
    }

    private func slotStep(_ keys: [String]) -> Rebalancing.Step {
        Rebalancing.Step(
            .slots(Set(keys.map { slot(of: Bytes($0)) }).sorted(), from: one, to: two), .groupIsUneven, bytes: 1_000)
    }

    private func replicaStep(_ trio: Trio, of id: GroupID, from place: Int? = nil) throws -> Rebalancing.Step {
        let group = try #require(try map(trio).group(id))
        let spare = try #require(trio.hosts.first { group.replica(on: $0.id) == nil })
        let old = group.replicas.first { place == nil || $0.host == trio.hosts[place!].id }!
        return Rebalancing.Step(.replica(id, old.id, from: old.host, to: spare.id), .hostIsEmpty, bytes: 1_000)
    }

    // MARK: -

    @Test func slotsAReplicaAndALeadMoveAsPlanned() throws {
        let trio = try trio()
        let moving = keys(20, of: one, trio)
        let staying = Array(keys(40, of: one, trio).suffix(20))
        try write(moving + staying, one, trio, token: 1_000)
        let led = try #require(trio.map.group(two))
        let heir = try #require(led.replicas.first { $0.id != led.preferredLeader })
        let lead = Rebalancing.Step(
            .leader(two, from: try #require(led.host(of: led.preferredLeader)), to: heir.host), .leads, bytes: 0)
        let steps = [slotStep(moving), try replicaStep(trio, of: one), lead]
        try administer(trio, .beginRebalancing(try plan(trio, steps)), token: 1)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        let record = try #require(standing(trio)?.rebalancing)
        #expect(record.steps.allSatisfy { $0.state == .done && $0.attempts == 1 }, "\(record.steps)")
        let map = try map(trio)
        #expect(map.migrations.isEmpty)
        for key in moving { #expect(map.owner(of: slot(of: Bytes(key))) == two) }
        for key in staying where !moving.contains(where: { slot(of: Bytes($0)) == slot(of: Bytes(key)) }) {
            #expect(map.owner(of: slot(of: Bytes(key))) == one)
        }
        guard case .replica(_, let old, _, let to) = steps[1].move else { return }
        let group = try #require(map.group(one))
        #expect(group.record(of: old) == nil && group.replica(on: to) != nil && group.replicas.count == 3)
        #expect(map.group(two).flatMap { $0.host(of: $0.preferredLeader) } == heir.host)
        // What moved is where the map says, with its values.
        let leader = try trio.leader(of: two)
        for (number, key) in moving.enumerated() {
            let slot = slot(of: Bytes(key))
            trio.hosts[leader].core.query(
                QueryRequest(
                    group: two, epoch: map.ring.epoch(of: slot), slot: slot, machine: .keyValue,
                    query: KeyValueQuery.get(key: Bytes(key)).encoded()),
                call: CallToken(rawValue: 5_000 + UInt64(number)))
        }
        try trio.tick(4)
        for (number, key) in moving.enumerated() {
            let result = try #require(trio.hosts[leader].result(5_000 + UInt64(number)))
            guard case .found(let value, _, _) = try KeyValueReading(decoding: result.body) else {
                Issue.record("\(key) is not there")
                continue
            }
            #expect(value == Bytes("value of \(key)"))
        }
    }

    /// The meta group's leader is cut off at each moment of a plan, and whoever leads then goes on.
    @Test(arguments: [2, 6, 12, 20, 30, 45, 70])
    func whoeverLeadsTheMetaGroupGoesOn(ticks: Int) throws {
        let trio = try trio()
        let moving = keys(20, of: one, trio)
        try write(moving, one, trio, token: 1_000)
        try administer(
            trio, .beginRebalancing(try plan(trio, [slotStep(moving), try replicaStep(trio, of: one)])), token: 1)
        try trio.tick(ticks)
        let leader = try #require(trio.hosts.firstIndex { $0.inspection(of: .meta)?.isEstablished == true })
        trio.cut(leader)
        try trio.tick(60)
        let other = try trio.leader(of: .meta)
        #expect(other != leader)
        trio.join(leader)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        let record = try #require(standing(trio)?.rebalancing)
        #expect(record.steps.allSatisfy { $0.state == .done }, "\(record.steps)")
        let map = try map(trio)
        #expect(map.migrations.isEmpty && map.groups.allSatisfy { $0.isSettled && $0.replicas.count == 3 })
        #expect(moving.allSatisfy { map.owner(of: slot(of: Bytes($0))) == two })
    }

    @Test func whatIsPausedWaitsAndWhatIsCancelledEnds() throws {
        let trio = try trio()
        let moving = keys(20, of: one, trio)
        try write(moving, one, trio, token: 1_000)
        let steps = moving.prefix(4).map { slotStep([$0]) }
        let different = Set(moving.prefix(4).map { slot(of: Bytes($0)) }).count == 4
        #expect(different)
        try administer(
            trio, .beginRebalancing(try plan(trio, steps, limits: Rebalancing.Limits(concurrentMax: 1))), token: 1)
        let id = try #require(standing(trio)?.rebalancing.id)
        try administer(trio, .setRebalancing(id, .pause), token: 2)
        try trio.tick(400)
        var found = try #require(standing(trio))
        // What had begun went to its end, and no other began.
        #expect(found.rebalancing.count(.waiting) >= 3 && found.rebalancing.count(.underway) == 0)
        #expect(found.isBlocked && found.waits.last == .resumption)
        let before = found.rebalancing.count(.done)
        try administer(trio, .setRebalancing(id, .resume), token: 3)
        try wait(trio, "the next one") { (standing(trio)?.rebalancing.count(.done) ?? 0) > before }
        try administer(trio, .setRebalancing(id, .cancel), token: 4)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        found = try #require(standing(trio))
        #expect(found.rebalancing.count(.cancelled) > 0 && !found.isBlocked)
        let map = try map(trio)
        #expect(map.migrations.isEmpty)
        for step in found.rebalancing.steps {
            guard case .slots(let slots, let from, let to) = step.move else { continue }
            #expect(slots.allSatisfy { map.owner(of: $0) == (step.state == .done ? to : from) })
        }
    }

    @Test func aStepTowardsAHostThatIsAwayWaitsForItAndTheRestGoesOn() throws {
        let trio = try trio()
        let moving = keys(8, of: one, trio)
        try write(moving, one, trio, token: 1_000)
        let step = try replicaStep(trio, of: two)
        guard case .replica(_, _, _, let to) = step.move else { return }
        // Every group has a majority without it.
        let place = try #require(trio.hosts.firstIndex { $0.id == to })
        trio.cut(place)
        try trio.tick(40)
        try administer(trio, .beginRebalancing(try plan(trio, [step, slotStep(moving)])), token: 1)
        try trio.tick(100)
        let found = try #require(standing(trio))
        #expect(found.waits[0] == .host(to) && found.rebalancing.steps[0].state == .waiting)
        // It touches the same group, and comes later.
        #expect(found.waits[1] == .step(0) && found.isBlocked)
        trio.join(place)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        #expect(standing(trio)?.rebalancing.steps.allSatisfy { $0.state == .done } == true)
    }

    @Test func theTargetKeepsToItsLimit() throws {
        let trio = try trio()
        let value = String(repeating: "x", count: 50_000)
        let moving = keys(40, of: one, trio)
        let leader = try trio.leader(of: one)
        for (number, key) in moving.enumerated() {
            trio.hosts[leader].put(key, value, group: one, token: 1_000 + UInt64(number))
        }
        try trio.tick(10)
        // 2 MB at 500 KB a second, of which the first second's is there at once: more than two seconds for the first round.
        let limits = Rebalancing.Limits(concurrentMax: 1, bytesPerSecondMax: 500_000)
        try administer(trio, .beginRebalancing(try plan(trio, [slotStep(moving)], limits: limits)), token: 1)
        try wait(trio, "the migration") { try !map(trio).migrations.isEmpty }
        try trio.tick(30)
        let target = try trio.leader(of: two)
        trio.hosts[target].core.query(
            QueryRequest(
                group: two, epoch: .zero, slot: .group, machine: .slotOwnership, query: MigrationsQuery().encoded()),
            call: CallToken(rawValue: 7))
        try trio.tick()
        let answer = try #require(trio.hosts[target].result(7))
        let report = try #require(try GroupMigrations(decoding: answer.body).reports.first)
        #expect(report.phase == .importing && report.source == one && report.rounds == 0, "\(report)")
        #expect(report.bytes > 0 && report.bytes < 1_600_000, "\(report)")
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        #expect(standing(trio)?.rebalancing.steps[0].state == .done)
    }

    // MARK: - By itself

    private static func brisk(_ settings: inout HostSettings) {
        settings.balanceLookNanoseconds = 1_000_000_000
        settings.balanceRestNanoseconds = 2_000_000_000
    }

    /// As the meta group's leader has it; nil: nobody leads, or it is off.
    private func auto(_ trio: Trio) -> AutoStanding? {
        for (place, host) in trio.hosts.enumerated() where !trio.isCut.contains(place) {
            switch host.core.rebalancingReply() {
            case .nothing(let auto)?: return auto
            case .there(let standing)?: return standing.auto
            default: continue
            }
        }
        return nil
    }

    /// A third group, without slots, on three of the hosts.
    private func addGroup(_ trio: Trio, token: UInt64) throws {
        let hosts = try map(trio).hosts.prefix(3).map(\.id)
        try administer(
            trio, .change(.createGroup(weight: 100, hosts: hosts, preferred: 0), expecting: try map(trio).version),
            token: token)
    }

    private func slotsOfThird(_ trio: Trio) throws -> Int { try map(trio).ring.slots(of: GroupID(3)).count }

    private func isEven(_ trio: Trio) throws -> Bool {
        try slotsOfThird(trio) >= Slot.count / 3 && standing(trio)?.rebalancing.isOver == true
    }

    /// Nobody asks for a rebalancing; with one event loop, where each answers itself, and with several.
    @Test(arguments: [[1, 1, 1, 1], [3, 1, 2, 4]])
    func aNewGroupGetsItsShareByItself(loops: [Int]) throws {
        let trio = try trio(loops: loops, adjust: Self.brisk)
        try administer(
            trio, .setAuto(AutoRebalancing(limits: Rebalancing.Limits(concurrentMax: 7))), token: 1)
        try addGroup(trio, token: 2)
        try wait(trio, seconds: 600, "its share") { try isEven(trio) }
        let record = try #require(standing(trio)?.rebalancing)
        #expect(record.isAutomatic && record.limits.concurrentMax == 7 && record.count(.done) == record.steps.count)
        let counts = try map(trio).ring.counts().map(\.slots)
        #expect(counts.count == 3 && counts.max()! - counts.min()! <= 2, "\(counts)")
        // In balance, it looks and begins nothing.
        try trio.tick(20 * 30)
        #expect(standing(trio)?.rebalancing.id == record.id)
        try wait(trio, "a look that finds nothing") {
            if case .imbalance? = auto(trio)?.wait { true } else { false }
        }
    }

    @Test func offItBeginsNothing() throws {
        let trio = try trio(adjust: Self.brisk)
        try administer(trio, .setAuto(AutoRebalancing()), token: 1)
        try wait(trio, "the order") { auto(trio) != nil }
        try administer(trio, .setAuto(nil), token: 2)
        try addGroup(trio, token: 3)
        try trio.tick(20 * 60)
        #expect(try slotsOfThird(trio) == 0 && standing(trio) == nil && auto(trio) == nil)
        // And on again, it does.
        try administer(trio, .setAuto(AutoRebalancing()), token: 4)
        try wait(trio, "the next one") { standing(trio) != nil }
        // Off while one is under way: that goes on, and no other follows.
        try administer(trio, .setAuto(nil), token: 5)
        let id = try #require(standing(trio)?.rebalancing.id)
        try wait(trio, seconds: 600, "its share") { try isEven(trio) }
        #expect(standing(trio)?.rebalancing.id == id)
    }

    @Test func whileAHostIsAwayItWaitsForItAndSaysSo() throws {
        let trio = try trio(adjust: Self.brisk)
        try administer(trio, .setAuto(AutoRebalancing()), token: 1)
        // Whoever leads the meta group, so that another one has to find all of it.
        let place = try trio.leader(of: .meta)
        try addGroup(trio, token: 2)
        trio.cut(place)
        _ = try trio.leader(of: .meta)
        let away = trio.hosts[place].id
        try wait(trio, "what it waits for") { auto(trio)?.wait == .host(away) }
        try trio.tick(20 * 60)
        #expect(try slotsOfThird(trio) == 0 && standing(trio) == nil)
        #expect(auto(trio)?.wait == .host(away))
        trio.join(place)
        try wait(trio, seconds: 600, "its share") { try isEven(trio) }
        #expect(standing(trio)?.rebalancing.isAutomatic == true)
    }

    /// Nobody answers what was to be planned, or the answer comes while it is off for a moment.
    @Test(arguments: [false, true])
    func aPlanThatCameToNothingIsMadeAnew(isOffMeanwhile: Bool) throws {
        let trio = try trio(adjust: Self.brisk)
        try administer(trio, .setAuto(AutoRebalancing()), token: 1)
        try addGroup(trio, token: 2)
        for host in trio.hosts { host.holdsBalanceLooks = true }
        try wait(trio, "a plan") { trio.hosts.contains { !$0.heldBalanceLooks.isEmpty } }
        if isOffMeanwhile {
            try administer(trio, .setAuto(nil), token: 3)
            for host in trio.hosts {
                for look in host.heldBalanceLooks { host.core.balanceLooked(look.result()) }
            }
            try administer(trio, .setAuto(AutoRebalancing()), token: 4)
        }
        for host in trio.hosts {
            host.heldBalanceLooks = []
            host.holdsBalanceLooks = false
        }
        try wait(trio, seconds: isOffMeanwhile ? 30 : 120, "another one") { standing(trio) != nil }
        try wait(trio, seconds: 600, "its share") { try isEven(trio) }
    }

    @Test func afterStepsThatFailedItRestsForLongWhateverElseWasInTheWay() throws {
        let trio = try trio { settings in
            settings.balanceLookNanoseconds = 1_000_000_000
            settings.balanceRestNanoseconds = 20_000_000_000
        }
        try administer(trio, .setAuto(AutoRebalancing()), token: 1)
        let leader = try trio.leader(of: .meta)
        let place = leader == 0 ? 1 : 0
        let away = trio.hosts[place].id
        trio.cut(place)
        try wait(trio, "what it waits for") { auto(trio)?.wait == .host(away) }
        let group = try #require(try map(trio).group(one))
        let from = try #require(group.host(of: group.preferredLeader))
        let spare = try #require(trio.hosts.first { group.replica(on: $0.id) == nil }?.id)
        let impossible = Rebalancing.Step(.leader(one, from: from, to: spare), .leads, bytes: 0)
        try administer(trio, .beginRebalancing(try plan(trio, [impossible])), token: 2)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        #expect(standing(trio)?.rebalancing.count(.failed) == 1)
        try wait(trio, "what it waits for now") { auto(trio)?.wait == .host(away) }
        trio.join(place)
        var seconds: UInt64 = 0
        try wait(trio, "calm") {
            guard case .pause(let left)? = auto(trio)?.wait else { return false }
            seconds = left
            return true
        }
        // Six times as long as where all of it went well.
        #expect(seconds > 100 && seconds <= 120, "\(seconds) s")
    }

    @Test func wordsOnLoadsComeBackAndAreBounded() throws {
        let load = GroupLoad(
            stateBytes: 1 << 40, memtableBytes: 7, otherBytes: 3, seconds: 12,
            slots: [
                SlotLoad(slot: Slot(3), bytes: 1 << 30, operationsPer1000Seconds: 5),
                SlotLoad(slot: Slot(16_383), bytes: 2, operationsPer1000Seconds: 0),
            ])
        let words: [ClusterWord] = [
            .load(LoadWord(to: one, about: one, 1 << 60, .asked)),
            .load(LoadWord(to: .meta, about: two, 4, .told(load))),
            .load(LoadWord(to: .meta, about: one, 5, .refused(leader: HostID(3)))),
        ]
        var writer = PeerBatchWriter()
        for word in words { writer.append(word) }
        let payload = writer.take()
        #expect(try PeerBatchReader(payload).words == words)
        for count in 0..<payload.count {
            #expect(throws: DecodingFailure.self) { _ = try PeerBatchReader(payload[0..<count]) }
        }
        // Each is for the loop that has the group, as a shell deals them out.
        let parts = try PeerBatchPart.split(payload, loops: 3)
        #expect(parts[0]?.words.count == 2 && parts[1]?.words == [words[0]] && parts[2] == nil)
    }

    // MARK: -

    private func statement(_ trio: Trio, _ group: GroupID, at place: Int, token: UInt64) throws -> RingProof.Statement {
        let host = trio.hosts[place]
        var statement = RingProof.Statement(group: group, host: host.id)
        var next = Bytes()
        var token = token
        repeat {
            host.core(of: group).query(
                QueryRequest(
                    group: group, epoch: .zero, slot: .group, machine: .slotOwnership, consistency: .local,
                    query: SlotContentsQuery(from: next).encoded()), call: CallToken(rawValue: token))
            try trio.tick()
            let answer = try #require(host.result(token))
            let contents = try SlotContents(decoding: answer.body)
            if next.isEmpty { (statement.gates, statement.tasks) = (contents.gates, contents.tasks) }
            statement.filled += contents.filled
            next = contents.next
            token += 1
        } while !next.isEmpty
        return statement
    }

    @Test func replicasSayWhichSlotsTheyHaveAndThatProvesTheRing() throws {
        let trio = try trio()
        let mine = keys(30, of: one, trio)
        try write(mine, one, trio, token: 1_000)
        try trio.tick(40)
        let group = try #require(trio.map.group(one))
        let place = try #require(trio.hosts.firstIndex { group.replica(on: $0.id) != nil })
        let first = try statement(trio, one, at: place, token: 10)
        #expect(first.filled == Set(mine.map { slot(of: Bytes($0)) }).sorted() && first.gates.isEmpty)

        let moving = Array(mine.prefix(10))
        try administer(trio, .beginRebalancing(try plan(trio, [slotStep(moving)])), token: 1)
        try wait(trio, "the end of it") { standing(trio)?.rebalancing.isOver == true }
        try trio.tick(40)
        let map = try map(trio)
        var statements: [RingProof.Statement] = []
        for group in map.dataGroups {
            for replica in group.replicas {
                let place = Int(replica.host.rawValue) - 1
                statements.append(
                    try statement(
                        trio, group.id, at: place, token: 100 * UInt64(group.id.rawValue) + 10 * UInt64(place)))
            }
        }
        #expect(RingProof.violations(map, statements).isEmpty)
        let slots = Set(moving.map { slot(of: Bytes($0)) })
        #expect(statements.filter { $0.group == two }.allSatisfy { slots.isSubset(of: $0.filled) })
        #expect(statements.filter { $0.group == one }.allSatisfy { slots.isDisjoint(with: $0.filled) })
        #expect(statements.filter { $0.group == one }.allSatisfy { $0.gates.count == slots.count })
        // By a map of before it would be two owners: the proof fails where the ring is another.
        #expect(!RingProof.violations(trio.map, statements).isEmpty)
    }
}

@Suite struct MigrationPaceTests {
    private let second: UInt64 = 1_000_000_000

    @Test func aSecondsWorthIsSavedUpAtMost() {
        let limits = MigrationLimits(bytesPerSecondMax: 1_000)
        var pace = MigrationPace()
        var now = Instant(5)
        #expect(pace.mayFetch(at: now, limits) == true)
        pace.took(1_500, at: now)
        #expect(pace.mayFetch(at: now, limits) == false)
        now = now + second / 4
        #expect(pace.mayFetch(at: now, limits) == false)
        now = now + second / 4 + 2_000_000
        #expect(pace.mayFetch(at: now, limits) == true)
        now = now + 100 * second
        #expect(pace.mayFetch(at: now, limits) == true)
        pace.took(1_000, at: now)
        #expect(pace.mayFetch(at: now, limits) == false)
        // Without a limit there is none.
        #expect(pace.mayFetch(at: now, MigrationLimits()) == true)
    }

    @Test func looksThatComeOftenLoseNothing() {
        let limits = MigrationLimits(bytesPerSecondMax: 10)
        var pace = MigrationPace()
        var now = Instant(5)
        #expect(pace.mayFetch(at: now, limits) == true)
        pace.took(20, at: now)
        // Each look is less than a byte's time behind the one before.
        for _ in 0..<150 {
            now = now + 10_000_000
            if pace.mayFetch(at: now, limits) { return }
        }
        Issue.record("it may never fetch")
    }

    @Test func aRoundIsShortIfItFitsIntoThePause() {
        var pace = MigrationPace()
        let limits = MigrationLimits(pauseMillisMax: 50)
        // Nobody knows yet.
        #expect(pace.isShort(bytes: 1 << 30, of: limits))
        pace.asked(at: Instant(1))
        pace.took(1_000_000, at: Instant(1) + second)
        #expect(pace.bytesPerSecond == 1_000_000)
        #expect(pace.isShort(bytes: 50_000, of: limits) && !pace.isShort(bytes: 51_000, of: limits))
        #expect(pace.isShort(bytes: 1 << 30, of: MigrationLimits()))
        // While it is held back it does not measure.
        let slow = MigrationLimits(bytesPerSecondMax: 1, pauseMillisMax: 50)
        _ = pace.mayFetch(at: Instant(1) + second, slow)
        pace.took(2_000_000, at: Instant(1) + second)
        _ = pace.mayFetch(at: Instant(1) + 2 * second, slow)
        pace.asked(at: Instant(1) + 9 * second)
        pace.took(1_000_000, at: Instant(1) + 10 * second)
        #expect(pace.bytesPerSecond == 2_000_000)
    }
}
