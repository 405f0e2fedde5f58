// Queue: items that are taken, and come back unless they are acknowledged, under one name. Sub state machine 21. What
// becomes of items is ObjectQueue's affair; here its records, timers and events meet a command's context.

import Messages
public import Primitives
public import StateMachines

/// Commands and queries about queues. Records of one: its head (`QueueHead`), which stays once there has been something,
/// so that no receipt and no ticket is ever given twice; and those of `ObjectQueue`.
///
/// Who waits is told by one event under `watchKey`, of kind `put` with a `QueueTicketState`, and finds the same by
/// `QueueTicket` as long as he has some of it in flight.
public enum QueueMachine: SessionHolder {
    public static let number = SubMachineNumber(21)
    public static let commands: [any MachineCommand<QueueMachine>.Type] = [
        QueuePush.self, QueueTake.self, QueueTakeAndAck.self, QueueAck.self, QueueNack.self, QueueExtend.self,
        QueueRequeue.self, QueueRemoveDead.self, QueuePurgeDead.self, QueueSettings.self, QueueClear.self,
        QueueCancelWait.self, QueueFire.self, QueueServe.self, QueueEnd.self,
    ]
    public static let queries: [any MachineQuery<QueueMachine>.Type] = [
        QueueCount.self, QueuePage.self, QueueValue.self, QueueTicket.self,
    ]

    /// Where a wait is told what it got.
    package static func watchKey(_ name: Bytes, _ ticket: UInt64) -> Bytes { ObjectKey(name).record(2, ticket) }

    public static func release(_ name: Bytes, of session: SessionID, in context: inout MachineContext) throws {
        try context.endQueue(name, of: session, limit: ObjectQueue.endsMax)
    }
}

/// A queue's own record.
///
/// `version u8 = 1 | is serving u8 | an ObjectQueue.Head`
struct QueueHead: Message {
    /// A `QueueServe` is scheduled.
    var isServing = false
    var queue = ObjectQueue.Head()

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(isServing)
        queue.encode(into: &writer)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "a queue's record")
        isServing = try reader.readBool()
        queue = try ObjectQueue.Head(from: &reader)
    }
}

/// A command's records and timers as its queue uses them.
struct QueueContext: QueueSpace {
    var context: MachineContext
    let name: Bytes

    mutating func value(of key: Bytes) throws -> Bytes? { try context.value(of: key) }
    mutating func values(of keys: [Bytes]) throws -> [Bytes?] { try context.values(of: keys) }
    mutating func fetch(along keys: [Bytes]) { context.fetch(along: keys) }
    mutating func set(_ key: Bytes, to value: Bytes) throws { try context.set(key, to: value) }
    mutating func remove(_ key: Bytes) throws { try context.remove(key) }

    mutating func schedule(_ timer: QueueTimer, afterMillis: UInt64) throws -> Bytes {
        try context.schedule(QueueFire(name, timer), after: .milliseconds(afterMillis)).encoded()
    }

    mutating func cancel(_ handle: Bytes) throws {
        try context.cancel(ScheduledCommand(decoding: handle))
    }

    mutating func prepare(cancelling handles: [Bytes]) throws {
        try context.prepare(cancelling: handles.map { try ScheduledCommand(decoding: $0) })
    }
}

extension MachineContext {
    /// Does something with a queue: reads its head, writes all that has changed, and tells who waited.
    ///
    /// - Parameter isServing: the serving that was scheduled is done now.
    /// - Throws: as `body`; failures of queues and damaged records as `MachineFailure`.
    mutating func withQueue<Result>(
        _ name: Bytes, isServing: Bool = false,
        _ body: (inout ObjectQueue, inout QueueContext) throws -> (Result, [ObjectQueue.WaiterEvent])
    ) throws -> Result {
        do {
            let place = ObjectKey(name).record()
            let before = try get(place)?.value
            var head = try before.map { bytes in try QueueHead(decoding: bytes) } ?? QueueHead()
            if isServing { head.isServing = false }
            var space = QueueContext(context: self, name: name)
            var queue = ObjectQueue(ObjectKey(name), head.queue)
            let (result, events) = try body(&queue, &space)
            head.queue = try queue.flush(into: &space)
            self = space.context
            if head.queue.needsServing, !head.isServing {
                try schedule(QueueServe(name), after: .milliseconds(1))
                head.isServing = true
            }
            let after = head.encoded()
            if after != before ?? QueueHead().encoded() { try put(place, after) }
            for session in queue.sessionsLeft { letGo(name, of: session) }
            for event in events {
                let (ticket, state) = QueueTicketState.told(event)
                tell(.put, QueueMachine.watchKey(name, ticket), state.encoded())
            }
            return result
        } catch let failure as ObjectQueue.Failure {
            throw MachineFailure(failure)
        } catch let damage as RecordDamage {
            throw MachineFailure(ObjectFailure.damaged, "the queue is damaged: \(damage)")
        } catch let damage as DecodingFailure {
            throw MachineFailure(ObjectFailure.damaged, "the queue is damaged: \(damage)")
        }
    }

    /// A session is over. What it has here comes back, some of it now, the rest by entries that follow.
    mutating func endQueue(_ name: Bytes, of session: SessionID, limit: Int) throws {
        let hasMore = try withQueue(name) { queue, space in
            let (events, hasMore) = try queue.end(session, limit: limit, in: &space)
            return (hasMore, events)
        }
        if hasMore { try schedule(QueueEnd(name, session), after: .milliseconds(1)) }
    }
}

extension MachineView {
    /// Looks at a queue.
    ///
    /// - Throws: as for `MachineContext.withQueue`.
    mutating func withQueue<Result>(
        _ name: Bytes, _ body: (inout ObjectQueue, inout MachineView) throws -> Result
    ) throws -> Result {
        do {
            let head = try get(ObjectKey(name).record(), as: QueueHead.self) ?? QueueHead()
            var queue = ObjectQueue(ObjectKey(name), head.queue)
            return try body(&queue, &self)
        } catch let failure as ObjectQueue.Failure {
            throw MachineFailure(failure)
        } catch let damage as RecordDamage {
            throw MachineFailure(ObjectFailure.damaged, "the queue is damaged: \(damage)")
        } catch let damage as DecodingFailure {
            throw MachineFailure(ObjectFailure.damaged, "the queue is damaged: \(damage)")
        }
    }
}

extension ObjectFailure {
    /// Of a queue's item: it was acknowledged, purged, or never there.
    public static let noItem: UInt32 = 32
    /// The item came back since, and may have been delivered again.
    public static let staleReceipt: UInt32 = 33
    /// Too many, too large, or no time.
    public static let badArgument: UInt32 = 34
    public static let tooManyWaiters: UInt32 = 35
}

extension MachineFailure {
    fileprivate init(_ failure: ObjectQueue.Failure) {
        switch failure {
        case .noItem: self.init(ObjectFailure.noItem, "there is no such item (any more)")
        case .staleReceipt: self.init(ObjectFailure.staleReceipt, "the item came back since it was taken")
        case .notDead: self.init(ObjectFailure.badArgument, "the item is not dead")
        case .tooMany(let max): self.init(ObjectFailure.badArgument, "1 to \(max) at once")
        case .valueTooLarge(let max): self.init(ObjectFailure.badArgument, "a value has at most \(max) bytes")
        case .valuesTooLarge(let max):
            self.init(ObjectFailure.badArgument, "values have at most \(max) bytes together")
        case .badID(let max): self.init(ObjectFailure.badArgument, "an id has 1 to \(max) bytes")
        case .badTime(let max): self.init(ObjectFailure.badArgument, "a time is 1 to \(max) milliseconds")
        case .tooManyWaiters(let max): self.init(ObjectFailure.tooManyWaiters, "at most \(max) may wait")
        case .exhausted: self.init(ObjectFailure.badArgument, "the queue has no numbers left")
        }
    }
}
