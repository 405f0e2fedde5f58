// Sweeps as they stand in logs and stores.

import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// Puts records there, and has them swept.
private enum Litter: StateMachine {
    static let number = SubMachineNumber(901)
    static let commands: [any MachineCommand<Litter>.Type] = [Drop.self, Clear.self]

    struct Drop: MachineCommand {
        typealias Machine = Litter
        static let number: UInt16 = 1
        var key: Bytes

        init(_ key: Bytes) { self.key = key }

        func apply(in context: inout MachineContext) throws -> Done {
            try context.put(key, "v" as Bytes)
            return Done()
        }

        func encode(into writer: inout ByteWriter) { writer.write(key) }
        init(from reader: inout ByteReader) throws(DecodingFailure) { key = reader.readRest() }
    }

    struct Clear: MachineCommand {
        typealias Machine = Litter
        static let number: UInt16 = 2
        var key: Bytes

        init(_ key: Bytes) { self.key = key }

        func apply(in context: inout MachineContext) throws -> Done {
            try context.sweep(key)
            return Done()
        }

        func encode(into writer: inout ByteWriter) { writer.write(key) }
        init(from reader: inout ByteReader) throws(DecodingFailure) { key = reader.readRest() }
    }
}

@Suite struct SweepTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    @Test func bytesAreFrozen() throws {
        let key = DeadlineKey(time: LogTime(1), index: LogIndex(2), number: 3)
        let timer = DeadlineKey(time: LogTime(4), index: LogIndex(5), number: 6)
        let command = DeadlineCommand.sweep([
            SweepStep(key, records: [.init(key: "k", timer: nil), .init(key: "l", timer: timer)], next: "m"),
            SweepStep(timer, records: [], next: nil),
        ])
        #expect(
            hex(command.payload())
                == "0600" + "0100" + String(repeating: "0", count: 48) + "03" + "01" + "0200"
                + "0100000000000000" + "0200000000000000" + "0300" + "01" + "01000000" + "6d" + "0200"
                + "01000000" + "6b" + "00" + "01000000" + "6c" + "01" + "0400000000000000" + "0500000000000000" + "0600"
                + "0400000000000000" + "0500000000000000" + "0600" + "00" + "0000")
        #expect(try DeadlineCommand(payload: command.payload()) == command)
    }

    @Test func bytesOfTimersThatMayHaveMoved() throws {
        let key = DeadlineKey(time: LogTime(1), index: LogIndex(2), number: 3)
        let timer = DeadlineKey(time: LogTime(4), index: LogIndex(5), number: 6, origin: GroupID(7))
        let command = DeadlineCommand.sweep([SweepStep(key, records: [.init(key: "k", timer: timer)], next: nil)])
        let step = ["00", "0100", "01000000", "6b", "02", "0400000000000000", "0500000000000000", "0600", "07000000"]
        #expect(hex(command.payload()).hasSuffix(step.joined()))
        #expect(try DeadlineCommand(payload: command.payload()) == command)
        for (place, byte) in [(23, 3), (4, 0)] as [(Int, UInt8)] {
            var bytes = command.payload().array
            bytes[bytes.count - place] = byte
            #expect(throws: DecodingFailure.self, "\(place)") { _ = try DeadlineCommand(payload: Bytes(bytes)) }
        }
    }

    @Test func aSweepGoesOnBehindItsSteps() throws {
        var machine = try MasterStateMachine(group: GroupID(1))
        machine.machines = StateMachineRegistry(dataTypes: [Litter.self])
        var store = ModelStore()
        var index: UInt64 = 0
        func apply(_ payload: Bytes, logTime: UInt64) {
            index += 1
            _ = machine.apply(.command(index, payload, logTime: logTime), into: &store)
        }
        func records(of machine: SubMachineNumber) -> [(key: Bytes, value: Bytes)] {
            store.records.filter { $0.key.machine == machine }.sorted { $0.key < $1.key }.compactMap { key, record in
                record.value.map { (key.key, $0) }
            }
        }
        for key in ["{a}1", "{a}2", "{a}3"] as [Bytes] {
            apply(MachineRequest(Litter.Drop(key)).payload(machine: Litter.number), logTime: 5)
        }
        apply(MachineRequest(Litter.Clear("{a}")).payload(machine: Litter.number), logTime: 7)
        // Slot 15495, machine 901: all that begins with {a}, from there on.
        let sweep = "03" + "873c" + "8503" + "03000000" + "7b617d"
        let first = try #require(records(of: .deadlines).first)
        #expect(hex(first.key) == "0000000000000007" + "0000000000000004" + "0000")
        #expect(hex(first.value) == sweep + "03000000" + "7b617d")
        let place = Sweep(slot: slot(of: "{a}"), machine: Litter.number, prefix: "{a}", from: "{a}")
        #expect(try Deadline(key: first.key, value: first.value).purpose == .sweep(place))

        let key = try DeadlineKey(key: first.key)
        // What does not begin so stays.
        let step = SweepStep(
            key, records: ["{a}1", "{a}2", "{b}"].map { .init(key: $0, timer: nil) }, next: "{a}3")
        apply(DeadlineCommand.sweep([step]).payload(), logTime: 1_000)
        #expect(records(of: Litter.number).map(\.key) == ["{a}3"])
        let rest = try #require(records(of: .deadlines).first)
        #expect(records(of: .deadlines).count == 1)
        // Behind all that was due by then: log time less 128 ms.
        #expect(hex(rest.key) == "0000000000000368" + "0000000000000005" + "0000")
        #expect(hex(rest.value) == sweep + "04000000" + "7b617d33")
        // A step that comes again finds its deadline gone.
        apply(DeadlineCommand.sweep([step]).payload(), logTime: 1_001)
        #expect(records(of: .deadlines).count == 1)
        let last = SweepStep(try DeadlineKey(key: rest.key), records: [.init(key: "{a}3", timer: nil)], next: nil)
        apply(DeadlineCommand.sweep([last]).payload(), logTime: 1_002)
        #expect(records(of: .deadlines).isEmpty && records(of: Litter.number).isEmpty)
    }
}
