// Fills the shelves, takes orders, looks at what is left:   inventory-shop ADDRESS:PORT

import Bifrost
import Inventory

let cluster = try await Cluster.connect(to: Array(CommandLine.arguments.dropFirst()))
let inventory = cluster.machine(Inventory.self)
let run = String(UInt32.random(in: 0..<(.max)), radix: 36)
for sku in ["lamp", "chair", "table"] {
    let stock = try await inventory.submit(Restock(sku: "\(sku)-\(run)", count: 10))
    print("\(sku): \(stock.onHand) on hand")
}
// Twenty customers at the same time want a lamp each, and there are ten.
let served = await withTaskGroup(of: Bool.self) { group in
    for number in 0..<20 {
        group.addTask {
            do {
                try await inventory.submit(Reserve(sku: "lamp-\(run)", order: "order-\(number)", count: 1))
                return true
            } catch {
                return false
            }
        }
    }
    var served = 0
    for await isServed in group where isServed { served += 1 }
    return served
}
let orders = (0..<20).map { "order-\($0)" }
let left = try await inventory.query(StockOf(sku: "lamp-\(run)", orders: orders))
print("\(served) of 20 orders were served; \(left.stock.free) lamps are free, \(left.reserved) reserved")
do {
    try await inventory.submit(Ship(sku: "lamp-\(run)", order: "order-99"))
} catch let error where error.code == .machineFailed {
    print(error.message)
}
await cluster.close()
