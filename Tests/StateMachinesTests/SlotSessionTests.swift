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
            target.apply(.seal(id, frozen: frozen.frozenIndex, frozen.revision))
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
            target.apply(.seal(id, frozen: frozen.frozenIndex, frozen.revision))
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
            target.apply(SessionCommand.keepAlive([.init(id: bob, firstUnacknowledged: 1)]).payload())
            target.logTime += 1
            #expect(expire(&target) == 1)
            #expect(try holder(target) == bob)
            // Whether it did a call before is not known here: it takes none.
            #expect(throws: Refusal.sessionExpired) { try target.send(Acquire("{a}lock"), of: bob, call: 2) }
            let carol = try target.open()
            let next = try target.send(Acquire("{a}lock", waitMillis: .max), of: carol, call: 1)
            #expect(next.state == .queued && next.holder?.session == bob && next.holder?.number ?? 0 > token)
            source.clear(id)
            #expect(source.areReplicasEqual && target.areReplicasEqual)
            // What is there of them may go on to a third group.
            var third = try MovingGroup(3)
            try third.take(5, moving, from: &target)
            #expect(try holder(third) == bob && third.machine.sessions.count == 2)
        }
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
            if isSealed { target.apply(.seal(id, frozen: frozen.frozenIndex, frozen.revision)) }
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
