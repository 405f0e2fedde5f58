// The bytes of a tree's records: its nodes, where entries are, and the root that its owner keeps.

import Messages
package import Primitives

/// What a tree's owner keeps of it, in a record of its own.
///
/// `root u64 | height u8 | count u64 | next u64`, 25 bytes: the root's number (0: none), levels, entries, and the number
/// that the next node gets.
package struct RecordTreeRoot: Message {
    package internal(set) var root: UInt64 = 0
    package internal(set) var height: UInt8 = 0
    package internal(set) var count: UInt64 = 0
    package internal(set) var next: UInt64 = 1

    package init() {}

    package func encode(into writer: inout ByteWriter) {
        writer.write(root)
        writer.write(height)
        writer.write(count)
        writer.write(next)
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (root, height, count, next) = (try reader.read(), try reader.read(), try reader.read(), try reader.read())
        let isEmpty = root == 0
        guard (height == 0) == isEmpty, (count == 0) == isEmpty, height <= RecordTree.heightMax, root < max(next, 1),
            next > 0, count <= RecordTree.countMax
        else {
            throw DecodingFailure(
                expected: "the root of a tree", found: "node \(root) below \(next), height \(height), count \(count)")
        }
    }
}

/// One record of a tree.
///
/// `version u8 = 1 | order u8 | level u8 | items n u8`, then in a positional tree `parent u64` (0: the root), then
/// * in a leaf (level 0): `entry u64` n times;
/// * above: `child u64` n times, `count u64` n times (entries below each child), and in a sorted tree `key u64` n times:
///   no entry below the child is less, all below the one before are.
///
/// At most 1,000 bytes: 64 entries, or 40 children.
package struct RecordTreeNode: Message {
    package var order: RecordTree.Order
    package var level: UInt8
    package var parent: UInt64
    /// Entries, or children.
    package var items: [UInt64]
    package var counts: [UInt64]
    package var keys: [UInt64]

    init(
        _ order: RecordTree.Order, level: UInt8, parent: UInt64 = 0, items: [UInt64], counts: [UInt64] = [],
        keys: [UInt64] = []
    ) {
        self.order = order
        self.level = level
        self.parent = parent
        self.items = items
        self.counts = counts
        self.keys = keys
    }

    package static func itemsMax(level: UInt8) -> Int { level == 0 ? 64 : 40 }
    var itemsMax: Int { Self.itemsMax(level: level) }
    var itemsMin: Int { itemsMax / 4 }

    /// Entries below it.
    package var total: UInt64 { level == 0 ? UInt64(items.count) : counts.reduce(0, +) }
    /// No entry below it is less; 0 in a positional tree.
    var firstKey: UInt64 { order == .positional ? 0 : (level == 0 ? items.first : keys.first) ?? 0 }

    package func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(order.rawValue)
        writer.write(level)
        writer.write(UInt8(truncatingIfNeeded: items.count))
        if order == .positional { writer.write(parent) }
        for numbers in [items, counts, keys] { writer.write(numbers: numbers) }
    }

    package var encodedBytesExpected: Int { 12 + 8 * (items.count + counts.count + keys.count) }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "a tree's node")
        let order = try reader.read(UInt8.self)
        guard let order = RecordTree.Order(rawValue: order) else {
            throw DecodingFailure(expected: "the order of a tree", found: "\(order)")
        }
        self.order = order
        level = try reader.read()
        let count = Int(try reader.read(UInt8.self))
        guard level < RecordTree.heightMax, count > 0, count <= Self.itemsMax(level: level) else {
            throw DecodingFailure(expected: "a tree's node", found: "\(count) items at level \(level)")
        }
        parent = order == .positional ? try reader.read() : 0
        let isLeaf = level == 0
        items = try reader.readNumbers(count)
        counts = isLeaf ? [] : try reader.readNumbers(count)
        keys = isLeaf || order == .positional ? [] : try reader.readNumbers(count)
        var sum: UInt64 = 0
        for count in counts {
            let (next, isTooMuch) = sum.addingReportingOverflow(count)
            guard count > 0, !isTooMuch, next <= RecordTree.countMax else {
                throw DecodingFailure(expected: "counts of a tree's node", found: "\(count) behind \(sum)")
            }
            sum = next
        }
        guard order == .positional || (isLeaf ? items : keys).isAscending else {
            throw DecodingFailure(expected: "ascending keys in a tree's node", found: "others")
        }
    }

    /// Of a parent: the number of the child with this key, or of the one that it would be in.
    func slot(of key: UInt64) -> Int { max(keys.partitionPoint { $0 > key } - 1, 0) }

    mutating func insertChild(_ child: UInt64, count: UInt64, key: UInt64, at slot: Int) {
        items.insert(child, at: slot)
        counts.insert(count, at: slot)
        if order == .sorted { keys.insert(key, at: slot) }
    }

    mutating func removeItem(_ slot: Int) {
        items.remove(at: slot)
        if level > 0 { counts.remove(at: slot) }
        if level > 0, order == .sorted { keys.remove(at: slot) }
    }

    /// A node of the same kind with some of its items.
    func part(_ range: Range<Int>) -> RecordTreeNode {
        RecordTreeNode(
            order, level: level, parent: parent, items: Array(items[range]),
            counts: level == 0 ? [] : Array(counts[range]),
            keys: level == 0 || order == .positional ? [] : Array(keys[range]))
    }

    mutating func append(_ other: RecordTreeNode) {
        items += other.items
        counts += other.counts
        keys += other.keys
    }
}

/// Where an entry of a positional tree is: `leaf u64`.
struct RecordTreePlace: Message {
    var leaf: UInt64

    init(_ leaf: UInt64) { self.leaf = leaf }
    func encode(into writer: inout ByteWriter) { writer.write(leaf) }
    init(from reader: inout ByteReader) throws(DecodingFailure) { leaf = try reader.read() }
}

extension ByteReader {
    mutating func readNumbers(_ count: Int) throws(DecodingFailure) -> [UInt64] {
        let bytes = try readBytes(count: 8 * count)
        return bytes.withUnsafeBytes { bytes in
            [UInt64](unsafeUninitializedCapacity: count) { numbers, initialized in
                for place in 0..<count {
                    let number = bytes.loadUnaligned(fromByteOffset: 8 * place, as: UInt64.self)
                    numbers.initializeElement(at: place, to: UInt64(littleEndian: number))
                }
                initialized = count
            }
        }
    }
}

extension ByteWriter {
    mutating func write(numbers: [UInt64]) {
        let place = extend(by: 8 * numbers.count)
        for (index, number) in numbers.enumerated() {
            place.storeBytes(of: number.littleEndian, toByteOffset: 8 * index, as: UInt64.self)
        }
    }
}

extension [UInt64] {
    fileprivate var isAscending: Bool { zip(self, dropFirst()).allSatisfy { $0 < $1 } }

    /// The first place whose element belongs to the second part, of two in this order.
    func partitionPoint(_ isSecond: (UInt64) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = low + (high - low) / 2
            if isSecond(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
