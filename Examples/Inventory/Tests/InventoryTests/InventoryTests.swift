// The inventory under crashes, partitions and slow disks: whole clusters in virtual time. And what it tells: on a real
// one, in the test's own process.

import BifrostEmbedded
import BifrostSimulator
import Foundation
import Inventory
import Testing

/// Customers of three articles.
final class Shop: SimulatedWorkload {
    let machines: StateMachineRegistry
    private var orders: [String: [String]] = [:]
    private var restocked: [String: Int] = [:]
    private var number = 0
    /// Articles of which nothing is reserved any more, at the end.
    private var free: Set<String> = []

    init() throws { machines = try StateMachineRegistry([Inventory.self]) }

    func next(random: inout SeededRandom) -> SimulatedRequest {
        number += 1
        let sku = "article \(random.below(3))"
        let count = 1 + Int(random.below(4))
        let open = orders[sku, default: []]
        let order = open.isEmpty ? "none" : open[Int(random.below(UInt64(open.count)))]
        switch random.below(10) {
        case 0, 1:
            restocked[sku, default: 0] += count
            return SimulatedRequest(Restock(sku: sku, count: count))
        case 2, 3, 4:
            let name = "order \(number)"
            let reserve = Reserve(sku: sku, order: name, count: count, seconds: 1 + Int(random.below(30)))
            return SimulatedRequest(reserve) { [unowned self] outcome in
                switch outcome {
                case .answer(let stock):
                    orders[sku, default: []].append(name)
                    return Self.problem(stock)
                // It is sent once, however often it has to be sent again.
                case .failure(let failure): return failure.code == Inventory.Reason.tooFew ? nil : "\(failure)"
                case .notDone, .unknown: return nil
                }
            }
        case 5, 6: return SimulatedRequest(Ship(sku: sku, order: order))
        case 7: return SimulatedRequest(Cancel(sku: sku, order: order))
        default: return stock(of: sku)
        }
    }

    /// Nothing stays reserved for ever.
    func unsettledRequests() -> [SimulatedRequest] {
        (0..<3).map { "article \($0)" }.filter { !free.contains($0) }.map { sku in
            SimulatedRequest(StockOf(sku: sku)) { [unowned self] outcome in
                if case .answer(let found) = outcome, found.stock.reserved == 0 { free.insert(sku) }
                return nil
            }
        }
    }

    func finalRequests() -> [SimulatedRequest] { (0..<3).map { stock(of: "article \($0)") } }

    private func stock(of sku: String) -> SimulatedRequest {
        SimulatedRequest(StockOf(sku: sku, orders: orders[sku] ?? [])) { [unowned self] outcome in
            guard case .answer(let found) = outcome else { return nil }
            if found.stock.onHand > restocked[sku, default: 0] { return "more on hand than ever came" }
            if found.reserved > found.stock.reserved { return "more reserved for orders than in all" }
            return Self.problem(found.stock)
        }
    }

    private static func problem(_ stock: Stock) -> String? {
        stock.reserved < 0 || stock.free < 0 ? "\(stock.reserved) reserved of \(stock.onHand)" : nil
    }
}

@Suite struct InventoryTests {
    @Test func nothingIsSoldTwiceWhateverFails() throws {
        let report = try simulate(seeds: 1...6, settings: SimulationSettings(seconds: 20)) {
            do { return try Shop() } catch { preconditionFailure("\(error)") }
        }
        #expect(report.acknowledged > 1_000)
    }

    @Test(.timeLimit(.minutes(5))) func whoWatchesIsToldOfEachReservationAndOfTheLast() async throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("inventory-\(UUID())").path
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let cluster = try await Cluster.open(directory: directory, machines: [Inventory.self])
        let inventory = cluster.machine(Inventory.self)
        try await inventory.submit(Restock(sku: "lamp", count: 3))
        try await inventory.submit(Restock(sku: "chair", count: 1))

        var lamps = inventory.events(of: Inventory.stock(of: "lamp")).makeAsyncIterator()
        try await lamps.begin()
        try await inventory.submit(Reserve(sku: "lamp", order: "1", count: 2))
        try await inventory.submit(Reserve(sku: "chair", order: "2", count: 1))
        await #expect(throws: BifrostError(.machineFailed, "too few")) {
            try await inventory.submit(Reserve(sku: "lamp", order: "3", count: 2))
        }
        try await inventory.submit(Cancel(sku: "lamp", order: "1"))
        try await inventory.submit(Reserve(sku: "lamp", order: "4", count: 3))

        // Neither of chairs, nor of what failed.
        var told: [MachineEventRecord] = []
        while told.count < 3 { told.append(try #require(await lamps.next(isolation: nil))) }
        #expect(told.map(\.number) == [Reserved.number, Reserved.number, SoldOut.number])
        #expect(try told.prefix(2).map { try Reserved(decoding: $0.body).order } == ["1", "4"])
        // The last lamp and the end of lamps are one command's events.
        #expect(told[1].revision == told[2].revision)

        // What nobody fetches is free again.
        try await inventory.submit(Restock(sku: "lamp", count: 1))
        try await inventory.submit(Reserve(sku: "lamp", order: "5", count: 1, seconds: 1))
        while told.last?.number != Expired.number { told.append(try #require(await lamps.next(isolation: nil))) }
        #expect(try told.last.map { try Expired(decoding: $0.body).order } == "5")
        #expect(try await inventory.query(StockOf(sku: "lamp")).stock.free == 1)

        // Later, and of one type alone: behind a revision.
        let soldOut = inventory.events(
            SoldOut.self, of: Inventory.stock(of: "lamp"), from: .after(told[0].resume))
        for try await event in soldOut {
            #expect(event.revision == told[2].revision, "the first that was sold out")
            break
        }
        await cluster.close()
    }
}
