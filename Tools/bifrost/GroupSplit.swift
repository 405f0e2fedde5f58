// `bifrost group split`: a new group beside one that is too big, and half of its slots there. Asks for a group and for a
// rebalancing of a few steps, by the doors that are there for both.

import ArgumentParser
import Bifrost
import Messages
package import Primitives
import RPC
import Ring
package import StateMachines

/// Which slots of a group are half of it. Pure.
package struct GroupHalves: Sendable, Equatable {
    /// Ascending; the upper ones.
    package var moving: [Slot]
    /// Of their records, in one replica, about; and of all.
    package var bytes: UInt64
    package var bytesOfAll: UInt64

    /// What each slot counts beside its bytes, so that empty ones are halved, too.
    private static let slotBytes: UInt64 = 1 << 10

    /// - Parameters:
    ///   - slots: the group's, ascending; two at least, or nothing moves.
    ///   - bytes: what was measured of each that has any, ascending by slot.
    package init(_ slots: [Slot], bytes: [SlotLoad]) {
        var next = bytes[...]
        let sizes = slots.map { slot -> UInt64 in
            while let first = next.first, first.slot < slot { next.removeFirst() }
            // Whatever a host says: no more than the planner takes any slot for.
            return next.first?.slot == slot ? min(next.first!.bytes, RebalanceInput.loadMax) : 0
        }
        bytesOfAll = sizes.reduce(0, +)
        let whole = bytesOfAll + Self.slotBytes * UInt64(slots.count)
        // Two runs of slots: as many as come before the middle stay, and one at least on each side.
        var (before, staying) = (UInt64(0), 0)
        while staying < slots.count, before + (sizes[staying] + Self.slotBytes) / 2 <= whole / 2 {
            before += sizes[staying] + Self.slotBytes
            staying += 1
        }
        staying = min(max(staying, 1), max(slots.count - 1, 0))
        moving = Array(slots.dropFirst(max(staying, 1)))
        self.bytes = sizes.dropFirst(max(staying, 1)).reduce(0, +)
    }
}

struct GroupSplit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "split", abstract: "Makes a new group on the same hosts, and moves half of a group's slots there.",
        discussion: """
            Half by bytes, as the group's leader measures them. The move is a rebalancing of its own, and shown like one: \
            if this command ends the cluster goes on. The new group has the same weight, so that plans of rebalancing give \
            both a whole share. It needs feature level 11.

            EXIT CODES: as of 'bifrost rebalance apply'.

            EXAMPLES:
              bifrost group split 3
              bifrost group split 3 --detach --max-bytes-per-second 20MiB
            """)

    @Argument(help: ArgumentHelp("The group's number.", valueName: "group"))
    var group: GroupArgument

    @Flag(help: "Begin it, and do not wait.")
    var detach = false

    @Flag(
        inversion: .prefixedNo,
        help: "Show how far it is on standard error. (default: if that is a terminal)")
    var progress: Bool?

    @OptionGroup var limits: RebalanceLimits
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var group: UInt32
        var slots: Int
        var bytes: UInt64
        var rebalancing: UInt64
        var changed: Bool
        var done: Bool
    }

    func run() async throws {
        let cluster = try await options.cluster()
        let watch = RebalancingWatch(cluster, options)
        do {
            try await run(cluster, watch)
        } catch {
            watch.close()
            await cluster.close()
            throw error
        }
    }

    private func run(_ cluster: Cluster, _ watch: RebalancingWatch) async throws {
        let administrator = Administrator(options, timeout: .seconds(60))
        defer { administrator.close() }
        let map = try await administrator.map()
        let record = try MapNames.group(group.id, in: map)
        guard record.id != .meta else { throw ToolError(.negative, "the meta group has no slots: nothing was changed") }
        let slots = map.ring.slots(of: record.id)
        guard slots.count > 1 else {
            throw ToolError(
                .negative,
                "\(record.id.words) has \(HumanText.count(slots.count, "slot")), which can't be halved; nothing was changed"
            )
        }
        // Before anything is made: whether it could be given something.
        if let standing = try await administrator.rebalancing(until: RPCClock.now() + 10_000_000_000),
            !standing.rebalancing.isOver
        {
            throw ToolError(
                .negative,
                "rebalancing \(standing.rebalancing.id) is under way: wait until it is over, or cancel it; nothing was changed"
            )
        }
        let load = try await cluster.load(of: record.id)
        let halves = GroupHalves(slots, bytes: load.slots)
        let hosts = record.replicas.filter { $0.role == .voter }.map(\.host)
        let change = try await administrator.bring(
            about: .createGroup(weight: record.weight, hosts: hosts), from: map)
        let new = change.subject.group
        let id: RebalancingID
        do throws(ToolError) {
            id = try await begin(halves, to: new, since: change.mapVersion, administrator)
        } catch {
            throw ToolError(
                error.status,
                "\(error.message); group \(new) is made and has no slots: see 'bifrost rebalance apply', or delete it")
        }
        if detach {
            if options.common.json {
                try Output.json(
                    Report(
                        group: new.rawValue, slots: halves.moving.count, bytes: halves.bytes, rebalancing: id.rawValue,
                        changed: true, done: false))
            } else {
                try Output.line(
                    "group \(new) gets \(HumanText.count(halves.moving.count, "slot")) of \(record.id.words), "
                        + "\(HumanText.bytes(halves.bytes)) of \(HumanText.bytes(halves.bytesOfAll)): rebalancing \(id) has "
                        + "begun, and goes on by itself")
            }
            throw Outcome(.inProgress)
        }
        let report = try await watch.follow(id, isShown: progress ?? Output.isErrorTerminal)
        watch.close()
        await cluster.close()
        if !options.common.json, report.end == .converged {
            return try Output.line(
                "group \(new) has \(HumanText.count(halves.moving.count, "slot")) of \(record.id.words), "
                    + "\(HumanText.bytes(halves.bytes)) of \(HumanText.bytes(halves.bytesOfAll))")
        }
        try watch.print(report, json: options.common.json, steps: false)
    }

    private func begin(
        _ halves: GroupHalves, to new: GroupID, since version: UInt64, _ administrator: Administrator
    ) async throws(ToolError) -> RebalancingID {
        var map = try await administrator.map()
        while map.version < version, !administrator.isOver { map = try await administrator.map() }
        let replicas = UInt64(map.group(new)?.replicas.count ?? 1)
        let plan = RebalancePlan(
            moving: halves.moving, from: group.id, to: new, bytes: halves.bytes * replicas)
        let order = try RebalancingOrder(plan, for: map, limits)
        guard order.stepsLeft == nil else {
            throw ToolError(.fault, "half of a group does not fit into a command; please report it")
        }
        return try await administrator.begin(order.plan)
    }
}

extension RebalancePlan {
    /// Of one move.
    fileprivate init(moving slots: [Slot], from source: GroupID, to target: GroupID, bytes: UInt64) {
        self.init(
            steps: [Step(move: .slots(slots, from: source, to: target), reason: .groupIsNew, bytes: bytes)])
    }
}
