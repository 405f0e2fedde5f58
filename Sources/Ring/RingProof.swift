// Whether each slot is in one place: a proof from what replicas say of themselves against the map. Owns what counts as
// proof, and what as violation; asking is somebody else's.
//
// The map names each slot's owner. A group's own log says of slots that came, went or are on their way how they stand
// there, and of no others. So each slot is served by one group if
//   * the ring names a group that exists, and that group's log does not say that the slot is elsewhere;
//   * no other group's log says that the slot is its own;
// and nothing lies about if no replica has records of a slot that is not its group's. Slots of migrations are named:
// between two steps they may be in two places, and are served in one.

public import Primitives

public enum RingProof {
    /// What a command on a slot meets in a group. Numbers are part of the protocol.
    public enum Standing: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
        case open = 1
        case frozen = 2
        case moved = 3
        case arriving = 4
        public var description: String {
            switch self {
            case .open: "open"
            case .frozen: "frozen"
            case .moved: "moved"
            case .arriving: "arriving"
            }
        }
    }

    /// What a group's log says of a slot.
    public struct Gate: Hashable, Sendable {
        public var slot: Slot
        public var standing: Standing
        /// The last one that the group took part in, for this slot.
        public var migration: MigrationID
        /// To whom it went, or from whom it came last.
        public var group: GroupID
        /// Since when, by the ring.
        public var epoch: Epoch
        public init(slot: Slot, standing: Standing, migration: MigrationID, group: GroupID, epoch: Epoch) {
            self.slot = slot
            self.standing = standing
            self.migration = migration
            self.group = group
            self.epoch = epoch
        }
    }

    /// What a group does for a migration.
    public struct Task: Hashable, Sendable {
        public var migration: MigrationID
        public var isSource: Bool
        /// The other one.
        public var group: GroupID
        public var slots: [Slot]
        public init(migration: MigrationID, isSource: Bool, group: GroupID, slots: [Slot]) {
            self.migration = migration
            self.isSource = isSource
            self.group = group
            self.slots = slots
        }
    }

    /// What one replica said.
    public struct Statement: Hashable, Sendable {
        public var group: GroupID
        public var host: HostID
        /// Ascending by slot.
        public var gates: [Gate]
        public var tasks: [Task]
        /// Slots with records; ascending.
        public var filled: [Slot]
        public init(group: GroupID, host: HostID, gates: [Gate] = [], tasks: [Task] = [], filled: [Slot] = []) {
            self.group = group
            self.host = host
            self.gates = gates
            self.tasks = tasks
            self.filled = filled
        }
    }

    public enum Violation: Hashable, Sendable, CustomStringConvertible {
        /// The ring names nobody, or a group that does not exist.
        case noOwner([Slot])
        /// The ring names the group, and its log says otherwise.
        case ownerDoesNotServe(GroupID, HostID, Standing, [Slot])
        /// The group's log says that the slots are its own, and the ring names another.
        case twoOwners(GroupID, HostID, [Slot])
        /// Records of slots that are another group's.
        case strayRecords(GroupID, HostID, [Slot])
        /// The group does something for a migration that the map does not have, or has with others.
        case strayMigration(GroupID, HostID, MigrationID)
        /// Two replicas of a group, which have come to the same state, say different things of slots.
        case replicasDiffer(GroupID, HostID, HostID, [Slot])

        public var description: String {
            switch self {
            case .noOwner(let slots): "\(RingProof.words(slots)): the ring names no group that exists"
            case .ownerDoesNotServe(let group, let host, let standing, let slots):
                "\(RingProof.words(slots)): group \(group) owns them, and its replica on host \(host) has them as \(standing)"
            case .twoOwners(let group, let host, let slots):
                "\(RingProof.words(slots)): the replica of group \(group) on host \(host) serves them, and the ring names others"
            case .strayRecords(let group, let host, let slots):
                "\(RingProof.words(slots)): the replica of group \(group) on host \(host) has records of them, and they are others'"
            case .strayMigration(let group, let host, let id):
                "migration \(id): the replica of group \(group) on host \(host) takes part in it, and the map knows nothing of that"
            case .replicasDiffer(let group, let host, let other, let slots):
                "\(RingProof.words(slots)): the replicas of group \(group) on hosts \(host) and \(other) say different things"
            }
        }

        /// The slots in question, if it is about some.
        public var slots: [Slot] {
            switch self {
            case .noOwner(let slots), .ownerDoesNotServe(_, _, _, let slots), .twoOwners(_, _, let slots),
                .strayRecords(_, _, let slots), .replicasDiffer(_, _, _, let slots):
                slots
            case .strayMigration: []
            }
        }
    }

    /// What speaks against it; empty: it is proven, as far as there are statements. In the order of the ring, then of groups
    /// and hosts.
    ///
    /// Every statement has to be of a replica that has applied all that its group had done when the map was as it is here,
    /// and the map must not have changed since: else it proves nothing either way. O(slots + all that was said).
    ///
    /// - Parameter map: with the migrations that are under way. Their slots may have records at both ends, and the standing
    ///   that goes with a migration's step.
    public static func violations(_ map: ClusterMap, _ statements: [Statement]) -> [Violation] {
        var violations: [Violation] = []
        var migrations: [MigrationRecord?] = Array(repeating: nil, count: Slot.count)
        for migration in map.migrations { for slot in migration.slots { migrations[Int(slot.rawValue)] = migration } }
        let slots = (0..<Slot.count).map { Slot(UInt16($0)) }
        let ownerless = slots.filter { map.owner(of: $0).flatMap { map.group($0) } == nil }
        if !ownerless.isEmpty { violations.append(.noOwner(ownerless)) }
        var sorted = statements.sorted { ($0.group, $0.host) < ($1.group, $1.host) }
        for place in sorted.indices { sorted[place].gates.removeAll { $0.slot >= Slot.group } }
        for statement in sorted {
            let (group, host) = (statement.group, statement.host)
            for standing in Standing.allCases {
                let refused = statement.gates.filter { gate in
                    gate.standing == standing && map.owner(of: gate.slot) == group
                        && !mayStand(standing, asOwner: true, migrations[Int(gate.slot.rawValue)])
                }
                guard !refused.isEmpty else { continue }
                violations.append(.ownerDoesNotServe(group, host, standing, refused.map(\.slot)))
            }
            // One that has come to nothing before it began leaves an open slot behind that was never here.
            let second = statement.gates.filter { gate in
                map.owner(of: gate.slot) != group && (gate.standing != .open || gate.epoch > .zero)
                    && !mayStand(gate.standing, asOwner: false, migrations[Int(gate.slot.rawValue)], of: group)
            }
            if !second.isEmpty { violations.append(.twoOwners(group, host, second.map(\.slot))) }
            let strays = statement.filled.filter { slot in
                guard slot < Slot.group, map.owner(of: slot) != group else { return false }
                let migration = migrations[Int(slot.rawValue)]
                return migration?.source != group && migration?.target != group
            }
            if !strays.isEmpty { violations.append(.strayRecords(group, host, strays)) }
            for task in statement.tasks {
                let known = map.migration(task.migration)
                guard let known, known.slots == task.slots, known.source == (task.isSource ? group : task.group),
                    known.target == (task.isSource ? task.group : group)
                else {
                    violations.append(.strayMigration(group, host, task.migration))
                    continue
                }
            }
        }
        for (one, other) in zip(sorted, sorted.dropFirst()) where one.group == other.group {
            let differing = difference(one, other).filter { migrations[Int($0.rawValue)] == nil }
            if !differing.isEmpty {
                violations.append(.replicasDiffer(one.group, one.host, other.host, differing))
            }
        }
        return violations
    }

    /// Whether a slot's standing in a group goes with a step of its migration, or with none.
    private static func mayStand(
        _ standing: Standing, asOwner isOwner: Bool, _ migration: MigrationRecord?, of group: GroupID? = nil
    ) -> Bool {
        guard let migration else { return isOwner ? standing == .open : standing == .moved }
        switch (isOwner, migration.state) {
        // A recovery decided whose they are, and either log may still say what it said before.
        case (_, .settling): return true
        // The source, by the ring.
        case (true, .copying), (true, .aborting): return standing == .open || standing == .frozen
        // The target: the map hears of `activate` after it was done.
        case (true, .committed): return standing == .arriving
        case (true, .released): return standing == .arriving || standing == .open
        case (true, .activated): return standing == .open
        // The source that gives it away, which releases before the map hears of it; or somebody who had it long ago.
        case (false, .committed):
            return standing == .moved || standing == .frozen && group == migration.source
        case (false, .released), (false, .activated): return standing == .moved
        // The target, or somebody who had it long ago.
        case (false, .copying), (false, .aborting):
            return standing == .moved || standing == .arriving && group == migration.target
        }
    }

    /// Slots of which two replicas of a group say different things; ascending.
    private static func difference(_ one: Statement, _ other: Statement) -> [Slot] {
        func said(_ statement: Statement) -> [Gate?] {
            var said: [Gate?] = Array(repeating: nil, count: Slot.count)
            for gate in statement.gates where gate.slot < Slot.group { said[Int(gate.slot.rawValue)] = gate }
            return said
        }
        let (first, second) = (said(one), said(other))
        return first.indices.filter { first[$0] != second[$0] }.map { Slot(UInt16($0)) }
    }

    /// Slots as runs, the first few.
    public static func words(_ slots: [Slot]) -> String {
        var runs: [(first: UInt16, last: UInt16)] = []
        for slot in slots {
            if let run = runs.last, run.last + 1 == slot.rawValue {
                runs[runs.count - 1].last = slot.rawValue
            } else {
                runs.append((slot.rawValue, slot.rawValue))
            }
        }
        let shown = runs.prefix(8).map { $0.first == $0.last ? "\($0.first)" : "\($0.first)–\($0.last)" }
        return (slots.count == 1 ? "slot " : "slots ") + shown.joined(separator: ", ")
            + (runs.count > 8 ? " and others, \(slots.count) in all" : "")
    }
}
