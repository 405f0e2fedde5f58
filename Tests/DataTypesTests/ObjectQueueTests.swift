// Queues of records against a plain model, with time that the test drives.

import DataTypes
import Messages
import Primitives
import TestSupport
import Testing

/// Records, and timers in the order in which they come.
private struct TimedSpace: QueueSpace {
    struct Pending {
        var due: UInt64
        var timer: QueueTimer
        /// It was called off, and comes nevertheless: it was under way.
        var isStale = false
    }
    var base = DictionarySpace()
    var now: UInt64 = 0
    var pending: [UInt64: Pending] = [:]
    var nextHandle: UInt64 = 1
    var cancelsFail = false
    /// Handles come from whole records.
    var isSound = true
    /// Handles, by when they come.
    private var order: [(due: UInt64, handle: UInt64)] = []

    mutating func value(of key: Bytes) -> Bytes? { base.value(of: key) }
    mutating func values(of keys: [Bytes]) -> [Bytes?] { base.values(of: keys) }
    mutating func set(_ key: Bytes, to value: Bytes) { base.set(key, to: value) }
    mutating func remove(_ key: Bytes) { base.remove(key) }

    mutating func schedule(_ timer: QueueTimer, afterMillis: UInt64) throws -> Bytes {
        base.writes += 1
        pending[nextHandle] = Pending(due: now + afterMillis, timer: try QueueTimer(decoding: timer.encoded()))
        let place = order.lastIndex { $0.due <= now + afterMillis }
        order.insert((now + afterMillis, nextHandle), at: place.map { $0 + 1 } ?? 0)
        var writer = ByteWriter()
        writer.write(nextHandle)
        nextHandle += 1
        return writer.take()
    }

    mutating func cancel(_ handle: Bytes) throws {
        base.writes += 1
        var reader = ByteReader(handle)
        let number = try reader.read(UInt64.self)
        #expect(pending[number] != nil || !isSound)
        if cancelsFail { pending[number]?.isStale = true } else { pending[number] = nil }
    }

    /// The next one that is due.
    mutating func next() -> Pending? {
        while let first = order.first, first.due <= now {
            order.removeFirst()
            if let found = pending.removeValue(forKey: first.handle) { return found }
        }
        return nil
    }
}

/// What a queue is to be, with nothing but arrays.
private struct Model {
    struct Item {
        var id: UInt64
        var priority: UInt8
        var value: Bytes
        var state = "ready"
        var attempts: UInt32 = 0
        var delivery: UInt64 = 0
        var session: UInt64 = 0
        /// Of the wait that got it.
        var ticket: UInt64 = 0
        var reason = ObjectQueue.Item.Reason.none
    }
    struct Waiter {
        var ticket: UInt64
        var session: UInt64
        var wanted: Int
    }
    var items: [UInt64: Item] = [:]
    /// Of those that are ready, in order.
    var ready: [UInt64] = []
    var waiters: [Waiter] = []
    var ids: [Bytes: UInt64] = [:]
    /// Of each session, in the order in which it got them.
    var flights: [UInt64: [UInt64]] = [:]
    var deliveriesMax: UInt32
    var nextItem: UInt64 = 1
    var nextTicket: UInt64 = 1

    func count(_ state: String) -> UInt64 { UInt64(items.values.count { $0.state == state }) }
    func all(_ state: String) -> [UInt64] { items.values.filter { $0.state == state }.map(\.id).sorted() }

    /// Those that have something in flight.
    var tickets: Set<UInt64> { Set(items.values.map(\.ticket)).subtracting([0]) }

    mutating func makeReady(_ id: UInt64) {
        items[id]!.state = "ready"
        items[id]!.session = 0
        items[id]!.ticket = 0
        let item = items[id]!
        var (low, high) = (0, ready.count)
        while low < high {
            let middle = (low + high) / 2
            let other = items[ready[middle]]!
            let isBehind = other.priority == item.priority ? other.id > id : other.priority < item.priority
            if isBehind { high = middle } else { low = middle + 1 }
        }
        ready.insert(id, at: low)
    }

    mutating func deliver(_ count: Int, to session: UInt64, ticket: UInt64 = 0) -> [ObjectQueue.Delivery] {
        (0..<min(count, ready.count)).map { _ in
            let id = ready.removeFirst()
            items[id]!.state = "in flight"
            items[id]!.attempts += 1
            items[id]!.delivery += 1
            items[id]!.session = session
            items[id]!.ticket = ticket
            if session != 0 { flights[session, default: []].append(id) }
            let item = items[id]!
            return ObjectQueue.Delivery(
                receipt: .init(item: id, delivery: item.delivery), priority: item.priority, deliveries: item.attempts,
                valueBytes: item.value.count, value: item.value)
        }
    }

    mutating func serve() -> [ObjectQueue.WaiterEvent] {
        var events: [ObjectQueue.WaiterEvent] = []
        while !waiters.isEmpty, !ready.isEmpty {
            let waiter = waiters.removeFirst()
            let room = waiter.session == 0 ? 1_000 : 256 - flights[waiter.session, default: []].count
            let session = SessionID(waiter.session)
            if room <= 0 {
                events.append(.sessionFull(ticket: waiter.ticket, session: session))
                continue
            }
            var deliveries = deliver(min(waiter.wanted, room), to: waiter.session, ticket: waiter.ticket)
            for place in deliveries.indices where deliveries[place].valueBytes > 1_024 {
                deliveries[place].value = nil
            }
            events.append(.delivered(ticket: waiter.ticket, session: session, deliveries))
        }
        return events
    }

    mutating func land(_ id: UInt64) {
        flights[items[id]!.session]?.removeAll { $0 == id }
        items[id]!.session = 0
        items[id]!.ticket = 0
    }

    mutating func giveBack(_ id: UInt64, _ reason: ObjectQueue.Item.Reason, delay: UInt64 = 0) {
        land(id)
        items[id]!.reason = reason
        if deliveriesMax > 0, items[id]!.attempts >= deliveriesMax {
            items[id]!.state = "dead"
        } else if delay > 0 {
            items[id]!.state = "delayed"
        } else {
            makeReady(id)
        }
    }

    mutating func fire(_ timer: QueueTimer) -> [ObjectQueue.WaiterEvent] {
        var events: [ObjectQueue.WaiterEvent] = []
        switch timer.kind {
        case .item where items[timer.number]?.state == "in flight": giveBack(timer.number, .timedOut)
        case .item where items[timer.number]?.state == "delayed": makeReady(timer.number)
        case .item: break
        case .waiter:
            guard let place = waiters.firstIndex(where: { $0.ticket == timer.number }) else { break }
            let gone = waiters.remove(at: place)
            events.append(.timedOut(ticket: gone.ticket, session: SessionID(gone.session)))
        case .duplicate:
            if let id = ids.first(where: { $0.value == timer.number })?.key { ids[id] = nil }
        }
        return events + serve()
    }
}

private struct Bench {
    static let key = ObjectKey("jobs")
    var head: ObjectQueue.Head
    var space = TimedSpace()
    var cost = Cost()

    mutating func command<Result>(
        _ body: (inout ObjectQueue, inout TimedSpace) throws -> Result
    ) throws -> Result {
        space.base.beginCommand()
        var queue = ObjectQueue(Self.key, head)
        let result = try body(&queue, &space)
        let head = try queue.flush(into: &space)
        self.head = try ObjectQueue.Head(decoding: head.encoded())
        space.base.endCommand(&cost)
        #expect(
            space.base.writes <= 1_024 && space.base.writtenBytes <= 4 << 20 && space.base.reads <= 4_096
                && space.base.readBytes <= 16 << 20)
        return result
    }

    mutating func fails(
        _ failure: ObjectQueue.Failure, place: SourceLocation = #_sourceLocation,
        _ body: (inout ObjectQueue, inout TimedSpace) throws -> Void
    ) {
        let (records, timers) = (space.base.records, space.pending.count)
        #expect(throws: failure, sourceLocation: place) { try command(body) }
        #expect(space.base.records == records && space.pending.count == timers, sourceLocation: place)
    }

    /// Counts, orders, and that there is no record but those of what is there.
    mutating func expect(_ model: Model, place: SourceLocation = #_sourceLocation) throws {
        #expect(head.ready.count == UInt64(model.ready.count), sourceLocation: place)
        #expect(head.delayed == model.count("delayed"), sourceLocation: place)
        #expect(head.inFlight == model.count("in flight"), sourceLocation: place)
        #expect(head.dead.count == model.count("dead"), sourceLocation: place)
        #expect(head.waiters == UInt32(model.waiters.count), sourceLocation: place)
        let dead = model.all("dead")
        for (isDead, expected) in [(false, model.ready), (true, dead)] {
            var found: [ObjectQueue.Item] = []
            var after: UInt64?
            repeat {
                let page = try command { queue, space in
                    isDead
                        ? try queue.deadPage(after: after, limit: 100, in: &space)
                        : try queue.page(after: after, limit: 100, in: &space)
                }
                found += page.items
                after = page.next
            } while after != nil
            let items = expected.map { id in
                let item = model.items[id]!
                return ObjectQueue.Item(
                    id: id, priority: item.priority, deliveries: item.attempts, value: item.value, reason: item.reason)
            }
            #expect(found == items, sourceLocation: place)
        }
        let prefix = RecordPrefix(Self.key.record(1, head.generation))
        let trees = [
            TreeWalk(head.ready, .sorted, nodes: prefix.kind(3), in: space.base.records),
            TreeWalk(head.dead, .sorted, nodes: prefix.kind(4), in: space.base.records),
        ]
        #expect((trees[0].problems + trees[1].problems).isEmpty, sourceLocation: place)
        let sessions = Set(model.waiters.map(\.session) + model.flights.filter { !$0.value.isEmpty }.keys)
        let large = model.items.values.count { $0.value.count > 1_024 }
        let records =
            trees[0].records.count + trees[1].records.count + model.items.count + large + 2 * model.ids.count
            + model.waiters.count + sessions.subtracting([0]).count + model.tickets.count
        #expect(space.base.records.count == records, sourceLocation: place)
    }
}

@Suite(.serialized, .ownExecutor) struct ObjectQueueTests {
    @Test(arguments: 0..<8 as Range<UInt64>)
    func aQueueDoesWhatAModelDoes(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let deliveriesMax: UInt32 = seed % 2 == 0 ? 3 : 0
        var bench = Bench(head: .init(deliveriesMax: deliveriesMax))
        var model = Model(deliveriesMax: deliveriesMax)
        let priorities = seed % 3 == 0 ? 1 : 4
        var oldest: UInt64 = 1
        for step in 0..<2_600 {
            if step % 20 == 0 { oldest = model.items.keys.min() ?? 1 }
            bench.space.now += UInt64(random.below(60))
            bench.space.cancelsFail = seed >= 4 && random.isOne(of: 2)
            while let due = bench.space.next() {
                let before = due.isStale ? bench.space.base.records : [:]
                let events = try bench.command { queue, space in try queue.fire(due.timer, in: &space) }
                if due.isStale {
                    #expect(events.isEmpty && bench.space.base.records == before)
                } else {
                    #expect(events == model.fire(due.timer))
                }
            }
            let session = UInt64(random.below(5))
            let sample = oldest + UInt64(random.below(40))
            let inFlight = model.items[sample].flatMap { $0.state == "in flight" ? $0 : nil }
            let receipt = ObjectQueue.Receipt(item: sample, delivery: model.items[sample]?.delivery ?? 1)
            // Busy at times, idle at others.
            let isBusy = step / 200 % 2 == 0
            switch random.below(20) {
            case 0..<(isBusy ? 7 : 2):
                let pushes = (0..<[1, 1, 3, 64][random.below(4)]).map { number in
                    ObjectQueue.Push(
                        random.isOne(of: 12)
                            ? Bytes([UInt8](repeating: UInt8(step % 251), count: 2_000)) : Bytes("\(step) \(number)"),
                        priority: UInt8(random.below(priorities) * 50),
                        delayMillis: random.isOne(of: 4) ? UInt64(1 + random.below(2_000)) : 0,
                        id: random.isOne(of: 3) ? Bytes("id \(random.below(60))") : nil,
                        windowMillis: UInt64(1 + random.below(3_000)))
                }
                let (pushed, events) = try bench.command { queue, space in try queue.push(pushes, in: &space) }
                var expected: [ObjectQueue.Pushed] = []
                for push in pushes {
                    if let id = push.id, let old = model.ids[id] {
                        expected.append(.init(item: old, isNew: false))
                        continue
                    }
                    let id = model.nextItem
                    model.nextItem += 1
                    model.items[id] = .init(id: id, priority: push.priority, value: push.value)
                    if let name = push.id { model.ids[name] = id }
                    if push.delayMillis > 0 { model.items[id]!.state = "delayed" } else { model.makeReady(id) }
                    expected.append(.init(item: id, isNew: true))
                }
                #expect(pushed == expected)
                #expect(events == model.serve())
            case 7..<13:
                let count = [1, 2, 10, 256][random.below(4)]
                let wait = random.isOne(of: 2) ? UInt64(1 + random.below(1_500)) : 0
                let room = session == 0 ? count : min(count, 256 - model.flights[session, default: []].count)
                let mine = model.waiters.count { $0.session == session }
                if room > 0, model.ready.isEmpty, wait > 0, mine >= 16, session != 0 {
                    bench.fails(.tooManyWaiters(max: 16)) { queue, space in
                        _ = try queue.take(
                            count, visibilityMillis: 1, session: SessionID(session), waitMillis: wait, in: &space)
                    }
                    continue
                }
                let taken = try bench.command { queue, space in
                    try queue.take(
                        count, visibilityMillis: UInt64(1 + random.below(4_000)), session: SessionID(session),
                        waitMillis: wait, in: &space)
                }
                #expect(taken.deliveries == model.deliver(room, to: session))
                let isFull = room < count && (room <= 0 || !taken.deliveries.isEmpty)
                #expect((taken.stop == .sessionFull) == isFull)
                if taken.deliveries.isEmpty, wait > 0, room > 0 {
                    #expect(taken.ticket == model.nextTicket)
                    model.waiters.append(.init(ticket: model.nextTicket, session: session, wanted: room))
                    model.nextTicket += 1
                } else {
                    #expect(taken.ticket == nil)
                }
            case 13 where random.isOne(of: 3):
                let taken = try bench.command { queue, space in
                    try queue.takeAndAck(1 + random.below(20), in: &space)
                }
                var expected = model.deliver(taken.deliveries.count, to: 0)
                for place in expected.indices {
                    expected[place].receipt.delivery -= 1
                    model.items[expected[place].receipt.item] = nil
                }
                #expect(taken.deliveries == expected)
            case 14..<16:
                guard let item = inFlight else {
                    let failure: ObjectQueue.Failure = model.items[sample] == nil ? .noItem : .staleReceipt
                    bench.fails(failure) { queue, space in try queue.ack(receipt, in: &space) }
                    continue
                }
                if receipt.delivery > 1 {
                    let late = ObjectQueue.Receipt(item: sample, delivery: receipt.delivery - 1)
                    bench.fails(.staleReceipt) { queue, space in try queue.ack(late, in: &space) }
                    bench.fails(.staleReceipt) { queue, space in _ = try queue.nack(late, in: &space) }
                }
                let value = try bench.command { queue, space in try queue.value(of: receipt, in: &space) }
                #expect(value == item.value)
                try bench.command { queue, space in try queue.ack(receipt, in: &space) }
                model.land(sample)
                model.items[sample] = nil
            case 16..<18:
                guard inFlight != nil else { continue }
                let delay = random.isOne(of: 2) ? UInt64(1 + random.below(2_000)) : 0
                let events = try bench.command { queue, space in
                    try queue.nack(receipt, delayMillis: delay, in: &space)
                }
                model.giveBack(sample, .refused, delay: delay)
                #expect(events == model.serve())
            case 18:
                guard inFlight != nil else { continue }
                try bench.command { queue, space in
                    try queue.extend(receipt, visibilityMillis: UInt64(1 + random.below(4_000)), in: &space)
                }
            case 19 where random.isOne(of: 3):
                // A wait that goes on, one that got something, or one of which nothing is left.
                let ticket =
                    (random.isOne(of: 2) ? model.tickets.sorted().last : model.waiters.last?.ticket)
                    ?? model.nextTicket
                let waiter = model.waiters.first { $0.ticket == ticket }
                let has = model.items.values.filter { $0.ticket == ticket }.sorted { $0.id < $1.id }
                let state = try bench.command { queue, space in try queue.state(ofTicket: ticket, in: &space) }
                switch state {
                case .waiting: #expect(waiter != nil)
                case .over: #expect(waiter == nil && has.isEmpty)
                case .delivered(let deliveries):
                    #expect(Set(deliveries.map(\.receipt.item)) == Set(has.map(\.id)) && !has.isEmpty)
                    #expect(deliveries.allSatisfy { $0.value == model.items[$0.receipt.item]?.value })
                }
                let owner = waiter?.session ?? has.first?.session ?? 0
                if owner != 0 {
                    let (wasThere, _) = try bench.command { queue, space in
                        try queue.cancelWait(ticket, session: SessionID(owner + 1), in: &space)
                    }
                    #expect(!wasThere)
                }
                let (wasThere, events) = try bench.command { queue, space in
                    try queue.cancelWait(ticket, session: SessionID(owner), in: &space)
                }
                #expect(wasThere == (state != .over))
                if waiter != nil {
                    model.waiters.removeAll { $0.ticket == ticket }
                    #expect(events == [.cancelled(ticket: ticket, session: SessionID(owner))])
                } else {
                    for item in has {
                        let reason = item.reason
                        model.items[item.id]!.attempts -= 1
                        model.giveBack(item.id, reason)
                    }
                    #expect(events == model.serve())
                }
            case 19 where random.isOne(of: 4):
                var hasMore = true
                var gone = model.waiters.filter { $0.session == session && session != 0 }
                model.waiters.removeAll { $0.session == session && session != 0 }
                while hasMore {
                    let (events, more) = try bench.command { queue, space in
                        try queue.end(SessionID(session), in: &space)
                    }
                    let back = session == 0 ? [] : Array(model.flights[session, default: []].prefix(64))
                    for id in back { model.giveBack(id, .sessionEnded) }
                    let told = gone.map {
                        ObjectQueue.WaiterEvent.cancelled(ticket: $0.ticket, session: SessionID(session))
                    }
                    gone = []
                    #expect(events == told + model.serve())
                    hasMore = more
                    #expect(more == !model.flights[session, default: []].isEmpty)
                }
            case 19:
                if model.items[sample]?.state == "dead" {
                    if random.isOne(of: 2) {
                        let events = try bench.command { queue, space in try queue.requeue(sample, in: &space) }
                        (model.items[sample]!.attempts, model.items[sample]!.reason) = (0, .none)
                        model.makeReady(sample)
                        #expect(events == model.serve())
                    } else {
                        try bench.command { queue, space in try queue.removeDead(sample, in: &space) }
                        model.items[sample] = nil
                    }
                } else if model.items[sample] != nil {
                    bench.fails(.notDead) { queue, space in _ = try queue.requeue(sample, in: &space) }
                } else if random.isOne(of: 10) {
                    let gone = model.all("dead").prefix(30)
                    let count = try bench.command { queue, space in try queue.purgeDead(limit: 30, in: &space) }
                    #expect(count == gone.count)
                    for id in gone { model.items[id] = nil }
                }
            default: break
            }
            #expect(!bench.head.needsServing)
            if step % 1_200 == 900 {
                let garbage = try bench.command { queue, _ in try queue.clear() }
                #expect(bench.space.base.reads + bench.space.base.writes == 0)
                for key in bench.space.base.records.keys where key.count > garbage.count {
                    if key[0..<garbage.count] == garbage { bench.space.base.remove(key) }
                }
                // Sessions are told, so that they have no record left of items that are gone.
                (model.items, model.ready, model.ids, model.flights) = ([:], [], [:], [:])
                model.waiters = model.waiters.filter { $0.session == 0 }
                for session in 1..<5 as Range<UInt64> {
                    _ = try bench.command { queue, space in try queue.end(SessionID(session), in: &space) }
                }
                for handle in bench.space.pending.keys where bench.space.pending[handle]?.timer.kind != .waiter {
                    bench.space.pending[handle]?.isStale = true
                }
            }
            if step % 150 == 0 { try bench.expect(model) }
        }
        try bench.expect(model)
    }

    @Test func oneThatComesBackHasItsOldPlace() throws {
        var bench = Bench(head: .init(deliveriesMax: 3))
        _ = try bench.command { queue, space in
            try queue.push(
                [.init("low", priority: 1), .init("a"), .init("b"), .init("high", priority: 200), .init("c")],
                in: &space)
        }
        func take(_ count: Int) throws -> [ObjectQueue.Delivery] {
            try bench.command { queue, space in
                try queue.take(count, visibilityMillis: 1_000, session: SessionID(7), in: &space).deliveries
            }
        }
        let first = try take(3)
        #expect(first.map(\.value) == ["high", "a", "b"])
        _ = try bench.command { queue, space in try queue.nack(first[1].receipt, in: &space) }
        let again = try take(1)
        #expect(again.map(\.value) == ["a"] && again[0].receipt.delivery == 2)
        // A late word about the first delivery.
        bench.fails(.staleReceipt) { queue, space in try queue.ack(first[1].receipt, in: &space) }
        _ = try bench.command { queue, space in try queue.end(SessionID(7), in: &space) }
        #expect(try take(9).map(\.value) == ["high", "a", "b", "c", "low"])
        bench.space.now += 1_000
        while let due = bench.space.next() {
            _ = try bench.command { queue, space in try queue.fire(due.timer, in: &space) }
        }
        // The third delivery of `a` was its last one.
        let dead = try bench.command { queue, space in try queue.deadPage(limit: 9, in: &space) }
        #expect(dead.items.map(\.value) == ["a"] && dead.items[0].reason == .timedOut)
        #expect(try take(9).map(\.value) == ["high", "b", "c", "low"])
    }

    @Test func aSessionHasABound() throws {
        var bench = Bench(head: .init())
        for _ in 0..<10 {
            _ = try bench.command { queue, space in
                try queue.push([ObjectQueue.Push](repeating: .init("x"), count: 64), in: &space)
            }
        }
        func take(_ count: Int, wait: UInt64 = 0) throws -> ObjectQueue.Taken {
            try bench.command { queue, space in
                try queue.take(
                    count, visibilityMillis: 60_000, session: SessionID(7), waitMillis: wait, in: &space)
            }
        }
        #expect(try take(200).deliveries.count == 200)
        let rest = try take(200)
        #expect(rest.deliveries.count == 56 && rest.stop == .sessionFull)
        let none = try take(1, wait: 5)
        #expect(none.deliveries.isEmpty && none.stop == .sessionFull && none.ticket == nil)
        let ended = (0..<4).map { _ in
            (try? bench.command { queue, space in try queue.end(SessionID(7), in: &space).hasMore }) ?? true
        }
        #expect(ended == [true, true, true, false])
        #expect(bench.head.ready.count == 640 && bench.head.inFlight == 0)
    }

    @Test func waitersAreServedInTurn() throws {
        var bench = Bench(head: .init())
        func wait(_ session: UInt64, _ count: Int = 1) throws -> UInt64? {
            try bench.command { queue, space in
                try queue.take(
                    count, visibilityMillis: 60_000, session: SessionID(session), waitMillis: 1_000, in: &space
                ).ticket
            }
        }
        func push(_ count: Int) throws -> [ObjectQueue.WaiterEvent] {
            try bench.command { queue, space in
                try queue.push([ObjectQueue.Push](repeating: .init("x"), count: count), in: &space).events
            }
        }
        // A session that has room for one more waits for 16, others behind it.
        for _ in 0..<5 { _ = try push(51) }
        _ = try bench.command { queue, space in
            try queue.take(255, visibilityMillis: 60_000, session: SessionID(7), in: &space)
        }
        for ticket in 1...16 as ClosedRange<UInt64> { #expect(try wait(7) == ticket) }
        bench.fails(.tooManyWaiters(max: 16)) { queue, space in
            _ = try queue.take(1, visibilityMillis: 1, session: SessionID(7), waitMillis: 1, in: &space)
        }
        for ticket in 17...100 as ClosedRange<UInt64> { #expect(try wait(ticket, 3) == ticket) }
        // Their time runs out, first, last, and in between.
        for ticket in [17, 40, 41, 100] as [UInt64] {
            let timer = bench.space.pending.values.first { $0.timer.kind == .waiter && $0.timer.number == ticket }!
                .timer
            let events = try bench.command { queue, space in try queue.fire(timer, in: &space) }
            #expect(events == [.timedOut(ticket: ticket, session: SessionID(ticket))])
        }
        _ = try bench.command { queue, space in try queue.end(SessionID(18), in: &space) }
        // No command hands over more than its bound; the next goes on.
        let first = try push(60)
        let second = try push(64)
        #expect(bench.head.needsServing)
        let third = try bench.command { queue, space in try queue.serve(in: &space) }
        #expect(!bench.head.needsServing)
        var (tickets, full): ([UInt64], [UInt64]) = ([], [])
        for event in first + second + third {
            switch event {
            case .delivered(let ticket, _, let items):
                tickets.append(ticket)
                #expect(items.count <= 3 && !items.isEmpty)
            case .sessionFull(let ticket, let session):
                full.append(ticket)
                #expect(session == SessionID(7))
            case .timedOut, .cancelled: Issue.record("nobody's time was over")
            }
        }
        #expect(full == Array(2...16))
        #expect(tickets == [1] + (19...tickets.last!).filter { ![40, 41].contains($0) })
    }

    @Test func boundsAreFailures() throws {
        var bench = Bench(head: .init())
        let large = Bytes([UInt8](repeating: 1, count: 700_000))
        bench.fails(.tooMany(max: 64)) { queue, space in
            _ = try queue.push([ObjectQueue.Push](repeating: .init("x"), count: 65), in: &space)
        }
        bench.fails(.valuesTooLarge(max: 3 << 20)) { queue, space in
            _ = try queue.push([ObjectQueue.Push](repeating: .init(large), count: 5), in: &space)
        }
        bench.fails(.badID(max: 256)) { queue, space in _ = try queue.push([.init("x", id: "")], in: &space) }
        bench.fails(.badTime(max: 1 << 40)) { queue, space in
            _ = try queue.push([.init("x", delayMillis: UInt64.max)], in: &space)
        }
        bench.fails(.badTime(max: 1 << 40)) { queue, space in
            _ = try queue.take(1, visibilityMillis: 0, session: .none, in: &space)
        }
        bench.fails(.tooMany(max: 256)) { queue, space in
            _ = try queue.take(257, visibilityMillis: 1, session: .none, in: &space)
        }
        // An answer ends where it becomes too large.
        _ = try bench.command { queue, space in
            try queue.push([ObjectQueue.Push](repeating: .init(large), count: 3), in: &space)
        }
        let taken = try bench.command { queue, space in
            try queue.take(3, visibilityMillis: 1, session: .none, in: &space)
        }
        #expect(taken.deliveries.count == 1 && taken.deliveries[0].value == large && taken.stop == .bytes)
        let page = try bench.command { queue, space in try queue.page(limit: 9, in: &space) }
        #expect(page.items.count == 1 && page.next != nil)
    }

    @Test func damagedRecordsAreErrors() throws {
        var bench = Bench(head: .init(deliveriesMax: 1))
        _ = try bench.command { queue, space in
            try queue.push((0..<60).map { .init(Bytes("\($0)"), priority: UInt8($0), id: Bytes("\($0)")) }, in: &space)
        }
        let taken = try bench.command { queue, space in
            try queue.take(20, visibilityMillis: 1_000, session: SessionID(3), in: &space).deliveries
        }
        _ = try bench.command { queue, space in try queue.nack(taken[0].receipt, in: &space) }
        var random = SeededRandom(seed: 2)
        var errors = 0
        for key in bench.space.base.records.keys.sorted() {
            for round in 0..<30 {
                var damaged = bench
                damaged.space.isSound = false
                var bytes = damaged.space.base.records[key]!.array
                bytes[random.below(bytes.count)] = UInt8(random.below(256))
                damaged.space.base.records[key] =
                    round == 0 ? nil : Bytes(round == 1 ? Array(bytes.prefix(random.below(bytes.count))) : bytes)
                func attempt(_ body: (inout ObjectQueue, inout TimedSpace) throws -> Void) {
                    do { try damaged.command(body) } catch {
                        #expect(error is RecordDamage || error is DecodingFailure || error is ObjectQueue.Failure)
                        errors += 1
                    }
                }
                attempt { _ = try $0.page(limit: 100, in: &$1) }
                attempt { _ = try $0.take(5, visibilityMillis: 9, session: SessionID(3), in: &$1) }
                attempt { try $0.ack(taken[1].receipt, in: &$1) }
                attempt { _ = try $0.end(SessionID(3), in: &$1) }
                attempt { _ = try $0.requeue(taken[0].receipt.item, in: &$1) }
                attempt { _ = try $0.takeAndAck(256, in: &$1) }
            }
        }
        #expect(errors > 1_000)
        let head = bench.head.encoded().array
        for place in head.indices {
            for bit in 0..<8 {
                var bytes = head
                bytes[place] ^= 1 << bit
                guard let head = try? ObjectQueue.Head(decoding: Bytes(bytes)) else { continue }
                var damaged = bench
                damaged.space.isSound = false
                damaged.head = head
                _ = try? damaged.command { try $0.push([.init("x", delayMillis: 5), .init("y")], in: &$1) }
                damaged.head = head
                _ = try? damaged.command { try $0.take(50, visibilityMillis: 1, session: .none, in: &$1) }
                damaged.head = head
                _ = try? damaged.command { try $0.end(SessionID(3), in: &$1) }
            }
        }
    }

    /// What is read and written by one operation on a queue of 100,000 items.
    @Test func operationsOnManyItems() throws {
        var bench = Bench(head: .init())
        var random = SeededRandom(seed: 4)
        func pushes(_ count: Int) -> [ObjectQueue.Push] {
            (0..<count).map { .init(Bytes("item \($0)"), priority: UInt8(random.below(10))) }
        }
        while bench.head.ready.count < 100_000 {
            let pushes = pushes(64)
            _ = try bench.command { queue, space in try queue.push(pushes, in: &space) }
        }
        func measure<Result>(
            _ name: String, _ rounds: Int, reads: Int, waits: Int, writes: Int,
            _ body: (inout ObjectQueue, inout TimedSpace, Int) throws -> Result
        ) throws -> [Result] {
            bench.cost = Cost()
            let results = try (0..<rounds).map { round in try bench.command { try body(&$0, &$1, round) } }
            print("\(name): \(bench.cost)")
            #expect(bench.cost.reads <= reads && bench.cost.rounds <= waits && bench.cost.writes <= writes)
            return results
        }
        let one = pushes(1)
        let many = pushes(64)
        _ = try measure("push", 2_000, reads: 5, waits: 5, writes: 12) { queue, space, _ in
            try queue.push(one, in: &space)
        }
        _ = try measure("push 64", 200, reads: 160, waits: 160, writes: 300) { queue, space, _ in
            try queue.push(many, in: &space)
        }
        let taken = try measure("take", 1_000, reads: 7, waits: 7, writes: 9) {
            try $0.take(1, visibilityMillis: 1_000, session: SessionID(UInt64(1 + $2 / 200)), in: &$1).deliveries
        }.flatMap { $0 }
        _ = try measure("ack", 500, reads: 2, waits: 2, writes: 3) { try $0.ack(taken[$2].receipt, in: &$1) }
        _ = try measure("nack", 300, reads: 8, waits: 8, writes: 10) {
            try $0.nack(taken[500 + $2].receipt, in: &$1)
        }
        _ = try measure("end of a session", 4, reads: 100, waits: 20, writes: 160) { queue, space, _ in
            try queue.end(SessionID(5), in: &space)
        }
        _ = try measure("take 256", 20, reads: 290, waits: 20, writes: 256 * 2 + 20) {
            try $0.take(256, visibilityMillis: 1_000, session: SessionID(UInt64(10 + $2)), in: &$1)
        }
        _ = try measure("take and ack 256", 100, reads: 290, waits: 20, writes: 256 + 20) { queue, space, _ in
            try queue.takeAndAck(256, in: &space)
        }
        _ = try measure("page of 256", 50, reads: 300, waits: 20, writes: 0) { queue, space, round in
            try queue.page(after: UInt64(255 - round % 10) << 56, limit: 256, in: &space)
        }
    }
}
