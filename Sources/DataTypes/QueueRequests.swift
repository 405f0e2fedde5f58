// A queue's commands: each brings its bytes, and asks ObjectQueue.

import Messages
public import Primitives
public import StateMachines

/// Adds items, up to 64, all or none; answers with their numbers. Ready ones go to who waits.
///
/// `name | count u16 | each: priority u8, delay u64, value: length u32, bytes, has id u8, id: length u32, bytes, and its
/// window u64, if there is one`; times in milliseconds.
public struct QueuePush: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 1
    /// Numbers of items, and whether one of these ids was pushed before: nothing that others put in.
    public static let tellsWhatIsThere = false
    public var name: Bytes
    package var pushes: [ObjectQueue.Push]

    package init(_ name: Bytes, _ pushes: [ObjectQueue.Push]) { (self.name, self.pushes) = (name, pushes) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueuePushed {
        QueuePushed(try context.withQueue(name) { queue, space in try queue.push(pushes, in: &space) })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(pushes) { push, writer in
            writer.write(push.priority)
            writer.write(push.delayMillis)
            writer.writeWithLength(push.value)
            writer.writeOptional(push.id) { id, writer in
                writer.writeWithLength(id)
                writer.write(push.windowMillis)
            }
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        pushes = try reader.readList(countMax: ObjectQueue.pushesMax) { reader throws(DecodingFailure) in
            let (priority, delay): (UInt8, UInt64) = (try reader.read(), try reader.read())
            let value = try reader.readValue()
            let id = try reader.readOptional { reader throws(DecodingFailure) in
                (
                    bytes: try reader.readBytesWithLength(limit: ObjectQueue.idBytesMax),
                    window: try reader.read(UInt64.self)
                )
            }
            return ObjectQueue.Push(
                value, priority: priority, delayMillis: delay, id: id?.bytes, windowMillis: id?.window ?? 0)
        }
    }
}

/// Takes what is ready, up to 256; nothing is there: waits, if a time for it is given. What is taken comes back unless it
/// is acknowledged within `visibilityMillis` of log time.
///
/// `name | count u16 | visibility u64 | wait u64, 0: not | is the session's u8`; times in milliseconds.
public struct QueueTake: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 2
    public static let bringsDataIn = false
    public var name: Bytes
    public var count: UInt16
    public var visibilityMillis: UInt64
    public var waitMillis: UInt64
    /// What is taken comes back when the caller's session ends, too; false: it is nobody's.
    public var isOfSession: Bool

    public init(_ name: Bytes, _ count: UInt16, visibilityMillis: UInt64, waitMillis: UInt64, isOfSession: Bool) {
        self.name = name
        self.count = count
        self.visibilityMillis = visibilityMillis
        self.waitMillis = waitMillis
        self.isOfSession = isOfSession
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueTaken {
        let session = isOfSession ? context.session : .none
        let taken = try context.withQueue(name) { queue, space in
            let taken = try queue.take(
                Int(count), visibilityMillis: visibilityMillis, session: session, waitMillis: waitMillis, in: &space)
            return (taken, [])
        }
        if isOfSession, !taken.deliveries.isEmpty || taken.ticket != nil { try context.hold(name) }
        return QueueTaken(taken)
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(count)
        writer.write(visibilityMillis)
        writer.write(waitMillis)
        writer.write(isOfSession)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        name = try reader.readName()
        count = try reader.read()
        (visibilityMillis, waitMillis) = (try reader.read(), try reader.read())
        isOfSession = try reader.readBool()
    }
}

/// Takes what is ready, up to 256, for good.
///
/// `name | count u16`
public struct QueueTakeAndAck: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 3
    public static let bringsDataIn = false
    public var name: Bytes
    public var count: UInt16

    public init(_ name: Bytes, _ count: UInt16) { (self.name, self.count) = (name, count) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueTaken {
        QueueTaken(
            try context.withQueue(name) { queue, space in (try queue.takeAndAck(Int(count), in: &space), []) })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(count)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, count) = (try reader.readName(), try reader.read())
    }
}

/// Items by their receipts, up to 64, are done; answers for each whether it was in flight by it.
///
/// `name | count u16 | each: item u64, delivery u64`
public struct QueueAck: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 4
    public static let bringsDataIn = false
    public var name: Bytes
    package var receipts: [ObjectQueue.Receipt]

    package init(_ name: Bytes, _ receipts: [ObjectQueue.Receipt]) { (self.name, self.receipts) = (name, receipts) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueOutcomes {
        QueueOutcomes(try context.withQueue(name) { queue, space in (try queue.ack(receipts, in: &space), []) })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(receipts)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, receipts) = (try reader.readName(), try reader.readReceipts())
    }
}

/// Gives items back, up to 64, to be ready after a time.
///
/// `name | delay u64, milliseconds | count u16 | each: item u64, delivery u64`
public struct QueueNack: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 5
    public static let bringsDataIn = false
    public var name: Bytes
    public var delayMillis: UInt64
    package var receipts: [ObjectQueue.Receipt]

    package init(_ name: Bytes, _ receipts: [ObjectQueue.Receipt], delayMillis: UInt64 = 0) {
        (self.name, self.receipts, self.delayMillis) = (name, receipts, delayMillis)
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueOutcomes {
        QueueOutcomes(
            try context.withQueue(name) { queue, space in
                try queue.nack(receipts, delayMillis: delayMillis, in: &space)
            })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(delayMillis)
        writer.write(receipts)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, delayMillis) = (try reader.readName(), try reader.read())
        receipts = try reader.readReceipts()
    }
}

/// Keeps items, up to 64, for so long from now on.
///
/// `name | visibility u64, milliseconds | count u16 | each: item u64, delivery u64`
public struct QueueExtend: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 6
    public static let bringsDataIn = false
    public var name: Bytes
    public var visibilityMillis: UInt64
    package var receipts: [ObjectQueue.Receipt]

    package init(_ name: Bytes, _ receipts: [ObjectQueue.Receipt], visibilityMillis: UInt64) {
        (self.name, self.receipts, self.visibilityMillis) = (name, receipts, visibilityMillis)
    }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueOutcomes {
        QueueOutcomes(
            try context.withQueue(name) { queue, space in
                (try queue.extend(receipts, visibilityMillis: visibilityMillis, in: &space), [])
            })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(visibilityMillis)
        writer.write(receipts)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, visibilityMillis) = (try reader.readName(), try reader.read())
        receipts = try reader.readReceipts()
    }
}

/// Puts dead items, up to 64, back to their places; their deliveries are counted anew.
///
/// `name | count u16 | each: item u64`
public struct QueueRequeue: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 7
    public var name: Bytes
    public var items: [UInt64]

    public init(_ name: Bytes, _ items: [UInt64]) { (self.name, self.items) = (name, items) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueOutcomes {
        QueueOutcomes(try context.withQueue(name) { queue, space in try queue.requeue(items, in: &space) })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(items) { $1.write($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, items) = (try reader.readName(), try reader.readItems())
    }
}

/// Removes dead items, up to 64.
///
/// `name | count u16 | each: item u64`
public struct QueueRemoveDead: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 8
    public static let bringsDataIn = false
    public var name: Bytes
    public var items: [UInt64]

    public init(_ name: Bytes, _ items: [UInt64]) { (self.name, self.items) = (name, items) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueOutcomes {
        QueueOutcomes(try context.withQueue(name) { queue, space in (try queue.removeDead(items, in: &space), []) })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.writeList(items) { $1.write($0) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, items) = (try reader.readName(), try reader.readItems())
    }
}

/// Removes the first dead items, up to 256; answers how many.
///
/// `name | items u16`
public struct QueuePurgeDead: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 9
    public static let bringsDataIn = false
    public var name: Bytes
    public var itemsMax: UInt16

    public init(_ name: Bytes, itemsMax: UInt16 = 256) { (self.name, self.itemsMax) = (name, itemsMax) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        ObjectCount(
            UInt64(
                try context.withQueue(name) { queue, space in
                    (try queue.purgeDead(limit: Int(itemsMax), in: &space), [])
                }))
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(itemsMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, itemsMax) = (try reader.readName(), try reader.read())
    }
}

/// Says how often an item is delivered before it is dead. Holds for items that come back from now on.
///
/// `name | deliveries u32, 0: as often as it takes`
public struct QueueSettings: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 10
    public static let tellsWhatIsThere = false
    public var name: Bytes
    public var deliveriesMax: UInt32

    public init(_ name: Bytes, deliveriesMax: UInt32) { (self.name, self.deliveriesMax) = (name, deliveriesMax) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        try context.withQueue(name) { queue, _ in
            queue.deliveriesMax = deliveriesMax
            return (Done(), [])
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(deliveriesMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, deliveriesMax) = (try reader.readName(), try reader.read())
    }
}

/// Removes all items, wherever they are, and the ids they were pushed with; answers how many there were. Who waits goes on
/// waiting. Costs no more than to remove one.
///
/// `name`
public struct QueueClear: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 11
    public static let bringsDataIn = false
    public var name: Bytes

    public init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> ObjectCount {
        try context.withQueue(name) { queue, space in
            let count = queue.head.itemCount
            // Ids may be there though no item is.
            guard queue.head.hasBeenPushed else { return (ObjectCount(0), []) }
            try space.context.sweep(try queue.clear())
            return (ObjectCount(count), [])
        }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Ends a wait; what it has got and still has in flight comes back as if it had not been delivered. Answers whether it
/// waited or had something.
///
/// `name | ticket u64`
public struct QueueCancelWait: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 12
    public static let bringsDataIn = false
    public var name: Bytes
    public var ticket: UInt64

    public init(_ name: Bytes, _ ticket: UInt64) { (self.name, self.ticket) = (name, ticket) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> QueueFlag {
        let session = context.session
        return QueueFlag(
            try context.withQueue(name) { queue, space in
                try queue.cancelWait(ticket, session: session, in: &space)
            })
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(ticket)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, ticket) = (try reader.readName(), try reader.read())
    }
}

// MARK: - What queues schedule

/// A timer's time has come. From a client it does nothing.
///
/// `name | a QueueTimer, 17 bytes`
public struct QueueFire: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 13
    public static let bringsDataIn = false
    public var name: Bytes
    package var timer: QueueTimer

    package init(_ name: Bytes, _ timer: QueueTimer) { (self.name, self.timer) = (name, timer) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        guard context.isScheduled else { return Done() }
        return try context.withQueue(name) { queue, space in (Done(), try queue.fire(timer, in: &space)) }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        timer.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, timer) = (try reader.readName(), try QueueTimer(from: &reader))
    }
}

/// Hands over what one command may not. From a client it does nothing.
///
/// `name`
public struct QueueServe: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 14
    public static let bringsDataIn = false
    public var name: Bytes

    init(_ name: Bytes) { self.name = name }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        guard context.isScheduled else { return Done() }
        return try context.withQueue(name, isServing: true) { queue, space in (Done(), try queue.serve(in: &space)) }
    }

    public func encode(into writer: inout ByteWriter) { writer.writeWithLength(name) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { name = try reader.readName() }
}

/// Gives back more of what a session had that has ended. From a client it does nothing.
///
/// `name | session u64`
public struct QueueEnd: MachineCommand {
    public typealias Machine = QueueMachine
    public static let number: UInt16 = 15
    public static let bringsDataIn = false
    public var name: Bytes
    public var session: SessionID

    init(_ name: Bytes, _ session: SessionID) { (self.name, self.session) = (name, session) }

    public var key: Bytes { name }
    public var readKeys: [Bytes] { [ObjectKey(name).record()] }

    public func apply(in context: inout MachineContext) throws -> Done {
        guard context.isScheduled else { return Done() }
        try context.endQueue(name, of: session, limit: ObjectQueue.servesMax)
        return Done()
    }

    public func encode(into writer: inout ByteWriter) {
        writer.writeWithLength(name)
        writer.write(session)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        (name, session) = (try reader.readName(), try reader.read())
    }
}

extension ByteWriter {
    fileprivate mutating func write(_ receipts: [ObjectQueue.Receipt]) {
        writeList(receipts) { receipt, writer in
            writer.write(receipt.item)
            writer.write(receipt.delivery)
        }
    }
}

extension ByteReader {
    fileprivate mutating func readReceipts() throws(DecodingFailure) -> [ObjectQueue.Receipt] {
        try readList(countMax: ObjectQueue.receiptsMax) { reader throws(DecodingFailure) in
            ObjectQueue.Receipt(item: try reader.read(), delivery: try reader.read())
        }
    }

    fileprivate mutating func readItems() throws(DecodingFailure) -> [UInt64] {
        try readList(countMax: ObjectQueue.receiptsMax) { reader throws(DecodingFailure) in try reader.read() }
    }
}
