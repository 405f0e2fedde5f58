// Migrations between three groups in whatever order their logs get the commands: of several drivers, late ones, ones that come
// again, of migrations that are over; with clients' commands, deadlines and restarts in between.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct SlotScheduleTests {
    @Test func nothingIsLostOrDoneTwiceWhateverComesWhen() throws {
        var (activations, aborts, losses, strikes, answered, repeats, refusals) = (0, 0, 0, 0, 0, 0, 0)
        for seed in 1...16 as ClosedRange<UInt64> {
            var world = try World(seed: seed)
            for _ in 0..<6_000 where world.problem == nil { try world.tick() }
            if world.problem == nil { try world.finish() }
            #expect(world.problem == nil, "seed \(seed), step \(world.steps)")
            (activations, aborts) = (activations + world.activations, aborts + world.aborts)
            losses += world.losses
            (strikes, answered) = (strikes + world.strikes, answered + world.answered)
            (repeats, refusals) = (repeats + world.repeats, refusals + world.refusals)
        }
        // All of it was tried.
        #expect(activations >= 15 && aborts >= 5 && losses > 0 && strikes > 50)
        #expect(answered > 300 && repeats > 75 && refusals > 300)
    }
}

private enum MoveState { case copying, committed, released, activated, aborting }

/// As the cluster's map has it.
private struct Move {
    var id: MigrationID
    var slots: [Slot]
    var source: Int
    var target: Int
    var state = MoveState.copying
    var isForgotten = [false, false]
}

private struct Chime {
    var tag: String
    var handle: ScheduledCommand
    /// In real time.
    var due: UInt64
    var isCancelled = false
    var count = 0
}

private struct Call {
    var payload: Bytes
    var key: Bytes
    var value: Bytes
    var isAnswered = false
}

/// What clients were told of a key.
private struct Told {
    var value: Bytes?
    /// In real time; nil: never.
    var end: UInt64?
}

private struct World {
    var random: SeededRandom
    var groups: [MovingGroup]
    var sessions: [SessionID] = []
    var calls: [[Call]] = [[], [], []]
    /// Commands that leaders made, and that are in no log yet; and those that were in it, which may come again.
    var proposed: [[Bytes]] = [[], [], []]
    var done: [[Bytes]] = [[], [], []]
    var moves: [Move] = []
    var nextID: UInt64 = 1
    var epoch = Epoch(1)
    let tags = ["a", "b", "c", "d", "e"]
    /// By slot: by the map; who had it at any time; who serves it; and what it had when it was frozen.
    var owner: [Slot: Int] = [:]
    var owners: [Slot: Set<Int>] = [:]
    var server: [Slot: Int] = [:]
    var frozen: [MigrationID: [ModelStore.Key: ModelStore.Record]] = [:]
    var told: [Bytes: Told] = [:]
    var chimes: [UInt64: Chime] = [:]
    var now: UInt64 = 0
    var problem: String?
    var (steps, activations, aborts, losses, strikes, answered, repeats, refusals) = (0, 0, 0, 0, 0, 0, 0, 0)
    private let keysPerTag = 4

    init(seed: UInt64) throws {
        random = SeededRandom(seed: seed)
        groups = try [MovingGroup(1, logTime: 500), MovingGroup(2, logTime: 90_000), MovingGroup(3, logTime: 7)]
        for place in groups.indices { sessions.append(try groups[place].open(timeToLive: 3_600_000)) }
        for tag in tags {
            let slot = slot(of: "{\(tag)}")
            (owner[slot], owners[slot], server[slot]) = (0, [0], 0)
        }
    }

    private func slot(of tag: String) -> Slot { Ring.slot(of: Bytes(tag)) }

    private mutating func fail(_ text: String) { problem = problem ?? text }

    private mutating func below(_ bound: Int) -> Int { Int(random.below(UInt64(bound))) }

    mutating func tick() throws {
        steps += 1
        switch below(20) {
        case 0...4: client()
        case 5...9: propose()
        case 10...14: takeProposed()
        case 15: takeAgain()
        case 16: carryOutDue(below(3))
        case 17: passTime(UInt64(below(2_000)))
        case 18:
            let place = below(3)
            if below(6) == 0 { try groups[place].restart() }
        default: begin()
        }
    }

    /// All goes to its end, and everything is due.
    mutating func finish() throws {
        for _ in 0..<20_000 where !moves.isEmpty && problem == nil {
            propose()
            while proposed.contains(where: { !$0.isEmpty }) { takeProposed() }
        }
        if !moves.isEmpty { fail("migrations without end: \(moves)") }
        passTime(10_000_000)
        for _ in 0..<3 {
            // Where time stood still, it goes on.
            for place in groups.indices {
                groups[place].logTime += 10_000_000
                for _ in 0..<20 { carryOutDue(place) }
            }
        }
        for tag in tags { check(slot(of: "{\(tag)}"), "in the end") }
        for (number, chime) in chimes where chime.count != (chime.isCancelled ? 0 : 1) {
            fail("chime \(number) came \(chime.count) times, cancelled: \(chime.isCancelled)")
        }
        for (place, group) in groups.enumerated() {
            if !group.areReplicasEqual { fail("the replicas of group \(group.id) differ") }
            for tag in tags where server[slot(of: "{\(tag)}")] != place {
                if !group.records(in: [slot(of: "{\(tag)}")]).isEmpty { fail("group \(group.id) has something left") }
            }
            for deadline in group.deadlines { fail("group \(group.id) has a deadline left: \(deadline)") }
            if group.records(of: .slotOwnership).keys.contains(where: { $0.key.array.first == 3 }) {
                fail("group \(group.id) remembers a timer that is no more")
            }
        }
        // Nothing of what is over is taken.
        for place in groups.indices {
            let before = (groups[place].store.records.mapValues(\.value), groups[place].ownership)
            for payload in done[place] where payload.array.first == UInt8(SubMachineNumber.slotOwnership.rawValue) {
                groups[place].apply(payload)
            }
            if before.0 != groups[place].store.records.mapValues(\.value) || before.1 != groups[place].ownership {
                fail("group \(groups[place].id) took something of a migration that is over")
            }
        }
    }

    // MARK: Clients

    private mutating func client() {
        let tag = tags[below(tags.count)]
        let slot = slot(of: "{\(tag)}")
        // By whatever map they have.
        let all = (owners[slot] ?? []).sorted()
        let place = all[below(all.count)]
        let key = Bytes("{\(tag)}\(below(keysPerTag))")
        let value = Bytes("v\(steps)")
        switch below(8) {
        case 0, 1: write(place, slot, key, value, KeyValueCommand.put(key: key, value: value).payload())
        case 2: write(place, slot, key, nil, KeyValueCommand.delete(key: key).payload())
        case 3:
            let millis = UInt64(1 + below(6_000))
            write(
                place, slot, key, value,
                KeyValueCommand.put(key: key, value: value, timeToLiveMillis: millis).payload(), end: now + millis)
        case 4: wind(place, slot, tag)
        case 5: stop(place, slot)
        case 6:
            let header = CommandHeader(
                machine: .keyValue, session: sessions[place], sequence: UInt64(calls[place].count + 1),
                firstUnacknowledged: 1)
            calls[place].append(
                Call(
                    payload: KeyValueCommand.put(key: key, value: value).payload(header: header), key: key, value: value
                ))
            call(place, calls[place].count - 1)
        default: if !calls[place].isEmpty { call(place, below(calls[place].count)) }
        }
    }

    @discardableResult private mutating func write(
        _ place: Int, _ slot: Slot, _ key: Bytes, _ value: Bytes?, _ payload: Bytes, end: UInt64? = nil
    ) -> Applied {
        let applied = groups[place].apply(payload)
        switch applied {
        case .done:
            expectServer(place, slot, "a write")
            told[key] = Told(value: value, end: end)
        case .refused(.moved):
            if server[slot] == place { fail("the server of \(slot) sends away") } else { refusals += 1 }
        case .refused(.unavailable): refusals += 1
        case .repeated: break
        default: fail("\(applied)")
        }
        return applied
    }

    private mutating func call(_ place: Int, _ number: Int) {
        let call = calls[place][number]
        let applied = write(place, Ring.slot(of: call.key), call.key, call.value, call.payload)
        if call.isAnswered {
            guard case .repeated = applied else { return fail("call \(number) was done, and now is \(applied)") }
            repeats += 1
        } else if case .repeated = applied {
            fail("call \(number) was refused, and is repeated")
        } else if case .done = applied {
            calls[place][number].isAnswered = true
            answered += 1
        }
    }

    private mutating func expectServer(_ place: Int, _ slot: Slot, _ what: String) {
        if server[slot] != place {
            fail("\(what) of slot \(slot) in group \(place + 1), and not in \(server[slot].map { $0 + 1 } ?? 0)")
        }
    }

    private mutating func wind(_ place: Int, _ slot: Slot, _ tag: String) {
        let (number, millis) = (UInt64(chimes.count + 1), UInt64(1 + below(8_000)))
        guard let handle = try? groups[place].send(Chimes.Wind(Bytes("{\(tag)}"), number, after: millis)) else {
            return
        }
        expectServer(place, slot, "a timer")
        chimes[number] = Chime(tag: tag, handle: handle, due: now + millis)
    }

    private mutating func stop(_ place: Int, _ slot: Slot) {
        let own = chimes.keys.sorted().filter { self.slot(of: "{\(chimes[$0]?.tag ?? "")}") == slot }
        guard !own.isEmpty, case let number = own[below(own.count)], let chime = chimes[number],
            let answer = try? groups[place].send(Chimes.Stop(Bytes("{\(chime.tag)}"), chime.handle))
        else { return }
        expectServer(place, slot, "a cancel")
        if (answer.value == 1) != (!chime.isCancelled && chime.count == 0) {
            fail(
                "chime \(number) was called off: \(answer.value); it came \(chime.count) times, cancelled: \(chime.isCancelled)"
            )
        }
        if answer.value == 1 { chimes[number]?.isCancelled = true }
    }

    private mutating func passTime(_ millis: UInt64) {
        now += millis
        // No faster than real time; now and then nobody leads one of them for a while.
        for place in groups.indices {
            let stands = below(24)
            groups[place].logTime += stands == 0 ? 0 : stands == 1 ? millis / 2 : millis
        }
    }

    private mutating func carryOutDue(_ place: Int) {
        for command in groups[place].due {
            if below(4) == 0 { proposed[place].append(command.payload()) }
            take(command.payload(), place)
        }
    }

    // MARK: Logs

    private mutating func takeProposed() {
        let place = below(3)
        guard !proposed[place].isEmpty else { return }
        let payload = proposed[place].remove(at: below(proposed[place].count))
        done[place].append(payload)
        take(payload, place)
    }

    private mutating func takeAgain() {
        let place = below(3)
        if !done[place].isEmpty { take(done[place][below(done[place].count)], place) }
    }

    private mutating func take(_ payload: Bytes, _ place: Int) {
        let before = groups[place].ownership
        let applied = groups[place].apply(payload)
        if case .done(_, let body) = applied, !body.isEmpty, let outcome = try? MachineOutcome(decoding: body) {
            guard case .answer(let bytes) = outcome, let number = (try? Count(decoding: bytes))?.value,
                let chime = chimes[number]
            else { return fail("an unknown chime") }
            strikes += 1
            chimes[number]?.count += 1
            expectServer(place, slot(of: "{\(chime.tag)}"), "a strike")
            if now < chime.due { fail("chime \(number) came at \(now), not \(chime.due)") }
            let record = groups[place].record(Chimes.record(Bytes("{\(chime.tag)}"), number), of: Chimes.number)
            if (try? record.map { try Count(decoding: $0.value).value }) != 1 { fail("chime \(number) came again") }
        }
        if case .unsupported(let text) = applied { fail(text) }
        if groups[place].ownership != before { note(place, before) }
        for move in moves where move.source == place {
            guard let records = frozen[move.id], groups[place].ownership.task(move.id)?.phase == .frozen else {
                continue
            }
            if groups[place].records(in: move.slots) != records { fail("a frozen slot of \(move.id) has changed") }
        }
    }

    /// What a group's step means to its slots.
    private mutating func note(_ place: Int, _ before: SlotOwnership) {
        for task in before.tasks {
            let after = groups[place].ownership.task(task.id)?.phase
            switch (task.phase, after) {
            case (.exporting, .frozen?): frozen[task.id] = groups[place].records(in: task.slots)
            case (.frozen, .released?): for slot in task.slots { server[slot] = nil }
            case (.importing, .sealed?):
                if let given = frozen[task.id] { compare(given, groups[place].records(in: task.slots), task) }
            case (.sealed, nil):
                activations += 1
                for slot in task.slots {
                    if let other = server[slot] { fail("\(slot) is served by \(other + 1) and \(place + 1)") }
                    server[slot] = place
                    check(slot, "when it is activated")
                }
            default: break
            }
        }
    }

    private mutating func compare(
        _ given: [ModelStore.Key: ModelStore.Record], _ taken: [ModelStore.Key: ModelStore.Record],
        _ task: MigrationTask
    ) {
        guard Set(given.keys) == Set(taken.keys) else { return fail("\(task.id) has other records at the target") }
        for (key, record) in given {
            guard let other = taken[key], record.value == other.value, record.revision == other.revision else {
                return fail("\(task.id): \(key) differs")
            }
        }
    }

    private mutating func check(_ slot: Slot, _ when: String) {
        guard let place = server[slot] else { return fail("\(slot) is served by nobody \(when)") }
        for tag in tags where self.slot(of: "{\(tag)}") == slot {
            for number in 0..<keysPerTag {
                let key = Bytes("{\(tag)}\(number)")
                let (found, told) = (groups[place].value(key), self.told[key])
                if found == told?.value { continue }
                if found == nil, let end = told?.end, end <= now { continue }
                fail("\(key) is \(found.map { "\($0)" } ?? "gone") \(when), and not \(told.map { "\($0)" } ?? "gone")")
            }
        }
    }

    // MARK: Drivers

    private mutating func begin() {
        guard moves.count < 4, below(2) == 0 else { return }
        let source = below(3)
        let free = tags.map { slot(of: "{\($0)}") }.filter { slot in
            owner[slot] == source && !moves.contains { $0.slots.contains(slot) }
        }.sorted()
        guard !free.isEmpty else { return }
        let first = below(free.count)
        let slots = Array(free[first..<min(free.count, first + 1 + below(2))])
        moves.append(Move(id: MigrationID(nextID), slots: slots, source: source, target: (source + 1 + below(2)) % 3))
        nextID += 1
    }

    private mutating func propose(_ command: SlotCommand, _ place: Int) {
        proposed[place].append(command.payload())
    }

    /// One step of one migration, by what its driver sees.
    private mutating func propose() {
        guard !moves.isEmpty else { return }
        let number = below(moves.count)
        let move = moves[number]
        let (id, source, target) = (move.id, groups[move.source], groups[move.target])
        let (given, taken) = (source.ownership.task(id), target.ownership.task(id))
        switch move.state {
        case .copying:
            if below(25) == 0 {
                moves[number].state = .aborting
                aborts += 1
                return
            }
            guard let given else { return propose(.beginExport(id, move.slots, target: target.id), move.source) }
            guard let taken else {
                return propose(
                    .beginImport(id, move.slots, source: source.id, sourceTime: LogTime(source.logTime)), move.target)
            }
            if taken.phase == .sealed, given.phase == .frozen {
                moves[number].state = .committed
                epoch = epoch.next
                for slot in move.slots {
                    owner[slot] = move.target
                    owners[slot]?.insert(move.target)
                }
                return
            }
            let isThrough = taken.progress.next.isEmpty
            if given.phase == .frozen, isThrough, taken.progress.start >= given.frozenIndex {
                let seen = target.seen(of: source)
                guard taken.keepsEnds(seen) else {
                    moves[number].state = .aborting
                    aborts += 1
                    losses += 1
                    return
                }
                return propose(
                    .seal(id, frozen: given.frozenIndex, given.revision, seen: seen), move.target)
            }
            if given.phase == .exporting, taken.progress.page > 0, isThrough, below(4) == 0 {
                return propose(.freeze(id), move.source)
            }
            // One or two drivers.
            for _ in 0...below(2) {
                guard let page = target.nextPage(of: id, from: source, countMax: 1 + below(12)) else { return }
                propose(.page(id, page), move.target)
            }
        case .committed:
            if given?.phase == .released {
                moves[number].state = .released
            } else {
                propose(.release(id, epoch), move.source)
            }
        case .released:
            if taken == nil {
                moves[number].state = .activated
            } else {
                propose(.activate(id, Epoch(2), .zero), move.target)
            }
        case .activated: if given == nil { moves.remove(at: number) } else { clear(id, move.source) }
        case .aborting:
            for (side, place) in [move.source, move.target].enumerated() where !move.isForgotten[side] {
                // It is in the log, and applied.
                take(SlotCommand.forget(id, move.slots).payload(), place)
                done[place].append(SlotCommand.forget(id, move.slots).payload())
                moves[number].isForgotten[side] = true
                return
            }
            if taken == nil { moves.remove(at: number) } else { clear(id, move.target) }
        }
    }

    private mutating func clear(_ id: MigrationID, _ place: Int) {
        let places = groups[place].places(toClear: id, countMax: 1 + below(8))
        propose(places.isEmpty ? .cleared(id) : .clear(id, places), place)
    }
}
