// A queue of any length: items with priorities and delays, which are taken, and come back unless they are acknowledged.
// Owns its records and their bounds, and what becomes of an item. Its head is a record of its owner's, who also brings
// timers back and tells waiters what they got.
//
//     push ──▶ ready ──take──▶ in flight ──ack──▶ gone
//       │        ▲                 │
//       ▼        │ timer           │ timer, nack, session's end
//     delayed ───┴◀────────────────┤
//                └◀── requeue ── dead (delivered too often)
//
// Ready items stand by priority, higher ones first, then in the order they were pushed; one that comes back has its old
// place. Changes are kept until `flush`, but for values, ids against duplicates, and timers. What throws a `Failure` has
// changed nothing.

import Messages
package import Primitives

/// A queue whose items are records. To push, take or acknowledge costs some records and, for each level of a tree (4 at 1
/// million items that are ready), a node. Delivery is at least once; a receipt names one delivery.
///
/// Its records, all integers in keys big-endian: `part u8 | …`
///
/// | part | … | record |
/// |---|---|---|
/// | 1 | `generation u64, 1, item u64` | `QueueItem` |
/// | 1 | `generation u64, 2, item u64` | a value of more than `inlineBytesMax` bytes |
/// | 1 | `generation u64, 3, node u64` | `RecordTreeNode` of those that are ready: `255 - priority` in the top byte, then the item |
/// | 1 | `generation u64, 4, node u64` | `RecordTreeNode` of dead ones: the item |
/// | 1 | `generation u64, 5, id` | the item that was pushed with this id: `item u64` |
/// | 1 | `generation u64, 6, item u64` | its id |
/// | 1 | `generation u64, 7, ticket u64` | `QueueGrant` |
/// | 2 | `ticket u64` | `QueueWaiter` |
/// | 3 | `session u64` | `QueueSession` |
package struct ObjectQueue {
    /// What its owner keeps in a record.
    ///
    /// `version u8 = 1 | generation u64 | ready, 25 bytes | dead, 25 bytes | delayed u64 | in flight u64 | next item u64 |
    /// deliveries u32 | waiters: first u64, last u64, count u32, next ticket u64`
    package struct Head: Message {
        package fileprivate(set) var generation: UInt64 = 1
        package fileprivate(set) var ready = RecordTreeRoot()
        package fileprivate(set) var dead = RecordTreeRoot()
        package fileprivate(set) var delayed: UInt64 = 0
        package fileprivate(set) var inFlight: UInt64 = 0
        fileprivate(set) var nextItem: UInt64 = 1
        /// So often an item is delivered before it is dead; 0: as often as it takes. Holds for items that come back from
        /// now on.
        package var deliveriesMax: UInt32 = 0
        fileprivate(set) var firstWaiter: UInt64 = 0
        fileprivate(set) var lastWaiter: UInt64 = 0
        package fileprivate(set) var waiters: UInt32 = 0
        fileprivate(set) var nextTicket: UInt64 = 1

        package init(deliveriesMax: UInt32 = 0) { self.deliveriesMax = deliveriesMax }

        /// Items are ready and somebody waits: more than one command may hand over. `serve` goes on with it.
        package var needsServing: Bool { waiters > 0 && ready.count > 0 }
        package var itemCount: UInt64 { ready.count &+ delayed &+ inFlight &+ dead.count }
        package var hasBeenPushed: Bool { nextItem > 1 }

        package func encode(into writer: inout ByteWriter) {
            writer.write(1 as UInt8)
            writer.write(generation)
            ready.encode(into: &writer)
            dead.encode(into: &writer)
            for number in [delayed, inFlight, nextItem] { writer.write(number) }
            writer.write(deliveriesMax)
            writer.write(firstWaiter)
            writer.write(lastWaiter)
            writer.write(waiters)
            writer.write(nextTicket)
        }

        package init(from reader: inout ByteReader) throws(DecodingFailure) {
            try reader.expectVersion(1, of: "a queue's head")
            generation = try reader.read()
            (ready, dead) = (try RecordTreeRoot(from: &reader), try RecordTreeRoot(from: &reader))
            (delayed, inFlight, nextItem) = (try reader.read(), try reader.read(), try reader.read())
            deliveriesMax = try reader.read()
            (firstWaiter, lastWaiter) = (try reader.read(), try reader.read())
            (waiters, nextTicket) = (try reader.read(), try reader.read())
            guard delayed < 1 << 62, inFlight < 1 << 62, nextItem > 0, nextItem <= 1 << 56, nextTicket > 0,
                waiters <= ObjectQueue.waitersMax, (firstWaiter == 0) == (waiters == 0)
            else { throw DecodingFailure(expected: "a queue's head", found: "\(waiters) waiters, item \(nextItem)") }
        }
    }

    // Bounds of one command: well below 1,024 writes, whatever the items are and whoever waits.
    package static let pushesMax = 64
    package static let takesMax = 256
    /// Receipts, or dead items, in one command.
    package static let receiptsMax = 64
    /// Items that come back at a session's end, and those that are handed to waiters.
    package static let servesMax = 64
    /// In the entry that ends a session, which may hold many queues: the rest comes back by commands that follow.
    package static let endsMax = 8
    /// Of a wait that is of no session: nothing else ends it.
    package static let nobodysWaitMillisMax: UInt64 = 3_600_000
    package static let pageItemsMax = 256
    package static let pushedBytesMax = 3 << 20
    /// Of the values of an answer; there is one at least.
    package static let answerBytesMax = 960 << 10
    // Bounds of the queue.
    package static let inFlightMax = 256
    package static let waitersMax = 4_096
    package static let waitersPerSessionMax = 16
    package static let idBytesMax = 256
    package static let timeMillisMax: UInt64 = 1 << 40
    /// A value up to this stands in its item's record.
    package static let inlineBytesMax = 1_024
    package static let handleBytesMax = 64

    package var head: Head { withRoots() }
    private var state: Head
    private let key: ObjectKey
    private let prefix: RecordPrefix
    private var items: RecordTable<QueueItem>
    private var waiters: RecordTable<QueueWaiter>
    private var sessions: RecordTable<QueueSession>
    private var grants: RecordTable<QueueGrant>
    private var ready: RecordTree
    private var dead: RecordTree
    /// Those that have nothing here any more, and had; known once all is written.
    package private(set) var sessionsLeft: [SessionID] = []

    package init(_ key: ObjectKey, _ head: Head) {
        self.key = key
        state = head
        prefix = RecordPrefix(key.record(1, head.generation))
        items = RecordTable(prefix.kind(1))
        waiters = RecordTable(RecordPrefix(key.record(2)))
        sessions = RecordTable(RecordPrefix(key.record(3)))
        grants = RecordTable(prefix.kind(7))
        ready = RecordTree(sorted: head.ready, nodes: prefix.kind(3))
        dead = RecordTree(sorted: head.dead, nodes: prefix.kind(4))
    }

    private func withRoots() -> Head {
        var head = state
        (head.ready, head.dead) = (ready.root, dead.root)
        return head
    }

    package var deliveriesMax: UInt32 {
        get { state.deliveriesMax }
        set { state.deliveriesMax = newValue }
    }

    /// Writes all that has changed.
    ///
    /// - Returns: the head to keep.
    package mutating func flush(into space: inout some RecordSpace) throws -> Head {
        sessionsLeft = sessions.removed.map { SessionID($0) }
        try items.flush(into: &space)
        try grants.flush(into: &space)
        try waiters.flush(into: &space)
        try sessions.flush(into: &space)
        try ready.flush(into: &space)
        try dead.flush(into: &space)
        return head
    }
}

// MARK: - Pushing, taking, giving back

extension ObjectQueue {
    /// Adds items: `pushesMax` at most. Those that are ready go to who waits.
    package mutating func push(
        _ pushes: [Push], in space: inout some QueueSpace
    ) throws -> (pushed: [Pushed], events: [WaiterEvent]) {
        guard pushes.count <= Self.pushesMax else { throw Failure.tooMany(max: Self.pushesMax) }
        var bytes = 0
        for push in pushes {
            guard push.value.count <= ObjectLimits.valueBytesMax else {
                throw Failure.valueTooLarge(max: ObjectLimits.valueBytesMax)
            }
            bytes += push.value.count
            if push.delayMillis > 0 { try check(push.delayMillis) }
            guard let id = push.id else { continue }
            try check(push.windowMillis)
            guard (1...Self.idBytesMax).contains(id.count) else { throw Failure.badID(max: Self.idBytesMax) }
        }
        guard bytes <= Self.pushedBytesMax else { throw Failure.valuesTooLarge(max: Self.pushedBytesMax) }
        guard state.nextItem <= 1 << 56 - UInt64(pushes.count) else { throw Failure.exhausted }
        var pushed: [Pushed] = []
        let named = pushes.compactMap(\.id)
        var before: [Bytes: UInt64] = [:]
        let found = named.isEmpty ? [] : try space.values(of: named.map { duplicates.record($0) })
        for (id, found) in zip(named, found) {
            guard let found else { continue }
            var reader = ByteReader(found)
            before[id] = try reader.read()
        }
        for push in pushes {
            if let id = push.id, let item = before[id] {
                pushed.append(Pushed(item: item, isNew: false))
                continue
            }
            let number = state.nextItem
            state.nextItem += 1
            var item = QueueItem(priority: push.priority, bytes: UInt32(push.value.count))
            if push.value.count <= Self.inlineBytesMax {
                item.value = push.value
            } else {
                try space.set(values.record(number), to: push.value)
            }
            if let id = push.id {
                before[id] = number
                var writer = ByteWriter(capacity: 8)
                writer.write(number)
                try space.set(duplicates.record(id), to: writer.take())
                try space.set(ids.record(number), to: id)
                _ = try space.schedule(QueueTimer(.duplicate, number), afterMillis: push.windowMillis)
            }
            try place(number, &item, delay: push.delayMillis, in: &space)
            items.add(number, item)
            pushed.append(Pushed(item: number, isNew: true))
        }
        return (pushed, try serve(in: &space))
    }

    /// Takes what is ready, up to `count` (`takesMax` at most): it comes back unless it is acknowledged within
    /// `visibilityMillis`. Who gets nothing waits for `waitMillis`, if that is not 0, and is told by a `WaiterEvent`.
    ///
    /// - Parameter session: has `inFlightMax` items at most, which come back when it ends; `.none`: nobody's.
    package mutating func take(
        _ count: Int, visibilityMillis: UInt64, session: SessionID, waitMillis: UInt64 = 0,
        in space: inout some QueueSpace
    ) throws -> Taken {
        guard (1...Self.takesMax).contains(count) else { throw Failure.tooMany(max: Self.takesMax) }
        try check(visibilityMillis)
        if waitMillis > 0 { try check(waitMillis) }
        guard session != .none || waitMillis <= Self.nobodysWaitMillisMax else {
            throw Failure.badTime(max: Self.nobodysWaitMillisMax)
        }
        var taken = Taken()
        let room = session == .none ? count : Self.inFlightMax - (try of(session, in: &space).items.count)
        if room < count { taken.stop = .sessionFull }
        guard room > 0 else { return taken }
        let (chosen, isCut) = try chooseReady(min(room, count), in: &space)
        if isCut { taken.stop = .bytes }
        let found = try contents(of: chosen, in: &space)
        for (number, value) in zip(chosen, found) {
            taken.deliveries.append(
                try deliver(number, value, visibilityMillis, session, in: &space))
        }
        if chosen.isEmpty { taken.stop = nil }
        if chosen.isEmpty, waitMillis > 0 {
            taken.ticket = try wait(for: min(room, count), visibilityMillis, session, waitMillis, in: &space)
        }
        return taken
    }

    /// Takes what is ready for good: it never comes back.
    package mutating func takeAndAck(_ count: Int, in space: inout some QueueSpace) throws -> Taken {
        guard (1...Self.takesMax).contains(count) else { throw Failure.tooMany(max: Self.takesMax) }
        let (chosen, isCut) = try chooseReady(count, in: &space)
        let found = try contents(of: chosen, in: &space)
        var taken = Taken(stop: isCut ? .bytes : nil)
        for (number, value) in zip(chosen, found) {
            let item = try known(number, in: &space)
            _ = try ready.remove(key: item.key(number), in: &space)
            try forget(number, item, in: &space)
            taken.deliveries.append(item.delivery(number, value, deliveries: item.attempts &+ 1))
        }
        return taken
    }

    /// The item is done, and gone.
    package mutating func ack(_ receipt: Receipt, in space: inout some QueueSpace) throws {
        let item = try inFlight(receipt, in: &space)
        try space.cancel(item.timer)
        try leaveFlight(receipt.item, item, in: &space)
        try forget(receipt.item, item, in: &space)
    }

    /// Gives an item back, to be ready after a time. If it was delivered too often it is dead.
    package mutating func nack(
        _ receipt: Receipt, delayMillis: UInt64 = 0, in space: inout some QueueSpace
    ) throws -> [WaiterEvent] {
        if delayMillis > 0 { try check(delayMillis) }
        try refuse(receipt, delay: delayMillis, in: &space)
        return try serve(in: &space)
    }

    /// Keeps an item for so long from now on.
    package mutating func extend(
        _ receipt: Receipt, visibilityMillis: UInt64, in space: inout some QueueSpace
    ) throws {
        try check(visibilityMillis)
        var item = try inFlight(receipt, in: &space)
        try space.cancel(item.timer)
        try item.schedule(receipt.item, after: visibilityMillis, in: &space)
        items.set(receipt.item, to: item)
    }

    /// A timer's time has come. One whose item has gone on does nothing.
    package mutating func fire(_ timer: QueueTimer, in space: inout some QueueSpace) throws -> [WaiterEvent] {
        var events: [WaiterEvent] = []
        switch timer.kind {
        case .item:
            guard var item = try items.value(of: timer.number, in: &space), item.turn == timer.turn else { break }
            if item.state == .inFlight {
                try giveBack(timer.number, item, .timedOut, delay: 0, in: &space)
            } else if item.state == .delayed {
                guard state.delayed > 0 else { throw RecordDamage(timer.number, "delayed, and no item is") }
                state.delayed -= 1
                try place(timer.number, &item, delay: 0, in: &space)
                items.set(timer.number, to: item)
            }
        case .waiter:
            guard let waiter = try waiters.value(of: timer.number, in: &space) else { break }
            try leave(timer.number, waiter, in: &space)
            events.append(.timedOut(ticket: timer.number, session: waiter.session))
        case .duplicate:
            guard let id = try space.value(of: ids.record(timer.number)) else { break }
            try space.remove(ids.record(timer.number))
            try space.remove(duplicates.record(id))
        }
        return events + (try serve(in: &space))
    }

    /// A session has ended: it waits no longer, and what it has in flight comes back, `limit` items by each call, `servesMax` at most.
    ///
    /// - Returns: `hasMore`: call it again.
    package mutating func end(
        _ session: SessionID, limit: Int = ObjectQueue.servesMax, in space: inout some QueueSpace
    ) throws -> (events: [WaiterEvent], hasMore: Bool) {
        guard session != .none else { return ([], false) }
        var events: [WaiterEvent] = []
        for ticket in try of(session, in: &space).tickets {
            guard let waiter = try waiters.value(of: ticket, in: &space) else {
                throw RecordDamage(ticket, "a session's waiter is not there")
            }
            try space.cancel(waiter.timer)
            try leave(ticket, waiter, in: &space)
            events.append(.cancelled(ticket: ticket, session: session))
        }
        let numbers = Array(try of(session, in: &space).items.prefix(min(limit, Self.servesMax)))
        try prepare(numbers, in: &space)
        for number in numbers {
            let item = try known(number, in: &space)
            try space.cancel(item.timer)
            try giveBack(number, item, .sessionEnded, delay: 0, in: &space)
        }
        let mine = try of(session, in: &space)
        // It may have nothing but items of before a `clear`.
        keep(mine, of: session)
        return (events + (try serve(in: &space)), !mine.items.isEmpty)
    }

    /// Hands what is ready to who waits: `servesMax` items at most. All that makes items ready does it too.
    package mutating func serve(in space: inout some QueueSpace) throws -> [WaiterEvent] {
        var events: [WaiterEvent] = []
        var rest = Self.servesMax
        while rest > 0, state.waiters > 0, ready.count > 0 {
            let ticket = state.firstWaiter
            guard let waiter = try waiters.value(of: ticket, in: &space) else {
                throw RecordDamage(ticket, "the first waiter is not there")
            }
            try space.cancel(waiter.timer)
            try leave(ticket, waiter, in: &space)
            var room = Int(waiter.wanted)
            if waiter.session != .none {
                room = min(room, Self.inFlightMax - (try of(waiter.session, in: &space).items.count))
            }
            guard room > 0 else {
                events.append(.sessionFull(ticket: ticket, session: waiter.session))
                rest -= 1
                continue
            }
            var deliveries: [Delivery] = []
            for key in try ready.entries(from: 0, limit: min(room, rest), in: &space) {
                let number = QueueItem.number(key)
                let value = try known(number, in: &space).value
                deliveries.append(
                    try deliver(
                        number, value, waiter.visibilityMillis, waiter.session, ticket: ticket, in: &space))
            }
            grants.add(ticket, QueueGrant(items: deliveries.map(\.receipt.item)))
            rest -= max(deliveries.count, 1)
            events.append(.delivered(ticket: ticket, session: waiter.session, deliveries))
        }
        return events
    }
}

// MARK: - Looking, dead items, all items

extension ObjectQueue {
    package mutating func value(of receipt: Receipt, in space: inout some RecordReading) throws -> Bytes {
        _ = try inFlight(receipt, in: &space)
        return try contents(of: [receipt.item], in: &space).first ?? Bytes()
    }

    /// Items that are ready, in the order in which they are taken: `limit` and `pageItemsMax` at most.
    ///
    /// - Parameter after: a page's `next`; nil: from the beginning.
    package mutating func page(
        after: UInt64? = nil, limit: Int, in space: inout some RecordReading
    ) throws -> Page {
        let limit = min(limit, Self.pageItemsMax)
        let keys =
            try after.map { try ready.entries(above: $0, limit: limit, in: &space) }
            ?? ready.entries(from: 0, limit: limit, in: &space)
        let items = try look(at: keys.map(QueueItem.number), in: &space)
        let last = items.isEmpty ? nil : keys[items.count - 1]
        return Page(items: items, next: try last.flatMap { try ready.first(above: $0, in: &space) == nil ? nil : $0 })
    }

    /// Dead items, in the order in which they were pushed.
    ///
    /// - Parameter after: a page's `next`; nil: from the beginning.
    package mutating func deadPage(
        after: UInt64? = nil, limit: Int, in space: inout some RecordReading
    ) throws -> Page {
        let numbers = try dead.entries(above: after ?? 0, limit: min(limit, Self.pageItemsMax), in: &space)
        let items = try look(at: numbers, in: &space)
        return Page(
            items: items,
            next: try items.last.flatMap { try dead.first(above: $0.id, in: &space) == nil ? nil : $0.id })
    }

    /// Puts a dead item back to its place; its deliveries are counted anew.
    package mutating func requeue(_ number: UInt64, in space: inout some QueueSpace) throws -> [WaiterEvent] {
        try revive(number, in: &space)
        return try serve(in: &space)
    }

    package mutating func removeDead(_ number: UInt64, in space: inout some RecordSpace) throws {
        try forget(number, try bury(number, in: &space), in: &space)
    }

    /// Removes the first dead items, `pageItemsMax` at most.
    ///
    /// - Returns: how many.
    package mutating func purgeDead(limit: Int, in space: inout some RecordSpace) throws -> Int {
        let numbers = try dead.entries(from: 0, limit: min(limit, Self.pageItemsMax), in: &space)
        try items.load(numbers, in: &space)
        for number in numbers { try removeDead(number, in: &space) }
        return numbers.count
    }

    /// Removes all items in no time, wherever they are, and with them the ids they were pushed with; forgets what was not
    /// flushed. Who waits goes on waiting; timers of items that are gone do nothing when they come.
    ///
    /// - Returns: what the keys of the records of all items until now begin with. Somebody has to delete them.
    package mutating func clear() throws -> Bytes {
        guard state.generation < UInt64.max else { throw Failure.exhausted }
        let garbage = prefix.bytes
        var next = state
        next.generation += 1
        (next.ready, next.dead, next.delayed, next.inFlight) = (RecordTreeRoot(), RecordTreeRoot(), 0, 0)
        self = ObjectQueue(key, next)
        return garbage
    }
}

// MARK: - Several at once, and waits

extension ObjectQueue {
    /// Those that are in flight by these receipts are done: `receiptsMax` at most.
    package mutating func ack(_ receipts: [Receipt], in space: inout some QueueSpace) throws -> [Outcome] {
        try prepare(receipts, in: &space)
        var outcomes: [Outcome] = []
        for receipt in receipts {
            do {
                try ack(receipt, in: &space)
                outcomes.append(.done)
            } catch let failure as Failure { outcomes.append(try Outcome(failure)) }
        }
        return outcomes
    }

    package mutating func nack(
        _ receipts: [Receipt], delayMillis: UInt64, in space: inout some QueueSpace
    ) throws -> (outcomes: [Outcome], events: [WaiterEvent]) {
        if delayMillis > 0 { try check(delayMillis) }
        try prepare(receipts, in: &space)
        var outcomes: [Outcome] = []
        for receipt in receipts {
            do {
                try refuse(receipt, delay: delayMillis, in: &space)
                outcomes.append(.done)
            } catch let failure as Failure { outcomes.append(try Outcome(failure)) }
        }
        return (outcomes, try serve(in: &space))
    }

    package mutating func extend(
        _ receipts: [Receipt], visibilityMillis: UInt64, in space: inout some QueueSpace
    ) throws -> [Outcome] {
        try check(visibilityMillis)
        try prepare(receipts, in: &space)
        var outcomes: [Outcome] = []
        for receipt in receipts {
            do {
                try extend(receipt, visibilityMillis: visibilityMillis, in: &space)
                outcomes.append(.done)
            } catch let failure as Failure { outcomes.append(try Outcome(failure)) }
        }
        return outcomes
    }

    /// Puts dead items back to their places, or removes them: `receiptsMax` at most.
    package mutating func requeue(
        _ numbers: [UInt64], in space: inout some QueueSpace
    ) throws -> (outcomes: [Outcome], events: [WaiterEvent]) {
        let outcomes = try eachDead(numbers, in: &space) { queue, number, space in
            try queue.revive(number, in: &space)
        }
        return (outcomes, try serve(in: &space))
    }

    package mutating func removeDead(_ numbers: [UInt64], in space: inout some QueueSpace) throws -> [Outcome] {
        try eachDead(numbers, in: &space) { queue, number, space in try queue.removeDead(number, in: &space) }
    }

    private mutating func eachDead<Space: QueueSpace>(
        _ numbers: [UInt64], in space: inout Space, _ body: (inout ObjectQueue, UInt64, inout Space) throws -> Void
    ) throws -> [Outcome] {
        guard numbers.count <= Self.receiptsMax else { throw Failure.tooMany(max: Self.receiptsMax) }
        try items.load(numbers, in: &space)
        var outcomes: [Outcome] = []
        for number in numbers {
            do {
                try body(&self, number, &space)
                outcomes.append(.done)
            } catch let failure as Failure { outcomes.append(try Outcome(failure)) }
        }
        return outcomes
    }

    private mutating func prepare(_ receipts: [Receipt], in space: inout some QueueSpace) throws {
        guard receipts.count <= Self.receiptsMax else { throw Failure.tooMany(max: Self.receiptsMax) }
        try prepare(receipts.map(\.item), in: &space)
    }

    /// Items that are to be given back, with their timers, in few goes.
    private mutating func prepare(_ numbers: [UInt64], in space: inout some QueueSpace) throws {
        try items.load(numbers, in: &space)
        var timers: [Bytes] = []
        for number in numbers {
            guard let item = try items.value(of: number, in: &space), item.state == .inFlight else { continue }
            timers.append(item.timer)
        }
        try space.prepare(cancelling: timers)
    }

    private mutating func refuse(_ receipt: Receipt, delay: UInt64, in space: inout some QueueSpace) throws {
        let item = try inFlight(receipt, in: &space)
        try space.cancel(item.timer)
        try giveBack(receipt.item, item, .refused, delay: delay, in: &space)
    }

    private mutating func revive(_ number: UInt64, in space: inout some QueueSpace) throws {
        var item = try bury(number, in: &space)
        (item.attempts, item.reason) = (0, .none)
        try place(number, &item, delay: 0, in: &space)
        items.set(number, to: item)
    }

    /// Ends a wait. What it has got, and still has in flight, comes back as if it had not been delivered: nobody has
    /// seen it.
    ///
    /// - Parameter session: the caller's: others' waits stay as they are, but for nobody's.
    /// - Returns: `wasThere`: it waited, or had something.
    package mutating func cancelWait(
        _ ticket: UInt64, session: SessionID, in space: inout some QueueSpace
    ) throws -> (wasThere: Bool, events: [WaiterEvent]) {
        if let waiter = try waiters.value(of: ticket, in: &space) {
            guard waiter.session == .none || waiter.session == session else { return (false, []) }
            try space.cancel(waiter.timer)
            try leave(ticket, waiter, in: &space)
            return (true, [.cancelled(ticket: ticket, session: waiter.session)])
        }
        guard let grant = try grants.value(of: ticket, in: &space) else { return (false, []) }
        try prepare(grant.items, in: &space)
        for number in grant.items {
            var item = try known(number, in: &space)
            guard item.session == .none || item.session == session else { return (false, []) }
            try space.cancel(item.timer)
            if item.attempts > 0 { item.attempts -= 1 }
            try giveBack(number, item, item.reason, delay: 0, in: &space)
        }
        return (true, try serve(in: &space))
    }

    /// How a wait stands, for who missed what was told of it.
    package mutating func state(
        ofTicket ticket: UInt64, in space: inout some RecordReading
    ) throws -> TicketState {
        guard try waiters.value(of: ticket, in: &space) == nil else { return .waiting }
        guard let grant = try grants.value(of: ticket, in: &space) else { return .over }
        // Those whose values would make the answer too large go without.
        let fitting = try fitting(grant.items, in: &space)
        let values = try contents(of: fitting, in: &space)
        var deliveries: [Delivery] = []
        for (place, number) in grant.items.enumerated() {
            let item = try known(number, in: &space)
            deliveries.append(
                item.delivery(number, place < values.count ? values[place] : nil, deliveries: item.attempts))
        }
        return .delivered(deliveries)
    }
}

// MARK: - Inside

extension ObjectQueue {
    private var values: RecordPrefix { prefix.kind(2) }
    private var duplicates: RecordPrefix { prefix.kind(5) }
    private var ids: RecordPrefix { prefix.kind(6) }

    private func check(_ millis: UInt64) throws {
        guard (1...Self.timeMillisMax).contains(millis) else { throw Failure.badTime(max: Self.timeMillisMax) }
    }

    private mutating func known(_ number: UInt64, in space: inout some RecordReading) throws -> QueueItem {
        guard let item = try items.value(of: number, in: &space) else {
            throw RecordDamage(number, "an item that is counted is not there")
        }
        return item
    }

    private mutating func inFlight(_ receipt: Receipt, in space: inout some RecordReading) throws -> QueueItem {
        guard let item = try items.value(of: receipt.item, in: &space) else { throw Failure.noItem }
        guard item.state == .inFlight, item.delivery == receipt.delivery || isPlanted("late-word-believed") else {
            throw Failure.staleReceipt
        }
        return item
    }

    /// The first that are ready and whose values fit into an answer.
    private mutating func chooseReady(
        _ count: Int, in space: inout some RecordReading
    ) throws -> (numbers: [UInt64], isCut: Bool) {
        let keys = try ready.entries(from: 0, limit: count, in: &space)
        do {
            let numbers = try fitting(keys.map(QueueItem.number), in: &space)
            return (numbers, numbers.count < keys.count)
        } catch {
            // Who takes behind it takes what stands behind that. The leaf has been read.
            let behind = keys.isEmpty ? [] : try? ready.leaf(from: UInt64(keys.count - 1), in: &space).dropFirst()
            space.fetch(along: (behind ?? []).map { items.prefix.record(QueueItem.number($0)) })
            throw error
        }
    }

    private mutating func fitting(_ numbers: [UInt64], in space: inout some RecordReading) throws -> [UInt64] {
        try items.load(numbers, in: &space)
        var bytes = 0
        for (place, number) in numbers.enumerated() {
            bytes += Int(try known(number, in: &space).bytes)
            if place > 0, bytes > Self.answerBytesMax { return Array(numbers[..<place]) }
        }
        return numbers
    }

    /// Values of items, in one go.
    private mutating func contents(of numbers: [UInt64], in space: inout some RecordReading) throws -> [Bytes] {
        var found: [Bytes] = []
        var large: [Int] = []
        for (place, number) in numbers.enumerated() {
            let value = try known(number, in: &space).value
            if value == nil { large.append(place) }
            found.append(value ?? Bytes())
        }
        guard !large.isEmpty else { return found }
        for (place, value) in zip(large, try space.values(of: large.map { values.record(numbers[$0]) })) {
            guard let value else { throw RecordDamage(numbers[place], "its value is not there") }
            found[place] = value
        }
        return found
    }

    private mutating func look(at numbers: [UInt64], in space: inout some RecordReading) throws -> [Item] {
        let numbers = try fitting(numbers, in: &space)
        var found: [Item] = []
        for (number, value) in zip(numbers, try contents(of: numbers, in: &space)) {
            let item = try known(number, in: &space)
            found.append(
                Item(
                    id: number, priority: item.priority, deliveries: item.attempts, value: value, reason: item.reason))
        }
        return found
    }

    /// An item that is nowhere: ready, or delayed.
    private mutating func place(
        _ number: UInt64, _ item: inout QueueItem, delay: UInt64, in space: inout some QueueSpace
    ) throws {
        (item.session, item.ticket) = (.none, 0)
        guard delay == 0 else {
            item.state = .delayed
            state.delayed += 1
            try item.schedule(number, after: delay, in: &space)
            return
        }
        item.state = .ready
        (item.turn, item.timer) = (item.turn &+ 1, Bytes())
        guard try ready.insert(item.key(number), in: &space) else {
            throw RecordDamage(number, "an item is ready already")
        }
    }

    private mutating func deliver(
        _ number: UInt64, _ value: Bytes?, _ visibilityMillis: UInt64, _ session: SessionID, ticket: UInt64 = 0,
        in space: inout some QueueSpace
    ) throws -> Delivery {
        var item = try known(number, in: &space)
        guard item.state == .ready, try ready.remove(key: item.key(number), in: &space) else {
            throw RecordDamage(number, "an item among the ready ones is not ready")
        }
        item.state = .inFlight
        item.delivery &+= 1
        if item.attempts < UInt32.max { item.attempts += 1 }
        (item.session, item.ticket) = (session, ticket)
        try item.schedule(number, after: visibilityMillis, in: &space)
        items.set(number, to: item)
        state.inFlight += 1
        if session != .none {
            var mine = try of(session, in: &space)
            mine.items.append(number)
            keep(mine, of: session)
        }
        return item.delivery(number, value, deliveries: item.attempts)
    }

    private mutating func leaveFlight(
        _ number: UInt64, _ item: QueueItem, in space: inout some RecordReading
    ) throws {
        guard state.inFlight > 0 else { throw RecordDamage(number, "in flight, and no item is") }
        state.inFlight -= 1
        if item.ticket != 0 {
            guard var grant = try grants.value(of: item.ticket, in: &space),
                let place = grant.items.firstIndex(of: number)
            else { throw RecordDamage(number, "the wait that got it does not have it") }
            grant.items.remove(at: place)
            if grant.items.isEmpty { grants.remove(item.ticket) } else { grants.set(item.ticket, to: grant) }
        }
        guard item.session != .none else { return }
        var mine = try of(item.session, in: &space)
        guard let place = mine.items.firstIndex(of: number) else {
            throw RecordDamage(number, "its session does not have it")
        }
        mine.items.remove(at: place)
        keep(mine, of: item.session)
    }

    private mutating func giveBack(
        _ number: UInt64, _ old: QueueItem, _ reason: Item.Reason, delay: UInt64, in space: inout some QueueSpace
    ) throws {
        var item = old
        try leaveFlight(number, item, in: &space)
        item.reason = reason
        if state.deliveriesMax > 0, item.attempts >= state.deliveriesMax {
            item.state = .dead
            (item.session, item.ticket, item.turn, item.timer) = (.none, 0, item.turn &+ 1, Bytes())
            guard try dead.insert(number, in: &space) else { throw RecordDamage(number, "an item is dead already") }
        } else {
            try place(number, &item, delay: delay, in: &space)
        }
        items.set(number, to: item)
    }

    private mutating func bury(_ number: UInt64, in space: inout some RecordReading) throws -> QueueItem {
        guard let item = try items.value(of: number, in: &space) else { throw Failure.noItem }
        guard item.state == .dead else { throw Failure.notDead }
        guard try dead.remove(key: number, in: &space) else { throw RecordDamage(number, "it is not among the dead") }
        return item
    }

    private mutating func forget(_ number: UInt64, _ item: QueueItem, in space: inout some RecordSpace) throws {
        items.remove(number)
        if item.value == nil { try space.remove(values.record(number)) }
    }

    /// What a session has here; nothing at first.
    private mutating func of(_ session: SessionID, in space: inout some RecordReading) throws -> QueueSession {
        var mine = try sessions.value(of: session.rawValue, in: &space) ?? QueueSession()
        // Of before a `clear`.
        if mine.generation != state.generation { mine.items = [] }
        mine.generation = state.generation
        return mine
    }

    private mutating func keep(_ mine: QueueSession, of session: SessionID) {
        if mine.items.isEmpty, mine.tickets.isEmpty {
            sessions.remove(session.rawValue)
        } else {
            sessions.set(session.rawValue, to: mine)
        }
    }

    private mutating func wait(
        for wanted: Int, _ visibilityMillis: UInt64, _ session: SessionID, _ waitMillis: UInt64,
        in space: inout some QueueSpace
    ) throws -> UInt64 {
        var mine = session == .none ? QueueSession() : try of(session, in: &space)
        guard state.waiters < Self.waitersMax else { throw Failure.tooManyWaiters(max: Self.waitersMax) }
        guard mine.tickets.count < Self.waitersPerSessionMax else {
            throw Failure.tooManyWaiters(max: Self.waitersPerSessionMax)
        }
        let ticket = state.nextTicket
        guard ticket < UInt64.max else { throw Failure.exhausted }
        if state.lastWaiter != 0 { try link(state.lastWaiter, in: &space) { $0.next = ticket } }
        waiters.add(
            ticket,
            QueueWaiter(
                session: session, wanted: UInt16(wanted), visibilityMillis: visibilityMillis,
                previous: state.lastWaiter, next: 0,
                timer: try space.schedule(QueueTimer(.waiter, ticket), afterMillis: waitMillis)))
        if state.firstWaiter == 0 { state.firstWaiter = ticket }
        state.lastWaiter = ticket
        state.waiters += 1
        state.nextTicket += 1
        if session != .none {
            mine.tickets.append(ticket)
            keep(mine, of: session)
        }
        return ticket
    }

    private mutating func link(
        _ ticket: UInt64, in space: inout some RecordReading, _ body: (inout QueueWaiter) -> Void
    ) throws {
        guard try waiters.value(of: ticket, in: &space) != nil, waiters.change(ticket, body) else {
            throw RecordDamage(ticket, "a waiter's neighbour is not there")
        }
    }

    /// Out of the list of those who wait.
    private mutating func leave(
        _ ticket: UInt64, _ waiter: QueueWaiter, in space: inout some RecordReading
    ) throws {
        guard state.waiters > 0, (waiter.previous == 0) == (state.firstWaiter == ticket),
            (waiter.next == 0) == (state.lastWaiter == ticket)
        else { throw RecordDamage(ticket, "a waiter is not where the list says") }
        if waiter.previous == 0 {
            state.firstWaiter = waiter.next
        } else {
            try link(waiter.previous, in: &space) { $0.next = waiter.next }
        }
        if waiter.next == 0 {
            state.lastWaiter = waiter.previous
        } else {
            try link(waiter.next, in: &space) { $0.previous = waiter.previous }
        }
        waiters.remove(ticket)
        state.waiters -= 1
        guard waiter.session != .none else { return }
        var mine = try of(waiter.session, in: &space)
        mine.tickets.removeAll { $0 == ticket }
        keep(mine, of: waiter.session)
    }
}
