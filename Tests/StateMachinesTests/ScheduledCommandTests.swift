// Commands that a machine has applied later, within one group's state machine: when they come, that they come once, and
// what calls them off.

import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// Alarms that ring after a while, and note that they did.
private enum Alarms: StateMachine {
    static let number = SubMachineNumber(3_000)
    static let commands: [any MachineCommand<Alarms>.Type] = [Wind.self, Ring.self, Stop.self]

    struct Wind: MachineCommand {
        typealias Machine = Alarms
        typealias Answer = Handles
        static let number: UInt16 = 1
        enum How: UInt8 {
            case well = 1, andFail, twiceAndStopOne, foreignCommand, elsewhere, tooLarge, tooMany, hidden
        }
        var how = How.well
        var nanoseconds: Int64 = 2_000_000_000
        var rings: UInt8 = 1
        var key: Bytes { "{a}k" }

        func apply(in context: inout MachineContext) throws -> Handles {
            let ring = Alarms.Ring(left: rings)
            switch how {
            case .well: return Handles(list: [try context.schedule(ring, after: .nanoseconds(nanoseconds))])
            case .andFail:
                try context.schedule(ring, after: .seconds(1))
                throw MachineFailure(5, "no")
            case .twiceAndStopOne:
                let one = try context.schedule(ring, after: .seconds(1))
                let two = try context.schedule(ring, after: .seconds(1))
                #expect(try context.cancel(one))
                #expect(try !context.cancel(one))
                return Handles(list: [one, two])
            case .foreignCommand: _ = try? context.schedule(Add("{a}k", 1), after: .seconds(1))
            case .elsewhere: _ = try? context.schedule(Alarms.Ring(key: "{b}k"), after: .seconds(1))
            case .tooLarge:
                let bytes = Bytes([UInt8](repeating: 1, count: MachineContext.Limits.scheduledBytesMax))
                _ = try? context.schedule(Alarms.Ring(more: bytes), after: .seconds(1))
            case .tooMany:
                for _ in 0...MachineContext.Limits.writesMax { _ = try? context.schedule(ring, after: .seconds(1)) }
            case .hidden: _ = try? context.schedule(ring, after: .nanoseconds(nanoseconds))
            }
            return Handles(list: [])
        }

        init(_ how: How = .well, nanoseconds: Int64 = 2_000_000_000, rings: UInt8 = 1) {
            (self.how, self.nanoseconds, self.rings) = (how, nanoseconds, rings)
        }
        func encode(into writer: inout ByteWriter) {
            writer.write(how.rawValue)
            writer.write(UInt64(bitPattern: nanoseconds))
            writer.write(rings)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            guard let how = How(rawValue: try reader.read()) else {
                throw DecodingFailure(expected: "1 to 8", found: "another")
            }
            self.how = how
            nanoseconds = Int64(bitPattern: try reader.read())
            rings = try reader.read()
        }
    }

    /// Counts in "{a}rung", and comes again. With 0 left it fails.
    struct Ring: MachineCommand {
        typealias Machine = Alarms
        static let number: UInt16 = 2
        var key: Bytes
        var left: UInt8
        var more: Bytes
        var readKeys: [Bytes] { ["{a}rung"] }

        func apply(in context: inout MachineContext) throws -> Done {
            let old = try context.get("{a}rung", as: Count.self)?.value ?? 0
            try context.put("{a}rung", Count(old + 1))
            guard left > 0 else { throw MachineFailure(6, "broken") }
            if left > 1 { try context.schedule(Ring(left: left - 1), after: .seconds(1)) }
            try context.emit(Rang())
            return Done()
        }

        init(key: Bytes = "{a}k", left: UInt8 = 1, more: Bytes = Bytes()) {
            (self.key, self.left, self.more) = (key, left, more)
        }
        func encode(into writer: inout ByteWriter) {
            writer.write(left)
            writer.writeWithLength(key)
            writer.write(more)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            left = try reader.read()
            key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
            more = reader.readRest()
        }
    }

    /// Answers whether it was still to come.
    struct Stop: MachineCommand {
        typealias Machine = Alarms
        typealias Answer = Count
        static let number: UInt16 = 3
        var key: Bytes
        var handle: ScheduledCommand
        func apply(in context: inout MachineContext) throws -> Count { Count(try context.cancel(handle) ? 1 : 0) }
        init(_ handle: ScheduledCommand, key: Bytes = "{a}k") { (self.handle, self.key) = (handle, key) }
        func encode(into writer: inout ByteWriter) {
            writer.writeWithLength(key)
            handle.encode(into: &writer)
        }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
            handle = try ScheduledCommand(from: &reader)
        }
    }

    struct Rang: MachineEvent {
        typealias Machine = Alarms
        static let number: UInt16 = 1
        var key: Bytes { "{a}k" }
        func encode(into writer: inout ByteWriter) {}
        init() {}
        init(from reader: inout ByteReader) throws(DecodingFailure) {}
    }

    struct Handles: Message {
        var list: [ScheduledCommand]
        func encode(into writer: inout ByteWriter) { for handle in list { handle.encode(into: &writer) } }
        init(list: [ScheduledCommand]) { self.list = list }
        init(from reader: inout ByteReader) throws(DecodingFailure) {
            list = []
            while !reader.isAtEnd { list.append(try ScheduledCommand(from: &reader)) }
        }
    }
}

@Suite struct ScheduledCommandTests {
    private struct Group {
        var machine: MasterStateMachine
        var store = ModelStore()

        init() throws {
            machine = try MasterStateMachine(group: GroupID(1))
            machine.machines = try StateMachineRegistry([Alarms.self, Shelf.self])
        }

        mutating func apply(_ payload: Bytes, at logTime: UInt64) -> Applied {
            machine.apply(.command(machine.applied.rawValue + 1, payload, logTime: logTime), into: &store)
        }

        @discardableResult mutating func apply<Command: MachineCommand>(
            _ command: Command, at logTime: UInt64 = 1_000
        ) throws -> Result<Command.Answer, MachineFailure> {
            guard case .done(_, let body) = apply(MachineRequest(command).payload(machine: Alarms.number), at: logTime)
            else { throw Refusal.invalid("not done") }
            switch try MachineOutcome(decoding: body) {
            case .answer(let bytes): return .success(try Command.Answer(decoding: bytes))
            case .failure(let failure): return .failure(failure)
            }
        }

        @discardableResult mutating func fire(_ key: DeadlineKey, at logTime: UInt64) -> Applied {
            apply(DeadlineCommand.fire(key).payload(), at: logTime)
        }

        /// All that is to come.
        var deadlines: [Deadline] {
            get throws {
                try store.records.sorted { $0.key < $1.key }.filter { $0.key.machine == .deadlines }.compactMap {
                    record in
                    try record.value.value.map { try Deadline(key: record.key.key, value: $0) }
                }
            }
        }

        func rung() throws -> UInt64 {
            let place = RecordPosition(slot: slot(of: "{a}rung"), machine: Alarms.number, key: "{a}rung")
            guard case .found(let record) = store.find(place) else { return 0 }
            return try Count(decoding: record.value).value
        }
    }

    @Test func itComesOnceAndNotBeforeItsTime() throws {
        var group = try Group()
        let handle = try #require(try group.apply(Alarms.Wind()).get().list.first)
        #expect(group.machine.earliestDeadline == .zero)
        let key = try #require(try group.deadlines.first).key
        #expect(key.time == LogTime(3_000))
        let revision = group.machine.revision
        group.fire(key, at: 2_999)
        #expect(try group.rung() == 0 && group.machine.revision == revision)
        #expect(try group.deadlines.count == 1)
        group.fire(key, at: 3_000)
        #expect(try group.rung() == 1 && group.machine.revision == revision.next)
        #expect(try group.deadlines == [])
        let writes = group.store.writes
        group.fire(key, at: 4_000)
        #expect(try group.rung() == 1 && group.store.writes == writes && group.machine.revision == revision.next)
        #expect(try group.apply(Alarms.Stop(handle)) == .success(Count(0)))
    }

    @Test func whatIsCalledOffDoesNotComeAndOnlyItsOwnersCallItOff() throws {
        var group = try Group()
        let handle = try #require(try group.apply(Alarms.Wind()).get().list.first)
        #expect(try group.apply(Alarms.Stop(handle, key: "{b}k")) == .success(Count(0)))
        #expect(try group.deadlines.count == 1)
        let key = try #require(try group.deadlines.first).key
        #expect(try group.apply(Alarms.Stop(handle)) == .success(Count(1)))
        group.fire(key, at: 9_000)
        #expect(try group.rung() == 0)

        let both = try group.apply(Alarms.Wind(.twiceAndStopOne)).get().list
        #expect(both.count == 2 && both[0] != both[1])
        let left = try group.deadlines
        #expect(left.count == 1)
        group.fire(try #require(left.first).key, at: 20_000)
        #expect(try group.rung() == 1)
        // One of another group.
        var foreign = both[1].encoded().array
        foreign[0] = 2
        try group.apply(Alarms.Wind())
        let kept = try group.deadlines
        #expect(try group.apply(Alarms.Stop(try ScheduledCommand(decoding: Bytes(foreign)))) == .success(Count(0)))
        #expect(try group.deadlines == kept)
        group.fire(try #require(kept.first).key, at: 25_000)
        // A deadline of a record is nobody's command.
        _ = group.apply(KeyValueCommand.put(key: "{a}k", value: "v", timeToLiveMillis: 5).payload(), at: 25_000)
        let record = try #require(try group.deadlines.first)
        var bytes = ByteWriter()
        bytes.write(GroupID(1))
        bytes.write(record.key.time)
        bytes.write(record.key.index)
        bytes.write(record.key.number)
        let forged = try ScheduledCommand(decoding: bytes.take())
        #expect(try group.apply(Alarms.Stop(forged)) == .success(Count(0)))
        #expect(try group.deadlines == [record])
        guard case .unsupported = group.fire(record.key, at: 30_000) else { throw Refusal.invalid("it was done") }
    }

    @Test func itMayScheduleItselfAgainAndIfItFailsThatIsItsEnd() throws {
        var group = try Group()
        try group.apply(Alarms.Wind(rings: 3))
        var time: UInt64 = 3_000
        for round in 1...3 {
            let all = try group.deadlines
            #expect(all.count == 1)
            group.fire(try #require(all.first).key, at: time)
            #expect(try group.rung() == UInt64(round))
            time += 1_000
        }
        #expect(try group.deadlines == [])
        try group.apply(Alarms.Wind(rings: 0))
        group.fire(try #require(try group.deadlines.first).key, at: 9_000)
        #expect(try group.rung() == 3)
        #expect(try group.deadlines == [])
        // One that fails schedules nothing.
        #expect(try group.apply(Alarms.Wind(.andFail)) == .failure(MachineFailure(5, "no")))
        #expect(try group.deadlines == [])
    }

    @Test func whatIsNotInMemoryIsWaitedFor() throws {
        var group = try Group()
        let handle = try #require(try group.apply(Alarms.Wind()).get().list.first)
        let key = try #require(try group.deadlines.first).key
        let deadline = RecordPosition(slot: .group, machine: .deadlines, key: key.key)
        let counter = RecordPosition(slot: slot(of: "{a}rung"), machine: Alarms.number, key: "{a}rung")
        let before = group.machine.digest
        let entry = LogEntry.command(2, DeadlineCommand.fire(key).payload())
        // What it names, as soon as that can be told.
        #expect(group.machine.reads(of: entry, group.store) == [counter])
        group.store.elsewhere = [deadline, counter]
        #expect(group.machine.reads(of: entry, group.store) == [deadline])
        #expect(group.fire(key, at: 3_000) == .unready([deadline]))
        #expect(
            group.apply(MachineRequest(Alarms.Stop(handle)).payload(machine: Alarms.number), at: 3_000)
                == .unready([deadline]))
        group.store.elsewhere = [counter]
        #expect(group.fire(key, at: 3_000) == .unready([counter]))
        #expect(group.machine.digest == before && group.machine.applied == LogIndex(1))
        group.store.elsewhere = []
        group.fire(key, at: 3_000)
        #expect(try group.rung() == 1)
    }

    @Test func whatBreaksARuleSchedulesNothing() throws {
        for (how, rule) in [
            (Alarms.Wind.How.foreignCommand, MachineFailure.Rule.commandElsewhere), (.elsewhere, .keyElsewhere),
            (.tooLarge, .scheduledTooLarge), (.tooMany, .writesTooMuch),
        ] {
            var group = try Group()
            guard case .failure(let failure) = try group.apply(Alarms.Wind(how)) else {
                Issue.record("\(how) passed")
                continue
            }
            #expect(failure.rule == rule && !failure.description.isEmpty)
            #expect(group.store.records.isEmpty)
        }
        for nanoseconds in [0, -1, Int64.min, Int64.max] {
            var group = try Group()
            guard case .failure(let failure) = try group.apply(Alarms.Wind(.hidden, nanoseconds: nanoseconds)) else {
                // 292 years are too long.
                Issue.record("\(nanoseconds) ns passed")
                continue
            }
            #expect(failure.rule == .badDelay && group.store.records.isEmpty)
        }
        // Part of a millisecond is one.
        var group = try Group()
        try group.apply(Alarms.Wind(nanoseconds: 1))
        #expect(try group.deadlines.first?.key.time == LogTime(1_001))
    }

    @Test func itsBytesAreThoseOfFeatureLevel8() throws {
        var group = try Group()
        let handle = try #require(try group.apply(Alarms.Wind()).get().list.first)
        #expect(
            handle.encoded().array == [1, 0, 0, 0] + [0xb8, 0x0b, 0, 0, 0, 0, 0, 0] + [1, 0, 0, 0, 0, 0, 0, 0] + [0, 0])
        let record = try #require(group.store.records.first { $0.key.machine == .deadlines })
        #expect(
            record.key.key.array == [0, 0, 0, 0, 0, 0, 0x0b, 0xb8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
                && record.key.slot == .group)
        let body: [UInt8] = [1, 4, 0, 0, 0] + Array("{a}k".utf8)
        #expect(record.value.value?.array == [2, 0xb8, 0x0b, 2, 0, 1, 4, 0] + Array("{a}k".utf8) + body)
        let payload = DeadlineCommand.fire(DeadlineKey(time: LogTime(3_000), index: LogIndex(1), number: 7)).payload()
        #expect(
            payload.array == [6, 0, 1, 0] + [UInt8](repeating: 0, count: 24) + [2, 1] + [0xb8, 0x0b, 0, 0, 0, 0, 0, 0]
                + [1, 0, 0, 0, 0, 0, 0, 0] + [7, 0])
        // What is no command about deadlines stops the replica, and changes nothing.
        let time = group.machine.logTime
        mutate(payload, seed: 4) { payload in
            var group = group
            switch group.apply(payload, at: 1_000) {
            case .unsupported: #expect(group.machine.applied == LogIndex(1))
            default: #expect(group.machine.logTime == time)
            }
        }
    }
}
