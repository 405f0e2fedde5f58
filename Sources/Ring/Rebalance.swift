// What moves so that a cluster is in balance: what is given, what is answered. Owns who should be where at the end, and
// in which order; how a move is carried out safely is the business of the groups and of consensus.
//
//   map, facts, loads, rules ──► slots to groups ──► replicas to hosts ──► leads to replicas ──► steps in order
//                                (sizes of groups)   (sizes of hosts)     (operations of hosts)

public import Primitives

/// All that a plan follows from.
public struct RebalanceInput: Sendable {
    /// What is known of a host beside its record.
    public struct HostFacts: Hashable, Sendable {
        public var host: HostID
        /// Bytes of groups' states that the host may have; nobody is given more.
        public var capacityBytes: UInt64
        public var isUp: Bool
        public init(host: HostID, capacityBytes: UInt64 = .max, isUp: Bool = true) {
            self.host = host
            self.capacityBytes = capacityBytes
            self.isUp = isUp
        }
    }

    /// What was measured of a slot.
    public struct SlotLoad: Hashable, Sendable {
        public var slot: Slot
        /// Of its records, in one replica.
        public var bytes: UInt64
        /// Reads and writes per second.
        public var operations: UInt64
        public init(slot: Slot, bytes: UInt64, operations: UInt64) {
            self.slot = slot
            self.bytes = bytes
            self.operations = operations
        }
    }

    /// How uneven a cluster may stay, and how long a plan may be.
    public struct Rules: Hashable, Sendable {
        /// By how many per cent of its share a host or a group may have more or fewer bytes. One item of mean size (a
        /// replica, a slot) is always allowed.
        public var bytesPercent = 10
        /// Likewise of operations per second: of a group's slots, and of the groups that a host leads.
        public var operationsPercent = 10
        /// Likewise of the groups that a host leads, rounded to whole ones.
        public var leadersPercent = 10
        /// The plan ends before the step that would be one too many.
        public var stepsMax = Int.max
        /// The plan ends before the step that would move more in all.
        public var bytesMax = UInt64.max
        /// What each replica counts beside its bytes, so that small or unmeasured groups are spread by their number.
        public var replicaOverheadBytes: UInt64 = 1 << 20
        /// What each slot counts beside its bytes, likewise.
        public var slotOverheadBytes: UInt64 = 1 << 10
        public init() {}
    }

    public var map: ClusterMap
    /// Hosts that are not named are up, and have room without end.
    public var hosts: [HostFacts]
    /// A slot that is not named is taken for the mean of those that are. More than `loadMax` counts as that.
    public var loads: [SlotLoad]
    public var rules: Rules

    /// Bytes, or operations, of a slot. Sums over all slots and replicas stay far below the end of the type.
    public static let loadMax: UInt64 = 1 << 44

    public init(map: ClusterMap, hosts: [HostFacts] = [], loads: [SlotLoad] = [], rules: Rules = Rules()) {
        self.map = map
        self.hosts = hosts
        self.loads = loads
        self.rules = rules
    }
}

/// What should be done, one after the other, and what comes of it.
public struct RebalancePlan: Hashable, Sendable {
    public enum Move: Hashable, Sendable {
        /// These slots, ascending, in one migration.
        case slots([Slot], from: GroupID, to: GroupID)
        case replica(GroupID, ReplicaID, from: HostID, to: HostID)
        /// Of the preference, which leadership follows.
        case leader(GroupID, from: HostID, to: HostID)
    }

    public enum Reason: String, Hashable, Sendable, CaseIterable, CustomStringConvertible {
        case groupLeaves = "the group is to have no slots"
        case groupIsNew = "the group has no slots yet"
        case groupIsUneven = "a group's load is out of bounds"
        case hostDrains = "the host drains"
        case hostHasNoWeight = "the host has weight 0"
        case zones = "the group's zones are uneven"
        case hostIsFull = "the host has too many bytes"
        case hostIsEmpty = "the other host has too few bytes"
        case leads = "the host leads too much, or the other too little"
        public var description: String { rawValue }
    }

    public struct Step: Hashable, Sendable {
        public var move: Move
        public var reason: Reason
        /// That are written for it, in all replicas that get them.
        public var bytes: UInt64

        public init(move: Move, reason: Reason, bytes: UInt64) {
            self.move = move
            self.reason = reason
            self.bytes = bytes
        }
    }

    /// What a host or a group has.
    public struct Figures: Hashable, Sendable {
        /// Of a host: of all its replicas. Of a group: in one replica.
        public var bytes: UInt64 = 0
        /// Of a host: of the groups that it leads.
        public var operations: UInt64 = 0
        public var replicas = 0
        /// Groups that prefer the host; of a group: 1 if it prefers a replica that stays.
        public var leaders = 0
        /// Of a host: of the groups that it leads.
        public var slots = 0
        public init() {}
    }

    public struct HostChange: Hashable, Sendable {
        public var host: HostID
        public var before: Figures
        public var after: Figures
    }

    public struct GroupChange: Hashable, Sendable {
        public var group: GroupID
        public var before: Figures
        public var after: Figures
    }

    /// What stays out of bounds with all steps done.
    public struct Unreached: Hashable, Sendable {
        public enum Subject: Hashable, Sendable {
            case host(HostID)
            case group(GroupID)
            case zone(String)
            case plan
        }
        public var subject: Subject
        /// What, and why, in words.
        public var why: String
    }

    public var steps: [Step]
    /// Ascending by host; all of them.
    public var hosts: [HostChange]
    /// Ascending by group; all of them.
    public var groups: [GroupChange]
    public var unreached: [Unreached]

    /// - Parameter steps: without figures of hosts and groups, where nobody measured any.
    public init(
        steps: [Step], hosts: [HostChange] = [], groups: [GroupChange] = [], unreached: [Unreached] = []
    ) {
        self.steps = steps
        self.hosts = hosts
        self.groups = groups
        self.unreached = unreached
    }

    /// Of all steps.
    public var bytes: UInt64 { steps.reduce(0) { $0.addingClamped($1.bytes) } }
}

extension Planner {
    /// The steps that bring a cluster into balance, with the fewest bytes that a greedy search finds.
    ///
    /// At the end, and after each step in the order given: no host has two replicas of a group; no group stands in
    /// fewer zones than before, unless there is no host to keep them; no replica comes to a host that drains, has
    /// weight 0, is down, or would have more than its capacity. At the end, as far as there are hosts for it: hosts
    /// that drain or have weight 0 are empty, each group's zones differ by one replica at most, groups with weight 0
    /// have no slots, and bytes, operations and leads are within the rules' bounds. What is within them does not move,
    /// and nothing moves twice. With all steps done, the next plan has none, unless `stepsMax` or `bytesMax` cut this
    /// one short, or some of its steps wait for room.
    ///
    /// Hosts that are down and not to drain keep what they have: they may come back. Groups whose members are changing
    /// keep their replicas until that is done; stopped groups keep their slots.
    ///
    /// O((H + R + S) log (H + G)) for H hosts, R replicas, G groups and S slots, as long as moves find a place at
    /// once, and O(H) for each lead that is passed on. A host that nobody can relieve costs a look at all replicas.
    public static func rebalance(_ input: RebalanceInput) -> RebalancePlan {
        let state = RebalanceState(input)
        var slots = SlotBalance(state)
        slots.settle()
        var replicas = ReplicaBalance(state, groupBytes: slots.bytes)
        replicas.settle()
        let moves = replicas.moves()
        let leads = state.leads(after: moves, operations: slots.load.map(\.operations))
        var schedule = RebalanceSchedule(state)
        return schedule.run(slots: slots, replicas: replicas, moves: moves, leads: leads)
    }
}

/// The input by positions: hosts by zone, then by id; groups by id.
struct RebalanceState {
    enum Kind {
        /// May be given replicas and leads.
        case taking
        /// Drains or has weight 0: is to have nothing.
        case leaving
        /// Is down, and keeps what it has.
        case resting
    }

    struct Member {
        var replica: ReplicaID
        var host: Int
        var votes: Bool
    }

    let rules: RebalanceInput.Rules
    /// Hosts of one zone are neighbours.
    let hosts: [HostRecord]
    let kind: [Kind]
    let zone: [Int]
    /// Positions of the hosts of each zone.
    let zones: [Range<Int>]
    let capacity: [Int]
    let groups: [GroupRecord]
    /// Of each group those that stay, by id.
    let members: [[Member]]
    /// A change of members is under way.
    let isMoving: [Bool]
    /// A replica is on a host that is down, or stays on one that is to be empty: its slots stay, and it gets none.
    let isHindered: [Bool]
    /// Position in `members` of the one that is preferred.
    let leader: [Int?]
    /// Of each slot the group's position; -1: nobody.
    let owner: [Int]
    let slotBytes: [Int]
    let slotOperations: [Int]

    /// Hosts' ids, ascending, with their positions.
    private let places: [(id: HostID, place: Int)]

    init(_ input: RebalanceInput) {
        rules = input.rules
        let map = input.map
        let hosts = map.hosts.sorted { ($0.zone, $0.id) < ($1.zone, $1.id) }
        self.hosts = hosts
        let facts = input.hosts.sorted { $0.host < $1.host }
        var kind: [Kind] = []
        var zone: [Int] = []
        var zones: [Range<Int>] = []
        var capacity: [Int] = []
        for (place, host) in hosts.enumerated() {
            let found = facts.place { $0.host < host.id }
            let known = found < facts.count && facts[found].host == host.id ? facts[found] : nil
            capacity.append(Int(min(known?.capacityBytes ?? .max, 1 << 61)))
            let isLeaving = host.state == .draining || host.weight == 0
            kind.append(isLeaving ? .leaving : known?.isUp ?? true ? .taking : .resting)
            if place > 0, hosts[place - 1].zone == host.zone {
                zones[zones.count - 1] = zones[zones.count - 1].lowerBound..<place + 1
            } else {
                zones.append(place..<place + 1)
            }
            zone.append(zones.count - 1)
        }
        self.kind = kind
        self.zone = zone
        self.zones = zones
        self.capacity = capacity
        let places = hosts.enumerated().map { (id: $0.element.id, place: $0.offset) }.sorted { $0.id < $1.id }
        self.places = places

        groups = map.groups
        var members: [[Member]] = []
        var leader: [Int?] = []
        for group in map.groups {
            var staying: [Member] = []
            for replica in group.replicas where replica.isWanted {
                guard !group.replicas.contains(where: { $0.successorOf == replica.id }) else { continue }
                let place = places[places.place { $0.id < replica.host }].place
                staying.append(
                    Member(
                        replica: replica.id, host: place,
                        votes: replica.role == .voter && replica.membership == .voter))
            }
            leader.append(staying.firstIndex { $0.replica == group.preferredLeader })
            members.append(staying)
        }
        self.members = members
        self.leader = leader
        let isMoving = map.groups.map(\.isMoving)
        self.isMoving = isMoving
        isHindered = zip(members, isMoving).map { members, isMoving in
            members.contains { kind[$0.host] == .resting || isMoving && kind[$0.host] == .leaving }
        }

        var owner = Array(repeating: -1, count: Slot.count)
        for number in owner.indices {
            guard let id = map.ring.owner(of: Slot(UInt16(number))) else { continue }
            let place = map.groups.place { $0.id < id }
            if place < map.groups.count, map.groups[place].id == id { owner[number] = place }
        }
        self.owner = owner
        (slotBytes, slotOperations) = Self.measured(input.loads)
    }

    /// Bytes and operations of each slot.
    private static func measured(_ loads: [RebalanceInput.SlotLoad]) -> (bytes: [Int], operations: [Int]) {
        let most = RebalanceInput.loadMax
        var bytes: [Int?] = Array(repeating: nil, count: Slot.count)
        var operations = bytes
        for load in loads where load.slot.rawValue < UInt16(Slot.count) {
            bytes[Int(load.slot.rawValue)] = Int(min(load.bytes, most))
            operations[Int(load.slot.rawValue)] = Int(min(load.operations, most))
        }
        func filled(_ values: [Int?]) -> [Int] {
            let known = values.compactMap { $0 }
            let mean = known.isEmpty ? 0 : known.reduce(0, +) / known.count
            return values.map { $0 ?? mean }
        }
        return (filled(bytes), filled(operations))
    }
}

/// What is allowed around a share: so many per cent, and `unit` at least. Whatever the per cents are, it ends where no load
/// is, and differences of loads and bounds stay within the type.
func bounds(around share: Double, percent: Int, unit: Double) -> ClosedRange<Int> {
    let slack = max(share * Double(percent) / 100, unit)
    func clamped(_ bound: Double) -> Int { Int(min(max(0, bound), 0x1p61)) }
    return clamped((share - slack).rounded(.down))...clamped((share + slack).rounded(.up))
}

extension ClosedRange<Int> {
    /// By how much a value lies outside.
    func distance(to value: Int) -> Int { Swift.max(0, value - upperBound) + Swift.max(0, lowerBound - value) }
}
