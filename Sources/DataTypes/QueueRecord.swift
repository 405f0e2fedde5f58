// The bytes of a queue's records: items, those who wait, and what a session has.

import Messages
import Primitives

/// `version u8 = 1 | state u8 | priority u8 | reason u8 | attempts u32 | delivery u64 | turn u64 | session u64 |
/// ticket u64 | bytes u32 | timer: length u8, bytes | value: 0 u8 (a record of its own), or 1 u8 and the value`
struct QueueItem: Message {
    enum State: UInt8 { case ready = 0, delayed, inFlight, dead }

    var state: State = .ready
    var priority: UInt8
    var reason: ObjectQueue.Item.Reason = .none
    /// Deliveries since it was pushed or requeued.
    var attempts: UInt32 = 0
    /// The number of its last delivery; never falls.
    var delivery: UInt64 = 0
    /// Raised whenever an older timer of it means nothing any more.
    var turn: UInt64 = 0
    var session: SessionID = .none
    /// Of the wait that got it, while it is in flight; 0: none.
    var ticket: UInt64 = 0
    /// Of its value.
    var bytes: UInt32
    var timer = Bytes()
    /// nil: it has a record of its own.
    var value: Bytes?

    init(priority: UInt8, bytes: UInt32) { (self.priority, self.bytes) = (priority, bytes) }

    /// Among those that are ready.
    func key(_ number: UInt64) -> UInt64 { UInt64(255 - priority) << 56 | number & Self.numberMask }
    static func number(_ key: UInt64) -> UInt64 { key & numberMask }
    private static let numberMask: UInt64 = 1 << 56 - 1

    mutating func schedule(_ number: UInt64, after millis: UInt64, in space: inout some QueueSpace) throws {
        turn &+= 1
        timer = try space.schedule(QueueTimer(.item, number, turn: turn), afterMillis: millis)
        precondition(timer.count <= ObjectQueue.handleBytesMax, "a timer's handle has too many bytes")
    }

    func delivery(_ number: UInt64, _ value: Bytes?, deliveries: UInt32) -> ObjectQueue.Delivery {
        ObjectQueue.Delivery(
            receipt: ObjectQueue.Receipt(item: number, delivery: delivery), priority: priority, deliveries: deliveries,
            valueBytes: Int(bytes), value: value)
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(state.rawValue)
        writer.write(priority)
        writer.write(reason.rawValue)
        writer.write(attempts)
        writer.write(delivery)
        writer.write(turn)
        writer.write(session)
        writer.write(ticket)
        writer.write(bytes)
        writer.write(UInt8(truncatingIfNeeded: timer.count))
        writer.write(timer)
        writer.write(value != nil)
        if let value { writer.write(value) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "a queue's item")
        let (state, priority, reason): (UInt8, UInt8, UInt8) = (
            try reader.read(), try reader.read(), try reader.read()
        )
        guard let state = State(rawValue: state), let reason = ObjectQueue.Item.Reason(rawValue: reason) else {
            throw DecodingFailure(expected: "a queue's item", found: "state \(state), reason \(reason)")
        }
        (self.state, self.priority, self.reason) = (state, priority, reason)
        attempts = try reader.read()
        (delivery, turn) = (try reader.read(), try reader.read())
        session = try reader.read()
        ticket = try reader.read()
        bytes = try reader.read()
        timer = try reader.readBytes(count: Int(try reader.read(UInt8.self)))
        value = try reader.readBool() ? reader.readRest() : nil
        guard value == nil || value?.count == Int(bytes) else {
            throw DecodingFailure(expected: "a value of \(bytes) bytes", found: "\(value?.count ?? 0)")
        }
    }
}

/// Somebody who waits for items; a list in the order in which they came.
///
/// `version u8 = 1 | session u64 | wanted u16 | visibility u64 | previous u64 | next u64 | timer: the rest`
struct QueueWaiter: Message {
    var session: SessionID
    var wanted: UInt16
    var visibilityMillis: UInt64
    /// Tickets; 0: none.
    var previous: UInt64
    var next: UInt64
    var timer: Bytes

    init(
        session: SessionID, wanted: UInt16, visibilityMillis: UInt64, previous: UInt64, next: UInt64, timer: Bytes
    ) {
        self.session = session
        self.wanted = wanted
        self.visibilityMillis = visibilityMillis
        self.previous = previous
        self.next = next
        self.timer = timer
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(session)
        writer.write(wanted)
        for number in [visibilityMillis, previous, next] { writer.write(number) }
        writer.write(timer)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "a queue's waiter")
        session = try reader.read()
        wanted = try reader.read()
        (visibilityMillis, previous, next) = (try reader.read(), try reader.read(), try reader.read())
        timer = reader.readRest()
    }
}

/// What a session has in flight, and what it waits with.
///
/// `version u8 = 1 | generation u64 | items: n u16, n u64 | tickets: n u16, n u64`
struct QueueSession: Message {
    /// The items are of this generation of the queue.
    var generation: UInt64 = 0
    var items: [UInt64] = []
    var tickets: [UInt64] = []

    init() {}

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(generation)
        for numbers in [items, tickets] {
            writer.write(UInt16(truncatingIfNeeded: numbers.count))
            for number in numbers { writer.write(number) }
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "a queue's session")
        generation = try reader.read()
        items = try reader.readNumbers(Int(try reader.read(UInt16.self)))
        tickets = try reader.readNumbers(Int(try reader.read(UInt16.self)))
    }
}

/// What a wait has got and still has in flight: who missed the event finds it here by the ticket.
///
/// `version u8 = 1 | items: n u16, n u64`
struct QueueGrant: Message {
    var items: [UInt64]

    init(items: [UInt64]) { self.items = items }

    func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt8)
        writer.write(UInt16(truncatingIfNeeded: items.count))
        for number in items { writer.write(number) }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expectVersion(1, of: "what a wait has got")
        items = try reader.readNumbers(Int(try reader.read(UInt16.self)))
    }
}
