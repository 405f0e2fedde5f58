// What is to be done next for a rebalancing, and what each of its steps waits for. Looks at the record and the map alone,
// and at who is away: whoever leads the meta group finds the same, so that anything may be found again after a crash. What
// is done twice is done once, because each report says so in the record.

public import Primitives

/// What a step waits for. Printed as what stands behind "waits for".
public enum RebalanceWait: Hashable, Sendable, CustomStringConvertible {
    /// Somebody paused all of it.
    case resumption
    case turn(underway: Int, most: Int)
    /// Another one, that comes first; by its place, from 0 on.
    case step(Int)
    /// It does not answer.
    case host(HostID)
    /// It is stopped.
    case group(GroupID)
    /// Another one than its own.
    case migration(MigrationID)
    /// Of its group something is on its way that is not the step's own.
    case members(GroupID)
    /// The map has as many migrations as it may.
    case room
    /// Its own migration.
    case copy(MigrationID, MigrationRecord.State)
    /// Its own replica, which is on its way.
    case replica(ReplicaID, HostID, votes: Bool)
    /// The one that went, or will, to leave the group.
    case leaving(ReplicaID, HostID)

    public var description: String {
        switch self {
        case .resumption: "somebody to resume it"
        case .turn(let underway, let most): "its turn: \(underway) moves are under way, of at most \(most)"
        case .step(let place): "step \(place + 1)"
        case .host(let host): "host \(host), which does not answer"
        case .group(let group): "group \(group), which is stopped: start it"
        case .migration(let id): "migration \(id), which has some of its slots"
        case .members(let group): "group \(group), whose members are changing"
        case .room: "the end of one of \(ClusterMap.migrationsMax) migrations, which is the most"
        case .copy(let id, let state):
            switch state {
            case .copying: "migration \(id): the other group fetches what there is"
            case .committed: "migration \(id): the group that had the slots has to release them"
            case .released: "migration \(id): the group that gets the slots has to activate them"
            case .activated: "migration \(id): the group that had the slots cleans up"
            case .aborting: "migration \(id): both groups have to forget it"
            case .settling: "migration \(id): both groups have to settle whose its slots are, as a recovery said"
            }
        case .replica(let replica, let host, let votes):
            votes
                ? "replica \(replica) on host \(host), which votes: the map is told"
                : "replica \(replica) on host \(host): it catches up"
        case .leaving(let replica, let host): "replica \(replica) on host \(host): it leaves the group"
        }
    }

    /// It does not go on until somebody does something.
    public var needsSomebody: Bool {
        switch self {
        case .resumption, .host, .group: true
        default: false
        }
    }
}

/// What who drives a rebalancing does next: one entry of the meta group's log each.
public enum RebalanceAct: Hashable, Sendable {
    case report(Int, Rebalancing.Report)
    /// Of a step that is under way, when all is cancelled.
    case abort(MigrationID)
    /// A replica on its way that is not wanted any more, or that comes to a host that does not answer any more.
    case takeBack(GroupID, ReplicaID)
    /// It is given the limits that stand in the record.
    case limit(MigrationID)
}

/// How a step stands.
private enum Standing {
    case over
    case waits(RebalanceWait)
    case acts([RebalanceAct], RebalanceWait?)
}

extension Rebalancing {
    /// What is to be done now, in order; with the first of it done, it is to be asked again.
    ///
    /// - Parameters:
    ///   - away: hosts that do not answer, ascending.
    ///   - lost: those of them that have not for so long that what is on its way there is given up.
    public func acts(_ map: ClusterMap, away: [HostID] = [], lost: [HostID] = []) -> [RebalanceAct] {
        standings(map, away: away, lost: lost).flatMap { standing -> [RebalanceAct] in
            if case .acts(let acts, _) = standing { acts } else { [] }
        }
    }

    /// What each step waits for, by its place; nil: nothing, because it is over or about to go on.
    public func waits(_ map: ClusterMap, away: [HostID] = [], lost: [HostID] = []) -> [RebalanceWait?] {
        standings(map, away: away, lost: lost).map { standing in
            switch standing {
            case .over: nil
            case .waits(let wait): wait
            case .acts(_, let wait): wait
            }
        }
    }

    private func standings(_ map: ClusterMap, away: [HostID], lost: [HostID]) -> [Standing] {
        guard !isOver else { return steps.map { _ in .over } }
        let view = View(self, map, away: away, lost: lost)
        var order = Order()
        var underway = count(.underway)
        return steps.enumerated().map { place, step in
            guard !step.isOver else { return .over }
            // Asked of all, and in order: whoever comes later waits for those that are not over.
            let first = order.isBehind(step.move, at: place)
            switch step.state {
            case .underway: return view.goingOn(step, at: place)
            case .waiting:
                if isCancelled { return .acts([.report(place, .cancelled)], nil) }
                if let first { return .waits(.step(first)) }
                let (report, wait) = view.premise(step)
                if let report { return .acts([.report(place, report)], nil) }
                if isPaused { return .waits(.resumption) }
                if let wait { return .waits(wait) }
                if case .leader = step.move { return .acts([.report(place, .begun)], nil) }
                guard underway < Int(limits.concurrentMax) else {
                    return .waits(.turn(underway: underway, most: Int(limits.concurrentMax)))
                }
                underway += 1
                return .acts([.report(place, .begun)], nil)
            case .done, .failed, .cancelled: return .over
            }
        }
    }

    /// Which of the earlier steps that are not over comes first. The planner's order says in which order steps of one group
    /// are allowed; several migrations of a group may run at a time. What leaves a host makes room for what comes.
    private struct Order {
        /// The last step of each group. Looked up only, as the others.
        private var last: [GroupID: Int] = [:]
        /// The last one of the group that moves no slots.
        private var lastOfMembers: [GroupID: Int] = [:]
        private var leaving: [HostID: Int] = [:]

        mutating func isBehind(_ move: RebalancePlan.Move, at place: Int) -> Int? {
            switch move {
            case .slots(_, let from, let to):
                let first = [lastOfMembers[from], lastOfMembers[to]].compactMap { $0 }.max()
                last[from] = place
                last[to] = place
                return first
            case .replica(let group, _, let from, let to):
                let first = [last[group], leaving[to]].compactMap { $0 }.max()
                last[group] = place
                lastOfMembers[group] = place
                leaving[from] = place
                return first
            case .leader(let group, _, _):
                // Slots may move meanwhile.
                let first = lastOfMembers[group]
                last[group] = place
                lastOfMembers[group] = place
                return first
            }
        }
    }

    /// The map, by slots.
    private struct View {
        let record: Rebalancing
        let map: ClusterMap
        let away: [HostID]
        let lost: [HostID]
        private let migrations: [MigrationID]

        init(_ record: Rebalancing, _ map: ClusterMap, away: [HostID], lost: [HostID]) {
            (self.record, self.map, self.away, self.lost) = (record, map, away, lost)
            var migrations = Array(repeating: MigrationID.none, count: map.migrations.isEmpty ? 0 : Slot.count)
            for migration in map.migrations {
                for slot in migration.slots { migrations[Int(slot.rawValue)] = migration.id }
            }
            self.migrations = migrations
        }

        /// Of a step that waits: what is to be said of it instead of beginning it, or what it waits for.
        func premise(_ step: Step) -> (Report?, RebalanceWait?) {
            switch step.move {
            case .slots(let slots, let from, let to): return premise(slots, from, to)
            case .replica(let id, let replica, let from, let to): return premise(step, id, replica, from, to)
            case .leader(let id, let from, let to): return premise(step, id, from, to)
            }
        }

        /// A host that drains is left by the planner of moves, too: it takes the same replicas and leads, whenever it comes
        /// to them, and has its own mind where they go. What it brings about is what the step is there for.
        private func isLeft(_ host: HostID, by step: Step) -> Bool {
            step.reason == .hostDrains || map.host(host)?.state == .draining
        }

        /// The planner of moves will find another host than the step's for what is left.
        private func isDrained(_ host: HostID, of group: GroupRecord) -> Bool {
            map.host(host)?.state == .draining
                && map.hosts.contains {
                    $0.state == .active && $0.weight > 0 && group.replica(on: $0.id) == nil && !away.contains($0.id)
                }
        }

        private func premise(
            _ step: Step, _ id: GroupID, _ replica: ReplicaID, _ from: HostID, _ to: HostID
        ) -> (Report?, RebalanceWait?) {
            guard let group = map.group(id) else { return (.failed("there is no group \(id) any more"), nil) }
            guard let old = group.record(of: replica) else {
                if isLeft(from, by: step), group.replica(on: from) == nil { return (.done, nil) }
                return group.replicas.contains { $0.host == to && $0.isSettled }
                    ? (.done, nil) : (.failed("replica \(replica) of group \(id) is gone already"), nil)
            }
            guard old.host == from else {
                return (.failed("replica \(replica) of group \(id) is \(old.role) on host \(old.host)"), nil)
            }
            // Somebody else moves or removes it, or another of the group: what that comes to is seen then.
            if !old.isWanted || group.isMoving { return (nil, .members(id)) }
            guard let target = map.host(to) else {
                return isDrained(from, of: group)
                    ? (nil, .members(id)) : (.failed("host \(to) is not there any more"), nil)
            }
            guard target.state == .active, target.weight > 0 else {
                return isDrained(from, of: group)
                    ? (nil, .members(id)) : (.failed("host \(to) takes no replicas any more"), nil)
            }
            if let there = group.replica(on: to) {
                return isDrained(from, of: group)
                    ? (nil, .members(id)) : (.failed("host \(to) has replica \(there) of group \(id) already"), nil)
            }
            return away.contains(to) ? (nil, .host(to)) : (nil, nil)
        }

        /// An earlier step was to bring a replica there, and the drain of its host has brought it to another.
        private func wentElsewhere(_ id: GroupID, than host: HostID) -> Bool {
            record.steps.contains { step in
                guard case .replica(id, _, let from, host) = step.move else { return false }
                return step.state == .done && isLeft(from, by: step)
            }
        }

        private func premise(
            _ step: Step, _ id: GroupID, _ from: HostID, _ to: HostID
        ) -> (Report?, RebalanceWait?) {
            guard let group = map.group(id) else { return (.failed("there is no group \(id) any more"), nil) }
            let present = group.host(of: group.preferredLeader)
            if present == to { return (.done, nil) }
            let hasLeft =
                isLeft(from, by: step) && present.flatMap { map.host($0) }.map { $0.state == .active } ?? false
            guard present == from else {
                return hasLeft
                    ? (.done, nil)
                    : (.failed("group \(id) prefers host \(present ?? HostID(0)) by now, not \(from)"), nil)
            }
            guard let heir = group.replicas.first(where: { $0.host == to }) else {
                return hasLeft || wentElsewhere(id, than: to)
                    ? (.done, nil) : (.failed("group \(id) has no replica on host \(to)"), nil)
            }
            if group.isMoving { return (nil, .members(id)) }
            guard heir.role == .voter, heir.membership == .voter else {
                return (.failed("replica \(heir.id) of group \(id) on host \(to) does not vote"), nil)
            }
            guard let host = map.host(to), host.state == .active, host.weight > 0 else {
                return (.failed("host \(to) is to lead nothing any more"), nil)
            }
            return (nil, nil)
        }

        private func premise(_ slots: [Slot], _ from: GroupID, _ to: GroupID) -> (Report?, RebalanceWait?) {
            for id in [from, to] where map.group(id) == nil {
                return (.failed("there is no group \(id) any more"), nil)
            }
            // One that is stopped may be started: its slots stay until then.
            for id in [from, to] where map.group(id)?.state == .stopped { return (nil, .group(id)) }
            if let other = slots.lazy.map({ migration(of: $0) }).first(where: { $0 != .none }) {
                return (nil, .migration(other))
            }
            if slots.allSatisfy({ map.owner(of: $0) == to }) { return (.done, nil) }
            if let slot = slots.first(where: { map.owner(of: $0) != from }) {
                let owner = map.owner(of: slot).map { "group \($0)'s" } ?? "nobody's"
                return (.failed("slot \(slot) is \(owner) by now, not group \(from)'s"), nil)
            }
            return map.migrations.count < ClusterMap.migrationsMax ? (nil, nil) : (nil, .room)
        }

        private func migration(of slot: Slot) -> MigrationID {
            migrations.isEmpty ? .none : migrations[Int(slot.rawValue)]
        }

        func goingOn(_ step: Step, at place: Int) -> Standing {
            switch step.move {
            case .slots(let slots, let from, let to):
                let id = MigrationID(step.begun)
                if let migration = map.migration(id) {
                    let wait = RebalanceWait.copy(id, migration.state)
                    if record.isCancelled, migration.canAbort { return .acts([.abort(id)], wait) }
                    if migration.canAbort, migration.limits != record.limits.ofMigration {
                        return .acts([.limit(id)], wait)
                    }
                    return .waits(wait)
                }
                if slots.allSatisfy({ map.owner(of: $0) == to }) { return .acts([.report(place, .done)], nil) }
                guard slots.allSatisfy({ map.owner(of: $0) == from }) else {
                    return .acts([.report(place, .failed("its slots went elsewhere meanwhile"))], nil)
                }
                // What was written down of it when it was called off stays.
                let isKnown = step.word.hasPrefix(Rebalancing.calledOffWord(id))
                let word = isKnown ? step.word : "migration \(id) was aborted"
                return .acts([.report(place, cameToNothing(step, word))], nil)
            case .replica(let group, let replica, _, let to): return goingOn(step, group, replica, to, at: place)
            // It is done when it is begun.
            case .leader: return .acts([.report(place, .done)], nil)
            }
        }

        private func goingOn(
            _ step: Step, _ id: GroupID, _ replica: ReplicaID, _ to: HostID, at place: Int
        ) -> Standing {
            guard let group = map.group(id) else {
                return .acts([.report(place, .failed("group \(id) was deleted meanwhile"))], nil)
            }
            let old = group.record(of: replica)
            let new = group.replicas.first { $0.host == to }
            guard let new else {
                let word = "its replica on host \(to) was removed before the other one left"
                return .acts(
                    [.report(place, old == nil ? .failed(word) : cameToNothing(step, word))], nil)
            }
            guard let old else {
                guard !new.isSettled else { return .acts([.report(place, .done)], nil) }
                return .waits(wait(for: new))
            }
            let wait = wait(for: new)
            // Somebody's other wish: the step goes to its end without the rest.
            if !new.isWanted || new.isSettled { return .waits(new.isWanted ? .leaving(old.id, old.host) : wait) }
            if record.isCancelled || lost.contains(to), new.membership != .voter {
                return .acts([.takeBack(id, new.id)], wait)
            }
            return .waits(away.contains(to) ? .host(to) : wait)
        }

        private func wait(for new: ReplicaRecord) -> RebalanceWait {
            new.isWanted
                ? .replica(new.id, new.host, votes: new.membership == .voter) : .leaving(new.id, new.host)
        }

        private func cameToNothing(_ step: Step, _ word: String) -> Report {
            if record.isCancelled { return .cancelled }
            return step.attempts < Rebalancing.attemptsMax ? .again(word) : .failed(word)
        }
    }
}

extension RebalanceWait {
    /// `kind u8 | number u64 | number u64`
    public func encode(into writer: inout ByteWriter) {
        func write(_ kind: UInt8, _ first: UInt64 = 0, _ second: UInt64 = 0) {
            writer.write(kind)
            writer.write(first)
            writer.write(second)
        }
        switch self {
        case .resumption: write(1)
        case .turn(let underway, let most): write(2, UInt64(underway), UInt64(most))
        case .step(let place): write(3, UInt64(place))
        case .host(let host): write(4, host.rawValue)
        case .group(let group): write(5, UInt64(group.rawValue))
        case .migration(let id): write(6, id.rawValue)
        case .members(let group): write(7, UInt64(group.rawValue))
        case .room: write(8)
        case .copy(let id, let state): write(9, id.rawValue, UInt64(state.rawValue))
        case .replica(let id, let host, let votes): write(votes ? 11 : 10, id.rawValue, host.rawValue)
        case .leaving(let id, let host): write(12, id.rawValue, host.rawValue)
        }
    }

    public static let encodedBytes = 17

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        let (first, second) = (try reader.read(UInt64.self), try reader.read(UInt64.self))
        switch kind {
        case 1: self = .resumption
        case 2: self = .turn(underway: Int(truncatingIfNeeded: first), most: Int(truncatingIfNeeded: second))
        case 3:
            guard first < UInt64(Rebalancing.stepsMax) else {
                throw DecodingFailure(expected: "a step below \(Rebalancing.stepsMax)", found: "\(first)")
            }
            self = .step(Int(first))
        case 4: self = .host(HostID(first))
        case 5: self = .group(GroupID(UInt32(truncatingIfNeeded: first)))
        case 6: self = .migration(MigrationID(first))
        case 7: self = .members(GroupID(UInt32(truncatingIfNeeded: first)))
        case 8: self = .room
        case 9:
            guard let state = MigrationRecord.State(rawValue: UInt8(truncatingIfNeeded: second)) else {
                throw DecodingFailure(expected: "a migration's state, 1 to 6", found: "\(second)")
            }
            self = .copy(MigrationID(first), state)
        case 10, 11: self = .replica(ReplicaID(first), HostID(second), votes: kind == 11)
        case 12: self = .leaving(ReplicaID(first), HostID(second))
        default: throw DecodingFailure(expected: "what a step waits for, 1 to 12", found: "kind \(kind)")
        }
    }
}
