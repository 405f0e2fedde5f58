// How the commands and records of data types are written: the pieces that many of them have in common.

import Messages
package import Primitives
public import StateMachines

extension ByteReader {
    /// An object's name: `length u32, bytes`.
    package mutating func readName() throws(DecodingFailure) -> Bytes {
        let name = try readBytesWithLength(limit: ObjectLimits.nameBytesMax)
        guard !name.isEmpty else { throw DecodingFailure(expected: "an object's name", found: "none") }
        return name
    }

    /// What an object has inside by name. It may be empty.
    package mutating func readElement() throws(DecodingFailure) -> Bytes {
        try readBytesWithLength(limit: ObjectLimits.elementBytesMax)
    }

    /// Where a range begins or ends: up to one byte more than an element has.
    package mutating func readBound() throws(DecodingFailure) -> Bytes {
        try readBytesWithLength(limit: ObjectLimits.elementBytesMax + 1)
    }

    package mutating func readValue() throws(DecodingFailure) -> Bytes {
        try readBytesWithLength(limit: ObjectLimits.valueBytesMax)
    }

    /// Milliseconds; 0: none.
    package mutating func readTimeToLive() throws(DecodingFailure) -> UInt64 {
        let millis = try read(UInt64.self)
        guard millis <= MachineContext.Limits.delayMillisMax else {
            throw DecodingFailure(
                expected: "a time to live of up to \(MachineContext.Limits.delayMillisMax) ms", found: "\(millis)")
        }
        return millis
    }

    /// `count u16 | each`
    package mutating func readList<Element>(
        countMax: Int, _ element: (inout ByteReader) throws(DecodingFailure) -> Element
    ) throws(DecodingFailure) -> [Element] {
        let count = Int(try read(UInt16.self))
        guard count <= countMax else { throw DecodingFailure(expected: "at most \(countMax)", found: "\(count)") }
        var list: [Element] = []
        for _ in 0..<count { list.append(try element(&self)) }
        return list
    }

    package mutating func readOptional<Value>(
        _ value: (inout ByteReader) throws(DecodingFailure) -> Value
    ) throws(DecodingFailure) -> Value? {
        try readBool() ? try value(&self) : nil
    }

    /// Nothing may follow.
    package mutating func end<Value>(_ value: Value) throws(DecodingFailure) -> Value {
        try expectEnd()
        return value
    }
}

extension ByteWriter {
    package mutating func writeList<Element>(_ list: [Element], _ element: (Element, inout ByteWriter) -> Void) {
        write(UInt16(truncatingIfNeeded: list.count))
        for value in list { element(value, &self) }
    }

    package mutating func writeOptional<Value>(_ value: Value?, _ write: (Value, inout ByteWriter) -> Void) {
        self.write(value != nil)
        if let value { write(value, &self) }
    }
}

/// What must be true of an entry: the words are those of the key-value store's transactions.
///
/// `kind u8 | operand`: 1 absent, 2 present, 3 revision, 4 olderThan, 5 newerThan (each with a u64), 6 value, 7 otherThan
/// (each with length u32, bytes).
public typealias EntryCondition = KeyValueTransaction.Condition.Test

extension EntryCondition {
    func encode(into writer: inout ByteWriter) {
        switch self {
        case .absent: writer.write(1 as UInt8)
        case .present: writer.write(2 as UInt8)
        case .revision(let revision):
            writer.write(3 as UInt8)
            writer.write(revision)
        case .olderThan(let revision):
            writer.write(4 as UInt8)
            writer.write(revision)
        case .newerThan(let revision):
            writer.write(5 as UInt8)
            writer.write(revision)
        case .value(let value):
            writer.write(6 as UInt8)
            writer.writeWithLength(value)
        case .otherThan(let value):
            writer.write(7 as UInt8)
            writer.writeWithLength(value)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        switch try reader.read(UInt8.self) {
        case 1: self = .absent
        case 2: self = .present
        case 3: self = .revision(try reader.read())
        case 4: self = .olderThan(try reader.read())
        case 5: self = .newerThan(try reader.read())
        case 6: self = .value(try reader.readValue())
        case 7: self = .otherThan(try reader.readValue())
        case let kind: throw DecodingFailure(expected: "a condition of kind 1 to 7", found: "\(kind)")
        }
    }

    /// Whether it holds of what is there; nil: nothing is.
    package func holds(of entry: ObjectEntry?) -> Bool {
        switch (self, entry) {
        case (.absent, let entry): entry == nil
        case (.present, let entry): entry != nil
        case (_, nil): false
        case (.revision(let revision), let entry?): entry.revision == revision
        case (.olderThan(let revision), let entry?): entry.revision < revision
        case (.newerThan(let revision), let entry?): entry.revision > revision
        case (.value(let value), let entry?): entry.value == value
        case (.otherThan(let value), let entry?): entry.value != value
        }
    }
}
