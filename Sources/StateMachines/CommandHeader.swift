// What stands in front of every command in the log.

public import Primitives

/// Says which sub state machine a command is for, and which call of which session it is. The payload of a command's log
/// entry is this header and the command.
///
/// `machine u16 | version u16 = 1 | session u64 | sequence u64 | first unacknowledged u64`, 28 bytes.
///
/// Session 0 is none: such a command may be applied twice if it is sent twice. A retry that follows a moved slot will have
/// to name the group where its session began; that is for version 2 of the header, so that ordinary commands don't carry
/// it.
public struct CommandHeader: Hashable, Sendable {
    public var machine: SubMachineNumber
    public var session: SessionID
    /// The call's number in its session.
    public var sequence: UInt64
    /// The lowest call of the session whose answer the client may still ask for.
    public var firstUnacknowledged: UInt64

    public static let formatVersion: UInt16 = 1
    public static let encodedBytes = 28

    @inlinable public init(
        machine: SubMachineNumber, session: SessionID = .none, sequence: UInt64 = 0, firstUnacknowledged: UInt64 = 0
    ) {
        self.machine = machine
        self.session = session
        self.sequence = sequence
        self.firstUnacknowledged = firstUnacknowledged
    }

    @inlinable public func encode(into writer: inout ByteWriter) {
        let place = writer.extend(by: Self.encodedBytes)
        place.storeBytes(of: machine.rawValue.littleEndian, toByteOffset: 0, as: UInt16.self)
        place.storeBytes(of: Self.formatVersion.littleEndian, toByteOffset: 2, as: UInt16.self)
        place.storeBytes(of: session.rawValue.littleEndian, toByteOffset: 4, as: UInt64.self)
        place.storeBytes(of: sequence.littleEndian, toByteOffset: 12, as: UInt64.self)
        place.storeBytes(of: firstUnacknowledged.littleEndian, toByteOffset: 20, as: UInt64.self)
    }

    /// The header of a payload; nil if the payload is shorter than one or the header is of another version.
    @inlinable public init?(of payload: UnsafeRawBufferPointer) {
        guard payload.count >= Self.encodedBytes, payload.integer(at: 2, UInt16.self) == Self.formatVersion else {
            return nil
        }
        self.init(
            machine: SubMachineNumber(payload.integer(at: 0, UInt16.self)),
            session: SessionID(payload.integer(at: 4, UInt64.self)),
            sequence: payload.integer(at: 12, UInt64.self), firstUnacknowledged: payload.integer(at: 20, UInt64.self))
    }
}

extension UnsafeRawBufferPointer {
    /// A little-endian integer. The caller has checked that it lies inside.
    @inlinable func integer<Integer: FixedWidthInteger>(at offset: Int, _: Integer.Type) -> Integer {
        Integer(littleEndian: loadUnaligned(fromByteOffset: offset, as: Integer.self))
    }

    @inlinable func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: self[range])
    }
}
