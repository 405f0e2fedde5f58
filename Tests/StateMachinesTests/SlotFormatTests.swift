// What commands and records about slots have in logs and stores, byte by byte: it never changes.

import DataTypes
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite struct SlotFormatTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func join(_ parts: String...) -> String { parts.joined() }

    /// In little-endian, as all integers in commands.
    private func long(_ byte: String) -> String { byte + "00000000000000" }

    private let id = MigrationID(7)
    private let slots = [Slot(1), Slot(2), Slot(5)]
    private let runs = "02000000" + "01000200" + "05000100"
    private let place = RecordPosition(slot: Slot(5), machine: .keyValue, key: "k")
    private let holding = SessionHolding(machine: SubMachineNumber(22), slot: Slot(5), name: "n")

    private var page: MigrationPage {
        let key = DeadlineKey(time: LogTime(8), index: LogIndex(9), number: 10)
        return MigrationPage(
            number: 2, base: LogIndex(3), start: LogIndex(4), from: place.encoded(), next: place.encoded(),
            revision: Revision(5),
            records: [
                .init(place: place, revision: Revision(5), expiry: LogTime(6), value: "v"),
                .init(place: place, revision: Revision(4), expiry: .zero, value: nil),
            ],
            dues: [
                .init(key: key, value: "d"),
                .init(
                    key: DeadlineKey(time: LogTime(8), index: LogIndex(9), number: 10, origin: GroupID(11)), value: nil),
            ], holders: [.init(session: SessionID(12), timeToLive: 13, holdings: [holding])])
    }

    private var samples: [(command: SlotCommand, bytes: String)] {
        let position = "0500" + "0100" + "01000000" + "6b"
        let due = "0000000000000008" + "0000000000000009" + "000a"
        let began = "01" + long("07")
        let records = join(
            "02000000", "0500", "0100", long("05"), long("06"), "01", "01000000", "6b", "01000000", "76", "0500",
            "0100",
            long("04"), long("00"), "00", "01000000", "6b")
        let dues = join("02000000", "12000000", due, "01", "01000000", "64", "16000000", due, "0000000b", "00")
        let holders = join("01000000", long("0c"), long("0d"), "0100", "1600", "0500", "01000000", "6e")
        let place = join(long("02"), long("03"), long("04"), "09000000", position, "09000000", position, long("05"))
        return [
            (.beginExport(id, slots, target: GroupID(2)), join("01", began, "02000000", runs)),
            (
                .beginImport(id, slots, source: GroupID(1), sourceTime: LogTime(9)),
                join("02", began, "01000000", long("09"), runs)
            ),
            (.page(id, page), join("03", began, place, records, dues, holders)),
            (.freeze(id), join("04", began)),
            (
                .seal(
                    id, frozen: LogIndex(8), Revision(9),
                    seen: MigrationClock(sourceTime: LogTime(10), ownTime: LogTime(11))),
                join("05", began, long("08"), long("09"), long("0a"), long("0b"))
            ),
            (.release(id, Epoch(8)), join("06", began, long("08"))),
            (.activate(id, Epoch(8), Revision(9)), join("07", began, long("08"), long("09"))),
            (.forget(id, slots), join("08", began, runs)),
            (.clear(id, [self.place]), join("09", began, "0100", position)),
            (.cleared(id), join("0a", began)),
            (
                .settle(id, slots, other: GroupID(2), Epoch(8), owns: true),
                join("0b", began, "02000000", "01", long("08"), runs)
            ),
        ]
    }

    @Test func commands() throws {
        for (command, bytes) in samples {
            let payload = command.payload()
            #expect(hex(payload) == "0500" + "0100" + String(repeating: "0", count: 48) + bytes, "\(command)")
            #expect(try SlotCommand(payload: payload) == command && command.migration == id)
            #expect(MasterStateMachine.check(payload, slot: .group, level: .max) != nil, "no client's")
        }
        #expect(Set(samples.map { $0.bytes.prefix(2) }).count == 11)
    }

    @Test func bounds() throws {
        func read(_ command: SlotCommand) throws -> SlotCommand { try SlotCommand(payload: command.payload()) }
        let most = SlotCommand.clear(id, Array(repeating: place, count: SlotCommand.clearedMax))
        #expect(try read(most) == most)
        #expect(throws: DecodingFailure.self) {
            try read(.clear(id, Array(repeating: place, count: SlotCommand.clearedMax + 1)))
        }
        #expect(throws: DecodingFailure.self) { try read(.freeze(.none)) }
        #expect(throws: DecodingFailure.self) { try read(.forget(id, [])) }
        #expect(throws: DecodingFailure.self) { try read(.forget(id, [Slot(2), Slot(1)])) }
        #expect(throws: DecodingFailure.self) { try read(.forget(id, [.group])) }
        for change: (inout MigrationPage) -> Void in [
            { $0.number = 1 << 62 }, { $0.base = LogIndex(1 << 62) }, { $0.start = LogIndex(1 << 62) },
            { $0.from = "x" }, { $0.next = "x" },
            { $0.records = Array(repeating: $0.records[0], count: MigrationPage.countMax + 1) },
            { $0.dues = Array(repeating: $0.dues[0], count: MigrationPage.countMax + 1) },
            { $0.holders = Array(repeating: $0.holders[0], count: MigrationPage.countMax + 1) },
        ] {
            var page = page
            change(&page)
            #expect(throws: DecodingFailure.self) { try read(.page(id, page)) }
        }
    }

    @Test func damagedCommandsStopTheReplicaAndTrapNothing() throws {
        var (source, target) = (try MovingGroup(1), try MovingGroup(2))
        for number in 0..<5 { _ = source.put(Bytes("{a}\(number)"), "v", timeToLive: 5_000) }
        try source.send(Chimes.Wind("{a}", 1, after: 4_000))
        let session = try source.open()
        try source.send(PermitAcquire<LockMachine>("{a}lock"), of: session, call: 1)
        let moving = [slot(of: "{a}")]
        source.apply(.beginExport(id, moving, target: target.id))
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(1)))
        source.apply(.freeze(id))
        let page = try #require(target.nextPage(of: id, from: source, countMax: 100))
        #expect(page.holders.count == 1 && page.dues.count == 6 && page.records.count > 5)
        for (number, command) in (samples.map(\.command) + [.page(id, page)]).enumerated() {
            mutate(command.payload(), seed: UInt64(number), rounds: 400) { payload in
                let decoded = try? SlotCommand(payload: payload)
                if let decoded { #expect((try? SlotCommand(payload: decoded.payload())) == decoded) }
                for group in [source, target] {
                    var machine = group.machine
                    var store = group.store
                    let entry = LogEntry.command(machine.applied.rawValue + 1, payload, logTime: group.logTime)
                    if case .unsupported = machine.apply(entry, into: &store) {
                        #expect(machine.digest == group.machine.digest && machine.ownership == group.ownership)
                    }
                }
            }
        }
    }

    /// Records of slots, of what is done for migrations, and of timers that came.
    @Test func records() throws {
        var (source, target) = (try MovingGroup(1, logTime: 5_000), try MovingGroup(2))
        let slot = slot(of: "{a}")
        try source.send(Chimes.Wind("{a}", 1, after: 4_000))
        _ = source.put("{a}k", "v")
        source.apply(.beginExport(id, [slot], target: target.id))
        func expect(
            _ group: MovingGroup, _ records: [String: String], sourceLocation: SourceLocation = #_sourceLocation
        ) {
            var found: [String: String] = [:]
            for record in group.slotRecords { if let value = record.value { found[hex(record.key)] = hex(value) } }
            #expect(found == records, sourceLocation: sourceLocation)
        }
        let (mark, task) = ("01" + "3c87", "02" + "0000000000000007")
        let run = "01000000" + "873c" + "0100"
        let nothing = long("00")
        // At 2000 + 4000, set by entry 1 of group 1.
        let timer = "03" + "00000001" + "0000000000000001" + "0000"
        expect(
            source,
            [
                mark: join("01", long("07"), "01", "00000000", nothing, nothing, nothing),
                task: join(
                    "01", "01", "02000000", long("03"), nothing, nothing, "00", nothing, nothing, nothing, nothing,
                    nothing, "00000000", run),
            ])
        target.apply(.beginImport(id, [slot], source: source.id, sourceTime: LogTime(5_000)))
        let first = try #require(target.nextPage(of: id, from: source, countMax: 1))
        target.apply(.page(id, first))
        // 5000, and 1000 with a second on top.
        let times = "8813000000000000" + "d007000000000000"
        let next = "873c" + "0100" + "04000000" + "7b617d6b"
        expect(
            target,
            [
                mark: join("01", long("07"), "04", "01000000", nothing, nothing, nothing),
                task: join(
                    "01", "04", "01000000", long("01"), times, "00", nothing, nothing, long("01"), nothing, long("03"),
                    "0c000000", next, run),
            ])
        try target.takeRound(of: id, from: source)
        // The command that comes.
        expect(
            target,
            [
                mark: join("01", long("07"), "04", "01000000", nothing, nothing, nothing),
                task: join(
                    "01", "04", "01000000", long("01"), times, "01", nothing, nothing, long("02"), nothing, long("03"),
                    "00000000", run), timer: "7017000000000000",
            ])
        try target.freezeAndSeal(id, from: &source)
        try target.releaseAndActivate(id, from: &source, Epoch(6))
        expect(
            source,
            [
                mark: join("01", long("07"), "03", "02000000", long("06"), nothing, long("01")),
                task: join(
                    "01", "03", "02000000", long("03"), nothing, nothing, "00", long("04"), long("01"), nothing,
                    nothing, nothing, "00000000", run),
            ])
        expect(
            target,
            [
                mark: join("01", long("07"), "01", "01000000", long("02"), long("01"), long("01")),
                timer: "7017000000000000",
            ])
        let deadline = try #require(target.records(of: .deadlines).first)
        #expect(hex(deadline.key.key) == "0000000000001770" + "0000000000000001" + "0000" + "00000001")
        let request = join("0200", "01", "0300", "7b617d", "03000000", "7b617d", long("01"))
        #expect(hex(deadline.value.value ?? "") == join("04", "2823000000000000", "b90b", request))
        // It is carried out by these bytes.
        let key = try DeadlineKey(key: deadline.key.key)
        let fire = String(hex(DeadlineCommand.fire(key).payload()).dropFirst(56))
        #expect(fire == join("02", "01", "7017000000000000", long("01"), "0000", "01000000"))
    }

    @Test func damagedRecordsAreRefusedAndTrapNothing() throws {
        var (source, target) = (try MovingGroup(1, logTime: 5_000), try MovingGroup(2))
        let moving = [slot(of: "{a}"), slot(of: "{b}")].sorted()
        for number in 0..<5 { _ = source.put(Bytes("{a}\(number)"), "v", timeToLive: 5_000) }
        source.apply(.beginExport(id, moving, target: target.id))
        target.apply(.beginImport(id, moving, source: source.id, sourceTime: LogTime(5_000)))
        target.apply(.page(id, try #require(target.nextPage(of: id, from: source, countMax: 2))))
        source.apply(.freeze(id))
        let page = SlotCommand.page(id, try #require(target.nextPage(of: id, from: source, countMax: 2)))
        let all = samples.map(\.command) + [page]
        func restore(_ group: MovingGroup, _ records: [SlotRecord]) throws -> MasterStateMachine {
            try MasterStateMachine(
                group: group.id, applied: group.machine.applied, revision: group.machine.revision,
                logTime: group.machine.logTime, slotRecords: records)
        }
        for group in [source, target] {
            let records = group.slotRecords.sorted { $0.key < $1.key }
            #expect(records.count == 3)
            for place in records.indices {
                for isKey in [false, true] {
                    let original = isKey ? records[place].key : try #require(records[place].value)
                    mutate(original, seed: UInt64(place), rounds: 600) { bytes in
                        var damaged = records
                        if isKey { damaged[place].key = bytes } else { damaged[place].value = bytes }
                        guard let machine = try? restore(group, damaged) else { return }
                        for command in all {
                            var machine = machine
                            var store = group.store
                            _ = machine.apply(.command(machine.applied.rawValue + 1, command.payload()), into: &store)
                        }
                    }
                }
                for value in ["", "\u{2}"] as [Bytes] {
                    var damaged = records
                    damaged[place].value = value
                    #expect(throws: DecodingFailure.self) { try restore(group, damaged) }
                }
            }
            let task = try #require(records.first { $0.key.array.first == 2 })
            #expect(throws: DecodingFailure.self) { try restore(group, records + [task]) }
            #expect(throws: DecodingFailure.self) { try restore(group, [SlotRecord(key: "\u{4}", value: "\u{1}")]) }
            // Pages are counted as long as there are numbers.
            var bytes = try #require(task.value).array
            for offset in 47..<55 { bytes[offset] = 0xff }
            #expect(throws: DecodingFailure.self) {
                try restore(group, [SlotRecord(key: task.key, value: Bytes(bytes))])
            }
        }
    }
}
