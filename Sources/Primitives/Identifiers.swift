// The words of Bifrost as types: a host is never taken for a group, an index never for a revision.

/// A number with a meaning of its own. Ordered and hashed as its raw value.
public protocol Identifier: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible
where RawValue: FixedWidthInteger & UnsignedInteger & Sendable {
    init(rawValue: RawValue)
}

extension Identifier {
    @inlinable public init(_ rawValue: RawValue) { self.init(rawValue: rawValue) }
    @inlinable public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    public var description: String { "\(rawValue)" }
}

/// One `bifrost serve` process with one data directory. Given by the meta group, never reused. 0 is no host.
public struct HostID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Changes when a host's disk is lost: drawn at random when a data directory is made.
public struct Incarnation: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One Raft group. Never reused.
public struct GroupID: Identifier {
    public var rawValue: UInt32
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Hosts, groups, ring and placement live in group 0, an ordinary Raft group.
    @inlinable public static var meta: GroupID { GroupID(0) }
}

/// One group's member on one host. Never used again after its removal. 0 is no replica.
public struct ReplicaID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var none: ReplicaID { ReplicaID(0) }
}

/// Raft's term. 0 is before the first election.
public struct Term: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: Term { Term(0) }
    @inlinable public var next: Term { Term(rawValue + 1) }
}

/// Position in a group's log. The first entry has index 1; 0 is before the log.
public struct LogIndex: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: LogIndex { LogIndex(0) }
    @inlinable public var next: LogIndex { LogIndex(rawValue + 1) }
    /// The index before; 0 stays 0.
    @inlinable public var previous: LogIndex { LogIndex(rawValue == 0 ? 0 : rawValue - 1) }
    @inlinable public static func + (index: LogIndex, count: Int) -> LogIndex {
        LogIndex(UInt64(Int(index.rawValue) + count))
    }
    /// How many entries lie between: `last - first + 1` counts first...last.
    @inlinable public static func - (left: LogIndex, right: LogIndex) -> Int {
        Int(left.rawValue) - Int(right.rawValue)
    }
}

/// A group's counter of changes to its records. Never falls, also when slots move. Not the same as an index.
public struct Revision: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: Revision { Revision(0) }
    @inlinable public var next: Revision { Revision(rawValue + 1) }
    /// 0 before 0.
    @inlinable public var previous: Revision { Revision(rawValue == 0 ? 0 : rawValue - 1) }
}

/// One move of slots from a group to another. The version of the map that it came with, so a later one has a higher number,
/// and none is used again. 0 is none.
public struct MigrationID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var none: MigrationID { MigrationID(0) }
}

/// One plan of rebalancing that is carried out. Greater than that of every earlier one; 0 is none.
public struct RebalancingID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var none: RebalancingID { RebalancingID(0) }
}

/// Version of the ring, raised by one with each change of ownership.
public struct Epoch: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: Epoch { Epoch(0) }
    @inlinable public var next: Epoch { Epoch(rawValue + 1) }
}

/// A group's elapsed time in milliseconds, as its leaders wrote it into the log. Not a clock's reading.
public struct LogTime: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: LogTime { LogTime(0) }
}

/// A client's identity in a group. 0 is no session: such a command is not protected against being applied twice.
public struct SessionID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var none: SessionID { SessionID(0) }
}

/// Stable number of a sub state machine inside each group's master state machine.
public struct SubMachineNumber: Identifier {
    public var rawValue: UInt16
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }
}

/// One of the ring's 16,384 equal arcs, the unit in which data moves between groups.
/// `Slot.group` (16,384) is no arc: it holds records that belong to the group itself and never move.
public struct Slot: Identifier {
    public var rawValue: UInt16
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }
    @inlinable public static var count: Int { 16_384 }
    @inlinable public static var group: Slot { Slot(16_384) }
}

/// A run's number within a store. Never reused.
public struct RunID: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// The cluster's name for itself: 128 random bits, drawn by `bifrost init`. All zero before that.
public struct ClusterID: Hashable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64
    public init(high: UInt64, low: UInt64) { self.high = high; self.low = low }
    public static let none = ClusterID(high: 0, low: 0)
    /// 32 hexadecimal digits.
    public var description: String { hexadecimal(high) + hexadecimal(low) }
}

/// 16 lower-case hexadecimal digits.
public func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

/// A reading of a monotonic clock, in nanoseconds. The pure modules get it as an argument.
public struct Instant: Identifier {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var zero: Instant { Instant(0) }
    @inlinable public static func + (left: Instant, nanoseconds: UInt64) -> Instant {
        Instant(left.rawValue &+ nanoseconds)
    }
    /// Nanoseconds since `earlier`; 0 when `earlier` is later.
    @inlinable public func since(_ earlier: Instant) -> UInt64 {
        rawValue > earlier.rawValue ? rawValue - earlier.rawValue : 0
    }
}
