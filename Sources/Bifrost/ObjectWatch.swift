// Watches of data types as programs see them: what is there, then what becomes of it. How both come together is
// WatchStory's affair.

import ClientCore
import DataTypes
public import Messages
public import Primitives
import Ring
import StateMachines

/// What a watch of an object tells.
public struct ObjectChange<Value: Message>: Sendable {
    public enum Kind: String, Hashable, Sendable {
        /// It was there when the watch began.
        case present
        /// All that was there has been told: together with the changes that came in between it is what there was at
        /// `revision`. Or, for a watch that begins later: it stands.
        case ready
        /// It got this value; it was added.
        case put
        case deleted
        /// Its time to live was over.
        case expired
        /// All of a map's entries or a set's elements are gone.
        case cleared
        /// Nothing happened up to `revision`, for some seconds.
        case progress
    }
    public var kind: Kind
    /// A map's key, a set's element; empty of others.
    public var element: Bytes
    /// Of `present` and `put`.
    public var value: Value?
    /// Of the group, at which it happened; of `present`: at which it got there.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind what was told so far; nil while a snapshot is not complete.
    public var resume: Revision?
}

/// Changes of an object, one by one: in the order of revisions, with no gap and no repetition, across changes of leaders,
/// lost connections and restarts of hosts. Each iterator is a watch of its own. Throws `compacted` where what it has to
/// tell next is not kept any more: begin with a snapshot.
public struct ObjectWatch<Value: Message>: AsyncSequence, Sendable {
    public typealias Element = ObjectChange<Value>
    public typealias Failure = BifrostError

    let source: WatchSource
    /// How the keys begin under which hosts tell its elements.
    let prefix: Bytes

    public func makeAsyncIterator() -> Iterator { Iterator(story: WatchStory(source), prefix: prefix) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private var story: WatchStory
        private let prefix: Bytes

        init(story: WatchStory, prefix: Bytes) {
            self.story = story
            self.prefix = prefix
        }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            while true {
                let told = try await story.next()
                let kind: Element.Kind
                switch told.kind {
                case .present: kind = .present
                case .ready: kind = .ready
                case .progress: kind = .progress
                case .change(.put): kind = .put
                case .change(.deleted): kind = .deleted
                case .change(.expired): kind = .expired
                case .change(.cleared): kind = .cleared
                case .change(.event): continue
                }
                let hasValue = kind == .present || kind == .put
                let element =
                    told.key.count > prefix.count ? told.key[prefix.count..<told.key.count].compacted() : Bytes()
                return Element(
                    kind: kind, element: element, value: hasValue ? try ReliableObject.value(told.value) : nil,
                    revision: told.revision, resume: told.resume)
            }
        }
    }
}

extension ReliableObject {
    /// - Parameters:
    ///   - prefix: how the keys begin under which its elements are told.
    ///   - from: of these, the first, and `end`, behind the last.
    ///   - page: some of what is there, by these keys.
    func watch<Value: Message>(
        machine: SubMachineNumber, prefix: Bytes, from: Bytes, end: Bytes?, start: WatchStart, patience: Duration?,
        moment: @escaping @Sendable () async throws(BifrostError) -> Revision,
        page: @escaping @Sendable (Bytes) async throws(BifrostError) -> ScanPage
    ) -> ObjectWatch<Value> {
        ObjectWatch(
            source: WatchSource(
                cluster: cluster, slot: Ring.slot(of: name), machine: machine, from: from, end: end, start: start,
                patience: patience, problem: problem(), moment: moment, page: page), prefix: prefix)
    }

    /// Of an object that is one record.
    func watch<Value: Message>(
        machine: SubMachineNumber, key: Bytes, start: WatchStart, patience: Duration?,
        entry: @escaping @Sendable () async throws(BifrostError) -> (entry: ObjectEntry?, revision: Revision)
    ) -> ObjectWatch<Value> {
        watch(
            machine: machine, prefix: key, from: key, end: Bytes(key.array + [0]), start: start, patience: patience,
            moment: { () async throws(BifrostError) in try await entry().revision },
            page: { (_) async throws(BifrostError) in
                let (found, revision) = try await entry()
                let records = found.map {
                    [KeyValueScanPage.Record(key: key, value: $0.value, revision: $0.revision)]
                }
                return ScanPage(records: records ?? [], next: nil, revision: revision)
            })
    }
}
