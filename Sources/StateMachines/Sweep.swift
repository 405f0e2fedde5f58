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
    func step(behind deadline: DeadlineKey, at logTime: LogTime, index: LogIndex) -> DeadlineKey {
        let time = LogTime(logTime.rawValue - min(logTime.rawValue, Self.dueMillis))
        return DeadlineKey(time: max(time, deadline.time), index: index, number: 0)
    }

    /// What one command of it does.
    ///
    /// - Parameters:
    ///   - deadline: where the sweep stands.
    ///   - step: where it stands from then on.
    func writes(deleting keys: [Bytes], next: Bytes?, _ deadline: DeadlineKey, step: DeadlineKey) -> [RecordWrite] {
        var writes = [deadline.removal]
        for key in keys where key.starts(with: prefix) {
            writes.append(RecordWrite(slot: slot, machine: machine, key: key, expiry: .zero, value: nil))
        }
        if let next {
            let rest = Sweep(slot: slot, machine: machine, prefix: prefix, from: next)
            writes.append(Deadline(step, .sweep(rest)).write)
        }
        return writes
    }
}
