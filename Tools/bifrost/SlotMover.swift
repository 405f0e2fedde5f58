// Moves slots of a cluster that is measured, as an operator would who asks for each move by itself.

package import Primitives
import RPC
import Ring

/// One who moves slots, one move after the other. Used by one task.
package final class SlotMover {
    private let operators: Administrator
    private let patienceNanoseconds: UInt64

    /// How often the map is looked at: times of moves are late by as much.
    private static let pause = Duration.milliseconds(10)

    /// - Parameter patience: for each move.
    init(_ addresses: [String], patience: Duration) {
        operators = Administrator(seeds: addresses, timeout: .seconds(3_600 * 24 * 365))
        patienceNanoseconds = UInt64(patience / .nanoseconds(1))
    }

    func close() { operators.close() }

    /// Slots that go from group to group at a time in a plan for one more group: its share, from each of the others. Of
    /// large shares no more than a rebalancing moves at a time.
    package static func slotsOfPlan(groups: Int) -> Int {
        min(max(Slot.count / (groups * (groups + 1)), 1), Rebalancing.slotsOfStepMax)
    }

    /// So many of a group's slots, spread over all of them; fewer if it has fewer.
    package static func some(_ count: Int, of slots: [Slot]) -> [Slot] {
        let count = min(count, slots.count)
        return (0..<count).map { slots[$0 * slots.count / count] }
    }

    /// Asks for the move, and waits until the target serves the slots, as the map tells.
    /// - Returns: nanoseconds from one to the other.
    func move(_ slots: [Slot], from source: GroupID, to target: GroupID) async throws -> UInt64 {
        let start = RPCClock.now()
        let change = try await operators.bring(
            about: .moveSlots(slots, from: source, to: target), from: try await operators.map())
        let moving = Set(slots)
        try await look("the move to group \(target)", since: start) { map in
            let migration = map.migrations.first { !moving.isDisjoint(with: $0.slots) }
            guard map.version >= change.mapVersion, migration.map({ $0.state == .activated }) ?? true else {
                return false
            }
            guard slots.allSatisfy({ map.ring.owner(of: $0) == target }) else {
                throw ToolError(.negative, "the move to group \(target) was given up by the cluster")
            }
            return true
        }
        return RPCClock.now().since(start)
    }

    /// Waits until they may move again: nothing of them is left where they came from.
    func rest(_ slots: [Slot]) async throws {
        let moving = Set(slots)
        try await look("cleaning up behind a move", since: RPCClock.now()) { map in
            map.migrations.allSatisfy { moving.isDisjoint(with: $0.slots) }
        }
    }

    private func look(
        _ what: String, since start: Instant, until isDone: (ClusterMap) throws -> Bool
    ) async throws {
        while true {
            if try isDone(try await operators.map()) { return }
            guard RPCClock.now().since(start) < patienceNanoseconds else {
                throw ToolError(.unavailable, "\(what) takes too long")
            }
            try await Task.sleep(for: Self.pause)
        }
    }
}
