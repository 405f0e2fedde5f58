// Watches of arrays as programs see them: what is there, in order, then what becomes of it. Owns how pages and changes come
// together where both go by indices, which every change moves.

public import DataTypes
import Messages
public import Primitives
import Ring
import StateMachines

/// What a watch of an array tells. A copy to which all of it is done, one behind the other (`apply(to:)`), is the array.
public struct ArrayEvent<Value: Message>: Sendable {
    public enum Kind: Hashable, Sendable {
        /// An element stood here, behind all that were told of, when the watch came to it.
        case present(at: Int)
        /// All that was there has been told: the copy is what the array was at `revision`. Or, for a watch that begins
        /// later: it stands.
        case ready
        /// A new element stands here, and what stood here and behind stands one further.
        case inserted(at: Int)
        /// An element has another value.
        case set(at: Int)
        case removed(at: Int)
        /// All elements but these are gone: told once, however many there were.
        case trimmed(to: Range<Int>)
        /// All elements are gone.
        case cleared
        /// Nothing happened up to `revision`, for some seconds.
        case progress
    }
    public var kind: Kind
    /// Of `present`, `inserted`, `set` and `removed`.
    public var id: ArrayElementID?
    /// Of `present`, `inserted` and `set`.
    public var value: Value?
    /// Of the group, at which it happened; of `present`: at which the element got its value.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind what was told so far; nil while a snapshot is not complete, and where more of
    /// the same revision is still to be told. A copy that is to go on later is taken behind an event that has one.
    public var resume: Revision?

    /// Does to a copy what was done to the array.
    ///
    /// - Throws: `invalid` if the copy is none of this watch: the element is not there.
    public func apply(to copy: inout [ReliableArray<Value>.Element]) throws(BifrostError) {
        func check(_ holds: Bool) throws(BifrostError) {
            guard !holds else { return }
            throw BifrostError(.invalid, "a copy of \(copy.count) elements does not go with \(kind)")
        }
        switch kind {
        case .present(let index), .inserted(let index):
            guard let id, let value, index <= copy.count else { return try check(false) }
            copy.insert(ReliableArray.Element(id: id, value: value, revision: revision), at: index)
        case .set(let index):
            guard let id, let value, index < copy.count, copy[index].id == id else { return try check(false) }
            copy[index] = ReliableArray.Element(id: id, value: value, revision: revision)
        case .removed(let index):
            try check(index < copy.count && copy[index].id == id)
            copy.remove(at: index)
        case .trimmed(let range):
            try check(range.upperBound <= copy.count)
            copy.removeSubrange(range.upperBound...)
            copy.removeSubrange(..<range.lowerBound)
        case .cleared: copy = []
        case .ready, .progress: break
        }
    }
}

/// What becomes of an array, event by event: in the order of revisions, with no gap and no repetition, across changes of
/// leaders, lost connections and restarts of hosts. Each iterator is a watch of its own. Throws `compacted` where what it
/// has to tell next is not kept any more: begin with a snapshot.
///
/// A snapshot comes in pages, while the array goes on: what happens meanwhile to elements that were told is told in between,
/// and up to `ready` the copy is the beginning of an array.
public struct ArrayWatch<Value: Message>: AsyncSequence, Sendable {
    public typealias Element = ArrayEvent<Value>
    public typealias Failure = BifrostError

    let array: ReliableArray<Value>
    let start: WatchStart
    let patience: Duration?

    public func makeAsyncIterator() -> Iterator { Iterator(story: ArrayStory(self)) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private var story: ArrayStory<Value>

        init(story: ArrayStory<Value>) { self.story = story }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            let told = try await story.next()
            var event = Element(kind: told.kind, id: told.id, revision: told.revision, resume: told.resume)
            if let value = told.value { event.value = try ReliableObject.value(value) }
            return event
        }
    }
}

struct ArrayStory<Value: Message>: Sendable {
    struct Told: Sendable {
        var kind: ArrayEvent<Value>.Kind
        var id: ArrayElementID?
        var value: Bytes?
        var revision: Revision
        var resume: Revision?
    }
    private enum Phase { case new, reading, live }

    private let watch: ArrayWatch<Value>
    private let prefix: Bytes
    private var phase = Phase.new
    private var feed: WatchFeed
    /// While it is read: so many elements are in the copy, the first of the array at `feed.through`.
    private var known: UInt64 = 0
    private var told: [Told] = []
    private var place = 0

    /// A page begins so many elements before the first that is not known: where some were taken out meanwhile, it need not
    /// be read again.
    private static var overlap: UInt64 { 8 }

    init(_ watch: ArrayWatch<Value>) {
        self.watch = watch
        let name = watch.array.name
        prefix = ArrayMachine.watchKey(name)
        feed = WatchFeed(
            cluster: watch.array.object.cluster, slot: Ring.slot(of: name), machine: ArrayMachine.number, from: prefix,
            end: prefix.endOfPrefix, patience: watch.patience, through: .zero)
    }

    mutating func next() async throws(BifrostError) -> Told {
        while place >= told.count {
            told.removeAll(keepingCapacity: true)
            place = 0
            try await goOn()
        }
        place += 1
        return told[place - 1]
    }

    private mutating func goOn() async throws(BifrostError) {
        let array = watch.array
        switch phase {
        case .new:
            if let problem = array.object.problem() { throw problem }
            switch watch.start {
            case .after(let revision):
                feed.through = revision
                phase = .live
            case .now:
                let revision = try await Patience(watch.patience).ask { () async throws(BifrostError) in
                    try await array.object.query(ArrayCount(array.name)).revision
                }
                feed.through = revision
                beReady(at: revision)
            case .snapshot: phase = .reading
            }
        case .reading: try await read()
        case .live:
            let before = feed.through
            let changes = try await feed.next()
            try tell(changes[...])
            if changes.isEmpty, feed.through > before {
                told.append(Told(kind: .progress, revision: feed.through, resume: feed.through))
            }
        }
    }

    private mutating func beReady(at revision: Revision) {
        told.append(Told(kind: .ready, revision: revision, resume: revision))
        phase = .live
    }

    private mutating func read() async throws(BifrostError) {
        let (array, from) = (watch.array, known - min(known, Self.overlap))
        let (page, revision) = try await Patience(watch.patience).ask { () async throws(BifrostError) in
            try await array.page(from: .index(from))
        }
        // What is told of it as yet is that of an earlier moment: the first ones become what they were at the page's.
        var changes: [Change] = []
        if feed.through == .zero { feed.through = revision }
        guard revision >= feed.through else { return }
        var waits = false
        while feed.through < revision {
            // That moment has passed: nothing has to happen first, but for a leader that is new.
            changes += try await feed.next(waits: waits)
            waits = true
        }
        let later = changes.firstIndex { $0.revision > revision } ?? changes.endIndex
        try tell(changes[..<later])
        take(page, at: revision)
        try tell(changes[later...])
    }

    /// A page of the array whose first elements the copy has, at one moment.
    private mutating func take(_ page: ArrayPage.Answer, at revision: Revision) {
        // So many were taken out meanwhile that some between are not known: they are read next.
        guard page.index <= known || page.index >= page.count else { return }
        let end = page.index + UInt64(page.elements.count)
        if page.index <= known, known < end {
            for element in page.elements[Int(known - page.index)...] {
                told.append(
                    Told(
                        kind: .present(at: Int(clamping: known)), id: element.id, value: element.value,
                        revision: element.revision))
                known += 1
            }
        }
        if known >= page.count { beReady(at: revision) }
    }

    /// Changes in a row, the last of their answer with the last of its revision.
    private mutating func tell(_ changes: ArraySlice<Change>) throws(BifrostError) {
        for place in changes.indices {
            let change = changes[place]
            let isLast = place + 1 >= changes.endIndex || changes[place + 1].revision != change.revision
            guard var event = try event(of: change) else { continue }
            if phase == .live, isLast { event.resume = change.revision }
            told.append(event)
        }
    }

    /// nil: it is about elements that are not known yet.
    private mutating func event(of change: Change) throws(BifrostError) -> Told? {
        var event = Told(kind: .cleared, revision: change.revision)
        if change.kind == .cleared {
            known = 0
            return event
        }
        guard change.kind == .put || change.kind == .deleted else { return nil }
        let isWhole = phase == .live
        let decoded: ArrayChange
        do throws(DecodingFailure) {
            decoded = try ArrayChange(decoding: change.value)
            if change.key.count > prefix.count {
                var reader = ByteReader(change.key[prefix.count..<change.key.count])
                event.id = ArrayElementID(UInt64(bigEndian: try reader.read()))
            }
        } catch {
            throw BifrostError(malformed: error)
        }
        switch decoded {
        case .inserted(let index, let value):
            guard isWhole || index < known else { return nil }
            event.kind = .inserted(at: Int(clamping: index))
            event.value = value
            if !isWhole { known += 1 }
        case .set(let index, let value):
            guard isWhole || index < known else { return nil }
            event.kind = .set(at: Int(clamping: index))
            event.value = value
        case .removed(let index):
            guard isWhole || index < known else { return nil }
            event.kind = .removed(at: Int(clamping: index))
            if !isWhole { known -= 1 }
        case .trimmed(let range):
            let kept = isWhole ? range : min(range.lowerBound, known)..<min(range.upperBound, known)
            guard isWhole || kept != 0..<known else { return nil }
            event.kind = .trimmed(to: Int(clamping: kept.lowerBound)..<Int(clamping: kept.upperBound))
            if !isWhole { known = kept.upperBound - kept.lowerBound }
        }
        return event
    }
}
