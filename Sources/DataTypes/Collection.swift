// What Map and Set have in common: a head with a count, elements in the order of their bytes, and a generation, by which
// all of them are gone at once.

import Messages
package import Primitives
import StateMachines

/// An object's own record, there as long as it has elements.
///
/// `version u8 = 1 | generation | count u64`
package struct CollectionHead: Hashable, Message {
    /// Where its elements are.
    package var generation: Generation
    package var count: UInt64

    private static let formatVersion: UInt8 = 1

    package func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(generation.group)
        writer.write(generation.revision)
        writer.write(count)
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: Self.formatVersion, of: "a collection's head")
        generation = Generation(group: try reader.read(), revision: try reader.read())
        count = try reader.read()
    }

    package init(generation: Generation, count: UInt64 = 0) {
        self.generation = generation
        self.count = count
    }
}

/// When a collection got its first element since it was last empty: never twice the same, whatever groups it lies in.
///
/// `group u32 | revision u64`; in keys big-endian.
package struct Generation: Hashable, Sendable {
    package var group: GroupID
    package var revision: Revision

    package init(group: GroupID, revision: Revision) {
        self.group = group
        self.revision = revision
    }
}

/// A map or set while a command changes it.
struct Collection {
    let key: ObjectKey
    private(set) var head: CollectionHead
    private let before: CollectionHead?

    /// Part of an object's records: `generation | element`.
    static let elements: UInt8 = 1

    init(_ name: Bytes, in context: inout MachineContext) throws {
        key = ObjectKey(name)
        before = try context.get(key.record(), as: CollectionHead.self)
        // An empty one has nothing, not even a head: the next generation is another one.
        head = before ?? CollectionHead(generation: Generation(group: context.group, revision: context.revision))
        if before == nil, isPlanted("cleared-map-remembered") { head.generation.revision = Revision(1) }
    }

    func place(of element: Bytes) -> Bytes { key.element(element, of: head.generation) }

    mutating func grow() { head.count += 1 }
    mutating func shrink() { if head.count > 0 { head.count -= 1 } }

    /// Writes the head, where it is another one now.
    func close(in context: inout MachineContext) throws {
        guard head != before, before != nil || head.count > 0 else { return }
        if head.count == 0 { try context.delete(key.record()) } else { try context.put(key.record(), head) }
    }

    /// All elements are gone, however many.
    func clear(in context: inout MachineContext) throws -> UInt64 {
        guard let before else { return 0 }
        try context.delete(key.record())
        try context.sweep(
            isPlanted("sweep-takes-the-living")
                ? key.record(Self.elements) : key.elements(of: before.generation))
        context.tell(.cleared, key.record(Self.elements))
        return before.count
    }
}

extension ObjectKey {
    /// How the keys of all elements begin.
    func elements(of generation: Generation) -> Bytes { element(Bytes(), of: generation) }

    package func element(_ element: Bytes, of generation: Generation) -> Bytes {
        var writer = ByteWriter(capacity: 15 + name.count + element.count)
        writer.write(UInt16(truncatingIfNeeded: name.count).bigEndian)
        writer.write(name)
        writer.write(Collection.elements)
        writer.write(generation.group.rawValue.bigEndian)
        writer.write(generation.revision.rawValue.bigEndian)
        writer.write(element)
        return writer.take()
    }

    /// Where watches see an element: it does not depend on generations.
    package func watchKey(_ element: Bytes) -> Bytes { record(Collection.elements, element) }
}

extension MachineView {
    /// nil: it is empty.
    mutating func head(_ name: Bytes) throws -> CollectionHead? {
        try get(ObjectKey(name).record(), as: CollectionHead.self)
    }

    /// Some of its elements from `from` on and before `end`, with what is stored there.
    mutating func elements(
        of name: Bytes, _ head: CollectionHead, from: Bytes, end: Bytes?, recordsMax: Int, bytesMax: Int
    ) throws -> (elements: [(element: Bytes, record: MachineRecord)], next: Bytes?) {
        let prefix = ObjectKey(name).elements(of: head.generation)
        guard let behind = prefix.endOfPrefix else { return ([], nil) }
        let page = try page(
            from: ObjectKey(name).element(from, of: head.generation),
            before: end.map { ObjectKey(name).element($0, of: head.generation) } ?? behind, recordsMax: recordsMax,
            bytesMax: bytesMax)
        func element(_ key: Bytes) -> Bytes { key[min(prefix.count, key.count)..<key.count].compacted() }
        return (page.records.map { (element($0.key), $0.record) }, page.next.map { element($0) })
    }
}
