// What clients do with queues, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    func changeQueue(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.queues, &random)
        let queue = model(groupOf(name)).queue(name)
        func receipts() -> [ObjectQueue.Receipt] {
            let known = queue.items.filter { $0.value.delivery > 0 }.keys.sorted()
            return (0..<(1 + random.below(2))).map { _ in
                guard !known.isEmpty else { return ObjectQueue.Receipt(item: 1, delivery: 1) }
                let item = known[Int(random.below(UInt64(known.count)))]
                // Some of a delivery before.
                let last = queue.items[item]?.delivery ?? 1
                return ObjectQueue.Receipt(item: item, delivery: last - (random.below(4) == 0 ? 1 : 0))
            }
        }
        func time() -> UInt64 { 1 + random.below(random.below(2) == 0 ? 1_000 : 8_000) }
        let dead = queue.page(true).map(\.id)
        switch random.below(24) {
        case 0..<8:
            let pushes = (0..<(1 + random.below(3))).map { _ in
                ObjectQueue.Push(
                    someValue(&random), priority: random.below(3) == 0 ? 200 : 128,
                    delayMillis: random.below(4) == 0 ? time() : 0,
                    id: random.below(3) == 0 ? Bytes("id \(random.below(9))") : nil, windowMillis: time())
            }
            return command(QueuePush(name, pushes))
        case 8..<13:
            return command(
                QueueTake(
                    name, UInt16(1 + random.below(3)), visibilityMillis: time(),
                    waitMillis: random.below(3) == 0 ? time() : 0, isOfSession: false))
        case 13..<17: return command(QueueAck(name, receipts()))
        case 17, 18:
            return command(QueueNack(name, receipts(), delayMillis: random.below(2) == 0 ? time() : 0))
        case 19: return command(QueueExtend(name, receipts(), visibilityMillis: time()))
        case 20: return command(QueueTakeAndAck(name, UInt16(1 + random.below(3))))
        case 21:
            let tickets = queue.waiters.map(\.ticket) + queue.items.values.map(\.ticket).sorted()
            return command(
                QueueCancelWait(name, tickets.isEmpty ? 1 : tickets[Int(random.below(UInt64(tickets.count)))]))
        case 22 where !dead.isEmpty:
            return random.below(4) == 0
                ? command(QueuePurgeDead(name, itemsMax: 3)) : command(QueueRequeue(name, Array(dead.prefix(2))))
        case 23 where random.below(4) == 0: return command(QueueClear(name))
        default: return command(QueueSettings(name, deliveriesMax: UInt32(random.below(4))))
        }
    }

    /// The one whose items sessions have.
    func changeHeldQueue(random: inout SeededRandom) -> SimulatedRequest {
        let name = DataTypeModel.heldQueue
        let known = model(groupOf(name)).heldItems.filter { $0.value > 0 }.sorted { $0.key < $1.key }
        switch random.below(8) {
        case 0..<3: return command(QueuePush(name, [.init(someValue(&random)), .init(someValue(&random))]))
        case 3..<6:
            return command(
                QueueTake(
                    name, UInt16(1 + random.below(3)), visibilityMillis: 1 + random.below(6_000),
                    waitMillis: random.below(2) * 2_000, isOfSession: true))
        default:
            guard !known.isEmpty else { return command(QueuePush(name, [.init(someValue(&random))])) }
            let (item, last) = known[Int(random.below(UInt64(known.count)))]
            let receipt = ObjectQueue.Receipt(item: item, delivery: last)
            return random.below(3) == 0 ? command(QueueNack(name, [receipt])) : command(QueueAck(name, [receipt]))
        }
    }

    func count(queue name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(QueueCount(name), consistency, bound) { answer, model, index in
            model.queue(name, at: index).counts(are: answer) ? nil : "other counts than the model's: \(answer)"
        }
    }

    func countOfHeldQueue() -> SimulatedRequest {
        query(QueueCount(DataTypeModel.heldQueue), .linearizable, 0) { answer, model, index in
            let open = model.ledger(at: index).open.count
            return model.ledger(at: index).counts(are: answer) ? nil : "\(answer), and \(open) items are not done"
        }
    }

    func page(
        queue name: Bytes, isOfDead: Bool, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(QueuePage(name, isOfDead: isOfDead, itemsMax: 256), consistency, bound) { answer, model, index in
            let expected = model.queue(name, at: index).page(isOfDead)
            return answer.page.items == Array(expected.prefix(256))
                ? nil : "items \(answer.page.items.map(\.id)), not \(expected.map(\.id))"
        }
    }

    func ticket(
        of name: Bytes, _ ticket: UInt64, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(QueueTicket(name, ticket), consistency, bound) { answer, model, index in
            let queue = model.queue(name, at: index)
            let expected: QueueTicketState.Kind
            let has = queue.has(ofTicket: ticket)
            if queue.waiters.contains(where: { $0.ticket == ticket }) {
                expected = .waiting
            } else {
                expected = has.isEmpty ? .over : .delivered
            }
            return answer.kind == expected && answer.deliveries.map(\.receipt.item).sorted() == has
                ? nil : "ticket \(ticket) stands as \(answer.kind), not \(expected) with \(has)"
        }
    }
}
