// Set: elements, each there or not, in the order of their bytes, under one name. Sub state machine 19.

public import Messages
public import Primitives
import Ring
public import StateMachines

/// Commands and queries about sets. Records of one: its head, and one of one byte for each element. Watches see an element
/// under `ObjectKey.watchKey`, with an empty value.
public enum SetMachine: StateMachine {
    public static let number = SubMachineNumber(19)
    public static let commands: [any MachineCommand<SetMachine>.Type] = [
        SetAdd.self, SetRemove.self, SetMove.self, SetClear.self,
    ]
    public static let queries: [any MachineQuery<SetMachine>.Type] = [
        SetContains.self, SetCount.self, SetPage.self, SetCombine.self,
    ]

    /// In one command or query.
    public static let elementsMax = 256
    /// An element's record.
    package static let present = Bytes([1])
}

/// For each of some elements, in their order.
///
/// `count u16 | each u8`
public struct SetAnswer: Hashable, Sendable, Message {
    public var isTrue: [Bool]

    package init(_ isTrue: [Bool]) { self.isTrue = isTrue }

    public func encode(into writer: inout ByteWriter) { writer.writeList(isTrue) { $1.write($0) } }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        isTrue = try reader.readList(countMax: SetMachine.elementsMax) { reader throws(DecodingFailure) in
            try reader.readBool()
        }
    }
}

/// A set's name and some elements: what several commands and queries consist of.
///
/// `name | count u16 | each: length u32, bytes`
package struct NamedElements: Hashable, Sendable {
    package var name: Bytes
    package var elements: [Bytes]

    func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(elements) { $1.writeWithLength($0) }
    }

    init(_ name: Bytes, _ elements: [Bytes]) {
        self.name = name
        self.elements = elements
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        elements = try reader.readList(countMax: SetMachine.elementsMax) { reader throws(DecodingFailure) in
            try reader.readElement()
        }
    }
}

extension Collection {
    fileprivate func contains(_ element: Bytes, in context: inout MachineContext) throws -> Bool {
        try context.get(place(of: element)) != nil
    }

    fileprivate mutating func add(_ element: Bytes, in context: inout MachineContext) throws {
        try context.put(place(of: element), SetMachine.present)
        grow()
        context.tell(.put, key.watchKey(element))
    }

    fileprivate mutating func remove(_ element: Bytes, in context: inout MachineContext) throws {
        try context.delete(place(of: element))
        shrink()
        context.tell(.deleted, key.watchKey(element))
    }
}

/// Adds elements; answers which of them are new.
public struct SetAdd: MachineCommand {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 1
    package private(set) var named: NamedElements

    public init(_ name: Bytes, _ elements: [Bytes]) { named = NamedElements(name, elements) }

    public var key: Bytes { named.name }
    public var readKeys: [Bytes] { [ObjectKey(named.name).record()] }

    public func apply(in context: inout MachineContext) throws -> SetAnswer {
        var set = try Collection(named.name, in: &context)
        try context.prepare(named.elements.map { set.place(of: $0) })
        var isNew: [Bool] = []
        for element in named.elements {
            let isThere = try set.contains(element, in: &context)
            if !isThere { try set.add(element, in: &context) }
            isNew.append(!isThere)
        }
        try set.close(in: &context)
        return SetAnswer(isNew)
    }

    public func encode(into writer: inout ByteWriter) { named.encode(into: &writer) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { named = try NamedElements(from: &reader) }
}

/// Takes elements away; answers which of them were there.
public struct SetRemove: MachineCommand {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    package private(set) var named: NamedElements

    public init(_ name: Bytes, _ elements: [Bytes]) { named = NamedElements(name, elements) }

    public var key: Bytes { named.name }
    public var readKeys: [Bytes] { [ObjectKey(named.name).record()] }

    public func apply(in context: inout MachineContext) throws -> SetAnswer {
        var set = try Collection(named.name, in: &context)
        try context.prepare(named.elements.map { set.place(of: $0) })
        var wasThere: [Bool] = []
        for element in named.elements {
            let isThere = try set.contains(element, in: &context)
            if isThere { try set.remove(element, in: &context) }
            wasThere.append(isThere)
        }
        try set.close(in: &context)
        return SetAnswer(wasThere)
    }

    public func encode(into writer: inout ByteWriter) { named.encode(into: &writer) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { named = try NamedElements(from: &reader) }
}

/// Takes an element out of one set and puts it into another one of the same slot, at one revision. Answers whether it was
/// there; if not, nothing changes.
///
/// `name | target's name | element`
public struct SetMove: MachineCommand {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 3
    public var name: Bytes
    public var target: Bytes
    public var element: Bytes

    public init(_ element: Bytes, from name: Bytes, to target: Bytes) {
        self.name = name
        self.target = target
        self.element = element
    }

    public var key: Bytes { name }
    public var furtherKeys: [Bytes] { [target] }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), ObjectKey(target).record()] }

    public func apply(in context: inout MachineContext) throws -> SetAnswer {
        try context.expectSlot(of: [target])
        var source = try Collection(name, in: &context)
        guard try source.contains(element, in: &context) else { return SetAnswer([false]) }
        guard name != target else { return SetAnswer([true]) }
        var sink = try Collection(target, in: &context)
        let isThere = try sink.contains(element, in: &context)
        try source.remove(element, in: &context)
        if !isThere { try sink.add(element, in: &context) }
        try source.close(in: &context)
        try sink.close(in: &context)
        return SetAnswer([true])
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(target)
        writer.writeWithLength(element)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        target = try reader.readName()
        element = try reader.readElement()
    }
}

extension MachineContext {
    /// - Throws: some of these objects lie in another slot than the command.
    fileprivate func expectSlot(of names: [Bytes]) throws(MachineFailure) {
        guard names.allSatisfy({ Ring.slot(of: $0) == slot }) else { throw MachineFailure.otherSlot }
    }
}

extension MachineFailure {
    fileprivate static var otherSlot: MachineFailure {
        MachineFailure(
            ObjectFailure.otherSlot, "the sets lie in different slots: give their names the same part in braces")
    }
}

/// Takes all elements away, however many. Costs no more than to remove one.
///
/// `name`
public struct SetClear: MachineCommand {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 4
    public static let bringsDataIn = false
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        ObjectCount(try Collection(name, in: &context).clear(in: &context))
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Which of some elements are there.
public struct SetContains: MachineQuery {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 1
    package private(set) var named: NamedElements

    public init(_ name: Bytes, _ elements: [Bytes]) { named = NamedElements(name, elements) }

    public var key: Bytes { named.name }
    public var readKeys: [Bytes] { [ObjectKey(named.name).record()] }

    public func answer(in view: inout MachineView) throws -> SetAnswer {
        let head = try view.head(named.name)
        return SetAnswer(try view.contains(named.elements, in: [(named.name, head)])[0])
    }

    public func encode(into writer: inout ByteWriter) { named.encode(into: &writer) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { named = try NamedElements(from: &reader) }
}

extension MachineView {
    /// For each set, which of the elements it has; all of it is looked up in one go.
    fileprivate mutating func contains(
        _ elements: [Bytes], in sets: [(name: Bytes, head: CollectionHead?)]
    ) throws -> [[Bool]] {
        func places(_ name: Bytes, _ head: CollectionHead) -> [Bytes] {
            elements.map { ObjectKey(name).element($0, of: head.generation) }
        }
        try prepare(sets.flatMap { name, head in head.map { places(name, $0) } ?? [] })
        var contained: [[Bool]] = []
        for (name, head) in sets {
            guard let head else {
                contained.append(elements.map { _ in false })
                continue
            }
            var isThere: [Bool] = []
            for place in places(name, head) { isThere.append(try get(place) != nil) }
            contained.append(isThere)
        }
        return contained
    }
}

/// How many elements it has. Cost: one record.
///
/// `name`
public struct SetCount: MachineQuery {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 2
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> ObjectCount {
        ObjectCount(try view.head(name)?.count ?? 0)
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Some elements, ascending, as they stood at one moment.
///
/// `elements u16 | each: length u32, bytes | has next u8 | next: length u32, bytes, if there is one`
public struct SetElements: Hashable, Sendable, Message {
    public var elements: [Bytes]
    /// Where the next page begins; nil: there is none. A page may be empty and have a next one.
    public var next: Bytes?

    package init(elements: [Bytes], next: Bytes?) {
        self.elements = elements
        self.next = next
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeList(elements) { $1.writeWithLength($0) }
        writer.writeOptional(next) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        elements = try reader.readList(countMax: MachineRange.recordsMaxMax) { reader throws(DecodingFailure) in
            try reader.readElement()
        }
        next = try reader.readOptional { reader throws(DecodingFailure) in try reader.readBound() }
    }
}

/// Some of its elements.
///
/// `name | from: length u32, bytes | has end u8 | end: length u32, bytes, if there is one | elements u32`
public struct SetPage: MachineQuery {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 3
    public var name: Bytes
    /// The first one, or the next there is.
    public var from: Bytes
    /// Before this one; nil: all.
    public var end: Bytes?
    /// Of the page: up to `MachineRange.recordsMaxMax`.
    public var elementsMax: UInt32

    public init(_ name: Bytes, from: Bytes, end: Bytes?, elementsMax: UInt32 = .max) {
        self.name = name
        self.from = from
        self.end = end
        self.elementsMax = elementsMax
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> SetElements {
        guard let head = try view.head(name) else { return SetElements(elements: [], next: nil) }
        let page = try view.elements(
            of: name, head, from: from, end: end, recordsMax: Int(elementsMax), bytesMax: MachineRange.bytesMaxMax)
        return SetElements(elements: page.elements.map(\.element), next: page.next)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(from)
        writer.writeOptional(end) { $1.writeWithLength($0) }
        writer.write(elementsMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        from = try reader.readBound()
        end = try reader.readOptional { reader throws(DecodingFailure) in try reader.readBound() }
        elementsMax = try reader.read()
    }
}

/// Some elements of what several sets of one slot make together, ascending, as all of them stood at one moment.
///
/// `combination u8 | from: length u32, bytes | elements u32 | names u16 | each`
public struct SetCombine: MachineQuery {
    public typealias Machine = SetMachine
    public static let number: UInt16 = 4

    public enum Combination: UInt8, Hashable, Sendable, CaseIterable {
        case union = 1
        case intersection = 2
        /// Those of the first set that no other one has.
        case difference = 3
    }

    public static let setsMax = 16
    /// Of a page.
    public static let elementsMaxMax: UInt32 = 256

    public var combination: Combination
    public var names: [Bytes]
    public var from: Bytes
    /// Looked at for one page, of one set.
    public var elementsMax: UInt32

    public init(_ combination: Combination, of names: [Bytes], from: Bytes, elementsMax: UInt32 = .max) {
        self.combination = combination
        self.names = names
        self.from = from
        self.elementsMax = elementsMax
    }

    public var key: Bytes { names.first ?? Bytes() }
    public var furtherKeys: [Bytes] { Array(names.dropFirst()) }
    public var readKeys: [Bytes] { names.map { ObjectKey($0).record() } }

    public func answer(in view: inout MachineView) throws -> SetElements {
        guard names.allSatisfy({ Ring.slot(of: $0) == view.slot }) else { throw MachineFailure.otherSlot }
        var sets: [(name: Bytes, head: CollectionHead?)] = []
        for name in names { sets.append((name, try view.head(name))) }
        switch combination {
        case .union: return try union(sets, in: &view)
        case .intersection:
            // The smallest one leads: the others are asked about what it has.
            guard sets.allSatisfy({ $0.head != nil }),
                let first = sets.indices.min(by: { (sets[$0].head?.count ?? 0) < (sets[$1].head?.count ?? 0) })
            else { return SetElements(elements: [], next: nil) }
            sets.swapAt(0, first)
            return try filtered(sets, in: &view) { $0.allSatisfy { $0 } }
        case .difference: return try filtered(sets, in: &view) { !$0.contains(true) }
        }
    }

    private func page(
        of set: (name: Bytes, head: CollectionHead?), in view: inout MachineView
    ) throws -> (elements: [Bytes], next: Bytes?) {
        guard let head = set.head else { return ([], nil) }
        let page = try view.elements(
            of: set.name, head, from: from, end: nil, recordsMax: Int(min(elementsMax, Self.elementsMaxMax)),
            bytesMax: MachineRange.bytesMaxMax / Self.setsMax)
        return (page.elements.map(\.element), page.next)
    }

    private func union(
        _ sets: [(name: Bytes, head: CollectionHead?)], in view: inout MachineView
    ) throws -> SetElements {
        var pages: [(elements: [Bytes], next: Bytes?)] = []
        // What is missing of all of them is looked up in one go, not set by set.
        var unready: (any Error)?
        for set in sets { do { pages.append(try page(of: set, in: &view)) } catch { unready = unready ?? error } }
        if let unready { throw unready }
        let next = pages.compactMap(\.next).min()
        let elements = Set(pages.flatMap(\.elements)).sorted().filter { element in next.map { element < $0 } ?? true }
        let kept = min(elements.count, MachineRange.recordsMaxMax)
        return SetElements(elements: Array(elements[..<kept]), next: kept < elements.count ? elements[kept] : next)
    }

    private func filtered(
        _ sets: [(name: Bytes, head: CollectionHead?)], in view: inout MachineView, by isWanted: ([Bool]) -> Bool
    ) throws -> SetElements {
        let page = try page(of: sets[0], in: &view)
        let contained = try view.contains(page.elements, in: Array(sets.dropFirst()))
        let elements = page.elements.indices.filter { place in isWanted(contained.map { $0[place] }) }
        return SetElements(elements: elements.map { page.elements[$0] }, next: page.next)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(combination.rawValue)
        writer.writeWithLength(from)
        writer.write(elementsMax)
        writer.writeList(names) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let known = Combination(rawValue: number) else {
            throw DecodingFailure(expected: "a combination of 1 to 3", found: "\(number)")
        }
        combination = known
        from = try reader.readBound()
        elementsMax = try reader.read()
        names = try reader.readList(countMax: Self.setsMax) { reader throws(DecodingFailure) in
            try reader.readName()
        }
        guard !names.isEmpty else { throw DecodingFailure(expected: "the names of 1 to 16 sets", found: "none") }
    }
}
