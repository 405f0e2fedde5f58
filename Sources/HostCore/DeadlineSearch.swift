// Where a leader stands in its search for what is due, and what a reader thread looks up for it. Owns no decision: those
// are HostCore's, and the state machine's.

import Messages
public import Primitives
import RaftCore
import StateMachines
public import Storage

/// A leader's search for deadlines that are due.
struct DeadlineWatch {
    /// It is in the host's list of replicas that may have deadlines.
    var isListed = false
    /// No deadline is earlier that was there when the last search began.
    var earliest = LogTime.zero
    /// A search begins here: what is earlier is done, or held back.
    var from = LogTime.zero
    /// It found nothing before this key, and goes on.
    var next: RecordKey?
    var isReading = false
    /// Which search it is: what an earlier one brings is not taken.
    var number: UInt64 = 0
    /// What was proposed last: when it is applied, all up to `last` is done; nil: the first one is still there.
    var proposed: (index: LogIndex, term: Term, last: DeadlineKey?)?
    /// What failed is tried again in this tick.
    var tick: UInt64 = 0
    /// There is something here that was passed over and can be carried out now: the next search goes back to it.
    var back: LogTime?
    var held = HeldDeadlines()
    /// Which look at what is held back it is.
    var heldNumber: UInt64 = 0

    /// Nothing is known of what is there.
    mutating func forget() {
        earliest = .zero
        from = .zero
        next = nil
        isReading = false
        proposed = nil
        tick = 0
        number += 1
        back = nil
        held = HeldDeadlines()
        heldNumber += 1
    }
}

/// Scheduled commands that were due and could not be proposed. The search has passed them over, and never goes back for
/// all of them: a look of its own goes over them again and again, and tells the search where one can be proposed.
struct HeldDeadlines {
    /// There is none before; nil: there is none.
    var first: RecordKey?
    /// The next look, or the next pages of this one, in this tick.
    var tick: UInt64 = 0
    /// A look goes on here.
    var next: RecordKey?
    /// The first one that this look still found held back.
    var found: RecordKey?
    var isReading = false
    /// Pages that it may read until `tick`.
    var pagesLeft = 0
    /// The host's log has been told.
    var isTold = false

    mutating func add(_ key: RecordKey) {
        first = first.map { min($0, key) } ?? key
        if isReading || next != nil { found = found.map { min($0, key) } ?? key }
    }
}

/// The first deadlines of a group, for a reader thread; answered by `HostCore.deadlinesRead`.
public struct DeadlineRead: Sendable {
    public var group: GroupID
    package var replica: ReplicaID
    package var number: UInt64
    package var purpose: Purpose
    package var from: RecordKey
    package var live: RecordPage
    package var view: StoreView

    package enum Purpose: Sendable {
        case search
        /// It looks at what is held back.
        case held
        /// What is due was found, and some of it are sweeps: what these delete next is read.
        case sweeps([SweepRead], CarriedDeadlines)
    }

    package var isOfHeld: Bool { if case .held = purpose { true } else { false } }

    /// Reads them. Any thread.
    public func result<D: Disk>(from store: Store<D>) throws -> DeadlineReadResult {
        if case .sweeps(let reads, _) = purpose {
            var swept: [RecordPage] = []
            var bytesLeft = Self.sweptBytesMax
            for read in reads where bytesLeft > 0 {
                let page = try read.page(from: store, in: view)
                bytesLeft -= page.keyAndValueBytes
                swept.append(page)
            }
            return DeadlineReadResult(read: self, records: [], next: nil, swept: swept)
        }
        let cold = try store.page(
            in: view, from: from, end: Self.end, recordsMax: Self.recordsMax, bytesMax: Self.bytesMax, tombstones: true)
        let page = RecordPage.overlaid(newer: live, older: cold)
        return DeadlineReadResult(read: self, records: page.records, next: page.next)
    }

    /// One more than go into one command, so that the next one's time is known.
    package static var recordsMax: Int { dueMax + 1 }
    /// In one command: the records are fetched for it, values and all.
    package static var dueMax: Int { 64 }
    package static var bytesMax: Int { 128 << 10 }
    /// Of keys and values that are read for one command's sweeps, in memory and then on disk: none is begun beyond.
    package static var sweptBytesMax: Int { 1 << 20 }
    /// Behind all deadlines.
    package static var end: RecordKey {
        RecordKey(slot: .group, machine: SubMachineNumber(SubMachineNumber.deadlines.rawValue + 1), key: Bytes())
    }
}

/// Those that go into the log together, in the order of their times.
package struct DueDeadlines: Sendable {
    /// With the first deadline in each.
    private(set) var commands: [(first: DeadlineKey, command: DeadlineCommand)] = []
    private(set) var sweeps: [(deadline: DeadlineKey, sweep: Sweep)] = []
    /// Of all of them, ascending.
    private(set) var keys: [DeadlineKey] = []
    private var keyBytes = 0

    var isEmpty: Bool { keys.isEmpty }
    private var count: Int { keys.count }

    /// False: there is no room for it.
    mutating func take(_ deadline: Deadline) -> Bool {
        guard count < DeadlineRead.dueMax else { return false }
        switch deadline.purpose {
        case .record(let place):
            guard count == 0 || keyBytes + place.key.count <= DeadlineCommand.keyBytesMax else { return false }
            keyBytes += place.key.count
            let ending = DeadlineCommand.Ending(deadline.key, place)
            if case .end(let endings)? = commands.last?.command {
                commands[commands.count - 1].command = .end(endings + [ending])
            } else {
                commands.append((deadline.key, .end([ending])))
            }
        case .command: commands.append((deadline.key, .fire(deadline.key)))
        case .sweep(let sweep): sweeps.append((deadline.key, sweep))
        }
        keys.append(deadline.key)
        return true
    }
}

/// How much of what is due is on its way.
package struct CarriedDeadlines: Sendable {
    /// Of all that is due, ascending.
    private let keys: [DeadlineKey]
    /// The first one that is not on its way.
    private var left: DeadlineKey?
    /// What was proposed last; nil: nothing was.
    var last: (index: LogIndex, term: Term)?

    init(_ keys: [DeadlineKey]) { self.keys = keys }

    /// It and all behind it are looked for again.
    mutating func leave(_ key: DeadlineKey) {
        if isCarried(key) { left = key }
    }

    func isCarried(_ key: DeadlineKey) -> Bool { left.map { key.key < $0.key } ?? true }

    /// Up to here all is; nil: the first one is not.
    var through: DeadlineKey? { keys.last { isCarried($0) } }
}

/// The next records of a sweep.
package struct SweepRead: Sendable {
    var deadline: DeadlineKey
    var sweep: Sweep
    var end: RecordKey
    var live: RecordPage
    var recordsMax: Int
    /// Of keys and values.
    var bytesMax: Int

    var from: RecordKey { RecordKey(slot: sweep.slot, machine: sweep.machine, key: sweep.from) }

    /// Copied out of memory.
    package var liveBytes: Int { live.keyAndValueBytes }

    func page<D: Disk>(from store: Store<D>, in view: StoreView) throws -> RecordPage {
        let cold = try store.page(
            in: view, from: from, end: end, recordsMax: recordsMax,
            bytesMax: bytesMax, tombstones: true)
        return RecordPage.overlaid(newer: live, older: cold)
    }
}

/// What a `DeadlineRead` found.
public struct DeadlineReadResult: Sendable {
    package var read: DeadlineRead
    package var records: [Record]
    package var next: RecordKey?
    /// Of each sweep, as far as there was room.
    package var swept: [RecordPage] = []
}

extension RecordPage {
    package var keyAndValueBytes: Int { records.reduce(0) { $0 + $1.key.key.count + ($1.value?.count ?? 0) } }
}
