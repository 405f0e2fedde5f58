// Records that nobody needs any more: a command names all of them at once by how their keys begin, and the group's leader
// has them deleted, some at a time. So emptying a collection costs its command no more than one record.

import Messages
public import Primitives

/// All records of a machine in one slot whose keys begin with `prefix`: no command puts one there any more.
///
/// `slot u16 | machine u16 | prefix: length u32, bytes | from: length u32, bytes`
public struct Sweep: Hashable, Sendable {
    public var slot: Slot
    public var machine: SubMachineNumber
    public var prefix: Bytes
    /// What is before this key is gone.
    public var from: Bytes

    public init(slot: Slot, machine: SubMachineNumber, prefix: Bytes, from: Bytes) {
        self.slot = slot
        self.machine = machine
        self.prefix = prefix
        self.from = from
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(slot)
        writer.write(machine)
        writer.writeWithLength(prefix)
        writer.writeWithLength(from)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        slot = try reader.read()
        machine = try reader.read()
        prefix = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
        from = try reader.readBytesWithLength(limit: Limits.keyBytesMax + 1)
    }

    /// A leader takes a deadline for due when log time has gone on behind it by so much; what a step has left is to be due
    /// at once.
    private static var dueMillis: UInt64 { 128 }

    /// Where its next step stands: behind all that was due before this one, and ahead of what will be later.
    private func next(behind deadline: DeadlineKey, at logTime: LogTime, _ index: LogIndex, _ number: UInt16)
        -> DeadlineKey
    {
        let time = LogTime(logTime.rawValue - min(logTime.rawValue, Self.dueMillis))
        return DeadlineKey(time: max(time, deadline.time), index: index, number: number)
    }

    /// What one step does.
    ///
    /// - Parameters:
    ///   - number: of the step, in its entry.
    ///   - group: whose log the entry stands in.
    /// - Throws: where timers went is not in memory.
    func writes(
        _ step: SweepStep, at logTime: LogTime, _ index: LogIndex, number: UInt16, in group: GroupID,
        _ store: any RecordStore
    ) throws(Unready) -> [RecordWrite] {
        var writes = [step.deadline.removal]
        var missing: [RecordPosition] = []
        for record in step.records where record.key.starts(with: prefix) {
            writes.append(RecordWrite(slot: slot, machine: machine, key: record.key, expiry: .zero, value: nil))
            guard let timer = record.timer else { continue }
            guard let moved = record.movedTimer else {
                writes.append(timer.removal)
                continue
            }
            switch store.find(moved.place) {
            case .elsewhere: missing.append(moved.place)
            case .found(let place): writes += moved.removals(place.value)
            // It never went anywhere, or is over.
            case .absent where timer.origin == group:
                writes.append(DeadlineKey(time: timer.time, index: timer.index, number: timer.number).removal)
            case .absent: break
            }
        }
        guard missing.isEmpty else { throw Unready(missing) }
        if let from = step.next {
            let rest = Sweep(slot: slot, machine: machine, prefix: prefix, from: from)
            writes.append(Deadline(next(behind: step.deadline, at: logTime, index, number), .sweep(rest)).write)
        }
        return writes
    }
}

/// Some records of a sweep, as its leader found them.
///
/// `deadline | has next u8 | next: length u32, bytes, if there is one | count u16 | each: key: length u32, bytes, timer u8
/// (0: none; 1: deadline; 2: deadline, group u32, from feature level 11 on)`
public struct SweepStep: Hashable, Sendable {
    public struct Record: Hashable, Sendable {
        public var key: Bytes
        /// What would have ended it, as it was set: no deadline of the group ever has the same. With the group that set it, if
        /// that has to be looked for: it may have come here with its slot, or gone and come back.
        public var timer: DeadlineKey?

        public init(key: Bytes, timer: DeadlineKey?) {
            self.key = key
            self.timer = timer
        }

        /// Where to look for it.
        var movedTimer: MovedTimer? {
            timer.flatMap { $0.origin == .meta ? nil : MovedTimer(of: $0, in: $0.origin) }
        }
    }

    private enum Timer {
        static let none: UInt8 = 0
        static let own: UInt8 = 1
        static let moved: UInt8 = 2
    }
    /// Where the sweep stands.
    public var deadline: DeadlineKey
    public var records: [Record]
    /// It goes on here; nil: it is done.
    public var next: Bytes?

    public init(_ deadline: DeadlineKey, records: [Record], next: Bytes?) {
        self.deadline = deadline
        self.records = records
        self.next = next
    }

    func encode(into writer: inout ByteWriter) {
        deadline.encode(into: &writer)
        writer.write(next != nil)
        if let next { writer.writeWithLength(next) }
        writer.write(UInt16(truncatingIfNeeded: records.count))
        for record in records {
            writer.writeWithLength(record.key)
            guard let timer = record.timer else {
                writer.write(Timer.none)
                continue
            }
            writer.write(timer.origin == .meta ? Timer.own : Timer.moved)
            timer.encode(into: &writer)
            if timer.origin != .meta { writer.write(timer.origin) }
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        deadline = try DeadlineKey(from: &reader)
        next = try reader.readBool() ? try reader.readBytesWithLength(limit: Limits.keyBytesMax + 1) : nil
        let count = Int(try reader.read(UInt16.self))
        guard count <= DeadlineCommand.sweptMax else {
            throw DecodingFailure(
                expected: "at most \(DeadlineCommand.sweptMax) records to be swept", found: "\(count)")
        }
        records = []
        for _ in 0..<count {
            let key = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
            var timer: DeadlineKey?
            switch try reader.read(UInt8.self) {
            case Timer.none: break
            case Timer.own: timer = try DeadlineKey(from: &reader)
            case Timer.moved:
                var moved = try DeadlineKey(from: &reader)
                moved.origin = try reader.read()
                guard moved.origin != .meta else {
                    throw DecodingFailure(expected: "a group that sets timers", found: "\(moved.origin)")
                }
                timer = moved
            case let other: throw DecodingFailure(expected: "a timer of kind 0 to 2", found: "\(other)")
            }
            records.append(Record(key: key, timer: timer))
        }
    }
}

/// A data type whose records may have timers that end them: these go when the records are swept.
public protocol SweptMachine: StateMachine {
    /// What would end a record with this value; nil: nothing.
    static func timer(in record: Bytes) -> ScheduledCommand?
}
