// A queue's queries, and what its commands and queries answer.

public import Messages
public import Primitives
public import StateMachines

/// How many items there are, and who waits. Cost: one record.
///
/// `name`
public struct QueueCount: MachineQuery {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 1
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> QueueCounts {
        try view.withQueue(name) { queue, _ in QueueCounts(queue.head) }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Items of a queue, by where they are.
///
/// `ready u64 | delayed u64 | in flight u64 | dead u64 | waiters u32 | deliveries u32`
public struct QueueCounts: Hashable, Sendable, Message {
    public var ready: UInt64
    public var delayed: UInt64
    /// Taken, and not acknowledged yet.
    public var inFlight: UInt64
    /// Delivered too often.
    public var dead: UInt64
    /// Who waits for items.
    public var waiters: UInt32
    /// So often an item is delivered before it is dead; 0: as often as it takes.
    public var deliveriesMax: UInt32

    init(_ head: ObjectQueue.Head) {
        (ready, delayed, inFlight, dead) = (head.ready.count, head.delayed, head.inFlight, head.dead.count)
        (waiters, deliveriesMax) = (head.waiters, head.deliveriesMax)
    }

    public func encode(into writer: inout ByteWriter) {
        for count in [ready, delayed, inFlight, dead] { writer.write(count) }
        writer.write(waiters)
        writer.write(deliveriesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (ready, delayed) = (try reader.read(), try reader.read())
        (inFlight, dead) = (try reader.read(), try reader.read())
        (waiters, deliveriesMax) = (try reader.read(), try reader.read())
    }
}

/// Some items: those that are ready, in the order in which they are taken, or dead ones, in the order in which they were
/// pushed.
///
/// `name | dead u8 | has after u8 | after u64, if there is one | items u16`
public struct QueuePage: MachineQuery {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 2
    public var name: Bytes
    public var isOfDead: Bool
    /// A page's `next`; nil: from the beginning.
    public var after: UInt64?
    /// Of the page: up to 256.
    public var itemsMax: UInt16

    public init(_ name: Bytes, isOfDead: Bool, after: UInt64? = nil, itemsMax: UInt16) {
        (self.name, self.isOfDead, self.after, self.itemsMax) = (name, isOfDead, after, itemsMax)
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> QueueItems {
        try view.withQueue(name) { queue, view in
            let limit = max(Int(itemsMax), 1)
            return QueueItems(
                isOfDead
                    ? try queue.deadPage(after: after, limit: limit, in: &view)
                    : try queue.page(after: after, limit: limit, in: &view))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(isOfDead)
        writer.writeOptional(after) { $1.write($0) }
        writer.write(itemsMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, isOfDead) = (try reader.readName(), try reader.readBool())
        after = try reader.readOptional { reader throws(DecodingFailure) in try reader.read() }
        itemsMax = try reader.read()
    }
}

/// A page of a queue.
///
/// `items u16 | each: item u64, priority u8, deliveries u32, reason u8, value: length u32, bytes | has next u8 | next u64,
/// if there is one`
public struct QueueItems: Hashable, Sendable, Message {
    package var page: ObjectQueue.Page

    init(_ page: ObjectQueue.Page) { self.page = page }

    public func encode(into writer: inout ByteWriter) {
        writer.writeList(page.items) { item, writer in
            writer.write(item.id)
            writer.write(item.priority)
            writer.write(item.deliveries)
            writer.write(item.reason.rawValue)
            writer.writeWithLength(item.value)
        }
        writer.writeOptional(page.next) { $1.write($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let items = try reader.readList(countMax: ObjectQueue.pageItemsMax) { reader throws(DecodingFailure) in
            let (id, priority): (UInt64, UInt8) = (try reader.read(), try reader.read())
            let (deliveries, reason): (UInt32, UInt8) = (try reader.read(), try reader.read())
            guard let reason = ObjectQueue.Item.Reason(rawValue: reason) else {
                throw DecodingFailure(expected: "why an item came back", found: "\(reason)")
            }
            return ObjectQueue.Item(
                id: id, priority: priority, deliveries: deliveries, value: try reader.readValue(), reason: reason)
        }
        page = ObjectQueue.Page(
            items: items, next: try reader.readOptional { reader throws(DecodingFailure) in try reader.read() })
    }
}

/// The value of an item that is in flight.
///
/// `name | item u64 | delivery u64`
public struct QueueValue: MachineQuery {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 3
    public var name: Bytes
    package var receipt: ObjectQueue.Receipt

    package init(_ name: Bytes, _ receipt: ObjectQueue.Receipt) { (self.name, self.receipt) = (name, receipt) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func answer(in view: inout MachineView) throws -> Bytes {
        try view.withQueue(name) { queue, view in try queue.value(of: receipt, in: &view) }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(receipt.item)
        writer.write(receipt.delivery)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        receipt = ObjectQueue.Receipt(item: try reader.read(), delivery: try reader.read())
    }
}

/// How a wait stands, for who missed what was told of it.
///
/// `name | ticket u64`
public struct QueueTicket: MachineQuery {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 4
    public var name: Bytes
    public var ticket: UInt64

    public init(_ name: Bytes, _ ticket: UInt64) { (self.name, self.ticket) = (name, ticket) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record(), QueueMachine.watchKey(name, ticket)] }

    public func answer(in view: inout MachineView) throws -> QueueTicketState {
        try view.withQueue(name) { queue, view in
            switch try queue.state(ofTicket: ticket, in: &view) {
            case .waiting: QueueTicketState(.waiting)
            case .delivered(let deliveries): QueueTicketState(.delivered, deliveries)
            case .over: QueueTicketState(.over)
            }
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(ticket)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, ticket) = (try reader.readName(), try reader.read())
    }
}

// MARK: - Answers

/// `count u16 | each: item u64, is new u8`
public struct QueuePushed: Hashable, Sendable, Message {
    package var pushed: [ObjectQueue.Pushed]

    package init(_ pushed: [ObjectQueue.Pushed]) { self.pushed = pushed }

    public func encode(into writer: inout ByteWriter) {
        writer.writeList(pushed) { pushed, writer in
            writer.write(pushed.item)
            writer.write(pushed.isNew)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        pushed = try reader.readList(countMax: ObjectQueue.pushesMax) { reader throws(DecodingFailure) in
            ObjectQueue.Pushed(item: try reader.read(), isNew: try reader.readBool())
        }
    }
}

/// What was taken, or the ticket of who waits.
///
/// `stop u8: 0 there was no more, 1 the session has too many, 2 the answer would have become too large | ticket u64, 0: none
/// | count u16 | each: item u64, delivery u64, priority u8, deliveries u32, bytes u32, has value u8, value: length u32,
/// bytes, if it has`
public struct QueueTaken: Hashable, Sendable, Message {
    package var taken: ObjectQueue.Taken

    package init(_ taken: ObjectQueue.Taken) { self.taken = taken }

    public func encode(into writer: inout ByteWriter) {
        let stop: UInt8 =
            switch taken.stop {
            case nil: 0
            case .sessionFull: 1
            case .bytes: 2
            }
        writer.write(stop)
        writer.write(taken.ticket ?? 0)
        writer.write(taken.deliveries)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        taken = ObjectQueue.Taken()
        switch try reader.read(UInt8.self) {
        case 0: break
        case 1: taken.stop = .sessionFull
        case 2: taken.stop = .bytes
        case let stop: throw DecodingFailure(expected: "why there are no more, 0 to 2", found: "\(stop)")
        }
        let ticket = try reader.read(UInt64.self)
        taken.ticket = ticket == 0 ? nil : ticket
        taken.deliveries = try reader.readDeliveries()
    }
}

/// How a wait stands, or how it ended. In an event values are missing of more than 1,024 bytes.
///
/// `kind u8: 0 waiting, 1 delivered, 2 the session has too many, 3 timed out, 4 cancelled, 5 over | count u16 | each as in a
/// QueueTaken`
public struct QueueTicketState: Hashable, Sendable, Message {
    public enum Kind: UInt8, Hashable, Sendable {
        case waiting = 0
        case delivered
        case sessionFull
        case timedOut
        /// By its client, or with its session.
        case cancelled
        /// It ended, and nothing of it is in flight.
        case over
    }
    public var kind: Kind
    package var deliveries: [ObjectQueue.Delivery]

    package init(_ kind: Kind, _ deliveries: [ObjectQueue.Delivery] = []) {
        (self.kind, self.deliveries) = (kind, deliveries)
    }

    static func told(_ event: ObjectQueue.WaiterEvent) -> (ticket: UInt64, state: QueueTicketState) {
        switch event {
        case .delivered(let ticket, _, let deliveries): (ticket, QueueTicketState(.delivered, deliveries))
        case .sessionFull(let ticket, _): (ticket, QueueTicketState(.sessionFull))
        case .timedOut(let ticket, _): (ticket, QueueTicketState(.timedOut))
        case .cancelled(let ticket, _): (ticket, QueueTicketState(.cancelled))
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(kind.rawValue)
        writer.write(deliveries)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard let kind = Kind(rawValue: number) else {
            throw DecodingFailure(expected: "how a wait stands, 0 to 5", found: "\(number)")
        }
        self.kind = kind
        deliveries = try reader.readDeliveries()
    }
}

/// For each of several, in their order: 0 done, 1 there is none (any more), 2 it came back since, 3 it is not dead.
///
/// `count u16 | each u8`
public struct QueueOutcomes: Hashable, Sendable, Message {
    package var outcomes: [ObjectQueue.Outcome]

    package init(_ outcomes: [ObjectQueue.Outcome]) { self.outcomes = outcomes }

    public func encode(into writer: inout ByteWriter) { writer.writeList(outcomes) { $1.write($0.rawValue) } }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        outcomes = try reader.readList(countMax: ObjectQueue.receiptsMax) { reader throws(DecodingFailure) in
            let number = try reader.read(UInt8.self)
            guard let outcome = ObjectQueue.Outcome(rawValue: number) else {
                throw DecodingFailure(expected: "what became of an item, 0 to 3", found: "\(number)")
            }
            return outcome
        }
    }
}

/// `u8`
public struct QueueFlag: Hashable, Sendable, Message {
    public var isTrue: Bool

    package init(_ isTrue: Bool) { self.isTrue = isTrue }

    public func encode(into writer: inout ByteWriter) { writer.write(isTrue) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { isTrue = try reader.readBool() }
}

extension ByteWriter {
    fileprivate mutating func write(_ deliveries: [ObjectQueue.Delivery]) {
        writeList(deliveries) { delivery, writer in
            writer.write(delivery.receipt.item)
            writer.write(delivery.receipt.delivery)
            writer.write(delivery.priority)
            writer.write(delivery.deliveries)
            writer.write(UInt32(delivery.valueBytes))
            writer.writeOptional(delivery.value) { $1.writeWithLength($0) }
        }
    }
}

extension ByteReader {
    fileprivate mutating func readDeliveries() throws(DecodingFailure) -> [ObjectQueue.Delivery] {
        try readList(countMax: ObjectQueue.takesMax) { reader throws(DecodingFailure) in
            let receipt = ObjectQueue.Receipt(item: try reader.read(), delivery: try reader.read())
            let (priority, deliveries): (UInt8, UInt32) = (try reader.read(), try reader.read())
            let bytes = try reader.read(UInt32.self)
            return ObjectQueue.Delivery(
                receipt: receipt, priority: priority, deliveries: deliveries, valueBytes: Int(bytes),
                value: try reader.readOptional { reader throws(DecodingFailure) in try reader.readValue() })
        }
    }
}
