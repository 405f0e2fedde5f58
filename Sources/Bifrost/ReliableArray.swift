// An array with a name, as programs see it.

public import DataTypes
public import Messages
public import Primitives
public import StateMachines

extension Cluster {
    /// An array of values in an order, each with an id that stays.
    ///
    ///     let lines = cluster.array("lines", of: String.self)
    ///     let id = try await lines.append("hello")
    ///     try await lines.insert(["before it"], at: .before(id))
    public func array<Value: Message>(_ name: Bytes, of _: Value.Type) -> ReliableArray<Value> {
        ReliableArray(object: ReliableObject(cluster: self, name: name))
    }
}

/// An array with a name. Its elements stand in an order, and have ids, which stay what they are wherever the element comes
/// to stand, and are never given to another one. An element is named by its index or by its id: who has read an index
/// before may find another element there. It lies whole in one group, and may be larger than that group's memory; costs
/// grow with the logarithm of its length. Each operation takes effect at one moment between its call and its return;
/// commands are done once, however often they have to be sent. All throw `BifrostError`: `noIndex` and `noElement` for what
/// is not there, `conditionFailed`, with what is there in `foundEntry`.
public struct ReliableArray<Value: Message>: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    public struct Element: Sendable {
        public var id: ArrayElementID
        public var value: Value
        /// At which it got its value.
        public var revision: Revision

        public init(id: ArrayElementID, value: Value, revision: Revision) {
            self.id = id
            self.value = value
            self.revision = revision
        }

        init(_ element: ArrayElement) throws(BifrostError) {
            self.init(
                id: element.id, value: try ReliableObject.value(element.value), revision: element.revision)
        }
    }

    // MARK: Commands

    /// Puts a value behind all others.
    @discardableResult
    public func append(_ value: Value, timeout: Duration? = nil) async throws(BifrostError) -> ArrayElementID {
        let ids = try await insert([value], at: .end, timeout: timeout)
        guard let id = ids.first else { throw BifrostError(.malformedAnswer, "no id came for a new element") }
        return id
    }

    /// Puts up to 256 values behind all others, at one revision; together no larger than a value may be.
    @discardableResult
    public func append(_ values: [Value], timeout: Duration? = nil) async throws(BifrostError) -> [ArrayElementID] {
        try await insert(values, at: .end, timeout: timeout)
    }

    /// Puts up to 256 values in at one point, in their order and at one revision; together no larger than a value may be.
    ///
    /// - Returns: the new elements' ids.
    @discardableResult
    public func insert(
        _ values: [Value], at point: ArrayPoint, timeout: Duration? = nil
    ) async throws(BifrostError) -> [ArrayElementID] {
        guard values.count <= ArrayMachine.elementsMax else {
            throw BifrostError(.tooLarge, "up to \(ArrayMachine.elementsMax) values at once, not \(values.count)")
        }
        let bytes = values.map { $0.encoded() }
        for value in bytes { try object.check(value: value) }
        let all = bytes.reduce(0) { $0 + $1.count }
        guard all <= ObjectLimits.valueBytesMax else {
            throw BifrostError(
                .tooLarge,
                "values that are put in together have at most \(ObjectLimits.valueBytesMax) bytes, not \(all)")
        }
        let answer = try await object.submit(ArrayInsert(name, bytes, at: point), timeout: timeout).answer
        guard answer.number == values.count else {
            throw BifrostError(.malformedAnswer, "\(answer.number) ids came for \(values.count) values")
        }
        return answer.ids
    }

    /// Before the element with this index, or behind the last one.
    @discardableResult
    public func insert(
        _ values: [Value], at index: Int, timeout: Duration? = nil
    ) async throws(BifrostError) -> [ArrayElementID] {
        try await insert(values, at: .index(try Self.index(index)), timeout: timeout)
    }

    /// Gives an element another value.
    ///
    /// - Parameter condition: of the element; nothing changes if it does not hold; nil: none.
    /// - Returns: the revision at which it took effect.
    @discardableResult
    public func set(
        _ value: Value, at place: ArrayPlace, if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        let bytes = value.encoded()
        try object.check(value: bytes)
        return try await object.submit(ArraySet(name, place, bytes, if: condition), timeout: timeout).revision
    }

    @discardableResult
    public func set(
        _ value: Value, at index: Int, if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Revision {
        try await set(value, at: .index(try Self.index(index)), if: condition, timeout: timeout)
    }

    /// Takes an element out. Returns what it was.
    @discardableResult
    public func remove(
        at place: ArrayPlace, if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Element {
        let command = ArrayRemove(name, place, if: condition, answersPrevious: true)
        let found = try await object.submit(command, timeout: timeout).answer
        guard let revision = found.previous.revision, let value = found.previous.value else {
            throw BifrostError(.malformedAnswer, "a removed element came without its value", mayHaveHappened: true)
        }
        return Element(id: found.id, value: try ReliableObject.value(value), revision: revision)
    }

    @discardableResult
    public func remove(
        at index: Int, if condition: EntryCondition? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> Element {
        try await remove(at: .index(try Self.index(index)), if: condition, timeout: timeout)
    }

    /// Takes up to 256 elements out that stand together, at one revision.
    public func removeSubrange(_ range: Range<Int>, timeout: Duration? = nil) async throws(BifrostError) {
        guard range.count <= ArrayMachine.elementsMax else {
            throw BifrostError(
                .tooLarge,
                "up to \(ArrayMachine.elementsMax) elements are taken out at once, not \(range.count): trim takes more")
        }
        _ = try await object.submit(ArrayRemoveRange(name, try Self.range(range)), timeout: timeout)
    }

    /// Takes all elements out but those of a range, however many, at one revision. What they took on disk is given back in
    /// the time after.
    ///
    /// - Returns: how many it took out.
    @discardableResult
    public func trim(to range: Range<Int>, timeout: Duration? = nil) async throws(BifrostError) -> Int {
        try await trim(keeping: .range(try Self.range(range)), timeout)
    }

    /// The same, but for so many of the first elements, or all if there are fewer.
    @discardableResult
    public func trim(toFirst count: Int, timeout: Duration? = nil) async throws(BifrostError) -> Int {
        try await trim(keeping: .first(try Self.index(count)), timeout)
    }

    /// The same, but for so many of the last elements: what keeps an array short to which others append.
    @discardableResult
    public func trim(toLast count: Int, timeout: Duration? = nil) async throws(BifrostError) -> Int {
        try await trim(keeping: .last(try Self.index(count)), timeout)
    }

    private func trim(keeping kept: ArrayTrim.Kept, _ timeout: Duration?) async throws(BifrostError) -> Int {
        Int(clamping: try await object.submit(ArrayTrim(name, keeping: kept), timeout: timeout).answer.count)
    }

    /// Takes all elements out, however many, at one revision. Returns how many there were. What they took on disk is given
    /// back in the time after.
    @discardableResult
    public func clear(timeout: Duration? = nil) async throws(BifrostError) -> Int {
        Int(clamping: try await object.submit(ArrayClear(name), timeout: timeout).answer.count)
    }

    // MARK: Queries

    /// nil: there is no such index, or no such element.
    public func get(
        at place: ArrayPlace, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Element? {
        let found = try await object.query(ArrayGet(name, place), consistency, timeout: timeout).answer.element
        guard let found else { return nil }
        return try Element(found)
    }

    public func get(
        at index: Int, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Element? {
        try await get(at: .index(try Self.index(index)), consistency, timeout: timeout)
    }

    /// Where an element stands; nil: it is not there.
    public func index(
        of id: ArrayElementID, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Int? {
        let answer = try await object.query(ArrayIndex(name, of: id), consistency, timeout: timeout).answer
        return answer.index.map { Int(clamping: $0) }
    }

    /// Cost: one record, however many elements there are.
    public func count(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Int {
        Int(clamping: try await object.query(ArrayCount(name), consistency, timeout: timeout).answer.count)
    }

    /// Some elements, in order, as they stood together at one moment.
    public struct Page: Sendable {
        /// Of the first element.
        public var index: Int
        public var elements: [Element]
        /// Of all elements of the array.
        public var count: Int
        /// Of the group, at that moment.
        public var revision: Revision

        /// Where the next page begins; nil: this was the last one.
        public var next: Int? { index + elements.count < count ? index + elements.count : nil }
    }

    /// Up to `limit` elements (256 at most, and 960 KiB of them, but one) from a point on.
    public func slice(
        from point: ArrayPoint, limit: Int = 256, _ consistency: ReadConsistency = .linearizable,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        let (answer, revision) = try await page(from: point, limit, consistency, timeout)
        var elements: [Element] = []
        for element in answer.elements { elements.append(try Element(element)) }
        return Page(
            index: Int(clamping: answer.index), elements: elements, count: Int(clamping: answer.count),
            revision: revision)
    }

    public func slice(
        from index: Int, limit: Int = 256, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        try await slice(from: .index(try Self.index(index)), limit: limit, consistency, timeout: timeout)
    }

    func page(
        from point: ArrayPoint, _ limit: Int = .max, _ consistency: ReadConsistency = .linearizable,
        _ timeout: Duration? = nil
    ) async throws(BifrostError) -> (answer: ArrayPage.Answer, revision: Revision) {
        let page = ArrayPage(name, from: point, elementsMax: UInt32(clamping: max(limit, 1)))
        let (answer, revision) = try await object.query(page, consistency, timeout: timeout)
        let (end, isTooMuch) = answer.index.addingReportingOverflow(UInt64(answer.elements.count))
        guard !isTooMuch, end <= answer.count || answer.elements.isEmpty else {
            throw BifrostError(.malformedAnswer, "elements up to \(end) of \(answer.count)")
        }
        return (answer, revision)
    }

    /// All elements from an index on, page by page. Each page shows one moment: together they are no snapshot. A page begins behind the last
    /// element of the one before, wherever that stands by then, or at its index if it was taken out: what stands in the
    /// array all the time is in it once, unless it is passed over where that happened. A snapshot is `watch` up to `ready`.
    public func elements(
        from first: Int = 0, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) -> ArrayElements<Value> {
        ArrayElements(array: self, first: first, consistency: consistency, timeout: timeout)
    }

    /// What is there, in order, and what becomes of it. See `ArrayWatch`.
    ///
    /// - Parameter patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> ArrayWatch<Value> {
        ArrayWatch(array: self, start: start, patience: patience)
    }

    private static func index(_ index: Int) throws(BifrostError) -> UInt64 {
        guard let index = UInt64(exactly: index) else {
            throw BifrostError(.noIndex, "indices and counts are 0 and above, not \(index)")
        }
        return index
    }

    private static func range(_ range: Range<Int>) throws(BifrostError) -> Range<UInt64> {
        try index(range.lowerBound)..<(try index(range.upperBound))
    }
}

extension BifrostError.Code {
    /// An array does not have so many elements; nothing was changed.
    public static let noIndex = BifrostError.Code(rawValue: "noIndex")
    /// An array has no such element, or not any more; nothing was changed.
    public static let noElement = BifrostError.Code(rawValue: "noElement")
}

/// An array's elements, one by one. See `ReliableArray.elements`.
public struct ArrayElements<Value: Message>: AsyncSequence, Sendable {
    public typealias Element = ReliableArray<Value>.Element
    public typealias Failure = BifrostError

    let array: ReliableArray<Value>
    let first: Int
    let consistency: ReadConsistency
    let timeout: Duration?

    public func makeAsyncIterator() -> Iterator { Iterator(elements: self) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        let elements: ArrayElements
        private var page: ReliableArray<Value>.Page?
        private var place = 0

        init(elements: ArrayElements) { self.elements = elements }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            while true {
                if let page, place < page.elements.count {
                    place += 1
                    return page.elements[place - 1]
                }
                if let page, page.next == nil { return nil }
                page = try await read(behind: page)
                place = 0
            }
        }

        private func read(
            behind page: ReliableArray<Value>.Page?
        ) async throws(BifrostError) -> ReliableArray<Value>.Page {
            let (array, consistency, timeout) = (elements.array, elements.consistency, elements.timeout)
            guard let page, let last = page.elements.last else {
                return try await array.slice(from: elements.first, consistency, timeout: timeout)
            }
            do throws(BifrostError) {
                return try await array.slice(from: .behind(last.id), consistency, timeout: timeout)
            } catch {
                guard error.code == .noElement else { throw error }
                // What stood behind it has come to its place.
                return try await array.slice(from: page.index + page.elements.count - 1, consistency, timeout: timeout)
            }
        }
    }
}
