// What locks, semaphores, elections and leases have in logs, in stores and on the wire, byte by byte; and what a group makes
// of them, entry by entry.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct PermitFormatTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func expect<Value: Message>(
        _ value: Value, _ parts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let bytes = value.encoded()
        #expect(hex(bytes) == parts.joined(), sourceLocation: sourceLocation)
        let again = try Value(decoding: bytes)
        #expect(String(reflecting: again) == String(reflecting: value), sourceLocation: sourceLocation)
        #expect(again.encoded() == bytes, sourceLocation: sourceLocation)
    }

    private let n = "01000000" + "6e"
    private func long(_ byte: String) -> String { byte + "00000000000000" }
    private func int(_ byte: String) -> String { byte + "000000" }

    @Test func numbers() {
        let machines: [any StateMachine.Type] = [
            LockMachine.self, SemaphoreMachine.self, ElectionMachine.self, LeaseMachine.self,
        ]
        #expect(machines.map { $0.number.rawValue } == [22, 23, 24, 25])
        #expect(SubMachineNumber.guards.rawValue == 7)
        func number<Command: MachineCommand>(_ command: Command.Type) -> String { "\(command) \(Command.number)" }
        func number<Query: MachineQuery>(_ query: Query.Type) -> String { "\(query) \(Query.number)" }
        var found: [String] = []
        for command in LockMachine.commands { found.append(number(command)) }
        for query in LockMachine.queries { found.append(number(query)) }
        #expect(
            found.map { $0.replacing("<LockMachine>", with: "") } == [
                "PermitAcquire 1", "PermitRelease 2", "PermitCancel 3", "PermitRenew 4", "PermitAnnounce 5",
                "PermitLimit 6", "PermitTimeOut 7", "PermitExpire 8", "PermitServe 9", "PermitList 1", "PermitTicket 2",
            ])
        #expect(PermitLimits.permitsMax == 1 << 20 && PermitLimits.valueBytesMax == 1_024)
        #expect(PermitLimits.claimsOfSessionMax == 64 && PermitLimits.grantsMax == 64 && PermitLimits.pageMax == 256)
    }

    @Test func commandsAndAnswers() throws {
        try expect(
            PermitAcquire<LockMachine>(
                "n", permits: 2, limit: 3, waitMillis: 4, timeToLiveMillis: 5, wish: 6, value: "v"),
            n, int("02"), int("03"), long("04"), long("05"), long("06"), "76")
        try expect(PermitRelease<LockMachine>("n", token: 9), n, long("09"))
        try expect(PermitCancel<LockMachine>("n", wish: 8), n, long("08"))
        try expect(PermitRenew<LockMachine>("n", token: 9, timeToLiveMillis: 5), n, long("09"), long("05"))
        try expect(PermitAnnounce<LockMachine>("n", token: 9, value: "v"), n, long("09"), "76")
        try expect(PermitLimit<LockMachine>("n", 3), n, int("03"))
        try expect(PermitList<LockMachine>("n", waiters: true, from: 2, entriesMax: 3), n, "01", long("02"), int("03"))
        try expect(PermitTicket<LockMachine>("n", of: SessionID(7), ticket: 8), n, long("07"), long("08"))
        let entry = PermitEntry(number: 9, session: SessionID(7), permits: 1, value: "v")
        let entryBytes = long("09") + long("07") + int("01") + "01000000" + "76"
        try expect(entry, entryBytes)
        var answer = PermitAnswer(state: .queued, SessionID(7), ticket: 8)
        (answer.ahead, answer.holder) = (1, entry)
        try expect(answer, "02", long("07"), long("08"), long("00"), int("01"), "01", entryBytes)
        try expect(
            PermitAnswer(state: .granted, SessionID(7), ticket: 8, token: 9), "01", long("07"), long("08"), long("09"),
            int("00"), "00")
        try expect(PermitTold(holder: entry), long("09"), long("07"), int("01"), "76")
    }

    @Test func guardedCommands() throws {
        let token = FencingToken(9, of: "n", machine: LockMachine.number)
        try expect(token, "1600", long("09"), n)
        let bare = KeyValueCommand.delete(key: "k").payload(
            header: CommandHeader(machine: .keyValue, session: SessionID(1), sequence: 2, firstUnacknowledged: 2))
        let guarded = try CommandGuard.payload(bare, guardedBy: token)
        let body = hex(bare[CommandHeader.encodedBytes..<bare.count])
        #expect(
            hex(guarded) == "0700" + "0100" + long("01") + long("02") + long("02") + "01" + "1600" + long("09") + n
                + "0100"
                + body)
        #expect(CommandGuard.command(in: guarded) == bare)
        #expect(CommandGuard.command(in: bare) == nil)
        // What can't be read is none, and traps nobody.
        for count in 0..<guarded.count { _ = try? GuardedCommand(payload: guarded[0..<count].compacted()) }
        let twice = try CommandGuard.payload(guarded, guardedBy: token)
        #expect(throws: DecodingFailure.self) { try GuardedCommand(payload: twice) }
        // Only what all hosts of this level have may have given the token.
        let users = FencingToken(9, of: "n", machine: .firstOfUsers)
        #expect(throws: DecodingFailure.self) { try FencingToken(decoding: users.encoded()) }
        let never = FencingToken(.max, of: "n", machine: LockMachine.number)
        #expect(throws: DecodingFailure.self) { try FencingToken(decoding: never.encoded()) }
    }

    @Test func records() throws {
        var group = try ObjectGroup()
        let (ada, bob) = (group.open(), group.open())
        let first = try group.acquire(of: ada, waitMillis: 0, timeToLiveMillis: 0, value: "a")
        #expect(first.state == .granted)
        let second = try group.acquire(of: bob, waitMillis: 500, timeToLiveMillis: 0, value: "b")
        #expect(second.state == .queued && second.holder?.value == "a")
        func word(_ number: UInt64) -> String { hex(Bytes(withUnsafeBytes(of: number.littleEndian) { Array($0) })) }
        #expect(
            group.records(of: LockMachine.number) == [
                // Head: limit, kept, out, last, last token, waiters.
                "0001" + "6e" + "00": "01" + int("01") + "00" + int("01") + word(second.ticket) + word(first.token)
                    + word(second.ticket) + word(second.ticket) + int("01"),
                "0001" + "6e" + "01" + String(word(first.token).reversedBytes): "01" + word(ada.rawValue)
                    + word(first.ticket) + int("01") + "00" + "61",
                "0001" + "6e" + "02" + String(word(second.ticket).reversedBytes): "01" + word(bob.rawValue) + int("01")
                    + long("00") + long("00") + long("00") + "01" + group.timerBytes + "62",
                "0001" + "6e" + "03" + String(word(ada.rawValue).reversedBytes): "01" + "0100" + word(first.ticket)
                    + word(first.token) + long("06"),
                "0001" + "6e" + "03" + String(word(bob.rawValue).reversedBytes): "01" + "0100" + word(second.ticket)
                    + long("00") + long("06"),
            ])
        // One has a lock, whatever somebody says.
        #expect(throws: MachineFailure.self) { try group.setLimit(2, of: ada) }
        // The last one leaves nothing behind.
        #expect(try group.release(token: first.token, of: ada))
        let token = try #require(group.token(of: bob))
        #expect(try group.release(token: token, of: ada))
        _ = group.touch()
        let third = try group.acquire(of: ada, waitMillis: 0, timeToLiveMillis: 0, value: "a")
        #expect(third.token > token)
        #expect(try group.release(token: third.token, of: ada))
        #expect(group.records(of: LockMachine.number) == [:])
    }

    @Test func aSessionsEndGivesAllBackAndTokensGrow() throws {
        var group = try ObjectGroup()
        let sessions = (0..<20).map { _ in group.open() }
        var tokens: [UInt64] = []
        for session in sessions {
            let answer = try group.acquire(of: session, waitMillis: .max, timeToLiveMillis: 0, value: "")
            if answer.token > 0 { tokens.append(answer.token) }
        }
        #expect(tokens.count == 1)
        for (place, session) in sessions.enumerated() {
            group.close(session)
            guard place + 1 < sessions.count else { break }
            tokens.append(try #require(group.token(of: sessions[place + 1])))
        }
        #expect(tokens == tokens.sorted() && Set(tokens).count == sessions.count)
        #expect(group.records(of: LockMachine.number).count <= 1)
    }
}

extension String {
    /// Of hex digits, byte by byte.
    fileprivate var reversedBytes: String {
        stride(from: 0, to: count, by: 2).reversed().map { String(Array(self)[$0..<($0 + 2)]) }.joined()
    }
}

extension ObjectGroup {
    mutating func acquire(
        of session: SessionID, waitMillis: UInt64, timeToLiveMillis: UInt64, value: Bytes
    ) throws -> PermitAnswer {
        try submit(
            PermitAcquire<LockMachine>(
                "n", waitMillis: waitMillis, timeToLiveMillis: timeToLiveMillis, wish: 6, value: value), of: session)
    }

    mutating func release(token: UInt64, of session: SessionID) throws -> Bool {
        try submit(PermitRelease<LockMachine>("n", token: token), of: session)
    }

    mutating func setLimit(_ limit: UInt32, of session: SessionID) throws {
        _ = try submit(PermitLimit<LockMachine>("n", limit), of: session)
    }

    func token(of session: SessionID) -> UInt64? {
        for (key, record) in bytes(of: LockMachine.number) where key.count == 12 {
            var reader = ByteReader(record[1..<9].compacted())
            guard (try? reader.read(SessionID.self)) == session, key[3..<4].array == [1] else { continue }
            var number = ByteReader(key[4..<12].compacted())
            return (try? number.read(UInt64.self)).map { UInt64(bigEndian: $0) }
        }
        return nil
    }
}
