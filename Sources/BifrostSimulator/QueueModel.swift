// Queues as the rules know them: every answer is foretold; and, for those whose items sessions have, what may not happen
// whatever comes back when.

import DataTypes
import Messages
import Primitives
import StateMachines

/// One queue, by the rules.
struct QueueModel: WatchedModel {
    struct Item {
        var priority: UInt8
        var value: Bytes
        var state = "ready"
        var attempts: UInt32 = 0
        var delivery: UInt64 = 0
        var reason = ObjectQueue.Item.Reason.none
        var ticket: UInt64 = 0
        /// Who has it; `.none`: nobody's session. And the how manieth delivery of the queue that was.
        var session = SessionID.none
        var order: UInt64 = 0
    }

    struct Timer: Equatable {
        enum Purpose: Equatable { case item(UInt64), waiter(UInt64), duplicate(UInt64), ending(SessionID) }
        /// What set it; of those of one entry and time, the first set comes first.
        var name: ObjectTimer
        var due: LogTime
        var purpose: Purpose
    }

    /// When a command is done.
    struct Moment {
        var index: LogIndex
        var logTime: LogTime
    }

    private(set) var items: [UInt64: Item] = [:]
    private(set) var waiters: [(ticket: UInt64, wanted: Int, visibility: UInt64, session: SessionID)] = []
    private(set) var timers: [Timer] = []
    private var ids: [Bytes: UInt64] = [:]
    private var deliveriesMax: UInt32 = 0
    private var nextItem: UInt64 = 1
    private var nextTicket: UInt64 = 1
    private var lastOrder: UInt64 = 0
    /// Items that came back because their time was over.
    private(set) var timedOut = 0
    var events: [ObjectEvent] = []

    /// Those that have items, or wait for some.
    var sessions: Set<SessionID> {
        Set(items.values.map(\.session) + waiters.map(\.session)).subtracting([.none])
    }

    func count(_ state: String) -> Int { items.values.count { $0.state == state } }

    /// By priority, and then as they were pushed.
    var ready: [UInt64] {
        items.filter { $0.value.state == "ready" }.sorted { left, right in
            left.value.priority == right.value.priority
                ? left.key < right.key : left.value.priority > right.value.priority
        }.map(\.key)
    }

    func counts(are found: QueueCounts) -> Bool {
        found.ready == UInt64(count("ready")) && found.delayed == UInt64(count("delayed"))
            && found.inFlight == UInt64(count("in flight")) && found.dead == UInt64(count("dead"))
            && found.waiters == UInt32(waiters.count) && found.deliveriesMax == deliveriesMax
    }

    func page(_ isOfDead: Bool) -> [ObjectQueue.Item] {
        let numbers = isOfDead ? items.filter { $0.value.state == "dead" }.map(\.key).sorted() : ready
        return numbers.compactMap { number in
            items[number].map {
                ObjectQueue.Item(
                    id: number, priority: $0.priority, deliveries: $0.attempts, value: $0.value, reason: $0.reason)
            }
        }
    }

    /// None with ticket 0: those of nobody who waited.
    func has(ofTicket ticket: UInt64) -> [UInt64] {
        ticket == 0 ? [] : items.filter { $0.value.ticket == ticket }.map(\.key).sorted()
    }

    // MARK: Commands

    /// - Returns: the answer; nil: none of a queue's.
    mutating func apply(
        _ request: MachineRequest, of session: SessionID = .none, at moment: Moment
    ) throws -> Bytes? {
        switch request.number {
        case QueuePush.number: return push(try QueuePush(decoding: request.body).pushes, moment).encoded()
        case QueueTake.number: return take(try QueueTake(decoding: request.body), of: session, moment).encoded()
        case QueueTakeAndAck.number:
            let chosen = ready.prefix(Int(try QueueTakeAndAck(decoding: request.body).count))
            var taken = ObjectQueue.Taken()
            for number in chosen {
                guard var item = items.removeValue(forKey: number) else { continue }
                item.attempts += 1
                taken.deliveries.append(delivery(number, item))
            }
            return QueueTaken(taken).encoded()
        case QueueAck.number:
            return outcomes(try QueueAck(decoding: request.body).receipts) {
                $0.cancel(.item($1)); $0.items[$1] = nil
            }
            .encoded()
        case QueueNack.number:
            let nack = try QueueNack(decoding: request.body)
            let answer = outcomes(nack.receipts) { queue, number in
                queue.cancel(.item(number))
                queue.giveBack(number, .refused, delay: nack.delayMillis, moment)
            }
            serve(moment)
            return answer.encoded()
        case QueueExtend.number:
            let extend = try QueueExtend(decoding: request.body)
            return outcomes(extend.receipts) { queue, number in
                queue.cancel(.item(number))
                queue.set(.item(number), after: extend.visibilityMillis, moment)
            }.encoded()
        case QueueRequeue.number:
            let answer = try QueueRequeue(decoding: request.body).items.map { number in
                guard var item = items[number] else { return ObjectQueue.Outcome.gone }
                guard item.state == "dead" else { return .notDead }
                (item.state, item.attempts, item.reason) = ("ready", 0, .none)
                items[number] = item
                return .done
            }
            serve(moment)
            return QueueOutcomes(answer).encoded()
        case QueuePurgeDead.number:
            let dead = page(true).prefix(Int(try QueuePurgeDead(decoding: request.body).itemsMax))
            for item in dead { items[item.id] = nil }
            return ObjectCount(UInt64(dead.count)).encoded()
        case QueueSettings.number:
            deliveriesMax = try QueueSettings(decoding: request.body).deliveriesMax
            return Done().encoded()
        case QueueClear.number:
            let count = items.count
            (items, ids) = ([:], [:])
            timers.removeAll { if case .waiter = $0.purpose { false } else { true } }
            return ObjectCount(UInt64(count)).encoded()
        case QueueCancelWait.number:
            let ticket = try QueueCancelWait(decoding: request.body).ticket
            if waiters.contains(where: { $0.ticket == ticket }) {
                cancel(.waiter(ticket))
                waiters.removeAll { $0.ticket == ticket }
                tell(ticket, QueueTicketState(.cancelled))
                return QueueFlag(true).encoded()
            }
            let mine = has(ofTicket: ticket)
            for number in mine {
                cancel(.item(number))
                items[number]?.attempts -= 1
                giveBack(number, items[number]?.reason ?? .none, delay: 0, moment)
            }
            serve(moment)
            return QueueFlag(!mine.isEmpty).encoded()
        default: return nil
        }
    }

    /// A timer's time has come. False: it is none of this queue's.
    mutating func fire(_ deadline: DeadlineKey, _ moment: Moment) -> Bool {
        guard
            let place = timers.firstIndex(where: { $0.name == ObjectTimer(deadline) && $0.due == deadline.time }),
            deadline.time <= moment.logTime
        else { return false }
        switch timers.remove(at: place).purpose {
        case .item(let number):
            if items[number]?.state == "delayed" {
                items[number]?.state = "ready"
            } else {
                timedOut += 1
                giveBack(number, .timedOut, delay: 0, moment)
            }
        case .waiter(let ticket):
            waiters.removeAll { $0.ticket == ticket }
            tell(ticket, QueueTicketState(.timedOut))
        case .duplicate(let number): ids = ids.filter { $0.value != number }
        case .ending(let session):
            end(session, itemsMax: ObjectQueue.servesMax, moment)
            return true
        }
        serve(moment)
        return true
    }

    /// It came with its slot.
    mutating func arrive(from group: GroupID, _ clock: MigrationClock) {
        for place in timers.indices {
            timers[place].name = timers[place].name.arrived(from: group)
            timers[place].due = clock.time(timers[place].due)
        }
    }

    private mutating func push(_ pushes: [ObjectQueue.Push], _ moment: Moment) -> QueuePushed {
        var pushed: [ObjectQueue.Pushed] = []
        for push in pushes {
            if let id = push.id, let before = ids[id] {
                pushed.append(ObjectQueue.Pushed(item: before, isNew: false))
                continue
            }
            let number = nextItem
            nextItem += 1
            items[number] = Item(priority: push.priority, value: push.value)
            if let id = push.id {
                ids[id] = number
                set(.duplicate(number), after: push.windowMillis, moment)
            }
            if push.delayMillis > 0 {
                items[number]?.state = "delayed"
                set(.item(number), after: push.delayMillis, moment)
            }
            pushed.append(ObjectQueue.Pushed(item: number, isNew: true))
        }
        serve(moment)
        return QueuePushed(pushed)
    }

    /// A session is over: it waits no longer, and what it has comes back. Nobody's is never over.
    ///
    /// - Returns: false: it had nothing here.
    mutating func end(_ session: SessionID, _ moment: Moment) -> Bool {
        guard sessions.contains(session) else { return false }
        end(session, itemsMax: ObjectQueue.endsMax, moment)
        return true
    }

    private mutating func end(_ session: SessionID, itemsMax: Int, _ moment: Moment) {
        for waiter in waiters where waiter.session == session {
            cancel(.waiter(waiter.ticket))
            tell(waiter.ticket, QueueTicketState(.cancelled))
        }
        waiters.removeAll { $0.session == session }
        let own = items.filter { $0.value.session == session }.sorted { $0.value.order < $1.value.order }.map(\.key)
        for number in own.prefix(itemsMax) {
            cancel(.item(number))
            giveBack(number, .sessionEnded, delay: 0, moment)
        }
        serve(moment)
        if own.count > itemsMax { set(.ending(session), after: 1, moment) }
    }

    private mutating func take(_ take: QueueTake, of caller: SessionID, _ moment: Moment) -> QueueTaken {
        let session = take.isOfSession ? caller : .none
        var taken = ObjectQueue.Taken()
        for number in ready.prefix(Int(take.count)) {
            taken.deliveries += deliver(number, take.visibilityMillis, session, ticket: 0, moment)
        }
        if taken.deliveries.isEmpty, take.waitMillis > 0 {
            waiters.append((nextTicket, Int(take.count), take.visibilityMillis, session))
            set(.waiter(nextTicket), after: take.waitMillis, moment)
            taken.ticket = nextTicket
            nextTicket += 1
        }
        return QueueTaken(taken)
    }

    private mutating func serve(_ moment: Moment) {
        while let waiter = waiters.first, !ready.isEmpty {
            waiters.removeFirst()
            cancel(.waiter(waiter.ticket))
            var deliveries: [ObjectQueue.Delivery] = []
            for number in ready.prefix(waiter.wanted) {
                deliveries += deliver(number, waiter.visibility, waiter.session, ticket: waiter.ticket, moment)
            }
            tell(waiter.ticket, QueueTicketState(.delivered, deliveries))
        }
    }

    /// Who waits is told once.
    private mutating func tell(_ ticket: UInt64, _ state: QueueTicketState) {
        events.append(ObjectEvent(.put, part: 2, number: ticket, value: state.encoded()))
    }

    private mutating func deliver(
        _ number: UInt64, _ visibility: UInt64, _ session: SessionID, ticket: UInt64, _ moment: Moment
    ) -> [ObjectQueue.Delivery] {
        guard var item = items[number] else { return [] }
        lastOrder += 1
        (item.state, item.ticket, item.session, item.order) = ("in flight", ticket, session, lastOrder)
        item.attempts += 1
        item.delivery += 1
        items[number] = item
        set(.item(number), after: visibility, moment)
        return [delivery(number, item)]
    }

    private func delivery(_ number: UInt64, _ item: Item) -> ObjectQueue.Delivery {
        ObjectQueue.Delivery(
            receipt: ObjectQueue.Receipt(item: number, delivery: item.delivery), priority: item.priority,
            deliveries: item.attempts, valueBytes: item.value.count, value: item.value)
    }

    private mutating func giveBack(
        _ number: UInt64, _ reason: ObjectQueue.Item.Reason, delay: UInt64, _ moment: Moment
    ) {
        guard var item = items[number] else { return }
        (item.ticket, item.reason, item.session) = (0, reason, .none)
        if deliveriesMax > 0, item.attempts >= deliveriesMax {
            item.state = "dead"
        } else if delay > 0 {
            item.state = "delayed"
            set(.item(number), after: delay, moment)
        } else {
            item.state = "ready"
        }
        items[number] = item
    }

    private mutating func outcomes(
        _ receipts: [ObjectQueue.Receipt], _ body: (inout QueueModel, UInt64) -> Void
    ) -> QueueOutcomes {
        var outcomes: [ObjectQueue.Outcome] = []
        for receipt in receipts {
            guard let item = items[receipt.item] else {
                outcomes.append(.gone)
                continue
            }
            guard item.state == "in flight", item.delivery == receipt.delivery else {
                outcomes.append(.stale)
                continue
            }
            body(&self, receipt.item)
            outcomes.append(.done)
        }
        return QueueOutcomes(outcomes)
    }

    private mutating func set(_ purpose: Timer.Purpose, after millis: UInt64, _ moment: Moment) {
        timers.append(
            Timer(name: ObjectTimer(moment.index), due: LogTime(moment.logTime.rawValue + millis), purpose: purpose))
    }

    private mutating func cancel(_ purpose: Timer.Purpose) { timers.removeAll { $0.purpose == purpose } }
}

/// What may not happen in a queue whose items sessions have: that an item is lost, or done twice.
struct QueueLedger {
    /// Pushed, and not done: the last delivery of each that an answer told.
    private(set) var open: [UInt64: UInt64] = [:]
    private var pushed: Set<UInt64> = []
    private(set) var done = 0

    /// Returns what is wrong with what a command came to.
    mutating func apply(_ request: MachineRequest, _ answer: Bytes) throws -> String? {
        switch request.number {
        case QueuePush.number:
            for pushed in try QueuePushed(decoding: answer).pushed where pushed.isNew {
                guard self.pushed.insert(pushed.item).inserted else { return "item \(pushed.item) was pushed twice" }
                open[pushed.item] = 0
            }
        case QueueTake.number:
            for delivery in try QueueTaken(decoding: answer).taken.deliveries {
                let receipt = delivery.receipt
                guard let last = open[receipt.item] else { return "item \(receipt.item) is delivered and done" }
                guard receipt.delivery > last else { return "\(receipt) is delivered again, behind \(last)" }
                open[receipt.item] = receipt.delivery
            }
        case QueueAck.number:
            let outcomes = try QueueOutcomes(decoding: answer).outcomes
            for (receipt, outcome) in zip(try QueueAck(decoding: request.body).receipts, outcomes) {
                switch (outcome, open[receipt.item]) {
                case (.done, nil): return "item \(receipt.item) is done twice"
                case (.done, let last?) where last > receipt.delivery:
                    return "a late word, \(receipt), does an item that was delivered again"
                case (.done, _):
                    open[receipt.item] = nil
                    done += 1
                case (.gone, .some): return "item \(receipt.item) is lost"
                default: break
                }
            }
        default: break
        }
        return nil
    }

    func counts(are found: QueueCounts) -> Bool {
        found.ready + found.delayed + found.inFlight + found.dead == UInt64(open.count)
    }
}
