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
    /// A read has thrown because a record has to be fetched. Commands behind this one will read these, one each: a space
    /// that fetches for all of them does it in one go.
    mutating func fetch(along keys: [Bytes])
}

extension RecordReading {
    package mutating func values(of keys: [Bytes]) throws -> [Bytes?] {
        var found: [Bytes?] = []
        found.reserveCapacity(keys.count)
        for key in keys { found.append(try value(of: key)) }
        return found
    }

    package mutating func fetch(along keys: [Bytes]) {}
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
    /// By number, ascending: where each stands in `kept`. A command has few, most of them in this order.
    private var places: [(number: UInt64, place: Int)] = []
    private var kept: [Kept] = []

    init(_ prefix: RecordPrefix) { self.prefix = prefix }

    /// The first in `places` that is not below a number.
    private func position(of number: UInt64) -> Int {
        var (low, high) = (0, places.count)
        while low < high {
            let middle = low + (high - low) / 2
            if places[middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func place(of number: UInt64) -> Int? {
        let position = position(of: number)
        return position < places.count && places[position].number == number ? places[position].place : nil
    }

    private mutating func keep(_ number: UInt64, _ new: Kept) {
        let position = position(of: number)
        if position < places.count, places[position].number == number {
            kept[places[position].place] = new
        } else {
            places.insert((number, kept.count), at: position)
            kept.append(new)
        }
    }

    private func isNew(_ number: UInt64, otherwise: Bool) -> Bool {
        place(of: number).map { kept[$0].isNew } ?? otherwise
    }

    mutating func value(of number: UInt64, in space: inout some RecordReading) throws -> Record? {
        if let place = place(of: number) { return kept[place].record }
        let record = try space.value(of: prefix.record(number)).map { bytes in try Record(decoding: bytes) }
        keep(number, Kept(record: record, isNew: record == nil))
        return record
    }

    /// Reads those that it does not have yet, all at once.
    mutating func load(_ numbers: [UInt64], in space: inout some RecordReading) throws {
        let missing = numbers.filter { place(of: $0) == nil }
        guard !missing.isEmpty else { return }
        let found = try space.values(of: missing.map { prefix.record($0) })
        for (number, bytes) in zip(missing, found) {
            let record = try bytes.map { bytes in try Record(decoding: bytes) }
            keep(number, Kept(record: record, isNew: record == nil))
        }
    }

    mutating func set(_ number: UInt64, to record: Record) {
        keep(number, Kept(record: record, isChanged: true, isNew: isNew(number, otherwise: false)))
    }

    /// With a number that the space has no record with.
    mutating func add(_ number: UInt64, _ record: Record) {
        keep(number, Kept(record: record, isChanged: true, isNew: isNew(number, otherwise: true)))
    }

    /// Changes one that was read, or made, before, where it is.
    ///
    /// - Returns: false: there is none.
    mutating func change(_ number: UInt64, _ body: (inout Record) -> Void) -> Bool {
        guard let place = place(of: number), kept[place].record != nil else { return false }
        body(&kept[place].record!)
        kept[place].isChanged = true
        return true
    }

    mutating func remove(_ number: UInt64) {
        keep(number, Kept(record: nil, isChanged: true, isNew: isNew(number, otherwise: false)))
    }

    /// The numbers of records that `flush` will remove, ascending.
    var removed: [UInt64] {
        var numbers: [UInt64] = []
        for (number, place) in places
        where kept[place].isChanged && kept[place].record == nil && !kept[place].isNew { numbers.append(number) }
        return numbers
    }

    /// Writes what has changed, in the order of the numbers.
    mutating func flush(into space: inout some RecordSpace) throws {
        for (number, place) in places where kept[place].isChanged {
            if let record = kept[place].record {
                try space.set(prefix.record(number), to: record.encoded())
            } else if !kept[place].isNew {
                try space.remove(prefix.record(number))
            }
            kept[place].isChanged = false
            kept[place].isNew = kept[place].record == nil
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
