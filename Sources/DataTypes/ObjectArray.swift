// An array of any length: values in an order, each with an id that stays. Owns its records and their bounds. Its head
// is a record of its owner's, and who may do what when is its owner's to say.
//
// Changes are kept until `flush`. What throws a `Failure` has changed nothing.

import Messages
package import Primitives

/// An array whose elements are records. An index costs a read for each level of its tree (4 at 1 million elements), an
/// id one.
///
/// Its records: `part 1 | generation u64 | kind u8 | number u64`, numbers in keys big-endian.
///
/// | kind | number | record |
/// |---|---|---|
/// | 1 | node | `RecordTreeNode` |
/// | 2 | element | `RecordTreePlace`: its leaf |
/// | 3 | element | its revision, and its value unless that is large |
/// | 4 | 1, 2, … | the root of a tree that was cut off, to be swept |
/// | 5 | element | a value of more than `inlineBytesMax` bytes |
package struct ObjectArray {
    /// What its owner keeps in a record.
    ///
    /// `version u8 = 1 | generation u64 | tree, 25 bytes | next element u64 | cut off: first u64, next u64`
    package struct Head: Message {
        package fileprivate(set) var generation: UInt64 = 1
        fileprivate(set) var tree = RecordTreeRoot()
        fileprivate(set) var nextElement: UInt64 = 1
        fileprivate(set) var firstCut: UInt64 = 1
        fileprivate(set) var nextCut: UInt64 = 1

        package init() {}

        package var count: UInt64 { tree.count }
        /// `sweep` has something to do.
        package var needsSweep: Bool { firstCut < nextCut }

        package func encode(into writer: inout ByteWriter) {
            writer.write(1 as UInt8)
            writer.write(generation)
            tree.encode(into: &writer)
            writer.write(nextElement)
            writer.write(firstCut)
            writer.write(nextCut)
        }

        package init(from reader: inout ByteReader) throws(DecodingFailure) {
            try reader.expectVersion(1, of: "an array's head")
            generation = try reader.read()
            tree = try RecordTreeRoot(from: &reader)
            (nextElement, firstCut, nextCut) = (try reader.read(), try reader.read(), try reader.read())
            guard nextElement > 0, firstCut > 0, firstCut <= nextCut else {
                throw DecodingFailure(expected: "an array's head", found: "\(nextElement), \(firstCut) to \(nextCut)")
            }
        }
    }

    package struct Element: Hashable, Sendable {
        /// Never given to another element of the array.
        package var id: UInt64
        /// At which it got its value.
        package var revision: Revision
        package var value: Bytes

        package init(id: UInt64, revision: Revision, value: Bytes) {
            (self.id, self.revision, self.value) = (id, revision, value)
        }
    }

    package struct Page: Hashable, Sendable {
        package var elements: [Element]
        /// Of the first element behind them; nil: that was the last.
        package var next: UInt64?
    }

    package enum Failure: Error, Hashable, Sendable {
        case noIndex(count: UInt64)
        case noElement
        /// The element has this one, not the expected one.
        case otherRevision(Revision)
        case tooManyElements(max: Int)
        case valueTooLarge(max: Int)
        /// Together.
        case valuesTooLarge(max: Int)
        /// There are no numbers left.
        case exhausted
    }

    /// Elements that are put in or taken out by one command: with 3 records each at most, and some 150 of the tree, below
    /// what a command may write.
    /// By this value, since it was made.
    package private(set) var sweptElements: UInt64 = 0

    package static let elementsMax = 256
    /// Of the values that are put in by one command, in bytes, so that keys and nodes have 1 MiB left.
    package static let valuesBytesMax = 3 << 20
    /// Of a page's values, in bytes; a page has one element at least.
    package static let pageBytesMax = 960 << 10
    /// A value up to this stands in its element's record: so many of those can be read at once, whatever the values are.
    package static let inlineBytesMax = 4_096

    package private(set) var head: Head
    private let key: ObjectKey
    private let prefix: RecordPrefix
    private var tree: RecordTree
    private var elements: RecordTable<ElementRecord>
    private var cuts: RecordTable<RecordTreeRoot>
    private var largeValues: RecordTable<LargeValue>

    package init(_ key: ObjectKey, _ head: Head = Head()) {
        self.key = key
        self.head = head
        prefix = Self.prefix(key, head.generation)
        tree = RecordTree(positional: head.tree, nodes: prefix.kind(1), places: prefix.kind(2))
        elements = RecordTable(prefix.kind(3))
        cuts = RecordTable(prefix.kind(4))
        largeValues = RecordTable(prefix.kind(5))
    }

    private static func prefix(_ key: ObjectKey, _ generation: UInt64) -> RecordPrefix {
        RecordPrefix(key.record(1, generation))
    }

    package var count: UInt64 { tree.count }

    /// Writes all that has changed.
    ///
    /// - Returns: the head to keep.
    package mutating func flush(into space: inout some RecordSpace) throws -> Head {
        head.tree = tree.root
        try tree.flush(into: &space)
        try elements.flush(into: &space)
        try cuts.flush(into: &space)
        try largeValues.flush(into: &space)
        return head
    }
}

/// `version u8 = 1 | revision u64 | bytes u32 | value: 0 u8 (a record of its own), or 1 u8 and the value`
private struct ElementRecord: Message {
    var revision: Revision
    /// Of its value.
    var bytes: UInt32
    /// nil: it has a record of its own.
    var value: Bytes?

    init(_ value: Bytes, _ revision: Revision) {
        self.revision = revision
        bytes = UInt32(value.count)
        self.value = value.count <= ObjectArray.inlineBytesMax ? value : nil
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(revision)
        writer.write(bytes)
        writer.write(value != nil)
        if let value { writer.write(value) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "an array's element")
        (revision, bytes) = (try reader.read(), try reader.read())
        value = try reader.readBool() ? reader.readRest() : nil
        guard value == nil || value?.count == Int(bytes) else {
            throw DecodingFailure(expected: "a value of \(bytes) bytes", found: "\(value?.count ?? 0)")
        }
    }
}

/// The bytes as they are.
private struct LargeValue: Message {
    var bytes: Bytes

    init(_ bytes: Bytes) { self.bytes = bytes }
    func encode(into writer: inout ByteWriter) { writer.write(bytes) }
    init(from reader: inout ByteReader) throws(DecodingFailure) { bytes = reader.readRest() }
}

// MARK: - Reading

extension ObjectArray {
    /// The record of an element that the tree has.
    private mutating func known(_ id: UInt64, in space: inout some RecordReading) throws -> ElementRecord {
        guard let record = try elements.value(of: id, in: &space) else {
            throw RecordDamage(id, "an element that the tree has is not there")
        }
        return record
    }

    private mutating func element(
        _ id: UInt64, _ record: ElementRecord, in space: inout some RecordReading
    ) throws -> Element {
        guard let value = try record.value ?? largeValues.value(of: id, in: &space)?.bytes else {
            throw RecordDamage(id, "an element's value is not there")
        }
        return Element(id: id, revision: record.revision, value: value)
    }

    private mutating func record(_ id: UInt64, in space: inout some RecordReading) throws -> ElementRecord {
        guard let record = try elements.value(of: id, in: &space) else { throw Failure.noElement }
        // What was cut off has its records still.
        if head.needsSweep, !isPlanted("cut-off-element-found") { _ = try index(of: id, in: &space) }
        return record
    }

    package mutating func id(at index: UInt64, in space: inout some RecordReading) throws -> UInt64 {
        guard let id = try tree.entry(at: index, in: &space) else { throw Failure.noIndex(count: count) }
        return id
    }

    package mutating func element(at index: UInt64, in space: inout some RecordReading) throws -> Element {
        let id = try id(at: index, in: &space)
        return try element(id, try known(id, in: &space), in: &space)
    }

    /// One read, two if its value is large; while there is something to sweep, as many as for `index(of:)` besides.
    package mutating func element(_ id: UInt64, in space: inout some RecordReading) throws -> Element {
        try element(id, try record(id, in: &space), in: &space)
    }

    package mutating func index(of id: UInt64, in space: inout some RecordReading) throws -> UInt64 {
        guard let index = try tree.index(of: id, in: &space) else { throw Failure.noElement }
        return index
    }

    /// Elements from an index on: `limit` at most, `elementsMax` at most, as many as `pageBytesMax` have room for. In as
    /// many rounds as there are levels, and two.
    package mutating func page(
        from index: UInt64, limit: Int, in space: inout some RecordReading
    ) throws -> Page {
        let ids = try tree.entries(from: index, limit: min(limit, Self.elementsMax), in: &space)
        try elements.load(ids, in: &space)
        var chosen: [UInt64] = []
        var large: [UInt64] = []
        var bytes = 0
        for id in ids {
            let record = try known(id, in: &space)
            bytes += Int(record.bytes)
            guard chosen.isEmpty || bytes <= Self.pageBytesMax else { break }
            chosen.append(id)
            if record.value == nil { large.append(id) }
        }
        try largeValues.load(large, in: &space)
        var page = Page(elements: [], next: nil)
        for id in chosen { page.elements.append(try element(id, try known(id, in: &space), in: &space)) }
        let next = index.addingReportingOverflow(UInt64(page.elements.count))
        page.next = !next.overflow && next.partialValue < count ? next.partialValue : nil
        return page
    }
}

// MARK: - Putting in, and setting

extension ObjectArray {
    /// Puts values in before the element at an index, or behind all.
    ///
    /// - Returns: their ids, one behind the other.
    package mutating func insert(
        _ values: [Bytes], at index: UInt64, revision: Revision, in space: inout some RecordReading
    ) throws -> Range<UInt64> {
        guard index <= count else { throw Failure.noIndex(count: count) }
        guard values.count <= Self.elementsMax else { throw Failure.tooManyElements(max: Self.elementsMax) }
        var bytes = 0
        for value in values {
            try check(value)
            bytes += value.count
        }
        guard bytes <= Self.valuesBytesMax else { throw Failure.valuesTooLarge(max: Self.valuesBytesMax) }
        let first = head.nextElement
        let (end, isTooMuch) = first.addingReportingOverflow(UInt64(values.count))
        guard !isTooMuch, count <= RecordTree.countMax - UInt64(values.count) else { throw Failure.exhausted }
        head.nextElement = end
        for (number, value) in values.enumerated() {
            let id = first + UInt64(number)
            try tree.insert(id, at: index + UInt64(number), in: &space)
            let record = ElementRecord(value, revision)
            elements.add(id, record)
            if record.value == nil { largeValues.add(id, LargeValue(value)) }
        }
        return first..<end
    }

    package mutating func append(
        _ values: [Bytes], revision: Revision, in space: inout some RecordReading
    ) throws -> Range<UInt64> {
        try insert(values, at: count, revision: revision, in: &space)
    }

    package mutating func insert(
        _ values: [Bytes], before id: UInt64, revision: Revision, in space: inout some RecordReading
    ) throws -> Range<UInt64> {
        try insert(values, at: try index(of: id, in: &space), revision: revision, in: &space)
    }

    package mutating func insert(
        _ values: [Bytes], after id: UInt64, revision: Revision, in space: inout some RecordReading
    ) throws -> Range<UInt64> {
        try insert(values, at: try index(of: id, in: &space) + 1, revision: revision, in: &space)
    }

    private func check(_ value: Bytes) throws {
        guard value.count <= ObjectLimits.valueBytesMax else {
            throw Failure.valueTooLarge(max: ObjectLimits.valueBytesMax)
        }
    }

    /// Gives an element another value, if it still has the expected revision (nil: any).
    package mutating func set(
        _ id: UInt64, to value: Bytes, expected: Revision? = nil, revision: Revision, in space: inout some RecordReading
    ) throws {
        try check(value)
        let old = try record(id, in: &space)
        guard expected == nil || old.revision == expected else { throw Failure.otherRevision(old.revision) }
        let new = ElementRecord(value, revision)
        elements.set(id, to: new)
        if new.value == nil {
            largeValues.set(id, to: LargeValue(value))
        } else if old.value == nil {
            largeValues.remove(id)
        }
    }

    /// - Returns: the element's id.
    package mutating func set(
        at index: UInt64, to value: Bytes, expected: Revision? = nil, revision: Revision,
        in space: inout some RecordReading
    ) throws -> UInt64 {
        let id = try id(at: index, in: &space)
        try set(id, to: value, expected: expected, revision: revision, in: &space)
        return id
    }
}

// MARK: - Taking out

extension ObjectArray {
    /// Takes an element out, if it still has the expected revision (nil: any).
    package mutating func remove(
        _ id: UInt64, expected: Revision? = nil, in space: inout some RecordReading
    ) throws -> Element {
        let element = try element(id, in: &space)
        guard expected == nil || element.revision == expected else { throw Failure.otherRevision(element.revision) }
        guard try tree.remove(entry: id, in: &space) != nil else { throw Failure.noElement }
        try forget(id, in: &space)
        return element
    }

    package mutating func remove(
        at index: UInt64, expected: Revision? = nil, in space: inout some RecordReading
    ) throws -> Element {
        let element = try element(at: index, in: &space)
        guard expected == nil || element.revision == expected else { throw Failure.otherRevision(element.revision) }
        _ = try tree.remove(at: index, in: &space)
        try forget(element.id, in: &space)
        return element
    }

    private mutating func forget(_ id: UInt64, in space: inout some RecordReading) throws {
        if try known(id, in: &space).value == nil { largeValues.remove(id) }
        elements.remove(id)
    }

    /// Takes out the elements of a range: `elementsMax` at most. Large values are not read.
    ///
    /// - Returns: their ids, in order.
    @discardableResult
    package mutating func remove(_ range: Range<UInt64>, in space: inout some RecordReading) throws -> [UInt64] {
        guard range.upperBound <= count else { throw Failure.noIndex(count: count) }
        guard range.upperBound - range.lowerBound <= UInt64(Self.elementsMax) else {
            throw Failure.tooManyElements(max: Self.elementsMax)
        }
        // In as many rounds as there are levels, and one.
        let ids = try tree.entries(from: range.lowerBound, limit: range.count, in: &space)
        try elements.load(ids, in: &space)
        for id in ids {
            _ = try tree.remove(at: range.lowerBound, in: &space)
            try forget(id, in: &space)
        }
        return ids
    }

    /// Takes out all but the elements of a range, however many: what is before and behind it is cut off at once, and its
    /// records are deleted by `sweep`.
    package mutating func trim(to range: Range<UInt64>, in space: inout some RecordReading) throws {
        guard range.upperBound <= count else { throw Failure.noIndex(count: count) }
        guard head.nextCut < UInt64.max - 2 else { throw Failure.exhausted }
        leave(try tree.cut(at: range.upperBound, in: &space))
        var front = try tree.cut(at: range.lowerBound, in: &space)
        tree.exchange(with: &front)
        leave(front)
    }

    private mutating func leave(_ cut: RecordTreeRoot) {
        guard cut.count > 0 else { return }
        cuts.add(head.nextCut, cut)
        head.nextCut += 1
    }

    /// Deletes up to `limit` elements that were cut off, `elementsMax` at most, with the records of their tree: each cut
    /// counts as one more. Writes at once; `sweptElements` counts.
    ///
    /// - Returns: whether there are more.
    package mutating func sweep(
        limit: Int = ObjectArray.elementsMax, in space: inout some RecordSpace
    ) throws -> Bool {
        var rest = min(limit, Self.elementsMax)
        while head.needsSweep, rest > 0 {
            guard let root = try cuts.value(of: head.firstCut, in: &space) else {
                throw RecordDamage(head.firstCut, "the tree that was cut off is not there")
            }
            var tree = RecordTree(positional: root, nodes: prefix.kind(1), places: prefix.kind(2))
            let ids = try tree.entries(from: 0, limit: rest, in: &space)
            try elements.load(ids, in: &space)
            for id in ids {
                _ = try tree.remove(at: 0, in: &space)
                try forget(id, in: &space)
            }
            sweptElements += UInt64(ids.count)
            // A cut has records of its own: many small ones are as many writes.
            rest -= ids.count + 1
            try tree.flush(into: &space)
            if tree.count > 0 {
                cuts.set(head.firstCut, to: tree.root)
            } else {
                cuts.remove(head.firstCut)
                head.firstCut += 1
            }
        }
        return head.needsSweep
    }

    /// Takes all elements out, in no time, and forgets what was not flushed: the array goes on with other records.
    ///
    /// - Returns: what the keys of its records until now begin with. Somebody has to delete them.
    package mutating func clear() throws -> Bytes {
        guard head.generation < UInt64.max else { throw Failure.exhausted }
        var next = Head()
        next.generation = head.generation + 1
        next.nextElement = head.nextElement
        let garbage = prefix.bytes
        self = ObjectArray(key, next)
        return garbage
    }
}
