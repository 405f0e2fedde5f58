// Where structures of many records read and write: a machine's context, a query's view, a dictionary in tests. Owns the
// seam, and what a command keeps of numbered records until it writes each of them once.

import Messages
package import Primitives

/// Records by key, to read. A read may throw because the record has to be fetched first: whoever reads lets that through,
/// and does all of it again later.
package protocol RecordReading {
    /// nil: there is none.
    mutating func value(of key: Bytes) throws -> Bytes?
    /// All of them, in the order of the keys. A space that may have to fetch records asks for all that it misses in one
    /// go: a command then waits once, and not once for each.
    mutating func values(of keys: [Bytes]) throws -> [Bytes?]
}

extension RecordReading {
    package mutating func values(of keys: [Bytes]) throws -> [Bytes?] {
        var found: [Bytes?] = []
        found.reserveCapacity(keys.count)
        for key in keys { found.append(try value(of: key)) }
        return found
    }
}

/// Records by key, to read and to write. Reads see what was written before.
package protocol RecordSpace: RecordReading {
    mutating func set(_ key: Bytes, to value: Bytes) throws
    mutating func remove(_ key: Bytes) throws
}

/// What the keys of records of one kind begin with. Those with a number have it behind that, big-endian.
package struct RecordPrefix: Hashable, Sendable {
    package let bytes: Bytes

    package init(_ bytes: Bytes) { self.bytes = bytes }

    package func kind(_ kind: UInt8) -> RecordPrefix {
        var writer = ByteWriter(capacity: bytes.count + 1)
        writer.write(bytes)
        writer.write(kind)
        return RecordPrefix(writer.take())
    }

    package func record(_ number: UInt64) -> Bytes {
        var writer = ByteWriter(capacity: bytes.count + 8)
        writer.write(bytes)
        writer.write(number.bigEndian)
        return writer.take()
    }

    package func record(_ rest: Bytes) -> Bytes {
        var writer = ByteWriter(capacity: bytes.count + rest.count)
        writer.write(bytes)
        writer.write(rest)
        return writer.take()
    }
}

/// A record is not what the others say of it, or not there.
package struct RecordDamage: Error, Hashable, CustomStringConvertible {
    /// The record's: of a node, an element, an item.
    package var number: UInt64
    package var problem: String
    package var description: String { "record \(number): \(problem)" }

    init(_ number: UInt64, _ problem: String) { (self.number, self.problem) = (number, problem) }
}

/// Numbered records of one kind as a command sees them: each is read once, and written once, by `flush`. Until then
/// nothing is changed.
struct RecordTable<Record: Message> {
    private struct Kept {
        var record: Record?
        var isChanged = false
        /// It is known not to be in the space: what is removed again needs no write.
        var isNew = false
    }

    let prefix: RecordPrefix
    private var kept: [UInt64: Kept] = [:]

    init(_ prefix: RecordPrefix) { self.prefix = prefix }

    mutating func value(of number: UInt64, in space: inout some RecordReading) throws -> Record? {
        if let known = kept[number] { return known.record }
        let record = try space.value(of: prefix.record(number)).map { bytes in try Record(decoding: bytes) }
        kept[number] = Kept(record: record, isNew: record == nil)
        return record
    }

    /// Reads those that it does not have yet, all at once.
    mutating func load(_ numbers: [UInt64], in space: inout some RecordReading) throws {
        let missing = numbers.filter { kept[$0] == nil }
        guard !missing.isEmpty else { return }
        let found = try space.values(of: missing.map { prefix.record($0) })
        for (number, bytes) in zip(missing, found) {
            let record = try bytes.map { bytes in try Record(decoding: bytes) }
            kept[number] = Kept(record: record, isNew: record == nil)
        }
    }

    mutating func set(_ number: UInt64, to record: Record) {
        kept[number] = Kept(record: record, isChanged: true, isNew: kept[number]?.isNew ?? false)
    }

    /// With a number that the space has no record with.
    mutating func add(_ number: UInt64, _ record: Record) {
        kept[number] = Kept(record: record, isChanged: true, isNew: kept[number]?.isNew ?? true)
    }

    /// Changes one that was read, or made, before, where it is.
    ///
    /// - Returns: false: there is none.
    mutating func change(_ number: UInt64, _ body: (inout Record) -> Void) -> Bool {
        guard let place = kept.index(forKey: number), kept.values[place].record != nil else { return false }
        body(&kept.values[place].record!)
        kept.values[place].isChanged = true
        return true
    }

    mutating func remove(_ number: UInt64) {
        kept[number] = Kept(record: nil, isChanged: true, isNew: kept[number]?.isNew ?? false)
    }

    /// The numbers of records that `flush` will remove, ascending.
    var removed: [UInt64] {
        kept.lazy.filter { $0.value.isChanged && $0.value.record == nil && !$0.value.isNew }.map(\.key).sorted()
    }

    /// Writes what has changed, in the order of the numbers.
    mutating func flush(into space: inout some RecordSpace) throws {
        let changed = kept.lazy.filter { $0.value.isChanged }.map(\.key).sorted()
        for number in changed {
            guard let now = kept[number] else { continue }
            if let record = now.record {
                try space.set(prefix.record(number), to: record.encoded())
            } else if !now.isNew {
                try space.remove(prefix.record(number))
            }
            kept[number] = Kept(record: now.record, isNew: now.record == nil)
        }
    }
}

extension ByteReader {
    /// The version byte that records of a data type begin with.
    mutating func expectVersion(_ version: UInt8, of what: String) throws(DecodingFailure) {
        let found = try read(UInt8.self)
        guard found == version else {
            throw DecodingFailure(expected: "version \(version) of \(what)", found: "version \(found)")
        }
    }
}
