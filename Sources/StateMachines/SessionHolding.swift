// What sessions hold: objects that have to be told when a session ends, in the same entry. Owns which those are, and the
// order in which they are told; what is given back, and to whom, is their machines' affair.

import Messages
public import Primitives

/// An object that a session holds something of: a lock, a place in a queue, a membership.
///
/// `machine u16 | slot u16 | name: length u32, bytes`
public struct SessionHolding: Hashable, Sendable, Comparable {
    public var machine: SubMachineNumber
    public var slot: Slot
    public var name: Bytes

    public static func < (left: Self, right: Self) -> Bool {
        (left.machine.rawValue, left.slot.rawValue, left.name) < (
            right.machine.rawValue, right.slot.rawValue, right.name
        )
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(machine)
        writer.write(slot)
        writer.writeWithLength(name)
    }

    package init(machine: SubMachineNumber, slot: Slot, name: Bytes) {
        self.machine = machine
        self.slot = slot
        self.name = name
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        machine = try reader.read()
        slot = try reader.read()
        name = try reader.readBytesWithLength(limit: Limits.keyBytesMax)
    }

    static let encodedBytesMin = 8
}

/// A data type whose objects are held by sessions.
public protocol SessionHolder: StateMachine {
    /// The session is over: gives back all that it has of this object, as one command does. What it throws changes
    /// nothing, the same on every replica.
    static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws
}

/// A command began or ended a session's hold on an object.
struct HoldChange: Hashable, Sendable {
    var session: SessionID
    var holding: SessionHolding
    var isHeld: Bool

    var hash: UInt64 {
        let place = UInt64(holding.machine.rawValue) << 16 | UInt64(holding.slot.rawValue)
        return holding.name.withUnsafeBytes {
            hash64($0, seed: mix(session.rawValue ^ place) &+ (isHeld ? 1 : 0))
        }
    }
}

extension SessionTable {
    /// What the session holds, ascending; none if there is no such session.
    func holdings(of id: SessionID) -> [SessionHolding] { place(of: id).map { sessions[$0].holdings } ?? [] }

    /// Of sessions that are there: others hold nothing.
    mutating func note(_ changes: [HoldChange], at index: LogIndex, _ revision: Revision) {
        for change in changes {
            guard let place = place(of: change.session) else { continue }
            noteHold(change.holding, isHeld: change.isHeld, at: place, index: index, revision)
        }
    }
}

extension Session {
    mutating func noteHold(_ holding: SessionHolding, isHeld: Bool) -> Bool {
        let place = holdings.place(of: holding)
        let isThere = place < holdings.count && holdings[place] == holding
        guard isThere != isHeld else { return false }
        if isHeld { holdings.insert(holding, at: place) } else { holdings.remove(at: place) }
        return true
    }
}

/// Of what a session holds, ascending.
extension [SessionHolding] {
    /// Of the first one that is not below this one.
    fileprivate func place(of holding: SessionHolding) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = low + (high - low) / 2
            if self[middle] < holding { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func has(_ holding: SessionHolding) -> Bool {
        let place = place(of: holding)
        return place < count && self[place] == holding
    }
}

/// A store with what was written on top of it, for commands that follow each other in one entry.
struct OverlaidStore: RecordStore {
    private let below: any RecordStore
    private var written: [RecordPosition: Finding] = [:]

    init(_ below: any RecordStore) { self.below = below }

    mutating func add(_ writes: [RecordWrite], revision: Revision) {
        for write in writes {
            written[RecordPosition(slot: write.slot, machine: write.machine, key: write.key)] =
                write.value.map {
                    .found(StoredRecord(value: $0, revision: revision, expiry: write.expiry))
                } ?? .absent
        }
    }

    func find(_ place: RecordPosition) -> Finding { written[place] ?? below.find(place) }

    mutating func put(
        slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex,
        expiry: LogTime, value: Bytes?
    ) {
        preconditionFailure("what is decided is written elsewhere")
    }
}
