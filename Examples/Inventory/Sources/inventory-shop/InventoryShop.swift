// Fills the shelves, takes orders, tells who was served, looks at what is left:   inventory-shop ADDRESS:PORT

import Bifrost
import Inventory

@main
enum InventoryShop {
    static func main() async throws {
        let cluster = try await Cluster.connect(to: Array(CommandLine.arguments.dropFirst()))
        let inventory = cluster.machine(Inventory.self)
        // Another article in each run.
        let sku = "lamp-" + String(UInt32.random(in: 0..<(.max)), radix: 36)
        let stock = try await inventory.submit(Restock(sku: sku, count: 10))
        print("\(sku): \(stock.onHand) on hand")
        // A watch that stands before the first customer comes misses nobody.
        var reservations = inventory.events(Reserved.self, of: Inventory.stock(of: sku)).makeAsyncIterator()
        try await reservations.begin()
        // Twenty customers want one each at the same time, and there are ten.
        let served = await withTaskGroup(of: Bool.self) { group in
            for number in 0..<20 {
                group.addTask {
                    (try? await inventory.submit(Reserve(sku: sku, order: "order-\(number)", count: 1))) != nil
                }
            }
            var served = 0
            for await isServed in group where isServed { served += 1 }
            return served
        }
        // In the order in which the inventory served them, which is the same for all who watch.
        for place in 0..<served {
            guard let reserved = try await reservations.next(isolation: nil) else { break }
            print("\(place + 1): \(reserved.event.order)")
        }
        let left = try await inventory.query(StockOf(sku: sku, orders: (0..<20).map { "order-\($0)" }))
        print("\(served) of 20 orders were served; \(left.stock.free) are free, \(left.reserved) reserved")
        do {
            try await inventory.submit(Ship(sku: sku, order: "order-99"))
        } catch {
            print("\(error)")
        }
        await cluster.close()
    }
}
