// A queue with a name, as programs see it. Owns how takes wait, and what becomes of items that nobody looks at any more.

import ClientCore
public import DataTypes
public import Messages
public import Primitives
import RPC
import Ring
public import StateMachines

extension Cluster {
    /// A queue.
    ///
    ///     let jobs = cluster.queue("jobs", of: Job.self)
    ///     try await jobs.push(job)
    ///     for try await delivery in jobs.deliveries(visibility: .seconds(30)) {
    ///         try await run(delivery.value)
    ///         try await delivery.ack()
    ///     }
    public func queue<Value: Message>(_ name: Bytes, of _: Value.Type) -> ReliableQueue<Value> {
        ReliableQueue(object: ReliableObject(cluster: self, name: name))
    }
}

/// A queue with a name. It lies whole in one group, and may be longer than that group's memory. Items with a higher
/// priority are taken first, and of the same priority in the order in which they were pushed.
///
/// What is taken is *in flight* until it is acknowledged. It comes back, to its old place, when its visibility time is over
/// (as the group counts time), when it is given back, or when the session of who took it ends: an item is delivered at
/// least once. An acknowledgement that comes too late changes nothing. Pushes and acknowledgements are done once, however
/// often they have to be sent. All throw `BifrostError`.
public struct ReliableQueue<Value: Message>: GuardableObject {
    let object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> Self { Self(object: object.guarded(by: token)) }

    var slot: Slot { Ring.slot(of: name) }

    /// An item to push.
    public struct Item: Sendable {
        public var value: Value
        /// Higher ones are taken first.
        public var priority: UInt8
        /// It is not ready before; nil: at once.
        public var delay: Duration?
        /// While the window lasts, another push with this id adds nothing, whoever it comes from. 1 to 256 bytes.
        public var id: Bytes?
        public var window: Duration

        public init(
            _ value: Value, priority: UInt8 = 128, delay: Duration? = nil, id: Bytes? = nil,
            window: Duration = .seconds(300)
        ) {
            self.value = value
            self.priority = priority
            self.delay = delay
            self.id = id
            self.window = window
        }
    }

    /// What became of a push.
    public struct Pushed: Hashable, Sendable {
        /// The item's number.
        public var item: UInt64
        /// False: it had been pushed with this id before.
        public var isNew: Bool
    }

    /// Adds an item. See `Item`.
    @discardableResult
    public func push(
        _ value: Value, priority: UInt8 = 128, delay: Duration? = nil, id: Bytes? = nil,
        window: Duration = .seconds(300), timeout: Duration? = nil
    ) async throws(BifrostError) -> Pushed {
        try await push(
            [Item(value, priority: priority, delay: delay, id: id, window: window)], timeout: timeout)[0]
    }

    /// Adds up to 64 items at one revision, all or none.
    @discardableResult
    public func push(_ items: [Item], timeout: Duration? = nil) async throws(BifrostError) -> [Pushed] {
        guard items.count <= ObjectQueue.pushesMax else {
            throw BifrostError(.tooLarge, "up to \(ObjectQueue.pushesMax) items at once, not \(items.count)")
        }
        var pushes: [ObjectQueue.Push] = []
        for item in items {
            let bytes = item.value.encoded()
            try object.check(value: bytes)
            if let id = item.id, !(1...ObjectQueue.idBytesMax).contains(id.count) {
                throw BifrostError(.invalid, "an id has 1 to \(ObjectQueue.idBytesMax) bytes, not \(id.count)")
            }
            pushes.append(
                ObjectQueue.Push(
                    bytes, priority: item.priority, delayMillis: try item.delay?.delayMillis ?? 0, id: item.id,
                    windowMillis: item.id == nil ? 0 : try item.window.queueMillis))
        }
        let pushed = try await object.submit(QueuePush(name, pushes), timeout: timeout).answer.pushed
        guard pushed.count == items.count else {
            throw BifrostError(.malformedAnswer, "\(pushed.count) answers came for \(items.count) items")
        }
        return pushed.map { Pushed(item: $0.item, isNew: $0.isNew) }
    }

    /// Takes what is ready, up to `max` items (256 at most), as many as fit into an answer.
    ///
    /// - Parameters:
    ///   - visibility: they come back so long after they were taken, unless they are acknowledged.
    ///   - wait: where nothing is ready, waits so long for something, after those who waited before; nil: does not.
    ///   - outlivesSession: the items stay in flight for their visibility time whatever becomes of this client; else its
    ///     session has them, 256 at most, and they come back when it ends. It is kept as long as the deliveries are.
    /// - Returns: none if nothing came in time. When the task is cancelled, what was taken is given back.
    /// - Throws: `overloaded` if the session has too many items already.
    public func take(
        max: Int = 1, visibility: Duration, wait: Duration? = nil, outlivesSession: Bool = false,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> [QueueDelivery<Value>] {
        let take = QueueTake(
            name, try Self.count(max), visibilityMillis: try visibility.queueMillis,
            waitMillis: try wait?.delayMillis ?? 0, isOfSession: !outlivesSession)
        let hold = outlivesSession ? nil : object.cluster.hold(slot)
        let object = object
        // A take that is under way is not left alone: nobody else would know what it took.
        let sent = Task { () -> Result<(answer: QueueTaken, revision: Revision), BifrostError> in
            do throws(BifrostError) { return .success(try await object.submit(take, timeout: timeout)) } catch {
                return .failure(error)
            }
        }
        let (answer, revision) = try await sent.value.get()
        var found = answer.taken.deliveries
        if let ticket = answer.taken.ticket {
            do throws(BifrostError) {
                found = try await granted(ticket, after: revision, wait: wait ?? .zero)
                if Task.isCancelled { throw BifrostError(.cancelled, "the task was cancelled") }
            } catch {
                object.cluster.errands.start {
                    _ = try? await object.bare.submit(QueueCancelWait(object.name, ticket), timeout: .seconds(60))
                    hold?.release()
                }
                throw error
            }
        } else if found.isEmpty, answer.taken.stop == .sessionFull {
            throw Self.sessionFull
        }
        do throws(BifrostError) {
            if Task.isCancelled { throw BifrostError(.cancelled, "the task was cancelled") }
            return try await deliveries(found, hold)
        } catch {
            Self.giveBack(found.map(\.receipt), object, hold)
            throw error
        }
    }

    /// Takes what is ready, up to `max` items (256 at most), for good: each is delivered at most once, and lost if its
    /// answer does not arrive.
    public func takeAndAck(max: Int = 1, timeout: Duration? = nil) async throws(BifrostError) -> [Value] {
        let count = try Self.count(max)
        let taken = try await object.submit(QueueTakeAndAck(name, count), timeout: timeout).answer.taken
        var values: [Value] = []
        for delivery in taken.deliveries { values.append(try ReliableObject.value(delivery.value ?? Bytes())) }
        return values
    }

    /// Takes and waits without end: for one consumer of perhaps many.
    ///
    /// - Parameters:
    ///   - batch: items that are taken at once. Their visibility begins together: those that were not handed out by the
    ///     end of it are left to come back. More than 1 pays for items that take less time than a round trip.
    ///   - patience: throws when no host could be asked for so long; nil: goes on until its task is cancelled.
    public func deliveries(
        visibility: Duration, batch: Int = 1, patience: Duration? = nil
    ) -> QueueDeliveries<Value> {
        QueueDeliveries(queue: self, visibility: visibility, batch: batch, patience: patience)
    }

    private static func count(_ max: Int) throws(BifrostError) -> UInt16 {
        guard (1...ObjectQueue.takesMax).contains(max) else {
            throw BifrostError(.invalid, "1 to \(ObjectQueue.takesMax) items are taken at once, not \(max)")
        }
        return UInt16(max)
    }
}

// MARK: - Receipts

/// Of one delivery of an item: when it comes back and is delivered again, that is another one. As text: `item-delivery`.
public struct QueueReceipt: Hashable, Sendable, CustomStringConvertible {
    /// The item's number.
    public var item: UInt64
    /// Counted from 1 on for each item.
    public var delivery: UInt64

    public init(item: UInt64, delivery: UInt64) { (self.item, self.delivery) = (item, delivery) }

    init(_ receipt: ObjectQueue.Receipt) { self.init(item: receipt.item, delivery: receipt.delivery) }
    var inner: ObjectQueue.Receipt { ObjectQueue.Receipt(item: item, delivery: delivery) }

    public var description: String { "\(item)-\(delivery)" }

    /// From its text; nil: it is none.
    public init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, let item = UInt64(parts[0]), let delivery = UInt64(parts[1]) else { return nil }
        self.init(item: item, delivery: delivery)
    }
}

extension ReliableQueue {
    /// The items are done, and gone. Returns for each whether it was in flight by its receipt; if not, nothing was changed.
    @discardableResult
    public func ack(_ receipts: [QueueReceipt], timeout: Duration? = nil) async throws(BifrostError) -> [Bool] {
        let name = name
        return try await each(receipts, timeout) { QueueAck(name, $0) }
    }

    /// Gives items back, to be ready after a time. Those that were delivered too often are dead (`setDeliveriesMax`).
    @discardableResult
    public func nack(
        _ receipts: [QueueReceipt], delay: Duration? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> [Bool] {
        let (name, millis) = (name, try delay?.delayMillis ?? 0)
        return try await each(receipts, timeout) { QueueNack(name, $0, delayMillis: millis) }
    }

    /// Keeps items for so long from now on.
    @discardableResult
    public func extend(
        _ receipts: [QueueReceipt], by visibility: Duration, timeout: Duration? = nil
    ) async throws(BifrostError) -> [Bool] {
        let (name, millis) = (name, try visibility.queueMillis)
        return try await each(receipts, timeout) { QueueExtend(name, $0, visibilityMillis: millis) }
    }

    /// In commands of up to 64.
    private func each<Command: MachineCommand>(
        _ receipts: [QueueReceipt], _ timeout: Duration?, _ command: ([ObjectQueue.Receipt]) -> Command
    ) async throws(BifrostError) -> [Bool] where Command.Answer == QueueOutcomes {
        var isDone: [Bool] = []
        for start in stride(from: 0, to: receipts.count, by: ObjectQueue.receiptsMax) {
            let some = receipts[start..<min(start + ObjectQueue.receiptsMax, receipts.count)]
            let answer = try await object.submit(command(some.map(\.inner)), timeout: timeout).answer
            isDone += try Self.all(answer, of: some.count)
        }
        return isDone
    }

    fileprivate static func all(_ answer: QueueOutcomes, of count: Int) throws(BifrostError) -> [Bool] {
        guard answer.outcomes.count == count else {
            throw BifrostError(.malformedAnswer, "\(answer.outcomes.count) answers came for \(count) items")
        }
        return answer.outcomes.map { $0 == .done }
    }
}

/// An item that was taken. Until it is acknowledged it is in flight; this client's session is kept as long as this value
/// is, unless the item was taken so that it outlives the session.
public struct QueueDelivery<Value: Message>: Sendable {
    public let value: Value
    public let receipt: QueueReceipt
    public let priority: UInt8
    /// This one included, since it was pushed or requeued. 1: nobody has had it before.
    public let deliveries: Int
    let object: ReliableObject
    let hold: SessionHold?

    private var queue: ReliableQueue<Value> { ReliableQueue(object: object) }

    /// The item is done, and gone. False: it had come back before, and somebody else may have it; nothing was changed.
    @discardableResult
    public func ack(timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await queue.ack([receipt], timeout: timeout)[0]
    }

    /// Gives it back, to be ready after a time. False: it had come back before.
    @discardableResult
    public func nack(delay: Duration? = nil, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await queue.nack([receipt], delay: delay, timeout: timeout)[0]
    }

    /// Keeps it for so long from now on. False: it had come back before.
    @discardableResult
    public func extend(by visibility: Duration, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await queue.extend([receipt], by: visibility, timeout: timeout)[0]
    }
}

// MARK: - Waiting

extension ReliableQueue {
    fileprivate static var sessionFull: BifrostError {
        BifrostError(
            .overloaded,
            "this client has \(ObjectQueue.inFlightMax) items of the queue, or waits for more: acknowledge some first")
    }

    /// What a wait got: from what is told of it, or, if that was missed, from the queue.
    private func granted(
        _ ticket: UInt64, after revision: Revision, wait: Duration
    ) async throws(BifrostError) -> [ObjectQueue.Delivery] {
        let object = object
        let key = QueueMachine.watchKey(name, ticket)
        let patience = max(wait, .seconds(30))
        func feed(_ revision: Revision) -> WatchFeed {
            WatchFeed(
                cluster: object.cluster, slot: slot, machine: QueueMachine.number, from: key,
                end: Bytes(key.array + [0]), patience: patience, through: revision)
        }
        var events = feed(revision)
        while true {
            var state: QueueTicketState?
            do throws(BifrostError) {
                for change in try await events.next() where change.key == key && change.kind == .put {
                    do throws(DecodingFailure) { state = try QueueTicketState(decoding: change.value) } catch {
                        throw BifrostError(malformed: error)
                    }
                }
            } catch {
                guard error.code == .compacted else { throw error }
                let (found, now) = try await Patience(patience).ask { () async throws(BifrostError) in
                    try await object.query(QueueTicket(object.name, ticket))
                }
                state = found.kind == .waiting ? nil : found
                events = feed(now)
            }
            switch state?.kind {
            case nil, .waiting?: continue
            case .delivered?: return state?.deliveries ?? []
            case .sessionFull?: throw Self.sessionFull
            case .timedOut?, .cancelled?, .over?: return []
            }
        }
    }

    private func deliveries(
        _ found: [ObjectQueue.Delivery], _ hold: SessionHold?
    ) async throws(BifrostError) -> [QueueDelivery<Value>] {
        var deliveries: [QueueDelivery<Value>] = []
        for delivery in found {
            guard let bytes = try await value(of: delivery) else { continue }
            deliveries.append(
                QueueDelivery(
                    value: try ReliableObject.value(bytes), receipt: QueueReceipt(delivery.receipt),
                    priority: delivery.priority, deliveries: Int(clamping: delivery.deliveries), object: object,
                    hold: hold))
        }
        return deliveries
    }

    /// nil: it has come back meanwhile.
    private func value(of delivery: ObjectQueue.Delivery) async throws(BifrostError) -> Bytes? {
        if let value = delivery.value { return value }
        do throws(BifrostError) {
            return try await object.query(QueueValue(name, delivery.receipt)).answer
        } catch {
            let code = (error.cause as? MachineFailure)?.code
            guard code == ObjectFailure.noItem || code == ObjectFailure.staleReceipt else { throw error }
            return nil
        }
    }

    /// Without waiting for it. If it fails they come back later.
    fileprivate static func giveBack(_ receipts: [ObjectQueue.Receipt], _ object: ReliableObject, _ hold: SessionHold?)
    {
        guard !receipts.isEmpty else { return }
        object.cluster.errands.start {
            for start in stride(from: 0, to: receipts.count, by: ObjectQueue.receiptsMax) {
                let some = Array(receipts[start..<min(start + ObjectQueue.receiptsMax, receipts.count)])
                _ = try? await object.bare.submit(QueueNack(object.name, some), timeout: .seconds(60))
            }
            // Others of the same batch may still be in use: the last of them lets go.
            withExtendedLifetime(hold) {}
        }
    }
}

/// Deliveries without end, one by one. See `ReliableQueue.deliveries`. Each iterator takes for itself. What it has taken
/// and not handed out is given back when it is gone.
public struct QueueDeliveries<Value: Message>: AsyncSequence, Sendable {
    public typealias Element = QueueDelivery<Value>
    public typealias Failure = BifrostError

    let queue: ReliableQueue<Value>
    let visibility: Duration
    let batch: Int
    let patience: Duration?

    /// One wait; who gets nothing waits again.
    private static var wait: Duration { .seconds(60) }

    public func makeAsyncIterator() -> Iterator { Iterator(deliveries: self) }

    public struct Iterator: AsyncIteratorProtocol {
        private let deliveries: QueueDeliveries
        private let rest = Rest()

        init(deliveries: QueueDeliveries) { self.deliveries = deliveries }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> Element? {
            while let (delivery, takenAt) = rest.next() {
                let passed = RPCClock.now().since(takenAt)
                if passed < deliveries.visibility.nanoseconds { return delivery }
            }
            let patience = Patience(deliveries.patience)
            while true {
                do throws(BifrostError) {
                    let taken = try await deliveries.queue.take(
                        max: deliveries.batch, visibility: deliveries.visibility, wait: QueueDeliveries.wait)
                    guard let first = taken.first else { continue }
                    rest.fill(taken.dropFirst(), at: RPCClock.now())
                    return first
                } catch {
                    // What was taken without a word of it comes back.
                    try await patience.pause(after: error, isPassing: error.code == .outcomeUnknown)
                }
            }
        }

        /// What was taken and not handed out. Belongs to one iterator, and so to one task at a time.
        private final class Rest {
            private var deliveries: ArraySlice<Element> = []
            private var takenAt = Instant.zero

            func fill(_ deliveries: ArraySlice<Element>, at takenAt: Instant) {
                (self.deliveries, self.takenAt) = (deliveries, takenAt)
            }

            func next() -> (Element, Instant)? { deliveries.popFirst().map { ($0, takenAt) } }

            deinit {
                guard let first = deliveries.first else { return }
                ReliableQueue<Value>.giveBack(deliveries.map(\.receipt.inner), first.object, first.hold)
            }
        }
    }
}

// MARK: - Looking, dead items, all items

extension ReliableQueue {
    /// How many items there are, by where they are. Cost: one record.
    public func counts(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> QueueCounts {
        try await object.query(QueueCount(name), consistency, timeout: timeout).answer
    }

    /// An item as it stands in the queue.
    public struct StandingItem: Sendable {
        public enum Reason: String, Hashable, Sendable {
            case timedOut
            /// `nack`
            case refused
            case sessionEnded
        }
        public var item: UInt64
        public var value: Value
        public var priority: UInt8
        /// Since it was pushed or requeued.
        public var deliveries: Int
        /// Why it came back the last time; nil: it did not.
        public var reason: Reason?
    }

    /// Some items, as they stood together at one moment.
    public struct Page: Sendable {
        public var items: [StandingItem]
        /// To go on behind them; nil: those were the last.
        public var next: UInt64?
    }

    /// Items that are ready, in the order in which they will be taken: up to 256. They stay.
    public func peek(
        after: UInt64? = nil, itemsMax: Int = 256, _ consistency: ReadConsistency = .linearizable,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        try await page(
            QueuePage(name, isOfDead: false, after: after, itemsMax: Self.clamp(itemsMax)), consistency, timeout)
    }

    /// Items that were delivered too often, in the order in which they were pushed: up to 256.
    public func deadItems(
        after: UInt64? = nil, itemsMax: Int = 256, _ consistency: ReadConsistency = .linearizable,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> Page {
        try await page(
            QueuePage(name, isOfDead: true, after: after, itemsMax: Self.clamp(itemsMax)), consistency, timeout)
    }

    private static func clamp(_ count: Int) -> UInt16 { UInt16(clamping: max(count, 1)) }

    private func page(
        _ query: QueuePage, _ consistency: ReadConsistency, _ timeout: Duration?
    ) async throws(BifrostError) -> Page {
        let page = try await object.query(query, consistency, timeout: timeout).answer.page
        var items: [StandingItem] = []
        for item in page.items {
            let reason: StandingItem.Reason? =
                switch item.reason {
                case .none: nil
                case .timedOut: .timedOut
                case .refused: .refused
                case .sessionEnded: .sessionEnded
                }
            items.append(
                StandingItem(
                    item: item.id, value: try ReliableObject.value(item.value), priority: item.priority,
                    deliveries: Int(clamping: item.deliveries), reason: reason))
        }
        return Page(items: items, next: page.next)
    }

    /// Puts up to 64 dead items back to their places; their deliveries are counted anew. Returns for each whether it was
    /// dead.
    @discardableResult
    public func requeue(_ items: [UInt64], timeout: Duration? = nil) async throws(BifrostError) -> [Bool] {
        try Self.check(items)
        return try Self.all(
            try await object.submit(QueueRequeue(name, items), timeout: timeout).answer, of: items.count)
    }

    /// Removes up to 64 dead items. Returns for each whether it was dead.
    @discardableResult
    public func removeDead(_ items: [UInt64], timeout: Duration? = nil) async throws(BifrostError) -> [Bool] {
        try Self.check(items)
        return try Self.all(
            try await object.submit(QueueRemoveDead(name, items), timeout: timeout).answer, of: items.count)
    }

    private static func check(_ items: [UInt64]) throws(BifrostError) {
        guard items.count > ObjectQueue.receiptsMax else { return }
        throw BifrostError(.tooLarge, "up to \(ObjectQueue.receiptsMax) items at once, not \(items.count)")
    }

    /// Removes all dead items, in commands of 256. Returns how many.
    @discardableResult
    public func purgeDead(timeout: Duration? = nil) async throws(BifrostError) -> Int {
        var count = 0
        while true {
            let purged = try await object.submit(QueuePurgeDead(name), timeout: timeout).answer.count
            count += Int(clamping: purged)
            if purged < ObjectQueue.pageItemsMax { return count }
        }
    }

    /// So often an item is delivered before it is dead instead of coming back; 0, as for a new queue: as often as it takes.
    /// Holds for items that come back from now on.
    public func setDeliveriesMax(_ deliveries: Int, timeout: Duration? = nil) async throws(BifrostError) {
        guard let deliveries = UInt32(exactly: deliveries) else {
            throw BifrostError(.invalid, "deliveries are 0 to \(UInt32.max), not \(deliveries)")
        }
        _ = try await object.submit(QueueSettings(name, deliveriesMax: deliveries), timeout: timeout)
    }

    /// Removes all items, wherever they are, and the ids they were pushed with, at one revision. Returns how many there
    /// were. Who waits goes on waiting.
    @discardableResult
    public func clear(timeout: Duration? = nil) async throws(BifrostError) -> Int {
        Int(clamping: try await object.submit(QueueClear(name), timeout: timeout).answer.count)
    }
}

extension Duration {
    /// Whole milliseconds.
    ///
    /// - Throws: `invalid`: not 1 to `ObjectQueue.timeMillisMax`.
    fileprivate var queueMillis: UInt64 {
        get throws(BifrostError) {
            let millis = try timeToLiveMillis
            guard millis <= ObjectQueue.timeMillisMax else {
                throw BifrostError(
                    .invalid, "a time has at most \(ObjectQueue.timeMillisMax) milliseconds, not \(self)")
            }
            return millis
        }
    }

    /// The same; zero is 0.
    fileprivate var delayMillis: UInt64 {
        get throws(BifrostError) { self == .zero ? 0 : try queueMillis }
    }
}
