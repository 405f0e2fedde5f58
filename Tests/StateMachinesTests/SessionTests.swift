import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct SessionTests {
    /// One group's machine and all its records.
    private struct Group {
        var machine: MasterStateMachine
        var store = ModelStore()
        var logTime: UInt64 = 0

        init() throws { machine = try MasterStateMachine(group: GroupID(1)) }

        mutating func apply(_ payload: Bytes) -> Applied {
            machine.apply(.command(machine.applied.rawValue + 1, payload, logTime: logTime), into: &store)
        }

        mutating func open(timeToLive: UInt64 = 10_000) throws -> SessionID {
            guard case .done(_, let body) = apply(SessionCommand.open(timeToLive: timeToLive, nonce: 7).payload())
            else {
                throw Refusal.invalid("not opened")
            }
            var reader = ByteReader(body)
            return try reader.read()
        }

        mutating func put(
            _ key: Bytes, _ value: Bytes, _ session: SessionID, _ sequence: UInt64, acknowledged: UInt64 = 1
        ) -> Applied {
            let header = CommandHeader(
                machine: .keyValue, session: session, sequence: sequence, firstUnacknowledged: acknowledged)
            return apply(KeyValueCommand.put(key: key, value: value).payload(header: header))
        }

        /// As a start does it: what was written at a checkpoint is all that is left.
        mutating func restart() throws {
            machine.writeSessions(into: &store)
            machine = try MasterStateMachine(
                group: GroupID(1), applied: machine.applied, revision: machine.revision, logTime: machine.logTime,
                digest: machine.digest, sessionRecords: sessionRecords)
        }

        var sessionRecords: [SessionRecord] {
            store.records.filter { $0.key.machine == .sessions }.sorted { $0.key < $1.key }.map {
                SessionRecord(
                    key: $0.key.key, changed: $0.value.changed, revision: $0.value.revision, value: $0.value.value)
            }
        }

        func value(_ key: Bytes) -> Bytes? {
            let place = RecordPosition(slot: slot(of: key), machine: .keyValue, key: key)
            guard case .found(let record) = store.find(place) else { return nil }
            return record.value
        }
    }

    private func answer(
        _ index: UInt64, _ revision: UInt64, _ body: Bytes = Bytes(), key: Bytes = "k"
    ) -> Applied {
        .repeated(
            SessionAnswer(
                index: LogIndex(index), slot: slot(of: key), revision: Revision(revision), outcome: .done(body)))
    }

    @Test func aCommandThatComesAgainIsAnsweredAndNotApplied() throws {
        var group = try Group()
        let session = try group.open()
        #expect(group.put("a", "1", session, 1) == .done(revision: Revision(1), body: Bytes()))
        #expect(group.put("a", "2", session, 2) == .done(revision: Revision(2), body: Bytes()))
        #expect(group.put("a", "1", session, 1) == answer(2, 1, key: "a"))
        #expect(group.value("a") == "2" && group.machine.revision == Revision(2))
        // In whatever order they come first.
        #expect(group.put("b", "4", session, 4) == .done(revision: Revision(3), body: Bytes()))
        #expect(group.put("b", "3", session, 3) == .done(revision: Revision(4), body: Bytes()))
        #expect(group.put("b", "4", session, 4) == answer(5, 3, key: "b"))
        #expect(group.value("b") == "3")
    }

    @Test func failuresAndReadingsAreRepeatedToo() throws {
        var group = try Group()
        let session = try group.open()
        func transaction(_ sequence: UInt64, _ test: KeyValueTransaction.Condition.Test) -> Bytes {
            KeyValueTransaction(
                if: [.init("k", test)], then: [.put(key: "k", value: "v")], otherwise: [.get(key: "k")]
            ).payload(header: CommandHeader(machine: .keyValue, session: session, sequence: sequence))
        }
        #expect(group.put("k", "x", session, 1) == .done(revision: Revision(1), body: Bytes()))
        guard case .done(_, let body) = group.apply(transaction(2, .absent)) else {
            Issue.record("not done")
            return
        }
        #expect(try !KeyValueOutcome(decoding: body).holds)
        _ = group.apply(KeyValueCommand.delete(key: "k").payload())
        // It would hold now; but it was asked before, and its answer stands.
        #expect(group.apply(transaction(2, .absent)) == answer(3, 1, body))
        #expect(group.value("k") == nil)
    }

    @Test func theWindowMovesWithWhatIsAcknowledged() throws {
        var group = try Group()
        let session = try group.open()
        for sequence in 1...10 as ClosedRange<UInt64> { _ = group.put("a", Bytes("\(sequence)"), session, sequence) }
        _ = group.put("a", "11", session, 11, acknowledged: 8)
        guard case .refused(.invalid(let text)) = group.put("a", "7", session, 7) else {
            Issue.record("an acknowledged call passes")
            return
        }
        #expect(text.contains("below 8"))
        #expect(group.put("a", "8", session, 8, acknowledged: 8) == answer(9, 8, key: "a"))
        // A late message names less.
        #expect(group.put("a", "9", session, 9, acknowledged: 2) == answer(10, 9, key: "a"))
        let last = 7 + SessionTable.Limits.window
        #expect(group.put("a", "x", session, last, acknowledged: 8) == .done(revision: Revision(12), body: Bytes()))
        guard case .refused(.invalid) = group.put("a", "x", session, last + 1, acknowledged: 8) else {
            Issue.record("a call beyond the window passes")
            return
        }
        #expect(group.put("a", "y", session, last + 1, acknowledged: 9) == .done(revision: Revision(13), body: Bytes()))
    }

    @Test func numbersThatNoClientHasTrapNothing() throws {
        var group = try Group()
        let session = try group.open()
        for sequence in [0, 1, 1 << 62, (1 << 62) + 1, .max - 1, .max] as [UInt64] {
            for acknowledged in [0, 1, 2, 1 << 62, .max] as [UInt64] {
                var other = group
                _ = other.put("a", "1", session, sequence, acknowledged: acknowledged)
                try other.restart()
                _ = other.put("a", "1", session, sequence, acknowledged: acknowledged)
            }
        }
        #expect(group.put("a", "1", SessionID(999), 1) == .refused(.sessionExpired))
        #expect(group.put("a", "1", SessionID(.max), .max) == .refused(.sessionExpired))
    }

    @Test func sessionsOutliveRestartsAndSnapshots() throws {
        var group = try Group()
        let first = try group.open()
        let second = try group.open(timeToLive: 2_000)
        for sequence in 1...20 as ClosedRange<UInt64> {
            _ = group.put("a", Bytes("\(sequence)"), first, sequence, acknowledged: 5)
        }
        _ = group.put("b", "1", second, 1)
        var other = group
        try group.restart()
        #expect(group.machine.sessions.count == 2)
        for sequence in 5...20 as ClosedRange<UInt64> {
            let (left, right) = (
                group.put("a", "again", first, sequence, acknowledged: 5),
                other.put("a", "again", first, sequence, acknowledged: 5)
            )
            #expect(left == right)
            if case .repeated = left { continue }
            Issue.record("\(sequence): \(left)")
        }
        // What was written once is written again only when it has changed.
        group.machine.writeSessions(into: &group.store)
        let writes = group.store.writes
        group.machine.writeSessions(into: &group.store)
        #expect(group.store.writes == writes)
        _ = group.put("b", "2", second, 2)
        group.machine.writeSessions(into: &group.store)
        #expect(group.store.writes == writes + 2, "the value and the one session")
        // Replicas that wrote at other times have the same records in the end.
        _ = other.put("b", "2", second, 2)
        other.machine.writeSessions(into: &other.store)
        #expect(group.sessionRecords == other.sessionRecords && group.machine.digest == other.machine.digest)
    }

    @Test func aSessionEndsWhenItsTimeIsOverAndNotBefore() throws {
        var group = try Group()
        group.logTime = 1_000
        let session = try group.open(timeToLive: 5_000)
        let opened = group.machine.applied
        #expect(group.machine.sessionsDue(at: LogTime(5_999), countMax: 9).isEmpty)
        let due = group.machine.sessionsDue(at: LogTime(6_000), countMax: 9)
        #expect(due == [SessionCommand.Expiry(id: session, activeIndex: opened)])
        // A sign of life came between: what was decided before is void, however late it comes.
        group.logTime = 5_000
        _ = group.put("a", "1", session, 1)
        group.logTime = 60_000
        _ = group.apply(SessionCommand.expire(due).payload())
        #expect(group.machine.sessions.count == 1)
        let words = [session, SessionID(77)].map { SessionCommand.Life(id: $0, firstUnacknowledged: 1) }
        guard case .done = group.apply(SessionCommand.keepAlive(words).payload()) else {
            Issue.record("not kept alive")
            return
        }
        let later = group.machine.sessionsDue(at: LogTime(65_000), countMax: 9)
        #expect(later.count == 1)
        // Whose entry's time is before the deadline ends nobody, whatever a leader believed.
        group.logTime = 64_999
        _ = group.apply(SessionCommand.expire(later).payload())
        #expect(group.machine.sessions.count == 1)
        group.logTime = 65_000
        let digest = group.machine.digest
        _ = group.apply(SessionCommand.expire(later).payload())
        #expect(group.machine.sessions.count == 0 && group.machine.digest != digest)
        #expect(group.put("a", "2", session, 2) == .refused(.sessionExpired) && group.value("a") == "1")
        try group.restart()
        #expect(group.machine.sessions.count == 0)
    }

    @Test func closingEndsAtOnceAndTwiceIsNoHarm() throws {
        var group = try Group()
        let session = try group.open()
        _ = group.put("a", "1", session, 1)
        #expect(group.apply(SessionCommand.close(session).payload()) == .done(revision: Revision(1), body: Bytes()))
        #expect(group.apply(SessionCommand.close(session).payload()) == .done(revision: Revision(1), body: Bytes()))
        #expect(group.put("a", "1", session, 1) == .refused(.sessionExpired))
    }

    @Test func ofALargeAnswerOnlyTheRevisionIsKept() throws {
        var group = try Group()
        let session = try group.open()
        let large = Bytes(Array(repeating: 7, count: SessionTable.Limits.bodyBytesMax))
        _ = group.put("k", large, session, 1)
        let get = KeyValueTransaction(then: [.get(key: "k")]).payload(
            header: CommandHeader(machine: .keyValue, session: session, sequence: 2))
        guard case .done(_, let body) = group.apply(get) else {
            Issue.record("not done")
            return
        }
        #expect(body.count > large.count)
        #expect(
            group.apply(get)
                == .repeated(
                    SessionAnswer(
                        index: LogIndex(3), slot: slot(of: "k"), revision: Revision(1), outcome: .doneWithoutBody)))
        try group.restart()
        #expect(
            group.apply(get)
                == .repeated(
                    SessionAnswer(
                        index: LogIndex(3), slot: slot(of: "k"), revision: Revision(1), outcome: .doneWithoutBody)))
    }

    @Test func aSessionsRecordIsBoundedAndReadWhateverItsBytes() throws {
        var group = try Group()
        let session = try group.open()
        _ = group.put("k", Bytes(Array(repeating: 7, count: 1_000)), session, 1)
        for sequence in 2...4_096 as ClosedRange<UInt64> {
            _ = group.apply(
                KeyValueTransaction(then: [.get(key: "k")]).payload(
                    header: CommandHeader(machine: .keyValue, session: session, sequence: sequence)))
        }
        group.machine.writeSessions(into: &group.store)
        let record = try #require(group.sessionRecords.first)
        #expect(record.value!.count < Limits.valueBytesMax)
        mutate(record.value!, seed: 3, rounds: 2_000) { value in
            var bad = record
            bad.value = value
            _ = try? MasterStateMachine(group: GroupID(1), applied: LogIndex(9_999), sessionRecords: [bad])
        }
        #expect(throws: DecodingFailure.self) {
            try MasterStateMachine(group: GroupID(1), sessionRecords: [record, record])
        }
    }

    @Test func checksTurnDownWhatApplyWouldNotUnderstand() throws {
        let home = slot(of: "k" as Bytes)
        func check(_ payload: Bytes, _ slot: Slot, level: UInt32 = FeatureLevel.sessions) -> Refusal? {
            MasterStateMachine.check(payload, slot: slot, level: level)
        }
        func put(_ session: UInt64, _ sequence: UInt64, _ acknowledged: UInt64) -> Bytes {
            KeyValueCommand.put(key: "k", value: "v").payload(
                header: CommandHeader(
                    machine: .keyValue, session: SessionID(session), sequence: sequence,
                    firstUnacknowledged: acknowledged))
        }
        #expect(check(put(5, 1, 1), home) == nil)
        for bad in [put(5, 0, 0), put(5, 1, 2), put(5, 1 << 63, 1)] { #expect(check(bad, home) != nil) }
        #expect(check(put(5, 1, 1), home, level: 5)?.description.contains("level 6") == true)
        let open = SessionCommand.open(timeToLive: 5_000, nonce: 1).payload()
        #expect(check(open, .group) == nil && check(open, home) != nil)
        #expect(check(open, .group, level: 5) != nil)
        #expect(check(SessionCommand.open(timeToLive: 1, nonce: 1).payload(), .group) != nil)
        func alive(_ first: UInt64...) -> Bytes {
            SessionCommand.keepAlive(first.map { .init(id: SessionID($0), firstUnacknowledged: $0) }).payload()
        }
        #expect(
            check(alive(1), .group) == nil && check(alive(1, 0), .group) != nil && check(alive(1 << 63), .group) != nil)
        #expect(check(SessionCommand.close(SessionID(1)).payload(), .group) == nil)
        #expect(check(SessionCommand.expire([]).payload(), .group) != nil, "a leader's alone")
        mutate(alive(1, 2), seed: 4, rounds: 5_000) { payload in
            guard check(payload, .group) == nil, var group = try? Group() else { return }
            if case .done = group.apply(payload) { return }
            Issue.record("it passed, and is not applied")
        }
    }

    @Test func theCallsThatAGroupRemembersAreBounded() throws {
        var group = try Group()
        var sessions: [SessionID] = []
        // The last call of a window stands for all those that may come before it.
        while sessions.count * Int(SessionTable.Limits.window) < SessionTable.Limits.groupCallsMax {
            sessions.append(try group.open())
            guard case .done = group.put("a", "1", sessions[sessions.count - 1], SessionTable.Limits.window) else {
                Issue.record("session \(sessions.count)")
                return
            }
        }
        // A few calls each session has all the same.
        let last = try group.open()
        guard case .done = group.put("b", "0", last, SessionTable.Limits.callsMin),
            case .refused(.quotaExceeded) = group.put("b", "1", last, SessionTable.Limits.callsMin + 1)
        else {
            Issue.record("beyond the bound")
            return
        }
        // What came before is known all the same; and what is acknowledged makes room, also after a restart.
        guard case .repeated = group.put("a", "1", sessions[0], SessionTable.Limits.window) else {
            Issue.record("not repeated")
            return
        }
        try group.restart()
        let refused = SessionTable.Limits.callsMin + 1
        guard case .refused(.quotaExceeded) = group.put("b", "1", last, refused) else {
            Issue.record("beyond the bound after a restart")
            return
        }
        // What a call acknowledges makes room for itself, and what is refused acknowledges as well.
        let window = SessionTable.Limits.window
        guard case .done = group.put("c", "1", sessions[1], window + 1, acknowledged: window + 1) else {
            Issue.record("no room for who makes it")
            return
        }
        guard case .done = group.put("b", "1", last, refused) else {
            Issue.record("no room")
            return
        }
        #expect(group.value("b") == "1")
    }

    /// A word without a call acknowledges, and what a replica forgot of a session shows in its digest.
    @Test func aWordWithoutACallAcknowledges() throws {
        var group = try Group()
        let session = try group.open()
        for sequence in 1...3 as ClosedRange<UInt64> { _ = group.put("a", "v", session, sequence) }
        func say(_ first: UInt64) {
            let word = SessionCommand.Life(id: session, firstUnacknowledged: first)
            #expect(
                group.apply(SessionCommand.keepAlive([word]).payload()) == .done(revision: Revision(3), body: Bytes()))
        }
        say(3)
        say(2)
        guard case .refused(.invalid) = group.put("a", "v", session, 2) else {
            Issue.record("an acknowledged call passes")
            return
        }
        #expect(group.put("a", "v", session, 3) == answer(4, 3, key: "a"))
    }

    /// As any other call does: nothing new may come for a while, and what nobody asks for would be kept until then.
    @Test func aCommandThatComesAgainAcknowledges() throws {
        var group = try Group()
        let session = try group.open()
        for sequence in 1...3 as ClosedRange<UInt64> { _ = group.put("a", "v", session, sequence) }
        #expect(group.put("a", "v", session, 3, acknowledged: 3) == answer(4, 3, key: "a"))
        for _ in 0..<2 {
            guard case .refused(.invalid(let text)) = group.put("a", "v", session, 2) else {
                Issue.record("an acknowledged call passes")
                return
            }
            #expect(text.contains("below 3"))
            try group.restart()
        }
        // It makes room for others, too: those of a group have a bound together.
        let others = UInt64(SessionTable.Limits.groupCallsMax) / SessionTable.Limits.window
        let window = SessionTable.Limits.window
        var last = session
        for number in 0..<others {
            last = try group.open()
            guard case .done = group.put("b", "v", last, window) else {
                #expect(number == others - 1, "session \(number)")
                break
            }
        }
        guard case .refused(.quotaExceeded) = group.put("a", "v", session, 100, acknowledged: 3) else {
            Issue.record("there is no bound")
            return
        }
        guard case .repeated = group.put("b", "v", last, window, acknowledged: window) else {
            Issue.record("not repeated")
            return
        }
        guard case .done = group.put("a", "v", session, 100, acknowledged: 3) else {
            Issue.record("no room")
            return
        }
    }

    @Test func replicasOfDifferentSessionsDoNotAgreeForLong() throws {
        func run(_ differ: (inout Group) throws -> Void, _ last: (inout Group, SessionID) -> Void) throws -> UInt64 {
            var group = try Group()
            let session = try group.open()
            _ = group.put("a", "v", session, 1)
            try differ(&group)
            last(&group, session)
            return group.machine.digest
        }
        let sound = try run({ try $0.restart() }) { _ = $0.put("a", "v", $1, 1) }
        let forgotten = try run({
            $0.machine = try MasterStateMachine(
                group: GroupID(1), applied: $0.machine.applied, revision: $0.machine.revision,
                logTime: $0.machine.logTime, digest: $0.machine.digest, sessionRecords: [])
        }) { _ = $0.put("a", "v", $1, 1) }
        #expect(sound != forgotten)
    }

    @Test func pagesShowEachSessionOnceAndWhatIsKeptForIt() throws {
        var group = try Group()
        var ids: [SessionID] = []
        for number in 0..<40 {
            group.logTime = UInt64(number) * 10
            ids.append(try group.open())
        }
        ids.sort()
        let (busy, gone) = (ids[17], ids[3])
        group.logTime = 9_000
        _ = group.put("a", "1", busy, 1)
        let reading = KeyValueTransaction(if: [], then: [.get(key: "a")]).payload(
            header: CommandHeader(machine: .keyValue, session: busy, sequence: 3, firstUnacknowledged: 2))
        guard case .done(_, let body) = group.apply(reading) else {
            Issue.record("not done")
            return
        }
        _ = group.put("a", "1", busy, 6)
        _ = group.apply(SessionCommand.close(gone).payload())
        ids.removeAll { $0 == gone }
        let now = LogTime(12_000)
        var shown: [SessionStanding] = []
        var pages: [Int] = []
        var next: SessionID? = SessionID.none
        while let from = next {
            let page = group.machine.sessions.page(SessionQuery(from: from, sessionsMax: 13), logTime: now)
            #expect(try SessionPage(decoding: page.encoded()) == page)
            #expect(page.logTime == now && page.count == 39)
            shown += page.sessions
            pages.append(page.sessions.count)
            next = page.next
        }
        #expect(shown.map(\.id) == ids && pages == [13, 13, 13])
        let standing = try #require(shown.first { $0.id == busy })
        #expect(standing.firstUnacknowledged == 2 && standing.calls == 5 && standing.answers == 2)
        #expect(standing.bytes == UInt32(body.count) && standing.activeIndex == LogIndex(43))
        #expect(standing.left(at: now) == 7_000 && standing.left(at: LogTime(90_000)) == 0)
        let first = group.machine.sessions.page(SessionQuery(sessionsMax: 0), logTime: now)
        #expect(first.sessions.count == 1 && first.next == ids[1])
        #expect(group.machine.sessions.page(SessionQuery(from: SessionID(.max)), logTime: now).sessions.isEmpty)
        mutate(first.encoded(), seed: 1) { bytes in
            guard let page = try? SessionPage(decoding: bytes) else { return }
            #expect(page.sessions.count * 52 <= bytes.count)
        }
        mutate(SessionQuery().encoded(), seed: 2) { _ = try? SessionQuery(decoding: $0) }
    }

    /// As they stand in logs and stores: they never change.
    @Test func bytesAreFrozen() throws {
        func hex(_ bytes: Bytes) -> String {
            bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        let header = "0300" + "0100" + String(repeating: "0", count: 48)
        #expect(
            hex(SessionCommand.open(timeToLive: 30_000, nonce: 5).payload())
                == header + "01" + "01" + "3075000000000000" + "0500000000000000")
        #expect(
            hex(SessionCommand.keepAlive([.init(id: SessionID(1), firstUnacknowledged: 2)]).payload())
                == header + "02" + "01" + "01000000" + "0100000000000000" + "0200000000000000")
        #expect(hex(SessionCommand.close(SessionID(3)).payload()) == header + "03" + "01" + "0300000000000000")
        #expect(
            hex(SessionCommand.expire([.init(id: SessionID(1), activeIndex: LogIndex(9))]).payload())
                == header + "04" + "01" + "01000000" + "0100000000000000" + "0900000000000000")
        #expect(
            hex(SessionCommand.takeOver(Slot(5), [SessionID(1), SessionID(2)]).payload())
                == header + "05" + "01" + "0500" + "0200" + "0100000000000000" + "0200000000000000")
        let held = [HeldSlot(slot: Slot(5), epoch: Epoch(6))]
        #expect(
            hex(SessionCommand.hold(.init(id: SessionID(1), firstUnacknowledged: 2), held).payload())
                == header + "06" + "01" + "0100000000000000" + "0200000000000000" + "0100" + "0500"
                + "0600000000000000")
        let moved = HeldSlotsAnswer(
            isThere: true, moved: [.init(slot: Slot(5), group: GroupID(3), epoch: Epoch(8))])
        #expect(hex(moved.encoded()) == "01" + "0100" + "0500" + "03000000" + "0800000000000000")
        let ids = [(2, 3, 4), (3, 2, 4), (2, 4, 3), (4, 3, 2), (2, 3, 5)].map {
            SessionTable.id(term: Term($0.0), index: LogIndex($0.1), nonce: $0.2)
        }
        #expect(Set(ids).count == 5 && ids[0] == SessionID(0x9237_77e3_72c5_383f))

        #expect(
            hex(SessionQuery(from: SessionID(9), sessionsMax: 3).encoded()) == "01" + "0900000000000000" + "03000000")
        let standing = SessionStanding(
            id: SessionID(1), timeToLive: 2, activeAt: LogTime(3), activeIndex: LogIndex(4), firstUnacknowledged: 5,
            calls: 6, answers: 7, bytes: 8)
        #expect(
            hex(SessionPage(logTime: LogTime(1), count: 2, sessions: [standing], next: SessionID(3)).encoded())
                == "0100000000000000" + "02000000" + "01" + "0300000000000000" + "01000000" + "0100000000000000"
                + "0200000000000000" + "0300000000000000" + "0400000000000000" + "0500000000000000" + "06000000"
                + "07000000" + "08000000")

        var group = try Group()
        group.logTime = 7
        let session = try group.open()
        #expect(session == SessionTable.id(term: Term(1), index: LogIndex(1), nonce: 7))
        _ = group.put("{t}k", "v", session, 1)
        let get = KeyValueTransaction(
            if: [.init("{t}k", .absent)], then: [], otherwise: [.get(key: "{t}k")]
        ).payload(header: CommandHeader(machine: .keyValue, session: session, sequence: 3))
        _ = group.apply(get)
        group.machine.writeSessions(into: &group.store)
        let record = try #require(group.sessionRecords.first)
        #expect(
            hex(record.key) == "ca4470043a5e3686" && record.changed == LogIndex(3) && record.revision == Revision(1))
        // Call 1 with an empty answer, no call 2, call 3 with an answer of 25 bytes.
        #expect(
            hex(record.value ?? Bytes())
                == "01" + "1027000000000000" + "0700000000000000" + "0300000000000000" + "0100000000000000" + "02000000"
                + "0100000000000000" + "133e" + "0200000000000000" + "0100000000000000" + "00" + "00000000"
                + "0300000000000000" + "133e" + "0300000000000000" + "0100000000000000" + "00" + "19000000"
                + "00" + "0100" + "12000000" + "01" + "0100000000000000" + "0000000000000000" + "76")
        // And read again: what is there answers.
        try group.restart()
        let again = group.put("{t}k", "w", session, 1)
        #expect(again == answer(2, 1, key: "{t}k") && group.value("{t}k") == "v")
    }
}
