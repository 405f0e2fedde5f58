// Sessions beside slots that move: whose calls are answered where, and who has what they hold.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct SlotSessionTests {
    private typealias Acquire = PermitAcquire<LockMachine>
    private let id = MigrationID(3)
    private let epoch = Epoch(4)
    private let moving = [slot(of: "{a}")]

    private func isRefused(_ applied: Applied) -> Bool {
        if case .refused(.unavailable) = applied { true } else { false }
    }

    private func isRepeated(_ applied: Applied) -> Bool { if case .repeated = applied { true } else { false } }

    /// Those of whom leaders say that their time is over.
    private func expire(_ group: inout MovingGroup) -> Int {
        let before = group.machine.sessions.count
        var machine = group.machine
        let due = machine.sessionsDue(at: LogTime(group.logTime), countMax: 100).sorted {
            $0.id.rawValue < $1.id.rawValue
        }
        group.apply(SessionCommand.expire(due).payload())
        return before - group.machine.sessions.count
    }

    /// Who has the lock: 0 for nobody. Asked by a session that does not wait.
    private func holder(_ group: MovingGroup) throws -> SessionID {
        var group = group
        let session = try group.open()
        let answer = try group.send(Acquire("{a}lock"), of: session, call: 1)
        return answer.state == .granted ? .none : answer.holder?.session ?? SessionID(.max)
    }

    @Test func theSourceAnswersWhatItAnsweredBefore() throws {
        for isReleased in [true, false] {
            var (source, target) = (try MovingGroup(1), try MovingGroup(2))
            let session = try source.open()
            let first = source.put("{a}k", "1", session, 1)
            #expect(first == .done(revision: Revision(1), body: Bytes()))
            try target.begin(id, moving, from: &source)
            source.apply(.freeze(id))
            #expect(isRepeated(source.put("{a}k", "1", session, 1)))
            #expect(isRefused(source.put("{a}k", "2", session, 2)))
            #expect(isRefused(source.put("{a}k", "2", session, 2)))
            #expect(source.machine.sessions.callCount == 1)
            // Others' slots are served.
            #expect(source.put("{b}k", "3", session, 3) == .done(revision: Revision(2), body: Bytes()))
            try target.takeRound(of: id, from: source)
            let frozen = try #require(source.ownership.task(id))
            target.seal(id, frozen)
            if isReleased {
                try target.releaseAndActivate(id, from: &source, epoch)
                for round in 0..<3 {
                    #expect(isRepeated(source.put("{a}k", "1", session, 1)))
                    #expect(source.put("{a}k", "2", session, 2) == .refused(.moved(group: target.id, epoch: epoch)))
                    #expect(isRepeated(source.put("{b}k", "3", session, 3)))
                    if round == 0 { source.clear(id) } else { try source.restart() }
                }
                #expect(source.value("{a}k") == nil && target.value("{a}k") == "1")
                // The slot comes back, and nothing of the call was ever done.
                try source.take(9, moving, from: &target)
                #expect(source.put("{a}k", "2", session, 2) == .done(revision: Revision(3), body: Bytes()))
            } else {
                source.apply(.forget(id, moving))
                try source.restart()
                #expect(source.put("{a}k", "2", session, 2) == .done(revision: Revision(3), body: Bytes()))
            }
            #expect(isRepeated(source.put("{a}k", "1", session, 1)) && isRepeated(source.put("{a}k", "2", session, 2)))
            #expect(source.value("{a}k") == "2")
        }
    }

    /// It is a sign of life all the same, and acknowledges.
    @Test func aRefusedCallKeepsItsSessionAlive() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let session = try source.open(timeToLive: 10_000)
        _ = source.put("{b}k", "1", session, 1)
        try target.take(3, moving, from: &source)
        for _ in 0..<3 {
            source.logTime += 9_000
            let header = CommandHeader(machine: .keyValue, session: session, sequence: 2, firstUnacknowledged: 2)
            #expect(
                source.apply(KeyValueCommand.put(key: "{a}k", value: "2").payload(header: header))
                    == .refused(.moved(group: target.id, epoch: Epoch(3))))
            #expect(expire(&source) == 0 && source.machine.sessions.callCount == 0)
        }
        source.logTime += 10_000
        #expect(expire(&source) == 1)
    }

    @Test func whoHoldsSomethingThatMovesEndsWhereItIsThen() throws {
        for isRestarted in [false, true] {
            var (source, target) = (try MovingGroup(1, logTime: 77_000), try MovingGroup(2))
            let (ada, bob, eve) = (try source.open(), try source.open(), try source.open())
            let token = try source.send(Acquire("{a}lock"), of: ada, call: 1).token
            #expect(try source.send(Acquire("{a}lock", waitMillis: .max), of: bob, call: 1).state == .queued)
            #expect(try source.send(Acquire("{b}lock"), of: ada, call: 2).state == .granted)
            #expect(try source.send(Acquire("{b}other"), of: eve, call: 1).state == .granted)
            try target.begin(id, moving, from: &source)
            // Until it is frozen, whoever ends gives it back here.
            var ended = source
            ended.apply(SessionCommand.close(ada).payload())
            #expect(try holder(ended) == bob)

            source.apply(.freeze(id))
            let records = source.records(in: moving)
            #expect(isRefused(source.apply(SessionCommand.close(ada).payload())))
            source.logTime += 20_000
            // Eve holds nothing that moves.
            #expect(expire(&source) == 1 && source.machine.sessions.count == 2)
            #expect(source.records(in: moving) == records)
            try target.takeRound(of: id, from: source)
            #expect(target.machine.sessions.count == 2)
            let frozen = try #require(source.ownership.task(id))
            target.seal(id, frozen)
            if isRestarted {
                try source.restart()
                try target.restart()
            }
            let arrived = target.records(in: moving)
            #expect(isRefused(target.apply(SessionCommand.close(ada).payload())))
            target.logTime += 20_000
            #expect(expire(&target) == 0 && target.records(in: moving) == arrived)

            source.apply(.release(id, epoch))
            let released = try #require(source.ownership.task(id))
            #expect(source.machine.sessions.holders(in: released, behind: nil, bytesMax: .max).holders.isEmpty)
            // It ends at the source, and gives back there what did not move.
            let left = source.records(in: moving)
            source.apply(SessionCommand.close(ada).payload())
            #expect(source.records(in: moving) == left && source.machine.sessions.count == 1)
            #expect(try source.send(Acquire("{b}lock"), of: bob, call: 2).state == .granted)

            target.apply(.activate(id, Epoch(2), .zero))
            if isRestarted { try target.restart() }
            #expect(try holder(target) == ada)
            // From now on it has all of its time.
            target.logTime += 9_999
            #expect(expire(&target) == 0)
            // Whether it did a call before is not known here: it takes none, and no words.
            #expect(throws: Refusal.sessionExpired) { try target.send(Acquire("{a}lock"), of: bob, call: 2) }
            let word = SessionCommand.keepAlive([.init(id: bob, firstUnacknowledged: 1)])
            #expect(target.apply(word.payload()) == .done(revision: target.machine.revision, body: Self.body([bob])))
            // Bob has a session here, which stands for the other.
            let own = try target.open()
            #expect(try takeOver([bob], by: own, 1, &target) == [bob])
            target.logTime += 1
            #expect(expire(&target) == 1)
            #expect(try holder(target) == bob)
            let carol = try target.open()
            let next = try target.send(Acquire("{a}lock", waitMillis: .max), of: carol, call: 1)
            #expect(next.state == .queued && next.holder?.session == bob && next.holder?.number ?? 0 > token)
            source.clear(id)
            #expect(source.areReplicasEqual && target.areReplicasEqual)
            // What is there of them may go on to a third group.
            var third = try MovingGroup(3)
            try third.take(5, moving, from: &target)
            #expect(try holder(third) == bob && third.machine.sessions.count == 2)
            // There it is nobody's yet.
            third.logTime += 10_000
            #expect(expire(&third) == 2)
        }
    }

    private static func body(_ ids: [SessionID]) -> Bytes {
        var writer = ByteWriter()
        for id in ids { writer.write(id) }
        return writer.take()
    }

    private func takeOver(
        _ ids: [SessionID], by session: SessionID, _ call: UInt64, from first: UInt64? = nil, _ group: inout MovingGroup
    ) throws -> [SessionID] {
        var payload = ByteWriter()
        let header = CommandHeader(
            machine: .sessions, session: session, sequence: call, firstUnacknowledged: first ?? call)
        header.encode(into: &payload)
        let command = SessionCommand.takeOver(moving[0], ids).payload()
        payload.write(command[CommandHeader.encodedBytes..<command.count])
        let bytes = payload.take()
        #expect(
            MasterStateMachine.check(bytes, slot: moving[0], level: FeatureLevel.migrations) == nil
                && MasterStateMachine.check(bytes, slot: moving[0], level: FeatureLevel.gatherings) != nil
                && MasterStateMachine.check(bytes, slot: .group, level: FeatureLevel.migrations) != nil)
        let body: Bytes
        switch group.apply(bytes) {
        case .done(_, let bytes): body = bytes
        case .repeated(let answer):
            guard case .done(let bytes) = answer.outcome else { throw Refusal.noQuorum }
            body = bytes
        case .refused(let refusal): throw refusal
        case let other: throw DecodingFailure(expected: "an answer", found: "\(other)")
        }
        var reader = ByteReader(body)
        var found: [SessionID] = []
        while reader.remaining > 0 { found.append(try reader.read()) }
        return found
    }

    private func hold(
        _ session: SessionID, _ slots: [HeldSlot], _ group: inout MovingGroup
    ) throws -> HeldSlotsAnswer {
        let payload = SessionCommand.hold(.init(id: session, firstUnacknowledged: 1), slots).payload()
        #expect(
            MasterStateMachine.check(payload, slot: .group, level: FeatureLevel.migrations) == nil
                && MasterStateMachine.check(payload, slot: .group, level: FeatureLevel.gatherings) != nil)
        guard case .done(_, let body) = group.apply(payload) else { throw Refusal.noQuorum }
        return try HeldSlotsAnswer(decoding: body)
    }

    /// A client with a session in each group: what it got by the first one it goes on with by the second.
    @Test func theClientsOwnSessionStandsForTheOneThatCame() throws {
        for isRestarted in [false, true] {
            var (source, target) = (try MovingGroup(1), try MovingGroup(2))
            let (ada, bob) = (try source.open(), try source.open())
            let token = try source.send(Acquire("{a}lock", wish: 77), of: ada, call: 1).token
            #expect(try source.send(Acquire("{a}lock", waitMillis: .max), of: bob, call: 1).state == .queued)
            try target.take(3, moving, from: &source)
            let (own, others) = (try target.open(), try target.open())
            // Others are nobody's, and the calling session is its own already.
            #expect(try takeOver([SessionID(5), own, ada], by: own, 1, &target) == [own, ada])
            if isRestarted { try target.restart() }
            // As often as it comes: the same answer, and a late copy finds that it is acknowledged.
            #expect(try takeOver([SessionID(5), own, ada], by: own, 1, &target) == [own, ada])
            // With it both live.
            for _ in 0..<4 {
                target.logTime += 6_000
                let answer = try hold(own, [HeldSlot(slot: moving[0], epoch: Epoch(2))], &target)
                #expect(answer == HeldSlotsAnswer(isThere: true))
                _ = try hold(others, [], &target)
                _ = expire(&target)
                if isRestarted { try target.restart() }
            }
            // Bob's client has not come: his wait is over. Ada has the lock.
            #expect(target.machine.sessions.count == 3)
            #expect(try holder(target) == ada)
            // Calls of the own one are those of who has it; and of nobody else.
            #expect(try target.send(PermitCancel<LockMachine>("{a}lock", wish: 77), of: others, call: 1) == false)
            let again = try target.send(Acquire("{a}lock", waitMillis: .max), of: own, call: 2)
            #expect(again.session == ada && again.state == .queued && again.ticket > token)
            #expect(try target.send(Acquire("{a}other"), of: own, call: 3).session == own)
            #expect(try target.send(PermitCancel<LockMachine>("{a}lock", wish: 77), of: own, call: 4) == true)
            #expect(try target.send(Acquire("{a}lock", waitMillis: .max), of: others, call: 2).state == .queued)
            #expect(try holder(target) == ada)
            #expect(throws: Refusal.self) { try takeOver([ada], by: own, 1, from: 1, &target) }
            // Both end as one, and give all back.
            var closed = target
            closed.apply(SessionCommand.close(own).payload())
            #expect(closed.machine.sessions.count == 1)
            #expect(try holder(closed) == others)
            target.logTime += 10_000
            _ = try hold(others, [], &target)
            #expect(expire(&target) == 2)
            #expect(try holder(target) == others)
            #expect(target.areReplicasEqual)
        }
    }

    @Test func whatIsHeldGoesOnAndComesBack() throws {
        for isRestarted in [false, true] {
            var groups = [try MovingGroup(1), try MovingGroup(2), try MovingGroup(3)]
            let own = [try groups[0].open(), try groups[1].open(), try groups[2].open()]
            #expect(try groups[0].send(Acquire("{a}lock"), of: own[0], call: 1).session == own[0])
            var calls: [UInt64] = [2, 1, 1]
            var number: UInt64 = 3
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0), (0, 1), (1, 0)] {
                var source = groups[from]
                try groups[to].take(number, moving, from: &source)
                groups[from] = source
                if isRestarted { for place in groups.indices { try groups[place].restart() } }
                let found = try takeOver(own, by: own[to], calls[to], &groups[to])
                #expect(found.contains(own[0]))
                calls[to] += 1
                number += 1
                for place in groups.indices { groups[place].logTime += 7_000 }
                for place in groups.indices {
                    let answer = try hold(own[place], [HeldSlot(slot: moving[0], epoch: Epoch(2))], &groups[place])
                    #expect(answer.isThere)
                    _ = expire(&groups[place])
                }
                #expect(try holder(groups[to]) == own[0])
            }
            let released = try groups[0].send(PermitCancel<LockMachine>("{a}lock", wish: 0), of: own[0], call: calls[0])
            #expect(released)
            #expect(try holder(groups[0]) == .none)
            // Nobody is left whose time does not end.
            for place in groups.indices {
                groups[place].logTime += 60_000
                _ = expire(&groups[place])
                #expect(groups[place].machine.sessions.count == 0)
            }
        }
    }

    /// The client has given up the session that stood for it, and uses another one.
    @Test func theLastOneThatSaysSoStandsForIt() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        try target.take(3, moving, from: &source)
        let (first, second) = (try target.open(), try target.open())
        #expect(try takeOver([ada], by: first, 1, &target) == [ada])
        _ = try target.send(Acquire("{a}other"), of: first, call: 2)
        // One that has calls of its own and stands for others.
        #expect(try takeOver([first], by: second, 1, &target) == [first])
        #expect(throws: Refusal.sessionExpired) { try takeOver([ada], by: first, 3, &target) }
        try target.restart()
        for _ in 0..<3 {
            target.logTime += 6_000
            _ = try hold(second, [], &target)
            #expect(expire(&target) == 0)
        }
        #expect(try holder(target) == ada)
        #expect(target.machine.sessions.count == 3 && target.machine.sessions.callCount == 1)
        target.apply(SessionCommand.close(second).payload())
        #expect(target.machine.sessions.count == 0 && target.machine.sessions.callCount == 0)
        #expect(try holder(target) == .none)
    }

    /// While its slot is on the way nobody stands for it, and who does does not end.
    @Test func whoStandsForOneThatIsOnItsWayDoesNotEnd() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        let own = try target.open()
        try target.begin(id, moving, from: &source)
        #expect(throws: Refusal.self) { try takeOver([ada], by: own, 1, &target) }
        try target.freezeAndSeal(id, from: &source)
        try target.releaseAndActivate(id, from: &source, epoch)
        source.clear(id)
        #expect(try takeOver([ada], by: own, 1, &target) == [ada])
        let answer = try hold(ada, [HeldSlot(slot: moving[0], epoch: .zero)], &source)
        #expect(
            answer == HeldSlotsAnswer(isThere: true, moved: [.init(slot: moving[0], group: target.id, epoch: epoch)]))
        target.apply(.beginExport(MigrationID(9), moving, target: GroupID(3)))
        target.apply(.freeze(MigrationID(9)))
        target.logTime += 50_000
        #expect(expire(&target) == 0)
        #expect(isRefused(target.apply(SessionCommand.close(own).payload())))
        target.apply(.forget(MigrationID(9), moving))
        #expect(expire(&target) == 2)
        #expect(try holder(target) == .none)
    }

    /// It went, and came back: what its holder knows of it is old.
    @Test func aWordNamesWhatWentAndCameBack() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        try target.take(3, moving, from: &source)
        try source.take(4, moving, from: &target)
        let now = source.ownership.epoch(of: moving[0])
        let other = Slot(moving[0].rawValue ^ 1)
        let held = [HeldSlot(slot: moving[0], epoch: .zero), HeldSlot(slot: other, epoch: .zero)]
        #expect(
            try hold(ada, held, &source)
                == HeldSlotsAnswer(isThere: true, moved: [.init(slot: moving[0], group: source.id, epoch: now)]))
        #expect(try takeOver([ada], by: ada, 2, &source) == [ada])
        #expect(
            try hold(ada, [HeldSlot(slot: moving[0], epoch: now)], &source) == HeldSlotsAnswer(isThere: true))
        #expect(try hold(SessionID(4), held, &source) == HeldSlotsAnswer(isThere: false))
        #expect(try holder(source) == ada)
    }

    /// As they stand in stores: they never change. SessionTests has the commands' bytes.
    @Test func bytesOfSessionsThatCameAreFrozen() throws {
        func hex(_ bytes: Bytes) -> String {
            bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        func long(_ number: UInt64) -> String {
            var writer = ByteWriter()
            writer.write(number)
            return hex(writer.take())
        }
        func join(_ parts: String...) -> String { parts.joined() }
        var (source, target) = (try MovingGroup(1), try MovingGroup(2, logTime: 3_000))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        try target.take(3, moving, from: &source)
        func record(_ group: MovingGroup) -> String {
            let records = group.records(of: .sessions).filter { $0.key.key == SessionRecord.key(of: ada) }
            return hex(records.first?.value.value ?? Bytes())
        }
        // No answers, and one object: of machine 22, in slot 15495.
        let held = join("00000000", "0100", "1600", "873c", "07000000", "7b617d6c6f636b")
        let arrived = long(target.machine.applied.rawValue)
        try target.restart()
        #expect(record(target) == join("03", long(10_000), long(3_000), arrived, long(1), held))
        let own = try target.open()
        #expect(try takeOver([ada], by: own, 1, &target) == [ada])
        let taken = long(target.machine.applied.rawValue)
        try target.restart()
        #expect(record(target) == join("04", long(10_000), long(3_000), taken, long(1), held, long(own.rawValue)))
    }

    @Test func commandsAboutWhatIsHeldAreBounded() throws {
        let ids = (1...SessionCommand.takenMax + 1).map { SessionID(UInt64($0)) }
        let slots = (0...SessionCommand.countMax).map { HeldSlot(slot: Slot(UInt16($0)), epoch: Epoch(7)) }
        let word = SessionCommand.Life(id: SessionID(9), firstUnacknowledged: 3)
        for command in [
            SessionCommand.takeOver(Slot(5), Array(ids.dropLast())), .hold(word, Array(slots.dropLast())),
            .hold(word, []),
        ] {
            #expect(try SessionCommand(payload: command.payload()) == command && command.problem() == nil)
        }
        let first = SessionCommand.Life(id: SessionID(9), firstUnacknowledged: 0)
        for command in [
            SessionCommand.takeOver(Slot(5), ids), .takeOver(Slot(5), []), .takeOver(.group, [SessionID(1)]),
            .hold(word, slots), .hold(first, []), .hold(word, [HeldSlot(slot: .group, epoch: .zero)]),
        ] {
            #expect(command.problem() != nil)
        }
        #expect(throws: DecodingFailure.self) {
            try SessionCommand(payload: SessionCommand.takeOver(Slot(5), ids).payload())
        }
        #expect(throws: DecodingFailure.self) {
            try SessionCommand(payload: SessionCommand.hold(word, slots).payload())
        }
        let answer = HeldSlotsAnswer(
            isThere: true, moved: [.init(slot: Slot(5), group: GroupID(3), epoch: Epoch(8))])
        #expect(try HeldSlotsAnswer(decoding: answer.encoded()) == answer)
    }

    @Test func anAbortGivesAllBack() throws {
        for isSealed in [false, true] {
            var (source, target) = (try MovingGroup(1), try MovingGroup(2))
            let (ada, bob) = (try source.open(), try source.open())
            _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
            _ = try source.send(Acquire("{a}lock", waitMillis: .max), of: bob, call: 1)
            try target.begin(id, moving, from: &source)
            source.apply(.freeze(id))
            try target.takeRound(of: id, from: source)
            let frozen = try #require(source.ownership.task(id))
            if isSealed { target.seal(id, frozen) }
            source.apply(.forget(id, moving))
            target.apply(.forget(id, moving))
            target.logTime += 50_000
            #expect(isRefused(target.apply(SessionCommand.close(ada).payload())))
            #expect(expire(&target) == 0)
            try target.restart()
            target.clear(id)
            let writes = target.records(in: moving)
            #expect(expire(&target) == 2)
            #expect(target.records(in: moving) == writes && writes.isEmpty)

            #expect(try holder(source) == ada)
            try source.restart()
            source.apply(SessionCommand.close(ada).payload())
            #expect(try holder(source) == bob)
            source.logTime += 50_000
            #expect(expire(&source) == 1)
            #expect(try holder(source) == .none)
        }
    }

    /// The table is full of others: who comes with a slot is taken all the same.
    @Test func holdersComeWhateverThereIs() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        _ = try source.send(Acquire("{a}other"), of: ada, call: 2)
        for _ in 0..<SessionTable.Limits.sessionsMax { _ = try target.open() }
        try target.begin(id, moving, from: &source)
        try target.freezeAndSeal(id, from: &source)
        #expect(target.machine.sessions.count == SessionTable.Limits.sessionsMax + 1)
        try target.releaseAndActivate(id, from: &source, epoch)
        try target.restart()
        #expect(target.machine.sessions.count == SessionTable.Limits.sessionsMax + 1)
        let held = target.records(in: moving)
        target.apply(SessionCommand.close(ada).payload())
        #expect(target.records(in: moving).count < held.count, "both locks' holders are gone")
        #expect(target.machine.sessions.isFull)
    }

    /// Those that came do not take the places of sessions that are opened: their clients need these to take them over.
    @Test func whoComesTakesNobodysPlace() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        _ = try source.send(Acquire("{a}lock"), of: ada, call: 1)
        for _ in 1..<SessionTable.Limits.sessionsMax { _ = try target.open() }
        try target.take(3, moving, from: &source)
        #expect(target.machine.sessions.count == SessionTable.Limits.sessionsMax && !target.machine.sessions.isFull)
        let own = try target.open()
        #expect(target.machine.sessions.isFull)
        #expect(throws: (any Error).self) { try target.open() }
        // One that is taken over is no session of its own any more.
        let other = target.machine.sessions.page(SessionQuery(sessionsMax: 100), logTime: .zero).sessions
            .map(\.id).first { $0 != own && $0 != ada }
        #expect(try takeOver([try #require(other)], by: own, 1, &target).count == 1)
        #expect(!target.machine.sessions.isFull)
        try target.restart()
        #expect(!target.machine.sessions.isFull)
        target.apply(SessionCommand.close(own).payload())
        _ = try target.open()
        _ = try target.open()
        #expect(target.machine.sessions.isFull)
    }

    /// More than a page may have: they are given in several, and one that has too many is not put into any log.
    @Test func holdersComeInPages() throws {
        var source = try MovingGroup(1)
        var ids: [SessionID] = []
        for number in 0..<MigrationPage.countMax + 3 {
            let id = try source.open()
            ids.append(id)
            _ = try source.send(Acquire(Bytes("{a}\(number)")), of: id, call: 1)
        }
        _ = try source.send(Acquire("{a}another"), of: try #require(ids.min()), call: 2)
        source.apply(.beginExport(id, moving, target: GroupID(2)))
        source.apply(.freeze(id))
        let task = try #require(source.ownership.task(id))
        let (first, next) = source.machine.sessions.holders(in: task, behind: nil, bytesMax: .max)
        #expect(first.count == MigrationPage.countMax && first[0].holdings.count == 2 && next != nil)
        let (second, end) = source.machine.sessions.holders(in: task, behind: next, bytesMax: .max)
        #expect(second.count == 3 && end == nil)
        let isInOrder = (first + second).map(\.session) == ids.sorted()
        #expect(isInOrder)
        var page = MigrationPage(
            number: 1, base: .zero, start: LogIndex(1), from: Bytes(), next: Bytes(), revision: .zero, holders: first)
        #expect(task.problem(of: page) == nil)
        page.holders += second
        #expect(task.problem(of: page)?.contains("4099") == true)
    }

    /// Whoever holds something, and has not said that it knows that slots move.
    @Test func whoDoesNotFollowSlotsIsKnown() throws {
        var group = try MovingGroup(1)
        let (ada, bob, eve) = (
            try group.open(followsSlots: false), try group.open(), try group.open(followsSlots: false)
        )
        for session in [ada, bob] { _ = try group.send(Acquire("{a}lock"), of: session, call: 1) }
        _ = try group.send(Acquire("{b}lock"), of: eve, call: 1)
        group.apply(.beginExport(id, moving, target: GroupID(2)))
        func unaware(_ group: MovingGroup) throws -> SessionID? {
            group.machine.sessions.unaware(of: try #require(group.ownership.task(id)))?.session
        }
        #expect(try unaware(group) == ada)
        try group.restart()
        #expect(try unaware(group) == ada)
        group.apply(SessionCommand.hold(.init(id: ada, firstUnacknowledged: 2), []).payload())
        #expect(try unaware(group) == nil)
        try group.restart()
        #expect(try unaware(group) == nil)
    }

    /// What it held went, so that it could hold as much again.
    @Test func whatComesBitByBitMayBeMoreThanOneCanAskFor() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        let ada = try source.open()
        let most = SessionTable.Limits.holdingsMax
        var call: UInt64 = 0
        for (number, tag) in ["a", "b"].enumerated() {
            for lock in 0..<most {
                call += 1
                _ = try source.send(Acquire(Bytes("{\(tag)}\(lock)")), of: ada, call: call)
            }
            try target.take(UInt64(3 + number), [slot(of: Bytes("{\(tag)}"))], from: &source)
        }
        try target.restart()
        var third = try MovingGroup(3)
        let both = [slot(of: "{a}"), slot(of: "{b}")].sorted()
        try third.take(9, both, from: &target)
        try third.restart()
        let held = third.records(in: both).count
        #expect(third.apply(SessionCommand.close(ada).payload()) != .nothing)
        #expect(third.records(in: both).count <= held - 2 * most)
        #expect(third.machine.sessions.count == 0 && target.machine.sessions.count == 1)
    }
}
