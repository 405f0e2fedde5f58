// What a queue needs beside records: to be told after a time.

import Messages
package import Primitives

/// Something that a queue wants to be told after a time.
///
/// `kind u8 | number u64 | turn u64`, 17 bytes
package struct QueueTimer: Message {
    package enum Kind: UInt8, Sendable {
        /// The item is delayed, or in flight, no longer.
        case item = 0
        case waiter
        /// The id that an item was pushed with may come again.
        case duplicate
    }
    package var kind: Kind
    /// Of the item, or the waiter's ticket.
    package var number: UInt64
    /// Of the item: it has gone on meanwhile if it has another one.
    package var turn: UInt64

    init(_ kind: Kind, _ number: UInt64, turn: UInt64 = 0) {
        (self.kind, self.number, self.turn) = (kind, number, turn)
    }

    package func encode(into writer: inout ByteWriter) {
        writer.write(kind.rawValue)
        writer.write(number)
        writer.write(turn)
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let kind = Kind(rawValue: number) else {
            throw DecodingFailure(expected: "the kind of a queue's timer", found: "\(number)")
        }
        self.kind = kind
        (self.number, turn) = (try reader.read(), try reader.read())
    }
}

/// Records, and timers. A timer counts as a write, and so does calling one off.
package protocol QueueSpace: RecordSpace {
    /// Has the queue told (`ObjectQueue.fire`), once and not before so many milliseconds have passed.
    ///
    /// - Returns: `ObjectQueue.handleBytesMax` bytes at most, for `cancel`.
    mutating func schedule(_ timer: QueueTimer, afterMillis: UInt64) throws -> Bytes
    /// Calls a timer off. One that comes nevertheless does no harm.
    mutating func cancel(_ handle: Bytes) throws
    /// These are to be called off next: a space that may have to fetch them does so in one go.
    mutating func prepare(cancelling handles: [Bytes]) throws
}

extension QueueSpace {
    package mutating func prepare(cancelling handles: [Bytes]) throws {}
}
