// What arrays are asked for.

public import Messages
public import Primitives
public import StateMachines

/// An element as a query finds it.
///
/// `id u64 | revision u64 | value: length u32, bytes`
public struct ArrayElement: Hashable, Sendable, Message {
    public var id: ArrayElementID
    /// At which it got its value.
    public var revision: Revision
    public var value: Bytes

    package init(_ element: ObjectArray.Element) {
        id = ArrayElementID(element.id)
        revision = element.revision
        value = element.value
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(id.rawValue)
        writer.write(revision)
        writer.writeWithLength(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        id = ArrayElementID(try reader.read())
        revision = try reader.read()
        value = try reader.readValue()
    }
}

/// One element.
///
/// `name | place`
public struct ArrayGet: MachineQuery {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    public var place: ArrayPlace

    public init(_ name: Bytes, _ place: ArrayPlace) {
        self.name = name
        self.place = place
    }

    /// `is there u8 | element, if it is`
    public struct Answer: Hashable, Sendable, Message {
        /// nil: there is no such index, or no such element.
        public var element: ArrayElement?

        package init(_ element: ArrayElement?) { self.element = element }

        public func encode(into writer: inout ByteWriter) {
            writer.writeOptional(element) { $0.encode(into: &$1) }
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            element = try reader.readOptional { reader throws(DecodingFailure) in try ArrayElement(from: &reader) }
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Answer {
        try view.readArray(name) { array, view in
            do {
                switch place {
                case .index(let index): return Answer(ArrayElement(try array.element(at: index, in: &view)))
                case .element(let id): return Answer(ArrayElement(try array.element(id.rawValue, in: &view)))
                }
            } catch ObjectArray.Failure.noIndex, ObjectArray.Failure.noElement {
                return Answer(nil)
            }
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        place.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        place = try ArrayPlace(from: &reader)
    }
}

/// Where an element stands.
///
/// `name | id u64`
public struct ArrayIndex: MachineQuery {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    public var id: ArrayElementID

    public init(_ name: Bytes, of id: ArrayElementID) {
        self.name = name
        self.id = id
    }

    /// `is there u8 | index u64, if it is`
    public struct Answer: Hashable, Sendable, Message {
        /// nil: there is no such element.
        public var index: UInt64?

        package init(_ index: UInt64?) { self.index = index }

        public func encode(into writer: inout ByteWriter) { writer.writeOptional(index) { $1.write($0) } }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            index = try reader.readOptional { reader throws(DecodingFailure) in try reader.read() }
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Answer {
        try view.readArray(name) { array, view in
            do { return Answer(try array.index(of: id.rawValue, in: &view)) } catch ObjectArray.Failure.noElement {
                return Answer(nil)
            }
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(id.rawValue)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        id = ArrayElementID(try reader.read())
    }
}

/// Some elements, in order, as they stood at one moment.
///
/// `name | point | elements u32`
public struct ArrayPage: MachineQuery {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 3
    public var name: Bytes
    /// Those behind it. Behind the last element there are none.
    public var point: ArrayPoint
    /// 1 to `ArrayMachine.elementsMax`; others count as the next one of these.
    public var elementsMax: UInt32

    public init(_ name: Bytes, from point: ArrayPoint, elementsMax: UInt32 = .max) {
        self.name = name
        self.point = point
        self.elementsMax = elementsMax
    }

    /// `index u64 | elements u16 | each | count u64`
    public struct Answer: Hashable, Sendable, Message {
        /// Of the first element.
        public var index: UInt64
        /// As many as were asked for, or as have 960 KiB of values; at least one, where there is one.
        public var elements: [ArrayElement]
        /// Of all that the array has.
        public var count: UInt64

        /// Where the next page begins; nil: there is none.
        public var next: UInt64? {
            let (next, isTooMuch) = index.addingReportingOverflow(UInt64(elements.count))
            return !isTooMuch && next < count ? next : nil
        }

        package init(index: UInt64, elements: [ArrayElement], count: UInt64) {
            self.index = index
            self.elements = elements
            self.count = count
        }

        public func encode(into writer: inout ByteWriter) {
            writer.write(index)
            writer.writeList(elements) { $0.encode(into: &$1) }
            writer.write(count)
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            index = try reader.read()
            elements = try reader.readList(countMax: ArrayMachine.elementsMax) { reader throws(DecodingFailure) in
                try ArrayElement(from: &reader)
            }
            count = try reader.read()
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Answer {
        try view.readArray(name) { array, view in
            let index = try array.index(of: point, in: &view)
            let page = try array.page(from: index, limit: Int(max(elementsMax, 1)), in: &view)
            return Answer(index: index, elements: page.elements.map { ArrayElement($0) }, count: array.count)
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        point.encode(into: &writer)
        writer.write(elementsMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        point = try ArrayPoint(from: &reader)
        elementsMax = try reader.read()
    }
}

/// How many elements it has. Cost: one record.
///
/// `name`
public struct ArrayCount: MachineQuery {
    public typealias Machine = ArrayMachine
    public static let number: UInt16 = 4
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> ObjectCount {
        try view.readArray(name) { array, _ in ObjectCount(array.count) }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}
