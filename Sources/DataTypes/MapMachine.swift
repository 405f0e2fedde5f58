// Map: keys with values, in the order of the keys' bytes, under one name. Sub state machine 18.

public import Messages
public import Primitives
public import StateMachines

/// Commands and queries about maps. Records of one: its head, and an entry for each key. Watches see an entry under
/// `ObjectKey.watchKey`.
public enum MapMachine: StateMachine {
    public static let number = SubMachineNumber(18)
    public static let commands: [any MachineCommand<MapMachine>.Type] = [
        MapPut.self, MapRemove.self, MapTransaction.self, MapClear.self, MapExpire.self,
    ]
    public static let queries: [any MachineQuery<MapMachine>.Type] = [MapGet.self, MapPage.self, MapCount.self]
}

extension MapMachine: SweptMachine {
    public static func timer(in record: Bytes) -> ScheduledCommand? { (try? EntryRecord(decoding: record))?.timer }
}

/// Changes of a map's entries, one after the other.
private struct MapEditor {
    var collection: Collection
    let name: Bytes

    init(_ name: Bytes, in context: inout MachineContext) throws {
        self.name = name
        collection = try Collection(name, in: &context)
    }

    func find(_ key: Bytes, in context: inout MachineContext) throws -> FoundRecord? {
        try context.record(collection.place(of: key))
    }

    mutating func put(
        _ key: Bytes, _ value: Bytes, timeToLiveMillis: UInt64, over before: FoundRecord?,
        in context: inout MachineContext
    ) throws {
        if let timer = before?.timer { try context.cancel(timer) }
        let timer =
            timeToLiveMillis == 0
            ? nil
            : try context.schedule(MapExpire(name: name, element: key), after: .milliseconds(timeToLiveMillis))
        try context.put(collection.place(of: key), EntryRecord(timer: timer, value: value).encoded())
        if before == nil { collection.grow() }
        context.tell(.put, collection.key.watchKey(key), value)
    }

    mutating func remove(
        _ key: Bytes, over before: FoundRecord?, as kind: Change.Kind = .deleted, in context: inout MachineContext
    ) throws {
        guard let before else { return }
        if kind != .expired, let timer = before.timer { try context.cancel(timer) }
        try context.delete(collection.place(of: key))
        collection.shrink()
        if isPlanted("removal-untold"), kind == .deleted { return }
        context.tell(kind, collection.key.watchKey(key))
    }
}

/// Gives a key a value; answers with what was there before.
///
/// `name | key | time to live u64 | answers previous u8 | has condition u8 | condition | value: rest`
public struct MapPut: MachineCommand {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 1
    public var name: Bytes
    public var element: Bytes
    public var value: Bytes
    public var condition: EntryCondition?
    /// Milliseconds of log time; 0: for ever.
    public var timeToLiveMillis: UInt64
    public var answersPrevious: Bool

    public init(
        _ name: Bytes, _ element: Bytes, _ value: Bytes, if condition: EntryCondition? = nil,
        timeToLiveMillis: UInt64 = 0, answersPrevious: Bool = false
    ) {
        self.name = name
        self.element = element
        self.value = value
        self.condition = condition
        self.timeToLiveMillis = timeToLiveMillis
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> PreviousEntry {
        var map = try MapEditor(name, in: &context)
        let before = try map.find(element, in: &context)
        if let condition, !condition.holds(of: before?.entry) { throw FoundEntry.failure(before?.entry) }
        try map.put(element, value, timeToLiveMillis: timeToLiveMillis, over: before, in: &context)
        try map.collection.close(in: &context)
        return PreviousEntry(before?.entry, hasValue: answersPrevious)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(element)
        writer.write(timeToLiveMillis)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
        writer.write(value)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        element = try reader.readElement()
        timeToLiveMillis = try reader.readTimeToLive()
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
        value = try reader.readRestAsValue()
    }
}

/// Takes a key away.
///
/// `name | key | answers previous u8 | has condition u8 | condition`
public struct MapRemove: MachineCommand {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    public var name: Bytes
    public var element: Bytes
    public var condition: EntryCondition?
    public var answersPrevious: Bool

    public init(_ name: Bytes, _ element: Bytes, if condition: EntryCondition? = nil, answersPrevious: Bool = false) {
        self.name = name
        self.element = element
        self.condition = condition
        self.answersPrevious = answersPrevious
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> PreviousEntry {
        var map = try MapEditor(name, in: &context)
        let before = try map.find(element, in: &context)
        if let condition, !condition.holds(of: before?.entry) { throw FoundEntry.failure(before?.entry) }
        try map.remove(element, over: before, in: &context)
        try map.collection.close(in: &context)
        return PreviousEntry(before?.entry, hasValue: answersPrevious)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(element)
        writer.write(answersPrevious)
        writer.writeOptional(condition) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        element = try reader.readElement()
        answersPrevious = try reader.readBool()
        condition = try reader.readOptional { reader throws(DecodingFailure) in try EntryCondition(from: &reader) }
    }
}

/// If all conditions hold, `then` is done, else `otherwise`; all of it at one revision. Without conditions it is a batch.
///
/// `name | conditions | then | otherwise`, each `count u16 | each`: a condition is `key | condition`, an operation
/// `kind u8 | key | operand`: 1 put (time to live u64, value: length u32, bytes), 2 remove, 3 get.
public struct MapTransaction: MachineCommand {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 3

    public struct Condition: Hashable, Sendable {
        public var element: Bytes
        public var test: EntryCondition

        public init(_ element: Bytes, _ test: EntryCondition) {
            self.element = element
            self.test = test
        }
    }

    public enum Operation: Hashable, Sendable {
        case put(Bytes, Bytes, timeToLiveMillis: UInt64 = 0)
        case remove(Bytes)
        /// Sees what the operations before it did.
        case get(Bytes)

        public var element: Bytes {
            switch self {
            case .put(let element, _, _), .remove(let element), .get(let element): element
            }
        }
    }

    /// Conditions, and operations of each of the two lists.
    public static let partsMax = 256

    public var name: Bytes
    public var conditions: [Condition]
    public var then: [Operation]
    public var otherwise: [Operation]

    public init(
        _ name: Bytes, if conditions: [Condition] = [], then: [Operation], otherwise: [Operation] = []
    ) {
        self.name = name
        self.conditions = conditions
        self.then = then
        self.otherwise = otherwise
    }

    /// What it came to.
    ///
    /// `succeeded u8 | results u16 | each a PossibleEntry`
    public struct Outcome: Hashable, Sendable, Message {
        /// All conditions held.
        public var succeeded: Bool
        /// For each operation that was done: what a get found, and what a put or a removal found before (without its
        /// value).
        public var results: [ObjectEntry?]

        package init(succeeded: Bool, results: [ObjectEntry?]) {
            self.succeeded = succeeded
            self.results = results
        }

        public func encode(into writer: inout ByteWriter) {
            writer.write(succeeded)
            writer.writeList(results) { entry, writer in
                writer.writeOptional(entry) { $0.encode(into: &$1) }
            }
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            succeeded = try reader.readBool()
            results = try reader.readList(countMax: MapTransaction.partsMax) { reader throws(DecodingFailure) in
                try reader.readOptional { reader throws(DecodingFailure) in try ObjectEntry(from: &reader) }
            }
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Outcome {
        var map = try MapEditor(name, in: &context)
        try context.prepare(conditions.map { map.collection.place(of: $0.element) })
        var succeeded = true
        for condition in conditions {
            let found = try map.find(condition.element, in: &context)
            if !condition.test.holds(of: found?.entry) { succeeded = false }
        }
        let operations = succeeded ? then : otherwise
        try context.prepare(operations.map { map.collection.place(of: $0.element) })
        var results: [ObjectEntry?] = []
        for operation in operations {
            let before = try map.find(operation.element, in: &context)
            switch operation {
            case .put(let element, let value, let timeToLiveMillis):
                try map.put(element, value, timeToLiveMillis: timeToLiveMillis, over: before, in: &context)
                results.append(before.map { ObjectEntry(value: Bytes(), revision: $0.entry.revision) })
            case .remove(let element):
                try map.remove(element, over: before, in: &context)
                results.append(before.map { ObjectEntry(value: Bytes(), revision: $0.entry.revision) })
            case .get: results.append(before?.entry)
            }
        }
        try map.collection.close(in: &context)
        return Outcome(succeeded: succeeded, results: results)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(conditions) {
            $1.writeWithLength($0.element)
            $0.test.encode(into: &$1)
        }
        writer.writeList(then) { $0.encode(into: &$1) }
        writer.writeList(otherwise) { $0.encode(into: &$1) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        conditions = try reader.readList(countMax: Self.partsMax) { reader throws(DecodingFailure) in
            Condition(try reader.readElement(), try EntryCondition(from: &reader))
        }
        then = try reader.readList(countMax: Self.partsMax) { reader throws(DecodingFailure) in
            try Operation(from: &reader)
        }
        otherwise = try reader.readList(countMax: Self.partsMax) { reader throws(DecodingFailure) in
            try Operation(from: &reader)
        }
    }
}

extension MapTransaction.Operation {
    fileprivate func encode(into writer: inout ByteWriter) {
        switch self {
        case .put(let element, let value, let timeToLiveMillis):
            writer.write(1 as UInt8)
            writer.writeWithLength(element)
            writer.write(timeToLiveMillis)
            writer.writeWithLength(value)
        case .remove(let element):
            writer.write(2 as UInt8)
            writer.writeWithLength(element)
        case .get(let element):
            writer.write(3 as UInt8)
            writer.writeWithLength(element)
        }
    }

    fileprivate init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        let element = try reader.readElement()
        switch kind {
        case 1:
            let timeToLiveMillis = try reader.readTimeToLive()
            self = .put(element, try reader.readValue(), timeToLiveMillis: timeToLiveMillis)
        case 2: self = .remove(element)
        case 3: self = .get(element)
        default: throw DecodingFailure(expected: "an operation of kind 1 to 3", found: "\(kind)")
        }
    }
}

/// Takes all entries away, however many. Costs no more than to remove one.
///
/// `name`
public struct MapClear: MachineCommand {
    public typealias Machine = MapMachine
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

/// An entry's time to live is over. Scheduled by what put it; from anybody else it does nothing.
///
/// `name | key`
public struct MapExpire: MachineCommand {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 5
    public static let bringsDataIn = false
    public var name: Bytes
    public var element: Bytes

    package init(name: Bytes, element: Bytes) {
        self.name = name
        self.element = element
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        var map = try MapEditor(name, in: &context)
        let found = try map.find(element, in: &context)
        // A map that was cleared and filled again has other timers.
        guard let timer = found?.timer, context.isDoing(timer) || isPlanted("timer-of-another-entry") else {
            return Done()
        }
        try map.remove(element, over: found, as: .expired, in: &context)
        try map.collection.close(in: &context)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(element)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        element = try reader.readElement()
    }
}

/// How many there were, or are.
///
/// `u64`
public struct ObjectCount: Hashable, Sendable, Message {
    public var count: UInt64

    package init(_ count: UInt64) { self.count = count }

    public func encode(into writer: inout ByteWriter) { writer.write(count) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { count = try reader.read() }
}

/// What some keys have.
///
/// `name | keys u16 | each`
public struct MapGet: MachineQuery {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 1
    public static let keysMax = 256
    public var name: Bytes
    public var elements: [Bytes]

    public init(_ name: Bytes, _ elements: [Bytes]) {
        self.name = name
        self.elements = elements
    }

    /// For each key.
    ///
    /// `count u16 | each a PossibleEntry`
    public struct Answer: Hashable, Sendable, Message {
        public var entries: [ObjectEntry?]

        package init(entries: [ObjectEntry?]) { self.entries = entries }

        public func encode(into writer: inout ByteWriter) {
            writer.writeList(entries) { entry, writer in
                writer.writeOptional(entry) { $0.encode(into: &$1) }
            }
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            entries = try reader.readList(countMax: MapGet.keysMax) { reader throws(DecodingFailure) in
                try reader.readOptional { reader throws(DecodingFailure) in try ObjectEntry(from: &reader) }
            }
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Answer {
        guard let head = try view.head(name) else { return Answer(entries: elements.map { _ in nil }) }
        let places = elements.map { ObjectKey(name).element($0, of: head.generation) }
        try view.prepare(places)
        var entries: [ObjectEntry?] = []
        for place in places { entries.append(try view.entry(place)) }
        return Answer(entries: entries)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(elements) { $1.writeWithLength($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        elements = try reader.readList(countMax: Self.keysMax) { reader throws(DecodingFailure) in
            try reader.readElement()
        }
    }
}

/// Some entries, ascending by key, as they stood at one moment.
///
/// `name | from: length u32, bytes | has end u8 | end: length u32, bytes, if there is one | entries u32 | bytes u32`
public struct MapPage: MachineQuery {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    /// The first key, or the next there is.
    public var from: Bytes
    /// Before this one; nil: all.
    public var end: Bytes?
    /// Of the page: up to `MachineRange.recordsMaxMax`.
    public var entriesMax: UInt32
    /// Of its keys and values, up to `MachineRange.bytesMaxMax`; one entry always fits.
    public var bytesMax: UInt32

    public init(_ name: Bytes, from: Bytes, end: Bytes?, entriesMax: UInt32 = .max, bytesMax: UInt32 = .max) {
        self.name = name
        self.from = from
        self.end = end
        self.entriesMax = entriesMax
        self.bytesMax = bytesMax
    }

    /// `entries u16 | each: key, entry | has next u8 | next: length u32, bytes, if there is one`
    public struct Answer: Hashable, Sendable, Message {
        public struct Element: Hashable, Sendable {
            public var key: Bytes
            public var entry: ObjectEntry

            package init(key: Bytes, entry: ObjectEntry) {
                self.key = key
                self.entry = entry
            }
        }
        public var entries: [Element]
        /// Where the next page begins; nil: there is none. A page may be empty and have a next one.
        public var next: Bytes?

        package init(entries: [Element], next: Bytes?) {
            self.entries = entries
            self.next = next
        }

        public func encode(into writer: inout ByteWriter) {
            writer.writeList(entries) {
                $1.writeWithLength($0.key)
                $0.entry.encode(into: &$1)
            }
            writer.writeOptional(next) { $1.writeWithLength($0) }
        }

        public init(from reader: inout ByteReader) throws(DecodingFailure) {
            entries = try reader.readList(countMax: MachineRange.recordsMaxMax) { reader throws(DecodingFailure) in
                Element(key: try reader.readElement(), entry: try ObjectEntry(from: &reader))
            }
            next = try reader.readOptional { reader throws(DecodingFailure) in try reader.readBound() }
        }
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Answer {
        guard let head = try view.head(name) else { return Answer(entries: [], next: nil) }
        let page = try view.elements(
            of: name, head, from: from, end: end, recordsMax: Int(entriesMax), bytesMax: Int(bytesMax))
        return Answer(
            entries: try page.elements.map { Answer.Element(key: $0.element, entry: try FoundRecord($0.record).entry) },
            next: page.next)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeWithLength(from)
        writer.writeOptional(end) { $1.writeWithLength($0) }
        writer.write(entriesMax)
        writer.write(bytesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        from = try reader.readBound()
        end = try reader.readOptional { reader throws(DecodingFailure) in try reader.readBound() }
        entriesMax = try reader.read()
        bytesMax = try reader.read()
    }
}

/// How many entries it has. Cost: one record.
///
/// `name`
public struct MapCount: MachineQuery {
    public typealias Machine = MapMachine
    public static let number: UInt16 = 3
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
