// A set with a name, as programs see it.

public import DataTypes
import Messages
public import Primitives
public import StateMachines

extension Cluster {
    /// A set of bytes.
    public func set(_ name: Bytes) -> ReliableSet { ReliableSet(object: ReliableObject(cluster: self, name: name)) }
}

/// A set with a name: elements of up to `ObjectLimits.elementBytesMax` bytes, in the order of their bytes. It lies whole in
/// one group, and may be larger than that group's memory. Each operation takes effect at one moment between its call and
/// its return; commands are done once, however often they have to be sent. All throw `BifrostError`.
public struct ReliableSet: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    /// Adds an element. Returns whether it is new.
    @discardableResult
    public func add(_ element: Bytes, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await add([element], timeout: timeout)[0]
    }

    /// Adds up to 256 elements at one revision. Returns for each whether it is new.
    @discardableResult
    public func add(_ elements: [Bytes], timeout: Duration? = nil) async throws(BifrostError) -> [Bool] {
        try check(elements)
        return try all(try await object.submit(SetAdd(name, elements), timeout: timeout).answer, of: elements)
    }

    /// Takes an element away. Returns whether it was there.
    @discardableResult
    public func remove(_ element: Bytes, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await remove([element], timeout: timeout)[0]
    }

    /// Takes up to 256 elements away at one revision. Returns for each whether it was there.
    @discardableResult
    public func remove(_ elements: [Bytes], timeout: Duration? = nil) async throws(BifrostError) -> [Bool] {
        try check(elements)
        return try all(try await object.submit(SetRemove(name, elements), timeout: timeout).answer, of: elements)
    }

    /// Takes an element from this set to another one of the same slot, at one revision: give their names the same part in
    /// `{…}`. Returns whether it was there; if not, nothing was changed.
    public func move(
        _ element: Bytes, to target: Bytes, timeout: Duration? = nil
    ) async throws(BifrostError) -> Bool {
        try check([element])
        return try all(
            try await object.submit(SetMove(element, from: name, to: target), timeout: timeout).answer, of: [element])[
                0]
    }

    public func contains(
        _ element: Bytes, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Bool {
        try await contains([element], consistency, timeout: timeout)[0]
    }

    /// The same of up to 256 elements, as they stood at one moment.
    public func contains(
        _ elements: [Bytes], _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> [Bool] {
        try check(elements)
        let query = SetContains(name, elements)
        return try all(try await object.query(query, consistency, timeout: timeout).answer, of: elements)
    }

    /// How many elements there are. Cost: one record, however many.
    public func count(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Int {
        Int(clamping: try await object.query(SetCount(name), consistency, timeout: timeout).answer.count)
    }

    /// Takes all elements away, however many, at one revision. Returns how many there were.
    @discardableResult
    public func clear(timeout: Duration? = nil) async throws(BifrostError) -> Int {
        Int(clamping: try await object.submit(SetClear(name), timeout: timeout).answer.count)
    }

    /// Some elements, ascending, as they stood together at one moment.
    public struct Page: Sendable {
        public var elements: [Bytes]
        /// Where the next page begins; nil: this was the last one. A page may be empty and have a next one.
        public var next: Bytes?
        /// Of the group, at that moment.
        public var revision: Revision
    }

    /// Up to `elementsMax` elements (1,024 at most) from `first` on and before `end`, of those that begin with `prefix`.
    public func page(
        prefix: Bytes = Bytes(), from first: Bytes? = nil, before end: Bytes? = nil, elementsMax: Int = 1_000,
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        for bound in [prefix, first ?? Bytes(), end ?? Bytes()] { try object.check(element: bound) }
        let (from, to) = KeyValueStore.range(prefix, first, end)
        let query = SetPage(name, from: from, end: to, elementsMax: UInt32(clamping: max(elementsMax, 1)))
        let (answer, revision) = try await object.query(query, consistency, timeout: timeout)
        return Page(elements: answer.elements, next: answer.next, revision: revision)
    }

    /// What this set and others of the same slot make together, ascending, page by page: union, intersection, or the
    /// difference of this one and all others. All sets are looked at at one moment in each page.
    public func combined(
        _ combination: SetCombine.Combination, with others: [Bytes], from first: Bytes = Bytes(),
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        guard others.count < SetCombine.setsMax else {
            throw BifrostError(.tooLarge, "up to \(SetCombine.setsMax) sets are combined, not \(others.count + 1)")
        }
        let query = SetCombine(combination, of: [name] + others, from: first)
        let (answer, revision) = try await object.query(query, consistency, timeout: timeout)
        return Page(elements: answer.elements, next: answer.next, revision: revision)
    }

    /// What becomes of the elements that begin with `prefix`: `put` is added, `deleted` removed. See `ObjectWatch`.
    public func watch(
        prefix: Bytes = Bytes(), from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> ObjectWatch<Done> {
        let object = object
        let key = ObjectKey(name)
        let base = key.watchKey(Bytes())
        let end = prefix.endOfPrefix
        return object.watch(
            machine: SetMachine.number, prefix: base, from: key.watchKey(prefix),
            end: end.map { key.watchKey($0) } ?? base.endOfPrefix, start: start, patience: patience,
            moment: { () async throws(BifrostError) in try await object.query(SetCount(object.name)).revision },
            page: { (from) async throws(BifrostError) in
                let first = from[min(base.count, from.count)..<from.count]
                let (answer, revision) = try await object.query(SetPage(object.name, from: first, end: end))
                return ScanPage(
                    records: answer.elements.map {
                        KeyValueScanPage.Record(key: key.watchKey($0), value: Bytes(), revision: revision)
                    }, next: answer.next.map { key.watchKey($0) }, revision: revision)
            })
    }

    private func check(_ elements: [Bytes]) throws(BifrostError) {
        guard elements.count <= SetMachine.elementsMax else {
            throw BifrostError(.tooLarge, "up to \(SetMachine.elementsMax) elements at once, not \(elements.count)")
        }
        for element in elements { try object.check(element: element) }
    }

    private func all(_ answer: SetAnswer, of elements: [Bytes]) throws(BifrostError) -> [Bool] {
        guard answer.isTrue.count == elements.count else {
            throw BifrostError(.malformedAnswer, "\(answer.isTrue.count) answers came for \(elements.count) elements")
        }
        return answer.isTrue
    }
}
