// What a queue is given, and what it answers.

package import Primitives

extension ObjectQueue {
    package struct Push: Hashable, Sendable {
        package var value: Bytes
        /// Higher ones are taken first.
        package var priority: UInt8
        package var delayMillis: UInt64
        /// While the window lasts, another push with this id is answered with the item of the first, and adds none.
        package var id: Bytes?
        package var windowMillis: UInt64

        package init(
            _ value: Bytes, priority: UInt8 = 128, delayMillis: UInt64 = 0, id: Bytes? = nil,
            windowMillis: UInt64 = 300_000
        ) {
            self.value = value
            self.priority = priority
            self.delayMillis = delayMillis
            self.id = id
            self.windowMillis = windowMillis
        }
    }

    package struct Pushed: Hashable, Sendable {
        package var item: UInt64
        /// False: it had been pushed with this id before.
        package var isNew: Bool

        package init(item: UInt64, isNew: Bool) { (self.item, self.isNew) = (item, isNew) }
    }

    /// Of one delivery of an item: when it comes back and is delivered again, that is another one.
    package struct Receipt: Hashable, Sendable {
        package var item: UInt64
        package var delivery: UInt64

        package init(item: UInt64, delivery: UInt64) { (self.item, self.delivery) = (item, delivery) }
    }

    package struct Delivery: Hashable, Sendable {
        package var receipt: Receipt
        package var priority: UInt8
        /// This one included, since it was pushed or requeued.
        package var deliveries: UInt32
        package var valueBytes: Int
        /// nil: it is too large to be handed to who waited; `value(of:)` has it.
        package var value: Bytes?

        package init(receipt: Receipt, priority: UInt8, deliveries: UInt32, valueBytes: Int, value: Bytes?) {
            self.receipt = receipt
            self.priority = priority
            self.deliveries = deliveries
            self.valueBytes = valueBytes
            self.value = value
        }
    }

    package struct Taken: Hashable, Sendable {
        package enum Stop: Hashable, Sendable {
            /// The session has `inFlightMax` items.
            case sessionFull
            /// The values became too large for one answer.
            case bytes
        }
        package var deliveries: [Delivery] = []
        /// Why there are fewer than were wanted; nil: there were no more.
        package var stop: Stop?
        /// It waits, with this ticket.
        package var ticket: UInt64?

        package init(stop: Stop? = nil) { self.stop = stop }
    }

    /// What a waiter is to be told; he waits no longer.
    package enum WaiterEvent: Hashable, Sendable {
        case delivered(ticket: UInt64, session: SessionID, [Delivery])
        /// His session has too many items in flight to get one.
        case sessionFull(ticket: UInt64, session: SessionID)
        case timedOut(ticket: UInt64, session: SessionID)
        /// He gave up, or his session ended.
        case cancelled(ticket: UInt64, session: SessionID)
    }

    /// An item as it stands in the queue, for who looks only.
    package struct Item: Hashable, Sendable {
        package enum Reason: UInt8, Sendable { case none = 0, timedOut, refused, sessionEnded }
        package var id: UInt64
        package var priority: UInt8
        package var deliveries: UInt32
        package var value: Bytes
        /// Why it came back the last time.
        package var reason: Reason

        package init(id: UInt64, priority: UInt8, deliveries: UInt32, value: Bytes, reason: Reason) {
            self.id = id
            self.priority = priority
            self.deliveries = deliveries
            self.value = value
            self.reason = reason
        }
    }

    package struct Page: Hashable, Sendable {
        package var items: [Item]
        /// To go on behind them; nil: those were the last.
        package var next: UInt64?
    }

    /// What became of one of several.
    package enum Outcome: UInt8, Hashable, Sendable {
        case done = 0
        /// `Failure.noItem`
        case gone
        /// `Failure.staleReceipt`
        case stale
        case notDead

        /// - Throws: the failure, if it is of none of them alone.
        init(_ failure: Failure) throws {
            switch failure {
            case .noItem: self = .gone
            case .staleReceipt: self = .stale
            case .notDead: self = .notDead
            default: throw failure
            }
        }
    }

    /// How a wait stands.
    package enum TicketState: Hashable, Sendable {
        case waiting
        /// What it has got and still has in flight.
        case delivered([Delivery])
        /// It got nothing, or has nothing of it any more.
        case over
    }

    package enum Failure: Error, Hashable, Sendable {
        /// It was acknowledged, purged, or never there.
        case noItem
        /// The item came back since, and may have been delivered again.
        case staleReceipt
        case notDead
        case tooMany(max: Int)
        case valueTooLarge(max: Int)
        /// Together.
        case valuesTooLarge(max: Int)
        /// 1 to so many bytes.
        case badID(max: Int)
        /// 1 to so many milliseconds; a delay may be 0.
        case badTime(max: UInt64)
        case tooManyWaiters(max: Int)
        /// There are no numbers left.
        case exhausted
    }
}
