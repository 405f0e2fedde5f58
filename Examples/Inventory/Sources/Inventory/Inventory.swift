// An inventory with reservations. Each article is a tag of its own, so articles spread over all groups of the cluster,
// and all that concerns one of them happens in one order.

import Bifrost

public enum Inventory: StateMachine {
    public static let number = SubMachineNumber(1_024)
    public static let commands: [any MachineCommand<Inventory>.Type] = [
        Restock.self, Reserve.self, Ship.self, Cancel.self, Expire.self,
    ]
    public static let queries: [any MachineQuery<Inventory>.Type] = [StockOf.self]

    /// Why something can't be done.
    public enum Reason {
        public static let tooFew: UInt32 = 1
        public static let taken: UInt32 = 2
        public static let unknownOrder: UInt32 = 3
        public static let notPositive: UInt32 = 4
    }

    /// Where an article's stock is, and what all its other keys begin with: who watches names it.
    public static func stock(of sku: String) -> Bytes { Bytes("{\(sku)}") }
    static func reservation(_ order: String, of sku: String) -> Bytes { Bytes("{\(sku)}/\(order)") }
}

/// What there is of an article.
public struct Stock: JSONMessage {
    public var onHand = 0
    public var reserved = 0
    public var free: Int { onHand - reserved }
}

struct Reservation: JSONMessage {
    var count: Int
    /// The command that ends it if nobody else does.
    var expiry: ScheduledCommand
}

/// Some of an article was reserved for an order.
public struct Reserved: MachineEvent, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 1
    public var sku: String
    public var order: String
    public var count: Int
    public var key: Bytes { Inventory.reservation(order, of: sku) }
}

/// The last of an article was reserved: more of it has to come.
public struct SoldOut: MachineEvent, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 2
    public var sku: String
    public var key: Bytes { Inventory.stock(of: sku) }
}

/// A reservation's time was over before somebody shipped or cancelled it.
public struct Expired: MachineEvent, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 3
    public var sku: String
    public var order: String
    public var key: Bytes { Inventory.reservation(order, of: sku) }
}

/// More of an article has come.
public struct Restock: MachineCommand, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 1
    public var sku: String
    public var count: Int
    public var key: Bytes { Inventory.stock(of: sku) }

    public init(sku: String, count: Int) { (self.sku, self.count) = (sku, count) }

    public func apply(in context: inout MachineContext) throws -> Stock {
        var stock = try context.get(key, as: Stock.self) ?? Stock()
        // Whatever a client sent: nothing here may overflow, or every host would end at it.
        guard count > 0, count <= 1_000_000_000, stock.onHand <= 1_000_000_000 else {
            throw MachineFailure(Inventory.Reason.notPositive, "\(count) is no number of articles that come")
        }
        stock.onHand += count
        try context.put(key, stock)
        return stock
    }
}

/// Keeps some of what is free for an order, for so many seconds: 900 if it does not say.
public struct Reserve: MachineCommand, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 2
    public var sku: String
    public var order: String
    public var count: Int
    public var seconds: Int?
    public var key: Bytes { Inventory.stock(of: sku) }
    public var readKeys: [Bytes] { [key, Inventory.reservation(order, of: sku)] }

    public init(sku: String, order: String, count: Int, seconds: Int? = nil) {
        (self.sku, self.order, self.count, self.seconds) = (sku, order, count, seconds)
    }

    public func apply(in context: inout MachineContext) throws -> Stock {
        let place = Inventory.reservation(order, of: sku)
        let seconds = self.seconds ?? 900
        guard count > 0, (1...86_400).contains(seconds) else {
            throw MachineFailure(Inventory.Reason.notPositive, "\(count) can't be reserved for \(seconds) s")
        }
        guard try context.get(place) == nil else {
            throw MachineFailure(Inventory.Reason.taken, "order \(order) has a reservation of \(sku)")
        }
        var stock = try context.get(key, as: Stock.self) ?? Stock()
        guard count <= stock.free else {
            throw MachineFailure(Inventory.Reason.tooFew, "only \(stock.free) of \(sku) are free")
        }
        stock.reserved += count
        try context.put(key, stock)
        let expiry = try context.schedule(Expire(sku: sku, order: order), after: .seconds(seconds))
        try context.put(place, Reservation(count: count, expiry: expiry))
        // Whoever watches is told once all this has taken effect, and of nothing that failed.
        try context.emit(Reserved(sku: sku, order: order, count: count))
        if stock.free == 0 { try context.emit(SoldOut(sku: sku)) }
        return stock
    }
}

/// What was reserved for an order leaves the house.
public struct Ship: MachineCommand, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 3
    public var sku: String
    public var order: String
    public var key: Bytes { Inventory.stock(of: sku) }
    public var readKeys: [Bytes] { [key, Inventory.reservation(order, of: sku)] }
    /// Done also by hosts that are short of space.
    public static var bringsDataIn: Bool { false }

    public init(sku: String, order: String) { (self.sku, self.order) = (sku, order) }

    public func apply(in context: inout MachineContext) throws -> Stock {
        try release(sku, order, isShipped: true, in: &context)
    }
}

/// What was reserved for an order is free again.
public struct Cancel: MachineCommand, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 4
    public var sku: String
    public var order: String
    public var key: Bytes { Inventory.stock(of: sku) }
    public var readKeys: [Bytes] { [key, Inventory.reservation(order, of: sku)] }
    public static var bringsDataIn: Bool { false }

    public init(sku: String, order: String) { (self.sku, self.order) = (sku, order) }

    public func apply(in context: inout MachineContext) throws -> Stock {
        try release(sku, order, isShipped: false, in: &context)
    }
}

/// What was reserved for an order is free again, as its time is over: scheduled by `Reserve`, sent by nobody.
public struct Expire: MachineCommand, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 5
    public var sku: String
    public var order: String
    public var key: Bytes { Inventory.stock(of: sku) }
    public var readKeys: [Bytes] { [key, Inventory.reservation(order, of: sku)] }
    public static var bringsDataIn: Bool { false }

    public init(sku: String, order: String) { (self.sku, self.order) = (sku, order) }

    public func apply(in context: inout MachineContext) throws -> Stock {
        let stock = try release(sku, order, isShipped: false, in: &context)
        try context.emit(Expired(sku: sku, order: order))
        return stock
    }
}

private func release(
    _ sku: String, _ order: String, isShipped: Bool, in context: inout MachineContext
) throws -> Stock {
    let place = Inventory.reservation(order, of: sku)
    guard let reservation = try context.get(place, as: Reservation.self),
        var stock = try context.get(Inventory.stock(of: sku), as: Stock.self)
    else { throw MachineFailure(Inventory.Reason.unknownOrder, "order \(order) has no reservation of \(sku)") }
    stock.reserved -= reservation.count
    if isShipped { stock.onHand -= reservation.count }
    // Does nothing where it is this that ends it.
    try context.cancel(reservation.expiry)
    try context.delete(place)
    try context.put(Inventory.stock(of: sku), stock)
    return stock
}

/// What there is of an article, and for how many of these orders something is reserved.
public struct StockOf: MachineQuery, JSONMessage {
    public typealias Machine = Inventory
    public static let number: UInt16 = 1
    public var sku: String
    public var orders: [String]
    public var key: Bytes { Inventory.stock(of: sku) }
    public var readKeys: [Bytes] { [key] + orders.map { Inventory.reservation($0, of: sku) } }

    public init(sku: String, orders: [String] = []) { (self.sku, self.orders) = (sku, orders) }

    public struct Answer: JSONMessage {
        public var stock: Stock
        public var reserved: Int
    }

    public func answer(in view: inout MachineView) throws -> Answer {
        var reserved = 0
        for order in orders {
            reserved += try view.get(Inventory.reservation(order, of: sku), as: Reservation.self)?.count ?? 0
        }
        return Answer(stock: try view.get(key, as: Stock.self) ?? Stock(), reserved: reserved)
    }
}
