// Slots that go from one group to another, as both groups' logs carry it out.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct SlotOwnershipTests {
    private let id = MigrationID(7)
    private let epoch = Epoch(12)

    /// Of tags.
    private func slots(_ tags: String...) -> [Slot] { tags.map { slot(of: Bytes("{\($0)}")) }.sorted() }

    private func isRefused(_ applied: Applied) -> Bool {
        if case .refused(.unavailable) = applied { true } else { false }
    }

    private func fill(_ group: inout MovingGroup, _ tag: String) throws {
        for number in 0..<6 { _ = group.put(Bytes("{\(tag)}\(number)"), Bytes("first")) }
        _ = group.put(Bytes("{\(tag)}short"), "s", timeToLive: 60_000)
        _ = group.put(Bytes("{\(tag)}long"), "l", timeToLive: 900_000)
        _ = group.apply(KeyValueCommand.delete(key: Bytes("{\(tag)}1")).payload())
        try group.send(Add(Bytes("{\(tag)}shelf"), 3))
        for element in ["x", "y", "z", "u", "v"] as [Bytes] {
            try group.send(MapPut(Bytes("{\(tag)}map"), element, "e", timeToLiveMillis: 500_000))
        }
    }

    /// What is in the target is what was in the source: values, revisions, and expiries shifted by one difference.
    private func expectSame(
        _ source: [ModelStore.Key: ModelStore.Record], _ target: [ModelStore.Key: ModelStore.Record],
        _ task: MigrationTask, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(Set(source.keys) == Set(target.keys), sourceLocation: sourceLocation)
        let shift = Int64(task.ownTime.rawValue) - Int64(task.sourceTime.rawValue)
        for (key, record) in source {
            guard let other = target[key] else { continue }
            let expiry = record.expiry == .zero ? 0 : Int64(record.expiry.rawValue) + shift
            #expect(
                record.value == other.value && record.revision == other.revision
                    && expiry == Int64(other.expiry.rawValue), "\(key)", sourceLocation: sourceLocation)
        }
    }

    @Test func slotsMoveWithAllThatIsInThem() throws {
        let moving = slots("a", "b", "c")
        let staying = slots("d")
        var source = try MovingGroup(1, logTime: 50_000)
        var target = try MovingGroup(2, logTime: 1_000)
        for tag in ["a", "b", "c", "d"] { try fill(&source, tag) }
        try fill(&target, "e")
        let foreign = target.records(in: slots("e"))

        // Nothing before its turn.
        #expect(target.nextPage(of: id, from: source, countMax: 3) == nil)
        let first = MigrationPage(
            number: 1, base: .zero, start: source.machine.applied, from: Bytes(), next: Bytes(),
            revision: source.machine.revision)
        for command: SlotCommand in [
            .page(id, first), .freeze(id), .seal(id, frozen: LogIndex(1), Revision(99), seen: target.seen(of: source)),
            .release(id, epoch),
            .activate(id, Epoch(2), .zero), .clear(id, []), .cleared(id),
        ] {
            let writes = (source.store.writes, target.store.writes)
            source.apply(command)
            target.apply(command)
            #expect(writes == (source.store.writes, target.store.writes) && source.ownership.tasks.isEmpty)
        }

        let started = source.machine.applied.next
        source.apply(.beginExport(id, moving, target: target.id))
        #expect(source.ownership.task(id)?.begun == started && source.ownership.tombstonesThrough == started)
        #expect(moving.allSatisfy { source.ownership.gate(of: $0) == .open })
        source.logTime += 70
        target.logTime += 3
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(source.logTime)))
        let task = try #require(target.ownership.task(id))
        #expect(task.sourceTime == LogTime(50_070) && task.ownTime == LogTime(1_003 + MigrationClock.slackMillis))
        #expect(moving.allSatisfy { target.ownership.gate(of: $0) == .arriving })

        // The first round, and changes before, in and behind what it has passed.
        var pages = 0
        repeat {
            let page = try #require(target.nextPage(of: id, from: source, countMax: 4))
            target.apply(.page(id, page))
            pages += 1
            _ = source.put("{a}0", Bytes("round 1, page \(pages)"))
            _ = source.put(Bytes("{b}new\(pages)"), "n")
            _ = source.apply(KeyValueCommand.delete(key: Bytes("{c}\(pages)")).payload())
        } while try #require(target.ownership.task(id)).progress.next.count > 0
        #expect(pages > 8)
        // A second one. A map is cleared, and a sweep is under way when all of it freezes.
        source.pass(30_000)
        _ = source.put("{c}short", "longer", timeToLive: 300_000)
        try target.takeRound(of: id, from: source)
        source.logTime += 40_000
        for command in source.due { source.apply(command.payload()) }
        #expect(source.value("{a}short") == nil && source.value("{c}short") == "longer")
        try source.send(MapClear("{a}map"))
        source.logTime += 1_000
        source.apply(try #require(source.due.first).payload())
        _ = source.put("{b}last", "l", timeToLive: 20_000)

        // The round before it does not do.
        let tooEarly = try #require(target.ownership.task(id)).progress.start
        source.apply(.freeze(id))
        let frozen = try #require(source.ownership.task(id))
        #expect(frozen.frozenIndex == source.machine.applied && frozen.revision == source.machine.revision)
        let given = source.records(in: moving)
        target.seal(id, frozen)
        #expect(target.ownership.task(id)?.phase == .importing && tooEarly < frozen.frozenIndex)
        #expect(isRefused(source.put("{a}0", "frozen")))
        #expect(isRefused(source.put("{a}0", "frozen", timeToLive: 5)))
        #expect(throws: Refusal.self) { try source.send(Add("{b}shelf", 1)) }
        #expect(source.put("{d}0", "served") == .done(revision: frozen.revision.next, body: Bytes()))
        source.pass(400_000)
        #expect(source.records(in: moving) == given)
        let stayed = source.records(in: staying)
        try target.takeRound(of: id, from: source)
        let late = try #require(target.nextPage(of: id, from: source, countMax: 1_000))
        target.seal(id, frozen)
        #expect(target.ownership.task(id)?.phase == .sealed)
        expectSame(given, target.records(in: moving), task)
        target.apply(.page(id, late))
        #expect(target.ownership.task(id)?.phase == .sealed)
        #expect(isRefused(target.put("{a}0", "too soon")))

        target.apply(.cleared(id))
        source.apply(.release(id, epoch))
        #expect(source.put("{a}0", "late") == .refused(.moved(group: target.id, epoch: epoch)))
        #expect(isRefused(target.put("{a}0", "too soon")))
        expectSame(given, target.records(in: moving), task)
        source.apply(.activate(id, Epoch(2), .zero))
        target.apply(.activate(id, Epoch(2), .zero))
        #expect(target.ownership.tasks.isEmpty && moving.allSatisfy { target.ownership.gate(of: $0) == .open })
        let above = given.values.map(\.revision).max() ?? .zero
        guard case .done(let revision, _) = target.put("{a}0", "served") else { throw Refusal.noQuorum }
        #expect(revision > above && revision > frozen.revision)
        let origin = try #require(target.ownership.origin(of: moving[0]))
        #expect(origin.source == source.id && origin.sourceRevision == frozen.revision)
        #expect(origin.revision == Revision(revision.rawValue - 1))
        #expect(try target.send(Add("{a}shelf", 2)).value == 5)
        #expect(try target.send(MapPut("{a}map", "x", "again", answersPrevious: true)).revision == nil)
        #expect(target.put("{e}0", "too") == .done(revision: Revision(revision.rawValue + 3), body: Bytes()))

        // What the source has left goes; what else it has stays.
        #expect(!source.records(in: moving).isEmpty)
        source.clear(id)
        #expect(source.ownership.tasks.isEmpty && source.ownership.tombstonesThrough == LogIndex(.max))
        #expect(source.records(in: moving).isEmpty && source.records(in: staying) == stayed)
        #expect(source.deadlines.allSatisfy { $0.slot.map { staying.contains($0) } ?? false })
        #expect(source.put("{a}0", "late") == .refused(.moved(group: target.id, epoch: epoch)))
        #expect(
            foreign.filter { $0.key.key != "{e}0" }.allSatisfy { target.records(in: slots("e"))[$0.key] == $0.value })
        // Times to live end where they are.
        #expect(target.value("{b}last") == "l")
        target.pass(100_000)
        #expect(target.value("{b}last") == nil && target.value("{c}short") == "longer")
        target.pass(2_000_000)
        #expect(target.value("{c}short") == nil && target.value("{a}long") == nil)
        #expect(target.records(in: moving).keys.filter { $0.key.starts(with: "{b}new") }.count == pages)
        try source.restart()
        try target.restart()
        #expect(source.areReplicasEqual && target.areReplicasEqual)
    }

    @Test func whatWasAbortedGoesOnAtTheSource() throws {
        let moving = slots("a", "b")
        for isFrozen in [false, true] {
            for isSealed in isFrozen ? [false, true] : [false] {
                var (source, target) = (try MovingGroup(1, logTime: 9_000), try MovingGroup(2))
                try fill(&source, "a")
                let all = source.records(in: moving)
                try target.begin(id, moving, from: &source)
                if isSealed {
                    try target.freezeAndSeal(id, from: &source)
                } else if isFrozen {
                    source.apply(.freeze(id))
                }
                source.pass()
                if isFrozen { #expect(isRefused(source.put("{a}0", "v"))) }
                source.apply(.forget(id, moving))
                if isFrozen {
                    #expect(source.machine.earliestDeadline == .zero, "what was put off is looked for again")
                    #expect(source.records(in: moving) == all)
                }
                #expect(source.put("{a}0", "goes on") == .done(revision: source.machine.revision, body: Bytes()))
                #expect(source.ownership.tasks.isEmpty)
                target.apply(.forget(id, moving))
                #expect(target.ownership.task(id)?.phase == .dropping && isRefused(target.put("{a}0", "v")))
                // It comes too late.
                target.apply(.activate(id, Epoch(2), .zero))
                source.apply(.release(id, epoch))
                source.apply(.beginExport(id, moving, target: target.id))
                #expect(source.ownership.tasks.isEmpty && target.ownership.task(id)?.phase == .dropping)
                target.clear(id)
                #expect(
                    target.ownership.tasks.isEmpty && target.records(in: moving).isEmpty && target.deadlines.isEmpty)
                #expect(target.put("{a}0", "v") == .refused(.moved(group: source.id, epoch: .zero)))
                target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(9_000)))
                #expect(target.ownership.tasks.isEmpty)
                // The next one goes all the way.
                try target.take(8, moving, from: &source)
                #expect(target.value("{a}0") == "goes on" && target.value("{a}long") == "l")
            }
        }
    }

    /// A watch that waits where its slot was is told how far that went, also while the slot comes back, and when nothing
    /// comes of that.
    @Test func whereASlotWentIsKnownUntilItIsServedAgain() throws {
        let moving = slots("a")
        var (first, second) = (try MovingGroup(1), try MovingGroup(2))
        try fill(&first, "a")
        try second.take(8, moving, from: &first)
        let gone = try #require(first.ownership.lastRevision(of: moving[0]))
        _ = first.put("{z}0", "of no interest there")
        #expect(gone < first.machine.revision && second.ownership.lastRevision(of: moving[0]) == nil)

        try first.begin(MigrationID(9), moving, from: &second)
        #expect(first.ownership.lastRevision(of: moving[0]) == gone)
        first.apply(.forget(MigrationID(9), moving))
        second.apply(.forget(MigrationID(9), moving))
        first.clear(MigrationID(9))
        try first.restart()
        #expect(first.ownership.lastRevision(of: moving[0]) == gone)
        #expect(second.ownership.origin(of: moving[0])?.sourceRevision == gone)

        try first.begin(MigrationID(10), moving, from: &second)
        try first.freezeAndSeal(MigrationID(10), from: &second)
        // Where it is frozen it is served to those who watch.
        #expect(second.ownership.origin(of: moving[0])?.source == first.id)
        try first.releaseAndActivate(MigrationID(10), from: &second, Epoch(9))
        #expect(first.ownership.lastRevision(of: moving[0]) == nil)
        #expect(first.ownership.origin(of: moving[0])?.source == second.id)
    }

    @Test func whoForgotBeforeItBeganNeverBegins() throws {
        let moving = slots("a", "b")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        source.apply(.forget(id, moving))
        target.apply(.forget(id, moving))
        try source.restart()
        try target.restart()
        source.apply(.beginExport(id, [moving[1]], target: target.id))
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(1)))
        source.apply(.beginExport(MigrationID(6), moving, target: target.id))
        #expect(source.ownership.tasks.isEmpty && target.ownership.tasks.isEmpty)
        #expect(source.put("{a}0", "v") == .done(revision: Revision(1), body: Bytes()))
        source.apply(.beginExport(MigrationID(8), moving, target: target.id))
        #expect(source.ownership.tasks.count == 1)
        // No slot in two.
        source.apply(.beginExport(MigrationID(9), [moving[0]], target: target.id))
        #expect(source.ownership.tasks.count == 1)
    }

    @Test func ofTwoDriversPagesOneIsTaken() throws {
        let moving = slots("a", "b")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        try fill(&source, "a")
        try fill(&source, "b")
        source.apply(.beginExport(id, moving, target: target.id))
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(source.logTime)))
        var rounds = 0
        while rounds < 3 {
            // Each driver has seen the page before, and takes as many as it likes.
            let one = try #require(target.nextPage(of: id, from: source, countMax: 3))
            _ = source.put("{a}0", Bytes("\(source.machine.applied)"))
            _ = source.apply(KeyValueCommand.delete(key: Bytes("{b}\(one.number)")).payload())
            let two = try #require(target.nextPage(of: id, from: source, countMax: 5))
            for page in one.number % 2 == 0 ? [one, two, one] : [two, one, two] { target.apply(.page(id, page)) }
            let progress = try #require(target.ownership.task(id)).progress
            #expect(progress.page == one.number && progress.next == (one.number % 2 == 0 ? one : two).next)
            if progress.next.isEmpty { rounds += 1 }
        }
        try target.freezeAndSeal(id, from: &source)
        expectSame(source.records(in: moving), target.records(in: moving), try #require(target.ownership.task(id)))
    }

    @Test func pagesOutOfOrderChangeNothing() throws {
        let moving = slots("a")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        try fill(&source, "a")
        source.apply(.beginExport(id, moving, target: target.id))
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(1)))
        let page = try #require(target.nextPage(of: id, from: source, countMax: 3))
        func altered(_ page: MigrationPage, _ body: (inout MigrationPage) -> Void) -> MigrationPage {
            var page = page
            body(&page)
            return page
        }
        let start = page.start.rawValue
        func expectUntaken(_ pages: [MigrationPage]) {
            for page in pages {
                let writes = target.store.writes
                #expect(target.apply(.page(id, page)) == .done(revision: target.machine.revision, body: Bytes()))
                #expect(target.store.writes == writes)
            }
        }
        expectUntaken([
            altered(page) { $0.number = 0 }, altered(page) { $0.number = 2 }, altered(page) { $0.base = LogIndex(1) },
            altered(page) { $0.start = .zero },
        ])
        target.apply(.page(id, page))
        let second = try #require(target.nextPage(of: id, from: source, countMax: 1_000))
        #expect(second.number == 2 && second.base == .zero && second.start == page.start)
        expectUntaken([
            page, altered(second) { $0.number = 3 }, altered(second) { $0.base = page.start },
            altered(second) { $0.start = LogIndex(start + 1) }, altered(second) { $0.start = LogIndex(start - 1) },
        ])
        target.apply(.page(id, second))
        _ = source.put("{a}0", "v")
        let next = try #require(target.nextPage(of: id, from: source, countMax: 1_000))
        #expect(next.number == 3 && next.base == page.start && next.records.count == 1)
        expectUntaken([
            second, altered(next) { $0.base = .zero }, altered(next) { $0.base = LogIndex(start + 1) },
            altered(next) { $0.start = LogIndex(start - 1) },
        ])
        // Nobody else's records.
        for page in [
            altered(next) { $0.records[0].place.slot = Slot(1) },
            altered(next) { $0.records[0].place.machine = .sessions },
            altered(next) { $0.records[0].revision = $0.revision.next },
            altered(next) {
                $0.holders = [
                    .init(
                        session: SessionID(1), timeToLive: 1_000,
                        holdings: [.init(machine: LockMachine.number, slot: Slot(1), name: "n")])
                ]
            },
        ] {
            var stopped = target
            guard case .unsupported = stopped.apply(.page(id, page)) else {
                Issue.record("it was taken")
                continue
            }
            #expect(stopped.store == target.store && stopped.ownership == target.ownership)
            #expect(
                stopped.machine.applied == target.machine.applied && stopped.machine.digest == target.machine.digest)
        }
    }

    /// Of clear commands too.
    @Test func nothingElseIsDeleted() throws {
        let moving = slots("a")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        try fill(&source, "a")
        try fill(&source, "d")
        try target.begin(id, moving, from: &source)
        try target.freezeAndSeal(id, from: &source)
        try target.releaseAndActivate(id, from: &source, epoch)
        let stays = source.deadlines.filter { $0.slot == slot(of: "{d}") }
        source.apply(
            .clear(id, stays.map { RecordPosition(slot: .group, machine: .deadlines, key: $0.key.key) }))
        #expect(source.deadlines.filter { $0.slot == slot(of: "{d}") } == stays && !stays.isEmpty)
        for place in [
            RecordPosition(slot: slot(of: "{d}"), machine: .keyValue, key: "{d}0"),
            RecordPosition(slot: .group, machine: .sessions, key: "12345678"),
        ] {
            var stopped = source
            guard case .unsupported = stopped.apply(.clear(id, [place])) else {
                Issue.record("it was deleted")
                continue
            }
            #expect(stopped.store == source.store)
        }
        // What is not in memory is waited for.
        let timer = try #require(source.deadlines.first { $0.slot == moving[0] })
        let place = RecordPosition(slot: .group, machine: .deadlines, key: timer.key.key)
        source.store.elsewhere = [place]
        let digest = source.machine.digest
        #expect(source.apply(.clear(id, [place])) == .unready([place]))
        #expect(source.machine.digest == digest)
        source.store.elsewhere = []
        source.apply(.clear(id, [place]))
        #expect(!source.deadlines.contains(timer))
        source.clear(id)
        let late = target.store.writes
        target.apply(.clear(id, [RecordPosition(slot: moving[0], machine: .keyValue, key: "{a}0")]))
        #expect(target.value("{a}0") == "first" && target.store.writes == late)
    }

    /// Its revisions are its own: what comes with slots raises nothing but that it goes on above them.
    @Test func othersSlotsGoOnInBetween() throws {
        let moving = slots("a")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        for number in 0..<50 { _ = source.put("{a}k", Bytes("\(number)")) }
        _ = target.put("{e}k", "1")
        try target.begin(id, moving, from: &source)
        #expect(target.machine.revision == Revision(50))
        #expect(target.put("{e}k", "2") == .done(revision: Revision(51), body: Bytes()))
        let told = target.machine.revision
        try target.freezeAndSeal(id, from: &source)
        try target.releaseAndActivate(id, from: &source, epoch)
        #expect(target.machine.revision == told)
        let before = source.machine.revision
        source.clear(id)
        #expect(source.machine.revision == before)
        #expect(target.record("{a}k")?.revision == Revision(50))
        // Behind it, not above: the source went on with others.
        for _ in 0..<9 { _ = target.put("{e}k", "3") }
        try source.take(8, moving, from: &target)
        #expect(source.put("{a}k", "back") == .done(revision: Revision(61), body: Bytes()))
        #expect(target.put("{a}k", "late") == .refused(.moved(group: source.id, epoch: Epoch(8))))
    }

    /// Whatever each of the two was at: one has the slots, the other nothing of them, and they can move on.
    @Test func whatARecoverySettlesIsOneGroupsAlone() throws {
        let moving = slots("a", "b")
        let last = MigrationID(90)
        for step in 0..<7 {
            for sourceOwns in [false, true] {
                var (source, target) = (try MovingGroup(1, logTime: 50_000), try MovingGroup(2))
                for tag in ["a", "b", "c"] { try fill(&source, tag) }
                let session = try source.open()
                try source.send(PermitAcquire<LockMachine>("{a}lock"), of: session, call: 1)
                let records = source.records(in: moving)
                let steps: [(inout MovingGroup, inout MovingGroup) throws -> Void] = [
                    { [id] source, target in source.apply(.beginExport(id, moving, target: target.id)) },
                    { [id] source, target in
                        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(50_000)))
                        try target.takeRound(of: id, from: source)
                    },
                    { [id] source, target in try target.freezeAndSeal(id, from: &source) },
                    { [id, epoch] source, _ in source.apply(.release(id, epoch)) },
                    { [id] _, target in target.apply(.activate(id, Epoch(12), .zero)) },
                    { [id] source, _ in source.clear(id) },
                ]
                for number in 0..<step { try steps[number](&source, &target) }
                try source.restart()
                try target.restart()
                // The log alone says the same of slots.
                #expect(source.ownership.lastMigration == (step > 0 ? id : .none))
                for _ in 0..<2 {
                    source.apply(.settle(last, moving, other: target.id, Epoch(40), owns: sourceOwns))
                    target.apply(.settle(last, moving, other: source.id, Epoch(40), owns: !sourceOwns))
                }
                for place in moving {
                    let (owner, other) = sourceOwns ? (source, target) : (target, source)
                    #expect(owner.ownership.gate(of: place) == .open && owner.ownership.epoch(of: place) == Epoch(40))
                    #expect(other.ownership.gate(of: place) == .moved(owner.id, Epoch(40)))
                }
                // Nothing of the old one has any effect.
                for command: SlotCommand in [
                    .freeze(id), .release(id, epoch), .activate(id, Epoch(12), .zero), .forget(id, moving),
                    .cleared(id),
                    .beginExport(id, moving, target: target.id),
                ] {
                    let before = (source.ownership, target.ownership)
                    source.apply(command)
                    target.apply(command)
                    #expect(source.ownership == before.0 && target.ownership == before.1, "\(command)")
                }
                if sourceOwns { target.clear(last) } else { source.clear(last) }
                try source.restart()
                try target.restart()
                #expect(source.ownership.tasks.isEmpty && target.ownership.tasks.isEmpty)
                #expect((sourceOwns ? target : source).records(in: moving).isEmpty)
                if sourceOwns, step < 6 { #expect(source.records(in: moving) == records) }
                if !sourceOwns, step > 2 { #expect(Set(target.records(in: moving).keys) == Set(records.keys)) }
                #expect(source.ownership.tombstonesThrough == LogIndex(.max))
                // On to the other one.
                if sourceOwns {
                    try target.take(95, moving, from: &source)
                } else {
                    try source.take(95, moving, from: &target)
                }
                #expect(source.areReplicasEqual && target.areReplicasEqual)
            }
        }
    }

    /// What is read off a log without records is what the group's machine came to.
    @Test func aLogAloneSaysWhereItsSlotsAre() throws {
        let moving = slots("a", "b")
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        try fill(&source, "a")
        try target.take(7, moving, from: &source)
        try source.begin(MigrationID(9), slots("a"), from: &target)
        let empty = try MasterStateMachine(group: GroupID(1)).ownership
        var followed = (empty, empty)
        for entry in source.log { followed.0.follow(entry) }
        for entry in target.log { followed.1.follow(entry) }
        func words(_ ownership: SlotOwnership) -> [String] {
            ownership.traces.map { "\($0.migration) \($0.standing) \($0.group) \($0.epoch) \($0.slots)" }
        }
        #expect(words(followed.0) == words(source.ownership) && words(followed.1) == words(target.ownership))
        #expect(words(source.ownership).count == 2 && words(target.ownership).count == 2)
        #expect(followed.0.lastMigration == MigrationID(9))
    }
}
