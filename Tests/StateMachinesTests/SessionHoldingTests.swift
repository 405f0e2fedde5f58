// What sessions hold is given back when they end, in the same entry, in a fixed order.

import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// A place that one session has, and others wait for.
private enum Seat: SessionHolder {
    static let number = SubMachineNumber(900)
    static let commands: [any MachineCommand<Seat>.Type] = [Sit.self, Stand.self, SitDownAgain.self]

    static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws {
        var chair = try context.get(name, as: Chair.self) ?? Chair()
        chair.sitters.removeAll { $0 == session.rawValue }
        if name == "stuck" { throw MachineFailure(1, "stuck") }
        try context.put(name, chair)
    }
}

private struct Chair: Message, Equatable {
    var sitters: [UInt64] = []

    init() {}
    func encode(into writer: inout ByteWriter) { for sitter in sitters { writer.write(sitter) } }
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        while reader.remaining > 0 { sitters.append(try reader.read()) }
    }
}

private struct Sit: MachineCommand {
    typealias Machine = Seat
    static let number: UInt16 = 1
    var names: [Bytes]
    var key: Bytes { names[0] }

    init(_ names: [Bytes]) { self.names = names }

    func apply(in context: inout MachineContext) throws -> Done {
        for name in names {
            var chair = try context.get(name, as: Chair.self) ?? Chair()
            chair.sitters.append(context.session.rawValue)
            try context.put(name, chair)
            try context.hold(name)
        }
        return Done()
    }

    func encode(into writer: inout ByteWriter) { for name in names { writer.writeWithLength(name) } }
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        names = []
        while reader.remaining > 0 { names.append(try reader.readBytesWithLength()) }
    }
}

private struct Stand: MachineCommand {
    typealias Machine = Seat
    static let number: UInt16 = 2
    var key: Bytes

    init(_ key: Bytes) { self.key = key }

    func apply(in context: inout MachineContext) throws -> Done {
        try Seat.release(key, of: context.session, in: &context)
        context.letGo(key, of: context.session)
        return Done()
    }

    func encode(into writer: inout ByteWriter) { writer.write(key) }
    init(from reader: inout ByteReader) throws(DecodingFailure) { key = reader.readRest() }
}

/// Lets go of a chair and takes it again, in one command.
private struct SitDownAgain: MachineCommand {
    typealias Machine = Seat
    static let number: UInt16 = 3
    var key: Bytes

    init(_ key: Bytes) { self.key = key }

    func apply(in context: inout MachineContext) throws -> Done {
        context.letGo(key, of: context.session)
        try context.hold(key)
        return Done()
    }

    func encode(into writer: inout ByteWriter) { writer.write(key) }
    init(from reader: inout ByteReader) throws(DecodingFailure) { key = reader.readRest() }
}

/// One group, entry by entry.
private struct Hall {
    var machine: MasterStateMachine
    var store = ModelStore()
    var index: UInt64 = 0
    var logTime: UInt64 = 0
    private var calls: [SessionID: UInt64] = [:]

    init() throws {
        machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = StateMachineRegistry(dataTypes: [Seat.self])
    }

    mutating func apply(_ payload: Bytes) -> Applied {
        index += 1
        let entry = LogEntry.command(index, payload, logTime: logTime)
        let outcome = machine.apply(entry, into: &store)
        if case .unready = outcome { index -= 1 }
        return outcome
    }

    mutating func open() -> SessionID {
        guard case .done(_, let body) = apply(SessionCommand.open(timeToLive: 10_000, nonce: index).payload()) else {
            return .none
        }
        var reader = ByteReader(body)
        return (try? reader.read()) ?? .none
    }

    mutating func send(_ command: some MachineCommand, of session: SessionID) -> MachineOutcome? {
        calls[session, default: 0] += 1
        let sequence = session == .none ? 0 : calls[session] ?? 0
        let header = CommandHeader(
            machine: Seat.number, session: session, sequence: sequence,
            firstUnacknowledged: session == .none ? 0 : sequence)
        guard case .done(_, let body) = apply(MachineRequest(command).payload(header: header)) else { return nil }
        return try? MachineOutcome(decoding: body)
    }

    func sitters(_ name: Bytes) -> [UInt64]? {
        let place = RecordPosition(slot: slot(of: name), machine: Seat.number, key: name)
        guard case .found(let record) = store.find(place) else { return nil }
        return try? Chair(decoding: record.value).sitters
    }

    /// As after a restart: from what a checkpoint writes.
    mutating func restart() throws {
        machine.writeSessions(into: &store)
        let records = store.records.filter { $0.key.machine == .sessions }.map {
            SessionRecord(
                key: $0.key.key, changed: $0.value.changed, revision: $0.value.revision, value: $0.value.value)
        }
        let machines = machine.machines
        machine = try MasterStateMachine(
            group: GroupID(1), applied: machine.applied, revision: machine.revision, logTime: machine.logTime,
            digest: machine.digest, sessionRecords: records)
        machine.machines = machines
    }
}

@Suite struct SessionHoldingTests {
    private func expire(_ ids: [SessionID], in hall: inout Hall) -> Applied {
        hall.logTime += 20_000
        let due = hall.machine.sessionsDue(at: LogTime(hall.logTime), countMax: 100)
        return hall.apply(
            SessionCommand.expire(due.filter { ids.contains($0.id) }.sorted { $0.id.rawValue < $1.id.rawValue })
                .payload())
    }

    @Test func anEndedSessionHasNothing() throws {
        for isClosed in [true, false] {
            var hall = try Hall()
            let (ada, bob) = (hall.open(), hall.open())
            #expect(hall.send(Sit(["{h}a", "{h}b"]), of: ada) == .answer(Bytes()))
            #expect(hall.send(Sit(["{h}a"]), of: bob) == .answer(Bytes()))
            #expect(hall.sitters("{h}a") == [ada.rawValue, bob.rawValue])
            let revision = hall.machine.revision
            _ = isClosed ? hall.apply(SessionCommand.close(ada).payload()) : expire([ada], in: &hall)
            #expect(hall.sitters("{h}a") == [bob.rawValue])
            #expect(hall.sitters("{h}b") == [])
            #expect(hall.machine.revision == revision.next)
            #expect(hall.machine.sessions.count == 1)
        }
    }

    @Test func sessionsThatEndTogetherSeeEachOthersWrites() throws {
        var hall = try Hall()
        let (ada, bob) = (hall.open(), hall.open())
        _ = hall.send(Sit(["a"]), of: ada)
        _ = hall.send(Sit(["a"]), of: bob)
        _ = expire([ada, bob], in: &hall)
        #expect(hall.sitters("a") == [])
        #expect(hall.machine.sessions.count == 0)
    }

    @Test func whatWasLetGoIsNotReleasedAgain() throws {
        var hall = try Hall()
        let (ada, bob) = (hall.open(), hall.open())
        _ = hall.send(Sit(["a"]), of: ada)
        _ = hall.send(Stand("a"), of: ada)
        // Somebody under the same name, whom nobody held the chair for.
        _ = hall.send(Sit(["a"]), of: bob)
        let writes = hall.store.writes
        _ = hall.apply(SessionCommand.close(ada).payload())
        // Its own record alone.
        #expect(hall.store.writes == writes + 1)
        #expect(hall.sitters("a") == [bob.rawValue])
    }

    @Test func whatIsTakenAgainInOneCommandIsHeld() throws {
        var hall = try Hall()
        let ada = hall.open()
        _ = hall.send(Sit(["a"]), of: ada)
        _ = hall.send(SitDownAgain("a"), of: ada)
        _ = hall.apply(SessionCommand.close(ada).payload())
        #expect(hall.sitters("a") == [])
    }

    @Test func itIsKnownAfterARestart() throws {
        var hall = try Hall()
        let ada = hall.open()
        _ = hall.send(Sit(["a"]), of: ada)
        try hall.restart()
        _ = hall.apply(SessionCommand.close(ada).payload())
        #expect(hall.sitters("a") == [])
    }

    @Test func whoHasNoSessionHoldsNothing() throws {
        var hall = try Hall()
        guard case .failure(let failure)? = hall.send(Sit(["a"]), of: .none) else {
            Issue.record("it sits")
            return
        }
        #expect(failure.rule == .needsSession)
        #expect(hall.sitters("a") == nil)
    }

    @Test func aSessionHoldsSoManyObjectsAndNoMore() throws {
        var hall = try Hall()
        let ada = hall.open()
        let most = SessionTable.Limits.holdingsMax
        #expect(hall.send(Sit((0..<most).map { Bytes("{h}\($0)") }), of: ada) == .answer(Bytes()))
        guard case .failure(let failure)? = hall.send(Sit(["{h}more"]), of: ada) else {
            Issue.record("it sits")
            return
        }
        #expect(failure.rule == .holdsTooMuch)
        // In one command too.
        let bob = hall.open()
        guard case .failure? = hall.send(Sit((0...most).map { Bytes("{h}\($0)") }), of: bob) else {
            Issue.record("it sits")
            return
        }
        try hall.restart()
        #expect(hall.machine.sessions.count == 2)
    }

    @Test func nothingChangesBeforeAllIsInMemory() throws {
        var hall = try Hall()
        let ada = hall.open()
        _ = hall.send(Sit(["{h}a", "{h}b"]), of: ada)
        let places = ["{h}a", "{h}b"].map {
            RecordPosition(slot: slot(of: $0), machine: Seat.number, key: $0)
        }
        hall.store.elsewhere = Set(places)
        let digest = hall.machine.digest
        guard case .unready(let missing) = hall.apply(SessionCommand.close(ada).payload()) else {
            Issue.record("it was applied")
            return
        }
        #expect(missing == places, "in one go")
        #expect(hall.machine.digest == digest && hall.machine.sessions.count == 1)
        hall.store.elsewhere = []
        _ = hall.apply(SessionCommand.close(ada).payload())
        #expect(hall.sitters("{h}b") == [])
    }

    /// As they stand in stores: they never change. A session that holds nothing is written as it was before.
    @Test func bytesAreFrozen() throws {
        func hex(_ bytes: Bytes) -> String {
            bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        var hall = try Hall()
        let ada = hall.open()
        let life =
            "1027000000000000" + "0000000000000000" + "0100000000000000" + "0100000000000000" + "00000000"
        hall.machine.writeSessions(into: &hall.store)
        #expect(
            hall.store.records.filter { $0.key.machine == .sessions }.map { hex($0.value.value ?? "") } == ["01" + life]
        )
        _ = hall.send(Sit(["{h}b", "{h}a"]), of: ada)
        hall.machine.writeSessions(into: &hall.store)
        let record = try #require(hall.store.records.first { $0.key.machine == .sessions })
        let call = "0100000000000000" + "ae2d" + "0200000000000000" + "0100000000000000" + "00" + "01000000" + "00"
        #expect(
            hex(record.value.value ?? "")
                == "02" + "1027000000000000" + "0000000000000000" + "0200000000000000" + "0100000000000000"
                + "01000000" + call + "0200"
                + "8403" + "ae2d" + "04000000" + "7b687d61" + "8403" + "ae2d" + "04000000" + "7b687d62")
        try hall.restart()
        _ = hall.apply(SessionCommand.close(ada).payload())
        #expect(hall.sitters("{h}a") == [] && hall.sitters("{h}b") == [])
    }

    @Test func aReleaseThatFailsKeepsNobodyAlive() throws {
        var hall = try Hall()
        let ada = hall.open()
        _ = hall.send(Sit(["stuck", "{stuck}b"]), of: ada)
        _ = hall.apply(SessionCommand.close(ada).payload())
        #expect(hall.machine.sessions.count == 0)
        #expect(hall.sitters("stuck") == [ada.rawValue])
        #expect(hall.sitters("{stuck}b") == [])
    }
}
