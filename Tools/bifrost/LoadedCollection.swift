// A collection that is filled and then used, with all that it has to be by then. Owns what is called of each type, and
// what is the right answer; how it is filled and when is MeasureCollections'.

import ArgumentParser
import Bifrost
import DataTypes
import Primitives

enum CollectionType: String, CaseIterable, ExpressibleByArgument, Sendable {
    case map, set, array, queue

    /// Of elements that one command brings.
    var batchMax: Int {
        switch self {
        case .map: MapTransaction.partsMax
        case .set: SetMachine.elementsMax
        case .array: ArrayMachine.elementsMax
        case .queue: ObjectQueue.pushesMax
        }
    }

    /// Of an element, in bytes.
    var payloadMax: Int { self == .set ? ObjectLimits.elementBytesMax : ObjectLimits.valueBytesMax }

    func collection(_ name: Bytes, of cluster: Cluster, payload: Int) -> any LoadedCollection {
        switch self {
        case .map: LoadedMap(map: cluster.map(name, of: Bytes.self), payload: payload)
        case .set: LoadedSet(set: cluster.set(name), payload: payload)
        case .array: LoadedArray(array: cluster.array(name, of: Bytes.self), payload: payload)
        case .queue: LoadedQueue(queue: cluster.queue(name, of: Bytes.self), payload: payload)
        }
    }
}

/// Whoever uses it calls one function after the other; only `add` may be called many times together.
protocol LoadedCollection {
    /// That it has, if nothing is wrong.
    var elements: Int { get }
    /// Of all elements that come from now on.
    var next: Int { get }
    /// Puts elements in, in one command. Returns where they stand among others: higher than what came before.
    var add: @Sendable (Range<Int>) async throws -> UInt64 { get }
    /// They are there, from `next` on.
    mutating func added(_ batches: [(mark: UInt64, numbers: Range<Int>)])
    /// Each operation once, and its answer checked. Leaves as many elements as there were.
    mutating func use(_ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws
    /// One read of a random element.
    func read(
        _ consistency: ReadConsistency, _ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws
    /// Page by page, each element checked, to its end.
    func list(_ trial: inout CollectionTrial) async throws
    func count() async throws -> Int
    func clear() async throws -> Int
}

/// Of each operation that is timed.
private enum Operation {
    static let put = "put, known key"
    static let putNew = "put, new key"
    static let get = "get"
    static let remove = "remove"
    static let count = "count"
    static let page = "page of 100"
    static let contains = "contains"
    static let add = "add"
    static let insert = "insert"
    static let append = "append"
    static let ends = "get, first or last"
    static let push = "push"
    static let take = "take"
    static let ack = "ack"
    static let peek = "peek at 100"

    static let pageElements = 100
}

/// Which elements a listing has shown: each has to be there once.
private struct Listing {
    private var isSeen: [Bool]
    private var seen = 0

    init(_ elements: Int) { isSeen = [Bool](repeating: false, count: elements) }

    mutating func note(_ number: Int, _ trial: inout CollectionTrial) {
        let isNew = isSeen.indices.contains(number) && !isSeen[number]
        trial.check(isNew, "element \(number) is listed, which is not there or was listed before")
        guard isNew else { return }
        isSeen[number] = true
        seen += 1
    }

    func end(_ trial: inout CollectionTrial) {
        trial.check(seen == isSeen.count, "\(seen) of \(isSeen.count) elements are listed")
    }
}

// MARK: - Map

private struct LoadedMap: LoadedCollection {
    let map: ReliableMap<Bytes>
    let payload: Int
    private(set) var elements = 0
    /// Of those that were put again.
    private var versions: [Int: Int] = [:]

    init(map: ReliableMap<Bytes>, payload: Int) {
        self.map = map
        self.payload = payload
    }

    var next: Int { elements }

    var add: @Sendable (Range<Int>) async throws -> UInt64 {
        { [map, payload] numbers in
            let puts = numbers.map { number in
                MapTransaction.Operation.put(
                    MarkedElement.key(number), MarkedElement.value(number, bytes: payload))
            }
            let outcome = try await map.transaction(then: puts)
            guard outcome.results.allSatisfy({ $0 == nil }) else {
                throw ToolError(.negative, "a key of the elements \(numbers) was there before it was put")
            }
            return 0
        }
    }

    mutating func added(_ batches: [(mark: UInt64, numbers: Range<Int>)]) {
        elements = batches.reduce(elements) { max($0, $1.numbers.upperBound) }
    }

    private func value(_ number: Int) -> Bytes {
        MarkedElement.value(number, version: versions[number] ?? 0, bytes: payload)
    }

    mutating func use(_ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws {
        let known = Int(random.below(UInt64(elements)))
        versions[known, default: 0] += 1
        let (knownKey, knownValue) = (MarkedElement.key(known), value(known))
        _ = try await trial.time(Operation.put) { try await map.put(knownKey, knownValue) }

        let passing = MarkedElement.passing + Int(random.below(1 << 30))
        let (passingKey, passingValue) = (MarkedElement.key(passing), value(passing))
        _ = try await trial.time(Operation.putNew) { try await map.put(passingKey, passingValue) }
        let withNew = try await trial.time(Operation.count) { try await map.count() }
        trial.check(withNew == elements + 1, "\(withNew) entries are counted, not \(elements + 1)")
        let gone = try await map.remove(passingKey)
        trial.check(gone?.value == passingValue, "a key that was put just now had another value when it was removed")

        try await read(.linearizable, &random, &trial)

        let removed = Int(random.below(UInt64(elements)))
        let (removedKey, removedValue) = (MarkedElement.key(removed), value(removed))
        let found = try await trial.time(Operation.remove) { try await map.remove(removedKey) }
        trial.check(found?.value == removedValue, "element \(removed) had another value when it was removed")
        let without = try await map.count()
        trial.check(without == elements - 1, "\(without) entries are counted, not \(elements - 1)")
        try await map.put(removedKey, removedValue)

        let first = MarkedElement.key(Int(random.below(UInt64(elements))))
        let page = try await trial.time(Operation.page) {
            try await map.page(from: first, entriesMax: Operation.pageElements)
        }
        trial.check(page.entries.first?.key == first, "a page does not begin with its first key")
        check(page.entries, &trial)
    }

    private func check(_ entries: [ReliableMap<Bytes>.Entry], _ trial: inout CollectionTrial) {
        var last: Bytes?
        for entry in entries {
            let number = MarkedElement.number(of: entry.value)?.number ?? -1
            trial.check(
                number >= 0 && MarkedElement.key(number) == entry.key && value(number) == entry.value
                    && last.map { $0 < entry.key } ?? true, "a page has an entry that is wrong or out of order")
            last = entry.key
        }
    }

    func read(
        _ consistency: ReadConsistency, _ random: inout SeededRandom, _ trial: inout CollectionTrial
    ) async throws {
        let number = Int(random.below(UInt64(elements)))
        let key = MarkedElement.key(number)
        let found = try await trial.time(Operation.get) { try await map.get(key, consistency) }
        trial.check(found?.value == value(number), "element \(number) has not the value that was put last")
    }

    func list(_ trial: inout CollectionTrial) async throws {
        var listing = Listing(elements)
        var from: Bytes?
        repeat {
            let page = try await map.page(from: from, entriesMax: 1_024)
            check(page.entries, &trial)
            for entry in page.entries {
                listing.note(MarkedElement.number(of: entry.value)?.number ?? -1, &trial)
            }
            from = page.next
        } while from != nil
        listing.end(&trial)
    }

    func count() async throws -> Int { try await map.count() }
    func clear() async throws -> Int { try await map.clear() }
}

// MARK: - Set

private struct LoadedSet: LoadedCollection {
    let set: ReliableSet
    let payload: Int
    private(set) var elements = 0

    init(set: ReliableSet, payload: Int) {
        self.set = set
        self.payload = payload
    }

    var next: Int { elements }

    private static func element(_ number: Int, _ payload: Int) -> Bytes {
        Bytes(MarkedElement.key(number).array + MarkedElement.value(number, bytes: payload - 8).array)
    }

    private func element(_ number: Int) -> Bytes { Self.element(number, payload) }

    private func number(of element: Bytes) -> Int {
        guard element.count == payload, let number = MarkedElement.number(of: element[8..<payload])?.number,
            self.element(number) == element
        else { return -1 }
        return number
    }

    var add: @Sendable (Range<Int>) async throws -> UInt64 {
        { [set, payload] numbers in
            let isNew = try await set.add(numbers.map { Self.element($0, payload) })
            guard isNew.allSatisfy({ $0 }) else {
                throw ToolError(.negative, "one of the elements \(numbers) was there before it was added")
            }
            return 0
        }
    }

    mutating func added(_ batches: [(mark: UInt64, numbers: Range<Int>)]) {
        elements = batches.reduce(elements) { max($0, $1.numbers.upperBound) }
    }

    mutating func use(_ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws {
        try await read(.linearizable, &random, &trial)

        let passing = element(MarkedElement.passing + Int(random.below(1 << 30)))
        let isThere = try await trial.time(Operation.contains) { try await set.contains(passing) }
        trial.check(!isThere, "the set contains what was never added, or was removed")
        let isNew = try await trial.time(Operation.add) { try await set.add(passing) }
        trial.check(isNew, "a new element was not new")
        let withNew = try await trial.time(Operation.count) { try await set.count() }
        trial.check(withNew == elements + 1, "\(withNew) elements are counted, not \(elements + 1)")
        let isGone = try await set.remove(passing)
        trial.check(isGone, "an element that was added just now was not there")

        let known = element(Int(random.below(UInt64(elements))))
        let wasThere = try await trial.time(Operation.remove) { try await set.remove(known) }
        trial.check(wasThere, "an element was not there when it was removed")
        let without = try await set.count()
        trial.check(without == elements - 1, "\(without) elements are counted, not \(elements - 1)")
        let isNewAgain = try await set.add(known)
        trial.check(isNewAgain, "an element was there although it was removed")

        let first = element(Int(random.below(UInt64(elements))))
        let page = try await trial.time(Operation.page) {
            try await set.page(from: first, elementsMax: Operation.pageElements)
        }
        trial.check(page.elements.first == first, "a page does not begin with its first element")
        check(page.elements, &trial)
    }

    private func check(_ elements: [Bytes], _ trial: inout CollectionTrial) {
        var last: Bytes?
        for element in elements {
            trial.check(
                number(of: element) >= 0 && last.map { $0 < element } ?? true,
                "a page has an element that is wrong or out of order")
            last = element
        }
    }

    func read(
        _ consistency: ReadConsistency, _ random: inout SeededRandom, _ trial: inout CollectionTrial
    ) async throws {
        let number = Int(random.below(UInt64(elements)))
        let known = element(number)
        let isThere = try await trial.time(Operation.contains) { try await set.contains(known, consistency) }
        trial.check(isThere, "element \(number) is not there")
    }

    func list(_ trial: inout CollectionTrial) async throws {
        var listing = Listing(elements)
        var from: Bytes?
        repeat {
            let page = try await set.page(from: from, elementsMax: 1_024)
            check(page.elements, &trial)
            for element in page.elements { listing.note(number(of: element), &trial) }
            from = page.next
        } while from != nil
        listing.end(&trial)
    }

    func count() async throws -> Int { try await set.count() }
    func clear() async throws -> Int { try await set.clear() }
}

// MARK: - Array

private struct LoadedArray: LoadedCollection {
    let array: ReliableArray<Bytes>
    let payload: Int
    private var order = ElementOrder()
    private(set) var next = 0

    init(array: ReliableArray<Bytes>, payload: Int) {
        self.array = array
        self.payload = payload
    }

    var elements: Int { order.count }

    var add: @Sendable (Range<Int>) async throws -> UInt64 {
        { [array, payload] numbers in
            let ids = try await array.append(numbers.map { MarkedElement.value($0, bytes: payload) })
            return ids[0].rawValue
        }
    }

    /// Ids are given in the order in which elements come.
    mutating func added(_ batches: [(mark: UInt64, numbers: Range<Int>)]) {
        for batch in batches.sorted(by: { $0.mark < $1.mark }) {
            order.append(batch.numbers)
            next = max(next, batch.numbers.upperBound)
        }
    }

    private func value(at index: Int) -> Bytes { MarkedElement.value(order.number(at: index), bytes: payload) }

    mutating func use(_ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws {
        try await read(.linearizable, &random, &trial)

        let passing = MarkedElement.value(MarkedElement.passing + Int(random.below(1 << 30)), bytes: payload)
        let gap = Int(random.below(UInt64(elements + 1)))
        _ = try await trial.time(Operation.insert) { try await array.insert([passing], at: gap) }
        let withNew = try await trial.time(Operation.count) { try await array.count() }
        trial.check(withNew == elements + 1, "\(withNew) elements are counted, not \(elements + 1)")
        let gone = try await array.remove(at: gap)
        trial.check(gone.value == passing, "at index \(gap) there is not what was inserted there just now")

        let index = Int(random.below(UInt64(elements)))
        let removed = try await trial.time(Operation.remove) { try await array.remove(at: index) }
        trial.check(removed.value == value(at: index), "another element was removed than that at index \(index)")
        let without = try await array.count()
        trial.check(without == elements - 1, "\(without) elements are counted, not \(elements - 1)")
        try await array.insert([removed.value], at: index)

        _ = try await trial.time(Operation.append) { try await array.append(passing) }
        let last = try await array.remove(at: elements)
        trial.check(last.value == passing, "the last element is not the one that was appended just now")

        let end = random.below(2) == 0 ? 0 : elements - 1
        let found = try await trial.time(Operation.ends) { try await array.get(at: end) }
        trial.check(found?.value == value(at: end), "at index \(end) there is another element")

        let first = Int(random.below(UInt64(elements)))
        let slice = try await trial.time(Operation.page) {
            try await array.slice(from: first, limit: Operation.pageElements)
        }
        trial.check(
            slice.index == first && slice.elements.count == min(Operation.pageElements, elements - first),
            "a slice from \(first) on has \(slice.elements.count) elements from \(slice.index) on")
        check(slice, &trial)
    }

    private func check(_ slice: ReliableArray<Bytes>.Page, _ trial: inout CollectionTrial) {
        for (offset, element) in slice.elements.enumerated() where slice.index + offset < elements {
            trial.check(
                element.value == value(at: slice.index + offset),
                "a slice has another element at index \(slice.index + offset)")
        }
    }

    func read(
        _ consistency: ReadConsistency, _ random: inout SeededRandom, _ trial: inout CollectionTrial
    ) async throws {
        let index = Int(random.below(UInt64(elements)))
        let found = try await trial.time(Operation.get) { try await array.get(at: index, consistency) }
        trial.check(found?.value == value(at: index), "at index \(index) there is another element")
    }

    func list(_ trial: inout CollectionTrial) async throws {
        var index: Int? = 0
        var seen = 0
        while let first = index {
            let slice = try await array.slice(from: first)
            check(slice, &trial)
            seen += slice.elements.count
            index = slice.elements.isEmpty ? nil : slice.next
        }
        trial.check(seen == elements, "\(seen) of \(elements) elements are listed")
    }

    func count() async throws -> Int { try await array.count() }
    func clear() async throws -> Int { try await array.clear() }
}

// MARK: - Queue

private struct LoadedQueue: LoadedCollection {
    let queue: ReliableQueue<Bytes>
    let payload: Int
    private var order = ElementOrder()
    private(set) var next = 0

    init(queue: ReliableQueue<Bytes>, payload: Int) {
        self.queue = queue
        self.payload = payload
    }

    var elements: Int { order.count }

    var add: @Sendable (Range<Int>) async throws -> UInt64 {
        { [queue, payload] numbers in
            let items = numbers.map { ReliableQueue<Bytes>.Item(MarkedElement.value($0, bytes: payload)) }
            return try await queue.push(items)[0].item
        }
    }

    /// Items are numbered in the order in which they come.
    mutating func added(_ batches: [(mark: UInt64, numbers: Range<Int>)]) {
        for batch in batches.sorted(by: { $0.mark < $1.mark }) {
            order.append(batch.numbers)
            next = max(next, batch.numbers.upperBound)
        }
    }

    private func value(at index: Int) -> Bytes { MarkedElement.value(order.number(at: index), bytes: payload) }

    mutating func use(_ random: inout SeededRandom, _ trial: inout CollectionTrial) async throws {
        let number = next
        let value = MarkedElement.value(number, bytes: payload)
        _ = try await trial.time(Operation.push) { try await queue.push(value) }
        order.append(number..<number + 1)
        next += 1

        let counts = try await trial.time(Operation.count) { try await queue.counts() }
        trial.check(
            counts.ready == UInt64(elements) && counts.inFlight == 0,
            "\(counts.ready) items are ready and \(counts.inFlight) in flight, not \(elements) and 0")

        let taken = try await trial.time(Operation.take) { try await queue.take(visibility: .seconds(600)) }
        trial.check(
            taken.count == 1 && taken.first?.value == self.value(at: 0) && taken.first?.deliveries == 1,
            "not the first item was taken")
        guard let delivery = taken.first else { return }
        let isDone = try await trial.time(Operation.ack) { try await delivery.ack() }
        trial.check(isDone, "an item was not in flight when it was acknowledged")
        order.removeFirst()

        try await read(.linearizable, &random, &trial)
    }

    /// Of the first items: others can't be asked for by their places.
    func read(
        _ consistency: ReadConsistency, _: inout SeededRandom, _ trial: inout CollectionTrial
    ) async throws {
        let page = try await trial.time(Operation.peek) {
            try await queue.peek(itemsMax: Operation.pageElements, consistency)
        }
        trial.check(
            page.items.count == min(Operation.pageElements, elements), "a page has \(page.items.count) of the items")
        check(page, from: 0, &trial)
    }

    private func check(_ page: ReliableQueue<Bytes>.Page, from first: Int, _ trial: inout CollectionTrial) {
        for (offset, item) in page.items.enumerated() where first + offset < elements {
            trial.check(item.value == value(at: first + offset), "another item is the one at \(first + offset)")
        }
    }

    func list(_ trial: inout CollectionTrial) async throws {
        var after: UInt64?
        var seen = 0
        repeat {
            let page = try await queue.peek(after: after)
            check(page, from: seen, &trial)
            seen += page.items.count
            after = page.items.isEmpty ? nil : page.next
        } while after != nil
        trial.check(seen == elements, "\(seen) of \(elements) items are listed")
    }

    func count() async throws -> Int {
        let counts = try await queue.counts()
        return Int(clamping: counts.ready + counts.inFlight + counts.delayed + counts.dead)
    }
    func clear() async throws -> Int { try await queue.clear() }
}
