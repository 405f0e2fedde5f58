// What each sub machine of a group did in one interval of its log, in a number each: replicas that differ can say in what.
// The rolling digest says that they do. What is summed up here decides nothing, is on no disk, and begins anew with each
// interval.

public import Primitives

/// One sub machine's part in an interval.
public struct MachineDigest: Hashable, Sendable {
    public var machine: SubMachineNumber
    /// Commands of it that raised the group's revision.
    public var changes: UInt64
    /// Over all that it wrote and answered, in any order: the places, indices and revisions are in it.
    public var sum: UInt64

    public init(machine: SubMachineNumber, changes: UInt64, sum: UInt64) {
        self.machine = machine
        self.changes = changes
        self.sum = sum
    }
}

/// What a replica did in an interval that it has applied all of.
public struct IntervalDigests: Hashable, Sendable {
    /// The rolling digest at its beginning.
    public var before: UInt64
    /// Those that did something, ascending by number; at most `machinesMax`.
    public var machines: [MachineDigest]

    public static let machinesMax = 64

    public init(before: UInt64, machines: [MachineDigest]) {
        self.before = before
        self.machines = machines
    }

    public enum Difference: Hashable, Sendable {
        /// They differed at the beginning already, and whatever followed may differ for that.
        case before
        /// In these, ascending; none: in nothing that is summed up by machine.
        case within([SubMachineNumber])
    }

    /// In what two replicas differ whose rolling digests differ at the interval's end.
    public func difference(from other: IntervalDigests) -> Difference {
        guard before == other.before else { return .before }
        let numbers = Set((machines + other.machines).map(\.machine)).sorted()
        func differing(in part: (MachineDigest?) -> UInt64) -> [SubMachineNumber] {
            numbers.filter { part(self[$0]) != part(other[$0]) }
        }
        // A change too many or too few gives all later ones, of all machines, other revisions.
        let changes = differing { $0?.changes ?? 0 }
        return .within(changes.isEmpty ? differing { $0?.sum ?? 0 } : changes)
    }

    private subscript(machine: SubMachineNumber) -> MachineDigest? { machines.first { $0.machine == machine } }
}

/// The interval that a group's state machine is in.
struct MachineDigests: Sendable {
    /// The last entry before it.
    let after: LogIndex
    private let digest: UInt64
    private let revision: Revision
    /// By itself, as nearly all is its.
    private var keyValue: UInt64 = 0
    /// The others, ascending.
    private var others: [MachineDigest] = []
    /// There are more of them than are told apart.
    private var isOverfull = false

    init(after: LogIndex, digest: UInt64, revision: Revision) {
        self.after = after
        self.digest = digest
        self.revision = revision
    }

    mutating func add(_ hash: UInt64, of machine: SubMachineNumber) {
        if machine == .keyValue {
            keyValue &+= hash
        } else {
            note(machine) { $0.sum &+= hash }
        }
    }

    /// A command raised the revision.
    mutating func addChange(of machine: SubMachineNumber) {
        // The key-value machine's are all that no other's are.
        if machine != .keyValue { note(machine) { $0.changes &+= 1 } }
    }

    private mutating func note(_ machine: SubMachineNumber, _ body: (inout MachineDigest) -> Void) {
        let place = others.firstIndex { $0.machine >= machine } ?? others.count
        if place == others.count || others[place].machine != machine {
            guard others.count < IntervalDigests.machinesMax - 1 else { return isOverfull = true }
            others.insert(MachineDigest(machine: machine, changes: 0, sum: 0), at: place)
        }
        body(&others[place])
    }

    /// - Parameter revision: at the end.
    fileprivate func summary(at revision: Revision) -> IntervalDigests? {
        guard !isOverfull else { return nil }
        let changes = others.reduce(revision.rawValue &- self.revision.rawValue) { $0 &- $1.changes }
        let isIdle = changes == 0 && keyValue == 0
        let first = MachineDigest(machine: .keyValue, changes: changes, sum: keyValue)
        return IntervalDigests(before: digest, machines: isIdle ? others : [first] + others)
    }
}

extension MasterStateMachine {
    /// Takes what a sub machine wrote or answered into the digests.
    @inline(__always) mutating func take(_ hash: UInt64, of machine: SubMachineNumber) {
        digest = mix(digest ^ hash)
        interval.add(hash, of: machine)
    }

    /// Ends an interval of so many entries, and begins the next behind the last entry applied.
    ///
    /// - Returns: nil if it began later than that, as in a process that began within it, or too many machines took part.
    public mutating func endInterval(entries: UInt64) -> IntervalDigests? {
        defer { interval = MachineDigests(after: applied, digest: digest, revision: revision) }
        return applied.rawValue &- interval.after.rawValue == entries ? interval.summary(at: revision) : nil
    }
}
