// Where operations live while they are under way: places with generations, waiting lists and deadlines threaded through
// them. Owns memory and order only; what an operation does next is decided in `ClientRouter`.

import Messages
import Primitives

/// One attempt of an operation at a host. A late answer to an earlier attempt has another number and is dropped.
public struct CallID: Hashable, Sendable {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable init(place: Int, generation: UInt32) { rawValue = UInt64(generation) << 32 | UInt64(place) }
    @inlinable var place: Int { Int(truncatingIfNeeded: rawValue & 0xffff_ffff) }
    @inlinable var generation: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 32) }
}

/// An operation from submission to completion, over all its attempts.
public struct OperationHandle: Hashable, Sendable {
    public var rawValue: UInt64
    init(place: Int, serial: UInt32) { rawValue = UInt64(serial) << 32 | UInt64(place) }
    var place: Int { Int(truncatingIfNeeded: rawValue & 0xffff_ffff) }
    var serial: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 32) }
}

enum OperationState: UInt8 {
    case free
    /// In its group's list (or in the list of those without a group).
    case queued
    /// Waits for its own timer.
    case backingOff
    case inFlight
}

/// Which of its group's lists an operation waits in.
enum WaitingLane: UInt8 {
    /// The router's own, and commands that have their number already.
    case numbered
    /// Commands that get their number when they go, and wait for a session or for room in it.
    case unnumbered
    /// Whatever needs no session: reads above all.
    case free
}

/// One place of the table. The links are places too; -1 is none.
struct Operation {
    var payload = Bytes()
    var tag: UInt64 = 0
    var deadline = Instant.zero
    var wake = Instant.zero
    /// Where the call in flight went.
    var host = HostID(0)
    /// The only host that may answer it; 0 if any.
    var pinned = HostID(0)
    /// Of a read that may be stale.
    var boundMilliseconds: UInt32 = 0
    /// Any replica may answer it: `pinned` is the one whose turn it is.
    var isSpread = false
    /// The group that the caller named, if `slot` is `Slot.group`.
    var group = GroupID(0)
    var groupIndex: Int32 = -1
    var callGeneration: UInt32 = 0
    /// The group's, when the call in flight went.
    var candidacy: UInt32 = 0
    var serial: UInt32 = 0
    var bucket: Int32 = -1
    var timerNext: Int32 = -1
    var timerPrevious: Int32 = -1
    var next: Int32 = -1
    var previous: Int32 = -1
    var slot = Slot(0)
    var machine = SubMachineNumber(0)
    var kind = RequestKind.command
    var consistency = Consistency.linearizable
    var state = OperationState.free
    /// In a group's list: in which one, and how many were put in any before it. 0 is before all others.
    var lane = WaitingLane.free
    var arrival: UInt64 = 0
    var reason = WaitReason.none
    /// Back-offs so far, saturating.
    var retries: UInt8 = 0
    /// A command's number in its session of this group; 0: it has none yet.
    var session = SessionID.none
    var sequence: UInt64 = 0
    var sessionGroup = GroupID(0)
    /// Of the first attempt under that number: what is answered to any since is the answer.
    var firstGeneration: UInt32 = 0
    var firstSentAt = Instant.zero
    /// Of its slot, as it was known when it got that number. All attempts carry it: a group that has let go of the slot since
    /// can say of all of them that they will never be done.
    var epoch = Epoch.zero
    /// Queued in none of its group's lists: what is held in its slot has to be taken over first.
    var isParked = false
    /// It was sent, and may have been applied.
    var isUncertain = false
    var purpose = OperationPurpose.caller
    /// When the call in flight went.
    var sentAt = Instant.zero
}

/// A doubly linked list through `next` and `previous`. First in, first out.
struct WaitingList {
    var head: Int32 = -1
    var tail: Int32 = -1
    var count = 0
}

/// What waits in a group.
struct WaitingLists {
    /// By number; the router's own have none, and are before the others.
    var numbered = WaitingList()
    /// First in, first out, as the next.
    var unnumbered = WaitingList()
    var free = WaitingList()

    var count: Int { numbered.count + unnumbered.count + free.count }

    subscript(lane: WaitingLane) -> WaitingList {
        get {
            switch lane {
            case .numbered: numbered
            case .unnumbered: unnumbered
            case .free: free
            }
        }
        set {
            switch lane {
            case .numbered: numbered = newValue
            case .unnumbered: unnumbered = newValue
            case .free: free = newValue
            }
        }
    }
}

/// At most `limit` operations. Taking, giving back, queueing and arming a timer cost O(1); a tick costs what is due.
struct OperationTable {
    private(set) var operations: [Operation] = []
    private var free: [Int32] = []
    private(set) var count = 0
    let limit: Int

    /// One timer per operation, in buckets of `tickNanoseconds`; what lies beyond the last bucket waits there and is
    /// armed again.
    private let tickNanoseconds: UInt64
    private var buckets: [Int32]
    /// All buckets up to this tick have been emptied.
    private var processedTick: UInt64 = 0
    private var hasBegun = false

    /// Buckets of the timer wheel; at 5 ms a tick some ten seconds.
    static let bucketCount = 2_048

    init(limit: Int, tickNanoseconds: UInt64) {
        precondition(limit > 0 && limit < Int(Int32.max) && tickNanoseconds > 0)
        self.limit = limit
        self.tickNanoseconds = tickNanoseconds
        buckets = [Int32](repeating: -1, count: Self.bucketCount)
    }

    subscript(place: Int) -> Operation {
        @inline(__always) get { operations[place] }
        @inline(__always) _modify { yield &operations[place] }
    }

    var isFull: Bool { count >= limit }

    /// A free place, or nil at the limit. Everything but `serial` and `callGeneration` is the caller's to set.
    ///
    /// - Parameter isOwn: of the router itself, which has a few for each group, and must not wait for those that wait for
    ///   it.
    mutating func take(isOwn: Bool = false) -> Int? {
        guard count < limit || isOwn else { return nil }
        count += 1
        let place: Int
        if let last = free.popLast() {
            place = Int(last)
        } else {
            place = operations.count
            operations.append(Operation())
        }
        operations[place].serial &+= 1
        return place
    }

    mutating func release(_ place: Int) {
        precondition(operations[place].state != .free, "an operation completes once")
        disarm(place)
        operations[place].state = .free
        operations[place].payload = Bytes()
        free.append(Int32(truncatingIfNeeded: place))
        count -= 1
    }

    /// The place of a call that is still in flight.
    func place(of call: CallID) -> Int? {
        let place = call.place
        guard place < operations.count, operations[place].state == .inFlight,
            operations[place].callGeneration == call.generation
        else { return nil }
        return place
    }

    /// The place of an operation that was sent again since, and to which an answer to this attempt is as good as one to the
    /// last: a command's under the number that it still has, or the router's own.
    func place(ofEarlier call: CallID) -> Int? {
        let place = call.place
        guard place < operations.count, operations[place].state != .free,
            operations[place].sequence > 0 || !operations[place].purpose.isNumbered,
            // One that was not sent yet has its first attempt before it.
            Int32(bitPattern: call.generation &- operations[place].firstGeneration) >= 0,
            Int32(bitPattern: operations[place].callGeneration &- call.generation) >= 0
        else { return nil }
        return place
    }

    func place(of handle: OperationHandle) -> Int? {
        let place = handle.place
        guard place < operations.count, operations[place].state != .free, operations[place].serial == handle.serial
        else { return nil }
        return place
    }

    // MARK: lists

    mutating func append(_ place: Int, to list: inout WaitingList) {
        let this = Int32(truncatingIfNeeded: place)
        operations[place].previous = list.tail
        operations[place].next = -1
        if list.tail >= 0 { operations[Int(list.tail)].next = this } else { list.head = this }
        list.tail = this
        list.count += 1
    }

    /// Puts it behind those of a list in the order of numbers that have no higher one.
    ///
    /// Cost: the way to its place from the nearer end. Those that come back do so in the order of their numbers or
    /// against it, by and large.
    mutating func insertByNumber(_ place: Int, into list: inout WaitingList) {
        let number = operations[place].sequence
        var (front, back) = (list.head, list.tail)
        while back >= 0, operations[Int(back)].sequence > number {
            // Not -1: what is at `back` or before it has a higher number.
            if operations[Int(front)].sequence > number {
                return insert(place, after: operations[Int(front)].previous, in: &list)
            }
            front = operations[Int(front)].next
            back = operations[Int(back)].previous
        }
        insert(place, after: back, in: &list)
    }

    /// -1: as the first one.
    private mutating func insert(_ place: Int, after previous: Int32, in list: inout WaitingList) {
        let this = Int32(truncatingIfNeeded: place)
        let next = previous >= 0 ? operations[Int(previous)].next : list.head
        operations[place].previous = previous
        operations[place].next = next
        if previous >= 0 { operations[Int(previous)].next = this } else { list.head = this }
        if next >= 0 { operations[Int(next)].previous = this } else { list.tail = this }
        list.count += 1
    }

    /// Takes out the first one of the list whose first one was put there before those of the others.
    mutating func takeOldest(from lists: inout WaitingLists) -> Int? {
        var oldest: Int?
        for head in [lists.numbered.head, lists.unnumbered.head, lists.free.head] where head >= 0 {
            if let known = oldest, operations[known].arrival <= operations[Int(head)].arrival { continue }
            oldest = Int(head)
        }
        guard let oldest else { return nil }
        let lane = operations[oldest].lane
        remove(oldest, from: &lists[lane])
        return oldest
    }

    mutating func remove(_ place: Int, from list: inout WaitingList) {
        let (previous, next) = (operations[place].previous, operations[place].next)
        if previous >= 0 { operations[Int(previous)].next = next } else { list.head = next }
        if next >= 0 { operations[Int(next)].previous = previous } else { list.tail = previous }
        operations[place].previous = -1
        operations[place].next = -1
        list.count -= 1
    }

    // MARK: timers

    /// Rings at `wake`, less than one tick late. Replaces what was armed before.
    mutating func arm(_ place: Int, at wake: Instant, now: Instant) {
        begin(now)
        operations[place].wake = wake
        let rounded = wake.rawValue / tickNanoseconds + (wake.rawValue % tickNanoseconds == 0 ? 0 : 1)
        let due = min(max(rounded, processedTick + 1), processedTick + UInt64(Self.bucketCount))
        let bucket = Int32(truncatingIfNeeded: due % UInt64(Self.bucketCount))
        guard operations[place].bucket != bucket else { return }
        disarm(place)
        let head = buckets[Int(bucket)]
        operations[place].bucket = bucket
        operations[place].timerPrevious = -1
        operations[place].timerNext = head
        if head >= 0 { operations[Int(head)].timerPrevious = Int32(truncatingIfNeeded: place) }
        buckets[Int(bucket)] = Int32(truncatingIfNeeded: place)
    }

    func isArmed(_ place: Int) -> Bool { operations[place].bucket >= 0 }

    mutating func disarm(_ place: Int) {
        let bucket = operations[place].bucket
        guard bucket >= 0 else { return }
        let (previous, next) = (operations[place].timerPrevious, operations[place].timerNext)
        if previous >= 0 { operations[Int(previous)].timerNext = next } else { buckets[Int(bucket)] = next }
        if next >= 0 { operations[Int(next)].timerPrevious = previous }
        operations[place].bucket = -1
        operations[place].timerNext = -1
        operations[place].timerPrevious = -1
    }

    /// Takes all timers that are due out of the wheel and appends their places to `due`, in a fixed order.
    mutating func takeDue(now: Instant, into due: inout [Int]) {
        begin(now)
        let tick = now.rawValue / tickNanoseconds
        guard tick > processedTick else { return }
        let steps = min(tick - processedTick, UInt64(Self.bucketCount))
        let first = processedTick + 1
        processedTick = tick
        for step in 0..<steps {
            let bucket = Int((first + step) % UInt64(Self.bucketCount))
            while buckets[bucket] >= 0 {
                let place = Int(buckets[bucket])
                disarm(place)
                due.append(place)
            }
        }
    }

    /// The wheel begins to turn with the first time that it is told.
    private mutating func begin(_ now: Instant) {
        guard !hasBegun else { return }
        hasBegun = true
        processedTick = now.rawValue / tickNanoseconds
    }
}
