// What memberships, barriers and latches have in logs, in stores and on the wire, byte by byte; and what a group makes of
// them, entry by entry.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct MembershipFormatTests {
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
        // What can't be read is none, and traps nobody.
        for count in 0..<bytes.count { _ = try? Value(decoding: bytes[0..<count].compacted()) }
    }

    private let n = "01000000" + "6e"
    private let m = "01000000" + "6d"
    private func long(_ byte: String) -> String { byte + "00000000000000" }
    private func int(_ byte: String) -> String { byte + "000000" }
    private func word(_ number: UInt64) -> String {
        hex(Bytes(withUnsafeBytes(of: number.littleEndian) { Array($0) }))
    }
    private func big(_ number: UInt64) -> String { hex(Bytes(withUnsafeBytes(of: number.bigEndian) { Array($0) })) }

    private func words<Machine: StateMachine>(of machine: Machine.Type) -> [String] {
        func word<Command: MachineCommand>(_ command: Command.Type) -> String { "\(command) \(Command.number)" }
        func word<Query: MachineQuery>(_ query: Query.Type) -> String { "\(query) \(Query.number)" }
        var words = ["\(machine) \(Machine.number)"]
        for command in Machine.commands { words.append(word(command)) }
        for query in Machine.queries { words.append(word(query)) }
        return words
    }

    @Test func numbers() {
        #expect(
            words(of: MembershipMachine.self) == [
                "MembershipMachine 26", "MembershipCreate 1", "MembershipDelete 2", "MembershipJoin 3",
                "MembershipLeave 4", "MembershipUpdate 5", "MembershipForget 6", "MembershipDeleteRest 7",
                "MembershipList 1",
            ])
        #expect(
            words(of: BarrierMachine.self) == [
                "BarrierMachine 27", "BarrierArrive 1", "BarrierWithdraw 2", "BarrierCheck 3", "BarrierShow 1",
            ])
        #expect(
            words(of: LatchMachine.self) == [
                "LatchMachine 28", "LatchSet 1", "LatchCountDown 2", "LatchDelete 3", "LatchShow 1",
            ])
        #expect(FeatureLevel.gatherings == 10)
        #expect(MembershipLimits.idBytesMax == 256 && MembershipLimits.metadataBytesMax == 1_024)
        #expect(MembershipLimits.membersMax == 1 << 20 && MembershipLimits.membersOfSessionMax == 16)
        #expect(MembershipLimits.placesOfMemberMax == 16)
        #expect(MembershipLimits.evictionsMax == 64 && MembershipLimits.pageMax == 256)
        #expect(BarrierLimits.partiesMax == 1_024 && BarrierLimits.arrivalsOfSessionMax == 64)
    }

    @Test func commandsAndAnswers() throws {
        try expect(MembershipCreate("n"), n)
        try expect(MembershipDelete("n", force: true, generation: 9), n, "01", long("09"))
        try expect(MembershipDeleted(generation: 9, online: 5), long("09"), int("05"))
        try expect(
            MembershipJoin("n", as: "m", creates: true, takesOver: false, staysMillis: 5, wish: 6, metadata: "v"), n, m,
            "01", "00", long("05"), long("06"), "76")
        try expect(
            MembershipLeave("n", "m", leaves: false, .token(9, wish: 6)), n, m, "00", "01", long("09"), long("06"))
        try expect(MembershipLeave("n", "m"), n, m, "01", "00")
        try expect(MembershipUpdate("n", "m", .own(wish: 6), metadata: "v"), n, m, "02", long("06"), "76")
        try expect(MembershipList("n", online: true, from: "m", entriesMax: 3), n, "01", m, int("03"))
        let member = MembershipMember(
            id: "m", token: 9, session: SessionID(7), joined: 8, changed: 10, since: 4, staysMillis: 5, metadata: "v")
        let memberBytes =
            m + long("09") + long("07") + long("08") + long("0a") + long("04") + long("05") + "01000000" + "76"
        try expect(member, memberBytes)
        try expect(
            MembershipJoined(token: 9, epoch: 11, session: SessionID(7), joined: 8, changed: 10), long("09"),
            long("0b"),
            long("07"), long("08"), long("0a"))
        try expect(MembershipTold(.leaderChanged, version: 12, member), "06", "00", long("0c"), "01", memberBytes)
        try expect(MembershipTold(.left, .timeOver, version: 12, nil), "05", "04", long("0c"), "00")
        try expect(BarrierArrive("n", parties: 3, wish: 6), n, int("03"), long("06"))
        let state = BarrierState(round: 5, parties: 3, arrived: 2, isOpen: true)
        try expect(
            BarrierArrival(session: SessionID(7), state: state), long("07"), long("05"), int("03"), int("02"), "01")
        try expect(BarrierWithdraw("n", wish: 6), n, long("06"))
        try expect(BarrierCheck("n", wish: 6), n, long("06"))
        try expect(BarrierStanding(session: SessionID(7), waits: true), long("07"), "01")
        try expect(BarrierShow("n"), n)
        try expect(LatchSet("n", 4, ifAbsent: true), n, long("04"), "01")
        try expect(LatchCountDown("n", by: 2, round: 5), n, long("02"), long("05"))
        try expect(LatchDelete("n"), n)
        try expect(LatchShow("n"), n)
        let latch = LatchState(round: 5, count: 2, initial: 4, opened: 3)
        try expect(LatchFound(latch), "01", long("05"), long("02"), long("04"), long("03"))
        // What is too large, or nothing, is no command.
        let long = Bytes([UInt8](repeating: 1, count: 257))
        #expect(throws: DecodingFailure.self) { try MembershipLeave(decoding: MembershipLeave("n", long).encoded()) }
        #expect(throws: DecodingFailure.self) { try MembershipLeave(decoding: MembershipLeave("n", "").encoded()) }
        #expect(throws: DecodingFailure.self) {
            try BarrierArrive(decoding: BarrierArrive("n", parties: 1_025, wish: 1).encoded())
        }
    }

    @Test func records() throws {
        var group = try ObjectGroup()
        let (ada, bob) = (group.open(), group.open())
        let first = try group.submit(MembershipJoin("n", as: "m", staysMillis: 500, metadata: "a"), of: ada)
        #expect(first.epoch > first.token)
        let second = try group.submit(MembershipJoin("n", as: "o", staysMillis: .max, metadata: "b"), of: bob)
        #expect(second.epoch == 0 && second.token > first.epoch)
        #expect(try group.submit(MembershipLeave("n", "m", leaves: false), of: bob))
        let generation = first.joined - 1
        let prefix = "0001" + "6e" + "01" + "00000001" + big(generation)
        let records = group.records(of: MembershipMachine.number)
        // m: offline 1, epoch of o 2 behind the last token.
        let offline = second.token + 1
        #expect(
            records == [
                // Head: state, generation, members, online, last, leading, epoch, first and last online.
                "0001" + "6e" + "00": "01" + "01" + "01000000" + word(generation) + int("02") + int("01")
                    + word(offline + 1) + word(second.token) + word(offline + 1) + word(second.token)
                    + word(second.token),
                prefix + "01" + "6d": "01" + long("00") + long("00") + word(first.joined) + word(offline)
                    + word(1_000) + word(500) + "0000" + "01" + group.timerBytes + "61",
                prefix + "01" + "6f": "01" + word(second.token) + word(bob.rawValue)
                    + word(second.joined) + word(second.token) + word(1_000) + word(.max) + "0100" + long("01") + "00"
                    + "62",
                prefix + "02" + big(bob.rawValue): "00" + "01" + "0100" + "01000000" + "6f",
                "0001" + "6e" + "02" + big(second.token): "01" + "00" + long("00") + long("00") + "6f",
                "0001" + "6e" + "02" + big(offline + 1): "01" + "01" + long("00") + long("00") + "6f",
            ])
        #expect(throws: MachineFailure.self) { try group.submit(MembershipDelete("n"), of: ada) }
        #expect(
            try group.submit(MembershipDelete("n", force: true), of: ada)
                == MembershipDeleted(generation: generation, online: 0))

        _ = try group.submit(BarrierArrive("n", parties: 3, wish: 6), of: ada)
        let arrival = try group.submit(BarrierArrive("n", parties: 0, wish: 7), of: bob)
        #expect(
            group.records(of: BarrierMachine.number) == [
                "0001" + "6e" + "00": "01" + word(arrival.state.round) + int("03") + "0200" + word(ada.rawValue)
                    + long("06") + word(bob.rawValue) + long("07")
            ])
        let latch = try group.submit(LatchSet("n", 2))
        #expect(
            group.records(of: LatchMachine.number) == [
                "0001" + "6e" + "00": "01" + word(latch.round) + long("02") + long("02") + long("00")
            ])
    }

    @Test func aMembershipWithManyOnlineIsDeletedStepByStep() throws {
        var group = try ObjectGroup()
        let sessions = (0..<14).map { _ in group.open() }
        for number in 0..<200 {
            _ = try group.submit(
                MembershipJoin("n", as: Bytes("member \(number)"), staysMillis: .max), of: sessions[number % 14])
        }
        #expect(throws: MachineFailure.self) {
            // A session has at most so many.
            for number in 200..<300 {
                _ = try group.submit(
                    MembershipJoin("n", as: Bytes("member \(number)"), staysMillis: .max), of: sessions[0])
            }
        }
        let members = try group.submit(MembershipDelete("n", force: true)).online
        #expect(members == 201 - 64)
        // Meanwhile nobody joins, and nobody makes it anew.
        #expect(throws: MachineFailure.self) { try group.submit(MembershipJoin("n", as: "late"), of: sessions[1]) }
        #expect(throws: MachineFailure.self) { try group.submit(MembershipCreate("n")) }
        for _ in 0..<3 { try group.pass(millis: 10) }
        #expect(try group.submit(MembershipDelete("n")).generation == 0)
        // What is left of it are numbers, and what a sweep takes.
        #expect(group.records(of: MembershipMachine.number).count == 1)
        let again = try group.submit(MembershipJoin("n", as: "member 1"), of: sessions[1])
        #expect(again.joined > 214 && again.epoch > 0)
        // Sessions that had members in the one before have none in this one.
        for session in [sessions[0], sessions[2], sessions[3]] + sessions[4...] { group.close(session) }
        #expect(try !group.submit(MembershipLeave("n", "member 0")))
        #expect(try group.submit(MembershipLeave("n", "member 1", leaves: false, .token(again.token))))
    }

    @Test func aSessionsEndPutsItsMembersOfflineAndEpochsGrow() throws {
        var group = try ObjectGroup()
        let sessions = (0..<12).map { _ in group.open() }
        var epochs: [UInt64] = []
        let value = ValueSet("n", "v")
        var tokens: [UInt64] = []
        for (number, session) in sessions.enumerated() {
            for copy in 0..<3 {
                let joined = try group.submit(
                    MembershipJoin("n", as: Bytes("m\(number) \(copy)"), staysMillis: copy == 0 ? 0 : 1_000),
                    of: session)
                tokens.append(joined.token)
                if joined.epoch > 0 { epochs.append(joined.epoch) }
            }
        }
        #expect(epochs.count == 1)
        func token(_ number: UInt64) -> FencingToken {
            FencingToken(number, of: "n", machine: MembershipMachine.number)
        }
        var all = epochs + tokens
        for session in sessions {
            #expect(try group.stands(token(all[0]), for: value))
            #expect(try group.stands(token(tokens[0]), for: value))
            group.close(session)
            #expect(try !group.stands(token(all[0]), for: value))
            #expect(try !group.stands(token(tokens[0]), for: value))
            tokens.removeFirst(3)
            // The next one leads: its epoch is the one token that is new.
            let records = group.bytes(of: MembershipMachine.number).keys.filter {
                $0.array.starts(with: [0, 1, 0x6e, 2])
            }
            let standing = records.map { $0.array.suffix(8).reduce(0 as UInt64) { $0 << 8 | UInt64($1) } }
            let new = standing.filter { !tokens.contains($0) }
            #expect(new.count == (tokens.isEmpty ? 0 : 1))
            #expect(new.allSatisfy { $0 > all.max() ?? 0 })
            all = new + all
        }
        // Those that stayed for a time leave when it is over.
        #expect(group.records(of: MembershipMachine.number).count == 25)
        try group.pass(millis: 1_500)
        #expect(group.records(of: MembershipMachine.number).count == 1)
    }

    @Test func aBarrierOpensForAllAtOnceAndForgetsThoseWhoAreGone() throws {
        var group = try ObjectGroup()
        let sessions = (0..<17).map { _ in group.open() }
        var rounds: [UInt64] = []
        for _ in 0..<3 {
            // All that there may be.
            for number in 0..<1_024 {
                let arrival = try group.submit(
                    BarrierArrive("n", parties: 1_024, wish: UInt64(number)), of: sessions[number % 16 + 1])
                #expect(arrival.state.isOpen == (number == 1_023))
                if arrival.state.isOpen { rounds.append(arrival.state.round) }
            }
            #expect(group.records(of: BarrierMachine.number) == [:])
        }
        #expect(rounds == rounds.sorted() && Set(rounds).count == 3)
        _ = try group.submit(BarrierArrive("n", parties: 2, wish: 1), of: sessions[1])
        #expect(throws: MachineFailure.self) {
            try group.submit(BarrierArrive("n", parties: 3, wish: 1), of: sessions[2])
        }
        group.close(sessions[1])
        let alone = try group.submit(BarrierArrive("n", parties: 2, wish: 1), of: sessions[2])
        #expect(!alone.state.isOpen && alone.state.arrived == 1)
        #expect(try group.submit(BarrierWithdraw("n", wish: 2), of: sessions[2]).waits == false)
        #expect(try group.submit(BarrierWithdraw("n", wish: 1), of: sessions[2]).waits)
        #expect(group.records(of: BarrierMachine.number) == [:])
    }

    @Test func theyNeedTheirFeatureLevel() throws {
        for level in [FeatureLevel.dataTypes, FeatureLevel.gatherings] {
            func refusal(_ request: MachineRequest, _ machine: SubMachineNumber) -> Refusal? {
                MasterStateMachine.check(
                    request.payload(machine: machine), slot: Ring.slot(of: request.key), level: level,
                    machines: DataTypeMachines.registry)
            }
            let isKnown = level == FeatureLevel.gatherings
            let found = [
                refusal(MachineRequest(MembershipCreate("n")), MembershipMachine.number),
                refusal(MachineRequest(BarrierWithdraw("n", wish: 1)), BarrierMachine.number),
                refusal(MachineRequest(LatchDelete("n")), LatchMachine.number),
            ]
            #expect(found.allSatisfy { ($0 == nil) == isKnown })
            #expect(refusal(MachineRequest(ValueDelete("n")), ValueMachine.number) == nil)
            let bare = MachineRequest(ValueDelete("n")).payload(machine: ValueMachine.number)
            let token = FencingToken(9, of: "n", machine: MembershipMachine.number)
            let guarded = MasterStateMachine.check(
                try CommandGuard.payload(bare, guardedBy: token), slot: Ring.slot(of: "n"), level: level,
                machines: DataTypeMachines.registry)
            #expect((guarded == nil) == isKnown)
        }
    }
}
